//! Frames of Ethernet, in a network that carries them.

use ipop_common::ethernet::{Mac, clear_header, sealed_prefix};

use super::*;

const STATION: Mac = [2, 0, 0, 0, 0, 9];
const OURS: Mac = [2, 0, 0, 0, 0, 1];
const UNKNOWN: Mac = [2, 0, 0, 0, 0, 7];

fn switch() -> Node {
    let mut node = Node::new(64);
    node.table.switch_frames(true);
    node.table.insert_station(STATION, LinkRef { slot: 0, epoch: 1 });
    node.table.insert_station(OURS, LinkRef::LOCAL);
    node
}

fn ethernet(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[8, 0], packet].concat()
}

fn clear(frame: &[u8]) -> Vec<u8> {
    [&clear_header(LinkId::new(LINK).unwrap())[..], frame].concat()
}

#[test]
fn frames_of_a_known_station_are_delivered_merged_and_as_they_were() {
    let mut node = switch();
    let segment = |index: u32| {
        let sequence = 1000 + index * 1000;
        let packet = Packet { source: PEER, id: index as u16, sequence, ..Packet::tcp(payload(1000)) };
        ethernet(OURS, STATION, &packet.bytes())
    };
    let frames: Vec<Vec<u8>> = (0..5).map(segment).collect();
    node.take("192.0.2.2", &frames.iter().map(|frame| clear(frame)).collect::<Vec<_>>());
    assert_eq!(node.drain(), frames);
    let traffic = node.table.user_link(0).unwrap().traffic.snapshot();
    assert_eq!((traffic.rx_packets, traffic.rx_bytes), (5, 5 * frames[0].len() as u64));
    assert_eq!(node.counted(), []);
}

#[test]
fn a_super_packet_of_frames_has_the_header_once() {
    let mut node = switch();
    let segment = |index: u32| {
        let packet = Packet { source: PEER, sequence: index * 1000, ..Packet::tcp(payload(1000)) };
        clear(&ethernet(OURS, STATION, &packet.bytes()))
    };
    node.take("192.0.2.2", &(0..4).map(segment).collect::<Vec<_>>());
    let context = Context {
        table: &node.table,
        places: &node.places,
        counters: &node.counters,
        listeners: &node.ears.listeners,
        now_ns: 1,
    };
    assert!(node.inbound.fill(&mut node.pool, &mut node.frames, &context));
    node.frames.flush();
    let frame = node.frames.next_ready().and_then(|index| node.frames.frame(index)).unwrap();
    assert_eq!(frame.pieces().len(), 4);
    let written = frame.header();
    let header = crate::userpath::virtio::Header::parse(written).unwrap();
    assert_eq!(header.checksum.map(|partial| partial.start), Some(14 + 20));
    assert_eq!(header.gso.map(|gso| (gso.size, gso.header_len)), Some((1000, 14 + 20 + 32)));
    assert_eq!(written[12..26], ethernet(OURS, STATION, &[])[..]);
    assert_eq!(written[26 + 2..26 + 4], (20u16 + 32 + 4000).to_be_bytes());
}

#[test]
fn sealed_frames_lose_prefix_and_padding() {
    let mut node = switch();
    let seal = sealing(&mut node);
    let frame = ethernet(OURS, STATION, &[0x5a; 33]);
    let padding = (16 - (frame.len() + 2) % 16) % 16;
    let text = [&sealed_prefix(padding)[..], &frame].concat();
    node.take("192.0.2.2", &[seal(&text)]);
    assert_eq!(node.drain(), [frame]);
    for bad in [vec![0xe0, 1, 0, 0], vec![0xef, 0, 2, 2], Packet::udp(payload(9)).bytes()] {
        node.take("192.0.2.2", &[seal(&bad)]);
        assert!(node.drain().is_empty());
    }
    assert_eq!(node.counted(), [(Counter::RxBadInner, 3)]);
}

#[test]
fn a_station_of_another_is_refused_and_a_new_one_told_of() {
    let mut node = switch();
    node.take("192.0.2.2", &[clear(&ethernet(STATION, OURS, &[0; 46]))]);
    assert!(node.drain().is_empty());
    node.take("192.0.2.2", &[clear(&ethernet(OURS, UNKNOWN, &[0; 46]))]);
    assert_eq!(node.drain().len(), 1);
    for mac in [OURS, UNKNOWN] {
        assert_eq!(node.ears.events.try_recv(), Ok(UserEvent::StationThere { slot: 0, mac }));
    }
    node.take("192.0.2.3", &[clear(&ethernet(OURS, STATION, &[0; 46]))]);
    node.take("192.0.2.2", &[clear(&ethernet([0xff; 6], STATION, &[0; 46]))]);
    node.take("192.0.2.2", &[super::frame(&peer_packet().bytes())]);
    assert!(node.drain().is_empty());
    let refused = [
        (Counter::RxUnknownProtocol, 1),
        (Counter::RxWrongOuterSource, 1),
        (Counter::RxBadInner, 1),
        (Counter::RxWrongInnerSource, 1),
    ];
    assert_eq!(node.counted(), refused);
    node.table.switch_frames(false);
    node.take("192.0.2.2", &[clear(&ethernet(OURS, STATION, &[0; 46]))]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted().last(), Some(&(Counter::RxSharedSegment, 1)));
}

#[test]
fn of_stations_that_nobody_knows_few_frames_are_taken() {
    let mut node = switch();
    for _ in 0..100 {
        node.take("192.0.2.2", &[clear(&ethernet(OURS, UNKNOWN, &[0; 46]))]);
        node.drain();
    }
    let traffic = node.table.user_link(0).unwrap().traffic.snapshot();
    assert_eq!(traffic.rx_packets, 64);
    assert_eq!(node.counted(), [(Counter::RxWrongInnerSource, 36)]);
}

#[test]
fn an_address_of_anothers_is_not_given_away() {
    let mut node = switch();
    let arp = |sender: [u8; 4]| {
        let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &STATION, &sender, &OURS, &[10, 0, 0, 1]].concat();
        clear(&[&OURS[..], &STATION, &[8, 6], &body].concat())
    };
    node.table.insert_prefix(
        PrefixKey { bits: 128, address: Address::from_v4([10, 0, 0, 2]).to_bytes() },
        LinkRef::LOCAL,
    );
    node.take("192.0.2.2", &[arp([10, 0, 0, 3])]);
    assert_eq!(node.drain().len(), 1);
    node.take("192.0.2.2", &[arp([10, 0, 0, 2])]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxSpoofedAddress, 1)]);
}

#[test]
fn where_ip_packets_are_carried_no_frame_is_taken() {
    let mut node = Node::new(16);
    let seal = sealing(&mut node);
    let frame = ethernet(OURS, STATION, &[0; 46]);
    node.take("192.0.2.2", &[clear(&frame)]);
    node.take("192.0.2.2", &[seal(&[&sealed_prefix(2)[..], &frame].concat())]);
    assert!(node.drain().is_empty());
    assert_eq!(node.counted(), [(Counter::RxBadInner, 1), (Counter::RxUnknownMessage, 1)]);
}
