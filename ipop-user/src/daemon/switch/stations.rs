//! Which stations are where: behind this node, or behind which other. Pure.
//!
//! Whoever has a station first keeps it until it says that it has it no more. A node that hears another claim a
//! station of its own looks whether the station is still there, and gives it up if nothing comes from it: so one that
//! moves is soon known at its new place, and nobody takes one that is in use.

use std::collections::BTreeMap;
use std::time::Duration;

use ipop_common::ethernet::Mac;
use ipop_overlay::{Instant, STATIONS_MAX};

/// Stations behind all nodes together.
const STATIONS_KNOWN_MAX: usize = 4096;
/// A station from which nothing has come for so long is not there any more.
const LIFE: Duration = Duration::from_secs(300);
/// What passes without the control task is not seen: after so long the next frame of a station is shown to it again.
const CONFIRM: Duration = Duration::from_secs(60);
/// So long is waited for a frame of a station that another node claims.
pub(super) const CONTEST: Duration = Duration::from_secs(1);

/// Where a station is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    /// Behind the node with this key.
    There([u8; 32]),
}

/// One node's word that a station is behind it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    place: Place,
    seen: Instant,
    /// The node names all that it has: what it names no more is gone, and time is no matter.
    is_listed: bool,
}

#[derive(Debug)]
struct Station {
    /// In the order in which they came; the first one stands.
    claims: Vec<Claim>,
    /// Another node claims a station of this one: until when a frame of it is waited for.
    contest: Option<Instant>,
}

/// A station claimed of which there are as many as a table takes, or which is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is somewhere else, by an older claim.
    Elsewhere(Place),
    Full,
}

/// What has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// What the data threads go by.
    pub(super) table: bool,
    /// Which stations are behind this node.
    pub(super) own: bool,
}

/// All stations that this node knows of.
#[derive(Debug, Default)]
pub(super) struct Stations {
    all: BTreeMap<Mac, Station>,
    /// How many had last to be shown again.
    quiet: usize,
}

impl Stations {
    /// Where a station is.
    pub(super) fn place(&self, mac: &Mac) -> Option<Place> {
        self.all.get(mac)?.claims.first().map(|claim| claim.place)
    }

    /// Those behind this node; also those that it would have if another gave them up, so that the other hears of it.
    pub(super) fn own(&self) -> Vec<Mac> {
        let is_claimed = |station: &Station| station.claims.iter().any(|claim| claim.place == Place::Here);
        self.all.iter().filter(|(_, station)| is_claimed(station)).map(|(mac, _)| *mac).collect()
    }

    /// What the data threads may go by: each station's place, without those whose next frame is to be seen.
    pub(super) fn settled(&self, now: Instant) -> impl Iterator<Item = (Mac, Place)> + '_ {
        self.all.iter().filter_map(move |(mac, station)| {
            let first = station.claims.first()?;
            let is_open =
                first.place == Place::Here && (station.contest.is_some() || now.since(first.seen) >= CONFIRM);
            (!is_open).then_some((*mac, first.place))
        })
    }

    /// A frame came from a station, at a place.
    pub(super) fn seen(&mut self, mac: Mac, place: Place, now: Instant) -> (Changed, Result<(), Refused>) {
        self.claim(mac, place, false, now)
    }

    fn claim(
        &mut self,
        mac: Mac,
        place: Place,
        is_listed: bool,
        now: Instant,
    ) -> (Changed, Result<(), Refused>) {
        let mut changed = Changed::default();
        let is_known = self.all.get(&mac).is_some_and(|s| s.claims.iter().any(|c| c.place == place));
        if !is_known && !self.has_room(&mac, place) {
            return (changed, Err(Refused::Full));
        }
        let station = self.all.entry(mac).or_insert(Station { claims: Vec::new(), contest: None });
        match station.claims.iter_mut().find(|claim| claim.place == place) {
            Some(claim) => {
                changed.table |= place == Place::Here && now.since(claim.seen) >= CONFIRM;
                claim.seen = now;
                claim.is_listed |= is_listed;
            }
            None => {
                station.claims.push(Claim { place, seen: now, is_listed });
                changed.table |= station.claims.len() == 1;
                changed.own |= place == Place::Here;
            }
        }
        let first = station.claims.first().map_or(place, |claim| claim.place);
        match (first, place) {
            // It is still here.
            (Place::Here, Place::Here) => changed.table |= station.contest.take().is_some(),
            (Place::Here, Place::There(_)) if station.contest.is_none() => {
                station.contest = Some(now.after(CONTEST));
                changed.table = true;
            }
            _ => {}
        }
        let outcome = if first == place { Ok(()) } else { Err(Refused::Elsewhere(first)) };
        (changed, outcome)
    }

    /// No node has more than it can name, and those of none keep another's out.
    fn has_room(&self, mac: &Mac, place: Place) -> bool {
        let of_place = self.all.values().filter(|s| s.claims.iter().any(|c| c.place == place)).count();
        of_place < STATIONS_MAX && (self.all.contains_key(mac) || self.all.len() < STATIONS_KNOWN_MAX)
    }

    /// A node says which stations are behind it: those and no others. How many of them are another's.
    pub(super) fn listed(&mut self, key: [u8; 32], macs: &[Mac], now: Instant) -> (Changed, usize) {
        let place = Place::There(key);
        let mut changed =
            self.remove(|mac, claim| claim.place == place && claim.is_listed && !macs.contains(mac));
        let mut refused = 0;
        for mac in macs {
            let (one, outcome) = self.claim(*mac, place, true, now);
            changed.table |= one.table;
            changed.own |= one.own;
            refused += usize::from(outcome.is_err());
        }
        (changed, refused)
    }

    /// A node is not heard of any more.
    pub(super) fn forget(&mut self, key: [u8; 32]) -> Changed {
        self.remove(|_, claim| claim.place == Place::There(key))
    }

    /// Nothing of this node's side is taken any more.
    pub(super) fn forget_own(&mut self) -> Changed {
        self.remove(|_, claim| claim.place == Place::Here)
    }

    /// Gives up what has been silent, and what another node claims and is not here.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Changed {
        let lost: Vec<Mac> = self
            .all
            .iter_mut()
            .filter(|(_, station)| station.contest.is_some_and(|until| until <= now))
            .map(|(mac, station)| {
                station.contest = None;
                *mac
            })
            .collect();
        let mut changed = self.remove(|mac, claim| {
            let is_silent = !claim.is_listed && now.since(claim.seen) >= LIFE;
            is_silent || claim.place == Place::Here && lost.contains(mac)
        });
        let is_quiet = |station: &&Station| {
            station.claims.first().is_some_and(|c| c.place == Place::Here && now.since(c.seen) >= CONFIRM)
        };
        let quiet = self.all.values().filter(is_quiet).count();
        changed.table |= quiet != self.quiet;
        self.quiet = quiet;
        changed
    }

    /// All of them: where each is, how long ago it was seen, and whether others claim it too.
    pub(super) fn all(&self, now: Instant) -> impl Iterator<Item = (Mac, Place, Duration, bool)> + '_ {
        self.all.iter().filter_map(move |(mac, station)| {
            let first = station.claims.first()?;
            Some((*mac, first.place, now.since(first.seen), station.claims.len() > 1))
        })
    }

    /// Those whose presence is in question.
    pub(super) fn contested(&self) -> impl Iterator<Item = Mac> + '_ {
        self.all.iter().filter(|(_, station)| station.contest.is_some()).map(|(mac, _)| *mac)
    }

    fn remove(&mut self, is_gone: impl Fn(&Mac, &Claim) -> bool) -> Changed {
        let mut changed = Changed::default();
        self.all.retain(|mac, station| {
            let first = station.claims.first().map(|claim| claim.place);
            station.claims.retain(|claim| {
                let is_gone = is_gone(mac, claim);
                changed.own |= is_gone && claim.place == Place::Here;
                !is_gone
            });
            let next = station.claims.first().map(|claim| claim.place);
            if first != next {
                changed.table = true;
                station.contest = None;
            }
            next.is_some()
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];
    const A: Place = Place::There([1; 32]);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_station_is_where_it_was_first_seen() {
        let mut stations = Stations::default();
        let (changed, outcome) = stations.seen(MAC, A, at(0));
        assert_eq!((changed, outcome), (Changed { table: true, own: false }, Ok(())));
        let (changed, outcome) = stations.seen(MAC, Place::There([2; 32]), at(1));
        assert_eq!((changed, outcome), (Changed::default(), Err(Refused::Elsewhere(A))));
        // Of this node's side as well; but the others are told that it is claimed.
        let (changed, outcome) = stations.seen(MAC, Place::Here, at(2));
        assert_eq!((changed, outcome), (Changed { table: false, own: true }, Err(Refused::Elsewhere(A))));
        assert_eq!(stations.own(), [MAC]);
        assert_eq!(stations.place(&MAC), Some(A));
    }

    #[test]
    fn one_that_moved_is_given_up_and_one_that_speaks_is_kept() {
        let mut stations = Stations::default();
        let _ = stations.seen(MAC, Place::Here, at(0));
        assert_eq!(stations.settled(at(0)).collect::<Vec<_>>(), [(MAC, Place::Here)]);
        assert!(stations.seen(MAC, A, at(10)).0.table);
        assert_eq!(stations.settled(at(10)).count(), 0, "its next frame is to be seen");
        assert_eq!(stations.contested().collect::<Vec<_>>(), [MAC]);
        let (changed, outcome) = stations.seen(MAC, Place::Here, at(500));
        assert!(changed.table && outcome.is_ok());
        assert_eq!(stations.handle_timeout(at(1100)), Changed::default());
        assert_eq!(stations.place(&MAC), Some(Place::Here));

        let _ = stations.seen(MAC, A, at(2000));
        assert_eq!(stations.handle_timeout(at(2999)), Changed::default());
        assert_eq!(stations.handle_timeout(at(3000)), Changed { table: true, own: true });
        assert_eq!(stations.place(&MAC), Some(A));
        assert!(stations.own().is_empty());
    }

    #[test]
    fn what_a_node_names_no_more_is_the_next_ones() {
        let mut stations = Stations::default();
        assert_eq!(stations.listed([1; 32], &[MAC], at(0)), (Changed { table: true, own: false }, 0));
        assert_eq!(stations.listed([2; 32], &[MAC], at(1)), (Changed::default(), 1));
        assert_eq!(stations.handle_timeout(at(400_000)), Changed::default(), "what is named does not age");
        assert!(stations.listed([1; 32], &[], at(400_001)).0.table);
        assert_eq!(stations.place(&MAC), Some(Place::There([2; 32])));
        assert!(stations.forget([2; 32]).table);
        assert_eq!(stations.place(&MAC), None);
    }

    #[test]
    fn silence_ends_what_was_seen_and_no_node_fills_the_table() {
        let mut stations = Stations::default();
        let _ = stations.seen(MAC, Place::Here, at(0));
        assert!(stations.handle_timeout(at(60_000)).table, "its next frame is to be seen");
        assert_eq!(stations.settled(at(60_000)).count(), 0);
        assert!(stations.seen(MAC, Place::Here, at(61_000)).0.table);
        assert_eq!(stations.settled(at(61_000)).count(), 1);
        assert!(stations.handle_timeout(at(361_000)).own);
        for number in 0..STATIONS_MAX as u8 {
            assert_eq!(stations.seen([2, 0, 0, 0, 1, number], A, at(0)).1, Ok(()));
        }
        assert_eq!(stations.seen([2, 0, 0, 0, 2, 0], A, at(0)).1, Err(Refused::Full));
        assert_eq!(stations.seen([2, 0, 0, 0, 2, 0], Place::Here, at(0)).1, Ok(()));
    }
}
