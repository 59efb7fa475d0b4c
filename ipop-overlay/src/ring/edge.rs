//! One connection of the ring: who is at its other end, why it is kept, and whether it still answers.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::limits::{
    CREDIT, CREDIT_MAX, LOG2_SIZE_MAX, PROBE_APART, PROBE_APART_MAX, PROBES_MAX, SILENCE, SILENCE_NEAR,
    SILENCE_TELLING, SILENCE_UNDER_TRAFFIC, UNUSED,
};
use super::relays::Upgrade;
use super::wire::{Beat, Coordinates, Neighbours, Roles};
use crate::address::NodeAddress;
use crate::time::Instant;

/// A smoothed time and how much it varies (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smoothed {
    mean: Option<Duration>,
    deviation: Duration,
}

impl Smoothed {
    pub(super) fn sample(&mut self, sample: Duration) {
        self.mean = Some(match self.mean {
            None => {
                self.deviation = sample / 2;
                sample
            }
            Some(mean) => {
                self.deviation = (self.deviation * 3 + mean.abs_diff(sample)) / 4;
                (mean * 7 + sample) / 8
            }
        });
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// After how long an answer is overdue.
    pub(super) fn timeout(&self, first: Duration, least: Duration, most: Duration) -> Duration {
        self.mean.map_or(first, |mean| mean + self.deviation * 4).clamp(least, most)
    }
}

/// What a connection wants done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask whether the other is there.
    Probe,
    /// It does not answer.
    Dead,
    /// Neither side has a use for it.
    Unused,
}

pub(super) struct Edge {
    pub(super) public_key: [u8; 32],
    /// Where the other is, as far as this node sees.
    pub(super) endpoint: Option<SocketAddr>,
    /// The node that relays between this one and the other, if the connection is not direct.
    pub(super) relay: Option<NodeAddress>,
    /// The largest packet in the clear that this host's wire to the other takes, where that is known.
    pub(super) mtu: Option<u16>,
    /// The other's addresses at TURN servers, as it says: one of them is a way to it, and not where it is.
    pub(super) turned: Vec<SocketAddr>,
    /// When a direct one is tried then.
    pub(super) upgrade: Option<Upgrade>,
    /// Where the other sees this node.
    pub(super) sees: Option<SocketAddr>,
    /// This node joins by way of it when it has said so.
    pub(super) joins_when_seen: bool,
    /// How many places this node had sent to when the other became one of them.
    pub(super) flows: u32,
    /// Others reach the other end uninvited, as it says.
    pub(super) is_open: bool,
    /// The other wants to be told where this node sees it.
    pub(super) asked_seen: bool,
    /// Why this node keeps it.
    pub(super) mine: Roles,
    /// Why the other does, as it says.
    pub(super) theirs: Roles,
    pub(super) since: Instant,
    heard: Instant,
    /// How long nothing had come before the last time that it was long, and when that ended.
    silent_for: Option<(Duration, Instant)>,
    /// Since when something has been sent and nothing has come.
    unanswered: Option<Instant>,
    probes: u8,
    probe_at: Instant,
    stamp: u32,
    pub(super) rtt: Smoothed,
    /// The longest silence that a NAT in front of this node is known to bear, less some.
    pub(super) of_nat: Option<Duration>,
    /// How much longer this side waits than the other, so that not both ask at once.
    patience: bool,
    pub(super) neighbours: Vec<NodeAddress>,
    pub(super) digest: u32,
    pub(super) asked: Option<Instant>,
    /// Which list of neighbours it was told last, by its digest, and when.
    pub(super) told: Option<(u32, Instant)>,
    pub(super) log2_size: Option<u16>,
    pub(super) coordinates: Option<(Coordinates, u16)>,
    unused: Option<Instant>,
    /// Since when it has not been one of the nearest.
    pub(super) not_near: Option<Instant>,
    /// When the role of a way into the network ends.
    pub(super) leaf_until: Instant,
    /// When there was traffic.
    pub(super) demanded: Instant,
    /// Datagrams for groups that went to it, and that came from it.
    pub(super) multicast: [u64; 2],
    credit: u32,
}

impl Edge {
    pub(super) fn new(public_key: [u8; 32], patience: bool, now: Instant) -> Self {
        Self {
            public_key,
            endpoint: None,
            relay: None,
            mtu: None,
            turned: Vec::new(),
            upgrade: None,
            sees: None,
            is_open: false,
            joins_when_seen: false,
            flows: 0,
            asked_seen: false,
            mine: Roles::NONE,
            theirs: Roles::NONE,
            since: now,
            heard: now,
            silent_for: None,
            unanswered: None,
            probes: 0,
            probe_at: now,
            stamp: 0,
            rtt: Smoothed::default(),
            of_nat: None,
            patience,
            neighbours: Vec::new(),
            digest: 0,
            asked: None,
            told: None,
            log2_size: None,
            coordinates: None,
            unused: Some(now),
            not_near: None,
            leaf_until: now,
            demanded: now,
            multicast: [0; 2],
            credit: CREDIT,
        }
    }

    /// Whether the other is on the ring, and not just on its way in or the way in.
    pub(super) fn is_structured(&self) -> bool {
        !self.mine.with(self.theirs).without(Roles::LEAF).is_empty()
    }

    /// Whether the other is where it is on the ring for long: by such connections go trees.
    pub(super) fn is_lasting(&self) -> bool {
        self.mine.with(self.theirs).contains(Roles::NEAR.with(Roles::FAR).with(Roles::BYPASS))
    }

    /// Whether the other is reached at its address at a TURN server.
    pub(super) fn is_turned(&self) -> bool {
        self.endpoint.is_some_and(|endpoint| self.turned.contains(&endpoint))
    }

    /// Wants a better way, where the other is reached at its address at a TURN server.
    pub(super) fn weigh(&mut self, now: Instant) {
        if self.is_turned() {
            self.upgrade.get_or_insert(Upgrade::new(now));
        }
    }

    pub(super) fn is_near(&self) -> bool {
        self.mine.with(self.theirs).contains(Roles::NEAR)
    }

    /// A message of `len` bytes has come.
    pub(super) fn hear(&mut self, len: usize, now: Instant) {
        let silent_for = now.since(self.heard);
        if silent_for >= SILENCE_TELLING {
            self.silent_for = Some((silent_for, now));
        }
        self.heard = now;
        self.unanswered = None;
        self.probes = 0;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_add(len).min(CREDIT_MAX.max(self.credit));
    }

    /// A message is sent upon which something should come in time.
    pub(super) fn expect(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    /// Whether `len` bytes may be sent on its account.
    pub(super) fn charge(&mut self, len: usize) -> bool {
        let left = u32::try_from(len).ok().and_then(|len| self.credit.checked_sub(len));
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    /// Keeps the time since which nobody has a use for it.
    pub(super) fn use_changed(&mut self, now: Instant) {
        if self.mine.with(self.theirs).is_empty() {
            self.unused.get_or_insert(now);
        } else {
            self.unused = None;
        }
    }

    /// How long it had been silent, where that has just ended.
    pub(super) fn was_silent_for(&self, now: Instant) -> Option<Duration> {
        self.silent_for.filter(|(_, ended)| now.since(*ended) < SILENCE_TELLING).map(|(silence, _)| silence)
    }

    /// So long nothing may be sent: what is on the way forgets after `of_nat`, if it does.
    fn silence(&self) -> Duration {
        let silence = if self.is_near() { SILENCE_NEAR } else { SILENCE };
        let silence = self.of_nat.map_or(silence, |of_nat| silence.min(of_nat));
        // Who is behind the NAT has to be the one that sends.
        if self.patience && self.of_nat.is_none() { silence + silence / 8 } else { silence }
    }

    /// When [`Edge::due`] has something to say, unless something comes before.
    pub(super) fn due_at(&self) -> Instant {
        let beat = if self.probes > 0 {
            self.probe_at
        } else {
            let silent = self.heard.after(self.silence());
            self.unanswered.map_or(silent, |since| silent.min(since.after(SILENCE_UNDER_TRAFFIC)))
        };
        self.unused.map_or(beat, |since| beat.min(since.after(UNUSED)))
    }

    pub(super) fn due(&self, now: Instant) -> Option<Due> {
        if self.due_at() > now {
            return None;
        }
        Some(match self.unused {
            Some(since) if since.after(UNUSED) <= now => Due::Unused,
            _ if self.probes >= PROBES_MAX => Due::Dead,
            _ => Due::Probe,
        })
    }

    /// The question whether the other is there.
    pub(super) fn probe(&mut self, digest: u32, is_open: bool, now: Instant) -> Beat {
        let wait = self.rtt.timeout(PROBE_APART * 2, PROBE_APART, PROBE_APART_MAX);
        self.probe_at = now.after(wait);
        self.probes = self.probes.saturating_add(1);
        self.ask(digest, is_open, now)
    }

    /// The same, with nothing concluded from silence yet.
    pub(super) fn ask(&mut self, digest: u32, is_open: bool, now: Instant) -> Beat {
        self.stamp = micros(now).max(1);
        let (roles, stamp) = (self.mine, self.stamp);
        Beat { wants_answer: true, answers: false, is_open, roles, stamp, echo: 0, digest }
    }

    /// The round trip that an answer shows, once.
    pub(super) fn answered(&mut self, beat: &Beat, now: Instant) -> Option<Duration> {
        if !beat.answers || beat.echo == 0 || beat.echo != self.stamp {
            return None;
        }
        self.stamp = 0;
        // A stamp is never 0, and so may be a microsecond ahead of the clock.
        let waited = micros(now).wrapping_sub(beat.echo).cast_signed();
        let rtt = Duration::from_micros(u64::try_from(waited).unwrap_or(0));
        self.rtt.sample(rtt);
        Some(rtt)
    }

    /// Takes in what the other says of its neighbourhood.
    pub(super) fn learn(&mut self, list: Neighbours) {
        self.digest = digest(&list.addresses);
        self.log2_size = Some(list.log2_size.min(LOG2_SIZE_MAX));
        self.coordinates = Some((list.coordinates, list.error));
        self.neighbours = list.addresses;
    }
}

/// The low bits of a clock of microseconds.
fn micros(now: Instant) -> u32 {
    (now.as_nanos() / 1000) as u32
}

/// By which two lists of neighbours are told apart (FNV-1a); never 0.
pub(super) fn digest(addresses: &[NodeAddress]) -> u32 {
    let bytes = addresses.iter().flat_map(|address| address.0);
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)).max(1)
}
