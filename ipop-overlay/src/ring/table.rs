//! The connections of a node, and what follows from where they are on the ring.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::edge::Edge;
use super::limits::NEAR_PER_SIDE;
use crate::address::{Distance, NodeAddress};

pub(super) struct Table {
    pub(super) own: NodeAddress,
    edges: BTreeMap<NodeAddress, Edge>,
}

impl Table {
    pub(super) fn new(own: NodeAddress) -> Self {
        Self { own, edges: BTreeMap::new() }
    }

    pub(super) fn get(&self, address: NodeAddress) -> Option<&Edge> {
        self.edges.get(&address)
    }

    pub(super) fn get_mut(&mut self, address: NodeAddress) -> Option<&mut Edge> {
        self.edges.get_mut(&address)
    }

    pub(super) fn contains(&self, address: NodeAddress) -> bool {
        self.edges.contains_key(&address)
    }

    pub(super) fn insert(&mut self, address: NodeAddress, edge: Edge) {
        self.edges.insert(address, edge);
    }

    pub(super) fn remove(&mut self, address: NodeAddress) -> Option<Edge> {
        self.edges.remove(&address)
    }

    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeAddress, &Edge)> {
        self.edges.iter().map(|(address, edge)| (*address, edge))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeAddress, &mut Edge)> {
        self.edges.iter_mut().map(|(address, edge)| (*address, edge))
    }

    /// Nodes on the ring to which there is a connection.
    pub(super) fn structured(&self) -> impl Iterator<Item = NodeAddress> {
        self.iter().filter(|(_, edge)| edge.is_structured()).map(|(address, _)| address)
    }

    /// The youngest connection: by it goes what a node sends that is not on the ring.
    pub(super) fn way_in(&self) -> Option<NodeAddress> {
        self.iter().max_by_key(|(_, edge)| edge.since).map(|(address, _)| address)
    }

    /// The nearest on the ring, of those going up and of those going down.
    pub(super) fn nearest(&self) -> [Vec<NodeAddress>; 2] {
        let own = self.own;
        let side = |distance: &dyn Fn(NodeAddress) -> Distance| {
            let mut nearest: [Option<NodeAddress>; NEAR_PER_SIDE] = [None; NEAR_PER_SIDE];
            for mut address in self.structured() {
                for place in &mut nearest {
                    match place {
                        Some(known) if distance(*known) <= distance(address) => {}
                        Some(known) => core::mem::swap(known, &mut address),
                        None => {
                            *place = Some(address);
                            break;
                        }
                    }
                }
            }
            nearest.into_iter().flatten().collect()
        };
        [side(&|address| own.up_to(address)), side(&|address| address.up_to(own))]
    }

    /// The nearest on both sides, each once: those below from the furthest, then those above.
    pub(super) fn neighbours(&self) -> Vec<NodeAddress> {
        let [up, down] = self.nearest();
        let mut all: Vec<NodeAddress> = down.into_iter().rev().collect();
        for address in up {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// Whether a node would be among the nearest if there was a connection to it.
    pub(super) fn would_be_near(&self, address: NodeAddress, [up, down]: &[Vec<NodeAddress>; 2]) -> bool {
        let own = self.own;
        let nearer = |side: &[NodeAddress], distance: &dyn Fn(NodeAddress) -> Distance| {
            side.get(NEAR_PER_SIDE - 1).is_none_or(|last| distance(address) < distance(*last))
        };
        nearer(up, &|other| own.up_to(other)) || nearer(down, &|other| other.up_to(own))
    }

    /// The logarithm of the ring's size that follows from how close the nearest are, 16 bits behind
    /// the point.
    pub(super) fn log2_size(&self) -> u32 {
        let [up, down] = self.nearest();
        let neighbours = self.neighbours();
        let (Some(first), Some(last)) = (down.last(), up.last()) else { return 0 };
        if neighbours.len() < 2 * NEAR_PER_SIDE {
            // They are all there are.
            return Distance::from_number(neighbours.len() as u32 + 1).log2();
        }
        let gaps = Distance::from_number(2 * NEAR_PER_SIDE as u32).log2();
        (gaps + (160 << 16)).saturating_sub(first.up_to(*last).log2())
    }
}
