//! Routes brought to a wanted set, and whose they are.

use ipop_user::netlink::{Monitor, ROUTE_PROTOCOL, Route};

use crate::net::{Net, changes_until_now, prefix, prefixes, virtual_device};

#[test]
fn routes_become_what_is_wanted_and_then_stay_untouched() {
    let Some(net) = Net::new("route") else { return };
    net.run(async |netlink| {
        let ifindex = virtual_device(&netlink).await;
        net.ip("route add 10.77.0.0/16 dev ipop0");
        let mut wanted = ["10.128.1.0/24", "10.200.0.0/16", "fd00:200::/32", "0.0.0.0/0"].map(route);
        wanted[1].mtu = Some(1300);
        wanted[1].source = Some("10.128.0.1".parse().unwrap());
        wanted[2].mtu = Some(1280);
        netlink.sync_routes(ifindex, &wanted).await.unwrap();
        assert_eq!(
            ours(&net),
            [
                "10.128.1.0/24 dev ipop0 scope link metric 117",
                "10.200.0.0/16 dev ipop0 scope link src 10.128.0.1 metric 117 mtu 1300",
                "default dev ipop0 scope link metric 117",
                "fd00:200::/32 dev ipop0 metric 117 mtu 1280 pref medium",
            ]
        );

        let mut monitor = Monitor::open().unwrap();
        netlink.sync_routes(ifindex, &wanted).await.unwrap();
        assert_eq!(changes_until_now(&netlink, &mut monitor).await, []);

        wanted[1].mtu = None;
        wanted[2].mtu = Some(1400);
        netlink.sync_routes(ifindex, &wanted[1..3]).await.unwrap();
        assert_eq!(
            ours(&net),
            [
                "10.200.0.0/16 dev ipop0 scope link src 10.128.0.1 metric 117",
                "fd00:200::/32 dev ipop0 metric 117 mtu 1400 pref medium",
            ]
        );

        netlink.sync_routes(ifindex, &[]).await.unwrap();
        assert_eq!(ours(&net), [""; 0]);
        assert!(net.ip("route show").contains("10.77.0.0/16 dev ipop0"), "a route of the operator's own");
    });
}

#[test]
fn routes_that_others_have_are_not_taken_and_the_rest_is_set() {
    let Some(net) = Net::new("conflict") else { return };
    net.run(async |netlink| {
        let ifindex = virtual_device(&netlink).await;
        net.ip("link add e0 type veth peer name e1");
        net.ip("link set e0 up");
        net.ip("route add 10.200.3.0/24 dev e0");
        net.ip("route add unreachable 10.201.0.0/16");
        net.ip("-6 route add fd00:200::/32 dev e0 metric 2000");
        for (wanted, words) in [
            ("10.200.0.0/16", "cannot route 10.200.0.0/16 to ipop0: 10.200.3.0/24 goes to e0 already"),
            ("10.200.3.0/24", "cannot route 10.200.3.0/24 to ipop0: 10.200.3.0/24 goes to e0 already"),
            (
                "10.201.0.0/16",
                "cannot route 10.201.0.0/16 to ipop0: 10.201.0.0/16 goes to unreachable already",
            ),
            ("fd00:200::/32", "cannot route fd00:200::/32 to ipop0: fd00:200::/32 goes to e0 already"),
        ] {
            let error =
                netlink.sync_routes(ifindex, &[route(wanted), route("10.128.9.0/24")]).await.unwrap_err();
            assert!(error.to_string().starts_with(words), "{error}");
            assert_eq!(ours(&net), ["10.128.9.0/24 dev ipop0 scope link metric 117"]);
        }
        let found =
            netlink.route_conflicts(ifindex, &prefixes(&["10.200.3.7/32", "10.200.3.7/24"])).await.unwrap();
        assert_eq!(found.len(), 1, "a less specific route elsewhere is no conflict: {found:?}");
    });
}

#[test]
fn routes_can_be_set_while_the_table_changes_all_the_time() {
    let Some(net) = Net::new("storm") else { return };
    net.run(async |netlink| {
        virtual_device(&netlink).await;
    });
    let line = |n: u32| format!("route replace 10.{}.{}.0/24 dev ipop0\n", 200 + (n >> 8 & 31), n & 255);
    let lines: String = (0..30_000).map(line).collect();
    let wanted = ["10.128.1.0/24", "10.128.2.0/24", "fd00:200::/32"].map(route);
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| net.batch(&lines));
        net.run(async |netlink| {
            let ifindex = netlink.link("ipop0").await.unwrap().ifindex;
            let mut rounds = 0;
            while !storm.is_finished() {
                rounds += 1;
                netlink.sync_routes(ifindex, &wanted[..rounds % 4]).await.unwrap();
                assert_eq!(ours(&net).len(), rounds % 4);
            }
            assert!(rounds > 4, "too short a storm: {rounds}");
        });
    });
}

fn route(text: &str) -> Route {
    Route { prefix: prefix(text), mtu: None, source: None }
}

/// The routes of our protocol, as `ip` shows them.
fn ours(net: &Net) -> Vec<String> {
    let show = |family: &str| net.ip(&format!("{family} route show proto {ROUTE_PROTOCOL}"));
    let mut lines: Vec<_> =
        (show("-4") + &show("-6")).lines().map(|line| line.trim().replace("  ", " ")).collect();
    lines.sort();
    lines
}
