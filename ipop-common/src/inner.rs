//! The inner packet: the IP header that the virtual network carries.

use crate::address::{Address, Family};
use crate::cursor::Cursor;

/// IP protocol numbers (IANA) that this crate looks at.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// A valid inner header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    pub family: Family,
    pub source: Address,
    pub destination: Address,
    /// Protocol (IPv4) or first next header (IPv6).
    pub protocol: u8,
    /// Length of the IP header: IPv4 with its options, IPv6 the fixed 40 bytes.
    pub header_len: u16,
    /// Length of the whole packet as its header says.
    pub total_len: u16,
    /// IPv4 DF bit; true for IPv6, which no router fragments.
    pub dont_fragment: bool,
}

/// Why a packet has no valid inner header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerError {
    Truncated,
    /// Wrong version, or a header length that cannot be.
    Malformed,
}

impl Inner {
    /// Reads the IP header of `family` at `offset`.
    #[inline(always)]
    pub fn parse<C: Cursor>(cursor: C, offset: usize, family: Family) -> Result<Self, InnerError> {
        match family {
            Family::V4 => parse_v4(cursor, offset),
            Family::V6 => parse_v6(cursor, offset),
        }
    }

    /// Reads an IP header of whichever family its first nibble says.
    pub fn parse_any<C: Cursor>(cursor: C, offset: usize) -> Result<Self, InnerError> {
        match cursor.u8_at(offset).map(|byte| byte >> 4) {
            Some(4) => parse_v4(cursor, offset),
            Some(6) => parse_v6(cursor, offset),
            Some(_) => Err(InnerError::Malformed),
            None => Err(InnerError::Truncated),
        }
    }
}

#[inline(always)]
fn parse_v4<C: Cursor>(cursor: C, offset: usize) -> Result<Inner, InnerError> {
    let Some(first) = cursor.u32_at(offset) else { return Err(InnerError::Truncated) };
    let Some(fragment) = cursor.u16_at(offset + 6) else { return Err(InnerError::Truncated) };
    let Some(protocol) = cursor.u8_at(offset + 9) else { return Err(InnerError::Truncated) };
    let Some(source) = cursor.bytes::<4>(offset + 12) else { return Err(InnerError::Truncated) };
    let Some(destination) = cursor.bytes::<4>(offset + 16) else { return Err(InnerError::Truncated) };
    let header_len = ((first >> 24) & 0xf) as u16 * 4;
    let total_len = first as u16;
    if first >> 28 != 4 || header_len < 20 || total_len < header_len {
        return Err(InnerError::Malformed);
    }
    Ok(Inner {
        family: Family::V4,
        source: Address::from_v4(source),
        destination: Address::from_v4(destination),
        protocol,
        header_len,
        total_len,
        dont_fragment: fragment & 0x4000 != 0,
    })
}

#[inline(always)]
fn parse_v6<C: Cursor>(cursor: C, offset: usize) -> Result<Inner, InnerError> {
    let Some(version) = cursor.u8_at(offset) else { return Err(InnerError::Truncated) };
    let Some(payload_len) = cursor.u16_at(offset + 4) else { return Err(InnerError::Truncated) };
    let Some(protocol) = cursor.u8_at(offset + 6) else { return Err(InnerError::Truncated) };
    let Some(source) = cursor.bytes::<16>(offset + 8) else { return Err(InnerError::Truncated) };
    let Some(destination) = cursor.bytes::<16>(offset + 24) else { return Err(InnerError::Truncated) };
    let Some(total_len) = payload_len.checked_add(40) else { return Err(InnerError::Malformed) };
    if version >> 4 != 6 {
        return Err(InnerError::Malformed);
    }
    Ok(Inner {
        family: Family::V6,
        source: Address::from_v6(source),
        destination: Address::from_v6(destination),
        protocol,
        header_len: 40,
        total_len,
        dont_fragment: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const V4: [u8; 20] = [0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

    #[test]
    fn an_ipv4_header_is_read() {
        let inner = Inner::parse(&V4[..], 0, Family::V4).unwrap();
        assert_eq!(inner.source, Address::from_v4([10, 0, 0, 1]));
        assert_eq!(inner.destination, Address::from_v4([10, 0, 0, 2]));
        assert_eq!((inner.protocol, inner.header_len, inner.total_len), (17, 20, 28));
        assert!(inner.dont_fragment);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..20 {
            assert_eq!(Inner::parse(&V4[..len], 0, Family::V4), Err(InnerError::Truncated));
        }
        let mut v6 = [0u8; 40];
        v6[0] = 0x60;
        assert!(Inner::parse(&v6[..], 0, Family::V6).is_ok());
        for len in 0..40 {
            assert_eq!(Inner::parse(&v6[..len], 0, Family::V6), Err(InnerError::Truncated));
        }
    }

    #[test]
    fn a_header_shorter_than_twenty_bytes_cannot_be() {
        for ihl in 0..5 {
            let mut bytes = V4;
            bytes[0] = 0x40 | ihl;
            assert_eq!(Inner::parse(&bytes[..], 0, Family::V4), Err(InnerError::Malformed));
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), offset in 0usize..80) {
            let _ = Inner::parse(&bytes[..], offset, Family::V4);
            let _ = Inner::parse(&bytes[..], offset, Family::V6);
            let _ = Inner::parse_any(&bytes[..], offset);
        }
    }
}
