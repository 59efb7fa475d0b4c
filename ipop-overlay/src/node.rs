//! The node: peers, commands, timers and outputs.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use ipop_common::Counter;
use ipop_common::gpe::LinkId;
use ipop_common::hello::{self, Hello};
use x25519_dalek::StaticSecret;

use crate::keys::{LinkKeys, NetworkKey};
use crate::peer::{HELLO_INTERVAL, Heard, Path, Peer, PeerView, Underlay};
use crate::time::{Instant, Reason};

/// How long a node without a kernel path may be silent.
const USER_LEASE: Duration = Duration::from_secs(5);

/// A configured peer: its place in [`Config::peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub usize);

/// What a node is made of.
pub struct Config {
    pub private_key: StaticSecret,
    pub network: NetworkKey,
    pub peers: Vec<PeerConfig>,
    /// Prefixes within which links may be clear, as address and length.
    pub trusted: Vec<(IpAddr, u8)>,
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
    pub endpoint: Option<SocketAddr>,
}

/// What the node is told.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// How this host reaches a peer's endpoint: its own address, and the largest inner packet; or
    /// not at all.
    Underlay { peer: PeerId, reach: Option<(IpAddr, u16)> },
    /// The UDP port on which this node's kernel path receives, 0 where it has none; and whether it
    /// sends by it.
    Kernel { port: u16, send: bool },
    /// A peer's configured endpoint has changed.
    Endpoint { peer: PeerId, endpoint: Option<SocketAddr> },
    /// Something changed on this host: tell all peers now.
    Announce,
    /// Measure the round trip; `id` comes back in [`Output::Pong`].
    Ping { peer: PeerId, id: u64 },
    /// This node stops: tell all peers.
    Goodbye,
}

/// What the node wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Transmit {
        to: SocketAddr,
        datagram: [u8; hello::LEN],
    },
    /// The path to a peer has changed.
    Path {
        peer: PeerId,
        path: Path,
    },
    /// A peer answered from another address than before.
    Roamed {
        peer: PeerId,
        endpoint: SocketAddr,
    },
    Pong {
        peer: PeerId,
        id: u64,
        rtt: Duration,
    },
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub Counter);

/// One node. See the crate's documentation for how to drive it.
pub struct Node {
    peers: Vec<Peer>,
    by_link: BTreeMap<LinkId, PeerId>,
    trusted: Vec<(IpAddr, u8)>,
    boot: u64,
    lease: Duration,
    kernel_port: u16,
    kernel_send: bool,
    jitter: u64,
    outputs: VecDeque<Output>,
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl Node {
    /// Makes a node; `seed` spreads its timers.
    ///
    /// # Errors
    /// Two peers whose link ids are the same: one of them needs another key.
    pub fn new(config: &Config, seed: u64, now: Instant) -> Result<Self, (PeerId, PeerId)> {
        let mut by_link = BTreeMap::new();
        let mut peers = Vec::with_capacity(config.peers.len());
        for (index, peer) in config.peers.iter().enumerate() {
            let keys = LinkKeys::derive(&config.network, &config.private_key, &peer.public_key);
            if let Some(other) = by_link.insert(keys.link_id(), PeerId(index)) {
                return Err((other, PeerId(index)));
            }
            peers.push(Peer::new(keys, peer.endpoint, now));
        }
        Ok(Self {
            peers,
            by_link,
            trusted: config.trusted.clone(),
            boot: config.boot,
            lease: config.lease,
            kernel_port: 0,
            kernel_send: false,
            jitter: seed | 1,
            outputs: VecDeque::new(),
        })
    }

    /// Takes in a control datagram.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Refusal> {
        let hello = Hello::parse(datagram).ok_or(Refusal(Counter::RxBadHello))?;
        let id = *self.by_link.get(&hello.link_id).ok_or(Refusal(Counter::RxBadHello))?;
        let Some(peer) = self.peers.get_mut(id.0) else { return Err(Refusal(Counter::RxBadHello)) };
        let (body, tag) = datagram.split_at(hello::BODY_LEN);
        if !peer.keys.verify(body, tag) {
            return Err(Refusal(Counter::RxBadHello));
        }
        let before = peer.endpoint();
        match peer.hear(&hello, from, self.boot, now) {
            Heard::Flood => return Err(Refusal(Counter::RxHelloFlood)),
            Heard::Stale => return Err(Refusal(Counter::RxStaleHello)),
            // Only an answer to this answer will show that the peer is there.
            Heard::Unconfirmed => self.send_hello(id, from, true, now),
            Heard::Confirmed { rtt, echo_sent_ns } => {
                if let Some(ping) = peer.pong(echo_sent_ns) {
                    self.outputs.push_back(Output::Pong { peer: id, id: ping, rtt });
                }
                if before != Some(from) {
                    self.outputs.push_back(Output::Roamed { peer: id, endpoint: from });
                }
                if hello.answer {
                    self.send_hello(id, from, false, now);
                }
            }
        }
        self.decide(id, now);
        Ok(())
    }

    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Underlay { peer, reach } => {
                if let Some(state) = self.peers.get_mut(peer.0) {
                    state.underlay = reach.map(|(local, mtu)| Underlay { local, mtu });
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
                if let Some(state) = self.peers.get_mut(peer.0) {
                    state.set_configured(endpoint);
                    state.next_hello = now;
                    self.decide(peer, now);
                }
            }
            Command::Announce => self.announce(now),
            Command::Ping { peer, id } => self.ping(peer, id, now),
            Command::Goodbye => {
                self.lease = Duration::ZERO;
                self.announce(now);
            }
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        for id in self.ids() {
            let Some(peer) = self.peers.get_mut(id.0) else { continue };
            if peer.next_hello <= now {
                peer.next_hello = now.after(HELLO_INTERVAL);
                let targets = [peer.endpoint(), peer.fallback(now)];
                let jitter = self.next_jitter();
                if let Some(peer) = self.peers.get_mut(id.0) {
                    peer.next_hello = peer.next_hello.after(jitter);
                }
                for to in targets.into_iter().flatten() {
                    self.send_hello(id, to, true, now);
                }
            }
            self.decide(id, now);
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Node::handle_timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let hellos = self.peers.iter().map(|peer| (peer.next_hello, Reason::Hello));
        let silences = self
            .peers
            .iter()
            .filter(|p| !matches!(p.path, Path::None(_)))
            .filter_map(|peer| peer.silent_at().map(|at| (at, Reason::Silence)));
        hellos.chain(silences).min()
    }

    /// A peer as an operator sees it.
    pub fn peer(&self, id: PeerId) -> Option<PeerView> {
        self.peers.get(id.0).map(Peer::view)
    }

    fn ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.peers.len()).map(PeerId)
    }

    fn announce(&mut self, now: Instant) {
        for id in self.ids() {
            if let Some(to) = self.peers.get(id.0).and_then(Peer::endpoint) {
                self.send_hello(id, to, true, now);
            }
        }
    }

    fn ping(&mut self, id: PeerId, ping: u64, now: Instant) {
        let Some(to) = self.peers.get(id.0).and_then(Peer::endpoint) else { return };
        self.send_hello(id, to, true, now);
        if let Some(peer) = self.peers.get_mut(id.0) {
            peer.expect_pong(ping);
        }
    }

    fn send_hello(&mut self, id: PeerId, to: SocketAddr, answer: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.0) else { return };
        // Nothing of a node without a kernel path goes on when its daemon is gone.
        let lease = if self.kernel_port == 0 { self.lease.min(USER_LEASE) } else { self.lease };
        let mut hello = Hello {
            link_id: peer.keys.link_id(),
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
        let mut datagram = [0; hello::LEN];
        let body = hello.to_bytes();
        let tag = peer.keys.tag(&body);
        for (out, byte) in datagram.iter_mut().zip(body.iter().chain(&tag)) {
            *out = *byte;
        }
        self.outputs.push_back(Output::Transmit { to, datagram });
    }

    /// Decides anew about a peer's path and reports a change.
    fn decide(&mut self, id: PeerId, now: Instant) {
        let trusted = |address: IpAddr| self.trusted.iter().any(|prefix| contains(*prefix, address));
        let kernel_here = self.kernel_send && self.kernel_port != 0;
        let Some(peer) = self.peers.get(id.0) else { return };
        let path = peer.decide(trusted, kernel_here, now);
        if path != peer.path {
            if let Some(peer) = self.peers.get_mut(id.0) {
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
