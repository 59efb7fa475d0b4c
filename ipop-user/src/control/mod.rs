//! The control server: HTTP/1.1 and JSON on a Unix socket, and metrics there and on TCP.
//!
//! It knows how to ask and how to answer, and nothing of what the daemon does: every question is
//! a [`Request`] on a channel with a place for the answer in it. The shapes of the answers are in
//! [`crate::api`].

mod metrics;
mod routes;
mod server;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::api;
use socket::SocketFile;

/// Where a refusal goes back as one line: what, and what to do.
pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What the control server asks the daemon. A dropped sender counts as a refusal.
#[derive(Debug)]
pub enum Request {
    Status(oneshot::Sender<api::Status>),
    Peers(oneshot::Sender<Vec<api::Peer>>),
    Links(oneshot::Sender<Vec<api::Link>>),
    Groups(oneshot::Sender<api::Groups>),
    Stations(oneshot::Sender<api::Stations>),
    Routes(oneshot::Sender<Vec<api::Route>>),
    Dhcp(oneshot::Sender<api::Dhcp>),
    Counters(oneshot::Sender<api::Counters>),
    Explain {
        peer: api::Selector,
        reply: Reply<api::Explanation>,
    },
    /// Asks a node something; `None` is this one.
    Probe {
        node: Option<api::Selector>,
        probe: Probe,
    },
    /// Records in the DHT.
    Dht {
        order: api::DhtOrder,
        reply: Reply<api::DhtAnswer>,
    },
    /// The answer says what was done.
    SetKernel {
        on: bool,
        reply: Reply<String>,
    },
    /// The answer says what has changed.
    Reload(Reply<String>),
}

/// What is asked of a node.
#[derive(Debug)]
pub enum Probe {
    /// Sends `count` probes, `interval` apart, and answers when the last is answered or has waited
    /// for [`api::PING_TIMEOUT_MS`]. Both numbers are within the bounds that `api` gives.
    Ping { count: u32, interval: Duration, overlay: bool, reply: Reply<api::Ping> },
    /// Who is so many hops on the way to it, over the overlay.
    Trace { hop: u16, reply: Reply<api::Hop> },
    /// To whom it is connected in the overlay.
    Survey { reply: Reply<api::RingNode> },
}

impl Probe {
    /// Answers with one line: what, and what to do. A client that has gone away wants no answer.
    pub fn refuse(self, error: String) {
        match self {
            Self::Ping { reply, .. } => drop(reply.send(Err(error))),
            Self::Trace { reply, .. } => drop(reply.send(Err(error))),
            Self::Survey { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// What the server allows before it gives up. Units last; all are for one connection.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// For a whole connection, so that nobody holds a place for ever. Longer than any ping order.
    connection: Duration,
    /// The same for a connection that can only ask for metrics, from anywhere.
    scrape: Duration,
    /// For the request line and the headers.
    header: Duration,
    /// For the daemon's answer to a question of state.
    answer: Duration,
    /// For the daemon to carry out an order.
    order: Duration,
    /// For a node with the most connections that there can be to tell all of them.
    survey: Duration,
    /// At a time, for each listener.
    connections_max: usize,
}

impl Limits {
    const DEFAULT: Limits = Limits {
        connection: Duration::from_secs(1_200),
        scrape: Duration::from_secs(30),
        header: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        order: Duration::from_secs(30),
        survey: Duration::from_secs(50),
        connections_max: 64,
    };
}

/// Largest request body in bytes: every order of ours is far smaller.
const BODY_LEN_MAX: usize = 4096;
/// How long a shutdown waits for answers under way.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A running control server. Dropping it stops the server at once and removes the socket;
/// [`ServerHandle::shutdown`] lets answers under way finish first.
#[derive(Debug)]
pub struct ServerHandle {
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    metrics_addr: Option<SocketAddr>,
    _socket: SocketFile,
}

impl ServerHandle {
    /// Where metrics are served on TCP.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Takes no more connections, lets answers under way finish, and removes the socket.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.listeners.join_next().await.is_some() {}
    }
}

/// Starts the server. The directory of the socket is made if it is missing; the socket of a dead
/// daemon is replaced, that of a living one is an error, as is an occupied metrics address.
pub async fn serve(
    socket_path: &Path,
    metrics_addr: Option<SocketAddr>,
    requests: mpsc::Sender<Request>,
) -> io::Result<ServerHandle> {
    serve_within(Limits::DEFAULT, socket_path, metrics_addr, requests).await
}

async fn serve_within(
    limits: Limits,
    socket_path: &Path,
    metrics_addr: Option<SocketAddr>,
    requests: mpsc::Sender<Request>,
) -> io::Result<ServerHandle> {
    let metrics_listener = match metrics_addr {
        Some(addr) => Some(bind_metrics(addr).await?),
        None => None,
    };
    let (listener, socket) = socket::bind(socket_path).await?;
    let daemon = routes::Daemon::new(requests, limits);
    let (stop, stopped) = watch::channel(false);
    let mut listeners = JoinSet::new();
    listeners.spawn(server::run(listener, routes::control(daemon.clone()), limits, stopped.clone()));
    let metrics_addr = metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = metrics_listener {
        let limits = Limits { connection: limits.scrape, ..limits };
        listeners.spawn(server::run(listener, routes::metrics_only(daemon), limits, stopped));
    }
    Ok(ServerHandle { stop, listeners, metrics_addr, _socket: socket })
}

async fn bind_metrics(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        let message =
            format!("cannot serve metrics on {addr}: {error}; choose another address for node.metrics");
        io::Error::new(error.kind(), message)
    })
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
