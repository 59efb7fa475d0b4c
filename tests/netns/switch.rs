//! Moving between the paths under traffic, and the order of packets on the user path.

use std::time::Duration;

use crate::lab::beat::Beat;
use crate::lab::tcp::{GIB, MIB, Tcp, kernel_counter};
use crate::lab::{Lab, Outer, SOON, Wire, run, wait_for};

#[test]
fn a_transfer_moves_between_the_paths_and_back() {
    run(|| {
        let lab = Lab::plain().up("direct-kernel");
        let tcp = Tcp::start(&lab.near, &lab.far, lab.far.inner(false), None);
        tcp.wait_for_progress(8 * MIB, SOON);
        for _ in 0..3 {
            for (to, path) in [("off", "direct-user"), ("on", "direct-kernel")] {
                lab.near.ctl(&["datapath", "kernel", to]);
                lab.wait_for_path(path);
                let before = lab.packets();
                tcp.wait_for_progress(16 * MIB, SOON);
                let packets = lab.packets() - before;
                match to {
                    "off" => assert!(packets.user > 100 && packets.user > packets.kernel, "{packets:?}"),
                    _ => assert!(packets.kernel > 100 && packets.kernel > packets.user, "{packets:?}"),
                }
            }
        }
        tcp.finish();
    });
}

#[test]
fn switching_says_what_it_does_and_refuses_what_cannot_be() {
    run(|| {
        let mut lab = Lab::plain();
        lab.far.config.datapath.insert("kernel", "off".to_owned());
        let lab = lab.up("direct-user");
        assert!(lab.near.ctl(&["datapath", "kernel", "off"]).contains("off"));
        assert!(lab.near.peer()["path_reason"].as_str().is_some_and(|r| r.contains("off on this node")));
        let refused = lab.far.ctl_output(&["datapath", "kernel", "on"]);
        assert_eq!(refused.status.code(), Some(1));
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.lines().count() == 1 && text.contains("restart ipopd"), "{text}");
    });
}

#[track_caller]
fn nothing_overtakes(io: &str, wire: Wire) {
    let lab = Lab::new(wire, 1500, Outer::V4).datapath("kernel", "off").datapath("io", io).up("direct-user");
    let reordered = || kernel_counter(&lab.far, "TcpExt", "TCPOFOQueue");
    let before = (reordered(), kernel_counter(&lab.far, "TcpExt", "TCPDSACKRecv"));
    let beat = Beat::start(&lab.near, &lab.far, lab.far.inner(true));
    Tcp::transfer(&lab.near, &lab.far, lab.far.inner(false), GIB / 4);
    let heard = beat.finish();
    let after = (reordered(), kernel_counter(&lab.far, "TcpExt", "TCPDSACKRecv"));
    let dropped: u64 = ["tx_queue_full", "rx_device_error", "tx_send_error"]
        .iter()
        .map(|name| lab.near.counter(name) + lab.far.counter(name))
        .sum();
    assert_eq!(heard.overtaken, 0, "{heard:?}");
    // A lost packet makes those after it arrive out of order as well; that is not reordering.
    assert!(after == before || dropped > 0, "out of order: {before:?} to {after:?}");
}

#[test]
fn nothing_overtakes_on_the_user_path_by_io_uring() {
    run(|| [Wire::Offload, Wire::Nic].into_iter().for_each(|wire| nothing_overtakes("io_uring", wire)));
}

#[test]
fn nothing_overtakes_on_the_user_path_by_epoll() {
    run(|| [Wire::Offload, Wire::Nic].into_iter().for_each(|wire| nothing_overtakes("epoll", wire)));
}

#[test]
fn explain_says_which_path_and_why() {
    run(|| {
        let lab = Lab::plain().up("direct-kernel");
        let text = lab.near.ctl(&["--json", "explain", "n2"]);
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["path"], "direct-kernel");
        let steps = answer["steps"].as_array().expect("steps");
        assert!(steps.iter().all(|step| step["ok"] == true), "{text}");
        lab.far.ctl(&["datapath", "kernel", "off"]);
        wait_for("the reason is the peer's", SOON + Duration::from_secs(5), || {
            lab.near.peer()["path_reason"].as_str()?.contains("off on the peer").then_some(())
        });
    });
}
