//! What this node has asked of the places of a key, and what they have answered.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::record::{Id, Invalid, Key, Kind, Record};
use super::wire::{Body, ROOM, ROOM_MAX};
use super::{Event, MAJORITY, REPLICAS, RequestId};
use crate::time::Instant;

/// Requests under way.
pub(crate) const REQUESTS_MAX: usize = 64;
/// How long a request may take; as the original.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Places that have not answered when a majority has are waited for so long by who reads, if there is no clear answer.
const LINGER: Duration = Duration::from_secs(1);
/// A create that would win over the one that stands is tried again so often: that one may be on its way out.
const RIVAL_TRIES: u8 = 3;
/// Parts of an answer that one place may give.
const PAGES_MAX: u8 = 64;

/// What is wanted of each place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Store(Record),
    Get { key: Key, kind: Kind },
}

/// One of the places.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) token: u64,
    pub(crate) tries: u8,
    pub(crate) sent: Instant,
    /// When it is asked next; never again if `None`.
    pub(crate) next_at: Option<Instant>,
    from: u16,
    room: usize,
    pages: u8,
    rivals: u8,
    outcome: Option<Outcome>,
    /// Which records it has, by their numbers in the request.
    has: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// Another's stands.
    Stands,
    Refused,
    Told,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) what: What,
    pub(crate) places: Vec<Place>,
    until: Instant,
    /// What came of it has been said.
    is_done: bool,
    /// Wanted only to put things right; nobody is told.
    is_silent: bool,
    /// Signed records that came, each version once.
    records: Vec<Record>,
    standing: Option<Record>,
    /// When a majority had answered.
    enough_at: Option<Instant>,
}

#[derive(Default, Debug)]
pub(crate) struct Requests(BTreeMap<RequestId, Request>);

/// What follows from an answer or from time.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) events: Vec<Event>,
    /// Records that places lack, and which.
    pub(crate) refill: Vec<(u8, Record)>,
    /// Creates that have not come to a majority: to be taken back.
    pub(crate) withdraw: Vec<Record>,
}

impl Request {
    pub(crate) fn key(&self) -> Key {
        match &self.what {
            What::Store(record) => record.key,
            What::Get { key, .. } => *key,
        }
    }

    /// What a place is asked.
    pub(crate) fn question(&self, replica: u8) -> Option<(u64, Body)> {
        let place = self.places.get(usize::from(replica))?;
        let body = match &self.what {
            What::Store(record) => Body::Store(record.clone()),
            What::Get { key, kind } => {
                Body::Get { key: *key, kind: *kind, from: place.from, room: place.room }
            }
        };
        Some((place.token, body))
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.places.iter().filter(|place| place.outcome == Some(outcome)).count()
    }

    /// Places that have said something that counts.
    fn answers(&self) -> usize {
        let counts = |place: &&Place| place.outcome.is_some_and(|outcome| outcome != Outcome::Refused);
        self.places.iter().filter(counts).count()
    }

    fn is_over(&self) -> bool {
        self.is_done && self.places.iter().all(|place| place.next_at.is_none())
    }
}

impl Requests {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= REQUESTS_MAX
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.0.get_mut(&id)
    }

    /// Whether a record is being stored just now.
    pub(crate) fn is_storing(&self, id: &Id) -> bool {
        self.0.values().any(|request| match &request.what {
            What::Store(record) => record.id() == *id && !request.is_done,
            What::Get { .. } => false,
        })
    }

    /// Begins a request; each place has a token of its own, by which its answer is known.
    pub(crate) fn begin(
        &mut self,
        id: RequestId,
        what: What,
        is_silent: bool,
        tokens: [u64; REPLICAS as usize],
        now: Instant,
    ) {
        let place = |token| Place {
            token,
            tries: 0,
            sent: now,
            next_at: Some(now),
            from: 0,
            room: ROOM,
            pages: 0,
            rivals: 0,
            outcome: None,
            has: Vec::new(),
        };
        // What is taken back makes what was under way void.
        if let What::Store(new) = &what {
            self.0.retain(|_, request| match &request.what {
                What::Store(old) => old.id() != new.id() || old.sequence > new.sequence || !request.is_done,
                What::Get { .. } => true,
            });
        }
        let request = Request {
            what,
            places: tokens.into_iter().map(place).collect(),
            until: now.after(LIMIT),
            is_done: is_silent,
            is_silent,
            records: Vec::new(),
            standing: None,
            enough_at: None,
        };
        self.0.insert(id, request);
    }

    pub(crate) fn due_at(&self) -> Option<Instant> {
        let times = |request: &Request| {
            let may_linger = !request.is_done && matches!(request.what, What::Get { .. });
            let linger = request.enough_at.filter(|_| may_linger).map(|at| at.after(LINGER));
            let next = request.places.iter().filter_map(|place| place.next_at).min();
            [next, linger, Some(request.until)].into_iter().flatten().min()
        };
        self.0.values().filter_map(times).min()
    }

    /// Places that are to be asked now.
    pub(crate) fn due(&self, now: Instant) -> Vec<(RequestId, u8)> {
        let mut due = Vec::new();
        for (id, request) in &self.0 {
            for (replica, place) in (0..REPLICAS).zip(&request.places) {
                if place.next_at.is_some_and(|at| at <= now) && request.until > now {
                    due.push((*id, replica));
                }
            }
        }
        due
    }

    /// Whose answer one with this token is.
    pub(crate) fn asked(&self, token: u64, replica: u8) -> Option<RequestId> {
        let is_it = |request: &Request| {
            request.places.get(usize::from(replica)).is_some_and(|place| place.token == token)
        };
        self.0.iter().find(|(_, request)| is_it(request)).map(|(id, _)| *id)
    }

    /// A place has answered. `None`: the answer does not fit the question, or has a record that nobody has signed.
    pub(crate) fn answer(
        &mut self,
        id: RequestId,
        replica: u8,
        body: Body,
        wall: u64,
        now: Instant,
    ) -> Option<()> {
        let request = self.0.get_mut(&id)?;
        let place = request.places.get_mut(usize::from(replica))?;
        if place.outcome.is_some() {
            // A question was repeated, and both were answered.
            return Some(());
        }
        match (&request.what, body) {
            (What::Store(_), Body::Stored) => place.settle(Outcome::Stored),
            (What::Store(own), Body::Stands(standing)) => {
                let valid = standing.as_ref().is_none_or(|standing| {
                    standing.key == own.key && standing.wrong_times(wall).is_none() && standing.is_signed()
                });
                if !valid {
                    place.settle(Outcome::Refused);
                    return None;
                }
                let may_win = standing.as_ref().is_some_and(|standing| {
                    own.kind == Kind::Create
                        && !own.removed
                        && standing.owner != own.owner
                        && own.beats(standing)
                });
                if may_win && place.rivals < RIVAL_TRIES {
                    place.rivals += 1;
                    place.next_at = Some(now.after(Duration::from_millis(500) * u32::from(place.rivals)));
                } else {
                    place.settle(Outcome::Stands);
                    request.standing = request.standing.take().or(standing);
                }
            }
            (What::Store(_), Body::Refused(Invalid::TooMany)) => {
                place.next_at = Some(now.after(Duration::from_secs(1 << place.tries.min(3))));
            }
            (What::Store(_), Body::Refused(_)) => place.settle(Outcome::Refused),
            (What::Get { key, kind }, Body::Records { from, total, records }) if from == place.from => {
                let (key, kind) = (*key, *kind);
                for record in records {
                    let fits = record.key == key && record.kind == kind;
                    let known = request.records.iter().position(|other| *other == record);
                    if !fits || record.wrong_times(wall).is_some() || known.is_none() && !record.is_signed() {
                        place.settle(Outcome::Refused);
                        return None;
                    }
                    place.from = place.from.saturating_add(1);
                    let number = known.unwrap_or(request.records.len());
                    if known.is_none() {
                        request.records.push(record);
                    }
                    place.has.push(number);
                }
                place.turn(total, from, now);
            }
            _ => return None,
        }
        Some(())
    }

    /// What follows by now.
    pub(crate) fn conclude(&mut self, wall: u64, now: Instant) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for (id, request) in &mut self.0 {
            if request.answers() >= MAJORITY {
                request.enough_at.get_or_insert(now);
            }
            if !request.is_done {
                match request.what.clone() {
                    What::Store(record) => conclude_store(*id, request, &record, now, &mut outcomes),
                    What::Get { key, kind } => {
                        conclude_get(*id, request, (key, kind), wall, now, &mut outcomes);
                    }
                }
            }
        }
        self.0.retain(|_, request| !request.is_over() && (request.until > now || !request.is_done));
        outcomes
    }
}

impl Place {
    fn settle(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.next_at = None;
    }

    /// The next page, the same with more room, or that was all.
    fn turn(&mut self, total: u16, asked_from: u16, now: Instant) {
        let has_come = self.from > asked_from;
        let has_all = self.from >= total;
        let may_ask = self.pages < PAGES_MAX && (has_come || self.room < ROOM_MAX);
        if has_all || !may_ask {
            self.settle(if has_all { Outcome::Told } else { Outcome::Refused });
            return;
        }
        self.pages += 1;
        self.room = ROOM_MAX;
        self.tries = 0;
        self.next_at = Some(now);
    }
}

fn conclude_store(id: RequestId, request: &mut Request, record: &Record, now: Instant, out: &mut Outcomes) {
    let key = record.key;
    let (stored, stands) = (request.count(Outcome::Stored), request.count(Outcome::Stands));
    let is_out = stands + request.count(Outcome::Refused) > usize::from(REPLICAS) - MAJORITY;
    let event = if stored >= MAJORITY {
        Event::Stored { request: id, key }
    } else if stands > 0 && (is_out || request.until <= now) {
        Event::Refused { request: id, key, standing: request.standing.take() }
    } else if is_out || request.until <= now {
        Event::Failed { request: id, key }
    } else {
        return;
    };
    if !matches!(event, Event::Stored { .. }) {
        request.places.iter_mut().for_each(|place| place.next_at = None);
        if record.kind == Kind::Create && !record.removed {
            out.withdraw.push(record.clone());
        }
    }
    request.is_done = true;
    if !request.is_silent {
        out.events.push(event);
    }
}

/// For each owner and slot the newest version, by its number in the request.
fn newest(request: &Request) -> Vec<usize> {
    let mut newest: BTreeMap<Id, usize> = BTreeMap::new();
    for (number, record) in request.records.iter().enumerate() {
        let best = newest.entry(record.id()).or_insert(number);
        if request.records.get(*best).is_some_and(|best| best.sequence < record.sequence) {
            *best = number;
        }
    }
    newest.into_values().collect()
}

fn conclude_get(
    id: RequestId,
    request: &mut Request,
    (key, kind): (Key, Kind),
    wall: u64,
    now: Instant,
    out: &mut Outcomes,
) {
    let answers = request.answers();
    let is_all = request.places.iter().all(|place| place.outcome.is_some());
    let has_waited = request.enough_at.is_some_and(|at| at.after(LINGER) <= now);
    let mut found: Vec<usize> = newest(request);
    let record = |number: &usize| request.records.get(*number);
    found.retain(|number| record(number).is_some_and(|record| record.is_live(wall)));
    let mut votes = 0;
    if kind == Kind::Create {
        // Whose is named by the most places.
        let count = |number: &usize| {
            let owner = record(number).map(|record| record.owner);
            let names =
                |place: &&Place| place.has.iter().any(|has| record(has).map(|record| record.owner) == owner);
            request.places.iter().filter(names).count()
        };
        let best = found.iter().copied().max_by(|a, b| {
            let wins = record(a).zip(record(b)).is_some_and(|(a, b)| a.beats(b));
            count(a).cmp(&count(b)).then(wins.cmp(&false))
        });
        votes = best.map_or(0, |best| count(&best));
        found = best.into_iter().collect();
    }
    let is_clear = votes >= MAJORITY || kind == Kind::Put && answers >= MAJORITY;
    let is_late = request.until <= now;
    if !(is_clear || is_all || has_waited || is_late) {
        return;
    }
    if answers < MAJORITY && found.is_empty() {
        out.events.push(Event::Failed { request: id, key });
    } else {
        let records: Vec<Record> = found.iter().filter_map(|number| record(number).cloned()).collect();
        for (replica, place) in (0..REPLICAS).zip(&request.places) {
            let lacks = |number: &&usize| place.outcome == Some(Outcome::Told) && !place.has.contains(number);
            let missing = found.iter().filter(lacks).take(REFILL_MAX);
            out.refill.extend(missing.filter_map(|number| Some((replica, record(number)?.clone()))));
        }
        let (votes, answers) = (votes as u8, answers as u8);
        out.events.push(Event::Got { request: id, key, records, votes, answers });
    }
    request.is_done = true;
    request.places.iter_mut().for_each(|place| place.next_at = None);
}

/// Records that a reader leaves with one place that lacks them.
const REFILL_MAX: usize = 8;
