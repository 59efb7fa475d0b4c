//! Datagrams on a TCP connection, for hosts that UDP does not reach: each behind its length, two bytes,
//! big-endian (RFC 4571). What they are, and who may send them, is as by UDP.

use alloc::vec::Vec;

/// What precedes each datagram.
pub const HEADER_LEN: usize = 2;

/// A datagram of no bytes stands for nothing: the other end does not speak this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends a datagram to what is to be sent; says whether it was one that may be.
pub fn push(out: &mut Vec<u8>, datagram: &[u8]) -> bool {
    match u16::try_from(datagram.len()) {
        Ok(len) if len != 0 => {
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(datagram);
            true
        }
        _ => false,
    }
}

/// Takes datagrams out of the bytes of a connection, however these are cut.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
}

impl Reader {
    /// Where bytes that have come are to be appended. Never more wait here than one datagram and what came with
    /// its end, if all datagrams are taken before the next bytes are added.
    pub fn space(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        &mut self.bytes
    }

    /// The next datagram; `None` until more has come.
    ///
    /// # Errors
    /// What follows cannot be told apart any more.
    pub fn next_datagram(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let waiting = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(*header));
        if len == 0 {
            return Err(Malformed);
        }
        let Some(datagram) = rest.get(..len) else { return Ok(None) };
        self.taken += HEADER_LEN + len;
        Ok(Some(datagram))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_and_what_is_too_long_is_no_datagram() {
        let mut out = Vec::new();
        assert!(!push(&mut out, &[]));
        assert!(!push(&mut out, &vec![0; 65536]));
        assert!(out.is_empty());
        assert!(push(&mut out, &vec![7; 65535]));
        assert_eq!(out.len(), HEADER_LEN + 65535);
        let mut vector = Vec::new();
        assert!(push(&mut vector, &[9, 8, 7]));
        assert_eq!(vector, [0, 3, 9, 8, 7], "that of docs/wire-format.md");
        let mut reader = Reader::default();
        reader.space().extend([0, 1, 9, 0, 0, 1]);
        assert_eq!(reader.next_datagram(), Ok(Some(&[9][..])));
        assert_eq!(reader.next_datagram(), Err(Malformed));
        assert_eq!(reader.next_datagram(), Err(Malformed), "and stays so");
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in_however_they_are_cut(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
            cuts in prop::collection::vec(1..200usize, 1..20),
        ) {
            let mut sent = Vec::new();
            datagrams.iter().for_each(|datagram| assert!(push(&mut sent, datagram)));
            let (mut reader, mut received) = (Reader::default(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !sent.is_empty() {
                let rest = sent.split_off(cuts.next().unwrap_or(1).min(sent.len()));
                reader.space().append(&mut sent);
                sent = rest;
                while let Some(datagram) = reader.next_datagram().unwrap() {
                    received.push(datagram.to_vec());
                }
            }
            prop_assert_eq!(received, datagrams);
            prop_assert!(reader.space().is_empty());
        }
    }
}
