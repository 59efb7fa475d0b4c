//! One connection: whether it is alive, used, and what may be sent on its account; and what follows
//! from all of a node's.

use core::time::Duration;
use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::edge::{Due, Edge};
use super::super::limits::{
    CREDIT, CREDIT_MAX, PROBES_MAX, SILENCE, SILENCE_NEAR, SILENCE_UNDER_TRAFFIC, UNUSED,
};
use super::super::wire::Roles;
use super::{addresses, at, table};

fn edge(role: Roles) -> Edge {
    let mut edge = Edge::new([0; 32], false, at(0));
    edge.mine = role;
    edge.use_changed(at(0));
    edge
}

/// Lets a connection's questions go unanswered; how long until it is dead.
fn until_dead(edge: &mut Edge) -> Duration {
    let mut probes = 0;
    loop {
        let now = edge.due_at();
        match edge.due(now).expect("what is due") {
            Due::Probe => {
                probes += 1;
                assert!(probes <= PROBES_MAX);
                edge.probe(0, false, now);
                assert!(edge.due_at() > now, "due again at once");
            }
            Due::Dead => return now.since(at(0)),
            Due::Unused => panic!("it has a use"),
        }
    }
}

#[test]
fn a_silent_neighbour_is_given_up_within_twenty_seconds_and_others_within_half_a_minute() {
    let near = until_dead(&mut edge(Roles::NEAR));
    assert!(near > SILENCE_NEAR && near < Duration::from_secs(20), "{near:?}");
    let far = until_dead(&mut edge(Roles::FAR));
    assert!(far > SILENCE && far < Duration::from_secs(32), "{far:?}");
}

#[test]
fn what_does_not_answer_traffic_is_given_up_sooner() {
    let mut edge = edge(Roles::NEAR);
    edge.expect(at(0));
    assert_eq!(edge.due_at(), at(0).after(SILENCE_UNDER_TRAFFIC));
    let dead = until_dead(&mut edge);
    assert!(dead < Duration::from_secs(8), "{dead:?}");
}

#[test]
fn any_sign_of_life_begins_anew() {
    let mut edge = edge(Roles::NEAR);
    edge.expect(at(0));
    for _ in 0..PROBES_MAX {
        let now = edge.due_at();
        assert_eq!(edge.due(now), Some(Due::Probe));
        edge.probe(0, false, now);
    }
    let now = edge.due_at();
    assert_eq!(edge.due(now), Some(Due::Dead));
    edge.hear(0, now);
    assert_eq!(edge.due(now), None);
    assert_eq!(edge.due_at(), now.after(SILENCE_NEAR));
}

#[test]
fn of_two_ends_one_asks_first() {
    let [first, second] = [false, true].map(|patience| Edge::new([0; 32], patience, at(0)).due_at());
    assert!(first < second);
}

#[test]
fn what_nobody_uses_is_given_up_and_any_use_keeps_it() {
    let mut edge = edge(Roles::NONE);
    edge.hear(0, at(29_000));
    assert_eq!(edge.due(at(29_999)), None);
    assert_eq!(edge.due(at(0).after(UNUSED)), Some(Due::Unused));
    edge.theirs = Roles::LEAF;
    edge.use_changed(at(30_000));
    assert_eq!(edge.due(at(30_000)), None);
    edge.theirs = Roles::NONE;
    edge.use_changed(at(31_000));
    edge.hear(0, at(60_000));
    assert_eq!(edge.due(at(60_999)), None);
    assert_eq!(edge.due(at(61_000)), Some(Due::Unused));
}

#[test]
fn an_answer_shows_a_round_trip_once() {
    let mut edge = edge(Roles::NEAR);
    let asked = edge.ask(0, false, at(1000));
    let answer = super::super::wire::Beat { answers: true, echo: asked.stamp, ..asked };
    let not_it = super::super::wire::Beat { echo: asked.stamp ^ 1, ..answer };
    assert_eq!(edge.answered(&not_it, at(1010)), None);
    assert_eq!(edge.answered(&answer, at(1020)), Some(Duration::from_millis(20)));
    assert_eq!(edge.answered(&answer, at(1030)), None);
    assert_eq!(edge.rtt.mean(), Some(Duration::from_millis(20)));
}

#[test]
fn roles_say_who_is_on_the_ring() {
    let structured = |mine, theirs| {
        let mut edge = edge(mine);
        edge.theirs = theirs;
        edge.is_structured()
    };
    assert!(!structured(Roles::NONE, Roles::NONE));
    assert!(!structured(Roles::LEAF, Roles::LEAF));
    for role in [Roles::NEAR, Roles::FAR, Roles::BYPASS, Roles::DEMAND, Roles::MANAGED] {
        assert!(structured(role, Roles::NONE) && structured(Roles::LEAF, role.with(Roles::LEAF)));
    }
    let names: Vec<_> = Roles::NEAR.with(Roles::LEAF).names().collect();
    assert_eq!(names, ["near", "leaf"]);
    assert!(Roles::from_bits(127).is_some() && Roles::from_bits(128).is_none());
}

proptest! {
    #[test]
    fn no_more_is_sent_on_an_account_than_came_and_is_credited(
        events in proptest::collection::vec((any::<bool>(), 0usize..2000), 0..300),
    ) {
        let mut edge = edge(Roles::NEAR);
        let (mut came, mut sent) = (0, 0);
        for (hears, len) in events {
            if hears {
                edge.hear(len, at(0));
                came += len;
            } else if edge.charge(len) {
                sent += len;
            }
            prop_assert!(sent <= came + CREDIT as usize);
        }
    }

    #[test]
    fn credit_does_not_pile_up(lens in proptest::collection::vec(0usize..100_000, 0..50)) {
        let mut edge = edge(Roles::NEAR);
        lens.iter().for_each(|len| edge.hear(*len, at(0)));
        prop_assert!(!edge.charge(CREDIT_MAX as usize + 1));
    }

    #[test]
    fn the_nearest_are_those_that_are_nearest(all in addresses(1..12)) {
        let own = all[0];
        let table = table(own, all.iter().map(|node| (*node, Roles::NEAR)));
        let [up, down] = table.nearest();
        let mut sorted: Vec<_> = all[1..].to_vec();
        sorted.sort_by_key(|node| own.up_to(*node));
        prop_assert_eq!(&up, &sorted[..sorted.len().min(2)]);
        sorted.reverse();
        prop_assert_eq!(&down, &sorted[..sorted.len().min(2)]);
        let neighbours = table.neighbours();
        let once: BTreeSet<_> = neighbours.iter().collect();
        prop_assert_eq!(once.len(), neighbours.len());
        prop_assert_eq!(once.len(), sorted.len().min(4));
    }

    #[test]
    fn small_rings_know_how_large_they_are(all in addresses(2..5)) {
        let table = table(all[0], all.iter().map(|node| (*node, Roles::NEAR)));
        let size = f64::from(table.log2_size()) / 65536.0;
        prop_assert!((size - (all.len() as f64).log2()).abs() < 0.001, "{} nodes, {size}", all.len());
    }
}
