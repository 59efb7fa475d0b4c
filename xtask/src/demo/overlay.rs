//! The part of the demo in which three hosts find each other: they know one address and the network's
//! secret. Two of them cannot reach each other at first, so the third carries their packets; once they
//! can, they have a link of the kernel's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::story::Story;
use crate::build::Binaries;
use crate::config::PORT;
use crate::daemon::TempFolder;
use crate::netns::NetNs;
use crate::process::Running;
use crate::{sh, stop, workspace};

/// In the order of their outer addresses, 10.200.1.1 and so on, and of their virtual ones.
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// A way that was not there is tried again half a minute later.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The picture, in cargo's target folder.
const PICTURE: &str = "demo-ring.svg";

/// What it has shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// How packets went while the two could not reach each other, and the round trip.
    carried: Reached,
    /// And when they could.
    direct: Reached,
    /// Whether the nodes agree about the ring.
    consistent: bool,
    picture: PathBuf,
    pub(super) proved: bool,
}

#[derive(Debug, Serialize)]
struct Reached {
    path: String,
    ping_us: f64,
}

/// Three hosts on one bridge.
struct Hosts {
    hosts: Vec<Host>,
    bridge: NetNs,
    _folder: TempFolder,
}

struct Host {
    number: usize,
    namespace: NetNs,
    folder: PathBuf,
    ipopctl: PathBuf,
    daemon: Option<Running>,
}

pub(super) fn show(binaries: &Binaries, prefix: &str, story: &Story) -> Result<Shown> {
    story.step("Three other hosts, that know one address and no [[peer]]");
    let mut hosts = Hosts::create(binaries, prefix)?;
    for host in &hosts.hosts {
        story.line(&format!(
            "   {:<6} {:<12} in namespace {}",
            host.name(),
            host.outer(),
            host.namespace.name()
        ));
    }
    hosts.isolate(true)?;
    story.line("   beta and gamma cannot reach each other: as if a firewall were between them");
    hosts.set_up()?;
    hosts.start(binaries)?;
    for host in &mut hosts.hosts {
        let reason = host.wait("its place on the ring", |host| host.joined())?;
        story.line(&format!("   {} is {reason}", host.name()));
    }
    let [_, beta, gamma] = &mut hosts.hosts[..] else { bail!("there are three hosts") };
    let gamma = gamma.inner();

    story.step("Over the ring: alpha carries what beta sends to gamma");
    story.command(&format!("ping {gamma}"));
    let carried = beta.reach(&gamma, "overlay", story)?;
    story.command(&format!("ipopctl traceroute {gamma}"));
    story.text(&beta.ctl(&["traceroute", &gamma])?);

    story.step("The firewall opens: a link of the kernel's, and nobody carries any more");
    hosts.isolate(false)?;
    let beta = &mut hosts.hosts[1];
    story.command(&format!("ping {gamma}"));
    let direct = beta.reach(&gamma, "direct-kernel", story)?;

    let picture = workspace::target()?.join(PICTURE);
    story.command(&format!("ipopctl crawl --svg {}", picture.display()));
    let crawl = beta.wait("nodes that agree", |host| {
        let text = host.ctl(&["crawl", "--json"])?;
        let crawl: Value = serde_json::from_str(&text).context("cannot read the crawl")?;
        if crawl["consistent"] != true {
            bail!("{}", crawl["problems"])
        }
        Ok(crawl)
    })?;
    story.text(&beta.ctl(&["crawl", "--svg", &picture.display().to_string()])?);
    let consistent = crawl["nodes"].as_array().is_some_and(|nodes| nodes.len() == NAMES.len());
    let proved = consistent && carried.path == "overlay" && direct.path == "direct-kernel";
    Ok(Shown { carried, direct, consistent, picture, proved })
}

impl Hosts {
    fn create(binaries: &Binaries, prefix: &str) -> Result<Self> {
        let bridge = NetNs::create(prefix, "bridge")?;
        let folder = TempFolder::create(bridge.name())?;
        bridge.ip("link add bridge type bridge")?;
        bridge.ip("link set bridge up")?;
        let mut hosts = Vec::new();
        for (number, name) in (1..).zip(NAMES) {
            let namespace = NetNs::create(prefix, name)?;
            let port = format!("port{number}");
            namespace.ip(&format!("link add eth0 type veth peer name {port} netns {}", bridge.name()))?;
            bridge.ip(&format!("link set {port} master bridge up"))?;
            let folder = folder.0.join(name);
            let ipopctl = binaries.ipopctl.clone();
            let host = Host { number, namespace, folder, ipopctl, daemon: None };
            host.namespace.ip(&format!("address add {}/24 dev eth0", host.outer()))?;
            host.namespace.ip("link set eth0 up")?;
            hosts.push(host);
        }
        Ok(Self { hosts, bridge, _folder: folder })
    }

    /// The ports of all but the first reach that one alone, or each other too.
    fn isolate(&self, are_isolated: bool) -> Result<()> {
        let state = if are_isolated { "on" } else { "off" };
        for number in 2..=NAMES.len() {
            self.bridge.ip(&format!("link set port{number} type bridge_slave isolated {state}"))?;
        }
        Ok(())
    }

    /// As an operator does it: by the token of the first.
    fn set_up(&self) -> Result<()> {
        let [first, others @ ..] = &self.hosts[..] else { bail!("there are three hosts") };
        let made: Value = serde_json::from_str(&first.init(&[])?).context("cannot read what init prints")?;
        let token = made["token"].as_str().context("init prints no token")?;
        others.iter().try_for_each(|host| host.init(&["--join", token, "--bootstrap"]).map(drop))
    }

    fn start(&mut self, binaries: &Binaries) -> Result<()> {
        for host in &mut self.hosts {
            let mut command = Command::new(&binaries.ipopd);
            command.arg("--config").arg(host.config());
            host.namespace.enter(&mut command)?;
            host.daemon = Some(Running::start(command, &host.folder.join("ipopd.log"))?);
        }
        Ok(())
    }
}

impl Host {
    fn name(&self) -> &'static str {
        NAMES.get(self.number - 1).copied().unwrap_or_default()
    }

    fn outer(&self) -> String {
        format!("10.200.1.{}", self.number)
    }

    fn inner(&self) -> String {
        format!("10.128.1.{}", self.number)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("ipop.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Writes the configuration and puts what it keeps beside it: several nodes are on this machine.
    fn init(&self, more: &[&str]) -> Result<String> {
        let (endpoint, address) = (format!("{}:{PORT}", self.outer()), format!("{}/24", self.inner()));
        let mut command = Command::new(&self.ipopctl);
        command.args(["init", "--json", "--dir"]).arg(&self.folder).args(["--name", self.name()]);
        command.args(["--endpoint", &endpoint, "--address", &address]).args(more);
        let printed = sh::capture(&mut command)?;
        let file = self.config();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = with_line(&text, "control_socket", &self.socket());
        let text = with_line(&text, "state_dir", &self.folder.join("state"));
        // The machine's resolver is not these nodes' business.
        let text = with_line(&text, "resolver", Path::new("off"));
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(printed)
    }

    fn ctl(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.ipopctl);
        command.arg("--socket").arg(self.socket()).args(words);
        sh::capture_within(&mut command, ANSWER_TIMEOUT)
    }

    /// Repeats `attempt` until it succeeds or time is over.
    fn wait<T>(&mut self, what: &str, attempt: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(daemon) = &mut self.daemon {
                daemon.check()?;
            }
            match attempt(self) {
                Ok(reached) => return Ok(reached),
                Err(error) if Instant::now() > deadline => {
                    let log = self.daemon.as_ref().map(Running::log_tail).unwrap_or_default();
                    bail!("{} waited {} s for {what}: {error:#}{log}", self.name(), PATIENCE.as_secs());
                }
                Err(_) => stop::pause(POLL_INTERVAL)?,
            }
        }
    }

    fn joined(&self) -> Result<String> {
        let status: Value = serde_json::from_str(&self.ctl(&["status", "--json"])?)?;
        let overlay = &status["overlay"];
        let reason = overlay["reason"].as_str().unwrap_or_default();
        if overlay["state"] != "joined" {
            bail!("{reason}");
        }
        Ok(reason.to_owned())
    }

    /// Pings until packets go by a path; the round trip on it.
    fn reach(&mut self, target: &str, path: &str, story: &Story) -> Result<Reached> {
        let ping_us = self.wait(&format!("{target} by path {path}"), |host| {
            let ping_us = host.ping(target)?;
            let seen = host.path_to(target)?;
            if seen != path {
                bail!("path is {seen}");
            }
            // Again: while it was answered the path may have been another.
            host.ping(target).map(|again| ping_us.min(again))
        })?;
        story.line(&format!("   {target} answers in {ping_us:.0} us, path {path}"));
        Ok(Reached { path: self.path_to(target)?, ping_us })
    }

    fn ping(&self, target: &str) -> Result<f64> {
        let mut command = Command::new(sh::find("ping").context("ping is missing")?);
        command.args(["-n", "-q", "-c", "4", "-i", "0.1", "-W", "1", target]);
        self.namespace.enter(&mut command)?;
        let text = sh::capture_within(&mut command, ANSWER_TIMEOUT)?;
        super::transfer::parse_ping(&text).with_context(|| format!("{target} did not answer every ping"))
    }

    fn path_to(&self, target: &str) -> Result<String> {
        let peers: Value = serde_json::from_str(&self.ctl(&["peers", "--json"])?)?;
        let has_it = |peer: &&Value| {
            peer["virtual_ips"].as_array().into_iter().flatten().any(|address| address == target)
        };
        let peer = peers.as_array().into_iter().flatten().find(has_it);
        let peer = peer.with_context(|| format!("no peer has {target}"))?;
        Ok(peer["path"].as_str().unwrap_or_default().to_owned())
    }
}

/// A configuration in which a key that has its default value has another.
fn with_line(text: &str, key: &str, path: &Path) -> String {
    let begins = format!("#{key} = ");
    let line = |line: &str| {
        let line = if line.starts_with(&begins) {
            format!("{key} = {:?}", path.display().to_string())
        } else {
            line.to_owned()
        };
        line + "\n"
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_replaced_and_nothing_else() {
        let text = "[node]\nname = \"a\"\n#state_dir = \"/var/lib/ipop\"\n#metrics = \"x\"\n";
        let expected = "[node]\nname = \"a\"\nstate_dir = \"/tmp/x\"\n#metrics = \"x\"\n";
        assert_eq!(with_line(text, "state_dir", Path::new("/tmp/x")), expected);
    }
}
