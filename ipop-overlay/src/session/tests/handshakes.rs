use super::*;

#[test]
fn either_node_can_make_the_session() {
    for initiator in 0..2 {
        let mut world = World::new();
        world.want(initiator);
        assert_eq!(world.wire.len(), 1);
        world.deliver();
        world.assert_works();
        assert_eq!(world.made()[initiator], (1, 1));
        assert_eq!(world.made()[1 - initiator], (1, 0));
        assert!(world.hosts.iter().all(|host| host.refused.is_empty()));
    }
}

#[test]
fn who_answered_sends_when_a_packet_has_come() {
    let mut world = World::new();
    world.want(0);
    let initiation = world.intercept();
    world.arrive(address(0), address(1), &initiation);
    assert_eq!(world.hosts[1].used, None);
    assert_eq!(world.hosts[1].installed.len(), 1, "it receives on it before the answer has arrived");
    let response = world.intercept();
    world.arrive(address(1), address(0), &response);
    assert!(world.hosts[0].used.is_some());
    assert_eq!(world.hosts[1].used, None);
    world.deliver();
    assert_eq!(world.hosts[1].opened, [b""], "a keepalive confirms the session");
    assert!(world.hosts[1].used.is_some());
}

#[test]
fn a_report_of_traffic_confirms_as_well() {
    let mut world = World::new();
    world.want(0);
    let initiation = world.intercept();
    world.arrive(address(0), address(1), &initiation);
    let index = *world.hosts[1].installed.keys().next().unwrap();
    let now = world.time(1);
    world.hosts[1].sessions.traffic(now, index, &Traffic { received: Some(now.at), ..Traffic::default() });
    world.drain();
    assert_eq!(world.hosts[1].used, Some(index));
}

#[test]
fn two_that_initiate_at_once_have_sessions() {
    // In every order in which the two initiations and the two responses can arrive.
    for order in 0..6 {
        let mut world = World::seeded(order + 1);
        world.want(0);
        world.want(1);
        let mut turn = order;
        while !world.wire.is_empty() {
            let at = (turn as usize) % world.wire.len();
            turn /= 2;
            let (from, to, datagram) = world.wire.remove(at).unwrap();
            world.arrive(from, to, &datagram);
        }
        world.assert_works();
        world.pass(400 * SECOND);
        world.works();
        world.assert_works();
    }
}

#[test]
fn a_session_is_replaced_without_a_gap() {
    let mut world = World::connected();
    let first = world.used();
    world.pass(121 * SECOND);
    world.send(0, b"late");
    assert!(world.wire.len() == 2, "the packet and an initiation");
    let (initiation, late) = (world.wire.pop_back().unwrap(), world.wire.pop_back().unwrap());
    let (initiation, late) = if initiation.2[0] == 1 { (initiation, late) } else { (late, initiation) };
    world.wire.push_back(initiation);
    world.deliver();
    assert_ne!(world.used(), first);
    world.hosts[1].opened.clear();
    world.arrive(late.0, late.1, &late.2);
    assert_eq!(world.hosts[1].opened, [b"late"], "the session before still receives");
    world.assert_works();
}

#[test]
fn another_pre_shared_key_makes_no_session() {
    let mut world = World::new();
    world.hosts[1].sessions.set_psk(PEER, Zeroizing::new([9; 32]));
    world.want(0);
    world.deliver();
    assert_eq!(world.hosts[0].refused, [Counter::RxBadHandshake]);
    assert_eq!(world.used(), [None, None]);
    world.hosts[0].sessions.set_psk(PEER, Zeroizing::new([9; 32]));
    world.pass(6 * SECOND);
    world.assert_works();
}

#[test]
fn the_endpoint_follows_the_peer() {
    let mut world = World::connected();
    let elsewhere = udp([192, 0, 2, 9], 4242);
    world.hosts[0].address = elsewhere;
    world.send(0, b"from elsewhere");
    world.deliver();
    assert_eq!(world.hosts[1].roamed, [elsewhere]);
    world.assert_works();

    let home = address(0);
    world.hosts[0].address = home;
    world.pass(200 * SECOND);
    world.want(0);
    world.deliver();
    assert_eq!(world.hosts[1].roamed, [elsewhere, home], "a handshake tells it too");
}

#[test]
fn a_peer_roams_to_the_overlay_when_udp_has_been_quiet_and_back_at_once() {
    let mut world = World::connected();
    let roamed = |world: &World| world.hosts[1].roamed.clone();
    // Host 0 sends by both ways; its packets on the overlay come, and change nothing.
    for _ in 0..20 {
        world.send(0, b"by UDP");
        world.deliver();
        world.advance(Duration::from_millis(500));
        world.hosts[0].address = overlay(0);
        world.send(0, b"by other nodes");
        world.deliver();
        world.hosts[0].address = address(0);
        assert_eq!(roamed(&world), []);
    }
    // UDP falls silent.
    world.hosts[0].address = overlay(0);
    world.advance(Duration::from_millis(300));
    world.send(0, b"by other nodes");
    world.deliver();
    assert_eq!(roamed(&world), [], "0.8 s since UDP brought something");
    world.advance(Duration::from_millis(300));
    world.send(0, b"by other nodes");
    world.deliver();
    assert_eq!(roamed(&world), [overlay(0)]);
    world.assert_works();
    world.hosts[0].address = address(0);
    world.send(0, b"by UDP");
    world.deliver();
    assert_eq!(roamed(&world), [overlay(0), address(0)]);
    world.assert_works();
}

#[test]
fn who_carries_a_packet_cannot_give_it_another_name() {
    let mut world = World::connected();
    world.advance(10 * SECOND);
    world.hosts[0].address = overlay(1);
    world.send(0, b"captured on the way");
    world.deliver();
    assert_eq!(world.hosts[1].roamed, []);
    world.hosts[0].address = overlay(0);
    world.send(0, b"as it was");
    world.deliver();
    assert_eq!(world.hosts[1].roamed, [overlay(0)]);
}

#[test]
fn a_data_path_that_reports_udp_keeps_a_peer_from_roaming() {
    let mut world = World::connected();
    let index = world.hosts[1].used.unwrap();
    for by_udp in [true, false] {
        world.advance(10 * SECOND);
        let now = world.time(1);
        let seen = Traffic { by_udp: by_udp.then_some(now.at), ..Traffic::default() };
        let sessions = &mut world.hosts[1].sessions;
        sessions.traffic(now, index, &seen);
        sessions.authenticated_from(now, index, overlay(0));
        world.drain();
        assert_eq!(world.hosts[1].roamed, if by_udp { vec![] } else { vec![overlay(0)] });
    }
}

#[test]
fn a_session_is_made_and_kept_over_the_overlay() {
    let mut world = World::new();
    for host in 0..2 {
        world.hosts[host].address = overlay(host);
        world.hosts[host].sessions.set_endpoint(PEER, Some(overlay(1 - host)));
    }
    world.want(0);
    world.deliver();
    world.assert_works();
    world.pass(121 * SECOND);
    world.assert_works();
    world.pass(10 * SECOND);
    assert_eq!(world.made()[0], (2, 2));
    assert_eq!(world.hosts.iter().flat_map(|host| &host.roamed).count(), 0);
}

#[test]
fn a_restarted_peer_gets_a_new_session() {
    let mut world = World::connected();
    world.advance(SECOND);
    world.hosts[0] = Host::new(0, Timers::WIREGUARD, 99, world.now);
    world.want(0);
    world.deliver();
    world.assert_works();
}

#[test]
fn a_clock_set_back_does_no_harm_in_one_run() {
    let mut world = World::connected();
    world.unix -= Duration::from_secs(86_400);
    world.pass(200 * SECOND);
    world.want(0);
    world.deliver();
    world.assert_works();
    assert_eq!(world.made()[0], (2, 2));
}

#[test]
fn a_clock_set_back_over_a_restart_is_a_replay_until_the_other_side_begins() {
    let mut world = World::connected();
    let now = world.now;
    world.unix -= Duration::from_secs(3600);
    world.hosts[0] = Host::new(0, Timers::WIREGUARD, 99, now);
    world.want(0);
    world.deliver();
    assert_eq!(world.hosts[1].refused, [Counter::RxReplayedHandshake]);
    // The other has sent something and hears nothing: it begins, and the timestamp does not count.
    for _ in 0..30 {
        world.send(1, b"hello?");
        world.pass(SECOND);
    }
    world.assert_works();
}

#[test]
fn a_session_of_an_earlier_run_is_taken_over_and_replaced() {
    let mut world = World::connected();
    let index = world.hosts[0].used.unwrap();
    world.pass(60 * SECOND);
    let installed = core::mem::take(&mut world.hosts[0].installed);
    world.hosts[0] = Host { installed, used: Some(index), ..Host::new(0, Timers::WIREGUARD, 5, world.now) };
    let adopted = Adopted { local_index: index, initiator: true, age: 60 * SECOND };
    let sessions = &mut world.hosts[0].sessions;
    assert_eq!(sessions.adopt(world.now, PEER, &adopted), Ok(()));
    assert_eq!(sessions.adopt(world.now, PEER, &adopted), Err(AdoptError::Taken));
    assert_eq!(sessions.adopt(world.now, PeerId(9), &adopted), Err(AdoptError::UnknownPeer));
    let old = Adopted { local_index: 9, age: 180 * SECOND, ..adopted };
    assert_eq!(sessions.adopt(world.now, PEER, &old), Err(AdoptError::TooOld));
    assert_eq!(sessions.peer(PEER).unwrap().current, Some(index));
    world.assert_works();
    world.pass(11 * SECOND);
    assert_ne!(world.hosts[0].used, Some(index));
    world.assert_works();
    world.pass(110 * SECOND);
    assert!(!world.hosts[0].installed.contains_key(&index), "it ends when it would have ended");
}

#[test]
fn a_removed_peer_leaves_nothing() {
    let mut world = World::connected();
    world.pass(121 * SECOND);
    world.send(0, b"replaces the session");
    let now = world.time(0);
    world.hosts[0].sessions.remove_peer(PEER);
    world.hosts[0].drain(now);
    assert!(world.hosts[0].installed.is_empty());
    assert_eq!(world.hosts[0].used, None);
    assert_eq!(world.hosts[0].sessions.poll_timeout(), None);
    assert_eq!(world.hosts[0].sessions.shared.indices.taken(), 0);
    world.deliver();
    assert_eq!(world.hosts[0].refused, [Counter::RxReplayedHandshake], "the response comes too late");
    world.want(1);
    world.pass(10 * SECOND);
    world.hosts[0].sessions.remove_peer(PEER);
}

#[test]
fn of_a_peer_removed_before_anything_was_done_nothing_is_to_be_done() {
    let mut world = World::connected();
    let told = world.hosts[1].used.unwrap();
    world.advance(121 * SECOND);
    world.send(0, b"replaces the session");
    while let Some((from, _, datagram)) = world.wire.pop_front() {
        if datagram[0] == wireguard::TYPE_INITIATION {
            let now = world.time(1);
            world.hosts[1].handle(now, from, &datagram).unwrap();
        }
    }
    // The new session waits to be installed, and there is one that is installed.
    let sessions = &mut world.hosts[1].sessions;
    sessions.remove_peer(PEER);
    let mut erased = Vec::new();
    while let Some(output) = sessions.poll_output() {
        match output {
            Output::Erase { local_index, .. } => erased.push(local_index),
            Output::Transmit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(erased, [told]);
    assert_eq!(sessions.shared.indices.taken(), 0);
}

#[test]
fn a_peer_that_cannot_be_is_not_added() {
    let mut sessions = Sessions::new(private(0), Timers::WIREGUARD, random(1));
    let now = Instant::default();
    assert_eq!(sessions.add_peer(now, PEER, config(0)), Err(AddError::OwnKey));
    assert_eq!(sessions.add_peer(now, PEER, config(1)), Ok(()));
    assert_eq!(sessions.add_peer(now, PEER, config(2)), Err(AddError::IdTaken));
    assert_eq!(sessions.add_peer(now, PeerId(4), config(1)), Err(AddError::KeyTaken(PEER)));
    let weak = PeerConfig { public_key: [0; 32], ..config(1) };
    assert_eq!(sessions.add_peer(now, PeerId(4), weak), Err(AddError::WeakKey));
    let named = std::format!("{}", AddError::KeyTaken(PEER));
    assert_eq!(named, "peer 3 has the same public key; each peer needs its own");
}

#[test]
fn secrets_are_not_printed() {
    let mut world = World::new();
    world.want(0);
    let initiation = world.intercept();
    let now = world.time(1);
    world.hosts[1].handle(now, address(0), &initiation).unwrap();
    let mut printed = std::format!("{:?} {:?}", world.hosts[1].sessions, config(1));
    while let Some(output) = world.hosts[1].sessions.poll_output() {
        printed += &std::format!("{output:?}");
    }
    assert!(printed.contains("TransportKey(..)"));
    assert!(!printed.contains("psk") && !printed.contains("81, 81"), "{printed}");
}
