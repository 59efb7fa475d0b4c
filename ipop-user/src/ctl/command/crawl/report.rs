//! What a crawl has found, and whether the nodes agree about it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::{RingEdge, RingNode};
use crate::ctl::format::{Align, microseconds, or_nothing, table};
use crate::key::NodeAddress;

/// What `ipopctl crawl --json` prints.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Crawl {
    /// Each node's successor has it for its predecessor, and nobody is between them.
    pub(super) consistent: bool,
    /// What is wrong with that, a line each.
    pub(super) problems: Vec<String>,
    /// Not all nodes that were found have been asked.
    pub(super) cut_short: bool,
    /// In the order of the ring.
    pub(super) nodes: Vec<Node>,
    pub(super) silent: Vec<Silent>,
}

/// A node that has answered.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Node {
    #[serde(flatten)]
    pub(super) told: RingNode,
    /// Of those that it is connected to, the next on the ring going up and going down.
    pub(super) successor: Option<NodeAddress>,
    pub(super) predecessor: Option<NodeAddress>,
}

/// A node that has not.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Silent {
    pub(super) address: NodeAddress,
    pub(super) error: String,
}

impl Node {
    fn new(mut told: RingNode) -> Self {
        let own = told.node.address.on_ring();
        // It may say anything.
        told.connections.retain(|edge| edge.address != told.node.address);
        let on_ring = || told.connections.iter().filter(|edge| is_on_ring(edge)).map(|edge| edge.address);
        let successor = on_ring().min_by_key(|other| own.up_to(other.on_ring()));
        let predecessor = on_ring().min_by_key(|other| other.on_ring().up_to(own));
        Self { told, successor, predecessor }
    }

    pub(super) fn address(&self) -> NodeAddress {
        self.told.node.address
    }

    fn count(&self, role: &str) -> usize {
        self.told.connections.iter().filter(|edge| has_role(edge, role)).count()
    }
}

/// Whether either end keeps a connection for this.
pub(super) fn has_role(edge: &RingEdge, role: &str) -> bool {
    edge.roles.iter().chain(&edge.their_roles).any(|known| known == role)
}

/// Not just a way into the network.
fn is_on_ring(edge: &RingEdge) -> bool {
    edge.roles.iter().chain(&edge.their_roles).any(|role| role != "leaf")
}

impl Crawl {
    pub(super) fn new(told: Vec<RingNode>, silent: Vec<Silent>, cut_short: bool) -> Self {
        let mut nodes: Vec<Node> = told.into_iter().map(Node::new).collect();
        nodes.sort_by_key(Node::address);
        let mut crawl = Self { consistent: true, problems: Vec::new(), cut_short, nodes, silent };
        crawl.problems = crawl.find_problems();
        crawl.consistent = crawl.problems.is_empty();
        crawl
    }

    fn find_problems(&self) -> Vec<String> {
        if self.nodes.len() + self.silent.len() < 2 {
            return Vec::new();
        }
        let by_address: BTreeMap<NodeAddress, &Node> =
            self.nodes.iter().map(|node| (node.address(), node)).collect();
        let after = self.nodes.iter().cycle().skip(1);
        let pairs = self.nodes.iter().zip(after);
        pairs.filter_map(|(node, next)| self.problem(node, next, &by_address)).collect()
    }

    /// What is wrong with a node's successor; `next` is the next one that was found.
    fn problem(&self, node: &Node, next: &Node, all: &BTreeMap<NodeAddress, &Node>) -> Option<String> {
        let name = node.told.node.label();
        let Some(successor) = node.successor else { return Some(format!("{name} has no successor")) };
        let Some(found) = all.get(&successor) else {
            let who = successor.short();
            return (!self.cut_short)
                .then(|| format!("{name} has {who} for its successor, which does not answer"));
        };
        let who = found.told.node.label();
        match found.predecessor {
            None => Some(format!("{name} has {who} for its successor, which has no predecessor")),
            Some(other) if other != node.address() => {
                let other = all.get(&other).map_or_else(|| other.short(), |node| node.told.node.label());
                Some(format!("{name} has {who} for its successor, which has {other} for its predecessor"))
            }
            Some(_) if next.address() != successor && !self.cut_short => {
                let between = next.told.node.label();
                Some(format!("{name} has {who} for its successor, and {between} is between them"))
            }
            Some(_) => None,
        }
    }
}

pub(super) fn render(crawl: &Crawl, width: u16) -> String {
    let headings = [
        ("address", Align::Left),
        ("name", Align::Left),
        ("left", Align::Left),
        ("right", Align::Left),
        ("near", Align::Right),
        ("far", Align::Right),
        ("byp.", Align::Right),
        ("dem.", Align::Right),
        ("leaf", Align::Right),
        ("rtt", Align::Right),
    ];
    let rows = crawl.nodes.iter().map(|node| {
        let label = node.told.node.name.as_ref().or(node.told.node.virtual_ips.first());
        let mut row = vec![
            node.address().short(),
            or_nothing(label, String::clone),
            or_nothing(node.predecessor, |address| address.short()),
            or_nothing(node.successor, |address| address.short()),
        ];
        row.extend(["near", "far", "bypass", "on-demand", "leaf"].map(|role| node.count(role).to_string()));
        row.push(or_nothing(node.told.rtt_us, microseconds));
        row
    });
    let mut text = table(&headings, rows, width) + "\n";
    for silent in &crawl.silent {
        text += &format!("{}: {}\n", silent.address.short(), silent.error);
    }
    text + &verdict(crawl)
}

fn verdict(crawl: &Crawl) -> String {
    let count = match crawl.nodes.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    let count = if crawl.cut_short { format!("{count}, and there are more") } else { count };
    match (crawl.nodes.len(), crawl.consistent) {
        (1, true) => format!("{count}: alone\n"),
        (_, true) => {
            format!("{count}; the ring is consistent: each one's successor has it for its predecessor\n")
        }
        (_, false) => {
            let problems = crawl.problems.iter().map(|problem| format!("  {problem}\n"));
            format!(
                "{count}; the ring is not consistent (it may be changing: ask again)\n{}",
                problems.collect::<String>()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    fn three() -> Vec<RingNode> {
        (1..=3).map(fake::ring_node).collect()
    }

    fn silent(byte: u8) -> Silent {
        Silent { address: fake::key(byte).node_address(), error: "no answer".to_owned() }
    }

    #[test]
    fn three_nodes_that_agree() {
        let mut told = three();
        told[0].node = fake::node(1, Some("alpha"));
        told[1].rtt_us = Some(180);
        let crawl = Crawl::new(told, Vec::new(), false);
        let mut order: Vec<_> = [1, 2, 3].map(|byte| fake::key(byte).node_address()).to_vec();
        order.sort();
        for (at, node) in crawl.nodes.iter().enumerate() {
            assert_eq!(node.address(), order[at]);
            assert_eq!(node.successor, Some(order[(at + 1) % 3]));
            assert_eq!(node.predecessor, Some(order[(at + 2) % 3]));
        }
        let text = render(&crawl, 80);
        assert!(
            text.starts_with("ADDRESS   NAME   LEFT      RIGHT     NEAR  FAR  BYP.  DEM.  LEAF"),
            "{text}"
        );
        assert!(text.contains("alpha") && text.contains("180 us"), "{text}");
        assert!(text.ends_with(
            "\n3 nodes; the ring is consistent: each one's successor has it for its predecessor\n"
        ));
    }

    #[test]
    fn one_that_is_alone_has_no_problem() {
        let mut told = fake::ring_node(1);
        told.connections.clear();
        let crawl = Crawl::new(vec![told], Vec::new(), false);
        assert!(crawl.consistent && render(&crawl, 80).ends_with("1 node: alone\n"));
    }

    #[test]
    fn nobody_is_its_own_successor() {
        let mut told = three();
        let mut edge = told[0].connections[0].clone();
        edge.address = told[0].node.address;
        told[0].connections.push(edge);
        let crawl = Crawl::new(told, Vec::new(), false);
        assert!(crawl.consistent, "{:?}", crawl.problems);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        // One knows nobody; one only as a way in.
        let mut told = three();
        told[1].connections.clear();
        let crawl = Crawl::new(told, Vec::new(), false);
        assert!(!crawl.consistent);
        let text = render(&crawl, 80);
        assert!(text.contains("has no successor") && text.contains("has no predecessor"), "{text}");

        let mut told = three();
        for node in &mut told {
            node.connections.iter_mut().for_each(|edge| {
                (edge.roles, edge.their_roles) = (vec!["leaf".to_owned()], Vec::new());
            });
        }
        assert_eq!(Crawl::new(told, Vec::new(), false).problems.len(), 3);

        // Two that know each other alone, and one between them that knows both.
        let mut told = three();
        told.sort_by_key(|node| node.node.address);
        let middle = told[1].node.address;
        for node in [0, 2] {
            told[node].connections.retain(|edge| edge.address != middle);
        }
        let text = render(&Crawl::new(told, Vec::new(), false), 80);
        assert!(text.contains("which has"), "{text}");
    }

    #[test]
    fn two_rings_that_lie_in_one_another_are_no_ring() {
        let mut told: Vec<RingNode> = (1..=4).map(fake::ring_node).collect();
        told.sort_by_key(|node| node.node.address);
        let addresses: Vec<_> = told.iter().map(|node| node.node.address).collect();
        for (at, node) in told.iter_mut().enumerate() {
            let mut edge = node.connections[0].clone();
            edge.address = addresses[(at + 2) % 4];
            node.connections = vec![edge];
        }
        let crawl = Crawl::new(told, Vec::new(), false);
        assert_eq!(crawl.problems.len(), 4);
        assert!(
            crawl.problems.iter().all(|problem| problem.contains("is between them")),
            "{:?}",
            crawl.problems
        );
    }

    #[test]
    fn a_successor_that_is_silent_is_a_problem_unless_it_was_not_asked() {
        let told: Vec<_> = three().into_iter().take(2).collect();
        let crawl = Crawl::new(told.clone(), vec![silent(3)], false);
        assert!(
            crawl.problems.iter().any(|problem| problem.contains("does not answer")),
            "{:?}",
            crawl.problems
        );
        assert!(render(&crawl, 80).contains(": no answer\n"));
        let cut_short = Crawl::new(told, Vec::new(), true);
        assert!(cut_short.problems.iter().all(|problem| !problem.contains("does not answer")));
        assert!(render(&cut_short, 80).contains("2 nodes, and there are more"));
    }
}
