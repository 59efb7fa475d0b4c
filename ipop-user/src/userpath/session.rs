//! A session's keys for the user path, with the cipher that uses the processor's vector units.
//!
//! Counters, replay window and expiry are in the session's [place](crate::places), which the kernel's
//! programs share: whoever seals draws a counter there, whoever opens asks there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ipop_common::Counter;
use ipop_common::session::Session;
use ipop_common::wireguard::{TAG_LEN, TRANSPORT_HEADER_LEN, TransportHeader, padded_len};
use ipop_overlay::Endpoint;

/// Bytes that a sealed packet takes beside its text: header and tag.
pub const OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;

/// One session, from the side of this node. Dropping it erases the keys.
pub struct UserSession {
    local: u32,
    seal: LessSafeKey,
    open: LessSafeKey,
    heard: Mutex<Heard>,
}

/// Where the authentic packets of a session came from that the user path has opened, and when. Times are those
/// of the monotonic clock, 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The last one's source, as far as the control task was told.
    pub source: Option<Endpoint>,
    /// The last one by UDP.
    pub udp_ns: u64,
    /// The last one by TCP.
    pub tcp_ns: u64,
    /// The last one that came by TCP, or that other nodes relayed or carried, and by what way it came.
    pub around: Option<(Endpoint, u64)>,
    /// The last one that a relay passed on.
    pub relay_ns: u64,
    /// The last such one that was an IP packet. Of those by UDP, the session's place says it.
    pub around_data_ns: u64,
}

impl std::fmt::Debug for UserSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSession").field("local", &self.local).finish_non_exhaustive()
    }
}

impl UserSession {
    /// `local` is the index by which the peer names the session, and says where its place is.
    pub fn new(local: u32, send_key: &[u8; 32], receive_key: &[u8; 32]) -> Self {
        Self { local, seal: key(send_key), open: key(receive_key), heard: Mutex::default() }
    }

    /// The index by which the peer names the session.
    pub fn local(&self) -> u32 {
        self.local
    }

    /// Seals a packet in place. `block` is a transport message, [`sealed_len`] bytes long, with the
    /// first `text_len` bytes of its text filled in.
    ///
    /// # Errors
    /// The counter of the reason: the session in `place` is over.
    pub fn seal(
        &self,
        place: &Session,
        block: &mut [u8],
        text_len: usize,
        now_ns: u64,
    ) -> Result<(), Counter> {
        self.seal_control(place, block, text_len, now_ns)?;
        place.note_sent(now_ns);
        Ok(())
    }

    /// As [`UserSession::seal`], for what is no packet: nobody waits for an answer to it.
    ///
    /// # Errors
    /// The counter of the reason: the session in `place` is over.
    pub fn seal_control(
        &self,
        place: &Session,
        block: &mut [u8],
        text_len: usize,
        now_ns: u64,
    ) -> Result<(), Counter> {
        let drawn = place.draw(self.local, now_ns)?;
        let header = TransportHeader { receiver: drawn.remote, counter: drawn.counter };
        let Some((start, rest)) = block.split_first_chunk_mut() else { return Err(Counter::TxTruncated) };
        let Some((text, tag)) = rest.split_last_chunk_mut::<TAG_LEN>() else {
            return Err(Counter::TxTruncated);
        };
        *start = header.to_bytes();
        text.get_mut(text_len..).unwrap_or_default().fill(0);
        let sealed = self.seal.seal_in_place_separate_tag(nonce(drawn.counter), Aad::empty(), text);
        let sealed = sealed.map_err(|_| Counter::TxTruncated)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// An empty message: it tells the peer that this node is there and has the session.
    ///
    /// # Errors
    /// The counter of the reason: the session in `place` is over.
    pub fn keepalive(&self, place: &Session, now_ns: u64) -> Result<[u8; OVERHEAD], Counter> {
        let mut block = [0; OVERHEAD];
        self.seal_control(place, &mut block, 0, now_ns)?;
        Ok(block)
    }

    /// Opens what follows the header of a message, in place; the text is all but the tag at the end.
    ///
    /// # Errors
    /// The counter of the reason. The message is not authentic, or it came before.
    pub fn open(&self, place: &Session, counter: u64, sealed: &mut [u8], now_ns: u64) -> Result<(), Counter> {
        // The key itself is with the cipher: what is asked is whether it may still be used.
        let _ = place.key_to_open(self.local, counter, now_ns)?;
        self.open.open_in_place(nonce(counter), Aad::empty(), sealed).map_err(|_| Counter::RxBadTag)?;
        place.accept(counter)
    }

    /// Notes where an authentic packet came from; says whether that is news.
    pub fn came_from(&self, source: Endpoint, now_ns: u64) -> bool {
        let mut heard = self.lock();
        match source {
            Endpoint::Udp(_) => heard.udp_ns = now_ns,
            Endpoint::Tcp(_) => {
                heard.tcp_ns = now_ns;
                heard.around = Some((source, now_ns));
            }
            Endpoint::Turn(_) | Endpoint::Relay { .. } => {
                heard.relay_ns = now_ns;
                heard.around = Some((source, now_ns));
            }
            Endpoint::Overlay(_) => heard.around = Some((source, now_ns)),
        }
        heard.source.replace(source) != Some(source)
    }

    /// Notes that an authentic packet which did not come by UDP to this node was an IP packet.
    pub fn note_around_data(&self, now_ns: u64) {
        self.lock().around_data_ns = now_ns;
    }

    /// What has come so far.
    pub fn heard(&self) -> Heard {
        *self.lock()
    }

    /// The next packet's source is news, wherever it comes from.
    pub fn forget_source(&self) {
        self.lock().source = None;
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Length of the message that carries `text_len` bytes over a link with this inner MTU.
pub const fn sealed_len(text_len: usize, mtu: u16) -> usize {
    padded_len(text_len, mtu as usize) + OVERHEAD
}

fn key(bytes: &[u8; 32]) -> LessSafeKey {
    match UnboundKey::new(&CHACHA20_POLY1305, bytes) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("the cipher takes every key of 32 bytes"),
    }
}

/// The counter in the last eight bytes, little-endian (the WireGuard paper, section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let (_, end) = bytes.split_at_mut(NONCE_LEN - 8);
    end.copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use ipop_common::aead;
    use ipop_common::maps::LinkRef;
    use ipop_common::session::Agreed;
    use ipop_overlay::NodeAddress;

    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn place(expires_ns: u64) -> Session {
        let words = [u32::from_le_bytes([7; 4]); 8];
        let place = Session::vacant();
        place.install(
            &Agreed {
                local: 5,
                remote: 5,
                send_key: aead::Key(words),
                receive_key: aead::Key(words),
                expires_ns,
                first_counter: 0,
                link: LinkRef::LOCAL,
            },
            None,
        );
        place
    }

    #[test]
    fn what_was_sealed_opens_once_and_only_unchanged() {
        let (session, place) = (UserSession::new(5, &SECRET, &SECRET), place(100));
        let mut block = vec![0xee; sealed_len(10, 1420)];
        block[16..26].copy_from_slice(b"ten bytes.");
        session.seal(&place, &mut block, 10, 1).unwrap();
        let header = TransportHeader::parse(&block[..]).unwrap();
        assert_eq!((header.receiver, header.counter), (5, 0));
        for bit in 0..(block.len() - 16) * 8 {
            let mut changed = block[16..].to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(session.open(&place, 0, &mut changed, 2), Err(Counter::RxBadTag), "bit {bit}");
        }
        let mut sealed = block[16..].to_vec();
        assert_eq!(session.open(&place, 1, &mut sealed, 2), Err(Counter::RxBadTag), "another counter");
        let mut sealed = block[16..].to_vec();
        session.open(&place, 0, &mut sealed, 2).unwrap();
        assert_eq!(&sealed[..16], b"ten bytes.\0\0\0\0\0\0");
        let mut again = block[16..].to_vec();
        assert_eq!(session.open(&place, 0, &mut again, 2), Err(Counter::RxReplay));
    }

    #[test]
    fn nothing_is_sealed_or_opened_past_the_end() {
        let (session, place) = (UserSession::new(5, &SECRET, &SECRET), place(100));
        let mut block = session.keepalive(&place, 99).unwrap();
        assert_eq!(session.keepalive(&place, 100), Err(Counter::TxKeyExpired));
        assert_eq!(session.open(&place, 0, &mut block[16..], 100), Err(Counter::RxKeyExpired));
        place.vacate();
        assert_eq!(session.keepalive(&place, 1), Err(Counter::TxNoSession));
        assert_eq!(session.open(&place, 0, &mut block[16..], 1), Err(Counter::RxUnknownIndex));
    }

    #[test]
    fn a_session_says_once_where_its_peer_is() {
        let session = UserSession::new(5, &SECRET, &SECRET);
        let udp = |text: &str| Endpoint::Udp(text.parse().unwrap());
        let (here, there) = (udp("192.0.2.1:1"), udp("192.0.2.1:2"));
        let around = Endpoint::Overlay(NodeAddress([7; 20]));
        assert!(session.came_from(here, 1));
        assert!(!session.came_from(here, 2));
        assert!(session.came_from(there, 3));
        assert!(session.came_from(around, 4));
        assert!(!session.came_from(around, 5));
        let heard = session.heard();
        assert_eq!((heard.udp_ns, heard.around), (3, Some((around, 5))));
        session.forget_source();
        assert!(session.came_from(around, 6));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", UserSession::new(5, &SECRET, &SECRET)), "UserSession { local: 5, .. }");
    }
}
