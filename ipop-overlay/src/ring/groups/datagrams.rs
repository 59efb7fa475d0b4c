//! What members, and others, send to a group: up to the root by each sender's way, and from each node on that way in
//! the tree down to its children, but for the one that it came from. So no connection carries a datagram more than
//! once: up the tree or down.
//!
//! Each is signed by its origin and numbered. Who passes one on has checked both first, so that nothing forged,
//! changed or repeated goes further than one hop, and on nobody else's account. How many an origin and a connection
//! may send is bounded; what is beyond that is refused.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use super::super::counts::Count;
use super::super::limits::{
    DATAGRAM_BYTES_OF_LINK, DATAGRAM_BYTES_OF_ORIGIN, DATAGRAM_CHECKS, DATAGRAM_COPIES, DATAGRAM_HOPS_MAX,
    DATAGRAMS_OF_LINK, DATAGRAMS_OF_ORIGIN, EDGES_MAX, ORIGIN_LIFE, ORIGINS_MAX,
};
use super::super::rates::Rates;
use super::super::wire::{Datagram, FRAME_MAX, Group, GroupWord};
use super::super::{Output, Ring};
use super::place;
use crate::address::NodeAddress;
use crate::dht::signature;
use crate::time::Instant;

/// Length of the word that ends a child's place.
const LEAVE_LEN: usize = 24;

/// Rates, and which datagrams have come.
pub(super) struct Datagrams {
    /// The number of this node's last.
    number: u64,
    origins: BTreeMap<[u8; 32], Origin>,
    of_origin: Rates<NodeAddress>,
    bytes_of_origin: Rates<NodeAddress>,
    of_link: Rates<NodeAddress>,
    bytes_of_link: Rates<NodeAddress>,
    checks: Rates<()>,
    copies: Rates<()>,
}

/// The numbers that have come of an origin.
#[derive(Clone, Copy)]
struct Origin {
    highest: u64,
    /// Those below it, from bit 0 on.
    below: u128,
    at: Instant,
}

impl Origin {
    /// Whether a number has not come yet, and is not too old to tell.
    fn is_new(&self, number: u64) -> bool {
        match self.highest.checked_sub(number) {
            None => true,
            Some(behind @ 1..=128) => self.below >> (behind - 1) & 1 == 0,
            Some(_) => false,
        }
    }

    fn note(&mut self, number: u64, now: Instant) {
        self.at = now;
        match number.checked_sub(self.highest) {
            Some(0) => {}
            Some(ahead) => {
                let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
                // The one that was the highest is now so far below.
                let moved = self.below.checked_shl(ahead).unwrap_or(0);
                self.below = moved | 1u128.checked_shl(ahead - 1).unwrap_or(0);
                self.highest = number;
            }
            None => {
                if let Some(behind @ 1..=128) = self.highest.checked_sub(number) {
                    self.below |= 1 << (behind - 1);
                }
            }
        }
    }
}

impl Datagrams {
    pub(super) fn new() -> Self {
        Self {
            number: 0,
            origins: BTreeMap::new(),
            of_origin: Rates::new(DATAGRAMS_OF_ORIGIN, ORIGINS_MAX),
            bytes_of_origin: Rates::new(DATAGRAM_BYTES_OF_ORIGIN, ORIGINS_MAX),
            of_link: Rates::new(DATAGRAMS_OF_LINK, EDGES_MAX),
            bytes_of_link: Rates::new(DATAGRAM_BYTES_OF_LINK, EDGES_MAX),
            checks: Rates::new(DATAGRAM_CHECKS, 1),
            copies: Rates::new(DATAGRAM_COPIES, 1),
        }
    }

    pub(super) fn origins_len(&self) -> usize {
        self.origins.len()
    }

    fn is_new(&self, origin: &[u8; 32], number: u64, now: Instant) -> bool {
        let known = self.origins.get(origin).filter(|known| now.since(known.at) < ORIGIN_LIFE);
        known.is_none_or(|known| known.is_new(number))
    }

    /// Notes a number. Of too many origins, the one that has been silent the longest is forgotten.
    fn note(&mut self, origin: &[u8; 32], number: u64, now: Instant) {
        if self.origins.len() >= ORIGINS_MAX && !self.origins.contains_key(origin) {
            let oldest = self.origins.iter().min_by_key(|(_, origin)| origin.at).map(|(key, _)| *key);
            oldest.map(|oldest| self.origins.remove(&oldest));
        }
        let new = Origin { highest: number, below: 0, at: now };
        let known = self.origins.entry(*origin).or_insert(new);
        if now.since(known.at) >= ORIGIN_LIFE {
            *known = new;
        }
        known.note(number, now);
    }

    fn origin_may(&mut self, origin: NodeAddress, len: usize, now: Instant) -> bool {
        self.of_origin.allow(origin, now) && self.bytes_of_origin.allow_many(origin, len, now)
    }

    fn link_may(&mut self, link: NodeAddress, len: usize, now: Instant) -> bool {
        self.of_link.allow(link, now) && self.bytes_of_link.allow_many(link, len, now)
    }
}

impl Ring {
    /// Sends a frame of [`FRAME_MAX`] bytes at most to the members of a group but this node; it need not be one. Says
    /// whether it was sent: not where it is too long or too many are, or this node cannot sign or does not know what
    /// time it is.
    pub fn multicast(&mut self, group: Group, frame: &[u8], now: Instant) -> bool {
        if frame.len() > FRAME_MAX {
            self.counts.add(Count::TooLong);
            return false;
        }
        let Some(unix_ms) = self.records.wall_ms(now) else {
            self.counts.add(Count::DhtNoClock);
            return false;
        };
        let Some(key) = self.records.key.as_ref().map(Arc::clone) else { return false };
        if !self.groups.datagrams.origin_may(self.table.own, frame.len(), now) {
            self.counts.add(Count::GroupFlood);
            return false;
        }
        // Each run of a node begins above all numbers of those before: they count fewer than one each microsecond.
        let before = match self.groups.datagrams.number {
            0 => unix_ms.saturating_mul(1000),
            before => before,
        };
        let number = before.saturating_add(1);
        self.groups.datagrams.number = number;
        let unsigned = Datagram {
            goes_down: false,
            hops: 0,
            group,
            origin: self.public_key,
            number,
            signature: [0; 64],
            frame,
        };
        let datagram = Datagram { signature: key.sign(&unsigned.signed()), ..unsigned };
        self.counts.add(Count::GroupSent);
        self.distribute(None, datagram, now);
        true
    }

    pub(in super::super) fn group_datagram(
        &mut self,
        from: NodeAddress,
        datagram: Datagram<'_>,
        now: Instant,
    ) {
        if let Some(edge) = self.table.get_mut(from) {
            edge.multicast[1] += 1;
        }
        if let Err(count) = self.admit_datagram(from, &datagram, now) {
            self.counts.add(count);
            if count == Count::GroupStray {
                self.not_a_child_of(from, datagram.group);
            }
            return;
        }
        let Datagram { group, origin, frame, .. } = datagram;
        if self.groups.trees.get(&group).is_some_and(|tree| tree.is_own) {
            self.counts.add(Count::GroupDelivered);
            self.outputs.push_back(Output::Multicast { origin, group, frame: frame.to_vec() });
        }
        let hops = datagram.hops.saturating_add(1);
        if hops >= DATAGRAM_HOPS_MAX {
            self.counts.add(Count::TooManyHops);
            return;
        }
        self.distribute(Some(from), Datagram { hops, ..datagram }, now);
    }

    /// Whether a datagram is what its origin has sent, comes the way that it should, and is not too much. What costs
    /// nothing is asked first, and what it counts for only once it is known to be the origin's.
    fn admit_datagram(
        &mut self,
        from: NodeAddress,
        datagram: &Datagram<'_>,
        now: Instant,
    ) -> Result<(), Count> {
        let Datagram { goes_down, group, origin, number, .. } = *datagram;
        let refuse_unless = |holds: bool, count: Count| if holds { Ok(()) } else { Err(count) };
        refuse_unless(origin != self.public_key, Count::Looped)?;
        let len = datagram.frame.len();
        refuse_unless(self.groups.datagrams.link_may(from, len, now), Count::GroupFlood)?;
        if goes_down {
            let parent = self.groups.trees.get(&group).and_then(|tree| tree.parent);
            refuse_unless(parent == Some(from), Count::GroupStray)?;
        } else {
            let place = place(&group);
            let is_farther = from.distance(place) > self.table.own.distance(place);
            refuse_unless(is_farther, Count::GroupWrongWay)?;
        }
        refuse_unless(self.groups.datagrams.is_new(&origin, number, now), Count::GroupRepeated)?;
        refuse_unless(self.groups.datagrams.checks.allow((), now), Count::GroupFlood)?;
        let is_signed = signature::verify(&origin, &datagram.signed(), &datagram.signature);
        refuse_unless(is_signed, Count::GroupNotSigned)?;
        self.groups.datagrams.note(&origin, number, now);
        let of_origin = self.groups.datagrams.origin_may(NodeAddress::of_key(&origin), len, now);
        refuse_unless(of_origin, Count::GroupFlood)
    }

    /// Tells a node that takes this one for its child, and is not about to be its parent: one of them has been
    /// started again.
    fn not_a_child_of(&mut self, from: NodeAddress, group: Group) {
        let asked = self.groups.trees.get(&group).and_then(|tree| tree.asked);
        if asked.is_none_or(|asked| asked.to != from)
            && self.table.get_mut(from).is_some_and(|edge| edge.charge(LEAVE_LEN))
        {
            self.say(from, group, GroupWord::Leave);
        }
    }

    /// Sends a datagram to the children, and on towards the root if it goes up.
    fn distribute(&mut self, from: Option<NodeAddress>, datagram: Datagram<'_>, now: Instant) {
        let tree = self.groups.trees.get(&datagram.group);
        let up = match tree.and_then(|tree| tree.parent) {
            _ if datagram.goes_down => None,
            Some(parent) => Some(parent),
            None => self.towards(tree.map_or_else(|| place(&datagram.group), |tree| tree.place), None, now),
        };
        let children = tree.into_iter().flat_map(|tree| tree.children.keys().copied());
        let down: alloc::vec::Vec<NodeAddress> =
            children.filter(|child| Some(*child) != from && Some(*child) != up).collect();
        if let Some(up) = up {
            self.copy_to(up, &datagram.to_bytes(), now);
        }
        if down.is_empty() {
            return;
        }
        let message = Datagram { goes_down: true, ..datagram }.to_bytes();
        down.into_iter().for_each(|child| self.copy_to(child, &message, now));
    }

    fn copy_to(&mut self, to: NodeAddress, message: &[u8], now: Instant) {
        if !self.groups.datagrams.copies.allow((), now) {
            self.counts.add(Count::GroupFlood);
            return;
        }
        let Some(edge) = self.table.get_mut(to) else { return };
        edge.multicast[0] += 1;
        edge.expect(now);
        self.counts.add(Count::GroupCopied);
        self.send(to, message.to_vec());
    }
}
