//! Network namespaces of our own: made, entered, and removed whatever happens. Owns their names
//! (`PREFIX-PID-WHAT`), so that what a killed run has left behind is known as ours; knows
//! nothing of what they are used for.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{process, sh};

/// Where iproute2 keeps named namespaces.
const FOLDER: &str = "/run/netns";
/// How long a process of an earlier run may take to end after SIGTERM.
const LEFTOVER_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A named network namespace, removed when dropped.
#[derive(Debug)]
pub(crate) struct NetNs {
    name: String,
}

impl NetNs {
    /// A new namespace with its loopback up, named `PREFIX-PID-WHAT`.
    pub(crate) fn create(prefix: &str, what: &str) -> Result<Self> {
        let name = format!("{prefix}-{}-{what}", std::process::id());
        sh::capture(Command::new(program("ip")).args(["netns", "add", &name]))
            .context("cannot create a network namespace")?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip -n NAME WORDS`.
    pub(crate) fn ip(&self, words: &str) -> Result<String> {
        let mut command = Command::new(program("ip"));
        sh::capture(command.args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// `command` as it is, but started inside this namespace. Not through `ip netns exec`: that
    /// mounts another /sys, and with it another place for pinned eBPF objects.
    pub(crate) fn enter(&self, command: &mut Command) -> Result<()> {
        let namespace = self.open()?;
        // SAFETY: the closure runs between fork and exec and makes one system call on a
        // descriptor that it owns.
        unsafe {
            command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        Ok(())
    }

    /// Runs `work` on a thread inside this namespace. Sockets opened there stay in it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = self.open()?;
        let inside = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .context("cannot enter a network namespace (needs root)")?;
            work()
        };
        let outcome = std::thread::scope(|scope| scope.spawn(inside).join());
        outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread in {} panicked", self.name)))
    }

    fn open(&self) -> Result<File> {
        let path = PathBuf::from(FOLDER).join(&self.name);
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Two namespaces joined by a veth wire: `near` has the device `p1`, `far` the device `p2`.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) near: NetNs,
    pub(crate) far: NetNs,
}

impl Pair {
    pub(crate) const NEAR_DEVICE: &str = "p1";
    pub(crate) const FAR_DEVICE: &str = "p2";
    pub(crate) const NEAR_ADDRESS: &str = "10.200.0.1";
    pub(crate) const FAR_ADDRESS: &str = "10.200.0.2";
    pub(crate) const PREFIX: &str = "10.200.0.0/24";

    /// Both namespaces and the wire, up and with addresses.
    pub(crate) fn create(prefix: &str, what: &str) -> Result<Self> {
        let near = NetNs::create(prefix, &format!("{what}a"))?;
        let far = NetNs::create(prefix, &format!("{what}b"))?;
        near.ip(&format!(
            "link add {} type veth peer name {} netns {}",
            Self::NEAR_DEVICE,
            Self::FAR_DEVICE,
            far.name()
        ))?;
        for (namespace, device, address) in
            [(&near, Self::NEAR_DEVICE, Self::NEAR_ADDRESS), (&far, Self::FAR_DEVICE, Self::FAR_ADDRESS)]
        {
            namespace.ip(&format!("address add {address}/24 dev {device}"))?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        Ok(Self { near, far })
    }
}

/// Removes namespaces named `PREFIX-PID-..` whose process is gone, and ends what still runs in
/// them. Returns their names.
pub(crate) fn sweep(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left: Vec<String> =
        names.filter(|name| owner(prefix, name).is_some_and(|pid| !is_alive(pid))).collect();
    for name in &left {
        end_processes_in(name);
        remove(name);
    }
    left
}

/// The process that made the namespace `name`, if it is one of `prefix`.
fn owner(prefix: &str, name: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

fn end_processes_in(name: &str) {
    let listed = sh::capture(Command::new(program("ip")).args(["netns", "pids", name])).unwrap_or_default();
    let pids: Vec<i32> = listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for pid in &pids {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        for pid in &pids {
            process::wait_gone(*pid, LEFTOVER_STOP_TIMEOUT);
        }
    }
}

/// By system calls, not by `ip`: a second Ctrl-C would end a child of ours, but not this.
fn remove(name: &str) {
    let path = PathBuf::from(FOLDER).join(name);
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}

fn program(name: &str) -> PathBuf {
    sh::find(name).unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_the_name() {
        assert_eq!(owner("ipop-demo", "ipop-demo-4711-a"), Some(4711));
        assert_eq!(owner("ipop-demo", "ipop-demo-x-a"), None);
        assert_eq!(owner("ipop-demo", "ipop-bench-4711-a"), None);
        assert_eq!(owner("ipop-demo", "ipop-demolition-4711"), None);
    }
}
