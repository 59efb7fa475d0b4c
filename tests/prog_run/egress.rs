//! Packets that the host sends into the virtual network.
//!
//! The virtual device has no Ethernet header, a test run always has one. A packet whose bytes 12
//! and 13 happen to be its own Ethernet type serves as both: sources in 8.0.0.0/16 and with 86dd as
//! their third group. Decisions and single packets come out as on the device; super-packets and ICMP
//! errors, which the kernel builds behind the Ethernet header, are tested in `wire`.

use std::net::IpAddr;

use ipop_common::Counter;
use ipop_common::maps::LinkRef;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ClearFrame};
use ipop_tests::programs::{Action, Input, Program, Programs};
use ipop_tests::world::{LEASE_OVER, Peer};

use crate::scenario::{address, expect, loaded, own_v4, own_v6, same_bytes};

/// A source of this node's that looks like an Ethernet type in the right place.
fn source_for(destination: IpAddr) -> IpAddr {
    if destination.is_ipv4() { address("8.0.64.1") } else { address("fd00:0:86dd::64") }
}

fn packet_to(destination: IpAddr, payload_len: usize) -> Vec<u8> {
    packet::udp(source_for(destination), destination, (1000, 2000), &vec![0x5a; payload_len])
}

/// Where the UDP source port stands in a frame: it depends on a hash that the kernel keeps secret.
fn source_port_at(frame: &[u8]) -> usize {
    if frame[12] == 8 { 34 } else { 54 }
}

#[track_caller]
fn sent(programs: &mut Programs, peer: &Peer, packet: &[u8]) {
    let before = programs.link_stats(peer.slot);
    let counter = [Counter::TxEncapsulated];
    let output = expect(programs, Program::Egress, Input::frame(packet), Action::Redirect, &counter);
    let at = source_port_at(&output.packet);
    let source_port = u16::from_be_bytes([output.packet[at], output.packet[at + 1]]);
    assert!(source_port >= 0xc000, "source port {source_port:#x} is not of the dynamic range");
    let expected = ClearFrame {
        destination_mac: peer.remote_mac,
        source_mac: peer.local_mac,
        source: peer.local,
        destination: peer.remote,
        source_port,
        ..peer.frame(packet.to_vec())
    };
    same_bytes(&output.packet, &expected.to_bytes(), "the frame that goes out");
    let after = programs.link_stats(peer.slot);
    assert_eq!(after.tx_packets - before.tx_packets, 1, "packets of the link");
    assert_eq!(after.tx_bytes - before.tx_bytes, packet.len() as u64, "inner bytes of the link");
    assert_eq!((after.rx_packets, after.rx_bytes), (before.rx_packets, before.rx_bytes));
}

/// The packet must reach the user path unchanged: through the helper device where there is one.
#[track_caller]
fn missed(programs: &mut Programs, packet: &[u8], counter: Counter) {
    let output = expect(programs, Program::Egress, Input::frame(packet), Action::Redirect, &[counter]);
    same_bytes(&output.packet, packet, "a packet for the user path");
}

#[test]
fn a_packet_to_a_peer_is_sent_in_all_families() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        for destination in [peer.inner_v4, peer.inner_v6] {
            for payload_len in [6, 7, 63, 1000, 1200] {
                sent(&mut programs, peer, &packet_to(destination, payload_len));
            }
        }
    }
}

#[test]
fn prefixes_lead_to_the_peer_of_the_longest() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for text in ["172.16.0.0", "172.31.255.255", "172.16.4.255", "fd00:77::", "fd00:77:ffff::1"] {
        sent(&mut programs, &peers.router, &packet_to(address(text), 10));
    }
    for text in ["172.16.5.0", "172.16.5.255"] {
        sent(&mut programs, &peers.v4, &packet_to(address(text), 10));
    }
}

#[test]
fn what_a_cpu_remembers_ends_with_a_change_of_the_tables() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    let host = address("172.16.9.9");
    let packet = packet_to(host, 10);
    for _ in 0..3 {
        sent(&mut programs, &peers.router, &packet);
    }
    // More specific, then less again: the router's link is the same all along.
    world.hosts.insert(ipop_common::Address::from(host), peers.v4.reference());
    programs.install(&world);
    sent(&mut programs, &peers.v4, &packet);
    world.hosts.remove(&ipop_common::Address::from(host));
    programs.install(&world);
    sent(&mut programs, &peers.router, &packet);
    world.prefixes.clear();
    programs.install(&world);
    missed(&mut programs, &packet, Counter::TxNoRoute);
}

#[test]
fn a_packet_to_nobody_is_left_to_the_user_path() {
    needs_root!();
    let (mut programs, _, _) = loaded();
    let nobody = ["10.9.9.9", "172.32.0.1", "0.0.0.0"];
    for text in nobody.into_iter().chain(["fd00:78::1", "::", "::ffff:8.0.1.1"]) {
        missed(&mut programs, &packet_to(address(text), 10), Counter::TxNoRoute);
    }
    for text in ["255.255.255.255", "224.0.0.251", "239.1.2.3", "ff02::fb", "ff15::1"] {
        missed(&mut programs, &packet_to(address(text), 10), Counter::TxToGroup);
    }
    // An address of the host itself does not go out, whatever put it here.
    missed(&mut programs, &packet_to(own_v4(), 10), Counter::TxNoRoute);
    missed(&mut programs, &packet_to(own_v6(), 10), Counter::TxNoRoute);
}

#[test]
fn links_that_cannot_send_leave_packets_to_the_user_path() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    for (peer, counter) in [
        (&peers.stale, Counter::TxStaleEpoch),
        (&peers.expired, Counter::TxLeaseExpired),
        (&peers.receive_only, Counter::TxReceiveOnly),
    ] {
        missed(&mut programs, &packet_to(peer.inner_v4, 10), counter);
        missed(&mut programs, &packet_to(peer.inner_v6, 10), counter);
    }
    for to in [LinkRef { slot: 4000, epoch: 7 }, LinkRef { slot: 4000, epoch: 0 }] {
        let packet = packet_to(peers.v4.inner_v4, 10);
        world.hosts.insert(ipop_common::Address::from(peers.v4.inner_v4), to);
        programs.install(&world);
        missed(&mut programs, &packet, Counter::TxStaleEpoch);
    }
}

#[test]
fn a_lease_ends_for_both_directions_and_can_be_renewed() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    let packet = packet_to(peers.v4.inner_v4, 10);
    sent(&mut programs, &peers.v4, &packet);
    world.change(&peers.v4, |link| link.lease_until_ns = LEASE_OVER);
    programs.install(&world);
    missed(&mut programs, &packet, Counter::TxLeaseExpired);
    world.change(&peers.v4, |link| link.lease_until_ns = u64::MAX);
    programs.install(&world);
    sent(&mut programs, &peers.v4, &packet);
}

#[test]
fn switched_off_everything_is_left_to_the_user_path() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    world.config.enabled = 0;
    programs.install(&world);
    for destination in [peers.v4.inner_v4, peers.v6.inner_v6, address("10.9.9.9")] {
        missed(&mut programs, &packet_to(destination, 10), Counter::TxDisabled);
    }
}

#[test]
fn without_a_helper_device_a_miss_passes() {
    needs_root!();
    let (mut programs, mut world, _) = loaded();
    world.config.miss_ifindex = 0;
    programs.install(&world);
    let packet = packet_to(address("10.9.9.9"), 10);
    let input = Input::frame(&packet);
    let output = expect(&mut programs, Program::Egress, input, Action::Pass, &[Counter::TxNoRoute]);
    same_bytes(&output.packet, &packet, "a packet that passes");
}

#[test]
fn a_packet_as_large_as_the_link_goes_and_one_byte_more_is_answered() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for peer in [&peers.v4, &peers.v6] {
        for (destination, headers) in [(peer.inner_v4, 28), (peer.inner_v6, 48)] {
            let fits = usize::from(peer.mtu) - headers;
            sent(&mut programs, peer, &packet_to(destination, fits));
            for more in [1, 2, 100, 1500] {
                let packet = packet_to(destination, fits + more);
                let counter = [Counter::TxTooBig];
                expect(&mut programs, Program::Egress, Input::frame(&packet), Action::Redirect, &counter);
            }
        }
    }
}

#[test]
fn what_may_be_fragmented_is_left_to_the_user_path() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    let mut packet = packet_to(peers.v4.inner_v4, 1500);
    packet[6] = 0;
    missed(&mut programs, &packet, Counter::TxFragmented);
    // IPv6 is entitled to 1280 bytes, whatever the link can do.
    world.change(&peers.v4, |link| link.mtu = 1200);
    programs.install(&world);
    missed(&mut programs, &packet_to(peers.v4.inner_v6, 1280 - 48), Counter::TxFragmented);
    let packet = packet_to(peers.v4.inner_v6, 1281 - 48);
    let input = Input::frame(&packet);
    expect(&mut programs, Program::Egress, input, Action::Redirect, &[Counter::TxTooBig]);
}

#[test]
fn packets_with_options_and_extension_headers_are_sent() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for words in 6..=15u8 {
        let mut packet = packet_to(peers.v4.inner_v4, 60);
        packet[0] = 0x40 | words;
        sent(&mut programs, &peers.v4, &packet);
    }
    for next_header in 0..=255 {
        let mut packet = packet_to(peers.v6.inner_v6, 60);
        packet[6] = next_header;
        sent(&mut programs, &peers.v6, &packet);
        let mut packet = packet_to(peers.v4.inner_v4, 60);
        packet[9] = next_header;
        sent(&mut programs, &peers.v4, &packet);
    }
}

#[test]
fn inner_fragments_are_sent_as_they_are() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for field in [0x2000u16, 0x2001, 0x0001, 0x1fff, 0x8000] {
        let mut packet = packet_to(peers.v4.inner_v4, 60);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        sent(&mut programs, &peers.v4, &packet);
    }
}

#[test]
fn what_is_no_ip_packet_is_left_to_the_user_path() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    for version in (0..16).filter(|version| *version != 4) {
        let mut packet = packet_to(peers.v4.inner_v4, 60);
        packet[0] = version << 4 | 5;
        missed(&mut programs, &packet, Counter::TxNotIp);
    }
    for words in 0..5 {
        let mut packet = packet_to(peers.v4.inner_v4, 60);
        packet[0] = 0x40 | words;
        missed(&mut programs, &packet, Counter::TxNotIp);
    }
    // Another protocol than the two: here it is the frame's Ethernet type.
    for ethertype in [0x0806u16, 0x8100, 0x88a8, 0x8847, 0x88cc] {
        let mut packet = packet_to(peers.v4.inner_v4, 60);
        packet[12..14].copy_from_slice(&ethertype.to_be_bytes());
        let counter = [Counter::TxNotIp];
        let output = expect(&mut programs, Program::Egress, Input::frame(&packet), Action::Pass, &counter);
        same_bytes(&output.packet, &packet, "what is no IP packet");
    }
}

/// The program sees the size of segments, so its decision is as on the device; the kernel then
/// refuses to make room in a super-packet without a type.
#[test]
fn of_a_super_packet_one_segment_must_fit() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let tcp = |destination, len| packet::tcp(source_for(destination), destination, (1, 2), &vec![1; len]);
    let udp = packet_to;
    type Make<'a> = &'a dyn Fn(IpAddr, usize) -> Vec<u8>;
    let cases: [(Make<'_>, IpAddr, u16); 4] = [
        (&tcp, peers.v4.inner_v4, 40),
        (&tcp, peers.v4.inner_v6, 60),
        (&udp, peers.v4.inner_v4, 28),
        (&udp, peers.v4.inner_v6, 48),
    ];
    for (make, destination, headers) in cases {
        let packet = make(destination, 3000);
        let fits = u32::from(peers.v4.mtu - headers);
        let input = Input::gso(&packet, fits, 3);
        expect(&mut programs, Program::Egress, input, Action::Drop, &[Counter::TxNoRoom]);
        let input = Input::gso(&packet, fits + 1, 3);
        expect(&mut programs, Program::Egress, input, Action::Redirect, &[Counter::TxTooBig]);
    }
}
