//! Whole runs, small enough for the debug build.

use std::time::Duration;

use ipop_sim::measure::{Consistency, Reach};
use ipop_sim::net::Conditions;
use ipop_sim::scenario::{self, Run, Scenario};
use ipop_sim::world::World;

fn scenario(name: &str) -> &'static Scenario {
    scenario::ALL.iter().find(|scenario| scenario.name == name).expect("a scenario of that name")
}

/// Everything but how long it took.
fn outcome(run: &Run) -> (String, u64, Vec<(&'static str, u64)>) {
    let figures = run.figures.iter().map(|figure| (figure.name, figure.value.to_bits())).collect();
    (run.trace.clone(), run.events, figures)
}

#[test]
fn a_run_is_the_same_each_time_and_another_with_another_seed() {
    for (name, nodes) in [("churn", 60), ("addresses", 12), ("leases", 12)] {
        let scenario = scenario(name);
        let [once, again, other] = [7, 7, 8].map(|seed| scenario.run(nodes, seed));
        assert_eq!(outcome(&once), outcome(&again), "{name}");
        assert_ne!(once.trace, other.trace, "{name}");
    }
}

#[test]
fn a_ring_forms_on_a_network_that_loses_repeats_and_reorders() {
    // Packets overtake each other by up to 150 ms.
    let conditions = Conditions {
        loss: 50_000,
        duplication: 50_000,
        jitter: Duration::from_millis(150),
        ..Conditions::WIDE
    };
    let mut world = World::new(3, conditions);
    scenario::grow(&mut world, 40);
    world.run_for(Duration::from_secs(120));
    let ring = Consistency::of(&world);
    assert!(ring.is_ring(), "{ring:?}");
    let reach = Reach::measure(&mut world, 400, Duration::from_secs(4), Duration::from_secs(5));
    // Some are lost twice: each hop loses one packet of twenty.
    assert!(reach.share() > 0.9, "{} of the pairs reach each other", reach.share());
}

#[test]
fn a_small_network_comes_through_everything() {
    for name in ["ring", "kill", "partition", "restart"] {
        let run = scenario(name).run(40, 1);
        assert!(run.holds(), "{run:#?}");
    }
}

#[test]
fn whole_nodes_come_through_everything() {
    for name in ["addresses", "collision", "twins", "clocks"] {
        let run = scenario(name).run(20, 1);
        assert!(run.holds(), "{run:#?}");
    }
}

#[test]
fn nodes_give_themselves_addresses_and_find_records() {
    for (name, nodes) in [("leases", 40), ("overlap", 30)] {
        let run = scenario(name).run(nodes, 1);
        assert!(run.holds(), "{run:#?}");
    }
}
