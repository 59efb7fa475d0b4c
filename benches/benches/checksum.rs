//! The Internet checksum: of headers, of payloads, and updated for one word.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipop_common::checksum;

/// IPv4 header; ICMP quote.
const HEADERS: [usize; 2] = [20, 128];
/// A small packet, a full one, a super-packet.
const PAYLOADS: [usize; 3] = [64, 1400, 65_495];

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8).collect()
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in HEADERS {
        let bytes = bytes(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("header", len), |bencher| {
            bencher.iter(|| checksum::finish(checksum::sum(black_box(&bytes))));
        });
    }
    for len in PAYLOADS {
        let bytes = bytes(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("payload", len), |bencher| {
            bencher.iter(|| checksum::sum_long(black_box(&bytes)));
        });
    }
    group.finish();
}

fn update(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    group.bench_function("update one word", |bencher| {
        bencher.iter(|| checksum::update(black_box(0xdd2f), black_box(0x5555), black_box(0x3285)));
    });
    group.finish();
}

criterion_group! { name = benches; config = ipop_benches::short(); targets = sums, update }
criterion_main!(benches);
