//! What merging must and must not do, seen from the packets that go in and come out.

use super::super::packets::{CWR, ECE, FIN, PSH, Packet, RST, SYN, URG, is_sound, payload};
use super::super::segment::SuperPacket;
use super::super::virtio::{HEADER_LEN, Header};
use super::*;
use ipop_common::checksum;
use proptest::prelude::*;

struct Packets(Vec<Vec<u8>>);

impl Memory for Packets {
    fn bytes(&self, piece: Piece) -> &[u8] {
        let (start, len) = (piece.start as usize, piece.len as usize);
        self.0[piece.buffer as usize].get(start..start + len).unwrap_or(&[])
    }
}

/// What is written to the device: virtio header and packet.
struct Written {
    header: Header,
    packet: Vec<u8>,
    merged: usize,
}

fn coalesce(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<Written> {
    let memory = Packets(packets.to_vec());
    let mut written = Vec::new();
    for (buffer, packet) in packets.iter().enumerate() {
        let piece = Piece { buffer: buffer as u16, start: 0, len: packet.len() as u32 };
        let inner = Inner::parse_any(&packet[..], 0).unwrap();
        assert!(coalescer.push(piece, &inner, &memory));
        drain(coalescer, &memory, &mut written);
    }
    coalescer.flush();
    drain(coalescer, &memory, &mut written);
    written
}

fn drain(coalescer: &mut Coalescer, memory: &Packets, written: &mut Vec<Written>) {
    while let Some(index) = coalescer.next_ready() {
        let frame = coalescer.frame(index).unwrap();
        let pieces: Vec<u8> = frame.pieces().iter().flat_map(|piece| memory.bytes(*piece)).copied().collect();
        let packet = [&frame.header()[HEADER_LEN..], &pieces].concat();
        let merged = frame.pieces().len().max(1);
        if frame.is_merged() {
            let originals: Vec<_> = frame.originals().map(|piece| memory.bytes(piece).len()).collect();
            assert_eq!(originals.len(), merged);
        }
        written.push(Written { header: Header::parse(frame.header()).unwrap(), packet, merged });
        coalescer.release(index);
    }
}

fn run(packets: &[Packet]) -> Vec<usize> {
    let bytes: Vec<_> = packets.iter().map(Packet::bytes).collect();
    coalesce(&mut Coalescer::new(64, true, true), &bytes).iter().map(|written| written.merged).collect()
}

/// Cuts a written packet as the kernel would.
fn cut(written: &Written) -> Vec<Vec<u8>> {
    if written.header.gso.is_none() {
        return vec![written.packet.clone()];
    }
    let inner = Inner::parse_any(&written.packet[..], 0).unwrap();
    let whole = SuperPacket::parse(&written.packet, &inner, &written.header).unwrap();
    (0..whole.segments())
        .map(|index| {
            let mut segment = vec![0; whole.header_len()];
            whole.write_header(&written.packet, index, &mut segment);
            segment.extend(&written.packet[whole.payload(index)]);
            segment
        })
        .collect()
}

/// `count` segments of `len` bytes, one after another.
fn stream(first: &Packet, count: usize, len: usize) -> Vec<Packet> {
    (0..count)
        .map(|index| Packet {
            id: first.id.wrapping_add(index as u16),
            sequence: first.sequence.wrapping_add((index * len) as u32),
            payload: payload(len),
            ..first.clone()
        })
        .collect()
}

fn kinds() -> [Packet; 4] {
    let (tcp, udp) = (Packet::tcp(Vec::new()), Packet::udp(Vec::new()));
    [tcp.clone(), tcp.v6(), udp.clone(), udp.v6()]
}

#[test]
fn segments_in_a_row_become_one_and_are_cut_into_the_same() {
    for first in kinds() {
        let packets: Vec<_> = stream(&first, 40, 1400).iter().map(Packet::bytes).collect();
        let written = coalesce(&mut Coalescer::new(4, true, true), &packets);
        assert_eq!(written.len(), 1, "{first:?}");
        assert_eq!(cut(&written[0]), packets);
    }
}

#[test]
fn a_super_packet_holds_what_the_kernel_takes() {
    let tcp = run(&stream(&Packet::tcp(Vec::new()), 200, 1400));
    assert_eq!(tcp, [46, 46, 46, 46, 16]);
    let small = run(&stream(&Packet::tcp(Vec::new()), 130, 10));
    assert_eq!(small, [TCP_SEGMENTS_MAX, 130 - TCP_SEGMENTS_MAX]);
    let udp = run(&stream(&Packet::udp(Vec::new()), 130, 10));
    assert_eq!(udp, [64, 64, 2]);
}

#[test]
fn what_differs_in_a_field_that_cutting_would_not_restore_is_kept_apart() {
    type Change = (&'static str, fn(&mut Packet));
    let tcp: &[Change] = &[
        ("gap", |p| p.sequence += 1),
        ("overlap", |p| p.sequence -= 1),
        ("acknowledgement", |p| p.ack += 1),
        ("window", |p| p.window += 1),
        ("options", |p| p.options[11] ^= 1),
        ("more options", |p| p.options.extend([1; 4])),
        ("ECN echo", |p| p.flags |= ECE),
        ("CWR", |p| p.flags |= CWR),
        ("SYN", |p| p.flags |= SYN),
        ("RST", |p| p.flags |= RST),
        ("URG", |p| p.flags |= URG),
        ("no ACK", |p| p.flags = 0),
        ("longer", |p| p.payload.push(1)),
        ("empty", |p| p.payload.clear()),
    ];
    let ip: &[Change] =
        &[("type of service", |p| p.tos ^= 3), ("hop limit", |p| p.ttl -= 1), ("port", |p| p.ports.0 += 1)];
    let v4: &[Change] = &[("DF", |p| p.dont_fragment = false), ("identification", |p| p.id += 5)];
    for first in kinds() {
        let changes =
            ip.iter().chain(if first.udp { &[] } else { tcp }).chain(if first.v6 { &[] } else { v4 });
        for (name, change) in changes {
            let mut packets = stream(&first, 2, 100);
            change(&mut packets[1]);
            assert_eq!(run(&packets), [1, 1], "{name} of {first:?}");
        }
    }
}

#[test]
fn push_and_fin_end_a_super_packet() {
    for flag in [PSH, FIN] {
        let mut packets = stream(&Packet::tcp(Vec::new()), 4, 100);
        packets[1].flags |= flag;
        assert_eq!(run(&packets), [2, 2]);
        let bytes: Vec<_> = packets.iter().map(Packet::bytes).collect();
        let written = coalesce(&mut Coalescer::new(4, true, true), &bytes);
        assert_eq!(written.iter().flat_map(cut).collect::<Vec<_>>(), bytes);
    }
}

#[test]
fn a_shorter_segment_ends_a_super_packet() {
    for first in kinds() {
        let mut packets = stream(&first, 3, 100);
        packets[1].payload.truncate(50);
        packets[2].sequence -= 50;
        assert_eq!(run(&packets), [2, 1]);
    }
}

#[test]
fn a_constant_identification_with_df_is_merged_and_without_df_is_not() {
    for dont_fragment in [true, false] {
        let mut packets = stream(&Packet::tcp(Vec::new()), 3, 100);
        for packet in &mut packets {
            (packet.id, packet.dont_fragment) = (0, dont_fragment);
        }
        assert_eq!(run(&packets), if dont_fragment { vec![3] } else { vec![1, 1, 1] });
    }
    let mut consecutive_then_constant = stream(&Packet::tcp(Vec::new()), 3, 100);
    consecutive_then_constant[2].id = consecutive_then_constant[0].id;
    assert_eq!(run(&consecutive_then_constant), [2, 1]);
}

#[test]
fn a_wrong_checksum_passes_alone_and_unchanged() {
    for first in kinds() {
        for bad in 0..3 {
            let mut packets: Vec<_> = stream(&first, 3, 100).iter().map(Packet::bytes).collect();
            *packets[bad].last_mut().unwrap() ^= 0x10;
            let written = coalesce(&mut Coalescer::new(4, true, true), &packets);
            assert!(written.iter().all(|w| w.merged == 1 || cut(w).iter().all(|packet| is_sound(packet))));
            assert_eq!(written.iter().flat_map(cut).collect::<Vec<_>>(), packets);
            assert!(written.iter().any(|w| w.merged == 1 && w.header == Header::default()));
        }
    }
}

#[test]
fn a_datagram_without_checksum_passes_alone() {
    let mut packets: Vec<_> = stream(&Packet::udp(Vec::new()), 2, 100).iter().map(Packet::bytes).collect();
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    let written = coalesce(&mut Coalescer::new(4, true, true), &packets);
    assert_eq!(written.iter().map(|w| w.packet.clone()).collect::<Vec<_>>(), packets);
}

#[test]
fn a_bad_ipv4_header_checksum_passes_alone() {
    let mut packets: Vec<_> = stream(&Packet::tcp(Vec::new()), 2, 100).iter().map(Packet::bytes).collect();
    packets[1][10] ^= 1;
    assert_eq!(coalesce(&mut Coalescer::new(4, true, true), &packets).len(), 2);
}

#[test]
fn a_fragment_waits_for_nothing_and_overtakes_nothing() {
    let stream = stream(&Packet::udp(Vec::new()), 2, 100);
    let mut fragment = Packet::udp(payload(64)).bytes();
    fragment[6] = 0x20;
    let check = checksum::update(u16::from_be_bytes([fragment[10], fragment[11]]), 0x4000, 0x2000);
    fragment[10..12].copy_from_slice(&check.to_be_bytes());
    let packets = vec![stream[0].bytes(), fragment, stream[1].bytes()];
    let written = coalesce(&mut Coalescer::new(4, true, true), &packets);
    assert_eq!(written.iter().map(|w| w.packet.clone()).collect::<Vec<_>>(), packets);
}

#[test]
fn flows_beyond_the_table_are_merged_less_and_lose_nothing() {
    let flows: Vec<_> =
        (0..2 * FLOWS_MAX as u8).map(|source| Packet { source, ..Packet::tcp(Vec::new()) }).collect();
    let streams: Vec<_> = flows.iter().map(|first| stream(first, 5, 100)).collect();
    let interleaved: Vec<_> = (0..5).flat_map(|at| streams.iter().map(move |s| s[at].clone())).collect();
    assert_eq!(run(&interleaved).iter().sum::<usize>(), interleaved.len());
    let two: Vec<_> = (0..5).flat_map(|at| streams[..2].iter().map(move |s| s[at].clone())).collect();
    assert_eq!(run(&two), [5, 5]);
}

#[test]
fn without_room_a_packet_is_refused_and_nothing_is_lost() {
    let mut coalescer = Coalescer::new(2, false, false);
    let packet = Packet::tcp(payload(10)).bytes();
    let inner = Inner::parse_any(&packet[..], 0).unwrap();
    let piece = Piece { buffer: 0, start: 0, len: packet.len() as u32 };
    let memory = Packets(vec![packet]);
    assert!(coalescer.push(piece, &inner, &memory) && coalescer.push_own(&[1; 30]));
    assert!(!coalescer.push(piece, &inner, &memory) && !coalescer.push_own(&[1; 30]));
    let first = coalescer.next_ready().unwrap();
    coalescer.release(first);
    assert!(coalescer.push(piece, &inner, &memory));
}

#[test]
fn a_packet_of_our_own_is_written_as_given() {
    let mut coalescer = Coalescer::new(2, true, true);
    assert!(coalescer.push_own(b"an error"));
    let index = coalescer.next_ready().unwrap();
    assert_eq!(coalescer.frame(index).unwrap().header(), [&Header::PLAIN[..], b"an error"].concat());
    assert!(!coalescer.push_own(&[0; FRAME_HEADER_MAX]));
}

/// Packets of a few flows, mostly in order, with everything that may interrupt one.
fn any_packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let step =
        (0u8..6, prop::sample::select(vec![0usize, 40, 100, 100, 100, 100, 1200]), 0u8..20, any::<bool>());
    prop::collection::vec(step, 1..120).prop_map(|steps| {
        let mut flows: Vec<Packet> =
            (0..6).map(|source| Packet { source, ..kinds()[usize::from(source) % 4].clone() }).collect();
        steps
            .into_iter()
            .map(|(flow, len, event, corrupt)| {
                let flow = &mut flows[usize::from(flow)];
                let mut packet = Packet { payload: payload(len), ..flow.clone() };
                match event {
                    0 => packet.flags |= PSH,
                    1 => packet.flags |= FIN,
                    2 => flow.ack += 1,
                    3 => packet.sequence += 3,
                    4 => packet.tos = 1,
                    5 => packet.flags |= SYN,
                    _ => {}
                }
                flow.sequence += len as u32;
                flow.id = flow.id.wrapping_add(1);
                let mut bytes = packet.bytes();
                if event == 6 && corrupt {
                    *bytes.last_mut().unwrap() ^= 1;
                }
                bytes
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_flow_keeps_its_packets_and_their_order(packets in any_packets()) {
        let written = coalesce(&mut Coalescer::new(16, true, true), &packets);
        let out: Vec<_> = written.iter().flat_map(cut).collect();
        prop_assert_eq!(out.len(), packets.len());
        for v6 in [false, true] {
            for source in 0..6u8 {
                let of_flow = |packet: &&Vec<u8>| {
                    (packet[0] >> 4 == 6) == v6 && packet[if v6 { 23 } else { 15 }] == source
                };
                let before: Vec<_> = packets.iter().filter(of_flow).collect();
                let after: Vec<_> = out.iter().filter(of_flow).collect();
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_and_pass_unchanged_unless_merged(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..120), 1..20),
        protocol in prop::sample::select(vec![6u8, 17, 1]),
    ) {
        let packets: Vec<_> = packets
            .into_iter()
            .map(|mut packet| {
                packet[0] = 0x45;
                packet[6..8].fill(0);
                packet[9] = protocol;
                let len = packet.len() as u16;
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                packet
            })
            .collect();
        let written = coalesce(&mut Coalescer::new(16, true, true), &packets);
        let (mut before, mut after) = (packets, written.iter().flat_map(cut).collect::<Vec<_>>());
        // Each is a flow of its own, and order holds within a flow.
        before.sort_unstable();
        after.sort_unstable();
        prop_assert_eq!(before, after);
    }
}
