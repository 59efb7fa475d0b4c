//! STUN servers that are configured, which say where they see this node; and whether a box in front of this node
//! leads what goes to its outside address back in (hairpin), which the node asks itself in the same way.
//!
//! A server is no member: what it says counts for less than what members see (`ipop_overlay::ring`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipop_common::Counter;
use ipop_overlay::Instant;
use ipop_overlay::ring::Mapping;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{Daemon, clock, names};
use crate::api;
use crate::config::{Endpoint, STUN_MAX};
use crate::stun::{Ear, Heard, Question, Reply, SENDS, Wish};

/// A server is asked again so often.
const REFRESH: Duration = Duration::from_secs(300);
/// After a change of the host's network at once, but no more often than this.
const APART: Duration = Duration::from_secs(10);
/// Datagrams by which is asked whether there is a hairpin.
const HAIRPIN_SENDS: u8 = 3;

/// The name of a server, and what it stands for.
pub(super) type Name = (Endpoint, Vec<SocketAddr>);

/// All servers, and the hairpin.
pub(super) struct Stun {
    servers: Vec<Server>,
    hairpin: Hairpin,
    /// This node's own addresses when the servers were asked.
    places: Vec<SocketAddr>,
    ear: Ear,
    pub(super) names: (mpsc::Sender<Name>, mpsc::Receiver<Name>),
}

struct Server {
    config: Endpoint,
    question: Option<Question>,
    /// Where it is, and where it sees this node.
    seen: Option<(SocketAddr, SocketAddr)>,
    /// Why it says nothing.
    problem: Option<&'static str>,
    asked_at: Option<Instant>,
    /// The host's network has changed since: it is asked again when it has answered.
    is_stale: bool,
    next_at: Instant,
}

/// Whether what goes to this node's outside address comes back to it.
#[derive(Default)]
struct Hairpin {
    question: Option<Question>,
    /// The outside address, and whether it leads back.
    found: Option<(SocketAddr, bool)>,
    asked_at: Option<Instant>,
}

impl Stun {
    pub(super) fn new(ear: Ear) -> Self {
        Self {
            servers: Vec::new(),
            hairpin: Hairpin::default(),
            places: Vec::new(),
            ear,
            names: mpsc::channel(STUN_MAX),
        }
    }

    /// Goes by what is configured now.
    fn follow(&mut self, config: &[Endpoint], now: Instant) {
        let mut before = std::mem::take(&mut self.servers);
        for config in config.iter().take(STUN_MAX) {
            let same = before.iter().position(|server| server.config == *config);
            self.servers.push(same.map_or_else(|| Server::new(config, now), |at| before.swap_remove(at)));
        }
    }

    fn questions(&self) -> impl Iterator<Item = &Question> {
        self.servers.iter().filter_map(|server| server.question.as_ref()).chain(&self.hairpin.question)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let idle =
            self.servers.iter().filter(|server| server.question.is_none()).map(|server| server.next_at);
        self.questions().map(Question::next_at).chain(idle).min()
    }

    /// What the servers see.
    fn seen(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.servers.iter().filter_map(|server| server.seen).collect()
    }

    pub(super) fn status(&self) -> Vec<api::StunServer> {
        let one = |server: &Server| api::StunServer {
            server: server.config.to_string(),
            seen: server.seen.map(|(_, seen)| seen),
            reason: match (server.seen, server.problem) {
                (Some(_), _) => None,
                (None, Some(problem)) => Some(problem.to_owned()),
                (None, None) => Some("it is being asked".to_owned()),
            },
        };
        self.servers.iter().map(one).collect()
    }

    /// Whether an outside address of this node leads back to it, where that is known.
    pub(super) fn hairpin(&self) -> Option<bool> {
        self.hairpin.found.map(|(_, leads_back)| leads_back)
    }
}

impl Server {
    fn new(config: &Endpoint, now: Instant) -> Self {
        Self {
            config: config.clone(),
            question: None,
            seen: None,
            problem: None,
            asked_at: None,
            is_stale: false,
            next_at: now,
        }
    }

    /// A round is over.
    fn ended(&mut self, came: Result<(SocketAddr, SocketAddr), &'static str>, now: Instant) {
        self.question = None;
        self.next_at = now.after(if std::mem::take(&mut self.is_stale) { APART } else { REFRESH });
        (self.seen, self.problem) = match came {
            Ok(seen) => (Some(seen), None),
            Err(problem) => (None, Some(problem)),
        };
    }
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // The kernel does not run out of them.
    getrandom::fill(&mut bytes).unwrap_or_else(|error| panic!("no random numbers: {error}"));
    u128::from_ne_bytes(bytes)
}

impl Daemon {
    /// The configuration or the host's network may have changed: with other addresses of this node's own, all are
    /// asked anew.
    pub(super) fn follow_servers(&mut self, places: &[SocketAddr]) {
        let now = clock::now();
        let is_member = self.overlay.is_some();
        let wanted = if is_member { &self.config.underlay.stun[..] } else { &[] };
        self.stun.follow(wanted, now);
        if self.stun.places != places {
            self.stun.places = places.to_vec();
            self.stun.hairpin.found = None;
            for server in &mut self.stun.servers {
                server.is_stale = server.question.is_some();
                let soonest = server.asked_at.map_or(now, |at| at.after(APART));
                server.next_at = server.next_at.min(soonest);
            }
        }
        self.servers_answered();
    }

    /// Does what is due.
    pub(super) fn ask_servers(&mut self, now: Instant) {
        self.ask_for_hairpin(now);
        if self.stun.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        let (mut sends, mut is_changed) = (Vec::new(), false);
        for server in &mut self.stun.servers {
            match server.question.as_mut().map(|question| question.poll(now)) {
                Some(Wish::Send(to, bytes)) => sends.push((to, bytes)),
                Some(Wish::Wait) => {}
                Some(Wish::GiveUp) => {
                    debug!(server = %server.config, "no answer by STUN");
                    server.ended(Err("no answer"), now);
                    is_changed = true;
                }
                None if server.next_at <= now => {
                    // It is asked when its address is known.
                    (server.asked_at, server.next_at) = (Some(now), now.after(REFRESH));
                    look_up(server.config.clone(), self.stun.names.0.clone());
                }
                None => {}
            }
        }
        match self.stun.hairpin.question.as_mut().map(|question| question.poll(now)) {
            Some(Wish::Send(to, bytes)) => sends.push((to, bytes)),
            Some(Wish::GiveUp) => self.hairpin_found(false),
            Some(Wish::Wait) | None => {}
        }
        self.expect_answers();
        sends.into_iter().for_each(|(to, bytes)| self.transmit(to, &bytes));
        if is_changed {
            self.servers_answered();
        }
    }

    /// What a server's name stands for: nothing, if it is not known.
    pub(super) fn server_found(&mut self, (config, places): Name) {
        let now = clock::now();
        let place = [true, false].into_iter().find_map(|is_v4| {
            let has_socket = self.socket(is_v4).is_some();
            places.iter().find(|place| place.is_ipv4() == is_v4 && has_socket).copied()
        });
        let Some(server) = self.stun.servers.iter_mut().find(|server| server.config == config) else {
            return;
        };
        match place {
            Some(place) => server.question = Some(Question::new(place, random(), SENDS, now)),
            None => server.ended(Err("its name stands for no address that this host can send to"), now),
        }
        self.ask_servers(now);
    }

    /// A datagram that looks like one of STUN has come from an address that was asked something.
    pub(super) fn hear_stun(&mut self, heard: &Heard) {
        let now = clock::now();
        let Heard { from, bytes } = heard;
        if let Some(Ok(Reply::Echo)) =
            self.stun.hairpin.question.and_then(|question| question.hear(*from, bytes))
        {
            return self.hairpin_found(true);
        }
        for server in &mut self.stun.servers {
            match server.question.and_then(|question| question.hear(*from, bytes)) {
                None | Some(Ok(Reply::Echo)) => {}
                Some(Ok(Reply::Seen(seen))) => {
                    if server.seen != Some((*from, seen)) {
                        info!(server = %server.config, %seen, "a STUN server sees this node");
                    }
                    server.ended(Ok((*from, seen)), now);
                    return self.servers_answered();
                }
                Some(Ok(Reply::Declined)) => {
                    server.ended(Err("it says that it does not answer"), now);
                    return self.servers_answered();
                }
                // The question stands: who could forge this could also forge an answer.
                Some(Err(counter)) => return self.counters.add(counter, 1),
            }
        }
        self.counters.add(Counter::RxBadStun, 1);
    }

    fn servers_answered(&mut self) {
        self.expect_answers();
        self.node.set_servers(&self.stun.seen());
    }

    /// The data threads hand on what comes from those who were asked.
    fn expect_answers(&self) {
        let mut asked: Vec<IpAddr> = self.stun.questions().map(|question| question.to().ip()).collect();
        asked.sort_unstable();
        asked.dedup();
        self.stun.ear.expect(asked);
    }

    /// Where others see this node by IPv4, outside of a box that gives it one port for all.
    fn outside(&self) -> Option<SocketAddr> {
        let ring = self.node.ring()?;
        // To ask any other box would have it give out one more port.
        let is_same_for_all = ring.mapping(true) == Mapping::EndpointIndependent;
        let observations = ring.observations();
        let seen = observations.iter().map(|of| of.seen);
        seen.filter(|seen| seen.is_ipv4() && !self.stun.places.contains(seen))
            .last()
            .filter(|_| is_same_for_all)
    }

    /// Asks whether this node's outside address leads back to it, once for each address that it has.
    fn ask_for_hairpin(&mut self, now: Instant) {
        let hairpin = &self.stun.hairpin;
        let is_soon = hairpin.asked_at.is_some_and(|at| now.since(at) < APART);
        if hairpin.question.is_some() || is_soon {
            return;
        }
        let found = hairpin.found.map(|(place, _)| place);
        match self.outside() {
            Some(outside) if found != Some(outside) => {
                let question = Question::new(outside, random(), HAIRPIN_SENDS, now);
                self.stun.hairpin = Hairpin { question: Some(question), found: None, asked_at: Some(now) };
            }
            Some(_) => {}
            None => self.stun.hairpin.found = None,
        }
    }

    fn hairpin_found(&mut self, leads_back: bool) {
        let Some(question) = self.stun.hairpin.question.take() else { return };
        self.stun.hairpin.found = Some((question.to(), leads_back));
        self.expect_answers();
    }
}

fn look_up(server: Endpoint, done: mpsc::Sender<Name>) {
    tokio::spawn(async move {
        let places = names::look_up(&server).await.unwrap_or_else(|error| {
            debug!(%server, %error, "STUN server not found");
            Vec::new()
        });
        // The daemon may have ended meanwhile.
        let _ = done.send((server, places)).await;
    });
}
