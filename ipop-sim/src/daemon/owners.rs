//! Who has which virtual address, and packets that wait until that is known or there is a session.

use std::net::IpAddr;

use ipop_common::relay;
use ipop_overlay::{Endpoint, Instant, NodeAddress, Path, PeerId};

use super::{ABSENT, Daemon, WAITING_MAX};
use crate::maps::Link;
use crate::packet::{Packet, Way};

impl Daemon {
    /// What came of looking for an address.
    pub(super) fn found(&mut self, address: IpAddr, key: Option<[u8; 32]>, now: Instant) {
        let Some(key) = key.filter(|key| *key != self.key) else {
            if self.owner(address).is_some() {
                // It says so itself.
                return;
            }
            self.absent.insert(address, now.after(ABSENT));
            self.waiting.retain(|(packet, _)| packet.destination != address);
            return;
        };
        let endpoint = Some(Endpoint::Overlay(NodeAddress::of_key(&key)));
        let known = self.node.peer_of_key(&key);
        let Some(id) = known.or_else(|| self.add_found(key, endpoint, now)) else { return };
        let has_endpoint = self.node.peer(id).is_some_and(|view| view.endpoint.is_some());
        if self.sessions.current(id).is_none() && !has_endpoint {
            self.sessions.set_endpoint(id, endpoint);
            self.moved(id, endpoint, now);
            self.sessions.call_candidates(id, now);
        }
        self.sessions.want(id, now);
    }

    /// A peer says which addresses it has: it gets what no older claim stands against.
    pub(super) fn claimed(&mut self, id: PeerId, addresses: &[IpAddr], since: u64, knows_ours: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.claimed_since = since;
        peer.takes_packets |= knows_ours;
        let granted: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| self.wins(id, since, *address)).collect();
        self.assign(id, granted);
        addresses.iter().for_each(|address| {
            self.absent.remove(address);
        });
        self.stale.insert(id);
    }

    fn wins(&mut self, id: PeerId, since: u64, address: IpAddr) -> bool {
        if self.addresses.contains(&address) {
            return false;
        }
        let mut others = self.peers.iter().filter(|(other, _)| **other != id);
        let Some((other, theirs)) = others.find(|(_, other)| other.addresses.contains(&address)) else {
            return true;
        };
        if theirs.claimed_since <= since {
            return false;
        }
        let left = theirs.addresses.iter().copied().filter(|theirs| *theirs != address).collect();
        self.assign(*other, left);
        true
    }

    fn assign(&mut self, id: PeerId, addresses: Vec<IpAddr>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.addresses != addresses {
            peer.addresses = addresses;
            // At once: what it gives up may be another's before anything else is done.
            self.apply(id);
        }
    }

    /// Sends a packet from a virtual address of this host.
    pub(crate) fn send(&mut self, packet: Packet, now: Instant) {
        if !self.send_now(packet, now) && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((packet, now));
            self.ask_for(packet.destination, now);
            self.tick_soon(now);
        }
    }

    /// Looks for the owner of an address, or for a session with it.
    pub(super) fn ask_for(&mut self, address: IpAddr, now: Instant) {
        match self.owner(address) {
            Some(id) => self.sessions.want(id, now),
            None if self.absent.get(&address).is_none_or(|until| *until <= now) => {
                self.node.look_up(address, now);
            }
            None => self.waiting.retain(|(packet, _)| packet.destination != address),
        }
    }

    fn owner(&self, address: IpAddr) -> Option<PeerId> {
        self.peers.iter().find(|(_, peer)| peer.addresses.contains(&address)).map(|(id, _)| *id)
    }

    /// Sends what has a way by now.
    pub(super) fn send_waiting(&mut self, now: Instant) {
        for (packet, since) in std::mem::take(&mut self.waiting) {
            if !self.send_now(packet, now) {
                self.waiting.push_back((packet, since));
            }
        }
    }

    /// By the kernel's maps; if these have no way, by the table of the user path.
    fn send_now(&mut self, packet: Packet, now: Instant) -> bool {
        if let Some((key, link)) = self.maps.look_up(packet.destination, now)
            && let Some(id) = self.node.peer_of_key(key)
            && let Some(datagram) =
                self.sessions.seal_with(id, link.session, &packet.to_bytes(way_of(link)), now)
        {
            let datagram = match link.label {
                Some(label) => [&relay::header(label)[..], &datagram].concat().into(),
                None => datagram,
            };
            self.outbox.push((link.endpoint, datagram));
            self.has_sent(id, now);
            return true;
        }
        let owner = self.owner(packet.destination);
        let Some((id, peer)) = owner.and_then(|id| Some((id, self.peers.get(&id)?))) else { return false };
        let way = match peer.path {
            Path::Overlay { .. } => Way::Overlay,
            Path::Relay { .. } => Way::Relay,
            Path::Kernel { .. } | Path::User { .. } => Way::User,
            Path::None(_) => return false,
        };
        if !peer.takes_packets {
            return false;
        }
        let Some((to, datagram)) = self.sessions.seal(id, &packet.to_bytes(way), true, now) else {
            return false;
        };
        self.transmit(to, datagram, now);
        self.has_sent(id, now);
        true
    }

    fn has_sent(&mut self, id: PeerId, now: Instant) {
        self.peers.entry(id).and_modify(|peer| peer.has_sent = true);
        self.node.see(id, true, false, now);
        self.tick_soon(now);
    }
}

/// How a packet goes by a link of the kernel's.
fn way_of(link: &Link) -> Way {
    if link.label.is_some() { Way::Relay } else { Way::Kernel }
}
