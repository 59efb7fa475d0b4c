//! What the demo tells while it runs. Owns the wording; silent when the result is wanted as JSON.

use std::cell::Cell;

use super::Leg;
use crate::config::Side;
use crate::daemon::{Peer, Traffic};
use crate::ui::{self, Colour, paint};

/// The teller: numbers the steps, and may be silent.
#[derive(Debug)]
pub(crate) struct Story {
    silent: bool,
    steps: Cell<u32>,
}

impl Story {
    pub(crate) fn new(silent: bool) -> Self {
        Self { silent, steps: Cell::new(0) }
    }

    pub(crate) fn step(&self, title: &str) {
        let number = self.steps.get() + 1;
        self.steps.set(number);
        self.line("");
        self.line(&format!("{} {}", paint(Colour::Cyan, &format!("{number}.")), paint(Colour::Bold, title)));
    }

    pub(crate) fn host(&self, side: Side, namespace: &str, address: &str) {
        self.line(&format!("   {:<6} {address:<12} in namespace {namespace}", side.node_name()));
    }

    /// What ipopd says of the other host.
    pub(crate) fn reached(&self, peer: &Peer, side: Side) {
        self.line(&format!(
            "   {} is {} and {}, path {}, {}",
            side.node_name(),
            side.virtual_v4(),
            side.virtual_v6(),
            paint(Colour::Green, &peer.path),
            peer.security
        ));
    }

    pub(crate) fn command(&self, command: &str) {
        self.line("");
        self.line(&format!("   {} {}", paint(Colour::Dim, "$"), paint(Colour::Bold, command)));
    }

    pub(crate) fn ping(&self, target: &str, us: f64) {
        self.line(&format!("   ping {target:<12} {us:>7.0} us there and back"));
    }

    pub(crate) fn tcp(&self, target: &str, gbps: f64) {
        self.line(&format!("   iperf3 {target:<10} {gbps:>7.2} Gbit/s"));
    }

    pub(crate) fn counters(&self, traffic: &Traffic, proved: bool) {
        self.line(&format!(
            "   ipopd counted: kernel {} out, {} in; user {} out, {} in",
            traffic.kernel_tx, traffic.kernel_rx, traffic.user_tx, traffic.user_rx
        ));
        self.line(&if proved {
            format!("   {} carried as it should be", paint(Colour::Green, "✓"))
        } else {
            format!("   {} the counters do not say so", paint(Colour::Red, "✗"))
        });
    }

    pub(crate) fn torn_down(&self) {
        self.line(&format!("   {} daemons, wire and namespaces are gone", paint(Colour::Green, "✓")));
    }

    pub(crate) fn table(&self, legs: &[Leg], proved: bool) {
        let mut table =
            ui::table(&["", "ping us", "TCP Gbit/s", "of bare", "kernel packets", "user packets"], 1);
        let bare_gbps = legs.first().map_or(f64::NAN, |leg| leg.measured.tcp_gbps);
        let count =
            |packets: Option<u64>| packets.map_or_else(|| "-".to_owned(), |packets| packets.to_string());
        for leg in legs {
            table.add_row([
                leg.path.to_owned(),
                format!("{:.0}", leg.measured.ping_us),
                format!("{:.2}", leg.measured.tcp_gbps),
                format!("{:.2}", leg.measured.tcp_gbps / bare_gbps),
                count(leg.kernel_packets),
                count(leg.user_packets),
            ]);
        }
        self.line("");
        self.line(&table.to_string());
        self.line(if proved {
            "Each path carried its own traffic, by ipopd's counters. For figures to rely on: cargo xtask bench"
        } else {
            "The counters do not prove the paths: see above."
        });
    }

    /// What a command has printed.
    pub(crate) fn text(&self, text: &str) {
        text.lines().for_each(|line| self.line(&format!("   {line}")));
    }

    pub(crate) fn line(&self, text: &str) {
        if !self.silent {
            ui::say(text);
        }
    }
}
