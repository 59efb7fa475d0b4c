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

/// At most three sessions with one peer.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    /// The one to send on.
    pub(super) current: Option<Session>,
    /// The one before: packets sealed with it may still be under way.
    pub(super) previous: Option<Session>,
    /// The one that this node has answered to, until a packet shows that the answer arrived.
    pub(super) next: Option<Session>,
}

impl Keyring {
    /// Takes in a session that this node initiated: the response shows that the peer has it.
    /// Returns what gives way.
    ///
    /// An answered session that waits for its confirmation stays, as the one before: where both
    /// initiate at once, the peer sends on it, as this node does on the new one.
    pub(super) fn add_initiated(&mut self, new: Session) -> [Option<Session>; 2] {
        let old = self.current.replace(new);
        match self.next.take() {
            Some(next) => [self.previous.replace(next), old],
            None => [core::mem::replace(&mut self.previous, old), None],
        }
    }

    /// Takes in a session that this node answered to. Returns what gives way.
    pub(super) fn add_answered(&mut self, new: Session) -> Option<Session> {
        self.next.replace(new)
    }

    /// A packet came on `local_index`: if its session waited for that, it is the current one now.
    /// Returns that, and what gives way.
    pub(super) fn confirm(&mut self, local_index: u32) -> Option<(Session, Option<Session>)> {
        let next = self.next.take_if(|next| next.local_index == local_index)?;
        let old = self.current.replace(next);
        Some((next, core::mem::replace(&mut self.previous, old)))
    }

    pub(super) fn contains(&self, local_index: u32) -> bool {
        self.sessions().any(|session| session.local_index == local_index)
    }

    /// Takes out one session for which `over` holds.
    pub(super) fn remove(&mut self, over: impl Fn(&Session) -> bool) -> Option<Session> {
        let [current, previous, next] = [&mut self.current, &mut self.previous, &mut self.next];
        let mut places = [current, previous, next].into_iter();
        places.find_map(|place| place.take_if(|session| over(session)))
    }

    /// When the first of them is over.
    pub(super) fn reject_at(&self) -> Option<Instant> {
        self.sessions().map(|session| session.reject_at).min()
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        [&self.current, &self.previous, &self.next].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(local_index: u32, initiator: bool) -> Session {
        Session::new(local_index, initiator, Instant::default(), Duration::ZERO, &Timers::WIREGUARD)
    }

    fn indices(ring: &Keyring) -> [Option<u32>; 3] {
        [ring.current, ring.previous, ring.next].map(|session| session.map(|session| session.local_index))
    }

    #[test]
    fn an_initiated_session_is_used_and_the_one_before_kept() {
        let mut ring = Keyring::default();
        assert_eq!(ring.add_initiated(session(1, true)), [None, None]);
        assert_eq!(ring.add_initiated(session(2, true)), [None, None]);
        assert_eq!(ring.add_initiated(session(3, true)), [Some(session(1, true)), None]);
        assert_eq!(indices(&ring), [Some(3), Some(2), None]);
    }

    #[test]
    fn an_answered_session_is_used_when_a_packet_came_on_it() {
        let mut ring = Keyring::default();
        ring.add_initiated(session(1, true));
        assert_eq!(ring.add_answered(session(2, false)), None);
        assert_eq!(indices(&ring), [Some(1), None, Some(2)]);
        assert_eq!(ring.confirm(1), None);
        assert_eq!(ring.add_answered(session(3, false)), Some(session(2, false)));
        assert_eq!(ring.confirm(3), Some((session(3, false), None)));
        assert_eq!(ring.confirm(3), None);
        assert_eq!(indices(&ring), [Some(3), Some(1), None]);
    }

    #[test]
    fn of_two_initiated_at_once_each_sends_on_its_own() {
        let mut ring = Keyring::default();
        ring.add_answered(session(2, false));
        ring.add_initiated(session(1, true));
        assert_eq!(indices(&ring), [Some(1), Some(2), None]);
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
