//! The ChaCha20 block function (RFC 8439, section 2.3).

use super::Key;

/// Length of a block of key stream.
pub const BLOCK_LEN: usize = 64;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Constants, key, block number, nonce.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct State(pub [u32; 16]);

impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("State(..)")
    }
}

impl State {
    /// Block 0 of the packet `counter`.
    #[inline(always)]
    pub fn new(key: &Key, counter: u64) -> Self {
        let [c0, c1, c2, c3] = CONSTANTS;
        let [k0, k1, k2, k3, k4, k5, k6, k7] = key.0;
        Self([c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, 0, 0, counter as u32, (counter >> 32) as u32])
    }

    #[inline(always)]
    pub fn set_block(&mut self, block: u32) {
        let Self([_, _, _, _, _, _, _, _, _, _, _, _, number, _, _, _]) = self;
        *number = block;
    }

    /// XORs one block of key stream into 64 bytes.
    ///
    /// # Safety
    /// `to` is valid for eight words.
    #[inline(always)]
    pub unsafe fn add_block(&self, to: *mut u64) {
        let words = self.permute();
        let mut at = 0;
        while at < 8 {
            let word = u64::from(words[2 * at]) | u64::from(words[2 * at + 1]) << 32;
            // SAFETY: the caller's promise.
            unsafe { *to.add(at) ^= word.to_le() };
            at += 1;
        }
    }

    /// The sixteen words of the block.
    #[inline(always)]
    pub fn permute(&self) -> [u32; 16] {
        let [i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15] = self.0;
        let [mut x0, mut x1, mut x2, mut x3] = [i0, i1, i2, i3];
        let [mut x4, mut x5, mut x6, mut x7] = [i4, i5, i6, i7];
        let [mut x8, mut x9, mut x10, mut x11] = [i8, i9, i10, i11];
        let [mut x12, mut x13, mut x14, mut x15] = [i12, i13, i14, i15];
        macro_rules! quarter {
            ($a:ident, $b:ident, $c:ident, $d:ident) => {
                $a = $a.wrapping_add($b);
                $d = ($d ^ $a).rotate_left(16);
                $c = $c.wrapping_add($d);
                $b = ($b ^ $c).rotate_left(12);
                $a = $a.wrapping_add($b);
                $d = ($d ^ $a).rotate_left(8);
                $c = $c.wrapping_add($d);
                $b = ($b ^ $c).rotate_left(7);
            };
        }
        let mut double_round = 0;
        while double_round < 10 {
            quarter!(x0, x4, x8, x12);
            quarter!(x1, x5, x9, x13);
            quarter!(x2, x6, x10, x14);
            quarter!(x3, x7, x11, x15);
            quarter!(x0, x5, x10, x15);
            quarter!(x1, x6, x11, x12);
            quarter!(x2, x7, x8, x13);
            quarter!(x3, x4, x9, x14);
            double_round += 1;
        }
        [
            x0.wrapping_add(i0),
            x1.wrapping_add(i1),
            x2.wrapping_add(i2),
            x3.wrapping_add(i3),
            x4.wrapping_add(i4),
            x5.wrapping_add(i5),
            x6.wrapping_add(i6),
            x7.wrapping_add(i7),
            x8.wrapping_add(i8),
            x9.wrapping_add(i9),
            x10.wrapping_add(i10),
            x11.wrapping_add(i11),
            x12.wrapping_add(i12),
            x13.wrapping_add(i13),
            x14.wrapping_add(i14),
            x15.wrapping_add(i15),
        ]
    }
}
