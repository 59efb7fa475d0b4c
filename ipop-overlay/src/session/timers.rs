//! How long a session lasts and how patient a handshake is (the WireGuard paper, section 6.1).

use core::time::Duration;

/// The times and counts that rule sessions. [`Timers::WIREGUARD`] is what every other
/// implementation has; a test may shorten them, a network may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// An initiator that sends on a session of this age makes a new one.
    pub rekey_after: Duration,
    /// A session of this age carries nothing more, in either direction, and is erased.
    pub reject_after: Duration,
    /// How long a handshake is tried before the peer counts as not there.
    pub rekey_attempt: Duration,
    /// Between two initiations to one peer.
    pub rekey_timeout: Duration,
    /// Up to this much is added to [`Timers::rekey_timeout`], so that two peers that began together
    /// do not meet for ever.
    pub jitter: Duration,
    /// Who has received data and sent nothing for this long sends a keepalive.
    pub keepalive: Duration,
    /// A session that has sealed this many packets is replaced.
    pub rekey_after_messages: u64,
    /// A session that has sealed this many packets is erased: its nonces are used up.
    pub reject_after_messages: u64,
}

impl Timers {
    pub const WIREGUARD: Self = Self {
        rekey_after: Duration::from_secs(120),
        reject_after: Duration::from_secs(180),
        rekey_attempt: Duration::from_secs(90),
        rekey_timeout: Duration::from_secs(5),
        jitter: Duration::from_millis(334),
        keepalive: Duration::from_secs(10),
        rekey_after_messages: 1 << 60,
        reject_after_messages: u64::MAX - (1 << 13),
    };

    /// All times divided by `by`: for tests, which cannot wait for hours.
    #[must_use]
    pub fn shortened(self, by: u32) -> Self {
        let by = by.max(1);
        Self {
            rekey_after: self.rekey_after / by,
            reject_after: self.reject_after / by,
            rekey_attempt: self.rekey_attempt / by,
            rekey_timeout: self.rekey_timeout / by,
            jitter: self.jitter / by,
            keepalive: self.keepalive / by,
            ..self
        }
    }

    /// Who has sent data and received nothing for this long makes a new session: the peer, had it
    /// received anything, would have sent a keepalive by now.
    pub(super) const fn silence(&self) -> Duration {
        self.keepalive.saturating_add(self.rekey_timeout)
    }

    /// An initiator that receives on a session of this age makes a new one, though it sends nothing:
    /// the next keepalive would come too late for it.
    pub(super) const fn last_minute(&self) -> Duration {
        self.reject_after.saturating_sub(self.silence())
    }
}
