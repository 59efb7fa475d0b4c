//! Hosts that UDP does not reach: TCP takes its place, and gives it back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::boxes::Kind;
use crate::lab::daemon::How;
use crate::lab::internet::{Families, Internet};
use crate::lab::packet::USER_PORT;
use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{Host, SOON, run};
use crate::roaming::is_survived;

/// UDP is looked for again after 20 s at the latest while there is traffic.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host that no datagrams reach or leave is a member like others: by TCP it reaches who can be connected to, and
/// all others by relays.
#[test]
fn who_has_no_udp_is_reached_by_tcp_and_by_relays() {
    run(|| {
        let mut net = Internet::new();
        let blocked = net.behind(Kind::UdpBlocked);
        let other = net.behind(Kind::UdpBlocked);
        let cone = net.behind(Kind::PortRestricted);
        let net = net.up();
        net.wait_for_path(blocked, 0, "direct-user", SOON);
        for to in [cone, other] {
            net.wait_for_path(blocked, to, "relay", SOON);
            net.wait_for_path(to, blocked, "relay", SOON);
            let address = net.hosts[to].inner(false);
            let tcp = Tcp::start(&net.hosts[blocked], &net.hosts[to], address, None);
            tcp.wait_for_progress(4 * MIB, PATIENCE);
            tcp.finish();
        }
        assert_eq!(net.gate(blocked).flows(), 0, "its datagrams end at the box");
    });
}

/// A firewall that lets no datagrams pass any more costs no connection, and neither does its end.
#[test]
fn a_link_goes_by_tcp_while_udp_is_blocked_and_by_udp_again_when_it_is_not() {
    run(|| {
        let mut net = Internet::new();
        let host = net.behind(Kind::Masquerade);
        let mut net = net.up();
        net.wait_for_path(host, 0, "direct-kernel", SOON);
        is_survived(&mut net, [host, 0], "UDP is blocked", |net| net.gate(host).block_udp());
        net.wait_for_path(host, 0, "direct-user", SOON);
        is_survived(&mut net, [host, 0], "UDP passes again", |net| {
            net.gate(host).pass_udp();
            net.wait_for_path(host, 0, "direct-kernel", PATIENCE);
        });
    });
}

/// Where no port but one passes, that one is enough.
#[test]
fn one_tcp_port_is_enough() {
    run(|| {
        let mut net = Internet::new();
        let blocked = net.behind(Kind::UdpBlocked);
        let cone = net.behind(Kind::FullCone);
        net.hosts[0].config.tcp = Some(vec!["tcp://0.0.0.0:443".to_owned()]);
        net.hosts[blocked].config.bootstrap = Some(vec!["tcp://198.51.100.1:443".to_owned()]);
        let net = net.up();
        net.wait_for_path(blocked, 0, "direct-user", SOON);
        net.wait_for_path(blocked, cone, "relay", SOON);
        let status = net.hosts[0].ask("/v1/status");
        assert_eq!(status["listen_tcp"][0], "0.0.0.0:443");
    });
}

/// A connection of somebody who is no member.
struct Stranger(TcpStream);

impl Stranger {
    #[track_caller]
    fn new(from: &Host, to: SocketAddr) -> Self {
        let stream = from.ns.inside(|| TcpStream::connect(to)).expect("it is accepted");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        Self(stream)
    }

    /// Waits until the other end has closed it; that nothing came.
    #[track_caller]
    fn ends(mut self) {
        match self.0.read(&mut [0; 64]) {
            Ok(0) => {}
            Ok(len) => panic!("{len} bytes for a stranger"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

#[test]
fn strangers_that_connect_get_nothing_and_take_no_place_from_members() {
    run(|| {
        let mut net = Internet::new();
        let stranger = net.public(Families::V4);
        let blocked = net.behind(Kind::UdpBlocked);
        // The stranger is no member: its daemon never starts.
        net.hosts[0].start(&How::Plain);
        let (host, stranger) = (&net.hosts[0], &net.hosts[stranger]);
        let at = SocketAddr::new(host.outer_v4.into(), USER_PORT);
        let refused = |counter: &str, least: u64, act: &dyn Fn()| {
            let before = host.counter(counter);
            act();
            host.wait_for_counter(counter, before, least);
        };
        refused("rx_bad_stream", 1, &|| {
            let mut nothing = Stranger::new(stranger, at);
            nothing.0.write_all(&[0, 0]).expect("it is sent");
            nothing.ends();
        });
        let garbage = Stranger::new(stranger, at);
        refused("rx_unknown_message", 1, &|| {
            (&garbage.0).write_all(&[0, 3, 0x77, 0x77, 0x77]).expect("it is sent");
        });
        garbage.0.shutdown(std::net::Shutdown::Write).expect("it is open");
        garbage.ends();
        // Members come in while one address holds all that it may, and more are refused.
        refused("rx_stream_flood", 1, &|| {
            let more: Vec<Stranger> = (0..20).map(|_| Stranger::new(stranger, at)).collect();
            more.into_iter().next_back().expect("one").ends();
        });
        let held: Vec<Stranger> = (0..8).map(|_| Stranger::new(stranger, at)).collect();
        net.hosts[blocked].start(&How::Plain);
        net.wait_for_path(blocked, 0, "direct-user", SOON);
        let host = &net.hosts[0];
        host.wait_for_counter("rx_stream_unused", 0, 1);
        held.into_iter().for_each(Stranger::ends);
    });
}
