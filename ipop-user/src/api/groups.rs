//! Groups of the virtual network, and this node's place in their trees.

use serde::{Deserialize, Serialize};

use super::NodeRef;

/// What this node has to do with groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// `null`: packets to groups are carried; else why not.
    pub reason: Option<String>,
    /// Those that this node is a member of, or on the way of others to.
    pub groups: Vec<Group>,
    /// Connections by which datagrams for groups have gone or come.
    pub links: Vec<GroupLink>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its IP address, or `all`: all nodes, to which broadcasts go.
    pub group: String,
    /// This host is a member, and not only a node on the way of others.
    pub member: bool,
    /// This node is the root of the tree: the nearest to the group's place on the ring.
    pub root: bool,
    /// The next node towards the root; `null` for the root, and while one is looked for.
    pub parent: Option<NodeRef>,
    pub children: Vec<NodeRef>,
}

/// Datagrams that a connection has carried, for whatever group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLink {
    pub node: NodeRef,
    pub sent: u64,
    pub received: u64,
}
