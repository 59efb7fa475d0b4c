//! Rings: how they form, and what they come through.

use std::time::Duration;

use ipop_overlay::ring::Count;
use ipop_overlay::{Command, Instant};

use super::{BOOTSTRAPS, Figure, LOOK, grow, introduce, until_ring};
use crate::measure::{Consistency, Meter, Reach, mean};
use crate::random::Random;
use crate::world::{HostId, World};

pub(super) fn ring(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    let formed = until_ring(world, Duration::from_secs(120));
    world.run_for(Duration::from_secs(60));
    let reach = Reach::measure(world, 4000, Duration::from_secs(20), Duration::from_secs(5));
    let left = Duration::from_secs(600).saturating_sub(world.now.since(Instant::default()));
    let meter = Meter::start(world);
    world.run_for(left);
    let cost = meter.read(world);
    let after = Consistency::of(world);
    let memory = world.heap_per_host() / 1000.0;
    let log2 = (nodes as f64).log2();
    let shortcuts = (log2 / 2.0).ceil();
    let size = mean(world.up().map(|id| f64::from(world.ring(id).log2_size()) / 256.0));
    vec![
        Figure::new("one ring after the last has come", formed, "s").at_most(30.0),
        Figure::new("in the ring at the end", after.adjacent as f64 / after.nodes as f64, "").at_least(1.0),
        Figure::new("routable", reach.share(), "").at_least(0.99),
        Figure::new("hops, mean", reach.mean_hops(), "").at_most(log2 * log2 / shortcuts),
        Figure::new("hops, 99 of 100", f64::from(reach.hops_at(0.99)), ""),
        Figure::new("round trip by direct one, median", reach.median_stretch(), ""),
        Figure::new("estimated by true size, log2", size - log2, "bits"),
        Figure::new("connections per node", cost.edges, ""),
        Figure::new("sent per node", cost.kbit_s, "kbit/s").at_most(1.0),
        Figure::new("of that by the ring", cost.ring_kbit_s, "kbit/s"),
        Figure::new("sent by the busiest", cost.kbit_s_most, "kbit/s"),
        Figure::new("packets per node", cost.packets_s, "/s"),
        Figure::new("memory per node", memory, "KB").at_most(100.0),
    ]
}

pub(super) fn join(world: &mut World, nodes: usize) -> Vec<Figure> {
    const JOINS: usize = 300;
    const STEP: Duration = Duration::from_millis(100);
    grow(world, nodes);
    world.run_for(Duration::from_secs(120));
    let routers: Vec<HostId> = world.up().collect();
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS).collect();
    let mut open: Vec<(HostId, HostId, Instant, Option<u64>)> = Vec::new();
    let (mut routable, mut direct) = (Vec::new(), Vec::new());
    let mut random = Random::new(world.random.draw());
    world.echoes.clear();
    let end = world.now.after(STEP * JOINS as u32 + Duration::from_secs(200));
    let mut made = 0;
    while world.now < end && (made < JOINS || !open.is_empty()) {
        if made < JOINS {
            made += 1;
            let id = world.add(&bootstraps);
            let asker = routers[random.below(routers.len() as u64) as usize];
            open.push((id, asker, world.now, None));
        }
        let answered: Vec<u64> = std::mem::take(&mut world.echoes).iter().map(|echo| echo.token).collect();
        let mut still = Vec::new();
        for (id, asker, since, first) in open {
            let waited = world.now.since(since).as_secs_f64();
            let was_routable = first.is_none();
            let first = first.or_else(|| answered.contains(&(id as u64)).then_some(0));
            if was_routable && first.is_some() {
                routable.push(waited);
            }
            // Traffic, as of somebody who works on it.
            let address = world.address(id);
            if first.is_none() {
                world.echo(asker, id, id as u64);
            }
            world.with(asker, |node, now| node.carry(address, &crate::session::transport(0, &[]), now));
            if first.is_some() && world.ring(asker).is_connected(address) {
                direct.push(waited);
            } else {
                still.push((id, asker, since, first));
            }
        }
        open = still;
        world.run_for(STEP);
    }
    let within =
        |times: &[f64], limit: f64| times.iter().filter(|time| **time <= limit).count() as f64 / JOINS as f64;
    let median = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
    };
    vec![
        Figure::new("routable within 5 s", within(&routable, 5.0), "").at_least(0.99),
        Figure::new("direct within 10 s", within(&direct, 10.0), "").at_least(0.99),
        Figure::new("until routable, median", median(&routable), "s"),
        Figure::new("until direct, median", median(&direct), "s"),
        Figure::new("until direct, longest", direct.iter().copied().fold(0.0, f64::max), "s"),
    ]
}

pub(super) fn kill(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(120));
    for id in 0..nodes {
        if world.random.below(5) == 0 {
            world.kill(id);
        }
    }
    let start = world.now;
    let mut at_30 = 0.0;
    let mut first = f64::INFINITY;
    while world.now.since(start) < Duration::from_secs(30) {
        let window = world.now;
        let reach = Reach::measure(world, 500, Duration::from_secs(1), Duration::from_secs(2));
        at_30 = reach.share();
        if at_30 >= 0.99 && first.is_infinite() {
            first = window.since(start).as_secs_f64();
        }
    }
    let ring = world.now.since(start).as_secs_f64() + until_ring(world, Duration::from_secs(120));
    vec![
        Figure::new("routable after 30 s", at_30, "").at_least(0.99),
        Figure::new("routable again, 99 of 100, after", first, "s").at_most(30.0),
        Figure::new("one ring again after at most", ring, "s"),
    ]
}

pub(super) fn partition(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(120));
    for id in 0..nodes {
        world.hosts[id].site.part = u8::from(world.random.below(2) == 0);
    }
    world.net.is_split = true;
    world.run_for(Duration::from_secs(120));
    let inside = halves(world);
    world.net.is_split = false;
    let healed = until_ring(world, Duration::from_secs(300));
    let reach = Reach::measure(world, 1000, Duration::from_secs(2), Duration::from_secs(3));
    vec![
        // A few may know nobody on their side.
        Figure::new("in a ring of its own while split", inside, "").at_least(0.99),
        Figure::new("one ring again after", healed, "s").at_most(60.0),
        Figure::new("routable then", reach.share(), "").at_least(0.99),
    ]
}

/// The share of nodes that are next to their neighbours of the same part.
fn halves(world: &World) -> f64 {
    let (mut good, mut all) = (0u32, 0u32);
    for part in [0, 1] {
        let mut sorted: Vec<_> = world
            .up()
            .filter(|id| world.hosts[*id].site.part == part)
            .map(|id| (world.address(id), id))
            .collect();
        sorted.sort_unstable();
        for index in 0..sorted.len() {
            let next = sorted[(index + 1) % sorted.len()].0;
            all += 1;
            good += u32::from(world.ring(sorted[index].1).is_connected(next));
        }
    }
    f64::from(good) / f64::from(all).max(1.0)
}

pub(super) fn restart(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(60));
    (0..nodes).for_each(|id| world.kill(id));
    world.run_for(Duration::from_secs(60));
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS).collect();
    // Within ten seconds, as after a power cut.
    for id in 0..nodes {
        let contacts = if id < BOOTSTRAPS { &[][..] } else { &bootstraps };
        world.restart(id, contacts);
        if id + 1 == BOOTSTRAPS {
            introduce(world, &bootstraps);
        }
        world.run_for(Duration::from_secs(10) / u32::try_from(nodes).unwrap_or(1));
    }
    let formed = until_ring(world, Duration::from_secs(300));
    vec![Figure::new("one ring after the last has come", formed, "s").at_most(60.0)]
}

pub(super) fn churn(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(60));
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS).collect();
    let mut shares = Vec::new();
    for _ in 0..120 {
        let up: Vec<HostId> = world.up().filter(|id| *id >= BOOTSTRAPS).collect();
        let gone = up[world.random.below(up.len() as u64) as usize];
        if world.random.below(2) == 0 {
            world.with(gone, |node, now| node.handle_command(Command::Goodbye, now));
        }
        world.kill(gone);
        world.add(&bootstraps);
        world.run_for(LOOK);
        if world.random.below(10) == 0 {
            let reach = Reach::measure(world, 200, Duration::from_millis(500), Duration::from_millis(1500));
            shares.push(reach.share());
        }
    }
    let ring = until_ring(world, Duration::from_secs(120));
    vec![
        Figure::new("routable meanwhile, mean", mean(shares.into_iter()), "").at_least(0.95),
        Figure::new("one ring after", ring, "s").at_most(60.0),
    ]
}

pub(super) fn broadcast(world: &mut World, nodes: usize) -> Vec<Figure> {
    const ROUNDS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(5);
    grow(world, nodes);
    world.run_for(Duration::from_secs(120));
    let up: Vec<HostId> = world.up().collect();
    let (mut shares, mut last, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    let mut most = 0;
    for _ in 0..ROUNDS {
        let teller = up[world.random.below(up.len() as u64) as usize];
        world.told.clear();
        let (start, before) = (world.now, forwarded(world));
        assert!(world.with(teller, |node, now| node.broadcast(b"all hear this", now)), "it is short enough");
        world.run_for(PATIENCE);
        let mut times = vec![0; world.hosts.len()];
        world.told.iter().for_each(|(id, _)| times[*id] += 1);
        most = most.max(times.iter().copied().max().unwrap_or(0));
        shares.push(times.iter().filter(|times| **times > 0).count() as f64 / (up.len() - 1) as f64);
        let end = world.told.iter().map(|(_, at)| at.since(start).as_secs_f64()).fold(0.0, f64::max);
        last.push(end);
        messages.push((forwarded(world) - before) as f64 / up.len() as f64);
        world.run_for(Duration::from_secs(60));
    }
    vec![
        Figure::new("nodes that hear it", mean(shares.into_iter()), "").at_least(0.99),
        Figure::new("how often, at most", f64::from(most), "").at_most(1.0),
        Figure::new("until the last hears it", mean(last.into_iter()), "s").at_most(2.0),
        Figure::new("messages passed on per node meanwhile", mean(messages.into_iter()), "").at_most(3.0),
    ]
}

fn forwarded(world: &World) -> u64 {
    world.up().map(|id| world.ring(id).counts().get(Count::Forwarded)).sum()
}
