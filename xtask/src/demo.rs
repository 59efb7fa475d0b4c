//! `cargo xtask demo`: two hosts on one wire, in namespaces, that talk over IPOP: sealed, clear by the
//! kernel path and clear by the user path, with ipopd's own counters as proof of which carried what. Then
//! three hosts that find each other by one address.

mod overlay;
mod story;
mod transfer;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::build::{Binaries, Profile};
use crate::config::{Datapath, Side};
use crate::daemon::{Daemons, Traffic};
use crate::netns::Pair;
use crate::{build, daemon, privilege, stop, ui};
use story::Story;
use transfer::{Measured, Transfer};

/// How namespaces and folders of a demo begin.
const PREFIX: &str = "ipop-demo";
/// The share of a leg's packets that must have taken the path that is being shown. Not all: a
/// daemon's own probes go by the user path.
const PROOF_SHARE_MIN: f64 = 0.99;
/// Of a leg on both paths, so many packets at least have taken each.
const SHARED_MIN: u64 = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Length of each TCP transfer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Print the result as JSON and nothing else
    #[arg(long)]
    json: bool,
}

/// What one leg of the demo has shown.
#[derive(Debug, Serialize)]
struct Leg {
    path: &'static str,
    #[serde(flatten)]
    measured: Measured,
    kernel_packets: Option<u64>,
    user_packets: Option<u64>,
    /// Whether the counters say that the packets took this path; `null` for the bare wire.
    proved: Option<bool>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let binaries = build::build(Profile::Release)?;
    if !privilege::is_root() {
        return privilege::again_as_root();
    }
    stop::watch()?;
    let story = Story::new(args.json);
    for left in daemon::sweep(PREFIX) {
        ui::note(&format!("removed {left}, left behind by an earlier demo"));
    }
    // Everything that `show` sets up is removed when it returns, by an error or a signal too.
    let legs = show(&binaries, args.seconds, &story)?;
    let overlay = overlay::show(&binaries, PREFIX, &story)?;
    story.step("Tear-down");
    story.torn_down();
    let proved = legs.iter().all(|leg| leg.proved != Some(false)) && overlay.proved;
    if args.json {
        ui::say(&serde_json::json!({ "proved": proved, "legs": legs, "overlay": overlay }).to_string());
    } else {
        story.table(&legs, proved);
    }
    Ok(if proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(binaries: &Binaries, seconds: u64, story: &Story) -> Result<Vec<Leg>> {
    story.step("Two hosts, one wire");
    let pair = Pair::create(PREFIX, "host")?;
    story.host(Side::Near, pair.near.name(), Pair::NEAR_ADDRESS);
    story.host(Side::Far, pair.far.name(), Pair::FAR_ADDRESS);
    let transfer = Transfer::prepare(PREFIX, &pair, seconds)?;

    story.step("The bare wire, to compare with");
    let bare = Leg {
        path: "bare wire",
        measured: measure(&transfer, Pair::FAR_ADDRESS, story)?,
        kernel_packets: None,
        user_packets: None,
        proved: None,
    };

    story.step("An ipopd on each host");
    let mut daemons = start(binaries, &pair, &SEALED, story)?;
    let sealed = leg(&SEALED, &daemons, &transfer, story)?;
    drop(daemons);

    story.step("The same where both hosts trust the wire");
    daemons = start(binaries, &pair, &CLEAR, story)?;
    let clear = leg(&CLEAR, &daemons, &transfer, story)?;
    switch_kernel_path(&mut daemons, "off", &USER, story)?;
    let user = leg(&USER, &daemons, &transfer, story)?;
    Ok(vec![bare, sealed, clear, user])
}

/// One way through IPOP, in our words and in ipopd's.
struct Way {
    name: &'static str,
    title: &'static str,
    datapath: Datapath,
    peer_path: &'static str,
    proof: fn(&Traffic) -> bool,
}

const SEALED: Way = Way {
    name: "sealed",
    title: "Sealed: single packets in the kernel, super-packets of TCP in the daemon",
    datapath: Datapath::SEALED,
    peer_path: "direct-kernel",
    proof: by_both,
};
const CLEAR: Way = Way {
    name: "clear, kernel path",
    title: "The kernel path: no packet needs the daemon",
    datapath: Datapath::CLEAR,
    peer_path: "direct-kernel",
    proof: by_kernel,
};
const USER: Way = Way {
    name: "clear, user path",
    title: "The user path: every packet goes through the daemon",
    datapath: Datapath::CLEAR,
    peer_path: "direct-user",
    proof: by_user,
};

fn start(binaries: &Binaries, pair: &Pair, way: &Way, story: &Story) -> Result<Daemons> {
    let mut daemons = Daemons::start(binaries, pair, "demo", way.datapath)?;
    daemons.wait_for_path(way.peer_path, way.datapath.link_security())?;
    story.reached(&daemons.near.control.peer()?, Side::Far);
    Ok(daemons)
}

fn leg(way: &Way, daemons: &Daemons, transfer: &Transfer<'_>, story: &Story) -> Result<Leg> {
    story.step(way.title);
    let before = daemons.counters()?;
    let measured = measure(transfer, Side::Far.virtual_v4(), story)?;
    let traffic = daemons.traffic_since(&before)?;
    let proved = (way.proof)(&traffic);
    story.counters(&traffic, proved);
    Ok(Leg {
        path: way.name,
        measured,
        kernel_packets: Some(traffic.kernel_tx + traffic.kernel_rx),
        user_packets: Some(traffic.user_tx + traffic.user_rx),
        proved: Some(proved),
    })
}

fn measure(transfer: &Transfer<'_>, target: &str, story: &Story) -> Result<Measured> {
    let ping_us = transfer.ping(target)?;
    story.ping(target, ping_us);
    let tcp_gbps = transfer.tcp(target)?;
    story.tcp(target, tcp_gbps);
    Ok(Measured { ping_us, tcp_gbps })
}

fn switch_kernel_path(daemons: &mut Daemons, to: &str, way: &Way, story: &Story) -> Result<()> {
    let words = format!("datapath kernel {to}");
    story.command(&format!("ipopctl {words}"));
    daemons.near.control.ctl(&words)?;
    daemons.far.control.ctl(&words)?;
    daemons.wait_for_path(way.peer_path, way.datapath.link_security())
}

fn by_kernel(traffic: &Traffic) -> bool {
    traffic.kernel_share().is_some_and(|share| share >= PROOF_SHARE_MIN)
}

fn by_user(traffic: &Traffic) -> bool {
    traffic.kernel_share().is_some_and(|share| 1.0 - share >= PROOF_SHARE_MIN)
}

/// The pings and the acknowledgements, and the stream.
fn by_both(traffic: &Traffic) -> bool {
    let Traffic { kernel_tx, kernel_rx, user_tx, user_rx } = *traffic;
    [kernel_tx, kernel_rx, user_tx, user_rx].iter().all(|packets| *packets >= SHARED_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_prove_a_path_or_do_not() {
        let kernel = Traffic { kernel_tx: 1000, kernel_rx: 500, user_tx: 3, user_rx: 2 };
        let user = Traffic { user_tx: 1000, user_rx: 500, ..Traffic::default() };
        let both = kernel + user;
        let proofs = |traffic| [by_kernel(&traffic), by_user(&traffic), by_both(&traffic)];
        assert_eq!(proofs(kernel), [true, false, false]);
        assert_eq!(proofs(user), [false, true, false]);
        assert_eq!(proofs(both), [false, false, true]);
        assert_eq!(proofs(Traffic::default()), [false; 3]);
    }
}
