//! The messages about records, payloads of routed messages of kind 7. Big-endian; a message that is longer or
//! shorter than it says is refused.
//!
//! ```text
//! all         0 what · 1 replica: which of the key's places · 2 argument u16 · 4 token u64
//! store (1)   12 record
//! get (2)     2 from which record on · 12 key · 32 kind: 0 put, 1 create · 33 zeros: no answer is longer than this
//! stored (3)  nothing more
//! stands (4)  12 the record that stands; nothing where it is longer than the question
//! refused (5) 2 why: 1 expired, 2 of the future, 3 lives too long, 4 not signed, 5 older than what there is,
//!             6 no room, 7 too many
//! records (6) 2 from which on · 12 how many there are u16 · 14 how many are here · 15 zero · 16 records.
//!             None, although there are some: the question had no room for one
//! copy (7)    12 record; of a neighbour, which keeps it as well
//! conflict (8) 12 the record that stands instead of one of the node's
//! ```
//!
//! An answer has the replica and the token of its question. A token of 0: no answer is wanted.

use alloc::vec::Vec;

use ipop_common::cursor::Cursor;

use super::REPLICAS;
use super::record::{Invalid, Key, Kind, Record};
use crate::address::{ADDRESS_LEN, NodeAddress};

/// Length of what all have.
pub(crate) const HEAD_LEN: usize = 12;
/// Length of a question without zeros, and of an answer to it without records.
pub(crate) const GET_LEN: usize = HEAD_LEN + ADDRESS_LEN + 1;
pub(crate) const RECORDS_LEN: usize = 16;
/// Room for an answer: at first, which is enough for a record with a short value; and for any record.
pub(crate) const ROOM: usize = 256;
pub(crate) const ROOM_MAX: usize = RECORDS_LEN + super::record::RECORD_LEN + super::record::VALUE_MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) replica: u8,
    pub(crate) token: u64,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Store(Record),
    /// `room`: the length of the whole message, and the most that an answer may have.
    Get {
        key: Key,
        kind: Kind,
        from: u16,
        room: usize,
    },
    Stored,
    Stands(Option<Record>),
    Refused(Invalid),
    Records {
        from: u16,
        total: u16,
        records: Vec<Record>,
    },
    Copy(Record),
    Conflict(Record),
}

impl Invalid {
    fn parse(byte: u16) -> Option<Self> {
        let all = [
            Self::Expired,
            Self::Future,
            Self::TooLong,
            Self::Signature,
            Self::Stale,
            Self::Full,
            Self::TooMany,
        ];
        all.into_iter().find(|invalid| *invalid as u16 == byte)
    }
}

impl Message {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (what, argument) = match &self.body {
            Body::Store(_) => (1, 0),
            Body::Get { from, .. } => (2, *from),
            Body::Stored => (3, 0),
            Body::Stands(_) => (4, 0),
            Body::Refused(why) => (5, *why as u16),
            Body::Records { from, .. } => (6, *from),
            Body::Copy(_) => (7, 0),
            Body::Conflict(_) => (8, 0),
        };
        let mut out = Vec::with_capacity(ROOM);
        out.extend([what, self.replica]);
        out.extend(u16::to_be_bytes(argument));
        out.extend(self.token.to_be_bytes());
        match &self.body {
            Body::Store(record) | Body::Copy(record) | Body::Conflict(record) => {
                out.extend(record.to_bytes());
            }
            Body::Stands(record) => record.iter().for_each(|record| out.extend(record.to_bytes())),
            Body::Get { key, kind, room, .. } => {
                out.extend(key.0.0);
                out.push(*kind as u8);
                out.resize((*room).clamp(GET_LEN, ROOM_MAX), 0);
            }
            Body::Records { total, records, .. } => {
                out.extend(total.to_be_bytes());
                out.extend([u8::try_from(records.len()).unwrap_or(u8::MAX), 0]);
                records.iter().for_each(|record| out.extend(record.to_bytes()));
            }
            Body::Stored | Body::Refused(_) => {}
        }
        out
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let [what, replica] = bytes.bytes::<2>(0)?;
        let (argument, token) = (Cursor::u16_at(bytes, 2)?, bytes.u64_at(4)?);
        let rest = bytes.get(HEAD_LEN..)?;
        let has_argument = matches!(what, 2 | 5 | 6);
        if replica >= REPLICAS || !has_argument && argument != 0 {
            return None;
        }
        let body = match what {
            1 => Body::Store(alone(rest)?),
            2 => parse_get(rest, argument, bytes.len())?,
            3 if rest.is_empty() => Body::Stored,
            4 if rest.is_empty() => Body::Stands(None),
            4 => Body::Stands(Some(alone(rest)?)),
            5 if rest.is_empty() => Body::Refused(Invalid::parse(argument)?),
            6 => parse_records(rest, argument)?,
            7 => Body::Copy(alone(rest)?),
            8 => Body::Conflict(alone(rest)?),
            _ => return None,
        };
        Some(Self { replica, token, body })
    }
}

/// One record and nothing behind it.
fn alone(bytes: &[u8]) -> Option<Record> {
    Record::parse(bytes).filter(|(_, rest)| rest.is_empty()).map(|(record, _)| record)
}

fn parse_get(rest: &[u8], from: u16, room: usize) -> Option<Body> {
    let key = rest.bytes::<ADDRESS_LEN>(0).map(NodeAddress)?;
    let kind = match rest.u8_at(ADDRESS_LEN)? {
        0 => Kind::Put,
        1 => Kind::Create,
        _ => return None,
    };
    let zeros = rest.get(ADDRESS_LEN + 1..)?;
    let is_valid = key.0[ADDRESS_LEN - 1] & 1 == 0 && room <= ROOM_MAX && zeros.iter().all(|byte| *byte == 0);
    is_valid.then_some(Body::Get { key: Key(key), kind, from, room })
}

fn parse_records(rest: &[u8], from: u16) -> Option<Body> {
    let total = Cursor::u16_at(rest, 0)?;
    let [count, 0] = rest.bytes::<2>(2)? else { return None };
    let (mut records, mut rest) = (Vec::new(), rest.get(4..)?);
    for _ in 0..count {
        let (record, behind) = Record::parse(rest)?;
        records.push(record);
        rest = behind;
    }
    rest.is_empty().then_some(Body::Records { from, total, records })
}

/// The longest message is a payload of the ring.
const _: () = assert!(ROOM_MAX <= crate::ring::PAYLOAD_MAX);
