//! Writing and reading the wire formats: clear header, outer headers, hello.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ipop_benches::node::Outer;
use ipop_common::Family;
use ipop_common::encapsulation::{V4_LEN, V6_LEN, write_v4, write_v6};
use ipop_common::gpe::{Header, LinkId, NextProtocol};
use ipop_common::hello::{BODY_LEN, Hello, TAG_LEN};
use ipop_overlay::{LinkKeys, NetworkKey};
use x25519_dalek::{PublicKey, StaticSecret};

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
        link_id: link_id(),
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
    let network = NetworkKey::derive("bench", b"sixteen letters or more");
    let [own, peer] = [1, 2].map(|byte| StaticSecret::from([byte; 32]));
    let keys = LinkKeys::derive(&network, &own, PublicKey::from(&peer).as_bytes());
    let far_keys = LinkKeys::derive(&network, &peer, PublicKey::from(&own).as_bytes());
    let body = hello.to_bytes();
    let tag = keys.tag(&body);
    let mut datagram = [0; BODY_LEN + TAG_LEN];
    datagram[..BODY_LEN].copy_from_slice(&body);
    datagram[BODY_LEN..].copy_from_slice(&tag);
    assert!(far_keys.verify(&body, &tag));

    let mut group = criterion.benchmark_group("hello");
    group.bench_function("write", |bencher| bencher.iter(|| black_box(&hello).to_bytes()));
    group.bench_function("read", |bencher| bencher.iter(|| Hello::parse(black_box(&datagram[..]))));
    group.bench_function("tag", |bencher| bencher.iter(|| keys.tag(black_box(&body))));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| far_keys.verify(black_box(&body), black_box(&tag)));
    });
    group.finish();
}

criterion_group! { name = benches; config = ipop_benches::short(); targets = clear, outer, hello }
criterion_main!(benches);
