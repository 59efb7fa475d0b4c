//! The overlay node as a state machine: bytes and time in, bytes and decisions out.
//!
//! Nothing here opens a socket, reads a clock, spawns a task or draws a random number; the daemon
//! and the simulator do, and drive the same code. One mutation, then drain
//! [`Node::poll_output`] until it is empty and ask [`Node::poll_timeout`] when to come back.
//!
//! Peers come with the configuration, and come and go while the node runs. [`session`] makes and keeps the session with each of them, as
//! every WireGuard does; inside it the node keeps one control conversation (`hello`), learns from it
//! how the peer can be reached, and decides which path packets to it take and whether they are
//! sealed.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod address;
pub mod dhcp;
pub mod dht;
pub mod directory;
mod endpoint;
pub mod group;
pub mod introduction;
mod keys;
mod node;
mod peer;
pub mod ring;
pub mod routes;
pub mod session;
pub mod stream;
mod time;

pub use address::{Distance, NodeAddress, ParseAddressError};
pub use endpoint::{Directness, Endpoint};
pub use keys::NetworkKey;
pub use node::{
    AddPeerError, Command, Config, Credentials, CredentialsError, Node, Output, PeerConfig, PeerId, Refusal,
    STATIONS_MAX,
};
pub use peer::{NoPath, Path, PeerView, Said, Security, UserReason};
pub use time::{Instant, Reason};
