//! What the certificates and the list of revoked ones have in common: numbers, times, algorithms, and the builder's view
//! of an Ed25519 key.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder, CertificateBuilder};
use x509_cert::der::asn1::{BitString, GeneralizedTime, OctetString, UtcTime};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{self, Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{self, AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::Time;
use x509_cert::{Certificate, TbsCertificate};

use super::{AuthorityKey, Label};

/// Ed25519 (RFC 8410, section 3), of keys and of signatures.
pub(super) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// X25519 (RFC 8410, section 3).
pub(super) const X25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");

/// A certificate's number: 126 random bits, always 16 bytes long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

/// From when to when, both included; seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: u64,
    pub not_after: u64,
}

/// A certificate or list could not be made; what it was to say cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueError {
    /// A time that X.509 has no text for.
    Time,
    /// More tags, addresses or revoked certificates than the format allows.
    TooMany,
    /// The library refused it.
    Encoding,
}

impl Serial {
    /// From random bytes. Two bits are set so that every one is a positive number of full length.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// `None` if it is none of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (bytes[0] & 0xc0 == 0x40).then_some(Self(bytes))
    }

    pub(super) fn to_x509(self) -> Result<SerialNumber, IssueError> {
        Ok(SerialNumber::new(&self.0)?)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Validity {
    pub(super) fn to_x509(self) -> Result<x509_cert::time::Validity, IssueError> {
        Ok(x509_cert::time::Validity::new(time(self.not_before)?, time(self.not_after)?))
    }

    pub(super) fn of(validity: &x509_cert::time::Validity) -> Self {
        Self { not_before: seconds(validity.not_before), not_after: seconds(validity.not_after) }
    }
}

impl From<der::Error> for IssueError {
    fn from(_: der::Error) -> Self {
        Self::Encoding
    }
}

impl From<builder::Error> for IssueError {
    fn from(_: builder::Error) -> Self {
        Self::Encoding
    }
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "X.509 cannot tell such a time",
            Self::TooMany => "it has more tags, addresses or revoked certificates than the format allows",
            Self::Encoding => "it cannot be encoded",
        })
    }
}

impl core::error::Error for IssueError {}

/// RFC 5280, section 4.1.2.5: UTCTime up to the year 2049, then GeneralizedTime.
pub(super) fn time(seconds: u64) -> Result<Time, IssueError> {
    let duration = Duration::from_secs(seconds);
    UtcTime::from_unix_duration(duration)
        .map(Time::UtcTime)
        .or_else(|_| GeneralizedTime::from_unix_duration(duration).map(Time::GeneralTime))
        .map_err(|_| IssueError::Time)
}

pub(super) fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}

/// A distinguished name that is a common name alone.
pub(super) fn common_name(label: &Label) -> Result<Name, IssueError> {
    Ok(format!("CN={label}").parse()?)
}

/// The label of a name that is a common name alone.
pub(super) fn label_of(name: &Name) -> Option<Label> {
    let common = name.common_name().ok()??;
    (name.len() == 1).then(|| Label::new(&common.value()).ok()).flatten()
}

/// The key of a kind of RFC 8410: 32 bytes and no parameters.
pub(super) fn key_info(
    algorithm: ObjectIdentifier,
    key: &[u8; 32],
) -> Result<SubjectPublicKeyInfoOwned, IssueError> {
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid: algorithm, parameters: None },
        subject_public_key: BitString::from_bytes(key)?,
    })
}

/// The key, if it is of that kind.
pub(super) fn key_of(algorithm: ObjectIdentifier, info: &SubjectPublicKeyInfoOwned) -> Option<[u8; 32]> {
    let is_kind = info.algorithm.oid == algorithm && info.algorithm.parameters.is_none();
    is_kind.then(|| info.subject_public_key.as_bytes()?.try_into().ok()).flatten()
}

/// How a certificate names a key that signs.
pub(super) fn key_identifier(key: &[u8; 32]) -> [u8; 20] {
    use blake2::{Blake2s256, Digest};
    let digest: [u8; 32] =
        Blake2s256::new().chain_update(b"ipop group key v1").chain_update(key).finalize().into();
    core::array::from_fn(|index| digest[index])
}

pub(super) fn authority_key_identifier(key: &[u8; 32]) -> Result<AuthorityKeyIdentifier, IssueError> {
    let key_identifier = Some(OctetString::new(key_identifier(key))?);
    Ok(AuthorityKeyIdentifier { key_identifier, ..AuthorityKeyIdentifier::default() })
}

pub(super) fn subject_key_identifier(key: &[u8; 32]) -> Result<SubjectKeyIdentifier, IssueError> {
    Ok(SubjectKeyIdentifier(OctetString::new(key_identifier(key))?))
}

/// Reads DER that is the only one of what it says: so what was signed is what is written again.
pub(super) fn canonical<'a, T: Decode<'a, Error = der::Error> + Encode>(bytes: &'a [u8]) -> Option<T> {
    let value = T::from_der(bytes).ok()?;
    (value.to_der().ok()? == bytes).then_some(value)
}

/// What of a certificate is not the same in all.
pub(super) struct Content {
    pub(super) issuer: Name,
    pub(super) subject: Name,
    pub(super) subject_key: SubjectPublicKeyInfoOwned,
    pub(super) serial: Serial,
    pub(super) validity: Validity,
}

/// A certificate that waits for its signature, and what is to be signed.
pub(super) struct Unsigned {
    builder: CertificateBuilder<Names>,
    signer: Signer,
    pub(super) signed_part: Vec<u8>,
}

impl Unsigned {
    /// Of the authority with this public key; `extend` adds the extensions.
    pub(super) fn build(
        authority: [u8; 32],
        content: Content,
        extend: impl FnOnce(&mut CertificateBuilder<Names>) -> Result<(), IssueError>,
    ) -> Result<Self, IssueError> {
        let Content { issuer, subject, subject_key, serial, validity } = content;
        let names = Names { issuer, subject };
        let mut builder =
            CertificateBuilder::new(names, serial.to_x509()?, validity.to_x509()?, subject_key)?;
        extend(&mut builder)?;
        let signer = Signer(authority);
        let signed_part = builder.finalize(&signer)?;
        Ok(Self { builder, signer, signed_part })
    }

    pub(super) fn sign(self, key: &AuthorityKey) -> Result<Vec<u8>, IssueError> {
        let signature = BitString::from_bytes(&key.sign(&self.signed_part))?;
        let certificate: Certificate = self.builder.assemble(signature, &self.signer)?;
        Ok(certificate.to_der()?)
    }
}

/// The builder's profile: two names, and no extension of its own.
pub(super) struct Names {
    issuer: Name,
    subject: Name,
}

impl BuilderProfile for Names {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        _certificate: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        Ok(Vec::new())
    }
}

/// An authority's key, as the builder asks for it.
struct Signer([u8; 32]);

/// Its public half.
#[derive(Clone)]
struct SignerKey([u8; 32]);

impl signature::Keypair for Signer {
    type VerifyingKey = SignerKey;

    fn verifying_key(&self) -> SignerKey {
        SignerKey(self.0)
    }
}

impl spki::DynSignatureAlgorithmIdentifier for Signer {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(signature_algorithm())
    }
}

impl spki::EncodePublicKey for SignerKey {
    fn to_public_key_der(&self) -> spki::Result<der::Document> {
        let info = key_info(ED25519, &self.0).map_err(|_| spki::Error::KeyMalformed)?;
        der::Document::try_from(&info)
    }
}

/// What signs everything of a group.
pub(super) fn signature_algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: ED25519, parameters: None }
}
