//! Frames from the wire that are well formed: whose are delivered, and whose are not.

use ipop_common::Counter;
use ipop_common::maps::LinkRef;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ClearFrame};
use ipop_tests::programs::{Action, Input, Program, Programs};

use crate::scenario::{
    PEER_MAC, address, delivered, expect, from_peer, good_frames, loaded, own_v4, own_v6, refused,
    same_bytes, untouched,
};

#[test]
fn a_frame_of_a_peer_is_delivered_in_all_families() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (slot, frame) in good_frames(&peers) {
        delivered(&mut programs, slot, &frame.to_bytes(), &frame.inner);
    }
}

#[test]
fn a_peer_may_use_every_address_of_its_prefixes_and_no_other() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let from = |text: &str| {
        let source = address(text);
        let to = if source.is_ipv4() { own_v4() } else { own_v6() };
        packet::udp(source, to, (1, 2), b"x")
    };
    for text in ["172.16.0.0", "172.31.255.255", "172.16.4.255", "172.16.6.0", "fd00:77:ffff::1"] {
        let frame = peers.router.frame(from(text));
        delivered(&mut programs, peers.router.slot, &frame.to_bytes(), &frame.inner);
    }
    // Outside of it, another peer's part of it, another peer's address, this node's own.
    for text in ["172.32.0.0", "172.16.5.9", "8.0.1.1", "10.64.0.1", "fd00:78::1", "fd00:64::1", "::"] {
        let frame = peers.router.frame(from(text)).to_bytes();
        refused(&mut programs, &frame, Counter::RxWrongInnerSource);
    }
}

#[test]
fn a_link_id_that_is_not_the_peers_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let inner = from_peer(&peers.v4, false);
    let with_id = |link_id| ClearFrame { link_id, ..peers.v4.frame(inner.clone()) }.to_bytes();
    refused(&mut programs, &with_id(0), Counter::RxBadHeader);
    for bit in 0..24 {
        let id = peers.v4.link_id ^ 1 << bit;
        // Of some other peer, or of none.
        let is_known = (1..=6).any(|n| id == 0x00ab_cd00 | n);
        if !is_known {
            refused(&mut programs, &with_id(id), Counter::RxUnknownLink);
        }
    }
    refused(&mut programs, &with_id(peers.router.link_id), Counter::RxWrongOuterSource);
    refused(&mut programs, &with_id(peers.v6.link_id), Counter::RxWrongOuterSource);
}

#[test]
fn an_outer_source_that_is_not_the_peers_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        let others = if peer.remote.is_ipv4() {
            ["192.0.2.12", "192.0.2.1", "0.0.0.0", "255.255.255.255", "127.0.0.1"]
        } else {
            ["2001:db8::13", "2001:db8::1", "::", "::1", "::ffff:192.0.2.11"]
        };
        for source in others.map(address) {
            let frame = ClearFrame { source, ..peer.frame(from_peer(peer, false)) }.to_bytes();
            refused(&mut programs, &frame, Counter::RxWrongOuterSource);
        }
    }
}

#[test]
fn an_outer_destination_that_is_not_the_links_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        let others = if peer.local.is_ipv4() {
            ["192.0.2.2", "192.0.2.255", "224.0.0.1"]
        } else {
            ["2001:db8::2", "ff02::1", "::ffff:192.0.2.1"]
        };
        for destination in others.map(address) {
            let frame = ClearFrame { destination, ..peer.frame(from_peer(peer, false)) }.to_bytes();
            refused(&mut programs, &frame, Counter::RxWrongOuterDestination);
        }
    }
}

#[test]
fn an_ipv6_header_does_not_speak_for_an_ipv4_peer() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let inner = from_peer(&peers.v4, false);
    // The same addresses, spelled as IPv6, outside ..
    let outer = ClearFrame {
        source: address("::ffff:192.0.2.11"),
        destination: address("::ffff:192.0.2.1"),
        ..peers.v4.frame(inner)
    };
    refused(&mut programs, &outer.to_bytes(), Counter::RxWrongOuterSource);
    // .. and inside.
    let inner = packet::udp(address("::ffff:8.0.1.1"), own_v6(), (1, 2), b"x");
    refused(&mut programs, &peers.v4.frame(inner).to_bytes(), Counter::RxWrongInnerSource);
}

#[test]
fn an_inner_source_of_somebody_else_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for source in ["10.64.0.1", "8.0.1.2", "8.0.9.9", "0.0.0.0", "127.0.0.1", "224.0.0.1", "192.0.2.11"] {
        let inner = packet::udp(address(source), own_v4(), (1, 2), b"x");
        refused(&mut programs, &peers.v4.frame(inner).to_bytes(), Counter::RxWrongInnerSource);
    }
    for source in ["fd00:64::1", "fd00:0:86dd::2", "::", "::1", "ff02::1", "2001:db8::11"] {
        let inner = packet::udp(address(source), own_v6(), (1, 2), b"x");
        refused(&mut programs, &peers.v4.frame(inner).to_bytes(), Counter::RxWrongInnerSource);
    }
}

#[test]
fn a_frame_within_a_frame_is_not_taken_apart_twice() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    // A peer wraps what looks like another peer's frame, without its Ethernet header.
    let nested = peers.router.frame(from_peer(&peers.router, false)).to_bytes();
    let outer = peers.v4.frame(nested[14..].to_vec()).to_bytes();
    refused(&mut programs, &outer, Counter::RxWrongInnerSource);
    // From an address of its own it is a packet like any other: delivered once, as it is.
    let payload = &nested[14 + 20..];
    let inner = packet::ip(peers.v4.inner_v4, own_v4(), packet::UDP, payload);
    let frame = peers.v4.frame(inner.clone()).to_bytes();
    delivered(&mut programs, peers.v4.slot, &frame, &inner);
}

#[test]
fn a_link_that_has_changed_or_expired_receives_nothing() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    for is_v6 in [false, true] {
        let stale = peers.stale.frame(from_peer(&peers.stale, is_v6)).to_bytes();
        refused(&mut programs, &stale, Counter::RxStaleEpoch);
        let expired = peers.expired.frame(from_peer(&peers.expired, is_v6)).to_bytes();
        refused(&mut programs, &expired, Counter::RxLeaseExpired);
    }
    // An entry that has been emptied, a slot outside the table, and one with epoch 0.
    let frame = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    for to in [
        LinkRef { slot: 4000, epoch: 7 },
        LinkRef { slot: u32::MAX, epoch: 7 },
        LinkRef { slot: 4000, epoch: 0 },
    ] {
        world.link_ids.insert(peers.v4.link_id, to);
        programs.install(&world);
        refused(&mut programs, &frame, Counter::RxStaleEpoch);
    }
}

#[test]
fn while_a_link_moves_to_its_other_slot_both_are_the_peers() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    let mut moved = peers.v4.clone();
    moved.slot += 1;
    moved.epoch += 1;
    world.links.insert(moved.slot, moved.link());
    world.link_ids.insert(moved.link_id, moved.reference());
    programs.install(&world);
    // The addresses still name the first slot; the link id already names the second.
    let frame = peers.v4.frame(from_peer(&peers.v4, false));
    delivered(&mut programs, moved.slot, &frame.to_bytes(), &frame.inner);
}

#[test]
fn a_receive_only_link_receives() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let frame = peers.receive_only.frame(from_peer(&peers.receive_only, false));
    delivered(&mut programs, peers.receive_only.slot, &frame.to_bytes(), &frame.inner);
}

#[test]
fn switched_off_the_kernel_path_still_receives() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    world.config.enabled = 0;
    programs.install(&world);
    let frame = peers.v4.frame(from_peer(&peers.v4, false));
    delivered(&mut programs, peers.v4.slot, &frame.to_bytes(), &frame.inner);
}

#[test]
fn a_frame_for_another_hosts_address_is_left_alone() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        for destination_mac in [PEER_MAC, [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let frame = ClearFrame { destination_mac, ..frame.clone() };
            untouched(&mut programs, &frame.to_bytes());
            // Nor is it refused if it is bad.
            untouched(&mut programs, &ClearFrame { link_id: 1, ..frame }.to_bytes());
        }
    }
}

#[test]
fn xdp_leaves_headers_that_it_cannot_read_to_tc() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let payload = vec![7; 3000];
    let inner = packet::udp(peers.v4.inner_v4, own_v4(), (1, 2), &payload);
    let frame = peers.v4.frame(inner).to_bytes();
    if !takes_split_frames(&mut programs, &frame) {
        ipop_tests::privilege::skip(
            "prog_run::ingress::xdp_leaves_headers_that_it_cannot_read_to_tc",
            "this kernel's test runs split no frame where they are told to",
        );
        return;
    }
    for linear in 14..120 {
        let input = Input { linear: Some(linear), ..Input::frame(&frame) };
        if linear < 14 + 20 + 8 + 8 + 20 {
            let output = expect(&mut programs, Program::Xdp, input, Action::Pass, &[]);
            same_bytes(&output.packet, &frame, "a frame that XDP leaves to TC");
        } else {
            let counter = [Counter::RxXdpDecapsulated];
            expect(&mut programs, Program::Xdp, input, Action::Pass, &counter);
        }
    }
}

fn takes_split_frames(programs: &mut Programs, frame: &[u8]) -> bool {
    programs.repeat(Program::Xdp, Input { linear: Some(100), ..Input::frame(frame) }, 1).is_ok()
}

#[test]
fn xdp_takes_frames_of_several_buffers() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for len in [3300, 4200, 8900] {
        let payload: Vec<u8> = (0..len).map(|i: u32| i.to_le_bytes()[0]).collect();
        let inner = packet::udp(peers.v4.inner_v4, own_v4(), (1, 2), &payload);
        let frame = peers.v4.frame(inner.clone()).to_bytes();
        let counter = [Counter::RxXdpDecapsulated];
        let output = expect(&mut programs, Program::Xdp, Input::frame(&frame), Action::Pass, &counter);
        same_bytes(&output.packet, &[&frame[..14], &inner].concat(), "a frame of several buffers");
    }
}

/// A super-packet has no GSO type in a test run, so the kernel refuses to change it: see
/// `programs`. What the program decided shows all the same.
#[test]
fn super_packets_that_a_program_must_not_take_apart_are_left_to_the_stack() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let payload = [1; 1000];
    let peer = &peers.v4;
    let elsewhere = address("10.99.0.1");
    let left = [
        packet::udp(peer.inner_v4, own_v4(), (1, 2), &payload),
        packet::udp(peer.inner_v6, own_v6(), (1, 2), &payload),
        packet::tcp(peer.inner_v4, elsewhere, (1, 2), &payload),
        packet::tcp(peer.inner_v4, peers.v6.inner_v4, (1, 2), &payload),
    ];
    for inner in left {
        let frame = peer.frame(inner).to_bytes();
        let input = Input::gso(&frame, 400, 3);
        let output = expect(&mut programs, Program::Ingress, input, Action::Pass, &[Counter::RxToStack]);
        same_bytes(&output.packet, &frame, "a super-packet that is left to the stack");
    }
    let own = peer.frame(packet::tcp(peer.inner_v4, own_v4(), (1, 2), &payload)).to_bytes();
    let input = Input::gso(&own, 400, 3);
    expect(&mut programs, Program::Ingress, input, Action::Drop, &[Counter::RxNoRoom]);
    // Refused is refused.
    let inner = packet::udp(address("10.1.1.1"), own_v4(), (1, 2), &payload);
    let frame = peer.frame(inner).to_bytes();
    let input = Input::gso(&frame, 400, 3);
    expect(&mut programs, Program::Ingress, input, Action::Drop, &[Counter::RxWrongInnerSource]);
}

#[test]
fn what_the_daemon_writes_is_handed_to_the_device() {
    needs_root!();
    let (mut programs, _, _) = loaded();
    let frame = packet::ethernet([0; 6], PEER_MAC, 0x0800, &packet::udp(own_v4(), own_v4(), (1, 2), b"x"));
    let output = expect(&mut programs, Program::Deliver, Input::frame(&frame), Action::Redirect, &[]);
    same_bytes(&output.packet, &frame, "what the daemon wrote");
}

#[test]
fn what_no_tunnel_brought_passes_the_guard() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let frame = frame.to_bytes();
        let output = expect(&mut programs, Program::Guard, Input::frame(&frame), Action::Pass, &[]);
        same_bytes(&output.packet, &frame, "what no tunnel brought");
    }
}
