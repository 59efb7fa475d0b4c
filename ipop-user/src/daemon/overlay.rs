//! The daemon's part in the overlay: ways in, whom the ring wants to be connected to, who has which
//! address of the virtual network, and what other nodes carry.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use ipop_common::{Address, Counter};
use ipop_overlay::introduction::Introduction;
use ipop_overlay::session::CANDIDATES_MAX;
use ipop_overlay::{Endpoint, Instant, NetworkKey, NodeAddress, PeerId, Refusal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::peers::Origin;
use super::{Daemon, clock};
use crate::config::{self, Config, Prefix};
use crate::key::PublicKey;

/// How often a bootstrap node is asked who it is, at first; half as often each time.
const ASK: Duration = Duration::from_secs(1);
const ASK_MAX: Duration = Duration::from_secs(30);
/// One that has not answered when it is asked this seldom is spoken of.
const COMPLAIN: Duration = Duration::from_secs(4);
/// Somebody may take an address that nobody had after so long.
const ABSENT: Duration = Duration::from_secs(3);
const ABSENT_MAX: usize = 1024;
/// Nodes that have called and shown no membership yet.
const STRANGERS_MAX: usize = 64;
/// A peer that was found and with which there is no session for so long is forgotten.
const FORGET: Duration = Duration::from_secs(20);
/// Names that are being looked up.
const NAMES_MAX: usize = 16;

/// What the daemon knows of the overlay beside the core.
pub(super) struct Overlay {
    key: NetworkKey,
    /// What questions of this run have in common, so that no old answer is taken for one to them.
    nonce: [u8; 16],
    bootstraps: Vec<Bootstrap>,
    /// Addresses that nobody has, and until when that is taken to be so.
    absent: BTreeMap<IpAddr, Instant>,
    /// Since when this node has its addresses, UNIX time in seconds.
    since: u64,
    names: (mpsc::Sender<Name>, mpsc::Receiver<Name>),
}

/// A name of a bootstrap node, and what it stands for.
type Name = (usize, Vec<SocketAddr>);

struct Bootstrap {
    endpoint: config::Endpoint,
    places: Vec<SocketAddr>,
    wait: Duration,
    ask_at: Instant,
    /// It has answered in this run, as this node.
    known: Option<PublicKey>,
}

impl Overlay {
    pub(super) fn new(config: &Config, key: NetworkKey) -> Result<Self> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).context("the kernel gave no random bytes")?;
        let now = clock::now();
        let bootstraps = config.underlay.bootstrap.iter().map(|endpoint| Bootstrap {
            endpoint: endpoint.clone(),
            places: Vec::new(),
            wait: ASK,
            ask_at: now,
            known: None,
        });
        Ok(Self {
            key,
            nonce,
            bootstraps: bootstraps.collect(),
            absent: BTreeMap::new(),
            since: clock::unix_ns() / 1_000_000_000,
            names: mpsc::channel(NAMES_MAX),
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.bootstraps.iter().map(|bootstrap| bootstrap.ask_at).min()
    }

    /// What is configured, and who has answered there.
    pub(super) fn bootstraps(&self) -> impl Iterator<Item = (&config::Endpoint, Option<&PublicKey>)> {
        self.bootstraps.iter().map(|bootstrap| (&bootstrap.endpoint, bootstrap.known.as_ref()))
    }

    pub(super) fn absent(&self) -> impl Iterator<Item = Address> {
        self.absent.keys().map(|address| Address::from(*address))
    }
}

/// What the name of a bootstrap node stands for.
pub(super) async fn next_name(overlay: &mut Option<Overlay>) -> Name {
    match overlay {
        Some(overlay) => match overlay.names.1.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
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
        let (since, now) = (overlay.since, clock::now());
        self.node.join(random, now);
        let addresses = self.config.network.addresses.iter().map(|prefix| prefix.addr()).collect();
        self.node.set_addresses(addresses, since, now);
        if let Some(ring) = self.node.ring() {
            info!(address = %ring.address(), bootstraps = overlay.bootstraps.len(), "part of the overlay");
        }
    }

    /// Tells the ring where others may reach this node: at the addresses of its interfaces.
    pub(super) async fn refresh_places(&mut self) {
        if self.overlay.is_none() {
            return;
        }
        let mut places = Vec::new();
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
            link.up && is_chosen && !self.device.is_own(link.ifindex)
        };
        for link in links.iter().filter(usable) {
            let addresses = self.netlink.addresses(link.ifindex).await.unwrap_or_default();
            for (address, _) in addresses {
                let port = self.port_for(&SocketAddr::new(address, 0));
                if port != 0 && self.listens_at(address) && self.may_be_place(address) {
                    places.push(SocketAddr::new(address, port));
                }
            }
        }
        self.node.set_places(places);
    }

    fn listens_at(&self, address: IpAddr) -> bool {
        let same_family = |listen: &&SocketAddr| listen.is_ipv4() == address.is_ipv4();
        let mut listen = self.config.underlay.listen.iter().filter(same_family);
        listen.any(|listen| listen.ip().is_unspecified() || listen.ip() == address)
    }

    /// Not in the virtual network itself: a link over a link would go round in circles.
    fn may_be_place(&self, address: IpAddr) -> bool {
        let is_virtual = self.config.network.addresses.iter().any(|own| own.contains(address));
        let is_unusable = address.is_unspecified() || address.is_multicast();
        let is_link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !is_virtual && !is_unusable && !is_link_local
    }

    /// Asks the bootstrap nodes who they are, while this node is connected to nobody.
    pub(super) fn ask_bootstraps(&mut self, now: Instant) {
        if self.overlay.as_ref().and_then(Overlay::next_deadline).is_none_or(|at| at > now) {
            return;
        }
        let is_alone = self.node.ring().is_none_or(|ring| ring.edges().next().is_none());
        let Some(overlay) = &mut self.overlay else { return };
        let question = Introduction::Asks { nonce: overlay.nonce }.to_bytes(&overlay.key);
        let mut asked = Vec::new();
        for (index, bootstrap) in overlay.bootstraps.iter_mut().enumerate() {
            if bootstrap.ask_at > now {
                continue;
            }
            bootstrap.ask_at = now.after(bootstrap.wait);
            if !is_alone && bootstrap.known.is_some() {
                bootstrap.wait = ASK_MAX;
                continue;
            }
            if bootstrap.wait >= COMPLAIN && is_alone && bootstrap.known.is_none() {
                warn!(bootstrap = %bootstrap.endpoint, "no answer: is it there, and of this network?");
            }
            bootstrap.wait = (bootstrap.wait * 2).min(ASK_MAX);
            match &bootstrap.endpoint {
                config::Endpoint::Address(address) => bootstrap.places = vec![*address],
                config::Endpoint::Host { name, port } => {
                    look_up_name(index, name.as_str().to_owned(), *port, overlay.names.0.clone());
                }
            }
            asked.extend(bootstrap.places.iter().copied());
        }
        for place in asked {
            self.transmit(place, &question);
        }
    }

    /// The name of a bootstrap node stands for these places: it is asked there.
    pub(super) fn name_resolved(&mut self, (index, places): Name) {
        let Some(overlay) = &mut self.overlay else { return };
        let Some(bootstrap) = overlay.bootstraps.get_mut(index) else { return };
        let new: Vec<SocketAddr> =
            places.iter().filter(|place| !bootstrap.places.contains(place)).copied().collect();
        bootstrap.places = places;
        let question = Introduction::Asks { nonce: overlay.nonce }.to_bytes(&overlay.key);
        new.into_iter().for_each(|place| self.transmit(place, &question));
    }

    /// Somebody asks who this node is, or says who it is.
    pub(super) fn introduced(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<(), Refusal> {
        let Some(overlay) = &mut self.overlay else { return Err(Refusal(Counter::RxUnknownMessage)) };
        let own = *self.public_key.as_bytes();
        match Introduction::parse(&overlay.key, datagram) {
            Some(Introduction::Asks { nonce }) => {
                let answer = Introduction::Answers { nonce, public_key: own }.to_bytes(&overlay.key);
                self.transmit(from, &answer);
                Ok(())
            }
            Some(Introduction::Answers { nonce, public_key }) if nonce == overlay.nonce => {
                let asked = |bootstrap: &&mut Bootstrap| bootstrap.places.contains(&from);
                let Some(bootstrap) = overlay.bootstraps.iter_mut().find(asked) else {
                    return Err(Refusal(Counter::RxBadHandshake));
                };
                let key = PublicKey::from_bytes(public_key);
                if public_key != own && bootstrap.known.as_ref() != Some(&key) {
                    info!(bootstrap = %bootstrap.endpoint, at = %from, key = %key, "bootstrap node found");
                }
                bootstrap.known = Some(key);
                self.node.add_contact(public_key, vec![from], true, clock::now());
                Ok(())
            }
            _ => Err(Refusal(Counter::RxBadHandshake)),
        }
    }

    /// The ring wants a session with a node.
    pub(super) fn call_node(&mut self, public_key: [u8; 32], places: &[SocketAddr]) {
        let key = PublicKey::from_bytes(public_key);
        let candidates: Vec<Endpoint> = places
            .iter()
            .filter(|place| self.may_be_place(place.ip()) && place.port() != 0)
            .take(CANDIDATES_MAX)
            .map(|place| Endpoint::Udp(*place))
            .collect();
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
        self.set_candidates(id, &candidates);
        let is_carried =
            self.node.peer(id).and_then(|view| view.endpoint).is_some_and(|e| e.overlay().is_some());
        if is_carried && self.sealing.current(id).is_some() {
            self.sealing.call_candidates(id);
        } else {
            self.sealing.want(id);
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
        self.add_found(name, key, None).map_err(|_| Refusal(Counter::RxUnknownPeer))?;
        self.sealing.answer_stranger()
    }

    /// A packet to an address of the virtual network waits: nobody knows yet who has it.
    pub(super) fn find_owner(&mut self, address: Address) {
        self.node.look_up(address.to_ip(), clock::now());
    }

    /// What came of that: the key of who claims the address, which is asked itself then.
    pub(super) fn found(&mut self, address: IpAddr, public_key: Option<[u8; 32]>) {
        let now = clock::now();
        let Some(public_key) = public_key.filter(|key| key != self.public_key.as_bytes()) else {
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
        }
        self.sealing.want(id);
    }

    /// A peer says which addresses it has. Of those in the virtual network it gets what no older claim
    /// stands against.
    pub(super) fn claimed(&mut self, id: PeerId, addresses: &[IpAddr], (since, knows_ours): (u64, bool)) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.origin == Origin::Found) else { return };
        peer.claimed_since = since;
        if knows_ours && !peer.takes_packets {
            peer.takes_packets = true;
            self.stale.peers.insert(id);
        }
        let own = &self.config.network.addresses;
        let is_ours = |address: &&IpAddr| own.iter().any(|prefix| prefix.contains(**address));
        let (inside, outside): (Vec<&IpAddr>, Vec<&IpAddr>) = addresses.iter().partition(is_ours);
        if !outside.is_empty() {
            debug!(?outside, "claimed, and not of this network");
            self.counters.add(Counter::RxRefusedClaim, outside.len() as u64);
        }
        let mut granted = Vec::new();
        for address in inside {
            let prefix = Prefix::host(*address);
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
        if self.config.network.addresses.iter().any(|own| own.addr() == prefix.addr()) {
            warn!(address = %prefix.addr(), peer = self.name_of(id), "another node has this node's address");
            return false;
        }
        let overlaps = |peer: &&super::peers::PeerState| {
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

    /// Has other nodes carry a datagram.
    pub(super) fn carry(&mut self, to: NodeAddress, datagram: &[u8]) {
        if !self.node.carry(to, datagram, clock::now()) {
            self.counters.add(Counter::TxNoCarrier, 1);
        }
    }

    /// Forgets peers that nobody needs, and what nobody had.
    pub(super) fn tidy_overlay(&mut self, now: Instant) {
        let Some(overlay) = &mut self.overlay else { return };
        let before = overlay.absent.len();
        overlay.absent.retain(|_, until| *until > now);
        let is_changed = overlay.absent.len() != before;
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
    }
}

/// What a node is called that has not said its name.
fn name_of(public_key: &[u8; 32]) -> String {
    NodeAddress::of_key(public_key).to_string().chars().skip("ipop:".len()).take(8).collect()
}

fn look_up_name(index: usize, name: String, port: u16, done: mpsc::Sender<Name>) {
    tokio::spawn(async move {
        match tokio::net::lookup_host((name.as_str(), port)).await {
            // The daemon may have ended meanwhile.
            Ok(places) => drop(done.try_send((index, places.collect()))),
            Err(error) => warn!(name, %error, "bootstrap node not found"),
        }
    });
}

/// The part of a node in the overlay, where the configuration gives it one.
pub(super) fn overlay(config: &Config) -> Result<Option<Overlay>> {
    let Some(secret) = config.network.secret.as_ref().filter(|_| config.has_overlay()) else {
        return Ok(None);
    };
    Overlay::new(config, NetworkKey::derive(&config.network.name, secret.expose())).map(Some)
}
