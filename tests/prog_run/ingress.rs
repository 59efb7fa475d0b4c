//! Frames from the wire: what is delivered, and everything that a hostile sender may try.

use ipop_common::Counter;
use ipop_common::maps::LinkRef;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ClearFrame, checksum};
use ipop_tests::programs::{Action, Input, Program, Programs};

use crate::scenario::{
    PEER_MAC, Peers, address, delivered, expect, from_peer, loaded, own_v4, own_v6, refused, same_bytes,
    untouched,
};

/// A good frame of every combination of families: v4 in v4, v6 in v4, v4 in v6, v6 in v6.
fn good_frames(peers: &Peers) -> Vec<(u32, ClearFrame)> {
    let mut frames = Vec::new();
    for peer in [&peers.v4, &peers.v6] {
        for inner_is_v6 in [false, true] {
            frames.push((peer.slot, peer.frame(from_peer(peer, inner_is_v6))));
        }
    }
    frames
}

/// Writes the outer IPv4 header's checksum anew: the programs do not look at it, the stack does.
fn set_outer_checksum(frame: &mut [u8]) {
    let header_len = usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let check = checksum(&frame[14..14 + header_len]).to_be_bytes();
    frame[24..26].copy_from_slice(&check);
}

#[test]
fn a_frame_of_a_peer_is_delivered_in_all_families() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (slot, frame) in good_frames(&peers) {
        delivered(&mut programs, slot, &frame.to_bytes(), &frame.inner);
    }
}

#[test]
fn padding_behind_a_short_frame_is_no_contradiction() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (slot, frame) in good_frames(&peers) {
        let padding = [0xaa; 18];
        let padded = [&frame.to_bytes()[..], &padding].concat();
        delivered(&mut programs, slot, &padded, &[&frame.inner[..], &padding].concat());
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
fn a_frame_cut_at_any_length_is_never_delivered() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let bytes = frame.to_bytes();
        // Up to its ports, nothing shows that it is ours. A test run takes no frame that ends within
        // its IP header: those are sent over a wire, in `wire`.
        let ports_end = frame.udp_at() + 4;
        for len in frame.udp_at()..bytes.len() {
            if len < ports_end {
                untouched(&mut programs, &bytes[..len]);
            } else {
                refused(&mut programs, &bytes[..len], Counter::RxTruncated);
            }
        }
    }
}

#[test]
fn a_frame_cut_at_any_length_whose_outer_lengths_agree_is_never_delivered() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let bytes = frame.to_bytes();
        for len in frame.udp_at() + 8..bytes.len() {
            let cut = with_outer_lengths(&frame, &bytes[..len]);
            let inner_header_len = if frame.inner[0] >> 4 == 4 { 20 } else { 40 };
            let counter = if len < frame.header_len() + inner_header_len {
                Counter::RxTruncated
            } else {
                Counter::RxBadLength
            };
            refused(&mut programs, &cut, counter);
        }
    }
}

/// The same bytes with IP and UDP lengths that fit them.
fn with_outer_lengths(frame: &ClearFrame, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let udp_len = u16::try_from(bytes.len() - frame.udp_at()).expect("short");
    let at = frame.udp_at() + 4;
    bytes[at..at + 2].copy_from_slice(&udp_len.to_be_bytes());
    if frame.source.is_ipv4() {
        bytes[16..18].copy_from_slice(&(udp_len + 20).to_be_bytes());
        set_outer_checksum(&mut bytes);
    } else {
        bytes[18..20].copy_from_slice(&udp_len.to_be_bytes());
    }
    bytes
}

#[test]
fn lengths_that_contradict_one_another_are_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let good = frame.to_bytes();
        let inner_len_at = frame.header_len() + if frame.inner[0] >> 4 == 4 { 2 } else { 4 };
        for (at, what) in [(frame.udp_at() + 4, "UDP"), (inner_len_at, "inner")] {
            let right = u16::from_be_bytes([good[at], good[at + 1]]);
            for wrong in [0, 1, 7, 8, 15, right - 1, right + 1, right ^ 0x100, 0xffff] {
                let mut frame = good.clone();
                frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
                let is_too_short_for_v4 = what == "inner" && good[inner_len_at - 2] >> 4 == 4 && wrong < 20;
                let is_too_long_for_v6 =
                    what == "inner" && good[inner_len_at - 4] >> 4 == 6 && wrong == 0xffff;
                let counter = if is_too_short_for_v4 || is_too_long_for_v6 {
                    Counter::RxBadInner
                } else {
                    Counter::RxBadLength
                };
                refused(&mut programs, &frame, counter);
            }
        }
    }
}

#[test]
fn an_outer_length_shorter_than_its_header_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let good = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    for len in 0..20u16 {
        let mut frame = good.clone();
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        refused(&mut programs, &frame, Counter::RxBadLength);
    }
    // Shorter than a UDP header, in agreement with one another.
    for len in 0..8u16 {
        let mut frame = good.clone();
        frame[16..18].copy_from_slice(&(20 + len).to_be_bytes());
        frame[38..40].copy_from_slice(&len.to_be_bytes());
        refused(&mut programs, &frame, Counter::RxBadLength);
    }
}

#[test]
fn a_datagram_of_one_byte_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let short = with_outer_lengths(&frame, &frame.to_bytes()[..frame.gpe_at() + 1]);
        refused(&mut programs, &short, Counter::RxTruncated);
        // As it arrives from a wire: padded to the least length of an Ethernet frame.
        let mut padded = [&short[..], &[0; 60]].concat();
        refused(&mut programs, &padded, Counter::RxUnknownProtocol);
        padded[frame.gpe_at()] = 0;
        refused(&mut programs, &padded, Counter::RxBadHeader);
    }
}

#[test]
fn each_reserved_bit_of_the_clear_header_counts() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let good = frame.to_bytes();
        for byte in [0, 1, 2, 7] {
            for bit in 0..8 {
                let mut frame_bytes = good.clone();
                frame_bytes[frame.gpe_at() + byte] ^= 1 << bit;
                refused(&mut programs, &frame_bytes, Counter::RxBadHeader);
            }
        }
    }
}

#[test]
fn every_other_next_protocol_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let mut bytes = frame.to_bytes();
        let at = frame.gpe_at() + 3;
        let right = bytes[at];
        for next_protocol in 0..=255 {
            bytes[at] = next_protocol;
            match next_protocol {
                1 | 2 if next_protocol == right => {}
                1 | 2 => refused(&mut programs, &bytes, Counter::RxBadInner),
                _ => refused(&mut programs, &bytes, Counter::RxUnknownProtocol),
            }
        }
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
fn ip_options_before_our_port_are_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let good = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    for words in 6..=15u8 {
        // No-operation options.
        let options = vec![1; usize::from(words - 5) * 4];
        let mut frame = [&good[..34], &options, &good[34..]].concat();
        frame[14] = 0x40 | words;
        let total_len = u16::try_from(frame.len() - 14).expect("short").to_be_bytes();
        frame[16..18].copy_from_slice(&total_len);
        set_outer_checksum(&mut frame);
        refused(&mut programs, &frame, Counter::RxOuterOptions);
        // To another port they are not our business.
        let port_at = 14 + usize::from(words) * 4 + 2;
        frame[port_at..port_at + 2].copy_from_slice(&53u16.to_be_bytes());
        untouched(&mut programs, &frame);
    }
    // Header lengths that cannot be.
    for words in 0..5 {
        let mut frame = good.clone();
        frame[14] = 0x40 | words;
        untouched(&mut programs, &frame);
    }
}

#[test]
fn fragments_of_outer_packets_are_not_delivered() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let good = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    let with_fragment_field = |field: u16| {
        let mut frame = good.clone();
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        set_outer_checksum(&mut frame);
        frame
    };
    refused(&mut programs, &with_fragment_field(0x2000), Counter::RxOuterFragment);
    refused(&mut programs, &with_fragment_field(0x6000), Counter::RxOuterFragment);
    // A later fragment has no ports. Without the first, it never becomes a packet.
    for offset in [1, 2, 0x1fff] {
        untouched(&mut programs, &with_fragment_field(offset));
        untouched(&mut programs, &with_fragment_field(0x2000 | offset));
    }
    // Over IPv6 a fragment has its header before the UDP header.
    let mut frame = peers.v6.frame(from_peer(&peers.v6, false)).to_bytes();
    frame[20] = 44;
    untouched(&mut programs, &frame);
}

#[test]
fn an_outer_checksum_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        for bit in 0..16 {
            let mut bytes = frame.to_bytes();
            let at = frame.udp_at() + 6;
            bytes[at..at + 2].copy_from_slice(&(1u16 << bit).to_be_bytes());
            refused(&mut programs, &bytes, Counter::RxOuterChecksum);
        }
    }
}

#[test]
fn what_a_receiver_ignores_does_not_matter() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (slot, frame) in good_frames(&peers) {
        let good = frame.to_bytes();
        // Traffic class and ECN, hop limit, identification, source port, the sender's MAC.
        let ignored: &[usize] = if frame.source.is_ipv4() {
            &[6, 11, 15, 18, 19, 22, 34, 35]
        } else {
            &[6, 11, 15, 16, 17, 21, 54, 55]
        };
        for at in ignored {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[*at] ^= 1 << bit;
                delivered(&mut programs, slot, &bytes, &frame.inner);
            }
        }
    }
}

#[test]
fn an_inner_header_that_cannot_be_is_refused() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for (_, frame) in good_frames(&peers) {
        let good = frame.to_bytes();
        let version_at = frame.header_len();
        for version in (0..16).filter(|version| good[version_at] >> 4 != *version) {
            let mut bytes = good.clone();
            bytes[version_at] = version << 4 | (good[version_at] & 0xf);
            refused(&mut programs, &bytes, Counter::RxBadInner);
        }
    }
    for words in 0..5 {
        let mut frame = peers.v4.frame(from_peer(&peers.v4, false));
        frame.inner[0] = 0x40 | words;
        refused(&mut programs, &frame.to_bytes(), Counter::RxBadInner);
    }
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
