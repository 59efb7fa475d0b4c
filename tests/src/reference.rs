//! What must become of a packet, written a second time from `docs/wire-format.md`: plain slices and
//! `std::net` types, nothing of the code under test but the names of counters and the tables'
//! content. Slow and simple on purpose. A test that holds the kernel and the host-compiled
//! decision against this finds a mistake that both of them share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipop_common::Counter;
use ipop_common::maps::{Link, LinkRef};

use crate::packet::{self, ClearFrame, ETHERTYPE_V4, ETHERTYPE_V6, Mac};
use crate::world::World;

/// What must become of a frame on an underlay interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    NotOurs,
    Refused(Counter),
    /// The packet that starts at `inner_at` belongs into the virtual network.
    Delivered {
        slot: u32,
        outer_is_v4: bool,
        inner_is_v4: bool,
        inner_at: usize,
        inner_len: usize,
    },
    /// Valid, but only the kernel's VXLAN device can take it apart.
    LeftToStack,
}

/// What must become of a packet that the host sends into the virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Left to the user path.
    Missed(Counter),
    Refused(Counter),
    /// Answered with an ICMP error that names this MTU.
    TooBig {
        mtu: u16,
    },
    /// Sent as this frame, but for its UDP source port.
    Sent {
        slot: u32,
        frame: Vec<u8>,
    },
}

/// What the kernel knows of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    /// Payload per segment of a super-packet, 0 for a single packet.
    pub gso_size: usize,
    pub now_ns: u64,
}

/// A packet that came in on an underlay interface, from its Ethernet header on.
pub fn arrival(world: &World, frame: &[u8], around: Around) -> Arrival {
    let Some((header_len, source, destination, payload_len)) = outer(world, frame) else {
        return Arrival::NotOurs;
    };
    let payload_len = match payload_len {
        Ok(len) => len,
        Err(counter) => return Arrival::Refused(counter),
    };
    match admitted(world, frame, 14 + header_len, (source, destination), payload_len, around.now_ns) {
        Err(counter) => Arrival::Refused(counter),
        Ok(inner) => {
            let local = owner(world, inner.destination) == Some(LinkRef::LOCAL);
            if around.gso_size != 0 && (inner.protocol == packet::UDP || !local) {
                return Arrival::LeftToStack;
            }
            Arrival::Delivered {
                slot: inner.slot,
                outer_is_v4: source.is_ipv4(),
                inner_is_v4: inner.source.is_ipv4(),
                inner_at: 14 + header_len + 16,
                inner_len: inner.len,
            }
        }
    }
}

/// The outer IP header of a frame to the kernel path's port: its length, its addresses, and the
/// length of what follows or why that cannot be ours. `None`: not to that port.
type Outer = (usize, IpAddr, IpAddr, Result<usize, Counter>);

fn outer(world: &World, frame: &[u8]) -> Option<Outer> {
    let ip = frame.get(14..)?;
    match number(frame, 12)? {
        t if t == usize::from(ETHERTYPE_V4) => outer_v4(world, ip),
        t if t == usize::from(ETHERTYPE_V6) => outer_v6(world, ip),
        _ => None,
    }
}

fn outer_v4(world: &World, ip: &[u8]) -> Option<Outer> {
    let header_len = usize::from(ip.first()? & 0xf) * 4;
    let is_first_fragment = number(ip, 6)? & 0x1fff == 0;
    if ip[0] >> 4 != 4 || *ip.get(9)? != packet::UDP || !is_first_fragment || header_len < 20 {
        return None;
    }
    if number(ip, header_len + 2)? != usize::from(world.config.port) {
        return None;
    }
    let (source, destination) = (v4(ip, 12)?, v4(ip, 16)?);
    let payload_len = if header_len > 20 {
        Err(Counter::RxOuterOptions)
    } else if ip[6] & 0x20 != 0 {
        Err(Counter::RxOuterFragment)
    } else {
        number(ip, 2)?.checked_sub(20).ok_or(Counter::RxBadLength)
    };
    Some((20, source, destination, payload_len))
}

fn outer_v6(world: &World, ip: &[u8]) -> Option<Outer> {
    if ip.first()? >> 4 != 6
        || *ip.get(6)? != packet::UDP
        || number(ip, 42)? != usize::from(world.config.port)
    {
        return None;
    }
    Some((40, v6(ip, 8)?, v6(ip, 24)?, Ok(number(ip, 4)?)))
}

/// A packet from the inside of a frame that may be delivered.
struct Inner {
    slot: u32,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    len: usize,
}

fn admitted(
    world: &World,
    frame: &[u8],
    udp_at: usize,
    (source, destination): (IpAddr, IpAddr),
    payload_len: usize,
    now_ns: u64,
) -> Result<Inner, Counter> {
    let udp_len = number(frame, udp_at + 4).ok_or(Counter::RxTruncated)?;
    if udp_at + payload_len > frame.len() {
        return Err(Counter::RxTruncated);
    }
    if udp_len != payload_len {
        return Err(Counter::RxBadLength);
    }
    if number(frame, udp_at + 6) != Some(0) {
        return Err(Counter::RxOuterChecksum);
    }
    let datagram_len = udp_len.checked_sub(8).ok_or(Counter::RxBadLength)?;
    let (link_id, inner_is_v6) = gpe(frame.get(udp_at + 8..).unwrap_or_default())?;
    let packet = frame.get(udp_at + 16..).unwrap_or_default();
    let mut inner = if inner_is_v6 { inner_v6(packet)? } else { inner_v4(packet)? };
    if inner.len + 8 != datagram_len {
        return Err(Counter::RxBadLength);
    }
    let reference = world.link_ids.get(&link_id).ok_or(Counter::RxUnknownLink)?;
    let link = match current(world, *reference, now_ns) {
        Ok(link) => link,
        Err(Missing::Epoch) => return Err(Counter::RxStaleEpoch),
        Err(Missing::Lease) => return Err(Counter::RxLeaseExpired),
    };
    if link.flags & Link::TAKES_CLEAR == 0 {
        return Err(Counter::RxUnknownLink);
    }
    if link.peer.to_ip() != source {
        return Err(Counter::RxWrongOuterSource);
    }
    // A link has two slots, and the tables may still name the other one.
    if owner(world, inner.source).is_none_or(|owner| owner.slot / 2 != reference.slot / 2) {
        return Err(Counter::RxWrongInnerSource);
    }
    if link.local.to_ip() != destination {
        return Err(Counter::RxWrongOuterDestination);
    }
    inner.slot = reference.slot;
    Ok(inner)
}

/// Link id, and whether the inner packet is IPv6.
fn gpe(bytes: &[u8]) -> Result<(u32, bool), Counter> {
    let [flags, reserved_a, reserved_b, next, a, b, c, reserved_c] =
        *bytes.first_chunk::<8>().ok_or(Counter::RxTruncated)?;
    if (flags, reserved_a, reserved_b, reserved_c) != (0x0c, 0, 0, 0) {
        return Err(Counter::RxBadHeader);
    }
    if next != 1 && next != 2 {
        return Err(Counter::RxUnknownProtocol);
    }
    match u32::from_be_bytes([0, a, b, c]) {
        0 => Err(Counter::RxBadHeader),
        id => Ok((id, next == 2)),
    }
}

fn inner_v4(packet: &[u8]) -> Result<Inner, Counter> {
    let header = packet.first_chunk::<20>().ok_or(Counter::RxTruncated)?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || len < header_len {
        return Err(Counter::RxBadInner);
    }
    let source = v4(packet, 12).ok_or(Counter::RxTruncated)?;
    let destination = v4(packet, 16).ok_or(Counter::RxTruncated)?;
    Ok(Inner { slot: 0, source, destination, protocol: header[9], len })
}

fn inner_v6(packet: &[u8]) -> Result<Inner, Counter> {
    let header = packet.first_chunk::<40>().ok_or(Counter::RxTruncated)?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    if header[0] >> 4 != 6 || len > 0xffff {
        return Err(Counter::RxBadInner);
    }
    let source = v6(packet, 8).ok_or(Counter::RxTruncated)?;
    let destination = v6(packet, 24).ok_or(Counter::RxTruncated)?;
    Ok(Inner { slot: 0, source, destination, protocol: header[6], len })
}

/// A packet that the host sends into the virtual network, from its IP header on.
pub fn departure(world: &World, is_v4: bool, packet: &[u8], around: Around) -> Departure {
    if world.config.enabled == 0 {
        return Departure::Missed(Counter::TxDisabled);
    }
    let inner = match if is_v4 { inner_v4(packet) } else { inner_v6(packet) } {
        Ok(inner) => inner,
        Err(Counter::RxTruncated) => return Departure::Refused(Counter::TxTruncated),
        Err(_) => return Departure::Missed(Counter::TxNotIp),
    };
    let is_for_many =
        inner.destination.is_multicast() || inner.destination == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if is_for_many {
        return Departure::Missed(Counter::TxToGroup);
    }
    let Some(reference) = owner(world, inner.destination).filter(|owner| *owner != LinkRef::LOCAL) else {
        return Departure::Missed(Counter::TxNoRoute);
    };
    let link = match current(world, reference, around.now_ns) {
        Ok(link) => link,
        Err(Missing::Epoch) => return Departure::Missed(Counter::TxStaleEpoch),
        Err(Missing::Lease) => return Departure::Missed(Counter::TxLeaseExpired),
    };
    if link.flags & Link::RECEIVE_ONLY != 0 {
        return Departure::Missed(Counter::TxReceiveOnly);
    }
    let len = if around.gso_size == 0 { packet.len() } else { segment_len(packet, is_v4, around.gso_size) };
    if len > usize::from(link.mtu) {
        return too_big(packet, is_v4, len, link.mtu);
    }
    Departure::Sent { slot: reference.slot, frame: sent_frame(link, packet) }
}

fn too_big(packet: &[u8], is_v4: bool, len: usize, mtu: u16) -> Departure {
    let may_be_fragmented = if is_v4 { packet[6] & 0x40 == 0 } else { len <= 1280 };
    match (may_be_fragmented, is_v4) {
        (true, _) => Departure::Missed(Counter::TxFragmented),
        (false, true) => Departure::TooBig { mtu },
        (false, false) => Departure::TooBig { mtu: mtu.max(1280) },
    }
}

/// IP header, transport header and payload of one segment.
fn segment_len(packet: &[u8], is_v4: bool, gso_size: usize) -> usize {
    let (header_len, protocol) =
        if is_v4 { (usize::from(packet[0] & 0xf) * 4, packet[9]) } else { (40, packet[6]) };
    // The length of a TCP header behind IP options is taken to be the least.
    let tcp_is_read = header_len == 20 || (!is_v4 && protocol == packet::TCP);
    let data_offset = packet.get(header_len + 12).map(|byte| usize::from(byte >> 4) * 4);
    let transport_len = match protocol {
        packet::UDP => 8,
        _ if tcp_is_read => data_offset.unwrap_or(20),
        _ => 20,
    };
    header_len + transport_len + gso_size
}

/// The frame that carries `packet` over `link`, put together from the format's description.
fn sent_frame(link: &Link, packet: &[u8]) -> Vec<u8> {
    let mac = |at: usize| -> Mac { *link.header[at..].first_chunk().expect("six bytes") };
    let udp_at = if link.peer.to_ip().is_ipv4() { 34 } else { 54 };
    let id = &link.header[udp_at + 12..udp_at + 15];
    ClearFrame {
        destination_mac: mac(0),
        source_mac: mac(6),
        source: link.local.to_ip(),
        destination: link.peer.to_ip(),
        source_port: 0,
        port: u16::from_be_bytes([link.header[udp_at + 2], link.header[udp_at + 3]]),
        link_id: u32::from_be_bytes([0, id[0], id[1], id[2]]),
        inner: packet.to_vec(),
    }
    .to_bytes()
}

/// Who owns an inner address: the whole address, else the longest prefix.
fn owner(world: &World, address: IpAddr) -> Option<LinkRef> {
    let whole = world.hosts.iter().find(|(host, _)| host.to_ip() == address);
    let prefix = || {
        let matching = world.prefixes.iter().filter(|prefix| prefix.contains(address));
        matching.max_by_key(|prefix| prefix.len).map(|prefix| prefix.to)
    };
    whole.map(|(_, to)| *to).or_else(prefix)
}

enum Missing {
    Epoch,
    Lease,
}

/// The link that a table entry means, if it is still that link and its lease runs.
fn current(world: &World, reference: LinkRef, now_ns: u64) -> Result<&Link, Missing> {
    match world.links.get(&reference.slot) {
        Some(link) if link.epoch == reference.epoch && link.epoch != 0 => {
            if link.lease_until_ns > now_ns {
                Ok(link)
            } else {
                Err(Missing::Lease)
            }
        }
        _ => Err(Missing::Epoch),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from_octets(*bytes.get(at..)?.first_chunk()?)))
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V6(Ipv6Addr::from_octets(*bytes.get(at..)?.first_chunk()?)))
}
