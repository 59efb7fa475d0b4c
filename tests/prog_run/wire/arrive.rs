//! From the wire into the node.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use ipop_common::Counter;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ClearFrame};
use ipop_tests::world::Peer;

use super::devices::{Tap, is_clear};
use super::lab::{Lab, OnWire, WIRE_MAC, ip};
use crate::scenario::{PEER_MAC, address, is_taken_apart_by_tc, own_v4, own_v6};

const PORT: u16 = 6000;

fn own(v6: bool) -> IpAddr {
    if v6 { own_v6() } else { own_v4() }
}

/// A datagram from a peer to the node's socket, in a frame.
fn to_socket(peer: &Peer, v6: bool, payload: &[u8]) -> ClearFrame {
    peer.frame(packet::udp(peer.inner(own(v6)), own(v6), (7, PORT), payload))
}

#[track_caller]
fn arrives(socket: &UdpSocket, from: IpAddr, payload: &[u8]) {
    let mut buffer = vec![0; 70_000];
    let (len, sender) = socket.recv_from(&mut buffer).expect("a datagram");
    assert_eq!((sender.ip(), &buffer[..len]), (from, payload));
}

/// Nothing is waiting in the socket. To be asked when everything sent has been counted.
#[track_caller]
fn is_empty(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a mode");
    let received = socket.recv_from(&mut [0; 2000]);
    assert_eq!(received.expect_err("nothing was delivered").kind(), ErrorKind::WouldBlock);
    socket.set_nonblocking(false).expect("a mode");
}

/// A frame of each combination of families reaches a socket of the node, counted as `counter`.
#[track_caller]
fn all_families_arrive(lab: &mut Lab, counter: Counter) {
    for v6 in [false, true] {
        let socket = lab.socket(own(v6), PORT);
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            for len in [0, 1, 18, 1000, 1400] {
                let payload = vec![0x5a; len];
                let frame = to_socket(&peer, v6, &payload);
                lab.wire.send(&frame.to_bytes());
                arrives(&socket, peer.inner(own(v6)), &payload);
                lab.counted_all(&way_of(&frame, counter));
            }
        }
    }
}

/// What a frame counts that is to be counted as `counter` where TC can take it apart.
fn way_of(frame: &ClearFrame, counter: Counter) -> Vec<Counter> {
    let by_tc = is_taken_apart_by_tc(&frame.to_bytes(), &frame.inner);
    if counter == Counter::RxDecapsulated && !by_tc {
        return vec![Counter::RxToStack, Counter::RxFromStack];
    }
    vec![counter]
}

#[test]
fn frames_of_all_families_reach_a_socket_through_tc() {
    needs_root!();
    needs_vxlan!();
    all_families_arrive(&mut Lab::new(OnWire::Tc), Counter::RxDecapsulated);
}

/// Where the driver has no metadata (TUN before Linux 6.15), XDP leaves the frames to TC.
#[test]
fn frames_of_all_families_reach_a_socket_through_xdp() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::XdpAndTc);
    let socket = lab.socket(own_v4(), PORT);
    lab.wire.send(&to_socket(&lab.v4, false, b"the first").to_bytes());
    arrives(&socket, lab.v4.inner_v4, b"the first");
    drop(socket);
    let has_metadata = lab.moved().of(Counter::RxXdpDecapsulated) == 1;
    let counter = if has_metadata { Counter::RxXdpDecapsulated } else { Counter::RxDecapsulated };
    all_families_arrive(&mut lab, counter);
}

#[test]
fn frames_of_all_families_reach_a_socket_through_the_vxlan_device() {
    needs_root!();
    needs_vxlan!();
    all_families_arrive(&mut Lab::new(OnWire::Nothing), Counter::RxFromStack);
}

#[test]
fn a_frame_cut_at_any_length_reaches_no_socket() {
    needs_root!();
    needs_vxlan!();
    for on_wire in [OnWire::Tc, OnWire::XdpAndTc] {
        let mut lab = Lab::new(on_wire);
        let sockets = [lab.socket(own_v4(), PORT), lab.socket(own_v6(), PORT)];
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            for v6 in [false, true] {
                let frame = to_socket(&peer, v6, b"a few bytes of payload");
                let bytes = frame.to_bytes();
                for len in 14..bytes.len() {
                    lab.wire.send(&bytes[..len]);
                    let shows_its_port = len >= frame.udp_at() + 4;
                    lab.counted(if shows_its_port { Counter::RxTruncated } else { Counter::RxNotOurs });
                }
            }
        }
        sockets.iter().for_each(is_empty);
    }
}

#[test]
fn hostile_frames_reach_no_socket_on_any_way_in() {
    needs_root!();
    needs_vxlan!();
    for on_wire in [OnWire::Tc, OnWire::XdpAndTc, OnWire::Nothing] {
        let mut lab = Lab::new(on_wire);
        let sockets = [lab.socket(own_v4(), PORT), lab.socket(own_v6(), PORT)];
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            for v6 in [false, true] {
                let good = to_socket(&peer, v6, b"x");
                let stranger = address(if v6 { "fd00:0:86dd::99" } else { "8.0.1.99" });
                let elsewhere = address(if peer.remote.is_ipv4() { "192.0.2.99" } else { "2001:db8::99" });
                let spoofed = packet::udp(stranger, own(v6), (7, PORT), b"x");
                let cases = [
                    (ClearFrame { link_id: 77, ..good.clone() }, Counter::RxUnknownLink),
                    (ClearFrame { source: elsewhere, ..good.clone() }, Counter::RxWrongOuterSource),
                    (ClearFrame { inner: spoofed, ..good.clone() }, Counter::RxWrongInnerSource),
                ];
                for (frame, counter) in cases {
                    lab.wire.send(&frame.to_bytes());
                    lab.counted(counter);
                }
            }
        }
        sockets.iter().for_each(is_empty);
    }
}

/// A frame whose Ethernet next protocol the VXLAN device understands and we do not.
#[test]
fn an_ethernet_frame_inside_is_refused_behind_the_vxlan_device() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Nothing);
    let peer = lab.v4.clone();
    let inner = packet::udp(peer.inner_v4, own_v4(), (7, PORT), b"x");
    let ethernet = packet::ethernet(WIRE_MAC, PEER_MAC, 0x0800, &inner);
    let frame = peer.frame(ethernet);
    let mut bytes = frame.to_bytes();
    bytes[frame.gpe_at() + 3] = 3;
    lab.wire.send(&bytes);
    lab.counted(Counter::RxBadInner);
}

#[test]
fn a_link_whose_lease_is_over_receives_nothing_behind_the_vxlan_device() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Nothing);
    let peer = lab.v4.clone();
    lab.world.change(&peer, |link| link.lease_until_ns = 1);
    lab.programs.install(&lab.world);
    lab.wire.send(&to_socket(&peer, false, b"x").to_bytes());
    lab.counted(Counter::RxLeaseExpired);
    lab.world.change(&peer, |link| link.epoch += 1);
    lab.programs.install(&lab.world);
    lab.wire.send(&to_socket(&peer, false, b"x").to_bytes());
    lab.counted(Counter::RxStaleEpoch);
}

/// The stack takes a tag out of the frame before TC sees it.
#[test]
fn a_tagged_frame_is_not_ours() {
    needs_root!();
    needs_vxlan!();
    for tag in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0, 5], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]] {
        for on_wire in [OnWire::Tc, OnWire::XdpAndTc] {
            let mut lab = Lab::new(on_wire);
            let socket = lab.socket(own_v4(), PORT);
            let good = to_socket(&lab.v4.clone(), false, b"x").to_bytes();
            lab.wire.send(&[&good[..12], tag, &good[12..]].concat());
            lab.counted(Counter::RxNotOurs);
            is_empty(&socket);
        }
    }
}

/// A long frame of which a driver has put only the first bytes in one piece.
#[test]
fn headers_outside_of_the_linear_part_are_read() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let payload = vec![0x5a; 6000];
    for v6 in [false, true] {
        let socket = lab.socket(own(v6), PORT);
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let frame = to_socket(&peer, v6, &payload);
            for linear in (14..130).step_by(3) {
                lab.wire.send_split(&frame.to_bytes(), linear);
                arrives(&socket, peer.inner(own(v6)), &payload);
                lab.counted_all(&way_of(&frame, Counter::RxDecapsulated));
                let bad = ClearFrame { link_id: 77, ..frame.clone() };
                lab.wire.send_split(&bad.to_bytes(), linear);
                lab.counted(Counter::RxUnknownLink);
            }
        }
    }
}

#[test]
fn what_the_daemon_writes_reaches_a_socket() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    for v6 in [false, true] {
        let socket = lab.socket(own(v6), PORT);
        let from = lab.v4.inner(own(v6));
        lab.helper.send(&packet::udp(from, own(v6), (7, PORT), b"by the user path"));
        arrives(&socket, from, b"by the user path");
    }
    assert_eq!(lab.moved().of(Counter::RxFromStack), 0);
}

/// Frames to our port that this host forwards are none of its business, whatever they look like.
#[test]
fn a_router_passes_other_nodes_frames_on() {
    needs_root!();
    needs_vxlan!();
    for on_wire in [OnWire::Tc, OnWire::XdpAndTc] {
        let mut lab = Lab::new(on_wire);
        let mut far = Tap::open("wire1", libc::IFF_TAP);
        ip("link set wire1 up");
        ip("address add 198.51.100.1/24 dev wire1");
        ip("address add 2001:db8:1::1/64 dev wire1 nodad");
        ip("neighbour add 198.51.100.7 lladdr 02:00:00:00:00:07 dev wire1");
        ip("neighbour add 2001:db8:1::7 lladdr 02:00:00:00:00:07 dev wire1");
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let destination = address(if peer.local.is_ipv4() { "198.51.100.7" } else { "2001:db8:1::7" });
            let good = to_socket(&peer, false, b"x");
            let frames = [
                ClearFrame { link_id: 77, destination, ..good.clone() },
                // A link id that is known here, too.
                ClearFrame { destination, ..good },
            ];
            for frame in frames {
                set_forwarding(false);
                lab.wire.send(&frame.to_bytes());
                let moved = lab.moved();
                assert_eq!(moved.of(Counter::RxNotOurs), 0, "not forwarded, so refused: {moved:?}");
                set_forwarding(true);
                lab.wire.send(&frame.to_bytes());
                let forwarded = far.receive(is_clear);
                let at = frame.udp_at();
                assert_eq!(forwarded[at..], frame.to_bytes()[at..], "forwarded unchanged");
                lab.counted(Counter::RxNotOurs);
            }
        }
    }
}

fn set_forwarding(on: bool) {
    for family in ["ipv4", "ipv6"] {
        let file = format!("/proc/sys/net/{family}/conf/all/forwarding");
        std::fs::write(file, if on { "1" } else { "0" }).expect("forwarding switched");
    }
}
