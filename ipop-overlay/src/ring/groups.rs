//! Groups: for each a tree on the ring, by which what one sends reaches all members (as Scribe's trees do: Castro and
//! others, 2002). A group's place on the ring follows from its address, and the node nearest to that place is the
//! root. Who is a member says so to the next node towards the place, its parent; that one notes it as a child, and
//! joins likewise unless it is in the tree already.
//!
//! A parent is always nearer to the place than its child, so that no tree has a circle, whatever others say: who is
//! not farther away is taken for no child, and who is not nearer for no parent. What a node knows of its children
//! ends with the connection, and after [`JOIN_LIFE`]; members say again after [`JOIN_RENEW`] that they are there. Who
//! is member of no group, and in nobody's way to one, sends nothing.
//!
//! What a group's address means is not known here. How datagrams go is in `datagrams`.

mod datagrams;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use blake2::{Blake2s256, Digest};

use super::counts::Count;
use super::limits::{
    CHILDREN_CHECK, CHILDREN_MAX, EDGES_MAX, GROUPS_MAX, GROUPS_OF_CHILD_MAX, GROUPS_OWN_MAX, JOIN_AVOID,
    JOIN_AVOIDED_MAX, JOIN_LIFE, JOIN_RENEW, JOIN_RETRY, JOIN_TRIES_MAX, JOINS,
};
use super::rates::Rates;
use super::wire::{Group, GroupMessage, GroupWord};
use super::{Ring, limits};
use crate::address::NodeAddress;
use crate::time::Instant;
use datagrams::Datagrams;

/// What this node knows of groups.
pub(super) struct Groups {
    trees: BTreeMap<Group, Tree>,
    joins_of: Rates<NodeAddress>,
    datagrams: Datagrams,
    /// When children whose time is over are looked for.
    check_at: Option<Instant>,
}

/// This node's place in the tree of one group.
struct Tree {
    place: NodeAddress,
    /// This node is a member itself, and not only on the way of others.
    is_own: bool,
    parent: Option<NodeAddress>,
    asked: Option<Asked>,
    /// When it says again that it is there, or looks whether it is still the root.
    renew_at: Instant,
    /// Until when, unless they say so again.
    children: BTreeMap<NodeAddress, Instant>,
    /// Who did not answer or has no room, until when.
    avoided: Vec<(NodeAddress, Instant)>,
}

/// A node that has been asked to be the parent, or whether it still is, and has not answered.
#[derive(Clone, Copy)]
struct Asked {
    to: NodeAddress,
    tries: u8,
    next_at: Instant,
}

/// A node's place in a tree as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    pub group: Group,
    /// Where the root is.
    pub place: NodeAddress,
    /// This node is a member itself.
    pub is_own: bool,
    /// `None`: it is the root, or looks for a parent.
    pub parent: Option<NodeAddress>,
    /// It has asked a node to be its parent that has not answered yet.
    pub is_asking: bool,
    pub children: Vec<NodeAddress>,
}

impl Groups {
    /// All that this node may be in the trees of.
    pub(super) const MAX: usize = GROUPS_MAX + GROUPS_OWN_MAX;

    pub(super) fn new() -> Self {
        Self {
            trees: BTreeMap::new(),
            joins_of: Rates::new(JOINS, EDGES_MAX),
            datagrams: Datagrams::new(),
            check_at: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.trees.len()
    }

    pub(super) fn own_len(&self) -> usize {
        self.trees.values().filter(|tree| tree.is_own).count()
    }

    pub(super) fn children_most(&self) -> usize {
        self.trees.values().map(|tree| tree.children.len()).max().unwrap_or(0)
    }

    pub(super) fn origins_len(&self) -> usize {
        self.datagrams.origins_len()
    }

    fn of_child(&self, child: NodeAddress) -> usize {
        self.trees.values().filter(|tree| tree.children.contains_key(&child)).count()
    }
}

impl Tree {
    fn new(place: NodeAddress, now: Instant) -> Self {
        Self {
            place,
            is_own: false,
            parent: None,
            asked: None,
            renew_at: now,
            children: BTreeMap::new(),
            avoided: Vec::new(),
        }
    }

    fn is_needed(&self) -> bool {
        self.is_own || !self.children.is_empty()
    }

    fn due_at(&self) -> Instant {
        self.asked.map_or(self.renew_at, |asked| asked.next_at)
    }

    fn avoid(&mut self, node: NodeAddress, now: Instant) {
        self.avoided.retain(|(other, until)| *other != node && *until > now);
        if self.avoided.len() >= JOIN_AVOIDED_MAX {
            self.avoided.remove(0);
        }
        self.avoided.push((node, now.after(JOIN_AVOID)));
    }

    fn is_avoided(&self, node: NodeAddress, now: Instant) -> bool {
        self.avoided.iter().any(|(other, until)| *other == node && *until > now)
    }
}

/// Where the root of a group's tree is. A ring is one network's: its name need not be part of it.
pub(super) fn place(group: &Group) -> NodeAddress {
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, b"ipop group v1");
    Digest::update(&mut hash, [group.kind]);
    Digest::update(&mut hash, group.address);
    NodeAddress::of_key(&hash.finalize().into())
}

impl Ring {
    /// Makes this node a member of a group; says whether there is room for one more.
    pub fn join_group(&mut self, group: Group, now: Instant) -> bool {
        let is_member = self.groups.trees.get(&group).is_some_and(|tree| tree.is_own);
        if !is_member && self.groups.own_len() >= GROUPS_OWN_MAX {
            self.counts.add(Count::GroupFull);
            return false;
        }
        self.groups.trees.entry(group).or_insert_with(|| Tree::new(place(&group), now)).is_own = true;
        if !is_member {
            self.look_for_parent(&group, now);
        }
        true
    }

    /// Ends that.
    pub fn leave_group(&mut self, group: &Group) {
        if let Some(tree) = self.groups.trees.get_mut(group) {
            tree.is_own = false;
        }
        self.prune(group);
    }

    /// The trees that this node is part of.
    pub fn groups(&self) -> impl Iterator<Item = GroupView> {
        self.groups.trees.iter().map(|(group, tree)| GroupView {
            group: *group,
            place: tree.place,
            is_own: tree.is_own,
            parent: tree.parent,
            is_asking: tree.asked.is_some_and(|asked| Some(asked.to) != tree.parent),
            children: tree.children.keys().copied().collect(),
        })
    }

    /// The next node towards a group's place; `None` where this one is the nearest.
    fn towards(&self, place: NodeAddress, tree: Option<&Tree>, now: Instant) -> Option<NodeAddress> {
        let here = self.table.own.distance(place);
        let lasting = self.table.iter().filter(|(_, edge)| edge.is_lasting()).map(|(address, _)| address);
        lasting
            .filter(|address| address.distance(place) < here)
            .filter(|address| tree.is_none_or(|tree| !tree.is_avoided(*address, now)))
            .min_by_key(|address| address.distance(place))
    }

    /// Asks the nearest to be the parent, unless it is or has been asked.
    fn look_for_parent(&mut self, group: &Group, now: Instant) {
        let Some(tree) = self.groups.trees.get(group) else { return };
        let next = self.towards(tree.place, Some(tree), now);
        let (parent, asked) = (tree.parent, tree.asked.map(|asked| asked.to));
        let jitter = self.jitter(JOIN_RENEW / 4);
        let Some(tree) = self.groups.trees.get_mut(group) else { return };
        tree.renew_at = now.after(JOIN_RENEW - jitter);
        match next {
            Some(next) if asked == Some(next) => {}
            Some(next) => {
                tree.asked = Some(Asked { to: next, tries: 0, next_at: now });
                self.ask_parent(group, now);
            }
            None => {
                // This node is the root, or nobody nearer takes it for now.
                if !tree.avoided.is_empty() {
                    tree.renew_at = now.after(JOIN_AVOID);
                }
                tree.asked = None;
                tree.parent = None;
                if let Some(parent) = parent {
                    self.say(parent, *group, GroupWord::Leave);
                }
            }
        }
    }

    /// Says to the node that was asked that this one wants what goes to the group; and to another where it does not
    /// answer.
    fn ask_parent(&mut self, group: &Group, now: Instant) {
        let Some(tree) = self.groups.trees.get_mut(group) else { return };
        let Some(asked) = &mut tree.asked else { return };
        let to = asked.to;
        if asked.tries >= JOIN_TRIES_MAX {
            self.counts.add(Count::NoAnswer);
            self.not_by(group, to, now);
            return;
        }
        asked.next_at = now.after(JOIN_RETRY * (1 << asked.tries));
        asked.tries += 1;
        self.expect(to, now);
        self.say(to, *group, GroupWord::Join);
    }

    /// A node is not to be the parent for now.
    fn not_by(&mut self, group: &Group, node: NodeAddress, now: Instant) {
        let Some(tree) = self.groups.trees.get_mut(group) else { return };
        tree.avoid(node, now);
        tree.asked = None;
        tree.parent = tree.parent.filter(|parent| *parent != node);
        self.look_for_parent(group, now);
    }

    /// Leaves a tree in which this node is of no use.
    fn prune(&mut self, group: &Group) {
        let Some(tree) = self.groups.trees.get(group).filter(|tree| !tree.is_needed()) else { return };
        let asked = tree.asked.map(|asked| asked.to).filter(|to| Some(*to) != tree.parent);
        let above = [tree.parent, asked];
        self.groups.trees.remove(group);
        above.into_iter().flatten().for_each(|parent| self.say(parent, *group, GroupWord::Leave));
    }

    fn say(&mut self, to: NodeAddress, group: Group, word: GroupWord) {
        self.send(to, GroupMessage { word, group }.to_bytes());
    }

    pub(super) fn group_message(&mut self, from: NodeAddress, said: GroupMessage, len: usize, now: Instant) {
        let GroupMessage { word, group } = said;
        if !self.groups.joins_of.allow(from, now) {
            self.counts.add(Count::GroupJoinFlood);
            return;
        }
        match word {
            GroupWord::Join => self.child_joins(from, group, len, now),
            GroupWord::Leave => {
                if let Some(tree) = self.groups.trees.get_mut(&group) {
                    tree.children.remove(&from);
                }
                self.prune(&group);
            }
            GroupWord::Joined => self.parent_takes(from, &group),
            GroupWord::Full => {
                let tree = self.groups.trees.get(&group);
                if tree.and_then(|tree| tree.asked).is_some_and(|asked| asked.to == from) {
                    self.not_by(&group, from, now);
                } else {
                    self.counts.add(Count::Unexpected);
                }
            }
        }
    }

    /// Notes a child, and answers it.
    fn child_joins(&mut self, from: NodeAddress, group: Group, len: usize, now: Instant) {
        let place = place(&group);
        if from.distance(place) <= self.table.own.distance(place) {
            self.counts.add(Count::GroupWrongWay);
            return;
        }
        let tree = self.groups.trees.get(&group);
        let (is_known, is_child) =
            (tree.is_some(), tree.is_some_and(|tree| tree.children.contains_key(&from)));
        let of_others = || self.groups.trees.len() - self.groups.own_len();
        let has_room = is_child
            || tree.is_none_or(|tree| tree.children.len() < CHILDREN_MAX)
                && (is_known || of_others() < GROUPS_MAX)
                && self.groups.of_child(from) < GROUPS_OF_CHILD_MAX;
        if has_room {
            let tree = self.groups.trees.entry(group).or_insert_with(|| Tree::new(place, now));
            tree.children.insert(from, now.after(JOIN_LIFE));
            self.groups.check_at.get_or_insert(now.after(CHILDREN_CHECK));
        } else {
            self.counts.add(Count::GroupFull);
        }
        let word = if has_room { GroupWord::Joined } else { GroupWord::Full };
        if self.table.get_mut(from).is_some_and(|edge| edge.charge(len)) {
            self.say(from, group, word);
        } else {
            self.counts.add(Count::NoCredit);
        }
        if has_room && !is_known {
            self.look_for_parent(&group, now);
        }
    }

    /// The node that was asked is the parent from now on. Until then, the one before was.
    fn parent_takes(&mut self, from: NodeAddress, group: &Group) {
        let Some(tree) = self.groups.trees.get_mut(group).filter(|tree| {
            // An answer may come twice where the question did.
            tree.parent == Some(from) || tree.asked.is_some_and(|asked| asked.to == from)
        }) else {
            self.counts.add(Count::Unexpected);
            return;
        };
        if tree.asked.is_none_or(|asked| asked.to != from) {
            return;
        }
        tree.asked = None;
        let before = tree.parent.replace(from).filter(|before| *before != from);
        if let Some(before) = before {
            self.say(before, *group, GroupWord::Leave);
        }
    }

    /// A node says something else of itself than before: it may have been started again, and know nothing of its
    /// children.
    pub(super) fn parent_changed(&mut self, parent: NodeAddress, now: Instant) {
        let trees = self.groups.trees.iter_mut();
        for (_, tree) in trees.filter(|(_, tree)| tree.parent == Some(parent) && tree.asked.is_none()) {
            tree.asked = Some(Asked { to: parent, tries: 0, next_at: now });
        }
    }

    /// Connections have come or gone.
    pub(super) fn groups_follow(&mut self, now: Instant) {
        let mut changed = Vec::new();
        for (group, tree) in &mut self.groups.trees {
            tree.children.retain(|child, _| self.table.contains(*child));
            let is_there =
                |address: NodeAddress| self.table.get(address).is_some_and(super::edge::Edge::is_lasting);
            let parent = tree.parent.filter(|parent| is_there(*parent));
            let asked = tree.asked.filter(|asked| is_there(asked.to));
            let is_lost = parent != tree.parent || asked.is_none() && tree.asked.is_some();
            (tree.parent, tree.asked) = (parent, asked);
            // A root may be the nearest no more.
            if is_lost || parent.is_none() && asked.is_none() {
                changed.push(*group);
            }
        }
        for group in changed {
            self.prune(&group);
            self.look_for_parent(&group, now);
        }
        self.prune_all();
    }

    fn prune_all(&mut self) {
        let useless = self.groups.trees.iter().filter(|(_, tree)| !tree.is_needed());
        let useless: Vec<Group> = useless.map(|(group, _)| *group).collect();
        useless.iter().for_each(|group| self.prune(group));
    }

    pub(super) fn groups_due(&self) -> Option<Instant> {
        self.groups.trees.values().map(Tree::due_at).chain(self.groups.check_at).min()
    }

    pub(super) fn groups_timeout(&mut self, now: Instant) {
        if self.groups.check_at.take_if(|at| *at <= now).is_some() {
            self.groups.trees.values_mut().for_each(|tree| tree.children.retain(|_, until| *until > now));
            self.prune_all();
            if self.groups.trees.values().any(|tree| !tree.children.is_empty()) {
                self.groups.check_at = Some(now.after(CHILDREN_CHECK));
            }
        }
        let due = self.groups.trees.iter().filter(|(_, tree)| tree.due_at() <= now);
        let due: Vec<(Group, bool)> = due.map(|(group, tree)| (*group, tree.asked.is_some())).collect();
        for (group, was_asked) in due {
            if was_asked {
                self.ask_parent(&group, now);
            } else {
                self.look_for_parent(&group, now);
            }
        }
    }
}

/// The longest time between two words about a group is shorter than what they are good for, twice.
const _: () = assert!(limits::JOIN_LIFE.as_secs() > 3 * limits::JOIN_RENEW.as_secs());
