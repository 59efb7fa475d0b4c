//! Boxes between hosts and the rest of the network that translate addresses, filter, or both, as RFC 4787
//! and RFC 3489 describe them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipop_overlay::Instant;

use crate::random::Random;

/// What a box does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Translates; who knows a mapping may send to it.
    FullCone,
    /// Translates; only addresses that were sent to may answer, from any port.
    Restricted,
    /// Translates; only ports that were sent to may answer.
    PortRestricted,
    /// Translates each destination's packets to the next port, and only that destination may answer.
    Symmetric,
    /// The same with ports that nobody can tell.
    SymmetricRandom,
    /// Translates nothing, and lets in only what answers: a firewall for outgoing traffic.
    OutgoingOnly,
}

/// How a box is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub kind: Kind,
    /// Hosts behind it reach one another by their outside addresses.
    pub hairpin: bool,
    /// After so long without a packet going out, a mapping or a permission is forgotten.
    pub expiry: Duration,
}

impl Config {
    /// With the shortest time in common use, and without hairpinning.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, hairpin: false, expiry: Duration::from_secs(30) }
    }
}

/// The first port that a box gives out.
const FIRST_PORT: u16 = 20_000;
/// Ports out of which one that draws them draws.
const PORTS: u16 = 40_000;

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    /// The only destination that it is for, where each has its own.
    only: Option<SocketAddr>,
    used: Instant,
    /// Who was sent to, and when last.
    sent_to: BTreeMap<SocketAddr, Instant>,
}

/// One box and what it remembers.
#[derive(Debug)]
pub struct Nat {
    pub config: Config,
    outside: IpAddr,
    next_port: u16,
    ports: Random,
    /// By the port outside; by the address itself where nothing is translated.
    mappings: BTreeMap<SocketAddr, Mapping>,
}

impl Nat {
    pub fn new(config: Config, outside: IpAddr) -> Self {
        let seed = match outside {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6) as u64,
        };
        Self { config, outside, next_port: FIRST_PORT, ports: Random::new(seed), mappings: BTreeMap::new() }
    }

    /// Its address outside.
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// A packet of a host behind it goes out; what it seems to come from.
    pub fn outbound(&mut self, inside: SocketAddr, to: SocketAddr, now: Instant) -> SocketAddr {
        self.forget(now);
        let only = matches!(self.config.kind, Kind::Symmetric | Kind::SymmetricRandom).then_some(to);
        let same = |mapping: &Mapping| mapping.inside == inside && mapping.only == only;
        let known = self.mappings.iter().find(|(_, mapping)| same(mapping)).map(|(outside, _)| *outside);
        let outside = known.unwrap_or_else(|| self.place(inside));
        let mapping = self.mappings.entry(outside).or_insert_with(|| Mapping {
            inside,
            only,
            used: now,
            sent_to: BTreeMap::new(),
        });
        mapping.used = now;
        mapping.sent_to.insert(to, now);
        outside
    }

    /// A packet comes from outside; which host behind it gets it.
    pub fn inbound(&mut self, to: SocketAddr, from: SocketAddr, now: Instant) -> Option<SocketAddr> {
        self.forget(now);
        let mapping = self.mappings.get(&to)?;
        let may = match self.config.kind {
            Kind::FullCone => true,
            Kind::Restricted => mapping.sent_to.keys().any(|known| known.ip() == from.ip()),
            Kind::PortRestricted | Kind::Symmetric | Kind::SymmetricRandom | Kind::OutgoingOnly => {
                mapping.sent_to.contains_key(&from)
            }
        };
        may.then_some(mapping.inside)
    }

    /// As after a restart of the box.
    pub fn forget_all(&mut self) {
        self.mappings.clear();
    }

    fn forget(&mut self, now: Instant) {
        let expiry = self.config.expiry;
        self.mappings.retain(|_, mapping| {
            mapping.sent_to.retain(|_, at| now.since(*at) < expiry);
            now.since(mapping.used) < expiry
        });
    }

    /// Where a new mapping is outside.
    fn place(&mut self, inside: SocketAddr) -> SocketAddr {
        if self.config.kind == Kind::OutgoingOnly {
            return inside;
        }
        loop {
            let port = match self.config.kind {
                Kind::SymmetricRandom => {
                    FIRST_PORT + u16::try_from(self.ports.below(u64::from(PORTS))).unwrap_or(0)
                }
                _ => self.next_port,
            };
            let place = SocketAddr::new(self.outside, port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.mappings.contains_key(&place) {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 6] = [
        Kind::FullCone,
        Kind::Restricted,
        Kind::PortRestricted,
        Kind::Symmetric,
        Kind::SymmetricRandom,
        Kind::OutgoingOnly,
    ];

    fn place(text: &str) -> SocketAddr {
        text.parse().expect("an address and a port")
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn nat(kind: Kind) -> Nat {
        Nat::new(Config::new(kind), place("198.18.0.1:0").ip())
    }

    fn inside() -> SocketAddr {
        place("10.0.0.1:15000")
    }

    #[test]
    fn who_was_sent_to_may_answer_through_any_box() {
        let peer = place("192.0.2.1:1");
        for kind in KINDS {
            let mut nat = nat(kind);
            let seen = nat.outbound(inside(), peer, at(0));
            assert_eq!(seen.ip() == inside().ip(), kind == Kind::OutgoingOnly);
            assert_eq!(nat.inbound(seen, peer, at(1)), Some(inside()), "{kind:?}");
        }
    }

    #[test]
    fn who_else_may_send_depends_on_the_kind() {
        let (peer, other_port, other) = (place("192.0.2.1:1"), place("192.0.2.1:2"), place("192.0.2.2:1"));
        for (kind, from_port, from_other) in [
            (Kind::FullCone, true, true),
            (Kind::Restricted, true, false),
            (Kind::PortRestricted, false, false),
            (Kind::Symmetric, false, false),
            (Kind::SymmetricRandom, false, false),
            (Kind::OutgoingOnly, false, false),
        ] {
            let mut nat = nat(kind);
            let seen = nat.outbound(inside(), peer, at(0));
            assert_eq!(nat.inbound(seen, other_port, at(0)).is_some(), from_port, "{kind:?}");
            assert_eq!(nat.inbound(seen, other, at(0)).is_some(), from_other, "{kind:?}");
        }
    }

    #[test]
    fn only_a_symmetric_box_shows_each_destination_another_port() {
        for kind in KINDS {
            let mut nat = nat(kind);
            let first = nat.outbound(inside(), place("192.0.2.1:1"), at(0));
            let second = nat.outbound(inside(), place("192.0.2.2:1"), at(0));
            let is_symmetric = matches!(kind, Kind::Symmetric | Kind::SymmetricRandom);
            assert_eq!(first != second, is_symmetric, "{kind:?}");
            assert_eq!(nat.outbound(inside(), place("192.0.2.1:1"), at(0)), first);
            let neighbour = nat.outbound(place("10.0.0.2:15000"), place("192.0.2.1:1"), at(0));
            assert!(neighbour != first && neighbour != second, "{kind:?}");
        }
    }

    #[test]
    fn what_is_not_used_is_forgotten_and_what_goes_out_keeps_it() {
        let peer = place("192.0.2.1:1");
        for kind in KINDS {
            let mut nat = nat(kind);
            let seen = nat.outbound(inside(), peer, at(0));
            assert_eq!(nat.outbound(inside(), peer, at(29)), seen);
            assert_eq!(nat.inbound(seen, peer, at(58)), Some(inside()), "{kind:?}");
            // What comes in does not keep it.
            assert_eq!(nat.inbound(seen, peer, at(59)), None, "{kind:?}");
        }
    }

    #[test]
    fn a_permission_is_forgotten_while_the_mapping_is_used_for_another() {
        let (peer, other) = (place("192.0.2.1:1"), place("192.0.2.2:1"));
        let mut nat = nat(Kind::PortRestricted);
        let seen = nat.outbound(inside(), peer, at(0));
        assert_eq!(nat.outbound(inside(), other, at(20)), seen);
        assert_eq!(nat.inbound(seen, peer, at(31)), None);
        assert_eq!(nat.inbound(seen, other, at(31)), Some(inside()));
    }

    #[test]
    fn a_box_that_is_restarted_knows_nobody() {
        let mut nat = nat(Kind::FullCone);
        let seen = nat.outbound(inside(), place("192.0.2.1:1"), at(0));
        nat.forget_all();
        assert_eq!(nat.inbound(seen, place("192.0.2.1:1"), at(0)), None);
    }
}
