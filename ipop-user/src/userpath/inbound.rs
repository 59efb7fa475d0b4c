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
