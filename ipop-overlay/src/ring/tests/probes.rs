//! Echoes, traces and surveys: what a node is told, and what it does for those who ask.

use core::time::Duration;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::super::limits::HANDSHAKE_REPEATED;
use super::super::wire::{
    Coordinates, Echo, EchoKind, Header, Kind, Mode, Roles, Survey, SurveyAnswer, SurveyAsk,
};
use super::super::{Count, End, Outlook, Output};
use super::nodes::{Few, HOSTILE, Victim, header, node};
use crate::address::NodeAddress;

/// A ring, and two of its nodes between which there is no connection.
fn apart() -> (Few, usize, usize) {
    let mut few = Few::joined(16);
    few.run(Duration::from_secs(120));
    let count = few.nodes.len();
    let mut pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    let pair = pairs.find(|(a, b)| a != b && !few.is_connected(*a, *b));
    let (a, b) = pair.expect("two that are not connected");
    (few, a, b)
}

fn trace(few: &mut Few, from: usize, to: NodeAddress, hops: u16) -> Option<(NodeAddress, u16, End)> {
    let now = few.now;
    few.with(from, |ring| ring.trace(to, u64::from(hops), hops, now));
    let found = few.traced.iter().position(|(token, ..)| *token == u64::from(hops))?;
    let (_, at, hops, end) = few.traced.remove(found);
    Some((at, hops, end))
}

#[test]
fn a_trace_names_each_node_on_the_way() {
    let (mut few, a, b) = apart();
    let mut way = vec![node(a)];
    for hops in 1.. {
        let (at, told, end) = trace(&mut few, a, node(b), hops).expect("an answer");
        assert_eq!(told, hops);
        let last = few.index_of(*way.last().expect("a node")).expect("it is up");
        assert!(few.is_connected(last, few.index_of(at).expect("it is up")), "{at} is not next");
        way.push(at);
        if end == End::Arrived {
            break;
        }
        assert_eq!(end, End::UsedUp);
    }
    assert_eq!(way.last(), Some(&node(b)));
    assert!(way.len() > 2, "{way:?}");
    let ring = few.nodes[a].as_ref().expect("it is up");
    assert_eq!(ring.next_hop(node(b)), Some(way[1]));
}

/// What others carry to a node goes on by them when there is a connection to it, and so does the echo
/// behind it.
#[test]
fn what_is_carried_goes_around_a_new_connection() {
    let mut ring = Victim::new();
    let first = |ring: &mut Victim| match ring.ring.poll_output() {
        Some(Output::Send { to, .. }) => to,
        other => panic!("{other:?}"),
    };
    let now = ring.now;
    while ring.ring.poll_output().is_some() {}
    ring.ring.carry(node(2), &[1, 0, 0, 0], now);
    let carrier = first(&mut ring);
    ring.ring.echo_behind(node(2), 7, now);
    assert_eq!(first(&mut ring), carrier);
    assert_ne!(carrier, node(2), "there is a connection");
    ring.ring.echo(node(2), 8, now);
    assert_eq!(first(&mut ring), node(2));
}

/// Who is in the way of a handshake may drop it: the next try goes by others. Traffic keeps to its way.
#[test]
fn a_handshake_that_is_repeated_is_carried_by_others() {
    let mut ring = Victim::new();
    while ring.ring.poll_output().is_some() {}
    let carriers = |ring: &mut Victim, kind: u8| -> BTreeSet<NodeAddress> {
        (0..32)
            .map(|_| {
                ring.ring.carry(NodeAddress::of_key(&[0xee; 32]), &[kind, 0, 0, 0], ring.now);
                match ring.ring.poll_output() {
                    Some(Output::Send { to, .. }) => to,
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    };
    let of_traffic = carriers(&mut ring, 3);
    assert_eq!(of_traffic.len(), 1);
    assert!(carriers(&mut ring, 1).is_superset(&of_traffic));
    assert!(carriers(&mut ring, 1).len() > 1);
    ring.now = ring.now.after(HANDSHAKE_REPEATED);
    let first = carriers(&mut ring, 1);
    assert!(first.is_superset(&of_traffic), "the first of another handshake goes the usual way");
}

#[test]
fn a_trace_to_nobody_ends_where_there_is_no_way() {
    let mut few = Few::joined(10);
    let nobody = NodeAddress::of_key(&[0xee; 32]);
    let (at, _, end) = trace(&mut few, 0, nobody, 16).expect("an answer");
    assert_eq!(end, End::NoWay);
    assert!(few.index_of(at).is_some());
    assert!(few.nodes.iter().flatten().any(|ring| ring.counts().get(Count::NoSuchNode) == 1));
}

#[test]
fn a_survey_tells_all_connections_once() {
    let mut few = Few::joined(40);
    // More than one part has room for.
    for other in 1..40 {
        for _ in 0..4 {
            let now = few.now;
            few.with(0, |ring| ring.demand(node(other), now));
        }
    }
    let (asker, now) = (7, few.now);
    for page in 0..2 {
        few.with(asker, |ring| ring.survey(node(0), u64::from(page), page, now));
    }
    let pages: Vec<_> = few.surveyed.iter().map(|(_, from, page)| (*from, page.clone())).collect();
    assert!(pages.iter().all(|(from, page)| *from == node(0) && page.count() == 2 && page.total == 39));
    let mut told: Vec<_> = pages.iter().flat_map(|(_, page)| page.connections.clone()).collect();
    let ring = few.nodes[0].as_ref().expect("it is up");
    let nearest: Vec<_> = ring.nearest().into_iter().flatten().collect();
    assert!(
        told[..4].iter().all(|(address, mine, _)| nearest.contains(address) && mine.contains(Roles::NEAR))
    );
    told.sort_unstable_by_key(|(address, ..)| *address);
    let own: Vec<_> = ring.edges().map(|edge| (edge.address, edge.mine, edge.theirs)).collect();
    assert_eq!(told, own);
}

#[test]
fn why_there_is_no_connection_is_known() {
    let (mut few, a, b) = apart();
    let now = few.now;
    let outlook = |few: &Few| few.nodes[a].as_ref().map(|ring| ring.outlook(node(b), few.now));
    assert_eq!(outlook(&few), Some(Outlook::Quiet));
    few.nodes[b] = None;
    for _ in 0..4 {
        few.with(a, |ring| ring.demand(node(b), now));
    }
    assert_eq!(outlook(&few), Some(Outlook::Asked));
    few.run(Duration::from_secs(25));
    assert!(matches!(outlook(&few), Some(Outlook::Avoided(_))), "{:?}", outlook(&few));
}

fn echo(kind: EchoKind, token: u64) -> Vec<u8> {
    Echo { kind, hops: 3, token }.to_bytes()
}

fn survey_of(page: u8, token: u64) -> Vec<u8> {
    let (log2_size, coordinates) = (0, Coordinates::default());
    let answer = SurveyAnswer { page, total: 0, token, log2_size, coordinates, connections: Vec::new() };
    Survey::Answers(answer).to_bytes()
}

/// What a victim takes in of a payload in the name of a node.
fn taken(victim: &mut Victim, kind: Kind, source: usize, payload: &[u8]) -> Vec<Output> {
    let message = header(Mode::Exact, kind, node(source), node(0)).write(payload);
    victim.ring.handle_message(node(HOSTILE), &message, victim.now);
    core::iter::from_fn(|| victim.ring.poll_output()).collect()
}

#[test]
fn only_who_was_asked_answers() {
    let (asked, other) = (3, 4);
    let mut victim = Victim::new();
    let now = victim.now;
    victim.ring.echo(node(asked), 1, now);
    victim.ring.trace(node(asked), 2, 1, now);
    victim.ring.survey(node(asked), 3, 0, now);
    while victim.ring.poll_output().is_some() {}
    for (kind, source, payload) in [
        (Kind::Echo, other, echo(EchoKind::Answers, 1)),
        (Kind::Echo, other, echo(EchoKind::UsedUp, 1)),
        (Kind::Echo, asked, echo(EchoKind::UsedUp, 1)),
        (Kind::Echo, other, echo(EchoKind::Answers, 2)),
        // The way does not end before the node at which it ends.
        (Kind::Echo, asked, echo(EchoKind::UsedUp, 2)),
        (Kind::Echo, asked, echo(EchoKind::Answers, 3)),
        (Kind::Survey, other, survey_of(0, 3)),
        (Kind::Survey, asked, survey_of(1, 3)),
        (Kind::Survey, asked, survey_of(0, 1)),
    ] {
        let before = victim.count(Count::FalseAnswer);
        assert_eq!(taken(&mut victim, kind, source, &payload), []);
        assert_eq!(victim.count(Count::FalseAnswer), before + 1, "{kind:?} of {source}: {payload:02x?}");
    }
    // Each of the true answers once.
    for (kind, source, payload) in [
        (Kind::Echo, asked, echo(EchoKind::Answers, 1)),
        (Kind::Echo, other, echo(EchoKind::UsedUp, 2)),
        (Kind::Survey, asked, survey_of(0, 3)),
    ] {
        assert_eq!(taken(&mut victim, kind, source, &payload).len(), 1);
        assert_eq!(taken(&mut victim, kind, source, &payload), []);
    }
    assert_eq!(victim.count(Count::Unexpected), 3);
}

/// At most one answer for a message, none for an answer, and none longer than the question.
#[test]
fn no_question_makes_more_of_itself() {
    let trace = echo(EchoKind::Traces, 7);
    let ask = Survey::Asks(SurveyAsk { page: 0, token: 7 }).to_bytes();
    let short = Header { hops_max: 1, ..header(Mode::Exact, Kind::Echo, node(99), node(98)) };
    for (head, payload, answers) in [
        (short, &trace, 1),
        (short, &echo(EchoKind::Asks, 7), 0),
        (short, &echo(EchoKind::Answers, 7), 0),
        (short, &echo(EchoKind::UsedUp, 7), 0),
        (Header { kind: Kind::Carried, ..short }, &trace, 0),
        (Header { kind: Kind::Survey, ..short }, &ask, 0),
        (Header { mode: Mode::Nearest, ..short }, &trace, 0),
        (header(Mode::Exact, Kind::Echo, node(99), node(0)), &trace, 1),
        (header(Mode::Exact, Kind::Survey, node(99), node(0)), &ask, 1),
        (header(Mode::Exact, Kind::Survey, node(99), node(0)), &survey_of(0, 7), 0),
        (header(Mode::Nearest, Kind::Survey, node(99), node(0)), &ask, 0),
    ] {
        let mut victim = Victim::new();
        let message = head.write(payload);
        victim.ring.handle_message(node(HOSTILE), &message, victim.now);
        let sent: Vec<_> = core::iter::from_fn(|| victim.ring.poll_output()).collect();
        assert_eq!(sent.len(), answers, "{head:?}: {sent:?}");
        for output in sent {
            let Output::Send { message: answer, .. } = output else { panic!("{output:?}") };
            assert!(answer.len() <= message.len());
        }
    }
}

#[test]
fn the_oldest_question_gives_way() {
    let mut victim = Victim::new();
    for token in 0..1000 {
        victim.ring.echo(node(3), token, victim.now);
    }
    assert!(victim.ring.sizes().all(|size| size.len <= size.most));
    assert_eq!(taken(&mut victim, Kind::Echo, 3, &echo(EchoKind::Answers, 999)).len(), 1001);
    assert_eq!(taken(&mut victim, Kind::Echo, 3, &echo(EchoKind::Answers, 0)), []);
}
