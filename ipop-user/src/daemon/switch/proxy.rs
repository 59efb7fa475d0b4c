//! Questions for the hardware address of an address of IP, and answers in another's name. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipop_common::checksum;
use ipop_common::ethernet::{self, ETHERTYPE_ARP, Header, Mac};
use ipop_common::ingress::ETHERNET_LEN;
use ipop_common::inner::{Inner, protocol};
use ipop_common::{Cursor, Family};

/// Ethernet, IPv4, and the lengths of their addresses (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ARP_LEN: usize = 28;
/// ICMPv6 types of RFC 4861, section 4.
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Solicited, and to be believed over what was known.
const SOLICITED_OVERRIDE: u8 = 0x60;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// What no router has touched (RFC 4861, section 7.1.2).
const HOP_LIMIT: u8 = 255;

/// A station asks for the hardware address of `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    station: Mac,
    asker: IpAddr,
    pub(super) target: IpAddr,
}

impl Question {
    /// The question in a frame. A station that looks whether an address is free, or says that it has one, asks
    /// nothing.
    pub(super) fn of(frame: &[u8], header: &Header) -> Option<Self> {
        let (asker, target) = match header.ethertype {
            ETHERTYPE_ARP => arp(frame)?,
            _ => solicitation(frame)?,
        };
        let is_one = !asker.is_unspecified() && asker != target;
        is_one.then_some(Self { station: header.source, asker, target })
    }

    /// The frame that says that `mac` is it.
    pub(super) fn answer(&self, mac: Mac) -> Option<Vec<u8>> {
        let head = |ethertype: u16| [&self.station[..], &mac, &ethertype.to_be_bytes()].concat();
        match (self.asker, self.target) {
            (IpAddr::V4(asker), IpAddr::V4(target)) => {
                let body = arp_message(ARP_REPLY, (mac, target), (self.station, asker));
                Some([head(ETHERTYPE_ARP), body].concat())
            }
            (IpAddr::V6(asker), IpAddr::V6(target)) => {
                Some([head(Family::V6.ethertype()), advertisement(target, asker, mac)].concat())
            }
            _ => None,
        }
    }
}

/// A question to a station itself, to see whether it is still there.
pub(super) fn probe(own: Mac, station: Mac, address: Ipv4Addr) -> Vec<u8> {
    let body = arp_message(ARP_REQUEST, (own, Ipv4Addr::UNSPECIFIED), ([0; 6], address));
    [&station[..], &own, &ETHERTYPE_ARP.to_be_bytes(), &body].concat()
}

fn arp_message(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let operation = operation.to_be_bytes();
    let [sender_ip, target_ip] = [sender.1, target.1].map(|address| address.octets());
    [&ARP_KIND[..], &operation, &sender.0, &sender_ip, &target.0, &target_ip].concat()
}

fn arp(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let message: [u8; ARP_LEN] = frame.bytes(ETHERNET_LEN)?;
    let [asker, target] =
        [14, 24].map(|at| message[..].bytes::<4>(at).map(|octets| IpAddr::V4(octets.into())));
    let is_request = message.starts_with(&ARP_KIND) && message[..].u16_at(6) == Some(ARP_REQUEST);
    is_request.then_some((asker?, target?))
}

fn solicitation(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (at, Family::V6) = ethernet::ip_at(frame)? else { return None };
    let inner = Inner::parse(frame, at, Family::V6).ok()?;
    let body = at + usize::from(inner.header_len);
    if at != ETHERNET_LEN
        || inner.protocol != protocol::ICMPV6
        || frame.u8_at(body)? != NEIGHBOUR_SOLICITATION
    {
        return None;
    }
    let target = frame.bytes::<16>(body + 8)?;
    Some((inner.source.to_ip(), IpAddr::V6(target.into())))
}

/// An IPv6 packet from `target`, which says that its hardware address is `mac`.
fn advertisement(target: Ipv6Addr, to: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, SOLICITED_OVERRIDE, 0, 0, 0];
    message.extend(target.octets());
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);
    let addresses = [target.octets(), to.octets()].concat();
    let seed = checksum::pseudo_header(&addresses, protocol::ICMPV6, message.len() as u32);
    let sum = checksum::finish(seed + checksum::sum(&message));
    message.splice(2..4, sum.to_be_bytes());
    let [high, low] = (message.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, protocol::ICMPV6, HOP_LIMIT][..], &addresses, &message].concat()
}

#[cfg(test)]
mod tests {
    use ipop_common::Address;
    use ipop_common::ethernet::BROADCAST;

    use super::*;
    use ipop_common::ethernet::said_address;

    const STATION: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let body = arp_message(ARP_REQUEST, (STATION, sender.into()), ([0; 6], target.into()));
        [&BROADCAST[..], &STATION, &ETHERTYPE_ARP.to_be_bytes(), &body].concat()
    }

    fn question(frame: &[u8]) -> Option<Question> {
        Question::of(frame, &Header::parse(frame).unwrap())
    }

    #[test]
    fn an_arp_request_is_answered_as_its_target_would() {
        let asked = question(&request([10, 0, 0, 1], [10, 0, 0, 2])).unwrap();
        assert_eq!(asked.target, IpAddr::V4([10, 0, 0, 2].into()));
        let answer = asked.answer(OTHER).unwrap();
        let header = Header::parse(&answer[..]).unwrap();
        assert_eq!((header.destination, header.source), (STATION, OTHER));
        assert_eq!(answer[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!(answer[22..28], OTHER);
        assert_eq!(answer[28..32], [10, 0, 0, 2]);
        assert_eq!(answer[32..38], STATION);
        assert_eq!(answer[38..42], [10, 0, 0, 1]);
        assert_eq!(said_address(&answer[..], &header), Some(Address::from_v4([10, 0, 0, 2])));
    }

    #[test]
    fn who_says_or_looks_whether_it_has_an_address_asks_nothing() {
        assert_eq!(question(&request([0; 4], [10, 0, 0, 2])), None);
        assert_eq!(question(&request([10, 0, 0, 2], [10, 0, 0, 2])), None);
        let frame = request([10, 0, 0, 1], [10, 0, 0, 2]);
        for len in ETHERNET_LEN..frame.len() {
            assert_eq!(question(&frame[..len]), None);
        }
        let seen = probe(OTHER, STATION, [10, 0, 0, 1].into());
        assert_eq!(question(&seen), None);
    }

    #[test]
    fn a_solicitation_is_answered_with_a_right_checksum() {
        let (asker, target): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        let head = [0x60, 0, 0, 0, 0, 24, 58, 255];
        let link = [&[0x33, 0x33, 0xff, 0, 0, 2][..], &STATION, &[0x86, 0xdd]].concat();
        let frame = [&link[..], &head, &asker.octets(), &target.octets(), &message].concat();
        let answer = question(&frame).unwrap().answer(OTHER).unwrap();
        let packet = &answer[ETHERNET_LEN..];
        let inner = Inner::parse_any(packet, 0).unwrap();
        assert_eq!((inner.source.to_ip(), inner.destination.to_ip()), (target.into(), asker.into()));
        let body = &packet[40..];
        assert_eq!((body[0], body[4], &body[26..32]), (136, 0x60, &OTHER[..]));
        let seed = checksum::pseudo_header(&packet[8..40], protocol::ICMPV6, body.len() as u32);
        assert_eq!(checksum::fold(seed + checksum::sum(body)), 0xffff);
    }
}
