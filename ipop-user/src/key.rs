//! X25519 keys as this node keeps them on disk and prints them, and the node address that follows
//! from a public key. The handshakes that use the keys are elsewhere.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret_file::{self, Unfit};

/// Length of a key in bytes, private and public alike.
pub const KEY_LEN: usize = 32;
/// Length of a key in base64, padding included.
const KEY_BASE64_LEN: usize = 44;
/// More than a key and a line end: anything longer is some other file.
const KEY_FILE_LEN_MAX: u64 = 256;

/// Why a key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("not a key: want the base64 of 32 bytes, 44 characters that end in `=`")]
    NotBase64,
    #[error("{path}: not a private key; write one with `ipopctl key gen {path}`", path = path.display())]
    NotAPrivateKey { path: PathBuf },
    #[error("{path}: {unfit}", path = path.display())]
    Unfit { path: PathBuf, unfit: Unfit },
    #[error("{path}: no such key file; write one with `ipopctl key gen {path}`", path = path.display())]
    Missing { path: PathBuf },
    #[error("{path}: exists already and is not overwritten; choose another name or move it away", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path}: there is no such directory; create it first, or choose another place", path = path.display())]
    NoDirectory { path: PathBuf },
    #[error("{path}: cannot {what} the key file: {error}", path = path.display())]
    Io { path: PathBuf, what: &'static str, error: io::Error },
    #[error("the kernel gave no random bytes ({0}); try again")]
    NoRandomness(getrandom::Error),
    #[error("not a node address: want `ipop:` and 32 characters of a-z and 2-7")]
    NotAnAddress,
}

/// An X25519 private key. It is wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

impl PrivateKey {
    /// A new key from the kernel's random numbers, clamped as `wg genkey` does (RFC 7748, section 5).
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = random_bytes()?;
        bytes[0] &= 0b1111_1000;
        bytes[KEY_LEN - 1] = (bytes[KEY_LEN - 1] & 0b0111_1111) | 0b0100_0000;
        Ok(Self(*bytes))
    }

    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The secret bytes, for the one who computes with them.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// Reads a key file: one line of base64, as [`PrivateKey::write_new`] and `wg genkey` write it.
    /// A file that others can open, or that is another user's, is refused.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |what, error| KeyError::Io { path: path.to_owned(), what, error };
        // A FIFO is to be refused, and not to be waited for.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
            _ => failed("open", error),
        })?;
        let metadata = file.metadata().map_err(|error| failed("look at", error))?;
        secret_file::check(path, &metadata, Uid::effective())
            .map_err(|unfit| KeyError::Unfit { path: path.to_owned(), unfit })?;
        let mut text = Zeroizing::new(Vec::with_capacity(KEY_BASE64_LEN + 1));
        file.take(KEY_FILE_LEN_MAX).read_to_end(&mut text).map_err(|error| failed("read", error))?;
        let bytes =
            decode(text.trim_ascii()).ok_or_else(|| KeyError::NotAPrivateKey { path: path.to_owned() })?;
        Ok(Self(*bytes))
    }

    /// Writes the key to a file that must not exist yet, mode 0600.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
                    io::ErrorKind::NotFound => KeyError::NoDirectory { path: path.to_owned() },
                    _ => KeyError::Io { path: path.to_owned(), what: "create", error },
                }
            })?;
        let line = Zeroizing::new(STANDARD.encode(self.0) + "\n");
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
            // Half a key is worse than none, and the file is ours since a moment ago.
            let _ = std::fs::remove_file(path);
            KeyError::Io { path: path.to_owned(), what: "write", error }
        })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// An X25519 public key. Text form: base64, as WireGuard's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The overlay address that this key certifies.
    pub fn node_address(&self) -> NodeAddress {
        NodeAddress(ipop_overlay::NodeAddress::of_key(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text.as_bytes()).map(|bytes| Self(*bytes)).ok_or(KeyError::NotBase64)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A node's place on the ring: the first 160 bits of BLAKE2s(public key), the last bit 0 (Brunet's
/// class 0). Text form: `ipop:` and 32 characters of lower-case base32 (RFC 4648, section 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeAddress(ipop_overlay::NodeAddress);

impl NodeAddress {
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0.0
    }

    /// As the overlay knows it.
    pub fn on_ring(&self) -> ipop_overlay::NodeAddress {
        self.0
    }

    /// Its first characters, by which people tell nodes apart.
    pub fn short(&self) -> String {
        self.0.to_string().chars().skip("ipop:".len()).take(8).collect()
    }
}

impl From<ipop_overlay::NodeAddress> for NodeAddress {
    fn from(address: ipop_overlay::NodeAddress) -> Self {
        Self(address)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeAddress({self})")
    }
}

impl FromStr for NodeAddress {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse().map(Self).map_err(|_| KeyError::NotAnAddress)
    }
}

impl TryFrom<String> for NodeAddress {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<NodeAddress> for String {
    fn from(address: NodeAddress) -> Self {
        address.to_string()
    }
}

/// A secret that two or more people can copy into their configuration: 32 random bytes in base64.
pub fn generate_secret() -> Result<Zeroizing<String>, KeyError> {
    Ok(Zeroizing::new(STANDARD.encode(*random_bytes()?)))
}

/// A number that nobody can guess.
///
/// # Errors
/// [`KeyError::NoRandomness`].
pub fn random_u64() -> Result<u64, KeyError> {
    getrandom::u64().map_err(KeyError::NoRandomness)
}

fn random_bytes() -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(bytes.as_mut_slice()).map_err(KeyError::NoRandomness)?;
    Ok(bytes)
}

fn decode(text: &[u8]) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    if text.len() != KEY_BASE64_LEN {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if bytes.len() != KEY_LEN {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use blake2::{Blake2s256, Digest};

    use super::*;

    /// RFC 7748, section 6.1: Alice.
    const ALICE_PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn write_with_mode(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        let directory = directory();
        let path = directory.path().join("alice.key");
        write_with_mode(&path, &format!("{ALICE_PRIVATE}\n"), 0o600);
        assert_eq!(PrivateKey::read(&path).unwrap().public_key().to_string(), ALICE_PUBLIC);
    }

    #[test]
    fn a_written_key_is_read_back_and_only_its_owner_may_read_it() {
        let directory = directory();
        let path = directory.path().join("node.key");
        let key = PrivateKey::generate().unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(PrivateKey::read(&path).unwrap(), key);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let path = directory().path().join("none/key");
        let error = PrivateKey::generate().unwrap().write_new(&path).unwrap_err();
        assert!(matches!(&error, KeyError::NoDirectory { path: named } if *named == path), "{error}");
    }

    #[test]
    fn an_existing_file_is_left_alone() {
        let directory = directory();
        let path = directory.path().join("node.key");
        std::fs::write(&path, "precious").unwrap();
        let error = PrivateKey::generate().unwrap().write_new(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}: exists already and is not overwritten; choose another name or move it away",
                path.display()
            )
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn generated_keys_differ_and_are_clamped() {
        let (one, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.expose()[0] & 7, 0);
        assert_eq!(one.expose()[31] & 0xc0, 0x40);
    }

    #[test]
    fn files_that_hold_no_key_are_refused() {
        let directory = directory();
        let path = directory.path().join("bad.key");
        let one_byte_more = STANDARD.encode([7; 33]);
        for text in ["", "\n", "hello", &ALICE_PRIVATE[1..], &one_byte_more, &"A".repeat(100_000)] {
            write_with_mode(&path, text, 0o600);
            let error = PrivateKey::read(&path).unwrap_err();
            assert!(matches!(error, KeyError::NotAPrivateKey { .. }), "{text:?} gave {error}");
            assert!(text.trim().is_empty() || !error.to_string().contains(text));
        }
        let missing = PrivateKey::read(&directory.path().join("missing")).unwrap_err();
        assert!(matches!(missing, KeyError::Missing { .. }), "{missing}");
    }

    #[test]
    fn a_key_that_others_can_open_is_not_read() {
        let directory = directory();
        let path = directory.path().join("node.key");
        for mode in [0o400, 0o600, 0o700] {
            write_with_mode(&path, ALICE_PRIVATE, mode);
            PrivateKey::read(&path).unwrap();
        }
        for mode in [0o640, 0o620, 0o604, 0o602, 0o666, 0o777] {
            write_with_mode(&path, ALICE_PRIVATE, mode);
            let name = path.display();
            assert_eq!(
                PrivateKey::read(&path).unwrap_err().to_string(),
                format!(
                    "{name}: holds a secret, and its mode {mode:04o} opens it to others than its owner; \
                     run `chmod 600 {name}`"
                )
            );
        }
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = directory();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [fifo.as_path(), directory.path(), Path::new("/dev/null")] {
            let error = PrivateKey::read(path).unwrap_err().to_string();
            assert!(error.ends_with(": not a regular file; name the file that holds the key"), "{error}");
        }
    }

    #[test]
    fn the_kernels_reason_is_said_once() {
        let directory = directory();
        let path = directory.path().join("loop");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let line = format!("{:#}", anyhow::Error::from(PrivateKey::read(&path).unwrap_err()));
        let expected = "cannot open the key file: Too many levels of symbolic links (os error 40)";
        assert_eq!(line, format!("{}: {expected}", path.display()));
    }

    #[test]
    fn a_private_key_is_never_printed() {
        let key = PrivateKey::from_bytes([0x5a; 32]);
        assert_eq!(format!("{key:?}"), "PrivateKey(secret)");
    }

    #[test]
    fn the_node_address_is_the_truncated_hash_with_the_last_bit_clear() {
        let public: PublicKey = ALICE_PUBLIC.parse().unwrap();
        let address = public.node_address();
        let digest = Blake2s256::digest(public.as_bytes());
        assert_eq!(address.as_bytes()[..19], digest[..19]);
        assert_eq!(address.as_bytes()[19], digest[19] & 0xfe);
        // Golden value: b32encode(blake2s(key).digest()[:19] + bytes([digest[19] & 0xfe])).
        assert_eq!(address.to_string(), "ipop:cvwdfhe4vhpkpvon2lcolq5sl5w63yns");
    }

    #[test]
    fn node_addresses_survive_their_text_form() {
        let address = PrivateKey::generate().unwrap().public_key().node_address();
        assert_eq!(address.to_string().parse::<NodeAddress>().unwrap(), address);
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(serde_json::from_str::<NodeAddress>(&json).unwrap(), address);
    }

    #[test]
    fn text_that_is_no_node_address_is_refused() {
        let odd_class = format!("ipop:{}b", "a".repeat(31));
        let long = format!("ipop:{}", "a".repeat(40));
        let wide = format!("ipop:{}é", "a".repeat(30));
        for text in ["", "ipop:", "ipop:abc", "aaaa", &odd_class, &long, &wide] {
            assert!(text.parse::<NodeAddress>().is_err(), "{text}");
        }
    }
}
