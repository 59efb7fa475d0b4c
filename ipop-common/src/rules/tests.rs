use std::collections::HashSet;
use std::vec::Vec;

use super::*;
use crate::address::Address;
use crate::gpe::LinkId;
use crate::maps::{Config, LinkRef};

const POLICY: u64 = 0x1234_5678_9abc_def0;
const SECOND: u64 = 1_000_000_000;

/// The tables of a node, of which only rules and flows count here.
struct Node {
    rules: HashSet<Key>,
    begun: Vec<Bucket>,
    link: Link,
}

impl Tables for Node {
    fn config(&self) -> Option<&Config> {
        None
    }
    fn link(&self, _: u32) -> Option<&Link> {
        None
    }
    fn by_link_id(&self, _: LinkId) -> Option<LinkRef> {
        None
    }
    fn by_address(&self, _: &Address) -> Option<LinkRef> {
        None
    }
    fn may_begin(&self, key: &Key) -> bool {
        self.rules.contains(key)
    }
    fn begun(&self, index: u32) -> Option<&Bucket> {
        self.begun.get(index as usize)
    }
}

impl Node {
    fn new(flags: u8, rules: &[(Direction, u8, u16)]) -> Self {
        let rules = rules.iter().map(|(direction, protocol, port)| key(POLICY, *direction, *protocol, *port));
        let bucket = || core::array::from_fn(|_| SharedU64::new(0));
        let begun: Vec<Bucket> = (0..BUCKETS_AND_SEED).map(|_| bucket()).collect();
        Seed(7, 9).put(&begun[BUCKETS as usize]);
        let link = Link { flags: Link::RULED | flags, policy: POLICY, ..Link::EMPTY };
        Self { rules: rules.collect(), begun, link }
    }

    fn at(&self, now_ns: u64, direction: Direction, packet: &[u8]) -> Result<(), Forbidden> {
        let inner = Inner::parse_any(packet, 0).expect("an IP packet");
        permit(packet, &inner, &self.link, direction, self, now_ns)
    }

    fn out(&self, packet: &[u8]) -> bool {
        self.at(SECOND, Direction::Out, packet).is_ok()
    }

    fn takes(&self, packet: &[u8]) -> bool {
        self.at(SECOND, Direction::In, packet).is_ok()
    }
}

/// A packet of this node's, or of the peer's.
fn ip(v6: bool, is_own: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = if is_own { (1, 2) } else { (2, 1) };
    let len = payload.len() as u16;
    let mut packet = Vec::new();
    if v6 {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([protocol, 64]);
        for last in [source, destination] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    } else {
        packet.extend([0x45, 0]);
        packet.extend((len + 20).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
    }
    packet.extend(payload);
    packet
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn tcp(v6: bool, is_own: bool, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    ip(v6, is_own, protocol::TCP, &payload)
}

fn udp(v6: bool, is_own: bool, ports: (u16, u16)) -> Vec<u8> {
    ip(
        v6,
        is_own,
        protocol::UDP,
        &[&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &[0, 8, 0, 0]].concat(),
    )
}

fn echo(v6: bool, is_own: bool, is_request: bool, identifier: u16) -> Vec<u8> {
    let (protocol, request, reply) = if v6 { (protocol::ICMPV6, 128, 129) } else { (protocol::ICMP, 8, 0) };
    let kind = if is_request { request } else { reply };
    ip(v6, is_own, protocol, &[&[kind, 0, 0, 0][..], &identifier.to_be_bytes(), &[0, 1]].concat())
}

#[test]
fn a_link_without_rules_is_not_looked_at() {
    let node = Node { link: Link::EMPTY, ..Node::new(0, &[]) };
    assert!(node.takes(&udp(false, false, (1, 2))));
}

#[test]
fn a_connection_begins_where_it_may_and_its_segments_come_back() {
    for v6 in [false, true] {
        let node = Node::new(0, &[(Direction::Out, protocol::TCP, 5432)]);
        assert!(node.out(&tcp(v6, true, (40_000, 5432), SYN)));
        assert!(node.takes(&tcp(v6, false, (5432, 40_000), SYN | ACK)));
        assert!(node.takes(&tcp(v6, false, (5432, 40_000), ACK)));
        // From the allowed port a peer begins nothing.
        assert!(!node.takes(&tcp(v6, false, (5432, 22), SYN)));
        assert!(!node.takes(&tcp(v6, false, (40_000, 5432), SYN)));
        assert!(!node.out(&tcp(v6, true, (40_000, 22), SYN)));
        assert!(!node.out(&tcp(v6, true, (40_000, 22), ACK)));
    }
}

#[test]
fn datagrams_come_back_only_to_where_one_has_gone_and_for_a_time() {
    for v6 in [false, true] {
        let node = Node::new(0, &[(Direction::Out, protocol::UDP, 53)]);
        assert!(!node.takes(&udp(v6, false, (53, 4000))));
        assert!(node.out(&udp(v6, true, (4000, 53))));
        assert!(node.takes(&udp(v6, false, (53, 4000))));
        assert!(!node.takes(&udp(v6, false, (53, 4001))), "another port of this node");
        assert!(!node.takes(&udp(v6, false, (54, 4000))), "another port of the peer");
        assert!(!node.takes(&tcp(v6, false, (53, 4000), SYN)), "another protocol");
        let late = SECOND + ((FLOW_TICKS + 1) << 32);
        assert_eq!(node.at(late, Direction::In, &udp(v6, false, (53, 4000))), Err(Forbidden::Rule));
        // Each that goes out keeps the flow.
        assert!(node.out(&udp(v6, true, (4000, 53))));
        assert!(node.at(late - (2 << 32), Direction::Out, &udp(v6, true, (4000, 53))).is_ok());
        assert!(node.at(late, Direction::In, &udp(v6, false, (53, 4000))).is_ok());
    }
}

#[test]
fn a_flow_of_another_policy_is_none() {
    let mut node = Node::new(0, &[(Direction::Out, protocol::UDP, 53)]);
    assert!(node.out(&udp(false, true, (4000, 53))));
    node.link.policy += 1;
    assert!(!node.takes(&udp(false, false, (53, 4000))));
}

#[test]
fn echo_replies_answer_requests() {
    for v6 in [false, true] {
        let node = Node::new(0, &[(Direction::In, protocol::ICMP, 0)]);
        assert!(!node.out(&echo(v6, true, false, 7)));
        assert!(node.takes(&echo(v6, false, true, 7)));
        assert!(node.out(&echo(v6, true, false, 7)));
        assert!(!node.out(&echo(v6, true, false, 8)));
        assert!(!node.out(&echo(v6, true, true, 7)));
    }
}

#[test]
fn who_may_begin_everything_gets_answers_and_the_other_begins_nothing() {
    let node = Node::new(Link::MAY_BEGIN, &[]);
    // Of no protocol that rules name.
    assert!(node.out(&ip(false, true, 47, &[0; 8])));
    assert!(node.takes(&ip(false, false, 47, &[0; 8])));
    assert!(!node.takes(&ip(false, false, 50, &[0; 8])));
    assert!(node.out(&udp(false, true, (1, 2))));
    assert!(node.takes(&udp(false, false, (2, 1))));
    assert!(!node.takes(&udp(false, false, (2, 3))));
    assert!(!node.takes(&tcp(false, false, (2, 3), SYN)));
}

#[test]
fn errors_and_later_fragments_pass_where_anything_does() {
    for (flags, wanted) in [(0, true), (Link::CLOSED, false)] {
        let node = Node::new(flags, &[(Direction::Out, protocol::UDP, 53)]);
        assert_eq!(node.takes(&ip(false, false, protocol::ICMP, &[3, 4, 0, 0, 0, 0, 5, 0])), wanted);
        assert_eq!(node.takes(&ip(true, false, protocol::ICMPV6, &[2, 0, 0, 0, 0, 0, 5, 0])), wanted);
        let mut later = ip(false, false, protocol::UDP, &[0; 16]);
        later[7] = 2;
        assert_eq!(node.takes(&later), wanted);
        let later = ip(true, false, 44, &[protocol::UDP, 0, 0, 16, 0, 0, 0, 1, 0, 0]);
        assert_eq!(node.takes(&later), wanted);
    }
}

#[test]
fn the_first_fragment_is_held_against_the_policy_and_none_writes_over_its_flags() {
    let node = Node::new(0, &[(Direction::In, protocol::UDP, 53)]);
    let first =
        |port: u8| ip(true, false, 44, &[protocol::UDP, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, port, 0, 8, 0, 0]);
    assert!(node.takes(&first(53)));
    assert!(!node.takes(&first(54)));
    let mut second = ip(false, false, protocol::TCP, &[0; 16]);
    second[7] = 1;
    assert!(!node.takes(&second));
}

#[test]
fn what_ends_too_early_may_not_pass() {
    let node = Node::new(0, &[(Direction::In, protocol::TCP, 80), (Direction::In, protocol::UDP, 80)]);
    let whole = tcp(false, false, (1, 80), SYN);
    for len in 20..34 {
        assert_eq!(node.at(SECOND, Direction::In, &whole[..len]), Err(Forbidden::Truncated), "{len}");
    }
    assert!(node.takes(&whole[..34]));
}

#[test]
fn a_packet_with_options_needs_a_rule_for_all() {
    let mut packet = udp(false, false, (1, 80));
    packet[0] = 0x46;
    assert!(!Node::new(0, &[(Direction::In, protocol::UDP, 80)]).takes(&packet));
    assert!(Node::new(Link::PEER_MAY_BEGIN, &[]).takes(&packet));
}

#[test]
fn a_full_bucket_forgets_the_flow_that_is_quiet_for_longest() {
    let node = Node::new(0, &[(Direction::Out, protocol::UDP, 53)]);
    let bucket = &node.begun[0];
    let of = |tag: u64| Some(tag << 24);
    for (index, place) in (1..=4u64).zip(bucket) {
        note(&node, of(index), index << 32);
        assert_ne!(place.load(), 0);
    }
    note(&node, of(1), 5 << 32);
    note(&node, of(9), 6 << 32);
    let known: Vec<bool> = [1, 2, 3, 4, 9].iter().map(|tag| has_begun(&node, of(*tag), 6 << 32)).collect();
    assert_eq!(known, [true, false, true, true, true]);
}

#[test]
fn flows_are_named_by_siphash() {
    use core::hash::Hasher;
    let words: Vec<u64> =
        (0..6u8).map(|word| u64::from_le_bytes(core::array::from_fn(|at| word * 8 + at as u8))).collect();
    let mut sip = Sip::new(Seed(0, 0));
    words.iter().for_each(|word| sip.take(*word));
    // The standard library's is SipHash-1-3 with a key of zeroes.
    let mut reference = std::hash::DefaultHasher::new();
    words.iter().for_each(|word| reference.write(&word.to_le_bytes()));
    assert_eq!(sip.finish(48 << 56), reference.finish());
}
