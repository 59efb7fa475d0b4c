//! Two ipopd on one wire: their keys, configuration, start, and what ipopctl says of them. Works
//! against the operators' interface alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::build::Binaries;
use crate::config::{Carried, Datapath, Node, Side};
use crate::netns::{self, NetNs, Pair};
use crate::process::{self, Running};
use crate::sh;

/// The secret of every network here.
pub(crate) const SECRET: &str = "the secret of a network that lives for one run";
/// How long ipopctl may take: its daemon is on this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What `ipopctl peers --json` says of one peer, as far as it is needed here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Peer {
    pub(crate) path: String,
    pub(crate) path_reason: String,
    pub(crate) security: String,
    pub(crate) kernel_tx_packets: u64,
    pub(crate) kernel_rx_packets: u64,
    pub(crate) user_tx_packets: u64,
    pub(crate) user_rx_packets: u64,
}

impl Peer {
    /// What was counted since `earlier`.
    fn since(&self, earlier: &Self) -> Traffic {
        Traffic {
            kernel_tx: self.kernel_tx_packets.saturating_sub(earlier.kernel_tx_packets),
            kernel_rx: self.kernel_rx_packets.saturating_sub(earlier.kernel_rx_packets),
            user_tx: self.user_tx_packets.saturating_sub(earlier.user_tx_packets),
            user_rx: self.user_rx_packets.saturating_sub(earlier.user_rx_packets),
        }
    }
}

/// Packets by path, as counted by one or both nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) kernel_tx: u64,
    pub(crate) kernel_rx: u64,
    pub(crate) user_tx: u64,
    pub(crate) user_rx: u64,
}

impl Traffic {
    pub(crate) fn total(&self) -> u64 {
        self.kernel_tx + self.kernel_rx + self.user_tx + self.user_rx
    }

    /// The part of all packets, sent and received, that the kernel path carried; `None` when
    /// there was no packet.
    pub(crate) fn kernel_share(&self) -> Option<f64> {
        (self.total() > 0).then(|| (self.kernel_tx + self.kernel_rx) as f64 / self.total() as f64)
    }
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            kernel_tx: self.kernel_tx + other.kernel_tx,
            kernel_rx: self.kernel_rx + other.kernel_rx,
            user_tx: self.user_tx + other.user_tx,
            user_rx: self.user_rx + other.user_rx,
        }
    }
}

/// What a daemon's data path runs on, in the words of `ipopctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Active {
    /// `on` or `off`.
    pub(crate) kernel: String,
    /// `native`, `generic` or `off`.
    pub(crate) xdp: String,
    /// `io_uring` or `epoll`.
    pub(crate) io: String,
}

impl Active {
    /// What differs from `wanted`, where that is not `auto`.
    pub(crate) fn difference(&self, wanted: &Datapath) -> Option<String> {
        let pairs = [
            ("kernel", &self.kernel, wanted.kernel),
            ("xdp", &self.xdp, wanted.xdp),
            ("io", &self.io, wanted.io),
        ];
        pairs
            .into_iter()
            .find(|(_, active, wanted)| *wanted != "auto" && active != wanted)
            .map(|(name, active, wanted)| format!("{name} is {active}, not {wanted}"))
    }
}

/// One running ipopd.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Running,
    pub(crate) control: Control,
}

/// The way to ask a daemon, by ipopctl.
#[derive(Debug)]
pub(crate) struct Control {
    ipopctl: PathBuf,
    socket: PathBuf,
    peer: Side,
}

impl Daemon {
    pub(crate) fn start(binaries: &Binaries, namespace: &NetNs, node: &Node<'_>) -> Result<Self> {
        let config = node.folder.join("ipopd.toml");
        write_private(&config, &node.to_toml())?;
        let mut command = Command::new(&binaries.ipopd);
        command.arg("--config").arg(&config);
        namespace.enter(&mut command)?;
        let process = Running::start(command, &node.folder.join("ipopd.log"))?;
        let control = Control {
            ipopctl: binaries.ipopctl.clone(),
            socket: node.control_socket(),
            peer: node.side.other(),
        };
        Ok(Self { process, control })
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        parse_resident(&text).with_context(|| format!("no VmRSS in {path}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the peer is reached by `path` and the link is `security`; an error that quotes the
    /// daemon's log when it ends or does not get there.
    pub(crate) fn wait_for_path(&mut self, path: &str, security: &str) -> Result<()> {
        let peer = self.control.peer.node_name();
        self.wait_until(&format!("{peer} by {path}, {security}"), |control| {
            let seen = control.peer()?;
            if (seen.path.as_str(), seen.security.as_str()) != (path, security) {
                bail!("path is {}, {}", seen.path, seen.security);
            }
            Ok(())
        })
    }

    /// Waits until the daemon answers; returns what its data path runs on.
    pub(crate) fn wait_until_up(&mut self) -> Result<Active> {
        self.wait_until("an answer", Control::active)
    }

    pub(crate) fn wait_until<T>(&mut self, what: &str, attempt: impl Fn(&Control) -> Result<T>) -> Result<T> {
        let control = &self.control;
        process::wait_until(slice::from_mut(&mut self.process), what, || attempt(control))
    }
}

impl Control {
    /// Runs `ipopctl WORDS` against this daemon and returns what it prints.
    pub(crate) fn ctl(&self, words: &str) -> Result<String> {
        let mut command = Command::new(&self.ipopctl);
        command.arg("--socket").arg(&self.socket).args(words.split_whitespace());
        sh::capture_within(&mut command, ANSWER_TIMEOUT)
    }

    /// What this daemon says of the other one.
    pub(crate) fn peer(&self) -> Result<Peer> {
        let text = self.ctl("--json peers")?;
        find_peer(&text, self.peer.node_name())
    }

    pub(crate) fn active(&self) -> Result<Active> {
        parse_active(&self.ctl("--json status")?)
    }
}

/// A file that only its owner can read: keys, and configurations that hold a network's secret.
pub(crate) fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn find_peer(json: &str, name: &str) -> Result<Peer> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
        #[serde(flatten)]
        peer: Peer,
    }
    let peers: Vec<Named> = serde_json::from_str(json).context("cannot read `ipopctl --json peers`")?;
    let found = peers.into_iter().find(|peer| peer.name == name);
    Ok(found.with_context(|| format!("`ipopctl --json peers` does not know {name}"))?.peer)
}

fn parse_active(json: &str) -> Result<Active> {
    #[derive(Deserialize)]
    struct Status {
        datapath: Active,
    }
    let status: Status = serde_json::from_str(json).context("cannot read `ipopctl --json status`")?;
    Ok(status.datapath)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Two daemons that know one another. Dropping them stops both and removes their files.
#[derive(Debug)]
pub(crate) struct Daemons {
    pub(crate) near: Daemon,
    pub(crate) far: Daemon,
    /// The far one's public key.
    pub(crate) far_key: String,
    _folder: TempFolder,
}

impl Daemons {
    /// Writes keys and configurations for both ends of `pair` and starts a daemon in each.
    pub(crate) fn start(binaries: &Binaries, pair: &Pair, network: &str, datapath: Datapath) -> Result<Self> {
        Self::start_with(binaries, pair, network, datapath, &[])
    }

    /// As `start`; the far one has peers with these public keys besides.
    pub(crate) fn start_with(
        binaries: &Binaries,
        pair: &Pair,
        network: &str,
        datapath: Datapath,
        callers: &[String],
    ) -> Result<Self> {
        let folder = TempFolder::create(pair.near.name())?;
        let near_key = generate_key(binaries, &folder.0.join("near"))?;
        let far_key = generate_key(binaries, &folder.0.join("far"))?;
        let near = Node {
            side: Side::Near,
            folder: folder.0.join("near"),
            network,
            secret: SECRET,
            carried: Carried::Packets,
            wire_device: Some(Pair::NEAR_DEVICE),
            wire_prefix: Pair::PREFIX,
            peer_address: Some(Pair::FAR_ADDRESS),
            peer_key: Some(&far_key),
            bootstrap: None,
            datapath,
            turn: None,
            routing: None,
            callers: &[],
        };
        let far = Node {
            side: Side::Far,
            folder: folder.0.join("far"),
            wire_device: Some(Pair::FAR_DEVICE),
            peer_address: Some(Pair::NEAR_ADDRESS),
            peer_key: Some(&near_key),
            callers,
            ..near.clone()
        };
        Ok(Self {
            near: Daemon::start(binaries, &pair.near, &near)?,
            far: Daemon::start(binaries, &pair.far, &far)?,
            far_key: far_key.clone(),
            _folder: folder,
        })
    }

    /// Waits until both reach each other by `path` (`direct-kernel` or `direct-user`), `sealed` or `clear`.
    pub(crate) fn wait_for_path(&mut self, path: &str, security: &str) -> Result<()> {
        self.near.wait_for_path(path, security)?;
        self.far.wait_for_path(path, security)
    }

    /// What both ends have counted so far.
    pub(crate) fn counters(&self) -> Result<[Peer; 2]> {
        Ok([self.near.control.peer()?, self.far.control.peer()?])
    }

    /// What both ends together have counted since `earlier`.
    pub(crate) fn traffic_since(&self, earlier: &[Peer; 2]) -> Result<Traffic> {
        Ok(traffic(earlier, &self.counters()?))
    }
}

/// What both ends together counted between two readings.
pub(crate) fn traffic(before: &[Peer; 2], after: &[Peer; 2]) -> Traffic {
    after[0].since(&before[0]) + after[1].since(&before[1])
}

/// Makes a node's folder with a key in it; the public one.
pub(crate) fn generate_key(binaries: &Binaries, folder: &Path) -> Result<String> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut command = Command::new(&binaries.ipopctl);
    command.args(["key", "gen"]).arg(folder.join("node.key"));
    let public = sh::capture(&mut command)?;
    Ok(public.trim().to_owned())
}

/// Removes what killed runs have left: namespaces named `PREFIX-PID-..`, the daemons in them and
/// their folders. Returns the names.
pub(crate) fn sweep(prefix: &str) -> Vec<String> {
    let left = netns::sweep(prefix);
    for name in &left {
        let _ = fs::remove_dir_all(std::env::temp_dir().join(name));
    }
    left
}

/// A folder below the system's temporary one, removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct TempFolder(pub(crate) PathBuf);

impl TempFolder {
    pub(crate) fn create(name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(name);
        // What an earlier run with the same process number left is not wanted.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_found_by_name_and_unknown_fields_do_not_matter() {
        let json = r#"[{"name":"gamma","path":"none","path_reason":"","security":"clear","kernel_tx_packets":0,
            "kernel_rx_packets":0,"user_tx_packets":0,"user_rx_packets":0},
            {"name":"beta","address":"ipop:x","path":"direct-kernel","path_reason":"","security":"clear",
            "rtt_us":null,"kernel_tx_packets":9,"kernel_rx_packets":8,"user_tx_packets":1,"user_rx_packets":0}]"#;
        let peer = find_peer(json, "beta").expect("beta is there");
        assert_eq!((peer.path.as_str(), peer.kernel_tx_packets), ("direct-kernel", 9));
        assert!(find_peer(json, "delta").is_err());
        assert!(find_peer("{}", "beta").is_err());
    }

    #[test]
    fn what_is_active_is_held_against_what_was_asked_for() {
        let json =
            r#"{"name":"alpha","datapath":{"kernel":"on","kernel_reason":null,"xdp":"off","io":"epoll"}}"#;
        let active = parse_active(json).expect("a status");
        assert_eq!(active.difference(&Datapath::CLEAR), None);
        assert_eq!(active.difference(&Datapath { kernel: "on", xdp: "off", ..Datapath::CLEAR }), None);
        let native = Datapath { xdp: "native", ..Datapath::CLEAR };
        assert_eq!(active.difference(&native).as_deref(), Some("xdp is off, not native"));
    }

    #[test]
    fn the_kernel_share_is_taken_over_both_directions() {
        let traffic = Traffic { kernel_tx: 90, kernel_rx: 9, user_tx: 1, user_rx: 0 };
        assert_eq!(traffic.kernel_share(), Some(0.99));
        assert_eq!(Traffic::default().kernel_share(), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(parse_resident("Name:\tipopd\nVmRSS:\t   12345 kB\n"), Some(12345 * 1024));
        assert_eq!(parse_resident("Name:\tx\n"), None);
    }
}
