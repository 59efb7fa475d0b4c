//! Packets as the device delivers them, and the datagrams that they become.

mod frames;
mod groups;

use std::net::IpAddr;

use ipop_common::Address;
use ipop_common::aead;
use ipop_common::gpe::LinkId;
use ipop_common::ingress;
use ipop_common::maps::PrefixKey;
use ipop_common::session::Agreed;
use ipop_common::wireguard::TransportHeader;
use ipop_overlay::NodeAddress;

use super::super::UserEvent;
use super::super::packets::{Ears, Packet, is_sound, payload};
use super::super::virtio::{Gso, Header, PartialChecksum, Segmentation};
use super::*;

const MTU: u16 = 1400;
const PEER: u32 = 7;

/// One node's outbound half, with a link to the destination of the test packets.
struct Node {
    outbound: Outbound,
    pool: Pool,
    batch: Batch,
    answers: Coalescer,
    table: Table,
    places: Places,
    counters: Counters,
    ears: Ears,
}

impl Node {
    fn new(change: impl FnOnce(&mut UserLink)) -> Self {
        let id = LinkId::new(PEER).unwrap();
        let local = "192.0.2.1".parse::<IpAddr>().unwrap().into();
        let mut link = UserLink::new("peer", id, local, "192.0.2.2:15000".parse().unwrap(), MTU);
        change(&mut link);
        let mut table = Table::new();
        let reference = table.insert_link(0, link).unwrap();
        for packet in [Packet::tcp(Vec::new()), Packet::tcp(Vec::new()).v6()] {
            let inner = Inner::parse_any(&packet.bytes()[..], 0).unwrap();
            let address = inner.destination.to_bytes();
            table.insert_prefix(PrefixKey { bits: 128, address }, reference);
        }
        Self {
            outbound: Outbound::new(Families { v4: Some(0), v6: None }),
            pool: Pool::new(4, 65_536 + virtio::HEADER_LEN).unwrap(),
            batch: Batch::new(),
            answers: Coalescer::new(8, true, true),
            table,
            places: Places::own().expect("memory"),
            counters: Counters::new(),
            ears: Ears::new(4),
        }
    }

    /// Takes a packet as the device delivers it.
    fn take(&mut self, header: [u8; virtio::HEADER_LEN], packet: &[u8]) {
        let buffer = self.pool.take().unwrap();
        let bytes = [&header[..], packet].concat();
        let len = bytes.len() as u32;
        self.pool.fill(buffer, &bytes);
        self.outbound.take(
            buffer,
            len,
            &mut self.pool,
            &mut self.answers,
            &Context {
                table: &self.table,
                places: &self.places,
                counters: &self.counters,
                listeners: &self.ears.listeners,
                now_ns: 1,
            },
        );
    }

    fn fill(&mut self) -> bool {
        let context = Context {
            table: &self.table,
            places: &self.places,
            counters: &self.counters,
            listeners: &self.ears.listeners,
            now_ns: 1,
        };
        self.outbound.fill(&mut self.batch, &mut self.pool, &context)
    }

    /// Fills and empties batches until the packet is gone; the datagrams, and their sends.
    fn drain(&mut self) -> (Vec<Vec<u8>>, Vec<u16>) {
        let (mut datagrams, mut sends) = (Vec::new(), Vec::new());
        loop {
            let done = self.fill();
            for send in self.batch.pending() {
                let bytes: Vec<u8> =
                    self.batch.parts(send).iter().flat_map(|part| self.part(*part)).collect();
                assert_eq!(bytes.len(), send.len as usize);
                datagrams.extend(bytes.chunks(send.segment_len as usize).map(<[u8]>::to_vec));
                sends.push(send.segments);
            }
            self.batch.clear(&mut self.pool);
            if done {
                return (datagrams, sends);
            }
        }
    }

    fn part(&self, part: Part) -> Vec<u8> {
        match part {
            Part::Block { .. } => self.batch.block_bytes(part).to_vec(),
            Part::Payload(piece) => self.pool.bytes(piece).to_vec(),
        }
    }

    fn counted(&self) -> Vec<Counter> {
        self.counters.iter().filter(|(_, value)| *value > 0).map(|(counter, _)| counter).collect()
    }

    /// The answer written back, and whether all buffers are free again.
    fn answer(&mut self) -> Option<Vec<u8>> {
        assert_eq!(self.pool.free_buffers(), 4, "a refused packet keeps no buffer");
        let index = self.answers.next_ready()?;
        Some(self.answers.frame(index).unwrap().header()[virtio::HEADER_LEN..].to_vec())
    }
}

fn partial(packet: &Packet) -> PartialChecksum {
    PartialChecksum { start: packet.ip_len() as u16, offset: packet.check_offset() as u16 }
}

fn gso(packet: &Packet, size: u16) -> [u8; virtio::HEADER_LEN] {
    let segmentation = match (packet.udp, packet.v6) {
        (true, _) => Segmentation::Udp,
        (false, true) => Segmentation::TcpV6,
        (false, false) => Segmentation::TcpV4,
    };
    let gso = Some(Gso { segmentation, ecn: false, size, header_len: packet.header_len() as u16 });
    Header { gso, checksum: Some(partial(packet)) }.to_bytes()
}

/// What the receiver's check says about a datagram: the inner packet.
fn inner_of(datagram: &[u8]) -> &[u8] {
    let clear = ingress::clear(datagram, 0, datagram.len() as u16).unwrap();
    assert_eq!(clear.link_id.value(), PEER);
    &datagram[gpe::HEADER_LEN..]
}

#[test]
fn a_single_packet_leaves_as_it_is_behind_a_clear_header() {
    for packet in [Packet::tcp(payload(100)), Packet::udp(payload(3)).v6()] {
        let mut node = Node::new(|_| ());
        node.take(Header::PLAIN, &packet.bytes());
        let (datagrams, _) = node.drain();
        assert_eq!(datagrams.len(), 1);
        assert_eq!(inner_of(&datagrams[0]), packet.bytes());
        assert_eq!(node.pool.free_buffers(), 4);
    }
}

#[test]
fn a_checksum_left_to_the_device_is_completed_and_padding_is_cut_off() {
    let packet = Packet::udp(payload(99));
    let header = Header { gso: None, checksum: Some(partial(&packet)) };
    let mut node = Node::new(|_| ());
    node.take(header.to_bytes(), &packet.with_seed());
    assert_eq!(inner_of(&node.drain().0[0]), packet.bytes());
    node.take(Header::PLAIN, &[packet.bytes(), vec![0; 9]].concat());
    assert_eq!(inner_of(&node.drain().0[0]), packet.bytes());
}

#[test]
fn a_super_packet_leaves_in_sends_that_the_kernel_cuts() {
    for packet in [Packet::tcp(payload(60_000)), Packet::udp(payload(60_000)).v6()] {
        let mut node = Node::new(|_| ());
        let size = MTU as usize - packet.header_len();
        node.take(gso(&packet, size as u16), &packet.with_seed());
        let (datagrams, sends) = node.drain();
        assert!(datagrams.iter().all(|datagram| is_sound(inner_of(datagram))));
        let payload: Vec<u8> = datagrams
            .iter()
            .flat_map(|datagram| &inner_of(datagram)[packet.header_len()..])
            .copied()
            .collect();
        assert_eq!(payload, packet.payload);
        assert_eq!(sends.len(), 1, "{sends:?}");
    }
}

#[test]
fn a_super_packet_of_more_segments_than_a_batch_holds_is_continued() {
    let packet = Packet::tcp(payload(60_000));
    let mut node = Node::new(|_| ());
    node.take(gso(&packet, 8), &packet.with_seed());
    let (datagrams, sends) = node.drain();
    assert_eq!(datagrams.len(), 7500);
    assert!(sends.iter().all(|&segments| segments <= 64));
    assert!(datagrams.iter().all(|datagram| is_sound(inner_of(datagram))));
    assert_eq!(node.pool.free_buffers(), 4);
}

#[test]
fn segments_longer_than_the_link_are_answered_exactly_at_its_mtu() {
    let packet = Packet::tcp(payload(5000));
    for (excess, fits) in [(0, true), (1, false)] {
        let mut node = Node::new(|_| ());
        let size = MTU - packet.header_len() as u16 + excess;
        node.take(gso(&packet, size), &packet.with_seed());
        assert_eq!(!node.drain().0.is_empty(), fits);
        assert_eq!(node.answer().is_none(), fits);
    }
}

#[test]
fn what_is_too_big_is_answered_with_the_mtu_or_leaves_alone() {
    let mut node = Node::new(|_| ());
    node.take(Header::PLAIN, &Packet::udp(payload(1400)).bytes());
    let answer = node.answer().unwrap();
    assert_eq!((answer[20..22].to_vec(), answer[26..28].to_vec()), (vec![3, 4], MTU.to_be_bytes().to_vec()));
    assert_eq!(node.counted(), [Counter::TxTooBig]);
    let mut node = Node::new(|_| ());
    for _ in 0..2 {
        node.take(Header::PLAIN, &Packet { dont_fragment: false, ..Packet::udp(payload(1400)) }.bytes());
        assert!(node.fill());
    }
    assert_eq!(node.drain().1, [1, 1], "the kernel does not cut what it fragments");
    assert_eq!(node.counted(), [Counter::TxFragmented]);
}

#[test]
fn what_leads_nowhere_is_answered() {
    let mut node = Node::new(|link| link.reachable = false);
    node.take(Header::PLAIN, &Packet::udp(payload(10)).bytes());
    assert_eq!(node.answer().unwrap()[20..22], [3, 1]);
    assert_eq!(node.counted(), [Counter::TxUnreachable]);
    let mut node = Node::new(|link| link.endpoint = Endpoint::Udp("[2001:db8::1]:1".parse().unwrap()));
    node.take(Header::PLAIN, &Packet::udp(payload(10)).bytes());
    assert_eq!(node.counted(), [Counter::TxUnreachable], "there is no socket of that family");
    let mut node = Node::new(|_| ());
    node.table = Table::new();
    node.take(Header::PLAIN, &Packet::udp(payload(10)).v6().bytes());
    assert_eq!(node.answer().unwrap()[40..42], [1, 3]);
    assert_eq!(node.counted(), [Counter::TxNoRoute]);
}

#[test]
fn a_link_that_is_out_of_date_is_not_used() {
    let mut node = Node::new(|link| link.link.lease_until_ns = 1);
    node.take(Header::PLAIN, &Packet::udp(payload(10)).bytes());
    assert_eq!(node.counted(), [Counter::TxLeaseExpired]);
    assert_eq!(node.answer(), None);
}

#[test]
fn what_is_no_packet_is_counted_at_every_length() {
    let packet = Packet::tcp(payload(40)).bytes();
    for len in 0..packet.len() {
        let mut node = Node::new(|_| ());
        node.take(Header::PLAIN, &packet[..len]);
        assert!(node.drain().0.is_empty());
        assert_eq!(node.counted().len(), 1, "{len}");
    }
    let mut node = Node::new(|_| ());
    node.take([0xff; virtio::HEADER_LEN], &packet);
    assert_eq!(node.counted(), [Counter::TxNotIp]);
}

#[test]
fn after_a_refusal_the_kernel_is_not_asked_to_cut_for_a_while() {
    let packet = Packet::tcp(payload(5000));
    let mut node = Node::new(|_| ());
    node.outbound.pause_segmentation(0, 0);
    node.take(gso(&packet, 1000), &packet.with_seed());
    assert_eq!(node.drain().1, [1; 5]);
    node.outbound.paused_until_ns[0] = 1;
    node.take(gso(&packet, 1000), &packet.with_seed());
    assert_eq!(node.drain().1, [5]);
}

/// A link to a peer that other nodes carry to, with a session or without one.
fn on_overlay(link: &mut UserLink) {
    *link = UserLink::around("peer", link.id, Endpoint::Overlay(NodeAddress([5; 20])), None, MTU);
}

fn with_session(node: &Node, link: &mut UserLink) {
    let agreed = Agreed {
        local: 9,
        remote: 9,
        send_key: aead::Key([1; 8]),
        receive_key: aead::Key([1; 8]),
        expires_ns: u64::MAX,
        first_counter: 0,
        link: LinkRef::LOCAL,
    };
    node.places.of(9).install(&agreed, None);
    let key: [u8; 32] = [1u32.to_le_bytes(); 8].concat().try_into().unwrap();
    link.carriage = Carriage::Sealed(Some(Arc::new(UserSession::new(9, &key, &key))));
}

#[test]
fn a_super_packet_to_a_peer_on_the_overlay_is_handed_on_in_sealed_segments() {
    let mut node = Node::new(on_overlay);
    let mut link = node.table.user_link(0).unwrap().clone();
    with_session(&node, &mut link);
    let mut table = Table::new();
    let reference = table.insert_link(0, link.clone()).unwrap();
    let packet = Packet::tcp(payload(5 * 1000));
    let inner = Inner::parse_any(&packet.bytes()[..], 0).unwrap();
    table.insert_prefix(PrefixKey { bits: 128, address: inner.destination.to_bytes() }, reference);
    node.table = table;
    node.take(gso(&packet, 1000), &packet.with_seed());
    let (datagrams, _) = node.drain();
    assert!(datagrams.is_empty(), "nothing goes by UDP");
    assert_eq!(node.pool.free_buffers(), 4);
    // Four fit the queue; the fifth is dropped, and no number of the session is missing for it.
    assert_eq!(node.counters.value(Counter::TxCarried), 4);
    assert_eq!(node.counters.value(Counter::TxCarryFull), 1);
    assert_eq!((link.traffic.snapshot().tx_packets, node.places.of(9).sent()), (4, 4));
    let Carriage::Sealed(Some(session)) = &link.carriage else { panic!("it is sealed") };
    for counter in 0..4 {
        let mut datagram = node.ears.carried.try_recv().unwrap();
        assert_eq!(datagram.to, Endpoint::Overlay(NodeAddress([5; 20])));
        assert_eq!(datagram.bytes[..16], TransportHeader { receiver: 9, counter }.to_bytes());
        session.open(node.places.of(9), counter, &mut datagram.bytes[16..], 1).unwrap();
        let text = &datagram.bytes[16..][..1000 + packet.header_len()];
        assert!(is_sound(text) && text.ends_with(&payload(5000)[1000 * counter as usize..][..1000]));
    }
}

#[test]
fn a_packet_to_a_peer_on_the_overlay_waits_for_a_session_and_never_goes_clear() {
    let mut node = Node::new(on_overlay);
    let packet = Packet::tcp(payload(100));
    node.take(Header { gso: None, checksum: None }.to_bytes(), &packet.bytes());
    assert_eq!(node.counted(), [Counter::TxStaged]);
    assert_eq!(node.ears.events.try_recv(), Ok(UserEvent::SessionWanted { slot: 0 }));
    let mut node = Node::new(|link| {
        on_overlay(link);
        link.carriage = Carriage::Clear(link.id);
    });
    node.take(Header { gso: None, checksum: None }.to_bytes(), &packet.bytes());
    assert_eq!(node.counted(), [Counter::TxUnreachable]);
    assert!(node.ears.carried.try_recv().is_err());
}

#[test]
fn a_super_packet_by_a_relay_is_a_frame_with_its_label_for_each_segment() {
    let mut node = Node::new(|_| ());
    let mut link = node.table.user_link(0).unwrap().clone();
    let (by, via) = (NodeAddress([5; 20]), Endpoint::Udp("192.0.2.77:4000".parse().unwrap()));
    link = UserLink::around("peer", link.id, Endpoint::Relay { by, label: 0x0a0b_0c0d }, Some(via), MTU);
    with_session(&node, &mut link);
    let mut table = Table::new();
    let reference = table.insert_link(0, link.clone()).unwrap();
    let packet = Packet::tcp(payload(5 * 1000));
    let inner = Inner::parse_any(&packet.bytes()[..], 0).unwrap();
    table.insert_prefix(PrefixKey { bits: 128, address: inner.destination.to_bytes() }, reference);
    node.table = table;
    node.take(gso(&packet, 1000), &packet.with_seed());
    let (datagrams, calls) = node.drain();
    assert_eq!((datagrams.len(), &calls[..]), (5, &[5][..]), "one call for all");
    let Carriage::Sealed(Some(session)) = &link.carriage else { panic!("it is sealed") };
    for (counter, datagram) in (0..).zip(datagrams) {
        assert_eq!(datagram[..8], relay::header(0x0a0b_0c0d));
        assert_eq!(datagram[8..24], TransportHeader { receiver: 9, counter }.to_bytes());
        let mut sealed = datagram[24..].to_vec();
        session.open(node.places.of(9), counter, &mut sealed, 1).unwrap();
        let text = &sealed[..1000 + packet.header_len()];
        assert!(is_sound(text) && text.ends_with(&payload(5000)[1000 * counter as usize..][..1000]));
    }
}
