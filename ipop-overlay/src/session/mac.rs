//! mac1, mac2 and cookies: what a handshake message carries besides the handshake, so that nobody
//! makes this node work who has not shown what is cheap to check (the WireGuard paper, section 5.4.4).

use core::net::IpAddr;
use core::time::Duration;

use blake2::digest::{FixedOutput, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest, digest::consts::U16};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use ipop_common::wireguard::{self, COOKIE_NONCE_LEN, CookieReply, Initiation, KEY_LEN, MAC_LEN, Response};
use zeroize::Zeroizing;

use crate::endpoint::Endpoint;
use crate::time::Instant;

const LABEL_MAC1: &[u8; 8] = b"mac1----";
const LABEL_COOKIE: &[u8; 8] = b"cookie--";
/// How long the secret behind this node's cookies lasts, and a cookie of another node.
const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// A cookie this close to its end may have ended when the message with it arrives.
const COOKIE_LATENCY: Duration = Duration::from_secs(5);

type KeyedHash = Blake2sMac<U16>;

fn keyed(key: &[u8]) -> KeyedHash {
    let Ok(hash) = KeyedHash::new_with_salt_and_personal(key, &[], &[]) else {
        unreachable!("BLAKE2s takes keys of up to 32 bytes")
    };
    hash
}

fn labelled(label: &[u8; 8], public: &[u8; KEY_LEN]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, label);
    Digest::update(&mut hash, public);
    hash.finalize().into()
}

/// Where mac1 and mac2 begin in an initiation or a response; `None` for everything else.
fn macs_of(datagram: &[u8]) -> Option<(usize, usize)> {
    match (*datagram.first()?, datagram.len()) {
        (wireguard::TYPE_INITIATION, wireguard::INITIATION_LEN) => {
            Some((Initiation::MAC1_OFFSET, Initiation::MAC2_OFFSET))
        }
        (wireguard::TYPE_RESPONSE, wireguard::RESPONSE_LEN) => {
            Some((Response::MAC1_OFFSET, Response::MAC2_OFFSET))
        }
        _ => None,
    }
}

/// Makes and checks mac1 of the messages to one node.
///
/// It is public knowledge who knows the node's public key: mac1 keeps out those who scan, not
/// those who attack.
#[derive(Clone)]
pub struct Mac1Key {
    key: [u8; 32],
    /// Of `key` and nothing yet.
    start: KeyedHash,
}

impl core::fmt::Debug for Mac1Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Mac1Key(..)")
    }
}

impl Mac1Key {
    /// For messages to the holder of `public`.
    pub fn new(public: &[u8; 32]) -> Self {
        let key = labelled(LABEL_MAC1, public);
        Self { key, start: keyed(&key) }
    }

    /// The key of the hash, which is no secret, for whoever computes it elsewhere.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Whether a datagram is as long as an initiation or a response and has the right mac1.
    pub fn admits(&self, datagram: &[u8]) -> bool {
        let Some((mac1, mac2)) = macs_of(datagram) else { return false };
        match (datagram.get(..mac1), datagram.get(mac1..mac2)) {
            (Some(covered), Some(mac)) => self.over(covered).verify_slice(mac).is_ok(),
            _ => false,
        }
    }

    /// Writes mac1 into an initiation or a response, and returns it; `None` for everything else.
    pub fn fill_in(&self, datagram: &mut [u8]) -> Option<[u8; MAC_LEN]> {
        let (mac1, _) = macs_of(datagram)?;
        let (covered, macs) = datagram.split_at_mut_checked(mac1)?;
        let mac: [u8; MAC_LEN] = self.over(covered).finalize_fixed().into();
        macs.get_mut(..MAC_LEN)?.copy_from_slice(&mac);
        Some(mac)
    }

    fn over(&self, covered: &[u8]) -> KeyedHash {
        let mut mac = self.start.clone();
        Update::update(&mut mac, covered);
        mac
    }
}

/// The key that seals the cookies which the holder of `public` gives.
fn cookie_cipher(public: &[u8; KEY_LEN]) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&labelled(LABEL_COOKIE, public).into())
}

/// What the cookies follow from that a node gives for some time. A data thread has a copy, and tells by it
/// whose messages to hand on first.
#[derive(Clone)]
pub struct CookieKey {
    secret: Zeroizing<[u8; 32]>,
    since: Instant,
}

impl core::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

impl CookieKey {
    fn is_in_use(&self, now: Instant) -> bool {
        now.since(self.since) < COOKIE_LIFETIME
    }

    /// Whether a message from `source` has the mac2 that follows from a cookie given to `source`.
    pub fn admits(&self, now: Instant, source: Endpoint, datagram: &[u8]) -> bool {
        let Some((_, mac2)) = macs_of(datagram).filter(|_| self.is_in_use(now)) else { return false };
        let (covered, mac) = datagram.split_at(mac2);
        // Most senders have no cookie, and do not claim to have one.
        if mac == [0; MAC_LEN] {
            return false;
        }
        let mut expected = keyed(&cookie(&self.secret, source));
        Update::update(&mut expected, covered);
        expected.verify_slice(mac).is_ok()
    }
}

/// The cookies that this node gives when it is under load.
pub(super) struct Cookies {
    cipher: XChaCha20Poly1305,
    key: Option<CookieKey>,
    /// The key is another than before, and nobody has been told.
    is_new: bool,
}

impl Cookies {
    pub(super) fn new(public: &[u8; 32]) -> Self {
        Self { cipher: cookie_cipher(public), key: None, is_new: false }
    }

    /// As [`CookieKey::admits`].
    pub(super) fn admit(&self, now: Instant, source: Endpoint, datagram: &[u8]) -> bool {
        self.key.as_ref().is_some_and(|key| key.admits(now, source, datagram))
    }

    /// The key, where it is a new one.
    pub(super) fn take_new(&mut self) -> Option<CookieKey> {
        self.key.clone().filter(|_| core::mem::take(&mut self.is_new))
    }

    /// The reply that tells the sender of a message its cookie.
    pub(super) fn reply(
        &mut self,
        now: Instant,
        source: Endpoint,
        receiver: u32,
        mac1: &[u8; MAC_LEN],
        random: &mut dyn FnMut(&mut [u8]),
    ) -> CookieReply {
        let in_use = self.key.take().filter(|key| key.is_in_use(now));
        self.is_new |= in_use.is_none();
        let key = self.key.insert(in_use.unwrap_or_else(|| {
            let mut secret = Zeroizing::new([0; 32]);
            random(secret.as_mut());
            CookieKey { secret, since: now }
        }));
        let mut nonce = [0; COOKIE_NONCE_LEN];
        random(&mut nonce);
        let mut sealed = cookie(&key.secret, source);
        let Ok(tag) = self.cipher.encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1, &mut sealed)
        else {
            unreachable!("16 bytes are within what the cipher takes")
        };
        let mut sealed_cookie = [0; MAC_LEN + wireguard::TAG_LEN];
        let (text, rest) = sealed_cookie.split_at_mut(MAC_LEN);
        text.copy_from_slice(&sealed);
        rest.copy_from_slice(&tag);
        CookieReply { receiver, nonce, sealed_cookie }
    }
}

/// What `source` must show: nobody who cannot receive there learns it. No two places are the same bytes:
/// of an address and a port over IPv4 there are 6, over IPv6 18, one more each where that is TCP, and three more by
/// a TURN server; of a node's address 20, and with a label 24.
fn cookie(secret: &[u8; 32], source: Endpoint) -> [u8; MAC_LEN] {
    let mut mac = keyed(secret);
    match source {
        Endpoint::Udp(place) | Endpoint::Tcp(place) | Endpoint::Turn(place) => {
            match place.ip() {
                IpAddr::V4(address) => Update::update(&mut mac, &address.octets()),
                IpAddr::V6(address) => Update::update(&mut mac, &address.octets()),
            }
            Update::update(&mut mac, &place.port().to_be_bytes());
            let kind: &[u8] = match source {
                Endpoint::Tcp(_) => &[0],
                Endpoint::Turn(_) => &[0; 3],
                _ => &[],
            };
            Update::update(&mut mac, kind);
        }
        Endpoint::Relay { by, label } => {
            Update::update(&mut mac, &by.0);
            Update::update(&mut mac, &label.to_be_bytes());
        }
        Endpoint::Overlay(address) => Update::update(&mut mac, &address.0),
    }
    mac.finalize_fixed().into()
}

/// The macs of the messages to one peer.
pub(super) struct PeerMacs {
    mac1: Mac1Key,
    cipher: XChaCha20Poly1305,
    /// mac1 of the last message sent, until a cookie has come for it.
    sent: Option<[u8; MAC_LEN]>,
    /// The cookie that the peer has given, and when.
    cookie: Option<([u8; MAC_LEN], Instant)>,
}

impl PeerMacs {
    pub(super) fn new(public: &[u8; 32]) -> Self {
        Self { mac1: Mac1Key::new(public), cipher: cookie_cipher(public), sent: None, cookie: None }
    }

    /// Fills in mac1, and mac2 where the peer has given a cookie.
    pub(super) fn fill_in(&mut self, now: Instant, datagram: &mut [u8]) {
        let Some((_, mac2_at)) = macs_of(datagram) else { unreachable!("a message of ours") };
        self.sent = self.mac1.fill_in(datagram);
        let usable = COOKIE_LIFETIME - COOKIE_LATENCY;
        if let Some((cookie, _)) = self.cookie.filter(|(_, since)| now.since(*since) < usable) {
            let mut mac2 = keyed(&cookie);
            let (covered, rest) = datagram.split_at_mut(mac2_at);
            Update::update(&mut mac2, covered);
            rest.copy_from_slice(&mac2.finalize_fixed());
        }
    }

    /// Takes the cookie out of the peer's reply to the last message; `false` if it is none.
    pub(super) fn take_cookie(&mut self, now: Instant, reply: &CookieReply) -> bool {
        let Some(mac1) = self.sent else { return false };
        let (sealed, tag) = reply.sealed_cookie.split_at(MAC_LEN);
        let mut cookie = [0; MAC_LEN];
        cookie.copy_from_slice(sealed);
        let nonce = XNonce::from_slice(&reply.nonce);
        if self.cipher.decrypt_in_place_detached(nonce, &mac1, &mut cookie, Tag::from_slice(tag)).is_err() {
            return false;
        }
        self.cookie = Some((cookie, now));
        self.sent = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;
    use std::vec;

    const PUBLIC: [u8; 32] = [9; 32];

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn source(port: u16) -> Endpoint {
        SocketAddr::from(([10, 0, 0, 1], port)).into()
    }

    fn message(macs: &mut PeerMacs, now: Instant) -> vec::Vec<u8> {
        let mut datagram = vec![0x5a; wireguard::RESPONSE_LEN];
        datagram[..4].copy_from_slice(&[2, 0, 0, 0]);
        datagram[Response::MAC1_OFFSET..].fill(0);
        macs.fill_in(now, &mut datagram);
        datagram
    }

    fn random(out: &mut [u8]) {
        out.fill(0x77);
    }

    fn mac1_of(datagram: &[u8]) -> [u8; MAC_LEN] {
        Response::parse(datagram).unwrap().mac1
    }

    #[test]
    fn every_bit_that_mac1_covers_counts() {
        let key = Mac1Key::new(&PUBLIC);
        let datagram = message(&mut PeerMacs::new(&PUBLIC), at(1));
        assert!(key.admits(&datagram));
        for bit in 0..Response::MAC2_OFFSET * 8 {
            let mut bad = datagram.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.admits(&bad), "bit {bit}");
        }
        for len in 0..datagram.len() {
            assert!(!key.admits(&datagram[..len]), "{len}");
        }
        assert!(!Mac1Key::new(&[8; 32]).admits(&datagram));
    }

    #[test]
    fn a_cookie_is_good_for_its_source_and_two_minutes() {
        let (mut cookies, mut macs) = (Cookies::new(&PUBLIC), PeerMacs::new(&PUBLIC));
        let first = message(&mut macs, at(1));
        assert!(!cookies.admit(at(1), source(1), &first));
        let reply = cookies.reply(at(1), source(1), 5, &mac1_of(&first), &mut random);
        assert_eq!(reply.receiver, 5);
        assert!(macs.take_cookie(at(2), &reply));
        assert!(!macs.take_cookie(at(2), &reply), "one reply to one message");

        let second = message(&mut macs, at(3));
        assert!(cookies.admit(at(3), source(1), &second));
        assert!(!cookies.admit(at(3), source(2), &second), "another port");
        assert!(
            !cookies.admit(at(3), SocketAddr::from(([10, 0, 0, 2], 1)).into(), &second),
            "another address"
        );
        assert!(!cookies.admit(at(121), source(1), &second), "the secret is old");
        let late = message(&mut macs, at(118));
        assert_eq!(Response::parse(&late).unwrap().mac2, [0; MAC_LEN], "the cookie is about to end");
    }

    #[test]
    fn a_cookie_reply_to_another_message_or_changed_is_refused() {
        let (mut cookies, mut macs) = (Cookies::new(&PUBLIC), PeerMacs::new(&PUBLIC));
        let first = message(&mut macs, at(1));
        let other = cookies.reply(at(1), source(1), 5, &[0; MAC_LEN], &mut random);
        assert!(!macs.take_cookie(at(1), &other));
        let reply = cookies.reply(at(1), source(1), 5, &mac1_of(&first), &mut random);
        for bit in 0..(COOKIE_NONCE_LEN + MAC_LEN + wireguard::TAG_LEN) * 8 {
            let mut bytes = reply.to_bytes();
            bytes[8 + bit / 8] ^= 1 << (bit % 8);
            assert!(!macs.take_cookie(at(1), &CookieReply::parse(&bytes).unwrap()), "bit {bit}");
        }
        assert!(macs.take_cookie(at(1), &reply));
    }
}
