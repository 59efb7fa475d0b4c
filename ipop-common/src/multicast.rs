//! Packets for many: which go to a group, to which, and what of this host's is for nobody else.

use crate::address::{Address, Family};
use crate::counter::Counter;
use crate::cursor::Cursor;
use crate::inner::{Inner, protocol};

/// The kind of a group whose address is an IP multicast address.
pub const KIND_IP: u8 = 1;
/// The kind of the one group, with the address all zero, of all nodes: what is broadcast goes there, and what is for
/// all hosts (224.0.0.1, ff02::1).
pub const KIND_ALL: u8 = 2;

/// The kind of the one group, with the address all zero, of all nodes of a network that carries Ethernet.
pub const KIND_ETHERNET: u8 = 3;

const IGMP: u8 = 2;
const HOP_BY_HOP: u8 = 0;
/// ICMPv6 types of MLD (RFC 3810, section 5; RFC 2710).
const MLD: [u8; 4] = [130, 131, 132, 143];
/// Those of neighbour discovery (RFC 4861, section 4).
const DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
/// 224.0.0.1 and ff02::1.
const ALL_HOSTS_V4: Address = Address::from_v4([224, 0, 0, 1]);
const ALL_HOSTS_V6: Address = Address::from_v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// Solicited-node addresses (RFC 4291, section 2.7.1) are under ff02::1:ff00:0/104.
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// To whom a packet for many goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The members of the group with this address.
    Group(Address),
    /// All nodes.
    All,
    /// All nodes, with a frame of Ethernet.
    Ethernet,
}

/// What is to be done with a packet of this host's for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    Send(Target),
    /// It says which groups the host is a member of, and goes no further.
    Membership,
    Refuse(Counter),
}

impl Target {
    /// The group by which the overlay knows it.
    pub const fn group(self) -> (u8, [u8; 16]) {
        match self {
            Self::Group(address) => (KIND_IP, address.to_bytes()),
            Self::All => (KIND_ALL, [0; 16]),
            Self::Ethernet => (KIND_ETHERNET, [0; 16]),
        }
    }

    /// The target of a group that the overlay knows; `None` where it is none of this version's.
    pub fn of_group(kind: u8, address: [u8; 16]) -> Option<Self> {
        match kind {
            KIND_IP => Some(Self::Group(Address::from_bytes(address))),
            KIND_ALL if address == [0; 16] => Some(Self::All),
            KIND_ETHERNET if address == [0; 16] => Some(Self::Ethernet),
            _ => None,
        }
    }
}

/// Whether no single node has an address: it is a multicast address or 255.255.255.255.
#[inline(always)]
pub fn is_for_many(address: &Address) -> bool {
    let bytes = address.to_bytes();
    match address.family() {
        Family::V4 => bytes[12] >> 4 == 0xe || bytes[12..] == [0xff; 4],
        Family::V6 => bytes[0] == 0xff,
    }
}

/// The target of an address for many; `None` where its packets stay on the host.
pub fn target(address: &Address) -> Option<Target> {
    if *address == ALL_HOSTS_V4 || *address == ALL_HOSTS_V6 {
        return Some(Target::All);
    }
    let bytes = address.to_bytes();
    match address.family() {
        Family::V4 if bytes[12] >> 4 == 0xe => Some(Target::Group(*address)),
        Family::V4 => Some(Target::All),
        // Scopes that are reserved or this interface's (RFC 4291, section 2.7).
        Family::V6 if bytes[1] & 0xf <= 1 || bytes.starts_with(&SOLICITED_NODE) => None,
        Family::V6 => Some(Target::Group(*address)),
    }
}

/// Decides about a packet of this host's whose destination is for many.
pub fn outgoing<C: Cursor>(packet: C, inner: &Inner) -> Outgoing {
    match (inner.family, icmpv6_type(packet, inner)) {
        (Family::V4, _) if inner.protocol == IGMP => return Outgoing::Membership,
        (Family::V6, Some(kind)) if MLD.contains(&kind) => return Outgoing::Membership,
        (Family::V6, Some(kind)) if DISCOVERY.contains(&kind) => {
            return Outgoing::Refuse(Counter::TxNeighbourDiscovery);
        }
        _ => {}
    }
    target(&inner.destination).map_or(Outgoing::Refuse(Counter::TxNoGroup), Outgoing::Send)
}

/// Whether a packet that has come for a target is for it: of the same kind as what this host would send there.
pub fn is_for<C: Cursor>(packet: C, inner: &Inner, wanted: Target, is_broadcast: bool) -> bool {
    match outgoing(packet, inner) {
        _ if is_broadcast => wanted == Target::All,
        Outgoing::Send(target) => is_for_many(&inner.destination) && target == wanted,
        Outgoing::Membership | Outgoing::Refuse(_) => false,
    }
}

/// The type of an ICMPv6 message, behind hop-by-hop options where it has them, as MLD does.
fn icmpv6_type<C: Cursor>(packet: C, inner: &Inner) -> Option<u8> {
    let at = usize::from(inner.header_len);
    match (inner.family, inner.protocol) {
        (Family::V6, protocol::ICMPV6) => packet.u8_at(at),
        (Family::V6, HOP_BY_HOP) if packet.u8_at(at)? == protocol::ICMPV6 => {
            packet.u8_at(at + (usize::from(packet.u8_at(at + 1)?) + 1) * 8)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::net::IpAddr;
    use std::vec::Vec;

    use super::*;

    fn at(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// An IPv4 packet of a protocol, or an IPv6 one with what follows its header.
    fn packet(to: &str, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = match to.parse::<IpAddr>().unwrap() {
            IpAddr::V4(to) => {
                let len = 20 + rest.len() as u8;
                [&[0x45, 0, 0, len, 0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, 1][..], &to.octets()].concat()
            }
            IpAddr::V6(to) => {
                let head = [0x60, 0, 0, 0, 0, rest.len() as u8, protocol, 1];
                [&head[..], &[0xfd; 16], &to.octets()].concat()
            }
        };
        packet.extend(rest);
        packet
    }

    fn decided(to: &str, protocol: u8, rest: &[u8]) -> Outgoing {
        let packet = packet(to, protocol, rest);
        outgoing(&packet[..], &Inner::parse_any(&packet[..], 0).unwrap())
    }

    #[test]
    fn which_addresses_are_for_many_and_where_they_lead() {
        for (text, expected) in [
            ("224.0.0.251", Some(Target::Group(at("224.0.0.251")))),
            ("239.255.0.1", Some(Target::Group(at("239.255.0.1")))),
            ("ff02::fb", Some(Target::Group(at("ff02::fb")))),
            ("ff3e::8000:1", Some(Target::Group(at("ff3e::8000:1")))),
            ("224.0.0.1", Some(Target::All)),
            ("255.255.255.255", Some(Target::All)),
            ("ff02::1", Some(Target::All)),
            ("ff01::fb", None),
            ("ff00::1", None),
            ("ff02::1:ff00:7", None),
        ] {
            assert!(is_for_many(&at(text)), "{text}");
            assert_eq!(target(&at(text)), expected, "{text}");
            if let Some(target) = expected {
                let (kind, address) = target.group();
                assert_eq!(Target::of_group(kind, address), expected);
            }
        }
        for text in ["10.0.0.1", "223.255.255.255", "240.0.0.1", "fe80::1", "fd00::1"] {
            assert!(!is_for_many(&at(text)), "{text}");
        }
        assert_eq!(Target::of_group(KIND_ALL, [1; 16]), None);
        assert_eq!(Target::of_group(KIND_ETHERNET, [0; 16]), Some(Target::Ethernet));
        assert_eq!(Target::of_group(4, [0; 16]), None);
    }

    #[test]
    fn what_hosts_say_of_groups_and_neighbours_goes_no_further() {
        assert_eq!(decided("224.0.0.22", IGMP, &[0x22, 0, 0, 0]), Outgoing::Membership);
        let router_alert = [58, 0, 5, 2, 0, 0, 1, 0];
        for kind in MLD {
            let rest = [&router_alert[..], &[kind, 0, 0, 0]].concat();
            assert_eq!(decided("ff02::16", HOP_BY_HOP, &rest), Outgoing::Membership);
        }
        for kind in DISCOVERY {
            let expected = Outgoing::Refuse(Counter::TxNeighbourDiscovery);
            assert_eq!(decided("ff02::2", protocol::ICMPV6, &[kind, 0, 0, 0]), expected);
        }
        assert_eq!(decided("ff01::fb", protocol::UDP, &[]), Outgoing::Refuse(Counter::TxNoGroup));
        assert_eq!(decided("ff02::1", protocol::ICMPV6, &[128, 0, 0, 0]), Outgoing::Send(Target::All));
        let to_mdns = Outgoing::Send(Target::Group(at("224.0.0.251")));
        assert_eq!(decided("224.0.0.251", protocol::UDP, &[]), to_mdns);
    }

    proptest! {
        #[test]
        fn random_packets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(inner) = Inner::parse_any(&bytes[..], 0) {
                let _ = outgoing(&bytes[..], &inner);
                let _ = is_for(&bytes[..], &inner, Target::All, false);
            }
        }
    }
}
