//! The node that is measured: one peer over IPv4 and one over IPv6, and a packet for every way that
//! the programs can take.

use std::borrow::Cow;
use std::net::IpAddr;

use ipop_common::maps::Relay;
use ipop_common::relay::{self, Exit, Way};

use crate::packet;
use crate::sealed::{SealedFrame, Session, padded};
use crate::world::{Peer, World};

/// Lengths of inner IP packets: the smallest that a bench of packet rates uses, and a full one.
pub const LENGTHS: [usize; 2] = [64, 1400];

/// The address of the loopback device, on which test runs take place.
const NODE_MAC: [u8; 6] = [0; 6];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Not the kernel path's port.
const OTHER_PORT: u16 = 4789;

/// The family of a link's outer headers, and of the packets that are sent over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    V4,
    V6,
}

impl Outer {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    fn address(self, v4: &str, v6: &str) -> IpAddr {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
        .parse()
        .expect("an address")
    }

    /// The node's own inner address. See [`outgoing`] for why it is of 8.0/16.
    fn own(self) -> IpAddr {
        self.address("8.0.0.1", "fd00:0:86dd:1::1")
    }

    /// An inner address that no table knows.
    fn nobody(self) -> IpAddr {
        self.address("8.0.9.9", "fd00:0:86dd:9::9")
    }

    /// The peer that is reached over this family.
    pub fn peer(self) -> Peer {
        let n = if self == Self::V4 { 1 } else { 2 };
        Peer {
            slot: 2 * n,
            epoch: 100 + n,
            link_id: 0x00ab_cd00 | n,
            mtu: if self == Self::V4 { 1464 } else { 1444 },
            ifindex: 1,
            local: self.address("192.0.2.1", "2001:db8::1"),
            remote: self.address("192.0.2.2", "2001:db8::2"),
            local_mac: NODE_MAC,
            remote_mac: PEER_MAC,
            inner_v4: format!("8.0.1.{n}").parse().expect("an address"),
            inner_v6: format!("fd00:0:86dd::{n}").parse().expect("an address"),
        }
    }
}

/// The node's tables.
pub fn world() -> World {
    let mut world = World::new(1, 1);
    for outer in Outer::BOTH {
        world.add_peer(&outer.peer());
        world.add_local(outer.own());
    }
    world
}

/// The session with the peer of a family, where links are sealed.
pub fn session(outer: Outer) -> Session {
    Session::new(if outer == Outer::V4 { 1 } else { 2 }, &outer.peer())
}

/// The node's tables, where links are sealed.
pub fn sealed_world() -> World {
    let mut world = world();
    for outer in Outer::BOTH {
        world.add_sealed(&outer.peer(), &session(outer));
    }
    world
}

/// Where the relay is on the way to each peer, and the label of its frames.
const RELAY_PORT: u16 = 40_001;
const LABEL: u32 = 7;

/// The node's tables, where a relay passes on what goes to the peers.
pub fn relayed_world() -> World {
    let mut world = world();
    for outer in Outer::BOTH {
        world.add_relayed(&outer.peer(), &session(outer), RELAY_PORT, LABEL);
    }
    world
}

/// Of the other one of two between which the node relays.
const OTHER_END: [&str; 2] = ["192.0.2.99", "2001:db8::99"];

/// The label of a pair of this family.
fn pair_label(outer: Outer) -> u32 {
    LABEL + if outer == Outer::V4 { 1 } else { 2 }
}

/// The node's tables, where it relays between the peer of each family and another, by an interface whose driver
/// sends what XDP says.
pub fn relaying_world() -> World {
    let mut world = world();
    for outer in Outer::BOTH {
        let peer = outer.peer();
        let [v4, v6] = OTHER_END;
        let other = Peer { remote: outer.address(v4, v6), ..peer.clone() };
        let ways = [peer, other].map(|end| Way { exit: Some(Exit::Transmit), ..end.way(RELAY_PORT) });
        let pair = Relay::new([&ways[0], &ways[1]], u64::MAX, 0).expect("one family");
        world.relays.insert(pair_label(outer), pair);
    }
    world
}

/// A relay frame from the peer to the other end, with an inner packet of `len` bytes.
pub fn between(outer: Outer, len: usize, has_checksum: bool) -> Vec<u8> {
    let mut frame = incoming_sealed(outer, len, 0);
    frame.source_port = RELAY_PORT;
    frame.has_checksum = has_checksum;
    frame.message.splice(..0, relay::header(pair_label(outer)));
    frame.to_bytes()
}

/// What a program is run on.
#[derive(Debug)]
pub enum Packets {
    /// The same packet again and again.
    Same(Vec<u8>),
    /// Sealed frames from a peer, with inner packets of `len` bytes, each with a counter of its own:
    /// one that comes again is refused before it is opened.
    Sealed { outer: Outer, len: usize, counter: u64 },
    /// The same in relay frames.
    Relayed { outer: Outer, len: usize, counter: u64 },
}

impl Packets {
    pub fn another(&mut self) -> Cow<'_, [u8]> {
        match self {
            Self::Same(packet) => Cow::Borrowed(packet),
            Self::Sealed { outer, len, counter } => {
                *counter += 1;
                Cow::Owned(incoming_sealed(*outer, *len, *counter).to_bytes())
            }
            Self::Relayed { outer, len, counter } => {
                *counter += 1;
                let mut frame = incoming_sealed(*outer, *len, *counter);
                frame.source_port = RELAY_PORT;
                frame.message.splice(..0, relay::header(LABEL));
                Cow::Owned(frame.to_bytes())
            }
        }
    }
}

/// A sealed frame from the peer, its `counter`th, with an inner packet of `len` bytes.
fn incoming_sealed(outer: Outer, len: usize, counter: u64) -> SealedFrame {
    let peer = outer.peer();
    let inner = udp(peer.inner(outer.own()), outer.own(), len);
    session(outer).frame(&peer, counter, &padded(&inner))
}

/// A UDP packet of `len` bytes with its headers.
fn udp(from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    let headers = if from.is_ipv4() { 28 } else { 48 };
    packet::udp(from, to, (5000, 6000), &vec![0x5a; len - headers])
}

/// A packet that the host sends to the peer, or to nobody whom the tables know.
///
/// A test run takes the first 14 bytes of any packet for an Ethernet header, so addresses are chosen
/// that put the right type into bytes 12 and 13 of the IP header.
pub fn outgoing(outer: Outer, len: usize, hit: bool) -> Vec<u8> {
    let peer = outer.peer();
    let to = if hit { peer.inner(outer.own()) } else { outer.nobody() };
    udp(outer.own(), to, len)
}

/// A frame from the peer with an inner packet of `len` bytes; or one like it that is not ours.
pub fn incoming(outer: Outer, len: usize, hit: bool) -> Vec<u8> {
    let peer = outer.peer();
    let mut frame = peer.frame(udp(peer.inner(outer.own()), outer.own(), len));
    if !hit {
        frame.port = OTHER_PORT;
    }
    frame.to_bytes()
}

/// A packet as the daemon writes it to the helper device, behind the Ethernet header that a test run
/// wants.
pub fn written(outer: Outer, len: usize) -> Vec<u8> {
    let peer = outer.peer();
    udp(peer.inner(outer.own()), outer.own(), len)
}

/// A frame of another protocol of the same host.
pub fn unrelated(outer: Outer, len: usize) -> Vec<u8> {
    let peer = outer.peer();
    let segment = vec![0x5a; len];
    let packet = packet::ip(peer.remote, peer.local, packet::TCP, &segment);
    packet::ethernet(NODE_MAC, PEER_MAC, packet::ethertype(peer.remote), &packet)
}
