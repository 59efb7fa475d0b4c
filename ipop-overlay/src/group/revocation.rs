//! The list of revoked certificates: X.509's own (RFC 5280, section 5).
//!
//! A certificate leaves it once it has expired, so it is as long as the certificates that were revoked within one
//! lifetime of a certificate, 35 bytes each: 36 kB if all of a thousand members were. A format of our own would save half
//! of that, and no tool would read it.

use alloc::vec::Vec;
use core::fmt;

use x509_cert::Version;
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{BitString, Uint};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, CrlNumber};

use super::x509::{
    IssueError, Serial, authority_key_identifier, canonical, common_name, label_of, seconds,
    signature_algorithm, time,
};
use super::{Authority, AuthorityKey, Label};

/// Certificates of one list.
pub const REVOKED_MAX: usize = 4096;
/// Length of a list in bytes.
pub(super) const LIST_LEN_MAX: usize = REVOKED_MAX * 40 + 1024;

/// Which certificates are revoked, from when on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// Of two lists the one with the higher number counts.
    pub number: u64,
    pub issued: u64,
    /// Sorted by number, each once, with the time.
    pub revoked: Vec<(Serial, u64)>,
}

/// Why a list does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationError {
    Malformed,
    WrongGroup,
    BadSignature,
}

impl RevocationList {
    /// The signed list, in DER.
    ///
    /// # Errors
    /// When it has more than the format allows or is not sorted, or a time cannot be told.
    pub fn issue(&self, key: &AuthorityKey, group: &Label) -> Result<Vec<u8>, IssueError> {
        let list = self.build(key.public_key(), group)?;
        let signature = BitString::from_bytes(&key.sign(&list.to_der()?))?;
        let signature_algorithm = signature_algorithm();
        Ok(CertificateList { tbs_cert_list: list, signature_algorithm, signature }.to_der()?)
    }

    fn build(&self, authority: [u8; 32], group: &Label) -> Result<TbsCertList, IssueError> {
        if self.revoked.len() > REVOKED_MAX || !self.is_sorted() {
            return Err(IssueError::TooMany);
        }
        let issuer = common_name(group)?;
        let number = CrlNumber(Uint::try_from(self.number)?).to_extension(&issuer, &[])?;
        let identifier = authority_key_identifier(&authority)?.to_extension(&issuer, &[])?;
        let revoked: Vec<RevokedCert> = self.revoked.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(TbsCertList {
            version: Version::V2,
            signature: signature_algorithm(),
            issuer,
            this_update: time(self.issued)?,
            // It counts until a newer one comes: the group works on while its server is down.
            next_update: None,
            revoked_certificates: (!revoked.is_empty()).then_some(revoked),
            crl_extensions: Some([number, identifier].into()),
        })
    }

    /// Reads a list, and holds it against its authority.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn open(der: &[u8], authority: &Authority) -> Result<Self, RevocationError> {
        if der.len() > LIST_LEN_MAX {
            return Err(RevocationError::Malformed);
        }
        let list: CertificateList = canonical(der).ok_or(RevocationError::Malformed)?;
        let (number, issuer) = extensions(&list.tbs_cert_list).ok_or(RevocationError::Malformed)?;
        if issuer != authority.identifier()
            || label_of(&list.tbs_cert_list.issuer).as_ref() != Some(authority.group())
        {
            return Err(RevocationError::WrongGroup);
        }
        if !is_signed(&list, authority) {
            return Err(RevocationError::BadSignature);
        }
        Self::read(&list.tbs_cert_list, number, authority).ok_or(RevocationError::Malformed)
    }

    fn read(list: &TbsCertList, number: u64, authority: &Authority) -> Option<Self> {
        let entries = list.revoked_certificates.as_deref().unwrap_or_default();
        let revoked = entries.iter().map(|entry| {
            Some((Serial::from_bytes(entry.serial_number.as_bytes())?, seconds(entry.revocation_date)))
        });
        let revoked = revoked.collect::<Option<_>>()?;
        let read = Self { number, issued: seconds(list.this_update), revoked };
        // Built again it is the same: nothing of it says anything else.
        (read.build(authority.public_key(), authority.group()).ok()? == *list).then_some(read)
    }

    pub fn contains(&self, serial: Serial) -> bool {
        self.revoked.binary_search_by_key(&serial, |(revoked, _)| *revoked).is_ok()
    }

    fn is_sorted(&self) -> bool {
        self.revoked.is_sorted_by(|(a, _), (b, _)| a < b)
    }
}

fn entry((serial, at): &(Serial, u64)) -> Result<RevokedCert, IssueError> {
    Ok(RevokedCert {
        serial_number: serial.to_x509()?,
        revocation_date: time(*at)?,
        crl_entry_extensions: None,
    })
}

fn is_signed(list: &CertificateList, authority: &Authority) -> bool {
    let is_kind = list.signature_algorithm == signature_algorithm()
        && list.tbs_cert_list.signature == signature_algorithm();
    let (Ok(message), Some(signature)) = (list.tbs_cert_list.to_der(), list.signature.as_bytes()) else {
        return false;
    };
    is_kind && authority.verifies(&message, signature)
}

/// The list's number and whose it is; no other extension.
fn extensions(list: &TbsCertList) -> Option<(u64, [u8; 20])> {
    let [number, identifier] = list.crl_extensions.as_deref()? else { return None };
    let is_ours = number.extn_id == <CrlNumber as x509_cert::der::oid::AssociatedOid>::OID
        && identifier.extn_id == <AuthorityKeyIdentifier as x509_cert::der::oid::AssociatedOid>::OID;
    let CrlNumber(number) = CrlNumber::from_der(number.extn_value.as_bytes()).ok()?;
    let identifier = AuthorityKeyIdentifier::from_der(identifier.extn_value.as_bytes()).ok()?;
    let issuer = identifier.key_identifier?.as_bytes().try_into().ok()?;
    is_ours.then_some((to_u64(number.as_bytes())?, issuer))
}

/// A big-endian number of at most 8 bytes.
fn to_u64(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

impl fmt::Display for RevocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "this is not a list of revoked certificates",
            Self::WrongGroup => "the list of revoked certificates is of another group",
            Self::BadSignature => "the group's authority has not signed the list of revoked certificates",
        })
    }
}

impl core::error::Error for RevocationError {}
