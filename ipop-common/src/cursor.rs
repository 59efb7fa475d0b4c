//! Bounds-checked reads from a packet, the only way in which this crate looks at one.
//!
//! On the host a cursor is a byte slice. In the programs it is a pair of packet pointers, and each
//! read compiles to the comparison that the verifier asks for.

/// Read access to one packet. Offsets are bytes from where the cursor starts.
pub trait Cursor: Copy {
    /// Copies `N` bytes at `offset`, or `None` where the packet ends before.
    fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]>;

    /// Whether at least `len` bytes may be read from the start.
    fn holds(self, len: usize) -> bool;

    /// Bytes that may be read.
    fn readable(self) -> usize;

    #[inline(always)]
    fn u8_at(self, offset: usize) -> Option<u8> {
        let [a] = self.bytes::<1>(offset)?;
        Some(a)
    }

    /// A big-endian 16-bit field.
    #[inline(always)]
    fn u16_at(self, offset: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes::<2>(offset)?))
    }

    /// A big-endian 32-bit field.
    #[inline(always)]
    fn u32_at(self, offset: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes::<4>(offset)?))
    }

    /// A big-endian 64-bit field.
    #[inline(always)]
    fn u64_at(self, offset: usize) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes::<8>(offset)?))
    }
}

impl Cursor for &[u8] {
    fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk::<N>().copied()
    }

    fn holds(self, len: usize) -> bool {
        self.len() >= len
    }

    fn readable(self) -> usize {
        self.len()
    }
}

/// What a cursor reads from an offset on, which is a constant where the verifier has to know it.
#[derive(Clone, Copy, Debug)]
pub struct Behind<C> {
    pub cursor: C,
    pub at: usize,
}

impl<C: Cursor> Cursor for Behind<C> {
    #[inline(always)]
    fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.cursor.bytes(self.at.wrapping_add(offset))
    }

    #[inline(always)]
    fn holds(self, len: usize) -> bool {
        self.cursor.holds(self.at.wrapping_add(len))
    }

    #[inline(always)]
    fn readable(self) -> usize {
        self.cursor.readable().saturating_sub(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_none_at_every_length() {
        let packet = [1u8, 2, 3, 4, 5, 6, 7, 8];
        for len in 0..packet.len() {
            let cursor = &packet[..len];
            for offset in 0..12 {
                assert_eq!(cursor.u32_at(offset).is_some(), offset + 4 <= len, "{offset} of {len}");
            }
            assert_eq!(cursor.u8_at(usize::MAX), None);
            let behind = Behind { cursor, at: 3 };
            assert_eq!(behind.readable(), len.saturating_sub(3));
            assert_eq!(behind.u16_at(1), cursor.u16_at(4));
            assert_eq!(behind.holds(2), len >= 5);
        }
    }
}
