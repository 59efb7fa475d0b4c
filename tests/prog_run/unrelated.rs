//! Traffic that is none of ours goes through every program untouched.

use std::net::IpAddr;

use ipop_tests::needs_root;
use ipop_tests::packet::{self, ICMP, ICMPV6, TCP, UDP, ethernet, ethertype};

use crate::scenario::{NODE_MAC, PEER_MAC, Peers, address, from_peer, loaded, untouched};

fn framed(packet: &[u8], source: IpAddr) -> Vec<u8> {
    ethernet(NODE_MAC, PEER_MAC, ethertype(source), packet)
}

#[test]
fn arp_passes() {
    needs_root!();
    let (mut programs, _, _) = loaded();
    let request =
        [&[0, 1, 8, 0, 6, 4, 0, 1][..], &PEER_MAC, &[192, 0, 2, 11], &[0; 6], &[192, 0, 2, 1], &[0; 18]]
            .concat();
    untouched(&mut programs, &ethernet([0xff; 6], PEER_MAC, 0x0806, &request));
    untouched(&mut programs, &ethernet(NODE_MAC, PEER_MAC, 0x0806, &request));
}

#[test]
fn every_other_ip_protocol_passes() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        for protocol in (0..=255).filter(|protocol| *protocol != UDP) {
            // Even where our port stands in its place.
            let payload = &peer.frame(from_peer(peer, false)).to_bytes()[14..][..60];
            let packet = packet::ip(peer.remote, peer.local, protocol, payload);
            untouched(&mut programs, &framed(&packet, peer.remote));
        }
    }
}

#[test]
fn tcp_to_our_port_passes() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        let packet = packet::tcp(peer.remote, peer.local, (4790, 4790), b"hello");
        assert!([packet[9], packet[6]].contains(&TCP));
        untouched(&mut programs, &framed(&packet, peer.remote));
    }
}

#[test]
fn every_other_udp_port_passes() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        let good = peer.frame(from_peer(peer, false));
        for port in [0, 53, 4789, 4791, 15000, 65535].into_iter().chain((0..16).map(|bit| 4790 ^ 1 << bit)) {
            untouched(&mut programs, &packet::ClearFrame { port, ..good.clone() }.to_bytes());
        }
        // From our port, not to it.
        let frame = packet::ClearFrame { source_port: 4790, port: 40_000, ..good };
        untouched(&mut programs, &frame.to_bytes());
    }
}

#[test]
fn icmp_and_neighbour_discovery_pass() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let echo = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    let packet = packet::ip(peers.v4.remote, peers.v4.local, ICMP, &echo);
    untouched(&mut programs, &framed(&packet, peers.v4.remote));
    for (kind, len) in [(133, 16), (134, 64), (135, 32), (136, 32), (137, 40)] {
        let mut message = vec![0; len];
        message[0] = kind;
        for (mac, to) in [(NODE_MAC, peers.v6.local), ([0x33, 0x33, 0, 0, 0, 1], address("ff02::1"))] {
            let packet = packet::ip(peers.v6.remote, to, ICMPV6, &message);
            untouched(&mut programs, &ethernet(mac, PEER_MAC, 0x86dd, &packet));
        }
    }
}

/// A good frame behind other headers than a bare Ethernet one is for whoever made those.
#[test]
fn tagged_and_labelled_frames_pass() {
    needs_root!();
    let (mut programs, _, Peers { v4, v6, .. }) = loaded();
    for peer in [v4, v6] {
        let good = peer.frame(from_peer(&peer, false)).to_bytes();
        let tags: [(&str, &[u8]); 4] = [
            ("802.1Q", &[0x81, 0, 0, 5]),
            ("QinQ", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]),
            ("MPLS", &[0x88, 0x47, 0, 0x01, 0x01, 0x40]),
            ("PPPoE", &[0x88, 0x64, 0x11, 0, 0, 1, 0, 40, 0, 0x21]),
        ];
        for (name, tag) in tags {
            let is_vlan = name.ends_with('Q');
            // A VLAN tag keeps the frame's own type behind it; the others replace it.
            let rest = if is_vlan { &good[12..] } else { &good[14..] };
            untouched(&mut programs, &[&good[..12], tag, rest].concat());
        }
    }
}

#[test]
fn every_other_ethernet_type_passes() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let good = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    for ethertype in (0..=0xffffu16).step_by(7).filter(|e| ![0x0800, 0x86dd].contains(e)) {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        untouched(&mut programs, &frame);
    }
}

/// An Ethernet type that names the other IP version than the header has.
#[test]
fn a_version_that_contradicts_the_ethernet_type_passes() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let mut frame = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    untouched(&mut programs, &frame);
    let mut frame = peers.v6.frame(from_peer(&peers.v6, false)).to_bytes();
    frame[12..14].copy_from_slice(&[8, 0]);
    untouched(&mut programs, &frame);
}
