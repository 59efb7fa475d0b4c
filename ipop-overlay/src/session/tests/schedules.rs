//! Any schedule of losses, duplicates, changes, delays and restarts ends in a session that carries
//! packets both ways, or in a clean new attempt.

use super::*;
use proptest::prelude::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A host has a packet to send.
    Send(usize),
    /// A datagram arrives: any that is under way.
    Arrive(usize),
    /// One arrives and stays under way.
    Duplicate(usize),
    Lose(usize),
    /// One arrives with a bit changed, and stays under way as it was.
    Change(usize, usize),
    Pass(Duration),
    /// The clock of host 0 goes back. Were both set back over a restart, what was said before would be
    /// in the future of both, and neither would hear the other until then.
    ClockBack,
    /// A host forgets everything.
    Restart(usize),
    /// A host is elsewhere from now on: by UDP at another port, or with 0 on the overlay.
    Move(usize, u16),
    UnderLoad(usize, bool),
    /// A host learns where the other may be: there and at some places where nobody is, or nowhere.
    Candidates(usize, bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..2usize).prop_map(Event::Send),
        12 => any::<usize>().prop_map(Event::Arrive),
        2 => any::<usize>().prop_map(Event::Duplicate),
        3 => any::<usize>().prop_map(Event::Lose),
        2 => any::<(usize, usize)>().prop_map(|(at, bit)| Event::Change(at, bit)),
        4 => (0..2000u64).prop_map(|ms| Event::Pass(Duration::from_millis(ms))),
        4 => (0..60u64).prop_map(|s| Event::Pass(Duration::from_secs(s))),
        1 => Just(Event::ClockBack),
        1 => (0..2usize).prop_map(Event::Restart),
        1 => (0..2usize, 0..5u16).prop_map(|(host, port)| Event::Move(host, port)),
        1 => (0..2usize, any::<bool>()).prop_map(|(host, load)| Event::UnderLoad(host, load)),
        1 => (0..2usize, any::<bool>()).prop_map(|(host, some)| Event::Candidates(host, some)),
    ]
}

/// Lets time pass without delivering.
fn pass(world: &mut World, time: Duration) {
    let end = world.now.after(time);
    while world.now < end {
        let due = world.hosts.iter().filter_map(|host| host.sessions.poll_timeout()).min();
        let step = due.unwrap_or(end).clamp(world.now, end);
        world.advance(step.since(world.now));
        for host in 0..2 {
            let now = world.time(host);
            world.hosts[host].sessions.handle_timeout(now);
        }
        world.drain();
    }
}

fn happen(world: &mut World, event: &Event, restarts: &mut u64) {
    let pick = |world: &World, at: usize| (!world.wire.is_empty()).then(|| at % world.wire.len());
    match *event {
        Event::Send(host) => world.send(host, b"a packet"),
        Event::Arrive(at) => {
            if let Some((from, to, datagram)) = pick(world, at).and_then(|at| world.wire.remove(at)) {
                world.arrive(from, to, &datagram);
            }
        }
        Event::Duplicate(at) => {
            if let Some(at) = pick(world, at) {
                let (from, to, datagram) = world.wire[at].clone();
                world.arrive(from, to, &datagram);
            }
        }
        Event::Lose(at) => {
            pick(world, at).and_then(|at| world.wire.remove(at));
        }
        Event::Change(at, bit) => {
            if let Some(at) = pick(world, at) {
                let (from, to, mut datagram) = world.wire[at].clone();
                let bit = bit % (8 * datagram.len());
                datagram[bit / 8] ^= 1 << (bit % 8);
                world.arrive(from, to, &datagram);
            }
        }
        Event::Pass(time) => pass(world, time),
        Event::ClockBack => {
            let ahead = &mut world.hosts[0].clock_ahead;
            *ahead = ahead.saturating_sub(Duration::from_secs(100));
        }
        Event::Restart(host) => {
            *restarts += 1;
            let (address, clock_ahead) = (world.hosts[host].address, world.hosts[host].clock_ahead);
            let fresh = Host::new(host, Timers::WIREGUARD, *restarts * 31 + host as u64, world.now);
            world.hosts[host] = Host { address, clock_ahead, ..fresh };
        }
        Event::Move(host, 0) => world.hosts[host].address = overlay(host),
        Event::Move(host, port) => world.hosts[host].address = udp([10, 0, 0, host as u8 + 1], 15000 + port),
        Event::UnderLoad(host, load) => world.hosts[host].sessions.set_under_load(load),
        Event::Candidates(host, some) => {
            let other = 1 - host;
            let nowhere = (0..8).map(|number| udp([203, 0, 113, number], 1));
            let places = [address(other), overlay(other), world.hosts[other].address];
            let places: Vec<Endpoint> = nowhere.chain(places).filter(|_| some).collect();
            world.hosts[host].sessions.set_candidates(PEER, &places);
        }
    }
}

/// From here on nothing is lost, and both have packets to send: they reach each other in time.
fn recovers(world: &mut World) -> bool {
    for _ in 0..40 {
        for host in 0..2 {
            world.hosts[host].sessions.set_under_load(false);
            // As a daemon does when a peer does not answer. By itself a node may not find one that has
            // moved and whose own initiations are in vain, because its clock was set back.
            let there = world.hosts[1 - host].address;
            world.hosts[host].sessions.set_endpoint(PEER, Some(there));
            world.send(host, b"a packet");
        }
        world.deliver();
        if world.works() {
            return true;
        }
        world.pass(SECOND);
    }
    false
}

/// What holds at all times.
fn assert_sound(world: &World) {
    for host in &world.hosts {
        let view = host.sessions.peer(PEER).unwrap();
        assert_eq!(view.current, host.used, "the data path sends on what the core counts on");
        assert!(host.installed.len() <= 5, "three, and two that are about to go");
        let attempt = usize::from(view.handshaking);
        let taken = host.sessions.shared.indices.taken();
        assert!((host.installed.len()..=host.installed.len() + attempt).contains(&taken), "no index is lost");
        if !host.installed.is_empty() || view.handshaking {
            assert!(host.sessions.poll_timeout().is_some(), "something is to be done");
        }
    }
}

proptest! {
    #[test]
    fn any_schedule_ends_in_a_session(seed in any::<u32>(), events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::seeded(u64::from(seed) + 1);
        // So that going back is possible before what the other has seen.
        world.hosts.iter_mut().for_each(|host| host.clock_ahead = Duration::from_secs(1000));
        let mut restarts = 0;
        for event in &events {
            happen(&mut world, event, &mut restarts);
            assert_sound(&world);
        }
        prop_assert!(recovers(&mut world), "no session: {:?}, refused {:?}", world.used(), world.hosts.each_ref().map(|host| host.refused.clone()));
        assert_sound(&world);
        // And all of it ends by itself where nobody sends any more.
        world.pass(400 * SECOND);
        for host in &world.hosts {
            prop_assert!(host.installed.is_empty());
            prop_assert_eq!(host.sessions.shared.indices.taken(), 0);
            prop_assert_eq!(host.sessions.poll_timeout(), None);
        }
    }
}
