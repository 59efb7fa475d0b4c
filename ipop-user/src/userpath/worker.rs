//! One queue's packets in hand, in both directions, and what becomes of them: the part of a data
//! thread that every engine shares. Engines fill buffers, carry out sends and writes, and report
//! results; nothing here makes a system call on a packet.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use ipop_common::{Counter, ethernet};
use ipop_overlay::session::Gate;

use super::Listeners;
use super::batch::Batch;
use super::clock;
use super::coalesce::Coalescer;
use super::counters::Counters;
use super::engine::{Queue, Sizes};
use super::inbound::{Bundle, Inbound};
use super::inbox::Inbox;
use super::outbound::{Context, Families, Outbound};
use super::pool::{Piece, Pool};
use super::table::Table;
use super::tun::Offloads;
use super::virtio::{self, Segmentation};
use crate::places::Places;

/// Longest read from the device: the longest IP packet, in a frame where it is a TAP, behind its virtio header.
const READ_LEN_MAX: usize = virtio::HEADER_LEN + ethernet::HEADER_LEN_MAX + 65_535;
/// Longest payload of a receive, merged ones included.
const RECEIVE_LEN_MAX: usize = 65_535;

/// Buffers of those beside that receives do not take: for what other nodes have carried here.
const CARRIED_BUFFERS: u16 = 4;

/// Whether the engine has to wait before it sends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    /// The socket of the first pending send is full.
    Blocked,
}

/// The state of one data thread.
#[derive(Debug)]
pub(super) struct Worker {
    /// Buffers that reads from the TUN device fill.
    pub(super) tun_pool: Pool,
    /// Buffers that receives from the sockets fill.
    pub(super) udp_pool: Pool,
    pub(super) batch: Batch,
    pub(super) frames: Coalescer,
    reads: VecDeque<(u16, u32)>,
    outbound: Outbound,
    inbound: Inbound,
    table: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
    places: Arc<Places>,
    counters: Arc<Counters>,
    listeners: Listeners,
    inbox: Arc<Inbox>,
}

impl Worker {
    /// `receive_head_len` bytes precede each payload in a receive buffer.
    pub(super) fn new(queue: &Queue, sizes: Sizes, receive_head_len: usize) -> io::Result<Self> {
        Self::with_surroundings(Surroundings::of(queue), sizes, receive_head_len)
    }

    fn with_surroundings(
        surroundings: Surroundings,
        sizes: Sizes,
        receive_head_len: usize,
    ) -> io::Result<Self> {
        let Surroundings { offloads, families, table, places, counters, listeners, inbox } = surroundings;
        Ok(Self {
            tun_pool: Pool::new(sizes.tun_buffers, READ_LEN_MAX)?,
            udp_pool: Pool::new(sizes.udp_buffers + CARRIED_BUFFERS, receive_head_len + RECEIVE_LEN_MAX)?
                .with_reserve(CARRIED_BUFFERS),
            batch: Batch::new(),
            frames: Coalescer::new(sizes.frames, offloads.tcp_segmentation, offloads.udp_segmentation),
            reads: VecDeque::with_capacity(usize::from(sizes.tun_buffers)),
            outbound: Outbound::new(families),
            inbound: Inbound::new(usize::from(sizes.udp_buffers), Gate::new(listeners.mac1.clone())),
            table: Cache::new(table),
            places,
            counters,
            listeners,
            inbox,
        })
    }

    /// A read from the TUN device has put `len` bytes into a buffer.
    pub(super) fn read(&mut self, buffer: u16, len: u32) {
        self.reads.push_back((buffer, len));
    }

    /// Reads that no batch has taken yet.
    pub(super) fn reads_waiting(&self) -> usize {
        self.reads.len()
    }

    /// A socket has delivered datagrams.
    pub(super) fn received(&mut self, bundle: Bundle) {
        self.inbound.take(bundle, &mut self.udp_pool);
    }

    /// What came in on a socket and cannot be used.
    pub(super) fn count(&self, counter: Counter) {
        self.counters.add(counter, 1);
    }

    /// Fills the batch, unless sends are still pending; true if there is something to send.
    pub(super) fn fill_batch(&mut self) -> bool {
        if !self.batch.pending().is_empty() {
            return true;
        }
        self.batch.clear(&mut self.tun_pool);
        if self.outbound.is_idle() && self.reads.is_empty() && !self.outbound.is_waited_for() {
            return false;
        }
        let table = self.table.load();
        let context = Context {
            table,
            places: &self.places,
            counters: &self.counters,
            listeners: &self.listeners,
            now_ns: clock::monotonic_ns(),
        };
        loop {
            if self.outbound.is_idle() {
                // What waits came before what has just been read.
                self.outbound.retry(table, &mut self.tun_pool, &mut self.frames, &context);
            }
            if self.outbound.is_idle() {
                let Some((buffer, len)) = self.reads.pop_front() else { break };
                self.outbound.take(buffer, len, &mut self.tun_pool, &mut self.frames, &context);
            }
            if !self.outbound.fill(&mut self.batch, &mut self.tun_pool, &context) {
                break;
            }
        }
        !self.batch.pending().is_empty()
    }

    /// Turns what was received into frames; false if frames have to be released before the rest.
    pub(super) fn fill_frames(&mut self) -> bool {
        loop {
            let all_taken = self.take_carried();
            if self.inbound.is_idle() {
                return all_taken;
            }
            let context = Context {
                table: self.table.load(),
                places: &self.places,
                counters: &self.counters,
                listeners: &self.listeners,
                now_ns: clock::monotonic_ns(),
            };
            if !self.inbound.fill(&mut self.udp_pool, &mut self.frames, &context) {
                return false;
            }
            self.frames.flush();
            if all_taken {
                return true;
            }
        }
    }

    /// Takes what other nodes have carried here or what has come by TCP, as if it had been received; false if
    /// buffers have to be released before the rest.
    fn take_carried(&mut self) -> bool {
        while self.inbox.has_some() {
            let taken = self.udp_pool.take_filled(|out| self.inbox.take(out));
            let Some((buffer, taken)) = taken else { break };
            let piece = Piece { buffer, start: 0, len: taken.len as u32 };
            let (from, segment_len) = (taken.from, taken.segment_len as u32);
            self.inbound.take(Bundle { piece, segment_len, from, socket: 0 }, &mut self.udp_pool);
            self.udp_pool.release(buffer);
        }
        !self.inbox.has_some()
    }

    /// The first pending send has been tried. A datagram that failed is dropped and counted, unless
    /// it can be tried again.
    pub(super) fn sent(&mut self, result: Result<(), i32>) -> Flow {
        let Some(send) = self.batch.pending().first() else { return Flow::Continue };
        let (segments, socket) = (u64::from(send.segments), send.route.socket);
        match result {
            Ok(()) => {
                send.route.traffic.sent(segments, send.inner_len);
                self.counters.add(Counter::TxEncapsulated, segments);
            }
            Err(libc::EAGAIN) => return Flow::Blocked,
            Err(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if segments > 1 => {
                // EMSGSIZE is the path's doing, not the device's: the MTU has just become smaller.
                if result != Err(libc::EMSGSIZE) {
                    self.outbound.pause_segmentation(socket, clock::monotonic_ns());
                }
                self.counters.add(Counter::TxGsoFallback, segments);
                self.batch.take_apart();
                return Flow::Continue;
            }
            Err(libc::ENOBUFS | libc::ENOMEM) => self.counters.add(Counter::TxQueueFull, segments),
            Err(_) => self.counters.add(Counter::TxSendError, segments),
        }
        self.batch.complete();
        if self.batch.pending().is_empty() {
            // At once: the kernel may be waiting for buffers to read into.
            self.batch.clear(&mut self.tun_pool);
        }
        Flow::Continue
    }

    /// Gives up on what is pending: there is no time to wait for a full socket.
    pub(super) fn abandon_batch(&mut self) {
        while let Some(send) = self.batch.complete() {
            self.counters.add(Counter::TxQueueFull, u64::from(send.segments));
        }
        self.batch.clear(&mut self.tun_pool);
    }

    /// A frame has been written, or refused. `write_singly` writes the packets of a super-packet
    /// that the device refused as such; it returns how many were taken.
    pub(super) fn written(
        &mut self,
        index: u16,
        result: Result<(), i32>,
        write_singly: impl FnOnce(&Self) -> usize,
    ) {
        let Some(frame) = self.frames.frame(index) else { return };
        let packets = frame.pieces().len();
        let taken = match result {
            Ok(()) => packets,
            Err(libc::EINVAL) if frame.is_merged() => {
                let segmentation = frame.segmentation();
                let taken = write_singly(self);
                self.frames.stop_merging(segmentation == Some(Segmentation::Udp));
                taken
            }
            Err(_) => 0,
        };
        self.counters.add(Counter::RxDecapsulated, taken as u64);
        self.counters.add(Counter::RxDeviceError, (packets - taken) as u64);
        self.release_frame(index);
    }

    fn release_frame(&mut self, index: u16) {
        if let Some(frame) = self.frames.frame(index) {
            for piece in frame.pieces() {
                self.udp_pool.release(piece.buffer);
            }
        }
        self.frames.release(index);
    }
}

/// What a worker knows of the world.
struct Surroundings {
    offloads: Offloads,
    families: Families,
    table: Arc<ArcSwap<Table>>,
    places: Arc<Places>,
    counters: Arc<Counters>,
    listeners: Listeners,
    inbox: Arc<Inbox>,
}

impl Surroundings {
    fn of(queue: &Queue) -> Self {
        Self {
            offloads: queue.tun.offloads(),
            families: families(queue),
            table: queue.table.clone(),
            places: queue.places.clone(),
            counters: queue.counters.clone(),
            listeners: queue.listeners.clone(),
            inbox: queue.inbox.clone(),
        }
    }
}

/// The first socket of each family.
fn families(queue: &Queue) -> Families {
    let mut families = Families::default();
    for (index, socket) in (0u8..).zip(&queue.sockets) {
        let family = match socket.local_addr() {
            Ok(address) if address.is_ipv4() => &mut families.v4,
            _ => &mut families.v6,
        };
        family.get_or_insert(index);
    }
    families
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipop_common::Address;
    use ipop_common::gpe::LinkId;
    use ipop_common::inner::Inner;
    use ipop_common::maps::PrefixKey;
    use ipop_overlay::{Endpoint, NodeAddress};

    use super::super::packets::{Ears, Packet, payload};
    use super::super::pool::Memory;
    use super::super::table::UserLink;
    use super::super::virtio::{Gso, Header, PartialChecksum};
    use super::*;

    const SEGMENT_SIZE: usize = 1000;
    const LINK: u32 = 3;

    /// A worker with a link to the peer that the test packets come from and go to.
    fn worker() -> Worker {
        let mut table = Table::new();
        let local = "192.0.2.1".parse::<IpAddr>().unwrap().into();
        let endpoint = "192.0.2.2:15000".parse().unwrap();
        let link = UserLink::new("peer", LinkId::new(LINK).unwrap(), local, endpoint, 1400);
        let reference = table.insert_link(0, link).unwrap();
        let inner = Inner::parse_any(&Packet::tcp(Vec::new()).bytes()[..], 0).unwrap();
        for address in [inner.source, inner.destination] {
            table.insert_prefix(PrefixKey { bits: 128, address: Address::to_bytes(address) }, reference);
        }
        let surroundings = Surroundings {
            offloads: Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true },
            families: Families { v4: Some(0), v6: None },
            table: Arc::new(ArcSwap::from_pointee(table)),
            places: Arc::new(Places::own().expect("memory")),
            counters: Arc::default(),
            listeners: Ears::new(1).listeners,
            inbox: Arc::default(),
        };
        let sizes = Sizes { tun_buffers: 2, udp_buffers: 2, frames: 4 };
        Worker::with_surroundings(surroundings, sizes, 0).unwrap()
    }

    /// The device delivers a super-packet of five segments; it is in the batch.
    fn read_super_packet(worker: &mut Worker) {
        let packet = Packet::tcp(payload(5 * SEGMENT_SIZE));
        let gso = Gso {
            segmentation: Segmentation::TcpV4,
            ecn: false,
            size: SEGMENT_SIZE as u16,
            header_len: packet.header_len() as u16,
        };
        let header = Header { gso: Some(gso), checksum: Some(PartialChecksum { start: 20, offset: 16 }) };
        let bytes = [&header.to_bytes()[..], &packet.with_seed()].concat();
        let buffer = worker.tun_pool.take().unwrap();
        worker.tun_pool.fill(buffer, &bytes);
        worker.read(buffer, bytes.len() as u32);
        assert!(worker.fill_batch());
    }

    /// A socket delivers segments that become one frame; its number.
    fn receive_super_packet(worker: &mut Worker, udp: bool) -> u16 {
        let packet = |index: usize| Packet {
            udp,
            id: index as u16,
            sequence: (index * SEGMENT_SIZE) as u32,
            ..Packet::tcp(payload(SEGMENT_SIZE))
        };
        let clear = [[0x0c, 0, 0, 1], (LINK << 8).to_be_bytes()].concat();
        let bytes =
            (0..3).flat_map(|index| [clear.clone(), packet(index).bytes()].concat()).collect::<Vec<_>>();
        let buffer = worker.udp_pool.take().unwrap();
        worker.udp_pool.fill(buffer, &bytes);
        let piece = Piece { buffer, start: 0, len: bytes.len() as u32 };
        let from = Endpoint::Udp("192.0.2.2:15000".parse().unwrap());
        worker.received(Bundle { piece, segment_len: bytes.len() as u32 / 3, from, socket: 0 });
        assert!(worker.fill_frames());
        worker.frames.next_ready().unwrap()
    }

    #[test]
    fn what_others_have_carried_is_taken_in_turns_where_buffers_are_few() {
        let mut worker = worker();
        // Of two nodes in turn, so that no two datagrams share a buffer. None is sealed.
        let sent = u64::from(CARRIED_BUFFERS) * 20;
        for number in 0..sent {
            let from = NodeAddress([number as u8 % 2; 20]).into();
            worker.inbox.push(from, &[0x77; 40]).unwrap();
        }
        assert!(worker.fill_frames(), "buffers come back at once where nothing is delivered");
        assert_eq!(counted(&worker), [(Counter::RxUnknownMessage, sent)]);
        assert_eq!(worker.udp_pool.free_buffers(), 2 + usize::from(CARRIED_BUFFERS));
        // Receives leave some for what is carried.
        let taken = std::iter::from_fn(|| worker.udp_pool.take()).count();
        assert_eq!(taken, 2);
        worker.inbox.push(NodeAddress([7; 20]).into(), &[0x77; 40]).unwrap();
        assert!(worker.fill_frames());
        assert_eq!(worker.counters.value(Counter::RxUnknownMessage), sent + 1);
    }

    fn sends(worker: &Worker) -> Vec<u16> {
        worker.batch.pending().iter().map(|send| send.segments).collect()
    }

    fn counted(worker: &Worker) -> Vec<(Counter, u64)> {
        worker.counters.iter().filter(|(_, value)| *value > 0).collect()
    }

    #[test]
    fn what_the_kernel_will_not_cut_is_sent_singly_and_so_is_what_follows() {
        for (code, pauses) in [(libc::EIO, true), (libc::EINVAL, true), (libc::EMSGSIZE, false)] {
            let mut worker = worker();
            read_super_packet(&mut worker);
            assert_eq!(sends(&worker), [5]);
            assert_eq!(worker.sent(Err(code)), Flow::Continue);
            assert_eq!(sends(&worker), [1; 5]);
            assert_eq!(counted(&worker), [(Counter::TxGsoFallback, 5)]);
            for _ in 0..5 {
                worker.sent(Ok(()));
            }
            assert_eq!(worker.counters.value(Counter::TxEncapsulated), 5);
            assert_eq!(worker.tun_pool.free_buffers(), 2);
            read_super_packet(&mut worker);
            assert_eq!(sends(&worker), if pauses { vec![1; 5] } else { vec![5] });
        }
    }

    #[test]
    fn a_full_socket_keeps_what_is_pending_and_other_errors_drop_and_count() {
        for (code, counter) in [
            (libc::ENOBUFS, Counter::TxQueueFull),
            (libc::EPERM, Counter::TxSendError),
            (libc::ENETUNREACH, Counter::TxSendError),
        ] {
            let mut worker = worker();
            read_super_packet(&mut worker);
            assert_eq!(worker.sent(Err(libc::EAGAIN)), Flow::Blocked);
            assert_eq!((sends(&worker), counted(&worker)), (vec![5], vec![]));
            assert_eq!(worker.sent(Err(code)), Flow::Continue);
            assert_eq!(counted(&worker), [(counter, 5)]);
            assert_eq!(worker.tun_pool.free_buffers(), 2);
        }
    }

    #[test]
    fn what_is_abandoned_is_counted() {
        let mut worker = worker();
        read_super_packet(&mut worker);
        worker.abandon_batch();
        assert_eq!(counted(&worker), [(Counter::TxQueueFull, 5)]);
        assert_eq!(worker.tun_pool.free_buffers(), 2);
    }

    #[test]
    fn a_super_packet_that_the_device_refuses_is_written_singly_and_merging_ends() {
        for udp in [false, true] {
            let mut worker = worker();
            let frame = receive_super_packet(&mut worker, udp);
            worker.written(frame, Err(libc::EINVAL), |worker| {
                let originals = worker.frames.frame(frame).unwrap().originals();
                let lens = originals.map(|piece| worker.udp_pool.bytes(piece).len()).collect::<Vec<_>>();
                assert_eq!(lens, [if udp { 28 } else { 52 } + SEGMENT_SIZE; 3]);
                2
            });
            assert_eq!(counted(&worker), [(Counter::RxDecapsulated, 2), (Counter::RxDeviceError, 1)]);
            assert_eq!(worker.udp_pool.free_buffers(), 2 + usize::from(CARRIED_BUFFERS));
            let single = receive_super_packet(&mut worker, udp);
            assert_eq!(worker.frames.frame(single).unwrap().pieces().len(), 1);
        }
        let mut worker = worker();
        let frame = receive_super_packet(&mut worker, true);
        worker.written(frame, Err(libc::EINVAL), |_| 3);
        let other = receive_super_packet(&mut worker, false);
        assert_eq!(worker.frames.frame(other).unwrap().pieces().len(), 3, "TCP is still merged");
    }

    #[test]
    fn a_packet_that_the_device_refuses_is_counted() {
        let mut worker = worker();
        let frame = receive_super_packet(&mut worker, false);
        worker.written(frame, Err(libc::EIO), |_| unreachable!("only EINVAL is about merging"));
        assert_eq!(counted(&worker), [(Counter::RxDeviceError, 3)]);
    }
}
