//! Hosts, the network between them, and virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipop_overlay::ring::{Output, Ring};
use ipop_overlay::{Instant, NodeAddress};

use crate::invariants::{self, Invariants};
use crate::nat::{Config, Nat};
use crate::net::{Conditions, Net, Site};
use crate::random::Random;
use crate::session::{Deed, Packet, Sessions};

/// Index of a box that translates or filters.
pub type BoxId = usize;

/// Index of a host, in the order in which they were made.
pub type HostId = usize;

/// One host and the node on it.
#[derive(Debug)]
pub struct Host {
    pub ring: Ring,
    pub key: [u8; 32],
    pub site: Site,
    /// What it is behind.
    pub behind: Option<BoxId>,
    /// It runs.
    pub is_up: bool,
    /// Others join by it.
    pub is_way_in: bool,
    sessions: Sessions,
    wake: Option<Instant>,
    /// When it was woken last, and how often then.
    woken: (Instant, u32),
    /// Bytes on the wire that it has sent and received.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub sent_packets: u64,
}

/// What has come back to a node that asked for an echo.
#[derive(Clone, Copy, Debug)]
pub struct Echoed {
    pub token: u64,
    pub rtt: Duration,
    pub hops: u16,
}

#[derive(Debug)]
enum Event {
    Wake(HostId),
    Arrive { to: Target, from: SocketAddr, packet: Packet },
}

/// Where a packet is going.
#[derive(Clone, Copy, Debug)]
enum Target {
    Host(HostId),
    /// To an address outside a box, which will know for whom that is when the packet comes.
    Box(BoxId, SocketAddr),
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    serial: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub net: Net,
    pub random: Random,
    pub echoes: Vec<Echoed>,
    /// What must hold all the time.
    pub invariants: Invariants,
    /// Events so far.
    pub events: u64,
    /// Boxes, and a host behind each: it is where that is.
    boxes: Vec<(Nat, Option<HostId>)>,
    by_place: HashMap<SocketAddr, HostId>,
    queue: BinaryHeap<Reverse<Entry>>,
    serial: u64,
    trace: u64,
    deeds: Vec<Deed>,
}

impl World {
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        let mut random = Random::new(seed);
        Self {
            now: Instant::default(),
            hosts: Vec::new(),
            net: Net::new(conditions, random.split()),
            random,
            echoes: Vec::new(),
            invariants: Invariants::new(Instant::default()),
            events: 0,
            boxes: Vec::new(),
            by_place: HashMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            deeds: Vec::new(),
        }
    }

    /// One number that is another if anything in the run is.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Adds a box that hosts can be put behind.
    pub fn add_box(&mut self, config: Config) -> BoxId {
        let id = self.boxes.len();
        self.boxes.push((Nat::new(config, outside(id)), None));
        id
    }

    /// The box itself.
    pub fn nat(&mut self, id: BoxId) -> &mut Nat {
        &mut self.boxes[id].0
    }

    /// Adds a host whose node knows these others. Everybody can send to it.
    pub fn add(&mut self, contacts: &[HostId]) -> HostId {
        self.add_host(None, contacts)
    }

    /// Adds one behind a box.
    pub fn add_behind(&mut self, behind: BoxId, contacts: &[HostId]) -> HostId {
        self.add_host(Some(behind), contacts)
    }

    fn add_host(&mut self, behind: Option<BoxId>, contacts: &[HostId]) -> HostId {
        let id = self.hosts.len();
        let mut key = [0; 32];
        self.random.fill(&mut key);
        let mut site = self.net.site();
        if let Some(behind) = behind {
            match self.boxes[behind].1 {
                Some(other) => site = self.hosts[other].site,
                None => self.boxes[behind].1 = Some(id),
            }
        }
        let ring = self.node(key, id, contacts);
        let place = place(id);
        self.by_place.insert(place, id);
        self.hosts.push(Host {
            ring,
            key,
            site,
            behind,
            is_up: true,
            is_way_in: false,
            sessions: Sessions::new(key),
            wake: None,
            woken: (self.now, 0),
            sent_bytes: 0,
            received_bytes: 0,
            sent_packets: 0,
        });
        self.settle(id);
        id
    }

    fn node(&mut self, key: [u8; 32], id: HostId, contacts: &[HostId]) -> Ring {
        contacts.iter().for_each(|contact| self.hosts[*contact].is_way_in = true);
        let mut random = self.random.split();
        let mut ring = Ring::new(key, Box::new(move |bytes: &mut [u8]| random.fill(bytes)), self.now);
        ring.set_endpoints(vec![place(id)]);
        for contact in contacts {
            ring.add_contact(self.hosts[*contact].key, vec![place(*contact)], true, self.now);
        }
        ring
    }

    /// Stops a host without a word.
    pub fn kill(&mut self, id: HostId) {
        self.hosts[id].is_up = false;
    }

    /// Starts it again, with nothing remembered.
    pub fn restart(&mut self, id: HostId, contacts: &[HostId]) {
        self.invariants.forget(invariants::counted(self, id));
        let key = self.hosts[id].key;
        let ring = self.node(key, id, contacts);
        let host = &mut self.hosts[id];
        (host.ring, host.sessions, host.is_up, host.wake) = (ring, Sessions::new(key), true, None);
        self.settle(id);
    }

    /// Has one node ask another for an echo.
    pub fn echo(&mut self, from: HostId, to: HostId, token: u64) {
        let (now, to) = (self.now, self.hosts[to].ring.address());
        self.hosts[from].ring.echo(to, token, now);
        self.settle(from);
    }

    /// Does something to a host's node.
    pub fn with<T>(&mut self, id: HostId, act: impl FnOnce(&mut Ring, Instant) -> T) -> T {
        let result = act(&mut self.hosts[id].ring, self.now);
        self.settle(id);
        result
    }

    pub fn address(&self, id: HostId) -> NodeAddress {
        self.hosts[id].ring.address()
    }

    /// Hosts that run.
    pub fn up(&self) -> impl Iterator<Item = HostId> {
        self.hosts.iter().enumerate().filter(|(_, host)| host.is_up).map(|(id, _)| id)
    }

    /// Goes on until `until`.
    pub fn run(&mut self, until: Instant) {
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.at <= until) {
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.now = entry.at;
            if self.invariants.is_due(self.now) {
                invariants::look(self);
            }
            self.handle(entry.event);
        }
        self.now = until;
        if self.invariants.is_due(self.now) {
            invariants::look(self);
        }
    }

    pub fn run_for(&mut self, span: Duration) {
        self.run(self.now.after(span));
    }

    fn handle(&mut self, event: Event) {
        self.events += 1;
        let now = self.now;
        match event {
            Event::Wake(id) => {
                let host = &mut self.hosts[id];
                // One of several: only the last that was asked for counts.
                if !host.is_up || host.wake != Some(now) {
                    return;
                }
                host.wake = None;
                host.woken = (now, if host.woken.0 == now { host.woken.1 + 1 } else { 1 });
                self.invariants.woken(now, id, host.woken.1);
                let mut deeds = std::mem::take(&mut self.deeds);
                if host.sessions.due().is_some_and(|at| at <= now) {
                    host.sessions.timeout(now, &mut deeds);
                }
                if host.ring.poll_timeout().is_some_and(|at| at <= now) {
                    host.ring.handle_timeout(now);
                }
                self.deeds = deeds;
                self.settle(id);
            }
            Event::Arrive { to, from, packet } => {
                let Some(to) = self.receiver(to, from) else { return };
                self.hash(&[now.as_nanos(), to as u64, packet.len() as u64]);
                let host = &mut self.hosts[to];
                if !host.is_up {
                    return;
                }
                host.received_bytes += packet.len() as u64;
                let mut deeds = std::mem::take(&mut self.deeds);
                host.sessions.receive(from, packet, now, &mut deeds);
                self.deeds = deeds;
                self.settle(to);
            }
        }
    }

    /// Carries out what a host wants, until it wants no more.
    fn settle(&mut self, id: HostId) {
        let now = self.now;
        loop {
            let mut deeds = std::mem::take(&mut self.deeds);
            let is_idle = deeds.is_empty();
            for deed in deeds.drain(..) {
                match deed {
                    Deed::Send(to, packet) => self.send(id, to, &packet),
                    Deed::Up(key, place) => self.hosts[id].ring.connected(key, Some(place), now),
                    Deed::Text(from, text) => self.hosts[id].ring.handle_message(from, &text, now),
                }
            }
            let host = &mut self.hosts[id];
            let mut is_drained = true;
            while let Some(output) = host.ring.poll_output() {
                is_drained = false;
                match output {
                    Output::Send { to, message } => {
                        self.invariants.message(now, id, &message);
                        host.sessions.send(to, message, now, &mut deeds);
                    }
                    Output::Link { public_key, endpoints } => {
                        host.sessions.link(public_key, endpoints, now, &mut deeds);
                    }
                    Output::Unlink { address } => host.sessions.unlink(address),
                    Output::Carried { .. } | Output::Found { .. } | Output::Taken { .. } => {}
                    Output::Traced { .. } | Output::Surveyed { .. } => {}
                    Output::Echoed { token, rtt, hops, .. } => self.echoes.push(Echoed { token, rtt, hops }),
                }
            }
            self.deeds = deeds;
            if is_idle && is_drained {
                break;
            }
        }
        let host = &mut self.hosts[id];
        let due = [host.ring.poll_timeout(), host.sessions.due()].into_iter().flatten().min();
        let due = due.map(|at| at.max(now));
        if due != host.wake {
            host.wake = due;
            if let Some(at) = due {
                self.schedule(at, Event::Wake(id));
            }
        }
    }

    fn send(&mut self, from: HostId, to: SocketAddr, packet: &Packet) {
        let len = packet.len() as u64;
        let host = &mut self.hosts[from];
        host.sent_bytes += len;
        host.sent_packets += 1;
        let Some((source, target, near)) = self.way(from, to) else { return };
        let (a, b) = (self.hosts[from].site, self.hosts[near].site);
        for delay in self.net.deliver(&a, &b) {
            let event = Event::Arrive { to: target, from: source, packet: packet.clone() };
            self.schedule(self.now.after(delay), event);
        }
    }

    /// From where a packet seems to come, where it goes, and a host that is there; nothing if it goes
    /// nowhere.
    fn way(&mut self, from: HostId, to: SocketAddr) -> Option<(SocketAddr, Target, HostId)> {
        let behind = self.hosts[from].behind;
        let host = self.by_place.get(&to).copied();
        if let Some(host) = host.filter(|host| behind.is_some() && self.hosts[*host].behind == behind) {
            return Some((place(from), Target::Host(host), host));
        }
        let now = self.now;
        let source = behind.map_or(place(from), |behind| self.boxes[behind].0.outbound(place(from), to, now));
        let other = match host {
            Some(host) => match self.hosts[host].behind {
                None => return Some((source, Target::Host(host), host)),
                Some(other) => other,
            },
            None => self.boxes.iter().position(|(nat, _)| nat.outside() == to.ip())?,
        };
        let (nat, near) = &self.boxes[other];
        let goes = behind != Some(other) || nat.config.hairpin;
        near.filter(|_| goes).map(|near| (source, Target::Box(other, to), near))
    }

    /// Who gets a packet that has come.
    fn receiver(&mut self, to: Target, from: SocketAddr) -> Option<HostId> {
        match to {
            Target::Host(host) => Some(host),
            Target::Box(id, to) => {
                let inside = self.boxes[id].0.inbound(to, from, self.now)?;
                self.by_place.get(&inside).copied()
            }
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse(Entry { at, serial: self.serial, event }));
    }

    fn hash(&mut self, words: &[u64]) {
        // FNV-1a, by words.
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The address of a box outside.
fn outside(id: BoxId) -> IpAddr {
    let number = u32::try_from(id).unwrap_or(u32::MAX);
    IpAddr::from(Ipv4Addr::from(0xc612_0000 | number))
}

/// Where a host is found.
pub fn place(id: HostId) -> SocketAddr {
    let number = u32::try_from(id).unwrap_or(u32::MAX);
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 | number), 15_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Kind;

    const KINDS: [Kind; 5] =
        [Kind::FullCone, Kind::Restricted, Kind::PortRestricted, Kind::Symmetric, Kind::OutgoingOnly];

    fn calm() -> World {
        World::new(1, Conditions { loss: 0, duplication: 0, ..Conditions::WIDE })
    }

    /// Whether a node has an echo of another.
    fn reaches(world: &mut World, a: HostId, b: HostId) -> bool {
        world.echoes.clear();
        world.echo(a, b, 7);
        world.run_for(Duration::from_secs(3));
        world.echoes.iter().any(|echoed| echoed.token == 7)
    }

    #[test]
    fn a_host_behind_any_box_joins_those_outside() {
        for kind in KINDS {
            let mut world = calm();
            let first = world.add(&[]);
            let others: Vec<HostId> = (0..8).map(|_| world.add(&[first])).collect();
            let behind = world.add_box(Config::new(kind));
            let host = world.add_behind(behind, &[first]);
            world.run_for(Duration::from_secs(60));
            let ring = crate::measure::Consistency::of(&world);
            assert!(ring.is_ring(), "{kind:?}: {ring:?}");
            for other in others {
                assert!(reaches(&mut world, other, host) && reaches(&mut world, host, other), "{kind:?}");
            }
        }
    }

    #[test]
    fn two_behind_one_box_are_neighbours_by_their_inside_addresses() {
        for kind in KINDS {
            let mut world = calm();
            let behind = world.add_box(Config::new(kind));
            let a = world.add_behind(behind, &[]);
            let b = world.add_behind(behind, &[a]);
            world.run_for(Duration::from_secs(10));
            assert!(reaches(&mut world, a, b), "{kind:?}");
        }
    }

    #[test]
    fn two_behind_boxes_of_their_own_do_not_reach_each_other_by_inside_addresses() {
        for kind in KINDS {
            let mut world = calm();
            let boxes = [kind, kind].map(|kind| world.add_box(Config::new(kind)));
            let a = world.add_behind(boxes[0], &[]);
            let b = world.add_behind(boxes[1], &[a]);
            world.run_for(Duration::from_secs(30));
            assert!(!world.hosts[a].ring.is_connected(world.address(b)), "{kind:?}");
        }
    }

    #[test]
    fn only_a_box_that_hairpins_sends_back_in() {
        for hairpin in [false, true] {
            let mut world = calm();
            let behind = world.add_box(Config { hairpin, ..Config::new(Kind::FullCone) });
            let a = world.add_behind(behind, &[]);
            let b = world.add_behind(behind, &[]);
            let now = world.now;
            // Something has made a mapping for it.
            let seen = world.nat(behind).outbound(place(a), SocketAddr::from(([192, 0, 2, 1], 1)), now);
            let key = world.hosts[a].key;
            world.with(b, |ring, now| ring.add_contact(key, vec![seen], true, now));
            world.run_for(Duration::from_secs(10));
            assert_eq!(world.hosts[a].ring.is_connected(world.address(b)), hairpin);
        }
    }
}
