//! The id of the clear link from one node to another, derived and not drawn: a node that is started
//! again has the same, and its kernel path goes on taking what is under way.

use blake2::digest::{FixedOutput, Update};
use blake2::{Blake2s256, Digest};
use ipop_common::gpe::LinkId;
use zeroize::{Zeroize, ZeroizeOnDrop};

type Deriver = blake2::Blake2sMac256;

/// Derived from the network's name and secret; every member has it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NetworkKey([u8; 32]);

impl core::fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

impl NetworkKey {
    pub fn derive(name: &str, secret: &[u8]) -> Self {
        let mut hash = Blake2s256::new();
        Digest::update(&mut hash, b"ipop network v1");
        Digest::update(&mut hash, (name.len() as u64).to_be_bytes());
        Digest::update(&mut hash, name);
        Digest::update(&mut hash, secret);
        Self(hash.finalize().into())
    }

    /// What clear packets to the holder of `own` carry that come from `peer`, both public keys.
    pub fn link_id(&self, own: &[u8; 32], peer: &[u8; 32]) -> LinkId {
        let mut mac = self.keyed(b"link id", own);
        Update::update(&mut mac, peer);
        first_link_id(&mac.finalize_fixed().into())
    }
}

impl NetworkKey {
    /// A code that only members can compute; `label` keeps those for different uses apart.
    pub(crate) fn mac(&self, label: &[u8], text: &[u8]) -> [u8; 32] {
        self.keyed(label, text).finalize_fixed().into()
    }

    /// Whether a code is that of a text, in constant time.
    pub(crate) fn verifies(&self, label: &[u8], text: &[u8], mac: &[u8]) -> bool {
        use blake2::digest::Mac;
        self.keyed(label, text).verify_slice(mac).is_ok()
    }

    fn keyed(&self, label: &[u8], text: &[u8]) -> Deriver {
        let Ok(mut mac) = Deriver::new_with_salt_and_personal(&self.0, &[], &[]) else {
            unreachable!("BLAKE2s takes keys of up to 32 bytes")
        };
        Update::update(&mut mac, label);
        Update::update(&mut mac, text);
        mac
    }
}

/// The first 24 bits that are not zero.
fn first_link_id(digest: &[u8; 32]) -> LinkId {
    let mut candidates = digest.chunks_exact(3).filter_map(|bytes| match bytes {
        &[a, b, c] => LinkId::new(u32::from_be_bytes([0, a, b, c])),
        _ => None,
    });
    // Ten words of zero do not come out of BLAKE2s; one is as good as any other id.
    candidates.next().or(LinkId::new(1)).unwrap_or_else(|| unreachable!("1 is a link id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [7; 32];
    const B: [u8; 32] = [9; 32];

    #[test]
    fn network_secret_and_direction_make_the_id() {
        let id = |name: &str, secret: &str, own, peer| {
            NetworkKey::derive(name, secret.as_bytes()).link_id(own, peer)
        };
        let usual = id("net", "a long enough secret", &A, &B);
        assert_eq!(id("net", "a long enough secret", &A, &B), usual);
        assert_ne!(id("net", "a long enough secret", &B, &A), usual);
        assert_ne!(id("net", "another long secret!", &A, &B), usual);
        assert_ne!(id("ten", "a long enough secret", &A, &B), usual);
    }

    #[test]
    fn zero_is_no_link_id() {
        let mut digest = [0; 32];
        digest[5] = 4;
        assert_eq!(first_link_id(&digest).value(), 4);
        assert_eq!(first_link_id(&[0; 32]).value(), 1);
    }
}
