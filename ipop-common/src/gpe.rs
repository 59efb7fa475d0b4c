//! The VXLAN-GPE header (draft-ietf-nvo3-vxlan-gpe) in the one form that clear links use.
//!
//! ```text
//!  0                   1                   2                   3
//! |0 0 0 0 1 1 0 0|        reserved (0)           | next protocol |
//! |          link id (VNI), 24 bits               | reserved (0)  |
//! ```
//! The flags are I (a VNI is present) and P (the next protocol is given) and nothing else: GRO
//! compares all eight bytes, and a bit that we do not know could change what follows.

use crate::cursor::Cursor;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// Version 0, I and P set.
pub const FLAGS: u8 = 0x0c;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextProtocol {
    Ipv4,
    Ipv6,
}

impl NextProtocol {
    pub const IPV4: u8 = 1;
    pub const IPV6: u8 = 2;
}

/// The 24-bit link id, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(u32);

impl LinkId {
    /// Takes the low 24 bits; `None` where they are zero, which names no link.
    #[inline(always)]
    pub const fn new(value: u32) -> Option<Self> {
        match value & 0x00ff_ffff {
            0 => None,
            id => Some(Self(id)),
        }
    }

    #[inline(always)]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// Why eight bytes are not a header of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    Truncated,
    /// Flags, version or a reserved field differ from the one form that is allowed, or the id is 0.
    Reserved,
    UnknownProtocol,
}

/// A valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub link_id: LinkId,
    pub next_protocol: NextProtocol,
}

impl Header {
    /// Reads the header at `offset`.
    #[inline(always)]
    pub fn parse<C: Cursor>(cursor: C, offset: usize) -> Result<Self, HeaderError> {
        let Some(first) = cursor.u32_at(offset) else { return Err(HeaderError::Truncated) };
        let Some(second) = cursor.u32_at(offset + 4) else { return Err(HeaderError::Truncated) };
        if first >> 8 != (FLAGS as u32) << 16 || second & 0xff != 0 {
            return Err(HeaderError::Reserved);
        }
        let next_protocol = match first as u8 {
            NextProtocol::IPV4 => NextProtocol::Ipv4,
            NextProtocol::IPV6 => NextProtocol::Ipv6,
            _ => return Err(HeaderError::UnknownProtocol),
        };
        match LinkId::new(second >> 8) {
            Some(link_id) => Ok(Self { link_id, next_protocol }),
            None => Err(HeaderError::Reserved),
        }
    }

    pub const fn to_bytes(self) -> [u8; HEADER_LEN] {
        let next = match self.next_protocol {
            NextProtocol::Ipv4 => NextProtocol::IPV4,
            NextProtocol::Ipv6 => NextProtocol::IPV6,
        };
        let [_, a, b, c] = self.link_id.0.to_be_bytes();
        [FLAGS, 0, 0, next, a, b, c, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_vector() {
        let header = Header { link_id: LinkId::new(0x12_3456).unwrap(), next_protocol: NextProtocol::Ipv6 };
        assert_eq!(header.to_bytes(), [0x0c, 0, 0, 2, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn only_one_form_of_the_flags_is_read() {
        let good = [0x0c, 0, 0, 1, 0, 0, 7, 0];
        assert!(Header::parse(&good[..], 0).is_ok());
        for byte in [0, 1, 2, 7] {
            for bit in 0..8 {
                let mut bad = good;
                bad[byte] ^= 1 << bit;
                assert_eq!(Header::parse(&bad[..], 0), Err(HeaderError::Reserved), "byte {byte} bit {bit}");
            }
        }
        for protocol in (0..=255).filter(|p| ![1, 2].contains(p)) {
            let mut bad = good;
            bad[3] = protocol;
            assert_eq!(Header::parse(&bad[..], 0), Err(HeaderError::UnknownProtocol));
        }
        assert_eq!(Header::parse(&[0x0c, 0, 0, 1, 0, 0, 0, 0][..], 0), Err(HeaderError::Reserved));
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_written(bytes: [u8; 8]) {
            if let Ok(header) = Header::parse(&bytes[..], 0) {
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }
}
