//! What an operator asks of other nodes: who is meant, the question over the overlay, and its answer or the
//! lack of one.

use std::net::IpAddr;
use std::time::Duration;

use ipop_overlay::ring::{End, Page, Ring};
use ipop_overlay::{Command, Instant, NodeAddress, PeerId};

use super::peers::PeerState;
use super::pings::{To, micros};
use super::{Daemon, clock};
use crate::api::{self, HopEnd, LOOKUP_TIMEOUT_MS, PING_TIMEOUT_MS, Selector};
use crate::control::{Probe, Reply};
use crate::key;

/// A question that is not answered is repeated.
const TRIES: u8 = 3;
/// The parts in which a node with the most connections tells them.
const PAGES_MAX: u8 = 32;

/// A node that an operator means.
struct Target {
    address: NodeAddress,
    /// What the answer calls it.
    name: String,
    peer: Option<PeerId>,
}

enum Sought {
    Node(Target),
    This,
    /// Whoever has this address.
    Owner(IpAddr),
}

/// A question under way.
struct Question {
    to: NodeAddress,
    token: u64,
    tries: u8,
    until: Instant,
    ask: Ask,
}

enum Ask {
    Hop { hop: u16, reply: Reply<api::Hop> },
    Connections { so_far: api::RingNode, page: u8, reply: Reply<api::RingNode> },
}

/// All that is under way.
#[derive(Default)]
pub(super) struct Probes {
    questions: Vec<Question>,
    /// Probes to whoever has an address, until when that is looked up.
    sought: Vec<(IpAddr, Instant, Probe)>,
}

impl Probes {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sought = self.sought.iter().map(|(_, until, _)| *until);
        self.questions.iter().map(|question| question.until).chain(sought).min()
    }

    fn take(&mut self, token: u64) -> Option<Question> {
        let at = self.questions.iter().position(|question| question.token == token)?;
        Some(self.questions.swap_remove(at))
    }
}

/// A number by which an answer is known, and that nobody can guess.
pub(super) fn token() -> u64 {
    // The kernel does not run out of them.
    key::random_u64().unwrap_or_else(|error| panic!("no random numbers: {error}"))
}

impl Daemon {
    /// Puts a question to a node, once it is known which one is meant.
    pub(super) fn probe(&mut self, node: Option<&Selector>, probe: Probe) {
        match node.map_or(Ok(Sought::This), |selector| self.seek(selector)) {
            Err(error) => probe.refuse(error),
            Ok(Sought::Node(target)) => self.put(target, probe),
            Ok(Sought::Owner(address)) => {
                let until = clock::now().after(Duration::from_millis(LOOKUP_TIMEOUT_MS));
                self.probes.sought.push((address, until, probe));
                self.find_owner(address.into());
            }
            Ok(Sought::This) => match (probe, self.node.ring()) {
                (Probe::Survey { reply }, Some(ring)) => drop(reply.send(Ok(self.own_connections(ring)))),
                (probe @ Probe::Survey { .. }, None) => probe.refuse(NO_OVERLAY.to_owned()),
                (probe, _) => probe.refuse("that is this node itself; name another".to_owned()),
            },
        }
    }

    fn put(&mut self, target: Target, probe: Probe) {
        let now = clock::now();
        let is_direct = target.peer.filter(|peer| !self.is_carried(*peer));
        let to = match (&probe, is_direct) {
            (Probe::Ping { overlay: false, .. }, Some(peer)) => To::Peer(peer),
            _ => match self.node.ring() {
                None => return probe.refuse(NO_OVERLAY.to_owned()),
                Some(ring) if ring.next_hop(target.address).is_none() => {
                    return probe.refuse(ALONE.to_owned());
                }
                Some(_) => To::Node(target.address),
            },
        };
        match probe {
            Probe::Ping { count, interval, reply, .. } => {
                self.pings.order((to, target.name), count, interval, now, reply);
            }
            Probe::Trace { hop, reply } => self.ask(target.address, 0, Ask::Hop { hop, reply }),
            Probe::Survey { reply } => {
                let so_far = api::RingNode {
                    node: self.node_ref(target.address),
                    rtt_us: None,
                    nodes_estimate: 0,
                    coordinates: api::Coordinates::default(),
                    connections: Vec::new(),
                };
                self.ask(target.address, 0, Ask::Connections { so_far, page: 0, reply });
            }
        }
    }

    /// Whether packets to a peer are carried by others, or would be if there were any.
    fn is_carried(&self, peer: PeerId) -> bool {
        use ipop_overlay::Path;
        let path = self.node.peer(peer).map(|view| view.path);
        match path {
            Some(Path::Kernel { .. } | Path::User { .. } | Path::Relay { .. }) => false,
            _ => self.node.ring().is_some(),
        }
    }

    fn ask(&mut self, to: NodeAddress, tries: u8, ask: Ask) {
        let (token, now) = (token(), clock::now());
        match &ask {
            Ask::Hop { hop, .. } => self.node.trace(to, token, *hop, now),
            Ask::Connections { page, .. } => self.node.survey(to, token, *page, now),
        }
        let until = now.after(Duration::from_millis(PING_TIMEOUT_MS));
        self.probes.questions.push(Question { to, token, tries: tries + 1, until, ask });
    }

    /// A question with this token came to a node on its way and ended there.
    pub(super) fn traced(&mut self, token: u64, from: NodeAddress, rtt: Duration, end: End) {
        let Some(Question { ask: Ask::Hop { hop, reply }, .. }) = self.probes.take(token) else { return };
        let end = match end {
            End::Arrived => HopEnd::Arrived,
            End::UsedUp => HopEnd::OnTheWay,
            End::NoWay => HopEnd::NoWay,
        };
        let node = Some(self.node_ref(from));
        drop(reply.send(Ok(api::Hop { hop, node, rtt_us: Some(micros(rtt)), end })));
    }

    /// A node has told a part of its connections.
    pub(super) fn surveyed(&mut self, token: u64, rtt: Duration, told: &Page) {
        let Some(question) = self.probes.take(token) else { return };
        let Ask::Connections { mut so_far, page, reply } = question.ask else { return };
        so_far.rtt_us.get_or_insert(micros(rtt));
        so_far.nodes_estimate = nodes_estimate(told.log2_size);
        so_far.coordinates = told.coordinates.into();
        // Connections come and go between two parts.
        let new: Vec<_> = edges(told)
            .filter(|edge| so_far.connections.iter().all(|known| known.address != edge.address))
            .collect();
        so_far.connections.extend(new);
        let next = page + 1;
        if next < told.count().min(PAGES_MAX) {
            self.ask(question.to, 0, Ask::Connections { so_far, page: next, reply });
        } else {
            drop(reply.send(Ok(so_far)));
        }
    }

    /// Who has an address that was looked up, or nobody.
    pub(super) fn owner_found(&mut self, address: IpAddr, public_key: Option<[u8; 32]>) {
        let is_it = |(sought, ..): &mut (IpAddr, Instant, Probe)| *sought == address;
        let found: Vec<_> = self.probes.sought.extract_if(.., is_it).collect();
        for (.., probe) in found {
            match public_key {
                Some(key) => {
                    let selector = Selector::PublicKey(key::PublicKey::from_bytes(key));
                    self.probe(Some(&selector), probe);
                }
                None => probe.refuse(nobody_has(address)),
            }
        }
    }

    /// Repeats questions that nobody has answered, and gives them up.
    pub(super) fn probes_timeout(&mut self, now: Instant) {
        let over: Vec<_> = self.probes.sought.extract_if(.., |(_, until, _)| *until <= now).collect();
        over.into_iter().for_each(|(address, _, probe)| probe.refuse(nobody_has(address)));
        let due: Vec<_> = self.probes.questions.extract_if(.., |question| question.until <= now).collect();
        for Question { to, tries, ask, .. } in due {
            if tries < TRIES {
                self.ask(to, tries, ask);
                continue;
            }
            match ask {
                Ask::Hop { hop, reply } => {
                    drop(reply.send(Ok(api::Hop { hop, node: None, rtt_us: None, end: HopEnd::NoAnswer })));
                }
                Ask::Connections { so_far, reply, .. } => {
                    let who = so_far.node.label();
                    drop(reply.send(Err(format!(
                        "no answer from {who}; `ipopctl traceroute {}` shows how far a message comes",
                        so_far.node.address
                    ))));
                }
            }
        }
    }

    /// Sends the pings that are due.
    pub(super) fn send_pings(&mut self, now: Instant) {
        for (to, id) in self.pings.due(now) {
            match to {
                To::Peer(peer) => self.node.handle_command(Command::Ping { peer, id }, now),
                To::Node(address) => self.node.echo(address, id, now),
            }
        }
    }

    /// Which node an operator means.
    fn seek(&self, selector: &Selector) -> Result<Sought, String> {
        if let Ok(peer) = self.find(selector) {
            return Ok(Sought::Node(target(peer)));
        }
        let Some(ring) = self.node.ring() else {
            return self.find(selector).map(|peer| Sought::Node(target(peer)));
        };
        let own = &self.addresses;
        match selector {
            Selector::Address(address) => Ok(self.at(address.on_ring())),
            Selector::PublicKey(key) => Ok(self.at(key.node_address().on_ring())),
            Selector::VirtualIp(ip) if own.iter().any(|prefix| prefix.addr() == *ip) => Ok(Sought::This),
            Selector::VirtualIp(ip) if own.iter().any(|prefix| prefix.contains(*ip)) => {
                Ok(Sought::Owner(*ip))
            }
            Selector::VirtualIp(ip) => Err(format!("{ip} is no peer's, and not an address of this network")),
            Selector::Prefix(prefix) => self.beginning_with(ring, prefix),
            Selector::Name(name) if *name == self.config.node.name => Ok(Sought::This),
            Selector::Name(name) => {
                self.beginning_with(ring, &format!("ipop:{name}")).map_err(|_| self.no_such_node(name))
            }
        }
    }

    fn no_such_node(&self, name: &str) -> String {
        let peers = self.peers.values().map(|peer| peer.config.name.as_str()).collect::<Vec<_>>().join(", ");
        let peers = if peers.is_empty() { "none".to_owned() } else { peers };
        format!(
            "no such node: {name} is no peer's name (there is {peers}), and no node known has an address that \
                 begins so; give a virtual IP, or the whole address as `ipopctl crawl` shows it"
        )
    }

    fn at(&self, address: NodeAddress) -> Sought {
        if address == self.public_key.node_address().on_ring() {
            return Sought::This;
        }
        let peer = self.node.peer_of_address(address).and_then(|id| self.peers.get(&id));
        let name = |address: NodeAddress| key::NodeAddress::from(address).short();
        Sought::Node(peer.map_or_else(|| Target { address, name: name(address), peer: None }, target))
    }

    /// The one node known whose address begins so.
    fn beginning_with(&self, ring: &Ring, prefix: &str) -> Result<Sought, String> {
        let peers = self.peers.values().map(|peer| peer.config.public_key.node_address().on_ring());
        let mut found: Vec<_> = peers.chain(ring.known()).chain([ring.address()]).collect();
        found.retain(|address| address.to_string().starts_with(prefix));
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [address] => Ok(self.at(address)),
            [] => {
                Err(format!("no node known has an address that begins with {prefix}; give the whole address"))
            }
            _ => {
                let all = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(format!(
                    "several nodes have an address that begins with {prefix}: {all}; give more of it"
                ))
            }
        }
    }

    fn own_connections(&self, ring: &Ring) -> api::RingNode {
        let first = ring.page(0);
        let pages = (0..first.count().max(1)).map(|number| ring.page(number));
        api::RingNode {
            node: self.node_ref(ring.address()),
            rtt_us: None,
            nodes_estimate: nodes_estimate(first.log2_size),
            coordinates: first.coordinates.into(),
            connections: pages.flat_map(|page| edges(&page).collect::<Vec<_>>()).collect(),
        }
    }

    /// What this node knows of another by its address.
    pub(super) fn node_ref(&self, address: NodeAddress) -> api::NodeRef {
        let address_shown = key::NodeAddress::from(address);
        if address_shown == self.public_key.node_address() {
            return api::NodeRef {
                address: address_shown,
                name: Some(self.config.node.name.clone()),
                virtual_ips: self.addresses.iter().map(|own| own.addr().to_string()).collect(),
            };
        }
        let peer = self.node.peer_of_address(address).and_then(|id| self.peers.get(&id));
        api::NodeRef {
            address: address_shown,
            name: peer.filter(|peer| peer.has_name()).map(|peer| peer.config.name.clone()),
            virtual_ips: peer.map(|peer| api::virtual_ips(&peer.config.addresses)).unwrap_or_default(),
        }
    }
}

const NO_OVERLAY: &str =
    "this node takes no part in an overlay; give it an `underlay.bootstrap` and restart ipopd";
const ALONE: &str = "this node is connected to no other, so nothing can be asked; `ipopctl status` says why";

fn target(peer: &PeerState) -> Target {
    let address = peer.config.public_key.node_address().on_ring();
    Target { address, name: peer.config.name.clone(), peer: Some(peer.id) }
}

fn nobody_has(address: IpAddr) -> String {
    format!(
        "no node of the network says that it has {address}; is it up, and `ipopctl status` there without a warning?"
    )
}

/// A number of nodes from its logarithm with 8 bits behind the point.
pub(super) fn nodes_estimate(log2_size: u16) -> u64 {
    (f64::from(log2_size) / 256.0).exp2().round() as u64
}

fn edges(page: &Page) -> impl Iterator<Item = api::RingEdge> {
    let names = |roles: ipop_overlay::ring::Roles| roles.names().map(str::to_owned).collect();
    page.connections.iter().map(move |(address, mine, theirs)| api::RingEdge {
        address: (*address).into(),
        roles: names(*mine),
        their_roles: names(*theirs),
    })
}
