//! Daemons that are killed, come back and end. The kernel path must not notice the first two, and
//! nothing may be left of the third.

use std::time::{Duration, Instant};

use crate::lab::tcp::{MIB, Tcp, kernel_counter};
use crate::lab::{Host, How, Lab, Outer, SOON, Wire, run, run_if_full, wait_for, within};

/// What a lease lasts, and a little.
const LEASE: Duration = Duration::from_secs(30);

#[track_caller]
fn carries_for(tcp: &Tcp, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        tcp.wait_for_progress(MIB, Duration::from_secs(3));
    }
}

fn resets(host: &Host) -> u64 {
    kernel_counter(host, "Tcp", "EstabResets") + kernel_counter(host, "Tcp", "OutRsts")
}

/// Kills daemons under a transfer, lets it go on without them, starts them again.
#[track_caller]
fn a_transfer_survives(mut lab: Lab, both: bool, how: &How) {
    let tcp = Tcp::start(&lab.near, &lab.far, lab.far.inner(false), None);
    let tcp_v6 = Tcp::start(&lab.far, &lab.near, lab.near.inner(true), None);
    tcp.wait_for_progress(MIB, SOON);
    let resets_before = resets(&lab.near) + resets(&lab.far);
    lab.near.take().kill();
    if both {
        lab.far.take().kill();
    }
    carries_for(&tcp, Duration::from_secs(5));
    tcp_v6.wait_for_progress(MIB, SOON);
    lab.near.start(how);
    if both {
        lab.far.start(how);
    }
    lab.wait_for_path("direct-kernel");
    carries_for(&tcp, Duration::from_secs(2));
    let before = lab.packets();
    tcp.wait_for_progress(MIB, SOON);
    tcp_v6.wait_for_progress(MIB, SOON);
    wait_for("the new daemon counts what the kernel carries", SOON, || {
        ((lab.packets() - before).kernel > 0).then_some(())
    });
    tcp.finish();
    tcp_v6.finish();
    assert_eq!(resets(&lab.near) + resets(&lab.far), resets_before, "no connection was reset");
}

#[test]
fn a_killed_daemon_is_not_missed_and_its_successor_adopts() {
    run(|| a_transfer_survives(Lab::plain().up("direct-kernel"), false, &How::Plain));
}

#[test]
fn a_killed_daemon_is_not_missed_with_xdp() {
    run(|| {
        let lab = Lab::new(Wire::Nic, 1500, Outer::V4).datapath("xdp", "native").up("direct-kernel");
        a_transfer_survives(lab, false, &How::Plain);
    });
}

#[test]
fn two_killed_daemons_are_not_missed() {
    run(|| a_transfer_survives(Lab::plain().up("direct-kernel"), true, &How::Plain));
}

#[test]
fn a_successor_in_other_mounts_adopts() {
    run(|| {
        let mut lab = Lab::plain();
        lab.near.start(&How::IpNetnsExec);
        lab.far.start(&How::IpNetnsExec);
        lab.wait_for_path("direct-kernel");
        a_transfer_survives(lab, true, &How::IpNetnsExec);
    });
}

#[test]
fn programs_do_not_pile_up_over_restarts() {
    run(|| {
        let mut lab = Lab::plain().up("direct-kernel");
        let attached = attachments(&lab.near);
        for _ in 0..3 {
            lab.near.take().kill();
            lab.near.start(&How::Plain);
            lab.wait_for_path("direct-kernel");
        }
        let again = attachments(&lab.near);
        assert_eq!(attached.len(), again.len(), "{attached:?} {again:?}");
        wait_for("the programs of earlier daemons are gone", SOON, || {
            attached.iter().filter(|id| !again.contains(id)).all(|id| !program_exists(*id)).then_some(())
        });
    });
}

/// Ids of the programs attached in a host's namespace.
fn attachments(host: &Host) -> Vec<u64> {
    let text = host.ns.succeed("bpftool", &["--json", "net", "show"]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("bpftool writes JSON");
    let mut ids = Vec::new();
    collect_ids(&value, &mut ids);
    ids.sort_unstable();
    ids
}

fn collect_ids(value: &serde_json::Value, ids: &mut Vec<u64>) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_ids(item, ids)),
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_u64() {
                    Some(id) if name == "prog_id" || name == "id" => ids.push(id),
                    _ => collect_ids(field, ids),
                }
            }
        }
        _ => {}
    }
}

fn program_exists(id: u64) -> bool {
    exists("prog", id)
}

fn exists(kind: &str, id: u64) -> bool {
    let output = std::process::Command::new("bpftool").args([kind, "show", "id", &id.to_string()]).output();
    output.expect("bpftool runs").status.success()
}

/// Ids of the maps that programs use.
fn maps_of(programs: &[u64]) -> Vec<u64> {
    let mut maps = Vec::new();
    for id in programs {
        let show = ["--json", "prog", "show", "id", &id.to_string()];
        let output = std::process::Command::new("bpftool").args(show).output().expect("bpftool runs");
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("bpftool writes JSON");
        maps.extend(value["map_ids"].as_array().into_iter().flatten().filter_map(|id| id.as_u64()));
    }
    maps
}

#[track_caller]
fn sigterm_leaves_nothing(lab: Lab) {
    let mut lab = lab;
    // The kernel takes notice of a carrier a while after the other end is up.
    wait_for("the wire is up", SOON, || {
        lab.near
            .ns
            .ip("-br link")
            .lines()
            .any(|line| line.starts_with("p1") && line.contains("LOWER_UP"))
            .then_some(())
    });
    let before = state(&lab.near);
    lab.near.start(&How::Plain);
    lab.far.start(&How::Plain);
    wait_for("a path", SOON, || (lab.near.path() != "none" && lab.far.path() != "none").then_some(()));
    let programs = attachments(&lab.near);
    let maps = maps_of(&programs);
    let status = lab.near.take().terminate();
    assert!(status.success(), "{status}");
    let told = within(Duration::from_secs(1), || (lab.far.path() == "none").then_some(()));
    assert!(told.is_some(), "the peer is told at once, and not left to find out");
    assert!(!lab.near.socket().exists(), "the control socket is gone");
    nothing_is_left(&lab.near, &before);
    wait_for("programs and maps are gone", SOON, || {
        let gone =
            programs.iter().all(|id| !exists("prog", *id)) && maps.iter().all(|id| !exists("map", *id));
        gone.then_some(())
    });
}

/// The kernel takes an io_uring apart, and with it the TUN device, a little after its process ends.
#[track_caller]
pub(crate) fn nothing_is_left(host: &Host, before: &[String]) {
    if within(SOON, || (state(host) == before).then_some(())).is_none() {
        assert_eq!(state(host), before, "something is left behind");
    }
}

/// Everything of a host that a daemon could leave behind.
pub(crate) fn state(host: &Host) -> Vec<String> {
    let brief = |words: &str| {
        let text = host.ns.ip(words);
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty() && !comes_by_itself(line))
            .collect::<Vec<_>>()
    };
    let mut lines = brief("-br link");
    lines.extend(brief("-o -4 addr"));
    lines.extend(brief("-o -6 addr"));
    lines.extend(brief("route show table all"));
    lines.extend(brief("rule"));
    lines.push(host.ns.succeed("tc", &["qdisc", "show"]));
    lines.push(host.ns.succeed("ss", &["-Hlun"]));
    lines.push(format!("programs {:?}", attachments(host)));
    let files = std::fs::read_dir(&host.folder).expect("its folder").flatten();
    let mut files: Vec<String> = files.map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    files.retain(|name| !["log", "config.toml", "state"].contains(&name.as_str()));
    files.sort();
    lines.extend(files);
    lines
}

/// Link-local addresses are complete a second or two after their interface is up.
fn comes_by_itself(line: &str) -> bool {
    line.contains("fe80:")
}

#[test]
fn sigterm_leaves_nothing_of_the_kernel_path() {
    run(|| sigterm_leaves_nothing(Lab::plain().datapath("kernel", "on")));
}

#[test]
fn sigterm_leaves_nothing_of_xdp() {
    run(|| sigterm_leaves_nothing(Lab::plain().datapath("kernel", "on").datapath("xdp", "native")));
}

#[test]
fn sigterm_leaves_nothing_of_the_user_path() {
    run(|| sigterm_leaves_nothing(Lab::plain().datapath("kernel", "off")));
}

#[test]
fn sigterm_of_a_successor_leaves_nothing() {
    run(|| {
        let lab = Lab::plain();
        let before = state(&lab.near);
        let mut lab = lab.up("direct-kernel");
        lab.near.take().kill();
        lab.near.start(&How::Plain);
        lab.wait_for_path("direct-kernel");
        assert!(lab.near.take().terminate().success());
        nothing_is_left(&lab.near, &before);
    });
}

#[test]
fn without_a_daemon_the_kernel_path_ends_with_its_lease() {
    run_if_full(|| {
        let mut lab = Lab::plain().up("direct-kernel");
        let tcp = Tcp::start(&lab.near, &lab.far, lab.far.inner(false), None);
        tcp.wait_for_progress(MIB, SOON);
        let killed = Instant::now();
        lab.far.take().kill();
        wait_for("the peer is missed", LEASE + SOON, || (lab.near.path() == "none").then_some(()));
        let elapsed = killed.elapsed();
        assert!(elapsed > LEASE / 2 && elapsed < LEASE + Duration::from_secs(10), "{elapsed:?}");
        wait_for("nothing arrives any more", SOON, || {
            let before = tcp.received();
            within(Duration::from_secs(1), || (tcp.received() > before).then_some(())).is_none().then_some(())
        });
        tcp.abandon();
    });
}
