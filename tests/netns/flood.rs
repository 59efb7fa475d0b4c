//! Floods of handshake messages from thousands of addresses: peers get their sessions nevertheless, each
//! refusal is counted by its name, and the daemon grows no larger.

use std::fs;
use std::net::SocketAddrV4;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipop_callers::{Callers, Flood, Kind, public_key};

use crate::lab::host::Peer;
use crate::lab::packet::USER_PORT;
use crate::lab::{How, Lab, SOON, run, wait_for};

/// Many times what puts a node under load, and several times what it leaves to strangers.
const PER_SECOND: u32 = 10_000;
/// Below what puts a node under load.
const FEW_PER_SECOND: u32 = 500;
/// Who has missed its turn tries again after half a second.
const IMPATIENT: How = How::Shortened(10);
/// What the tables and queues of a flooded node may take.
const GROWTH_MAX: u64 = 16 << 20;

/// Two hosts, of which the near one can also speak for all the networks that floods come from.
fn lab() -> Lab {
    let lab = Lab::plain().sealed();
    for network in ["10.201.0.0/16", "10.202.0.0/16"] {
        lab.near.ns.ip(&format!("route add local {network} dev lo"));
        lab.far.ns.ip(&format!("route add {network} via {}", lab.near.outer_v4));
    }
    lab
}

fn place(lab: &Lab) -> SocketAddrV4 {
    SocketAddrV4::new(lab.far.outer_v4, USER_PORT)
}

fn key(lab: &Lab) -> [u8; 32] {
    STANDARD.decode(&lab.far.key).expect("a key").try_into().expect("of 32 bytes")
}

fn flood(lab: &Lab, kind: &Kind, per_second: u32) -> Flood {
    lab.near.ns.inside(|| Flood::start(kind, place(lab), per_second)).expect("a flood")
}

/// The far daemon's memory in bytes.
fn resident(lab: &Lab) -> u64 {
    let pid = lab.far.daemon.as_ref().expect("a daemon runs").raw_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// The near host calls while strangers who know the far one's key flood it.
#[track_caller]
fn a_peer_is_heard(mut lab: Lab) {
    lab.far.start(&IMPATIENT);
    let flood = flood(&lab, &Kind::Mac1(key(&lab)), PER_SECOND);
    lab.far.wait_for_counter("rx_cookie_sent", 0, 1000);
    lab.far.wait_for_counter("rx_handshake_flood", 0, 1000);
    lab.near.start(&IMPATIENT);
    wait_for("a session under load", SOON * 2, || {
        let both = [&lab.near, &lab.far].map(|host| host.path());
        (both == ["direct-kernel", "direct-kernel"]).then_some(())
    });
    // The cookie that it was told of, and the answer to the message that had it.
    assert!(lab.near.counter("rx_handshake") >= 2);
    lab.near.ping(lab.far.inner(false), &[]);
    flood.stop().expect("the flood went on");
}

#[test]
fn under_a_flood_a_peer_gets_its_session_by_a_cookie() {
    run(|| a_peer_is_heard(lab()));
}

#[test]
fn under_a_flood_a_peer_from_an_unknown_address_gets_its_session_too() {
    run(|| {
        let mut lab = lab();
        lab.far.config.peers[0].endpoint = None;
        a_peer_is_heard(lab);
    });
}

#[test]
fn what_a_flood_consists_of_is_counted_by_name_and_takes_no_memory() {
    run(|| {
        let mut lab = lab();
        lab.far.config.peers.push(Peer {
            name: "caller".to_owned(),
            key: STANDARD.encode(public_key(0)),
            addresses: vec!["10.128.0.99".to_owned()],
            endpoint: None,
        });
        let lab = lab.up("direct-kernel");
        let secret = lab.far.config.secret.clone();
        let callers = || Callers::new(place(&lab), key(&lab), &secret, 1);
        let (source, recorded) =
            lab.near.ns.inside(callers).and_then(|mut callers| callers.record(0)).expect("an initiation");
        let replay = Kind::Replay(source, recorded);

        // Few enough to be looked at, each of them.
        let all = flood(&lab, &replay, FEW_PER_SECOND);
        lab.far.wait_for_counter("rx_replayed_handshake", 0, 100);
        all.stop().expect("the flood went on");
        assert_eq!(lab.far.counter("rx_cookie_sent"), 0, "this is no load");

        let garbage = flood(&lab, &Kind::Garbage, PER_SECOND);
        lab.far.wait_for_counter("rx_bad_mac1", 0, 10_000);
        garbage.stop().expect("the flood went on");
        assert_eq!(lab.far.counter("rx_cookie_sent"), 0, "who does not know the key puts nobody under load");

        let before = resident(&lab);
        for kind in [Kind::Mac1(key(&lab)), replay] {
            let counters = ["rx_cookie_sent", "rx_handshake_flood"];
            let counted = counters.map(|name| lab.far.counter(name));
            let flood = flood(&lab, &kind, PER_SECOND);
            for (name, before) in counters.into_iter().zip(counted) {
                lab.far.wait_for_counter(name, before, 3000);
            }
            flood.stop().expect("the flood went on");
        }
        let growth = resident(&lab).saturating_sub(before);
        assert!(growth < GROWTH_MAX, "the daemon has grown by {growth} bytes");
        lab.near.ping(lab.far.inner(false), &[]);
    });
}
