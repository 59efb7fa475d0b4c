//! What others carry to a node to which there is no connection: WireGuard's messages, hop by hop along the ring. Traffic
//! leads to a direct connection in time.

use alloc::collections::BTreeMap;

use ipop_common::wireguard::{TYPE_INITIATION, TYPE_RESPONSE, TYPE_TRANSPORT};

use super::counts::Count;
use super::limits::{DEMAND_DECAY, DEMAND_ENOUGH, DEMANDS_MAX, HANDSHAKE_REPEATED, HANDSHAKES_MAX};
use super::wire::{Kind, Mode, PAYLOAD_MAX};
use super::{Output, Ring, Roles};
use crate::address::NodeAddress;
use crate::time::Instant;

/// What is known of nodes that others carry to.
#[derive(Default)]
pub(super) struct Carried {
    demands: BTreeMap<NodeAddress, Demand>,
    /// When the last message that makes a session was sent to a node from which nothing of the session has come.
    handshakes: BTreeMap<NodeAddress, Instant>,
}

/// Traffic to a node without a connection.
#[derive(Clone, Copy, Debug)]
struct Demand {
    score: u32,
    at: Instant,
}

impl Carried {
    /// Nodes to which there is traffic, and those with which sessions are being made.
    pub(super) fn lens(&self) -> (usize, usize) {
        (self.demands.len(), self.handshakes.len())
    }

    /// Whether a handshake message to a node repeats one before; it is remembered.
    fn is_repeated(&mut self, to: NodeAddress, now: Instant) -> bool {
        let last = self.handshakes.get(&to).copied();
        if last.is_none() && self.handshakes.len() >= HANDSHAKES_MAX {
            self.handshakes.retain(|_, at| now.since(*at) < HANDSHAKE_REPEATED);
        }
        if last.is_some() || self.handshakes.len() < HANDSHAKES_MAX {
            self.handshakes.insert(to, now);
        }
        last.is_some_and(|at| now.since(at) < HANDSHAKE_REPEATED)
    }
}

impl Ring {
    /// Sends a WireGuard message to a node over the ring. Traffic (and not the making of a session)
    /// leads to a direct connection in time.
    pub fn carry(&mut self, to: NodeAddress, datagram: &[u8], now: Instant) {
        let kind = datagram.first().copied();
        if kind == Some(TYPE_TRANSPORT) {
            self.demand(to, now);
        }
        if datagram.len() > PAYLOAD_MAX {
            self.counts.add(Count::TooLong);
            return;
        }
        let header = self.header(Mode::Exact, Kind::Carried, to);
        // Where nobody answers, another first hop may lead past who is in the way.
        let is_handshake = matches!(kind, Some(TYPE_INITIATION | TYPE_RESPONSE));
        let is_repeated = is_handshake && self.carried.is_repeated(to, now);
        let detour = if is_repeated { self.anybody() } else { None };
        match detour {
            Some(first) => self.originate(header, Some(first), datagram, None, now),
            None => self.originate_around(header, datagram, now),
        }
    }

    pub(super) fn carried_message(&mut self, from: NodeAddress, datagram: &[u8]) {
        if matches!(datagram.first(), Some(&(TYPE_RESPONSE | TYPE_TRANSPORT))) {
            self.carried.handshakes.remove(&from);
        }
        self.outputs.push_back(Output::Carried { from, datagram: datagram.to_vec() });
    }

    /// There is traffic to a node: a connection to it is worth having, or keeping.
    pub fn demand(&mut self, to: NodeAddress, now: Instant) {
        if let Some(edge) = self.table.get_mut(to) {
            edge.demanded = now;
            if !edge.mine.contains(Roles::DEMAND) {
                let may_be_better = edge.upgrade.is_some();
                self.take_role(to, Roles::DEMAND, now);
                self.ask(to, now);
                if may_be_better {
                    self.upgrade(to, now);
                }
            }
            return;
        }
        if self.carried.demands.len() >= DEMANDS_MAX && !self.carried.demands.contains_key(&to) {
            let least = self.carried.demands.iter().min_by_key(|(_, demand)| demand.at).map(|(to, _)| *to);
            least.map(|least| self.carried.demands.remove(&least));
        }
        let demand = self.carried.demands.entry(to).or_insert(Demand { score: 0, at: now });
        let decay = u32::try_from(now.since(demand.at).as_secs()).unwrap_or(u32::MAX);
        demand.score = demand.score.saturating_sub(decay.saturating_mul(DEMAND_DECAY)) + 1;
        if decay > 0 {
            demand.at = now;
        }
        if demand.score >= DEMAND_ENOUGH {
            demand.score = 0;
            self.connect_to(to, Roles::DEMAND, None, now);
        }
    }
}
