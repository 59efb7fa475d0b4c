//! Bringing the host, the user path's table and the kernel's maps to what the core has decided.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipop_common::Address;
use ipop_common::limits::LEASE_NS;
use ipop_overlay::{Command, Endpoint as Place, NoPath, Path, PeerId, Security};
use tracing::{debug, warn};

use super::peers::{PeerState, Reach, device_mtu, route_mtu, table};
use super::underlays::UnderlayError;
use super::{Daemon, SILENCE, clock, start};
use crate::config::{Endpoint, Mtu};
use crate::netlink::{Route, UNDERLAY_MARK};

/// The MTU of stations, unless somebody has given them another.
const ETHERNET_MTU: u32 = 1500;
/// Why this host's routes say nothing about a peer.
const CARRIED: &str = "other nodes carry the packets";

/// What does not know yet what the cores have decided.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Peers with other sessions or another path than before.
    pub(super) peers: BTreeSet<PeerId>,
    /// Of those, the ones whose way from this host is to be looked up anew.
    pub(super) unresolved: BTreeSet<PeerId>,
    /// A path has changed, and with it what the virtual device can carry.
    pub(super) paths: bool,
    /// Peers have come or gone, or have other names or addresses.
    pub(super) names: bool,
}

impl Stale {
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A peer is somewhere else.
    pub(super) fn elsewhere(&mut self, peer: PeerId) {
        self.peers.insert(peer);
        self.unresolved.insert(peer);
        self.paths = true;
    }
}

impl Daemon {
    /// Looks at the host's network again: how every peer is reached now.
    pub(super) async fn refresh(&mut self) {
        self.routing.is_host_changed = true;
        if self.switch.is_some() {
            self.device.follow_bridge(&self.netlink).await;
        }
        self.resolve_names().await;
        self.refresh_places().await;
        let mut changed = false;
        for id in self.ids() {
            changed |= self.resolve_one(id).await;
        }
        if changed {
            // A peer must hear at once what has changed here: our address may have.
            self.node.handle_command(Command::Announce, clock::now());
        }
        self.apply().await;
    }

    /// Names that gave no address yet.
    async fn resolve_names(&mut self) {
        for id in self.ids() {
            let unknown = self.node.peer(id).is_some_and(|view| view.endpoint.is_none());
            let Some(peer) = self.peers.get(&id).filter(|_| unknown) else { continue };
            if let Some(endpoint @ Endpoint::Host { .. }) = &peer.config.endpoint
                && let Some(address) = start::lookup(endpoint).await
            {
                self.sealing.set_endpoint(id, Some(address.into()));
                let command = Command::Endpoint { peer: id, endpoint: Some(address.into()) };
                self.node.handle_command(command, clock::now());
            }
        }
    }

    /// Resolves one peer's path. Says whether it has changed.
    pub(super) async fn resolve_one(&mut self, id: PeerId) -> bool {
        let reach = match self.node.peer(id).and_then(|view| view.endpoint) {
            None => return false,
            Some(Place::Udp(endpoint) | Place::Tcp(endpoint)) => self.reach(endpoint.ip()).await,
            Some(Place::Turn(_)) => match self.turn.server() {
                Some(server) => self.reach(server.ip()).await,
                None => Err("no TURN server gives this node an address".to_owned()),
            },
            Some(Place::Relay { by, .. }) => match self.place_of(by).and_then(Place::direct) {
                Some(place) => self.reach(place.ip()).await,
                None => Err("the relay is not connected".to_owned()),
            },
            Some(Place::Overlay(_)) => Err(CARRIED.to_owned()),
        };
        if let Ok(reach) = &reach
            && self.kernel.path.is_some()
            && !self.underlays.contains(reach.path.ifindex)
            && self.may_attach(&reach.interface)
        {
            let (ifindex, interface) = (reach.path.ifindex, reach.interface.clone());
            if let Err(error) = self.attach_underlay(ifindex, &interface).await {
                warn!(interface, %error, "no kernel path on this interface");
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let changed = peer.reach != reach;
        peer.reach = reach;
        let reach = peer.reach.as_ref().ok().map(|reach| (reach.path.source, reach.clear_mtu()));
        self.node.handle_command(Command::Underlay { peer: id, reach }, clock::now());
        changed
    }

    async fn reach(&self, peer: IpAddr) -> Result<Reach, String> {
        let path = self
            .netlink
            .resolve(peer, Some(UNDERLAY_MARK), &self.device.own())
            .await
            .map_err(|e| e.to_string())?;
        let link = self.netlink.link(path.ifindex).await.map_err(|e| e.to_string())?;
        let neighbour = self.netlink.neighbour(path.ifindex, path.next_hop).await;
        let next_hop_mac = neighbour.map_err(|e| e.to_string())?;
        if next_hop_mac.is_none() && link.mac.is_some() {
            let probed = self.netlink.probe_neighbour(path.ifindex, path.next_hop).await;
            probed.unwrap_or_else(|error| debug!(%error, "neighbour not probed"));
        }
        Ok(Reach { path, source_mac: link.mac, next_hop_mac, interface: link.name })
    }

    /// Only the interfaces that the configuration names, where it names any.
    fn may_attach(&self, interface: &str) -> bool {
        match &self.config.underlay.interfaces {
            Some(names) => names.iter().any(|name| name.as_str() == interface),
            None => true,
        }
    }

    pub(super) async fn attach_underlay(&mut self, ifindex: u32, name: &str) -> Result<(), UnderlayError> {
        match &mut self.kernel.path {
            Some(kernel) => self.underlays.attach(kernel, &self.netlink, ifindex, name).await,
            None => Ok(()),
        }
    }

    /// A neighbour's link-layer address has changed: the header templates of its links follow.
    pub(super) fn on_neighbour(&mut self, ifindex: u32, address: IpAddr, mac: Option<[u8; 6]>) {
        let mut changed = Vec::new();
        for peer in self.peers.values_mut() {
            if let Ok(reach) = &mut peer.reach
                && (reach.path.ifindex, reach.path.next_hop) == (ifindex, address)
                && mac.is_some()
                && reach.next_hop_mac != mac
            {
                reach.next_hop_mac = mac;
                changed.push(peer.id);
            }
        }
        for id in changed {
            self.apply_kernel(id);
        }
    }

    /// Brings device, table and maps up to date with the core.
    pub(super) async fn apply(&mut self) {
        // The user path first: what the kernel path stops carrying comes to it.
        self.publish_table();
        self.renew();
        self.update_device().await;
    }

    /// The same where the table is published, for a few peers out of many.
    pub(super) async fn apply_rest(&mut self, stale: &Stale) {
        let moved = self.place_stations();
        for id in stale.peers.iter().chain(moved.iter().filter(|id| !stale.peers.contains(id))) {
            self.apply_kernel(*id);
        }
        self.renew_relays_of(&stale.peers);
        if stale.paths {
            self.update_device().await;
        }
    }

    /// All peers, while what is known of them may change.
    pub(super) fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    fn path(&self, id: PeerId) -> Path {
        self.node.peer(id).map_or(Path::None(NoPath::NoEndpoint), |view| view.path)
    }

    /// Puts a peer's link into the maps, or takes it out.
    pub(super) fn apply_kernel(&mut self, id: PeerId) {
        let Some(view) = self.node.peer(id) else { return };
        let place = view.endpoint.and_then(|endpoint| self.first_place(endpoint)?.udp());
        let place = place.map(|place| (place, self.port_for(&place)));
        // Frames that the kernel path leaves to the daemon get its port, of which it knows one.
        let is_split = self.switch.is_some()
            && view
                .endpoint
                .and_then(Place::direct)
                .is_some_and(|at| self.port_for(&at) != start::sealed_port(&self.config));
        let (Some(kernel), Some(peer)) = (&mut self.kernel.path, self.peers.get_mut(&id)) else { return };
        // What an earlier run installed serves until its lease ends or the peer has answered: one without an
        // endpoint in the configuration tells from where it sends, and by which relay.
        let has_not_answered = match view.path {
            Path::None(NoPath::NoAnswer) => true,
            Path::None(NoPath::NoEndpoint) => kernel.is_inherited(peer.link_id),
            _ => false,
        };
        if has_not_answered {
            peer.kernel = Err("the peer has not answered yet".to_owned());
            return;
        }
        let lease = match (view.path.security(), self.sealing.end(id)) {
            // With the key the kernel path may go on to its end; without it, it cannot.
            (Some(Security::Sealed), Some(end)) => end.as_nanos(),
            _ => lease_end(),
        };
        let sessions = self.sealing.of_link(id);
        let network = (self.config.network.mode, self.config.datapath.seal);
        let outcome = match peer.intent(&view, sessions, network, place) {
            Ok(_) if is_split => {
                Err("in mode \"l2\" the kernel path needs one port for IPv4 and IPv6".to_owned())
            }
            Ok(intent) if !self.underlays.contains(intent.ifindex) => {
                Err("no program is attached to the interface".to_owned())
            }
            Ok(intent) => kernel.install(peer.link_id, &intent, lease).map_err(|e| e.to_string()),
            Err(reason) => Err(reason),
        };
        if outcome.is_err()
            && let Err(error) = kernel.remove(peer.link_id)
        {
            warn!(peer = peer.config.name, %error, "the kernel keeps a link that it should not");
        }
        peer.kernel = outcome;
    }

    /// Brings all links in the maps up to date, and renews their leases.
    pub(super) fn renew(&mut self) {
        let _ = self.place_stations();
        for id in self.ids() {
            self.apply_kernel(id);
        }
        self.renew_relays();
    }

    /// Has the kernel look for the next hops of peers that have fallen silent: one that got another
    /// link-layer address without a word is found in a millisecond, and would be after minutes else.
    pub(super) async fn ask_for_silent(&self, now: ipop_overlay::Instant) {
        for peer in self.peers.values() {
            let heard = self.node.peer(peer.id).and_then(|view| view.last_heard);
            if let (Some(heard), Ok(reach)) = (heard, &peer.reach)
                && now.since(heard) > SILENCE
                && let Err(error) =
                    self.netlink.renew_neighbour(reach.path.ifindex, reach.path.next_hop).await
            {
                debug!(peer = peer.config.name, %error, "next hop not asked for");
            }
        }
    }

    pub(super) fn publish_table(&self) {
        let link = |peer: &PeerState| {
            // Before it is admitted to the group there is nothing but the session, in which it may show its certificate.
            let view = self.node.peer(peer.id).filter(|_| self.node.is_admitted(peer.id))?;
            peer.user_link(&view, &self.sealing, self.config.network.mtu, |node| self.place_of(node))
        };
        let mut table = table(&self.addresses, &self.peers, &self.sealing, self.overlay.as_ref(), link);
        table.note_flows(Arc::clone(self.sealing.places()));
        self.fill_in_relays(&mut table);
        self.fill_in_groups(&mut table);
        self.fill_in_switch(&mut table);
        self.sealing.places().filter().set_peers(table.peers_at().map(Address::from));
        self.table.store(Arc::new(table));
        self.user.table_changed();
    }

    /// The port of the daemon's that serves an endpoint's family.
    pub(super) fn port_for(&self, endpoint: &SocketAddr) -> u16 {
        let mut listen = self.config.underlay.listen.iter();
        listen.find(|address| address.is_ipv4() == endpoint.is_ipv4()).map_or(0, SocketAddr::port)
    }

    /// MTU of the device, and a route to each peer's prefixes.
    pub(super) async fn update_device(&mut self) {
        let configured = self.config.network.mtu;
        let frame = self.config.network.frame_overhead();
        let mtu_of = |peer: &PeerState| {
            let waiting = || peer.reach.as_ref().ok().map(|reach| reach.sealed_mtu(configured));
            self.path(peer.id).mtu().or_else(waiting).map(|mtu| mtu.saturating_sub(frame))
        };
        let addresses = &self.addresses;
        let has_ipv6 = addresses.iter().any(|prefix| prefix.addr().is_ipv6());
        let links = self.peers.values().filter_map(mtu_of);
        let of_device = match configured {
            Mtu::Bytes(bytes) => Mtu::Bytes(bytes.saturating_sub(frame)),
            Mtu::Auto => Mtu::Auto,
        };
        let device = device_mtu(of_device, links, has_ipv6).unwrap_or(self.device.mtu);
        // A bridge has its stations' MTU on all ports, and drops what is longer than a port's.
        let device = if self.device.bridge == 0 { device } else { device.max(ETHERNET_MTU) };
        let source = |prefix: IpAddr| {
            addresses.iter().map(|own| own.addr()).find(|own| own.is_ipv4() == prefix.is_ipv4())
        };
        let mut routes = Vec::new();
        for peer in self.peers.values() {
            for prefix in &peer.config.addresses {
                let mtu = mtu_of(peer).and_then(|mtu| route_mtu(prefix.addr(), mtu, device));
                let source = source(prefix.addr());
                routes.push(Route { prefix: (prefix.addr(), prefix.len()), mtu, source });
            }
        }
        routes.extend(self.group_routes());
        let outcome = self.device.update(&self.netlink, device, routes).await;
        self.update_subnets().await;
        if let Err(error) = outcome {
            warn!(%error, "the virtual device is not as it should be");
            let warning = error.to_string();
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

fn lease_end() -> u64 {
    clock::now().as_nanos().saturating_add(LEASE_NS)
}
