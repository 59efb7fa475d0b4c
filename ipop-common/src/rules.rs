//! A group's access rules, as they are held against the packets of one link: what may begin, and what answers it.
//!
//! What the document of the group says of two nodes is a *policy*: for each of both directions, who begins, either
//! everything or ports of protocols. A link where all is allowed has none, and costs nothing. Both ends hold all packets
//! against it, in both data paths, by [`permit`].
//!
//! | what | may pass if |
//! |---|---|
//! | TCP, SYN without ACK | it may begin: the policy has its destination port |
//! | TCP, else | the same, or what it answers might have begun: the policy has its source port in the other direction |
//! | UDP, other protocols | it may begin, or it answers what has begun less than [`FLOW_TICKS`] before |
//! | ICMP echo request, other queries | ICMP may begin |
//! | ICMP echo reply | it answers a request |
//! | ICMP errors | anything is allowed in either direction: they belong to flows |
//! | IP fragments but the first | as errors: without the first, which is held against the policy, they are no packet |
//!
//! A packet with options of IPv4 or with other extension headers of IPv6 than that of fragments is of no protocol that
//! rules name: it needs a rule for all.

use crate::address::Family;
use crate::cursor::{Behind, Cursor};
use crate::ethernet::{ETHERTYPE_ARP, Header};
use crate::ingress::ETHERNET_LEN;
use crate::inner::{Inner, protocol};
use crate::maps::Link;
use crate::shared::SharedU64;
use crate::switch;
use crate::tables::Tables;

/// Bytes behind an IP header of fixed length that [`permit`] looks at: a fragment header, and TCP up to its flags.
pub const BEHIND_IP: usize = FRAGMENT_LEN + TCP_FLAGS + 1;
const FRAGMENT_LEN: usize = 8;
const TCP_FLAGS: usize = 13;
const FRAGMENT: u8 = 44;

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// This node.
    Out = 0,
    /// The peer.
    In = 1,
}

impl Direction {
    #[inline(always)]
    const fn other(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }

    /// The flag of a link on which everything may begin.
    #[inline(always)]
    const fn flag(self) -> u8 {
        match self {
            Self::Out => Link::MAY_BEGIN,
            Self::In => Link::PEER_MAY_BEGIN,
        }
    }
}

/// Bits of a key that leads to one port.
pub const KEY_BITS: u32 = 96;
/// Bits before the port.
pub const KEY_HEAD_BITS: u32 = 80;

/// Key of the table of rules (LPM trie), in words of the network's order: policy (two), then direction, protocol and
/// destination port. ICMP of both families is [`protocol::ICMP`], port 0.
pub type Key = [u32; 3];

#[inline(always)]
pub const fn key(policy: u64, direction: Direction, protocol: u8, port: u16) -> Key {
    let last = ((direction as u32) << 24) | ((protocol as u32) << 16) | port as u32;
    [((policy >> 32) as u32).to_be(), (policy as u32).to_be(), last.to_be()]
}

/// The policy of a key, its direction, protocol and port.
pub const fn read_key(key: &Key) -> (u64, Direction, u8, u16) {
    let [high, low, last] = [u32::from_be(key[0]), u32::from_be(key[1]), u32::from_be(key[2])];
    let direction = if last >> 24 == Direction::In as u32 { Direction::In } else { Direction::Out };
    (((high as u64) << 32) | low as u64, direction, (last >> 16) as u8, last as u16)
}

/// Flows that have begun and await answers, in a bucket: time in the lower [`TICK_BITS`], above them what names the flow.
pub type Bucket = [SharedU64; 4];
/// Buckets of flows.
pub const BUCKETS: u32 = 1 << 14;
/// Values of the map: behind the buckets is the [secret](Seed).
pub const BUCKETS_AND_SEED: u32 = BUCKETS + 1;
const TICK_BITS: u32 = 24;
/// Of CLOCK_MONOTONIC: a tick is 2^32 ns, about 4.3 s.
const TICK_SHIFT: u32 = 32;
/// How long an answer may take, in ticks: five minutes (RFC 4787, section 4.3).
pub const FLOW_TICKS: u64 = 70;

/// By which flows are named, so that nobody can make one that is called as another: two words, drawn by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64, pub u64);

impl Seed {
    #[inline(always)]
    pub fn of(bucket: &Bucket) -> Self {
        let [a, b, ..] = bucket;
        Self(a.load(), b.load())
    }

    pub fn put(self, bucket: &Bucket) {
        let [a, b, ..] = bucket;
        a.store(self.0);
        b.store(self.1);
    }
}

/// Why a packet may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// No rule allows it.
    Rule,
    /// It ends before what has to be looked at.
    Truncated,
}

/// What a packet is to the rules.
struct Packet {
    protocol: u8,
    /// Of a request of ICMP, its identifier.
    source: u16,
    /// 0 where there are no ports.
    destination: u16,
    role: Role,
    /// Of an answer whose flow is to be known: that flow's ports.
    flow: (u16, u16),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It begins, or answers what is known to have begun.
    Either,
    /// TCP: it begins, or answers what might have begun.
    Segment,
    /// It can only begin; of ICMP, a request.
    Begins,
    /// It can only answer.
    Answers,
    /// An error, or a fragment behind the first.
    Attached,
}

/// Holds a packet, whose IP header starts at the cursor, against the policy of its link. `direction` is where it goes:
/// out to the peer, or in from it.
///
/// # Errors
/// Why it may not pass.
#[inline(always)]
pub fn permit<C: Cursor, T: Tables>(
    cursor: C,
    inner: &Inner,
    link: &Link,
    direction: Direction,
    tables: &T,
    now_ns: u64,
) -> Result<(), Forbidden> {
    if link.flags & Link::RULED == 0 {
        return Ok(());
    }
    // Two calls, so that every offset is a constant to the verifier.
    let packet = match inner.family {
        Family::V4 => read_v4(cursor, inner),
        Family::V6 => read_v6(cursor, inner),
    };
    let Some(packet) = packet else { return Err(Forbidden::Truncated) };
    if packet.role == Role::Attached {
        let is_open = link.flags & Link::CLOSED == 0;
        return if is_open { Ok(()) } else { Err(Forbidden::Rule) };
    }
    if packet.role != Role::Answers && may_begin(tables, link, direction, packet.protocol, packet.destination)
    {
        // Answers to the peer, or from it, are known by themselves where they might begin just as well.
        if packet.protocol != protocol::TCP && link.flags & direction.other().flag() == 0 {
            let ports = (packet.source, packet.destination);
            let name = name(inner, link.policy, packet.protocol, ports, false, tables);
            note(tables, name, now_ns);
        }
        return Ok(());
    }
    let is_answer = match packet.role {
        Role::Segment => may_begin(tables, link, direction.other(), packet.protocol, packet.source),
        Role::Either | Role::Answers => {
            let name = name(inner, link.policy, packet.protocol, packet.flow, true, tables);
            has_begun(tables, name, now_ns)
        }
        Role::Begins | Role::Attached => false,
    };
    if is_answer { Ok(()) } else { Err(Forbidden::Rule) }
}

/// As [`permit`], of a frame. ARP and neighbour discovery pass, by which addresses are found; what carries no packet of IP
/// needs a rule for all.
///
/// # Errors
/// As there.
#[inline(always)]
pub fn permit_frame<C: Cursor, T: Tables>(
    frame: C,
    header: &Header,
    link: &Link,
    direction: Direction,
    tables: &T,
    now_ns: u64,
) -> Result<(), Forbidden> {
    if link.flags & Link::RULED == 0 || header.ethertype == ETHERTYPE_ARP {
        return Ok(());
    }
    let packet = Behind { cursor: frame, at: ETHERNET_LEN };
    let Some(family) = switch::family(header.ethertype) else {
        return if link.flags & direction.flag() != 0 { Ok(()) } else { Err(Forbidden::Rule) };
    };
    let Ok(inner) = Inner::parse(packet, 0, family) else { return Err(Forbidden::Truncated) };
    if inner.protocol == protocol::ICMPV6
        && inner.family == Family::V6
        && matches!(packet.u8_at(40), Some(133..=136))
    {
        return Ok(());
    }
    permit(packet, &inner, link, direction, tables, now_ns)
}

#[inline(always)]
fn may_begin<T: Tables>(tables: &T, link: &Link, direction: Direction, protocol: u8, port: u16) -> bool {
    // Protocols that no rule names are allowed by one for all only.
    link.flags & direction.flag() != 0
        || (matches!(protocol, protocol::TCP | protocol::UDP | protocol::ICMP)
            && tables.may_begin(&key(link.policy, direction, protocol, port)))
}

#[inline(always)]
fn read_v4<C: Cursor>(cursor: C, inner: &Inner) -> Option<Packet> {
    let fragment = cursor.u16_at(6)?;
    if fragment & 0x1fff != 0 {
        return Some(tail(inner.protocol, fragment & 0x1fff));
    }
    if inner.header_len != 20 {
        return Some(unnamed(inner.protocol));
    }
    transport::<C, 20>(cursor, inner.protocol, protocol::ICMP)
}

#[inline(always)]
fn read_v6<C: Cursor>(cursor: C, inner: &Inner) -> Option<Packet> {
    if inner.protocol != FRAGMENT {
        return transport::<C, 40>(cursor, inner.protocol, protocol::ICMPV6);
    }
    let (next, offset) = (cursor.u8_at(40)?, cursor.u16_at(42)? >> 3);
    if offset != 0 {
        return Some(tail(next, offset));
    }
    transport::<C, { 40 + FRAGMENT_LEN }>(cursor, next, protocol::ICMPV6)
}

/// Of no protocol that rules name; its flow has the number of the protocol for a port.
#[inline(always)]
const fn unnamed(protocol: u8) -> Packet {
    let number = protocol as u16;
    Packet { protocol: 0, source: number, destination: 0, role: Role::Either, flow: (number, 0) }
}

/// A fragment that starts `offset` times eight bytes behind the first one's start. One that could write over TCP's flags
/// may not pass (RFC 1858, section 4).
#[inline(always)]
const fn tail(protocol: u8, offset: u16) -> Packet {
    let role = if protocol == protocol::TCP && offset == 1 { Role::Begins } else { Role::Attached };
    Packet { role, ..unnamed(protocol) }
}

/// What stands behind `IP` bytes of headers.
#[inline(always)]
fn transport<C: Cursor, const IP: usize>(cursor: C, protocol: u8, icmp: u8) -> Option<Packet> {
    if protocol == protocol::TCP || protocol == protocol::UDP {
        let ports = cursor.u32_at(IP)?;
        let (source, destination) = ((ports >> 16) as u16, ports as u16);
        let role = if protocol == protocol::UDP {
            Role::Either
        } else {
            // SYN without ACK.
            match cursor.u8_at(IP + TCP_FLAGS)? & 0x12 {
                0x02 => Role::Begins,
                _ => Role::Segment,
            }
        };
        return Some(Packet { protocol, source, destination, role, flow: (destination, source) });
    }
    if protocol != icmp {
        return Some(unnamed(protocol));
    }
    let (kind, identifier) = (cursor.u8_at(IP)?, cursor.u16_at(IP + 4)?);
    let is_v4 = icmp == protocol::ICMP;
    let reply = if is_v4 { 0 } else { 129 };
    let is_error = if is_v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    let role = if kind == reply {
        Role::Answers
    } else if is_error {
        Role::Attached
    } else {
        Role::Begins
    };
    Some(Packet { protocol: protocol::ICMP, source: identifier, destination: 0, role, flow: (identifier, 0) })
}

/// Names a flow by who began it, with whom, and by which ports. `is_answer`: the packet goes back.
#[inline(always)]
fn name<T: Tables>(
    inner: &Inner,
    policy: u64,
    protocol: u8,
    ports: (u16, u16),
    is_answer: bool,
    tables: &T,
) -> Option<u64> {
    let seed = Seed::of(tables.begun(BUCKETS)?);
    let (source, destination) = (inner.source.to_words(), inner.destination.to_words());
    let ([a, b], [c, d]) = if is_answer { (destination, source) } else { (source, destination) };
    let ports = (u64::from(ports.0) << 32) | (u64::from(ports.1) << 16) | u64::from(protocol);
    let mut sip = Sip::new(seed);
    sip.take(a);
    sip.take(b);
    sip.take(c);
    sip.take(d);
    sip.take(policy);
    sip.take(ports);
    // SipHash's last word has the length in bytes.
    Some(sip.finish(48 << 56))
}

/// SipHash-1-3 (Aumasson and Bernstein): of those who do not know the seed, nobody finds two texts with one hash.
struct Sip {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl Sip {
    #[inline(always)]
    const fn new(seed: Seed) -> Self {
        Self {
            a: seed.0 ^ 0x736f_6d65_7073_6575,
            b: seed.1 ^ 0x646f_7261_6e64_6f6d,
            c: seed.0 ^ 0x6c79_6765_6e65_7261,
            d: seed.1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.a = self.a.wrapping_add(self.b);
        self.b = self.b.rotate_left(13) ^ self.a;
        self.a = self.a.rotate_left(32);
        self.c = self.c.wrapping_add(self.d);
        self.d = self.d.rotate_left(16) ^ self.c;
        self.a = self.a.wrapping_add(self.d);
        self.d = self.d.rotate_left(21) ^ self.a;
        self.c = self.c.wrapping_add(self.b);
        self.b = self.b.rotate_left(17) ^ self.c;
        self.c = self.c.rotate_left(32);
    }

    #[inline(always)]
    const fn take(&mut self, word: u64) {
        self.d ^= word;
        self.round();
        self.a ^= word;
    }

    #[inline(always)]
    const fn finish(mut self, last: u64) -> u64 {
        self.take(last);
        self.c ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.a ^ self.b ^ self.c ^ self.d
    }
}

const TICK_MASK: u64 = (1 << TICK_BITS) - 1;

#[inline(always)]
const fn tick(now_ns: u64) -> u64 {
    (now_ns >> TICK_SHIFT) & TICK_MASK
}

/// Notes that a flow goes on. Where its bucket is full, the one goes of which nothing was heard for longest.
#[inline(always)]
fn note<T: Tables>(tables: &T, name: Option<u64>, now_ns: u64) {
    let Some(name) = name else { return };
    let Some(bucket) = tables.begun(name as u32 & (BUCKETS - 1)) else { return };
    let word = (name & !TICK_MASK) | tick(now_ns);
    let [a, b, c, d] = bucket;
    let mut oldest = a;
    let mut age_max = 0;
    for place in [a, b, c, d] {
        let found = place.load();
        if found == word {
            return;
        }
        let age = if found & !TICK_MASK == word & !TICK_MASK { u64::MAX } else { age(found, now_ns) };
        if age > age_max {
            (oldest, age_max) = (place, age);
        }
    }
    oldest.store(word);
}

#[inline(always)]
const fn age(word: u64, now_ns: u64) -> u64 {
    // What was never used is the oldest.
    if word == 0 { TICK_MASK + 1 } else { tick(now_ns).wrapping_sub(word & TICK_MASK) & TICK_MASK }
}

#[inline(always)]
fn has_begun<T: Tables>(tables: &T, name: Option<u64>, now_ns: u64) -> bool {
    let Some(name) = name else { return false };
    let Some(bucket) = tables.begun(name as u32 & (BUCKETS - 1)) else { return false };
    let [a, b, c, d] = bucket;
    let mut is_known = false;
    for place in [a, b, c, d] {
        let found = place.load();
        is_known |= (found ^ name) & !TICK_MASK == 0 && age(found, now_ns) < FLOW_TICKS;
    }
    is_known
}

#[cfg(test)]
mod tests;
