//! A text for all nodes. Whoever passes it on splits the part of the ring that it was given among the
//! connections that lie there: each node gets it once, in as many hops as the logarithm of their number,
//! and the parts become smaller with each hop.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::counts::Count;
use super::limits::{BROADCAST_HOPS_MAX, BROADCASTS_KNOWN};
use super::wire::{Broadcast, Header, Kind, Mode};
use super::{Output, Ring};
use crate::address::NodeAddress;
use crate::time::Instant;

/// Those that have come; where the ring changes, one may come twice.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    known: VecDeque<(NodeAddress, u64)>,
}

impl Broadcasts {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Says whether it is new.
    fn note(&mut self, source: NodeAddress, token: u64) -> bool {
        if self.known.contains(&(source, token)) {
            return false;
        }
        if self.known.len() == BROADCASTS_KNOWN {
            self.known.pop_front();
        }
        self.known.push_back((source, token));
        true
    }
}

impl Ring {
    /// Tells all nodes a text of [`BROADCAST_MAX`](super::BROADCAST_MAX) bytes at most; they have it as
    /// [`Output::Broadcast`]. Says whether it is short enough.
    pub fn broadcast(&mut self, text: &[u8], now: Instant) -> bool {
        let Some(payload) = (Broadcast { token: self.draw(), text }).to_bytes() else {
            self.counts.add(Count::TooLong);
            return false;
        };
        let own = self.table.own;
        let header = Header { hops_max: BROADCAST_HOPS_MAX, ..self.header(Mode::Part, Kind::Broadcast, own) };
        self.spread(None, header, &payload, now);
        true
    }

    pub(super) fn broadcast_message(
        &mut self,
        from: NodeAddress,
        header: Header,
        payload: &[u8],
        now: Instant,
    ) {
        let Some(broadcast) = Broadcast::parse(payload) else {
            self.counts.add(Count::BadMessage);
            return;
        };
        if !self.broadcasts.note(header.source, broadcast.token) {
            self.counts.add(Count::Repeated);
            return;
        }
        self.outputs.push_back(Output::Broadcast { from: header.source, text: broadcast.text.to_vec() });
        let hops = header.hops.saturating_add(1);
        if hops >= header.hops_max.min(BROADCAST_HOPS_MAX) {
            self.counts.add(Count::TooManyHops);
            return;
        }
        self.spread(Some(from), Header { hops, ..header }, payload, now);
    }

    /// Sends it to all connections between this node and the end of its part, up the ring; each gets the
    /// part up to the next of them.
    fn spread(&mut self, account: Option<NodeAddress>, header: Header, payload: &[u8], now: Instant) {
        let (own, end) = (self.table.own, header.destination);
        // The whole ring is that of the source alone.
        let is_inside = |address: &NodeAddress| account.is_none() || own.up_to(*address) < own.up_to(end);
        let mut heads: Vec<NodeAddress> = self.table.structured().filter(is_inside).collect();
        heads.sort_unstable_by_key(|address| own.up_to(*address));
        let ends = heads.iter().skip(1).copied().chain([end]);
        for (head, destination) in heads.iter().zip(ends) {
            if account.is_some() {
                self.counts.add(Count::Forwarded);
            }
            self.pass_on(account, *head, &Header { destination, ..header }.write(payload), now);
        }
    }
}
