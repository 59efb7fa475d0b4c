//! The figures that IPOP has set itself ("must hold"), each put beside what was measured. Owns
//! the figures; a missed one is told, never hidden, and does not fail the run.

use serde::Serialize;

use super::ethernet::Ethernet;
use super::handshakes::Handshakes;
use super::plan::{Metric, System, Wire};
use super::relays::Relays;
use super::results::{KERNEL_HIT_RATE_MIN, Row};
use super::stats::Summary;
use super::subnets::Subnets;

/// One figure asked for, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bar {
    pub(crate) wire: &'static str,
    pub(crate) path: &'static str,
    pub(crate) what: &'static str,
    pub(crate) asked: String,
    pub(crate) measured: Option<f64>,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Ok,
    Missed,
    NotMeasured,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
    MoreThan(f64),
    LessThan(f64),
}

impl Limit {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(limit) => measured >= limit,
            Self::AtMost(limit) => measured <= limit,
            Self::MoreThan(limit) => measured > limit,
            Self::LessThan(limit) => measured < limit,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::MoreThan(limit) => format!("> {limit}"),
            Self::LessThan(limit) => format!("< {limit}"),
        }
    }
}

/// A bar before it is measured: which row, which figure, which limit.
struct Asked {
    wire: Wire,
    system: System,
    what: &'static str,
    figure: fn(&Row) -> Option<f64>,
    limit: Limit,
}

/// All bars of the wires and systems that were part of the run. Those of the kernel path are for
/// the row that ipopd chooses by itself, which `automatic` names for each wire.
pub(crate) fn evaluate(rows: &[Row], automatic: &[(Wire, System)]) -> Vec<Bar> {
    let find = |asked: &Asked| rows.iter().find(|row| row.key == (asked.wire, asked.system));
    asked(automatic).iter().filter_map(|asked| Some(judge(asked, find(asked)?))).collect()
}

fn judge(asked: &Asked, row: &Row) -> Bar {
    bar(asked.wire, asked.system, asked.what, asked.limit, (asked.figure)(row))
}

fn bar(wire: Wire, system: System, what: &'static str, limit: Limit, measured: Option<f64>) -> Bar {
    let verdict = match measured {
        None => Verdict::NotMeasured,
        Some(value) if limit.holds(value) => Verdict::Ok,
        Some(_) => Verdict::Missed,
    };
    Bar { wire: wire.name(), path: system.path(), what, asked: limit.shown(), measured, verdict }
}

/// Of floods, the one counts that leaves least: by the same flood at a port that nobody reads.
pub(crate) fn of_handshakes(found: &Handshakes) -> [Bar; 3] {
    let of = |what, limit, measured| bar(Wire::Offload, System::Sealed, what, limit, measured);
    let rate = found.per_core_second.map(|summary| summary.median);
    [
        of("handshakes / core-second", Limit::AtLeast(2000.0), rate),
        of("TCP, flooded", Limit::AtLeast(0.95), found.least(|row| row.tcp_to_unread)),
        of("UDP 64 B, flooded", Limit::AtLeast(0.95), found.least(|row| row.udp64_to_unread)),
    ]
}

/// Of a link by a relay, beside bare forwarding, coturn, and a direct link over the same two wires.
pub(crate) fn of_relays(found: &Relays) -> [Bar; 4] {
    let of = |what, limit, measured: Option<Summary>| {
        bar(Wire::Offload, System::Sealed, what, limit, measured.map(|summary| summary.median))
    };
    [
        of("TCP by a relay / forwarding", Limit::AtLeast(0.6), found.tcp_to_forwarding()),
        of("TCP by a relay / coturn", Limit::AtLeast(5.0), found.tcp_to_coturn()),
        of("TCP by a relay / by coturn", Limit::AtLeast(5.0), found.tcp_to_turned()),
        of("ping by a relay - direct, us", Limit::AtMost(5.0), found.ping_added_to_direct()),
    ]
}

/// Of a network behind a node.
pub(crate) fn of_subnets(found: &Subnets) -> [Bar; 1] {
    let measured = found.clear_to_wire().map(|summary| summary.median);
    [bar(Wire::Offload, System::KernelTc, "TCP to a subnet / bare wire", Limit::AtLeast(0.7), measured)]
}

/// Of a network that carries Ethernet.
pub(crate) fn of_ethernet(found: &Ethernet) -> [Bar; 1] {
    let measured = found.clear_to_wire().map(|summary| summary.median);
    [bar(Wire::Offload, System::KernelTc, "TCP in frames / bare wire", Limit::AtLeast(0.7), measured)]
}

fn asked(automatic: &[(Wire, System)]) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (wire, system) in automatic {
        match wire {
            Wire::Offload => {
                asked.extend(kernel_bars(*wire, *system, 0.85));
                asked.extend(vxlan_bars(*system));
            }
            Wire::Nic => asked.extend(kernel_bars(*wire, *system, 0.80)),
        }
    }
    asked.extend(user_bars());
    asked.extend(sealed_bars());
    asked
}

fn kernel_bars(wire: Wire, system: System, tcp_min: f64) -> [Asked; 6] {
    let bar = |what, figure, limit| Asked { wire, system, what, figure, limit };
    [
        bar("TCP / bare", |row| row.to_bare(Metric::Tcp), Limit::AtLeast(tcp_min)),
        bar("UDP 64 B / bare", |row| row.to_bare(Metric::Udp64), Limit::AtLeast(0.80)),
        bar("ping flood - bare, us", |row| row.added_us(Metric::Ping), Limit::AtMost(1.5)),
        bar("TCP rr / bare", |row| row.to_bare(Metric::TcpRr), Limit::AtMost(1.15)),
        bar("UDP rr / bare", |row| row.to_bare(Metric::UdpRr), Limit::AtMost(1.15)),
        bar("kernel hit rate", |row| row.kernel_hit_rate, Limit::MoreThan(KERNEL_HIT_RATE_MIN)),
    ]
}

fn vxlan_bars(system: System) -> [Asked; 2] {
    let bar = |what, figure, limit| Asked { wire: Wire::Offload, system, what, figure, limit };
    [
        bar("TCP / VXLAN", |row| row.to_vxlan(Metric::Tcp), Limit::AtLeast(1.05)),
        bar("UDP 64 B / VXLAN", |row| row.to_vxlan(Metric::Udp64), Limit::AtLeast(1.2)),
    ]
}

fn user_bars() -> [Asked; 3] {
    let bar =
        |what, figure, limit| Asked { wire: Wire::Offload, system: System::UserIoUring, what, figure, limit };
    [
        bar("TCP, Gbit/s", |row| row.median(Metric::Tcp), Limit::AtLeast(4.0)),
        bar("TCP segments out of order", |row| Some(row.tcp_out_of_order? as f64), Limit::AtMost(0.0)),
        bar("ipopd idle, MB", |row| Some(row.ipopd_idle_bytes? as f64 / 1e6), Limit::AtMost(30.0)),
    ]
}

/// Beside the others' virtual networks, all of which seal in user space.
fn sealed_bars() -> [Asked; 6] {
    let bar =
        |what, figure, limit| Asked { wire: Wire::Offload, system: System::Sealed, what, figure, limit };
    [
        bar("ping flood - bare, us", |row| row.added_us(Metric::Ping), Limit::AtMost(6.0)),
        bar("ping flood / best peer", |row| row.to_best_peer(Metric::Ping), Limit::AtMost(0.2)),
        bar("TCP rr / best peer", |row| row.to_best_peer(Metric::TcpRr), Limit::LessThan(1.0)),
        bar("UDP 64 B / best peer", |row| row.to_best_peer(Metric::Udp64), Limit::AtLeast(2.0)),
        bar("TCP, Gbit/s", |row| row.median(Metric::Tcp), Limit::AtLeast(2.5)),
        bar("TCP / best peer", |row| row.to_best_peer(Metric::Tcp), Limit::AtLeast(2.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::rows;
    use crate::bench::rounds::Record;

    fn verdict(bars: &[Bar], what: &str) -> Verdict {
        bars.iter().find(|bar| bar.what == what).expect("the bar is there").verdict
    }

    #[test]
    fn bars_hold_or_are_missed_by_the_figure() {
        let records = [
            Record::with_samples(
                System::Bare,
                &[(Metric::Tcp, &[10.0]), (Metric::TcpRr, &[10.0]), (Metric::Ping, &[4.0])],
            ),
            Record::with_samples(System::Vxlan, &[(Metric::Tcp, &[8.0])]),
            Record::with_samples(
                System::KernelTc,
                &[(Metric::Tcp, &[8.5]), (Metric::TcpRr, &[11.6]), (Metric::Ping, &[5.5])],
            ),
        ];
        let bars = evaluate(&rows(Wire::Offload, &records), &[(Wire::Offload, System::KernelTc)]);
        assert_eq!(verdict(&bars, "TCP / bare"), Verdict::Ok);
        assert_eq!(verdict(&bars, "TCP / VXLAN"), Verdict::Ok);
        assert_eq!(verdict(&bars, "TCP rr / bare"), Verdict::Missed);
        assert_eq!(verdict(&bars, "ping flood - bare, us"), Verdict::Ok);
        assert_eq!(verdict(&bars, "kernel hit rate"), Verdict::NotMeasured);
    }

    #[test]
    fn bars_of_rows_that_were_not_asked_for_are_left_out() {
        let records = [Record::with_samples(System::Bare, &[(Metric::Tcp, &[10.0])])];
        assert!(evaluate(&rows(Wire::Nic, &records), &[]).is_empty());
    }

    #[test]
    fn the_kernel_bars_are_for_the_row_that_is_chosen_automatically() {
        let samples: &[(Metric, &[f64])] = &[(Metric::Tcp, &[10.0])];
        let records = [System::Bare, System::KernelTc, System::KernelXdp]
            .map(|system| Record::with_samples(system, samples));
        let bars = evaluate(&rows(Wire::Nic, &records), &[(Wire::Nic, System::KernelXdp)]);
        assert!(!bars.is_empty() && bars.iter().all(|bar| bar.path == "kernel-xdp"));
    }

    #[test]
    fn sealed_links_are_held_against_the_best_of_the_others() {
        let peer = |system, ping, udp64| {
            Record::with_samples(system, &[(Metric::Ping, &[ping]), (Metric::Udp64, &[udp64])])
        };
        let records = [
            Record::with_samples(System::Bare, &[(Metric::Ping, &[5.0])]),
            peer(System::WireguardGo, 80.0, 90.0),
            peer(System::Nebula, 60.0, 70.0),
            peer(System::Sealed, 11.5, 170.0),
        ];
        let bars = evaluate(&rows(Wire::Offload, &records), &[]);
        assert_eq!(verdict(&bars, "ping flood / best peer"), Verdict::Ok);
        assert_eq!(verdict(&bars, "ping flood - bare, us"), Verdict::Missed);
        assert_eq!(verdict(&bars, "UDP 64 B / best peer"), Verdict::Missed);
        assert_eq!(verdict(&bars, "TCP / best peer"), Verdict::NotMeasured);
    }

    #[test]
    fn limits_include_or_exclude_their_value() {
        assert!(Limit::AtLeast(0.8).holds(0.8) && Limit::AtMost(0.0).holds(0.0));
        assert!(!Limit::MoreThan(0.999).holds(0.999));
    }
}
