//! A daemon for tests: answers every request of the control server with fixed values.

use ipop_common::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::api::{
    Attach, CIPHER, CounterGroup, Counters, Datapath, DeviceKind, Explanation, Interface, IoBackend,
    KernelState, Link, Path, Peer, Ping, Route, Security, Selector, Status, Step, Traffic, XdpState, link_id,
};
use crate::control::Request;
use crate::key::PublicKey;

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
        warnings: vec!["the clock went backwards".to_owned()],
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
        traffic: traffic(),
    }]
}

pub(crate) fn routes() -> Vec<Route> {
    let route = |prefix: &str, peer: &str, id: Option<u32>, path| Route {
        prefix: prefix.to_owned(),
        peer: peer.to_owned(),
        link_id: id.map(link_id),
        path,
    };
    vec![
        route("10.128.0.2/32", "beta", Some(0x1a2b), Path::DirectKernel),
        route("192.168.7.0/24", "gamma", None, Path::None),
    ]
}

pub(crate) fn counters() -> Counters {
    let group = |step: u64| -> CounterGroup {
        Counter::ALL.iter().map(|counter| (*counter, (*counter as u64 % 3) * step)).collect()
    };
    Counters { kernel: group(1_000_000), user: group(1) }
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

/// Answers one request.
pub(crate) fn answer(request: Request) {
    match request {
        Request::Status(reply) => send(reply, status()),
        Request::Peers(reply) => send(reply, peers()),
        Request::Links(reply) => send(reply, links()),
        Request::Routes(reply) => send(reply, routes()),
        Request::Counters(reply) => send(reply, counters()),
        Request::Explain { peer, reply } => send(reply, chosen(&peer).map(|_| explanation())),
        Request::Ping { peer, count, reply, .. } => {
            send(reply, chosen(&peer).map(|name| ping(name, count)));
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
