//! The shapes of the control API: what `ipopd` answers on its control socket, and what
//! `ipopctl --json` prints. Stable: fields are added, never renamed or removed.
//!
//! The transport is in `control` (server) and `ctl` (client); filling the shapes is the daemon's.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipop_common::Counter;
use ipop_common::counter::Class;
use ipop_overlay::ring::Counts;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::key::{NodeAddress, PublicKey};

mod dhcp;
mod dht;
mod dns;
mod groups;
mod membership;
mod overlay;
mod ping;
mod stations;

pub use dhcp::{Dhcp, DhcpMode, DhcpPool, Lease};
pub use dht::{DHT_TTL_S, DhtAnswer, DhtKind, DhtOrder, DhtRecord, DhtVerb};
pub use dns::Dns;
pub use groups::{Group, GroupLink, Groups};
pub use membership::{Membership, MembershipState, RefusedNode};
pub use overlay::{
    Bootstrap, Connections, Coordinates, Hop, HopEnd, Nat, Neighbour, NodeRef, Overlay, OverlayState,
    PortMapping, RingEdge, RingNode, Seen, StunServer, SurveyOrder, TraceOrder, TurnServer,
};
pub use ping::{Ping, PingOrder, Probe};
pub use stations::{Station, Stations};

/// Paths of the resources, relative to the control socket.
pub mod paths {
    pub const STATUS: &str = "/v1/status";
    pub const PEERS: &str = "/v1/peers";
    pub const LINKS: &str = "/v1/links";
    pub const ROUTES: &str = "/v1/routes";
    pub const GROUPS: &str = "/v1/groups";
    pub const STATIONS: &str = "/v1/stations";
    /// `GET` with `?peer=`, a [`super::Selector`] in text form.
    pub const EXPLAIN: &str = "/v1/explain";
    pub const COUNTERS: &str = "/v1/counters";
    /// `POST` a [`super::PingOrder`].
    pub const PING: &str = "/v1/ping";
    /// `POST` a [`super::TraceOrder`].
    pub const TRACE: &str = "/v1/traceroute";
    /// `POST` a [`super::SurveyOrder`].
    pub const SURVEY: &str = "/v1/survey";
    /// `POST` a [`super::DhtOrder`].
    pub const DHT: &str = "/v1/dht";
    pub const DHCP: &str = "/v1/dhcp";
    /// `POST` a [`super::KernelOrder`].
    pub const DATAPATH_KERNEL: &str = "/v1/datapath/kernel";
    /// `POST`, no body.
    pub const RELOAD: &str = "/v1/reload";
    /// Prometheus text, also on `node.metrics`.
    pub const METRICS: &str = "/metrics";
}

/// Most probes that one ping order may ask for.
pub const PING_COUNT_MAX: u32 = 100;
/// Longest pause between the probes of one ping order, in milliseconds.
pub const PING_INTERVAL_MS_MAX: u64 = 10_000;
/// How long a probe waits for its answer, in milliseconds. A later answer counts as lost.
pub const PING_TIMEOUT_MS: u64 = 1_000;
/// How long the overlay is asked who has a virtual address before that is given up, in milliseconds.
pub const LOOKUP_TIMEOUT_MS: u64 = 6_000;

/// How packets to a peer travel now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    DirectKernel,
    DirectUser,
    Relay,
    Overlay,
    None,
}

impl Path {
    pub const ALL: [Path; 5] = [Path::DirectKernel, Path::DirectUser, Path::Relay, Path::Overlay, Path::None];

    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Path::DirectKernel => "direct-kernel",
            Path::DirectUser => "direct-user",
            Path::Relay => "relay",
            Path::Overlay => "overlay",
            Path::None => "none",
        }
    }

    /// Whether no third node is on the way.
    pub fn is_direct(self) -> bool {
        matches!(self, Path::DirectKernel | Path::DirectUser)
    }
}

/// Whether what travels to a peer can be read and forged by the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    Sealed,
    Clear,
}

impl Security {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Security::Sealed => "sealed",
            Security::Clear => "clear",
        }
    }
}

/// Packets and bytes of one peer or link since the daemon knows it. Bytes are inner bytes. The
/// totals are the sums of both paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub tx_packets: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub rx_bytes: u64,
    pub kernel_tx_packets: u64,
    pub kernel_rx_packets: u64,
    pub user_tx_packets: u64,
    pub user_rx_packets: u64,
}

/// One peer. `ipopctl peers --json` is an array of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub address: NodeAddress,
    /// See [`virtual_ips`].
    pub virtual_ips: Vec<String>,
    /// `null` while it is not known where the peer is.
    pub endpoint: Option<String>,
    pub path: Path,
    /// One sentence: why this path and no better one.
    pub path_reason: String,
    pub security: Security,
    /// What the link's packets are sealed with; `null` for a clear link.
    pub cipher: Option<String>,
    /// Smoothed round trip of control messages; `null` before the first.
    pub rtt_us: Option<u64>,
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Age of the session in seconds: since the handshake that it came from. `null` without one.
    pub last_handshake_s: Option<u64>,
    /// What this node may begin with it, by the group's rules: `everything`, `nothing`, or protocols and ports.
    pub may_begin: String,
    /// What it may begin with this node.
    pub peer_may_begin: String,
    /// Seconds since the peer was last heard of; `null` if it never was in this run.
    pub last_heard_s: Option<u64>,
    pub public_key: String,
    /// Largest inner packet in bytes; `null` without a link.
    pub mtu: Option<u32>,
    /// Six hexadecimal digits; `null` without a link.
    pub link_id: Option<String>,
}

/// A node's prefixes as JSON gives them: single addresses bare, others with their length.
pub fn virtual_ips(prefixes: &[config::Prefix]) -> Vec<String> {
    prefixes
        .iter()
        .map(|prefix| if prefix.is_host() { prefix.addr().to_string() } else { prefix.to_string() })
        .collect()
}

/// [`Peer::cipher`] of a sealed link (RFC 8439).
pub const CIPHER: &str = "ChaCha20-Poly1305";

/// A link id as JSON gives it.
pub fn link_id(id: u32) -> String {
    format!("{id:06x}")
}

/// One link by UDP: to the peer itself, or to the relay that passes its packets on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The peer's name.
    pub peer: String,
    /// Six hexadecimal digits.
    pub link_id: String,
    /// The outer address and port of the peer, or of the relay where `path` is by one.
    pub endpoint: SocketAddr,
    /// Our outer address; `null` while there is no route to the peer.
    pub local: Option<IpAddr>,
    /// The physical interface on the route to the peer.
    pub interface: Option<String>,
    pub next_hop_mac: Option<String>,
    /// Largest inner packet in bytes.
    pub mtu: u32,
    pub epoch: u32,
    /// How long the kernel path goes on without the daemon; `null` if the link is not in the kernel.
    pub lease_remaining_ms: Option<u64>,
    /// Whether the kernel path holds the link.
    pub kernel: bool,
    pub path: Path,
    pub security: Security,
    /// What the link is for in the overlay: `near`, `far`, `bypass`, `leaf`, `on-demand`, `managed`; none where
    /// it is no connection of the overlay.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The same, as the other end says.
    #[serde(default)]
    pub their_roles: Vec<String>,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Where a virtual prefix leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub prefix: String,
    /// The peer's name.
    pub peer: String,
    /// Six hexadecimal digits; `null` if no link carries the prefix now.
    pub link_id: Option<String>,
    pub path: Path,
    /// Of a subnet that a router announces; `null` for a peer's own addresses.
    pub subnet: Option<Subnet>,
}

/// What has become of a subnet that a router announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub router: NodeAddress,
    pub priority: u8,
    pub state: SubnetState,
    /// Why it is refused, or why packets do not go there although it is not.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubnetState {
    /// Packets go to this router.
    Active,
    /// They would if the active one did not answer.
    Standby,
    Refused,
}

impl SubnetState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Refused => "refused",
        }
    }
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub address: NodeAddress,
    pub public_key: String,
    pub version: String,
    pub uptime_s: u64,
    /// `network.name`.
    pub network: String,
    pub device: String,
    /// With their lengths, as on the device.
    pub virtual_ips: Vec<String>,
    /// Of the device, in bytes.
    pub mtu: u32,
    /// For UDP.
    pub listen: Vec<SocketAddr>,
    /// For TCP.
    #[serde(default)]
    pub listen_tcp: Vec<SocketAddr>,
    pub datapath: Datapath,
    pub interfaces: Vec<Interface>,
    pub peers_total: u32,
    pub peers_direct: u32,
    /// `null` where the peers are those of the configuration and no others.
    #[serde(default)]
    pub overlay: Option<Overlay>,
    /// `null` where the network has no group.
    #[serde(default)]
    pub membership: Option<Membership>,
    #[serde(default)]
    pub dns: Dns,
    /// What an operator should know, a line each.
    pub warnings: Vec<String>,
}

/// What carries packets on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datapath {
    pub kernel: KernelState,
    /// Why it is not `on`.
    pub kernel_reason: Option<String>,
    /// `null` if nothing is attached.
    pub attach: Option<Attach>,
    pub xdp: XdpState,
    /// Why it is not what was asked for.
    pub xdp_reason: Option<String>,
    pub io: IoBackend,
    /// Why it is not what was asked for.
    pub io_reason: Option<String>,
    /// Threads that carry the daemon's packets.
    pub queues: usize,
    pub device_kind: DeviceKind,
}

/// The kernel path as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelState {
    On,
    /// Switched off by the configuration or by `ipopctl datapath kernel off`.
    Off,
    /// The kernel, or our rights, do not allow it.
    Unavailable,
}

/// How the TC programs hang on their devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    Tcx,
    Clsact,
}

/// How the XDP program hangs on the physical interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpState {
    Off,
    Native,
    Generic,
}

/// How the user path does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoBackend {
    IoUring,
    Epoll,
}

/// What the virtual device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Vxlan,
    Tun,
    Tap,
}

/// A device that programs of ours hang on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    /// Such as `tcx ingress` or `xdp native`.
    pub attached: Vec<String>,
}

/// Which path a packet to the peer takes now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The peer's name.
    pub peer: String,
    pub path: Path,
    /// One sentence.
    pub verdict: String,
    /// The questions in the order in which they are asked. The first that fails decides.
    pub steps: Vec<Step>,
}

/// One question of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub check: String,
    pub ok: bool,
    pub detail: String,
}

/// Every named counter, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub kernel: CounterGroup,
    pub user: CounterGroup,
    /// Messages and connections of the overlay, not packets; empty where the node takes no part in one.
    #[serde(default)]
    pub overlay: CounterGroup,
}

/// Counters by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CounterGroup(pub BTreeMap<String, CounterValue>);

impl CounterGroup {
    /// What the ring has counted.
    pub fn of_ring(counts: &Counts) -> Self {
        let mut group = Self::default();
        for (count, value) in counts.iter() {
            group.add(count.name(), count.class(), count.help(), value);
        }
        group
    }

    fn add(&mut self, name: &str, class: Class, help: &str, value: u64) {
        let value = CounterValue { value, help: help.to_owned(), class: class.name().to_owned() };
        self.0.insert(name.to_owned(), value);
    }
}

impl FromIterator<(Counter, u64)> for CounterGroup {
    fn from_iter<I: IntoIterator<Item = (Counter, u64)>>(values: I) -> Self {
        let mut group = Self::default();
        for (counter, value) in values {
            group.add(counter.name(), counter.class(), counter.help(), value);
        }
        group
    }
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// Packets.
    pub value: u64,
    /// What happened to them.
    pub help: String,
    /// `ok`, `passed`, `refused` or `dropped`: [`Class::name`].
    pub class: String,
}

impl CounterValue {
    /// Where the class stands among the others; unknown ones, of a newer daemon, are last.
    pub fn class_rank(&self) -> usize {
        let classes = [Class::Ok, Class::Passed, Class::Refused, Class::Dropped];
        classes.iter().position(|class| class.name() == self.class).unwrap_or(classes.len())
    }
}

/// Switches the kernel path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelOrder {
    pub on: bool,
}

/// An order was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done.
    pub message: String,
}

/// The daemon said no. The body of every answer whose HTTP status is not 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What and what to do.
    pub error: String,
}

/// A peer as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    VirtualIp(IpAddr),
    Address(NodeAddress),
    /// The beginning of an address, with its `ipop:`.
    Prefix(String),
    PublicKey(PublicKey),
    Name(String),
}

impl Selector {
    /// Every text names something; whether there is such a peer is another question.
    pub fn parse(text: &str) -> Self {
        if let Ok(ip) = text.parse() {
            Selector::VirtualIp(ip)
        } else if let Ok(address) = text.parse() {
            Selector::Address(address)
        } else if let Ok(key) = text.parse() {
            Selector::PublicKey(key)
        } else if text.starts_with("ipop:") && text.len() > "ipop:".len() {
            Selector::Prefix(text.to_ascii_lowercase())
        } else {
            Selector::Name(text.to_owned())
        }
    }

    /// A virtual IP names the peer that it is routed to.
    pub fn matches(&self, peer: &config::Peer) -> bool {
        match self {
            Selector::VirtualIp(ip) => peer.addresses.iter().any(|prefix| prefix.contains(*ip)),
            Selector::Address(address) => peer.public_key.node_address() == *address,
            Selector::Prefix(text) => peer.public_key.node_address().to_string().starts_with(text),
            Selector::PublicKey(key) => peer.public_key == *key,
            Selector::Name(name) => peer.name == *name,
        }
    }
}

#[cfg(test)]
mod tests;
