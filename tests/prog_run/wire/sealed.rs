//! Sealed links on the wire: what the stack leaves for a device to complete is complete before it is
//! sealed, and what was opened climbs the stack.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};

use ipop_common::Counter;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, TCP, UDP, transport_checksum};
use ipop_tests::sealed::{DAEMON_PORT, Session, padded};
use ipop_tests::world::Peer;

use super::lab::{Lab, OnWire};
use crate::scenario::{is_taken_apart_by_tc, own_v4, own_v6};

fn own(v6: bool) -> IpAddr {
    if v6 { own_v6() } else { own_v4() }
}

/// Both peers of the lab, their links sealed.
fn seal_links(lab: &mut Lab) -> [(Peer, Session); 2] {
    let v4 = Peer { mtu: 1440, ..lab.v4.clone() };
    let v6 = Peer { mtu: 1420, ..lab.v6.clone() };
    let links = [(v4, 1), (v6, 2)].map(|(peer, n)| {
        let session = Session::new(n, &peer);
        lab.world.add_sealed(&peer, &session);
        (peer, session)
    });
    lab.programs.install(&lab.world);
    lab.moved();
    links
}

/// Whether a frame is UDP to the daemon's port.
fn is_sealed(frame: &[u8]) -> bool {
    let port_at = match frame.get(12..14) {
        Some([8, 0]) => 36,
        Some([0x86, 0xdd]) => 56,
        _ => return false,
    };
    frame.get(port_at..port_at + 2) == Some(&DAEMON_PORT.to_be_bytes()[..])
}

/// The packet in a frame that the node has sent, without padding.
#[track_caller]
fn packet_in(frame: &[u8], session: &Session) -> Vec<u8> {
    let at = if frame[12] == 8 { 42 } else { 62 };
    let (_, text) = session.open(&frame[at..]);
    let number = |at: usize| usize::from(u16::from_be_bytes([text[at], text[at + 1]]));
    let len = if text[0] >> 4 == 4 { number(2) } else { number(4) + 40 };
    assert!(text[len..].iter().all(|byte| *byte == 0), "the padding");
    text[..len].to_vec()
}

#[track_caller]
fn has_right_checksum(packet: &[u8], protocol: u8) {
    let (source, destination, at) = if packet[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(*packet[at..].first_chunk::<4>().expect("an address"));
        (address(12), address(16), 20)
    } else {
        let address = |at: usize| IpAddr::from(*packet[at..].first_chunk::<16>().expect("an address"));
        (address(8), address(24), 40)
    };
    assert_eq!(transport_checksum(source, destination, protocol, &packet[at..]), 0, "the checksum");
}

#[test]
fn what_sockets_send_is_sealed_with_its_checksum_complete() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let links = seal_links(&mut lab);
    for v6 in [false, true] {
        let socket = lab.socket(own(v6), 6000);
        for (peer, session) in &links {
            let to = peer.inner(own(v6));
            for len in (0..64).chain([100, 1000, usize::from(peer.mtu) - 48]) {
                let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
                socket.send_to(&payload, (to, 9)).expect("sent");
                let frame = lab.wire.receive(is_sealed);
                let inner = packet_in(&frame, session);
                has_right_checksum(&inner, UDP);
                let headers = if v6 { 48 } else { 28 };
                assert_eq!(inner[headers..], payload, "the payload");
                let zero = if peer.local.is_ipv4() { 40 } else { 60 };
                assert_eq!(frame[zero..zero + 2], [0, 0], "the outer checksum");
                lab.counted(Counter::TxSealed);
            }
        }
    }
}

#[test]
fn what_was_opened_reaches_a_socket() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::XdpAndTc);
    let links = seal_links(&mut lab);
    for v6 in [false, true] {
        let socket = lab.socket(own(v6), 6000);
        for (peer, session) in &links {
            let from = peer.inner(own(v6));
            for len in [0u16, 1, 18, 1000, 1300] {
                let payload = vec![0x5a; usize::from(len)];
                let inner = packet::udp(from, own(v6), (7, 6000), &payload);
                // Every counter once, whichever family.
                let counter = u64::from(len) << 1 | u64::from(v6);
                let frame = session.frame(peer, counter, &padded(&inner)).to_bytes();
                lab.wire.send(&frame);
                if !is_taken_apart_by_tc(&frame, &inner) {
                    lab.counted(Counter::RxToUser);
                    continue;
                }
                let mut buffer = [0; 2000];
                let (got, sender) = socket.recv_from(&mut buffer).expect("a datagram");
                assert_eq!((sender.ip(), &buffer[..got]), (from, &payload[..]));
                lab.counted(Counter::RxOpened);
            }
        }
    }
}

/// The peer's half of a TCP connection, by hand: every segment sealed and opened by another
/// implementation.
#[test]
fn a_tcp_connection_is_made_and_ended_through_sealed_frames() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let [(peer, session), _] = seal_links(&mut lab);
    let listener = TcpListener::bind((own_v4(), 6000)).expect("a listener");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 5];
        stream.read_exact(&mut request).expect("the request");
        stream.write_all(&request).expect("the answer");
    });
    let mut counter = 0;
    let mut send = |lab: &mut Lab, flags: u8, sequence: u32, ack: u32, payload: &[u8]| {
        let mut segment = packet::tcp(peer.inner_v4, own_v4(), (5000, 6000), payload);
        segment[24..28].copy_from_slice(&sequence.to_be_bytes());
        segment[28..32].copy_from_slice(&ack.to_be_bytes());
        segment[33] = flags;
        segment[36..38].fill(0);
        let check = transport_checksum(peer.inner_v4, own_v4(), TCP, &segment[20..]);
        segment[36..38].copy_from_slice(&check.to_be_bytes());
        lab.wire.send(&session.frame(&peer, counter, &padded(&segment)).to_bytes());
        counter += 1;
    };
    let receive = |lab: &mut Lab, wanted: &dyn Fn(&[u8]) -> bool| loop {
        let inner = packet_in(&lab.wire.receive(is_sealed), &session);
        if inner[9] == TCP && wanted(&inner) {
            has_right_checksum(&inner, TCP);
            break inner;
        }
    };
    const SYN: u8 = 2;
    const PSH: u8 = 8;
    const ACK: u8 = 16;
    send(&mut lab, SYN, 100, 0, b"");
    let answer = receive(&mut lab, &|inner| inner[33] == SYN | ACK);
    let theirs = u32::from_be_bytes(*answer[24..].first_chunk().expect("a sequence number")).wrapping_add(1);
    send(&mut lab, ACK, 101, theirs, b"");
    send(&mut lab, ACK | PSH, 101, theirs, b"hello");
    let answer = receive(&mut lab, &|inner| inner.ends_with(b"hello"));
    assert_eq!(answer[33] & ACK, ACK);
    server.join().expect("the server's end");
    assert!(lab.moved().of(Counter::RxOpened) >= 3);
}
