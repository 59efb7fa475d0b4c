//! The fuzz targets: each one reads an input of the fuzzer, hands it to a parser of ours, and holds
//! the outcome against what must be true of every outcome. "It did not panic" is the least of it.
//!
//! A target knows nothing of who calls it: `main.rs` replays the corpus, `driver.rs` looks for new
//! input. How an input is read is said at each target; what is missing at its end reads as zero.

mod aead;
mod clear;
mod config;
mod cut;
mod dns;
pub(crate) mod egress;
pub(crate) mod frame;
pub(crate) mod group;
mod hello;
mod inner;
pub(crate) mod merge;
mod names;
pub(crate) mod node;
pub(crate) mod ring;
mod routes;
pub(crate) mod sealed;
mod sessions;
mod stun;
pub(crate) mod tables;
mod tape;
mod token;
pub(crate) mod wireguard;

/// A parser and what is demanded of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Names the corpus folder and the test.
    pub(crate) name: &'static str,
    /// Panics where a demand is not met.
    pub(crate) run: fn(&[u8]),
}

pub(crate) const ALL: &[Target] = &[
    Target { name: "aead", run: aead::run },
    Target { name: "clear", run: clear::run },
    Target { name: "config", run: config::run },
    Target { name: "cut", run: cut::run },
    Target { name: "dns", run: dns::run },
    Target { name: "egress", run: egress::run },
    Target { name: "frame", run: frame::run },
    Target { name: "group", run: group::run },
    Target { name: "hello", run: hello::run },
    Target { name: "inner", run: inner::run },
    Target { name: "merge", run: merge::run },
    Target { name: "names", run: names::run },
    Target { name: "node", run: node::run },
    Target { name: "ring", run: ring::run },
    Target { name: "routes", run: routes::run },
    Target { name: "sealed", run: sealed::run },
    Target { name: "sessions", run: sessions::run },
    Target { name: "stun", run: stun::run },
    Target { name: "token", run: token::run },
    Target { name: "wireguard", run: wireguard::run },
];

/// The target of that name.
pub(crate) fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}
