//! Relays: what this node passes on between others, and what others pass on for it.

use std::collections::BTreeSet;

use ipop_common::Counter;
use ipop_common::filter::WINDOW_NS;
use ipop_common::limits::LEASE_NS;
use ipop_common::maps::{Relay, RelayWindow};
use ipop_common::relay::{self, Way};
use ipop_overlay::{Endpoint, NodeAddress, PeerId};
use tracing::{debug, info, warn};

use super::peers::PeerState;
use super::{Daemon, clock};
use crate::userpath::Table;

/// Two peers between which this node relays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    ends: [PeerId; 2],
    /// Of what the daemon itself has passed on.
    window: RelayWindow,
}

impl Daemon {
    /// Begins to pass on what two peers send to each other with this label.
    pub(super) fn relay(&mut self, label: u32, ends: [PeerId; 2]) {
        let [a, b] = ends.map(|end| self.name_of(end).to_owned());
        info!(label, between = %format_args!("{a} and {b}"), "relays");
        if let Some(overlay) = &mut self.overlay {
            overlay.relayed.insert(label, Pair { ends, window: RelayWindow::default() });
        }
        self.apply_relay(label);
        // Before the answer that says so is sent.
        self.publish_table();
    }

    /// Does so no more.
    pub(super) fn unrelay(&mut self, label: u32) {
        if self.overlay.as_mut().is_some_and(|overlay| overlay.relayed.remove(&label).is_some()) {
            info!(label, "relays no more");
            self.apply_relay(label);
            self.publish_table();
        }
    }

    /// Passes on nothing any more.
    pub(super) fn end_relays(&mut self) {
        let labels: Vec<u32> = self
            .overlay
            .iter_mut()
            .flat_map(|o| std::mem::take(&mut o.relayed))
            .map(|(label, _)| label)
            .collect();
        labels.into_iter().for_each(|label| self.apply_relay(label));
    }

    /// Bytes that each pair may send in a window.
    fn relay_limit(&self) -> u64 {
        let bits = u64::from(self.config.underlay.relay_mbit_s) * 1_000_000;
        bits * WINDOW_NS / 8 / 1_000_000_000
    }

    /// Passes on a relay frame that the kernel has not, within the limit of its pair.
    pub(super) fn pass_on(&mut self, to: Endpoint, frame: &[u8]) {
        let limit = self.relay_limit();
        let pair = relay::label(frame, 0)
            .and_then(|label| self.overlay.as_mut().and_then(|overlay| overlay.relayed.get_mut(&label)));
        let Some(pair) = pair else { return self.counters.add(Counter::RxUnknownLabel, 1) };
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        if !pair.window.admits(limit, len, clock::now().as_nanos()) {
            return self.counters.add(Counter::RxRelayLimit, 1);
        }
        self.counters.add(Counter::RxRelayed, 1);
        self.send(to, frame);
    }

    /// Renews what the kernel passes on by itself.
    pub(super) fn renew_relays(&mut self) {
        let labels: Vec<u32> =
            self.overlay.iter().flat_map(|overlay| overlay.relayed.keys().copied()).collect();
        labels.into_iter().for_each(|label| self.apply_relay(label));
    }

    /// The same, of what goes to or comes from these peers.
    pub(super) fn renew_relays_of(&mut self, peers: &BTreeSet<PeerId>) {
        let relayed = self.overlay.iter().flat_map(|overlay| &overlay.relayed);
        let theirs = relayed.filter(|(_, pair)| pair.ends.iter().any(|end| peers.contains(end)));
        let labels: Vec<u32> = theirs.map(|(label, _)| *label).collect();
        labels.into_iter().for_each(|label| self.apply_relay(label));
    }

    /// Has the kernel pass on what has this label; where it cannot, the daemon does.
    fn apply_relay(&mut self, label: u32) {
        let pair = self.overlay.as_ref().and_then(|overlay| overlay.relayed.get(&label));
        let ways = pair.and_then(|pair| Some([self.way_to(pair.ends[0])?, self.way_to(pair.ends[1])?]));
        let lease_until_ns = clock::now().as_nanos() + LEASE_NS;
        let limit = self.relay_limit();
        let relay = ways.and_then(|[a, b]| Relay::new([&a, &b], lease_until_ns, limit));
        let Some(kernel) = &mut self.kernel.path else { return };
        let result = match relay {
            Some(relay) => kernel.set_relay(label, &relay),
            None => kernel.remove_relay(label),
        };
        if let Err(error) = result {
            warn!(label, %error, "the kernel does not relay");
        }
    }

    /// How frames to a peer look.
    fn way_to(&self, peer: PeerId) -> Option<Way> {
        let place = self.node.peer(peer)?.endpoint?.udp()?;
        let reach = self.peers.get(&peer)?.reach.as_ref().ok()?;
        Some(Way {
            ifindex: reach.path.ifindex,
            source_mac: reach.source_mac?,
            next_hop_mac: reach.next_hop_mac?,
            local: reach.path.source.into(),
            own_port: self.port_for(&place),
            peer: place,
            exit: self.underlays.exit(reach.path.ifindex),
        })
    }

    /// Where a node is to which this one has a direct link.
    pub(super) fn place_of(&self, node: NodeAddress) -> Option<Endpoint> {
        self.node.peer_of_address(node).and_then(|id| self.direct_place(id))
    }

    /// Where what goes to a peer goes first: to the peer itself or to its relay; nowhere where others carry.
    pub(super) fn first_place(&self, endpoint: Endpoint) -> Option<Endpoint> {
        match endpoint {
            Endpoint::Udp(_) | Endpoint::Tcp(_) | Endpoint::Turn(_) => Some(endpoint),
            Endpoint::Relay { by, .. } => self.place_of(by),
            Endpoint::Overlay(_) => None,
        }
    }

    fn direct_place(&self, peer: PeerId) -> Option<Endpoint> {
        self.node.peer(peer)?.endpoint.filter(|endpoint| endpoint.direct().is_some())
    }

    /// Sends a message by a relay.
    pub(super) fn send_by_relay(&mut self, by: NodeAddress, label: u32, datagram: &[u8]) {
        match self.place_of(by) {
            Some(place) => self.send(place, &[&relay::header(label)[..], datagram].concat()),
            None => {
                debug!(%by, "the relay is not connected");
                self.counters.add(Counter::TxNoCarrier, 1);
            }
        }
    }

    /// What goes by a relay goes elsewhere when that has moved.
    pub(super) fn relay_moved(&mut self, relay: PeerId) {
        self.relayed_by(relay).into_iter().for_each(|id| self.stale.elsewhere(id));
    }

    /// The peers to which this node's packets go by a relay.
    pub(super) fn relayed_by(&self, relay: PeerId) -> Vec<PeerId> {
        let by = self.peers.get(&relay).map(PeerState::node_address);
        let by_it = |id: &PeerId| {
            let endpoint = self.node.peer(*id).and_then(|view| view.endpoint);
            by.is_some() && endpoint.and_then(Endpoint::relay) == by
        };
        self.peers.keys().copied().filter(by_it).collect()
    }

    /// Tells the user path who may relay to this node, and between whom it relays itself.
    pub(super) fn fill_in_relays(&self, table: &mut Table) {
        let Some(overlay) = &self.overlay else { return };
        for peer in self.peers.values() {
            if let Some(place) = self.direct_place(peer.id) {
                table.insert_node(place, peer.node_address());
            }
        }
        for (label, Pair { ends: [a, b], .. }) in &overlay.relayed {
            if let (Some(a), Some(b)) = (self.direct_place(*a), self.direct_place(*b)) {
                table.insert_relayed(*label, [a, b]);
            }
        }
    }
}
