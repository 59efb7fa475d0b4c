//! Pools, and a client by itself: its node is all of its network. Whole networks are tested in `ipop-sim`.

use std::boxed::Box;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::pool::*;
use super::*;
use crate::dht::SigningKey;
use crate::keys::NetworkKey;
use crate::node::{self, PeerConfig};

fn pool(text: &str, len: u8) -> Pool {
    Pool::new(text.parse().expect("an address"), len, 600, Vec::new()).expect("a pool")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A node that is alone, and what it is told.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) key: [u8; 32],
    pub(crate) now: Instant,
}

/// UNIX time in seconds when a [`Host`] is made.
pub(crate) const WALL: u64 = 1_800_000_000;

impl Host {
    pub(crate) fn new() -> Self {
        let now = Instant::default();
        let signer = SigningKey::new(&[7; 32].into());
        let key = signer.public_key();
        let config = node::Config {
            public_key: key,
            network: NetworkKey::derive("test", b"secret"),
            peers: Vec::<PeerConfig>::new(),
            trusted: Vec::new(),
            mtu_max: 1400,
            boot: 0,
            lease: Duration::from_secs(30),
        };
        let mut node = Node::new(&config, 1, now).expect("a node without peers");
        let mut state = 1u64;
        node.set_signing_key(signer);
        node.join(
            Box::new(move |bytes: &mut [u8]| {
                for byte in bytes {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = (state >> 56) as u8;
                }
            }),
            now,
        );
        node.set_clock(WALL * 1000, now);
        Self { node, key, now }
    }

    fn run(&mut self, client: &mut Client, span: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.drive(span, |node, event, now| {
            match event {
                Some(event) => drop(client.handle_event(event, node, now)),
                None => client.handle_timeout(node, now),
            }
            outputs.extend(core::iter::from_fn(|| client.poll_output()));
            client.poll_timeout()
        });
        outputs
    }

    /// Lets time pass: `user` is told what has become of something in the DHT, and what time it is, and says when it
    /// wants to be told again.
    pub(crate) fn drive(
        &mut self,
        span: Duration,
        mut user: impl FnMut(&mut Node, Option<&Event>, Instant) -> Option<Instant>,
    ) {
        let end = self.now.after(span);
        loop {
            let mut wanted = user(&mut self.node, None, self.now);
            while let Some(output) = self.node.poll_output() {
                if let node::Output::Dht(event) = output {
                    wanted = user(&mut self.node, Some(&event), self.now);
                }
            }
            let node_at = self.node.poll_timeout().map(|(at, _)| at);
            let next = [node_at, wanted].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
        }
        self.now = end;
    }

    fn client(&self, pool: Option<Pool>, wanted: Option<IpAddr>) -> Client {
        let config =
            Config { namespace: "test".to_string(), pool, wanted, preferred: None, host: "host".to_string() };
        Client::new(config, self.key, self.now)
    }
}

#[test]
fn a_node_gets_an_address_and_the_same_when_it_starts_again() {
    let mut host = Host::new();
    let mut client = host.client(Some(pool("10.1.0.0", 16)), None);
    let outputs = host.run(&mut client, Duration::from_secs(5));
    let [Output::Bound { address, prefix_len: 16 }] = outputs[..] else { panic!("{outputs:?}") };
    // Renewals are nobody's business.
    assert_eq!(host.run(&mut client, Duration::from_secs(3000)), []);
    let mut again = host.client(Some(pool("10.1.0.0", 16)), None);
    assert_eq!(host.run(&mut again, Duration::from_secs(5)), [Output::Bound { address, prefix_len: 16 }]);
}

#[test]
fn the_address_of_before_is_tried_first() {
    for (text, is_kept) in [("10.1.0.77", true), ("10.9.0.77", false)] {
        let mut host = Host::new();
        let mut client = host.client(Some(pool("10.1.0.0", 24)), None);
        client.config.preferred = Some(ip(text));
        host.run(&mut client, Duration::from_secs(5));
        let address = client.address().expect("an address");
        assert_eq!(address == ip(text), is_kept, "{address}");
    }
}

#[test]
fn who_is_told_nothing_takes_what_the_network_has() {
    let mut host = Host::new();
    let mut client = host.client(None, None);
    let outputs = host.run(&mut client, Duration::from_secs(3));
    assert!(
        outputs.iter().all(|output| *output == Output::Failed(Error::NoNamespace)) && !outputs.is_empty()
    );
    let described = pool("fd00::", 64);
    host.node.dht_create(b"dhcp:test", &described.to_bytes(), 6000, true, host.now).expect("a description");
    let outputs = host.run(&mut client, Duration::from_secs(70));
    assert!(matches!(outputs.last(), Some(Output::Bound { prefix_len: 64, .. })), "{outputs:?}");
    assert!(client.address().is_some_and(|address| described.contains(address)));
}

#[test]
fn a_network_that_is_described_otherwise_counts() {
    let mut host = Host::new();
    let described = pool("10.2.0.0", 24);
    host.node.dht_create(b"dhcp:test", &described.to_bytes(), 6000, true, host.now).expect("a description");
    let mut client = host.client(Some(pool("10.1.0.0", 16)), None);
    host.run(&mut client, Duration::from_secs(5));
    assert!(client.address().is_some_and(|address| described.contains(address)), "{client:?}");
}

#[test]
fn a_reserved_address_is_its_nodes_and_nobody_elses() {
    let mut host = Host::new();
    let own = NodeAddress::of_key(&host.key);
    let other = NodeAddress([2; 20]);
    let reserve = |reserved| Pool::new(ip("10.1.0.0"), 30, 600, reserved).expect("a pool");
    let mut client = host.client(Some(reserve(vec![(ip("10.1.0.2"), own)])), None);
    host.run(&mut client, Duration::from_secs(5));
    assert_eq!(client.address(), Some(ip("10.1.0.2")));
    let mut host = Host::new();
    let all = reserve(vec![(ip("10.1.0.1"), other), (ip("10.1.0.2"), other)]);
    let mut client = host.client(Some(all.clone()), None);
    let outputs = host.run(&mut client, Duration::from_secs(3));
    assert!(outputs.contains(&Output::Failed(Error::Exhausted)), "{outputs:?}");
    for wanted in ["10.1.0.1", "10.9.9.9"] {
        let mut host = Host::new();
        let mut client = host.client(Some(all.clone()), Some(ip(wanted)));
        let outputs = host.run(&mut client, Duration::from_secs(3));
        assert!(outputs.contains(&Output::Failed(Error::NotInPool)), "{outputs:?}");
    }
}

#[test]
fn an_address_that_is_given_back_is_free() {
    let mut host = Host::new();
    let mut client = host.client(Some(pool("10.1.0.0", 24)), Some(ip("10.1.0.9")));
    host.run(&mut client, Duration::from_secs(5));
    assert_eq!(client.address(), Some(ip("10.1.0.9")));
    client.release(&mut host.node, host.now);
    host.run(&mut client, Duration::from_secs(5));
    assert_eq!(client.address(), None);
    let request = host.node.dht_get(b"dhcp:test:10.1.0.9", Kind::Create, host.now).expect("a request");
    let events: Vec<node::Output> = core::iter::from_fn(|| host.node.poll_output()).collect();
    let is_free = |output: &node::Output| match output {
        node::Output::Dht(Event::Got { request: of, records, .. }) => *of == request && records.is_empty(),
        _ => false,
    };
    assert!(events.iter().any(is_free), "{events:?}");
}

#[test]
fn pools_that_make_no_sense_are_refused() {
    let new = |text: &str, len, lease, reserved| Pool::new(ip(text), len, lease, reserved);
    assert_eq!(new("10.0.0.0", 32, 600, Vec::new()), Err(PoolError::Prefix));
    assert_eq!(new("10.0.0.0", 200, 600, Vec::new()), Err(PoolError::Prefix));
    assert_eq!(new("fd00::", 128, 600, Vec::new()), Err(PoolError::Prefix));
    assert_eq!(new("10.0.0.0", 8, 59, Vec::new()), Err(PoolError::Lease));
    assert_eq!(new("10.0.0.0", 8, 86_401, Vec::new()), Err(PoolError::Lease));
    let node = NodeAddress([2; 20]);
    assert_eq!(new("10.0.0.0", 24, 600, vec![(ip("10.0.1.1"), node)]), Err(PoolError::Reserved));
    assert_eq!(new("10.0.0.0", 24, 600, vec![(ip("10.0.0.1"), node); 2]), Err(PoolError::Reserved));
    let many = (0..=RESERVED_MAX as u32).map(|n| (IpAddr::V4((0x0a00_0001 + n).into()), node)).collect();
    assert_eq!(new("10.0.0.0", 8, 600, many), Err(PoolError::Reserved));
}

#[test]
fn each_host_of_a_pool_is_tried_once() {
    for (text, len, hosts) in
        [("10.0.0.0", 24, 254), ("10.0.0.0", 31, 2), ("10.0.0.0", 30, 2), ("fd00::", 124, 15)]
    {
        let pool = pool(text, len);
        assert_eq!(pool.size(), hosts);
        for key in [[1; 32], [2; 32]] {
            let all: BTreeSet<IpAddr> = (0..hosts).filter_map(|tried| pool.candidate(&key, tried)).collect();
            assert_eq!(all.len() as u64, hosts, "{text}/{len}");
            assert!(all.iter().all(|address| pool.contains(*address)));
            assert_eq!(pool.candidate(&key, hosts), None);
        }
    }
    assert!(
        !pool("10.0.0.0", 24).contains(ip("10.0.0.0")) && !pool("10.0.0.0", 24).contains(ip("10.0.0.255"))
    );
    assert!(!pool("10.0.0.0", 24).contains(ip("fd00::1")));
}

#[test]
fn an_address_that_nobody_is_asked_for_follows_from_the_key() {
    let network = "fd00:1:2:3::".parse().expect("a network");
    let [a, b] = [[1; 32], [2; 32]].map(|key| stateless(network, &key));
    assert_ne!(a, b);
    assert!(a.to_string().starts_with("fd00:1:2:3:"));
    assert_eq!(a, stateless(network, &[1; 32]));
}

#[test]
fn a_network_beside_the_pool_has_64_bits_and_no_leases() {
    let of = |text: &str, len, beside: &str, bits| {
        pool(text, len).with_stateless(beside.parse().expect("a network"), bits)
    };
    let good = of("10.0.0.0", 8, "fd00:1::", 64).expect("a pool");
    assert_eq!(Pool::parse(&good.to_bytes()), Some(good.clone()));
    assert_eq!(
        good.stateless_of(&[1; 32]),
        Some(stateless("fd00:1::".parse().expect("a network"), &[1; 32]))
    );
    for (text, len, beside, bits) in [
        ("10.0.0.0", 8, "fd00:1::", 48),
        ("10.0.0.0", 8, "fd00:1::1", 64),
        ("fd00::", 16, "fd00:1::", 64),
        ("fd00:1::", 112, "fd00:1::", 64),
    ] {
        assert_eq!(of(text, len, beside, bits), Err(PoolError::Stateless), "{text}/{len} {beside}/{bits}");
    }
    assert!(of("fd00:2::", 112, "fd00:1::", 64).is_ok());
}

proptest! {
    #[test]
    fn a_pool_is_read_as_it_was_written(bits in any::<u32>(), len in 0..31u8, lease in 60..86_400u32, count in 0..20u32) {
        let bare = Pool::new(IpAddr::V4(bits.into()), len, lease, Vec::new()).expect("a pool");
        let own = |n: u32| (bare.candidate(&[3; 32], u64::from(n)).expect("a host"), NodeAddress([2 * n as u8; 20]));
        let count = count.min(u32::try_from(bare.size()).unwrap_or(u32::MAX));
        let pool = Pool::new(bare.network(), len, lease, (0..count).map(own).collect()).expect("a pool");
        let bytes = pool.to_bytes();
        prop_assert_eq!(Pool::parse(&bytes), Some(pool));
        for len in 0..bytes.len() {
            prop_assert_eq!(Pool::parse(&bytes[..len]), None);
        }
    }

    #[test]
    fn anything_that_is_a_pool_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Some(pool) = Pool::parse(&bytes) {
            prop_assert_eq!(pool.to_bytes(), bytes);
        }
    }
}
