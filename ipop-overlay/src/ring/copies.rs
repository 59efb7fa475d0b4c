//! Copies of records: of each place, the nodes on both sides keep what is kept there. Who is new on one side is given
//! what it lacks, by who is on the other or was there before; and who leaves gives it away.
//!
//! A copy comes from a neighbour only, by its own connection. It is repeated until it is answered, and all of them
//! together are sent at a bounded rate. A node that keeps no records sends nothing.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::Ring;
use super::counts::Count;
use super::records::fitting;
use super::wire::{Kind as Payload, Mode};
use crate::address::NodeAddress;
use crate::dht::REPLICAS;
use crate::dht::record::{Id, Key, Record};
use crate::dht::store::{By, Verdict};
use crate::dht::wire::{Body, Message};
use crate::time::Instant;

/// Copies that are to be made or confirmed.
const COPIES_MAX: usize = 4096;
/// How long changes are gathered before it is seen who lacks what, and up to as much longer.
const GATHER: Duration = Duration::from_millis(400);
/// So many bytes are sent in so long.
const STEP: Duration = Duration::from_millis(250);
const STEP_BYTES: usize = 16 * 1024;
/// What a node that leaves gives away at most.
const LEAVE_BYTES: usize = 64 * 1024;
/// A copy without an answer is sent so many times, after so long and twice as long each time.
const TRIES: u8 = 4;
const APART: Duration = Duration::from_secs(1);
/// A node keeps what it should not keep any more for so long after others have it.
const STRAY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Copies {
    /// When it is seen who lacks what.
    look_at: Option<Instant>,
    queue: BTreeMap<(Id, NodeAddress), Copy>,
    /// When some of them may be sent.
    send_at: Option<Instant>,
}

struct Copy {
    token: u64,
    /// For which place.
    replica: u8,
    tries: u8,
    next_at: Instant,
}

impl Copies {
    pub(super) const MAX: usize = COPIES_MAX;

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        [self.look_at, self.send_at].into_iter().flatten().min()
    }
}

/// The nodes of the ring as this one knows them, in order.
struct View {
    own: NodeAddress,
    sorted: Vec<NodeAddress>,
}

impl View {
    /// The nodes on both sides of a place, of which one may be this node.
    fn sides(&self, place: NodeAddress) -> Option<[NodeAddress; 2]> {
        let above = self.sorted.partition_point(|address| *address < place);
        let below = above.checked_sub(1).unwrap_or(self.sorted.len().checked_sub(1)?);
        let first = self.sorted.first()?;
        Some([*self.sorted.get(above).unwrap_or(first), *self.sorted.get(below)?])
    }

    /// Who should keep the records of a key besides this node, each for which place; and whether this one should.
    /// It has them for these places.
    fn keepers(&self, key: Key, places: u8) -> (Vec<(NodeAddress, u8)>, bool) {
        let mut others = Vec::new();
        let mut is_own = false;
        for replica in 0..REPLICAS {
            let Some(sides) = self.sides(key.place(replica)) else { continue };
            let is_here = sides.contains(&self.own);
            is_own |= is_here;
            // What has come for a place that is others' goes there.
            if !is_here && places & (1 << replica) == 0 {
                continue;
            }
            for address in sides {
                let is_known = others.iter().any(|(known, _)| *known == address);
                if address != self.own && !is_known {
                    others.push((address, replica));
                }
            }
        }
        (others, is_own)
    }
}

impl Ring {
    fn view(&self, with_own: bool) -> View {
        let own = self.table.own;
        let mut sorted: Vec<NodeAddress> = self.table.structured().collect();
        if with_own {
            sorted.push(own);
        }
        sorted.sort_unstable();
        View { own, sorted }
    }

    /// There is something that others may lack.
    pub(super) fn copies_soon(&mut self, now: Instant) {
        if self.records.copies.look_at.is_none() && self.records.store.len() > 0 {
            let wait = GATHER + self.jitter(GATHER);
            self.records.copies.look_at = Some(now.after(wait));
        }
    }

    pub(super) fn copies_timeout(&mut self, wall: u64, now: Instant) {
        if self.records.copies.look_at.take_if(|at| *at <= now).is_some() {
            self.see_who_lacks(wall, now);
        }
        if self.records.copies.send_at.take_if(|at| *at <= now).is_some() {
            self.send_copies(now);
        }
    }

    fn see_who_lacks(&mut self, wall: u64, now: Instant) {
        let view = self.view(true);
        let (mut lacking, mut stray, mut has_stray) = (Vec::new(), Vec::new(), false);
        for (id, kept) in self.records.store.iter_mut() {
            if kept.record.is_over(wall) {
                continue;
            }
            let (others, is_own) = view.keepers(id.key, kept.places);
            let missing = others.iter().filter(|(other, _)| !kept.given.contains(other));
            let before = lacking.len();
            lacking.extend(missing.map(|(other, replica)| ((*id, *other), *replica)));
            if is_own {
                kept.strayed = None;
            } else if before == lacking.len() && now.since(*kept.strayed.get_or_insert(now)) >= STRAY {
                stray.push(*id);
            } else {
                has_stray = true;
            }
        }
        for id in stray {
            self.records.store.remove(&id);
        }
        for (pair, replica) in lacking {
            if self.records.copies.queue.len() >= COPIES_MAX {
                self.counts.add(Count::DhtFull);
                has_stray = true;
                break;
            }
            if !self.records.copies.queue.contains_key(&pair) {
                let token = self.draw().max(1);
                self.records.copies.queue.insert(pair, Copy { token, replica, tries: 0, next_at: now });
            }
        }
        if !self.records.copies.queue.is_empty() {
            self.records.copies.send_at.get_or_insert(now);
        }
        if has_stray {
            self.records.copies.look_at = Some(now.after(STRAY));
        }
    }

    fn send_copies(&mut self, now: Instant) {
        let table = &self.table;
        let store = &self.records.store;
        let queue = &mut self.records.copies.queue;
        queue.retain(|(id, to), copy| {
            let is_missed = copy.tries < TRIES || copy.next_at > now;
            is_missed && table.contains(*to) && store.get(id).is_some()
        });
        let (mut bytes, mut due) = (0, Vec::new());
        for ((id, to), copy) in queue.iter_mut().filter(|(_, copy)| copy.next_at <= now) {
            let Some(kept) = store.get(id) else { continue };
            if bytes >= STEP_BYTES {
                break;
            }
            bytes += kept.record.len();
            copy.next_at = now.after(APART * (1 << copy.tries));
            copy.tries += 1;
            due.push((*to, (copy.replica, copy.token), kept.record.clone()));
        }
        let next = queue.values().map(|copy| copy.next_at).min();
        self.records.copies.send_at = next.map(|at| at.max(now.after(STEP)));
        for (to, which, record) in due {
            self.send_copy(to, which, record, now);
        }
    }

    fn send_copy(&mut self, to: NodeAddress, (replica, token): (u8, u64), record: Record, now: Instant) {
        self.counts.add(Count::DhtCopied);
        let message = Message { replica, token, body: Body::Copy(record) };
        let header = self.header(Mode::Exact, Payload::Dht, to);
        self.originate(header, Some(to), &message.to_bytes(), None, now);
    }

    /// A neighbour gives this node a record; what it is told.
    pub(super) fn copy_message(
        &mut self,
        from: NodeAddress,
        source: NodeAddress,
        (replica, record): (u8, Record),
        len: usize,
        wall: u64,
        now: Instant,
    ) -> Option<Body> {
        if !self.is_ring_neighbour(from, source) {
            self.counts.add(Count::DhtNoNeighbour);
            return None;
        }
        let (id, bytes) = (record.id(), record.signature);
        let answer = match self.keep_record(from, (By::Neighbour, replica), record, wall, now) {
            Verdict::Known => Body::Stored,
            Verdict::Stands(standing) => return Some(Body::Stands(fitting(standing, len))),
            Verdict::Invalid(why) => return Some(Body::Refused(why)),
            Verdict::Take => return None,
        };
        if let Some(kept) = self.records.store.get_mut(&id).filter(|kept| kept.record.signature == bytes) {
            kept.is_given(source);
        }
        Some(answer)
    }

    /// Copies count that a node sends itself which is on the ring, and by its connection.
    fn is_ring_neighbour(&self, from: NodeAddress, source: NodeAddress) -> bool {
        from == source && self.table.get(source).is_some_and(super::edge::Edge::is_structured)
    }

    /// Takes in the answer to a copy; whether it is one.
    pub(super) fn copy_answered(
        &mut self,
        from: NodeAddress,
        source: NodeAddress,
        answer: &Message,
        wall: u64,
        now: Instant,
    ) -> bool {
        let queue = &self.records.copies.queue;
        let mut pairs = queue.iter().filter(|((_, to), copy)| copy.token == answer.token && *to == source);
        let Some((pair, _)) = pairs.next().filter(|_| from == source) else { return false };
        let ((id, to), replica) = (*pair, answer.replica);
        match &answer.body {
            Body::Refused(crate::dht::record::Invalid::TooMany) => return true,
            Body::Stands(Some(standing)) => {
                // Refusals are counted there.
                drop(self.keep_record(from, (By::Neighbour, replica), standing.clone(), wall, now));
            }
            _ => {}
        }
        self.records.copies.queue.remove(&(id, to));
        if let Some(kept) = self.records.store.get_mut(&id) {
            kept.is_given(to);
        }
        true
    }

    /// This node leaves: others get what they will have to keep.
    pub(super) fn give_away(&mut self) {
        let view = self.view(false);
        let (mut bytes, mut gifts) = (0, Vec::new());
        for (id, kept) in self.records.store.iter() {
            for replica in 0..REPLICAS {
                let sides = view.sides(id.key.place(replica)).into_iter().flatten();
                for to in sides.filter(|to| !kept.given.contains(to)) {
                    if bytes < LEAVE_BYTES && !gifts.iter().any(|(other, _, of, _)| *other == to && of == id)
                    {
                        bytes += kept.record.len();
                        gifts.push((to, kept.record.clone(), *id, replica));
                    }
                }
            }
        }
        for (to, record, _, replica) in gifts {
            self.counts.add(Count::DhtCopied);
            let message = Message { replica, token: 0, body: Body::Copy(record) };
            let header = self.header(Mode::Exact, Payload::Dht, to);
            self.send(to, header.write(&message.to_bytes()));
        }
    }
}
