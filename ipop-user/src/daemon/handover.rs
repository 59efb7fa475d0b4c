//! Packets to a peer that others carried go by a link from now on, which is the shorter way: they wait until
//! those have arrived that went before, and none overtakes another.

use std::time::Duration;

use ipop_overlay::{Endpoint, Instant, NodeAddress, PeerId};

use super::probes::token;
use super::{Daemon, clock};

/// Packets that were carried longer ago have arrived, or never will.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How long packets wait where no echo comes back; as long, TCP waits for them.
const PATIENCE: Duration = Duration::from_millis(200);

/// An echo follows the last packets that were carried, and has not come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    to: NodeAddress,
    token: u64,
    until: Instant,
    /// Something was carried after the echo was sent.
    is_overtaken: bool,
}

impl Daemon {
    /// A datagram of packets to a peer has been given to others.
    pub(super) fn note_carried(&mut self, to: NodeAddress) {
        let peer = self.node.peer_of_address(to).and_then(|id| self.peers.get_mut(&id));
        let Some(peer) = peer else { return };
        peer.carried = Some(clock::now());
        if let Some(handover) = &mut peer.handover {
            handover.is_overtaken = true;
        }
    }

    /// A peer is reached by `to` from now on, and packets that others carry may be under way.
    pub(super) fn begin_handover(&mut self, id: PeerId, to: Endpoint) {
        let now = clock::now();
        let before = self.node.peer(id).and_then(|view| view.endpoint);
        let Some(address) = before.and_then(Endpoint::overlay) else { return };
        if to.overlay().is_some() {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.carried.is_some_and(|at| now.since(at) < UNDER_WAY) {
            let until = now.after(PATIENCE);
            let handover = Handover { to: address, token: token(), until, is_overtaken: false };
            peer.handover = Some(handover);
            self.node.echo_behind(address, handover.token, now);
        }
    }

    /// An echo has come back; says whether it was one of these.
    pub(super) fn handed_over(&mut self, answered: u64) -> bool {
        let has_it = |peer: &&mut super::peers::PeerState| {
            peer.handover.as_ref().is_some_and(|handover| handover.token == answered)
        };
        let Some(peer) = self.peers.values_mut().find(has_it) else { return false };
        match &mut peer.handover {
            Some(handover) if handover.is_overtaken => {
                (handover.token, handover.is_overtaken) = (token(), false);
                let (to, token) = (handover.to, handover.token);
                self.node.echo_behind(to, token, clock::now());
            }
            _ => {
                peer.handover = None;
                self.stale.peers.insert(peer.id);
            }
        }
        true
    }

    /// Lets those packets go that have waited for long enough.
    pub(super) fn end_handovers(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            if peer.handover.take_if(|handover| handover.until <= now).is_some() {
                self.stale.peers.insert(peer.id);
            }
        }
    }

    pub(super) fn handover_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| Some(peer.handover.as_ref()?.until)).min()
    }
}
