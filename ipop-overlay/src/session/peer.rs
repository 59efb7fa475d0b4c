//! One peer: its handshakes, its sessions and its timers.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use ipop_common::Counter;
use ipop_common::wireguard::{CookieReply, Response};
use zeroize::Zeroizing;

use super::activity::{Activity, Traffic};
use super::handshake::{Identity, Initiated, Received, Tai64N, TransportKeys};
use super::index::Indices;
use super::keyring::{Keyring, Session};
use super::mac::PeerMacs;
use super::timers::Timers;
use super::ways::Ways;
use super::{Adopted, FailReason, Install, Now, Output, PeerConfig, PeerView, Random};
use crate::address::NodeAddress;
use crate::endpoint::{Directness, Endpoint};
use crate::node::{PeerId, Refusal};
use crate::time::Instant;

/// Initiations of one peer are taken this far apart: a stock peer sends one in five seconds.
const INITIATIONS_APART: Duration = Duration::from_millis(20);
/// Timestamps are rounded down to this, as Linux does, so that they do not tell this host's clock to
/// the nanosecond.
const TIMESTAMP_STEP: Duration = Duration::from_nanos(1 << 24);
/// Places, beside its endpoint, where a peer is looked for.
pub const CANDIDATES_MAX: usize = 12;
/// Places that one initiation goes to.
pub const PLACES_AT_ONCE: usize = 6;
/// Whatever the timers say, a try is not its own next.
const RETRY_MIN: Duration = Duration::from_millis(1);

/// What all peers share.
pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) timers: Timers,
    pub(super) random: Random,
    pub(super) indices: Indices,
    pub(super) outputs: VecDeque<Output>,
    /// What the last initiation said about the time.
    pub(super) stamped: Duration,
}

impl Shared {
    pub(super) fn draw<const N: usize>(&mut self) -> Zeroizing<[u8; N]> {
        let mut drawn = Zeroizing::new([0; N]);
        (self.random)(drawn.as_mut());
        drawn
    }

    /// Up to `span`.
    fn jitter(&mut self, span: Duration) -> Duration {
        let drawn = u64::from_le_bytes(*self.draw());
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(drawn % span)
    }

    /// The timestamp of the next initiation: the wall clock, unless that went back in this run.
    fn stamp(&mut self, unix: Duration) -> Tai64N {
        let step = TIMESTAMP_STEP.subsec_nanos();
        let rounded = Duration::new(unix.as_secs(), unix.subsec_nanos() / step * step);
        self.stamped = rounded.max(self.stamped.saturating_add(TIMESTAMP_STEP));
        Tai64N::from_unix(self.stamped)
    }
}

/// An attempt to make a session, over as many initiations as it takes.
struct Attempt {
    since: Instant,
    /// When the next initiation is due.
    next_at: Instant,
    /// How many candidates have been tried: the next initiation goes to those that follow.
    tried: usize,
    /// The last one, and the index that it names this side by.
    sent: Option<(u32, Initiated)>,
}

pub(super) struct Peer {
    id: PeerId,
    pub(super) public: [u8; 32],
    psk: Zeroizing<[u8; 32]>,
    endpoint: Option<Endpoint>,
    /// Where else it may be; its endpoint may be among them.
    candidates: Vec<Endpoint>,
    ways: Ways,
    persistent_keepalive: Option<Duration>,
    persistent_at: Option<Instant>,
    macs: PeerMacs,
    keyring: Keyring,
    attempt: Option<Attempt>,
    /// When the last initiation or response went out.
    handshake_sent: Option<Instant>,
    /// The greatest timestamp of an initiation, and when that came.
    greatest: Option<(Tai64N, Instant)>,
    activity: Activity,
    /// The current session is being replaced because it is received on in its last minute.
    last_minute: bool,
    /// When an adopted session is to be replaced.
    refresh_at: Option<Instant>,
    last_handshake: Option<Instant>,
}

impl Peer {
    pub(super) fn new(id: PeerId, config: PeerConfig, now: Instant) -> Self {
        Self {
            id,
            macs: PeerMacs::new(&config.public_key),
            public: config.public_key,
            psk: config.psk,
            endpoint: config.endpoint,
            candidates: Vec::new(),
            ways: Ways::default(),
            persistent_keepalive: config.persistent_keepalive,
            persistent_at: config.persistent_keepalive.map(|_| now),
            keyring: Keyring::default(),
            attempt: None,
            handshake_sent: None,
            greatest: None,
            activity: Activity::default(),
            last_minute: false,
            refresh_at: None,
            last_handshake: None,
        }
    }

    pub(super) fn set_endpoint(&mut self, endpoint: Option<Endpoint>) {
        self.endpoint = endpoint;
    }

    pub(super) fn set_candidates(&mut self, candidates: &[Endpoint]) {
        self.candidates.clear();
        for candidate in candidates {
            if self.candidates.len() < CANDIDATES_MAX && !self.candidates.contains(candidate) {
                self.candidates.push(*candidate);
            }
        }
    }

    fn has_a_place(&self) -> bool {
        self.endpoint.is_some() || !self.candidates.is_empty()
    }

    /// Where the next initiation goes: to the endpoint, and in turn to the candidates. While the packets of a
    /// session go well by TCP or by others, only to the candidates: what came the long way first would count.
    /// A peer that has fallen silent is looked for everywhere: it may have lost the session.
    fn places(&mut self, now: Instant, timers: &Timers) -> Vec<Endpoint> {
        let is_direct = matches!(self.endpoint, Some(Endpoint::Udp(_)) | None);
        let works = self.keyring.current.is_some() && self.activity.hears(now, timers);
        let only_candidates = !is_direct && works && !self.candidates.is_empty();
        let mut places: Vec<Endpoint> = self.endpoint.filter(|_| !only_candidates).into_iter().collect();
        let Some(attempt) = &mut self.attempt else { return places };
        let others = self.candidates.iter().filter(|place| Some(**place) != self.endpoint);
        let count = others.clone().count();
        let share = count.min(PLACES_AT_ONCE - places.len());
        let from = attempt.tried.checked_rem(count).unwrap_or(0);
        places.extend(others.cycle().skip(from).take(share));
        attempt.tried = from + share;
        places
    }

    pub(super) fn set_psk(&mut self, psk: Zeroizing<[u8; 32]>) {
        self.psk = psk;
    }

    pub(super) fn view(&self) -> PeerView {
        PeerView {
            endpoint: self.endpoint,
            current: self.keyring.current.map(|session| session.local_index),
            handshaking: self.attempt.is_some(),
            last_handshake: self.last_handshake,
        }
    }

    /// A packet waits for a session.
    pub(super) fn want_session(&mut self, now: Now, shared: &mut Shared) {
        self.expire(now.at, shared);
        if self.keyring.current.is_some() {
            return;
        }
        if !self.has_a_place() {
            shared.outputs.push_back(Output::Failed { peer: self.id, reason: FailReason::NoEndpoint });
        }
        self.begin(now, shared);
    }

    /// Answers an authentic initiation.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        source: Endpoint,
        received: Received,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        if let Some((greatest, at)) = self.greatest {
            if received.timestamp <= greatest {
                return Err(Refusal(Counter::RxReplayedHandshake));
            }
            if now.since(at) < INITIATIONS_APART {
                return Err(Refusal(Counter::RxHandshakeFlood));
            }
        }
        let local_index = self.allocate(shared).ok_or(Refusal(Counter::RxHandshakeFlood))?;
        let (timestamp, remote_index) = (received.timestamp, received.remote_index);
        let Some((response, keys)) = received.respond(&self.psk, local_index) else {
            shared.indices.release(local_index);
            return Err(Refusal(Counter::RxBadHandshake));
        };
        self.greatest = Some((timestamp, now));
        self.activity.receives(now);
        self.roam(now, source, shared);
        // Before the response goes out: the peer may send as soon as it has it.
        let session = self.install(now, local_index, remote_index, false, keys, shared);
        let replaced = self.keyring.add_answered(session, now);
        self.erase(replaced, shared);
        self.transmit(now, &[source], &mut response.to_bytes(), shared);
        Ok(())
    }

    /// Takes in the response to this node's initiation.
    pub(super) fn finish(
        &mut self,
        now: Now,
        source: Endpoint,
        response: &Response,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let sent = self.attempt.as_mut().and_then(|attempt| attempt.sent.as_mut());
        let Some((local_index, initiated)) = sent.filter(|(index, _)| *index == response.receiver) else {
            return Err(Refusal(Counter::RxReplayedHandshake));
        };
        let local_index = *local_index;
        let keys = initiated.finish(&self.psk, response).ok_or(Refusal(Counter::RxBadHandshake))?;
        // The index is the session's from here on.
        self.attempt = None;
        self.activity.receives(now.at);
        self.roam(now.at, source, shared);
        let session = self.install(now.at, local_index, response.sender, true, keys, shared);
        let replaced = self.keyring.add_initiated(session, now.at);
        shared.outputs.push_back(Output::Use { peer: self.id, local_index });
        replaced.into_iter().for_each(|replaced| self.erase(replaced, shared));
        self.complete(now.at);
        // The peer may not send before it has received something.
        self.keepalive(now, shared);
        Ok(())
    }

    /// Takes in the reply of a peer under load: the next message will have its cookie.
    pub(super) fn take_cookie(&mut self, now: Instant, reply: &CookieReply) -> Result<(), Refusal> {
        self.macs.take_cookie(now, reply).then_some(()).ok_or(Refusal(Counter::RxBadCookie))
    }

    /// A packet with a valid tag came from `source`.
    pub(super) fn authenticated_from(
        &mut self,
        now: Now,
        local_index: u32,
        source: Endpoint,
        shared: &mut Shared,
    ) {
        if self.keyring.contains(local_index) {
            self.roam(now.at, source, shared);
            let traffic = Traffic { received: Some(now.at), ..Traffic::default() };
            self.traffic(now, local_index, &traffic, shared);
        }
    }

    /// Takes in what a data path has seen of a session.
    pub(super) fn traffic(&mut self, now: Now, local_index: u32, traffic: &Traffic, shared: &mut Shared) {
        if !self.keyring.contains(local_index) {
            return;
        }
        let (sent, received) = self.activity.see(now.at, traffic);
        let ways = [
            (Directness::Udp, traffic.by_udp),
            (Directness::Tcp, traffic.by_tcp),
            (Directness::Relay, traffic.by_relay),
        ];
        for (way, at) in ways {
            self.ways.hear(way, at.filter(|at| *at <= now.at));
        }
        if sent || received {
            self.put_persistent_off();
        }
        if traffic.received.is_some() || traffic.received_data.is_some() {
            self.confirm(now.at, local_index, shared);
        }
        if received {
            self.renew_in_the_last_minute(now, shared);
        }
        if sent {
            self.renew_in_time(now, shared);
        }
        self.renew_by_count(now, local_index, traffic.send_counter, shared);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Now, shared: &mut Shared) {
        self.expire(now.at, shared);
        if self.attempt.as_ref().is_some_and(|attempt| attempt.next_at <= now.at) {
            self.retry(now, shared);
        }
        if self.refresh_at.take_if(|at| *at <= now.at).is_some() {
            self.begin(now, shared);
        }
        if self.activity.take_silence(now.at) {
            self.begin(now, shared);
        }
        if self.activity.keepalive_is_due(now.at) {
            self.keepalive(now, shared);
            // Where there was nothing to send it on, it is not owed any more.
            self.activity.give_up();
        }
        if self.persistent_at.is_some_and(|at| at <= now.at) {
            self.persistent_at = self.persistent_keepalive.map(|interval| now.at.after(interval));
            self.keepalive(now, shared);
        }
    }

    /// Starts and stops the timers after what has been done, and says when the next is due.
    pub(super) fn settle(&mut self, shared: &mut Shared) -> Option<Instant> {
        let timers = shared.timers;
        self.activity.settle(&timers, || shared.jitter(timers.jitter));
        let attempt = self.attempt.as_ref().map(|attempt| attempt.next_at);
        let all =
            [self.keyring.reject_at(), attempt, self.refresh_at, self.activity.due(), self.persistent_at];
        all.into_iter().flatten().min()
    }

    /// Takes over a session of an earlier run.
    pub(super) fn adopt(&mut self, now: Instant, adopted: &Adopted, shared: &mut Shared) -> bool {
        let Keyring { current, previous, .. } = &mut self.keyring;
        let place = if current.is_none() { current } else { previous };
        if place.is_some() || !shared.indices.occupy(adopted.local_index, self.id) {
            return false;
        }
        let timers = shared.timers;
        *place = Some(Session::new(adopted.local_index, adopted.initiator, now, adopted.age, &timers));
        // Not all of them at once.
        let spread = shared.jitter(timers.rekey_timeout.saturating_mul(2));
        self.refresh_at.get_or_insert(now.after(spread));
        true
    }

    /// Gives back all that this peer holds.
    pub(super) fn remove(mut self, shared: &mut Shared) {
        self.end_attempt(shared);
        while let Some(session) = self.keyring.remove(|_| true) {
            self.erase(Some(session), shared);
        }
    }

    /// Begins an attempt now, or goes on with the one under way: there are other places to try.
    pub(super) fn call(&mut self, now: Now, shared: &mut Shared) {
        // One that came too soon after the last would be refused, and the next try be seconds away.
        let earliest = self.handshake_sent.map(|sent| sent.after(INITIATIONS_APART * 2));
        let at = earliest.map_or(now.at, |earliest| earliest.max(now.at));
        match &mut self.attempt {
            Some(attempt) => attempt.next_at = at,
            None => self.attempt = Some(Attempt { since: now.at, next_at: at, tried: 0, sent: None }),
        }
        if at <= now.at {
            self.retry(now, shared);
        }
    }

    /// Begins an attempt, unless one is under way.
    fn begin(&mut self, now: Now, shared: &mut Shared) {
        if self.attempt.is_some() || !self.has_a_place() {
            return;
        }
        let earliest = self.handshake_sent.map(|sent| sent.after(shared.timers.rekey_timeout));
        let at = earliest.map_or(now.at, |earliest| earliest.max(now.at));
        self.attempt = Some(Attempt { since: at, next_at: at, tried: 0, sent: None });
        if at <= now.at {
            self.retry(now, shared);
        }
    }

    /// Sends the next initiation of an attempt, or gives up.
    fn retry(&mut self, now: Now, shared: &mut Shared) {
        let Some(attempt) = &mut self.attempt else { return };
        let last = attempt.sent.take().map(|(index, _)| index);
        if now.at.since(attempt.since) >= shared.timers.rekey_attempt {
            self.attempt = None;
            self.activity.give_up();
            shared.outputs.push_back(Output::Failed { peer: self.id, reason: FailReason::NoAnswer });
        } else {
            let timeout = shared.timers.rekey_timeout.saturating_add(shared.jitter(shared.timers.jitter));
            attempt.next_at = now.at.after(timeout.max(RETRY_MIN));
            self.initiate(now, shared);
        }
        // Only now, so that the new initiation has another slot than the last.
        if let Some(last) = last {
            shared.indices.release(last);
        }
    }

    /// Sends an initiation to where the peer may be. Where there is no index for it or no place any more,
    /// the next try may find one.
    fn initiate(&mut self, now: Now, shared: &mut Shared) {
        let to = self.places(now.at, &shared.timers);
        if to.is_empty() {
            return;
        }
        let Some(local_index) = self.allocate(shared) else { return };
        let (timestamp, ephemeral) = (shared.stamp(now.unix), shared.draw());
        let begun = shared.identity.initiate(&self.public, local_index, timestamp, ephemeral);
        let (Some((message, initiated)), Some(attempt)) = (begun, &mut self.attempt) else {
            unreachable!("an attempt is under way, with a peer whose key was checked")
        };
        attempt.sent = Some((local_index, initiated));
        self.transmit(now.at, &to, &mut message.to_bytes(), shared);
    }

    /// An index, if need be at the cost of the session that is used the least.
    fn allocate(&mut self, shared: &mut Shared) -> Option<u32> {
        let upper = u32::from_le_bytes(*shared.draw());
        if let Some(index) = shared.indices.allocate(upper, self.id) {
            return Some(index);
        }
        let spare = self.keyring.spare();
        self.erase(spare, shared);
        shared.indices.allocate(upper, self.id)
    }

    /// Sends the same message to each of these places.
    fn transmit(&mut self, now: Instant, to: &[Endpoint], datagram: &mut [u8], shared: &mut Shared) {
        self.macs.fill_in(now, datagram);
        self.handshake_sent = Some(now);
        self.activity.sends(now);
        self.put_persistent_off();
        let message = |to: &Endpoint| Output::Transmit { to: *to, datagram: datagram.to_vec() };
        shared.outputs.extend(to.iter().map(message));
    }

    fn install(
        &mut self,
        now: Instant,
        local_index: u32,
        remote_index: u32,
        initiator: bool,
        keys: TransportKeys,
        shared: &mut Shared,
    ) -> Session {
        shared.outputs.push_back(Output::Install(Install {
            peer: self.id,
            local_index,
            remote_index,
            send_key: keys.send,
            receive_key: keys.receive,
            initiator,
            created: now,
        }));
        Session::new(local_index, initiator, now, Duration::ZERO, &shared.timers)
    }

    fn erase(&self, session: Option<Session>, shared: &mut Shared) {
        if let Some(Session { local_index, .. }) = session {
            shared.indices.release(local_index);
            shared.outputs.push_back(Output::Erase { peer: self.id, local_index });
        }
    }

    fn expire(&mut self, now: Instant, shared: &mut Shared) {
        while let Some(session) = self.keyring.remove(|session| session.reject_at <= now) {
            self.erase(Some(session), shared);
        }
    }

    /// A packet came on a session: if it waited for that, it is used from now on.
    fn confirm(&mut self, now: Instant, local_index: u32, shared: &mut Shared) {
        let Some((_, replaced)) = self.keyring.confirm(local_index, now) else { return };
        shared.outputs.push_back(Output::Use { peer: self.id, local_index });
        self.erase(replaced, shared);
        self.end_attempt(shared);
        self.complete(now);
    }

    /// There is a new session.
    fn complete(&mut self, now: Instant) {
        self.last_handshake = Some(now);
        self.last_minute = false;
        self.refresh_at = None;
    }

    fn end_attempt(&mut self, shared: &mut Shared) {
        if let Some((index, _)) = self.attempt.take().and_then(|attempt| attempt.sent) {
            shared.indices.release(index);
        }
    }

    /// A session that this node made and that is old is followed by another while something is sent.
    pub(super) fn renew_in_time(&mut self, now: Now, shared: &mut Shared) {
        if self.keyring.current.is_some_and(|current| current.initiator && current.rekey_at <= now.at) {
            self.begin(now, shared);
        }
    }

    fn renew_in_the_last_minute(&mut self, now: Now, shared: &mut Shared) {
        let due = |current: Session| current.initiator && current.last_minute_at <= now.at;
        if !self.last_minute && self.keyring.current.is_some_and(due) {
            self.last_minute = true;
            self.begin(now, shared);
        }
    }

    /// Whoever seals too many packets on a session replaces it; its nonces must not run out.
    fn renew_by_count(&mut self, now: Now, local_index: u32, send_counter: u64, shared: &mut Shared) {
        if send_counter < shared.timers.rekey_after_messages {
            return;
        }
        if send_counter >= shared.timers.reject_after_messages {
            let used_up = self.keyring.remove(|session| session.local_index == local_index);
            self.erase(used_up, shared);
            self.begin(now, shared);
        } else if self.keyring.current.is_some_and(|current| current.local_index == local_index) {
            self.begin(now, shared);
        }
    }

    /// Has an empty packet sent, or a session made for it.
    fn keepalive(&mut self, now: Now, shared: &mut Shared) {
        let Some(Session { local_index, .. }) = self.keyring.current else {
            self.begin(now, shared);
            return;
        };
        shared.outputs.push_back(Output::Keepalive { peer: self.id, local_index });
        self.activity.sends(now.at);
        self.put_persistent_off();
        self.renew_in_time(now, shared);
    }

    /// Something authentic came from `source`: the peer is there, unless that is the long way round.
    fn roam(&mut self, now: Instant, source: Endpoint, shared: &mut Shared) {
        // Whoever carries a packet could say that it is somebody else's.
        if source.overlay().is_some_and(|address| address != NodeAddress::of_key(&self.public)) {
            return;
        }
        self.ways.hear(source.directness(), Some(now));
        if self.endpoint.is_some_and(|present| self.ways.keeps(present, source, now)) {
            return;
        }
        if self.endpoint.replace(source) != Some(source) {
            shared.outputs.push_back(Output::Roamed { peer: self.id, to: source });
        }
    }

    fn put_persistent_off(&mut self) {
        if let (Some(interval), Some(last)) = (self.persistent_keepalive, self.activity.last()) {
            self.persistent_at = self.persistent_at.max(Some(last.after(interval)));
        }
    }
}
