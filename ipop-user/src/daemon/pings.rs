//! Round trips that an operator asked for: what is sent when, and what has come back.

use std::time::Duration;

use ipop_overlay::{Instant, NodeAddress, PeerId};

use super::probes::token;
use crate::api::{self, PING_TIMEOUT_MS, Ping};
use crate::control::Reply;

/// Who is asked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// In the session with a peer.
    Peer(PeerId),
    /// Over the overlay.
    Node(NodeAddress),
}

/// A round trip, and the hops over the overlay.
type Answer = (Duration, Option<u16>);

struct Order {
    to: To,
    name: String,
    count: usize,
    interval: Duration,
    next: Instant,
    /// Probes sent: id, and what came of it.
    sent: Vec<(u64, Option<Answer>)>,
    /// When the last probe is given up.
    until: Instant,
    reply: Reply<Ping>,
}

impl Order {
    fn finished(&self, now: Instant) -> bool {
        self.sent.len() == self.count
            && (self.until <= now || self.sent.iter().all(|(_, answer)| answer.is_some()))
    }
}

/// All orders under way.
#[derive(Default)]
pub(super) struct Pings {
    orders: Vec<Order>,
}

impl Pings {
    pub(super) fn order(
        &mut self,
        (to, name): (To, String),
        count: u32,
        interval: Duration,
        now: Instant,
        reply: Reply<Ping>,
    ) {
        let count = count as usize;
        self.orders.push(Order { to, name, count, interval, next: now, sent: Vec::new(), until: now, reply });
    }

    /// The probes to send now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(To, u64)> {
        let mut probes = Vec::new();
        for order in &mut self.orders {
            if order.next <= now && order.sent.len() < order.count {
                let id = token();
                order.sent.push((id, None));
                order.next = now.after(order.interval);
                order.until = now.after(Duration::from_millis(PING_TIMEOUT_MS));
                probes.push((order.to, id));
            }
        }
        probes
    }

    pub(super) fn answered(&mut self, id: u64, rtt: Duration, hops: Option<u16>) {
        let probe = self.orders.iter_mut().flat_map(|o| &mut o.sent).find(|(sent, _)| *sent == id);
        if let Some((_, answer)) = probe {
            *answer = Some((rtt, hops));
        }
    }

    /// Answers the orders that are complete.
    pub(super) fn finish(&mut self, now: Instant) {
        let (finished, open) = std::mem::take(&mut self.orders).into_iter().partition(|o| o.finished(now));
        self.orders = open;
        for order in Vec::from_iter::<Vec<Order>>(finished) {
            let probes = (1..).zip(&order.sent).map(|(seq, (_, answer))| api::Probe {
                seq,
                rtt_us: answer.map(|(rtt, _)| micros(rtt)),
                hops: answer.and_then(|(_, hops)| hops),
            });
            let ping = Ping::of(order.name, matches!(order.to, To::Node(_)), probes.collect());
            // A client that has gone away wants no answer.
            let _ = order.reply.send(Ok(ping));
        }
    }

    /// A peer has gone: nobody waits for its answers any more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        let (gone, open) = std::mem::take(&mut self.orders).into_iter().partition(|o| o.to == To::Peer(peer));
        self.orders = open;
        for order in Vec::from_iter::<Vec<Order>>(gone) {
            let _ = order.reply.send(Err(format!("{} has left the network", order.name)));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |o: &Order| if o.sent.len() < o.count { o.next } else { o.until };
        self.orders.iter().map(deadline).min()
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
