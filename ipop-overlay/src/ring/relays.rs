//! Relays: nodes that pass on what two others, which cannot reach each other, send to each other. Any node that
//! has a direct connection to both may be one.
//!
//! Who wants a connection and does not get it asks up to [`RELAYS_ASKED_MAX`] of those to which the other is
//! connected, as its answer says, and sends the first message of a session by all that agree. The way by which
//! the answer comes first is taken; the others are kept for when that one fails.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use ipop_common::limits::MTU_IPV6_MIN;

use super::counts::Count;
use super::edge::Edge;
use super::limits::{
    RELAY_GATHER, RELAY_LIFE, RELAY_PATIENCE, RELAY_RENEW, RELAY_WANTED_MAX, RELAYED_FOR_ONE_MAX,
    RELAYED_MAX, RELAYS_ASKED_MAX, RELAYS_CALLED_MAX, UPGRADE, UPGRADE_MAX,
};
use super::wire::{AskRelay, RELAYS_MAX, Relay, RelayStatus, Roles};
use super::{Output, Ring};
use crate::address::NodeAddress;
use crate::endpoint::Endpoint;
use crate::time::Instant;

/// Ways by relays, of this node's and of others'.
pub(super) struct Relays {
    /// Whether this node relays for others.
    is_open: bool,
    pairs: BTreeMap<u32, Pair>,
    wanted: BTreeMap<NodeAddress, Wanted>,
}

/// Two nodes between which this one relays.
#[derive(Clone, Copy, Debug)]
struct Pair {
    asker: NodeAddress,
    other: NodeAddress,
    until: Instant,
}

/// A node that this one reaches, or wants to reach, by relays.
#[derive(Clone, Debug)]
struct Wanted {
    public_key: [u8; 32],
    /// Those that are to be asked once there is a connection to them.
    called: Vec<NodeAddress>,
    grants: Vec<Grant>,
    /// When what has been granted is tried.
    try_at: Option<Instant>,
    renew_at: Instant,
    /// Without a connection by then, it is over.
    give_up_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    by: NodeAddress,
    label: u32,
    /// As the relay says.
    mtu: Option<u16>,
    rtt: Duration,
}

impl Default for Relays {
    fn default() -> Self {
        Self { is_open: true, pairs: BTreeMap::new(), wanted: BTreeMap::new() }
    }
}

impl Relays {
    pub(super) fn relayed(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn wanted(&self) -> usize {
        self.wanted.len()
    }
}

impl Wanted {
    fn due(&self) -> Instant {
        self.try_at.map_or(self.renew_at, |at| at.min(self.renew_at)).min(self.give_up_at)
    }
}

/// When one that is reached by a relay is looked for directly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upgrade {
    wait: Duration,
    pub(super) at: Instant,
}

impl Upgrade {
    pub(super) fn new(now: Instant) -> Self {
        Self { wait: UPGRADE, at: now.after(UPGRADE) }
    }

    fn put_off(&mut self, now: Instant) {
        self.wait = (self.wait * 2).min(UPGRADE_MAX);
        self.at = now.after(self.wait);
    }
}

impl Ring {
    /// Whether this node relays for others.
    pub fn set_relaying(&mut self, is_open: bool) {
        self.relays.is_open = is_open;
        if !is_open {
            let labels: Vec<u32> = self.relays.pairs.keys().copied().collect();
            labels.into_iter().for_each(|label| self.end_pair(label));
        }
    }

    /// Those by which another may reach this node: of its direct connections those first that the other has too,
    /// then those that anybody reaches, then the closest.
    pub(super) fn own_relays(&self, of_other: &[NodeAddress]) -> Vec<NodeAddress> {
        let direct = self.table.iter().filter(|(_, edge)| edge.relay.is_none());
        let mut direct: Vec<_> = direct
            .map(|(address, edge)| {
                let is_common = of_other.contains(&address);
                (!is_common, !edge.is_open, edge.rtt.mean().unwrap_or(Duration::MAX), address)
            })
            .collect();
        direct.sort_unstable();
        direct.into_iter().take(RELAYS_MAX).map(|(.., address)| address).collect()
    }

    /// Whether a node is worth being reached by relays.
    pub(super) fn wants_relays(&self, to: NodeAddress, role: Roles) -> bool {
        role.contains(Roles::NEAR.with(Roles::DEMAND).with(Roles::MANAGED))
            && !self.relays.wanted.contains_key(&to)
            && !self.table.contains(to)
    }

    /// A direct connection to a node does not come about: by way of these it may be reached.
    pub(super) fn look_for_relays(
        &mut self,
        public_key: [u8; 32],
        by: &[NodeAddress],
        role: Roles,
        now: Instant,
    ) {
        let to = NodeAddress::of_key(&public_key);
        if by.is_empty() || !self.wants_relays(to, role) {
            return;
        }
        if self.relays.wanted.len() >= RELAY_WANTED_MAX {
            self.counts.add(Count::Full);
            return;
        }
        let usable = |address: &&NodeAddress| **address != to && **address != self.table.own;
        let (known, others): (Vec<NodeAddress>, Vec<NodeAddress>) =
            by.iter().filter(usable).partition(|address| self.is_direct(**address));
        let called: Vec<NodeAddress> =
            if known.is_empty() { others.into_iter().take(RELAYS_CALLED_MAX).collect() } else { Vec::new() };
        let wanted = Wanted {
            public_key,
            called: called.clone(),
            grants: Vec::new(),
            try_at: None,
            renew_at: now.after(RELAY_RENEW),
            give_up_at: now.after(RELAY_PATIENCE),
        };
        self.relays.wanted.insert(to, wanted);
        for by in known.into_iter().take(RELAYS_ASKED_MAX) {
            self.ask_relay(by, to, now);
        }
        for by in called {
            self.connect_to(by, Roles::RELAY, None, now);
        }
    }

    fn ask_relay(&mut self, by: NodeAddress, to: NodeAddress, now: Instant) {
        self.take_role(by, Roles::RELAY, now);
        self.expect(by, now);
        self.send(by, AskRelay { to }.to_bytes());
    }

    /// There is a direct connection to a node, by way of which another may be wanted.
    pub(super) fn ask_relay_for_others(&mut self, by: NodeAddress, now: Instant) {
        let wants = |wanted: &Wanted| wanted.called.contains(&by);
        let waiting = self.relays.wanted.iter().filter(|(_, wanted)| wants(wanted));
        let waiting: Vec<NodeAddress> = waiting.map(|(to, _)| *to).collect();
        for to in waiting {
            self.ask_relay(by, to, now);
        }
    }

    /// A node asks this one to relay.
    pub(super) fn relay_asked(&mut self, from: NodeAddress, ask: AskRelay, now: Instant) {
        let granted = self.grant(from, ask.to, now);
        let (status, label) = match granted {
            Ok(label) => (RelayStatus::Granted, label),
            Err(status) => (status, 0),
        };
        if granted.is_err() {
            self.counts.add(Count::RelayRefused);
        }
        let rtt = self.table.get(ask.to).and_then(|edge| edge.rtt.mean()).unwrap_or_default();
        let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        let mtu_to = |node: NodeAddress| self.table.get(node).and_then(|edge| edge.mtu);
        let mtu = mtu_to(from).zip(mtu_to(ask.to)).map_or(0, |(one, other)| one.min(other));
        let answer = Relay { status, label, to: ask.to, rtt_us, mtu }.to_bytes();
        self.pass_on(Some(from), from, &answer, now);
    }

    fn grant(&mut self, asker: NodeAddress, other: NodeAddress, now: Instant) -> Result<u32, RelayStatus> {
        if !self.relays.is_open {
            return Err(RelayStatus::NotByThis);
        }
        if asker == other || !self.is_direct(asker) || !self.is_direct(other) {
            return Err(RelayStatus::NoConnection);
        }
        let until = now.after(RELAY_LIFE);
        let mut known = self.relays.pairs.iter_mut();
        if let Some((label, pair)) = known.find(|(_, pair)| (pair.asker, pair.other) == (asker, other)) {
            pair.until = until;
            return Ok(*label);
        }
        let of_one = self.relays.pairs.values().filter(|pair| pair.asker == asker).count();
        if self.relays.pairs.len() >= RELAYED_MAX || of_one >= RELAYED_FOR_ONE_MAX {
            return Err(RelayStatus::TooMany);
        }
        let label = loop {
            let drawn = self.draw() as u32;
            if drawn != 0 && !self.relays.pairs.contains_key(&drawn) {
                break drawn;
            }
        };
        self.relays.pairs.insert(label, Pair { asker, other, until });
        self.outputs.push_back(Output::Relay { label, ends: [asker, other] });
        self.counts.add(Count::Relayed);
        Ok(label)
    }

    /// A node that was asked to relay has answered.
    pub(super) fn relay_answered(&mut self, by: NodeAddress, answer: Relay, now: Instant) {
        let rtt = self.table.get(by).and_then(|edge| edge.rtt.mean()).unwrap_or_default();
        let Some(wanted) = self.relays.wanted.get_mut(&answer.to) else {
            self.counts.add(Count::Unexpected);
            return;
        };
        wanted.called.retain(|called| *called != by);
        wanted.grants.retain(|grant| grant.by != by);
        if answer.status != RelayStatus::Granted || wanted.grants.len() >= RELAYS_ASKED_MAX {
            return;
        }
        let rtt = rtt.saturating_add(Duration::from_micros(answer.rtt_us.into()));
        // One that says less than all wires take has nothing for it.
        let mtu = Some(answer.mtu).filter(|mtu| *mtu != 0).map(|mtu| mtu.max(MTU_IPV6_MIN));
        wanted.grants.push(Grant { by, label: answer.label, mtu, rtt });
        wanted.grants.sort_by_key(|grant| grant.rtt);
        if !self.table.contains(answer.to) {
            wanted.try_at.get_or_insert(now.after(RELAY_GATHER));
        }
    }

    /// The largest packet in the clear that this host's wire to a node takes.
    pub fn set_mtu(&mut self, address: NodeAddress, mtu: Option<u16>) {
        if let Some(edge) = self.table.get_mut(address) {
            edge.mtu = mtu;
        }
    }

    /// The same of a relay's wires to this node and another, as it says.
    pub fn relay_mtu(&self, to: NodeAddress, by: NodeAddress) -> Option<u16> {
        let grants = &self.relays.wanted.get(&to)?.grants;
        grants.iter().find(|grant| grant.by == by)?.mtu
    }

    /// A node to which there is a connection is reached by a relay now.
    pub fn relayed(&mut self, address: NodeAddress, by: NodeAddress, now: Instant) {
        let Some(edge) = self.table.get_mut(address) else { return };
        edge.endpoint = None;
        edge.relay = Some(by);
        edge.upgrade.get_or_insert(Upgrade::new(now));
        self.take_role(by, Roles::RELAY, now);
    }

    /// A node to which there is a connection is reached by TCP or by a TURN server now: that needs no relay, and UDP
    /// alone is better.
    pub fn roundabout(&mut self, address: NodeAddress, now: Instant) {
        self.not_relayed(address);
        if let Some(edge) = self.table.get_mut(address) {
            edge.endpoint = None;
            edge.upgrade = Some(Upgrade::new(now));
        }
    }

    /// A node says which addresses it has at TURN servers. If it is reached by one, this is no direct connection.
    pub(super) fn note_turned(&mut self, address: NodeAddress, turned: &[SocketAddr], now: Instant) {
        if let Some(edge) = self.table.get_mut(address) {
            edge.turned = turned.to_vec();
            edge.weigh(now);
        }
    }

    /// Whether a node is reached at its address at a TURN server.
    pub fn is_turned(&self, address: NodeAddress) -> bool {
        self.table.get(address).is_some_and(Edge::is_turned)
    }

    /// A node is reached directly now: the relays are not needed any more.
    pub(super) fn not_relayed(&mut self, address: NodeAddress) {
        if let Some(edge) = self.table.get_mut(address) {
            edge.relay = None;
            edge.upgrade = None;
        }
        self.relays.wanted.remove(&address);
    }

    /// A connection is gone, and with it all that went by it. What this node reaches by that relay it reaches by
    /// another, if it knows one.
    pub(super) fn relay_lost(&mut self, gone: NodeAddress, now: Instant) {
        let has_it = |pair: &Pair| pair.asker == gone || pair.other == gone;
        let pairs = self.relays.pairs.iter().filter(|(_, pair)| has_it(pair));
        let labels: Vec<u32> = pairs.map(|(label, _)| *label).collect();
        labels.into_iter().for_each(|label| self.end_pair(label));
        for wanted in self.relays.wanted.values_mut() {
            wanted.grants.retain(|grant| grant.by != gone);
        }
        let relayed = self.table.iter().filter(|(_, edge)| edge.relay == Some(gone));
        let relayed: Vec<NodeAddress> = relayed.map(|(address, _)| address).collect();
        for address in relayed {
            self.next_relay(address, now);
        }
    }

    /// Reaches a node by the best of the relays that are left; by none, others carry.
    fn next_relay(&mut self, address: NodeAddress, now: Instant) {
        let grants = self.relays.wanted.get(&address).map(|wanted| &wanted.grants);
        let to = match grants.and_then(|grants| grants.first()) {
            Some(grant) => Endpoint::Relay { by: grant.by, label: grant.label },
            None => Endpoint::Overlay(address),
        };
        self.outputs.push_back(Output::Move { address, to });
        self.ask(address, now);
    }

    /// A node answers by way of others, and not by the connection to it: that is broken, and a new one is made.
    pub fn detour(&mut self, address: NodeAddress, now: Instant) {
        self.counts.add(Count::Detour);
        let failed = self.table.get(address).and_then(|edge| edge.relay);
        if let Some(failed) = failed
            && let Some(wanted) = self.relays.wanted.get_mut(&address)
        {
            wanted.grants.retain(|grant| grant.by != failed);
            if !wanted.grants.is_empty() {
                self.next_relay(address, now);
                return;
            }
        }
        self.relays.wanted.remove(&address);
        let roles = self.table.remove(address).map_or(Roles::NONE, |edge| edge.mine);
        self.relay_lost(address, now);
        self.links.remove(&address);
        self.avoided.remove(&address);
        self.outputs.push_back(Output::Move { address, to: Endpoint::Overlay(address) });
        self.connect_to(address, roles.with(Roles::DEMAND), None, now);
        self.ring_changed(now);
    }

    fn end_pair(&mut self, label: u32) {
        if self.relays.pairs.remove(&label).is_some() {
            self.outputs.push_back(Output::Unrelay { label });
        }
    }

    pub(super) fn relays_due(&self) -> Option<Instant> {
        let pairs = self.relays.pairs.values().map(|pair| pair.until).min();
        let wanted = self.relays.wanted.values().map(Wanted::due).min();
        let upgrades = self.table.iter().filter_map(|(_, edge)| Some(edge.upgrade?.at)).min();
        [pairs, wanted, upgrades].into_iter().flatten().min()
    }

    pub(super) fn relays_timeout(&mut self, now: Instant) {
        let over = self.relays.pairs.iter().filter(|(_, pair)| pair.until <= now);
        let over: Vec<u32> = over.map(|(label, _)| *label).collect();
        over.into_iter().for_each(|label| self.end_pair(label));
        let due = self.relays.wanted.iter().filter(|(_, wanted)| wanted.due() <= now);
        let due: Vec<NodeAddress> = due.map(|(to, _)| *to).collect();
        for to in due {
            self.wanted_timeout(to, now);
        }
        let due = self.table.iter().filter(|(_, edge)| edge.upgrade.is_some_and(|upgrade| upgrade.at <= now));
        let due: Vec<NodeAddress> = due.map(|(address, _)| address).collect();
        for address in due {
            if let Some(upgrade) = self.table.get_mut(address).and_then(|edge| edge.upgrade.as_mut()) {
                upgrade.put_off(now);
            }
            self.upgrade(address, now);
        }
    }

    fn wanted_timeout(&mut self, to: NodeAddress, now: Instant) {
        let is_relayed = self.table.get(to).is_some_and(|edge| edge.relay.is_some());
        let Some(wanted) = self.relays.wanted.get_mut(&to) else { return };
        if wanted.try_at.take_if(|at| *at <= now).is_some() {
            let public_key = wanted.public_key;
            let by = |grant: &Grant| Endpoint::Relay { by: grant.by, label: grant.label };
            let places = wanted.grants.iter().map(by).collect();
            self.outputs.push_back(Output::Link { public_key, places });
            return;
        }
        if wanted.give_up_at <= now {
            if !is_relayed {
                self.relays.wanted.remove(&to);
                return;
            }
            wanted.give_up_at = now.after(RELAY_LIFE);
        }
        if wanted.renew_at <= now {
            wanted.renew_at = now.after(RELAY_RENEW);
            let grants: Vec<NodeAddress> = wanted.grants.iter().map(|grant| grant.by).collect();
            for by in grants {
                self.ask_relay(by, to, now);
            }
        }
    }

    /// When a node that is reached by a relay is looked for directly again.
    pub fn upgrade_at(&self, address: NodeAddress) -> Option<Instant> {
        self.table.get(address)?.upgrade.map(|upgrade| upgrade.at)
    }

    /// Whether a connection is needed to reach another node.
    pub(super) fn relays_by(&self, address: NodeAddress) -> bool {
        self.table.iter().any(|(_, edge)| edge.relay == Some(address))
            || self.relays.wanted.values().any(|wanted| {
                wanted.called.contains(&address) || wanted.grants.iter().any(|grant| grant.by == address)
            })
    }

    /// Whether there is a connection to a node with nobody between.
    pub(super) fn is_direct(&self, address: NodeAddress) -> bool {
        self.table.get(address).is_some_and(|edge| edge.relay.is_none())
    }

    /// Whether there is one that could not be better: by UDP, with nobody between.
    pub(super) fn is_best(&self, address: NodeAddress) -> bool {
        self.table.get(address).is_some_and(|edge| edge.upgrade.is_none())
    }
}
