//! Records of this node's: it signs them, makes them again before they are over, and gives up what has become
//! another's.

use alloc::vec::Vec;
use core::time::Duration;

use super::counts::Count;
use super::records::Records;
use super::{Output, Ring};
use crate::dht::record::Id;
use crate::dht::requests::What;
use crate::dht::{Error, Event, Key, Kind, Record, RequestId, SIGNATURE_LEN, TTL_MAX_S, VALUE_MAX};
use crate::time::Instant;

/// Records that one node keeps up.
const OWN_MAX: usize = 64;
/// A record that could not be made again is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// Who should have won, but sees another stand, gives up after so long: the places have met by then.
const CONTEST: Duration = Duration::from_secs(10);
/// The first times follow each other faster: the ring may not have been whole.
const FIRST: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(20)];
/// A record is not made again more often than this because another has told of a conflict.
const CONFLICTS_APART: Duration = Duration::from_secs(2);

/// A record that this node keeps up.
pub(super) struct Own {
    /// As signed last.
    record: Record,
    ttl_s: u64,
    pub(super) renew_at: Instant,
    request: Option<RequestId>,
    /// The host has asked for that, and is told that it is done.
    is_asked: bool,
    /// Until when others have it, UNIX time in seconds; not yet, if `None`.
    until: Option<u64>,
    contested_since: Option<Instant>,
    /// How often it has been made.
    rounds: usize,
    begun: Instant,
}

impl Records {
    pub(super) const OWN_MAX: usize = OWN_MAX;
}

impl Ring {
    /// Leaves a record under a name, one of this node's many; makes it again before it is over, if `keep`.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn put(
        &mut self,
        name: &[u8],
        slot: u16,
        value: &[u8],
        ttl_s: u64,
        keep: bool,
        now: Instant,
    ) -> Result<RequestId, Error> {
        self.publish(Kind::Put, name, slot, value, ttl_s, keep, now)
    }

    /// Leaves the only record under a name, if nobody else has.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn create(
        &mut self,
        name: &[u8],
        value: &[u8],
        ttl_s: u64,
        keep: bool,
        now: Instant,
    ) -> Result<RequestId, Error> {
        self.publish(Kind::Create, name, 0, value, ttl_s, keep, now)
    }

    #[expect(clippy::too_many_arguments, reason = "what a record is made of")]
    fn publish(
        &mut self,
        kind: Kind,
        name: &[u8],
        slot: u16,
        value: &[u8],
        ttl_s: u64,
        keep: bool,
        now: Instant,
    ) -> Result<RequestId, Error> {
        let key = Key::of_name(name).ok_or(Error::NameTooLong)?;
        if value.len() > VALUE_MAX {
            return Err(Error::ValueTooLong);
        }
        if ttl_s == 0 || ttl_s > TTL_MAX_S {
            return Err(Error::Ttl);
        }
        let wall = self.records.wall(now).ok_or(Error::NotReady)?;
        let id = Id { key, kind, owner: self.public_key, slot };
        let before = self.records.own.get(&id);
        if self.records.requests.is_full() || keep && before.is_none() && self.records.own.len() >= OWN_MAX {
            self.counts.add(Count::Full);
            return Err(Error::Full);
        }
        let record = Record {
            kind,
            removed: false,
            slot,
            key,
            owner: self.public_key,
            created: before.map_or(wall, |own| own.record.created),
            expires: wall + ttl_s,
            sequence: 0,
            value: value.to_vec(),
            signature: [0; SIGNATURE_LEN],
        };
        let until = before.and_then(|own| own.until);
        let record = self.records.sign(record, now).ok_or(Error::NotReady)?;
        let request = self.begin(What::Store(record.clone()), false, now)?;
        if keep {
            let renew_at = now.after(Duration::from_secs(ttl_s));
            let own = Own {
                record,
                ttl_s,
                renew_at,
                request: Some(request),
                is_asked: true,
                until,
                contested_since: None,
                rounds: 0,
                begun: now,
            };
            self.records.own.insert(id, own);
        }
        self.ask_all(request, now);
        Ok(request)
    }

    /// Takes a record of this node's back.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn remove(&mut self, name: &[u8], kind: Kind, slot: u16, now: Instant) -> Result<RequestId, Error> {
        let key = Key::of_name(name).ok_or(Error::NameTooLong)?;
        let id = Id { key, kind, owner: self.public_key, slot };
        let wall = self.records.wall(now).ok_or(Error::NotReady)?;
        let own = self.records.own.remove(&id).map(|own| own.record);
        let removed = own.map_or_else(
            || Record {
                kind,
                removed: true,
                slot,
                key,
                owner: self.public_key,
                created: wall,
                // Of what was left without being kept up, this node remembers nothing.
                expires: wall + TTL_MAX_S,
                sequence: 0,
                value: Vec::new(),
                signature: [0; SIGNATURE_LEN],
            },
            |record| tombstone(&record),
        );
        let removed = self.records.sign(removed, now).ok_or(Error::NotReady)?;
        let request = self.begin(What::Store(removed), false, now)?;
        self.ask_all(request, now);
        Ok(request)
    }

    /// A create has not come to a majority: where it was taken, it is taken back.
    pub(super) fn withdraw(&mut self, record: &Record, now: Instant) {
        // Who is kept up has said so before, and may be right.
        if self.records.own.get(&record.id()).is_some_and(|own| own.until.is_some()) {
            return;
        }
        if let Some(removed) = self.records.sign(tombstone(record), now) {
            // Where too much is under way, the record stays until it is over.
            let _is_begun = self.begin(What::Store(removed), true, now);
        }
    }

    pub(super) fn renew_own(&mut self, wall: u64, now: Instant) {
        let due = self.records.own.iter().filter(|(_, own)| own.renew_at <= now);
        let due: Vec<Id> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.renew(id, wall, now);
        }
    }

    fn renew(&mut self, id: Id, wall: u64, now: Instant) {
        let retry_at = now.after(RETRY);
        let Some(own) = self.records.own.get_mut(&id) else { return };
        own.renew_at = retry_at;
        if own.until.is_none_or(|until| until <= wall) {
            // Nobody has it any more.
            let key = id.key;
            self.records.own.remove(&id);
            self.outputs.push_back(Output::Dht(Event::Lost { key, standing: None }));
            return;
        }
        let (record, ttl_s) = (own.record.clone(), own.ttl_s);
        if self.records.requests.is_storing(&id) {
            return;
        }
        let again = Record { expires: wall + ttl_s, ..record };
        let Some(record) = self.records.sign(again, now) else { return };
        let Ok(request) = self.begin(What::Store(record.clone()), false, now) else { return };
        if let Some(own) = self.records.own.get_mut(&id) {
            (own.record, own.request, own.begun) = (record, Some(request), now);
        }
    }

    /// What of an event is the caller's to know.
    pub(super) fn own_event(&mut self, event: Event, wall: u64, now: Instant) -> Option<Event> {
        let request = match &event {
            Event::Stored { request, .. }
            | Event::Refused { request, .. }
            | Event::Failed { request, .. } => *request,
            Event::Got { .. } | Event::Lost { .. } => return Some(event),
        };
        let mut all = self.records.own.iter_mut();
        let Some((id, own)) = all.find(|(_, own)| own.request == Some(request)) else { return Some(event) };
        let id = *id;
        own.request = None;
        let is_asked = core::mem::take(&mut own.is_asked);
        let was_kept = own.until.is_some_and(|until| until > wall);
        match event {
            Event::Stored { .. } => {
                own.until = Some(own.record.expires);
                own.contested_since = None;
                let half = Duration::from_secs(own.ttl_s) / 2;
                let half = FIRST.get(own.rounds).map_or(half, |first| half.min(*first));
                own.rounds += 1;
                let spread = self.jitter(half / 4);
                if let Some(own) = self.records.own.get_mut(&id) {
                    own.renew_at = now.after(half.saturating_sub(spread));
                }
                is_asked.then_some(event)
            }
            Event::Refused { key, standing, .. } if was_kept => {
                let should_win = standing.as_ref().is_some_and(|standing| own.record.beats(standing));
                let since = *own.contested_since.get_or_insert(now);
                if should_win && now.since(since) < CONTEST {
                    own.renew_at = now.after(RETRY);
                    return None;
                }
                self.records.own.remove(&id);
                Some(Event::Lost { key, standing })
            }
            Event::Failed { .. } if was_kept => {
                own.renew_at = now.after(RETRY);
                None
            }
            event => {
                self.records.own.remove(&id);
                Some(event)
            }
        }
    }

    /// A node says that another's record has taken the place of one of this node's. The others are asked.
    pub(super) fn contested(&mut self, standing: &Record, wall: u64, now: Instant) {
        let id = Id { key: standing.key, kind: standing.kind, owner: self.public_key, slot: standing.slot };
        let Some(own) = self.records.own.get_mut(&id) else {
            self.counts.add(Count::Unexpected);
            return;
        };
        let is_soon = now.since(own.begun) < CONFLICTS_APART;
        let is_valid =
            standing.owner != id.owner && standing.wrong_times(wall).is_none() && standing.beats(&own.record);
        if is_valid && own.until.is_some() {
            // What it says is not believed: the places are asked, which costs no more than a renewal does.
            let at = if is_soon { own.begun.after(CONFLICTS_APART) } else { now };
            own.renew_at = own.renew_at.min(at);
            self.counts.add(Count::DhtContested);
        }
    }
}

fn tombstone(record: &Record) -> Record {
    Record { removed: true, value: Vec::new(), ..record.clone() }
}
