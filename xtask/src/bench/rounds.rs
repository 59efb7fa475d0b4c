//! The measurement itself: short windows that rotate over all systems, in reversed order every
//! other round, so that whatever else the machine does hits all alike. Owns the order and the
//! raw samples; draws no conclusion.

use std::time::Duration;

use anyhow::{Result, bail};

use super::core::on_latency_core;
use super::lab::Testbed;
use super::load::{Exchanges, Load};
use super::machine::{CpuTime, TcpCounters};
use super::plan::{Conditions, Metric, System, Timing, Wire};
use crate::build::Binaries;
use crate::daemon::{self, Peer, Traffic};
use crate::stop;

/// Everything measured of one system on one wire.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) system: System,
    /// By metric, then by round. Shorter than the rounds where a window failed: a metric that has
    /// failed once is not measured again.
    samples: [Vec<f64>; Metric::ALL.len()],
    /// Datagrams of all floods.
    pub(crate) udp_sent: u64,
    pub(crate) udp_received: u64,
    /// Requests, of all kinds, that had no answer.
    pub(crate) lost_exchanges: u64,
    /// Counted by both daemons during all rounds.
    pub(crate) traffic: Option<Traffic>,
    /// At the receiver, during all rounds.
    pub(crate) out_of_order: Option<u64>,
    /// By the sender, during all rounds.
    pub(crate) retransmitted: Option<u64>,
    pub(crate) idle_bytes: Option<u64>,
    pub(crate) security: &'static str,
    /// What could not be measured, and why; one line each.
    pub(crate) problems: Vec<String>,
}

impl Record {
    fn new(system: System) -> Self {
        Self {
            system,
            samples: Default::default(),
            udp_sent: 0,
            udp_received: 0,
            lost_exchanges: 0,
            traffic: None,
            out_of_order: None,
            retransmitted: None,
            idle_bytes: None,
            // Of ipopd's rows, both daemons will tell.
            security: if system.product().is_some() { "sealed" } else { "clear" },
            problems: Vec::new(),
        }
    }

    pub(crate) fn samples(&self, metric: Metric) -> &[f64] {
        &self.samples[metric.index()]
    }

    #[cfg(test)]
    pub(crate) fn with_samples(system: System, samples: &[(Metric, &[f64])]) -> Self {
        let mut record = Self::new(system);
        for (metric, values) in samples {
            record.samples[metric.index()] = values.to_vec();
        }
        record
    }
}

/// A system that is up, with its record so far.
#[derive(Debug)]
struct Station {
    testbed: Testbed,
    record: Record,
    baseline: Option<Baseline>,
    /// Metrics whose sockets are in an unknown state after a failure.
    broken: Vec<Metric>,
}

/// Counters when the first counted round begins.
#[derive(Debug)]
struct Baseline {
    near_tcp: TcpCounters,
    far_tcp: TcpCounters,
    peers: Option<[Peer; 2]>,
}

/// Sets every system up on `wire`, measures, tears down. `progress` is told of every window.
pub(crate) fn measure(
    wire: Wire,
    systems: &[System],
    conditions: &Conditions,
    binaries: Option<&Binaries>,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Record>> {
    let timing = conditions.timing;
    let mut stations = Vec::new();
    let mut failed = Vec::new();
    for &system in systems {
        progress(&format!("{}: setting up {}", wire.name(), system.label()));
        stop::check()?;
        match Testbed::set_up(wire, system, conditions, binaries) {
            Ok(testbed) => stations.push(Station::new(system, testbed)),
            Err(error) => {
                stop::check()?;
                let mut record = Record::new(system);
                record.problems.push(format!("could not be set up: {error:#}"));
                failed.push(record);
            }
        }
    }
    // Round 0 warms connections, caches and neighbour tables, and is not counted.
    for round in 0..=timing.rounds {
        if round == 1 {
            stations.iter_mut().for_each(Station::begin);
        }
        for metric in Metric::WINDOWS {
            for place in 0..stations.len() {
                let place = if round % 2 == 0 { place } else { stations.len() - 1 - place };
                stop::check()?;
                stations[place].window(metric, timing, round > 0);
            }
            progress(&format!("{}: round {round} of {}", wire.name(), timing.rounds));
        }
    }
    let mut records: Vec<Record> = stations.into_iter().map(Station::finish).chain(failed).collect();
    records.sort_by_key(|record| record.system);
    Ok(records)
}

/// How many times `measure` reports progress.
pub(crate) fn progress_steps(systems: usize, timing: Timing) -> u64 {
    (systems + (timing.rounds + 1) * Metric::WINDOWS.len()) as u64
}

impl Station {
    fn new(system: System, testbed: Testbed) -> Self {
        let mut record = Record::new(system);
        record.idle_bytes = testbed.idle_bytes;
        Self { testbed, record, baseline: None, broken: Vec::new() }
    }

    fn begin(&mut self) {
        match self.read_counters() {
            Ok(baseline) => self.baseline = Some(baseline),
            Err(error) => self.record.problems.push(format!("counters: {error:#}")),
        }
    }

    fn read_counters(&self) -> Result<Baseline> {
        Ok(Baseline {
            near_tcp: TcpCounters::read(&self.testbed.pair.near)?,
            far_tcp: TcpCounters::read(&self.testbed.pair.far)?,
            peers: self.testbed.daemons.as_ref().map(|daemons| daemons.counters()).transpose()?,
        })
    }

    fn window(&mut self, metric: Metric, timing: Timing, counted: bool) {
        if self.broken.contains(&metric) {
            return;
        }
        match measure_window(&mut self.testbed, metric, timing) {
            Ok(window) if counted => self.keep(metric, &window),
            Ok(_) => {}
            Err(error) => {
                self.broken.push(metric);
                self.record.problems.push(format!("{}: {error:#}", metric.key()));
            }
        }
    }

    fn keep(&mut self, metric: Metric, window: &Window) {
        self.record.samples[metric.index()].push(window.value);
        self.record.lost_exchanges += window.lost;
        if let Some(udp) = &window.udp {
            self.record.samples[Metric::Cpu.index()].push(udp.cpu_us_per_packet);
            self.record.udp_sent += udp.sent;
            self.record.udp_received += udp.received;
        }
    }

    fn finish(mut self) -> Record {
        if let Some(baseline) = self.baseline.take() {
            match self.read_counters() {
                Ok(now) => self.compare(&baseline, &now),
                Err(error) => self.record.problems.push(format!("counters: {error:#}")),
            }
        }
        self.record
    }

    fn compare(&mut self, before: &Baseline, now: &Baseline) {
        self.record.out_of_order = Some(now.far_tcp.out_of_order - before.far_tcp.out_of_order);
        self.record.retransmitted = Some(now.near_tcp.retransmitted - before.near_tcp.retransmitted);
        if let (Some(before), Some(now)) = (&before.peers, &now.peers) {
            self.record.traffic = Some(daemon::traffic(before, now));
            self.record.security = if now[0].security == "sealed" { "sealed" } else { "clear" };
        }
    }
}

/// What one window has yielded, in the metric's unit.
#[derive(Debug)]
struct Window {
    value: f64,
    /// Requests without an answer.
    lost: u64,
    udp: Option<UdpExtras>,
}

#[derive(Debug)]
struct UdpExtras {
    cpu_us_per_packet: f64,
    sent: u64,
    received: u64,
}

fn measure_window(testbed: &mut Testbed, metric: Metric, timing: Timing) -> Result<Window> {
    let Testbed { load, pair, .. } = testbed;
    let latency = timing.latency_window;
    let exchanges = |found: Exchanges| Window { value: found.median_us, lost: found.lost, udp: None };
    Ok(match metric {
        Metric::Tcp => {
            let bytes_per_second =
                load.tcp_stream(&pair.near, timing.tcp_warm_up, timing.window)?.per_second();
            Window { value: bytes_per_second * 8.0 / 1e9, lost: 0, udp: None }
        }
        Metric::Ping => exchanges(on_latency_core(|| load.ping_flood(latency))?),
        Metric::TcpRr => exchanges(on_latency_core(|| load.tcp_exchange(latency))?),
        Metric::UdpRr => exchanges(on_latency_core(|| load.udp_exchange(latency))?),
        Metric::Udp64 | Metric::Cpu => udp_window(load, timing.window)?,
    })
}

fn udp_window(load: &mut Load, window: Duration) -> Result<Window> {
    let before = CpuTime::now()?;
    let flood = load.udp_flood(window)?;
    let busy_s = CpuTime::now()?.busy_seconds_since(&before);
    if flood.arrived == 0 {
        bail!("none of {} datagrams arrived", flood.sent);
    }
    let cpu_us_per_packet = busy_s * 1e6 / flood.arrived as f64;
    Ok(Window {
        value: flood.in_window.per_second() / 1e3,
        lost: 0,
        udp: Some(UdpExtras { cpu_us_per_packet, sent: flood.sent, received: flood.arrived }),
    })
}
