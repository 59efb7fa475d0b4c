//! Small rings of whole nodes, driven by hand: what one sends the other takes in at once.

use core::net::IpAddr;
use core::time::Duration;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::super::limits::{CREDIT, LINK_PATIENCE, LINK_YIELD, LINKS_MAX, REQUESTS_MAX};
use super::super::wire::{
    Beat, CloseReason, Connect, Echo, EchoKind, Header, Kind, Mode, Neighbours, Places, Roles, Survey,
    SurveyAsk,
};
use super::super::{Count, End, Group, Output, Page, Ring};
use crate::address::NodeAddress;
use crate::dht::{Event, SigningKey};
use crate::endpoint::Endpoint;
use crate::time::Instant;

pub(super) fn signer(index: usize) -> SigningKey {
    SigningKey::new(&[index as u8 + 1; 32].into())
}

pub(super) fn key(index: usize) -> [u8; 32] {
    signer(index).public_key()
}

/// UNIX time in seconds when these tests begin.
pub(super) const WALL: u64 = 1_800_000_000;

pub(super) fn node(index: usize) -> NodeAddress {
    NodeAddress::of_key(&key(index))
}

/// A node that draws the same numbers each time.
fn ring(index: usize, now: Instant) -> Ring {
    let mut state = index as u64 + 1;
    let random = move |bytes: &mut [u8]| {
        for byte in bytes {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
    };
    let mut ring = Ring::new(key(index), Box::new(random), now);
    ring.set_signing_key(std::sync::Arc::new(signer(index)));
    ring.set_clock(WALL * 1000 + now.as_nanos() / 1_000_000, now);
    ring
}

/// Nodes on a network that loses nothing and takes no time. Whoever is up is reached at once.
pub(super) struct Few {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Option<Ring>>,
    echoed: Vec<(u64, u16)>,
    carried: Vec<(NodeAddress, Vec<u8>)>,
    pub(super) traced: Vec<(u64, NodeAddress, u16, End)>,
    pub(super) surveyed: Vec<(u64, NodeAddress, Page)>,
    /// Who has heard a text for all, of whom, and the text.
    pub(super) told: Vec<(usize, NodeAddress, Vec<u8>)>,
    /// Which member has got a frame, of whom, for which group, and the frame.
    pub(super) multicast: Vec<(usize, [u8; 32], Group, Vec<u8>)>,
    /// By whom, which address, and whose it is.
    pub(super) found: Vec<(usize, IpAddr, Option<[u8; 32]>)>,
    pub(super) taken: Vec<(usize, IpAddr, [u8; 32])>,
    pub(super) dht: Vec<(usize, Event)>,
}

impl Few {
    fn new(count: usize) -> Self {
        let now = Instant::default();
        let nodes = (0..count).map(|index| Some(ring(index, now))).collect();
        Self {
            now,
            nodes,
            echoed: Vec::new(),
            carried: Vec::new(),
            traced: Vec::new(),
            surveyed: Vec::new(),
            told: Vec::new(),
            multicast: Vec::new(),
            found: Vec::new(),
            taken: Vec::new(),
            dht: Vec::new(),
        }
    }

    /// All know the first.
    pub(super) fn joined(count: usize) -> Self {
        let mut few = Self::new(count);
        for index in 1..count {
            few.know(index, 0);
        }
        few.run(Duration::from_secs(40));
        few
    }

    fn know(&mut self, index: usize, other: usize) {
        let now = self.now;
        self.with(index, |ring| ring.add_contact(key(other), vec![([10, 0, 0, 1], 1).into()], true, now));
    }

    /// Starts a node that is down; it knows another.
    pub(super) fn start(&mut self, index: usize, other: usize) {
        self.nodes[index] = Some(ring(index, self.now));
        self.know(index, other);
    }

    pub(super) fn with<T>(&mut self, index: usize, act: impl FnOnce(&mut Ring) -> T) -> T {
        let result = act(self.nodes[index].as_mut().expect("a node that is up"));
        self.settle();
        result
    }

    pub(super) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.nodes[a].as_ref().is_some_and(|ring| ring.is_connected(node(b)))
    }

    pub(super) fn index_of(&self, address: NodeAddress) -> Option<usize> {
        (0..self.nodes.len()).find(|index| node(*index) == address && self.nodes[*index].is_some())
    }

    fn settle(&mut self) {
        let now = self.now;
        for round in 0.. {
            assert!(round < 10_000, "they never fall silent");
            let mut is_quiet = true;
            for index in 0..self.nodes.len() {
                while let Some(output) = self.nodes[index].as_mut().and_then(Ring::poll_output) {
                    is_quiet = false;
                    self.act(index, output, now);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn act(&mut self, index: usize, output: Output, now: Instant) {
        match output {
            Output::Send { to, message } => {
                if let Some(ring) = self.index_of(to).and_then(|to| self.nodes[to].as_mut()) {
                    ring.handle_message(node(index), &message, now);
                }
            }
            Output::Link { public_key, .. } => {
                let Some(other) = self.index_of(NodeAddress::of_key(&public_key)) else { return };
                for (end, other) in [(index, other), (other, index)] {
                    if let Some(ring) = &mut self.nodes[end] {
                        ring.connected(key(other), Endpoint::Udp(([10, 0, 0, 1], 1).into()), now);
                    }
                }
            }
            Output::Unlink { .. } | Output::Move { .. } | Output::Relay { .. } | Output::Unrelay { .. } => {}
            Output::Carried { from, datagram } => self.carried.push((from, datagram)),
            Output::Echoed { token, hops, .. } => self.echoed.push((token, hops)),
            Output::Traced { token, from, hops, end, .. } => self.traced.push((token, from, hops, end)),
            Output::Surveyed { token, from, page, .. } => self.surveyed.push((token, from, page)),
            Output::Broadcast { from, text } => self.told.push((index, from, text)),
            Output::Multicast { origin, group, frame } => self.multicast.push((index, origin, group, frame)),
            Output::Found { address, public_key } => self.found.push((index, address, public_key)),
            Output::Taken { address, by } => self.taken.push((index, address, by)),
            Output::Dht(event) => self.dht.push((index, event)),
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        let due = |few: &Self| few.nodes.iter().flatten().filter_map(Ring::poll_timeout).min();
        while let Some(at) = due(self).filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let now = self.now;
            for ring in self.nodes.iter_mut().flatten() {
                if ring.poll_timeout().is_some_and(|at| at <= now) {
                    ring.handle_timeout(now);
                }
            }
            self.settle();
        }
        self.now = end;
    }
}

#[test]
fn two_nodes_are_each_other_s_neighbours() {
    let few = Few::joined(2);
    for (index, other) in [(0, 1), (1, 0)] {
        let ring = few.nodes[index].as_ref().expect("it is up");
        assert_eq!(ring.nearest(), [vec![node(other)], vec![node(other)]]);
        let edge = ring.edges().next().expect("a connection");
        assert!(edge.mine.contains(Roles::NEAR) && edge.theirs.contains(Roles::NEAR), "{edge:?}");
        assert_eq!(ring.log2_size(), 256);
    }
}

#[test]
fn ten_nodes_make_a_ring_on_which_all_reach_all() {
    let mut few = Few::joined(10);
    let mut sorted: Vec<_> = (0..10).map(node).collect();
    sorted.sort_unstable();
    for (at, own) in sorted.iter().enumerate() {
        let ring = few.nodes[few.index_of(*own).expect("it is up")].as_ref().expect("it is up");
        let up = vec![sorted[(at + 1) % 10], sorted[(at + 2) % 10]];
        let down = vec![sorted[(at + 9) % 10], sorted[(at + 8) % 10]];
        assert_eq!(ring.nearest(), [up, down]);
    }
    for a in 0..10 {
        for b in (0..10).filter(|b| *b != a) {
            let now = few.now;
            few.with(a, |ring| ring.echo(node(b), (a * 10 + b) as u64, now));
        }
    }
    let tokens: BTreeSet<u64> = few.echoed.iter().map(|(token, _)| *token).collect();
    assert_eq!(tokens.len(), 90);
    assert!(few.echoed.iter().all(|(_, hops)| (1..=5).contains(hops)), "{:?}", few.echoed);
}

#[test]
fn traffic_makes_a_connection_and_its_end_ends_it() {
    let mut few = Few::joined(16);
    few.run(Duration::from_secs(120));
    let (a, b) = (0..16)
        .flat_map(|a| (0..16).map(move |b| (a, b)))
        .find(|(a, b)| a != b && !few.is_connected(*a, *b))
        .expect("two that are not connected");
    for count in 0u8..4 {
        let now = few.now;
        few.with(a, |ring| ring.carry(node(b), &[4, count], now));
    }
    assert!(few.is_connected(a, b) && few.is_connected(b, a));
    assert_eq!(few.carried, (0..4).map(|count| (node(a), vec![4, count])).collect::<Vec<_>>());
    few.run(Duration::from_secs(170));
    assert!(few.is_connected(a, b));
    few.run(Duration::from_secs(60));
    assert!(!few.is_connected(a, b) && !few.is_connected(b, a));
}

#[test]
fn who_leaves_is_gone_at_once_and_who_dies_within_twenty_seconds() {
    let mut few = Few::joined(6);
    few.with(5, Ring::leave);
    few.nodes[5] = None;
    assert!((0..5).all(|index| !few.is_connected(index, 5)));
    few.nodes[4] = None;
    few.run(Duration::from_secs(20));
    for ring in few.nodes.iter().flatten() {
        let edges: Vec<_> = ring.edges().filter(|edge| edge.address == node(4)).collect();
        assert!(edges.is_empty(), "{edges:#?}");
    }
}

#[test]
fn a_configured_way_in_that_leaves_and_comes_back_is_found_again() {
    for says_so in [true, false] {
        let mut few = Few::joined(2);
        if says_so {
            few.with(0, Ring::leave);
        }
        few.nodes[0] = None;
        few.run(Duration::from_secs(30));
        assert!(!few.is_connected(1, 0));
        // Started again, it knows nobody: the other has to come.
        few.nodes[0] = Some(ring(0, few.now));
        few.run(Duration::from_secs(60));
        assert!(few.is_connected(1, 0) && few.is_connected(0, 1), "it said that it leaves: {says_so}");
    }
}

/// A node with honest neighbours and a member that does not keep to the rules.
pub(super) struct Victim {
    pub(super) ring: Ring,
    pub(super) now: Instant,
}

/// The member's index; those of the neighbours are below.
pub(super) const HOSTILE: usize = 5;

impl Victim {
    pub(super) fn new() -> Self {
        let now = Instant::default();
        let mut victim = Self { ring: ring(0, now), now };
        for index in 1..=HOSTILE {
            victim.ring.connected(key(index), Endpoint::Udp(([10, 0, 0, 1], 1).into()), now);
            victim.hear(index, &beat(Roles::NEAR));
        }
        victim
    }

    /// The bytes of the answers.
    pub(super) fn hear(&mut self, from: usize, message: &[u8]) -> usize {
        self.ring.handle_message(node(from), message, self.now);
        let mut len = 0;
        while let Some(output) = self.ring.poll_output() {
            if let Output::Send { message, .. } = output {
                len += message.len();
            }
        }
        len
    }

    pub(super) fn count(&self, count: Count) -> u64 {
        self.ring.counts().get(count)
    }
}

fn beat(roles: Roles) -> Vec<u8> {
    Beat { wants_answer: false, answers: false, is_open: false, roles, stamp: 0, echo: 0, digest: 0 }
        .to_bytes()
}

pub(super) fn header(mode: Mode, kind: Kind, source: NodeAddress, destination: NodeAddress) -> Header {
    Header { mode, hops: 0, hops_max: 4096, kind, went_uphill: false, source, destination, via: None }
}

fn request(index: usize) -> Vec<u8> {
    let connect = Connect {
        answers: false,
        wants_relays: false,
        role: Roles::DEMAND,
        token: 1,
        public_key: key(index),
        answer_via: None,
        places: Places { own: vec![([192, 0, 2, 1], 1).into()], turned: Vec::new() },
        neighbours: Vec::new(),
        relays: Vec::new(),
    };
    header(Mode::Exact, Kind::Connect, node(index), node(0)).write(&connect.to_bytes())
}

#[test]
fn a_member_has_no_more_sent_than_it_sends_and_is_credited() {
    let echo = Echo { kind: EchoKind::Asks, hops: 0, token: 7 }.to_bytes();
    let trace = Echo { kind: EchoKind::Traces, hops: 0, token: 7 }.to_bytes();
    let survey = Survey::Asks(SurveyAsk { page: 0, token: 7 }).to_bytes();
    let ask = Beat {
        wants_answer: true,
        answers: false,
        is_open: false,
        roles: Roles::NEAR,
        stamp: 1,
        echo: 0,
        digest: 0,
    };
    for message in [
        // Small, and answered with a list of neighbours.
        request(HOSTILE),
        header(Mode::Exact, Kind::Echo, node(99), node(0)).write(&echo),
        Header { hops_max: 1, ..header(Mode::Exact, Kind::Echo, node(99), node(98)) }.write(&trace),
        header(Mode::Exact, Kind::Survey, node(99), node(0)).write(&survey),
        ask.to_bytes(),
    ] {
        let mut victim = Victim::new();
        let (mut came, mut sent) = (0, 0);
        for _ in 0..2000 {
            came += message.len();
            sent += victim.hear(HOSTILE, &message);
        }
        assert!(sent <= came + CREDIT as usize, "{sent} for {came}");
    }
}

#[test]
fn nobody_speaks_for_another() {
    let mut victim = Victim::new();
    let Some((header, payload)) =
        Header::parse(&request(9)).map(|(header, payload)| (header, payload.to_vec()))
    else {
        panic!("a message of ours");
    };
    let forged = Header { source: node(8), ..header }.write(&payload);
    assert_eq!(victim.hear(HOSTILE, &forged), 0);
    assert_eq!(victim.count(Count::KeyMismatch), 1);
    let looped = Header { source: node(0), ..header }.write(&payload);
    assert_eq!(victim.hear(HOSTILE, &looped), 0);
    assert_eq!(victim.count(Count::Looped), 1);
}

#[test]
fn requests_of_others_leave_room_for_the_node_s_own() {
    let mut victim = Victim::new();
    for index in 10..10 + 2 * LINKS_MAX {
        victim.hear(HOSTILE, &request(index));
    }
    let sizes: Vec<_> = victim.ring.sizes().filter(|size| size.table == "connections under way").collect();
    assert!(sizes[0].len <= sizes[0].most);
    let contact = key(250);
    victim.ring.add_contact(contact, vec![([192, 0, 2, 9], 1).into()], true, victim.now);
    victim.now = victim.now.after(Duration::from_secs(6));
    victim.ring.handle_timeout(victim.now);
    let mut links = core::iter::from_fn(|| victim.ring.poll_output());
    assert!(links.any(|output| matches!(output, Output::Link { public_key, .. } if public_key == contact)));
}

#[test]
fn calls_that_others_wish_for_are_on_their_account() {
    let mut victim = Victim::new();
    let (mut came, mut calls) = (0, 0);
    for index in 10..250 {
        let message = request(index);
        came += message.len() as u64;
        victim.hear(HOSTILE, &message);
        for wait in [LINK_YIELD, LINK_PATIENCE] {
            victim.now = victim.now.after(wait);
            victim.ring.handle_timeout(victim.now);
            while let Some(output) = victim.ring.poll_output() {
                let wished = key(index);
                let is_call = matches!(output, Output::Link { public_key, .. } if public_key == wished);
                calls += u64::from(is_call);
            }
        }
        let beat = beat(Roles::NEAR);
        came += beat.len() as u64;
        victim.hear(HOSTILE, &beat);
    }
    let called = calls * 3 * 148;
    let refused = victim.count(Count::NoCredit);
    assert!(refused > 0 && calls > 0 && called <= came + u64::from(CREDIT), "{called} for {came}, {refused}");
}

#[test]
fn lies_about_the_neighbourhood_fill_no_table() {
    let mut victim = Victim::new();
    let mut sent = 0;
    for round in 0u8..=255 {
        let mut close = node(0);
        close.0[15] ^= round;
        close.0[16] = round;
        let list = Neighbours {
            wants_answer: true,
            log2_size: u16::MAX,
            coordinates: super::super::Coordinates::default(),
            error: 0,
            addresses: vec![close; 8],
        };
        sent += victim.hear(HOSTILE, &list.to_bytes());
        assert!(victim.ring.sizes().all(|size| size.len <= size.most));
        assert!(victim.ring.poll_timeout().is_some());
    }
    // Requests have a number, each has a length, and so have answers.
    assert!(sent < 256 * 180 + REQUESTS_MAX * 300 + CREDIT as usize, "{sent}");
}

#[test]
fn a_close_ends_the_connection_and_what_comes_later_is_refused() {
    for reason in [CloseReason::Leaving, CloseReason::Unused, CloseReason::Full] {
        let mut victim = Victim::new();
        victim.hear(HOSTILE, &reason.to_bytes());
        assert!(!victim.ring.is_connected(node(HOSTILE)));
        assert_eq!(victim.hear(HOSTILE, &beat(Roles::NEAR)), 0);
        assert_eq!(victim.count(Count::NoConnection), 1);
    }
}

#[test]
fn who_has_lost_everybody_does_not_wait_for_a_way_in_that_was_put_off() {
    let mut victim = Victim::new();
    let way_in = key(1);
    victim.ring.add_contact(way_in, vec![([192, 0, 2, 9], 1).into()], true, victim.now);
    // It has no room, for ten minutes at least.
    victim.hear(1, &CloseReason::Full.to_bytes());
    for index in 2..=HOSTILE {
        victim.ring.disconnected(node(index), victim.now);
    }
    let end = victim.now.after(Duration::from_secs(50));
    let mut is_tried = false;
    while let Some(at) = victim.ring.poll_timeout().filter(|at| *at <= end) {
        victim.ring.handle_timeout(at);
        let links = core::iter::from_fn(|| victim.ring.poll_output());
        is_tried |= links
            .into_iter()
            .any(|output| matches!(output, Output::Link { public_key, .. } if public_key == way_in));
    }
    assert!(is_tried);
}

#[test]
fn what_cannot_be_read_is_counted() {
    let mut victim = Victim::new();
    for message in [&[][..], &[0; 64], &[1; 64], &[2], &[6; 20], &[0xff; 1500]] {
        assert_eq!(victim.hear(HOSTILE, message), 0);
    }
    assert_eq!(victim.count(Count::BadMessage), 6);
}
