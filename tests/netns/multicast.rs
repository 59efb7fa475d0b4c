//! Groups: what one host sends reaches the members and nobody else, by the tree of the group.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;

use crate::lab::crowd::Crowd;
use crate::lab::host::Host;
use crate::lab::{SOON, run, wait_for};

const PORT: u16 = 7400;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x123);
/// For trees that are built, and built anew.
const PATIENCE: Duration = Duration::from_secs(60);

fn group(v6: bool) -> IpAddr {
    if v6 { GROUP_V6.into() } else { GROUP_V4.into() }
}

fn index_of_device(host: &Host) -> u32 {
    let shown = host.ns.ip("-o link show ipop0");
    shown.split(':').next().and_then(|index| index.trim().parse().ok()).expect("the device's index")
}

/// A socket of a host's that is a member of a group on the virtual device.
fn member(host: &Host, group: IpAddr, port: u16) -> UdpSocket {
    let index = index_of_device(host);
    let own = host.inner_v4;
    host.ns.inside(move || {
        let any: IpAddr =
            if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, port)).expect("a port of one's own");
        match group {
            IpAddr::V4(group) => socket.join_multicast_v4(&group, &own),
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index),
        }
        .expect("the device takes members");
        socket.set_nonblocking(true).expect("a flag");
        socket
    })
}

/// A socket that sends to groups from the virtual device.
fn sender(host: &Host, v6: bool) -> UdpSocket {
    let (own, index) = (host.inner(v6), index_of_device(host));
    host.ns.inside(move || {
        let socket = UdpSocket::bind((own, 0)).expect("the device has its address");
        if v6 {
            SockRef::from(&socket).set_multicast_if_v6(index).expect("the device takes packets to groups");
        }
        socket
    })
}

fn send(host: &Host, socket: &UdpSocket, to: IpAddr, port: u16, payload: &[u8]) {
    let to: SocketAddr = match to {
        IpAddr::V4(to) => (to, port).into(),
        IpAddr::V6(to) => SocketAddrV6::new(to, port, 0, index_of_device(host)).into(),
    };
    socket.send_to(payload, to).expect("there is a way to the group");
}

/// All that a socket has.
fn heard(socket: &UdpSocket) -> Vec<(Vec<u8>, IpAddr)> {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| {
        let (len, from) = socket.recv_from(&mut buffer).ok()?;
        Some((buffer[..len].to_vec(), from.ip()))
    })
    .collect()
}

/// The group as a host's daemon sees it.
fn shown(host: &Host, group: &str) -> Option<Value> {
    let groups = host.ask("/v1/groups");
    groups["groups"].as_array()?.iter().find(|shown| shown["group"] == group).cloned()
}

/// Waits until all members are in one tree: one root, and everybody else has a parent that knows it.
#[track_caller]
fn wait_for_tree(crowd: &Crowd, group: &str, members: &[usize]) {
    wait_for(&format!("a tree of {group}"), PATIENCE, || is_tree(crowd, group, members).then_some(()));
}

fn is_tree(crowd: &Crowd, group: &str, members: &[usize]) -> bool {
    let up = crowd.hosts.iter().enumerate().filter(|(_, host)| host.daemon.is_some());
    let seen: BTreeMap<usize, Value> =
        up.filter_map(|(index, host)| Some((index, shown(host, group)?))).collect();
    let address = |index: &usize| crowd.hosts[*index].ask("/v1/status")["address"].clone();
    let children_of = |parent: &Value| {
        let parent = seen.iter().find(|(index, _)| address(index) == parent["address"]);
        parent.map(|(_, shown)| shown["children"].to_string()).unwrap_or_default()
    };
    let roots = seen.values().filter(|shown| shown["root"] == true).count();
    let is_member = |member: &usize| seen.get(member).is_some_and(|shown| shown["member"] == true);
    let is_known = |(index, shown): (&usize, &Value)| {
        shown["root"] == true
            || children_of(&shown["parent"]).contains(&address(index).to_string())
    };
    roots == 1 && members.iter().all(is_member) && seen.iter().all(is_known)
}

#[test]
fn a_group_s_members_hear_what_is_sent_to_it_and_others_do_not() {
    run(|| {
        let crowd = Crowd::new(4).up();
        let hosts = &crowd.hosts;
        for v6 in [false, true] {
            let to = group(v6);
            let members: Vec<UdpSocket> = [1, 2].iter().map(|index| member(&hosts[*index], to, PORT)).collect();
            let outsider = hosts[3].ns.inside(move || {
                let any: IpAddr =
                    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                UdpSocket::bind((any, PORT)).expect("a port of one's own")
            });
            outsider.set_nonblocking(true).expect("a flag");
            wait_for_tree(&crowd, &to.to_string(), &[1, 2]);
            let before = hosts[3].counter("rx_multicast");
            let from = sender(&hosts[0], v6);
            let payloads: Vec<Vec<u8>> = (0..20u8).map(|number| vec![number; 100 + usize::from(number)]).collect();
            payloads.iter().for_each(|payload| send(&hosts[0], &from, to, PORT, payload));
            for socket in &members {
                let mut all = Vec::new();
                wait_for("all that was sent", SOON, || {
                    all.extend(heard(socket));
                    (all.len() >= payloads.len()).then_some(())
                });
                let own = hosts[0].inner(v6);
                let expected: Vec<_> = payloads.iter().map(|payload| (payload.clone(), own)).collect();
                assert_eq!(all, expected, "each once, and in order");
            }
            assert_eq!(heard(&outsider), []);
            assert_eq!(hosts[3].counter("rx_multicast"), before);
            assert!(shown(&hosts[3], &to.to_string()).is_none_or(|shown| shown["member"] == false));
            let text = hosts[1].ctl(&["groups"]);
            assert!(text.contains(&to.to_string()) && text.contains("member"), "{text}");
        }
    });
}
