//! Datagrams that no peer of ours would send: each meets its counter, nothing is delivered, and the
//! next good one is.

use std::net::{SocketAddr, UdpSocket};

use ipop_common::{Counter, checksum, wireguard};
use ipop_overlay::session::Mac1Key;
use nix::sys::socket::{setsockopt, sockopt};

use crate::wire::{
    DEADLINE, INNER, LINK_ID, OUTER, Options, PORT, PUBLIC_KEY, Wire, inside, run_in, wait_for,
};

/// Where good packets are delivered to.
const INNER_PORT: u16 = 7000;
const HEADER_LEN: usize = 8;

/// A clear frame: a UDP packet over IPv4 with right checksums.
fn frame(source: &str, destination: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut udp = [4000u16, port, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    udp.extend(payload);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(octets(source));
    ip.extend(octets(destination));
    let check = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let pseudo = checksum::pseudo_header(&ip[12..20], 17, udp.len() as u32);
    let check = checksum::finish(pseudo + checksum::sum(&udp));
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    let mut frame = vec![0x0c, 0, 0, 1];
    frame.extend((LINK_ID << 8).to_be_bytes());
    [frame, ip, udp].concat()
}

pub(crate) fn good(payload: &[u8]) -> Vec<u8> {
    frame(INNER[0][0], INNER[1][0], INNER_PORT, payload)
}

/// An attacker at the true peer's address, the victim's socket, and what it counts.
struct Attack {
    wire: Wire,
    attacker: UdpSocket,
    victim: UdpSocket,
    target: SocketAddr,
    markers: u32,
}

impl Attack {
    fn new(options: Options) -> Self {
        let wire = Wire::new(options);
        let attacker = inside(&wire.a.netns, || UdpSocket::bind((OUTER[0][0], 0)).unwrap());
        let victim = inside(&wire.b.netns, || UdpSocket::bind((INNER[1][0], INNER_PORT)).unwrap());
        victim.set_read_timeout(Some(DEADLINE)).unwrap();
        let target = SocketAddr::new(OUTER[1][0].parse().unwrap(), PORT);
        Self { wire, attacker, victim, target, markers: 0 }
    }

    /// Sends bytes that have to be counted once under one of `counters`, and delivered to nobody.
    fn expect(&mut self, name: &str, bytes: &[u8], counters: &[Counter]) {
        let count = |wire: &Wire| counters.iter().map(|counter| wire.b.count(*counter)).sum::<u64>();
        let before = count(&self.wire);
        self.attacker.send_to(bytes, self.target).unwrap();
        wait_for(&format!("{name} is counted under {counters:?}; {:?}", self.wire.b.counted()), || {
            count(&self.wire) == before + 1
        });
        self.expect_marker(name);
    }

    /// A good packet is delivered, and nothing before it.
    fn expect_marker(&mut self, name: &str) {
        self.markers += 1;
        let marker = self.markers.to_be_bytes();
        self.attacker.send_to(&good(&marker), self.target).unwrap();
        let mut bytes = [0; 100];
        let len = self.victim.recv(&mut bytes).unwrap_or_else(|error| panic!("after {name}: {error}"));
        assert_eq!(bytes[..len], marker, "{name} was delivered");
    }
}

with_both_engines! {
    fn every_truncation_is_refused(io) {
        let mut attack = Attack::new(Options::new(io));
        let whole = good(&[0xaa; 20]);
        for len in 0..whole.len() {
            let counters = [Counter::RxTruncated, Counter::RxBadLength, Counter::RxUnknownMessage];
            attack.expect(&format!("the first {len} bytes"), &whole[..len], &counters);
        }
        let longer = [&whole[..], &[0]].concat();
        attack.expect("one byte more", &longer, &[Counter::RxBadLength]);
    }

    fn each_field_that_differs_has_its_counter(io) {
        let mut attack = Attack::new(Options::new(io));
        let changed = |at: usize, value: u8| {
            let mut bytes = good(&[0xbb; 30]);
            bytes[at] = value;
            bytes
        };
        attack.expect("a reserved byte", &changed(1, 1), &[Counter::RxBadHeader]);
        attack.expect("another reserved byte", &changed(7, 0x80), &[Counter::RxBadHeader]);
        attack.expect("Ethernet inside", &changed(3, 3), &[Counter::RxUnknownProtocol]);
        attack.expect("IPv6 announced", &changed(3, 2), &[Counter::RxTruncated, Counter::RxBadInner]);
        attack.expect("another link", &changed(6, 0xff), &[Counter::RxUnknownLink]);
        attack.expect("another version", &changed(HEADER_LEN, 0x65), &[Counter::RxBadInner]);
        attack.expect("a header of 16 bytes", &changed(HEADER_LEN, 0x44), &[Counter::RxBadInner]);
        attack.expect("other flags", &changed(0, 0x0d), &[Counter::RxUnknownMessage]);
        for first in [0, 6, 0x16, 0xff] {
            attack.expect("no format of ours", &changed(0, first), &[Counter::RxUnknownMessage]);
        }
        attack.expect("a relay frame with other bits", &changed(0, 5), &[Counter::RxBadRelayFrame]);
        attack.expect("half a relay frame", &[5, 0, 0, 0, 1, 2, 3], &[Counter::RxBadRelayFrame]);
        attack.expect("a label of nobody's", &[5, 0, 0, 0, 1, 2, 3, 4, 4], &[Counter::RxUnknownLabel]);
        attack.expect("one byte", &[0x0c], &[Counter::RxTruncated]);
    }

    fn nobody_speaks_for_another(io) {
        let mut attack = Attack::new(Options::new(io));
        let source = |source: &str| frame(source, INNER[1][0], INNER_PORT, &[0xcc; 30]);
        attack.expect("a stranger inside", &source("10.128.0.66"), &[Counter::RxWrongInnerSource]);
        attack.expect("ourselves inside", &source(INNER[1][0]), &[Counter::RxWrongInnerSource]);
        attack.expect("no address inside", &source("0.0.0.0"), &[Counter::RxWrongInnerSource]);
        run_in(&attack.wire.a.netns, "ip addr add 10.200.0.9/24 dev w0");
        let stranger = inside(&attack.wire.a.netns, || UdpSocket::bind("10.200.0.9:0").unwrap());
        let peer = std::mem::replace(&mut attack.attacker, stranger);
        let before = attack.wire.b.count(Counter::RxWrongOuterSource);
        attack.attacker.send_to(&good(&[0xdd; 30]), attack.target).unwrap();
        wait_for("it is counted", || attack.wire.b.count(Counter::RxWrongOuterSource) == before + 1);
        attack.attacker = peer;
        attack.expect_marker("a stranger outside");
    }

    /// A frame in a frame reaches our own port as a packet of the virtual network, where the peer's
    /// outer address is another.
    fn nested_encapsulation_ends_at_the_second_level(io) {
        let mut attack = Attack::new(Options::new(io));
        let nested = frame(INNER[0][0], INNER[1][0], PORT, &good(&[0xee; 30]));
        attack.expect("a nested frame", &nested, &[Counter::RxWrongOuterSource]);
    }

    fn a_hostile_segment_does_not_harm_its_neighbours(io) {
        let attack = Attack::new(Options::new(io));
        let mut bytes = Vec::new();
        for number in 0..20u8 {
            let mut frame = good(&[number; 30]);
            if number % 3 == 1 {
                frame[6] ^= 0x40;
            }
            bytes.extend(frame);
        }
        let len = (bytes.len() / 20) as i32;
        setsockopt(&attack.attacker, sockopt::UdpGsoSegment, &len).unwrap();
        attack.attacker.send_to(&bytes, attack.target).unwrap();
        for number in (0..20u8).filter(|number| number % 3 != 1) {
            let mut bytes = [0; 100];
            assert_eq!(attack.victim.recv(&mut bytes).unwrap(), 30);
            assert_eq!(bytes[..30], [number; 30]);
        }
        assert_eq!(attack.wire.b.count(Counter::RxUnknownLink), 7);
    }

    fn handshakes_are_handed_on_if_their_sender_knows_us_and_a_flood_is_counted(io) {
        let mut attack = Attack::new(Options::new(io));
        let initiation = |public_key: &[u8; 32]| {
            let mut bytes = vec![7; wireguard::INITIATION_LEN];
            bytes[..4].copy_from_slice(&[wireguard::TYPE_INITIATION, 0, 0, 0]);
            Mac1Key::new(public_key).fill_in(&mut bytes).unwrap();
            bytes
        };
        let good = initiation(&PUBLIC_KEY);
        for len in [1, 8, good.len() - 1] {
            attack.expect("a short initiation", &good[..len], &[Counter::RxBadHandshake]);
        }
        attack.expect("a long initiation", &[&good[..], &[0]].concat(), &[Counter::RxBadHandshake]);
        attack.expect("an initiation for another", &initiation(&[1; 32]), &[Counter::RxBadMac1]);
        attack.attacker.send_to(&good, attack.target).unwrap();
        let from = attack.attacker.local_addr().unwrap();
        let mut handed = None;
        wait_for("it is handed over", || {
            handed = attack.wire.b.handshakes.try_recv().ok();
            handed.is_some()
        });
        let handed = handed.unwrap();
        assert_eq!((handed.from, handed.socket, &handed.bytes[..]), (from.into(), 0, &good[..]));
        // Nobody takes these: the channel holds 16.
        for _ in 0..20 {
            attack.attacker.send_to(&good, attack.target).unwrap();
        }
        wait_for("the rest is counted", || attack.wire.b.count(Counter::RxHandshakeFlood) == 4);
        attack.expect_marker("a flood of handshakes");
    }

    fn what_no_session_has_sealed_is_counted(io) {
        let mut attack = Attack::new(Options::new(io));
        let mut bytes = vec![0; 32 + 64];
        bytes[0] = wireguard::TYPE_TRANSPORT;
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        attack.expect("an unknown index", &bytes, &[Counter::RxUnknownIndex]);
        attack.expect("a header alone", &bytes[..16], &[Counter::RxTruncated]);
        bytes[1] = 1;
        attack.expect("a reserved byte", &bytes, &[Counter::RxTruncated]);
    }
}
