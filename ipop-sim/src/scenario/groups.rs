//! Groups: what one member sends reaches all others, by connections of the ring that carry it once.

use std::collections::BTreeMap;
use std::time::Duration;

use ipop_overlay::Instant;
use ipop_overlay::ring::{Count, Group};

use super::{Figure, grow};
use crate::measure::{Meter, mean};
use crate::world::{HostId, World};

/// Of so many nodes one is a member.
const ONE_OF: usize = 4;
const GROUP: Group = Group { kind: 1, address: [7; 16] };
/// Datagrams of each round, of as many senders.
const DATAGRAMS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of the datagrams of one round.
struct Round {
    /// Of those that should have got one, those that did.
    share: f64,
    /// How often one member got one, at most.
    most: u64,
    /// Copies that a connection carried of one, at most, both ways together.
    copies_most: f64,
    /// Copies of one for each member.
    copies: f64,
}

pub(super) fn multicast(world: &mut World, nodes: usize) -> Vec<Figure> {
    grow(world, nodes);
    world.run_for(Duration::from_secs(300));
    let without = cost(world);
    let members: Vec<HostId> = world.up().step_by(ONE_OF).collect();
    members.iter().for_each(|member| join(world, *member));
    world.run_for(Duration::from_secs(20));
    let whole = round(world, &members);
    world.run_for(Duration::from_secs(60));
    let with = cost(world);
    let outsiders: Vec<HostId> = world.up().filter(|id| is_apart(world, *id)).collect();
    // A tenth dies at once, roots and nodes on the way among them.
    let dying: Vec<HostId> = world.up().skip(1).step_by(10).collect();
    dying.iter().for_each(|id| world.kill(*id));
    world.run_for(Duration::from_secs(60));
    let left: Vec<HostId> = members.iter().copied().filter(|member| !dying.contains(member)).collect();
    let healed = round(world, &left);
    let refused = world.up().map(|id| world.ring(id).counts().get(Count::GroupRepeated)).sum::<u64>();
    vec![
        Figure::new("members that get a datagram", whole.share, "").at_least(0.98),
        Figure::new("how often, at most", whole.most as f64, "").at_most(1.0),
        Figure::new("copies by one connection, at most", whole.copies_most, "").at_most(1.0),
        Figure::new("copies for each member", whole.copies, ""),
        Figure::new("nodes in nobody's way", outsiders.len() as f64, "").at_least(1.0),
        Figure::new("members that get it after a tenth died", healed.share, "").at_least(0.98),
        Figure::new("how often then, at most", healed.most as f64, "").at_most(1.0),
        Figure::new("copies by one connection then, at most", healed.copies_most, "").at_most(1.0),
        Figure::new("datagrams that came twice", refused as f64, "").at_most(0.0),
        Figure::new("sent per node without a group, idle", without, "kbit/s").at_most(1.0),
        Figure::new("sent per node with one, idle", with, "kbit/s").at_most(1.0),
    ]
}

fn join(world: &mut World, member: HostId) {
    assert!(world.with(member, |node, now| node.join_group(GROUP, now)), "it is the first");
}

fn is_apart(world: &World, id: HostId) -> bool {
    world.ring(id).groups().next().is_none()
}

/// What each node sends while nothing goes to the group.
fn cost(world: &mut World) -> f64 {
    let meter = Meter::start(world);
    world.run_for(Duration::from_secs(300));
    meter.read(world).kbit_s
}

/// Members and others send, each a datagram of its own.
fn round(world: &mut World, members: &[HostId]) -> Round {
    let up: Vec<HostId> = world.up().collect();
    let (mut shares, mut most, mut copies, mut copies_most) = (Vec::new(), 0, 0, 0);
    for number in 0..DATAGRAMS {
        let sender = up[world.random.below(up.len() as u64) as usize];
        world.heard.clear();
        let before = by_connection(world);
        let (frame, start): (_, Instant) = ([number as u8; 100], world.now);
        assert!(world.with(sender, |node, now| node.multicast(GROUP, &frame, now)), "it can be sent");
        while world.now < start.after(PATIENCE) {
            world.run_for(Duration::from_millis(100));
        }
        let mut times: BTreeMap<HostId, u64> = BTreeMap::new();
        let of_this = world.heard.iter().filter(|(_, _, heard)| *heard == frame);
        of_this.for_each(|(member, ..)| *times.entry(*member).or_default() += 1);
        assert!(times.keys().all(|member| members.contains(member)), "somebody hears it who is no member");
        most = most.max(times.values().copied().max().unwrap_or(0));
        let wanted = members.iter().filter(|member| **member != sender).count();
        shares.push(times.len() as f64 / wanted as f64);
        for (connection, count) in by_connection(world) {
            let more = count - before.get(&connection).unwrap_or(&0).min(&count);
            copies += more;
            copies_most = copies_most.max(more);
        }
    }
    Round {
        share: mean(shares.into_iter()),
        most,
        copies_most: copies_most as f64,
        copies: copies as f64 / (DATAGRAMS * members.len()) as f64,
    }
}

/// Datagrams that went by each connection, both ways together.
fn by_connection(world: &World) -> BTreeMap<[ipop_overlay::NodeAddress; 2], u64> {
    let mut connections = BTreeMap::new();
    for id in world.up() {
        let own = world.address(id);
        for edge in world.ring(id).edges() {
            let ends = [own.min(edge.address), own.max(edge.address)];
            *connections.entry(ends).or_default() += edge.multicast[0];
        }
    }
    connections
}
