//! The overlay node among what its peers say in their sessions: hellos, old ones, and noise, while
//! time passes, sessions come and go and the host changes.
//!
//! Input: events. Each begins with a byte: its low three bits say what happens (see [`Run::event`]),
//! bit 3 says which of two peers it is about.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use ipop_common::Counter;
use ipop_common::gpe::LinkId;
use ipop_common::hello::{Hello, LEN};
use ipop_common::limits::OVERLAY_MTU;
use ipop_overlay::{
    Command, Config, Endpoint, Instant, NetworkKey, NoPath, Node, NodeAddress, Output, Path, PeerConfig,
    PeerId, Refusal, Security, UserReason,
};

use super::tape::Tape;

/// When the node under test was started.
const BOOT: u64 = 1000;
const PEERS: usize = 2;
/// Where a peer is on the overlay.
const OVERLAY: NodeAddress = NodeAddress([7; 20]);
/// What one event may make the node say: a hello and a change of path for each peer, twice where it is
/// asked and time has come, an answered ping.
const OUTPUTS_MAX: usize = 4 * PEERS + 1;
/// How often a peer is greeted at most, unless something has changed.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// Events per input, so that one takes milliseconds at most.
const EVENTS_MAX: usize = 300;
/// What the node is configured not to exceed.
const MTU_MAX: u16 = 9000;

const TRUSTED: &str = "10.0.0.0";
/// Where peers and the node itself may be: the configured address of the first peer, another trusted
/// one, one that is not trusted, one over IPv6.
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
    use Security::{Clear, Sealed};
    match path {
        Path::Kernel { security: Clear(_), .. } => "kernel, clear",
        Path::Kernel { security: Sealed, .. } => "kernel, sealed",
        Path::User { security: Clear(_), reason: UserReason::OffHere, .. } => "user, clear, off here",
        Path::User { security: Clear(_), reason: UserReason::OffThere, .. } => "user, clear, off there",
        Path::User { security: Sealed, reason: UserReason::OffHere, .. } => "user, sealed, off here",
        Path::User { security: Sealed, reason: UserReason::OffThere, .. } => "user, sealed, off there",
        Path::User { reason: UserReason::Tcp, .. } => "user, by TCP",
        Path::User { reason: UserReason::Turn, .. } => "user, by TURN",
        Path::Relay { .. } => "relay",
        Path::Overlay { .. } => "overlay",
        Path::None(NoPath::NoEndpoint) => "no endpoint",
        Path::None(NoPath::NoRoute) => "no route",
        Path::None(NoPath::NoAnswer) => "no answer",
        Path::None(NoPath::Silent) => "silent",
        Path::None(NoPath::NotAdmitted) => "not admitted",
    }
}

fn address(index: u8) -> SocketAddr {
    ADDRESSES[usize::from(index & 3)].parse().expect("an address")
}

fn config() -> &'static Config {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| Config {
        public_key: [1; 32],
        network: network(),
        peers: (0..PEERS)
            .map(|index| PeerConfig {
                public_key: [index as u8 + 2; 32],
                // The second peer has to come to us.
                endpoint: (index == 0).then(|| address(0).into()),
                is_found: false,
            })
            .collect(),
        trusted: vec![(TRUSTED.parse().expect("an address"), 24)],
        mtu_max: MTU_MAX,
        boot: BOOT,
        lease: Duration::from_secs(30),
    });
    &CONFIG
}

fn network() -> NetworkKey {
    NetworkKey::derive("fuzz", b"sixteen letters or more")
}

/// What clear packets from a peer carry.
fn link_id(peer: usize) -> LinkId {
    network().link_id(&[1; 32], &[peer as u8 + 2; 32])
}

/// What is known of a peer from the outside.
#[derive(Debug)]
struct Peer {
    endpoint: Option<Endpoint>,
    underlay: Option<(IpAddr, u16)>,
    session: Option<u32>,
    /// The last hello from the node: to be echoed.
    heard_sent_ns: u64,
    /// The last hello that the node has accepted, in the present session.
    last: Option<Hello>,
    /// The last hello accepted in any.
    said: Option<Hello>,
    /// When the node last sent a hello because it was time to.
    greeted_at: Option<Instant>,
    path: Path,
}

impl Peer {
    fn takes_clear(&self) -> bool {
        let ends = self.endpoint.and_then(Endpoint::udp).zip(self.underlay);
        ends.is_some_and(|(endpoint, (local, _))| is_trusted(endpoint.ip()) && is_trusted(local))
    }
}

struct Run {
    node: Node,
    now: Instant,
    kernel: (u16, bool),
    peers: Vec<Peer>,
    /// Which kinds of path there have been.
    reached: BTreeSet<&'static str>,
}

impl Run {
    fn new() -> Self {
        let now = Instant::from_nanos(5_000_000_000);
        let node = Node::new(config(), 77, now).expect("two link ids");
        let peers = (0..PEERS)
            .map(|index| Peer {
                endpoint: (index == 0).then(|| address(0).into()),
                underlay: None,
                session: None,
                heard_sent_ns: 0,
                last: None,
                said: None,
                greeted_at: None,
                path: node.peer(PeerId(index)).expect("a peer").path,
            })
            .collect();
        Self { node, now, kernel: (0, false), peers, reached: BTreeSet::new() }
    }

    fn event(&mut self, tape: &mut Tape<'_>) {
        let event = tape.u8();
        let peer = usize::from(event >> 3 & 1);
        match event & 7 {
            0 => self.pass(Duration::from_millis(tape.u16().into())),
            1 => {
                let len = usize::from(tape.u8());
                self.noise(peer, tape.bytes(len));
            }
            2 => self.hello(peer, tape),
            3 => self.tampered(peer, tape),
            4 => self.repeated(peer),
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
        if let Some((next, reason)) = self.node.poll_timeout() {
            assert!(next > self.now, "{reason:?} would be due again at once");
        }
    }

    /// What is no hello changes nothing and is not answered.
    fn noise(&mut self, peer: usize, message: &[u8]) {
        if let Some(hello) = Hello::parse(message) {
            return self.deliver(peer, &hello);
        }
        let before = self.views();
        let refusal = self.node.handle_message(PeerId(peer), message, self.now);
        assert_eq!(refusal, Err(Refusal(Counter::RxBadHello)));
        assert_eq!(self.node.poll_output(), None, "what is no hello is answered");
        assert_eq!(self.views(), before);
    }

    fn hello(&mut self, peer: usize, tape: &mut Tape<'_>) {
        let hello = self.next_hello(peer, tape);
        self.deliver(peer, &hello);
    }

    /// A peer's next hello. Choices: bit 0, it echoes the node; bit 1, it asks for an answer; bit 2,
    /// it is of another run; bit 3, its numbers are arbitrary; bit 4, it takes no clear packets.
    fn next_hello(&self, peer: usize, tape: &mut Tape<'_>) -> Hello {
        let choices = tape.u8();
        let (boot, sent_ns) = self.peers[peer].last.map_or((2000, 0), |last| (last.boot, last.sent_ns));
        let echo = choices & 1 != 0;
        let mut hello = Hello {
            clear: LinkId::new(0x77).filter(|_| choices & 16 == 0),
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

    fn deliver(&mut self, peer: usize, hello: &Hello) {
        let before = self.views();
        let state = &self.peers[peer];
        let is_old = state.last.is_some_and(|l| (hello.boot, hello.sent_ns) <= (l.boot, l.sent_ns));
        match self.node.handle_message(PeerId(peer), &hello.to_bytes(), self.now) {
            Ok(()) => {
                assert!(!is_old, "an old hello is taken");
                let state = &mut self.peers[peer];
                (state.last, state.said) = (Some(*hello), Some(*hello));
            }
            Err(Refusal(counter)) => {
                assert!(counter == Counter::RxHelloFlood || is_old && counter == Counter::RxStaleHello);
                assert_eq!(self.node.poll_output(), None, "what is refused is not answered");
                assert_eq!(self.views(), before);
            }
        }
        self.drain();
    }

    /// A peer's hello with one bit turned.
    fn tampered(&mut self, peer: usize, tape: &mut Tape<'_>) {
        let mut message = self.next_hello(peer, tape).to_bytes();
        let bit = usize::from(tape.u16()) % (LEN * 8);
        message[bit / 8] ^= 1 << (bit % 8);
        self.noise(peer, &message);
    }

    /// The last hello that the node has accepted comes again.
    fn repeated(&mut self, peer: usize) {
        if let Some(hello) = self.peers[peer].last {
            self.deliver(peer, &hello);
        }
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

    /// Choices: the low three bits say which command, the others are its argument.
    fn command(&mut self, peer: usize, tape: &mut Tape<'_>) {
        let choice = tape.u8();
        let id = PeerId(peer);
        let state = &mut self.peers[peer];
        let command = match choice & 7 {
            0 => Command::Announce,
            1 => Command::Ping { peer: id, id: u64::from(choice) },
            2 | 3 => {
                // With all the upper bits set, other nodes carry to it; with one less one relays, and with one less
                // again it is TCP that leads there.
                state.endpoint = match (choice & 1, choice >> 3) {
                    (0, _) => None,
                    (_, 0x1f) => Some(Endpoint::Overlay(OVERLAY)),
                    (_, 0x1e) => Some(Endpoint::Relay { by: OVERLAY, label: 7 }),
                    (_, 0x1d) => Some(Endpoint::Tcp(address(1))),
                    (_, 0x1c) => Some(Endpoint::Turn(address(1))),
                    (_, index) => Some(Endpoint::Udp(address(index))),
                };
                if state.endpoint == Some(Endpoint::Overlay(OVERLAY)) {
                    state.underlay = None;
                }
                Command::Endpoint { peer: id, endpoint: state.endpoint }
            }
            4 | 5 => {
                let local_index = (choice & 1 != 0).then(|| u32::from(choice >> 3));
                if local_index.is_some() && local_index != state.session {
                    state.last = None;
                    // A new session is greeted at once.
                    state.greeted_at = None;
                }
                state.session = local_index;
                Command::Session { peer: id, local_index }
            }
            6 => Command::Alive { peer: id },
            _ => Command::Goodbye,
        };
        self.node.handle_command(command, self.now);
        self.drain();
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
                Output::Say { peer, message } => {
                    self.said(peer.0, &message);
                    greeted.push(peer.0);
                }
                Output::Path { peer, path } => self.path(peer, path),
                Output::Pong { .. } => {}
                other => panic!("without a ring, {other:?}"),
            }
        }
        assert!(outputs <= OUTPUTS_MAX, "one event, {outputs} outputs");
        for (index, peer) in self.peers.iter().enumerate() {
            let view = self.node.peer(PeerId(index)).expect("a peer");
            assert_eq!(view.path, peer.path, "a change of path was not told");
            assert_eq!((view.endpoint, view.takes_clear), (peer.endpoint, peer.takes_clear()));
            self.is_valid(peer);
        }
        greeted
    }

    /// A hello to a peer goes into a session, is newer than the last, and offers clear packets only
    /// over a trusted wire.
    fn said(&mut self, index: usize, message: &[u8]) {
        let hello = Hello::parse(message).expect("a hello of ours");
        let peer = &mut self.peers[index];
        assert!(peer.session.is_some(), "said to nobody");
        assert!(hello.boot == BOOT && hello.sent_ns > peer.heard_sent_ns);
        assert_eq!(hello.clear, peer.takes_clear().then(|| link_id(index)));
        peer.heard_sent_ns = hello.sent_ns;
    }

    fn path(&mut self, id: PeerId, path: Path) {
        let before = std::mem::replace(&mut self.peers[id.0].path, path);
        assert_ne!(before, path, "a path that is as before is told");
        self.reached.insert(name_of(path));
    }

    /// A path needs a session, and leads to where the peer is; it is clear only if both ends have said
    /// so, over addresses that are trusted.
    fn is_valid(&self, peer: &Peer) {
        let (endpoint, mtu, security) = match peer.path {
            Path::None(_) => return,
            Path::Overlay { to, mtu } => {
                assert_eq!(peer.endpoint, Some(Endpoint::Overlay(to)));
                assert!(peer.session.is_some() && mtu == OVERLAY_MTU.min(MTU_MAX));
                return;
            }
            Path::Relay { by, label, mtu } => {
                assert_eq!(peer.endpoint, Some(Endpoint::Relay { by, label }));
                let (_, underlay_mtu) = peer.underlay.expect("a path needs a way to the relay");
                assert!(peer.session.is_some() && mtu <= underlay_mtu && mtu <= MTU_MAX);
                return;
            }
            Path::User { endpoint, mtu, security, .. } => (endpoint, mtu, security),
            Path::Kernel { endpoint, mtu, security } => {
                assert!(self.kernel.0 != 0 && self.kernel.1);
                (endpoint, mtu, security)
            }
        };
        let (_, underlay_mtu) = peer.underlay.expect("a path needs a way to the peer");
        assert!(peer.session.is_some() && mtu <= underlay_mtu && mtu <= MTU_MAX);
        let there = peer.endpoint.and_then(Endpoint::direct);
        if let Some(Endpoint::Tcp(_)) = peer.endpoint {
            assert!(matches!(
                peer.path,
                Path::User { security: Security::Sealed, reason: UserReason::Tcp, .. }
            ));
        }
        assert_eq!(Some(endpoint.ip()), there.map(|there| there.ip()));
        if let Security::Clear(id) = security {
            assert!(peer.takes_clear());
            assert_eq!(peer.said.and_then(|said| said.clear), Some(id));
        }
    }
}

/// 10.0.0.0/24.
fn is_trusted(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [10, 0, 0])
}
