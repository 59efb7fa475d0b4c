//! What becomes of an Ethernet frame where the virtual network carries those: one that the host, or a station behind
//! its bridge, sends, and one that comes by a link.
//!
//! Stations are looked up as addresses of IP are ([`crate::ethernet::station`]). What is for all, and what comes from or
//! goes to a station that the tables do not have, is left to the daemon, which learns from it.

use crate::address::{Address, Family};
use crate::counter::Counter;
use crate::cursor::{Behind, Cursor};
use crate::egress::{PacketMeta, Verdict, segment_len, sending};
use crate::ethernet::{
    ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Header, Mac, SEALED_PREFIX_LEN, is_group, said_address, station,
};
use crate::ingress::ETHERNET_LEN;
use crate::inner::{Inner, protocol};
use crate::limits::INNER_LEN_MAX;
use crate::maps::{Link, LinkRef, LinkStats};
use crate::rules::{self, Direction};
use crate::sealed::{Sealing, Shape, TEXT_MAX, Transport, flow_hash, is_with_user};
use crate::shared::SharedU64;
use crate::tables::Tables;

/// Decides about a frame that starts at the cursor, header included in `meta.len`.
#[inline(always)]
pub fn frame<C: Cursor, T: Tables>(cursor: C, meta: PacketMeta, tables: &T, now_ns: u64) -> Verdict {
    match tables.config() {
        Some(config) if config.enabled != 0 => {}
        _ => return Verdict::Miss(Counter::TxDisabled),
    }
    let Some(header) = Header::parse(cursor) else { return Verdict::Refuse(Counter::TxBadFrame) };
    if is_group(&header.destination) {
        return Verdict::Miss(Counter::TxToGroup);
    }
    match tables.by_address(&station(header.source)) {
        Some(reference) if reference.is_local() => {}
        _ => return Verdict::Miss(Counter::TxStranger),
    }
    let reference = match tables.by_address(&station(header.destination)) {
        Some(reference) if !reference.is_local() => reference,
        _ => return Verdict::Miss(Counter::TxNoRoute),
    };
    match sending(tables, reference, now_ns) {
        Ok(link) => by_link(cursor, &header, meta, tables, now_ns, reference.slot, link),
        Err(counter) => Verdict::Miss(counter),
    }
}

/// What of a flow does not fit the link goes by the daemon, whose outer packets may be fragmented: nobody here is a
/// router that could say so. The rest of the flow then goes the same way, or it would overtake.
#[inline(always)]
fn by_link<C: Cursor, T: Tables>(
    cursor: C,
    header: &Header,
    meta: PacketMeta,
    tables: &T,
    now_ns: u64,
    slot: u32,
    link: &Link,
) -> Verdict {
    // The daemon holds it against them: with that in this program too, Linux 6.1 does not take it.
    if link.flags & Link::RULED != 0 {
        return Verdict::Miss(Counter::TxHeldByRule);
    }
    let packet = Behind { cursor, at: ETHERNET_LEN };
    let inner = inner(packet, header);
    let flow = match &inner {
        Some(inner) => tables.flow(flow_hash(packet, inner)),
        None => None,
    };
    let is_sealed = link.flags & Link::SEALED != 0;
    let len = match &inner {
        _ if meta.gso_size == 0 => meta.len,
        Some(inner) => ETHERNET_LEN as u32 + segment_len(packet, inner, meta.gso_size),
        None => return Verdict::Miss(Counter::TxComplex),
    };
    if len + SEALED_PREFIX_LEN as u32 > u32::from(link.mtu) || meta.len > INNER_LEN_MAX as u32 {
        return left(flow, now_ns, Counter::TxFragmented);
    }
    if let Some(flow) = flow
        && is_with_user(flow, now_ns)
    {
        return left(Some(flow), now_ns, Counter::TxBulk);
    }
    if !is_sealed {
        return Verdict::Encapsulate { slot, outer: link.outer() };
    }
    if link.session == 0 {
        return Verdict::Miss(Counter::TxNoSession);
    }
    if meta.gso_size != 0 || meta.len > (TEXT_MAX - SEALED_PREFIX_LEN) as u32 {
        return left(flow, now_ns, Counter::TxBulk);
    }
    let Some(shape) = shape(packet, header, &inner, meta.len) else {
        return left(flow, now_ns, Counter::TxComplex);
    };
    Verdict::Seal(Sealing { slot, outer: link.outer(), session: link.session, shape, len: meta.len as u16 })
}

/// Leaves a packet of a flow to the user path, and those that follow.
#[inline(always)]
fn left(flow: Option<&SharedU64>, now_ns: u64, counter: Counter) -> Verdict {
    if let Some(flow) = flow {
        flow.store(now_ns);
    }
    Verdict::Miss(counter)
}

/// The IP packet in a frame without a tag.
#[inline(always)]
fn inner<C: Cursor>(packet: C, header: &Header) -> Option<Inner> {
    let family = family(header.ethertype)?;
    Inner::parse(packet, 0, family).ok()
}

/// The version of IP in a frame without a tag.
#[inline(always)]
pub const fn family(ethertype: u16) -> Option<Family> {
    const V4: u16 = Family::V4.ethertype();
    const V6: u16 = Family::V6.ethertype();
    match ethertype {
        V4 => Some(Family::V4),
        V6 => Some(Family::V6),
        _ => None,
    }
}

/// `None` where a checksum may have to be completed that cannot be found. In what fills a short frame up there is
/// none: that came off a wire.
#[inline(always)]
fn shape<C: Cursor>(packet: C, header: &Header, inner: &Option<Inner>, len: u32) -> Option<Shape> {
    let nothing = Shape { family: Family::V4, transport: Transport::Other };
    match inner {
        Some(inner) if ETHERNET_LEN as u32 + u32::from(inner.total_len) == len => Shape::of(packet, inner),
        Some(_) => Some(nothing),
        None if header.ethertype == ETHERTYPE_VLAN || header.ethertype == ETHERTYPE_SERVICE_VLAN => None,
        None => Some(nothing),
    }
}

/// Who has the station that a frame comes from, seen from the link that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The link's peer.
    Peer,
    /// Another node, or this one.
    Other,
    Unknown,
}

/// Holds a frame that has come by the link in `slot` against the group's rules.
///
/// # Errors
/// The counter of the reason.
#[inline(always)]
pub fn hold<C: Cursor, T: Tables>(
    tables: &T,
    frame: C,
    header: &Header,
    slot: u32,
    now_ns: u64,
) -> Result<(), Counter> {
    let Some(link) = tables.link(slot) else { return Err(Counter::RxStaleEpoch) };
    match rules::permit_frame(frame, header, link, Direction::In, tables, now_ns) {
        Ok(()) => Ok(()),
        Err(_) => Err(Counter::RxRefusedRule),
    }
}

#[inline(always)]
pub fn holder<T: Tables>(tables: &T, source: Mac, slot: u32) -> Holder {
    match tables.by_address(&station(source)) {
        Some(reference) if is_of(reference, slot) => Holder::Peer,
        Some(_) => Holder::Other,
        None => Holder::Unknown,
    }
}

/// Whether a frame gives an address of IP that this node knows to somebody else than its owner.
#[inline(always)]
pub fn is_spoofed<C: Cursor, T: Tables>(tables: &T, frame: C, header: &Header, slot: u32) -> bool {
    let said: Option<Address> = said_address(frame, header);
    match said {
        Some(address) => match tables.by_address(&address) {
            Some(reference) => !is_of(reference, slot),
            None => false,
        },
        None => false,
    }
}

#[inline(always)]
const fn is_of(reference: LinkRef, slot: u32) -> bool {
    LinkStats::index(reference.slot) == LinkStats::index(slot)
}

/// Whether a frame may come by the link in `slot` without the daemon's having seen it.
///
/// # Errors
/// The counter of the reason.
#[inline(always)]
pub fn admit<C: Cursor, T: Tables>(tables: &T, frame: C, slot: u32, now_ns: u64) -> Result<Header, Counter> {
    let Some(header) = Header::parse(frame) else { return Err(Counter::RxBadInner) };
    // What is for all comes by the tree, where there are limits.
    if is_group(&header.destination) {
        return Err(Counter::RxBadInner);
    }
    match holder(tables, header.source, slot) {
        Holder::Peer => {}
        Holder::Other | Holder::Unknown => return Err(Counter::RxWrongInnerSource),
    }
    if is_spoofed(tables, frame, &header, slot) {
        return Err(Counter::RxSpoofedAddress);
    }
    hold(tables, frame, &header, slot, now_ns)?;
    Ok(header)
}

/// Merged frames that a program must not decapsulate: those for a station behind a bridge, which could not be
/// segmented again, and all but TCP's, as `ingress` says of packets.
#[inline(always)]
pub(crate) fn needs_stack<C: Cursor, T: Tables>(tables: &T, frame: C, header: &Header) -> bool {
    let is_tcp = match family(header.ethertype) {
        Some(Family::V4) => frame.u8_at(ETHERNET_LEN + 9) == Some(protocol::TCP),
        Some(Family::V6) => frame.u8_at(ETHERNET_LEN + 6) == Some(protocol::TCP),
        None => false,
    };
    match tables.by_address(&station(header.destination)) {
        Some(reference) => !is_tcp || !reference.is_local() || reference.epoch != LinkRef::LOCAL.epoch,
        None => true,
    }
}

#[cfg(test)]
mod tests;
