//! Hosts in a row: the bed of what has a host in the middle, the nodes on them, and the order of the windows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::core::on_latency_core;
use super::icmp::Echo;
use super::lab::{self, PREFIX};
use super::load::Load;
use super::plan::Conditions;
use super::turn::{Server, Turn};
use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, Side};
use crate::daemon::{self, Daemon, Peer, SECRET, TempFolder};
use crate::netns::NetNs;
use crate::stop;

/// How long an echo may be on its way before another is sent.
const ECHO_TIMEOUT: Duration = Duration::from_millis(200);

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

/// One way from the near end of a row.
pub(crate) trait Way: Copy + Ord {
    fn label(self) -> &'static str;

    fn set_up(self, conditions: &Conditions, binaries: &Binaries) -> Result<Bed>;
}

/// What a way is measured on. Parts are dropped in this order: sockets, daemons, servers, hosts.
pub(crate) struct Bed {
    load: Box<dyn Window>,
    nodes: Option<Nodes>,
    _server: Option<Server>,
    row: Row,
}

impl Bed {
    pub(crate) fn new(row: Row, nodes: Option<Nodes>, load: impl Window + 'static) -> Self {
        Self { load: Box::new(load), nodes, _server: None, row }
    }

    /// With what runs in the middle.
    pub(crate) fn with(self, server: Option<Server>) -> Self {
        Self { _server: server, ..self }
    }
}

/// What is sent along a way.
pub(crate) trait Window {
    /// TCP, or what stands for it, in Gbit/s, and the median round trip in microseconds.
    fn window(&mut self, row: &Row, conditions: &Conditions) -> Result<(f64, f64)>;
}

impl Window for Load {
    fn window(&mut self, row: &Row, conditions: &Conditions) -> Result<(f64, f64)> {
        let timing = conditions.timing;
        let stream = self.tcp_stream(&row.near, timing.tcp_warm_up, timing.window)?;
        let exchanges = on_latency_core(|| self.ping_flood(timing.latency_window))?;
        Ok((stream.per_second() * 8.0 / 1e9, exchanges.median_us))
    }
}

impl Window for Turn {
    fn window(&mut self, _row: &Row, conditions: &Conditions) -> Result<(f64, f64)> {
        let timing = conditions.timing;
        let stream = self.stream(timing.tcp_warm_up, timing.window)?;
        let exchanges = on_latency_core(|| self.exchange(timing.latency_window))?;
        Ok((stream.per_second() * 8.0 / 1e9, exchanges.median_us))
    }
}

/// The two nodes of a way, and who relays between them.
#[derive(Debug)]
pub(crate) struct Nodes {
    ends: [Daemon; 2],
    _relay: Option<Daemon>,
    /// What the ends had counted when the way was there.
    before: [Peer; 2],
    _folder: Rc<TempFolder>,
}

/// What is made before nodes start: where they live, and the keys by which they know each other.
#[derive(Debug)]
pub(crate) struct Keys {
    folder: Rc<TempFolder>,
    network: String,
    near: String,
    far: String,
}

impl Keys {
    pub(crate) fn generate(row: &Row, binaries: &Binaries) -> Result<Self> {
        let folder = Rc::new(TempFolder::create(row.near.name())?);
        let key = |name: &str| daemon::generate_key(binaries, &folder.0.join(name));
        let (near, far) = (key("near")?, key("far")?);
        Ok(Self { near, far, network: row.near.name().to_owned(), folder })
    }

    /// The nodes of a link between the near host and the middle one, or the basis of others.
    pub(crate) fn nodes(&self, carried: Carried, datapath: Datapath) -> [Node<'_>; 2] {
        let near = Node {
            side: Side::Near,
            folder: self.folder.0.join("near"),
            network: &self.network,
            secret: SECRET,
            carried,
            wire_device: Some("p1"),
            wire_prefix: WIRES,
            peer_address: Some(MIDDLE[0]),
            peer_key: Some(&self.far),
            bootstrap: Some(&[]),
            turn: None,
            routing: None,
            datapath,
            callers: &[],
        };
        let far = Node {
            side: Side::Far,
            folder: self.folder.0.join("far"),
            wire_device: Some("m1"),
            peer_address: Some(NEAR),
            peer_key: Some(&self.near),
            ..near.clone()
        };
        [near, far]
    }

    /// A node in the middle that is neither's peer, as `near` otherwise.
    pub(crate) fn relay<'a>(&self, near: &Node<'a>, binaries: &Binaries) -> Result<Node<'a>> {
        let folder = self.folder.0.join("middle");
        daemon::generate_key(binaries, &folder)?;
        Ok(Node {
            side: Side::Middle,
            folder,
            wire_device: None,
            peer_address: None,
            peer_key: None,
            bootstrap: Some(&[]),
            turn: None,
            ..near.clone()
        })
    }
}

/// When there is a way: what both ends say of it, and that the target answers by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) path: &'a str,
    pub(crate) security: &'a str,
    /// What the reason for the path has in it.
    pub(crate) reason: &'a str,
    pub(crate) target: Ipv4Addr,
}

impl Nodes {
    /// Starts `ends`, each on its host, and waits until there is a way between them.
    pub(crate) fn start(
        near: &NetNs,
        [a, b]: [(&NetNs, &Node<'_>); 2],
        relay: Option<Daemon>,
        keys: &Keys,
        binaries: &Binaries,
        wanted: Wanted<'_>,
    ) -> Result<Self> {
        let mut ends = [Daemon::start(binaries, a.0, a.1)?, Daemon::start(binaries, b.0, b.1)?];
        for daemon in &mut ends {
            daemon.wait_until(wanted.path, |control| {
                // A way is looked for where there is traffic.
                let echo = near.run(|| Echo::open(wanted.target, ECHO_TIMEOUT)?.exchange());
                let peer = control.peer()?;
                let is_there = peer.path == wanted.path
                    && peer.security == wanted.security
                    && peer.path_reason.contains(wanted.reason);
                if !is_there || !echo.unwrap_or(false) {
                    bail!("path is {}, {}: {}", peer.path, peer.security, peer.path_reason);
                }
                Ok(())
            })?;
        }
        let before = Self::counted(&ends)?;
        Ok(Self { ends, _relay: relay, before, _folder: Rc::clone(&keys.folder) })
    }

    fn counted([a, b]: &[Daemon; 2]) -> Result<[Peer; 2]> {
        Ok([a.control.peer()?, b.control.peer()?])
    }

    /// Of what both ends have sent and received, the part that the kernel has carried.
    fn kernel_hit_rate(&self) -> Result<Option<f64>> {
        Ok(daemon::traffic(&self.before, &Self::counted(&self.ends)?).kernel_share())
    }
}

/// By round; one without a figure is no number, and keeps its place.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) tcp: Vec<f64>,
    pub(crate) ping: Vec<f64>,
}

/// What was measured of several ways.
#[derive(Debug)]
pub(crate) struct Measured<W> {
    pub(crate) samples: BTreeMap<W, Samples>,
    /// Packets on the kernel path by packets on either, both directions, both ends.
    pub(crate) hit_rates: BTreeMap<W, f64>,
    /// What could not be measured, and why.
    pub(crate) problems: Vec<String>,
}

/// Sets up a bed for each way, all at once, measures them in rounds whose order rotates, the first to warm up, and
/// tears down. What fails is told in the result.
pub(crate) fn measure<W: Way>(
    ways: impl IntoIterator<Item = W>,
    conditions: &Conditions,
    binaries: &Binaries,
    what: &str,
    mut progress: impl FnMut(&str),
) -> Result<Measured<W>> {
    let mut measured =
        Measured { samples: BTreeMap::new(), hit_rates: BTreeMap::new(), problems: Vec::new() };
    let mut beds = Vec::new();
    for way in ways {
        progress(&format!("{what}: setting up {}", way.label()));
        match way.set_up(conditions, binaries) {
            Ok(bed) => beds.push((way, bed)),
            Err(error) => {
                stop::check()?;
                measured.problems.push(format!("{}: {error:#}", way.label()));
            }
        }
    }
    let count = beds.len().max(1);
    for round in 0..=conditions.timing.rounds {
        for place in 0..beds.len() {
            stop::check()?;
            let (way, bed) = &mut beds[(place + round) % count];
            progress(&format!("{what}: round {round} of {}", conditions.timing.rounds));
            let window = bed.load.window(&bed.row, conditions);
            if round == 0 {
                continue;
            }
            let samples = measured.samples.entry(*way).or_default();
            let (tcp, ping) = window.unwrap_or_else(|error| {
                measured.problems.push(format!("{}, round {round}: {error:#}", way.label()));
                (f64::NAN, f64::NAN)
            });
            samples.tcp.push(tcp);
            samples.ping.push(ping);
        }
    }
    for (way, bed) in &beds {
        if let Some(rate) = bed.nodes.as_ref().map(Nodes::kernel_hit_rate).transpose()?.flatten() {
            measured.hit_rates.insert(*way, rate);
        }
    }
    Ok(measured)
}

/// How many times [`measure`] reports.
pub(crate) fn progress_steps(ways: usize, conditions: &Conditions) -> u64 {
    (ways * (conditions.timing.rounds + 2)) as u64
}
