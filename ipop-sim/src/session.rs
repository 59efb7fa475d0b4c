//! Sessions between hosts, as the sealed-link core makes them: the same messages in the same order and
//! of the same size, without the arithmetic, which at ten thousand nodes would take the hours.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ipop_overlay::{Instant, NodeAddress};

/// Headers of IPv4 and UDP.
const OUTER: usize = 28;
/// Header and tag of a transport message.
const TRANSPORT: usize = 32;
/// WireGuard's.
const RETRY: Duration = Duration::from_secs(5);
const REKEY: Duration = Duration::from_secs(120);
/// Initiations go to so many places at once.
const PARALLEL: usize = 6;

/// What one host sends another.
#[derive(Clone, Debug)]
pub enum Packet {
    Initiation {
        key: [u8; 32],
    },
    Response {
        key: [u8; 32],
    },
    /// A transport message.
    Data {
        key: [u8; 32],
        text: Rc<[u8]>,
    },
}

impl Packet {
    /// Its length on the wire.
    pub fn len(&self) -> usize {
        OUTER
            + match self {
                Self::Initiation { .. } => 148,
                Self::Response { .. } => 92,
                Self::Data { text, .. } => TRANSPORT + text.len().next_multiple_of(16),
            }
    }

    pub fn is_empty(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Session {
    key: [u8; 32],
    /// Where initiations go; the peer itself once it has answered.
    places: Vec<SocketAddr>,
    /// When the next initiation is due, while the session is wanted and not there.
    retry_at: Option<Instant>,
    /// Since when packets can be sent.
    up: Option<Instant>,
    initiator: bool,
    /// The other's initiation has been answered, and nothing has come since.
    is_half: bool,
}

impl Session {
    fn new(key: [u8; 32]) -> Self {
        Self { key, places: Vec::new(), retry_at: None, up: None, initiator: false, is_half: false }
    }
}

/// What the sessions want done.
#[derive(Debug)]
pub enum Deed {
    Send(SocketAddr, Packet),
    /// There is a session with this node.
    Up([u8; 32], SocketAddr),
    Text(NodeAddress, Rc<[u8]>),
}

/// All sessions of one host.
#[derive(Debug, Default)]
pub struct Sessions {
    own: [u8; 32],
    all: BTreeMap<NodeAddress, Session>,
}

impl Sessions {
    pub fn new(own: [u8; 32]) -> Self {
        Self { own, all: BTreeMap::new() }
    }

    pub fn link(&mut self, key: [u8; 32], places: Vec<SocketAddr>, now: Instant, deeds: &mut Vec<Deed>) {
        let session = self.all.entry(NodeAddress::of_key(&key)).or_insert_with(|| Session::new(key));
        if session.up.is_some() {
            deeds.push(Deed::Up(key, session.places.first().copied().unwrap_or_else(unknown)));
            return;
        }
        if !places.is_empty() {
            session.places = places;
        }
        session.retry_at = Some(now);
        self.timeout(now, deeds);
    }

    pub fn unlink(&mut self, address: NodeAddress) {
        self.all.remove(&address);
    }

    pub fn send(&mut self, to: NodeAddress, text: Vec<u8>, now: Instant, deeds: &mut Vec<Deed>) {
        let own = self.own;
        let Some(session) = self.all.get_mut(&to) else { return };
        let (Some(since), Some(place)) = (session.up, session.places.first().copied()) else { return };
        if session.initiator && now.since(since) >= REKEY {
            // Answered while the session before is in use.
            session.up = Some(now);
            deeds.push(Deed::Send(place, Packet::Initiation { key: own }));
        }
        deeds.push(Deed::Send(place, Packet::Data { key: own, text: text.into() }));
    }

    pub fn receive(&mut self, from: SocketAddr, packet: Packet, now: Instant, deeds: &mut Vec<Deed>) {
        let own = self.own;
        match packet {
            Packet::Initiation { key } => {
                let session = self.all.entry(NodeAddress::of_key(&key)).or_insert_with(|| Session::new(key));
                session.is_half |= session.up.is_none();
                session.places = vec![from];
                session.initiator &= session.up.is_some();
                deeds.push(Deed::Send(from, Packet::Response { key: own }));
            }
            Packet::Response { key } => {
                let Some(session) = self.all.get_mut(&NodeAddress::of_key(&key)) else { return };
                let is_new = session.up.is_none();
                session.places = vec![from];
                session.up = Some(now);
                session.initiator = true;
                session.retry_at = None;
                deeds.push(Deed::Send(from, Packet::Data { key: own, text: Rc::from([]) }));
                if is_new {
                    deeds.push(Deed::Up(key, from));
                }
            }
            Packet::Data { key, text } => {
                let address = NodeAddress::of_key(&key);
                let Some(session) = self.all.get_mut(&address) else { return };
                if session.up.is_none() {
                    if !session.is_half {
                        return;
                    }
                    session.up = Some(now);
                    session.retry_at = None;
                    deeds.push(Deed::Up(session.key, from));
                }
                session.is_half = false;
                session.places = vec![from];
                if !text.is_empty() {
                    deeds.push(Deed::Text(address, text));
                }
            }
        }
    }

    pub fn due(&self) -> Option<Instant> {
        self.all.values().filter_map(|session| session.retry_at).min()
    }

    pub fn timeout(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        for session in self.all.values_mut() {
            if session.retry_at.is_some_and(|at| at <= now) {
                session.retry_at = Some(now.after(RETRY));
                for place in session.places.iter().take(PARALLEL) {
                    deeds.push(Deed::Send(*place, Packet::Initiation { key: self.own }));
                }
                let tried = PARALLEL.min(session.places.len());
                session.places.rotate_left(tried);
            }
        }
    }
}

fn unknown() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}
