//! Configurations and hosts that do not allow a daemon: one line that says what and what to do, the
//! right exit code, and nothing left behind.

use std::net::UdpSocket;

use crate::lab::host::generate_key;
use crate::lab::{How, Lab, run};
use crate::restart::{nothing_is_left, state};

// linux/capability.h
const CAP_NET_ADMIN: u64 = 12;
const CAP_SYS_ADMIN: u64 = 21;
const CAP_BPF: u64 = 39;

/// Starts the near daemon, which must refuse with one line that contains all of `words`.
#[track_caller]
fn refused(lab: &Lab, how: &How, words: &[&str]) {
    let before = state(&lab.near);
    let log_before = lab.near.log().len();
    let mut daemon = lab.near.launch(how);
    let status = daemon.ended();
    assert_eq!(status.code(), Some(1), "{status}");
    let log = lab.near.log()[log_before..].to_owned();
    let last: Vec<&str> = log.lines().filter(|line| line.starts_with("ipopd: ")).collect();
    assert_eq!(last.len(), 1, "one line for the operator: {log}");
    for word in words {
        assert!(last[0].contains(word), "{word:?} is not in {:?}", last[0]);
    }
    nothing_is_left(&lab.near, &before);
}

/// Starts both daemons, which must fall back to the user path and say why in words that contain `word`.
#[track_caller]
fn falls_back(mut lab: Lab, how: &How, key: &str, word: &str) {
    lab.near.start(how);
    lab.far.start(&How::Plain);
    lab.wait_for_path("direct-user");
    let reason = lab.near.ask("/v1/status")["datapath"][key].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains(word), "{key}: {reason:?}");
    lab.near.ping(lab.far.inner(false), &[]);
    lab.near.ping(lab.far.inner(true), &[]);
}

#[test]
fn an_unknown_key_is_refused() {
    run(|| {
        let mut lab = Lab::plain();
        lab.near.config.datapath.insert("colour", "red".to_owned());
        refused(&lab, &How::Plain, &["config.toml", "colour"]);
    });
}

#[test]
fn prefixes_that_overlap_are_refused() {
    run(|| {
        let mut lab = Lab::plain();
        let mut other = lab.near.config.peers[0].clone();
        other.name = "n3".to_owned();
        other.addresses = vec!["10.128.0.2/31".to_owned()];
        other.key = generate_key(&lab.far.folder.join("another-key"));
        lab.near.config.peers.push(other);
        refused(&lab, &How::Plain, &["10.128.0.2/32", "10.128.0.2/31"]);
    });
}

#[test]
fn a_missing_interface_is_refused() {
    run(|| {
        let mut lab = Lab::plain();
        lab.near.config.interfaces = Some(vec!["nowhere0".to_owned()]);
        refused(&lab, &How::Plain, &["nowhere0"]);
    });
}

#[test]
fn an_occupied_port_is_refused() {
    run(|| {
        let lab = Lab::plain();
        let _holder = lab.near.ns.inside(|| UdpSocket::bind("0.0.0.0:15000")).expect("the port is free");
        refused(&lab, &How::Plain, &["15000", "in use"]);
    });
}

#[test]
fn an_occupied_kernel_port_is_refused() {
    run(|| {
        let lab = Lab::plain().datapath("kernel", "on");
        let _holder = lab.near.ns.inside(|| UdpSocket::bind("0.0.0.0:4790")).expect("the port is free");
        refused(&lab, &How::Plain, &["4790"]);
    });
}

#[test]
fn with_an_occupied_kernel_port_the_user_path_carries() {
    run(|| {
        let lab = Lab::plain();
        let _holder = lab.near.ns.inside(|| UdpSocket::bind("0.0.0.0:4790")).expect("the port is free");
        falls_back(lab, &How::Plain, "kernel_reason", "4790");
    });
}

#[test]
fn a_daemon_without_net_admin_is_refused() {
    run(|| refused(&Lab::plain(), &How::Without(vec![CAP_NET_ADMIN]), &["CAP_NET_ADMIN"]));
}

#[test]
fn without_bpf_the_user_path_carries() {
    run(|| {
        falls_back(Lab::plain(), &How::Without(vec![CAP_BPF, CAP_SYS_ADMIN]), "kernel_reason", "CAP_BPF");
    });
}

#[test]
fn with_bpf_denied_the_user_path_carries() {
    run(|| falls_back(Lab::plain(), &How::Denied(libc::SYS_bpf), "kernel_reason", "BPF"));
}

#[test]
fn a_kernel_path_that_is_demanded_and_cannot_be_is_refused() {
    run(|| {
        let lab = Lab::plain().datapath("kernel", "on");
        refused(&lab, &How::Without(vec![CAP_BPF, CAP_SYS_ADMIN]), &["datapath.kernel", "CAP_BPF"]);
    });
}

#[test]
fn without_io_uring_epoll_carries() {
    run(|| {
        let lab = Lab::plain().datapath("kernel", "off");
        falls_back(lab, &How::Denied(libc::SYS_io_uring_setup), "io_reason", "not permitted");
    });
}

#[test]
fn an_io_uring_that_is_demanded_and_cannot_be_is_refused() {
    run(|| {
        let lab = Lab::plain().datapath("io", "io_uring");
        refused(&lab, &How::Denied(libc::SYS_io_uring_setup), &["io_uring", "epoll"]);
    });
}

#[test]
fn a_second_daemon_is_refused_and_the_first_is_not_disturbed() {
    run(|| {
        let lab = Lab::plain().up("direct-kernel");
        let before = state(&lab.near);
        let mut second = lab.near.launch(&How::Plain);
        assert_eq!(second.ended().code(), Some(1));
        let log = lab.near.log();
        let last: Vec<&str> = log.lines().filter(|line| line.starts_with("ipopd: ")).collect();
        assert!(last.len() == 1 && last[0].contains("another ipopd answers there"), "{last:?}");
        nothing_is_left(&lab.near, &before);
        lab.near.ping(lab.far.inner(false), &[]);
    });
}
