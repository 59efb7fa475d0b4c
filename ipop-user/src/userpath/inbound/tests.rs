//! Datagrams as the sockets deliver them, and the packets that they become.

mod frames;

use std::net::IpAddr;
use std::sync::Arc;

use ipop_common::aead;
use ipop_common::gpe::{LinkId, NextProtocol};
use ipop_common::maps::{LinkRef, PrefixKey};
use ipop_common::session::Agreed;
use ipop_overlay::NodeAddress;
use ipop_overlay::session::Mac1Key;
use proptest::prelude::*;

use super::super::counters::Counters;
use super::super::packets::{Ears, PUBLIC_KEY, Packet, payload};
use super::super::session::sealed_len;
use super::super::table::{Table, UserLink};
use super::*;
use crate::places::Places;

const LINK: u32 = 0x0b_0b0b;
/// The last byte of the peer's inner address.
const PEER: u8 = 9;
const SESSION: u32 = 0x5e55_0007;

/// One node's inbound half, with a link to a peer that has one inner address of each family.
struct Node {
    inbound: Inbound,
    pool: Pool,
    frames: Coalescer,
    table: Table,
    places: Places,
    counters: Counters,
    ears: Ears,
}

impl Node {
    fn new(frames_max: u16) -> Self {
        let id = LinkId::new(LINK).unwrap();
        let local = "192.0.2.1".parse::<IpAddr>().unwrap().into();
        let mut table = Table::new();
        let link = UserLink::new("peer", id, local, "192.0.2.2:15000".parse().unwrap(), 1400);
        let reference = table.insert_link(0, link).unwrap();
        for packet in [peer_packet(), peer_packet().v6()] {
            let inner = ipop_common::inner::Inner::parse_any(&packet.bytes()[..], 0).unwrap();
            let prefix = PrefixKey { bits: 128, address: inner.source.to_bytes() };
            table.insert_prefix(prefix, reference);
        }
        Self {
            inbound: Inbound::new(8, Gate::new(Mac1Key::new(&PUBLIC_KEY))),
            pool: Pool::new(8, 65_536).unwrap(),
            frames: Coalescer::new(frames_max, true, true),
            table,
            places: Places::own().expect("memory"),
            counters: Counters::new(),
            ears: Ears::new(2),
        }
    }

    /// Takes datagrams of one length as one receive call delivers them.
    fn take(&mut self, from: &str, datagrams: &[Vec<u8>]) {
        let bytes = datagrams.concat();
        let buffer = self.pool.take().unwrap();
        let piece = Piece { buffer, start: 0, len: bytes.len() as u32 };
        self.pool.fill(buffer, &bytes);
        let segment_len = datagrams.first().map_or(1, |datagram| datagram.len().max(1) as u32);
        let from = Endpoint::Udp(format!("{from}:15000").parse().unwrap());
        self.inbound.take(Bundle { piece, segment_len, from, socket: 0 }, &mut self.pool);
    }

    /// The packets delivered, each as it came.
    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        loop {
            let context = Context {
                table: &self.table,
                places: &self.places,
                counters: &self.counters,
                listeners: &self.ears.listeners,
                now_ns: 1,
            };
            let done = self.inbound.fill(&mut self.pool, &mut self.frames, &context);
            self.frames.flush();
            while let Some(index) = self.frames.next_ready() {
                let frame = self.frames.frame(index).unwrap();
                packets.extend(frame.originals().map(|piece| self.pool.bytes(piece).to_vec()));
                for buffer in frame.pieces().iter().map(|piece| piece.buffer).collect::<Vec<_>>() {
                    self.pool.release(buffer);
                }
                self.frames.release(index);
            }
            if done {
                assert_eq!(self.pool.free_buffers(), 8, "every buffer is free again");
                return packets;
            }
        }
    }

    fn counted(&self) -> Vec<(Counter, u64)> {
        self.counters.iter().filter(|(_, value)| *value > 0).collect()
    }
}

fn peer_packet() -> Packet {
    Packet { source: PEER, ..Packet::udp(payload(32)) }
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let next_protocol = if packet[0] >> 4 == 4 { NextProtocol::Ipv4 } else { NextProtocol::Ipv6 };
    let header = gpe::Header { link_id: LinkId::new(LINK).unwrap(), next_protocol };
    [&header.to_bytes()[..], packet].concat()
}

fn udp(place: &str) -> Endpoint {
    Endpoint::Udp(place.parse().unwrap())
}

#[test]
fn a_bundle_is_delivered_packet_by_packet_and_counted_for_its_link() {
    let mut node = Node::new(16);
    let packets: Vec<_> = (0..5).map(|id| Packet { id, ..peer_packet() }.bytes()).collect();
    node.take("192.0.2.2", &packets.iter().map(|packet| frame(packet)).collect::<Vec<_>>());
    node.take("192.0.2.2", &[frame(&peer_packet().v6().bytes())]);
    let delivered = node.drain();
    assert_eq!(delivered[..5], packets);
    assert_eq!(delivered[5], peer_packet().v6().bytes());
    let traffic = node.table.user_link(0).unwrap().traffic.snapshot();
    assert_eq!((traffic.rx_packets, traffic.rx_bytes), (6, 5 * 60 + 80));
    assert_eq!(node.counted(), []);
}

#[test]
fn with_few_frames_a_bundle_is_continued() {
    let mut node = Node::new(2);
    let packets: Vec<_> = (0..40).map(|id| Packet { id: id * 7, ..peer_packet() }.bytes()).collect();
    for _ in 0..3 {
        node.take("192.0.2.2", &packets.iter().map(|packet| frame(packet)).collect::<Vec<_>>());
    }
    assert_eq!(node.drain(), [&packets[..]; 3].concat());
}

#[test]
fn what_was_admitted_for_one_does_not_admit_the_next() {
    let mut node = Node::new(16);
    let good = frame(&peer_packet().bytes());
    let stranger = frame(&Packet { source: PEER + 1, ..peer_packet() }.bytes());
    node.take("192.0.2.2", &[good.clone(), stranger.clone(), good.clone()]);
    node.take("192.0.2.3", std::slice::from_ref(&good));
    node.take("192.0.2.2", &[stranger, good]);
    assert_eq!(node.drain().len(), 3);
    assert_eq!(node.counted(), [(Counter::RxWrongOuterSource, 1), (Counter::RxWrongInnerSource, 2)]);
}

#[test]
fn an_empty_datagram_is_counted() {
    let mut node = Node::new(16);
    node.take("192.0.2.2", &[Vec::new()]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxUnknownMessage, 1)]);
}

/// The peer's side of a session with the node, whose slot is that of the link.
fn sealing(node: &mut Node) -> impl Fn(&[u8]) -> Vec<u8> + use<> {
    let agreed = Agreed {
        local: SESSION,
        remote: SESSION,
        send_key: aead::Key([1; 8]),
        receive_key: aead::Key([1; 8]),
        expires_ns: u64::MAX,
        first_counter: 0,
        link: LinkRef::LOCAL,
    };
    node.places.of(SESSION).install(&agreed, None);
    let key: [u8; 32] = [1u32.to_le_bytes(); 8].concat().try_into().unwrap();
    node.table.insert_session(0, Arc::new(UserSession::new(SESSION, &key, &key)));
    let theirs = ipop_common::session::Session::vacant();
    theirs.install(&agreed, None);
    let session = UserSession::new(SESSION, &key, &key);
    move |packet| {
        let mut block = vec![0; sealed_len(packet.len(), 1400)];
        block[TRANSPORT_HEADER_LEN..][..packet.len()].copy_from_slice(packet);
        session.seal(&theirs, &mut block, packet.len(), 1).unwrap();
        block
    }
}

#[test]
fn sealed_packets_are_delivered_once_and_counted_for_the_link() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    let packets: Vec<_> = (0..5).map(|id| Packet { id, ..peer_packet() }.bytes()).collect();
    let sealed: Vec<_> = packets.iter().map(|packet| seal(packet)).collect();
    node.take("192.0.2.9", &sealed);
    assert_eq!(node.drain(), packets, "from wherever");
    node.take("192.0.2.9", &sealed);
    assert!(node.drain().is_empty());
    let traffic = node.table.user_link(0).unwrap().traffic.snapshot();
    assert_eq!((traffic.rx_packets, traffic.rx_bytes), (5, 5 * 60));
    assert_eq!(node.counted(), [(Counter::RxReplay, 5)]);
    let Ok(UserEvent::Authenticated { local, from }) = node.ears.events.try_recv() else {
        panic!("it is told where the peer is")
    };
    let from = from.udp().map(|from| from.ip());
    assert_eq!((local, from), (SESSION, "192.0.2.9".parse().ok()));
    assert!(node.ears.events.try_recv().is_err(), "and told once");
}

/// Takes a datagram as other nodes have carried it here.
fn take_carried(node: &mut Node, datagram: &[u8]) {
    let buffer = node.pool.take().unwrap();
    node.pool.fill(buffer, datagram);
    let len = datagram.len() as u32;
    let piece = Piece { buffer, start: 0, len };
    let from = Endpoint::Overlay(NodeAddress([3; 20]));
    node.inbound.take(Bundle { piece, segment_len: len, from, socket: 0 }, &mut node.pool);
}

#[test]
fn sealed_packets_that_others_have_carried_are_delivered() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    let packet = peer_packet().bytes();
    let sealed = seal(&packet);
    take_carried(&mut node, &sealed);
    assert_eq!(node.drain(), std::slice::from_ref(&packet));
    let event = node.ears.events.try_recv();
    assert!(matches!(event, Ok(UserEvent::Authenticated { from: Endpoint::Overlay(_), .. })), "{event:?}");
    let heard = node.table.user_session(SESSION).unwrap().1.heard();
    assert_eq!((heard.udp_ns, heard.around_data_ns), (0, 1));
    assert_eq!(node.places.of(SESSION).last_traffic(), (0, 0), "UDP has brought nothing");
    node.take("192.0.2.2", &[sealed]);
    assert_eq!(node.counted(), []);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxReplay, 1)], "once, whichever way it comes");
    node.take("192.0.2.2", &[seal(&packet)]);
    assert_eq!(node.drain().len(), 1);
    assert_eq!(node.places.of(SESSION).last_traffic(), (0, 1));
}

#[test]
fn what_others_have_carried_and_is_not_sealed_is_refused() {
    let mut node = Node::new(16);
    let mut initiation = vec![0; wireguard::INITIATION_LEN];
    initiation[0] = wireguard::TYPE_INITIATION;
    Mac1Key::new(&PUBLIC_KEY).fill_in(&mut initiation);
    for datagram in [&frame(&peer_packet().bytes())[..], &initiation, &[0x77; 40]] {
        take_carried(&mut node, datagram);
    }
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxUnknownMessage, 3)]);
    assert!(node.ears.handshakes.try_recv().is_err());
}

#[test]
fn an_authentic_packet_is_not_believed_either() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    let stranger = Packet { source: PEER + 1, ..peer_packet() }.bytes();
    let mut longer = peer_packet().bytes();
    longer[2..4].copy_from_slice(&200u16.to_be_bytes());
    for (text, counter) in [
        (&stranger[..], Counter::RxWrongInnerSource),
        (&longer[..], Counter::RxBadLength),
        (&[0x77; 40][..], Counter::RxBadInner),
        (&[0x45; 4][..], Counter::RxBadInner),
    ] {
        let before = node.counters.value(counter);
        node.take("192.0.2.2", &[seal(text)]);
        assert!(node.drain().is_empty());
        assert_eq!(node.counters.value(counter), before + 1, "{counter:?}");
    }
}

#[test]
fn other_texts_than_packets_are_handed_on() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    node.take("192.0.2.2", &[seal(&[])]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxKeepalive, 1)]);
    let event = node.ears.events.try_recv();
    assert!(matches!(event, Ok(UserEvent::Authenticated { local: SESSION, .. })), "{event:?}");
    for len in [16, 64, 1312] {
        let message = vec![1; len];
        node.take("192.0.2.2", &[seal(&message)]);
        assert!(node.drain().is_empty());
        let event = node.ears.events.try_recv();
        let Ok(UserEvent::Message { local: SESSION, text, .. }) = event else { panic!("{event:?}") };
        assert_eq!(text[..], message, "of any length");
    }
}

#[test]
fn what_no_session_has_sealed_is_counted() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    let good = seal(&peer_packet().bytes());
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let datagrams = [changed(4), changed(8), changed(16), changed(good.len() - 1), good[..31].to_vec()];
    for datagram in datagrams {
        node.take("192.0.2.2", &[datagram]);
    }
    assert!(node.drain().is_empty());
    let expected = [(Counter::RxTruncated, 1), (Counter::RxUnknownIndex, 1), (Counter::RxBadTag, 3)];
    assert_eq!(node.counted(), expected);
    node.take("192.0.2.2", &[good]);
    assert_eq!(node.drain().len(), 1, "the counter is not used up by what was forged");
}

#[test]
fn handshake_messages_go_on_if_their_sender_knows_this_node() {
    let mut node = Node::new(16);
    let initiation = |mac1: &Mac1Key| {
        let mut bytes = vec![0; wireguard::INITIATION_LEN];
        bytes[0] = wireguard::TYPE_INITIATION;
        mac1.fill_in(&mut bytes);
        bytes
    };
    let good = initiation(&Mac1Key::new(&PUBLIC_KEY));
    node.take("192.0.2.2", &[good.clone(), initiation(&Mac1Key::new(&[8; 32]))]);
    node.take("192.0.2.2", &[vec![1, 0, 0, 0], vec![3, 0, 0, 0]]);
    let mut cookie = vec![0; wireguard::COOKIE_REPLY_LEN];
    cookie[0] = wireguard::TYPE_COOKIE_REPLY;
    node.take("192.0.2.2", &[cookie.clone()]);
    node.take("192.0.2.2", &[cookie.clone()]);
    assert!(node.drain().is_empty());
    assert_eq!(
        node.counted(),
        [
            (Counter::RxBadMac1, 1),
            (Counter::RxBadHandshake, 1),
            (Counter::RxHandshakeFlood, 1),
            (Counter::RxBadCookie, 1)
        ]
    );
    assert_eq!(node.ears.handshakes.try_recv().unwrap().bytes[..], good);
    assert_eq!(node.ears.handshakes.try_recv().unwrap().bytes[..], cookie);
}

/// xorshift64*: a million datagrams in a second, the same each time.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Random bytes, and good frames with a few bits turned: whatever is delivered is what the
/// peer may send, and the rest is counted.
#[test]
fn of_a_million_hostile_datagrams_none_is_delivered_that_should_not_be() {
    let mut node = Node::new(64);
    let mut state = 0x1234_5678_9abc_def1;
    let goods = [frame(&peer_packet().bytes()), frame(&peer_packet().v6().bytes())];
    let (mut sent, mut delivered, mut handed) = (0u64, 0u64, 0u64);
    while sent < 1_000_000 {
        let len = random(&mut state) as usize % 120 + 1;
        let bundle: Vec<Vec<u8>> = (0..50)
            .map(|_| {
                let choice = random(&mut state);
                let mut bytes = goods[choice as usize & 1].clone();
                if choice & 6 == 0 {
                    bytes.iter_mut().for_each(|byte| *byte = random(&mut state) as u8);
                }
                for _ in 0..choice >> 4 & 3 {
                    let at = random(&mut state) as usize;
                    let range = bytes.len();
                    bytes[at % range] ^= 1 << (at >> 40 & 7);
                }
                bytes.resize(len, 0);
                bytes
            })
            .collect();
        node.take("192.0.2.2", &bundle);
        sent += 50;
        for packet in node.drain() {
            let inner = ipop_common::inner::Inner::parse_any(&packet[..], 0).unwrap();
            assert_eq!(usize::from(inner.total_len), packet.len());
            assert_eq!(packet[if packet[0] >> 4 == 4 { 15 } else { 23 }], PEER);
            delivered += 1;
        }
        // A few look like cookie replies, which are for others to check.
        while node.ears.handshakes.try_recv().is_ok() {
            handed += 1;
        }
    }
    let refused: u64 = node.counted().iter().map(|(_, packets)| packets).sum();
    assert_eq!(delivered + refused + handed, sent);
    assert!(delivered > 1000 && refused > 100_000, "{delivered} and {:?}", node.counted());
}

proptest! {
    #[test]
    fn a_bundle_cut_anywhere_does_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..400),
        segment_len in 1u32..500,
        good: bool,
    ) {
        let mut node = Node::new(64);
        let bytes = if good { frame(&peer_packet().bytes()).repeat(5) } else { bytes };
        node.take("192.0.2.2", std::slice::from_ref(&bytes));
        if let Some(bundle) = node.inbound.bundles.front_mut() {
            bundle.segment_len = segment_len;
        }
        let delivered = node.drain().len() as u64;
        let refused: u64 = node.counted().iter().map(|(_, packets)| packets).sum();
        prop_assert_eq!(delivered + refused, bytes.len().div_ceil(segment_len as usize) as u64);
    }
}

const RELAY: [u8; 20] = [7; 20];
const LABEL: u32 = 0x0102_0304;

fn relay_frame(message: &[u8]) -> Vec<u8> {
    [&relay::header(LABEL)[..], message].concat()
}

#[test]
fn what_a_relay_has_passed_on_is_delivered_and_seen_to_come_by_it() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    let packet = peer_packet().bytes();
    let sealed = relay_frame(&seal(&packet));
    node.take("192.0.2.5", std::slice::from_ref(&sealed));
    assert!(node.drain().is_empty(), "no node is known to be there");
    assert_eq!(node.counted(), [(Counter::RxUnknownLabel, 1)]);
    node.table.insert_node(udp("192.0.2.5:15000"), NodeAddress(RELAY));
    node.take("192.0.2.5", &[sealed]);
    assert_eq!(node.drain(), std::slice::from_ref(&packet));
    let by_it = Endpoint::Relay { by: NodeAddress(RELAY), label: LABEL };
    assert_eq!(node.ears.events.try_recv(), Ok(UserEvent::Authenticated { local: SESSION, from: by_it }));
    let heard = node.table.user_session(SESSION).unwrap().1.heard();
    assert_eq!((heard.udp_ns, heard.relay_ns, heard.around), (0, 1, Some((by_it, 1))));
    assert_eq!(
        node.places.of(SESSION).last_traffic(),
        (0, 0),
        "no packet has come from the peer's own place"
    );
}

#[test]
fn handshakes_come_by_relays_and_clear_packets_do_not() {
    let mut node = Node::new(16);
    node.table.insert_node(udp("192.0.2.2:15000"), NodeAddress(RELAY));
    let mut initiation = vec![0; wireguard::INITIATION_LEN];
    initiation[0] = wireguard::TYPE_INITIATION;
    Mac1Key::new(&PUBLIC_KEY).fill_in(&mut initiation);
    node.take("192.0.2.2", &[relay_frame(&initiation)]);
    assert!(node.drain().is_empty());
    let handed = node.ears.handshakes.try_recv().unwrap();
    let by_it = Endpoint::Relay { by: NodeAddress(RELAY), label: LABEL };
    assert_eq!((handed.from, &handed.bytes[..]), (by_it, &initiation[..]));
    for message in [&frame(&peer_packet().bytes())[..], &relay_frame(&initiation), &[], &[0x77; 40]] {
        node.take("192.0.2.2", &[relay_frame(message)]);
        assert!(node.drain().is_empty());
    }
    assert_eq!(node.counted(), [(Counter::RxUnknownMessage, 4)]);
    assert!(node.ears.handshakes.try_recv().is_err());
    node.take("192.0.2.2", &[relay_frame(&[])[..7].to_vec()]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counters.value(Counter::RxBadRelayFrame), 1);
}

#[test]
fn what_is_between_others_goes_to_the_other_end_as_it_is() {
    let mut node = Node::new(16);
    let [a, b] = ["192.0.2.7:15000", "192.0.2.8:15000"].map(udp);
    node.table.insert_relayed(LABEL, [a, b]);
    let sent = relay_frame(&[9; 40]);
    for (from, to) in [("192.0.2.7", b), ("192.0.2.8", a)] {
        node.take(from, std::slice::from_ref(&sent));
        assert!(node.drain().is_empty());
        let passed = node.ears.carried.try_recv().unwrap();
        assert_eq!((passed.to, passed.is_relayed, passed.bytes), (to, true, sent.clone()));
    }
    node.take("192.0.2.2", &[sent]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxUnknownLabel, 1)], "from neither end");
}

#[test]
fn what_looks_like_stun_and_was_not_asked_for_is_refused() {
    let mut node = Node::new(16);
    let mut answer = [&[1, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    node.take("192.0.2.2", std::slice::from_ref(&answer));
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxBadStun, 1)]);
    // With the second byte of an initiation it is one, and too short.
    answer[1] = 0;
    node.take("192.0.2.2", &[answer]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counters.value(Counter::RxBadStun), 1);
    assert_eq!(node.counters.value(Counter::RxBadHandshake) + node.counters.value(Counter::RxBadMac1), 1);
}
