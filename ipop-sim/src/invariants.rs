//! What holds of every node all the time, whatever the network goes through.

use std::time::Duration;

use ipop_overlay::Instant;
use ipop_overlay::ring::Count;

use crate::world::{HostId, World};

/// How often all nodes are looked at, and what rates are averaged over.
const APART: Duration = Duration::from_secs(10);
/// What a node may send while the ring around it is made anew.
const SEND_MAX_KBIT_S: f64 = 1000.0;
/// And one by which others join: a thousand nodes that start at once send a few kilobytes each by it. More nodes
/// may send more in proportion, while they all come at a time.
const SEND_MAX_WAY_IN_KBIT_S: f64 = 2000.0;
/// Messages that have travelled too far, of all that were sent on, while the ring changes.
const LOST_WAY_MAX: f64 = 0.001;
/// Where so few were sent on, a share says nothing.
const LOST_WAY_FROM: u64 = 10_000;
/// Connections of a ring, those under way, strangers that have called, and owners of addresses.
const PEERS_MAX: usize = 1024 + 64 + 64 + 64;
/// After so long nobody has a link to a host that is no more: no session lasts longer.
const DEAD_LINK_MAX: Duration = Duration::from_secs(181);
/// A message takes no more hops, however large the ring.
const HOPS_MAX: u16 = 4096;
/// A node is woken so often without time passing, at most.
const WAKES_MAX: u32 = 4;
/// So many violations are told; the others follow from them, as a rule.
const TOLD_MAX: usize = 5;

/// Looks, and keeps what it has seen.
#[derive(Debug)]
pub struct Invariants {
    next_at: Instant,
    /// Bytes that each host had sent when it was last looked at.
    sent: Vec<u64>,
    looked_at: Instant,
    /// Messages forwarded and those that went too far, of nodes that are no more.
    before: [u64; 2],
    broken: Vec<String>,
    pub busiest_kbit_s: f64,
}

impl Invariants {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next_at: now.after(APART),
            sent: Vec::new(),
            looked_at: now,
            before: [0; 2],
            broken: Vec::new(),
            busiest_kbit_s: 0.0,
        }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_at <= now
    }

    /// What was not as it must be.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    pub(crate) fn tell(&mut self, now: Instant, id: HostId, what: &str) {
        if self.broken.len() < TOLD_MAX {
            let seconds = now.as_nanos() as f64 / 1e9;
            self.broken.push(format!("node {id} at {seconds:.3} s: {what}"));
        }
    }

    /// A message of a node on its way out. The layout is that of docs/wire-format.md.
    pub(crate) fn message(&mut self, now: Instant, id: HostId, message: &[u8]) {
        let [4, _, hops_high, hops_low, most_high, most_low, ..] = *message else { return };
        let hops = u16::from_be_bytes([hops_high, hops_low]);
        let most = u16::from_be_bytes([most_high, most_low]);
        if hops >= most || most > HOPS_MAX {
            self.tell(now, id, &format!("sends a message on its hop {hops} of {most}"));
        }
    }

    /// A node was woken so many times at one time.
    pub(crate) fn woken(&mut self, now: Instant, id: HostId, times: u32) {
        if times == WAKES_MAX + 1 {
            self.tell(now, id, &format!("wants to be woken {times} times without time passing"));
        }
    }

    /// A node is about to forget what it has counted.
    pub(crate) fn forget(&mut self, counted: [u64; 2]) {
        self.before[0] += counted[0];
        self.before[1] += counted[1];
    }
}

/// What a host's node has forwarded, and of that, what had gone too far.
pub(crate) fn counted(world: &World, id: HostId) -> [u64; 2] {
    let counts = world.ring(id).counts();
    [counts.get(Count::Forwarded), counts.get(Count::TooManyHops)]
}

/// Links of a host's kernel path to hosts that have not been there for too long.
fn dead_links(world: &World, id: HostId) -> impl Iterator<Item = String> {
    world.hosts[id].daemon.maps.links().filter_map(|(key, _)| {
        let down_since = *world.down.get(key)?;
        let down = world.now.since(down_since);
        (down > DEAD_LINK_MAX).then(|| format!("has a link to a node that has been gone for {down:?}"))
    })
}

/// Looks at all nodes.
pub(crate) fn look(world: &mut World) {
    let now = world.now;
    let seconds = now.since(world.invariants.looked_at).as_secs_f64();
    let mut broken = Vec::new();
    let mut sums = world.invariants.before;
    let thousands = (world.up().count() as f64 / 1000.0).max(1.0);
    for id in 0..world.hosts.len() {
        let host = &world.hosts[id];
        for size in host.daemon.ring().sizes().filter(|size| size.len > size.most) {
            broken.push((id, format!("{}: {} of at most {}", size.table, size.len, size.most)));
        }
        if host.daemon.peers() > PEERS_MAX {
            broken.push((id, format!("peers: {} of at most {PEERS_MAX}", host.daemon.peers())));
        }
        if host.is_up {
            broken.extend(host.daemon.wrong_in_maps().into_iter().map(|wrong| (id, wrong)));
            broken.extend(dead_links(world, id).map(|wrong| (id, wrong)));
        }
        let [forwarded, too_far] = counted(world, id);
        sums = [sums[0] + forwarded, sums[1] + too_far];
        let sent = host.sent_bytes - world.invariants.sent.get(id).copied().unwrap_or(0);
        if seconds >= APART.as_secs_f64() {
            let kbit_s = sent as f64 * 8.0 / 1000.0 / seconds;
            world.invariants.busiest_kbit_s = world.invariants.busiest_kbit_s.max(kbit_s);
            let most = if host.is_way_in { SEND_MAX_WAY_IN_KBIT_S } else { SEND_MAX_KBIT_S };
            if kbit_s > most * thousands {
                broken.push((id, format!("sends {kbit_s:.0} kbit/s over {seconds:.0} s")));
            }
        }
    }
    let [forwarded, too_far] = sums;
    if forwarded >= LOST_WAY_FROM && too_far as f64 > forwarded as f64 * LOST_WAY_MAX {
        broken.push((0, format!("(and all others) {too_far} of {forwarded} messages went too far")));
    }
    for (id, what) in broken {
        world.invariants.tell(now, id, &what);
    }
    if seconds >= APART.as_secs_f64() {
        let sent = world.hosts.iter().map(|host| host.sent_bytes).collect();
        let invariants = &mut world.invariants;
        (invariants.sent, invariants.looked_at, invariants.next_at) = (sent, now, now.after(APART));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(hops: u16, most: u16) -> Vec<u8> {
        let [h, m] = [hops, most].map(u16::to_be_bytes);
        vec![4, 0x10, h[0], h[1], m[0], m[1], 0, 0]
    }

    #[test]
    fn messages_that_have_gone_too_far_are_told() {
        let mut invariants = Invariants::new(Instant::default());
        for (hops, most) in [(0, 1), (15, 16), (4095, 4096)] {
            invariants.message(Instant::default(), 0, &routed(hops, most));
        }
        invariants.message(Instant::default(), 0, &[2, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(invariants.broken(), [""; 0]);
        for (hops, most) in [(16, 16), (0, 4097)] {
            invariants.message(Instant::from_nanos(1_500_000_000), 7, &routed(hops, most));
        }
        assert_eq!(
            invariants.broken(),
            [
                "node 7 at 1.500 s: sends a message on its hop 16 of 16",
                "node 7 at 1.500 s: sends a message on its hop 0 of 4097"
            ]
        );
    }

    #[test]
    fn who_sends_too_much_is_told() {
        let mut world = World::new(1, crate::net::Conditions::LOCAL);
        let id = world.add(&[]);
        world.run_for(APART);
        assert_eq!(world.invariants.broken(), [""; 0]);
        world.hosts[id].sent_bytes += 1_500_000;
        world.run_for(APART);
        assert_eq!(world.invariants.broken(), ["node 0 at 20.000 s: sends 1200 kbit/s over 10 s"]);
    }

    #[test]
    fn a_link_that_nobody_has_decided_on_is_told() {
        let mut world = World::new(1, crate::net::Conditions::LOCAL);
        let id = world.add(&[]);
        let link = crate::maps::Link {
            endpoint: crate::world::place(7),
            label: None,
            session: 1,
            sends: true,
            lease_end: Instant::default(),
            addresses: Vec::new(),
        };
        world.hosts[id].daemon.maps.install([7; 32], link);
        world.run_for(APART);
        let broken = world.invariants.broken();
        assert!(broken.iter().any(|told| told.contains("a link that there should not be")), "{broken:?}");
    }

    #[test]
    fn who_keeps_a_link_to_a_dead_host_is_told() {
        let mut world = World::new(1, crate::net::Conditions::LOCAL);
        let first = world.add(&[]);
        let other = world.add(&[first]);
        world.run_for(Duration::from_secs(30));
        assert_eq!(world.hosts[first].daemon.maps.links().count(), 1);
        let key = world.hosts[other].key;
        world.down.insert(key, Instant::default());
        world.run_for(DEAD_LINK_MAX);
        let broken = world.invariants.broken();
        assert!(broken.iter().any(|told| told.contains("a node that has been gone for")), "{broken:?}");
    }
}
