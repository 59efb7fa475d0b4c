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
        }
    }
}
