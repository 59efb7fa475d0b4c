//! The overlay node among datagrams: its peers' hellos, forged ones, repeated ones and noise, while
//! time passes and the host changes.
//!
//! Input: events. Each begins with a byte: its low three bits say what happens (see [`Run::event`]),
//! bit 3 says which of two peers it is about, bits 4 and 5 from which address a datagram comes.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use ipop_common::Counter;
use ipop_common::hello::{BODY_LEN, Hello, LEN};
use ipop_overlay::{
    Command, Config, Instant, LinkKeys, NetworkKey, NoPath, Node, Output, Path, PeerConfig, PeerId, Refusal,
    UserReason,
};
use x25519_dalek::{PublicKey, StaticSecret};

use super::tape::Tape;

/// When the node under test was started.
const BOOT: u64 = 1000;
const PEERS: usize = 2;
/// What one event may make the node say: hellos to both addresses of each peer, a change of path
/// and of address for each, an answered ping.
const OUTPUTS_MAX: usize = 2 * PEERS + 2 * PEERS + 1;
/// How often a peer is greeted at most, unless something has changed.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// Events per input, so that one takes milliseconds at most.
const EVENTS_MAX: usize = 300;

const TRUSTED: &str = "10.0.0.0";
/// Where datagrams come from: the configured address of the first peer, another trusted one, one
/// that is not trusted, one over IPv6.
const ADDRESSES: [&str; 4] = ["10.0.0.2:15000", "10.0.0.7:4000", "192.0.2.9:15000", "[fd00::7]:15000"];

pub(super) fn run(input: &[u8]) {
    reached(input);
}

/// Runs an input; the kinds of path that the node has found on the way.
pub(crate) fn reached(input: &[u8]) -> BTreeSet<&'static str> {
    let mut tape = Tape::new(input);
    let mut run = Run::new();
    for _ in 0..EVENTS_MAX {
        if tape.is_over() {
            break;
        }
        run.event(&mut tape);
    }
    run.reached
}

fn name_of(path: Path) -> &'static str {
    match path {
        Path::Kernel { .. } => "kernel",
        Path::User { reason: UserReason::OffHere, .. } => "user, off here",
        Path::User { reason: UserReason::OffThere, .. } => "user, off there",
        Path::None(NoPath::NoEndpoint) => "no endpoint",
        Path::None(NoPath::PeerNotTrusted(_)) => "peer not trusted",
        Path::None(NoPath::SelfNotTrusted(_)) => "self not trusted",
        Path::None(NoPath::NoRoute) => "no route",
        Path::None(NoPath::NoAnswer) => "no answer",
        Path::None(NoPath::Silent) => "silent",
    }
}

fn address(index: u8) -> SocketAddr {
    ADDRESSES[usize::from(index & 3)].parse().expect("an address")
}

fn network() -> NetworkKey {
    NetworkKey::derive("fuzz", b"sixteen letters or more")
}

fn key(index: usize) -> StaticSecret {
    StaticSecret::from([index as u8 + 1; 32])
}

fn config() -> &'static Config {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| Config {
        private_key: key(0),
        network: network(),
        peers: (0..PEERS)
            .map(|index| PeerConfig {
                public_key: PublicKey::from(&key(index + 1)).to_bytes(),
                // The second peer has to come to us.
                endpoint: (index == 0).then(|| address(0)),
            })
            .collect(),
        trusted: vec![(TRUSTED.parse().expect("an address"), 24)],
        boot: BOOT,
        lease: Duration::from_secs(30),
    });
    &CONFIG
}

/// The peers' halves of the keys.
fn keys(peer: usize) -> &'static LinkKeys {
    static KEYS: LazyLock<Vec<LinkKeys>> = LazyLock::new(|| {
        let node = PublicKey::from(&key(0)).to_bytes();
        (0..PEERS).map(|index| LinkKeys::derive(&network(), &key(index + 1), &node)).collect()
    });
    &KEYS[peer]
}

/// What is known of a peer from the outside.
#[derive(Debug)]
struct Peer {
    /// Where the node may send: configured, or proved by an authentic hello.
    addresses: HashSet<SocketAddr>,
    /// A hello that proves to be of now has been accepted.
    confirmed: bool,
    underlay: Option<(IpAddr, u16)>,
    /// The last hello from the node: to be echoed.
    heard_sent_ns: u64,
    /// The last hello that the node has accepted.
    accepted: Option<(u64, u64)>,
    /// Where the node has last said that the peer is now.
    roamed: Option<SocketAddr>,
    /// When the node last sent a hello because it was time to.
    greeted_at: Option<Instant>,
    path: Path,
}

struct Run {
    node: Node,
    now: Instant,
    kernel: (u16, bool),
    peers: Vec<Peer>,
    /// Hellos that the node has accepted: datagram, peer, boot.
    accepted: Vec<([u8; LEN], usize, u64)>,
    /// Which kinds of path there have been.
    reached: BTreeSet<&'static str>,
}

impl Run {
    fn new() -> Self {
        let now = Instant::from_nanos(5_000_000_000);
        let node = Node::new(config(), 77, now).expect("two link ids");
        let peers = (0..PEERS)
            .map(|index| Peer {
                addresses: (index == 0).then(|| address(0)).into_iter().collect(),
                confirmed: false,
                underlay: None,
                heard_sent_ns: 0,
                accepted: None,
                roamed: None,
                greeted_at: None,
                path: node.peer(PeerId(index)).expect("a peer").path,
            })
            .collect();
        Self { node, now, kernel: (0, false), peers, accepted: Vec::new(), reached: BTreeSet::new() }
    }

    fn event(&mut self, tape: &mut Tape<'_>) {
        let event = tape.u8();
        let (peer, from) = (usize::from(event >> 3 & 1), address(event >> 4));
        match event & 7 {
            0 => self.pass(Duration::from_millis(tape.u16().into())),
            1 => {
                let len = usize::from(tape.u8());
                self.forged(from, tape.bytes(len));
            }
            2 => self.hello(peer, from, tape),
            3 => self.tampered(peer, from, tape),
            4 => self.replayed(from, tape.u8()),
            5 => self.underlay(peer, tape),
            6 => self.kernel(tape),
            _ => self.command(peer, tape),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.node.handle_timeout(self.now);
        for index in self.drain() {
            let greeted_at = self.peers[index].greeted_at.replace(self.now);
            let pause = greeted_at.map(|before| self.now.since(before)).filter(|pause| !pause.is_zero());
            assert!(pause.is_none_or(|pause| pause >= HELLO_INTERVAL), "greeted again after {pause:?}");
        }
        let (next, reason) = self.node.poll_timeout().expect("a node always has a hello to send");
        assert!(next > self.now, "{reason:?} would be due again at once");
    }

    /// What no peer has made changes nothing and is not answered.
    fn forged(&mut self, from: SocketAddr, datagram: &[u8]) {
        let before = self.views();
        let refusal = self.node.handle_datagram(from, datagram, self.now);
        assert_eq!(refusal, Err(Refusal(Counter::RxBadHello)));
        assert_eq!(self.node.poll_output(), None, "a forged hello is answered");
        assert_eq!(self.views(), before);
    }

    fn hello(&mut self, peer: usize, from: SocketAddr, tape: &mut Tape<'_>) {
        let hello = self.next_hello(peer, tape);
        self.deliver(peer, from, &hello, &authentic(peer, &hello));
    }

    /// A peer's next hello. Choices: bit 0, it echoes the node; bit 1, it asks for an answer; bit 2,
    /// it is of another run; bit 3, its numbers are arbitrary.
    fn next_hello(&self, peer: usize, tape: &mut Tape<'_>) -> Hello {
        let choices = tape.u8();
        let (boot, sent_ns) = self.peers[peer].accepted.unwrap_or((2000, 0));
        let echo = choices & 1 != 0;
        let mut hello = Hello {
            link_id: keys(peer).link_id(),
            boot,
            sent_ns: sent_ns.saturating_add(1),
            echo_boot: if echo { BOOT } else { 0 },
            echo_sent_ns: if echo { self.peers[peer].heard_sent_ns } else { 0 },
            echo_delay_ns: 0,
            kernel_port: tape.u16(),
            lease_s: tape.u16(),
            mtu: tape.u16(),
            answer: choices & 2 != 0,
        };
        if choices & 4 != 0 {
            hello.boot = tape.u64();
        }
        if choices & 8 != 0 {
            (hello.sent_ns, hello.echo_sent_ns, hello.echo_delay_ns) = (tape.u64(), tape.u64(), tape.u64());
        }
        hello
    }

    fn deliver(&mut self, peer: usize, from: SocketAddr, hello: &Hello, datagram: &[u8; LEN]) {
        let before = self.views();
        let was = self.endpoint(peer);
        match self.node.handle_datagram(from, datagram, self.now) {
            Ok(()) => {
                let state = &mut self.peers[peer];
                state.addresses.insert(from);
                state.confirmed |= hello.echo_boot == BOOT;
                state.accepted = Some((hello.boot, hello.sent_ns));
                self.accepted.push((*datagram, peer, hello.boot));
            }
            Err(Refusal(counter)) => {
                assert!(matches!(counter, Counter::RxStaleHello | Counter::RxHelloFlood), "{counter:?}");
                assert_eq!(self.node.poll_output(), None, "what is refused is not answered");
                assert_eq!(self.views(), before);
            }
        }
        let is = self.endpoint(peer);
        self.peers[peer].roamed = None;
        self.drain();
        assert_eq!(self.peers[peer].roamed, is.filter(|_| is != was), "{was:?} became {is:?}");
    }

    /// A peer's hello with one bit turned.
    fn tampered(&mut self, peer: usize, from: SocketAddr, tape: &mut Tape<'_>) {
        let hello = self.next_hello(peer, tape);
        let mut datagram = authentic(peer, &hello);
        let bit = usize::from(tape.u16()) % (LEN * 8);
        datagram[bit / 8] ^= 1 << (bit % 8);
        self.forged(from, &datagram);
    }

    /// A hello that the node has accepted before comes again, from wherever.
    fn replayed(&mut self, from: SocketAddr, index: u8) {
        let Some(&(datagram, peer, boot)) = self.accepted.get(usize::from(index)) else { return };
        // Hellos of another run may be taken again: see `Peer::is_old` of the overlay.
        if self.peers[peer].accepted.is_none_or(|(last, _)| last != boot) {
            return;
        }
        let before = self.views();
        let refusal = self.node.handle_datagram(from, &datagram, self.now);
        assert!(
            matches!(refusal, Err(Refusal(Counter::RxStaleHello | Counter::RxHelloFlood))),
            "a repeated hello is taken: {refusal:?}"
        );
        assert_eq!(self.node.poll_output(), None);
        assert_eq!(self.views(), before);
    }

    fn underlay(&mut self, peer: usize, tape: &mut Tape<'_>) {
        let (mtu, from) = (tape.u16(), address(tape.u8()));
        let reach = (mtu != 0).then_some((from.ip(), mtu));
        self.peers[peer].underlay = reach;
        self.node.handle_command(Command::Underlay { peer: PeerId(peer), reach }, self.now);
        self.drain();
    }

    fn kernel(&mut self, tape: &mut Tape<'_>) {
        let (port, send) = (tape.u16(), tape.u8() & 1 != 0);
        self.kernel = (port, send);
        self.node.handle_command(Command::Kernel { port, send }, self.now);
        self.drain();
    }

    fn command(&mut self, peer: usize, tape: &mut Tape<'_>) {
        let choice = tape.u8();
        let id = PeerId(peer);
        let command = match choice & 3 {
            0 => Command::Announce,
            1 => Command::Ping { peer: id, id: u64::from(choice) },
            2 => {
                let endpoint = (choice & 4 != 0).then(|| address(choice >> 3));
                self.peers[peer].addresses.extend(endpoint);
                // A new address is greeted at once.
                self.peers[peer].greeted_at = None;
                Command::Endpoint { peer: id, endpoint }
            }
            _ => Command::Goodbye,
        };
        self.node.handle_command(command, self.now);
        self.drain();
    }

    fn endpoint(&self, peer: usize) -> Option<SocketAddr> {
        self.node.peer(PeerId(peer)).and_then(|view| view.endpoint)
    }

    /// All that the node shows of its peers.
    fn views(&self) -> String {
        format!("{:?}", (0..PEERS).map(|index| self.node.peer(PeerId(index))).collect::<Vec<_>>())
    }

    /// Takes what the node says and checks each word of it. To which peers it has sent hellos.
    fn drain(&mut self) -> Vec<usize> {
        let (mut outputs, mut greeted) = (0, Vec::new());
        while let Some(output) = self.node.poll_output() {
            outputs += 1;
            match output {
                Output::Transmit { to, datagram } => greeted.push(self.transmitted(to, &datagram)),
                Output::Path { peer, path } => self.path(peer, path),
                Output::Roamed { peer, endpoint } => {
                    assert!(self.peers[peer.0].addresses.contains(&endpoint));
                    self.peers[peer.0].roamed = Some(endpoint);
                }
                Output::Pong { .. } => {}
            }
        }
        assert!(outputs <= OUTPUTS_MAX, "one event, {outputs} outputs");
        for (index, peer) in self.peers.iter().enumerate() {
            let view = self.node.peer(PeerId(index)).expect("a peer");
            assert_eq!(view.path, peer.path, "a change of path was not told");
            self.is_valid(peer);
        }
        greeted
    }

    /// A hello to a peer is authentic, newer than the last, and goes where the peer has been. Which
    /// peer it is.
    fn transmitted(&mut self, to: SocketAddr, datagram: &[u8; LEN]) -> usize {
        let hello = Hello::parse(datagram).expect("a hello of ours");
        let to_peer = |index: &usize| keys(*index).link_id() == hello.link_id;
        let index = (0..PEERS).find(to_peer).expect("a hello to a peer");
        let (body, tag) = datagram.split_at(BODY_LEN);
        assert!(keys(index).verify(body, tag));
        let peer = &mut self.peers[index];
        assert!(peer.addresses.contains(&to), "{to} has never been the peer's address");
        assert!(hello.boot == BOOT && hello.sent_ns > peer.heard_sent_ns);
        peer.heard_sent_ns = hello.sent_ns;
        index
    }

    fn path(&mut self, id: PeerId, path: Path) {
        let before = std::mem::replace(&mut self.peers[id.0].path, path);
        assert_ne!(before, path, "a path that is as before is told");
        self.reached.insert(name_of(path));
    }

    /// A path leads to a peer that is there, over addresses that are trusted at both ends.
    fn is_valid(&self, peer: &Peer) {
        let (endpoint, mtu) = match peer.path {
            Path::None(_) => return,
            Path::User { endpoint, mtu, .. } => (endpoint, mtu),
            Path::Kernel { endpoint, mtu } => {
                assert!(self.kernel.0 != 0 && self.kernel.1 && endpoint.port() != 0);
                (endpoint, mtu)
            }
        };
        let (local, underlay_mtu) = peer.underlay.expect("a path needs a way to the peer");
        assert!(peer.confirmed && mtu <= underlay_mtu);
        assert!(is_trusted(endpoint.ip()) && is_trusted(local));
        assert!(peer.addresses.iter().any(|address| address.ip() == endpoint.ip()));
    }
}

/// 10.0.0.0/24.
fn is_trusted(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [10, 0, 0])
}

/// The datagram that a peer makes of a hello.
fn authentic(peer: usize, hello: &Hello) -> [u8; LEN] {
    let body = hello.to_bytes();
    let mut datagram = [0; LEN];
    datagram[..BODY_LEN].copy_from_slice(&body);
    datagram[BODY_LEN..].copy_from_slice(&keys(peer).tag(&body));
    datagram
}
