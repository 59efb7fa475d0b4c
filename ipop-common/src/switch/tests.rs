use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::gpe::LinkId;
use crate::ingress::{self, Delivery, FrameMeta};
use crate::limits::KERNEL_PORT;
use crate::maps::Config;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const GUEST: Mac = [2, 0, 0, 0, 0, 2];
const THERE: Mac = [2, 0, 0, 0, 0, 3];
const ELSEWHERE: Mac = [2, 0, 0, 0, 0, 4];
const NOWHERE: Mac = [2, 0, 0, 0, 0, 5];
const LINK: LinkRef = LinkRef { slot: 6, epoch: 1 };
const OTHER_LINK: LinkRef = LinkRef { slot: 8, epoch: 1 };

/// A node with one link, to a peer that has a station and the address 10.0.0.3.
struct Node {
    config: Config,
    link: Link,
    flow: SharedU64,
}

impl Node {
    fn new() -> Self {
        let config = Config { enabled: 1, port: KERNEL_PORT, ..Config::default() };
        let link = Link {
            epoch: 1,
            lease_until_ns: u64::MAX,
            mtu: 1464,
            flags: Link::TAKES_CLEAR,
            peer: Address::from_v4([192, 0, 2, 2]),
            local: Address::from_v4([192, 0, 2, 1]),
            outer_version: 4,
            ..Link::EMPTY
        };
        Self { config, link, flow: SharedU64::new(0) }
    }

    fn sends(&self, frame: &[u8], gso_size: u32) -> Verdict {
        super::frame(frame, PacketMeta { len: frame.len() as u32, gso_size }, self, 1_000_000_000)
    }

    fn receives(&self, frame: &[u8], gso: bool) -> ingress::Verdict {
        let whole = carried(frame);
        let meta = FrameMeta { len: whole.len() as u32, gso };
        ingress::received::<_, _, true>(&whole[..], meta, self, 1)
    }
}

impl Tables for Node {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn link(&self, _: u32) -> Option<&Link> {
        Some(&self.link)
    }

    fn by_link_id(&self, id: LinkId) -> Option<LinkRef> {
        (id.value() == 7).then_some(LINK)
    }

    fn by_address(&self, address: &Address) -> Option<LinkRef> {
        let known = [
            (station(OWN), LinkRef::LOCAL),
            (station(GUEST), LinkRef::BRIDGED),
            (station(THERE), LINK),
            (station(ELSEWHERE), OTHER_LINK),
            (Address::from_v4([10, 0, 0, 3]), LINK),
            (Address::from_v4([10, 0, 0, 4]), OTHER_LINK),
        ];
        known.into_iter().find(|(at, _)| at == address).map(|(_, reference)| reference)
    }

    fn flow(&self, _: u32) -> Option<&SharedU64> {
        Some(&self.flow)
    }
}

fn frame(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a TCP or UDP header of zeroes.
fn packet(protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[..10].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8, 0, 0, 0x40, 0, 64, protocol]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 3]);
    packet[32] = 0x50;
    packet
}

fn tcp(destination: Mac, source: Mac) -> Vec<u8> {
    frame(destination, source, 0x0800, &packet(protocol::TCP, 60))
}

fn arp(source: Mac, sender: [u8; 4]) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &source, &sender, &OWN, &[10, 0, 0, 1]].concat();
    frame(OWN, source, 0x0806, &body)
}

/// The frame as the peer's kernel path sends it.
fn carried(inner: &[u8]) -> Vec<u8> {
    let len = (inner.len() + 16) as u16;
    let mut whole = vec![0; 12];
    whole.extend([8, 0, 0x45, 0]);
    whole.extend((len + 20).to_be_bytes());
    whole.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1, 0xc1, 0]);
    whole.extend(KERNEL_PORT.to_be_bytes());
    whole.extend(len.to_be_bytes());
    whole.extend([0, 0, 8, 0, 0, 0, 0, 0, 7, 0]);
    whole.extend(inner);
    whole
}

/// Where the outer UDP header of such a frame ends.
const UDP_END: usize = ETHERNET_LEN + 20 + 8;

#[test]
fn a_frame_goes_by_the_link_of_its_station() {
    let node = Node::new();
    let sent = Verdict::Encapsulate { slot: LINK.slot, outer: Family::V4 };
    for source in [OWN, GUEST] {
        assert_eq!(node.sends(&tcp(THERE, source), 0), sent);
        assert_eq!(node.sends(&frame(THERE, source, 0x0806, &[0; 28]), 0), sent, "whatever is in it");
    }
    for (destination, source, counter) in [
        ([0xff; 6], OWN, Counter::TxToGroup),
        ([1, 0, 0x5e, 0, 0, 1], OWN, Counter::TxToGroup),
        (THERE, NOWHERE, Counter::TxStranger),
        (THERE, ELSEWHERE, Counter::TxStranger),
        (NOWHERE, OWN, Counter::TxNoRoute),
        (GUEST, OWN, Counter::TxNoRoute),
    ] {
        assert_eq!(node.sends(&tcp(destination, source), 0), Verdict::Miss(counter));
    }
    let from_group = tcp(THERE, [3, 0, 0, 0, 0, 1]);
    assert_eq!(node.sends(&from_group, 0), Verdict::Refuse(Counter::TxBadFrame));
    for len in 0..ETHERNET_LEN {
        assert_eq!(node.sends(&tcp(THERE, OWN)[..len], 0), Verdict::Refuse(Counter::TxBadFrame));
    }
}

#[test]
fn what_does_not_fit_is_left_to_the_daemon_and_the_flow_with_it() {
    let node = Node::new();
    let of = |len| frame(THERE, OWN, 0x0800, &packet(protocol::TCP, len));
    let sent = Verdict::Encapsulate { slot: LINK.slot, outer: Family::V4 };
    // Two bytes stay free, so that a flow is not cut anew when a link is sealed.
    assert_eq!(node.sends(&of(1448), 0), sent);
    assert_eq!(node.sends(&of(3000), 1408), sent);
    assert_eq!(node.sends(&of(1449), 0), Verdict::Miss(Counter::TxFragmented));
    assert_eq!(node.sends(&of(100), 0), Verdict::Miss(Counter::TxBulk));
    node.flow.store(0);
    assert_eq!(node.sends(&of(3000), 1409), Verdict::Miss(Counter::TxFragmented));
    node.flow.store(0);
    assert_eq!(node.sends(&of(100), 0), sent);
}

#[test]
fn single_frames_of_a_sealed_link_are_sealed() {
    let mut node = Node::new();
    node.link.flags |= Link::SEALED;
    assert_eq!(node.sends(&tcp(THERE, OWN), 0), Verdict::Miss(Counter::TxNoSession));
    node.link.session = 0x77;
    let sealing =
        |shape, len| Verdict::Seal(Sealing { slot: LINK.slot, outer: Family::V4, session: 0x77, shape, len });
    let (v4, other) = (Family::V4, Transport::Other);
    let of_tcp = Shape { family: v4, transport: Transport::Tcp };
    assert_eq!(node.sends(&tcp(THERE, OWN), 0), sealing(of_tcp, 74));
    // Filled up on a wire: nothing in it is to be completed.
    let padded = [tcp(THERE, OWN), vec![0; 6]].concat();
    let nothing = Shape { family: v4, transport: other };
    assert_eq!(node.sends(&padded, 0), sealing(nothing, 80));
    assert_eq!(node.sends(&frame(THERE, OWN, 0x0806, &[0; 28]), 0), sealing(nothing, 42));
    let tagged = frame(THERE, OWN, ETHERTYPE_VLAN, &[0; 60]);
    assert_eq!(node.sends(&tagged, 0), Verdict::Miss(Counter::TxComplex));
    assert_eq!(node.sends(&tcp(THERE, OWN), 20), Verdict::Miss(Counter::TxBulk));
    assert_eq!(node.sends(&tcp(THERE, OWN), 0), Verdict::Miss(Counter::TxBulk), "it would overtake");
}

#[test]
fn frames_of_a_links_stations_are_delivered_and_others_left_to_the_daemon() {
    let node = Node::new();
    let delivered = |inner_len| {
        let (slot, outer) = (LINK.slot, Family::V4);
        ingress::Verdict::Deliver(Delivery { slot, outer, inner: Family::V4, inner_len })
    };
    assert_eq!(node.receives(&tcp(OWN, THERE), false), delivered(74));
    assert_eq!(node.receives(&tcp(NOWHERE, THERE), false), delivered(74), "a bridge floods it");
    assert_eq!(node.receives(&arp(THERE, [10, 0, 0, 3]), false), delivered(42));
    assert_eq!(node.receives(&arp(THERE, [10, 0, 0, 9]), false), delivered(42), "nobody's that is known");
    let handed_over = ingress::Verdict::HandOver(Family::V4);
    for bad in [tcp(OWN, NOWHERE), tcp(OWN, ELSEWHERE), tcp(OWN, GUEST), tcp([0xff; 6], THERE)] {
        assert_eq!(node.receives(&bad, false), handed_over);
    }
    assert_eq!(node.receives(&arp(THERE, [10, 0, 0, 4]), false), handed_over, "another's address");
    let refused = ingress::Verdict::Refuse(Counter::RxWrongInnerSource);
    assert_eq!(node.receives(&tcp(OWN, ELSEWHERE), true), refused, "merged, no socket takes it");
    assert_eq!(
        node.receives(&tcp(OWN, THERE)[..ETHERNET_LEN - 1], false),
        ingress::Verdict::Refuse(Counter::RxBadInner)
    );
}

#[test]
fn merged_frames_are_for_the_device_itself_or_for_the_stack() {
    let node = Node::new();
    let is_left = |frame: &[u8]| matches!(node.receives(frame, true), ingress::Verdict::LeaveToStack(_));
    assert!(!is_left(&tcp(OWN, THERE)));
    let udp = frame(OWN, THERE, 0x0800, &packet(protocol::UDP, 60));
    for whole in [tcp(GUEST, THERE), tcp(NOWHERE, THERE), udp, frame(OWN, THERE, ETHERTYPE_VLAN, &[0; 80])] {
        assert!(is_left(&whole));
    }
}

/// Of a frame of which not all that is looked at can be read, nothing is decided.
#[test]
fn what_is_said_of_addresses_cannot_hide_where_it_is_not_read() {
    let node = Node::new();
    let whole = carried(&arp(THERE, [10, 0, 0, 4]));
    let meta = FrameMeta { len: whole.len() as u32, gso: false };
    for readable in 42..whole.len() {
        let verdict = ingress::received::<_, _, true>(&whole[..readable], meta, &node, 1);
        assert_eq!(verdict, ingress::Verdict::Refuse(Counter::RxTruncated), "{readable}");
    }
}

#[test]
fn a_mark_of_this_side_is_no_link() {
    for mark in [LinkRef::LOCAL, LinkRef::BRIDGED] {
        assert!(mark.is_local() && !is_of(mark, LINK.slot));
    }
    assert!(!LINK.is_local());
}

proptest! {
    /// Whatever is in a frame, what is delivered is all of it, and from a station of the link; cut off at any place it
    /// is decided no other way, or not at all.
    #[test]
    fn random_frames_are_delivered_whole_or_not(
        rest in prop::collection::vec(any::<u8>(), 0..120),
        source in prop::sample::select(vec![THERE, ELSEWHERE, OWN, NOWHERE]),
        ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88b5]),
        gso: bool,
        // Programs make the outer headers readable first.
        readable in UDP_END..200,
    ) {
        let node = Node::new();
        let inner = frame(OWN, source, ethertype, &rest);
        let verdict = node.receives(&inner, gso);
        if let ingress::Verdict::Deliver(delivery) | ingress::Verdict::LeaveToStack(delivery) = verdict {
            prop_assert_eq!(usize::from(delivery.inner_len), inner.len());
            prop_assert_eq!((source, delivery.slot), (THERE, LINK.slot));
        }
        let whole = carried(&inner);
        let start = whole.get(..readable).unwrap_or(&whole);
        let meta = FrameMeta { len: whole.len() as u32, gso };
        let of_start = ingress::received::<_, _, true>(start, meta, &node, 1);
        let is_undecided =
            [ingress::Verdict::NotOurs, ingress::Verdict::Refuse(Counter::RxTruncated)].contains(&of_start);
        prop_assert!(is_undecided || of_start == verdict, "{:?}, then {:?}", of_start, verdict);
        let _ = node.sends(&inner, u32::from(gso) * 700);
    }
}
