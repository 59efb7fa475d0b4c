//! A text that may be a hello: the codec alone.
//!
//! Input: the text.

use ipop_common::hello::{Hello, LEN};

pub(super) fn run(input: &[u8]) {
    let hello = Hello::parse(input);
    assert_eq!(hello.is_some(), has_the_form(input));
    let Some(hello) = hello else { return };
    assert_eq!(hello.to_bytes(), input[..LEN]);
    // Every bit says something or must be zero.
    for bit in 0..LEN * 8 {
        let mut other = input.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(Hello::parse(&other), Some(hello), "bit {bit} says nothing");
    }
}

/// docs/wire-format.md: type, three zeroes, 24 bits of link id, one flag, nine zeroes.
fn has_the_form(text: &[u8]) -> bool {
    text.len() == LEN && text[..5] == [1, 0, 0, 0, 0] && text[54] <= 1 && text[55..] == [0; 9]
}
