use super::*;

/// A world in which host 0 has sent an initiation that is on the wire.
fn initiated() -> (World, Vec<u8>) {
    let mut world = World::new();
    world.want(0);
    let initiation = world.intercept();
    (world, initiation)
}

/// One in which host 1 has answered.
fn answered() -> (World, Vec<u8>) {
    let (mut world, initiation) = initiated();
    world.arrive(address(0), address(1), &initiation);
    let response = world.intercept();
    (world, response)
}

/// One in which host 1 is under load and has answered with a cookie.
fn cookie_sent() -> (World, Vec<u8>) {
    let (mut world, initiation) = initiated();
    world.hosts[1].sessions.set_under_load(true);
    world.arrive(address(0), address(1), &initiation);
    assert_eq!(world.hosts[1].refused, [Counter::RxCookieSent]);
    let cookie = world.intercept();
    (world, cookie)
}

fn handle(world: &mut World, host: usize, datagram: &[u8]) -> Result<(), Counter> {
    let now = world.time(host);
    let from = address(1 - host);
    world.hosts[host].handle(now, from, datagram)
}

/// With the right mac1 to `host`, as an attacker can make it.
fn with_mac1(host: usize, mut datagram: Vec<u8>) -> Vec<u8> {
    let start = if datagram.len() == wireguard::INITIATION_LEN { 116 } else { 60 };
    datagram[start..].fill(0);
    mac::PeerMacs::new(&public(host)).fill_in(Instant::default(), &mut datagram);
    datagram
}

/// Every message with one bit flipped in each byte, in turn.
fn flipped(message: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..message.len()).map(|byte| {
        let mut changed = message.to_vec();
        changed[byte] ^= 1 << (byte % 8);
        (byte, changed)
    })
}

#[test]
fn a_changed_initiation_is_refused_and_named() {
    let (mut world, initiation) = initiated();
    for (byte, changed) in flipped(&initiation) {
        let expected = match byte {
            0..4 => Counter::RxBadHandshake,
            4..132 => Counter::RxBadMac1,
            // mac2 counts under load only.
            _ => continue,
        };
        let refused = handle(&mut world, 1, &changed).unwrap_err();
        // Of a byte that is another type, the length is wrong.
        let as_another = [Counter::RxBadHandshake, Counter::RxBadCookie];
        assert!(
            refused == expected || byte == 0 && as_another.contains(&refused),
            "byte {byte}: {refused:?}"
        );
        if (8..116).contains(&byte) {
            let refused = handle(&mut world, 1, &with_mac1(1, changed));
            assert_eq!(refused, Err(Counter::RxBadHandshake), "byte {byte} with mac1 made anew");
        }
    }
    assert_eq!(handle(&mut world, 1, &initiation), Ok(()));
}

#[test]
fn a_changed_response_is_refused_and_named() {
    let (mut world, response) = answered();
    for (byte, changed) in flipped(&response) {
        let expected = match byte {
            0..4 => Counter::RxBadHandshake,
            4..76 => Counter::RxBadMac1,
            _ => continue,
        };
        let refused = handle(&mut world, 0, &changed).unwrap_err();
        let as_another = [Counter::RxBadHandshake, Counter::RxBadCookie];
        assert!(
            refused == expected || byte == 0 && as_another.contains(&refused),
            "byte {byte}: {refused:?}"
        );
        let expected = match byte {
            8..12 => Counter::RxReplayedHandshake,
            12..60 => Counter::RxBadHandshake,
            _ => continue,
        };
        assert_eq!(handle(&mut world, 0, &with_mac1(0, changed)), Err(expected), "byte {byte}");
    }
    assert_eq!(handle(&mut world, 0, &response), Ok(()));
    world.drain();
    world.deliver();
    world.assert_works();
    assert_eq!(handle(&mut world, 0, &response), Err(Counter::RxReplayedHandshake));
    world.assert_works();
}

#[test]
fn a_changed_cookie_reply_is_refused_and_named() {
    let (mut world, cookie) = cookie_sent();
    for (byte, changed) in flipped(&cookie) {
        let refused = handle(&mut world, 0, &changed).unwrap_err();
        assert!(refused == Counter::RxBadCookie || byte == 0, "byte {byte}: {refused:?}");
    }
    assert_eq!(handle(&mut world, 0, &cookie), Ok(()));
    assert_eq!(handle(&mut world, 0, &cookie), Err(Counter::RxBadCookie));
}

#[test]
fn a_message_of_another_length_is_refused() {
    let messages = [initiated().1, answered().1, cookie_sent().1, vec![4; 200], vec![77; 200]];
    let mut world = World::new();
    for message in messages {
        for len in (0..message.len() + 3).filter(|len| *len != message.len()) {
            let mut other = message.clone();
            other.resize(len, 0);
            let refused = handle(&mut world, 1, &other).unwrap_err();
            assert!(matches!(refused, Counter::RxBadHandshake | Counter::RxBadCookie), "{len}: {refused:?}");
        }
    }
    world.want(0);
    world.deliver();
    world.assert_works();
}

#[test]
fn an_initiation_is_taken_once() {
    let (mut world, initiation) = initiated();
    assert_eq!(handle(&mut world, 1, &initiation), Ok(()));
    for _ in 0..3 {
        world.advance(60 * SECOND);
        assert_eq!(handle(&mut world, 1, &initiation), Err(Counter::RxReplayedHandshake));
    }
}

#[test]
fn no_captured_message_means_anything_when_it_comes_again() {
    let mut world = World::new();
    world.hosts[1].sessions.set_under_load(true);
    let mut captured = Vec::new();
    // A cookie, a session by it, and one that replaces it.
    for time in [Duration::ZERO, 6 * SECOND, 121 * SECOND] {
        world.advance(time);
        let now = world.time(0);
        world.hosts[0].sessions.handle_timeout(now);
        world.send(0, b"a packet");
        captured.extend(world.deliver_captured());
        world.hosts[1].sessions.set_under_load(false);
    }
    world.assert_works();
    captured.retain(|(.., datagram)| datagram[0] != wireguard::TYPE_TRANSPORT);
    let kinds: Vec<u8> = captured.iter().map(|(.., datagram)| datagram[0]).collect();
    assert_eq!(kinds, [1, 3, 1, 2, 1, 2]);
    let before = world.used();
    for (from, to, datagram) in captured.iter().chain(captured.iter().rev()) {
        for (from, to) in [(*from, *to), (*to, *from)] {
            world.hosts.iter_mut().for_each(|host| host.refused.clear());
            world.arrive(from, to, datagram);
            assert_eq!(world.hosts.iter().map(|host| host.refused.len()).sum::<usize>(), 1, "refused");
            assert!(world.wire.is_empty(), "and not answered");
            assert_eq!(world.used(), before);
        }
    }
    world.assert_works();
}

#[test]
fn an_answer_to_one_initiation_is_none_to_another() {
    let (mut world, first) = answered();
    world.advance(6 * SECOND);
    let now = world.time(0);
    world.hosts[0].sessions.handle_timeout(now);
    world.drain();
    let initiation = world.intercept();
    world.arrive(address(0), address(1), &initiation);
    let second = world.intercept();
    assert_eq!(handle(&mut world, 0, &first), Err(Counter::RxReplayedHandshake));
    let receiver = 8..12;
    let mut swapped = first;
    swapped[receiver.clone()].copy_from_slice(&second[receiver]);
    let swapped = with_mac1(0, swapped);
    assert_eq!(handle(&mut world, 0, &swapped), Err(Counter::RxBadHandshake));
    assert_eq!(handle(&mut world, 0, &second), Ok(()), "the true one still counts");
    world.drain();
    world.deliver();
    world.assert_works();
}

#[test]
fn a_packet_of_one_session_is_opened_by_no_other() {
    let mut world = World::connected();
    let packet_of = |world: &mut World, host: usize| {
        world.send(host, b"a packet");
        world.intercept()
    };
    let mut packets = vec![packet_of(&mut world, 0), packet_of(&mut world, 1)];
    world.pass(121 * SECOND);
    world.send(0, b"replaces the session");
    world.deliver();
    world.assert_works();
    packets.extend([packet_of(&mut world, 0), packet_of(&mut world, 1)]);
    for (host, own) in [(1, [0, 2]), (0, [1, 3])] {
        let indices: Vec<u32> = world.hosts[host].installed.keys().copied().collect();
        assert_eq!(indices.len(), 2);
        for (at, packet) in packets.iter().enumerate() {
            let opened = indices.iter().filter(|index| {
                let mut named = packet.clone();
                named[4..8].copy_from_slice(&index.to_le_bytes());
                let now = world.time(host);
                world.hosts[host].open(now, address(1 - host), &named)
            });
            assert_eq!(opened.count(), usize::from(own.contains(&at)), "packet {at} at host {host}");
        }
    }
}

#[test]
fn an_older_initiation_that_comes_late_is_refused() {
    let (mut world, first) = initiated();
    world.advance(6 * SECOND);
    let now = world.time(0);
    world.hosts[0].sessions.handle_timeout(now);
    world.drain();
    let second = world.intercept();
    assert_eq!(handle(&mut world, 1, &second), Ok(()));
    world.advance(SECOND);
    assert_eq!(handle(&mut world, 1, &first), Err(Counter::RxReplayedHandshake));
    world.drain();
    world.deliver();
    world.assert_works();
}

#[test]
fn initiations_of_one_peer_are_taken_apart_only() {
    let mut world = World::new();
    let hasty = Timers { rekey_timeout: Duration::ZERO, jitter: Duration::ZERO, ..Timers::WIREGUARD };
    let mut peer = Sessions::new(private(0), hasty, random(5));
    peer.add_peer(world.now, PEER, config(1)).unwrap();
    let mut results = Vec::new();
    for _ in 0..20 {
        world.advance(Duration::from_millis(10));
        let now = world.time(0);
        peer.want_session(now, PEER);
        peer.handle_timeout(now);
        let mut initiation = None;
        while let Some(output) = peer.poll_output() {
            if let Output::Transmit { datagram, .. } = output {
                initiation = Some(datagram);
            }
        }
        results.extend(initiation.map(|initiation| handle(&mut world, 1, &initiation)));
    }
    let taken = results.iter().filter(|result| result.is_ok()).count();
    let floods = results.iter().filter(|result| **result == Err(Counter::RxHandshakeFlood)).count();
    assert_eq!(taken + floods, results.len(), "{results:?}");
    assert!((8..=11).contains(&taken) && floods >= 9, "{results:?}");
}

#[test]
fn a_stranger_is_refused_and_costs_nothing() {
    let (mut world, _) = initiated();
    let mut stranger = Sessions::new(private(8), Timers::WIREGUARD, random(5));
    stranger.add_peer(world.now, PEER, config(1)).unwrap();
    stranger.want_session(world.time(0), PEER);
    let Some(Output::Transmit { datagram, .. }) = stranger.poll_output() else { panic!("no initiation") };
    assert_eq!(handle(&mut world, 1, &datagram), Err(Counter::RxUnknownPeer));
    assert_eq!(world.hosts[1].sessions.shared.indices.taken(), 0);
    assert!(world.hosts[1].sessions.poll_output().is_none());
}

#[test]
fn under_load_a_sender_shows_its_address_first() {
    let (mut world, cookie) = cookie_sent();
    world.arrive(address(1), address(0), &cookie);
    assert!(world.hosts[0].refused.is_empty());
    world.pass(6 * SECOND);
    world.assert_works();
    assert_eq!(world.hosts[1].refused, [Counter::RxCookieSent]);
}

#[test]
fn under_load_a_sender_on_the_overlay_shows_its_address_too() {
    let mut world = World::new();
    world.hosts[1].sessions.set_under_load(true);
    for host in 0..2 {
        world.hosts[host].address = overlay(host);
        world.hosts[host].sessions.set_endpoint(PEER, Some(overlay(1 - host)));
    }
    world.want(0);
    world.deliver();
    assert_eq!(world.hosts[1].refused, [Counter::RxCookieSent]);
    world.pass(6 * SECOND);
    world.assert_works();
    assert_eq!(world.hosts[1].refused, [Counter::RxCookieSent]);
}

#[test]
fn a_cookie_is_of_no_use_elsewhere() {
    let (mut world, cookie) = cookie_sent();
    world.arrive(address(1), address(0), &cookie);
    world.advance(6 * SECOND);
    let now = world.time(0);
    world.hosts[0].sessions.handle_timeout(now);
    world.drain();
    let initiation = world.intercept();
    for elsewhere in [udp([10, 0, 0, 1], 1), overlay(0)] {
        world.arrive(elsewhere, address(1), &initiation);
        assert_eq!(world.hosts[1].refused.last(), Some(&Counter::RxCookieSent));
        assert_eq!(world.wire.pop_front().unwrap().1, elsewhere);
    }
    assert!(world.hosts[1].installed.is_empty());
}

#[test]
fn under_load_responses_need_a_cookie_too_and_the_peer_gets_it() {
    let mut world = World::new();
    world.hosts[0].sessions.set_under_load(true);
    world.want(0);
    world.deliver();
    assert_eq!(world.hosts[0].refused, [Counter::RxCookieSent]);
    assert!(world.hosts[1].refused.is_empty(), "the cookie for its response is taken");
    world.pass(6 * SECOND);
    world.assert_works();
}

#[test]
fn too_many_messages_are_load_by_themselves_and_one_source_is_limited() {
    let (mut world, initiation) = initiated();
    let mut junk = initiation.clone();
    junk[40..88].fill(0xee);
    let junk = with_mac1(1, junk);
    let mut results = BTreeMap::new();
    for _ in 0..1500 {
        *results.entry(handle(&mut world, 1, &junk).unwrap_err()).or_insert(0) += 1;
    }
    assert_eq!(results[&Counter::RxBadHandshake], admission::MESSAGES_PER_SECOND);
    assert_eq!(results[&Counter::RxCookieSent], 500);
    let first = world.hosts[1].sessions.poll_output();
    assert!(matches!(first, Some(Output::Cookies(_))), "the data path is told of the new cookies");
    let mut cookies = Vec::new();
    while let Some(Output::Transmit { datagram, .. }) = world.hosts[1].sessions.poll_output() {
        cookies.push(datagram);
    }
    assert_eq!(cookies.len(), 500);

    // With the cookie, the sender is heard, but not without end.
    let mut macs = mac::PeerMacs::new(&public(1));
    let mut with_cookie = initiation;
    with_cookie[116..].fill(0);
    macs.fill_in(world.now, &mut with_cookie);
    assert_eq!(handle(&mut world, 1, &with_cookie), Err(Counter::RxCookieSent));
    let Some(Output::Transmit { datagram, .. }) = world.hosts[1].sessions.poll_output() else {
        panic!("no cookie")
    };
    assert!(macs.take_cookie(world.now, &wireguard::CookieReply::parse(&datagram).unwrap()));
    with_cookie[116..].fill(0);
    macs.fill_in(world.now, &mut with_cookie);
    assert_eq!(handle(&mut world, 1, &with_cookie), Ok(()));
    let replays =
        (0..50).filter(|_| handle(&mut world, 1, &with_cookie) == Err(Counter::RxReplayedHandshake));
    assert_eq!(replays.count(), 4, "a burst of five");
    assert_eq!(handle(&mut world, 1, &with_cookie), Err(Counter::RxHandshakeFlood));
}

#[test]
fn what_is_told_of_no_session_changes_nothing() {
    let mut world = World::connected();
    let now = world.time(0);
    let sessions = &mut world.hosts[0].sessions;
    let all = Some(now.at);
    let traffic = Traffic {
        sent: all,
        sent_data: all,
        received: all,
        received_data: all,
        by_udp: all,
        by_tcp: all,
        by_relay: all,
        send_counter: u64::MAX,
    };
    let view = sessions.peer(PEER);
    for index in [0, 1, u32::MAX, 1 << SLOT_BITS, 77] {
        sessions.traffic(now, index, &traffic);
        sessions.authenticated_from(now, index, udp([1, 2, 3, 4], 5));
    }
    sessions.want_session(now, PeerId(77));
    sessions.set_endpoint(PeerId(77), None);
    assert_eq!(sessions.peer(PEER), view);
    assert!(sessions.poll_output().is_none());
}

#[test]
fn slots_run_out_and_nobody_is_the_worse_for_it() {
    let mut world = World::connected();
    let sessions = &mut world.hosts[1].sessions;
    let mut held = Vec::new();
    while let Some(index) = sessions.shared.indices.allocate(0, PeerId(9999)) {
        held.push(index);
    }
    world.pass(121 * SECOND);
    world.send(0, b"re-keys");
    world.deliver();
    assert_eq!(world.hosts[1].refused, [Counter::RxHandshakeFlood]);
    world.assert_works();
    for index in held {
        world.hosts[1].sessions.shared.indices.release(index);
    }
    world.pass(6 * SECOND);
    assert_eq!(world.made()[0], (2, 2));
    world.assert_works();
}
