//! What happens to the datagrams that the UDP sockets receive: which format they are, whether what a
//! clear or a sealed one carries may be delivered, and the frames that it becomes. System calls are the engines'
//! business.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ipop_common::cursor::Behind;
use ipop_common::ingress::{self, Clear};
use ipop_common::inner::Inner;
use ipop_common::wireguard::{self, TAG_LEN, TRANSPORT_HEADER_LEN, TransportHeader};
use ipop_common::{Address, Counter, Cursor, ethernet, gpe, relay, sealed};
use ipop_overlay::session::Gate;
use ipop_overlay::{Endpoint, Instant, Refusal, introduction};

use super::coalesce::Coalescer;
use super::outbound::Context;
use super::pool::{Memory, Piece, Pool};
use super::session::UserSession;
use super::switch::{self, Strangers};
use super::{CarriedDatagram, HandshakeDatagram, UserEvent};
use crate::stun;

/// What one receive call delivered: datagrams of one sender, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bundle {
    pub(super) piece: Piece,
    /// Length of each datagram but the last, which may be shorter. Never 0.
    pub(super) segment_len: u32,
    pub(super) from: Endpoint,
    /// That it came in on, if it came by UDP.
    pub(super) socket: u8,
}

/// Clear frames admitted for the same reason: what is equal need not be looked up again.
#[derive(Clone, Copy, Debug)]
struct Run {
    header: [u8; gpe::HEADER_LEN],
    source: Address,
    slot: u32,
}

/// Packets of one link that have not been added to its traffic yet.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    slot: u32,
    packets: u64,
    bytes: u64,
}

/// Turns datagrams into frames, one bundle after another.
#[derive(Debug)]
pub(super) struct Inbound {
    bundles: VecDeque<Bundle>,
    /// Bytes of the first bundle that have been dealt with.
    offset: u32,
    run: Option<Run>,
    tally: Tally,
    strangers: Strangers,
    gate: Gate,
}

impl Inbound {
    pub(super) fn new(bundles_max: usize, gate: Gate) -> Self {
        Self {
            bundles: VecDeque::with_capacity(bundles_max),
            offset: 0,
            run: None,
            tally: Tally::default(),
            strangers: Strangers::default(),
            gate,
        }
    }

    /// Takes what one receive call delivered.
    pub(super) fn take(&mut self, bundle: Bundle, pool: &mut Pool) {
        pool.hold(bundle.piece.buffer);
        self.bundles.push_back(bundle);
    }

    /// Whether all that was taken has become frames.
    pub(super) fn is_idle(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Turns what has been taken into frames; true when all is done, false when frames have to be
    /// written and released first.
    pub(super) fn fill(&mut self, pool: &mut Pool, frames: &mut Coalescer, context: &Context<'_>) -> bool {
        while let Some(bundle) = self.bundles.front().copied() {
            let done = self.fill_from(&bundle, pool, frames, context);
            // A run ends here at the latest: the next bundle may have another sender.
            self.run = None;
            self.add_up(context);
            if !done {
                return false;
            }
            pool.release(bundle.piece.buffer);
            self.bundles.pop_front();
            self.offset = 0;
        }
        true
    }

    fn fill_from(
        &mut self,
        bundle: &Bundle,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> bool {
        loop {
            if !frames.has_room() {
                return false;
            }
            let start = bundle.piece.start + self.offset;
            let len = bundle.segment_len.min(bundle.piece.len - self.offset);
            let datagram = Piece { start, len, ..bundle.piece };
            self.datagram(datagram, bundle, pool, frames, context);
            self.offset += len;
            if self.offset >= bundle.piece.len {
                return true;
            }
        }
    }

    /// Decides by the first bytes. There is one arm for each format that we know.
    fn datagram(
        &mut self,
        datagram: Piece,
        bundle: &Bundle,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) {
        let bytes = pool.bytes(datagram);
        // Who carries could have written what is not sealed. Handshakes do not come this way, but by relays.
        let result = match (bytes.first(), bundle.from) {
            (Some(&relay::TYPE), from @ (Endpoint::Udp(_) | Endpoint::Tcp(_) | Endpoint::Turn(_))) => {
                self.relayed(datagram, from, bundle, pool, frames, context)
            }
            (Some(_), Endpoint::Udp(from)) if stun::is_stun(bytes) => {
                context.listeners.stun.hear(from, bytes)
            }
            (Some(&gpe::FLAGS), Endpoint::Udp(from)) => self.clear(datagram, from, pool, frames, context),
            (Some(&ethernet::CLEAR_FLAGS), Endpoint::Udp(from)) if context.table.is_switch() => {
                self.clear_frame(datagram, from, pool, frames, context)
            }
            (Some(&wireguard::TYPE_TRANSPORT), _) => self.sealed(datagram, bundle, pool, frames, context),
            (
                Some(&(wireguard::TYPE_INITIATION | wireguard::TYPE_RESPONSE | wireguard::TYPE_COOKIE_REPLY)),
                from @ (Endpoint::Udp(_) | Endpoint::Tcp(_) | Endpoint::Turn(_) | Endpoint::Relay { .. }),
            ) => handshake(&mut self.gate, bytes, (from, bundle.socket), context),
            (Some(&introduction::TYPE), from @ (Endpoint::Udp(_) | Endpoint::Tcp(_) | Endpoint::Turn(_)))
                if bytes.len() == introduction::LEN =>
            {
                introduce(&mut self.gate, bytes, (from, bundle.socket), context)
            }
            _ => Err(Counter::RxUnknownMessage),
        };
        if let Err(counter) = result {
            context.counters.add(counter, 1);
        }
    }

    /// Takes in what a relay has passed on, or has passed on what is between others.
    fn relayed(
        &mut self,
        datagram: Piece,
        from: Endpoint,
        bundle: &Bundle,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let bytes = pool.bytes(datagram);
        let label = relay::label(bytes, 0).ok_or(Counter::RxBadRelayFrame)?;
        if let Some(to) = context.table.next_hop(label, from) {
            let onward = CarriedDatagram { to, is_relayed: true, bytes: bytes.to_vec() };
            context.listeners.carried.try_send(onward).map_err(|_| Counter::RxRelayFull)?;
            return Ok(());
        }
        let by = context.table.node_at(from).ok_or(Counter::RxUnknownLabel)?;
        let bundle = Bundle { from: Endpoint::Relay { by, label }, ..*bundle };
        self.datagram(datagram.behind(relay::HEADER_LEN as u32), &bundle, pool, frames, context);
        Ok(())
    }

    fn clear(
        &mut self,
        datagram: Piece,
        from: SocketAddr,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        if context.table.is_switch() {
            return Err(Counter::RxUnknownProtocol);
        }
        let bytes = pool.bytes(datagram);
        let len = u16::try_from(datagram.len).map_err(|_| Counter::RxBadLength)?;
        let clear = ingress::clear(bytes, 0, len)?;
        self.admit(bytes, &clear, from, context)?;
        deliver(datagram.behind(gpe::HEADER_LEN as u32), &clear.inner, pool, frames);
        Ok(())
    }

    fn clear_frame(
        &mut self,
        datagram: Piece,
        from: SocketAddr,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let link_id = ethernet::clear_link(pool.bytes(datagram)).ok_or(Counter::RxBadHeader)?;
        let from = Address::from(from.ip());
        let slot = ingress::by_link(context.table, link_id, from, context.now_ns)?.slot;
        self.frame(datagram.behind(gpe::HEADER_LEN as u32), slot, pool, frames, context)
    }

    /// Delivers a frame that came by the link in `slot`.
    fn frame(
        &mut self,
        frame: Piece,
        slot: u32,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        // A packet is known by its source address; a frame may be of a station that nobody knows yet.
        context.table.user_link(slot).ok_or(Counter::RxNoCertificate)?;
        switch::admit(pool.bytes(frame), slot, &mut self.strangers, context)?;
        self.count(slot, u64::from(frame.len), context);
        if frames.push_frame(frame, pool) {
            pool.hold(frame.buffer);
        }
        Ok(())
    }

    /// Membership: the link, its peer's outer address, and the inner source address.
    fn admit(
        &mut self,
        bytes: &[u8],
        clear: &Clear,
        from: SocketAddr,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let header = bytes.bytes(0).ok_or(Counter::RxTruncated)?;
        let source = clear.inner.source;
        let slot = match &self.run {
            Some(run) if run.header == header && run.source == source => run.slot,
            _ => {
                let from = Address::from(from.ip());
                ingress::admit(context.table, clear, from, context.now_ns)?.slot
            }
        };
        let link = context.table.user_link(slot).ok_or(Counter::RxStaleEpoch)?;
        let packet = Behind { cursor: bytes, at: gpe::HEADER_LEN };
        ingress::hold(packet, &clear.inner, &link.link, context.table, context.now_ns)?;
        self.run = Some(Run { header, source, slot });
        self.count(slot, u64::from(clear.inner.total_len), context);
        Ok(())
    }

    /// Opens a transport message in its buffer and delivers the packet in it.
    fn sealed(
        &mut self,
        datagram: Piece,
        bundle: &Bundle,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let header = TransportHeader::parse(pool.bytes(datagram)).ok_or(Counter::RxTruncated)?;
        let (slot, session) = context.table.user_session(header.receiver).ok_or(Counter::RxUnknownIndex)?;
        let place = context.places.of(header.receiver);
        let sealed = datagram.behind(TRANSPORT_HEADER_LEN as u32);
        // The next look at this datagram is that of the frame that it becomes part of.
        session.open(place, header.counter, pool.own_bytes_mut(sealed), context.now_ns)?;
        let text = Piece { len: sealed.len - TAG_LEN as u32, ..sealed };
        if text.len == 0 {
            tell_authenticated(session, bundle, true, context);
            context.counters.add(Counter::RxKeepalive, 1);
            return Ok(());
        }
        tell_authenticated(session, bundle, false, context);
        let bytes = pool.bytes(text);
        if bytes.first().is_some_and(|first| sealed::is_message(*first)) {
            return message(header.receiver, bytes, context);
        }
        match bundle.from {
            Endpoint::Udp(_) => place.note_received(context.now_ns),
            Endpoint::Tcp(_) | Endpoint::Turn(_) | Endpoint::Relay { .. } | Endpoint::Overlay(_) => {
                session.note_around_data(context.now_ns);
            }
        }
        if context.table.is_switch() {
            let len = ethernet::sealed_frame_len(bytes, bytes.len()).ok_or(Counter::RxBadInner)?;
            let frame = text.behind(ethernet::SEALED_PREFIX_LEN as u32);
            return self.frame(Piece { len: len as u32, ..frame }, slot, pool, frames, context);
        }
        let inner = sealed::admit(context.table, bytes, text.len, slot, context.now_ns)?;
        self.count(slot, u64::from(inner.total_len), context);
        deliver(Piece { len: u32::from(inner.total_len), ..text }, &inner, pool, frames);
        Ok(())
    }

    /// Counts one packet as traffic of the link in `slot`.
    fn count(&mut self, slot: u32, bytes: u64, context: &Context<'_>) {
        if slot != self.tally.slot {
            self.add_up(context);
            self.tally.slot = slot;
        }
        self.tally.packets += 1;
        self.tally.bytes += bytes;
    }

    fn add_up(&mut self, context: &Context<'_>) {
        let Tally { slot, packets, bytes } = std::mem::take(&mut self.tally);
        if packets > 0
            && let Some(link) = context.table.user_link(slot)
        {
            link.traffic.received(packets, bytes);
        }
    }
}

/// Makes a packet a frame, or part of one. That there is room has been checked.
fn deliver(packet: Piece, inner: &Inner, pool: &mut Pool, frames: &mut Coalescer) {
    if frames.push(packet, inner, pool) {
        pool.hold(packet.buffer);
    }
}

/// Hands on a text that is no IP packet but a control message.
fn message(local: u32, text: &[u8], context: &Context<'_>) -> Result<(), Counter> {
    let received_at_ns = super::clock::monotonic_ns();
    let event = UserEvent::Message { local, text: text.into(), received_at_ns };
    context.listeners.events.try_send(event).map_err(|_| Counter::RxHelloFlood)
}

/// Hands on what the gate admits: what costs a handshake, or may.
fn handshake(
    gate: &mut Gate,
    bytes: &[u8],
    (from, socket): (Endpoint, u8),
    context: &Context<'_>,
) -> Result<(), Counter> {
    let now = Instant::from_nanos(context.now_ns);
    let cookies = context.listeners.cookies.load();
    // A relay is one.
    let is_peers = || from.direct().is_none_or(|from| context.table.has_peer_at(from.ip()));
    let filter = context.places.filter();
    gate.tell_load(filter.is_closed(context.now_ns));
    let verdict = gate.admit(now, from, bytes, cookies.as_deref(), is_peers);
    if gate.load_until() > now {
        filter.close(gate.load_until().as_nanos());
    }
    verdict.map_err(|Refusal(counter)| counter)?;
    let datagram = HandshakeDatagram { from, socket: socket.into(), bytes: bytes.into() };
    context.listeners.handshakes.try_send(datagram).map_err(|_| Counter::RxHandshakeFlood)
}

/// Hands on who asks who this node is, or answers that.
fn introduce(
    gate: &mut Gate,
    bytes: &[u8],
    (from, socket): (Endpoint, u8),
    context: &Context<'_>,
) -> Result<(), Counter> {
    gate.admit_introduction(Instant::from_nanos(context.now_ns)).map_err(|Refusal(counter)| counter)?;
    let datagram = HandshakeDatagram { from, socket: socket.into(), bytes: bytes.into() };
    context.listeners.handshakes.try_send(datagram).map_err(|_| Counter::RxHandshakeFlood)
}

/// Tells the control task where an authentic packet came from, if that is news or `always`. A peer
/// that has much to tell finds the queue full and is told of with its next packet.
fn tell_authenticated(session: &UserSession, bundle: &Bundle, always: bool, context: &Context<'_>) {
    if session.came_from(bundle.from, context.now_ns) || always {
        let event = UserEvent::Authenticated { local: session.local(), from: bundle.from };
        if context.listeners.events.try_send(event).is_err() {
            session.forget_source();
        }
    }
}

#[cfg(test)]
mod tests;
