//! The peers: how each calls, takes cookies and answers, and completes the handshake.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant as Clock};

use anyhow::{Context, Result};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use ipop_common::wireguard::{TYPE_COOKIE_REPLY, TYPE_RESPONSE, TransportHeader};
use ipop_overlay::session::{Now, Output, PeerConfig, Random, Sessions, Timers, network_psk};
use ipop_overlay::{Instant, PeerId};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::wire::{Batch, Wire};
use crate::{CALLERS, address};

/// Every caller knows one peer.
const NODE: PeerId = PeerId(0);
/// By a caller's own clock from one call to the next: it leaps, so that the session before is over.
const LEAP: Duration = Duration::from_millis(25);
/// Sessions that are over by the next call, and no timer that goes off by itself.
const TIMERS: Timers = Timers {
    reject_after: Duration::from_millis(20),
    rekey_timeout: Duration::from_millis(10),
    jitter: Duration::ZERO,
    rekey_after: Duration::from_secs(3600),
    rekey_attempt: Duration::from_secs(3600),
    keepalive: Duration::from_secs(3600),
    ..Timers::WIREGUARD
};
/// Between two calls of one caller: a node under load takes 20 per second from one address.
const APART: Duration = Duration::from_millis(51);
/// A call that has had no answer for so long is lost.
const PATIENCE: Duration = Duration::from_millis(250);
/// Calls under way at a time: fewer than a node queues.
const UNDER_WAY_MAX: usize = 64;
/// Calls sent at a time: the node works on some while the next are made.
const CALLS_MAX: usize = 8;
const TICK: Duration = Duration::from_millis(1);

/// What became of the calls of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub called: u64,
    /// Answered by a response that was right; the handshake was completed by a keepalive.
    pub completed: u64,
    /// Answered by a cookie.
    pub cookies: u64,
    /// Not answered.
    pub lost: u64,
}

struct Caller {
    sessions: Sessions,
    now: Now,
    address: Ipv4Addr,
    /// When the call under way began.
    calling: Option<Clock>,
}

/// The key of the caller of this number, by which a node knows it.
pub fn public_key(number: usize) -> [u8; 32] {
    PublicKey::from(&private_key(number)).to_bytes()
}

/// No secret: whoever measures may know it.
fn private_key(number: usize) -> StaticSecret {
    let mut bytes = [0x5a; 32];
    // Not into the first bits, which X25519 ignores.
    bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    StaticSecret::from(bytes)
}

/// All peers of one node.
pub struct Callers {
    node: SocketAddrV4,
    callers: Vec<Caller>,
    wire: Wire,
    /// Who may call when; the first is the next.
    idle: VecDeque<(Clock, usize)>,
    /// Calls in the order in which they began.
    under_way: VecDeque<(Clock, usize)>,
}

impl std::fmt::Debug for Callers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callers").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Callers {
    /// `count` callers of the node at `node` that has `key`, in the network of `secret`.
    ///
    /// # Errors
    /// If the key cannot be called, or there is no socket.
    pub fn new(node: SocketAddrV4, key: [u8; 32], secret: &str, count: usize) -> Result<Self> {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let now = Now { at: Instant::from_nanos(1), unix };
        let callers: Result<Vec<Caller>> = (0..count)
            .map(|number| {
                let mut sessions = Sessions::new(private_key(number), TIMERS, random(number, unix));
                let config = PeerConfig {
                    public_key: key,
                    psk: network_psk(secret.as_bytes()),
                    endpoint: Some(SocketAddr::V4(node).into()),
                    persistent_keepalive: None,
                };
                sessions
                    .add_peer(now.at, NODE, config)
                    .map_err(|error| anyhow::anyhow!("the node cannot be called: {error}"))?;
                Ok(Caller { sessions, now, address: address(CALLERS, number), calling: None })
            })
            .collect();
        let (callers, start) = (callers?, Clock::now());
        let idle = (0..count).map(|number| (start, number)).collect();
        Ok(Self { node, callers, wire: Wire::open()?, idle, under_way: VecDeque::new() })
    }

    /// Calls, by all callers in turn, for so long.
    ///
    /// # Errors
    /// What the socket says.
    pub fn call(&mut self, window: Duration) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let end = Clock::now() + window;
        loop {
            let now = Clock::now();
            if now >= end {
                return Ok(outcome);
            }
            self.give_up(now, &mut outcome);
            let mut datagrams = self.begin(now, &mut outcome)?;
            self.take(now, &mut datagrams, &mut outcome)?;
            if datagrams.is_empty() {
                self.wire.wait(TICK);
            }
            let mut batch = Batch::new(self.node, datagrams);
            let mut start = 0;
            while start < batch.len() {
                start += batch.send(&self.wire, start, batch.len())?;
            }
        }
    }

    /// One call of one caller, not sent: what somebody on the way records.
    ///
    /// # Errors
    /// If there is no such caller.
    pub fn record(&mut self, number: usize) -> Result<(Ipv4Addr, Vec<u8>)> {
        let caller = self.callers.get_mut(number).context("no such caller")?;
        Ok((caller.address, caller.call()?))
    }

    fn begin(&mut self, now: Clock, outcome: &mut Outcome) -> Result<Vec<(Ipv4Addr, Vec<u8>)>> {
        let mut datagrams = Vec::new();
        while self.under_way.len() < UNDER_WAY_MAX
            && datagrams.len() < CALLS_MAX
            && let Some((_, number)) = self.idle.pop_front_if(|(at, _)| *at <= now)
        {
            let caller = &mut self.callers[number];
            datagrams.push((caller.address, caller.call()?));
            caller.calling = Some(now);
            self.under_way.push_back((now, number));
            outcome.called += 1;
        }
        Ok(datagrams)
    }

    fn take(
        &mut self,
        now: Clock,
        datagrams: &mut Vec<(Ipv4Addr, Vec<u8>)>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let Self { wire, callers, idle, node, .. } = self;
        wire.receive(|to, datagram| {
            let number = (to.to_bits() & 0xffff) as usize;
            let Some(caller) = callers.get_mut(number).filter(|caller| caller.address == to) else { return };
            let before = datagrams.len();
            let is_cookie = datagram.first() == Some(&TYPE_COOKIE_REPLY);
            if !caller.take(*node, datagram, datagrams) {
                return;
            }
            outcome.cookies += u64::from(is_cookie);
            outcome.completed += (datagrams.len() - before) as u64;
            if let Some(began) = caller.calling.take() {
                idle.push_back(((began + APART).max(now), number));
            }
        })?;
        let callers = &self.callers;
        self.under_way.retain(|(began, number)| callers[*number].calling == Some(*began));
        Ok(())
    }

    /// Calls that nobody has answered.
    fn give_up(&mut self, now: Clock, outcome: &mut Outcome) {
        while let Some((_, number)) = self.under_way.pop_front_if(|(began, _)| *began + PATIENCE <= now) {
            self.callers[number].calling = None;
            self.idle.push_back((now, number));
            outcome.lost += 1;
        }
    }
}

impl Caller {
    /// The next initiation.
    fn call(&mut self) -> Result<Vec<u8>> {
        self.now.at = self.now.at.after(LEAP);
        self.now.unix += LEAP;
        self.sessions.handle_timeout(self.now);
        self.sessions.want_session(self.now, NODE);
        let mut initiation = None;
        while let Some(output) = self.sessions.poll_output() {
            if let Output::Transmit { datagram, .. } = output {
                initiation = Some(datagram);
            }
        }
        initiation.context("a caller does not call")
    }

    /// Takes in an answer and adds what follows from it. Says whether it was one to the last call.
    fn take(&mut self, node: SocketAddrV4, datagram: &[u8], out: &mut Vec<(Ipv4Addr, Vec<u8>)>) -> bool {
        if !matches!(datagram.first(), Some(&(TYPE_RESPONSE | TYPE_COOKIE_REPLY)))
            || self.sessions.handle_handshake(self.now, SocketAddr::V4(node).into(), datagram).is_err()
        {
            return false;
        }
        while let Some(output) = self.sessions.poll_output() {
            if let Output::Install(install) = output {
                let keepalive = keepalive(install.remote_index, install.send_key.as_bytes());
                out.push((self.address, keepalive));
            }
        }
        true
    }
}

/// The first message of a session, which is empty.
fn keepalive(receiver: u32, key: &[u8; 32]) -> Vec<u8> {
    let mut message = TransportHeader { receiver, counter: 0 }.to_bytes().to_vec();
    let cipher = ChaCha20Poly1305::new(key.into());
    let Ok(tag) = cipher.encrypt_in_place_detached(&Nonce::default(), &[], &mut []) else {
        unreachable!("nothing is within what the cipher takes")
    };
    message.extend_from_slice(&tag);
    message
}

/// Marsaglia's xorshift64, another for each caller and run: a stand-in for randomness.
fn random(number: usize, unix: Duration) -> Random {
    let mut state = ((number as u64 + 1) << 40 ^ unix.as_nanos() as u64) | 1;
    Box::new(move |out| {
        for byte in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
    })
}
