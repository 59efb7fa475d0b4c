//! Relay frames: what a node puts before a WireGuard message that another node is to pass on.
//!
//! ```text
//!  0  type 5, three zero bytes · 4 label u32 · 8 a WireGuard message
//! ```
//!
//! The relay gives a label to a pair of nodes. What comes from one of them with this label goes to the other,
//! unchanged: whoever gets it answers by the same label. So a super-packet is passed on by a look at its outer
//! headers and at its first frame.

use crate::cursor::Cursor;

/// First byte of a relay frame.
pub const TYPE: u8 = 5;
/// What precedes the message.
pub const HEADER_LEN: usize = 8;

/// What precedes a message with this label.
#[inline(always)]
pub const fn header(label: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = label.to_be_bytes();
    [TYPE, 0, 0, 0, a, b, c, d]
}

/// The label of the frame that begins at `offset`; `None` where none does.
#[inline(always)]
pub fn label(packet: impl Cursor, offset: usize) -> Option<u32> {
    match packet.bytes::<HEADER_LEN>(offset)? {
        [TYPE, 0, 0, 0, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vector() {
        assert_eq!(header(0x0102_0304), [5, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn only_whole_headers_are_read() {
        let frame = header(7);
        assert_eq!(label(&frame[..], 0), Some(7));
        for len in 0..HEADER_LEN {
            assert_eq!(label(&frame[..len], 0), None);
        }
        for at in 0..4 {
            let mut bent = frame;
            bent[at] ^= 1;
            assert_eq!(label(&bent[..], 0), None);
        }
    }
}
