//! The results as a person reads them in a terminal of 100 columns. Owns the layout; every figure
//! is computed elsewhere.

use comfy_table::{Cell, Color, Table};

use super::bars::Verdict;
use super::ethernet::Ethernet;
use super::handshakes::Handshakes;
use super::plan::{Metric, Wire};
use super::relays::Relays;
use super::results::{ProductInfo, Results, Row};
use super::stats::Summary;
use super::subnets::Subnets;
use crate::ui::{self, Colour, paint, table};

const UNKNOWN: &str = "-";

pub(crate) fn print(results: &Results) {
    for wire in Wire::ALL {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.key.0 == wire).collect();
        if rows.is_empty() {
            continue;
        }
        heading(&format!("{} wire", wire.name()), wire.description());
        ui::say(&figures(&rows).to_string());
        ui::say("");
        ui::say("as a ratio, round by round, median");
        ui::say(&ratios(&rows).to_string());
    }
    if !results.rows.is_empty() {
        print_extras(&results.rows);
    }
    if let Some(found) = &results.handshakes {
        print_handshakes(found);
    }
    if let Some(found) = &results.relays {
        print_relays(found);
    }
    if let Some(found) = &results.subnets {
        heading("Subnets", "three hosts in a row, two offload wires; the last runs no ipopd");
        ui::say(&subnets(found).to_string());
    }
    if let Some(found) = &results.ethernet {
        heading("Ethernet", "two hosts on an offload wire, stations of one switch");
        ui::say(&ethernet(found).to_string());
    }
    print_bars(results);
    if !results.rows.is_empty() {
        print_paper(results);
    }
    print_problems(results);
    print_missing(&results.products);
    print_settings(results);
}

fn heading(title: &str, remark: &str) {
    ui::say("");
    ui::say(&format!("{}  {}", paint(Colour::Bold, title), paint(Colour::Dim, remark)));
}

/// `value` with so many decimals, or the sign for what is not known.
fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{value:.decimals$}"))
}

/// Medians with half the interquartile range.
fn figures(rows: &[&Row]) -> Table {
    let mut header = vec!["median ± half\nof quartiles"];
    header.extend(Metric::ALL.iter().map(|metric| metric.head()));
    header.push("kernel\nhits %");
    let mut table = table(&header, 1);
    for row in rows {
        let mut cells = vec![row.key.1.label().to_owned()];
        cells.extend(Metric::ALL.iter().map(|metric| figure(row, *metric)));
        cells.push(shown(row.kernel_hit_rate.map(|rate| rate * 100.0), 3));
        table.add_row(cells);
    }
    table
}

fn figure(row: &Row, metric: Metric) -> String {
    let decimals = metric.decimals();
    row.summary(metric).map_or_else(
        || UNKNOWN.to_owned(),
        |summary| {
            let half = summary.half_range();
            // A wide spread has no use for decimals, and the table no room.
            let of_half = if half >= 10.0 { 0 } else { decimals };
            format!("{:.decimals$} ±{half:.of_half$}", summary.median)
        },
    )
}

fn ratios(rows: &[&Row]) -> Table {
    let bare = ["TCP", "UDP 64 B", "ping", "TCP rr", "UDP rr", "CPU"];
    let others = ["TCP by\nVXLAN", "UDP by\nVXLAN", "ping\nadded us"];
    let mut table = table(&[&["by bare wire"], &bare[..], &others[..]].concat(), 1);
    for row in rows {
        let added_us = row.added_us(Metric::Ping);
        let mut cells = vec![row.key.1.label().to_owned()];
        cells.extend(Metric::ALL.iter().map(|metric| shown(row.to_bare(*metric), 2)));
        cells.extend(
            [row.to_vxlan(Metric::Tcp), row.to_vxlan(Metric::Udp64), added_us].map(|value| shown(value, 2)),
        );
        table.add_row(cells);
    }
    table
}

/// Memory, order and loss: one line per row, since the bare wire has its part of them too.
fn print_extras(rows: &[Row]) {
    heading("Memory, order and loss", "per row, over all rounds");
    ui::say(&extras(rows).to_string());
}

fn extras(rows: &[Row]) -> Table {
    let figures = [
        "ipopd\nidle MB",
        "TCP out\nof order",
        "TCP re-\ntransmits",
        "UDP 64 B\nsent",
        "UDP 64 B\nlost %",
        "requests\nlost",
    ];
    let mut table = table(&[&["wire", "system"], &figures[..]].concat(), 2);
    let number = |value: Option<u64>| value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string());
    for row in rows {
        table.add_row([
            row.wire.to_owned(),
            row.key.1.label().to_owned(),
            shown(row.ipopd_idle_bytes.map(|bytes| bytes as f64 / 1e6), 1),
            number(row.tcp_out_of_order),
            number(row.tcp_retransmits),
            row.udp64_sent.to_string(),
            row.udp64_loss.map_or_else(|| UNKNOWN.to_owned(), loss_shown),
            row.lost_exchanges.to_string(),
        ]);
    }
    table
}

/// In per cent. `0` is said only where nothing at all was lost.
fn loss_shown(loss: f64) -> String {
    const SMALLEST_SHOWN: f64 = 0.01;
    match loss * 100.0 {
        0.0 => "0".to_owned(),
        percent if percent < SMALLEST_SHOWN => format!("< {SMALLEST_SHOWN}"),
        percent => format!("{percent:.2}"),
    }
}

fn print_handshakes(found: &Handshakes) {
    heading("Handshakes", "one node, sealed, offload wire");
    let with_half = |summary: Option<Summary>| {
        summary.map_or_else(
            || UNKNOWN.to_owned(),
            |summary| format!("{:.0} ±{:.0}", summary.median, summary.half_range()),
        )
    };
    ui::say(&format!(
        "{} peers call: {} handshakes per second of ipopd's CPU time, {} per second; {} cookies, {} lost",
        found.callers,
        with_half(found.per_core_second),
        with_half(found.per_second),
        found.cookies,
        found.lost
    ));
    ui::say(&format!(
        "floods of {} initiations per second: what is left of the throughput of a link, round by round",
        found.flood_per_second
    ));
    ui::say(&floods(found).to_string());
}

fn floods(found: &Handshakes) -> Table {
    let heads = ["sent\nper s", "TCP by\nno flood", "TCP by\nunread", "UDP by\nno flood", "UDP by\nunread"];
    let mut table = table(&[&["flood"], &heads[..]].concat(), 1);
    let ratio = |summary: Option<Summary>| {
        summary.map_or_else(
            || UNKNOWN.to_owned(),
            |summary| format!("{:.3} ±{:.3}", summary.median, summary.half_range()),
        )
    };
    for row in &found.floods {
        table.add_row([
            row.flood.to_owned(),
            shown(row.rate.map(|rate| rate.median), 0),
            ratio(row.tcp_to_none),
            ratio(row.tcp_to_unread),
            ratio(row.udp64_to_none),
            ratio(row.udp64_to_unread),
        ]);
    }
    table
}

fn print_relays(found: &Relays) {
    heading("Relays", "three hosts in a row, two offload wires");
    ui::say(&relays(found).to_string());
    match &found.coturn {
        Ok(version) => ui::say(&format!("coturn {version}: a stream of datagrams by a channel, not sealed")),
        Err(missing) => ui::say(&format!("not measured: {missing}")),
    }
}

fn subnets(found: &Subnets) -> Table {
    let heads = ["TCP\nGbit/s", "ping\nus", "TCP by\nbare wire", "TCP by\nforwarding", "kernel\nhits %"];
    let mut table = table(&[&["way"], &heads[..]].concat(), 1);
    for row in &found.rows {
        table.add_row([
            row.way.to_owned(),
            with_half(row.tcp_gbps, 2),
            with_half(row.ping_us, 1),
            with_half(row.tcp_to_wire, 2),
            with_half(row.tcp_to_forwarding, 2),
            shown(row.kernel_hit_rate.map(|rate| rate * 100.0), 1),
        ]);
    }
    table
}

fn ethernet(found: &Ethernet) -> Table {
    let heads = ["TCP\nGbit/s", "ping\nus", "TCP by\nbare wire", "kernel\nhits %"];
    let mut table = table(&[&["way"], &heads[..]].concat(), 1);
    for row in &found.rows {
        table.add_row([
            row.way.to_owned(),
            with_half(row.tcp_gbps, 2),
            with_half(row.ping_us, 1),
            with_half(row.tcp_to_wire, 2),
            shown(row.kernel_hit_rate.map(|rate| rate * 100.0), 1),
        ]);
    }
    table
}

/// A median and half of what its rounds are apart.
fn with_half(summary: Option<Summary>, decimals: usize) -> String {
    summary.map_or_else(
        || UNKNOWN.to_owned(),
        |summary| format!("{:.decimals$} ±{:.decimals$}", summary.median, summary.half_range()),
    )
}

fn relays(found: &Relays) -> Table {
    let heads =
        ["TCP\nGbit/s", "ping\nus", "TCP by\nforwarding", "ping added\nto direct us", "kernel\nhits %"];
    let mut table = table(&[&["way"], &heads[..]].concat(), 1);
    for row in &found.rows {
        table.add_row([
            row.way.to_owned(),
            with_half(row.tcp_gbps, 2),
            with_half(row.ping_us, 1),
            with_half(row.tcp_to_forwarding, 2),
            with_half(row.ping_added_to_direct_us, 1),
            shown(row.kernel_hit_rate.map(|rate| rate * 100.0), 1),
        ]);
    }
    table
}

fn print_bars(results: &Results) {
    if results.bars.is_empty() {
        return;
    }
    heading("Bars", "what IPOP has set itself, beside what was measured in this run");
    for (wire, path) in &results.automatic {
        ui::say(&format!("on the {wire} wire, ipopd chooses {path} by itself"));
    }
    let mut table = table(&["wire", "path", "what", "asked", "measured", ""], 3);
    for bar in &results.bars {
        let verdict = match bar.verdict {
            Verdict::Ok => Cell::new("ok").fg(Color::Green),
            Verdict::Missed => Cell::new("MISSED").fg(Color::Red),
            Verdict::NotMeasured => Cell::new("not measured").fg(Color::Yellow),
        };
        let measured = bar.measured.map_or_else(|| UNKNOWN.to_owned(), shown_to_three_digits);
        let mut cells: Vec<Cell> =
            [bar.wire, bar.path, bar.what, &bar.asked, &measured].map(Cell::new).into();
        cells.push(verdict);
        table.add_row(cells);
    }
    ui::say(&table.to_string());
}

/// As many decimals as three significant digits take; shares close to one keep them all.
fn shown_to_three_digits(value: f64) -> String {
    let decimals = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else if (0.99..1.0).contains(&value) {
        5
    } else {
        2
    };
    format!("{value:.decimals$}")
}

fn print_paper(results: &Results) {
    heading("The original IPOP", "its authors' figures (IPDPS 2006) beside ours on the offload wire");
    for row in &results.original_paper {
        let ours = row.ours.as_deref().unwrap_or("not measured here");
        ui::say(&format!("  {:<34} {:<24} ours: {ours}", row.what, row.theirs));
    }
}

fn print_problems(results: &Results) {
    let of_rows = results.rows.iter().flat_map(|row| {
        row.problems.iter().map(move |problem| format!("{}, {}: {problem}", row.wire, row.key.1.label()))
    });
    let of_handshakes = results
        .handshakes
        .iter()
        .flat_map(|found| found.problems.iter().map(|problem| format!("handshakes: {problem}")));
    let of_relays = results
        .relays
        .iter()
        .flat_map(|found| found.problems.iter().map(|problem| format!("relays: {problem}")));
    let of_subnets = results
        .subnets
        .iter()
        .flat_map(|found| found.problems.iter().map(|problem| format!("subnets: {problem}")));
    let of_ethernet = results
        .ethernet
        .iter()
        .flat_map(|found| found.problems.iter().map(|problem| format!("ethernet: {problem}")));
    let problems = of_rows.chain(of_handshakes).chain(of_relays).chain(of_subnets).chain(of_ethernet);
    let problems: Vec<String> = problems.collect();
    if problems.is_empty() {
        return;
    }
    heading("Could not be measured, or not as it should be", "");
    for problem in problems {
        ui::say(&format!("  {} {problem}", paint(Colour::Red, "!")));
    }
}

fn print_missing(products: &[ProductInfo]) {
    let missing: Vec<&str> = products.iter().filter_map(|product| product.missing.as_deref()).collect();
    if missing.is_empty() {
        return;
    }
    heading("Not measured", "");
    for missing in missing {
        ui::say(&format!("  {missing}"));
    }
}

fn print_settings(results: &Results) {
    let settings = &results.settings;
    ui::say("");
    let machine = &results.machine;
    let memory_gib = machine.memory_mib.div_ceil(1024);
    ui::say(&format!(
        "{}, {} cores, {memory_gib} GiB; {}; Linux {}",
        machine.cpu, machine.cores, machine.system, results.kernel
    ));
    ui::say(&format!("commit {}; {}", results.commit, results.time));
    ui::say(&format!(
        "{} rounds, windows of {} ms (latency {} ms, both ends on one core), rotating over all systems",
        settings.rounds, settings.window_ms, settings.latency_window_ms
    ));
    ui::say(&format!(
        "{}; TCP writes of {} KiB; requests and datagrams of {} B",
        settings.congestion_control,
        settings.tcp_write_bytes / 1024,
        settings.datagram_bytes
    ));
    for product in &results.products {
        if let Some(version) = &product.version {
            ui::say(&format!("{} {version}, MTU {}, sealed", product.system, product.mtu));
        }
    }
    for (name, value) in &settings.sysctls {
        ui::say(&format!("{} = {value}", name.replace('/', ".")));
    }
    let quiet =
        settings.background_share < BACKGROUND_SHARE_QUIET && settings.steal_share < BACKGROUND_SHARE_QUIET;
    let remark = format!(
        "just before, others used {:.1} % of this machine; during it, {:.1} % was withheld from it{}",
        settings.background_share * 100.0,
        settings.steal_share * 100.0,
        if quiet { "" } else { ": NOT a quiet machine" }
    );
    ui::say(&if quiet { remark } else { paint(Colour::Yellow, &remark) });
}

/// Above this share of the machine's time, others disturb the figures.
const BACKGROUND_SHARE_QUIET: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::System;
    use crate::bench::results::rows;
    use crate::bench::rounds::Record;

    #[test]
    fn tables_fit_100_columns() {
        let values: &[(Metric, &[f64])] = &[
            (Metric::Tcp, &[100.0, 120.0]),
            (Metric::Udp64, &[1000.0, 1200.0]),
            (Metric::Ping, &[100.0, 120.0]),
            (Metric::TcpRr, &[100.0, 120.0]),
            (Metric::UdpRr, &[100.0, 120.0]),
            (Metric::Cpu, &[10.0, 12.0]),
        ];
        let records: Vec<Record> = System::ALL.map(|system| Record::with_samples(system, values)).into();
        let rows = rows(Wire::Offload, &records);
        let extras = extras(&rows);
        let rows: Vec<&Row> = rows.iter().collect();
        for table in [figures(&rows), ratios(&rows), extras] {
            let text = table.to_string();
            for system in System::ALL {
                assert!(text.contains(system.label()), "a label was broken in two:\n{text}");
            }
            assert!(
                text.lines().all(|line| line.chars().count() <= usize::from(ui::WIDTH)),
                "too wide:\n{text}"
            );
        }
    }

    #[test]
    fn a_loss_is_never_rounded_to_none() {
        assert_eq!([0.0, 1e-6, 0.0012, 0.177].map(loss_shown), ["0", "< 0.01", "0.12", "17.70"]);
    }

    #[test]
    fn digits_follow_the_size() {
        assert_eq!(shown_to_three_digits(0.999_98), "0.99998");
        assert_eq!(shown_to_three_digits(0.874), "0.87");
        assert_eq!(shown_to_three_digits(13.62), "13.6");
        assert_eq!(shown_to_three_digits(281.4), "281");
    }
}
