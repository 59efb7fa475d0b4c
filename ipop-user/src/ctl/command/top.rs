//! `ipopctl top`: the rates of each peer and path, second by second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep_until;

use crate::api::{Path, Peer, Status, Traffic};
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::format::{Align, bits, count, duration, microseconds, or_nothing, table};
use crate::ctl::interrupt::Interrupt;
use crate::ctl::output::Output;

const PERIOD: Duration = Duration::from_secs(1);

/// The alternate screen without a cursor, and back (xterm's control sequences).
const SCREEN_ENTER: &str = "\x1b[?1049h\x1b[?25l";
const SCREEN_LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Top left; clears from the cursor on; clears the rest of the line.
const HOME: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_RIGHT: &str = "\x1b[K";

/// What one sample says. `--json` prints one of these on each line.
#[derive(Debug, PartialEq, Serialize)]
struct Sample {
    interval_s: f64,
    peers: Vec<Rates>,
}

/// Per second, of one peer.
#[derive(Debug, PartialEq, Serialize)]
struct Rates {
    name: String,
    path: Path,
    rtt_us: Option<u64>,
    kernel_tx_packets_per_s: f64,
    kernel_rx_packets_per_s: f64,
    user_tx_packets_per_s: f64,
    user_rx_packets_per_s: f64,
    tx_bytes_per_s: f64,
    rx_bytes_per_s: f64,
}

/// Ends after the last sample or at the user's interrupt, and leaves the terminal as it was.
pub(in crate::ctl) async fn run(
    client: &Client,
    samples: Option<u32>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let live = output.is_terminal && !output.json;
    let samples = samples.or((!output.is_terminal).then_some(1));
    let mut interrupt = Interrupt::new()?;
    let first = Observation::take(client).await?;
    if live {
        output.text(SCREEN_ENTER)?;
    }
    let watched = tokio::select! {
        watched = watch(client, first, samples, live, output) => watched,
        () = interrupt.wait() => Ok(()),
    };
    if live {
        output.text(SCREEN_LEAVE)?;
    }
    watched
}

async fn watch(
    client: &Client,
    mut before: Observation,
    samples: Option<u32>,
    live: bool,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut taken = 0;
    while samples.is_none_or(|samples| taken < samples) {
        sleep_until((before.at + PERIOD).into()).await;
        let now = Observation::take(client).await?;
        show(&now, &now.since(&before), live, output)?;
        before = now;
        taken += 1;
    }
    Ok(())
}

fn show(now: &Observation, sample: &Sample, live: bool, output: &mut Output<'_>) -> std::io::Result<()> {
    if output.json {
        return output.json_line(sample);
    }
    let text = render(&now.status, sample, output.width());
    if !live {
        return output.text(&text);
    }
    let screen = on_screen(&text, output.height());
    output.text(&screen)
}

/// The daemon's state at one moment.
struct Observation {
    at: Instant,
    status: Status,
    peers: Vec<Peer>,
}

impl Observation {
    async fn take(client: &Client) -> Result<Self, Failure> {
        let (status, peers) = (client.status().await?, client.peers().await?);
        Ok(Self { at: Instant::now(), status, peers })
    }

    /// What has happened from an earlier observation to this one. A peer that is new has done
    /// nothing yet.
    fn since(&self, before: &Observation) -> Sample {
        let interval_s = (self.at - before.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let earlier: HashMap<&str, &Traffic> =
            before.peers.iter().map(|peer| (peer.public_key.as_str(), &peer.traffic)).collect();
        let rates = |peer: &Peer| {
            let before = earlier.get(peer.public_key.as_str()).copied().unwrap_or(&peer.traffic);
            Rates::between(before, peer, interval_s)
        };
        Sample { interval_s, peers: self.peers.iter().map(rates).collect() }
    }
}

impl Rates {
    /// A restarted daemon counts from zero again: that is no rate, rather than a negative one.
    fn between(before: &Traffic, peer: &Peer, interval_s: f64) -> Self {
        let now = &peer.traffic;
        let rate = |value: fn(&Traffic) -> u64| value(now).saturating_sub(value(before)) as f64 / interval_s;
        Self {
            name: peer.name.clone(),
            path: peer.path,
            rtt_us: peer.rtt_us,
            kernel_tx_packets_per_s: rate(|traffic| traffic.kernel_tx_packets),
            kernel_rx_packets_per_s: rate(|traffic| traffic.kernel_rx_packets),
            user_tx_packets_per_s: rate(|traffic| traffic.user_tx_packets),
            user_rx_packets_per_s: rate(|traffic| traffic.user_rx_packets),
            tx_bytes_per_s: rate(|traffic| traffic.tx_bytes),
            rx_bytes_per_s: rate(|traffic| traffic.rx_bytes),
        }
    }
}

fn render(status: &Status, sample: &Sample, width: u16) -> String {
    let headings = [
        ("peer", Align::Left),
        ("path", Align::Left),
        ("rtt", Align::Right),
        ("kernel\ntx/s", Align::Right),
        ("kernel\nrx/s", Align::Right),
        ("user\ntx/s", Align::Right),
        ("user\nrx/s", Align::Right),
        ("tx", Align::Right),
        ("rx", Align::Right),
    ];
    let rows = sample.peers.iter().map(|peer| {
        vec![
            peer.name.clone(),
            peer.path.name().to_owned(),
            or_nothing(peer.rtt_us, microseconds),
            count(peer.kernel_tx_packets_per_s.round()),
            count(peer.kernel_rx_packets_per_s.round()),
            count(peer.user_tx_packets_per_s.round()),
            count(peer.user_rx_packets_per_s.round()),
            bits(peer.tx_bytes_per_s.round()),
            bits(peer.rx_bytes_per_s.round()),
        ]
    });
    let Status { name, uptime_s, peers_direct, peers_total, .. } = status;
    let up = duration(*uptime_s);
    let head = format!("{name}, up {up}, {peers_direct} of {peers_total} peers direct, rates per second\n");
    head + &table(&headings, rows, width)
}

/// Overwrites what the last sample left, as far as the screen reaches.
fn on_screen(text: &str, height: usize) -> String {
    let lines: Vec<String> =
        text.lines().take(height.saturating_sub(1)).map(|line| format!("{line}{CLEAR_RIGHT}\n")).collect();
    format!("{HOME}{}{CLEAR_BELOW}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    fn observation(at: Instant, change: impl FnOnce(&mut Vec<Peer>)) -> Observation {
        let mut peers = fake::peers();
        change(&mut peers);
        Observation { at, status: fake::status(), peers }
    }

    /// Two seconds in which beta sent 3 million packets by the kernel and 10 by the daemon.
    fn two_seconds() -> (Observation, Observation) {
        let start = Instant::now();
        let after = observation(start + Duration::from_secs(2), |peers| {
            peers[0].traffic.kernel_tx_packets += 3_000_000;
            peers[0].traffic.user_tx_packets += 10;
            peers[0].traffic.tx_bytes += 250_000_000;
        });
        (observation(start, |_| ()), after)
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let (before, after) = two_seconds();
        let sample = after.since(&before);
        assert_eq!(sample.interval_s, 2.0);
        assert_eq!(sample.peers[0].kernel_tx_packets_per_s, 1_500_000.0);
        assert_eq!(sample.peers[0].user_tx_packets_per_s, 5.0);
        assert_eq!(sample.peers[0].tx_bytes_per_s, 125_000_000.0);
        assert_eq!(sample.peers[0].rx_bytes_per_s, 0.0);
    }

    #[test]
    fn new_peers_and_restarted_daemons_have_no_rate() {
        let start = Instant::now();
        let before = observation(start, |peers| drop(peers.pop()));
        let after = observation(start + PERIOD, |peers| peers[0].traffic = Traffic::default());
        let sample = after.since(&before);
        assert_eq!(sample.peers.len(), 2);
        for peer in sample.peers {
            assert_eq!((peer.kernel_tx_packets_per_s, peer.tx_bytes_per_s), (0.0, 0.0), "{}", peer.name);
        }
    }

    #[test]
    fn a_sample_fits_80_columns() {
        let (before, after) = two_seconds();
        let expected = "\
alpha, up 1 h 2 min, 1 of 2 peers direct, rates per second
PEER   PATH              RTT  KERNEL  KERNEL  USER  USER       TX    RX
                                TX/S    RX/S  TX/S  RX/S
beta   direct-kernel  180 us    1.5M       0     5     0  1.0Gbit  0bit
gamma  none                -       0       0     0     0     0bit  0bit
";
        assert_eq!(render(&after.status, &after.since(&before), 80), expected);
    }

    #[test]
    fn the_screen_is_overwritten_and_not_overrun() {
        assert_eq!(on_screen("a\nb\n", 24), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(on_screen("a\nb\nc\n", 2), "\x1b[Ha\x1b[K\n\x1b[J");
    }
}
