//! Two hosts' sessions, and datagrams that the test hands from one to the other.

use std::net::SocketAddr;

use super::*;

const PEER: PeerId = PeerId(0);

fn key(host: usize) -> [u8; 32] {
    [host as u8 + 1; 32]
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn udp(host: usize) -> Endpoint {
    Endpoint::Udp(SocketAddr::from(([192, 0, 2, host as u8], 1)))
}

fn overlay(host: usize) -> Endpoint {
    Endpoint::Overlay(NodeAddress::of_key(&key(host)))
}

/// Two that know of each other, the first also where the second is.
fn two() -> [Sessions; 2] {
    let mut two = [0, 1].map(|host| Sessions::new(key(host), 1000 * host as u32));
    two[0].add(PEER, key(1), Some(udp(1)));
    two[1].add(PEER, key(0), None);
    two
}

/// Hands over all datagrams until there are none; where each has roamed to.
fn settle(two: &mut [Sessions; 2], now: Instant) -> Vec<(usize, Endpoint)> {
    let mut roamed = Vec::new();
    while two.iter().any(|sessions| !sessions.deeds.is_empty()) {
        for host in 0..2 {
            for deed in two[host].poll() {
                match deed {
                    Deed::Send { datagram, .. } => drop(two[1 - host].receive(udp(host), &datagram, now)),
                    Deed::Roamed { to, .. } => roamed.push((host, to)),
                    Deed::Changed(_) => {}
                }
            }
        }
    }
    roamed
}

fn linked() -> [Sessions; 2] {
    let mut two = two();
    two[0].want(PEER, at(0));
    assert_eq!(settle(&mut two, at(0)), [(1, udp(0))]);
    two
}

#[test]
fn a_session_carries_text_both_ways() {
    let mut two = linked();
    for host in 0..2 {
        let (to, datagram) = two[host].seal(PEER, b"a text", false, at(1)).expect("a session");
        assert_eq!(to, udp(1 - host));
        assert_eq!(datagram.len(), 16 + 16 + 16);
        let received = two[1 - host].receive(udp(host), &datagram, at(1));
        assert_eq!(received, Received::Text(PEER, b"a text".to_vec()));
    }
    assert_eq!(two[0].receive(udp(1), &transport(77, b"of nobody"), at(1)), Received::Nothing);
}

#[test]
fn who_is_no_peer_is_a_stranger() {
    let mut other = Sessions::new(key(2), 0);
    let mut two = two();
    two[0].want(PEER, at(0));
    let Some(Deed::Send { datagram, .. }) = two[0].poll().pop() else { panic!("an initiation") };
    assert_eq!(other.receive(udp(0), &datagram, at(0)), Received::Stranger(key(0)));
}

#[test]
fn who_has_begun_a_session_makes_the_next_in_time() {
    let mut two = linked();
    let first = two[0].current(PEER);
    for (seconds, is_other) in [(119, false), (120, true)] {
        for sessions in &mut two {
            sessions.seal(PEER, b"data", true, at(seconds)).expect("a session");
        }
        settle(&mut two, at(seconds));
        assert_eq!(two[0].current(PEER) != first, is_other, "after {seconds} s");
    }
    assert!(two[0].has(PEER, first.expect("a session")), "packets of the one before may be under way");
    // Nobody else goes on with it.
    two[0].timeout(at(180));
    assert!(!two[0].has(PEER, first.expect("a session")));
}

#[test]
fn a_session_of_three_minutes_is_over() {
    let mut two = linked();
    two[1].timeout(at(179));
    assert!(two[1].current(PEER).is_some());
    two[1].timeout(at(180));
    assert_eq!(two[1].current(PEER), None);
    assert_eq!(two[1].seal(PEER, b"late", true, at(180)).map(|(to, _)| to), None);
}

#[test]
fn what_comes_the_long_way_does_not_count_against_udp() {
    let mut two = linked();
    let (_, datagram) = two[0].seal(PEER, b"round", false, at(0)).expect("a session");
    for (millis, roamed) in [(900, vec![]), (1000, vec![(1, overlay(0))])] {
        let now = Instant::from_nanos(millis * 1_000_000);
        two[1].receive(overlay(0), &datagram, now);
        assert_eq!(settle(&mut two, now), roamed, "after {millis} ms");
    }
    // Whoever carries a packet could say that it is somebody else's.
    two[1].receive(overlay(7), &datagram, at(9));
    assert_eq!(settle(&mut two, at(9)), []);
    two[1].receive(udp(0), &datagram, at(9));
    assert_eq!(settle(&mut two, at(9)), [(1, udp(0))]);
}
