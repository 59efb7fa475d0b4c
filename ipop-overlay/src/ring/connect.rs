//! Finding nodes and making connections to them: requests over the ring, their answers, and what both
//! ends do then.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use ipop_common::wireguard::INITIATION_LEN;

use super::counts::Count;
use super::edge::Edge;
use super::limits::{
    AVOID, AVOIDED_MAX, LINK_PATIENCE, LINK_YIELD, LINKS_MAX, LINKS_OF_OTHERS_MAX, NEAR_PER_SIDE,
    REQUESTS_MAX, RESEND_FIRST, RESEND_MAX, RESEND_MIN, RESENDS_MAX,
};
use super::wire::{Connect, Coordinates, Header, Kind, Mode, Places, Roles};
use super::{Output, Ring};
use crate::address::NodeAddress;
use crate::endpoint::Endpoint;
use crate::session::PLACES_AT_ONCE;
use crate::time::Instant;

/// A connection under way.
#[derive(Clone, Debug)]
pub(super) struct Linking {
    public_key: [u8; 32],
    endpoints: Vec<SocketAddr>,
    /// Its addresses at TURN servers.
    pub(super) turned: Vec<SocketAddr>,
    /// Why this node wants it; nothing where the other does.
    pub(super) role: Roles,
    begin_at: Option<Instant>,
    /// How often it has been tried.
    rounds: usize,
    give_up_at: Instant,
    /// The number of places that this node had sent to when it began.
    flows: u32,
    /// By which neighbour the wish of the other came: what is sent for it goes on its account.
    account: Option<NodeAddress>,
}

/// How long after one try the next follows: what the first ones open in the boxes on both sides, a later one
/// passes; and there are more places than are tried at once.
const ROUNDS: [Duration; 3] =
    [Duration::from_millis(700), Duration::from_millis(1300), Duration::from_secs(3)];

/// Requests that were under way when a connection was made have arrived after so long.
const SETTLED: Duration = Duration::from_secs(3);
/// With this one, relays are looked for as well.
const RELAY_ROUND: usize = 3;

impl Linking {
    fn due(&self) -> Instant {
        self.begin_at.map_or(self.give_up_at, |at| at.min(self.give_up_at))
    }

    /// Bytes of the initiations until it is given up. When the rounds are over, a session repeats the last one
    /// by itself.
    fn cost(&self) -> usize {
        (ROUNDS.len() + 2) * (self.endpoints.len() + self.turned.len()).min(PLACES_AT_ONCE) * INITIATION_LEN
    }
}

/// What is done with those that answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Connect to them.
    Connect,
    /// Of them and their neighbours, connect to the one that is closest by coordinates.
    Choose,
    /// Reach them by the relays that they name.
    Relay,
}

/// A request that waits for answers.
#[derive(Clone, Debug)]
pub(super) struct Request {
    mode: Mode,
    destination: NodeAddress,
    /// The hop by way of which it goes and its answer comes.
    by: Option<NodeAddress>,
    pub(super) role: Roles,
    purpose: Purpose,
    resends: u8,
    sent: Instant,
    wait: Duration,
    next_at: Instant,
    answered: bool,
}

impl Ring {
    /// Has a connection to a node, and keeps it until [`Ring::manage`] says otherwise; to be repeated now and then,
    /// since a node may not answer, or go.
    pub fn stay_connected(&mut self, address: NodeAddress, now: Instant) {
        if !self.roles(address).contains(Roles::MANAGED) {
            self.connect_to(address, Roles::MANAGED, None, now);
        }
    }

    /// Asks a node to connect, unless that is under way; by way of a neighbour that knows it, if given.
    pub(super) fn connect_to(
        &mut self,
        address: NodeAddress,
        role: Roles,
        by: Option<NodeAddress>,
        now: Instant,
    ) {
        if address == self.table.own {
            return;
        }
        if self.table.contains(address) {
            self.take_role(address, role, now);
            self.ask(address, now);
            return;
        }
        if let Some(linking) = self.links.get_mut(&address) {
            linking.role = linking.role.with(role);
            return;
        }
        let same = |request: &&mut Request| {
            request.mode == Mode::Exact
                && request.destination == address
                && request.purpose == Purpose::Connect
        };
        if let Some(request) = self.requests.values_mut().find(same) {
            request.role = request.role.with(role);
            return;
        }
        if self.avoided.get(&address).is_none_or(|until| *until <= now) {
            self.request(Mode::Exact, address, by, role, Purpose::Connect, now);
        }
    }

    /// Asks those at a place on the ring to answer.
    pub(super) fn request(
        &mut self,
        mode: Mode,
        destination: NodeAddress,
        by: Option<NodeAddress>,
        role: Roles,
        purpose: Purpose,
        now: Instant,
    ) {
        if self.requests.len() >= REQUESTS_MAX {
            self.counts.add(Count::Full);
            return;
        }
        let wait = self.answer_time.timeout(RESEND_FIRST, RESEND_MIN, RESEND_MAX);
        let request = Request {
            mode,
            destination,
            by,
            role,
            purpose,
            resends: 0,
            sent: now,
            wait,
            next_at: now.after(wait),
            answered: false,
        };
        let token = self.draw();
        self.send_request(token, &request, now);
        self.requests.insert(token, request);
    }

    /// Whether a request for this role is under way.
    pub(super) fn is_looking_for(&self, role: Roles) -> bool {
        self.requests.values().any(|request| request.role.contains(role))
            || self.links.values().any(|linking| linking.role.contains(role))
    }

    /// Whether a node has been asked to connect.
    pub(super) fn is_asking(&self, address: NodeAddress) -> bool {
        self.requests.values().any(|request| request.mode == Mode::Exact && request.destination == address)
    }

    fn send_request(&mut self, token: u64, request: &Request, now: Instant) {
        let mut header = self.header(request.mode, Kind::Connect, request.destination);
        if matches!(request.mode, Mode::Up | Mode::Down) {
            header.hops_max = NEAR_PER_SIDE as u16;
        }
        let is_on_ring = self.table.structured().next().is_some();
        // Who is not on the ring is found by its way in; who is may be found there sooner.
        let by = request.by.filter(|by| self.table.contains(*by));
        let by = if is_on_ring { by } else { by.or_else(|| self.table.way_in()) };
        let connect = Connect {
            answers: false,
            wants_relays: request.purpose == Purpose::Relay,
            role: match request.purpose {
                Purpose::Connect => request.role,
                Purpose::Choose | Purpose::Relay => Roles::NONE,
            },
            token,
            public_key: self.public_key,
            answer_via: by,
            places: self.all_places(),
            neighbours: Vec::new(),
            relays: match request.purpose {
                Purpose::Relay => self.own_relays(&[]),
                Purpose::Connect | Purpose::Choose => Vec::new(),
            },
        };
        self.originate(header, by, &connect.to_bytes(), None, now);
    }

    /// Where others may find this node, and its addresses at TURN servers.
    fn all_places(&self) -> Places {
        Places { own: self.places(), turned: self.turned.clone() }
    }

    /// A request or an answer has arrived.
    pub(super) fn connect_message(
        &mut self,
        from: NodeAddress,
        header: &Header,
        payload: &[u8],
        now: Instant,
    ) {
        let Some(connect) = Connect::parse(payload) else {
            self.counts.add(Count::BadMessage);
            return;
        };
        if NodeAddress::of_key(&connect.public_key) != header.source {
            self.counts.add(Count::KeyMismatch);
            return;
        }
        self.note_turned(header.source, &connect.places.turned, now);
        if connect.answers {
            self.take_answer(header.source, connect, now);
        } else {
            self.answer(from, header, &connect, now);
        }
    }

    fn answer(&mut self, from: NodeAddress, asked: &Header, request: &Connect, now: Instant) {
        let source = asked.source;
        let answer = Connect {
            answers: true,
            wants_relays: false,
            role: request.role,
            token: request.token,
            public_key: self.public_key,
            answer_via: None,
            places: self.all_places(),
            neighbours: self.neighbourhood(),
            relays: if request.wants_relays { self.own_relays(&request.relays) } else { Vec::new() },
        };
        let mut header = self.header(Mode::Exact, Kind::Connect, source);
        header.via = request.answer_via;
        // Who asks this node alone, by way of others, has no connection to it.
        let is_for_this = asked.mode == Mode::Exact && from != source;
        let way_back = self.way_back(from, source).filter(|_| is_for_this);
        self.originate(header, way_back, &answer.to_bytes(), Some(from), now);
        let is_settled = |edge: &Edge| now.since(edge.since) > SETTLED;
        let is_broken = is_for_this && !request.role.is_empty();
        if is_broken && self.table.get(source).is_some_and(is_settled) {
            self.detour(source, now);
        }
        if !request.role.is_empty() && !self.is_best(source) {
            let begin_at = now.after(LINK_YIELD);
            self.link(request.public_key, request.places.clone(), Roles::NONE, begin_at, now);
            if let Some(linking) = self.links.get_mut(&source) {
                linking.account = Some(from);
            }
        }
    }

    /// By whom an answer goes: not by a connection by which the question did not come.
    pub(super) fn way_back(&self, from: NodeAddress, source: NodeAddress) -> Option<NodeAddress> {
        (from != source && self.table.contains(source)).then_some(from)
    }

    /// This node's coordinates, and its neighbours with theirs.
    fn neighbourhood(&self) -> Vec<(NodeAddress, Coordinates)> {
        let at = |address: NodeAddress| {
            let (at, _) = self.table.get(address)?.coordinates?;
            Some((address, at))
        };
        let own = core::iter::once((self.table.own, self.vivaldi.at()));
        own.chain(self.table.neighbours().into_iter().filter_map(at)).collect()
    }

    fn take_answer(&mut self, source: NodeAddress, answer: Connect, now: Instant) {
        let Some(request) = self.requests.get_mut(&answer.token) else {
            self.counts.add(Count::Unexpected);
            return;
        };
        if request.mode == Mode::Exact && request.destination != source {
            self.counts.add(Count::KeyMismatch);
            return;
        }
        if !request.answered && request.resends == 0 {
            self.answer_time.sample(now.since(request.sent));
        }
        request.answered = true;
        let (role, purpose, mode) = (request.role, request.purpose, request.mode);
        // From both sides of a place come two answers.
        if mode != Mode::Flanks {
            self.requests.remove(&answer.token);
        }
        match purpose {
            Purpose::Connect => self.link(answer.public_key, answer.places, role, now, now),
            Purpose::Relay => self.look_for_relays(answer.public_key, &answer.relays, role, now),
            Purpose::Choose => self.choose(source, &answer, role, now),
        }
    }

    /// Connects to the closest of those that an answer names.
    fn choose(&mut self, source: NodeAddress, answer: &Connect, role: Roles, now: Instant) {
        let here = self.vivaldi.at();
        let near = role.contains(Roles::BYPASS);
        let candidates = answer.neighbours.iter().filter(|(address, _)| {
            let is_known = self.table.get(*address).is_some_and(|edge| near || !edge.is_structured());
            let is_new = !self.table.contains(*address) && !self.links.contains_key(address);
            *address != self.table.own
                && (is_known || is_new)
                && self.avoided.get(address).is_none_or(|until| *until <= now)
        });
        let Some((best, _)) = candidates.min_by_key(|(_, at)| here.distance(at)).copied() else { return };
        if best == source && !self.table.contains(best) {
            self.link(answer.public_key, answer.places.clone(), role, now, now);
        } else {
            self.connect_to(best, role, None, now);
        }
    }

    /// Asks a node that is reached by a relay or by TCP where it is, to reach it by UDP.
    pub(super) fn upgrade(&mut self, address: NodeAddress, now: Instant) {
        if !self.is_asking(address) && !self.links.contains_key(&address) {
            let role = self.table.get(address).map_or(Roles::NONE, |edge| edge.mine);
            self.request(Mode::Exact, address, None, role, Purpose::Connect, now);
        }
    }

    /// Makes a connection, from `begin_at` on.
    pub(super) fn link(
        &mut self,
        public_key: [u8; 32],
        places: Places,
        role: Roles,
        begin_at: Instant,
        now: Instant,
    ) {
        let address = NodeAddress::of_key(&public_key);
        if address == self.table.own {
            return;
        }
        if self.is_best(address) {
            self.take_role(address, role, now);
            if !role.is_empty() {
                self.ask(address, now);
            }
            return;
        }
        let of_others = || self.links.values().filter(|linking| linking.role.is_empty()).count();
        let is_full = self.links.len() >= LINKS_MAX || role.is_empty() && of_others() >= LINKS_OF_OTHERS_MAX;
        if is_full && !self.links.contains_key(&address) {
            self.counts.add(Count::Full);
            return;
        }
        let linking = self.links.entry(address).or_insert_with(|| Linking {
            public_key,
            endpoints: places.own.clone(),
            turned: places.turned.clone(),
            role,
            begin_at: Some(begin_at),
            rounds: 0,
            give_up_at: begin_at.after(LINK_PATIENCE),
            flows: self.flows,
            account: None,
        });
        linking.role = linking.role.with(role);
        if linking.rounds == 0 {
            linking.begin_at = linking.begin_at.map(|at| at.min(begin_at));
            (linking.endpoints, linking.turned) = (places.own, places.turned);
        }
        self.begin_link(address, now);
    }

    fn begin_link(&mut self, address: NodeAddress, now: Instant) {
        let Some(linking) = self.links.get_mut(&address) else { return };
        if linking.begin_at.is_none_or(|at| at > now) {
            return;
        }
        // A wish of this node's own is nobody's debt, and one of another's is paid for once.
        let account = linking.account.filter(|_| linking.role.is_empty() && linking.rounds == 0);
        let cost = linking.cost();
        let is_granted =
            account.is_none_or(|account| self.table.get_mut(account).is_some_and(|edge| edge.charge(cost)));
        if !is_granted {
            self.counts.add(Count::NoCredit);
            self.links.remove(&address);
            return;
        }
        let flows = self.flows;
        if let Some(linking) = self.links.get_mut(&address) {
            if linking.rounds == 0 {
                linking.flows = flows;
            }
            let sent = (linking.rounds * PLACES_AT_ONCE).min(linking.endpoints.len());
            let places = (linking.endpoints.len() - sent).min(PLACES_AT_ONCE);
            linking.begin_at = ROUNDS.get(linking.rounds).map(|wait| now.after(*wait));
            linking.rounds += 1;
            let (public_key, role) = (linking.public_key, linking.role);
            let is_relay_round = linking.rounds == RELAY_ROUND;
            let own = linking.endpoints.iter().copied();
            let mut places_now: Vec<Endpoint> = own.clone().map(Endpoint::Udp).collect();
            // By a TURN server as well, since it does not seem to go directly.
            let mut flows_more = 0;
            if linking.rounds >= RELAY_ROUND {
                flows_more = linking.turned.len();
                let of_ours = own.filter(|_| !self.turned.is_empty()).map(Endpoint::Turn);
                let of_theirs = linking.turned.iter().copied().map(Endpoint::Udp);
                places_now = of_theirs.chain(of_ours).chain(places_now).collect();
            }
            self.outputs.push_back(Output::Link { public_key, places: places_now });
            self.add_flows(places + flows_more);
            if is_relay_round && self.wants_relays(address, role) {
                // By way of who knows this node: others may not find it on the ring yet.
                let by = self.own_relays(&[]).first().copied();
                self.request(Mode::Exact, address, by, role, Purpose::Relay, now);
            }
        }
    }

    /// How many places this node had sent to when a node became one of them to which it is connected now.
    pub(super) fn flows_until(&mut self, linking: Option<&Linking>, endpoint: Option<SocketAddr>) -> u32 {
        let begun = linking.filter(|linking| linking.rounds > 0).and_then(|linking| {
            let place = linking.endpoints.iter().position(|place| Some(*place) == endpoint)?;
            Some(linking.flows.wrapping_add(u32::try_from(place + 1).unwrap_or(u32::MAX)))
        });
        begun.unwrap_or_else(|| {
            // It has called, or from elsewhere than this node has: an answer has gone there.
            self.add_flows(1);
            self.flows
        })
    }

    /// Repeats requests, begins and gives up connections.
    pub(super) fn connect_timeout(&mut self, now: Instant) {
        let due = |at: Instant| at <= now;
        let requests = self.requests.iter().filter(|(_, request)| due(request.next_at));
        let requests: Vec<u64> = requests.map(|(token, _)| *token).collect();
        for token in requests {
            self.repeat(token, now);
        }
        let links = self.links.iter().filter(|(_, linking)| due(linking.due()));
        let links: Vec<NodeAddress> = links.map(|(address, _)| *address).collect();
        for address in links {
            if self.links.get(&address).is_some_and(|linking| linking.give_up_at <= now) {
                self.links.remove(&address);
                if self.table.contains(address) {
                    // A relay is as good as it gets, for now.
                    continue;
                }
                self.outputs.push_back(Output::Unlink { address });
                self.unreachable(address, now);
            } else {
                self.begin_link(address, now);
            }
        }
    }

    pub(super) fn connect_due(&self) -> Option<Instant> {
        let requests = self.requests.values().map(|request| request.next_at);
        requests.chain(self.links.values().map(Linking::due)).min()
    }

    fn repeat(&mut self, token: u64, now: Instant) {
        let Some(mut request) = self.requests.remove(&token) else { return };
        if request.answered {
            return;
        }
        if request.resends >= RESENDS_MAX {
            self.counts.add(Count::NoAnswer);
            if request.mode == Mode::Exact {
                self.avoid(request.destination, now);
            }
            return;
        }
        request.resends += 1;
        request.wait = (request.wait * 2).min(RESEND_MAX);
        request.next_at = now.after(request.wait);
        // Where the neighbour that knew it has gone, the ring may know it.
        self.send_request(token, &request, now);
        self.requests.insert(token, request);
    }

    pub(super) fn unreachable(&mut self, address: NodeAddress, now: Instant) {
        self.counts.add(Count::Unreachable);
        self.contacts.failed(address, now);
        self.avoid(address, now);
    }

    /// Does not try a node again soon.
    pub(super) fn avoid(&mut self, address: NodeAddress, now: Instant) {
        self.avoided.retain(|_, until| *until > now);
        if self.avoided.len() >= AVOIDED_MAX {
            let first = self.avoided.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address);
            first.map(|first| self.avoided.remove(&first));
        }
        let jitter = self.jitter(AVOID / 4);
        self.avoided.insert(address, now.after(AVOID + jitter));
    }
}
