//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept unfolded in 32 or 64 bits, in host arithmetic over big-endian words, and folded
//! once at the end.

/// Folds a sum to 16 bits with end-around carry.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field of a header whose words, without that field, add up to `sum`.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// Adds up `bytes` as big-endian 16-bit words; an odd last byte is padded with zero.
///
/// Safe for up to 64 KiB: 32,768 words cannot overflow 32 bits.
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u32;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        if let &[high, low] = word {
            total += u32::from(u16::from_be_bytes([high, low]));
        }
    }
    if let &[last] = words.remainder() {
        total += u32::from(last) << 8;
    }
    total
}

/// Adds up `bytes` like [`sum`], fast for long payloads, folded to 16 bits.
///
/// The one's complement sum does not depend on byte order (RFC 1071, 2B), so the words are added
/// in host order, eight bytes at a time into 64 bits, and swapped once at the end.
pub fn sum_long(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for word in words {
            total += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let &[last] = rest {
        total += u64::from(u16::from_ne_bytes([last, 0]));
    }
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    u16::from_be(fold((total as u32 & 0xffff) + (total as u32 >> 16)))
}

/// Updates checksum field `check` for one word that changes from `old` to `new` (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    finish((!check) as u32 + (!old) as u32 + new as u32)
}

/// The sum of the pseudo-header of TCP or UDP over either IP version (RFC 793, RFC 8200 8.1).
///
/// `addresses` is source and destination as they stand in the header: 8 or 32 bytes.
pub fn pseudo_header(addresses: &[u8], protocol: u8, transport_len: u32) -> u32 {
    sum(addresses) + u32::from(protocol) + (transport_len >> 16) + (transport_len & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(finish(sum(&bytes)), 0x220d);
        assert_eq!(sum_long(&bytes), 0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    /// Zero and all ones are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn the_fast_sum_equals_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..65_536)) {
            prop_assert!(same(sum_long(&bytes), fold(sum(&bytes))));
        }

        #[test]
        fn an_incremental_update_equals_a_full_sum(mut words in prop::collection::vec(any::<u16>(), 2..40), at in 0usize..40, new: u16) {
            let at = at % words.len();
            let bytes = |w: &[u16]| w.iter().flat_map(|w| w.to_be_bytes()).collect::<std::vec::Vec<_>>();
            let before = finish(sum(&bytes(&words)));
            let updated = update(before, words[at], new);
            words[at] = new;
            prop_assert!(same(updated, finish(sum(&bytes(&words)))));
        }
    }
}
