//! What `ipopd` does around the node: sessions, peers that come and go, who has which virtual address, the
//! kernel's maps, and packets that wait. Each function has its counterpart in `ipop-user/src/daemon`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipop_common::relay;
use ipop_overlay::dhcp;
use ipop_overlay::dht::{self, SigningKey};
use ipop_overlay::ring::Ring;
use ipop_overlay::{
    Command, Config, Endpoint, Instant, NetworkKey, NoPath, Node, NodeAddress, Output, Path, PeerConfig,
    PeerId,
};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::maps::{Link, LinkKey, Maps};
use crate::packet::Packet;
use crate::random::Random;
use crate::session::{Datagram, Deed, Received, Sessions};

mod owners;

/// How often it looks at what its peers do.
const TICK: Duration = Duration::from_secs(1);
/// A peer with which there is no session for so long is forgotten.
const FORGET: Duration = Duration::from_secs(20);
/// Nodes that have called and shown no membership yet.
const STRANGERS_MAX: usize = 64;
/// Somebody may take an address that nobody had after so long.
const ABSENT: Duration = Duration::from_secs(3);
/// So long and so many packets wait.
const PATIENCE: Duration = Duration::from_secs(7);
const WAITING_MAX: usize = 256;
/// What the wires take, less what a clear packet is put in.
const MTU: u16 = 1450;
/// Where links in the clear would be received.
const KERNEL_PORT: u16 = 15_001;
const LEASE: Duration = Duration::from_secs(30);

/// UNIX time when a world begins, in milliseconds: that of its hosts whose clocks are right.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// UNIX time by a host's clock, in milliseconds.
pub fn unix_ms(now: Instant) -> u64 {
    EPOCH_MS + now.as_nanos() / 1_000_000
}

/// What is kept of one peer.
#[derive(Debug)]
struct Peer {
    key: LinkKey,
    /// As the node has told.
    path: Path,
    /// Virtual addresses that it may use, and since when it has them.
    addresses: Vec<IpAddr>,
    claimed_since: u64,
    /// It knows this node's addresses; until then it would refuse what comes from them.
    takes_packets: bool,
    without_since: Instant,
    /// Where the last packet came from.
    source: Option<Endpoint>,
    /// Inner packets have come since the last look.
    has_data: bool,
    has_sent: bool,
}

/// What others than the node are told of.
#[derive(Clone, Debug)]
pub enum Event {
    Echoed {
        token: u64,
        rtt: Duration,
        hops: u16,
    },
    /// A packet has come to a virtual address of this host.
    Delivered(Packet),
    /// A node has told all something.
    Told,
    /// A frame came for a group that the host is a member of, of the node with this key.
    Heard {
        origin: [u8; 32],
        frame: Vec<u8>,
    },
    /// Another node claims an address of this one's.
    Taken(IpAddr),
    /// What has become of something in the DHT.
    Dht(dht::Event),
    /// What has become of the host's lease.
    Lease(dhcp::Output),
}

/// A node and everything around it on one host.
#[derive(Debug)]
pub struct Daemon {
    pub node: Node,
    key: [u8; 32],
    place: SocketAddr,
    sessions: Sessions,
    peers: BTreeMap<PeerId, Peer>,
    pub maps: Maps,
    /// Peers of whom the maps do not know yet what has been decided.
    stale: BTreeSet<PeerId>,
    addresses: Vec<IpAddr>,
    /// Addresses that nobody has, and until when that is taken to be so.
    absent: BTreeMap<IpAddr, Instant>,
    waiting: VecDeque<(Packet, Instant)>,
    /// Between whom this host relays, by label.
    relayed: BTreeMap<u32, [PeerId; 2]>,
    /// Asks for an address, where the host wants one.
    dhcp: Option<dhcp::Client>,
    tick_at: Option<Instant>,
    node_due: Option<Instant>,
    sessions_due: Option<Instant>,
    /// Inner packets that were refused: their source is not the peer's.
    pub refused: u64,
    pub(crate) outbox: Vec<(SocketAddr, Datagram)>,
    pub(crate) events: Vec<Event>,
}

impl Daemon {
    /// Starts a node on the host at `place`.
    pub(crate) fn new(private: &StaticSecret, place: SocketAddr, mut random: Random, now: Instant) -> Self {
        let key = PublicKey::from(private).to_bytes();
        let config = Config {
            public_key: key,
            network: NetworkKey::derive("simulated", b"known to all"),
            peers: Vec::new(),
            trusted: Vec::new(),
            mtu_max: u16::MAX,
            boot: now.as_nanos(),
            lease: LEASE,
        };
        let (seed, first_index) = (random.draw(), random.draw() as u32);
        let Ok(mut node) = Node::new(&config, seed, now) else { unreachable!("it has no peers") };
        node.join(Box::new(move |bytes: &mut [u8]| random.fill(bytes)), now);
        node.handle_command(Command::Kernel { port: KERNEL_PORT, send: true }, now);
        node.set_places(vec![place]);
        node.set_signing_key(SigningKey::new(private));
        node.set_clock(unix_ms(now), now);
        Self {
            node,
            key,
            place,
            sessions: Sessions::new(key, first_index),
            peers: BTreeMap::new(),
            maps: Maps::default(),
            stale: BTreeSet::new(),
            addresses: Vec::new(),
            absent: BTreeMap::new(),
            waiting: VecDeque::new(),
            relayed: BTreeMap::new(),
            dhcp: None,
            tick_at: None,
            node_due: None,
            sessions_due: None,
            refused: 0,
            outbox: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn ring(&self) -> &Ring {
        self.node.ring().unwrap_or_else(|| unreachable!("every host's node is part of the ring"))
    }

    /// Virtual addresses of this host, since this UNIX time in seconds.
    pub(crate) fn set_addresses(&mut self, addresses: Vec<IpAddr>, since: u64, now: Instant) {
        self.addresses.clone_from(&addresses);
        self.node.set_addresses(addresses, since, now);
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// How many peers there are.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// How packets to a peer with this key go.
    pub fn path_to(&self, key: &[u8; 32]) -> Path {
        let view = self.node.peer_of_key(key).and_then(|id| self.node.peer(id));
        view.map_or(Path::None(NoPath::NoEndpoint), |view| view.path)
    }

    /// When something is to be done next; asked after each change.
    pub(crate) fn due(&mut self) -> Option<Instant> {
        self.node_due = self.node.poll_timeout().map(|(at, _)| at);
        self.sessions_due = self.sessions.due();
        let dhcp_due = self.dhcp.as_ref().and_then(dhcp::Client::poll_timeout);
        [self.node_due, self.sessions_due, self.tick_at, dhcp_due].into_iter().flatten().min()
    }

    pub(crate) fn timeout(&mut self, now: Instant) {
        if self.tick_at.take_if(|at| *at <= now).is_some() {
            self.tick(now);
        }
        if self.sessions_due.is_some_and(|at| at <= now) {
            self.sessions.timeout(now);
        }
        if self.node_due.is_some_and(|at| at <= now) {
            self.node.handle_timeout(now);
        }
        if let Some(client) =
            self.dhcp.as_mut().filter(|client| client.poll_timeout().is_some_and(|at| at <= now))
        {
            client.handle_timeout(&mut self.node, now);
            self.take_lease();
        }
    }

    /// Asks for an address from now on.
    pub(crate) fn lease(&mut self, config: dhcp::Config, now: Instant) {
        self.dhcp = Some(dhcp::Client::new(config, self.key, now));
    }

    /// Gives it back.
    pub(crate) fn release(&mut self, now: Instant) {
        if let Some(client) = &mut self.dhcp {
            client.release(&mut self.node, now);
        }
    }

    /// The address that the host has by its lease.
    pub fn leased(&self) -> Option<IpAddr> {
        self.dhcp.as_ref().and_then(dhcp::Client::address)
    }

    fn take_lease(&mut self) {
        let outputs = std::iter::from_fn(|| self.dhcp.as_mut().and_then(dhcp::Client::poll_output));
        self.events.extend(outputs.map(Event::Lease));
    }

    fn take_dht(&mut self, event: dht::Event, now: Instant) {
        let is_lease =
            self.dhcp.as_mut().is_some_and(|client| client.handle_event(&event, &mut self.node, now));
        if is_lease {
            self.take_lease();
        } else {
            self.events.push(Event::Dht(event));
        }
    }

    /// Tells the node what has come, and forgets peers that nobody needs.
    fn tick(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (id, peer) in &mut self.peers {
            let has_come = std::mem::take(&mut peer.has_data);
            if has_come {
                self.node.handle_command(Command::Alive { peer: *id }, now);
            }
            if std::mem::take(&mut peer.has_sent) || has_come {
                self.node.traffic(*id, now);
            }
            if self.sessions.current(*id).is_some() {
                peer.without_since = now;
            } else if now.since(peer.without_since) > FORGET {
                gone.push(*id);
            } else {
                self.tick_at = Some(now.after(TICK));
            }
        }
        gone.into_iter().for_each(|id| self.remove_peer(id));
        self.absent.retain(|_, until| *until > now);
        self.waiting.retain(|(_, since)| now.since(*since) < PATIENCE);
        let waited_for: BTreeSet<IpAddr> =
            self.waiting.iter().map(|(packet, _)| packet.destination).collect();
        for address in waited_for {
            self.ask_for(address, now);
            self.tick_soon(now);
        }
    }

    fn tick_soon(&mut self, now: Instant) {
        self.tick_at.get_or_insert(now.after(TICK));
    }

    /// Where a peer is by UDP.
    fn place_of(&self, id: PeerId) -> Option<SocketAddr> {
        self.node.peer(id).and_then(|view| view.endpoint).and_then(Endpoint::udp)
    }

    /// Takes in what has come by UDP.
    pub(crate) fn receive_by_udp(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let (Some(label), Some(message)) = (relay::label(datagram, 0), datagram.get(relay::HEADER_LEN..))
        else {
            return self.receive(Endpoint::Udp(from), datagram, now);
        };
        let places = self.relayed.get(&label).map(|ends| ends.map(|end| self.place_of(end)));
        match places {
            Some([Some(a), Some(b)]) if from == a => self.outbox.push((b, datagram.into())),
            Some([Some(a), Some(b)]) if from == b => self.outbox.push((a, datagram.into())),
            _ => {
                let mut relays = self.peers.iter().filter(|(id, _)| self.place_of(**id) == Some(from));
                if let Some((_, relay)) = relays.next() {
                    let by = NodeAddress::of_key(&relay.key);
                    self.receive(Endpoint::Relay { by, label }, message, now);
                }
            }
        }
    }

    /// Takes in a datagram.
    fn receive(&mut self, from: Endpoint, datagram: &[u8], now: Instant) {
        let received = match self.sessions.receive(from, datagram, now) {
            Received::Stranger(key) if self.admit_stranger(key, now) => {
                self.sessions.receive(from, datagram, now)
            }
            received => received,
        };
        let Received::Text(id, text) = received else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let is_usual = self.node.peer(id).is_some_and(|view| view.endpoint == Some(from));
        if is_usual {
            self.node.see(id, false, true, now);
        }
        if peer.source.replace(from) != Some(from) {
            self.node.handle_command(Command::Alive { peer: id }, now);
        }
        match Packet::parse(&text) {
            Some(packet) => self.packet_in(id, packet, now),
            None if text.is_empty() => {}
            // What it refuses it counts.
            None => drop(self.node.handle_message(id, &text, now)),
        }
    }

    fn packet_in(&mut self, id: PeerId, packet: Packet, now: Instant) {
        self.sessions.data_came(id, now);
        self.tick_soon(now);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.has_data = true;
        if peer.addresses.contains(&packet.source) && self.addresses.contains(&packet.destination) {
            self.events.push(Event::Delivered(packet));
        } else {
            self.refused += 1;
        }
    }

    fn admit_stranger(&mut self, key: [u8; 32], now: Instant) -> bool {
        let strangers = self.peers.keys().filter(|id| self.sessions.current(**id).is_none()).count();
        strangers < STRANGERS_MAX && self.add_found(key, None, now).is_some()
    }

    fn add_found(&mut self, key: [u8; 32], endpoint: Option<Endpoint>, now: Instant) -> Option<PeerId> {
        // There is no session with oneself.
        let is_other = key != self.key;
        let config = PeerConfig { public_key: key, endpoint, is_found: true };
        let id = is_other.then(|| self.node.add_peer(&config, now).ok()).flatten()?;
        self.sessions.add(id, key, endpoint);
        let peer = Peer {
            key,
            path: Path::None(NoPath::NoAnswer),
            addresses: Vec::new(),
            claimed_since: 0,
            takes_packets: false,
            without_since: now,
            source: None,
            has_data: false,
            has_sent: false,
        };
        self.peers.insert(id, peer);
        self.stale.insert(id);
        self.tick_soon(now);
        Some(id)
    }

    fn remove_peer(&mut self, id: PeerId) {
        let relayed = self.relayed_by(id);
        let Some(peer) = self.peers.remove(&id) else { return };
        self.sessions.remove(id);
        self.node.remove_peer(id);
        self.maps.remove(&peer.key);
        self.stale.extend(relayed);
        self.stale.remove(&id);
    }

    /// The peers to which packets go by a relay.
    fn relayed_by(&self, relay: PeerId) -> Vec<PeerId> {
        let by = self.peers.get(&relay).map(|peer| NodeAddress::of_key(&peer.key));
        let by_it = |id: &PeerId| {
            let endpoint = self.node.peer(*id).and_then(|view| view.endpoint);
            by.is_some() && endpoint.and_then(Endpoint::relay) == by
        };
        self.peers.keys().copied().filter(by_it).collect()
    }

    /// Carries out what sessions and node want, until they want no more.
    pub(crate) fn drain(&mut self, now: Instant) {
        loop {
            let deeds = self.sessions.poll();
            let mut is_idle = deeds.is_empty();
            deeds.into_iter().for_each(|deed| self.carry_out(deed, now));
            while let Some(output) = self.node.poll_output() {
                is_idle = false;
                self.take(output, now);
            }
            let stale = std::mem::take(&mut self.stale);
            if !stale.is_empty() {
                is_idle = false;
                stale.into_iter().for_each(|id| self.apply(id));
                self.send_waiting(now);
            }
            if is_idle {
                return;
            }
        }
    }

    fn carry_out(&mut self, deed: Deed, now: Instant) {
        match deed {
            Deed::Send { to, datagram } => self.transmit(to, datagram, now),
            Deed::Changed(peer) => {
                let local_index = self.sessions.current(peer);
                if local_index.is_none() {
                    self.tick_soon(now);
                }
                self.node.handle_command(Command::Session { peer, local_index }, now);
                self.stale.insert(peer);
            }
            Deed::Roamed { peer, to } => self.moved(peer, Some(to), now),
        }
    }

    fn take(&mut self, output: Output, now: Instant) {
        match output {
            Output::Say { peer, message } => {
                if let Some((to, datagram)) = self.sessions.seal(peer, &message, false, now) {
                    self.transmit(to, datagram, now);
                }
            }
            Output::Path { peer: id, path } => {
                self.peers.entry(id).and_modify(|peer| peer.path = path);
                self.stale.insert(id);
            }
            Output::Addresses { peer, addresses, since, knows_ours, stations: _ } => {
                self.claimed(peer, &addresses, since, knows_ours);
            }
            Output::Link { public_key, places } => self.call(public_key, &places, now),
            Output::Silent { peer } => self.node.detour(peer, now),
            Output::Move { peer, to } => {
                self.sessions.set_endpoint(peer, Some(to));
                self.moved(peer, Some(to), now);
            }
            Output::Relay { label, ends } => drop(self.relayed.insert(label, ends)),
            Output::Unrelay { label } => drop(self.relayed.remove(&label)),
            Output::Unlink { peer } => self.remove_peer(peer),
            Output::Carried { from, datagram } => self.receive(Endpoint::Overlay(from), &datagram, now),
            Output::Found { address, public_key } => self.found(address, public_key, now),
            Output::Echoed { token, rtt, hops, .. } => self.events.push(Event::Echoed { token, rtt, hops }),
            Output::Broadcast { .. } => self.events.push(Event::Told),
            Output::Multicast { origin, frame, .. } => self.events.push(Event::Heard { origin, frame }),
            Output::Taken { address, .. } => self.events.push(Event::Taken(address)),
            // There is no other transport here.
            Output::Unheard { .. } => {}
            Output::Dht(event) => self.take_dht(event, now),
            // No network of the simulator has a group.
            Output::Admitted { .. }
            | Output::Refused { .. }
            | Output::RefusedBy { .. }
            | Output::Signed { .. } => {}
            Output::Pong { .. } | Output::Traced { .. } | Output::Surveyed { .. } => {}
        }
    }

    fn transmit(&mut self, to: Endpoint, datagram: Datagram, now: Instant) {
        match to {
            Endpoint::Udp(to) => self.outbox.push((to, datagram)),
            // Where UDP does not go, nothing does in this model; nobody looks for such places.
            Endpoint::Tcp(_) | Endpoint::Turn(_) => {}
            Endpoint::Relay { by, label } => {
                if let Some(to) = self.node.peer_of_address(by).and_then(|id| self.place_of(id)) {
                    self.outbox.push((to, [&relay::header(label)[..], &datagram].concat().into()));
                }
            }
            Endpoint::Overlay(to) => drop(self.node.carry(to, &datagram, now)),
        }
    }

    /// A peer is somewhere else; no route leads to one that others carry to.
    fn moved(&mut self, peer: PeerId, endpoint: Option<Endpoint>, now: Instant) {
        self.node.handle_command(Command::Endpoint { peer, endpoint }, now);
        let is_carried = endpoint.is_none_or(|endpoint| endpoint.overlay().is_some());
        let reach = (!is_carried).then_some((self.place.ip(), MTU));
        self.node.handle_command(Command::Underlay { peer, reach }, now);
        self.stale.insert(peer);
        self.stale.extend(self.relayed_by(peer));
    }

    /// The ring wants a session with a node.
    fn call(&mut self, key: [u8; 32], places: &[Endpoint], now: Instant) {
        let known = self.node.peer_of_key(&key);
        let Some(id) = known.or_else(|| self.add_found(key, None, now)) else { return };
        self.sessions.set_candidates(id, places);
        let endpoint = self.node.peer(id).and_then(|view| view.endpoint);
        let is_direct = endpoint.is_none_or(|endpoint| endpoint.udp().is_some());
        if !is_direct || self.sessions.current(id).is_none() {
            self.sessions.call_candidates(id, now);
        }
    }

    /// Puts a peer's link into the maps, or takes it out.
    fn apply(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        match self.link(id, peer, peer.path) {
            Some(link) => self.maps.install(peer.key, link),
            None => self.maps.remove(&peer.key),
        }
    }

    /// What the maps should hold of a peer whose path is this.
    fn link(&self, id: PeerId, peer: &Peer, path: Path) -> Option<Link> {
        let (endpoint, label) = match path {
            Path::Kernel { endpoint, .. } => (endpoint, None),
            Path::Relay { by, label, .. } => (self.place_of(self.node.peer_of_address(by)?)?, Some(label)),
            Path::None(_) | Path::User { .. } | Path::Overlay { .. } => return None,
        };
        Some(Link {
            endpoint,
            label,
            session: self.sessions.current(id)?,
            sends: peer.takes_packets,
            lease_end: self.sessions.end(id)?,
            addresses: peer.addresses.clone(),
        })
    }

    /// Where the maps are not what follows from the node's own state.
    pub(crate) fn wrong_in_maps(&self) -> Vec<String> {
        let views = self.peers.iter().filter_map(|(id, peer)| {
            let view = self.node.peer(*id)?;
            Some((peer.key, self.link(*id, peer, view.path)?))
        });
        let mut wrong = self.maps.differences(&views.collect());
        for (key, link) in self.maps.links() {
            let Some(id) = self.node.peer_of_key(key) else {
                wrong.push("the kernel has a link to a node that is no peer".to_owned());
                continue;
            };
            if !self.sessions.has(id, link.session) {
                wrong.push(format!("the kernel sends in a session that is over: {link:?}"));
            }
            let endpoint = self.node.peer(id).and_then(|view| view.endpoint);
            let endpoint = endpoint.and_then(|endpoint| match endpoint.relay() {
                Some(by) => self.node.peer_of_address(by).and_then(|id| self.place_of(id)),
                None => endpoint.udp(),
            });
            if endpoint != Some(link.endpoint) {
                wrong.push(format!("the kernel sends elsewhere than to {endpoint:?}: {link:?}"));
            }
        }
        wrong
    }
}
