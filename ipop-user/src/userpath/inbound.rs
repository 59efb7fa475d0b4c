//! What happens to the datagrams that the UDP sockets receive: which format they are, whether a
//! clear frame may be delivered, and the frames that it becomes. System calls are the engines'
//! business.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ipop_common::ingress::{self, Clear};
use ipop_common::{Address, Counter, Cursor, gpe, hello};
use tokio::sync::mpsc;

use super::ControlDatagram;
use super::coalesce::Coalescer;
use super::outbound::Context;
use super::pool::{Memory, Piece, Pool};

/// What one receive call delivered: datagrams of one sender, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bundle {
    pub(super) piece: Piece,
    /// Length of each datagram but the last, which may be shorter. Never 0.
    pub(super) segment_len: u32,
    pub(super) from: SocketAddr,
    pub(super) socket: u8,
}

/// A run of frames admitted for the same reason: what is equal need not be looked up again.
#[derive(Clone, Copy, Debug)]
struct Run {
    header: [u8; gpe::HEADER_LEN],
    source: Address,
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
    control: mpsc::Sender<ControlDatagram>,
}

impl Inbound {
    pub(super) fn new(control: mpsc::Sender<ControlDatagram>, bundles_max: usize) -> Self {
        Self { bundles: VecDeque::with_capacity(bundles_max), offset: 0, run: None, control }
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
            self.end_run(context);
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
        let result = match bytes.first() {
            Some(&gpe::FLAGS) => self.clear(datagram, bundle, pool, frames, context),
            Some(&hello::TYPE) => self.hello(bytes, bundle),
            _ => Err(Counter::RxUnknownMessage),
        };
        if let Err(counter) = result {
            context.counters.add(counter, 1);
        }
    }

    fn clear(
        &mut self,
        datagram: Piece,
        bundle: &Bundle,
        pool: &mut Pool,
        frames: &mut Coalescer,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let bytes = pool.bytes(datagram);
        let len = u16::try_from(datagram.len).map_err(|_| Counter::RxBadLength)?;
        let clear = ingress::clear(bytes, 0, len)?;
        self.admit(bytes, &clear, bundle, context)?;
        let header_len = gpe::HEADER_LEN as u32;
        let packet = Piece { start: datagram.start + header_len, len: datagram.len - header_len, ..datagram };
        // Room has been checked.
        if frames.push(packet, &clear.inner, pool) {
            pool.hold(packet.buffer);
        }
        Ok(())
    }

    /// Membership: the link, its peer's outer address, and the inner source address.
    fn admit(
        &mut self,
        bytes: &[u8],
        clear: &Clear,
        bundle: &Bundle,
        context: &Context<'_>,
    ) -> Result<(), Counter> {
        let header = bytes.bytes(0).ok_or(Counter::RxTruncated)?;
        let source = clear.inner.source;
        let (packets, inner_len) = (1, u64::from(clear.inner.total_len));
        if let Some(run) = &mut self.run
            && run.header == header
            && run.source == source
        {
            run.packets += packets;
            run.bytes += inner_len;
            return Ok(());
        }
        let from = Address::from(bundle.from.ip());
        let slot = ingress::admit(context.table, clear, from, context.now_ns)?.slot;
        self.end_run(context);
        self.run = Some(Run { header, source, slot, packets, bytes: inner_len });
        Ok(())
    }

    fn end_run(&mut self, context: &Context<'_>) {
        if let Some(run) = self.run.take()
            && let Some(link) = context.table.user_link(run.slot)
        {
            link.traffic.received(run.packets, run.bytes);
        }
    }

    fn hello(&self, bytes: &[u8], bundle: &Bundle) -> Result<(), Counter> {
        let bytes: [u8; hello::LEN] = bytes.try_into().map_err(|_| Counter::RxBadHello)?;
        let received_at_ns = super::clock::monotonic_ns();
        let datagram =
            ControlDatagram { from: bundle.from, socket: usize::from(bundle.socket), bytes, received_at_ns };
        self.control.try_send(datagram).map_err(|_| Counter::RxHelloFlood)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipop_common::gpe::{LinkId, NextProtocol};
    use ipop_common::maps::PrefixKey;
    use proptest::prelude::*;

    use super::super::counters::Counters;
    use super::super::packets::{Packet, payload};
    use super::super::table::{Table, UserLink};
    use super::*;

    const LINK: u32 = 0x0b_0b0b;
    /// The last byte of the peer's inner address.
    const PEER: u8 = 9;

    /// One node's inbound half, with a link to a peer that has one inner address of each family.
    struct Node {
        inbound: Inbound,
        pool: Pool,
        frames: Coalescer,
        table: Table,
        counters: Counters,
        control: mpsc::Receiver<ControlDatagram>,
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
            let (sender, control) = mpsc::channel(2);
            Self {
                inbound: Inbound::new(sender, 8),
                pool: Pool::new(8, 65_536).unwrap(),
                frames: Coalescer::new(frames_max, true, true),
                table,
                counters: Counters::new(),
                control,
            }
        }

        /// Takes datagrams of one length as one receive call delivers them.
        fn take(&mut self, from: &str, datagrams: &[Vec<u8>]) {
            let bytes = datagrams.concat();
            let buffer = self.pool.take().unwrap();
            let piece = Piece { buffer, start: 0, len: bytes.len() as u32 };
            self.pool.fill(buffer, &bytes);
            let segment_len = datagrams.first().map_or(1, |datagram| datagram.len().max(1) as u32);
            let from = format!("{from}:15000").parse().unwrap();
            self.inbound.take(Bundle { piece, segment_len, from, socket: 0 }, &mut self.pool);
        }

        /// The packets delivered, each as it came.
        fn drain(&mut self) -> Vec<Vec<u8>> {
            let mut packets = Vec::new();
            loop {
                let context = Context { table: &self.table, counters: &self.counters, now_ns: 1 };
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

    #[test]
    fn hellos_go_to_control_as_long_as_it_takes_them() {
        let mut node = Node::new(16);
        let mut bytes = vec![7; hello::LEN];
        bytes[0] = hello::TYPE;
        node.take("192.0.2.2", &[bytes.clone(), bytes.clone(), bytes.clone()]);
        assert!(node.drain().is_empty());
        assert_eq!(node.counted(), [(Counter::RxHelloFlood, 1)]);
        let handed = node.control.try_recv().unwrap();
        assert_eq!((&handed.bytes[..], handed.from.port()), (&bytes[..], 15_000));
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
            // A few look like hellos, which are for others to check.
            handed += u64::from(node.control.try_recv().is_ok());
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
