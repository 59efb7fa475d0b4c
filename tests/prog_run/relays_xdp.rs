//! Relay frames before XDP: what goes out where it came in leaves with the very bytes that TC would give it;
//! everything else is TC's, untouched.

use ipop_common::Counter;
use ipop_common::checksum;
use ipop_common::maps::Relay;
use ipop_common::relay::{self, Exit};
use ipop_tests::needs_root;
use ipop_tests::programs::{Action, Input, Program, Programs};
use ipop_tests::sealed::SealedFrame;
use ipop_tests::world::{LEASE_OVER, Peer, World};

use crate::relays::{PORTS, frame, of_others, on_its_last_hop, pairs, relaying, world};
use crate::scenario::{DEVICE, HELPER, expect, same_bytes};

/// By the interface of a test run, whose driver sends what XDP says.
fn pair(ends: &[Peer; 2], lease_until_ns: u64, limit: u64) -> Relay {
    pair_by(Exit::Transmit, ends, lease_until_ns, limit)
}

fn pair_by(exit: Exit, ends: &[Peer; 2], lease_until_ns: u64, limit: u64) -> Relay {
    let [a, b] = [0, 1].map(|end| relay::Way { exit: Some(exit), ..ends[end].way(PORTS[end]) });
    Relay::new([&a, &b], lease_until_ns, limit).expect("both of one family")
}

#[track_caller]
fn left_to_tc(programs: &mut Programs, frame: &[u8]) {
    let output = expect(programs, Program::Xdp, Input::frame(frame), Action::Pass, &[]);
    same_bytes(&output.packet, frame, "a frame that XDP leaves to TC");
}

/// XDP sends the frame, and TC would send the same.
#[track_caller]
fn sent(programs: &mut Programs, frame: &[u8]) -> Vec<u8> {
    let (input, by_tc, by_xdp) = (Input::frame(frame), [Counter::RxRelayed], [Counter::RxXdpRelayed]);
    let expected = expect(programs, Program::Ingress, input, Action::Redirect, &by_tc).packet;
    let output = expect(programs, Program::Xdp, input, Action::Transmit, &by_xdp);
    same_bytes(&output.packet, &expected, "what XDP sends, and TC");
    assert!(output.metadata.is_empty(), "nothing is said to TC");
    expected
}

/// Where the UDP header of a frame begins.
fn udp_at(peer: &Peer) -> usize {
    if peer.local.is_ipv4() { 34 } else { 54 }
}

/// The UDP checksum of a frame, and its pseudo-header's sum, which is what stands there where hardware is to
/// complete it.
fn checksums(peer: &Peer, frame: &[u8]) -> (u16, u16) {
    let udp = udp_at(peer);
    let addresses = if peer.local.is_ipv4() { &frame[26..34] } else { &frame[22..54] };
    let len = u32::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
    let check = u16::from_be_bytes([frame[udp + 6], frame[udp + 7]]);
    (check, checksum::fold(checksum::pseudo_header(addresses, 17, len)))
}

#[test]
fn what_one_end_sends_leaves_by_xdp_as_tc_would_send_it() {
    needs_root!();
    let messages: [&[u8]; 4] = [&[4, 0, 0, 0, 9, 9], &[7; 1400], &[], &[1]];
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        for (from, to) in [(0, 1), (1, 0)] {
            for (message, has_checksum) in messages.into_iter().flat_map(|m| [(m, true), (m, false)]) {
                let mut frame = frame(&ends[from], PORTS[from], message, has_checksum).to_bytes();
                let udp = udp_at(&ends[0]);
                if !has_checksum {
                    // Over IPv6 too: a kernel path has sealed it.
                    frame[udp + 6..udp + 8].fill(0);
                }
                let onward = sent(&mut programs, &frame);
                let (check, pseudo_header) = checksums(&ends[to], &onward);
                if has_checksum {
                    let len = onward.len() - udp;
                    assert_eq!(usize::from(u16::from_be_bytes([onward[udp + 4], onward[udp + 5]])), len);
                    let sum = u32::from(checksum::fold(checksum::sum(&onward[udp..])));
                    assert_eq!(checksum::fold(sum + u32::from(pseudo_header)), 0xffff, "it is right");
                    assert_ne!(check, 0);
                } else {
                    assert_eq!(check, 0, "none stays none");
                }
            }
        }
    }
}

/// All checksums that there are: the update is the kernel's, its zeroes included.
#[test]
fn the_checksum_is_updated_as_the_kernel_does() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        let mut frame = frame(&ends[0], PORTS[0], &[9; 30], true).to_bytes();
        let (udp, (_, unfinished)) = (udp_at(&ends[0]), checksums(&ends[0], &frame));
        let relay = pair(&ends, u64::MAX, 0);
        // What makes the sum come to zero: the complement of what is added.
        let change = u32::from(relay.ends[0].addresses) + u32::from(relay.ends[0].ports);
        let to_zero = checksum::fold(change);
        for check in (0..=u16::MAX).step_by(251).chain([1, 0xfffe, 0xffff, to_zero, !to_zero, to_zero - 1]) {
            if check == unfinished {
                continue;
            }
            frame[udp + 6..udp + 8].copy_from_slice(&check.to_be_bytes());
            let onward = sent(&mut programs, &frame);
            assert_eq!(onward[udp + 6..udp + 8] == [0, 0], check == 0);
        }
    }
}

/// A sender on the same machine leaves the sum to hardware: only TC knows of that.
#[test]
fn a_checksum_that_is_still_to_be_completed_is_left_to_tc() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        for message in [&[7; 1000][..], &[1]] {
            let mut frame = frame(&ends[0], PORTS[0], message, true).to_bytes();
            let (udp, (_, pseudo_header)) = (udp_at(&ends[0]), checksums(&ends[0], &frame));
            frame[udp + 6..udp + 8].copy_from_slice(&pseudo_header.to_be_bytes());
            left_to_tc(&mut programs, &frame);
        }
    }
}

#[test]
fn what_is_not_known_to_go_out_by_the_driver_is_left_to_tc() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        let good = frame(&ends[0], PORTS[0], &[4, 0, 0, 0], true);
        sent(&mut programs, &good.to_bytes());
        // For another host's MAC.
        for bit in 0..48 {
            let mut destination_mac = good.destination_mac;
            destination_mac[bit / 8] ^= 1 << (bit % 8);
            left_to_tc(&mut programs, &SealedFrame { destination_mac, ..good.clone() }.to_bytes());
        }
        // A veth's way out.
        programs.install(&world(pair_by(Exit::Redirect, &ends, u64::MAX, 0)));
        let (bytes, by_xdp) = (good.to_bytes(), [Counter::RxXdpRelayed]);
        expect(&mut programs, Program::Xdp, Input::frame(&bytes), Action::Redirect, &by_xdp);
        // To a driver that does not send.
        programs.install(&world(crate::relays::pair(&ends, u64::MAX, 0)));
        left_to_tc(&mut programs, &good.to_bytes());
        // By another interface than it came by.
        let elsewhere = Peer { ifindex: 2, ..ends[1].clone() };
        programs.install(&world(pair(&[ends[0].clone(), elsewhere], u64::MAX, 0)));
        left_to_tc(&mut programs, &good.to_bytes());
        programs.install(&world(pair(&ends, u64::MAX, 0)));
        sent(&mut programs, &good.to_bytes());
    }
}

#[test]
fn what_is_not_between_the_two_is_left_to_tc() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        let good = frame(&ends[0], PORTS[0], &[4, 0, 0, 0], true);
        let mut message = good.message.clone();
        message[7] ^= 1;
        let mut others = of_others(&good, &ends[0]).to_vec();
        others.push(SealedFrame { message, ..good.clone() });
        for other in others {
            left_to_tc(&mut programs, &other.to_bytes());
        }
        let bytes = good.to_bytes();
        for len in 14..udp_at(&ends[0]) + 8 + relay::HEADER_LEN {
            left_to_tc(&mut programs, &bytes[..len]);
        }
        programs.install(&World::new(DEVICE, HELPER));
        left_to_tc(&mut programs, &bytes);
        programs.install(&world(pair(&ends, LEASE_OVER, 0)));
        left_to_tc(&mut programs, &bytes);
    }
}

#[test]
fn what_goes_in_circles_and_what_is_over_the_limit_is_dropped_by_xdp() {
    needs_root!();
    for ends in pairs() {
        let mut programs = relaying(pair(&ends, u64::MAX, 0));
        let good = frame(&ends[0], PORTS[0], &[7; 1000], true).to_bytes();
        let old = on_its_last_hop(&good, &ends[0]);
        expect(&mut programs, Program::Xdp, Input::frame(&old), Action::Drop, &[Counter::RxRelayLoop]);
        // One frame and no more in each window, whoever passes it on.
        programs.install(&world(pair(&ends, u64::MAX, 1500)));
        let before = programs.counters();
        let mut sent = 0;
        while programs.counters().since(&before).of(Counter::RxRelayLimit) < 2 {
            for program in [Program::Xdp, Program::Ingress] {
                programs.run(program, Input::frame(&good));
                sent += 1;
            }
            assert!(sent < 1000, "nothing is too much");
        }
        let moved = programs.counters().since(&before);
        let refused = moved.of(Counter::RxRelayLimit);
        let passed = moved.of(Counter::RxRelayed) + moved.of(Counter::RxXdpRelayed);
        assert_eq!((passed + refused, moved.moved().len() <= 3), (sent, true), "{moved:?}");
    }
}
