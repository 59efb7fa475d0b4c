//! The programs of a network that carries Ethernet: frames out and in, clear and sealed.
//!
//! Super-packets and frames that a device is to complete are beyond a test run; `netns` sends them.

use ipop_common::Counter;
use ipop_common::encapsulation::{Form, Underlay, write_template};
use ipop_common::ethernet::station;
use ipop_common::gpe::LinkId;
use ipop_common::limits::KERNEL_PORT;
use ipop_common::maps::{Link, LinkRef};
use ipop_tests::packet::{self, Mac};
use ipop_tests::programs::{Action, Input, Program, Programs, can_change_families};
use ipop_tests::sealed::{DAEMON_PORT, Session, padded};
use ipop_tests::world::{Peer, World};
use ipop_tests::{namespace, needs_root};

use crate::scenario::{DEVICE, HELPER, expect, own_v4, own_v6, peer_v4, peer_v6, same_bytes};

/// The node's virtual device, and a station behind its bridge.
const OWN: Mac = [2, 1, 0, 0, 0, 1];
const GUEST: Mac = [2, 1, 0, 0, 0, 2];
const NOBODY: Mac = [2, 1, 0, 0, 0, 9];
const ARP: u16 = 0x0806;

/// The station behind a peer.
const fn of(peer: &Peer) -> Mac {
    [2, 2, 0, 0, 0, peer.slot as u8]
}

struct Node {
    programs: Programs,
    world: World,
    /// Two clear links, over IPv4 and over IPv6.
    clear: [Peer; 2],
    /// As many that are sealed.
    sealed: [(Peer, Session); 2],
}

impl Node {
    fn new() -> Self {
        namespace::enter_new();
        let clear = [peer_v4(1), peer_v6(2)];
        let sealed =
            [peer_v4(3), peer_v6(4)].map(|peer| (peer.clone(), Session::new(peer.slot as u8, &peer)));
        let mut world = World::new(DEVICE, HELPER);
        for peer in &clear {
            world.add_peer(peer);
            world.links.insert(peer.slot, clear_link(peer));
        }
        for (peer, session) in &sealed {
            world.add_sealed(peer, session);
        }
        for peer in clear.iter().chain(sealed.iter().map(|(peer, _)| peer)) {
            world.hosts.insert(station(of(peer)), peer.reference());
        }
        world.hosts.insert(station(OWN), LinkRef::LOCAL);
        world.hosts.insert(station(GUEST), LinkRef::BRIDGED);
        let mut programs = Programs::load();
        programs.install(&world);
        Self { programs, world, clear, sealed }
    }

    #[track_caller]
    fn sends(&mut self, frame: &[u8], counter: Counter) -> Vec<u8> {
        expect(&mut self.programs, Program::L2Egress, Input::frame(frame), Action::Redirect, &[counter])
            .packet
    }

    #[track_caller]
    fn misses(&mut self, frame: &[u8], counter: Counter) {
        same_bytes(&self.sends(frame, counter), frame, "a frame for the user path");
    }

    /// TC and XDP must take the outer headers off and deliver the frame.
    #[track_caller]
    fn delivered(&mut self, peer: &Peer, frame: &[u8]) {
        let bytes = carried(peer, frame);
        let before = self.programs.link_stats(peer.slot);
        let counter = [Counter::RxDecapsulated];
        let output =
            expect(&mut self.programs, Program::L2Ingress, Input::frame(&bytes), Action::Redirect, &counter);
        same_bytes(&output.packet, frame, "what TC delivers");
        let counter = [Counter::RxXdpDecapsulated];
        let output = expect(&mut self.programs, Program::L2Xdp, Input::frame(&bytes), Action::Pass, &counter);
        same_bytes(&output.packet, frame, "what XDP delivers");
        assert_eq!(output.metadata.len(), 4, "XDP marks what it has decapsulated");
        let after = self.programs.link_stats(peer.slot);
        assert_eq!(after.rx_bytes - before.rx_bytes, 2 * frame.len() as u64, "bytes of the link");
    }

    /// TC must hand the frame to the daemon's port, and XDP leave that to TC.
    #[track_caller]
    fn handed_over(&mut self, peer: &Peer, frame: &[u8]) {
        let bytes = carried(peer, frame);
        let counter = [Counter::RxToUser];
        let output =
            expect(&mut self.programs, Program::L2Ingress, Input::frame(&bytes), Action::Pass, &counter);
        let mut expected = bytes.clone();
        let port_at = if peer.local.is_ipv4() { 36 } else { 56 };
        expected[port_at..port_at + 2].copy_from_slice(&DAEMON_PORT.to_be_bytes());
        same_bytes(&output.packet, &expected, "a frame for the daemon");
        let output = expect(&mut self.programs, Program::L2Xdp, Input::frame(&bytes), Action::Pass, &[]);
        same_bytes(&output.packet, &bytes, "a frame that XDP leaves to TC");
    }

    #[track_caller]
    fn refuses(&mut self, bytes: &[u8], counter: Counter) {
        expect(&mut self.programs, Program::L2Ingress, Input::frame(bytes), Action::Drop, &[counter]);
    }
}

fn clear_link(peer: &Peer) -> Link {
    let mut link = peer.link();
    let form = Form::ClearFrames(LinkId::new(peer.link_id).expect("a link id"));
    let underlay = Underlay {
        source_mac: peer.local_mac,
        next_hop_mac: peer.remote_mac,
        local: peer.local.into(),
        peer: (peer.remote, KERNEL_PORT).into(),
        form,
    };
    write_template(&mut link, &underlay);
    link
}

/// A frame as a peer sends it: RFC 7348's header in place of VXLAN-GPE's.
fn carried(peer: &Peer, frame: &[u8]) -> Vec<u8> {
    let outer = peer.frame(frame.to_vec());
    let mut bytes = outer.to_bytes();
    let header = outer.header_len() - 8;
    bytes[header..header + 4].copy_from_slice(&[8, 0, 0, 0]);
    bytes
}

fn ip_frame(destination: Mac, source: Mac, v6: bool, payload_len: usize) -> Vec<u8> {
    let (from, to) = if v6 { (own_v6(), peer_v4(1).inner_v6) } else { (own_v4(), peer_v4(1).inner_v4) };
    let packet = packet::udp(from, to, (1000, 2000), &vec![0x5a; payload_len]);
    packet::ethernet(destination, source, packet::ethertype(from), &packet)
}

fn arp(destination: Mac, source: Mac, sender: std::net::IpAddr) -> Vec<u8> {
    let std::net::IpAddr::V4(sender) = sender else { panic!("ARP is of IPv4") };
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &source, &sender.octets(), &destination, &[0; 4]].concat();
    packet::ethernet(destination, source, ARP, &body)
}

#[test]
fn a_frame_to_a_station_is_sent_by_its_link() {
    needs_root!();
    let mut node = Node::new();
    for peer in node.clear.clone() {
        for source in [OWN, GUEST] {
            for frame in [
                ip_frame(of(&peer), source, false, 6),
                ip_frame(of(&peer), source, true, 1200),
                arp(of(&peer), source, own_v4()),
                packet::ethernet(of(&peer), source, 0x88b6, &[7; 46]),
            ] {
                let before = node.programs.link_stats(peer.slot);
                let mut sent = node.sends(&frame, Counter::TxEncapsulated);
                let header_len = peer.frame(vec![]).header_len();
                same_bytes(&sent[header_len..], &frame, "the frame inside");
                let port_at = header_len - 16;
                assert!(u16::from_be_bytes([sent[port_at], sent[port_at + 1]]) >= 0xc000);
                sent[port_at..port_at + 2].copy_from_slice(&0xc123u16.to_be_bytes());
                // As the peer would send it, from here to there.
                let turned = Peer {
                    local: peer.remote,
                    remote: peer.local,
                    local_mac: peer.remote_mac,
                    remote_mac: peer.local_mac,
                    ..peer.clone()
                };
                same_bytes(&sent, &carried(&turned, &frame), "the frame that goes out");
                let after = node.programs.link_stats(peer.slot);
                assert_eq!(after.tx_bytes - before.tx_bytes, frame.len() as u64);
            }
        }
    }
}

#[test]
fn frames_that_the_daemon_is_to_see_are_left_to_it() {
    needs_root!();
    let mut node = Node::new();
    let there = of(&node.clear[0]);
    for (frame, counter) in [
        (arp([0xff; 6], OWN, own_v4()), Counter::TxToGroup),
        (ip_frame([0x33, 0x33, 0, 0, 0, 1], OWN, true, 8), Counter::TxToGroup),
        (ip_frame(NOBODY, OWN, false, 8), Counter::TxNoRoute),
        (ip_frame(GUEST, OWN, false, 8), Counter::TxNoRoute),
        (ip_frame(there, NOBODY, false, 8), Counter::TxStranger),
        (ip_frame(there, of(&node.clear[1]), false, 8), Counter::TxStranger),
        (ip_frame(there, OWN, false, 1464), Counter::TxFragmented),
    ] {
        node.misses(&frame, counter);
    }
    // Its flow stays with the daemon, until it has been quiet; others do not.
    node.misses(&ip_frame(there, OWN, false, 8), Counter::TxBulk);
    node.sends(&ip_frame(there, OWN, true, 8), Counter::TxEncapsulated);
    let from_group = ip_frame(there, [3, 0, 0, 0, 0, 1], false, 8);
    let input = Input::frame(&from_group);
    expect(&mut node.programs, Program::L2Egress, input, Action::Drop, &[Counter::TxBadFrame]);
    node.world.config.enabled = 0;
    node.programs.install(&node.world);
    node.misses(&ip_frame(there, OWN, true, 8), Counter::TxDisabled);
}

#[test]
fn frames_of_a_peers_stations_are_delivered() {
    needs_root!();
    let mut node = Node::new();
    for peer in node.clear.clone() {
        for destination in [OWN, GUEST, NOBODY] {
            let v6 = peer.local.is_ipv6();
            for frame in [
                ip_frame(destination, of(&peer), v6, 30),
                ip_frame(destination, of(&peer), v6 || can_change_families(), 1200),
                [ip_frame(destination, of(&peer), v6, 30), vec![0; 10]].concat(),
            ] {
                node.delivered(&peer, &frame);
            }
        }
    }
    let [v4, v6] = node.clear.clone();
    if can_change_families() {
        node.delivered(&v6, &ip_frame(OWN, of(&v6), false, 30));
    }
    node.delivered(&v4, &arp(OWN, of(&v4), v4.inner_v4));
    // Shorter than an IPv6 header: the kernel's VXLAN device takes it apart.
    let bytes = carried(&v6, &arp(OWN, of(&v6), v6.inner_v4));
    let counter = [Counter::RxToStack];
    let output = expect(&mut node.programs, Program::L2Ingress, Input::frame(&bytes), Action::Pass, &counter);
    same_bytes(&output.packet, &bytes, "what TC leaves to the stack");
}

#[test]
fn frames_of_other_stations_are_handed_to_the_daemon() {
    needs_root!();
    let mut node = Node::new();
    let [v4, v6] = node.clear.clone();
    for (peer, other) in [(&v4, &v6), (&v6, &v4)] {
        let long = peer.local.is_ipv6();
        for source in [NOBODY, of(other), OWN, GUEST] {
            node.handed_over(peer, &ip_frame(OWN, source, long, 30));
        }
        node.handed_over(peer, &ip_frame([0xff; 6], of(peer), long, 30));
        node.handed_over(peer, &arp(OWN, of(peer), other.inner_v4));
    }
    // A super-packet is no datagram.
    let bytes = carried(&v4, &ip_frame(OWN, NOBODY, false, 1400));
    let counter = [Counter::RxWrongInnerSource];
    expect(&mut node.programs, Program::L2Ingress, Input::gso(&bytes, 700, 2), Action::Drop, &counter);
    for destination in [GUEST, NOBODY] {
        let bytes = carried(&v4, &ip_frame(destination, of(&v4), false, 1400));
        let counter = [Counter::RxToStack];
        expect(&mut node.programs, Program::L2Ingress, Input::gso(&bytes, 700, 2), Action::Pass, &counter);
    }
}

#[test]
fn what_is_no_frame_of_a_link_is_refused() {
    needs_root!();
    let mut node = Node::new();
    let [peer, _] = node.clear.clone();
    let good = carried(&peer, &ip_frame(OWN, of(&peer), false, 30));
    for (byte, counter) in
        [(42, Counter::RxBadHeader), (43, Counter::RxBadHeader), (47, Counter::RxUnknownLink)]
    {
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        node.refuses(&bad, counter);
    }
    // A packet of a network that carries IP.
    let packet = peer.frame(ip_frame(OWN, of(&peer), false, 30)[14..].to_vec()).to_bytes();
    node.refuses(&packet, Counter::RxBadHeader);
    for len in 0..14 {
        node.refuses(&carried(&peer, &good[50..50 + len]), Counter::RxBadInner);
    }
    for len in 50..good.len() {
        node.refuses(&good[..len], Counter::RxTruncated);
    }
    let spoofed = Peer { remote: "192.0.2.77".parse().expect("an address"), ..peer };
    node.refuses(&carried(&spoofed, &good[50..]), Counter::RxWrongOuterSource);
}

#[test]
fn sealed_frames_are_opened_by_another_implementation_and_its_are() {
    needs_root!();
    let mut node = Node::new();
    for (peer, session) in node.sealed.clone() {
        let v6 = peer.local.is_ipv6();
        for len in [0, 1, 17, 700, 1300] {
            let frame = ip_frame(of(&peer), GUEST, v6, len);
            let sent = node.sends(&frame, Counter::TxSealed);
            let (_, text) = session.open(&sent[session.frame(&peer, 0, &[]).message_at()..]);
            let padding = (frame.len() + 2).next_multiple_of(16) - frame.len() - 2;
            let expected = [&[0xe0 | padding as u8, 0][..], &frame, &vec![0; padding]].concat();
            same_bytes(&text, &expected, "the frame and its padding");
        }
        for (counter, len) in (0..).zip([0, 1, 17, 700, 1300]) {
            let frame = ip_frame(GUEST, of(&peer), v6, len);
            let text = [&[0xe0, 0][..], &frame].concat();
            let padding = padded(&text).len() - text.len();
            for (at, text) in
                [text.clone(), [&[0xe0 | padding as u8], &padded(&text)[1..]].concat()].iter().enumerate()
            {
                let bytes = session.frame(&peer, 2 * counter + at as u64, text).to_bytes();
                let input = Input::frame(&bytes);
                let opened = [Counter::RxOpened];
                let output = expect(&mut node.programs, Program::L2Ingress, input, Action::Redirect, &opened);
                same_bytes(&output.packet, &frame, "what was in a sealed frame");
            }
        }
    }
}

#[test]
fn what_the_daemon_is_to_judge_is_left_to_it_before_its_counter_is_used() {
    needs_root!();
    let mut node = Node::new();
    let [(peer, session), (other, _)] = node.sealed.clone();
    let good = [&[0xe0, 0][..], &ip_frame(OWN, of(&peer), false, 30)].concat();
    let texts = [
        [&[0xe0, 0][..], &ip_frame(OWN, NOBODY, false, 30)].concat(),
        [&[0xe0, 0][..], &ip_frame(OWN, of(&other), false, 30)].concat(),
        [&[0xe0, 0][..], &ip_frame([0xff; 6], of(&peer), false, 30)].concat(),
        [&[0xe0, 0][..], &arp(OWN, of(&peer), other.inner_v4)].concat(),
        // A message to the daemon, a packet of IP, no frame.
        vec![1; 64],
        good[16..].to_vec(),
        good[..15].to_vec(),
        [&[0xe0, 1][..], &good[2..]].concat(),
    ];
    for text in texts {
        let bytes = session.frame(&peer, 9, &text).to_bytes();
        let counter = [Counter::RxToUser];
        let output =
            expect(&mut node.programs, Program::L2Ingress, Input::frame(&bytes), Action::Pass, &counter);
        same_bytes(&output.packet, &bytes, "a frame for the daemon");
    }
    let bytes = session.frame(&peer, 9, &good).to_bytes();
    let opened = [Counter::RxOpened];
    expect(&mut node.programs, Program::L2Ingress, Input::frame(&bytes), Action::Redirect, &opened);
    node.refuses(&bytes, Counter::RxReplay);
}
