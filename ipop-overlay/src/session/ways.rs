//! By which ways a peer is heard: a longer one is not taken while a shorter one works.

use core::time::Duration;

use crate::endpoint::{Directness, Endpoint};
use crate::time::Instant;

/// A peer that one way has brought something of within this time is not looked for on a longer one: a packet that
/// went round is none against the shorter way.
const LASTS: Duration = Duration::from_secs(1);

/// When something authentic last came by UDP, by TCP, and by a relay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    udp_at: Option<Instant>,
    tcp_at: Option<Instant>,
    relay_at: Option<Instant>,
}

impl Ways {
    /// Something has come by a way of this kind, if it has.
    pub fn hear(&mut self, way: Directness, at: Option<Instant>) {
        match way {
            Directness::Udp => self.udp_at = self.udp_at.max(at),
            Directness::Tcp => self.tcp_at = self.tcp_at.max(at),
            Directness::Relay => self.relay_at = self.relay_at.max(at),
            // There is no longer one.
            Directness::Overlay => {}
        }
    }

    /// Whether the present way is shorter than another, and works.
    pub fn keeps(&self, present: Endpoint, other: Endpoint, now: Instant) -> bool {
        let heard_at = match present.directness() {
            Directness::Udp => self.udp_at,
            Directness::Tcp => self.tcp_at,
            Directness::Relay => self.relay_at,
            Directness::Overlay => None,
        };
        let works = heard_at.is_some_and(|at| now.since(at) < LASTS);
        works && present.directness() > other.directness()
    }
}
