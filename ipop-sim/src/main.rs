#![expect(clippy::print_stdout, reason = "a program for people who look at it")]
use ipop_overlay::ring::Count;
use ipop_sim::measure::{Consistency, Meter, Reach};
use ipop_sim::net::Conditions;
use ipop_sim::world::World;
use std::time::Duration;

fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let n = args.first().copied().unwrap_or(100) as usize;
    let per_s = args.get(1).copied().unwrap_or(10);
    let seed = args.get(2).copied().unwrap_or(1);
    let mut world = World::new(seed, Conditions::WIDE);
    let start = std::time::Instant::now();
    let boot: Vec<usize> = (0..3).map(|_| world.add(&[])).collect();
    for i in 0..2 {
        let keys = (world.hosts[boot[i + 1]].key, ipop_sim::world::place(boot[i + 1]));
        world.with(boot[i], |r, now| r.add_contact(keys.0, vec![keys.1], true, now));
    }
    for i in 3..n {
        world.run_for(Duration::from_micros(1_000_000 / per_s));
        world.add(&boot);
        if i % (n / 10).max(1) == 0 {
            println!(
                "{} nodes at {:?}: {:?} wall {:?}",
                i,
                world.now.as_nanos() / 1_000_000_000,
                Consistency::of(&world),
                start.elapsed()
            );
        }
    }
    for _ in 0..6 {
        world.run_for(Duration::from_secs(10));
        println!(
            "{:?} {:?} wall {:?}",
            world.now.as_nanos() / 1_000_000_000,
            Consistency::of(&world),
            start.elapsed()
        );
    }
    world.run_for(Duration::from_secs(60));
    let reach = Reach::measure(&mut world, 2000, Duration::from_secs(5), Duration::from_secs(5));
    println!(
        "reach {:.4} hops {:.2} p99 {} stretch {:.2}",
        reach.share(),
        reach.mean_hops(),
        reach.hops_at(0.99),
        reach.median_stretch()
    );
    let meter = Meter::start(&world);
    world.run_for(Duration::from_secs(300));
    println!("{:?}", meter.read(&world));
    println!("{:?}", Consistency::of(&world));
    let mut totals = std::collections::BTreeMap::new();
    for id in world.up() {
        for c in Count::ALL {
            *totals.entry(c.name()).or_insert(0) += world.hosts[id].ring.counts().get(*c);
        }
    }
    println!("{totals:?} size {}", world.hosts[n / 2].ring.log2_size() as f64 / 256.0);
    println!("trace {:016x} events {} wall {:?}", world.trace(), world.events, start.elapsed());
}
