//! Records of the DHT: how long it takes to find them, and whether they outlive those that keep them.

use std::collections::BTreeMap;
use std::time::Duration;

use ipop_overlay::dht::{Event, Kind, RequestId};
use ipop_overlay::{Command, Instant};

use super::leases::{config, duplicates, pool};
use super::{BOOTSTRAPS, Figure, LOOK, grow};
use crate::measure::Meter;
use crate::world::{HostId, World};

/// Records that are put once, by nodes that go in time; and how long they live.
const RECORDS: usize = 100;
const TTL_S: u64 = 2 * 3600;
/// How long nodes come and go, and how many of a hundred in a minute.
const CHURN: Duration = Duration::from_secs(3600);
const CHURN_PER_MINUTE: f64 = 0.1;
/// Records that are asked for in a second.
const GETS: usize = 2;
/// Who has come is not asked to do anything for so long.
const SETTLED: Duration = Duration::from_secs(10);
/// Short leases, so that each is made again many times.
const LEASE_S: u32 = 600;

fn name(number: usize) -> Vec<u8> {
    format!("record {number}").into_bytes()
}

/// Values of all lengths.
fn value(number: usize) -> Vec<u8> {
    vec![number as u8; number * 37 % 1025]
}

pub(super) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// The median round trip of echoes over the ring, in seconds.
fn chain(world: &mut World, count: usize) -> f64 {
    world.echoes.clear();
    let up: Vec<HostId> = world.up().collect();
    for _ in 0..count {
        let mut draw = || up[world.random.below(up.len() as u64) as usize];
        let (from, to) = (draw(), draw());
        let token = world.random.draw();
        if from != to {
            world.echo(from, to, token);
            world.run_for(Duration::from_millis(20));
        }
    }
    world.run_for(Duration::from_secs(5));
    median(std::mem::take(&mut world.echoes).iter().map(|echo| echo.rtt.as_secs_f64()).collect())
}

/// What has been asked for and has not been answered.
#[derive(Default)]
struct Gets {
    open: BTreeMap<RequestId, (HostId, Instant, Option<Vec<u8>>)>,
    times: Vec<f64>,
    right: usize,
    wrong: usize,
}

impl Gets {
    fn ask(&mut self, world: &mut World, by: HostId, name: &[u8], kind: Kind, value: Option<Vec<u8>>) {
        match world.with(by, |node, now| node.dht_get(name, kind, now)) {
            Ok(request) => drop(self.open.insert(request, (by, world.now, value))),
            Err(_) => self.wrong += 1,
        }
    }

    fn settle(&mut self, world: &mut World) {
        for (_, at, event) in std::mem::take(&mut world.dht) {
            let (Event::Got { request, .. } | Event::Failed { request, .. }) = &event else { continue };
            let Some((_, since, value)) = self.open.remove(request) else { continue };
            let found = match &event {
                Event::Got { records, .. } => records.first().map(|record| record.value.clone()),
                _ => None,
            };
            if found.is_some() && (value.is_none() || found == value) {
                self.right += 1;
                self.times.push(at.since(since).as_secs_f64());
            } else {
                self.wrong += 1;
            }
        }
        // Whoever is no more waits no more.
        self.open.retain(|_, (by, ..)| world.hosts[*by].is_up);
    }
}

pub(super) fn dht(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(60));
    let chain = chain(world, 500);
    let up: Vec<HostId> = world.up().collect();
    for number in 0..RECORDS {
        let by = up[world.random.below(up.len() as u64) as usize];
        let put = |node: &mut ipop_overlay::Node, now| {
            node.dht_put(&name(number), 0, &value(number), TTL_S, false, now)
        };
        world.with(by, put).unwrap_or_else(|error| unreachable!("a record that may be put: {error}"));
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(Duration::from_secs(5));
    let stored = world.dht.iter().filter(|(_, _, event)| matches!(event, Event::Stored { .. })).count();
    let mut still = Gets::default();
    for number in 0..RECORDS * 4 {
        let by = up[world.random.below(up.len() as u64) as usize];
        let record = number % RECORDS;
        still.ask(world, by, &name(record), Kind::Put, Some(value(record)));
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(Duration::from_secs(20));
    still.settle(world);
    let lease = pool(16, LEASE_S);
    for id in &up {
        world.lease(*id, config(&lease));
        world.run_for(Duration::from_secs(10) / u32::try_from(nodes).unwrap_or(1));
    }
    world.run_for(Duration::from_secs(30));
    world.leases.clear();
    let meter = Meter::start(world);
    let (gets, most, lost) = come_and_go(world, nodes);
    let cost = meter.read(world);
    let asked = gets.right + gets.wrong;
    let median_get = median(still.times.clone());
    vec![
        Figure::new("records put", stored as f64 / RECORDS as f64, "").at_least(1.0),
        Figure::new("found while all is still", still.right as f64 / (RECORDS * 4) as f64, "").at_least(1.0),
        Figure::new("until a record is found, median", median_get, "s"),
        Figure::new("as a multiple of an echo's time", median_get / chain, "").at_most(3.0),
        Figure::new("found while nodes come and go", gets.right as f64 / asked.max(1) as f64, "")
            .at_least(0.999),
        Figure::new("records asked for meanwhile", asked as f64, ""),
        Figure::new("until one is found then, median", median(gets.times), "s"),
        Figure::new("leases lost", lost as f64, "").at_most(0.0),
        Figure::new("addresses that two have, at most", most as f64, "").at_most(0.0),
        Figure::new("sent per node meanwhile", cost.kbit_s, "kbit/s"),
    ]
}

/// For an hour nodes come, ask for an address, and go, half of them with a word; others ask for records.
fn come_and_go(world: &mut World, nodes: usize) -> (Gets, usize, usize) {
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS).collect();
    let (mut gets, mut most, mut lost) = (Gets::default(), 0, 0);
    let mut born = vec![Instant::default(); world.hosts.len()];
    let end = world.now.after(CHURN);
    let lease = pool(16, LEASE_S);
    let per_look = nodes as f64 * CHURN_PER_MINUTE / 60.0 * LOOK.as_secs_f64();
    let mut owed = 0.0;
    while world.now < end {
        owed += per_look;
        while owed >= 1.0 {
            owed -= 1.0;
            let up: Vec<HostId> = world.up().filter(|id| *id >= BOOTSTRAPS).collect();
            let gone = up[world.random.below(up.len() as u64) as usize];
            if world.random.below(2) == 0 {
                world.with(gone, |node, now| node.handle_command(Command::Goodbye, now));
            }
            world.kill(gone);
            let new = world.add(&bootstraps);
            born.push(world.now);
            world.lease(new, config(&lease));
        }
        let old: Vec<HostId> = world.up().filter(|id| world.now.since(born[*id]) >= SETTLED).collect();
        for _ in 0..GETS {
            let by = old[world.random.below(old.len() as u64) as usize];
            let record = world.random.below(RECORDS as u64) as usize;
            gets.ask(world, by, &name(record), Kind::Put, Some(value(record)));
            // And whose an address is.
            let of = old[world.random.below(old.len() as u64) as usize];
            if let Some(address) = world.hosts[of].daemon.leased() {
                let name = ipop_overlay::dhcp::lease_name("sim", address);
                gets.ask(world, by, &name, Kind::Create, None);
            }
        }
        world.run_for(LOOK);
        gets.settle(world);
        let is_lost = |output| matches!(output, ipop_overlay::dhcp::Output::Lost { .. });
        lost +=
            std::mem::take(&mut world.leases).into_iter().filter(|(_, _, output)| is_lost(*output)).count();
        most = most.max(duplicates(world).len());
    }
    world.run_for(Duration::from_secs(20));
    gets.settle(world);
    (gets, most, lost)
}
