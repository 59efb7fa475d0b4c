//! What the user path adds to the system calls: cutting a super-packet, merging segments.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipop_common::checksum;
use ipop_common::inner::{Inner, protocol};
use ipop_user::userpath::coalesce::Coalescer;
use ipop_user::userpath::pool::{Memory, Piece};
use ipop_user::userpath::segment::{HEADER_LEN_MAX, SuperPacket};
use ipop_user::userpath::virtio::{Gso, Header, PartialChecksum, Segmentation};

/// TCP payload of a full packet on a 1500-byte wire: 1464 less IPv4 and TCP with timestamps.
const SEGMENT_SIZE: u16 = 1412;
/// As many as one datagram over IPv4 holds.
const SEGMENTS: usize = 44;
const TCP_LEN: usize = 32;

/// A TCP super-packet over IPv4 as the kernel gives it to the device.
fn super_packet() -> (Vec<u8>, Header) {
    let payload_len = SEGMENTS * usize::from(SEGMENT_SIZE);
    let total_len = (20 + TCP_LEN + payload_len) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total_len.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol::TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let transport_len = (TCP_LEN + payload_len) as u32;
    let seed = checksum::fold(checksum::pseudo_header(&packet[12..20], protocol::TCP, transport_len));
    packet.extend([0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x10, 1, 0]);
    packet.extend(seed.to_be_bytes());
    packet.extend([0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..payload_len).map(|at| at as u8));
    let gso = Gso {
        segmentation: Segmentation::TcpV4,
        ecn: false,
        size: SEGMENT_SIZE,
        header_len: (20 + TCP_LEN) as u16,
    };
    (packet, Header { gso: Some(gso), checksum: Some(PartialChecksum { start: 20, offset: 16 }) })
}

fn parse(packet: &[u8], header: &Header) -> Option<SuperPacket> {
    let inner = Inner::parse_any(packet, 0).ok()?;
    SuperPacket::parse(packet, &inner, header).ok()
}

/// The segments of the super-packet, one behind the other in one buffer.
struct Segments(Vec<u8>);

impl Memory for Segments {
    fn bytes(&self, piece: Piece) -> &[u8] {
        self.0.get(piece.start as usize..(piece.start + piece.len) as usize).unwrap_or_default()
    }
}

fn segments() -> (Segments, Vec<Piece>) {
    let (packet, header) = super_packet();
    let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
    if let Some(whole) = parse(&packet, &header) {
        for index in 0..whole.segments() {
            let start = bytes.len();
            bytes.resize(start + whole.header_len(), 0);
            whole.write_header(&packet, index, &mut bytes[start..]);
            bytes.extend(&packet[whole.payload(index)]);
            pieces.push(Piece { buffer: 0, start: start as u32, len: (bytes.len() - start) as u32 });
        }
    }
    (Segments(bytes), pieces)
}

fn cut(criterion: &mut Criterion) {
    let (packet, header) = super_packet();
    let mut group = criterion.benchmark_group("userpath");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function("cut 44 segments of 1412 bytes", |bencher| {
        let mut block = [0; HEADER_LEN_MAX];
        bencher.iter(|| {
            let Some(whole) = parse(black_box(&packet), &header) else { return };
            for index in 0..whole.segments() {
                whole.write_header(&packet, index, &mut block);
                black_box(&block);
            }
        });
    });
    group.finish();
}

fn merge(criterion: &mut Criterion) {
    let (memory, pieces) = segments();
    let mut group = criterion.benchmark_group("userpath");
    group.throughput(Throughput::Bytes(memory.0.len() as u64));
    group.bench_function("merge 44 segments of 1412 bytes", |bencher| {
        let mut coalescer = Coalescer::new(64, true, true);
        bencher.iter(|| {
            for piece in &pieces {
                let bytes = memory.bytes(black_box(*piece));
                let Ok(inner) = Inner::parse_any(bytes, 0) else { return };
                coalescer.push(*piece, &inner, &memory);
            }
            coalescer.flush();
            while let Some(frame) = coalescer.next_ready() {
                black_box(coalescer.frame(frame));
                coalescer.release(frame);
            }
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = ipop_benches::short(); targets = cut, merge }
criterion_main!(benches);
