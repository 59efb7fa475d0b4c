//! TURN servers that are configured: one of them gives this node an address, at which those reach it that do not
//! otherwise; and by it this node sends to them. Whoever is no member of the network gets no further than by UDP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipop_common::Counter;
use ipop_overlay::{Endpoint, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use turn_client_proto::types::TurnCredentials;

use super::{Daemon, clock, names};
use crate::api;
use crate::config;
use crate::turn::{self, Account, Client, Outgoing};
use crate::userpath::{Counters, Inlet};

/// Datagrams that wait for the server's connection.
const WAITING_MAX: usize = 512;
/// What the connection has to say.
const WORDS_MAX: usize = 8;
/// When no server gives an address, all are asked again after so long, then half as often each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long giving the address back may take when the daemon ends.
const CLOSING: Duration = Duration::from_millis(300);

/// All servers, and the connection to the one in use.
pub(super) struct Turn {
    inlet: Inlet,
    counters: Arc<Counters>,
    servers: Vec<Server>,
    running: Option<Running>,
    /// Which server is asked next, and when.
    next: usize,
    next_at: Instant,
    wait: Duration,
    words: (mpsc::Sender<Word>, mpsc::Receiver<Word>),
    /// Numbers connections, so that the end of one is not taken for that of the next.
    number: u64,
    /// This node's own addresses when the server was asked.
    places: Vec<SocketAddr>,
}

struct Server {
    config: config::Turn,
    /// Why it gives no address.
    problem: Option<String>,
}

struct Running {
    number: u64,
    /// Of the server.
    index: usize,
    outgoing: mpsc::Sender<Outgoing>,
    /// This node's address there, and where the server is.
    granted: Option<(SocketAddr, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a connection has to say.
pub(super) struct Word {
    number: u64,
    what: What,
}

enum What {
    /// An address, by the server that is there.
    Granted(SocketAddr, SocketAddr),
    /// It has ended, for this reason.
    Ended(String),
}

/// The connection's way into the daemon.
struct Ends {
    number: u64,
    server: SocketAddr,
    inlet: Inlet,
    counters: Arc<Counters>,
    words: mpsc::Sender<Word>,
}

impl Client for Ends {
    fn granted(&mut self, relayed: SocketAddr) {
        // There is room: a connection has two things to say.
        let what = What::Granted(relayed, self.server);
        let _ = self.words.try_send(Word { number: self.number, what });
    }

    fn received(&mut self, from: SocketAddr, datagram: &[u8]) {
        if !self.inlet.take_in(Endpoint::Turn(from), datagram) {
            self.dropped(Counter::RxCarryFull);
        }
    }

    fn dropped(&mut self, counter: Counter) {
        self.counters.add(counter, 1);
    }
}

impl Turn {
    pub(super) fn new(inlet: Inlet, counters: Arc<Counters>) -> Self {
        Self {
            inlet,
            counters,
            servers: Vec::new(),
            running: None,
            next: 0,
            next_at: clock::now(),
            wait: RETRY,
            words: mpsc::channel(WORDS_MAX),
            number: 0,
            places: Vec::new(),
        }
    }

    pub(super) async fn next_word(&mut self) -> Word {
        match self.words.1.recv().await {
            Some(word) => word,
            None => unreachable!("this end has a sender as well"),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.running.is_none() && !self.servers.is_empty()).then_some(self.next_at)
    }

    /// This node's address at a server.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.granted().map(|(relayed, _)| relayed)
    }

    /// Where that server is.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.granted().map(|(_, server)| server)
    }

    fn granted(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.running.as_ref()?.granted
    }

    /// Sends a datagram from this node's address at the server.
    pub(super) fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        let running = self.running.as_ref().filter(|running| running.granted.is_some());
        let has_taken =
            running.is_some_and(|running| running.outgoing.try_send((to, datagram.to_vec())).is_ok());
        if !has_taken {
            self.counters.add(Counter::TxTurnFull, 1);
        }
    }

    /// Goes by what is configured now, and by where this node is.
    fn follow(&mut self, wanted: &[config::Turn], places: &[SocketAddr], now: Instant) {
        let is_same = self.servers.iter().map(|server| &server.config).eq(wanted);
        if is_same && self.places == places {
            return;
        }
        self.places = places.to_vec();
        if !is_same {
            let new = |config: &config::Turn| Server { config: config.clone(), problem: None };
            self.servers = wanted.iter().map(new).collect();
        }
        self.running = None;
        (self.next, self.next_at, self.wait) = (0, now, RETRY);
    }

    /// Asks the server whose turn it is.
    fn start(&mut self) {
        let (index, Some(server)) = (self.next, self.servers.get(self.next)) else { return };
        self.number += 1;
        let (number, config) = (self.number, server.config.clone());
        let (outgoing, waiting) = mpsc::channel(WAITING_MAX);
        let (inlet, counters, words) = (self.inlet.clone(), Arc::clone(&self.counters), self.words.0.clone());
        let task = tokio::spawn(async move {
            let ended = words.clone();
            let reason = match account(&config).await {
                Ok(account) => {
                    let mut ends = Ends { number, server: account.place, inlet, counters, words };
                    turn::live(account, waiting, &mut ends).await
                }
                Err(reason) => reason,
            };
            // The daemon may have ended meanwhile.
            let _ = ended.send(Word { number, what: What::Ended(reason) }).await;
        });
        self.running = Some(Running { number, index, outgoing, granted: None, task });
    }

    /// Takes in what a connection says; whether it was news.
    fn hear(&mut self, word: Word, now: Instant) -> bool {
        let Some(running) = self.running.as_mut().filter(|running| running.number == word.number) else {
            return false;
        };
        let Some(server) = self.servers.get_mut(running.index) else { return false };
        match word.what {
            What::Granted(relayed, place) if running.granted.is_none() => {
                info!(server = %server.config, %relayed, "an address at a TURN server");
                running.granted = Some((relayed, place));
                server.problem = None;
                self.wait = RETRY;
            }
            What::Granted(..) => return false,
            What::Ended(reason) => {
                if server.problem.as_ref() != Some(&reason) {
                    warn!(server = %server.config, "no address at a TURN server: {reason}");
                }
                server.problem = Some(reason);
                self.next = (running.index + 1) % self.servers.len();
                self.next_at = now;
                if self.next == 0 {
                    self.next_at = now.after(self.wait);
                    self.wait = (self.wait * 2).min(RETRY_MAX);
                }
                self.running = None;
            }
        }
        true
    }

    pub(super) fn status(&self) -> Vec<api::TurnServer> {
        let running = self.running.as_ref();
        let one = |(index, server): (usize, &Server)| {
            let relayed = running.filter(|running| running.index == index).and(self.relayed());
            let reason = match (relayed, &server.problem, self.relayed()) {
                (Some(_), ..) => None,
                (None, Some(problem), _) => Some(problem.clone()),
                (None, None, Some(_)) => Some("not needed: another one gives an address".to_owned()),
                (None, None, None) => Some("it is being asked".to_owned()),
            };
            api::TurnServer { server: server.config.to_string(), relayed, reason }
        };
        self.servers.iter().enumerate().map(one).collect()
    }

    /// Gives the address back.
    pub(super) async fn close(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let (nobody, _) = mpsc::channel(1);
        // Its task ends when nobody can send by it any more.
        drop(std::mem::replace(&mut running.outgoing, nobody));
        let _ = tokio::time::timeout(CLOSING, &mut running.task).await;
    }
}

/// Where a server is, by its name if it has one.
async fn account(config: &config::Turn) -> Result<Account, String> {
    let places =
        names::look_up(&config.server).await.map_err(|error| format!("its name is not found: {error}"))?;
    // The relayed address is one of IPv4, and so the server has one.
    let place = places.iter().find(|place| place.is_ipv4()).or(places.first());
    let place = *place.ok_or("its name stands for no address")?;
    let credentials = TurnCredentials::new(&config.username, config.password.expose_text());
    Ok(Account { place, transport: config.transport, credentials })
}

impl Daemon {
    /// The configuration or the host's network may have changed.
    pub(super) fn follow_turn(&mut self, places: &[SocketAddr]) {
        let is_member = self.overlay.is_some();
        let wanted = if is_member { &self.config.underlay.turn[..] } else { &[] };
        self.turn.follow(wanted, places, clock::now());
        self.turn_changed();
    }

    /// Asks a server for an address, when that is due.
    pub(super) fn ask_for_turn(&mut self, now: Instant) {
        if self.turn.next_deadline().is_some_and(|at| at <= now) {
            self.turn.start();
        }
    }

    pub(super) fn hear_turn(&mut self, word: Word) {
        if self.turn.hear(word, clock::now()) {
            self.turn_changed();
        }
    }

    fn turn_changed(&mut self) {
        self.node.set_turned(self.turn.relayed().into_iter().collect());
    }
}
