//! ICMP and ICMPv6 errors about packets that a link cannot carry.
//!
//! The source of an error is the destination of the packet that it is about: an address that the
//! host routes into the virtual network, so that reverse-path filters let it pass.

use crate::address::Family;
use crate::checksum;
use crate::inner::protocol;

/// Bytes of the offending packet that an error quotes. RFC 1812 (4.3.2.3) and RFC 4443 allow more;
/// this holds every header that a host needs to find the socket.
pub const QUOTE_LEN: usize = 128;
/// Length of the headers before the quote over IPv4: IP and ICMP.
pub const V4_LEN: usize = 20 + 8;
/// Length of the headers before the quote over IPv6.
pub const V6_LEN: usize = 40 + 8;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Fragmentation needed and DF set (RFC 792, RFC 1191); Packet Too Big (RFC 4443, 3.2).
    TooBig { mtu: u16 },
    /// Host unreachable (RFC 792); address unreachable (RFC 4443, 3.1).
    Unreachable,
    /// Communication with the host administratively prohibited (RFC 1122, 3.2.2.1); communication with the destination
    /// administratively prohibited (RFC 4443, 3.1).
    Prohibited,
}

impl Error {
    /// Type, code and the four bytes after the checksum.
    #[inline(always)]
    const fn fields(self, family: Family) -> (u8, u8, u32) {
        match (self, family) {
            (Error::TooBig { mtu }, Family::V4) => (3, 4, mtu as u32),
            (Error::TooBig { mtu }, Family::V6) => (2, 0, mtu as u32),
            (Error::Unreachable, Family::V4) => (3, 1, 0),
            (Error::Unreachable, Family::V6) => (1, 3, 0),
            (Error::Prohibited, Family::V4) => (3, 10, 0),
            (Error::Prohibited, Family::V6) => (1, 1, 0),
        }
    }
}

/// Writes the IPv4 and ICMP headers of an error about a packet from `source` to `destination`.
///
/// `quote_sum` is the [`checksum::sum`] of the [`QUOTE_LEN`] bytes that will follow.
#[inline(always)]
pub fn write_v4(out: &mut [u8; V4_LEN], error: Error, source: [u8; 4], destination: [u8; 4], quote_sum: u32) {
    let (kind, code, rest) = error.fields(Family::V4);
    let total_len = (V4_LEN + QUOTE_LEN) as u16;
    let [len_high, len_low] = total_len.to_be_bytes();
    let [a, b, c, d] = destination;
    let [e, f, g, h] = source;
    let ip_sum = 0x45c0
        + total_len as u32
        + 0x4000
        + u32::from_be_bytes([0, 0, 64, protocol::ICMP])
        + words(destination)
        + words(source);
    let [ip_check_high, ip_check_low] = checksum::finish(ip_sum).to_be_bytes();
    let icmp_sum = ((kind as u32) << 8) + code as u32 + (rest >> 16) + (rest & 0xffff) + quote_sum;
    let [check_high, check_low] = checksum::finish(icmp_sum).to_be_bytes();
    let [r0, r1, r2, r3] = rest.to_be_bytes();
    *out = [
        0x45,
        0xc0,
        len_high,
        len_low,
        0,
        0,
        0x40,
        0, // DSCP CS6 as the kernel's own errors
        64,
        protocol::ICMP,
        ip_check_high,
        ip_check_low,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        kind,
        code,
        check_high,
        check_low,
        r0,
        r1,
        r2,
        r3,
    ];
}

/// Writes the IPv6 and ICMPv6 headers; see [`write_v4`].
#[inline(always)]
pub fn write_v6(
    out: &mut [u8; V6_LEN],
    error: Error,
    source: [u8; 16],
    destination: [u8; 16],
    quote_sum: u32,
) {
    let (kind, code, rest) = error.fields(Family::V6);
    let payload_len = (8 + QUOTE_LEN) as u16;
    let pseudo =
        checksum::sum(&source) + checksum::sum(&destination) + payload_len as u32 + protocol::ICMPV6 as u32;
    let icmp_sum = pseudo + ((kind as u32) << 8) + code as u32 + (rest >> 16) + (rest & 0xffff) + quote_sum;
    let [check_high, check_low] = checksum::finish(icmp_sum).to_be_bytes();
    let [len_high, len_low] = payload_len.to_be_bytes();
    *out = [0; V6_LEN];
    out[0] = 0x60;
    out[4] = len_high;
    out[5] = len_low;
    out[6] = protocol::ICMPV6;
    out[7] = 64;
    out[8..24].copy_from_slice(&destination);
    out[24..40].copy_from_slice(&source);
    out[40] = kind;
    out[41] = code;
    out[42] = check_high;
    out[43] = check_low;
    out[44..48].copy_from_slice(&rest.to_be_bytes());
}

#[inline(always)]
const fn words(address: [u8; 4]) -> u32 {
    let [a, b, c, d] = address;
    u16::from_be_bytes([a, b]) as u32 + u16::from_be_bytes([c, d]) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_of_an_ipv4_error_add_up() {
        let quote = [0x5au8; QUOTE_LEN];
        let mut out = [0; V4_LEN];
        write_v4(&mut out, Error::TooBig { mtu: 1400 }, [10, 0, 0, 1], [10, 0, 0, 2], checksum::sum(&quote));
        assert_eq!(checksum::fold(checksum::sum(&out[..20])), 0xffff);
        assert_eq!(checksum::fold(checksum::sum(&out[20..]) + checksum::sum(&quote)), 0xffff);
        assert_eq!(out[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(out[20..22], [3, 4]);
        assert_eq!(out[26..28], 1400u16.to_be_bytes());
    }

    #[test]
    fn the_checksum_of_an_ipv6_error_adds_up() {
        let quote = [0x33u8; QUOTE_LEN];
        let (source, destination) = ([1u8; 16], [2u8; 16]);
        let mut out = [0; V6_LEN];
        write_v6(&mut out, Error::TooBig { mtu: 1444 }, source, destination, checksum::sum(&quote));
        let len = (8 + QUOTE_LEN) as u32;
        let pseudo = checksum::pseudo_header(&out[8..40], protocol::ICMPV6, len);
        assert_eq!(checksum::fold(pseudo + checksum::sum(&out[40..]) + checksum::sum(&quote)), 0xffff);
        assert_eq!(out[40..42], [2, 0]);
        assert_eq!(out[46..48], 1444u16.to_be_bytes());
    }
}
