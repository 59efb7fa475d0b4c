//! The server's master key, and what follows from it: sealed secrets of groups, tokens of forms, hashes of cookies.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::digest::{FixedOutput, Mac, Update};
use blake2::{Blake2s256, Blake2sMac256, Digest};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::error::Error;

/// Within the data folder, unless the operator names another place.
pub const FILE_NAME: &str = "master.key";
const NONCE_LEN: usize = 24;

/// Seals what a stolen database must not tell.
#[derive(ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// Reads the key file. One in the data folder is made if there is neither it nor a database that needs it.
    ///
    /// # Errors
    /// A file that others may read, or that is no key.
    pub fn load(file: &Path, may_create: bool) -> Result<Self> {
        if may_create && !file.exists() {
            create(file)?;
        }
        let metadata =
            fs::metadata(file).with_context(|| format!("cannot read the master key {}", file.display()))?;
        ensure!(
            metadata.is_file() && metadata.mode() & 0o077 == 0,
            "{} is open to others: chmod 600 it",
            file.display()
        );
        let text = Zeroizing::new(
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        );
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok().map(Zeroizing::new);
        let key = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        Ok(Self(key.with_context(|| format!("{} holds no master key", file.display()))?))
    }

    /// `label` says what it is and whose, and must be the same when it is opened.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn seal(&self, label: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let payload = Payload { msg: secret, aad: label.as_bytes() };
        let sealed = self.cipher().encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|_| Error::Internal("a secret cannot be sealed".to_owned()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// # Errors
    /// Something that this key has not sealed under that label.
    pub fn open(&self, label: &str, sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let opened = sealed.split_at_checked(NONCE_LEN).and_then(|(nonce, text)| {
            let payload = Payload { msg: text, aad: label.as_bytes() };
            let secret =
                self.cipher().decrypt(XNonce::from_slice(nonce), payload).ok().map(Zeroizing::new)?;
            secret.as_slice().try_into().ok().map(Zeroizing::new)
        });
        opened.ok_or_else(|| Error::Internal(format!("{label}: sealed with another master key, or damaged")))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.derive(b"seal", b"").into())
    }

    /// What a form of the holder of this cookie must carry.
    pub fn form_token(&self, cookie: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.derive(b"form", cookie.as_bytes()))
    }

    fn derive(&self, label: &[u8], text: &[u8]) -> [u8; 32] {
        let Ok(mut mac) = Blake2sMac256::new_with_salt_and_personal(&self.0, &[], &[]) else {
            unreachable!("BLAKE2s takes keys of up to 32 bytes")
        };
        Update::update(&mut mac, b"ipop group server v1 ");
        Update::update(&mut mac, label);
        Mac::update(&mut mac, text);
        mac.finalize_fixed().into()
    }
}

fn create(file: &Path) -> Result<()> {
    let key: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
    let text = Zeroizing::new(format!("{}\n", URL_SAFE_NO_PAD.encode(key.as_slice())));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()).and_then(|()| open.sync_all()));
    written.with_context(|| format!("cannot write the master key {}", file.display()))
}

/// # Errors
/// If the system has none.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Internal(format!("no random numbers: {error}")))?;
    Ok(bytes)
}

/// 256 random bits as text, for a cookie or a token.
///
/// # Errors
/// If the system has no random numbers.
pub fn random_text() -> Result<String, Error> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// By which a cookie or a token is known; it cannot be had back from it.
pub fn hash(text: &str) -> [u8; 32] {
    Blake2s256::new().chain_update(b"ipop group secret v1").chain_update(text).finalize().into()
}
