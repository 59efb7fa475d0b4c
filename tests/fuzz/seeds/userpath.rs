//! Super-packets of the TUN device, and packets on their way to it.

use std::net::IpAddr;

use ipop_tests::packet;

use super::Inputs;
use crate::targets::tables::{OVER_V4, OWN_V4, OWN_V6, peers};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_*`.
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP_L4: u8 = 5;
const ECN: u8 = 0x80;

/// The virtio header, numbers in host order as the kernel writes them.
fn virtio(kind: u8, header_len: u16, size: u16, start: u16, offset: u16) -> Vec<u8> {
    let numbers = [header_len, size, start, offset, 0].map(u16::to_ne_bytes).concat();
    [&[if start == 0 { 0 } else { NEEDS_CHECKSUM }, kind][..], &numbers].concat()
}

fn own(v6: bool) -> IpAddr {
    if v6 { OWN_V6 } else { OWN_V4 }.parse().expect("an address")
}

fn tcp(v6: bool, len: usize) -> Vec<u8> {
    packet::tcp(own(v6), peers()[OVER_V4].inner(own(v6)), (40_000, 5201), &vec![0x5a; len])
}

fn udp(v6: bool, len: usize) -> Vec<u8> {
    packet::udp(own(v6), peers()[OVER_V4].inner(own(v6)), (40_000, 5201), &vec![0x5a; len])
}

/// A datagram whose checksum comes out as zero, which UDP writes as all ones.
fn zero_sum(v6: bool) -> Vec<u8> {
    let to = peers()[OVER_V4].inner(own(v6));
    let packet = |word: u16| packet::udp(own(v6), to, (40_000, 5201), &word.to_be_bytes());
    let check_at = if v6 { 46 } else { 26 };
    let all_ones = |packet: &Vec<u8>| packet[check_at..check_at + 2] == [0xff, 0xff];
    (0..=u16::MAX).map(packet).find(all_ones).expect("a payload that adds up")
}

/// With every flag that belongs to one segment only.
fn flagged(mut packet: Vec<u8>) -> Vec<u8> {
    packet[33] = 0xd9;
    packet
}

/// A destination options header between IPv6 and UDP.
fn extended() -> Vec<u8> {
    let mut packet = udp(true, 300);
    packet[5] = 0;
    packet[4..6].copy_from_slice(&316u16.to_be_bytes());
    packet[6] = 60;
    packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    packet
}

/// `[flags][virtio header][packet]`
pub(super) fn cut() -> Inputs {
    [
        ("tcp-v4", 1, virtio(TCP_V4, 40, 100, 20, 16), tcp(false, 450)),
        ("tcp-v6", 1, virtio(TCP_V6, 60, 100, 40, 16), tcp(true, 450)),
        ("udp-v4", 1, virtio(UDP_L4, 28, 100, 20, 6), udp(false, 450)),
        ("udp-v6", 1, virtio(UDP_L4, 48, 100, 40, 6), udp(true, 450)),
        ("tcp-all-flags", 1, virtio(TCP_V4 | ECN, 40, 100, 20, 16), flagged(tcp(false, 450))),
        ("tcp-one-segment", 1, virtio(TCP_V4, 40, 1000, 20, 16), tcp(false, 450)),
        ("tcp-no-payload", 1, virtio(TCP_V4, 40, 100, 20, 16), tcp(false, 0)),
        ("tcp-one-byte-segments", 1, virtio(TCP_V4, 40, 1, 20, 16), tcp(false, 70)),
        ("tcp-seed-as-it-comes", 0, virtio(TCP_V4, 40, 100, 20, 16), tcp(false, 450)),
        ("offsets-made-to-fit", 3, virtio(UDP_L4, 0, 100, 0, 0), tcp(true, 450)),
        ("v6-extension-header", 0, virtio(UDP_L4, 56, 100, 48, 6), extended()),
        ("single-partial-checksum", 1, virtio(0, 0, 0, 20, 16), tcp(false, 50)),
        ("single-plain", 0, virtio(0, 0, 0, 0, 0), udp(false, 50)),
        ("single-sum-of-zero-v4", 1, virtio(0, 0, 0, 20, 6), zero_sum(false)),
        ("single-sum-of-zero-v6", 1, virtio(0, 0, 0, 40, 6), zero_sum(true)),
        ("udp-sum-of-zero", 1, virtio(UDP_L4, 28, 100, 20, 6), zero_sum(false)),
        ("checksum-at-an-odd-place", 0, virtio(0, 0, 0, 21, 17), tcp(false, 50)),
        ("checksum-behind-the-end", 0, virtio(0, 0, 0, 80, 16), tcp(false, 50)),
        ("no-segment-size", 0, virtio(TCP_V4, 40, 0, 20, 16), tcp(false, 50)),
        ("family-contradicts", 0, virtio(TCP_V6, 40, 100, 20, 16), tcp(false, 450)),
        ("protocol-contradicts", 0, virtio(UDP_L4, 28, 100, 20, 6), tcp(false, 450)),
        ("ufo", 0, virtio(3, 28, 100, 20, 6), udp(false, 450)),
        ("tcp-data-offset-4", 0, virtio(TCP_V4, 40, 100, 20, 16), {
            let mut packet = tcp(false, 450);
            packet[32] = 0x40;
            packet
        }),
        ("shorter-than-it-says", 0, virtio(TCP_V4, 40, 100, 20, 16), tcp(false, 450)[..300].to_vec()),
        ("header-cut", 0, virtio(0, 0, 0, 0, 0)[..11].to_vec(), Vec::new()),
    ]
    .into_iter()
    .map(|(name, flags, header, packet)| (name.to_owned(), [&[flags][..], &header, &packet].concat()))
    .collect()
}

/// TCP and UDP are merged.
const BOTH: u8 = 3;
const V6: u8 = 8;
const UDP: u8 = 16;
const OPTIONS: u8 = 32;
const FLUSH: u8 = 7;
const WRITE: u8 = 7 | 1 << 3;

// Ways of a packet to differ.
const LEN: u8 = 1;
const LONG: u8 = 2;
const FLAGS: u8 = 4;
const CHANGED: u8 = 8;
const WRONG_CHECKSUM: u8 = 16;
const SAME_ID: u8 = 32;
const GAP: u8 = 64;

/// `count` packets of one flow.
fn packets(flow: u8, count: usize) -> Vec<u8> {
    [flow, 0].repeat(count)
}

/// `[flags][events]`
pub(super) fn merge() -> Inputs {
    let three = |flow: u8, middle: &[u8]| [&packets(flow, 1), middle, &packets(flow, 2)].concat();
    let interleaved: Vec<u8> = (0..6).flat_map(|_| [0, 0, V6, 0, UDP, 0, UDP | V6, 0]).collect();
    let many_flows: Vec<u8> = (0..4u8)
        .flat_map(|_| [0, 1, 2, 3].into_iter().flat_map(|f| [f, 0, f | V6, 0, f | UDP, 0, f | V6 | UDP, 0]))
        .collect();
    let fragment = [0, CHANGED, 1, 6, 0x60];
    [
        ("tcp-v4", packets(0, 20)),
        ("tcp-v6", packets(V6, 20)),
        ("udp-v4", packets(UDP, 20)),
        ("udp-v6", packets(UDP | V6, 20)),
        ("tcp-options", packets(OPTIONS, 20)),
        ("tcp-more-than-fit", packets(0, 130)),
        ("udp-more-than-fit", packets(UDP, 70)),
        ("tcp-longer-than-a-packet", [0, LEN | LONG, 200].repeat(45)),
        ("interleaved", interleaved),
        ("more-flows-than-places", many_flows),
        ("shorter-one-ends", three(0, &[0, LEN, 9])),
        ("longer-one", three(0, &[0, LEN, 90])),
        ("empty", three(0, &[0, LEN, 0])),
        ("push", three(0, &[0, FLAGS, 0x18])),
        ("syn", three(0, &[0, FLAGS, 0x02])),
        ("syn-all", [0, FLAGS, 0x12].repeat(4)),
        ("gap-v4", three(0, &[0, GAP])),
        ("gap-v6", three(V6, &[V6, GAP])),
        ("wrong-checksum", three(0, &[0, CHANGED | WRONG_CHECKSUM, 1, 60, 1])),
        ("udp-without-checksum", three(UDP, &[UDP, CHANGED | WRONG_CHECKSUM, 2, 26, 0xff, 27, 0xff])),
        ("constant-identification", [0, SAME_ID].repeat(5)),
        ("constant-identification-without-df", [0, SAME_ID | CHANGED, 1, 6, 0x40].repeat(5)),
        ("another-ttl", three(0, &[0, CHANGED, 1, 8, 3])),
        ("another-hop-limit", three(V6, &[V6, CHANGED, 1, 7, 3])),
        ("another-flow-label", three(V6, &[V6, CHANGED, 1, 3, 3])),
        ("fragment", three(0, &fragment)),
        ("flushed", three(0, &[FLUSH, WRITE])),
        (
            "stopped",
            [&packets(0, 3)[..], &[7 | 2 << 3], &packets(0, 3), &[7 | 3 << 3], &packets(UDP, 3)].concat(),
        ),
        ("any-packet", [&[6, 20][..], &packet::ip(own(false), own(false), 1, &[])].concat()),
    ]
    .into_iter()
    .map(|(name, events)| (name.to_owned(), [&[BOTH][..], &events].concat()))
    .collect()
}
