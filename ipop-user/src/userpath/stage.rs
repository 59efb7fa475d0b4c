//! Packets that wait for a session with their peer, or for news of who that is. They keep their buffers, in the order in which they
//! came; there is room for few, and nobody's packets keep another's from waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ipop_common::ethernet::Mac;
use ipop_common::{Address, Counter};

use super::UserEvent;
use super::outbound::Context;
use super::pool::Pool;
use super::table::Table;

/// Packets that wait, of all in a pool of 64.
const STAGED_MAX: usize = 32;
/// Packets that wait for one peer: the start of a few connections, or what one sends in a round trip.
pub const STAGED_FOR_ONE_MAX: usize = 16;
/// Longer than a handshake that succeeds takes, with a message lost.
const PATIENCE_NS: u64 = 10_000_000_000;
/// What they need is asked for this often while packets come that need it.
const ASK_NS: u64 = 100_000_000;

/// What a packet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// A session with the peer in this slot.
    Session(u32),
    /// The peer that has this address, or that this station is behind.
    Owner(Address),
    /// That this node knows a station of its own.
    Station(Mac),
}

impl Wanted {
    fn event(self) -> UserEvent {
        match self {
            Self::Session(slot) => UserEvent::SessionWanted { slot },
            Self::Owner(address) => UserEvent::OwnerWanted { address },
            Self::Station(mac) => UserEvent::StationHere { mac },
        }
    }
}

/// A packet that waits: the first `len` bytes of a buffer that is held.
#[derive(Clone, Copy, Debug)]
struct Staged {
    buffer: u16,
    len: u32,
    wanted: Wanted,
    until_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Stage {
    waiting: VecDeque<Staged>,
    /// Of those, from the front: to be looked at again with the present table.
    retries: usize,
    /// What they wait with. Held, so that no other table has its address.
    seen: Option<Arc<Table>>,
    /// When each was last asked for.
    asked_ns: HashMap<Wanted, u64>,
}

impl Stage {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// With another table than before, all that waits is looked at again.
    pub(super) fn look_at(&mut self, table: &Arc<Table>) {
        if self.waiting.is_empty() || self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, table)) {
            return;
        }
        self.seen = Some(Arc::clone(table));
        self.retries = self.waiting.len();
        self.asked_ns.clear();
    }

    /// The next packet to be looked at again: buffer and length.
    pub(super) fn retry(&mut self, pool: &mut Pool, context: &Context<'_>) -> Option<(u16, u32)> {
        while self.retries > 0 {
            self.retries -= 1;
            let staged = self.waiting.pop_front()?;
            if staged.until_ns > context.now_ns {
                return Some((staged.buffer, staged.len));
            }
            context.counters.add(Counter::TxStageFull, 1);
            pool.release(staged.buffer);
        }
        None
    }

    /// Has a packet wait, whose buffer is held, and asks for what it needs; `again`, if it did before.
    pub(super) fn push(
        &mut self,
        (buffer, len): (u16, u32),
        wanted: Wanted,
        again: bool,
        pool: &mut Pool,
        context: &Context<'_>,
    ) {
        if !again {
            context.counters.add(Counter::TxStaged, 1);
        }
        self.make_room(wanted, pool, context);
        let until_ns = context.now_ns.saturating_add(PATIENCE_NS);
        self.waiting.push_back(Staged { buffer, len, wanted, until_ns });
        let asked_ns = self.asked_ns.get(&wanted);
        if asked_ns.is_none_or(|asked_ns| context.now_ns.saturating_sub(*asked_ns) >= ASK_NS) {
            self.asked_ns.insert(wanted, context.now_ns);
            // Where the queue is full, the next packet asks.
            let _ = context.listeners.events.try_send(wanted.event());
        }
    }

    /// The oldest gives way: of the same peer where that has its share, else of all.
    fn make_room(&mut self, wanted: Wanted, pool: &mut Pool, context: &Context<'_>) {
        let of_peer = |staged: &Staged| staged.wanted == wanted;
        let full = self.waiting.len() >= STAGED_MAX;
        let share_used = self.waiting.iter().filter(|staged| of_peer(staged)).count() >= STAGED_FOR_ONE_MAX;
        let victim = match (share_used, full) {
            (true, _) => self.waiting.iter().position(of_peer),
            (false, true) => Some(0),
            (false, false) => None,
        };
        let Some(at) = victim else { return };
        if at < self.retries {
            self.retries -= 1;
        }
        if let Some(staged) = self.waiting.remove(at) {
            context.counters.add(Counter::TxStageFull, 1);
            pool.release(staged.buffer);
        }
    }
}
