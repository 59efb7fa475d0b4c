//! ChaCha20-Poly1305 of the programs, on the host, against that of aws-lc-rs.
//!
//! Input: key, counter, length of the text, a bit to be flipped, what lies in the memory, some text,
//! which is repeated up to its length.

use ipop_common::aead::{BLOCK_LEN, Key, Memory, OpenError, TAG_LEN};
use ipop_common::sealed;
use ipop_tests::sealed::{open, seal};

use super::tape::Tape;

/// Lengths that are tried: up to some that no program takes.
const LENGTHS: usize = sealed::TEXT_MAX + 100;
/// Of texts up to this length, a bit of each byte is flipped in turn; of tags, each bit.
const SHORT: usize = BLOCK_LEN;
/// The smallest memory that there can be, for one block of text.
const SMALLEST: usize = 3 * BLOCK_LEN;

pub(super) fn run(input: &[u8]) {
    let mut tape = Tape::new(input);
    let case = Case {
        key: tape.array(),
        counter: tape.u64(),
        len: usize::from(tape.u16()) % LENGTHS,
        bit: usize::from(tape.u16()),
        before: tape.u8(),
    };
    let some = tape.bytes(LENGTHS);
    let some = if some.is_empty() { &[0] } else { some };
    let text: Vec<u8> = some.iter().copied().cycle().take(case.len).collect();
    let (mut of_the_programs, mut smallest) = (sealed::Memory::EMPTY, Memory::<SMALLEST>::EMPTY);
    case.run(&mut of_the_programs, &text);
    case.run(&mut smallest, &text);
}

struct Case {
    key: [u8; 32],
    counter: u64,
    len: usize,
    bit: usize,
    /// Fills the memory, as an earlier packet might have.
    before: u8,
}

impl Case {
    fn run<const SIZE: usize>(&self, memory: &mut Memory<SIZE>, text: &[u8]) {
        let key = Key::from_bytes(&self.key);
        memory.room().fill(self.before);
        if self.len > Memory::<SIZE>::TEXT_MAX {
            assert!(!memory.set_text_len(self.len as u64) && !memory.seal(&key, self.counter));
            assert_eq!(memory.open(&key, self.counter), Err(OpenError::TooLong));
            return;
        }
        let sealed = seal(&self.key, self.counter, text);
        assert_eq!(open(&self.key, self.counter, &sealed).as_deref(), Some(text));
        assert!(memory.set_text_len(self.len as u64));
        memory.room()[..self.len].copy_from_slice(text);
        assert!(memory.seal(&key, self.counter));
        assert_eq!(memory.room()[..sealed.len()], sealed, "another ciphertext or tag");
        assert_eq!(self.open(memory, &key, self.counter, &sealed), Ok(()));
        assert_eq!(memory.room()[..self.len], *text, "another text");
        self.nothing_else_is_opened(memory, &key, &sealed);
    }

    /// Neither with a bit flipped, nor with another key or counter, nor shortened.
    fn nothing_else_is_opened<const SIZE: usize>(&self, memory: &mut Memory<SIZE>, key: &Key, sealed: &[u8]) {
        let every_byte = if self.len <= SHORT { 0..self.len } else { 0..0 };
        let bits = every_byte.map(|byte| byte * 8 + (self.bit + byte) % 8);
        let of_the_tag = self.len * 8..sealed.len() * 8;
        let bits = bits.chain(of_the_tag).chain([self.bit % (sealed.len() * 8)]);
        for bit in bits {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            self.is_refused(memory, key, self.counter, &changed);
        }
        let mut other = *key;
        other.0[self.bit / 32 % 8] ^= 1 << (self.bit % 32);
        self.is_refused(memory, &other, self.counter, sealed);
        self.is_refused(memory, key, self.counter ^ 1 << (self.bit % 64), sealed);
        if self.len > 0 {
            self.is_refused(memory, key, self.counter, &sealed[..TAG_LEN + self.bit % self.len]);
        }
    }

    fn is_refused<const SIZE: usize>(
        &self,
        memory: &mut Memory<SIZE>,
        key: &Key,
        counter: u64,
        sealed: &[u8],
    ) {
        assert_eq!(self.open(memory, key, counter, sealed), Err(OpenError::NotAuthentic));
        let ciphertext = &sealed[..sealed.len() - TAG_LEN];
        assert_eq!(memory.room()[..ciphertext.len()], *ciphertext, "a refused text was deciphered");
    }

    fn open<const SIZE: usize>(
        &self,
        memory: &mut Memory<SIZE>,
        key: &Key,
        counter: u64,
        sealed: &[u8],
    ) -> Result<(), OpenError> {
        memory.room().fill(self.before);
        memory.room()[..sealed.len()].copy_from_slice(sealed);
        assert!(memory.set_text_len((sealed.len() - TAG_LEN) as u64));
        memory.open(key, counter)
    }
}
