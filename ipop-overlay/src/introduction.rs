//! How a node that knows only where another is learns who it is: it asks for its static key, and then
//! begins a handshake. Only members of a network ask and answer; a question is as long as its answer,
//! so that nobody can use a node to flood another.
//!
//! ```text
//!  0  type 6, three zero bytes · 4  kind: 1 asks, 2 answers · 5 zeros, 3 bytes
//!  8  drawn by who asks, 16 bytes · 24 public key of who answers, zeros where it asks
//! 56  BLAKE2s of all before, under the network's key, 32 bytes
//! ```

use alloc::vec::Vec;

use crate::keys::NetworkKey;

/// First byte of the datagram.
pub const TYPE: u8 = 6;
/// Length of the datagram.
pub const LEN: usize = 88;
const MAC_AT: usize = 56;
const ASKS: u8 = 1;
const ANSWERS: u8 = 2;

/// A datagram that a member of the network has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introduction {
    /// Somebody asks; `nonce` is to be in the answer.
    Asks { nonce: [u8; 16] },
    /// What a question with this `nonce` was answered.
    Answers { nonce: [u8; 16], public_key: [u8; 32] },
}

impl Introduction {
    /// Reads a datagram; `None` where no member of the network has written it.
    pub fn parse(key: &NetworkKey, datagram: &[u8]) -> Option<Self> {
        let datagram: &[u8; LEN] = datagram.try_into().ok()?;
        let (body, mac) = datagram.split_at(MAC_AT);
        if !key.verifies(b"introduction", body, mac) {
            return None;
        }
        let nonce = body.get(8..24)?.try_into().ok()?;
        let public_key = body.get(24..MAC_AT)?.try_into().ok()?;
        match *body.first_chunk::<8>()? {
            [TYPE, 0, 0, 0, ASKS, 0, 0, 0] if public_key == [0; 32] => Some(Self::Asks { nonce }),
            [TYPE, 0, 0, 0, ANSWERS, 0, 0, 0] => Some(Self::Answers { nonce, public_key }),
            _ => None,
        }
    }

    pub fn to_bytes(self, key: &NetworkKey) -> Vec<u8> {
        let (kind, nonce, public_key) = match self {
            Self::Asks { nonce } => (ASKS, nonce, [0; 32]),
            Self::Answers { nonce, public_key } => (ANSWERS, nonce, public_key),
        };
        let mut out = Vec::with_capacity(LEN);
        out.extend([TYPE, 0, 0, 0, kind, 0, 0, 0]);
        out.extend(nonce);
        out.extend(public_key);
        let mac = key.mac(b"introduction", &out);
        out.extend(mac);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_are_understood() {
        let key = NetworkKey::derive("net", b"a long enough secret");
        let other = NetworkKey::derive("net", b"another long enough one");
        for said in [
            Introduction::Asks { nonce: [3; 16] },
            Introduction::Answers { nonce: [4; 16], public_key: [9; 32] },
        ] {
            let bytes = said.to_bytes(&key);
            assert_eq!(bytes.len(), LEN);
            assert_eq!(Introduction::parse(&key, &bytes), Some(said));
            assert_eq!(Introduction::parse(&other, &bytes), None);
            for at in 0..LEN {
                let mut bent = bytes.clone();
                bent[at] ^= 1;
                assert_eq!(Introduction::parse(&key, &bent), None, "byte {at}");
                assert_eq!(Introduction::parse(&key, &bytes[..at]), None);
            }
        }
    }
}
