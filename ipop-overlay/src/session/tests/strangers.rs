//! Nodes that call without being known.

use super::*;

/// Host 1 does not know host 0, whose initiation it has been given.
fn called() -> (World, Vec<u8>) {
    let mut world = World::new();
    world.hosts[1].sessions.remove_peer(PEER);
    world.want(0);
    let initiation = world.intercept();
    (world, initiation)
}

fn handle(world: &mut World, datagram: &[u8]) -> Result<Handled, Refusal> {
    let now = world.time(1);
    world.hosts[1].sessions.handle_handshake(now, address(0), datagram)
}

fn add(world: &mut World) {
    let stranger = PeerConfig { endpoint: None, ..config(0) };
    let now = world.now;
    world.hosts[1].sessions.add_peer(now, PEER, stranger).unwrap();
}

fn answer(world: &mut World) -> Result<(), Refusal> {
    let now = world.time(1);
    let answered = world.hosts[1].sessions.answer_stranger(now);
    world.drain();
    answered
}

#[test]
fn a_stranger_that_is_made_a_peer_is_answered() {
    let (mut world, initiation) = called();
    assert_eq!(handle(&mut world, &initiation), Ok(Handled::Stranger(public(0))));
    add(&mut world);
    assert_eq!(answer(&mut world), Ok(()));
    assert_eq!(world.hosts[1].roamed, [address(0)], "it is where it called from");
    assert_eq!(world.hosts[1].used, None, "nothing has shown that it is of this network");
    world.deliver();
    world.assert_works();
    assert_eq!(world.made(), [(1, 1), (1, 0)]);
    assert_eq!(handle(&mut world, &initiation), Err(Refusal(Counter::RxReplayedHandshake)));
}

#[test]
fn a_stranger_of_another_network_shows_nothing() {
    let (mut world, initiation) = called();
    world.hosts[0].sessions.set_psk(PEER, Zeroizing::new([9; 32]));
    assert_eq!(handle(&mut world, &initiation), Ok(Handled::Stranger(public(0))));
    add(&mut world);
    assert_eq!(answer(&mut world), Ok(()));
    world.deliver();
    assert_eq!(world.hosts[0].refused, [Counter::RxBadHandshake]);
    assert_eq!(world.hosts[1].used, None);
    world.hosts[1].sessions.remove_peer(PEER);
    world.drain();
    assert_eq!(world.hosts[1].sessions.shared.indices.taken(), 0);
}

#[test]
fn a_stranger_waits_for_no_other_call() {
    let unknown = Err(Refusal(Counter::RxUnknownPeer));
    let calls: [fn(&mut Sessions, Now); 5] = [
        |_, _| (),
        |sessions, now| sessions.want_session(now, PEER),
        |sessions, _| sessions.set_endpoint(PEER, None),
        |sessions, _| sessions.remove_peer(PeerId(9)),
        |sessions, now| assert!(sessions.handle_handshake(now, address(0), &[]).is_err()),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        let (mut world, initiation) = called();
        assert_eq!(answer(&mut world), unknown, "nobody has called");
        assert_eq!(handle(&mut world, &initiation), Ok(Handled::Stranger(public(0))));
        add(&mut world);
        let now = world.time(1);
        call(&mut world.hosts[1].sessions, now);
        assert_eq!(answer(&mut world), if number == 0 { Ok(()) } else { unknown }, "call {number}");
        assert_eq!(answer(&mut world), unknown, "it is answered once");
    }
}

#[test]
fn a_stranger_that_is_not_made_a_peer_is_not_answered() {
    let (mut world, initiation) = called();
    assert_eq!(handle(&mut world, &initiation), Ok(Handled::Stranger(public(0))));
    assert_eq!(answer(&mut world), Err(Refusal(Counter::RxUnknownPeer)));
    assert!(world.wire.is_empty());
    assert_eq!(world.hosts[1].sessions.shared.indices.taken(), 0);
}

#[test]
fn a_stranger_under_load_shows_its_address_first() {
    let (mut world, initiation) = called();
    world.hosts[1].sessions.set_under_load(true);
    assert_eq!(handle(&mut world, &initiation), Err(Refusal(Counter::RxCookieSent)));
}
