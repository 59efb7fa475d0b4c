//! Groups: what one host sends reaches the members and nobody else, by the tree of the group.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use simple_mdns::sync_discovery::ServiceDiscovery;
use simple_mdns::{InstanceInformation, NetworkScope};
use socket2::SockRef;

use crate::lab::crowd::Crowd;
use crate::lab::host::Host;
use crate::lab::{How, SOON, run, wait_for};

const PORT: u16 = 7400;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x123);
/// For trees that are built, and built anew.
const PATIENCE: Duration = Duration::from_secs(120);

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
    let up: Vec<&Host> = crowd.hosts.iter().filter(|host| host.daemon.is_some()).collect();
    let names: Vec<Value> = up.iter().map(|host| host.ask("/v1/status")["address"].clone()).collect();
    let members: Vec<Value> =
        members.iter().map(|member| crowd.hosts[*member].ask("/v1/status")["address"].clone()).collect();
    wait_for(&format!("a tree of {group}"), PATIENCE, || {
        let seen = up.iter().zip(&names).filter_map(|(host, name)| Some((name, shown(host, group)?)));
        is_tree(&seen.collect::<Vec<_>>(), &members).then_some(())
    });
}

/// Whether what those in a tree say, each by its address, is one tree with these members.
fn is_tree(seen: &[(&Value, Value)], members: &[Value]) -> bool {
    let of = |address: &Value| seen.iter().find(|(name, _)| *name == address).map(|(_, shown)| shown);
    let roots = seen.iter().filter(|(_, shown)| shown["root"] == true).count();
    let is_known = |(name, shown): &(&Value, Value)| {
        let parent = of(&shown["parent"]["address"]);
        let mut children = parent.and_then(|parent| parent["children"].as_array()).into_iter().flatten();
        shown["root"] == true || children.any(|child| child["address"] == **name)
    };
    let is_member = |member: &Value| of(member).is_some_and(|shown| shown["member"] == true);
    roots == 1 && members.iter().all(is_member) && seen.iter().all(is_known)
}

/// Datagrams that each two hosts have exchanged, by their addresses; each way apart.
fn by_link(crowd: &Crowd) -> BTreeMap<[String; 2], u64> {
    let mut all = BTreeMap::new();
    for host in crowd.hosts.iter().filter(|host| host.daemon.is_some()) {
        let own = host.ask("/v1/status")["address"].to_string();
        let groups = host.ask("/v1/groups");
        for link in groups["links"].as_array().into_iter().flatten() {
            let sent = link["sent"].as_u64().expect("a number");
            all.insert([own.clone(), link["node"]["address"].to_string()], sent);
        }
    }
    all
}

/// Waits until a socket has got so much, and says what.
#[track_caller]
fn wait_for_all(socket: &UdpSocket, count: usize) -> Vec<(Vec<u8>, IpAddr)> {
    let mut all = Vec::new();
    wait_for("all that was sent", SOON, || {
        all.extend(heard(socket));
        (all.len() >= count).then_some(())
    });
    all
}

#[test]
fn a_group_s_members_hear_what_is_sent_to_it_and_others_do_not() {
    run(|| {
        let crowd = Crowd::new(4).up();
        let hosts = &crowd.hosts;
        for v6 in [false, true] {
            let to = group(v6);
            let members: Vec<UdpSocket> =
                [1, 2].iter().map(|index| member(&hosts[*index], to, PORT)).collect();
            let outsider = hosts[3].ns.inside(move || {
                let any: IpAddr =
                    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                UdpSocket::bind((any, PORT)).expect("a port of one's own")
            });
            outsider.set_nonblocking(true).expect("a flag");
            wait_for_tree(&crowd, &to.to_string(), &[1, 2]);
            let before = hosts[3].counter("rx_multicast");
            let from = sender(&hosts[0], v6);
            let payloads: Vec<Vec<u8>> =
                (0..20u8).map(|number| vec![number; 100 + usize::from(number)]).collect();
            payloads.iter().for_each(|payload| send(&hosts[0], &from, to, PORT, payload));
            for socket in &members {
                let all = wait_for_all(socket, payloads.len());
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

/// One sends, and 31 hear it; no connection carries a datagram twice, and the sender sends no copy to each.
#[test]
fn thirty_one_members_hear_one_sender_by_a_tree() {
    const COUNT: usize = 10;
    run(|| {
        let crowd = Crowd::new(32).up();
        let all: Vec<usize> = (1..32).collect();
        let members: Vec<UdpSocket> =
            all.iter().map(|index| member(&crowd.hosts[*index], group(false), PORT)).collect();
        wait_for_tree(&crowd, &group(false).to_string(), &all);
        let before = by_link(&crowd);
        let from = sender(&crowd.hosts[0], false);
        for number in 0..COUNT {
            send(&crowd.hosts[0], &from, group(false), PORT, &[number as u8; 500]);
        }
        for socket in &members {
            let mut all = wait_for_all(socket, COUNT);
            all.sort();
            let own = crowd.hosts[0].inner(false);
            let expected: Vec<_> = (0..COUNT).map(|number| (vec![number as u8; 500], own)).collect();
            assert_eq!(all, expected, "each once");
        }
        let after = by_link(&crowd);
        let sender = crowd.hosts[0].ask("/v1/status")["address"].to_string();
        let (mut by_sender, mut total) = (0, 0);
        for ([from, to], sent) in &after {
            let copies = sent - before.get(&[from.clone(), to.clone()]).unwrap_or(&0);
            let back = [to.clone(), from.clone()];
            let back = after.get(&back).unwrap_or(&0) - before.get(&back).unwrap_or(&0);
            assert!(copies + back <= 2 * COUNT as u64, "{from} and {to}: {copies} and {back}");
            total += copies;
            by_sender += if *from == sender { copies } else { 0 };
        }
        eprintln!("{total} copies of {COUNT} datagrams, {by_sender} of them by the sender");
        assert!(total < 40 * COUNT as u64, "{total} copies");
        assert!(by_sender <= 20 * COUNT as u64, "{by_sender} copies by the sender");
    });
}

#[test]
fn a_broadcast_reaches_all_nodes() {
    run(|| {
        let crowd = Crowd::new(4).up();
        wait_for_tree(&crowd, "all", &[0, 1, 2, 3]);
        let bind = |host: &Host| {
            let socket = host.ns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("a port");
            socket.set_nonblocking(true).expect("a flag");
            socket
        };
        let others: Vec<UdpSocket> = crowd.hosts[1..].iter().map(bind).collect();
        let from = sender(&crowd.hosts[0], false);
        from.set_broadcast(true).expect("a flag");
        SockRef::from(&from).bind_device(Some(b"ipop0")).expect("the device is there");
        for to in [Ipv4Addr::new(10, 128, 0, 255), Ipv4Addr::BROADCAST] {
            from.send_to(b"to all", (to, PORT)).expect("there is a way to all");
            for socket in &others {
                let heard = wait_for_all(socket, 1);
                assert_eq!(heard, [(b"to all".to_vec(), crowd.hosts[0].inner(false))], "{to}");
            }
        }
        // The same by the address of all hosts.
        let answers =
            crowd.hosts[0].ns.output("ping", &["-n", "-c", "1", "-W", "5", "-I", "ipop0", "ff02::1"]);
        assert!(answers.status.success(), "{}", String::from_utf8_lossy(&answers.stdout));
    });
}

/// The virtual device is the TUN itself then.
#[test]
fn groups_work_without_a_kernel_path() {
    run(|| {
        let mut crowd = Crowd::new(3);
        for host in &mut crowd.hosts {
            host.config.datapath.insert("kernel", "off".to_owned());
        }
        let crowd = crowd.up();
        for v6 in [false, true] {
            let members = [0, 2].map(|index| member(&crowd.hosts[index], group(v6), PORT));
            wait_for_tree(&crowd, &group(v6).to_string(), &[0, 2]);
            let from = sender(&crowd.hosts[1], v6);
            send(&crowd.hosts[1], &from, group(v6), PORT, b"by the user path");
            for socket in &members {
                let expected = (b"by the user path".to_vec(), crowd.hosts[1].inner(v6));
                assert_eq!(wait_for_all(socket, 1), [expected]);
            }
        }
    });
}

/// A source address that is not the sender's, and a flood.
#[test]
fn what_a_member_may_not_send_is_refused_and_counted() {
    run(|| {
        let crowd = Crowd::new(3).up();
        let hosts = &crowd.hosts;
        let to = group(false);
        let member = member(&hosts[2], to, PORT);
        wait_for_tree(&crowd, &to.to_string(), &[2]);
        let honest = sender(&hosts[0], false);
        send(&hosts[0], &honest, to, PORT, b"honest");
        assert_eq!(wait_for_all(&member, 1).len(), 1);
        for (address, counter) in [
            (hosts[1].inner_v4, "rx_wrong_inner_source"),
            (Ipv4Addr::new(10, 128, 0, 77), "rx_group_unverified"),
            (Ipv4Addr::new(192, 0, 2, 7), "rx_wrong_inner_source"),
        ] {
            hosts[0].ns.ip(&format!("addr add {address}/32 dev ipop0"));
            let before = hosts[2].counter(counter);
            let liar = hosts[0].ns.inside(move || UdpSocket::bind((address, 0)).expect("it has the address"));
            send(&hosts[0], &liar, to, PORT, b"in another's name");
            hosts[2].wait_for_counter(counter, before, 1);
        }
        assert_eq!(heard(&member), []);
        // More than one origin may send: its own daemon refuses the rest, and goes on.
        let refused = || hosts[0].counter("tx_group_refused") + hosts[0].counter("tx_group_full");
        let before = refused();
        wait_for("a flood is refused", SOON, || {
            (0..500).for_each(|_| send(&hosts[0], &honest, to, PORT, &[7; 1000]));
            (refused() > before).then_some(())
        });
        wait_for("the group is as before", PATIENCE, || {
            heard(&member);
            send(&hosts[0], &honest, to, PORT, b"again");
            wait_for_all(&member, 1).iter().any(|(payload, _)| payload == b"again").then_some(())
        });
    });
}

#[test]
fn a_tree_heals_when_a_daemon_is_killed_and_started_again() {
    run(|| {
        let mut crowd = Crowd::new(6).up();
        let to = group(true);
        let members: Vec<UdpSocket> = (1..6).map(|index| member(&crowd.hosts[index], to, PORT)).collect();
        wait_for_tree(&crowd, &to.to_string(), &[1, 2, 3, 4, 5]);
        let root = (1..6).max_by_key(|index| {
            let shown = shown(&crowd.hosts[*index], &to.to_string());
            shown.and_then(|shown| Some(shown["children"].as_array()?.len()))
        });
        let root = root.expect("five members");
        crowd.hosts[root].take().kill();
        let left: Vec<usize> = (1..6).filter(|index| *index != root).collect();
        let from = sender(&crowd.hosts[0], true);
        let reaches = |crowd: &Crowd, wanted: &[usize]| {
            members.iter().for_each(|socket| drop(heard(socket)));
            send(&crowd.hosts[0], &from, to, PORT, b"still there");
            let mut missing: Vec<usize> = wanted.to_vec();
            crate::lab::within(Duration::from_secs(2), || {
                missing.retain(|index| heard(&members[index - 1]).is_empty());
                missing.is_empty().then_some(())
            })
        };
        wait_for("all that are left hear it", PATIENCE, || reaches(&crowd, &left));
        crowd.hosts[root].start(&How::Plain);
        // The kernel path's device has outlived the daemon, and with it the host's membership.
        wait_for("all hear it again", PATIENCE, || reaches(&crowd, &[1, 2, 3, 4, 5]));
    });
}

/// Two programs with multicast DNS, one on each of two nodes. They choose no device to send by: a route does.
#[test]
fn multicast_dns_finds_a_service_of_another_node() {
    const SERVICE: &str = "_ipop-test._udp.local";
    run(|| {
        let mut crowd = Crowd::new(3);
        for host in &mut crowd.hosts {
            host.config.network.insert("multicast_route", "true".to_owned());
        }
        let crowd = crowd.up();
        let start = |host: &Host, name: &str, port: u16| {
            let own = host.inner_v4;
            let instance = InstanceInformation::new(name.to_owned()).with_socket_address((own, port).into());
            host.ns.inside(move || {
                let scope = NetworkScope::V4WithInterface(own);
                ServiceDiscovery::new_with_scope(instance, SERVICE, 120, None, scope).expect("multicast DNS")
            })
        };
        let first = start(&crowd.hosts[1], "one", 4711);
        // So that the other's first words find a tree.
        let mdns = IpAddr::from([224, 0, 0, 251]);
        let _member = member(&crowd.hosts[2], mdns, PORT);
        wait_for_tree(&crowd, &mdns.to_string(), &[1, 2]);
        let second = start(&crowd.hosts[2], "two", 4712);
        for (browser, other, port) in [(&first, 2, 4712), (&second, 1, 4711)] {
            let own: IpAddr = crowd.hosts[other].inner_v4.into();
            wait_for(&format!("host {} is found", other + 1), SOON, || {
                let known = browser.get_known_services();
                let is_it = |found: &InstanceInformation| {
                    found.ip_addresses.contains(&own) && found.ports.contains(&port)
                };
                known.iter().any(is_it).then_some(())
            });
        }
        assert!(shown(&crowd.hosts[0], &mdns.to_string()).is_none_or(|shown| shown["member"] == false));
        let route = crowd.hosts[1].ns.ip("route show 224.0.0.0/4");
        assert!(route.contains("dev ipop0"), "{route}");
    });
}
