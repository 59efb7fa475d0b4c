//! Links by a relay: both ends seal and open in the kernel, the relay passes on in the kernel, and that
//! stays so over changes of the way, a packet that is too long, and a daemon that dies.

use std::time::{Duration, Instant};

use crate::lab::beat::Beat;
use crate::lab::host::Peer;
use crate::lab::relayed::{Relayed, peer_of};
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{How, SOON, run, wait_for};

/// A relay's and two headers' bytes less than the wire.
const LINK_MTU_V4: u32 = 1500 - 20 - 8 - 8 - 16 - 16;
const LINK_MTU_V6: u32 = LINK_MTU_V4 - 20;
/// For a way that is tried again.
const PATIENCE: Duration = Duration::from_secs(90);

/// Single packets in the kernel, super-packets in the daemons; and the counters of all three say so.
#[track_caller]
fn both_ends_are_in_the_kernel(pair: &Relayed) {
    pair.wait_for_seal("kernel", SOON);
    let [a, b] = pair.hosts();
    let before = [a, b].map(|host| (host.counter("tx_sealed"), host.counter("rx_opened")));
    let relayed = pair.relay().counter("rx_relayed");
    let packets = pair.traffic(16 * MIB);
    for (host, (sealed, opened)) in [a, b].into_iter().zip(before) {
        let (sealed, opened) = (host.counter("tx_sealed") - sealed, host.counter("rx_opened") - opened);
        assert!(sealed > 200 && opened > 200, "{}: {sealed} and {opened}", host.config.name);
    }
    for packets in packets {
        assert!(packets.kernel > 400 && packets.user > 1000, "{packets:?}");
    }
    assert!(pair.relay().counter("rx_relayed") - relayed > 1000);
    pair.nothing_is_lost();
}

#[test]
fn both_ends_of_a_relayed_link_are_in_the_kernel() {
    run(|| {
        let pair = Relayed::by_ipv4("auto");
        both_ends_are_in_the_kernel(&pair);
        // An operator sees it.
        let [a, b] = pair.hosts();
        let peer = peer_of(a, b);
        assert!(
            peer["path_reason"].as_str().is_some_and(|reason| reason.contains("in the kernel")),
            "{peer}"
        );
        let name = peer["name"].as_str().expect("a name");
        for words in [["explain", name], ["links", ""], ["peers", ""]] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let text = a.ctl(&words);
            assert!(text.contains("relay"), "{text}");
        }
        let links = a.ask("/v1/links");
        let mut links = links.as_array().into_iter().flatten();
        let link = links.find(|link| link["peer"] == name).expect("a link");
        assert_eq!((&link["kernel"], &link["path"]), (&true.into(), &"relay".into()), "{link}");
        assert_eq!(link["endpoint"], "198.51.100.1:15000", "the relay's place");
    });
}

#[test]
fn both_ends_of_a_relayed_link_are_in_the_kernel_by_ipv6() {
    run(|| both_ends_are_in_the_kernel(&Relayed::by_ipv6("auto")));
}

#[test]
fn a_relayed_link_is_sealed_in_the_kernel_alone_where_that_is_wanted() {
    run(|| {
        for pair in [Relayed::by_ipv4("kernel"), Relayed::by_ipv6("kernel")] {
            pair.wait_for_seal("kernel", SOON);
            for packets in pair.traffic(16 * MIB) {
                assert!(packets.kernel > 10_000 && packets.user < 100, "{packets:?}");
            }
            pair.nothing_is_lost();
        }
    });
}

#[test]
fn a_relayed_link_is_sealed_in_the_daemons_alone_where_that_is_wanted() {
    run(|| {
        let pair = Relayed::by_ipv4("user");
        pair.wait_for_seal("daemon", SOON);
        for packets in pair.traffic(16 * MIB) {
            assert!(packets.kernel == 0 && packets.user > 1000, "{packets:?}");
        }
        pair.nothing_is_lost();
    });
}

/// What the relay has passed on by XDP, and otherwise.
fn passed_on(pair: &Relayed) -> [u64; 2] {
    ["rx_xdp_relayed", "rx_relayed"].map(|name| pair.relay().counter(name))
}

/// The relay's only interface is a veth whose other end takes what XDP sends.
fn with_xdp(mut pair: Relayed, seal: &str) -> Relayed {
    pair.net.hosts[0].config.datapath.insert("xdp", "native".to_owned());
    pair.net.set_napi(0, true);
    let pair = pair.up(seal);
    assert_eq!(pair.relay().ask("/v1/status")["datapath"]["xdp"], "native");
    pair
}

/// Sealed in the kernel, frames have no checksum that a veth would leave unfinished.
#[test]
fn a_relay_with_xdp_passes_on_within_the_driver() {
    run(|| {
        for pair in [Relayed::behind_boxes(), Relayed::parted()] {
            let pair = with_xdp(pair, "kernel");
            pair.wait_for_seal("kernel", SOON);
            let before = passed_on(&pair);
            for packets in pair.traffic(16 * MIB) {
                assert!(packets.kernel > 10_000 && packets.user < 100, "{packets:?}");
            }
            let after = passed_on(&pair);
            let [by_xdp, otherwise] = [after[0] - before[0], after[1] - before[1]];
            assert!(by_xdp > 20_000 && otherwise < 200, "{by_xdp} and {otherwise}");
            pair.nothing_is_lost();
        }
    });
}

/// What the daemons at the ends seal has checksums that their veths leave to each other: TC passes these on.
#[test]
fn a_relay_with_xdp_leaves_to_tc_what_only_tc_can_pass_on() {
    run(|| {
        let pair = with_xdp(Relayed::behind_boxes(), "auto");
        pair.wait_for_seal("kernel", SOON);
        let before = passed_on(&pair);
        pair.traffic(16 * MIB);
        let after = passed_on(&pair);
        assert!(after[0] > before[0] + 200 && after[1] > before[1] + 1000, "{before:?}, {after:?}");
        pair.nothing_is_lost();
    });
}

/// Under a connection each of whose bytes is compared.
#[test]
fn a_relay_with_xdp_goes_back_to_tc_when_the_driver_sends_no_more() {
    run(|| {
        let pair = with_xdp(Relayed::behind_boxes(), "kernel");
        pair.wait_for_seal("kernel", SOON);
        let [a, b] = pair.hosts();
        let tcp = Tcp::start(a, b, b.inner(false), None);
        pair.relay().wait_for_counter("rx_xdp_relayed", 0, 1000);
        pair.net.set_napi(0, false);
        let before = pair.relay().counter("rx_relayed");
        tcp.wait_for_progress(4 * MIB, SOON);
        pair.relay().wait_for_counter("rx_relayed", before, 1000);
        pair.net.set_napi(0, true);
        let before = pair.relay().counter("rx_xdp_relayed");
        tcp.wait_for_progress(4 * MIB, SOON);
        pair.relay().wait_for_counter("rx_xdp_relayed", before, 1000);
        tcp.finish();
    });
}

/// With don't-fragment: the largest packet arrives, and one byte more gives an error that names the MTU.
#[test]
fn a_relayed_link_leaves_room_for_the_relays_header() {
    run(|| {
        for (pair, mtu) in [(Relayed::by_ipv4("auto"), LINK_MTU_V4), (Relayed::by_ipv6("auto"), LINK_MTU_V6)]
        {
            pair.wait_for_seal("kernel", SOON);
            let [a, b] = pair.hosts();
            assert_eq!(peer_of(a, b)["mtu"], mtu);
            for (v6, headers) in [(false, 28), (true, 48)] {
                let target = b.inner(v6);
                let fits = (mtu - headers).to_string();
                a.ping(target, &["-M", "do", "-s", &fits]);
                let (over, to) = ((mtu - headers + 1).to_string(), target.to_string());
                let output = a.ns.output("ping", &["-n", "-c", "2", "-W", "1", "-M", "do", "-s", &over, &to]);
                let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && text.contains(&mtu.to_string()), "{text}");
            }
            pair.nothing_is_lost();
        }
    });
}

/// From direct to a relay and back, under a connection each of whose bytes is compared.
#[test]
fn a_link_goes_by_a_relay_and_directly_again_in_the_kernel() {
    run(|| {
        let pair = Relayed::together().up("auto");
        pair.wait_for_path("direct-kernel", SOON);
        let [a, b] = pair.hosts();
        let tcp = Tcp::start(a, b, b.inner(false), None);
        let beat = Beat::start(a, b, b.inner(true));
        tcp.wait_for_progress(MIB, SOON);
        pair.part("add");
        pair.wait_for_seal("kernel", PATIENCE);
        tcp.wait_for_progress(8 * MIB, PATIENCE);
        let opened = b.counter("rx_opened");
        for _ in 0..500 {
            beat.wait_for_next(SOON);
        }
        b.wait_for_counter("rx_opened", opened, 100);
        pair.part("del");
        pair.wait_for_path("direct-kernel", PATIENCE);
        tcp.wait_for_progress(8 * MIB, PATIENCE);
        let opened = b.counter("rx_opened");
        for _ in 0..500 {
            beat.wait_for_next(SOON);
        }
        b.wait_for_counter("rx_opened", opened, 100);
        let _ = beat.finish();
        tcp.finish();
    });
}

/// The relayed peer is one of the configuration, so that its successor knows whose the session is.
#[test]
fn a_killed_daemon_at_the_end_of_a_relayed_link_is_not_missed() {
    run(|| {
        let Relayed { mut net, ends } = Relayed::behind_boxes();
        for (end, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            for (number, endpoint) in [(0, Some("198.51.100.1:15000".to_owned())), (other, None)] {
                let known = &net.hosts[number];
                let peer = Peer {
                    name: known.config.name.clone(),
                    key: known.key.clone(),
                    addresses: vec![known.inner_v4.to_string(), known.inner_v6.to_string()],
                    endpoint,
                };
                net.hosts[end].config.peers.push(peer);
            }
        }
        let mut pair = Relayed { net, ends }.up("kernel");
        pair.wait_for_seal("kernel", SOON);
        let [a, b] = pair.hosts();
        let tcp = Tcp::start(a, b, b.inner(false), None);
        tcp.wait_for_progress(MIB, SOON);
        let before = b.counter("rx_opened");
        let killed = Instant::now();
        let end = ends[0];
        pair.net.hosts[end].take().kill();
        tcp.wait_for_progress(4 * MIB, Duration::from_secs(3));
        pair.net.hosts[end].start(&How::Plain);
        let [a, b] = pair.hosts();
        // Adopted, not made anew: the session is older than the daemon.
        let peer = peer_of(a, b);
        let age = killed.elapsed().as_secs();
        assert!(peer["last_handshake_s"].as_u64().is_some_and(|session| session >= age), "{peer}");
        tcp.wait_for_progress(MIB, SOON);
        pair.wait_for_seal("kernel", SOON);
        let sealed = pair.hosts()[0].counter("tx_sealed");
        tcp.wait_for_progress(8 * MIB, SOON);
        tcp.finish();
        wait_for("what the successor's programs seal is opened", SOON, || {
            let [a, b] = pair.hosts();
            (a.counter("tx_sealed") > sealed + 1000 && b.counter("rx_opened") > before + 1000).then_some(())
        });
    });
}

/// The ends see wires that take more than the relay's, and hear of that from the relay.
#[test]
fn a_relay_on_a_narrow_wire_makes_the_links_by_it_narrow() {
    run(|| {
        const LESS: u32 = 120;
        for seal in ["kernel", "auto"] {
            let pair = Relayed::behind_boxes();
            let relay = pair.relay();
            relay.ns.ip(&format!("link set {} mtu {}", relay.device, 1500 - LESS));
            let pair = pair.up(seal);
            pair.wait_for_seal("kernel", PATIENCE);
            let [a, b] = pair.hosts();
            for (host, other) in [(a, b), (b, a)] {
                wait_for("the link is as narrow as the relay's wire", SOON, || {
                    (peer_of(host, other)["mtu"] == LINK_MTU_V4 - LESS).then_some(())
                });
            }
            pair.traffic(4 * MIB);
            pair.nothing_is_lost();
        }
    });
}
