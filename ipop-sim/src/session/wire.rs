//! Datagrams of sessions, laid out as WireGuard's and as long.

use std::rc::Rc;

use ipop_overlay::Instant;

/// One UDP payload; in a transport message the counter's place has the length of the text.
pub(crate) type Datagram = Rc<[u8]>;

pub(super) const INITIATION: u8 = 1;
const INITIATION_LEN: usize = 148;
pub(super) const RESPONSE: u8 = 2;
const RESPONSE_LEN: usize = 92;
pub(super) const TRANSPORT: u8 = 4;
const TRANSPORT_HEADER_LEN: usize = 16;
const TAG_LEN: usize = 16;

pub(super) fn initiation(own: &[u8; 32], index: u32, now: Instant) -> Datagram {
    let mut bytes = [0; INITIATION_LEN];
    bytes[0] = INITIATION;
    bytes[4..8].copy_from_slice(&index.to_le_bytes());
    bytes[8..40].copy_from_slice(own);
    bytes[40..48].copy_from_slice(&now.as_nanos().to_le_bytes());
    Rc::from(bytes)
}

pub(super) fn response(local: u32, remote: u32) -> Datagram {
    let mut bytes = [0; RESPONSE_LEN];
    bytes[0] = RESPONSE;
    bytes[4..8].copy_from_slice(&local.to_le_bytes());
    bytes[8..12].copy_from_slice(&remote.to_le_bytes());
    Rc::from(bytes)
}

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Handshake,
    Keepalive,
    /// What a node says of itself to a peer: hellos, and which addresses it has.
    Introduction,
    /// Messages of the ring, and what they carry.
    Ring,
    /// A packet of the virtual network.
    Packet,
}

impl Purpose {
    pub(crate) fn of(datagram: &[u8]) -> Self {
        match (datagram.first(), text(datagram).first()) {
            (Some(&TRANSPORT), None) => Self::Keepalive,
            (Some(&TRANSPORT), Some(1 | 6)) => Self::Introduction,
            (Some(&TRANSPORT), Some(2..=5)) => Self::Ring,
            (Some(&TRANSPORT), Some(_)) => Self::Packet,
            _ => Self::Handshake,
        }
    }
}

/// The text of a transport message; nothing for others.
pub(crate) fn text(datagram: &[u8]) -> &[u8] {
    let len = datagram.get(8..12).and_then(|len| Some(u32::from_le_bytes(len.try_into().ok()?)));
    let (Some(&TRANSPORT), Some(len)) = (datagram.first(), len) else { return &[] };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    datagram.get(TRANSPORT_HEADER_LEN..).and_then(|text| text.get(..len)).unwrap_or_default()
}

/// A transport message; its text is padded as WireGuard's.
pub(crate) fn transport(receiver: u32, text: &[u8]) -> Datagram {
    let mut bytes = vec![0; TRANSPORT_HEADER_LEN + text.len().next_multiple_of(16) + TAG_LEN];
    bytes[0] = TRANSPORT;
    bytes[4..8].copy_from_slice(&receiver.to_le_bytes());
    bytes[8..12].copy_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + text.len()].copy_from_slice(text);
    Rc::from(bytes)
}
