//! A network behind a node: packets that the node forwards, by each path, with strict source checks.

use std::process::Command;

use crate::lab::namespace::NetNs;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::udp::super_packets;
use crate::lab::{Host, Lab, Outer, Wire, run};

/// A lab whose far host is a router, with another host behind it in 10.77.0.0/24.
struct Site {
    lab: Lab,
    behind: Host,
    _folder: tempfile::TempDir,
}

impl Site {
    #[track_caller]
    fn new(wire: Wire) -> Self {
        let mut lab = Lab::new(wire, 1500, Outer::V4);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut behind = Host::new(3, NetNs::create("ipop-t"), folder.path());
        behind.inner_v4 = [10, 77, 0, 9].into();
        let (router, inside) = (&lab.far.ns, &behind.ns);
        router.ip(&format!("link add lan0 type veth peer name lan1 netns {}", inside.name()));
        router.ip("addr add 10.77.0.1/24 dev lan0");
        inside.ip("addr add 10.77.0.9/24 dev lan1");
        router.ip("link set lan0 up");
        inside.ip("link set lan1 up");
        inside.ip("route add default via 10.77.0.1");
        router.succeed("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"]);
        lab.near.config.peers[0].addresses.push("10.77.0.0/24".to_owned());
        for host in [&lab.near, &lab.far] {
            strict(&host.ns);
        }
        Self { lab, behind, _folder: folder }
    }
}

/// Reverse path filtering in strict mode (RFC 3704), on what is there and what will be.
fn strict(ns: &NetNs) {
    for scope in ["all", "default"] {
        ns.succeed("sysctl", &["-q", "-w", &format!("net.ipv4.conf.{scope}.rp_filter=1")]);
    }
}

#[track_caller]
fn a_network_behind_a_node_is_reached(kernel: &str, wire: Wire) {
    let path = if kernel == "off" { "direct-user" } else { "direct-kernel" };
    let site = Site::new(wire);
    let (lab, behind) = (site.lab.datapath("kernel", kernel).up(path), site.behind);
    lab.near.ping(behind.inner(false), &[]);
    let before = lab.packets();
    for (from, to) in [(&lab.near, &behind), (&behind, &lab.near)] {
        let done = Tcp::transfer(from, to, to.inner(false), 128 * MIB);
        println!("forwarded, {path}, {wire:?}: {:.2} Gbit/s", done.gbps);
        for gro in [false, true] {
            assert_eq!(super_packets(from, to, to.inner(false), 5_000, gro), 5_000, "UDP_GRO {gro}");
        }
    }
    let packets = lab.packets() - before;
    match kernel {
        "off" => assert_eq!(packets.kernel, 0, "{packets:?}"),
        _ => assert!(packets.kernel > 100 * packets.user, "{packets:?}"),
    }
}

#[test]
fn a_network_behind_a_node_is_reached_by_the_kernel_path() {
    run(|| a_network_behind_a_node_is_reached("on", Wire::Offload));
}

#[test]
fn a_network_behind_a_node_is_reached_by_the_kernel_path_over_a_nic() {
    run(|| a_network_behind_a_node_is_reached("on", Wire::Nic));
}

#[test]
fn a_network_behind_a_node_is_reached_by_the_user_path() {
    run(|| a_network_behind_a_node_is_reached("off", Wire::Offload));
}

#[test]
fn strict_source_checks_let_everything_through() {
    run(|| {
        for (kernel, path) in [("on", "direct-kernel"), ("off", "direct-user")] {
            let lab = Lab::plain().datapath("kernel", kernel);
            for host in [&lab.near, &lab.far] {
                strict(&host.ns);
            }
            let lab = lab.up(path);
            lab.near.ping(lab.far.inner(false), &[]);
            Tcp::transfer(&lab.near, &lab.far, lab.far.inner(false), 16 * MIB);
            Tcp::transfer(&lab.far, &lab.near, lab.near.inner(false), 16 * MIB);
        }
    });
}

#[test]
fn a_source_that_is_not_the_peers_is_not_forwarded() {
    run(|| {
        let site = Site::new(Wire::Offload);
        let lab = site.lab.up("direct-kernel");
        // A host that the far node's configuration does not know, sent by the near one.
        lab.near.ns.ip("addr add 10.99.0.1/32 dev lo");
        let before = lab.far.counter("rx_wrong_inner_source");
        let to = site.behind.inner(false).to_string();
        let mut ping = lab.near.ns.command("ping", &["-c", "2", "-W", "1", "-I", "10.99.0.1", &to]);
        assert!(!succeeds(&mut ping), "it must not be answered");
        lab.far.wait_for_counter("rx_wrong_inner_source", before, 1);
    });
}

fn succeeds(command: &mut Command) -> bool {
    command.output().expect("the program runs").status.success()
}
