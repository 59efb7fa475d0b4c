//! Links by a relay: three hosts in a row, of which the one in the middle forwards, carries a direct link,
//! relays, or runs coturn. Owns that bed and what is made of its windows.
//!
//! Each way has a row of its own, all up at once, and its windows rotate with the others'.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::load::Load;
use super::plan::Conditions;
use super::row::{self, Bed, FAR, Kernels, Keys, MIDDLE, Measured, Nodes, Row, Samples, Wanted, Way as _};
use super::stats::{self, Summary};
use super::turn::{self, Server, Turn};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, PORT, Side};
use crate::daemon::Daemon;

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

impl row::Way for Way {
    fn label(self) -> &'static str {
        match self {
            Self::Forwarding => "bare forwarding",
            Self::Direct => "ipop sealed, direct",
            Self::Relay => "ipop sealed, by a relay",
            Self::Turned => "ipop sealed, by coturn",
            Self::Coturn => "coturn",
        }
    }

    fn set_up(self, conditions: &Conditions, binaries: &Binaries) -> Result<Bed> {
        let forwards = matches!(self, Self::Forwarding | Self::Direct);
        let row = Row::create(self.name(), Kernels { forwards, near_knows_far: true })?;
        let far: Ipv4Addr = FAR.parse().context("an address")?;
        if self == Self::Coturn {
            let mut server = Server::start(&row.middle, MIDDLE, None)?;
            let inside = MIDDLE[0].parse().context("an address")?;
            let turn = Turn::open(&mut server, &row.near, &row.far, inside, far)?;
            return Ok(Bed::new(row, None, turn).with(Some(server)));
        }
        let account = turn::account(MIDDLE[0]);
        let server = (self == Self::Turned).then(|| Server::start(&row.middle, MIDDLE, Some(&account)));
        let server = server.transpose()?;
        let (nodes, target) = if self == Self::Forwarding {
            (None, far)
        } else {
            let target = Side::Far.virtual_v4().parse().context("an address")?;
            (Some(self.start(&row, binaries, target)?), target)
        };
        let load = Load::open(&row.near, &row.far, target, &conditions.congestion_control)?;
        Ok(Bed::new(row, nodes, load).with(server))
    }
}

impl Way {
    /// The nodes on both ends of the row, and what is between them.
    fn start(self, row: &Row, binaries: &Binaries, target: Ipv4Addr) -> Result<Nodes> {
        let keys = Keys::generate(row, binaries)?;
        let is_relayed = matches!(self, Self::Relay | Self::Turned);
        let account = turn::account(MIDDLE[0]);
        let ways_in = MIDDLE.map(|address| [format!("udp://{address}:{PORT}")]);
        // With no member in the middle, the near node finds the far one by the server alone.
        let by_server = [format!("udp://{FAR}:{PORT}")];
        let (near_ways_in, far_ways_in): (&[String], &[String]) = match self {
            Self::Turned => (&by_server, &[]),
            _ => (&ways_in[0], &ways_in[1]),
        };
        let [near, far] = keys.nodes(Carried::Packets, Datapath::SEALED);
        let near = Node {
            peer_address: Some(FAR).filter(|_| !is_relayed),
            bootstrap: is_relayed.then_some(near_ways_in),
            turn: (self == Self::Turned).then_some(&account),
            ..near
        };
        let far = Node {
            wire_device: near.wire_device,
            peer_address: far.peer_address.filter(|_| !is_relayed),
            bootstrap: is_relayed.then_some(far_ways_in),
            ..far
        };
        let relay = (self == Self::Relay).then(|| keys.relay(&near, binaries)).transpose()?;
        let relay = relay.map(|relay| Daemon::start(binaries, &row.middle, &relay)).transpose()?;
        let wanted = Wanted {
            path: if is_relayed { "relay" } else { "direct-kernel" },
            security: Datapath::SEALED.link_security(),
            reason: if self == Self::Turned { "" } else { "sealed in the kernel" },
            target,
        };
        let ends = [(&row.near, &near), (&row.far, &far)];
        Nodes::start(&row.near, ends, relay, &keys, binaries, wanted)
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
    progress: impl FnMut(&str),
) -> Result<Relays> {
    let coturn = turn::version().map_err(|error| format!("{error:#}"));
    let can_be = |way: &Way| coturn.is_ok() || !matches!(way, Way::Coturn | Way::Turned);
    let ways = Way::ALL.into_iter().filter(can_be);
    let measured = row::measure(ways, conditions, binaries, "relays", progress)?;
    let rows = rows(&measured);
    let [tcp_to_coturn, tcp_to_turned] =
        [Way::Coturn, Way::Turned].map(|way| to_other(&measured.samples, way));
    Ok(Relays { rows, coturn, tcp_to_coturn, tcp_to_turned, problems: measured.problems })
}

fn rows(Measured { samples, hit_rates, .. }: &Measured<Way>) -> Vec<RelayRow> {
    let of = |way: Way, figure: fn(&Samples) -> &Vec<f64>| samples.get(&way).map(figure);
    let row = |(way, ours): (&Way, &Samples)| RelayRow {
        way: way.label(),
        tcp_gbps: Summary::of(&ours.tcp),
        ping_us: Summary::of(&ours.ping),
        tcp_to_forwarding: of(Way::Forwarding, |s| &s.tcp).and_then(|base| stats::ratio(&ours.tcp, base)),
        ping_added_to_direct_us: of(Way::Direct, |s| &s.ping)
            .and_then(|base| stats::difference(&ours.ping, base)),
        kernel_hit_rate: hit_rates.get(way).copied(),
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
        let hit_rates = BTreeMap::from([(Way::Relay, 0.5)]);
        let all = Measured { samples: all, hit_rates, problems: Vec::new() };
        let found = Relays {
            rows: rows(&all),
            coturn: Ok("1".to_owned()),
            tcp_to_coturn: to_other(&all.samples, Way::Coturn),
            tcp_to_turned: to_other(&all.samples, Way::Turned),
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
