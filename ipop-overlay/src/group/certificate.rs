//! A member's certificate: what the authority grants to a key, made, read and checked.
//!
//! X.509 v3, signed by Ed25519. The subject is the node's name, its key the node's X25519 key. The alternative names say
//! the rest, as URIs, so that every X.509 tool shows them:
//!
//! ```text
//! ipop:<address>          the node's address, which follows from its key
//! ipop:user/<name>        whose node it is; at most one
//! ipop:tag/<name>         for the group's rules; sorted
//! ipop:net/<prefix>       virtual addresses that it may use; sorted
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use x509_cert::Certificate;
use x509_cert::TbsCertificate;
use x509_cert::der::Encode;
use x509_cert::der::asn1::Ia5String;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectAltName};

use super::x509::{
    Content, IssueError, Serial, Unsigned, Validity, X25519, authority_key_identifier, canonical,
    common_name, key_info, key_of, label_of,
};
use super::{Authority, AuthorityKey, Label, RevocationList};
use crate::NodeAddress;
use crate::routes::Subnet;

/// Length of a certificate in bytes.
pub const CERTIFICATE_LEN_MAX: usize = 4096;
/// Tags of one member.
pub const TAGS_MAX: usize = 16;
/// Virtual prefixes of one member.
pub const NETS_MAX: usize = 8;
/// Alternative names: the address and the user, tags and prefixes.
const NAMES_MAX: usize = 2 + TAGS_MAX + NETS_MAX;

/// What an authority grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub public_key: [u8; 32],
    pub node: Label,
    pub user: Option<Label>,
    /// At most [`TAGS_MAX`], sorted, each once.
    pub tags: Vec<Label>,
    /// At most [`NETS_MAX`], sorted, each once.
    pub nets: Vec<Subnet>,
}

/// A member, as its certificate tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub grant: Grant,
    pub serial: Serial,
    pub validity: Validity,
}

/// Why a certificate does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// Not what [`Grant::issue`] makes.
    Malformed,
    /// Another authority has issued it.
    WrongGroup,
    BadSignature,
    /// It is another node's.
    WrongKey,
    NotYetValid {
        not_before: u64,
    },
    Expired {
        not_after: u64,
    },
    Revoked,
}

impl Grant {
    /// The certificate, in DER.
    ///
    /// # Errors
    /// When the grant has more than the format allows, or the times cannot be told.
    pub fn issue(
        &self,
        key: &AuthorityKey,
        group: &Label,
        serial: Serial,
        validity: Validity,
    ) -> Result<Vec<u8>, IssueError> {
        self.build(key.public_key(), group, serial, validity)?.sign(key)
    }

    fn build(
        &self,
        authority: [u8; 32],
        group: &Label,
        serial: Serial,
        validity: Validity,
    ) -> Result<Unsigned, IssueError> {
        if !self.is_within_limits() {
            return Err(IssueError::TooMany);
        }
        let content = Content {
            issuer: common_name(group)?,
            subject: common_name(&self.node)?,
            subject_key: key_info(X25519, &self.public_key)?,
            serial,
            validity,
        };
        let names = SubjectAltName(self.names()?);
        Unsigned::build(authority, content, |builder| {
            builder.add_extension(&authority_key_identifier(&authority)?)?;
            builder.add_extension(&BasicConstraints { ca: false, path_len_constraint: None })?;
            builder.add_extension(&KeyUsage(KeyUsages::KeyAgreement.into()))?;
            builder.add_extension(&names)?;
            Ok(())
        })
    }

    fn is_within_limits(&self) -> bool {
        self.tags.len() <= TAGS_MAX
            && self.nets.len() <= NETS_MAX
            && self.tags.is_sorted_by(|a, b| a < b)
            && self.nets.is_sorted_by(|a, b| a < b)
    }

    fn names(&self) -> Result<Vec<GeneralName>, IssueError> {
        let address = core::iter::once(format!("{}", NodeAddress::of_key(&self.public_key)));
        let user = self.user.iter().map(|user| format!("ipop:user/{user}"));
        let tags = self.tags.iter().map(|tag| format!("ipop:tag/{tag}"));
        let nets = self.nets.iter().map(|net| format!("ipop:net/{net}"));
        let uri = |text: String| Ok(GeneralName::UniformResourceIdentifier(Ia5String::new(&text)?));
        address.chain(user).chain(tags).chain(nets).map(uri).collect()
    }

    /// Reads the names of [`Grant::names`]; whether they are all and in order shows when it is built again.
    fn read(tbs: &TbsCertificate, names: &[GeneralName]) -> Option<Self> {
        let public_key = key_of(X25519, tbs.subject_public_key_info())?;
        let mut grant = Self {
            public_key,
            node: label_of(tbs.subject())?,
            user: None,
            tags: Vec::new(),
            nets: Vec::new(),
        };
        for name in names.get(1..).filter(|_| names.len() <= NAMES_MAX)? {
            let GeneralName::UniformResourceIdentifier(uri) = name else { return None };
            let (kind, value) = uri.as_str().strip_prefix("ipop:")?.split_once('/')?;
            match kind {
                "user" => grant.user = Some(Label::new(value).ok()?),
                "tag" => grant.tags.push(Label::new(value).ok()?),
                "net" => grant.nets.push(subnet(value)?),
                _ => return None,
            }
        }
        Some(grant)
    }
}

fn subnet(text: &str) -> Option<Subnet> {
    let (address, len) = text.rsplit_once('/')?;
    Subnet::new(address.parse().ok()?, len.parse().ok()?)
}

impl Member {
    /// Reads a certificate, and holds it against its authority, the key that the other end of a session has proved to
    /// have, the time, and the list of those that are revoked.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify(
        der: &[u8],
        authority: &Authority,
        public_key: &[u8; 32],
        now: u64,
        revoked: Option<&RevocationList>,
    ) -> Result<Self, CertificateError> {
        let member = Self::open(der, authority)?;
        if member.grant.public_key != *public_key {
            return Err(CertificateError::WrongKey);
        }
        let Validity { not_before, not_after } = member.validity;
        if now < not_before {
            return Err(CertificateError::NotYetValid { not_before });
        }
        if now > not_after {
            return Err(CertificateError::Expired { not_after });
        }
        if revoked.is_some_and(|list| list.contains(member.serial)) {
            return Err(CertificateError::Revoked);
        }
        Ok(member)
    }

    /// Reads a certificate of an authority, whenever and for whomever it is.
    ///
    /// # Errors
    /// When the authority has not issued it.
    pub fn open(der: &[u8], authority: &Authority) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_LEN_MAX {
            return Err(CertificateError::Malformed);
        }
        let certificate: Certificate = canonical(der).ok_or(CertificateError::Malformed)?;
        let tbs = certificate.tbs_certificate();
        let issuer = issuer_identifier(tbs).ok_or(CertificateError::Malformed)?;
        if issuer != authority.identifier() || label_of(tbs.issuer()).as_ref() != Some(authority.group()) {
            return Err(CertificateError::WrongGroup);
        }
        if authority.has_signed(&certificate) != Some(true) {
            return Err(CertificateError::BadSignature);
        }
        Self::read(tbs, authority).ok_or(CertificateError::Malformed)
    }

    fn read(tbs: &TbsCertificate, authority: &Authority) -> Option<Self> {
        let (_, SubjectAltName(names)) = tbs.get_extension().ok()??;
        let grant = Grant::read(tbs, &names)?;
        let serial = Serial::from_bytes(tbs.serial_number().as_bytes())?;
        let validity = Validity::of(tbs.validity());
        // Built again it is the same: nothing of it is missing, twice, spelt another way, or says anything else.
        let again = grant.build(authority.public_key(), authority.group(), serial, validity).ok()?;
        (again.signed_part == tbs.to_der().ok()?).then_some(Self { grant, serial, validity })
    }

    pub fn address(&self) -> NodeAddress {
        NodeAddress::of_key(&self.grant.public_key)
    }
}

fn issuer_identifier(tbs: &TbsCertificate) -> Option<[u8; 20]> {
    let (_, identifier): (bool, AuthorityKeyIdentifier) = tbs.get_extension().ok()??;
    identifier.key_identifier?.as_bytes().try_into().ok()
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("this is not a member's certificate"),
            Self::WrongGroup => f.write_str("the certificate is of another group"),
            Self::BadSignature => f.write_str("the group's authority has not signed the certificate"),
            Self::WrongKey => f.write_str("the certificate is another node's"),
            Self::NotYetValid { not_before } => {
                write!(
                    f,
                    "the certificate is not valid before {not_before} (seconds since 1970): compare the clocks"
                )
            }
            Self::Expired { not_after } => {
                write!(
                    f,
                    "the certificate has expired at {not_after} (seconds since 1970): it was not renewed"
                )
            }
            Self::Revoked => f.write_str("the certificate is revoked"),
        }
    }
}

impl core::error::Error for CertificateError {}
