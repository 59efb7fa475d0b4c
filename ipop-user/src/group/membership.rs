//! What a member of a group has: checked against the group's authority whenever it is read, from the server or from the
//! disk.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipop_overlay::Credentials;
use ipop_overlay::dhcp::Pool;
use ipop_overlay::group::document::Document;
use ipop_overlay::group::rules::{Policy, Rule};
use ipop_overlay::group::{Authority, CertificateError, Grant, Kind, Member, RevocationList};
use serde::{Deserialize, Serialize};

use super::place::GroupPlace;
use super::shapes::{Granted, Parameters, WrittenRule};
use crate::config::{self, Bootstrap, Config, Dhcp, Prefix, Secret};
use crate::{secret_file, whole_file};

const FOLDER: &str = "group";
const FILE: &str = "membership.json";
/// The longest list and the longest document in base64, and as much again.
pub(super) const LEN_MAX: usize = 640 * 1024;
/// Of the document's content that is read here.
const VERSION: u32 = 1;

/// What a node has as a member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    place: String,
    pub credentials: Credentials,
    pub member: Member,
    pub parameters: Parameters,
    pub document_number: u64,
    pub list_number: u64,
    /// In base64: what `network.secret` is in other networks.
    secret: Secret,
    /// When the certificate is to be renewed, in seconds since 1970.
    pub renew_at: u64,
}

/// Why something is not a membership.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("{0} is not what a member of the group has")]
    Malformed(&'static str),
    #[error("this node's certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the server shows another authority than when this node joined, so it is not the same group")]
    OtherAuthority,
    #[error("it is of {0}, and not of {1}")]
    OtherPlace(String, String),
    #[error("the group's parameters: {0}")]
    Parameters(String),
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored {
    place: String,
    #[serde(flatten)]
    granted: Granted,
}

impl Membership {
    /// Checks what the server has granted.
    pub(super) fn granted(
        granted: &Granted,
        place: &GroupPlace,
        public_key: &[u8; 32],
    ) -> Result<Self, MembershipError> {
        let bytes = |text: &str, what| STANDARD.decode(text).map_err(|_| MembershipError::Malformed(what));
        let authority = Authority::parse(&bytes(&granted.authority, "the authority")?)
            .map_err(|_| MembershipError::Malformed("the authority"))?;
        let certificate = bytes(&granted.certificate, "the certificate")?;
        let member = Member::open(&certificate, &authority)?;
        if member.grant.public_key != *public_key {
            return Err(CertificateError::WrongKey.into());
        }
        let list = bytes(&granted.revocations, "the list of revoked certificates")?;
        let opened = RevocationList::open(&list, &authority)
            .map_err(|_| MembershipError::Malformed("the list of revoked certificates"))?;
        let document = bytes(&granted.document, "the document")?;
        let (document_number, parameters) = read_document(&document, &authority, place)?;
        let is_secret = STANDARD.decode(&granted.secret).is_ok_and(|secret| secret.len() == 32);
        let secret = Secret::new(granted.secret.clone());
        if !is_secret {
            return Err(MembershipError::Malformed("the secret"));
        }
        Ok(Self {
            place: place.place(),
            credentials: Credentials { authority, certificate, list, document },
            member,
            parameters,
            document_number,
            list_number: opened.number,
            secret,
            renew_at: granted.renew_at,
        })
    }

    /// The same membership, with what is newer of another one; it is of the same authority.
    pub(super) fn renewed(&self, mut newer: Self) -> Result<Self, MembershipError> {
        if self.credentials.authority != newer.credentials.authority {
            return Err(MembershipError::OtherAuthority);
        }
        if newer.list_number < self.list_number {
            newer.list_number = self.list_number;
            newer.credentials.list.clone_from(&self.credentials.list);
        }
        if newer.document_number < self.document_number {
            newer.document_number = self.document_number;
            newer.credentials.document.clone_from(&self.credentials.document);
            newer.parameters.clone_from(&self.parameters);
        }
        Ok(newer)
    }

    /// Takes what the authority has signed for all, which another member has given.
    ///
    /// # Errors
    /// What is not signed, or cannot be read here.
    pub fn take_signed(
        &mut self,
        kind: Kind,
        bytes: &[u8],
        place: &GroupPlace,
    ) -> Result<(), MembershipError> {
        let authority = &self.credentials.authority;
        match kind {
            Kind::List => {
                let list = RevocationList::open(bytes, authority)
                    .map_err(|_| MembershipError::Malformed("the list of revoked certificates"))?;
                (self.list_number, self.credentials.list) = (list.number, bytes.to_vec());
            }
            Kind::Document => {
                (self.document_number, self.parameters) = read_document(bytes, authority, place)?;
                self.credentials.document = bytes.to_vec();
            }
        }
        Ok(())
    }

    /// The group's rules.
    ///
    /// # Errors
    /// What of them this version cannot read: then nothing may begin.
    pub fn rules(&self) -> Result<Vec<Rule>, String> {
        let read = |value: &serde_json::Value| {
            let rule = WrittenRule::deserialize(value).map_err(|error| format!("a rule: {error}"))?;
            Rule::parse(&rule.from, &rule.to, &rule.protocol, &rule.ports).map_err(|error| error.to_string())
        };
        self.parameters.rules.iter().map(read).collect()
    }

    /// What the rules say of this node and a peer.
    pub fn policy(&self, peer: &Grant) -> Policy {
        match self.rules() {
            Ok(rules) => Policy::of(&rules, &self.member.grant, peer),
            Err(_) => Policy::closed(),
        }
    }

    /// Puts what the group says into the configuration.
    ///
    /// # Errors
    /// Parameters that this version cannot keep.
    pub fn enter(&self, config: &mut Config) -> Result<(), MembershipError> {
        let wrong = |what: &str| MembershipError::Parameters(format!("this version cannot keep {what}"));
        let of = &self.parameters;
        let prefix: Prefix = of.prefix.parse().map_err(|_| wrong(&format!("the prefix {}", of.prefix)))?;
        match of.lease.policy.as_str() {
            "dhcp" => {
                let pool = Pool::new(prefix.addr(), prefix.len(), of.lease.seconds, Vec::new());
                let pool =
                    pool.map_err(|_| wrong(&format!("leases of {prefix} for {} s", of.lease.seconds)))?;
                config.dhcp = Some(Dhcp { pool: Some(pool), address: None });
            }
            "assigned" => {
                let own = self.member.grant.nets.iter().map(|net| net.address());
                let own =
                    own.filter(|address| prefix.contains(*address)).map(|address| within(prefix, address));
                config.network.addresses = own.collect::<Option<_>>().unwrap_or_default();
                config.dhcp = None;
            }
            policy => return Err(wrong(&format!("the lease policy {policy}"))),
        }
        for text in &of.bootstrap {
            let bootstrap: Bootstrap =
                config::parse_way_in(text).map_err(|_| wrong(&format!("the bootstrap node {text}")))?;
            if !config.underlay.bootstrap.contains(&bootstrap) {
                config.underlay.bootstrap.push(bootstrap);
            }
        }
        if of.security.sealed_only {
            config.datapath.security = config::Security::Sealed;
        }
        config.network.secret = Some(self.secret.clone());
        Ok(())
    }

    /// Reads what is kept of a group; `None` if there is nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another group or key: with what to do about it.
    pub fn read(folder: &Path, place: &GroupPlace, public_key: &[u8; 32]) -> anyhow::Result<Option<Self>> {
        let path = file(folder);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => anyhow::bail!("cannot read {}: {error}", path.display()),
        };
        secret_file::check_mode(&path, &file.metadata()?)?;
        let mut text = zeroize::Zeroizing::new(Vec::new());
        file.take(LEN_MAX as u64).read_to_end(&mut text)?;
        let advice = "run `ipopctl group leave` to forget it, and start ipopd again to join anew";
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| {
            anyhow::anyhow!("{} is not what this program has written: {advice}", path.display())
        })?;
        let checked = if stored.place == place.place() {
            Self::granted(&stored.granted, place, public_key)
        } else {
            Err(MembershipError::OtherPlace(stored.place, place.place()))
        };
        checked.map(Some).map_err(|error| anyhow::anyhow!("{}: {error}: {advice}", path.display()))
    }

    /// Keeps it: whole, or as it was.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let path = file(folder);
        let parent = path.parent().unwrap_or(folder);
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let text = zeroize::Zeroizing::new(serde_json::to_vec_pretty(&self.stored())?);
        whole_file::write(&path, &text)
    }

    /// Forgets what is kept; whether there was anything.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn forget(folder: &Path) -> io::Result<bool> {
        match std::fs::remove_file(file(folder)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn stored(&self) -> Stored {
        let Credentials { authority, certificate, list, document } = &self.credentials;
        Stored {
            place: self.place.clone(),
            granted: Granted {
                certificate: STANDARD.encode(certificate),
                renew_at: self.renew_at,
                authority: STANDARD.encode(authority.der()),
                document: STANDARD.encode(document),
                revocations: STANDARD.encode(list),
                secret: self.secret.expose_text().to_owned(),
            },
        }
    }
}

fn read_document(
    bytes: &[u8],
    authority: &Authority,
    place: &GroupPlace,
) -> Result<(u64, Parameters), MembershipError> {
    let document = Document::open(bytes, authority).ok_or(MembershipError::Malformed("the document"))?;
    let parameters: Parameters = serde_json::from_slice(&document.content)
        .map_err(|error| MembershipError::Parameters(error.to_string()))?;
    if parameters.version != VERSION {
        let version = parameters.version;
        return Err(MembershipError::Parameters(format!("version {version} is not known here: update ipop")));
    }
    if parameters.place != place.place() {
        return Err(MembershipError::OtherPlace(parameters.place, place.place()));
    }
    Ok((document.number, parameters))
}

/// An address with the length of the network that it is in.
fn within(network: Prefix, address: IpAddr) -> Option<Prefix> {
    Prefix::new(address, network.len())
}

fn file(folder: &Path) -> PathBuf {
    folder.join(FOLDER).join(FILE)
}
