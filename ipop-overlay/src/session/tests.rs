//! Two nodes with data paths that seal and open for real, and a wire that the test controls.

mod candidates;
mod handshakes;
mod hostile;
mod interop;
mod schedules;
mod strangers;
mod timing;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use ipop_common::Counter;
use ipop_common::wireguard::{self, TransportHeader};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::*;
use crate::address::NodeAddress;

const SECOND: Duration = Duration::from_secs(1);
const PEER: PeerId = PeerId(3);
const PSK: [u8; 32] = [0x51; 32];

/// A session as a data path has it.
struct Installed {
    remote_index: u32,
    send: ChaCha20Poly1305,
    receive: ChaCha20Poly1305,
    counter: u64,
    created: Instant,
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce.into()
}

impl Installed {
    fn new(install: &Install) -> Self {
        Self {
            remote_index: install.remote_index,
            send: ChaCha20Poly1305::new(install.send_key.as_bytes().into()),
            receive: ChaCha20Poly1305::new(install.receive_key.as_bytes().into()),
            counter: 0,
            created: install.created,
        }
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let header = TransportHeader { receiver: self.remote_index, counter: self.counter };
        let mut sealed = packet.to_vec();
        let tag = self.send.encrypt_in_place_detached(&nonce(self.counter), &[], &mut sealed).unwrap();
        self.counter += 1;
        [&header.to_bytes()[..], &sealed, &tag].concat()
    }

    fn open(&self, counter: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        let (text, tag) = sealed.split_at_checked(sealed.len().checked_sub(16)?)?;
        let mut packet = text.to_vec();
        let tag = Tag::from_slice(tag);
        self.receive.decrypt_in_place_detached(&nonce(counter), &[], &mut packet, tag).ok()?;
        Some(packet)
    }
}

/// A node and its data path.
struct Host {
    sessions: Sessions,
    address: Endpoint,
    installed: BTreeMap<u32, Installed>,
    used: Option<u32>,
    /// Packets opened, keepalives as empty ones.
    opened: Vec<Vec<u8>>,
    roamed: Vec<Endpoint>,
    failed: Vec<FailReason>,
    refused: Vec<Counter>,
    /// Sessions installed so far, and those that this node initiated.
    made: (usize, usize),
    /// What its clock is ahead of the world's.
    clock_ahead: Duration,
}

/// Where from, where to, what.
type Sent = (Endpoint, Endpoint, Vec<u8>);

struct World {
    now: Instant,
    unix: Duration,
    hosts: [Host; 2],
    wire: VecDeque<Sent>,
    cut: bool,
}

fn private(host: usize) -> StaticSecret {
    StaticSecret::from([host as u8 + 1; 32])
}

fn public(host: usize) -> [u8; 32] {
    PublicKey::from(&private(host)).to_bytes()
}

fn address(host: usize) -> Endpoint {
    udp([10, 0, 0, host as u8 + 1], 15000)
}

fn udp(address: [u8; 4], port: u16) -> Endpoint {
    SocketAddr::from((address, port)).into()
}

/// Where a host is on the overlay.
fn overlay(host: usize) -> Endpoint {
    NodeAddress::of_key(&public(host)).into()
}

/// Marsaglia's xorshift64: repeatable, which is all that a test wants of it.
fn random(seed: u64) -> Random {
    let mut state = seed | 1;
    Box::new(move |out| {
        for byte in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
    })
}

fn config(host: usize) -> PeerConfig {
    PeerConfig {
        public_key: public(host),
        psk: Zeroizing::new(PSK),
        endpoint: Some(address(host)),
        persistent_keepalive: None,
    }
}

impl Host {
    fn new(own: usize, timers: Timers, seed: u64, now: Instant) -> Self {
        let mut sessions = Sessions::new(private(own), timers, random(seed));
        sessions.add_peer(now, PEER, config(1 - own)).unwrap();
        Self {
            sessions,
            address: address(own),
            installed: BTreeMap::new(),
            used: None,
            opened: Vec::new(),
            roamed: Vec::new(),
            failed: Vec::new(),
            refused: Vec::new(),
            made: (0, 0),
            clock_ahead: Duration::ZERO,
        }
    }

    /// Does what the core says; returns what goes to the wire.
    fn drain(&mut self, now: Now) -> Vec<(Endpoint, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(output) = self.sessions.poll_output() {
            match output {
                Output::Transmit { to, datagram } => sent.push((to, datagram)),
                Output::Install(install) => {
                    assert_eq!(install.peer, PEER);
                    self.made.0 += 1;
                    self.made.1 += usize::from(install.initiator);
                    let slot = |index: u32| index & ((1 << SLOT_BITS) - 1);
                    let mut taken = self.installed.keys().map(|index| slot(*index));
                    assert!(taken.all(|taken| taken != slot(install.local_index)), "the slot is free");
                    self.installed.insert(install.local_index, Installed::new(&install));
                    assert!(self.installed.len() <= 6, "five, and one that is about to be erased");
                }
                Output::Use { peer, local_index } => {
                    assert_eq!(peer, PEER);
                    assert!(self.installed.contains_key(&local_index), "used before it was installed");
                    self.used = Some(local_index);
                }
                Output::Erase { peer, local_index } => {
                    assert_eq!(peer, PEER);
                    assert!(self.installed.remove(&local_index).is_some(), "erased twice");
                    self.used = self.used.filter(|used| *used != local_index);
                }
                Output::Keepalive { peer, local_index } => {
                    assert_eq!(peer, PEER);
                    assert_eq!(self.used, Some(local_index), "a keepalive where nothing may be sent");
                    let sealed = self.seal(now, &[]).unwrap();
                    sent.push((self.sessions.peer(PEER).unwrap().endpoint.unwrap(), sealed));
                }
                Output::Roamed { to, .. } => self.roamed.push(to),
                Output::Failed { reason, .. } => self.failed.push(reason),
                Output::Cookies(_) => {}
            }
        }
        sent
    }

    /// Takes in a handshake message, as a node does that has the peers it has.
    fn handle(&mut self, now: Now, from: Endpoint, datagram: &[u8]) -> Result<(), Counter> {
        match self.sessions.handle_handshake(now, from, datagram) {
            Ok(Handled::Done) => Ok(()),
            Ok(Handled::Stranger(_)) => Err(Counter::RxUnknownPeer),
            Err(Refusal(counter)) => Err(counter),
        }
    }

    fn seal(&mut self, now: Now, packet: &[u8]) -> Option<Vec<u8>> {
        let index = self.used?;
        let session = self.installed.get_mut(&index).unwrap();
        let sealed = session.seal(packet);
        let data = (!packet.is_empty()).then_some(now.at);
        let seen = Traffic {
            sent: Some(now.at),
            sent_data: data,
            send_counter: session.counter,
            ..Traffic::default()
        };
        self.sessions.traffic(now, index, &seen);
        Some(sealed)
    }

    /// Opens a transport packet and tells the core.
    fn open(&mut self, now: Now, source: Endpoint, datagram: &[u8]) -> bool {
        let Some(header) = TransportHeader::parse(datagram) else { return false };
        let Some(session) = self.installed.get(&header.receiver) else { return false };
        assert!(now.at.since(session.created) < Timers::WIREGUARD.reject_after, "should be erased");
        let Some(packet) = session.open(header.counter, &datagram[16..]) else { return false };
        self.sessions.authenticated_from(now, header.receiver, source);
        let seen = Traffic {
            received: Some(now.at),
            received_data: (!packet.is_empty()).then_some(now.at),
            ..Traffic::default()
        };
        self.sessions.traffic(now, header.receiver, &seen);
        self.opened.push(packet);
        true
    }
}

impl World {
    fn new() -> Self {
        Self::seeded(1)
    }

    fn seeded(seed: u64) -> Self {
        let now = Instant::from_nanos(5);
        let host = |own: usize| Host::new(own, Timers::WIREGUARD, seed * 2 + own as u64 * 77, now);
        Self {
            now,
            unix: Duration::from_secs(1_700_000_000),
            hosts: [host(0), host(1)],
            wire: VecDeque::new(),
            cut: false,
        }
    }

    fn time(&self, host: usize) -> Now {
        Now { at: self.now, unix: self.unix + self.hosts[host].clock_ahead }
    }

    fn drain(&mut self) {
        for host in 0..2 {
            let now = self.time(host);
            let from = self.hosts[host].address;
            let sent = self.hosts[host].drain(now);
            self.wire.extend(sent.into_iter().map(|(to, datagram)| (from, to, datagram)));
        }
    }

    /// Gives one datagram to whom it is for.
    fn arrive(&mut self, from: Endpoint, to: Endpoint, datagram: &[u8]) {
        let Some(host) = (0..2).find(|host| self.hosts[*host].address == to) else { return };
        let now = self.time(host);
        let host = &mut self.hosts[host];
        if datagram.first() == Some(&wireguard::TYPE_TRANSPORT) {
            host.open(now, from, datagram);
        } else if let Err(counter) = host.handle(now, from, datagram) {
            host.refused.push(counter);
        }
        self.drain();
    }

    /// Delivers everything on the wire, answers included.
    fn deliver(&mut self) {
        self.deliver_captured();
    }

    /// As [`World::deliver`]; returns what went over the wire.
    fn deliver_captured(&mut self) -> Vec<Sent> {
        let mut captured = Vec::new();
        while let Some(sent) = self.wire.pop_front() {
            assert!(captured.len() < 1000, "the nodes answer each other for ever");
            self.advance(Duration::from_millis(1));
            if !self.cut {
                let (from, to, datagram) = &sent;
                self.arrive(*from, *to, datagram);
            }
            captured.push(sent);
        }
        captured
    }

    /// The next datagram on the wire.
    fn intercept(&mut self) -> Vec<u8> {
        self.wire.pop_front().expect("a datagram on the wire").2
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.unix += time;
    }

    /// Lets time pass, with what falls due in it; what is sent is delivered.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        self.deliver();
        while self.now < end {
            let due = self.hosts.iter().filter_map(|host| host.sessions.poll_timeout()).min();
            let step = due.unwrap_or(end).clamp(self.now, end);
            self.advance(step.since(self.now));
            for host in 0..2 {
                let now = self.time(host);
                self.hosts[host].sessions.handle_timeout(now);
            }
            self.drain();
            self.deliver();
        }
    }

    fn want(&mut self, host: usize) {
        let now = self.time(host);
        self.hosts[host].sessions.want_session(now, PEER);
        self.drain();
    }

    /// Seals a packet, or asks for a session to do so.
    fn send(&mut self, host: usize, packet: &[u8]) {
        let now = self.time(host);
        match self.hosts[host].seal(now, packet) {
            Some(sealed) => {
                let to = self.hosts[host].sessions.peer(PEER).unwrap().endpoint.unwrap();
                self.wire.push_back((self.hosts[host].address, to, sealed));
            }
            None => self.hosts[host].sessions.want_session(now, PEER),
        }
        self.drain();
    }

    /// Both nodes have a session, by a handshake of the first.
    fn connected() -> Self {
        let mut world = Self::new();
        world.want(0);
        world.deliver();
        world.assert_works();
        world
    }

    /// A packet of each arrives at the other.
    fn works(&mut self) -> bool {
        for host in 0..2 {
            self.hosts[1 - host].opened.clear();
            self.send(host, b"are you there?");
            self.deliver();
            if !self.hosts[1 - host].opened.iter().any(|packet| packet == b"are you there?") {
                return false;
            }
        }
        true
    }

    fn assert_works(&mut self) {
        assert!(self.works(), "a packet was lost; used: {:?}", self.used());
    }

    fn used(&self) -> [Option<u32>; 2] {
        [self.hosts[0].used, self.hosts[1].used]
    }

    fn made(&self) -> [(usize, usize); 2] {
        [self.hosts[0].made, self.hosts[1].made]
    }
}
