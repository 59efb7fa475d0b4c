//! Relays, and what others say of where this node is: what a node does for others, what it believes them, and
//! what a member that does not keep to the rules gets out of it.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::super::limits::{LINK_PATIENCE, RELAY_LIFE, RELAYED_FOR_ONE_MAX};
use super::super::wire::{
    AskRelay, AskSeen, Connect, ENDPOINTS_MAX, Kind, Mode, Places, Relay, RelayStatus, Roles, Seen,
};
use super::super::{Count, Output};
use super::nodes::{HOSTILE, Victim, header, key, node};
use crate::endpoint::Endpoint;

/// What a node wants done after a message, and the answers to it.
fn hear(victim: &mut Victim, from: usize, message: &[u8]) -> (Vec<Output>, Vec<Relay>) {
    victim.ring.handle_message(node(from), message, victim.now);
    drain(victim)
}

fn drain(victim: &mut Victim) -> (Vec<Output>, Vec<Relay>) {
    let all: Vec<Output> = core::iter::from_fn(|| victim.ring.poll_output()).collect();
    let answer = |output: &Output| match output {
        Output::Send { message, .. } => Relay::parse(message),
        _ => None,
    };
    let answers = all.iter().filter_map(answer).collect();
    (all, answers)
}

fn ask(victim: &mut Victim, from: usize, to: usize) -> (Vec<Output>, Relay) {
    let (outputs, answers) = hear(victim, from, &AskRelay { to: node(to) }.to_bytes());
    assert_eq!(answers.len(), 1, "one answer");
    (outputs, answers[0])
}

fn relayed(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Relay { .. })).count()
}

fn ended(outputs: &[Output], label: u32) -> bool {
    outputs.contains(&Output::Unrelay { label })
}

#[test]
fn a_pair_has_one_label_until_nobody_asks_for_it() {
    let mut victim = Victim::new();
    let (outputs, first) = ask(&mut victim, 1, 2);
    assert_eq!((first.status, first.to), (RelayStatus::Granted, node(2)));
    assert!(outputs.contains(&Output::Relay { label: first.label, ends: [node(1), node(2)] }));
    let (outputs, again) = ask(&mut victim, 1, 2);
    assert_eq!((again.label, relayed(&outputs)), (first.label, 0));
    let (_, other) = ask(&mut victim, 3, 2);
    assert_ne!(other.label, first.label);
    victim.now = victim.now.after(RELAY_LIFE / 2);
    ask(&mut victim, 3, 2);
    victim.now = victim.now.after(RELAY_LIFE / 2);
    victim.ring.handle_timeout(victim.now);
    let (outputs, _) = drain(&mut victim);
    assert!(ended(&outputs, first.label) && !ended(&outputs, other.label), "{outputs:?}");
}

#[test]
fn who_is_not_directly_connected_is_not_relayed_to() {
    let mut victim = Victim::new();
    for to in [99, HOSTILE, 0] {
        let (outputs, answer) = ask(&mut victim, HOSTILE, to);
        assert_eq!((answer.status, relayed(&outputs)), (RelayStatus::NoConnection, 0));
    }
    victim.ring.relayed(node(2), node(3), victim.now);
    let (outputs, answer) = ask(&mut victim, HOSTILE, 2);
    assert_eq!((answer.status, relayed(&outputs)), (RelayStatus::NoConnection, 0), "a relay behind a relay");
    victim.ring.set_relaying(false);
    let (outputs, answer) = ask(&mut victim, HOSTILE, 1);
    assert_eq!((answer.status, relayed(&outputs)), (RelayStatus::NotByThis, 0));
    assert_eq!(victim.count(Count::RelayRefused), 5);
}

#[test]
fn what_is_passed_on_ends_with_either_end_and_with_the_operators_will() {
    for lost in [1, 2] {
        let mut victim = Victim::new();
        let (_, answer) = ask(&mut victim, 1, 2);
        victim.ring.disconnected(node(lost), victim.now);
        assert!(ended(&drain(&mut victim).0, answer.label));
    }
    let mut victim = Victim::new();
    let (_, answer) = ask(&mut victim, 1, 2);
    victim.ring.set_relaying(false);
    assert!(ended(&drain(&mut victim).0, answer.label));
}

#[test]
fn one_member_has_its_share_of_pairs_and_no_more() {
    let mut victim = Victim::new();
    let others = 100..100 + 2 * RELAYED_FOR_ONE_MAX;
    for index in others.clone() {
        victim.ring.connected(key(index), Endpoint::Udp(([10, 0, 0, 1], 1).into()), victim.now);
    }
    drain(&mut victim);
    let granted = others.filter(|to| ask(&mut victim, HOSTILE, *to).1.status == RelayStatus::Granted).count();
    assert_eq!(granted, RELAYED_FOR_ONE_MAX);
    assert_eq!(ask(&mut victim, 1, 2).1.status, RelayStatus::Granted, "there is room for others");
}

#[test]
fn grants_that_nobody_asked_for_are_refused() {
    let mut victim = Victim::new();
    let grant = Relay { status: RelayStatus::Granted, label: 7, to: node(2), rtt_us: 0, mtu: 0 };
    let (outputs, _) = hear(&mut victim, HOSTILE, &grant.to_bytes());
    assert_eq!((outputs, victim.count(Count::Unexpected)), (vec![], 1));
}

#[test]
fn where_a_node_is_seen_is_told_once_and_when_it_moves() {
    let mut victim = Victim::new();
    let told = |outputs: &[Output]| -> Vec<Seen> {
        let seen = |output: &Output| match output {
            Output::Send { message, .. } => Seen::parse(message),
            _ => None,
        };
        outputs.iter().filter_map(seen).collect()
    };
    let (outputs, _) = hear(&mut victim, 1, &AskSeen.to_bytes());
    assert_eq!(told(&outputs), [Seen(([10, 0, 0, 1], 1).into())]);
    for (port, count) in [(1, 0), (2, 1), (2, 0)] {
        victim.ring.moved(node(1), ([10, 0, 0, 1], port).into(), victim.now);
        assert_eq!(told(&drain(&mut victim).0).len(), count, "port {port}");
    }
    victim.ring.moved(node(2), ([10, 0, 0, 1], 9).into(), victim.now);
    assert_eq!(told(&drain(&mut victim).0), [], "who has not asked");
}

#[test]
fn places_that_cannot_be_are_not_believed() {
    let mut victim = Victim::new();
    victim.ring.set_endpoints(vec![([10, 0, 0, 7], 15_000).into()]);
    for (ip, port) in [([0, 0, 0, 0], 7), ([224, 0, 0, 1], 7), ([192, 0, 2, 1], 0)] {
        hear(&mut victim, HOSTILE, &Seen((ip, port).into()).to_bytes());
    }
    assert_eq!((victim.ring.places().len(), victim.count(Count::BadMessage)), (1, 3));
    hear(&mut victim, HOSTILE, &Seen(([192, 0, 2, 1], 53).into()).to_bytes());
    assert_eq!(victim.ring.places().len(), 2, "one liar has one place");
}

/// A member that names somebody else's places as its own has few messages sent there.
#[test]
fn of_a_request_follow_few_messages_to_the_places_that_it_names() {
    let mut victim = Victim::new();
    let places: Vec<_> = (0..ENDPOINTS_MAX as u16).map(|port| ([192, 0, 2, 1], 1000 + port).into()).collect();
    let connect = Connect {
        answers: false,
        wants_relays: false,
        role: Roles::DEMAND,
        token: 1,
        public_key: key(77),
        answer_via: None,
        places: Places { own: places, turned: Vec::new() },
        neighbours: Vec::new(),
        relays: Vec::new(),
    };
    let message = header(Mode::Exact, Kind::Connect, node(77), node(0)).write(&connect.to_bytes());
    let (mut outputs, _) = hear(&mut victim, HOSTILE, &message);
    let end = victim.now.after(LINK_PATIENCE * 2);
    while let Some(at) = victim.ring.poll_timeout().filter(|at| *at <= end) {
        victim.now = at;
        victim.ring.handle_timeout(at);
        outputs.extend(drain(&mut victim).0);
    }
    let of_it =
        |output: &&Output| matches!(output, Output::Link { public_key, .. } if *public_key == key(77));
    let links: Vec<&Output> = outputs.iter().filter(of_it).collect();
    assert_eq!(links.len(), 4, "once and three times more");
    let named: BTreeSet<Endpoint> = links
        .iter()
        .flat_map(|link| match link {
            Output::Link { places, .. } => places.clone(),
            _ => Vec::new(),
        })
        .collect();
    assert!(named.len() <= ENDPOINTS_MAX);
}

/// What is sent at once for a node that is looked for in vain, round by round.
fn rounds(victim: &mut Victim, of: usize) -> Vec<Vec<Endpoint>> {
    let (mut outputs, end) = (drain(victim).0, victim.now.after(LINK_PATIENCE));
    while let Some(at) = victim.ring.poll_timeout().filter(|at| *at <= end) {
        victim.now = at;
        victim.ring.handle_timeout(at);
        outputs.extend(drain(victim).0);
    }
    let of_it = |output: Output| match output {
        Output::Link { public_key, places } if public_key == key(of) => Some(places),
        _ => None,
    };
    outputs.into_iter().filter_map(of_it).collect()
}

fn connect_of(member: usize, turned: &[SocketAddr]) -> Vec<u8> {
    let connect = Connect {
        answers: false,
        wants_relays: false,
        role: Roles::DEMAND,
        token: 1,
        public_key: key(member),
        answer_via: None,
        places: Places { own: vec![([192, 0, 2, 9], 15_000).into()], turned: turned.to_vec() },
        neighbours: Vec::new(),
        relays: Vec::new(),
    };
    header(Mode::Exact, Kind::Connect, node(member), node(0)).write(&connect.to_bytes())
}

#[test]
fn turn_servers_are_tried_when_it_does_not_go_directly() {
    let (own, turned): (SocketAddr, SocketAddr) =
        (([192, 0, 2, 9], 15_000).into(), ([203, 0, 113, 5], 49_152).into());
    for (is_theirs, way) in [(true, Endpoint::Udp(turned)), (false, Endpoint::Turn(own))] {
        let mut victim = Victim::new();
        victim.ring.set_turned(if is_theirs { Vec::new() } else { vec![turned] });
        let of_it = if is_theirs { vec![turned] } else { Vec::new() };
        hear(&mut victim, HOSTILE, &connect_of(77, &of_it));
        let rounds = rounds(&mut victim, 77);
        let direct = [Endpoint::Udp(own)];
        assert_eq!(rounds.len(), 4);
        assert_eq!((&rounds[0][..], &rounds[1][..]), (&direct[..], &direct[..]), "not at first");
        for later in &rounds[2..] {
            assert_eq!(later[..], [way, Endpoint::Udp(own)]);
        }
    }
}

#[test]
fn a_node_at_its_turn_server_is_looked_for_directly_until_it_is_found() {
    let mut victim = Victim::new();
    let (turned, direct): (SocketAddr, SocketAddr) =
        (([203, 0, 113, 5], 49_152).into(), ([192, 0, 2, 9], 15_000).into());
    victim.ring.connected(key(77), turned.into(), victim.now);
    assert_eq!(victim.ring.upgrade_at(node(77)), None, "it has not said so yet");
    hear(&mut victim, HOSTILE, &connect_of(77, &[turned]));
    assert!(victim.ring.is_turned(node(77)) && victim.ring.upgrade_at(node(77)).is_some());
    victim.ring.moved(node(77), direct, victim.now);
    assert!(!victim.ring.is_turned(node(77)));
    assert_eq!(victim.ring.upgrade_at(node(77)), None);
    victim.ring.moved(node(77), turned, victim.now);
    assert!(victim.ring.upgrade_at(node(77)).is_some(), "it is known since");
    hear(&mut victim, HOSTILE, &connect_of(77, &[turned]));
    assert!(!rounds(&mut victim, 77).is_empty(), "both sides have to send");
}

/// A NAT that forgets within a silence is kept awake; where nothing was silent, another port says nothing about that.
#[test]
fn silences_become_as_short_as_a_nat_forgets() {
    let due = |victim: &Victim| victim.ring.poll_timeout().expect("the other is asked").since(victim.now);
    let mut victim = Victim::new();
    let see = |victim: &mut Victim, after: Duration, port: u16| {
        victim.now = victim.now.after(after);
        hear(victim, HOSTILE, &[2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        hear(victim, HOSTILE, &Seen(([192, 0, 2, 1], port).into()).to_bytes());
    };
    see(&mut victim, Duration::from_millis(10), 1000);
    see(&mut victim, Duration::from_secs(1), 1001);
    assert_eq!(victim.count(Count::MappingExpired), 0, "in no silence");
    see(&mut victim, Duration::from_secs(9), 1001);
    assert_eq!(victim.count(Count::MappingExpired), 0, "not forgotten");
    see(&mut victim, Duration::from_secs(9), 1002);
    assert_eq!(victim.count(Count::MappingExpired), 1);
    assert!(due(&victim) <= Duration::from_secs(6));
    // The same again does not make it shorter, and it never becomes very short.
    see(&mut victim, Duration::from_secs(9), 1003);
    assert_eq!(victim.count(Count::MappingExpired), 1);
    for port in 1004..1010 {
        see(&mut victim, Duration::from_secs(3), port);
    }
    assert_eq!(victim.count(Count::MappingExpired), 2);
    // Elsewhere it is as it was.
    victim.ring.set_endpoints(vec![([10, 9, 9, 9], 15_000).into()]);
    see(&mut victim, Duration::from_secs(9), 1010);
    assert_eq!(victim.count(Count::MappingExpired), 3, "it is found out anew");
}
