//! Merges what the wire delivered in segments: packets of one flow that follow one another become
//! one super-packet for the TUN device, by the rules of the kernel's GRO, so that cutting it again
//! gives the same packets. Payload is not touched; a header block is written anew.
//!
//! Packets of a flow leave in the order in which they came. A packet that cannot be merged leaves as
//! it is, and its checksum is then the stack's business; before merging, checksums are verified
//! here, since a super-packet is handed to the kernel as sound.
//!
//! Pure. Whether a packet may be delivered at all has been decided before.

use std::collections::VecDeque;

use ipop_common::ethernet;
use ipop_common::ingress::ETHERNET_LEN;
use ipop_common::inner::Inner;

use super::flow::{self, Segment};
use super::pool::{Memory, Piece};
use super::virtio::{self, Segmentation};

/// Flows that are collected at a time; the kernel's GRO has as many per bucket.
const FLOWS_MAX: usize = 8;
/// Segments in a super-packet of TCP: 64 KiB in segments of 536 bytes.
const TCP_SEGMENTS_MAX: usize = 124;
/// Segments in a super-packet of UDP: UDP_MAX_SEGMENTS of kernels before 6.9.
const UDP_SEGMENTS_MAX: usize = 64;
/// Longest IP packet.
const PACKET_LEN_MAX: u32 = 65_535;

/// Longest block that precedes the pieces of a frame: the virtio header and either the headers of a
/// super-packet or a whole ICMP error.
pub const FRAME_HEADER_MAX: usize = virtio::HEADER_LEN + 180;

/// What one write to the TUN device consists of: a header block and pieces of receive buffers.
#[derive(Debug)]
pub struct Frame {
    header: [u8; FRAME_HEADER_MAX],
    header_len: usize,
    pieces: Vec<Piece>,
    /// Bytes of one segment's headers, in front of each piece in its buffer; 0 for a whole packet.
    stripped: u32,
}

impl Frame {
    fn new() -> Self {
        Self {
            header: [0; FRAME_HEADER_MAX],
            header_len: 0,
            pieces: Vec::with_capacity(TCP_SEGMENTS_MAX),
            stripped: 0,
        }
    }

    /// The virtio header and what follows it before the first piece.
    pub fn header(&self) -> &[u8] {
        self.header.get(..self.header_len).unwrap_or_default()
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether this is a super-packet.
    pub fn is_merged(&self) -> bool {
        self.stripped != 0
    }

    /// How the kernel is to cut it, if it is a super-packet.
    pub fn segmentation(&self) -> Option<Segmentation> {
        virtio::Header::parse(self.header()).ok()?.gso.map(|gso| gso.segmentation)
    }

    /// The packets of a super-packet, each as it came: for a device that refuses the whole.
    pub fn originals(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().map(|piece| with_headers(*piece, self.stripped))
    }
}

/// Adds the header bytes that stand before a payload in its buffer.
fn with_headers(payload: Piece, header_len: u32) -> Piece {
    Piece {
        buffer: payload.buffer,
        start: payload.start.saturating_sub(header_len),
        len: payload.len + header_len,
    }
}

/// A flow whose next segment may still come.
#[derive(Debug)]
struct Open {
    frame: u16,
    /// The Ethernet header before each segment, in a network that carries it.
    link: Option<LinkHeader>,
    flow: flow::Flow,
    /// The first segment's checksums are known to be right.
    verified: bool,
}

type LinkHeader = [u8; ETHERNET_LEN];

fn len_of(link: Option<LinkHeader>) -> u32 {
    link.map_or(0, |header| header.len() as u32)
}

/// Collects packets into frames. Frames are numbered, and reused after [`Coalescer::release`].
#[derive(Debug)]
pub struct Coalescer {
    frames: Vec<Frame>,
    free: Vec<u16>,
    /// Oldest first.
    open: Vec<Open>,
    ready: VecDeque<u16>,
    merge_tcp: bool,
    merge_udp: bool,
}

impl Coalescer {
    /// Room for `frames_max` frames, at least two. Without `merge_udp` datagrams pass singly.
    pub fn new(frames_max: u16, merge_tcp: bool, merge_udp: bool) -> Self {
        let frames_max = frames_max.max(2);
        Self {
            frames: (0..frames_max).map(|_| Frame::new()).collect(),
            free: (0..frames_max).rev().collect(),
            open: Vec::with_capacity(FLOWS_MAX),
            ready: VecDeque::with_capacity(usize::from(frames_max)),
            merge_tcp,
            merge_udp,
        }
    }

    /// Whether one more packet can be taken. If not, frames have to be written and released first.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// From now on packets of TCP, or of UDP, pass singly.
    pub fn stop_merging(&mut self, udp: bool) {
        if udp {
            self.merge_udp = false;
        } else {
            self.merge_tcp = false;
        }
    }

    /// Takes one packet, whole in `packet`. Without room it is refused.
    ///
    /// The piece must stay as it is until the frame that it ends up in is released.
    pub fn push(&mut self, packet: Piece, inner: &Inner, memory: &impl Memory) -> bool {
        if !self.has_room() {
            return false;
        }
        self.push_behind(packet, None, inner, memory)
    }

    /// Takes one Ethernet frame, as [`Coalescer::push`] does a packet. Those with a tag, and those without an IP
    /// packet, leave as they are.
    pub fn push_frame(&mut self, frame: Piece, memory: &impl Memory) -> bool {
        if !self.has_room() {
            return false;
        }
        let bytes = memory.bytes(frame);
        let (Some((ETHERNET_LEN, family)), Some(link)) = (ethernet::ip_at(bytes), bytes.first_chunk()) else {
            return self.emit_single(frame);
        };
        let Ok(inner) = Inner::parse(bytes, ETHERNET_LEN, family) else { return self.emit_single(frame) };
        let len = ETHERNET_LEN as u32 + u32::from(inner.total_len);
        if len > frame.len {
            return self.emit_single(frame);
        }
        // What fills a short frame up is none of the packet's.
        self.push_behind(Piece { len, ..frame }, Some(*link), &inner, memory)
    }

    fn push_behind(
        &mut self,
        packet: Piece,
        link: Option<LinkHeader>,
        inner: &Inner,
        memory: &impl Memory,
    ) -> bool {
        let bytes = memory.bytes(packet.behind(len_of(link)));
        let Some(segment) = Segment::parse(bytes, inner) else {
            // Part of any flow, a fragment for one: nothing may stay behind it.
            self.flush();
            return self.emit_single(packet);
        };
        let merge = if segment.is_udp() { self.merge_udp } else { self.merge_tcp };
        match self.open.iter().position(|open| open.flow.is_flow_of(&segment)) {
            Some(at) if merge && self.append(at, packet, link, &segment, memory) => true,
            Some(at) => {
                self.close(at);
                self.start(packet, link, &segment, merge)
            }
            None => self.start(packet, link, &segment, merge),
        }
    }

    /// Makes a frame of bytes that are in no buffer: a packet of our own, at most
    /// [`FRAME_HEADER_MAX`] less the virtio header long. Without room it is refused.
    pub fn push_own(&mut self, packet: &[u8]) -> bool {
        let len = virtio::HEADER_LEN + packet.len();
        if len > FRAME_HEADER_MAX {
            return false;
        }
        let Some(index) = self.allocate() else { return false };
        let Some(frame) = self.frames.get_mut(usize::from(index)) else { return false };
        frame.header[..virtio::HEADER_LEN].copy_from_slice(&virtio::Header::PLAIN);
        frame.header[virtio::HEADER_LEN..len].copy_from_slice(packet);
        frame.header_len = len;
        self.ready.push_back(index);
        true
    }

    /// Ends all flows: what has been collected is ready.
    pub fn flush(&mut self) {
        while !self.open.is_empty() {
            self.close(0);
        }
    }

    /// The next frame to be written, in order.
    pub fn next_ready(&mut self) -> Option<u16> {
        self.ready.pop_front()
    }

    pub fn frame(&self, index: u16) -> Option<&Frame> {
        self.frames.get(usize::from(index))
    }

    /// Takes a frame back. Its pieces are no longer referred to.
    pub fn release(&mut self, index: u16) {
        if let Some(frame) = self.frames.get_mut(usize::from(index)) {
            frame.pieces.clear();
            frame.stripped = 0;
            self.free.push(index);
        }
    }

    /// Adds a segment to an open flow, if it continues it and both are sound.
    fn append(
        &mut self,
        at: usize,
        packet: Piece,
        link: Option<LinkHeader>,
        segment: &Segment<'_>,
        memory: &impl Memory,
    ) -> bool {
        let Some(open) = self.open.get_mut(at) else { return false };
        let Some(frame) = self.frames.get_mut(usize::from(open.frame)) else { return false };
        let limit = if segment.is_udp() { UDP_SEGMENTS_MAX } else { TCP_SEGMENTS_MAX };
        if open.link != link || frame.pieces.len() >= limit || !open.flow.continues(segment, PACKET_LEN_MAX) {
            return false;
        }
        if !open.verified {
            let first = frame.pieces.first().map(|piece| with_headers(*piece, open.flow.header_len()));
            open.verified = first.is_some_and(|first| flow::is_sound(memory.bytes(first)));
        }
        let packet = packet.behind(len_of(link));
        if !open.verified || !flow::is_sound(memory.bytes(packet)) {
            return false;
        }
        let ends = open.flow.append(segment);
        frame.pieces.push(payload_of(packet, segment));
        if ends {
            self.close(at);
        }
        true
    }

    /// Begins a flow with a segment, or lets it pass where nothing can follow it.
    fn start(&mut self, packet: Piece, link: Option<LinkHeader>, segment: &Segment<'_>, merge: bool) -> bool {
        if !merge || !segment.can_be_followed() {
            return self.emit_single(packet);
        }
        if self.open.len() >= FLOWS_MAX {
            self.close(0);
        }
        let Some(index) = self.allocate() else { return false };
        let Some(frame) = self.frames.get_mut(usize::from(index)) else { return false };
        frame.pieces.push(payload_of(packet.behind(len_of(link)), segment));
        self.open.push(Open { frame: index, link, flow: flow::Flow::start(segment), verified: false });
        true
    }

    /// Ends the flow at a place in the list: its frame is ready.
    fn close(&mut self, at: usize) {
        let Open { frame: index, link, flow, .. } = self.open.remove(at);
        let Some(frame) = self.frames.get_mut(usize::from(index)) else { return };
        let header_len = len_of(link) + flow.header_len();
        if let [only] = frame.pieces[..] {
            frame.pieces[0] = with_headers(only, header_len);
            plain(frame);
        } else {
            frame.stripped = header_len;
            frame.header_len =
                flow.write_header(link.as_ref().map_or(&[], |header| &header[..]), &mut frame.header);
        }
        self.ready.push_back(index);
    }

    fn emit_single(&mut self, packet: Piece) -> bool {
        let Some(index) = self.allocate() else { return false };
        let Some(frame) = self.frames.get_mut(usize::from(index)) else { return false };
        frame.pieces.push(packet);
        plain(frame);
        self.ready.push_back(index);
        true
    }

    fn allocate(&mut self) -> Option<u16> {
        self.free.pop()
    }
}

/// A header that asks for nothing.
fn plain(frame: &mut Frame) {
    frame.header[..virtio::HEADER_LEN].copy_from_slice(&virtio::Header::PLAIN);
    frame.header_len = virtio::HEADER_LEN;
}

fn payload_of(packet: Piece, segment: &Segment<'_>) -> Piece {
    let header_len = segment.header_len();
    packet.behind(header_len)
}

#[cfg(test)]
mod tests;
