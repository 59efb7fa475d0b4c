//! Addresses brought to a wanted set.

use std::fs;

use ipop_user::netlink::{Change, Error, Monitor, Payload};

use crate::net::{Net, PORT, changes_until_now, prefixes};

#[test]
fn addresses_become_what_is_wanted_and_then_stay_untouched() {
    let Some(net) = Net::new("address") else { return };
    net.ip("link add e0 type veth peer name e1");
    for words in
        ["link set e0 up", "link set e1 up", "addr add 10.1.0.9/24 dev e0", "addr add 10.1.0.8/24 dev e0"]
    {
        net.ip(words);
    }
    net.ip("addr add 10.2.0.1 peer 10.2.0.2 dev e0");
    net.ip("addr add 10.9.0.1/24 dev e1");
    net.run(async |netlink| {
        let ifindex = netlink.link("e0").await.unwrap().ifindex;
        let other = netlink.link("e1").await.unwrap().ifindex;
        let others = netlink.addresses(other).await.unwrap();
        let all = prefixes(&["10.1.0.8/24", "10.2.0.1/32", "10.128.0.1/16", "fd00:128::1/64"]);
        netlink.sync_addresses(ifindex, &all).await.unwrap();
        assert_eq!(netlink.addresses(ifindex).await.unwrap(), all);
        assert_eq!(net.ip("-6 addr show dev e0 tentative"), "", "no duplicate address detection");

        let mut monitor = Monitor::open().unwrap();
        netlink.sync_addresses(ifindex, &all).await.unwrap();
        let changes = changes_until_now(&netlink, &mut monitor).await;
        assert!(!changes.contains(&Change::Address { ifindex }), "{changes:?}");

        netlink.sync_addresses(ifindex, &all[..2]).await.unwrap();
        assert_eq!(netlink.addresses(ifindex).await.unwrap(), &all[..2]);
        netlink.sync_addresses(ifindex, &[]).await.unwrap();
        assert_eq!(netlink.addresses(ifindex).await.unwrap(), []);
        assert_eq!(netlink.addresses(other).await.unwrap()[0], others[0]);
    });
}

#[test]
fn where_ipv6_is_off_the_error_says_so_and_ipv4_is_set_all_the_same() {
    let Some(net) = Net::new("noipv6") else { return };
    net.run(async |netlink| {
        let ifindex = netlink.create_vxlan("ipop0", Payload::Packets, PORT, 1464).await.unwrap();
        fs::write("/proc/sys/net/ipv6/conf/ipop0/disable_ipv6", "1").unwrap();
        let error =
            netlink.sync_addresses(ifindex, &prefixes(&["fd00::1/64", "10.0.0.1/24"])).await.unwrap_err();
        assert!(matches!(&error, Error::Ipv6Off { device, .. } if device == "ipop0"), "{error}");
        assert_eq!(netlink.addresses(ifindex).await.unwrap(), prefixes(&["10.0.0.1/24"]));
    });
}
