//! Records: their names, their bytes, and what makes one valid.
//!
//! ```text
//!   0 version 1 · 1 kind: 0 put, 1 create; bit 7: removed · 2 slot u16 · 4 key · 24 owner's public key
//!  56 created, UNIX time in seconds u64 · 64 expires, likewise · 72 sequence u64 · 80 length of the value u16
//!  82 zero u16 · 84 signature of all that is before it and the value · 148 value
//! ```

use alloc::vec::Vec;

use blake2::{Blake2s256, Digest};
use ipop_common::cursor::Cursor;

use super::signature::{SIGNATURE_LEN, SigningKey, verify};
use crate::address::{ADDRESS_LEN, NodeAddress};

/// The longest name.
pub const NAME_MAX: usize = 128;
/// The longest value; as the original.
pub const VALUE_MAX: usize = 1024;
/// The longest life of a record, in seconds: a day. Who is there longer makes it again.
pub const TTL_MAX_S: u64 = 86_400;
/// How far the clocks of two nodes may be apart, in seconds; as Kerberos takes it (RFC 4120, section 3.1.3).
pub const SKEW_S: u64 = 300;
/// Length of a record without its value.
pub(crate) const RECORD_LEN: usize = 148;
/// Where its signature begins: all before it is signed.
const SIGNATURE_AT: usize = RECORD_LEN - SIGNATURE_LEN;
const VERSION: u8 = 1;
const REMOVED: u8 = 0x80;

/// The place of a name on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub NodeAddress);

impl Key {
    /// The key of a name of 1 to [`NAME_MAX`] bytes.
    pub fn of_name(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_MAX {
            return None;
        }
        let mut hash = Blake2s256::new();
        Digest::update(&mut hash, b"ipop record key v1");
        Digest::update(&mut hash, name);
        Some(Self(NodeAddress::of_key(&hash.finalize().into())))
    }

    /// Where on the ring its records are kept: an eighth of the ring from one place to the next.
    pub fn place(self, replica: u8) -> NodeAddress {
        let mut place = self.0;
        place.0[0] = place.0[0].wrapping_add(replica << 5);
        place
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One of many under its key.
    Put = 0,
    /// The only one under its key.
    Create = 1,
}

/// What an owner has signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    /// The owner takes it back; it has no value.
    pub removed: bool,
    /// Which of the owner's under this key; 0 for a create.
    pub slot: u16,
    pub key: Key,
    /// The owner's public key.
    pub owner: [u8; 32],
    /// Since when the owner has had it, UNIX time in seconds; renewals keep it.
    pub created: u64,
    pub expires: u64,
    /// Of two of the same owner's, the one with the higher number is the newer.
    pub sequence: u64,
    pub value: Vec<u8>,
    pub signature: [u8; SIGNATURE_LEN],
}

/// What there is one record of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) owner: [u8; 32],
    pub(crate) slot: u16,
}

/// Why a record is not taken although it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Invalid {
    /// Its time is over.
    Expired = 1,
    /// It is of a time that has not come.
    Future = 2,
    /// It lives for too long.
    TooLong = 3,
    Signature = 4,
    /// It is older than, or says it was created before, what its owner has left here.
    Stale = 5,
    /// There is no room.
    Full = 6,
    /// Too many have come from there.
    TooMany = 7,
}

impl core::fmt::Debug for Record {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Record")
            .field("kind", &self.kind)
            .field("removed", &self.removed)
            .field("slot", &self.slot)
            .field("key", &self.key)
            .field("owner", &self.owner_address())
            .field("created", &self.created)
            .field("expires", &self.expires)
            .field("sequence", &self.sequence)
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

impl Record {
    /// Signs a record of the key's owner.
    pub(crate) fn sign(mut self, by: &SigningKey) -> Self {
        self.owner = by.public_key();
        self.signature = by.sign(&self.signed());
        self
    }

    pub(crate) fn id(&self) -> Id {
        Id { key: self.key, kind: self.kind, owner: self.owner, slot: self.slot }
    }

    pub fn owner_address(&self) -> NodeAddress {
        NodeAddress::of_key(&self.owner)
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        RECORD_LEN + self.value.len()
    }

    /// Whether its owner has signed it. This costs as much as some hundred packets.
    pub(crate) fn is_signed(&self) -> bool {
        verify(&self.owner, &self.signed(), &self.signature)
    }

    /// What is wrong with its times, by a clock that shows `wall`.
    pub(crate) fn wrong_times(&self, wall: u64) -> Option<Invalid> {
        if self.created > wall.saturating_add(SKEW_S) {
            Some(Invalid::Future)
        } else if self.expires <= self.created
            || self.expires > wall.saturating_add(TTL_MAX_S).saturating_add(SKEW_S)
        {
            Some(Invalid::TooLong)
        } else if self.is_over(wall) {
            Some(Invalid::Expired)
        } else {
            None
        }
    }

    /// Whether nobody may count on it any more, whose clock shows what.
    pub(crate) fn is_over(&self, wall: u64) -> bool {
        self.expires.saturating_add(SKEW_S) <= wall
    }

    /// Whether it stands by a clock that shows `wall`.
    pub fn is_live(&self, wall: u64) -> bool {
        !self.removed && self.expires > wall
    }

    /// Of two creates of one key that both stand, which stays: the one created earlier, then the one whose owner has
    /// the lower address. Whoever decides decides the same.
    pub fn beats(&self, other: &Self) -> bool {
        (self.created, self.owner_address()) < (other.created, other.owner_address())
    }

    fn head(&self) -> [u8; SIGNATURE_AT] {
        let mut head = [0; SIGNATURE_AT];
        head[0] = VERSION;
        head[1] = self.kind as u8 | if self.removed { REMOVED } else { 0 };
        head[2..4].copy_from_slice(&self.slot.to_be_bytes());
        head[4..24].copy_from_slice(&self.key.0.0);
        head[24..56].copy_from_slice(&self.owner);
        head[56..64].copy_from_slice(&self.created.to_be_bytes());
        head[64..72].copy_from_slice(&self.expires.to_be_bytes());
        head[72..80].copy_from_slice(&self.sequence.to_be_bytes());
        let len = u16::try_from(self.value.len()).unwrap_or(u16::MAX);
        head[80..82].copy_from_slice(&len.to_be_bytes());
        head
    }

    fn signed(&self) -> Vec<u8> {
        [&b"ipop record v1"[..], &self.head(), &self.value].concat()
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.head()[..], &self.signature, &self.value].concat()
    }

    /// Reads a record from the front of `bytes`; what is behind it comes back.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let [VERSION, kind] = bytes.bytes::<2>(0)? else { return None };
        let removed = kind & REMOVED != 0;
        let kind = match kind & !REMOVED {
            0 => Kind::Put,
            1 => Kind::Create,
            _ => return None,
        };
        let len = usize::from(u16::from_be_bytes(bytes.bytes(80)?));
        let is_valid_len = len <= VALUE_MAX && !(removed && len > 0);
        let slot = u16::from_be_bytes(bytes.bytes(2)?);
        let key = bytes.bytes::<ADDRESS_LEN>(4)?;
        let is_place = key[ADDRESS_LEN - 1] & 1 == 0;
        if !is_valid_len || !is_place || bytes.bytes::<2>(82)? != [0; 2] || kind == Kind::Create && slot != 0
        {
            return None;
        }
        let (value, rest) = bytes.get(RECORD_LEN..)?.split_at_checked(len)?;
        let record = Self {
            kind,
            removed,
            slot,
            key: Key(NodeAddress(key)),
            owner: bytes.bytes(24)?,
            created: bytes.u64_at(56)?,
            expires: bytes.u64_at(64)?,
            sequence: bytes.u64_at(72)?,
            value: value.to_vec(),
            signature: bytes.bytes(SIGNATURE_AT)?,
        };
        Some((record, rest))
    }
}
