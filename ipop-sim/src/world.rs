//! Hosts, the network between them, and virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipop_overlay::ring::Ring;
use ipop_overlay::{Instant, Node, NodeAddress};
use ipop_overlay::{dhcp, dht};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::daemon::{Daemon, Event as Told};
use crate::invariants::{self, Invariants};
use crate::memory;
use crate::nat::{Config, Nat};
use crate::net::{Conditions, Net, Site};
use crate::packet::{Packet, Way};
use crate::random::Random;
use crate::scenario::Matrix;
use crate::session::{self, Datagram, Purpose};

/// Headers of IPv4 and UDP.
const OUTER: u64 = 28;

/// Index of a box that translates or filters.
pub type BoxId = usize;

/// Index of a host, in the order in which they were made.
pub type HostId = usize;

/// One host and the node on it.
#[derive(Debug)]
pub struct Host {
    pub daemon: Daemon,
    /// As its public key follows from it.
    private: [u8; 32],
    pub key: [u8; 32],
    pub site: Site,
    /// What it is behind.
    pub behind: Option<BoxId>,
    /// It runs.
    pub is_up: bool,
    /// Others join by it.
    pub is_way_in: bool,
    /// How far its clock is before the world's or behind it, in nanoseconds.
    clock: i64,
    wake: Option<Instant>,
    /// When it was woken last, and how often then.
    woken: (Instant, u32),
    /// Bytes on the wire that it has sent and received.
    pub sent_bytes: u64,
    /// Of them, in messages of the ring and handshakes.
    pub ring_bytes: u64,
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

/// A packet of the virtual network that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    pub id: u64,
    pub to: HostId,
    pub at: Instant,
    pub way: Way,
}

#[derive(Debug)]
enum Event {
    Wake(HostId),
    Arrive { to: Target, from: SocketAddr, datagram: Datagram },
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
    pub delivered: Vec<Delivered>,
    /// Hosts that were told that another claims their address.
    pub taken: Vec<(HostId, IpAddr)>,
    /// Hosts that have heard what a node told all, and when.
    pub told: Vec<(HostId, Instant)>,
    /// Members of a group that have got a frame, of whom, and the frame.
    pub heard: Vec<(HostId, [u8; 32], Vec<u8>)>,
    /// What has become of something in the DHT, for whom and when.
    pub dht: Vec<(HostId, Instant, dht::Event)>,
    /// What has become of hosts' leases.
    pub leases: Vec<(HostId, Instant, dhcp::Output)>,
    /// Keys of hosts that have stopped, and when.
    pub down: HashMap<[u8; 32], Instant>,
    /// What a scenario has to show beside its figures.
    pub matrices: Vec<Matrix>,
    /// What the heap held before.
    heap_before: i64,
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
            delivered: Vec::new(),
            taken: Vec::new(),
            told: Vec::new(),
            heard: Vec::new(),
            dht: Vec::new(),
            leases: Vec::new(),
            down: HashMap::new(),
            matrices: Vec::new(),
            heap_before: memory::live(),
            invariants: Invariants::new(Instant::default()),
            events: 0,
            boxes: Vec::new(),
            by_place: HashMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// One number that is another if anything in the run is.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// What the heap holds for each host, in bytes: the node and all that is around it, its packets that are
    /// under way included.
    pub fn heap_per_host(&self) -> f64 {
        (memory::live() - self.heap_before) as f64 / self.hosts.len() as f64
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

    /// Starts the key of another host a second time, elsewhere.
    pub fn add_twin(&mut self, of: HostId, contacts: &[HostId]) -> HostId {
        self.add_with_key(self.hosts[of].private, None, contacts)
    }

    fn add_host(&mut self, behind: Option<BoxId>, contacts: &[HostId]) -> HostId {
        let mut key = [0; 32];
        self.random.fill(&mut key);
        self.add_with_key(key, behind, contacts)
    }

    fn add_with_key(&mut self, private: [u8; 32], behind: Option<BoxId>, contacts: &[HostId]) -> HostId {
        let id = self.hosts.len();
        let mut site = self.net.site();
        if let Some(behind) = behind {
            match self.boxes[behind].1 {
                Some(other) => site = self.hosts[other].site,
                None => self.boxes[behind].1 = Some(id),
            }
        }
        let daemon = self.daemon(private, id, contacts, self.now);
        let key = PublicKey::from(&StaticSecret::from(private)).to_bytes();
        self.by_place.insert(place(id), id);
        self.hosts.push(Host {
            daemon,
            private,
            key,
            site,
            behind,
            is_up: true,
            is_way_in: false,
            clock: 0,
            wake: None,
            woken: (self.now, 0),
            sent_bytes: 0,
            ring_bytes: 0,
            received_bytes: 0,
            sent_packets: 0,
        });
        self.settle(id);
        id
    }

    fn daemon(&mut self, private: [u8; 32], id: HostId, contacts: &[HostId], now: Instant) -> Daemon {
        contacts.iter().for_each(|contact| self.hosts[*contact].is_way_in = true);
        let mut daemon = Daemon::new(&private.into(), place(id), self.random.split(), now);
        for contact in contacts {
            daemon.node.add_contact(self.hosts[*contact].key, vec![place(*contact)], true, now);
        }
        daemon
    }

    /// Stops a host without a word.
    pub fn kill(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        host.is_up = false;
        self.down.insert(host.key, self.now);
    }

    /// Starts it again, with nothing remembered.
    pub fn restart(&mut self, id: HostId, contacts: &[HostId]) {
        self.invariants.forget(invariants::counted(self, id));
        let (private, key) = (self.hosts[id].private, self.hosts[id].key);
        let now = self.hosts[id].local(self.now);
        let daemon = self.daemon(private, id, contacts, now);
        let host = &mut self.hosts[id];
        (host.daemon, host.is_up, host.wake) = (daemon, true, None);
        self.down.remove(&key);
        self.settle(id);
    }

    /// A host that was killed goes on with all that it remembers. Its clock has stood still meanwhile, or
    /// it has not.
    pub fn resume(&mut self, id: HostId, has_stood_still: bool) {
        let host = &mut self.hosts[id];
        let down_since = self.down.remove(&host.key).unwrap_or(self.now);
        if has_stood_still {
            host.clock -= signed(self.now.since(down_since));
        }
        (host.is_up, host.wake) = (true, None);
        self.settle(id);
    }

    /// A host's clock leaps ahead.
    pub fn leap(&mut self, id: HostId, by: Duration) {
        self.hosts[id].clock += signed(by);
        self.settle(id);
    }

    /// Gives a host a virtual address, which it has since this UNIX time in seconds.
    pub fn set_address(&mut self, id: HostId, address: IpAddr, since: u64) {
        let host = &mut self.hosts[id];
        host.daemon.set_addresses(vec![address], since, host.local(self.now));
        self.settle(id);
    }

    /// A host asks for an address by DHCP.
    pub fn lease(&mut self, id: HostId, config: dhcp::Config) {
        let host = &mut self.hosts[id];
        host.daemon.lease(config, host.local(self.now));
        self.settle(id);
    }

    /// A host gives its address back.
    pub fn release(&mut self, id: HostId) {
        let host = &mut self.hosts[id];
        host.daemon.release(host.local(self.now));
        self.settle(id);
    }

    /// Sends a packet from a host's virtual address; its number.
    pub fn send_packet(&mut self, from: HostId, destination: IpAddr) -> u64 {
        let id = self.random.draw();
        let host = &mut self.hosts[from];
        if let Some(source) = host.daemon.addresses().first().copied() {
            let packet = Packet { id, source, destination, way: Way::User };
            host.daemon.send(packet, host.local(self.now));
        }
        self.settle(from);
        id
    }

    /// Has one node ask another for an echo.
    pub fn echo(&mut self, from: HostId, to: HostId, token: u64) {
        let to = self.address(to);
        self.with(from, |node, now| node.echo(to, token, now));
    }

    /// Does something to a host's node.
    pub fn with<T>(&mut self, id: HostId, act: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let host = &mut self.hosts[id];
        let now = host.local(self.now);
        let result = act(&mut host.daemon.node, now);
        self.settle(id);
        result
    }

    pub fn address(&self, id: HostId) -> NodeAddress {
        self.ring(id).address()
    }

    pub fn ring(&self, id: HostId) -> &Ring {
        self.hosts[id].daemon.ring()
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
                host.daemon.timeout(host.local(now));
                self.settle(id);
            }
            Event::Arrive { to, from, datagram } => {
                let Some(to) = self.receiver(to, from) else { return };
                let len = OUTER + datagram.len() as u64;
                self.hash(&[now.as_nanos(), to as u64, len]);
                let host = &mut self.hosts[to];
                if !host.is_up {
                    return;
                }
                host.received_bytes += len;
                host.daemon.receive_by_udp(from, &datagram, host.local(now));
                self.settle(to);
            }
        }
    }

    /// Carries out what a host wants, until it wants no more.
    fn settle(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id];
        host.daemon.drain(host.local(now));
        for told in host.daemon.events.drain(..) {
            match told {
                Told::Echoed { token, rtt, hops } => self.echoes.push(Echoed { token, rtt, hops }),
                Told::Taken(address) => self.taken.push((id, address)),
                Told::Told => self.told.push((id, now)),
                Told::Heard { origin, frame } => self.heard.push((id, origin, frame)),
                Told::Lease(output) => self.leases.push((id, now, output)),
                Told::Dht(event) => self.dht.push((id, now, event)),
                Told::Delivered(Packet { id: packet, way, .. }) => {
                    self.delivered.push(Delivered { id: packet, to: id, at: now, way });
                }
            }
        }
        let due = host.daemon.due().map(|at| host.world(at).max(now));
        let outbox = std::mem::take(&mut host.daemon.outbox);
        if due != host.wake {
            host.wake = due;
            if let Some(at) = due {
                self.schedule(at, Event::Wake(id));
            }
        }
        for (to, datagram) in &outbox {
            self.send(id, *to, datagram);
        }
        let host = &mut self.hosts[id];
        host.daemon.outbox = outbox;
        host.daemon.outbox.clear();
    }

    fn send(&mut self, from: HostId, to: SocketAddr, datagram: &Datagram) {
        let len = OUTER + datagram.len() as u64;
        self.invariants.message(self.now, from, session::text(datagram));
        let host = &mut self.hosts[from];
        host.sent_bytes += len;
        host.sent_packets += 1;
        if matches!(Purpose::of(datagram), Purpose::Ring | Purpose::Handshake) {
            host.ring_bytes += len;
        }
        let Some((source, target, near)) = self.way(from, to) else { return };
        let (a, b) = (self.hosts[from].site, self.hosts[near].site);
        for delay in self.net.deliver(&a, &b) {
            let event = Event::Arrive { to: target, from: source, datagram: Datagram::clone(datagram) };
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

impl Host {
    /// What its clock shows.
    fn local(&self, now: Instant) -> Instant {
        Instant::from_nanos(now.as_nanos().saturating_add_signed(self.clock))
    }

    /// When its clock shows that.
    fn world(&self, at: Instant) -> Instant {
        Instant::from_nanos(at.as_nanos().saturating_add_signed(-self.clock))
    }
}

fn signed(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
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
mod tests;
