//! Addresses that are leased, or registered as if they were.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::key::NodeAddress;

/// Where this node's addresses are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// From the network's pool.
    Dhcp,
    /// From the configuration; they are registered, so that nobody leases them.
    Listed,
    /// From the configuration, and there is no overlay to tell of them.
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    pub mode: DhcpMode,
    /// As the network is described; `None`: this node does not know, or has no use for it.
    pub pool: Option<DhcpPool>,
    /// Why this node has no address from it.
    pub trouble: Option<String>,
    /// This node's, and those of others that it has asked about lately.
    pub leases: Vec<Lease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpPool {
    pub network: String,
    /// Each node has an address in this network that follows from its key.
    pub ipv6: Option<String>,
    pub lease_s: u32,
    /// Addresses that may be leased.
    pub size: u64,
    pub reserved: BTreeMap<IpAddr, NodeAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub address: IpAddr,
    pub owner: NodeAddress,
    pub host: Option<String>,
    /// How long it stands from now, unless it is renewed; not known of this node's own, which renews it.
    pub expires_s: Option<u64>,
    pub is_own: bool,
}
