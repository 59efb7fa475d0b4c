//! The DNS of the virtual network: a node answers `HOST.NETWORK.ipop` at its own virtual address, and sees to it that
//! this host's programs ask there.
//!
//! | file | what |
//! |---|---|
//! | `directory` | who has which name: asked of what the daemon publishes |
//! | `zone` | what there is at a name, or why there is nothing |
//! | `message` | queries and answers as bytes |
//! | `limits` | how much one may ask |
//! | `server` | sockets and tasks |
//! | `forward` | names of elsewhere |
//! | `resolver` | systemd-resolved, /etc/resolv.conf |
//!
//! It runs on a thread of its own: queries take nothing from the task that keeps the links. That it cannot serve, or
//! that no resolver leads to it, is said in the status and keeps nothing else from working.

mod directory;
mod forward;
mod limits;
mod message;
mod resolver;
mod server;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use hickory_proto::op::ResponseCode;
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::forward::Forward;
use self::message::Query;
use self::resolver::{Plan, RESOLV_CONF, ResolverError};
use self::server::{Server, bind};
use self::zone::Zone;
use crate::config::{self, Config, Prefix};
use crate::userpath::Counters;

pub use self::directory::{Directory, Hosts, NoAnswer, Offer, Published};
pub(crate) use self::zone::is_service;

/// Of no registry, and of no resolver but ours.
pub const TLD: &str = "ipop";
/// RFC 1035.
pub const PORT: u16 = 53;
/// How long others may keep an answer: a host that has moved is found again soon.
pub const TTL_S: u32 = 30;
/// For the resolver to be told in the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What follows from the configuration; a service with others is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub dns: config::Dns,
    pub network: String,
    pub node: String,
    pub addresses: Vec<Prefix>,
    pub device: String,
    pub ifindex: u32,
    pub state_dir: PathBuf,
}

impl Settings {
    pub fn new(config: &Config, addresses: &[Prefix], device: &str, ifindex: u32) -> Self {
        Self {
            dns: config.dns.clone(),
            network: config.network.name.clone(),
            node: config.node.name.clone(),
            addresses: addresses.to_vec(),
            device: device.to_owned(),
            ifindex,
            state_dir: config.node.state_dir.clone(),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            kind: self.dns.resolver,
            device: self.device.clone(),
            ifindex: self.ifindex,
            state_dir: self.state_dir.clone(),
            resolv_conf: Path::new(RESOLV_CONF).to_owned(),
            servers: Vec::new(),
            domains: Vec::new(),
            search: self.dns.search,
        }
    }
}

/// What a node answers by UDP to those whom it answers, where it passes nothing on: without sockets, for who wants to
/// try what may come.
#[derive(Debug)]
pub struct Answerer {
    zone: Zone,
    hosts: Published,
}

impl Answerer {
    /// For the zone of `network`, served by `node`; `None`: a name is none of the DNS.
    pub fn new(network: &str, node: &str, addresses: &[Prefix], hosts: Hosts) -> Option<Self> {
        let zone = Zone::new(network, node, addresses).ok()?;
        Some(Self { zone, hosts: Published(Arc::new(ArcSwap::from_pointee(hosts))) })
    }

    /// The answer to a message; an error says that it is malformed, and what that is answered.
    pub fn answer(&self, bytes: &[u8]) -> Result<Vec<u8>, Option<Vec<u8>>> {
        let query = Query::parse(bytes).map_err(|malformed| malformed.0)?;
        let found = self.zone.answer(query.name(), query.kind(), &self.hosts);
        // What is published is there at once.
        let found = found.now_or_never().and_then(Result::ok).flatten();
        Ok(match found.filter(|_| query.is_plain()) {
            Some(answer) => query.answer(answer, false, query.udp_max()),
            None => query.failure(ResponseCode::Refused),
        })
    }
}

/// What has come of it so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Where queries are answered.
    pub listen: Vec<SocketAddr>,
    /// `NETWORK.ipop`.
    pub domain: Option<String>,
    /// Why nothing is answered, or not everywhere.
    pub reason: Option<String>,
    /// Which resolver leads here.
    pub resolver: Option<&'static str>,
    /// Why none does.
    pub resolver_reason: Option<String>,
    /// Who is asked for names of elsewhere.
    pub forward: Vec<SocketAddr>,
    /// Something is not as it was asked for.
    pub warnings: Vec<String>,
    file: Option<resolver::File>,
}

impl State {
    /// The file in which somebody else has removed what leads here.
    pub fn rewritten(&self) -> Option<&Path> {
        self.file.as_ref().filter(|file| !file.is_in_place()).map(resolver::File::path)
    }
}

/// A service that runs, on its thread.
#[derive(Debug)]
pub struct Service {
    state: Arc<ArcSwap<State>>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Service {
    /// Begins; what an earlier run has left behind is undone in any case.
    pub fn start<D: Directory>(
        settings: Settings,
        directory: D,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let state = Arc::new(ArcSwap::default());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("ipop-dns".to_owned()).spawn(move || {
            runtime.block_on(run(&settings, directory, counters, &shared, stopped));
            drop(end);
        })?;
        Ok(Self { state, stop, ended, thread })
    }

    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Undoes everything, as far as the resolver answers soon.
    pub async fn close(self) {
        drop(self.stop);
        match tokio::time::timeout(FAREWELL, self.ended).await {
            Ok(_) => drop(self.thread.join()),
            Err(_) => warn!("the resolver does not answer: what it was told is left to the next run"),
        }
    }
}

async fn run<D: Directory>(
    settings: &Settings,
    directory: D,
    counters: Arc<Counters>,
    shared: &ArcSwap<State>,
    stopped: oneshot::Receiver<()>,
) {
    let mut plan = settings.plan();
    plan.clean_up().await;
    let mut state = State::default();
    let installed = match begin(settings, directory, counters, &mut state) {
        Ok(servers) => {
            shared.store(Arc::new(state.clone()));
            plan.servers = state.listen.iter().map(SocketAddr::ip).collect();
            plan.domains = servers.domains;
            let installed = plan.install().await;
            match &installed {
                Ok(installed) => {
                    state.resolver = Some(installed.name());
                    state.file = installed.file().cloned();
                    if let (resolver::Installed::File { previous, .. }, true) =
                        (installed, state.forward.is_empty())
                    {
                        state.forward.clone_from(previous);
                        servers.forward.store(Arc::new(previous.clone()));
                    }
                }
                Err(error) => {
                    if !matches!(error, ResolverError::Off) {
                        warn!(%error, "no resolver leads to this node's DNS");
                        state.warnings.push(format!("dns: no resolver leads here: {error}"));
                    }
                    state.resolver_reason = Some(error.to_string());
                }
            }
            info!(domain = state.domain, listen = ?state.listen, resolver = state.resolver, "DNS");
            installed.ok()
        }
        Err(reason) => {
            if settings.dns.enabled {
                warn!(reason, "no DNS");
                state.warnings.push(format!("dns: {reason}"));
            }
            state.reason = Some(reason);
            None
        }
    };
    shared.store(Arc::new(state));
    // Whether it is said or nobody is there any more to say it.
    drop(stopped.await);
    if let Some(installed) = installed {
        plan.undo(&installed).await;
    }
}

/// What the resolver is to know of a server that runs, and where to queries go on.
struct Begun {
    domains: Vec<String>,
    forward: Arc<ArcSwap<Vec<SocketAddr>>>,
}

/// Opens the sockets and serves them.
fn begin<D: Directory>(
    settings: &Settings,
    directory: D,
    counters: Arc<Counters>,
    state: &mut State,
) -> Result<Begun, String> {
    if !settings.dns.enabled {
        return Err("dns.enabled = false in the configuration".to_owned());
    }
    let zone = Zone::new(&settings.network, &settings.node, &settings.addresses);
    let zone = zone.map_err(|error| error.to_string())?;
    let mut bound = Vec::new();
    let mut failures = Vec::new();
    for prefix in &settings.addresses {
        let address = SocketAddr::new(prefix.addr(), PORT);
        match bind(address) {
            Ok(sockets) => {
                state.listen.push(address);
                bound.push(sockets);
            }
            Err(error) => failures.push(format!("cannot listen at {address}: {error}")),
        }
    }
    let failure = Some(failures.join("; ")).filter(|text| !text.is_empty());
    if bound.is_empty() {
        return Err(failure.unwrap_or_else(|| "this node has no virtual address".to_owned()));
    }
    if let Some(reason) = failure {
        warn!(reason, "DNS");
        state.warnings.push(format!("dns: {reason}"));
        state.reason = Some(reason);
    }
    state.domain = Some(zone.domain());
    let own = |server: &SocketAddr| state.listen.contains(server);
    state.forward = settings.dns.forward.iter().copied().filter(|server| !own(server)).collect();
    let domains = std::iter::once(zone.domain()).chain(zone.reverse_domains()).collect();
    let forward = Arc::new(ArcSwap::from_pointee(state.forward.clone()));
    let server = Arc::new(Server::new(
        zone,
        directory,
        Forward::new(Arc::clone(&forward), Arc::clone(&counters)),
        counters,
        (settings.addresses.clone(), settings.dns.serve),
    ));
    for (udp, tcp) in bound {
        tokio::spawn(Arc::clone(&server).serve_udp(udp));
        tokio::spawn(Arc::clone(&server).serve_tcp(tcp));
    }
    Ok(Begun { domains, forward })
}
