use std::vec::Vec;

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, Update};
use proptest::prelude::*;

use super::*;
use crate::wireguard::{TYPE_INITIATION, TYPE_RESPONSE};

const KEY: [u8; KEY_LEN] = [0x5a; KEY_LEN];
const SEED: u64 = 0x1234_5678_9abc_def1;
const NOW_NS: u64 = 77_000_000_000;

fn mac(key: &[u8; KEY_LEN], covered: &[u8]) -> [u8; MAC_LEN] {
    let mut mac = Blake2sMac::<U16>::new_with_salt_and_personal(key, &[], &[]).expect("a key of 32 bytes");
    mac.update(covered);
    mac.finalize_fixed().into()
}

/// A message with the right mac1, and `fill` in all that it covers.
fn message(kind: Kind, fill: u8) -> Vec<u8> {
    let mut message = std::vec![fill; kind.message_len()];
    let (kind_byte, mac1) = match kind {
        Kind::Initiation => (TYPE_INITIATION, Initiation::MAC1_OFFSET),
        Kind::Response => (TYPE_RESPONSE, Response::MAC1_OFFSET),
    };
    message[..4].copy_from_slice(&[kind_byte, 0, 0, 0]);
    let mac1_bytes = mac(&KEY, &message[..mac1]);
    message[mac1..mac1 + MAC_LEN].copy_from_slice(&mac1_bytes);
    message[mac1 + MAC_LEN..].fill(0);
    message
}

fn admit(filter: &Filter, kind: Kind, message: &[u8], source: Address, now_ns: u64) -> Result<(), Counter> {
    let mut room = [0; MESSAGE_MAX];
    room[..message.len()].copy_from_slice(message);
    // SAFETY: as much room as is asked for.
    unsafe { filter.admit(kind, room.as_mut_ptr(), source.to_words(), now_ns, &mut Hash::default()) }
}

fn filter() -> Filter {
    let filter = Filter::open();
    filter.set_key(&KEY, SEED);
    filter
}

fn address(number: u32) -> Address {
    Address::from_v4(number.to_be_bytes())
}

fn admitted(filter: &Filter, message: &[u8], sources: impl Iterator<Item = u32>, now_ns: u64) -> usize {
    let one = |number| admit(filter, Kind::Initiation, message, address(number), now_ns);
    sources.filter(|number| one(*number).is_ok()).count()
}

#[test]
fn without_a_key_everything_passes() {
    let garbage = [0x11; INITIATION_LEN];
    assert_eq!(admit(&Filter::open(), Kind::Initiation, &garbage, address(1), NOW_NS), Ok(()));
}

#[test]
fn mac1_is_checked_over_what_it_covers() {
    let filter = filter();
    for kind in [Kind::Initiation, Kind::Response] {
        let good = message(kind, 0x33);
        assert_eq!(admit(&filter, kind, &good, address(1), NOW_NS), Ok(()), "{kind:?}");
        let covered = good.len() - MAC_LEN;
        for byte in 0..covered {
            let mut bad = good.clone();
            bad[byte] ^= 0x80;
            let refused = Err(Counter::RxBadMac1);
            assert_eq!(admit(&filter, kind, &bad, address(1), NOW_NS), refused, "{kind:?}, byte {byte}");
        }
        let mut with_cookie = good.clone();
        with_cookie[covered..].fill(9);
        assert_eq!(admit(&filter, kind, &with_cookie, address(1), NOW_NS), Ok(()), "mac1 is not over mac2");
    }
}

proptest! {
    #[test]
    fn the_hash_is_blake2s(key: [u8; KEY_LEN], covered in prop::collection::vec(any::<u8>(), 65..=128)) {
        let mut blocks = [0; 2 * BLOCK_LEN];
        blocks[..covered.len()].copy_from_slice(&covered);
        let mut hash = Hash::keyed(&key, MAC_LEN as u8);
        // SAFETY: two blocks.
        unsafe {
            hash.compress(blocks.as_ptr(), 2 * BLOCK_LEN as u32, false);
            hash.compress(blocks.as_ptr().add(BLOCK_LEN), (BLOCK_LEN + covered.len()) as u32, true);
        }
        let (low, high) = hash.first_words();
        let expected = mac(&key, &covered);
        prop_assert_eq!([low.to_le_bytes(), high.to_le_bytes()].concat(), expected.to_vec());
    }
}

#[test]
fn under_load_strangers_share_a_window_and_are_counted_by_name() {
    let filter = filter();
    let good = message(Kind::Initiation, 0x33);
    assert_eq!(admitted(&filter, &good, 0..1000, NOW_NS), 1000, "no load, no limit");
    filter.close(NOW_NS + 1);
    for window in 0..3 {
        let now_ns = NOW_NS + window * WINDOW_NS;
        assert_eq!(admitted(&filter, &good, 0..1000, now_ns), STRANGERS_MAX as usize);
    }
    let refused = Err(Counter::RxHandshakeFlood);
    assert_eq!(admit(&filter, Kind::Initiation, &good, address(7), NOW_NS + 2 * WINDOW_NS), refused);
    let last_ns = NOW_NS + 2 * WINDOW_NS;
    assert!(filter.is_closed(last_ns + HYSTERESIS_NS - 1), "the flood itself keeps the filter closed");
    assert_eq!(admitted(&filter, &good, 0..1000, last_ns + HYSTERESIS_NS), 1000, "the flood is over");
}

#[test]
fn garbage_takes_no_strangers_place() {
    let filter = filter();
    filter.close(NOW_NS + HYSTERESIS_NS);
    let garbage = [0x11; INITIATION_LEN - MAC_LEN].into_iter().chain([0; MAC_LEN]).collect::<Vec<u8>>();
    for number in 0..1000 {
        let refused = Err(Counter::RxBadMac1);
        assert_eq!(admit(&filter, Kind::Initiation, &garbage, address(number), NOW_NS), refused);
    }
    let good = message(Kind::Initiation, 0x33);
    assert_eq!(admitted(&filter, &good, 0..1000, NOW_NS), STRANGERS_MAX as usize);
}

#[test]
fn who_shows_a_cookie_is_no_stranger_and_neither_is_a_peer() {
    let filter = filter();
    filter.close(NOW_NS + HYSTERESIS_NS);
    filter.set_peers((1..=3).map(address));
    let good = message(Kind::Initiation, 0x33);
    let mut with_cookie = good.clone();
    with_cookie[INITIATION_LEN - MAC_LEN..].fill(9);
    let strangers = 1_000_000..1_001_000;
    assert_eq!(admitted(&filter, &good, strangers.clone(), NOW_NS), STRANGERS_MAX as usize);
    assert_eq!(admitted(&filter, &with_cookie, strangers, NOW_NS), CLAIMS_MAX as usize);
    for peer in 1..=3 {
        assert_eq!(admitted(&filter, &good, std::iter::repeat_n(peer, 100), NOW_NS), PEERS_MAX as usize);
    }
    filter.set_peers((2..=3).map(address));
    assert_eq!(admitted(&filter, &good, std::iter::once(1), NOW_NS), 0, "no peer any more");
    assert_eq!(admitted(&filter, &good, std::iter::once(2), NOW_NS + WINDOW_NS), 1);
}

#[test]
fn few_strangers_share_a_place_with_a_peer() {
    let filter = filter();
    filter.close(NOW_NS + HYSTERESIS_NS);
    // As many peers as there can be, on one network, and strangers on another.
    filter.set_peers((0x0a00_0000..0x0a00_1000).map(address));
    let mut shared = 0;
    for number in 0xc000_0000_u32..0xc000_4000 {
        let (window, _) = filter.window_of(address(number).to_words(), false);
        shared += u32::from(!core::ptr::eq(window, &raw const filter.strangers));
    }
    // 4096 of 65,536 places.
    assert!((512..2048).contains(&shared), "{shared} of 16,384");
}
