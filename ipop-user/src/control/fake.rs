//! A daemon for tests: answers every request of the control server with fixed values.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipop_common::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::api::{
    Attach, CIPHER, CounterGroup, Counters, Datapath, DeviceKind, Explanation, Interface, IoBackend,
    KernelState, Link, Path, Peer, Ping, Route, Security, Selector, Status, Step, Subnet, SubnetState,
    Traffic, XdpState, link_id,
};
use crate::api::{
    Bootstrap, Connections, Coordinates, Dhcp, DhcpMode, DhcpPool, DhtAnswer, Dns, Group, GroupLink, Groups,
    Hop, HopEnd, Lease, Nat, Neighbour, NodeRef, Overlay, OverlayState, PortMapping, RingEdge, RingNode,
    Seen, Station, Stations, StunServer, TurnServer,
};
use crate::control::{Probe, Request};
use crate::key::{NodeAddress, PublicKey};

pub(crate) fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

pub(crate) fn status() -> Status {
    Status {
        name: "alpha".to_owned(),
        address: key(1).node_address(),
        public_key: key(1).to_string(),
        version: "0.1.0".to_owned(),
        uptime_s: 3725,
        network: "demo".to_owned(),
        device: "ipop0".to_owned(),
        virtual_ips: vec!["10.128.0.1/24".to_owned(), "fd00:128::1/64".to_owned()],
        mtu: 1464,
        listen: vec!["0.0.0.0:15000".parse().unwrap(), "[::]:15000".parse().unwrap()],
        listen_tcp: vec!["0.0.0.0:443".parse().unwrap()],
        datapath: Datapath {
            kernel: KernelState::On,
            kernel_reason: None,
            attach: Some(Attach::Tcx),
            xdp: XdpState::Off,
            xdp_reason: Some("veth copies packets for native XDP".to_owned()),
            io: IoBackend::IoUring,
            io_reason: None,
            queues: 2,
            device_kind: DeviceKind::Vxlan,
        },
        interfaces: vec![Interface { name: "p1".to_owned(), attached: vec!["tcx ingress".to_owned()] }],
        peers_total: 2,
        peers_direct: 1,
        overlay: Some(overlay()),
        membership: None,
        dns: Dns {
            domain: Some("demo.ipop".to_owned()),
            listen: vec!["10.128.0.1:53".parse().unwrap(), "[fd00:128::1]:53".parse().unwrap()],
            resolver: Some("resolv.conf".to_owned()),
            forward: vec!["192.0.2.53:53".parse().unwrap()],
            ..Dns::default()
        },
        warnings: vec!["the clock went backwards".to_owned()],
    }
}

/// A node that its configuration names, or not.
pub(crate) fn node(byte: u8, name: Option<&str>) -> NodeRef {
    NodeRef { address: key(byte).node_address(), name: name.map(str::to_owned), virtual_ips: Vec::new() }
}

fn seen(observer: &str) -> Seen {
    Seen { observer: observer.to_owned(), seen: "198.51.100.7:15000".to_owned() }
}

fn overlay() -> Overlay {
    let neighbour = |byte, name, rtt_us| Neighbour { node: node(byte, Some(name)), rtt_us };
    let bootstrap = |endpoint: &str, address: Option<NodeAddress>| Bootstrap {
        endpoint: endpoint.to_owned(),
        answered: address.is_some(),
        address,
    };
    Overlay {
        state: OverlayState::Joined,
        reason: "part of a ring of about 3 nodes".to_owned(),
        nodes_estimate: 3,
        left: vec![neighbour(3, "gamma", None)],
        right: vec![neighbour(2, "beta", Some(180)), neighbour(3, "gamma", None)],
        connections: Connections { total: 2, near: 2, on_demand: 1, ..Connections::default() },
        coordinates: Coordinates { x_us: 100, y_us: -5, height_us: 20 },
        nat: vec![Nat {
            family: "ipv4".to_owned(),
            mapping: "endpoint-independent".to_owned(),
            hairpin: Some(true),
            observations: vec![seen("192.0.2.2:15000"), seen("192.0.2.3:15000")],
        }],
        external: vec![SocketAddr::from(([203, 0, 113, 5], 15_000))],
        port_mapping: PortMapping {
            external: Some(SocketAddr::from(([198, 51, 100, 7], 15_000))),
            protocol: Some("PCP".to_owned()),
            lease_s: Some(1160),
            gateway: Some([192, 168, 1, 1].into()),
            reason: None,
        },
        stun: vec![
            StunServer {
                server: "stun.example.org:3478".to_owned(),
                seen: Some(SocketAddr::from(([198, 51, 100, 7], 15_000))),
                reason: None,
            },
            StunServer {
                server: "192.0.2.9:3478".to_owned(),
                seen: None,
                reason: Some("no answer".to_owned()),
            },
        ],
        turn: vec![
            TurnServer {
                server: "turn:turn.example.org:3478?transport=udp".to_owned(),
                relayed: None,
                reason: Some("it does not accept the username and the password".to_owned()),
            },
            TurnServer {
                server: "turn:192.0.2.9:443?transport=tcp".to_owned(),
                relayed: Some(SocketAddr::from(([192, 0, 2, 9], 49_160))),
                reason: None,
            },
        ],
        relayed_pairs: 3,
        bootstrap: vec![
            bootstrap("udp://alpha.example.org:15000", None),
            bootstrap("udp://10.200.0.2:15000", Some(key(2).node_address())),
        ],
    }
}

/// Each is connected to both others.
pub(crate) fn ring_node(byte: u8) -> RingNode {
    let edge = |other: u8| RingEdge {
        address: key(other).node_address(),
        roles: vec!["near".to_owned()],
        their_roles: vec!["near".to_owned()],
    };
    RingNode {
        node: node(byte, None),
        rtt_us: None,
        nodes_estimate: 3,
        coordinates: Coordinates::default(),
        connections: (1..=3).filter(|other| *other != byte).map(edge).collect(),
    }
}

pub(crate) fn traffic() -> Traffic {
    Traffic {
        tx_packets: 1_234_567,
        rx_packets: 7_654_321,
        tx_bytes: 9_876_543_210,
        rx_bytes: 123,
        kernel_tx_packets: 1_234_560,
        kernel_rx_packets: 7_654_321,
        user_tx_packets: 7,
        user_rx_packets: 0,
    }
}

pub(crate) fn peers() -> Vec<Peer> {
    let beta = Peer {
        name: "beta".to_owned(),
        address: key(2).node_address(),
        virtual_ips: vec!["10.128.0.2".to_owned(), "fd00:128::2".to_owned()],
        endpoint: Some("10.200.0.2:15000".to_owned()),
        path: Path::DirectKernel,
        path_reason: "the kernel path holds the link".to_owned(),
        security: Security::Sealed,
        cipher: Some(CIPHER.to_owned()),
        rtt_us: Some(180),
        traffic: traffic(),
        may_begin: "everything".to_owned(),
        peer_may_begin: "everything".to_owned(),
        last_handshake_s: Some(84),
        last_heard_s: Some(0),
        public_key: key(2).to_string(),
        mtu: Some(1440),
        link_id: Some(link_id(0x1a2b)),
    };
    let gamma = Peer {
        name: "gamma".to_owned(),
        address: key(3).node_address(),
        virtual_ips: vec!["192.168.7.0/24".to_owned()],
        endpoint: None,
        path: Path::None,
        path_reason: "it has not been heard".to_owned(),
        security: Security::Sealed,
        cipher: None,
        rtt_us: None,
        traffic: Traffic::default(),
        may_begin: "everything".to_owned(),
        peer_may_begin: "everything".to_owned(),
        last_handshake_s: None,
        last_heard_s: None,
        public_key: key(3).to_string(),
        mtu: None,
        link_id: None,
    };
    vec![beta, gamma]
}

pub(crate) fn links() -> Vec<Link> {
    vec![Link {
        peer: "beta".to_owned(),
        link_id: link_id(0x1a2b),
        endpoint: "10.200.0.2:15000".parse().unwrap(),
        local: Some("10.200.0.1".parse().unwrap()),
        interface: Some("p1".to_owned()),
        next_hop_mac: Some("02:00:00:00:00:02".to_owned()),
        mtu: 1464,
        epoch: 3,
        lease_remaining_ms: Some(29_500),
        kernel: true,
        path: Path::DirectKernel,
        security: Security::Sealed,
        roles: Vec::new(),
        their_roles: Vec::new(),
        traffic: traffic(),
    }]
}

pub(crate) fn groups() -> Groups {
    let (beta, gamma) = (node(2, Some("beta")), node(3, Some("gamma")));
    let group = |group: &str, member, root, parent: Option<&NodeRef>, children: &[&NodeRef]| Group {
        group: group.to_owned(),
        member,
        root,
        parent: parent.cloned(),
        children: children.iter().map(|child| (*child).clone()).collect(),
    };
    Groups {
        reason: None,
        groups: vec![
            group("224.0.0.251", true, false, Some(&beta), &[&gamma]),
            group("ff02::fb", false, true, None, &[&beta, &gamma]),
            group("all", true, false, None, &[]),
        ],
        links: vec![GroupLink { node: beta, sent: 12_000, received: 7 }],
    }
}

pub(crate) fn routes() -> Vec<Route> {
    let route = |prefix: &str, peer: &str, id: Option<u32>, path| Route {
        prefix: prefix.to_owned(),
        peer: peer.to_owned(),
        link_id: id.map(link_id),
        path,
        subnet: None,
    };
    let subnet = |route: Route, priority, state, reason: Option<&str>| Route {
        subnet: Some(Subnet {
            router: key(2).node_address(),
            priority,
            state,
            reason: reason.map(str::to_owned),
        }),
        ..route
    };
    let of_site =
        |id, path| route("192.168.8.0/24", if id == 0x1a2b { "beta" } else { "delta" }, Some(id), path);
    vec![
        route("10.128.0.2/32", "beta", Some(0x1a2b), Path::DirectKernel),
        route("192.168.7.0/24", "gamma", None, Path::None),
        subnet(of_site(0x1a2b, Path::DirectKernel), 100, SubnetState::Active, None),
        subnet(of_site(0x1a2c, Path::DirectKernel), 50, SubnetState::Standby, None),
        subnet(
            route("10.128.0.0/24", "epsilon", None, Path::None),
            100,
            SubnetState::Refused,
            Some("it overlaps the virtual network itself"),
        ),
    ]
}

pub(crate) fn counters() -> Counters {
    let group = |step: u64| -> CounterGroup {
        Counter::ALL.iter().map(|counter| (*counter, (*counter as u64 % 3) * step)).collect()
    };
    Counters { kernel: group(1_000_000), user: group(1), overlay: CounterGroup::default() }
}

pub(crate) fn explanation() -> Explanation {
    let step =
        |check: &str, ok, detail: &str| Step { check: check.to_owned(), ok, detail: detail.to_owned() };
    Explanation {
        peer: "beta".to_owned(),
        path: Path::DirectUser,
        verdict: "packets to beta take the user path, because its MTU is not known yet".to_owned(),
        steps: vec![
            step("trusted", true, "10.200.0.1 and 10.200.0.2 lie in 10.200.0.0/24"),
            step("mtu", false, "no probe has come back"),
        ],
    }
}

/// The name of the peer meant. There is beta, and gamma, which is silent.
fn chosen(selector: &Selector) -> Result<&'static str, String> {
    match selector {
        Selector::Name(name) if name == "gamma" => Ok("gamma"),
        Selector::Name(name) if name == "beta" => Ok("beta"),
        Selector::PublicKey(public_key) if *public_key == key(2) => Ok("beta"),
        Selector::Address(address) if *address == key(2).node_address() => Ok("beta"),
        Selector::VirtualIp(ip) if ip.to_string() == "10.128.0.2" => Ok("beta"),
        _ => Err("no such peer; `ipopctl peers` lists them".to_owned()),
    }
}

/// Every fourth probe to beta is lost.
fn ping(peer: &str, count: u32) -> Ping {
    let answered = |seq: u32| peer == "beta" && !seq.is_multiple_of(4);
    let rtts_us: Vec<Option<u64>> =
        (1..=count).map(|seq| answered(seq).then_some(100 + u64::from(seq))).collect();
    Ping::new(peer.to_owned(), &rtts_us)
}

fn probed(node: Option<&Selector>, probe: Probe) {
    let name = node.map_or(Ok("alpha"), chosen);
    match probe {
        Probe::Ping { count, reply, .. } => send(reply, name.map(|name| ping(name, count))),
        Probe::Trace { hop, reply } => {
            let end = if hop == 2 { HopEnd::Arrived } else { HopEnd::OnTheWay };
            let hop = |_| Hop { hop, node: Some(self::node(3, Some("gamma"))), rtt_us: Some(90), end };
            send(reply, name.map(hop));
        }
        Probe::Survey { reply } => send(reply, name.map(|_| ring_node(1))),
    }
}

pub(crate) fn dhcp() -> Dhcp {
    let address = "10.128.0.1".parse().unwrap_or_else(|_| unreachable!("an address"));
    Dhcp {
        mode: DhcpMode::Dhcp,
        pool: Some(DhcpPool {
            network: "10.128.0.0/16".to_owned(),
            ipv6: Some("fd00:128::/64".to_owned()),
            lease_s: 3600,
            size: 65_534,
            reserved: BTreeMap::new(),
        }),
        trouble: None,
        leases: vec![Lease {
            address,
            owner: node(1, None).address,
            host: Some("alpha".to_owned()),
            expires_s: None,
            is_own: true,
        }],
    }
}

pub(crate) fn stations() -> Stations {
    let station = |mac: &str, node, here, seen_s, contested| Station {
        mac: mac.to_owned(),
        node,
        here,
        device: here,
        seen_s,
        contested,
    };
    Stations {
        reason: None,
        shut_by: Some(node(3, Some("gamma"))),
        stations: vec![
            station("02:00:00:00:00:01", node(1, Some("alpha")), true, None, false),
            station("02:aa:00:00:00:07", node(2, Some("beta")), false, Some(12), true),
        ],
    }
}

/// Answers one request.
pub(crate) fn answer(request: Request) {
    match request {
        Request::Status(reply) => send(reply, status()),
        Request::Peers(reply) => send(reply, peers()),
        Request::Links(reply) => send(reply, links()),
        Request::Groups(reply) => send(reply, groups()),
        Request::Stations(reply) => send(reply, stations()),
        Request::Routes(reply) => send(reply, routes()),
        Request::Dhcp(reply) => send(reply, dhcp()),
        Request::Counters(reply) => send(reply, counters()),
        Request::Explain { peer, reply } => send(reply, chosen(&peer).map(|_| explanation())),
        Request::Probe { node, probe } => probed(node.as_ref(), probe),
        Request::Dht { order, reply } => {
            let answer = DhtAnswer { verb: order.verb, name: order.name, stored: true, records: Vec::new() };
            send(reply, Ok(answer));
        }
        Request::SetKernel { on: true, reply } => {
            send(reply, Err("the kernel path is not available: no CAP_BPF".to_owned()));
        }
        Request::SetKernel { on: false, reply } => send(reply, Ok("the kernel path is off".to_owned())),
        Request::Reload(reply) => send(reply, Ok("nothing has changed".to_owned())),
    }
}

/// An answer that nobody waits for any more is dropped.
fn send<T>(reply: oneshot::Sender<T>, answer: T) {
    drop(reply.send(answer));
}

/// Answers until the server is gone.
pub(crate) fn spawn(mut requests: mpsc::Receiver<Request>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            answer(request);
        }
    })
}
