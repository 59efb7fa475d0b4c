//! One queue's packets in hand, in both directions, and what becomes of them: the part of a data
//! thread that every engine shares. Engines fill buffers, carry out sends and writes, and report
//! results; nothing here makes a system call on a packet.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use ipop_common::Counter;

use super::batch::Batch;
use super::clock;
use super::coalesce::Coalescer;
use super::counters::Counters;
use super::engine::{Queue, Sizes};
use super::inbound::{Bundle, Inbound};
use super::outbound::{Context, Families, Outbound};
use super::pool::Pool;
use super::table::Table;
use super::virtio::{self, Segmentation};

/// Longest read from the TUN device: the longest IP packet behind its virtio header.
const READ_LEN_MAX: usize = virtio::HEADER_LEN + 65_535;
/// Longest payload of a receive, merged ones included.
const RECEIVE_LEN_MAX: usize = 65_535;

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
    counters: Arc<Counters>,
}

impl Worker {
    /// `receive_head_len` bytes precede each payload in a receive buffer.
    pub(super) fn new(queue: &Queue, sizes: Sizes, receive_head_len: usize) -> io::Result<Self> {
        let offloads = queue.tun.offloads();
        Ok(Self {
            tun_pool: Pool::new(sizes.tun_buffers, READ_LEN_MAX)?,
            udp_pool: Pool::new(sizes.udp_buffers, receive_head_len + RECEIVE_LEN_MAX)?,
            batch: Batch::new(),
            frames: Coalescer::new(sizes.frames, offloads.tcp_segmentation, offloads.udp_segmentation),
            reads: VecDeque::with_capacity(usize::from(sizes.tun_buffers)),
            outbound: Outbound::new(families(queue)),
            inbound: Inbound::new(queue.control.clone(), usize::from(sizes.udp_buffers)),
            table: Cache::new(queue.table.clone()),
            counters: queue.counters.clone(),
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
        if self.outbound.is_idle() && self.reads.is_empty() {
            return false;
        }
        let table = self.table.load();
        let context = Context { table, counters: &self.counters, now_ns: clock::monotonic_ns() };
        loop {
            if self.outbound.is_idle() {
                let Some((buffer, len)) = self.reads.pop_front() else { break };
                self.outbound.take(buffer, len, &mut self.tun_pool, &mut self.frames, &context);
            }
            if !self.outbound.fill(&mut self.batch, &mut self.tun_pool) {
                break;
            }
        }
        !self.batch.pending().is_empty()
    }

    /// Turns what was received into frames; false if frames have to be released before the rest.
    pub(super) fn fill_frames(&mut self) -> bool {
        if self.inbound.is_idle() {
            return true;
        }
        let table = self.table.load();
        let context = Context { table, counters: &self.counters, now_ns: clock::monotonic_ns() };
        let done = self.inbound.fill(&mut self.udp_pool, &mut self.frames, &context);
        if done {
            self.frames.flush();
        }
        done
    }

    /// The first pending send has been tried. A datagram that failed is dropped and counted, unless
    /// it can be tried again.
    pub(super) fn sent(&mut self, result: Result<(), i32>) -> Flow {
        let Some(send) = self.batch.pending().first() else { return Flow::Continue };
        let (segments, socket) = (u64::from(send.segments), send.route.socket);
        match result {
            Ok(()) => {
                send.route.traffic.sent(segments, send.inner_len());
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
