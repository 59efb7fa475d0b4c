//! A network that carries Ethernet: two hosts on a wire, stations of one switch. Owns that bed and what is made of its
//! windows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::icmp::Echo;
use super::load::Load;
use super::plan::Conditions;
use super::row::{self, Kernels, MIDDLE, Measured, NEAR, Row, Samples, WIRES};
use super::stats::{self, Summary};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, Side};
use crate::daemon::{self, Daemon, Peer, SECRET, TempFolder};

const ECHO_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);

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

    fn label(self) -> &'static str {
        match self {
            Self::Wire => "bare wire",
            Self::Clear => "ipop clear, frames by the kernel",
            Self::Sealed => "ipop sealed, frames",
            Self::User => "ipop clear, frames by the daemon",
        }
    }

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

/// One way, ready to be measured. Parts are dropped in this order: sockets, daemons, hosts.
#[derive(Debug)]
struct Bed {
    way: Way,
    load: Box<Load>,
    daemons: Option<Nodes>,
    row: Row,
}

impl Measured for Bed {
    type Way = Way;

    fn set_up(way: Way, conditions: &Conditions, binaries: &Binaries) -> Result<Self> {
        let row = Row::create(way.name(), Kernels { forwards: false, near_knows_far: false })?;
        let target = if way == Way::Wire { MIDDLE[0] } else { Side::Far.virtual_v4() };
        let target: Ipv4Addr = target.parse().context("an address")?;
        let daemons = way.datapath().map(|how| Nodes::start(&row, way, how, binaries, target)).transpose()?;
        let load = Box::new(Load::open(&row.near, &row.middle, target, &conditions.congestion_control)?);
        Ok(Self { way, load, daemons, row })
    }

    fn way(&self) -> Way {
        self.way
    }

    fn label(way: Way) -> &'static str {
        way.label()
    }

    fn window(&mut self, conditions: &Conditions) -> Result<(f64, f64)> {
        row::tcp_and_ping(&mut self.load, &self.row, conditions)
    }
}

/// The nodes on both ends of the wire.
#[derive(Debug)]
struct Nodes {
    near: Daemon,
    far: Daemon,
    before: [Peer; 2],
    _folder: TempFolder,
}

impl Nodes {
    fn start(
        row: &Row,
        way: Way,
        (datapath, path): (Datapath, &str),
        binaries: &Binaries,
        target: Ipv4Addr,
    ) -> Result<Self> {
        let folder = TempFolder::create(row.near.name())?;
        let place = |name: &str| folder.0.join(name);
        let key = |name: &str| daemon::generate_key(binaries, &place(name));
        let (near_key, far_key) = (key("near")?, key("far")?);
        let near = Node {
            side: Side::Near,
            folder: place("near"),
            network: &format!("bench-row-{}", way.name()),
            secret: SECRET,
            carried: Carried::Frames,
            wire_device: Some("p1"),
            wire_prefix: WIRES,
            peer_address: Some(MIDDLE[0]),
            peer_key: Some(&far_key),
            bootstrap: Some(&[]),
            turn: None,
            routing: None,
            datapath,
            callers: &[],
        };
        let far = Node {
            side: Side::Far,
            folder: place("far"),
            wire_device: Some("m1"),
            peer_address: Some(NEAR),
            peer_key: Some(&near_key),
            ..near.clone()
        };
        let mut far = Daemon::start(binaries, &row.middle, &far)?;
        let mut near = Daemon::start(binaries, &row.near, &near)?;
        for daemon in [&mut near, &mut far] {
            daemon.wait_until("a path to the other station", |control| {
                let peer = control.peer()?;
                let answers = row.near.run(|| Echo::open(target, ECHO_TIMEOUT)?.exchange()).unwrap_or(false);
                if peer.path != path || peer.security != datapath.link_security() || !answers {
                    bail!("path is {}, {}: {}", peer.path, peer.security, peer.path_reason);
                }
                Ok(())
            })?;
        }
        let before = [near.control.peer()?, far.control.peer()?];
        Ok(Self { near, far, before, _folder: folder })
    }

    fn kernel_hit_rate(&self) -> Result<Option<f64>> {
        let after = [self.near.control.peer()?, self.far.control.peer()?];
        Ok(daemon::traffic(&self.before, &after).kernel_share())
    }
}

/// How many times [`measure`] reports.
pub(crate) fn progress_steps(conditions: &Conditions) -> u64 {
    row::progress_steps(Way::ALL.len(), conditions)
}

/// Sets all ways up, measures, tears down. What fails is told in the result.
pub(crate) fn measure(
    conditions: &Conditions,
    binaries: &Binaries,
    mut progress: impl FnMut(&str),
) -> Result<Ethernet> {
    let mut problems = Vec::new();
    let mut beds: Vec<Bed> =
        row::set_up(Way::ALL, conditions, binaries, "ethernet", &mut problems, &mut progress)?;
    let samples = row::samples(&mut beds, conditions, "ethernet", &mut problems, progress)?;
    let mut rates = BTreeMap::new();
    for bed in &beds {
        if let Some(daemons) = &bed.daemons {
            rates.insert(bed.way, daemons.kernel_hit_rate()?);
        }
    }
    Ok(Ethernet { rows: rows(&samples, &rates), problems })
}

fn rows(samples: &BTreeMap<Way, Samples>, rates: &BTreeMap<Way, Option<f64>>) -> Vec<EthernetRow> {
    let to_wire = |ours: &Samples| stats::ratio(&ours.tcp, &samples.get(&Way::Wire)?.tcp);
    let row = |(way, ours): (&Way, &Samples)| EthernetRow {
        way: way.label(),
        tcp_gbps: Summary::of(&ours.tcp),
        ping_us: Summary::of(&ours.ping),
        tcp_to_wire: to_wire(ours),
        kernel_hit_rate: rates.get(way).copied().flatten(),
    };
    samples.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_held_against_the_wire() {
        let samples = |tcp: f64| Samples { tcp: vec![tcp, f64::NAN], ping: vec![1.0, 1.0] };
        let all = BTreeMap::from([(Way::Wire, samples(8.0)), (Way::Clear, samples(6.0))]);
        let rates = BTreeMap::from([(Way::Clear, Some(0.5))]);
        let found = Ethernet { rows: rows(&all, &rates), problems: Vec::new() };
        assert_eq!(found.clear_to_wire().map(|summary| summary.median), Some(0.75));
        assert_eq!((found.rows[1].kernel_hit_rate, found.rows[0].kernel_hit_rate), (Some(0.5), None));
    }
}
