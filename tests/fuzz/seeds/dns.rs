//! Queries, and what is none, for the target `dns`.

use super::Inputs;

const BETA: &[u8] = b"\x04beta\x04demo\x04ipop\x00";
const REVERSE: &[u8] = b"\x012\x010\x03128\x0210\x07in-addr\x04arpa\x00";
const OPT: &[u8] = &[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0];

fn query(name: &[u8], kind: u8, class: u8) -> Vec<u8> {
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, kind, 0, class]].concat()
}

fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

pub(super) fn messages() -> Inputs {
    let with_opt = || with([&query(BETA, 1, 1), OPT].concat(), 11, 1);
    let inputs = [
        ("a", query(BETA, 1, 1)),
        ("aaaa", query(BETA, 28, 1)),
        ("any", query(BETA, 255, 1)),
        ("in-upper-case", query(&BETA.to_ascii_uppercase(), 1, 1)),
        ("nobody", query(b"\x05gamma\x04demo\x04ipop\x00", 1, 1)),
        ("elsewhere", query(b"\x07example\x03org\x00", 1, 1)),
        ("the-root", query(b"\x00", 2, 1)),
        ("soa", query(b"\x04demo\x04ipop\x00", 6, 1)),
        ("ptr", query(REVERSE, 12, 1)),
        ("ptr-of-nobody", query(b"\x0277\x010\x03128\x0210\x07in-addr\x04arpa\x00", 12, 1)),
        ("too-long-for-udp", query(b"\x04many\x04demo\x04ipop\x00", 1, 1)),
        ("edns", with_opt()),
        ("edns-of-a-later-version", with(with_opt(), query(BETA, 1, 1).len() + 6, 1)),
        ("transfer", query(BETA, 252, 1)),
        ("chaos", query(BETA, 16, 3)),
        ("an-answer", with(query(BETA, 1, 1), 2, 0x80)),
        ("an-update", with(query(BETA, 1, 1), 2, 0x28)),
        ("no-question", with(query(BETA, 1, 1), 5, 0)),
        ("many-questions", with(query(BETA, 1, 1), 4, 255)),
        ("records-that-are-not-there", with(query(BETA, 1, 1), 11, 4)),
        ("a-name-that-points-to-itself", query(&[0xc0, 12], 1, 1)),
        ("a-dot-in-a-label", query(b"\x06beta.a\x04demo\x04ipop\x00", 1, 1)),
        ("header-alone", query(BETA, 1, 1)[..12].to_vec()),
    ];
    inputs.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}
