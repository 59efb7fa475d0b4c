//! What the server's API says (docs/groups.md), as far as a node reads or writes it. Fields that a newer server adds are
//! passed over.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

pub(super) const CONTENT_TYPE: &str = "application/vnd.ipop.group-request";

#[derive(Serialize)]
pub(super) struct Join<'a> {
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<&'a str>,
}

/// How a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub addresses: Vec<String>,
    pub direct_kernel: u32,
    pub direct_user: u32,
    pub relay: u32,
    pub overlay: u32,
    pub version: String,
}

/// A report whose answer waits for news.
#[derive(Serialize)]
pub(super) struct Waiting<'a> {
    #[serde(flatten)]
    pub(super) report: &'a Report,
    pub(super) known: Status<'a>,
}

#[derive(Serialize)]
pub(super) struct Status<'a> {
    pub(super) status: &'a str,
    pub(super) document_number: u64,
    pub(super) list_number: u64,
}

#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) status: String,
    pub(super) granted: Option<Granted>,
}

/// Bytes in base64.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Granted {
    pub(super) certificate: String,
    /// Seconds since 1970.
    pub(super) renew_at: u64,
    pub(super) authority: String,
    pub(super) document: String,
    pub(super) revocations: String,
    pub(super) secret: String,
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[derive(Deserialize)]
pub(super) struct Reported {
    pub(super) status: String,
    pub(super) report_s: u64,
    pub(super) document_number: u64,
    pub(super) list_number: u64,
    pub(super) is_stale: bool,
}

/// The group's parameters.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Parameters {
    pub version: u32,
    pub group: String,
    pub place: String,
    pub prefix: String,
    pub lease: Lease,
    pub bootstrap: Vec<String>,
    pub security: Security,
    /// As they are written; [`Membership::rules`](super::Membership::rules) are what is read of them.
    pub rules: Vec<serde_json::Value>,
}

/// A rule as the document has it.
#[derive(Deserialize)]
pub(super) struct WrittenRule {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) ports: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Lease {
    pub policy: String,
    pub seconds: u32,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Security {
    pub sealed_only: bool,
}
