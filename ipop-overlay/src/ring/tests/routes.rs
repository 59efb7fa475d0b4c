//! Where messages go, over random tables and over whole rings.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::route::decide;
use super::super::table::Table;
use super::super::wire::{Header, Kind, Mode, Roles};
use super::{address, addresses, roles, table};
use crate::address::NodeAddress;

fn header(mode: Mode, source: NodeAddress, destination: NodeAddress) -> Header {
    Header {
        mode,
        hops: 0,
        hops_max: 4096,
        kind: Kind::Echo,
        went_uphill: false,
        source,
        destination,
        via: None,
    }
}

/// Nodes whose connections are whatever they are, even one-sided.
fn wild() -> impl Strategy<Value = Vec<Table>> {
    addresses(2..20).prop_flat_map(|all| {
        let edges = proptest::collection::vec(proptest::collection::vec(roles(), all.len()), all.len());
        edges.prop_map(move |edges| {
            let with = |(own, roles): (&NodeAddress, Vec<Roles>)| {
                let others = all.iter().copied().zip(roles);
                table(*own, others.filter(|(_, role)| !role.is_empty() && role.contains(Roles::NEAR)))
            };
            all.iter().zip(edges).map(with).collect()
        })
    })
}

/// A ring as it should be: each connected to the two nearest on both sides, and a few to others.
fn ring(all: &[NodeAddress], shortcuts: &[(usize, usize)]) -> BTreeMap<NodeAddress, Table> {
    let count = all.len();
    let mut edges: BTreeMap<NodeAddress, BTreeSet<NodeAddress>> = BTreeMap::new();
    let mut connect = |a: NodeAddress, b: NodeAddress| {
        edges.entry(a).or_default().insert(b);
        edges.entry(b).or_default().insert(a);
    };
    for index in 0..count {
        for offset in [1, 2] {
            connect(all[index], all[(index + offset) % count]);
        }
    }
    for (a, b) in shortcuts {
        connect(all[a % count], all[b % count]);
    }
    let near = |others: BTreeSet<NodeAddress>| others.into_iter().map(|other| (other, Roles::NEAR));
    edges.into_iter().map(|(own, others)| (own, table(own, near(others)))).collect()
}

/// Sends a message from table to table; where it was delivered.
fn send(
    ring: &BTreeMap<NodeAddress, Table>,
    first: NodeAddress,
    from: Option<NodeAddress>,
    mut header: Header,
) -> Vec<NodeAddress> {
    let (mut here, mut from, mut delivered) = (first, from, Vec::new());
    for hops in 0.. {
        assert!(hops < ring.len() + 2, "it goes round and round");
        if header.via == Some(here) {
            header.via = None;
        }
        let decision = decide(&ring[&here], from, &header);
        if decision.here {
            delivered.push(here);
        }
        let Some(next) = decision.next else { break };
        assert!(Some(next) != from && next != here);
        header.went_uphill |= decision.uphill;
        header.hops += u16::from(from.is_some());
        (from, here) = (Some(here), next);
    }
    delivered
}

fn shortcuts() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec(any::<(usize, usize)>(), 0..20)
}

proptest! {
    #[test]
    fn each_hop_but_one_comes_nearer(
        tables in wild(), start in any::<proptest::sample::Index>(), destination in address(), exact in any::<bool>(),
        source in address(),
    ) {
        let mode = if exact { Mode::Exact } else { Mode::Nearest };
        let mut header = header(mode, source, destination);
        let by_address: BTreeMap<_, _> = tables.iter().map(|table| (table.own, table)).collect();
        let mut here = start.get(&tables).own;
        let mut from = Some(source);
        let mut uphill = 0;
        while let Some(table) = by_address.get(&here) {
            let decision = decide(table, from, &header);
            let Some(next) = decision.next else { break };
            prop_assert!(Some(next) != from && next != here, "it goes back");
            if next.distance(destination) >= here.distance(destination) {
                prop_assert!(decision.uphill && exact, "{next} is no nearer than {here}");
                uphill += 1;
            }
            prop_assert!(uphill <= 1);
            header.went_uphill |= decision.uphill;
            (from, here) = (Some(here), next);
        }
    }

    #[test]
    fn in_a_ring_every_node_reaches_every_other(all in addresses(2..30), shortcuts in shortcuts()) {
        let ring = ring(&all, &shortcuts);
        for a in &all {
            for b in all.iter().filter(|b| *b != a) {
                prop_assert_eq!(send(&ring, *a, None, header(Mode::Exact, *a, *b)), [*b]);
            }
        }
    }

    #[test]
    fn in_a_ring_the_nearest_to_a_place_is_found(
        all in addresses(2..30), shortcuts in shortcuts(), place in address(), start in any::<proptest::sample::Index>(),
    ) {
        let ring = ring(&all, &shortcuts);
        let source = *start.get(&all);
        // It does not come back to its source, and stays there where that is the nearest.
        let nearest = all.iter().map(|node| node.distance(place)).min().expect("a node");
        let delivered = send(&ring, source, None, header(Mode::Nearest, source, place));
        prop_assert_eq!(delivered.len(), 1);
        prop_assert_eq!(delivered[0].distance(place), nearest);
    }

    #[test]
    fn both_sides_of_a_node_that_joins_hear_of_it(
        all in addresses(3..30), shortcuts in shortcuts(), new in address(), start in any::<proptest::sample::Index>(),
    ) {
        prop_assume!(!all.contains(&new));
        let ring = ring(&all, &shortcuts);
        let above = all.iter().copied().min_by_key(|node| new.up_to(*node)).expect("a node");
        let below = all.iter().copied().min_by_key(|node| node.up_to(new)).expect("a node");
        // By way of any of them, as a leaf of that one.
        let delivered = send(&ring, *start.get(&all), Some(new), header(Mode::Flanks, new, new));
        prop_assert_eq!(delivered.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([above, below]));
    }

    #[test]
    fn both_sides_of_a_node_on_the_ring_hear_its_own_check(
        all in addresses(4..30), shortcuts in shortcuts(), node in any::<proptest::sample::Index>(),
        by in any::<proptest::sample::Index>(),
    ) {
        let (ring, node) = (ring(&all, &shortcuts), node.index(all.len()));
        let own = all[node];
        let neighbours: Vec<_> = ring[&own].structured().collect();
        let first = *by.get(&neighbours);
        let count = all.len();
        let sides = BTreeSet::from([all[(node + 1) % count], all[(node + count - 1) % count]]);
        let delivered = send(&ring, first, Some(own), header(Mode::Flanks, own, own));
        prop_assert_eq!(delivered.into_iter().collect::<BTreeSet<_>>(), sides);
    }

    /// Whatever a header says of the hops it may take: nobody's message goes round the ring.
    #[test]
    fn along_the_ring_it_goes_to_the_neighbours_and_no_further(
        all in addresses(6..30), up in any::<bool>(), hops_max in 1u16.., start in any::<proptest::sample::Index>(),
        source in address(),
    ) {
        let ring = ring(&all, &[]);
        let mode = if up { Mode::Up } else { Mode::Down };
        let start = *start.get(&all);
        let header = Header { hops_max, ..header(mode, source, source) };
        let delivered = send(&ring, start, Some(source), header);
        prop_assert_eq!(delivered.len(), 1);
        let steps = all.iter().filter(|node| {
            if up { node.is_between(start, delivered[0]) } else { node.is_between(delivered[0], start) }
        });
        prop_assert!(delivered[0] == start || steps.count() <= 1);
    }
}
