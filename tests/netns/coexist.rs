//! Other programs and other traffic on the same devices.

use std::time::Duration;

use crate::lab::packet::Tap;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{Lab, run};

#[test]
fn a_packet_socket_on_the_virtual_device_sees_what_arrives_and_leaves() {
    run(|| {
        for (kernel, path) in [("on", "direct-kernel"), ("off", "direct-user")] {
            let lab = Lab::plain().datapath("kernel", kernel).up(path);
            let sender = Tap::open(&lab.near, "ipop0");
            let receiver = Tap::open(&lab.far, "ipop0");
            // 16 bytes that ping repeats in its payload.
            let pattern = "1b0f1b0f1b0f1b0f1b0f1b0f1b0f1b0f";
            lab.near.ping(lab.far.inner(false), &["-p", pattern]);
            let needle = [0x1b, 0x0f].repeat(8);
            assert!(receiver.sees(&needle, Duration::from_secs(5)), "{path}: arriving packets are seen");
            assert!(sender.sees(&needle, Duration::from_secs(5)), "{path}: leaving packets are seen");
        }
    });
}

#[test]
fn other_traffic_on_the_wire_is_left_alone() {
    run(|| {
        for xdp in ["off", "native"] {
            let lab = Lab::plain().datapath("xdp", xdp).up("direct-kernel");
            let before = lab.packets();
            lab.near.ping(lab.far.outer_v4.into(), &[]);
            lab.near.ping(lab.far.outer_v6.into(), &["-s", "4000"]);
            Tcp::transfer(&lab.near, &lab.far, lab.far.outer_v4.into(), 64 * MIB);
            Tcp::transfer(&lab.near, &lab.far, lab.far.outer_v6.into(), 64 * MIB);
            assert_eq!(lab.packets(), before, "none of it is counted as a peer's");
            assert!(lab.far.counter("rx_not_ours") > 0);
        }
    });
}

#[test]
fn a_filter_of_somebody_else_stays_and_hinders_nothing() {
    run(|| {
        let lab = Lab::plain();
        lab.near.ns.succeed("tc", &["qdisc", "add", "dev", lab.near.device, "clsact"]);
        // A classic BPF program of one instruction that matches everything and leaves it alone.
        let filter = ["filter", "add", "dev", lab.near.device, "ingress", "bpf", "bytecode", "1,6 0 0 1,"];
        lab.near.ns.succeed("tc", &[&filter[..], &["classid", "1:1"]].concat());
        let shown =
            |lab: &Lab| lab.near.ns.succeed("tc", &["filter", "show", "dev", lab.near.device, "ingress"]);
        let before = shown(&lab);
        assert!(before.contains("bpf"), "{before}");
        let mut lab = lab.up("direct-kernel");
        Tcp::transfer(&lab.far, &lab.near, lab.near.inner(false), 16 * MIB);
        assert!(lab.near.take().terminate().success());
        assert_eq!(shown(&lab), before);
    });
}
