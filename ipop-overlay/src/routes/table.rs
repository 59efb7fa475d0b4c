//! Which subnet goes to which router. What is decided follows from the operator's policy, the announcements, and
//! which routers answer; of the past, only which router was used last.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use super::announcement::Subnet;
use crate::address::NodeAddress;
use crate::time::Instant;

/// A better router is used again when it has answered for so long.
pub const STEADY: Duration = Duration::from_secs(10);
/// Announcements that one node takes.
pub const TAKEN_MAX: usize = 256;

/// What this node's operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The virtual network's own.
    pub own: Vec<Subnet>,
    /// Those of peers in the configuration.
    pub of_peers: Vec<Subnet>,
    /// What this node announces itself.
    pub announced: Vec<Subnet>,
    pub accept: Vec<Accept>,
    /// By whom this node reaches everything else.
    pub exit: Option<NodeAddress>,
}

/// Subnets that are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// It, and all parts of it.
    pub subnet: Subnet,
    /// Those who may announce it; any member, if there are none.
    pub from: Vec<NodeAddress>,
}

/// What is known of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    pub public_key: [u8; 32],
    pub priority: u8,
    /// Since when it is one, as it says, UNIX time in seconds.
    pub since: u64,
    pub subnets: Vec<Subnet>,
}

/// Why an announcement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The operator has not said that it is.
    NotAccepted,
    /// All addresses, and the operator has named another exit node, or none.
    NotExit,
    /// No host elsewhere can have such addresses.
    NotRoutable,
    /// It overlaps the virtual network itself.
    OwnNetwork,
    /// It overlaps what a peer in the configuration has.
    OfPeer,
    /// This node announces it too: the two are routers of one subnet.
    AnnouncedHere,
    /// This node announces a part of it, or more.
    OverlapsAnnounced,
    /// It overlaps what another router announces, and has for longer, and is not the same.
    Overlaps { subnet: Subnet, of: NodeAddress },
    /// This node has taken as many as it does.
    TooMany,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAccepted => f.write_str("`routing.accept` does not name it"),
            Self::NotExit => f.write_str("`routing.exit_node` does not name its router"),
            Self::NotRoutable => f.write_str("no host elsewhere can have such addresses"),
            Self::OwnNetwork => f.write_str("it overlaps the virtual network itself"),
            Self::OfPeer => f.write_str("it overlaps what a [[peer]] of the configuration has"),
            Self::AnnouncedHere => f.write_str("this node is a router of it itself"),
            Self::OverlapsAnnounced => f.write_str("it overlaps what this node announces"),
            Self::TooMany => write!(f, "this node has taken {TAKEN_MAX} others"),
            Self::Overlaps { subnet, of } => {
                write!(f, "it overlaps {subnet}, which {of} has announced for longer")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Packets to the subnet go to this router.
    Active,
    /// They would if the active one did not answer.
    Standby,
    Refused(Why),
}

/// One subnet of one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub subnet: Subnet,
    pub public_key: [u8; 32],
    pub priority: u8,
    pub state: State,
}

impl Why {
    /// Whether it is worth an operator's attention: not what nobody has asked for, nor a second router of a subnet of
    /// this node's.
    pub fn is_strange(self) -> bool {
        !matches!(self, Self::NotAccepted | Self::NotExit | Self::AnnouncedHere)
    }
}

impl Entry {
    pub fn router(&self) -> NodeAddress {
        NodeAddress::of_key(&self.public_key)
    }

    /// Whether this node takes it, if not at present.
    pub fn stands(&self) -> bool {
        !matches!(self.state, State::Refused(_))
    }
}

/// The table; see the module's documentation.
#[derive(Debug, Default)]
pub struct Table {
    policy: Policy,
    routers: Vec<Router>,
    /// What follows from these two, whoever answers: none is active.
    judged: Vec<Entry>,
    /// Since when each router answers.
    answers_since: BTreeMap<[u8; 32], Instant>,
    entries: Vec<Entry>,
    /// The router of each subnet that was used last.
    active: BTreeMap<Subnet, [u8; 32]>,
    decided: Instant,
}

impl Table {
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.judged = self.judge();
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is announced by now, by whom.
    pub fn set_routers(&mut self, routers: Vec<Router>) {
        self.answers_since.retain(|key, _| routers.iter().any(|router| router.public_key == *key));
        self.routers = routers;
        self.judged = self.judge();
    }

    /// Whether a router answers.
    pub fn set_reachable(&mut self, public_key: [u8; 32], is_reachable: bool, now: Instant) {
        if is_reachable {
            self.answers_since.entry(public_key).or_insert(now);
        } else {
            self.answers_since.remove(&public_key);
        }
    }

    /// Sorted by subnet, the routers of each in the order in which they are used.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The router that packets to an address go to, by the longest of its subnets.
    pub fn router_of(&self, address: IpAddr) -> Option<&Entry> {
        let host = Subnet::new(address, if address.is_ipv4() { 32 } else { 128 })?;
        let active = self.entries.iter().filter(|entry| entry.state == State::Active);
        active.filter(|entry| entry.subnet.covers(host)).max_by_key(|entry| entry.subnet.len())
    }

    /// When a router has answered for long enough to be used again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.entries.iter().filter(|entry| entry.state == State::Standby);
        let since = waits.filter_map(|entry| self.answers_since.get(&entry.public_key));
        since.map(|since| since.after(STEADY)).filter(|at| *at > self.decided).min()
    }

    /// Decides anew; says whether anything is different.
    pub fn decide(&mut self, now: Instant) -> bool {
        self.decided = now;
        let mut entries = self.judged.clone();
        self.active.retain(|subnet, _| entries.iter().any(|entry| entry.subnet == *subnet && entry.stands()));
        // Those of one subnet follow each other, the ones that stand first.
        for group in entries.chunk_by_mut(|a, b| a.subnet == b.subnet) {
            let standing = group.iter().take_while(|entry| entry.stands());
            let order: Vec<[u8; 32]> = standing.map(|entry| entry.public_key).collect();
            let Some(subnet) = group.first().map(|entry| entry.subnet) else { continue };
            let Some(chosen) = self.choose(subnet, &order, now) else { continue };
            self.active.insert(subnet, chosen);
            let of_chosen = group.iter_mut().filter(|entry| entry.public_key == chosen);
            of_chosen.for_each(|entry| entry.state = State::Active);
        }
        let is_changed = entries != self.entries;
        self.entries = entries;
        is_changed
    }

    /// The first that has answered for long enough, but for the one that is used now, which need not have; if none
    /// answers, the one that was used last.
    fn choose(&self, subnet: Subnet, order: &[[u8; 32]], now: Instant) -> Option<[u8; 32]> {
        let used = self.active.get(&subnet).filter(|used| order.contains(used));
        let answers = |key: &&[u8; 32]| self.answers_since.contains_key(*key);
        let is_steady =
            |key: &&[u8; 32]| self.answers_since.get(*key).is_some_and(|since| now.since(*since) >= STEADY);
        let chosen = match used.filter(answers) {
            Some(used) => order.iter().find(|key| *key == used || is_steady(key)),
            None => order.iter().find(answers).or(used).or(order.first()),
        };
        chosen.copied()
    }

    /// What of all that is announced is taken: none is active yet.
    fn judge(&self) -> Vec<Entry> {
        let mut announced: Vec<(u64, NodeAddress, Subnet, &Router)> = Vec::new();
        for router in &self.routers {
            let address = NodeAddress::of_key(&router.public_key);
            announced.extend(router.subnets.iter().map(|subnet| (router.since, address, *subnet, router)));
        }
        // Older ones first: what they take, a younger one cannot.
        announced.sort_by_key(|(since, address, subnet, _)| (*since, *address, *subnet));
        let mut entries: Vec<Entry> = Vec::with_capacity(announced.len());
        let mut taken: Vec<(Subnet, NodeAddress)> = Vec::new();
        for (_, address, subnet, router) in announced {
            let public_key = router.public_key;
            let why = self.why_not(address, subnet).or_else(|| collision(&taken, address, subnet));
            let state = why.map_or(State::Standby, State::Refused);
            if why.is_none() {
                taken.push((subnet, address));
            }
            entries.push(Entry { subnet, public_key, priority: router.priority, state });
        }
        entries.sort_by_cached_key(|entry| {
            (entry.subnet, !entry.stands(), core::cmp::Reverse(entry.priority), entry.router())
        });
        entries
    }

    /// Why an announcement is not taken, whatever others announce.
    fn why_not(&self, router: NodeAddress, subnet: Subnet) -> Option<Why> {
        let policy = &self.policy;
        let overlaps = |others: &[Subnet]| others.iter().any(|other| other.overlaps(subnet));
        if subnet.is_default() {
            // A node that is an exit itself may well use another.
            return (policy.exit != Some(router)).then_some(Why::NotExit);
        }
        let names = |accept: &Accept| {
            accept.subnet.covers(subnet) && (accept.from.is_empty() || accept.from.contains(&router))
        };
        if !subnet.is_routable() {
            Some(Why::NotRoutable)
        } else if overlaps(&policy.own) {
            Some(Why::OwnNetwork)
        } else if !policy.accept.iter().any(names) {
            Some(Why::NotAccepted)
        } else if overlaps(&policy.of_peers) {
            Some(Why::OfPeer)
        } else if policy.announced.contains(&subnet) {
            Some(Why::AnnouncedHere)
        } else if policy.announced.iter().any(|own| !own.is_default() && own.overlaps(subnet)) {
            Some(Why::OverlapsAnnounced)
        } else {
            None
        }
    }
}

/// Why what is taken already leaves no room. The same subnet is one with two ways, and a router may announce a part of
/// its own; all addresses overlap everything, and give way to it.
fn collision(taken: &[(Subnet, NodeAddress)], router: NodeAddress, subnet: Subnet) -> Option<Why> {
    if subnet.is_default() {
        return None;
    }
    if taken.len() >= TAKEN_MAX {
        return Some(Why::TooMany);
    }
    let collides = |(other, of): &&(Subnet, NodeAddress)| {
        *of != router && *other != subnet && !other.is_default() && other.overlaps(subnet)
    };
    let (other, of) = taken.iter().find(collides)?;
    Some(Why::Overlaps { subnet: *other, of: *of })
}
