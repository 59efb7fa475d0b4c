//! Groups and their trees.

use core::time::Duration;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::super::groups::place;
use super::super::limits::{
    CHILDREN_MAX, DATAGRAM_HOPS_MAX, DATAGRAMS_OF_LINK, DATAGRAMS_OF_ORIGIN, GROUPS_OF_CHILD_MAX,
    GROUPS_OWN_MAX, JOIN_LIFE, JOIN_RENEW, JOINS, ORIGINS_MAX,
};
use super::super::wire::{Datagram, FRAME_MAX, GroupMessage, GroupWord};
use super::super::{Count, GroupView, Output, Ring};
use super::nodes::{Few, HOSTILE, Victim, key, node, signer};
use crate::endpoint::Endpoint;
use crate::ring::Group;

/// Enough for shortcuts.
const NODES: usize = 20;

fn group(number: u8) -> Group {
    Group { kind: 1, address: [number; 16] }
}

/// Many nodes, of which some are members; the first that is not.
fn ring_with_members(members: &[usize]) -> Few {
    let mut few = Few::joined(NODES);
    few.run(Duration::from_secs(30));
    for member in members {
        let now = few.now;
        few.with(*member, |ring| assert!(ring.join_group(group(1), now)));
    }
    few.run(Duration::from_secs(10));
    few
}

/// Who gets a frame that one of them sends.
fn send(few: &mut Few, sender: usize, frame: &[u8]) -> Vec<usize> {
    few.multicast.clear();
    let now = few.now;
    few.with(sender, |ring| assert!(ring.multicast(group(1), frame, now)));
    few.run(Duration::from_millis(10));
    assert!(
        few.multicast
            .iter()
            .all(|(_, origin, to, got)| { *origin == key(sender) && *to == group(1) && got == frame })
    );
    let mut got: Vec<usize> = few.multicast.iter().map(|(by, ..)| *by).collect();
    got.sort_unstable();
    got
}

fn view(ring: &Ring) -> Option<GroupView> {
    ring.groups().find(|view| view.group == group(1))
}

fn up(few: &Few) -> impl Iterator<Item = (usize, &Ring)> {
    few.nodes.iter().enumerate().filter_map(|(index, ring)| Some((index, ring.as_ref()?)))
}

/// Datagrams that each pair of nodes has exchanged, either way.
fn by_link(few: &Few) -> BTreeMap<[usize; 2], u64> {
    let mut links = BTreeMap::new();
    for (index, ring) in up(few) {
        for edge in ring.edges() {
            let Some(other) = few.index_of(edge.address) else { continue };
            let link = [index.min(other), index.max(other)];
            *links.entry(link).or_default() += edge.multicast[0];
        }
    }
    links
}

#[test]
fn each_member_gets_a_frame_once_and_no_link_carries_it_twice() {
    let members: Vec<usize> = (0..NODES).filter(|index| index % 3 == 0).collect();
    let mut few = ring_with_members(&members);
    for sender in [0, 1, 10, NODES - 1] {
        let before = by_link(&few);
        let got = send(&mut few, sender, b"to all members");
        let others: Vec<usize> = members.iter().copied().filter(|member| *member != sender).collect();
        assert_eq!(got, others, "sent by {sender}");
        let after = by_link(&few);
        for (link, count) in &after {
            let copies = count - before.get(link).unwrap_or(&0);
            assert!(copies <= 1, "{link:?} carried it {copies} times");
        }
        let copies: u64 = after.values().sum::<u64>() - before.values().sum::<u64>();
        assert!(copies < NODES as u64, "{copies} copies for {} members", members.len());
    }
    let refused = [Count::GroupRepeated, Count::GroupStray, Count::GroupWrongWay, Count::GroupFlood];
    assert!(up(&few).all(|(_, ring)| refused.iter().all(|count| ring.counts().get(*count) == 0)));
}

#[test]
fn the_root_is_the_nearest_and_a_parent_is_nearer_than_its_child() {
    let few = ring_with_members(&[3, 7, 11, 15, 19]);
    let nearest = (0..NODES).min_by_key(|index| node(*index).distance(place(&group(1)))).expect("some");
    let mut roots = Vec::new();
    for (index, ring) in up(&few) {
        let Some(view) = view(ring) else { continue };
        assert!(!view.is_asking && (view.is_own || !view.children.is_empty()), "{view:?}");
        match view.parent {
            None => roots.push(index),
            Some(parent) => assert!(parent.distance(view.place) < node(index).distance(view.place)),
        }
    }
    assert_eq!(roots, [nearest]);
}

#[test]
fn who_is_in_no_group_s_way_sends_nothing_and_the_tree_goes_with_its_members() {
    let mut few = ring_with_members(&[3, 7, 11]);
    assert!(up(&few).any(|(_, ring)| view(ring).is_none()));
    for member in [3, 7, 11] {
        few.with(member, |ring| ring.leave_group(&group(1)));
    }
    few.run(Duration::from_secs(1));
    assert!(up(&few).all(|(_, ring)| ring.groups().next().is_none()));
    assert!(send(&mut few, 3, b"to nobody").is_empty());
}

#[test]
fn a_tree_heals_when_a_node_on_the_way_dies_and_when_the_root_does() {
    let members: Vec<usize> = (0..NODES).step_by(2).collect();
    let mut few = ring_with_members(&members);
    for _ in 0..3 {
        let most = up(&few)
            .filter_map(|(index, ring)| Some((view(ring)?, index)))
            .max_by_key(|(view, _)| (view.parent.is_none(), view.children.len()));
        let (_, victim) = most.expect("a root");
        few.nodes[victim] = None;
        few.run(Duration::from_secs(40));
        let sender =
            members.iter().copied().find(|member| few.nodes[*member].is_some()).expect("some are left");
        let got = send(&mut few, sender, b"again");
        let left = members.iter().copied().filter(|member| *member != sender && few.nodes[*member].is_some());
        assert_eq!(got, left.collect::<Vec<_>>(), "after {victim} died");
    }
}

#[test]
fn a_nearer_node_that_comes_becomes_the_root() {
    let nearest = (0..NODES).min_by_key(|index| node(*index).distance(place(&group(1)))).expect("some");
    let mut few = Few::joined(NODES);
    few.with(nearest, Ring::leave);
    few.nodes[nearest] = None;
    few.run(Duration::from_secs(60));
    let members: Vec<usize> = (0..NODES).filter(|index| *index != nearest).step_by(3).collect();
    for member in &members {
        let now = few.now;
        few.with(*member, |ring| ring.join_group(group(1), now));
    }
    few.run(Duration::from_secs(10));
    assert_eq!(send(&mut few, members[0], b"before"), members[1..]);
    few.start(nearest, usize::from(nearest == 0));
    few.run(Duration::from_secs(180));
    let root = few.nodes[nearest].as_ref().and_then(view).expect("it is in the tree");
    assert!(root.parent.is_none() && !root.children.is_empty() && !root.is_own, "{root:?}");
    assert_eq!(send(&mut few, members[0], b"after"), members[1..]);
}

#[test]
fn members_that_fall_silent_without_a_word_are_forgotten() {
    let mut victim = Victim::new();
    let (child, group) = child_of(&victim);
    victim.hear(child, &join(group));
    assert!(victim.ring.groups().next().is_some());
    victim.now = victim.now.after(JOIN_LIFE + Duration::from_secs(31));
    victim.ring.groups_timeout(victim.now);
    victim.ring.groups_timeout(victim.now);
    assert!(victim.ring.groups().next().is_none());
}

fn join(group: Group) -> Vec<u8> {
    GroupMessage { word: GroupWord::Join, group }.to_bytes()
}

/// Groups of whose place the node under test is nearer than the hostile member.
fn groups_below() -> impl Iterator<Item = Group> {
    (0u32..)
        .map(|number| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&number.to_be_bytes());
            Group { kind: 1, address }
        })
        .filter(|group| node(0).distance(place(group)) < node(HOSTILE).distance(place(group)))
}

/// A neighbour, and a group in which it may be a child.
fn child_of(_: &Victim) -> (usize, Group) {
    (HOSTILE, groups_below().next().expect("half of them"))
}

#[test]
fn a_hostile_member_fills_no_table_with_joins() {
    let mut victim = Victim::new();
    let mut answered = 0;
    for (round, group) in groups_below().take(3 * GROUPS_OF_CHILD_MAX).enumerate() {
        answered += victim.hear(HOSTILE, &join(group));
        if round % 8 == 0 {
            victim.now = victim.now.after(Duration::from_millis(500));
        }
        assert!(victim.ring.sizes().all(|size| size.len <= size.most));
    }
    assert_eq!(victim.ring.groups().count(), GROUPS_OF_CHILD_MAX);
    assert_eq!(victim.count(Count::GroupFull), 2 * GROUPS_OF_CHILD_MAX as u64);
    assert!(answered > 0);
    // A member of this host's own is taken nevertheless.
    let now = victim.now;
    assert!(victim.ring.join_group(Group { kind: 9, address: [9; 16] }, now));
}

#[test]
fn a_flood_of_joins_is_refused_and_counted() {
    let mut victim = Victim::new();
    let (child, group) = child_of(&victim);
    let sent = u64::from(JOINS.1) + 50;
    for _ in 0..sent {
        victim.hear(child, &join(group));
    }
    assert_eq!(victim.count(Count::GroupJoinFlood), 50);
}

#[test]
fn who_is_nearer_to_the_root_is_no_child() {
    let mut victim = Victim::new();
    let above = (0u8..=255)
        .map(group)
        .find(|group| node(0).distance(place(group)) > node(HOSTILE).distance(place(group)));
    let above = above.expect("half of them");
    victim.hear(HOSTILE, &join(above));
    assert_eq!(victim.count(Count::GroupWrongWay), 1);
    assert!(victim.ring.groups().next().is_none());
    // Nor does it send anything up to this node.
    victim.hear(HOSTILE, &datagram(9, above, 1, b"up", false));
    assert_eq!(victim.count(Count::GroupWrongWay), 2);
}

/// A datagram as its origin would send it.
fn datagram(origin: usize, group: Group, number: u64, frame: &[u8], goes_down: bool) -> Vec<u8> {
    let unsigned =
        Datagram { goes_down, hops: 0, group, origin: key(origin), number, signature: [0; 64], frame };
    Datagram { signature: signer(origin).sign(&unsigned.signed()), ..unsigned }.to_bytes()
}

/// What the node under test gets as a member.
fn frames(victim: &mut Victim, message: &[u8]) -> Vec<Vec<u8>> {
    victim.ring.handle_message(node(HOSTILE), message, victim.now);
    core::iter::from_fn(|| victim.ring.poll_output())
        .filter_map(|output| if let Output::Multicast { frame, .. } = output { Some(frame) } else { None })
        .collect()
}

/// The node under test is a member of a group of which the hostile neighbour is farther from the root.
fn member() -> (Victim, Group) {
    let mut victim = Victim::new();
    let (_, group) = child_of(&victim);
    let now = victim.now;
    victim.ring.join_group(group, now);
    while victim.ring.poll_output().is_some() {}
    (victim, group)
}

#[test]
fn what_is_forged_changed_or_repeated_goes_no_further() {
    let (mut victim, group) = member();
    let good = datagram(9, group, 1000, b"good", false);
    assert_eq!(frames(&mut victim, &good), [b"good".to_vec()]);
    assert!(frames(&mut victim, &good).is_empty());
    assert_eq!(victim.count(Count::GroupRepeated), 1);
    for at in [7, 8, 24, 63, 64, 127, 128] {
        let mut changed = datagram(9, group, 1003, b"good", false);
        changed[at] ^= 1;
        assert!(frames(&mut victim, &changed).is_empty(), "byte {at}");
    }
    assert!(victim.count(Count::GroupNotSigned) + victim.count(Count::GroupWrongWay) >= 7);
    // What was refused has not made the real one one that has come already.
    assert_eq!(frames(&mut victim, &datagram(9, group, 1003, b"good", false)).len(), 1);
    // Out of order, but not long ago.
    assert_eq!(frames(&mut victim, &datagram(9, group, 900, b"late", false)).len(), 1);
    assert!(frames(&mut victim, &datagram(9, group, 900, b"late", false)).is_empty());
    assert!(frames(&mut victim, &datagram(9, group, 800, b"old", false)).is_empty());
    assert_eq!(victim.count(Count::GroupRepeated), 3);
    // In the name of this node itself.
    assert!(frames(&mut victim, &datagram(0, group, 5000, b"own", false)).is_empty());
    assert_eq!(victim.count(Count::Looped), 1);
}

#[test]
fn what_does_not_come_from_the_parent_is_refused_and_its_sender_told() {
    let (mut victim, group) = member();
    let message = datagram(9, group, 1, b"down", true);
    let answer = GroupMessage { word: GroupWord::Leave, group }.to_bytes();
    victim.ring.handle_message(node(HOSTILE), &message, victim.now);
    let outputs: Vec<Output> = core::iter::from_fn(|| victim.ring.poll_output()).collect();
    assert_eq!(outputs, [Output::Send { to: node(HOSTILE), message: answer }]);
    assert_eq!(victim.count(Count::GroupStray), 1);
}

#[test]
fn a_datagram_that_has_come_too_far_ends_here() {
    let (mut victim, group) = member();
    let unsigned = Datagram {
        goes_down: false,
        hops: DATAGRAM_HOPS_MAX - 1,
        group,
        origin: key(9),
        number: 1,
        signature: [0; 64],
        frame: b"far",
    };
    let far = Datagram { signature: signer(9).sign(&unsigned.signed()), ..unsigned };
    assert_eq!(victim.hear(HOSTILE, &far.to_bytes()), 0);
    assert_eq!(victim.count(Count::TooManyHops), 1);
}

#[test]
fn floods_of_one_origin_and_by_one_connection_are_limited() {
    let (mut victim, group) = member();
    let at_once = u64::from(DATAGRAMS_OF_ORIGIN.1);
    let got: usize = (0..at_once + 50)
        .map(|number| frames(&mut victim, &datagram(9, group, number, b"x", false)).len())
        .sum();
    assert_eq!((got as u64, victim.count(Count::GroupFlood)), (at_once, 50));
    // Other origins do not help: the connection has a limit of its own.
    let left = u64::from(DATAGRAMS_OF_LINK.1) - at_once - 50;
    let got: usize = (0..left + 20)
        .map(|number| {
            frames(&mut victim, &datagram(10 + number as usize / 400, group, number, b"x", false)).len()
        })
        .sum();
    assert_eq!((got as u64, victim.count(Count::GroupFlood)), (left, 70));
}

#[test]
fn this_host_s_own_flood_is_limited_too_and_what_is_too_long_is_not_sent() {
    let mut victim = Victim::new();
    let now = victim.now;
    let sent = (0..600).filter(|_| victim.ring.multicast(group(1), b"x", now)).count();
    assert_eq!(sent, DATAGRAMS_OF_ORIGIN.1 as usize);
    assert_eq!(victim.count(Count::GroupFlood), 600 - sent as u64);
    assert!(!victim.ring.multicast(group(1), &[0; FRAME_MAX + 1], now));
    assert_eq!(victim.count(Count::TooLong), 1);
}

#[test]
fn tables_of_origins_children_and_own_groups_have_limits() {
    let (mut victim, group) = member();
    for origin in 10..10 + ORIGINS_MAX + 5 {
        // All keys of tests are of a byte: the number tells two of one key apart.
        frames(&mut victim, &datagram(origin % 250, group, origin as u64, b"x", false));
        victim.now = victim.now.after(Duration::from_millis(10));
    }
    assert!(victim.ring.sizes().all(|size| size.len <= size.most));
    let now = victim.now;
    let taken = (0..100u8)
        .filter(|number| victim.ring.join_group(Group { kind: 9, address: [*number; 16] }, now))
        .count();
    assert_eq!(taken, GROUPS_OWN_MAX - 1);
}

#[test]
fn a_tree_has_so_many_children_and_others_are_told_that_it_is_full() {
    let mut victim = Victim::new();
    let others: Vec<usize> = (10..250).collect();
    for other in &others {
        victim.ring.connected(key(*other), Endpoint::Udp(([10, 0, 0, 1], 1).into()), victim.now);
    }
    let is_above =
        |group: &Group, other: usize| node(0).distance(place(group)) < node(other).distance(place(group));
    let group =
        groups_below().find(|group| others.iter().filter(|other| is_above(group, **other)).count() > 100);
    let group = group.expect("one of which this node is near");
    let mut words = Vec::new();
    for other in others.into_iter().filter(|other| is_above(&group, *other)) {
        victim.ring.handle_message(node(other), &join(group), victim.now);
        while let Some(output) = victim.ring.poll_output() {
            if let Output::Send { to, message } = output
                && to == node(other)
            {
                words.extend(GroupMessage::parse(&message).map(|said| said.word));
            }
        }
    }
    let taken = words.iter().filter(|word| **word == GroupWord::Joined).count();
    assert_eq!(taken, CHILDREN_MAX);
    assert!(words[CHILDREN_MAX..].iter().all(|word| *word == GroupWord::Full));
    assert_eq!(victim.count(Count::GroupFull), (words.len() - CHILDREN_MAX) as u64);
}

#[test]
fn a_parent_without_room_or_without_an_answer_is_passed_over() {
    let mut victim = Victim::new();
    let now = victim.now;
    let group = (0u8..=255).map(group).find(|group| {
        let nearer = (1..=HOSTILE)
            .filter(|index| node(*index).distance(place(group)) < node(0).distance(place(group)));
        nearer.count() >= 2
    });
    let group = group.expect("one of them");
    let mut nearer: Vec<usize> = (1..=HOSTILE).collect();
    nearer.sort_by_key(|index| node(*index).distance(place(&group)));
    victim.ring.join_group(group, now);
    assert_eq!(asked(&mut victim), [node(nearer[0])]);
    let full = GroupMessage { word: GroupWord::Full, group }.to_bytes();
    victim.ring.handle_message(node(nearer[0]), &full, victim.now);
    assert_eq!(asked(&mut victim), [node(nearer[1])]);
    // The second does not answer: after some tries, the node is without a parent for a while.
    for _ in 0..6 {
        victim.now = victim.ring.groups_due().expect("a question waits");
        victim.ring.groups_timeout(victim.now);
        while victim.ring.poll_output().is_some() {}
    }
    assert_eq!(victim.count(Count::NoAnswer), 1);
    let joined = GroupMessage { word: GroupWord::Joined, group }.to_bytes();
    victim.ring.handle_message(node(nearer[1]), &joined, victim.now);
    assert_eq!(victim.count(Count::Unexpected), 1, "an answer that comes too late");
}

/// Whom the node under test asks to be its parent.
fn asked(victim: &mut Victim) -> Vec<crate::NodeAddress> {
    core::iter::from_fn(|| victim.ring.poll_output())
        .filter_map(|output| match output {
            Output::Send { to, message } if message.get(2) == Some(&0) && message[0] == 11 => Some(to),
            _ => None,
        })
        .collect()
}

#[test]
fn members_stay_members_for_as_long_as_they_say_so() {
    let mut few = ring_with_members(&[3, 7, 11, 15]);
    few.run(JOIN_LIFE + JOIN_RENEW);
    assert_eq!(by_link(&few).values().sum::<u64>(), 0, "nothing was sent to a group");
    assert!(up(&few).any(|(_, ring)| view(ring).is_none()));
    assert_eq!(send(&mut few, 3, b"still there"), vec![7, 11, 15]);
}
