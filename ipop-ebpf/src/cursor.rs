//! Packet bytes between two kernel pointers.

use ipop_common::Cursor;
use ipop_common::ingress::ETHERNET_LEN;

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

    #[inline(always)]
    fn readable(self) -> usize {
        self.end.wrapping_sub(self.data)
    }
}

impl Packet {
    /// The first `N` bytes for writing, or `None` where the packet ends before.
    #[inline(always)]
    pub fn head_mut<'a, const N: usize>(self) -> Option<&'a mut [u8; N]> {
        self.part_mut(0)
    }

    /// As [`Self::head_mut`], from an offset on.
    #[inline(always)]
    pub fn part_mut<'a, const N: usize>(self, offset: usize) -> Option<&'a mut [u8; N]> {
        let at = self.data + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: as in `bytes`; programs are the only users of a packet while they run.
        Some(unsafe { &mut *(at as *mut [u8; N]) })
    }
}

/// The header of an Ethernet frame, as two words that overlap.
#[derive(Clone, Copy)]
pub struct LinkHeader([[u8; 8]; 2]);

impl LinkHeader {
    const SECOND: usize = ETHERNET_LEN - 8;

    #[inline(always)]
    pub fn read(packet: Packet, at: usize) -> Option<Self> {
        Some(Self([packet.bytes(at)?, packet.bytes(at + Self::SECOND)?]))
    }

    /// Says whether there was room.
    #[inline(always)]
    pub fn write(self, packet: Packet, at: usize) -> bool {
        let Some(whole) = packet.part_mut::<ETHERNET_LEN>(at) else { return false };
        let Self([first, second]) = self;
        let Some(start) = whole.first_chunk_mut() else { return false };
        *start = first;
        let Some(end) = whole.last_chunk_mut() else { return false };
        *end = second;
        true
    }
}
