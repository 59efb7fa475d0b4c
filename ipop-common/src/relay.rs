//! Relay frames: what a node puts before a WireGuard message that another node is to pass on.
//!
//! ```text
//!  0  type 5, three zero bytes · 4 label u32 · 8 a WireGuard message
//! ```
//!
//! The relay gives a label to a pair of nodes. What comes from one of them with this label goes to the other,
//! unchanged: whoever gets it answers by the same label. So a super-packet is passed on by a look at its outer
//! headers and at its first frame.

use core::net::SocketAddr;

use crate::address::{Address, Family};
use crate::checksum;
use crate::cursor::Cursor;
use crate::filter::WINDOW_NS;
use crate::ingress::{ETHERNET_LEN, UDP_LEN};
use crate::inner::protocol;
use crate::maps::{Relay, RelayEnd, RelayWindow};

/// First byte of a relay frame.
pub const TYPE: u8 = 5;
/// What precedes the message.
pub const HEADER_LEN: usize = 8;
/// Headers of a frame that is passed on, up to those of UDP.
pub const V4_LEN: usize = ETHERNET_LEN + 20 + UDP_LEN;
pub const V6_LEN: usize = ETHERNET_LEN + 40 + UDP_LEN;
/// A frame with fewer hops left has gone in circles.
const HOPS_MIN: u8 = 2;

/// What precedes a message with this label.
#[inline(always)]
pub const fn header(label: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = label.to_be_bytes();
    [TYPE, 0, 0, 0, a, b, c, d]
}

/// The label of the frame that begins at `offset`; `None` where none does.
#[inline(always)]
pub fn label(packet: impl Cursor, offset: usize) -> Option<u32> {
    match packet.bytes::<HEADER_LEN>(offset)? {
        [TYPE, 0, 0, 0, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// How one end is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub ifindex: u32,
    pub source_mac: [u8; 6],
    pub next_hop_mac: [u8; 6],
    pub local: Address,
    pub own_port: u16,
    pub peer: SocketAddr,
    pub exit: Option<Exit>,
}

/// How XDP sends what came in at an interface out of it, where the driver does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `XDP_TX`, which every driver of hardware knows.
    Transmit,
    /// `XDP_REDIRECT` to the interface itself: after `XDP_TX`, a veth wakes its other end only where a program runs
    /// there too (veth_xdp_flush in drivers/net/veth.c), and the frames stay in between.
    Redirect,
}

impl Relay {
    /// A pair of nodes that are reached by these ways, and may send `limit` bytes in each 10 ms; 0: as much as
    /// they like. `None` where they have different families, between which a program does not pass on.
    pub fn new(ways: [&Way; 2], lease_until_ns: u64, limit: u64) -> Option<Self> {
        let [a, b] = ways;
        let (end_a, end_b) = (RelayEnd::new(a), RelayEnd::new(b));
        if end_a.peer.family() != end_b.peer.family() {
            return None;
        }
        let ends = [end_a.towards(&end_b), end_b.towards(&end_a)];
        Some(Self { lease_until_ns, limit, window: RelayWindow::default(), ends })
    }

    /// Which of the ends a frame comes from.
    #[inline(always)]
    pub fn end(&self, source: &Address, port: u16, destination: &Address) -> Option<usize> {
        let is = |end: &RelayEnd| end.port == port && end.peer == *source && end.local == *destination;
        let [a, b] = &self.ends;
        if is(a) {
            return Some(0);
        }
        if is(b) { Some(1) } else { None }
    }

    /// The end that a frame comes from, and the one that it goes to.
    #[inline(always)]
    pub fn from_and_to(&self, is_from_first: bool) -> (&RelayEnd, &RelayEnd) {
        let [first, second] = &self.ends;
        if is_from_first { (first, second) } else { (second, first) }
    }

    /// Whether `len` bytes more are within the limit. Several processors may count at the same time, and miss
    /// some of each other's.
    #[inline(always)]
    pub fn admits(&mut self, len: u32, now_ns: u64) -> bool {
        self.window.admits(self.limit, len, now_ns)
    }
}

impl RelayWindow {
    /// Whether `len` bytes more are within `limit`, where that is not 0. What is refused counts too.
    #[inline(always)]
    pub fn admits(&mut self, limit: u64, len: u32, now_ns: u64) -> bool {
        if limit == 0 {
            return true;
        }
        let number = now_ns / WINDOW_NS;
        if self.number != number {
            *self = Self { number, bytes: 0 };
        }
        self.bytes = self.bytes.wrapping_add(len as u64);
        self.bytes <= limit
    }
}

impl RelayEnd {
    fn new(way: &Way) -> Self {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&way.next_hop_mac);
        macs[6..].copy_from_slice(&way.source_mac);
        Self {
            peer: Address::from(way.peer.ip()),
            local: way.local,
            ifindex: way.ifindex,
            macs,
            port: way.peer.port(),
            own_port: way.own_port,
            addresses: 0,
            ports: 0,
            pseudo_header: 0,
            exit: match way.exit {
                None => 0,
                Some(Exit::Transmit) => Self::TRANSMIT,
                Some(Exit::Redirect) => Self::REDIRECT,
            },
            reserved: 0,
        }
    }

    /// With what changes in the checksums of frames that go from here to there.
    fn towards(self, other: &Self) -> Self {
        let addresses = |end: &Self| u32::from(checksum::fold(sum(&end.peer) + sum(&end.local)));
        let ports = |end: &Self| u32::from(end.port) + u32::from(end.own_port);
        let change = |new: u32, old: u32| checksum::fold(new + u32::from(!checksum::fold(old)));
        Self {
            addresses: change(addresses(other), addresses(&self)),
            ports: change(ports(other), ports(&self)),
            pseudo_header: checksum::fold(addresses(&self) + u32::from(protocol::UDP)),
            ..self
        }
    }
}

fn sum(address: &Address) -> u32 {
    let bytes = address.to_bytes();
    match address.family() {
        Family::V4 => checksum::sum(bytes.get(12..).unwrap_or_default()),
        Family::V6 => checksum::sum(&bytes),
    }
}

/// Makes the headers of a frame from `from` those of one to `to`; false where it has gone too far.
#[inline(always)]
pub fn rewrite_v4(head: &mut [u8; V4_LEN], from: &RelayEnd, to: &RelayEnd) -> bool {
    if head[22] < HOPS_MIN {
        return false;
    }
    head[22] -= 1;
    let check = u16::from_be_bytes([head[24], head[25]]);
    // One hop less: 0x0100 less in a word, which is 0xfeff more.
    let check = checksum::finish((!check) as u32 + from.addresses as u32 + 0xfeff);
    [head[24], head[25]] = check.to_be_bytes();
    copy_macs(head, to);
    let ([.., a, b, c, d], [.., e, f, g, h]) = (to.local.to_bytes(), to.peer.to_bytes());
    head[26..34].copy_from_slice(&[a, b, c, d, e, f, g, h]);
    let ([a, b], [c, d]) = (to.own_port.to_be_bytes(), to.port.to_be_bytes());
    head[34..38].copy_from_slice(&[a, b, c, d]);
    true
}

/// As [`rewrite_v4`], over IPv6.
#[inline(always)]
pub fn rewrite_v6(head: &mut [u8; V6_LEN], to: &RelayEnd) -> bool {
    if head[21] < HOPS_MIN {
        return false;
    }
    head[21] -= 1;
    copy_macs(head, to);
    head[22..38].copy_from_slice(&to.local.to_bytes());
    head[38..54].copy_from_slice(&to.peer.to_bytes());
    let ([a, b], [c, d]) = (to.own_port.to_be_bytes(), to.port.to_be_bytes());
    head[54..58].copy_from_slice(&[a, b, c, d]);
    true
}

/// How XDP sends a frame with these headers that came in at `ifindex`. `None`: it is TC's, which knows more of it
/// and reaches every interface. XDP's must be for this host and go out where it came in; and its checksum must be
/// one: virtual devices carry frames whose sender has left it to hardware.
#[inline(always)]
pub fn exit<const N: usize>(head: &[u8; N], ifindex: u32, from: &RelayEnd, to: &RelayEnd) -> Option<Exit> {
    if to.ifindex != ifindex
        || head.first_chunk::<6>() != to.macs.last_chunk::<6>()
        || is_unfinished(head, from)
    {
        return None;
    }
    match to.exit {
        RelayEnd::TRANSMIT => Some(Exit::Transmit),
        RelayEnd::REDIRECT => Some(Exit::Redirect),
        _ => None,
    }
}

/// Whether the UDP checksum is that of the pseudo-header alone, which a device was to complete. One in 65,535
/// that is whole looks the same.
#[inline(always)]
fn is_unfinished<const N: usize>(head: &[u8; N], from: &RelayEnd) -> bool {
    let len = u16::from_be_bytes([head[N - 4], head[N - 3]]);
    let check = u16::from_be_bytes([head[N - 2], head[N - 1]]);
    let pseudo_header = checksum::fold(from.pseudo_header as u32 + len as u32);
    check != 0 && checksum::fold(check as u32 + (!pseudo_header) as u32) == 0xffff
}

/// Makes the UDP checksum of a frame from `from` that of one to the other end. Where there is none, 0, there will
/// be none.
#[inline(always)]
pub fn update_checksum<const N: usize>(head: &mut [u8; N], from: &RelayEnd) {
    let check = u16::from_be_bytes([head[N - 2], head[N - 1]]);
    if check == 0 {
        return;
    }
    let check = checksum::finish((!check) as u32 + from.addresses as u32 + from.ports as u32);
    // RFC 768: a checksum that comes to zero is sent as all ones.
    let check = if check == 0 { 0xffff } else { check };
    [head[N - 2], head[N - 1]] = check.to_be_bytes();
}

#[inline(always)]
fn copy_macs<const N: usize>(head: &mut [u8; N], to: &RelayEnd) {
    for (out, byte) in head.iter_mut().zip(to.macs) {
        *out = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vector() {
        assert_eq!(header(0x0102_0304), [5, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn only_whole_headers_are_read() {
        let frame = header(7);
        assert_eq!(label(&frame[..], 0), Some(7));
        for len in 0..HEADER_LEN {
            assert_eq!(label(&frame[..len], 0), None);
        }
        for at in 0..4 {
            let mut bent = frame;
            bent[at] ^= 1;
            assert_eq!(label(&bent[..], 0), None);
        }
    }

    fn way(peer: &str, local: &str, number: u8) -> Way {
        let local: core::net::IpAddr = local.parse().unwrap();
        Way {
            ifindex: number.into(),
            source_mac: [number; 6],
            next_hop_mac: [number + 1; 6],
            local: local.into(),
            own_port: 15_000,
            peer: peer.parse().unwrap(),
            exit: Some(Exit::Transmit),
        }
    }

    fn pair(limit: u64) -> Relay {
        let ways = [way("192.0.2.1:4000", "192.0.2.9", 1), way("198.51.100.7:60001", "198.51.100.9", 7)];
        Relay::new([&ways[0], &ways[1]], 1, limit).unwrap()
    }

    fn ip(text: &str) -> Address {
        text.parse::<core::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn a_frame_comes_from_one_of_the_ends_or_from_nobody() {
        let relay = pair(0);
        assert_eq!(relay.end(&ip("192.0.2.1"), 4000, &ip("192.0.2.9")), Some(0));
        assert_eq!(relay.end(&ip("198.51.100.7"), 60_001, &ip("198.51.100.9")), Some(1));
        for (source, port, destination) in [
            ("192.0.2.1", 4001, "192.0.2.9"),
            ("192.0.2.2", 4000, "192.0.2.9"),
            ("192.0.2.1", 4000, "198.51.100.9"),
        ] {
            assert_eq!(relay.end(&ip(source), port, &ip(destination)), None);
        }
    }

    #[test]
    fn between_families_nothing_is_passed_on() {
        let ways = [way("192.0.2.1:4000", "192.0.2.9", 1), way("[2001:db8::1]:60001", "2001:db8::9", 7)];
        assert!(Relay::new([&ways[0], &ways[1]], 1, 0).is_none());
    }

    #[test]
    fn headers_become_those_of_the_other_end_and_the_checksum_stays_right() {
        let relay = pair(0);
        let mut head = [0u8; V4_LEN];
        head[14..34]
            .copy_from_slice(&[0x45, 0, 1, 44, 7, 7, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9]);
        let check = checksum::finish(checksum::sum(&head[14..34]));
        head[24..26].copy_from_slice(&check.to_be_bytes());
        assert!(rewrite_v4(&mut head, &relay.ends[0], &relay.ends[1]));
        assert_eq!(checksum::fold(checksum::sum(&head[14..34])), 0xffff);
        assert_eq!(head[..12], [8, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7]);
        assert_eq!(head[22], 63);
        assert_eq!(head[26..34], [198, 51, 100, 9, 198, 51, 100, 7]);
        assert_eq!(head[34..38], [0x3a, 0x98, 0xea, 0x61]);
        head[22] = 1;
        assert!(!rewrite_v4(&mut head, &relay.ends[0], &relay.ends[1]));
    }

    /// Headers of a frame from the first end with this UDP checksum, of a datagram of `UDP_LEN` bytes.
    fn head(relay: &Relay, check: u16) -> [u8; V4_LEN] {
        let (from, to) = relay.from_and_to(true);
        let mut head = [0u8; V4_LEN];
        head[..6].copy_from_slice(&to.macs[6..]);
        head[14..34]
            .copy_from_slice(&[0x45, 0, 0, 28, 7, 7, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9]);
        head[34..36].copy_from_slice(&from.port.to_be_bytes());
        head[36..38].copy_from_slice(&from.own_port.to_be_bytes());
        head[39] = UDP_LEN as u8;
        head[40..].copy_from_slice(&check.to_be_bytes());
        head
    }

    /// The sum of what the checksum of such a datagram is over, itself included.
    fn sum_of(head: &[u8; V4_LEN]) -> u16 {
        let pseudo_header = checksum::pseudo_header(&head[26..34], protocol::UDP, UDP_LEN as u32);
        checksum::fold(pseudo_header + u32::from(checksum::fold(checksum::sum(&head[34..]))))
    }

    #[test]
    fn a_udp_checksum_that_was_right_is_right_and_none_stays_none() {
        let relay = pair(0);
        let (from, to) = relay.from_and_to(true);
        let none = head(&relay, 0);
        let mut whole = head(&relay, !sum_of(&none));
        assert_eq!(sum_of(&whole), 0xffff);
        assert!(rewrite_v4(&mut whole, from, to));
        update_checksum(&mut whole, from);
        assert_eq!(sum_of(&whole), 0xffff);
        let mut none = none;
        update_checksum(&mut none, from);
        assert_eq!(none[40..], [0, 0]);
    }

    #[test]
    fn xdp_sends_what_is_whole_and_for_this_host_and_stays_on_its_interface() {
        let mut ways = [way("192.0.2.1:4000", "192.0.2.9", 1), way("198.51.100.7:60001", "198.51.100.9", 1)];
        for (way_out, expected) in [None, Some(Exit::Transmit), Some(Exit::Redirect)].map(|exit| (exit, exit))
        {
            ways[1].exit = way_out;
            let relay = Relay::new([&ways[0], &ways[1]], 1, 0).unwrap();
            let (from, to) = relay.from_and_to(true);
            let whole = head(&relay, !sum_of(&head(&relay, 0)));
            assert_eq!(exit(&whole, 1, from, to), expected);
            assert_eq!(exit(&head(&relay, 0), 1, from, to), expected);
            assert_eq!(exit(&whole, 2, from, to), None);
            let mut foreign = whole;
            foreign[5] ^= 1;
            assert_eq!(exit(&foreign, 1, from, to), None);
            let unfinished = checksum::pseudo_header(&whole[26..34], protocol::UDP, UDP_LEN as u32);
            assert_eq!(exit(&head(&relay, checksum::fold(unfinished)), 1, from, to), None);
        }
    }

    #[test]
    fn what_is_more_than_the_limit_waits_for_the_next_window() {
        let mut relay = pair(1000);
        assert!(relay.admits(900, 5) && !relay.admits(101, 6) && !relay.admits(1, 7));
        assert!(relay.admits(1000, WINDOW_NS));
        assert!((0..100).all(|_| pair(0).admits(u32::MAX, 5)));
    }
}
