//! With boringtun, another implementation, in memory: what it accepts, every WireGuard accepts.

use super::*;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// An IPv4 packet of 28 bytes, as boringtun wants to see in a tunnel.
const PACKET: [u8; 28] =
    [0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 9, 0, 9, 0, 8, 0, 0];

struct Pair {
    ours: Host,
    theirs: Tunn,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self::limited(None)
    }

    fn limited(limiter: Option<Arc<RateLimiter>>) -> Self {
        let now = Instant::from_nanos(5);
        let (private, peer) = (private(1), PublicKey::from(public(0)));
        let theirs = Tunn::new(private, peer, Some(PSK), None, 7, limiter);
        Self { ours: Host::new(0, Timers::WIREGUARD, 1, now), theirs, now }
    }

    fn time(&self) -> Now {
        Now { at: self.now, unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap() }
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        let now = self.time();
        self.ours.drain(now).into_iter().map(|(_, datagram)| datagram).collect()
    }

    fn want(&mut self) -> Vec<u8> {
        let now = self.time();
        self.ours.sessions.want_session(now, PEER);
        self.take().remove(0)
    }

    /// Gives them a datagram; returns what they send, or what they deliver.
    fn give(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        let mut buffer = [0; 2048];
        match self.theirs.decapsulate(address(0).udp().map(|address| address.ip()), datagram, &mut buffer) {
            TunnResult::WriteToNetwork(sent) => Ok(sent.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => Err(packet.to_vec()),
            TunnResult::Done => Err(Vec::new()),
            other => panic!("boringtun says {other:?}"),
        }
    }

    fn take_in(&mut self, datagram: &[u8]) -> Result<(), Counter> {
        let now = self.time();
        self.ours.handle(now, address(1), datagram)
    }

    fn their_packet(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        match self.theirs.encapsulate(&PACKET, &mut buffer) {
            TunnResult::WriteToNetwork(sent) => sent.to_vec(),
            other => panic!("boringtun says {other:?}"),
        }
    }

    /// Packets in both directions.
    fn assert_works(&mut self) {
        let now = self.time();
        let sealed = self.ours.seal(now, &PACKET).expect("a session to send on");
        assert_eq!(self.give(&sealed), Err(PACKET.to_vec()));
        let sealed = self.their_packet();
        assert!(self.ours.open(now, address(1), &sealed));
        assert_eq!(self.ours.opened.last().unwrap()[..PACKET.len()], PACKET);
    }
}

#[test]
fn we_initiate() {
    let mut pair = Pair::new();
    let initiation = pair.want();
    let response = pair.give(&initiation).expect("a response");
    assert_eq!(pair.take_in(&response), Ok(()));
    let keepalive = pair.take().remove(0);
    assert_eq!(pair.give(&keepalive), Err(Vec::new()));
    pair.assert_works();
}

#[test]
fn they_initiate() {
    let mut pair = Pair::new();
    let initiation = pair.their_packet();
    assert_eq!(pair.take_in(&initiation), Ok(()));
    assert_eq!(pair.take_in(&initiation), Err(Counter::RxReplayedHandshake));
    let response = pair.take().remove(0);
    // Their answer to a response is the packet that waited, or a keepalive.
    let sealed = pair.give(&response).expect("a packet");
    let now = pair.time();
    assert!(pair.ours.open(now, address(1), &sealed));
    pair.take();
    pair.assert_works();
}

#[test]
fn they_take_our_cookie() {
    let mut pair = Pair::new();
    pair.ours.sessions.set_under_load(true);
    let initiation = pair.their_packet();
    assert_eq!(pair.take_in(&initiation), Err(Counter::RxCookieSent));
    let cookie = pair.take().remove(0);
    assert_eq!(cookie.len(), wireguard::COOKIE_REPLY_LEN);
    assert_eq!(pair.give(&cookie), Err(Vec::new()));
    let mut buffer = [0; 2048];
    let again = match pair.theirs.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(sent) => sent.to_vec(),
        other => panic!("boringtun says {other:?}"),
    };
    assert_eq!(pair.take_in(&again), Ok(()));
    let response = pair.take().remove(0);
    let sealed = pair.give(&response).expect("a packet");
    let now = pair.time();
    assert!(pair.ours.open(now, address(1), &sealed));
    pair.take();
    pair.assert_works();
}

#[test]
fn we_take_their_cookie() {
    // A limit of nothing: they are under load from the first message.
    let limiter = Arc::new(RateLimiter::new(&PublicKey::from(public(1)), 0));
    let mut pair = Pair::limited(Some(limiter));
    let initiation = pair.want();
    let cookie = pair.give(&initiation).expect("a cookie reply");
    assert_eq!(cookie[0], wireguard::TYPE_COOKIE_REPLY);
    assert_eq!(pair.take_in(&cookie), Ok(()));
    assert_eq!(pair.take_in(&cookie), Err(Counter::RxBadCookie));
    pair.now = pair.now.after(6 * SECOND);
    let now = pair.time();
    pair.ours.sessions.handle_timeout(now);
    let again = pair.take().remove(0);
    assert_eq!(again[0], wireguard::TYPE_INITIATION);
    let response = pair.give(&again).expect("a response");
    assert_eq!(pair.take_in(&response), Ok(()));
    let keepalive = pair.take().remove(0);
    assert_eq!(pair.give(&keepalive), Err(Vec::new()));
    pair.assert_works();
}

#[test]
fn both_initiate() {
    let mut pair = Pair::new();
    let (ours, theirs) = (pair.want(), pair.their_packet());
    let their_response = pair.give(&ours).expect("a response");
    assert_eq!(pair.take_in(&theirs), Ok(()));
    let our_response = pair.take().remove(0);
    assert_eq!(pair.take_in(&their_response), Ok(()));
    let sealed = pair.give(&our_response).expect("a packet");
    let now = pair.time();
    pair.ours.open(now, address(1), &sealed);
    for keepalive in pair.take() {
        assert_eq!(pair.give(&keepalive), Err(Vec::new()));
    }
    pair.assert_works();
}
