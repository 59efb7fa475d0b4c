//! Hosts behind boxes, and who reaches them.

use super::*;
use crate::nat::Kind;

const KINDS: [Kind; 5] =
    [Kind::FullCone, Kind::Restricted, Kind::PortRestricted, Kind::Symmetric, Kind::OutgoingOnly];

fn calm() -> World {
    World::new(1, Conditions { loss: 0, duplication: 0, ..Conditions::WIDE })
}

/// Whether a node has an echo of another.
fn reaches(world: &mut World, a: HostId, b: HostId) -> bool {
    world.echoes.clear();
    world.echo(a, b, 7);
    world.run_for(Duration::from_secs(3));
    world.echoes.iter().any(|echoed| echoed.token == 7)
}

#[test]
fn a_host_behind_any_box_joins_those_outside() {
    for kind in KINDS {
        let mut world = calm();
        let first = world.add(&[]);
        let others: Vec<HostId> = (0..8).map(|_| world.add(&[first])).collect();
        let behind = world.add_box(Config::new(kind));
        let host = world.add_behind(behind, &[first]);
        world.run_for(Duration::from_secs(60));
        let ring = crate::measure::Consistency::of(&world);
        assert!(ring.is_ring(), "{kind:?}: {ring:?}");
        for other in others {
            assert!(reaches(&mut world, other, host) && reaches(&mut world, host, other), "{kind:?}");
        }
    }
}

#[test]
fn two_behind_one_box_are_neighbours_by_their_inside_addresses() {
    for kind in KINDS {
        let mut world = calm();
        let behind = world.add_box(Config::new(kind));
        let a = world.add_behind(behind, &[]);
        let b = world.add_behind(behind, &[a]);
        world.run_for(Duration::from_secs(10));
        assert!(reaches(&mut world, a, b), "{kind:?}");
    }
}

#[test]
fn two_behind_boxes_of_their_own_do_not_reach_each_other_by_inside_addresses() {
    for kind in KINDS {
        let mut world = calm();
        let boxes = [kind, kind].map(|kind| world.add_box(Config::new(kind)));
        let a = world.add_behind(boxes[0], &[]);
        let b = world.add_behind(boxes[1], &[a]);
        world.run_for(Duration::from_secs(30));
        assert!(!world.ring(a).is_connected(world.address(b)), "{kind:?}");
    }
}

#[test]
fn only_a_box_that_hairpins_sends_back_in() {
    for hairpin in [false, true] {
        let mut world = calm();
        let behind = world.add_box(Config { hairpin, ..Config::new(Kind::FullCone) });
        let a = world.add_behind(behind, &[]);
        let b = world.add_behind(behind, &[]);
        let now = world.now;
        // Something has made a mapping for it.
        let seen = world.nat(behind).outbound(place(a), SocketAddr::from(([192, 0, 2, 1], 1)), now);
        let key = world.hosts[a].key;
        world.with(b, |node, now| node.add_contact(key, vec![seen], true, now));
        world.run_for(Duration::from_secs(10));
        assert_eq!(world.ring(a).is_connected(world.address(b)), hairpin);
    }
}
