//! A group's certificate authority: its key, and its certificate as members know it.

use alloc::vec::Vec;
use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use x509_cert::Certificate;
use x509_cert::der::Encode;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};

use super::x509::{
    Content, ED25519, IssueError, Serial, Unsigned, Validity, canonical, common_name, key_identifier,
    key_info, key_of, label_of, signature_algorithm, subject_key_identifier,
};
use super::{CERTIFICATE_LEN_MAX, Label};

/// The key that signs everything of a group; wiped when dropped.
pub struct AuthorityKey(SigningKey);

/// A group's authority as its certificate tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    group: Label,
    key: VerifyingKey,
    validity: Validity,
    der: Vec<u8>,
}

/// A certificate is no authority's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityError;

impl AuthorityKey {
    /// From 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The certificate that it signs itself.
    ///
    /// # Errors
    /// When the times cannot be told.
    pub fn certify(&self, group: &Label, serial: Serial, validity: Validity) -> Result<Vec<u8>, IssueError> {
        build(self.public_key(), group, serial, validity)?.sign(self)
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// The certificate of an authority, by itself.
fn build(key: [u8; 32], group: &Label, serial: Serial, validity: Validity) -> Result<Unsigned, IssueError> {
    let name = common_name(group)?;
    let subject_key = key_info(ED25519, &key)?;
    let content = Content { issuer: name.clone(), subject: name, subject_key, serial, validity };
    Unsigned::build(key, content, |builder| {
        builder.add_extension(&subject_key_identifier(&key)?)?;
        builder.add_extension(&BasicConstraints { ca: true, path_len_constraint: Some(0) })?;
        builder.add_extension(&KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?;
        Ok(())
    })
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKey(..)")
    }
}

impl Authority {
    /// Reads an authority's certificate, in DER.
    ///
    /// # Errors
    /// Everything that [`AuthorityKey::certify`] does not make.
    pub fn parse(der: &[u8]) -> Result<Self, AuthorityError> {
        Self::read(der).ok_or(AuthorityError)
    }

    fn read(der: &[u8]) -> Option<Self> {
        let certificate: Certificate =
            (der.len() <= CERTIFICATE_LEN_MAX).then(|| canonical(der)).flatten()?;
        let tbs = certificate.tbs_certificate();
        let key = VerifyingKey::from_bytes(&key_of(ED25519, tbs.subject_public_key_info())?).ok()?;
        let group = label_of(tbs.subject())?;
        let authority = Self { group, key, validity: Validity::of(tbs.validity()), der: der.to_vec() };
        let serial = Serial::from_bytes(tbs.serial_number().as_bytes())?;
        // Built again it is the same: nothing of it says anything else.
        let again = build(key.to_bytes(), &authority.group, serial, authority.validity).ok()?;
        let is_ours = again.signed_part == tbs.to_der().ok()?;
        (is_ours && authority.has_signed(&certificate)?).then_some(authority)
    }

    pub fn group(&self) -> &Label {
        &self.group
    }

    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Its certificate, as it was read.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// By which a group is told from others of its name.
    pub fn identifier(&self) -> [u8; 20] {
        key_identifier(&self.public_key())
    }

    /// `None` if the certificate cannot be written again.
    pub(super) fn has_signed(&self, certificate: &Certificate) -> Option<bool> {
        let is_kind = *certificate.signature_algorithm() == signature_algorithm()
            && *certificate.tbs_certificate().signature() == signature_algorithm();
        let message = certificate.tbs_certificate().to_der().ok()?;
        Some(is_kind && self.verifies(&message, certificate.signature().as_bytes()?))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        self.key.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.group)
    }
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not the certificate of a group's authority")
    }
}

impl core::error::Error for AuthorityError {}
