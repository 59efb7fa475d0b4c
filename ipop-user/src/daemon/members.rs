//! Peers that come and go while the daemon runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipop_overlay::group::rules::Policy;
use ipop_overlay::{Command, Endpoint, PeerConfig, PeerId};
use tracing::{info, warn};

use super::peers::{NotAdded, Origin, PeerState};
use super::sealing::Partner;
use super::{Daemon, clock};
use crate::config;
use crate::key::PublicKey;

impl Daemon {
    /// Makes a node a peer that the overlay has found, or that has called. It has no inner address yet.
    pub(super) fn add_found(
        &mut self,
        name: String,
        public_key: PublicKey,
        endpoint: Option<Endpoint>,
    ) -> Result<PeerId, NotAdded> {
        if self.is_shunned(&public_key) {
            return Err(NotAdded::Shunned);
        }
        let config = config::Peer { name, public_key, addresses: Vec::new(), endpoint: None, line: 0 };
        self.add_peer(config, Origin::Found, endpoint)
    }

    /// Makes a node a peer. Nobody else may have its inner addresses.
    pub(super) fn add_peer(
        &mut self,
        config: config::Peer,
        origin: Origin,
        endpoint: Option<Endpoint>,
    ) -> Result<PeerId, NotAdded> {
        let public_key = *config.public_key.as_bytes();
        let id = self.node.add_peer(
            &PeerConfig { public_key, endpoint, is_found: origin == Origin::Found },
            clock::now(),
        )?;
        let Some(link_id) = self.node.peer(id).map(|view| view.link_id) else {
            unreachable!("it has just been added")
        };
        if let Err(error) =
            self.sealing.add_peer(&Partner { id, public_key, endpoint, is_found: origin == Origin::Found })
        {
            self.node.remove_peer(id);
            return Err(error.into());
        }
        info!(peer = config.name, key = %config.public_key, "peer added");
        let mut peer = PeerState::new(id, link_id, origin, config);
        if self.config.group.is_some() {
            // Until its certificate says who it is.
            peer.policy = Arc::new(Policy::closed());
        }
        self.peers.insert(id, peer);
        self.stale.elsewhere(id);
        self.stale.names = true;
        Ok(id)
    }

    /// Forgets a peer: sessions, link, routes.
    pub(super) fn remove_peer(&mut self, id: PeerId) {
        // What goes by it as a relay goes nowhere, in the kernel too, until there is another.
        let relayed = self.relayed_by(id);
        let Some(peer) = self.peers.remove(&id) else { return };
        info!(peer = peer.config.name, "peer removed");
        self.sealing.remove_peer(id);
        self.node.remove_peer(id);
        self.pings.forget(id);
        self.dhcp.forget(&peer.config.public_key);
        self.forget_stations(&peer.config.public_key);
        if let Some(kernel) = &mut self.kernel.path
            && let Err(error) = kernel.remove(peer.link_id)
        {
            warn!(peer = peer.config.name, %error, "the kernel keeps a link that it should not");
        }
        self.stale.unresolved.remove(&id);
        self.stale.peers.insert(id);
        self.stale.peers.extend(relayed);
        self.stale.paths = true;
        self.stale.names = true;
    }

    /// Says which inner addresses a peer may use, instead of those that it could.
    ///
    /// # Errors
    /// The one that is another's; nothing has changed.
    pub(super) fn set_addresses(
        &mut self,
        id: PeerId,
        mut addresses: Vec<config::Prefix>,
    ) -> Result<(), config::Prefix> {
        addresses.iter_mut().for_each(|prefix| *prefix = prefix.network());
        let others = || self.peers.values().filter(|peer| peer.id != id).map(|peer| &peer.config);
        let own = &self.addresses;
        if let Some(taken) = addresses.iter().find(|prefix| !is_free(**prefix, own, others())) {
            return Err(*taken);
        }
        self.assign(id, addresses);
        Ok(())
    }

    /// As [`Daemon::set_addresses`], where the addresses are known to be nobody else's.
    fn assign(&mut self, id: PeerId, addresses: Vec<config::Prefix>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.config.addresses != addresses {
            peer.config.addresses = addresses;
            // At once: what it gives up may be another's before anything else is done.
            self.apply_kernel(id);
            self.stale.peers.insert(id);
            self.stale.paths = true;
            self.stale.names = true;
        }
    }

    /// Says where a peer is from now on, until its packets come from elsewhere.
    pub(super) fn set_endpoint(&mut self, id: PeerId, endpoint: Option<Endpoint>) {
        if self.peers.contains_key(&id) {
            self.sealing.set_endpoint(id, endpoint);
            self.node.handle_command(Command::Endpoint { peer: id, endpoint }, clock::now());
            self.stale.elsewhere(id);
        }
    }

    /// Says where a peer may be beside its endpoint: handshakes look for it there too.
    pub(super) fn set_candidates(&mut self, id: PeerId, candidates: &[Endpoint]) {
        self.sealing.set_candidates(id, candidates);
    }

    /// Brings the peers to what the configuration says by now, which is still one of the same network: `wanted`,
    /// and where each of them was looked up to be.
    pub(super) fn follow(&mut self, wanted: Vec<(config::Peer, Option<Endpoint>)>) {
        let wanted: BTreeMap<PublicKey, (config::Peer, Option<Endpoint>)> =
            wanted.into_iter().map(|peer| (peer.0.public_key, peer)).collect();
        for id in self.ids() {
            let Some(peer) = self.peers.get(&id) else { continue };
            match wanted.get(&peer.config.public_key) {
                None if peer.origin == Origin::Configured => self.remove_peer(id),
                wanted_of_it => {
                    // Before anybody gets an address, those who have it no more give it up.
                    let own = &self.addresses;
                    let mut kept = peer.config.addresses.clone();
                    kept.retain(|prefix| match wanted_of_it {
                        Some((config, _)) => config.addresses.contains(prefix),
                        None => is_free(*prefix, own, wanted.values().map(|(config, _)| config)),
                    });
                    self.assign(id, kept);
                }
            }
        }
        for (config, endpoint) in wanted.into_values() {
            match self.node.peer_of_key(config.public_key.as_bytes()) {
                Some(id) => self.update_peer(id, config, endpoint),
                None => {
                    let name = config.name.clone();
                    if let Err(error) = self.add_peer(config, Origin::Configured, endpoint) {
                        warn!(peer = name, %error, "peer not added");
                    }
                }
            }
        }
    }

    /// Takes over what the configuration says of a peer that is there already.
    fn update_peer(&mut self, id: PeerId, config: config::Peer, endpoint: Option<Endpoint>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // A name may lead elsewhere by now.
        let is_moved = peer.config.endpoint != config.endpoint
            || endpoint.is_some() && endpoint != self.sealing.configured(id);
        let comes_to_us = config.endpoint.is_none();
        let (before, addresses) = (std::mem::take(&mut peer.config.addresses), config.addresses.clone());
        peer.origin = Origin::Configured;
        peer.config = config::Peer { addresses: before, ..config };
        self.assign(id, addresses);
        match (is_moved, comes_to_us) {
            // It stays where it was last seen.
            (true, true) => self.sealing.forget_configured(id),
            (true, false) => self.set_endpoint(id, endpoint),
            (false, _) => {}
        }
        // Its name may be another.
        self.stale.peers.insert(id);
    }
}

/// Whether a prefix is neither this node's nor of one of these peers.
fn is_free<'a>(
    prefix: config::Prefix,
    own: &[config::Prefix],
    mut peers: impl Iterator<Item = &'a config::Peer>,
) -> bool {
    !own.iter().any(|own| prefix.contains(own.addr()))
        && !peers.any(|peer| peer.addresses.iter().any(|theirs| theirs.overlaps(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> config::Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_belongs_to_one_node() {
        let own = [prefix("10.128.0.1/24"), prefix("fd00::1/64")];
        let peer = config::Peer {
            name: "peer".to_owned(),
            public_key: PublicKey::from_bytes([7; 32]),
            addresses: vec![prefix("10.128.0.2/32"), prefix("192.168.0.0/16")],
            endpoint: None,
            line: 0,
        };
        for (text, free) in [
            ("10.128.0.3/32", true),
            ("10.128.0.1/32", false),
            ("10.128.0.0/24", false),
            ("10.128.0.2/32", false),
            ("10.128.0.2/31", false),
            ("192.168.7.0/24", false),
            ("192.0.0.0/8", false),
            ("192.169.0.0/16", true),
            ("fd00::/64", false),
            ("fd00::2/128", true),
        ] {
            assert_eq!(is_free(prefix(text), &own, std::iter::once(&peer)), free, "{text}");
        }
    }
}
