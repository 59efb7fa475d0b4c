//! One peer: what its hellos have told, and the path that follows from it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use ipop_common::gpe::LinkId;
use ipop_common::hello::Hello;
use ipop_common::limits::OVERLAY_MTU;
use ipop_common::{encapsulation, relay, sealed};

use crate::address::NodeAddress;
use crate::endpoint::{Directness, Endpoint};
use crate::node::NO_STATEMENT;
use crate::time::Instant;

/// How often a hello is sent to each peer.
pub(crate) const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// How often one is sent to a peer that answers none: another implementation of WireGuard.
pub(crate) const UNANSWERED_INTERVAL: Duration = Duration::from_secs(30);
/// How often to one to which there is no traffic, where the ring sees to it that it is alive.
pub(crate) const IDLE_INTERVAL: Duration = Duration::from_secs(240);
/// Hellos without an answer after which a peer counts as one that answers none.
const UNANSWERED_MAX: u32 = 5;
/// Hellos taken from one peer per second, and the burst; more is a flood.
const HELLOS_PER_SECOND: u32 = 50;
/// Pings that may wait for their answer.
const PINGS_MAX: usize = 64;

/// What sealing takes of a packet more than a clear header does; the same over IPv4 and IPv6.
const SEALED_EXTRA: u16 =
    sealed::overhead(ipop_common::Family::V4) - encapsulation::overhead(ipop_common::Family::V4);
const _: () = assert!(
    SEALED_EXTRA
        == sealed::overhead(ipop_common::Family::V6) - encapsulation::overhead(ipop_common::Family::V6)
);

/// What a relay frame takes more, in both directions' wires.
const RELAY_EXTRA: u16 = relay::HEADER_LEN as u16;
/// What a Send indication adds (RFC 8656, 11.1): a header, the peer's address over IPv6, and the head of the data. It is
/// a multiple of the sessions' padding, as the links' MTUs are.
const TURN_EXTRA: u16 = 20 + 24 + 4;

/// How packets reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    None(NoPath),
    /// Through both daemons, UDP to `endpoint`.
    User {
        endpoint: SocketAddr,
        mtu: u16,
        security: Security,
        reason: UserReason,
    },
    /// By the kernel's programs, UDP to `endpoint`.
    Kernel {
        endpoint: SocketAddr,
        mtu: u16,
        security: Security,
    },
    /// Sealed, and passed on between both ends by the node `by`, for which it has this label.
    Relay {
        by: NodeAddress,
        label: u32,
        mtu: u16,
    },
    /// Through both daemons, sealed, and carried between them by other nodes.
    Overlay {
        to: NodeAddress,
        mtu: u16,
    },
}

impl Path {
    /// The largest inner packet in bytes.
    pub fn mtu(self) -> Option<u16> {
        match self {
            Path::None(_) => None,
            Path::User { mtu, .. }
            | Path::Kernel { mtu, .. }
            | Path::Relay { mtu, .. }
            | Path::Overlay { mtu, .. } => Some(mtu),
        }
    }

    pub fn security(self) -> Option<Security> {
        match self {
            Path::None(_) => None,
            Path::User { security, .. } | Path::Kernel { security, .. } => Some(security),
            Path::Relay { .. } | Path::Overlay { .. } => Some(Security::Sealed),
        }
    }
}

/// What protects packets to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// The session with it.
    Sealed,
    /// Nothing but the wire: both ends trust it. They carry this link id.
    Clear(LinkId),
}

/// Why there is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPath {
    /// No endpoint is configured and the peer has not called.
    NoEndpoint,
    /// This host has no route to the peer.
    NoRoute,
    /// There is no session with the peer.
    NoAnswer,
    /// There is a session, but the peer has gone or fallen silent.
    Silent,
    /// There is a session, and not both ends have accepted each other's certificate.
    NotAdmitted,
}

/// Why packets take the user path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserReason {
    /// The kernel path is off or unavailable on this node.
    OffHere,
    /// The peer's kernel path is off or unavailable, and it takes no packets of ours.
    OffThere,
    /// They go by TCP, which is the daemon's.
    Tcp,
    /// They go by a TURN server, as the daemon's connection to it does.
    Turn,
}

/// This host's side of the way to a peer, as routing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Underlay {
    pub(crate) local: IpAddr,
    /// Largest inner packet that this host's end of the wire takes in a clear packet.
    pub(crate) mtu: u16,
}

/// A peer as an operator sees it.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    /// What clear packets from the peer carry.
    pub link_id: LinkId,
    pub path: Path,
    pub endpoint: Option<Endpoint>,
    /// Smoothed round-trip time of hellos.
    pub rtt: Option<Duration>,
    /// When the peer was last heard of in its session.
    pub last_heard: Option<Instant>,
    /// Clear packets from the peer are taken: this end trusts the wire.
    pub takes_clear: bool,
    /// What the peer says of itself; `None` before its first hello in this session.
    pub said: Option<Said>,
}

/// What a peer's newest hello says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// UDP port of its kernel path; 0: it has none.
    pub kernel_port: u16,
    /// It takes clear packets with this link id.
    pub clear: Option<LinkId>,
    pub(crate) mtu: u16,
    pub(crate) at: Instant,
    /// How long it is there without another word.
    pub(crate) lease: Duration,
}

/// What became of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Too many in too short a time.
    Flood,
    /// Not newer than one already seen.
    Stale,
    /// With the round trip that its echo shows, and the time of the hello echoed.
    New { echo: Option<(Duration, u64)> },
}

pub(crate) struct Peer {
    pub(crate) public_key: [u8; 32],
    pub(crate) link_id: LinkId,
    endpoint: Option<Endpoint>,
    pub(crate) underlay: Option<Underlay>,
    /// What the wires of the relay take by which it is reached.
    pub(crate) relay_mtu: Option<u16>,
    /// The session that is sent on.
    session: Option<u32>,
    /// When a packet came that showed the peer to be there, hellos aside.
    alive_at: Option<Instant>,
    last: Option<Received>,
    said: Option<Said>,
    rtt: Option<Duration>,
    sent_ns: u64,
    /// Hellos sent since one came.
    unanswered: u32,
    pub(crate) next_hello: Instant,
    /// The ring has found it, or it has called; it is not configured.
    pub(crate) is_found: bool,
    /// The number of its last statement of addresses that came.
    pub(crate) heard_statement: u32,
    /// Those that it has said.
    pub(crate) addresses: Vec<IpAddr>,
    /// When the ring was asked last who has them.
    pub(crate) checked: Option<Instant>,
    /// It has said that it knows this node's addresses.
    pub(crate) knows_addresses: bool,
    /// It is on the ring, and there is no traffic to it.
    pub(crate) is_idle: bool,
    /// Packets go to it and nothing comes back by the same way, or a hello waits for its answer.
    pub(crate) doubt: Option<Doubt>,
    pings: VecDeque<(u64, u64)>,
    tokens: u32,
    tokens_at: Instant,
    pub(crate) path: Path,
}

/// Whether a way still leads to the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doubt {
    since: Instant,
    /// When something is done about it next.
    pub(crate) next_at: Instant,
    /// From when on it is asked by others too.
    around_at: Instant,
    /// There is no more to it than that a hello waits for its answer.
    is_of_hello: bool,
    /// Of the echo that goes round, by which it is known that the peer is there.
    pub(crate) token: Option<u64>,
    /// It has been said that nobody hears of the peer.
    is_unheard: bool,
}

impl Doubt {
    /// So long nothing may come.
    const AFTER: Duration = Duration::from_millis(400);
    /// How often it is asked, then.
    const APART: Duration = Duration::from_millis(200);
    /// After so long under traffic it is asked by others too.
    const AROUND: Duration = Duration::from_millis(800);
    /// So long others have to say that it is there.
    const UNHEARD: Duration = Duration::from_millis(350);
    /// After so long the peer may be dead, which is for others to find out.
    const OVER: Duration = Duration::from_secs(5);

    /// Something has gone that is answered sooner or later, as packets are.
    fn of_traffic(now: Instant) -> Self {
        Self {
            since: now,
            next_at: now.after(Self::AFTER),
            around_at: now.after(Self::AROUND),
            is_of_hello: false,
            token: None,
            is_unheard: false,
        }
    }

    /// A hello has gone, which is answered at once.
    fn of_hello(rtt: Duration, now: Instant) -> Self {
        let at = now.after(Self::AFTER.max(rtt * 2));
        Self { since: now, next_at: at, around_at: at, is_of_hello: true, token: None, is_unheard: false }
    }

    /// Whether others had the time to say that the peer is there, and have not; once.
    pub(crate) fn becomes_unheard(&mut self, now: Instant) -> bool {
        let is_over = now >= self.around_at.after(Self::UNHEARD);
        is_over && !core::mem::replace(&mut self.is_unheard, is_over)
    }

    /// Puts the next step off; whether the peer is to be asked by others too, `None` where it is over.
    pub(crate) fn step(&mut self, now: Instant) -> Option<bool> {
        self.next_at = now.after(Self::APART);
        let age = now.since(self.since);
        (age < Self::OVER).then_some(now >= self.around_at)
    }
}

/// The newest hello.
#[derive(Clone, Copy)]
struct Received {
    boot: u64,
    sent_ns: u64,
    at: Instant,
}

/// What of the node a path depends on.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    /// This node's kernel path sends.
    pub(crate) kernel: bool,
    /// No path has more than this, whatever the wire takes.
    pub(crate) mtu_max: u16,
    pub(crate) now: Instant,
}

impl Peer {
    pub(crate) fn new(
        public_key: [u8; 32],
        link_id: LinkId,
        endpoint: Option<Endpoint>,
        now: Instant,
    ) -> Self {
        Self {
            public_key,
            link_id,
            endpoint,
            underlay: None,
            relay_mtu: None,
            session: None,
            alive_at: None,
            last: None,
            said: None,
            rtt: None,
            sent_ns: 0,
            unanswered: 0,
            next_hello: now,
            is_found: false,
            heard_statement: NO_STATEMENT,
            addresses: Vec::new(),
            checked: None,
            knows_addresses: false,
            is_idle: false,
            doubt: None,
            pings: VecDeque::new(),
            tokens: HELLOS_PER_SECOND,
            tokens_at: now,
            path: Path::None(NoPath::NoAnswer),
        }
    }

    /// Takes in where the peer is. No address of this host leads to one that others carry to.
    pub(crate) fn set_endpoint(&mut self, endpoint: Option<Endpoint>) {
        self.endpoint = endpoint;
        if endpoint.is_some_and(|endpoint| endpoint.overlay().is_some()) {
            self.underlay = None;
        }
    }

    /// Takes in which session is sent on; whether it is another than before. A new one shows that the peer
    /// is there, and may be with another run of it: what the last one said counts no more once it has gone.
    /// Another run says hello by itself, and wants an answer.
    pub(crate) fn set_session(&mut self, session: Option<u32>, now: Instant) -> bool {
        if session == self.session {
            return false;
        }
        if session.is_some() {
            if self.is_silent(now) {
                self.said = None;
            }
            self.last = None;
            self.alive_at = Some(now);
            self.unanswered = 0;
            if self.session.is_none() || self.said.is_none() {
                self.next_hello = now;
            }
        }
        self.session = session;
        true
    }

    /// Whether it has said something of itself, as only nodes of ours do.
    pub(crate) fn has_spoken(&self) -> bool {
        self.said.is_some()
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    pub(crate) fn is_alive(&mut self, at: Instant) {
        self.alive_at = self.alive_at.max(Some(at));
    }

    /// Something has gone to the peer, or come from it by the way that this goes, since the last time.
    pub(crate) fn see(&mut self, has_gone: bool, has_come: bool, now: Instant) {
        if has_come {
            self.doubt = None;
        } else if has_gone && self.session.is_some() {
            self.doubt.get_or_insert_with(|| Doubt::of_traffic(now)).is_of_hello = false;
        }
    }

    /// A hello goes to it that wants an answer, and so shows whether the way is good where packets do not.
    pub(crate) fn expect_hello(&mut self, now: Instant) {
        // How long an answer takes, the first one shows.
        if let Some(rtt) = self.rtt {
            self.doubt.get_or_insert_with(|| Doubt::of_hello(rtt, now));
        }
    }

    /// When silence will have lasted as long as the peer's lease.
    pub(crate) fn silent_at(&self) -> Option<Instant> {
        let said = self.said?;
        Some(said.at.max(self.alive_at.unwrap_or_default()).after(said.lease))
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silent_at().is_some_and(|at| at <= now)
    }

    /// How long after one hello the next follows.
    pub(crate) fn interval(&self) -> Duration {
        let speaks = self.said.is_some() || self.unanswered < UNANSWERED_MAX;
        match (speaks, self.is_idle) {
            (true, false) => HELLO_INTERVAL,
            (true, true) => IDLE_INTERVAL,
            (false, _) => UNANSWERED_INTERVAL,
        }
    }

    /// Fills in what a hello to this peer says about time and about the peer's own last hello.
    pub(crate) fn stamp(&mut self, hello: &mut Hello, now: Instant) {
        self.sent_ns = now.as_nanos().max(self.sent_ns.saturating_add(1));
        self.unanswered = self.unanswered.saturating_add(1);
        hello.sent_ns = self.sent_ns;
        if let Some(last) = self.last {
            hello.echo_boot = last.boot;
            hello.echo_sent_ns = last.sent_ns;
            hello.echo_delay_ns = u64::try_from(now.since(last.at).as_nanos()).unwrap_or(u64::MAX);
        }
        hello.mtu = self.own_mtu().unwrap_or(0);
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

    /// Takes in a hello that came in a session with the peer.
    pub(crate) fn hear(&mut self, hello: &Hello, boot: u64, now: Instant) -> Heard {
        if !self.take_token(now) {
            return Heard::Flood;
        }
        if self.last.is_some_and(|last| (hello.boot, hello.sent_ns) <= (last.boot, last.sent_ns)) {
            return Heard::Stale;
        }
        self.last = Some(Received { boot: hello.boot, sent_ns: hello.sent_ns, at: now });
        self.doubt.take_if(|doubt| doubt.is_of_hello);
        self.unanswered = 0;
        self.said = Some(Said {
            kernel_port: hello.kernel_port,
            clear: hello.clear,
            mtu: hello.mtu,
            at: now,
            lease: Duration::from_secs(u64::from(hello.lease_s)),
        });
        let rtt = self.echo(hello, boot, now);
        if let Some(rtt) = rtt {
            self.rtt = Some(match self.rtt {
                // RFC 6298, 2.3.
                Some(smoothed) => (smoothed * 7 + rtt) / 8,
                None => rtt,
            });
        }
        Heard::New { echo: rtt.map(|rtt| (rtt, hello.echo_sent_ns)) }
    }

    /// The round trip that a hello shows, if it echoes one of this run.
    fn echo(&self, hello: &Hello, boot: u64, now: Instant) -> Option<Duration> {
        let sent = Instant::from_nanos(hello.echo_sent_ns);
        let is_ours = hello.echo_boot == boot && sent <= now;
        is_ours.then(|| now.since(sent).saturating_sub(Duration::from_nanos(hello.echo_delay_ns)))
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

    /// The largest packet in the clear that this end's wire takes, and the relay's where one is on the way: the peer
    /// hears of that from this end alone.
    fn own_mtu(&self) -> Option<u16> {
        let ours = self.underlay.map(|underlay| underlay.mtu);
        ours.map(|ours| self.relay_mtu.map_or(ours, |relay| ours.min(relay)))
    }

    /// Whether this end trusts the wire to the peer, and so takes clear packets from it.
    pub(crate) fn takes_clear(&self, trusted: impl Fn(IpAddr) -> bool) -> bool {
        let ends = self.endpoint.and_then(Endpoint::udp).zip(self.underlay);
        ends.is_some_and(|(endpoint, underlay)| trusted(endpoint.ip()) && trusted(underlay.local))
    }

    /// The path that follows from all that is known.
    pub(crate) fn decide(&self, takes_clear: bool, here: Here) -> Path {
        let Some(way) = self.endpoint else { return Path::None(NoPath::NoEndpoint) };
        if way.directness() != Directness::Overlay && self.underlay.is_none() {
            return Path::None(NoPath::NoRoute);
        }
        if self.session.is_none() {
            return Path::None(NoPath::NoAnswer);
        }
        if self.is_silent(here.now) {
            return Path::None(NoPath::Silent);
        }
        // What this host's end of the wire takes, and what the other's does.
        let ours = self.own_mtu();
        let theirs = self.said.map(|said| said.mtu).filter(|mtu| *mtu != 0);
        let clear_mtu = ours.into_iter().chain(theirs).min().unwrap_or(u16::MAX);
        let endpoint = match way {
            Endpoint::Udp(endpoint) => endpoint,
            Endpoint::Tcp(endpoint) => {
                let mtu = clear_mtu.saturating_sub(SEALED_EXTRA).min(here.mtu_max);
                let (security, reason) = (Security::Sealed, UserReason::Tcp);
                return Path::User { endpoint, mtu, security, reason };
            }
            Endpoint::Turn(endpoint) => {
                let mtu = clear_mtu.saturating_sub(SEALED_EXTRA + TURN_EXTRA).min(here.mtu_max);
                let (security, reason) = (Security::Sealed, UserReason::Turn);
                return Path::User { endpoint, mtu, security, reason };
            }
            Endpoint::Relay { by, label } => {
                let mtu = clear_mtu.saturating_sub(SEALED_EXTRA + RELAY_EXTRA).min(here.mtu_max);
                return Path::Relay { by, label, mtu };
            }
            Endpoint::Overlay(to) => return Path::Overlay { to, mtu: OVERLAY_MTU.min(here.mtu_max) },
        };
        let clear = self.said.and_then(|said| said.clear).filter(|_| takes_clear);
        let kernel_port = self.said.map_or(0, |said| said.kernel_port);
        let Some(link_id) = clear else {
            let mtu = clear_mtu.saturating_sub(SEALED_EXTRA).min(here.mtu_max);
            let security = Security::Sealed;
            // The programs send without a UDP checksum, which over IPv6 only a node of ours takes.
            return match here.kernel {
                false => Path::User { endpoint, mtu, security, reason: UserReason::OffHere },
                true if endpoint.is_ipv6() && kernel_port == 0 => {
                    Path::User { endpoint, mtu, security, reason: UserReason::OffThere }
                }
                true => Path::Kernel { endpoint, mtu, security },
            };
        };
        let (mtu, security) = (clear_mtu.min(here.mtu_max), Security::Clear(link_id));
        match (here.kernel, kernel_port) {
            (false, _) => Path::User { endpoint, mtu, security, reason: UserReason::OffHere },
            (true, 0) => Path::User { endpoint, mtu, security, reason: UserReason::OffThere },
            (true, port) => Path::Kernel { endpoint: SocketAddr::new(endpoint.ip(), port), mtu, security },
        }
    }

    pub(crate) fn view(&self, takes_clear: bool) -> PeerView {
        PeerView {
            link_id: self.link_id,
            path: self.path,
            endpoint: self.endpoint,
            rtt: self.rtt,
            last_heard: self.alive_at.max(self.said.map(|said| said.at)),
            takes_clear,
            said: self.said,
        }
    }
}
