//! Peers that come and go by reloading, under the traffic of another peer.

use nix::sys::signal::Signal;

use crate::lab::beat::Beat;
use crate::lab::host::{Peer, generate_key};
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{Lab, SOON, run, wait_for};

fn third_peer(lab: &Lab) -> Peer {
    Peer {
        name: "n3".to_owned(),
        key: generate_key(&lab.near.folder.join("third")),
        addresses: vec!["10.128.0.3".to_owned()],
        endpoint: Some("10.200.0.3:15000".to_owned()),
    }
}

#[track_caller]
fn wait_for_peers(lab: &Lab, count: usize) {
    wait_for(&format!("{count} peers"), SOON, || {
        (lab.near.ask("/v1/peers").as_array()?.len() == count).then_some(())
    });
}

#[track_caller]
fn peers_come_and_go(lab: Lab) {
    let mut lab = lab;
    let third = third_peer(&lab);
    let tcp = Tcp::start(&lab.near, &lab.far, lab.far.inner(false), None);
    tcp.wait_for_progress(MIB, SOON);
    let beat = Beat::start(&lab.near, &lab.far, lab.far.inner(true));
    for round in 0..3 {
        lab.near.config.peers.push(third.clone());
        lab.near.write_config();
        if round == 0 {
            lab.near.daemon.as_ref().expect("a daemon").signal(Signal::SIGHUP);
        } else {
            assert!(lab.near.ctl(&["reload"]).contains("2 peers"));
        }
        wait_for_peers(&lab, 2);
        let routes = lab.near.ask("/v1/routes").to_string();
        assert!(routes.contains("10.128.0.3/32"), "{routes}");
        beat.wait_for_next(SOON);
        lab.near.config.peers.pop();
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        wait_for_peers(&lab, 1);
        beat.wait_for_next(SOON);
    }
    tcp.wait_for_progress(MIB, SOON);
    let heard = beat.finish();
    assert!(heard.overtaken == 0 && heard.arrived == heard.sent, "nothing is lost: {heard:?}");
    tcp.finish();
}

#[test]
fn peers_come_and_go_beside_the_kernel_path() {
    run(|| peers_come_and_go(Lab::plain().up("direct-kernel")));
}

#[test]
fn peers_come_and_go_beside_the_user_path() {
    run(|| peers_come_and_go(Lab::plain().datapath("kernel", "off").up("direct-user")));
}

#[test]
fn a_fixed_key_cannot_change() {
    run(|| {
        let mut lab = Lab::plain().up("direct-kernel");
        let refused = |lab: &Lab, name: &str| {
            lab.near.write_config();
            let output = lab.near.ctl_output(&["reload"]);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains(name) && text.lines().count() == 1, "{name} is named: {text}");
        };
        let good = lab.near.config.clone();
        lab.near.config.device = "ipop9".to_owned();
        refused(&lab, "network.device");
        lab.near.config = good.clone();
        lab.near.config.listen = vec!["udp://0.0.0.0:15001".to_owned()];
        refused(&lab, "underlay.listen");
        lab.near.config = good.clone();
        lab.near.config.datapath.insert("io", "epoll".to_owned());
        refused(&lab, "[datapath]");
        lab.near.config = good.clone();
        lab.near.config.more = "colour = 1\n".to_owned();
        refused(&lab, "colour");
        lab.near.config = good;
        lab.near.write_config();
        assert!(lab.near.ctl(&["reload"]).contains("not changed"));
        lab.near.ping(lab.far.inner(false), &[]);
    });
}

#[test]
fn what_changes_of_a_peer_is_taken_over_and_its_session_stays() {
    run(|| {
        let mut lab = Lab::plain().sealed().up("direct-kernel");
        let handshakes = |lab: &Lab| lab.near.counter("rx_handshake") + lab.far.counter("rx_handshake");
        let before = handshakes(&lab);
        // Before the other in the file.
        let mut third = third_peer(&lab);
        third.addresses.push("10.99.0.0/16".to_owned());
        lab.near.config.peers.insert(0, third);
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        lab.near.ping(lab.far.inner(false), &[]);
        // An address is another's, who has another name.
        let [third, far] = &mut lab.near.config.peers[..] else { panic!("two peers") };
        far.addresses.extend(third.addresses.pop());
        far.name = "elsewhere".to_owned();
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        let routes = lab.near.ask("/v1/routes");
        let moved =
            routes.as_array().and_then(|all| all.iter().find(|route| route["prefix"] == "10.99.0.0/16"));
        assert_eq!(moved.map(|route| &route["peer"]), Some(&"elsewhere".into()), "{routes}");
        lab.near.wait_for_path("direct-kernel");
        lab.near.ping(lab.far.inner(false), &[]);
        assert_eq!(handshakes(&lab), before, "no session is made for it");
    });
}

#[test]
fn with_another_secret_it_is_another_network() {
    run(|| {
        let mut lab = Lab::plain().sealed().up("direct-kernel");
        let secret = lab.near.config.secret.clone();
        lab.near.config.secret = "another secret, as long as it must be".to_owned();
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        lab.near.wait_for_path("none");
        lab.near.wait_for_counter("rx_bad_handshake", 0, 1);
        lab.near.config.secret = secret;
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        lab.near.wait_for_path("direct-kernel");
        lab.near.ping(lab.far.inner(false), &[]);
    });
}
