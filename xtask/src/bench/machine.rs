//! What the kernel says of this machine: its name in the results, its busy time, a namespace's
//! TCP counters. Owns the formats of /proc.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use serde::Serialize;

use crate::netns::NetNs;
use crate::{sh, stop, workspace};

/// Where and of what the results are.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) system: String,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let cpu_info = text("/proc/cpuinfo");
        let memory = text("/proc/meminfo");
        let release = text("/etc/os-release");
        Self {
            cpu: field(&cpu_info, "model name", ':').unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: field(&memory, "MemTotal", ':')
                .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            system: field(&release, "PRETTY_NAME", '=').unwrap_or("unknown").trim_matches('"').to_owned(),
        }
    }
}

/// The running kernel's release.
pub(crate) fn kernel() -> String {
    text("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// What TCP uses here unless it is told otherwise.
pub(crate) fn congestion_control() -> Result<String> {
    let file = "/proc/sys/net/ipv4/tcp_congestion_control";
    let name = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    Ok(name.trim().to_owned())
}

/// Fails where this kernel has no congestion control of that name.
pub(crate) fn check_congestion_control(name: &str) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)
        .context("cannot open a TCP socket")?;
    setsockopt(&socket, sockopt::TcpCongestion, &name.into()).with_context(|| {
        let file = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        let available = fs::read_to_string(file).unwrap_or_default();
        format!("this kernel has no congestion control {name:?}; it has: {}", available.trim())
    })
}

/// The commit that is measured; `-dirty` where the checkout differs from it.
pub(crate) fn commit() -> String {
    let git =
        |arguments: &[&str]| sh::capture(Command::new("git").current_dir(workspace::root()).args(arguments));
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|changes| !changes.is_empty());
    format!("{}{}", commit.trim(), if dirty { "-dirty" } else { "" })
}

/// Now, in UTC, as RFC 3339 has it.
pub(crate) fn time() -> String {
    sh::capture(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))
        .map_or_else(|_| "unknown".to_owned(), |time| time.trim().to_owned())
}

/// Time of all cores since boot, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTime {
    busy: u64,
    steal: u64,
    total: u64,
}

impl CpuTime {
    pub(crate) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        parse_stat(&stat).context("cannot understand /proc/stat")
    }

    /// Seconds of work since `earlier`, all cores added.
    pub(crate) fn busy_seconds_since(&self, earlier: &Self) -> f64 {
        self.busy.saturating_sub(earlier.busy) as f64 / ticks_per_second()
    }

    /// The part of all cores' time since `earlier` that was worked.
    pub(crate) fn busy_share_since(&self, earlier: &Self) -> f64 {
        share(self.busy.saturating_sub(earlier.busy), self.total.saturating_sub(earlier.total))
    }

    /// The part of all cores' time since `earlier` that the hypervisor gave to others.
    pub(crate) fn steal_share_since(&self, earlier: &Self) -> f64 {
        share(self.steal.saturating_sub(earlier.steal), self.total.saturating_sub(earlier.total))
    }
}

/// The part of this machine's time that goes elsewhere while we do nothing.
pub(crate) fn background_share(during: Duration) -> Result<f64> {
    let (before, started) = (CpuTime::now()?, Instant::now());
    while started.elapsed() < during {
        stop::pause(during.saturating_sub(started.elapsed()))?;
    }
    Ok(CpuTime::now()?.busy_share_since(&before))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn parse_stat(stat: &str) -> Option<CpuTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user.
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    let busy = user + nice + system + irq + softirq;
    Some(CpuTime { busy, steal, total: busy + idle + iowait + steal })
}

/// CPU time of a process so far, all threads, its own and the kernel's on its behalf.
pub(crate) fn process_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse_process_stat(&stat).with_context(|| format!("cannot understand {path}"))?;
    Ok(ticks as f64 / ticks_per_second())
}

/// utime and stime, the 14th and 15th field; the second may have spaces in it, and ends with `)`.
fn parse_process_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

fn ticks_per_second() -> f64 {
    use nix::unistd::{SysconfVar, sysconf};
    match sysconf(SysconfVar::CLK_TCK) {
        Ok(Some(ticks)) if ticks > 0 => ticks as f64,
        // proc(5): USER_HZ is 100 on every architecture that Rust knows.
        _ => 100.0,
    }
}

/// Counters of one namespace's TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TcpCounters {
    /// Segments that arrived before one that was sent earlier.
    pub(crate) out_of_order: u64,
    pub(crate) retransmitted: u64,
}

impl TcpCounters {
    pub(crate) fn read(namespace: &NetNs) -> Result<Self> {
        namespace.run(|| {
            // "thread-self": /proc/net shows the namespace of the process's first thread.
            let counter = |file: &str, group: &str, name: &str| {
                let path = Path::new("/proc/thread-self/net").join(file);
                let text =
                    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                parse_counter(&text, group, name)
                    .with_context(|| format!("no {group} {name} in {}", path.display()))
            };
            Ok(Self {
                out_of_order: counter("netstat", "TcpExt:", "TCPOFOQueue")?,
                retransmitted: counter("snmp", "Tcp:", "RetransSegs")?,
            })
        })
    }
}

/// A counter in the two-line format of /proc/net/snmp and netstat: names, then values.
fn parse_counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    names.zip(values).find(|(found, _)| *found == name)?.1.parse().ok()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `KEY<separator>VALUE`.
fn field<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(found, _)| found.trim() == key)
        .map(|(_, v)| v.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_stolen_time() {
        let before = parse_stat("cpu  10 1 10 100 5 1 3 50 0 0\ncpu0 1 1 1 1\n").expect("a cpu line");
        assert_eq!(before, CpuTime { busy: 25, steal: 50, total: 180 });
        let after = parse_stat("cpu  20 1 20 110 5 1 3 60 0 0\n").expect("a cpu line");
        assert_eq!(after.busy_share_since(&before), 0.5);
        assert_eq!(after.steal_share_since(&before), 0.25);
        assert_eq!(parse_stat("cpu  1 2 3\n"), None);
    }

    #[test]
    fn the_time_of_a_process_is_found_behind_its_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 900 0 0 0 41 9 0 0 20 0 4 0 100 0";
        assert_eq!(parse_process_stat(stat), Some(50));
        assert_eq!(parse_process_stat("7 (a) S 1"), None);
    }

    #[test]
    fn counters_are_found_by_group_and_name() {
        let text = "TcpExt: SyncookiesSent TCPOFOQueue\nTcpExt: 3 17\nIpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(parse_counter(text, "TcpExt:", "TCPOFOQueue"), Some(17));
        assert_eq!(parse_counter(text, "IpExt:", "InNoRoutes"), Some(4));
        assert_eq!(parse_counter(text, "IpExt:", "TCPOFOQueue"), None);
        assert_eq!(parse_counter("TcpExt: A\n", "TcpExt:", "A"), None);
    }

    #[test]
    fn fields_are_found_by_key() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A B\n", "model name", ':'), Some("A B"));
        assert_eq!(field("NAME=x\n", "PRETTY_NAME", '='), None);
    }
}
