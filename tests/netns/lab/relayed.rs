//! Two hosts that reach each other by a relay, or may come to that. What is asked of their link is not its business.

use std::time::Duration;

use super::beat::Beat;
use super::boxes::Kind;
use super::internet::{Families, Internet};
use super::tcp::{Tcp, kernel_counter};
use super::{Host, Packets, SOON, wait_for};

/// Two hosts that reach each other by the first host alone.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) net: Internet,
    pub(crate) ends: [usize; 2],
}

impl Relayed {
    pub(crate) fn by_ipv4(seal: &str) -> Self {
        Self::behind_boxes().up(seal)
    }

    pub(crate) fn by_ipv6(seal: &str) -> Self {
        Self::parted().up(seal)
    }

    /// Behind boxes that nobody gets through; their daemons do not run yet.
    pub(crate) fn behind_boxes() -> Self {
        Self::of(|net| net.behind(Kind::SymmetricRandom))
    }

    /// On an internet of IPv6 on which they do not find each other; the same.
    pub(crate) fn parted() -> Self {
        let new = Self::together();
        new.part("add");
        new
    }

    /// On an internet of IPv6; the same.
    pub(crate) fn together() -> Self {
        Self::of(|net| net.public(Families::V6))
    }

    fn of(mut end: impl FnMut(&mut Internet) -> usize) -> Self {
        let mut net = Internet::new();
        let ends = [end(&mut net), end(&mut net)];
        Self { net, ends }
    }

    pub(crate) fn up(mut self, seal: &str) -> Self {
        for end in self.ends {
            self.net.hosts[end].config.datapath.insert("seal", seal.to_owned());
        }
        self.net = self.net.up();
        self
    }

    /// Adds, or deletes, what keeps two hosts on the internet apart.
    pub(crate) fn part(&self, what: &str) {
        let [a, b] = self.hosts();
        for (host, other) in [(a, b), (b, a)] {
            host.ns.ip(&format!("-6 route {what} blackhole {}/128", other.outer_v6));
        }
    }

    pub(crate) fn hosts(&self) -> [&Host; 2] {
        self.ends.map(|end| &self.net.hosts[end])
    }

    pub(crate) fn relay(&self) -> &Host {
        &self.net.hosts[0]
    }

    #[track_caller]
    pub(crate) fn wait_for_path(&self, path: &str, patience: Duration) {
        let [a, b] = self.ends;
        self.net.wait_for_path(a, b, path, patience);
        self.net.wait_for_path(b, a, path, patience);
    }

    /// Waits until both ends reach each other by a relay, and seal what they send where it is said.
    #[track_caller]
    pub(crate) fn wait_for_seal(&self, place: &str, patience: Duration) {
        self.wait_for_path("relay", patience);
        let [a, b] = self.hosts();
        for (host, other) in [(a, b), (b, a)] {
            let what = format!("{} seals in the {place}", host.config.name);
            wait_for(&what, patience, || {
                let peer = peer_of(host, other);
                let reason = peer["path_reason"].as_str().unwrap_or_default();
                (peer["path"] == "relay" && reason.contains(&format!("sealed in the {place}"))).then_some(())
            });
        }
    }

    /// What each end has counted of the link to the other.
    #[track_caller]
    pub(crate) fn packets(&self) -> [Packets; 2] {
        let [a, b] = self.hosts();
        [(a, b), (b, a)].map(|(host, other)| {
            let peer = peer_of(host, other);
            let sum = |names: [&str; 2]| names.iter().map(|name| peer[*name].as_u64().unwrap_or(0)).sum();
            Packets {
                kernel: sum(["kernel_tx_packets", "kernel_rx_packets"]),
                user: sum(["user_tx_packets", "user_rx_packets"]),
            }
        })
    }

    /// Ping and TCP of both families in both directions; what each end has counted of it.
    #[track_caller]
    pub(crate) fn traffic(&self, bulk: u64) -> [Packets; 2] {
        let [a, b] = self.hosts();
        // The first packets may find no neighbour entry yet, and go by the daemon.
        a.ping(b.inner(false), &[]);
        a.ping(b.inner(true), &[]);
        let before = self.packets();
        for v6 in [false, true] {
            a.ping(b.inner(v6), &[]);
            b.ping(a.inner(v6), &["-s", "1200"]);
            Tcp::transfer(a, b, b.inner(v6), bulk);
            Tcp::transfer(b, a, a.inner(v6), bulk / 4);
            let beat = Beat::start(a, b, b.inner(v6));
            for _ in 0..100 {
                beat.wait_for_next(SOON);
            }
            let heard = beat.finish();
            assert!(heard.is_whole(), "{heard:?}");
        }
        let after = self.packets();
        [after[0] - before[0], after[1] - before[1]]
    }

    #[track_caller]
    pub(crate) fn nothing_is_lost(&self) {
        let lost: Vec<_> = self.net.hosts.iter().flat_map(Host::lost).collect();
        assert_eq!(lost, []);
        for host in self.net.hosts.iter().filter(|host| host.daemon.is_some()) {
            for group in ["FragCreates", "ReasmReqds"] {
                assert_eq!(kernel_counter(host, "Ip", group), 0, "{group} of {}", host.config.name);
            }
        }
    }
}

/// A peer of a host, as its daemon sees it.
#[track_caller]
pub(crate) fn peer_of(host: &Host, other: &Host) -> serde_json::Value {
    let peers = host.ask("/v1/peers");
    let key = other.key.as_str();
    let mut peers = peers.as_array().into_iter().flatten();
    peers.find(|peer| peer["public_key"] == key).expect("a peer").clone()
}
