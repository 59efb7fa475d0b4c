//! Links by a relay, at their two ends: what egress seals goes to the relay in a relay frame and is opened
//! by another implementation; what the relay passes on with this label is opened by TC ingress, and nothing
//! else is. What the relay itself does is in `relays`.

use ipop_common::Counter;
use ipop_common::maps::Relay;
use ipop_common::relay;
use ipop_tests::packet;
use ipop_tests::programs::{Action, Input, Program, Programs};
use ipop_tests::sealed::{DAEMON_PORT, SealedFrame, Session, padded};
use ipop_tests::world::{Peer, World};
use ipop_tests::{namespace, needs_root};

use crate::scenario::{
    DEVICE, HELPER, address, expect, from_peer, own_v4, own_v6, peer_v4, peer_v6, same_bytes,
};
use crate::sealing::{Node, packet_of};

const LABEL: u32 = 0x0102_0304;
/// Where the relay is, as its NAT has it.
const RELAY_PORT: u16 = 40_001;

/// As long as a datagram of 1500 bytes can carry, sealed and in a relay frame.
const MTU_V4: u16 = 1432;
const MTU_V6: u16 = 1412;

/// A node with two peers behind relays, over IPv4 and over IPv6, and one that it reaches directly.
fn node() -> Node {
    namespace::enter_new();
    let peers = vec![Peer { mtu: MTU_V4, ..peer_v4(1) }, Peer { mtu: MTU_V6, ..peer_v6(2) }, peer_v4(3)];
    Node::new(peers, |world, links| {
        let [(a, of_a), (b, of_b), (c, of_c)] = links else { unreachable!("three links") };
        world.add_relayed(a, of_a, RELAY_PORT, LABEL);
        world.add_relayed(b, of_b, RELAY_PORT, LABEL);
        world.add_sealed(c, of_c);
    })
}

/// The links by relays.
fn relayed(node: &Node) -> Vec<(Peer, Session)> {
    node.links[..2].to_vec()
}

/// A message in a relay frame.
fn in_frame(label: u32, message: &[u8]) -> Vec<u8> {
    [&relay::header(label)[..], message].concat()
}

/// A frame from the relay, with what the peer's kernel path has sealed.
fn by_relay(peer: &Peer, session: &Session, counter: u64, text: &[u8]) -> SealedFrame {
    let direct = session.frame(peer, counter, text);
    SealedFrame { source_port: RELAY_PORT, message: in_frame(LABEL, &direct.message), ..direct }
}

#[test]
fn what_is_sealed_at_every_length_goes_to_the_relay_and_another_implementation_opens_it() {
    needs_root!();
    let mut node = node();
    for (peer, session) in relayed(&node) {
        let mut expected_counter = 0;
        for v6 in [false, true] {
            // The shortest that a test run takes.
            let shortest = if v6 { 54 } else { 34 };
            for len in shortest..=usize::from(peer.mtu) {
                let packet = packet_of(&peer, v6, len, 9);
                let frame = node.sealed(&packet);
                assert!(frame.len() <= 14 + 1500, "{} bytes do not fit the wire", frame.len());
                let parts = by_relay(&peer, &session, 0, &[]);
                let message = &frame[parts.message_at() + relay::HEADER_LEN..];
                let (counter, text) = session.open(message);
                assert_eq!(counter, expected_counter, "counters are used one after the other");
                expected_counter += 1;
                let mut wanted = padded(&packet);
                wanted.truncate(len.max(usize::from(peer.mtu)));
                same_bytes(&text, &wanted, "the packet and its padding");
                let whole = SealedFrame {
                    destination_mac: peer.remote_mac,
                    source_mac: peer.local_mac,
                    source: peer.local,
                    destination: peer.remote,
                    source_port: DAEMON_PORT,
                    has_checksum: false,
                    message: in_frame(LABEL, message),
                };
                same_bytes(&frame, &whole.to_bytes_to(RELAY_PORT), "the frame around it");
            }
        }
    }
}

#[test]
fn a_packet_that_does_not_fit_with_the_relay_header_is_answered_with_the_mtu_that_does() {
    needs_root!();
    let mut node = node();
    for (peer, _) in relayed(&node) {
        for v6 in [false, true] {
            let packet = packet_of(&peer, v6, usize::from(peer.mtu) + 1, 9);
            let (input, too_big) = (Input::frame(&packet), [Counter::TxTooBig]);
            let output =
                expect(&mut node.programs, Program::Egress, input, Action::Redirect, &too_big).packet;
            // The MTU of the ICMP error: a word behind type, code and checksum.
            let at = if v6 { 40 + 6 } else { 20 + 6 };
            assert_eq!(output[at..at + 2], peer.mtu.to_be_bytes(), "the MTU that is told");
        }
    }
}

#[test]
fn what_another_implementation_has_sealed_at_every_length_is_opened() {
    needs_root!();
    let mut node = node();
    for (peer, session) in relayed(&node) {
        let mut counter = 0;
        for v6 in [false, true] {
            let to = if v6 { own_v6() } else { own_v4() };
            for len in 0..usize::from(peer.mtu) - 48 {
                let inner = packet::udp(peer.inner(to), to, (1, 2), &vec![0x5a; len]);
                for text in [inner.clone(), padded(&inner)] {
                    node.opened(peer.slot, &by_relay(&peer, &session, counter, &text), &inner);
                    counter += 1;
                }
            }
        }
    }
}

#[test]
fn a_relay_frame_is_delivered_once() {
    needs_root!();
    let mut node = node();
    for (peer, session) in relayed(&node) {
        let inner = from_peer(&peer, peer.local.is_ipv6());
        for counter in [5, 3, 4] {
            let frame = by_relay(&peer, &session, counter, &inner);
            node.opened(peer.slot, &frame, &inner);
            node.refused(&frame, Counter::RxReplay);
        }
    }
}

#[test]
fn another_label_or_another_place_is_for_the_daemon_to_judge() {
    needs_root!();
    let mut node = node();
    for (peer, session) in relayed(&node) {
        let inner = from_peer(&peer, peer.local.is_ipv6());
        let good = by_relay(&peer, &session, 0, &inner);
        let other = if peer.local.is_ipv4() { address("192.0.2.99") } else { address("2001:db8::99") };
        let mut others = vec![
            SealedFrame { source: other, ..good.clone() },
            SealedFrame { destination: other, ..good.clone() },
            SealedFrame { source_port: RELAY_PORT + 1, ..good.clone() },
            SealedFrame { source_port: DAEMON_PORT, ..good.clone() },
            // As of the peer itself, but from where the relay is.
            SealedFrame { message: good.message[relay::HEADER_LEN..].to_vec(), ..good.clone() },
            // In two relay frames.
            SealedFrame { message: in_frame(LABEL, &good.message), ..good.clone() },
        ];
        for bit in 0..32 {
            let mut message = good.message.clone();
            message[4 + bit / 8] ^= 1 << (bit % 8);
            others.push(SealedFrame { message, ..good.clone() });
        }
        for other in others {
            node.left_to_user(&other.to_bytes());
        }
        // None of them has used up the counter.
        node.opened(peer.slot, &good, &inner);
    }
}

/// A session belongs to one way: what comes by the other is for the daemon, which may change over.
#[test]
fn a_direct_link_takes_no_relay_frames() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[2].clone();
    let inner = from_peer(&peer, false);
    let good = session.frame(&peer, 0, &inner);
    for label in [LABEL, 0] {
        let message = in_frame(label, &good.message);
        node.left_to_user(&SealedFrame { message, ..good.clone() }.to_bytes());
    }
    node.opened(peer.slot, &good, &inner);
}

#[test]
fn what_is_cut_off_anywhere_is_not_delivered() {
    needs_root!();
    let mut node = node();
    for (peer, session) in relayed(&node) {
        let inner = from_peer(&peer, peer.local.is_ipv6());
        let good = by_relay(&peer, &session, 0, &padded(&inner));
        for len in relay::HEADER_LEN..good.message.len() {
            let message = good.message[..len].to_vec();
            let frame = SealedFrame { message, ..good.clone() };
            // A header and a tag without a text are no packet.
            if len <= relay::HEADER_LEN + 32 {
                node.left_to_user(&frame.to_bytes());
            } else {
                node.refused(&frame, Counter::RxBadTag);
            }
        }
        // The frame is shorter than its headers say.
        let bytes = good.to_bytes();
        for len in good.message_at() + relay::HEADER_LEN..bytes.len() {
            node.left_to_user(&bytes[..len]);
        }
        node.opened(peer.slot, &good, &inner);
    }
}

#[test]
fn a_relay_frame_with_any_bit_of_its_message_changed_is_not_delivered() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let inner = from_peer(&peer, false);
    let good = by_relay(&peer, &session, 1, &padded(&inner));
    for byte in relay::HEADER_LEN..good.message.len() {
        for bit in 0..8 {
            let mut frame = good.clone();
            frame.message[byte] ^= 1 << bit;
            match byte - relay::HEADER_LEN {
                // Another type, or another session.
                0..8 => node.left_to_user(&frame.to_bytes()),
                _ => node.refused(&frame, Counter::RxBadTag),
            }
        }
    }
    node.opened(peer.slot, &good, &inner);
}

#[test]
fn an_authentic_packet_by_a_relay_must_still_be_the_peers() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let mut counter = 0;
    let mut frame = |text: &[u8]| {
        counter += 1;
        by_relay(&peer, &session, counter, text)
    };
    let good = from_peer(&peer, false);
    // That of the other relayed peer, this node's own, nobody's.
    for source in [node.links[1].0.inner_v4, own_v4(), address("203.0.113.9")] {
        let inner = packet::udp(source, own_v4(), (1, 2), b"x");
        node.refused(&frame(&padded(&inner)), Counter::RxWrongInnerSource);
    }
    let mut longer = good.clone();
    longer[2..4].copy_from_slice(&(good.len() as u16 + 1).to_be_bytes());
    node.refused(&frame(&longer), Counter::RxBadLength);
    node.refused(&frame(&[0x50; 40]), Counter::RxBadInner);
    node.opened(peer.slot, &frame(&good), &good);
}

#[test]
fn what_the_kernel_path_has_not_sealed_is_left_to_the_daemon() {
    needs_root!();
    let mut node = node();
    for (peer, session) in relayed(&node) {
        let inner = from_peer(&peer, peer.local.is_ipv6());
        let good = by_relay(&peer, &session, 0, &inner);
        let of = |message: &[u8]| SealedFrame { message: in_frame(LABEL, message), ..good.clone() };
        let initiation = [&[1, 0, 0, 0][..], &[7; 144]].concat();
        let response = [&[2, 0, 0, 0][..], &[7; 88]].concat();
        let cookie = [&[3, 0, 0, 0][..], &[7; 60]].concat();
        let unknown = Session { local: session.local + 1, ..session };
        let previous = Session { local: session.local ^ 1 << 13, ..session };
        for frame in [
            SealedFrame { has_checksum: true, ..good.clone() },
            of(&initiation),
            of(&response),
            of(&cookie),
            of(&[]),
            by_relay(&peer, &unknown, 0, &inner),
            by_relay(&peer, &previous, 0, &inner),
            // A keepalive.
            by_relay(&peer, &session, 0, &[]),
            // A control message without a checksum.
            by_relay(&peer, &session, 0, &[0; 16]),
            by_relay(&peer, &session, 0, &vec![0x45; 1537]),
        ] {
            node.left_to_user(&frame.to_bytes());
        }
        let bytes = good.to_bytes();
        let (merged, left) = (Input::gso(&bytes, 100, 2), [Counter::RxToUser]);
        expect(&mut node.programs, Program::Ingress, merged, Action::Pass, &left);
        node.opens_for_a_link_alone(&peer, &good, &inner);
    }
}

/// The label of a pair between which this node relays may be that of a link of its own: who sends decides.
#[test]
fn a_node_that_relays_is_an_end_of_other_links_too() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let inner = from_peer(&peer, false);
    let ends = [peer_v4(8), peer_v4(9)];
    let ways = ends.each_ref().map(|end| end.way(50_000));
    let relay = Relay::new([&ways[0], &ways[1]], u64::MAX, 0).expect("one family");
    node.world.relays.insert(LABEL, relay);
    node.programs.install(&node.world.clone());
    node.opened(peer.slot, &by_relay(&peer, &session, 0, &inner), &inner);
    let between =
        SealedFrame { source: ends[0].remote, source_port: 50_000, ..by_relay(&peer, &session, 1, &inner) };
    let (bytes, relayed) = (between.to_bytes(), [Counter::RxRelayed]);
    expect(&mut node.programs, Program::Ingress, Input::frame(&bytes), Action::Redirect, &relayed);
}

/// The same three programs as three nodes, one after the other: an end, the relay, the other end.
#[test]
fn what_one_end_seals_the_relay_passes_on_and_the_other_end_opens() {
    needs_root!();
    namespace::enter_new();
    let mut programs = Programs::load();
    for (a, b, relay) in
        [(peer_v4(1), peer_v4(2), address("192.0.2.77")), (peer_v6(1), peer_v6(2), address("2001:db8::77"))]
    {
        let (at_a, at_b) = (a.remote, b.remote);
        // Each end's link to the other: by its peer's slot, from its own place to the relay's.
        let a_to_b = Peer { local: at_a, remote: relay, mtu: MTU_V6, ..b.clone() };
        let b_to_a = Peer { local: at_b, remote: relay, mtu: MTU_V6, ..a.clone() };
        let session = Session::new(7, &a_to_b);
        let mut end_a = World::new(DEVICE, HELPER);
        end_a.add_relayed(&a_to_b, &session, DAEMON_PORT, LABEL);
        let mut end_b = World::new(DEVICE, HELPER);
        end_b.add_relayed(&b_to_a, &session.of_peer(b_to_a.reference()), DAEMON_PORT, LABEL);
        let mut between = World::new(DEVICE, HELPER);
        let ways = [&a, &b].map(|end| Peer { local: relay, ..end.clone() }.way(DAEMON_PORT));
        let pair = Relay::new([&ways[0], &ways[1]], u64::MAX, 0).expect("one family");
        between.relays.insert(LABEL, pair);
        for len in [100, 577, 1400] {
            let v6 = a.local.is_ipv6();
            let payload = vec![0x5a; len - if v6 { 48 } else { 28 }];
            let (from, to) = if v6 { (a.inner_v6, b.inner_v6) } else { (a.inner_v4, b.inner_v4) };
            let inner = packet::udp(from, to, (1000, len as u16), &payload);
            programs.install(&end_a);
            let (input, sealed) = (Input::frame(&inner), [Counter::TxSealed]);
            let mut frame = expect(&mut programs, Program::Egress, input, Action::Redirect, &sealed).packet;
            arrive(&mut frame);
            programs.install(&between);
            let (input, relayed) = (Input::frame(&frame), [Counter::RxRelayed]);
            let mut onward =
                expect(&mut programs, Program::Ingress, input, Action::Redirect, &relayed).packet;
            let udp = if v6 { 54 } else { 34 };
            assert_eq!(onward[udp + 6..udp + 8], [0, 0], "what a kernel path has sealed stays marked so");
            arrive(&mut onward);
            programs.install(&end_b);
            let (input, opened) = (Input::frame(&onward), [Counter::RxOpened]);
            let output = expect(&mut programs, Program::Ingress, input, Action::Redirect, &opened).packet;
            same_bytes(&output[14..], &inner, "what arrives at the other end");
            // Once.
            let (input, replayed) = (Input::frame(&onward), [Counter::RxReplay]);
            expect(&mut programs, Program::Ingress, input, Action::Drop, &replayed);
        }
    }
}

/// What a wire does: the frame is for the MAC of the device on which test runs take place.
fn arrive(frame: &mut [u8]) {
    frame[..6].fill(0);
}
