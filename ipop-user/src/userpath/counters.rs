//! Counters that outlive table swaps and engines: one per verdict, and the traffic of each link.
//! They only add up; who reads them decides what they mean.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ipop_common::Counter;
use ipop_common::counter::COUNTERS;
use ipop_common::maps::LinkStats;

/// One number per [`Counter`], shared by the data threads and whoever reads them.
///
/// Packets are counted as on the wire: a super-packet counts its segments.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; COUNTERS as usize],
}

impl Counters {
    pub const fn new() -> Self {
        Self { values: [const { AtomicU64::new(0) }; COUNTERS as usize] }
    }

    pub fn add(&self, counter: Counter, packets: u64) {
        if let Some(value) = self.values.get(counter as usize) {
            value.fetch_add(packets, Relaxed);
        }
    }

    pub fn value(&self, counter: Counter) -> u64 {
        self.values.get(counter as usize).map_or(0, |value| value.load(Relaxed))
    }

    /// Every counter with its value, in the order of [`Counter::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|&counter| (counter, self.value(counter)))
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// What one link has carried through the user path. Bytes are inner bytes.
#[derive(Debug, Default)]
pub struct LinkTraffic {
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
}

impl LinkTraffic {
    pub fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Relaxed);
        self.tx_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Relaxed);
        self.rx_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn snapshot(&self) -> LinkStats {
        LinkStats {
            tx_packets: self.tx_packets.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
            rx_packets: self.rx_packets.load(Relaxed),
            rx_bytes: self.rx_bytes.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_counts_for_itself() {
        let counters = Counters::new();
        for (packets, &counter) in Counter::ALL.iter().enumerate() {
            counters.add(counter, packets as u64);
        }
        for (packets, (counter, value)) in counters.iter().enumerate() {
            assert_eq!(value, packets as u64, "{}", counter.name());
        }
    }
}
