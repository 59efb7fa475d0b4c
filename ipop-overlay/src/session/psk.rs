//! The pre-shared key that all members of a network have.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Changed with everything that changes what is derived.
const LABEL: &[u8] = b"ipop network psk v1";

/// The pre-shared key of all sessions in a network: HKDF-SHA256 (RFC 5869) of its `secret`, without
/// salt, with the label `ipop network psk v1` as info.
///
/// It goes into every handshake, so that who lacks the secret completes none, and who records
/// packets today cannot open them with a quantum computer tomorrow unless the secret leaks as well.
/// It is no stronger than the secret: HKDF does not make a password hard to guess.
pub fn network_psk(secret: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut psk = Zeroizing::new([0; 32]);
    let Ok(()) = Hkdf::<Sha256>::new(None, secret).expand(LABEL, psk.as_mut()) else {
        unreachable!("HKDF-SHA256 gives up to 8160 bytes")
    };
    psk
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hmac module, step by step as RFC 5869 says.
    #[test]
    fn golden_vector() {
        assert_eq!(*network_psk(b"correct horse battery staple"), GOLDEN);
        assert_ne!(*network_psk(b"correct horse battery stable"), GOLDEN);
    }

    #[rustfmt::skip]
    const GOLDEN: [u8; 32] = [
        0x62, 0x10, 0xd8, 0x87, 0x4d, 0x2a, 0x7f, 0xab,
        0xb9, 0xe6, 0xf2, 0x20, 0x54, 0x72, 0xba, 0x14,
        0xbf, 0x2a, 0xe8, 0x32, 0x0e, 0x91, 0xb7, 0x26,
        0x2d, 0xfb, 0x24, 0x8e, 0x07, 0xab, 0x55, 0x77,
    ];
}
