//! `docs/wire-format.md` and the code say the same. The vectors, tables and numbers are read out of
//! the document, byte by byte, and held against what the code writes; one that is no longer there is
//! a failure. What the formats mean is tested elsewhere.
//!
//! What the other documents name is there: counters, source files, tests, the times of sessions, and what
//! their links lead to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ipop_common::encapsulation::{
    Form, Underlay, V4_LEN, V6_LEN, overhead, write_template, write_v4, write_v6,
};
use ipop_common::gpe::{self, LinkId, NextProtocol};
use ipop_common::hello::{self, Hello};
use ipop_common::maps::Link;
use ipop_common::wireguard::{self, CookieReply, Initiation, Response, TransportHeader};
use ipop_common::{Address, Counter, Family};
use ipop_overlay::NetworkKey;
use ipop_overlay::routes::{Announcement, SUBNETS_MAX, Subnet, name_of_network};
use ipop_overlay::session::Timers;
use ipop_user::key::PublicKey;
use ipop_user::token::{Member, Token};

const DOCUMENT: &str = include_str!("../../docs/wire-format.md");
const SECURITY: &str = include_str!("../../docs/security.md");
const OTHERS: [&str; 4] = [
    SECURITY,
    include_str!("../../docs/operations.md"),
    include_str!("../../README.md"),
    include_str!("../../ARCHITECTURE.md"),
];

/// What stands under a heading of `docs/wire-format.md`.
fn section(heading: &str) -> &'static str {
    section_of(DOCUMENT, heading)
}

/// What stands under a heading, up to the next one of its level or above.
fn section_of(document: &'static str, heading: &str) -> &'static str {
    let level = heading.split(' ').next().expect("a heading begins with #");
    let start = document.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let body = &document[start + 1 + heading.len()..];
    let ends = (1..=level.len()).filter_map(|level| body.find(&format!("\n{} ", "#".repeat(level))));
    &body[..ends.min().unwrap_or(body.len())]
}

/// The cells of a table's rows, without its head.
fn rows(section: &str) -> Vec<Vec<&str>> {
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The second cell of the row whose first cell is `name`.
fn cell<'a>(rows: &[Vec<&'a str>], name: &str) -> &'a str {
    let row = rows.iter().find(|row| row[0] == name);
    row.unwrap_or_else(|| panic!("the document has no row {name:?}"))[1]
}

/// Bytes written as pairs of hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.split_whitespace();
    pairs.map(|pair| u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2)).collect()
}

/// The blocks of a section that hold nothing but bytes.
fn vectors(section: &str) -> Vec<Vec<u8>> {
    section.split("```").skip(1).step_by(2).filter_map(bytes).collect()
}

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let found = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    found.unwrap_or_else(|| panic!("the document no longer says {before:?} .. {after:?}")).0
}

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

#[test]
fn the_clear_header_is_the_documented_vector() {
    let sentence = between(section("## Clear frame"), "Golden vector: link id ", "`.");
    let (values, vector) = sentence.split_once(": `").expect("values and bytes");
    let (link_id, family) = values.split_once(", ").expect("link id and next protocol");
    let next_protocol = match family {
        "IPv4" => NextProtocol::Ipv4,
        "IPv6" => NextProtocol::Ipv6,
        other => panic!("{other} is no next protocol"),
    };
    let link_id = LinkId::new(u32::try_from(number(link_id)).expect("24 bits")).expect("a link id");
    let header = gpe::Header { link_id, next_protocol };
    let vector = bytes(vector).expect("bytes");
    assert_eq!(header.to_bytes()[..], vector);
    assert_eq!(gpe::Header::parse(&vector[..], 0), Ok(header));
}

#[test]
fn the_first_bytes_are_those_of_the_messages() {
    let rows = rows(section("## What comes to the daemon's UDP port"));
    let first_bytes = |what: &str| {
        let row = rows.iter().find(|row| row[1] == what).unwrap_or_else(|| panic!("no row {what:?}"));
        bytes(between(row[0], "`", "`")).expect("bytes")
    };
    let header =
        gpe::Header { link_id: LinkId::new(1).expect("a link id"), next_protocol: NextProtocol::Ipv4 };
    assert!(header.to_bytes().starts_with(&first_bytes("clear frame")));
}

/// A field of the hello: where it is, and what it is called up to its explanation.
#[derive(Debug)]
struct Field {
    offset: usize,
    size: usize,
    name: &'static str,
}

fn fields() -> Vec<Field> {
    rows(section("## Hello"))
        .iter()
        .map(|row| Field {
            offset: number(row[0]) as usize,
            size: number(row[1]) as usize,
            name: row[2].split([':', ',']).next().expect("a name").trim_end_matches(" in the low 24 bits"),
        })
        .collect()
}

/// The vector of the hello, understood by the document's table, and its bytes.
fn documented_hello() -> (Hello, Vec<u8>) {
    let vectors = vectors(section("## Hello"));
    let [vector] = &vectors[..] else { panic!("{} vectors of the hello", vectors.len()) };
    let value = |field: &Field| {
        let bytes = &vector[field.offset..field.offset + field.size];
        bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let body = fields().into_iter().filter(|field| field.offset < vector.len());
    let values: BTreeMap<&str, u64> = body.map(|field| (field.name, value(&field))).collect();
    let of = |name: &str| *values.get(name).unwrap_or_else(|| panic!("no field {name:?}: {values:?}"));
    let short = |name: &str| u16::try_from(of(name)).expect("two bytes");
    let hello = Hello {
        clear: LinkId::new(u32::try_from(of("clear link id")).expect("four bytes")),
        boot: of("boot"),
        sent_ns: of("sent"),
        echo_boot: of("echo boot"),
        echo_sent_ns: of("echo sent"),
        echo_delay_ns: of("echo delay"),
        kernel_port: short("kernel port"),
        lease_s: short("lease"),
        mtu: short("largest inner packet that the sender's end of the wire takes in a clear frame"),
        answer: of("flags") & 1 != 0,
    };
    (hello, vector.clone())
}

#[test]
fn the_hello_is_the_documented_vector() {
    let (hello, vector) = documented_hello();
    assert_eq!(hello.to_bytes()[..], vector);
    assert_eq!(Hello::parse(&vector), Some(hello));
    // A vector in which a field is zero, or two are equal, would not show that they are in place.
    let mut values: Vec<&[u8]> = fields()
        .into_iter()
        .filter(|field| (8..54).contains(&field.offset))
        .map(|field| &vector[field.offset..field.offset + field.size])
        .collect();
    let fields = values.len();
    assert!(hello.answer && values.iter().all(|value| value.iter().any(|byte| *byte != 0)));
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), fields);
}

#[test]
fn an_announcement_of_subnets_is_the_documented_vector() {
    let section = section("### Subnets");
    let vectors = vectors(section);
    let [vector] = &vectors[..] else { panic!("{} vectors of an announcement", vectors.len()) };
    let subnet = |text: &str| {
        let prefix: ipop_user::config::Prefix = text.parse().expect("a prefix");
        Subnet::new(prefix.addr(), prefix.len()).expect("a length that an address has")
    };
    let values = between(section, "Golden vector, priority ", ":\n");
    let (priority, subnets) = values.split_once(", ").expect("a priority and subnets");
    let announcement = Announcement {
        priority: u8::try_from(number(priority)).expect("a byte"),
        subnets: subnets.split(" and ").map(|text| subnet(text.trim_matches('`'))).collect(),
    };
    assert_eq!(&announcement.to_bytes(), vector);
    assert_eq!(Announcement::parse(vector), Some(announcement));
    let rows = rows(section);
    let of =
        |offset: &str| rows.iter().find(|row| row[0] == offset).unwrap_or_else(|| panic!("no {offset}"))[2];
    assert_eq!(number(between(of("2"), "how many subnets, ", " at most")), SUBNETS_MAX as u64);
    let name = String::from_utf8(name_of_network("lab")).expect("a text");
    assert!(section.contains(&format!("`{}`", name.replace("lab", "NETWORK"))));
}

#[test]
fn the_fields_of_the_hello_fill_it() {
    let fields = fields();
    let mut end = 0;
    for field in &fields {
        assert_eq!(field.offset, end, "{field:?}");
        end += field.size;
    }
    assert_eq!(end, hello::LEN);
    let stated = between(section("## Hello"), "\n\n", " bytes:");
    assert_eq!(number(stated), hello::LEN as u64);
}

/// Holds a table of fields against a message: the fields fill it, each byte of a field named in
/// `values` has that value, and the first field is the type.
fn assert_is_the_table_of(heading: &str, message: &[u8], values: &[(&str, u8)]) {
    let mut end = 0;
    for row in rows(section(heading)) {
        let (offset, size) = (number(row[0]) as usize, number(row[1]) as usize);
        assert_eq!(offset, end, "{heading}: {row:?}");
        end += size;
        let field = &message[offset..end];
        if offset == 0 {
            assert_eq!(bytes(row[2].trim_matches('`')).expect("bytes"), field, "{heading}");
            continue;
        }
        let name = row[2].split(':').next().expect("a name");
        let value = values.iter().find(|(named, _)| *named == name);
        let (_, value) = value.unwrap_or_else(|| panic!("{heading} has no {name:?}"));
        assert_eq!(field, vec![*value; size], "{heading}: {name}");
    }
    assert_eq!(end, message.len(), "{heading}");
    assert_eq!(rows(section(heading)).len(), values.len() + 1, "{heading}");
}

#[test]
fn wireguard_messages_are_the_documented_tables() {
    let index = |byte: u8| u32::from_le_bytes([byte; 4]);
    let initiation = Initiation {
        sender: index(1),
        ephemeral: [2; 32],
        sealed_static: [3; 48],
        sealed_timestamp: [4; 28],
        mac1: [5; 16],
        mac2: [6; 16],
    };
    let names = ["sender", "ephemeral", "sealed static", "sealed timestamp", "mac1", "mac2"];
    let values: Vec<_> = names.into_iter().zip(1..).collect();
    assert_is_the_table_of("### Initiation", &initiation.to_bytes(), &values);

    let response = Response {
        sender: index(1),
        receiver: index(2),
        ephemeral: [3; 32],
        sealed_nothing: [4; 16],
        mac1: [5; 16],
        mac2: [6; 16],
    };
    let names = ["sender", "receiver", "ephemeral", "sealed nothing", "mac1", "mac2"];
    let values: Vec<_> = names.into_iter().zip(1..).collect();
    assert_is_the_table_of("### Response", &response.to_bytes(), &values);

    let reply = CookieReply { receiver: index(1), nonce: [2; 24], sealed_cookie: [3; 32] };
    let values = [("receiver", 1), ("nonce", 2), ("sealed cookie", 3)];
    assert_is_the_table_of("### Cookie reply", &reply.to_bytes(), &values);

    let header = TransportHeader { receiver: index(1), counter: u64::from_le_bytes([2; 8]) };
    assert_is_the_table_of("### Transport", &header.to_bytes(), &[("receiver", 1), ("counter", 2)]);

    for (heading, len) in [
        ("### Initiation", wireguard::INITIATION_LEN),
        ("### Response", wireguard::RESPONSE_LEN),
        ("### Cookie reply", wireguard::COOKIE_REPLY_LEN),
    ] {
        assert_eq!(number(between(section(heading), "\n\n", " bytes.")), len as u64, "{heading}");
    }
}

#[test]
fn the_network_psk_and_the_slots_are_the_documented_ones() {
    let text = section("### Macs, cookies, indices");
    let secret = between(text, "the network psk of the secret `", "`");
    assert_eq!(vectors(text), [ipop_overlay::session::network_psk(secret.as_bytes()).to_vec()]);
    assert!(text.contains("info = \"ipop network psk v1\""));
    let slot_bits = number(between(text, "The low ", " bits of an index"));
    assert_eq!(slot_bits, u64::from(ipop_overlay::session::SLOT_BITS));
}

/// Both outer headers of a packet of 100 bytes, from the source port of flow hash `flow`.
fn outer_headers(flow: u32, port: u16) -> ([u8; V4_LEN], [u8; V6_LEN]) {
    let link = |local: &str, peer: &str| {
        let mut link = Link::EMPTY;
        let underlay = Underlay {
            source_mac: [2; 6],
            next_hop_mac: [4; 6],
            local: Address::from(local.parse::<std::net::IpAddr>().expect("an address")),
            peer: (peer.parse::<std::net::IpAddr>().expect("an address"), port).into(),
            form: Form::Clear(LinkId::new(7).expect("a link id")),
        };
        write_template(&mut link, &underlay);
        link
    };
    let source_port = ipop_common::encapsulation::source_port(flow);
    let (mut v4, mut v6) = ([0xaa; V4_LEN], [0xaa; V6_LEN]);
    write_v4(&mut v4, &link("192.0.2.1", "192.0.2.2"), Family::V4, 100, source_port);
    write_v6(&mut v6, &link("2001:db8::1", "2001:db8::2"), Family::V6, 100, source_port);
    (v4, v6)
}

#[test]
fn the_outer_headers_have_the_documented_values() {
    let rows = rows(section("### Outer headers of the kernel path"));
    let port = u16::try_from(number(cell(&rows, "UDP destination port"))).expect("a port");
    assert_eq!(port, ipop_common::limits::KERNEL_PORT);
    let hops = number(cell(&rows, "TTL, hop limit")) as u8;
    let first_port = number(between(cell(&rows, "UDP source port"), "", " + 14 bits")) as u16;
    for flow in [0, 1, 0x3fff, 0x4000, u32::MAX] {
        let (v4, v6) = outer_headers(flow, port);
        assert_eq!((v4[22], v6[21]), (hops, hops));
        for udp in [&v4[34..], &v6[54..]] {
            let field = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
            assert_eq!(field(0), first_port + (flow & 0x3fff) as u16);
            assert_eq!((field(2), field(6)), (port, 0), "destination port and checksum");
        }
        assert_eq!(v4[18..22], [0, 0, 0x40, 0], "identification 0 and DF");
        assert_eq!((v4[15], &v6[14..18]), (0, &[0x60, 0, 0, 0][..]), "DSCP, ECN and flow label");
    }
    for (row, value) in [("IPv4 flags, identification", "DF, 0"), ("DSCP, ECN", "0"), ("UDP checksum", "0")] {
        assert!(cell(&rows, row).starts_with(value), "{row} is {value}");
    }
}

#[test]
fn the_overhead_is_the_documented_one() {
    let text = section("### Outer headers of the kernel path");
    let v4 = number(between(text, "Overhead: ", " bytes over IPv4"));
    let v6 = number(between(text, "bytes over IPv4, ", " over IPv6."));
    assert_eq!((overhead(Family::V4).into(), overhead(Family::V6).into()), (v4, v6));
    let wire = number(between(text, "Ethernet wire of ", " bytes"));
    let inner = between(text, "Ethernet wire of 1500 bytes is ", ".").split_once(" or ").expect("two MTUs");
    assert_eq!((number(inner.0), number(inner.1)), (wire - v4, wire - v6));
}

/// BLAKE2s with a key, of `parts` one after another.
fn keyed(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Blake2sMac::<U32>::new_with_salt_and_personal(key, &[], &[]).expect("a key of 32 bytes");
    parts.iter().for_each(|part| Update::update(&mut mac, part));
    mac.finalize_fixed().into()
}

/// Each formula of the document as a line without spaces.
fn formulas() -> Vec<String> {
    let block = section("## Keys").split("```").nth(1).expect("a block of formulas");
    let mut formulas: Vec<String> = Vec::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let text: String = line.split_whitespace().collect();
        match formulas.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(&text),
            _ => formulas.push(text),
        }
    }
    formulas
}

#[test]
fn link_ids_follow_the_documented_formulas() {
    assert_eq!(
        formulas(),
        [
            "networkkey=BLAKE2s-256(\"ipopnetworkv1\"||u64lengthofthenetwork'sname||name||secret)",
            "linkid=thefirstnon-zero24bits,instepsofthreebytes,of\
             BLAKE2s-256(key=networkkey,\"linkid\"||receiver'spublickey||sender'spublickey)",
        ]
    );
    let (name, secret) = ("demo", b"sixteen letters or more");
    let [receiver, sender] = [[3; 32], [5; 32]];
    let network: [u8; 32] =
        Blake2s256::digest([b"ipop network v1", &4u64.to_be_bytes()[..], name.as_bytes(), secret].concat())
            .into();
    let digest = keyed(&network, &[b"link id", &receiver, &sender]);
    let mut candidates =
        digest.chunks_exact(3).map(|three| u32::from_be_bytes([0, three[0], three[1], three[2]]));
    let link_id = candidates.find(|id| *id != 0).expect("a link id");
    assert_eq!(NetworkKey::derive(name, secret).link_id(&receiver, &sender).value(), link_id);
}

#[test]
fn tokens_are_the_documented_line() {
    let text = section("## Token");
    let line = between(text, "```\n", "\n```");
    let token = Token {
        network: "lab".to_owned(),
        secret: "correct horse battery staple".to_owned().into(),
        inviter: Member {
            name: "alpha".to_owned(),
            public_key: PublicKey::from_bytes([7; 32]),
            addresses: ["10.128.0.1/24", "fd00:128::1/64"].map(|text| text.parse().expect("a prefix")).into(),
            endpoint: Some("192.0.2.7:15000".parse().expect("an endpoint")),
        },
    };
    assert_eq!(*token.encode(), line);
    assert_eq!(Token::decode(line), Ok(token));
    let sizes: Vec<&str> = rows(text).iter().map(|row| row[0]).collect();
    assert_eq!(sizes, ["text", "text", "text", "32", "text", "texts", "8"]);
}

/// What stands in backticks, outside of blocks of code.
fn names(document: &'static str) -> impl Iterator<Item = &'static str> {
    let prose = document.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2))
}

#[test]
fn counters_that_documents_name_exist() {
    let known: Vec<&str> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    let named = OTHERS.into_iter().chain([DOCUMENT]).flat_map(names);
    let named: Vec<&str> = named.filter(|name| name.starts_with("rx_") || name.starts_with("tx_")).collect();
    assert!(named.len() > 40, "{named:?}");
    let wrong: Vec<_> = named.into_iter().filter(|name| !known.contains(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn source_files_and_tests_that_the_security_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_file = |name: &&str| name.contains('/') && name.ends_with(".rs");
    let files: Vec<&str> = names(SECURITY).filter(is_file).collect();
    assert!(files.len() > 10, "{files:?}");
    let wrong: Vec<_> = files.into_iter().filter(|name| !root.join(name).is_file()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let of_tests = [
        "ipop-common/src/session/tests.rs",
        "ipop-group/tests/server/crashes.rs",
        "ipop-group/tests/server/machines.rs",
        "ipop-group/tests/server/programs.rs",
        "ipop-overlay/src/node/tests/admission.rs",
        "tests/netns/group.rs",
        "tests/netns/sealed.rs",
    ];
    let of_tests = of_tests.map(|file| fs::read_to_string(root.join(file)).expect("a file of tests"));
    let is_sentence = |name: &&str| name.matches('_').count() > 4 && !name.contains(['.', '/', ':']);
    let tests: Vec<&str> = names(SECURITY).filter(is_sentence).collect();
    assert!(tests.len() > 2, "{tests:?}");
    for test in tests {
        assert!(of_tests.iter().any(|text| text.contains(&format!("fn {test}("))), "no test {test}");
    }
}

/// All of the repository's own documents.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files =
        [".", "docs", "docs/decisions"].map(|folder| fs::read_dir(root.join(folder)).expect("a folder"));
    let files = files.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The anchor that a heading gets where documents are shown as pages.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let (mut followed, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            followed += 1;
            let target =
                if file.is_empty() { document.clone() } else { document.with_file_name("").join(file) };
            let leads = match fs::read_to_string(&target) {
                Ok(text) if !heading.is_empty() => {
                    text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
                }
                _ => target.exists(),
            };
            if !leads {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(followed > 20, "only {followed} links");
}

#[test]
fn sessions_last_as_long_as_the_security_page_says() {
    let timers = Timers::WIREGUARD;
    let lines: Vec<&str> = rows(section_of(SECURITY, "## Keys")).iter().map(|row| row[0]).collect();
    assert_eq!(timers.rekey_after_messages, 1 << 60);
    assert_eq!(timers.reject_after_messages, u64::MAX - (1 << 13));
    for line in [
        format!("{} s", timers.rekey_after.as_secs()),
        "2^60 packets".to_owned(),
        format!("{} s", timers.reject_after.as_secs()),
        "2^64 - 2^13 packets".to_owned(),
    ] {
        assert!(lines.contains(&line.as_str()), "no line {line} in {lines:?}");
    }
}
