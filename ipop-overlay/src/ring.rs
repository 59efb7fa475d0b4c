//! The ring: a structured overlay as the original's (Brunet), in which each node keeps connections to
//! its nearest neighbours and a few shortcuts, and finds every other in a few hops.
//!
//! A connection is a session with another node; making and keeping sessions is not done here.
//! [`Output::Link`] asks for one, [`Ring::connected`] and [`Ring::disconnected`] tell what became of
//! it. A node is known by its static key, its place on the ring follows from that, and each pair of
//! nodes has one connection at most, however many of them wanted it.
//!
//! | file | what |
//! |---|---|
//! | `wire` | the messages |
//! | `edge`, `table` | one connection, and all of them |
//! | `route` | where a message goes next |
//! | `connect` | finding nodes and making connections |
//! | `upkeep` | neighbours, shortcuts, what is alive, what is given up |
//! | `contacts` | ways into the network |
//! | `carried` | what others carry to a node without a connection, and when that becomes a connection |
//! | `broadcast` | what all nodes are told |
//! | `groups` | trees by which datagrams reach the members of a group |
//! | `seen`, `nat` | where others see this node, and what that tells of NATs |
//! | `relays` | nodes by way of which others are reached |
//! | `claims` | who has which address of the virtual network |
//! | `records`, `copies`, `own` | the DHT: questions and answers, copies at neighbours, this node's own records |
//! | `rates` | how often others may have something done |
//! | `coordinates` | where nodes are in terms of round trips |
//! | `probes` | what an operator asks of other nodes |
//! | `limits`, `counts` | what bounds it, what is counted |

mod broadcast;
mod carried;
mod claims;
mod connect;
mod contacts;
mod coordinates;
mod copies;
mod counts;
mod edge;
mod groups;
mod limits;
mod nat;
mod own;
mod probes;
mod rates;
mod records;
mod relays;
mod route;
mod seen;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
mod wire;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use crate::address::NodeAddress;
use crate::dht;
use crate::endpoint::Endpoint;
use crate::session::Random;
use crate::time::Instant;
use broadcast::Broadcasts;
use carried::Carried;
use claims::Claims;
use connect::{Linking, Request};
use contacts::Contacts;
use coordinates::Vivaldi;
use edge::{Edge, Smoothed};
use groups::Groups;
use limits::EDGES_MAX;
use probes::Probes;
use records::Records;
use relays::Relays;
use table::Table;
use upkeep::Upkeep;
pub(crate) use wire::PAYLOAD_MAX;
use wire::{
    AskRelay, AskSeen, Beat, CloseReason, Datagram, EchoKind, GroupMessage, Header, Kind, Mode, Neighbours,
    Relay, Seen,
};

pub use counts::{Count, Counts};
pub use groups::GroupView;
pub use nat::{LENT_MAX, Mapping, Observation, Ports, SERVERS_MAX};
pub use probes::{End, Outlook, Page};
pub use wire::{BROADCAST_MAX, Coordinates, ENDPOINTS_MAX, FRAME_MAX, Group, Roles};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message in the session with a node to which there is a connection.
    Send { to: NodeAddress, message: Vec<u8> },
    /// Make a session with a node; it may be found at one of these places.
    Link { public_key: [u8; 32], places: Vec<Endpoint> },
    /// What goes to a node is to go this way from now on.
    Move { address: NodeAddress, to: Endpoint },
    /// Pass on what one of these two sends with this label to the other. A pair may move: the label stays.
    Relay { label: u32, ends: [NodeAddress; 2] },
    /// Do so no more.
    Unrelay { label: u32 },
    /// End the session with a node, or stop trying to make one.
    Unlink { address: NodeAddress },
    /// A WireGuard message came over the ring.
    Carried { from: NodeAddress, datagram: Vec<u8> },
    /// An echo came back.
    Echoed { token: u64, from: NodeAddress, rtt: Duration, hops: u16 },
    /// A message that traces a way came to a node and ended there.
    Traced { token: u64, from: NodeAddress, rtt: Duration, hops: u16, end: End },
    /// A node has told of its connections.
    Surveyed { token: u64, from: NodeAddress, rtt: Duration, page: Page },
    /// What came of a lookup: the key of who claims an address of the virtual network, or nobody.
    Found { address: IpAddr, public_key: Option<[u8; 32]> },
    /// A node tells all a text.
    Broadcast { from: NodeAddress, text: Vec<u8> },
    /// The node with this key has sent a frame to a group that this one is a member of, and has signed it.
    Multicast { origin: [u8; 32], group: Group, frame: Vec<u8> },
    /// Another claims an address of this node's.
    Taken { address: IpAddr, by: [u8; 32] },
    /// What has become of something in the DHT.
    Dht(dht::Event),
}

/// Makes connections to this node known to others, and others to it; see the module's documentation.
pub struct Ring {
    public_key: [u8; 32],
    /// This node's own addresses, as its interfaces have them.
    endpoints: Vec<SocketAddr>,
    turned: Vec<SocketAddr>,
    /// See [`Edge::of_nat`].
    of_nat: Option<Duration>,
    /// Outside addresses that lead to it, as its operator or a router says.
    lent: Vec<SocketAddr>,
    /// Where servers are that are no members, where they see this node, and the number of places that it had
    /// sent to then.
    servers: Vec<(SocketAddr, SocketAddr, u32)>,
    table: Table,
    links: BTreeMap<NodeAddress, Linking>,
    avoided: BTreeMap<NodeAddress, Instant>,
    requests: BTreeMap<u64, Request>,
    contacts: Contacts,
    claims: Claims,
    broadcasts: Broadcasts,
    groups: Groups,
    carried: Carried,
    probes: Probes,
    records: Records,
    relays: Relays,
    upkeep: Upkeep,
    vivaldi: Vivaldi,
    /// Others have reached this node uninvited.
    is_open: bool,
    /// To how many places this node has sent, and perhaps made a NAT give out a port.
    flows: u32,
    /// How long requests take to be answered.
    answer_time: Smoothed,
    random: Random,
    outputs: VecDeque<Output>,
    counts: Counts,
}

/// A connection as an operator sees it.
#[derive(Clone, Debug)]
pub struct EdgeView {
    pub address: NodeAddress,
    pub public_key: [u8; 32],
    /// Why this node keeps it, and why the other does.
    pub mine: Roles,
    pub theirs: Roles,
    pub since: Instant,
    pub rtt: Option<Duration>,
    pub coordinates: Option<Coordinates>,
    /// Datagrams for groups that went to it, and that came from it.
    pub multicast: [u64; 2],
}

/// How much a table holds, and the most that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub table: &'static str,
    pub len: usize,
    pub most: usize,
}

impl core::fmt::Debug for Ring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ring").field("own", &self.table.own).finish_non_exhaustive()
    }
}

impl Ring {
    pub fn new(public_key: [u8; 32], random: Random, now: Instant) -> Self {
        let mut ring = Self {
            public_key,
            endpoints: Vec::new(),
            turned: Vec::new(),
            of_nat: None,
            lent: Vec::new(),
            servers: Vec::new(),
            table: Table::new(NodeAddress::of_key(&public_key)),
            links: BTreeMap::new(),
            avoided: BTreeMap::new(),
            requests: BTreeMap::new(),
            contacts: Contacts::default(),
            claims: Claims::default(),
            broadcasts: Broadcasts::default(),
            groups: Groups::new(),
            carried: Carried::default(),
            probes: Probes::default(),
            records: Records::new(now),
            relays: Relays::default(),
            upkeep: Upkeep::new(now),
            vivaldi: Vivaldi::new(),
            is_open: false,
            flows: 0,
            answer_time: Smoothed::default(),
            random,
            outputs: VecDeque::new(),
            counts: Counts::default(),
        };
        ring.spread_upkeep(now);
        ring
    }

    pub fn address(&self) -> NodeAddress {
        self.table.own
    }

    /// This node's own addresses.
    pub fn set_endpoints(&mut self, mut endpoints: Vec<SocketAddr>) {
        endpoints.truncate(ENDPOINTS_MAX);
        if self.endpoints != endpoints {
            self.endpoints = endpoints;
            self.forget_of_nat();
        }
    }

    /// There is a session with a node, which is at `place`.
    pub fn connected(&mut self, public_key: [u8; 32], place: Endpoint, now: Instant) {
        let endpoint = place.udp();
        let address = NodeAddress::of_key(&public_key);
        let own = self.table.own;
        if address == own {
            return;
        }
        let linking = self.links.remove(&address);
        // Who asks a node to connect is sent to, which opens the boxes on the way.
        self.is_open |= endpoint.is_some() && linking.is_none() && !self.table.contains(address);
        let role = linking.as_ref().map_or(Roles::NONE, |linking| linking.role);
        let flows = self.flows_until(linking.as_ref(), endpoint);
        let turned = linking.map_or(Vec::new(), |linking| linking.turned);
        self.avoided.remove(&address);
        self.contacts.connected(address);
        if let Some(edge) = self.table.get_mut(address) {
            // Made anew: the other may have been started again.
            edge.endpoint = endpoint.or(edge.endpoint);
            edge.hear(0, now);
            edge.mine = edge.mine.with(role);
        } else {
            if self.table.len() >= EDGES_MAX {
                self.counts.add(Count::Full);
                self.outputs.push_back(Output::Unlink { address });
                return;
            }
            self.counts.add(Count::Connected);
            let mut edge = Edge::new(public_key, own < address, now);
            edge.endpoint = endpoint;
            edge.mine = role;
            edge.flows = flows;
            edge.of_nat = self.of_nat;
            self.table.insert(address, edge);
        }
        match place {
            Endpoint::Relay { by, .. } => self.relayed(address, by, now),
            Endpoint::Tcp(_) | Endpoint::Turn(_) => self.roundabout(address, now),
            Endpoint::Udp(_) | Endpoint::Overlay(_) => self.not_relayed(address),
        }
        if let Some(edge) = self.table.get_mut(address) {
            // What it has said before still holds where nothing was said this time.
            edge.turned = if turned.is_empty() { core::mem::take(&mut edge.turned) } else { turned };
            edge.weigh(now);
        }
        if self.is_direct(address) {
            self.ask_relay_for_others(address, now);
        }
        self.take_role(address, role, now);
        self.ask(address, now);
        self.ask_seen(address);
        self.ring_changed(now);
        if role.contains(Roles::LEAF) {
            self.join_when_seen(address, now);
        }
        if role.contains(Roles::FAR) {
            self.tell_neighbours(address, true, now);
        }
    }

    /// The session with a node has ended, or could not be made.
    pub fn disconnected(&mut self, address: NodeAddress, now: Instant) {
        if self.table.contains(address) {
            self.lose(address, now);
        } else if self.links.remove(&address).is_some() {
            self.unreachable(address, now);
        }
    }

    /// Nobody can make a connection to a node any more; it is not looked for again soon.
    pub fn forget(&mut self, address: NodeAddress) {
        self.links.remove(&address);
        self.table.remove(address);
    }

    /// Takes in a message that came in the session with a node.
    pub fn handle_message(&mut self, from: NodeAddress, message: &[u8], now: Instant) {
        let Some(edge) = self.table.get_mut(from) else {
            self.counts.add(Count::NoConnection);
            return;
        };
        edge.hear(message.len(), now);
        let taken = match message.first() {
            Some(&wire::BEAT) => Beat::parse(message).map(|beat| self.beat(from, &beat, now)),
            Some(&wire::NEIGHBOURS) => {
                Neighbours::parse(message).map(|list| self.neighbours(from, list, now))
            }
            Some(&wire::ROUTED) => {
                Header::parse(message).map(|(header, payload)| self.routed(from, header, payload, now))
            }
            Some(&wire::ASK_SEEN) => AskSeen::parse(message).map(|ask| self.seen_asked(from, ask, now)),
            Some(&wire::SEEN) => Seen::parse(message).map(|seen| self.seen(from, seen, now)),
            Some(&wire::ASK_RELAY) => AskRelay::parse(message).map(|ask| self.relay_asked(from, ask, now)),
            Some(&wire::RELAY) => Relay::parse(message).map(|answer| self.relay_answered(from, answer, now)),
            Some(&wire::GROUP) => {
                GroupMessage::parse(message).map(|said| self.group_message(from, said, message.len(), now))
            }
            Some(&wire::DATAGRAM) => {
                Datagram::parse(message).map(|datagram| self.group_datagram(from, datagram, now))
            }
            Some(&wire::CLOSE) => CloseReason::parse(message).map(|reason| self.closed(from, reason, now)),
            _ => None,
        };
        if taken.is_none() {
            self.counts.add(Count::BadMessage);
        }
    }

    /// This node stops: all others are told.
    pub fn leave(&mut self) {
        self.give_away();
        let all: Vec<NodeAddress> = self.table.iter().map(|(address, _)| address).collect();
        for address in all {
            self.send(address, CloseReason::Leaving.to_bytes());
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// All connections.
    pub fn edges(&self) -> impl Iterator<Item = EdgeView> {
        self.table.iter().map(|(address, edge)| EdgeView {
            address,
            public_key: edge.public_key,
            mine: edge.mine,
            theirs: edge.theirs,
            since: edge.since,
            rtt: edge.rtt.mean(),
            coordinates: edge.coordinates.map(|(at, _)| at),
            multicast: edge.multicast,
        })
    }

    /// All that grows with what others do.
    pub fn sizes(&self) -> impl Iterator<Item = Size> {
        let told = self.table.iter().map(|(_, edge)| edge.neighbours.len()).max().unwrap_or(0);
        let (demands, handshakes) = self.carried.lens();
        [
            ("connections", self.table.len(), EDGES_MAX),
            ("neighbours of one", told, wire::NEIGHBOURS_MAX),
            ("connections under way", self.links.len(), limits::LINKS_MAX),
            ("texts for all", self.broadcasts.len(), limits::BROADCASTS_KNOWN),
            ("groups", self.groups.len(), Groups::MAX),
            ("groups of its own", self.groups.own_len(), limits::GROUPS_OWN_MAX),
            ("children in one tree", self.groups.children_most(), limits::CHILDREN_MAX),
            ("origins of datagrams", self.groups.origins_len(), limits::ORIGINS_MAX),
            ("nodes avoided", self.avoided.len(), limits::AVOIDED_MAX),
            ("requests", self.requests.len(), limits::REQUESTS_MAX),
            ("contacts", self.contacts.len(), limits::CONTACTS_MAX),
            ("demands", demands, limits::DEMANDS_MAX),
            ("sessions made by way of others", handshakes, limits::HANDSHAKES_MAX),
            ("probes", self.probes.len(), Probes::MAX),
            ("records", self.records.store.len(), dht::store::RECORDS_MAX),
            ("bytes of records", self.records.store.bytes(), dht::store::BYTES_MAX),
            ("records of its own", self.records.own.len(), Records::OWN_MAX),
            ("requests for records", self.records.requests.len(), dht::requests::REQUESTS_MAX),
            ("copies under way", self.records.copies.len(), copies::Copies::MAX),
            ("senders of questions", self.records.source_count(), Records::SOURCES_MAX),
            ("pairs relayed for", self.relays.relayed(), limits::RELAYED_MAX),
            ("nodes wanted by relays", self.relays.wanted(), limits::RELAY_WANTED_MAX),
        ]
        .into_iter()
        .map(|(table, len, most)| Size { table, len, most })
    }

    /// Those nearest above on the ring, then those nearest below.
    pub fn nearest(&self) -> [Vec<NodeAddress>; 2] {
        self.table.nearest()
    }

    /// Whether there is a connection to a node.
    pub fn is_connected(&self, address: NodeAddress) -> bool {
        self.table.contains(address)
    }

    /// The same, by its public key.
    pub fn is_connected_to(&self, public_key: &[u8; 32]) -> bool {
        self.table.iter().any(|(_, edge)| edge.public_key == *public_key)
    }

    /// Why there is a connection to a node, on either side; nothing where there is none.
    pub fn roles(&self, address: NodeAddress) -> Roles {
        self.table.get(address).map_or(Roles::NONE, |edge| edge.mine.with(edge.theirs))
    }

    /// The operator wants a connection to a node, or does not any more.
    pub fn manage(&mut self, address: NodeAddress, is_wanted: bool, now: Instant) {
        if is_wanted {
            self.take_role(address, Roles::MANAGED, now);
        } else {
            self.drop_role(address, Roles::MANAGED, now);
        }
    }

    /// A sign of life of a node, other than a message of the ring.
    pub fn heard(&mut self, address: NodeAddress, now: Instant) {
        if let Some(edge) = self.table.get_mut(address) {
            edge.hear(0, now);
        }
    }

    pub fn coordinates(&self) -> Coordinates {
        self.vivaldi.at()
    }

    /// The logarithm to the base 2 of how many nodes the network has, as estimated; 8 bits behind the
    /// point.
    pub fn log2_size(&self) -> u16 {
        let own = self.table.log2_size() >> 8;
        let others = self.table.iter().filter(|(_, edge)| edge.is_near());
        let (sum, count) = others
            .filter_map(|(_, edge)| edge.log2_size)
            .fold((own, 1), |(sum, count), size| (sum + u32::from(size), count + 1));
        u16::try_from(sum / count).unwrap_or(u16::MAX).min(limits::LOG2_SIZE_MAX)
    }

    fn routed(&mut self, from: NodeAddress, header: Header, payload: &[u8], now: Instant) {
        if header.source == self.table.own {
            self.counts.add(Count::Looped);
            return;
        }
        self.route(Some(from), Some(from), header, payload, now);
    }

    /// A header for a message of this node's.
    fn header(&self, mode: Mode, kind: Kind, destination: NodeAddress) -> Header {
        Header {
            mode,
            hops: 0,
            hops_max: hops_max(self.log2_size()),
            kind,
            went_uphill: false,
            source: self.table.own,
            destination,
            via: None,
        }
    }

    /// Sends a routed message of this node's, by way of `first` if there is a connection to it.
    fn originate(
        &mut self,
        header: Header,
        first: Option<NodeAddress>,
        payload: &[u8],
        account: Option<NodeAddress>,
        now: Instant,
    ) {
        match first.filter(|first| self.table.contains(*first)) {
            Some(first) => self.pass_on(account, first, &header.write(payload), now),
            None => self.route(None, account, header, payload, now),
        }
    }

    /// As [`Ring::originate`], but not by the connection to the destination, unless nobody else is there:
    /// what others carry goes the same way until the last of it has gone.
    fn originate_around(&mut self, mut header: Header, payload: &[u8], now: Instant) {
        let decision = route::decide(&self.table, Some(header.destination), &header);
        header.went_uphill |= decision.uphill && decision.next.is_some();
        self.originate(header, decision.next, payload, None, now);
    }

    fn route(
        &mut self,
        from: Option<NodeAddress>,
        account: Option<NodeAddress>,
        mut header: Header,
        payload: &[u8],
        now: Instant,
    ) {
        if header.via == Some(self.table.own) {
            header.via = None;
        }
        let decision = route::decide(&self.table, from, &header);
        if let Some(count) = decision.refused {
            self.counts.add(count);
        }
        if let (true, Some(from)) = (decision.here, from) {
            self.counts.add(Count::Delivered);
            self.deliver(from, &header, payload, now);
        }
        let Some(next) = decision.next else {
            if let (Some(_), Some(from)) = (decision.refused, from) {
                header.hops = header.hops.saturating_add(1);
                self.trace_ended(from, &header, payload, EchoKind::NoWay, now);
            }
            return;
        };
        header.went_uphill |= decision.uphill;
        if let Some(from) = from {
            header.hops = header.hops.saturating_add(1);
            if header.hops >= header.hops_max {
                self.counts.add(Count::TooManyHops);
                self.trace_ended(from, &header, payload, EchoKind::UsedUp, now);
                return;
            }
            self.counts.add(Count::Forwarded);
        }
        self.pass_on(account, next, &header.write(payload), now);
    }

    /// Sends a message on account of the neighbour whose message it follows from.
    fn pass_on(&mut self, account: Option<NodeAddress>, next: NodeAddress, message: &[u8], now: Instant) {
        let granted = account
            .and_then(|account| self.table.get_mut(account))
            .is_none_or(|edge| edge.charge(message.len()));
        if granted {
            self.expect(next, now);
            self.send(next, message.to_vec());
        } else {
            self.counts.add(Count::NoCredit);
        }
    }

    fn deliver(&mut self, from: NodeAddress, header: &Header, payload: &[u8], now: Instant) {
        match header.kind {
            Kind::Connect => self.connect_message(from, header, payload, now),
            Kind::Echo => self.echo_message(from, header, payload, now),
            Kind::Claim => self.claim_message(from, header, payload, now),
            Kind::Survey => self.survey_message(from, header, payload, now),
            Kind::Broadcast => self.broadcast_message(from, *header, payload, now),
            Kind::Dht => self.dht_message(from, header, payload, now),
            Kind::Carried => self.carried_message(header.source, payload),
        }
    }

    /// Something is sent upon which a sign of life should come in time.
    fn expect(&mut self, from: NodeAddress, now: Instant) {
        if let Some(edge) = self.table.get_mut(from) {
            edge.expect(now);
        }
    }

    fn send(&mut self, to: NodeAddress, message: Vec<u8>) {
        if self.table.contains(to) {
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    fn draw(&mut self) -> u64 {
        let mut bytes = [0; 8];
        (self.random)(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Up to `span`.
    fn jitter(&mut self, span: Duration) -> Duration {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.draw() % span)
    }
}

/// How many hops a message may take in a ring of this size: the cube of its natural logarithm, as the
/// original, but enough for a ring that is just being found out.
fn hops_max(log2_size: u16) -> u16 {
    // The natural logarithm is 177/256 of the binary one, which has 8 bits behind the point.
    let ln = u64::from(log2_size) * 177;
    let cube = (ln * ln * ln) >> 48;
    u16::try_from(cube.clamp(16, 4096)).unwrap_or(u16::MAX)
}
