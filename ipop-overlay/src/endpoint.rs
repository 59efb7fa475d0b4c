//! Where a peer is: what a datagram to it is handed to.

use core::net::SocketAddr;

use crate::address::NodeAddress;

/// A place at which a peer's datagrams arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// UDP takes them there.
    Udp(SocketAddr),
    /// A TCP connection with this address at its other end takes them there.
    Tcp(SocketAddr),
    /// A TURN server that this node has an address at (RFC 8656) sends them there from it.
    Turn(SocketAddr),
    /// A direct connection takes them to a node, which passes on to the peer what has this label.
    Relay { by: NodeAddress, label: u32 },
    /// Other nodes carry them to the node with this address.
    Overlay(NodeAddress),
}

/// How short the way to a place is; the shorter the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Directness {
    Overlay,
    Relay,
    Tcp,
    Udp,
}

impl Endpoint {
    /// The UDP address of the peer itself; `None` where it is reached otherwise.
    pub const fn udp(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address),
            Self::Tcp(_) | Self::Turn(_) | Self::Relay { .. } | Self::Overlay(_) => None,
        }
    }

    /// The address of the peer itself, by whichever transport; `None` where other nodes are on the way.
    pub const fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) | Self::Tcp(address) | Self::Turn(address) => Some(address),
            Self::Relay { .. } | Self::Overlay(_) => None,
        }
    }

    pub const fn directness(self) -> Directness {
        match self {
            Self::Udp(_) => Directness::Udp,
            Self::Tcp(_) => Directness::Tcp,
            Self::Turn(_) | Self::Relay { .. } => Directness::Relay,
            Self::Overlay(_) => Directness::Overlay,
        }
    }

    /// The node that relays; `None` where none does.
    pub const fn relay(self) -> Option<NodeAddress> {
        match self {
            Self::Relay { by, .. } => Some(by),
            Self::Udp(_) | Self::Tcp(_) | Self::Turn(_) | Self::Overlay(_) => None,
        }
    }

    /// The address on the overlay; `None` where a direct connection leads to the peer or to a relay.
    pub const fn overlay(self) -> Option<NodeAddress> {
        match self {
            Self::Udp(_) | Self::Tcp(_) | Self::Turn(_) | Self::Relay { .. } => None,
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

/// `192.0.2.1:15000`, `tcp 192.0.2.1:15000`, `turn 192.0.2.1:15000`, `relay ipop:..`, or `overlay ipop:..`.
impl core::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Turn(address) => write!(f, "turn {address}"),
            Self::Relay { by, .. } => write!(f, "relay {by:?}"),
            Self::Overlay(address) => write!(f, "overlay {address:?}"),
        }
    }
}
