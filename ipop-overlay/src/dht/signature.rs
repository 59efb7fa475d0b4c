//! Signatures by a node's X25519 key: XEdDSA (Signal, "The XEdDSA and VXEdDSA Signature Schemes", revision 1),
//! by which one key pair agrees on secrets and signs.
//!
//! The nonce comes from the key and the message alone, as Ed25519's (RFC 8032, section 5.1.6): a node draws no random
//! numbers. Who verifies sees no difference.

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha512};
use subtle::{Choice, ConditionallySelectable};
use x25519_dalek::StaticSecret;

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Of the two points that an X25519 key may stand for, the one that signs.
const SIGN: u8 = 0;

/// A node's key, as it signs.
pub struct SigningKey {
    public_key: [u8; 32],
    secret: ExpandedSecretKey,
    verifying: VerifyingKey,
}

impl core::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The key with which a node makes its sessions.
    pub fn new(private: &StaticSecret) -> Self {
        let scalar = Scalar::from_bytes_mod_order(clamp_integer(private.to_bytes()));
        let point = EdwardsPoint::mul_base(&scalar);
        // Of the two points with this Montgomery form, the one whose sign bit is 0.
        let is_negative = Choice::from(point.compress().to_bytes()[31] >> 7);
        let scalar = Scalar::conditional_select(&scalar, &-scalar, is_negative);
        let point = EdwardsPoint::conditional_select(&point, &-point, is_negative);
        let mut prefix = [0; 32];
        let digest =
            Sha512::new().chain_update(b"ipop record nonce v1").chain_update(scalar.to_bytes()).finalize();
        prefix.copy_from_slice(&digest[..32]);
        Self {
            public_key: x25519_dalek::PublicKey::from(private).to_bytes(),
            secret: ExpandedSecretKey { scalar, hash_prefix: prefix },
            verifying: VerifyingKey::from(point),
        }
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        raw_sign::<Sha512>(&self.secret, message, &self.verifying).to_bytes()
    }
}

/// Whether the owner of an X25519 key has signed a message. One of several texts of a key or a signature counts, and
/// a key by which everything would be signed does not.
pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    let montgomery = MontgomeryPoint(*public_key);
    let Some(point) = montgomery.to_edwards(SIGN) else { return false };
    let is_canonical = point.to_montgomery().to_bytes() == *public_key;
    is_canonical
        && VerifyingKey::from(point).verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}
