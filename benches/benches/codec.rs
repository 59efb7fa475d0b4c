//! Writing and reading the wire formats: clear header, outer headers, hello.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ipop_benches::node::Outer;
use ipop_common::Family;
use ipop_common::encapsulation::{V4_LEN, V6_LEN, write_v4, write_v6};
use ipop_common::gpe::{Header, LinkId, NextProtocol};
use ipop_common::hello::Hello;

fn link_id() -> LinkId {
    LinkId::new(0x12_3456).expect("a link id")
}

fn clear(criterion: &mut Criterion) {
    let header = Header { link_id: link_id(), next_protocol: NextProtocol::Ipv6 };
    let bytes = header.to_bytes();
    let mut group = criterion.benchmark_group("clear header");
    group.bench_function("write", |bencher| bencher.iter(|| black_box(header).to_bytes()));
    group.bench_function("read", |bencher| bencher.iter(|| Header::parse(black_box(&bytes[..]), 0)));
    group.finish();
}

/// Per packet: the link's template, completed.
fn outer(criterion: &mut Criterion) {
    let [v4, v6] = Outer::BOTH.map(|outer| outer.peer().link());
    let mut group = criterion.benchmark_group("outer headers");
    group.bench_function("write v4", |bencher| {
        let mut out = [0; V4_LEN];
        bencher.iter(|| {
            write_v4(black_box(&mut out), black_box(&v4), Family::V4, black_box(1400), 0xc123);
        });
    });
    group.bench_function("write v6", |bencher| {
        let mut out = [0; V6_LEN];
        bencher.iter(|| {
            write_v6(black_box(&mut out), black_box(&v6), Family::V6, black_box(1400), 0xc123);
        });
    });
    group.finish();
}

fn hello(criterion: &mut Criterion) {
    let hello = Hello {
        clear: Some(link_id()),
        boot: 1,
        sent_ns: 2,
        echo_boot: 3,
        echo_sent_ns: 4,
        echo_delay_ns: 5,
        kernel_port: 4790,
        lease_s: 30,
        mtu: 1464,
        answer: true,
    };
    let message = hello.to_bytes();

    let mut group = criterion.benchmark_group("hello");
    group.bench_function("write", |bencher| bencher.iter(|| black_box(&hello).to_bytes()));
    group.bench_function("read", |bencher| bencher.iter(|| Hello::parse(black_box(&message[..]))));
    group.finish();
}

criterion_group! { name = benches; config = ipop_benches::short(); targets = clear, outer, hello }
criterion_main!(benches);
