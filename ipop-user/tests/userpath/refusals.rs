//! Packets that cannot be carried: the sender is told by ICMP, or the outer packet is fragmented;
//! each is counted.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use ipop_common::Counter;

use crate::wire::{DEADLINE, INNER, Node, Options, Wire, inside, wait_for};

/// Makes a socket report errors that are not final (IP_RECVERR, IPV6_RECVERR).
fn report_errors(socket: &UdpSocket, family: usize) {
    let option = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)][family];
    set_option(socket, option, 1);
}

/// IP_MTU_DISCOVER and IPV6_MTU_DISCOVER.
#[derive(Clone, Copy)]
enum Discovery {
    /// The sender sets DF and is told what fits.
    Do,
    /// The sender does not.
    Dont,
}

/// A socket on node a, connected to one on node b.
fn pair(wire: &Wire, family: usize, discovery: Discovery) -> (UdpSocket, UdpSocket) {
    let to = socket_on(&wire.b, INNER[1][family]);
    let from = socket_on(&wire.a, INNER[0][family]);
    from.connect(to.local_addr().unwrap()).unwrap();
    to.set_read_timeout(Some(DEADLINE)).unwrap();
    set_discovery(&from, family, discovery);
    (from, to)
}

fn socket_on(node: &Node, ip: &str) -> UdpSocket {
    inside(&node.netns, || UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap())
}

fn set_discovery(socket: &UdpSocket, family: usize, discovery: Discovery) {
    let option =
        [(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)][family];
    let value = match discovery {
        Discovery::Do => libc::IP_PMTUDISC_DO,
        Discovery::Dont => libc::IP_PMTUDISC_DONT,
    };
    set_option(socket, option, value);
}

fn set_option(socket: &UdpSocket, (level, option): (libc::c_int, libc::c_int), value: libc::c_int) {
    // SAFETY: the kernel reads one int through the pointer.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(result, 0);
}

/// The path MTU that the kernel has learned for a connected socket.
fn path_mtu(socket: &UdpSocket, family: usize) -> i32 {
    let (level, option) = [(libc::IPPROTO_IP, libc::IP_MTU), (libc::IPPROTO_IPV6, libc::IPV6_MTU)][family];
    let (mut value, mut len): (libc::c_int, libc::socklen_t) = (0, 4);
    // SAFETY: the kernel writes one int and its length through the pointers.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    assert_eq!(result, 0);
    value
}

/// Sends until the socket reports an error, which it has to.
fn error_of(socket: &UdpSocket) -> ErrorKind {
    let mut found = None;
    wait_for("an ICMP error arrives", || {
        found = socket.send(b"is anybody there").err().map(|error| error.kind());
        found.is_some()
    });
    found.unwrap()
}

with_both_engines! {
    fn a_sender_that_asks_is_told_what_fits(io) {
        let wire = Wire::new(Options { link_mtu: 1300, tun_mtu: 1500, ..Options::new(io) });
        for family in [0, 1] {
            let (from, to) = pair(&wire, family, Discovery::Do);
            let before = wire.a.count(Counter::TxTooBig);
            from.send(&[1; 1400]).unwrap();
            wait_for("the path MTU is learned", || path_mtu(&from, family) == 1300);
            assert_eq!(wire.a.count(Counter::TxTooBig), before + 1);
            from.send(&[2; 1400]).unwrap_err();
            // The error that came by ICMP may still have to be reported, once.
            wait_for("smaller packets go", || from.send(&[3; 1200]).is_ok());
            let mut bytes = [0; 2000];
            assert_eq!(to.recv(&mut bytes).unwrap(), 1200);
        }
    }

    fn a_packet_that_may_be_fragmented_is_fragmented_outside(io) {
        let wire = Wire::new(Options { tun_mtu: 4000, ..Options::new(io) });
        let (from, to) = pair(&wire, 0, Discovery::Dont);
        from.send(&[7; 3900]).unwrap();
        let mut bytes = [0; 5000];
        assert_eq!(to.recv(&mut bytes).unwrap(), 3900);
        assert_eq!(wire.a.count(Counter::TxFragmented), 1);
        assert!(wire.b.kernel_counter("snmp", "Ip:", "ReasmOKs") >= 1);
    }

    fn ipv6_has_its_1280_bytes_on_a_smaller_link(io) {
        let wire = Wire::new(Options { wire_mtu: 1290, tun_mtu: 1280, ..Options::new(io) });
        let (from, to) = pair(&wire, 1, Discovery::Do);
        from.send(&[7; 1232]).unwrap();
        let mut bytes = [0; 2000];
        assert_eq!(to.recv(&mut bytes).unwrap(), 1232);
        assert_eq!(wire.a.count(Counter::TxFragmented), 1);
        assert_eq!(wire.a.count(Counter::TxTooBig), 0);
    }

    fn outer_ipv6_packets_are_fragmented_too(io) {
        let wire = Wire::new(Options { outer_v6: true, wire_mtu: 1290, tun_mtu: 1280, ..Options::new(io) });
        for (family, discovery) in [(0, Discovery::Dont), (1, Discovery::Do)] {
            let (from, to) = pair(&wire, family, discovery);
            from.send(&[7; 1232]).unwrap();
            let mut bytes = [0; 2000];
            assert_eq!(to.recv(&mut bytes).unwrap(), 1232);
        }
        assert_eq!(wire.a.count(Counter::TxFragmented), 2);
    }

    fn an_unreachable_peer_is_reported_and_comes_back(io) {
        let wire = Wire::new(Options::new(io));
        for family in [0, 1] {
            let (from, to) = pair(&wire, family, Discovery::Do);
            report_errors(&from, family);
            wire.a.change_link(|link| link.reachable = false);
            assert_eq!(error_of(&from), ErrorKind::HostUnreachable);
            assert!(wire.a.count(Counter::TxUnreachable) > 0);
            wire.a.change_link(|link| link.reachable = true);
            // Errors that were on their way may still have to be reported.
            wait_for("packets go again", || from.send(b"hello again").is_ok());
            let mut bytes = [0; 100];
            to.recv(&mut bytes).unwrap();
        }
    }

    fn an_address_without_a_link_is_unreachable(io) {
        let wire = Wire::new(Options::new(io));
        for (family, target) in [(0, "10.128.0.77:9"), (1, "[fd00:128::77]:9")] {
            let socket = socket_on(&wire.a, INNER[0][family]);
            report_errors(&socket, family);
            socket.connect(target.parse::<SocketAddr>().unwrap()).unwrap();
            let before = wire.a.count(Counter::TxNoRoute);
            assert_eq!(error_of(&socket), ErrorKind::HostUnreachable);
            assert!(wire.a.count(Counter::TxNoRoute) > before);
        }
    }
}
