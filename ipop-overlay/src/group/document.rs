//! The group's parameters as its authority signs them, so that members can give them to one another while the server is
//! down. What is in them is not known here.
//!
//! ```text
//!  0 "IPGD" · 4 version 1 · 5 zero (3) · 8 number u64 · 16 issued u64, seconds since 1970 · 24 length u32
//! 28 content · then the authority's Ed25519 signature (64), over a label and all before it
//! ```

use alloc::vec::Vec;

use ipop_common::cursor::Cursor;

use super::{Authority, AuthorityKey};

/// Length of the content in bytes.
pub const CONTENT_LEN_MAX: usize = 65_536;
/// Length of a whole document in bytes.
pub(super) const DOCUMENT_LEN_MAX: usize = HEAD_LEN + CONTENT_LEN_MAX + SIGNATURE_LEN;
const MAGIC: [u8; 4] = *b"IPGD";
const VERSION: u8 = 1;
const HEAD_LEN: usize = 28;
const SIGNATURE_LEN: usize = 64;
/// No certificate or list begins with it, so no signature of one is that of another.
const LABEL: &[u8] = b"ipop group document v1";

/// What has been signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Of two documents the one with the higher number counts.
    pub number: u64,
    pub issued: u64,
    pub content: Vec<u8>,
}

impl Document {
    /// `None` if the content is too long.
    pub fn sign(&self, key: &AuthorityKey) -> Option<Vec<u8>> {
        let len = u32::try_from(self.content.len()).ok().filter(|_| self.content.len() <= CONTENT_LEN_MAX)?;
        let mut bytes = Vec::with_capacity(HEAD_LEN + self.content.len() + SIGNATURE_LEN);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, 0, 0, 0]);
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.issued.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(&self.content);
        let signature = key.sign(&[LABEL, &bytes].concat());
        bytes.extend(signature);
        Some(bytes)
    }

    /// `None` if it is not one that the authority has signed.
    pub fn open(bytes: &[u8], authority: &Authority) -> Option<Self> {
        if bytes.bytes::<4>(0)? != MAGIC || bytes.bytes::<4>(4)? != [VERSION, 0, 0, 0] {
            return None;
        }
        let len = usize::try_from(u32::from_be_bytes(bytes.bytes(24)?)).ok()?;
        if len > CONTENT_LEN_MAX || bytes.len() != HEAD_LEN + len + SIGNATURE_LEN {
            return None;
        }
        let (signed, signature) = bytes.split_at(HEAD_LEN + len);
        let document = Self {
            number: u64::from_be_bytes(bytes.bytes(8)?),
            issued: u64::from_be_bytes(bytes.bytes(16)?),
            content: signed.get(HEAD_LEN..)?.to_vec(),
        };
        authority.verifies(&[LABEL, signed].concat(), signature).then_some(document)
    }
}
