//! The lab's boxes do to plain datagrams what their kinds say: tests of traversal rest on that.
//!
//! Who is not let through is seen by the box's counter, so that nothing is waited for in vain.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::lab::boxes::{Kind, Options};
use crate::lab::internet::{Families, Internet};
use crate::lab::{Host, SOON, run, wait_for};

/// Hosts use this port unless a test says otherwise.
const PORT: u16 = 15000;

/// A socket of a host.
struct Socket(UdpSocket);

impl Socket {
    #[track_caller]
    fn new(host: &Host, port: u16) -> Self {
        Self::at(host, host.outer_v4.into(), port)
    }

    #[track_caller]
    fn at(host: &Host, address: IpAddr, port: u16) -> Self {
        let socket = host.ns.inside(|| UdpSocket::bind((address, port))).expect("a UDP socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("its address")
    }

    #[track_caller]
    fn send(&self, to: SocketAddr) {
        self.0.send_to(b"hello", to).expect("the datagram is sent");
    }

    /// Where the next datagram comes from.
    #[track_caller]
    fn hear(&self) -> SocketAddr {
        self.0.recv_from(&mut [0; 16]).expect("a datagram comes").1
    }

    /// Whether nothing has come that was not heard.
    fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).expect("the socket takes this");
        let error = self.0.recv(&mut [0; 16]).err();
        self.0.set_nonblocking(false).expect("the socket takes this");
        error.is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// As what `to` sees this socket.
    #[track_caller]
    fn seen_by(&self, to: &Socket) -> SocketAddr {
        self.send(to.address());
        to.hear()
    }

    #[track_caller]
    fn reaches(&self, to: &Socket, by: SocketAddr) {
        self.send(by);
        assert_eq!(to.hear(), self.address(), "{by}");
    }
}

/// Two public hosts with two sockets each, and a host behind a box.
struct Scene {
    internet: Internet,
    /// Two of the first public host, one of the second.
    first: [Socket; 2],
    second: Socket,
    inner: usize,
}

impl Scene {
    fn new(make: impl FnOnce(&mut Internet) -> usize) -> Self {
        let mut internet = Internet::new();
        let other = internet.public(Families::V4);
        let inner = make(&mut internet);
        let first = [PORT, PORT + 1].map(|port| Socket::new(&internet.hosts[0], port));
        let second = Socket::new(&internet.hosts[other], PORT);
        Self { internet, first, second, inner }
    }

    fn behind(kind: Kind) -> Self {
        Self::new(|internet| internet.behind(kind))
    }

    fn inner_socket(&self) -> Socket {
        Socket::new(&self.internet.hosts[self.inner], PORT)
    }

    /// All public sockets.
    fn places(&self) -> [&Socket; 3] {
        [&self.first[0], &self.first[1], &self.second]
    }

    /// Ports that the public sockets see of another.
    #[track_caller]
    fn ports(&self, of: &Socket) -> Vec<u16> {
        let outside = self.internet.gate(self.inner).outside;
        let seen = self.places().map(|to| of.seen_by(to));
        assert!(seen.iter().all(|seen| seen.ip() == outside), "{seen:?}");
        seen.iter().map(SocketAddr::port).collect()
    }

    /// Sends, and waits until the box has refused it.
    #[track_caller]
    fn refused(&self, from: &Socket, to: SocketAddr) {
        let gate = self.internet.gate(self.inner);
        let before = gate.refused();
        from.send(to);
        wait_for("the box refuses a datagram", SOON, || (gate.refused() == before + 1).then_some(()));
    }
}

#[test]
fn behind_a_full_cone_everybody_reaches_a_port() {
    run(|| {
        let scene = Scene::behind(Kind::FullCone);
        let inner = scene.inner_socket();
        let seen = inner.seen_by(&scene.first[0]);
        for place in scene.places() {
            place.reaches(&inner, seen);
        }
        assert_eq!(scene.ports(&inner), [seen.port(); 3]);
        // A port that nobody has used is nobody's.
        scene.refused(&scene.second, SocketAddr::new(seen.ip(), seen.port() + 1));
    });
}

#[test]
fn behind_a_restricted_cone_addresses_that_were_sent_to_reach_a_port() {
    run(|| {
        let scene = Scene::behind(Kind::Restricted);
        let inner = scene.inner_socket();
        let seen = inner.seen_by(&scene.first[0]);
        scene.first[1].reaches(&inner, seen);
        scene.refused(&scene.second, seen);
        assert!(inner.is_silent());
        assert_eq!(scene.ports(&inner), [seen.port(); 3]);
        scene.second.reaches(&inner, seen);
    });
}

/// `masquerade` is a cone of this kind as long as hosts do not share ports.
#[test]
fn behind_a_port_restricted_cone_who_was_sent_to_reaches_a_port() {
    run(|| {
        for kind in [Kind::PortRestricted, Kind::Masquerade] {
            let scene = Scene::behind(kind);
            let inner = scene.inner_socket();
            let seen = inner.seen_by(&scene.first[0]);
            scene.first[0].reaches(&inner, seen);
            scene.refused(&scene.first[1], seen);
            scene.refused(&scene.second, seen);
            assert!(inner.is_silent());
            // Neither was it remembered: the port is the same for those who came too early.
            assert_eq!(scene.ports(&inner), [seen.port(); 3]);
            scene.first[1].reaches(&inner, seen);
            scene.second.reaches(&inner, seen);
            assert_eq!(seen.port() == PORT, kind == Kind::Masquerade);
        }
    });
}

#[test]
fn a_cone_gives_each_host_a_port_of_its_own() {
    run(|| {
        for kind in [Kind::FullCone, Kind::Restricted, Kind::PortRestricted] {
            let mut scene = Scene::behind(kind);
            let neighbour = scene.internet.behind_same(scene.inner);
            let (inner, other) = (scene.inner_socket(), Socket::new(&scene.internet.hosts[neighbour], PORT));
            let seen = inner.seen_by(&scene.first[0]);
            let ports = scene.ports(&other);
            assert_eq!(ports, [ports[0]; 3]);
            assert_ne!(ports[0], seen.port());
            assert_eq!(scene.ports(&inner), [seen.port(); 3]);
        }
    });
}

#[test]
fn masquerade_gives_two_hosts_one_port_unless_they_have_the_same_destination() {
    run(|| {
        let mut scene = Scene::behind(Kind::Masquerade);
        let neighbour = scene.internet.behind_same(scene.inner);
        let (inner, other) = (scene.inner_socket(), Socket::new(&scene.internet.hosts[neighbour], PORT));
        assert_eq!(inner.seen_by(&scene.first[0]).port(), PORT);
        assert_eq!(other.seen_by(&scene.second).port(), PORT);
        assert_ne!(other.seen_by(&scene.first[0]).port(), PORT);
    });
}

#[test]
fn a_predictable_box_uses_the_next_port_for_each_destination() {
    run(|| {
        let scene = Scene::behind(Kind::SymmetricPredictable);
        let inner = scene.inner_socket();
        let ports = scene.ports(&inner);
        assert_eq!(ports, [ports[0], ports[0] + 1, ports[0] + 2]);
        // A flow keeps its port, whoever sends.
        let outside = scene.internet.gate(scene.inner).outside;
        for (place, port) in scene.places().into_iter().zip(&ports) {
            place.reaches(&inner, (outside, *port).into());
        }
        assert_eq!(scene.ports(&inner), ports);
        for port in [ports[0], ports[2], ports[2] + 1] {
            scene.refused(&scene.first[1], (outside, port).into());
        }
        assert!(inner.is_silent());
        // Other sockets count on.
        let next = Socket::new(&scene.internet.hosts[scene.inner], PORT + 1);
        assert_eq!(next.seen_by(&scene.second).port(), ports[2] + 1);
    });
}

#[test]
fn a_random_box_uses_any_port_for_each_destination() {
    run(|| {
        let scene = Scene::behind(Kind::SymmetricRandom);
        let inner = scene.inner_socket();
        let ports = scene.ports(&inner);
        // That two of the three are the same by chance is possible, and that all are is not.
        assert!(ports.iter().any(|port| *port != ports[0]), "{ports:?}");
        assert!(ports.windows(2).any(|pair| pair[0].abs_diff(pair[1]) > 1), "{ports:?}");
        assert_eq!(scene.ports(&inner), ports);
        let outside = scene.internet.gate(scene.inner).outside;
        scene.second.reaches(&inner, (outside, ports[2]).into());
        scene.refused(&scene.second, (outside, PORT).into());
    });
}

#[test]
fn a_firewall_translates_nothing_and_lets_answers_in() {
    run(|| {
        let scene = Scene::behind(Kind::OutgoingOnly);
        let inner = scene.inner_socket();
        scene.refused(&scene.second, inner.address());
        assert_eq!(inner.seen_by(&scene.first[0]), inner.address());
        scene.first[0].reaches(&inner, inner.address());
        scene.refused(&scene.first[1], inner.address());
        scene.refused(&scene.second, inner.address());
        assert!(inner.is_silent());
    });
}

#[test]
fn where_udp_is_blocked_tcp_passes() {
    run(|| {
        let scene = Scene::behind(Kind::UdpBlocked);
        let inner = scene.inner_socket();
        scene.refused(&inner, scene.second.address());
        assert!(scene.second.is_silent());
        let hosts = &scene.internet.hosts;
        let place = SocketAddr::from((hosts[0].outer_v4, PORT));
        let listener = hosts[0].ns.inside(|| TcpListener::bind(place)).expect("a TCP socket");
        let _stream = hosts[scene.inner].ns.inside(|| TcpStream::connect_timeout(&place, SOON)).expect("TCP");
        let (_, from) = listener.accept().expect("a connection");
        assert_eq!(from.ip(), scene.internet.gate(scene.inner).outside);
        assert_eq!(scene.internet.gate(scene.inner).flows(), 0);
    });
}

#[test]
fn hosts_behind_a_box_with_a_hairpin_reach_each_other_from_outside() {
    run(|| {
        for kind in [Kind::FullCone, Kind::Restricted, Kind::PortRestricted] {
            let options = Options { hairpin: true, isolated: true, ..Options::default() };
            let mut scene = Scene::new(|internet| internet.behind_with(kind, options));
            let neighbour = scene.internet.behind_same(scene.inner);
            let (inner, other) = (scene.inner_socket(), Socket::new(&scene.internet.hosts[neighbour], PORT));
            let (inner_seen, other_seen) = (inner.seen_by(&scene.first[0]), other.seen_by(&scene.first[0]));
            if kind == Kind::FullCone {
                inner.send(other_seen);
            } else {
                // Who was not sent to is not let in, from behind the box either.
                scene.refused(&inner, other_seen);
                other.send(inner_seen);
                assert_eq!(inner.hear(), other_seen);
                inner.send(other_seen);
            }
            assert_eq!(other.hear(), inner_seen);
            other.send(inner_seen);
            assert_eq!(inner.hear(), other_seen);
            // As for others, the ports are what they were.
            assert_eq!(scene.ports(&inner), [inner_seen.port(); 3]);
            // Directly they do not reach each other.
            inner.send(other.address());
            inner.send(other_seen);
            assert_eq!(other.hear(), inner_seen);
            assert!(other.is_silent());
        }
    });
}

#[test]
fn without_a_hairpin_outside_addresses_lead_nowhere_from_behind() {
    run(|| {
        let mut scene = Scene::behind(Kind::FullCone);
        let neighbour = scene.internet.behind_same(scene.inner);
        let (inner, other) = (scene.inner_socket(), Socket::new(&scene.internet.hosts[neighbour], PORT));
        let seen = other.seen_by(&scene.first[0]);
        scene.refused(&inner, seen);
        assert!(other.is_silent());
        // They are on one LAN.
        assert_eq!(inner.seen_by(&other), inner.address());
    });
}

#[test]
fn behind_two_boxes_both_filter_and_the_outer_is_seen() {
    run(|| {
        let scene = Scene::new(|internet| internet.double(Kind::PortRestricted, Kind::FullCone));
        let (gate, host) = (scene.internet.gate(scene.inner), scene.inner_socket());
        let outer = &scene.internet.boxes[scene.internet.box_of(scene.inner) - 1];
        let seen = host.seen_by(&scene.first[0]);
        assert_eq!(seen.ip(), outer.outside);
        scene.first[0].reaches(&host, seen);
        // The outer box lets it through, the inner one does not.
        scene.refused(&scene.second, seen);
        assert_eq!(outer.refused(), 0);
        assert_eq!(host.seen_by(&scene.second), seen);
        scene.second.reaches(&host, seen);
        // That of the one who was refused at first began outside, and goes on.
        assert_eq!((outer.flows(), gate.flows()), (2, 2));
    });
}

#[test]
fn a_box_that_has_rebooted_knows_nobody() {
    run(|| {
        let kinds = [Kind::PortRestricted, Kind::Masquerade, Kind::SymmetricPredictable, Kind::FullCone];
        for kind in kinds {
            let scene = Scene::behind(kind);
            let (gate, inner) = (scene.internet.gate(scene.inner), scene.inner_socket());
            let seen = inner.seen_by(&scene.second);
            scene.second.reaches(&inner, seen);
            assert_eq!((gate.flows(), gate.remembered()), (1, 1), "{kind:?}");
            gate.reboot();
            assert_eq!((gate.flows(), gate.remembered()), (1, 0), "{kind:?}");
            scene.refused(&scene.second, seen);
            let again = inner.seen_by(&scene.second);
            assert_eq!(again == seen, kind == Kind::Masquerade, "{kind:?}");
            scene.second.reaches(&inner, again);
            assert_eq!((gate.flows(), gate.remembered()), (2, 1), "{kind:?}");
        }
    });
}

#[test]
fn a_flow_counts_once_however_much_it_carries() {
    run(|| {
        let scene = Scene::behind(Kind::SymmetricRandom);
        let (gate, inner) = (scene.internet.gate(scene.inner), scene.inner_socket());
        for _ in 0..3 {
            scene.ports(&inner);
        }
        assert_eq!((gate.flows(), gate.remembered()), (3, 3));
        let other = Socket::new(&scene.internet.hosts[scene.inner], PORT + 1);
        other.seen_by(&scene.second);
        assert_eq!((gate.flows(), gate.remembered()), (4, 4));
    });
}

#[test]
fn a_box_forgets_after_its_timeouts() {
    run(|| {
        let options = Options { udp_timeout: 1, ..Options::default() };
        let scene = Scene::new(|internet| internet.behind_with(Kind::Masquerade, options));
        let (gate, inner) = (scene.internet.gate(scene.inner), scene.inner_socket());
        let seen = inner.seen_by(&scene.first[0]);
        wait_for("the flow is forgotten", SOON, || (gate.remembered() == 0).then_some(()));
        scene.refused(&scene.first[0], seen);
    });
}

#[test]
fn ipv6_goes_through_a_box_as_through_a_firewall() {
    run(|| {
        let options = Options { v6: true, ..Options::default() };
        let mut scene = Scene::new(|internet| internet.behind_with(Kind::SymmetricRandom, options));
        let modern = scene.internet.public(Families::V6);
        let [way_in, modern, inner] =
            [0, modern, scene.inner].map(|number| &scene.internet.hosts[number]).map(|host| {
                let address = IpAddr::from(host.outer_v6);
                Socket::at(host, address, PORT)
            });
        assert_eq!(modern.seen_by(&way_in), modern.address());
        scene.refused(&modern, inner.address());
        assert_eq!(inner.seen_by(&modern), inner.address());
        modern.reaches(&inner, inner.address());
        scene.refused(&way_in, inner.address());
        assert!(inner.is_silent());
        assert_eq!(scene.internet.gate(scene.inner).flows(), 1);
    });
}

/// Hosts of this internet run daemons as others do; how these find ways through boxes is tested elsewhere.
#[test]
fn daemons_on_this_internet_reach_the_way_in() {
    run(|| {
        let mut internet = Internet::new();
        let behind = internet.behind(Kind::PortRestricted);
        let modern = internet.public(Families::V6);
        let internet = internet.up();
        internet.wait_for_all_pairs(&[0, behind], SOON);
        internet.wait_for_all_pairs(&[0, modern], SOON);
        internet.wait_for_path(behind, 0, "direct", SOON);
    });
}
