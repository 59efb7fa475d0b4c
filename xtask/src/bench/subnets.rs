//! A network behind a node: three hosts in a row, of which the last runs nothing of ours, and the one in the middle is
//! its router. Owns that bed and what is made of its windows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::icmp::Echo;
use super::load::Load;
use super::plan::Conditions;
use super::row::{self, FAR, FAR_NETWORK, Kernels, MIDDLE, Measured, NEAR, Row, Samples, WIRES};
use super::stats::{self, Summary};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, Routing, Side};
use crate::daemon::{self, Daemon, Peer, SECRET, TempFolder};

const ECHO_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);

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

    fn label(self) -> &'static str {
        match self {
            Self::Wire => "bare wire",
            Self::Forwarding => "bare forwarding",
            Self::Clear => "ipop clear, to a subnet",
            Self::Sealed => "ipop sealed, to a subnet",
        }
    }

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
        // Where the subnet is reached by a link, nothing else is to lead there.
        let near_knows_far = way.datapath().is_none();
        let row = Row::create(way.name(), Kernels { forwards: true, near_knows_far })?;
        let (target, end) = match way {
            Way::Wire => (MIDDLE[0], &row.middle),
            _ => (FAR, &row.far),
        };
        let target: Ipv4Addr = target.parse().context("an address")?;
        let daemons = way.datapath().map(|datapath| Nodes::start(&row, way, datapath, binaries, target));
        let daemons = daemons.transpose()?;
        let load = Box::new(Load::open(&row.near, end, target, &conditions.congestion_control)?);
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

/// The near node and the router.
#[derive(Debug)]
struct Nodes {
    near: Daemon,
    router: Daemon,
    before: [Peer; 2],
    _folder: TempFolder,
}

impl Nodes {
    fn start(row: &Row, way: Way, datapath: Datapath, binaries: &Binaries, target: Ipv4Addr) -> Result<Self> {
        let folder = TempFolder::create(row.near.name())?;
        let place = |name: &str| folder.0.join(name);
        let key = |name: &str| daemon::generate_key(binaries, &place(name));
        let (near_key, router_key) = (key("near")?, key("router")?);
        let near = Node {
            side: Side::Near,
            folder: place("near"),
            network: &format!("bench-row-{}", way.name()),
            secret: SECRET,
            carried: Carried::Packets,
            wire_device: Some("p1"),
            wire_prefix: WIRES,
            peer_address: Some(MIDDLE[0]),
            peer_key: Some(&router_key),
            bootstrap: Some(&[]),
            turn: None,
            routing: Some(Routing::Accept(FAR_NETWORK)),
            datapath,
            callers: &[],
        };
        let router = Node {
            side: Side::Far,
            folder: place("router"),
            wire_device: Some("m1"),
            peer_address: Some(NEAR),
            peer_key: Some(&near_key),
            routing: Some(Routing::Announce(FAR_NETWORK)),
            ..near.clone()
        };
        let mut router = Daemon::start(binaries, &row.middle, &router)?;
        let mut near = Daemon::start(binaries, &row.near, &near)?;
        for daemon in [&mut near, &mut router] {
            daemon.wait_until("a path to the subnet", |control| {
                let peer = control.peer()?;
                let answers = row.near.run(|| Echo::open(target, ECHO_TIMEOUT)?.exchange()).unwrap_or(false);
                if peer.path != "direct-kernel" || peer.security != datapath.link_security() || !answers {
                    bail!("path is {}, {}: {}", peer.path, peer.security, peer.path_reason);
                }
                Ok(())
            })?;
        }
        let before = [near.control.peer()?, router.control.peer()?];
        Ok(Self { near, router, before, _folder: folder })
    }

    fn kernel_hit_rate(&self) -> Result<Option<f64>> {
        let after = [self.near.control.peer()?, self.router.control.peer()?];
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
) -> Result<Subnets> {
    let mut problems = Vec::new();
    let mut beds: Vec<Bed> =
        row::set_up(Way::ALL, conditions, binaries, "subnets", &mut problems, &mut progress)?;
    let samples = row::samples(&mut beds, conditions, "subnets", &mut problems, progress)?;
    let mut rates = BTreeMap::new();
    for bed in &beds {
        if let Some(daemons) = &bed.daemons {
            rates.insert(bed.way, daemons.kernel_hit_rate()?);
        }
    }
    Ok(Subnets { rows: rows(&samples, &rates), problems })
}

fn rows(samples: &BTreeMap<Way, Samples>, rates: &BTreeMap<Way, Option<f64>>) -> Vec<SubnetRow> {
    let to = |ours: &Samples, way: Way| stats::ratio(&ours.tcp, &samples.get(&way)?.tcp);
    let row = |(way, ours): (&Way, &Samples)| SubnetRow {
        way: way.label(),
        tcp_gbps: Summary::of(&ours.tcp),
        ping_us: Summary::of(&ours.ping),
        tcp_to_wire: to(ours, Way::Wire),
        tcp_to_forwarding: to(ours, Way::Forwarding),
        kernel_hit_rate: rates.get(way).copied().flatten(),
    };
    samples.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_held_against_the_wire_and_forwarding() {
        let samples = |tcp: f64| Samples { tcp: vec![tcp, f64::NAN], ping: vec![1.0, 1.0] };
        let all = BTreeMap::from([
            (Way::Wire, samples(8.0)),
            (Way::Forwarding, samples(4.0)),
            (Way::Clear, samples(6.0)),
        ]);
        let rates = BTreeMap::from([(Way::Clear, Some(0.5))]);
        let found = Subnets { rows: rows(&all, &rates), problems: Vec::new() };
        assert_eq!(found.clear_to_wire().map(|summary| summary.median), Some(0.75));
        assert_eq!(found.rows[2].tcp_to_forwarding.map(|summary| summary.median), Some(1.5));
        assert_eq!((found.rows[2].kernel_hit_rate, found.rows[0].kernel_hit_rate), (Some(0.5), None));
    }
}
