//! What happens to a packet that the host sends into the virtual network.

use crate::address::Family;
use crate::counter::Counter;
use crate::cursor::Cursor;
use crate::inner::{Inner, InnerError, protocol};
use crate::limits::{INNER_LEN_MAX, MTU_IPV6_MIN};
use crate::maps::{Link, LinkRef};
use crate::multicast::is_for_many;
use crate::rules::{self, Direction};
use crate::sealed::{Sealing, Shape, TEXT_MAX, flow_hash, is_with_user};
use crate::tables::{Stale, Tables, follow};

/// What the kernel knows about a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PacketMeta {
    /// Length of the whole IP packet in bytes.
    pub len: u32,
    /// Payload bytes per segment of a super-packet, 0 for a single packet.
    pub gso_size: u32,
}

/// The decision about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Put the outer header of the link in `slot` before it and send it.
    Encapsulate { slot: u32, outer: Family },
    /// Seal it, put the outer headers of the link before it and send it.
    Seal(Sealing),
    /// Leave it to the user path.
    Miss(Counter),
    /// Answer with an ICMP error that names this MTU.
    TooBig { mtu: u16 },
    /// Drop and count.
    Refuse(Counter),
}

/// Decides about an IP packet of `family` that starts at the cursor.
#[inline(always)]
pub fn packet<C: Cursor, T: Tables>(
    cursor: C,
    family: Family,
    meta: PacketMeta,
    tables: &T,
    now_ns: u64,
) -> Verdict {
    match tables.config() {
        Some(config) if config.enabled != 0 => {}
        _ => return Verdict::Miss(Counter::TxDisabled),
    }
    let inner = match Inner::parse(cursor, 0, family) {
        Ok(inner) => inner,
        Err(InnerError::Truncated) => return Verdict::Refuse(Counter::TxTruncated),
        Err(InnerError::Malformed) => return Verdict::Miss(Counter::TxNotIp),
    };
    // Before the look-up: a peer that all else is routed to has no groups.
    if is_for_many(&inner.destination) {
        return Verdict::Miss(Counter::TxToGroup);
    }
    let Some(reference) = tables.by_address(&inner.destination) else {
        return Verdict::Miss(Counter::TxNoRoute);
    };
    if reference == LinkRef::LOCAL {
        return Verdict::Miss(Counter::TxNoRoute);
    }
    let link = match sending(tables, reference, now_ns) {
        Ok(link) => link,
        Err(counter) => return Verdict::Miss(counter),
    };
    // The daemon refuses it again, and says so to who sends.
    if rules::permit(cursor, &inner, link, Direction::Out, tables, now_ns).is_err() {
        return Verdict::Miss(Counter::TxHeldByRule);
    }
    let len = if meta.gso_size == 0 { meta.len } else { segment_len(cursor, &inner, meta.gso_size) };
    if len > u32::from(link.mtu) {
        return oversized(&inner, len, link.mtu);
    }
    // A forwarded super-packet may be longer than an outer length field can say.
    if meta.len > INNER_LEN_MAX as u32 {
        return Verdict::Miss(Counter::TxFragmented);
    }
    if link.flags & Link::SEALED != 0 {
        return sealed(cursor, &inner, meta, tables, now_ns, reference.slot, link);
    }
    Verdict::Encapsulate { slot: reference.slot, outer: link.outer() }
}

/// The link that packets go by now.
#[inline(always)]
pub(crate) fn sending<T: Tables>(tables: &T, reference: LinkRef, now_ns: u64) -> Result<&Link, Counter> {
    let link = match follow(tables, reference, now_ns) {
        Ok(link) => link,
        Err(Stale::Epoch) => return Err(Counter::TxStaleEpoch),
        Err(Stale::Lease) => return Err(Counter::TxLeaseExpired),
    };
    if link.flags & Link::RECEIVE_ONLY != 0 { Err(Counter::TxReceiveOnly) } else { Ok(link) }
}

/// Whether the kernel path seals a packet of a sealed link.
#[inline(always)]
fn sealed<C: Cursor, T: Tables>(
    cursor: C,
    inner: &Inner,
    meta: PacketMeta,
    tables: &T,
    now_ns: u64,
    slot: u32,
    link: &Link,
) -> Verdict {
    if link.session == 0 {
        return Verdict::Miss(Counter::TxNoSession);
    }
    let flow = tables.flow(flow_hash(cursor, inner));
    let shape = Shape::of(cursor, inner);
    let counter = match (shape, flow) {
        _ if meta.gso_size != 0 || meta.len > TEXT_MAX as u32 => Counter::TxBulk,
        (None, _) => Counter::TxComplex,
        (Some(_), Some(flow)) if is_with_user(flow, now_ns) => Counter::TxBulk,
        (Some(shape), _) => {
            let (session, len) = (link.session, meta.len as u16);
            return Verdict::Seal(Sealing { slot, outer: link.outer(), session, shape, len });
        }
    };
    if let Some(flow) = flow {
        flow.store(now_ns);
    }
    Verdict::Miss(counter)
}

/// A packet that the link cannot carry whole: the sender is told, unless it asked the network to
/// fragment (IPv4 without DF) or is entitled to 1280 bytes (IPv6); those are for the user path,
/// whose outer packets may be fragmented.
#[inline(always)]
pub fn oversized(inner: &Inner, len: u32, mtu: u16) -> Verdict {
    let entitled = match inner.family {
        Family::V4 => !inner.dont_fragment,
        Family::V6 => len <= u32::from(MTU_IPV6_MIN),
    };
    if entitled {
        return Verdict::Miss(Counter::TxFragmented);
    }
    match inner.family {
        Family::V4 => Verdict::TooBig { mtu },
        Family::V6 if mtu < MTU_IPV6_MIN => Verdict::TooBig { mtu: MTU_IPV6_MIN },
        Family::V6 => Verdict::TooBig { mtu },
    }
}

/// Length of one segment of a super-packet: its headers and `gso_size` bytes of payload.
///
/// Where the transport header cannot be read without walking options or extension headers, the
/// shortest one is assumed: the check is then late by at most those bytes, never early.
#[inline(always)]
pub(crate) fn segment_len<C: Cursor>(cursor: C, inner: &Inner, gso_size: u32) -> u32 {
    let ip = u32::from(inner.header_len);
    let transport = match inner.protocol {
        protocol::UDP => 8,
        _ => {
            let data_offset = match (inner.family, inner.header_len) {
                (Family::V4, 20) => cursor.u8_at(20 + 12),
                (Family::V6, _) if inner.protocol == protocol::TCP => cursor.u8_at(40 + 12),
                _ => None,
            };
            match data_offset {
                Some(byte) => u32::from(byte >> 4) * 4,
                None => 20,
            }
        }
    };
    ip + transport + gso_size
}
