//! What a packet's fate is looked up in. The programs serve it from maps, the user path and the
//! tests from memory; [`crate::ingress`] and [`crate::egress`] do not know which.

use crate::address::Address;
use crate::gpe::LinkId;
use crate::maps::{Config, Link, LinkRef, Relay};
use crate::rules::{self, Bucket};
use crate::session::Session;
use crate::shared::SharedU64;

/// Read access to the forwarding tables of one node.
pub trait Tables {
    fn config(&self) -> Option<&Config>;

    /// The link in a slot, whatever its epoch and lease.
    fn link(&self, slot: u32) -> Option<&Link>;

    /// The link with this id.
    fn by_link_id(&self, id: LinkId) -> Option<LinkRef>;

    /// The link to (and the only one that may speak for) an inner address, longest prefix first;
    /// [`LinkRef::LOCAL`] for an address of this node.
    fn by_address(&self, address: &Address) -> Option<LinkRef>;

    /// The place of the session that this node knows by `local`, whatever session is there now.
    #[inline(always)]
    fn session(&self, local: u32) -> Option<&Session> {
        let _ = local;
        None
    }

    /// When a packet of this flow was last left to the user path, in nanoseconds; 0: never. The flow
    /// is named by a hash, which unlucky others share.
    #[inline(always)]
    fn flow(&self, hash: u32) -> Option<&SharedU64> {
        let _ = hash;
        None
    }

    /// Between whom this node relays what has this label.
    #[inline(always)]
    fn relay(&self, label: u32) -> Option<&Relay> {
        let _ = label;
        None
    }

    /// Whether a flow may begin, by the [key](crate::rules::key) of its policy and port.
    #[inline(always)]
    fn may_begin(&self, key: &rules::Key) -> bool {
        let _ = key;
        false
    }

    /// A bucket of flows that have begun; at [`crate::rules::BUCKETS`] the secret.
    #[inline(always)]
    fn begun(&self, index: u32) -> Option<&Bucket> {
        let _ = index;
        None
    }

    /// Whether an inner address is one of this node's own.
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        self.by_address(address) == Some(LinkRef::LOCAL)
    }
}

/// Why a reference leads to no usable link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    Epoch,
    Lease,
}

/// Follows a reference to a link that is current at `now_ns`.
#[inline(always)]
pub fn follow<T: Tables>(tables: &T, reference: LinkRef, now_ns: u64) -> Result<&Link, Stale> {
    let Some(link) = tables.link(reference.slot) else { return Err(Stale::Epoch) };
    if link.epoch != reference.epoch || link.epoch == 0 {
        return Err(Stale::Epoch);
    }
    if link.lease_until_ns <= now_ns {
        return Err(Stale::Lease);
    }
    Ok(link)
}
