//! TURN servers: who does not reach another otherwise, reaches it by an address at one of them. The server is Debian's
//! coturn.

use std::net::SocketAddrV4;
use std::time::Duration;

use serde_json::Value;

use crate::lab::boxes::Kind;
use crate::lab::internet::{Families, Internet};
use crate::lab::stun::{self, Coturn};
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{SOON, run_unless, wait_for};

/// For what did not go directly at first.
const PATIENCE: Duration = Duration::from_secs(60);
const USER: &str = "ipop";
const PASSWORD: &str = "not to be guessed";

/// Has a host use a server that is on another.
fn uses(net: &mut Internet, host: usize, on: usize, transport: &str, password: &str) -> SocketAddrV4 {
    let server = SocketAddrV4::new(net.hosts[on].outer_v4, stun::PORT);
    let turn = format!(
        "[{{ server = \"turn:{server}?transport={transport}\", username = \"{USER}\", password = \"{password}\" }}]"
    );
    net.hosts[host].config.underlay.insert("turn", turn);
    server
}

/// What a host says of its server.
fn turn(net: &Internet, host: usize) -> Value {
    net.hosts[host].ask("/v1/status")["overlay"]["turn"][0].clone()
}

/// Its address there, once it has one.
#[track_caller]
fn relayed(net: &Internet, host: usize) -> String {
    wait_for("an address at the TURN server", SOON, || turn(net, host)["relayed"].as_str().map(str::to_owned))
}

#[track_caller]
fn reason_of_path(net: &Internet, from: usize, to: usize) -> String {
    let inner = net.hosts[to].inner(false).to_string();
    let peers = net.hosts[from].ask("/v1/peers");
    let peers = peers.as_array().expect("a list");
    let has_it = |peer: &&Value| peer["virtual_ips"].to_string().contains(&inner);
    peers.iter().find(has_it).expect("the peer")["path_reason"].as_str().expect("a reason").to_owned()
}

#[track_caller]
fn transfers(net: &Internet, from: usize, to: usize) {
    let address = net.hosts[to].inner(false);
    let tcp = Tcp::start(&net.hosts[from], &net.hosts[to], address, None);
    tcp.wait_for_progress(4 * MIB, PATIENCE);
    tcp.finish();
}

/// Two that could only be relayed, and no member that relays.
fn out_of_reach() -> (Internet, usize, [usize; 2]) {
    let mut net = Internet::new();
    let server = net.public(Families::V4);
    net.hosts[0].config.underlay.insert("relay", "false".to_owned());
    let pair = [Kind::SymmetricRandom; 2].map(|kind| net.behind(kind));
    for host in pair {
        net.hosts[host].config.underlay.insert("relay", "false".to_owned());
    }
    (net, server, pair)
}

/// Starts all but the host of the server, which is no member.
#[track_caller]
fn up_without(net: &mut Internet, server: usize) {
    for number in (0..net.hosts.len()).filter(|number| *number != server) {
        net.hosts[number].start(&crate::lab::How::Plain);
    }
}

#[test]
fn by_a_turn_server_those_are_linked_that_nobody_relays() {
    run_unless(stun::reason_to_skip, || {
        for transport in ["udp", "tcp"] {
            let (mut net, server, [a, b]) = out_of_reach();
            let place = uses(&mut net, a, server, transport, PASSWORD);
            let coturn = Coturn::relaying(&net.hosts[server], USER, PASSWORD);
            up_without(&mut net, server);
            let address = relayed(&net, a);
            assert!(address.starts_with(&format!("{}:", place.ip())), "{address}");
            let shown = net.hosts[a].ctl(&["status"]);
            assert!(shown.contains(&format!("{address} by turn:{place}?transport={transport}")), "{shown}");
            net.wait_for_path(a, b, "relay", PATIENCE);
            net.wait_for_path(b, a, "relay", PATIENCE);
            let (of_a, of_b) = (reason_of_path(&net, a, b), reason_of_path(&net, b, a));
            assert!(of_a.starts_with("this node's TURN server passes the packets on"), "{of_a}");
            assert!(of_b.starts_with("the peer's TURN server passes the packets on"), "{of_b}");
            transfers(&net, a, b);
            transfers(&net, b, a);
            // It is used for packets, and not for what others carry.
            assert_eq!(net.hosts[a].counter("tx_turn_refused"), 0);
            // When it has gone, others carry; when it is back, it is used again.
            drop(coturn);
            net.wait_for_path(b, a, "overlay", PATIENCE);
            let _coturn = Coturn::relaying(&net.hosts[server], USER, PASSWORD);
            net.wait_for_path(b, a, "relay", PATIENCE * 2);
            net.wait_for_path(a, b, "relay", PATIENCE);
            transfers(&net, a, b);
        }
    });
}

/// What its operator has to do is told, and the node is a member as it would be without.
#[test]
fn a_server_that_refuses_is_told_of_in_words() {
    run_unless(stun::reason_to_skip, || {
        let (mut net, server, [a, b]) = out_of_reach();
        uses(&mut net, a, server, "udp", "something else");
        uses(&mut net, b, server, "tcp", "something else");
        let _coturn = Coturn::relaying(&net.hosts[server], USER, PASSWORD);
        up_without(&mut net, server);
        for host in [a, b] {
            let why = wait_for("a reason", SOON, || {
                let turn = turn(&net, host);
                assert!(turn["relayed"].is_null(), "{turn}");
                turn["reason"].as_str().filter(|why| *why != "it is being asked").map(str::to_owned)
            });
            assert_eq!(why, "it does not accept the username and the password");
            let log = net.hosts[host].log();
            assert!(log.contains("no address at a TURN server: it does not accept"), "{log}");
            assert!(!log.contains("something else"), "a password in the log");
            let shown = net.hosts[host].ctl(&["status"]);
            assert!(shown.contains(": it does not accept"), "{shown}");
        }
        net.wait_for_path(a, b, "overlay", PATIENCE);
        // Set right, it is used at once.
        uses(&mut net, a, server, "udp", PASSWORD);
        net.hosts[a].write_config();
        net.hosts[a].ctl(&["reload"]);
        relayed(&net, a);
        net.wait_for_path(b, a, "relay", PATIENCE);
    });
}

/// A host that no datagrams leave joins by its server alone, where no member listens for TCP.
#[test]
fn who_has_no_udp_joins_by_a_turn_server() {
    run_unless(stun::reason_to_skip, || {
        let mut net = Internet::new();
        let server = net.public(Families::V4);
        let blocked = net.behind(Kind::UdpBlocked);
        let cone = net.behind(Kind::PortRestricted);
        for host in [0, cone] {
            net.hosts[host].config.tcp = Some(Vec::new());
        }
        uses(&mut net, blocked, server, "tcp", PASSWORD);
        let _coturn = Coturn::relaying(&net.hosts[server], USER, PASSWORD);
        up_without(&mut net, server);
        for to in [0, cone] {
            net.wait_for_path(blocked, to, "relay", PATIENCE);
            net.wait_for_path(to, blocked, "relay", PATIENCE);
            transfers(&net, blocked, to);
        }
        assert_eq!(net.gate(blocked).flows(), 0, "its datagrams end at the box");
    });
}

/// The server is the way for as long as there is no better one.
#[test]
fn a_link_by_a_turn_server_becomes_a_direct_one() {
    run_unless(stun::reason_to_skip, || {
        let mut net = Internet::new();
        let server = net.public(Families::V4);
        net.hosts[0].config.underlay.insert("relay", "false".to_owned());
        let host = net.behind(Kind::Masquerade);
        let other = net.behind(Kind::Masquerade);
        uses(&mut net, host, server, "tcp", PASSWORD);
        for host in [0, host, other] {
            net.hosts[host].config.underlay.insert("relay", "false".to_owned());
            net.hosts[host].config.tcp = Some(Vec::new());
        }
        let _coturn = Coturn::relaying(&net.hosts[server], USER, PASSWORD);
        net.gate(host).block_udp();
        up_without(&mut net, server);
        net.wait_for_path(host, other, "relay", PATIENCE);
        net.wait_for_path(other, host, "relay", PATIENCE);
        let address = net.hosts[other].inner(false);
        let tcp = Tcp::start(&net.hosts[host], &net.hosts[other], address, None);
        tcp.wait_for_progress(MIB, SOON);
        net.gate(host).pass_udp();
        net.wait_for_path(host, other, "direct-kernel", PATIENCE);
        net.wait_for_path(other, host, "direct-kernel", PATIENCE);
        tcp.wait_for_progress(8 * MIB, PATIENCE);
        tcp.finish();
    });
}
