//! What moves packets between the kernel and a [`Worker`](super::worker::Worker): one trait, two
//! sets of system calls. An engine decides nothing about a packet.

mod epoll;
mod messages;
mod uring;
mod wake;

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

use super::counters::Counters;
use super::inbox::Inbox;
use super::table::Table;
use super::tun::Tun;
use super::{Io, Listeners, RunError, StartError};
use crate::places::Places;

pub(super) use wake::Wake;

/// Sockets that one user path listens on.
pub(super) const SOCKETS_MAX: usize = 16;

/// How much a queue holds. Memory is touched only as traffic needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Powers of two: io_uring's buffer rings want it.
    pub(super) tun_buffers: u16,
    pub(super) udp_buffers: u16,
    /// Frames that wait for the TUN device or are being merged.
    pub(super) frames: u16,
}

impl Sizes {
    pub(super) const DEFAULT: Self = Self { tun_buffers: 64, udp_buffers: 64, frames: 256 };
}

/// What one data thread works with.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) tun: Arc<Tun>,
    pub(super) sockets: Vec<Arc<UdpSocket>>,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) places: Arc<Places>,
    pub(super) counters: Arc<Counters>,
    pub(super) listeners: Listeners,
    pub(super) wake: Arc<Wake>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) syscalls: Arc<AtomicU64>,
}

impl Queue {
    fn add_syscalls(&self, calls: u64) {
        self.syscalls.fetch_add(calls, Relaxed);
    }
}

/// Moves packets.
pub(super) trait Engine {
    /// Works until the queue's [`Wake`] says stop.
    ///
    /// # Errors
    /// What makes going on impossible: the device is gone, for one.
    fn run(&mut self) -> Result<(), RunError>;
}

/// An engine that is set up, which one it is, and why not the better one.
pub(super) struct Opened {
    pub(super) engine: Box<dyn Engine>,
    pub(super) io: Io,
    pub(super) reason: Option<String>,
}

/// Sets up the engine that was asked for, on the thread that will run it.
pub(super) fn open(io: Io, queue: &Arc<Queue>) -> Result<Opened, StartError> {
    let reason = match io {
        Io::Epoll => None,
        Io::Auto | Io::IoUring => match uring::Uring::new(queue.clone()) {
            Ok(engine) => return Ok(Opened { engine: Box::new(engine), io: Io::IoUring, reason: None }),
            Err(reason) if io == Io::IoUring => return Err(StartError::IoUring { reason }),
            Err(reason) => Some(reason),
        },
    };
    let engine =
        epoll::Epoll::new(queue.clone()).map_err(|error| StartError::Thread { reason: error.to_string() })?;
    Ok(Opened { engine: Box::new(engine), io: Io::Epoll, reason })
}

/// The error number of the last system call.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
