//! What a node sees of the overlay: its own part, the way to other nodes, and their connections.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::key::NodeAddress;

/// A node of the overlay, and what this node calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRef {
    pub address: NodeAddress,
    /// `null` for one that the configuration does not name.
    pub name: Option<String>,
    /// Its virtual addresses, where it is a peer of this node's; see [`super::virtual_ips`].
    pub virtual_ips: Vec<String>,
}

impl NodeRef {
    /// Its name, or an address of its own: a virtual one, or the beginning of the other.
    pub fn label(&self) -> String {
        let name = self.name.as_ref().or(self.virtual_ips.first());
        name.cloned().unwrap_or_else(|| self.address.short())
    }
}

/// This node's part in the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    pub state: OverlayState,
    /// One sentence: why this state and no better one.
    pub reason: String,
    /// How many nodes the network has, as estimated from how close the neighbours are.
    pub nodes_estimate: u64,
    /// The nearest below on the ring, the nearest first.
    pub left: Vec<Neighbour>,
    /// The nearest above.
    pub right: Vec<Neighbour>,
    pub connections: Connections,
    pub coordinates: Coordinates,
    /// How this node's addresses are translated on the way to others; of each family of which others have
    /// said something.
    pub nat: Vec<Nat>,
    /// Outside addresses that lead to this node, as configured.
    pub external: Vec<SocketAddr>,
    pub port_mapping: PortMapping,
    /// As configured.
    pub stun: Vec<StunServer>,
    /// The TURN servers that are configured, in their order: the first that gives this node an address is used.
    #[serde(default)]
    pub turn: Vec<TurnServer>,
    /// Between how many pairs of others this node relays.
    pub relayed_pairs: u32,
    /// As configured.
    pub bootstrap: Vec<Bootstrap>,
}

/// How a node's addresses of one family are translated, and from what that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// In the terms of RFC 4787: `none`, `translated` (by one other's word), `endpoint-independent`,
    /// `address-dependent` or `address- and port-dependent`; of the last two also whether the ports are
    /// `predictable` or `random`.
    pub mapping: String,
    /// Whether what the node sends to its own outside address comes back to it; `null`: that is not known.
    pub hairpin: Option<bool>,
    /// Where others see this node.
    pub observations: Vec<Seen>,
}

/// A port of the router's that leads to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The port, and the router's outside address; `null`: there is none.
    pub external: Option<SocketAddr>,
    /// By which it was given: `PCP`, `NAT-PMP` or `UPnP`.
    pub protocol: Option<String>,
    /// Seconds until it ends unless it is renewed.
    pub lease_s: Option<u64>,
    /// The router; `null`: none is asked.
    pub gateway: Option<Ipv4Addr>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// A STUN server, which is no member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StunServer {
    /// As configured.
    pub server: String,
    /// Where it sees this node; `null`: it has not said, or not lately.
    pub seen: Option<SocketAddr>,
    /// Why not.
    pub reason: Option<String>,
}

/// A TURN server, which is no member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnServer {
    /// As configured.
    pub server: String,
    /// This node's address there; `null`: it has none.
    pub relayed: Option<SocketAddr>,
    /// Why not.
    pub reason: Option<String>,
}

/// Where one other node sees this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where that node is.
    pub observer: String,
    pub seen: String,
}

/// Whether a node is where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayState {
    /// There is no connection to anybody.
    Alone,
    /// There is one, and no neighbour on the ring yet.
    Joining,
    /// Part of a ring.
    Joined,
}

impl OverlayState {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Joining => "joining",
            Self::Joined => "joined",
        }
    }
}

/// A neighbour on the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    #[serde(flatten)]
    pub node: NodeRef,
    /// `null` before the first measurement.
    pub rtt_us: Option<u64>,
}

/// How many connections there are, and how many of them for each purpose of either end; one may have several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub total: u32,
    pub near: u32,
    /// Shortcuts across the ring.
    pub far: u32,
    pub bypass: u32,
    pub leaf: u32,
    /// There is traffic.
    pub on_demand: u32,
    /// Configured.
    pub managed: u32,
}

/// Where a node is in the space in which distances are round trips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinates {
    pub x_us: i32,
    pub y_us: i32,
    pub height_us: u32,
}

impl From<ipop_overlay::ring::Coordinates> for Coordinates {
    fn from(at: ipop_overlay::ring::Coordinates) -> Self {
        Self { x_us: at.x, y_us: at.y, height_us: at.height }
    }
}

/// A way into the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// As configured, `udp://HOST:PORT` or `tcp://HOST:PORT`.
    pub endpoint: String,
    /// Whether it has answered in this run.
    pub answered: bool,
    /// Who it is; `null` while it has not answered.
    pub address: Option<NodeAddress>,
}

/// Asks who the node is to which a message to another one has come after some hops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceOrder {
    /// A [`super::Selector`] in text form.
    pub node: String,
    /// 1 or more.
    pub hop: u16,
}

/// Asks a node for its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurveyOrder {
    /// A [`super::Selector`] in text form; `null`: this node.
    pub node: Option<String>,
}

/// A node on the way to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// From 1.
    pub hop: u16,
    /// `null` if none answered.
    pub node: Option<NodeRef>,
    pub rtt_us: Option<u64>,
    pub end: HopEnd,
}

/// What became of a message at a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HopEnd {
    /// It would have gone on.
    OnTheWay,
    Arrived,
    /// The node knows no way further.
    NoWay,
    NoAnswer,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingNode {
    #[serde(flatten)]
    pub node: NodeRef,
    /// Of the first answer; `null` of this node itself.
    pub rtt_us: Option<u64>,
    pub nodes_estimate: u64,
    pub coordinates: Coordinates,
    /// In the order in which it tells them: the nearest on the ring first.
    pub connections: Vec<RingEdge>,
}

/// A connection, as the node at one end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingEdge {
    /// Who is at the other end.
    pub address: NodeAddress,
    /// Why the node keeps it: see [`super::Link::roles`].
    pub roles: Vec<String>,
    /// Why the other does.
    pub their_roles: Vec<String>,
}
