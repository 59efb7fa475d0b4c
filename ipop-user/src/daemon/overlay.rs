//! The daemon's part in the overlay: whom the ring wants to be connected to, who has which address of the
//! virtual network, and what other nodes carry.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use ipop_common::wireguard::TYPE_TRANSPORT;
use ipop_common::{Address, Counter};
use ipop_overlay::session::CANDIDATES_MAX;
use ipop_overlay::{Endpoint, Instant, NetworkKey, NodeAddress, PeerId, Refusal};
use tracing::{debug, info, warn};

use super::bootstrap::WaysIn;
use super::peers::{NotAdded, Origin, PeerState};
use super::relays::Pair;
use super::remembered::{self, KnownNode, Remembered};
use super::{Daemon, clock};
use crate::config::{Config, Prefix};
use crate::key::PublicKey;

/// Somebody may take an address that nobody had after so long.
const ABSENT: Duration = Duration::from_secs(3);
const ABSENT_MAX: usize = 1024;
/// Nodes that have called and shown no membership yet.
const STRANGERS_MAX: usize = 64;
/// A peer that was found and with which there is no session for so long is forgotten.
const FORGET: Duration = Duration::from_secs(20);
/// Addresses that a node leases: one of the pool, and one beside it.
const LEASED_MAX: usize = 2;
/// How often is noted where others are.
const REMEMBER: Duration = Duration::from_secs(60);

/// What the daemon knows of the overlay beside the core.
pub(super) struct Overlay {
    pub(super) ways: WaysIn,
    /// Addresses that nobody has, and until when that is taken to be so.
    absent: BTreeMap<IpAddr, Instant>,
    /// Between whom this node relays, by label.
    pub(super) relayed: BTreeMap<u32, Pair>,
    /// What is written down for the next run.
    remembered: Remembered,
    remember_at: Instant,
}

impl Overlay {
    fn new(config: &Config, key: NetworkKey) -> Result<Self> {
        Ok(Self {
            ways: WaysIn::new(config, key)?,
            absent: BTreeMap::new(),
            relayed: BTreeMap::new(),
            remembered: Remembered::read(&config.node.state_dir, &config.network.name),
            remember_at: clock::now().after(REMEMBER),
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.ways.next_deadline()
    }

    /// The addresses that this node has leased, in this run or the last.
    pub(super) fn leased(&self) -> Vec<Prefix> {
        self.remembered.leased.iter().filter_map(|text| text.parse().ok()).take(LEASED_MAX).collect()
    }

    pub(super) fn absent(&self) -> impl Iterator<Item = Address> {
        self.absent.keys().map(|address| Address::from(*address))
    }
}

impl Daemon {
    /// Takes part in the overlay, where the configuration says so.
    pub(super) fn join_overlay(&mut self) {
        let Some(overlay) = &self.overlay else { return };
        let random = Box::new(|bytes: &mut [u8]| {
            // The kernel does not run out of them.
            getrandom::fill(bytes).unwrap_or_else(|error| panic!("no random numbers: {error}"));
        });
        let nodes = overlay.remembered.nodes.clone();
        let now = clock::now();
        self.node.join(random, now);
        self.node.set_clock(clock::unix_ns() / 1_000_000, now);
        self.node.set_relaying(self.config.underlay.relay);
        self.claim_addresses();
        self.begin_leases();
        for node in &nodes {
            self.node.add_contact(*node.public_key.as_bytes(), node.places.clone(), false, now);
        }
        if let Some(ring) = self.node.ring() {
            info!(address = %ring.address(), remembered = nodes.len(), "part of the overlay");
        }
    }

    /// Says which addresses this node has, and since when.
    pub(super) fn claim_addresses(&mut self) {
        let Some(overlay) = &mut self.overlay else { return };
        let addresses: Vec<IpAddr> = self.addresses.iter().map(|prefix| prefix.addr()).collect();
        if addresses.is_empty() && overlay.remembered.addresses == addresses {
            return;
        }
        let unix = clock::unix_s();
        let before = overlay.remembered.clone();
        let since = overlay.remembered.since(addresses.clone(), unix);
        self.node.set_addresses(addresses, since, clock::now());
        if overlay.remembered != before {
            self.write_remembered();
        }
    }

    /// Notes which addresses this node has leased.
    pub(super) fn note_leased(&mut self) {
        let leased: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let is_leased = self.config.dhcp.is_some();
        if let Some(overlay) = self.overlay.as_mut().filter(|_| is_leased && !leased.is_empty())
            && overlay.remembered.leased != leased
        {
            overlay.remembered.leased = leased;
            self.write_remembered();
        }
    }

    /// Notes where others are, those first that have been there for the longest.
    pub(super) fn remember(&mut self) {
        let Some(ring) = self.node.ring() else { return };
        let mut edges: Vec<_> = ring.edges().collect();
        edges.sort_by_key(|edge| edge.since);
        let known = edges.iter().filter_map(|edge| {
            let id = self.node.peer_of_address(edge.address)?;
            // Its address at a TURN server is another one next time.
            let place = self.node.peer(id)?.endpoint?.udp().filter(|_| !ring.is_turned(edge.address))?;
            Some(KnownNode { public_key: PublicKey::from_bytes(edge.public_key), places: vec![place] })
        });
        let mut nodes: Vec<KnownNode> = known.take(remembered::NODES_MAX).collect();
        let Some(overlay) = &mut self.overlay else { return };
        // Those of before, as long as there is room: a node that is alone forgets nobody.
        for before in &overlay.remembered.nodes {
            let is_known = nodes.iter().any(|node| node.public_key == before.public_key);
            if !is_known && nodes.len() < remembered::NODES_MAX {
                nodes.push(before.clone());
            }
        }
        // A network that stays as it is writes nothing.
        if overlay.remembered.nodes != nodes {
            overlay.remembered.nodes = nodes;
            self.write_remembered();
        }
    }

    fn write_remembered(&self) {
        let Some(overlay) = &self.overlay else { return };
        let folder = &self.config.node.state_dir;
        if let Err(error) = overlay.remembered.write(folder) {
            warn!(folder = %folder.display(), %error, "what is known of the overlay is not kept for the next run");
        }
    }

    /// Tells the ring where others may reach this node: at the addresses of its interfaces.
    pub(super) async fn refresh_places(&mut self) {
        if self.overlay.is_none() {
            return;
        }
        let (mut places, mut lans) = (Vec::new(), Vec::new());
        let links = match self.netlink.links().await {
            Ok(links) => links,
            Err(error) => {
                warn!(%error, "this host's interfaces are not known: others cannot be told of them");
                return;
            }
        };
        let usable = |link: &&crate::netlink::LinkState| {
            let is_chosen = match &self.config.underlay.interfaces {
                Some(names) => names.iter().any(|name| name.as_str() == link.name),
                None => link.name != "lo",
            };
            // The bridge that the device is a port of is in the virtual network too.
            link.up && is_chosen && !self.device.own().contains(&link.ifindex)
        };
        for link in links.iter().filter(usable) {
            let addresses = self.netlink.addresses(link.ifindex).await.unwrap_or_default();
            for (address, _) in addresses {
                let port = self.port_for(&SocketAddr::new(address, 0));
                if port != 0 && self.listens_at(address) && self.may_be_place(address) {
                    places.push(SocketAddr::new(address, port));
                    lans.extend(if let IpAddr::V4(v4) = address { Some(v4) } else { None });
                }
            }
        }
        self.node.set_places(places.clone());
        self.set_lans(&lans);
        self.follow_servers(&places);
        self.follow_turn(&places);
        self.router_answered();
        self.follow_router().await;
    }

    pub(super) fn listens_at(&self, address: IpAddr) -> bool {
        let same_family = |listen: &&SocketAddr| listen.is_ipv4() == address.is_ipv4();
        let mut listen = self.config.underlay.listen.iter().filter(same_family);
        listen.any(|listen| listen.ip().is_unspecified() || listen.ip() == address)
    }

    /// Not in the virtual network itself: a link over a link would go round in circles.
    fn may_be_place(&self, address: IpAddr) -> bool {
        let is_virtual = self.addresses.iter().any(|own| own.contains(address));
        let is_unusable = address.is_unspecified() || address.is_multicast();
        let is_link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !is_virtual && !is_unusable && !is_link_local
    }

    fn set_lans(&mut self, lans: &[Ipv4Addr]) {
        if let Some(overlay) = &mut self.overlay {
            overlay.ways.set_lans(lans);
        }
    }

    /// The ring wants a session with a node.
    pub(super) fn call_node(&mut self, public_key: [u8; 32], places: &[Endpoint]) {
        let key = PublicKey::from_bytes(public_key);
        let may_be = |place: &&Endpoint| {
            place.udp().is_none_or(|place| self.may_be_place(place.ip()) && place.port() != 0)
        };
        let mut candidates: Vec<Endpoint> = places.iter().filter(may_be).copied().collect();
        let id = match self.node.peer_of_key(&public_key) {
            Some(id) => id,
            None => match self.add_found(name_of(&public_key), key, None) {
                Ok(id) => id,
                Err(error) => {
                    debug!(%error, "node not connected to");
                    return;
                }
            },
        };
        let endpoint = self.node.peer(id).and_then(|view| view.endpoint);
        let is_by_tcp = matches!(endpoint, Some(Endpoint::Tcp(_))) && self.sealing.current(id).is_some();
        if self.streams.is_wanted() && !is_by_tcp {
            let by_turn = self.turn.relayed().is_some();
            let others = |place: Endpoint| without_udp(place, by_turn);
            candidates = candidates.into_iter().flat_map(others).collect();
        }
        candidates.truncate(CANDIDATES_MAX);
        self.set_candidates(id, &candidates);
        let is_turned = self.node.ring().is_some_and(|ring| ring.is_turned(key.node_address().on_ring()));
        let is_direct = endpoint.is_none_or(|endpoint| endpoint.udp().is_some()) && !is_turned;
        if !is_direct || self.sealing.current(id).is_none() {
            self.sealing.call_candidates(id);
        }
    }

    /// Nothing comes from a peer any more by UDP, nor is it heard of by others: it is called by TCP, beside what is
    /// done to find out whether it is dead. What comes by TCP counts once nothing has come by UDP for a second.
    pub(super) fn try_tcp(&mut self, id: PeerId) {
        let place = self.node.peer(id).and_then(|view| view.endpoint).and_then(Endpoint::udp);
        let is_found = self.peers.get(&id).is_some_and(|peer| peer.origin == Origin::Found);
        if let Some(place) = place.filter(|_| is_found) {
            debug!(peer = self.name_of(id), %place, "nothing comes by UDP: called by TCP");
            self.set_candidates(id, &[Endpoint::Tcp(place)]);
            self.sealing.call_candidates(id);
        }
    }

    /// The ring has no use for a peer any more.
    pub(super) fn unlink(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(|peer| peer.origin == Origin::Found) {
            self.remove_peer(id);
        }
    }

    /// A node that is no peer has called: it becomes one if there is an overlay that it may be a member of.
    pub(super) fn admit_stranger(&mut self, key: PublicKey) -> Result<(), Refusal> {
        if self.overlay.is_none() {
            return Err(Refusal(Counter::RxUnknownPeer));
        }
        let found = self.peers.values().filter(|peer| peer.origin == Origin::Found);
        let strangers = found.filter(|peer| self.sealing.current(peer.id).is_none()).count();
        if strangers >= STRANGERS_MAX {
            return Err(Refusal(Counter::RxHandshakeFlood));
        }
        let name = name_of(key.as_bytes());
        self.add_found(name, key, None).map_err(|error| match error {
            NotAdded::Shunned => Refusal(Counter::RxShunned),
            NotAdded::Node(_) | NotAdded::Session(_) => Refusal(Counter::RxUnknownPeer),
        })?;
        self.sealing.answer_stranger()
    }

    /// A packet to an address of the virtual network waits: nobody knows yet who has it.
    pub(super) fn find_owner(&mut self, address: Address) {
        if let Some(key) = self.node_of_station(address) {
            return self.found(address.to_ip(), Some(key));
        }
        self.groups.packets_wait_for(address.to_ip());
        self.look_for_owner(address.to_ip());
    }

    /// Asks the overlay who has an address.
    pub(super) fn look_for_owner(&mut self, address: IpAddr) {
        if !self.find_lease(address) {
            self.node.look_up(address, clock::now());
        }
    }

    /// The overlay has said who has an address: those who wait for that go on.
    pub(super) fn hear_of_owner(&mut self, address: IpAddr, public_key: Option<[u8; 32]>) {
        if self.is_for_packets(address, public_key) {
            self.found(address, public_key);
        }
        self.owner_found(address, public_key);
    }

    /// What came of that: the key of who claims the address, which is asked itself then.
    fn found(&mut self, address: IpAddr, public_key: Option<[u8; 32]>) {
        let now = clock::now();
        let Some(public_key) = public_key.filter(|key| key != self.public_key.as_bytes()) else {
            if self.holder(address).is_some() {
                // It says so itself; that the ring does not know it yet is no reason against it.
                return;
            }
            debug!(%address, "nobody has it");
            if let Some(overlay) = &mut self.overlay
                && overlay.absent.len() < ABSENT_MAX
            {
                overlay.absent.insert(address, now.after(ABSENT));
            }
            self.publish_table();
            return;
        };
        let endpoint = Endpoint::Overlay(NodeAddress::of_key(&public_key));
        let id = match self.node.peer_of_key(&public_key) {
            Some(id) => id,
            None => {
                match self.add_found(name_of(&public_key), PublicKey::from_bytes(public_key), Some(endpoint))
                {
                    Ok(id) => id,
                    Err(error) => {
                        warn!(%address, %error, "its owner cannot be connected to");
                        return;
                    }
                }
            }
        };
        if self.sealing.current(id).is_none()
            && self.node.peer(id).is_some_and(|view| view.endpoint.is_none())
        {
            self.set_endpoint(id, Some(endpoint));
            // It may be looked for by UDP already: this way is one more.
            self.sealing.call_candidates(id);
        }
        self.sealing.want(id);
    }

    /// The peer that has an address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<PeerId> {
        let mut peers = self.peers.values();
        let has_it = |peer: &&PeerState| peer.config.addresses.iter().any(|prefix| prefix.contains(address));
        peers.find(has_it).map(|peer| peer.id)
    }

    /// A peer says which addresses it has. Of those in the virtual network it gets what no older claim
    /// stands against.
    pub(super) fn claimed(&mut self, id: PeerId, addresses: &[IpAddr], (since, knows_ours): (u64, bool)) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.origin == Origin::Found) else { return };
        (peer.claimed, peer.claimed_since) = (addresses.to_vec(), since);
        if knows_ours && !peer.takes_packets {
            peer.takes_packets = true;
            self.stale.peers.insert(id);
        }
        self.look_at_claimed(id);
    }

    /// What peers say that they have is looked at again: this node has other addresses.
    pub(super) fn look_at_all_claimed(&mut self) {
        let found = self.peers.values().filter(|peer| peer.origin == Origin::Found);
        let found: Vec<PeerId> = found.map(|peer| peer.id).collect();
        found.into_iter().for_each(|id| self.look_at_claimed(id));
    }

    fn look_at_claimed(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (claimed, since) = (peer.claimed.clone(), peer.claimed_since);
        let own = &self.addresses;
        if own.is_empty() {
            // What is of the network is known with the first address.
            return;
        }
        let is_ours = |address: &&IpAddr| own.iter().any(|prefix| prefix.contains(**address));
        let (inside, outside): (Vec<&IpAddr>, Vec<&IpAddr>) = claimed.iter().partition(is_ours);
        if !outside.is_empty() {
            debug!(?outside, "claimed, and not of this network");
            self.counters.add(Counter::RxRefusedClaim, outside.len() as u64);
        }
        let inside: Vec<IpAddr> = inside.into_iter().copied().collect();
        self.granted(id, &inside, since);
    }

    /// Gives a peer those addresses of the virtual network that are its own, and that no older claim stands against.
    pub(super) fn granted(&mut self, id: PeerId, addresses: &[IpAddr], since: u64) {
        let mut granted = Vec::new();
        for address in self.borne_out(id, addresses.to_vec(), since) {
            let prefix = Prefix::host(address);
            if self.wins(id, since, prefix) {
                granted.push(prefix);
            }
        }
        if self.set_addresses(id, granted).is_ok() {
            if let Some(overlay) = &mut self.overlay {
                addresses.iter().for_each(|address| {
                    overlay.absent.remove(address);
                });
            }
            // Before the peer is answered: it may send at once.
            self.publish_table();
        }
    }

    /// Whether a claim stands against all others; a younger one gives way.
    fn wins(&mut self, id: PeerId, since: u64, prefix: Prefix) -> bool {
        if self.addresses.iter().any(|own| own.addr() == prefix.addr()) {
            warn!(address = %prefix.addr(), peer = self.name_of(id), "another node has this node's address");
            return false;
        }
        let overlaps = |peer: &&PeerState| {
            peer.id != id && peer.config.addresses.iter().any(|theirs| theirs.overlaps(prefix))
        };
        let Some(other) = self.peers.values().find(overlaps) else { return true };
        let (other_id, other_since) = (other.id, other.claimed_since);
        if other.origin == Origin::Configured || other_since <= since {
            warn!(address = %prefix.addr(), peer = self.name_of(id), other = self.name_of(other_id),
                "two nodes claim an address: the older claim stands");
            return false;
        }
        let left: Vec<Prefix> =
            other.config.addresses.iter().filter(|theirs| !theirs.overlaps(prefix)).copied().collect();
        self.set_addresses(other_id, left).is_ok()
    }

    /// Another node claims an address of this one's.
    pub(super) fn address_taken(&mut self, address: IpAddr, by: &[u8; 32]) {
        let warning = format!("{address} is claimed by another node, {}", NodeAddress::of_key(by));
        if !self.warnings.contains(&warning) {
            warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// A node tells all a text. There is none in this version that means anything.
    pub(super) fn told_by(&self, from: NodeAddress, text: &[u8]) {
        debug!(%from, len = text.len(), "a text for all that nobody here understands");
        self.counters.add(Counter::RxUnknownMessage, 1);
    }

    /// Has other nodes carry a datagram.
    pub(super) fn carry(&mut self, to: NodeAddress, datagram: &[u8]) {
        if datagram.first() == Some(&TYPE_TRANSPORT) {
            self.note_carried(to);
        }
        if !self.node.carry(to, datagram, clock::now()) {
            self.counters.add(Counter::TxNoCarrier, 1);
        }
    }

    /// Forgets peers that nobody needs, and what nobody had.
    pub(super) fn tidy_overlay(&mut self, now: Instant) {
        let Some(overlay) = &mut self.overlay else { return };
        let is_connected = self.node.ring().is_some_and(|ring| ring.edges().next().is_some());
        overlay.ways.note_connected(is_connected, now);
        let before = overlay.absent.len();
        overlay.absent.retain(|_, until| *until > now);
        let is_changed = overlay.absent.len() != before;
        let is_time = overlay.remember_at <= now;
        if is_time {
            overlay.remember_at = now.after(REMEMBER);
        }
        let mut gone = Vec::new();
        for peer in self.peers.values_mut().filter(|peer| peer.origin == Origin::Found) {
            if self.sealing.current(peer.id).is_some() {
                peer.without_since = now;
            } else if now.since(peer.without_since) > FORGET {
                gone.push(peer.id);
            }
        }
        gone.into_iter().for_each(|id| self.remove_peer(id));
        if is_changed {
            self.publish_table();
        }
        if is_time {
            self.remember();
        }
    }
}

/// A place, and the ways there for a host that UDP does not leave: by TCP, since each node listens at one port by both
/// unless it is told otherwise, and by a TURN server, if there is one.
fn without_udp(place: Endpoint, by_turn: bool) -> impl Iterator<Item = Endpoint> {
    let by_turn = place.udp().filter(|_| by_turn).map(Endpoint::Turn);
    [Some(place), place.udp().map(Endpoint::Tcp), by_turn].into_iter().flatten()
}

/// What a node is called that has not said its name.
pub(super) fn name_of(public_key: &[u8; 32]) -> String {
    NodeAddress::of_key(public_key).to_string().chars().skip("ipop:".len()).take(8).collect()
}

/// The part of a node in the overlay, where the configuration gives it one.
pub(super) fn overlay(config: &Config) -> Result<Option<Overlay>> {
    let Some(secret) = config.network.secret.as_ref().filter(|_| config.has_overlay()) else {
        return Ok(None);
    };
    Overlay::new(config, NetworkKey::derive(&config.network.name, secret.expose())).map(Some)
}
