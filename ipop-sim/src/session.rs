//! Sessions between hosts, as the sealed-link core makes them: the same messages in the same order and
//! of the same size, without the arithmetic, which at ten thousand nodes would take the hours.
//!
//! Nothing is secret here, and nobody forges: who has an index has the session. What is left out beside:
//! cookies, and windows against replays.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ipop_overlay::session::{CANDIDATES_MAX, PLACES_AT_ONCE, Timers, Ways};
use ipop_overlay::{Endpoint, Instant, NodeAddress, PeerId};

#[cfg(test)]
mod tests;
mod wire;

pub(crate) use wire::{Datagram, Purpose, text, transport};
use wire::{INITIATION, RESPONSE, TRANSPORT, initiation, response};

const TIMERS: Timers = Timers::WIREGUARD;

/// One session, without its keys.
#[derive(Clone, Copy, Debug)]
struct Session {
    local: u32,
    remote: u32,
    created: Instant,
    /// Nothing is sealed or opened with it then.
    end: Instant,
    /// Who makes the next in time is who made this one.
    is_initiator: bool,
}

impl Session {
    fn new(local: u32, remote: u32, is_initiator: bool, now: Instant) -> Self {
        Self { local, remote, created: now, end: now.after(TIMERS.reject_after), is_initiator }
    }
}

/// One that gives way is received from for so long.
const PARTING: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    since: Instant,
    next_at: Instant,
    tried: usize,
    index: Option<u32>,
}

/// The sessions with one peer.
#[derive(Debug)]
struct Partner {
    key: [u8; 32],
    endpoint: Option<Endpoint>,
    candidates: Vec<Endpoint>,
    /// The one that is sent on, the one before, and one that was answered to and not used yet.
    current: Option<Session>,
    previous: Option<Session>,
    next: Option<Session>,
    /// Those that have given way just now.
    parting: [Option<Session>; 2],
    attempt: Option<Attempt>,
    /// When an initiation or a response was sent last.
    handshake_sent: Option<Instant>,
    /// When the newest initiation was made that has come.
    greatest: Option<u64>,
    ways: Ways,
    /// Since when data has been sent and nothing has come.
    unanswered: Option<Instant>,
    /// Since when data has come and nothing was sent.
    owes: Option<Instant>,
}

/// What the sessions want done.
#[derive(Debug)]
pub(crate) enum Deed {
    Send {
        to: Endpoint,
        datagram: Datagram,
    },
    /// The sessions with this peer are others than before.
    Changed(PeerId),
    Roamed {
        peer: PeerId,
        to: Endpoint,
    },
}

/// What a datagram was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing that anybody else has to know.
    Nothing,
    /// An initiation of a node that is no peer.
    Stranger([u8; 32]),
    /// Text of a session with a peer, nothing in a keepalive.
    Text(PeerId, Vec<u8>),
}

/// All sessions of one host.
#[derive(Debug)]
pub(crate) struct Sessions {
    own: [u8; 32],
    partners: BTreeMap<PeerId, Partner>,
    by_index: BTreeMap<u32, PeerId>,
    last_index: u32,
    deeds: Vec<Deed>,
}

impl Sessions {
    /// `first_index` is another in each run of a node, so that no packet is taken for one of a run before.
    pub(crate) fn new(own: [u8; 32], first_index: u32) -> Self {
        Self {
            own,
            partners: BTreeMap::new(),
            by_index: BTreeMap::new(),
            last_index: first_index,
            deeds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, id: PeerId, key: [u8; 32], endpoint: Option<Endpoint>) {
        let partner = Partner {
            key,
            endpoint,
            candidates: Vec::new(),
            current: None,
            previous: None,
            next: None,
            parting: [None; 2],
            attempt: None,
            handshake_sent: None,
            greatest: None,
            ways: Ways::default(),
            unanswered: None,
            owes: None,
        };
        self.partners.insert(id, partner);
    }

    pub(crate) fn remove(&mut self, id: PeerId) {
        self.partners.remove(&id);
        self.by_index.retain(|_, peer| *peer != id);
        self.deeds.retain(|deed| match deed {
            Deed::Send { .. } => true,
            Deed::Changed(peer) | Deed::Roamed { peer, .. } => *peer != id,
        });
    }

    pub(crate) fn set_endpoint(&mut self, id: PeerId, endpoint: Option<Endpoint>) {
        if let Some(partner) = self.partners.get_mut(&id) {
            partner.endpoint = endpoint;
        }
    }

    pub(crate) fn set_candidates(&mut self, id: PeerId, places: &[Endpoint]) {
        if let Some(partner) = self.partners.get_mut(&id) {
            partner.candidates = places.iter().take(CANDIDATES_MAX).copied().collect();
        }
    }

    /// The index of the session that is sent on.
    pub(crate) fn current(&self, id: PeerId) -> Option<u32> {
        Some(self.partners.get(&id)?.current?.local)
    }

    /// When that one is over.
    pub(crate) fn end(&self, id: PeerId) -> Option<Instant> {
        Some(self.partners.get(&id)?.current?.end)
    }

    /// Whether there is a session of this index with a peer.
    pub(crate) fn has(&self, id: PeerId, local: u32) -> bool {
        self.partners.get(&id).is_some_and(|partner| partner.sessions().any(|session| session.local == local))
    }

    /// A packet waits for a session.
    pub(crate) fn want(&mut self, id: PeerId, now: Instant) {
        if self.current(id).is_none() {
            self.begin(id, now);
        }
    }

    /// Makes a session at the candidates, beside the one that there is.
    pub(crate) fn call_candidates(&mut self, id: PeerId, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        match &mut partner.attempt {
            Some(attempt) => attempt.next_at = now,
            None => partner.attempt = Some(Attempt { since: now, next_at: now, tried: 0, index: None }),
        }
        self.retry(id, now);
    }

    /// Seals a text, which is an inner packet (`is_data`) or not: where it goes then, and the datagram.
    pub(crate) fn seal(
        &mut self,
        id: PeerId,
        text: &[u8],
        is_data: bool,
        now: Instant,
    ) -> Option<(Endpoint, Datagram)> {
        let partner = self.partners.get_mut(&id)?;
        let (session, to) = (partner.current?, partner.endpoint?);
        if is_data {
            self.data_goes(id, now);
        } else {
            self.renew(id, now);
        }
        Some((to, transport(session.remote, text)))
    }

    fn data_goes(&mut self, id: PeerId, now: Instant) {
        if let Some(partner) = self.partners.get_mut(&id) {
            partner.unanswered.get_or_insert(now);
        }
        self.sent(id, now);
    }

    /// Data or a keepalive has been sent; control messages start and stop no timers.
    fn sent(&mut self, id: PeerId, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        partner.owes = None;
        self.renew(id, now);
    }

    /// A session that this host made and that is old is followed by another while something is sent.
    fn renew(&mut self, id: PeerId, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        let is_old =
            |session: Session| session.is_initiator && now.since(session.created) >= TIMERS.rekey_after;
        if partner.current.is_some_and(is_old) {
            self.begin(id, now);
        }
    }

    /// Takes in a datagram that has come.
    pub(crate) fn receive(&mut self, from: Endpoint, datagram: &[u8], now: Instant) -> Received {
        let index =
            |at| datagram.get(at..at + 4).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
        match (datagram.first(), index(4), index(8)) {
            (Some(&INITIATION), Some(remote), _) => self.initiation(from, remote, datagram, now),
            (Some(&RESPONSE), Some(remote), Some(local)) => self.response(from, (local, remote), now),
            (Some(&TRANSPORT), Some(local), _) => self.transported(from, local, text(datagram), now),
            _ => Received::Nothing,
        }
    }

    fn initiation(&mut self, from: Endpoint, remote: u32, datagram: &[u8], now: Instant) -> Received {
        let key: Option<[u8; 32]> = datagram.get(8..40).and_then(|key| key.try_into().ok());
        let made: Option<[u8; 8]> = datagram.get(40..48).and_then(|made| made.try_into().ok());
        let (Some(key), Some(made)) = (key, made.map(u64::from_le_bytes)) else { return Received::Nothing };
        let of_key = self.partners.iter_mut().find(|(_, partner)| partner.key == key);
        let Some((id, partner)) = of_key.map(|(id, partner)| (*id, partner)) else {
            return Received::Stranger(key);
        };
        if partner.greatest.is_some_and(|greatest| made <= greatest) {
            return Received::Nothing;
        }
        partner.greatest = Some(made);
        self.heard(id, from, now);
        let local = self.index(id);
        let session = Session::new(local, remote, false, now);
        let Some(partner) = self.partners.get_mut(&id) else { return Received::Nothing };
        partner.handshake_sent = Some(now);
        let replaced = partner.next.replace(session);
        self.part(id, replaced, now);
        self.deeds.push(Deed::Send { to: from, datagram: response(local, remote) });
        Received::Nothing
    }

    fn response(&mut self, from: Endpoint, (local, remote): (u32, u32), now: Instant) -> Received {
        let Some(id) = self.by_index.get(&local).copied() else { return Received::Nothing };
        let Some(partner) = self.partners.get_mut(&id) else { return Received::Nothing };
        if partner.attempt.is_none_or(|attempt| attempt.index != Some(local)) {
            return Received::Nothing;
        }
        partner.attempt = None;
        self.heard(id, from, now);
        let session = Session::new(local, remote, true, now);
        let Some(partner) = self.partners.get_mut(&id) else { return Received::Nothing };
        let old = partner.current.replace(session);
        // Where both have begun at once, the peer sends on the one that it has begun.
        let replaced = match partner.next.take() {
            Some(next) => [partner.previous.replace(next), old],
            None => [std::mem::replace(&mut partner.previous, old), None],
        };
        replaced.into_iter().for_each(|replaced| self.part(id, replaced, now));
        self.deeds.push(Deed::Changed(id));
        // The peer may not send before it has received something.
        self.keepalive(id, now);
        Received::Nothing
    }

    fn transported(&mut self, from: Endpoint, local: u32, text: &[u8], now: Instant) -> Received {
        let Some(id) = self.by_index.get(&local).copied() else { return Received::Nothing };
        if !self.has(id, local) {
            return Received::Nothing;
        }
        self.heard(id, from, now);
        let Some(partner) = self.partners.get_mut(&id) else { return Received::Nothing };
        if let Some(next) = partner.next.take_if(|next| next.local == local) {
            let old = partner.current.replace(next);
            let replaced = std::mem::replace(&mut partner.previous, old);
            let given_up = partner.attempt.take().and_then(|attempt| attempt.index);
            given_up.map(|index| self.by_index.remove(&index));
            self.part(id, replaced, now);
            self.deeds.push(Deed::Changed(id));
        }
        Received::Text(id, text.to_vec())
    }

    /// Inner packets have come from a peer.
    pub(crate) fn data_came(&mut self, id: PeerId, now: Instant) {
        if let Some(partner) = self.partners.get_mut(&id) {
            partner.owes.get_or_insert(now);
        }
    }

    /// Something authentic has come: the peer is there, unless that is the long way round.
    fn heard(&mut self, id: PeerId, from: Endpoint, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        partner.unanswered = None;
        if from.overlay().is_some_and(|address| address != NodeAddress::of_key(&partner.key)) {
            return;
        }
        partner.ways.hear(from.directness(), Some(now));
        if partner.endpoint.is_some_and(|present| partner.ways.keeps(present, from, now)) {
            return;
        }
        if partner.endpoint.replace(from) != Some(from) {
            self.deeds.push(Deed::Roamed { peer: id, to: from });
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.partners.values().filter_map(Partner::due).min()
    }

    pub(crate) fn timeout(&mut self, now: Instant) {
        let due = self.partners.iter().filter(|(_, partner)| partner.due().is_some_and(|at| at <= now));
        let due: Vec<PeerId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.timeout_of(id, now);
        }
    }

    fn timeout_of(&mut self, id: PeerId, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        let Partner { current, previous, next, parting, .. } = partner;
        let places = [current, previous, next].into_iter().chain(parting);
        let over: Vec<Session> =
            places.filter_map(|place| place.take_if(|session| session.end <= now)).collect();
        let is_silent = partner.unanswered.take_if(|since| since.after(silence()) <= now).is_some();
        let owes = partner.owes.take_if(|since| since.after(TIMERS.keepalive) <= now).is_some();
        let is_over = !over.is_empty();
        over.into_iter().for_each(|session| self.erase(id, Some(session)));
        if is_over {
            self.deeds.push(Deed::Changed(id));
        }
        let Some(partner) = self.partners.get(&id) else { return };
        if partner.attempt.is_some_and(|attempt| attempt.next_at <= now) {
            self.retry(id, now);
        }
        if is_silent {
            self.begin(id, now);
        }
        if owes {
            self.keepalive(id, now);
        }
    }

    pub(crate) fn poll(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    fn keepalive(&mut self, id: PeerId, now: Instant) {
        match self.seal(id, &[], false, now) {
            Some((to, datagram)) => {
                self.deeds.push(Deed::Send { to, datagram });
                self.sent(id, now);
            }
            None => self.begin(id, now),
        }
    }

    fn begin(&mut self, id: PeerId, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        let has_a_place = partner.endpoint.is_some() || !partner.candidates.is_empty();
        if partner.attempt.is_none() && has_a_place {
            // Who has just answered waits whether that is enough.
            let earliest = partner.handshake_sent.map(|sent| sent.after(TIMERS.rekey_timeout));
            let at = earliest.map_or(now, |earliest| earliest.max(now));
            partner.attempt = Some(Attempt { since: at, next_at: at, tried: 0, index: None });
            if at <= now {
                self.retry(id, now);
            }
        }
    }

    /// Sends the next initiation of an attempt, or gives up.
    fn retry(&mut self, id: PeerId, now: Instant) {
        let Some(partner) = self.partners.get_mut(&id) else { return };
        let Some(attempt) = &mut partner.attempt else { return };
        let last = attempt.index.take();
        if now.since(attempt.since) >= TIMERS.rekey_attempt {
            partner.attempt = None;
            partner.owes = None;
        } else {
            attempt.next_at = now.after(TIMERS.rekey_timeout);
            partner.handshake_sent = Some(now);
            let to = partner.places();
            let index = self.index(id);
            if let Some(attempt) = self.partners.get_mut(&id).and_then(|partner| partner.attempt.as_mut()) {
                attempt.index = Some(index);
            }
            let datagram = initiation(&self.own, index, now);
            let sends = to.into_iter().map(|to| Deed::Send { to, datagram: Rc::clone(&datagram) });
            self.deeds.extend(sends);
        }
        last.map(|last| self.by_index.remove(&last));
    }

    fn index(&mut self, id: PeerId) -> u32 {
        self.last_index = self.last_index.wrapping_add(1);
        self.by_index.insert(self.last_index, id);
        self.last_index
    }

    /// Lets a session go in a while, at the cost of the one that would go first.
    fn part(&mut self, id: PeerId, session: Option<Session>, now: Instant) {
        let (Some(session), Some(partner)) = (session, self.partners.get_mut(&id)) else { return };
        let session = Session { end: session.end.min(now.after(PARTING)), ..session };
        let first = partner.parting.iter_mut().min_by_key(|parting| parting.map(|parting| parting.end));
        let gone = first.and_then(|first| first.replace(session));
        self.erase(id, gone);
        // The maps may hold it.
        self.deeds.push(Deed::Changed(id));
    }

    fn erase(&mut self, id: PeerId, session: Option<Session>) {
        if let Some(session) = session {
            self.by_index.remove(&session.local);
            // The maps may hold it.
            self.deeds.push(Deed::Changed(id));
        }
    }

    /// Seals an inner packet as the kernel path does, in the session of a local index.
    pub(crate) fn seal_with(
        &mut self,
        id: PeerId,
        local: u32,
        text: &[u8],
        now: Instant,
    ) -> Option<Datagram> {
        let partner = self.partners.get(&id)?;
        let remote = partner.sessions().find(|session| session.local == local)?.remote;
        // The daemon sees that something was sent.
        self.data_goes(id, now);
        Some(transport(remote, text))
    }
}

impl Partner {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        [&self.current, &self.previous, &self.next].into_iter().chain(&self.parting).flatten()
    }

    fn due(&self) -> Option<Instant> {
        let over = self.sessions().map(|session| session.end).min();
        let next = self.attempt.map(|attempt| attempt.next_at);
        let silent = self.unanswered.map(|since| since.after(silence()));
        let owes = self.owes.map(|since| since.after(TIMERS.keepalive));
        [over, next, silent, owes].into_iter().flatten().min()
    }

    /// Where the next initiation goes: while others carry or relay the packets of a session well, only to the
    /// candidates.
    fn places(&mut self) -> Vec<Endpoint> {
        let is_direct = self.endpoint.is_none_or(|endpoint| endpoint.udp().is_some());
        let only_candidates = !is_direct && self.current.is_some() && !self.candidates.is_empty();
        let mut places: Vec<Endpoint> = self.endpoint.filter(|_| !only_candidates).into_iter().collect();
        let Some(attempt) = &mut self.attempt else { return places };
        let others = self.candidates.iter().copied().filter(|place| Some(*place) != self.endpoint);
        let count = others.clone().count();
        let share = count.min(PLACES_AT_ONCE - places.len());
        let from = attempt.tried.checked_rem(count).unwrap_or(0);
        places.extend(others.cycle().skip(from).take(share));
        attempt.tried = from + share;
        places
    }
}

/// Who has sent data and received nothing for so long makes a new session.
const fn silence() -> Duration {
    TIMERS.keepalive.saturating_add(TIMERS.rekey_timeout)
}
