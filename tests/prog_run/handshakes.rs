//! Handshake messages to the daemon's port: TC ingress lets through what the filter admits, and drops the
//! rest by name.

use ipop_common::filter::{STRANGERS_MAX, WINDOW_NS};
use ipop_common::wireguard::{self, COOKIE_REPLY_LEN, INITIATION_LEN, MAC_LEN, RESPONSE_LEN};
use ipop_common::{Address, Counter};
use ipop_overlay::session::Mac1Key;
use ipop_tests::programs::{Action, Input, Program, Programs};
use ipop_tests::sealed::{DAEMON_PORT, SealedFrame};
use ipop_tests::world::{Peer, World};
use ipop_tests::{namespace, needs_root};

use crate::scenario::{DEVICE, HELPER, expect, peer_v4, peer_v6, same_bytes};

const PUBLIC_KEY: [u8; 32] = [7; 32];
const SEED: u64 = 0x0123_4567_89ab_cdef;
/// Past every test.
const FOREVER_NS: u64 = u64::MAX;

fn programs() -> Programs {
    namespace::enter_new();
    let mut programs = Programs::load();
    programs.install(&World::new(DEVICE, HELPER));
    programs
}

/// What a daemon does when it starts.
fn set_key(programs: &Programs) -> Mac1Key {
    let mac1 = Mac1Key::new(&PUBLIC_KEY);
    programs.places().filter().set_key(mac1.key(), SEED);
    mac1
}

fn message(kind: u8, len: usize, mac1: &Mac1Key) -> Vec<u8> {
    let mut message: Vec<u8> = (0..len).map(|at| (at * 11 + 3) as u8).collect();
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    mac1.fill_in(&mut message).expect("a kind that has a mac1");
    message[len - MAC_LEN..].fill(0);
    message
}

fn initiation(mac1: &Mac1Key) -> Vec<u8> {
    message(wireguard::TYPE_INITIATION, INITIATION_LEN, mac1)
}

fn frame(peer: &Peer, message: &[u8]) -> Vec<u8> {
    let frame = SealedFrame {
        destination_mac: peer.local_mac,
        source_mac: peer.remote_mac,
        source: peer.remote,
        destination: peer.local,
        source_port: DAEMON_PORT,
        has_checksum: true,
        message: message.to_vec(),
    };
    frame.to_bytes()
}

#[track_caller]
fn passes(programs: &mut Programs, frame: &[u8], counter: Counter) {
    let output = expect(programs, Program::Ingress, Input::frame(frame), Action::Pass, &[counter]);
    same_bytes(&output.packet, frame, "a frame for the daemon");
}

#[track_caller]
fn refused(programs: &mut Programs, frame: &[u8], counter: Counter) {
    expect(programs, Program::Ingress, Input::frame(frame), Action::Drop, &[counter]);
    let output = expect(programs, Program::Xdp, Input::frame(frame), Action::Pass, &[]);
    same_bytes(&output.packet, frame, "a frame that XDP leaves to TC");
}

#[test]
fn a_message_with_the_right_mac1_passes_and_every_other_is_refused() {
    needs_root!();
    let mut programs = programs();
    for peer in [peer_v4(1), peer_v6(2)] {
        let unset =
            frame(&peer, &message(wireguard::TYPE_INITIATION, INITIATION_LEN, &Mac1Key::new(&[1; 32])));
        programs.places().filter().set_peers([].into_iter());
        let mac1 = set_key(&programs);
        refused(&mut programs, &unset, Counter::RxBadMac1);
        for (kind, len) in
            [(wireguard::TYPE_INITIATION, INITIATION_LEN), (wireguard::TYPE_RESPONSE, RESPONSE_LEN)]
        {
            let good = message(kind, len, &mac1);
            passes(&mut programs, &frame(&peer, &good), Counter::RxToUser);
            for byte in 4..len - MAC_LEN {
                let mut bad = good.clone();
                bad[byte] ^= 1;
                refused(&mut programs, &frame(&peer, &bad), Counter::RxBadMac1);
            }
        }
    }
}

#[test]
fn before_a_daemon_has_set_the_key_all_messages_are_its_own_business() {
    needs_root!();
    let mut programs = programs();
    let garbage =
        frame(&peer_v4(1), &[&[wireguard::TYPE_INITIATION, 0, 0, 0][..], &[9; INITIATION_LEN - 4]].concat());
    passes(&mut programs, &garbage, Counter::RxToUser);
}

#[test]
fn what_is_no_initiation_and_no_response_by_its_length_is_left_alone() {
    needs_root!();
    let mut programs = programs();
    let mac1 = set_key(&programs);
    let peer = peer_v4(1);
    let good = initiation(&mac1);
    let longer = [&good[..], &[0]].concat();
    let cookie = [&[wireguard::TYPE_COOKIE_REPLY, 0, 0, 0][..], &[5; COOKIE_REPLY_LEN - 4]].concat();
    for message in [&good[..INITIATION_LEN - 1], &longer, &good[..4], &good[..1], &cookie, &[1, 1, 0, 0], &[]]
    {
        passes(&mut programs, &frame(&peer, message), Counter::RxNotOurs);
    }
}

#[test]
fn under_load_strangers_are_few_and_peers_are_not_among_them() {
    needs_root!();
    let mut programs = programs();
    let mac1 = set_key(&programs);
    let [stranger, peer] = [1, 2].map(|n| frame(&peer_v4(n), &initiation(&mac1)));
    let peer_address = Address::from(peer_v4(2).remote);
    programs.places().filter().set_peers([peer_address].into_iter());
    programs.places().filter().close(FOREVER_NS);
    let before = programs.counters();
    let mut sent = 0;
    // Until they are refused for the third time: in three windows, or fewer that were longer.
    while programs.counters().since(&before).of(Counter::RxHandshakeFlood) < 3 {
        programs.run(Program::Ingress, Input::frame(&stranger));
        sent += 1;
        assert!(sent < 1000, "nothing is refused, though {WINDOW_NS} ns last longer than this");
    }
    let moved = programs.counters().since(&before);
    let passed = moved.of(Counter::RxToUser);
    assert_eq!(passed + moved.of(Counter::RxHandshakeFlood), sent);
    assert!(passed >= u64::from(STRANGERS_MAX), "{passed} of {sent} have passed");
    passes(&mut programs, &peer, Counter::RxToUser);
    programs.places().filter().close(0);
    passes(&mut programs, &stranger, Counter::RxToUser);
}
