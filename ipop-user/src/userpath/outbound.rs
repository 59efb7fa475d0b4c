//! What happens to a packet that the TUN device delivers: which peer it goes to, whether it fits,
//! and the datagrams that it becomes. System calls are the engines' business.

use std::net::SocketAddr;

use ipop_common::gpe::{self, NextProtocol};
use ipop_common::icmp;
use ipop_common::inner::{Inner, InnerError};
use ipop_common::maps::LinkRef;
use ipop_common::tables::{Stale, Tables, follow};
use ipop_common::{Counter, Family, egress};

use super::batch::{Batch, Company, Part, Route};
use super::coalesce::Coalescer;
use super::counters::Counters;
use super::engine::SOCKETS_MAX;
use super::icmp_error::{ERROR_LEN_MAX, IcmpErrors};
use super::pool::{Memory, Piece, Pool};
use super::segment::{SegmentError, SuperPacket, complete_checksum};
use super::table::{Table, UserLink};
use super::virtio;

/// Where the packet starts in a read buffer, and where the clear header is then put before it.
const PACKET_START: u32 = virtio::HEADER_LEN as u32;
const GPE_LEN: u32 = gpe::HEADER_LEN as u32;

/// What decisions about packets are made from and reported to.
pub(super) struct Context<'a> {
    pub(super) table: &'a Table,
    pub(super) counters: &'a Counters,
    /// CLOCK_MONOTONIC.
    pub(super) now_ns: u64,
}

/// Which socket serves which family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Families {
    pub(super) v4: Option<u8>,
    pub(super) v6: Option<u8>,
}

impl Families {
    fn socket_for(self, endpoint: &SocketAddr) -> Option<u8> {
        if endpoint.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// How long a socket sends single datagrams after the kernel refused to cut for it. It may have been
/// for good (a device without checksum offload) or for the moment (a changed route).
const SEGMENTATION_PAUSE_NS: u64 = 10_000_000_000;

/// A packet that goes out, not yet wholly in a batch.
#[derive(Debug)]
struct Leaving {
    buffer: u16,
    route: Route,
    company: Company,
    cut: Cut,
}

#[derive(Debug)]
enum Cut {
    /// Clear header and packet lie in the read buffer as they are sent.
    Whole(Piece),
    Segments {
        packet: Piece,
        header: [u8; gpe::HEADER_LEN],
        whole: SuperPacket,
        next: usize,
    },
}

/// Why a packet does not go out.
enum Refusal {
    Count(Counter),
    Answer(Counter, icmp::Error),
}

impl From<SegmentError> for Refusal {
    fn from(error: SegmentError) -> Self {
        Refusal::Count(match error {
            SegmentError::Truncated => Counter::TxTruncated,
            SegmentError::Malformed => Counter::TxNotIp,
        })
    }
}

impl From<InnerError> for Refusal {
    fn from(error: InnerError) -> Self {
        SegmentError::from(error).into()
    }
}

/// Turns packets into datagrams, one packet after another.
#[derive(Debug)]
pub(super) struct Outbound {
    families: Families,
    errors: IcmpErrors,
    leaving: Option<Leaving>,
    /// By socket: until when the kernel is not asked to cut.
    paused_until_ns: [u64; SOCKETS_MAX],
}

impl Outbound {
    pub(super) fn new(families: Families) -> Self {
        Self { families, errors: IcmpErrors::default(), leaving: None, paused_until_ns: [0; SOCKETS_MAX] }
    }

    /// The kernel has refused to cut for a socket.
    pub(super) fn pause_segmentation(&mut self, socket: u8, now_ns: u64) {
        if let Some(until_ns) = self.paused_until_ns.get_mut(usize::from(socket)) {
            *until_ns = now_ns + SEGMENTATION_PAUSE_NS;
        }
    }

    /// Whether the last packet is wholly in a batch, so that another may be taken.
    pub(super) fn is_idle(&self) -> bool {
        self.leaving.is_none()
    }

    /// Decides about the packet in the first `len` bytes of a buffer, virtio header included.
    /// What is refused is counted, and answered by a frame where an answer is due.
    ///
    /// Only while idle; [`Outbound::fill`] then moves the packet into batches.
    pub(super) fn take(
        &mut self,
        buffer: u16,
        len: u32,
        pool: &mut Pool,
        answers: &mut Coalescer,
        context: &Context<'_>,
    ) {
        debug_assert!(self.is_idle());
        pool.hold(buffer);
        let read = Piece { buffer, start: 0, len };
        match self.decide(read, pool, context) {
            Ok(leaving) => self.leaving = Some(leaving),
            Err(refusal) => {
                self.refuse(&refusal, read, pool, answers, context);
                pool.release(buffer);
            }
        }
    }

    /// Adds datagrams of the packet taken to the batch; true when it is wholly there.
    pub(super) fn fill(&mut self, batch: &mut Batch, pool: &mut Pool) -> bool {
        let Some(leaving) = &mut self.leaving else { return true };
        match &mut leaving.cut {
            Cut::Whole(datagram) => {
                if !batch.has_room() {
                    return false;
                }
                pool.hold(leaving.buffer);
                batch.push(&leaving.route, &[Part::Payload(*datagram)], leaving.company);
            }
            Cut::Segments { packet, header, whole, next } => {
                while *next < whole.segments() {
                    if !batch.has_room() {
                        return false;
                    }
                    let bytes = pool.bytes(*packet);
                    let Some(parts) = segment(batch, *packet, bytes, header, whole, *next) else {
                        return false;
                    };
                    pool.hold(leaving.buffer);
                    batch.push(&leaving.route, &parts, leaving.company);
                    *next += 1;
                }
            }
        }
        pool.release(leaving.buffer);
        self.leaving = None;
        true
    }

    fn decide(&self, read: Piece, pool: &mut Pool, context: &Context<'_>) -> Result<Leaving, Refusal> {
        let bytes = pool.bytes(read);
        let header = virtio::Header::parse(bytes).map_err(|_| Refusal::Count(Counter::TxNotIp))?;
        let packet = bytes.get(virtio::HEADER_LEN..).unwrap_or_default();
        let inner = Inner::parse_any(packet, 0)?;
        let Some(packet) = packet.get(..usize::from(inner.total_len)) else {
            return Err(Refusal::Count(Counter::TxTruncated));
        };
        let link = look_up(&inner, context)?;
        let socket = self.families.socket_for(&link.endpoint).filter(|_| link.reachable);
        let Some(socket) = socket else {
            return Err(Refusal::Answer(Counter::TxUnreachable, icmp::Error::Unreachable));
        };
        let whole = match header.gso {
            Some(_) => Some(SuperPacket::parse(packet, &inner, &header)?),
            None => None,
        };
        let len = whole.as_ref().map_or(packet.len(), SuperPacket::segment_len_max);
        let company = match fit(&inner, len, link.link.mtu, context.counters)? {
            Company::Segmented if self.is_paused(socket, context.now_ns) => Company::Alone,
            company => company,
        };
        let clear = clear_header(link, inner.family);
        let packet = Piece { buffer: read.buffer, start: PACKET_START, len: u32::from(inner.total_len) };
        let cut = match whole {
            Some(whole) => Cut::Segments { packet, header: clear, whole, next: 0 },
            None => Cut::Whole(in_place(packet, &header, clear, pool)?),
        };
        let route = Route { socket, endpoint: link.endpoint, traffic: link.traffic.clone() };
        Ok(Leaving { buffer: read.buffer, route, company, cut })
    }

    fn is_paused(&self, socket: u8, now_ns: u64) -> bool {
        self.paused_until_ns.get(usize::from(socket)).is_some_and(|&until_ns| now_ns < until_ns)
    }

    fn refuse(
        &mut self,
        refusal: &Refusal,
        read: Piece,
        pool: &Pool,
        answers: &mut Coalescer,
        context: &Context<'_>,
    ) {
        let (counter, error) = match *refusal {
            Refusal::Count(counter) => (counter, None),
            Refusal::Answer(counter, error) => (counter, Some(error)),
        };
        context.counters.add(counter, 1);
        let packet = pool.bytes(read).get(virtio::HEADER_LEN..).unwrap_or_default();
        let (Some(error), Ok(inner)) = (error, Inner::parse_any(packet, 0)) else { return };
        let mut out = [0; ERROR_LEN_MAX];
        if let Some(len) = self.errors.write(error, packet, &inner, context.now_ns, &mut out) {
            // Without a free frame the answer is left out, as if the second's number were spent.
            let _ = answers.push_own(out.get(..len).unwrap_or_default());
        }
    }
}

/// The link to a packet's destination.
fn look_up<'a>(inner: &Inner, context: &Context<'a>) -> Result<&'a UserLink, Refusal> {
    let no_route = || Refusal::Answer(Counter::TxNoRoute, icmp::Error::Unreachable);
    let reference = context.table.by_address(&inner.destination).ok_or_else(no_route)?;
    if reference == LinkRef::LOCAL {
        return Err(Refusal::Count(Counter::TxNoRoute));
    }
    follow(context.table, reference, context.now_ns).map_err(|stale| {
        Refusal::Count(match stale {
            Stale::Epoch => Counter::TxStaleEpoch,
            Stale::Lease => Counter::TxLeaseExpired,
        })
    })?;
    context.table.user_link(reference.slot).ok_or_else(no_route)
}

/// Whether packets of `len` bytes fit the link, and may share a send.
fn fit(inner: &Inner, len: usize, mtu: u16, counters: &Counters) -> Result<Company, Refusal> {
    if len <= usize::from(mtu) {
        return Ok(Company::Segmented);
    }
    match egress::oversized(inner, len as u32, mtu) {
        egress::Verdict::TooBig { mtu } => {
            Err(Refusal::Answer(Counter::TxTooBig, icmp::Error::TooBig { mtu }))
        }
        // The outer packet is fragmented.
        _ => {
            counters.add(Counter::TxFragmented, 1);
            Ok(Company::Alone)
        }
    }
}

fn clear_header(link: &UserLink, family: Family) -> [u8; gpe::HEADER_LEN] {
    let next_protocol = match family {
        Family::V4 => NextProtocol::Ipv4,
        Family::V6 => NextProtocol::Ipv6,
    };
    gpe::Header { link_id: link.id, next_protocol }.to_bytes()
}

/// Completes a single packet's checksum, and writes the clear header over the virtio header before
/// it: header and packet are then one piece.
fn in_place(
    packet: Piece,
    header: &virtio::Header,
    clear: [u8; gpe::HEADER_LEN],
    pool: &mut Pool,
) -> Result<Piece, Refusal> {
    if let Some(partial) = header.checksum {
        complete_checksum(pool.bytes_mut(packet), partial)?;
    }
    let datagram = Piece { start: PACKET_START - GPE_LEN, len: packet.len + GPE_LEN, ..packet };
    let start = pool.bytes_mut(datagram).first_chunk_mut();
    *start.ok_or(Refusal::Count(Counter::TxTruncated))? = clear;
    Ok(datagram)
}

/// Writes the header block of a segment into the batch.
fn segment(
    batch: &mut Batch,
    packet: Piece,
    bytes: &[u8],
    clear: &[u8; gpe::HEADER_LEN],
    whole: &SuperPacket,
    index: usize,
) -> Option<[Part; 2]> {
    let (header, block) = batch.header(gpe::HEADER_LEN + whole.header_len())?;
    let (start, rest) = block.split_first_chunk_mut()?;
    *start = *clear;
    whole.write_header(bytes, index, rest);
    let payload = whole.payload(index);
    let payload = Piece { start: packet.start + payload.start as u32, len: payload.len() as u32, ..packet };
    Some([header, Part::Payload(payload)])
}

#[cfg(test)]
mod tests;
