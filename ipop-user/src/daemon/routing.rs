//! Subnets behind other nodes: what this node announces, which of the others' go where by now, and the host's routes
//! to them. Who may announce what, and which of several routers is used, is `ipop_overlay::routes`'s to decide.

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipop_common::Counter;
use ipop_overlay::dht::Event;
use ipop_overlay::routes::{Accept, Announcement, Client, Entry, Output, Policy, State, Subnet, Table};
use ipop_overlay::{Endpoint, Instant, NodeAddress, Path, PeerId};
use tracing::{debug, info, warn};

use self::shown::forwarding_warnings;
use super::overlay::name_of;
use super::peers::{PeerState, route_mtu};
use super::{Daemon, clock};
use crate::config::{Dhcp, Prefix};
use crate::key::PublicKey;
use crate::netlink::Route;

/// A router from which nothing has come for so long does not answer: it has missed three hellos.
const UNHEARD: Duration = Duration::from_secs(4);
/// Of each subnet, so many routers are kept connected.
const WAYS_MAX: usize = 4;
/// Refused announcements that an operator is warned of one by one.
const WARNINGS_MAX: usize = 8;
/// The addresses of IPv6 that are given to hosts of the internet (RFC 4291, section 2.4). An exit node gets these: in
/// the tables, `::/0` would hold IPv4 too.
const GLOBAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What the daemon knows of subnets beside the core.
#[derive(Default)]
pub(super) struct Routing {
    /// `None` where there is no overlay.
    client: Option<Client>,
    table: Table,
    /// The routers that are kept connected.
    linked: BTreeSet<[u8; 32]>,
    /// What has been refused and counted.
    refused: BTreeSet<(Subnet, [u8; 32])>,
    /// What an exit node has been reached for: from then on nothing goes past it.
    exits: BTreeSet<Subnet>,
    /// The host's routes to subnets; not known, if `None`.
    installed: Option<Vec<Route>>,
    /// Where the host's own routes lead, for subnets that it has some for.
    bypassed: BTreeMap<Subnet, String>,
    /// The host's routes have changed.
    pub(super) is_host_changed: bool,
    /// Other subnets go by routers than before.
    is_changed: bool,
    failure: Option<String>,
}

impl Routing {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let client = self.client.as_ref().and_then(Client::poll_timeout);
        [client, self.table.poll_timeout()].into_iter().flatten().min()
    }
}

impl Daemon {
    /// Takes over what the configuration says; what is taken no more goes nowhere from now on.
    pub(super) fn follow_routing(&mut self) {
        let now = clock::now();
        if self.overlay.is_none() {
            return;
        }
        let policy = self.policy();
        let (config, routing) = (&self.config, &mut self.routing);
        if policy.exit.is_none() {
            routing.is_changed |= !routing.exits.is_empty();
            routing.exits.clear();
        }
        routing.table.set_policy(policy);
        let client = routing
            .client
            .get_or_insert_with(|| Client::new(&config.network.name, *self.public_key.as_bytes()));
        let announcement = (!config.routing.announce.is_empty()).then(|| Announcement {
            priority: config.routing.priority,
            subnets: config.routing.announce.iter().filter_map(|prefix| subnet(*prefix)).collect(),
        });
        if announcement.is_some() {
            forwarding_warnings(config).iter().for_each(|warning| warn!("{warning}"));
        }
        client.configure(announcement, config.routing.takes(), &mut self.node, now);
        if !config.routing.takes() {
            routing.table.set_routers(Vec::new());
        }
        self.follow_routers(now);
    }

    /// This node's addresses in the virtual network, host bits kept.
    fn own_addresses(&self) -> &[Prefix] {
        &self.addresses
    }

    /// What the operator says, and what this node has.
    fn policy(&self) -> Policy {
        let config = &self.config;
        // Before there is a lease too, as far as it is known.
        let pool = config.dhcp.as_ref().and_then(Dhcp::network);
        let own = self.own_addresses().iter().map(|own| own.network()).chain(pool);
        let of_peers = config.peers.iter().flat_map(|peer| peer.addresses.iter().copied());
        let accept = config.routing.accept.iter();
        Policy {
            own: own.filter_map(subnet).collect(),
            of_peers: of_peers.filter_map(subnet).collect(),
            announced: config.routing.announce.iter().copied().filter_map(subnet).collect(),
            accept: accept
                .filter_map(|accept| {
                    Some(Accept { subnet: subnet(accept.prefix)?, from: accept.from.clone() })
                })
                .collect(),
            exit: config.routing.exit_node,
        }
    }

    /// This node is in another network, of which nothing is known.
    pub(super) fn forget_routing(&mut self) {
        self.routing = Routing::default();
    }

    /// Takes back what this node announces.
    pub(super) fn withdraw_routing(&mut self) {
        if let Some(client) = &mut self.routing.client {
            client.withdraw(&mut self.node, clock::now());
        }
    }

    pub(super) fn routing_timeout(&mut self, now: Instant) {
        if let Some(client) = &mut self.routing.client {
            client.handle_timeout(&mut self.node, now);
            // This node's addresses may be others.
            let policy = self.policy();
            if *self.routing.table.policy() != policy {
                self.routing.table.set_policy(policy);
            }
            self.follow_routers(now);
        }
    }

    /// Takes in what has become of something in the DHT; says whether it is about subnets.
    pub(super) fn hear_of_routers(&mut self, event: &Event) -> bool {
        let now = clock::now();
        let Some(client) = &mut self.routing.client else { return false };
        if !client.handle_event(event, now) {
            return false;
        }
        while let Some(output) = self.routing.client.as_mut().and_then(Client::poll_output) {
            match output {
                Output::Routers(routers) => {
                    debug!(routers = routers.len(), "announcements of subnets");
                    self.routing.table.set_routers(routers);
                }
                Output::Malformed(count) => {
                    self.counters.add(Counter::RxBadRoute, count as u64);
                    debug!(count, "announcements of subnets that cannot be read");
                }
                Output::Announced => {
                    let subnets = &self.config.routing.announce;
                    info!(?subnets, "this node's subnets are announced");
                }
                Output::NotAnnounced => {
                    info!("this node's subnets are not announced yet: too few nodes have answered");
                }
            }
        }
        self.follow_routers(now);
        true
    }

    /// Looks which routers answer, and has each subnet go where it is to go.
    pub(super) fn follow_routers(&mut self, now: Instant) {
        let standing = self.routing.table.entries().iter().filter(|entry| entry.stands());
        let routers: BTreeSet<[u8; 32]> = standing.map(|entry| entry.public_key).collect();
        for router in &routers {
            let is_reachable = self.answers(router, now);
            self.routing.table.set_reachable(*router, is_reachable, now);
        }
        if self.routing.table.decide(now) {
            self.routing.is_changed = true;
            self.tell_of_changes();
            if let Some(client) = &mut self.routing.client {
                // Whoever is used no more may have gone, and others come.
                client.ask_soon(now);
            }
        }
        let seen = active(&self.routing.table).filter(|entry| entry.subnet.is_default());
        let seen = seen.filter(|entry| self.answers(&entry.public_key, now)).map(|entry| entry.subnet);
        let exits: Vec<Subnet> = seen.collect();
        let count = self.routing.exits.len();
        self.routing.exits.extend(exits);
        self.routing.is_changed |= self.routing.exits.len() != count;
        self.link_routers(now);
        self.assign_subnets();
    }

    /// Whether a router answers in its session.
    fn answers(&self, router: &[u8; 32], now: Instant) -> bool {
        let Some(id) = self.node.peer_of_key(router) else { return false };
        let Some(view) = self.node.peer(id) else { return false };
        !matches!(view.path, Path::None(_))
            && self.sealing.current(id).is_some()
            && view.last_heard.is_some_and(|at| now.since(at) < UNHEARD)
    }

    /// Says in the log what is different, and counts what is refused and was not before.
    fn tell_of_changes(&mut self) {
        let mut refused = BTreeSet::new();
        for entry in self.routing.table.entries() {
            let (subnet, router) = (entry.subnet, entry.router());
            match entry.state {
                State::Active => info!(%subnet, %router, "goes by this router"),
                State::Standby => debug!(%subnet, %router, "stands by"),
                State::Refused(why) if !why.is_strange() => {
                    debug!(%subnet, %router, reason = %why, "not taken");
                }
                State::Refused(why) => {
                    refused.insert((subnet, entry.public_key));
                    if !self.routing.refused.contains(&(subnet, entry.public_key)) {
                        warn!(%subnet, %router, reason = %why, "announced, and refused");
                        self.counters.add(Counter::RxRefusedRoute, 1);
                    }
                }
            }
        }
        self.routing.refused = refused;
    }

    /// Keeps connections with the routers of subnets that this node takes.
    fn link_routers(&mut self, now: Instant) {
        let mut wanted = BTreeSet::new();
        let mut ways: (Option<Subnet>, usize) = (None, 0);
        for entry in self.routing.table.entries().iter().filter(|entry| entry.stands()) {
            ways = if ways.0 == Some(entry.subnet) { (ways.0, ways.1 + 1) } else { (Some(entry.subnet), 0) };
            if ways.1 < WAYS_MAX || entry.state == State::Active {
                wanted.insert(entry.public_key);
            }
        }
        let gone: Vec<[u8; 32]> = self.routing.linked.difference(&wanted).copied().collect();
        for router in gone {
            let is_configured = |id| self.peers.get(&id).is_some_and(PeerState::has_name);
            // The ring keeps those of the configuration by itself.
            if !self.node.peer_of_key(&router).is_some_and(is_configured) {
                self.node.keep_linked(NodeAddress::of_key(&router), false, now);
            }
        }
        for router in &wanted {
            self.call_router(router);
            self.node.keep_linked(NodeAddress::of_key(router), true, now);
        }
        self.routing.linked = wanted;
    }

    /// Has a session with a router, by way of others until there is a better one.
    fn call_router(&mut self, router: &[u8; 32]) {
        let endpoint = Endpoint::Overlay(NodeAddress::of_key(router));
        let id = match self.node.peer_of_key(router) {
            Some(id) => id,
            None => match self.add_found(name_of(router), PublicKey::from_bytes(*router), Some(endpoint)) {
                Ok(id) => id,
                Err(error) => {
                    debug!(%error, "router not connected to");
                    return;
                }
            },
        };
        if self.sealing.current(id).is_some() {
            return;
        }
        if self.node.peer(id).is_some_and(|view| view.endpoint.is_none()) {
            self.set_endpoint(id, Some(endpoint));
            self.sealing.call_candidates(id);
        }
        self.sealing.want(id);
    }

    /// Gives each subnet to its router, once the one before has it no more: a prefix leads to one link.
    fn assign_subnets(&mut self) {
        let mut wanted: BTreeMap<PeerId, Vec<Prefix>> = BTreeMap::new();
        for entry in active(&self.routing.table) {
            if let Some(id) = self.node.peer_of_key(&entry.public_key) {
                wanted.entry(id).or_default().extend(carried(entry.subnet));
            }
        }
        let of = |id: PeerId| wanted.get(&id).map(Vec::as_slice).unwrap_or_default();
        let changed = self.peers.values().filter(|peer| peer.routed != of(peer.id));
        let changed: Vec<PeerId> = changed.map(|peer| peer.id).collect();
        for id in &changed {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            let before = peer.routed.len();
            peer.routed.retain(|prefix| of(*id).contains(prefix));
            if peer.routed.len() != before {
                self.apply_kernel(*id);
            }
        }
        for id in changed {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.routed = of(id).to_vec();
                self.stale.peers.insert(id);
                self.stale.paths = true;
            }
        }
    }

    /// As [`Daemon::update_subnets`], if other subnets go by routers than before.
    pub(super) async fn update_changed_subnets(&mut self) {
        if std::mem::take(&mut self.routing.is_changed) {
            self.update_subnets().await;
        }
    }

    /// Brings the host's routes to what goes by routers now.
    pub(super) async fn update_subnets(&mut self) {
        let mut subnets: BTreeSet<Subnet> = self.routing.exits.clone();
        let others = active(&self.routing.table).filter(|entry| !entry.subnet.is_default());
        subnets.extend(others.map(|entry| entry.subnet));
        let wanted: Vec<Route> = subnets.into_iter().filter_map(|subnet| self.route_to(subnet)).collect();
        let is_changed = self.routing.installed.as_ref() != Some(&wanted);
        if is_changed {
            let outcome = self.install_subnets(&wanted).await;
            // What has failed is tried again with the next change.
            self.routing.installed = outcome.is_ok().then_some(wanted);
            let failure =
                outcome.err().map(|error| format!("subnets are not routed as they should be: {error}"));
            if self.routing.failure != failure {
                failure.iter().for_each(|failure| warn!("{failure}"));
                self.routing.failure = failure;
            }
        }
        if is_changed || std::mem::take(&mut self.routing.is_host_changed) {
            self.look_for_bypasses().await;
        }
    }

    /// A subnet's route; `None` where this node has no address of its family: what it sends would be refused.
    fn route_to(&self, subnet: Subnet) -> Option<Route> {
        let prefix = carried(subnet)?;
        let own = self.own_addresses().iter().map(|own| own.addr());
        let source = own.filter(|own| own.is_ipv4() == prefix.addr().is_ipv4()).min()?;
        let router = active(&self.routing.table).find(|entry| entry.subnet == subnet);
        let id = router.and_then(|entry| self.node.peer_of_key(&entry.public_key));
        let mtu = id.and_then(|id| self.node.peer(id)?.path.mtu());
        let mtu = mtu.and_then(|mtu| route_mtu(prefix.addr(), mtu, self.device.mtu));
        Some(Route { prefix: (prefix.addr(), prefix.len()), mtu, source: Some(source) })
    }

    async fn install_subnets(&self, wanted: &[Route]) -> Result<(), crate::netlink::Error> {
        let before = self.routing.installed.as_ref().is_some_and(|installed| !installed.is_empty());
        // What nobody looks into comes and goes unseen.
        if wanted.is_empty() {
            self.netlink.sync_rules(&self.device.name, false).await?;
        }
        // One route that cannot be had does not keep the others from being used.
        let outcome = self.netlink.sync_subnets(self.device.ifindex, wanted).await;
        if !wanted.is_empty() && !before {
            return outcome.and(self.netlink.sync_rules(&self.device.name, true).await);
        }
        outcome
    }

    /// Removes the host's routes and rules, whoever has made them.
    pub(super) async fn close_subnets(&self) {
        if let Err(error) = self.install_subnets(&[]).await {
            warn!(%error, "routes to subnets are left behind");
        }
    }

    /// Finds the subnets to which the host has routes of its own, which go before ours.
    async fn look_for_bypasses(&mut self) {
        let subnets: Vec<Subnet> = active(&self.routing.table).map(|entry| entry.subnet).collect();
        self.routing.bypassed.clear();
        for subnet in subnets.into_iter().filter(|subnet| !subnet.is_default()) {
            let Ok(path) = self.netlink.resolve(first_host(subnet), None, &[]).await else { continue };
            if path.ifindex == self.device.ifindex {
                continue;
            }
            if let Ok(link) = self.netlink.link(path.ifindex).await {
                self.routing.bypassed.insert(subnet, link.name);
            }
        }
    }
}

fn active(table: &Table) -> impl Iterator<Item = &Entry> {
    table.entries().iter().filter(|entry| entry.state == State::Active)
}

fn subnet(prefix: Prefix) -> Option<Subnet> {
    Subnet::new(prefix.addr(), prefix.len())
}

/// The prefix that stands for a subnet in the tables.
fn carried(subnet: Subnet) -> Option<Prefix> {
    match subnet.address() {
        IpAddr::V6(_) if subnet.is_default() => Prefix::new(GLOBAL.0.into(), GLOBAL.1),
        address => Prefix::new(address, subnet.len()),
    }
}

/// An address in a subnet that a host may have.
fn first_host(subnet: Subnet) -> IpAddr {
    match subnet.address() {
        IpAddr::V4(v4) if subnet.len() < 31 => IpAddr::V4((v4.to_bits() | 1).into()),
        IpAddr::V6(v6) if subnet.len() < 127 => IpAddr::V6((v6.to_bits() | 1).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Subnet {
        subnet(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn an_exit_node_of_one_family_has_nothing_of_the_other() {
        let prefix = |text: &str| carried(of(text)).unwrap().to_string();
        assert_eq!(prefix("0.0.0.0/0"), "0.0.0.0/0");
        assert_eq!(prefix("::/0"), "2000::/3");
        assert_eq!(prefix("192.168.7.0/24"), "192.168.7.0/24");
        assert_eq!(prefix("fd07::/64"), "fd07::/64");
    }

    #[test]
    fn a_route_is_looked_up_for_an_address_that_a_host_may_have() {
        for (subnet, host) in [
            ("192.168.7.0/24", "192.168.7.1"),
            ("192.168.7.4/31", "192.168.7.4"),
            ("192.168.7.9/32", "192.168.7.9"),
            ("fd07::/64", "fd07::1"),
            ("fd07::9/128", "fd07::9"),
        ] {
            assert_eq!(first_host(of(subnet)).to_string(), host);
        }
    }
}
