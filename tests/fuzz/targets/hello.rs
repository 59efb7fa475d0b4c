//! A datagram that may be a hello: the codec alone.
//!
//! Input: the datagram.

use ipop_common::hello::{BODY_LEN, Hello, LEN};

pub(super) fn run(input: &[u8]) {
    let hello = Hello::parse(input);
    assert_eq!(hello.is_some(), has_the_form(input));
    let Some(hello) = hello else { return };
    assert_eq!(hello.to_bytes(), input[..BODY_LEN]);
    // Every bit of the body says something or must be zero.
    for bit in 0..BODY_LEN * 8 {
        let mut other = input.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(Hello::parse(&other), Some(hello), "bit {bit} says nothing");
    }
}

/// docs/wire-format.md: type, three zeroes, 24 bits of link id that are not all zero, one flag, a
/// zero.
fn has_the_form(datagram: &[u8]) -> bool {
    datagram.len() == LEN
        && datagram[..5] == [6, 0, 0, 0, 0]
        && datagram[5..8] != [0; 3]
        && datagram[54] <= 1
        && datagram[55] == 0
}
