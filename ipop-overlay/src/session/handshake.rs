//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s between two nodes, by snow.
//!
//! Private and transport keys are erased when they are dropped. What snow keeps within itself is
//! freed with the handshake and not erased: its copy of the pre-shared key, and the chaining key, from
//! which the transport keys follow. Who reads this process's freed memory may find them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use ipop_common::wireguard::{Initiation, KEY_LEN, MAC_LEN, Response, TAG_LEN, TIMESTAMP_LEN};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the pattern mixes the pre-shared key in: after the second message.
const PSK_PLACE: usize = 2;

/// What Noise makes of the first message: everything between the sender's index and mac1.
const FIRST_LEN: usize = KEY_LEN + KEY_LEN + TAG_LEN + TIMESTAMP_LEN + TAG_LEN;
/// What Noise makes of the second.
const SECOND_LEN: usize = KEY_LEN + TAG_LEN;

/// A key that seals or opens the packets of one session in one direction (ChaCha20-Poly1305).
///
/// It stays where it is while it is handed on, so that it is erased where it was.
pub struct TransportKey(Box<Zeroizing<[u8; 32]>>);

impl TransportKey {
    fn new(key: [u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(key)))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl core::fmt::Debug for TransportKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TransportKey(..)")
    }
}

/// The keys of a new session, from the side of one node.
pub(super) struct TransportKeys {
    pub(super) send: TransportKey,
    pub(super) receive: TransportKey,
}

/// When an initiation was made: seconds and nanoseconds of TAI, big-endian, so that later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tai64N([u8; TIMESTAMP_LEN]);

impl Tai64N {
    /// Of a time since the UNIX epoch. Ten seconds is what TAI was ahead then; like everybody, we
    /// leave leap seconds to the clock.
    pub(super) fn from_unix(time: Duration) -> Self {
        let seconds = ((1 << 62) + 10u64).saturating_add(time.as_secs());
        let mut bytes = [0; TIMESTAMP_LEN];
        let (whole, rest) = bytes.split_at_mut(8);
        whole.copy_from_slice(&seconds.to_be_bytes());
        rest.copy_from_slice(&time.subsec_nanos().to_be_bytes());
        Self(bytes)
    }
}

/// This node's static key, and what every handshake needs besides.
pub(super) struct Identity {
    private: StaticSecret,
    /// The same, as key agreements need it.
    agreement: Arc<PrivateKey>,
    pub(super) public: [u8; KEY_LEN],
    params: NoiseParams,
}

impl Identity {
    pub(super) fn new(private: StaticSecret) -> Self {
        let Ok(params) = PATTERN.parse() else { unreachable!("snow knows the pattern") };
        let Some(agreement) = agreement_key(private.as_bytes()) else {
            unreachable!("any 32 bytes are a private key")
        };
        let public = PublicKey::from(&private).to_bytes();
        Self { private, agreement: Arc::new(agreement), public, params }
    }

    /// Whether a public key is a point from which secrets follow; a few small ones are not.
    pub(super) fn can_agree_with(&self, public: &[u8; KEY_LEN]) -> bool {
        agree(&self.agreement, public, |_| ()).is_some()
    }

    /// Begins a handshake: the message, still without macs, and what waits for the answer.
    /// `None` if no secret follows from the peer's key.
    pub(super) fn initiate(
        &self,
        peer: &[u8; KEY_LEN],
        sender: u32,
        timestamp: Tai64N,
        ephemeral: Zeroizing<[u8; KEY_LEN]>,
    ) -> Option<(Initiation, Initiated)> {
        let builder = self.builder(ephemeral)?.remote_public_key(peer).ok()?;
        let mut state = builder.build_initiator().ok()?;
        let mut noise = [0; FIRST_LEN];
        state.write_message(&timestamp.0, &mut noise).ok()?;
        let message = Initiation {
            sender,
            ephemeral: part(&noise, 0),
            sealed_static: part(&noise, KEY_LEN),
            sealed_timestamp: part(&noise, KEY_LEN + KEY_LEN + TAG_LEN),
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        Some((message, Initiated(Box::new(state))))
    }

    /// Opens an initiation; `None` if it is not authentic.
    pub(super) fn receive(
        &self,
        message: &Initiation,
        ephemeral: Zeroizing<[u8; KEY_LEN]>,
    ) -> Option<Received> {
        let mut state = self.builder(ephemeral)?.build_responder().ok()?;
        let mut noise = [0; FIRST_LEN];
        let (ephemeral, sealed) = noise.split_at_mut(KEY_LEN);
        let (sealed_static, sealed_timestamp) = sealed.split_at_mut(KEY_LEN + TAG_LEN);
        ephemeral.copy_from_slice(&message.ephemeral);
        sealed_static.copy_from_slice(&message.sealed_static);
        sealed_timestamp.copy_from_slice(&message.sealed_timestamp);
        let mut timestamp = [0; TIMESTAMP_LEN];
        state.read_message(&noise, &mut timestamp).ok()?;
        let peer = state.get_remote_static()?.try_into().ok()?;
        Some(Received { peer, timestamp: Tai64N(timestamp), remote_index: message.sender, state })
    }

    fn builder(&self, ephemeral: Zeroizing<[u8; KEY_LEN]>) -> Option<Builder<'_>> {
        let crypto = Crypto { own: Arc::clone(&self.agreement), public: self.public, ephemeral };
        let builder = Builder::with_resolver(self.params.clone(), Box::new(crypto));
        builder.prologue(PROLOGUE).ok()?.local_private_key(self.private.as_bytes()).ok()
    }
}

/// An initiation sent.
pub(super) struct Initiated(Box<HandshakeState>);

impl Initiated {
    /// Opens the response; `None` if it is not authentic, and the true one may still come.
    pub(super) fn finish(&mut self, psk: &[u8; KEY_LEN], message: &Response) -> Option<TransportKeys> {
        self.0.set_psk(PSK_PLACE, psk).ok()?;
        let mut noise = [0; SECOND_LEN];
        let (ephemeral, sealed) = noise.split_at_mut(KEY_LEN);
        ephemeral.copy_from_slice(&message.ephemeral);
        sealed.copy_from_slice(&message.sealed_nothing);
        self.0.read_message(&noise, &mut []).ok()?;
        let (send, receive) = self.0.dangerously_get_raw_split();
        Some(TransportKeys { send: TransportKey::new(send), receive: TransportKey::new(receive) })
    }
}

/// An initiation received and found authentic.
pub(super) struct Received {
    /// The static key of its sender.
    pub(super) peer: [u8; KEY_LEN],
    pub(super) timestamp: Tai64N,
    pub(super) remote_index: u32,
    state: HandshakeState,
}

impl Received {
    /// Answers: the message, still without macs, and the keys of the session.
    pub(super) fn respond(mut self, psk: &[u8; KEY_LEN], sender: u32) -> Option<(Response, TransportKeys)> {
        self.state.set_psk(PSK_PLACE, psk).ok()?;
        let mut noise = [0; SECOND_LEN];
        self.state.write_message(&[], &mut noise).ok()?;
        let message = Response {
            sender,
            receiver: self.remote_index,
            ephemeral: part(&noise, 0),
            sealed_nothing: part(&noise, KEY_LEN),
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        let (receive, send) = self.state.dangerously_get_raw_split();
        Some((message, TransportKeys { send: TransportKey::new(send), receive: TransportKey::new(receive) }))
    }
}

/// `N` bytes of a Noise message from `at`.
fn part<const N: usize>(noise: &[u8], at: usize) -> [u8; N] {
    let Some(Ok(part)) = noise.get(at..at + N).map(TryInto::try_into) else {
        unreachable!("the parts of a message are within it")
    };
    part
}

/// Where snow takes its primitives from.
struct Crypto {
    own: Arc<PrivateKey>,
    public: [u8; KEY_LEN],
    ephemeral: Zeroizing<[u8; KEY_LEN]>,
}

impl CryptoResolver for Crypto {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Drawn(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        let own = Arc::clone(&self.own);
        Some(Box::new(X25519 { own, key: None, private: Zeroizing::new([0; KEY_LEN]), public: self.public }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// The one thing that a handshake draws: its ephemeral key. A second draw fails.
struct Drawn(Option<Zeroizing<[u8; KEY_LEN]>>);

impl Random for Drawn {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let drawn = self.0.take().filter(|drawn| drawn.len() == dest.len()).ok_or(snow::Error::Rng)?;
        dest.copy_from_slice(drawn.as_ref());
        Ok(())
    }
}

/// X25519 of AWS-LC, which takes half the time of curve25519-dalek's, erases its keys, does not compute
/// this node's public key anew for every handshake, and refuses points from which no secret follows, as
/// every WireGuard does.
struct X25519 {
    own: Arc<PrivateKey>,
    /// What [`Self::dh`] computes with, once it is set or generated.
    key: Option<Arc<PrivateKey>>,
    private: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    /// snow sets the static key, which is here already with its public half, and generates the other.
    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.key = Some(Arc::clone(&self.own));
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        random.try_fill_bytes(self.private.as_mut())?;
        let key = agreement_key(&self.private).ok_or(snow::Error::Dh)?;
        let public = key.compute_public_key().map_err(|_| snow::Error::Dh)?;
        self.public = public.as_ref().try_into().map_err(|_| snow::Error::Dh)?;
        self.key = Some(Arc::new(key));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_ref()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // snow keeps room for the longest key that it knows behind those of this curve.
        let (Some(key), Some(public), Some(out)) = (&self.key, public.get(..KEY_LEN), out.get_mut(..KEY_LEN))
        else {
            return Err(snow::Error::Dh);
        };
        agree(key, public, |secret| out.copy_from_slice(secret)).ok_or(snow::Error::Dh)
    }
}

/// `None` only where there is no memory.
fn agreement_key(private: &[u8; KEY_LEN]) -> Option<PrivateKey> {
    PrivateKey::from_private_key(&agreement::X25519, private).ok()
}

/// Gives the shared secret to `take`; `None` where none follows from `public`.
fn agree(key: &PrivateKey, public: &[u8], take: impl FnOnce(&[u8])) -> Option<()> {
    let public = UnparsedPublicKey::new(&agreement::X25519, public);
    agreement::agree(key, public, (), |secret| {
        take(secret);
        Ok(())
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::new(StaticSecret::from([seed; 32]))
    }

    fn ephemeral(seed: u8) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new([seed; 32])
    }

    #[test]
    fn timestamps_are_those_of_everybody() {
        // wireguard-go, tai64n: 2^62 + 10 seconds ahead of UNIX.
        let stamp = Tai64N::from_unix(Duration::new(0x0102_0304, 0x0506_0708));
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 1, 2, 3, 0x0e, 5, 6, 7, 8]);
        assert!(stamp < Tai64N::from_unix(Duration::new(0x0102_0304, 0x0506_0709)));
        assert!(stamp < Tai64N::from_unix(Duration::new(0x0102_0305, 0)));
    }

    #[test]
    fn both_sides_have_the_same_keys() {
        let (a, b) = (identity(1), identity(2));
        let stamp = Tai64N::from_unix(Duration::from_secs(7));
        let (first, mut waiting) = a.initiate(&b.public, 10, stamp, ephemeral(3)).unwrap();
        let received = b.receive(&first, ephemeral(4)).unwrap();
        assert_eq!((received.peer, received.timestamp, received.remote_index), (a.public, stamp, 10));
        let (second, theirs) = received.respond(&[5; 32], 20).unwrap();
        assert_eq!((second.sender, second.receiver), (20, 10));
        assert!(waiting.finish(&[6; 32], &second).is_none(), "another pre-shared key");
        let ours = waiting.finish(&[5; 32], &second).unwrap();
        assert_eq!(ours.send.as_bytes(), theirs.receive.as_bytes());
        assert_eq!(ours.receive.as_bytes(), theirs.send.as_bytes());
        assert_ne!(ours.send.as_bytes(), ours.receive.as_bytes());
    }

    #[test]
    fn a_changed_response_does_not_spoil_the_true_one() {
        let (a, b) = (identity(1), identity(2));
        let (first, mut waiting) =
            a.initiate(&b.public, 10, Tai64N::from_unix(Duration::ZERO), ephemeral(3)).unwrap();
        let (second, _) = b.receive(&first, ephemeral(4)).unwrap().respond(&[5; 32], 20).unwrap();
        for byte in 0..KEY_LEN + TAG_LEN {
            let mut bad = second;
            match bad.ephemeral.get_mut(byte) {
                Some(byte) => *byte ^= 1,
                None => bad.sealed_nothing[byte - KEY_LEN] ^= 1,
            }
            assert!(waiting.finish(&[5; 32], &bad).is_none(), "byte {byte}");
        }
        assert!(waiting.finish(&[5; 32], &second).is_some());
    }

    #[test]
    fn a_point_without_a_secret_is_refused() {
        let (a, b) = (identity(1), identity(2));
        let stamp = Tai64N::from_unix(Duration::ZERO);
        assert!(!a.can_agree_with(&[0; 32]));
        assert!(a.initiate(&[0; 32], 10, stamp, ephemeral(3)).is_none());
        let (mut first, mut waiting) = a.initiate(&b.public, 10, stamp, ephemeral(3)).unwrap();
        let (mut second, _) = b.receive(&first, ephemeral(4)).unwrap().respond(&[5; 32], 20).unwrap();
        first.ephemeral = [0; 32];
        assert!(b.receive(&first, ephemeral(4)).is_none());
        second.ephemeral = [0; 32];
        assert!(waiting.finish(&[5; 32], &second).is_none());
    }
}
