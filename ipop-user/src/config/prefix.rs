//! IP prefixes: an address and how many of its leading bits matter. Knows nothing of routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("`{0}` is not an IP address or prefix")]
    Unparsable(String),
    #[error("prefix length of `{text}` is over {len_max}")]
    TooLong { text: String, len_max: u8 },
    #[error("`{0}` is an IPv4 address in IPv6 clothes")]
    Mapped(String),
}

/// An address with a prefix length that its family allows. Host bits are kept as written, since
/// `10.128.0.1/24` names both an interface's address and its network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// `None` if `len` is over 32 or 128.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        (len <= len_max(addr)).then_some(Self { addr, len })
    }

    /// The prefix that holds one address.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: len_max(addr) }
    }

    /// The address as written, host bits included.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    /// Prefix length in bits.
    #[expect(clippy::len_without_is_empty, reason = "a length in bits; no prefix is empty")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// The same prefix, its host bits cleared.
    pub fn network(self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { addr, len: self.len }
    }

    /// Whether it holds exactly one address.
    pub fn is_host(self) -> bool {
        self.len == len_max(self.addr)
    }

    /// Whether bits beyond the prefix length are set.
    pub fn has_host_bits(self) -> bool {
        self.network().addr != self.addr
    }

    /// Whether the address lies in the prefix. Never across families.
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4()
            && Self { addr, len: self.len }.network().addr == self.network().addr
    }

    /// Whether every address of `other` lies in this prefix.
    pub fn covers(self, other: Prefix) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// Whether any address lies in both.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.covers(other) || other.covers(self)
    }
}

fn len_max(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `address/length`, or a bare address, which is a prefix of one.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let unparsable = || PrefixError::Unparsable(text.to_owned());
        let (addr_text, len_text) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr_text.parse().map_err(|_| unparsable())?;
        if let IpAddr::V6(v6) = addr
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(PrefixError::Mapped(text.to_owned()));
        }
        let Some(len_text) = len_text else { return Ok(Self::host(addr)) };
        if len_text.is_empty() || !len_text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(unparsable());
        }
        let too_long = || PrefixError::TooLong { text: text.to_owned(), len_max: len_max(addr) };
        Self::new(addr, len_text.parse().map_err(|_| too_long())?).ok_or_else(too_long)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.addr, self.len))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_bare_address_is_a_prefix_of_one() {
        assert_eq!(prefix("10.1.2.3"), prefix("10.1.2.3/32"));
        assert_eq!(prefix("fd00::1").to_string(), "fd00::1/128");
        assert!(prefix("fd00::1").is_host());
    }

    #[test]
    fn host_bits_are_kept_until_the_network_is_asked_for() {
        let own = prefix("10.128.0.1/24");
        assert_eq!(own.to_string(), "10.128.0.1/24");
        assert!(own.has_host_bits());
        assert_eq!(own.network().to_string(), "10.128.0.0/24");
        assert_eq!(prefix("255.1.2.3/0").network().to_string(), "0.0.0.0/0");
        assert_eq!(prefix("fd00::1/0").network().to_string(), "::/0");
    }

    #[test]
    fn containment_ends_where_the_prefix_ends() {
        let net = prefix("10.128.0.0/23");
        assert!(net.contains("10.128.1.255".parse().unwrap()));
        assert!(!net.contains("10.128.2.0".parse().unwrap()));
        assert!(!net.contains("::ffff:10.128.0.1".parse().unwrap()));
        assert!(prefix("::/0").contains("fd00::1".parse().unwrap()));
    }

    #[test]
    fn texts_that_are_no_prefix_say_why() {
        let reason = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        assert_eq!(reason("10.0.0/8"), "`10.0.0/8` is not an IP address or prefix");
        assert_eq!(reason("10.0.0.0/"), "`10.0.0.0/` is not an IP address or prefix");
        assert_eq!(reason("10.0.0.0/+8"), "`10.0.0.0/+8` is not an IP address or prefix");
        assert_eq!(reason("10.0.0.0/33"), "prefix length of `10.0.0.0/33` is over 32");
        assert_eq!(reason("fd00::/999"), "prefix length of `fd00::/999` is over 128");
        assert_eq!(reason("::ffff:10.0.0.1"), "`::ffff:10.0.0.1` is an IPv4 address in IPv6 clothes");
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct leading bits, so that overlaps are common.
        prop_oneof![
            (0u32..16, 0u32..4, 0u8..=32).prop_map(|(high, low, len)| {
                Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(high << 28 | low)), len).unwrap()
            }),
            (0u128..16, 0u128..4, 0u8..=128).prop_map(|(high, low, len)| {
                Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(high << 124 | low)), len).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn text_form_is_read_back(prefix in any_prefix()) {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
        }

        #[test]
        fn prefixes_overlap_exactly_if_one_network_address_lies_in_the_other(a in any_prefix(), b in any_prefix()) {
            let expected = a.contains(b.network().addr()) || b.contains(a.network().addr());
            prop_assert_eq!(a.overlaps(b), expected);
            prop_assert_eq!(b.overlaps(a), expected);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Prefix>();
        }
    }
}
