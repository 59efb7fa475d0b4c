//! Poly1305 (RFC 8439, section 2.5) on four limbs of 32 bits, with carries put off.
//!
//! A BPF register holds 64 bits and there is no wider product, so every sum of products has to stay
//! below 2^64. It does: at the start of a round h0 < 3.57, h1, h2, h3 < 3 (in units of 2^32) and
//! h4 <= 4; clamping leaves r below 2^28 and s = 5/4 r; so each d stays below 14.9 * 2^60.

use super::hide;

const LOW: u64 = 0xffff_ffff;

/// A tag, as two little-endian words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tag(pub u64, pub u64);

/// The tag of `bytes` bytes at `message`: a multiple of 16, at most `SIZE`.
///
/// # Safety
/// `key` is valid for eight words (r and s), `message` for `bytes` bytes. In a program, the
/// verifier sees to it that `message` is valid for `SIZE` less its own place in the buffer.
#[inline(always)]
pub unsafe fn authenticate<const SIZE: usize>(key: *const u32, message: *const u8, bytes: u64) -> Tag {
    // SAFETY: the caller's promise.
    let key = unsafe { *key.cast::<[u32; 8]>() };
    let [r0, r1, r2, r3, pad @ ..] = key.map(u64::from);
    let (r0, r1, r2, r3) = (r0 & 0x0fff_ffff, r1 & 0x0fff_fffc, r2 & 0x0fff_fffc, r3 & 0x0fff_fffc);
    let (s1, s2, s3) = (r1 + (r1 >> 2), r2 + (r2 >> 2), r3 + (r3 >> 2));
    let (mut h0, mut h1, mut h2, mut h3, mut h4) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut index = 0;
    // The last blocks of the buffer cannot be reached: the message starts one cipher block in.
    while index < (SIZE / 16 - 4) as u64 {
        let block = hide(index);
        if block * 16 >= bytes {
            break;
        }
        // SAFETY: the caller's promise: block * 16 + 16 <= bytes.
        let (low, high) = unsafe {
            let at = message.add(block as usize * 16);
            (super::read_u64(at), super::read_u64(at.add(8)))
        };
        h0 += low & LOW;
        h1 += low >> 32;
        h2 += high & LOW;
        h3 += high >> 32;
        h4 += 1;
        // The carry out of the last limb goes round to the first, so it is computed first.
        let d3 = h4 * s3 + h0 * r3 + h1 * r2 + h2 * r1 + h3 * r0;
        let d4 = h4 * r0 + (d3 >> 32);
        let d2 = h4 * s2 + h0 * r2 + h1 * r1 + h2 * r0 + h3 * s3;
        let d1 = h4 * s1 + h0 * r1 + h1 * r0 + h2 * s3 + h3 * s2;
        let d0 = h0 * r0 + h1 * s3 + h2 * s2 + h3 * s1;
        h3 = (d3 & LOW) + (d2 >> 32);
        h2 = (d2 & LOW) + (d1 >> 32);
        h1 = (d1 & LOW) + (d0 >> 32);
        h0 = (d0 & LOW) + (d4 & !3) + (d4 >> 2);
        h4 = d4 & 3;
        index = block + 1;
    }
    finish([h0, h1, h2, h3, h4], pad)
}

/// Reduces below 2^130 - 5 and adds the pad.
#[inline(always)]
fn finish(h: [u64; 5], pad: [u64; 4]) -> Tag {
    let [h0, h1, h2, h3, h4] = carry(h);
    let [h0, h1, h2, h3, h4] = carry([h0 + (h4 >> 2) * 5, h1, h2, h3, h4 & 3]);
    // h - p = h + 5 - 2^130: chosen without a branch where it is not negative.
    let [g0, g1, g2, g3, g4] = carry([h0 + 5, h1, h2, h3, h4]);
    let reduced = 0u64.wrapping_sub(g4 >> 2);
    let choose = |h: u64, g: u64| (h & !reduced) | (g & reduced);
    let [p0, p1, p2, p3] = pad;
    let [t0, t1, t2, t3, _] =
        carry([choose(h0, g0) + p0, choose(h1, g1) + p1, choose(h2, g2) + p2, choose(h3, g3) + p3, 0]);
    Tag(t0 | t1 << 32, t2 | t3 << 32)
}

/// Carries from limb to limb; the last takes what there is.
#[inline(always)]
fn carry([h0, h1, h2, h3, h4]: [u64; 5]) -> [u64; 5] {
    let h1 = h1 + (h0 >> 32);
    let h2 = h2 + (h1 >> 32);
    let h3 = h3 + (h2 >> 32);
    let h4 = h4 + (h3 >> 32);
    [h0 & LOW, h1 & LOW, h2 & LOW, h3 & LOW, h4]
}
