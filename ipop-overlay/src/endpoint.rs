//! Where a peer is: what a datagram to it is handed to.

use core::net::SocketAddr;

use crate::address::NodeAddress;

/// A place at which a peer's datagrams arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// UDP takes them there.
    Udp(SocketAddr),
    /// Other nodes carry them to the node with this address.
    Overlay(NodeAddress),
}

impl Endpoint {
    /// The UDP address; `None` where other nodes carry.
    pub const fn udp(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address),
            Self::Overlay(_) => None,
        }
    }

    /// The address on the overlay; `None` where UDP leads to the peer.
    pub const fn overlay(self) -> Option<NodeAddress> {
        match self {
            Self::Udp(_) => None,
            Self::Overlay(address) => Some(address),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

impl From<NodeAddress> for Endpoint {
    fn from(address: NodeAddress) -> Self {
        Self::Overlay(address)
    }
}

/// `192.0.2.1:15000`, or `overlay ipop:..`.
impl core::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Overlay(address) => write!(f, "overlay {address:?}"),
        }
    }
}
