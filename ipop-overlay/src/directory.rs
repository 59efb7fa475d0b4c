//! Who is behind an address or a name of the virtual network, as the DHT says, and what a node says of itself there.
//!
//! | name | record, a create but for services |
//! |---|---|
//! | `dhcp:NAMESPACE:ADDRESS` | the lease of an address: the owner's host name (see [`dhcp`](crate::dhcp)) |
//! | `host:NAMESPACE:HOST` | the addresses of a host, 16 bytes each, IPv4 ones mapped into IPv6 |
//! | `service:NAMESPACE:_SERVICE._PROTOCOL` | a put of each host that has it: priority u16, weight u16, port u16, host |
//!
//! Records are signed by their owners, so an answer is as good as the key in it; that the owner of a name has the
//! addresses that it gives is for who asks to check. Answers are kept for a while, also that there is none.

mod lookup;
mod registration;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipop_common::Address;
use ipop_common::cursor::Cursor;

pub use lookup::{Answer, CACHED_MAX, Directory, Question};
pub use registration::{Registration, State};

/// Hosts that one answer has of a service.
pub const SERVICES_MAX: usize = 32;
/// Where the host's name begins in the record of a service.
const SERVICE_HOST_AT: usize = 6;
/// Addresses of one host.
pub const HOST_ADDRESSES_MAX: usize = 16;
const ADDRESS_LEN: usize = 16;

/// The name of a host's record. Hosts are told apart as in the DNS: without case.
pub fn host_name(namespace: &str, host: &str) -> Vec<u8> {
    [b"host:", namespace.as_bytes(), b":", host.to_ascii_lowercase().as_bytes()].concat()
}

/// The value of a host's record: as many of its addresses as there may be.
pub fn host_value(addresses: &[IpAddr]) -> Vec<u8> {
    let addresses = addresses.iter().take(HOST_ADDRESSES_MAX);
    addresses.flat_map(|address| Address::from(*address).to_bytes()).collect()
}

/// The addresses in a host's record.
pub fn host_addresses(value: &[u8]) -> Option<Vec<IpAddr>> {
    if !value.len().is_multiple_of(ADDRESS_LEN) || value.len() > HOST_ADDRESSES_MAX * ADDRESS_LEN {
        return None;
    }
    let at = |index| Some(Address::from_bytes(value.bytes(index * ADDRESS_LEN)?).to_ip());
    (0..value.len() / ADDRESS_LEN).map(at).collect()
}

/// What a host offers (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// In lower case.
    pub host: String,
}

impl Service {
    /// The name of the records of a service, like `_http._tcp`.
    pub fn name(namespace: &str, service: &str) -> Vec<u8> {
        [b"service:", namespace.as_bytes(), b":", service.to_ascii_lowercase().as_bytes()].concat()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.priority, self.weight, self.port].map(u16::to_be_bytes).concat();
        [&numbers[..], self.host.as_bytes()].concat()
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let [priority, weight, port] = [value.u16_at(0)?, value.u16_at(2)?, value.u16_at(4)?];
        let host = core::str::from_utf8(value.get(SERVICE_HOST_AT..)?).ok()?;
        Some(Self { priority, weight, port, host: host.to_ascii_lowercase() })
    }
}
