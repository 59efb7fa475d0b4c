//! What the server of groups, nodes and people's programs say to each other, version 1: docs/groups.md has the shapes.
//! Fields that a newer server adds are passed over.

use std::fmt;

use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;
/// Of the body of each request: `ipop_overlay::group::request`.
pub const CONTENT_TYPE: &str = "application/vnd.ipop.group-request";

/// The body of a request to join.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The body of a report; every field may be missing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Report {
    /// Virtual addresses that it has.
    pub addresses: Vec<String>,
    /// Links by path: kernel, user, relay, overlay.
    pub direct_kernel: u32,
    pub direct_user: u32,
    pub relay: u32,
    pub overlay: u32,
    pub version: String,
    /// What the node knows: the answer waits until there is something else, for some seconds. Without it, it comes at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
}

/// What a node knows of itself and its group.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// As in [`Membership`].
    pub status: String,
    pub document_number: u64,
    pub list_number: u64,
}

/// The answer to `Join` and `Fetch`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Membership {
    pub api: u32,
    /// pending, approved, denied or removed.
    pub status: String,
    pub address: String,
    /// Ask again so many seconds later, while pending.
    pub poll_s: u64,
    /// Only if approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
}

/// What a member gets; bytes in base64.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Granted {
    pub certificate: String,
    /// Ask for another one from then on; seconds since 1970.
    pub renew_at: u64,
    pub authority: String,
    /// `ipop_overlay::group::document`, with [`Parameters`] in it.
    pub document: String,
    pub revocations: String,
    /// Shared by all members: keeps others from talking to them at all. It gives nobody a member's rights.
    pub secret: String,
}

/// The answer to `Report`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reported {
    pub api: u32,
    pub status: String,
    /// Report again so many seconds later; 0: at once, this answer has waited.
    pub report_s: u64,
    /// Of the newest: fetch, if one of them is higher than your own.
    pub document_number: u64,
    pub list_number: u64,
    /// The certificate is to be fetched anew.
    pub is_stale: bool,
}

/// A group that a person's program makes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    pub name: String,
    pub prefix: String,
    pub lease: Lease,
    pub certificate_hours: u64,
    pub bootstrap: Vec<String>,
    pub security: Security,
}

/// Where the group is that was made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MadeGroup {
    pub api: u32,
    pub url: String,
}

/// The machines and people of a group; those that are no members are told to managers only.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Members {
    pub api: u32,
    pub nodes: Vec<NodeMember>,
    pub people: Vec<PersonMember>,
    /// There are more than these.
    pub is_cut: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeMember {
    pub name: String,
    pub address: String,
    /// As in [`Membership`].
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub tags: Vec<String>,
    pub virtual_addresses: Vec<String>,
    /// When it last reported, in seconds since 1970; 0 if it never has.
    pub seen: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PersonMember {
    pub name: String,
    pub display: String,
    pub role: String,
    pub status: String,
}

/// What becomes of a machine or a person.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// `user:NAME`, a machine's address, or the name of one.
    pub who: String,
    /// approved, denied or removed.
    pub status: String,
}

/// Of whom it was: a name says less than an address.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Decided {
    pub api: u32,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub status: String,
}

/// A join token that is to be made.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    pub tags: Vec<String>,
    pub hours: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MadeToken {
    pub api: u32,
    pub token: String,
    /// The command that uses it.
    pub command: String,
}

/// Why something was refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refused {
    pub api: u32,
    pub error: String,
    pub message: String,
    /// The server's clock, ms since 1970: the node's may be wrong.
    pub time_ms: u64,
}

/// The group's parameters.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Parameters {
    pub version: u32,
    pub group: String,
    /// `HOST/g/GROUP`, of requests.
    pub place: String,
    pub prefix: String,
    pub lease: Lease,
    pub bootstrap: Vec<String>,
    pub security: Security,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// dhcp or assigned.
    pub policy: String,
    pub seconds: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Security {
    pub sealed_only: bool,
}

/// One way that is allowed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// `*`, `tag:NAME`, `user:NAME` or `node:NAME`: who begins.
    pub from: String,
    pub to: String,
    /// any, tcp, udp or icmp.
    pub protocol: String,
    /// Numbers and ranges; none: all.
    pub ports: Vec<String>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, {} {}", self.from, self.to, self.protocol, self.ports.join(","))
    }
}

/// Where a group is, as requests name it.
pub fn place(host: &str, group: &str) -> String {
    format!("{host}/g/{group}")
}
