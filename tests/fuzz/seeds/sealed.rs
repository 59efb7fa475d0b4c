//! WireGuard messages, texts to be sealed, sealed frames on their way in.

use ipop_common::wireguard::{CookieReply, Initiation, Response, TransportHeader};
use ipop_overlay::session::Mac1Key;

use super::Inputs;
use crate::targets::wireguard::public;

/// A message of each type, each field with its own bytes.
pub(super) fn wireguard() -> Inputs {
    let initiation = Initiation {
        sender: 0x0102_0304,
        ephemeral: [0x11; 32],
        sealed_static: [0x22; 48],
        sealed_timestamp: [0x33; 28],
        mac1: [0x44; 16],
        mac2: [0x55; 16],
    };
    let response = Response {
        sender: 0x0102_0304,
        receiver: 0x0506_0708,
        ephemeral: [0x11; 32],
        sealed_nothing: [0x22; 16],
        mac1: [0x44; 16],
        mac2: [0x55; 16],
    };
    let cookie = CookieReply { receiver: 0x0102_0304, nonce: [0x11; 24], sealed_cookie: [0x22; 32] };
    let header = TransportHeader { receiver: 0x0102_0304, counter: 0x1112_1314_1516_1718 };
    let messages = [
        ("initiation", initiation.to_bytes().to_vec()),
        ("response", response.to_bytes().to_vec()),
        ("cookie-reply", cookie.to_bytes().to_vec()),
        ("transport", [&header.to_bytes()[..], &[0x66; 48]].concat()),
    ];
    let mut inputs = Inputs::new();
    for (name, message) in messages {
        let changed = |at: usize, value: u8| {
            let mut changed = message.clone();
            changed[at] = value;
            changed
        };
        inputs.push((format!("{name}-of-another-type"), changed(0, 5)));
        inputs.push((format!("{name}-with-reserved-bits"), changed(3, 0x80)));
        inputs.push((format!("{name}-with-a-byte-more"), [&message[..], &[0]].concat()));
        let mut with_mac1 = message.clone();
        if Mac1Key::new(&public()).fill_in(&mut with_mac1).is_some() {
            inputs.push((format!("{name}-to-the-node"), with_mac1));
        }
        inputs.push((name.to_owned(), message));
    }
    inputs.push(("keepalive".to_owned(), [&header.to_bytes()[..], &[0x66; 16]].concat()));
    inputs.push(("two-headers".to_owned(), header.to_bytes().repeat(3)));
    inputs
}

/// `[key][counter u64][length u16][bit u16][what lies in the memory][text]`
pub(super) fn aead() -> Inputs {
    let input = |counter: u64, len: u16, text: &[u8]| {
        let (counter, len, bit) = (counter.to_be_bytes(), len.to_be_bytes(), 1001u16.to_be_bytes());
        [b"one key of thirty-two bytes, yes", &counter[..], &len, &bit, &[0xee], text].concat()
    };
    [
        ("empty", input(0, 0, &[])),
        ("one-byte", input(1, 1, b"x")),
        ("one-block-of-the-tag", input(2, 16, b"sixteen bytes...")),
        ("one-byte-more-than-a-block-of-the-tag", input(2, 17, b"sixteen bytes...")),
        ("one-block", input(3, 64, b"text")),
        ("one-byte-more-than-a-block", input(3, 65, b"text")),
        ("one-byte-less-than-two-blocks", input(3, 127, b"text")),
        ("an-ethernet-packet", input(1 << 32, 1420, b"text")),
        ("the-longest", input(u64::MAX, 1536, &[0xff])),
        ("too-long", input(4, 1537, b"text")),
        ("zeroes", input(1 << 63, 300, &[0])),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}

// Sessions of the target `sealed`, as an event names them.
const FIRST: u8 = 0;
const SECOND_WITH_THE_SAME_PEER: u8 = 1;
const OVER_V6: u8 = 2;
const LEASE_OVER: u8 = 3;
const BEHIND_A_RELAY: u8 = 8;
const BEHIND_A_RELAY_OVER_V6: u8 = 8 | 1;

// Choices of a packet.
const JUMPS_BY_A_WINDOW: u8 = 2;
const JUMPS_TO_THE_LIMIT: u8 = 3;
const CHECKSUM: u8 = 4;
const FROM_ELSEWHERE: u8 = 8;
const CHANGED: u8 = 16;
const SAME_COUNTER: u8 = 32;
const OTHER_LABEL: u8 = 64;
const OTHER_WAY: u8 = 128;

// What a text is; the others of its bits say how long.
const V4: u8 = 8;
const V6: u8 = 8 | 1;
const OF_ANOTHER: u8 = 8 | 2;
const NOTHING: u8 = 3;
const MESSAGE: u8 = 4;
const NOISE: u8 = 4 << 3 | 5;
const TOO_LONG: u8 = 6;
const DAMAGED: u8 = 7;

/// Frame 0 again, changed by: 1, the other path; 2, see [`flip`]; 4, for the next session.
const fn again(choices: u8) -> [u8; 3] {
    [1, 0, choices]
}

/// What an event about a session begins with.
const fn event(session: u8) -> u8 {
    (session & 3) << 2 | (session & 8) << 2
}

/// The next packet of a session.
const fn packet(session: u8, choices: u8, text: u8) -> [u8; 3] {
    [event(session), choices, text]
}

const fn ends(session: u8) -> [u8; 1] {
    [3 | 16 | event(session)]
}

/// Which bit a change flips.
const fn flip(bit: u16) -> [u8; 2] {
    bit.to_be_bytes()
}

/// To what a change cuts off.
const fn cut(len: u16) -> [u8; 2] {
    (0x8000 | len).to_be_bytes()
}

/// After this nothing may be sealed or opened.
const TIME_IS_OVER: [u8; 3] = [3, 0xff, 0xff];

/// Runs of the target `sealed`.
pub(super) fn frames() -> Inputs {
    let first = packet(FIRST, 0, V4);
    let by_user = packet(FIRST, CHECKSUM, V4);
    let each = |session: u8, choices: u8| {
        let texts =
            [V4, V6, OF_ANOTHER, NOTHING, TOO_LONG].map(|text| packet(session, choices, text)).concat();
        let message = [&packet(session, choices, MESSAGE)[..], &[0x5a; 60]].concat();
        // The length and the version of an IPv4 packet, and noise.
        let damaged = [&packet(session, choices, DAMAGED)[..], &flip(16)].concat();
        let other = [&packet(session, choices, DAMAGED)[..], &flip(4)].concat();
        let noise = [&packet(session, choices, NOISE)[..], &[0x45; 16]].concat();
        [texts, message, damaged, other, noise].concat()
    };
    let each_text = |choices: u8| each(FIRST, choices);
    let at_the_window = [
        &packet(FIRST, 0, V4)[..],
        &packet(FIRST, JUMPS_BY_A_WINDOW, V4),
        &again(0),
        &packet(FIRST, JUMPS_BY_A_WINDOW, V4),
        &again(0),
        &again(1),
    ];
    // An IPv4 header of 10.64.1.1 that says that there is a byte behind it.
    let header_alone = [0x45, 0, 0, 21, 0, 0, 0, 0, 64, 17, 0, 0, 10, 64, 1, 1, 10, 64, 0, 1];
    let header = TransportHeader { receiver: 0x1234_0001, counter: 3 }.to_bytes();
    let forged = [&[2, 48][..], &header, &[0x77; 32]].concat();
    let behind = packet(BEHIND_A_RELAY, 0, V4);
    let relay_frame = [5, 0, 0, 0, 1, 2, 3, 4];
    let header = TransportHeader { receiver: 0x1234_0005, counter: 3 }.to_bytes();
    let raw = |message: &[u8]| [&[2 | event(BEHIND_A_RELAY), message.len() as u8][..], message].concat();
    let relayed = |choices: u8| {
        let of = |session: u8, text: u8| packet(session, choices, text);
        [of(BEHIND_A_RELAY, V4), of(BEHIND_A_RELAY, V6), of(BEHIND_A_RELAY_OVER_V6, V4)].concat()
    };
    let flipped = |bit: u16| [&packet(BEHIND_A_RELAY, CHANGED, V4)[..], &flip(bit)].concat();
    [
        ("relayed", relayed(0)),
        ("relayed-by-the-user-path", relayed(CHECKSUM)),
        ("relayed-with-another-label", relayed(OTHER_LABEL)),
        ("relayed-from-elsewhere", relayed(FROM_ELSEWHERE)),
        ("relayed-each-text", each(BEHIND_A_RELAY, 0)),
        ("relayed-each-text-by-the-user-path", each(BEHIND_A_RELAY, CHECKSUM)),
        ("relayed-peer-directly", relayed(OTHER_WAY)),
        ("direct-peer-by-a-relay", [packet(FIRST, OTHER_WAY, V4), packet(OVER_V6, OTHER_WAY, V4)].concat()),
        ("relayed-and-directly", [&behind[..], &packet(BEHIND_A_RELAY, OTHER_WAY, V4), &behind].concat()),
        ("relayed-replayed", [&behind[..], &again(0), &again(1), &again(0)].concat()),
        ("relayed-swapped-sessions", [&behind[..], &again(4), &again(5)].concat()),
        ("relayed-flipped-type", flipped(2)),
        ("relayed-flipped-zeroes", flipped(9)),
        ("relayed-flipped-label", flipped(40)),
        ("relayed-flipped-message-type", flipped(64)),
        ("relayed-flipped-index", flipped(64 + 60)),
        ("relayed-flipped-text", flipped(64 + 200)),
        ("relayed-cut-in-the-label", [&packet(BEHIND_A_RELAY, CHANGED, V4)[..], &cut(6)].concat()),
        ("relayed-cut-behind-the-label", [&packet(BEHIND_A_RELAY, CHANGED, V4)[..], &cut(8)].concat()),
        ("relayed-cut-in-the-header", [&packet(BEHIND_A_RELAY, CHANGED, V4)[..], &cut(20)].concat()),
        ("relayed-ended", [&behind[..], &ends(BEHIND_A_RELAY), &behind].concat()),
        ("relayed-forged", raw(&[&relay_frame[..], &header, &[0x77; 32]].concat())),
        (
            "relay-frame-in-a-relay-frame",
            raw(&[&relay_frame[..], &relay_frame, &header, &[0x77; 32]].concat()),
        ),
        ("by-the-kernel-path", first.to_vec()),
        ("by-the-user-path", by_user.to_vec()),
        ("over-ipv6", [packet(OVER_V6, 0, V4), packet(OVER_V6, CHECKSUM, V6)].concat()),
        ("two-sessions", [first, packet(SECOND_WITH_THE_SAME_PEER, 0, V4), first, by_user].concat()),
        ("lease-over", packet(LEASE_OVER, 0, V4).to_vec()),
        ("from-elsewhere", packet(FIRST, FROM_ELSEWHERE, V4).to_vec()),
        ("each-text", each_text(0)),
        ("each-text-by-the-user-path", each_text(CHECKSUM)),
        ("shorter-by-a-byte", [&packet(FIRST, 0, 5 << 3 | 5)[..], &header_alone].concat()),
        ("replayed", [&first[..], &again(0), &again(1), &again(0)].concat()),
        ("replayed-by-the-kernel-path", [&by_user[..], &again(1), &again(0)].concat()),
        ("replayed-refused", [&packet(FIRST, 0, OF_ANOTHER)[..], &again(0), &again(1), &again(0)].concat()),
        ("swapped-sessions", [&first[..], &again(4), &again(5)].concat()),
        ("counter-used-twice", [first, packet(FIRST, SAME_COUNTER, V6), first].concat()),
        ("at-the-window", at_the_window.concat()),
        ("at-the-limit", [packet(FIRST, JUMPS_TO_THE_LIMIT, V4), first, first, by_user].concat()),
        ("jumped", [first, packet(FIRST, JUMPS_TO_THE_LIMIT, V4)].concat()),
        ("flipped-type", [&packet(FIRST, CHANGED, V4)[..], &flip(9)].concat()),
        ("flipped-index", [&packet(FIRST, CHANGED, V4)[..], &flip(60)].concat()),
        ("flipped-counter", [&packet(FIRST, CHANGED, V4)[..], &flip(64)].concat()),
        ("flipped-text", [&packet(FIRST, CHANGED, V4)[..], &flip(200), &again(0)].concat()),
        ("flipped-tag", [&packet(FIRST, CHANGED | CHECKSUM, V4)[..], &flip(600), &again(1)].concat()),
        ("flipped-then-whole", [&first[..], &again(2), &flip(300), &first].concat()),
        ("cut-in-the-tag", [&packet(FIRST, CHANGED, V4)[..], &cut(60)].concat()),
        ("cut-in-the-header", [&packet(FIRST, CHANGED, V4)[..], &cut(20)].concat()),
        ("ended", [&first[..], &ends(FIRST), &first, &by_user].concat()),
        ("too-late", [&first[..], &TIME_IS_OVER.repeat(2), &first, &by_user].concat()),
        ("forged", forged),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}
