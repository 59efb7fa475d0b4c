//! Texts for all nodes.

use core::time::Duration;
use std::vec::Vec;

use super::super::limits::{BROADCAST_HOPS_MAX, BROADCASTS_KNOWN, CREDIT};
use super::super::wire::{BROADCAST_MAX, Broadcast, Header, Kind, Mode};
use super::super::{Count, Output};
use super::nodes::{Few, HOSTILE, Victim, header, node};

fn text(token: u64) -> Vec<u8> {
    Broadcast { token, text: b"all" }.to_bytes().expect("it is short")
}

#[test]
fn each_node_hears_a_text_once_and_its_source_not_at_all() {
    let mut few = Few::joined(40);
    few.run(Duration::from_secs(120));
    for teller in [0, 13, 39] {
        few.told.clear();
        let now = few.now;
        few.with(teller, |ring| assert!(ring.broadcast(b"all hear this", now)));
        few.run(Duration::from_secs(1));
        let mut heard: Vec<usize> = few.told.iter().map(|(by, ..)| *by).collect();
        heard.sort_unstable();
        assert_eq!(heard, (0..40).filter(|index| *index != teller).collect::<Vec<_>>());
        assert!(few.told.iter().all(|(_, from, text)| *from == node(teller) && text == b"all hear this"));
    }
    assert!(few.nodes.iter().flatten().all(|ring| ring.counts().get(Count::Repeated) == 0));
}

#[test]
fn a_text_that_is_too_long_is_not_told() {
    let mut victim = Victim::new();
    let now = victim.now;
    assert!(victim.ring.broadcast(&[7; BROADCAST_MAX], now));
    assert!(!victim.ring.broadcast(&[7; BROADCAST_MAX + 1], now));
    assert_eq!(victim.count(Count::TooLong), 1);
}

#[test]
fn what_comes_again_is_neither_told_nor_passed_on() {
    let mut victim = Victim::new();
    let message = |token| header(Mode::Part, Kind::Broadcast, node(9), node(9)).write(&text(token));
    assert!(victim.hear(HOSTILE, &message(1)) > 0);
    assert_eq!(victim.hear(HOSTILE, &message(1)), 0);
    assert_eq!(victim.count(Count::Repeated), 1);
    for token in 0..2 * BROADCASTS_KNOWN as u64 {
        victim.hear(HOSTILE, &message(token));
        assert!(victim.ring.sizes().all(|size| size.len <= size.most));
    }
}

#[test]
fn a_member_has_no_more_told_than_it_is_credited() {
    let mut victim = Victim::new();
    let (mut came, mut sent) = (0, 0);
    for token in 0..2000 {
        let message = header(Mode::Part, Kind::Broadcast, node(9), node(9)).write(&text(token));
        came += message.len();
        sent += victim.hear(HOSTILE, &message);
    }
    assert!(sent > 0 && sent <= came + CREDIT as usize, "{sent} for {came}");
}

#[test]
fn a_part_that_ends_here_and_one_that_has_come_too_far_end_here() {
    let mut victim = Victim::new();
    let whole = header(Mode::Part, Kind::Broadcast, node(9), node(0)).write(&text(1));
    assert_eq!(victim.hear(HOSTILE, &whole), 0, "the whole ring is for the source to tell");
    let far = Header { hops: BROADCAST_HOPS_MAX, ..header(Mode::Part, Kind::Broadcast, node(9), node(9)) };
    assert_eq!(victim.hear(HOSTILE, &far.write(&text(2))), 0);
    assert_eq!(victim.count(Count::TooManyHops), 1);
}

#[test]
fn only_a_broadcast_goes_to_a_part_of_the_ring() {
    let mut victim = Victim::new();
    for (mode, kind) in [(Mode::Part, Kind::Echo), (Mode::Exact, Kind::Broadcast)] {
        assert_eq!(victim.hear(HOSTILE, &header(mode, kind, node(9), node(9)).write(&text(1))), 0);
    }
    assert_eq!(victim.count(Count::BadMessage), 2);
    assert!(
        !core::iter::from_fn(|| victim.ring.poll_output()).any(|o| matches!(o, Output::Broadcast { .. }))
    );
}
