//! Subnets behind nodes: a router announces one, others take it if their operator says so, and hosts on both ends
//! reach each other.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::lab::host::Host;
use crate::lab::internet::{Families, Internet};
use crate::lab::namespace::NetNs;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{SOON, run, wait_for};

/// The network behind routers: 192.168.7.0/24, with a host in it that no daemon runs on.
struct Site {
    /// The host behind; its `inner` addresses are those of the site.
    host: Host,
    switch: NetNs,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let switch = NetNs::create("ipop-t");
        switch.ip("link add lan type bridge");
        switch.ip("link set lan up");
        let mut host = Host::new(99, NetNs::create("ipop-t"), folder.path());
        host.inner_v4 = Ipv4Addr::new(192, 168, 7, 9);
        let site = Self { host, switch, _folder: folder };
        site.plug(&site.host.ns, "eth0", 9);
        site
    }

    /// Gives a namespace a device in the site's network.
    fn plug(&self, ns: &NetNs, device: &str, number: u8) {
        let port = format!("port{number}");
        ns.ip(&format!("link add {device} type veth peer name {port} netns {}", self.switch.name()));
        self.switch.ip(&format!("link set {port} master lan up"));
        ns.ip(&format!("addr add 192.168.7.{number}/24 dev {device}"));
        ns.ip(&format!("addr add fd07::{number}/64 dev {device} nodad"));
        ns.ip(&format!("link set {device} up"));
    }

    /// Makes a node a router of the site.
    fn router(&self, router: &mut Host, number: u8, keys: &str) {
        self.plug(&router.ns, "site", number);
        router.ns.sysctl("net.ipv4.ip_forward", "1");
        router.ns.sysctl("net.ipv6.conf.all.forwarding", "1");
        router.config.more = format!("[routing]\nannounce = [\"192.168.7.0/24\", \"fd07::/64\"]\n{keys}\n");
    }

    /// Has the host behind answer by a router.
    fn answers_by(&self, number: u8) {
        self.host.ns.ip(&format!("route replace 10.128.0.0/24 via 192.168.7.{number}"));
        self.host.ns.ip(&format!("-6 route replace fd00:128::/64 via fd07::{number}"));
    }
}

/// What a node takes.
const ACCEPT: &str = "[routing]\naccept = [{ prefix = \"192.168.0.0/16\" }, { prefix = \"fd07::/64\" }]\n";

/// What a host's daemon says of a subnet, each router of it.
fn entries(host: &Host, prefix: &str) -> Vec<Value> {
    let routes = host.ask("/v1/routes");
    let routes = routes.as_array().expect("a list").iter();
    routes.filter(|route| route["prefix"] == prefix && !route["subnet"].is_null()).cloned().collect()
}

/// Waits until a subnet goes by a router, by its name.
#[track_caller]
fn wait_for_router(host: &Host, prefix: &str, router: &Host) -> Value {
    wait_for(&format!("{prefix} goes by {}", router.config.name), SOON * 2, || {
        let own = router.ask("/v1/status")["address"].clone();
        let mut entries = entries(host, prefix).into_iter();
        entries.find(|entry| entry["subnet"]["state"] == "active" && entry["subnet"]["router"] == own)
    })
}

/// Waits until echo requests are answered: a router that others carry to is reached at once, and soon directly.
#[track_caller]
fn wait_for_answer(from: &Host, to: IpAddr) {
    let to = to.to_string();
    wait_for(&format!("{to} answers"), SOON, || {
        from.ns.output("ping", &["-n", "-c", "1", "-W", "1", &to]).status.success().then_some(())
    });
}

#[test]
fn a_network_behind_a_router_is_reached_both_ways_in_the_kernel() {
    run(|| {
        let mut net = Internet::new();
        let (router, member) = (net.public(Families::V4), net.public(Families::V4));
        let site = Site::new();
        site.router(&mut net.hosts[router], 1, "");
        net.hosts[member].config.more = ACCEPT.to_owned();
        site.answers_by(1);
        let net = net.up();
        let (router, member) = (&net.hosts[router], &net.hosts[member]);
        wait_for_router(member, "192.168.7.0/24", router);
        wait_for_router(member, "fd07::/64", router);
        let (behind, behind_v6) = (site.host.inner(false), "fd07::9".parse().expect("an address"));
        wait_for_answer(member, behind);
        wait_for_answer(member, behind_v6);
        wait_for_answer(&site.host, member.inner(false));
        net.wait_for_path(2, 1, "direct-kernel", SOON);
        member.ping(behind, &[]);
        let before = member.packets();
        Tcp::transfer(member, &site.host, behind, 32 * MIB);
        Tcp::transfer(&site.host, member, member.inner(false), 32 * MIB);
        let carried = member.packets() - before;
        assert!(carried.kernel > 10 * carried.user, "{carried:?}");
    });
}
