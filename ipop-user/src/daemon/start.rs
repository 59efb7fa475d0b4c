//! From a configuration to running data paths.
//!
//! The order matters: everything that can be refused without touching the host comes first, so
//! that a daemon that cannot start leaves nothing behind and does not disturb one that runs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use ipop_common::gpe::LinkId;
use ipop_common::limits::{KERNEL_PORT, LEASE_NS};
use ipop_common::maps::program;
use ipop_common::rules::Seed;
use ipop_common::sealed;
use ipop_overlay::dht::SigningKey;
use ipop_overlay::session::{AddError, Mac1Key, network_psk};
use ipop_overlay::{AddPeerError, Command, Config as NodeConfig, NetworkKey, Node, PeerConfig, PeerId};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::apply::Stale;
use super::device::{Carries, VirtualDevice};
use super::dhcp::Dhcp;
use super::dht::Dht;
use super::dns::Dns;
use super::groups::Groups;
use super::membership::{self, InGroup};
use super::names_asked;
use super::overlay;
use super::peers::{Origin, PeerState, Peers, mtu_max};
use super::pings::Pings;
use super::port_mapping::PortMapping;
use super::predecessor::outlive;
use super::probes::Probes;
use super::routing::Routing;
use super::sealing::{Identity, Partner, Sealing};
use super::streams::{self, Streams};
use super::stun::Stun;
use super::switch::{Switch, mac_of};
use super::turn::Turn;
use super::underlays::{Underlays, XdpPlan};
use super::waiting::{Applicant, Waited};
use super::{Daemon, Events, KernelSlot, Options, RENEWAL, clock, names, shown, signals};
use crate::api::DeviceKind;
use crate::config::{self, Config, Endpoint, Kernel, Mode, Mtu};
use crate::group::Membership;
use crate::kernel::{KernelPath, Settings, owner};
use crate::key::{PrivateKey, PublicKey, random_u64};
use crate::netlink::{Error as NetlinkError, Monitor, Netlink};
use crate::places::Places;
use crate::stun::Ear;
use crate::userpath::{
    Counters, Io, Listeners, QueueFiles, Settings as UserSettings, Table, UdpError, UserPath, bind_queues,
};
use crate::{config as cfg, control};

/// Events between the user path's threads and the cores; more at a time is a flood.
const EVENT_QUEUE: usize = 1024;
/// Handshake messages likewise.
const HANDSHAKE_QUEUE: usize = 128;
/// Datagrams for other nodes to carry likewise: some super-packets, each of which is up to fifty.
const CARRIED_QUEUE: usize = 512;
/// Packets to groups likewise.
const GROUP_QUEUE: usize = 512;
/// Requests of operators under way.
const REQUEST_QUEUE: usize = 16;
/// Of a large host's CPUs no more than this carry the daemon's packets unless it is told to.
const QUEUES_AUTO_MAX: usize = 8;
/// The MTU of the device until a link says otherwise: Ethernet under IPv4.
const DEFAULT_MTU: u32 = 1500 - sealed::overhead(ipop_common::Family::V4) as u32;

/// Starts everything; on an error, what was made is removed again. A node that is to be a member of a group becomes one
/// before; `None` if it is told to stop meanwhile.
pub(super) async fn start(options: &Options) -> Result<Option<(Daemon, Events)>> {
    let (mut config, private_key, mut warnings) = read(options)?;
    let mut signals = signals()?;
    let (request_tx, mut requests) = mpsc::channel(REQUEST_QUEUE);
    let control = control::serve(&config.node.control_socket, config.node.metrics, request_tx)
        .await
        .with_context(|| format!("cannot open the control socket {}", shown(&config.node.control_socket)))?;
    let mut conversation = membership::begin(&config, &private_key)?;
    if let Some(conversation) = conversation.as_mut().filter(|_| !config.is_member()) {
        let applicant = Applicant::new(&config, private_key.public_key());
        match applicant.wait(conversation, &mut requests, &mut signals).await? {
            Waited::Member(membership) => config.enter_group(membership)?,
            Waited::Stopped => {
                control.shutdown().await;
                return Ok(None);
            }
        }
    }
    let sockets = bind_all(&config.underlay.listen, queues(&config)).await?;
    let tcp = match &config.underlay.tcp {
        Some(addresses) => streams::listen(addresses, false)?,
        None => streams::listen(&config.underlay.listen, true)?,
    };
    let monitor = Monitor::open()?;
    let netlink = Netlink::connect()?;
    check_interfaces(&netlink, &config).await?;
    let (node, peers) = build_node(&config, &private_key).await?;
    let overlay = overlay::overlay(&config)?;
    let addresses = match (&config.dhcp, &overlay) {
        (Some(_), Some(overlay)) => overlay.leased(),
        _ => config.network.addresses.clone(),
    };

    let (user_tx, user_rx) = mpsc::channel(EVENT_QUEUE);
    let (handshake_tx, handshakes) = mpsc::channel(HANDSHAKE_QUEUE);
    let (carried_tx, carried) = mpsc::channel(CARRIED_QUEUE);
    let (group_tx, groups) = mpsc::channel(GROUP_QUEUE);
    let (ear, stun) = Ear::new();
    let (ask, names) = mpsc::channel(names_asked::QUEUE);
    let listeners = Listeners {
        events: user_tx,
        handshakes: handshake_tx,
        carried: carried_tx,
        groups: group_tx,
        stun: ear.clone(),
        mac1: Mac1Key::new(private_key.public_key().as_bytes()),
        cookies: Arc::default(),
    };
    let cookies = Arc::clone(&listeners.cookies);
    let (mut device, mut kernel) = make_device(&netlink, &config, &private_key.public_key(), options).await?;
    let table = Arc::new(ArcSwap::from_pointee(Table::new()));
    let counters = Arc::new(Counters::new());
    let started = async {
        let places = match &kernel.path {
            Some(path) => path.places(),
            None => Arc::new(Places::own().context("no memory for sessions")?),
        };
        places.filter().set_key(listeners.mac1.key(), random_u64()?);
        places.begin_flows(Seed(random_u64()?, random_u64()?));
        let sealing = build_sealing(&config, &private_key, &node, options, &places)?;
        let cut = config.datapath.seal == cfg::Seal::Kernel;
        device.configure(&netlink, &addresses, cut).await?;
        let sockets = with_kernel_port(sockets, &config, &device, &kernel).await?;
        let files = device.tuns.iter().cloned().zip(&sockets);
        let user = UserPath::start(UserSettings {
            queues: files.map(|(tun, sockets)| QueueFiles { tun, sockets: sockets.clone() }).collect(),
            io: io(&config),
            table: Arc::clone(&table),
            places,
            counters: Arc::clone(&counters),
            listeners,
        })?;
        Ok::<_, anyhow::Error>((sockets, user, sealing))
    };
    let (sockets, user, sealing) = match started.await {
        Ok(started) => started,
        Err(error) => {
            if let Some(path) = kernel.path.take() {
                path.close();
            }
            device.close(&netlink).await;
            return Err(error);
        }
    };
    warnings.extend(kernel.reason.iter().map(|reason| format!("kernel path: {reason}")));
    let is_switch = config.network.mode == Mode::L2;
    // Merging behind VXLAN-GPE came with Linux 6.5, behind VXLAN long before.
    let merges = device.kind == DeviceKind::Vxlan && (is_switch || kernel_at_least(6, 5));
    let (now, inlet) = (clock::now(), user.inlet());
    let turn = Turn::new(inlet.clone(), Arc::clone(&counters));
    let switch = is_switch.then(|| Switch::new(&private_key.public_key(), clock::now()));
    let mut daemon = Daemon {
        options: options.clone(),
        public_key: private_key.public_key(),
        node,
        sealing,
        peers,
        stale: Stale::default(),
        unsent: Vec::new(),
        underlays: Underlays::new(XdpPlan::decide(config.datapath.xdp, merges)),
        addresses,
        config,
        netlink,
        device,
        kernel,
        streams: Streams::new(inlet.clone(), Arc::clone(&counters), tcp),
        inlet,
        user,
        table,
        cookies,
        sockets: sockets.into_iter().next().unwrap_or_default(),
        overlay,
        port_mapping: PortMapping::start(Arc::clone(&counters)),
        counters,
        stun: Stun::new(ear),
        turn,
        dns: Dns::new(ask),
        groups: Groups::default(),
        group: conversation.map(InGroup::new),
        signed: Vec::new(),
        switch,
        dht: Dht::default(),
        dhcp: Dhcp::default(),
        routing: Routing::default(),
        pings: Pings::default(),
        probes: Probes::default(),
        warnings,
        started: now,
        next_renewal: now.after(RENEWAL),
        next_look: now.after(RENEWAL),
        refresh_at: None,
    };
    let events = Events {
        user: user_rx,
        handshakes,
        carried,
        groups,
        stun,
        names,
        requests,
        monitor,
        control,
        signals,
    };
    if let Err(error) = daemon.begin().await {
        daemon.stop(events).await;
        return Err(error);
    }
    Ok(Some((daemon, events)))
}

impl Daemon {
    /// The first round: what is adopted is sorted out, paths are resolved, peers are greeted.
    async fn begin(&mut self) -> Result<()> {
        let keep = self.peers.values().map(|peer| peer.link_id).collect();
        if let Some(path) = &mut self.kernel.path {
            path.retain(&keep)?;
        }
        self.set_kernel_local()?;
        self.adopt_sessions();
        if let Some(path) = &mut self.kernel.path {
            path.attach_devices()?;
        }
        let interfaces = self.config.underlay.interfaces.clone().unwrap_or_default();
        for name in &interfaces {
            let link = self.netlink.link(name.as_str()).await?;
            self.attach_underlay(link.ifindex, &link.name).await?;
        }
        self.refresh().await;
        if let Some(path) = &mut self.kernel.path {
            path.settle();
        }
        self.demand_xdp()?;
        self.tell_core_about_kernel();
        self.join_overlay();
        self.refresh_places().await;
        self.follow_routing();
        self.node.handle_command(Command::Announce, clock::now());
        self.follow_dns().await;
        self.begin_groups();
        self.report_ready();
        Ok(())
    }

    /// Goes on with the sessions that an earlier daemon left in the kernel.
    fn adopt_sessions(&mut self) {
        let adopted = self.kernel.path.as_ref().map(KernelPath::adopted_sessions).unwrap_or_default();
        for session in adopted {
            let peer = self.peers.values().find(|peer| peer.link_id == session.link).map(|peer| peer.id);
            let local = session.agreed.local;
            match peer {
                Some(peer) => drop(self.sealing.adopt(peer, &session.agreed)),
                None => self.sealing.places().of(local).vacate(),
            }
        }
        self.tell_core_about_sessions();
    }

    /// The core must know with which peers there are sessions.
    pub(super) fn tell_core_about_sessions(&mut self) {
        for peer in self.peers.values() {
            let local_index = self.sealing.current(peer.id).map(|session| session.local());
            self.node.handle_command(Command::Session { peer: peer.id, local_index }, clock::now());
        }
    }

    /// The core must know on which port this node's kernel path receives, if at all.
    pub(super) fn tell_core_about_kernel(&mut self) {
        let on = self.kernel.path.as_ref().is_some_and(KernelPath::enabled);
        let port = if on { KERNEL_PORT } else { 0 };
        self.node.handle_command(Command::Kernel { port, send: on }, clock::now());
    }

    fn report_ready(&self) {
        let kernel = self.kernel.path.as_ref().map_or("unavailable", |_| "on");
        info!(
            device = self.device.name,
            kernel,
            io = ?self.user.io(),
            peers = self.peers.len(),
            key = %self.public_key,
            "ready"
        );
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            warn!(%error, "the service manager was not told");
        }
    }
}

/// Reads and checks the configuration and the key.
pub(super) fn read(options: &Options) -> Result<(Config, PrivateKey, Vec<String>)> {
    let loaded = config::load(&options.config)?;
    let key = PrivateKey::read(&loaded.config.node.key_file)?;
    loaded.config.check_own_key(&options.config, &key.public_key())?;
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    for warning in &warnings {
        warn!("{warning}");
    }
    let mut config = loaded.config;
    if let Some(group) = &config.group
        && let Some(membership) =
            Membership::read(&config.node.state_dir, &group.place, key.public_key().as_bytes())?
    {
        config.enter_group(Box::new(membership))?;
    }
    Ok((config, key, warnings))
}

/// Sockets for each queue. A host without IPv6 listens on what it has.
async fn bind_all(listen: &[SocketAddr], queues: usize) -> Result<Vec<Vec<Arc<UdpSocket>>>> {
    let mut sockets = vec![Vec::with_capacity(listen.len()); queues];
    for address in listen {
        let in_use = |error: &UdpError| matches!(error, UdpError::PortInUse { .. });
        match outlive(|| bind_queues(*address, queues), in_use).await {
            Ok(bound) => {
                sockets.iter_mut().zip(bound).for_each(|(queue, socket)| queue.push(Arc::new(socket)));
            }
            Err(UdpError::Os { source, .. }) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                warn!(%address, "this host has no such address family: not listening there");
            }
            Err(error) => return Err(error.into()),
        }
    }
    if sockets.iter().all(Vec::is_empty) && !listen.is_empty() {
        bail!("none of the addresses in underlay.listen can be used on this host: name one that it has");
    }
    Ok(sockets)
}

async fn check_interfaces(netlink: &Netlink, config: &Config) -> Result<()> {
    for name in config.underlay.interfaces.iter().flatten() {
        netlink.link(name.as_str()).await.context("underlay.interfaces")?;
    }
    Ok(())
}

/// Makes the core and the daemon's record of each peer.
pub(super) async fn build_node(config: &Config, key: &PrivateKey) -> Result<(Node, Peers)> {
    let secret = config.network.secret.as_ref().map(cfg::Secret::expose).unwrap_or_default();
    let mut peers = Vec::with_capacity(config.peers.len());
    for peer in &config.peers {
        let endpoint = match &peer.endpoint {
            Some(endpoint) => lookup(endpoint).await,
            None => None,
        };
        peers.push(PeerConfig {
            public_key: *peer.public_key.as_bytes(),
            endpoint: endpoint.map(Into::into),
            is_found: false,
        });
    }
    let node_config = NodeConfig {
        public_key: *key.public_key().as_bytes(),
        network: NetworkKey::derive(&config.network.name, secret),
        peers,
        trusted: trusted(config),
        mtu_max: mtu_max(config.network.mtu),
        boot: clock::unix_ns(),
        lease: std::time::Duration::from_nanos(LEASE_NS),
    };
    let name = |id: PeerId| config.peers.get(id.0).map_or("?", |peer| peer.name.as_str());
    let node = Node::new(&node_config, clock::unix_ns(), clock::now());
    let mut node = node.map_err(|(id, error)| match error {
        AddPeerError::KeyTaken(other) | AddPeerError::LinkIdTaken(other) => anyhow::anyhow!(
            "peers {} and {} derive the same link id: give one of them another key",
            name(other),
            name(id)
        ),
        AddPeerError::TooMany => anyhow::anyhow!("peer {}: {error}", name(id)),
    })?;
    if let Some(membership) = config.group.as_ref().and_then(|group| group.membership.as_ref()) {
        node.set_credentials(&membership.credentials, clock::unix_ns() / 1_000_000, clock::now())?;
    }
    node.set_signing_key(SigningKey::new(&(*key.expose()).into()));
    let link_id = |id| node.peer(id).map(|view| view.link_id);
    let states = config.peers.iter().enumerate().filter_map(|(index, peer)| {
        let id = PeerId(index);
        let link_id: LinkId = link_id(id)?;
        Some((id, PeerState::new(id, link_id, Origin::Configured, peer.clone())))
    });
    let states = states.collect();
    Ok((node, states))
}

/// Where links may be clear.
pub(super) fn trusted(config: &Config) -> Vec<(IpAddr, u8)> {
    match config.datapath.security {
        cfg::Security::Sealed => Vec::new(),
        cfg::Security::ClearIfTrusted => {
            config.underlay.trusted.iter().map(|p| (p.addr(), p.len())).collect()
        }
    }
}

/// Makes the sessions' core, which knows the peers and where they are as the node does.
pub(super) fn build_sealing(
    config: &Config,
    key: &PrivateKey,
    node: &Node,
    options: &Options,
    places: &Arc<Places>,
) -> Result<Sealing> {
    let secret = config.network.secret.as_ref().map(cfg::Secret::expose).unwrap_or_default();
    let identity = Identity { private_key: (*key.expose()).into(), psk: network_psk(secret) };
    let partners = config.peers.iter().enumerate().map(|(index, peer)| {
        let id = PeerId(index);
        let endpoint = node.peer(id).and_then(|view| view.endpoint);
        Partner { id, public_key: *peer.public_key.as_bytes(), endpoint, is_found: false }
    });
    let partners: Vec<Partner> = partners.collect();
    let sealing = Sealing::new(identity, &partners, options.timers, Arc::clone(places));
    sealing.map_err(|(id, error): (PeerId, AddError)| {
        let name = config.peers.get(id.0).map_or("?", |peer| peer.name.as_str());
        anyhow::anyhow!("peer {name}: {error}")
    })
}

/// The address of an endpoint; a name that does not resolve now is tried again later.
pub(super) async fn lookup(endpoint: &Endpoint) -> Option<SocketAddr> {
    match names::look_up(endpoint).await {
        Ok(addresses) => addresses.first().copied(),
        Err(error) => {
            warn!(%endpoint, %error, "endpoint not resolved");
            None
        }
    }
}

fn first_mtu(config: &Config) -> u32 {
    match config.network.mtu {
        Mtu::Auto => DEFAULT_MTU - u32::from(config.network.frame_overhead()),
        Mtu::Bytes(bytes) => u32::from(bytes - config.network.frame_overhead()),
    }
}

/// The virtual device and the kernel path, as far as the configuration wants it and the host has it.
async fn make_device(
    netlink: &Netlink,
    config: &Config,
    public_key: &PublicKey,
    options: &Options,
) -> Result<(VirtualDevice, KernelSlot)> {
    let name = config.network.device.as_str();
    let (mtu, queues) = (first_mtu(config), queues(config));
    let off = |reason: String| KernelSlot { path: None, reason: Some(reason) };
    let carries = match config.network.mode {
        Mode::L3 => Carries::Packets,
        Mode::L2 => Carries::Frames(mac_of(public_key.as_bytes())),
    };
    if config.datapath.kernel == Kernel::Off {
        let device = VirtualDevice::tun(netlink, name, mtu, queues, carries).await?;
        return Ok((device, off("datapath.kernel = \"off\" in the configuration".to_owned())));
    }
    match kernel_device(netlink, config, mtu, carries, options).await {
        Ok((device, path)) => Ok((device, KernelSlot { path: Some(path), reason: None })),
        Err(error) if config.datapath.kernel == Kernel::On => {
            Err(error.context("datapath.kernel = \"on\", and the kernel path cannot be had"))
        }
        Err(error) => {
            let reason = format!("{error:#}");
            warn!(reason, "no kernel path, the user path carries everything");
            let device = VirtualDevice::tun(netlink, name, mtu, queues, carries).await?;
            Ok((device, off(reason)))
        }
    }
}

/// A device with the programs loaded for it: VXLAN where the kernel has it, else a TUN. Frames need it: without its
/// receive offload, and what it does with super-packets for stations behind a bridge, the daemon is better.
async fn kernel_device(
    netlink: &Netlink,
    config: &Config,
    mtu: u32,
    carries: Carries,
    options: &Options,
) -> Result<(VirtualDevice, KernelPath)> {
    let (name, queues) = (config.network.device.as_str(), queues(config));
    let device = match (VirtualDevice::vxlan(netlink, name, mtu, queues, carries).await, carries) {
        (Ok(device), _) => device,
        (Err(error), Carries::Packets) if matches!(error.downcast_ref(), Some(NetlinkError::NoVxlan)) => {
            info!("this kernel has no VXLAN: the virtual device is a TUN");
            VirtualDevice::tun(netlink, name, mtu, queues, carries).await?
        }
        (Err(error), _) => return Err(error),
    };
    let settings = Settings {
        programs: match carries {
            Carries::Packets => program::Set::L3,
            Carries::Frames(_) => program::Set::L2,
        },
        device_ifindex: device.ifindex,
        miss_ifindex: device.helper_ifindex,
        owner: owner(name)?,
        sealed_port: sealed_port(config),
        log: options.log_datapath,
    };
    match KernelPath::open(settings) {
        Ok(path) => Ok((device, path)),
        Err(error) => {
            device.close(netlink).await;
            Err(error.into())
        }
    }
}

/// The port of the daemon's on which the kernel path takes sealed packets.
pub(super) fn sealed_port(config: &Config) -> u16 {
    config.underlay.listen.first().map_or(0, SocketAddr::port)
}

/// Where no VXLAN device owns the kernel path's port, the daemon does: what the programs leave to
/// the stack then comes to the user path, and nobody else can take the port.
async fn with_kernel_port(
    mut sockets: Vec<Vec<Arc<UdpSocket>>>,
    config: &Config,
    device: &VirtualDevice,
    kernel: &KernelSlot,
) -> Result<Vec<Vec<Arc<UdpSocket>>>> {
    if kernel.path.is_some() && device.kind == DeviceKind::Tun {
        let addresses = config.underlay.listen.iter().map(|a| SocketAddr::new(a.ip(), KERNEL_PORT));
        let mut addresses: Vec<SocketAddr> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        let more = bind_all(&addresses, sockets.len()).await?;
        sockets.iter_mut().zip(more).for_each(|(queue, more)| queue.extend(more));
    }
    Ok(sockets)
}

/// How many threads carry the daemon's packets.
fn queues(config: &Config) -> usize {
    match config.datapath.queues {
        config::Queues::Number(number) => number.get().into(),
        config::Queues::Auto => {
            let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            (cpus / 2).clamp(1, QUEUES_AUTO_MAX)
        }
    }
}

fn io(config: &Config) -> Io {
    match config.datapath.io {
        config::Io::Auto => Io::Auto,
        config::Io::IoUring => Io::IoUring,
        config::Io::Epoll => Io::Epoll,
    }
}

/// Whether the running kernel is at least this release.
fn kernel_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

impl Daemon {
    /// XDP that the operator demands must be on every interface that carries links.
    fn demand_xdp(&self) -> Result<()> {
        match self.underlays.failure() {
            Some(reason) => bail!("{reason}"),
            None => Ok(()),
        }
    }
}
