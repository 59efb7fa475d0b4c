//! Sessions with the peers: drives the core's handshakes and timers, and puts what they agree on where
//! both data paths find it.
//!
//! Keys are in two places: as words in the session's [place](crate::places), which the programs share,
//! and as the user path's cipher. What a session has carried is read from its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipop_common::Counter;
use ipop_common::aead;
use ipop_common::maps::LinkRef;
use ipop_common::session::Agreed;
use ipop_common::wireguard::TRANSPORT_HEADER_LEN;
use ipop_overlay::session::{
    AddError, Adopted, CookieKey, FailReason, Handled, Install, Now, Output, PeerConfig, PeerView, Sessions,
    Timers, Traffic,
};
use ipop_overlay::{Directness, Endpoint, Instant, PeerId, Refusal};
use tracing::{debug, warn};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::clock;
use crate::kernel::LinkSessions;
use crate::places::Places;
use crate::userpath::UserSession;
use crate::userpath::session::sealed_len;

/// A NAT on the way must not forget this node: shorter than the shortest mapping in common use
/// (RFC 4787, REQ-5, asks for two minutes; many give thirty seconds).
const PERSISTENT_KEEPALIVE: Duration = Duration::from_secs(25);
/// A peer that has not answered where it was last seen is tried where it is configured.
const LEARNED_ENDPOINT_PATIENCE: Duration = Duration::from_secs(3);
/// So long packets may wait for a session with a peer, from when there is none; then they are
/// answered as unreachable. A handshake whose first message is lost takes five seconds.
const PATIENCE: Duration = Duration::from_secs(7);

/// What has to be done because of a session.
#[derive(Debug)]
pub(super) enum Deed {
    Transmit {
        to: Endpoint,
        datagram: Vec<u8>,
    },
    /// The sessions with this peer are others than before.
    Changed(PeerId),
    /// The peer is somewhere else now.
    Roamed {
        peer: PeerId,
        to: Endpoint,
    },
    /// The peer does not answer.
    Failed(PeerId),
    /// The data threads are to know cookies by this.
    Cookies(CookieKey),
}

/// One session in use.
#[derive(Debug)]
struct Live {
    peer: PeerId,
    user: Arc<UserSession>,
    created: Instant,
    /// No packet has to come to the daemon for it to be used: all may be opened in the kernel.
    confirmed: bool,
    /// When data had last come, by the last look.
    received_ns: u64,
    /// When data went out last, as of the last look.
    sent_ns: u64,
    /// When anything had last come by the way that packets to the peer go, by the last look.
    direct_ns: u64,
    /// When other nodes had last relayed or carried something here, by the last look.
    around_ns: u64,
}

/// What is new of a peer since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Packets have come.
    pub(super) has_come: bool,
    /// Anything has, by the way that packets to the peer go.
    pub(super) has_come_directly: bool,
    /// Packets have gone to the peer.
    pub(super) has_gone: bool,
}

/// The sessions of one node.
pub(super) struct Sealing {
    core: Sessions,
    places: Arc<Places>,
    timers: Timers,
    /// Of every handshake in this network.
    psk: Zeroizing<[u8; 32]>,
    live: BTreeMap<u32, Live>,
    /// Of each peer, its keys in `live`.
    of_peer: BTreeMap<PeerId, BTreeSet<u32>>,
    current: BTreeMap<PeerId, u32>,
    /// Since when there is no session with a peer.
    without: BTreeMap<PeerId, Instant>,
    /// Where peers are configured to be.
    configured: BTreeMap<PeerId, Endpoint>,
}

/// What the sessions are made with.
pub(super) struct Identity {
    pub(super) private_key: StaticSecret,
    pub(super) psk: Zeroizing<[u8; 32]>,
}

/// A peer, before there is a session with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partner {
    pub(super) id: PeerId,
    pub(super) public_key: [u8; 32],
    pub(super) endpoint: Option<Endpoint>,
    /// The overlay keeps the way to it open.
    pub(super) is_found: bool,
}

impl Sealing {
    /// Knows all peers and has a session with none.
    ///
    /// # Errors
    /// The peer that there can be no session with.
    pub(super) fn new(
        identity: Identity,
        partners: &[Partner],
        timers: Timers,
        places: Arc<Places>,
    ) -> Result<Self, (PeerId, AddError)> {
        let random = Box::new(|bytes: &mut [u8]| {
            // Without random numbers there is no secret; the kernel does not run out of them.
            getrandom::fill(bytes).unwrap_or_else(|error| panic!("no random numbers: {error}"));
        });
        let mut sealing = Self {
            core: Sessions::new(identity.private_key, timers, random),
            places,
            timers,
            psk: identity.psk,
            live: BTreeMap::new(),
            of_peer: BTreeMap::new(),
            current: BTreeMap::new(),
            without: BTreeMap::new(),
            configured: BTreeMap::new(),
        };
        for partner in partners {
            sealing.add_peer(partner).map_err(|error| (partner.id, error))?;
        }
        Ok(sealing)
    }

    /// Knows one more peer.
    ///
    /// # Errors
    /// If there can be no session with it.
    pub(super) fn add_peer(&mut self, partner: &Partner) -> Result<(), AddError> {
        let now = clock::now();
        let config = PeerConfig {
            public_key: partner.public_key,
            psk: self.psk.clone(),
            endpoint: partner.endpoint,
            persistent_keepalive: (!partner.is_found)
                .then(|| PERSISTENT_KEEPALIVE.min(self.timers.rekey_after / 4)),
        };
        self.core.add_peer(now, partner.id, config)?;
        self.without.insert(partner.id, now);
        if let Some(endpoint) = partner.endpoint {
            self.configured.insert(partner.id, endpoint);
        }
        Ok(())
    }

    /// Forgets a peer, its sessions and their keys.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.core.remove_peer(peer);
        for local in self.of_peer.remove(&peer).into_iter().flatten() {
            self.places.of(local).vacate();
            self.live.remove(&local);
        }
        self.current.remove(&peer);
        self.without.remove(&peer);
        self.configured.remove(&peer);
    }

    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Goes on with a session whose keys are at its place already; of one peer's, the one that is sent
    /// on first. Says whether that is possible; if not, the keys are erased.
    pub(super) fn adopt(&mut self, peer: PeerId, agreed: &Agreed) -> bool {
        let now = clock::now();
        let left = Duration::from_nanos(agreed.expires_ns.saturating_sub(now.as_nanos()));
        let age = self.timers.reject_after.saturating_sub(left);
        // Who began it, its place does not say; it is replaced soon, whoever that was.
        let adopted = Adopted { local_index: agreed.local, initiator: false, age };
        if let Err(error) = self.core.adopt(now, peer, &adopted) {
            debug!(?peer, %error, "an earlier session is not used");
            self.places.of(agreed.local).vacate();
            return false;
        }
        let [send, receive] = [agreed.send_key, agreed.receive_key].map(bytes_of);
        let live = Live {
            peer,
            user: Arc::new(UserSession::new(agreed.local, &send, &receive)),
            created: Instant::from_nanos(now.as_nanos().saturating_sub(nanos(age))),
            confirmed: true,
            received_ns: 0,
            sent_ns: 0,
            direct_ns: 0,
            around_ns: 0,
        };
        self.add(agreed.local, live);
        self.current.entry(peer).or_insert(agreed.local);
        self.without.remove(&peer);
        true
    }

    /// Where a peer may be beside its endpoint.
    pub(super) fn set_candidates(&mut self, peer: PeerId, candidates: &[Endpoint]) {
        self.core.set_candidates(peer, candidates);
    }

    /// Takes in a handshake message.
    pub(super) fn handshake(&mut self, from: Endpoint, datagram: &[u8]) -> Result<Handled, Refusal> {
        let now = now();
        // Whoever hands the messages on has seen those that it did not.
        self.core.set_under_load(self.places.filter().is_closed(now.at.as_nanos()));
        self.core.handle_handshake(now, from, datagram)
    }

    /// Answers the stranger that the last handshake message was from, who is a peer by now.
    pub(super) fn answer_stranger(&mut self) -> Result<(), Refusal> {
        self.core.answer_stranger(now())
    }

    /// A packet of a session was authentic: where its peer is, and who that is.
    pub(super) fn authenticated(&mut self, local: u32, from: Endpoint) -> Option<PeerId> {
        let live = self.live.get(&local)?;
        let (peer, now) = (live.peer, now());
        if from.udp().is_none() {
            // It does not count against where shorter ways bring packets from; of those the core is to know.
            let (_, received) = self.places.of(local).last_traffic();
            let heard = live.user.heard();
            let by_udp = at(received.max(heard.udp_ns));
            let by_tcp = at(heard.tcp_ns).filter(|_| from.directness() < Directness::Tcp);
            let by_relay = at(heard.relay_ns.max(self.places.of(local).last_relayed()));
            let by_relay = by_relay.filter(|_| from.directness() < Directness::Relay);
            self.core.traffic(now, local, &Traffic { by_udp, by_tcp, by_relay, ..Traffic::default() });
        }
        self.core.authenticated_from(now, local, from);
        Some(peer)
    }

    /// The peer that a session is with.
    pub(super) fn peer_of(&self, local: u32) -> Option<PeerId> {
        self.live.get(&local).map(|live| live.peer)
    }

    /// Where a peer is looked for, from now on.
    pub(super) fn set_endpoint(&mut self, peer: PeerId, endpoint: Option<Endpoint>) {
        match endpoint {
            Some(endpoint) => self.configured.insert(peer, endpoint),
            None => self.configured.remove(&peer),
        };
        self.core.set_endpoint(peer, endpoint);
    }

    /// Where a peer is looked for that has not answered where it was last seen.
    pub(super) fn configured(&self, peer: PeerId) -> Option<Endpoint> {
        self.configured.get(&peer).copied()
    }

    /// A peer is looked for where it was last seen, and nowhere else.
    pub(super) fn forget_configured(&mut self, peer: PeerId) {
        self.configured.remove(&peer);
    }

    /// Begins a handshake with a peer, unless there is a session or one is under way. A peer that has
    /// not answered where it was last seen is looked for where it is configured.
    pub(super) fn want(&mut self, peer: PeerId) {
        let Some(view) = self.core.peer(peer) else { return };
        if view.current.is_some() {
            return;
        }
        let now = now();
        let since = *self.without.entry(peer).or_insert(now.at);
        let configured = self.configured.get(&peer).copied();
        if configured.is_some()
            && view.endpoint != configured
            && (view.endpoint.is_none() || now.at.since(since) > LEARNED_ENDPOINT_PATIENCE)
        {
            self.core.set_endpoint(peer, configured);
        }
        self.core.want_session(now, peer);
    }

    /// Makes a session with a peer at its candidates, beside the one that there is.
    pub(super) fn call_candidates(&mut self, peer: PeerId) {
        self.core.call_candidates(now(), peer);
    }

    /// Tells the core what the data paths have carried; and what is news of it, by peer.
    pub(super) fn look(&mut self) -> BTreeMap<PeerId, Look> {
        let now = now();
        let mut seen: BTreeMap<PeerId, Look> = BTreeMap::new();
        for (local, live) in &mut self.live {
            let place = self.places.of(*local);
            let (sent, by_udp) = place.last_traffic();
            let heard = live.user.heard();
            let relayed = place.last_relayed();
            let by_relay = heard.relay_ns.max(relayed);
            let received = by_udp.max(heard.around_data_ns).max(relayed);
            let (has_come, has_gone) = (received > live.received_ns, sent > live.sent_ns);
            (live.received_ns, live.sent_ns) = (received.max(live.received_ns), sent.max(live.sent_ns));
            let direct_ns = match self.core.peer(live.peer).and_then(|view| view.endpoint) {
                Some(Endpoint::Udp(_)) => by_udp.max(heard.udp_ns),
                Some(Endpoint::Tcp(_)) => heard.tcp_ns,
                Some(Endpoint::Turn(_) | Endpoint::Relay { .. }) => by_relay,
                Some(Endpoint::Overlay(_)) | None => 0,
            };
            let look = seen.entry(live.peer).or_default();
            look.has_come |= has_come;
            look.has_gone |= has_gone;
            look.has_come_directly |= direct_ns > live.direct_ns;
            live.direct_ns = direct_ns.max(live.direct_ns);
            let (sent, received, by_udp) = (at(sent), at(received), at(by_udp.max(heard.udp_ns)));
            let traffic = Traffic {
                sent,
                sent_data: sent,
                received,
                received_data: received,
                by_udp,
                by_tcp: at(heard.tcp_ns),
                by_relay: at(by_relay),
                send_counter: place.sent(),
            };
            self.core.traffic(now, *local, &traffic);
            // Told again, since UDP may have fallen silent meanwhile.
            if let Some((from, at_ns)) = heard.around
                && at_ns > live.around_ns
            {
                live.around_ns = at_ns;
                self.core.authenticated_from(now, *local, from);
            }
        }
        seen
    }

    pub(super) fn handle_timeout(&mut self) {
        self.core.handle_timeout(now());
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    /// What is to be done next. Keys are put where they belong on the way.
    pub(super) fn poll(&mut self) -> Option<Deed> {
        while let Some(output) = self.core.poll_output() {
            let deed = match output {
                Output::Transmit { to, datagram } => Some(Deed::Transmit { to, datagram }),
                Output::Install(install) => Some(Deed::Changed(self.install(&install))),
                Output::Use { peer, local_index } => {
                    self.current.insert(peer, local_index);
                    self.without.remove(&peer);
                    // The others too: where both sides begin at once, the peer uses the one it began, and
                    // nothing of this node's waits for that.
                    for local in self.of_peer.get(&peer).into_iter().flatten() {
                        if let Some(live) = self.live.get_mut(local) {
                            live.confirmed = true;
                        }
                    }
                    Some(Deed::Changed(peer))
                }
                Output::Erase { peer, local_index } => {
                    self.erase(peer, local_index);
                    Some(Deed::Changed(peer))
                }
                Output::Keepalive { peer, local_index } => self.keepalive(peer, local_index),
                Output::Roamed { peer, to } => Some(Deed::Roamed { peer, to }),
                Output::Failed { peer, reason: FailReason::NoAnswer } => Some(Deed::Failed(peer)),
                Output::Failed { reason: FailReason::NoEndpoint, .. } => None,
                Output::Cookies(key) => Some(Deed::Cookies(key)),
            };
            if deed.is_some() {
                return deed;
            }
        }
        None
    }

    fn install(&mut self, install: &Install) -> PeerId {
        let (send, receive) = (install.send_key.as_bytes(), install.receive_key.as_bytes());
        let local = install.local_index;
        let agreed = Agreed {
            local,
            remote: install.remote_index,
            send_key: aead::Key::from_bytes(send),
            receive_key: aead::Key::from_bytes(receive),
            expires_ns: install.created.after(self.timers.reject_after).as_nanos(),
            first_counter: 0,
            // The kernel path is told when it has a link for it.
            link: LinkRef::LOCAL,
        };
        self.places.of(local).install(&agreed, None);
        let live = Live {
            peer: install.peer,
            user: Arc::new(UserSession::new(local, send, receive)),
            created: install.created,
            confirmed: false,
            received_ns: 0,
            sent_ns: 0,
            direct_ns: 0,
            around_ns: 0,
        };
        self.add(local, live);
        install.peer
    }

    fn add(&mut self, local: u32, live: Live) {
        self.of_peer.entry(live.peer).or_default().insert(local);
        self.live.insert(local, live);
    }

    fn erase(&mut self, peer: PeerId, local: u32) {
        // With its peer it has gone already.
        if self.live.remove(&local).is_none() {
            return;
        }
        self.places.of(local).vacate();
        if let Some(of_peer) = self.of_peer.get_mut(&peer) {
            of_peer.remove(&local);
        }
        if self.current.get(&peer) == Some(&local) {
            self.current.remove(&peer);
            self.without.insert(peer, clock::now());
        }
    }

    fn keepalive(&self, peer: PeerId, local: u32) -> Option<Deed> {
        let to = self.core.peer(peer)?.endpoint?;
        let live = self.live.get(&local)?;
        match live.user.keepalive(self.places.of(local), clock::now().as_nanos()) {
            Ok(datagram) => Some(Deed::Transmit { to, datagram: datagram.to_vec() }),
            Err(counter) => {
                debug!(?peer, counter = counter.name(), "no keepalive");
                None
            }
        }
    }

    /// Seals a control message for a peer: where it goes, and the datagram.
    ///
    /// # Errors
    /// The counter of the reason: there is no session with it.
    pub(super) fn seal(&mut self, peer: PeerId, message: &[u8]) -> Result<(Endpoint, Vec<u8>), Counter> {
        self.core.control_sent(now(), peer);
        let current = self.current.get(&peer).and_then(|local| self.live.get(local));
        let to = self.core.peer(peer).and_then(|view| view.endpoint);
        let (Some(live), Some(to)) = (current, to) else { return Err(Counter::TxNoSession) };
        let mut datagram = vec![0; sealed_len(message.len(), u16::MAX)];
        let text = datagram.iter_mut().skip(TRANSPORT_HEADER_LEN);
        text.zip(message).for_each(|(out, byte)| *out = *byte);
        let place = self.places.of(live.user.local());
        live.user.seal_control(place, &mut datagram, message.len(), clock::now().as_nanos())?;
        Ok((to, datagram))
    }

    /// The session that is sent on, for the user path.
    pub(super) fn current(&self, peer: PeerId) -> Option<&Arc<UserSession>> {
        let live = self.live.get(self.current.get(&peer)?)?;
        Some(&live.user)
    }

    /// All sessions with a peer, for the user path.
    pub(super) fn all(&self, peer: PeerId) -> impl Iterator<Item = &Arc<UserSession>> {
        self.live_of(peer).map(|(_, live)| &live.user)
    }

    fn live_of(&self, peer: PeerId) -> impl Iterator<Item = (u32, &Live)> {
        let all = self.of_peer.get(&peer).into_iter().flatten();
        all.filter_map(|local| Some((*local, self.live.get(local)?)))
    }

    /// The sessions with a peer, for the kernel path.
    pub(super) fn of_link(&self, peer: PeerId) -> LinkSessions {
        let confirmed = self.live_of(peer).filter(|(_, live)| live.confirmed);
        LinkSessions {
            current: self.current.get(&peer).copied(),
            all: confirmed.map(|(local, _)| local).collect(),
        }
    }

    /// When the session that is sent on ends.
    pub(super) fn end(&self, peer: PeerId) -> Option<Instant> {
        let live = self.live.get(self.current.get(&peer)?)?;
        Some(live.created.after(self.timers.reject_after))
    }

    /// How old the session is that is sent on.
    pub(super) fn age(&self, peer: PeerId) -> Option<Duration> {
        let live = self.live.get(self.current.get(&peer)?)?;
        Some(clock::now().since(live.created))
    }

    /// The peer as the core sees it.
    pub(super) fn view(&self, peer: PeerId) -> Option<PeerView> {
        self.core.peer(peer)
    }

    /// Whether packets to a peer should wait: there is no session, and there may soon be one.
    pub(super) fn may_come(&self, peer: PeerId) -> bool {
        self.without.get(&peer).is_none_or(|since| clock::now().since(*since) < PATIENCE)
    }

    /// Forgets all sessions and their keys.
    pub(super) fn close(&mut self) {
        for local in self.live.keys() {
            self.places.of(*local).vacate();
        }
        let left = self.places.sessions();
        if !left.is_empty() {
            warn!(sessions = left.len(), "sessions that nobody knew are erased");
            left.into_iter().for_each(|local| self.places.of(local).vacate());
        }
        self.live.clear();
        self.of_peer.clear();
        self.current.clear();
    }
}

fn now() -> Now {
    Now { at: clock::now(), unix: Duration::from_nanos(clock::unix_ns()) }
}

/// A time as data paths note it.
fn at(ns: u64) -> Option<Instant> {
    (ns != 0).then(|| Instant::from_nanos(ns))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn bytes_of(key: aead::Key) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    for (out, word) in bytes.chunks_exact_mut(4).zip(key.0) {
        out.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
