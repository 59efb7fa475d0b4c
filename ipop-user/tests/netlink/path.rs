//! Ways to a peer, and why there is none.

use std::net::IpAddr;

use ipop_user::netlink::{Error, Netlink, Path};

use crate::net::{Net, virtual_device};

#[test]
fn a_path_has_device_source_gateway_and_mtu() {
    let Some(net) = Net::new("path") else { return };
    net.run(async |netlink| {
        let ifindex = wire_with_routes(&net, &netlink).await;
        let path = |peer: &str, mark: Option<u32>| netlink.resolve(peer.parse().unwrap(), mark, &[]);
        let expect = |source: &str, next_hop: &str, on_link: bool, mtu: u32| {
            let next_hop: IpAddr = next_hop.parse().unwrap();
            let gateway = (!on_link).then_some(next_hop);
            Path { ifindex, source: source.parse().unwrap(), gateway, mtu, next_hop }
        };
        assert_eq!(path("10.9.0.2", None).await.unwrap(), expect("10.9.0.1", "10.9.0.2", true, 1500));
        assert_eq!(path("fd09::2", None).await.unwrap(), expect("fd09::1", "fd09::2", true, 1500));
        assert_eq!(path("10.20.0.1", None).await.unwrap(), expect("10.9.0.1", "10.9.0.254", false, 1300));
        assert_eq!(path("fd20::1", None).await.unwrap(), expect("fd09::1", "fd09::fe", false, 1300));
        assert_eq!(path("10.40.0.1", None).await.unwrap(), expect("10.9.0.1", "fd09::7", false, 1500));
        assert_eq!(path("192.0.2.1", Some(9)).await.unwrap(), expect("10.9.0.1", "10.9.0.253", false, 1500));
        netlink.set_mtu(ifindex, 1290).await.unwrap();
        assert_eq!(
            path("10.20.0.1", None).await.unwrap().mtu,
            1290,
            "the device's MTU is less than the route's"
        );
    });
}

#[test]
fn where_there_is_no_path_the_error_says_why() {
    let Some(net) = Net::new("nopath") else { return };
    net.run(async |netlink| {
        wire_with_routes(&net, &netlink).await;
        let ours = virtual_device(&netlink).await;
        let refused =
            async |peer: &str| netlink.resolve(peer.parse().unwrap(), None, &[ours]).await.unwrap_err();
        for peer in ["192.0.2.1", "10.30.0.1", "10.31.0.1", "10.32.0.1", "2001:db8::1", "fd30::1"] {
            let error = refused(peer).await;
            assert!(matches!(error, Error::NoRoute { .. }), "{error}");
        }
        for peer in ["10.9.0.1", "127.0.0.1", "fd09::1", "::1"] {
            let error = refused(peer).await;
            assert!(matches!(error, Error::PeerIsLocal { .. }), "{error}");
        }
        for peer in ["10.9.0.255", "ff02::1"] {
            let error = refused(peer).await;
            assert!(matches!(error, Error::PeerNotUnicast { .. }), "{peer}: {error}");
        }
        for peer in ["10.128.0.2", "fd00:128::2"] {
            let error = refused(peer).await;
            assert!(matches!(&error, Error::PathLoop { device, .. } if device == "ipop0"), "{error}");
        }
    });
}

/// `e0` with routes of every kind.
async fn wire_with_routes(net: &Net, netlink: &Netlink) -> u32 {
    for words in [
        "link add e0 type veth peer name e1",
        "link set e0 up",
        "link set e1 up",
        "addr add 10.9.0.1/24 dev e0",
        "addr add fd09::1/64 dev e0 nodad",
        "route add 10.20.0.0/16 via 10.9.0.254 mtu 1300",
        "route add fd20::/16 via fd09::fe mtu 1300",
        "route add 10.40.0.0/16 via inet6 fd09::7 dev e0",
        "route add unreachable 10.30.0.0/16",
        "route add prohibit 10.31.0.0/16",
        "route add blackhole 10.32.0.0/16",
        "route add unreachable fd30::/16",
        "rule add fwmark 9 table 100",
        "route add 192.0.2.0/24 via 10.9.0.253 table 100",
    ] {
        net.ip(words);
    }
    netlink.link("e0").await.unwrap().ifindex
}
