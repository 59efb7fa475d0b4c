//! WireGuards of others as peers, which know nothing of ours: no hello, no IPOP. Each test runs against each of
//! them; the kernel's is on the kernels that have it (`cargo xtask test --vm`).

use std::time::Duration;

use ipop_tests::privilege::unless_full;

use crate::lab::beat::{Beat, is_emulated};
use crate::lab::host::generate_key;
use crate::lab::packet::{Tap, USER_PORT};
use crate::lab::tcp::{GIB, MIB, Tcp};
use crate::lab::wireguard::{PORT, Stock, WireGuard, plain};
use crate::lab::{Host, How, Lab, Outer, SOON, Wire, run_unless, wait_for};

/// Their sessions last as long as the paper says: 120 s, then who began it begins another.
const THEIR_SESSION: Duration = Duration::from_secs(120);
/// Bytes of a message without a packet: header and tag.
const KEEPALIVE_LEN: u16 = 32;

/// The tests, once for each WireGuard: those that always run, and the slow ones.
macro_rules! against {
    ($($wireguard:ident as $module:ident),*; $always:tt $slow:tt) => {
        $(mod $module {
            use super::*;
            tests!($wireguard, None, $always);
            tests!($wireguard, unless_full(), $slow);
        })*
    };
}

macro_rules! tests {
    ($wireguard:ident, $reason:expr, [$($test:ident),*]) => {
        $(#[test]
        fn $test() {
            let reason = || $reason.or_else(|| WireGuard::$wireguard.reason_to_skip());
            run_unless(reason, || super::$test(WireGuard::$wireguard));
        })*
    };
}

against! {
    Go as wireguard_go, Boringtun as boringtun, Kernel as in_the_kernel;
    [
        a_session_that_we_begin_carries_everything,
        a_session_that_they_begin_carries_everything,
        we_renew_under_traffic_and_nothing_is_lost,
        who_moves_is_followed,
        keepalives_are_seen_at_both_ends,
        a_peer_that_starts_anew_is_met_again,
        a_killed_daemon_of_ours_is_not_missed,
        a_file_arrives_in_each_direction,
        who_lacks_the_secret_gets_nothing,
        whose_key_we_do_not_know_gets_nothing
    ]
    [
        they_renew_under_traffic_and_nothing_is_lost,
        a_gibibyte_arrives_in_each_direction
    ]
}

/// Who knows where the other is, and so begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    We,
    They,
}

/// Two that are to meet.
#[derive(Clone, Copy, Debug)]
struct Meeting {
    wireguard: WireGuard,
    outer: Outer,
    begins: Begins,
}

impl Meeting {
    fn new(wireguard: WireGuard, begins: Begins) -> Self {
        Self { wireguard, outer: Outer::V4, begins }
    }

    /// Our host, near, and one that is to be theirs, far. Nothing runs yet.
    fn lab(self) -> Lab {
        let mut lab = Lab::new(Wire::Offload, 1500, self.outer).sealed();
        let theirs = lab.far.endpoint(self.outer, PORT);
        lab.near.config.peers[0].endpoint = (self.begins == Begins::We).then_some(theirs);
        lab
    }

    /// Starts theirs; `more` is what `wg` is to be told of us besides.
    #[track_caller]
    fn theirs<'a>(self, near: &Host, far: &'a Host, more: &[&str]) -> Stock<'a> {
        let ours = near.endpoint(self.outer, USER_PORT);
        let endpoint = if self.begins == Begins::They { &["endpoint", &ours][..] } else { &[] };
        Stock::start(self.wireguard, far, near, &[endpoint, more].concat())
    }

    /// Waits until there is a session, on the path that there is to be.
    #[track_caller]
    fn happens(self, lab: &Lab) {
        if self.begins == Begins::They {
            wait_for("they reach us", SOON, || they_reach_us(lab).then_some(()));
        }
        lab.near.wait_for_path(self.path());
    }

    /// Without a hello nobody says that a checksum may be missing, which over IPv4 it always may.
    fn path(self) -> &'static str {
        if self.outer == Outer::V4 { "direct-kernel" } else { "direct-user" }
    }

    /// Starts what is theirs, then what is ours, waits until the two have met, and hands them on.
    #[track_caller]
    fn run(self, how: &How, more: &[&str], test: impl FnOnce(&Lab, &Stock<'_>)) {
        let mut lab = self.lab();
        let stock = self.theirs(&lab.near, &lab.far, more);
        lab.near.start(how);
        self.happens(&lab);
        test(&lab, &stock);
    }
}

/// A packet of theirs has an answer: a reason for them to begin.
fn they_reach_us(lab: &Lab) -> bool {
    let target = lab.near.inner(false).to_string();
    lab.far.ns.output("ping", &["-n", "-q", "-c", "1", "-W", "1", &target]).status.success()
}

#[track_caller]
fn carries_everything(wireguard: WireGuard, begins: Begins) {
    for outer in [Outer::V4, Outer::V6] {
        let meeting = Meeting { outer, ..Meeting::new(wireguard, begins) };
        meeting.run(&How::Plain, &[], |lab, stock| {
            wait_for("they know of a session", SOON, || stock.has_met_its_peer().then_some(()));
            lab.carry(16 * MIB);
            let peer = lab.near.peer();
            assert_eq!((&peer["path"], &peer["security"]), (&meeting.path().into(), &"sealed".into()));
            let (sealed, reason) = (lab.near.counter("tx_sealed"), peer["path_reason"].as_str());
            if outer == Outer::V4 {
                assert!(sealed > 50, "{sealed} packets are sealed in the kernel");
            } else {
                assert!(reason.is_some_and(|reason| reason.contains("UDP checksums")), "{reason:?}");
                assert_eq!(sealed, 0);
            }
            assert_eq!(lab.near.lost(), []);
        });
    }
}

fn a_session_that_we_begin_carries_everything(wireguard: WireGuard) {
    carries_everything(wireguard, Begins::We);
}

fn a_session_that_they_begin_carries_everything(wireguard: WireGuard) {
    carries_everything(wireguard, Begins::They);
}

/// Datagrams in both directions and of both families, until there have been so many handshakes more.
#[track_caller]
fn no_datagram_is_lost(lab: &Lab, handshakes: u64, patience: Duration) {
    let beats = [false, true].map(|v6| {
        [
            Beat::start(&lab.near, &lab.far, lab.far.inner(v6)),
            Beat::start(&lab.far, &lab.near, lab.near.inner(v6)),
        ]
    });
    until_renewed(lab, handshakes, patience, || {
        beats.iter().flatten().for_each(|beat| beat.wait_for_next(SOON));
    });
    for heard in beats.map(|both| both.map(Beat::finish)).as_flattened() {
        assert!(heard.is_whole(), "{heard:?}");
    }
    assert_eq!(lab.near.lost(), []);
}

/// The same with streams, which take all that the slower of the two ends has.
#[track_caller]
fn streams_go_on(lab: &Lab, handshakes: u64, patience: Duration) {
    let out = Tcp::start(&lab.near, &lab.far, lab.far.inner(false), None);
    let back = Tcp::start(&lab.far, &lab.near, lab.near.inner(true), None);
    until_renewed(lab, handshakes, patience, || {
        [&out, &back].iter().for_each(|tcp| tcp.wait_for_progress(MIB, SOON));
    });
    out.finish();
    back.finish();
    assert_eq!(lab.near.lost(), []);
}

#[track_caller]
fn until_renewed(lab: &Lab, handshakes: u64, patience: Duration, mut goes_on: impl FnMut()) {
    let before = lab.near.counter("rx_handshake");
    wait_for("sessions are renewed", patience, || {
        goes_on();
        (lab.near.counter("rx_handshake") >= before + handshakes).then_some(())
    });
    goes_on();
}

/// Every twelve seconds, and they answer: within half a second, or are asked anew, and an answer to what
/// was asked before is none. Where a stream has all of an emulated machine they take longer than that.
fn we_renew_under_traffic_and_nothing_is_lost(wireguard: WireGuard) {
    let (times_faster, renewal) = if is_emulated() { (2, SOON * 5) } else { (10, SOON) };
    Meeting::new(wireguard, Begins::We).run(&How::Shortened(times_faster), &[], |lab, _| {
        no_datagram_is_lost(lab, 2, renewal * 3);
        streams_go_on(lab, 1, renewal * 2);
    });
}

fn they_renew_under_traffic_and_nothing_is_lost(wireguard: WireGuard) {
    Meeting::new(wireguard, Begins::They).run(&How::Plain, &[], |lab, _| {
        no_datagram_is_lost(lab, 1, THEIR_SESSION + SOON);
        lab.carry(MIB);
    });
}

/// Neither is told; each learns it from the other's packets.
fn who_moves_is_followed(wireguard: WireGuard) {
    let meeting = Meeting::new(wireguard, Begins::We);
    meeting.run(&How::Plain, &[], |lab, stock| {
        let tcp = Tcp::start(&lab.far, &lab.near, lab.near.inner(false), None);
        let goes_on_with = |expected: &str, known: &dyn Fn() -> Option<String>| {
            wait_for(&format!("the other end knows {expected}"), SOON, || {
                (known()? == expected).then_some(())
            });
            tcp.wait_for_progress(MIB, SOON);
        };
        let where_they_are = || lab.near.peer()["endpoint"].as_str().map(str::to_owned);
        tcp.wait_for_progress(MIB, SOON);
        stock.set(&["listen-port", "51821"]);
        goes_on_with("10.200.0.2:51821", &where_they_are);
        lab.near.move_to("10.200.0.77");
        goes_on_with("10.200.0.77:15000", &|| Some(stock.endpoint()));
        // The daemons keep to the address that they sent from first, there or not.
        if wireguard == WireGuard::Kernel {
            lab.far.move_to("10.200.0.78");
            goes_on_with("10.200.0.78:51821", &where_they_are);
        }
        lab.near.wait_for_path(meeting.path());
        tcp.finish();
    });
}

fn keepalives_are_seen_at_both_ends(wireguard: WireGuard) {
    let theirs = ["persistent-keepalive", "1"];
    // Ours come in a quarter of the time after which a session is renewed: 1.5 s.
    Meeting::new(wireguard, Begins::We).run(&How::Shortened(20), &theirs, |lab, stock| {
        let wire = Tap::open(&lab.far, lab.far.device);
        let before = stock.received();
        wait_for("ours come, and are counted there", SOON, || {
            let frame = wire.receive()?;
            let is_ours = frame.get(26..30) == Some(&lab.near.outer_v4.octets());
            let is_keepalive = frame.get(38..40) == Some(&(8 + KEEPALIVE_LEN).to_be_bytes());
            // boringtun does not count them.
            let is_counted = stock.received() > before || wireguard == WireGuard::Boringtun;
            (is_ours && is_keepalive && is_counted).then_some(())
        });
        let before = lab.near.counter("rx_keepalive");
        lab.near.wait_for_counter("rx_keepalive", before, 3);
    });
}

/// All that it knew of sessions is gone: it begins, as it has something to say.
fn a_peer_that_starts_anew_is_met_again(wireguard: WireGuard) {
    let meeting = Meeting::new(wireguard, Begins::We);
    let mut lab = meeting.lab();
    let stock = meeting.theirs(&lab.near, &lab.far, &[]);
    lab.near.start(&How::Plain);
    meeting.happens(&lab);
    drop(stock);
    let meeting = Meeting::new(wireguard, Begins::They);
    let _stock = meeting.theirs(&lab.near, &lab.far, &[]);
    meeting.happens(&lab);
    lab.carry(MIB);
}

/// What the kernel seals goes on; the successor has other keys, and the peer takes that for a handshake.
fn a_killed_daemon_of_ours_is_not_missed(wireguard: WireGuard) {
    let meeting = Meeting::new(wireguard, Begins::We);
    let mut lab = meeting.lab();
    let _stock = meeting.theirs(&lab.near, &lab.far, &[]);
    lab.near.start(&How::Plain);
    meeting.happens(&lab);
    let tcp = Tcp::start(&lab.near, &lab.far, lab.far.inner(true), None);
    tcp.wait_for_progress(MIB, SOON);
    lab.near.take().kill();
    lab.near.start(&How::Plain);
    meeting.happens(&lab);
    tcp.wait_for_progress(MIB, SOON);
    wait_for("the successor makes a session of its own", SOON, || {
        (lab.near.counter("rx_handshake") > 0 && lab.near.peer()["last_handshake_s"].as_u64()? < 5)
            .then_some(())
    });
    tcp.wait_for_progress(MIB, SOON);
    tcp.finish();
}

fn who_lacks_the_secret_gets_nothing(wireguard: WireGuard) {
    for begins in [Begins::We, Begins::They] {
        let meeting = Meeting::new(wireguard, begins);
        let mut lab = meeting.lab();
        // Any other: the private key will do.
        let other = lab.far.folder.join("key");
        let stock = meeting.theirs(&lab.near, &lab.far, &["preshared-key", plain(&other)]);
        lab.near.start(&How::Plain);
        if begins == Begins::We {
            // Who begins finds out by the answer.
            lab.near.wait_for_counter("rx_bad_handshake", 0, 1);
        } else {
            assert!(!they_reach_us(&lab));
            lab.near.wait_for_counter("rx_handshake", 0, 1);
        }
        assert_eq!((lab.near.path().as_str(), stock.has_met_its_peer()), ("none", false));
    }
}

fn whose_key_we_do_not_know_gets_nothing(wireguard: WireGuard) {
    let meeting = Meeting::new(wireguard, Begins::They);
    let mut lab = meeting.lab();
    let stock = meeting.theirs(&lab.near, &lab.far, &[]);
    lab.near.config.peers[0].key = generate_key(&lab.far.folder.join("another"));
    lab.near.start(&How::Plain);
    assert!(!they_reach_us(&lab));
    lab.near.wait_for_counter("rx_unknown_peer", 0, 1);
    assert_eq!((lab.near.path().as_str(), stock.has_met_its_peer()), ("none", false));
}

#[track_caller]
fn arrives_in_each_direction(wireguard: WireGuard, bytes: u64) {
    Meeting::new(wireguard, Begins::We).run(&How::Plain, &[], |lab, _| {
        let out = Tcp::transfer(&lab.near, &lab.far, lab.far.inner(false), bytes);
        let back = Tcp::transfer(&lab.far, &lab.near, lab.near.inner(true), bytes);
        println!("with {wireguard:?}: {:.2} Gbit/s there, {:.2} back", out.gbps, back.gbps);
        assert_eq!(lab.near.lost(), []);
    });
}

fn a_file_arrives_in_each_direction(wireguard: WireGuard) {
    arrives_in_each_direction(wireguard, 64 * MIB);
}

fn a_gibibyte_arrives_in_each_direction(wireguard: WireGuard) {
    arrives_in_each_direction(wireguard, GIB);
}
