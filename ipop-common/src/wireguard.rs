//! The messages of WireGuard (the WireGuard paper, section 5.4), as bytes.
//!
//! ```text
//! initiation, 148 bytes     response, 92 bytes        cookie reply, 64 bytes   transport
//!   0  1, three zero bytes    0  2, three zero bytes    0  3, three zero bytes   0  4, three zero bytes
//!   4  sender                 4  sender                 4  receiver              4  receiver
//!   8  ephemeral              8  receiver               8  nonce                 8  counter
//!  40  sealed static key     12  ephemeral             32  sealed cookie        16  sealed packet
//!  88  sealed timestamp      44  sealed nothing
//! 116  mac1                  60  mac1
//! 132  mac2                  76  mac2
//! ```
//! All numbers are little-endian. What is sealed, and with what, is the overlay's business.

use crate::cursor::Cursor;

pub const TYPE_INITIATION: u8 = 1;
pub const TYPE_RESPONSE: u8 = 2;
pub const TYPE_COOKIE_REPLY: u8 = 3;
pub const TYPE_TRANSPORT: u8 = 4;

pub const INITIATION_LEN: usize = 148;
pub const RESPONSE_LEN: usize = 92;
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of the header before the sealed packet.
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Length of the tag that ends everything sealed.
pub const TAG_LEN: usize = 16;
/// Packets are padded to a multiple of this before they are sealed.
pub const PADDING: usize = 16;

/// Length of a public key.
pub const KEY_LEN: usize = 32;
/// Length of a TAI64N timestamp.
pub const TIMESTAMP_LEN: usize = 12;
/// Length of mac1, of mac2 and of a cookie.
pub const MAC_LEN: usize = 16;
/// Length of the nonce of a cookie reply.
pub const COOKIE_NONCE_LEN: usize = 24;

/// The first message of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiation {
    pub sender: u32,
    pub ephemeral: [u8; KEY_LEN],
    pub sealed_static: [u8; KEY_LEN + TAG_LEN],
    pub sealed_timestamp: [u8; TIMESTAMP_LEN + TAG_LEN],
    pub mac1: [u8; MAC_LEN],
    pub mac2: [u8; MAC_LEN],
}

impl Initiation {
    /// What mac1 covers ends here.
    pub const MAC1_OFFSET: usize = 116;
    /// What mac2 covers ends here.
    pub const MAC2_OFFSET: usize = 132;

    /// Reads a datagram; `None` for another type or length, or reserved bytes that are set.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != INITIATION_LEN || !is_of_type(datagram, TYPE_INITIATION) {
            return None;
        }
        Some(Self {
            sender: little_u32(datagram, 4)?,
            ephemeral: datagram.bytes(8)?,
            sealed_static: datagram.bytes(40)?,
            sealed_timestamp: datagram.bytes(88)?,
            mac1: datagram.bytes(Self::MAC1_OFFSET)?,
            mac2: datagram.bytes(Self::MAC2_OFFSET)?,
        })
    }

    pub fn to_bytes(&self) -> [u8; INITIATION_LEN] {
        let mut out = [0; INITIATION_LEN];
        out[0] = TYPE_INITIATION;
        out[4..8].copy_from_slice(&self.sender.to_le_bytes());
        out[8..40].copy_from_slice(&self.ephemeral);
        out[40..88].copy_from_slice(&self.sealed_static);
        out[88..116].copy_from_slice(&self.sealed_timestamp);
        out[116..132].copy_from_slice(&self.mac1);
        out[132..].copy_from_slice(&self.mac2);
        out
    }
}

/// The second message of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    pub sender: u32,
    pub receiver: u32,
    pub ephemeral: [u8; KEY_LEN],
    pub sealed_nothing: [u8; TAG_LEN],
    pub mac1: [u8; MAC_LEN],
    pub mac2: [u8; MAC_LEN],
}

impl Response {
    /// What mac1 covers ends here.
    pub const MAC1_OFFSET: usize = 60;
    /// What mac2 covers ends here.
    pub const MAC2_OFFSET: usize = 76;

    /// Reads a datagram; `None` for another type or length, or reserved bytes that are set.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != RESPONSE_LEN || !is_of_type(datagram, TYPE_RESPONSE) {
            return None;
        }
        Some(Self {
            sender: little_u32(datagram, 4)?,
            receiver: little_u32(datagram, 8)?,
            ephemeral: datagram.bytes(12)?,
            sealed_nothing: datagram.bytes(44)?,
            mac1: datagram.bytes(Self::MAC1_OFFSET)?,
            mac2: datagram.bytes(Self::MAC2_OFFSET)?,
        })
    }

    pub fn to_bytes(&self) -> [u8; RESPONSE_LEN] {
        let mut out = [0; RESPONSE_LEN];
        out[0] = TYPE_RESPONSE;
        out[4..8].copy_from_slice(&self.sender.to_le_bytes());
        out[8..12].copy_from_slice(&self.receiver.to_le_bytes());
        out[12..44].copy_from_slice(&self.ephemeral);
        out[44..60].copy_from_slice(&self.sealed_nothing);
        out[60..76].copy_from_slice(&self.mac1);
        out[76..].copy_from_slice(&self.mac2);
        out
    }
}

/// The answer of a node under load: come again with this cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply {
    pub receiver: u32,
    pub nonce: [u8; COOKIE_NONCE_LEN],
    pub sealed_cookie: [u8; MAC_LEN + TAG_LEN],
}

impl CookieReply {
    /// Reads a datagram; `None` for another type or length, or reserved bytes that are set.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != COOKIE_REPLY_LEN || !is_of_type(datagram, TYPE_COOKIE_REPLY) {
            return None;
        }
        Some(Self {
            receiver: little_u32(datagram, 4)?,
            nonce: datagram.bytes(8)?,
            sealed_cookie: datagram.bytes(32)?,
        })
    }

    pub fn to_bytes(&self) -> [u8; COOKIE_REPLY_LEN] {
        let mut out = [0; COOKIE_REPLY_LEN];
        out[0] = TYPE_COOKIE_REPLY;
        out[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        out[8..32].copy_from_slice(&self.nonce);
        out[32..].copy_from_slice(&self.sealed_cookie);
        out
    }
}

/// What stands before a sealed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportHeader {
    pub receiver: u32,
    pub counter: u64,
}

impl TransportHeader {
    /// Reads the header at the start; `None` for another type, reserved bytes that are set, or a
    /// packet that has no room for a tag.
    #[inline(always)]
    pub fn parse<C: Cursor>(cursor: C) -> Option<Self> {
        if !cursor.holds(TRANSPORT_HEADER_LEN + TAG_LEN) {
            return None;
        }
        Self::parse_at(cursor, 0)
    }

    /// Reads the header at `offset`; `None` for another type, or reserved bytes that are set.
    #[inline(always)]
    pub fn parse_at<C: Cursor>(cursor: C, offset: usize) -> Option<Self> {
        if cursor.bytes::<4>(offset)? != [TYPE_TRANSPORT, 0, 0, 0] {
            return None;
        }
        Some(Self {
            receiver: little_u32(cursor, offset + 4)?,
            counter: u64::from_le_bytes(cursor.bytes(offset + 8)?),
        })
    }

    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; TRANSPORT_HEADER_LEN] {
        let [a, b, c, d] = self.receiver.to_le_bytes();
        let [e, f, g, h, i, j, k, l] = self.counter.to_le_bytes();
        [TYPE_TRANSPORT, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

/// How long a packet of `len` bytes is with its zero padding: a multiple of [`PADDING`], but not
/// beyond `mtu`, and never shorter than the packet.
#[inline(always)]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    let padded = len.saturating_add(PADDING - 1) & !(PADDING - 1);
    let within = if padded < mtu { padded } else { mtu };
    if within < len { len } else { within }
}

#[inline(always)]
fn is_of_type<C: Cursor>(cursor: C, kind: u8) -> bool {
    matches!(cursor.bytes::<4>(0), Some([first, 0, 0, 0]) if first == kind)
}

#[inline(always)]
fn little_u32<C: Cursor>(cursor: C, offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(cursor.bytes(offset)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn initiation() -> Initiation {
        Initiation {
            sender: 0x0102_0304,
            ephemeral: [0x11; 32],
            sealed_static: [0x22; 48],
            sealed_timestamp: [0x33; 28],
            mac1: [0x44; 16],
            mac2: [0x55; 16],
        }
    }

    fn response() -> Response {
        Response {
            sender: 0x0102_0304,
            receiver: 0x0506_0708,
            ephemeral: [0x11; 32],
            sealed_nothing: [0x22; 16],
            mac1: [0x44; 16],
            mac2: [0x55; 16],
        }
    }

    fn cookie_reply() -> CookieReply {
        CookieReply { receiver: 0x0102_0304, nonce: [0x11; 24], sealed_cookie: [0x22; 32] }
    }

    fn runs(start: &[u8], runs: &[(u8, usize)]) -> Vec<u8> {
        let mut out = start.to_vec();
        for (byte, count) in runs {
            out.extend(vec![*byte; *count]);
        }
        out
    }

    #[test]
    fn golden_vectors() {
        let expected =
            runs(&[1, 0, 0, 0, 4, 3, 2, 1], &[(0x11, 32), (0x22, 48), (0x33, 28), (0x44, 16), (0x55, 16)]);
        assert_eq!(initiation().to_bytes()[..], expected);
        assert_eq!(Initiation::parse(&expected), Some(initiation()));

        let expected =
            runs(&[2, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5], &[(0x11, 32), (0x22, 16), (0x44, 16), (0x55, 16)]);
        assert_eq!(response().to_bytes()[..], expected);
        assert_eq!(Response::parse(&expected), Some(response()));

        let expected = runs(&[3, 0, 0, 0, 4, 3, 2, 1], &[(0x11, 24), (0x22, 32)]);
        assert_eq!(cookie_reply().to_bytes()[..], expected);
        assert_eq!(CookieReply::parse(&expected), Some(cookie_reply()));

        let header = TransportHeader { receiver: 0x0102_0304, counter: 0x1112_1314_1516_1718 };
        let expected = [4, 0, 0, 0, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11];
        assert_eq!(header.to_bytes(), expected);
        assert_eq!(TransportHeader::parse(&runs(&expected, &[(0xee, TAG_LEN)])[..]), Some(header));
    }

    #[test]
    fn any_other_length_is_refused() {
        for len in (0..=200).filter(|len| *len != INITIATION_LEN) {
            let bytes = runs(&initiation().to_bytes(), &[(0, 60)]);
            assert_eq!(Initiation::parse(&bytes[..len]), None, "{len}");
        }
        for len in (0..=200).filter(|len| *len != RESPONSE_LEN) {
            let bytes = runs(&response().to_bytes(), &[(0, 120)]);
            assert_eq!(Response::parse(&bytes[..len]), None, "{len}");
        }
        for len in (0..=200).filter(|len| *len != COOKIE_REPLY_LEN) {
            let bytes = runs(&cookie_reply().to_bytes(), &[(0, 140)]);
            assert_eq!(CookieReply::parse(&bytes[..len]), None, "{len}");
        }
        let bytes = runs(&TransportHeader { receiver: 1, counter: 2 }.to_bytes(), &[(0, TAG_LEN)]);
        for len in 0..bytes.len() {
            assert_eq!(TransportHeader::parse(&bytes[..len]), None, "{len}");
        }
    }

    #[test]
    fn another_type_or_a_reserved_bit_is_refused() {
        for bit in 0..32 {
            let flipped = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            assert_eq!(Initiation::parse(&flipped(&initiation().to_bytes())), None, "bit {bit}");
            assert_eq!(Response::parse(&flipped(&response().to_bytes())), None, "bit {bit}");
            assert_eq!(CookieReply::parse(&flipped(&cookie_reply().to_bytes())), None, "bit {bit}");
            let transport = runs(&[4, 0, 0, 0], &[(7, 28)]);
            assert_eq!(TransportHeader::parse(&flipped(&transport)[..]), None, "bit {bit}");
        }
    }

    #[test]
    fn padding_ends_at_the_mtu() {
        for (len, mtu, expected) in [
            (0, 1420, 0),
            (1, 1420, 16),
            (16, 1420, 16),
            (17, 1420, 32),
            (1410, 1420, 1420),
            (1420, 1420, 1420),
            (1500, 1420, 1500),
            (usize::MAX, 1420, usize::MAX),
        ] {
            assert_eq!(padded_len(len, mtu), expected, "{len} of {mtu}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_written(kind in 0u8..6, rest in prop::collection::vec(any::<u8>(), 0..=160), len in 0usize..4) {
            let mut bytes = vec![kind, 0, 0, 0];
            bytes.extend(rest);
            bytes.resize([INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN, bytes.len()][len], 0x5a);
            if let Some(message) = Initiation::parse(&bytes) {
                prop_assert_eq!(&message.to_bytes()[..], &bytes[..]);
            }
            if let Some(message) = Response::parse(&bytes) {
                prop_assert_eq!(&message.to_bytes()[..], &bytes[..]);
            }
            if let Some(message) = CookieReply::parse(&bytes) {
                prop_assert_eq!(&message.to_bytes()[..], &bytes[..]);
            }
            if let Some(header) = TransportHeader::parse(&bytes[..]) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..TRANSPORT_HEADER_LEN]);
            }
        }
    }
}
