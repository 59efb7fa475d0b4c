use super::*;

#[test]
fn only_who_initiated_replaces_a_session_in_time() {
    let mut world = World::connected();
    world.pass(119 * SECOND);
    world.assert_works();
    assert_eq!(world.made()[0], (1, 1));
    world.pass(2 * SECOND);
    world.send(1, b"from who answered");
    world.deliver();
    assert_eq!(world.made()[0], (1, 1));
    world.assert_works();
    assert_eq!(world.made(), [(2, 2), (2, 0)]);
}

#[test]
fn a_session_that_is_only_received_on_is_replaced_in_its_last_minute() {
    let mut world = World::connected();
    // Nobody owes a keepalive while the other's data is answered by nothing but keepalives.
    world.pass(140 * SECOND);
    let before = world.made()[0];
    for _ in 0..24 {
        world.send(1, b"");
        world.pass(SECOND);
    }
    assert_eq!(world.made()[0], before);
    for _ in 0..3 {
        world.send(1, b"");
        world.pass(SECOND);
    }
    assert_eq!(world.made()[0], (2, 2));
    world.assert_works();
}

#[test]
fn a_session_ends_after_three_minutes() {
    let mut world = World::connected();
    world.pass(179 * SECOND);
    assert_eq!(world.hosts.each_ref().map(|host| host.installed.len()), [1, 1]);
    world.pass(2 * SECOND);
    assert_eq!(world.hosts.each_ref().map(|host| host.installed.len()), [0, 0]);
    assert_eq!(world.used(), [None, None]);
    assert_eq!(world.hosts.each_ref().map(|host| host.sessions.shared.indices.taken()), [0, 0]);
    assert_eq!(world.hosts[0].sessions.poll_timeout(), None, "nothing happens without a packet");
    assert_eq!(world.made(), [(1, 1), (1, 0)]);
    world.send(1, b"a packet");
    world.deliver();
    world.assert_works();
}

#[test]
fn an_attempt_gives_up_after_ninety_seconds() {
    let mut world = World::new();
    world.cut = true;
    world.want(0);
    let start = world.now;
    let mut initiations = 0;
    while world.hosts[0].failed.is_empty() {
        initiations += world.wire.len();
        world.wire.clear();
        let due = world.hosts[0].sessions.poll_timeout().unwrap();
        assert!(due.since(world.now) <= Duration::from_millis(5334), "rekey timeout and jitter");
        assert!(due > world.now);
        world.now = due;
        let now = world.time(0);
        world.hosts[0].sessions.handle_timeout(now);
        world.drain();
    }
    assert_eq!(world.hosts[0].failed, [FailReason::NoAnswer]);
    assert!((17..=18).contains(&initiations), "{initiations}");
    assert!((90..96).contains(&world.now.since(start).as_secs()));
    assert_eq!(world.hosts[0].sessions.poll_timeout(), None);
    assert_eq!(world.hosts[0].sessions.shared.indices.taken(), 0);
    world.cut = false;
    world.want(0);
    world.pass(6 * SECOND);
    world.assert_works();
}

#[test]
fn a_packet_for_a_peer_of_unknown_place_fails_at_once() {
    let mut world = World::new();
    world.hosts[0].sessions.set_endpoint(PEER, None);
    world.want(0);
    assert_eq!(world.hosts[0].failed, [FailReason::NoEndpoint]);
    assert!(world.wire.is_empty());
    world.want(1);
    world.deliver();
    world.assert_works();
}

#[test]
fn wanting_again_sends_no_second_initiation() {
    let mut world = World::new();
    for _ in 0..100 {
        world.want(0);
    }
    assert_eq!(world.wire.len(), 1);
    world.wire.clear();
    world.hosts[0].sessions.handle_timeout(Now { at: world.now.after(4 * SECOND), unix: world.unix });
    world.drain();
    assert!(world.wire.is_empty());
}

#[test]
fn data_without_an_answer_is_answered_by_a_keepalive() {
    let mut world = World::connected();
    world.pass(20 * SECOND);
    world.hosts[0].opened.clear();
    world.send(0, b"no answer needed");
    world.pass(9 * SECOND);
    assert!(world.hosts[0].opened.is_empty());
    world.pass(2 * SECOND);
    assert_eq!(world.hosts[0].opened, [b""]);
    world.pass(60 * SECOND);
    assert_eq!(world.hosts[0].opened, [b""], "once");
    assert_eq!(world.made()[0], (1, 1));
}

#[test]
fn silence_of_the_peer_makes_a_new_session() {
    let mut world = World::connected();
    world.pass(20 * SECOND);
    world.cut = true;
    world.send(0, b"lost");
    world.pass(14 * SECOND);
    assert!(!world.hosts[0].sessions.peer(PEER).unwrap().handshaking);
    world.pass(2 * SECOND);
    assert!(world.hosts[0].sessions.peer(PEER).unwrap().handshaking);
    world.cut = false;
    world.pass(6 * SECOND);
    assert_eq!(world.made()[0], (2, 2));
    world.assert_works();
}

#[test]
fn a_persistent_keepalive_keeps_a_session_for_ever() {
    let mut world = World::new();
    let now = world.time(0);
    world.hosts[0].sessions.remove_peer(PEER);
    let persistent = PeerConfig { persistent_keepalive: Some(25 * SECOND), ..config(1) };
    world.hosts[0].sessions.add_peer(now.at, PEER, persistent).unwrap();
    world.hosts[0].sessions.handle_timeout(now);
    world.drain();
    world.deliver();
    assert!(world.used().iter().all(Option::is_some), "it begins by itself");
    world.hosts[1].opened.clear();
    world.pass(1000 * SECOND);
    assert!(world.used().iter().all(Option::is_some));
    assert!((38..=50).contains(&world.hosts[1].opened.len()), "{}", world.hosts[1].opened.len());
    assert!((6..=9).contains(&world.made()[0].0), "{:?}", world.made());
    world.assert_works();

    world.cut = true;
    world.pass(400 * SECOND);
    assert!(!world.hosts[0].failed.is_empty());
    world.cut = false;
    world.pass(120 * SECOND);
    world.assert_works();
}

#[test]
fn a_counter_near_its_limit_replaces_the_session() {
    for host in 0..2 {
        let mut world = World::connected();
        world.pass(10 * SECOND);
        let (index, now) = (world.hosts[host].used.unwrap(), world.time(host));
        let before = world.made()[host].0;
        let seen = |send_counter| Traffic { send_counter, ..Traffic::default() };
        world.hosts[host].sessions.traffic(now, index, &seen((1 << 60) - 1));
        world.drain();
        assert!(world.wire.is_empty());
        world.hosts[host].sessions.traffic(now, index, &seen(1 << 60));
        world.drain();
        world.deliver();
        assert_eq!(world.made()[host].0, before + 1);
        assert_ne!(world.hosts[host].used, Some(index));
        world.assert_works();
    }
}

#[test]
fn a_used_up_counter_ends_the_session() {
    let mut world = World::connected();
    world.pass(10 * SECOND);
    let (index, now) = (world.hosts[0].used.unwrap(), world.time(0));
    let seen = Traffic { send_counter: u64::MAX - (1 << 13), ..Traffic::default() };
    world.hosts[0].sessions.traffic(now, index, &seen);
    world.drain();
    assert_eq!(world.hosts[0].used, None);
    assert!(!world.hosts[0].installed.contains_key(&index));
    world.deliver();
    world.assert_works();
}

#[test]
fn shorter_timers_are_kept_to() {
    let now = Instant::from_nanos(5);
    let timers = Timers {
        rekey_after: 12 * SECOND,
        reject_after: 18 * SECOND,
        rekey_attempt: 9 * SECOND,
        rekey_timeout: SECOND / 2,
        jitter: SECOND / 30,
        keepalive: SECOND,
        ..Timers::WIREGUARD
    };
    let mut world = World::new();
    world.hosts = [0, 1].map(|own| Host::new(own, timers, own as u64 + 7, now));
    world.want(0);
    world.deliver();
    for _ in 0..100 {
        world.assert_works();
        world.pass(SECOND);
    }
    assert!((8..=9).contains(&world.made()[0].0), "{:?}", world.made());
}
