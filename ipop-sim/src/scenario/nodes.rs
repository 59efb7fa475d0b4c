//! Whole nodes: virtual addresses and the traffic between them, and hosts on which something is wrong.

use std::net::IpAddr;
use std::time::Duration;

use super::{BOOTSTRAPS, Figure, grow, until_ring, wait_for};
use crate::measure::{Meter, Reach};
use crate::traffic::{self, Flow, Pace, give_address, median_and_longest, share};
use crate::world::{HostId, World};

/// As somebody at a keyboard, or a program that waits for its answers.
const PACE: Pace = Pace {
    begin_apart: Duration::from_millis(50),
    packets_apart: Duration::from_millis(100),
    patience: Duration::from_secs(15),
};

/// After so long nobody sends by way of the dead: as is asked where a fifth dies.
const FOUND_DEAD: Duration = Duration::from_secs(30);

/// A network whose nodes have a virtual address each, a minute after the last has come.
fn with_addresses(world: &mut World, nodes: usize) {
    grow(world, nodes);
    (0..nodes).for_each(|id| give_address(world, id));
    world.run_for(Duration::from_secs(60));
}

/// So many pairs of different hosts of these.
fn pairs(world: &mut World, of: &[HostId], count: usize) -> Vec<(HostId, HostId)> {
    let mut draw = || of[world.random.below(of.len() as u64) as usize];
    let mut pairs = Vec::with_capacity(count);
    while pairs.len() < count {
        let (a, b) = (draw(), draw());
        if a != b {
            pairs.push((a, b));
        }
    }
    pairs
}

pub(super) fn addresses(world: &mut World, nodes: usize) -> Vec<Figure> {
    with_addresses(world, nodes);
    let all: Vec<HostId> = world.up().collect();
    // What the wires lose is lost; of what they do not, nothing may be.
    let pairs = pairs(world, &all, nodes * 4);
    let (lossless, lossy) = pairs.split_at(nodes * 2);
    let loss = std::mem::take(&mut world.net.conditions.loss);
    let unharmed = traffic::run(world, lossless, PACE);
    world.net.conditions.loss = loss;
    let flows = traffic::run(world, lossy, PACE);
    let (first, first_longest) = median_and_longest(&flows, |flow| flow.delivered);
    let (kernel, kernel_longest) = median_and_longest(&flows, |flow| flow.kernel);
    let gone: Vec<HostId> = all.iter().copied().skip(BOOTSTRAPS).step_by(10).collect();
    gone.iter().for_each(|id| world.kill(*id));
    let forgotten = wait_for(world, Duration::from_secs(300), |world| !has_dead_links(world));
    let within = |limit: Duration| share(&flows, |flow: &Flow| flow.kernel.is_some_and(|time| time <= limit));
    vec![
        Figure::new("pairs that reach each other", reached(&flows), "").at_least(1.0),
        Figure::new(
            "without loss, pairs of which the very first packet arrives",
            share(&unharmed, |flow| flow.has_first),
            "",
        )
        .at_least(1.0),
        Figure::new("with it", share(&flows, |flow| flow.has_first), ""),
        Figure::new("on the kernel path within 10 s", within(Duration::from_secs(10)), "").at_least(0.99),
        Figure::new("until the first packet arrives, median", first, "s"),
        Figure::new("until the first packet arrives, longest", first_longest, "s").at_most(7.0),
        Figure::new("until the kernel path is used, median", kernel, "s"),
        Figure::new("until the kernel path is used, longest", kernel_longest, "s"),
        Figure::new("packets refused", refused(world), "").at_most(0.0),
        Figure::new("links to a tenth that dies are gone after", forgotten, "s").at_most(90.0),
    ]
}

/// Whether a kernel has a link to a host that is no more.
fn has_dead_links(world: &World) -> bool {
    let mut links = world.up().flat_map(|id| world.hosts[id].daemon.maps.links());
    links.any(|(key, _)| world.down.contains_key(key))
}

/// The share of pairs of which one has sent the other something that arrived.
fn reached(flows: &[Flow]) -> f64 {
    share(flows, |flow| flow.delivered.is_some())
}

fn refused(world: &World) -> f64 {
    world.hosts.iter().map(|host| host.daemon.refused).sum::<u64>() as f64
}

pub(super) fn collision(world: &mut World, nodes: usize) -> Vec<Figure> {
    // Each address has an owner, and somebody who claims it later and comes into the network first.
    const ADDRESSES: usize = 5;
    with_addresses(world, nodes);
    let first = BOOTSTRAPS;
    let contested: Vec<(IpAddr, HostId, HostId)> = (0..ADDRESSES.min((nodes - first) / 2))
        .map(|index| (IpAddr::from([10, 255, 0, index as u8 + 1]), first + 2 * index, first + 2 * index + 1))
        .collect();
    for (address, _, younger) in &contested {
        world.set_address(*younger, *address, 2_000_000_000);
    }
    world.run_for(Duration::from_secs(30));
    for (address, older, _) in &contested {
        world.set_address(*older, *address, 1_900_000_000);
    }
    world.run_for(Duration::from_secs(30));
    let taken = |which: fn(&(IpAddr, HostId, HostId)) -> HostId| {
        let told = contested.iter().filter(|one| world.taken.contains(&(which(one), one.0))).count();
        told as f64 / contested.len() as f64
    };
    let told = [taken(|(_, older, _)| *older), taken(|(_, _, younger)| *younger)];
    let is_owner = |id: HostId| contested.iter().any(|(_, older, younger)| id == *older || id == *younger);
    let others: Vec<HostId> = world.up().filter(|id| !is_owner(*id)).collect();
    // Who is connected to the younger owner knows it by what it says itself, until there is traffic to it.
    let (mut connected, mut strangers) = (Vec::new(), Vec::new());
    for ((_, older, younger), from) in contested.iter().cycle().zip(others) {
        let younger = &world.hosts[*younger].key;
        let is_connected = world.hosts[from].daemon.node.peer_of_key(younger).is_some();
        if is_connected { &mut connected } else { &mut strangers }.push((from, *older));
    }
    let strangers = traffic::run(world, &strangers, PACE);
    let connected = traffic::run(world, &connected, PACE);
    vec![
        Figure::new("older owners that are told", told[0], "").at_least(1.0),
        Figure::new("younger owners that are told", told[1], "").at_least(1.0),
        Figure::new("hosts that reach the older owner", reached(&strangers), "").at_least(1.0),
        Figure::new("of those connected to the younger before", reached(&connected), "").at_least(1.0),
        Figure::new("packets refused", refused(world), "").at_most(0.0),
    ]
}

pub(super) fn twins(world: &mut World, nodes: usize) -> Vec<Figure> {
    with_addresses(world, nodes);
    let twice = BOOTSTRAPS;
    let twin = world.add_twin(twice, &[0, 1, 2]);
    give_address(world, twice);
    let address = traffic::address(twice);
    world.set_address(twin, address, 1_700_000_000);
    let meter = Meter::start(world);
    world.run_for(Duration::from_secs(240));
    let cost = meter.read(world);
    let others: Vec<HostId> = world.up().filter(|id| *id != twice && *id != twin).collect();
    let chosen = pairs(world, &others, nodes);
    let flows = traffic::run(world, &chosen, PACE);
    // One of the two is stopped.
    world.kill(twin);
    let ring = until_ring(world, Duration::from_secs(120));
    vec![
        Figure::new("pairs of others that reach each other", reached(&flows), "").at_least(1.0),
        Figure::new("of others, on the kernel path", share(&flows, |flow| flow.kernel.is_some()), "")
            .at_least(0.99),
        Figure::new("sent by the busiest meanwhile", cost.kbit_s_most, "kbit/s").at_most(100.0),
        Figure::new("one ring after one of the two has stopped", ring, "s").at_most(60.0),
    ]
}

pub(super) fn clocks(world: &mut World, nodes: usize) -> Vec<Figure> {
    const APART: Duration = Duration::from_secs(300);
    with_addresses(world, nodes);
    // Those that others join by are not among them.
    let asleep: Vec<HostId> = (BOOTSTRAPS..nodes).step_by(10).collect();
    let awake: Vec<HostId> = world.up().filter(|id| !asleep.contains(id)).collect();
    asleep.iter().for_each(|id| world.kill(*id));
    world.run_for(APART);
    let chosen = pairs(world, &awake, nodes);
    let meanwhile = traffic::run(world, &chosen, PACE);
    for (index, id) in asleep.iter().enumerate() {
        world.resume(*id, index % 2 == 0);
    }
    let back = until_ring(world, Duration::from_secs(300));
    let towards = |awake: &[HostId]| -> Vec<(HostId, HostId)> {
        asleep.iter().zip(awake.iter().cycle()).map(|(asleep, awake)| (*awake, *asleep)).collect()
    };
    let after = traffic::run(world, &towards(&awake), PACE);
    // And without a pause: by minutes, and by hours.
    for (index, id) in asleep.iter().enumerate() {
        world.leap(*id, Duration::from_secs(if index % 2 == 0 { 600 } else { 7200 }));
    }
    world.run_for(Duration::from_secs(1));
    let leapt = 1.0 + until_ring(world, Duration::from_secs(300));
    // To the others the sessions of who has leapt look alive, as those of the dead do: as long as after deaths.
    world.run_for(FOUND_DEAD.saturating_sub(Duration::from_secs_f64(leapt.min(300.0))));
    let reach = Reach::measure(world, 200, Duration::from_secs(2), Duration::from_secs(3));
    let at_last = traffic::run(world, &towards(&awake), PACE);
    vec![
        Figure::new("others reach each other while they sleep", reached(&meanwhile), "").at_least(1.0),
        Figure::new("one ring after they wake up", back, "s").at_most(60.0),
        Figure::new("reached then", reached(&after), "").at_least(1.0),
        Figure::new("one ring after clocks have leapt", leapt, "s").at_most(60.0),
        Figure::new("routable after 30 s", reach.share(), "").at_least(0.99),
        Figure::new("reached after that", reached(&at_last), "").at_least(1.0),
    ]
}
