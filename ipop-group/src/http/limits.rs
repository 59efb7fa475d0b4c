//! How often one source may ask: a bucket of tokens for each source and kind of request, in a table of bounded size.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Sources and kinds that are remembered; then those whose buckets are full again go, then the one that was used
/// longest ago.
const BUCKETS_MAX: usize = 8192;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pages.
    Page,
    /// Passwords that are tried.
    Login,
    /// Accounts that are made.
    Register,
    /// Nodes that ask to join.
    Join,
    /// Whatever else nodes ask. Many can be behind one address.
    Node,
}

impl Kind {
    /// How many at once, and how long each takes to come back.
    fn rate(self) -> (u32, Duration) {
        match self {
            Self::Page => (300, Duration::from_millis(50)),
            Self::Login => (10, Duration::from_secs(6)),
            Self::Register => (5, Duration::from_secs(60)),
            Self::Join => (60, Duration::from_secs(1)),
            Self::Node => (2000, Duration::from_millis(2)),
        }
    }
}

/// When a bucket will be full again says how full it is.
type Buckets = HashMap<(IpAddr, Kind), Instant>;

/// The table.
#[derive(Debug, Default)]
pub struct Limits(Mutex<Buckets>);

impl Limits {
    /// # Errors
    /// If the source has asked too often.
    pub fn take(&self, source: IpAddr, kind: Kind, now: Instant) -> Result<(), Error> {
        let (burst, each) = kind.rate();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (network(source), kind);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            make_room(&mut buckets, now);
        }
        let full_at = buckets.entry(key).or_insert(now);
        let next = (*full_at).max(now) + each;
        if next > now + each * burst {
            return Err(Error::TooMany);
        }
        *full_at = next;
        Ok(())
    }
}

fn make_room(buckets: &mut Buckets, now: Instant) {
    buckets.retain(|_, full_at| *full_at > now);
    if buckets.len() >= BUCKETS_MAX {
        let fullest = buckets.iter().min_by_key(|(_, full_at)| **full_at).map(|(key, _)| *key);
        fullest.map(|key| buckets.remove(&key));
    }
}

/// A source is an IPv4 address, or the network that a host has of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) & (u128::MAX << 64)).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let (limits, start) = (Limits::default(), Instant::now());
        let take = |after, source| limits.take(source, Kind::Login, start + Duration::from_secs(after));
        for _ in 0..10 {
            assert_eq!(take(0, source(1)), Ok(()));
        }
        assert_eq!(take(5, source(1)), Err(Error::TooMany));
        assert_eq!(take(5, source(2)), Ok(()));
        assert_eq!(take(6, source(1)), Ok(()));
        assert_eq!(take(6, source(1)), Err(Error::TooMany));
        assert_eq!(limits.take(source(1), Kind::Page, start), Ok(()));
    }

    #[test]
    fn hosts_of_one_ipv6_network_are_one_source() {
        let address = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn the_table_has_a_limit_and_forgets_those_who_ask_least() {
        let (limits, start) = (Limits::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(limits.take(source(0), Kind::Login, start), Ok(()));
        }
        for number in 1..2 * BUCKETS_MAX as u32 {
            assert_eq!(limits.take(source(number), Kind::Login, start), Ok(()));
        }
        assert_eq!(limits.0.lock().expect("the table").len(), BUCKETS_MAX);
        assert_eq!(limits.take(source(0), Kind::Login, start), Err(Error::TooMany));
    }
}
