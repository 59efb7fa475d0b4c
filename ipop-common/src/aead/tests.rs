use std::{boxed::Box, format, string::ToString, vec, vec::Vec};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;

use super::chacha::State;
use super::*;

/// Longer than any packet of any device here.
const SIZE: usize = 9216 + 2 * BLOCK_LEN;

fn memory() -> Box<Memory<SIZE>> {
    Box::new(Memory::EMPTY)
}

fn put(memory: &mut Memory<SIZE>, text: &[u8], len: usize) {
    assert!(memory.set_text_len(len as u64) && text.len() <= len + TAG_LEN);
    memory.room()[..text.len()].copy_from_slice(text);
}

fn get(memory: &mut Memory<SIZE>, len: usize) -> Vec<u8> {
    memory.room()[..len].to_vec()
}

fn seal(memory: &mut Memory<SIZE>, key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    put(memory, text, text.len());
    assert!(memory.seal(&Key::from_bytes(key), counter));
    get(memory, text.len() + TAG_LEN)
}

fn open(
    memory: &mut Memory<SIZE>,
    key: &[u8; 32],
    counter: u64,
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let len = sealed.len() - TAG_LEN;
    put(memory, sealed, len);
    memory.open(&Key::from_bytes(key), counter)?;
    Ok(get(memory, len))
}

/// What aws-lc-rs makes of the same.
fn reference(key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut sealed = text.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).unwrap();
    sealed
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()
}

/// Some text without a period.
fn text_of(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

const KEY: [u8; 32] = *b"one key of thirty-two bytes, yes";

/// RFC 8439, 2.3.2 and 2.4.2: nonce 00 00 00 09/00 00 00 4a 00 00 00 00 have a first word that
/// WireGuard leaves at zero, so the state is written by hand.
#[test]
fn the_block_function_of_the_rfc() {
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let mut state = State::new(&Key::from_bytes(&key), 0x4a00_0000);
    state.set_block(1);
    state.0[13] = 0x0900_0000;
    let expected = bytes_of_hex(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e
         d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    );
    let block: Vec<u8> = state.permute().iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(block, expected);
}

#[test]
fn the_cipher_of_the_rfc() {
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let mut state = State::new(&Key::from_bytes(&key), 0x4a00_0000);
    let mut text = *b"Ladies and Gentlemen of the class of '99: If I could offer you o\
                      nly one tip for the future, sunscreen would be it.\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    for (block, at) in text.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        state.set_block(block as u32 + 1);
        let mut words: [u64; 8] = std::array::from_fn(|i| u64::from_ne_bytes(at.as_chunks::<8>().0[i]));
        // SAFETY: eight words.
        unsafe { state.add_block(words.as_mut_ptr()) };
        *at = words.map(u64::to_ne_bytes).as_flattened().try_into().unwrap();
    }
    let expected = bytes_of_hex(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b
         f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8
         07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736
         5af90bbf74a35be6b40b8eedf2785e42874d",
    );
    assert_eq!(text[..114], expected);
}

fn mac(key: &str, message: &[u8]) -> Vec<u8> {
    assert_eq!(message.len() % 16, 0, "Poly1305 is used on whole blocks only");
    let key: Vec<u32> =
        bytes_of_hex(key).as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    assert_eq!(key.len(), 8);
    // SAFETY: eight words, and as many bytes as are said.
    let Tag(low, high) =
        unsafe { poly::authenticate::<1024>(key.as_ptr(), message.as_ptr(), message.len() as u64) };
    [low.to_le_bytes(), high.to_le_bytes()].concat()
}

/// RFC 8439, appendix A.3: those vectors whose message is whole blocks, which are the ones that
/// press on the carries.
#[test]
fn the_authenticator_of_the_rfc() {
    let zero = "00".repeat(32);
    assert_eq!(mac(&zero, &[0; 64]), [0; 16], "1");
    let two = "02".to_string() + &"00".repeat(31);
    assert_eq!(mac(&two, &[0xff; 16]), bytes_of_hex("03000000000000000000000000000000"), "7");
    let two_and_pad = "02".to_string() + &"00".repeat(15) + &"ff".repeat(16);
    assert_eq!(
        mac(&two_and_pad, &bytes_of_hex("02000000000000000000000000000000")),
        bytes_of_hex("03000000000000000000000000000000"),
        "8"
    );
    let one = "01".to_string() + &"00".repeat(31);
    let ninth = "ff".repeat(16) + "f0" + &"ff".repeat(15) + "11" + &"00".repeat(15);
    assert_eq!(mac(&one, &bytes_of_hex(&ninth)), bytes_of_hex("05000000000000000000000000000000"), "9");
    let tenth = "ff".repeat(16) + "fb" + &"fe".repeat(15) + &"01".repeat(16);
    assert_eq!(mac(&one, &bytes_of_hex(&tenth)), [0; 16], "10");
    let eleventh = bytes_of_hex("fdffffffffffffffffffffffffffffff");
    assert_eq!(mac(&two, &eleventh), bytes_of_hex("faffffffffffffffffffffffffffffff"), "11");
    let key = "0100000000000000040000000000000000000000000000000000000000000000";
    let last = "e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000
                00000000000000000000000000000000";
    let more = last.to_string() + "01000000000000000000000000000000";
    assert_eq!(mac(key, &bytes_of_hex(&more)), bytes_of_hex("14000000000000005500000000000000"), "12");
    assert_eq!(mac(key, &bytes_of_hex(last)), bytes_of_hex("13000000000000000000000000000000"), "13");
}

/// No packet is longer, on any path.
#[test]
fn every_length_is_sealed_as_by_aws_lc_and_opened_again() {
    let mut memory = memory();
    let text = text_of(9000);
    for len in 0..=text.len() {
        let counter = (len as u64) << 29 ^ 0x0123_4567_89ab_cdef;
        let sealed = seal(&mut memory, &KEY, counter, &text[..len]);
        assert_eq!(sealed, reference(&KEY, counter, &text[..len]), "{len} bytes");
        assert_eq!(open(&mut memory, &KEY, counter, &sealed), Ok(text[..len].to_vec()), "{len} bytes");
    }
}

#[test]
fn what_was_changed_is_not_opened_and_not_touched() {
    let mut memory = memory();
    for len in [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200] {
        let sealed = seal(&mut memory, &KEY, 7, &text_of(len));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&mut memory, &KEY, 7, &changed), Err(OpenError::NotAuthentic), "{len}, {bit}");
            assert_eq!(get(&mut memory, len), changed[..len], "a refused text was deciphered");
        }
        assert_eq!(open(&mut memory, &KEY, 8, &sealed), Err(OpenError::NotAuthentic), "another counter");
        let mut other = KEY;
        other[31] ^= 0x80;
        assert_eq!(open(&mut memory, &other, 7, &sealed), Err(OpenError::NotAuthentic), "another key");
        for shorter in TAG_LEN..sealed.len() {
            assert_eq!(open(&mut memory, &KEY, 7, &sealed[..shorter]), Err(OpenError::NotAuthentic));
        }
    }
}

#[test]
fn too_long_is_refused_by_both() {
    let mut memory = memory();
    let max = Memory::<SIZE>::TEXT_MAX as u64;
    let key = Key::from_bytes(&KEY);
    assert!(memory.set_text_len(max) && memory.seal(&key, 0));
    assert_eq!(memory.open(&key, 0), Ok(()));
    for len in [max + 1, u64::from(u32::MAX), u64::MAX] {
        assert!(!memory.set_text_len(len));
        assert!(!memory.seal(&key, 0));
        assert_eq!(memory.open(&key, 0), Err(OpenError::TooLong));
    }
}

#[test]
fn keys_are_not_printed() {
    let mut memory = memory();
    seal(&mut memory, &KEY, 0, b"text");
    assert_eq!(format!("{:?}", Key::from_bytes(&KEY)), "Key(..)");
    assert_eq!(format!("{memory:?}"), "Memory { .. }");
}

proptest! {
    #[test]
    fn any_key_counter_and_text_as_by_aws_lc(
        key: [u8; 32], counter: u64, text in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut memory = memory();
        let sealed = seal(&mut memory, &key, counter, &text);
        prop_assert_eq!(&sealed, &reference(&key, counter, &text));
        prop_assert_eq!(open(&mut memory, &key, counter, &sealed), Ok(text));
    }

    /// Limbs full of ones are where a carry would be lost.
    #[test]
    fn extreme_limbs_as_by_aws_lc(len in 0usize..600, fill in prop::sample::select(vec![0u8, 0xff, 0xfe, 0x80])) {
        let mut memory = memory();
        // The text is chosen so that the ciphertext is `fill` throughout.
        let stream = seal(&mut memory, &KEY, 3, &vec![0; len]);
        let text: Vec<u8> = stream[..len].iter().map(|byte| byte ^ fill).collect();
        prop_assert_eq!(seal(&mut memory, &KEY, 3, &text), reference(&KEY, 3, &text));
    }
}
