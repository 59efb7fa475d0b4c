//! Frames from the wire, packets of the host, datagrams with a clear frame, IP headers.

use std::net::IpAddr;

use ipop_tests::packet::{self, ClearFrame, UDP};

use super::Inputs;
use crate::targets::tables::{EXPIRED, OVER_V4, OVER_V6, OWN_V4, OWN_V6, RECEIVE_ONLY, ROUTER, STALE, peers};

const PAYLOAD: &[u8] = b"payload of the packet";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn own(v6: bool) -> IpAddr {
    address(if v6 { OWN_V6 } else { OWN_V4 })
}

/// A packet from a peer to this node.
fn from_peer(peer: usize, v6: bool) -> Vec<u8> {
    packet::udp(peers()[peer].inner(own(v6)), own(v6), (5000, 6000), PAYLOAD)
}

fn good(peer: usize, v6: bool) -> ClearFrame {
    peers()[peer].frame(from_peer(peer, v6))
}

/// A good frame with one thing changed.
type Change = (&'static str, fn(&mut ClearFrame));
/// The same, changed in its bytes; the second number says where the UDP header starts.
type Damage = (&'static str, fn(&mut Vec<u8>, usize));

const CHANGES: &[Change] = &[
    ("unknown-link", |frame| frame.link_id = 0x0001_0203),
    ("link-of-another", |frame| frame.link_id = peers()[ROUTER].link_id),
    ("stale-link", |frame| frame.link_id = peers()[STALE].link_id),
    ("expired-link", |frame| frame.link_id = peers()[EXPIRED].link_id),
    ("no-link", |frame| frame.link_id = 0),
    ("wrong-outer-destination", |frame| frame.destination = address("192.0.2.77")),
    ("wrong-outer-source", |frame| frame.source = address("192.0.2.77")),
    ("another-port", |frame| frame.port = 4789),
    ("nested", |frame| {
        let inner = good(OVER_V6, true).to_bytes();
        frame.inner = inner[14..].to_vec();
    }),
    ("tcp", |frame| frame.inner = packet::tcp(peers()[OVER_V4].inner_v4, own(false), (1, 2), PAYLOAD)),
    ("inner-of-another", |frame| frame.inner = from_peer(ROUTER, false)),
    ("inner-spells-v4", |frame| {
        frame.inner = packet::udp(address("::ffff:10.64.1.1"), own(true), (1, 2), PAYLOAD);
    }),
    ("inner-to-somebody", |frame| {
        frame.inner = packet::udp(peers()[OVER_V4].inner_v4, address("10.64.1.3"), (1, 2), PAYLOAD);
    }),
    ("no-inner", |frame| frame.inner.clear()),
    ("inner-too-short", |frame| frame.inner.truncate(19)),
    ("inner-shorter-than-it-says", |frame| frame.inner.truncate(30)),
    ("inner-padded", |frame| frame.inner.extend([0; 6])),
    ("inner-options", |frame| {
        frame.inner[0] = 0x46;
        frame.inner[3] += 4;
        frame.inner.splice(20..20, [1, 1, 1, 0]);
    }),
];

const DAMAGES: &[Damage] = &[
    ("flags-i-missing", |bytes, udp| bytes[udp + 8] = 4),
    ("flags-o-set", |bytes, udp| bytes[udp + 8] = 0x0d),
    ("version-1", |bytes, udp| bytes[udp + 8] = 0x1c),
    ("reserved-a", |bytes, udp| bytes[udp + 10] = 1),
    ("reserved-b", |bytes, udp| bytes[udp + 15] = 0x80),
    ("next-protocol-ethernet", |bytes, udp| bytes[udp + 11] = 3),
    ("next-protocol-other-family", |bytes, udp| bytes[udp + 11] ^= 3),
    ("udp-checksum", |bytes, udp| bytes[udp + 6] = 0x12),
    ("udp-length", |bytes, udp| bytes[udp + 5] -= 1),
    ("ip-length", |bytes, udp| bytes[if udp == 34 { 17 } else { 19 }] -= 1),
    ("udp-length-7", |bytes, udp| bytes[udp + 5] = 7),
    ("tcp-outside", |bytes, udp| bytes[if udp == 34 { 23 } else { 20 }] = 6),
    ("padded", |bytes, _| bytes.extend([0; 6])),
    ("cut-in-inner", |bytes, udp| bytes.truncate(udp + 30)),
    ("cut-in-gpe", |bytes, udp| bytes.truncate(udp + 12)),
    ("cut-in-udp", |bytes, udp| bytes.truncate(udp + 5)),
    ("cut-in-ip", |bytes, _| bytes.truncate(20)),
];

/// What only an outer IPv4 header can have.
const DAMAGES_V4: &[Damage] = &[
    ("options", |bytes, _| {
        bytes[14] = 0x46;
        bytes[17] += 4;
        bytes.splice(34..34, [1, 1, 1, 0]);
    }),
    ("options-15-words", |bytes, _| {
        bytes[14] = 0x4f;
        bytes.splice(34..34, [1; 40]);
    }),
    ("header-of-4-words", |bytes, _| bytes[14] = 0x44),
    ("first-fragment", |bytes, _| bytes[20] = 0x20),
    ("later-fragment", |bytes, _| bytes[20..22].copy_from_slice(&[0x20, 0xb9])),
    ("total-length-19", |bytes, _| bytes[16..18].copy_from_slice(&[0, 19])),
    ("marked-ect-ce", |bytes, _| bytes[15] = 0x2f),
    ("another-ttl", |bytes, _| bytes[22] = 1),
];

/// From the peer that prefixes lead to: sources within, at the ends of, and outside of them.
fn by_prefix() -> [(&'static str, ClearFrame); 5] {
    let from = |source: &str| {
        let source = address(source);
        peers()[ROUTER].frame(packet::udp(source, own(source.is_ipv6()), (1, 2), PAYLOAD))
    };
    [
        ("prefix", from("172.16.9.9")),
        ("prefix-of-another", from("172.16.5.9")),
        ("prefix-last", from("172.31.255.255")),
        ("prefix-missed", from("172.32.0.0")),
        ("prefix-v6", from("fd00:77::9")),
    ]
}

/// `[flags][unreadable][frame]`
pub(super) fn frame() -> Inputs {
    let mut inputs = Inputs::new();
    let mut add = |name: String, flags: u8, unreadable: u8, frame: Vec<u8>| {
        inputs.push((name, [&[flags, unreadable][..], &frame].concat()));
    };
    for (outer, peer) in [("v4", OVER_V4), ("v6", OVER_V6)] {
        for (inner, v6) in [("v4", false), ("v6", true)] {
            let frame = good(peer, v6).to_bytes();
            add(format!("{inner}-in-{outer}"), 0, 0, frame.clone());
            add(format!("{inner}-in-{outer}-super"), 1, 0, frame);
        }
        let (whole, udp) = (good(peer, true).to_bytes(), good(peer, true).udp_at());
        for unreadable in [10, 60, 77] {
            add(format!("{outer}-{unreadable}-unreadable"), 0, unreadable, whole.clone());
        }
        for (name, damage) in DAMAGES.iter().chain(if udp == 34 { DAMAGES_V4 } else { &[] }) {
            let mut bytes = whole.clone();
            damage(&mut bytes, udp);
            add(format!("{outer}-{name}"), 0, 0, bytes);
        }
    }
    for (name, change) in CHANGES {
        let mut frame = good(OVER_V4, false);
        change(&mut frame);
        add((*name).to_owned(), 0, 0, frame.to_bytes());
    }
    for (name, frame) in by_prefix() {
        add(name.to_owned(), 0, 0, frame.to_bytes());
    }
    add("tcp-super".to_owned(), 1, 0, {
        let inner = packet::tcp(peers()[OVER_V4].inner_v4, own(false), (1, 2), PAYLOAD);
        peers()[OVER_V4].frame(inner).to_bytes()
    });
    let good = good(OVER_V4, false).to_bytes();
    add("vlan".to_owned(), 0, 0, [&good[..12], &[0x81, 0, 0, 5], &good[12..]].concat());
    add("arp".to_owned(), 0, 0, packet::ethernet([0xff; 6], [2; 6], 0x0806, &[0, 1, 8, 0, 6, 4, 0, 1]));
    add("one-byte-of-udp".to_owned(), 0, 0, {
        let datagram = [0xc1, 0x23, 0x12, 0xb6, 0, 9, 0, 0, 0x0c];
        let packet = packet::ip(peers()[OVER_V4].remote, peers()[OVER_V4].local, UDP, &datagram);
        packet::ethernet([0; 6], [2; 6], packet::ETHERTYPE_V4, &packet)
    });
    inputs
}

/// `[flags][segment size u16][hidden u16][packet]`
pub(super) fn egress() -> Inputs {
    let mut inputs = Inputs::new();
    let mut add = |name: &str, gso: u16, hidden: u16, packet: &[u8]| {
        let flags = u8::from(packet[0] >> 4 == 6) | u8::from(gso != 0) << 1;
        let (gso, hidden) = (gso.to_be_bytes(), hidden.to_be_bytes());
        inputs.push((name.to_owned(), [&[flags], &gso[..], &hidden, packet].concat()));
    };
    let to = |peer: usize, v6: bool, len: usize| {
        packet::udp(own(v6), peers()[peer].inner(own(v6)), (5000, 6000), &vec![0x5a; len])
    };
    for (name, peer) in [
        ("over-v4", OVER_V4),
        ("over-v6", OVER_V6),
        ("stale", STALE),
        ("expired", EXPIRED),
        ("receive-only", RECEIVE_ONLY),
    ] {
        add(&format!("v4-{name}"), 0, 0, &to(peer, false, 20));
        add(&format!("v6-{name}"), 0, 0, &to(peer, true, 20));
    }
    for (name, group) in [("group", "239.1.2.3"), ("broadcast", "255.255.255.255"), ("group-v6", "ff02::fb")]
    {
        let group = address(group);
        add(&format!("to-a-{name}"), 0, 0, &packet::udp(own(group.is_ipv6()), group, (5000, 6000), PAYLOAD));
    }
    for v6 in [false, true] {
        let family = if v6 { "v6" } else { "v4" };
        let tcp = packet::tcp(own(v6), peers()[OVER_V4].inner(own(v6)), (1, 2), &[0x5a; 300]);
        add(&format!("{family}-tcp-super"), 100, 0, &tcp);
        add(&format!("{family}-tcp-super-mostly-hidden"), 1400, 60_000, &tcp);
        add(&format!("{family}-tcp-super-longer-than-a-packet"), 1400, 65_535, &tcp);
        // One byte more and less than fits.
        let fits = 1464 - if v6 { 60 } else { 40 };
        add(&format!("{family}-tcp-super-segments-fit"), fits, 0, &tcp);
        add(&format!("{family}-tcp-super-segments-too-big"), fits + 1, 0, &tcp);
        add(&format!("{family}-udp-super"), 100, 0, &to(OVER_V6, v6, 300));
        add(&format!("{family}-too-big"), 0, 0, &to(OVER_V4, v6, 1464));
        add(&format!("{family}-to-itself"), 0, 0, &packet::udp(own(v6), own(v6), (1, 2), PAYLOAD));
        add(&format!("{family}-longer-than-it-says"), 0, 0, &[&to(OVER_V4, v6, 20)[..], &[0; 3]].concat());
        add(&format!("{family}-cut"), 0, 0, &to(OVER_V4, v6, 20)[..if v6 { 39 } else { 19 }]);
    }
    add("v6-1280-is-not-too-big", 0, 0, &to(OVER_V6, true, 1280 - 48));
    let mut may_be_fragmented = to(OVER_V4, false, 1464);
    may_be_fragmented[6] = 0;
    add("v4-too-big-without-df", 0, 0, &may_be_fragmented);
    let mut options = to(OVER_V4, false, 20);
    (options[0], options[3]) = (0x46, options[3] + 4);
    options.splice(20..20, [1, 1, 1, 0]);
    add("v4-options", 0, 0, &options);
    add("v4-no-route", 0, 0, &packet::udp(own(false), address("10.99.0.1"), (1, 2), PAYLOAD));
    add("v4-prefix", 0, 0, &packet::udp(own(false), address("172.16.9.9"), (1, 2), PAYLOAD));
    add("v4-prefix-of-another", 0, 0, &packet::udp(own(false), address("172.16.5.9"), (1, 2), PAYLOAD));
    add("v6-spells-v4", 0, 0, &packet::udp(own(true), address("::ffff:10.64.1.1"), (1, 2), PAYLOAD));
    add("header-of-4-words", 0, 0, &[0x44; 40]);
    inputs
}

/// `[from][datagram]`
pub(super) fn clear() -> Inputs {
    let mut inputs = Inputs::new();
    for (outer, peer) in [("v4", OVER_V4), ("v6", OVER_V6), ("router", ROUTER), ("expired", EXPIRED)] {
        for (inner, v6) in [("v4", false), ("v6", true)] {
            let frame = good(peer, v6);
            let datagram = frame.to_bytes()[frame.gpe_at()..].to_vec();
            inputs.push((format!("{inner}-from-{outer}"), [&[peer as u8], &datagram[..]].concat()));
            inputs.push((format!("{inner}-of-{outer}-from-a-stranger"), [&[0xff], &datagram[..]].concat()));
        }
    }
    for (name, change) in CHANGES {
        let mut frame = good(OVER_V4, false);
        change(&mut frame);
        let datagram = frame.to_bytes()[frame.gpe_at()..].to_vec();
        inputs.push(((*name).to_owned(), [&[OVER_V4 as u8], &datagram[..]].concat()));
    }
    for (name, frame) in by_prefix() {
        let datagram = frame.to_bytes()[frame.gpe_at()..].to_vec();
        inputs.push((name.to_owned(), [&[ROUTER as u8], &datagram[..]].concat()));
    }
    inputs
}

/// `[offset][buffer]`
pub(super) fn inner() -> Inputs {
    let [v4, v6] = [false, true].map(|v6| from_peer(OVER_V4, v6));
    let mapped = packet::udp(address("::ffff:10.64.1.1"), own(true), (1, 2), PAYLOAD);
    let mut options = v4.clone();
    (options[0], options[3]) = (0x4f, 60);
    let mut jumbo = v6.clone();
    jumbo[4..6].copy_from_slice(&[0xff, 0xf0]);
    let mut short = v4.clone();
    short[3] = 19;
    [
        ("v4", 0, v4.clone()),
        ("v6", 0, v6.clone()),
        ("v4-behind-8-bytes", 8, [&[0; 8][..], &v4].concat()),
        ("v6-spells-v4", 0, mapped),
        ("v4-options", 0, options),
        ("v6-longer-than-a-packet", 0, jumbo),
        ("v4-shorter-than-its-header", 0, short),
        ("v4-19-bytes", 0, v4[..19].to_vec()),
        ("v6-39-bytes", 0, v6[..39].to_vec()),
        ("version-5", 0, [&[0x55], &v4[1..]].concat()),
        ("behind-the-end", 200, v4),
    ]
    .into_iter()
    .map(|(name, offset, buffer)| (name.to_owned(), [&[offset], &buffer[..]].concat()))
    .collect()
}
