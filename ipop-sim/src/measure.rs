//! What is asked of a network as a whole.

use std::collections::HashMap;
use std::time::Duration;

use ipop_overlay::{Instant, NodeAddress};

use crate::net::Net;
use crate::world::{HostId, World};

/// How much of the ring is as it should be.
#[derive(Clone, Copy, Debug)]
pub struct Consistency {
    pub nodes: usize,
    /// Nodes that are connected to the node next above and the one next below on the ring.
    pub adjacent: usize,
    /// Nodes that are connected to the two nearest on both sides.
    pub complete: usize,
}

impl Consistency {
    pub fn is_ring(&self) -> bool {
        self.adjacent == self.nodes
    }

    pub fn of(world: &World) -> Self {
        let mut sorted: Vec<(NodeAddress, HostId)> = world.up().map(|id| (world.address(id), id)).collect();
        sorted.sort_unstable();
        let count = sorted.len();
        let at = |index: usize, offset: usize| sorted[(index + offset) % count].0;
        let (mut adjacent, mut complete) = (0, 0);
        for (index, (_, id)) in sorted.iter().enumerate() {
            let ring = world.ring(*id);
            let has = |offset: usize| offset.is_multiple_of(count) || ring.is_connected(at(index, offset));
            let next = has(1) && has(count - 1);
            adjacent += usize::from(next);
            complete += usize::from(next && (count < 4 || has(2) && has(count - 2)));
        }
        Self { nodes: count, adjacent, complete }
    }
}

/// What echoes between pairs of nodes have shown.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub sent: usize,
    pub hops: Vec<u16>,
    /// The round trip by way of the ring, as a multiple of the direct one.
    pub stretch: Vec<f64>,
}

impl Reach {
    pub fn share(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { self.hops.len() as f64 / self.sent as f64 }
    }

    pub fn mean_hops(&self) -> f64 {
        mean(self.hops.iter().map(|hops| f64::from(*hops)))
    }

    /// The hops that `part` of the pairs need at most.
    pub fn hops_at(&self, part: f64) -> u16 {
        let mut sorted = self.hops.clone();
        sorted.sort_unstable();
        sorted
            .get(((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }

    pub fn median_stretch(&self) -> f64 {
        let mut sorted = self.stretch.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    /// Lets `pairs` pairs of nodes, drawn at random, ask for an echo each within `span`, and those that
    /// have none after `patience` once more: one lost packet is no hole in the ring.
    pub fn measure(world: &mut World, pairs: u32, span: Duration, patience: Duration) -> Self {
        let up: Vec<HostId> = world.up().collect();
        let mut reach = Self::default();
        let mut open: Vec<(HostId, HostId)> = Vec::new();
        for _ in 0..pairs {
            let mut draw = || up[world.random.below(up.len() as u64) as usize];
            let (a, b) = (draw(), draw());
            if a != b {
                open.push((a, b));
            }
        }
        reach.sent = open.len();
        for _ in 0..2 {
            open = reach.ask(world, &open, span, patience);
        }
        reach
    }

    /// Those of the pairs that had no answer.
    fn ask(
        &mut self,
        world: &mut World,
        pairs: &[(HostId, HostId)],
        span: Duration,
        patience: Duration,
    ) -> Vec<(HostId, HostId)> {
        let mut open = HashMap::new();
        world.echoes.clear();
        let start = world.now;
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        for (index, (a, b)) in (0u32..).zip(pairs) {
            world.run(start.after(span * index / count));
            let token = world.random.draw();
            open.insert(token, (*a, *b));
            world.echo(*a, *b, token);
        }
        world.run_for(patience);
        for echoed in std::mem::take(&mut world.echoes) {
            if let Some((a, b)) = open.remove(&echoed.token) {
                let direct = Net::distance(&world.hosts[a].site, &world.hosts[b].site) * 2;
                self.hops.push(echoed.hops);
                self.stretch.push(echoed.rtt.as_secs_f64() / direct.as_secs_f64().max(1e-9));
            }
        }
        let mut left: Vec<(HostId, HostId)> = open.into_values().collect();
        left.sort_unstable();
        left
    }
}

/// What nodes send and keep.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// All that a node sends.
    pub kbit_s: f64,
    /// Messages of the ring and handshakes alone.
    pub ring_kbit_s: f64,
    pub kbit_s_most: f64,
    pub packets_s: f64,
    pub edges: f64,
}

/// Counts what is sent from one time to another.
#[derive(Debug)]
pub struct Meter {
    since: Instant,
    sent: Vec<[u64; 3]>,
}

impl Meter {
    pub fn start(world: &World) -> Self {
        Self { since: world.now, sent: (0..world.hosts.len()).map(|id| Self::sent(world, id)).collect() }
    }

    fn sent(world: &World, id: HostId) -> [u64; 3] {
        let host = &world.hosts[id];
        [host.sent_bytes, host.ring_bytes, host.sent_packets]
    }

    pub fn read(&self, world: &World) -> Cost {
        let seconds = world.now.since(self.since).as_secs_f64().max(1e-9);
        let rates = |which: usize| {
            world.up().map(move |id| {
                let before = self.sent.get(id).map_or(0, |sent| sent[which]);
                (Self::sent(world, id)[which] - before) as f64 / seconds
            })
        };
        let kbit = 8.0 / 1000.0;
        Cost {
            kbit_s: mean(rates(0)) * kbit,
            ring_kbit_s: mean(rates(1)) * kbit,
            kbit_s_most: rates(0).fold(0.0, f64::max) * kbit,
            packets_s: mean(rates(2)),
            edges: mean(world.up().map(|id| world.ring(id).edges().count() as f64)),
        }
    }
}

pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}
