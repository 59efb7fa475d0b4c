//! Frames whose headers are not what they should be.

use ipop_common::Counter;
use ipop_tests::needs_root;
use ipop_tests::packet::{ClearFrame, checksum};

use crate::scenario::{delivered, from_peer, good_frames, loaded, refused, untouched};

/// Writes the outer IPv4 header's checksum anew: the programs do not look at it, the stack does.
fn set_outer_checksum(frame: &mut [u8]) {
    let header_len = usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let check = checksum(&frame[14..14 + header_len]).to_be_bytes();
    frame[24..26].copy_from_slice(&check);
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
