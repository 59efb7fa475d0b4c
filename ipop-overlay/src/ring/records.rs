//! Records of the DHT on the ring: what this node asks of the places of a key, and what it answers those that ask it.
//!
//! A question goes to the node nearest to a place, of each place by itself, and is repeated until it is answered or
//! its time is over. An answer is never longer than its question, and goes on account of the neighbour that brought it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::copies::Copies;
use super::counts::Count;
use super::edge::Smoothed;
use super::limits::{
    ALONE, EDGES_MAX, RESEND_FIRST, RESEND_MAX, RESEND_MIN, SETTLED_AFTER, SETTLED_FOR, SETTLING,
};
use super::own::Own;
use super::rates::Rates;
use super::wire::{Header, Kind as Payload, Mode};
use super::{Output, Ring, route};
use crate::address::NodeAddress;
use crate::dht::record::{Id, Invalid};
use crate::dht::requests::{Outcomes, Request, Requests, What};
use crate::dht::store::{By, Store, Verdict};
use crate::dht::wire::{Body, HEAD_LEN, Message, RECORDS_LEN};
use crate::dht::{Error, Key, Kind, REPLICAS, Record, RequestId, SigningKey};
use crate::time::Instant;

/// Signatures that one neighbour may have checked in a second, and at once; and all together.
const CHECKS_PER_NEIGHBOUR: (u32, u32) = (64, 256);
const CHECKS: (u32, u32) = (512, 1024);
/// Questions of one sender in a second, and at once; and senders that are told apart.
const QUESTIONS: (u32, u32) = (64, 256);
const SOURCES_MAX: usize = 256;
/// Records whose time is over are looked for so often.
const EXPIRY_APART: Duration = Duration::from_secs(30);

/// What a node keeps for the DHT.
pub(super) struct Records {
    /// UNIX time in milliseconds, and when it was so.
    clock: Option<(u64, Instant)>,
    pub(super) key: Option<Arc<SigningKey>>,
    pub(super) store: Store,
    pub(super) requests: Requests,
    /// Records that this node keeps up.
    pub(super) own: BTreeMap<Id, Own>,
    pub(super) copies: Copies,
    answer_time: Smoothed,
    checks: Rates<()>,
    checks_of: Rates<NodeAddress>,
    questions_of: Rates<NodeAddress>,
    expire_at: Option<Instant>,
    /// The number of the newest record that this node has signed.
    sequence: u64,
    /// Since when there is nobody on the ring, or has been somebody; and since when the neighbours are the same.
    pub(super) is_alone: bool,
    pub(super) alone_since: Instant,
    pub(super) same_since: Instant,
}

impl Records {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            clock: None,
            key: None,
            store: Store::default(),
            requests: Requests::default(),
            own: BTreeMap::new(),
            copies: Copies::default(),
            answer_time: Smoothed::default(),
            checks: Rates::new(CHECKS, 1),
            checks_of: Rates::new(CHECKS_PER_NEIGHBOUR, EDGES_MAX),
            questions_of: Rates::new(QUESTIONS, SOURCES_MAX),
            expire_at: None,
            sequence: 0,
            is_alone: true,
            alone_since: now,
            same_since: now,
        }
    }

    /// UNIX time in milliseconds.
    pub(super) fn wall_ms(&self, now: Instant) -> Option<u64> {
        let (unix_ms, at) = self.clock?;
        Some(unix_ms.saturating_add(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)))
    }

    /// UNIX time in seconds.
    pub(super) fn wall(&self, now: Instant) -> Option<u64> {
        self.wall_ms(now).map(|ms| ms / 1000)
    }

    /// A record of this node's with these times, signed.
    pub(super) fn sign(&mut self, record: Record, now: Instant) -> Option<Record> {
        let sequence = self.wall_ms(now)?.max(self.sequence + 1).max(record.sequence + 1);
        self.sequence = sequence;
        Some(Record { sequence, ..record }.sign(self.key.as_deref()?))
    }

    pub(super) fn source_count(&self) -> usize {
        self.questions_of.len()
    }

    pub(super) const SOURCES_MAX: usize = SOURCES_MAX;
}

impl Ring {
    /// What time it is, in milliseconds since 1970; to be said again when the host's clock is set.
    pub fn set_clock(&mut self, unix_ms: u64, now: Instant) {
        self.records.clock = Some((unix_ms, now));
    }

    /// The key by which this node signs its records; not another's.
    pub fn set_signing_key(&mut self, key: Arc<SigningKey>) {
        assert_eq!(key.public_key(), self.public_key, "a node signs by its own key");
        self.records.key = Some(key);
    }

    /// UNIX time in seconds as the node knows it.
    pub fn wall(&self, now: Instant) -> Option<u64> {
        self.records.wall(now)
    }

    /// Asks for what there is under a name; [`Event::Got`] says.
    ///
    /// # Errors
    /// If the name is too long, the node does not know what time it is, or too many requests are under way.
    pub fn get(&mut self, name: &[u8], kind: Kind, now: Instant) -> Result<RequestId, Error> {
        let key = Key::of_name(name).ok_or(Error::NameTooLong)?;
        self.records.wall(now).ok_or(Error::NotReady)?;
        let request = self.begin(What::Get { key, kind }, false, now)?;
        self.ask_all(request, now);
        Ok(request)
    }

    /// Asks all places of a request that has begun.
    pub(super) fn ask_all(&mut self, request: RequestId, now: Instant) {
        (0..REPLICAS).for_each(|replica| self.ask_place(request, replica, now));
    }

    pub(super) fn begin(&mut self, what: What, is_silent: bool, now: Instant) -> Result<RequestId, Error> {
        if self.records.requests.is_full() {
            self.counts.add(Count::Full);
            return Err(Error::Full);
        }
        let id = RequestId(self.draw());
        let tokens = core::array::from_fn(|_| self.draw().max(1));
        self.records.requests.begin(id, what, is_silent, tokens, now);
        Ok(id)
    }

    /// Whether this node is part of the ring, or is all of it.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        let so_far = now.since(self.records.alone_since);
        if self.records.is_alone {
            return self.contacts.len() == 0 || so_far >= ALONE;
        }
        so_far >= SETTLED_AFTER || now.since(self.records.same_since) >= SETTLED_FOR
    }

    /// The neighbours on the ring are others than before.
    pub(super) fn neighbours_changed(&mut self, neighbours: &[NodeAddress], now: Instant) {
        self.records.same_since = now;
        if self.records.is_alone != neighbours.is_empty() {
            (self.records.is_alone, self.records.alone_since) = (neighbours.is_empty(), now);
        }
        self.copies_soon(now);
    }

    pub(super) fn records_due(&self) -> Option<Instant> {
        let own = self.records.own.values().map(|own| own.renew_at).min();
        let expiry = self.records.expire_at;
        let copies = self.records.copies.due_at();
        [self.records.requests.due_at(), own, expiry, copies].into_iter().flatten().min()
    }

    pub(super) fn records_timeout(&mut self, now: Instant) {
        let Some(wall) = self.records.wall(now) else { return };
        if self.records.expire_at.take_if(|at| *at <= now).is_some() {
            self.records.store.expire(wall);
            self.expiry_later(now);
        }
        self.renew_own(wall, now);
        for (id, replica) in self.records.requests.due(now) {
            self.ask_place(id, replica, now);
        }
        self.conclude(wall, now);
        self.copies_timeout(wall, now);
    }

    pub(super) fn expiry_later(&mut self, now: Instant) {
        if self.records.store.len() > 0 {
            self.records.expire_at.get_or_insert(now.after(EXPIRY_APART));
        }
    }

    fn ask_place(&mut self, id: RequestId, replica: u8, now: Instant) {
        let may_ask = self.may_ask(now);
        let wait = self.records.answer_time.timeout(RESEND_FIRST, RESEND_MIN, RESEND_MAX);
        let Some(request) = self.records.requests.get_mut(id) else { return };
        let at = request.key().place(replica);
        let Some(place) = request.places.get_mut(usize::from(replica)) else { return };
        if !may_ask {
            place.next_at = Some(now.after(SETTLING));
            return;
        }
        place.tries = place.tries.saturating_add(1);
        place.sent = now;
        let wait = (wait * (1 << u32::from(place.tries - 1).min(5))).min(RESEND_MAX);
        place.next_at = Some(now.after(wait));
        let tries = place.tries;
        let Some((token, body)) = request.question(replica) else { return };
        let message = Message { replica, token, body };
        let header = self.header(Mode::Nearest, Payload::Dht, at);
        if route::decide(&self.table, None, &header).next.is_none() {
            // The nearest is this node itself.
            let own = self.table.own;
            if let Some(answer) = self.answer_question(own, own, message, usize::MAX, now) {
                self.take_answer_of_place(answer, now);
            }
            return;
        }
        // Where nobody answers, another first hop may lead past who is in the way.
        let detour = if tries > 1 { self.anybody() } else { None };
        self.originate(header, detour, &message.to_bytes(), None, now);
    }

    /// Any node on the ring to which there is a connection.
    pub(super) fn anybody(&mut self) -> Option<NodeAddress> {
        let all: Vec<NodeAddress> = self.table.structured().collect();
        let drawn = usize::try_from(self.draw()).unwrap_or(0);
        all.get(drawn % all.len().max(1)).copied()
    }

    fn conclude(&mut self, wall: u64, now: Instant) {
        let Outcomes { events, refill, withdraw } = self.records.requests.conclude(wall, now);
        for (replica, record) in refill {
            self.leave_record(replica, record, now);
        }
        for record in withdraw {
            self.withdraw(&record, now);
        }
        for event in events {
            if let Some(event) = self.own_event(event, wall, now) {
                self.outputs.push_back(Output::Dht(event));
            }
        }
    }

    /// Leaves a record with a place that lacks it; nobody waits for the answer.
    fn leave_record(&mut self, replica: u8, record: Record, now: Instant) {
        let at = record.key.place(replica);
        let message = Message { replica, token: 0, body: Body::Store(record) };
        let header = self.header(Mode::Nearest, Payload::Dht, at);
        if route::decide(&self.table, None, &header).next.is_none() {
            let own = self.table.own;
            self.answer_question(own, own, message, usize::MAX, now);
        } else {
            self.originate(header, None, &message.to_bytes(), None, now);
        }
    }

    pub(super) fn dht_message(&mut self, from: NodeAddress, header: &Header, payload: &[u8], now: Instant) {
        let Some(message) = Message::parse(payload) else {
            self.counts.add(Count::BadMessage);
            return;
        };
        let Some(wall) = self.records.wall(now) else {
            self.counts.add(Count::DhtNoClock);
            return;
        };
        let source = header.source;
        match (message.body, header.mode) {
            (body @ (Body::Store(_) | Body::Get { .. }), Mode::Nearest) => {
                let question = Message { body, ..message };
                if let Some(answer) = self.answer_question(from, source, question, payload.len(), now) {
                    let back = self.header(Mode::Exact, Payload::Dht, source);
                    self.originate(back, None, &answer.to_bytes(), Some(from), now);
                }
            }
            (Body::Copy(record), Mode::Exact) => {
                let token = message.token;
                if let Some(body) =
                    self.copy_message(from, source, (message.replica, record), payload.len(), wall, now)
                {
                    let answer = Message { replica: message.replica, token, body };
                    let back = self.header(Mode::Exact, Payload::Dht, source);
                    self.originate(back, None, &answer.to_bytes(), Some(from), now);
                }
            }
            (Body::Conflict(record), Mode::Exact) => self.contested(&record, wall, now),
            (
                body @ (Body::Stored | Body::Stands(_) | Body::Refused(_) | Body::Records { .. }),
                Mode::Exact,
            ) => {
                let answer = Message { body, ..message };
                if !self.copy_answered(from, source, &answer, wall, now) {
                    self.take_answer_of_place(answer, now);
                }
            }
            _ => self.counts.add(Count::BadMessage),
        }
    }

    fn take_answer_of_place(&mut self, answer: Message, now: Instant) {
        let Some(wall) = self.records.wall(now) else { return };
        let Message { replica, token, body } = answer;
        let Some(id) = self.records.requests.asked(token, replica) else {
            self.counts.add(Count::Unexpected);
            return;
        };
        if let Some(place) =
            self.records.requests.get_mut(id).and_then(|request| request.places.get(usize::from(replica)))
            && place.tries == 1
        {
            self.records.answer_time.sample(now.since(place.sent));
        }
        if self.records.requests.answer(id, replica, body, wall, now).is_none() {
            self.counts.add(Count::DhtFalseAnswer);
        }
        // There is more, or there was too little room.
        let place = |request: &mut Request| Some(request.places.get(usize::from(replica))?.next_at? <= now);
        if self.records.requests.get_mut(id).and_then(place) == Some(true) {
            self.ask_place(id, replica, now);
        }
        self.conclude(wall, now);
    }

    /// What this node has to say to a question that is for it; nothing where no answer is wanted.
    fn answer_question(
        &mut self,
        from: NodeAddress,
        source: NodeAddress,
        question: Message,
        len: usize,
        now: Instant,
    ) -> Option<Message> {
        let wall = self.records.wall(now)?;
        let Message { replica, token, body } = question;
        let is_own = source == self.table.own;
        if !is_own && !self.records.questions_of.allow(source, now) {
            self.counts.add(Count::DhtTooMany);
            let body = Body::Refused(Invalid::TooMany);
            return (token != 0).then_some(Message { replica, token, body });
        }
        let body = match body {
            Body::Store(record) => match self.keep_record(from, (By::Anybody, replica), record, wall, now) {
                Verdict::Known => Body::Stored,
                Verdict::Stands(standing) => Body::Stands(fitting(standing, len)),
                Verdict::Invalid(why) => Body::Refused(why),
                Verdict::Take => return None,
            },
            Body::Get { key, kind, from, room } => self.read(key, kind, from, room, wall),
            _ => return None,
        };
        (token != 0).then_some(Message { replica, token, body })
    }

    /// Records under a key from a number on, as many as there is room for.
    fn read(&self, key: Key, kind: Kind, from: u16, room: usize, wall: u64) -> Body {
        let all = || self.records.store.under(key, kind, wall);
        let total = u16::try_from(all().count()).unwrap_or(u16::MAX);
        let mut left = room.saturating_sub(RECORDS_LEN);
        let mut records = Vec::new();
        for record in all().skip(usize::from(from)) {
            let Some(rest) = left.checked_sub(record.len()) else { break };
            left = rest;
            records.push(record.clone());
        }
        Body::Records { from, total, records }
    }

    /// Keeps a record, if it is to be kept: then it is known. What a neighbour may have this node check is bounded.
    pub(super) fn keep_record(
        &mut self,
        from: NodeAddress,
        (by, replica): (By, u8),
        record: Record,
        wall: u64,
        now: Instant,
    ) -> Verdict {
        match self.records.store.judge(&record, by, wall) {
            Verdict::Known => {
                self.records.store.note_place(&record.id(), replica);
                return Verdict::Known;
            }
            Verdict::Take => {}
            refused => {
                if let Verdict::Invalid(why) = &refused {
                    self.count_invalid(*why);
                } else {
                    self.counts.add(Count::DhtStands);
                }
                return refused;
            }
        }
        let is_own = record.owner == self.public_key && from == self.table.own;
        let is_allowed =
            is_own || self.records.checks_of.allow(from, now) && self.records.checks.allow((), now);
        if !is_allowed {
            self.counts.add(Count::DhtTooMany);
            return Verdict::Invalid(Invalid::TooMany);
        }
        if !record.is_signed() {
            self.counts.add(Count::DhtNotSigned);
            return Verdict::Invalid(Invalid::Signature);
        }
        let (winner, id) = (record.clone(), record.id());
        if let Some(loser) = self.records.store.take(record, wall) {
            self.counts.add(Count::DhtConflict);
            self.tell_loser(&loser, winner, now);
        }
        self.records.store.note_place(&id, replica);
        self.counts.add(Count::DhtKept);
        self.expiry_later(now);
        self.copies_soon(now);
        Verdict::Known
    }

    fn count_invalid(&mut self, why: Invalid) {
        self.counts.add(match why {
            Invalid::Full => Count::DhtFull,
            Invalid::TooMany => Count::DhtTooMany,
            Invalid::Signature => Count::DhtNotSigned,
            Invalid::Expired | Invalid::Future | Invalid::TooLong => Count::DhtWrongTime,
            Invalid::Stale => Count::DhtStale,
        });
    }

    /// Tells an owner that another's record has taken the place of its own.
    fn tell_loser(&mut self, loser: &Record, winner: Record, now: Instant) {
        let to = loser.owner_address();
        if to == self.table.own {
            if let Some(wall) = self.records.wall(now) {
                self.contested(&winner, wall, now);
            }
            return;
        }
        let message = Message { replica: 0, token: 0, body: Body::Conflict(winner) };
        let header = self.header(Mode::Exact, Payload::Dht, to);
        self.originate(header, None, &message.to_bytes(), None, now);
    }
}

/// A record, if an answer with it is not longer than the question.
pub(super) fn fitting(record: Record, len: usize) -> Option<Record> {
    (HEAD_LEN + record.len() <= len).then_some(record)
}

/// All places have a number that fits into the message.
const _: () = assert!(REPLICAS == 8);
