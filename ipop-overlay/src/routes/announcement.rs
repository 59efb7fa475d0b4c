//! What a router says: the value of its record.
//!
//! ```text
//!  0 version 1 · 1 priority · 2 how many subnets · 3 zero
//!  4 for each: address, an IPv4 one mapped into IPv6 · 16 length of the prefix, of 128 bits
//! ```

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use ipop_common::Address;
use ipop_common::cursor::Cursor;

/// Subnets that one router announces.
pub const SUBNETS_MAX: usize = 32;
const HEAD_LEN: usize = 4;
const SUBNET_LEN: usize = 17;
const VERSION: u8 = 1;
/// Bits before the addresses of IPv4.
const MAPPED: u8 = 96;

/// A prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    address: IpAddr,
    len: u8,
}

impl Subnet {
    /// Clears the host bits; `None` if the length is more than the address has.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let mapped = if address.is_ipv4() { MAPPED } else { 0 };
        (len <= bits_max).then(|| Self::of_bits(bits(address), mapped + len)).flatten()
    }

    /// From an address and a length of 128 bits; host bits are cleared.
    fn of_bits(address: u128, len: u8) -> Option<Self> {
        let network = address & !u128::MAX.checked_shr(len.into()).unwrap_or(0);
        let address = Address::from_bytes(network.to_be_bytes()).to_ip();
        let len = if address.is_ipv4() { len.checked_sub(MAPPED)? } else { len };
        Some(Self { address, len })
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Of the address's own family.
    #[expect(clippy::len_without_is_empty, reason = "a length in bits; no prefix is empty")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// All addresses of a family: what an exit node announces.
    pub fn is_default(self) -> bool {
        self.len == 0
    }

    /// Whether `other` is this one or a part of it.
    pub fn covers(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.len <= other.len
            && Self::new(other.address, self.len) == Some(self)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether hosts elsewhere can have addresses of it: not where it lies in what each host, or each wire, has for
    /// itself (RFC 6890).
    pub fn is_routable(self) -> bool {
        const LOCAL_V4: [([u8; 4], u8); 4] =
            [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([169, 254, 0, 0], 16), ([224, 0, 0, 0], 3)];
        const LOCAL_V6: [(u16, u8); 3] = [(0, 16), (0xfe80, 10), (0xff00, 8)];
        let mut local = LOCAL_V4
            .iter()
            .map(|(address, len)| (IpAddr::from(*address), *len))
            .chain(LOCAL_V6.iter().map(|(first, len)| (IpAddr::from([*first, 0, 0, 0, 0, 0, 0, 0]), *len)));
        self.is_default()
            || !local.any(|(address, len)| Self::new(address, len).is_some_and(|local| local.covers(self)))
    }
}

fn bits(address: IpAddr) -> u128 {
    u128::from_be_bytes(Address::from(address).to_bytes())
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a router announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Of several routers of one subnet, that with the highest is used.
    pub priority: u8,
    /// At most [`SUBNETS_MAX`], each once.
    pub subnets: Vec<Subnet>,
}

impl Announcement {
    pub fn to_bytes(&self) -> Vec<u8> {
        debug_assert!(self.subnets.len() <= SUBNETS_MAX, "the configuration has checked that");
        let subnets = self.subnets.get(..SUBNETS_MAX).unwrap_or(&self.subnets);
        let mut bytes = Vec::with_capacity(HEAD_LEN + subnets.len() * SUBNET_LEN);
        bytes.extend([VERSION, self.priority, subnets.len() as u8, 0]);
        for subnet in subnets {
            let mapped = if subnet.address.is_ipv4() { MAPPED } else { 0 };
            bytes.extend(bits(subnet.address).to_be_bytes());
            bytes.push(mapped + subnet.len);
        }
        bytes
    }

    /// Reads a value. None that any node of ours writes has host bits, or a subnet twice.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let [VERSION, priority, count, 0] = value.bytes::<HEAD_LEN>(0)? else { return None };
        let count = usize::from(count);
        if count > SUBNETS_MAX || value.len() != HEAD_LEN + count * SUBNET_LEN {
            return None;
        }
        let mut subnets = Vec::with_capacity(count);
        for index in 0..count {
            let at = HEAD_LEN + index * SUBNET_LEN;
            let address = u128::from_be_bytes(value.bytes(at)?);
            let len = value.u8_at(at + 16).filter(|len| *len <= 128)?;
            let subnet = Subnet::of_bits(address, len)?;
            if bits(subnet.address) != address || subnets.contains(&subnet) {
                return None;
            }
            subnets.push(subnet);
        }
        Some(Self { priority, subnets })
    }
}
