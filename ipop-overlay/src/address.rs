//! Addresses of nodes, and the arithmetic of the ring that they form.

use blake2::{Blake2s256, Digest};

/// Length of an address in bytes.
pub(crate) const ADDRESS_LEN: usize = 20;

/// The place of a node on the ring: 160 bits, of which the last is 0 (Brunet's class 0).
///
/// A node's is the beginning of the BLAKE2s hash of its static public key, so that the address
/// certifies itself: whoever holds a session with that key is the node. Written `ipop:` and base32
/// (RFC 4648, lower case, 32 characters).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress(pub [u8; ADDRESS_LEN]);

/// How far it is from one address to another, going up; 160 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance {
    high: u128,
    low: u32,
}

/// The text of an address could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseAddressError;

const PREFIX: &str = "ipop:";

impl NodeAddress {
    /// The address of the node with this static public key.
    pub fn of_key(public_key: &[u8; 32]) -> Self {
        let digest: [u8; 32] = Blake2s256::digest(public_key).into();
        let mut address = [0; ADDRESS_LEN];
        address.copy_from_slice(&digest[..ADDRESS_LEN]);
        address[ADDRESS_LEN - 1] &= !1;
        Self(address)
    }

    /// How far up the ring `other` is.
    pub fn up_to(self, other: Self) -> Distance {
        self.split().distance_to(other.split())
    }

    /// How far it is to `other` the shorter way.
    pub fn distance(self, other: Self) -> Distance {
        self.up_to(other).min(other.up_to(self))
    }

    /// Whether `self` lies on the arc that goes up from `from` to `to`, ends aside. The whole ring but
    /// for the end where both are the same.
    pub fn is_between(self, from: Self, to: Self) -> bool {
        let (here, end) = (from.up_to(self), from.up_to(to));
        here != Distance::default() && (here < end || end == Distance::default())
    }

    /// The address so far up the ring.
    #[must_use]
    pub fn up_by(self, distance: Distance) -> Self {
        let Distance { high, low } = self.split();
        let (low, carry) = low.overflowing_add(distance.low);
        let high = high.wrapping_add(distance.high).wrapping_add(u128::from(carry));
        Distance { high, low: low & !1 }.join()
    }

    /// The address so far down the ring.
    #[must_use]
    pub fn down_by(self, distance: Distance) -> Self {
        let zero = Distance::default();
        self.up_by(distance.distance_to(zero))
    }

    fn split(self) -> Distance {
        let (high, low) = self.0.split_at(16);
        let high = high.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        Distance { high, low: low.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)) }
    }
}

impl Distance {
    /// Larger than any between two nodes.
    pub const MAX: Self = Self { high: u128::MAX, low: u32::MAX };

    pub const fn from_number(number: u32) -> Self {
        Self { high: 0, low: number }
    }

    /// `2^(exponent / 65536)`; 0 for less than one, [`Distance::MAX`] from 2^160 on.
    pub fn power_of_two(exponent: u32) -> Self {
        let (whole, fraction) = (exponent >> 16, exponent & 0xffff);
        if whole >= 160 {
            return Self::MAX;
        }
        // 63 bits behind the point; the number is at least one and less than two.
        let mantissa = u128::from(exp2(fraction));
        let (high, low) = match whole.checked_sub(63) {
            // The mantissa's unit is 2^shift.
            Some(shift) if shift >= 32 => (mantissa << (shift - 32), 0),
            Some(shift) => {
                let wide = mantissa << shift;
                (wide >> 32, u32::try_from(wide & u128::from(u32::MAX)).unwrap_or(0))
            }
            None => {
                let narrow = mantissa >> (63 - whole);
                (narrow >> 32, u32::try_from(narrow & u128::from(u32::MAX)).unwrap_or(0))
            }
        };
        Self { high, low }
    }

    /// Its binary logarithm with 16 bits behind the point; 0 for less than two.
    pub fn log2(self) -> u32 {
        let zeros = if self.high == 0 { 128 + self.low.leading_zeros() } else { self.high.leading_zeros() };
        let Some(whole) = 159u32.checked_sub(zeros) else { return 0 };
        // The leading bit at the top of 64.
        let top = match zeros {
            0..96 => (self.high << zeros) >> 64,
            96..128 => ((self.high << zeros) >> 64) | (u128::from(self.low) << 32 >> (128 - zeros)),
            _ => u128::from(self.low) << (zeros - 128) << 32,
        };
        (whole << 16) | log2_fraction(u64::try_from(top).unwrap_or(u64::MAX))
    }

    fn distance_to(self, other: Self) -> Self {
        let (low, borrow) = other.low.overflowing_sub(self.low);
        Self { high: other.high.wrapping_sub(self.high).wrapping_sub(u128::from(borrow)), low }
    }

    fn join(self) -> NodeAddress {
        let mut address = [0; ADDRESS_LEN];
        address[..16].copy_from_slice(&self.high.to_be_bytes());
        address[16..].copy_from_slice(&self.low.to_be_bytes());
        NodeAddress(address)
    }
}

/// `2^(fraction / 65536)` with 63 bits behind the point.
fn exp2(fraction: u32) -> u64 {
    const ONE: u128 = 1 << 63;
    // The square roots of two, of that, and so on, each the weight of one bit.
    let (mut root, mut product) = (ONE << 1, ONE);
    for bit in (0..16).rev() {
        root = (root << 63).isqrt();
        if fraction & (1 << bit) != 0 {
            product = (product * root) >> 63;
        }
    }
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// The 16 bits behind the point of the logarithm of a number whose top bit is set.
fn log2_fraction(top: u64) -> u32 {
    let (mut x, mut fraction) = (u128::from(top), 0);
    for bit in (0..16).rev() {
        // The square's logarithm is twice as large.
        x = (x * x) >> 63;
        if x >> 64 != 0 {
            x >>= 1;
            fraction |= 1 << bit;
        }
    }
    fraction
}

impl core::fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = data_encoding::BASE32_NOPAD.encode(&self.0);
        f.write_str(PREFIX)?;
        text.chars().try_for_each(|c| core::fmt::Write::write_char(f, c.to_ascii_lowercase()))
    }
}

impl core::fmt::Debug for NodeAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::str::FromStr for NodeAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let digits = text.strip_prefix(PREFIX).ok_or(ParseAddressError)?;
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(ParseAddressError);
        }
        let bytes = data_encoding::BASE32_NOPAD
            .decode(digits.to_ascii_uppercase().as_bytes())
            .map_err(|_| ParseAddressError)?;
        let address: [u8; ADDRESS_LEN] = bytes.try_into().map_err(|_| ParseAddressError)?;
        if address[ADDRESS_LEN - 1] & 1 == 0 { Ok(Self(address)) } else { Err(ParseAddressError) }
    }
}

impl core::fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not a node's address: it is `ipop:` and 32 characters of a-z and 2-7")
    }
}

impl core::error::Error for ParseAddressError {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = NodeAddress> {
        any::<[u8; 20]>().prop_map(|mut bytes| {
            bytes[19] &= !1;
            NodeAddress(bytes)
        })
    }

    /// 2^n as a distance.
    fn power(n: u32) -> Distance {
        Distance::power_of_two(n << 16)
    }

    #[test]
    fn golden_vector() {
        let address = NodeAddress::of_key(&[7; 32]);
        assert_eq!(address.to_string(), "ipop:egqkm322atir3qvb43ysijvge45vonfg");
    }

    #[test]
    fn powers_of_two_are_exact_and_their_logarithms_too() {
        for n in 1..160 {
            assert_eq!(power(n).log2(), n << 16, "2^{n}");
            let (high, low) = if n < 32 { (0, 1 << n) } else { (1 << (n - 32), 0) };
            assert_eq!(power(n), Distance { high, low }, "2^{n}");
        }
        assert_eq!(Distance::power_of_two(160 << 16), Distance::MAX);
    }

    proptest! {
        #[test]
        fn text_is_read_back(address in address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_other_text_is_refused(text in ".{0,60}") {
            if let Ok(address) = text.parse::<NodeAddress>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }

        #[test]
        fn up_and_down_meet_again(a in address(), b in address()) {
            prop_assert_eq!(a.up_by(a.up_to(b)), b);
            prop_assert_eq!(b.down_by(a.up_to(b)), a);
            prop_assert_eq!(a.distance(b), b.distance(a));
        }

        #[test]
        fn one_of_two_ways_round_goes_past_a_third(a in address(), b in address(), c in address()) {
            prop_assume!(a != b && b != c && a != c);
            prop_assert_ne!(c.is_between(a, b), c.is_between(b, a));
            prop_assert!(!a.is_between(a, b) && !b.is_between(a, b));
            prop_assert!(b.is_between(a, a) && !a.is_between(a, a));
        }

        #[test]
        fn the_logarithm_undoes_the_power(exponent in (40u32 << 16)..(160 << 16)) {
            let back = Distance::power_of_two(exponent).log2();
            prop_assert!(back.abs_diff(exponent) <= 2, "{back} {exponent}");
        }
    }
}
