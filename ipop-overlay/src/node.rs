//! The node: peers, commands, timers and outputs.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipop_common::Counter;
use ipop_common::ethernet::Mac;
use ipop_common::gpe::LinkId;
use ipop_common::hello::{self, Hello};
use ipop_common::limits::LINKS_MAX;

use crate::address::NodeAddress;
use crate::dht::{self, SigningKey};
use crate::endpoint::Endpoint;
use crate::group::{self, Distrust};
use crate::keys::NetworkKey;
use crate::peer::{HELLO_INTERVAL, Heard, Here, NoPath, Path, Peer, PeerView, Underlay};
use crate::ring::{self, Ring};
use crate::time::{Instant, Reason};

mod admission;
mod members;
mod records;

use admission::Gate;
pub use admission::{Credentials, CredentialsError};
pub(crate) use members::NO_STATEMENT;
pub use members::STATIONS_MAX;

/// A node on the ring is there for at least so long without a word: the ring sees to it that it is alive.
const MEMBER_LEASE: Duration = Duration::from_secs(90);
/// How long a node without a kernel path may be silent.
const USER_LEASE: Duration = Duration::from_secs(5);

/// A peer. Those of [`Config::peers`] are numbered in their order; one that is added later has the lowest number
/// that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub usize);

/// What a node is made of.
pub struct Config {
    pub public_key: [u8; 32],
    pub network: NetworkKey,
    /// Those that are there from the start.
    pub peers: Vec<PeerConfig>,
    /// Prefixes within which links may be clear, as address and length; none: all are sealed.
    pub trusted: Vec<(IpAddr, u8)>,
    /// No inner packet is larger, whatever the wires take.
    pub mtu_max: u16,
    /// When this run started, UNIX time in nanoseconds.
    pub boot: u64,
    /// How long this node's kernel path goes on without a daemon.
    pub lease: Duration,
}

impl core::fmt::Debug for Config {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Config")
            .field("peers", &self.peers)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub struct PeerConfig {
    pub public_key: [u8; 32],
    pub endpoint: Option<Endpoint>,
    /// The ring has found it, or it has called; it is not configured.
    pub is_found: bool,
}

/// Why a peer was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPeerError {
    /// Another peer has the same public key.
    KeyTaken(PeerId),
    /// The link id that follows from its key is another peer's.
    LinkIdTaken(PeerId),
    /// There are as many peers as links.
    TooMany,
}

impl core::fmt::Display for AddPeerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::KeyTaken(PeerId(other)) => {
                write!(f, "peer {other} has the same public key; each peer needs its own")
            }
            Self::LinkIdTaken(PeerId(other)) => {
                write!(f, "peer {other} derives the same link id; one of them needs another key")
            }
            Self::TooMany => write!(f, "there are {LINKS_MAX} peers already; remove one first"),
        }
    }
}

impl core::error::Error for AddPeerError {}

/// What the node is told.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// How this host reaches a peer's endpoint: its own address, and the largest inner packet that
    /// the wire takes in a clear packet; or not at all.
    Underlay { peer: PeerId, reach: Option<(IpAddr, u16)> },
    /// The UDP port on which this node's kernel path receives, 0 where it has none; and whether it
    /// sends by it.
    Kernel { port: u16, send: bool },
    /// Where a peer is: as configured, or where its last authentic packet came from.
    Endpoint { peer: PeerId, endpoint: Option<Endpoint> },
    /// The session with a peer that is sent on, by its local index.
    Session { peer: PeerId, local_index: Option<u32> },
    /// A packet of a peer's session has come since the node last heard of it.
    Alive { peer: PeerId },
    /// Something changed on this host: tell all peers now.
    Announce,
    /// Measure the round trip; `id` comes back in [`Output::Pong`].
    Ping { peer: PeerId, id: u64 },
    /// This node stops: tell all peers.
    Goodbye,
}

/// What the node wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a control message in the session with a peer.
    Say {
        peer: PeerId,
        message: Vec<u8>,
    },
    /// The path to a peer has changed.
    Path {
        peer: PeerId,
        path: Path,
    },
    Pong {
        peer: PeerId,
        id: u64,
        rtt: Duration,
    },
    /// A peer has these addresses of the virtual network, as it says itself, since this UNIX time in
    /// seconds.
    Addresses {
        peer: PeerId,
        addresses: Vec<IpAddr>,
        /// What is behind it, in a network that carries Ethernet.
        stations: Vec<Mac>,
        since: u64,
        /// It knows this node's, and takes packets from them.
        knows_ours: bool,
    },
    /// Make a session with a node, which may be at these places; it may be a peer already.
    Link {
        public_key: [u8; 32],
        places: Vec<Endpoint>,
    },
    /// A peer answers by way of others, and not by its own. If nothing has come meanwhile, see
    /// [`Node::detour`].
    Silent {
        peer: PeerId,
    },
    /// A peer answers neither by UDP, by which it is reached, nor by way of others: something may let no UDP pass.
    Unheard {
        peer: PeerId,
    },
    /// What goes to a peer is to go this way from now on.
    Move {
        peer: PeerId,
        to: Endpoint,
    },
    /// Pass on what one of these peers sends with this label to the other, where it is now; and so whenever one
    /// of them moves.
    Relay {
        label: u32,
        ends: [PeerId; 2],
    },
    /// Do so no more.
    Unrelay {
        label: u32,
    },
    /// The ring has no use for this peer any more, or it does not answer.
    Unlink {
        peer: PeerId,
    },
    /// A WireGuard message has come over the ring.
    Carried {
        from: NodeAddress,
        datagram: Vec<u8>,
    },
    /// A node has answered an echo over the ring.
    Echoed {
        token: u64,
        from: NodeAddress,
        rtt: Duration,
        hops: u16,
    },
    /// A message that traces the way to a node came to another and ended there.
    Traced {
        token: u64,
        from: NodeAddress,
        rtt: Duration,
        hops: u16,
        end: ring::End,
    },
    /// A node has told of its connections.
    Surveyed {
        token: u64,
        from: NodeAddress,
        rtt: Duration,
        page: ring::Page,
    },
    /// What came of looking for an address: the key of the node that claims it, or nobody.
    Found {
        address: IpAddr,
        public_key: Option<[u8; 32]>,
    },
    /// A node of the network tells all a text.
    Broadcast {
        from: NodeAddress,
        text: Vec<u8>,
    },
    /// The node with this key has sent a frame to a group that this one is a member of.
    Multicast {
        origin: [u8; 32],
        group: ring::Group,
        frame: Vec<u8>,
    },
    /// Another node claims an address of this one's.
    Taken {
        address: IpAddr,
        by: [u8; 32],
    },
    /// What has become of something in the DHT.
    Dht(dht::Event),
    /// A peer is a member of the group by its certificate, and this node is by what the peer says; again, when its
    /// certificate is another one.
    Admitted {
        peer: PeerId,
    },
    /// A peer is no member of the group: it has been told, and the session with it is to end.
    Refused {
        peer: PeerId,
        why: Distrust,
    },
    /// A peer does not take this node for a member; by its clock it is so many seconds since 1970.
    RefusedBy {
        peer: PeerId,
        why: Distrust,
        clock: u64,
    },
    /// The group's authority has signed something newer.
    Signed {
        kind: group::Kind,
        bytes: Vec<u8>,
    },
}

impl Output {
    /// The peer that it is about, if it is about one.
    fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Say { peer, .. }
            | Self::Path { peer, .. }
            | Self::Pong { peer, .. }
            | Self::Addresses { peer, .. }
            | Self::Silent { peer }
            | Self::Unheard { peer }
            | Self::Move { peer, .. }
            | Self::Unlink { peer }
            | Self::Admitted { peer }
            | Self::Refused { peer, .. }
            | Self::RefusedBy { peer, .. } => Some(*peer),
            Self::Link { .. }
            | Self::Relay { .. }
            | Self::Unrelay { .. }
            | Self::Carried { .. }
            | Self::Echoed { .. }
            | Self::Traced { .. }
            | Self::Surveyed { .. }
            | Self::Found { .. }
            | Self::Broadcast { .. }
            | Self::Multicast { .. }
            | Self::Taken { .. }
            | Self::Dht(_)
            | Self::Signed { .. } => None,
        }
    }
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub Counter);

/// One node. See the crate's documentation for how to drive it.
pub struct Node {
    public_key: [u8; 32],
    network: NetworkKey,
    /// By number; a number whose peer was removed is free.
    peers: Vec<Option<Peer>>,
    by_key: BTreeMap<[u8; 32], PeerId>,
    by_link: BTreeMap<LinkId, PeerId>,
    trusted: Vec<(IpAddr, u8)>,
    mtu_max: u16,
    boot: u64,
    lease: Duration,
    kernel_port: u16,
    kernel_send: bool,
    jitter: u64,
    /// `None` where the peers are those of the configuration and no others.
    ring: Option<Ring>,
    /// `None` where the network has no group.
    gate: Option<Box<Gate>>,
    /// By which its records are signed.
    signing_key: Option<Arc<SigningKey>>,
    by_address: BTreeMap<NodeAddress, PeerId>,
    /// This node's own addresses, and since when it has them, UNIX time in seconds.
    addresses: (Vec<IpAddr>, u64),
    /// The stations behind this node.
    stations: Vec<Mac>,
    /// The number of what it says of these and its addresses.
    statement: u32,
    outputs: VecDeque<Output>,
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node").field("peers", &self.by_key.len()).finish_non_exhaustive()
    }
}

impl Node {
    /// Makes a node; `seed` spreads its timers.
    ///
    /// # Errors
    /// The peer that cannot be added, by its place in the configuration, and why.
    pub fn new(config: &Config, seed: u64, now: Instant) -> Result<Self, (PeerId, AddPeerError)> {
        let mut node = Self {
            public_key: config.public_key,
            network: config.network.clone(),
            peers: Vec::with_capacity(config.peers.len()),
            by_key: BTreeMap::new(),
            by_link: BTreeMap::new(),
            trusted: config.trusted.clone(),
            mtu_max: config.mtu_max,
            boot: config.boot,
            lease: config.lease,
            kernel_port: 0,
            kernel_send: false,
            jitter: seed | 1,
            ring: None,
            gate: None,
            signing_key: None,
            by_address: BTreeMap::new(),
            addresses: (Vec::new(), 0),
            stations: Vec::new(),
            statement: members::first_statement(config.boot),
            outputs: VecDeque::new(),
        };
        for (index, peer) in config.peers.iter().enumerate() {
            node.add_peer(peer, now).map_err(|error| (PeerId(index), error))?;
        }
        Ok(node)
    }

    /// Adds a peer under the lowest free number.
    ///
    /// # Errors
    /// If it is there already, cannot be told from another, or there is no room.
    pub fn add_peer(&mut self, config: &PeerConfig, now: Instant) -> Result<PeerId, AddPeerError> {
        let link_id = self.network.link_id(&self.public_key, &config.public_key);
        if let Some(other) = self.by_key.get(&config.public_key) {
            return Err(AddPeerError::KeyTaken(*other));
        }
        if let Some(other) = self.by_link.get(&link_id) {
            return Err(AddPeerError::LinkIdTaken(*other));
        }
        let free = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
        if free >= LINKS_MAX as usize {
            return Err(AddPeerError::TooMany);
        }
        if free == self.peers.len() {
            self.peers.push(None);
        }
        let id = PeerId(free);
        if let Some(place) = self.peers.get_mut(free) {
            let mut peer = Peer::new(config.public_key, link_id, config.endpoint, now);
            peer.is_found = config.is_found;
            *place = Some(peer);
        }
        self.by_key.insert(config.public_key, id);
        self.by_link.insert(link_id, id);
        self.by_address.insert(NodeAddress::of_key(&config.public_key), id);
        Ok(id)
    }

    /// Forgets a peer, and what it wanted said to it and of it. Its number is free for another.
    pub fn remove_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id.0).and_then(Option::take) else { return };
        self.by_key.remove(&peer.public_key);
        self.by_link.remove(&peer.link_id);
        self.by_address.remove(&NodeAddress::of_key(&peer.public_key));
        self.outputs.retain(|output| output.peer() != Some(id));
        self.forget_member(&peer.public_key);
        self.forget_pass(id);
        while self.peers.last().is_some_and(Option::is_none) {
            self.peers.pop();
        }
    }

    /// Says which prefixes are trusted, and what no inner packet is larger than, instead of what was configured.
    pub fn reconfigure(&mut self, trusted: Vec<(IpAddr, u8)>, mtu_max: u16, now: Instant) {
        (self.trusted, self.mtu_max) = (trusted, mtu_max);
        self.ids().for_each(|id| self.decide(id, now));
        self.announce(now);
    }

    /// The peer with this public key.
    pub fn peer_of_key(&self, public_key: &[u8; 32]) -> Option<PeerId> {
        self.by_key.get(public_key).copied()
    }

    /// Takes in a control message that came in a session with a peer.
    pub fn handle_message(&mut self, id: PeerId, message: &[u8], now: Instant) -> Result<(), Refusal> {
        if self.gate.is_some() {
            if group::Message::is_one(message) {
                return self.handle_admission(id, message, now);
            }
            if message.first() != Some(&hello::TYPE) && !self.is_admitted(id) {
                return Err(Refusal(Counter::RxNoCertificate));
            }
        }
        if message.first() != Some(&hello::TYPE) && self.ring.is_some() {
            return self.handle_ring_message(id, message, now);
        }
        let hello = Hello::parse(message).ok_or(Refusal(Counter::RxBadHello))?;
        let boot = self.boot;
        let Some(peer) = self.peer_mut(id) else { return Err(Refusal(Counter::RxBadHello)) };
        match peer.hear(&hello, boot, now) {
            Heard::Flood => return Err(Refusal(Counter::RxHelloFlood)),
            Heard::Stale => return Err(Refusal(Counter::RxStaleHello)),
            Heard::New { echo } => {
                if let Some((rtt, echo_sent_ns)) = echo
                    && let Some(ping) = peer.pong(echo_sent_ns)
                {
                    self.outputs.push_back(Output::Pong { peer: id, id: ping, rtt });
                }
                if hello.answer {
                    self.say_hello(id, false, now);
                }
            }
        }
        self.member_spoke(id, now);
        self.decide(id, now);
        Ok(())
    }

    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Underlay { peer, reach } => {
                if let Some(state) = self.peer_mut(peer) {
                    state.underlay = reach.map(|(local, mtu)| Underlay { local, mtu });
                    self.tell_mtu(peer);
                    self.decide(peer, now);
                }
            }
            Command::Kernel { port, send } => {
                let changed = (self.kernel_port, self.kernel_send) != (port, send);
                (self.kernel_port, self.kernel_send) = (port, send);
                self.ids().for_each(|id| self.decide(id, now));
                if changed {
                    self.announce(now);
                }
            }
            Command::Endpoint { peer, endpoint } => {
                if let Some(state) = self.peer_mut(peer) {
                    state.set_endpoint(endpoint);
                    self.member_moved(peer, now);
                    self.decide(peer, now);
                }
            }
            Command::Session { peer, local_index } => {
                let Some(state) = self.peer_mut(peer) else { return };
                let had_session = state.has_session();
                if state.set_session(local_index, now) {
                    self.admission_session(peer, now);
                    self.member_session(peer, had_session, now);
                }
                self.decide(peer, now);
            }
            Command::Alive { peer } => {
                if let Some(state) = self.peer_mut(peer) {
                    state.is_alive(now);
                    self.decide(peer, now);
                }
            }
            Command::Announce => self.announce(now),
            Command::Ping { peer, id } => self.ping(peer, id, now),
            Command::Goodbye => {
                self.lease = Duration::ZERO;
                self.announce(now);
                self.leave_ring();
            }
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        for id in self.ids() {
            let Some(peer) = self.peer_mut(id) else { continue };
            if peer.next_hello <= now {
                let is_idle = self.is_idle(id);
                let Some(peer) = self.peer_mut(id) else { continue };
                peer.is_idle = is_idle;
                peer.next_hello = now.after(peer.interval());
                let jitter = self.next_jitter();
                if let Some(peer) = self.peer_mut(id) {
                    peer.next_hello = peer.next_hello.after(jitter);
                }
                // Who is idle says so by itself as often.
                self.say_hello(id, !is_idle, now);
                if let Some(peer) = self.peer_mut(id).filter(|peer| !is_idle && peer.is_found) {
                    peer.expect_hello(now);
                }
                self.repeat_certificate(id);
                self.repeat_addresses(id);
            }
            self.decide(id, now);
            self.doubt(id, now);
        }
        self.admission_timeout(now);
        self.ring_timeout(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Node::handle_timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let hellos =
            self.known().filter(|peer| peer.has_session()).map(|peer| (peer.next_hello, Reason::Hello));
        let silences = self
            .known()
            .filter(|p| !matches!(p.path, Path::None(_)))
            .filter_map(|peer| peer.silent_at().map(|at| (at, Reason::Silence)));
        let ring = self.ring.as_ref().and_then(Ring::poll_timeout).map(|at| (at, Reason::Ring));
        let doubts = self.known().filter_map(|peer| Some((peer.doubt?.next_at, Reason::Silence)));
        hellos.chain(silences).chain(doubts).chain(ring).chain(self.admission_deadline()).min()
    }

    /// A peer as an operator sees it.
    pub fn peer(&self, id: PeerId) -> Option<PeerView> {
        self.peer_at(id).map(|peer| peer.view(peer.takes_clear(|address| self.trusts(address))))
    }

    fn peer_at(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0)?.as_ref()
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.0)?.as_mut()
    }

    fn known(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    /// The numbers of all peers, and the free ones between them.
    fn ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.peers.len()).map(PeerId)
    }

    fn announce(&mut self, now: Instant) {
        self.ids().for_each(|id| self.say_hello(id, true, now));
    }

    fn ping(&mut self, id: PeerId, ping: u64, now: Instant) {
        self.say_hello(id, true, now);
        if let Some(peer) = self.peer_mut(id).filter(|peer| peer.has_session()) {
            peer.expect_pong(ping);
        }
    }

    /// Tells a peer about this node; not where there is no session to tell it in.
    fn say_hello(&mut self, id: PeerId, answer: bool, now: Instant) {
        let trusted = |address: IpAddr| self.trusted.iter().any(|prefix| contains(*prefix, address));
        let place = self.peers.get_mut(id.0).and_then(Option::as_mut);
        let Some(peer) = place.filter(|peer| peer.has_session()) else { return };
        // Nothing of a node without a kernel path goes on when its daemon is gone.
        let lease = if self.kernel_port == 0 { self.lease.min(USER_LEASE) } else { self.lease };
        let is_member = self.ring.as_ref().is_some_and(|ring| ring.is_connected_to(&peer.public_key));
        let lease = if is_member && !lease.is_zero() { lease.max(MEMBER_LEASE) } else { lease };
        let mut hello = Hello {
            clear: peer.takes_clear(trusted).then_some(peer.link_id),
            boot: self.boot,
            sent_ns: 0,
            echo_boot: 0,
            echo_sent_ns: 0,
            echo_delay_ns: 0,
            kernel_port: self.kernel_port,
            lease_s: u16::try_from(lease.as_secs()).unwrap_or(u16::MAX),
            mtu: 0,
            answer,
        };
        peer.stamp(&mut hello, now);
        self.outputs.push_back(Output::Say { peer: id, message: hello.to_bytes().to_vec() });
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|prefix| contains(*prefix, address))
    }

    /// Decides anew about a peer's path and reports a change.
    fn decide(&mut self, id: PeerId, now: Instant) {
        let kernel = self.kernel_send && self.kernel_port != 0;
        let here = Here { kernel, mtu_max: self.mtu_max, now };
        let relay_mtu = self.relay_mtu(id);
        let Some(peer) = self.peer_mut(id) else { return };
        peer.relay_mtu = relay_mtu;
        let Some(peer) = self.peer_at(id) else { return };
        let path = match peer.decide(peer.takes_clear(|address| self.trusts(address)), here) {
            Path::None(why) => Path::None(why),
            _ if !self.is_admitted(id) => Path::None(NoPath::NotAdmitted),
            path => path,
        };
        if path != peer.path {
            if let Some(peer) = self.peer_mut(id) {
                peer.path = path;
            }
            self.outputs.push_back(Output::Path { peer: id, path });
        }
    }

    /// Up to an eighth of the interval, so that nodes started together do not stay in step.
    fn next_jitter(&mut self) -> Duration {
        // Marsaglia's xorshift64.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let span = u64::try_from(HELLO_INTERVAL.as_nanos() / 8).unwrap_or(u64::MAX);
        Duration::from_nanos(self.jitter % span)
    }
}

/// Whether a prefix contains an address of the same family.
fn contains((network, len): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => {
            let shift = 32u32.saturating_sub(u32::from(len));
            u64::from(u32::from(n) ^ u32::from(a)) >> shift == 0
        }
        (IpAddr::V6(n), IpAddr::V6(a)) => {
            let difference = u128::from(n) ^ u128::from(a);
            len == 0 || difference >> 128u32.saturating_sub(u32::from(len)) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
