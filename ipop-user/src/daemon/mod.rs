//! The daemon: drives the overlay core over real sockets, clocks and kernel tables.
//!
//! One task owns all state. It waits for one event, hands it to the core, drains the core's
//! outputs into sockets, the user path's table and the kernel's maps, and waits again.
//!
//! | file | what |
//! |---|---|
//! | `start` | from a configuration to running data paths, and back |
//! | `device` | the virtual device |
//! | `peers` | each peer: reach, table entries, map entries |
//! | `apply` | bringing host, tables and maps to what the core decided |
//! | `answers` | what the control socket asks |
//! | `pings` | round trips that an operator asked for |
//! | `predecessor` | what a killed daemon still holds |
//! | `clock` | time |

mod answers;
mod apply;
mod clock;
mod device;
mod peers;
mod pings;
mod predecessor;
mod start;
mod underlays;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use ipop_overlay::{Command, Instant, Node, Output};
use socket2::SockRef;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::control::{Request, ServerHandle};
use crate::kernel::KernelPath;
use crate::key::PublicKey;
use crate::netlink::{Change, Monitor, Netlink};
use crate::userpath::{ControlDatagram, Counters, RunError, Table, UserPath};

use device::VirtualDevice;
use peers::PeerState;
use pings::Pings;
use underlays::Underlays;

/// How often leases are renewed: many times within one.
const RENEWAL: Duration = Duration::from_secs(1);
/// A peer that has missed two hellos may have another link-layer address than the one cached.
const SILENCE: Duration = Duration::from_millis(2500);
/// Changes of the host's network come in bursts; this long after the first, all are looked at.
const SETTLE: Duration = Duration::from_millis(5);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Load the programs that log every refusal.
    pub log_datapath: bool,
}

/// Runs the daemon until it is told to stop.
pub async fn run(options: &Options) -> Result<()> {
    let (mut daemon, mut events) = start::start(options).await?;
    let outcome = daemon.serve(&mut events).await;
    daemon.stop(events).await;
    outcome
}

/// Everything that the daemon waits for.
struct Events {
    hellos: mpsc::Receiver<ControlDatagram>,
    requests: mpsc::Receiver<Request>,
    monitor: Monitor,
    control: ServerHandle,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

enum Event {
    Hello(ControlDatagram),
    Request(Request),
    Change(Change),
    Timer,
    Stop(&'static str),
    Reload,
    UserPath(RunError),
}

/// The kernel path, or why there is none.
struct KernelSlot {
    path: Option<KernelPath>,
    /// Why there is none, or why it is switched off.
    reason: Option<String>,
}

struct Daemon {
    options: Options,
    config: Config,
    public_key: PublicKey,
    node: Node,
    peers: Vec<PeerState>,
    netlink: Netlink,
    device: VirtualDevice,
    kernel: KernelSlot,
    underlays: Underlays,
    user: UserPath,
    table: Arc<ArcSwap<Table>>,
    counters: Arc<Counters>,
    sockets: Vec<Arc<UdpSocket>>,
    pings: Pings,
    warnings: Vec<String>,
    started: Instant,
    next_renewal: Instant,
    /// When changes of the host's network are to be looked at.
    refresh_at: Option<Instant>,
}

impl Daemon {
    async fn serve(&mut self, events: &mut Events) -> Result<()> {
        loop {
            self.drain().await;
            match self.wait(events).await? {
                Event::Hello(hello) => self.hear(&hello),
                Event::Request(request) => self.answer(request).await,
                Event::Change(change) => self.on_change(change),
                Event::Timer => self.on_timer().await,
                Event::Reload => match self.reload().await {
                    Ok(message) => info!("{message}"),
                    Err(error) => warn!("not reloaded: {error}"),
                },
                Event::Stop(signal) => {
                    info!(signal, "stopping");
                    return Ok(());
                }
                Event::UserPath(error) => return Err(error).context("the user path failed"),
            }
        }
    }

    async fn wait(&mut self, events: &mut Events) -> Result<Event> {
        let wait = clock::until(self.next_deadline());
        Ok(tokio::select! {
            Some(hello) = events.hellos.recv() => Event::Hello(hello),
            Some(request) = events.requests.recv() => Event::Request(request),
            change = events.monitor.next() => Event::Change(change?),
            () = tokio::time::sleep(wait) => Event::Timer,
            _ = events.terminate.recv() => Event::Stop("SIGTERM"),
            _ = events.interrupt.recv() => Event::Stop("SIGINT"),
            _ = events.hangup.recv() => Event::Reload,
            error = self.user.failed() => Event::UserPath(error),
        })
    }

    fn next_deadline(&self) -> Instant {
        let core = self.node.poll_timeout().map(|(at, _)| at);
        let others = [core, Some(self.next_renewal), self.refresh_at, self.pings.next_deadline()];
        others.into_iter().flatten().min().unwrap_or(self.next_renewal)
    }

    fn hear(&mut self, hello: &ControlDatagram) {
        let counters = &self.counters;
        match self.node.handle_datagram(hello.from, &hello.bytes, clock::now()) {
            Ok(()) => counters.add(ipop_common::Counter::RxHello, 1),
            Err(refusal) => {
                debug!(from = %hello.from, counter = refusal.0.name(), "control message refused");
                counters.add(refusal.0, 1);
            }
        }
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Neighbour { ifindex, address, mac } => self.on_neighbour(ifindex, address, mac),
            Change::Address { ifindex } | Change::LinkGone(ifindex) if self.device.is_own(ifindex) => {}
            Change::Link(link) if self.device.is_own(link.ifindex) => {}
            Change::LinkGone(ifindex) => {
                self.underlays.forget(self.kernel.path.as_mut(), ifindex);
                self.refresh_soon();
            }
            Change::Link(_) | Change::Address { .. } | Change::Route | Change::Lost => self.refresh_soon(),
        }
    }

    fn refresh_soon(&mut self) {
        self.refresh_at.get_or_insert(clock::now().after(SETTLE));
    }

    async fn on_timer(&mut self) {
        let now = clock::now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.refresh().await;
        }
        if self.next_renewal <= now {
            self.next_renewal = now.after(RENEWAL);
            self.renew();
            self.ask_for_silent(now).await;
        }
        for (peer, id) in self.pings.due(now) {
            self.node.handle_command(Command::Ping { peer, id }, now);
        }
        self.node.handle_timeout(now);
    }

    /// Carries out what the core wants, until it wants no more.
    async fn drain(&mut self) {
        let mut changed = false;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Transmit { to, datagram } => self.transmit(to, &datagram),
                Output::Path { peer, path } => {
                    let name = self.peers.get(peer.0).map_or("", |p| p.config.name.as_str());
                    info!(peer = name, path = %Described(path), "path changed");
                    changed = true;
                }
                Output::Roamed { peer, endpoint } => {
                    let name = self.peers.get(peer.0).map_or("", |p| p.config.name.as_str());
                    info!(peer = name, %endpoint, "peer answers from here");
                    self.resolve_one(peer).await;
                    changed = true;
                }
                Output::Pong { id, rtt, .. } => self.pings.answered(id, rtt),
            }
        }
        self.pings.finish(clock::now());
        if changed {
            self.apply().await;
        }
    }

    /// Control messages are repeated anyway; one that the socket refuses is counted and let go.
    fn transmit(&self, to: std::net::SocketAddr, datagram: &[u8]) {
        let family =
            |socket: &&Arc<UdpSocket>| socket.local_addr().is_ok_and(|local| local.is_ipv4() == to.is_ipv4());
        let Some(socket) = self.sockets.iter().find(family) else {
            self.counters.add(ipop_common::Counter::TxSendError, 1);
            debug!(%to, "no socket of this family");
            return;
        };
        if let Err(error) =
            SockRef::from(&**socket).send_to_with_flags(datagram, &to.into(), libc::MSG_DONTWAIT)
        {
            self.counters.add(ipop_common::Counter::TxSendError, 1);
            debug!(%to, %error, "control message not sent");
        }
    }

    /// Says goodbye and removes everything that this daemon set up.
    async fn stop(mut self, events: Events) {
        self.node.handle_command(Command::Goodbye, clock::now());
        while let Some(output) = self.node.poll_output() {
            if let Output::Transmit { to, datagram } = output {
                self.transmit(to, &datagram);
            }
        }
        events.control.shutdown().await;
        self.underlays.close(self.kernel.path.as_ref(), &self.netlink).await;
        if let Some(path) = self.kernel.path.take() {
            path.close();
        }
        if let Err(error) = self.user.stop() {
            debug!(%error, "the user path had ended");
        }
        self.device.close(&self.netlink).await;
    }
}

fn signals() -> Result<(Signal, Signal, Signal)> {
    let open = |kind| signal(kind).context("cannot wait for signals");
    Ok((open(SignalKind::terminate())?, open(SignalKind::interrupt())?, open(SignalKind::hangup())?))
}

/// A path in words, for the log.
struct Described(ipop_overlay::Path);

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use ipop_overlay::{NoPath, Path};
        match self.0 {
            Path::Kernel { endpoint, mtu } => write!(f, "direct-kernel to {endpoint}, MTU {mtu}"),
            Path::User { endpoint, mtu, .. } => write!(f, "direct-user to {endpoint}, MTU {mtu}"),
            Path::None(NoPath::NoEndpoint) => f.write_str("none: no endpoint is known"),
            Path::None(NoPath::PeerNotTrusted(ip)) => write!(f, "none: {ip} is in no trusted prefix"),
            Path::None(NoPath::SelfNotTrusted(ip)) => write!(f, "none: our {ip} is in no trusted prefix"),
            Path::None(NoPath::NoRoute) => f.write_str("none: no route"),
            Path::None(NoPath::NoAnswer) => f.write_str("none: no answer yet"),
            Path::None(NoPath::Silent) => f.write_str("none: the peer has fallen silent"),
        }
    }
}

/// A file's name for messages.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
