//! A group's access rules: what may begin on a clear or a sealed link, in the kernel, and what answers it.

use std::net::IpAddr;

use ipop_common::Counter;
use ipop_overlay::group::rules::{Policy, Side};
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ICMP, ICMPV6};
use ipop_tests::programs::{Action, Input, Program, Programs};
use ipop_tests::world::Peer;

use crate::scenario::{Peers, address, delivered, expect, loaded, refused};

/// This node may begin 5432 of TCP and 53 of UDP, the peer 8000 to 8079 of both, and echo requests.
fn policy() -> Policy {
    let side = |tcp, udp, icmp| Side { all: false, tcp: vec![tcp], udp: vec![udp], icmp };
    Policy { out: side((5432, 5432), (53, 53), false), come: side((8000, 8079), (8000, 8079), true), cut: 0 }
}

/// Inner addresses of this node's: as sources they look like an Ethernet type in the right place, see `egress`.
fn own_v4() -> IpAddr {
    address("8.0.64.1")
}

fn own_v6() -> IpAddr {
    address("fd00:0:86dd::64")
}

fn ruled() -> (Programs, Peers) {
    let (mut programs, mut world, peers) = loaded();
    world.rule(&peers.v4, &policy());
    world.rule(&peers.v6, &policy());
    programs.install(&world);
    (programs, peers)
}

/// Peers over both families, with the inner addresses of both ends, of both families.
fn links(peers: &Peers) -> Vec<(&Peer, IpAddr, IpAddr)> {
    let of = |peer| [own_v4(), own_v6()].map(|own| (peer, own, Peer::inner(peer, own)));
    [&peers.v4, &peers.v6].into_iter().flat_map(of).collect()
}

const SYN: u8 = 0x02;

fn tcp(from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut packet = packet::tcp(from, to, ports, b"some bytes of a stream that goes on");
    let at = if from.is_ipv4() { 20 } else { 40 };
    packet[at + 13] = flags;
    packet
}

fn udp(from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    packet::udp(from, to, ports, b"a datagram that is long enough for a frame")
}

fn icmp(from: IpAddr, to: IpAddr, [v4, v6]: [u8; 2]) -> Vec<u8> {
    let (protocol, kind) = if from.is_ipv4() { (ICMP, v4) } else { (ICMPV6, v6) };
    packet::ip(from, to, protocol, &[&[kind, 0, 0, 0, 0x12, 0x34, 0, 1][..], &[0x5a; 56]].concat())
}

#[track_caller]
fn goes(programs: &mut Programs, packet: &[u8]) {
    expect(programs, Program::Egress, Input::frame(packet), Action::Redirect, &[Counter::TxEncapsulated]);
}

#[track_caller]
fn is_held(programs: &mut Programs, packet: &[u8]) {
    expect(programs, Program::Egress, Input::frame(packet), Action::Redirect, &[Counter::TxHeldByRule]);
}

#[track_caller]
fn comes(programs: &mut Programs, peer: &Peer, packet: &[u8]) {
    delivered(programs, peer.slot, &peer.frame(packet.to_vec()).to_bytes(), packet);
}

#[track_caller]
fn is_refused(programs: &mut Programs, peer: &Peer, packet: Vec<u8>) {
    refused(programs, &peer.frame(packet).to_bytes(), Counter::RxRefusedRule);
}

#[test]
fn connections_begin_only_where_they_may_and_are_answered() {
    needs_root!();
    let (mut programs, peers) = ruled();
    for (peer, own, theirs) in links(&peers) {
        goes(&mut programs, &tcp(own, theirs, (40_000, 5432), SYN));
        comes(&mut programs, peer, &tcp(theirs, own, (5432, 40_000), SYN | 0x10));
        comes(&mut programs, peer, &tcp(theirs, own, (5432, 40_000), 0x10));
        is_held(&mut programs, &tcp(own, theirs, (40_000, 5433), SYN));
        comes(&mut programs, peer, &tcp(theirs, own, (40_000, 8079), SYN));
        goes(&mut programs, &tcp(own, theirs, (8079, 40_000), SYN | 0x10));
        is_refused(&mut programs, peer, tcp(theirs, own, (40_000, 8080), SYN));
        is_refused(&mut programs, peer, tcp(theirs, own, (5432, 22), SYN));
        is_refused(&mut programs, peer, tcp(theirs, own, (40_000, 22), 0x10));
    }
}

#[test]
fn datagrams_begin_only_where_they_may_and_answers_need_a_question() {
    needs_root!();
    let (mut programs, peers) = ruled();
    for (peer, own, theirs) in links(&peers) {
        // Each link has a port of its own: over both families the inner addresses are the same.
        let port = 4000 + peer.slot as u16;
        is_refused(&mut programs, peer, udp(theirs, own, (53, port)));
        goes(&mut programs, &udp(own, theirs, (port, 53)));
        comes(&mut programs, peer, &udp(theirs, own, (53, port)));
        is_refused(&mut programs, peer, udp(theirs, own, (53, port + 1)));
        is_held(&mut programs, &udp(own, theirs, (8000, port)));
        comes(&mut programs, peer, &udp(theirs, own, (port, 8000)));
        goes(&mut programs, &udp(own, theirs, (8000, port)));
        is_held(&mut programs, &udp(own, theirs, (8001, port)));
    }
}

#[test]
fn echo_is_answered_and_errors_pass() {
    needs_root!();
    let (mut programs, peers) = ruled();
    for (peer, own, theirs) in links(&peers) {
        is_held(&mut programs, &icmp(own, theirs, [8, 128]));
        is_held(&mut programs, &icmp(own, theirs, [0, 129]));
        comes(&mut programs, peer, &icmp(theirs, own, [8, 128]));
        goes(&mut programs, &icmp(own, theirs, [0, 129]));
        comes(&mut programs, peer, &icmp(theirs, own, [3, 2]));
        goes(&mut programs, &icmp(own, theirs, [3, 2]));
    }
}

#[test]
fn what_two_nodes_may_not_begin_is_refused_altogether_and_other_links_are_not_touched() {
    needs_root!();
    let (mut programs, mut world, peers) = loaded();
    world.rule(&peers.v4, &Policy::closed());
    programs.install(&world);
    for (own, is_v6) in [(own_v4(), false), (own_v6(), true)] {
        let closed = peers.v4.inner(own);
        is_held(&mut programs, &udp(own, closed, (1, 53)));
        is_refused(&mut programs, &peers.v4, udp(closed, own, (1, 53)));
        is_refused(&mut programs, &peers.v4, icmp(closed, own, [3, 2]));
        comes(&mut programs, &peers.v6, &crate::scenario::from_peer(&peers.v6, is_v6));
    }
}

#[test]
fn the_first_fragment_is_held_against_the_rules_and_the_others_follow() {
    needs_root!();
    let (mut programs, peers) = ruled();
    let (peer, own, theirs) = (&peers.v4, own_v4(), peers.v4.inner_v4);
    let fragment = |port: u16, place: u16| {
        let mut packet = udp(theirs, own, (4000, port));
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet[10..12].copy_from_slice(&[0, 0]);
        let check = packet::checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&check);
        packet
    };
    comes(&mut programs, peer, &fragment(8000, 0x2000));
    is_refused(&mut programs, peer, fragment(7999, 0x2000));
    comes(&mut programs, peer, &fragment(7999, 0x0004));
}
