//! WireGuard messages, texts to be sealed.

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
