//! Groups: what a group's certificate authority signs, and what a node that joins signs.
//!
//! An authority is an Ed25519 key with a self-signed X.509 certificate ([`AuthorityKey`], [`Authority`]). It signs each
//! member's certificate ([`Grant`], [`Member`]), the list of those that are revoked ([`RevocationList`]) and the group's
//! parameters ([`document`]). A node proves in each [`request`] to the group's server that it holds its key.
//!
//! Nothing here knows the time or draws a number: who calls says what time it is (seconds since 1970, UTC) and brings
//! serial numbers and keys.

mod authority;
mod certificate;
pub mod document;
mod label;
mod message;
pub mod request;
mod revocation;
pub mod rules;
#[cfg(test)]
mod tests;
mod x509;

pub use authority::{Authority, AuthorityError, AuthorityKey};
pub use certificate::{CERTIFICATE_LEN_MAX, CertificateError, Grant, Member, NETS_MAX, TAGS_MAX};
pub use label::{LABEL_LEN_MAX, Label, LabelError};
pub(crate) use message::{
    Assembly, CertificateId, CertificatePart, Message, Numbers, PART_LEN_MAX, of_certificate,
};
pub use message::{Distrust, Kind};
pub use revocation::{REVOKED_MAX, RevocationError, RevocationList};
pub use x509::{IssueError, Serial, Validity};
