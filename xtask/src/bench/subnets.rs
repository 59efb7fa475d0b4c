//! A network behind a node: three hosts in a row, of which the last runs nothing of ours, and the one in the middle is
//! its router. Owns that bed and what is made of its windows.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::load::Load;
use super::plan::Conditions;
use super::row::{
    self, Bed, FAR, FAR_NETWORK, Kernels, Keys, MIDDLE, Measured, Nodes, Row, Samples, Wanted, Way as _,
};
use super::stats::{self, Summary};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, Routing};

/// What was found. Ratios are taken round by round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Subnets {
    pub(crate) rows: Vec<SubnetRow>,
    /// What could not be measured, and why.
    pub(crate) problems: Vec<String>,
}

/// One way from the near host.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SubnetRow {
    pub(crate) way: &'static str,
    pub(crate) tcp_gbps: Option<Summary>,
    pub(crate) ping_us: Option<Summary>,
    pub(crate) tcp_to_wire: Option<Summary>,
    pub(crate) tcp_to_forwarding: Option<Summary>,
    /// Packets on the kernel path by packets on either, both directions, both ends.
    pub(crate) kernel_hit_rate: Option<f64>,
}

impl Subnets {
    /// TCP to a host behind a router over a clear link, by TCP over one bare wire.
    pub(crate) fn clear_to_wire(&self) -> Option<Summary> {
        self.rows.iter().find(|row| row.way == Way::Clear.label())?.tcp_to_wire
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The near host and the middle one, on the wire between them.
    Wire,
    /// The near host and the far one: the kernel in the middle forwards.
    Forwarding,
    /// The same by a link of ours as far as the middle, which announces the far wire.
    Clear,
    Sealed,
}

impl Way {
    const ALL: [Self; 4] = [Self::Wire, Self::Forwarding, Self::Clear, Self::Sealed];

    fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Forwarding => "nofwd",
            Self::Clear => "clear",
            Self::Sealed => "seal",
        }
    }

    fn datapath(self) -> Option<Datapath> {
        match self {
            Self::Wire | Self::Forwarding => None,
            Self::Clear => Some(Datapath::CLEAR),
            Self::Sealed => Some(Datapath::SEALED),
        }
    }
}

impl row::Way for Way {
    fn label(self) -> &'static str {
        match self {
            Self::Wire => "bare wire",
            Self::Forwarding => "bare forwarding",
            Self::Clear => "ipop clear, to a subnet",
            Self::Sealed => "ipop sealed, to a subnet",
        }
    }

    fn set_up(self, conditions: &Conditions, binaries: &Binaries) -> Result<Bed> {
        // Where the subnet is reached by a link, nothing else is to lead there.
        let near_knows_far = self.datapath().is_none();
        let row = Row::create(self.name(), Kernels { forwards: true, near_knows_far })?;
        let (target, end) = match self {
            Self::Wire => (MIDDLE[0], &row.middle),
            _ => (FAR, &row.far),
        };
        let target: Ipv4Addr = target.parse().context("an address")?;
        let nodes = self.datapath().map(|datapath| start(&row, datapath, binaries, target)).transpose()?;
        let load = Load::open(&row.near, end, target, &conditions.congestion_control)?;
        Ok(Bed::new(row, nodes, load))
    }
}

/// The near node, and the middle one as router.
fn start(row: &Row, datapath: Datapath, binaries: &Binaries, target: Ipv4Addr) -> Result<Nodes> {
    let keys = Keys::generate(row, binaries)?;
    let [near, router] = keys.nodes(Carried::Packets, datapath);
    let near = Node { routing: Some(Routing::Accept(FAR_NETWORK)), ..near };
    let router = Node { routing: Some(Routing::Announce(FAR_NETWORK)), ..router };
    let wanted = Wanted { path: "direct-kernel", security: datapath.link_security(), reason: "", target };
    Nodes::start(&row.near, [(&row.near, &near), (&row.middle, &router)], None, &keys, binaries, wanted)
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
) -> Result<Subnets> {
    let measured = row::measure(Way::ALL, conditions, binaries, "subnets", progress)?;
    Ok(Subnets { rows: rows(&measured), problems: measured.problems })
}

fn rows(Measured { samples, hit_rates, .. }: &Measured<Way>) -> Vec<SubnetRow> {
    let to = |ours: &Samples, way: Way| stats::ratio(&ours.tcp, &samples.get(&way)?.tcp);
    let row = |(way, ours): (&Way, &Samples)| SubnetRow {
        way: way.label(),
        tcp_gbps: Summary::of(&ours.tcp),
        ping_us: Summary::of(&ours.ping),
        tcp_to_wire: to(ours, Way::Wire),
        tcp_to_forwarding: to(ours, Way::Forwarding),
        kernel_hit_rate: hit_rates.get(way).copied(),
    };
    samples.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_subnet_is_held_against_the_wire_and_forwarding() {
        let samples = |tcp: f64| Samples { tcp: vec![tcp, f64::NAN], ping: vec![1.0, 1.0] };
        let all = Measured {
            samples: BTreeMap::from([
                (Way::Wire, samples(8.0)),
                (Way::Forwarding, samples(4.0)),
                (Way::Clear, samples(6.0)),
            ]),
            hit_rates: BTreeMap::from([(Way::Clear, 0.5)]),
            problems: Vec::new(),
        };
        let found = Subnets { rows: rows(&all), problems: Vec::new() };
        assert_eq!(found.clear_to_wire().map(|summary| summary.median), Some(0.75));
        assert_eq!(found.rows[2].tcp_to_forwarding.map(|summary| summary.median), Some(1.5));
        assert_eq!((found.rows[2].kernel_hit_rate, found.rows[0].kernel_hit_rate), (Some(0.5), None));
    }
}
