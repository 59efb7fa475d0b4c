//! Neighbours found, followed and missed, with the time that it takes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipop_user::netlink::{Change, Monitor};

use crate::net::{Net, eventually, say, until};

#[test]
fn neighbours_are_found_followed_and_missed() {
    let (Some(net), Some(peer)) = (Net::new("here"), Net::new("there")) else { return };
    wire(&net, &peer);
    net.run(async |netlink| {
        let ifindex = netlink.link("e0").await.unwrap().ifindex;
        until_link_local(&net).await;
        for (here, there, nobody) in
            [("10.9.0.1", "10.9.0.2", "10.9.0.77"), ("fd09::1", "fd09::2", "fd09::77")]
        {
            let family = if here.contains(':') { "IPv6" } else { "IPv4" };
            let address: IpAddr = there.parse().unwrap();
            let mut monitor = Monitor::open().unwrap();
            assert_eq!(netlink.neighbour(ifindex, address).await.unwrap(), None);

            let mac = move_to(&peer, "02:00:00:00:00:01");
            let start = Instant::now();
            netlink.probe_neighbour(ifindex, address).await.unwrap();
            until_mac(&mut monitor, address, Some(mac)).await;
            report(family, "absent, probed", start);
            assert_eq!(netlink.neighbour(ifindex, address).await.unwrap(), Some(mac));

            net.ip(&format!("neigh change {there} dev e0 nud stale"));
            let start = Instant::now();
            netlink.probe_neighbour(ifindex, address).await.unwrap();
            let reachable = format!("neigh show {there} nud reachable");
            eventually("a stale entry is confirmed", || net.ip(&reachable).contains("REACHABLE")).await;
            assert!(start.elapsed() < Duration::from_secs(4), "sooner than by itself (5 s)");
            report(family, "stale, probed", start);

            let mac = move_to(&peer, "02:00:00:00:00:02");
            let start = Instant::now();
            netlink.renew_neighbour(ifindex, address).await.unwrap();
            until_mac(&mut monitor, address, Some(mac)).await;
            assert!(start.elapsed() < Duration::from_secs(1));
            report(family, "moved in silence, renewed", start);

            let mac = move_to(&peer, "02:00:00:00:00:03");
            let start = Instant::now();
            peer.exec(&format!("ping -c 1 -W 5 {here}"));
            until_mac(&mut monitor, address, Some(mac)).await;
            assert!(start.elapsed() < Duration::from_secs(1));
            report(family, "moved and spoke", start);

            net.ip(&format!("neigh replace {there} lladdr 02:00:00:00:00:09 dev e0 nud permanent"));
            netlink.probe_neighbour(ifindex, address).await.unwrap();
            netlink.renew_neighbour(ifindex, address).await.unwrap();
            assert!(net.ip(&format!("neigh show {there}")).contains("02:00:00:00:00:09 PERMANENT"));

            let start = Instant::now();
            netlink.probe_neighbour(ifindex, nobody.parse().unwrap()).await.unwrap();
            until_mac(&mut monitor, nobody.parse().unwrap(), None).await;
            report(family, "nobody there", start);
        }
    });
}

/// `e0` in one namespace, `e1` in the other, with addresses.
fn wire(net: &Net, peer: &Net) {
    net.ip(&format!("link add e0 type veth peer name e1 netns {}", peer.name));
    for (net, device, last) in [(net, "e0", 1), (peer, "e1", 2)] {
        net.ip(&format!("link set {device} up"));
        net.ip(&format!("addr add 10.9.0.{last}/24 dev {device}"));
        net.ip(&format!("addr add fd09::{last}/64 dev {device} nodad"));
    }
}

/// The kernel solicits IPv6 neighbours from its link-local address, once that is no longer tentative.
async fn until_link_local(net: &Net) {
    let shown = || net.ip("-6 addr show scope link -tentative");
    eventually("a link-local address", || shown().contains("fe80::")).await;
}

/// Gives the far end of the wire another MAC, of which it tells nobody.
fn move_to(peer: &Net, mac: &str) -> [u8; 6] {
    peer.ip(&format!("link set e1 address {mac}"));
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

async fn until_mac(monitor: &mut Monitor, wanted: IpAddr, wanted_mac: Option<[u8; 6]>) {
    let take = |change: &Change| match change {
        Change::Neighbour { address, mac, .. } if *address == wanted && *mac == wanted_mac => Some(()),
        _ => None,
    };
    until(monitor, "a neighbour", take).await;
}

fn report(family: &str, what: &str, start: Instant) {
    say(&format!("{family} {what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3));
}
