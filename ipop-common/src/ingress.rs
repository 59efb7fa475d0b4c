//! What happens to a packet that arrives from the underlay.
//!
//! [`frame`] decides about a whole Ethernet frame (the kernel path: TC and XDP), [`datagram`] about
//! the payload of a UDP datagram (the user path and the guard behind the kernel's VXLAN device).
//! Both end in [`admit`], where membership is checked.

use crate::address::{Address, Family};
use crate::counter::Counter;
use crate::cursor::{Behind, Cursor};
use crate::ethernet;
use crate::filter::Kind;
use crate::gpe::{self, HeaderError, LinkId, NextProtocol};
use crate::inner::{Inner, InnerError, protocol};
use crate::maps::{Link, LinkStats};
use crate::relay;
use crate::rules::{self, Direction, Forbidden};
use crate::sealed::{Opening, TEXT_MAX};
use crate::switch;
use crate::tables::{Stale, Tables, follow};
use crate::wireguard::{TAG_LEN, TRANSPORT_HEADER_LEN, TYPE_INITIATION, TYPE_RESPONSE, TransportHeader};

/// Length of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Bytes of a frame that must be readable for any decision: the longest headers of ours.
pub const FRAME_HEADERS_MAX: usize = ETHERNET_LEN + 40 + UDP_LEN + gpe::HEADER_LEN + 40 + rules::BEHIND_IP;
/// The same where frames are carried.
pub const FRAME_HEADERS_MAX_L2: usize =
    ETHERNET_LEN + 40 + UDP_LEN + gpe::HEADER_LEN + ethernet::SAID_LEN_MAX;

/// What the kernel knows about a frame beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Length of the whole frame, of which the cursor may hold only the start.
    pub len: u32,
    /// A super-packet that offloads have merged.
    pub gso: bool,
}

/// The decision about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not addressed to us in any form of ours: leave it alone.
    NotOurs,
    /// Ours and not acceptable: drop and count.
    Refuse(Counter),
    /// Remove the outer headers and deliver the inner packet.
    Deliver(Delivery),
    /// Sealed: open it, and deliver what is in it.
    Open(Opening),
    /// Sealed, and for the daemon to open.
    LeaveToUser,
    /// A handshake message, for the daemon if [`crate::filter`] admits it.
    Handshake(Handshake),
    /// A relay frame between others, to be passed on.
    Relay(Relaying),
    /// A clear Ethernet frame that only the daemon can judge: to be sent to its port.
    HandOver(Family),
    /// Valid, but the kernel's own VXLAN device has to remove the headers.
    LeaveToStack(Delivery),
}

/// A frame that may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub slot: u32,
    pub outer: Family,
    /// Of a frame without IP in it: as `outer`.
    pub inner: Family,
    /// Length of the IP packet, or of the frame.
    pub inner_len: u16,
}

/// A handshake message of the right length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub kind: Kind,
    pub outer: Family,
    pub source: Address,
}

/// A relay frame that is to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relaying {
    pub label: u32,
    /// Which of the ends it comes from.
    pub from: u8,
    pub outer: Family,
}

impl Delivery {
    /// Bytes between the Ethernet header and the inner packet or frame.
    #[inline(always)]
    pub const fn overhead(&self) -> usize {
        self.outer.header_len() + UDP_LEN + gpe::HEADER_LEN
    }
}

/// Decides about an Ethernet frame that came in on an underlay interface.
#[inline(always)]
pub fn frame<C: Cursor, T: Tables>(cursor: C, meta: FrameMeta, tables: &T, now_ns: u64) -> Verdict {
    received::<C, T, false>(cursor, meta, tables, now_ns)
}

/// As [`frame`], where the network carries Ethernet if `L2`, else IP.
#[inline(always)]
pub fn received<C: Cursor, T: Tables, const L2: bool>(
    cursor: C,
    meta: FrameMeta,
    tables: &T,
    now_ns: u64,
) -> Verdict {
    let Some(config) = tables.config() else { return Verdict::NotOurs };
    let ports = Ports { clear: config.port, sealed: config.sealed_port };
    let Some(ethertype) = cursor.u16_at(12) else { return Verdict::NotOurs };
    let outer = match ethertype {
        0x0800 => outer_v4(cursor, ports),
        0x86dd => outer_v6(cursor, ports),
        _ => return Verdict::NotOurs,
    };
    let outer = match outer {
        Ok(outer) => outer,
        Err(NotFrame::NotOurs) => return Verdict::NotOurs,
        Err(NotFrame::Refuse(counter)) => return Verdict::Refuse(counter),
    };
    // Two calls, so that every offset below is a constant to the verifier.
    match outer.family {
        Family::V4 => behind::<C, T, { ETHERNET_LEN + 20 }, L2>(cursor, meta, &outer, tables, now_ns),
        Family::V6 => behind::<C, T, { ETHERNET_LEN + 40 }, L2>(cursor, meta, &outer, tables, now_ns),
    }
}

/// Where packets for the kernel path arrive.
#[derive(Clone, Copy)]
struct Ports {
    clear: u16,
    sealed: u16,
}

impl Ports {
    /// Whether a packet to `port` is to be sealed; `None` where it is none of ours.
    #[inline(always)]
    fn is_sealed(self, port: Option<u16>) -> Option<bool> {
        let port = port?;
        if port == self.clear {
            return Some(false);
        }
        if port == self.sealed && port != 0 { Some(true) } else { None }
    }
}

/// The outer IP header of a frame to a port of ours.
struct Outer {
    family: Family,
    sealed: bool,
    source: Address,
    destination: Address,
    /// Bytes after the IP header.
    payload_len: u16,
}

enum NotFrame {
    NotOurs,
    Refuse(Counter),
}

#[inline(always)]
fn outer_v4<C: Cursor>(cursor: C, ports: Ports) -> Result<Outer, NotFrame> {
    const IP: usize = ETHERNET_LEN;
    let Some(first) = cursor.u32_at(IP) else { return Err(NotFrame::NotOurs) };
    let Some(fragment) = cursor.u16_at(IP + 6) else { return Err(NotFrame::NotOurs) };
    if cursor.u8_at(IP + 9) != Some(protocol::UDP) || first >> 28 != 4 {
        return Err(NotFrame::NotOurs);
    }
    // A later fragment has no ports: it can only complete a packet whose first fragment we refuse.
    if fragment & 0x1fff != 0 {
        return Err(NotFrame::NotOurs);
    }
    let words = (first >> 24) & 0xf;
    if words != 5 {
        return Err(options_v4(cursor, words, ports.clear));
    }
    let Some(sealed) = ports.is_sealed(cursor.u16_at(IP + 22)) else { return Err(NotFrame::NotOurs) };
    if fragment & 0x2000 != 0 {
        // The daemon's socket gets it whole.
        if sealed {
            return Err(NotFrame::NotOurs);
        }
        return Err(NotFrame::Refuse(Counter::RxOuterFragment));
    }
    let (Some(source), Some(destination)) = (cursor.bytes::<4>(IP + 12), cursor.bytes::<4>(IP + 16)) else {
        return Err(NotFrame::Refuse(Counter::RxTruncated));
    };
    let Some(payload_len) = (first as u16).checked_sub(20) else {
        return Err(NotFrame::Refuse(Counter::RxBadLength));
    };
    Ok(Outer {
        family: Family::V4,
        sealed,
        source: Address::from_v4(source),
        destination: Address::from_v4(destination),
        payload_len,
    })
}

/// A header with options is ours where its port is, and never acceptable: we send none.
#[inline(always)]
fn options_v4<C: Cursor>(cursor: C, words: u32, port: u16) -> NotFrame {
    let mut candidate = 6;
    while candidate <= 15 {
        if candidate == words && cursor.u16_at(ETHERNET_LEN + candidate as usize * 4 + 2) == Some(port) {
            return NotFrame::Refuse(Counter::RxOuterOptions);
        }
        candidate += 1;
    }
    NotFrame::NotOurs
}

#[inline(always)]
fn outer_v6<C: Cursor>(cursor: C, ports: Ports) -> Result<Outer, NotFrame> {
    const IP: usize = ETHERNET_LEN;
    if cursor.u8_at(IP + 6) != Some(protocol::UDP) || cursor.u8_at(IP).map(|b| b >> 4) != Some(6) {
        return Err(NotFrame::NotOurs);
    }
    let Some(sealed) = ports.is_sealed(cursor.u16_at(IP + 42)) else { return Err(NotFrame::NotOurs) };
    let (Some(source), Some(destination), Some(payload_len)) =
        (cursor.bytes::<16>(IP + 8), cursor.bytes::<16>(IP + 24), cursor.u16_at(IP + 4))
    else {
        return Err(NotFrame::Refuse(Counter::RxTruncated));
    };
    Ok(Outer {
        family: Family::V6,
        sealed,
        source: Address::from_v6(source),
        destination: Address::from_v6(destination),
        payload_len,
    })
}

/// The UDP header at `UDP` and what follows it.
#[inline(always)]
fn behind<C: Cursor, T: Tables, const UDP: usize, const L2: bool>(
    cursor: C,
    meta: FrameMeta,
    outer: &Outer,
    tables: &T,
    now_ns: u64,
) -> Verdict {
    if outer.sealed {
        return sealed::<C, T, UDP>(cursor, meta, outer, tables, now_ns);
    }
    let Some(udp_len) = cursor.u16_at(UDP + 4) else { return Verdict::Refuse(Counter::RxTruncated) };
    if (UDP as u32) + u32::from(outer.payload_len) > meta.len {
        return Verdict::Refuse(Counter::RxTruncated);
    }
    if udp_len != outer.payload_len {
        return Verdict::Refuse(Counter::RxBadLength);
    }
    if cursor.u16_at(UDP + 6) != Some(0) {
        return Verdict::Refuse(Counter::RxOuterChecksum);
    }
    let Some(payload_len) = udp_len.checked_sub(UDP_LEN as u16) else {
        return Verdict::Refuse(Counter::RxBadLength);
    };
    if L2 {
        return clear_frame::<C, T, UDP>(cursor, meta, outer, payload_len, tables, now_ns);
    }
    let clear = match clear(cursor, UDP + UDP_LEN, payload_len) {
        Ok(clear) => clear,
        Err(counter) => return Verdict::Refuse(counter),
    };
    let link = match admit(tables, &clear, outer.source, now_ns) {
        Ok(link) => link,
        Err(counter) => return Verdict::Refuse(counter),
    };
    if link.link.local != outer.destination {
        return Verdict::Refuse(Counter::RxWrongOuterDestination);
    }
    let delivery = Delivery {
        slot: link.slot,
        outer: outer.family,
        inner: clear.inner.family,
        inner_len: clear.inner.total_len,
    };
    let packet = Behind { cursor, at: UDP + UDP_LEN + gpe::HEADER_LEN };
    if let Err(counter) = hold(packet, &clear.inner, link.link, tables, now_ns) {
        return Verdict::Refuse(counter);
    }
    if meta.gso && needs_stack(tables, &clear.inner) {
        return Verdict::LeaveToStack(delivery);
    }
    Verdict::Deliver(delivery)
}

/// A clear Ethernet frame, in a datagram with `payload_len` bytes.
#[inline(always)]
fn clear_frame<C: Cursor, T: Tables, const UDP: usize>(
    cursor: C,
    meta: FrameMeta,
    outer: &Outer,
    payload_len: u16,
    tables: &T,
    now_ns: u64,
) -> Verdict {
    // Or what a frame says of addresses could stand where it is not looked for.
    if cursor.readable() < FRAME_HEADERS_MAX_L2.min(meta.len as usize) {
        return Verdict::Refuse(Counter::RxTruncated);
    }
    let Some(frame_len) = payload_len.checked_sub(gpe::HEADER_LEN as u16) else {
        return Verdict::Refuse(Counter::RxBadLength);
    };
    let Some(link_id) = ethernet::clear_link(Behind { cursor, at: UDP + UDP_LEN }) else {
        return Verdict::Refuse(Counter::RxBadHeader);
    };
    let link = match by_link(tables, link_id, outer.source, now_ns) {
        Ok(link) => link,
        Err(counter) => return Verdict::Refuse(counter),
    };
    if link.link.local != outer.destination {
        return Verdict::Refuse(Counter::RxWrongOuterDestination);
    }
    if frame_len < ETHERNET_LEN as u16 {
        return Verdict::Refuse(Counter::RxBadInner);
    }
    let frame = Behind { cursor, at: UDP + UDP_LEN + gpe::HEADER_LEN };
    let header = match switch::admit(tables, frame, link.slot, now_ns) {
        Ok(header) => header,
        // A socket would take a super-packet for one packet.
        Err(counter) if meta.gso => return Verdict::Refuse(counter),
        Err(_) => return Verdict::HandOver(outer.family),
    };
    let inner = switch::family(header.ethertype).unwrap_or(outer.family);
    let delivery = Delivery { slot: link.slot, outer: outer.family, inner, inner_len: frame_len };
    if meta.gso && switch::needs_stack(tables, frame, &header) {
        return Verdict::LeaveToStack(delivery);
    }
    Verdict::Deliver(delivery)
}

/// A datagram to the daemon's port. The kernel path's own have no UDP checksum, and are opened here
/// if this node knows the session and the packet comes the link's usual way. All others, and
/// whatever is wrong, are for the daemon to judge.
#[inline(always)]
fn sealed<C: Cursor, T: Tables, const UDP: usize>(
    cursor: C,
    meta: FrameMeta,
    outer: &Outer,
    tables: &T,
    now_ns: u64,
) -> Verdict {
    // A super-packet's headers may be all that can be read.
    if is_beyond(cursor, meta, UDP + UDP_LEN + relay::HEADER_LEN) {
        return Verdict::Refuse(Counter::RxTruncated);
    }
    if let Some(header) = TransportHeader::parse_at(cursor, UDP + UDP_LEN) {
        return transport::<C, T, UDP, false>(cursor, meta, outer, tables, now_ns, header, 0);
    }
    if let Some(label) = relay::label(cursor, UDP + UDP_LEN) {
        return relayed::<C, T, UDP>(cursor, meta, label, outer, tables, now_ns);
    }
    handshake::<C, UDP>(cursor, meta, outer)
}

/// Whether a frame is so long, and the cursor has not all of that.
#[inline(always)]
fn is_beyond<C: Cursor>(cursor: C, meta: FrameMeta, end: usize) -> bool {
    !cursor.holds(end) && meta.len as usize >= end
}

/// A transport message; if `RELAYED`, in a relay frame with this label.
#[inline(always)]
fn transport<C: Cursor, T: Tables, const UDP: usize, const RELAYED: bool>(
    cursor: C,
    meta: FrameMeta,
    outer: &Outer,
    tables: &T,
    now_ns: u64,
    header: TransportHeader,
    label: u32,
) -> Verdict {
    let overhead = UDP_LEN + if RELAYED { relay::HEADER_LEN } else { 0 } + TRANSPORT_HEADER_LEN + TAG_LEN;
    if meta.gso || cursor.u16_at(UDP + 6) != Some(0) {
        return Verdict::LeaveToUser;
    }
    let Some(text_len) = outer.payload_len.checked_sub(overhead as u16) else { return Verdict::LeaveToUser };
    if text_len == 0
        || text_len > TEXT_MAX as u16
        || cursor.u16_at(UDP + 4) != Some(outer.payload_len)
        || (UDP as u32) + u32::from(outer.payload_len) > meta.len
    {
        return Verdict::LeaveToUser;
    }
    let Some(place) = tables.session(header.receiver) else { return Verdict::LeaveToUser };
    if !place.is(header.receiver) {
        return Verdict::LeaveToUser;
    }
    let reference = place.link();
    match follow(tables, reference, now_ns) {
        // A NAT may have given the peer another port, or another relay may pass on what it sends now: that
        // is for the daemon to find out.
        Ok(link)
            if link.is_relayed() == RELAYED
                && (!RELAYED || link.label == label)
                && link.peer == outer.source
                && link.local == outer.destination
                && cursor.bytes::<2>(UDP) == link.peer_port::<UDP>() =>
        {
            Verdict::Open(Opening {
                slot: reference.slot,
                outer: outer.family,
                relayed: RELAYED,
                session: header.receiver,
                counter: header.counter,
                text_len,
            })
        }
        _ => Verdict::LeaveToUser,
    }
}

/// A relay frame: passed on if this node relays for its sender, and else for this node itself.
#[inline(always)]
fn relayed<C: Cursor, T: Tables, const UDP: usize>(
    cursor: C,
    meta: FrameMeta,
    label: u32,
    outer: &Outer,
    tables: &T,
    now_ns: u64,
) -> Verdict {
    let Some(port) = cursor.u16_at(UDP) else { return Verdict::LeaveToUser };
    if let Some(relay) = tables.relay(label)
        && relay.lease_until_ns > now_ns
        && let Some(from) = relay.end(&outer.source, port, &outer.destination)
    {
        return Verdict::Relay(Relaying { label, from: from as u8, outer: outer.family });
    }
    if !meta.gso && is_beyond(cursor, meta, UDP + UDP_LEN + relay::HEADER_LEN + TRANSPORT_HEADER_LEN) {
        return Verdict::Refuse(Counter::RxTruncated);
    }
    match TransportHeader::parse_at(cursor, UDP + UDP_LEN + relay::HEADER_LEN) {
        Some(header) => transport::<C, T, UDP, true>(cursor, meta, outer, tables, now_ns, header, label),
        None => Verdict::LeaveToUser,
    }
}

/// A datagram to the daemon's port that is no transport message.
#[inline(always)]
fn handshake<C: Cursor, const UDP: usize>(cursor: C, meta: FrameMeta, outer: &Outer) -> Verdict {
    let kind = match cursor.bytes::<4>(UDP + UDP_LEN) {
        Some([TYPE_INITIATION, 0, 0, 0]) => Kind::Initiation,
        Some([TYPE_RESPONSE, 0, 0, 0]) => Kind::Response,
        _ => return Verdict::NotOurs,
    };
    let len = (UDP_LEN + kind.message_len()) as u16;
    if meta.gso
        || outer.payload_len != len
        || cursor.u16_at(UDP + 4) != Some(len)
        || (UDP as u32) + u32::from(len) > meta.len
    {
        return Verdict::NotOurs;
    }
    Verdict::Handshake(Handshake { kind, outer: outer.family, source: outer.source })
}

/// Super-packets that a program must not decapsulate: a merged inner UDP packet would keep its
/// tunnel GSO type and never reach a socket without UDP_GRO, and one to be forwarded could not be
/// encapsulated again (EALREADY).
#[inline(always)]
fn needs_stack<T: Tables>(tables: &T, inner: &Inner) -> bool {
    inner.protocol == protocol::UDP || !tables.is_local(&inner.destination)
}

/// A clear frame: header and inner packet agree with one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clear {
    pub link_id: LinkId,
    pub inner: Inner,
}

/// Reads a VXLAN-GPE header at `offset` and the inner packet behind it, which together must be
/// exactly `payload_len` bytes.
#[inline(always)]
pub fn clear<C: Cursor>(cursor: C, offset: usize, payload_len: u16) -> Result<Clear, Counter> {
    let header = match gpe::Header::parse(cursor, offset) {
        Ok(header) => header,
        Err(HeaderError::Truncated) => return Err(Counter::RxTruncated),
        Err(HeaderError::Reserved) => return Err(Counter::RxBadHeader),
        Err(HeaderError::UnknownProtocol) => return Err(Counter::RxUnknownProtocol),
    };
    let family = match header.next_protocol {
        NextProtocol::Ipv4 => Family::V4,
        NextProtocol::Ipv6 => Family::V6,
    };
    let inner = match Inner::parse(cursor, offset + gpe::HEADER_LEN, family) {
        Ok(inner) => inner,
        Err(InnerError::Truncated) => return Err(Counter::RxTruncated),
        Err(InnerError::Malformed) => return Err(Counter::RxBadInner),
    };
    if payload_len != inner.total_len.saturating_add(gpe::HEADER_LEN as u16) {
        return Err(Counter::RxBadLength);
    }
    Ok(Clear { link_id: header.link_id, inner })
}

/// A link that a frame was admitted on.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    pub slot: u32,
    pub link: &'a Link,
}

/// Checks that the link exists and is current, that the frame comes from the link's peer, and that
/// the peer may use the inner source address.
#[inline(always)]
pub fn admit<'a, T: Tables>(
    tables: &'a T,
    clear: &Clear,
    outer_source: Address,
    now_ns: u64,
) -> Result<Admitted<'a>, Counter> {
    let admitted = by_link(tables, clear.link_id, outer_source, now_ns)?;
    match tables.by_address(&clear.inner.source) {
        Some(owner) if LinkStats::index(owner.slot) == LinkStats::index(admitted.slot) => Ok(admitted),
        _ => Err(Counter::RxWrongInnerSource),
    }
}

/// Holds a packet that has come by a link against the group's rules.
///
/// # Errors
/// The counter of the reason.
#[inline(always)]
pub fn hold<C: Cursor, T: Tables>(
    packet: C,
    inner: &Inner,
    link: &Link,
    tables: &T,
    now_ns: u64,
) -> Result<(), Counter> {
    match rules::permit(packet, inner, link, Direction::In, tables, now_ns) {
        Ok(()) => Ok(()),
        Err(Forbidden::Rule) => Err(Counter::RxRefusedRule),
        Err(Forbidden::Truncated) => Err(Counter::RxTruncated),
    }
}

/// As [`admit`], without a look at the inner packet.
#[inline(always)]
pub fn by_link<T: Tables>(
    tables: &T,
    link_id: LinkId,
    outer_source: Address,
    now_ns: u64,
) -> Result<Admitted<'_>, Counter> {
    let Some(reference) = tables.by_link_id(link_id) else { return Err(Counter::RxUnknownLink) };
    let link = match follow(tables, reference, now_ns) {
        Ok(link) => link,
        Err(Stale::Epoch) => return Err(Counter::RxStaleEpoch),
        Err(Stale::Lease) => return Err(Counter::RxLeaseExpired),
    };
    if link.flags & Link::TAKES_CLEAR == 0 {
        return Err(Counter::RxUnknownLink);
    }
    if link.peer != outer_source {
        return Err(Counter::RxWrongOuterSource);
    }
    Ok(Admitted { slot: reference.slot, link })
}
