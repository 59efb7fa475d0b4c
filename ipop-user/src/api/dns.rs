//! The DNS of a node, in the control API.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where a node answers names, and how this host's programs come to ask there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `NETWORK.ipop`; `null`: nothing is answered.
    pub domain: Option<String>,
    /// By UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Why nothing is answered, or not at all addresses.
    pub reason: Option<String>,
    /// Which resolver leads there, `systemd-resolved` or `resolv.conf`; `null`: none.
    pub resolver: Option<String>,
    /// Why none does.
    pub resolver_reason: Option<String>,
    /// Who is asked for names of elsewhere, by this host's programs alone.
    pub forward: Vec<SocketAddr>,
    /// Whether members of the network are answered too.
    pub serve: bool,
}
