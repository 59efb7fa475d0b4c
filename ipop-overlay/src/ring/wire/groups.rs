//! Messages between two nodes about groups, and the datagrams for these.

use alloc::vec::Vec;

use super::{DATAGRAM, GROUP, Reader};

/// The version of both messages; another one is refused.
const VERSION: u8 = 1;
/// Length of a datagram's header.
pub(crate) const DATAGRAM_LEN: usize = 128;
/// The longest frame for a group: what goes over Ethernet. On the way it is longer, and may go in fragments.
pub const FRAME_MAX: usize = 1500;
/// Before what is signed of a datagram, so that no signature means two things.
const SIGNED: &[u8] = b"ipop multicast v1";

/// A group: what kind of address it has, and that address. What they mean is for those who join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    pub kind: u8,
    pub address: [u8; 16],
}

/// What a node says about a group to the next in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum GroupWord {
    /// The sender wants what goes to the group, or still does.
    Join = 0,
    /// It does not any more.
    Leave = 1,
    /// It gets it.
    Joined = 2,
    /// The tables are full.
    Full = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupMessage {
    pub(crate) word: GroupWord,
    pub(crate) group: Group,
}

/// What a node has sent to a group, on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    /// Away from the root of the tree, and not towards it.
    pub(crate) goes_down: bool,
    pub(crate) hops: u8,
    pub(crate) group: Group,
    /// Of the node that has sent it first.
    pub(crate) origin: [u8; 32],
    /// Larger than all before of this origin.
    pub(crate) number: u64,
    pub(crate) signature: [u8; 64],
    pub(crate) frame: &'a [u8],
}

impl GroupMessage {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == GROUP)?;
        reader.u8().filter(|version| *version == VERSION)?;
        let word = match reader.u8()? {
            0 => GroupWord::Join,
            1 => GroupWord::Leave,
            2 => GroupWord::Joined,
            3 => GroupWord::Full,
            _ => return None,
        };
        let kind = reader.u8()?;
        reader.zeros::<4>()?;
        let group = Group { kind, address: reader.take()? };
        reader.end().map(|()| Self { word, group })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.extend([GROUP, VERSION, self.word as u8, self.group.kind, 0, 0, 0, 0]);
        out.extend(self.group.address);
        out
    }
}

impl<'a> Datagram<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == DATAGRAM)?;
        reader.u8().filter(|version| *version == VERSION)?;
        let flags = reader.flags(1)?;
        let hops = reader.u8()?;
        let len = usize::from(reader.u16()?);
        reader.zeros::<1>()?;
        let group = Group { kind: reader.u8()?, address: reader.take()? };
        let (origin, number) = (reader.take()?, reader.u64()?);
        let signature = reader.take()?;
        let frame = reader.slice(len).filter(|frame| frame.len() <= FRAME_MAX)?;
        reader.end()?;
        Some(Self { goes_down: flags & 1 != 0, hops, group, origin, number, signature, frame })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(DATAGRAM_LEN + self.frame.len());
        let len = u16::try_from(self.frame.len()).unwrap_or(u16::MAX);
        out.extend([DATAGRAM, VERSION, u8::from(self.goes_down), self.hops]);
        out.extend(len.to_be_bytes());
        out.extend([0, self.group.kind]);
        out.extend(self.group.address);
        out.extend(self.origin);
        out.extend(self.number.to_be_bytes());
        out.extend(self.signature);
        out.extend(self.frame);
        out
    }

    /// What its origin signs: all that stays as it is on the way.
    pub(crate) fn signed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SIGNED.len() + 25 + self.frame.len());
        out.extend(SIGNED);
        out.push(self.group.kind);
        out.extend(self.group.address);
        out.extend(self.number.to_be_bytes());
        out.extend(self.frame);
        out
    }
}
