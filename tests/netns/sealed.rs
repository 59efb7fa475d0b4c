//! Sealed links: single packets sealed in the kernel, super-packets in the daemon, and a flow that moves
//! between the two loses and reorders nothing; sessions that are renewed, lost, adopted and attacked.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::carry::traffic;
use crate::lab::beat::Beat;
use crate::lab::packet::Tap;
use crate::lab::tcp::{GIB, MIB, Tcp, kernel_counter};
use crate::lab::{How, Lab, Outer, SOON, Wire, run, wait_for, within};

/// Thirty times shorter: a session is renewed every four seconds.
const SHORT: How = How::Shortened(30);

/// How many segments both hosts have received out of order, and how often a sender has found order or
/// segments lost. Not what was sent again because a busy machine was late with an answer.
fn disorder(lab: &Lab) -> [u64; 3] {
    ["TCPOFOQueue", "TCPSACKReorder", "TCPFastRetrans"]
        .map(|name| kernel_counter(&lab.near, "TcpExt", name) + kernel_counter(&lab.far, "TcpExt", name))
}

/// Packets that were dropped or refused by either host, by name.
fn lost(lab: &Lab) -> Vec<(String, u64)> {
    [lab.near.lost(), lab.far.lost()].concat()
}
#[track_caller]
fn both_carry(lab: &Lab) {
    let packets = traffic(lab);
    assert!(packets.kernel > 100 && packets.user > 1000, "{packets:?}");
    let (sealed, opened) = (lab.near.counter("tx_sealed"), lab.far.counter("rx_opened"));
    assert!(sealed > 50 && opened > 50, "the kernel has sealed {sealed} and opened {opened}");
    assert_eq!(lost(lab), []);
}

#[test]
fn sealed_links_carry_everything_over_an_ipv4_wire() {
    run(|| both_carry(&Lab::plain().sealed().up("direct-kernel")));
}

#[test]
fn sealed_links_carry_everything_over_an_ipv6_wire() {
    run(|| both_carry(&Lab::new(Wire::Offload, 1500, Outer::V6).sealed().up("direct-kernel")));
}

#[test]
fn sealed_links_carry_everything_over_a_nic() {
    run(|| both_carry(&Lab::new(Wire::Nic, 1500, Outer::V4).sealed().up("direct-kernel")));
}

#[test]
fn sealed_links_carry_everything_over_a_nic_by_ipv6() {
    run(|| both_carry(&Lab::new(Wire::Nic, 1500, Outer::V6).sealed().up("direct-kernel")));
}

#[test]
fn sealed_links_carry_everything_beside_xdp() {
    run(|| both_carry(&Lab::plain().sealed().datapath("xdp", "native").up("direct-kernel")));
}

#[test]
fn sealed_links_carry_everything_by_several_queues() {
    run(|| {
        let lab = Lab::plain().sealed().datapath("queues", "3").up("direct-kernel");
        assert_eq!(lab.near.ask("/v1/status")["datapath"]["queues"], 3);
        both_carry(&lab);
    });
}

#[test]
fn sealed_in_the_daemon_alone_where_that_is_wanted() {
    run(|| {
        let lab = Lab::plain().sealed().datapath("seal", "user").up("direct-user");
        assert!(lab.near.peer()["path_reason"].as_str().is_some_and(|reason| reason.contains("seal")));
        let packets = traffic(&lab);
        assert!(packets.kernel == 0 && packets.user > 1000, "{packets:?}");
        assert_eq!(lost(&lab), []);
    });
}

#[test]
fn sealed_in_the_kernel_alone_where_that_is_wanted() {
    run(|| {
        let lab = Lab::plain().sealed().datapath("seal", "kernel").up("direct-kernel");
        lab.near.ping(lab.far.inner(false), &[]);
        let before = lab.packets();
        Tcp::transfer(&lab.near, &lab.far, lab.far.inner(false), 32 * MIB);
        Tcp::transfer(&lab.near, &lab.far, lab.far.inner(true), 32 * MIB);
        let packets = lab.packets() - before;
        assert!(packets.kernel > 10_000 && packets.user < 100, "{packets:?}");
        assert_eq!(lost(&lab), []);
    });
}

#[test]
fn without_a_kernel_path_the_daemons_seal() {
    run(|| {
        for io in ["io_uring", "epoll"] {
            let lab = Lab::plain().sealed().datapath("kernel", "off").datapath("io", io).up("direct-user");
            traffic(&lab);
            assert_eq!(lost(&lab), []);
        }
    });
}

#[test]
fn one_end_without_a_kernel_path_is_no_hindrance() {
    run(|| {
        for outer in [Outer::V4, Outer::V6] {
            let mut lab = Lab::new(Wire::Offload, 1500, outer).sealed();
            lab.far.config.datapath.insert("kernel", "off".to_owned());
            lab.start(&How::Plain);
            lab.far.wait_for_path("direct-user");
            let expected = if outer == Outer::V4 { "direct-kernel" } else { "direct-user" };
            lab.near.wait_for_path(expected);
            traffic(&lab);
            assert_eq!(lost(&lab), []);
        }
    });
}

#[test]
fn a_link_is_clear_only_if_both_ends_trust_the_wire() {
    run(|| {
        let mut lab = Lab::plain();
        lab.far.config.datapath.insert("security", "sealed".to_owned());
        let lab = lab.up("direct-kernel");
        let text = lab.near.ctl(&["explain", "n2"]);
        assert!(text.contains("the peer does not trust the wire"), "{text}");
        both_carry(&lab);
    });
}

/// A connection whose segments leave now singly, sealed by the kernel, and now as super-packets, sealed
/// by the daemon: small writes with pauses, then many bytes at once, again and again.
#[test]
fn a_flow_that_moves_between_kernel_and_daemon_is_not_reordered() {
    run(|| {
        for wire in [Wire::Offload, Wire::Nic] {
            let lab = Lab::new(wire, 1500, Outer::V4).sealed().up("direct-kernel");
            let address = SocketAddr::new(lab.far.inner(false), 0);
            let listener = lab.far.ns.inside(|| TcpListener::bind(address)).expect("a listener");
            let address = listener.local_addr().expect("its address");
            let mut out =
                lab.near.ns.inside(|| TcpStream::connect_timeout(&address, SOON)).expect("connected");
            out.set_nodelay(true).expect("TCP_NODELAY");
            let (mut stream, _) = listener.accept().expect("a connection");
            let receiver = std::thread::spawn(move || {
                std::io::copy(&mut stream, &mut std::io::sink()).expect("all is read")
            });
            let before = disorder(&lab);
            let (kernel_before, user_before) = (lab.near.counter("tx_sealed"), lab.near.counter("tx_bulk"));
            let bulk = vec![7; 1 << 20];
            let mut sent = 0;
            for round in 0..40u64 {
                out.write_all(&bulk).expect("bytes are sent");
                sent += bulk.len() as u64;
                // Shorter and longer than the quiet time after which a flow returns to the kernel.
                let pause = Duration::from_millis(round * 7 % 120);
                for _ in 0..20 {
                    out.write_all(&[1; 100]).expect("bytes are sent");
                    sent += 100;
                }
                let end = Instant::now() + pause;
                while Instant::now() < end {
                    std::thread::yield_now();
                }
                for _ in 0..20 {
                    out.write_all(&[2; 100]).expect("bytes are sent");
                    sent += 100;
                }
            }
            drop(out);
            assert_eq!(receiver.join().expect("the receiver ends"), sent);
            let (kernel, user) =
                (lab.near.counter("tx_sealed") - kernel_before, lab.near.counter("tx_bulk") - user_before);
            assert!(kernel > 20 && user > 20, "the flow moves: {kernel} by the kernel, {user} by the daemon");
            assert_eq!(disorder(&lab), before, "out of order or sent again, over {wire:?}");
            assert_eq!(lost(&lab), []);
        }
    });
}

#[test]
fn a_file_of_a_gibibyte_arrives() {
    run(|| {
        for wire in [Wire::Offload, Wire::Nic] {
            let lab = Lab::new(wire, 1500, Outer::V4).sealed().up("direct-kernel");
            let done = Tcp::transfer(&lab.near, &lab.far, lab.far.inner(false), GIB);
            println!("sealed, {wire:?}: {:.2} Gbit/s", done.gbps);
            assert_eq!(lost(&lab), []);
        }
    });
}

/// Handshake messages that both hosts have taken: two for each new session.
#[track_caller]
fn session_count(lab: &Lab) -> u64 {
    lab.near.counter("rx_handshake") + lab.far.counter("rx_handshake")
}

#[test]
fn sessions_are_renewed_under_traffic_and_nothing_is_lost() {
    run(|| {
        let mut lab = Lab::plain().sealed();
        lab.start(&SHORT);
        lab.wait_for_path("direct-kernel");
        let before = session_count(&lab);
        let tcp = Tcp::start(&lab.near, &lab.far, lab.far.inner(false), None);
        let beat = Beat::start(&lab.far, &lab.near, lab.near.inner(true));
        wait_for("three handshakes, of two messages each", SOON * 2, || {
            tcp.wait_for_progress(MIB, SOON);
            (session_count(&lab) >= before + 6).then_some(())
        });
        let heard = beat.finish();
        assert!(heard.is_whole(), "{heard:?}");
        tcp.finish();
        assert_eq!(lost(&lab), []);
    });
}

#[test]
fn an_idle_link_keeps_its_session_fresh() {
    run(|| {
        let mut lab = Lab::plain().sealed();
        lab.start(&SHORT);
        lab.wait_for_path("direct-kernel");
        let before = session_count(&lab);
        wait_for("sessions are renewed without traffic", SOON, || {
            (session_count(&lab) > before + 4).then_some(())
        });
        lab.near.ping(lab.far.inner(false), &[]);
    });
}

/// The far daemon's key file gives way to another's: a node that nobody knows.
#[test]
fn an_unknown_key_and_a_wrong_secret_get_nothing_and_are_counted() {
    run(|| {
        let mut lab = Lab::plain().sealed();
        lab.far.config.secret = "not the same secret at all".to_owned();
        lab.start(&How::Plain);
        // Whoever answers finds that the other has another secret only in the answer.
        wait_for("the wrong secret is counted", SOON, || {
            (lab.near.counter("rx_bad_handshake") + lab.far.counter("rx_bad_handshake") > 0).then_some(())
        });
        assert_eq!((lab.near.path(), lab.far.path()), ("none".to_owned(), "none".to_owned()));
        drop(lab);

        let mut lab = Lab::plain().sealed();
        std::fs::remove_file(lab.far.folder.join("key")).expect("there is a key");
        crate::lab::host::generate_key(&lab.far.folder.join("key"));
        // The near node knows the other key, and so waits to be called; it is called by nobody it knows.
        lab.near.config.peers[0].endpoint = None;
        lab.start(&How::Plain);
        lab.near.wait_for_counter("rx_unknown_peer", 0, 1);
        assert_eq!((lab.near.path(), lab.far.path()), ("none".to_owned(), "none".to_owned()));
    });
}

#[test]
fn recorded_packets_are_refused() {
    run(|| {
        let lab = Lab::plain().sealed().up("direct-kernel");
        let tap = Tap::open(&lab.far, lab.far.device);
        let beat = Beat::start(&lab.near, &lab.far, lab.far.inner(false));
        let mut recorded = Vec::new();
        let is_sealed = |frame: &[u8]| {
            frame.len() > 58
                && frame[12..14] == [8, 0]
                && frame[36..38] == 15_000u16.to_be_bytes()
                && frame[42] == 4
        };
        wait_for("packets are recorded", SOON, || {
            recorded.extend(tap.receive().filter(|frame| is_sealed(frame)));
            (recorded.len() >= 50).then_some(())
        });
        let heard = beat.finish();
        assert_eq!(heard.arrived, heard.sent);
        let replayer = Tap::open(&lab.near, lab.near.device);
        let before = lab.far.counter("rx_replay");
        let delivered = lab.far.counter("rx_opened");
        for frame in &recorded {
            replayer.send(frame);
        }
        let to_far: u64 =
            recorded.iter().filter(|frame| frame[30..34] == lab.far.outer_v4.octets()).count() as u64;
        lab.far.wait_for_counter("rx_replay", before, to_far);
        assert_eq!(lab.far.counter("rx_opened"), delivered, "none is delivered again");
        // And with each byte of one of them changed.
        let before = ["rx_bad_tag", "rx_unknown_index"].map(|name| lab.far.counter(name));
        let frame = recorded.iter().find(|frame| frame[30..34] == lab.far.outer_v4.octets()).expect("one");
        for at in 46..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0x20;
            replayer.send(&changed);
        }
        let changed = (frame.len() - 46) as u64;
        wait_for("each is refused", SOON, || {
            let after = ["rx_bad_tag", "rx_unknown_index"].map(|name| lab.far.counter(name));
            let refused: u64 = after.iter().zip(before).map(|(after, before)| after - before).sum();
            (refused >= changed - 8).then_some(())
        });
        assert_eq!(lab.far.counter("rx_opened"), delivered);
    });
}

#[test]
fn a_peer_that_moves_is_followed_by_its_packets() {
    run(|| {
        let mut lab = Lab::plain().sealed();
        lab.near.config.peers[0].endpoint = None;
        let lab = lab.up("direct-kernel");
        let tcp = Tcp::start(&lab.far, &lab.near, lab.near.inner(false), None);
        tcp.wait_for_progress(MIB, SOON);
        for address in ["10.200.0.77", "10.200.0.78"] {
            lab.far.move_to(address);
            wait_for("the peer is seen at its new address", SOON, || {
                lab.near.peer()["endpoint"].as_str()?.starts_with(address).then_some(())
            });
            tcp.wait_for_progress(MIB, SOON);
        }
        lab.wait_for_path("direct-kernel");
        tcp.finish();
    });
}

/// Kills daemons under sealed traffic, in bulk and singly, and starts them again.
#[track_caller]
fn a_killed_daemon(mut lab: Lab, both: bool) {
    let beat = Beat::start(&lab.near, &lab.far, lab.far.inner(false));
    let tcp = Tcp::start(&lab.far, &lab.near, lab.near.inner(true), None);
    tcp.wait_for_progress(MIB, SOON);
    lab.near.take().kill();
    if both {
        lab.far.take().kill();
    }
    // What the kernel seals goes on.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        beat.wait_for_next(SOON);
    }
    lab.near.start(&How::Plain);
    if both {
        lab.far.start(&How::Plain);
    }
    lab.wait_for_path("direct-kernel");
    tcp.wait_for_progress(16 * MIB, SOON);
    wait_for("the successor makes a session of its own", SOON * 2, || {
        (lab.near.counter("rx_handshake") + lab.far.counter("rx_handshake") > 0
            && lab.near.peer()["last_handshake_s"].as_u64()? < 5)
            .then_some(())
    });
    tcp.wait_for_progress(16 * MIB, SOON);
    let heard = beat.finish();
    assert!(heard.is_whole(), "{heard:?}");
    tcp.finish();
}

#[test]
fn a_killed_daemon_is_not_missed_and_its_successor_makes_new_keys() {
    run(|| a_killed_daemon(Lab::plain().sealed().up("direct-kernel"), false));
}

#[test]
fn two_killed_daemons_are_not_missed() {
    run(|| a_killed_daemon(Lab::plain().sealed().up("direct-kernel"), true));
}

#[test]
fn without_a_daemon_the_kernel_path_ends_with_its_key() {
    run(|| {
        let mut lab = Lab::plain().sealed();
        // Nine seconds.
        lab.start(&How::Shortened(20));
        lab.wait_for_path("direct-kernel");
        lab.near.ping(lab.far.inner(false), &[]);
        let killed = Instant::now();
        lab.far.take().kill();
        let target = lab.far.inner(false).to_string();
        let answers = |lab: &Lab| {
            let ping = ["-n", "-q", "-c", "1", "-W", "1", target.as_str()];
            lab.near.ns.output("ping", &ping).status.success()
        };
        assert!(answers(&lab), "the kernel goes on");
        wait_for("nothing is answered any more", SOON * 2, || (!answers(&lab)).then_some(()));
        assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    });
}

#[test]
fn a_daemon_that_ends_leaves_no_keys() {
    run(|| {
        let mut lab = Lab::plain().sealed().up("direct-kernel");
        let before = lab.far.counter("rx_hello");
        lab.far.wait_for_counter("rx_hello", before, 1);
        assert!(lab.near.take().terminate().success());
        let told = within(SOON, || (lab.far.path() == "none").then_some(()));
        assert!(told.is_some(), "the peer is told");
    });
}

/// Secrets as they could be written: of the configuration, the key, and what follows from them.
fn secrets(lab: &Lab) -> Vec<Vec<u8>> {
    let mut secrets = vec![lab.near.config.secret.clone().into_bytes()];
    for host in [&lab.near, &lab.far] {
        let key = std::fs::read_to_string(host.folder.join("key")).expect("there is a key");
        secrets.push(key.trim().as_bytes().to_vec());
    }
    secrets
}

#[test]
fn secrets_are_in_no_log_answer_error_or_core_dump() {
    run(|| {
        let lab = Lab::plain().sealed().up("direct-kernel");
        lab.near.ping(lab.far.inner(false), &[]);
        let mut texts = vec![lab.near.log(), lab.far.log()];
        for path in ["/v1/status", "/v1/peers", "/v1/links", "/v1/routes", "/v1/counters"] {
            texts.push(lab.near.ask(path).to_string());
        }
        texts.push(lab.near.ctl(&["--json", "explain", "n2"]));
        for secret in secrets(&lab) {
            for text in &texts {
                let found = text.as_bytes().windows(secret.len()).any(|window| window == secret);
                assert!(!found, "a secret is in {}", &text[..text.len().min(200)]);
            }
        }
        // Killed by a signal that dumps core.
        let mut daemon = { lab }.near.take();
        daemon.signal(Signal::SIGABRT);
        let status = daemon.ended();
        assert!(status.signal() == Some(libc::SIGABRT) && !status.core_dumped(), "{status}");
    });
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    run(|| {
        let lab = Lab::plain().sealed();
        let key = lab.near.folder.join("key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("its mode is set");
        let mut daemon = lab.near.launch(&How::Plain);
        assert_eq!(daemon.ended().code(), Some(1));
        let log = lab.near.log();
        let last: Vec<&str> = log.lines().filter(|line| line.starts_with("ipopd: ")).collect();
        assert!(last.len() == 1 && last[0].contains("chmod 600"), "{last:?}");
    });
}
