//! The bench that every test here is built on: two hosts in network namespaces of their own, one
//! wire between them, daemons on top. Owns the life of all of that: what a test makes is gone when
//! it ends, and a test that fails shows what its hosts looked like. What is tested is not its business.

pub(crate) mod beat;
pub(crate) mod boxes;
pub(crate) mod crowd;
pub(crate) mod daemon;
pub(crate) mod group;
pub(crate) mod host;
pub(crate) mod internet;
pub(crate) mod machine;
pub(crate) mod namespace;
pub(crate) mod packet;
pub(crate) mod program;
pub(crate) mod relayed;
pub(crate) mod router;
pub(crate) mod ssh;
pub(crate) mod stun;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod wireguard;

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use beat::Beat;
pub(crate) use daemon::How;
pub(crate) use host::{Host, Outer};
use ipop_tests::privilege::unless_full;
use namespace::NetNs;
use tcp::Tcp;

/// How the namespaces of these tests begin; the process id follows.
pub(crate) const PREFIX: &str = "ipop-t";
/// Tests at a time: each keeps two daemons and two ends of a transfer busy.
const TURNS: usize = 2;
const POLL: Duration = Duration::from_millis(5);
/// For what should be there at once; a machine that builds something else at the same time is slow.
pub(crate) const SOON: Duration = Duration::from_secs(15);

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Runs a test when it is its turn, or says that it cannot run.
pub(crate) fn run<F: FnOnce()>(body: F) {
    run_unless(|| None, body);
}

/// Like [`run`], for a test that takes long and adds breadth to one that always runs.
pub(crate) fn run_if_full<F: FnOnce()>(body: F) {
    run_unless(unless_full, body);
}

/// Like [`run`], for a test that there may be a reason not to run.
pub(crate) fn run_unless<F: FnOnce()>(reason: impl FnOnce() -> Option<String>, body: F) {
    let name = test_name::<F>();
    if !nix::unistd::geteuid().is_root() {
        return skip(name, "needs root");
    }
    if let Some(reason) = reason() {
        return skip(name, &reason);
    }
    static SWEEP: Once = Once::new();
    SWEEP.call_once(|| namespace::sweep(PREFIX));
    let _turn = Turn::take();
    body();
}

/// A closure's type is named after the function that it is in.
fn test_name<F>() -> &'static str {
    let name = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    name.split_once("::").map_or(name, |(_, rest)| rest)
}

/// Says that a test does not run here, to a person and to the runner that counts.
fn skip(name: &str, reason: &str) {
    eprintln!("SKIPPED {name}: {reason}");
    let required = std::env::var_os("IPOP_REQUIRE_ROOT").is_some_and(|value| value == "1");
    assert!(!(required && reason == "needs root"), "{name} {reason}, and IPOP_REQUIRE_ROOT is set");
    if let Some(list) = std::env::var_os("IPOP_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
        let written = file.and_then(|mut file| writeln!(file, "netns::{name}: {reason}"));
        written.expect("the list of skipped tests can be written");
    }
}

/// The right to run; given back when dropped.
struct Turn;

impl Turn {
    fn take() -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= TURNS {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// Waits until `probe` gives something; panics with `what` when `patience` is over.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, patience: Duration, probe: impl FnMut() -> Option<T>) -> T {
    within(patience, probe).unwrap_or_else(|| panic!("not within {patience:?}: {what}"))
}

/// Like [`wait_for`], for when it is no failure that nothing comes.
pub(crate) fn within<T>(patience: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// What the wire between the hosts is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// veth as it comes: super-packets travel whole.
    Offload,
    /// Like a NIC: what is sent is segmented, what is received is merged by GRO.
    Nic,
}

/// Two hosts on one wire.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) near: Host,
    pub(crate) far: Host,
    _folder: tempfile::TempDir,
}

impl Lab {
    /// Both hosts with addresses, keys and configurations that name each other; no daemon yet.
    pub(crate) fn new(wire: Wire, mtu: u32, outer: Outer) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (near_ns, far_ns) = (NetNs::create(PREFIX), NetNs::create(PREFIX));
        let mut near = Host::new(1, near_ns, folder.path());
        let mut far = Host::new(2, far_ns, folder.path());
        near.ns.ip(&format!(
            "link add {} mtu {mtu} type veth peer name {} netns {} mtu {mtu}",
            near.device,
            far.device,
            far.ns.name()
        ));
        near.connect();
        far.connect();
        if wire == Wire::Nic {
            for host in [&near, &far] {
                host.ns.succeed("ethtool", &["-K", host.device, "tso", "off", "gso", "on", "gro", "on"]);
            }
        }
        near.knows(&far, outer);
        far.knows(&near, outer);
        Self { near, far, _folder: folder }
    }

    /// The plain case: a wire that offloads, of Ethernet's MTU, with IPv4.
    pub(crate) fn plain() -> Self {
        Self::new(Wire::Offload, 1500, Outer::V4)
    }

    /// No link is clear.
    pub(crate) fn sealed(self) -> Self {
        self.datapath("security", "sealed")
    }

    /// Sets a line of `[datapath]` on both hosts.
    pub(crate) fn datapath(mut self, key: &'static str, value: &str) -> Self {
        for host in [&mut self.near, &mut self.far] {
            host.config.datapath.insert(key, value.to_owned());
        }
        self
    }

    /// Starts a daemon on both hosts and waits until both have `path` to each other.
    #[track_caller]
    pub(crate) fn up(mut self, path: &str) -> Self {
        self.start(&How::Plain);
        self.wait_for_path(path);
        for host in [&self.near, &self.far] {
            let security = if self.is_sealed() { "sealed" } else { "clear" };
            wait_for(&format!("{} has a {security} link", host.config.name), SOON, || {
                (host.peer()["security"] == security).then_some(())
            });
        }
        self
    }

    /// Starts a daemon on both hosts.
    #[track_caller]
    pub(crate) fn start(&mut self, how: &How) {
        self.near.start(how);
        self.far.start(how);
    }

    /// Whether links are to be sealed: one host is enough to want that.
    fn is_sealed(&self) -> bool {
        [&self.near, &self.far].iter().any(|host| host.config.datapath["security"] == "sealed")
    }

    #[track_caller]
    pub(crate) fn wait_for_path(&self, path: &str) {
        for host in [&self.near, &self.far] {
            host.wait_for_path(path);
        }
    }

    /// Ping, TCP in bulk and in small pieces, UDP; of both families, and all of it arrives.
    #[track_caller]
    pub(crate) fn carry(&self, bulk: u64) {
        for v6 in [false, true] {
            let target = self.far.inner(v6);
            self.near.ping(target, &[]);
            self.near.ping(target, &["-s", "1200"]);
            Tcp::transfer(&self.near, &self.far, target, bulk);
            Tcp::transfer(&self.far, &self.near, self.near.inner(v6), bulk / 8);
            let beat = Beat::start(&self.near, &self.far, target);
            for _ in 0..20 {
                beat.wait_for_next(SOON);
            }
            let heard = beat.finish();
            assert!(heard.is_whole(), "{heard:?}");
        }
    }

    /// Packets that both hosts have counted on the kernel path and on the user path.
    pub(crate) fn packets(&self) -> Packets {
        self.near.packets() + self.far.packets()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            for host in [&self.near, &self.far] {
                host.describe(&mut text);
            }
            let _ = writeln!(text, "-- end of the hosts' state");
            eprint!("{text}");
        }
    }
}

/// Packets of a host's peers, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packets {
    pub(crate) kernel: u64,
    pub(crate) user: u64,
}

impl std::ops::Add for Packets {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { kernel: self.kernel + other.kernel, user: self.user + other.user }
    }
}

impl std::ops::Sub for Packets {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { kernel: self.kernel - other.kernel, user: self.user - other.user }
    }
}
