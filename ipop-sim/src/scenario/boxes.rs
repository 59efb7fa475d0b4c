//! Hosts behind boxes of every kind: who is reached, and who directly.

use std::time::Duration;

use super::{BOOTSTRAPS, Figure, Matrix, introduce};
use crate::nat::{Config, Kind};
use crate::traffic::{self, Flow, Pace, give_address, share};
use crate::world::{HostId, World};

/// What hosts are behind; `None`: nothing.
const KINDS: [(&str, Option<Kind>, bool); 9] = [
    ("public", None, false),
    ("full cone", Some(Kind::FullCone), false),
    ("restricted", Some(Kind::Restricted), false),
    ("port-restricted", Some(Kind::PortRestricted), false),
    ("symmetric, next port", Some(Kind::Symmetric), false),
    ("symmetric, any port", Some(Kind::SymmetricRandom), false),
    ("outgoing only", Some(Kind::OutgoingOnly), false),
    ("full cone, hairpin", Some(Kind::FullCone), true),
    ("one box", Some(Kind::PortRestricted), false),
];
/// The last of them: hosts that are all behind the same box.
const ONE_BOX: usize = KINDS.len() - 1;
/// Pairs of hosts of each two kinds.
const PAIRS: usize = 6;
const PACE: Pace = Pace {
    begin_apart: Duration::from_millis(100),
    packets_apart: Duration::from_millis(500),
    patience: Duration::from_secs(30),
};

pub(super) fn nats(world: &mut World, nodes: usize) -> Vec<Figure> {
    let of_kind = hosts(world, nodes);
    world.run_for(Duration::from_secs(120));
    let mut pairs = Vec::new();
    for from in 0..KINDS.len() {
        for to in 0..KINDS.len() {
            pairs.extend((0..PAIRS).filter_map(|_| pair(world, &of_kind[from], &of_kind[to])));
        }
    }
    let flows = traffic::run(world, &pairs, PACE);
    let kind_of = |id: HostId| of_kind.iter().position(|hosts| hosts.contains(&id)).unwrap_or(0);
    let between = |from: usize, to: usize| {
        flows.iter().filter(move |flow| (kind_of(flow.from), kind_of(flow.to)) == (from, to))
    };
    for (title, holds) in [
        ("reached, of hosts behind (rows) to hosts behind (columns)", is_reached as fn(&Flow) -> bool),
        ("directly, by the kernel path", is_direct),
        ("by a relay, where not directly", |flow| !is_direct(flow) && flow.relay.is_some()),
    ] {
        let cells = (0..KINDS.len())
            .map(|from| (0..KINDS.len()).map(|to| share(between(from, to), holds)).collect())
            .collect();
        world.matrices.push(Matrix { title, names: KINDS.map(|(name, ..)| name).to_vec(), cells });
    }
    let may_be_direct = |flow: &&Flow| {
        let kinds = [kind_of(flow.from), kind_of(flow.to)];
        kinds.contains(&0) || kinds == [ONE_BOX; 2]
    };
    let other = |flow: &&Flow| !may_be_direct(flow);
    let reached = flows.iter().filter(|flow| is_reached(flow));
    let direct_of_reached = share(reached.filter(may_be_direct), is_direct);
    vec![
        Figure::new("pairs that reach each other", share(&flows, is_reached), "").at_least(1.0),
        Figure::new(
            "of them directly, where one is public or both are behind one box",
            direct_of_reached,
            "",
        )
        .at_least(1.0),
        Figure::new(
            "directly or by a relay",
            share(&flows, |flow| is_direct(flow) || flow.relay.is_some()),
            "",
        )
        .at_least(1.0),
        Figure::new("directly, all others", share(flows.iter().filter(other), is_direct), ""),
    ]
}

fn is_reached(flow: &Flow) -> bool {
    flow.delivered.is_some()
}

fn is_direct(flow: &Flow) -> bool {
    flow.kernel.is_some()
}

/// Adds hosts, seven of ten behind a box: as many of each kind, each behind a box of its own but for those behind
/// one box. The first of those that are public are the ways in.
fn hosts(world: &mut World, nodes: usize) -> Vec<Vec<HostId>> {
    let bootstraps: Vec<HostId> = (0..BOOTSTRAPS).map(|_| world.add(&[])).collect();
    introduce(world, &bootstraps);
    let mut of_kind = vec![Vec::new(); KINDS.len()];
    of_kind[0].clone_from(&bootstraps);
    let one_box = world.add_box(Config::new(Kind::PortRestricted));
    let mut boxed = 0;
    for index in 0..nodes.saturating_sub(BOOTSTRAPS) {
        // Three of ten are behind nothing.
        let which = if index % 10 < 3 { 0 } else { 1 + boxed % (KINDS.len() - 1) };
        boxed += usize::from(which != 0);
        let (_, kind, hairpin) = KINDS[which];
        let id = match kind {
            None => world.add(&bootstraps),
            Some(_) if which == ONE_BOX => world.add_behind(one_box, &bootstraps),
            Some(kind) => {
                let behind = world.add_box(Config { hairpin, ..Config::new(kind) });
                world.add_behind(behind, &bootstraps)
            }
        };
        of_kind[which].push(id);
        world.run_for(Duration::from_millis(100));
    }
    for id in 0..world.hosts.len() {
        give_address(world, id);
    }
    of_kind
}

fn pair(world: &mut World, from: &[HostId], to: &[HostId]) -> Option<(HostId, HostId)> {
    let mut draw = |of: &[HostId]| of.get(world.random.below(of.len() as u64) as usize).copied();
    let from = draw(from)?;
    let others: Vec<HostId> = to.iter().copied().filter(|id| *id != from).collect();
    Some((from, draw(&others)?))
}
