//! Hosts in a row: the bed of what has a host in the middle, and the order of its windows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::core::on_latency_core;
use super::lab::{self, PREFIX};
use super::load::Load;
use super::plan::Conditions;
use crate::build::Binaries;
use crate::netns::NetNs;
use crate::stop;

pub(crate) const NEAR: &str = "10.201.0.1";
pub(crate) const FAR: &str = "10.202.0.1";
/// The host in the middle, on either wire.
pub(crate) const MIDDLE: [&str; 2] = ["10.201.0.254", "10.202.0.254"];
/// The network of the far wire.
pub(crate) const FAR_NETWORK: &str = "10.202.0.0/24";
/// Both wires.
pub(crate) const WIRES: &str = "10.200.0.0/14";

/// Three hosts in a row, on two wires that are their own.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) near: NetNs,
    pub(crate) middle: NetNs,
    pub(crate) far: NetNs,
}

/// What the kernels do by themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernels {
    /// The middle one forwards.
    pub(crate) forwards: bool,
    /// The near one has a route to the far wire.
    pub(crate) near_knows_far: bool,
}

impl Row {
    pub(crate) fn create(name: &str, kernels: Kernels) -> Result<Self> {
        let host = |end: &str| {
            let host = NetNs::create(PREFIX, &format!("row-{name}-{end}"))?;
            lab::set_sysctls(&host)?;
            anyhow::Ok(host)
        };
        let row = Self { near: host("a")?, middle: host("m")?, far: host("b")? };
        for (end, device, address, via) in
            [(&row.near, "m1", NEAR, MIDDLE[0]), (&row.far, "m2", FAR, MIDDLE[1])]
        {
            end.ip(&format!("link add p1 type veth peer name {device} netns {}", row.middle.name()))?;
            row.middle.ip(&format!("address add {via}/24 dev {device}"))?;
            row.middle.ip(&format!("link set {device} up"))?;
            end.ip(&format!("address add {address}/24 dev p1"))?;
            end.ip("link set p1 up")?;
            if address == FAR || kernels.near_knows_far {
                end.ip(&format!("route add default via {via}"))?;
            }
        }
        row.middle.run(|| {
            let value = if kernels.forwards { "1" } else { "0" };
            std::fs::write("/proc/sys/net/ipv4/ip_forward", value).context("cannot set ip_forward")
        })?;
        Ok(row)
    }
}

/// One way from the near end of a row, ready to be measured.
pub(crate) trait Measured: Sized {
    type Way: Copy + Ord;

    fn set_up(way: Self::Way, conditions: &Conditions, binaries: &Binaries) -> Result<Self>;

    fn way(&self) -> Self::Way;

    fn label(way: Self::Way) -> &'static str;

    /// TCP in Gbit/s, and the median round trip in microseconds.
    fn window(&mut self, conditions: &Conditions) -> Result<(f64, f64)>;
}

/// By round; one without a figure is no number, and keeps its place.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) tcp: Vec<f64>,
    pub(crate) ping: Vec<f64>,
}

/// A bed for each way, all up at once. What fails is added to `problems`.
pub(crate) fn set_up<B: Measured>(
    ways: impl IntoIterator<Item = B::Way>,
    conditions: &Conditions,
    binaries: &Binaries,
    what: &str,
    problems: &mut Vec<String>,
    mut progress: impl FnMut(&str),
) -> Result<Vec<B>> {
    let mut beds = Vec::new();
    for way in ways {
        progress(&format!("{what}: setting up {}", B::label(way)));
        match B::set_up(way, conditions, binaries) {
            Ok(bed) => beds.push(bed),
            Err(error) => {
                stop::check()?;
                problems.push(format!("{}: {error:#}", B::label(way)));
            }
        }
    }
    Ok(beds)
}

/// Measures all beds in rounds whose order rotates; the first round warms up. What fails is added to `problems`.
pub(crate) fn samples<B: Measured>(
    beds: &mut [B],
    conditions: &Conditions,
    what: &str,
    problems: &mut Vec<String>,
    mut progress: impl FnMut(&str),
) -> Result<BTreeMap<B::Way, Samples>> {
    let mut samples: BTreeMap<B::Way, Samples> = BTreeMap::new();
    let count = beds.len().max(1);
    for round in 0..=conditions.timing.rounds {
        for place in 0..beds.len() {
            stop::check()?;
            let bed = &mut beds[(place + round) % count];
            progress(&format!("{what}: round {round} of {}", conditions.timing.rounds));
            let window = bed.window(conditions);
            if round == 0 {
                continue;
            }
            let samples = samples.entry(bed.way()).or_default();
            let (tcp, ping) = window.unwrap_or_else(|error| {
                problems.push(format!("{}, round {round}: {error:#}", B::label(bed.way())));
                (f64::NAN, f64::NAN)
            });
            samples.tcp.push(tcp);
            samples.ping.push(ping);
        }
    }
    Ok(samples)
}

/// A window of a TCP stream from the near host, in Gbit/s, and one of echoes, in us.
pub(crate) fn tcp_and_ping(load: &mut Load, row: &Row, conditions: &Conditions) -> Result<(f64, f64)> {
    let timing = conditions.timing;
    let stream = load.tcp_stream(&row.near, timing.tcp_warm_up, timing.window)?;
    let exchanges = on_latency_core(|| load.ping_flood(timing.latency_window))?;
    Ok((stream.per_second() * 8.0 / 1e9, exchanges.median_us))
}

/// How many times [`samples`] and the setting up before it report.
pub(crate) fn progress_steps(ways: usize, conditions: &Conditions) -> u64 {
    (ways * (conditions.timing.rounds + 2)) as u64
}
