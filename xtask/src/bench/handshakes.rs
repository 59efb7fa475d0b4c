//! Handshakes: how many a node completes, and what floods of bogus ones leave of the throughput of an
//! established sealed link. Owns the order of the windows and what is made of them.
//!
//! The flood is made on the machine that it hits, and receiving and dropping it costs the far host's kernel
//! something whatever ipopd does. So each flood is held against two things: none at all, and the same flood
//! at a port of the far host that belongs to a socket which nobody reads. The second is what ipopd adds.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::callers::{self, Callers};
use super::lab;
use super::load::Load;
use super::machine;
use super::plan::{Conditions, FloodKind, System, Wire};
use super::stats::{self, Summary};
use crate::build::Binaries;
use crate::config::PORT;
use crate::daemon::{Daemons, SECRET};
use crate::netns::Pair;
use crate::stop;

/// One peer's initiations are taken 50 ms apart under load: so many make 5000 a second possible.
const CALLERS: usize = 256;
const FLOOD_PER_SECOND: u32 = 50_000;
/// Of the socket that nobody reads.
const UNREAD_PORT: u16 = 7999;

/// What was found. Ratios are taken round by round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Handshakes {
    /// Peers that call, and that the node has beside the one of the link.
    pub(crate) callers: usize,
    /// Handshakes completed, answer and confirmation included, per second of ipopd's CPU time.
    pub(crate) per_core_second: Option<Summary>,
    /// The same by the clock; the machine's cores are shared with who calls.
    pub(crate) per_second: Option<Summary>,
    /// Calls in all windows that were answered by a cookie first, or not at all.
    pub(crate) cookies: u64,
    pub(crate) lost: u64,
    pub(crate) flood_per_second: u32,
    pub(crate) floods: Vec<FloodRow>,
    /// What could not be measured, and why.
    pub(crate) problems: Vec<String>,
}

/// What one flood leaves of the throughput of the link.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FloodRow {
    pub(crate) flood: &'static str,
    /// Sent per second.
    pub(crate) rate: Option<Summary>,
    /// By no flood at all.
    pub(crate) tcp_to_none: Option<Summary>,
    pub(crate) udp64_to_none: Option<Summary>,
    /// By the flood at the port that nobody reads; `None` for that itself.
    pub(crate) tcp_to_unread: Option<Summary>,
    pub(crate) udp64_to_unread: Option<Summary>,
}

impl Handshakes {
    /// The least that a flood of the node has left, by the same flood at a port that nobody reads.
    pub(crate) fn least(&self, figure: fn(&FloodRow) -> Option<Summary>) -> Option<f64> {
        let floods = self.floods.iter().filter_map(|row| Some(figure(row)?.median));
        floods.min_by(f64::total_cmp)
    }
}

/// What goes on while throughput is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Calm,
    /// A flood at the port that nobody reads.
    Elsewhere,
    Flood(FloodKind),
}

impl Weather {
    const ALL: [Self; 5] = [
        Self::Calm,
        Self::Elsewhere,
        Self::Flood(FloodKind::Garbage),
        Self::Flood(FloodKind::Mac1),
        Self::Flood(FloodKind::Replay),
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Calm => "none",
            Self::Elsewhere => "at a port that nobody reads",
            Self::Flood(kind) => kind.label(),
        }
    }
}

/// By round.
#[derive(Debug, Default)]
struct Samples {
    tcp: Vec<f64>,
    udp: Vec<f64>,
    rate: Vec<f64>,
}

/// How many windows [`measure`] reports.
pub(crate) fn progress_steps(conditions: &Conditions) -> u64 {
    (1 + (conditions.timing.rounds + 1) * (1 + Weather::ALL.len())) as u64
}

/// Sets a sealed link up, measures, tears down. What fails is told in the result.
pub(crate) fn measure(
    conditions: &Conditions,
    binaries: &Binaries,
    callers: &Path,
    mut progress: impl FnMut(&str),
) -> Result<Handshakes> {
    let mut found = Handshakes {
        callers: CALLERS,
        per_core_second: None,
        per_second: None,
        cookies: 0,
        lost: 0,
        flood_per_second: FLOOD_PER_SECOND,
        floods: Vec::new(),
        problems: Vec::new(),
    };
    if let Err(error) = measure_into(&mut found, conditions, binaries, callers, &mut progress) {
        stop::check()?;
        found.problems.push(format!("{error:#}"));
    }
    Ok(found)
}

fn measure_into(
    found: &mut Handshakes,
    conditions: &Conditions,
    binaries: &Binaries,
    callers: &Path,
    progress: &mut impl FnMut(&str),
) -> Result<()> {
    progress("handshakes: setting up");
    let pair = lab::wired_pair(Wire::Offload, "handshakes")?;
    let datapath = System::Sealed.datapath().context("the sealed row has a data path")?;
    let keys = callers::keys(callers, CALLERS)?;
    let mut daemons = Daemons::start_with(binaries, &pair, "bench-handshakes", datapath, &keys)?;
    // The far one has more to say of all its peers than `wait_for_path` reads.
    daemons.near.wait_for_path(System::Sealed.peer_path(), datapath.link_security())?;
    let _unread = pair
        .far
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, UNREAD_PORT)).context("cannot open a UDP socket"))?;
    let mut callers = Callers::start(callers, &pair, PORT, &daemons.far_key, SECRET, CALLERS)?;
    rate(found, conditions, &daemons, &mut callers, progress)?;
    let mut load =
        Load::open(&pair.near, &pair.far, System::Sealed.target(), &conditions.congestion_control)?;
    floods(found, conditions, &pair, &mut load, &mut callers, progress)
}

fn rate(
    found: &mut Handshakes,
    conditions: &Conditions,
    daemons: &Daemons,
    callers: &mut Callers,
    progress: &mut impl FnMut(&str),
) -> Result<()> {
    let window = conditions.timing.handshake_window;
    let (mut per_core_second, mut per_second) = (Vec::new(), Vec::new());
    // In round 0 the node learns where its callers are.
    for round in 0..=conditions.timing.rounds {
        stop::check()?;
        let before = machine::process_seconds(daemons.far.pid())?;
        let called = callers.call(window)?;
        let busy = machine::process_seconds(daemons.far.pid())? - before;
        if round > 0 {
            per_core_second.push(called.completed as f64 / busy);
            per_second.push(called.completed as f64 / window.as_secs_f64());
            found.cookies += called.cookies;
            found.lost += called.lost;
        }
        progress(&format!("handshakes: window {round} of {}", conditions.timing.rounds));
    }
    found.per_core_second = Summary::of(&per_core_second);
    found.per_second = Summary::of(&per_second);
    Ok(())
}

fn floods(
    found: &mut Handshakes,
    conditions: &Conditions,
    pair: &Pair,
    load: &mut Load,
    callers: &mut Callers,
    progress: &mut impl FnMut(&str),
) -> Result<()> {
    let rounds = conditions.timing.rounds;
    let mut samples: BTreeMap<Weather, Samples> = BTreeMap::new();
    for round in 0..=rounds {
        let mut order = Weather::ALL;
        if round % 2 == 1 {
            order.reverse();
        }
        for weather in order {
            stop::check()?;
            match weather {
                Weather::Calm => {}
                Weather::Elsewhere => callers.flood(FloodKind::Garbage, UNREAD_PORT, FLOOD_PER_SECOND)?,
                Weather::Flood(kind) => callers.flood(kind, PORT, FLOOD_PER_SECOND)?,
            }
            let timing = conditions.timing;
            let tcp = load.tcp_stream(&pair.near, timing.tcp_warm_up, timing.window)?;
            let udp = load.udp_flood(timing.window)?;
            let flooded = (weather != Weather::Calm).then(|| callers.stop()).transpose()?;
            if round > 0 {
                let samples = samples.entry(weather).or_default();
                samples.tcp.push(tcp.per_second());
                samples.udp.push(udp.in_window.per_second());
                samples.rate.extend(flooded.map(|flooded| flooded.sent as f64 / flooded.seconds));
            }
            progress(&format!("floods: round {round} of {rounds}"));
        }
    }
    found.floods = flood_rows(&samples);
    Ok(())
}

fn flood_rows(samples: &BTreeMap<Weather, Samples>) -> Vec<FloodRow> {
    let by = |ours: &Samples, base: Weather, of: fn(&Samples) -> &Vec<f64>| {
        stats::ratio(of(ours), of(samples.get(&base)?))
    };
    let tcp: fn(&Samples) -> &Vec<f64> = |s| &s.tcp;
    let udp: fn(&Samples) -> &Vec<f64> = |s| &s.udp;
    let rows = samples.iter().filter(|(weather, _)| **weather != Weather::Calm);
    rows.map(|(weather, ours)| {
        let is_ours = *weather != Weather::Elsewhere;
        let to_unread = |of| by(ours, Weather::Elsewhere, of).filter(|_| is_ours);
        FloodRow {
            flood: weather.label(),
            rate: Summary::of(&ours.rate),
            tcp_to_none: by(ours, Weather::Calm, tcp),
            udp64_to_none: by(ours, Weather::Calm, udp),
            tcp_to_unread: to_unread(tcp),
            udp64_to_unread: to_unread(udp),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(tcp: &[f64], udp: &[f64]) -> Samples {
        Samples { tcp: tcp.to_vec(), udp: udp.to_vec(), rate: vec![50_000.0] }
    }

    #[test]
    fn a_flood_is_held_against_none_and_against_one_elsewhere() {
        let mut all = BTreeMap::new();
        all.insert(Weather::Calm, samples(&[10.0, 20.0], &[100.0, 100.0]));
        all.insert(Weather::Elsewhere, samples(&[9.0, 18.0], &[90.0, 90.0]));
        all.insert(Weather::Flood(FloodKind::Mac1), samples(&[9.0, 18.0], &[45.0, 45.0]));
        let rows = flood_rows(&all);
        let median = |summary: Option<Summary>| summary.map(|summary| summary.median);
        assert_eq!(rows.len(), 2);
        assert_eq!((median(rows[0].tcp_to_none), median(rows[0].tcp_to_unread)), (Some(0.9), None));
        assert_eq!((median(rows[1].tcp_to_none), median(rows[1].tcp_to_unread)), (Some(0.9), Some(1.0)));
        assert_eq!((median(rows[1].udp64_to_none), median(rows[1].udp64_to_unread)), (Some(0.45), Some(0.5)));
    }
}
