//! Two nodes and a wire that the test controls. Sessions are the test's: what one says reaches the
//! other as if it had been sealed and opened.

mod admission;
mod detours;

use super::*;
use crate::address::NodeAddress;
use crate::peer::{NoPath, Security, UNANSWERED_INTERVAL, UserReason};
use alloc::vec;
use core::net::SocketAddr;
use ipop_common::gpe::LinkId;

const SECOND: Duration = Duration::from_secs(1);
const PEER: PeerId = PeerId(0);
/// First byte of the message in which a node says which addresses it has.
const STATEMENT: u8 = 6;

/// A node and what it has reported.
struct Host {
    node: Node,
    reported: Vec<Output>,
}

/// Two hosts and what is on the wire between them.
struct World {
    now: Instant,
    hosts: [Host; 2],
    wire: VecDeque<(usize, Vec<u8>)>,
    delay: Duration,
    cut: bool,
    /// Hellos are lost, all else is not.
    without_hellos: bool,
    said: usize,
    /// Of that, hellos, and statements of addresses.
    hellos: usize,
    statements: usize,
}

fn key(index: u8) -> [u8; 32] {
    [index + 1; 32]
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host + 1], 15000))
}

fn udp(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().unwrap().into()
}

fn node(own: u8, other: u8, boot: u64, now: Instant) -> Node {
    node_with(own, other, boot, false, now)
}

/// A node that is part of a ring, whose peer has been found by it, and which has an address.
fn member(own: u8, other: u8, boot: u64, now: Instant) -> Node {
    let mut node = node_with(own, other, boot, true, now);
    let mut drawn = own;
    let random = move |bytes: &mut [u8]| {
        for byte in bytes {
            drawn = drawn.wrapping_mul(5).wrapping_add(3);
            *byte = drawn;
        }
    };
    node.join(alloc::boxed::Box::new(random), now);
    node.set_addresses(vec![virtual_address(own)], 1, now);
    node
}

fn virtual_address(host: u8) -> IpAddr {
    IpAddr::from([10, 128, 0, host + 1])
}

fn node_with(own: u8, other: u8, boot: u64, is_found: bool, now: Instant) -> Node {
    let config = Config {
        public_key: key(own),
        network: NetworkKey::derive("test", b"the very same secret"),
        peers: vec![PeerConfig { public_key: key(other), endpoint: Some(address(other).into()), is_found }],
        trusted: vec![("10.0.0.0".parse().unwrap(), 24)],
        mtu_max: u16::MAX,
        boot,
        lease: Duration::from_secs(30),
    };
    let mut node = Node::new(&config, u64::from(own) + 77, now).unwrap();
    node.handle_command(Command::Underlay { peer: PEER, reach: Some((address(own).ip(), 1464)) }, now);
    node
}

fn link_id(own: u8, other: u8) -> LinkId {
    NetworkKey::derive("test", b"the very same secret").link_id(&key(own), &key(other))
}

impl World {
    /// No session yet.
    fn new() -> Self {
        let now = Instant::from_nanos(5);
        let host = |own: u8, other: u8| Host { node: node(own, other, 1000, now), reported: Vec::new() };
        Self {
            now,
            hosts: [host(0, 1), host(1, 0)],
            wire: VecDeque::new(),
            delay: Duration::from_micros(250),
            cut: false,
            without_hellos: false,
            said: 0,
            hellos: 0,
            statements: 0,
        }
    }

    /// With a session and a second to talk.
    fn linked() -> Self {
        let mut world = Self::new();
        world.kernels_on();
        world.sessions(1);
        world.pass(SECOND);
        world
    }

    /// Two members of a ring that have nothing to send to each other.
    fn of_idle_members() -> Self {
        let mut world = Self::new();
        for (own, other) in [(0, 1), (1, 0)] {
            world.hosts[usize::from(own)].node = member(own, other, 1000, world.now);
        }
        world.kernels_on();
        world.sessions(1);
        world.pass(SECOND * 100);
        assert!(world.hosts.iter().all(|host| host.node.is_idle(PEER)));
        (world.hellos, world.statements) = (0, 0);
        world
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

    fn sessions(&mut self, local_index: u32) {
        for host in 0..2 {
            self.command(host, Command::Session { peer: PEER, local_index: Some(local_index) });
        }
    }

    fn drain(&mut self) {
        for (index, host) in self.hosts.iter_mut().enumerate() {
            while let Some(output) = host.node.poll_output() {
                match output {
                    Output::Say { message, .. } => {
                        self.said += 1;
                        self.hellos += usize::from(message.first() == Some(&hello::TYPE));
                        self.statements += usize::from(message.first() == Some(&STATEMENT));
                        self.wire.push_back((1 - index, message));
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
            for (to, message) in core::mem::take(&mut self.wire) {
                let is_lost = self.without_hellos && message.first() == Some(&hello::TYPE);
                if !self.cut && !is_lost {
                    let _ = self.hosts[to].node.handle_message(PEER, &message, self.now);
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
        self.hosts[host].node.peer(PEER).unwrap().path
    }
}

#[test]
fn two_nodes_that_trust_the_wire_find_the_clear_kernel_path() {
    let world = World::linked();
    for host in 0..2u8 {
        let other = 1 - host;
        let endpoint = SocketAddr::new(address(other).ip(), 4790);
        let security = Security::Clear(link_id(other, host));
        assert_eq!(world.path(host.into()), Path::Kernel { endpoint, mtu: 1464, security });
        let view = world.hosts[usize::from(host)].node.peer(PEER).unwrap();
        assert_eq!((view.link_id, view.takes_clear), (link_id(host, other), true));
        let rtt = view.rtt.unwrap();
        assert!(rtt.abs_diff(Duration::from_micros(500)) < Duration::from_micros(1), "{rtt:?}");
    }
}

#[test]
fn there_is_no_path_and_no_word_without_a_session() {
    let mut world = World::new();
    world.kernels_on();
    world.pass(SECOND * 5);
    assert_eq!(world.path(0), Path::None(NoPath::NoAnswer));
    assert_eq!(world.said, 0);
    world.sessions(1);
    assert!(matches!(world.path(0), Path::Kernel { security: Security::Sealed, mtu: 1440, .. }));
}

#[test]
fn with_a_session_and_without_a_word_a_link_is_sealed() {
    let mut world = World::new();
    world.cut = true;
    world.kernels_on();
    world.sessions(1);
    world.pass(SECOND * 100);
    let endpoint = address(1);
    assert_eq!(world.path(0), Path::Kernel { endpoint, mtu: 1440, security: Security::Sealed });
    let often = world.said;
    assert!(often < 20, "{often} hellos to a peer that answers none");
    world.pass(UNANSWERED_INTERVAL * 2);
    assert!(world.said > often);
}

#[test]
fn over_ipv6_the_kernel_path_seals_for_nodes_with_a_kernel_path() {
    let mut world = World::new();
    world.kernels_on();
    for host in 0..2 {
        let endpoint = Some(udp("[2001:db8::9]:15000"));
        world.command(host, Command::Endpoint { peer: PEER, endpoint });
    }
    world.sessions(1);
    assert!(matches!(world.path(0), Path::User { reason: UserReason::OffThere, .. }));
    world.pass(SECOND);
    assert!(matches!(world.path(0), Path::Kernel { security: Security::Sealed, .. }));
}

#[test]
fn a_link_is_clear_only_if_both_ends_say_so() {
    for (host, endpoint) in [(0, "192.0.2.1"), (1, "192.0.2.1")] {
        let mut world = World::new();
        world.kernels_on();
        let elsewhere = endpoint.parse().unwrap();
        world.command(host, Command::Underlay { peer: PEER, reach: Some((elsewhere, 1464)) });
        world.sessions(1);
        world.pass(SECOND * 2);
        for host in 0..2 {
            let security = world.path(host).security();
            assert_eq!(security, Some(Security::Sealed));
        }
        // It becomes trusted.
        world.command(host, Command::Underlay { peer: PEER, reach: Some((address(host as u8).ip(), 1464)) });
        world.pass(SECOND * 2);
        assert!(matches!(world.path(0).security(), Some(Security::Clear(_))));
        assert!(matches!(world.path(1).security(), Some(Security::Clear(_))));
    }
}

#[test]
fn a_peer_outside_the_trusted_prefixes_is_not_told_a_link_id() {
    let mut world = World::new();
    let endpoint = Some(udp("192.0.2.9:15000"));
    world.command(1, Command::Endpoint { peer: PEER, endpoint });
    world.command(1, Command::Session { peer: PEER, local_index: Some(1) });
    world.command(1, Command::Announce);
    let (_, message) = world.wire.pop_back().unwrap();
    assert_eq!(Hello::parse(&message).unwrap().clear, None);
    assert!(!world.hosts[1].node.peer(PEER).unwrap().takes_clear);
}

#[test]
fn no_packet_is_larger_than_configured() {
    let mut world = World::linked();
    world.hosts[0].node.mtu_max = 1300;
    world.command(0, Command::Announce);
    world.pass(SECOND * 2);
    assert_eq!(world.path(0).mtu(), Some(1300));
    assert_eq!(world.path(1).mtu(), Some(1464));
}

#[test]
fn the_user_path_serves_where_one_kernel_path_is_off() {
    let mut world = World::new();
    world.command(0, Command::Kernel { port: 4790, send: true });
    world.sessions(1);
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
    let mut world = World::linked();
    world.command(1, Command::Kernel { port: 0, send: false });
    world.deliver();
    assert!(matches!(world.path(0), Path::User { reason: UserReason::OffThere, .. }));
}

#[test]
fn a_silent_peer_is_given_up_after_its_lease_and_not_before() {
    let mut world = World::linked();
    world.cut = true;
    world.pass(SECOND * 28);
    assert!(matches!(world.path(0), Path::Kernel { .. }), "{:?}", world.path(0));
    world.command(0, Command::Alive { peer: PEER });
    world.pass(SECOND * 28);
    assert!(matches!(world.path(0), Path::Kernel { .. }), "packets of its session say that it is there");
    world.pass(SECOND * 4);
    assert_eq!(world.path(0), Path::None(NoPath::Silent));
    world.cut = false;
    world.pass(SECOND * 2);
    assert!(matches!(world.path(0), Path::Kernel { .. }));
}

#[test]
fn a_goodbye_ends_the_path_at_once_and_a_new_session_brings_it_back() {
    let mut world = World::linked();
    world.command(1, Command::Goodbye);
    world.deliver();
    assert_eq!(world.path(0), Path::None(NoPath::Silent));
    world.command(0, Command::Session { peer: PEER, local_index: Some(2) });
    assert!(matches!(world.path(0), Path::Kernel { security: Security::Sealed, .. }));
}

#[test]
fn a_peer_that_moves_is_followed() {
    let mut world = World::linked();
    let moved: SocketAddr = "10.0.0.77:16000".parse().unwrap();
    world.command(0, Command::Endpoint { peer: PEER, endpoint: Some(moved.into()) });
    let endpoint = SocketAddr::new(moved.ip(), 4790);
    assert!(matches!(world.path(0), Path::Kernel { endpoint: at, .. } if at == endpoint));
}

#[test]
fn a_hello_that_is_not_newer_changes_nothing() {
    let mut world = World::linked();
    world.command(1, Command::Announce);
    let (_, old) = world.wire.pop_back().unwrap();
    world.command(1, Command::Kernel { port: 0, send: false });
    world.deliver();
    let before = world.path(0);
    let result = world.hosts[0].node.handle_message(PEER, &old, world.now);
    assert_eq!(result, Err(Refusal(Counter::RxStaleHello)));
    assert_eq!(world.path(0), before);
}

#[test]
fn in_a_new_session_a_peer_whose_clock_was_set_back_is_heard() {
    let mut world = World::linked();
    world.hosts[1].node = node(1, 0, 10, world.now);
    world.sessions(2);
    world.command(1, Command::Kernel { port: 0, send: false });
    world.pass(SECOND * 3);
    assert!(matches!(world.path(0), Path::User { .. }), "{:?}", world.path(0));
}

#[test]
fn a_session_that_follows_another_is_no_reason_to_say_the_same_again() {
    let mut world = World::of_idle_members();
    for local_index in [2, 2, 2, 3] {
        world.sessions(local_index);
        world.pass(SECOND);
    }
    assert_eq!(world.statements, 0);
    // Those of the time, and no others.
    assert!(world.hellos <= 2, "{} hellos", world.hellos);
}

#[test]
fn another_run_of_a_peer_is_told_the_addresses_and_says_that_it_knows_them() {
    let mut world = World::of_idle_members();
    world.hosts[1] = Host { node: member(1, 0, 2000, world.now), reported: Vec::new() };
    world.hosts[0].reported.clear();
    world.sessions(2);
    world.pass(SECOND * 3);
    for (host, of) in [(0, 1), (1, 0)] {
        let told = world.hosts[host].reported.iter().rev().find_map(|output| match output {
            Output::Addresses { addresses, knows_ours, .. } => Some((addresses.clone(), *knows_ours)),
            _ => None,
        });
        assert_eq!(told, Some((vec![virtual_address(of)], true)), "host {host}");
    }
}

/// What a node says of its addresses to its only peer.
fn statement(node: &mut Node) -> Option<Vec<u8>> {
    let mut said = None;
    while let Some(output) = node.poll_output() {
        match output {
            Output::Say { message, .. } if message.first() == Some(&STATEMENT) => said = Some(message),
            _ => {}
        }
    }
    said
}

#[test]
fn an_answer_that_crosses_another_statement_is_no_answer_to_it() {
    let mut world = World::of_idle_members();
    let now = world.now;
    let [first, second] = [20, 21].map(virtual_address);
    world.hosts[0].node.set_addresses(vec![first], 1, now);
    let said = statement(&mut world.hosts[0].node).expect("its addresses");
    world.hosts[1].node.handle_message(PEER, &said, now).expect("a statement");
    let answer = statement(&mut world.hosts[1].node).expect("an answer");
    // Before that comes, the node has other addresses, and its message about them is lost.
    world.hosts[0].node.set_addresses(vec![first, second], 1, now);
    let lost = statement(&mut world.hosts[0].node);
    assert!(lost.is_some());
    world.hosts[0].reported.clear();
    world.hosts[1].reported.clear();
    world.hosts[0].node.handle_message(PEER, &answer, now).expect("a statement");
    world.pass(crate::peer::IDLE_INTERVAL * 2);
    let told = world.hosts[1].reported.iter().rev().find_map(|output| match output {
        Output::Addresses { addresses, .. } => Some(addresses.clone()),
        _ => None,
    });
    assert_eq!(told, Some(vec![first, second]));
    let knows = world.hosts[0].reported.iter().rev().find_map(|output| match output {
        Output::Addresses { knows_ours, .. } => Some(*knows_ours),
        _ => None,
    });
    assert_eq!(knows, Some(true));
}

#[test]
fn idle_members_say_hello_without_being_asked_and_are_not_asked() {
    let mut world = World::of_idle_members();
    world.pass(crate::peer::IDLE_INTERVAL * 10);
    // Ten of each.
    assert!((16..=22).contains(&world.hellos), "{} hellos", world.hellos);
}

#[test]
fn a_member_is_there_as_long_as_the_ring_hears_of_it() {
    let mut world = World::of_idle_members();
    world.without_hellos = true;
    world.pass(SECOND * 300);
    assert!(matches!(world.path(0), Path::Kernel { .. }), "{:?}", world.path(0));
    world.cut = true;
    world.pass(SECOND * 100);
    assert_eq!(world.path(0), Path::None(NoPath::Silent));
}

#[test]
fn a_flood_of_hellos_is_bounded() {
    let mut world = World::linked();
    let mut refused = 0;
    for _ in 0..500 {
        world.hosts[1].node.handle_command(Command::Announce, world.now);
        while let Some(output) = world.hosts[1].node.poll_output() {
            if let Output::Say { message, .. } = output {
                let result = world.hosts[0].node.handle_message(PEER, &message, world.now);
                refused += u32::from(result == Err(Refusal(Counter::RxHelloFlood)));
            }
        }
    }
    assert!(refused >= 440, "{refused}");
}

#[test]
fn a_ping_is_answered_with_its_round_trip() {
    let mut world = World::linked();
    world.command(0, Command::Ping { peer: PEER, id: 42 });
    world.deliver();
    let pong = Output::Pong { peer: PEER, id: 42, rtt: Duration::from_micros(500) };
    assert!(world.hosts[0].reported.contains(&pong), "{:?}", world.hosts[0].reported);
}

#[test]
fn two_peers_with_one_key_are_refused() {
    let peer = PeerConfig { public_key: key(5), endpoint: None, is_found: false };
    let config = Config {
        public_key: key(0),
        network: NetworkKey::derive("test", b"the very same secret"),
        peers: vec![peer.clone(), peer],
        trusted: vec![],
        mtu_max: u16::MAX,
        boot: 1,
        lease: SECOND,
    };
    let refused = (PeerId(1), AddPeerError::KeyTaken(PeerId(0)));
    assert_eq!(Node::new(&config, 1, Instant::default()).unwrap_err(), refused);
}

/// Another peer, whose key follows from `number`.
fn another(number: u32) -> PeerConfig {
    let mut public_key = [0xee; 32];
    public_key[..4].copy_from_slice(&number.to_be_bytes());
    PeerConfig { public_key, endpoint: Some(udp("10.0.0.9:15000")), is_found: false }
}

/// What a node says and reports now, and of which peers.
fn drained(node: &mut Node) -> Vec<Output> {
    core::iter::from_fn(|| node.poll_output()).collect()
}

#[test]
fn a_peer_has_the_lowest_free_number() {
    let mut node = node(0, 1, 1, Instant::default());
    let now = Instant::default();
    let ids: Vec<_> = (0..3).map(|number| node.add_peer(&another(number), now).unwrap().0).collect();
    assert_eq!(ids, [1, 2, 3]);
    node.remove_peer(PeerId(2));
    node.remove_peer(PeerId(0));
    node.remove_peer(PeerId(7));
    assert_eq!(node.add_peer(&another(2), now), Err(AddPeerError::KeyTaken(PeerId(3))));
    assert_eq!(node.add_peer(&another(7), now), Ok(PeerId(0)));
    assert_eq!(node.add_peer(&another(1), now), Ok(PeerId(2)), "it may come again");
    assert_eq!(node.peer_of_key(&another(1).public_key), Some(PeerId(2)));
    assert_eq!(node.peer_of_key(&key(1)), None);
    node.remove_peer(PeerId(3));
    assert!(node.peer(PeerId(3)).is_none());
    assert_eq!(node.add_peer(&another(8), now), Ok(PeerId(3)));
}

#[test]
fn there_are_no_more_peers_than_links() {
    let mut node = node(0, 1, 1, Instant::default());
    let mut added = 1;
    let refused = (0..).find_map(|number| match node.add_peer(&another(number), Instant::default()) {
        Ok(_) => {
            added += 1;
            None
        }
        // One in four thousand keys derives a link id that is taken.
        Err(AddPeerError::LinkIdTaken(_)) => None,
        Err(error) => Some(error),
    });
    assert_eq!((refused, added), (Some(AddPeerError::TooMany), LINKS_MAX));
    node.remove_peer(PeerId(77));
    let next = (10_000..).find_map(|number| node.add_peer(&another(number), Instant::default()).ok());
    assert_eq!(next, Some(PeerId(77)));
}

#[test]
fn of_a_peer_that_was_removed_nothing_is_left_and_the_others_stay() {
    let mut world = World::linked();
    let now = world.now;
    let node = &mut world.hosts[0].node;
    let id = node.add_peer(&another(1), now).unwrap();
    let later = node.add_peer(&another(2), now).unwrap();
    for peer in [id, later] {
        node.handle_command(
            Command::Underlay { peer, reach: Some(("10.0.0.1".parse().unwrap(), 1464)) },
            now,
        );
        node.handle_command(Command::Session { peer, local_index: Some(8) }, now);
    }
    node.handle_command(Command::Ping { peer: id, id: 5 }, now);
    node.remove_peer(id);
    assert!(drained(node).iter().all(|output| output.peer() == Some(later)));
    node.handle_command(Command::Session { peer: id, local_index: Some(9) }, now);
    assert_eq!(node.handle_message(id, &[1; 64], now), Err(Refusal(Counter::RxBadHello)));
    world.pass(3 * SECOND);
    assert!(matches!(world.path(0), Path::Kernel { .. }));
    let node = &mut world.hosts[0].node;
    assert!(matches!(node.peer(later).unwrap().path, Path::Kernel { .. }));
    node.remove_peer(later);
    node.remove_peer(PEER);
    assert_eq!(node.poll_timeout(), None);
}

#[test]
fn what_is_trusted_can_change() {
    let mut world = World::linked();
    assert!(matches!(world.path(0), Path::Kernel { security: Security::Clear(_), .. }));
    let now = world.now;
    world.hosts[0].node.reconfigure(Vec::new(), 1300, now);
    world.drain();
    assert!(matches!(world.path(0), Path::Kernel { security: Security::Sealed, mtu: 1300, .. }));
    world.deliver();
    assert!(matches!(world.path(1), Path::Kernel { security: Security::Sealed, .. }), "the peer was told");
}

#[test]
fn a_peer_on_the_overlay_has_a_path_there_when_there_is_a_session() {
    let mut world = World::new();
    world.kernels_on();
    for host in 0..2 {
        let endpoint = Some(NodeAddress([host as u8; 20]).into());
        world.command(host, Command::Endpoint { peer: PEER, endpoint });
        assert_eq!(world.path(host), Path::None(NoPath::NoAnswer));
    }
    world.sessions(1);
    world.pass(SECOND);
    for host in 0..2 {
        let path = Path::Overlay { to: NodeAddress([host as u8; 20]), mtu: 1280 };
        assert_eq!((world.path(host), path.security()), (path, Some(Security::Sealed)));
        assert!(!world.hosts[host].node.peer(PEER).unwrap().takes_clear);
    }
    // Found by UDP, it is on the kernel path as soon as it is known how this host gets there.
    world.command(0, Command::Endpoint { peer: PEER, endpoint: Some(address(1).into()) });
    assert_eq!(world.path(0), Path::None(NoPath::NoRoute));
    world.command(0, Command::Underlay { peer: PEER, reach: Some((address(0).ip(), 1464)) });
    assert!(matches!(world.path(0), Path::Kernel { .. }));
    world.cut = true;
    world.pass(60 * SECOND);
    assert_eq!(world.path(1), Path::None(NoPath::Silent));
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
    fn no_message_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
        let mut world = World::linked();
        let _ = world.hosts[0].node.handle_message(PEER, &bytes, world.now);
    }
}
