//! One node, its peers and their state, as all tests of this suite see it; and a run with its
//! expectation.

use std::net::IpAddr;

use ipop_common::Counter;
use ipop_common::maps::Link;
use ipop_tests::namespace;
use ipop_tests::packet::{self, ClearFrame, Mac, hexdump};
use ipop_tests::programs::{Action, Counters, Input, Program, Programs, can_change_families};
use ipop_tests::world::{LEASE_OVER, Peer, Prefix, World};

/// The address of the loopback device, on which test runs take place.
pub(crate) const NODE_MAC: Mac = [0; 6];
pub(crate) const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];

/// Devices that the configuration names. Nothing arrives there in a test run.
pub(crate) const DEVICE: u32 = 1;
pub(crate) const HELPER: u32 = 1;

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The node's own inner addresses.
pub(crate) fn own_v4() -> IpAddr {
    address("10.64.0.1")
}

pub(crate) fn own_v6() -> IpAddr {
    address("fd00:64::1")
}

/// A peer over IPv4, number `n`, with the two slots 2n and 2n + 1.
pub(crate) fn peer_v4(n: u8) -> Peer {
    Peer {
        slot: 2 * u32::from(n),
        epoch: 100 + u32::from(n),
        link_id: 0x00ab_cd00 | u32::from(n),
        mtu: 1464,
        ifindex: 1,
        local: address("192.0.2.1"),
        remote: address(&format!("192.0.2.{}", 10 + n)),
        local_mac: NODE_MAC,
        remote_mac: PEER_MAC,
        // 8.0/16: the second two bytes of such a packet are an Ethernet type; see `egress`.
        inner_v4: address(&format!("8.0.1.{n}")),
        inner_v6: address(&format!("fd00:0:86dd::{n:x}")),
    }
}

/// As [`peer_v4`], reached over IPv6.
pub(crate) fn peer_v6(n: u8) -> Peer {
    Peer {
        local: address("2001:db8::1"),
        remote: address(&format!("2001:db8::{:x}", 0x10 + n)),
        mtu: 1444,
        ..peer_v4(n)
    }
}

/// Peers in every state that a link can be in.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) v4: Peer,
    pub(crate) v6: Peer,
    /// Its link has changed: the tables still name the old epoch.
    pub(crate) stale: Peer,
    /// Its lease has run out.
    pub(crate) expired: Peer,
    /// Its own kernel path is off.
    pub(crate) receive_only: Peer,
    /// A whole subnet of each family belongs to it, beside its addresses.
    pub(crate) router: Peer,
}

pub(crate) fn peers() -> Peers {
    Peers {
        v4: peer_v4(1),
        v6: peer_v6(2),
        stale: peer_v4(3),
        expired: peer_v4(4),
        receive_only: peer_v4(5),
        router: peer_v4(6),
    }
}

pub(crate) fn world() -> (World, Peers) {
    let peers = peers();
    let mut world = World::new(DEVICE, HELPER);
    for peer in [&peers.v4, &peers.v6, &peers.stale, &peers.expired, &peers.receive_only, &peers.router] {
        world.add_peer(peer);
    }
    world.add_local(own_v4());
    world.add_local(own_v6());
    world.change(&peers.stale, |link| link.epoch += 1);
    world.change(&peers.expired, |link| link.lease_until_ns = LEASE_OVER);
    world.change(&peers.receive_only, |link| link.flags |= Link::RECEIVE_ONLY);
    let to = peers.router.reference();
    world.prefixes.push(Prefix { address: address("172.16.0.0"), len: 12, to });
    world.prefixes.push(Prefix { address: address("fd00:77::"), len: 32, to });
    // Of the router's subnet, this part belongs to another peer.
    let to = peers.v4.reference();
    world.prefixes.push(Prefix { address: address("172.16.5.0"), len: 24, to });
    (world, peers)
}

/// A packet from a peer to this node.
pub(crate) fn from_peer(peer: &Peer, v6: bool) -> Vec<u8> {
    let to = if v6 { own_v6() } else { own_v4() };
    packet::udp(peer.inner(to), to, (5000, 6000), b"forty-two bytes of payload for the peer to see")
}

/// A good frame of every combination of families: v4 in v4, v6 in v4, v4 in v6, v6 in v6.
pub(crate) fn good_frames(peers: &Peers) -> Vec<(u32, ClearFrame)> {
    let mut frames = Vec::new();
    for peer in [&peers.v4, &peers.v6] {
        for inner_is_v6 in [false, true] {
            frames.push((peer.slot, peer.frame(from_peer(peer, inner_is_v6))));
        }
    }
    frames
}

/// The programs with the scenario's tables, in a network namespace of the calling test.
pub(crate) fn loaded() -> (Programs, World, Peers) {
    namespace::enter_new();
    let (world, peers) = world();
    let mut programs = Programs::load();
    programs.install(&world);
    (programs, world, peers)
}

/// What a program made of a packet.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) action: Action,
    pub(crate) packet: Vec<u8>,
    pub(crate) metadata: Vec<u8>,
}

/// Runs `program` on `input` and checks its action and that exactly these counters went up by one.
#[track_caller]
pub(crate) fn expect(
    programs: &mut Programs,
    program: Program,
    input: Input<'_>,
    action: Action,
    counters: &[Counter],
) -> Outcome {
    let before = programs.counters();
    let output = programs.run(program, input);
    let output =
        Outcome { action: output.action, packet: output.packet.to_vec(), metadata: output.metadata.to_vec() };
    let moved = programs.counters().since(&before);
    let mut expected = Counters::zero();
    counters.iter().for_each(|counter| expected.add(*counter));
    assert!(
        output.action == action && moved == expected,
        "{}: {:?} and {moved:?}, expected {action:?} and {expected:?}, for a packet of {} bytes\n{}",
        program.name(),
        output.action,
        input.frame.len(),
        hexdump(input.frame)
    );
    output
}

/// TC ingress must refuse `frame` and count it there; XDP must leave it to TC, unchanged.
#[track_caller]
pub(crate) fn refused(programs: &mut Programs, frame: &[u8], counter: Counter) {
    expect(programs, Program::Ingress, Input::frame(frame), Action::Drop, &[counter]);
    let output = expect(programs, Program::Xdp, Input::frame(frame), Action::Pass, &[]);
    same_bytes(&output.packet, frame, "a frame that XDP leaves to TC");
}

/// Both programs must let `frame` pass as it is. XDP leaves the counting to TC.
#[track_caller]
pub(crate) fn untouched(programs: &mut Programs, frame: &[u8]) {
    let output = expect(programs, Program::Ingress, Input::frame(frame), Action::Pass, &[Counter::RxNotOurs]);
    same_bytes(&output.packet, frame, "a frame that is not ours, after TC");
    let output = expect(programs, Program::Xdp, Input::frame(frame), Action::Pass, &[]);
    same_bytes(&output.packet, frame, "a frame that is not ours, after XDP");
}

/// Both programs must take the outer headers off and deliver.
#[track_caller]
pub(crate) fn delivered(programs: &mut Programs, slot: u32, frame: &[u8], inner: &[u8]) {
    let before = programs.link_stats(slot);
    let by_tc = is_taken_apart_by_tc(frame, inner);
    if by_tc {
        let counter = [Counter::RxDecapsulated];
        let output = expect(programs, Program::Ingress, Input::frame(frame), Action::Redirect, &counter);
        same_bytes(&output.packet, &[&frame[..14], inner].concat(), "what TC delivers");
    } else {
        let counter = [Counter::RxToStack];
        let output = expect(programs, Program::Ingress, Input::frame(frame), Action::Pass, &counter);
        same_bytes(&output.packet, frame, "what TC leaves to the stack");
    }

    let counter = [Counter::RxXdpDecapsulated];
    let output = expect(programs, Program::Xdp, Input::frame(frame), Action::Pass, &counter);
    let ethertype: [u8; 2] = if inner[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    same_bytes(&output.packet, &[&frame[..12], &ethertype, inner].concat(), "what XDP delivers");
    assert_eq!(output.metadata.len(), 4, "XDP marks what it has decapsulated");

    let after = programs.link_stats(slot);
    let packets = 1 + u64::from(by_tc);
    assert_eq!(after.rx_packets - before.rx_packets, packets, "packets of the link, by TC and by XDP");
    assert_eq!(after.rx_bytes - before.rx_bytes, packets * inner_len(inner), "inner bytes of the link");
    assert_eq!((after.tx_packets, after.tx_bytes), (before.tx_packets, before.tx_bytes));
}

/// Whether TC delivers such a frame itself: always, but for a change of IP versions on old kernels.
pub(crate) fn is_taken_apart_by_tc(frame: &[u8], inner: &[u8]) -> bool {
    frame[14] >> 4 == inner[0] >> 4 || can_change_families()
}

/// The length that an IP packet's header says: there may be padding behind.
fn inner_len(packet: &[u8]) -> u64 {
    let number = |at: usize| u64::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 { number(2) } else { number(4) + 40 }
}

#[track_caller]
pub(crate) fn same_bytes(got: &[u8], expected: &[u8], what: &str) {
    let at = got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(got.len().min(expected.len()));
    assert!(
        got == expected,
        "{what} differs at byte {at}: got {} bytes\n{}expected {} bytes\n{}",
        got.len(),
        hexdump(got),
        expected.len(),
        hexdump(expected)
    );
}
