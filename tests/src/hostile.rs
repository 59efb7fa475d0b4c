//! Random tables and random packets: frames that a peer could have sent, changed in the ways that a
//! hostile sender or a broken wire would change them, so that every check is reached from both
//! sides. Everything follows from the [`Random`] that is given.

use std::net::IpAddr;

use ipop_common::maps::{Link, LinkRef};

use crate::packet::{self, ClearFrame, UDP};
use crate::random::Random;
use crate::world::{LEASE_FOREVER, LEASE_OVER, Peer, Prefix, World};

/// Longest frame that is made: a test run takes what fits into one page.
pub const FRAME_MAX: usize = 2000;

/// Tables of a node and who is in them.
#[derive(Clone, Debug)]
pub struct Neighbourhood {
    pub world: World,
    pub peers: Vec<Peer>,
    /// Inner addresses of the node itself.
    pub own: Vec<IpAddr>,
}

/// Few addresses, so that random choices meet.
fn underlay(random: &mut Random, v6: bool) -> IpAddr {
    let n = random.below(1..8);
    let text = if v6 { format!("2001:db8::{n}") } else { format!("192.0.2.{n}") };
    text.parse().expect("an address")
}

/// IPv4 addresses of 8.0/16 and IPv6 addresses with 86dd in the third group; see `egress`.
fn inner(random: &mut Random, v6: bool) -> IpAddr {
    let (subnet, host) = (random.below(0..4), random.below(0..8));
    let text = if v6 { format!("fd00:0:86dd:{subnet}::{host}") } else { format!("8.0.{subnet}.{host}") };
    text.parse().expect("an address")
}

/// A node with up to six peers in every state that a link can be in.
pub fn neighbourhood(random: &mut Random) -> Neighbourhood {
    let mut world = World::new(1, 1);
    if random.one_in(16) {
        world.config.enabled = 0;
    }
    if random.one_in(8) {
        world.config.port = *random.pick(&[0, 1, 4789, 15000, 65535]);
    }
    let mut peers = Vec::new();
    for index in 0..random.below(1..7) {
        let peer = peer(random, index as u32);
        add(random, &mut world, &peer);
        peers.push(peer);
    }
    let own = vec![inner(random, false), inner(random, true)];
    own.iter().for_each(|address| world.add_local(*address));
    Neighbourhood { world, peers, own }
}

fn peer(random: &mut Random, index: u32) -> Peer {
    let v6 = random.one_in(2);
    Peer {
        // Either slot of the pair.
        slot: index * 2 + random.below(0..2) as u32,
        epoch: random.below(1..5) as u32,
        link_id: 0x0070_0000 | index,
        mtu: *random.pick(&[576, 1000, 1280, 1400, 1464, 1900, 8964]),
        ifindex: 1,
        local: underlay(random, v6),
        remote: underlay(random, v6),
        local_mac: [0; 6],
        remote_mac: [2, 0, 0, 0, 0, index as u8],
        inner_v4: inner(random, false),
        inner_v6: inner(random, true),
    }
}

/// Puts a peer into the tables, now and then as a daemon would while something changes.
fn add(random: &mut Random, world: &mut World, peer: &Peer) {
    world.add_peer(peer);
    match random.below(0..16) {
        0 => world.change(peer, |link| link.epoch += 1),
        1 => world.change(peer, |link| link.epoch = 0),
        2 => world.change(peer, |link| link.lease_until_ns = LEASE_OVER),
        3 => world.change(peer, |link| link.flags |= Link::RECEIVE_ONLY),
        4 => drop(world.link_ids.insert(peer.link_id, LinkRef { slot: u32::MAX, epoch: 1 })),
        5 => {
            // Its link has moved to the other slot; the addresses have not followed yet.
            let moved = Peer { slot: peer.slot ^ 1, ..peer.clone() };
            world.links.insert(moved.slot, moved.link());
            world.link_ids.insert(peer.link_id, moved.reference());
        }
        _ => world.change(peer, |link| link.lease_until_ns = LEASE_FOREVER),
    }
    for v6 in [false, true] {
        if random.one_in(2) {
            let shortest = if v6 { 33 } else { 8 };
            let len = random.below(shortest..if v6 { 128 } else { 32 }) as u8;
            world.prefixes.push(prefix(inner(random, v6), len, peer.reference()));
        }
    }
}

/// A prefix with nothing behind its length.
fn prefix(address: IpAddr, len: u8, to: LinkRef) -> Prefix {
    let address = match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & (u32::MAX << (32 - u32::from(len)))).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << (128 - u32::from(len)))).into()),
    };
    Prefix { address, len, to }
}

impl Neighbourhood {
    /// An Ethernet frame as it may come from the underlay. It is as long as a test run needs it to
    /// be, at least an IP header if it says that it has one.
    pub fn frame(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = match random.below(0..16) {
            0 => noise(random),
            1 => self.noise_to_our_port(random),
            _ => self.almost_good(random),
        };
        bytes.truncate(FRAME_MAX);
        let least = match bytes.get(12..14) {
            Some([0x08, 0x00]) => 14 + 20,
            Some([0x86, 0xdd]) => 14 + 40,
            _ => 14,
        };
        while bytes.len() < least {
            bytes.push(random.byte());
        }
        bytes
    }

    /// An IP packet as the host may send it, whose first 14 bytes pass for an Ethernet header.
    pub fn outgoing(&self, random: &mut Random) -> (bool, Vec<u8>) {
        let v6 = random.one_in(2);
        let to = self.someone(random, v6);
        let from = inner(random, v6);
        let mut bytes = self.inner_packet(random, from, to);
        if random.one_in(3) {
            mutate_headers(random, &mut bytes, 0);
        }
        let marker: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
        bytes.resize(bytes.len().clamp(if v6 { 54 } else { 34 }, FRAME_MAX), 0);
        bytes[12..14].copy_from_slice(&marker);
        (!v6, bytes)
    }

    /// A frame with each part from some peer, mostly the same one; then a few changes.
    fn almost_good(&self, random: &mut Random) -> Vec<u8> {
        let peer = random.pick(&self.peers).clone();
        let v6 = random.one_in(2);
        let from = if random.one_in(6) { self.someone(random, v6) } else { peer.inner(if_v6(v6)) };
        let to = if random.one_in(4) { self.someone(random, v6) } else { self.own[usize::from(v6)] };
        let mut frame = peer.frame(self.inner_packet(random, from, to));
        frame.port = self.world.config.port;
        self.exchange_parts(random, &mut frame);
        let gpe_at = frame.gpe_at();
        let mut bytes = frame.to_bytes();
        for _ in 0..random.below(0..3) {
            mutate_headers(random, &mut bytes, gpe_at);
        }
        if random.one_in(4) {
            fix_lengths(&mut bytes);
        }
        bytes
    }

    /// Parts of other peers, or of nobody.
    fn exchange_parts(&self, random: &mut Random, frame: &mut ClearFrame) {
        let other = random.pick(&self.peers).clone();
        let v6 = frame.source.is_ipv6();
        match random.below(0..20) {
            0 => frame.link_id = other.link_id,
            1 => frame.link_id = random.next_u64() as u32 & 0x00ff_ffff,
            2 => frame.source = underlay(random, v6),
            3 => frame.destination = underlay(random, v6),
            4 => frame.port = random.next_u64() as u16,
            5 => frame.destination_mac = [2, 0, 0, 0, 0, 9],
            6 if other.remote.is_ipv6() == v6 => {
                (frame.source, frame.destination) = (other.remote, other.local);
            }
            7 => {
                // A frame within the frame.
                let nested = other.frame(std::mem::take(&mut frame.inner)).to_bytes();
                frame.inner = nested[14..].to_vec();
            }
            8 if v6 => {
                let spell = |n: usize| format!("::ffff:192.0.2.{n}").parse().expect("an address");
                (frame.source, frame.destination) = (spell(random.below(1..8)), spell(random.below(1..8)));
            }
            _ => {}
        }
    }

    fn inner_packet(&self, random: &mut Random, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let len = match random.below(0..4) {
            0 => random.below(0..16),
            1 => random.below(1200..1500),
            _ => random.below(16..200),
        };
        let payload = random.bytes(len);
        match random.below(0..4) {
            0 => packet::tcp(from, to, (1, 2), &payload),
            1 => packet::ip(from, to, random.byte(), &payload),
            _ => packet::udp(from, to, (1, 2), &payload),
        }
    }

    /// An inner address of a peer, of the node, or of nobody.
    fn someone(&self, random: &mut Random, v6: bool) -> IpAddr {
        match random.below(0..8) {
            0 => self.own[usize::from(v6)],
            1 => inner(random, v6),
            2 if v6 => format!("::ffff:8.0.0.{}", random.below(0..8)).parse().expect("an address"),
            2 => format!("10.0.0.{}", random.below(0..8)).parse().expect("an address"),
            _ => random.pick(&self.peers).inner(if_v6(v6)),
        }
    }

    /// Random bytes behind headers that bring them to the port.
    fn noise_to_our_port(&self, random: &mut Random) -> Vec<u8> {
        let len = random.below(0..100);
        let mut datagram = random.bytes(8 + len);
        datagram[2..4].copy_from_slice(&self.world.config.port.to_be_bytes());
        if random.one_in(2) {
            datagram[4..6].copy_from_slice(&(8 + len as u16).to_be_bytes());
            datagram[6..8].fill(0);
        }
        if random.one_in(2) && len >= 8 {
            datagram[8..16].copy_from_slice(&[0x0c, 0, 0, 1 + random.byte() % 2, 0x70, 0, 0, 0]);
        }
        let v6 = random.one_in(2);
        let (from, to) = (underlay(random, v6), underlay(random, v6));
        packet::ethernet([0; 6], [2; 6], packet::ethertype(from), &packet::ip(from, to, UDP, &datagram))
    }
}

fn if_v6(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED) }
}

fn noise(random: &mut Random) -> Vec<u8> {
    let len = random.below(14..200);
    let mut bytes = random.bytes(len);
    if random.one_in(2) {
        bytes[..6].fill(0);
    }
    let ethertypes: [[u8; 2]; 6] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0x88, 0x47]];
    let ethertype: &[u8; 2] = random.pick(&ethertypes);
    bytes[12..14].copy_from_slice(ethertype);
    bytes
}

/// One change within the headers. `gpe_at`: where the clear header starts, 0 if there is none.
fn mutate_headers(random: &mut Random, bytes: &mut Vec<u8>, gpe_at: usize) {
    const INTERESTING: [u8; 10] = [0, 1, 2, 4, 6, 0x0c, 0x45, 0x60, 0x7f, 0xff];
    let headers = bytes.len().min(gpe_at + 70);
    let at = random.below(0..headers);
    match random.below(0..10) {
        0..=2 => bytes[at] ^= 1 << random.below(0..8),
        3 => bytes[at] = *random.pick(&INTERESTING),
        4 => bytes[at] = random.byte(),
        5 => {
            let value = (*random.pick(&INTERESTING), *random.pick(&INTERESTING));
            for (to, from) in bytes[at..].iter_mut().zip([value.0, value.1]) {
                *to = from;
            }
        }
        6 => bytes.truncate(random.below(headers.min(14)..headers + 1)),
        7 => bytes.extend_from_slice(&random.bytes(4)),
        8 => drop(bytes.drain(at..(at + random.below(1..5)).min(headers))),
        _ if gpe_at == 0 => bytes[at] = bytes[at].wrapping_add(1),
        // A change of the clear header, of the inner header, of options in the outer one.
        _ => match random.below(0..3) {
            0 => change(bytes, gpe_at + random.below(0..8), random.byte()),
            1 => change(bytes, gpe_at + 8 + random.below(0..40), random.byte()),
            _ => insert_options(random, bytes),
        },
    }
}

fn change(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

fn insert_options(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.len() < 34 || bytes[14] != 0x45 {
        return;
    }
    let words = random.below(1..11);
    bytes[14] = 0x45 + words as u8;
    bytes.splice(34..34, std::iter::repeat_n(1, words * 4));
}

/// Makes the outer lengths say what is there, so that what is wrong further in is reached.
fn fix_lengths(bytes: &mut [u8]) {
    let (ip_len, field) = match bytes.get(12..14) {
        Some([8, 0]) => (20, 16),
        Some([0x86, 0xdd]) => (40, 18),
        _ => return,
    };
    let Some(udp_len) = bytes.len().checked_sub(14 + ip_len + 8).map(|payload| payload as u16 + 8) else {
        return;
    };
    let outer_len = if ip_len == 20 { udp_len + 20 } else { udp_len };
    bytes[field..field + 2].copy_from_slice(&outer_len.to_be_bytes());
    bytes[14 + ip_len + 4..14 + ip_len + 6].copy_from_slice(&udp_len.to_be_bytes());
}
