//! Sealed links: what egress seals is opened by another implementation, what another has sealed is
//! opened by TC ingress, and nothing else is.
//!
//! What a test run cannot be, a packet whose checksum a device is to complete or a super-packet that
//! goes out, is in `wire`.

use ipop_common::Counter;
use ipop_common::relay;
use ipop_common::session::{REJECT_AFTER_MESSAGES, WINDOW};
use ipop_tests::packet;
use ipop_tests::programs::{Action, Input, Program};
use ipop_tests::sealed::{SealedFrame, Session, padded};
use ipop_tests::world::Peer;
use ipop_tests::{namespace, needs_root};

use crate::scenario::{address, expect, from_peer, own_v4, own_v6, peer_v4, peer_v6, same_bytes};
use crate::sealing::{Node, packet_of};

/// Sealed inner packets of this length are as long as a datagram of 1500 bytes can carry.
const MTU_V4: u16 = 1440;
const MTU_V6: u16 = 1420;

/// A node with two sealed links, over IPv4 and over IPv6.
fn node() -> Node {
    namespace::enter_new();
    let peers = vec![Peer { mtu: MTU_V4, ..peer_v4(1) }, Peer { mtu: MTU_V6, ..peer_v6(2) }];
    Node::new(peers, |world, links| links.iter().for_each(|(peer, session)| world.add_sealed(peer, session)))
}

#[test]
fn what_is_sealed_at_every_length_another_implementation_opens() {
    needs_root!();
    let mut node = node();
    for (peer, session) in node.links.clone() {
        let mut expected_counter = 0;
        for v6 in [false, true] {
            // The shortest that a test run takes.
            let shortest = if v6 { 54 } else { 34 };
            for len in shortest..=usize::from(peer.mtu) {
                let packet = packet_of(&peer, v6, len, 9);
                let frame = node.sealed(&packet);
                let parts = session.frame(&peer, 0, &[]);
                let (counter, text) = session.open(&frame[parts.message_at()..]);
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
                    message: frame[parts.message_at()..].to_vec(),
                    ..parts
                };
                same_bytes(&frame, &whole.to_bytes(), "the frame around it");
            }
        }
    }
}

#[test]
fn what_another_implementation_has_sealed_at_every_length_is_opened() {
    needs_root!();
    let mut node = node();
    for (peer, session) in node.links.clone() {
        let mut counter = 0;
        for v6 in [false, true] {
            let to = if v6 { own_v6() } else { own_v4() };
            for len in 0..usize::from(peer.mtu) - 48 {
                let inner = packet::udp(peer.inner(to), to, (1, 2), &vec![0x5a; len]);
                for text in [inner.clone(), padded(&inner)] {
                    node.opened(peer.slot, &session.frame(&peer, counter, &text), &inner);
                    counter += 1;
                }
            }
        }
    }
}

#[test]
fn a_frame_is_delivered_once() {
    needs_root!();
    let mut node = node();
    for (peer, session) in node.links.clone() {
        let inner = from_peer(&peer, peer.local.is_ipv6());
        for counter in [5, 3, 4, WINDOW] {
            let frame = session.frame(&peer, counter, &inner);
            node.opened(peer.slot, &frame, &inner);
            node.refused(&frame, Counter::RxReplay);
        }
        node.refused(&session.frame(&peer, 6, &inner), Counter::RxTooOld);
    }
}

/// Of the message: type and index decide who is asked, all else is under the tag.
#[test]
fn a_frame_with_any_bit_changed_is_not_delivered() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let inner = from_peer(&peer, false);
    let good = session.frame(&peer, 1, &padded(&inner));
    for byte in 0..good.message.len() {
        for bit in 0..8 {
            let mut frame = good.clone();
            frame.message[byte] ^= 1 << bit;
            match byte {
                0..4 => {
                    let bytes = frame.to_bytes();
                    // With that bit it is a relay frame, of nobody that this node relays for.
                    let is_relay_frame = frame.message[..4] == [relay::TYPE, 0, 0, 0];
                    let passed = [if is_relay_frame { Counter::RxToUser } else { Counter::RxNotOurs }];
                    expect(&mut node.programs, Program::Ingress, Input::frame(&bytes), Action::Pass, &passed);
                }
                4..8 => node.left_to_user(&frame.to_bytes()),
                // Counters of the upper half are past the limit only where all bits are set.
                _ => node.refused(&frame, Counter::RxBadTag),
            }
        }
    }
    for len in 33..good.message.len() {
        let mut frame = good.clone();
        frame.message.truncate(len);
        node.refused(&frame, Counter::RxBadTag);
    }
    // The counter was not used up by any of these.
    node.opened(peer.slot, &good, &inner);
}

#[test]
fn a_key_of_another_session_opens_nothing() {
    needs_root!();
    let mut node = node();
    let ((peer, session), (_, other)) = (node.links[0].clone(), node.links[1].clone());
    let inner = from_peer(&peer, false);
    let swapped = Session { local: session.local, ..other };
    node.refused(&swapped.frame(&peer, 0, &inner), Counter::RxBadTag);
    // Its own keys, but the wrong way round.
    let reflected = Session { receive_key: session.send_key, ..session };
    node.refused(&reflected.frame(&peer, 0, &inner), Counter::RxBadTag);
}

#[test]
fn an_authentic_packet_must_still_be_the_peers() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let mut counter = 0;
    let mut frame = |text: &[u8]| {
        counter += 1;
        session.frame(&peer, counter, text)
    };
    let good = from_peer(&peer, false);
    // Another peer's address, this node's own, nobody's.
    for source in [node.links[1].0.inner_v4, own_v4(), address("203.0.113.9")] {
        let inner = packet::udp(source, own_v4(), (1, 2), b"x");
        node.refused(&frame(&padded(&inner)), Counter::RxWrongInnerSource);
    }
    let mut longer = good.clone();
    longer[2..4].copy_from_slice(&(good.len() as u16 + 1).to_be_bytes());
    node.refused(&frame(&longer), Counter::RxBadLength);
    for text in [&[0x50; 40][..], &[0x10; 16], &[0x45; 19], &good[..19], &[0x60; 39]] {
        node.refused(&frame(text), Counter::RxBadInner);
    }
    node.opened(peer.slot, &frame(&good), &good);
}

#[test]
fn what_is_not_for_the_kernel_path_is_left_to_the_daemon() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let inner = from_peer(&peer, false);
    let good = session.frame(&peer, 0, &inner);
    let unknown = Session { local: session.local + 1, ..session }.frame(&peer, 0, &inner);
    let previous = Session { local: session.local ^ 1 << 13, ..session }.frame(&peer, 0, &inner);
    let long = session.frame(&peer, 0, &vec![0x45; 1537]);
    let others = [
        SealedFrame { has_checksum: true, ..good.clone() },
        unknown,
        previous,
        SealedFrame { source: address("192.0.2.99"), ..good.clone() },
        SealedFrame { destination: address("192.0.2.98"), ..good.clone() },
        // A keepalive.
        session.frame(&peer, 0, &[]),
        // A control message without a checksum.
        session.frame(&peer, 0, &[0; 16]),
        long,
    ];
    for frame in others {
        node.left_to_user(&frame.to_bytes());
    }
    let bytes = good.to_bytes();
    let merged = Input::gso(&bytes, 100, 2);
    expect(&mut node.programs, Program::Ingress, merged, Action::Pass, &[Counter::RxToUser]);
    // A handshake, or a hello.
    let mut handshake = good.clone();
    handshake.message[0] = 1;
    let bytes = handshake.to_bytes();
    expect(&mut node.programs, Program::Ingress, Input::frame(&bytes), Action::Pass, &[Counter::RxNotOurs]);
    node.opens_for_a_link_alone(&peer, &good, &inner);
}

#[test]
fn a_key_is_used_no_longer_than_it_may_be() {
    needs_root!();
    let mut node = node();
    let (peer, session) = node.links[0].clone();
    let inner = from_peer(&peer, false);
    let out = packet_of(&peer, false, 100, 9);
    node.agree(&session, |agreed| agreed.expires_ns = 1);
    node.refused(&session.frame(&peer, 0, &inner), Counter::RxKeyExpired);
    node.missed(&out, Counter::TxKeyExpired);
    node.agree(&session, |agreed| {
        agreed.expires_ns = u64::MAX;
        agreed.first_counter = REJECT_AFTER_MESSAGES - 2;
    });
    for left in [2, 1] {
        let frame = node.sealed(&out);
        let (counter, _) = session.open(&frame[14 + 28..]);
        assert_eq!(counter, REJECT_AFTER_MESSAGES - left);
    }
    for _ in 0..3 {
        node.missed(&out, Counter::TxKeyExpired);
    }
    node.refused(&session.frame(&peer, REJECT_AFTER_MESSAGES, &inner), Counter::RxKeyExpired);
    node.opened(peer.slot, &session.frame(&peer, REJECT_AFTER_MESSAGES - 1, &inner), &inner);
    // No session at all, and one that is not there any more.
    node.world.sessions.clear();
    node.programs.install(&node.world.clone());
    node.missed(&out, Counter::TxNoSession);
    node.world.change(&peer, |link| link.session = 0);
    node.programs.install(&node.world.clone());
    node.missed(&out, Counter::TxNoSession);
}

#[test]
fn a_flow_with_super_packets_is_left_to_the_user_path_and_no_other_is() {
    needs_root!();
    let mut node = node();
    let (peer, _) = node.links[0].clone();
    let flow = packet_of(&peer, false, 1000, 80);
    let other = packet_of(&peer, false, 1000, 81);
    node.sealed(&flow);
    let bulk = [Counter::TxBulk];
    let input = Input::gso(&flow, 400, 3);
    expect(&mut node.programs, Program::Egress, input, Action::Redirect, &bulk);
    node.missed(&flow, Counter::TxBulk);
    node.sealed(&other);
}

#[test]
fn forms_that_are_not_sealed_here_are_left_to_the_user_path() {
    needs_root!();
    let mut node = node();
    let (peer, _) = node.links[0].clone();
    let mut fragment = packet_of(&peer, false, 1000, 80);
    fragment[6] = 0x20;
    node.missed(&fragment, Counter::TxComplex);
    let mut options = packet_of(&peer, false, 1000, 82);
    options[0] = 0x46;
    node.missed(&options, Counter::TxComplex);
    let mut fragment = packet_of(&peer, true, 1000, 83);
    fragment[6] = 44;
    node.missed(&fragment, Counter::TxComplex);
}
