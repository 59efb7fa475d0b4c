//! IP addresses as the maps and programs hold them: always 16 bytes, IPv4 as `::ffff:a.b.c.d`
//! (RFC 4291, 2.5.5.2), so that both families are one code path.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IP version of a packet or header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Length of the fixed header in bytes, without IPv4 options or IPv6 extension headers.
    #[inline(always)]
    pub const fn header_len(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// The EtherType (IEEE 802 numbers).
    #[inline(always)]
    pub const fn ethertype(self) -> u16 {
        match self {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }
}

/// An IPv4 or IPv6 address, 16 bytes in network order.
///
/// Held as two 64-bit words, so that copies and comparisons are two instructions in eBPF.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address {
    words: [u64; 2],
}

/// The upper bytes of an IPv4-mapped address, as the second word's low half in memory.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

impl Address {
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            words: [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ],
        }
    }

    /// An address as an IPv6 header has it.
    ///
    /// One that spells an IPv4 address has no place there (RFC 4291, 2.5.5.2 is for the API of a
    /// host), and would pass for that IPv4 address in a table: it becomes `::`, which nobody has.
    #[inline(always)]
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        let address = Self::from_bytes(octets);
        match address.family() {
            Family::V4 => Self { words: [0; 2] },
            Family::V6 => address,
        }
    }

    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        // In words and not bytes: two instructions in eBPF.
        let (mapped, octets) = (u32::from_ne_bytes(MAPPED) as u64, u32::from_ne_bytes(octets) as u64);
        let word = if cfg!(target_endian = "little") { octets << 32 | mapped } else { mapped << 32 | octets };
        Self { words: [0, word] }
    }

    /// The 16 bytes in network order.
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.words[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.words[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The 16 bytes as two words in host order, for hashing and comparing.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; 2] {
        self.words
    }

    #[inline(always)]
    pub const fn family(self) -> Family {
        let [m, n, o, p, ..] = self.words[1].to_ne_bytes();
        if self.words[0] == 0 && u32::from_ne_bytes([m, n, o, p]) == u32::from_ne_bytes(MAPPED) {
            Family::V4
        } else {
            Family::V6
        }
    }

    pub const fn to_ip(self) -> IpAddr {
        match self.family() {
            Family::V4 => {
                let [.., a, b, c, d] = self.to_bytes();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            Family::V6 => IpAddr::V6(Ipv6Addr::from_octets(self.to_bytes())),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self::from_bytes(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        address.to_ip()
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_held_as_a_mapped_address() {
        let address = Address::from(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
        assert_eq!(address.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(address.family(), Family::V4);
        assert_eq!(address.to_ip(), IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
    }

    #[test]
    fn ipv6_keeps_its_bytes() {
        let ip: Ipv6Addr = "fd00:1::42".parse().unwrap();
        let address = Address::from(IpAddr::V6(ip));
        assert_eq!(address.to_bytes(), ip.octets());
        assert_eq!(address.family(), Family::V6);
        assert_eq!(address.to_ip(), IpAddr::V6(ip));
        assert_eq!(Address::from_v6(ip.octets()), address);
    }

    #[test]
    fn an_ipv6_header_cannot_name_an_ipv4_address() {
        let v4 = Address::from_v4([10, 1, 2, 3]);
        assert_ne!(Address::from_v6(v4.to_bytes()), v4);
        assert_eq!(Address::from_v6(v4.to_bytes()).to_ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
}
