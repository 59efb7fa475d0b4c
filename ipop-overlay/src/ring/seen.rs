//! Nodes tell one another from where their packets come: so each learns where it is outside of its NAT, and at
//! once when that changes.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::Ring;
use super::counts::Count;
use super::limits::{OBSERVERS_ENOUGH, OBSERVERS_FEW, SILENCE_LEAST};
use super::nat::{self, Known, LENT_MAX, Mapping, Observation, SERVERS_MAX};
use super::wire::{AskSeen, Seen, TURNED_MAX};
use crate::address::NodeAddress;
use crate::time::Instant;

impl Ring {
    /// A node to which there is a connection is at another place now.
    pub fn moved(&mut self, address: NodeAddress, endpoint: SocketAddr, now: Instant) {
        if !self.table.contains(address) {
            // It is only being connected to.
            return;
        }
        self.not_relayed(address);
        let Some(edge) = self.table.get_mut(address) else { return };
        let is_news = edge.endpoint.replace(endpoint) != Some(endpoint);
        edge.weigh(now);
        let (is_turned, asked_seen) = (edge.is_turned(), edge.asked_seen);
        if !is_turned {
            self.links.remove(&address);
        }
        if is_news && asked_seen {
            self.tell_seen(address, endpoint, now);
        }
    }

    /// What others see; those to which this node has sent for the shortest time come last.
    pub fn observations(&self) -> Vec<Observation> {
        let seen = self.table.iter().filter_map(|(_, edge)| {
            let flows_since = self.flows.wrapping_sub(edge.flows);
            Some(Observation { observer: edge.endpoint?, seen: edge.sees?, flows_since })
        });
        let mut seen: Vec<Observation> = seen.collect();
        seen.sort_by_key(|observation| core::cmp::Reverse(observation.flows_since));
        seen
    }

    /// This node has sent to so many places more.
    pub(super) fn add_flows(&mut self, count: usize) {
        self.flows = self.flows.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// How this node's address of a family is translated on the way to others.
    pub fn mapping(&self, is_v4: bool) -> Mapping {
        let (members, servers) = (self.observations(), self.servers());
        nat::mapping(&self.endpoints, &self.whereabouts(&members, &servers).heard(is_v4))
    }

    /// Where others may find this node.
    pub fn places(&self) -> Vec<SocketAddr> {
        let (members, servers) = (self.observations(), self.servers());
        nat::places(self.whereabouts(&members, &servers))
    }

    fn whereabouts<'a>(&'a self, members: &'a [Observation], servers: &'a [Observation]) -> Known<'a> {
        Known { own: &self.endpoints, lent: &self.lent, members, servers }
    }

    /// Outside addresses that lead to this node, as its operator or a router says: the first [`LENT_MAX`].
    pub fn set_lent(&mut self, mut lent: Vec<SocketAddr>) {
        lent.truncate(LENT_MAX);
        let before = self.places();
        self.lent = lent;
        self.look_again_if_moved(&before);
    }

    /// This node's addresses at TURN servers, at which others reach it that do not otherwise.
    pub fn set_turned(&mut self, mut turned: Vec<SocketAddr>) {
        turned.truncate(TURNED_MAX);
        if self.turned != turned {
            self.turned = turned;
            self.avoided.clear();
        }
    }

    /// What servers that are no members see of this node, the first [`SERVERS_MAX`] of them: where each is, and
    /// where it sees this node.
    pub fn set_servers(&mut self, seen: &[(SocketAddr, SocketAddr)]) {
        let before = self.places();
        let mut servers = Vec::new();
        for (server, seen) in seen.iter().take(SERVERS_MAX) {
            let known = self.servers.iter().find(|(other, ..)| other == server).copied();
            if known.is_none() {
                self.add_flows(1);
            }
            let same = known.filter(|(_, before, _)| before == seen);
            servers.push(same.unwrap_or((*server, *seen, self.flows)));
        }
        self.servers = servers;
        self.look_again_if_moved(&before);
    }

    /// What servers that are no members see; those that were asked last come last.
    pub fn servers(&self) -> Vec<Observation> {
        let seen = self.servers.iter().map(|(observer, seen, flows)| Observation {
            observer: *observer,
            seen: *seen,
            flows_since: self.flows.wrapping_sub(*flows),
        });
        let mut seen: Vec<Observation> = seen.collect();
        seen.sort_by_key(|observation| core::cmp::Reverse(observation.flows_since));
        seen
    }

    /// Who looked for this node elsewhere may find it now.
    fn look_again_if_moved(&mut self, before: &[SocketAddr]) {
        if self.places() != before {
            self.avoided.clear();
        }
    }

    /// Asks a node where it sees this one, unless enough others have said so.
    pub(super) fn ask_seen(&mut self, address: NodeAddress) {
        let Some(edge) = self.table.get(address) else { return };
        let (is_known, Some(endpoint)) = (edge.sees.is_some(), edge.endpoint) else { return };
        let known = self.table.iter().filter(|(_, edge)| edge.sees.is_some()).count();
        let is_enough = match self.mapping(endpoint.is_ipv4()) {
            Mapping::None => known >= OBSERVERS_FEW,
            // Where each sees another port, the newest tells of the next.
            mapping => known >= OBSERVERS_ENOUGH && !mapping.is_dependent(),
        };
        if !is_known && !is_enough {
            self.send(address, AskSeen.to_bytes());
        }
    }

    /// Joins by way of a new acquaintance. Those that it will be introduced to have to know where it is outside of
    /// its NAT, and so the acquaintance is to say that first; without an answer, [`Ring::handle_timeout`] looks for
    /// neighbours soon.
    pub(super) fn join_when_seen(&mut self, by: NodeAddress, now: Instant) {
        let is_seen = !self.observations().is_empty();
        match self.table.get_mut(by) {
            Some(edge) if !is_seen && edge.endpoint.is_some() => edge.joins_when_seen = true,
            _ => self.join(by, now),
        }
    }

    /// A node asks where it is seen.
    pub(super) fn seen_asked(&mut self, from: NodeAddress, _: AskSeen, now: Instant) {
        let Some(edge) = self.table.get_mut(from) else { return };
        edge.asked_seen = true;
        if let Some(endpoint) = edge.endpoint {
            self.tell_seen(from, endpoint, now);
        }
    }

    fn tell_seen(&mut self, to: NodeAddress, endpoint: SocketAddr, now: Instant) {
        let message = Seen(endpoint).to_bytes();
        self.pass_on(Some(to), to, &message, now);
    }

    /// A node says where it sees this one.
    pub(super) fn seen(&mut self, from: NodeAddress, Seen(seen): Seen, now: Instant) {
        if seen.port() == 0 || seen.ip().is_unspecified() || seen.ip().is_multicast() {
            self.counts.add(Count::BadMessage);
            return;
        }
        let before = self.places();
        let Some(edge) = self.table.get_mut(from) else { return };
        // With its address another port: the mapping that there was has gone.
        let is_forgotten = edge.sees.replace(seen).is_some_and(|old| old != seen && old.ip() == seen.ip());
        let silence = edge.was_silent_for(now).filter(|_| is_forgotten);
        let joins = core::mem::take(&mut edge.joins_when_seen);
        self.look_again_if_moved(&before);
        if let Some(silence) = silence {
            self.mapping_expired(silence);
        }
        if joins {
            self.join(from, now);
        }
    }

    /// A NAT in front of this node has forgotten it in a silence of this length: none is to be as long again.
    fn mapping_expired(&mut self, silence: Duration) {
        let bearable = (silence / 3 * 2).max(SILENCE_LEAST);
        if self.of_nat.is_some_and(|of_nat| of_nat <= bearable) {
            return;
        }
        self.counts.add(Count::MappingExpired);
        self.set_of_nat(Some(bearable));
    }

    /// This node is in another network, behind other boxes or none.
    pub(super) fn forget_of_nat(&mut self) {
        self.set_of_nat(None);
    }

    fn set_of_nat(&mut self, of_nat: Option<Duration>) {
        self.of_nat = of_nat;
        self.table.iter_mut().for_each(|(_, edge)| edge.of_nat = of_nat);
    }
}
