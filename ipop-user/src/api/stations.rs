//! The stations of a virtual network that carries Ethernet, and where they are.

use serde::{Deserialize, Serialize};

use super::NodeRef;

/// What this node knows as a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stations {
    /// `null`: frames are carried; else why not.
    pub reason: Option<String>,
    /// The node that bridges the same segment as this one, which therefore takes no frames; `null`: there is none.
    pub shut_by: Option<NodeRef>,
    /// By MAC address.
    pub stations: Vec<Station>,
}

/// One station.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// `02:00:00:00:00:01`.
    pub mac: String,
    /// The node that it is behind.
    pub node: NodeRef,
    /// That is this node.
    pub here: bool,
    /// It is the node's own virtual device.
    pub device: bool,
    /// Since it was last seen, in seconds; `null` for a device.
    pub seen_s: Option<u64>,
    /// Another node claims it too.
    pub contested: bool,
}
