//! Records in the DHT: what is asked of it and what comes back.

use serde::{Deserialize, Serialize};

use crate::key::NodeAddress;

/// How long a record lives that is left without a word about that, in seconds.
pub const DHT_TTL_S: u64 = 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtVerb {
    /// What there is under a name.
    Get,
    /// One of this node's records under a name, beside those of others.
    Put,
    /// The only record under a name, if nobody else has it.
    Create,
    /// Takes back what this node has put and created under a name, as far as there is any.
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtKind {
    Put,
    Create,
}

/// What is asked. The value is text or Base64, not both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhtOrder {
    pub verb: DhtVerb,
    pub name: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub base64: Option<String>,
    /// Seconds for which the record is there; [`DHT_TTL_S`] unless it is said.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// Which of this node's records under the name: another number, another record.
    #[serde(default)]
    pub slot: u16,
    /// The daemon leaves it again before it is over, for as long as it runs.
    #[serde(default)]
    pub keep: bool,
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhtAnswer {
    pub verb: DhtVerb,
    pub name: String,
    /// A record has been left or taken back at a majority of its places; of a get, `false`.
    pub stored: bool,
    /// What a get has found, those first that were created first.
    pub records: Vec<DhtRecord>,
}

/// A record; its owner has signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhtRecord {
    pub kind: DhtKind,
    /// Who has left it.
    pub owner: NodeAddress,
    pub slot: u16,
    /// UNIX time in seconds.
    pub created: u64,
    /// UNIX time in seconds.
    pub expires: u64,
    /// `null` where it is no text.
    pub value: Option<String>,
    pub base64: String,
}
