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
//! | `overlay` | ways in, whom the ring wants, who has which address |
//! | `groups` | multicast and broadcast in the virtual network |
//! | `members` | peers that come and go |
//! | `membership` | this node in its group: the server's word, certificates that are refused |
//! | `waiting` | before this node is a member of its group |
//! | `sealing` | the sessions with the peers |
//! | `relays` | what this node passes on between others, and others for it |
//! | `switch` | a virtual network that carries Ethernet |
//! | `streams` | TCP, for hosts that UDP does not reach |
//! | `apply` | bringing host, tables and maps to what the core decided |
//! | `dhcp` | addresses and names in the DHT: this node's, and whose others' are |
//! | `names_asked` | what the DNS wants to know and this node has to ask for |
//! | `routing` | subnets behind other nodes, and this node's own |
//! | `dns` | the names of the virtual network |
//! | `answers` | what the control socket asks |
//! | `ring` | this node's part in the overlay, as an operator sees it |
//! | `probes` | what an operator asks of other nodes |
//! | `port_mapping` | a port of the router's that leads here |
//! | `stun` | servers that say where they see this node, and the hairpin |
//! | `pings` | round trips that an operator asked for |
//! | `predecessor` | what a killed daemon still holds |
//! | `clock` | time |

mod answers;
mod apply;
mod bootstrap;
mod clock;
mod device;
mod dhcp;
mod dht;
mod dns;
mod groups;
mod handover;
mod lan;
mod members;
mod membership;
mod names;
mod names_asked;
mod overlay;
mod peers;
mod pings;
mod port_mapping;
mod predecessor;
mod probes;
mod relays;
mod remembered;
mod ring;
mod routing;
mod sealing;
mod start;
mod streams;
mod stun;
mod switch;
mod turn;
mod underlays;
mod waiting;

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::{ArcSwap, ArcSwapOption};
use ipop_common::Counter;
use ipop_common::wireguard::{TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE, TYPE_TRANSPORT};
use ipop_overlay::group::Kind;
use ipop_overlay::session::{CookieKey, Handled, Timers};
use ipop_overlay::{Command, Endpoint, Instant, Node, NodeAddress, Output, PeerId, Refusal, introduction};
use socket2::SockRef;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::config::{Config, Prefix};
use crate::control::{Request, ServerHandle};
use crate::group::{Membership, Word};
use crate::kernel::KernelPath;
use crate::key::PublicKey;
use crate::netlink::{Change, Monitor, Netlink};
use crate::stun::Heard;
use crate::userpath::{
    CarriedDatagram, Counters, GroupPacket, HandshakeDatagram, Inlet, RunError, Table, UserEvent, UserPath,
};

use apply::Stale;
use device::VirtualDevice;
use dhcp::Dhcp;
use dht::Dht;
use dns::Dns;
use groups::Groups;
use membership::InGroup;
use overlay::Overlay;
use peers::{Origin, Peers, of_user_slot};
use pings::Pings;
use port_mapping::PortMapping;
use probes::Probes;
use routing::Routing;
use sealing::{Deed, Sealing};
use streams::Streams;
use stun::Stun;
use switch::Switch;
use turn::Turn;
use underlays::Underlays;

/// How often leases are renewed: many times within one.
const RENEWAL: Duration = Duration::from_secs(1);
/// How often is looked at what the data paths carry, while they do.
const LOOK: Duration = Duration::from_millis(200);
/// A peer that has missed two hellos may have another link-layer address than the one cached.
const SILENCE: Duration = Duration::from_millis(2500);
/// Changes of the host's network come in bursts; this long after the first, all are looked at.
const SETTLE: Duration = Duration::from_millis(5);
/// Events of one kind taken at a time.
const BURST: usize = 31;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Load the programs that log every refusal.
    pub log_datapath: bool,
    /// How long sessions last; [`Timers::WIREGUARD`] but for tests.
    pub timers: Timers,
}

/// Runs the daemon until it is told to stop.
pub async fn run(options: &Options) -> Result<()> {
    // A node that its group has removed waits anew to be a member.
    while let Some((mut daemon, mut events)) = start::start(options).await? {
        let outcome = daemon.serve(&mut events).await;
        daemon.stop(events).await;
        if outcome? == End::Told {
            break;
        }
    }
    Ok(())
}

/// Why a daemon's network ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Told,
    NoMember,
}

/// What the system tells the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Everything that the daemon waits for.
struct Events {
    user: mpsc::Receiver<UserEvent>,
    handshakes: mpsc::Receiver<HandshakeDatagram>,
    carried: mpsc::Receiver<CarriedDatagram>,
    groups: mpsc::Receiver<GroupPacket>,
    stun: mpsc::Receiver<Heard>,
    names: names_asked::Asks,
    requests: mpsc::Receiver<Request>,
    monitor: Monitor,
    control: ServerHandle,
    signals: Signals,
}

enum Event {
    User(UserEvent),
    Handshake(HandshakeDatagram),
    Carried(CarriedDatagram),
    Group(GroupPacket),
    /// Of the ways into the overlay.
    Word(bootstrap::Word),
    /// Of the TCP connections.
    Stream(streams::Word),
    /// Of the router.
    Router,
    Stun(Heard),
    /// Of a connection to a TURN server.
    Turn(turn::Word),
    /// Of a STUN server.
    StunName(stun::Name),
    /// The DNS wants to know something.
    Name(names_asked::Ask),
    Request(Request),
    /// Of the group's server.
    Server(Word),
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
    /// This node's addresses in the virtual network by now, host bits kept.
    addresses: Vec<Prefix>,
    public_key: PublicKey,
    node: Node,
    sealing: Sealing,
    peers: Peers,
    /// What of the peers the data paths do not know yet.
    stale: Stale,
    /// What the sessions want sent, once the data paths know of them.
    unsent: Vec<(Endpoint, Vec<u8>)>,
    netlink: Netlink,
    device: VirtualDevice,
    kernel: KernelSlot,
    underlays: Underlays,
    user: UserPath,
    inlet: Inlet,
    streams: Streams,
    table: Arc<ArcSwap<Table>>,
    counters: Arc<Counters>,
    /// What the data threads know cookies by.
    cookies: Arc<ArcSwapOption<CookieKey>>,
    sockets: Vec<Arc<UdpSocket>>,
    /// `None` where the peers are those of the configuration and no others.
    overlay: Option<Overlay>,
    port_mapping: PortMapping,
    stun: Stun,
    turn: Turn,
    dns: Dns,
    groups: Groups,
    /// `None` where the network has no group.
    group: Option<InGroup>,
    /// What peers have given that the group's authority has signed.
    signed: Vec<(Kind, Vec<u8>)>,
    /// `Some` where the network carries Ethernet.
    switch: Option<Switch>,
    dht: Dht,
    dhcp: Dhcp,
    routing: Routing,
    pings: Pings,
    probes: Probes,
    warnings: Vec<String>,
    started: Instant,
    next_renewal: Instant,
    /// When is looked at what the data paths have carried.
    next_look: Instant,
    /// When changes of the host's network are to be looked at.
    refresh_at: Option<Instant>,
}

impl Daemon {
    async fn serve(&mut self, events: &mut Events) -> Result<End> {
        loop {
            self.drain().await;
            match self.wait(events).await? {
                Event::User(event) => {
                    // An echo that comes back is taken for behind all that the data threads had carried.
                    for _ in 0..events.carried.len() {
                        let Ok(datagram) = events.carried.try_recv() else { break };
                        self.send_on(&datagram);
                    }
                    self.on_user_event(&event);
                    // Events come in bursts; each look at what follows from them costs more than they.
                    for _ in 0..BURST {
                        let Ok(event) = events.user.try_recv() else { break };
                        self.on_user_event(&event);
                    }
                }
                Event::Handshake(handshake) => {
                    self.shake(handshake.from, &handshake.bytes);
                    for _ in 0..BURST {
                        let Ok(handshake) = events.handshakes.try_recv() else { break };
                        self.shake(handshake.from, &handshake.bytes);
                    }
                }
                Event::Carried(datagram) => {
                    self.send_on(&datagram);
                    for _ in 0..BURST {
                        let Ok(datagram) = events.carried.try_recv() else { break };
                        self.send_on(&datagram);
                    }
                }
                Event::Group(packet) => {
                    self.send_to_group(&packet);
                    for _ in 0..BURST {
                        let Ok(packet) = events.groups.try_recv() else { break };
                        self.send_to_group(&packet);
                    }
                }
                Event::Word(word) => self.hear_word(word),
                Event::Stream(word) => self.hear_stream(word),
                Event::Router => self.router_answered(),
                Event::Stun(heard) => self.hear_stun(&heard),
                Event::Turn(word) => self.hear_turn(word),
                Event::StunName(name) => self.server_found(name),
                Event::Name(ask) => self.ask_for_name(ask),
                Event::Request(request) => self.answer(request).await,
                Event::Server(word) => {
                    if !self.hear_server(word).await {
                        Membership::forget(&self.config.node.state_dir)?;
                        return Ok(End::NoMember);
                    }
                }
                Event::Change(change) => self.on_change(change),
                Event::Timer => self.on_timer().await,
                Event::Reload => match self.reload().await {
                    Ok(message) => info!("{message}"),
                    Err(error) => warn!("not reloaded: {error}"),
                },
                Event::Stop(signal) => {
                    info!(signal, "stopping");
                    return Ok(End::Told);
                }
                Event::UserPath(error) => return Err(error).context("the user path failed"),
            }
        }
    }

    async fn wait(&mut self, events: &mut Events) -> Result<Event> {
        let wait = clock::until(self.next_deadline());
        Ok(tokio::select! {
            Some(event) = events.user.recv() => Event::User(event),
            Some(handshake) = events.handshakes.recv() => Event::Handshake(handshake),
            Some(datagram) = events.carried.recv() => Event::Carried(datagram),
            Some(packet) = events.groups.recv() => Event::Group(packet),
            word = bootstrap::next_word(&mut self.overlay) => Event::Word(word),
            word = self.streams.next_word() => Event::Stream(word),
            () = self.port_mapping.changed() => Event::Router,
            word = self.turn.next_word() => Event::Turn(word),
            Some(heard) = events.stun.recv() => Event::Stun(heard),
            Some(name) = self.stun.names.1.recv() => Event::StunName(name),
            Some(ask) = events.names.recv() => Event::Name(ask),
            Some(request) = events.requests.recv() => Event::Request(request),
            change = events.monitor.next() => Event::Change(change?),
            () = tokio::time::sleep(wait) => Event::Timer,
            word = membership::next_word(&mut self.group) => Event::Server(word),
            _ = events.signals.terminate.recv() => Event::Stop("SIGTERM"),
            _ = events.signals.interrupt.recv() => Event::Stop("SIGINT"),
            _ = events.signals.hangup.recv() => Event::Reload,
            error = self.user.failed() => Event::UserPath(error),
        })
    }

    fn next_deadline(&self) -> Instant {
        let core = self.node.poll_timeout().map(|(at, _)| at);
        let others = [
            core,
            self.sealing.poll_timeout(),
            Some(self.next_renewal),
            Some(self.next_look),
            self.refresh_at,
            self.pings.next_deadline(),
            self.handover_deadline(),
            self.probes.next_deadline(),
            self.overlay.as_ref().and_then(Overlay::next_deadline),
            self.stun.next_deadline(),
            self.turn.next_deadline(),
            self.dhcp.next_deadline(),
            self.routing.next_deadline(),
            self.groups.next_deadline(),
        ];
        others.into_iter().flatten().min().unwrap_or(self.next_renewal)
    }

    fn on_user_event(&mut self, event: &UserEvent) {
        match event {
            UserEvent::Message { local, text, received_at_ns } => {
                // A session that has ended meanwhile says nothing any more.
                let Some(peer) = self.sealing.peer_of(*local) else { return };
                let at = Instant::from_nanos(*received_at_ns);
                match self.node.handle_message(peer, text, at) {
                    Ok(()) => self.counters.add(Counter::RxHello, 1),
                    Err(Refusal(counter)) => {
                        debug!(
                            peer = self.name_of(peer),
                            counter = counter.name(),
                            "control message refused"
                        );
                        self.counters.add(counter, 1);
                    }
                }
            }
            UserEvent::SessionWanted { slot } => self.sealing.want(of_user_slot(*slot)),
            UserEvent::OwnerWanted { address } => self.find_owner(*address),
            UserEvent::StationHere { mac } => self.station_here(*mac),
            UserEvent::StationThere { slot, mac } => self.station_there(of_user_slot(*slot), *mac),
            UserEvent::MembershipSaid => self.follow_memberships_soon(),
            UserEvent::Authenticated { local, from } => {
                if let Some(peer) = self.sealing.authenticated(*local, *from) {
                    self.node.handle_command(Command::Alive { peer }, clock::now());
                    // The next event may be a message of this session, which the node is to know by then.
                    self.follow_sessions();
                }
            }
        }
    }

    fn shake(&mut self, from: Endpoint, datagram: &[u8]) {
        if datagram.first() == Some(&introduction::TYPE) {
            if let Err(Refusal(counter)) = self.introduced(from, datagram) {
                self.counters.add(counter, 1);
            }
            return;
        }
        let handled = match self.sealing.handshake(from, datagram) {
            Ok(Handled::Done) => Ok(()),
            Ok(Handled::Stranger(key)) => self.admit_stranger(PublicKey::from_bytes(key)),
            Err(refusal) => Err(refusal),
        };
        match handled {
            Ok(()) => self.counters.add(Counter::RxHandshake, 1),
            Err(Refusal(counter)) => {
                debug!(%from, counter = counter.name(), "handshake message refused");
                self.counters.add(counter, 1);
            }
        }
    }

    /// Tells the cores what the data paths have carried, and keeps a session with every peer.
    fn look_at_sessions(&mut self, now: Instant) {
        for (peer, look) in self.sealing.look() {
            self.node.see(peer, look.has_gone, look.has_come_directly, now);
            if look.has_come {
                self.node.handle_command(Command::Alive { peer }, now);
            }
            if look.has_come || look.has_gone {
                self.node.traffic(peer, now);
                self.next_look = now.after(LOOK);
            }
        }
        let configured = self.peers.values().filter(|peer| peer.origin == Origin::Configured);
        configured.for_each(|peer| self.sealing.want(peer.id));
    }

    fn name_of(&self, peer: PeerId) -> &str {
        self.peers.get(&peer).map_or("", |peer| peer.config.name.as_str())
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Neighbour { ifindex, address, mac } => self.on_neighbour(ifindex, address, mac),
            Change::Address { ifindex } | Change::LinkGone(ifindex) if self.device.is_own(ifindex) => {}
            Change::Link(link) if self.device.is_own(link.ifindex) => {
                // It may have become a bridge's port.
                if link.ifindex == self.device.ifindex && link.master.unwrap_or(0) != self.device.bridge {
                    self.refresh_soon();
                }
            }
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
        if self.next_look <= now {
            self.next_look = now.after(RENEWAL);
            self.look_at_sessions(now);
        }
        if self.next_renewal <= now {
            self.next_renewal = now.after(RENEWAL);
            self.tidy_overlay(now);
            self.check_leases(now);
            self.switch_timeout(now);
            // It may have been set.
            self.node.set_clock(clock::unix_ns() / 1_000_000, now);
            self.tidy_streams(now);
            self.underlays.look_at_drivers(&self.netlink).await;
            self.renew();
            self.follow_report();
            self.ask_for_silent(now).await;
        }
        self.send_pings(now);
        self.probes_timeout(now);
        self.end_handovers(now);
        self.ask_bootstraps(now);
        self.ask_servers(now);
        self.ask_for_turn(now);
        self.leases_timeout(now);
        self.follow_memberships(now);
        self.sealing.handle_timeout();
        self.node.handle_timeout(now);
        self.routing_timeout(now);
    }

    /// Carries out what the cores want, until they want no more: what one wants may be the other's work.
    async fn drain(&mut self) {
        while self.drain_once().await {}
    }

    /// Says whether there was anything to do.
    async fn drain_once(&mut self) -> bool {
        let mut is_idle = true;
        is_idle &= !self.follow_sessions();
        let mut stale = std::mem::take(&mut self.stale);
        for peer in std::mem::take(&mut stale.unresolved) {
            self.resolve_one(peer).await;
        }
        if stale.names {
            self.publish_names();
        }
        let is_published = !stale.is_empty();
        if is_published {
            // Before an answer is sent: a peer may use the session as soon as it has the answer.
            self.publish_table();
        }
        let unsent = std::mem::take(&mut self.unsent);
        is_idle &= unsent.is_empty();
        unsent.into_iter().for_each(|(to, datagram)| self.send(to, &datagram));
        is_idle &= !self.drain_node(&mut stale);
        for (kind, bytes) in std::mem::take(&mut self.signed) {
            self.signed(kind, &bytes).await;
        }
        self.publish_stations();
        is_idle &= stale.is_empty();
        self.pings.finish(clock::now());
        if stale.paths {
            // A router may have fallen silent, or be there again.
            self.follow_routers(clock::now());
        }
        // Nothing is decided while the node is drained: what was published is what it says now.
        if !is_published && !stale.is_empty() {
            self.publish_table();
        }
        self.apply_rest(&stale).await;
        is_idle &= !self.follow_change_of_address().await;
        self.update_changed_subnets().await;
        !is_idle || !self.stale.is_empty()
    }

    /// Does what the sessions want, but for sending: that is for when the table is published. Says whether
    /// there was anything.
    fn follow_sessions(&mut self) -> bool {
        let mut is_idle = true;
        while let Some(deed) = self.sealing.poll() {
            is_idle = false;
            self.carry_out(deed);
        }
        !is_idle
    }

    fn carry_out(&mut self, deed: Deed) {
        let now = clock::now();
        match deed {
            Deed::Transmit { to, datagram } => self.unsent.push((to, datagram)),
            Deed::Cookies(key) => self.cookies.store(Some(Arc::new(key))),
            Deed::Changed(peer) => {
                let local_index = self.sealing.current(peer).map(|session| session.local());
                debug!(peer = self.name_of(peer), ?local_index, "sessions changed");
                self.node.handle_command(Command::Session { peer, local_index }, now);
                self.stale.peers.insert(peer);
            }
            Deed::Roamed { peer, to } => {
                info!(peer = self.name_of(peer), endpoint = %to, "peer answers from here");
                self.begin_handover(peer, to);
                self.node.handle_command(Command::Endpoint { peer, endpoint: Some(to) }, now);
                self.stale.elsewhere(peer);
                self.relay_moved(peer);
            }
            Deed::Failed(peer) => {
                info!(peer = self.name_of(peer), "no answer to handshakes");
                self.stale.peers.insert(peer);
            }
        }
    }

    /// Says what the node wants said, and notes whose path has changed; whether there was anything.
    fn drain_node(&mut self, stale: &mut Stale) -> bool {
        let mut is_idle = true;
        while let Some(output) = self.node.poll_output() {
            is_idle = false;
            match output {
                Output::Say { peer, message } => match self.sealing.seal(peer, &message) {
                    Ok((to, datagram)) => self.send(to, &datagram),
                    Err(counter) => {
                        debug!(peer = self.name_of(peer), counter = counter.name(), "hello not sent");
                        self.counters.add(counter, 1);
                    }
                },
                Output::Path { peer, path } => {
                    info!(peer = self.name_of(peer), path = %Described(path), "path changed");
                    stale.peers.insert(peer);
                    stale.paths = true;
                }
                Output::Pong { id, rtt, .. } => self.pings.answered(id, rtt, None),
                Output::Addresses { peer, addresses, stations, since, knows_ours } => {
                    self.stations_listed(peer, &stations);
                    self.claimed(peer, &addresses, (since, knows_ours));
                }
                Output::Link { public_key, places } => self.call_node(public_key, &places),
                Output::Silent { peer } => {
                    let now = clock::now();
                    self.look_at_sessions(now);
                    self.node.detour(peer, now);
                }
                Output::Unheard { peer } => self.try_tcp(peer),
                Output::Move { peer, to } => self.set_endpoint(peer, Some(to)),
                Output::Relay { label, ends } => self.relay(label, ends),
                Output::Unrelay { label } => self.unrelay(label),
                Output::Unlink { peer } => self.unlink(peer),
                Output::Carried { from, datagram } => self.carried_in(from, &datagram),
                Output::Echoed { token, rtt, hops, .. } => {
                    if !self.handed_over(token) {
                        self.pings.answered(token, rtt, Some(hops));
                    }
                }
                Output::Traced { token, from, rtt, end, .. } => self.traced(token, from, rtt, end),
                Output::Surveyed { token, rtt, page, .. } => self.surveyed(token, rtt, &page),
                Output::Found { address, public_key } => self.hear_of_owner(address, public_key),
                Output::Multicast { origin, group, frame } => self.heard_in_group(&origin, group, &frame),
                Output::Broadcast { from, text } => self.told_by(from, &text),
                Output::Taken { address, by } => self.address_taken(address, &by),
                Output::Admitted { peer } => self.admitted(peer),
                Output::Refused { peer, why } => self.refused(peer, why),
                Output::RefusedBy { peer, why, clock } => self.refused_by(peer, why, clock),
                Output::Signed { kind, bytes } => self.signed.push((kind, bytes)),
                Output::Dht(event) => {
                    if !self.leases_heard(&event) {
                        self.hear_of_records(event);
                    }
                }
            }
        }
        !is_idle
    }

    /// Sends what a data thread has sealed, or passes on what it has received.
    fn send_on(&mut self, datagram: &CarriedDatagram) {
        if datagram.is_relayed {
            self.pass_on(datagram.to, &datagram.bytes);
        } else {
            self.send(datagram.to, &datagram.bytes);
        }
    }

    /// Sends a datagram the way that its peer is reached.
    fn send(&mut self, to: Endpoint, datagram: &[u8]) {
        match to {
            Endpoint::Udp(to) => self.transmit(to, datagram),
            Endpoint::Tcp(to) => self.streams.send(to, datagram),
            Endpoint::Turn(to) => self.turn.send(to, datagram),
            Endpoint::Relay { by, label } => self.send_by_relay(by, label, datagram),
            Endpoint::Overlay(to) => self.carry(to, datagram),
        }
    }

    /// Takes in a datagram that other nodes have carried here, in the name of `from`.
    fn carried_in(&mut self, from: NodeAddress, datagram: &[u8]) {
        match datagram.first() {
            Some(&TYPE_TRANSPORT) => {
                if !self.inlet.take_in(from.into(), datagram) {
                    self.counters.add(Counter::RxCarryFull, 1);
                }
            }
            Some(&(TYPE_INITIATION | TYPE_RESPONSE | TYPE_COOKIE_REPLY)) => {
                self.shake(Endpoint::Overlay(from), datagram);
            }
            _ => self.counters.add(Counter::RxUnknownMessage, 1),
        }
    }

    /// The socket from which control messages of a family go.
    fn socket(&self, is_ipv4: bool) -> Option<&Arc<UdpSocket>> {
        self.sockets.iter().find(|socket| socket.local_addr().is_ok_and(|own| own.is_ipv4() == is_ipv4))
    }

    /// Control messages are repeated anyway; one that the socket refuses is counted and let go.
    fn transmit(&self, to: SocketAddr, datagram: &[u8]) {
        let Some(socket) = self.socket(to.is_ipv4()) else {
            self.counters.add(Counter::TxSendError, 1);
            debug!(%to, "no socket of this family");
            return;
        };
        if let Err(error) =
            SockRef::from(&**socket).send_to_with_flags(datagram, &to.into(), libc::MSG_DONTWAIT)
        {
            self.counters.add(Counter::TxSendError, 1);
            debug!(%to, %error, "control message not sent");
        }
    }

    /// Says goodbye and removes everything that this daemon set up.
    async fn stop(mut self, events: Events) {
        self.remember();
        self.end_leases();
        self.withdraw_routing();
        self.node.handle_command(Command::Goodbye, clock::now());
        self.drain_node(&mut Stale::default());
        self.close_subnets().await;
        // While its address is still there.
        self.dns.close().await;
        self.port_mapping.close().await;
        self.turn.close().await;
        events.control.shutdown().await;
        self.underlays.close(self.kernel.path.as_ref(), &self.netlink).await;
        if let Some(path) = self.kernel.path.take() {
            path.close();
        }
        if let Err(error) = self.user.stop() {
            debug!(%error, "the user path had ended");
        }
        self.sealing.close();
        self.device.close(&self.netlink).await;
    }
}

fn signals() -> Result<Signals> {
    let open = |kind| signal(kind).context("cannot wait for signals");
    let [terminate, interrupt, hangup] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(open);
    Ok(Signals { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
}

/// A path in words, for the log.
struct Described(ipop_overlay::Path);

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use ipop_overlay::{NoPath, Path, Security};
        let word = |security| if security == Security::Sealed { "sealed" } else { "clear" };
        match self.0 {
            Path::Kernel { endpoint, mtu, security } => {
                write!(f, "direct-kernel, {}, to {endpoint}, MTU {mtu}", word(security))
            }
            Path::User { endpoint, mtu, security, .. } => {
                write!(f, "direct-user, {}, to {endpoint}, MTU {mtu}", word(security))
            }
            Path::Relay { by, mtu, .. } => write!(f, "relay, sealed, by {by:?}, MTU {mtu}"),
            Path::Overlay { to, mtu } => write!(f, "overlay, sealed, to {to:?}, MTU {mtu}"),
            Path::None(NoPath::NoEndpoint) => f.write_str("none: no endpoint is known"),
            Path::None(NoPath::NoRoute) => f.write_str("none: no route"),
            Path::None(NoPath::NoAnswer) => f.write_str("none: no session yet"),
            Path::None(NoPath::Silent) => f.write_str("none: the peer has fallen silent"),
            Path::None(NoPath::NotAdmitted) => f.write_str("none: not admitted to the group yet"),
        }
    }
}

/// A file's name for messages.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
