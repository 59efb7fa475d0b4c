//! Many peers that call one node, and strangers who flood it with what looks like calls: what a
//! node's handshakes are measured with, from another host. The peers are genuine: they are the overlay's own
//! sessions, answer cookies, and complete every handshake.
//!
//! All of them are on one host. Each has an address of its own under [`CALLERS`] or [`STRANGERS`], which
//! that host must hold as local (`ip route add local 10.201.0.0/16 dev lo`), and the node must have a route to.

mod caller;
mod flood;
mod wire;

pub use caller::{Callers, Outcome, public_key};
pub use flood::{Flood, Kind, Sent, bogus};
pub use wire::Wire;

use std::net::Ipv4Addr;

/// The network of the peers.
pub const CALLERS: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 0);
/// The network that floods come from.
pub const STRANGERS: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 0);

/// The address of this number in a network of 65536.
fn address(network: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.to_bits() | (number as u32 & 0xffff))
}
