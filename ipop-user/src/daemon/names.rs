//! Where something is that the configuration names.

use std::io;
use std::net::SocketAddr;

use crate::config::Endpoint;

/// The addresses that an endpoint stands for, by this host's resolver where it is a name.
///
/// # Errors
/// The resolver's.
pub(super) async fn look_up(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    match endpoint {
        Endpoint::Address(address) => Ok(vec![*address]),
        Endpoint::Host { name, port } => Ok(tokio::net::lookup_host((name.as_str(), *port)).await?.collect()),
    }
}
