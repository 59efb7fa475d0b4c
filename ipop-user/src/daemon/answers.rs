//! What the control socket asks, answered from the daemon's state.

use std::net::SocketAddr;

use ipop_common::Counter;
use ipop_overlay::{NoPath, Path, PeerView, UserReason};
use tracing::info;

use super::peers::PeerState;
use super::pings::micros;
use super::{Daemon, clock, start};
use crate::api::{self, Step};
use crate::config;
use crate::control::Request;
use crate::kernel::Method;
use crate::userpath::Io;

impl Daemon {
    /// Answers one request. A client that has gone away wants no answer.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Peers(reply) => {
                drop(reply.send(self.peers.iter().filter_map(|p| self.peer(p)).collect()));
            }
            Request::Links(reply) => {
                drop(reply.send(self.peers.iter().filter_map(|p| self.link(p)).collect()));
            }
            Request::Routes(reply) => drop(reply.send(self.routes())),
            Request::Counters(reply) => drop(reply.send(self.all_counters())),
            Request::Explain { peer, reply } => {
                drop(reply.send(self.find(&peer).and_then(|peer| {
                    self.explain(peer).ok_or_else(|| format!("peer {} has no state", peer.config.name))
                })));
            }
            Request::Ping { peer, count, interval, reply } => match self.find(&peer) {
                Ok(peer) => {
                    let target = (peer.id, peer.config.name.clone());
                    self.pings.order(target, count, interval, clock::now(), reply);
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::SetKernel { on, reply } => drop(reply.send(self.set_kernel(on))),
            Request::Reload(reply) => drop(reply.send(self.reload().await)),
        }
    }

    fn find(&self, selector: &api::Selector) -> Result<&PeerState, String> {
        self.peers.iter().find(|peer| selector.matches(&peer.config)).ok_or_else(|| {
            let names: Vec<&str> = self.peers.iter().map(|p| p.config.name.as_str()).collect();
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
        let (node, mut peers) = start::build_node(&new, &key).await.map_err(|error| format!("{error:#}"))?;
        for peer in &mut peers {
            if let Some(old) = self.peers.iter().find(|old| old.link_id == peer.link_id) {
                peer.traffic = std::sync::Arc::clone(&old.traffic);
                peer.last = old.last;
            }
        }
        let addresses: Vec<_> = new.network.addresses.iter().map(|p| (p.addr(), p.len())).collect();
        self.netlink
            .sync_addresses(self.device.ifindex, &addresses)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(path) = &mut self.kernel.path {
            let local: Vec<_> = addresses.iter().map(|(address, _)| (*address).into()).collect();
            let keep = peers.iter().map(|peer| peer.link_id).collect();
            path.set_local(&local).and_then(|()| path.retain(&keep)).map_err(|error| error.to_string())?;
        }
        let message = format!("reloaded: {} peers, {} before", peers.len(), self.peers.len());
        (self.node, self.peers, self.config, self.warnings) = (node, peers, new, warnings);
        self.tell_core_about_kernel();
        self.refresh().await;
        Ok(message)
    }

    /// The first setting that differs and cannot be changed while running.
    fn fixed_difference(&self, new: &config::Config, key: &crate::key::PrivateKey) -> Option<&'static str> {
        let old = &self.config;
        let fixed = [
            ("the key", key.public_key() != self.public_key),
            ("[node]", new.node != old.node),
            ("network.device", new.network.device != old.network.device),
            ("underlay.listen", new.underlay.listen != old.underlay.listen),
            ("underlay.interfaces", new.underlay.interfaces != old.underlay.interfaces),
            ("[datapath]", new.datapath != old.datapath),
        ];
        fixed.into_iter().find(|(_, differs)| *differs).map(|(name, _)| name)
    }

    fn status(&self) -> api::Status {
        let now = clock::now();
        let paths = self.peers.iter().filter_map(|peer| self.node.peer(peer.id)).map(|view| view.path);
        api::Status {
            name: self.config.node.name.clone(),
            address: self.public_key.node_address(),
            public_key: self.public_key.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.since(self.started).as_secs(),
            network: self.config.network.name.clone(),
            device: self.device.name.clone(),
            virtual_ips: self.config.network.addresses.iter().map(ToString::to_string).collect(),
            mtu: self.device.mtu,
            listen: self.config.underlay.listen.clone(),
            datapath: self.datapath(),
            interfaces: self.interfaces(),
            peers_total: u32::try_from(self.peers.len()).unwrap_or(u32::MAX),
            peers_direct: u32::try_from(paths.filter(|path| !matches!(path, Path::None(_))).count())
                .unwrap_or(0),
            warnings: self.warnings.clone(),
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
        let mtu = match view.path {
            Path::User { mtu, .. } | Path::Kernel { mtu, .. } => Some(u32::from(mtu)),
            Path::None(_) => None,
        };
        Some(api::Peer {
            name: peer.config.name.clone(),
            address: peer.config.public_key.node_address(),
            virtual_ips: api::virtual_ips(&peer.config.addresses),
            endpoint: view.endpoint.map(|endpoint| endpoint.to_string()),
            path,
            path_reason: reason,
            security: api::Security::Clear,
            rtt_us: view.rtt.map(micros),
            traffic: self.traffic(peer),
            last_handshake_s: view.last_heard.map(|at| clock::now().since(at).as_secs()),
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
    fn effective(&self, peer: &PeerState, view: &PeerView) -> (api::Path, String) {
        match (view.path, &peer.kernel) {
            (Path::Kernel { .. }, Ok(())) => {
                (api::Path::DirectKernel, "both ends are trusted and run the kernel path".to_owned())
            }
            (Path::Kernel { .. }, Err(reason)) => {
                (api::Path::DirectUser, format!("not in the kernel: {reason}"))
            }
            (Path::User { reason: UserReason::OffHere, .. }, _) => {
                let reason = self.kernel.reason.as_deref().unwrap_or("not set up");
                (api::Path::DirectUser, format!("the kernel path is off on this node: {reason}"))
            }
            (Path::User { reason: UserReason::OffThere, .. }, _) => {
                (api::Path::DirectUser, "the kernel path is off on the peer".to_owned())
            }
            (Path::None(why), _) => (api::Path::None, no_path(why, peer, view.endpoint)),
        }
    }

    fn link(&self, peer: &PeerState) -> Option<api::Link> {
        let view = self.node.peer(peer.id)?;
        let endpoint = view.endpoint?;
        let entry = self.kernel.path.as_ref().and_then(|path| path.entry(peer.link_id));
        let reach = peer.reach.as_ref().ok();
        let lease = entry.map(|link| link.lease_until_ns.saturating_sub(clock::now().as_nanos()) / 1_000_000);
        let mtu = match view.path {
            Path::User { mtu, .. } | Path::Kernel { mtu, .. } => mtu,
            Path::None(_) => reach.map_or(0, |reach| reach.inner_mtu(self.config.network.mtu)),
        };
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
            security: api::Security::Clear,
            traffic: self.traffic(peer),
        })
    }

    fn routes(&self) -> Vec<api::Route> {
        let mut routes = Vec::new();
        for peer in &self.peers {
            let Some(view) = self.node.peer(peer.id) else { continue };
            let (path, _) = self.effective(peer, &view);
            let link_id = (path != api::Path::None).then(|| api::link_id(peer.link_id.value()));
            routes.extend(peer.config.addresses.iter().map(|prefix| api::Route {
                prefix: prefix.to_string(),
                peer: peer.config.name.clone(),
                link_id: link_id.clone(),
                path,
            }));
        }
        routes
    }

    fn all_counters(&self) -> api::Counters {
        let kernel = self.kernel.path.as_ref().and_then(|path| path.counters().ok());
        let values = kernel.unwrap_or([0; ipop_common::counter::COUNTERS as usize]);
        api::Counters {
            kernel: Counter::ALL.iter().copied().zip(values).collect(),
            user: self.counters.iter().collect(),
        }
    }

    /// The questions that decide about a peer's path, in their order.
    fn explain(&self, peer: &PeerState) -> Option<api::Explanation> {
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
        let trusted = match (view.endpoint, &peer.reach) {
            (Some(e), _) if !self.config.underlay.trusts(e.ip()) => {
                Err(format!("{} is in no trusted prefix", e.ip()))
            }
            (_, Ok(r)) if !self.config.underlay.trusts(r.path.source) => {
                Err(format!("our address {} is in no trusted prefix", r.path.source))
            }
            (_, Err(_)) => Err("no address of ours leads there".to_owned()),
            (e, Ok(r)) => {
                Ok(format!("{} and our {}", e.map(|e| e.ip().to_string()).unwrap_or_default(), r.path.source))
            }
        };
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
        let here = match &self.kernel.path {
            Some(path) if path.enabled() => Ok(format!("attached by {}", path.method().name())),
            _ => Err(self.kernel.reason.clone().unwrap_or_else(|| "not set up".to_owned())),
        };
        let there = match view.path {
            Path::Kernel { endpoint, .. } => Ok(format!("receives on {endpoint}")),
            Path::User { reason: UserReason::OffThere, .. } => Err("the peer says it has none".to_owned()),
            _ => Err("not known".to_owned()),
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
        vec![
            step("endpoint known", endpoint.ok_or_else(|| "none configured, none learned".to_owned())),
            step("route", route),
            step("both ends trusted", trusted),
            step("peer answers", answers),
            step("kernel path here", here),
            step("kernel path there", there),
            step("next hop's MAC", neighbour),
            step("entry in the maps", installed),
        ]
    }
}

fn no_path(why: NoPath, peer: &PeerState, endpoint: Option<SocketAddr>) -> String {
    let place = endpoint.map_or_else(|| "its endpoint".to_owned(), |e| e.to_string());
    match why {
        NoPath::NoEndpoint => "no endpoint is configured and the peer has not called".to_owned(),
        NoPath::PeerNotTrusted(ip) => {
            format!("{ip} is in no trusted prefix, and links are clear in this version")
        }
        NoPath::SelfNotTrusted(ip) => {
            format!("our address {ip} is in no trusted prefix, and links are clear in this version")
        }
        NoPath::NoRoute => peer.reach.as_ref().err().cloned().unwrap_or_else(|| "no route".to_owned()),
        NoPath::NoAnswer => {
            format!("{place} has not answered: is ipopd running there, with the same secret and our key?")
        }
        NoPath::Silent => format!("{place} has fallen silent"),
    }
}

fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
