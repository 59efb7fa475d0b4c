//! What happens to the datagrams that the UDP sockets receive: which format they are, whether what a
//! clear or a sealed one carries may be delivered, and the frames that it becomes. System calls are the engines'
//! business.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ipop_common::ingress::{self, Clear};
use ipop_common::inner::Inner;
use ipop_common::wireguard::{self, TAG_LEN, TRANSPORT_HEADER_LEN, TransportHeader};
use ipop_common::{Address, Counter, Cursor, gpe, relay, sealed};
use ipop_overlay::session::Gate;
use ipop_overlay::{Endpoint, Instant, Refusal, introduction};

use super::coalesce::Coalescer;
use super::outbound::Context;
use super::pool::{Memory, Piece, Pool};
use super::session::UserSession;
use super::{CarriedDatagram, HandshakeDatagram, UserEvent};

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
    gate: Gate,
}

impl Inbound {
    pub(super) fn new(bundles_max: usize, gate: Gate) -> Self {
        Self {
            bundles: VecDeque::with_capacity(bundles_max),
            offset: 0,
            run: None,
            tally: Tally::default(),
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
            (Some(&relay::TYPE), Endpoint::Udp(from)) => {
                self.relayed(datagram, from, bundle, pool, frames, context)
            }
            (Some(&gpe::FLAGS), Endpoint::Udp(from)) => self.clear(datagram, from, pool, frames, context),
            (Some(&wireguard::TYPE_TRANSPORT), _) => self.sealed(datagram, bundle, pool, frames, context),
            (
                Some(&(wireguard::TYPE_INITIATION | wireguard::TYPE_RESPONSE | wireguard::TYPE_COOKIE_REPLY)),
                from @ (Endpoint::Udp(_) | Endpoint::Relay { .. }),
            ) => handshake(&mut self.gate, bytes, (from, bundle.socket), context),
            (Some(&introduction::TYPE), from @ Endpoint::Udp(_)) if bytes.len() == introduction::LEN => {
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
        from: SocketAddr,
        bundle: &Bundle,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let bytes = pool.bytes(datagram);
        let label = relay::label(bytes, 0).ok_or(Counter::RxBadRelayFrame)?;
        if let Some(to) = context.table.next_hop(label, from) {
            let onward = CarriedDatagram { to: Endpoint::Udp(to), bytes: bytes.to_vec() };
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
        let bytes = pool.bytes(datagram);
        let len = u16::try_from(datagram.len).map_err(|_| Counter::RxBadLength)?;
        let clear = ingress::clear(bytes, 0, len)?;
        self.admit(bytes, &clear, from, context)?;
        deliver(datagram.behind(gpe::HEADER_LEN as u32), &clear.inner, pool, frames);
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
            Endpoint::Relay { .. } | Endpoint::Overlay(_) => session.note_around_data(context.now_ns),
        }
        let inner = sealed::admit(context.table, bytes, text.len, slot)?;
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
    let is_peers = || from.udp().is_none_or(|from| context.table.has_peer_at(from.ip()));
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
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use ipop_common::aead;
    use ipop_common::gpe::{LinkId, NextProtocol};
    use ipop_common::maps::{LinkRef, PrefixKey};
    use ipop_common::session::Agreed;
    use ipop_overlay::NodeAddress;
    use ipop_overlay::session::Mac1Key;
    use proptest::prelude::*;

    use super::super::counters::Counters;
    use super::super::packets::{Ears, PUBLIC_KEY, Packet, payload};
    use super::super::session::sealed_len;
    use super::super::table::{Table, UserLink};
    use super::*;
    use crate::places::Places;

    const LINK: u32 = 0x0b_0b0b;
    /// The last byte of the peer's inner address.
    const PEER: u8 = 9;
    const SESSION: u32 = 0x5e55_0007;

    /// One node's inbound half, with a link to a peer that has one inner address of each family.
    struct Node {
        inbound: Inbound,
        pool: Pool,
        frames: Coalescer,
        table: Table,
        places: Places,
        counters: Counters,
        ears: Ears,
    }

    impl Node {
        fn new(frames_max: u16) -> Self {
            let id = LinkId::new(LINK).unwrap();
            let local = "192.0.2.1".parse::<IpAddr>().unwrap().into();
            let mut table = Table::new();
            let link = UserLink::new("peer", id, local, "192.0.2.2:15000".parse().unwrap(), 1400);
            let reference = table.insert_link(0, link).unwrap();
            for packet in [peer_packet(), peer_packet().v6()] {
                let inner = ipop_common::inner::Inner::parse_any(&packet.bytes()[..], 0).unwrap();
                let prefix = PrefixKey { bits: 128, address: inner.source.to_bytes() };
                table.insert_prefix(prefix, reference);
            }
            Self {
                inbound: Inbound::new(8, Gate::new(Mac1Key::new(&PUBLIC_KEY))),
                pool: Pool::new(8, 65_536).unwrap(),
                frames: Coalescer::new(frames_max, true, true),
                table,
                places: Places::own().expect("memory"),
                counters: Counters::new(),
                ears: Ears::new(2),
            }
        }

        /// Takes datagrams of one length as one receive call delivers them.
        fn take(&mut self, from: &str, datagrams: &[Vec<u8>]) {
            let bytes = datagrams.concat();
            let buffer = self.pool.take().unwrap();
            let piece = Piece { buffer, start: 0, len: bytes.len() as u32 };
            self.pool.fill(buffer, &bytes);
            let segment_len = datagrams.first().map_or(1, |datagram| datagram.len().max(1) as u32);
            let from = Endpoint::Udp(format!("{from}:15000").parse().unwrap());
            self.inbound.take(Bundle { piece, segment_len, from, socket: 0 }, &mut self.pool);
        }

        /// The packets delivered, each as it came.
        fn drain(&mut self) -> Vec<Vec<u8>> {
            let mut packets = Vec::new();
            loop {
                let context = Context {
                    table: &self.table,
                    places: &self.places,
                    counters: &self.counters,
                    listeners: &self.ears.listeners,
                    now_ns: 1,
                };
                let done = self.inbound.fill(&mut self.pool, &mut self.frames, &context);
                self.frames.flush();
                while let Some(index) = self.frames.next_ready() {
                    let frame = self.frames.frame(index).unwrap();
                    packets.extend(frame.originals().map(|piece| self.pool.bytes(piece).to_vec()));
                    for buffer in frame.pieces().iter().map(|piece| piece.buffer).collect::<Vec<_>>() {
                        self.pool.release(buffer);
                    }
                    self.frames.release(index);
                }
                if done {
                    assert_eq!(self.pool.free_buffers(), 8, "every buffer is free again");
                    return packets;
                }
            }
        }

        fn counted(&self) -> Vec<(Counter, u64)> {
            self.counters.iter().filter(|(_, value)| *value > 0).collect()
        }
    }

    fn peer_packet() -> Packet {
        Packet { source: PEER, ..Packet::udp(payload(32)) }
    }

    fn frame(packet: &[u8]) -> Vec<u8> {
        let next_protocol = if packet[0] >> 4 == 4 { NextProtocol::Ipv4 } else { NextProtocol::Ipv6 };
        let header = gpe::Header { link_id: LinkId::new(LINK).unwrap(), next_protocol };
        [&header.to_bytes()[..], packet].concat()
    }

    #[test]
    fn a_bundle_is_delivered_packet_by_packet_and_counted_for_its_link() {
        let mut node = Node::new(16);
        let packets: Vec<_> = (0..5).map(|id| Packet { id, ..peer_packet() }.bytes()).collect();
        node.take("192.0.2.2", &packets.iter().map(|packet| frame(packet)).collect::<Vec<_>>());
        node.take("192.0.2.2", &[frame(&peer_packet().v6().bytes())]);
        let delivered = node.drain();
        assert_eq!(delivered[..5], packets);
        assert_eq!(delivered[5], peer_packet().v6().bytes());
        let traffic = node.table.user_link(0).unwrap().traffic.snapshot();
        assert_eq!((traffic.rx_packets, traffic.rx_bytes), (6, 5 * 60 + 80));
        assert_eq!(node.counted(), []);
    }

    #[test]
    fn with_few_frames_a_bundle_is_continued() {
        let mut node = Node::new(2);
        let packets: Vec<_> = (0..40).map(|id| Packet { id: id * 7, ..peer_packet() }.bytes()).collect();
        for _ in 0..3 {
            node.take("192.0.2.2", &packets.iter().map(|packet| frame(packet)).collect::<Vec<_>>());
        }
        assert_eq!(node.drain(), [&packets[..]; 3].concat());
    }

    #[test]
    fn what_was_admitted_for_one_does_not_admit_the_next() {
        let mut node = Node::new(16);
        let good = frame(&peer_packet().bytes());
        let stranger = frame(&Packet { source: PEER + 1, ..peer_packet() }.bytes());
        node.take("192.0.2.2", &[good.clone(), stranger.clone(), good.clone()]);
        node.take("192.0.2.3", std::slice::from_ref(&good));
        node.take("192.0.2.2", &[stranger, good]);
        assert_eq!(node.drain().len(), 3);
        assert_eq!(node.counted(), [(Counter::RxWrongOuterSource, 1), (Counter::RxWrongInnerSource, 2)]);
    }

    #[test]
    fn an_empty_datagram_is_counted() {
        let mut node = Node::new(16);
        node.take("192.0.2.2", &[Vec::new()]);
        assert!(node.drain().is_empty());
        assert_eq!(node.counted(), [(Counter::RxUnknownMessage, 1)]);
    }

    /// The peer's side of a session with the node, whose slot is that of the link.
    fn sealing(node: &mut Node) -> impl Fn(&[u8]) -> Vec<u8> + use<> {
        let agreed = Agreed {
            local: SESSION,
            remote: SESSION,
            send_key: aead::Key([1; 8]),
            receive_key: aead::Key([1; 8]),
            expires_ns: u64::MAX,
            first_counter: 0,
            link: LinkRef::LOCAL,
        };
        node.places.of(SESSION).install(&agreed, None);
        let key: [u8; 32] = [1u32.to_le_bytes(); 8].concat().try_into().unwrap();
        node.table.insert_session(0, Arc::new(UserSession::new(SESSION, &key, &key)));
        let theirs = ipop_common::session::Session::vacant();
        theirs.install(&agreed, None);
        let session = UserSession::new(SESSION, &key, &key);
        move |packet| {
            let mut block = vec![0; sealed_len(packet.len(), 1400)];
            block[TRANSPORT_HEADER_LEN..][..packet.len()].copy_from_slice(packet);
            session.seal(&theirs, &mut block, packet.len(), 1).unwrap();
            block
        }
    }

    #[test]
    fn sealed_packets_are_delivered_once_and_counted_for_the_link() {
        let mut node = Node::new(16);
        let seal = sealing(&mut node);
        let packets: Vec<_> = (0..5).map(|id| Packet { id, ..peer_packet() }.bytes()).collect();
        let sealed: Vec<_> = packets.iter().map(|packet| seal(packet)).collect();
        node.take("192.0.2.9", &sealed);
        assert_eq!(node.drain(), packets, "from wherever");
        node.take("192.0.2.9", &sealed);
        assert!(node.drain().is_empty());
        let traffic = node.table.user_link(0).unwrap().traffic.snapshot();
        assert_eq!((traffic.rx_packets, traffic.rx_bytes), (5, 5 * 60));
        assert_eq!(node.counted(), [(Counter::RxReplay, 5)]);
        let Ok(UserEvent::Authenticated { local, from }) = node.ears.events.try_recv() else {
            panic!("it is told where the peer is")
        };
        let from = from.udp().map(|from| from.ip());
        assert_eq!((local, from), (SESSION, "192.0.2.9".parse().ok()));
        assert!(node.ears.events.try_recv().is_err(), "and told once");
    }

    /// Takes a datagram as other nodes have carried it here.
    fn take_carried(node: &mut Node, datagram: &[u8]) {
        let buffer = node.pool.take().unwrap();
        node.pool.fill(buffer, datagram);
        let len = datagram.len() as u32;
        let piece = Piece { buffer, start: 0, len };
        let from = Endpoint::Overlay(NodeAddress([3; 20]));
        node.inbound.take(Bundle { piece, segment_len: len, from, socket: 0 }, &mut node.pool);
    }

    #[test]
    fn sealed_packets_that_others_have_carried_are_delivered() {
        let mut node = Node::new(16);
        let seal = sealing(&mut node);
        let packet = peer_packet().bytes();
        let sealed = seal(&packet);
        take_carried(&mut node, &sealed);
        assert_eq!(node.drain(), std::slice::from_ref(&packet));
        let event = node.ears.events.try_recv();
        assert!(
            matches!(event, Ok(UserEvent::Authenticated { from: Endpoint::Overlay(_), .. })),
            "{event:?}"
        );
        let heard = node.table.user_session(SESSION).unwrap().1.heard();
        assert_eq!((heard.udp_ns, heard.carried_data_ns), (0, 1));
        assert_eq!(node.places.of(SESSION).last_traffic(), (0, 0), "UDP has brought nothing");
        node.take("192.0.2.2", &[sealed]);
        assert_eq!(node.counted(), []);
        assert!(node.drain().is_empty());
        assert_eq!(node.counted(), [(Counter::RxReplay, 1)], "once, whichever way it comes");
        node.take("192.0.2.2", &[seal(&packet)]);
        assert_eq!(node.drain().len(), 1);
        assert_eq!(node.places.of(SESSION).last_traffic(), (0, 1));
    }

    #[test]
    fn what_others_have_carried_and_is_not_sealed_is_refused() {
        let mut node = Node::new(16);
        let mut initiation = vec![0; wireguard::INITIATION_LEN];
        initiation[0] = wireguard::TYPE_INITIATION;
        Mac1Key::new(&PUBLIC_KEY).fill_in(&mut initiation);
        for datagram in [&frame(&peer_packet().bytes())[..], &initiation, &[0x77; 40]] {
            take_carried(&mut node, datagram);
        }
        assert!(node.drain().is_empty());
        assert_eq!(node.counted(), [(Counter::RxUnknownMessage, 3)]);
        assert!(node.ears.handshakes.try_recv().is_err());
    }

    #[test]
    fn an_authentic_packet_is_not_believed_either() {
        let mut node = Node::new(16);
        let seal = sealing(&mut node);
        let stranger = Packet { source: PEER + 1, ..peer_packet() }.bytes();
        let mut longer = peer_packet().bytes();
        longer[2..4].copy_from_slice(&200u16.to_be_bytes());
        for (text, counter) in [
            (&stranger[..], Counter::RxWrongInnerSource),
            (&longer[..], Counter::RxBadLength),
            (&[0x77; 40][..], Counter::RxBadInner),
            (&[0x45; 4][..], Counter::RxBadInner),
        ] {
            let before = node.counters.value(counter);
            node.take("192.0.2.2", &[seal(text)]);
            assert!(node.drain().is_empty());
            assert_eq!(node.counters.value(counter), before + 1, "{counter:?}");
        }
    }

    #[test]
    fn other_texts_than_packets_are_handed_on() {
        let mut node = Node::new(16);
        let seal = sealing(&mut node);
        node.take("192.0.2.2", &[seal(&[])]);
        assert!(node.drain().is_empty());
        assert_eq!(node.counted(), [(Counter::RxKeepalive, 1)]);
        let event = node.ears.events.try_recv();
        assert!(matches!(event, Ok(UserEvent::Authenticated { local: SESSION, .. })), "{event:?}");
        for len in [16, 64, 1312] {
            let message = vec![1; len];
            node.take("192.0.2.2", &[seal(&message)]);
            assert!(node.drain().is_empty());
            let event = node.ears.events.try_recv();
            let Ok(UserEvent::Message { local: SESSION, text, .. }) = event else { panic!("{event:?}") };
            assert_eq!(text[..], message, "of any length");
        }
    }

    #[test]
    fn what_no_session_has_sealed_is_counted() {
        let mut node = Node::new(16);
        let seal = sealing(&mut node);
        let good = seal(&peer_packet().bytes());
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let datagrams = [changed(4), changed(8), changed(16), changed(good.len() - 1), good[..31].to_vec()];
        for datagram in datagrams {
            node.take("192.0.2.2", &[datagram]);
        }
        assert!(node.drain().is_empty());
        let expected = [(Counter::RxTruncated, 1), (Counter::RxUnknownIndex, 1), (Counter::RxBadTag, 3)];
        assert_eq!(node.counted(), expected);
        node.take("192.0.2.2", &[good]);
        assert_eq!(node.drain().len(), 1, "the counter is not used up by what was forged");
    }

    #[test]
    fn handshake_messages_go_on_if_their_sender_knows_this_node() {
        let mut node = Node::new(16);
        let initiation = |mac1: &Mac1Key| {
            let mut bytes = vec![0; wireguard::INITIATION_LEN];
            bytes[0] = wireguard::TYPE_INITIATION;
            mac1.fill_in(&mut bytes);
            bytes
        };
        let good = initiation(&Mac1Key::new(&PUBLIC_KEY));
        node.take("192.0.2.2", &[good.clone(), initiation(&Mac1Key::new(&[8; 32]))]);
        node.take("192.0.2.2", &[vec![1, 0, 0, 0], vec![3, 0, 0, 0]]);
        let mut cookie = vec![0; wireguard::COOKIE_REPLY_LEN];
        cookie[0] = wireguard::TYPE_COOKIE_REPLY;
        node.take("192.0.2.2", &[cookie.clone()]);
        node.take("192.0.2.2", &[cookie.clone()]);
        assert!(node.drain().is_empty());
        assert_eq!(
            node.counted(),
            [
                (Counter::RxBadMac1, 1),
                (Counter::RxBadHandshake, 1),
                (Counter::RxHandshakeFlood, 1),
                (Counter::RxBadCookie, 1)
            ]
        );
        assert_eq!(node.ears.handshakes.try_recv().unwrap().bytes[..], good);
        assert_eq!(node.ears.handshakes.try_recv().unwrap().bytes[..], cookie);
    }

    /// xorshift64*: a million datagrams in a second, the same each time.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Random bytes, and good frames with a few bits turned: whatever is delivered is what the
    /// peer may send, and the rest is counted.
    #[test]
    fn of_a_million_hostile_datagrams_none_is_delivered_that_should_not_be() {
        let mut node = Node::new(64);
        let mut state = 0x1234_5678_9abc_def1;
        let goods = [frame(&peer_packet().bytes()), frame(&peer_packet().v6().bytes())];
        let (mut sent, mut delivered, mut handed) = (0u64, 0u64, 0u64);
        while sent < 1_000_000 {
            let len = random(&mut state) as usize % 120 + 1;
            let bundle: Vec<Vec<u8>> = (0..50)
                .map(|_| {
                    let choice = random(&mut state);
                    let mut bytes = goods[choice as usize & 1].clone();
                    if choice & 6 == 0 {
                        bytes.iter_mut().for_each(|byte| *byte = random(&mut state) as u8);
                    }
                    for _ in 0..choice >> 4 & 3 {
                        let at = random(&mut state) as usize;
                        let range = bytes.len();
                        bytes[at % range] ^= 1 << (at >> 40 & 7);
                    }
                    bytes.resize(len, 0);
                    bytes
                })
                .collect();
            node.take("192.0.2.2", &bundle);
            sent += 50;
            for packet in node.drain() {
                let inner = ipop_common::inner::Inner::parse_any(&packet[..], 0).unwrap();
                assert_eq!(usize::from(inner.total_len), packet.len());
                assert_eq!(packet[if packet[0] >> 4 == 4 { 15 } else { 23 }], PEER);
                delivered += 1;
            }
            // A few look like cookie replies, which are for others to check.
            while node.ears.handshakes.try_recv().is_ok() {
                handed += 1;
            }
        }
        let refused: u64 = node.counted().iter().map(|(_, packets)| packets).sum();
        assert_eq!(delivered + refused + handed, sent);
        assert!(delivered > 1000 && refused > 100_000, "{delivered} and {:?}", node.counted());
    }

    proptest! {
        #[test]
        fn a_bundle_cut_anywhere_does_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            segment_len in 1u32..500,
            good: bool,
        ) {
            let mut node = Node::new(64);
            let bytes = if good { frame(&peer_packet().bytes()).repeat(5) } else { bytes };
            node.take("192.0.2.2", std::slice::from_ref(&bytes));
            if let Some(bundle) = node.inbound.bundles.front_mut() {
                bundle.segment_len = segment_len;
            }
            let delivered = node.drain().len() as u64;
            let refused: u64 = node.counted().iter().map(|(_, packets)| packets).sum();
            prop_assert_eq!(delivered + refused, bytes.len().div_ceil(segment_len as usize) as u64);
        }
    }
}
