//! Where others may find a node beside where they see it: ports that a router gives, outside addresses that are
//! configured, where STUN servers see it; and what comes of it when these are lies.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde_json::Value;

use crate::lab::boxes::{Kind, Options};
use crate::lab::internet::{Families, Internet};
use crate::lab::router::{self, Liar, Speaks, Victim};
use crate::lab::stun::{self, Coturn, Impostor, NOWHERE};
use crate::lab::{How, SOON, run, run_unless, wait_for};

/// Hosts use this port.
const PORT: u16 = 15_000;
/// For a direct path to be found: one that was not at first is looked for again after 20 s.
const PATIENCE: Duration = Duration::from_secs(100);
/// What a place that a router or a server has lied about hears at most: of each of the three others the five
/// messages of one attempt to connect. Mostly it is one or two, as the first answer ends the attempt.
const HEARD_MAX: usize = 3 * 5;

/// What a host says of its router.
fn port_mapping(net: &Internet, host: usize) -> Value {
    net.hosts[host].ask("/v1/status")["overlay"]["port_mapping"].clone()
}

/// Waits until a host says why it has no port, and gives that.
#[track_caller]
fn reason(net: &Internet, host: usize, patience: Duration) -> String {
    wait_for("the router has been asked", patience, || {
        let mapping = port_mapping(net, host);
        assert!(mapping["external"].is_null(), "{mapping}");
        mapping["reason"].as_str().filter(|why| why.contains("UPnP: ")).map(str::to_owned)
    })
}

/// Two hosts of which none can reach the other: behind boxes that take another port for each destination.
fn out_of_reach() -> (Internet, [usize; 2]) {
    let mut net = Internet::new();
    let pair = [Kind::SymmetricRandom; 2].map(|kind| net.behind(kind));
    (net, pair)
}

#[track_caller]
fn becomes_direct_by(speaks: Speaks) {
    let (mut net, [a, b]) = out_of_reach();
    let outside = net.router(a, speaks);
    let mut net = net.up();
    let mapping = wait_for("the router gives a port", PATIENCE, || {
        let mapping = port_mapping(&net, a);
        mapping["external"].is_string().then_some(mapping)
    });
    assert_eq!(mapping["external"], format!("{outside}:{PORT}"));
    assert_eq!(mapping["protocol"], speaks.name());
    assert!(mapping["lease_s"].as_u64().is_some_and(|lease| (1100..=1200).contains(&lease)), "{mapping}");
    assert!(net.is_mapped(a));
    let shown = net.hosts[a].ctl(&["status"]);
    assert!(shown.contains(&format!("{outside}:{PORT} by {} of ", speaks.name())), "{shown}");
    net.wait_for_path(b, a, "direct", PATIENCE);
    net.wait_for_path(a, b, "direct", SOON);
    assert!(net.hosts[a].take().terminate().success());
    assert!(!net.is_mapped(a), "the port was not given back");
}

#[test]
fn a_port_by_pcp_makes_direct_what_had_to_be_relayed() {
    run_unless(router::reason_to_skip, || becomes_direct_by(Speaks::Pcp));
}

#[test]
fn a_port_by_nat_pmp_makes_direct_what_had_to_be_relayed() {
    run_unless(router::reason_to_skip, || becomes_direct_by(Speaks::NatPmp));
}

#[test]
fn a_port_by_upnp_makes_direct_what_had_to_be_relayed() {
    run_unless(router::reason_to_skip, || becomes_direct_by(Speaks::Upnp));
}

/// Of two hosts behind one router, the second gets another port.
#[test]
fn each_host_behind_a_router_gets_a_port_of_its_own() {
    run_unless(router::reason_to_skip, || {
        for speaks in [Speaks::Pcp, Speaks::Upnp] {
            let mut net = Internet::new();
            let a = net.behind(Kind::SymmetricRandom);
            let b = net.behind_same(a);
            net.router(a, speaks);
            let net = net.up();
            let ports = [a, b].map(|host| {
                wait_for("the router gives a port", PATIENCE, || {
                    port_mapping(&net, host)["external"].as_str().map(str::to_owned)
                })
            });
            assert_ne!(ports[0], ports[1]);
            assert!(net.is_mapped(a) && net.is_mapped(b));
        }
    });
}

#[test]
fn a_port_is_given_back_when_it_is_not_wanted_any_more() {
    run_unless(router::reason_to_skip, || {
        let mut net = Internet::new();
        let a = net.behind(Kind::SymmetricRandom);
        net.router(a, Speaks::Pcp);
        let mut net = net.up();
        wait_for("the router gives a port", SOON, || net.is_mapped(a).then_some(()));
        net.hosts[a].config.underlay.insert("port_mapping", "false".to_owned());
        net.hosts[a].write_config();
        net.hosts[a].ctl(&["reload"]);
        wait_for("the router has its port again", SOON, || (!net.is_mapped(a)).then_some(()));
        let mapping = port_mapping(&net, a);
        assert_eq!(mapping["reason"], "underlay.port_mapping = false in the configuration");
        // Asked for again, and in another network once more.
        net.hosts[a].config.underlay.remove("port_mapping");
        net.hosts[a].write_config();
        net.hosts[a].ctl(&["reload"]);
        wait_for("the router gives a port", SOON, || net.is_mapped(a).then_some(()));
        let device = net.hosts[a].device;
        let (before, now) = (net.hosts[a].outer_v4, Ipv4Addr::new(10, 1, 0, 77));
        let gateway = net.gate(a).gateway();
        net.hosts[a].ns.ip(&format!("addr add {now}/24 dev {device}"));
        net.hosts[a].ns.ip(&format!("addr del {before}/24 dev {device}"));
        net.hosts[a].ns.ip(&format!("addr add {now}/24 dev {device}"));
        net.hosts[a].ns.ip(&format!("route replace default via {gateway} src {now}"));
        net.hosts[a].outer_v4 = now;
        wait_for("the router gives a port to the new address", SOON, || net.is_mapped(a).then_some(()));
    });
}

#[test]
fn who_has_no_router_that_gives_ports_says_why() {
    run(|| {
        let mut net = Internet::new();
        let behind = net.behind(Kind::PortRestricted);
        let net = net.up();
        let why = reason(&net, behind, PATIENCE);
        assert_eq!(why, "PCP: no answer; NAT-PMP: no answer; UPnP: no answer");
        let of_public = port_mapping(&net, 0);
        let why = of_public["reason"].as_str().expect("a reason");
        assert!(why.starts_with("198.51.100.1 needs none"), "{why}");
    });
}

/// The network behind is reached by an address that its operator has configured, and by no other.
#[test]
fn an_outside_address_that_is_configured_is_told_to_others() {
    run(|| {
        let (mut net, [a, b]) = out_of_reach();
        let (gate, inside) = (net.gate(a), net.hosts[a].outer_v4);
        let outside = SocketAddrV4::new(gate.outside, 40_000);
        gate.ns.succeed(
            "nft",
            &[&format!(
                "table inet manual {{ chain prerouting {{
                    type nat hook prerouting priority dstnat - 5; policy accept;
                    iifname \"out\" udp dport {} dnat ip to {inside}:{PORT}
                }}
                }}",
                outside.port()
            )],
        );
        net.hosts[a].config.underlay.insert("external", format!("[\"{outside}\"]"));
        net.hosts[a].config.underlay.insert("port_mapping", "false".to_owned());
        let net = net.up();
        net.wait_for_path(b, a, "direct", PATIENCE);
        let shown = net.hosts[a].ctl(&["status"]);
        assert!(shown.contains(&format!("{outside}, as configured")), "{shown}");
    });
}

/// What a router says that cannot be true is told to nobody.
#[test]
fn what_a_router_says_that_cannot_be_true_is_refused() {
    run(|| {
        let place = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
        let lies = [
            (place([127, 0, 0, 1], 9), 1200, "127.0.0.1, which none can have"),
            (place([0, 0, 0, 0], 9), 1200, "0.0.0.0, which none can have"),
            (place([224, 0, 0, 1], 9), 1200, "224.0.0.1, which none can have"),
            (place([255, 255, 255, 255], 9), 1200, "255.255.255.255, which none can have"),
            (place([192, 168, 7, 7], 9), 1200, "192.168.7.7 is behind another NAT"),
            (place([100, 64, 0, 1], 9), 1200, "100.64.0.1 is behind another NAT"),
            (place([198, 51, 100, 1], 9), 1, "gives ports for 1 s only"),
            (place([198, 51, 100, 1], 0), 1200, "external port of 0"),
        ];
        let mut net = Internet::new();
        let hosts = lies.map(|_| net.behind(Kind::PortRestricted));
        let liars: Vec<Liar> = hosts
            .iter()
            .zip(lies)
            .map(|(host, (external, lease, _))| Liar::start(net.gate(*host), move |_| (external, lease)))
            .collect();
        let net = net.up();
        for ((host, liar), (external, _, why)) in hosts.iter().zip(&liars).zip(lies) {
            let reason = reason(&net, *host, PATIENCE);
            assert!(reason.contains(why), "{external}: {reason}");
            assert_eq!(liar.answers(), 1, "{external}");
            // The library refuses port 0 by itself.
            if external.port() != 0 {
                assert_eq!(net.hosts[*host].counter("rx_bad_mapping"), 1, "{external}");
            }
        }
        // They are reached as they would be with no router at all.
        net.wait_for_path(hosts[0], hosts[1], "direct", PATIENCE);
    });
}

/// A router that says that others are where this node is, and now these, now those: they hear little, and nodes
/// find one another as they would without.
#[test]
fn a_router_that_sends_others_astray_does_little_harm() {
    run(|| {
        let mut net = Internet::new();
        let other = net.public(Families::V4);
        let a = net.behind(Kind::PortRestricted);
        let b = net.behind(Kind::PortRestricted);
        let mut victims = [9000, 9001].map(|port| Victim::new(&net.hosts[other], port));
        let address = net.hosts[other].outer_v4;
        let liar = Liar::start(net.gate(a), move |number| {
            // For the shortest time that is accepted: it is asked again after half of it.
            (SocketAddrV4::new(address, 9000 + u16::from(number % 2 == 1)), 60)
        });
        let net = net.up();
        net.wait_for_path(b, a, "direct", PATIENCE);
        net.wait_for_path(a, b, "direct", SOON);
        net.wait_for_path(0, a, "direct", SOON);
        let told = wait_for("the second lie", PATIENCE, || {
            let told = port_mapping(&net, a)["external"].as_str().map(str::to_owned);
            told.filter(|told| told.ends_with(":9001"))
        });
        assert_eq!(told, format!("{address}:9001"));
        net.wait_for_path(b, a, "direct", SOON);
        assert_eq!(liar.answers(), 2);
        for victim in &mut victims {
            assert!(victim.heard() <= HEARD_MAX, "{} datagrams", victim.heard());
        }
    });
}

/// Where a host's STUN server sees it, once it has said.
#[track_caller]
fn seen_by_server(net: &Internet, host: usize) -> String {
    wait_for("a STUN server has answered", SOON, || {
        let status = net.hosts[host].ask("/v1/status");
        status["overlay"]["stun"][0]["seen"].as_str().map(str::to_owned)
    })
}

/// What is known of how a host's addresses are translated.
fn nat(net: &Internet, host: usize) -> Value {
    net.hosts[host].ask("/v1/status")["overlay"]["nat"][0].clone()
}

/// Has a host ask a server that is on another.
fn asks(net: &mut Internet, host: usize, on: usize) {
    let server = SocketAddrV4::new(net.hosts[on].outer_v4, stun::PORT);
    net.hosts[host].config.underlay.insert("stun", format!("[\"{server}\"]"));
}

/// With one member, which alone could not tell the kind of NAT.
#[test]
fn a_stun_server_and_one_member_tell_the_kind_of_nat() {
    run_unless(stun::reason_to_skip, || {
        let mut net = Internet::new();
        let server = net.public(Families::V4);
        let hosts = [Kind::PortRestricted, Kind::SymmetricRandom].map(|kind| net.behind(kind));
        for host in hosts {
            asks(&mut net, host, server);
        }
        // The two behind boxes are not to know each other.
        let _coturn = Coturn::start(&net.hosts[server]);
        for (host, mapping) in
            hosts.into_iter().zip(["endpoint-independent", "address- and port-dependent, random"])
        {
            net.hosts[0].start(&How::Plain);
            net.hosts[host].start(&How::Plain);
            let seen = seen_by_server(&net, host);
            let outside = net.gate(host).outside.to_string();
            assert!(seen.starts_with(&format!("{outside}:")), "{seen}");
            wait_for(mapping, SOON, || (nat(&net, host)["mapping"] == mapping).then_some(()));
            let observers = nat(&net, host)["observations"].to_string();
            assert!(
                observers.contains(&format!("{}:{}", net.hosts[server].outer_v4, stun::PORT)),
                "{observers}"
            );
            let shown = net.hosts[host].ctl(&["status"]);
            assert!(shown.contains(&format!(":{} sees {seen}", stun::PORT)), "{shown}");
            net.hosts[host].take().kill();
            net.hosts[0].take().kill();
        }
    });
}

#[test]
fn a_node_finds_out_whether_its_outside_address_leads_back() {
    run(|| {
        for hairpin in [true, false] {
            let mut net = Internet::new();
            net.public(Families::V4);
            let options = Options { hairpin, ..Options::default() };
            let host = net.behind_with(Kind::PortRestricted, options);
            let net = net.up();
            net.wait_for_all_pairs(&[0, 1, host], SOON);
            let found = wait_for("it is known", PATIENCE, || nat(&net, host)["hairpin"].as_bool());
            assert_eq!(found, hairpin);
            let shown = net.hosts[host].ctl(&["status"]);
            assert_eq!(shown.contains(" endpoint-independent, hairpin"), hairpin, "{shown}");
        }
    });
}

/// Only the asked one's answer with the number of the question counts.
#[test]
fn forged_answers_of_a_stun_server_are_refused_and_counted() {
    run(|| {
        let mut net = Internet::new();
        let [server, forger, host] = [(); 3].map(|()| net.public(Families::V4));
        asks(&mut net, host, server);
        let real = Impostor::new(&net.hosts[server], stun::PORT);
        let elsewhere = Impostor::new(&net.hosts[server], stun::PORT + 1);
        let other = Impostor::new(&net.hosts[forger], stun::PORT);
        net.hosts[host].start(&How::Plain);
        let (id, from) = real.asked();
        assert_eq!(from.ip(), net.hosts[host].outer_v4);
        let lie = stun::answer(id, NOWHERE);
        let mut guess = id;
        guess[0] ^= 1;
        let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
        let forged: [(&Impostor, Vec<u8>); 6] = [
            (&other, lie.clone()),
            (&elsewhere, lie.clone()),
            (&real, stun::answer(guess, NOWHERE)),
            (&real, stun::answer(id, loopback)),
            (&real, lie[..24].to_vec()),
            (&real, lie[..20].to_vec()),
        ];
        for (number, (who, message)) in forged.iter().enumerate() {
            who.say(from, message);
            net.hosts[host].wait_for_counter("rx_bad_stun", number as u64, 1);
        }
        let status = net.hosts[host].ask("/v1/status");
        assert!(status["overlay"]["stun"][0]["seen"].is_null(), "{status}");
        let SocketAddr::V4(seen) = from else { panic!("{from}") };
        real.say(from, &stun::answer(id, seen));
        assert_eq!(seen_by_server(&net, host), from.to_string());
        // Once answered, the number is nobody's any more.
        real.say(from, &lie);
        net.hosts[host].wait_for_counter("rx_bad_stun", forged.len() as u64, 1);
        assert_eq!(seen_by_server(&net, host), from.to_string());
    });
}

/// A server that says that a node is where another is.
#[test]
fn a_stun_server_that_sends_others_astray_does_little_harm() {
    run(|| {
        let mut net = Internet::new();
        let [server, other] = [(); 2].map(|()| net.public(Families::V4));
        let a = net.behind(Kind::PortRestricted);
        let b = net.behind(Kind::Masquerade);
        asks(&mut net, a, server);
        let liar = Impostor::new(&net.hosts[server], stun::PORT);
        let mut victim = Victim::new(&net.hosts[other], 9000);
        let astray = SocketAddrV4::new(net.hosts[other].outer_v4, 9000);
        net.hosts[a].start(&How::Plain);
        let (id, from) = liar.asked();
        liar.say(from, &stun::answer(id, astray));
        assert_eq!(seen_by_server(&net, a), astray.to_string());
        for host in [0, b] {
            net.hosts[host].start(&How::Plain);
        }
        net.wait_for_path(b, a, "direct", PATIENCE);
        net.wait_for_path(a, b, "direct", SOON);
        // What members see stands first.
        let observations = nat(&net, a)["observations"].to_string();
        assert!(observations.contains(&net.gate(a).outside.to_string()), "{observations}");
        assert!(victim.heard() <= HEARD_MAX, "{} datagrams", victim.heard());
    });
}
