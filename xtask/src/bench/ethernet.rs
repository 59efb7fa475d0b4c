//! A network that carries Ethernet: two hosts on a wire, stations of one switch. Owns that bed and what is made of its
//! windows.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::load::Load;
use super::plan::Conditions;
use super::row::{self, Bed, Kernels, Keys, MIDDLE, Measured, Nodes, Row, Samples, Wanted, Way as _};
use super::stats::{self, Summary};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Side};

/// What was found. Ratios are taken round by round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ethernet {
    pub(crate) rows: Vec<EthernetRow>,
    /// What could not be measured, and why.
    pub(crate) problems: Vec<String>,
}

/// One way between the two hosts.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EthernetRow {
    pub(crate) way: &'static str,
    pub(crate) tcp_gbps: Option<Summary>,
    pub(crate) ping_us: Option<Summary>,
    pub(crate) tcp_to_wire: Option<Summary>,
    /// Packets on the kernel path by packets on either, both directions, both ends.
    pub(crate) kernel_hit_rate: Option<f64>,
}

impl Ethernet {
    /// TCP in clear frames on the kernel path, by TCP over the bare wire.
    pub(crate) fn clear_to_wire(&self) -> Option<Summary> {
        self.rows.iter().find(|row| row.way == Way::Clear.label())?.tcp_to_wire
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Wire,
    Clear,
    Sealed,
    /// Clear, and carried by the daemons.
    User,
}

impl Way {
    const ALL: [Self; 4] = [Self::Wire, Self::Clear, Self::Sealed, Self::User];

    fn name(self) -> &'static str {
        match self {
            Self::Wire => "l2wire",
            Self::Clear => "l2clear",
            Self::Sealed => "l2seal",
            Self::User => "l2user",
        }
    }

    /// What carries the frames, and the path that is waited for.
    fn datapath(self) -> Option<(Datapath, &'static str)> {
        match self {
            Self::Wire => None,
            Self::Clear => Some((Datapath::CLEAR, "direct-kernel")),
            Self::Sealed => Some((Datapath::SEALED, "direct-kernel")),
            Self::User => Some((Datapath { kernel: "off", ..Datapath::CLEAR }, "direct-user")),
        }
    }
}

impl row::Way for Way {
    fn label(self) -> &'static str {
        match self {
            Self::Wire => "bare wire",
            Self::Clear => "ipop clear, frames by the kernel",
            Self::Sealed => "ipop sealed, frames",
            Self::User => "ipop clear, frames by the daemon",
        }
    }

    fn set_up(self, conditions: &Conditions, binaries: &Binaries) -> Result<Bed> {
        let row = Row::create(self.name(), Kernels { forwards: false, near_knows_far: false })?;
        let target = if self == Self::Wire { MIDDLE[0] } else { Side::Far.virtual_v4() };
        let target: Ipv4Addr = target.parse().context("an address")?;
        let nodes = self.datapath().map(|how| start(&row, how, binaries, target)).transpose()?;
        let load = Load::open(&row.near, &row.middle, target, &conditions.congestion_control)?;
        Ok(Bed::new(row, nodes, load))
    }
}

/// The nodes on both ends of the wire.
fn start(
    row: &Row,
    (datapath, path): (Datapath, &str),
    binaries: &Binaries,
    target: Ipv4Addr,
) -> Result<Nodes> {
    let keys = Keys::generate(row, binaries)?;
    let [near, far] = keys.nodes(Carried::Frames, datapath);
    let wanted = Wanted { path, security: datapath.link_security(), reason: "", target };
    Nodes::start(&row.near, [(&row.near, &near), (&row.middle, &far)], None, &keys, binaries, wanted)
}

/// How many times [`measure`] reports.
pub(crate) fn progress_steps(conditions: &Conditions) -> u64 {
    row::progress_steps(Way::ALL.len(), conditions)
}

/// Sets all ways up, measures, tears down. What fails is told in the result.
pub(crate) fn measure(
    conditions: &Conditions,
    binaries: &Binaries,
    progress: impl FnMut(&str),
) -> Result<Ethernet> {
    let measured = row::measure(Way::ALL, conditions, binaries, "ethernet", progress)?;
    Ok(Ethernet { rows: rows(&measured), problems: measured.problems })
}

fn rows(Measured { samples, hit_rates, .. }: &Measured<Way>) -> Vec<EthernetRow> {
    let to_wire = |ours: &Samples| stats::ratio(&ours.tcp, &samples.get(&Way::Wire)?.tcp);
    let row = |(way, ours): (&Way, &Samples)| EthernetRow {
        way: way.label(),
        tcp_gbps: Summary::of(&ours.tcp),
        ping_us: Summary::of(&ours.ping),
        tcp_to_wire: to_wire(ours),
        kernel_hit_rate: hit_rates.get(way).copied(),
    };
    samples.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn frames_are_held_against_the_wire() {
        let samples = |tcp: f64| Samples { tcp: vec![tcp, f64::NAN], ping: vec![1.0, 1.0] };
        let all = Measured {
            samples: BTreeMap::from([(Way::Wire, samples(8.0)), (Way::Clear, samples(6.0))]),
            hit_rates: BTreeMap::from([(Way::Clear, 0.5)]),
            problems: Vec::new(),
        };
        let found = Ethernet { rows: rows(&all), problems: Vec::new() };
        assert_eq!(found.clear_to_wire().map(|summary| summary.median), Some(0.75));
        assert_eq!((found.rows[1].kernel_hit_rate, found.rows[0].kernel_hit_rate), (Some(0.5), None));
    }
}
