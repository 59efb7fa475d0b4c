//! Addresses without a server: who gets one, when, and whether two have the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipop_overlay::Instant;
use ipop_overlay::dhcp::{Config, Output, Pool};

use super::records::median;
use super::{BOOTSTRAPS, Figure, grow, introduce, until_ring, wait_for};
use crate::world::{HostId, World};

/// As an hour is what leases of the original's last.
const LEASE_S: u32 = 3600;

/// The addresses of 10.64.0.0 with a prefix of this length.
pub(super) fn pool(prefix_len: u8, lease_s: u32) -> Pool {
    let network = IpAddr::V4(Ipv4Addr::new(10, 64, 0, 0));
    Pool::new(network, prefix_len, lease_s, Vec::new()).unwrap_or_else(|_| unreachable!("a pool"))
}

pub(super) fn config(pool: &Pool) -> Config {
    Config {
        namespace: "sim".to_owned(),
        pool: Some(pool.clone()),
        wanted: None,
        preferred: None,
        host: "host".to_owned(),
    }
}

/// Addresses that more than one host that runs has, and who.
pub(super) fn duplicates(world: &World) -> Vec<(IpAddr, Vec<HostId>)> {
    let mut by_address: BTreeMap<IpAddr, Vec<HostId>> = BTreeMap::new();
    for id in world.up() {
        if let Some(address) = world.hosts[id].daemon.leased() {
            by_address.entry(address).or_default().push(id);
        }
    }
    by_address.into_iter().filter(|(_, hosts)| hosts.len() > 1).collect()
}

fn leased(world: &World) -> usize {
    world.up().filter(|id| world.hosts[*id].daemon.leased().is_some()).count()
}

pub(super) fn leases(world: &mut World, nodes: usize) -> Vec<Figure> {
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS).map(|_| world.add(&[])).collect();
    introduce(world, &bootstraps);
    let pool = pool(16, LEASE_S);
    bootstraps.iter().for_each(|id| world.lease(*id, config(&pool)));
    world.run_for(Duration::from_secs(30));
    // Within ten seconds, as after a power cut.
    let start = world.now;
    let mut born: BTreeMap<HostId, Instant> = BTreeMap::new();
    for _ in BOOTSTRAPS..nodes {
        let id = world.add(&bootstraps);
        born.insert(id, world.now);
        world.lease(id, config(&pool));
        world.run_for(Duration::from_secs(10) / u32::try_from(nodes).unwrap_or(1));
    }
    let mut most = 0;
    let mut on_ring: BTreeMap<HostId, Instant> = BTreeMap::new();
    let mut waits = Vec::new();
    let mut twice_s = 0.0;
    while world.now.since(start) < Duration::from_secs(120) {
        world.run_for(Duration::from_millis(200));
        for id in born.keys() {
            if !on_ring.contains_key(id) && world.ring(*id).nearest().iter().any(|side| !side.is_empty()) {
                on_ring.insert(*id, world.now);
            }
        }
        let twice = duplicates(world).len();
        most = most.max(twice);
        if twice > 0 {
            twice_s += 0.2;
        }
    }
    let (mut times, mut after_joining) = (BTreeMap::new(), Vec::new());
    let mut lost = 0;
    for (id, at, output) in std::mem::take(&mut world.leases) {
        match output {
            Output::Bound { .. } if !times.contains_key(&id) => {
                let Some(since) = born.get(&id) else { continue };
                times.insert(id, at.since(*since).as_secs_f64());
                after_joining.push(on_ring.get(&id).map_or(0.0, |joined| at.since(*joined).as_secs_f64()));
            }
            Output::Lost { .. } => lost += 1,
            _ => {}
        }
    }
    waits.extend(times.values().copied());
    let longest = waits.iter().copied().fold(0.0, f64::max);
    vec![
        Figure::new("nodes with an address", leased(world) as f64 / nodes as f64, "").at_least(1.0),
        Figure::new("addresses that two have at the end", duplicates(world).len() as f64, "").at_most(0.0),
        Figure::new("addresses that two have, at most", most as f64, ""),
        Figure::new("any two have the same, for", twice_s, "s").at_most(30.0),
        Figure::new("until a node has an address, median", median(waits), "s").at_most(2.0),
        Figure::new("of that on the ring, median", median(after_joining), "s"),
        Figure::new("longest", longest, "s"),
        Figure::new("leases lost again", f64::from(lost), ""),
    ]
}

pub(super) fn overlap(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(60));
    for id in 0..nodes {
        world.hosts[id].site.part = u8::from(world.random.below(2) == 0);
    }
    world.net.is_split = true;
    world.run_for(Duration::from_secs(60));
    // As many addresses as nodes, or twice as many: many are given twice, once in each half.
    let bits = u8::try_from((nodes + 2).next_power_of_two().ilog2()).unwrap_or(16);
    let pool = pool(32 - bits, LEASE_S);
    let all: Vec<HostId> = world.up().collect();
    for id in &all {
        world.lease(*id, config(&pool));
        world.run_for(Duration::from_secs(20) / u32::try_from(nodes).unwrap_or(1));
    }
    wait_for(world, Duration::from_secs(120), |world| leased(world) == nodes);
    let before = leased(world);
    let twice = duplicates(world);
    let (mut bound, mut winners) = (BTreeMap::new(), Vec::new());
    for (id, at, output) in &world.leases {
        if let Output::Bound { address, .. } = output {
            bound.insert((*id, *address), *at);
        }
    }
    // Who asked seconds before the other has created it before.
    for (address, hosts) in &twice {
        let at = |id: &HostId| bound.get(&(*id, *address)).copied().unwrap_or(world.now);
        let [a, b] = hosts[..] else { continue };
        let (first, second) = if at(&a) < at(&b) { (a, b) } else { (b, a) };
        if at(&second).since(at(&first)) > Duration::from_secs(5) {
            winners.push((*address, first));
        }
    }
    world.net.is_split = false;
    let start = world.now;
    let healed = until_ring(world, Duration::from_secs(300));
    let resolved = healed + wait_for(world, Duration::from_secs(300), |world| duplicates(world).is_empty());
    let again = wait_for(world, Duration::from_secs(120), |world| leased(world) == nodes);
    let kept =
        winners.iter().filter(|(address, id)| world.hosts[*id].daemon.leased() == Some(*address)).count();
    let total = world.now.since(start).as_secs_f64();
    vec![
        Figure::new("nodes with an address while split", before as f64 / nodes as f64, "").at_least(1.0),
        Figure::new("addresses that two have then", twice.len() as f64, "").at_least(1.0),
        Figure::new("one ring again after", healed, "s"),
        Figure::new("no address is two's any more after", resolved, "s").at_most(30.0),
        Figure::new("all have one again after", if again.is_finite() { total } else { again }, "s"),
        Figure::new("of those who were first, have kept it", kept as f64 / winners.len().max(1) as f64, "")
            .at_least(1.0),
    ]
}
