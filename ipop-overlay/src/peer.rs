//! One peer: what its hellos have told, and the path that follows from it.

use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use ipop_common::gpe::LinkId;
use ipop_common::hello::Hello;

use crate::keys::LinkKeys;
use crate::time::Instant;

/// How often a hello is sent to each peer.
pub(crate) const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// An echo proves that its sender is there now if what it echoes is not older than this.
const ECHO_AGE_MAX: Duration = Duration::from_secs(10);
/// Hellos taken from one peer per second, and the burst; more is a flood.
const HELLOS_PER_SECOND: u32 = 50;
/// Pings that may wait for their answer.
const PINGS_MAX: usize = 64;
/// After this silence at a learned address, the configured one is tried as well.
const LEARNED_ENDPOINT_PATIENCE: Duration = Duration::from_secs(3);

/// How packets reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    None(NoPath),
    /// Through both daemons, UDP to `endpoint`.
    User {
        endpoint: SocketAddr,
        mtu: u16,
        reason: UserReason,
    },
    /// By the kernel's programs, UDP to `endpoint`.
    Kernel {
        endpoint: SocketAddr,
        mtu: u16,
    },
}

/// Why there is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPath {
    /// No endpoint is configured and no hello has come.
    NoEndpoint,
    /// The peer's address is in no trusted prefix.
    PeerNotTrusted(IpAddr),
    /// This host has no route to the peer.
    NoRoute,
    /// This host's address towards the peer is in no trusted prefix.
    SelfNotTrusted(IpAddr),
    /// The peer has not answered yet.
    NoAnswer,
    /// The peer has answered, and fell silent.
    Silent,
}

/// Why packets take the user path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserReason {
    /// The kernel path is off or unavailable on this node.
    OffHere,
    /// The peer's kernel path is off or unavailable.
    OffThere,
}

/// This host's side of the way to a peer, as routing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Underlay {
    pub(crate) local: IpAddr,
    /// Largest inner packet that this host's end of the wire takes.
    pub(crate) mtu: u16,
}

/// A peer as an operator sees it.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    pub link_id: LinkId,
    pub path: Path,
    pub endpoint: Option<SocketAddr>,
    /// Smoothed round-trip time of hellos.
    pub rtt: Option<Duration>,
    /// When the last hello came that proved the peer to be there.
    pub last_heard: Option<Instant>,
}

/// What a hello changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Too many in too short a time.
    Flood,
    /// Not newer than one already seen.
    Stale,
    /// Authentic, but its sender has not shown that it is there now.
    Unconfirmed,
    Confirmed {
        rtt: Duration,
        echo_sent_ns: u64,
    },
}

pub(crate) struct Peer {
    pub(crate) keys: LinkKeys,
    configured: Option<SocketAddr>,
    learned: Option<SocketAddr>,
    pub(crate) underlay: Option<Underlay>,
    last: Option<Received>,
    confirmed: Option<Confirmed>,
    rtt: Option<Duration>,
    sent_ns: u64,
    pub(crate) next_hello: Instant,
    pings: VecDeque<(u64, u64)>,
    tokens: u32,
    tokens_at: Instant,
    pub(crate) path: Path,
}

/// The newest authentic hello.
#[derive(Clone, Copy)]
struct Received {
    boot: u64,
    sent_ns: u64,
    at: Instant,
}

/// The newest hello that proved its sender to be there.
#[derive(Clone, Copy)]
struct Confirmed {
    at: Instant,
    until: Instant,
    kernel_port: u16,
    mtu: u16,
}

impl Peer {
    pub(crate) fn new(keys: LinkKeys, configured: Option<SocketAddr>, now: Instant) -> Self {
        Self {
            keys,
            configured,
            learned: None,
            underlay: None,
            last: None,
            confirmed: None,
            rtt: None,
            sent_ns: 0,
            next_hello: now,
            pings: VecDeque::new(),
            tokens: HELLOS_PER_SECOND,
            tokens_at: now,
            path: Path::None(NoPath::NoAnswer),
        }
    }

    /// Where hellos go.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.learned.or(self.configured)
    }

    /// A second place to try: the configured one, where the learned one is silent.
    pub(crate) fn fallback(&self, now: Instant) -> Option<SocketAddr> {
        let heard = self.confirmed.map_or(Instant::default(), |c| c.at);
        self.configured.filter(|configured| {
            Some(*configured) != self.endpoint() && now.since(heard) > LEARNED_ENDPOINT_PATIENCE
        })
    }

    /// Moves the configured endpoint (a DNS name resolved anew).
    pub(crate) fn set_configured(&mut self, endpoint: Option<SocketAddr>) {
        self.configured = endpoint;
    }

    /// When silence will have lasted as long as the peer's lease.
    pub(crate) fn silent_at(&self) -> Option<Instant> {
        self.confirmed.map(|c| c.until)
    }

    /// Fills in what a hello to this peer says about time and about the peer's own last hello.
    pub(crate) fn stamp(&mut self, hello: &mut Hello, now: Instant) {
        self.sent_ns = now.as_nanos().max(self.sent_ns.saturating_add(1));
        hello.link_id = self.keys.link_id();
        hello.sent_ns = self.sent_ns;
        if let Some(last) = self.last {
            hello.echo_boot = last.boot;
            hello.echo_sent_ns = last.sent_ns;
            hello.echo_delay_ns = u64::try_from(now.since(last.at).as_nanos()).unwrap_or(u64::MAX);
        }
        hello.mtu = self.underlay.map_or(0, |u| u.mtu);
    }

    /// Remembers that the hello just stamped is ping `id`; the oldest gives way.
    pub(crate) fn expect_pong(&mut self, id: u64) {
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((self.sent_ns, id));
    }

    /// The ping that an echo answers.
    pub(crate) fn pong(&mut self, echo_sent_ns: u64) -> Option<u64> {
        let at = self.pings.iter().position(|(sent, _)| *sent == echo_sent_ns)?;
        self.pings.remove(at).map(|(_, id)| id)
    }

    /// Takes in an authentic hello.
    pub(crate) fn hear(&mut self, hello: &Hello, from: SocketAddr, boot: u64, now: Instant) -> Heard {
        if !self.take_token(now) {
            return Heard::Flood;
        }
        let echo = self.echo(hello, boot, now);
        if self.is_old(hello, echo.is_some()) {
            return Heard::Stale;
        }
        self.last = Some(Received { boot: hello.boot, sent_ns: hello.sent_ns, at: now });
        let Some(rtt) = echo else { return Heard::Unconfirmed };
        self.learned = Some(from);
        let lease = Duration::from_secs(u64::from(hello.lease_s));
        self.confirmed = Some(Confirmed {
            at: now,
            until: now.after(lease),
            kernel_port: hello.kernel_port,
            mtu: hello.mtu,
        });
        self.rtt = Some(match self.rtt {
            // RFC 6298, 2.3.
            Some(smoothed) => (smoothed * 7 + rtt) / 8,
            None => rtt,
        });
        Heard::Confirmed { rtt, echo_sent_ns: hello.echo_sent_ns }
    }

    /// The round trip that a hello proves, if what it echoes is a recent hello of this run.
    fn echo(&self, hello: &Hello, boot: u64, now: Instant) -> Option<Duration> {
        let sent = Instant::from_nanos(hello.echo_sent_ns);
        let recent = hello.echo_boot == boot && sent <= now && now.since(sent) <= ECHO_AGE_MAX;
        let elapsed = now.since(sent);
        recent.then(|| elapsed.saturating_sub(Duration::from_nanos(hello.echo_delay_ns)))
    }

    /// Within one run of the peer, hellos grow. An earlier run is over, unless its hello proves to
    /// be of now: then the peer's clock was set back.
    fn is_old(&self, hello: &Hello, confirmed: bool) -> bool {
        let Some(last) = self.last else { return false };
        if hello.boot == last.boot {
            hello.sent_ns <= last.sent_ns
        } else {
            hello.boot < last.boot && !confirmed
        }
    }

    /// Takes one from the bucket that bounds the hellos of a peer.
    fn take_token(&mut self, now: Instant) -> bool {
        let elapsed_ms = now.since(self.tokens_at).as_millis();
        let earned = u32::try_from(elapsed_ms * u128::from(HELLOS_PER_SECOND) / 1000).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(HELLOS_PER_SECOND);
            self.tokens_at = now;
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }

    /// The path that follows from all that is known.
    pub(crate) fn decide(&self, trusted: impl Fn(IpAddr) -> bool, kernel_here: bool, now: Instant) -> Path {
        let Some(endpoint) = self.endpoint() else { return Path::None(NoPath::NoEndpoint) };
        if !trusted(endpoint.ip()) {
            return Path::None(NoPath::PeerNotTrusted(endpoint.ip()));
        }
        let Some(underlay) = self.underlay else { return Path::None(NoPath::NoRoute) };
        if !trusted(underlay.local) {
            return Path::None(NoPath::SelfNotTrusted(underlay.local));
        }
        let Some(confirmed) = self.confirmed else { return Path::None(NoPath::NoAnswer) };
        if confirmed.until <= now {
            return Path::None(NoPath::Silent);
        }
        let mtu = if confirmed.mtu == 0 { underlay.mtu } else { underlay.mtu.min(confirmed.mtu) };
        match (kernel_here, confirmed.kernel_port) {
            (false, _) => Path::User { endpoint, mtu, reason: UserReason::OffHere },
            (true, 0) => Path::User { endpoint, mtu, reason: UserReason::OffThere },
            (true, port) => Path::Kernel { endpoint: SocketAddr::new(endpoint.ip(), port), mtu },
        }
    }

    pub(crate) fn view(&self) -> PeerView {
        PeerView {
            link_id: self.keys.link_id(),
            path: self.path,
            endpoint: self.endpoint(),
            rtt: self.rtt,
            last_heard: self.confirmed.map(|c| c.at),
        }
    }
}
