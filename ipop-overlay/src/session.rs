//! Sessions with peers, as every WireGuard makes and keeps them (the WireGuard paper, sections 5
//! and 6): handshakes, cookies, timers, and the indices by which packets name a session.
//!
//! Here is no packet of a network: data paths seal and open those, with the keys that
//! [`Output::Install`] hands out, and tell what they saw ([`Sessions::traffic`],
//! [`Sessions::authenticated_from`]). Keys are not kept here.
//!
//! Like the node, [`Sessions`] does no I/O: time and randomness are passed in. One mutation, then
//! drain [`Sessions::poll_output`], in order, and ask [`Sessions::poll_timeout`] when to come back.
//!
//! What a data path has to do:
//! - *Install* a session: receive on it. It carries nothing, in either direction, once it is
//!   [`Timers::reject_after`] old; the core says *Erase* by then, and a data path that may outlive the
//!   core keeps to it by itself. The same holds for [`Timers::reject_after_messages`].
//! - *Use* a session: send on it, and no more on another of the same peer.
//! - *Erase* a session: forget its keys.
//!
//! As in the paper, who initiated a session replaces it in time; who answered sends on it only when
//! a packet has come on it; both keep the one before for packets under way. In two things this core
//! is stricter or kinder than Linux: keys are erased as soon as they may not be used any more and
//! not after three times as long, and two peers that initiate at once both get their session, where
//! Linux begins anew.

mod activity;
mod admission;
mod gate;
mod handshake;
mod index;
mod keyring;
mod mac;
mod peer;
mod psk;
#[cfg(test)]
mod tests;
mod timers;
mod ways;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use ipop_common::Counter;
use ipop_common::limits::LINKS_MAX;
use ipop_common::wireguard::{self, CookieReply, Initiation, Response};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

pub use activity::Traffic;
pub use gate::Gate;
pub use handshake::TransportKey;
pub use index::SLOT_BITS;
pub use mac::{CookieKey, Mac1Key};
pub use peer::{CANDIDATES_MAX, PLACES_AT_ONCE};
pub use psk::network_psk;
pub use timers::Timers;
pub use ways::Ways;

use crate::endpoint::Endpoint;
use crate::node::{PeerId, Refusal};
use crate::time::Instant;
use admission::{Load, Sources};
use handshake::{Identity, Received};
use index::Indices;
use mac::Cookies;
use peer::{Peer, Shared};

/// Fills a slice with random bytes from which nothing about others follows; the operating system's.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// The time, twice: sessions age by the monotonic clock; the wall clock goes into initiations, which
/// must be later than those that the peer has seen, also after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub at: Instant,
    /// Since the UNIX epoch.
    pub unix: Duration,
}

/// What a peer is known by.
#[derive(Clone)]
pub struct PeerConfig {
    /// Its static public key.
    pub public_key: [u8; 32],
    /// See [`network_psk`]; all zeros for none.
    pub psk: Zeroizing<[u8; 32]>,
    /// Where initiations go; where the peer's own packets come from replaces it.
    pub endpoint: Option<Endpoint>,
    /// Something is sent at least this often, so that a NAT does not forget this node.
    pub persistent_keepalive: Option<Duration>,
}

impl core::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PeerConfig")
            .field("public_key", &self.public_key)
            .field("endpoint", &self.endpoint)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .finish_non_exhaustive()
    }
}

/// Why a peer was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The id is another peer's.
    IdTaken,
    /// Another peer has the same public key.
    KeyTaken(PeerId),
    /// The public key is this node's own.
    OwnKey,
    /// No secret follows from the public key.
    WeakKey,
    /// There are as many peers as links.
    TooMany,
}

impl core::fmt::Display for AddError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::IdTaken => f.write_str("the peer is there already; remove it first"),
            Self::KeyTaken(PeerId(other)) => {
                write!(f, "peer {other} has the same public key; each peer needs its own")
            }
            Self::OwnKey => f.write_str("the public key is this node's own; give the peer's"),
            Self::WeakKey => {
                f.write_str("the public key is one of the few unsafe ones; make the peer a new key")
            }
            Self::TooMany => write!(f, "there are {LINKS_MAX} peers already; remove one first"),
        }
    }
}

impl core::error::Error for AddError {}

/// A session of an earlier run of this node that data paths still have the keys of.
#[derive(Clone, Copy, Debug)]
pub struct Adopted {
    pub local_index: u32,
    pub initiator: bool,
    pub age: Duration,
}

/// Why a session was not taken over; its keys should be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptError {
    UnknownPeer,
    /// It may not be used any more.
    TooOld,
    /// The index's slot is another session's, or the peer has two sessions already.
    Taken,
}

impl core::fmt::Display for AdoptError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownPeer => "no such peer; add it before its sessions are adopted",
            Self::TooOld => "the session has reached its end; erase it",
            Self::Taken => "the session's slot or the peer's place for it is taken; erase it",
        })
    }
}

impl core::error::Error for AdoptError {}

/// A new session, with its keys.
#[derive(Debug)]
pub struct Install {
    pub peer: PeerId,
    /// What packets to this node name the session by. The low [`SLOT_BITS`] bits are its slot, which
    /// no other session has until this one is erased.
    pub local_index: u32,
    /// What packets to the peer name it by.
    pub remote_index: u32,
    pub send_key: TransportKey,
    pub receive_key: TransportKey,
    pub initiator: bool,
    pub created: Instant,
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// Nobody knows where the peer is.
    NoEndpoint,
    /// The peer has not answered for [`Timers::rekey_attempt`]. The next
    /// [`Sessions::want_session`] tries again.
    NoAnswer,
}

/// What became of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    Done,
    /// An authentic initiation of a key that is no peer's. It waits for [`Sessions::add_peer`] of that key and
    /// [`Sessions::answer_stranger`], which must be the next calls.
    Stranger([u8; 32]),
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Send a handshake message.
    Transmit { to: Endpoint, datagram: Vec<u8> },
    /// Receive on this session from now on.
    Install(Install),
    /// Send on this session from now on.
    Use { peer: PeerId, local_index: u32 },
    /// Forget this session.
    Erase { peer: PeerId, local_index: u32 },
    /// Send an empty packet on this session, unless a packet waits and is sent now.
    Keepalive { peer: PeerId, local_index: u32 },
    /// The peer is somewhere else now.
    Roamed { peer: PeerId, to: Endpoint },
    /// No session could be made, and packets that wait for one should not wait any longer.
    Failed { peer: PeerId, reason: FailReason },
    /// From now on, cookies that this node has given follow from this: for [`Gate::admit`].
    Cookies(CookieKey),
}

/// A peer's sessions as an operator sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    pub endpoint: Option<Endpoint>,
    /// The session that is sent on.
    pub current: Option<u32>,
    /// An attempt to make a session is under way.
    pub handshaking: bool,
    /// When the last handshake was completed in this run.
    pub last_handshake: Option<Instant>,
}

/// The sessions with all peers. See the module's documentation for how to drive it.
pub struct Sessions {
    shared: Shared,
    peers: BTreeMap<PeerId, Entry>,
    by_key: BTreeMap<[u8; 32], PeerId>,
    due: BTreeSet<(Instant, PeerId)>,
    mac1: Mac1Key,
    cookies: Cookies,
    load: Load,
    sources: Sources,
    stranger: Option<Stranger>,
}

/// An initiation that waits to be answered, and where it came from.
struct Stranger {
    source: Endpoint,
    received: Received,
}

struct Entry {
    peer: Peer,
    /// Its place in [`Sessions::due`].
    due: Option<Instant>,
}

impl core::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sessions").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    pub fn new(private_key: StaticSecret, timers: Timers, random: Random) -> Self {
        let identity = Identity::new(private_key);
        Self {
            mac1: Mac1Key::new(&identity.public),
            cookies: Cookies::new(&identity.public),
            load: Load::new(),
            sources: Sources::default(),
            stranger: None,
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            due: BTreeSet::new(),
            shared: Shared {
                identity,
                timers,
                random,
                indices: Indices::default(),
                outputs: VecDeque::new(),
                stamped: Duration::ZERO,
            },
        }
    }

    /// Adds a peer under an id of the caller's choice.
    ///
    /// # Errors
    /// If the id or the key is taken, the key cannot be used, or there is no room.
    pub fn add_peer(&mut self, now: Instant, id: PeerId, mut config: PeerConfig) -> Result<(), AddError> {
        if self.peers.contains_key(&id) {
            return Err(AddError::IdTaken);
        }
        if let Some(other) = self.by_key.get(&config.public_key) {
            return Err(AddError::KeyTaken(*other));
        }
        if config.public_key == self.shared.identity.public {
            return Err(AddError::OwnKey);
        }
        if !self.shared.identity.can_agree_with(&config.public_key) {
            return Err(AddError::WeakKey);
        }
        if self.peers.len() >= LINKS_MAX as usize {
            return Err(AddError::TooMany);
        }
        config.persistent_keepalive = config.persistent_keepalive.filter(|interval| !interval.is_zero());
        self.by_key.insert(config.public_key, id);
        self.peers.insert(id, Entry { peer: Peer::new(id, config, now), due: None });
        // It may be the stranger's.
        let stranger = self.stranger.take();
        self.with(id, |_, _| ());
        self.stranger = stranger;
        Ok(())
    }

    /// Removes a peer and erases its sessions. Nothing more is wanted of it; another may have its id at once.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.stranger = None;
        let Some(Entry { peer, due }) = self.peers.remove(&id) else { return };
        if let Some(at) = due {
            self.due.remove(&(at, id));
        }
        self.by_key.remove(&peer.public);
        peer.remove(&mut self.shared);
        // Of a session that no data path has been told of, none needs to hear that it is over.
        let mut untold = BTreeSet::new();
        self.shared.outputs.retain(|output| match output {
            Output::Install(install) if install.peer == id => {
                untold.insert(install.local_index);
                false
            }
            Output::Erase { peer, local_index } => *peer != id || !untold.remove(local_index),
            Output::Install(_) | Output::Transmit { .. } | Output::Cookies(_) => true,
            Output::Use { peer, .. }
            | Output::Keepalive { peer, .. }
            | Output::Roamed { peer, .. }
            | Output::Failed { peer, .. } => *peer != id,
        });
    }

    /// Where the next messages to a peer go.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: Option<Endpoint>) {
        self.with(id, |peer, _| peer.set_endpoint(endpoint));
    }

    /// Where a peer may be beside its endpoint; the first [`CANDIDATES_MAX`] of them. Each initiation goes to
    /// a few of all these places at once, and the answer tells where the peer is.
    pub fn set_candidates(&mut self, id: PeerId, candidates: &[Endpoint]) {
        self.with(id, |peer, _| peer.set_candidates(candidates));
    }

    /// The pre-shared key of the handshakes that are completed from now on.
    pub fn set_psk(&mut self, id: PeerId, psk: Zeroizing<[u8; 32]>) {
        self.with(id, |peer, _| peer.set_psk(psk));
    }

    /// Takes over a session of an earlier run; of one peer's, the one that is sent on first. It is
    /// replaced within seconds.
    ///
    /// # Errors
    /// If it cannot be used any more.
    pub fn adopt(&mut self, now: Instant, id: PeerId, adopted: &Adopted) -> Result<(), AdoptError> {
        if adopted.age >= self.shared.timers.reject_after {
            return Err(AdoptError::TooOld);
        }
        let taken = self.with(id, |peer, shared| peer.adopt(now, adopted, shared));
        taken.ok_or(AdoptError::UnknownPeer)?.then_some(()).ok_or(AdoptError::Taken)
    }

    /// A packet to a peer waits for a session.
    pub fn want_session(&mut self, now: Now, id: PeerId) {
        self.with(id, |peer, shared| peer.want_session(now, shared));
    }

    /// A packet of the session, not seen before and with a valid tag, came from `source`. Told of the
    /// first one, and of those that come from elsewhere than the one before; of those that other nodes
    /// carry, also every second or so: UDP may have fallen silent meanwhile.
    pub fn authenticated_from(&mut self, now: Now, local_index: u32, source: Endpoint) {
        let Some(id) = self.shared.indices.owner(local_index) else { return };
        self.with(id, |peer, shared| peer.authenticated_from(now, local_index, source, shared));
    }

    /// What a data path has seen of a session; about once a second, and at once when the first packet
    /// comes on a session that may not be sent on yet.
    pub fn traffic(&mut self, now: Now, local_index: u32, traffic: &Traffic) {
        let Some(id) = self.shared.indices.owner(local_index) else { return };
        self.with(id, |peer, shared| peer.traffic(now, local_index, traffic, shared));
    }

    /// A control message goes to a peer. It starts no timer, but makes a session as data would that is due.
    pub fn control_sent(&mut self, now: Now, id: PeerId) {
        self.with(id, |peer, shared| peer.renew_in_time(now, shared));
    }

    /// More work has come than is done: demand cookies until told otherwise. The core does so by
    /// itself when too many handshake messages come.
    pub fn set_under_load(&mut self, under_load: bool) {
        self.load.tell(under_load);
    }

    /// A peer that other nodes carry packets to may be reached at its candidates: makes a session there,
    /// while the one that there is goes on.
    pub fn call_candidates(&mut self, now: Now, id: PeerId) {
        self.with(id, |peer, shared| peer.call(now, shared));
    }

    /// Takes in a handshake message.
    ///
    /// That a stranger has the key it says does not make it a member of the network: the pre-shared key is in
    /// none of what it has sent. The first packet that is authentic in a session with it shows that.
    ///
    /// # Errors
    /// Why it was refused. [`Counter::RxCookieSent`] is one: the sender has been told to come again.
    pub fn handle_handshake(
        &mut self,
        now: Now,
        source: Endpoint,
        datagram: &[u8],
    ) -> Result<Handled, Refusal> {
        self.stranger = None;
        match datagram.first() {
            Some(&wireguard::TYPE_INITIATION) => return self.initiation(now, source, datagram),
            Some(&wireguard::TYPE_RESPONSE) => self.response(now, source, datagram)?,
            Some(&wireguard::TYPE_COOKIE_REPLY) => self.cookie_reply(now, datagram)?,
            _ => return Err(Refusal(Counter::RxBadHandshake)),
        }
        Ok(Handled::Done)
    }

    /// Answers the stranger of [`Handled::Stranger`], whose key is a peer's by now.
    ///
    /// # Errors
    /// Why there is no session: [`Counter::RxUnknownPeer`] where the key is none's, or no stranger waits.
    pub fn answer_stranger(&mut self, now: Now) -> Result<(), Refusal> {
        let unknown = Refusal(Counter::RxUnknownPeer);
        let Stranger { source, received } = self.stranger.take().ok_or(unknown)?;
        let id = *self.by_key.get(&received.peer).ok_or(unknown)?;
        self.with(id, |peer, shared| peer.respond(now.at, source, received, shared))
            .unwrap_or_else(|| unreachable!("keys lead to peers"))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.stranger = None;
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now.at) {
            self.with(id, |peer, shared| peer.handle_timeout(now, shared));
            if self.due.contains(&(at, id)) {
                unreachable!("what was due has been done or put off");
            }
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    /// When to call [`Sessions::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A peer as an operator sees it.
    pub fn peer(&self, id: PeerId) -> Option<PeerView> {
        self.peers.get(&id).map(|entry| entry.peer.view())
    }

    fn initiation(&mut self, now: Now, source: Endpoint, datagram: &[u8]) -> Result<Handled, Refusal> {
        let message = Initiation::parse(datagram).ok_or(Refusal(Counter::RxBadHandshake))?;
        self.check_mac1(datagram)?;
        self.admit(now.at, source, datagram, message.sender, &message.mac1)?;
        let ephemeral = self.shared.draw();
        let received = self.shared.identity.receive(&message, ephemeral);
        let received = received.ok_or(Refusal(Counter::RxBadHandshake))?;
        let Some(id) = self.by_key.get(&received.peer).copied() else {
            let stranger = received.peer;
            self.stranger = Some(Stranger { source, received });
            return Ok(Handled::Stranger(stranger));
        };
        self.with(id, |peer, shared| peer.respond(now.at, source, received, shared))
            .unwrap_or_else(|| unreachable!("keys lead to peers"))?;
        Ok(Handled::Done)
    }

    fn response(&mut self, now: Now, source: Endpoint, datagram: &[u8]) -> Result<(), Refusal> {
        let message = Response::parse(datagram).ok_or(Refusal(Counter::RxBadHandshake))?;
        self.check_mac1(datagram)?;
        let owner = self.shared.indices.owner(message.receiver);
        let id = owner.ok_or(Refusal(Counter::RxReplayedHandshake))?;
        self.admit(now.at, source, datagram, message.sender, &message.mac1)?;
        self.with(id, |peer, shared| peer.finish(now, source, &message, shared))
            .unwrap_or_else(|| unreachable!("indices lead to peers"))
    }

    fn cookie_reply(&mut self, now: Now, datagram: &[u8]) -> Result<(), Refusal> {
        let message = CookieReply::parse(datagram).ok_or(Refusal(Counter::RxBadCookie))?;
        let id = self.shared.indices.owner(message.receiver).ok_or(Refusal(Counter::RxBadCookie))?;
        self.with(id, |peer, _| peer.take_cookie(now.at, &message))
            .unwrap_or_else(|| unreachable!("indices lead to peers"))
    }

    fn check_mac1(&self, datagram: &[u8]) -> Result<(), Refusal> {
        self.mac1.admits(datagram).then_some(()).ok_or(Refusal(Counter::RxBadMac1))
    }

    /// Under load, takes only messages of senders that have shown to receive at their address, and of
    /// each only so many; the others are told how to.
    fn admit(
        &mut self,
        now: Instant,
        source: Endpoint,
        datagram: &[u8],
        sender: u32,
        mac1: &[u8; wireguard::MAC_LEN],
    ) -> Result<(), Refusal> {
        if !self.load.count(now) {
            return Ok(());
        }
        if self.cookies.admit(now, source, datagram) {
            let admitted = self.sources.admit(now, source);
            return admitted.then_some(()).ok_or(Refusal(Counter::RxHandshakeFlood));
        }
        let reply = self.cookies.reply(now, source, sender, mac1, &mut self.shared.random);
        self.shared.outputs.extend(self.cookies.take_new().map(Output::Cookies));
        let datagram = reply.to_bytes().to_vec();
        self.shared.outputs.push_back(Output::Transmit { to: source, datagram });
        Err(Refusal(Counter::RxCookieSent))
    }

    /// Does something to a peer, and keeps its timers in order.
    fn with<T>(&mut self, id: PeerId, act: impl FnOnce(&mut Peer, &mut Shared) -> T) -> Option<T> {
        self.stranger = None;
        let entry = self.peers.get_mut(&id)?;
        let result = act(&mut entry.peer, &mut self.shared);
        let due = entry.peer.settle(&mut self.shared);
        if due != entry.due {
            if let Some(at) = entry.due {
                self.due.remove(&(at, id));
            }
            if let Some(at) = due {
                self.due.insert((at, id));
            }
            entry.due = due;
        }
        Some(result)
    }
}
