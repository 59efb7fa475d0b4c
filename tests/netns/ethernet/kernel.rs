//! Frames that the kernel path carries: which, and what the daemon sees of their stations all the same.

use std::time::Duration;

use super::{PATIENCE, Station, bridged, crowd, transfer};
use crate::lab::crowd::Crowd;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::udp::super_packets;
use crate::lab::{Host, How, Packets, SOON, run, wait_for};

/// Packets of all hosts, by path.
fn packets(crowd: &Crowd) -> Packets {
    crowd.hosts.iter().map(Host::packets).fold(Packets::default(), std::ops::Add::add)
}

/// What `body` sends goes by the kernel: of its packets the user path sees few.
#[track_caller]
fn by_kernel(crowd: &Crowd, body: impl FnOnce()) {
    let before = packets(crowd);
    body();
    let sent = packets(crowd) - before;
    assert!(sent.kernel > 1000 && sent.kernel > 20 * sent.user, "{sent:?}");
}

fn clear(mut crowd: Crowd) -> Crowd {
    for host in &mut crowd.hosts {
        host.config.datapath.insert("security", "clear-if-trusted".to_owned());
    }
    crowd
}

#[test]
fn clear_frames_go_by_the_kernel() {
    run(|| {
        let crowd = clear(crowd(2)).up();
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        crowd.wait_for_path(1, 0, "direct-kernel", PATIENCE);
        let [near, far] = &crowd.hosts[..] else { unreachable!("two hosts") };
        by_kernel(&crowd, || {
            for v6 in [false, true] {
                Tcp::transfer(near, far, far.inner(v6), 64 * MIB);
                Tcp::transfer(far, near, near.inner(v6), 64 * MIB);
            }
        });
        near.ping(far.inner_v6.into(), &["-s", "1200"]);
        // Longer than the wire takes.
        near.ping(far.inner_v4.into(), &["-s", "4000"]);
        assert_eq!([near.lost(), far.lost()].concat(), []);
    });
}

/// As a merged frame they would never reach a socket without UDP_GRO: the VXLAN device takes those apart.
#[test]
fn super_packets_of_udp_arrive_in_frames() {
    run(|| {
        let crowd = clear(crowd(2)).up();
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        let [near, far] = &crowd.hosts[..] else { unreachable!("two hosts") };
        for v6 in [false, true] {
            // While the host asks for the address of a station it keeps few packets, and of these few.
            near.ping(far.inner(v6), &[]);
        }
        for (v6, gro) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(super_packets(near, far, far.inner(v6), 4000, gro), 4000, "IPv6 {v6}, GRO {gro}");
        }
    });
}

#[test]
fn clear_frames_go_by_xdp() {
    run(|| {
        let mut crowd = clear(crowd(2));
        for host in &mut crowd.hosts {
            host.config.datapath.insert("xdp", "native".to_owned());
        }
        let crowd = crowd.up();
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        crowd.wait_for_path(1, 0, "direct-kernel", PATIENCE);
        let [near, far] = &crowd.hosts[..] else { unreachable!("two hosts") };
        by_kernel(&crowd, || {
            for v6 in [false, true] {
                Tcp::transfer(near, far, far.inner(v6), 32 * MIB);
            }
        });
        assert!(far.counter("rx_xdp_decapsulated") > 1000);
        assert_eq!([near.lost(), far.lost()].concat(), []);
    });
}

#[test]
fn sealed_frames_are_sealed_and_opened_by_the_kernel() {
    run(|| {
        let crowd = crowd(2).up();
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        crowd.wait_for_path(1, 0, "direct-kernel", PATIENCE);
        let [near, far] = &crowd.hosts[..] else { unreachable!("two hosts") };
        let count = |name| near.counter(name) + far.counter(name);
        let before = (count("tx_sealed"), count("rx_opened"));
        for length in ["0", "1", "700", "1300"] {
            near.ping(far.inner_v4.into(), &["-s", length]);
            near.ping(far.inner_v6.into(), &["-s", length]);
        }
        // Requests and answers.
        let after = (count("tx_sealed"), count("rx_opened"));
        assert!(after.0 >= before.0 + 48 && after.1 >= before.1 + 48, "{before:?}, then {after:?}");
        // Checksums that a device was to complete; and super-packets, by the daemon.
        transfer(&near.ns, &far.ns, far.inner_v4, 8 << 20);
        Tcp::transfer(far, near, near.inner(true), 16 * MIB);
        assert_eq!([near.lost(), far.lost()].concat(), []);
    });
}

#[test]
fn stations_behind_bridges_go_by_the_kernel_and_are_followed() {
    run(|| {
        let crowd = bridged(clear(crowd(3)));
        let [first, second, third] = &crowd.hosts[..] else { unreachable!("three hosts") };
        let (left, right) = (Station::plugged_in(second, 101), Station::plugged_in(third, 102));
        for station in [&left, &right] {
            station.ns.ip("link set eth0 mtu 1400");
            station.wait_for_answer("10.128.0.1");
        }
        left.wait_for_answer("10.128.0.102");
        right.wait_for_answer("fd00:128::101");
        let settled = |name: &str, body: &dyn Fn()| {
            let before = crowd.hosts.iter().map(|host| host.counter(name)).sum::<u64>();
            body();
            wait_for(&format!("{name} to grow"), SOON, || {
                (crowd.hosts.iter().map(|host| host.counter(name)).sum::<u64>() > before).then_some(())
            });
        };
        by_kernel(&crowd, || {
            transfer(&left.ns, &right.ns, right.address, 32 << 20);
            transfer(&right.ns, &first.ns, first.inner_v4, 32 << 20);
        });
        // What is merged for a station behind a bridge is taken apart by the kernel's own device.
        settled("rx_to_stack", &|| transfer(&left.ns, &right.ns, right.address, 32 << 20));

        left.unplug(second);
        left.plug_in(third);
        left.wait_for_answer("10.128.0.1");
        wait_for("the way back to the station", PATIENCE, || {
            let to = left.address.to_string();
            first.ns.output("ping", &["-c", "1", "-W", "1", &to]).status.success().then_some(())
        });
        by_kernel(&crowd, || transfer(&first.ns, &left.ns, left.address, 32 << 20));
    });
}

#[test]
fn a_killed_daemon_is_not_missed_by_stations() {
    run(|| {
        let mut crowd = clear(crowd(2)).up();
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        let (near, far) = (0, 1);
        let tcp = Tcp::start(&crowd.hosts[near], &crowd.hosts[far], crowd.hosts[far].inner(false), None);
        tcp.wait_for_progress(MIB, SOON);
        crowd.hosts[near].take().kill();
        for _ in 0..8 {
            tcp.wait_for_progress(64 * MIB, Duration::from_secs(5));
        }
        crowd.hosts[near].start(&How::Plain);
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        tcp.wait_for_progress(64 * MIB, SOON);
        tcp.finish();
        assert!(crowd.hosts[near].log().contains("taking over the links"), "{}", crowd.hosts[near].log());
        by_kernel(&crowd, || {
            Tcp::transfer(&crowd.hosts[near], &crowd.hosts[far], crowd.hosts[far].inner(true), 64 * MIB);
        });
    });
}

#[test]
fn switched_off_and_on_frames_move_between_the_paths() {
    run(|| {
        let crowd = clear(crowd(2)).up();
        crowd.wait_for_path(0, 1, "direct-kernel", PATIENCE);
        let [near, far] = &crowd.hosts[..] else { unreachable!("two hosts") };
        let tcp = Tcp::start(near, far, far.inner(false), None);
        tcp.wait_for_progress(8 * MIB, SOON);
        for (to, path) in [("off", "direct-user"), ("on", "direct-kernel")] {
            near.ctl(&["datapath", "kernel", to]);
            crowd.wait_for_path(0, 1, path, PATIENCE);
            let before = near.packets();
            tcp.wait_for_progress(16 * MIB, SOON);
            let packets = near.packets() - before;
            match to {
                "off" => assert!(packets.user > 100, "{packets:?}"),
                _ => assert!(packets.kernel > 100, "{packets:?}"),
            }
        }
        tcp.finish();
    });
}
