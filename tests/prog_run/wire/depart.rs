//! From the node onto the wire.

use std::collections::HashSet;
use std::net::IpAddr;

use ipop_common::Counter;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ClearFrame, TCP, checksum, transport_checksum};
use ipop_tests::world::Peer;

use super::devices::{RawSocket, is_clear};
use super::lab::{Lab, OnWire};
use crate::scenario::{address, own_v4, own_v6, same_bytes};

fn own(v6: bool) -> IpAddr {
    if v6 { own_v6() } else { own_v4() }
}

/// `frame` must be the one that carries `inner`, whatever its source port; over IPv4 with this
/// identification.
#[track_caller]
fn is_frame_of(frame: &[u8], peer: &Peer, inner: &[u8], identification: u16) {
    let at = if peer.local.is_ipv4() { 34 } else { 54 };
    let source_port = u16::from_be_bytes([frame[at], frame[at + 1]]);
    assert!(source_port >= 0xc000, "source port {source_port:#x} is not of the dynamic range");
    let expected = ClearFrame {
        destination_mac: peer.remote_mac,
        source_mac: peer.local_mac,
        source: peer.local,
        destination: peer.remote,
        source_port,
        ..peer.frame(inner.to_vec())
    };
    let mut expected = expected.to_bytes();
    if peer.local.is_ipv4() {
        expected[18..20].copy_from_slice(&identification.to_be_bytes());
        expected[24..26].fill(0);
        let check = checksum(&expected[14..34]).to_be_bytes();
        expected[24..26].copy_from_slice(&check);
    }
    same_bytes(frame, &expected, "the frame on the wire");
}

#[test]
fn what_a_socket_sends_goes_out_in_a_frame() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    for v6 in [false, true] {
        let socket = lab.socket(own(v6), 6000);
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let to = peer.inner(own(v6));
            for len in [0, 1, 5, 100, usize::from(peer.mtu) - 48] {
                let payload = vec![0x5a; len];
                let before = lab.programs.link_stats(peer.slot);
                socket.send_to(&payload, (to, 9)).expect("sent");
                let frame = lab.wire.receive(is_clear);
                let inner = &frame[peer.frame(vec![]).header_len()..];
                is_frame_of(&frame, &peer, inner, 0);
                let sent = packet::udp(own(v6), to, (6000, 9), &payload);
                let headers = if v6 { 40 } else { 20 };
                // The identification, the hop limit and the flow label are the stack's own.
                assert_eq!(inner[headers..], sent[headers..], "the datagram, its checksum included");
                lab.counted(Counter::TxEncapsulated);
                let after = lab.programs.link_stats(peer.slot);
                assert_eq!(after.tx_packets - before.tx_packets, 1);
                assert_eq!(after.tx_bytes - before.tx_bytes, inner.len() as u64);
            }
        }
    }
}

/// Shorter ones than a test run takes.
#[test]
fn packets_that_end_within_their_header_are_dropped() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let device = RawSocket::on("ipop0");
    for v6 in [false, true] {
        let to = lab.v4.inner(own(v6));
        let packet = packet::udp(own(v6), to, (1, 2), b"x");
        let header_len = if v6 { 40 } else { 20 };
        for len in 1..packet.len() {
            device.send(&packet[..len]);
            let is_whole = len >= header_len;
            lab.counted(if is_whole { Counter::TxEncapsulated } else { Counter::TxTruncated });
            let sent = lab.wire.drain(is_clear);
            assert_eq!(sent.len(), usize::from(is_whole), "a packet of {len} bytes");
        }
    }
}

/// The source ports that three datagrams to each of 64 ports of the peer are sent from.
fn source_ports(lab: &mut Lab, to: IpAddr, connected: bool) -> HashSet<[u8; 2]> {
    let mut ports = HashSet::new();
    for flow in 0..64 {
        let socket = lab.socket(own_v4(), 0);
        if connected {
            socket.connect((to, 7000 + flow)).expect("connected");
        }
        let mut of_flow = HashSet::new();
        for _ in 0..3 {
            match connected {
                true => socket.send(b"x").expect("sent"),
                false => socket.send_to(b"x", (to, 7000 + flow)).expect("sent"),
            };
            let frame = lab.wire.receive(is_clear);
            of_flow.insert([frame[34], frame[35]]);
        }
        assert_eq!(of_flow.len(), 1, "one flow, one source port");
        ports.extend(of_flow);
    }
    ports
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_of_sockets_spread() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let to = lab.v4.inner_v4;
    let ports = source_ports(&mut lab, to, true);
    // Of 16,384 ports, 64 flows at random share one or two at most.
    assert!(ports.len() > 56, "{} source ports for 64 flows", ports.len());
}

/// A socket that is not connected has no hash of its own: its flows spread by addresses.
#[test]
fn flows_without_a_socket_of_their_own_spread_by_address() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let to = lab.v4.inner_v4;
    assert_eq!(source_ports(&mut lab, to, false).len(), 1, "from one address to one address");
    let socket = lab.socket(own_v4(), 0);
    let ports: HashSet<[u8; 2]> = (0..64u8)
        .map(|host| {
            socket.send_to(b"x", (address(&format!("8.0.200.{host}")), 9)).expect("sent");
            let frame = lab.wire.receive(is_clear);
            [frame[34], frame[35]]
        })
        .collect();
    assert!(ports.len() > 56, "{} source ports for 64 addresses", ports.len());
}

#[test]
fn what_has_no_link_reaches_the_daemon_as_it_is() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let device = RawSocket::on("ipop0");
    for to in ["8.0.99.1", "fd00:0:86dd::99"].map(address) {
        let packet = packet::udp(own(to.is_ipv6()), to, (1, 2), b"to nobody");
        device.send(&packet);
        let missed = lab.helper.receive(|seen| seen == packet);
        same_bytes(&missed, &packet, "what the daemon reads");
    }
    assert!(lab.moved().of(Counter::TxNoRoute) >= 2);
    assert!(lab.wire.drain(is_clear).is_empty(), "nothing goes out");
    lab.world.config.enabled = 0;
    lab.programs.install(&lab.world);
    let packet = packet::udp(own_v4(), lab.v4.inner_v4, (1, 2), b"by the user path");
    device.send(&packet);
    same_bytes(&lab.helper.receive(|seen| seen == packet), &packet, "what the daemon reads");
    assert!(lab.wire.drain(is_clear).is_empty(), "nothing goes out");
}

/// The kernel cuts a super-packet only where it leaves the last device: every segment then has its
/// own outer headers, which must be right to the last bit.
#[test]
fn a_super_packet_goes_out_in_segments_that_are_right() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let device = RawSocket::on("ipop0");
    for v6 in [false, true] {
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let (from, to) = (own(v6), peer.inner(own(v6)));
            let payload: Vec<u8> = (0..5000u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
            let before = lab.programs.link_stats(peer.slot);
            device.send_tcp_super_packet(&with_partial_checksum(from, to, &payload), 1200);
            let mut received = Vec::new();
            for index in 0..5u16 {
                let frame = lab.wire.receive(is_clear);
                let inner = &frame[peer.frame(vec![]).header_len()..];
                // Segmentation numbers the outer packets. They are never fragmented, so it is idle.
                is_frame_of(&frame, &peer, inner, index);
                let sequence = 1 + 1200 * u32::from(index);
                received.extend_from_slice(segment_payload(inner, from, to, sequence));
            }
            assert_eq!(received, payload);
            lab.counted(Counter::TxEncapsulated);
            let after = lab.programs.link_stats(peer.slot);
            assert_eq!(after.tx_packets - before.tx_packets, 5, "packets as on the wire");
        }
    }
}

/// A TCP packet whose checksum is that of its pseudo-header alone, for an offload to complete.
pub(super) fn with_partial_checksum(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = packet::tcp(from, to, (1, 2), payload);
    let tcp_at = if from.is_ipv6() { 40 } else { 20 };
    let tcp_len = packet.len() - tcp_at;
    // Over zero bytes the sum is that of the pseudo-header alone.
    let partial = !transport_checksum(from, to, TCP, &vec![0; tcp_len]);
    packet[tcp_at + 16..tcp_at + 18].copy_from_slice(&partial.to_be_bytes());
    packet
}

/// The payload of a TCP segment whose headers must be right.
#[track_caller]
fn segment_payload(inner: &[u8], from: IpAddr, to: IpAddr, sequence: u32) -> &[u8] {
    let (header_len, total_len) = if from.is_ipv6() {
        (40, 40 + usize::from(u16::from_be_bytes([inner[4], inner[5]])))
    } else {
        assert_eq!(checksum(&inner[..20]), 0, "the inner IPv4 checksum");
        (20, usize::from(u16::from_be_bytes([inner[2], inner[3]])))
    };
    assert_eq!(total_len, inner.len(), "the inner length");
    let segment = &inner[header_len..];
    assert_eq!(transport_checksum(from, to, TCP, segment), 0, "the inner TCP checksum");
    assert_eq!(segment[4..8], sequence.to_be_bytes(), "the sequence number");
    &segment[20..]
}
