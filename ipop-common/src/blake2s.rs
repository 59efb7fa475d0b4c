//! The compression function of BLAKE2s (RFC 7693), in a form that the eBPF verifier accepts: straight
//! code, so that the program and the host have one source. Whoever has an allocator and slices uses a
//! library.

/// Length of a block of input.
pub const BLOCK_LEN: usize = 64;
/// Length of a key.
pub const KEY_LEN: usize = 32;

const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// What has been hashed so far.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub [u32; 8]);

impl core::fmt::Debug for Hash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Hash(..)")
    }
}

impl Hash {
    /// The start of a keyed hash of `length` bytes, behind the block that holds the key.
    pub fn keyed(key: &[u8; KEY_LEN], length: u8) -> Self {
        let mut block = [0; BLOCK_LEN];
        if let Some(start) = block.first_chunk_mut() {
            *start = *key;
        }
        let [first, rest @ ..] = IV;
        let [a, b, c, d, e, f, g] = rest;
        let parameters = 0x0101_0000 | (KEY_LEN as u32) << 8 | u32::from(length);
        let mut hash = Self([first ^ parameters, a, b, c, d, e, f, g]);
        // SAFETY: one block.
        unsafe { hash.compress(block.as_ptr(), BLOCK_LEN as u32, false) };
        hash
    }

    /// Hashes one block more. `until` is the number of bytes hashed with it, the key's block included.
    ///
    /// # Safety
    /// `block` is valid for [`BLOCK_LEN`] bytes, which lie as they like.
    #[inline(never)]
    pub unsafe fn compress(&mut self, block: *const u8, until: u32, is_last: bool) {
        let [h0, h1, h2, h3, h4, h5, h6, h7] = self.0;
        let [mut v0, mut v1, mut v2, mut v3] = [h0, h1, h2, h3];
        let [mut v4, mut v5, mut v6, mut v7] = [h4, h5, h6, h7];
        let [mut v8, mut v9, mut v10, mut v11, v12, v13, v14, v15] = IV;
        let mut v12 = v12 ^ until;
        let mut v13 = v13;
        let mut v14 = if is_last { !v14 } else { v14 };
        let mut v15 = v15;
        macro_rules! mix {
            ($a:ident, $b:ident, $c:ident, $d:ident, $x:literal, $y:literal) => {
                // SAFETY (both): a word of the block.
                $a = $a.wrapping_add($b).wrapping_add(unsafe { read_u32(block.add(4 * $x)) });
                $d = ($d ^ $a).rotate_right(16);
                $c = $c.wrapping_add($d);
                $b = ($b ^ $c).rotate_right(12);
                $a = $a.wrapping_add($b).wrapping_add(unsafe { read_u32(block.add(4 * $y)) });
                $d = ($d ^ $a).rotate_right(8);
                $c = $c.wrapping_add($d);
                $b = ($b ^ $c).rotate_right(7);
            };
        }
        macro_rules! round {
            ($($word:literal)*) => { round!(@ $($word,)*) };
            (@ $m0:literal, $m1:literal, $m2:literal, $m3:literal, $m4:literal, $m5:literal, $m6:literal,
             $m7:literal, $m8:literal, $m9:literal, $ma:literal, $mb:literal, $mc:literal, $md:literal,
             $me:literal, $mf:literal,) => {
                mix!(v0, v4, v8, v12, $m0, $m1);
                mix!(v1, v5, v9, v13, $m2, $m3);
                mix!(v2, v6, v10, v14, $m4, $m5);
                mix!(v3, v7, v11, v15, $m6, $m7);
                mix!(v0, v5, v10, v15, $m8, $m9);
                mix!(v1, v6, v11, v12, $ma, $mb);
                mix!(v2, v7, v8, v13, $mc, $md);
                mix!(v3, v4, v9, v14, $me, $mf);
            };
        }
        round!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        round!(14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3);
        round!(11 8 12 0 5 2 15 13 10 14 3 6 7 1 9 4);
        round!(7 9 3 1 13 12 11 14 2 6 5 10 4 0 15 8);
        round!(9 0 5 7 2 4 10 15 14 1 11 12 6 8 3 13);
        round!(2 12 6 10 0 11 8 3 4 13 7 5 15 14 1 9);
        round!(12 5 1 15 14 13 4 10 0 7 6 3 9 2 8 11);
        round!(13 11 7 14 12 1 3 9 5 0 15 4 8 6 2 10);
        round!(6 15 14 9 11 3 0 8 12 2 13 7 1 4 10 5);
        round!(10 2 8 4 7 6 1 5 15 11 9 14 3 12 13 0);
        let Self([h0, h1, h2, h3, h4, h5, h6, h7]) = self;
        *h0 ^= v0 ^ v8;
        *h1 ^= v1 ^ v9;
        *h2 ^= v2 ^ v10;
        *h3 ^= v3 ^ v11;
        *h4 ^= v4 ^ v12;
        *h5 ^= v5 ^ v13;
        *h6 ^= v6 ^ v14;
        *h7 ^= v7 ^ v15;
    }

    /// The first 16 bytes of the hash, as two little-endian words.
    #[inline(always)]
    pub const fn first_words(&self) -> (u64, u64) {
        let [a, b, c, d, ..] = self.0;
        ((a as u64) | (b as u64) << 32, (c as u64) | (d as u64) << 32)
    }
}

/// Four bytes, little-endian, wherever they lie; see [`crate::aead`].
///
/// # Safety
/// `at` is valid for four bytes.
#[inline(always)]
unsafe fn read_u32(at: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "bpf")]
    return u32::from_le(unsafe { *at.cast::<u32>() });
    // SAFETY: as above.
    #[cfg(not(target_arch = "bpf"))]
    return u32::from_le(unsafe { at.cast::<u32>().read_unaligned() });
}
