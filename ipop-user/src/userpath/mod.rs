//! The user data path: carries packets between a TUN device and UDP sockets, in the daemon's own
//! threads. It is for what the kernel path cannot carry, and for everything on hosts without eBPF.
//!
//! It owns the data threads and what they count. It does not decide who is a peer (the daemon
//! publishes a [`Table`]), makes no session and understands no control message (they go to
//! [`Settings::listeners`]), and configures no interface.
//!
//! ```text
//! TUN -> outbound (route, segment) -> batch  -> UDP     pure: virtio, segment, coalesce, flow
//! UDP -> inbound (admit, coalesce) -> frames -> TUN     system calls: engine::{uring, epoll}
//! ```
//!
//! A peer that no UDP leads to is reached through the control task, which has other nodes carry its datagrams or
//! sends them by TCP:
//! ```text
//! outbound -> Listeners::carried        Inlet::take_in -> inbox -> inbound
//! ```

mod batch;
pub(crate) mod clock;
pub mod coalesce;
pub mod counters;
mod engine;
mod flow;
mod group;
mod icmp_error;
mod inbound;
mod inbox;
mod outbound;
#[cfg(test)]
mod packets;
pub mod pool;
pub mod segment;
pub mod session;
mod stage;
mod switch;
pub mod table;
pub mod tun;
pub mod udp;
pub mod virtio;
mod worker;

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc as sync_mpsc};
use std::thread::{self, JoinHandle};

use arc_swap::{ArcSwap, ArcSwapOption};
use ipop_common::Address;
use ipop_common::ethernet::Mac;
use ipop_common::multicast::Target;
use ipop_common::wireguard::TransportHeader;
use ipop_overlay::Endpoint;
use ipop_overlay::session::{CookieKey, Mac1Key};
use tokio::sync::mpsc;

pub use counters::{Counters, LinkTraffic};
pub use session::UserSession;
pub use stage::STAGED_FOR_ONE_MAX;
pub use table::{Carriage, Table, UserLink};
pub use tun::{Kind, Offloads, Tun, TunError};
pub use udp::{UdpError, bind, bind_queues};

use crate::places::Places;
use crate::stun;
use engine::{Engine, Opened, Queue, SOCKETS_MAX, Wake};
use inbox::Inbox;

/// Which system calls move the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Io {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Io::Auto => "auto",
            Io::IoUring => "io_uring",
            Io::Epoll => "epoll",
        })
    }
}

/// A handshake message as it came off the wire: nothing about it has been checked but that a
/// [`Gate`](ipop_overlay::session::Gate) admits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeDatagram {
    pub from: Endpoint,
    /// Index into [`QueueFiles::sockets`] of the socket that it came in on.
    pub socket: usize,
    pub bytes: Box<[u8]>,
}

/// What the data threads have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserEvent {
    /// A control message in the session `local`: the text, whose first four bits are 0.
    Message { local: u32, text: Box<[u8]>, received_at_ns: u64 },
    /// A packet to the peer in this slot waits for a session.
    SessionWanted { slot: u32 },
    /// A packet to this address waits: nobody knows yet who has it.
    OwnerWanted { address: Address },
    /// A frame came from this station on this node's side, and the table knows nothing of that.
    StationHere { mac: Mac },
    /// A frame came from this station by the link in a slot, and the table knows nothing of that.
    StationThere { slot: u32, mac: Mac },
    /// The host says which groups it is a member of; the kernel has the list.
    MembershipSaid,
    /// A packet of the session `local` was authentic, and it is the first, or an empty one, or comes
    /// from elsewhere than the one before.
    Authenticated { local: u32, from: Endpoint },
}

/// A sealed datagram that is not for UDP, or a relay frame that is to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedDatagram {
    pub to: Endpoint,
    /// It is between others, and counts as theirs.
    pub is_relayed: bool,
    pub bytes: Vec<u8>,
}

/// A packet of this host's for many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPacket {
    pub to: Target,
    pub bytes: Vec<u8>,
}

/// Where the data threads turn to. What finds a queue full is dropped and counted.
#[derive(Clone, Debug)]
pub struct Listeners {
    pub events: mpsc::Sender<UserEvent>,
    /// Handshake messages, apart: a flood of them must not drown the events.
    pub handshakes: mpsc::Sender<HandshakeDatagram>,
    /// What other nodes are to carry, and what this one is to pass on, apart: there is as much of it as of packets.
    pub carried: mpsc::Sender<CarriedDatagram>,
    /// What goes to groups.
    pub groups: mpsc::Sender<GroupPacket>,
    /// What servers say that are no nodes.
    pub stun: stun::Ear,
    /// Tells who knows this node's public key.
    pub mac1: Mac1Key,
    /// Tells who has a cookie of this node, once it has given one.
    pub cookies: Arc<ArcSwapOption<CookieKey>>,
}

/// What one data thread reads from and writes to.
#[derive(Clone, Debug)]
pub struct QueueFiles {
    /// A queue of the device.
    pub tun: Arc<Tun>,
    /// From [`bind_queues`], at most 16. A peer is reached through the first socket of its endpoint's
    /// family.
    pub sockets: Vec<Arc<UdpSocket>>,
}

/// What a user path works with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One for each thread, with the same addresses in the same order.
    pub queues: Vec<QueueFiles>,
    pub io: Io,
    /// Looked at anew for each batch of packets.
    pub table: Arc<ArcSwap<Table>>,
    /// Of the sessions in the table.
    pub places: Arc<Places>,
    pub counters: Arc<Counters>,
    pub listeners: Listeners,
}

/// Why the user path did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("io_uring cannot be used: {reason}; set io = \"auto\" or \"epoll\"")]
    IoUring { reason: String },
    #[error("cannot start the data thread: {reason}")]
    Thread { reason: String },
}

impl StartError {
    fn thread(error: &dyn fmt::Display) -> Self {
        Self::Thread { reason: error.to_string() }
    }
}

/// What ended a data thread that nobody stopped.
#[derive(Debug, thiserror::Error)]
#[error("the data thread ended: {step}: {source}")]
pub struct RunError {
    step: &'static str,
    source: io::Error,
}

/// The running data threads. Dropping it stops them.
#[derive(Debug)]
pub struct UserPath {
    io: Io,
    reason: Option<String>,
    syscalls: Arc<AtomicU64>,
    failures: mpsc::UnboundedReceiver<RunError>,
    threads: Vec<DataThread>,
}

/// Takes in datagrams that other nodes have carried here, or that came by TCP. It may outlive the threads, which
/// look at nothing any more then.
#[derive(Clone, Debug)]
pub struct Inlet {
    threads: Vec<(Arc<Inbox>, Arc<Wake>)>,
}

impl Inlet {
    /// Takes in a datagram that came from, or in the name of, `from`; says whether there is room for it. Those of
    /// one session go to one thread, which keeps them in order.
    pub fn take_in(&self, from: Endpoint, datagram: &[u8]) -> bool {
        let session = TransportHeader::parse(datagram).map_or(0, |header| header.receiver as usize);
        let thread = session.checked_rem(self.threads.len()).and_then(|at| self.threads.get(at));
        let Some((inbox, wake)) = thread else { return false };
        match inbox.push(from, datagram) {
            Ok(was_empty) => {
                if was_empty {
                    wake.ring();
                }
                true
            }
            Err(inbox::Full) => false,
        }
    }
}

#[derive(Debug)]
struct DataThread {
    wake: Arc<Wake>,
    inbox: Arc<Inbox>,
    handle: JoinHandle<()>,
}

/// What a data thread says once its engine is set up.
type Ready = Result<(Io, Option<String>), StartError>;

impl UserPath {
    /// Starts one thread per queue; returns when it is ready to carry packets.
    ///
    /// The threads use the descriptors given and no other; which network namespace the caller is in
    /// does not matter.
    ///
    /// # Errors
    /// [`StartError::IoUring`] where io_uring is demanded and refused; nothing is left running.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let Settings { queues, io, table, places, counters, listeners } = settings;
        let (failed, failures) = mpsc::unbounded_channel();
        let mut path = Self {
            io: if io == Io::Epoll { Io::Epoll } else { Io::IoUring },
            reason: None,
            syscalls: Arc::new(AtomicU64::new(0)),
            failures,
            threads: Vec::new(),
        };
        for QueueFiles { tun, sockets } in queues {
            if sockets.is_empty() || sockets.len() > SOCKETS_MAX {
                let reason = format!("{} sockets; it takes 1 to {SOCKETS_MAX}", sockets.len());
                return Err(StartError::Thread { reason });
            }
            let queue = Queue {
                tun,
                sockets,
                table: table.clone(),
                places: places.clone(),
                counters: counters.clone(),
                listeners: listeners.clone(),
                wake: Arc::new(Wake::new().map_err(|error| StartError::thread(&error))?),
                inbox: Arc::default(),
                syscalls: path.syscalls.clone(),
            };
            // Dropping `path` ends those that have been started.
            path.start_thread(io, queue, failed.clone())?;
        }
        Ok(path)
    }

    fn start_thread(
        &mut self,
        io: Io,
        queue: Queue,
        failed: mpsc::UnboundedSender<RunError>,
    ) -> Result<(), StartError> {
        let (wake, inbox, queue) = (queue.wake.clone(), queue.inbox.clone(), Arc::new(queue));
        let (ready, is_ready) = sync_mpsc::sync_channel(1);
        let handle = thread::Builder::new()
            .name(format!("ipop-queue-{}", self.threads.len()))
            .spawn(move || run(io, &queue, &ready, &failed))
            .map_err(|error| StartError::thread(&error))?;
        self.threads.push(DataThread { wake, inbox, handle });
        let (io, reason) = is_ready.recv().map_err(|error| StartError::thread(&error))??;
        if io == Io::Epoll {
            (self.io, self.reason) = (io, reason);
        }
        Ok(())
    }

    /// What moves the packets: [`Io::IoUring`] or [`Io::Epoll`].
    pub fn io(&self) -> Io {
        self.io
    }

    /// With [`Io::Auto`]: why it is not io_uring.
    pub fn io_reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Has the data threads look at a table just published: packets may wait for what is in it.
    pub fn table_changed(&self) {
        self.threads.iter().for_each(|thread| thread.wake.ring());
    }

    /// Where datagrams are put that no socket of this path has received.
    pub fn inlet(&self) -> Inlet {
        let place = |thread: &DataThread| (Arc::clone(&thread.inbox), Arc::clone(&thread.wake));
        Inlet { threads: self.threads.iter().map(place).collect() }
    }

    /// How many threads carry packets.
    pub fn queues(&self) -> usize {
        self.threads.len()
    }

    /// System calls that the data threads have made.
    pub fn syscalls(&self) -> u64 {
        self.syscalls.load(Relaxed)
    }

    /// Resolves, once, when a data thread has ended by itself: its device is gone, for one.
    pub async fn failed(&mut self) -> RunError {
        match self.failures.recv().await {
            Some(error) => error,
            // Told already, or all have been stopped.
            None => std::future::pending().await,
        }
    }

    /// Stops the threads and waits for them.
    ///
    /// # Errors
    /// What a thread had already ended with, if [`UserPath::failed`] has not said so.
    pub fn stop(mut self) -> Result<(), RunError> {
        self.join();
        self.failures.try_recv().map_or(Ok(()), Err)
    }

    fn join(&mut self) {
        self.threads.iter().for_each(|thread| thread.wake.stop());
        for thread in self.threads.drain(..) {
            // A panic has been reported where it happened.
            let _ = thread.handle.join();
        }
    }
}

impl Drop for UserPath {
    fn drop(&mut self) {
        self.join();
    }
}

/// The life of a data thread.
fn run(
    io: Io,
    queue: &Arc<Queue>,
    ready: &sync_mpsc::SyncSender<Ready>,
    failed: &mpsc::UnboundedSender<RunError>,
) {
    let mut engine: Box<dyn Engine> = match engine::open(io, queue) {
        Ok(Opened { engine, io, reason }) => {
            if ready.send(Ok((io, reason))).is_err() {
                return;
            }
            engine
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let ended = panic::catch_unwind(AssertUnwindSafe(|| engine.run()));
    let panicked = |_| Err(RunError { step: "packet handling", source: io::Error::other("panic") });
    if let Err(error) = ended.unwrap_or_else(panicked) {
        let _ = failed.send(error);
    }
}
