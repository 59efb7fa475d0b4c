//! A packet that the host sends into the virtual network, as TC egress decides about it.
//!
//! Input: flags (bit 0: IPv6, bit 1: a super-packet), its segment size (u16), by how much the packet
//! is longer than what can be read (u16), the packet.

use ipop_common::egress::{self, PacketMeta, Verdict};
use ipop_common::encapsulation::{V4_LEN, V6_LEN, write_v4, write_v6};
use ipop_common::icmp::{self, QUOTE_LEN};
use ipop_common::ingress::{self, FrameMeta};
use ipop_common::inner::Inner;
use ipop_common::limits::{INNER_LEN_MAX, MTU_IPV6_MIN};
use ipop_common::maps::LinkRef;
use ipop_common::tables::Tables;
use ipop_common::{Counter, Family, checksum};
use ipop_tests::packet;
use ipop_tests::reference::{Around, Departure, departure};
use ipop_tests::world::{Peer, Prefix, World};

use super::tables::{NOW_NS, PACKET_LEN_MAX, peers, world};
use super::tape::Tape;

/// Any source port of ours.
const SOURCE_PORT: u16 = 0xc123;

/// The packet of an input, what is known of it, and what is decided about it.
pub(crate) fn decide(input: &[u8]) -> Option<(&[u8], Family, PacketMeta, Verdict)> {
    let mut tape = Tape::new(input);
    let (flags, gso_size, hidden) = (tape.u8(), tape.u16(), tape.u16());
    let packet = tape.bytes(usize::MAX);
    if packet.len() > PACKET_LEN_MAX {
        return None;
    }
    let family = if flags & 1 == 0 { Family::V4 } else { Family::V6 };
    let gso_size = if flags & 2 == 0 { 0 } else { gso_size };
    let meta = PacketMeta { len: packet.len() as u32 + u32::from(hidden), gso_size: gso_size.into() };
    Some((packet, family, meta, egress::packet(packet, family, meta, world(), NOW_NS)))
}

pub(super) fn run(input: &[u8]) {
    let Some((packet, family, meta, verdict)) = decide(input) else { return };
    let is_whole = meta.len as usize == packet.len();
    if is_whole && packet.len() <= INNER_LEN_MAX {
        is_what_the_format_says(packet, family, meta, verdict);
    }
    match verdict {
        Verdict::Encapsulate { slot, outer } => {
            is_admissible(packet, family, meta, slot);
            if is_whole && meta.gso_size == 0 {
                arrives(packet, family, slot, outer);
            }
        }
        Verdict::TooBig { mtu } => is_answered(packet, family, mtu),
        Verdict::Seal(_) => panic!("no link of this world is sealed"),
        Verdict::Miss(_) | Verdict::Refuse(_) => {}
    }
}

fn is_what_the_format_says(packet: &[u8], family: Family, meta: PacketMeta, verdict: Verdict) {
    let around = Around { gso_size: meta.gso_size as usize, now_ns: NOW_NS };
    let expected = departure(world(), family == Family::V4, packet, around);
    let agrees = match (verdict, &expected) {
        (Verdict::Miss(counter), Departure::Missed(expected))
        | (Verdict::Refuse(counter), Departure::Refused(expected)) => counter == *expected,
        (Verdict::TooBig { mtu }, Departure::TooBig { mtu: expected }) => mtu == *expected,
        (Verdict::Encapsulate { slot, outer }, Departure::Sent { slot: expected, frame }) => {
            let mut frame = frame.clone();
            let port_at = 14 + outer.header_len();
            frame[port_at..port_at + 2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
            slot == *expected && encapsulated(packet, family, slot, outer) == frame
        }
        _ => false,
    };
    assert!(agrees, "decided {verdict:?}, the format says {expected:?}");
}

/// A packet leaves by the link of whoever owns its destination, and never longer than that carries.
fn is_admissible(packet: &[u8], family: Family, meta: PacketMeta, slot: u32) {
    let inner = Inner::parse(packet, 0, family).expect("a packet that is sent has an IP header");
    let owner = world().by_address(&inner.destination);
    let peer = peers().iter().find(|peer| peer.slot == slot).expect("a peer");
    assert_eq!(owner, Some(peer.reference()));
    assert!(meta.len as usize <= INNER_LEN_MAX);
    assert!(meta.gso_size != 0 || meta.len <= u32::from(peer.mtu));
    assert!(meta.gso_size < u32::from(peer.mtu));
}

/// The frame that goes out.
fn encapsulated(packet: &[u8], family: Family, slot: u32, outer: Family) -> Vec<u8> {
    let link = &world().links[&slot];
    let len = packet.len() as u16;
    match outer {
        Family::V4 => {
            let mut header = [0; V4_LEN];
            write_v4(&mut header, link, family, len, SOURCE_PORT);
            [&header[..], packet].concat()
        }
        Family::V6 => {
            let mut header = [0; V6_LEN];
            write_v6(&mut header, link, family, len, SOURCE_PORT);
            [&header[..], packet].concat()
        }
    }
}

/// What was sent is what a peer delivers, if the packet's own length field is right; else the peer
/// refuses it for that.
fn arrives(packet: &[u8], family: Family, slot: u32, outer: Family) {
    let frame = encapsulated(packet, family, slot, outer);
    let peer = peers().iter().find(|peer| peer.slot == slot).expect("a peer");
    let meta = FrameMeta { len: frame.len() as u32, gso: false };
    let verdict = ingress::frame(&frame[..], meta, &far_end(peer), NOW_NS);
    let inner = Inner::parse(packet, 0, family).expect("a packet that is sent has an IP header");
    if usize::from(inner.total_len) != packet.len() {
        assert_eq!(verdict, ingress::Verdict::Refuse(Counter::RxBadLength));
        return;
    }
    let ingress::Verdict::Deliver(delivery) = verdict else { panic!("the peer decides {verdict:?}") };
    assert_eq!((delivery.outer, delivery.inner), (outer, family));
    assert_eq!(&frame[14 + delivery.overhead()..], packet);
    assert_eq!(usize::from(delivery.inner_len), packet.len());
}

/// The peer's own tables, in which every inner source belongs to us.
fn far_end(peer: &Peer) -> World {
    let mut world = World::new(1, 1);
    let mirrored = Peer { local: peer.remote, remote: peer.local, ..peer.clone() };
    world.add_peer(&mirrored);
    let to: LinkRef = mirrored.reference();
    for any in ["0.0.0.0", "::"] {
        world.prefixes.push(Prefix { address: any.parse().expect("an address"), len: 0, to });
    }
    world
}

/// The ICMP error is a sound packet to the sender that quotes what it is about.
fn is_answered(sent: &[u8], family: Family, mtu: u16) {
    assert!(peers().iter().any(|peer| peer.mtu.max(MTU_IPV6_MIN) == mtu || peer.mtu == mtu));
    let about = Inner::parse(sent, 0, family).expect("what is answered has an IP header");
    let mut quote = [0; QUOTE_LEN];
    quote.iter_mut().zip(sent).for_each(|(to, from)| *to = *from);
    let quote_sum = checksum::sum(&quote);
    let error = icmp::Error::TooBig { mtu };
    let answer = match family {
        Family::V4 => {
            let octets = |at: usize| *sent[at..].first_chunk().expect("four octets");
            let mut header = [0; icmp::V4_LEN];
            icmp::write_v4(&mut header, error, octets(12), octets(16), quote_sum);
            assert_eq!(packet::checksum(&header[..20]), 0, "the IP header's checksum");
            assert_eq!(packet::checksum(&[&header[20..], &quote].concat()), 0, "the ICMP checksum");
            [&header[..], &quote].concat()
        }
        Family::V6 => {
            let octets = |at: usize| *sent[at..].first_chunk().expect("sixteen octets");
            let (source, destination): ([u8; 16], [u8; 16]) = (octets(8), octets(24));
            let mut header = [0; icmp::V6_LEN];
            icmp::write_v6(&mut header, error, source, destination, quote_sum);
            let message = [&header[40..], &quote].concat();
            let check =
                packet::transport_checksum(destination.into(), source.into(), packet::ICMPV6, &message);
            assert_eq!(check, 0, "the ICMPv6 checksum");
            [&header[..], &quote].concat()
        }
    };
    let inner = Inner::parse(&answer[..], 0, family).expect("an IP header");
    assert_eq!((inner.source, inner.destination), (about.destination, about.source));
    assert_eq!(usize::from(inner.total_len), answer.len());
}
