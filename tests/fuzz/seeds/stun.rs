//! Answers of STUN servers, good and bad.

use super::Inputs;

/// From where it was asked, with number and length as they should be.
const RIGHT: u8 = 0b1001;

fn message(how: u8, kind: [u8; 2], attributes: &[u8]) -> Vec<u8> {
    [&[how][..], &kind, &[0, 0, 0x21, 0x12, 0xA4, 0x42], &[0; 12], attributes].concat()
}

pub(super) fn messages() -> Inputs {
    // XOR-MAPPED-ADDRESS of 198.51.100.7:15000, with the number of the target's question for IPv6.
    let v4 = [0, 0x20, 0, 8, 0, 1, 0x1B, 0x8A, 0xE7, 0x21, 0xC0, 0x45];
    let v6 = [&[0, 0x20, 0, 20, 0, 2, 0x1B, 0x8A, 0x01, 0x13, 0xA9, 0xFA][..], &[9; 12]].concat();
    let unspecified = [0, 0x20, 0, 8, 0, 1, 0x1B, 0x8A, 0x21, 0x12, 0xA4, 0x42];
    let no_port = [0, 0x20, 0, 8, 0, 1, 0x21, 0x12, 0xE7, 0x21, 0xC0, 0x45];
    let loopback = [0, 0x20, 0, 8, 0, 1, 0x1B, 0x8A, 0x5E, 0x12, 0xA4, 0x43];
    let software = [0x80, 0x22, 0, 3, b'a', b'b', b'c', 0];
    let fingerprint = [0x80, 0x28, 0, 4, 1, 2, 3, 4];
    let success = [1, 1];
    let inputs = [
        ("seen-v4", message(RIGHT, success, &v4)),
        ("seen-v6", message(RIGHT | 0b1_0000, success, &v6)),
        ("with-software", message(RIGHT, success, &[&software[..], &v4].concat())),
        ("wrong-fingerprint", message(RIGHT, success, &[&v4[..], &fingerprint].concat())),
        ("unspecified", message(RIGHT, success, &unspecified)),
        ("no-port", message(RIGHT, success, &no_port)),
        ("loopback", message(RIGHT, success, &loopback)),
        ("says-nothing", message(RIGHT, success, &[])),
        ("attribute-cut-off", message(RIGHT, success, &v4[..9])),
        ("wrong-length", message(0b0001, success, &v4)),
        ("another-number", message(0b1000, success, &v4)),
        ("another-port", message(RIGHT | 0b10, success, &v4)),
        ("another-address", message(RIGHT | 0b100, success, &v4)),
        ("declined", message(RIGHT, [1, 0x11], &[])),
        ("echo", message(RIGHT, [0, 1], &[])),
        ("echo-of-another-port", message(RIGHT | 0b10, [0, 1], &[])),
        ("echo-with-more", message(RIGHT, [0, 1], &software)),
        ("indication", message(RIGHT, [0, 0x11], &[])),
        ("an-initiation", message(RIGHT, [1, 0], &[0; 128])),
    ];
    inputs.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}
