//! The traffic of the demo, by the programs that everybody knows: ping and iperf3.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::daemon::TempFolder;
use crate::netns::{NetNs, Pair};
use crate::process::Running;
use crate::{sh, stop};

const PINGS: u32 = 50;
const PING_INTERVAL_S: &str = "0.02";
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const SERVER_START_TIMEOUT: Duration = Duration::from_secs(5);
const SERVER_POLL: Duration = Duration::from_millis(10);
/// What a transfer may take beyond its own length.
const TRANSFER_SLACK: Duration = Duration::from_secs(15);
/// The same for every leg, whatever the machine's default is.
const CONGESTION_CONTROL: &str = "cubic";

/// What one leg has measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Measured {
    /// Mean round trip, microseconds.
    pub(crate) ping_us: f64,
    /// What the receiver got, Gbit/s.
    pub(crate) tcp_gbps: f64,
}

/// An iperf3 server on the far host, and clients on the near one.
#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    near: &'a NetNs,
    seconds: u64,
    folder: TempFolder,
    _server: Running,
}

impl<'a> Transfer<'a> {
    pub(crate) fn prepare(prefix: &str, pair: &'a Pair, seconds: u64) -> Result<Self> {
        let folder = TempFolder::create(&format!("{prefix}-{}-traffic", std::process::id()))?;
        let mut command = program("iperf3")?;
        command.args(["--server", "--forceflush"]);
        pair.far.enter(&mut command)?;
        let mut server = Running::start(command, &folder.0.join("server.log"))?;
        let deadline = Instant::now() + SERVER_START_TIMEOUT;
        while !server.log_text().contains("listening") {
            server.check()?;
            if Instant::now() > deadline {
                bail!("iperf3's server did not start{}", server.log_tail());
            }
            stop::pause(SERVER_POLL)?;
        }
        Ok(Self { near: &pair.near, seconds, folder, _server: server })
    }

    /// Mean round trip in microseconds; a lost packet is an error.
    pub(crate) fn ping(&self, target: &str) -> Result<f64> {
        let mut command = program("ping")?;
        command.args(["-n", "-q", "-c", &PINGS.to_string(), "-i", PING_INTERVAL_S, "-W", "1", target]);
        let text = self.run(command, "ping.log", PING_TIMEOUT)?;
        parse_ping(&text).with_context(|| format!("{target} did not answer every ping:\n{text}"))
    }

    /// What the receiver got of one TCP stream, in Gbit/s.
    pub(crate) fn tcp(&self, target: &str) -> Result<f64> {
        let mut command = program("iperf3")?;
        command.args(["--client", target, "--json", "--length", "64K", "--congestion", CONGESTION_CONTROL]);
        command.args(["--time", &self.seconds.to_string()]);
        let text = self.run(command, "client.log", Duration::from_secs(self.seconds) + TRANSFER_SLACK)?;
        parse_iperf3(&text)
    }

    fn run(&self, mut command: Command, log: &str, timeout: Duration) -> Result<String> {
        self.near.enter(&mut command)?;
        let mut running = Running::start(command, &self.folder.0.join(log))?;
        running.wait(timeout)?;
        Ok(running.log_text())
    }
}

fn program(name: &str) -> Result<Command> {
    Ok(Command::new(sh::find(name).with_context(|| format!("{name} is missing"))?))
}

/// The mean of `rtt min/avg/max/mdev = a/b/c/d ms`, if nothing was lost.
pub(crate) fn parse_ping(text: &str) -> Option<f64> {
    if !text.contains(" 0% packet loss") {
        return None;
    }
    let figures = text.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))?;
    let mean_ms: f64 = figures.split('/').nth(1)?.parse().ok()?;
    Some(mean_ms * 1e3)
}

fn parse_iperf3(text: &str) -> Result<f64> {
    let report: serde_json::Value =
        serde_json::from_str(text).with_context(|| format!("iperf3 said: {text}"))?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let bits_per_second = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits_per_second.context("iperf3 reports no throughput")? / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_is_read_only_when_nothing_was_lost() {
        let text = "50 packets transmitted, 50 received, 0% packet loss, time 980ms\n\
                    rtt min/avg/max/mdev = 0.031/0.045/0.080/0.009 ms\n";
        assert_eq!(parse_ping(text), Some(45.0));
        assert_eq!(parse_ping(&text.replace(" 0%", " 10%")), None);
        assert_eq!(parse_ping("ping: connect: Network is unreachable\n"), None);
    }

    #[test]
    fn iperf3_is_read_at_the_receiver() {
        let report =
            r#"{"end":{"sum_sent":{"bits_per_second":2e9},"sum_received":{"bits_per_second":1.5e9}}}"#;
        assert_eq!(parse_iperf3(report).expect("a report"), 1.5);
        let error = parse_iperf3(r#"{"error":"unable to connect"}"#).expect_err("an error").to_string();
        assert!(error.contains("unable to connect"));
    }
}
