//! Peers that may be in several places.

use super::*;

/// Place `number` where nobody is.
fn nowhere(number: u8) -> Endpoint {
    udp([203, 0, 113, number], 15000)
}

/// A world in which host 0 knows no endpoint of host 1, but these places.
fn knowing(places: &[Endpoint]) -> World {
    let mut world = World::new();
    let sessions = &mut world.hosts[0].sessions;
    sessions.set_endpoint(PEER, None);
    sessions.set_candidates(PEER, places);
    world
}

/// Where the initiations on the wire go, and that they are one.
fn initiations(world: &mut World) -> Vec<Endpoint> {
    let sent: Vec<Sent> = world.wire.drain(..).collect();
    assert!(sent.iter().all(|(_, _, datagram)| datagram == &sent[0].2), "the same to each");
    sent.into_iter().map(|(_, to, _)| to).collect()
}

#[test]
fn the_first_answer_decides_where_the_peer_is() {
    let places = [nowhere(1), address(1), overlay(1)];
    let mut world = knowing(&places);
    world.want(0);
    assert_eq!(world.wire.iter().map(|(_, to, _)| *to).collect::<Vec<_>>(), places);
    world.deliver();
    assert_eq!(world.hosts[0].roamed, [address(1)]);
    assert_eq!(world.made(), [(1, 1), (1, 0)]);
    world.assert_works();
}

#[test]
fn an_initiation_that_comes_by_two_ways_is_taken_once() {
    let mut world = knowing(&[overlay(1), address(1)]);
    world.want(0);
    let initiation = world.intercept();
    assert_eq!(world.intercept(), initiation);
    world.arrive(overlay(0), address(1), &initiation);
    world.arrive(address(0), address(1), &initiation);
    assert_eq!(world.hosts[1].refused, [Counter::RxReplayedHandshake]);
    assert_eq!(world.hosts[1].roamed, [overlay(0)], "what comes second changes nothing");
    assert_eq!(world.wire.len(), 1, "one answer");
    assert_eq!(world.wire[0].1, overlay(0), "the way that the first came");
}

#[test]
fn every_candidate_has_its_turn() {
    let mut world = knowing(&(0..20).map(nowhere).collect::<Vec<_>>());
    let mut turns = Vec::new();
    world.cut = true;
    world.want(0);
    for _ in 0..3 {
        turns.push(initiations(&mut world));
        world.advance(6 * SECOND);
        let now = world.time(0);
        world.hosts[0].sessions.handle_timeout(now);
        world.drain();
    }
    let first: Vec<Endpoint> = (0..6).map(nowhere).collect();
    let second: Vec<Endpoint> = (6..12).map(nowhere).collect();
    assert_eq!(turns, [first.clone(), second, first], "and no more than twelve are remembered");
}

#[test]
fn the_endpoint_is_tried_each_time_and_counts_among_the_six() {
    let mut world = World::new();
    let candidates: Vec<Endpoint> = (0..7).map(nowhere).chain([address(1), nowhere(0)]).collect();
    world.hosts[0].sessions.set_candidates(PEER, &candidates);
    let mut turns = Vec::new();
    world.want(0);
    for _ in 0..2 {
        turns.push(initiations(&mut world));
        world.advance(6 * SECOND);
        let now = world.time(0);
        world.hosts[0].sessions.handle_timeout(now);
        world.drain();
    }
    let turn = |numbers: [u8; 5]| [vec![address(1)], numbers.map(nowhere).to_vec()].concat();
    assert_eq!(turns, [turn([0, 1, 2, 3, 4]), turn([5, 6, 0, 1, 2])]);
}

#[test]
fn a_session_over_the_overlay_that_is_replaced_moves_to_udp_where_that_leads_to_the_peer() {
    let mut world = World::new();
    for host in 0..2 {
        world.hosts[host].address = overlay(host);
        world.hosts[host].sessions.set_endpoint(PEER, Some(overlay(1 - host)));
        world.hosts[host].sessions.set_candidates(PEER, &[nowhere(1), address(1 - host)]);
    }
    // Nobody is at the other places yet.
    world.want(0);
    world.deliver();
    world.assert_works();
    world.hosts.iter_mut().for_each(|host| host.roamed.clear());
    world.advance(121 * SECOND);
    for host in 0..2 {
        world.hosts[host].address = address(host);
    }
    world.send(0, b"replaces the session");
    world.deliver();
    world.assert_works();
    assert_eq!(world.made()[0], (2, 2));
    assert_eq!(world.hosts[0].roamed, [address(1)]);
    assert_eq!(world.hosts[1].roamed, [address(0)]);
}

#[test]
fn a_peer_that_lost_its_session_is_found_again_the_long_way_though_there_are_candidates() {
    let mut world = World::new();
    for host in 0..2 {
        world.hosts[host].address = overlay(host);
        world.hosts[host].sessions.set_endpoint(PEER, Some(overlay(1 - host)));
    }
    world.want(0);
    world.deliver();
    world.assert_works();
    world.hosts[0].sessions.set_candidates(PEER, &[nowhere(1)]);
    // It knows no place of the other, so that nothing but the other's own attempt can help.
    let mut forgetful = Host::new(1, Timers::WIREGUARD, 99, world.now);
    forgetful.sessions.set_endpoint(PEER, None);
    world.hosts[1] = Host { address: overlay(1), ..forgetful };
    world.advance(SECOND);
    world.send(0, b"not understood");
    world.pass(20 * SECOND);
    world.assert_works();
    assert_eq!(world.made()[1], (1, 0));
}

#[test]
fn without_any_place_no_attempt_is_made_and_with_a_candidate_one_is() {
    let mut world = knowing(&[]);
    world.want(0);
    assert_eq!(world.hosts[0].failed, [FailReason::NoEndpoint]);
    assert!(world.wire.is_empty());
    world.hosts[0].sessions.set_candidates(PEER, &[address(1)]);
    world.want(0);
    world.deliver();
    assert_eq!(world.hosts[0].failed, [FailReason::NoEndpoint], "not again");
    world.assert_works();
}
