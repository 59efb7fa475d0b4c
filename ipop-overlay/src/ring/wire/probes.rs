//! Payloads by which an operator looks at the ring: echoes and surveys.

use alloc::vec::Vec;

use super::{Coordinates, Reader, Roles, put_coordinates};
use crate::address::{ADDRESS_LEN, NodeAddress};

/// What an echo message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EchoKind {
    /// The destination is to answer.
    Asks = 0,
    Answers = 1,
    /// The node is to answer at which it ends, be that the destination or not.
    Traces = 2,
    /// It ended here: it had taken the hops that it might.
    UsedUp = 3,
    /// It ended here: no way leads further.
    NoWay = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) kind: EchoKind,
    /// In an answer: how many nodes the question has come to, with the one that answers.
    pub(crate) hops: u16,
    pub(crate) token: u64,
}

impl Echo {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let kind = match reader.u8()? {
            0 => EchoKind::Asks,
            1 => EchoKind::Answers,
            2 => EchoKind::Traces,
            3 => EchoKind::UsedUp,
            4 => EchoKind::NoWay,
            _ => return None,
        };
        reader.zeros::<1>()?;
        Some(Self { kind, hops: reader.u16()?, token: reader.u64()? })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        out.extend([self.kind as u8, 0]);
        out.extend(self.hops.to_be_bytes());
        out.extend(self.token.to_be_bytes());
        out
    }
}

/// A question for a node's connections: as long as the longest answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SurveyAsk {
    /// Which of the parts in which the connections are told.
    pub(crate) page: u8,
    pub(crate) token: u64,
}

/// A part of a node's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SurveyAnswer {
    pub(crate) page: u8,
    /// How many connections the node has.
    pub(crate) total: u16,
    pub(crate) token: u64,
    pub(crate) log2_size: u16,
    pub(crate) coordinates: Coordinates,
    /// Who is at the other end, why the node keeps it, and why the other does.
    pub(crate) connections: Vec<(NodeAddress, Roles, Roles)>,
}

/// Either of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Survey {
    Asks(SurveyAsk),
    Answers(SurveyAnswer),
}

/// Connections in one answer.
pub(crate) const SURVEY_PAGE: usize = 32;
const SURVEY_HEAD: usize = 28;
/// Length of a question.
const SURVEY_LEN: usize = SURVEY_HEAD + SURVEY_PAGE * (ADDRESS_LEN + 2);

impl Survey {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let (kind, page) = (reader.u8()?, reader.u8()?);
        match kind {
            0 => {
                reader.zeros::<2>()?;
                let token = reader.u64()?;
                let is_whole = payload.len() == SURVEY_LEN && reader.0.iter().all(|byte| *byte == 0);
                is_whole.then_some(Self::Asks(SurveyAsk { page, token }))
            }
            1 => {
                let (total, token) = (reader.u16()?, reader.u64()?);
                let (log2_size, coordinates) = (reader.u16()?, reader.coordinates()?);
                let count = usize::from(reader.u8()?);
                reader.zeros::<1>()?;
                if count > SURVEY_PAGE {
                    return None;
                }
                let mut entry = || {
                    let address = reader.address()?;
                    Some((address, Roles::from_bits(reader.u8()?)?, Roles::from_bits(reader.u8()?)?))
                };
                let connections = (0..count).map(|_| entry()).collect::<Option<Vec<_>>>()?;
                reader.end()?;
                let answer = SurveyAnswer { page, total, token, log2_size, coordinates, connections };
                Some(Self::Answers(answer))
            }
            _ => None,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SURVEY_LEN);
        match self {
            Self::Asks(ask) => {
                out.extend([0, ask.page, 0, 0]);
                out.extend(ask.token.to_be_bytes());
                out.resize(SURVEY_LEN, 0);
            }
            Self::Answers(answer) => {
                let connections = answer.connections.get(..SURVEY_PAGE).unwrap_or(&answer.connections);
                out.extend([1, answer.page]);
                out.extend(answer.total.to_be_bytes());
                out.extend(answer.token.to_be_bytes());
                out.extend(answer.log2_size.to_be_bytes());
                put_coordinates(&mut out, &answer.coordinates);
                out.extend([connections.len() as u8, 0]);
                for (address, mine, theirs) in connections {
                    out.extend(address.0);
                    out.extend([mine.0, theirs.0]);
                }
            }
        }
        out
    }
}
