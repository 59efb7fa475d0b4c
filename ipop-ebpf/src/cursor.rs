//! Packet bytes between two kernel pointers.

use ipop_common::Cursor;

/// The directly readable part of a packet. Any helper that changes the packet invalidates it.
#[derive(Clone, Copy)]
pub struct Packet {
    pub data: usize,
    pub end: usize,
}

impl Cursor for Packet {
    #[inline(always)]
    fn bytes<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        let at = self.data + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: [at, at + N) lies between the packet's pointers, as just compared; the verifier
        // repeats the proof. The array has alignment 1.
        Some(unsafe { *(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn holds(self, len: usize) -> bool {
        self.data + len <= self.end
    }
}

impl Packet {
    /// The first `N` bytes for writing, or `None` where the packet ends before.
    #[inline(always)]
    pub fn head_mut<'a, const N: usize>(self) -> Option<&'a mut [u8; N]> {
        if !self.holds(N) {
            return None;
        }
        // SAFETY: as in `bytes`; programs are the only users of a packet while they run.
        Some(unsafe { &mut *(self.data as *mut [u8; N]) })
    }
}
