//! Two nodes and a wire that the test controls.

use super::*;
use crate::peer::{NoPath, UserReason};
use alloc::vec;
use x25519_dalek::PublicKey;

const SECOND: Duration = Duration::from_secs(1);

/// A node, its address, and what it has reported.
struct Host {
    node: Node,
    address: SocketAddr,
    reported: Vec<Output>,
}

/// Two hosts and what is on the wire between them.
struct World {
    now: Instant,
    hosts: [Host; 2],
    wire: VecDeque<(usize, SocketAddr, [u8; hello::LEN])>,
    delay: Duration,
    cut: bool,
}

fn key(index: u8) -> StaticSecret {
    StaticSecret::from([index + 1; 32])
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host + 1], 15000))
}

fn node(own: u8, other: u8, secret: &str, boot: u64, now: Instant) -> Node {
    let config = Config {
        private_key: key(own),
        network: NetworkKey::derive("test", secret.as_bytes()),
        peers: vec![PeerConfig {
            public_key: PublicKey::from(&key(other)).to_bytes(),
            endpoint: Some(address(other)),
        }],
        trusted: vec![("10.0.0.0".parse().unwrap(), 24)],
        boot,
        lease: Duration::from_secs(30),
    };
    let mut node = Node::new(&config, u64::from(own) + 77, now).unwrap();
    node.handle_command(Command::Underlay { peer: PeerId(0), reach: Some((address(own).ip(), 1464)) }, now);
    node
}

impl World {
    fn new() -> Self {
        Self::with_secrets("the very same secret", "the very same secret")
    }

    fn with_secrets(a: &str, b: &str) -> Self {
        let now = Instant::from_nanos(5);
        let host = |own: u8, other: u8, secret: &str| Host {
            node: node(own, other, secret, 1000, now),
            address: address(own),
            reported: Vec::new(),
        };
        Self {
            now,
            hosts: [host(0, 1, a), host(1, 0, b)],
            wire: VecDeque::new(),
            delay: Duration::from_micros(250),
            cut: false,
        }
    }

    fn command(&mut self, host: usize, command: Command) {
        self.hosts[host].node.handle_command(command, self.now);
        self.drain();
    }

    /// Kernel paths on at both ends.
    fn kernels_on(&mut self) {
        for host in 0..2 {
            self.command(host, Command::Kernel { port: 4790, send: true });
        }
    }

    fn drain(&mut self) {
        for host in &mut self.hosts {
            while let Some(output) = host.node.poll_output() {
                match output {
                    Output::Transmit { to, datagram } => {
                        let to = to.ip();
                        if let Some(at) = (0u8..2).find(|h| address(*h).ip() == to) {
                            self.wire.push_back((usize::from(at), host.address, datagram));
                        }
                    }
                    other => host.reported.push(other),
                }
            }
        }
    }

    /// Delivers everything on the wire, answers included; each flight takes `delay`.
    fn deliver(&mut self) {
        for _ in 0..100 {
            if self.wire.is_empty() {
                return;
            }
            self.now = self.now.after(self.delay);
            for (to, from, datagram) in core::mem::take(&mut self.wire) {
                if !self.cut {
                    let _ = self.hosts[to].node.handle_datagram(from, &datagram, self.now);
                }
            }
            self.drain();
        }
        panic!("the nodes answer each other for ever");
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            let next = self.hosts.iter().filter_map(|h| h.node.poll_timeout()).map(|(at, _)| at).min();
            self.now = next.unwrap_or(end).clamp(self.now, end);
            for host in 0..2 {
                self.hosts[host].node.handle_timeout(self.now);
            }
            self.drain();
            self.deliver();
            if next.is_none_or(|next| next >= end) {
                self.now = self.now.max(end);
            }
        }
    }

    fn path(&self, host: usize) -> Path {
        self.hosts[host].node.peer(PeerId(0)).unwrap().path
    }
}

#[test]
fn two_nodes_find_the_kernel_path() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    for host in 0..2 {
        let other = address(1 - host as u8);
        let endpoint = SocketAddr::new(other.ip(), 4790);
        assert_eq!(world.path(host), Path::Kernel { endpoint, mtu: 1464 });
        let rtt = world.hosts[host].node.peer(PeerId(0)).unwrap().rtt.unwrap();
        assert!(rtt.abs_diff(Duration::from_micros(500)) < Duration::from_micros(1), "{rtt:?}");
    }
}

#[test]
fn the_user_path_serves_where_one_kernel_path_is_off() {
    let mut world = World::new();
    world.command(0, Command::Kernel { port: 4790, send: true });
    world.pass(SECOND);
    let reason = |world: &World, host| match world.path(host) {
        Path::User { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(&world, 0), UserReason::OffThere);
    assert_eq!(reason(&world, 1), UserReason::OffHere);
}

#[test]
fn switching_the_kernel_path_off_is_heard_at_once() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    world.command(1, Command::Kernel { port: 0, send: false });
    world.deliver();
    assert!(matches!(world.path(0), Path::User { reason: UserReason::OffThere, .. }));
}

#[test]
fn a_silent_peer_is_given_up_after_its_lease_and_not_before() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    world.cut = true;
    world.pass(SECOND * 28);
    assert!(matches!(world.path(0), Path::Kernel { .. }), "{:?}", world.path(0));
    world.pass(SECOND * 4);
    assert_eq!(world.path(0), Path::None(NoPath::Silent));
    world.cut = false;
    world.pass(SECOND * 2);
    assert!(matches!(world.path(0), Path::Kernel { .. }));
}

#[test]
fn a_goodbye_ends_the_path_at_once() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    world.command(1, Command::Goodbye);
    world.deliver();
    assert_eq!(world.path(0), Path::None(NoPath::Silent));
}

#[test]
fn another_secret_gets_nothing() {
    let mut world = World::with_secrets("the very same secret", "not the same secret");
    world.kernels_on();
    world.pass(SECOND * 3);
    assert_eq!(world.path(0), Path::None(NoPath::NoAnswer));
    assert_eq!(world.path(1), Path::None(NoPath::NoAnswer));
}

#[test]
fn an_address_outside_the_trusted_prefixes_carries_no_clear_link() {
    let mut world = World::new();
    world.kernels_on();
    let elsewhere = "192.0.2.1".parse().unwrap();
    world.command(0, Command::Underlay { peer: PeerId(0), reach: Some((elsewhere, 1464)) });
    world.pass(SECOND);
    assert_eq!(world.path(0), Path::None(NoPath::SelfNotTrusted(elsewhere)));
}

#[test]
fn a_peer_outside_the_trusted_prefixes_gets_no_clear_link() {
    let mut world = World::new();
    let endpoint = Some("192.0.2.9:15000".parse().unwrap());
    world.command(1, Command::Endpoint { peer: PeerId(0), endpoint });
    let untrusted = NoPath::PeerNotTrusted("192.0.2.9".parse().unwrap());
    assert_eq!(world.path(1), Path::None(untrusted));
}

#[test]
fn a_peer_that_moves_is_followed() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    let moved: SocketAddr = "10.0.0.77:16000".parse().unwrap();
    world.hosts[1].address = moved;
    world.command(1, Command::Announce);
    // The first hello from the new address is answered there; the answer's echo proves it.
    world.deliver();
    let view = world.hosts[0].node.peer(PeerId(0)).unwrap();
    assert_eq!(view.endpoint, Some(moved));
    let roamed = Output::Roamed { peer: PeerId(0), endpoint: moved };
    assert!(world.hosts[0].reported.contains(&roamed));
}

#[test]
fn a_replayed_hello_changes_nothing() {
    let mut world = World::new();
    world.kernels_on();
    world.command(1, Command::Announce);
    let recorded: Vec<_> = world.wire.iter().filter(|(to, ..)| *to == 0).copied().collect();
    assert!(!recorded.is_empty());
    world.pass(SECOND * 2);
    let before = world.hosts[0].node.peer(PeerId(0)).unwrap().endpoint;
    let attacker = "10.0.0.66:15000".parse().unwrap();
    for (_, _, datagram) in recorded {
        let result = world.hosts[0].node.handle_datagram(attacker, &datagram, world.now);
        assert_eq!(result, Err(Refusal(Counter::RxStaleHello)));
    }
    assert_eq!(world.hosts[0].node.peer(PeerId(0)).unwrap().endpoint, before);
}

#[test]
fn a_hello_recorded_before_a_restart_moves_no_endpoint() {
    let mut world = World::new();
    world.kernels_on();
    world.command(1, Command::Announce);
    let (_, _, recorded) = *world.wire.iter().rfind(|(to, ..)| *to == 0).unwrap();
    world.pass(SECOND);
    world.hosts[0].node = node(0, 1, "the very same secret", 2000, world.now);
    let attacker: SocketAddr = "10.0.0.66:15000".parse().unwrap();
    world.hosts[0].node.handle_datagram(attacker, &recorded, world.now).unwrap();
    assert_ne!(world.hosts[0].node.peer(PeerId(0)).unwrap().endpoint, Some(attacker));
    assert_eq!(world.path(0), Path::None(NoPath::NoAnswer));
}

#[test]
fn a_peer_whose_clock_was_set_back_is_accepted_again() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    world.hosts[1].node = node(1, 0, "the very same secret", 10, world.now);
    world.command(1, Command::Kernel { port: 0, send: false });
    world.pass(SECOND * 3);
    assert!(matches!(world.path(0), Path::User { .. }), "{:?}", world.path(0));
}

#[test]
fn a_flood_of_hellos_is_bounded() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND);
    let mut refused = 0;
    for _ in 0..500 {
        world.hosts[1].node.handle_command(Command::Announce, world.now);
        while let Some(output) = world.hosts[1].node.poll_output() {
            if let Output::Transmit { datagram, .. } = output {
                let from = world.hosts[1].address;
                let result = world.hosts[0].node.handle_datagram(from, &datagram, world.now);
                refused += u32::from(result == Err(Refusal(Counter::RxHelloFlood)));
            }
        }
    }
    assert!(refused >= 440, "{refused}");
}

#[test]
fn a_ping_is_answered_with_its_round_trip() {
    let mut world = World::new();
    world.pass(SECOND);
    world.command(0, Command::Ping { peer: PeerId(0), id: 42 });
    world.deliver();
    let pong = Output::Pong { peer: PeerId(0), id: 42, rtt: Duration::from_micros(500) };
    assert!(world.hosts[0].reported.contains(&pong), "{:?}", world.hosts[0].reported);
}

#[test]
fn two_peers_with_one_key_are_refused() {
    let peer = PeerConfig { public_key: PublicKey::from(&key(5)).to_bytes(), endpoint: None };
    let config = Config {
        private_key: key(0),
        network: NetworkKey::derive("test", b"the very same secret"),
        peers: vec![peer.clone(), peer],
        trusted: vec![],
        boot: 1,
        lease: SECOND,
    };
    assert_eq!(Node::new(&config, 1, Instant::default()).unwrap_err(), (PeerId(0), PeerId(1)));
}

#[test]
fn prefixes_contain_what_they_should() {
    let cases = [
        ("10.0.0.0", 24, "10.0.0.255", true),
        ("10.0.0.0", 24, "10.0.1.0", false),
        ("0.0.0.0", 0, "203.0.113.9", true),
        ("::", 0, "203.0.113.9", false),
        ("::", 0, "2001:db8::1", true),
        ("fd00::", 8, "fdff::1", true),
        ("fd00::1", 128, "fd00::2", false),
        ("10.0.0.1", 32, "10.0.0.1", true),
    ];
    for (network, len, address, expected) in cases {
        let found = contains((network.parse().unwrap(), len), address.parse().unwrap());
        assert_eq!(found, expected, "{address} in {network}/{len}");
    }
}

proptest::proptest! {
    #[test]
    fn no_datagram_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
        let mut world = World::new();
        let _ = world.hosts[0].node.handle_datagram(address(1), &bytes, world.now);
    }
}
