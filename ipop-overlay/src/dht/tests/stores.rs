//! What a node keeps: which record stands, and how many there are.

use std::vec::Vec;

use proptest::prelude::*;

use super::super::record::{Invalid, Kind, Record, SKEW_S};
use super::super::store::*;
use super::{WALL, create, key, put, signer};

/// Offers a record; what came of it, and whom it took the place of.
fn offer(store: &mut Store, record: &Record, by: By, wall: u64) -> (Verdict, Option<Record>) {
    let verdict = store.judge(record, by, wall);
    let loser = (verdict == Verdict::Take).then(|| store.take(record.clone(), wall)).flatten();
    (verdict, loser)
}

fn standing(store: &Store, number: u8, wall: u64) -> Vec<Record> {
    store.under(key(number), Kind::Create, wall).filter(|record| !record.removed).cloned().collect()
}

#[test]
fn the_first_create_stands_whatever_a_later_one_says_of_its_age() {
    let mut store = Store::default();
    let (first, older) = (create(1, 1, WALL), create(2, 1, WALL - 100));
    assert_eq!(offer(&mut store, &first, By::Anybody, WALL), (Verdict::Take, None));
    assert_eq!(offer(&mut store, &first, By::Anybody, WALL), (Verdict::Known, None));
    assert_eq!(offer(&mut store, &older, By::Anybody, WALL), (Verdict::Stands(first.clone()), None));
    // Unless a neighbour has kept it.
    assert_eq!(offer(&mut store, &older, By::Neighbour, WALL), (Verdict::Take, Some(first.clone())));
    assert_eq!(offer(&mut store, &first, By::Neighbour, WALL), (Verdict::Stands(older.clone()), None));
    assert_eq!(standing(&store, 1, WALL), [older]);
}

#[test]
fn whoever_meets_whom_first_the_same_record_stays() {
    let records: Vec<Record> = (1..6).map(|owner| create(owner, 1, WALL - u64::from(owner % 3))).collect();
    let winner = records.iter().find(|record| records.iter().all(|other| !other.beats(record)));
    for first in 0..records.len() {
        let mut store = Store::default();
        for record in records.iter().cycle().skip(first).take(records.len()) {
            offer(&mut store, record, By::Neighbour, WALL);
        }
        assert_eq!(standing(&store, 1, WALL).first(), winner, "beginning with {first}");
    }
}

#[test]
fn an_owner_renews_and_takes_back_and_nothing_older_comes_again() {
    let mut store = Store::default();
    let first = create(1, 1, WALL);
    let again = Record { sequence: first.sequence + 1, expires: first.expires + 300, ..first.clone() }
        .sign(&signer(1));
    let removed = Record { sequence: again.sequence + 1, removed: true, value: Vec::new(), ..again.clone() }
        .sign(&signer(1));
    for record in [&first, &again, &removed] {
        assert_eq!(offer(&mut store, record, By::Anybody, WALL), (Verdict::Take, None));
        assert_eq!(store.len(), 1);
    }
    for by in [By::Anybody, By::Neighbour] {
        assert_eq!(offer(&mut store, &again, by, WALL), (Verdict::Stands(removed.clone()), None));
    }
    // The name is free.
    assert_eq!(offer(&mut store, &create(2, 1, WALL + 1), By::Anybody, WALL + 1).0, Verdict::Take);
}

#[test]
fn nobody_becomes_the_first_by_saying_so_later() {
    let mut store = Store::default();
    let first = create(1, 1, WALL);
    offer(&mut store, &first, By::Anybody, WALL);
    let backdated = Record { sequence: first.sequence + 1, created: WALL - 500, ..first }.sign(&signer(1));
    for by in [By::Anybody, By::Neighbour] {
        assert_eq!(offer(&mut store, &backdated, by, WALL).0, Verdict::Invalid(Invalid::Stale));
    }
}

#[test]
fn a_record_whose_time_is_over_makes_room_only_when_no_clock_shows_it_live() {
    let mut store = Store::default();
    let first = create(1, 1, WALL);
    offer(&mut store, &first, By::Anybody, WALL);
    let later = first.expires + SKEW_S - 1;
    assert_eq!(offer(&mut store, &create(2, 1, later), By::Anybody, later).0, Verdict::Stands(first));
    let over = later + 1;
    assert_eq!(offer(&mut store, &create(2, 1, over), By::Anybody, over).0, Verdict::Take);
    store.expire(over + 10_000);
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn one_owner_and_one_key_have_so_many_and_no_more() {
    let mut store = Store::default();
    for slot in 0..=OF_OWNER_MAX as u16 {
        let verdict = offer(&mut store, &put(1, (slot % 200) as u8, slot), By::Anybody, WALL).0;
        let is_full = usize::from(slot) == OF_OWNER_MAX;
        assert_eq!(verdict == Verdict::Invalid(Invalid::Full), is_full, "{slot}");
    }
    // What is there is made again all the same.
    let again = put(1, 0, 0);
    let again = Record { sequence: again.sequence + 1, ..again }.sign(&signer(1));
    assert_eq!(offer(&mut store, &again, By::Anybody, WALL).0, Verdict::Take);
    let mut store = Store::default();
    for number in 0..=OF_KEY_MAX {
        let verdict =
            offer(&mut store, &put(1 + (number / 100) as u8, 1, number as u16), By::Anybody, WALL).0;
        assert_eq!(verdict == Verdict::Invalid(Invalid::Full), number == OF_KEY_MAX, "{number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in whatever order, from whomever: under a key one create stands at most, no owner's record
    /// becomes older, and sums are those of what there is.
    #[test]
    fn one_stands_and_sums_are_right(
        steps in proptest::collection::vec((1u8..5, 0u8..3, 0u64..900, 0u64..4, any::<[bool; 3]>()), 1..60),
    ) {
        let mut store = Store::default();
        for (owner, number, passed, sequence, [is_create, removed, is_neighbour]) in steps {
            let kind = if is_create { Kind::Create } else { Kind::Put };
            // Signatures are not this part's to check.
            let record = Record {
                owner: [owner; 32],
                sequence,
                removed,
                value: if removed { Vec::new() } else { std::vec![0; usize::from(owner)] },
                ..super::unsigned(kind, number, WALL + passed / 2)
            };
            let wall = WALL + passed;
            let held = store.get(&record.id()).map(|kept| kept.record.sequence);
            let by = if is_neighbour { By::Neighbour } else { By::Anybody };
            let (verdict, loser) = offer(&mut store, &record, by, wall);
            prop_assert!(loser.is_none() || by == By::Neighbour);
            if let (Verdict::Take, Some(held)) = (&verdict, held) {
                prop_assert!(held < sequence);
            }
            for number in 0..3 {
                prop_assert!(standing(&store, number, wall).len() <= 1);
            }
            let bytes: usize = store.iter().map(|(_, kept)| kept.record.len()).sum();
            prop_assert_eq!(store.bytes(), bytes);
            prop_assert_eq!(store.iter().count(), store.len());
        }
        store.expire(WALL + 1_000_000);
        prop_assert_eq!((store.len(), store.bytes()), (0, 0));
    }
}
