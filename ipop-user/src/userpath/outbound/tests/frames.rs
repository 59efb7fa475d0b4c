//! Frames of Ethernet, in a network that carries them.

use ipop_common::ethernet::{BROADCAST, ETHERTYPE_GUARD, GUARD_GROUP, Mac, clear_link, sealed_frame_len};
use ipop_common::multicast::Target;

use super::*;

const HERE: Mac = [2, 0, 0, 0, 0, 1];
const THERE: Mac = [2, 0, 0, 0, 0, 2];
const MOVED: Mac = [2, 0, 0, 0, 0, 3];
const SOUGHT: Mac = [2, 0, 0, 0, 0, 4];
const UNKNOWN: Mac = [2, 0, 0, 0, 0, 5];

/// A node with a station on its side, and one behind its peer.
fn node(change: impl FnOnce(&mut UserLink)) -> Node {
    let mut node = Node::new(change);
    node.table.switch_frames(true);
    let reference = LinkRef { slot: 0, epoch: 1 };
    node.table.insert_station(HERE, LinkRef::LOCAL);
    node.table.insert_station(THERE, reference);
    node.table.insert_station(MOVED, reference);
    node.table.insert_sought(SOUGHT);
    node
}

fn header(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes()].concat()
}

fn frame_of(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    [header(THERE, HERE, ethertype), packet.to_vec()].concat()
}

/// The virtio header of a super-packet in a frame.
fn gso_in_frame(packet: &Packet, size: u16) -> [u8; virtio::HEADER_LEN] {
    Header::parse(&gso(packet, size)).unwrap().behind(14).to_bytes()
}

fn frame_in(datagram: &[u8]) -> &[u8] {
    assert_eq!(clear_link(datagram).map(LinkId::value), Some(PEER));
    &datagram[gpe::HEADER_LEN..]
}

#[test]
fn a_frame_leaves_as_it_is_behind_a_clear_header() {
    let mut node = node(|_| ());
    let arp = [header(THERE, HERE, 0x0806), vec![7; 46]].concat();
    let tagged = [header(THERE, HERE, 0x8100), vec![0, 7, 8, 0], Packet::tcp(payload(64)).bytes()].concat();
    for frame in [arp, tagged, frame_of(&Packet::udp(payload(99)).v6().bytes())] {
        node.take(Header::PLAIN, &frame);
        assert_eq!(frame_in(&node.drain().0[0]), frame);
    }
    let packet = Packet::udp(payload(99));
    let partial = Header { gso: None, checksum: Some(partial(&packet)) }.behind(14);
    node.take(partial.to_bytes(), &frame_of(&packet.with_seed()));
    assert_eq!(frame_in(&node.drain().0[0]), frame_of(&packet.bytes()));
    assert_eq!(node.counted(), []);
}

#[test]
fn a_super_packet_becomes_frames_that_each_have_the_header() {
    for packet in [Packet::tcp(payload(50_000)), Packet::udp(payload(50_000)).v6()] {
        let mut node = node(|_| ());
        let size = 1300 - packet.header_len();
        node.take(gso_in_frame(&packet, size as u16), &frame_of(&packet.with_seed()));
        let (datagrams, _) = node.drain();
        let mut carried: Vec<u8> = Vec::new();
        for datagram in &datagrams {
            let (head, inner) = frame_in(datagram).split_at(14);
            assert_eq!(head, &frame_of(&packet.bytes())[..14]);
            assert!(is_sound(inner));
            carried.extend(&inner[packet.header_len()..]);
        }
        assert_eq!(carried, packet.payload);
    }
}

#[test]
fn sealed_frames_say_how_long_they_are() {
    let key = [7u8; 32];
    let session = Arc::new(UserSession::new(5, &key, &key));
    let sealing = Arc::clone(&session);
    let mut node = node(|link| link.carriage = Carriage::Sealed(Some(sealing)));
    let words = [u32::from_le_bytes([7; 4]); 8];
    let agreed = Agreed {
        local: 5,
        remote: 5,
        send_key: aead::Key(words),
        receive_key: aead::Key(words),
        expires_ns: u64::MAX,
        first_counter: 0,
        link: LinkRef::LOCAL,
    };
    node.places.of(5).install(&agreed, None);
    let theirs = ipop_common::session::Session::vacant();
    theirs.install(&agreed, None);
    let packet = Packet::tcp(payload(5000));
    let single = [header(THERE, HERE, 0x0806), vec![7; 47]].concat();
    let size = 1200;
    node.take(Header::PLAIN, &single);
    let mut datagrams = node.drain().0;
    node.take(gso_in_frame(&packet, size), &frame_of(&packet.with_seed()));
    datagrams.extend(node.drain().0);
    let mut frames = Vec::new();
    for datagram in datagrams {
        let header = TransportHeader::parse(&datagram[..]).unwrap();
        let mut text = datagram[16..].to_vec();
        session.open(&theirs, header.counter, &mut text, 2).unwrap();
        text.truncate(text.len() - 16);
        let len = sealed_frame_len(&text[..], text.len()).unwrap();
        frames.push(text[2..2 + len].to_vec());
    }
    assert_eq!(frames[0], single);
    assert_eq!(frames.len(), 1 + 5000usize.div_ceil(usize::from(size)));
    assert!(frames[1..].iter().all(|frame| is_sound(&frame[14..])));
}

#[test]
fn what_is_for_all_or_for_nobody_known_is_handed_on() {
    let mut node = node(|_| ());
    let guard = header(GUARD_GROUP, UNKNOWN, ETHERTYPE_GUARD);
    let frames = [header(BROADCAST, HERE, 0x0806), header(UNKNOWN, HERE, 0x0800), guard];
    for frame in frames {
        let frame = [frame, vec![0; 46]].concat();
        node.take(Header::PLAIN, &frame);
        assert!(node.outbound.is_idle());
        let handed_on = node.ears.groups.try_recv().unwrap();
        assert_eq!((handed_on.to, handed_on.bytes), (Target::Ethernet, frame));
    }
    assert_eq!(node.pool.free_buffers(), 4);
}

#[test]
fn stations_are_asked_about_before_their_frames_go() {
    let mut node = node(|_| ());
    for (frame, event) in [
        (header(THERE, UNKNOWN, 0x0800), UserEvent::StationHere { mac: UNKNOWN }),
        (header(SOUGHT, HERE, 0x0800), UserEvent::OwnerWanted { address: ethernet::station(SOUGHT) }),
        (header(THERE, MOVED, 0x0800), UserEvent::StationHere { mac: MOVED }),
    ] {
        node.take(Header::PLAIN, &[frame, vec![0; 46]].concat());
        assert!(node.outbound.is_idle());
        assert_eq!(node.ears.events.try_recv(), Ok(event));
    }
    assert_eq!(node.counted(), [Counter::TxForeignStation, Counter::TxStaged]);
}

#[test]
fn what_goes_nowhere_is_counted() {
    let mut node = node(|_| ());
    let mut from_group = header(THERE, HERE, 0x0800);
    from_group[6] |= 1;
    node.take(Header::PLAIN, &from_group);
    node.take(Header::PLAIN, &[2; 13]);
    node.take(Header::PLAIN, &header(HERE, HERE, 0x0800));
    assert_eq!(node.counted(), [Counter::TxNoRoute, Counter::TxBadFrame]);
    node.table.switch_frames(false);
    node.take(Header::PLAIN, &header(THERE, HERE, 0x0800));
    assert_eq!(node.counted(), [Counter::TxNoRoute, Counter::TxBadFrame, Counter::TxSharedSegment]);
    assert_eq!(node.pool.free_buffers(), 4);
}
