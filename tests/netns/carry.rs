//! Each path carries ping, TCP and UDP of both families over wires of both families, and the
//! counters say that it was this path and no other.

use std::net::UdpSocket;

use crate::lab::packet::{Frame, PAYLOAD, Tap};
use crate::lab::tcp::MIB;
use crate::lab::{Lab, Outer, Packets, SOON, Wire, run};

/// Ping, TCP and UDP, IPv4 and IPv6; what the two hosts have counted of it.
#[track_caller]
pub(crate) fn traffic(lab: &Lab) -> Packets {
    // The first packets to a peer may find no neighbour entry yet, and go by the daemon.
    lab.near.ping(lab.far.inner(false), &[]);
    lab.near.ping(lab.far.inner(true), &[]);
    let before = lab.packets();
    lab.carry(32 * MIB);
    lab.packets() - before
}

#[track_caller]
fn carried_by_the_kernel(lab: &Lab) {
    let packets = traffic(lab);
    assert!(packets.kernel > 1000, "{packets:?}");
    assert_eq!(packets.user, 0, "{packets:?}");
}

#[track_caller]
fn carried_by_the_daemons(lab: &Lab) {
    let packets = traffic(lab);
    assert!(packets.user > 1000, "{packets:?}");
    assert_eq!(packets.kernel, 0, "{packets:?}");
}

#[test]
fn the_kernel_path_carries_everything_over_an_ipv4_wire() {
    run(|| carried_by_the_kernel(&Lab::plain().up("direct-kernel")));
}

#[test]
fn the_kernel_path_carries_everything_over_an_ipv6_wire() {
    run(|| carried_by_the_kernel(&Lab::new(Wire::Offload, 1500, Outer::V6).up("direct-kernel")));
}

#[test]
fn the_kernel_path_carries_everything_over_a_nic() {
    run(|| carried_by_the_kernel(&Lab::new(Wire::Nic, 1500, Outer::V4).up("direct-kernel")));
}

#[test]
fn the_kernel_path_carries_everything_over_a_nic_by_ipv6() {
    run(|| carried_by_the_kernel(&Lab::new(Wire::Nic, 1500, Outer::V6).up("direct-kernel")));
}

#[test]
fn native_xdp_carries_everything() {
    run(|| {
        let lab = Lab::plain().datapath("xdp", "native").up("direct-kernel");
        assert_eq!(lab.near.ask("/v1/status")["datapath"]["xdp"], "native");
        let before = lab.far.counter("rx_xdp_decapsulated");
        carried_by_the_kernel(&lab);
        lab.far.wait_for_counter("rx_xdp_decapsulated", before, 1000);
    });
}

#[test]
fn native_xdp_carries_everything_over_an_ipv6_wire() {
    run(|| {
        let lab = Lab::new(Wire::Nic, 1500, Outer::V6).datapath("xdp", "native").up("direct-kernel");
        let before = lab.far.counter("rx_xdp_decapsulated");
        carried_by_the_kernel(&lab);
        lab.far.wait_for_counter("rx_xdp_decapsulated", before, 1000);
    });
}

#[test]
fn generic_xdp_carries_everything() {
    run(|| {
        let lab = Lab::plain().datapath("xdp", "generic").up("direct-kernel");
        assert_eq!(lab.near.ask("/v1/status")["datapath"]["xdp"], "generic");
        carried_by_the_kernel(&lab);
        // Generic XDP leaves alone what another program has redirected, as all of that was on veth.
        let before = lab.far.counter("rx_xdp_decapsulated");
        let socket = lab.far.ns.inside(|| UdpSocket::bind((lab.far.inner_v4, 0))).expect("a UDP socket");
        let port = socket.local_addr().expect("its address").port();
        let tap = Tap::open(&lab.near, lab.near.device);
        tap.send(&Frame::good(&lab.near, &lab.far, port).bytes());
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        assert_eq!(socket.recv(&mut [0; 100]).expect("the datagram arrives"), PAYLOAD.len());
        lab.far.wait_for_counter("rx_xdp_decapsulated", before, 1);
    });
}

#[test]
fn the_user_path_carries_everything_by_io_uring() {
    run(|| {
        let lab = Lab::plain().datapath("kernel", "off").datapath("io", "io_uring").up("direct-user");
        assert_eq!(lab.near.ask("/v1/status")["datapath"]["io"], "io_uring");
        carried_by_the_daemons(&lab);
    });
}

#[test]
fn the_user_path_carries_everything_by_epoll() {
    run(|| {
        let lab = Lab::plain().datapath("kernel", "off").datapath("io", "epoll").up("direct-user");
        assert_eq!(lab.near.ask("/v1/status")["datapath"]["io"], "epoll");
        carried_by_the_daemons(&lab);
    });
}

#[test]
fn the_user_path_carries_everything_over_an_ipv6_wire() {
    run(|| {
        let lab = Lab::new(Wire::Nic, 1500, Outer::V6).datapath("kernel", "off").up("direct-user");
        carried_by_the_daemons(&lab);
    });
}

#[test]
fn a_kernel_path_on_one_side_only_means_the_user_path() {
    run(|| {
        let mut lab = Lab::plain();
        lab.far.config.datapath.insert("kernel", "off".to_owned());
        carried_by_the_daemons(&lab.up("direct-user"));
    });
}
