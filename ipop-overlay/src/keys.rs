//! What two nodes derive from their keys and the network's secret: the id of the clear link
//! between them, and the keys that authenticate its hellos.

use blake2::digest::{FixedOutput, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest, digest::consts::U16};
use ipop_common::gpe::LinkId;
use ipop_common::hello::TAG_LEN;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

type Tagger = Blake2sMac<U16>;
type Deriver = blake2::Blake2sMac256;

/// Derived from the network's name and secret; every member has it.
#[derive(Zeroize, ZeroizeOnDrop)]
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

    fn derive_more(&self, label: &[u8], parts: [&[u8; 32]; 3]) -> [u8; 32] {
        let Ok(mut mac) = Deriver::new_with_salt_and_personal(&self.0, &[], &[]) else {
            unreachable!("BLAKE2s takes keys of up to 32 bytes")
        };
        Update::update(&mut mac, label);
        for part in parts {
            Update::update(&mut mac, part);
        }
        mac.finalize_fixed().into()
    }
}

/// Everything that belongs to one pair of nodes, from the side of one of them.
#[derive(ZeroizeOnDrop)]
pub struct LinkKeys {
    #[zeroize(skip)]
    link_id: LinkId,
    send: [u8; 32],
    receive: [u8; 32],
}

impl core::fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LinkKeys").field("link_id", &self.link_id).finish_non_exhaustive()
    }
}

impl LinkKeys {
    /// The keys of the link between the holder of `private` and `peer`.
    ///
    /// The Diffie-Hellman secret goes into the keys, so that no third member can speak for either.
    pub fn derive(network: &NetworkKey, private: &StaticSecret, peer: &[u8; 32]) -> Self {
        let own = PublicKey::from(private).to_bytes();
        let mut shared = private.diffie_hellman(&PublicKey::from(*peer)).to_bytes();
        let (low, high) = if own <= *peer { (&own, peer) } else { (peer, &own) };
        let keys = Self {
            link_id: link_id(&network.derive_more(b"link id", [low, high, &[0; 32]])),
            send: network.derive_more(b"hello", [&shared, &own, peer]),
            receive: network.derive_more(b"hello", [&shared, peer, &own]),
        };
        shared.zeroize();
        keys
    }

    pub fn link_id(&self) -> LinkId {
        self.link_id
    }

    /// The tag of a hello that this node sends.
    pub fn tag(&self, body: &[u8]) -> [u8; TAG_LEN] {
        tagger(&self.send, body).finalize().into_bytes().into()
    }

    /// Whether a received hello is the peer's. Takes the same time for every tag.
    pub fn verify(&self, body: &[u8], tag: &[u8]) -> bool {
        tagger(&self.receive, body).verify_slice(tag).is_ok()
    }
}

fn tagger(key: &[u8; 32], body: &[u8]) -> Tagger {
    let Ok(mut mac) = Tagger::new_with_salt_and_personal(key, &[], &[]) else {
        unreachable!("BLAKE2s takes keys of up to 32 bytes")
    };
    Update::update(&mut mac, body);
    mac
}

/// The first 24 bits that are not zero.
fn link_id(digest: &[u8; 32]) -> LinkId {
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

    fn pair(secret: &str) -> (LinkKeys, LinkKeys) {
        let network = NetworkKey::derive("net", secret.as_bytes());
        let (a, b) = (StaticSecret::from([7; 32]), StaticSecret::from([9; 32]));
        let (pa, pb) = (PublicKey::from(&a).to_bytes(), PublicKey::from(&b).to_bytes());
        (LinkKeys::derive(&network, &a, &pb), LinkKeys::derive(&network, &b, &pa))
    }

    #[test]
    fn both_ends_derive_the_same() {
        let (a, b) = pair("a long enough secret");
        assert_eq!(a.link_id(), b.link_id());
        assert!(b.verify(b"body", &a.tag(b"body")));
        assert!(a.verify(b"body", &b.tag(b"body")));
    }

    #[test]
    fn a_message_is_not_valid_in_the_other_direction() {
        let (a, _) = pair("a long enough secret");
        assert!(!a.verify(b"body", &a.tag(b"body")));
    }

    #[test]
    fn another_secret_or_name_makes_other_keys() {
        let (a, _) = pair("a long enough secret");
        let (_, b) = pair("another long secret!");
        assert_ne!(a.link_id(), b.link_id());
        assert!(!b.verify(b"body", &a.tag(b"body")));
    }

    #[test]
    fn every_bit_of_the_tag_counts() {
        let (a, b) = pair("a long enough secret");
        let tag = a.tag(b"body");
        for bit in 0..tag.len() * 8 {
            let mut bad = tag;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!b.verify(b"body", &bad));
        }
        assert!(!b.verify(b"body", &tag[..15]));
    }
}
