//! Relays: what this node passes on between others, and what others pass on for it.

use std::net::SocketAddr;

use ipop_common::{Counter, relay};
use ipop_overlay::{Endpoint, NodeAddress, PeerId};
use tracing::{debug, info};

use super::Daemon;
use super::peers::PeerState;
use crate::userpath::Table;

impl Daemon {
    /// Begins to pass on what two peers send to each other with this label.
    pub(super) fn relay(&mut self, label: u32, ends: [PeerId; 2]) {
        let [a, b] = ends.map(|end| self.name_of(end).to_owned());
        info!(label, between = %format_args!("{a} and {b}"), "relays");
        if let Some(overlay) = &mut self.overlay {
            overlay.relayed.insert(label, ends);
        }
        // Before the answer that says so is sent.
        self.publish_table();
    }

    /// Does so no more.
    pub(super) fn unrelay(&mut self, label: u32) {
        if self.overlay.as_mut().is_some_and(|overlay| overlay.relayed.remove(&label).is_some()) {
            info!(label, "relays no more");
            self.publish_table();
        }
    }

    /// Where a node is to which this one has a direct link.
    pub(super) fn place_of(&self, node: NodeAddress) -> Option<SocketAddr> {
        self.node.peer_of_address(node).and_then(|id| self.udp_place(id))
    }

    fn udp_place(&self, peer: PeerId) -> Option<SocketAddr> {
        self.node.peer(peer)?.endpoint.and_then(Endpoint::udp)
    }

    /// Sends a message by a relay.
    pub(super) fn send_by_relay(&self, by: NodeAddress, label: u32, datagram: &[u8]) {
        match self.place_of(by) {
            Some(place) => self.transmit(place, &[&relay::header(label)[..], datagram].concat()),
            None => {
                debug!(%by, "the relay is not connected");
                self.counters.add(Counter::TxNoCarrier, 1);
            }
        }
    }

    /// What goes by a relay goes elsewhere when that has moved.
    pub(super) fn relay_moved(&mut self, relay: PeerId) {
        let by = self.peers.get(&relay).map(PeerState::node_address);
        let by_it = |id: &PeerId| {
            let endpoint = self.node.peer(*id).and_then(|view| view.endpoint);
            by.is_some() && endpoint.and_then(Endpoint::relay) == by
        };
        let moved: Vec<PeerId> = self.peers.keys().copied().filter(by_it).collect();
        moved.into_iter().for_each(|id| self.stale.elsewhere(id));
    }

    /// Tells the user path who may relay to this node, and between whom it relays itself.
    pub(super) fn fill_in_relays(&self, table: &mut Table) {
        let Some(overlay) = &self.overlay else { return };
        for peer in self.peers.values() {
            if let Some(place) = self.udp_place(peer.id) {
                table.insert_node(place, peer.node_address());
            }
        }
        for (label, [a, b]) in &overlay.relayed {
            if let (Some(a), Some(b)) = (self.udp_place(*a), self.udp_place(*b)) {
                table.insert_relayed(*label, [a, b]);
            }
        }
    }
}
