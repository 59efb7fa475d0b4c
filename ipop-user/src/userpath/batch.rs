//! Datagrams on their way out: header blocks and pieces of read buffers, grouped into sends that
//! the kernel cuts (UDP_SEGMENT). A batch is filled, sent in order, and emptied.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use super::counters::LinkTraffic;
use super::pool::{Piece, Pool};

/// Sends in a batch.
pub(super) const SENDS_MAX: usize = 64;
/// Pieces in a batch: 1024 segments of a header and a payload.
pub(super) const PIECES_MAX: usize = 2048;
/// Pieces in one send: UIO_MAXIOV is 1024, and each datagram has at most two.
const SEGMENTS_MAX: u16 = 64;
/// Room for header blocks and sealed messages: more than the longest message, and few enough to stay
/// in a processor's own cache.
const BLOCKS_LEN: usize = 256 << 10;
/// Longest payload of a UDP datagram over IPv4, which bounds a send as a whole.
const SEND_LEN_MAX: u32 = 65_507;

/// Where the datagrams to a peer go.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) socket: u8,
    pub(super) endpoint: SocketAddr,
    pub(super) traffic: Arc<LinkTraffic>,
}

impl Route {
    fn leads_to(&self, other: &Route) -> bool {
        self.socket == other.socket
            && self.endpoint == other.endpoint
            && Arc::ptr_eq(&self.traffic, &other.traffic)
    }
}

/// Part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// In the batch's own memory: a header block, or a sealed message whole.
    Block {
        start: u32,
        len: u32,
    },
    Payload(Piece),
}

impl Part {
    pub(super) fn len(self) -> u32 {
        match self {
            Part::Block { len, .. } | Part::Payload(Piece { len, .. }) => len,
        }
    }
}

/// Datagrams to one peer that one system call sends: all of `segment_len` bytes, the last perhaps
/// shorter.
#[derive(Clone, Debug)]
pub(super) struct Send {
    pub(super) route: Route,
    pub(super) segment_len: u32,
    pub(super) segments: u16,
    pub(super) len: u32,
    /// Bytes of the inner packets.
    pub(super) inner_len: u64,
    pub(super) parts: Range<usize>,
    /// Nothing may be added: the last is shorter, or may be fragmented outside and has to be alone.
    closed: bool,
}

impl Send {
    fn takes(&self, route: &Route, len: u32) -> bool {
        !self.closed
            && self.segments < SEGMENTS_MAX
            && len <= self.segment_len
            && self.len + len <= SEND_LEN_MAX
            && self.route.leads_to(route)
    }
}

/// How a datagram may travel with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// Cut from a send by the kernel, with others of its length.
    Segmented,
    /// A send of its own.
    Alone,
}

/// The datagrams, in order.
#[derive(Debug)]
pub(super) struct Batch {
    blocks: Box<[u8]>,
    blocks_len: usize,
    parts: Vec<Part>,
    sends: Vec<Send>,
    /// Sends that have been dealt with, from the front.
    done: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            blocks: vec![0; BLOCKS_LEN].into_boxed_slice(),
            blocks_len: 0,
            parts: Vec::with_capacity(PIECES_MAX),
            sends: Vec::with_capacity(SENDS_MAX),
            done: 0,
        }
    }

    /// Whether one more datagram fits, with a block of `len` bytes. If not, the batch has to be sent
    /// first.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.sends.len() < SENDS_MAX
            && self.parts.len() + 2 <= PIECES_MAX
            && self.blocks_len + len <= self.blocks.len()
    }

    /// A block of `len` bytes to be written, and the part that it becomes. `None` without room.
    pub(super) fn block(&mut self, len: usize) -> Option<(Part, &mut [u8])> {
        let start = self.blocks_len;
        let block = self.blocks.get_mut(start..start + len)?;
        self.blocks_len += len;
        Some((Part::Block { start: start as u32, len: len as u32 }, block))
    }

    /// Adds a datagram of one or two parts that carries `inner_len` bytes. A payload's buffer must be
    /// held until [`Batch::clear`] releases it.
    pub(super) fn push(&mut self, route: &Route, parts: &[Part], inner_len: usize, company: Company) {
        let len = parts.iter().map(|part| part.len()).sum();
        self.parts.extend_from_slice(parts);
        let end = self.parts.len();
        let alone = company == Company::Alone;
        match self.sends.last_mut() {
            Some(send) if !alone && send.takes(route, len) => {
                send.segments += 1;
                send.len += len;
                send.inner_len += inner_len as u64;
                send.parts.end = end;
                send.closed = len < send.segment_len;
            }
            _ => self.sends.push(Send {
                route: route.clone(),
                segment_len: len,
                segments: 1,
                len,
                inner_len: inner_len as u64,
                parts: end - parts.len()..end,
                closed: alone,
            }),
        }
    }

    /// Sends that remain to be done, in order.
    pub(super) fn pending(&self) -> &[Send] {
        self.sends.get(self.done..).unwrap_or_default()
    }

    pub(super) fn parts(&self, send: &Send) -> &[Part] {
        self.parts.get(send.parts.clone()).unwrap_or_default()
    }

    /// The bytes of a block; none for a payload.
    pub(super) fn block_bytes(&self, part: Part) -> &[u8] {
        match part {
            Part::Block { start, len } => {
                self.blocks.get(start as usize..(start + len) as usize).unwrap_or_default()
            }
            Part::Payload(_) => &[],
        }
    }

    /// The first pending send has been dealt with, whatever became of it.
    pub(super) fn complete(&mut self) -> Option<&Send> {
        let send = self.sends.get(self.done)?;
        self.done += 1;
        Some(send)
    }

    /// Replaces the first pending send by one send for each of its datagrams.
    pub(super) fn take_apart(&mut self) {
        let Some(send) = self.sends.get(self.done).cloned() else { return };
        let mut singles = Vec::with_capacity(usize::from(send.segments));
        // What each datagram carries is not remembered; the sum is right.
        let inner_len = send.inner_len / u64::from(send.segments.max(1));
        let mut inner_left = send.inner_len;
        let mut start = send.parts.start;
        let mut left = send.len;
        while left > 0 && start < send.parts.end {
            let len = send.segment_len.min(left);
            let end = self.end_of(start..send.parts.end, len);
            let inner_len = if left == len { inner_left } else { inner_len };
            inner_left -= inner_len;
            singles.push(Send {
                route: send.route.clone(),
                segment_len: len,
                segments: 1,
                len,
                inner_len,
                parts: start..end,
                closed: true,
            });
            (start, left) = (end, left - len);
        }
        self.sends.splice(self.done..=self.done, singles);
    }

    /// Where the parts of a datagram of `len` bytes end that start at the range's start.
    fn end_of(&self, parts: Range<usize>, len: u32) -> usize {
        let mut end = parts.start;
        let mut covered = 0;
        while covered < len && end < parts.end {
            covered += self.parts.get(end).map_or(0, |part| part.len());
            end += 1;
        }
        end
    }

    /// Empties the batch and releases the buffers of its payloads.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        for part in self.parts.drain(..) {
            if let Part::Payload(piece) = part {
                pool.release(piece.buffer);
            }
        }
        self.sends.clear();
        self.blocks_len = 0;
        self.done = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        Route { socket: 0, endpoint: ([192, 0, 2, 1], port).into(), traffic: Arc::default() }
    }

    fn payload(len: u32) -> Part {
        Part::Payload(Piece { buffer: 0, start: 0, len })
    }

    fn shape(batch: &Batch) -> Vec<(u32, u16, u32)> {
        batch.pending().iter().map(|send| (send.segment_len, send.segments, send.len)).collect()
    }

    #[test]
    fn equal_datagrams_to_one_peer_share_a_send_and_a_shorter_one_ends_it() {
        let (mut batch, peer) = (Batch::new(), route(1));
        for len in [100, 100, 60, 60, 70] {
            batch.push(&peer, &[payload(len)], len as usize, Company::Segmented);
        }
        assert_eq!(shape(&batch), [(100, 3, 260), (60, 1, 60), (70, 1, 70)]);
    }

    #[test]
    fn peers_and_lonely_datagrams_are_kept_apart_in_order() {
        let (mut batch, one, other) = (Batch::new(), route(1), route(2));
        for (peer, company) in [
            (&one, Company::Segmented),
            (&other, Company::Segmented),
            (&one, Company::Segmented),
            (&one, Company::Alone),
            (&one, Company::Segmented),
        ] {
            batch.push(peer, &[payload(100)], 100, company);
        }
        let ports: Vec<_> = batch.pending().iter().map(|send| send.route.endpoint.port()).collect();
        assert_eq!(ports, [1, 2, 1, 1, 1]);
    }

    #[test]
    fn a_send_holds_what_one_datagram_may_and_not_more_than_64_segments() {
        let (mut batch, peer) = (Batch::new(), route(1));
        for _ in 0..46 {
            batch.push(&peer, &[payload(1472)], 1472, Company::Segmented);
        }
        assert_eq!(shape(&batch), [(1472, 44, 44 * 1472), (1472, 2, 2 * 1472)]);
        let mut batch = Batch::new();
        for _ in 0..65 {
            batch.push(&peer, &[payload(72)], 72, Company::Segmented);
        }
        assert_eq!(shape(&batch), [(72, 64, 64 * 72), (72, 1, 72)]);
    }

    #[test]
    fn a_send_is_taken_apart_into_its_datagrams() {
        let (mut batch, peer) = (Batch::new(), route(1));
        batch.push(&peer, &[payload(9)], 9, Company::Segmented);
        for len in [100, 100, 50] {
            let (block, _) = batch.block(20).unwrap();
            batch.push(&peer, &[block, payload(len - 20)], len as usize - 8, Company::Segmented);
        }
        batch.push(&peer, &[payload(80)], 80, Company::Segmented);
        batch.complete();
        batch.take_apart();
        assert_eq!(shape(&batch), [(100, 1, 100), (100, 1, 100), (50, 1, 50), (80, 1, 80)]);
        let parts: Vec<_> = batch.pending().iter().map(|send| batch.parts(send).len()).collect();
        assert_eq!(parts, [2, 2, 2, 1]);
        assert_eq!(batch.pending().iter().map(|send| send.inner_len).sum::<u64>(), 250 - 3 * 8 + 80);
    }

    #[test]
    fn clearing_releases_every_payload() {
        let mut pool = Pool::new(1, 4096).unwrap();
        let mut batch = Batch::new();
        let buffer = pool.take().unwrap();
        for _ in 0..3 {
            pool.hold(buffer);
            batch.push(&route(1), &[payload(10)], 10, Company::Segmented);
        }
        batch.clear(&mut pool);
        assert_eq!(pool.free_buffers(), 1);
        assert!(batch.pending().is_empty() && batch.has_room(1));
    }
}
