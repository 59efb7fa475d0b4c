//! Many hosts on one bridge, of which the first is the others' way into the overlay.

use std::time::Duration;

use super::PREFIX;
use super::daemon::How;
use super::host::Host;
use super::namespace::NetNs;
use super::packet::USER_PORT;
use super::{wait_for, within};

/// Hosts without peers of their own.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) hosts: Vec<Host>,
    bridge: NetNs,
    _folder: tempfile::TempDir,
}

impl Crowd {
    /// So many hosts, each with its configuration; no daemon yet.
    pub(crate) fn new(count: u8) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        allow_neighbours(4 * usize::from(count) * usize::from(count));
        let bridge = NetNs::create(PREFIX);
        bridge.ip("link add bridge type bridge");
        bridge.ip("link set bridge up");
        let hosts = (1..=count).map(|number| {
            let mut host = Host::new(number, NetNs::create(PREFIX), folder.path());
            let (device, bridge_name) = (host.device, bridge.name());
            host.ns.ip(&format!("link add {device} type veth peer name port{number} netns {bridge_name}"));
            bridge.ip(&format!("link set port{number} master bridge up"));
            host.connect();
            let first = format!("udp://10.200.0.1:{USER_PORT}");
            host.config.bootstrap = Some(if number == 1 { Vec::new() } else { vec![first] });
            host.config.datapath.insert("security", "sealed".to_owned());
            host
        });
        Self { hosts: hosts.collect(), bridge, _folder: folder }
    }

    /// Keeps these hosts from reaching each other; all others they reach.
    pub(crate) fn isolate(&self, hosts: &[usize]) {
        for host in hosts {
            self.bridge.ip(&format!("link set port{} type bridge_slave isolated on", host + 1));
        }
    }

    /// Starts all daemons.
    #[track_caller]
    pub(crate) fn up(mut self) -> Self {
        self.hosts.iter_mut().for_each(|host| host.start(&How::Plain));
        self
    }

    /// Waits until each of these hosts has an answer from each other one.
    #[track_caller]
    pub(crate) fn wait_for_all_pairs(&self, hosts: &[usize], patience: Duration) {
        wait_for_all_pairs(&self.hosts, hosts, patience);
    }

    /// Whether one echo request of a host is answered by another.
    pub(crate) fn answers(&self, from: usize, to: usize) -> bool {
        answers(&self.hosts, from, to)
    }

    /// The path of one host to another while there is traffic.
    #[track_caller]
    pub(crate) fn wait_for_path(&self, from: usize, to: usize, path: &str, patience: Duration) {
        wait_for_path(&self.hosts, from, to, path, patience);
    }
}

/// Waits until each of these hosts has an answer from each other one.
#[track_caller]
pub(super) fn wait_for_all_pairs(all: &[Host], hosts: &[usize], patience: Duration) {
    for from in hosts {
        for to in hosts.iter().filter(|to| *to != from) {
            let what = format!("host {} hears host {}", from + 1, to + 1);
            wait_for(&what, patience, || answers(all, *from, *to).then_some(()));
        }
    }
}

/// Whether one echo request of a host is answered by another.
pub(super) fn answers(all: &[Host], from: usize, to: usize) -> bool {
    let to = all[to].inner_v4.to_string();
    all[from].ns.output("ping", &["-n", "-c", "1", "-W", "1", &to]).status.success()
}

/// The path of one host to another while there is traffic.
#[track_caller]
pub(super) fn wait_for_path(all: &[Host], from: usize, to: usize, path: &str, patience: Duration) {
    let address = all[to].inner_v4.to_string();
    let mut seen = String::new();
    let found = within(patience, || {
        answers(all, from, to);
        let peers = all[from].ask("/v1/peers");
        let mut peers = peers.as_array().into_iter().flatten();
        let peer = peers.find(|peer| peer["virtual_ips"].to_string().contains(&format!("\"{address}\"")));
        seen = peer.map_or("no peer".to_owned(), |peer| peer["path"].to_string());
        seen.contains(path).then_some(())
    });
    found.unwrap_or_else(|| panic!("host {} to host {}: {seen}, not {path}", from + 1, to + 1));
}

/// Lets the kernel know the MAC addresses of so many neighbours. All namespaces share one limit, 1024 by
/// default: past it the first packet to each is lost ("neighbor table overflow").
fn allow_neighbours(count: usize) {
    for limit in ["gc_thresh1", "gc_thresh2", "gc_thresh3"] {
        let file = format!("/proc/sys/net/ipv4/neigh/default/{limit}");
        let now: usize =
            std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).expect("a limit");
        if now < count {
            std::fs::write(&file, count.to_string()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            self.hosts.iter().for_each(|host| host.describe(&mut text));
            eprint!("{text}");
        }
    }
}
