//! The user data path: carries packets between a TUN device and UDP sockets, in the daemon's own
//! threads. It is for what the kernel path cannot carry, and for everything on hosts without eBPF.
//!
//! It owns the data threads and what they count. It does not decide who is a peer (the daemon
//! publishes a [`Table`]), understands no control message (they go to [`Settings::control`]), and
//! configures no interface.
//!
//! ```text
//! TUN -> outbound (route, segment) -> UDP      pure: virtio, segment, coalesce
//! UDP -> inbound (admit, coalesce) -> TUN      system calls: engine::{io_uring, epoll}
//! ```

pub mod counters;
pub mod table;
pub mod tun;
pub mod udp;
pub mod virtio;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipop_common::hello;
use tokio::sync::mpsc;

pub use counters::{Counters, LinkTraffic};
pub use table::{Table, UserLink};
pub use tun::{Offloads, Tun, TunError};
pub use udp::{UdpError, bind};

/// Which system calls move the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Io {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

/// A hello as it came off the wire: nothing about it has been checked but type and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlDatagram {
    pub from: SocketAddr,
    /// Index into [`Settings::sockets`] of the socket that it came in on.
    pub socket: usize,
    pub bytes: [u8; hello::LEN],
    /// CLOCK_MONOTONIC in nanoseconds.
    pub received_at_ns: u64,
}

/// What a user path works with.
#[derive(Debug)]
pub struct Settings {
    pub tun: Arc<Tun>,
    /// From [`bind`]. A peer is reached through the first socket of its endpoint's family.
    pub sockets: Vec<Arc<UdpSocket>>,
    pub io: Io,
    /// Loaded anew for each batch of packets.
    pub table: Arc<ArcSwap<Table>>,
    pub counters: Arc<Counters>,
    /// Where hellos go; what finds it full is dropped and counted.
    pub control: mpsc::Sender<ControlDatagram>,
}

/// Why the user path did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("io_uring cannot be used: {reason}; set io = \"auto\" or \"epoll\"")]
    IoUring { reason: String },
    #[error("cannot start the data thread: {reason}")]
    Thread { reason: String },
}

/// What ended a data thread that nobody stopped.
#[derive(Debug, thiserror::Error)]
#[error("the data thread ended: {step}: {source}")]
pub struct RunError {
    step: &'static str,
    source: std::io::Error,
}

/// The running data threads. Dropping it stops them.
#[derive(Debug)]
pub struct UserPath {
    io: Io,
    reason: Option<String>,
}

impl UserPath {
    /// Starts one thread per queue; returns when it is ready to carry packets.
    ///
    /// # Errors
    /// [`StartError::IoUring`] where io_uring is demanded and refused.
    pub fn start(_settings: Settings) -> Result<Self, StartError> {
        Err(StartError::Thread { reason: "the engines are not part of this build".to_owned() })
    }

    /// What moves the packets: [`Io::IoUring`] or [`Io::Epoll`].
    pub fn io(&self) -> Io {
        self.io
    }

    /// With [`Io::Auto`]: why it is not io_uring.
    pub fn io_reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// System calls that the data threads have made.
    pub fn syscalls(&self) -> u64 {
        0
    }

    /// Resolves when a data thread has ended by itself; pending for ever after [`UserPath::stop`].
    ///
    /// # Errors
    /// Never `Ok`: the error says what ended it.
    pub async fn failed(&mut self) -> RunError {
        std::future::pending().await
    }

    /// Stops the threads and waits for them. Packets in hand are sent first.
    ///
    /// # Errors
    /// What a thread had already ended with.
    pub fn stop(self) -> Result<(), RunError> {
        Ok(())
    }
}
