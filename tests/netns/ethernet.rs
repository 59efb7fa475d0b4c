//! A virtual network that carries Ethernet: stations behind bridges on several hosts are on one segment.

mod kernel;
mod pxe;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::lab::crowd::Crowd;
use crate::lab::host::Host;
use crate::lab::namespace::NetNs;
use crate::lab::packet::Tap;
use crate::lab::{PREFIX, SOON, run, wait_for};

/// For links that are made on the way, and stations that are given up.
const PATIENCE: Duration = Duration::from_secs(30);

fn crowd(count: u8) -> Crowd {
    let mut crowd = Crowd::new(count);
    for host in &mut crowd.hosts {
        host.config.network.insert("mode", "\"l2\"".to_owned());
    }
    crowd
}

/// Makes the virtual device a port of a bridge on its host.
fn bridge(host: &Host) {
    host.ns.ip("link add br0 type bridge");
    host.ns.ip("link set br0 up");
    host.ns.ip("link set ipop0 master br0");
}

/// Three hosts, the second and third of which are bridges and nothing else.
fn bridged(mut crowd: Crowd) -> Crowd {
    for host in &mut crowd.hosts[1..] {
        host.config.addresses = Some(Vec::new());
    }
    let crowd = crowd.up();
    crowd.hosts[1..].iter().for_each(bridge);
    crowd
}

/// A machine on a cable to a host's bridge.
struct Station {
    ns: NetNs,
    address: Ipv4Addr,
    mac: [u8; 6],
    cable: String,
}

impl Station {
    fn plugged_in(host: &Host, number: u8) -> Self {
        let ns = NetNs::create(PREFIX);
        ns.ip(&format!(
            "link add eth0 address 02:aa:00:00:00:{number:02x} type veth peer name cable{number}"
        ));
        let (address, mac) = (Ipv4Addr::new(10, 128, 0, number), [2, 0xaa, 0, 0, 0, number]);
        let station = Self { ns, address, mac, cable: format!("cable{number}") };
        station.plug_in(host);
        station.ns.ip(&format!("addr add {}/24 dev eth0", station.address));
        station.ns.ip(&format!("addr add fd00:128::{number}/64 dev eth0 nodad"));
        station.ns.ip("link set eth0 up");
        station
    }

    fn plug_in(&self, host: &Host) {
        let cable = &self.cable;
        self.ns.ip(&format!("link set {cable} netns {}", host.ns.name()));
        host.ns.ip(&format!("link set {cable} master br0 up"));
    }

    fn unplug(&self, host: &Host) {
        let cable = &self.cable;
        host.ns.ip(&format!("link set {cable} nomaster netns {}", self.ns.name()));
    }

    fn answers(&self, to: &str) -> bool {
        self.ns.output("ping", &["-c", "1", "-W", "1", to]).status.success()
    }

    #[track_caller]
    fn wait_for_answer(&self, to: &str) {
        wait_for(&format!("an answer of {to}"), PATIENCE, || self.answers(to).then_some(()));
    }
}

/// Has one machine send to another by TCP, and the other say how much it has got.
#[track_caller]
fn transfer(from: &NetNs, to: &NetNs, address: Ipv4Addr, len: usize) {
    let listener = to.inside(|| TcpListener::bind((address, 0)).expect("its own address"));
    let port = listener.local_addr().expect("an address").port();
    let got = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("all that is sent");
        bytes
    });
    let mut stream = from.inside(|| {
        TcpStream::connect_timeout(&(address, port).into(), PATIENCE).expect("the listener is there")
    });
    let sent: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
    stream.write_all(&sent).expect("the other end reads");
    drop(stream);
    assert!(got.join().expect("a thread that does not panic") == sent, "the bytes are the same");
}

#[test]
fn hosts_are_stations_of_one_segment() {
    run(|| {
        let crowd = crowd(3).up();
        crowd.wait_for_all_pairs(&[0, 1, 2], PATIENCE);
        let [near, far, third] = &crowd.hosts[..] else { unreachable!("three hosts") };
        near.ping(far.inner_v6.into(), &[]);
        near.ping(far.inner_v4.into(), &["-s", "1200"]);
        // Longer than the device takes at a time, and longer than a link does.
        near.ping(far.inner_v4.into(), &["-s", "4000"]);
        transfer(&near.ns, &far.ns, far.inner_v4, 8 << 20);
        transfer(&far.ns, &third.ns, third.inner_v4, 8 << 20);
        // Its hardware address is that of its key, and who asks for it asks nobody else once it is known.
        let before = near.counter("tx_proxied");
        near.ns.ip("neigh flush dev ipop0");
        near.ping(far.inner_v4.into(), &[]);
        near.wait_for_counter("tx_proxied", before, 1);
    });
}

#[test]
fn stations_behind_bridges_reach_each_other_and_one_may_move() {
    run(|| stations_reach_each_other_and_one_moves(&bridged(crowd(3))));
}

#[test]
fn so_they_do_without_a_kernel_path() {
    run(|| {
        let mut crowd = crowd(3);
        for host in &mut crowd.hosts {
            host.config.datapath.insert("kernel", "off".to_owned());
        }
        stations_reach_each_other_and_one_moves(&bridged(crowd));
    });
}

#[track_caller]
fn stations_reach_each_other_and_one_moves(crowd: &Crowd) {
    let [first, second, third] = &crowd.hosts[..] else { unreachable!("three hosts") };
    let (left, right) = (Station::plugged_in(second, 101), Station::plugged_in(third, 102));
    left.wait_for_answer("10.128.0.102");
    right.wait_for_answer("10.128.0.1");
    right.wait_for_answer("fd00:128::101");
    transfer(&left.ns, &right.ns, right.address, 8 << 20);
    transfer(&right.ns, &first.ns, first.inner_v4, 4 << 20);
    let known = first.ask("/v1/stations");
    for (mac, host) in [(left.mac, second), (right.mac, third)] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let rows = known["stations"].as_array().expect("a table");
        let row = rows.iter().find(|row| row["mac"] == *mac).expect("a station that has spoken");
        assert_eq!(row["node"]["address"], host.ask("/v1/status")["address"], "{row}");
    }
    // Frames as long as on any Ethernet, and with a tag, which the overlay does not look at.
    left.ns.succeed("ping", &["-c", "3", "-i", "0.2", "-s", "1472", "-M", "do", "10.128.0.102"]);
    let (sender, listener) = (Tap::open_in(&left.ns, "eth0"), Tap::open_in(&right.ns, "eth0"));
    for (to, text) in [(right.mac, b"one with a tag"), ([0xff; 6], b"all with a tag")] {
        let tag = [0x81, 0, 0, 7, 0x88, 0xb6];
        sender.send(&[&to[..], &left.mac, &tag, text, &[0; 40]].concat());
        assert!(listener.sees(text, SOON), "{to:?}");
    }

    // It goes on at another place, and its address with it.
    left.unplug(second);
    left.plug_in(third);
    left.wait_for_answer("10.128.0.1");
    wait_for("the way back to the station", PATIENCE, || {
        let to = left.address.to_string();
        first.ns.output("ping", &["-c", "1", "-W", "1", &to]).status.success().then_some(())
    });
}

#[test]
fn a_segment_that_two_nodes_bridge_makes_no_loop() {
    run(|| {
        let crowd = bridged(crowd(3));
        let [first, second, third] = &crowd.hosts[..] else { unreachable!("three hosts") };
        // A cable between the two bridges.
        second.ns.ip(&format!("link add trunk type veth peer name trunk netns {}", third.ns.name()));
        for host in [second, third] {
            host.ns.ip("link set trunk master br0 up");
        }
        let shut = |host: &Host| host.ask("/v1/status")["warnings"].to_string().contains("same segment");
        wait_for("one of the two to stand back", PATIENCE, || (shut(second) != shut(third)).then_some(()));
        let station = Station::plugged_in(second, 101);
        station.wait_for_answer("10.128.0.1");
        // What is sent to all is heard once, and goes round nowhere.
        let sent = |host: &Host| host.counter("tx_multicast") + host.counter("rx_multicast");
        let before: u64 = crowd.hosts.iter().map(sent).sum();
        for _ in 0..3 {
            assert!(station.answers("10.128.0.1"));
        }
        let after: u64 = crowd.hosts.iter().map(sent).sum();
        assert!(after - before < 100, "{before} frames to all, then {after}");
        // The one that stood back takes over when the other is gone.
        let gone = if shut(second) { third } else { second };
        gone.ns.ip("link set trunk down");
        wait_for("both to take frames", PATIENCE, || (!shut(second) && !shut(third)).then_some(()));
        station.wait_for_answer(&first.inner_v4.to_string());
    });
}

#[test]
fn addresses_of_others_are_not_taken_by_whoever_says_so() {
    run(|| {
        let mut crowd = crowd(3);
        crowd.hosts[2].config.addresses = Some(Vec::new());
        let crowd = crowd.up();
        let [first, second, third] = &crowd.hosts[..] else { unreachable!("three hosts") };
        bridge(third);
        crowd.wait_for_all_pairs(&[0, 1], PATIENCE);
        let spoofer = Station::plugged_in(third, 103);
        spoofer.wait_for_answer("10.128.0.1");
        // It says that the second host's address is its own.
        let before = first.counter("rx_spoofed_address");
        spoofer.ns.ip(&format!("addr add {}/24 dev eth0", second.inner_v4));
        spoofer.ns.sysctl("net.ipv4.conf.eth0.arp_notify", "1");
        wait_for("the false word to be refused", SOON, || {
            spoofer.ns.ip("link set eth0 address 02:aa:00:00:00:67");
            (first.counter("rx_spoofed_address") > before).then_some(())
        });
        first.ping(second.inner_v4.into(), &[]);
        // And the hardware address of its device.
        let device = first.ns.ip("-o link show ipop0");
        let mac = device.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC");
        spoofer.ns.ip("link set eth0 down");
        spoofer.ns.ip(&format!("link set eth0 address {mac}"));
        let before = third.counter("tx_foreign_station");
        spoofer.ns.ip("link set eth0 up");
        third.wait_for_counter("tx_foreign_station", before, 1);
        first.ping(second.inner_v4.into(), &[]);
    });
}
