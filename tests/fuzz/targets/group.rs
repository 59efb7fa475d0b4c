//! What a group's authority and its nodes sign, and what members say of it: what is read is written back as it was, and
//! nobody is let in but by a certificate of the authority for its own key.
//!
//! Input: what it is (0 a certificate, 1 a list, 2 a document, 3 a request, 4 an authority, else messages), and the bytes;
//! of messages, each behind its length u16.

use std::sync::LazyLock;
use std::time::Duration;

use ipop_common::cursor::Cursor;
use ipop_overlay::dht::SigningKey;
use ipop_overlay::group::document::Document;
use ipop_overlay::group::request::Request;
use ipop_overlay::group::{Authority, AuthorityKey, Grant, Label, Member, RevocationList, Serial, Validity};
use ipop_overlay::routes::Subnet;
use ipop_overlay::{
    Command, Config, Credentials, Endpoint, Instant, NetworkKey, Node, Output, PeerConfig, PeerId,
};
use x25519_dalek::StaticSecret;

pub(crate) const NOW: u64 = 1_790_000_000;
/// Of the node, and of its peer.
pub(crate) const OWN: [u8; 32] = [1; 32];
pub(crate) const OTHER: [u8; 32] = [2; 32];
const PEER: PeerId = PeerId(0);
/// The longest thing that is asked for, in parts, and a certificate for each message.
const SAID_MAX: usize = 64;

/// A group and all that it has signed.
pub(crate) struct World {
    pub(crate) key: AuthorityKey,
    pub(crate) name: Label,
    pub(crate) authority: Authority,
}

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (key, name) = (AuthorityKey::from_seed(&[7; 32]), Label::new("lab").expect("a name"));
    let validity = Validity { not_before: NOW - 1000, not_after: NOW + 1_000_000 };
    let der = key.certify(&name, Serial::from_random([1; 16]), validity).expect("a certificate");
    let authority = Authority::parse(&der).expect("an authority");
    World { key, name, authority }
});

impl World {
    pub(crate) fn certificate(&self, public_key: [u8; 32], serial: u8) -> Vec<u8> {
        let net = Subnet::new("10.128.0.0".parse().expect("an address"), 16).expect("a prefix");
        let label = |text| Label::new(text).expect("a name");
        let grant = Grant {
            public_key,
            node: label("alpha"),
            user: Some(label("alice")),
            tags: vec![label("db"), label("web")],
            nets: vec![net],
        };
        let validity = Validity { not_before: NOW - 300, not_after: NOW + 3600 };
        grant
            .issue(&self.key, &self.name, Serial::from_random([serial; 16]), validity)
            .expect("a certificate")
    }

    pub(crate) fn list(&self, number: u64, serials: &[u8]) -> Vec<u8> {
        let revoked = serials.iter().map(|serial| (Serial::from_random([*serial; 16]), NOW)).collect();
        RevocationList { number, issued: NOW, revoked }.issue(&self.key, &self.name).expect("a list")
    }

    pub(crate) fn document(&self, number: u64) -> Vec<u8> {
        Document { number, issued: NOW, content: b"{}".to_vec() }.sign(&self.key).expect("a document")
    }
}

/// By which the requests of the corpus are signed.
pub(crate) fn signing_key() -> SigningKey {
    SigningKey::new(&StaticSecret::from([9; 32]))
}

pub(super) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let world = &*WORLD;
    match kind {
        0 => {
            if let Ok(Member { grant, serial, validity }) = Member::open(bytes, &world.authority) {
                let again = grant.issue(&world.key, &world.name, serial, validity);
                assert_eq!(again.expect("what was read can be written"), bytes);
            }
        }
        1 => {
            if let Ok(list) = RevocationList::open(bytes, &world.authority) {
                assert_eq!(list.issue(&world.key, &world.name).expect("what was read can be written"), bytes);
            }
        }
        2 => {
            if let Some(document) = Document::open(bytes, &world.authority) {
                assert_eq!(document.sign(&world.key).expect("what was read can be written"), bytes);
            }
        }
        3 => {
            let key = signing_key();
            if let Ok(Request { purpose, time_ms, public_key, place, body }) = Request::open(bytes)
                && public_key == key.public_key()
            {
                let again = Request::sign(purpose, time_ms, &place, &body, &key);
                assert_eq!(again.expect("what was read can be written"), bytes);
            }
        }
        4 => {
            if let Ok(authority) = Authority::parse(bytes) {
                assert_eq!(authority.der(), bytes);
            }
        }
        _ => {
            lets_in(bytes);
        }
    }
}

/// A member hears these from a peer with a session; whether that one is let in.
pub(crate) fn lets_in(mut tape: &[u8]) -> bool {
    let (world, mut is_let_in) = (&*WORLD, false);
    let mut now = Instant::from_nanos(5);
    let mut node = member(world, now);
    while let Some(len) = tape.bytes::<2>(0).map(|len| usize::from(u16::from_be_bytes(len))) {
        let rest = tape.get(2..).unwrap_or_default();
        let (message, after) = rest.split_at(len.min(rest.len()));
        tape = after;
        now = now.after(Duration::from_millis(100));
        let was_admitted = node.is_admitted(PEER);
        // Whatever is refused has a counter.
        let _ = node.handle_message(PEER, message, now);
        let mut said = 0;
        while let Some(output) = node.poll_output() {
            match output {
                Output::Say { .. } => said += 1,
                Output::Admitted { peer } => {
                    let member = node.member(peer).expect("who is admitted is a member");
                    assert_eq!(member.grant.public_key, OTHER, "by the certificate of another");
                    is_let_in = true;
                }
                Output::Addresses { .. } | Output::Link { .. } | Output::Carried { .. } => {
                    assert!(was_admitted, "heard before it was let in");
                }
                Output::Signed { kind, bytes } => assert_eq!(node.signed_for_all(kind), Some(&bytes[..])),
                _ => {}
            }
        }
        assert!(said <= SAID_MAX, "{said} messages for one");
    }
    is_let_in
}

fn member(world: &World, now: Instant) -> Node {
    let place: std::net::SocketAddr = "192.0.2.2:15000".parse().expect("an address");
    let config = Config {
        public_key: OWN,
        network: NetworkKey::derive("lab", b"a secret of all members"),
        peers: vec![PeerConfig { public_key: OTHER, endpoint: Some(Endpoint::Udp(place)), is_found: true }],
        trusted: Vec::new(),
        mtu_max: u16::MAX,
        boot: 1,
        lease: Duration::from_secs(30),
    };
    let mut node = Node::new(&config, 7, now).expect("a node");
    node.join(Box::new(|bytes: &mut [u8]| bytes.fill(3)), now);
    let credentials = Credentials {
        authority: world.authority.clone(),
        certificate: world.certificate(OWN, 2),
        list: world.list(1, &[]),
        document: world.document(1),
    };
    node.set_credentials(&credentials, NOW * 1000, now).expect("what belongs together");
    node.handle_command(Command::Session { peer: PEER, local_index: Some(1) }, now);
    while node.poll_output().is_some() {}
    node
}
