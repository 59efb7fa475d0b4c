//! Who has which address: what nodes claim, and who is believed.

use core::net::IpAddr;
use core::time::Duration;
use std::vec;
use std::vec::Vec;

use super::super::wire::{Claim, ClaimKind};
use super::nodes::{Few, key};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 128, 0, last])
}

/// Each has an address, since as many seconds as its number.
fn claiming(count: usize) -> Few {
    let mut few = Few::joined(count);
    for index in 0..count {
        let now = few.now;
        few.with(index, |ring| ring.claim(vec![ip(index as u8)], index as u64, now));
    }
    few.run(Duration::from_secs(5));
    few
}

fn ask(few: &mut Few, index: usize, address: IpAddr) -> Option<[u8; 32]> {
    few.found.clear();
    let now = few.now;
    few.with(index, |ring| ring.look_up(address, now));
    few.run(Duration::from_secs(10));
    let [(asker, about, who)] = few.found[..] else { panic!("one answer: {:?}", few.found) };
    assert_eq!((asker, about), (index, address));
    who
}

#[test]
fn what_is_claimed_is_found_by_all() {
    let mut few = claiming(9);
    for asker in 0..9 {
        for owner in (0..9).filter(|owner| *owner != asker) {
            assert_eq!(ask(&mut few, asker, ip(owner as u8)), Some(key(owner)), "{asker} asks for {owner}");
        }
        assert_eq!(ask(&mut few, asker, ip(200)), None);
    }
}

#[test]
fn of_two_claims_the_older_stands_and_both_are_told() {
    for (first, second) in [(2, 6), (6, 2)] {
        let mut few = Few::joined(9);
        for index in [first, second] {
            let now = few.now;
            few.with(index, |ring| ring.claim(vec![ip(77)], index as u64, now));
            few.run(Duration::from_secs(5));
        }
        assert_eq!(ask(&mut few, 4, ip(77)), Some(key(2)));
        for (told, by) in [(2, 6), (6, 2)] {
            assert!(few.taken.contains(&(told, ip(77), key(by))), "{told}: {:?}", few.taken);
        }
    }
}

#[test]
fn an_owner_that_dies_is_forgotten_in_time_and_one_that_moves_is_found() {
    let mut few = claiming(5);
    few.nodes[3] = None;
    few.run(Duration::from_secs(1000));
    assert_eq!(ask(&mut few, 1, ip(3)), None);
    let now = few.now;
    few.with(2, |ring| ring.claim(vec![ip(2), ip(3)], 9, now));
    few.run(Duration::from_secs(5));
    assert_eq!(ask(&mut few, 1, ip(3)), Some(key(2)));
}

#[test]
fn claims_have_one_form() {
    let claim =
        Claim { kind: ClaimKind::Make, address: [1; 16], public_key: [2; 32], since: 0x0304_0506_0708_090a };
    let expected: Vec<u8> =
        [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1; 16], &[2; 32], &[3, 4, 5, 6, 7, 8, 9, 10]].concat();
    assert_eq!(claim.to_bytes(), expected);
    assert_eq!(Claim::parse(&expected), Some(claim));
    for len in 0..expected.len() {
        assert_eq!(Claim::parse(&expected[..len]), None);
    }
    for kind in [0, 6, 255] {
        let mut other = expected.clone();
        other[0] = kind;
        assert_eq!(Claim::parse(&other), None);
    }
}
