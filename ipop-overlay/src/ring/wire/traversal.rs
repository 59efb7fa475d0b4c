//! Messages between two nodes about the way between them: where one sees the other, and relays.

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::{ASK_RELAY, ASK_SEEN, RELAY, Reader, SEEN, put_endpoint};
use crate::address::NodeAddress;

/// A node asks from where its packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskSeen;

/// From where the other's packets come, as the sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(pub(crate) SocketAddr);

/// A node asks another to relay between it and a third one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AskRelay {
    pub(crate) to: NodeAddress,
}

/// What a node that was asked to relay says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RelayStatus {
    Granted = 0,
    /// It relays for nobody.
    NotByThis = 1,
    /// It has no direct connection to that node.
    NoConnection = 2,
    /// It relays for as many as it can.
    TooMany = 3,
}

/// The answer of a node that was asked to relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) status: RelayStatus,
    pub(crate) label: u32,
    pub(crate) to: NodeAddress,
    /// Round trip to that node, in microseconds; 0: not known.
    pub(crate) rtt_us: u32,
    /// The largest packet in the clear that its wires to both nodes take; 0: not known.
    pub(crate) mtu: u16,
}

impl AskSeen {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == ASK_SEEN)?;
        reader.zeros::<3>()?;
        reader.end().map(|()| Self)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [ASK_SEEN, 0, 0, 0].to_vec()
    }
}

impl Seen {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == SEEN)?;
        reader.zeros::<3>()?;
        let endpoint = reader.endpoint()?;
        reader.end().map(|()| Self(endpoint))
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = [SEEN, 0, 0, 0].to_vec();
        put_endpoint(&mut out, self.0);
        out
    }
}

impl AskRelay {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == ASK_RELAY)?;
        reader.zeros::<3>()?;
        let to = reader.address()?;
        reader.zeros::<8>()?;
        reader.end().map(|()| Self { to })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = [ASK_RELAY, 0, 0, 0].to_vec();
        out.extend(self.to.0);
        // As long as the answer.
        out.resize(RELAY_LEN, 0);
        out
    }
}

/// Length of the answer of a relay.
const RELAY_LEN: usize = 32;

impl Relay {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        reader.u8().filter(|kind| *kind == RELAY)?;
        let status = match reader.u8()? {
            0 => RelayStatus::Granted,
            1 => RelayStatus::NotByThis,
            2 => RelayStatus::NoConnection,
            3 => RelayStatus::TooMany,
            _ => return None,
        };
        let mtu = reader.u16()?;
        let (label, to, rtt_us) = (reader.u32()?, reader.address()?, reader.u32()?);
        let relay = Self { status, label, to, rtt_us, mtu };
        reader.end().map(|()| relay)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RELAY_LEN);
        out.extend([RELAY, self.status as u8]);
        out.extend(self.mtu.to_be_bytes());
        out.extend(self.label.to_be_bytes());
        out.extend(self.to.0);
        out.extend(self.rtt_us.to_be_bytes());
        out
    }
}
