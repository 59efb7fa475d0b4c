//! Addresses and names in the overlay's DHT: this node's own, and whose others' are.
//!
//! A node with addresses of its own in the configuration registers them as leases too, so that nobody who asks for one
//! gets them. A node that asks for one takes nobody's word for an address either: a claim counts once the lease says
//! the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipop_common::Counter;
use ipop_overlay::dhcp::{self, Client, Output, Pool, lease_name};
use ipop_overlay::dht::{Event, Kind, retry_after};
use ipop_overlay::directory::{
    self, Answer, Directory, Question, Registration, Service, State, host_name, host_value,
};
use ipop_overlay::{Instant, PeerId};
use tracing::{debug, info, warn};

use super::peers::Origin;
use super::{Daemon, clock, names_asked};
use crate::api;
use crate::config::{Config, Prefix, is_domain};
use crate::key::PublicKey;

/// How long what is registered stands, if nobody renews it. It is renewed at half of that.
const REGISTERED_S: u64 = 6 * 3600;

/// A peer's word, until the leases bear it out.
struct Claim {
    addresses: Vec<IpAddr>,
    since: u64,
    next_at: Instant,
    tries: u32,
}

/// What the daemon keeps of it.
#[derive(Default)]
pub(super) struct Dhcp {
    /// `None` where addresses are listed, or there is no overlay.
    client: Option<Client>,
    /// Leases of addresses that are listed.
    listed: Vec<(IpAddr, Registration)>,
    host: Option<Registration>,
    services: Vec<Registration>,
    directory: Option<Directory>,
    claims: BTreeMap<PeerId, Claim>,
    /// Why there is no address.
    trouble: Option<dhcp::Error>,
    /// Who is asked for names, and for the names of addresses.
    pub(super) asked: names_asked::Waiting,
    /// The addresses that this node is to have, when they are others than before.
    change: Option<Vec<Prefix>>,
}

impl Dhcp {
    fn new(config: &Config, public_key: &[u8; 32], before: &[IpAddr]) -> Self {
        let (namespace, now) = (config.network.name.clone(), clock::now());
        let client = config.dhcp.as_ref().map(|wanted| {
            let preferred = before.iter().copied().find(|address| {
                // What follows from the key is no lease.
                let pool = wanted.pool.as_ref();
                pool.is_none_or(|pool| pool.contains(*address)) && !follows_from(*address, public_key)
            });
            let config = dhcp::Config {
                namespace: namespace.clone(),
                pool: wanted.pool.clone(),
                wanted: wanted.address,
                preferred,
                host: config.node.name.clone(),
            };
            Client::new(config, *public_key, now)
        });
        let mut dhcp = Self { client, directory: Some(Directory::new(namespace)), ..Self::default() };
        for own in &config.network.addresses {
            let (name, host) = (lease_name(&config.network.name, own.addr()), config.node.name.clone());
            let lease = Registration::new(Kind::Create, name, host.into_bytes(), REGISTERED_S, now);
            dhcp.listed.extend(lease.ok().map(|lease| (own.addr(), lease)));
        }
        dhcp.register_name(config, &config.network.addresses, now);
        dhcp
    }

    /// Registers the node's name with the addresses that it has by now, and what it offers under that name.
    fn register_name(&mut self, config: &Config, addresses: &[Prefix], now: Instant) {
        let namespace = &config.network.name;
        let value = host_value(&addresses.iter().map(|own| own.addr()).collect::<Vec<_>>());
        match &mut self.host {
            Some(host) => host.set_value(value, now),
            None if addresses.is_empty() || !is_domain(&config.node.name) => {}
            None => {
                let name = host_name(namespace, &config.node.name);
                match Registration::new(Kind::Create, name, value, REGISTERED_S, now) {
                    Ok(host) => self.host = Some(host),
                    Err(error) => warn!(%error, "this node's name is not registered"),
                }
                let offer = |(name, port): (&String, &u16)| {
                    let host = config.node.name.to_ascii_lowercase();
                    let service = Service { priority: 0, weight: 0, port: *port, host };
                    let name = Service::name(namespace, name);
                    Registration::new(Kind::Put, name, service.to_bytes(), REGISTERED_S, now)
                        .inspect_err(|error| warn!(%error, "a service of this node's is not registered"))
                        .ok()
                };
                self.services = config.dns.services.iter().filter_map(offer).collect();
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let registered = self.registrations().filter_map(Registration::poll_timeout).min();
        let claims = self.claims.values().map(|claim| claim.next_at).min();
        [self.client.as_ref().and_then(Client::poll_timeout), registered, claims].into_iter().flatten().min()
    }

    pub(super) fn directory(&mut self) -> Option<&mut Directory> {
        self.directory.as_mut()
    }

    pub(super) fn known(&self, question: &Question, now: Instant) -> Option<&Answer> {
        self.directory.as_ref()?.known(question, now)
    }

    /// A peer is one no more: who has its addresses is asked anew.
    pub(super) fn forget(&mut self, key: &PublicKey) {
        self.directory.iter_mut().for_each(|directory| directory.forget_node(key.as_bytes()));
    }

    fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.listed.iter().map(|(_, lease)| lease).chain(&self.host).chain(&self.services)
    }

    fn registrations_mut(&mut self) -> impl Iterator<Item = &mut Registration> {
        self.listed.iter_mut().map(|(_, lease)| lease).chain(&mut self.host).chain(&mut self.services)
    }

    /// What an operator should know.
    pub(super) fn warnings(&self, config: &Config) -> Vec<String> {
        let by = |by: Option<ipop_overlay::NodeAddress>| {
            by.map_or_else(|| "another node".to_owned(), |by| by.to_string())
        };
        let mut warnings: Vec<String> =
            self.trouble.iter().map(|error| format!("no address from the pool: {error}")).collect();
        for (address, lease) in &self.listed {
            if let State::Taken(whose) = lease.state() {
                warnings.push(format!("{address} is leased to {}: give one of the two another", by(whose)));
            }
        }
        if let Some(State::Taken(whose)) = self.host.as_ref().map(Registration::state) {
            let name = &config.node.name;
            warnings.push(format!(
                "the name {name} is registered for {}: others do not find this node by it; give it another",
                by(whose)
            ));
        }
        warnings
    }
}

/// Whether an address is of those that follow from keys, and this key's.
pub(super) fn follows_from(address: IpAddr, public_key: &[u8; 32]) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => dhcp::stateless(v6, public_key) == address,
    }
}

impl Daemon {
    /// Begins, once the node is part of the overlay.
    pub(super) fn begin_leases(&mut self) {
        let Some(overlay) = &self.overlay else { return };
        let before: Vec<IpAddr> = overlay.leased().iter().map(|prefix| prefix.addr()).collect();
        self.dhcp = Dhcp::new(&self.config, self.public_key.as_bytes(), &before);
    }

    /// Gives everything back.
    pub(super) fn end_leases(&mut self) {
        let now = clock::now();
        if let Some(client) = &mut self.dhcp.client {
            client.release(&mut self.node, now);
        }
        for registration in self.dhcp.registrations_mut() {
            registration.withdraw(&mut self.node, now);
        }
    }

    pub(super) fn leases_timeout(&mut self, now: Instant) {
        if let Some(client) = &mut self.dhcp.client {
            client.handle_timeout(&mut self.node, now);
        }
        for registration in self.dhcp.registrations_mut() {
            registration.handle_timeout(&mut self.node, now);
        }
        let claims = self.dhcp.claims.iter();
        let due: Vec<PeerId> = claims.filter(|(_, claim)| claim.next_at <= now).map(|(id, _)| *id).collect();
        for id in due {
            // What was not there may be by now.
            self.look_at_claim(id, true);
        }
        self.take_leases();
    }

    /// Takes in what has become of something in the DHT; says whether that was asked here.
    pub(super) fn leases_heard(&mut self, event: &Event) -> bool {
        let now = clock::now();
        let client = &mut self.dhcp.client;
        if client.as_mut().is_some_and(|client| client.handle_event(event, &mut self.node, now)) {
            self.take_leases();
            return true;
        }
        let heard = self.dhcp.registrations_mut().find_map(|one| one.handle_event(event, now).then_some(one));
        if let Some(registration) = heard {
            if let State::Taken(by) = registration.state() {
                let name = String::from_utf8_lossy(registration.name()).into_owned();
                warn!(name, by = ?by.map(|by| by.to_string()), "registered for another node");
            }
            return true;
        }
        let directory = self.dhcp.directory.as_mut();
        let heard = directory.and_then(|directory| directory.handle_event(event, clock::unix_s(), now));
        let Some((question, answer)) = heard else { return false };
        if let Question::Owner(address) = question {
            self.owner_known(address, answer.as_ref());
        }
        self.answer_names(&question, answer.is_some());
        true
    }

    fn take_leases(&mut self) {
        let Some(client) = &mut self.dhcp.client else { return };
        while let Some(output) = client.poll_output() {
            match output {
                Output::Bound { address, prefix_len } => {
                    self.dhcp.trouble = None;
                    info!(%address, prefix_len, "leased");
                    let network = Prefix::new(address, prefix_len);
                    let beside = client.pool().and_then(|pool| pool.stateless_of(self.public_key.as_bytes()));
                    let beside = beside.and_then(|address| Prefix::new(address, dhcp::STATELESS_BITS));
                    let addresses: Vec<Prefix> = network.into_iter().chain(beside).collect();
                    self.dhcp.change = Some(addresses).filter(|addresses| *addresses != self.addresses);
                }
                Output::Lost { address } => {
                    warn!(%address, "the lease is another node's now, or the network has other addresses");
                    self.dhcp.change = Some(Vec::new());
                }
                Output::Failed(error) => {
                    // Whoever has just joined may have asked too early.
                    let is_over = !matches!(error, dhcp::Error::NoAnswer | dhcp::Error::NoNamespace);
                    match self.dhcp.trouble.replace(error) == Some(error) {
                        true => debug!(%error, "still no address from the pool"),
                        false if is_over => warn!(%error, "no address from the pool"),
                        false => info!(%error, "no address from the pool"),
                    }
                    // What it had in its last run is another's.
                    if is_over && !self.addresses.is_empty() {
                        self.dhcp.change = Some(Vec::new());
                    }
                }
            }
        }
    }

    /// Has the addresses that it was given by now. Says whether there was anything to do.
    pub(super) async fn follow_change_of_address(&mut self) -> bool {
        let Some(addresses) = self.dhcp.change.take() else { return false };
        if let Err(error) = self.change_addresses(addresses).await {
            let warning = format!("the address that this node has leased is not set: {error}");
            warn!("{warning}");
            self.warnings.push(warning);
        }
        true
    }

    /// Has these addresses from now on, on the device and in the overlay.
    async fn change_addresses(&mut self, addresses: Vec<Prefix>) -> Result<(), String> {
        self.set_device_addresses(&addresses).await?;
        self.addresses = addresses;
        self.set_kernel_local().map_err(|error| error.to_string())?;
        self.note_leased();
        self.claim_addresses();
        self.look_at_all_claimed();
        if self.overlay.is_some() {
            self.dhcp.register_name(&self.config, &self.addresses, clock::now());
        }
        self.publish_table();
        self.refresh().await;
        self.follow_dns().await;
        Ok(())
    }

    /// The device has these addresses from now on.
    pub(super) async fn set_device_addresses(&mut self, addresses: &[Prefix]) -> Result<(), String> {
        let wanted: Vec<_> = addresses.iter().map(|p| (p.addr(), p.len())).collect();
        self.netlink.sync_addresses(self.device.ifindex, &wanted).await.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The addresses that the network leases, where this node is one that asks for them.
    fn pool(&self) -> Option<&Pool> {
        self.dhcp.client.as_ref().and_then(Client::pool)
    }

    /// Who has an address is asked of the DHT, where the address is one that is leased. Says whether it is.
    pub(super) fn find_lease(&mut self, address: IpAddr) -> bool {
        let now = clock::now();
        if !self.pool().is_some_and(|pool| pool.contains(address)) {
            return false;
        }
        let Dhcp { directory: Some(directory), .. } = &mut self.dhcp else { return false };
        let question = Question::Owner(address);
        match directory.known(&question, now).cloned() {
            Some(answer) => {
                self.owner_known(address, Some(&answer));
                true
            }
            None => directory.ask(question, &mut self.node, now),
        }
    }

    /// Which of the addresses that a peer claims are its own, as far as that is known; of the others is asked.
    pub(super) fn borne_out(&mut self, id: PeerId, addresses: Vec<IpAddr>, since: u64) -> Vec<IpAddr> {
        let Some(peer) = self.peers.get(&id) else { return Vec::new() };
        if self.config.dhcp.is_none() {
            return addresses;
        }
        let key = *peer.config.public_key.as_bytes();
        let now = clock::now();
        let mut own = Vec::new();
        let mut is_open = false;
        for address in &addresses {
            if follows_from(*address, &key) {
                own.push(*address);
                continue;
            }
            let Some(directory) = &mut self.dhcp.directory else { return Vec::new() };
            let question = Question::Owner(*address);
            match directory.known(&question, now) {
                Some(Answer::Owner { public_key, .. }) if *public_key == key => own.push(*address),
                Some(_) => {
                    debug!(%address, "claimed, and leased to another or to nobody");
                    self.counters.add(Counter::RxRefusedClaim, 1);
                    is_open = true;
                }
                None => {
                    // It was borne out before: nobody else has it before somebody says so.
                    if peer.config.addresses.contains(&Prefix::host(*address)) {
                        own.push(*address);
                    }
                    directory.ask(question, &mut self.node, now);
                    is_open = true;
                }
            }
        }
        if is_open {
            let tries = self.dhcp.claims.get(&id).map_or(0, |claim| claim.tries + 1);
            let next_at = now.after(retry_after(tries));
            self.dhcp.claims.insert(id, Claim { addresses, since, next_at, tries });
        } else {
            self.dhcp.claims.remove(&id);
        }
        own
    }

    /// Looks at a claim again, and asks anew where nobody was known to have an address.
    fn look_at_claim(&mut self, id: PeerId, anew: bool) {
        let Some(Claim { addresses, since, .. }) = self.dhcp.claims.get(&id) else { return };
        let (addresses, since) = (addresses.clone(), *since);
        if !self.peers.contains_key(&id) {
            self.dhcp.claims.remove(&id);
            return;
        }
        if let (true, Some(directory)) = (anew, &mut self.dhcp.directory) {
            addresses.iter().for_each(|address| directory.forget(&Question::Owner(*address)));
        }
        self.granted(id, &addresses, since);
    }

    /// It is known whose lease an address is, or that none is known of.
    fn owner_known(&mut self, address: IpAddr, answer: Option<&Answer>) {
        let waiting = self.dhcp.claims.iter().filter(|(_, claim)| claim.addresses.contains(&address));
        let waiting: Vec<PeerId> = waiting.map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| self.look_at_claim(id, false));
        match answer {
            Some(Answer::Owner { public_key, .. }) => self.hear_of_owner(address, Some(*public_key)),
            Some(Answer::Nobody | Answer::Offered(_)) => self.hear_of_owner(address, None),
            // Too few have answered: who waits for it asks again.
            None => {}
        }
    }

    /// Leases that have been known for long are looked at again, of peers that this node has to do with.
    pub(super) fn check_leases(&mut self, now: Instant) {
        if self.config.dhcp.is_none() {
            return;
        }
        let found = self.peers.values().filter(|peer| peer.origin == Origin::Found);
        let busy: Vec<(PeerId, Vec<IpAddr>, u64)> = found
            .filter(|peer| !peer.config.addresses.is_empty() && !self.node.is_idle(peer.id))
            .map(|peer| {
                let addresses = peer.config.addresses.iter().map(|prefix| prefix.addr()).collect();
                (peer.id, addresses, peer.claimed_since)
            })
            .collect();
        for (id, addresses, since) in busy {
            let is_known = |address: &IpAddr| {
                let directory = self.dhcp.directory.as_ref();
                directory.is_some_and(|directory| directory.known(&Question::Owner(*address), now).is_some())
            };
            let leased = |address: &&IpAddr| self.pool().is_some_and(|pool| pool.contains(**address));
            if !self.dhcp.claims.contains_key(&id) && !addresses.iter().filter(leased).all(is_known) {
                self.granted(id, &addresses, since);
            }
        }
    }

    pub(super) fn leases_status(&self) -> api::Dhcp {
        let (now, wall) = (clock::now(), clock::unix_s());
        let client = self.dhcp.client.as_ref();
        let own_key = self.public_key.as_bytes();
        let mut leases = Vec::new();
        let known = self.dhcp.directory.iter().flat_map(|directory| directory.owners(now));
        for (address, answer) in known {
            if let directory::Answer::Owner { public_key, host, expires, .. } = answer {
                let is_own = public_key == own_key;
                leases.push(api::Lease {
                    address,
                    owner: ipop_overlay::NodeAddress::of_key(public_key).into(),
                    host: Some(host.clone()).filter(|host| !host.is_empty()),
                    expires_s: Some(expires.saturating_sub(wall)),
                    is_own,
                });
            }
        }
        let own = client.and_then(Client::address).into_iter();
        let held = self.dhcp.listed.iter().filter(|(_, lease)| lease.state() == State::Held);
        for address in own.chain(held.map(|(address, _)| *address)) {
            if !leases.iter().any(|lease| lease.address == address) {
                leases.push(api::Lease {
                    address,
                    owner: self.public_key.node_address(),
                    host: Some(self.config.node.name.to_ascii_lowercase()),
                    expires_s: None,
                    is_own: true,
                });
            }
        }
        leases.sort_by_key(|lease| (!lease.is_own, lease.address));
        api::Dhcp {
            mode: match (client, &self.overlay) {
                (Some(_), _) => api::DhcpMode::Dhcp,
                (None, Some(_)) => api::DhcpMode::Listed,
                (None, None) => api::DhcpMode::Off,
            },
            pool: self.pool().map(|pool| api::DhcpPool {
                network: format!("{}/{}", pool.network(), pool.prefix_len()),
                ipv6: pool.stateless_network().map(|network| format!("{network}/{}", dhcp::STATELESS_BITS)),
                lease_s: pool.lease_s(),
                size: pool.size(),
                reserved: pool.reserved().map(|(address, owner)| (address, owner.into())).collect(),
            }),
            trouble: self.dhcp.trouble.map(|error| error.to_string()),
            leases,
        }
    }
}
