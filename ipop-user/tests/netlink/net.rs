//! A namespace for a test, and how a test waits.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use ipop_user::netlink::{Change, Monitor, Netlink, Payload};
use nix::sched::{CloneFlags, setns};
use tokio::time::timeout;

/// How long anything that must come may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// VXLAN-GPE (RFC draft-ietf-nvo3-vxlan-gpe), as the kernel path uses it.
pub(crate) const PORT: u16 = 4790;

/// A network namespace with its loopback up, removed when dropped.
pub(crate) struct Net {
    pub(crate) name: String,
}

impl Net {
    /// `None`, and a word about it, without root.
    pub(crate) fn new(what: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("IPOP_REQUIRE_ROOT").is_none_or(|value| value != "1"), "needs root");
            say("skipped: needs root");
            return None;
        }
        let name = format!("ipop-nl-{}-{what}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let net = Self { name };
        net.ip("link set lo up");
        Some(net)
    }

    /// Runs the test on a thread of its own inside the namespace, because sockets belong to the
    /// namespace of the thread that opens them.
    pub(crate) fn run(&self, test: impl AsyncFnOnce(Netlink) + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let inside = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { test(Netlink::connect().unwrap()).await });
        };
        let outcome = std::thread::scope(|scope| scope.spawn(inside).join());
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    pub(crate) fn ip(&self, words: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// Many commands of `ip` at once, one a line.
    pub(crate) fn batch(&self, lines: &str) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        run(Command::new("ip").args(["-n", &self.name, "-batch"]).arg(file.path()));
    }

    pub(crate) fn exec(&self, words: &str) -> String {
        let namespace = format!("--net=/run/netns/{}", self.name);
        run(Command::new("nsenter").arg(namespace).args(words.split_whitespace()))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[expect(clippy::print_stderr, reason = "what a test has to say to the one who runs it")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

pub(crate) fn prefix(text: &str) -> (IpAddr, u8) {
    let (address, len) = text.split_once('/').unwrap();
    (address.parse().unwrap(), len.parse().unwrap())
}

pub(crate) fn prefixes(texts: &[&str]) -> Vec<(IpAddr, u8)> {
    texts.iter().copied().map(prefix).collect()
}

/// `ipop0`, up, with addresses.
pub(crate) async fn virtual_device(netlink: &Netlink) -> u32 {
    let ifindex = netlink.create_vxlan("ipop0", Payload::Packets, PORT, 1464).await.unwrap();
    netlink.set_addrgenmode_none(ifindex).await.unwrap();
    netlink.set_up(ifindex).await.unwrap();
    netlink.sync_addresses(ifindex, &prefixes(&["10.128.0.1/24", "fd00:128::1/64"])).await.unwrap();
    ifindex
}

/// Waits for a condition that nobody announces.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

/// The first change that `wanted` takes.
pub(crate) async fn until<T>(
    monitor: &mut Monitor,
    what: &str,
    mut wanted: impl FnMut(&Change) -> Option<T>,
) -> T {
    let mut seen = Vec::new();
    let found = async {
        loop {
            let change = monitor.next().await.unwrap();
            match wanted(&change) {
                Some(found) => return found,
                None => seen.push(change),
            }
        }
    };
    let found = timeout(DEADLINE, found).await;
    found.unwrap_or_else(|_| panic!("not announced: {what}; but: {seen:#?}"))
}

/// All that has been announced so far: up to a change that is made here, of the loopback's MTU.
pub(crate) async fn changes_until_now(netlink: &Netlink, monitor: &mut Monitor) -> Vec<Change> {
    let lo = netlink.link("lo").await.unwrap();
    let mtu = lo.mtu - 1;
    netlink.set_mtu(lo.ifindex, mtu).await.unwrap();
    let mut changes = Vec::new();
    let is_mark =
        |change: &Change| matches!(change, Change::Link(link) if link.name == "lo" && link.mtu == mtu);
    until(monitor, "the mark", |change| {
        changes.push(change.clone());
        is_mark(change).then_some(())
    })
    .await;
    changes.pop();
    changes
}
