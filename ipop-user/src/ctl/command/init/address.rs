//! The virtual address of a node that is given none: one that follows from its key, so that nobody has
//! to hand them out.

use std::net::IpAddr;

use crate::config::Prefix;
use crate::ctl::failure::Failure;
use crate::key::NodeAddress;
use crate::token::Member;

/// Of a network that nobody has given addresses.
const NETWORK_DEFAULT: &str = "10.128.0.0/16";

/// An address in each of the inviter's networks, or in the one of new networks.
pub(super) fn derive(inviter: Option<&Member>, node: &NodeAddress) -> Result<Vec<String>, Failure> {
    let networks = match inviter {
        Some(inviter) => inviter.addresses.clone(),
        None => vec![NETWORK_DEFAULT.parse().expect("a prefix")],
    };
    let derived = networks.iter().map(|network| match address_in(*network, node) {
        Some(address) => Ok(address.to_string()),
        None => {
            Err(Failure::Usage(format!("{network} has no room for another node; give this one an --address")))
        }
    });
    derived.collect()
}

/// An address that two nodes of a network seldom share: not the network's first nor last, nor the one
/// that the network is written with. `None` if there is no other.
fn address_in(network: Prefix, node: &NodeAddress) -> Option<Prefix> {
    let host_bits = Prefix::host(network.addr()).len() - network.len();
    let last = u128::MAX.checked_shr(128 - u32::from(host_bits)).unwrap_or(0);
    let hosts = last.checked_sub(1).filter(|hosts| *hosts > 0)?;
    let written = match network.addr() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let derived = 1 + u128::from_be_bytes(*node.as_bytes().first_chunk()?) % hosts;
    let host = if derived == written & last { 1 + derived % hosts } else { derived };
    let bits = written & !last | host;
    let addr = match network.addr() {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(bits).ok()?.into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    };
    Prefix::new(addr, network.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;

    fn nodes() -> impl Iterator<Item = NodeAddress> {
        (0..=255).map(|byte| PublicKey::from_bytes([byte; 32]).node_address())
    }

    #[test]
    fn derived_addresses_are_those_of_other_hosts() {
        for text in [
            "10.128.0.0/16",
            "10.128.0.1/24",
            "10.0.0.2/30",
            "0.0.0.1/0",
            "fd00::1/64",
            "fd00::1/126",
            "::1/0",
        ] {
            let network: Prefix = text.parse().unwrap();
            for node in nodes() {
                let address = address_in(network, &node).unwrap();
                assert!(network.contains(address.addr()) && address.len() == network.len(), "{address}");
                assert!(address.has_host_bits() && address.addr() != network.addr(), "{address}");
                if let (IpAddr::V4(v4), 24) = (address.addr(), address.len()) {
                    assert_ne!(v4.octets()[3], 255);
                }
            }
        }
    }

    #[test]
    fn derived_addresses_are_spread() {
        let network: Prefix = "10.128.0.1/16".parse().unwrap();
        let derived: std::collections::HashSet<Prefix> =
            nodes().filter_map(|node| address_in(network, &node)).collect();
        assert!(derived.len() > 250, "{}", derived.len());
    }

    #[test]
    fn a_network_of_one_or_two_has_no_room() {
        for text in ["10.0.0.1/32", "10.0.0.0/31", "fd00::1/127", "fd00::1"] {
            assert_eq!(nodes().find_map(|node| address_in(text.parse().unwrap(), &node)), None, "{text}");
        }
    }
}
