//! The daemon's clocks: the only place that reads them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipop_overlay::Instant;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC, which the kernel's programs read too.
pub(super) fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    Instant::from_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// UNIX time in nanoseconds.
pub(super) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// UNIX time in seconds.
pub(super) fn unix_s() -> u64 {
    unix_ns() / 1_000_000_000
}

/// How long until `at`.
pub(super) fn until(at: Instant) -> Duration {
    at.since(now())
}
