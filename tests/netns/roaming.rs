//! Hosts that move, or whose way out changes, under traffic: sessions, virtual addresses and TCP connections stay.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lab::beat::Beat;
use crate::lab::boxes::{Kind, Options};
use crate::lab::internet::{Families, Internet};
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{SOON, run};

/// TCP waits for its own timer, which doubles with every loss.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something happens to the network while there is traffic, a stream of datagrams and a connection: both go on soon
/// after it is over.
#[track_caller]
pub(crate) fn is_survived(
    net: &mut Internet,
    [from, to]: [usize; 2],
    what: &str,
    event: impl FnOnce(&mut Internet),
) {
    let address = net.hosts[to].inner(false);
    let tcp = Tcp::start(&net.hosts[from], &net.hosts[to], address, None);
    let beat = Beat::start(&net.hosts[from], &net.hosts[to], address);
    for _ in 0..500 {
        beat.wait_for_next(SOON);
    }
    beat.reset_gap();
    tcp.wait_for_progress(MIB, SOON);
    event(net);
    let over = Instant::now();
    beat.wait_for_next(SOON);
    let back = over.elapsed();
    tcp.wait_for_progress(8 * MIB, PATIENCE);
    for _ in 0..100 {
        beat.wait_for_next(SOON);
    }
    println!("{what}: nothing got through for {:.1?}, and {back:.1?} after it was over", beat.gap());
    let _ = beat.finish();
    tcp.finish();
}

/// Two hosts that have found each other, and what happens to the first of them while there is traffic, either way.
#[track_caller]
fn moves(what: &str, make: impl Fn(&mut Internet) -> [usize; 2], event: impl Fn(&mut Internet, [usize; 2])) {
    for is_sender in [true, false] {
        let mut net = Internet::new();
        let [moved, other] = make(&mut net);
        let mut net = net.up();
        net.wait_for_path(moved, other, "direct-kernel", SOON);
        net.wait_for_path(other, moved, "direct-kernel", SOON);
        let pair = if is_sender { [moved, other] } else { [other, moved] };
        is_survived(&mut net, pair, what, |net| event(net, [moved, other]));
        net.wait_for_path(moved, other, "direct-kernel", PATIENCE);
    }
}

#[test]
fn another_address_is_no_end() {
    run(|| {
        let public = |net: &mut Internet| [net.public(Families::V4), net.public(Families::V4)];
        moves("another address", public, |net, [host, _]| net.hosts[host].move_to("198.51.100.77"));
    });
}

#[test]
fn another_interface_is_no_end() {
    run(|| {
        let behind = |net: &mut Internet| [net.behind(Kind::PortRestricted), net.public(Families::V4)];
        moves("another interface", behind, |net, [host, _]| {
            net.plug_in(host, "w1", None);
            let device = net.hosts[host].device;
            net.hosts[host].ns.ip(&format!("link set {device} down"));
        });
    });
}

/// A virtual machine that is migrated has another device in another network, behind another box, from one moment to
/// the next.
#[test]
fn a_machine_that_is_migrated_keeps_its_address_and_connections() {
    run(|| {
        let behind = |net: &mut Internet| [net.behind(Kind::Masquerade), net.behind(Kind::PortRestricted)];
        moves("migrated", behind, |net, [host, _]| {
            let elsewhere = net.add_box(None, Kind::PortRestricted, Options::default());
            net.migrate(host, Some(elsewhere));
        });
    });
}

#[test]
fn a_box_that_forgets_everything_is_no_end() {
    run(|| {
        let behind =
            |net: &mut Internet| [net.behind(Kind::PortRestricted), net.behind(Kind::PortRestricted)];
        moves("a box forgets", behind, |net, [host, _]| net.gate(host).reboot());
    });
}

/// A laptop that is closed does nothing at all until it is opened again.
#[test]
fn a_host_that_was_suspended_is_back() {
    run(|| {
        let behind = |net: &mut Internet| [net.behind(Kind::PortRestricted), net.public(Families::V4)];
        moves("suspended", behind, |net, [host, other]| {
            let daemon = net.hosts[host].daemon.as_ref().expect("it runs");
            daemon.signal(Signal::SIGSTOP);
            net.set_cable(host, false);
            // Until the others have given it up: after that, nothing changes any more.
            net.wait_for_path(other, host, "no peer", PATIENCE);
            net.set_cable(host, true);
            daemon.signal(Signal::SIGCONT);
        });
    });
}
