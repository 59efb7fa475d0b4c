//! From raw samples to what is published: one row per wire and system, with ratios taken round
//! by round. Owns the format of `--json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bars::Bar;
use super::ethernet::Ethernet;
use super::handshakes::Handshakes;
use super::machine::Machine;
use super::plan::{Conditions, Metric, System, Wire};
use super::relays::Relays;
use super::rounds::Record;
use super::stats::{self, Summary};
use super::subnets::Subnets;

/// Below this share of packets on the kernel path, a kernel row does not measure what it says.
pub(crate) const KERNEL_HIT_RATE_MIN: f64 = 0.999;

/// One row: a system on a wire. A figure that could not be measured is `null`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) wire: &'static str,
    pub(crate) system: &'static str,
    pub(crate) path: &'static str,
    pub(crate) security: &'static str,
    /// Medians: `tcp_gbps, udp64_kpps, ping_us, tcp_rr_us, udp_rr_us, cpu_us_per_packet`.
    #[serde(flatten)]
    pub(crate) medians: BTreeMap<&'static str, Option<f64>>,
    /// Packets on the kernel path by packets on either, both directions, both nodes.
    pub(crate) kernel_hit_rate: Option<f64>,
    /// Median over the rounds of this row's figure by the bare wire's in the same round.
    pub(crate) ratio_to_bare: BTreeMap<&'static str, Option<f64>>,
    pub(crate) ratio_to_vxlan: BTreeMap<&'static str, Option<f64>>,
    /// The same by the best of the others' virtual networks, by their medians; another for each figure.
    pub(crate) ratio_to_best_peer: BTreeMap<&'static str, Option<f64>>,
    /// Median over the rounds of this row's latency less the bare wire's.
    pub(crate) added_us: BTreeMap<&'static str, Option<f64>>,
    /// Windows that were counted, of the metric that has most.
    pub(crate) runs: usize,
    /// First and third quartile of each figure.
    pub(crate) spread: BTreeMap<&'static str, Option<[f64; 2]>>,
    pub(crate) spread_of_ratio_to_bare: BTreeMap<&'static str, Option<[f64; 2]>>,
    /// Datagrams of all floods, and the part of them that did not arrive.
    pub(crate) udp64_sent: u64,
    pub(crate) udp64_received: u64,
    pub(crate) udp64_loss: Option<f64>,
    /// Requests of all three kinds that had no answer, in all rounds.
    pub(crate) lost_exchanges: u64,
    /// Segments that TCP at the receiver found out of order, in all rounds.
    pub(crate) tcp_out_of_order: Option<u64>,
    pub(crate) tcp_retransmits: Option<u64>,
    /// Resident memory of ipopd before the first packet (the larger of the two).
    pub(crate) ipopd_idle_bytes: Option<u64>,
    /// What is wrong with this row; empty when nothing is.
    pub(crate) problems: Vec<String>,
    #[serde(skip)]
    pub(crate) key: (Wire, System),
    #[serde(skip)]
    pub(crate) summaries: BTreeMap<&'static str, Option<Summary>>,
}

impl Row {
    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        self.medians.get(metric.key()).copied().flatten()
    }

    pub(crate) fn to_bare(&self, metric: Metric) -> Option<f64> {
        self.ratio_to_bare.get(metric.key()).copied().flatten()
    }

    pub(crate) fn to_vxlan(&self, metric: Metric) -> Option<f64> {
        self.ratio_to_vxlan.get(metric.key()).copied().flatten()
    }

    pub(crate) fn to_best_peer(&self, metric: Metric) -> Option<f64> {
        self.ratio_to_best_peer.get(metric.key()).copied().flatten()
    }

    pub(crate) fn added_us(&self, metric: Metric) -> Option<f64> {
        self.added_us.get(metric.key()).copied().flatten()
    }

    pub(crate) fn summary(&self, metric: Metric) -> Option<Summary> {
        self.summaries.get(metric.key()).copied().flatten()
    }
}

/// The rows of one wire.
pub(crate) fn rows(wire: Wire, records: &[Record]) -> Vec<Row> {
    records.iter().map(|record| row(wire, record, records)).collect()
}

/// The best of the others' virtual networks in one figure.
fn best_peer(records: &[Record], metric: Metric) -> Option<&Record> {
    let median = |record: &Record| Some(Summary::of(record.samples(metric))?.median);
    let products = records.iter().filter(|record| record.system.product().is_some());
    let known = products.filter_map(|record| Some((record, median(record)?)));
    let best = if metric.is_rate() {
        known.max_by(|a, b| a.1.total_cmp(&b.1))
    } else {
        known.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    best.map(|(record, _)| record)
}

fn row(wire: Wire, record: &Record, all: &[Record]) -> Row {
    let of = |system| all.iter().find(|record| record.system == system);
    let (bare, vxlan) = (of(System::Bare), of(System::Vxlan));
    let against = |base: Option<&Record>, combine: fn(&[f64], &[f64]) -> Option<Summary>| {
        each(&Metric::ALL, |metric| combine(record.samples(metric), base?.samples(metric)))
    };
    let to_best_peer = each(&Metric::ALL, |metric| {
        stats::ratio(record.samples(metric), best_peer(all, metric)?.samples(metric))
    });
    let summaries = each(&Metric::ALL, |metric| Summary::of(record.samples(metric)));
    let to_bare = against(bare, stats::ratio);
    let mut added = against(bare, stats::difference);
    added.retain(|key, _| {
        [Metric::Ping, Metric::TcpRr, Metric::UdpRr].iter().any(|metric| metric.key() == *key)
    });
    let kernel_hit_rate = record.traffic.and_then(|traffic| traffic.kernel_share());
    Row {
        wire: wire.name(),
        system: record.system.system(),
        path: record.system.path(),
        security: record.security,
        medians: medians(&summaries),
        kernel_hit_rate,
        ratio_to_bare: medians(&to_bare),
        ratio_to_vxlan: medians(&against(vxlan, stats::ratio)),
        ratio_to_best_peer: medians(&to_best_peer),
        added_us: medians(&added),
        runs: Metric::ALL.iter().map(|metric| record.samples(*metric).len()).max().unwrap_or(0),
        spread: quartiles(&summaries),
        spread_of_ratio_to_bare: quartiles(&to_bare),
        udp64_sent: record.udp_sent,
        udp64_received: record.udp_received,
        udp64_loss: loss(record.udp_sent, record.udp_received),
        lost_exchanges: record.lost_exchanges,
        tcp_out_of_order: record.out_of_order,
        tcp_retransmits: record.retransmitted,
        ipopd_idle_bytes: record.idle_bytes,
        problems: problems(record, kernel_hit_rate),
        key: (wire, record.system),
        summaries,
    }
}

/// Not rounded, and no median: a loss however small, and one in a single round, shows.
fn loss(sent: u64, received: u64) -> Option<f64> {
    (sent > 0).then(|| sent.saturating_sub(received) as f64 / sent as f64)
}

fn problems(record: &Record, kernel_hit_rate: Option<f64>) -> Vec<String> {
    let mut problems = record.problems.clone();
    if let Some(rate) = kernel_hit_rate.filter(|_| record.system.is_kernel_path())
        && rate <= KERNEL_HIT_RATE_MIN
    {
        problems.push(format!("only {:.2} % of the packets took the kernel path", rate * 100.0));
    }
    if let Some(rate) = kernel_hit_rate.filter(|_| record.system.is_user_path())
        && rate > 0.0
    {
        problems.push(format!("{:.4} % of the packets took the kernel path", rate * 100.0));
    }
    problems
}

fn each(
    metrics: &[Metric],
    figure: impl Fn(Metric) -> Option<Summary>,
) -> BTreeMap<&'static str, Option<Summary>> {
    metrics.iter().map(|metric| (metric.key(), figure(*metric))).collect()
}

fn medians(summaries: &BTreeMap<&'static str, Option<Summary>>) -> BTreeMap<&'static str, Option<f64>> {
    summaries.iter().map(|(key, summary)| (*key, summary.map(|summary| rounded(summary.median)))).collect()
}

fn quartiles(
    summaries: &BTreeMap<&'static str, Option<Summary>>,
) -> BTreeMap<&'static str, Option<[f64; 2]>> {
    summaries
        .iter()
        .map(|(key, summary)| (*key, summary.map(|summary| [rounded(summary.q1), rounded(summary.q3)])))
        .collect()
}

/// Four decimals: more than the measurement is worth, few enough to read.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Everything that a run has found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    /// When the run began, UTC.
    pub(crate) time: String,
    pub(crate) settings: Settings,
    pub(crate) rows: Vec<Row>,
    /// The virtual networks of others that were asked for, also those that are not installed.
    pub(crate) products: Vec<ProductInfo>,
    /// By wire: the kernel path that ipopd chooses there by itself.
    pub(crate) automatic: BTreeMap<&'static str, &'static str>,
    /// `None` where they were not asked for.
    pub(crate) handshakes: Option<Handshakes>,
    /// The same.
    pub(crate) relays: Option<Relays>,
    pub(crate) subnets: Option<Subnets>,
    pub(crate) ethernet: Option<Ethernet>,
    pub(crate) bars: Vec<Bar>,
    pub(crate) original_paper: Vec<PaperRow>,
}

/// What exactly was measured of a virtual network of others, or why nothing was.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProductInfo {
    pub(crate) system: &'static str,
    pub(crate) mtu: u32,
    /// As its program says.
    pub(crate) version: Option<String>,
    /// Why it was not measured: what is not installed, and what installs it.
    pub(crate) missing: Option<String>,
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    pub(crate) window_ms: u64,
    pub(crate) latency_window_ms: u64,
    pub(crate) congestion_control: String,
    pub(crate) tcp_write_bytes: usize,
    pub(crate) datagram_bytes: usize,
    pub(crate) sysctls: BTreeMap<&'static str, &'static str>,
    pub(crate) wires: BTreeMap<&'static str, &'static str>,
    /// The part of the machine's time that others used just before the run.
    pub(crate) background_share: f64,
    /// The part of the machine's time that the hypervisor gave to others during the run.
    pub(crate) steal_share: f64,
}

impl Settings {
    pub(crate) fn new(conditions: &Conditions, wires: &[Wire]) -> Self {
        let timing = conditions.timing;
        Self {
            rounds: timing.rounds,
            window_ms: timing.window.as_millis() as u64,
            latency_window_ms: timing.latency_window.as_millis() as u64,
            congestion_control: conditions.congestion_control.clone(),
            tcp_write_bytes: super::load::TCP_WRITE_BYTES,
            datagram_bytes: super::load::SMALL_BYTES,
            sysctls: super::lab::SYSCTLS.iter().copied().collect(),
            wires: wires.iter().map(|wire| (wire.name(), wire.description())).collect(),
            background_share: 0.0,
            steal_share: 0.0,
        }
    }
}

/// A figure that the authors of the original IPOP published (IPDPS 2006 and their slides).
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PaperRow {
    pub(crate) what: &'static str,
    pub(crate) theirs: &'static str,
    pub(crate) ours: Option<String>,
}

/// The original's figures beside the best row of ours on `wire`.
pub(crate) fn original_paper(rows: &[Row]) -> Vec<PaperRow> {
    let kernel = rows.iter().find(|row| row.key == (Wire::Offload, System::KernelTc));
    let user = rows.iter().find(|row| row.key == (Wire::Offload, System::UserIoUring));
    let added = |row: Option<&Row>| row?.added_us(Metric::Ping);
    let part = |row: Option<&Row>| row?.to_bare(Metric::Tcp);
    let both = |figure: &dyn Fn(Option<&Row>) -> Option<f64>, shown: &dyn Fn(f64) -> String| {
        let told = |row, name| figure(row).map(|value| format!("{} {name}", shown(value)));
        let told: Vec<String> =
            [told(kernel, "kernel path"), told(user, "user path")].into_iter().flatten().collect();
        (!told.is_empty()).then(|| told.join(", "))
    };
    vec![
        PaperRow {
            what: "ping latency added by one link",
            theirs: "6-11 ms (LAN and WAN)",
            ours: both(&added, &|us| format!("{:.4} ms", us / 1e3)),
        },
        PaperRow {
            what: "TCP bandwidth, part of the LAN's",
            theirs: "20 % (1.9 of 9.4 MB/s)",
            ours: both(&part, &|part| format!("{:.0} %", part * 100.0)),
        },
        PaperRow { what: "TCP bandwidth, part of the WAN's", theirs: "80 % (1.2 of 1.5 MB/s)", ours: None },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_medians_ratios_and_spread() {
        let records = [
            Record::with_samples(
                System::Bare,
                &[(Metric::Tcp, &[20.0, 10.0, 20.0]), (Metric::Ping, &[4.0, 4.0, 4.0])],
            ),
            Record::with_samples(System::Vxlan, &[(Metric::Tcp, &[10.0, 5.0, 10.0])]),
            Record::with_samples(
                System::KernelTc,
                &[(Metric::Tcp, &[18.0, 9.0, 18.0]), (Metric::Ping, &[5.0, 5.5, 5.0])],
            ),
        ];
        let rows = rows(Wire::Nic, &records);
        let kernel = &rows[2];
        assert_eq!(kernel.median(Metric::Tcp), Some(18.0));
        assert_eq!(kernel.to_bare(Metric::Tcp), Some(0.9));
        assert_eq!(kernel.to_vxlan(Metric::Tcp), Some(1.8));
        assert_eq!(kernel.added_us.get("ping_us"), Some(&Some(1.0)));
        assert_eq!(kernel.median(Metric::UdpRr), None);
        assert_eq!(kernel.spread.get("tcp_gbps"), Some(&Some([13.5, 18.0])));
        assert_eq!(kernel.runs, 3);

        let json = serde_json::to_value(kernel).expect("a row is JSON");
        for key in [
            "wire",
            "system",
            "path",
            "security",
            "tcp_gbps",
            "udp64_kpps",
            "ping_us",
            "tcp_rr_us",
            "udp_rr_us",
            "cpu_us_per_packet",
            "kernel_hit_rate",
            "ratio_to_bare",
            "runs",
            "spread",
        ] {
            assert!(json.get(key).is_some(), "no {key} in {json}");
        }
        assert!(json["udp_rr_us"].is_null());
    }

    #[test]
    fn loss_is_that_of_all_rounds_together() {
        let mut record = Record::with_samples(System::Bare, &[]);
        assert_eq!(row(Wire::Nic, &record, &[]).udp64_loss, None);
        (record.udp_sent, record.udp_received) = (1_000_000, 999_999);
        let row = row(Wire::Nic, &record, &[]);
        assert_eq!((row.udp64_sent, row.udp64_received, row.udp64_loss), (1_000_000, 999_999, Some(1e-6)));
    }

    #[test]
    fn a_kernel_row_on_the_user_path_is_flagged() {
        let mut record = Record::with_samples(System::KernelTc, &[]);
        record.traffic = Some(crate::daemon::Traffic { kernel_tx: 98, user_tx: 2, ..Default::default() });
        let flagged = row(Wire::Nic, &record, &[]);
        assert_eq!(flagged.kernel_hit_rate, Some(0.98));
        assert_eq!(flagged.problems.len(), 1);
        record.traffic = Some(crate::daemon::Traffic { kernel_tx: 10_000, user_tx: 2, ..Default::default() });
        assert!(row(Wire::Nic, &record, &[]).problems.is_empty());
    }
}
