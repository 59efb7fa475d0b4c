//! How many handshakes this node lets itself in for: when it counts as under load, and what it then
//! takes from one source.

use alloc::collections::BTreeMap;
use core::net::IpAddr;
use core::time::Duration;

use ipop_common::filter::HYSTERESIS_NS;

use crate::address::NodeAddress;
use crate::endpoint::Endpoint;
use crate::time::Instant;

/// Handshake messages taken per second before senders must show a cookie. The curve arithmetic of
/// this many costs about a fifth of one core; see `examples/handshakes.rs`.
pub(super) const MESSAGES_PER_SECOND: u32 = 1000;
/// Under load from one source: the figures of Linux.
const SOURCE_PER_SECOND: u32 = 20;
const SOURCE_BURST: u32 = 5;
/// Sources remembered; 64 bytes each.
const SOURCES_MAX: usize = 8192;
/// Under load lasts this much longer than what caused it, so that it does not flicker.
const HYSTERESIS: Duration = Duration::from_nanos(HYSTERESIS_NS);
/// A source that has been silent for this long has its whole burst again.
const SOURCE_IDLE: Duration = Duration::from_secs(1);

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// In nanoseconds of earned time, up to what the burst costs.
    credit: u64,
    at: Instant,
}

impl Bucket {
    const fn full(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { credit: cost(per_second) * burst as u64, at: now }
    }

    fn take(&mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        let cost = cost(per_second);
        let earned = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.credit = self.credit.saturating_add(earned).min(cost * u64::from(burst));
        self.at = self.at.max(now);
        let granted = self.credit >= cost;
        if granted {
            self.credit -= cost;
        }
        granted
    }
}

const fn cost(per_second: u32) -> u64 {
    1_000_000_000 / per_second as u64
}

/// Whether this node is under load.
#[derive(Debug)]
pub(super) struct Load {
    told: bool,
    bucket: Bucket,
    until: Instant,
}

impl Load {
    pub(super) fn new() -> Self {
        let start = Instant::default();
        Self {
            told: false,
            bucket: Bucket::full(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, start),
            until: start,
        }
    }

    pub(super) fn tell(&mut self, under_load: bool) {
        self.told = under_load;
    }

    /// When load ends that has been counted, not told.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Counts a message and says whether it came under load.
    pub(super) fn count(&mut self, now: Instant) -> bool {
        if !self.bucket.take(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, now) {
            self.until = now.after(HYSTERESIS);
        }
        self.told || now < self.until
    }
}

/// What has been taken lately from whom.
#[derive(Debug, Default)]
pub(super) struct Sources {
    buckets: BTreeMap<Holder, Bucket>,
    swept: Instant,
}

impl Sources {
    /// Whether one more message of `source` is taken.
    pub(super) fn admit(&mut self, now: Instant, source: Endpoint) -> bool {
        let source = whole(source);
        if !self.buckets.contains_key(&source) && self.buckets.len() >= SOURCES_MAX {
            self.sweep(now);
            if self.buckets.len() >= SOURCES_MAX {
                return false;
            }
        }
        let bucket = self.buckets.entry(source);
        let bucket = bucket.or_insert_with(|| Bucket::full(SOURCE_PER_SECOND, SOURCE_BURST, now));
        bucket.take(SOURCE_PER_SECOND, SOURCE_BURST, now)
    }

    /// Forgets who has been silent. At most once per second: a table that many sources fill must
    /// not be gone through for every one of them.
    fn sweep(&mut self, now: Instant) {
        if now.since(self.swept) >= SOURCE_IDLE {
            self.swept = now;
            self.buckets.retain(|_, bucket| now.since(bucket.at) < SOURCE_IDLE);
        }
    }
}

/// What one sender can be assumed to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    /// An IPv4 address, or an IPv6 /64.
    Host(IpAddr),
    Node(NodeAddress),
}

fn whole(source: Endpoint) -> Holder {
    let address = match source {
        // Whoever passes it on can have written it.
        Endpoint::Overlay(address) | Endpoint::Relay { by: address, .. } => return Holder::Node(address),
        Endpoint::Udp(address) | Endpoint::Tcp(address) | Endpoint::Turn(address) => {
            address.ip().to_canonical()
        }
    };
    Holder::Host(match address {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn v4(number: u32) -> Endpoint {
        SocketAddr::new(IpAddr::V4(number.into()), 1).into()
    }

    #[test]
    fn a_source_has_a_burst_and_then_twenty_per_second() {
        let mut sources = Sources::default();
        let taken =
            |sources: &mut Sources, now, tries| (0..tries).filter(|_| sources.admit(now, v4(7))).count();
        assert_eq!(taken(&mut sources, at(5000), 50), 5);
        assert_eq!(taken(&mut sources, at(5049), 50), 0);
        assert_eq!(taken(&mut sources, at(5050), 50), 1);
        assert_eq!(taken(&mut sources, at(60_000), 50), 5);
        assert!(sources.admit(at(60_000), v4(8)), "another source");
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let mut sources = Sources::default();
        let address = |host: u16| {
            Endpoint::Udp(SocketAddr::new(IpAddr::V6([0x2001, 0xdb8, 0, 1, 0, 0, 0, host].into()), 1))
        };
        assert_eq!((0..50).filter(|host| sources.admit(at(1), address(*host))).count(), 5);
    }

    #[test]
    fn one_node_is_one_source_whoever_carries_its_messages() {
        let mut sources = Sources::default();
        let node = |last: u8| Endpoint::Overlay(NodeAddress([last; 20]));
        assert_eq!((0..50).filter(|_| sources.admit(at(1), node(1))).count(), 5);
        assert!(sources.admit(at(1), node(2)));
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let mut sources = Sources::default();
        let taken = (0..20_000).filter(|number| sources.admit(at(5000), v4(*number))).count();
        assert_eq!(taken, SOURCES_MAX);
        assert!(!sources.admit(at(5500), v4(100_000)));
        assert!(sources.admit(at(6500), v4(100_000)), "the others have been silent");
        assert_eq!(sources.buckets.len(), 1);
    }

    #[test]
    fn more_than_the_rate_is_load_and_ends() {
        let mut load = Load::new();
        let under_load = (0..1500).filter(|_| load.count(at(10_000))).count();
        assert_eq!(under_load, 500);
        assert!(load.count(at(10_500)), "it does not flicker");
        assert!(!load.count(at(12_000)));
        load.tell(true);
        assert!(load.count(at(12_000)));
    }
}
