//! The decision about a packet, compiled for the host. The kernel's programs make the same ones (see
//! `programs`) with hash maps for tables; here they are looked up in `BTreeMap`s of two peers, so
//! that parsing and checking is what is measured.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ipop_benches::node::{self, LENGTHS, Outer};
use ipop_common::egress::{self, PacketMeta};
use ipop_common::ingress::{self, FrameMeta, Verdict};
use ipop_common::inner::Inner;
use ipop_common::{Address, Counter, Family};

/// Any time at which leases run.
const NOW_NS: u64 = 1_000_000;

fn frame(criterion: &mut Criterion) {
    let world = node::world();
    let mut group = criterion.benchmark_group("frame");
    for outer in Outer::BOTH {
        let ours = node::incoming(outer, LENGTHS[0], true);
        let mut unknown = ours.clone();
        let link_id_at = if outer == Outer::V4 { 46 } else { 66 };
        unknown[link_id_at] ^= 1;
        for (name, frame) in [
            ("hit", ours),
            ("unknown link", unknown),
            ("another port", node::incoming(outer, LENGTHS[0], false)),
            ("tcp", node::unrelated(outer, LENGTHS[0])),
        ] {
            let meta = FrameMeta { len: frame.len() as u32, gso: false };
            let verdict = ingress::frame(&frame[..], meta, &world, NOW_NS);
            let is_meant = match name {
                "hit" => matches!(verdict, Verdict::Deliver(_)),
                "unknown link" => verdict == Verdict::Refuse(Counter::RxUnknownLink),
                _ => verdict == Verdict::NotOurs,
            };
            assert!(is_meant, "{} {name}: {verdict:?}", outer.name());
            group.bench_function(format!("{} {name}", outer.name()), |bencher| {
                bencher.iter(|| ingress::frame(black_box(&frame[..]), black_box(meta), &world, NOW_NS));
            });
        }
    }
    group.finish();
}

fn packet(criterion: &mut Criterion) {
    let world = node::world();
    let mut group = criterion.benchmark_group("packet");
    for outer in Outer::BOTH {
        let family = if outer == Outer::V4 { Family::V4 } else { Family::V6 };
        for (name, packet) in [
            ("hit", node::outgoing(outer, LENGTHS[0], true)),
            ("miss", node::outgoing(outer, LENGTHS[0], false)),
            ("too big", node::outgoing(outer, 1500, true)),
        ] {
            let meta = PacketMeta { len: packet.len() as u32, gso_size: 0 };
            let verdict = egress::packet(&packet[..], family, meta, &world, NOW_NS);
            let is_meant = match name {
                "hit" => matches!(verdict, egress::Verdict::Encapsulate { .. }),
                "miss" => verdict == egress::Verdict::Miss(Counter::TxNoRoute),
                _ => matches!(verdict, egress::Verdict::TooBig { .. }),
            };
            assert!(is_meant, "{} {name}: {verdict:?}", outer.name());
            group.bench_function(format!("{} {name}", outer.name()), |bencher| {
                bencher
                    .iter(|| egress::packet(black_box(&packet[..]), family, black_box(meta), &world, NOW_NS));
            });
        }
    }
    group.finish();
}

/// What the user path asks about each datagram of a run of its own.
fn datagram(criterion: &mut Criterion) {
    let world = node::world();
    let mut group = criterion.benchmark_group("datagram");
    for outer in Outer::BOTH {
        let udp_payload_at = if outer == Outer::V4 { 42 } else { 62 };
        let datagram = node::incoming(outer, LENGTHS[0], true)[udp_payload_at..].to_vec();
        let from = Address::from(outer.peer().remote);
        let len = datagram.len() as u16;
        let decide = |datagram: &[u8]| {
            let clear = ingress::clear(datagram, 0, len)?;
            ingress::admit(&world, &clear, from, NOW_NS).map(|admitted| admitted.slot)
        };
        assert_eq!(decide(&datagram), Ok(outer.peer().slot));
        group.bench_function(format!("{} hit", outer.name()), |bencher| {
            bencher.iter(|| decide(black_box(&datagram)));
        });
        let inner = datagram[8..].to_vec();
        group.bench_function(format!("{} inner header", outer.name()), |bencher| {
            bencher.iter(|| Inner::parse_any(black_box(&inner[..]), 0));
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = ipop_benches::short(); targets = frame, packet, datagram }
criterion_main!(benches);
