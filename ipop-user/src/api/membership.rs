//! A node in a group.

use serde::{Deserialize, Serialize};

use crate::key::NodeAddress;

/// This node in its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Where the group is.
    pub group: String,
    pub state: MembershipState,
    /// One sentence: what that means.
    pub reason: String,
    /// When this node's certificate ends, in seconds since 1970.
    pub expires_at: Option<u64>,
    /// Its number, in hexadecimal digits.
    pub serial: Option<String>,
    pub user: Option<String>,
    pub tags: Vec<String>,
    /// Of the group's parameters and of the list of revoked certificates: those with the higher number are newer.
    pub document_number: u64,
    pub list_number: u64,
    /// The group's rules, one a line as `tag:web to tag:db: tcp 5432`; none: everybody may begin everything.
    pub rules: Vec<String>,
    /// Why they cannot be read: then nothing may begin.
    pub rules_trouble: Option<String>,
    /// Why the group's server does not answer, or what it says instead. Members go on without it.
    pub trouble: Option<String>,
    /// Nodes with which there is no link, for their certificate or for this node's.
    pub refused: Vec<RefusedNode>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MembershipState {
    #[default]
    Pending,
    Member,
    Denied,
    Removed,
}

impl MembershipState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Member => "member",
            Self::Denied => "denied",
            Self::Removed => "removed",
        }
    }
}

/// A node that was refused, or has refused this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedNode {
    pub address: NodeAddress,
    pub name: String,
    /// The other node has refused this one.
    pub by_other: bool,
    pub reason: String,
    pub since_s: u64,
}
