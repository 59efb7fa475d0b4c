//! What networks are put through, and what is expected of them.

use std::time::Duration;

use ipop_overlay::ring::Count;
use serde::Serialize;

use crate::invariants;
use crate::measure::Consistency;
use crate::net::Conditions;
use crate::world::{HostId, World, place};

mod boxes;
mod groups;
mod leases;
mod nodes;
mod records;
mod rings;

use boxes::nats;
use groups::multicast;
use leases::{leases, overlap};
use nodes::{addresses, clocks, collision, twins};
use records::dht;
use rings::{broadcast, churn, join, kill, partition, restart, ring};

/// Nodes that all others know from the start.
const BOOTSTRAPS: usize = 3;
/// How often a figure that is waited for is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One figure of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// What is asked of it.
    pub bar: Option<Bar>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, bar: None }
    }

    fn at_most(self, bar: f64) -> Self {
        Self { bar: Some(Bar::AtMost(bar)), ..self }
    }

    fn at_least(self, bar: f64) -> Self {
        Self { bar: Some(Bar::AtLeast(bar)), ..self }
    }

    pub fn holds(&self) -> bool {
        match self.bar {
            Some(Bar::AtLeast(bar)) => self.value >= bar,
            Some(Bar::AtMost(bar)) => self.value <= bar,
            None => true,
        }
    }
}

/// A figure for each two of several kinds of hosts.
#[derive(Clone, Debug, Serialize)]
pub struct Matrix {
    pub title: &'static str,
    pub names: Vec<&'static str>,
    pub cells: Vec<Vec<f64>>,
}

/// One run of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub scenario: &'static str,
    pub nodes: usize,
    pub seed: u64,
    pub figures: Vec<Figure>,
    pub matrices: Vec<Matrix>,
    /// What must hold all the time and did not.
    pub broken: Vec<String>,
    /// What the busiest node has sent in any ten seconds.
    pub busiest_kbit_s: f64,
    /// Another number, another run.
    pub trace: String,
    pub events: u64,
    pub virtual_s: f64,
    pub wall_s: f64,
}

/// A scenario: its name, what it is, how many nodes it has, and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub nodes: usize,
    /// Why it is run only where it is named.
    pub apart: Option<&'static str>,
    run: fn(&mut World, usize) -> Vec<Figure>,
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario::new("ring", "nodes join and form one ring", 1060, ring),
    Scenario {
        apart: Some("takes minutes"),
        ..Scenario::new("large", "the same with ten thousand", 10_000, ring)
    },
    Scenario::new("join", "300 nodes join an overlay of 118", 118, join),
    Scenario::new("kill", "a fifth of the nodes dies at once", 1060, kill),
    Scenario::new("partition", "a network in halves becomes one again", 1060, partition),
    Scenario::new("restart", "all nodes die and start again", 1060, restart),
    Scenario::new("churn", "a node leaves and another joins each second", 1060, churn),
    Scenario::new("broadcast", "nodes tell all others something", 1060, broadcast),
    Scenario::new("multicast", "members of groups send to each other, while nodes die", 500, multicast),
    Scenario::new("addresses", "hosts send to each other's virtual addresses", 200, addresses),
    Scenario {
        apart: Some("an hour of virtual time, minutes of real"),
        ..Scenario::new("dht", "records outlive the nodes that keep them, and their owners", 300, dht)
    },
    Scenario::new("leases", "all nodes join at once and ask for an address", 2000, leases),
    Scenario::new("overlap", "a network in halves gives addresses twice, and becomes one", 300, overlap),
    Scenario::new("nats", "hosts behind boxes of every kind", 1000, nats),
    Scenario::new("collision", "two hosts each have the same virtual address", 100, collision),
    Scenario::new("twins", "one key is started twice", 100, twins),
    Scenario::new("clocks", "hosts sleep, and clocks leap ahead", 100, clocks),
];

impl Run {
    /// Everything is as it should be.
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.figures.iter().all(Figure::holds)
    }
}

impl Scenario {
    const fn new(
        name: &'static str,
        about: &'static str,
        nodes: usize,
        run: fn(&mut World, usize) -> Vec<Figure>,
    ) -> Self {
        Self { name, about, nodes, apart: None, run }
    }

    pub fn run(&self, nodes: usize, seed: u64) -> Run {
        let start = std::time::Instant::now();
        let mut world = World::new(seed, Conditions::WIDE);
        let figures = (self.run)(&mut world, nodes);
        invariants::look(&mut world);
        Run {
            scenario: self.name,
            nodes,
            seed,
            figures,
            matrices: std::mem::take(&mut world.matrices),
            broken: world.invariants.broken().to_vec(),
            busiest_kbit_s: world.invariants.busiest_kbit_s,
            trace: format!("{:016x}", world.trace()),
            events: world.events,
            virtual_s: world.now.as_nanos() as f64 / 1e9,
            wall_s: start.elapsed().as_secs_f64(),
        }
    }
}

/// Adds nodes, evenly over 200 s but no slower than ten a second. The first know each other, all others
/// know them.
pub fn grow(world: &mut World, nodes: usize) {
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS.min(nodes)).map(|_| world.add(&[])).collect();
    introduce(world, &bootstraps);
    let apart = Duration::from_secs(200) / u32::try_from(nodes).unwrap_or(1);
    for _ in bootstraps.len()..nodes {
        world.run_for(apart.min(Duration::from_millis(100)));
        world.add(&bootstraps);
    }
}

/// The bootstrap nodes of a network know each other.
fn introduce(world: &mut World, bootstraps: &[HostId]) {
    for pair in bootstraps.windows(2) {
        let [a, b] = *pair else { continue };
        let key = world.hosts[b].key;
        world.with(a, |node, now| node.add_contact(key, vec![place(b)], true, now));
    }
}

/// Waits until the ring is one; how long that took, or no number.
fn until_ring(world: &mut World, patience: Duration) -> f64 {
    wait_for(world, patience, |world| Consistency::of(world).is_ring())
}

fn wait_for(world: &mut World, patience: Duration, mut holds: impl FnMut(&World) -> bool) -> f64 {
    let start = world.now;
    while world.now.since(start) < patience {
        if holds(world) {
            return world.now.since(start).as_secs_f64();
        }
        world.run_for(LOOK);
    }
    f64::INFINITY
}

/// What all nodes have counted, summed.
pub fn counts(world: &World) -> Vec<(&'static str, u64)> {
    let sum = |count: &Count| world.hosts.iter().map(|host| host.daemon.ring().counts().get(*count)).sum();
    Count::ALL.iter().map(|count| (count.name(), sum(count))).collect()
}
