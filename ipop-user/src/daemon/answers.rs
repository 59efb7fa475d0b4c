//! What the control socket asks, answered from the daemon's state.

use ipop_common::Counter;
use ipop_overlay::group::rules::Side;
use ipop_overlay::{Endpoint, NoPath, Node, Path, PeerView, Security, UserReason};
use tracing::info;

use super::apply::Stale;
use super::peers::{PeerState, Peers, mtu_max};
use super::pings::micros;
use super::sealing::Sealing;
use super::switch::Switch;
use super::{Daemon, clock, overlay, start};
use crate::api::{self, Step};
use crate::config;
use crate::control::Request;
use crate::kernel::{KernelPath, Method};
use crate::userpath::Io;

impl Daemon {
    /// Answers one request. A client that has gone away wants no answer.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Peers(reply) => {
                drop(reply.send(self.peers.values().filter_map(|p| self.peer(p)).collect()));
            }
            Request::Links(reply) => {
                drop(reply.send(self.peers.values().filter_map(|p| self.link(p)).collect()));
            }
            Request::Groups(reply) => drop(reply.send(self.group_status())),
            Request::Stations(reply) => drop(reply.send(self.station_status())),
            Request::Routes(reply) => drop(reply.send(self.routes())),
            Request::Dhcp(reply) => drop(reply.send(self.leases_status())),
            Request::Counters(reply) => drop(reply.send(self.all_counters())),
            Request::Explain { peer, reply } => {
                drop(reply.send(self.explain_selected(&peer)));
            }
            Request::Probe { node, probe } => self.probe(node.as_ref(), probe),
            Request::Dht { order, reply } => self.order_of_records(order, reply),
            Request::SetKernel { on, reply } => drop(reply.send(self.set_kernel(on))),
            Request::Reload(reply) => drop(reply.send(self.reload().await)),
        }
    }

    /// The peer that an operator means. The beginning of an address must be that of one alone.
    pub(super) fn find(&self, selector: &api::Selector) -> Result<&PeerState, String> {
        let mut matching = self.peers.values().filter(|peer| selector.matches(&peer.config));
        if let (Some(first), Some(second), api::Selector::Prefix(prefix)) =
            (matching.clone().next(), matching.clone().nth(1), selector)
        {
            let [first, second] = [first, second].map(|peer| peer.config.public_key.node_address());
            return Err(format!("{prefix} is the beginning of {first} and of {second}; give more of it"));
        }
        matching.next().ok_or_else(|| {
            if let Some(why) = self.why_refused(selector) {
                return why;
            }
            let names: Vec<&str> = self.peers.values().map(|p| p.config.name.as_str()).collect();
            format!(
                "no such peer: this node has {}",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )
        })
    }

    fn set_kernel(&mut self, on: bool) -> Result<String, String> {
        let Some(path) = &mut self.kernel.path else {
            let reason = self.kernel.reason.as_deref().unwrap_or("it was not set up");
            return match on {
                true => Err(format!(
                    "the kernel path is unavailable ({reason}): remove the cause and restart ipopd"
                )),
                false => Ok(format!("the kernel path is off already ({reason})")),
            };
        };
        path.set_enabled(on).map_err(|error| error.to_string())?;
        self.kernel.reason = (!on).then(|| "switched off by ipopctl".to_owned());
        info!(on, "kernel path switched");
        self.tell_core_about_kernel();
        Ok(format!("the kernel path is {}", if on { "on" } else { "off: the user path carries everything" }))
    }

    /// Reads the configuration again and takes over what can change while running.
    pub(super) async fn reload(&mut self) -> Result<String, String> {
        let (new, key, warnings) = start::read(&self.options).map_err(|error| format!("{error:#}"))?;
        if let Some(fixed) = self.fixed_difference(&new, &key) {
            return Err(format!("{fixed} cannot change while ipopd runs: restart it"));
        }
        if new == self.config {
            return Ok("the configuration has not changed".to_owned());
        }
        // Before anything changes, all that can be refused.
        let (node, peers) = start::build_node(&new, &key).await.map_err(|error| format!("{error:#}"))?;
        let places = self.sealing.places();
        let sealing = start::build_sealing(&new, &key, &node, &self.options, places)
            .map_err(|error| format!("{error:#}"))?;
        let given = |config: &config::Config| {
            let (addresses, services) = (config.network.addresses.clone(), config.dns.services.clone());
            (config.dhcp.clone(), addresses, services)
        };
        let is_same_lease = given(&new) == given(&self.config);
        let addresses = match new.dhcp {
            Some(_) if new.dhcp == self.config.dhcp => self.addresses.clone(),
            Some(_) => Vec::new(),
            None => new.network.addresses.clone(),
        };
        self.set_device_addresses(&addresses).await?;
        let network = |config: &config::Config| (config.network.name.clone(), config.network.secret.clone());
        let is_same_network = network(&new) == network(&self.config);
        let message = format!("reloaded: {} peers, {} before", peers.len(), self.config.peers.len());
        if !is_same_lease || !is_same_network {
            self.end_leases();
        }
        (self.config, self.warnings, self.addresses) = (new, warnings, addresses);
        self.set_kernel_local().map_err(|error| error.to_string())?;
        if is_same_network {
            // Before a peer gets what a router had.
            self.follow_routing();
            let config = &self.config;
            self.node.reconfigure(start::trusted(config), mtu_max(config.network.mtu), clock::now());
            let endpoint = |id| node.peer(id).and_then(|view| view.endpoint);
            self.follow(peers.into_values().map(|peer| (peer.config, endpoint(peer.id))).collect());
            if let Some(overlay) = &mut self.overlay {
                overlay.ways.follow(&self.config);
            }
            self.claim_addresses();
            if !is_same_lease {
                self.begin_leases();
            }
            self.node.set_relaying(self.config.underlay.relay);
            self.renew_relays();
        } else {
            self.enter(node, sealing, peers)?;
        }
        self.refresh().await;
        self.follow_dns().await;
        Ok(message)
    }

    /// Begins anew in another network, of which no session of before is.
    fn enter(&mut self, node: Node, sealing: Sealing, peers: Peers) -> Result<(), String> {
        if let Some(path) = &mut self.kernel.path {
            let keep = peers.values().map(|peer| peer.link_id).collect();
            path.retain(&keep).map_err(|error| error.to_string())?;
        }
        self.end_relays();
        self.sealing.close();
        (self.node, self.sealing, self.peers) = (node, sealing, peers);
        self.stale = Stale::default();
        self.unsent.clear();
        self.tell_core_about_kernel();
        self.overlay = overlay::overlay(&self.config).map_err(|error| format!("{error:#}"))?;
        self.forget_routing();
        self.join_overlay();
        self.follow_routing();
        Ok(())
    }

    /// The first setting that differs and cannot be changed while running.
    fn fixed_difference(&self, new: &config::Config, key: &crate::key::PrivateKey) -> Option<&'static str> {
        let old = &self.config;
        let identity = |config: &config::Config| config.group.as_ref().map(|group| group.place.clone());
        let fixed = [
            ("the key", key.public_key() != self.public_key),
            ("[node]", new.node != old.node),
            ("network.group", identity(new) != identity(old)),
            ("network.mode", new.network.mode != old.network.mode),
            ("network.device", new.network.device != old.network.device),
            ("network.multicast", new.network.multicast != old.network.multicast),
            ("network.multicast_route", new.network.multicast_route != old.network.multicast_route),
            ("underlay.listen", new.underlay.listen != old.underlay.listen),
            ("underlay.tcp", new.underlay.tcp != old.underlay.tcp),
            ("underlay.interfaces", new.underlay.interfaces != old.underlay.interfaces),
            ("whether there is an overlay (`underlay.bootstrap`)", new.has_overlay() != old.has_overlay()),
            ("[datapath]", new.datapath != old.datapath),
        ];
        fixed.into_iter().find(|(_, differs)| *differs).map(|(name, _)| name)
    }

    fn status(&self) -> api::Status {
        let now = clock::now();
        let paths = self.peers.values().filter_map(|peer| self.node.peer(peer.id)).map(|view| view.path);
        api::Status {
            name: self.config.node.name.clone(),
            address: self.public_key.node_address(),
            public_key: self.public_key.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.since(self.started).as_secs(),
            network: self.config.network.name.clone(),
            device: self.device.name.clone(),
            virtual_ips: self.addresses.iter().map(ToString::to_string).collect(),
            mtu: self.device.mtu,
            listen: self.config.underlay.listen.clone(),
            listen_tcp: self.streams.listens_at().collect(),
            datapath: self.datapath(),
            interfaces: self.interfaces(),
            peers_total: u32::try_from(self.peers.len()).unwrap_or(u32::MAX),
            peers_direct: u32::try_from(
                paths.filter(|path| matches!(path, Path::Kernel { .. } | Path::User { .. })).count(),
            )
            .unwrap_or(0),
            overlay: self.overlay_status(),
            membership: self.membership_status(),
            dns: self.dns.status(),
            warnings: [
                self.warnings.clone(),
                self.dns.warnings(),
                self.dhcp.warnings(&self.config),
                self.routing_warnings(),
                self.group_warnings(),
                self.switch.iter().filter_map(Switch::warning).collect(),
            ]
            .concat(),
        }
    }

    fn datapath(&self) -> api::Datapath {
        let (xdp, xdp_reason) = self.underlays.xdp();
        let kernel = match &self.kernel.path {
            Some(path) if path.enabled() => api::KernelState::On,
            Some(_) => api::KernelState::Off,
            None if self.config.datapath.kernel == config::Kernel::Off => api::KernelState::Off,
            None => api::KernelState::Unavailable,
        };
        api::Datapath {
            kernel,
            kernel_reason: self.kernel.reason.clone(),
            attach: self.kernel.path.as_ref().map(|path| match path.method() {
                Method::Tcx => api::Attach::Tcx,
                Method::Clsact => api::Attach::Clsact,
            }),
            xdp,
            xdp_reason: xdp_reason.filter(|_| self.kernel.path.is_some()),
            io: match self.user.io() {
                Io::Epoll => api::IoBackend::Epoll,
                Io::IoUring | Io::Auto => api::IoBackend::IoUring,
            },
            io_reason: self.user.io_reason().map(ToOwned::to_owned),
            queues: self.user.queues(),
            device_kind: self.device.kind,
        }
    }

    fn interfaces(&self) -> Vec<api::Interface> {
        let Some(method) = self.kernel.path.as_ref().map(|path| path.method().name()) else {
            return Vec::new();
        };
        let device = api::Interface {
            name: self.device.name.clone(),
            attached: vec![format!("{method} egress"), format!("{method} ingress")],
        };
        let underlays = self.underlays.iter().map(|(_, attached)| {
            let mut programs = vec![format!("{method} ingress")];
            programs.extend(attached.xdp.map(|mode| format!("xdp {}", mode.name())));
            api::Interface { name: attached.name.clone(), attached: programs }
        });
        std::iter::once(device).chain(underlays).collect()
    }

    fn peer(&self, peer: &PeerState) -> Option<api::Peer> {
        let view = self.node.peer(peer.id)?;
        let (path, reason) = self.effective(peer, &view);
        let mtu = view.path.mtu().map(u32::from);
        let security = security(&view);
        Some(api::Peer {
            name: peer.config.name.clone(),
            address: peer.config.public_key.node_address(),
            virtual_ips: api::virtual_ips(&peer.config.addresses),
            endpoint: view.endpoint.map(|endpoint| endpoint.to_string()),
            path,
            path_reason: reason,
            security,
            cipher: (security == api::Security::Sealed).then(|| api::CIPHER.to_owned()),
            rtt_us: view.rtt.map(micros),
            traffic: self.traffic(peer),
            may_begin: peer.policy.out.to_string(),
            peer_may_begin: peer.policy.come.to_string(),
            last_handshake_s: self.sealing.age(peer.id).map(|age| age.as_secs()),
            last_heard_s: view.last_heard.map(|at| clock::now().since(at).as_secs()),
            public_key: peer.config.public_key.to_string(),
            mtu,
            link_id: mtu.map(|_| api::link_id(peer.link_id.value())),
        })
    }

    fn traffic(&self, peer: &PeerState) -> api::Traffic {
        let kernel =
            self.kernel.path.as_ref().and_then(|path| path.stats(peer.link_id).ok()).unwrap_or_default();
        let user = peer.traffic.snapshot();
        api::Traffic {
            tx_packets: kernel.tx_packets + user.tx_packets,
            rx_packets: kernel.rx_packets + user.rx_packets,
            tx_bytes: kernel.tx_bytes + user.tx_bytes,
            rx_bytes: kernel.rx_bytes + user.rx_bytes,
            kernel_tx_packets: kernel.tx_packets,
            kernel_rx_packets: kernel.rx_packets,
            user_tx_packets: user.tx_packets,
            user_rx_packets: user.rx_packets,
        }
    }

    /// The path that packets take now, and one sentence why.
    pub(super) fn effective(&self, peer: &PeerState, view: &PeerView) -> (api::Path, String) {
        let is_turned = || self.node.ring().is_some_and(|ring| ring.is_turned(peer.node_address()));
        let relayed = |who: String| {
            let sealed = match self.sealed_in_kernel(peer) {
                Ok(how) => how.to_owned(),
                Err(reason) => format!("sealed in the daemon: {reason}"),
            };
            (
                api::Path::Relay,
                format!("{who} passes the packets on: {}; {sealed}", self.why_not_direct(peer)),
            )
        };
        match view.path {
            Path::None(why) => (api::Path::None, no_path(why, peer, view.endpoint)),
            Path::Overlay { to, .. } => (api::Path::Overlay, self.why_carried(to)),
            Path::Relay { by, .. } => relayed(self.node_ref(by).label()),
            Path::User { reason: UserReason::Turn, .. } => {
                let reason = self.why_not_direct(peer);
                (api::Path::Relay, format!("this node's TURN server passes the packets on: {reason}"))
            }
            Path::Kernel { .. } | Path::User { .. } if is_turned() => {
                relayed("the peer's TURN server".to_owned())
            }
            Path::User { reason: UserReason::Tcp, .. } => {
                (api::Path::DirectUser, "by TCP: no packets of UDP come through".to_owned())
            }
            Path::User { reason: UserReason::OffThere, security, .. } => {
                let reason = match security {
                    Security::Sealed => {
                        "over IPv6 the peer wants UDP checksums, which the kernel path has not"
                    }
                    Security::Clear(_) => "the kernel path is off on the peer",
                };
                (api::Path::DirectUser, reason.to_owned())
            }
            Path::Kernel { security: Security::Clear(_), .. } if peer.kernel.is_ok() => {
                (api::Path::DirectKernel, "both ends trust the wire and run the kernel path".to_owned())
            }
            Path::User { security: Security::Clear(_), .. } => (api::Path::DirectUser, self.why_off()),
            Path::Kernel { .. } | Path::User { .. } => match self.sealed_in_kernel(peer) {
                Ok(how) => (api::Path::DirectKernel, how.to_owned()),
                Err(reason) => (api::Path::DirectUser, format!("not in the kernel: {reason}")),
            },
        }
    }

    /// How packets to a peer are sealed in the kernel, or why they are not.
    fn sealed_in_kernel(&self, peer: &PeerState) -> Result<&'static str, String> {
        let is_on = self.kernel.path.as_ref().is_some_and(KernelPath::enabled);
        match (self.config.datapath.seal, &peer.kernel) {
            (config::Seal::User, _) => Err("datapath.seal = \"user\" in the configuration".to_owned()),
            _ if !is_on => Err(self.why_off()),
            (_, Err(reason)) => Err(reason.clone()),
            (config::Seal::Kernel, Ok(())) => Ok("sealed in the kernel"),
            (config::Seal::Auto, Ok(())) => Ok("sealed in the kernel, super-packets in the daemon"),
        }
    }

    /// Why this node has no kernel path.
    fn why_off(&self) -> String {
        let reason = self.kernel.reason.as_deref().unwrap_or("not set up");
        format!("the kernel path is off on this node: {reason}")
    }

    fn link(&self, peer: &PeerState) -> Option<api::Link> {
        let view = self.node.peer(peer.id)?;
        let endpoint = self.first_place(view.endpoint?)?.direct()?;
        let entry = self.kernel.path.as_ref().and_then(|path| path.entry(peer.link_id));
        let reach = peer.reach.as_ref().ok();
        let lease = entry.map(|link| link.lease_until_ns.saturating_sub(clock::now().as_nanos()) / 1_000_000);
        let waiting = || reach.map_or(0, |reach| reach.sealed_mtu(self.config.network.mtu));
        let mtu = view.path.mtu().unwrap_or_else(waiting);
        let [roles, their_roles] = self.roles_of(peer.config.public_key.node_address().on_ring());
        Some(api::Link {
            peer: peer.config.name.clone(),
            link_id: api::link_id(peer.link_id.value()),
            endpoint,
            local: reach.map(|reach| reach.path.source),
            interface: reach.map(|reach| reach.interface.clone()),
            next_hop_mac: reach.and_then(|reach| reach.next_hop_mac).map(mac),
            mtu: u32::from(mtu),
            epoch: entry.map_or(0, |link| link.epoch),
            lease_remaining_ms: lease,
            kernel: entry.is_some(),
            path: self.effective(peer, &view).0,
            security: security(&view),
            roles,
            their_roles,
            traffic: self.traffic(peer),
        })
    }

    fn routes(&self) -> Vec<api::Route> {
        let mut routes = Vec::new();
        for peer in self.peers.values() {
            let Some(view) = self.node.peer(peer.id) else { continue };
            let (path, _) = self.effective(peer, &view);
            let link_id = (path != api::Path::None).then(|| api::link_id(peer.link_id.value()));
            routes.extend(peer.config.addresses.iter().map(|prefix| api::Route {
                prefix: prefix.to_string(),
                peer: peer.config.name.clone(),
                link_id: link_id.clone(),
                path,
                subnet: None,
            }));
        }
        routes.extend(self.subnet_routes());
        routes
    }

    fn all_counters(&self) -> api::Counters {
        let kernel = self.kernel.path.as_ref().and_then(|path| path.counters().ok());
        let values = kernel.unwrap_or([0; ipop_common::counter::COUNTERS as usize]);
        api::Counters {
            kernel: Counter::ALL.iter().copied().zip(values).collect(),
            user: self.counters.iter().collect(),
            overlay: self
                .node
                .ring()
                .map(|ring| api::CounterGroup::of_ring(ring.counts()))
                .unwrap_or_default(),
        }
    }

    /// The questions that decide about a peer's path, in their order.
    pub(super) fn explain(&self, peer: &PeerState) -> Option<api::Explanation> {
        let view = self.node.peer(peer.id)?;
        let (path, verdict) = self.effective(peer, &view);
        Some(api::Explanation {
            peer: peer.config.name.clone(),
            path,
            verdict,
            steps: self.steps(peer, &view),
        })
    }

    fn steps(&self, peer: &PeerState, view: &PeerView) -> Vec<Step> {
        let step = |check: &str, outcome: Result<String, String>| Step {
            check: check.to_owned(),
            ok: outcome.is_ok(),
            detail: outcome.unwrap_or_else(|reason| reason),
        };
        let endpoint = view.endpoint.map(|e| e.to_string());
        let route =
            peer.reach.as_ref().map_err(Clone::clone).map(|reach| {
                format!("{} by {}, MTU {}", reach.path.next_hop, reach.interface, reach.path.mtu)
            });
        let answers = match (view.last_heard, view.path) {
            (None, _) => Err("it has never answered".to_owned()),
            (Some(at), Path::None(NoPath::Silent)) => {
                Err(format!("silent for {} s", clock::now().since(at).as_secs()))
            }
            (Some(at), _) => Ok(format!("heard {} ms ago", clock::now().since(at).as_millis())),
        };
        let session = match self.sealing.age(peer.id) {
            Some(age) => Ok(format!("{} s old", age.as_secs())),
            None if self.sealing.view(peer.id).is_some_and(|view| view.handshaking) => {
                Err("a handshake is under way".to_owned())
            }
            None => Err("none, and no handshake is under way".to_owned()),
        };
        let here = match &self.kernel.path {
            Some(path) if path.enabled() => Ok(format!("attached by {}", path.method().name())),
            _ => Err(self.kernel.reason.clone().unwrap_or_else(|| "not set up".to_owned())),
        };
        let there = match view.said {
            Some(said) if said.kernel_port == 0 => Err("the peer says it has none".to_owned()),
            Some(said) => {
                Ok(format!("clear packets to port {}, sealed ones to its daemon's", said.kernel_port))
            }
            None => Err("not known: the peer has said nothing, as another WireGuard would".to_owned()),
        };
        let neighbour = match &peer.reach {
            Ok(reach) => {
                reach.next_hop_mac.map(mac).ok_or_else(|| format!("{} not resolved", reach.path.next_hop))
            }
            Err(reason) => Err(reason.clone()),
        };
        let entry = self.kernel.path.as_ref().and_then(|path| path.entry(peer.link_id));
        let installed = match (entry, &peer.kernel) {
            (Some(link), _) => {
                let left = link.lease_until_ns.saturating_sub(clock::now().as_nanos()) / 1_000_000;
                Ok(format!("epoch {}, MTU {}, lease {left} ms", link.epoch, link.mtu))
            }
            (None, Err(reason)) => Err(reason.clone()),
            (None, Ok(())) => Err("not installed".to_owned()),
        };
        let mut steps = match view.path {
            Path::Relay { by, .. } => self.relay_steps(peer, by),
            Path::Overlay { to, .. } => self.overlay_steps(to),
            _ => Vec::new(),
        };
        steps.extend([
            step("endpoint known", endpoint.ok_or_else(|| "none configured, none learned".to_owned())),
            step("route", route),
            step("session", session),
            step("peer answers", answers),
            step("security", self.why_this_security(peer, view)),
            step("who seals", self.who_seals(view)),
            step("kernel path here", here),
            step("kernel path there", there),
            step("next hop's MAC", neighbour),
            step("entry in the maps", installed),
            step("may begin", self.rules_say(&peer.policy.out)),
            step("it may begin", self.rules_say(&peer.policy.come)),
        ]);
        steps
    }
}

impl Daemon {
    /// What the group's rules allow in one direction.
    fn rules_say(&self, side: &Side) -> Result<String, String> {
        let text = side.to_string();
        if *side == Side::default() { Err(text) } else { Ok(text) }
    }

    /// Sealed or clear, and why; it fails where the operator asked for clear and does not get it.
    fn why_this_security(&self, peer: &PeerState, view: &PeerView) -> Result<String, String> {
        if self.config.datapath.security == config::Security::Sealed {
            return Ok("sealed, as configured".to_owned());
        }
        let underlay = &self.config.underlay;
        match view.endpoint {
            Some(Endpoint::Relay { .. } | Endpoint::Overlay(_)) => {
                return Err("sealed: other nodes pass the packets on".to_owned());
            }
            Some(Endpoint::Tcp(_)) => return Err("sealed: the packets go by TCP".to_owned()),
            Some(Endpoint::Turn(_)) => return Err("sealed: a TURN server passes the packets on".to_owned()),
            Some(Endpoint::Udp(_)) | None => {}
        }
        match (view.endpoint.and_then(Endpoint::udp), &peer.reach) {
            (Some(endpoint), _) if !underlay.trusts(endpoint.ip()) => {
                Err(format!("sealed: {} is in no trusted prefix", endpoint.ip()))
            }
            (_, Ok(reach)) if !underlay.trusts(reach.path.source) => {
                Err(format!("sealed: our address {} is in no trusted prefix", reach.path.source))
            }
            (None, _) | (_, Err(_)) => Err("sealed: no address of ours leads there".to_owned()),
            (Some(endpoint), Ok(reach)) => match view.said.map(|said| said.clear) {
                Some(Some(_)) => {
                    Ok(format!("clear: {} and our {} are trusted", endpoint.ip(), reach.path.source))
                }
                Some(None) => Err("sealed: the peer does not trust the wire".to_owned()),
                None => Err("sealed: the peer has not said that it trusts the wire".to_owned()),
            },
        }
    }

    /// Where packets to the peer are sealed.
    fn who_seals(&self, view: &PeerView) -> Result<String, String> {
        let kernel = self.kernel.path.as_ref().is_some_and(|path| path.enabled());
        match (view.path, self.config.datapath.seal) {
            (Path::None(_), _) => Err("nobody: there is no path".to_owned()),
            (path, _) if path.security() != Some(Security::Sealed) => {
                Ok("nobody: the link is clear".to_owned())
            }
            (_, config::Seal::User) => Ok("the daemon, as configured".to_owned()),
            (Path::User { .. } | Path::Overlay { .. }, _) => Ok("the daemon".to_owned()),
            _ if !kernel => Ok("the daemon".to_owned()),
            (_, config::Seal::Kernel) => Ok("the kernel, as configured".to_owned()),
            (_, config::Seal::Auto) => Ok("the kernel; flows with super-packets, the daemon".to_owned()),
        }
    }
}

/// What protects packets to a peer, or would if there were a path.
fn security(view: &PeerView) -> api::Security {
    match view.path.security() {
        Some(Security::Clear(_)) => api::Security::Clear,
        Some(Security::Sealed) | None => api::Security::Sealed,
    }
}

fn no_path(why: NoPath, peer: &PeerState, endpoint: Option<Endpoint>) -> String {
    let place = endpoint.map_or_else(|| "its endpoint".to_owned(), |e| e.to_string());
    match why {
        NoPath::NoEndpoint => "no endpoint is configured and the peer has not called".to_owned(),
        NoPath::NoRoute => peer.reach.as_ref().err().cloned().unwrap_or_else(|| "no route".to_owned()),
        NoPath::NoAnswer => {
            format!("{place} has not answered: is ipopd running there, with the same secret and our key?")
        }
        NoPath::Silent => format!("{place} has fallen silent"),
        NoPath::NotAdmitted => "the certificates of both ends are being looked at".to_owned(),
    }
}

fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
