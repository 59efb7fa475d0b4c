//! The messages, byte by byte. The golden vectors are those of docs/wire-format.md.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::wire::*;
use super::{address, coordinates, roles};
use crate::address::NodeAddress;

const DOCUMENT: &str = include_str!("../../../../docs/wire-format.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same, of a golden vector: docs/wire-format.md has it too.
fn documented(bytes: &[u8]) -> String {
    let text: String = DOCUMENT.chars().filter(|c| !c.is_whitespace()).collect();
    assert!(text.contains(&hex(bytes)), "not in the document: {}", hex(bytes));
    hex(bytes)
}

fn node(byte: u8) -> NodeAddress {
    NodeAddress([byte; 20])
}

fn at() -> Coordinates {
    Coordinates { x: 1000, y: -2, height: 300 }
}

/// The 20 bytes of `node`.
fn twenty(byte: u8) -> String {
    hex(&[byte; 20])
}

#[test]
fn golden_vector_of_a_beat() {
    let beat = Beat {
        wants_answer: true,
        answers: false,
        is_open: false,
        roles: Roles::NEAR.with(Roles::DEMAND),
        stamp: 0x0102_0304,
        echo: 0x1112_1314,
        digest: 0x2122_2324,
    };
    assert_eq!(documented(&beat.to_bytes()), "02011100010203041112131421222324");
    assert_eq!(Beat::parse(&beat.to_bytes()), Some(beat));
}

#[test]
fn golden_vectors_of_a_relay() {
    let ask = AskRelay { to: node(0x22) };
    assert_eq!(documented(&ask.to_bytes()), format!("09000000{}{}", twenty(0x22), "00".repeat(8)));
    assert_eq!(AskRelay::parse(&ask.to_bytes()), Some(ask));
    let relay = Relay {
        status: RelayStatus::Granted,
        label: 0x0102_0304,
        to: node(0x22),
        rtt_us: 0x0a0b,
        mtu: 0x05b8,
    };
    assert_eq!(documented(&relay.to_bytes()), format!("0a0005b801020304{}00000a0b", twenty(0x22)));
    assert_eq!(Relay::parse(&relay.to_bytes()), Some(relay));
}

#[test]
fn golden_vectors_of_groups() {
    let group = Group { kind: 1, address: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xe0\x00\x00\xfb" };
    let address = "00000000000000000000ffffe00000fb";
    for (word, number) in
        [(GroupWord::Join, 0), (GroupWord::Leave, 1), (GroupWord::Joined, 2), (GroupWord::Full, 3)]
    {
        let message = GroupMessage { word, group };
        assert_eq!(documented(&message.to_bytes()), format!("0b010{number}0100000000{address}"));
        assert_eq!(GroupMessage::parse(&message.to_bytes()), Some(message));
    }
    let datagram = Datagram {
        goes_down: true,
        hops: 3,
        group,
        origin: [7; 32],
        number: 0x0102_0304_0506_0708,
        signature: [9; 64],
        frame: b"abc",
    };
    let (origin, signature) = (hex(&[7; 32]), hex(&[9; 64]));
    let head = format!("0c01010300030001{address}{origin}0102030405060708{signature}");
    assert_eq!(documented(&datagram.to_bytes()), format!("{head}616263"));
    assert_eq!(Datagram::parse(&datagram.to_bytes()), Some(datagram));
    assert_eq!(
        hex(&datagram.signed()),
        format!("{}01{address}0102030405060708616263", hex(b"ipop multicast v1"))
    );
    for len in 0..datagram.to_bytes().len() {
        assert_eq!(Datagram::parse(&datagram.to_bytes()[..len]), None, "{len} bytes");
    }
    let too_long = vec![0; FRAME_MAX + 1];
    assert_eq!(Datagram::parse(&Datagram { frame: &too_long, ..datagram }.to_bytes()), None);
}

#[test]
fn golden_vectors_of_where_a_node_is_seen() {
    assert_eq!(documented(&AskSeen.to_bytes()), "07000000");
    let seen = Seen(([198, 51, 100, 7], 15_000).into());
    assert_eq!(documented(&seen.to_bytes()), "0800000004c63364073a98");
    assert_eq!(Seen::parse(&seen.to_bytes()), Some(seen));
}

#[test]
fn golden_vector_of_a_list_of_neighbours() {
    let list = Neighbours {
        wants_answer: true,
        log2_size: 0x0a80,
        coordinates: at(),
        error: 0x4000,
        addresses: vec![node(0x22), node(0x44)],
    };
    let start = "030102000a80000003e8fffffffe0000012c4000";
    assert_eq!(documented(&list.to_bytes()), format!("{start}{}{}", twenty(0x22), twenty(0x44)));
    assert_eq!(Neighbours::parse(&list.to_bytes()), Some(list));
}

#[test]
fn golden_vector_of_a_routed_message() {
    let header = Header {
        mode: Mode::Flanks,
        hops: 3,
        hops_max: 0x0163,
        kind: Kind::Echo,
        went_uphill: true,
        source: node(0x22),
        destination: node(0x44),
        via: Some(node(0x66)),
    };
    let message = header.write(b"abc");
    let ends = format!("{}{}{}", twenty(0x22), twenty(0x44), twenty(0x66));
    assert_eq!(documented(&message), format!("04d2000301630003{ends}616263"));
    assert_eq!(Header::parse(&message), Some((header, &b"abc"[..])));
}

#[test]
fn golden_vector_of_a_request_to_connect() {
    let connect = Connect {
        answers: false,
        wants_relays: true,
        role: Roles::FAR,
        token: 0x0102_0304_0506_0708,
        public_key: [7; 32],
        answer_via: Some(node(0x66)),
        places: Places {
            own: vec!["192.0.2.7:15000".parse().expect("an endpoint")],
            turned: vec!["[fd00::7]:15001".parse().expect("an endpoint")],
        },
        neighbours: vec![(node(0x22), at())],
        relays: vec![node(0x44)],
    };
    let endpoints = String::from("04c00002073a98") + "06fd0000000000000000000000000000073a99";
    let neighbour = twenty(0x22) + "000003e8fffffffe0000012c";
    assert_eq!(
        documented(&connect.to_bytes()),
        format!(
            "020201000102030405060708{}01{}020101{endpoints}{neighbour}{}",
            hex(&[7; 32]),
            twenty(0x66),
            twenty(0x44)
        )
    );
    assert_eq!(Connect::parse(&connect.to_bytes()), Some(connect));
}

#[test]
fn golden_vectors_of_an_echo_and_a_close() {
    let echo = Echo { kind: EchoKind::Answers, hops: 5, token: 0x0102_0304_0506_0708 };
    assert_eq!(documented(&echo.to_bytes()), "010000050102030405060708");
    assert_eq!(Echo::parse(&echo.to_bytes()), Some(echo));
    for (reason, text) in [
        (CloseReason::Leaving, "05010000"),
        (CloseReason::Unused, "05020000"),
        (CloseReason::Full, "05030000"),
    ] {
        assert_eq!(hex(&reason.to_bytes()), text);
        assert_eq!(CloseReason::parse(&reason.to_bytes()), Some(reason));
    }
}

#[test]
fn golden_vectors_of_a_survey() {
    let ask = Survey::Asks(SurveyAsk { page: 1, token: 0x0102_0304_0506_0708 });
    assert_eq!(documented(&ask.to_bytes()[..12]), "000100000102030405060708");
    assert_eq!((ask.to_bytes().len(), &ask.to_bytes()[12..]), (732, &[0; 720][..]));
    let answer = Survey::Answers(SurveyAnswer {
        page: 1,
        total: 33,
        token: 0x0102_0304_0506_0708,
        log2_size: 0x0a80,
        coordinates: at(),
        connections: vec![(node(0x22), Roles::NEAR.with(Roles::DEMAND), Roles::FAR)],
    });
    let head = "0101002101020304050607080a80000003e8fffffffe0000012c0100";
    assert_eq!(documented(&answer.to_bytes()), String::from(head) + &twenty(0x22) + "1102");
    assert_eq!(Survey::parse(&answer.to_bytes()), Some(answer));
}

#[test]
fn a_question_is_as_long_as_the_longest_answer() {
    let ask = Survey::Asks(SurveyAsk { page: 0, token: 1 }).to_bytes();
    for wrong in [&ask[..ask.len() - 1], &[&ask[..], &[0]].concat(), &[&ask[..731], &[1]].concat()] {
        assert_eq!(Survey::parse(wrong), None);
    }
    let connections = vec![(node(0x22), Roles::NONE, Roles::NONE); SURVEY_PAGE + 1];
    let answer = |connections| SurveyAnswer {
        page: 0,
        total: 33,
        token: 1,
        log2_size: 0,
        coordinates: at(),
        connections,
    };
    // No more are written, and no more are read.
    let mut bytes = Survey::Answers(answer(connections)).to_bytes();
    assert_eq!(bytes.len(), ask.len());
    bytes[26] += 1;
    bytes.extend([0; 22]);
    assert_eq!(Survey::parse(&bytes), None);
}

#[test]
fn a_mode_or_kind_that_there_is_not_is_refused() {
    let header = Header {
        mode: Mode::Exact,
        hops: 0,
        hops_max: 16,
        kind: Kind::Echo,
        went_uphill: false,
        source: node(0x22),
        destination: node(0x44),
        via: None,
    };
    let message = header.write(&[]);
    let known = (0..=u8::MAX).filter(|form| {
        let mut message = [&message[..], &[0; 20]].concat();
        message[1] = *form;
        // With a node by way of which it goes it has 20 bytes more, without it 20 too many.
        let len = if form & 0x80 == 0 { ROUTED_LEN } else { ROUTED_VIA_LEN };
        Header::parse(&message[..len]).is_some()
    });
    // Those of one node or two, and those of a part of the ring.
    assert_eq!(known.count(), (5 * 6 + 1) * 4);
}

#[test]
fn payloads_have_a_longest() {
    let header = Header {
        mode: Mode::Exact,
        hops: 0,
        hops_max: 16,
        kind: Kind::Carried,
        went_uphill: false,
        source: node(0x22),
        destination: node(0x44),
        via: None,
    };
    assert!(Header::parse(&header.write(&[1; PAYLOAD_MAX])).is_some());
    assert!(Header::parse(&header.write(&[1; PAYLOAD_MAX + 1])).is_none());
}

/// What a message is read as, written again.
fn rewritten(message: &[u8]) -> Option<Vec<u8>> {
    match *message.first()? {
        BEAT => Beat::parse(message).map(Beat::to_bytes),
        NEIGHBOURS => Neighbours::parse(message).map(|list| list.to_bytes()),
        ROUTED => Header::parse(message).map(|(header, payload)| header.write(payload)),
        CLOSE => CloseReason::parse(message).map(CloseReason::to_bytes),
        ASK_SEEN => AskSeen::parse(message).map(AskSeen::to_bytes),
        SEEN => Seen::parse(message).map(Seen::to_bytes),
        ASK_RELAY => AskRelay::parse(message).map(AskRelay::to_bytes),
        RELAY => Relay::parse(message).map(Relay::to_bytes),
        _ => None,
    }
}

fn endpoint() -> impl Strategy<Value = core::net::SocketAddr> {
    any::<(core::net::IpAddr, u16)>().prop_map(core::net::SocketAddr::from)
}

fn beat() -> impl Strategy<Value = Vec<u8>> {
    (any::<[bool; 3]>(), roles(), any::<[u32; 3]>()).prop_map(
        |([wants_answer, answers, is_open], roles, [stamp, echo, digest])| {
            Beat { wants_answer, answers, is_open, roles, stamp, echo, digest }.to_bytes()
        },
    )
}

fn relay() -> impl Strategy<Value = Vec<u8>> {
    let status = prop_oneof![
        Just(RelayStatus::Granted),
        Just(RelayStatus::NotByThis),
        Just(RelayStatus::NoConnection),
        Just(RelayStatus::TooMany)
    ];
    (status, any::<[u32; 2]>(), any::<u16>(), address())
        .prop_map(|(status, [label, rtt_us], mtu, to)| Relay { status, label, to, rtt_us, mtu }.to_bytes())
}

fn neighbours() -> impl Strategy<Value = Vec<u8>> {
    let addresses = proptest::collection::vec(address(), 0..=NEIGHBOURS_MAX);
    (any::<bool>(), any::<[u16; 2]>(), coordinates(), addresses).prop_map(
        |(wants_answer, [log2_size, error], coordinates, addresses)| {
            Neighbours { wants_answer, log2_size, coordinates, error, addresses }.to_bytes()
        },
    )
}

fn connect() -> impl Strategy<Value = Vec<u8>> {
    let own = proptest::collection::vec(endpoint(), 0..=ENDPOINTS_MAX - TURNED_MAX);
    let turned = proptest::collection::vec(endpoint(), 0..=TURNED_MAX);
    let places = (own, turned).prop_map(|(own, turned)| Places { own, turned });
    let neighbours = proptest::collection::vec((address(), coordinates()), 0..=NEIGHBOURS_MAX);
    let via = proptest::option::of(address());
    let relays = proptest::collection::vec(address(), 0..=RELAYS_MAX);
    (any::<(bool, bool, u64, [u8; 32])>(), roles(), via, places, neighbours, relays).prop_map(
        |((answers, wants_relays, token, public_key), role, answer_via, places, neighbours, relays)| {
            Connect { answers, wants_relays, role, token, public_key, answer_via, places, neighbours, relays }
                .to_bytes()
        },
    )
}

fn survey() -> impl Strategy<Value = Vec<u8>> {
    let ask = any::<(u8, u64)>().prop_map(|(page, token)| Survey::Asks(SurveyAsk { page, token }));
    let connections = proptest::collection::vec((address(), roles(), roles()), 0..=SURVEY_PAGE);
    let answer = (any::<(u8, u16, u64, u16)>(), coordinates(), connections).prop_map(
        |((page, total, token, log2_size), coordinates, connections)| {
            Survey::Answers(SurveyAnswer { page, total, token, log2_size, coordinates, connections })
        },
    );
    prop_oneof![ask, answer].prop_map(|survey| survey.to_bytes())
}

fn routed() -> impl Strategy<Value = Vec<u8>> {
    let mode = prop_oneof![
        Just(Mode::Exact),
        Just(Mode::Nearest),
        Just(Mode::Flanks),
        Just(Mode::Up),
        Just(Mode::Down)
    ];
    let kind = prop_oneof![
        Just(Kind::Connect),
        Just(Kind::Echo),
        Just(Kind::Carried),
        Just(Kind::Claim),
        Just(Kind::Survey),
        Just(Kind::Broadcast)
    ];
    let payload = prop_oneof![connect(), survey(), proptest::collection::vec(any::<u8>(), 0..100)];
    let via = proptest::option::of(address());
    (mode, kind, 0u16..u16::MAX, any::<(u16, bool)>(), address(), address(), via, payload).prop_map(
        |(mode, kind, hops, (more, went_uphill), source, destination, via, payload)| {
            // Only those go together.
            let mode = if kind == Kind::Broadcast { Mode::Part } else { mode };
            let hops_max = hops.saturating_add(more).max(hops + 1);
            Header { mode, hops, hops_max, kind, went_uphill, source, destination, via }.write(&payload)
        },
    )
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let close = prop_oneof![Just(CloseReason::Leaving), Just(CloseReason::Unused), Just(CloseReason::Full)];
    prop_oneof![
        beat(),
        neighbours(),
        routed(),
        close.prop_map(CloseReason::to_bytes),
        Just(AskSeen.to_bytes()),
        endpoint().prop_map(|endpoint| Seen(endpoint).to_bytes()),
        address().prop_map(|to| AskRelay { to }.to_bytes()),
        relay()
    ]
}

proptest! {
    #[test]
    fn what_is_read_is_written_back_as_it_was(message in message()) {
        prop_assert_eq!(rewritten(&message), Some(message));
    }

    #[test]
    fn a_connect_is_written_back_as_it_was(payload in connect()) {
        prop_assert_eq!(Connect::parse(&payload).map(|connect| connect.to_bytes()), Some(payload));
    }

    #[test]
    fn a_survey_is_written_back_as_it_was(payload in survey()) {
        prop_assert!(payload.len() <= 732);
        prop_assert_eq!(Survey::parse(&payload).map(|survey| survey.to_bytes()), Some(payload));
    }

    #[test]
    fn a_survey_that_is_cut_off_is_refused(payload in survey(), part in 0.0..1.0f64) {
        let cut = &payload[..(payload.len() as f64 * part) as usize];
        prop_assert_eq!(Survey::parse(cut), None);
    }

    #[test]
    fn sessions_may_pad_with_up_to_15_zeros(message in message(), zeros in 0usize..40) {
        let padded = [&message[..], &vec![0; zeros]].concat();
        prop_assert_eq!(rewritten(&padded), (zeros < 16).then_some(message));
    }

    #[test]
    fn padding_is_of_zeros(message in message(), zeros in 0usize..15, other in 1u8..) {
        let padded = [&message[..], &vec![0; zeros], &[other]].concat();
        prop_assert_eq!(rewritten(&padded), None);
    }

    #[test]
    fn what_is_cut_off_is_refused(message in message(), part in 0.0..1.0f64) {
        let cut = &message[..(message.len() as f64 * part) as usize];
        prop_assert_eq!(rewritten(cut), None);
    }

    #[test]
    fn a_flipped_bit_is_refused_or_means_something_else(message in message(), bit in any::<proptest::sample::Index>()) {
        let mut flipped = message.clone();
        let bit = bit.index(message.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Some(written) = rewritten(&flipped) {
            prop_assert!(flipped.starts_with(&written) && flipped != message);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_written_back(kind in 2u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let message = [&[kind][..], &bytes].concat();
        if let Some(written) = rewritten(&message) {
            prop_assert!(message.starts_with(&written));
        }
        if let Some(connect) = Connect::parse(&bytes) {
            prop_assert!(bytes.starts_with(&connect.to_bytes()));
        }
        if let Some(echo) = Echo::parse(&bytes) {
            prop_assert!(bytes.starts_with(&echo.to_bytes()));
        }
        if let Some(survey) = Survey::parse(&bytes) {
            prop_assert!(bytes.starts_with(&survey.to_bytes()));
        }
    }
}
