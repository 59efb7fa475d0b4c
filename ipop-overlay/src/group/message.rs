//! What members say to each other about certificates, as text of their session (docs/wire-format.md has the bytes).
//!
//! A certificate, and what is signed for all, may be longer than a message: they go in parts of at most [`PART_LEN_MAX`].

use alloc::vec::Vec;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use ipop_common::cursor::Cursor;
use ipop_common::wireguard::PADDING;

use super::{CERTIFICATE_LEN_MAX, CertificateError};

/// First bytes of the messages.
const CERTIFICATE: u8 = 13;
const REFUSAL: u8 = 14;
const ASK: u8 = 15;
const PART: u8 = 16;

/// Bytes of one part.
pub(crate) const PART_LEN_MAX: usize = 1024;
/// Parts of a certificate.
const PARTS_MAX: usize = CERTIFICATE_LEN_MAX.div_ceil(PART_LEN_MAX);
const HEAD_LEN: usize = 32;

/// By which a certificate is meant; 0 is none's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertificateId(pub(crate) u32);

impl CertificateId {
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let hash: [u8; 32] = Blake2s::<U32>::digest(certificate).into();
        Self(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).max(1))
    }
}

/// The newest that a node has of what is signed for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) list: u64,
    pub(crate) document: u64,
}

impl Numbers {
    pub(crate) fn of(self, kind: Kind) -> u64 {
        match kind {
            Kind::List => self.list,
            Kind::Document => self.document,
        }
    }
}

/// What is signed for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// [`RevocationList`](super::RevocationList).
    List = 1,
    /// [`Document`](super::document::Document).
    Document = 2,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::List, Self::Document];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Bytes of the longest.
    pub(crate) const fn len_max(self) -> usize {
        match self {
            Self::List => super::revocation::LIST_LEN_MAX,
            Self::Document => super::document::DOCUMENT_LEN_MAX,
        }
    }
}

/// Why a node is not taken for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Its certificate does not count.
    Certificate(CertificateError),
    /// It has shown none in time.
    NoCertificate,
}

impl Distrust {
    /// The reason's number, and the time that it is about.
    fn to_wire(self) -> (u8, u64) {
        match self {
            Self::Certificate(CertificateError::Malformed) => (1, 0),
            Self::Certificate(CertificateError::WrongGroup) => (2, 0),
            Self::Certificate(CertificateError::BadSignature) => (3, 0),
            Self::Certificate(CertificateError::WrongKey) => (4, 0),
            Self::Certificate(CertificateError::NotYetValid { not_before }) => (5, not_before),
            Self::Certificate(CertificateError::Expired { not_after }) => (6, not_after),
            Self::Certificate(CertificateError::Revoked) => (7, 0),
            Self::NoCertificate => (8, 0),
        }
    }

    fn of_wire(reason: u8, time: u64) -> Option<Self> {
        let error = match (reason, time) {
            (1, 0) => CertificateError::Malformed,
            (2, 0) => CertificateError::WrongGroup,
            (3, 0) => CertificateError::BadSignature,
            (4, 0) => CertificateError::WrongKey,
            (5, not_before) => CertificateError::NotYetValid { not_before },
            (6, not_after) => CertificateError::Expired { not_after },
            (7, 0) => CertificateError::Revoked,
            (8, 0) => return Some(Self::NoCertificate),
            _ => return None,
        };
        Some(Self::Certificate(error))
    }
}

impl core::fmt::Display for Distrust {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Certificate(error) => error.fmt(f),
            Self::NoCertificate => f.write_str("no certificate of the group has come"),
        }
    }
}

/// One part of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CertificatePart<'a> {
    pub(crate) id: CertificateId,
    pub(crate) part: u8,
    /// 1 to [`PARTS_MAX`]; all but the last have [`PART_LEN_MAX`] bytes.
    pub(crate) parts: u8,
    pub(crate) bytes: &'a [u8],
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Who the sender is, and what it has.
    Certificate {
        wants_answer: bool,
        /// The receiver's certificate that the sender has accepted.
        accepted: CertificateId,
        numbers: Numbers,
        /// `None` where only the rest is new.
        part: Option<CertificatePart<'a>>,
    },
    /// The sender does not take the receiver for a member, and ends the session.
    Refusal {
        why: Distrust,
        /// The certificate that was refused.
        id: CertificateId,
        /// The sender's clock, in seconds since 1970.
        clock: u64,
    },
    /// Asks for parts of what is signed for all.
    Ask { kind: Kind, number: u64, offset: u32, parts: u16 },
    /// One of them.
    Part { kind: Kind, number: u64, offset: u32, total: u32, bytes: &'a [u8] },
}

impl<'a> Message<'a> {
    /// Whether a text is one of these messages, or wants to be.
    pub(crate) fn is_one(text: &[u8]) -> bool {
        matches!(text.first(), Some(&(CERTIFICATE | REFUSAL | ASK | PART)))
    }

    /// Reads a text; `None` for any that is not written like that.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        match text.u8_at(0)? {
            CERTIFICATE => Self::parse_certificate(text),
            REFUSAL => Self::parse_refusal(text),
            ASK => Self::parse_ask(text),
            PART => Self::parse_part(text),
            _ => None,
        }
    }

    fn parse_certificate(text: &'a [u8]) -> Option<Self> {
        let [_, flags @ 0..=1, part, parts] = text.bytes::<4>(0)? else { return None };
        let (id, accepted) = (CertificateId(text.u32_at(4)?), CertificateId(text.u32_at(8)?));
        if text.u16_at(14)? != 0 {
            return None;
        }
        let bytes = content(text, text.u16_at(12)?)?;
        let numbers = Numbers { list: text.u64_at(16)?, document: text.u64_at(24)? };
        let part = match parts {
            0 if part == 0 && id.0 == 0 && bytes.is_empty() => None,
            1.. if usize::from(parts) <= PARTS_MAX && part < parts && id.0 != 0 && !bytes.is_empty() => {
                let is_whole = part + 1 == parts || bytes.len() == PART_LEN_MAX;
                Some(is_whole.then_some(CertificatePart { id, part, parts, bytes })?)
            }
            _ => return None,
        };
        Some(Self::Certificate { wants_answer: flags == 1, accepted, numbers, part })
    }

    fn parse_refusal(text: &[u8]) -> Option<Self> {
        let [_, reason, 0, 0] = text.bytes::<4>(0)? else { return None };
        let why = Distrust::of_wire(reason, text.u64_at(8)?)?;
        let is_whole = text.len() == HEAD_LEN && text.u64_at(24)? == 0;
        let (id, clock) = (CertificateId(text.u32_at(4)?), text.u64_at(16)?);
        is_whole.then_some(Self::Refusal { why, id, clock })
    }

    fn parse_ask(text: &[u8]) -> Option<Self> {
        let kind = Kind::of(text.u8_at(1)?)?;
        let is_whole = text.len() == HEAD_LEN && text.bytes::<16>(16)? == [0; 16];
        let (parts, offset, number) = (text.u16_at(2)?, text.u32_at(4)?, text.u64_at(8)?);
        is_whole.then_some(Self::Ask { kind, number, offset, parts })
    }

    fn parse_part(text: &'a [u8]) -> Option<Self> {
        let kind = Kind::of(text.u8_at(1)?)?;
        let (offset, number, total) = (text.u32_at(4)?, text.u64_at(8)?, text.u32_at(16)?);
        let bytes = content(text, text.u16_at(2)?)?;
        let end = usize::try_from(offset).ok()?.checked_add(bytes.len())?;
        let total_len = usize::try_from(total).ok()?;
        let fits = text.bytes::<12>(20)? == [0; 12] && end <= total_len && total_len <= kind.len_max();
        fits.then_some(Self::Part { kind, number, offset, total, bytes })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut head = [0; HEAD_LEN];
        let mut content: &[u8] = &[];
        match self {
            Self::Certificate { wants_answer, accepted, numbers, part } => {
                head[..2].copy_from_slice(&[CERTIFICATE, u8::from(wants_answer)]);
                if let Some(CertificatePart { id, part, parts, bytes }) = part {
                    head[2..4].copy_from_slice(&[part, parts]);
                    head[4..8].copy_from_slice(&id.0.to_be_bytes());
                    head[12..14].copy_from_slice(&len_of(bytes));
                    content = bytes;
                }
                head[8..12].copy_from_slice(&accepted.0.to_be_bytes());
                head[16..24].copy_from_slice(&numbers.list.to_be_bytes());
                head[24..32].copy_from_slice(&numbers.document.to_be_bytes());
            }
            Self::Refusal { why, id, clock } => {
                let (reason, time) = why.to_wire();
                head[..2].copy_from_slice(&[REFUSAL, reason]);
                head[4..8].copy_from_slice(&id.0.to_be_bytes());
                head[8..16].copy_from_slice(&time.to_be_bytes());
                head[16..24].copy_from_slice(&clock.to_be_bytes());
            }
            Self::Ask { kind, number, offset, parts } => {
                head[..2].copy_from_slice(&[ASK, kind as u8]);
                head[2..4].copy_from_slice(&parts.to_be_bytes());
                head[4..8].copy_from_slice(&offset.to_be_bytes());
                head[8..16].copy_from_slice(&number.to_be_bytes());
            }
            Self::Part { kind, number, offset, total, bytes } => {
                head[..2].copy_from_slice(&[PART, kind as u8]);
                head[2..4].copy_from_slice(&len_of(bytes));
                head[4..8].copy_from_slice(&offset.to_be_bytes());
                head[8..16].copy_from_slice(&number.to_be_bytes());
                head[16..20].copy_from_slice(&total.to_be_bytes());
                content = bytes;
            }
        }
        let mut text = [&head, content].concat();
        text.resize(text.len().next_multiple_of(PADDING), 0);
        text
    }
}

/// The bytes behind the head, and behind them nothing but padding.
fn content(text: &[u8], len: u16) -> Option<&[u8]> {
    let len = usize::from(len);
    let end = HEAD_LEN + len;
    let is_padded = text.len() == end.next_multiple_of(PADDING);
    let padding = text.get(end..).filter(|_| is_padded && len <= PART_LEN_MAX)?;
    text.get(HEAD_LEN..end).filter(|_| padding.iter().all(|byte| *byte == 0))
}

/// Of a part.
fn len_of(bytes: &[u8]) -> [u8; 2] {
    debug_assert!(bytes.len() <= PART_LEN_MAX);
    (bytes.len() as u16).to_be_bytes()
}

/// A certificate of which not all parts may have come.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    id: CertificateId,
    parts: Vec<Option<Vec<u8>>>,
}

impl Assembly {
    /// Takes a part; the certificate, once it is whole.
    pub(crate) fn take(&mut self, part: &CertificatePart<'_>) -> Option<Vec<u8>> {
        if self.id != part.id || self.parts.len() != usize::from(part.parts) {
            (self.id, self.parts) = (part.id, alloc::vec![None; usize::from(part.parts)]);
        }
        *self.parts.get_mut(usize::from(part.part))? = Some(part.bytes.to_vec());
        let whole: Vec<u8> = self.parts.iter().cloned().collect::<Option<Vec<_>>>()?.concat();
        let id = core::mem::take(self).id;
        // Parts of two that have the same number are none's.
        (CertificateId::of(&whole) == id).then_some(whole)
    }
}

/// The messages by which a certificate goes.
pub(crate) fn of_certificate(
    certificate: &[u8],
    wants_answer: bool,
    accepted: CertificateId,
    numbers: Numbers,
) -> impl Iterator<Item = Vec<u8>> {
    let id = CertificateId::of(certificate);
    let parts = certificate.chunks(PART_LEN_MAX);
    let count = parts.len() as u8;
    parts.zip(0u8..).map(move |(bytes, part)| {
        // One answer is enough.
        let wants_answer = wants_answer && part + 1 == count;
        let part = Some(CertificatePart { id, part, parts: count, bytes });
        Message::Certificate { wants_answer, accepted, numbers, part }.to_bytes()
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    const NUMBERS: Numbers = Numbers { list: 3, document: 7 };

    #[test]
    fn golden_vectors() {
        let certificate = Message::Certificate {
            wants_answer: true,
            accepted: CertificateId(0x0102_0304),
            numbers: NUMBERS,
            part: Some(CertificatePart {
                id: CertificateId(0x0a0b_0c0d),
                part: 0,
                parts: 1,
                bytes: &[0x30, 0],
            }),
        };
        let ask = Message::Ask { kind: Kind::List, number: 3, offset: 1024, parts: 16 };
        let part = Message::Part { kind: Kind::Document, number: 7, offset: 0, total: 1, bytes: &[9] };
        let why = Distrust::Certificate(CertificateError::Expired { not_after: 0x6ab1_3b80 });
        let refusal = Message::Refusal { why, id: CertificateId(0x0a0b_0c0d), clock: 0x6ab1_3b90 };
        #[rustfmt::skip]
        let expected: [(Message<'_>, &[u8]); 4] = [
            (certificate, &[
                13, 1, 0, 1, 0x0a, 0x0b, 0x0c, 0x0d, 1, 2, 3, 4, 0, 2, 0, 0,
                0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7,
                0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ]),
            (refusal, &[
                14, 6, 0, 0, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0, 0x6a, 0xb1, 0x3b, 0x80,
                0, 0, 0, 0, 0x6a, 0xb1, 0x3b, 0x90, 0, 0, 0, 0, 0, 0, 0, 0,
            ]),
            (ask, &[
                15, 1, 0, 16, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 3,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ]),
            (part, &[
                16, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
                0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ]),
        ];
        for (message, bytes) in expected {
            assert_eq!(message.to_bytes(), bytes);
            assert_eq!(Message::parse(bytes), Some(message));
        }
    }

    #[test]
    fn a_long_certificate_goes_in_parts_and_comes_in_any_order() {
        let certificate: Vec<u8> = (0..2500u32).map(|byte| byte as u8).collect();
        let messages: Vec<Vec<u8>> =
            of_certificate(&certificate, true, CertificateId::default(), NUMBERS).collect();
        assert_eq!(messages.len(), 3);
        let mut assembly = Assembly::default();
        let mut whole = None;
        for message in messages.iter().rev() {
            assert_eq!(whole, None);
            let Some(Message::Certificate { part: Some(part), .. }) = Message::parse(message) else {
                panic!("{message:?}")
            };
            whole = assembly.take(&part);
        }
        assert_eq!(whole, Some(certificate));
    }

    #[test]
    fn parts_of_different_certificates_make_none() {
        let (one, other) = (vec![1; 1500], vec![2; 1500]);
        let id = CertificateId::of(&one);
        let mut assembly = Assembly::default();
        let part = |bytes, part| CertificatePart { id, part, parts: 2, bytes };
        assert_eq!(assembly.take(&part(&one[..1024], 0)), None);
        assert_eq!(assembly.take(&part(&other[1024..], 1)), None);
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_written(kind in 13u8..=16, mut text in prop::collection::vec(any::<u8>(), 32..=64), sparse: bool) {
            text[0] = kind;
            if sparse {
                text.truncate(32);
                text[1] &= 3;
                text[2..4].fill(0);
                text[12..].fill(0);
            }
            if let Some(message) = Message::parse(&text) {
                prop_assert_eq!(message.to_bytes(), text);
            }
        }
    }
}
