//! The sessions that a node has with one peer: which one it sends on, and from which ones it
//! receives.

use core::time::Duration;

use super::timers::Timers;
use crate::time::Instant;

/// A session without its keys, which are the data path's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) local_index: u32,
    /// Who makes the next session in time is who made this one: two would get in each other's way.
    pub(super) initiator: bool,
    pub(super) rekey_at: Instant,
    pub(super) last_minute_at: Instant,
    pub(super) reject_at: Instant,
}

impl Session {
    /// A session that has existed for `age`.
    pub(super) fn new(
        local_index: u32,
        initiator: bool,
        now: Instant,
        age: Duration,
        timers: &Timers,
    ) -> Self {
        let at = |limit: Duration| now.after(limit.saturating_sub(age));
        Self {
            local_index,
            initiator,
            rekey_at: at(timers.rekey_after),
            last_minute_at: at(timers.last_minute()),
            reject_at: at(timers.reject_after),
        }
    }
}

/// What is sealed with a session that has given way may be under way for so long, over other nodes too.
const PARTING: Duration = Duration::from_secs(3);

/// The sessions with one peer.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    /// The one to send on.
    pub(super) current: Option<Session>,
    /// The one before: packets sealed with it may still be under way.
    pub(super) previous: Option<Session>,
    /// The one that this node has answered to, until a packet shows that the answer arrived.
    pub(super) next: Option<Session>,
    /// Those that have given way just now. There are more than the one before where both sides begin
    /// over other nodes and then directly, all within a round trip.
    parting: [Option<Session>; 2],
}

impl Keyring {
    /// Takes in a session that this node initiated: the response shows that the peer has it.
    /// Returns what is to be erased.
    ///
    /// An answered session that waits for its confirmation stays, as the one before: where both
    /// initiate at once, the peer sends on it, as this node does on the new one.
    pub(super) fn add_initiated(&mut self, new: Session, now: Instant) -> [Option<Session>; 2] {
        let old = self.current.replace(new);
        match self.next.take() {
            Some(next) => {
                let before = self.previous.replace(next);
                [self.part(before, now), self.part(old, now)]
            }
            None => {
                let before = core::mem::replace(&mut self.previous, old);
                [self.part(before, now), None]
            }
        }
    }

    /// Takes in a session that this node answered to. Returns what is to be erased.
    pub(super) fn add_answered(&mut self, new: Session, now: Instant) -> Option<Session> {
        let before = self.next.replace(new);
        self.part(before, now)
    }

    /// A packet came on `local_index`: if its session waited for that, it is the current one now.
    /// Returns that, and what is to be erased.
    pub(super) fn confirm(&mut self, local_index: u32, now: Instant) -> Option<(Session, Option<Session>)> {
        let next = self.next.take_if(|next| next.local_index == local_index)?;
        let old = self.current.replace(next);
        let before = core::mem::replace(&mut self.previous, old);
        Some((next, self.part(before, now)))
    }

    /// Lets a session go in a while, at the cost of the one that would go first.
    fn part(&mut self, session: Option<Session>, now: Instant) -> Option<Session> {
        let session = session?;
        let session = Session { reject_at: session.reject_at.min(now.after(PARTING)), ..session };
        let first = self.parting.iter_mut().min_by_key(|parting| parting.map(|parting| parting.reject_at))?;
        first.replace(session)
    }

    /// Takes out the session that is missed the least.
    pub(super) fn spare(&mut self) -> Option<Session> {
        self.parting.iter_mut().find_map(Option::take).or_else(|| self.previous.take())
    }

    pub(super) fn contains(&self, local_index: u32) -> bool {
        self.sessions().any(|session| session.local_index == local_index)
    }

    /// Takes out one session for which `over` holds.
    pub(super) fn remove(&mut self, over: impl Fn(&Session) -> bool) -> Option<Session> {
        let Self { current, previous, next, parting } = self;
        let mut places = [current, previous, next].into_iter().chain(parting);
        places.find_map(|place| place.take_if(|session| over(session)))
    }

    /// When the first of them is over.
    pub(super) fn reject_at(&self) -> Option<Instant> {
        self.sessions().map(|session| session.reject_at).min()
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        [&self.current, &self.previous, &self.next].into_iter().chain(&self.parting).flatten()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn session(local_index: u32, initiator: bool) -> Session {
        Session::new(local_index, initiator, Instant::default(), Duration::ZERO, &Timers::WIREGUARD)
    }

    fn indices(ring: &Keyring) -> [Option<u32>; 3] {
        [ring.current, ring.previous, ring.next].map(|session| session.map(|session| session.local_index))
    }

    const NOW: Instant = Instant::from_nanos(0);

    #[test]
    fn an_initiated_session_is_used_and_the_one_before_kept() {
        let mut ring = Keyring::default();
        for index in 1..=3 {
            assert_eq!(ring.add_initiated(session(index, true), NOW), [None, None]);
        }
        assert_eq!(indices(&ring), [Some(3), Some(2), None]);
    }

    #[test]
    fn an_answered_session_is_used_when_a_packet_came_on_it() {
        let mut ring = Keyring::default();
        ring.add_initiated(session(1, true), NOW);
        assert_eq!(ring.add_answered(session(2, false), NOW), None);
        assert_eq!(indices(&ring), [Some(1), None, Some(2)]);
        assert_eq!(ring.confirm(1, NOW), None);
        assert_eq!(ring.add_answered(session(3, false), NOW), None);
        assert_eq!(ring.confirm(2, NOW), None);
        assert_eq!(ring.confirm(3, NOW), Some((session(3, false), None)));
        assert_eq!(ring.confirm(3, NOW), None);
        assert_eq!(indices(&ring), [Some(3), Some(1), None]);
    }

    #[test]
    fn of_two_initiated_at_once_each_sends_on_its_own() {
        let mut ring = Keyring::default();
        ring.add_answered(session(2, false), NOW);
        ring.add_initiated(session(1, true), NOW);
        assert_eq!(indices(&ring), [Some(1), Some(2), None]);
    }

    /// Both begin at once over other nodes, and again directly.
    #[test]
    fn what_gives_way_is_received_from_for_a_while() {
        let mut ring = Keyring::default();
        ring.add_answered(session(1, false), NOW);
        ring.add_initiated(session(2, true), NOW);
        ring.add_answered(session(3, false), NOW);
        assert_eq!(ring.add_initiated(session(4, true), NOW), [None, None]);
        assert_eq!(indices(&ring), [Some(4), Some(3), None]);
        assert!((1..=4).all(|index| ring.contains(index)));
        assert_eq!(ring.reject_at(), Some(NOW.after(PARTING)));
        let over = |session: &Session| session.reject_at <= NOW.after(PARTING);
        let gone = [ring.remove(over), ring.remove(over)].map(|session| session.unwrap().local_index);
        assert_eq!((gone, ring.remove(over)), ([1, 2], None));
    }

    #[test]
    fn few_part_at_once_and_the_first_of_them_gives_way() {
        let mut ring = Keyring::default();
        let mut erased = Vec::new();
        for index in 1..=6 {
            let now = NOW.after(Duration::from_millis(u64::from(index)));
            erased.extend(ring.add_initiated(session(index, true), now).into_iter().flatten());
        }
        assert_eq!(erased.iter().map(|session| session.local_index).collect::<Vec<_>>(), [1, 2]);
        assert_eq!([ring.spare(), ring.spare()].map(|session| session.unwrap().local_index), [3, 4]);
        assert_eq!(ring.spare().map(|session| session.local_index), Some(5));
        assert_eq!(ring.spare(), None);
    }

    #[test]
    fn an_old_session_keeps_its_age() {
        let age = Duration::from_secs(100);
        let old = Session::new(1, true, Instant::default(), age, &Timers::WIREGUARD);
        assert_eq!(old.rekey_at, Instant::default().after(Duration::from_secs(20)));
        assert_eq!(old.last_minute_at, Instant::default().after(Duration::from_secs(65)));
        assert_eq!(old.reject_at, Instant::default().after(Duration::from_secs(80)));
    }
}
