//! How much of the DNS one may ask: a token bucket for this host, and one for each member of the network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Of this host's programs together. A resolver without a cache asks twice for each connection.
const HOST_PER_SECOND: u32 = 2000;
const HOST_BURST: u32 = 1000;
/// Of each member.
const MEMBER_PER_SECOND: u32 = 50;
const MEMBER_BURST: u32 = 100;
/// Members remembered. Those that have asked nothing lately make room.
const MEMBERS_MAX: usize = 1024;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Earned time, up to what the burst costs.
    credit: Duration,
    at: Instant,
}

impl Bucket {
    fn full(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { credit: cost(per_second) * burst, at: now }
    }

    fn refill(&mut self, per_second: u32, burst: u32, now: Instant) {
        let earned = now.saturating_duration_since(self.at);
        self.credit = self.credit.saturating_add(earned).min(cost(per_second) * burst);
        self.at = self.at.max(now);
    }

    fn take(&mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        self.refill(per_second, burst, now);
        let left = self.credit.checked_sub(cost(per_second));
        left.inspect(|left| self.credit = *left).is_some()
    }
}

fn cost(per_second: u32) -> Duration {
    Duration::from_secs(1) / per_second
}

/// Who may ask how much more.
#[derive(Debug)]
pub(super) struct Limits {
    host: Bucket,
    members: HashMap<IpAddr, Bucket>,
}

impl Limits {
    pub(super) fn new(now: Instant) -> Self {
        Self { host: Bucket::full(HOST_PER_SECOND, HOST_BURST, now), members: HashMap::new() }
    }

    /// Whether a query of this host's is answered.
    pub(super) fn admit_host(&mut self, now: Instant) -> bool {
        self.host.take(HOST_PER_SECOND, HOST_BURST, now)
    }

    /// Whether a query of another's is looked at.
    pub(super) fn admit_other(&mut self, from: IpAddr, now: Instant) -> bool {
        if !self.members.contains_key(&from) && self.members.len() >= MEMBERS_MAX {
            self.members.retain(|_, bucket| {
                bucket.refill(MEMBER_PER_SECOND, MEMBER_BURST, now);
                bucket.credit < cost(MEMBER_PER_SECOND) * MEMBER_BURST
            });
            if self.members.len() >= MEMBERS_MAX {
                return false;
            }
        }
        let full = Bucket::full(MEMBER_PER_SECOND, MEMBER_BURST, now);
        self.members.entry(from).or_insert(full).take(MEMBER_PER_SECOND, MEMBER_BURST, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limits: &mut Limits, from: &str, now: Instant, queries: u32) -> u32 {
        (0..queries).map(|_| u32::from(limits.admit_other(from.parse().unwrap(), now))).sum()
    }

    #[test]
    fn one_member_cannot_ask_for_another() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        assert_eq!(admitted(&mut limits, "10.128.0.2", start, 1000), MEMBER_BURST);
        assert_eq!(admitted(&mut limits, "10.128.0.3", start, 1000), MEMBER_BURST);
        assert!(limits.admit_host(start));
        let later = start + Duration::from_secs(1);
        assert_eq!(admitted(&mut limits, "10.128.0.2", later, 1000), MEMBER_PER_SECOND);
        // A clock that stands still gives nothing, nor does one that went back.
        assert_eq!(admitted(&mut limits, "10.128.0.2", start, 1000), 0);
    }

    #[test]
    fn this_host_has_a_limit_of_its_own() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        assert_eq!((0..9999).filter(|_| limits.admit_host(start)).count(), HOST_BURST as usize);
        let later = start + Duration::from_millis(100);
        let more = (0..9999).filter(|_| limits.admit_host(later)).count();
        assert_eq!(more, HOST_PER_SECOND as usize / 10);
    }

    #[test]
    fn the_table_of_members_has_a_limit() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let address = |index: u32| IpAddr::from((0x0a80_0000 + index).to_be_bytes());
        for index in 0..5000 {
            assert_eq!(limits.admit_other(address(index), start), index < MEMBERS_MAX as u32);
        }
        assert_eq!(limits.members.len(), MEMBERS_MAX);
        assert!(limits.admit_other(address(9999), start + Duration::from_secs(2)), "the idle make room");
    }
}
