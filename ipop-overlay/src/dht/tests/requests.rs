//! What comes of a request, by what the places answer.

use std::vec;
use std::vec::Vec;

use super::super::record::{Invalid, Kind, Record};
use super::super::requests::*;
use super::super::wire::{Body, ROOM_MAX};
use super::super::{Event, RequestId};
use super::{WALL, create, key, put};
use crate::time::Instant;

const ID: RequestId = RequestId(1);

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn asked(what: What) -> Requests {
    let mut requests = Requests::default();
    requests.begin(ID, what, false, core::array::from_fn(|replica| replica as u64 + 1), at(0));
    // As the ring does when it has asked.
    for place in &mut requests.get_mut(ID).expect("the request").places {
        (place.tries, place.next_at) = (1, Some(at(1000)));
    }
    requests
}

/// Gives these answers, of the first places; what has come of it by then.
fn answered(requests: &mut Requests, bodies: Vec<Body>, now: Instant) -> Outcomes {
    for (replica, body) in (0u8..).zip(bodies) {
        assert_eq!(requests.answer(ID, replica, body, WALL, now), Some(()));
    }
    requests.conclude(WALL, now)
}

fn told(records: &[Record]) -> Body {
    Body::Records { from: 0, total: records.len() as u16, records: records.to_vec() }
}

#[test]
fn five_of_eight_places_are_enough_and_four_are_not() {
    let mut requests = asked(What::Store(create(1, 1, WALL)));
    assert!(answered(&mut requests, vec![Body::Stored; 4], at(10)).events.is_empty());
    let outcomes = answered(&mut requests, vec![Body::Stored; 5], at(20));
    assert_eq!(outcomes.events, [Event::Stored { request: ID, key: key(1) }]);
    // The others are asked all the same, until their time is over.
    assert_eq!(requests.due(at(2000)).len(), 3);
    assert!(answered(&mut requests, vec![Body::Stored; 8], at(30)).events.is_empty());
    assert_eq!(requests.len(), 0);
}

#[test]
fn where_another_stands_at_four_places_the_rest_is_taken_back() {
    let (own, other) = (create(1, 1, WALL), create(2, 1, WALL - 9));
    let mut requests = asked(What::Store(own.clone()));
    let stands = Body::Stands(Some(other.clone()));
    let outcomes = answered(&mut requests, [vec![stands; 4], vec![Body::Stored]].concat(), at(10));
    let refused = Event::Refused { request: ID, key: key(1), standing: Some(other) };
    assert_eq!((outcomes.events, outcomes.withdraw), (vec![refused], vec![own]));
}

#[test]
fn who_would_win_asks_again_before_it_gives_up() {
    let (own, other) = (create(1, 1, WALL - 9), create(2, 1, WALL));
    let mut requests = asked(What::Store(own));
    for round in 0..4 {
        let now = at(1 + round * 5000);
        let outcomes = answered(&mut requests, vec![Body::Stands(Some(other.clone())); 8], now);
        let is_refused = matches!(outcomes.events[..], [Event::Refused { .. }]);
        assert_eq!(is_refused, round == 3, "round {round}: {outcomes:?}");
    }
}

#[test]
fn what_is_not_answered_fails_when_its_time_is_over() {
    let mut requests = asked(What::Store(put(1, 1, 0)));
    assert!(answered(&mut requests, vec![Body::Stored; 4], at(19_999)).events.is_empty());
    let outcomes = requests.conclude(WALL, Instant::default().after(LIMIT));
    assert_eq!(outcomes.events, [Event::Failed { request: ID, key: key(1) }]);
}

#[test]
fn a_place_that_has_had_enough_is_asked_later() {
    let mut requests = asked(What::Store(put(1, 1, 0)));
    answered(&mut requests, vec![Body::Refused(Invalid::TooMany); 8], at(10));
    assert_eq!(requests.due(at(1000)).len(), 0);
    assert_eq!(requests.due(at(3000)).len(), 8);
}

#[test]
fn a_reader_gets_every_owners_newest_and_leaves_it_where_it_is_missing() {
    let old = put(1, 1, 0);
    let new =
        Record { sequence: old.sequence + 1, value: b"new".to_vec(), ..put(1, 1, 0) }.sign(&super::signer(1));
    let other = put(2, 1, 0);
    let mut requests = asked(What::Get { key: key(1), kind: Kind::Put });
    let bodies = vec![
        told(&[old]),
        told(&[new.clone(), other.clone()]),
        told(&[]),
        told(std::slice::from_ref(&new)),
        told(&[]),
    ];
    let outcomes = answered(&mut requests, bodies, at(10));
    let [Event::Got { records, answers: 5, .. }] = &outcomes.events[..] else { panic!("{outcomes:?}") };
    assert_eq!(records.len(), 2);
    assert!(records.contains(&new) && records.contains(&other));
    let missing = |replica: u8| outcomes.refill.iter().filter(|(at, _)| *at == replica).count();
    assert_eq!([0, 1, 2, 3, 4, 5].map(missing), [2, 0, 2, 1, 2, 0]);
}

#[test]
fn whose_a_name_is_most_places_say() {
    // One place names somebody who says to have been earlier.
    let (owner, liar) = (create(1, 1, WALL), create(2, 1, WALL - 500));
    let mut requests = asked(What::Get { key: key(1), kind: Kind::Create });
    let bodies = [vec![told(&[liar]); 2], vec![told(std::slice::from_ref(&owner)); 5]].concat();
    let outcomes = answered(&mut requests, bodies, at(10));
    let [Event::Got { records, votes: 5, .. }] = &outcomes.events[..] else { panic!("{outcomes:?}") };
    assert_eq!(*records, [owner]);
}

#[test]
fn where_votes_are_even_the_rule_decides() {
    let (first, second) = (create(1, 1, WALL - 1), create(2, 1, WALL));
    for bodies in [[&first, &second], [&second, &first]] {
        let mut requests = asked(What::Get { key: key(1), kind: Kind::Create });
        let bodies = bodies.map(|record| vec![told(std::slice::from_ref(record)); 4]).concat();
        let outcomes = answered(&mut requests, bodies, at(10));
        let [Event::Got { records, votes: 4, .. }] = &outcomes.events[..] else { panic!("{outcomes:?}") };
        assert_eq!(*records, std::slice::from_ref(&first));
    }
}

#[test]
fn a_place_whose_answer_nobody_has_signed_counts_for_nothing() {
    let forged = Record { value: b"other".to_vec(), ..put(1, 1, 0) };
    let elsewhere = put(1, 2, 0);
    for record in [forged, elsewhere] {
        let mut requests = asked(What::Get { key: key(1), kind: Kind::Put });
        assert_eq!(requests.answer(ID, 0, told(&[record]), WALL, at(5)), None);
        answered(&mut requests, vec![told(&[]); 5], at(10));
        let outcomes = answered(&mut requests, vec![told(&[]); 6], at(10));
        let [Event::Got { records, .. }] = &outcomes.events[..] else { panic!("{outcomes:?}") };
        assert!(records.is_empty());
    }
}

#[test]
fn pages_are_asked_for_until_there_are_no_more() {
    let all: Vec<Record> = (0..5).map(|slot| put(1, 1, slot)).collect();
    let mut requests = asked(What::Get { key: key(1), kind: Kind::Put });
    let page =
        |from: u16, to: usize| Body::Records { from, total: 5, records: all[usize::from(from)..to].to_vec() };
    // No room for one; then two, and three.
    for (from, to) in [(0, 0), (0, 2), (2, 5)] {
        let Some((_, Body::Get { from: asked, room, .. })) =
            requests.get_mut(ID).and_then(|request| request.question(0))
        else {
            panic!("a question")
        };
        assert_eq!((asked, room == ROOM_MAX), (from, (from, to) != (0, 0)));
        assert_eq!(requests.answer(ID, 0, page(from, to), WALL, at(5)), Some(()));
        assert_eq!(requests.due(at(5)).len(), usize::from(to < 5));
    }
    // Again from where it was is not what was asked.
    assert_eq!(requests.answer(ID, 1, page(2, 5), WALL, at(5)), None);
    let outcomes = answered(&mut requests, vec![told(&[]); 5], at(3000));
    let [Event::Got { records, .. }] = &outcomes.events[..] else { panic!("{outcomes:?}") };
    assert_eq!(records.len(), 5);
}

#[test]
fn nothing_is_due_again_and_again() {
    let mut requests = asked(What::Store(create(1, 1, WALL)));
    let stands = Body::Stands(Some(create(2, 1, WALL - 9)));
    answered(&mut requests, [vec![stands; 3], vec![Body::Stored; 3]].concat(), at(10));
    requests.conclude(WALL, at(5000));
    for place in &mut requests.get_mut(ID).expect("the request").places {
        place.next_at = place.next_at.map(|_| at(6000));
    }
    assert_eq!(requests.due_at(), Some(at(6000)));
}
