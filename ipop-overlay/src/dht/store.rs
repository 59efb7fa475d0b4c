//! Records that a node keeps, for whomever: which it takes, which of two it prefers, and how many.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::record::{Id, Invalid, Key, Kind, Record};
use crate::address::NodeAddress;
use crate::time::Instant;

/// Records that one node keeps, and their bytes together.
pub(crate) const RECORDS_MAX: usize = 8192;
pub(crate) const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Those of one owner among them.
pub(crate) const OF_OWNER_MAX: usize = 128;
/// Those under one key.
pub(crate) const OF_KEY_MAX: usize = 128;
/// Nodes that are known to have a record too.
const GIVEN_MAX: usize = 8;

/// Who brings a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Its owner, or a reader who has missed it here. Never takes the place of another's.
    Anybody,
    /// A neighbour on the ring, which has kept it.
    Neighbour,
}

/// What is to be done with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is taken if its owner has signed it.
    Take,
    /// It is here.
    Known,
    /// Another stands: a newer one of the owner's, or a create of somebody else.
    Stands(Record),
    Invalid(Invalid),
}

#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) record: Record,
    /// Who has this version too.
    pub(crate) given: Vec<NodeAddress>,
    /// For which of its key's places it has come here, a bit for each.
    pub(crate) places: u8,
    /// Since when none of its places is this node's.
    pub(crate) strayed: Option<Instant>,
}

impl Kept {
    /// A node has this version.
    pub(crate) fn is_given(&mut self, to: NodeAddress) {
        if !self.given.contains(&to) {
            if self.given.len() >= GIVEN_MAX {
                self.given.remove(0);
            }
            self.given.push(to);
        }
    }
}

#[derive(Default, Debug)]
pub(crate) struct Store {
    records: BTreeMap<Id, Kept>,
    bytes: usize,
    of_owner: BTreeMap<[u8; 32], usize>,
}

impl Store {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get_mut(&mut self, id: &Id) -> Option<&mut Kept> {
        self.records.get_mut(id)
    }

    pub(crate) fn get(&self, id: &Id) -> Option<&Kept> {
        self.records.get(id)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Id, &mut Kept)> {
        self.records.iter_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Id, &Kept)> {
        self.records.iter()
    }

    /// A record has come for one of its places.
    pub(crate) fn note_place(&mut self, id: &Id, replica: u8) {
        if let Some(kept) = self.records.get_mut(id) {
            kept.places |= 1 << (replica % super::REPLICAS);
        }
    }

    /// All records of a kind under a key whose time is not over, those that were removed among them.
    pub(crate) fn under(&self, key: Key, kind: Kind, wall: u64) -> impl Iterator<Item = &Record> {
        let from = Id { key, kind, owner: [0; 32], slot: 0 };
        let to = Id { key, kind, owner: [0xff; 32], slot: u16::MAX };
        let records = self.records.range(from..=to).map(|(_, kept)| &kept.record);
        records.filter(move |record| !record.is_over(wall))
    }

    /// The create of somebody else that stands in a record's way.
    fn rival(&self, record: &Record, wall: u64) -> Option<&Record> {
        let is_create = record.kind == Kind::Create && !record.removed;
        let mut others = self.under(record.key, Kind::Create, wall).filter(|_| is_create);
        others.find(|other| !other.removed && other.owner != record.owner)
    }

    /// What is to be done with a record, but for its signature.
    pub(crate) fn judge(&self, record: &Record, by: By, wall: u64) -> Verdict {
        if let Some(invalid) = record.wrong_times(wall) {
            return Verdict::Invalid(invalid);
        }
        let held = self.records.get(&record.id()).map(|kept| &kept.record);
        if let Some(held) = held {
            if held == record {
                return Verdict::Known;
            }
            if held.sequence >= record.sequence {
                return Verdict::Stands(held.clone());
            }
            // Nobody becomes the first by saying so later.
            if record.kind == Kind::Create && !held.removed && record.created < held.created {
                return Verdict::Invalid(Invalid::Stale);
            }
        }
        match self.rival(record, wall) {
            Some(rival) if by == By::Anybody || !record.beats(rival) => Verdict::Stands(rival.clone()),
            _ if self.has_room(record, held, wall) => Verdict::Take,
            _ => Verdict::Invalid(Invalid::Full),
        }
    }

    fn has_room(&self, record: &Record, held: Option<&Record>, wall: u64) -> bool {
        let before = held.map_or(0, Record::len);
        let bytes = self.bytes + record.len() - before.min(self.bytes);
        let is_new = held.is_none();
        let of_owner = self.of_owner.get(&record.owner).copied().unwrap_or(0);
        let of_key = || self.under(record.key, record.kind, wall).count();
        bytes <= BYTES_MAX
            && (!is_new
                || self.records.len() < RECORDS_MAX && of_owner < OF_OWNER_MAX && of_key() < OF_KEY_MAX)
    }

    /// Takes a record upon [`Verdict::Take`]; the one that it takes the place of, if that is another's.
    pub(crate) fn take(&mut self, record: Record, wall: u64) -> Option<Record> {
        let rival = self.rival(&record, wall).map(Record::id);
        let rival = rival.and_then(|id| self.remove(&id));
        let places = self.records.get(&record.id()).map_or(0, |kept| kept.places);
        self.remove(&record.id());
        self.bytes += record.len();
        *self.of_owner.entry(record.owner).or_default() += 1;
        self.records.insert(record.id(), Kept { record, given: Vec::new(), places, strayed: None });
        rival
    }

    pub(crate) fn remove(&mut self, id: &Id) -> Option<Record> {
        let kept = self.records.remove(id)?;
        self.bytes -= kept.record.len();
        if let Some(count) = self.of_owner.get_mut(&id.owner) {
            *count -= 1;
            if *count == 0 {
                self.of_owner.remove(&id.owner);
            }
        }
        Some(kept.record)
    }

    /// Forgets what is over.
    pub(crate) fn expire(&mut self, wall: u64) {
        let over = self.records.iter().filter(|(_, kept)| kept.record.is_over(wall));
        let over: Vec<Id> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.remove(&id);
        }
    }
}
