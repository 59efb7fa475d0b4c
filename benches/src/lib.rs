//! What the benches share: how long they measure, the node that they measure, and the programs in
//! the kernel with a stopwatch. The benches themselves are in `benches/`.
//!
//! Packets, tables and the loading of the programs are the tests' own files: one way to load them.

pub mod node;
#[path = "../../tests/src/packet.rs"]
pub mod packet;
#[path = "../../tests/src/programs.rs"]
pub mod programs;
#[path = "../../tests/src/sealed.rs"]
pub mod sealed;
pub mod stopwatch;
#[path = "../../tests/src/world.rs"]
pub mod world;

use std::time::Duration;

use criterion::Criterion;

/// All benches together take about a minute. For a difference of few per cent, give more:
/// `cargo bench -p ipop-benches -- --measurement-time 10`.
pub fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(50)
}
