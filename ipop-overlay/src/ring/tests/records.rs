//! Records on small rings: who keeps them, who finds them, and whose a name is.

use core::time::Duration;
use std::vec;
use std::vec::Vec;

use super::super::Count;
use super::nodes::{Few, WALL, key, signer};
use crate::dht::{Error, Event, Key, Kind, Record, RequestId, SIGNATURE_LEN, SigningKey};

const NAME: &[u8] = b"name";

/// A create of somebody's, of another time.
fn older(by: &SigningKey, created: u64) -> Record {
    let record = Record {
        kind: Kind::Create,
        removed: false,
        slot: 0,
        key: Key::of_name(NAME).expect("a short name"),
        owner: by.public_key(),
        created,
        expires: created + 3600,
        sequence: 1,
        value: Vec::new(),
        signature: [0; SIGNATURE_LEN],
    };
    record.sign(by)
}

fn create(few: &mut Few, index: usize, value: &[u8]) -> RequestId {
    let now = few.now;
    few.with(index, |ring| ring.create(NAME, value, 600, true, now)).expect("it may be created")
}

/// What has become of requests since the last time, but for other nodes'.
fn events(few: &mut Few, index: usize) -> Vec<Event> {
    few.run(Duration::from_secs(3));
    let (own, others) = core::mem::take(&mut few.dht).into_iter().partition(|(of, _)| *of == index);
    few.dht = others;
    let own: Vec<(usize, Event)> = own;
    own.into_iter().map(|(_, event)| event).collect()
}

/// The values that a node finds.
fn find(few: &mut Few, index: usize, kind: Kind) -> Vec<Vec<u8>> {
    let now = few.now;
    few.with(index, |ring| ring.get(NAME, kind, now)).expect("it may be asked for");
    let events = events(few, index);
    let [Event::Got { records, .. }] = &events[..] else { panic!("{events:?}") };
    records.iter().map(|record| record.value.clone()).collect()
}

fn is_stored(events: &[Event]) -> bool {
    matches!(events, [Event::Stored { .. }])
}

fn count(few: &Few, index: usize, count: Count) -> u64 {
    few.nodes[index].as_ref().map_or(0, |ring| ring.counts().get(count))
}

#[test]
fn one_name_is_one_nodes_on_rings_of_every_small_size() {
    for nodes in [1, 2, 3, 5, 8, 12] {
        let mut few = Few::joined(nodes);
        create(&mut few, 0, b"first");
        assert!(is_stored(&events(&mut few, 0)), "{nodes}");
        for index in (1..nodes).step_by(3) {
            create(&mut few, index, b"later");
            let events = events(&mut few, index);
            let [Event::Refused { standing: Some(standing), .. }] = &events[..] else { panic!("{events:?}") };
            assert_eq!(standing.owner, key(0), "{index} of {nodes}");
            assert_eq!(find(&mut few, index, Kind::Create), [b"first"], "{index} of {nodes}");
        }
    }
}

#[test]
fn of_those_that_create_at_a_time_one_has_it() {
    for nodes in [2, 3, 4, 8] {
        let mut few = Few::joined(nodes);
        for index in 0..nodes {
            create(&mut few, index, &[index as u8]);
        }
        few.run(Duration::from_secs(25));
        let stored: Vec<usize> = few
            .dht
            .iter()
            .filter(|(_, event)| matches!(event, Event::Stored { .. }))
            .map(|(of, _)| *of)
            .collect();
        assert_eq!(few.dht.len(), nodes, "each is told once: {:?}", few.dht);
        let [owner] = stored[..] else { panic!("{stored:?} of {nodes}") };
        few.dht.clear();
        assert_eq!(find(&mut few, 0, Kind::Create), [[owner as u8]]);
    }
}

#[test]
fn many_put_and_all_is_found_in_parts() {
    let mut few = Few::joined(6);
    for index in 0..6 {
        for slot in 0..3 {
            let (now, value) = (few.now, vec![index as u8; 1000]);
            few.with(index, |ring| ring.put(NAME, slot, &value, 600, false, now)).expect("it may be put");
        }
        few.run(Duration::from_secs(1));
    }
    few.dht.clear();
    assert_eq!(find(&mut few, 3, Kind::Put).len(), 18);
    // Taken back, it is gone at once.
    let now = few.now;
    few.with(2, |ring| ring.remove(NAME, Kind::Put, 1, now)).expect("it may be taken back");
    assert!(is_stored(&events(&mut few, 2)));
    assert_eq!(find(&mut few, 3, Kind::Put).len(), 17);
    few.run(Duration::from_secs(1000));
    assert_eq!(find(&mut few, 3, Kind::Put).len(), 0);
}

#[test]
fn a_record_outlives_all_that_kept_it_at_first() {
    let mut few = Few::joined(10);
    let now = few.now;
    few.with(0, |ring| ring.put(NAME, 0, b"value", 4000, false, now)).expect("it may be put");
    few.run(Duration::from_secs(5));
    for index in 0..8 {
        // Half of them with a word.
        if index % 2 == 0 {
            few.with(index, super::super::Ring::leave);
        }
        few.nodes[index] = None;
        few.run(Duration::from_secs(60));
    }
    few.dht.clear();
    assert_eq!(find(&mut few, 9, Kind::Put), [b"value"]);
}

#[test]
fn a_lease_is_made_again_until_it_is_given_back() {
    let mut few = Few::joined(5);
    create(&mut few, 1, b"lease");
    few.run(Duration::from_secs(4000));
    assert!(is_stored(&events(&mut few, 1)), "told once");
    assert_eq!(find(&mut few, 3, Kind::Create), [b"lease"]);
    let now = few.now;
    few.with(1, |ring| ring.remove(NAME, Kind::Create, 0, now)).expect("it may be given back");
    assert!(is_stored(&events(&mut few, 1)));
    create(&mut few, 2, b"another's");
    assert!(is_stored(&events(&mut few, 2)));
}

#[test]
fn what_nobody_asks_for_costs_nothing() {
    let mut few = Few::joined(6);
    few.run(Duration::from_secs(600));
    for index in 0..6 {
        for what in [Count::DhtKept, Count::DhtCopied] {
            assert_eq!(count(&few, index, what), 0);
        }
        let due = few.nodes[index].as_ref().and_then(|ring| ring.records_due());
        assert_eq!(due, None);
    }
}

#[test]
fn who_says_that_another_has_won_makes_the_owner_ask_and_no_more() {
    let mut few = Few::joined(6);
    create(&mut few, 0, b"lease");
    assert!(is_stored(&events(&mut few, 0)));
    few.run(Duration::from_secs(60));
    let standing = older(&signer(3), WALL - 100);
    let (now, wall) = (few.now, WALL + few.now.as_nanos() / 1_000_000_000);
    few.with(0, |ring| ring.contested(&standing, wall, now));
    few.run(Duration::from_secs(30));
    assert_eq!(count(&few, 0, Count::DhtContested), 1);
    assert_eq!(events(&mut few, 0), []);
    assert_eq!(find(&mut few, 4, Kind::Create), [b"lease"]);
}

#[test]
fn what_cannot_be_a_record_is_an_error() {
    let mut few = Few::joined(1);
    let now = few.now;
    few.with(0, |ring| {
        assert_eq!(ring.create(b"", b"", 60, true, now), Err(Error::NameTooLong));
        assert_eq!(ring.create(&[b'x'; 129], b"", 60, true, now), Err(Error::NameTooLong));
        assert_eq!(ring.create(NAME, &[0; 1025], 60, true, now), Err(Error::ValueTooLong));
        assert_eq!(ring.create(NAME, b"", 0, true, now), Err(Error::Ttl));
        assert_eq!(ring.create(NAME, b"", 86_401, true, now), Err(Error::Ttl));
    });
}
