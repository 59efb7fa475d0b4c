//! Tests of the ring without the simulator: the messages, decisions and tables by themselves, and small
//! rings that are driven by hand. Whole networks are tested in `ipop-sim`.

mod broadcasts;
mod claims;
mod edges;
mod groups;
mod nodes;
mod probes;
mod records;
mod relays;
mod routes;
mod wires;

use std::vec::Vec;

use proptest::prelude::*;

use super::edge::Edge;
use super::table::Table;
use super::wire::{Coordinates, Roles};
use crate::address::NodeAddress;
use crate::time::Instant;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

/// Any node's address, many of them close to one another.
fn address() -> impl Strategy<Value = NodeAddress> {
    let far = any::<[u8; 20]>();
    let close = any::<u8>().prop_map(|last| {
        let mut bytes = [0x55; 20];
        bytes[19] = last;
        bytes
    });
    prop_oneof![4 => far, 1 => close].prop_map(|mut bytes| {
        bytes[19] &= !1;
        NodeAddress(bytes)
    })
}

fn coordinates() -> impl Strategy<Value = Coordinates> {
    any::<(i32, i32, u32)>().prop_map(|(x, y, height)| Coordinates { x, y, height })
}

fn roles() -> impl Strategy<Value = Roles> {
    (0u8..64).prop_map(Roles)
}

/// The table of a node with these neighbours on the ring.
fn table(own: NodeAddress, others: impl IntoIterator<Item = (NodeAddress, Roles)>) -> Table {
    let mut table = Table::new(own);
    for (address, role) in others {
        if address != own {
            let mut edge = Edge::new([0; 32], false, at(0));
            edge.theirs = role;
            table.insert(address, edge);
        }
    }
    table
}

/// Different addresses, in order.
fn addresses(range: std::ops::Range<usize>) -> impl Strategy<Value = Vec<NodeAddress>> {
    proptest::collection::btree_set(address(), range).prop_map(|set| set.into_iter().collect())
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_map().entry(&self.own, &self.structured().collect::<Vec<_>>()).finish()
    }
}
