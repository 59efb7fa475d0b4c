//! The addresses that a network has, as its description in the DHT says.
//!
//! ```text
//!  0 version 1 · 1 length of the prefix, of 128 bits · 2 how many are reserved · 3 flags: 1 an IPv6 network beside it
//!  4 life of a lease in seconds u32 · 8 network, an IPv4 one mapped into IPv6
//! 24 for each that is reserved: address · 16 the node that may have it
//!    then, with that flag: the first 64 bits of the network in which addresses follow from keys
//! ```

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use blake2::{Blake2s256, Digest};
use ipop_common::Address;
use ipop_common::cursor::Cursor;

use crate::address::{ADDRESS_LEN, NodeAddress};
use crate::dht::{NAME_MAX, TTL_MAX_S, VALUE_MAX};

/// The longest namespace, so that a name with an address is short enough.
pub const NAMESPACE_MAX: usize = NAME_MAX - "dhcp::".len() - 39;
/// Addresses that one description reserves.
pub const RESERVED_MAX: usize = (VALUE_MAX - HEAD_LEN - STATELESS_LEN) / RESERVED_LEN;
/// Bits of the network in which addresses follow from keys (RFC 4291, section 2.5.1).
pub const STATELESS_BITS: u8 = 64;
const HEAD_LEN: usize = 24;
const RESERVED_LEN: usize = 16 + ADDRESS_LEN;
const STATELESS_LEN: usize = 8;
const VERSION: u8 = 1;
/// The flag of a description with such a network.
const HAS_STATELESS: u8 = 1;
/// Bits before the addresses of IPv4.
const MAPPED: u8 = 96;
/// The shortest lease, in seconds: two renewals fit in.
const LEASE_MIN_S: u32 = 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    network: IpAddr,
    /// Of 128 bits.
    len: u8,
    lease_s: u32,
    reserved: Vec<(IpAddr, NodeAddress)>,
    /// The first 64 bits of an IPv6 network in which each node has the address that follows from its key.
    stateless: Option<u64>,
}

/// Why a pool cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// The prefix is longer than the address, or leaves no host.
    Prefix,
    /// A lease lasts from a minute to a day.
    Lease,
    /// More are reserved than fit, or one that is not in the network, or one twice.
    Reserved,
    /// An IPv6 network in which addresses follow from keys has a prefix of 64 bits, and is not where leases are of.
    Stateless,
}

/// The name of a network's description.
pub fn namespace_name(namespace: &str) -> Vec<u8> {
    [b"dhcp:", namespace.as_bytes()].concat()
}

/// The name of an address's lease.
pub fn lease_name(namespace: &str, address: IpAddr) -> Vec<u8> {
    [&namespace_name(namespace)[..], b":", address.to_string().as_bytes()].concat()
}

/// The address of a node in an IPv6 network with a prefix of up to 64 bits: nobody has to be asked for it
/// (RFC 7217, without its secret: the key is one already).
pub fn stateless(network: Ipv6Addr, public_key: &[u8; 32]) -> IpAddr {
    let prefix = u128::from(network) >> 64 << 64;
    IpAddr::V6((prefix | u128::from(hash(b"ipop stateless address v1", public_key)[0])).into())
}

fn hash(domain: &[u8], key: &[u8; 32]) -> [u64; 2] {
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, domain);
    Digest::update(&mut hash, key);
    let digest: [u8; 32] = hash.finalize().into();
    [0, 8].map(|at| Cursor::u64_at(&digest[..], at).unwrap_or(0))
}

impl Pool {
    /// The addresses of a network, for leases of so many seconds.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(
        network: IpAddr,
        prefix_len: u8,
        lease_s: u32,
        reserved: Vec<(IpAddr, NodeAddress)>,
    ) -> Result<Self, PoolError> {
        let len = if network.is_ipv4() { MAPPED.checked_add(prefix_len) } else { Some(prefix_len) };
        let len = len.filter(|len| *len < 128).ok_or(PoolError::Prefix)?;
        let mut pool = Self { network, len, lease_s, reserved: Vec::new(), stateless: None };
        pool.network = Address::from_bytes((bits(network) & !pool.host_mask()).to_be_bytes()).to_ip();
        if !(LEASE_MIN_S..=TTL_MAX_S as u32).contains(&lease_s) {
            return Err(PoolError::Lease);
        }
        let is_twice =
            |index: usize, address: &IpAddr| reserved.iter().take(index).any(|(other, _)| other == address);
        let mut all = reserved.iter().enumerate();
        if reserved.len() > RESERVED_MAX
            || all.any(|(index, (address, _))| !pool.contains(*address) || is_twice(index, address))
        {
            return Err(PoolError::Reserved);
        }
        pool.reserved = reserved;
        Ok(pool)
    }

    /// The same with an IPv6 network beside it, in which each node has the address that follows from its key.
    ///
    /// # Errors
    /// If it has not [`STATELESS_BITS`], or its addresses may be leased.
    pub fn with_stateless(mut self, network: Ipv6Addr, prefix_len: u8) -> Result<Self, PoolError> {
        let half = (network.to_bits() >> 64) as u64;
        let shared = u128::from(half) << 64 ^ bits(self.network);
        let overlaps = self.network.is_ipv6() && shared >> (128 - self.len.min(STATELESS_BITS)) == 0;
        if prefix_len != STATELESS_BITS || network.to_bits() != u128::from(half) << 64 || overlaps {
            return Err(PoolError::Stateless);
        }
        self.stateless = Some(half);
        Ok(self)
    }

    /// The IPv6 network beside it.
    pub fn stateless_network(&self) -> Option<Ipv6Addr> {
        self.stateless.map(|half| Ipv6Addr::from_bits(u128::from(half) << 64))
    }

    /// The address that follows from a node's key.
    pub fn stateless_of(&self, public_key: &[u8; 32]) -> Option<IpAddr> {
        self.stateless_network().map(|network| stateless(network, public_key))
    }

    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Of the addresses of its family.
    pub fn prefix_len(&self) -> u8 {
        if self.network.is_ipv4() { self.len - MAPPED } else { self.len }
    }

    pub fn lease_s(&self) -> u32 {
        self.lease_s
    }

    /// How many addresses it has, as far as 64 bits go.
    pub fn size(&self) -> u64 {
        let (first, last) = self.ends();
        u64::try_from(last - first).unwrap_or(u64::MAX - 1) + 1
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, last) = self.ends();
        address.is_ipv4() == self.network.is_ipv4()
            && (bits(self.network) | first..=bits(self.network) | last).contains(&bits(address))
    }

    /// All addresses that are reserved, and for which nodes.
    pub fn reserved(&self) -> impl Iterator<Item = (IpAddr, NodeAddress)> {
        self.reserved.iter().copied()
    }

    /// The node for which an address is reserved.
    pub fn owner(&self, address: IpAddr) -> Option<NodeAddress> {
        self.reserved.iter().find(|(reserved, _)| *reserved == address).map(|(_, owner)| *owner)
    }

    /// The address that is reserved for a node.
    pub fn reserved_for(&self, node: NodeAddress) -> Option<IpAddr> {
        self.reserved.iter().find(|(_, owner)| *owner == node).map(|(address, _)| *address)
    }

    /// The address that a node tries after so many others: each once, in an order of its own.
    pub fn candidate(&self, public_key: &[u8; 32], tried: u64) -> Option<IpAddr> {
        let size = self.size();
        if tried >= size {
            return None;
        }
        let [start, mut step] = hash(b"ipop lease v1", public_key);
        while gcd(step, size) != 1 {
            step = step.wrapping_add(1);
        }
        let wide = u128::from(start) + u128::from(step) * u128::from(tried);
        let number = wide % u128::from(size);
        let bits = bits(self.network) | (self.ends().0 + number);
        Some(Address::from_bytes(bits.to_be_bytes()).to_ip())
    }

    fn host_mask(&self) -> u128 {
        u128::MAX >> self.len
    }

    /// The first and the last host: neither the network itself nor, of IPv4, all its hosts; but both of two.
    fn ends(&self) -> (u128, u128) {
        let mask = self.host_mask();
        match (mask, self.network.is_ipv4()) {
            (1, _) => (0, 1),
            (_, true) => (1, mask - 1),
            (_, false) => (1, mask),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u8::try_from(self.reserved.len()).unwrap_or(u8::MAX);
        let mut out = Vec::with_capacity(HEAD_LEN + self.reserved.len() * RESERVED_LEN + STATELESS_LEN);
        out.extend([VERSION, self.len, count, u8::from(self.stateless.is_some()) * HAS_STATELESS]);
        out.extend(self.lease_s.to_be_bytes());
        out.extend(bits(self.network).to_be_bytes());
        for (address, owner) in &self.reserved {
            out.extend(bits(*address).to_be_bytes());
            out.extend(owner.0);
        }
        self.stateless.into_iter().for_each(|half| out.extend(half.to_be_bytes()));
        out
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [VERSION, len, count, flags @ (0 | HAS_STATELESS)] = bytes.bytes::<4>(0)? else { return None };
        let lease_s = bytes.u32_at(4)?;
        let network = Address::from_bytes(bytes.bytes(8)?).to_ip();
        let reserved = (0..usize::from(count)).map(|index| {
            let at = HEAD_LEN + index * RESERVED_LEN;
            let owner = bytes.bytes::<ADDRESS_LEN>(at + 16)?;
            let is_place = owner[ADDRESS_LEN - 1] & 1 == 0;
            Some((Address::from_bytes(bytes.bytes(at)?).to_ip(), NodeAddress(owner))).filter(|_| is_place)
        });
        let reserved: Vec<_> = reserved.collect::<Option<_>>()?;
        let prefix_len = if network.is_ipv4() { len.checked_sub(MAPPED)? } else { len };
        let end = HEAD_LEN + reserved.len() * RESERVED_LEN;
        let mut pool = Self::new(network, prefix_len, lease_s, reserved).ok()?;
        if flags == HAS_STATELESS {
            let half = u128::from(bytes.u64_at(end)?) << 64;
            pool = pool.with_stateless(Ipv6Addr::from_bits(half), STATELESS_BITS).ok()?;
        }
        // There is one form of each.
        (pool.to_bytes() == bytes).then_some(pool)
    }
}

fn bits(address: IpAddr) -> u128 {
    u128::from_be_bytes(Address::from(address).to_bytes())
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
