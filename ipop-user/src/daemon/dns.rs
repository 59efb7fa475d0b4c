//! The daemon's side of the DNS: which names it knows, and a service that is as the configuration says.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::names_asked::Ask;
use super::peers::{Origin, Peers};
use super::{Daemon, clock};
use crate::api;
use crate::config::{Config, Prefix};
use crate::dns::{Directory, Hosts, NoAnswer, Offer, Published, Service, Settings};

/// The service, and what it is told.
pub(super) struct Dns {
    published: Published,
    /// What is not published is asked of the daemon.
    ask: mpsc::Sender<Ask>,
    /// As it was started last, whether that has succeeded or not.
    settings: Option<Settings>,
    service: Option<Service>,
    /// Why there is none.
    reason: Option<String>,
}

impl Dns {
    pub(super) fn new(ask: mpsc::Sender<Ask>) -> Self {
        // Grows from one run to the next: a node has not changed its names once a second.
        let serial = clock::unix_s() as u32;
        let published = Published::default();
        published.0.store(Arc::new(Hosts::new(serial)));
        Self { published, ask, settings: None, service: None, reason: None }
    }

    pub(super) async fn close(&mut self) {
        if let Some(service) = self.service.take() {
            service.close().await;
        }
    }

    pub(super) fn status(&self) -> api::Dns {
        let state = self.service.as_ref().map(Service::state).unwrap_or_default();
        let mut status = api::Dns {
            domain: state.domain.clone(),
            listen: state.listen.clone(),
            reason: state.reason.clone().or_else(|| self.reason.clone()),
            resolver: state.resolver.map(str::to_owned),
            resolver_reason: state.resolver_reason.clone(),
            forward: state.forward.clone(),
            serve: self.settings.as_ref().is_some_and(|settings| settings.dns.serve),
        };
        if let Some(path) = state.rewritten() {
            status.resolver = None;
            status.resolver_reason = Some(format!(
                "somebody else has written {} meanwhile: `ipopctl reload` does not change that, a restart does",
                path.display()
            ));
        }
        status
    }

    /// What is not as it was asked for.
    pub(super) fn warnings(&self) -> Vec<String> {
        let state = self.service.as_ref().map(Service::state).unwrap_or_default();
        let mut warnings = state.warnings.clone();
        warnings.extend(self.reason.iter().map(|reason| format!("dns: {reason}")));
        let rewritten = |path: &std::path::Path| {
            format!("dns: somebody else has written {}: no resolver leads here any more", path.display())
        };
        warnings.extend(state.rewritten().map(rewritten));
        warnings
    }
}

impl Daemon {
    /// Starts the service, or another one if the configuration wants that.
    pub(super) async fn follow_dns(&mut self) {
        self.publish_names();
        let wanted = Settings::new(&self.config, &self.addresses, &self.device.name, self.device.ifindex);
        if self.dns.settings.as_ref() == Some(&wanted) {
            return;
        }
        self.dns.close().await;
        if self.addresses.is_empty() {
            (self.dns.settings, self.dns.reason) = (None, Some("this node has no address yet".to_owned()));
            return;
        }
        let names = Names { published: self.dns.published.clone(), ask: self.dns.ask.clone() };
        let started = Service::start(wanted.clone(), names, Arc::clone(&self.counters));
        self.dns.settings = Some(wanted);
        self.dns.reason = match started {
            Ok(service) => {
                self.dns.service = Some(service);
                None
            }
            Err(error) => {
                warn!(%error, "no thread for the DNS");
                Some(format!("no thread for it: {error}"))
            }
        };
    }

    /// Tells the service which names there are by now.
    pub(super) fn publish_names(&self) {
        let before = self.dns.published.0.load();
        let now = hosts(&self.config, &self.addresses, &self.peers, before.serial().wrapping_add(1));
        if !now.says_the_same(&before) {
            self.dns.published.0.store(Arc::new(now));
        }
    }
}

/// All names, those first that others give way to: this node's, those that its operator has given, and those of peers
/// that were found, which nobody chooses.
fn hosts(config: &Config, own: &[Prefix], peers: &Peers, serial: u32) -> Hosts {
    let mut hosts = Hosts::new(serial);
    hosts.insert(&config.node.name, own.iter().map(|own| own.addr()));
    for (name, addresses) in &config.dns.hosts {
        hosts.insert(name, addresses.iter().copied());
    }
    for origin in [Origin::Configured, Origin::Found] {
        for peer in peers.values().filter(|peer| peer.origin == origin) {
            // A network behind it is not it.
            let addresses = peer.config.addresses.iter().filter(|prefix| prefix.is_host());
            let addresses: Vec<IpAddr> = addresses.map(|prefix| prefix.addr()).collect();
            match origin {
                Origin::Configured => hosts.insert(&peer.config.name, addresses),
                // Its own name is in the overlay; this one is the beginning of its address.
                Origin::Found => drop(hosts.insert_alias(&peer.config.name, &addresses)),
            }
        }
    }
    hosts
}

/// What the DNS asks for names: what is published, and then the daemon, which asks the overlay.
struct Names {
    published: Published,
    ask: mpsc::Sender<Ask>,
}

impl Directory for Names {
    async fn addresses(&self, host: &str) -> Result<Option<Vec<IpAddr>>, NoAnswer> {
        if let Some(addresses) = self.published.addresses(host).await? {
            return Ok(Some(addresses));
        }
        let (reply, answer) = oneshot::channel();
        self.put(Ask::Addresses { host: host.to_owned(), reply })?;
        answer.await.unwrap_or(Err(NoAnswer))
    }

    async fn name(&self, address: IpAddr) -> Result<Option<String>, NoAnswer> {
        if let Some(name) = self.published.name(address).await? {
            return Ok(Some(name));
        }
        let (reply, answer) = oneshot::channel();
        self.put(Ask::Name { address, reply })?;
        answer.await.unwrap_or(Err(NoAnswer))
    }

    async fn services(&self, service: &str) -> Result<Option<Vec<Offer>>, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        self.put(Ask::Services { service: service.to_owned(), reply })?;
        answer.await.unwrap_or(Err(NoAnswer))
    }

    fn serial(&self) -> u32 {
        self.published.serial()
    }
}

impl Names {
    fn put(&self, ask: Ask) -> Result<(), NoAnswer> {
        // One that is full, or a daemon that is about to end.
        self.ask.try_send(ask).map_err(|_| NoAnswer)
    }
}
