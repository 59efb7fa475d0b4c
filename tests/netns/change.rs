//! The network under the daemons changes while traffic runs: it must be back within a second or
//! so, and TCP connections must not notice more than a pause.

use std::time::Duration;

use crate::lab::beat::Beat;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{Lab, Outer, run};

/// One second is what is aimed at; a machine that is busy with other things may take longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Both directions and a TCP connection, across a change.
struct Traffic<'a> {
    lab: &'a Lab,
    there: Beat,
    back: Beat,
    tcp: Tcp,
}

impl<'a> Traffic<'a> {
    #[track_caller]
    fn start(lab: &'a Lab) -> Self {
        let (near, far) = (&lab.near, &lab.far);
        let tcp = Tcp::start(near, far, far.inner(false), None);
        tcp.wait_for_progress(MIB, PATIENCE);
        let there = Beat::start(near, far, far.inner(false));
        let back = Beat::start(far, near, near.inner(true));
        Self { lab, there, back, tcp }
    }

    /// Makes the change; traffic must flow again afterwards, and be carried by `path`.
    #[track_caller]
    fn survives(self, what: &str, path: &str, change: impl FnOnce()) {
        self.there.reset_gap();
        self.back.reset_gap();
        change();
        self.there.wait_for_next(PATIENCE * 2);
        self.back.wait_for_next(PATIENCE * 2);
        self.lab.wait_for_path(path);
        // TCP waits for its own timer, which doubles with every loss.
        self.tcp.wait_for_progress(8 * MIB, PATIENCE * 2);
        let gap = self.there.gap().max(self.back.gap());
        println!("{what}: nothing got through for {gap:?}");
        assert!(gap < PATIENCE, "{what}: nothing got through for {gap:?}");
        let (there, back) = (self.there.finish(), self.back.finish());
        assert!(there.arrived > 0 && back.arrived > 0, "{there:?} {back:?}");
        self.tcp.finish();
    }
}

#[track_caller]
fn on_both_paths(what: &str, change: impl Fn(&Lab)) {
    for (kernel, path) in [("on", "direct-kernel"), ("off", "direct-user")] {
        let lab = Lab::plain().datapath("kernel", kernel).up(path);
        Traffic::start(&lab).survives(&format!("{what}, {path}"), path, || change(&lab));
    }
}

#[test]
fn a_new_mac_of_the_peer_is_followed() {
    run(|| {
        on_both_paths("a new MAC", |lab| {
            lab.far.ns.ip(&format!("link set {} address 02:00:00:00:77:01", lab.far.device));
        });
    });
}

#[test]
fn a_new_address_of_the_peer_is_followed() {
    run(|| {
        on_both_paths("a new address", |lab| {
            let device = lab.far.device;
            lab.far.ns.ip(&format!("addr add 10.200.0.99/24 dev {device}"));
            lab.far.ns.ip(&format!("addr del 10.200.0.2/24 dev {device}"));
            // The kernel removes the second address of a prefix with the first, or promotes it.
            lab.far.ns.ip(&format!("addr replace 10.200.0.99/24 dev {device}"));
        });
    });
}

#[test]
fn a_route_over_another_interface_is_followed() {
    run(|| {
        let mut lab = Lab::plain();
        // A second wire, and the peers known by addresses of neither: both lead there.
        let (near, far) = (&lab.near, &lab.far);
        near.ns.ip(&format!("link add q1 type veth peer name q2 netns {}", far.ns.name()));
        for (host, device, number) in [(near, "q1", 1), (far, "q2", 2)] {
            host.ns.ip(&format!("addr add 10.200.1.{number}/24 dev {device}"));
            host.ns.ip(&format!("link set {device} up"));
            host.ns.ip(&format!("addr add 10.200.9.{number}/32 dev lo"));
        }
        let via = |subnet: u8| {
            let source = |number| format!("src 10.200.9.{number}");
            near.ns.ip(&format!("route replace 10.200.9.2 via 10.200.{subnet}.2 {}", source(1)));
            far.ns.ip(&format!("route replace 10.200.9.1 via 10.200.{subnet}.1 {}", source(2)));
        };
        via(0);
        lab.near.config.peers[0].endpoint = Some("10.200.9.2:15000".to_owned());
        lab.far.config.peers[0].endpoint = Some("10.200.9.1:15000".to_owned());
        let lab = lab.up("direct-kernel");
        let via = |subnet: u8| {
            let (near, far) = (&lab.near, &lab.far);
            near.ns.ip(&format!("route replace 10.200.9.2 via 10.200.{subnet}.2 src 10.200.9.1"));
            far.ns.ip(&format!("route replace 10.200.9.1 via 10.200.{subnet}.1 src 10.200.9.2"));
        };
        Traffic::start(&lab).survives("a new route", "direct-kernel", || {
            via(1);
            lab.near.ns.ip("link set p1 down");
        });
        let links = lab.near.ask("/v1/links");
        assert_eq!(links[0]["interface"], "q1");
    });
}

#[test]
fn an_interface_that_goes_down_and_up_is_no_end() {
    run(|| {
        on_both_paths("down and up", |lab| {
            let (ns, device) = (&lab.far.ns, lab.far.device);
            ns.ip(&format!("link set {device} down"));
            ns.ip(&format!("link set {device} up"));
            ns.ip(&format!("addr replace fd20::2/64 dev {device} nodad"));
        });
    });
}

#[test]
fn an_interface_that_goes_down_and_up_is_no_end_over_ipv6() {
    run(|| {
        let lab = Lab::new(crate::lab::Wire::Offload, 1500, Outer::V6).up("direct-kernel");
        Traffic::start(&lab).survives("down and up over IPv6", "direct-kernel", || {
            let (ns, device) = (&lab.far.ns, lab.far.device);
            ns.ip(&format!("link set {device} down"));
            ns.ip(&format!("link set {device} up"));
            ns.ip(&format!("addr replace fd20::2/64 dev {device} nodad"));
        });
    });
}

#[test]
fn a_neighbour_entry_that_is_deleted_comes_back() {
    run(|| {
        on_both_paths("a deleted neighbour entry", |lab| {
            lab.near.ns.ip(&format!("neigh del {} dev {}", lab.far.outer_v4, lab.near.device));
        });
    });
}
