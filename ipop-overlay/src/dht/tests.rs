//! Tests of records, their signatures, messages about them, what a node keeps of them, and requests. How the ring uses
//! them is tested there, and in `ipop-sim`.

mod records;
mod requests;
mod signatures;
mod stores;

use std::vec::Vec;

use proptest::prelude::*;

use super::record::{Key, Kind, Record};
use super::signature::{SIGNATURE_LEN, SigningKey};
use crate::address::NodeAddress;

/// By the clocks of these tests.
const WALL: u64 = 1_800_000_000;

fn signer(number: u8) -> SigningKey {
    SigningKey::new(&[number; 32].into())
}

fn key(number: u8) -> Key {
    Key::of_name(&[number]).expect("a short name")
}

/// A record that is valid but for its signature.
fn unsigned(kind: Kind, number: u8, created: u64) -> Record {
    Record {
        kind,
        removed: false,
        slot: 0,
        key: key(number),
        owner: [0; 32],
        created,
        expires: created + 600,
        sequence: created * 1000,
        value: b"value".to_vec(),
        signature: [0; SIGNATURE_LEN],
    }
}

fn create(owner: u8, number: u8, created: u64) -> Record {
    unsigned(Kind::Create, number, created).sign(&signer(owner))
}

fn put(owner: u8, number: u8, slot: u16) -> Record {
    Record { slot, ..unsigned(Kind::Put, number, WALL) }.sign(&signer(owner))
}

/// Any record that can be written, hardly ever a valid one.
fn record() -> impl Strategy<Value = Record> {
    let numbers = (any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>());
    let bytes = (any::<[u8; 20]>(), any::<[u8; 32]>(), any::<[u8; 32]>());
    let value = proptest::collection::vec(any::<u8>(), 0..300);
    (numbers, bytes, value, 0..4u8).prop_map(|((slot, created, expires, sequence), bytes, value, form)| {
        let (mut place, owner, half) = bytes;
        place[19] &= !1;
        let mut signature = [0; SIGNATURE_LEN];
        signature[..32].copy_from_slice(&half);
        let (kind, removed) = (if form & 1 == 0 { Kind::Put } else { Kind::Create }, form & 2 != 0);
        Record {
            kind,
            removed,
            slot: if kind == Kind::Create { 0 } else { slot },
            key: Key(NodeAddress(place)),
            owner,
            created,
            expires,
            sequence,
            value: if removed { Vec::new() } else { value },
            signature,
        }
    })
}
