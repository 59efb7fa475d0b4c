//! Links by a relay: three hosts in a row, of which the one in the middle forwards, carries a direct link,
//! relays, or runs coturn. Owns that bed and what is made of its windows.
//!
//! Each way has a row of its own, all up at once, and its windows rotate with the others'.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::core::on_latency_core;
use super::icmp::Echo;
use super::load::Load;
use super::plan::Conditions;
use super::row::{self, FAR, Kernels, MIDDLE, Measured, NEAR, Row, Samples, WIRES};
use super::stats::{self, Summary};
use super::turn::{self, Server, Turn};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, PORT, Side};
use crate::daemon::{self, Daemon, Peer, SECRET, TempFolder};

const ECHO_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);

/// What was found. Ratios and differences are taken round by round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Relays {
    pub(crate) rows: Vec<RelayRow>,
    /// coturn's version, or why it was not measured.
    pub(crate) coturn: std::result::Result<String, String>,
    /// TCP by the relay by coturn's stream of datagrams.
    pub(crate) tcp_to_coturn: Option<Summary>,
    /// TCP by the relay by TCP by coturn.
    pub(crate) tcp_to_turned: Option<Summary>,
    /// What could not be measured, and why.
    pub(crate) problems: Vec<String>,
}

/// One way from the near host to the far one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RelayRow {
    pub(crate) way: &'static str,
    pub(crate) tcp_gbps: Option<Summary>,
    pub(crate) ping_us: Option<Summary>,
    pub(crate) tcp_to_forwarding: Option<Summary>,
    pub(crate) ping_added_to_direct_us: Option<Summary>,
    /// Packets on the kernel path by packets on either, both directions, both ends.
    pub(crate) kernel_hit_rate: Option<f64>,
}

impl Relays {
    fn row(&self, way: Way) -> Option<&RelayRow> {
        self.rows.iter().find(|row| row.way == way.label())
    }

    pub(crate) fn tcp_to_forwarding(&self) -> Option<Summary> {
        self.row(Way::Relay)?.tcp_to_forwarding
    }

    pub(crate) fn tcp_to_coturn(&self) -> Option<Summary> {
        self.tcp_to_coturn
    }

    pub(crate) fn tcp_to_turned(&self) -> Option<Summary> {
        self.tcp_to_turned
    }

    pub(crate) fn ping_added_to_direct(&self) -> Option<Summary> {
        self.row(Way::Relay)?.ping_added_to_direct_us
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The kernel of the middle host forwards.
    Forwarding,
    /// A sealed link from end to end, whose packets the middle host forwards.
    Direct,
    /// It forwards nothing, and relays.
    Relay,
    /// It runs coturn, by which the same link goes.
    Turned,
    /// It runs coturn, by which datagrams go, without a link.
    Coturn,
}

impl Way {
    const ALL: [Self; 5] = [Self::Forwarding, Self::Direct, Self::Relay, Self::Turned, Self::Coturn];

    fn label(self) -> &'static str {
        match self {
            Self::Forwarding => "bare forwarding",
            Self::Direct => "ipop sealed, direct",
            Self::Relay => "ipop sealed, by a relay",
            Self::Turned => "ipop sealed, by coturn",
            Self::Coturn => "coturn",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Forwarding => "fwd",
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Turned => "turned",
            Self::Coturn => "turn",
        }
    }
}

/// One way, ready to be measured. Parts are dropped in this order: sockets, daemons, hosts.
#[derive(Debug)]
struct Bed {
    way: Way,
    load: Ends,
    daemons: Option<Nodes>,
    _server: Option<Server>,
    row: Row,
}

#[derive(Debug)]
enum Ends {
    Ip(Box<Load>),
    Turn(Turn),
}

impl Measured for Bed {
    type Way = Way;

    fn set_up(way: Way, conditions: &Conditions, binaries: &Binaries) -> Result<Self> {
        let forwards = matches!(way, Way::Forwarding | Way::Direct);
        let row = Row::create(way.name(), Kernels { forwards, near_knows_far: true })?;
        let far: Ipv4Addr = FAR.parse().context("an address")?;
        if way == Way::Coturn {
            let mut server = Server::start(&row.middle, MIDDLE, None)?;
            let inside = MIDDLE[0].parse().context("an address")?;
            let turn = Turn::open(&mut server, &row.near, &row.far, inside, far)?;
            return Ok(Self { way, load: Ends::Turn(turn), daemons: None, _server: Some(server), row });
        }
        let account = turn::account(MIDDLE[0]);
        let server = (way == Way::Turned).then(|| Server::start(&row.middle, MIDDLE, Some(&account)));
        let server = server.transpose()?;
        let (daemons, target) = match way {
            Way::Forwarding | Way::Coturn => (None, far),
            Way::Direct | Way::Relay | Way::Turned => {
                let target = Side::Far.virtual_v4().parse().context("an address")?;
                (Some(Nodes::start(&row, way, binaries, target)?), target)
            }
        };
        let load = Load::open(&row.near, &row.far, target, &conditions.congestion_control)?;
        Ok(Self { way, load: Ends::Ip(Box::new(load)), daemons, _server: server, row })
    }

    fn way(&self) -> Way {
        self.way
    }

    fn label(way: Way) -> &'static str {
        way.label()
    }

    fn window(&mut self, conditions: &Conditions) -> Result<(f64, f64)> {
        let timing = conditions.timing;
        let (stream, exchanges) = match &mut self.load {
            Ends::Ip(load) => (
                load.tcp_stream(&self.row.near, timing.tcp_warm_up, timing.window)?,
                on_latency_core(|| load.ping_flood(timing.latency_window))?,
            ),
            Ends::Turn(turn) => (
                turn.stream(timing.tcp_warm_up, timing.window)?,
                on_latency_core(|| turn.exchange(timing.latency_window))?,
            ),
        };
        Ok((stream.per_second() * 8.0 / 1e9, exchanges.median_us))
    }
}

/// The nodes of one way.
#[derive(Debug)]
struct Nodes {
    near: Daemon,
    far: Daemon,
    _middle: Option<Daemon>,
    before: [Peer; 2],
    _folder: TempFolder,
}

impl Nodes {
    fn start(row: &Row, way: Way, binaries: &Binaries, target: Ipv4Addr) -> Result<Self> {
        let folder = TempFolder::create(row.near.name())?;
        let place = |name: &str| folder.0.join(name);
        let keys = ["near", "far", "middle"].map(|name| daemon::generate_key(binaries, &place(name)));
        let [near_key, far_key, middle_key] = keys;
        let (near_key, far_key, _) = (near_key?, far_key?, middle_key?);
        let is_relayed = matches!(way, Way::Relay | Way::Turned);
        let account = turn::account(MIDDLE[0]);
        let network = format!("bench-row-{}", way.name());
        let ways_in = MIDDLE.map(|address| [format!("udp://{address}:{PORT}")]);
        // With no member in the middle, the near node finds the far one by the server alone.
        let by_server = [format!("udp://{FAR}:{PORT}")];
        let (near_ways_in, far_ways_in): (&[String], &[String]) = match way {
            Way::Turned => (&by_server, &[]),
            _ => (&ways_in[0], &ways_in[1]),
        };
        let near = Node {
            side: Side::Near,
            folder: place("near"),
            network: &network,
            secret: SECRET,
            carried: Carried::Packets,
            wire_device: Some("p1"),
            wire_prefix: WIRES,
            peer_address: Some(FAR).filter(|_| !is_relayed),
            peer_key: Some(&far_key),
            bootstrap: is_relayed.then_some(near_ways_in),
            turn: (way == Way::Turned).then_some(&account),
            routing: None,
            datapath: Datapath::SEALED,
            callers: &[],
        };
        let far = Node {
            side: Side::Far,
            folder: place("far"),
            peer_address: Some(NEAR).filter(|_| !is_relayed),
            peer_key: Some(&near_key),
            bootstrap: is_relayed.then_some(far_ways_in),
            turn: None,
            ..near.clone()
        };
        let middle = Node {
            side: Side::Middle,
            folder: place("middle"),
            wire_device: None,
            peer_address: None,
            peer_key: None,
            bootstrap: Some(&[]),
            ..near.clone()
        };
        let middle =
            (way == Way::Relay).then(|| Daemon::start(binaries, &row.middle, &middle)).transpose()?;
        let mut near = Daemon::start(binaries, &row.near, &near)?;
        let mut far = Daemon::start(binaries, &row.far, &far)?;
        let path = if is_relayed { "relay" } else { "direct-kernel" };
        for daemon in [&mut near, &mut far] {
            daemon.wait_until(path, |control| {
                // A way is looked for where there is traffic.
                let answers = row.near.run(|| Echo::open(target, ECHO_TIMEOUT)?.exchange()).unwrap_or(false);
                let peer = control.peer()?;
                let is_in_kernel = way == Way::Turned || peer.path_reason.contains("sealed in the kernel");
                if peer.path != path || !is_in_kernel || !answers {
                    bail!("path is {}: {}", peer.path, peer.path_reason);
                }
                Ok(())
            })?;
        }
        let before = [near.control.peer()?, far.control.peer()?];
        Ok(Self { near, far, _middle: middle, before, _folder: folder })
    }

    fn kernel_hit_rate(&self) -> Result<Option<f64>> {
        let after = [self.near.control.peer()?, self.far.control.peer()?];
        Ok(daemon::traffic(&self.before, &after).kernel_share())
    }
}

/// How many windows [`measure`] reports.
pub(crate) fn progress_steps(conditions: &Conditions) -> u64 {
    row::progress_steps(Way::ALL.len(), conditions)
}

/// Sets all ways up, measures, tears down. What fails is told in the result.
pub(crate) fn measure(
    conditions: &Conditions,
    binaries: &Binaries,
    mut progress: impl FnMut(&str),
) -> Result<Relays> {
    let coturn = turn::version().map_err(|error| format!("{error:#}"));
    let mut problems = Vec::new();
    let can_be = |way: &Way| coturn.is_ok() || !matches!(way, Way::Coturn | Way::Turned);
    let ways = Way::ALL.into_iter().filter(can_be);
    let mut beds: Vec<Bed> = row::set_up(ways, conditions, binaries, "relays", &mut problems, &mut progress)?;
    let samples = row::samples(&mut beds, conditions, "relays", &mut problems, progress)?;
    let mut rates = BTreeMap::new();
    for bed in &beds {
        if let Some(daemons) = &bed.daemons {
            rates.insert(bed.way, daemons.kernel_hit_rate()?);
        }
    }
    let rows = rows(&samples, &rates);
    let [tcp_to_coturn, tcp_to_turned] = [Way::Coturn, Way::Turned].map(|way| to_other(&samples, way));
    Ok(Relays { rows, coturn, tcp_to_coturn, tcp_to_turned, problems })
}

fn rows(samples: &BTreeMap<Way, Samples>, rates: &BTreeMap<Way, Option<f64>>) -> Vec<RelayRow> {
    let of = |way: Way, figure: fn(&Samples) -> &Vec<f64>| samples.get(&way).map(figure);
    let row = |(way, ours): (&Way, &Samples)| RelayRow {
        way: way.label(),
        tcp_gbps: Summary::of(&ours.tcp),
        ping_us: Summary::of(&ours.ping),
        tcp_to_forwarding: of(Way::Forwarding, |s| &s.tcp).and_then(|base| stats::ratio(&ours.tcp, base)),
        ping_added_to_direct_us: of(Way::Direct, |s| &s.ping)
            .and_then(|base| stats::difference(&ours.ping, base)),
        kernel_hit_rate: rates.get(way).copied().flatten(),
    };
    samples.iter().map(row).collect()
}

/// TCP by the relay by what another way carries.
fn to_other(samples: &BTreeMap<Way, Samples>, other: Way) -> Option<Summary> {
    stats::ratio(&samples.get(&Way::Relay)?.tcp, &samples.get(&other)?.tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_held_against_forwarding_a_direct_link_and_coturn() {
        let mut all = BTreeMap::new();
        let samples = |tcp: f64, ping: f64| Samples { tcp: vec![tcp, f64::NAN], ping: vec![ping, ping] };
        all.insert(Way::Forwarding, samples(8.0, 20.0));
        all.insert(Way::Direct, samples(3.0, 30.0));
        all.insert(Way::Relay, samples(4.0, 33.0));
        all.insert(Way::Turned, samples(0.25, 120.0));
        all.insert(Way::Coturn, samples(0.5, 90.0));
        let rates = BTreeMap::from([(Way::Relay, Some(0.5))]);
        let found = Relays {
            rows: rows(&all, &rates),
            coturn: Ok("1".to_owned()),
            tcp_to_coturn: to_other(&all, Way::Coturn),
            tcp_to_turned: to_other(&all, Way::Turned),
            problems: Vec::new(),
        };
        let median = |summary: Option<Summary>| summary.map(|summary| summary.median);
        assert_eq!(median(found.tcp_to_forwarding()), Some(0.5));
        assert_eq!(median(found.tcp_to_coturn()), Some(8.0));
        assert_eq!(median(found.tcp_to_turned()), Some(16.0));
        assert_eq!(median(found.ping_added_to_direct()), Some(3.0));
        assert_eq!(found.rows[2].kernel_hit_rate, Some(0.5));
        assert_eq!(found.rows[0].kernel_hit_rate, None);
    }
}
