//! What happens to a packet that the TUN device delivers: which peer it goes to, whether it fits,
//! and the datagrams that it becomes. System calls are the engines' business.

use std::net::SocketAddr;
use std::sync::Arc;

use ipop_common::gpe::{self, LinkId, NextProtocol};
use ipop_common::icmp;
use ipop_common::inner::{Inner, InnerError};
use ipop_common::maps::LinkRef;
use ipop_common::multicast::is_for_many;
use ipop_common::rules::{self, Direction};
use ipop_common::tables::{Stale, Tables, follow};
use ipop_common::wireguard::TRANSPORT_HEADER_LEN;
use ipop_common::{Counter, Family, egress, ethernet, relay};
use ipop_overlay::Endpoint;

use super::batch::{Batch, Company, Part, Route};
use super::coalesce::Coalescer;
use super::counters::{Counters, LinkTraffic};
use super::engine::SOCKETS_MAX;
use super::group;
use super::icmp_error::{ERROR_LEN_MAX, IcmpErrors};
use super::pool::{Memory, Piece, Pool};
use super::segment::{HEADER_LEN_MAX, SegmentError, SuperPacket, complete_checksum};
use super::session::{OVERHEAD, UserSession, sealed_len};
use super::stage::{Stage, Wanted};
use super::switch;
use super::table::{Carriage, Table, UserLink};
use super::virtio;
use super::{CarriedDatagram, Listeners};
use crate::places::Places;

/// Where the packet starts in a read buffer, and where the clear header is then put before it.
pub(super) const PACKET_START: u32 = virtio::HEADER_LEN as u32;
const GPE_LEN: u32 = gpe::HEADER_LEN as u32;

/// What decisions about packets are made from and reported to.
pub(super) struct Context<'a> {
    pub(super) table: &'a Table,
    pub(super) places: &'a Places,
    pub(super) counters: &'a Counters,
    pub(super) listeners: &'a Listeners,
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
    way: Way,
    company: Company,
    cut: Cut,
}

/// How its datagrams go.
#[derive(Debug)]
enum Way {
    Send(Route),
    /// Handed to the control task, which sends them by TCP or has other nodes carry them.
    Carry {
        to: Endpoint,
        traffic: Arc<LinkTraffic>,
    },
}

#[derive(Debug)]
enum Cut {
    /// Clear header and packet lie in the read buffer as they are sent.
    Whole(Piece),
    Segments {
        packet: Piece,
        lead: Lead,
        whole: SuperPacket,
        next: usize,
    },
    Sealed(Sealed),
}

/// What precedes each IP packet beside what is computed for it: a clear header, or where frames are carried what
/// seals them; and the header of the frame.
#[derive(Clone, Copy, Debug, Default)]
struct Lead {
    bytes: [u8; LEAD_MAX],
    len: usize,
}

/// The longest: a clear header and that of a frame.
const LEAD_MAX: usize = gpe::HEADER_LEN + ethernet::HEADER_LEN_MAX;

impl Lead {
    fn of(parts: &[&[u8]]) -> Self {
        let mut lead = Self::default();
        for (to, from) in lead.bytes.iter_mut().zip(parts.iter().copied().flatten()) {
            *to = *from;
            lead.len += 1;
        }
        lead
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A packet of a sealed link, which is sealed as it goes into the batch.
#[derive(Debug)]
struct Sealed {
    packet: Piece,
    lead: Lead,
    /// `None`: it is one packet as it is.
    whole: Option<SuperPacket>,
    next: usize,
    session: Arc<UserSession>,
    mtu: u16,
    /// The label by which a relay passes it on.
    label: Option<u32>,
}

/// Why a packet does not go out.
pub(super) enum Refusal {
    Count(Counter),
    Answer(Counter, icmp::Error),
    /// It is for many, and goes to the control task.
    Group,
    /// The same of a frame, or nobody knows where its station is.
    Frame,
    /// There is no session with the peer yet, or nobody knows who that is.
    Wait(Wanted),
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
    stage: Stage,
    /// By socket: until when the kernel is not asked to cut.
    paused_until_ns: [u64; SOCKETS_MAX],
}

impl Outbound {
    pub(super) fn new(families: Families) -> Self {
        Self {
            families,
            errors: IcmpErrors::default(),
            leaving: None,
            stage: Stage::default(),
            paused_until_ns: [0; SOCKETS_MAX],
        }
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
        self.take_held((buffer, len), false, pool, answers, context);
    }

    /// Whether packets wait for a session.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.stage.is_empty()
    }

    /// Decides anew about what waits, if the table is another one; until a packet may leave.
    ///
    /// Only while idle.
    pub(super) fn retry(
        &mut self,
        table: &Arc<Table>,
        pool: &mut Pool,
        answers: &mut Coalescer,
        context: &Context<'_>,
    ) {
        self.stage.look_at(table);
        while self.is_idle()
            && let Some(staged) = self.stage.retry(pool, context)
        {
            self.take_held(staged, true, pool, answers, context);
        }
    }

    /// Decides about a packet whose buffer is held.
    fn take_held(
        &mut self,
        (buffer, len): (u16, u32),
        again: bool,
        pool: &mut Pool,
        answers: &mut Coalescer,
        context: &Context<'_>,
    ) {
        let read = Piece { buffer, start: 0, len };
        match self.decide(read, pool, context) {
            Ok(leaving) => self.leaving = Some(leaving),
            Err(Refusal::Wait(wanted)) => self.stage.push((buffer, len), wanted, again, pool, context),
            Err(Refusal::Group) => {
                group::hand_on(read, pool, context);
                pool.release(buffer);
            }
            Err(Refusal::Frame) => {
                switch::hand_on(read, pool, context);
                pool.release(buffer);
            }
            Err(Refusal::Count(counter)) => self.refuse(counter, None, read, pool, answers, context),
            Err(Refusal::Answer(counter, error)) => {
                self.refuse(counter, Some(error), read, pool, answers, context);
            }
        }
    }

    /// Adds datagrams of the packet taken to the batch; true when it is wholly there.
    pub(super) fn fill(&mut self, batch: &mut Batch, pool: &mut Pool, context: &Context<'_>) -> bool {
        let Some(Leaving { buffer, way, company, cut }) = &mut self.leaving else { return true };
        let route = match (way, &mut *cut) {
            (Way::Send(route), _) => route,
            (Way::Carry { to, traffic }, Cut::Sealed(sealed)) => {
                sealed.carry(*to, traffic, pool, context);
                pool.release(*buffer);
                self.leaving = None;
                return true;
            }
            (Way::Carry { .. }, _) => unreachable!("what others carry is sealed"),
        };
        match cut {
            Cut::Whole(datagram) => {
                if !batch.has_room(0) {
                    return false;
                }
                pool.hold(*buffer);
                let inner_len = (datagram.len - GPE_LEN) as usize;
                batch.push(route, &[Part::Payload(*datagram)], inner_len, *company);
            }
            Cut::Segments { packet, lead, whole, next } => {
                while *next < whole.segments() {
                    if !batch.has_room(LEAD_MAX + HEADER_LEN_MAX) {
                        return false;
                    }
                    let bytes = pool.bytes(*packet);
                    let Some(parts) = segment(batch, *packet, bytes, lead.bytes(), whole, *next) else {
                        return false;
                    };
                    pool.hold(*buffer);
                    batch.push(route, &parts, whole.segment_len(*next), *company);
                    *next += 1;
                }
            }
            Cut::Sealed(sealed) => {
                while sealed.next < sealed.segments() {
                    if !batch.has_room(sealed.block_len()) {
                        return false;
                    }
                    match sealed.seal(batch, pool, context) {
                        Ok((part, len)) => batch.push(route, &[part], len, *company),
                        // The session has ended since it was chosen.
                        Err(counter) => context.counters.add(counter, 1),
                    }
                    sealed.next += 1;
                }
            }
        }
        pool.release(*buffer);
        self.leaving = None;
        true
    }

    fn decide(&self, read: Piece, pool: &mut Pool, context: &Context<'_>) -> Result<Leaving, Refusal> {
        if context.table.is_switch() {
            return self.decide_frame(read, pool, context);
        }
        let bytes = pool.bytes(read);
        let header = virtio::Header::parse(bytes).map_err(|_| Refusal::Count(Counter::TxNotIp))?;
        let packet = bytes.get(virtio::HEADER_LEN..).unwrap_or_default();
        let inner = Inner::parse_any(packet, 0)?;
        let Some(packet) = packet.get(..usize::from(inner.total_len)) else {
            return Err(Refusal::Count(Counter::TxTruncated));
        };
        if is_for_many(&inner.destination) || context.table.is_broadcast(&inner.destination) {
            return Err(Refusal::Group);
        }
        let (slot, link) = look_up(&inner, context)?;
        rules::permit(packet, &inner, &link.link, Direction::Out, context.table, context.now_ns)
            .map_err(|_| Refusal::Answer(Counter::TxRefusedRule, icmp::Error::Prohibited))?;
        let way = self.way(link).filter(|_| link.reachable);
        let Some(way) = way else {
            return Err(Refusal::Answer(Counter::TxUnreachable, icmp::Error::Unreachable));
        };
        let session = session_for(link, slot, context)?;
        let whole = match header.gso {
            Some(_) => Some(SuperPacket::parse(packet, &inner, &header)?),
            None => None,
        };
        let len = whole.as_ref().map_or(packet.len(), SuperPacket::segment_len_max);
        let company = match fit(&inner, len, link.link.mtu, context.counters)? {
            Company::Segmented if self.is_paused(&way, context.now_ns) => Company::Alone,
            company => company,
        };
        let packet = Piece { buffer: read.buffer, start: PACKET_START, len: u32::from(inner.total_len) };
        if whole.is_none()
            && let Some(partial) = header.checksum
        {
            complete_checksum(pool.bytes_mut(packet), partial)?;
        }
        let cut = match (&link.carriage, whole) {
            (Carriage::Sealed(_), whole) => {
                let session = session.ok_or(Refusal::Wait(Wanted::Session(slot)))?;
                let label = label_of(link);
                let (lead, mtu) = (Lead::default(), link.link.mtu);
                Cut::Sealed(Sealed { packet, lead, whole, next: 0, session, mtu, label })
            }
            (Carriage::Clear(id), Some(whole)) => {
                let lead = Lead::of(&[&clear_header(*id, inner.family)]);
                Cut::Segments { packet, lead, whole, next: 0 }
            }
            (Carriage::Clear(id), None) => {
                Cut::Whole(in_place(packet, clear_header(*id, inner.family), pool)?)
            }
        };
        Ok(Leaving { buffer: read.buffer, way, company, cut })
    }

    /// As [`Self::decide`], in a network that carries Ethernet.
    fn decide_frame(&self, read: Piece, pool: &mut Pool, context: &Context<'_>) -> Result<Leaving, Refusal> {
        let bytes = pool.bytes(read);
        let header = virtio::Header::parse(bytes).map_err(|_| Refusal::Count(Counter::TxBadFrame))?;
        let frame = bytes.get(virtio::HEADER_LEN..).unwrap_or_default();
        let (slot, link) = switch::look_up(frame, context)?;
        let unreachable = Refusal::Count(Counter::TxUnreachable);
        let way = self.way(link).filter(|_| link.reachable).ok_or(unreachable)?;
        let session = session_for(link, slot, context)?;
        let whole = match header.gso {
            Some(_) => Some(switch::super_frame(frame, &header)?),
            None => None,
        };
        let len = whole.as_ref().map_or(frame.len(), |(at, whole)| at + whole.segment_len_max());
        let company = match len + ethernet::SEALED_PREFIX_LEN <= usize::from(link.link.mtu) {
            true if self.is_paused(&way, context.now_ns) => Company::Alone,
            true => Company::Segmented,
            // What stations send may be longer than a link takes whole, and nobody here is a router: the outer
            // packet is fragmented.
            false => {
                context.counters.add(Counter::TxFragmented, 1);
                Company::Alone
            }
        };
        let whole_frame = Piece { buffer: read.buffer, start: PACKET_START, len: frame.len() as u32 };
        let link_header = |at: usize| frame.get(..at).unwrap_or_default();
        let prefix = ethernet::sealed_prefix(0);
        let (lead, packet) = match (&link.carriage, &whole) {
            (Carriage::Sealed(_), None) => (Lead::of(&[&prefix]), whole_frame),
            (Carriage::Sealed(_), Some((at, _))) => {
                (Lead::of(&[&prefix, link_header(*at)]), whole_frame.behind(*at as u32))
            }
            (Carriage::Clear(id), None) => (Lead::of(&[&ethernet::clear_header(*id)]), whole_frame),
            (Carriage::Clear(id), Some((at, _))) => {
                let lead = Lead::of(&[&ethernet::clear_header(*id), link_header(*at)]);
                (lead, whole_frame.behind(*at as u32))
            }
        };
        if whole.is_none()
            && let Some(partial) = header.checksum
        {
            complete_checksum(pool.bytes_mut(whole_frame), partial)?;
        }
        let cut = match (&link.carriage, whole.map(|(_, whole)| whole)) {
            (Carriage::Sealed(_), whole) => {
                let session = session.ok_or(Refusal::Wait(Wanted::Session(slot)))?;
                let (mtu, label) = (link.link.mtu, label_of(link));
                Cut::Sealed(Sealed { packet, lead, whole, next: 0, session, mtu, label })
            }
            (Carriage::Clear(_), Some(whole)) => Cut::Segments { packet, lead, whole, next: 0 },
            (Carriage::Clear(id), None) => Cut::Whole(in_place(packet, ethernet::clear_header(*id), pool)?),
        };
        Ok(Leaving { buffer: read.buffer, way, company, cut })
    }

    /// `None` where there is no socket for it, or what others would carry is not sealed.
    fn way(&self, link: &UserLink) -> Option<Way> {
        let traffic = link.traffic.clone();
        match (link.endpoint, &link.carriage) {
            (Endpoint::Udp(endpoint), _) => self.by_udp(endpoint, traffic),
            (Endpoint::Relay { .. }, Carriage::Sealed(_)) => match link.via? {
                Endpoint::Udp(endpoint) => self.by_udp(endpoint, traffic),
                to => Some(Way::Carry { to, traffic }),
            },
            (to @ (Endpoint::Tcp(_) | Endpoint::Turn(_) | Endpoint::Overlay(_)), Carriage::Sealed(_)) => {
                Some(Way::Carry { to, traffic })
            }
            // What is not sealed goes by nobody.
            (_, Carriage::Clear(_)) => None,
        }
    }

    fn by_udp(&self, endpoint: SocketAddr, traffic: Arc<LinkTraffic>) -> Option<Way> {
        let socket = self.families.socket_for(&endpoint)?;
        Some(Way::Send(Route { socket, endpoint, traffic }))
    }

    fn is_paused(&self, way: &Way, now_ns: u64) -> bool {
        let Way::Send(Route { socket, .. }) = way else { return false };
        let socket = *socket;
        self.paused_until_ns.get(usize::from(socket)).is_some_and(|&until_ns| now_ns < until_ns)
    }

    fn refuse(
        &mut self,
        counter: Counter,
        error: Option<icmp::Error>,
        read: Piece,
        pool: &mut Pool,
        answers: &mut Coalescer,
        context: &Context<'_>,
    ) {
        context.counters.add(counter, 1);
        let packet = pool.bytes(read).get(virtio::HEADER_LEN..).unwrap_or_default();
        if let (Some(error), Ok(inner)) = (error, Inner::parse_any(packet, 0)) {
            let mut out = [0; ERROR_LEN_MAX];
            if let Some(len) = self.errors.write(error, packet, &inner, context.now_ns, &mut out) {
                // Without a free frame the answer is left out, as if the second's number were spent.
                let _ = answers.push_own(out.get(..len).unwrap_or_default());
            }
        }
        pool.release(read.buffer);
    }
}

impl Sealed {
    fn segments(&self) -> usize {
        self.whole.as_ref().map_or(1, SuperPacket::segments)
    }

    fn text_len(&self, index: usize) -> usize {
        let packet_len =
            self.whole.as_ref().map_or(self.packet.len as usize, |whole| whole.segment_len(index));
        self.lead.bytes().len() + packet_len
    }

    /// Length of the next message, with what a relay frame has before it.
    fn block_len(&self) -> usize {
        sealed_len(self.text_len(self.next), self.mtu) + self.label.map_or(0, |_| relay::HEADER_LEN)
    }

    /// Seals the next segment into the batch: the message, and how many bytes it carries.
    fn seal(&self, batch: &mut Batch, pool: &Pool, context: &Context<'_>) -> Result<(Part, usize), Counter> {
        let (part, block) = batch.block(self.block_len()).ok_or(Counter::TxQueueFull)?;
        Ok((part, self.seal_into(block, pool, context)?))
    }

    /// Seals all segments and hands them on.
    fn carry(&mut self, to: Endpoint, traffic: &LinkTraffic, pool: &Pool, context: &Context<'_>) {
        let counter = if to.overlay().is_some() { Counter::TxCarried } else { Counter::TxEncapsulated };
        while self.next < self.segments() {
            // No counter of the session is spent on what nobody takes.
            let result = context.listeners.carried.try_reserve().map_err(|_| Counter::TxCarryFull);
            let result = result.and_then(|place| {
                let mut bytes = vec![0; self.block_len()];
                let len = self.seal_into(&mut bytes, pool, context)?;
                place.send(CarriedDatagram { to, is_relayed: false, bytes });
                Ok(len)
            });
            match result {
                Ok(len) => {
                    traffic.sent(1, len as u64);
                    context.counters.add(counter, 1);
                }
                Err(counter) => context.counters.add(counter, 1),
            }
            self.next += 1;
        }
    }

    /// Seals the next segment into a block of its length; how many bytes it carries.
    fn seal_into(&self, mut block: &mut [u8], pool: &Pool, context: &Context<'_>) -> Result<usize, Counter> {
        if let Some(label) = self.label {
            let (header, message) = block.split_first_chunk_mut().ok_or(Counter::TxQueueFull)?;
            *header = relay::header(label);
            block = message;
        }
        let text_len = self.text_len(self.next);
        let no_room = Counter::TxQueueFull;
        let text = block.get_mut(TRANSPORT_HEADER_LEN..).and_then(|rest| rest.get_mut(..text_len));
        let (text, packet) = (text.ok_or(no_room)?, pool.bytes(self.packet));
        let (lead, text) = text.split_at_mut_checked(self.lead.bytes().len()).ok_or(no_room)?;
        lead.copy_from_slice(self.lead.bytes());
        if let Some(prefix) = lead.first_chunk_mut() {
            *prefix = ethernet::sealed_prefix(sealed_len(text_len, self.mtu) - OVERHEAD - text_len);
        }
        match &self.whole {
            Some(whole) => {
                whole.write_header(packet, self.next, text);
                let payload = packet.get(whole.payload(self.next)).unwrap_or_default();
                if let Some(out) = text.get_mut(whole.header_len()..)
                    && out.len() == payload.len()
                {
                    out.copy_from_slice(payload);
                }
            }
            None if text.len() == packet.len() => text.copy_from_slice(packet),
            None => return Err(Counter::TxTruncated),
        }
        let place = context.places.of(self.session.local());
        self.session.seal(place, block, text_len, context.now_ns)?;
        Ok(text_len)
    }
}

/// The label by which a relay passes on what goes to a link.
fn label_of(link: &UserLink) -> Option<u32> {
    match link.endpoint {
        Endpoint::Relay { label, .. } => Some(label),
        Endpoint::Udp(_) | Endpoint::Tcp(_) | Endpoint::Turn(_) | Endpoint::Overlay(_) => None,
    }
}

/// The session to seal with; `None` on a clear link.
fn session_for(
    link: &UserLink,
    slot: u32,
    context: &Context<'_>,
) -> Result<Option<Arc<UserSession>>, Refusal> {
    match &link.carriage {
        Carriage::Clear(_) => Ok(None),
        Carriage::Sealed(Some(session))
            if context.places.of(session.local()).is_alive(session.local(), context.now_ns) =>
        {
            Ok(Some(Arc::clone(session)))
        }
        Carriage::Sealed(_) => Err(Refusal::Wait(Wanted::Session(slot))),
    }
}

/// The slot of the link to a packet's destination, and the link.
fn look_up<'a>(inner: &Inner, context: &Context<'a>) -> Result<(u32, &'a UserLink), Refusal> {
    let no_route = || Refusal::Answer(Counter::TxNoRoute, icmp::Error::Unreachable);
    let Some(reference) = context.table.by_address(&inner.destination) else {
        return Err(match context.table.may_be_found(&inner.destination) {
            true => Refusal::Wait(Wanted::Owner(inner.destination)),
            false => no_route(),
        });
    };
    if reference == LinkRef::LOCAL {
        return Err(Refusal::Count(Counter::TxNoRoute));
    }
    follow_link(reference, context)?.ok_or_else(no_route)
}

/// The slot that a reference leads to, and its link as it is now.
pub(super) fn follow_link<'a>(
    reference: LinkRef,
    context: &Context<'a>,
) -> Result<Option<(u32, &'a UserLink)>, Refusal> {
    follow(context.table, reference, context.now_ns).map_err(|stale| {
        Refusal::Count(match stale {
            Stale::Epoch => Counter::TxStaleEpoch,
            Stale::Lease => Counter::TxLeaseExpired,
        })
    })?;
    Ok(context.table.user_link(reference.slot).map(|link| (reference.slot, link)))
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

fn clear_header(link_id: LinkId, family: Family) -> [u8; gpe::HEADER_LEN] {
    let next_protocol = match family {
        Family::V4 => NextProtocol::Ipv4,
        Family::V6 => NextProtocol::Ipv6,
    };
    gpe::Header { link_id, next_protocol }.to_bytes()
}

/// Writes the clear header over the virtio header before a packet: both are then one piece.
fn in_place(packet: Piece, clear: [u8; gpe::HEADER_LEN], pool: &mut Pool) -> Result<Piece, Refusal> {
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
    lead: &[u8],
    whole: &SuperPacket,
    index: usize,
) -> Option<[Part; 2]> {
    let (header, block) = batch.block(lead.len() + whole.header_len())?;
    let (start, rest) = block.split_at_mut_checked(lead.len())?;
    start.copy_from_slice(lead);
    whole.write_header(bytes, index, rest);
    let payload = whole.payload(index);
    let payload = Piece { start: packet.start + payload.start as u32, len: payload.len() as u32, ..packet };
    Some([header, Part::Payload(payload)])
}

#[cfg(test)]
mod tests;
