//! When packets went to and came from a peer, and what follows if one side stays silent.

use core::time::Duration;

use super::timers::Timers;
use crate::time::Instant;

/// What a data path has seen of one session: when the last packet of each kind went or came, `None`
/// where none has.
///
/// It may say the same again. One that only counts packets says the present time for what has
/// grown since it last looked; within one look, the order of what was sent and received is unknown,
/// and the core assumes the one that needs the peer the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Any packet sealed for the peer, keepalives included.
    pub sent: Option<Instant>,
    /// A packet sealed for the peer that was not empty.
    pub sent_data: Option<Instant>,
    /// Any packet of the peer with a valid tag and a new counter, keepalives included.
    pub received: Option<Instant>,
    /// Such a packet that was not empty.
    pub received_data: Option<Instant>,
    /// When the last packet with a valid tag came by UDP, of whatever kind. Of those that came otherwise,
    /// [`Sessions::authenticated_from`](super::Sessions::authenticated_from) is told.
    pub by_udp: Option<Instant>,
    /// The same, by TCP.
    pub by_tcp: Option<Instant>,
    /// The same, by a relay.
    pub by_relay: Option<Instant>,
    /// How many packets have been sealed so far.
    pub send_counter: u64,
}

/// A timer that runs, and the packet that started it.
#[derive(Clone, Copy, Debug)]
struct Running {
    since: Instant,
    at: Instant,
}

/// The traffic with one peer, over all sessions.
#[derive(Debug, Default)]
pub(super) struct Activity {
    sent: Option<Instant>,
    sent_data: Option<Instant>,
    received: Option<Instant>,
    received_data: Option<Instant>,
    /// Data came and nothing was sent since.
    keepalive: Option<Running>,
    /// Data was sent and nothing came since.
    silence: Option<Running>,
}

impl Activity {
    /// Takes in what a data path saw, nothing of which can be later than `now`. Says whether
    /// anything was sent, and received, that was not known.
    pub(super) fn see(&mut self, now: Instant, traffic: &Traffic) -> (bool, bool) {
        (
            newer(&mut self.sent, traffic.sent, now) | newer(&mut self.sent_data, traffic.sent_data, now),
            newer(&mut self.received, traffic.received, now)
                | newer(&mut self.received_data, traffic.received_data, now),
        )
    }

    /// A handshake message or a keepalive goes to the peer.
    pub(super) fn sends(&mut self, now: Instant) {
        newer(&mut self.sent, Some(now), now);
    }

    /// Something authentic came from the peer.
    pub(super) fn receives(&mut self, now: Instant) {
        newer(&mut self.received, Some(now), now);
    }

    /// Starts and stops the timers as what was seen demands.
    pub(super) fn settle(&mut self, timers: &Timers, jitter: impl FnOnce() -> Duration) {
        self.silence = match self.sent_data {
            Some(sent) if self.sent_data > self.received => {
                let running = self.silence.filter(|running| Some(running.since) > self.received);
                Some(running.unwrap_or_else(|| Running {
                    since: sent,
                    at: sent.after(timers.silence()).after(jitter()),
                }))
            }
            _ => None,
        };
        self.keepalive = match self.received_data {
            Some(received) if self.received_data >= self.sent => {
                let running = self.keepalive.filter(|running| Some(running.since) >= self.sent);
                let start = || Running { since: received, at: received.after(timers.keepalive) };
                Some(running.unwrap_or_else(start))
            }
            _ => None,
        };
    }

    /// Whether it is time for a keepalive. It is one no more when something is [sent](Self::sends).
    pub(super) fn keepalive_is_due(&self, now: Instant) -> bool {
        self.keepalive.is_some_and(|running| running.at <= now)
    }

    /// Whether the peer has been silent for too long; that is told once.
    pub(super) fn take_silence(&mut self, now: Instant) -> bool {
        let due = self.silence.take_if(|running| running.at <= now).is_some();
        if due {
            self.sent_data = None;
        }
        due
    }

    /// Whether something has come from the peer within the time after which it counts as silent.
    pub(super) fn hears(&self, now: Instant, timers: &Timers) -> bool {
        self.received.is_some_and(|received| now.since(received) < timers.silence())
    }

    /// No keepalive to a peer that is not there.
    pub(super) fn give_up(&mut self) {
        self.received_data = None;
        self.keepalive = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        [self.keepalive, self.silence].into_iter().flatten().map(|running| running.at).min()
    }

    pub(super) fn last(&self) -> Option<Instant> {
        self.sent.max(self.received)
    }
}

/// Moves `known` forward to `seen`; says whether it moved.
fn newer(known: &mut Option<Instant>, seen: Option<Instant>, now: Instant) -> bool {
    let seen = seen.map(|seen| seen.min(now));
    let moved = seen > *known;
    if moved {
        *known = seen;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Option<Instant> {
        Some(Instant::from_nanos(seconds * 1_000_000_000))
    }

    fn see(activity: &mut Activity, now: u64, traffic: Traffic) -> (bool, bool) {
        let seen = activity.see(at(now).unwrap(), &traffic);
        activity.settle(&Timers::WIREGUARD, || Duration::ZERO);
        seen
    }

    fn sent(seconds: u64) -> Traffic {
        Traffic { sent: at(seconds), sent_data: at(seconds), ..Traffic::default() }
    }

    fn received(seconds: u64) -> Traffic {
        Traffic { received: at(seconds), received_data: at(seconds), ..Traffic::default() }
    }

    #[test]
    fn the_first_unanswered_packet_counts() {
        let mut activity = Activity::default();
        assert_eq!(see(&mut activity, 1, sent(1)), (true, false));
        assert_eq!(see(&mut activity, 1, sent(1)), (false, false), "the same again");
        see(&mut activity, 9, sent(9));
        assert_eq!(activity.due(), at(16));
        see(&mut activity, 10, received(10));
        see(&mut activity, 11, sent(11));
        assert_eq!(activity.due(), at(26));
        assert!(!activity.take_silence(at(25).unwrap()));
        assert!(activity.take_silence(at(26).unwrap()));
        activity.settle(&Timers::WIREGUARD, || Duration::ZERO);
        assert_eq!(activity.due(), None, "told once");
    }

    #[test]
    fn a_receiver_that_sends_nothing_owes_a_keepalive() {
        let mut activity = Activity::default();
        see(&mut activity, 1, received(1));
        see(&mut activity, 4, received(4));
        assert_eq!(activity.due(), at(11));
        assert!(!activity.keepalive_is_due(at(10).unwrap()));
        assert!(activity.keepalive_is_due(at(11).unwrap()));
        activity.sends(at(11).unwrap());
        activity.settle(&Timers::WIREGUARD, || Duration::ZERO);
        assert_eq!(activity.due(), None);
    }

    #[test]
    fn what_was_seen_in_one_look_needs_no_answer_but_gives_one() {
        let mut activity = Activity::default();
        let both = Traffic { sent: at(3), sent_data: at(3), ..received(3) };
        assert_eq!(see(&mut activity, 3, both), (true, true));
        assert!(activity.silence.is_none());
        assert_eq!(activity.due(), at(13));
    }

    #[test]
    fn a_keepalive_is_not_answered() {
        let mut activity = Activity::default();
        see(&mut activity, 1, Traffic { received: at(1), ..Traffic::default() });
        assert_eq!(activity.due(), None);
    }

    #[test]
    fn the_future_is_the_present() {
        let mut activity = Activity::default();
        see(&mut activity, 5, sent(500));
        assert_eq!(activity.due(), at(20));
    }
}
