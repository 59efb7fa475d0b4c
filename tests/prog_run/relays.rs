//! Relay frames to the daemon's port: TC ingress passes on what comes from one of two nodes between which this
//! one relays, with the headers of a frame to the other, and leaves all else to the daemon.

use ipop_common::Counter;
use ipop_common::maps::Relay;
use ipop_common::relay;
use ipop_tests::packet::Mac;
use ipop_tests::programs::{Action, Input, Program, Programs};
use ipop_tests::sealed::{DAEMON_PORT, SealedFrame};
use ipop_tests::world::{LEASE_OVER, Peer, World};
use ipop_tests::{namespace, needs_root};

use crate::scenario::{DEVICE, HELPER, expect, peer_v4, peer_v6, same_bytes};

pub(crate) const LABEL: u32 = 0x0102_0304;
/// The ports of the two ends, as their NATs have them.
pub(crate) const PORTS: [u16; 2] = [40_001, 61_000];

pub(crate) fn pair(ends: &[Peer; 2], lease_until_ns: u64, limit: u64) -> Relay {
    let [a, b] = [ends[0].way(PORTS[0]), ends[1].way(PORTS[1])];
    Relay::new([&a, &b], lease_until_ns, limit).expect("both of one family")
}

/// Both ends of a pair, of each family.
pub(crate) fn pairs() -> [[Peer; 2]; 2] {
    [[peer_v4(1), peer_v4(3)], [peer_v6(1), peer_v6(3)]]
}

/// Frames like a good one of `end`, which are not between the two: from another port, and from and to another address.
pub(crate) fn of_others(good: &SealedFrame, end: &Peer) -> [SealedFrame; 3] {
    let stranger = if end.local.is_ipv4() { peer_v4(2) } else { peer_v6(2) };
    [
        SealedFrame { source_port: PORTS[1], ..good.clone() },
        SealedFrame { source: stranger.remote, ..good.clone() },
        SealedFrame { destination: stranger.remote, ..good.clone() },
    ]
}

/// A frame of `end` whose time to live, or hop limit, is used up.
pub(crate) fn on_its_last_hop(good: &[u8], end: &Peer) -> Vec<u8> {
    let mut old = good.to_vec();
    let hops = if end.local.is_ipv4() { 22 } else { 21 };
    old[hops] = 1;
    old
}

pub(crate) fn relaying(relay: Relay) -> Programs {
    namespace::enter_new();
    let mut programs = Programs::load();
    programs.install(&world(relay));
    programs
}

pub(crate) fn world(relay: Relay) -> World {
    let mut world = World::new(DEVICE, HELPER);
    world.relays.insert(LABEL, relay);
    world
}

/// A frame from one end.
pub(crate) fn frame(peer: &Peer, port: u16, message: &[u8], has_checksum: bool) -> SealedFrame {
    SealedFrame {
        destination_mac: peer.local_mac,
        source_mac: peer.remote_mac,
        source: peer.remote,
        destination: peer.local,
        source_port: port,
        has_checksum,
        message: [&relay::header(LABEL)[..], message].concat(),
    }
}

/// What is to go out to the other end, put together from nothing.
fn onward(peer: &Peer, port: u16, message: &[u8], has_checksum: bool) -> Vec<u8> {
    let (destination_mac, source_mac): (Mac, Mac) = (peer.remote_mac, peer.local_mac);
    let frame = SealedFrame {
        destination_mac,
        source_mac,
        source: peer.local,
        destination: peer.remote,
        source_port: DAEMON_PORT,
        has_checksum,
        message: [&relay::header(LABEL)[..], message].concat(),
    };
    let mut bytes = frame.to_bytes_to(port);
    // It has one hop less to go.
    if peer.local.is_ipv4() {
        bytes[22] -= 1;
        let sum = ipop_common::checksum::sum(&bytes[14..24]) + ipop_common::checksum::sum(&bytes[26..34]);
        bytes[24..26].copy_from_slice(&ipop_common::checksum::finish(sum).to_be_bytes());
    } else {
        bytes[21] -= 1;
    }
    bytes
}

#[track_caller]
fn left_to_the_daemon(programs: &mut Programs, frame: &[u8]) {
    let output = expect(programs, Program::Ingress, Input::frame(frame), Action::Pass, &[Counter::RxToUser]);
    same_bytes(&output.packet, frame, "a frame for the daemon");
}

#[test]
fn what_one_end_sends_goes_to_the_other_unchanged() {
    needs_root!();
    let messages: [&[u8]; 4] = [&[4, 0, 0, 0, 9, 9], &[7; 1400], &[], &[1]];
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        for (from, to) in [(0, 1), (1, 0)] {
            for message in messages {
                // Over IPv6 there is always one.
                let checksums = if ends[0].local.is_ipv4() { &[true, false][..] } else { &[true] };
                for has_checksum in checksums {
                    let frame = frame(&ends[from], PORTS[from], message, *has_checksum).to_bytes();
                    let output = expect(
                        &mut programs,
                        Program::Ingress,
                        Input::frame(&frame),
                        Action::Redirect,
                        &[Counter::RxRelayed],
                    );
                    let expected = onward(&ends[to], PORTS[to], message, *has_checksum);
                    same_bytes(&output.packet, &expected, "what goes out");
                }
            }
        }
    }
}

#[test]
fn what_comes_from_elsewhere_or_with_another_label_is_the_daemons() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        let good = frame(&ends[0], PORTS[0], &[4, 0, 0, 0], true);
        let mut others = of_others(&good, &ends[0]).to_vec();
        for bit in 0..32 {
            let mut message = good.message.clone();
            message[4 + bit / 8] ^= 1 << (bit % 8);
            others.push(SealedFrame { message, ..good.clone() });
        }
        for other in others {
            left_to_the_daemon(&mut programs, &other.to_bytes());
        }
        programs.install(&World::new(DEVICE, HELPER));
        left_to_the_daemon(&mut programs, &good.to_bytes());
        programs.install(&world(pair(&ends, LEASE_OVER, 0)));
        left_to_the_daemon(&mut programs, &good.to_bytes());
    }
}

#[test]
fn what_is_no_relay_frame_is_left_alone() {
    needs_root!();
    let ends = [peer_v4(1), peer_v4(3)];
    let mut programs = relaying(pair(&ends, u64::MAX, 0));
    let good = frame(&ends[0], PORTS[0], &[4, 0, 0, 0], true);
    for len in 0..relay::HEADER_LEN {
        let cut = SealedFrame { message: good.message[..len].to_vec(), ..good.clone() }.to_bytes();
        expect(&mut programs, Program::Ingress, Input::frame(&cut), Action::Pass, &[Counter::RxNotOurs]);
    }
    for byte in 1..4 {
        let mut message = good.message.clone();
        message[byte] = 1;
        let bent = SealedFrame { message, ..good.clone() }.to_bytes();
        expect(&mut programs, Program::Ingress, Input::frame(&bent), Action::Pass, &[Counter::RxNotOurs]);
    }
}

#[test]
fn what_goes_in_circles_and_what_is_over_the_limit_is_dropped() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        let good = frame(&ends[0], PORTS[0], &[7; 1000], true).to_bytes();
        let old = on_its_last_hop(&good, &ends[0]);
        expect(&mut programs, Program::Ingress, Input::frame(&old), Action::Drop, &[Counter::RxRelayLoop]);
        // One frame and no more in each window.
        programs.install(&world(pair(&ends, u64::MAX, 1500)));
        let before = programs.counters();
        let mut sent = 0;
        while programs.counters().since(&before).of(Counter::RxRelayLimit) == 0 {
            programs.run(Program::Ingress, Input::frame(&good));
            sent += 1;
            assert!(sent < 1000, "nothing is too much");
        }
        let moved = programs.counters().since(&before);
        assert_eq!(moved.of(Counter::RxRelayed) + 1, sent);
    }
}
