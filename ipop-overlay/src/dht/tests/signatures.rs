//! Signatures: those of another implementation, and what is no signature.

use std::string::String;
use std::vec::Vec;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::super::signature::{SigningKey, verify};

/// Private key, public key, and a signature of `record N`, repeated N times; by python-xeddsa 1.2.0 (libxeddsa),
/// as `ed25519_priv_sign(priv_force_sign(private, False), message, sha512("nonce N"))`.
const VECTORS: [[&str; 3]; 4] = [
    [
        "c49ee5d7f67a2dc1eb45338a809c48e49b6e56a526eb98cefd650a3e9967dc42",
        "2cfc2c15a04a570b42bc4fa7625d5d6abc9d4479afae84a49ae024d9bd7c7b32",
        "542354a85948c8df9b41bffc128e01b49b80ba132028b91913852f514a5c896c88c4b5d0e32920064d1b76b05a35b15eba796871ebaecef1813e84a070849901",
    ],
    [
        "d7eb3a84fd5b5aadb0c970803e66e3cf089c8ab9fedb5315b082ec9b252a9613",
        "a7a54b140fe7fbd1ef80a52a2846fe222aa1513e58fa0eb6f9a4e76e965ecc6d",
        "aef7142fd8e02254cfd699824b226f5ee38fd870010610b52a6fc359f85f60d36e8a75ea7834cb942a9d14ff49df103643134e7c25e503891a6d0e509519980a",
    ],
    [
        "6299fafccd348067367bc02a71eab943f775c44fe175843752ff6b38afdbe9e0",
        "27acf9a7ed4612ab8146a0e05952a5fe8e40c61f2b70426e73eb08fa6eb3223a",
        "8e38b1b783e9b208f751e3d485c030eaa865f0ad943ad073d3b503bbaaeb9e2cc7eacb803cce105a128239878c7d6d2511e112bc59fceb16810a837eb25afd0d",
    ],
    [
        "a470678c5d5bf7e4de09c23f41977cc07697ea83e5c38dd857a06e5e909c901e",
        "b63897f0a085a8cdfc63cb68c28a76c64a41b505ec2f875dda4c965397a92914",
        "d811c639ee7a3a398d6ea4ce00567481505f0e07209c83563da8766868ec29c26f184cd25705d4466df283ae2cdcedb85a4d27b5899039cc3e220f386b87cd06",
    ],
];

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEXLOWER.decode(hex.as_bytes()).expect("hex").try_into().expect("so many bytes")
}

fn message(number: usize) -> Vec<u8> {
    std::format!("record {number}").repeat(number).into_bytes()
}

#[test]
fn signatures_of_another_implementation_are_valid_and_keys_are_the_same() {
    for (number, [private, public, signature]) in VECTORS.into_iter().enumerate() {
        let (private, public) = (bytes::<32>(private), bytes::<32>(public));
        assert_eq!(SigningKey::new(&private.into()).public_key(), public);
        assert!(verify(&public, &message(number), &bytes(signature)), "vector {number}");
        assert!(!verify(&public, b"another message", &bytes(signature)), "vector {number}");
    }
}

/// These were checked with the other implementation: `ed25519_verify` takes them for the key's Edwards form.
#[test]
fn golden_vectors_of_signatures() {
    let ours: Vec<String> = VECTORS
        .into_iter()
        .enumerate()
        .map(|(number, [private, ..])| {
            let key = SigningKey::new(&bytes::<32>(private).into());
            HEXLOWER.encode(&key.sign(&message(number)))
        })
        .collect();
    assert_eq!(ours, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "e1d53d8e51f2b1c9540a1c0f35c440515da80bd6a20aa4b9bc21a1aa33060354edcaf1fb6aad2a1608fff81bf2bdf6077dddf19e18938cbed88e73ff03e9f207",
    "7eac6689470f6127d9bc4c6b4e521a53b49aaad33d768a4205eee29935f054b27cb4e99163c920d93e4bd9b529c190d9804c6ba916e431276427346c7cedb409",
    "63b6af74c46a710d7086ad992334f174b889c414124adb8a8f3e9c00fb0792e1935f68ad977e3af135ed07bd1389624299d197c55c93ff5c7c619976ac59a801",
    "49390bec0db999a1ae0c4a4dff718a540a170ade5b77bbcb32b811d7f9ba8e19985ac77589bc3b7efcc6f94868614c215231c9efed96e3100b69088aff6bc202",
];

#[test]
fn keys_of_small_order_sign_nothing() {
    // The points of small order of Curve25519 (RFC 7748, section 6.1, and its twist's), as u coordinates.
    let small = [
        [0; 32],
        core::array::from_fn(|at| u8::from(at == 0)),
        bytes::<32>("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes::<32>("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        bytes::<32>("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ];
    for key in small {
        // R is the neutral element and s is zero: what such a key would sign of every message.
        let mut signature = [0; 64];
        signature[0] = 1;
        for message in [&b""[..], b"one", b"two", b"three", b"four", b"five", b"six", b"seven", b"eight"] {
            assert!(!verify(&key, message, &signature), "{key:?}");
        }
    }
}

#[test]
fn a_key_has_one_text() {
    let key = SigningKey::new(&[1; 32].into());
    let signature = key.sign(b"message");
    let mut other = key.public_key();
    assert!(verify(&other, b"message", &signature));
    // The top bit is ignored where secrets are agreed on (RFC 7748, section 5); here it would be a second owner.
    other[31] |= 0x80;
    assert!(!verify(&other, b"message", &signature));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_signed_is_valid_and_nothing_else(
        private in any::<[u8; 32]>(),
        message in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0..64usize,
        bit in 0..8u8,
    ) {
        let key = SigningKey::new(&private.into());
        let signature = key.sign(&message);
        prop_assert!(verify(&key.public_key(), &message, &signature));
        prop_assert_eq!(key.sign(&message), signature);
        let mut broken = signature;
        broken[at] ^= 1 << bit;
        prop_assert!(!verify(&key.public_key(), &message, &broken));
        prop_assert!(!verify(&key.public_key(), &[&message[..], b"x"].concat(), &signature));
        let other = SigningKey::new(&private.map(|byte| byte ^ 0x55).into());
        prop_assert!(!verify(&other.public_key(), &message, &signature));
    }
}
