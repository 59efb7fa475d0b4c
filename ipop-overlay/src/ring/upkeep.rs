//! What keeps the ring a ring: who is alive, who is near, shortcuts, and what is given up.

use alloc::vec::Vec;
use core::time::Duration;

use super::connect::Purpose;
use super::counts::Count;
use super::edge::{Due, digest};
use super::limits::{
    BYPASS_EXAMINE, DEMAND_LIFE, FAR_EXAMINE, FAR_FROM_LOG2, FAR_RETRY, GOSSIP_APART, GOSSIP_DELAY,
    GOSSIP_FEW, GOSSIP_FURTHER, LEAF_LIFE, NEAR_PER_SIDE, NEAR_RETRY, NEAR_RETRY_MAX, NEAR_TRIM, SELF_CHECK,
};
use super::wire::{Beat, CloseReason, Mode, Neighbours, Roles};
use super::{Output, Ring};
use crate::address::{Distance, NodeAddress};
use crate::time::Instant;

/// When each part of the ring is looked at next.
#[derive(Clone, Debug)]
pub(super) struct Upkeep {
    gossip_at: Option<Instant>,
    near_at: Instant,
    near_wait: Duration,
    self_check_at: Instant,
    far_at: Instant,
    examine_at: Instant,
    bypass_at: Instant,
    /// What the neighbours were told last.
    told: Vec<NodeAddress>,
    /// Who they were when they were last looked at.
    nearest: Vec<NodeAddress>,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            gossip_at: None,
            near_at: now,
            near_wait: Duration::from_secs(1),
            self_check_at: now,
            far_at: now,
            examine_at: now,
            bypass_at: now,
            told: Vec::new(),
            nearest: Vec::new(),
        }
    }
}

impl Ring {
    /// So that nodes started together do not do the same at the same time.
    pub(super) fn spread_upkeep(&mut self, now: Instant) {
        self.upkeep.near_at = now.after(Duration::from_secs(1));
        self.upkeep.self_check_at = now.after(SELF_CHECK + self.jitter(SELF_CHECK));
        self.upkeep.far_at = now.after(self.jitter(FAR_RETRY));
        self.upkeep.examine_at = now.after(FAR_EXAMINE + self.jitter(FAR_EXAMINE));
        self.upkeep.bypass_at = now.after(Duration::from_secs(10) + self.jitter(BYPASS_EXAMINE / 4));
    }

    /// When to call [`Ring::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let edges = self.table.iter().map(|(_, edge)| {
            let leaf = edge.mine.contains(Roles::LEAF).then_some(edge.leaf_until);
            let demand = edge.mine.contains(Roles::DEMAND).then(|| edge.demanded.after(DEMAND_LIFE));
            let trim = edge.not_near.map(|since| since.after(NEAR_TRIM));
            [leaf, demand, trim].into_iter().flatten().fold(edge.due_at(), Instant::min)
        });
        let Upkeep { near_at, self_check_at, far_at, examine_at, bypass_at, .. } = self.upkeep;
        let fixed = [
            Some(near_at),
            Some(self_check_at),
            Some(far_at),
            Some(examine_at),
            Some(bypass_at),
            self.upkeep.gossip_at,
            self.connect_due(),
            self.contacts_due(),
            self.claims_due(),
            self.records_due(),
            self.relays_due(),
            self.groups_due(),
        ];
        edges.chain(fixed.into_iter().flatten()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.connect_timeout(now);
        self.contacts_timeout(now);
        self.claims_timeout(now);
        self.records_timeout(now);
        self.relays_timeout(now);
        self.groups_timeout(now);
        self.check_edges(now);
        self.trim(now);
        if self.upkeep.gossip_at.take_if(|at| *at <= now).is_some() {
            self.gossip(now);
        }
        if self.upkeep.near_at <= now {
            self.look_for_neighbours(now);
        }
        if self.upkeep.self_check_at <= now {
            self.upkeep.self_check_at = now.after(SELF_CHECK + self.jitter(SELF_CHECK / 4));
            self.self_check(now);
        }
        if self.upkeep.far_at <= now {
            self.upkeep.far_at = now.after(FAR_RETRY + self.jitter(FAR_RETRY / 4));
            self.look_for_shortcut(now);
        }
        if self.upkeep.examine_at <= now {
            self.upkeep.examine_at = now.after(FAR_EXAMINE + self.jitter(FAR_EXAMINE / 4));
            self.examine_shortcut(now);
        }
        if self.upkeep.bypass_at <= now {
            self.upkeep.bypass_at = now.after(BYPASS_EXAMINE + self.jitter(BYPASS_EXAMINE / 4));
            self.look_for_bypass(now);
        }
    }

    /// Sends a beat that is to be answered: it tells the roles, and shows the round trip.
    pub(super) fn ask(&mut self, address: NodeAddress, now: Instant) {
        let (digest, is_open) = (digest(&self.upkeep.told), self.is_open);
        if let Some(edge) = self.table.get_mut(address) {
            edge.expect(now);
            let beat = edge.ask(digest, is_open, now);
            self.send(address, beat.to_bytes());
        }
    }

    pub(super) fn take_role(&mut self, address: NodeAddress, role: Roles, now: Instant) {
        let Some(edge) = self.table.get_mut(address) else { return };
        edge.mine = edge.mine.with(role);
        if role.contains(Roles::LEAF) {
            edge.leaf_until = now.after(LEAF_LIFE);
        }
        if role.contains(Roles::DEMAND) {
            edge.demanded = now;
        }
        edge.use_changed(now);
    }

    pub(super) fn drop_role(&mut self, address: NodeAddress, role: Roles, now: Instant) {
        let Some(edge) = self.table.get_mut(address) else { return };
        edge.mine = edge.mine.without(role);
        edge.use_changed(now);
    }

    pub(super) fn beat(&mut self, from: NodeAddress, beat: &Beat, now: Instant) {
        let own_digest = digest(&self.upkeep.told);
        let direction = if beat.answers { self.draw() } else { 0 };
        let Some(edge) = self.table.get_mut(from) else { return };
        if let Some(rtt) = edge.answered(beat, now)
            && let Some((at, error)) = edge.coordinates
        {
            self.vivaldi.sample(&at, error, rtt, direction);
        }
        let was_structured = edge.is_structured();
        let roles_changed = edge.theirs != beat.roles;
        edge.theirs = beat.roles;
        edge.is_open = beat.is_open;
        edge.use_changed(now);
        let is_stale = edge.digest != beat.digest && edge.is_near();
        let ask_list = is_stale && edge.asked.is_none_or(|asked| now.since(asked) >= GOSSIP_APART);
        let (mine, is_structured) = (edge.mine, edge.is_structured());
        if beat.wants_answer {
            let answer = Beat {
                wants_answer: false,
                answers: true,
                is_open: self.is_open,
                roles: mine,
                stamp: 0,
                echo: beat.stamp,
                digest: own_digest,
            };
            let answer = answer.to_bytes();
            if edge.charge(answer.len()) {
                self.send(from, answer);
            } else {
                self.counts.add(Count::NoCredit);
            }
        }
        if roles_changed && was_structured != is_structured {
            self.ring_changed(now);
        }
        if roles_changed {
            self.parent_changed(from, now);
        }
        if ask_list {
            self.tell_neighbours(from, true, now);
        }
        if roles_changed && !beat.roles.is_empty() && !is_structured {
            self.trim_leaves(now);
        }
    }

    pub(super) fn neighbours(&mut self, from: NodeAddress, list: Neighbours, now: Instant) {
        let wants_answer = list.wants_answer;
        if let Some(edge) = self.table.get_mut(from) {
            edge.learn(list);
        }
        if wants_answer {
            let answer = self.neighbour_list(false).to_bytes();
            self.pass_on(Some(from), from, &answer, now);
        }
        self.repair(now);
    }

    fn neighbour_list(&self, wants_answer: bool) -> Neighbours {
        Neighbours {
            wants_answer,
            log2_size: u16::try_from(self.table.log2_size() >> 8).unwrap_or(u16::MAX),
            coordinates: self.vivaldi.at(),
            error: self.vivaldi.error(),
            addresses: self.upkeep.told.clone(),
        }
    }

    /// Sends a node the list of this node's neighbours, and asks for its own.
    pub(super) fn tell_neighbours(&mut self, to: NodeAddress, wants_answer: bool, now: Instant) {
        let list = self.neighbour_list(wants_answer).to_bytes();
        let digest = digest(&self.upkeep.told);
        if let Some(edge) = self.table.get_mut(to) {
            edge.told = Some((digest, now));
            if wants_answer {
                edge.asked = Some(now);
            }
        }
        self.send(to, list);
    }

    /// The nodes on the ring that this one is connected to are others than before.
    pub(super) fn ring_changed(&mut self, now: Instant) {
        self.hurry_if_isolated(now);
        let nearest = self.table.neighbours();
        let mut taken = Vec::new();
        for (address, edge) in self.table.iter_mut() {
            let is_near = nearest.contains(&address);
            if is_near {
                edge.not_near = None;
                if !edge.mine.contains(Roles::NEAR) {
                    taken.push(address);
                }
            } else if edge.mine.contains(Roles::NEAR) {
                edge.not_near.get_or_insert(now);
            }
        }
        for address in taken {
            self.take_role(address, Roles::NEAR, now);
            self.ask(address, now);
        }
        if nearest != self.upkeep.told {
            self.upkeep.gossip_at.get_or_insert(now.after(GOSSIP_DELAY));
            self.upkeep.near_wait = NEAR_RETRY;
        }
        if nearest != self.upkeep.nearest {
            self.neighbours_changed(&nearest, now);
            self.upkeep.nearest = nearest;
        }
        self.repair(now);
        self.groups_follow(now);
    }

    /// Tells the neighbours who this node's neighbours are, and at once those that were until now: they find
    /// theirs among them. While the ring changes there are many others to whom it once was near: each is told
    /// now and then, the less often the more they are.
    fn gossip(&mut self, now: Instant) {
        let nearest = self.table.neighbours();
        let current = digest(&nearest);
        let before = core::mem::replace(&mut self.upkeep.told, nearest.clone());
        let (mut due, mut later) = (Vec::new(), None);
        let near = || self.table.iter().filter(|(_, edge)| edge.is_near());
        let further = GOSSIP_FURTHER * (1 + u32::try_from(near().count() / GOSSIP_FEW).unwrap_or(0));
        for (address, edge) in near() {
            let told = edge.told.filter(|_| !nearest.contains(&address) && !before.contains(&address));
            match (edge.told, told.map(|(_, at)| at.after(further))) {
                (Some((digest, _)), _) if digest == current => {}
                (_, Some(at)) if at > now => later = Some(later.map_or(at, |later| at.min(later))),
                _ => due.push((address, edge.digest == 0)),
            }
        }
        for (address, wants_answer) in due {
            self.tell_neighbours(address, wants_answer, now);
        }
        self.upkeep.gossip_at = [self.upkeep.gossip_at, later].into_iter().flatten().min();
    }

    /// Connects to those that neighbours have told of and that are nearer than who is connected.
    fn repair(&mut self, now: Instant) {
        let nearest = self.table.nearest();
        let mut missing: Vec<(NodeAddress, NodeAddress)> = Vec::new();
        for (teller, edge) in self.table.iter() {
            for address in &edge.neighbours {
                let is_new = *address != self.table.own
                    && !self.table.get(*address).is_some_and(super::edge::Edge::is_structured)
                    && self.table.would_be_near(*address, &nearest)
                    && !missing.iter().any(|(known, _)| known == address);
                if is_new {
                    missing.push((*address, teller));
                }
            }
        }
        // The nearest on each side are enough: from them come the others.
        let own = self.table.own;
        let side = |distance: &dyn Fn(NodeAddress) -> Distance| {
            let mut sorted = missing.clone();
            sorted.sort_unstable_by_key(|(address, _)| distance(*address));
            sorted.truncate(NEAR_PER_SIDE);
            sorted
        };
        let wanted = side(&|address| own.up_to(address)).into_iter();
        for (address, teller) in wanted.chain(side(&|address| address.up_to(own))) {
            self.connect_to(address, Roles::NEAR, Some(teller), now);
        }
    }

    /// Looks further along the ring while neighbours are missing, and by the way in while all are.
    fn look_for_neighbours(&mut self, now: Instant) {
        let [up, down] = self.table.nearest();
        if up.is_empty() {
            self.upkeep.near_at = now.after(Duration::from_secs(1));
            if let Some(leaf) = self.table.way_in()
                && !self.is_looking_for(Roles::NEAR)
            {
                self.join(leaf, now);
            }
            return;
        }
        let wait = self.upkeep.near_wait;
        self.upkeep.near_at = now.after(wait + self.jitter(wait / 4));
        self.upkeep.near_wait = (wait * 2).min(NEAR_RETRY_MAX);
        let own = self.table.own;
        if up.len() < NEAR_PER_SIDE || down.len() < NEAR_PER_SIDE || self.table.neighbours().len() < 4 {
            for mode in [Mode::Up, Mode::Down] {
                self.request(mode, own, None, Roles::NEAR, Purpose::Connect, now);
            }
        }
        self.ring_changed(now);
    }

    /// By way of somebody far away, asks who is next to this node.
    fn self_check(&mut self, now: Instant) {
        let all: Vec<NodeAddress> = self.table.structured().collect();
        let far = all.iter().filter(|address| !self.table.get(**address).is_some_and(|edge| edge.is_near()));
        let far: Vec<NodeAddress> = far.copied().collect();
        let from = if far.is_empty() { all } else { far };
        let drawn = self.draw() as usize;
        if let Some(by) = from.get(drawn % from.len().max(1)).copied() {
            self.join(by, now);
        }
    }

    /// How many shortcuts a node has in a network of this size.
    fn shortcuts_wanted(&self) -> usize {
        let log2 = u32::from(self.log2_size());
        if log2 <= FAR_FROM_LOG2 { 0 } else { log2.div_ceil(512) as usize }
    }

    fn look_for_shortcut(&mut self, now: Instant) {
        let wanted = self.shortcuts_wanted();
        let shortcuts =
            || self.table.iter().filter(|(_, edge)| edge.mine.with(edge.theirs).contains(Roles::FAR));
        let count = shortcuts().count();
        if count < wanted {
            if !self.is_looking_for(Roles::FAR) {
                self.draw_shortcut(now);
            }
        } else if count > 2 * wanted {
            let own = shortcuts().filter(|(_, edge)| edge.mine.contains(Roles::FAR));
            let slowest = own.max_by_key(|(_, edge)| edge.rtt.mean()).map(|(address, _)| address);
            if let Some(slowest) = slowest {
                self.drop_role(slowest, Roles::FAR, now);
                self.ask(slowest, now);
            }
        }
    }

    /// Looks for a node at a distance of which each power of two is as likely as another.
    fn draw_shortcut(&mut self, now: Instant) {
        let log2 = u64::from(self.log2_size()) << 8;
        let drawn = self.draw();
        let part = ((drawn & 0xffff) * log2) >> 16;
        let exponent = u32::try_from((160 << 16) - log2 + part).unwrap_or(0);
        let distance = Distance::power_of_two(exponent);
        let own = self.table.own;
        let place = if drawn >> 63 == 0 { own.up_by(distance) } else { own.down_by(distance) };
        self.request(Mode::Nearest, place, None, Roles::FAR, Purpose::Choose, now);
    }

    /// Gives one shortcut up for another.
    fn examine_shortcut(&mut self, now: Instant) {
        let own = self.table.iter().filter(|(_, edge)| edge.mine.contains(Roles::FAR));
        let slowest = own.max_by_key(|(_, edge)| edge.rtt.mean()).map(|(address, _)| address);
        if let Some(slowest) = slowest {
            self.drop_role(slowest, Roles::FAR, now);
            self.ask(slowest, now);
            self.draw_shortcut(now);
        }
    }

    /// Asks a neighbour who is around: the closest of them is worth a connection.
    fn look_for_bypass(&mut self, now: Instant) {
        if u32::from(self.log2_size()) <= FAR_FROM_LOG2 {
            return;
        }
        let old: Vec<NodeAddress> = self
            .table
            .iter()
            .filter(|(_, edge)| edge.mine.contains(Roles::BYPASS))
            .map(|(address, _)| address)
            .collect();
        for address in old {
            self.drop_role(address, Roles::BYPASS, now);
            self.ask(address, now);
        }
        let [up, down] = self.table.nearest();
        let side = if self.draw() & 1 == 0 { up } else { down };
        if let Some(last) = side.last() {
            self.request(Mode::Exact, *last, None, Roles::BYPASS, Purpose::Choose, now);
        }
    }

    /// Asks those that have been silent, and gives up those that do not answer.
    fn check_edges(&mut self, now: Instant) {
        let due: Vec<(NodeAddress, Due)> =
            self.table.iter().filter_map(|(address, edge)| Some((address, edge.due(now)?))).collect();
        let (digest, is_open) = (digest(&self.upkeep.told), self.is_open);
        for (address, what) in due {
            match what {
                Due::Probe => {
                    if let Some(edge) = self.table.get_mut(address) {
                        let beat = edge.probe(digest, is_open, now).to_bytes();
                        self.send(address, beat);
                        self.ask_seen(address);
                    }
                }
                Due::Dead => {
                    self.counts.add(Count::Lost);
                    self.lose(address, now);
                    self.outputs.push_back(Output::Unlink { address });
                }
                Due::Unused => {
                    self.close(address, CloseReason::Unused, now);
                }
            }
        }
    }

    /// Ends roles whose time is over.
    fn trim(&mut self, now: Instant) {
        let mut ended = Vec::new();
        let relays = self.table.iter().filter(|(_, edge)| edge.mine.contains(Roles::RELAY));
        let relays: Vec<NodeAddress> = relays.map(|(address, _)| address).collect();
        ended.extend(relays.into_iter().filter(|by| !self.relays_by(*by)).map(|by| (by, Roles::RELAY)));
        for (address, edge) in self.table.iter_mut() {
            let is_over = edge.not_near.is_some_and(|since| since.after(NEAR_TRIM) <= now);
            if is_over {
                edge.not_near = None;
                ended.push((address, Roles::NEAR));
            }
            if edge.mine.contains(Roles::DEMAND) && edge.demanded.after(DEMAND_LIFE) <= now {
                ended.push((address, Roles::DEMAND));
            }
        }
        for (address, role) in ended {
            self.drop_role(address, role, now);
            self.ask(address, now);
        }
        self.trim_leaves(now);
    }

    /// Closes a connection by agreement.
    pub(super) fn close(&mut self, address: NodeAddress, reason: CloseReason, now: Instant) {
        self.counts.add(Count::Closed);
        self.send(address, reason.to_bytes());
        self.table.remove(address);
        self.relay_lost(address, now);
        self.put_off(address, now);
        self.outputs.push_back(Output::Unlink { address });
        self.ring_changed(now);
    }

    pub(super) fn closed(&mut self, from: NodeAddress, reason: CloseReason, now: Instant) {
        self.counts.add(Count::Closed);
        let edge = self.table.remove(from);
        self.relay_lost(from, now);
        let has_use = edge.as_ref().is_some_and(|edge| !edge.mine.is_empty());
        self.outputs.push_back(Output::Unlink { address: from });
        match reason {
            // It is not coming back soon, and its neighbours are to be found elsewhere.
            CloseReason::Leaving => {
                self.avoid(from, now);
                if let Some(edge) = edge {
                    // A way in that leaves may be started again, and know nobody.
                    self.remember(from, edge.public_key, None, now);
                }
            }
            CloseReason::Full | CloseReason::Unused => {
                if has_use {
                    self.avoid(from, now);
                }
                self.put_off(from, now);
            }
        }
        self.ring_changed(now);
    }

    /// A connection is gone, and nobody has said why.
    pub(super) fn lose(&mut self, address: NodeAddress, now: Instant) {
        let Some(edge) = self.table.remove(address) else { return };
        self.relay_lost(address, now);
        self.remember(address, edge.public_key, edge.endpoint, now);
        self.avoid(address, now);
        self.ring_changed(now);
    }
}
