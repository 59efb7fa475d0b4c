//! What arrives is what was sent, byte for byte: 1 GiB by each path over each wire, and UDP
//! super-packets to sockets of both kinds.

use crate::lab::tcp::{GIB, MIB, Tcp};
use crate::lab::udp::super_packets;
use ipop_tests::privilege::is_full;

use crate::lab::{Lab, Outer, Wire, run};

/// One of the ways through a node.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tc,
    Xdp,
    IoUring,
    Epoll,
}

impl Way {
    fn up(self, wire: Wire, outer: Outer) -> Lab {
        let lab = Lab::new(wire, 1500, outer);
        match self {
            Way::Tc => lab.datapath("kernel", "on").datapath("xdp", "off").up("direct-kernel"),
            Way::Xdp => lab.datapath("kernel", "on").datapath("xdp", "native").up("direct-kernel"),
            Way::IoUring => lab.datapath("kernel", "off").datapath("io", "io_uring").up("direct-user"),
            Way::Epoll => lab.datapath("kernel", "off").datapath("io", "epoll").up("direct-user"),
        }
    }
}

/// 1 GiB by IPv4, and less by IPv6 and over an IPv6 wire, unless everything is wanted.
#[track_caller]
fn a_file_arrives(way: Way, wire: Wire) {
    for (outer, v6, bytes) in [
        (Outer::V4, false, GIB),
        (Outer::V4, true, 64 * MIB),
        (Outer::V6, false, 64 * MIB),
        (Outer::V6, true, 64 * MIB),
    ] {
        let lab = way.up(wire, outer);
        let bytes = if is_full() { GIB } else { bytes };
        let done = Tcp::transfer(&lab.near, &lab.far, lab.far.inner(v6), bytes);
        let inner = if v6 { "IPv6" } else { "IPv4" };
        println!("{way:?} {wire:?} {inner} in {outer:?}: {} MiB, {:.2} Gbit/s", bytes / MIB, done.gbps);
        let packets = lab.packets();
        match way {
            Way::Tc | Way::Xdp => assert!(packets.kernel > packets.user * 100, "{packets:?}"),
            Way::IoUring | Way::Epoll => assert!(packets.kernel == 0 && packets.user > 1000, "{packets:?}"),
        }
    }
}

#[test]
fn a_file_arrives_by_tc_over_an_offloading_wire() {
    run(|| a_file_arrives(Way::Tc, Wire::Offload));
}

#[test]
fn a_file_arrives_by_tc_over_a_nic() {
    run(|| a_file_arrives(Way::Tc, Wire::Nic));
}

#[test]
fn a_file_arrives_by_xdp_over_an_offloading_wire() {
    run(|| a_file_arrives(Way::Xdp, Wire::Offload));
}

#[test]
fn a_file_arrives_by_xdp_over_a_nic() {
    run(|| a_file_arrives(Way::Xdp, Wire::Nic));
}

#[test]
fn a_file_arrives_by_io_uring_over_an_offloading_wire() {
    run(|| a_file_arrives(Way::IoUring, Wire::Offload));
}

#[test]
fn a_file_arrives_by_io_uring_over_a_nic() {
    run(|| a_file_arrives(Way::IoUring, Wire::Nic));
}

#[test]
fn a_file_arrives_by_epoll_over_an_offloading_wire() {
    run(|| a_file_arrives(Way::Epoll, Wire::Offload));
}

#[test]
fn a_file_arrives_by_epoll_over_a_nic() {
    run(|| a_file_arrives(Way::Epoll, Wire::Nic));
}

const DATAGRAMS: u64 = 20_000;

#[track_caller]
fn all_datagrams_arrive(way: Way) {
    for wire in [Wire::Offload, Wire::Nic] {
        let lab = way.up(wire, Outer::V4);
        for (v6, gro) in [(false, false), (false, true), (true, false), (true, true)] {
            let target = lab.far.inner(v6);
            let arrived = super_packets(&lab.near, &lab.far, target, DATAGRAMS, gro);
            assert_eq!(arrived, DATAGRAMS, "{way:?} {wire:?} to {target}, UDP_GRO {gro}");
        }
    }
}

#[test]
fn udp_super_packets_arrive_by_tc() {
    run(|| all_datagrams_arrive(Way::Tc));
}

#[test]
fn udp_super_packets_arrive_by_xdp() {
    run(|| all_datagrams_arrive(Way::Xdp));
}

#[test]
fn udp_super_packets_arrive_by_io_uring() {
    run(|| all_datagrams_arrive(Way::IoUring));
}

#[test]
fn udp_super_packets_arrive_by_epoll() {
    run(|| all_datagrams_arrive(Way::Epoll));
}
