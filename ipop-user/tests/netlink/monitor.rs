//! Changes are announced, and losing some is too.

use ipop_user::netlink::{Change, LinkState, Monitor};

use crate::net::{Net, changes_until_now, until, virtual_device};

#[test]
fn changes_of_links_addresses_and_routes_are_announced() {
    let Some(net) = Net::new("monitor") else { return };
    net.run(async |netlink| {
        let mut monitor = Monitor::open().unwrap();
        net.ip("link add e0 type veth peer name e1");
        let e0 = until_link(&mut monitor, "e0", |_| true).await.ifindex;
        assert_eq!(e0, netlink.link("e0").await.unwrap().ifindex);
        net.ip("link set e0 up");
        until_link(&mut monitor, "e0", |link| link.up && !link.running).await;
        net.ip("link set e1 up");
        until_link(&mut monitor, "e0", |link| link.running && link.carrier).await;
        net.ip("link set e0 address 02:00:00:00:00:42");
        until_link(&mut monitor, "e0", |link| link.mac == Some([2, 0, 0, 0, 0, 0x42])).await;
        net.ip("addr add 10.9.0.1/24 dev e0");
        until(&mut monitor, "an address", |change| {
            (*change == Change::Address { ifindex: e0 }).then_some(())
        })
        .await;

        changes_until_now(&netlink, &mut monitor).await;
        for words in
            ["route add 10.20.0.0/16 via 10.9.0.2", "rule add fwmark 9 table 100", "nexthop add id 7 dev e0"]
        {
            net.ip(words);
            assert_eq!(changes_until_now(&netlink, &mut monitor).await, [Change::Route], "{words}");
        }

        net.ip("link set e1 down");
        until_link(&mut monitor, "e0", |link| link.up && !link.running).await;
        net.ip("link add b0 type bridge");
        net.ip("link set e0 master b0");
        net.ip("link set e0 nomaster");
        let changes = changes_until_now(&netlink, &mut monitor).await;
        assert!(!changes.contains(&Change::LinkGone(e0)), "leaving a bridge is not going: {changes:?}");
        net.ip("link del e0");
        until(&mut monitor, "e0 gone", |change| (*change == Change::LinkGone(e0)).then_some(())).await;
    });
}

#[test]
fn a_consumer_that_lags_is_told_and_can_go_on() {
    let Some(net) = Net::new("overflow") else { return };
    net.run(async |netlink| {
        virtual_device(&netlink).await;
        let mut monitor = Monitor::open().unwrap();
        let count = 40_000;
        let routes = |verb: &str| -> String {
            let line = |n: u32| {
                format!("route {verb} 10.{}.{}.{}/32 dev ipop0\n", 200 + (n >> 16), n >> 8 & 255, n & 255)
            };
            (0..count).map(line).collect()
        };
        net.batch(&routes("add"));
        until(&mut monitor, "overflow", |change| (*change == Change::Lost).then_some(())).await;
        // What followed the overflow may still be queued; then all is as before.
        changes_until_now(&netlink, &mut monitor).await;
        net.ip("route add 10.250.0.0/16 dev ipop0");
        assert_eq!(changes_until_now(&netlink, &mut monitor).await, [Change::Route]);
    });
}

async fn until_link(monitor: &mut Monitor, name: &str, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
    let take = |change: &Change| match change {
        Change::Link(link) if link.name == name && wanted(link) => Some(link.clone()),
        _ => None,
    };
    until(monitor, name, take).await
}
