//! The distributed hash table: records that nodes leave with one another, each at eight places of the ring that
//! follow from its name.
//!
//! What is here knows nothing of the ring: what a record is and who has signed it, which records a node keeps and
//! which of two it prefers, and what has become of a request of this node's. Asking, answering, and copying to
//! neighbours is the ring's (`ring::{records, copies, own}`).
//!
//! | file | what |
//! |---|---|
//! | `signature` | XEdDSA |
//! | `record` | names, records, and their bytes |
//! | `wire` | the messages |
//! | `store` | records that a node keeps, for whomever |
//! | `requests` | what this node has asked, and what the places answer |
//!
//! Of each key, every owner has a few *put* records, one for each slot; and there is one *create* record at most,
//! of whoever came first. A create counts when five of the eight places have taken it: of two nodes that create the
//! same at a time, one has five at most. Where two stand all the same, because the network was in parts, the one that
//! was created earlier stays, then the one whose owner has the lower address ([`Record::beats`]).

pub(crate) mod record;
pub(crate) mod requests;
pub(crate) mod signature;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use alloc::vec::Vec;
use core::time::Duration;

pub use record::{Key, Kind, NAME_MAX, Record, SKEW_S, TTL_MAX_S, VALUE_MAX};
pub use signature::{SIGNATURE_LEN, SigningKey, verify};

/// Places of each key, evenly around the ring; as the original.
pub const REPLICAS: u8 = 8;
/// So many of them decide; as the original.
pub const MAJORITY: usize = 5;

/// What could not be had is asked for again after so long, then twice as long each time.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long to wait until what has failed so often before is asked for again.
pub fn retry_after(failures: u32) -> Duration {
    (RETRY * (1 << failures.min(6))).min(RETRY_MAX)
}

/// By which what comes of a request is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What has become of something in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A majority has a record of this node's, or has forgotten one that it removes.
    Stored { request: RequestId, key: Key },
    /// Another's record stands under a key that this node would create. `None` where it was too long to be told.
    Refused { request: RequestId, key: Key, standing: Option<Record> },
    /// There was no majority in time.
    Failed { request: RequestId, key: Key },
    /// What there is under a key: live records whose owners have signed them. For a create, by how many of the
    /// places that have answered it is named.
    Got { request: RequestId, key: Key, records: Vec<Record>, votes: u8, answers: u8 },
    /// A record that this node keeps up is another's now, or nobody has it any more.
    Lost { key: Key, standing: Option<Record> },
}

/// Why a request was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The node has no key to sign with, or does not know what time it is.
    NotReady,
    NameTooLong,
    ValueTooLong,
    /// No time to live, or one that is too long.
    Ttl,
    /// As many requests are under way, or records kept up, as may be.
    Full,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotReady => f.write_str("the node cannot sign yet"),
            Self::NameTooLong => write!(f, "a name has 1 to {NAME_MAX} bytes"),
            Self::ValueTooLong => write!(f, "a value has at most {VALUE_MAX} bytes"),
            Self::Ttl => write!(f, "a record lives for 1 to {TTL_MAX_S} s"),
            Self::Full => f.write_str("too many requests or records at a time; try again later"),
        }
    }
}

impl core::error::Error for Error {}
