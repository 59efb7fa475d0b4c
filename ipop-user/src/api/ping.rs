//! A ping: the order, and what became of it.

use serde::{Deserialize, Serialize};

/// Measures the round trip of control messages to a peer, or of an echo over the overlay to any node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingOrder {
    /// A [`super::Selector`] in text form.
    pub peer: String,
    /// 1 to [`super::PING_COUNT_MAX`].
    pub count: u32,
    /// Between the probes, at most [`super::PING_INTERVAL_MS_MAX`].
    pub interval_ms: u64,
    /// Over the overlay, even where there is a direct link.
    #[serde(default)]
    pub overlay: bool,
}

/// What became of a ping order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The peer's name, or the node's address.
    pub peer: String,
    /// Whether other nodes carried the probes.
    #[serde(default)]
    pub overlay: bool,
    pub count: u32,
    pub results: Vec<Probe>,
    /// `null` if no probe was answered; so are the next two.
    pub min_us: Option<u64>,
    pub avg_us: Option<u64>,
    pub max_us: Option<u64>,
    pub lost: u32,
}

/// One probe. Sequence numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub seq: u32,
    /// `null`: lost.
    pub rtt_us: Option<u64>,
    /// Nodes that it came to over the overlay, with the one that answered; `null` on a direct link.
    #[serde(default)]
    pub hops: Option<u16>,
}

impl Ping {
    /// Sums up the probes sent, in their order. `None`: lost.
    pub fn new(peer: String, rtts_us: &[Option<u64>]) -> Self {
        let probes = (1..).zip(rtts_us).map(|(seq, rtt_us)| Probe { seq, rtt_us: *rtt_us, hops: None });
        Self::of(peer, false, probes.collect())
    }

    /// Sums up the probes sent.
    pub fn of(peer: String, overlay: bool, results: Vec<Probe>) -> Self {
        let answered: Vec<u64> = results.iter().filter_map(|probe| probe.rtt_us).collect();
        let sum_us: u64 = answered.iter().sum();
        Self {
            peer,
            overlay,
            count: results.len() as u32,
            min_us: answered.iter().min().copied(),
            avg_us: sum_us.checked_div(answered.len() as u64),
            max_us: answered.iter().max().copied(),
            lost: (results.len() - answered.len()) as u32,
            results,
        }
    }
}
