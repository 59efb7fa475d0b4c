//! Sealed frames as the format says, put together and taken apart with another implementation of
//! the cipher than the one under test.

use std::net::IpAddr;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ipop_common::aead::Key;
use ipop_common::maps::LinkRef;
use ipop_common::session::Agreed;

use crate::packet::{Mac, UDP, ethernet, ethertype, ip, udp_checksum};
use crate::world::Peer;

/// Where the daemon of every node listens.
pub const DAEMON_PORT: u16 = 15_000;

/// Expires after every test.
pub const KEY_FOREVER: u64 = u64::MAX;

/// A session between the node under test and a peer.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub local: u32,
    pub remote: u32,
    pub send_key: [u8; 32],
    pub receive_key: [u8; 32],
    pub link: LinkRef,
}

impl Session {
    /// The session number `n`, on the link to `peer`. Its place is `n` too.
    pub fn new(n: u8, peer: &Peer) -> Self {
        Self {
            local: 0x1234_0000 | u32::from(n),
            remote: 0x0011_2200 | u32::from(n),
            send_key: [n; 32],
            receive_key: [n ^ 0xff; 32],
            link: peer.reference(),
        }
    }

    pub fn agreed(&self) -> Agreed {
        Agreed {
            local: self.local,
            remote: self.remote,
            send_key: Key::from_bytes(&self.send_key),
            receive_key: Key::from_bytes(&self.receive_key),
            expires_ns: KEY_FOREVER,
            first_counter: 0,
            link: self.link,
        }
    }

    /// A frame from the peer that carries `text`, as the peer's kernel path sends it.
    pub fn frame(&self, peer: &Peer, counter: u64, text: &[u8]) -> SealedFrame {
        SealedFrame {
            destination_mac: peer.local_mac,
            source_mac: peer.remote_mac,
            source: peer.remote,
            destination: peer.local,
            source_port: DAEMON_PORT,
            has_checksum: false,
            message: transport(self.local, counter, &self.receive_key, text),
        }
    }

    /// The same session as the peer has it, on its link to the node under test.
    pub fn of_peer(&self, link: LinkRef) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            send_key: self.receive_key,
            receive_key: self.send_key,
            link,
        }
    }

    /// What the node seals for the peer, opened: counter and text.
    ///
    /// # Panics
    /// For anything else than a transport message of this session.
    #[track_caller]
    pub fn open(&self, message: &[u8]) -> (u64, Vec<u8>) {
        assert_eq!(message[..4], [4, 0, 0, 0], "the type of a transport message");
        assert_eq!(message[4..8], self.remote.to_le_bytes(), "the receiver's index");
        let counter = u64::from_le_bytes(*message[8..].first_chunk().expect("a counter"));
        (counter, open(&self.send_key, counter, &message[16..]).expect("an authentic message"))
    }
}

fn key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("a key"))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A text sealed as the packet `counter`: ciphertext and tag.
pub fn seal(with: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    key(with).seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut sealed).expect("sealed");
    sealed
}

/// The text of what [`seal`] has made; `None` for everything else.
pub fn open(with: &[u8; 32], counter: u64, sealed: &[u8]) -> Option<Vec<u8>> {
    let mut text = sealed.to_vec();
    Some(key(with).open_in_place(nonce(counter), Aad::empty(), &mut text).ok()?.to_vec())
}

/// A transport message.
pub fn transport(receiver: u32, counter: u64, with: &[u8; 32], text: &[u8]) -> Vec<u8> {
    let sealed = seal(with, counter, text);
    [&[4, 0, 0, 0][..], &receiver.to_le_bytes(), &counter.to_le_bytes(), &sealed].concat()
}

/// A packet with zeroes up to the next multiple of 16, as it is sealed.
pub fn padded(packet: &[u8]) -> Vec<u8> {
    let mut padded = packet.to_vec();
    padded.resize(packet.len().next_multiple_of(16), 0);
    padded
}

/// A frame that carries a WireGuard message, in parts that a test can change before it is put
/// together.
#[derive(Clone, Debug)]
pub struct SealedFrame {
    pub destination_mac: Mac,
    pub source_mac: Mac,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub has_checksum: bool,
    pub message: Vec<u8>,
}

impl SealedFrame {
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_to(DAEMON_PORT)
    }

    /// As [`SealedFrame::to_bytes`], to another port.
    pub fn to_bytes_to(&self, port: u16) -> Vec<u8> {
        let len = u16::try_from(8 + self.message.len()).expect("at most 64 KiB");
        let mut udp = [
            &self.source_port.to_be_bytes()[..],
            &port.to_be_bytes(),
            &len.to_be_bytes(),
            &[0, 0],
            &self.message,
        ]
        .concat();
        if self.has_checksum {
            let check = udp_checksum(self.source, self.destination, &udp).to_be_bytes();
            udp[6..8].copy_from_slice(&check);
        }
        let packet = ip(self.source, self.destination, UDP, &udp);
        ethernet(self.destination_mac, self.source_mac, ethertype(self.source), &packet)
    }

    /// Where the message starts.
    pub fn message_at(&self) -> usize {
        14 + if self.source.is_ipv4() { 20 } else { 40 } + 8
    }
}
