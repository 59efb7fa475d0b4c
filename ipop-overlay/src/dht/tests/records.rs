//! Records and the messages about them, byte by byte.

use std::vec;
use std::vec::Vec;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::super::record::*;
use super::super::wire::*;
use super::{WALL, create, key, record, signer, unsigned};

const DOCUMENT: &str = include_str!("../../../../docs/wire-format.md");

#[test]
fn golden_vector_of_a_record() {
    let record = create(7, 1, WALL);
    let hex = HEXLOWER.encode(&record.to_bytes());
    let text: Vec<char> = DOCUMENT.chars().filter(|c| !c.is_whitespace()).collect();
    let text: std::string::String = text.into_iter().collect();
    assert!(text.contains(&hex), "not in the document: {hex}");
    assert_eq!(Record::parse(&record.to_bytes()), Some((record, &[][..])));
}

#[test]
fn names_have_keys_and_places_all_around_the_ring() {
    assert_eq!(Key::of_name(b""), None);
    assert_eq!(Key::of_name(&[b'x'; NAME_MAX + 1]), None);
    let key = Key::of_name(&[b'x'; NAME_MAX]).expect("the longest name");
    assert_ne!(Some(key), Key::of_name(&[b'x'; NAME_MAX - 1]));
    let eighth = crate::Distance::power_of_two(157 << 16);
    for replica in 0..7 {
        assert_eq!(key.place(replica).up_by(eighth), key.place(replica + 1));
    }
    assert_eq!(key.place(7).up_by(eighth), key.place(0));
}

#[test]
fn times_are_those_of_a_clock_that_may_be_minutes_off() {
    let at =
        |created: u64, expires: u64| Record { expires, ..unsigned(Kind::Put, 1, created) }.wrong_times(WALL);
    assert_eq!(at(WALL, WALL + 1), None);
    assert_eq!(at(WALL + SKEW_S, WALL + SKEW_S + 1), None);
    assert_eq!(at(WALL + SKEW_S + 1, WALL + SKEW_S + 2), Some(Invalid::Future));
    assert_eq!(at(WALL - 10, WALL - 20), Some(Invalid::TooLong));
    assert_eq!(at(WALL, WALL), Some(Invalid::TooLong));
    assert_eq!(at(WALL, WALL + TTL_MAX_S + SKEW_S), None);
    assert_eq!(at(WALL, WALL + TTL_MAX_S + SKEW_S + 1), Some(Invalid::TooLong));
    assert_eq!(at(0, WALL - SKEW_S + 1), None);
    assert_eq!(at(0, WALL - SKEW_S), Some(Invalid::Expired));
    assert_eq!(at(0, u64::MAX), Some(Invalid::TooLong));
    assert!(!Record { expires: WALL, ..unsigned(Kind::Put, 1, 0) }.is_live(WALL));
}

#[test]
fn all_that_is_in_a_record_is_signed() {
    let signed = create(1, 1, WALL);
    assert!(signed.is_signed());
    let bytes = signed.to_bytes();
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 2;
        let parsed = Record::parse(&broken).map(|(record, _)| record);
        assert!(!parsed.is_some_and(|record| record.is_signed()), "byte {at}");
    }
    let other = Record { owner: signer(2).public_key(), ..signed };
    assert!(!other.is_signed());
}

#[test]
fn a_question_is_as_long_as_its_answer_may_be() {
    let get = |room| Message {
        replica: 3,
        token: 9,
        body: Body::Get { key: key(1), kind: Kind::Create, from: 2, room },
    };
    for room in [GET_LEN, ROOM, ROOM_MAX] {
        let bytes = get(room).to_bytes();
        assert_eq!(bytes.len(), room);
        assert_eq!(Message::parse(&bytes), Some(get(room)));
    }
    let mut long = get(ROOM_MAX).to_bytes();
    long.push(0);
    assert_eq!(Message::parse(&long), None);
    let mut bad = get(ROOM).to_bytes();
    bad[ROOM - 1] = 1;
    assert_eq!(Message::parse(&bad), None);
}

fn message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        record().prop_map(Body::Store),
        record().prop_map(Body::Copy),
        record().prop_map(Body::Conflict),
        proptest::option::of(record()).prop_map(Body::Stands),
        Just(Body::Stored),
        Just(Body::Refused(Invalid::Stale)),
        Just(Body::Refused(Invalid::TooMany)),
        (any::<u16>(), any::<u16>(), proptest::collection::vec(record(), 0..4))
            .prop_map(|(from, total, records)| Body::Records { from, total, records }),
        (record(), any::<u16>(), GET_LEN..=ROOM_MAX).prop_map(|(record, from, room)| Body::Get {
            key: record.key,
            kind: record.kind,
            from,
            room
        }),
    ];
    (0..8u8, any::<u64>(), body).prop_map(|(replica, token, body)| Message { replica, token, body })
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(record in record(), tail in proptest::collection::vec(any::<u8>(), 0..9)) {
        let bytes = [&record.to_bytes()[..], &tail].concat();
        prop_assert_eq!(Record::parse(&bytes), Some((record, &tail[..])));
    }

    #[test]
    fn a_record_that_is_cut_is_refused(record in record()) {
        let bytes = record.to_bytes();
        for len in 0..bytes.len() {
            prop_assert_eq!(Record::parse(&bytes[..len]), None);
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written(message in message()) {
        prop_assert_eq!(Message::parse(&message.to_bytes()), Some(message));
    }

    #[test]
    fn a_message_that_is_cut_is_another_or_none(message in message()) {
        let bytes = message.to_bytes();
        for len in 0..bytes.len() {
            if let Some(other) = Message::parse(&bytes[..len]) {
                prop_assert_eq!(other.to_bytes(), &bytes[..len]);
            }
        }
    }

    #[test]
    fn anything_that_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for what in 0..10 {
            let mut bytes = bytes.clone();
            if let [first, replica, ..] = &mut bytes[..] {
                (*first, *replica) = (what, *replica & 7);
            }
            if let Some(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn of_two_creates_one_wins(a in record(), b in record()) {
        prop_assume!(a.owner != b.owner);
        prop_assert_ne!(a.beats(&b), b.beats(&a));
        prop_assert!(!a.beats(&a));
    }
}

#[test]
fn the_longest_message_has_the_longest_value() {
    let value = vec![7; VALUE_MAX];
    let record = Record { value, ..unsigned(Kind::Put, 1, WALL) }.sign(&signer(1));
    let records =
        Message { replica: 0, token: 1, body: Body::Records { from: 0, total: 1, records: vec![record] } };
    assert_eq!(records.to_bytes().len(), ROOM_MAX);
}
