//! Subnets behind nodes: a router announces one, others take it if their operator says so, and hosts on both ends
//! reach each other.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine as _};

use serde_json::Value;

use crate::lab::host::Host;
use crate::lab::internet::{Families, Internet};
use crate::lab::namespace::NetNs;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{How, SOON, run, wait_for};

/// A network behind routers, 192.168.N.0/24 and fd0N::/64, with a host in it that no daemon runs on.
struct Site {
    number: u8,
    /// The host behind; its `inner` addresses are those of the site.
    host: Host,
    switch: NetNs,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new(number: u8) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let switch = NetNs::create("ipop-t");
        switch.ip("link add lan type bridge");
        switch.ip("link set lan up");
        let mut host = Host::new(99, NetNs::create("ipop-t"), folder.path());
        host.inner_v4 = Ipv4Addr::new(192, 168, number, 9);
        let site = Self { number, host, switch, _folder: folder };
        site.plug(&site.host.ns, "eth0", 9);
        site
    }

    /// Gives a namespace a device in the site's network.
    fn plug(&self, ns: &NetNs, device: &str, number: u8) {
        let port = format!("port{number}");
        ns.ip(&format!("link add {device} type veth peer name {port} netns {}", self.switch.name()));
        self.switch.ip(&format!("link set {port} master lan up"));
        let site = self.number;
        ns.ip(&format!("addr add 192.168.{site}.{number}/24 dev {device}"));
        ns.ip(&format!("addr add fd0{site}::{number}/64 dev {device} nodad"));
        ns.ip(&format!("link set {device} up"));
    }

    /// Makes a node a router of the site.
    fn router(&self, router: &mut Host, number: u8, keys: &str) {
        self.plug(&router.ns, "site", number);
        router.ns.sysctl("net.ipv4.ip_forward", "1");
        router.ns.sysctl("net.ipv6.conf.all.forwarding", "1");
        let site = self.number;
        router.config.more =
            format!("[routing]\nannounce = [\"192.168.{site}.0/24\", \"fd0{site}::/64\"]\n{keys}\n");
    }

    /// Has the host behind answer by a router.
    fn answers_by(&self, number: u8) {
        self.host.ns.ip(&format!("route replace 10.128.0.0/24 via 192.168.{}.{number}", self.number));
        self.host.ns.ip(&format!("-6 route replace fd00:128::/64 via fd0{}::{number}", self.number));
    }
}

/// Links are clear, so that the kernel carries super-packets too.
fn clear(host: &mut Host) {
    host.config.datapath.insert("security", "clear-if-trusted".to_owned());
    host.config.trusted = vec!["198.51.100.0/24".to_owned()];
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
        let site = Site::new(7);
        site.router(&mut net.hosts[router], 1, "");
        net.hosts[member].config.more = ACCEPT.to_owned();
        site.answers_by(1);
        for host in &mut net.hosts {
            clear(host);
            // Reverse path filtering in strict mode (RFC 3704), on what is there and what will be.
            for scope in ["all", "default", host.device] {
                host.ns.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "1");
            }
        }
        let net = net.up();
        let (router, member) = (&net.hosts[router], &net.hosts[member]);
        wait_for_router(member, "192.168.7.0/24", router);
        wait_for_router(member, "fd07::/64", router);
        assert!(!warnings(member).contains("reverse path"), "no node is behind the subnet");
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

/// Waits until the others can know of a router's subnets.
#[track_caller]
fn wait_until_announced(router: &Host) {
    wait_for("the subnets are announced", SOON, || {
        router.log().contains("this node's subnets are announced").then_some(())
    });
}

/// Waits until the clock shows another second: announcements tell their age in seconds.
fn wait_for_the_next_second() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let before = now();
    wait_for("the next second", SOON, || (now() > before).then_some(()));
}

#[track_caller]
fn address(host: &Host) -> String {
    host.ask("/v1/status")["address"].as_str().expect("an address").to_owned()
}

#[track_caller]
fn warnings(host: &Host) -> String {
    host.ask("/v1/status")["warnings"].to_string()
}

/// The device by which a host would reach an address.
#[track_caller]
fn device_to(host: &Host, to: &str) -> String {
    let route = host.ns.ip(&format!("route get {to}"));
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap_or_else(|| panic!("{route}")).to_owned()
}

/// A site with two routers, the first of which is preferred and by which the site answers, and a member that takes it;
/// no daemon yet.
struct TwoWays {
    net: Internet,
    site: Site,
    first: usize,
    second: usize,
    member: usize,
}

impl TwoWays {
    fn new() -> Self {
        let mut net = Internet::new();
        let (first, second) = (net.public(Families::V4), net.public(Families::V4));
        let member = net.public(Families::V4);
        let site = Site::new(7);
        site.router(&mut net.hosts[first], 1, "priority = 200");
        site.router(&mut net.hosts[second], 2, "");
        net.hosts[member].config.more = ACCEPT.to_owned();
        site.answers_by(1);
        Self { net, site, first, second, member }
    }
}

#[test]
fn when_a_router_is_cut_off_the_other_takes_over_and_it_comes_back_later() {
    run(|| {
        let TwoWays { net, site, first, second, member } = TwoWays::new();
        let net = net.up();
        let hosts = &net.hosts;
        let prefix = "192.168.7.0/24";
        wait_for_router(&hosts[member], prefix, &hosts[first]);
        let states = wait_for("the other stands by", SOON, || {
            let entries = entries(&hosts[member], prefix);
            (entries.len() == 2).then_some(entries)
        });
        assert_eq!(states[1]["subnet"]["state"], "standby", "{states:?}");
        wait_for_answer(&hosts[member], site.host.inner(false));
        let explained = hosts[member].ctl(&["explain", "192.168.7.9"]);
        assert!(
            explained.contains("192.168.7.0/24 goes by") && explained.contains("stands by"),
            "{explained}"
        );
        let stream = Tcp::start(&hosts[member], &site.host, site.host.inner(false), None);
        stream.wait_for_progress(4 * MIB, SOON);
        net.set_cable(first, false);
        wait_for_router(&hosts[member], prefix, &hosts[second]);
        // As the site's routers would say among themselves.
        site.answers_by(2);
        stream.wait_for_progress(4 * MIB, SOON);
        net.set_cable(first, true);
        wait_for_router(&hosts[member], prefix, &hosts[first]);
        site.answers_by(1);
        stream.wait_for_progress(4 * MIB, SOON);
        stream.finish();
    });
}

#[test]
fn a_router_that_ends_gives_way_and_one_that_is_killed_is_replaced_under_traffic() {
    run(|| {
        let TwoWays { mut net, site, first, second, member } = TwoWays::new();
        for host in &mut net.hosts {
            clear(host);
        }
        let mut net = net.up();
        let prefix = "192.168.7.0/24";
        wait_for_router(&net.hosts[member], prefix, &net.hosts[first]);
        wait_for("the other stands by", SOON, || {
            (entries(&net.hosts[member], prefix).len() == 2).then_some(())
        });
        net.wait_for_path(member, first, "direct-kernel", SOON);
        wait_for_answer(&net.hosts[member], site.host.inner(false));
        let stream = Tcp::start(&net.hosts[member], &site.host, site.host.inner(false), None);
        stream.wait_for_progress(4 * MIB, SOON);
        // The kernel goes on by itself, and so does the router as long as anything comes from it.
        net.hosts[first].take().kill();
        stream.wait_for_progress(64 * MIB, SOON);
        net.hosts[first].start(&How::Plain);
        stream.wait_for_progress(64 * MIB, SOON);
        wait_for_router(&net.hosts[member], prefix, &net.hosts[first]);
        // One that ends says so.
        assert!(net.hosts[first].take().terminate().success());
        wait_for_router(&net.hosts[member], prefix, &net.hosts[second]);
        site.answers_by(2);
        stream.wait_for_progress(64 * MIB, SOON);
        stream.finish();
        assert!(!net.hosts[first].ns.ip("rule").contains("117"), "nothing is left behind");
    });
}

#[test]
fn of_overlapping_subnets_the_older_stands_and_the_operator_is_warned() {
    run(|| {
        let mut net = Internet::new();
        let (older, younger) = (net.public(Families::V4), net.public(Families::V4));
        let member = net.public(Families::V4);
        let site = Site::new(7);
        site.router(&mut net.hosts[older], 1, "");
        net.hosts[younger].config.more =
            "[routing]\nannounce = [\"192.168.0.0/16\", \"172.20.0.0/16\"]\npriority = 255\n".to_owned();
        net.hosts[member].config.more = ACCEPT.to_owned();
        for host in [0, older] {
            net.hosts[host].start(&How::Plain);
        }
        wait_until_announced(&net.hosts[older]);
        wait_for_the_next_second();
        net.hosts[younger].start(&How::Plain);
        wait_until_announced(&net.hosts[younger]);
        // It announces what it does not forward.
        assert!(
            warnings(&net.hosts[younger]).contains("does not forward IPv4: set net.ipv4.ip_forward to 1")
        );
        assert!(!warnings(&net.hosts[older]).contains("forward"));
        net.hosts[member].start(&How::Plain);
        let member = &net.hosts[member];
        wait_for_router(member, "192.168.7.0/24", &net.hosts[older]);
        let refused = &entries(member, "192.168.0.0/16")[0]["subnet"];
        assert_eq!(refused["state"], "refused");
        let reason = refused["reason"].as_str().expect("a reason");
        assert!(reason.contains("it overlaps 192.168.7.0/24, which ipop:"), "{reason}");
        assert!(warnings(member).contains("192.168.0.0/16 of"), "{}", warnings(member));
        assert_eq!(member.counter("rx_refused_route"), 1);
        // What nobody accepts goes nowhere, and is nobody's fault.
        let ignored = &entries(member, "172.20.0.0/16")[0]["subnet"];
        assert_eq!(ignored["reason"], "`routing.accept` does not name it");
        assert!(!warnings(member).contains("172.20"));
        assert_eq!(device_to(member, "192.168.7.9"), "ipop0");
        for elsewhere in ["192.168.8.1", "172.20.0.1"] {
            assert_eq!(device_to(member, elsewhere), "p2", "{elsewhere}");
        }
        let shown = member.ctl(&["routes"]);
        assert!(shown.contains("active, priority 100") && shown.contains("refused, priority 255"), "{shown}");
    });
}

#[test]
fn what_a_hostile_member_announces_changes_nothing() {
    run(|| {
        let mut net = Internet::new();
        let (hostile, member) = (net.public(Families::V4), net.public(Families::V4));
        // However much is accepted.
        net.hosts[member].config.more =
            "[routing]\naccept = [{ prefix = \"0.0.0.0/1\" }, { prefix = \"128.0.0.0/1\" }]\n".to_owned();
        for host in [0, hostile] {
            net.hosts[host].start(&How::Plain);
        }
        let mapped = |v4: [u8; 4], len: u8| {
            let mut bytes = vec![0; 10];
            bytes.extend([0xff, 0xff]);
            bytes.extend(v4);
            bytes.push(96 + len);
            bytes
        };
        let put = |net: &Internet, value: &[u8]| {
            let value = BASE64_STANDARD.encode(value);
            wait_for("the record is there", SOON, || {
                let arguments = ["dht", "put", "routes:test", "--base64", &value];
                net.hosts[hostile].ctl_output(&arguments).status.success().then_some(())
            });
        };
        // The virtual network itself, an address in it, all addresses, and this host.
        let mut value = vec![1, 255, 4, 0];
        value.extend(mapped([10, 128, 0, 0], 24));
        value.extend(mapped([10, 128, 0, 1], 32));
        value.extend(mapped([0, 0, 0, 0], 0));
        value.extend(mapped([127, 0, 0, 1], 32));
        put(&net, &value);
        net.hosts[member].start(&How::Plain);
        let member = &net.hosts[member];
        let routes = wait_for("the announcements are known", SOON, || {
            let routes = member.ask("/v1/routes").as_array()?.clone();
            let announced: Vec<Value> = routes.into_iter().filter(|r| !r["subnet"].is_null()).collect();
            (announced.len() == 4).then_some(announced)
        });
        for route in &routes {
            assert_eq!(route["subnet"]["state"], "refused", "{route}");
            assert!(route["link_id"].is_null(), "{route}");
        }
        assert_eq!(member.counter("rx_refused_route"), 3, "all but the exit node that nobody has named");
        assert_eq!(
            member
                .ns
                .ip("route show table all proto 117")
                .lines()
                .filter(|l| l.contains("table 117"))
                .count(),
            0
        );
        wait_for_answer(member, net.hosts[0].inner(false));
        // What cannot be read is counted.
        let before = member.counter("rx_bad_route");
        put(&net, b"nonsense");
        member.config_reload("[routing]\naccept = [{ prefix = \"192.168.0.0/16\" }]\n");
        member.wait_for_counter("rx_bad_route", before, 1);
    });
}

#[test]
fn a_host_that_is_in_the_network_itself_does_not_go_by_the_router() {
    run(|| {
        let mut net = Internet::new();
        let (router, member) = (net.public(Families::V4), net.public(Families::V4));
        let site = Site::new(7);
        site.router(&mut net.hosts[router], 1, "");
        net.hosts[member].config.more = ACCEPT.to_owned();
        site.answers_by(1);
        let net = net.up();
        let (router, member) = (&net.hosts[router], &net.hosts[member]);
        wait_for_router(member, "192.168.7.0/24", router);
        wait_for_answer(member, site.host.inner(false));
        assert_eq!(device_to(member, "192.168.7.9"), "ipop0");
        site.plug(&member.ns, "site", 20);
        assert_eq!(device_to(member, "192.168.7.9"), "site", "at once, whatever the daemon does");
        let before = member.packets();
        site.host.ns.ip("route del 10.128.0.0/24");
        wait_for_answer(member, site.host.inner(false));
        let reason = wait_for("the daemon says why", SOON, || {
            entries(member, "192.168.7.0/24")[0]["subnet"]["reason"].as_str().map(ToOwned::to_owned)
        });
        assert_eq!(reason, "this host has a route of its own, by site");
        let explained = member.ctl(&["explain", "192.168.7.9"]);
        assert!(explained.contains("a route of its own, by site"), "{explained}");
        let after = member.packets();
        assert_eq!((after - before).kernel + (after - before).user, 0, "nothing goes by the overlay");
        member.ns.ip("link del site");
        site.answers_by(1);
        assert_eq!(device_to(member, "192.168.7.9"), "ipop0");
        wait_for_answer(member, site.host.inner(false));
    });
}

#[test]
fn a_reload_takes_up_what_is_announced_and_accepted() {
    run(|| {
        let mut net = Internet::new();
        let (router, member) = (net.public(Families::V4), net.public(Families::V4));
        let site = Site::new(7);
        site.router(&mut net.hosts[router], 1, "");
        site.answers_by(1);
        let mut net = net.up();
        wait_until_announced(&net.hosts[router]);
        let elsewhere = device_to(&net.hosts[member], "192.168.7.9");
        assert_ne!(elsewhere, "ipop0");
        net.hosts[member].config_reload(ACCEPT);
        wait_for_router(&net.hosts[member], "192.168.7.0/24", &net.hosts[router]);
        wait_for_answer(&net.hosts[member], site.host.inner(false));
        // From another node, it is not taken.
        let other = address(&net.hosts[0]);
        net.hosts[member].config_reload(&format!(
            "[routing]\naccept = [{{ prefix = \"192.168.0.0/16\", from = [\"{other}\"] }}]\n"
        ));
        assert_eq!(device_to(&net.hosts[member], "192.168.7.9"), elsewhere);
        let rules = net.hosts[member].ns.ip("rule");
        assert!(!rules.contains("117"), "{rules}");
        let own = address(&net.hosts[router]);
        net.hosts[member].config_reload(&format!(
            "[routing]\naccept = [{{ prefix = \"192.168.0.0/16\", from = [\"{other}\", \"{own}\"] }}]\n"
        ));
        wait_for_router(&net.hosts[member], "192.168.7.0/24", &net.hosts[router]);
        // A daemon that is killed leaves its routes; the next one removes what it does not want.
        net.hosts[member].take().kill();
        assert!(net.hosts[member].ns.ip("rule").contains("117"));
        net.hosts[member].config.more.clear();
        net.hosts[member].start(&How::Plain);
        assert!(!net.hosts[member].ns.ip("rule").contains("117"));
        assert_eq!(device_to(&net.hosts[member], "192.168.7.9"), elsewhere);
        // What is withdrawn is there no more for those who come later.
        net.hosts[router].config_reload("");
        net.hosts[member].config_reload(ACCEPT);
        wait_for("the subnet is gone", SOON, || {
            entries(&net.hosts[member], "192.168.7.0/24").is_empty().then_some(())
        });
    });
}

/// Somebody on the internet who tells whoever connects where they come from.
struct Mirror(SocketAddr);

impl Mirror {
    const ADDRESS: &str = "192.0.2.80";
    const ADDRESS_V6: &str = "2001:db8:5::80";

    fn start(net: &Internet) -> Self {
        net.backbone().ip(&format!("addr add {}/32 dev lo", Self::ADDRESS));
        Self::at(net, Self::ADDRESS)
    }

    fn start_v6(net: &Internet) -> Self {
        net.backbone().ip(&format!("addr add {}/128 dev lo nodad", Self::ADDRESS_V6));
        Self::at(net, Self::ADDRESS_V6)
    }

    fn at(net: &Internet, address: &str) -> Self {
        let listener = net.backbone().inside(|| TcpListener::bind((address, 0))).expect("a listener");
        let place = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let from = stream.peer_addr().map(|from| from.ip().to_string()).unwrap_or_default();
                let _ = stream.write_all(from.as_bytes());
            }
        });
        Self(place)
    }

    /// How it sees a host; nothing if it is not reached.
    fn sees(&self, host: &Host) -> Option<String> {
        host.ns.inside(|| {
            let mut stream = TcpStream::connect_timeout(&self.0, Duration::from_secs(1)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    }
}

/// Makes a node an exit node, which translates as `docs/operations.md` says.
fn exit_node(host: &mut Host) {
    host.ns.sysctl("net.ipv4.ip_forward", "1");
    host.ns.sysctl("net.ipv6.conf.all.forwarding", "1");
    let rules = format!(
        "table inet ipop {{
         chain postrouting {{
         type nat hook postrouting priority srcnat;
         ip saddr 10.128.0.0/24 oifname {device} masquerade
         ip6 saddr fd00:128::/64 oifname {device} masquerade
         }}
         }}",
        device = host.device
    );
    host.ns.succeed("nft", &[&rules]);
    host.config.more = "[routing]\nannounce = [\"0.0.0.0/0\", \"::/0\"]\n".to_owned();
}

#[test]
fn everything_goes_by_the_exit_node_but_what_the_daemon_sends() {
    run(|| {
        let mut net = Internet::new();
        let exit = net.public(Families::V4);
        // The others are reached by its default route alone, which the exit node takes over.
        let member = net.behind(crate::lab::boxes::Kind::FullCone);
        exit_node(&mut net.hosts[exit]);
        for host in [0, exit] {
            net.hosts[host].start(&How::Plain);
        }
        wait_until_announced(&net.hosts[exit]);
        let mirror = Mirror::start(&net);
        let outside = net.gate(member).outside.to_string();
        assert_eq!(mirror.sees(&net.hosts[member]), Some(outside.clone()));
        net.hosts[member].config.more = format!("[routing]\nexit_node = \"{}\"\n", address(&net.hosts[exit]));
        net.hosts[member].start(&How::Plain);
        let by_exit = net.hosts[exit].outer_v4.to_string();
        wait_for("it is seen at the exit node", SOON, || {
            (mirror.sees(&net.hosts[member]).as_ref() == Some(&by_exit)).then_some(())
        });
        net.wait_for_path(member, exit, "direct-kernel", SOON);
        assert_eq!(mirror.sees(&net.hosts[member]).as_ref(), Some(&by_exit));
        // Other members are reached as before, and the host's own network.
        wait_for_answer(&net.hosts[member], net.hosts[0].inner(false));
        net.wait_for_path(member, 0, "direct-kernel", SOON);
        assert_ne!(device_to(&net.hosts[member], "10.1.0.1"), "ipop0");
        assert_eq!(device_to(&net.hosts[member], Mirror::ADDRESS), "ipop0");
        assert_ne!(device_to(&net.hosts[member], "239.1.2.3"), "ipop0", "multicast stays on the wire");
        let explained = net.hosts[member].ctl(&["explain", Mirror::ADDRESS]);
        assert!(explained.contains("0.0.0.0/0 goes by"), "{explained}");
        // Without it, nothing goes past it.
        assert!(net.hosts[exit].take().terminate().success());
        wait_for("nothing goes past the exit node", SOON, || {
            let seen = mirror.sees(&net.hosts[member]);
            assert_ne!(seen.as_ref(), Some(&outside), "it has gone past the exit node");
            seen.is_none().then_some(())
        });
        assert!(net.hosts[member].take().terminate().success());
        assert_eq!(mirror.sees(&net.hosts[member]), Some(outside));
    });
}

#[test]
fn an_exit_node_is_one_for_ipv6_too_and_strict_filters_are_warned_of() {
    run(|| {
        let mut net = Internet::new();
        let (exit, member) = (net.public(Families::Both), net.public(Families::Both));
        exit_node(&mut net.hosts[exit]);
        for host in [0, exit] {
            net.hosts[host].start(&How::Plain);
        }
        wait_until_announced(&net.hosts[exit]);
        let mirror = Mirror::start_v6(&net);
        let own = net.hosts[member].outer_v6.to_string();
        wait_for("it is seen at its own address", SOON, || {
            (mirror.sees(&net.hosts[member]).as_ref() == Some(&own)).then_some(())
        });
        net.hosts[member].config.more = format!("[routing]\nexit_node = \"{}\"\n", address(&net.hosts[exit]));
        net.hosts[member].start(&How::Plain);
        let by_exit = net.hosts[exit].outer_v6.to_string();
        wait_for("it is seen at the exit node", SOON, || {
            (mirror.sees(&net.hosts[member]).as_ref() == Some(&by_exit)).then_some(())
        });
        let member = &net.hosts[member];
        assert!(!warnings(member).contains("reverse path"), "{}", warnings(member));
        member.ns.sysctl(&format!("net.ipv4.conf.{}.rp_filter", member.device), "1");
        let expected = format!("set net.ipv4.conf.{}.rp_filter to 2", member.device);
        assert!(warnings(member).contains(&expected), "{}", warnings(member));
        member.ns.sysctl(&format!("net.ipv4.conf.{}.rp_filter", member.device), "2");
        assert!(!warnings(member).contains("reverse path"), "{}", warnings(member));
    });
}

#[test]
fn two_sites_reach_each_other_by_their_routers() {
    run(|| {
        for kernel in ["auto", "off"] {
            let mut net = Internet::new();
            let routers = [net.public(Families::V4), net.public(Families::V4)];
            let sites = [Site::new(7), Site::new(8)];
            for (router, site, other) in [(routers[0], &sites[0], 8), (routers[1], &sites[1], 7)] {
                let accept = format!("accept = [{{ prefix = \"192.168.{other}.0/24\" }}]");
                site.router(&mut net.hosts[router], 1, &accept);
                net.hosts[router].config.datapath.insert("kernel", kernel.to_owned());
                site.host.ns.ip(&format!("route add 192.168.{other}.0/24 via 192.168.{}.1", site.number));
            }
            let net = net.up();
            for (router, other, prefix) in
                [(routers[0], routers[1], "192.168.8.0/24"), (routers[1], routers[0], "192.168.7.0/24")]
            {
                wait_for_router(&net.hosts[router], prefix, &net.hosts[other]);
            }
            let [one, two] = &sites;
            wait_for_answer(&one.host, two.host.inner(false));
            wait_for_answer(&two.host, one.host.inner(false));
            Tcp::transfer(&one.host, &two.host, two.host.inner(false), 16 * MIB);
            // Each packet has been forwarded twice.
            let text = one.host.ns.succeed("ping", &["-n", "-c", "1", &two.host.inner(false).to_string()]);
            assert!(text.contains("ttl=62"), "{text}");
        }
    });
}

#[test]
fn exit_nodes_of_each_other_do_not_send_in_circles() {
    run(|| {
        let mut net = Internet::new();
        let (one, two) = (net.public(Families::V4), net.public(Families::V4));
        let member = net.public(Families::V4);
        for host in [one, two] {
            exit_node(&mut net.hosts[host]);
        }
        let mirror = Mirror::start(&net);
        let net = net.up();
        let addresses = [one, two].map(|host| address(&net.hosts[host]));
        for host in [one, two] {
            wait_until_announced(&net.hosts[host]);
        }
        for (host, exit) in [(one, &addresses[1]), (two, &addresses[0]), (member, &addresses[0])] {
            let more = match host == member {
                true => format!("[routing]\nexit_node = \"{exit}\"\n"),
                false => format!("[routing]\nannounce = [\"0.0.0.0/0\"]\nexit_node = \"{exit}\"\n"),
            };
            net.hosts[host].config_reload(&more);
        }
        // Each host's own packets go by its exit node; those of others it sends out itself.
        for (host, exit) in [(one, two), (two, one), (member, one)] {
            let outside = net.hosts[exit].outer_v4.to_string();
            wait_for("it is seen at its exit node", SOON, || {
                (mirror.sees(&net.hosts[host]).as_ref() == Some(&outside)).then_some(())
            });
        }
    });
}
