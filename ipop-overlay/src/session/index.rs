//! The indices by which packets name the sessions and handshakes of this node.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::node::PeerId;

/// The low bits of a local index are its slot: the place of its session in the tables of a data
/// path. The bits above are drawn anew each time, so that an old index does not name a new session.
pub const SLOT_BITS: u32 = 13;
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// Who holds which slot. Slots are made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Indices {
    slots: Vec<Slot>,
    /// Oldest first: a slot rests for as long as possible.
    free: VecDeque<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    index: u32,
    owner: Option<PeerId>,
}

impl Indices {
    /// An index for `owner`, its upper bits from `random`; `None` where all slots are taken.
    pub(super) fn allocate(&mut self, random: u32, owner: PeerId) -> Option<u32> {
        let number = self.free.pop_front().or_else(|| self.grow())?;
        let slot = self.slots.get_mut(number as usize)?;
        let mut index = (random & !SLOT_MASK) | number;
        if index == slot.index {
            index ^= 1 << SLOT_BITS;
        }
        *slot = Slot { index, owner: Some(owner) };
        Some(index)
    }

    /// Takes the very slot of `index`, which an earlier run of this node gave out.
    pub(super) fn occupy(&mut self, index: u32, owner: PeerId) -> bool {
        let number = index & SLOT_MASK;
        while self.slots.len() <= number as usize {
            let Some(new) = self.grow() else { return false };
            self.free.push_back(new);
        }
        let Some(at) = self.free.iter().position(|free| *free == number) else { return false };
        self.free.remove(at);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Slot { index, owner: Some(owner) };
        }
        true
    }

    pub(super) fn owner(&self, index: u32) -> Option<PeerId> {
        let slot = self.slots.get((index & SLOT_MASK) as usize)?;
        slot.owner.filter(|_| slot.index == index)
    }

    pub(super) fn release(&mut self, index: u32) {
        let number = index & SLOT_MASK;
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        if slot.index == index && slot.owner.take().is_some() {
            self.free.push_back(number);
        }
    }

    /// Adds a slot and returns its number.
    fn grow(&mut self) -> Option<u32> {
        let number = u32::try_from(self.slots.len()).ok()?;
        (self.slots.len() < SLOTS).then(|| {
            self.slots.push(Slot { index: number, owner: None });
            number
        })
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.slots.iter().filter(|slot| slot.owner.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_slot_is_given_once_and_then_none() {
        let mut indices = Indices::default();
        let given: BTreeSet<u32> =
            (0..SLOTS).map(|at| indices.allocate(0xdead_beef, PeerId(at)).unwrap() & SLOT_MASK).collect();
        assert_eq!(given.len(), SLOTS);
        assert_eq!(indices.allocate(7, PeerId(0)), None);
    }

    #[test]
    fn an_index_given_back_names_nobody_and_does_not_return_at_once() {
        let mut indices = Indices::default();
        let first = indices.allocate(0, PeerId(1)).unwrap();
        assert_eq!(indices.owner(first), Some(PeerId(1)));
        assert_eq!(indices.owner(first ^ (1 << SLOT_BITS)), None);
        indices.release(first);
        indices.release(first);
        assert_eq!(indices.owner(first), None);
        let second = indices.allocate(first, PeerId(2)).unwrap();
        assert_ne!(second, first);
        assert_eq!(second & SLOT_MASK, first & SLOT_MASK);
        assert_eq!(indices.owner(first), None);
        assert_eq!(indices.taken(), 1);
    }

    #[test]
    fn a_slot_is_occupied_once() {
        let mut indices = Indices::default();
        let old = 0xabc0_0000 | 77;
        assert!(indices.occupy(old, PeerId(1)));
        assert!(!indices.occupy(old, PeerId(2)));
        assert_eq!(indices.owner(old), Some(PeerId(1)));
        for at in 0..100 {
            assert_ne!(indices.allocate(0, PeerId(at)).unwrap() & SLOT_MASK, 77);
        }
    }
}
