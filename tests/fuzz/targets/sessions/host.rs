//! A node of the target `sessions`: the core, and a data path that seals and opens with what it
//! installs, as the user path does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipop_common::Counter;
use ipop_common::aead::Key;
use ipop_common::maps::LinkRef;
use ipop_common::session::{Agreed, Session as Place};
use ipop_common::wireguard::{TRANSPORT_HEADER_LEN, TYPE_TRANSPORT, TransportHeader};
use ipop_overlay::session::{
    Adopted, Handled, Install, Now, Output, PeerConfig, SLOT_BITS, Sessions, Timers, Traffic,
};
use ipop_overlay::{Endpoint, Instant, PeerId, Refusal};
use ipop_tests::random::Random;
use ipop_user::userpath::UserSession;
use ipop_user::userpath::session::sealed_len;
use x25519_dalek::{PublicKey, StaticSecret};

/// What each host calls the other.
const PEER: PeerId = PeerId(0);
const PSK: [u8; 32] = [0x51; 32];
/// What one event may make the core say: sessions that come and go, a handshake message, a keepalive.
const OUTPUTS_MAX: usize = 12;
/// Sessions with one peer: the one sent on, the one before, the next.
const SESSIONS_MAX: usize = 3;
/// The inner MTU, which a packet is not padded beyond.
const MTU: u16 = 1420;

/// A session as a data path has it.
struct Installed {
    place: Box<Place>,
    keys: UserSession,
    send_key: [u8; 32],
    initiator: bool,
    created: Instant,
}

/// A datagram under way.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    /// Later ones have greater numbers.
    pub(super) number: u64,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// Where in a session a packet was: its key, and its counter.
pub(super) type Nonce = ([u8; 32], u64);
/// The packet that was in a datagram, if any; or why it was refused.
pub(super) type Arrived = Result<Option<(Nonce, Vec<u8>)>, Counter>;

pub(super) struct Host {
    own: usize,
    sessions: Sessions,
    pub(super) address: SocketAddr,
    /// What its wall clock says, less what the world's would.
    clock_off_s: i64,
    installed: BTreeMap<u32, Installed>,
    used: Option<u32>,
    /// What it has sealed with, in order.
    pub(super) nonces: Vec<Nonce>,
}

fn private(host: usize) -> StaticSecret {
    StaticSecret::from([host as u8 + 1; 32])
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 15_000))
}

fn core(own: usize, seed: u64, now: Instant) -> Sessions {
    let mut random = Random::new(seed);
    let random = Box::new(move |bytes: &mut [u8]| random.fill(bytes));
    let mut sessions = Sessions::new(private(own), Timers::WIREGUARD, random);
    let peer = PeerConfig {
        public_key: PublicKey::from(&private(1 - own)).to_bytes(),
        psk: PSK.into(),
        endpoint: Some(address(1 - own).into()),
        persistent_keepalive: None,
    };
    sessions.add_peer(now, PEER, peer).expect("a peer");
    sessions
}

impl Host {
    pub(super) fn new(own: usize, now: Instant) -> Self {
        Self {
            own,
            sessions: core(own, own as u64, now),
            address: address(own),
            clock_off_s: 0,
            installed: BTreeMap::new(),
            used: None,
            nonces: Vec::new(),
        }
    }

    /// Starts again, with `seed` for its randomness: with the sessions that it sends and receives on, or
    /// without any.
    pub(super) fn restart(&mut self, seed: u64, now: Instant, adopts: bool) {
        self.sessions = core(self.own, seed, now);
        let used = self.used.take();
        let mut others = std::mem::take(&mut self.installed);
        let Some((local_index, session)) = used.and_then(|used| others.remove_entry(&used)) else { return };
        if adopts {
            let adopted =
                Adopted { local_index, initiator: session.initiator, age: now.since(session.created) };
            self.sessions.adopt(now, PEER, &adopted).expect("it is young, and the first");
            self.installed.insert(local_index, session);
            self.used = used;
        }
    }

    pub(super) fn set_clock_off(&mut self, seconds: i64) {
        self.clock_off_s = seconds;
    }

    pub(super) fn set_under_load(&mut self, under_load: bool) {
        self.sessions.set_under_load(under_load);
    }

    pub(super) fn set_endpoint(&mut self, endpoint: SocketAddr) {
        self.sessions.set_endpoint(PEER, Some(endpoint.into()));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.sessions.poll_timeout()
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.installed.is_empty() && self.used.is_none()
    }

    fn time(&self, now: Instant) -> Now {
        let unix = 1_700_000_000u64.saturating_add_signed(self.clock_off_s);
        Now { at: now, unix: Duration::from_secs(unix) + now.since(Instant::default()) }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Datagram> {
        self.sessions.handle_timeout(self.time(now));
        assert!(self.sessions.poll_timeout().is_none_or(|due| due > now), "due again at once");
        self.drain(now)
    }

    /// Seals a packet, or asks for a session to do so.
    pub(super) fn send(&mut self, packet: &[u8], now: Instant) -> Vec<Datagram> {
        let sealed = self.seal(packet, now);
        if sealed.is_none() {
            self.sessions.want_session(self.time(now), PEER);
        }
        sealed.into_iter().chain(self.drain(now)).collect()
    }

    /// Says that so many packets have been sealed on the session in use.
    pub(super) fn count(&mut self, send_counter: u64, now: Instant) -> Vec<Datagram> {
        if let Some(used) = self.used {
            let seen = Traffic { send_counter, ..Traffic::default() };
            self.sessions.traffic(self.time(now), used, &seen);
        }
        self.drain(now)
    }

    /// Takes in a datagram; says what is answered.
    pub(super) fn arrive(&mut self, datagram: &Datagram, now: Instant) -> (Arrived, Vec<Datagram>) {
        let arrived = if datagram.bytes.first() == Some(&TYPE_TRANSPORT) {
            self.open(datagram, now)
        } else {
            self.sessions
                .handle_handshake(self.time(now), datagram.from.into(), &datagram.bytes)
                .map_err(|Refusal(counter)| counter)
                .map(|handled| {
                    assert_eq!(handled, Handled::Done, "there is one peer");
                    None
                })
        };
        (arrived, self.drain(now))
    }

    fn seal(&mut self, packet: &[u8], now: Instant) -> Option<Datagram> {
        let index = self.used?;
        let Installed { place, keys, send_key, .. } = &self.installed[&index];
        let mut bytes = vec![0; sealed_len(packet.len(), MTU)];
        bytes[TRANSPORT_HEADER_LEN..][..packet.len()].copy_from_slice(packet);
        keys.seal_control(place, &mut bytes, packet.len(), now.as_nanos()).expect("it may be used");
        let header = TransportHeader::parse(&bytes[..]).expect("a transport message");
        self.nonces.push((*send_key, header.counter));
        let seen = Traffic {
            sent: Some(now),
            sent_data: (!packet.is_empty()).then_some(now),
            send_counter: place.sent(),
            ..Traffic::default()
        };
        self.sessions.traffic(self.time(now), index, &seen);
        let to = self.sessions.peer(PEER)?.endpoint.expect("a peer that was reached");
        Some(self.datagram(to, bytes))
    }

    fn open(&mut self, datagram: &Datagram, now: Instant) -> Arrived {
        let header = TransportHeader::parse(&datagram.bytes[..]).ok_or(Counter::RxTruncated)?;
        let session = self.installed.get(&header.receiver).ok_or(Counter::RxUnknownIndex)?;
        let mut text = datagram.bytes[TRANSPORT_HEADER_LEN..].to_vec();
        session.keys.open(&session.place, header.counter, &mut text, now.as_nanos())?;
        text.truncate(text.len() - ipop_common::wireguard::TAG_LEN);
        let key = session.place.read(0).expect("a session").receive_key;
        let seen = Traffic {
            received: Some(now),
            received_data: (!text.is_empty()).then_some(now),
            ..Traffic::default()
        };
        let time = self.time(now);
        self.sessions.authenticated_from(time, header.receiver, datagram.from.into());
        self.sessions.traffic(time, header.receiver, &seen);
        let key = key.0.map(u32::to_le_bytes).as_flattened().try_into().expect("32 bytes");
        Ok(Some(((key, header.counter), text)))
    }

    /// What goes to the network, which numbers it.
    fn datagram(&self, to: Endpoint, bytes: Vec<u8>) -> Datagram {
        let to = to.udp().expect("there is no overlay");
        Datagram { number: 0, from: self.address, to, bytes }
    }

    /// Does what the core says, and checks each word of it.
    fn drain(&mut self, now: Instant) -> Vec<Datagram> {
        let (mut sent, mut outputs) = (Vec::new(), 0);
        while let Some(output) = self.sessions.poll_output() {
            outputs += 1;
            assert!(outputs <= OUTPUTS_MAX, "one event, {outputs} outputs");
            match output {
                Output::Transmit { to, datagram } => {
                    sent.push(self.datagram(to, datagram));
                }
                Output::Install(install) => self.install(&install),
                Output::Use { local_index, .. } => {
                    assert!(self.installed.contains_key(&local_index), "used before it is installed");
                    self.used = Some(local_index);
                }
                Output::Erase { local_index, .. } => {
                    assert!(self.installed.remove(&local_index).is_some(), "erased twice");
                    self.used.take_if(|used| *used == local_index);
                }
                Output::Keepalive { local_index, .. } => {
                    assert_eq!(self.used, Some(local_index), "a keepalive where nothing may be sent");
                    sent.extend(self.seal(&[], now));
                }
                Output::Roamed { .. } | Output::Failed { .. } | Output::Cookies(_) => {}
            }
        }
        self.is_sound(now);
        sent
    }

    fn install(&mut self, install: &Install) {
        let slot = |index: u32| index & ((1 << SLOT_BITS) - 1);
        let is_free = self.installed.keys().all(|taken| slot(*taken) != slot(install.local_index));
        assert!(is_free, "the slot is another session's");
        let (send_key, receive_key) = (install.send_key.as_bytes(), install.receive_key.as_bytes());
        assert_ne!(send_key, receive_key);
        let place = Box::new(Place::vacant());
        let agreed = Agreed {
            local: install.local_index,
            remote: install.remote_index,
            send_key: Key::from_bytes(send_key),
            receive_key: Key::from_bytes(receive_key),
            expires_ns: install.created.after(Timers::WIREGUARD.reject_after).as_nanos(),
            first_counter: 0,
            link: LinkRef::LOCAL,
        };
        place.install(&agreed, None);
        let keys = UserSession::new(install.local_index, send_key, receive_key);
        let (send_key, initiator, created) = (*send_key, install.initiator, install.created);
        self.installed.insert(install.local_index, Installed { place, keys, send_key, initiator, created });
    }

    /// What holds whenever all that the core said has been done.
    fn is_sound(&self, now: Instant) {
        let view = self.sessions.peer(PEER).expect("a peer");
        assert_eq!(view.current, self.used, "the data path sends on what the core counts on");
        assert!(self.installed.len() <= SESSIONS_MAX);
        if !self.installed.is_empty() || view.handshaking {
            assert!(self.sessions.poll_timeout().is_some(), "nobody comes back to it");
        }
        for session in self.installed.values() {
            let due = session.created.after(Timers::WIREGUARD.reject_after);
            assert!(due > now || self.sessions.poll_timeout().is_some_and(|due| due <= now), "kept too long");
        }
    }
}
