//! Where a routed message goes next. Whatever the mode, each hop but one brings it nearer to where it
//! is going, so that it arrives or ends.

use super::counts::Count;
use super::limits::NEAR_PER_SIDE;
use super::table::Table;
use super::wire::{Header, Mode};
use crate::address::NodeAddress;

/// What is to be done with a routed message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// This node is one of those that it is for.
    pub(super) here: bool,
    pub(super) next: Option<NodeAddress>,
    /// The next hop is further away than this node: allowed once.
    pub(super) uphill: bool,
    /// Why it ends here.
    pub(super) refused: Option<Count>,
}

impl Decision {
    const HERE: Self = Self { here: true, next: None, uphill: false, refused: None };

    const fn next(address: NodeAddress) -> Self {
        Self { here: false, next: Some(address), uphill: false, refused: None }
    }

    const fn refused(count: Count) -> Self {
        Self { here: false, next: None, uphill: false, refused: Some(count) }
    }
}

/// Decides about a message that came from a neighbour, or from this node itself.
pub(super) fn decide(table: &Table, from: Option<NodeAddress>, header: &Header) -> Decision {
    match header.mode {
        Mode::Exact => exact(table, from, header),
        Mode::Nearest => nearest(table, from, header),
        Mode::Flanks => flanks(table, from, header),
        Mode::Up | Mode::Down => along(table, from, header),
        // Who passes it on, and to whom, is for the broadcast to say.
        Mode::Part => Decision::HERE,
    }
}

/// The neighbours that a message may go to: not back, and not to where it comes from.
fn candidates(
    table: &Table,
    from: Option<NodeAddress>,
    source: NodeAddress,
) -> impl Iterator<Item = NodeAddress> {
    table.structured().filter(move |address| Some(*address) != from && *address != source)
}

/// A node that is not on the ring yet sends by its way in.
fn way_in(table: &Table, from: Option<NodeAddress>) -> Option<NodeAddress> {
    if from.is_some() || table.structured().next().is_some() {
        return None;
    }
    table.way_in()
}

fn exact(table: &Table, from: Option<NodeAddress>, header: &Header) -> Decision {
    if header.destination == table.own {
        return Decision::HERE;
    }
    let is_direct = |address: NodeAddress| table.contains(address) && from != Some(address);
    if is_direct(header.destination) {
        return Decision::next(header.destination);
    }
    let target = header.via.unwrap_or(header.destination);
    if is_direct(target) {
        return Decision::next(target);
    }
    if let Some(leaf) = way_in(table, from) {
        return Decision::next(leaf);
    }
    let here = table.own.distance(target);
    let best = candidates(table, from, header.source).min_by_key(|address| address.distance(target));
    match best {
        Some(best) if best.distance(target) < here => Decision::next(best),
        Some(best) if !header.went_uphill => Decision { uphill: true, ..Decision::next(best) },
        _ => Decision::refused(Count::NoSuchNode),
    }
}

fn nearest(table: &Table, from: Option<NodeAddress>, header: &Header) -> Decision {
    if let Some(leaf) = way_in(table, from) {
        return Decision::next(leaf);
    }
    let here = table.own.distance(header.destination);
    let best =
        candidates(table, from, header.source).min_by_key(|address| address.distance(header.destination));
    match best {
        Some(best) if best.distance(header.destination) < here => Decision::next(best),
        _ => Decision::HERE,
    }
}

/// Between two neighbours of this node, or between one and this node, both get the message.
fn flanks(table: &Table, from: Option<NodeAddress>, header: &Header) -> Decision {
    if let Some(leaf) = way_in(table, from) {
        return Decision::next(leaf);
    }
    let place = header.destination;
    let others = || candidates(table, from, header.source);
    let own = table.own;
    let above = others().min_by_key(|address| place.up_to(*address));
    let below = others().min_by_key(|address| address.up_to(place));
    let is_above = above.is_none_or(|above| place.up_to(own) < place.up_to(above));
    let is_below = below.is_none_or(|below| own.up_to(place) < below.up_to(place));
    // Sent on once, to the other side; by then it has been to this one.
    let other_side = |other: Option<NodeAddress>| if header.went_uphill { None } else { other };
    match (is_above, is_below) {
        (true, true) => Decision::HERE,
        (true, false) => Decision { next: other_side(below), uphill: true, ..Decision::HERE },
        (false, true) => Decision { next: other_side(above), uphill: true, ..Decision::HERE },
        (false, false) if header.went_uphill => Decision::HERE,
        (false, false) => {
            let best = others().min_by_key(|address| address.distance(place));
            best.filter(|best| best.distance(place) < own.distance(place))
                .map_or(Decision::HERE, Decision::next)
        }
    }
}

/// From neighbour to neighbour, as far as it may go, and nowhere near round the ring.
fn along(table: &Table, from: Option<NodeAddress>, header: &Header) -> Decision {
    let most = header.hops_max.min(NEAR_PER_SIDE as u16);
    if from.is_some() && header.hops.saturating_add(1) >= most {
        return Decision::HERE;
    }
    let own = table.own;
    let others = candidates(table, from, header.source);
    let next = if header.mode == Mode::Up {
        others.min_by_key(|address| own.up_to(*address))
    } else {
        others.min_by_key(|address| address.up_to(own))
    };
    // Where there is nobody further on, the last one it has come to answers.
    match next {
        Some(next) => Decision::next(next),
        None if from.is_some() => Decision::HERE,
        None => Decision::refused(Count::NoSuchNode),
    }
}
