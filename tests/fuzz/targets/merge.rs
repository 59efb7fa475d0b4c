//! Packets on their way to the TUN device: merged where they can be, and cut again as the kernel
//! cuts them.
//!
//! Input: flags (bit 0: TCP is merged, bit 1: UDP is), then events. Each begins with a byte whose
//! low three bits say what it is:
//!
//! - 0 to 5: the next packet of one of 16 flows. Bits 0 and 1: which; bit 3: IPv6; bit 4: UDP; bit
//!   5: with options; bits 6 and 7: reserved. Then a byte of ways to differ, see [`Stream`].
//! - 6: any packet: its length (u8) and its bytes.
//! - 7: bits 3 and 4: end all flows, write what is ready, merge no more TCP, merge no more UDP.

use std::collections::HashMap;

use ipop_common::Cursor;
use ipop_common::inner::Inner;
use ipop_tests::packet::{self, TCP, UDP};
use ipop_user::userpath::coalesce::{Coalescer, Frame};
use ipop_user::userpath::pool::{Memory, Piece};
use ipop_user::userpath::segment::SuperPacket;
use ipop_user::userpath::virtio::{self, Header, Segmentation};

use super::tape::Tape;

/// Packets per input, so that buffers can be numbered and an input takes milliseconds at most.
const PACKETS_MAX: usize = 400;
/// Frames of a coalescer: enough for flows to stay open, few enough to run out.
const FRAMES: u16 = 12;

pub(super) fn run(input: &[u8]) {
    let mut tape = Tape::new(input);
    let flags = tape.u8();
    let mut device = Device::new(Coalescer::new(FRAMES, flags & 1 != 0, flags & 2 != 0));
    let mut streams: HashMap<u8, Stream> = HashMap::new();
    while !tape.is_over() && device.packets.0.len() < PACKETS_MAX {
        let event = tape.u8();
        match event & 7 {
            7 => control(&mut device, event >> 3 & 3),
            6 => {
                let len = usize::from(tape.u8());
                device.push(tape.bytes(len).to_vec());
            }
            _ => {
                let key = event & 0b0011_1011;
                let stream = streams.entry(key).or_insert_with(|| Stream::new(key));
                device.push(stream.next(&mut tape));
            }
        }
    }
    device.end();
}

fn control(device: &mut Device, what: u8) {
    match what {
        0 => device.coalescer.flush(),
        1 => device.write(),
        2 => device.coalescer.stop_merging(false),
        _ => device.coalescer.stop_merging(true),
    }
}

/// Packets that were cut elsewhere go through a coalescer and come out whole, in order.
pub(super) fn comes_out_as_it_went_in(packets: Vec<Vec<u8>>) {
    let mut device = Device::new(Coalescer::new(FRAMES, true, true));
    packets.into_iter().take(PACKETS_MAX).for_each(|packet| device.push(packet));
    device.end();
}

/// A sender of packets that follow one another, unless it is told otherwise.
#[derive(Debug)]
pub(crate) struct Stream {
    v6: bool,
    udp: bool,
    options: bool,
    port: u16,
    identification: u16,
    sequence: u32,
}

impl Stream {
    fn new(key: u8) -> Self {
        Self {
            v6: key & 8 != 0,
            udp: key & 16 != 0,
            options: key & 32 != 0,
            port: 40_000 + u16::from(key),
            identification: 7,
            sequence: u32::MAX - 300,
        }
    }

    /// The next packet. Ways to differ, by bit:
    ///
    /// 0: a length of payload (u8) instead of 64 bytes; 1: eight times as long; 2: TCP flags (u8)
    /// instead of ACK; 3: up to three bytes are changed (count, then place and change for each); 4:
    /// and the checksums are not; 5: the identification is as before; 6: a gap in the sequence before
    /// it; 7: the payload is all ones.
    fn next(&mut self, tape: &mut Tape<'_>) -> Vec<u8> {
        let ways = tape.u8();
        let way = |bit: u8| ways & 1 << bit != 0;
        let len = if way(0) { usize::from(tape.u8()) } else { 64 };
        let payload = vec![if way(7) { 0xff } else { 0x5a }; if way(1) { len * 8 } else { len }];
        let flags = if way(2) { tape.u8() } else { 0x10 };
        self.sequence = self.sequence.wrapping_add(u32::from(way(6)));
        let mut packet = self.packet(flags, &payload);
        let changes = if way(3) { tape.u8() & 3 } else { 0 };
        for _ in 0..changes {
            let (at, change) = (usize::from(tape.u8()), tape.u8());
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= change;
            }
        }
        if !way(4) {
            fix_checksums(&mut packet);
        }
        self.sequence = self.sequence.wrapping_add(payload.len() as u32);
        self.identification = self.identification.wrapping_add(u16::from(!way(5)));
        packet
    }

    /// The packet without its checksums.
    fn packet(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut transport = [self.port.to_be_bytes(), 5201u16.to_be_bytes()].concat();
        if self.udp {
            transport.extend((8 + payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        } else {
            let options: &[u8] = if self.options { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
            transport.extend(self.sequence.to_be_bytes());
            transport.extend([0, 0, 0, 77, (20 + options.len() as u8) << 2, flags, 1, 0, 0, 0, 0, 0]);
            transport.extend(options);
        }
        transport.extend(payload);
        let protocol = if self.udp { UDP } else { TCP };
        if self.v6 {
            let [source, destination] =
                ["fd00:64::1", "fd00:64::ffff"].map(|text| text.parse().expect("one"));
            packet::ip(source, destination, protocol, &transport)
        } else {
            let [source, destination] = ["10.64.1.1", "10.64.0.1"].map(|text| text.parse().expect("one"));
            let mut packet = packet::ip(source, destination, protocol, &transport);
            packet[4..6].copy_from_slice(&self.identification.to_be_bytes());
            packet
        }
    }
}

/// Makes all checksums right, as far as the packet has the headers that it seems to have.
fn fix_checksums(packet: &mut [u8]) {
    let Ok(inner) = Inner::parse_any(&*packet, 0) else { return };
    let header_len = usize::from(inner.header_len);
    if header_len > packet.len() {
        return;
    }
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let check = packet::checksum(&packet[..header_len]).to_be_bytes();
        packet[10..12].copy_from_slice(&check);
    }
    let at = header_len + if inner.protocol == UDP { 6 } else { 16 };
    if ![TCP, UDP].contains(&inner.protocol) || at + 2 > packet.len() {
        return;
    }
    packet[at..at + 2].fill(0);
    let (source, destination) = (inner.source.to_ip(), inner.destination.to_ip());
    let check =
        packet::transport_checksum(source, destination, inner.protocol, &packet[header_len..]).to_be_bytes();
    packet[at..at + 2].copy_from_slice(&check);
}

/// The buffers: one packet each.
#[derive(Debug, Default)]
struct Packets(Vec<Vec<u8>>);

impl Memory for Packets {
    fn bytes(&self, piece: Piece) -> &[u8] {
        let (start, len) = (piece.start as usize, piece.len as usize);
        self.0[usize::from(piece.buffer)].get(start..start + len).unwrap_or_default()
    }
}

/// A coalescer, what was pushed into it, and in which order that has come out.
#[derive(Debug)]
struct Device {
    coalescer: Coalescer,
    packets: Packets,
    written: Vec<u16>,
}

impl Device {
    fn new(coalescer: Coalescer) -> Self {
        Self { coalescer, packets: Packets::default(), written: Vec::new() }
    }

    /// Takes a packet whose length is what its header says, as [`ipop_common::ingress::clear`]
    /// makes sure; no other.
    fn push(&mut self, packet: Vec<u8>) {
        let Ok(inner) = Inner::parse_any(&packet[..], 0) else { return };
        if usize::from(inner.total_len) != packet.len() {
            return;
        }
        if !self.coalescer.has_room() {
            self.coalescer.flush();
            self.write();
        }
        let piece = Piece { buffer: self.packets.0.len() as u16, start: 0, len: packet.len() as u32 };
        self.packets.0.push(packet);
        assert!(self.coalescer.push(piece, &inner, &self.packets), "there was room");
    }

    /// Writes what is ready.
    fn write(&mut self) {
        while let Some(index) = self.coalescer.next_ready() {
            let frame = self.coalescer.frame(index).expect("a frame that is ready");
            let packets = if frame.is_merged() { self.merged(frame) } else { self.single(frame) };
            self.written.extend(packets);
            self.coalescer.release(index);
        }
    }

    fn end(mut self) {
        self.coalescer.flush();
        self.write();
        assert!(self.coalescer.has_room());
        let mut all = self.written.clone();
        all.sort_unstable();
        let pushed: Vec<u16> = (0..self.packets.0.len() as u16).collect();
        assert_eq!(all, pushed, "every packet is written once");
        self.is_in_order();
    }

    /// A packet that was not merged is written as it came.
    fn single(&self, frame: &Frame) -> Vec<u16> {
        assert_eq!(frame.header(), Header::PLAIN);
        let [piece] = frame.pieces() else { panic!("{} pieces of one packet", frame.pieces().len()) };
        assert_eq!(self.packets.bytes(*piece), self.packets.0[usize::from(piece.buffer)]);
        vec![piece.buffer]
    }

    /// A super-packet is cut into the packets that went into it, each of which was sound.
    fn merged(&self, frame: &Frame) -> Vec<u16> {
        let buffers: Vec<u16> = frame.pieces().iter().map(|piece| piece.buffer).collect();
        let originals: Vec<&[u8]> = frame.originals().map(|piece| self.packets.bytes(piece)).collect();
        for (original, buffer) in originals.iter().zip(&buffers) {
            assert_eq!(*original, self.packets.0[usize::from(*buffer)]);
            assert!(is_sound(original), "a packet with a wrong checksum was merged");
            assert!(may_be_merged(original), "a packet with a flag of its own was merged");
        }
        let payloads: Vec<u8> =
            frame.pieces().iter().flat_map(|piece| self.packets.bytes(*piece)).copied().collect();
        let whole = [&frame.header()[virtio::HEADER_LEN..], &payloads].concat();
        let header = Header::parse(frame.header()).expect("a header of ours");
        is_what_a_kernel_takes(&header, &whole, originals.len());
        let segments = cut(&whole, &header);
        assert_eq!(segments.len(), originals.len());
        let ids_mean_nothing = has_constant_identification(&originals);
        for (segment, original) in segments.into_iter().zip(originals) {
            let mut original = original.to_vec();
            if ids_mean_nothing {
                // Cutting makes consecutive ones.
                original[4..6].copy_from_slice(&segment[4..6]);
                fix_checksums(&mut original);
            }
            assert_eq!(segment, original);
        }
        buffers
    }

    /// Packets of one flow have not overtaken one another; one whose flow cannot be told has
    /// overtaken nothing and been overtaken by nothing.
    fn is_in_order(&self) {
        let mut last: HashMap<Vec<u8>, u16> = HashMap::new();
        let mut barrier = None;
        let mut latest = None;
        for &index in &self.written {
            assert!(barrier < Some(index), "{index} left behind {barrier:?}");
            match flow(&self.packets.0[usize::from(index)]) {
                None => {
                    assert!(latest < Some(index), "{index} left behind {latest:?}");
                    barrier = Some(index);
                }
                Some(flow) => {
                    let before = last.insert(flow, index);
                    assert!(before < Some(index), "{index} left behind {before:?} of its flow");
                }
            }
            latest = latest.max(Some(index));
        }
    }
}

/// Addresses, protocol and ports; `None` where a packet has none or not in their usual place.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let v6 = packet[0] >> 4 == 6;
    let (ip_len, protocol, addresses) = if v6 { (40, packet[6], 8..40) } else { (20, packet[9], 12..20) };
    let has_plain_header = v6 || (packet[0] == 0x45 && packet.u16_at(6)? & 0x3fff == 0);
    let transport_len = match protocol {
        TCP => usize::from(packet.u8_at(ip_len + 12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let is_whole = transport_len >= if protocol == TCP { 20 } else { 8 };
    if !has_plain_header || !is_whole || ip_len + transport_len > packet.len() {
        return None;
    }
    Some([&packet[addresses], &packet[ip_len..ip_len + 4], &[protocol]].concat())
}

/// Whether all checksums of a TCP or UDP packet are there and right.
pub(super) fn is_sound(packet: &[u8]) -> bool {
    let Ok(inner) = Inner::parse_any(packet, 0) else { return false };
    let (ip, transport) = packet.split_at(usize::from(inner.header_len));
    let (source, destination) = (inner.source.to_ip(), inner.destination.to_ip());
    let has_one = inner.protocol != UDP || transport[6..8] != [0, 0];
    has_one
        && (ip[0] >> 4 == 6 || packet::checksum(ip) == 0)
        && packet::transport_checksum(source, destination, inner.protocol, transport) == 0
}

/// SYN, RST, URG and CWR mean one segment and no other; the kernel's GRO never merges them.
fn may_be_merged(packet: &[u8]) -> bool {
    const FIN_PSH_ACK_ECE: u8 = 0x01 | 0x08 | 0x10 | 0x40;
    let (protocol, tcp_at) = if packet[0] >> 4 == 6 { (packet[6], 40) } else { (packet[9], 20) };
    protocol != TCP || packet[tcp_at + 13] & !FIN_PSH_ACK_ECE == 0
}

/// What a TUN device accepts and its kernel can cut (UDP_MAX_SEGMENTS was 64 before Linux 6.9).
fn is_what_a_kernel_takes(header: &Header, whole: &[u8], segments: usize) {
    assert!(whole.len() <= 65_535);
    let gso = header.gso.expect("a super-packet says how it is cut");
    let partial = header.checksum.expect("and where its checksum is");
    assert!(segments >= 2 && (gso.segmentation != Segmentation::Udp || segments <= 64));
    let start = if whole[0] >> 4 == 6 { 40 } else { 20 };
    assert_eq!(usize::from(partial.start), start);
    assert!(usize::from(gso.header_len) > start && usize::from(gso.header_len) < whole.len());
    assert!(whole[0] >> 4 == 6 || packet::checksum(&whole[..start]) == 0);
}

fn has_constant_identification(originals: &[&[u8]]) -> bool {
    originals
        .iter()
        .all(|packet| packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 && packet[4..6] == originals[0][4..6])
}

/// The packets that a super-packet is made of.
pub(super) fn cut(packet: &[u8], header: &Header) -> Vec<Vec<u8>> {
    let inner = Inner::parse_any(packet, 0).expect("a super-packet has an IP header");
    let whole = SuperPacket::parse(packet, &inner, header).expect("a super-packet of ours can be cut");
    segments(packet, &whole)
}

/// The segments of a super-packet, as they are sent.
pub(super) fn segments(packet: &[u8], whole: &SuperPacket) -> Vec<Vec<u8>> {
    let one = |index| {
        let mut segment = vec![0; whole.header_len()];
        whole.write_header(packet, index, &mut segment);
        segment.extend(&packet[whole.payload(index)]);
        segment
    };
    (0..whole.segments()).map(one).collect()
}
