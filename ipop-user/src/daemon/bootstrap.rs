//! Ways into the overlay: nodes that are configured, nodes on the same LAN, nodes of earlier runs. Whatever
//! they say of themselves, it is a handshake that shows who they are.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipop_common::Counter;
use ipop_overlay::introduction::Introduction;
use ipop_overlay::{Endpoint, Instant, NetworkKey, Refusal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::lan::Lan;
use super::overlay::Overlay;
use super::{Daemon, clock, names};
use crate::config::{self, Config};
use crate::key::PublicKey;

/// How often a bootstrap node is asked who it is, at first; half as often each time.
const ASK: Duration = Duration::from_secs(1);
const ASK_MAX: Duration = Duration::from_secs(30);
/// From this question on one is asked by TCP too.
const BY_TCP: u32 = 2;
/// One that has not answered when it is asked this seldom is spoken of.
const COMPLAIN: Duration = Duration::from_secs(4);
/// Names that are being looked up.
const NAMES_MAX: usize = 16;

/// The ways into the overlay.
pub(super) struct WaysIn {
    key: NetworkKey,
    /// What questions of this run have in common, so that no old answer is taken for one to them.
    nonce: [u8; 16],
    configured: Vec<Bootstrap>,
    lan: Option<Lan>,
    /// This node was connected to another when that was looked at last.
    was_connected: bool,
    names: (mpsc::Sender<Name>, mpsc::Receiver<Name>),
}

/// A name of a bootstrap node, and what it stands for.
pub(super) type Name = (usize, Vec<SocketAddr>);

struct Bootstrap {
    config: config::Bootstrap,
    places: Vec<SocketAddr>,
    /// Of one whose key is configured: the places of which the ring knows.
    told: Vec<SocketAddr>,
    wait: Duration,
    /// How often it has been asked since this node was alone.
    asked: u32,
    ask_at: Instant,
    /// It has answered in this run, as this node.
    known: Option<PublicKey>,
}

/// What comes by itself.
pub(super) enum Word {
    Name(Name),
    /// A datagram to all on the LAN.
    Lan(SocketAddr, Vec<u8>),
}

impl WaysIn {
    pub(super) fn new(config: &Config, key: NetworkKey) -> Result<Self> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).context("the kernel gave no random bytes")?;
        let mut ways = Self {
            key,
            nonce,
            configured: Vec::new(),
            lan: None,
            was_connected: false,
            names: mpsc::channel(NAMES_MAX),
        };
        ways.follow(config);
        Ok(ways)
    }

    /// Goes by what is configured now.
    pub(super) fn follow(&mut self, config: &Config) {
        let now = clock::now();
        let mut before = std::mem::take(&mut self.configured);
        for config in &config.underlay.bootstrap {
            let same = before.iter().position(|bootstrap| bootstrap.config == *config);
            self.configured
                .push(same.map_or_else(|| Bootstrap::new(config, now), |at| before.swap_remove(at)));
        }
        if !config.underlay.multicast {
            self.lan = None;
        } else if self.lan.is_none() {
            match Lan::open(now) {
                Ok(lan) => self.lan = Some(lan),
                Err(error) => warn!(%error, "nodes on the same LAN are not looked for"),
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lan = self.lan.as_ref().map(Lan::ask_at);
        self.configured.iter().map(|bootstrap| bootstrap.ask_at).chain(lan).min()
    }

    /// What is configured, and who has answered there.
    pub(super) fn configured(&self) -> impl Iterator<Item = (&config::Bootstrap, Option<&PublicKey>)> {
        self.configured.iter().map(|bootstrap| (&bootstrap.config, bootstrap.known.as_ref()))
    }

    /// Looks for others on these LANs from now on: this node's addresses there.
    pub(super) fn set_lans(&mut self, lans: &[std::net::Ipv4Addr]) {
        if let Some(lan) = &mut self.lan {
            lan.join(lans);
        }
    }

    /// A node that has lost all others asks as often as one that has just started.
    pub(super) fn note_connected(&mut self, is_connected: bool, now: Instant) {
        if std::mem::replace(&mut self.was_connected, is_connected) && !is_connected {
            for bootstrap in &mut self.configured {
                (bootstrap.wait, bootstrap.ask_at, bootstrap.asked) = (ASK, now, 0);
            }
        }
    }

    fn question(&self) -> Vec<u8> {
        Introduction::Asks { nonce: self.nonce }.to_bytes(&self.key).to_vec()
    }

    async fn next_word(&mut self) -> Word {
        let lan = async {
            match &self.lan {
                Some(lan) => lan.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(name) = self.names.1.recv() => Word::Name(name),
            (from, datagram) = lan => Word::Lan(from, datagram),
        }
    }
}

impl Bootstrap {
    fn new(config: &config::Bootstrap, now: Instant) -> Self {
        Self {
            config: config.clone(),
            places: Vec::new(),
            told: Vec::new(),
            wait: ASK,
            asked: 0,
            ask_at: now,
            known: None,
        }
    }
}

/// What the ways into the overlay have to say.
pub(super) async fn next_word(overlay: &mut Option<Overlay>) -> Word {
    match overlay {
        Some(overlay) => overlay.ways.next_word().await,
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Asks who is there, while this node is connected to nobody.
    pub(super) fn ask_bootstraps(&mut self, now: Instant) {
        if self.overlay.as_ref().and_then(Overlay::next_deadline).is_none_or(|at| at > now) {
            return;
        }
        let Some(ring) = self.node.ring() else { return };
        let is_alone = ring.edges().next().is_none();
        let Some(overlay) = &mut self.overlay else { return };
        let ways = &mut overlay.ways;
        let mut found = Vec::new();
        for (index, bootstrap) in ways.configured.iter_mut().enumerate() {
            if bootstrap.ask_at > now {
                continue;
            }
            bootstrap.ask_at = now.after(bootstrap.wait);
            let is_connected =
                |key: &&PublicKey| ring.is_connected(ipop_overlay::NodeAddress::of_key(key.as_bytes()));
            if let Some(key) = bootstrap.config.public_key.as_ref().filter(is_connected) {
                bootstrap.known = Some(*key);
            }
            if !is_alone && bootstrap.known.is_some() {
                bootstrap.wait = ASK_MAX;
                continue;
            }
            if bootstrap.wait >= COMPLAIN && is_alone && bootstrap.known.is_none() {
                warn!(bootstrap = %bootstrap.config, "no answer: is it there, and of this network?");
            }
            bootstrap.wait = (bootstrap.wait * 2).min(ASK_MAX);
            bootstrap.asked = bootstrap.asked.saturating_add(1);
            match &bootstrap.config.endpoint {
                config::Endpoint::Address(address) => {
                    bootstrap.places = vec![*address];
                    found.push(index);
                }
                place @ config::Endpoint::Host { .. } => look_up(index, place.clone(), ways.names.0.clone()),
            }
        }
        let lans = ways.lan.as_mut().map(|lan| lan.due(is_alone, now)).unwrap_or_default();
        found.into_iter().for_each(|index| self.ask_bootstrap(index));
        self.ask_lans(&lans);
    }

    /// Asks a bootstrap node who it is, or calls it where that is known.
    fn ask_bootstrap(&mut self, index: usize) {
        let Some(overlay) = &mut self.overlay else { return };
        let question = overlay.ways.question();
        let Some(bootstrap) = overlay.ways.configured.get_mut(index) else { return };
        let places = bootstrap.places.clone();
        let by_udp = bootstrap.config.transport == config::Transport::Udp;
        // It is asked while it has not answered, and then while this node is alone.
        let by_tcp = !by_udp || bootstrap.asked >= BY_TCP;
        match &bootstrap.config.public_key {
            // The ring tries it from then on.
            Some(_) if bootstrap.told == places => {}
            Some(key) => {
                bootstrap.told.clone_from(&places);
                self.node.add_contact(*key.as_bytes(), places, true, clock::now());
            }
            None => {
                for place in places {
                    if by_udp {
                        self.transmit(place, &question);
                    }
                    if by_tcp {
                        self.streams.send(place, &question);
                        if self.turn.relayed().is_some() {
                            self.turn.send(place, &question);
                        }
                    }
                }
            }
        }
        if by_tcp {
            // One whose key is known is called there, as other nodes are.
            self.streams.want(clock::now());
        }
    }

    /// Asks everybody on the LANs on which this node has these addresses.
    fn ask_lans(&mut self, lans: &[std::net::Ipv4Addr]) {
        let Some(overlay) = &self.overlay else { return };
        let question = overlay.ways.question();
        let Some(socket) = self.socket(true) else { return };
        for lan in lans {
            if let Err(error) = Lan::ask(&**socket, *lan, &question) {
                self.counters.add(Counter::TxSendError, 1);
                debug!(%lan, %error, "nobody on the LAN is asked");
            }
        }
    }

    pub(super) fn hear_word(&mut self, word: Word) {
        match word {
            Word::Name(name) => self.name_resolved(name),
            Word::Lan(from, datagram) => {
                if let Err(Refusal(counter)) = self.asked_on_lan(from, &datagram) {
                    self.counters.add(counter, 1);
                }
            }
        }
    }

    /// The name of a bootstrap node stands for these places: it is asked there.
    fn name_resolved(&mut self, (index, places): Name) {
        let Some(overlay) = &mut self.overlay else { return };
        let Some(bootstrap) = overlay.ways.configured.get_mut(index) else { return };
        bootstrap.places = places;
        self.ask_bootstrap(index);
    }

    /// Somebody asks all nodes on the LAN who they are.
    fn asked_on_lan(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<(), Refusal> {
        let Some(overlay) = &mut self.overlay else { return Ok(()) };
        let ways = &mut overlay.ways;
        match Introduction::parse(&ways.key, datagram) {
            Some(Introduction::Asks { nonce }) if nonce == ways.nonce => Ok(()),
            Some(Introduction::Asks { nonce }) => {
                if !ways.lan.as_mut().is_some_and(|lan| lan.may_answer(clock::now())) {
                    return Err(Refusal(Counter::RxHandshakeFlood));
                }
                self.answer_who(from.into(), nonce);
                Ok(())
            }
            // Of another network, which may well be on the same LAN, or an answer, which is for one node.
            _ => Err(Refusal(Counter::RxBadHandshake)),
        }
    }

    fn answer_who(&mut self, from: Endpoint, nonce: [u8; 16]) {
        let Some(overlay) = &self.overlay else { return };
        let public_key = *self.public_key.as_bytes();
        let answer = Introduction::Answers { nonce, public_key }.to_bytes(&overlay.ways.key);
        self.send(from, &answer);
    }

    /// Somebody asks who this node is, or says who it is.
    pub(super) fn introduced(&mut self, from: Endpoint, datagram: &[u8]) -> Result<(), Refusal> {
        let now = clock::now();
        let Some(place) = from.direct() else { return Err(Refusal(Counter::RxUnknownMessage)) };
        let Some(overlay) = &mut self.overlay else { return Err(Refusal(Counter::RxUnknownMessage)) };
        let ways = &mut overlay.ways;
        match Introduction::parse(&ways.key, datagram) {
            Some(Introduction::Asks { nonce }) => {
                self.answer_who(from, nonce);
                Ok(())
            }
            Some(Introduction::Answers { nonce, public_key }) if nonce == ways.nonce => {
                let asked = |bootstrap: &&mut Bootstrap| bootstrap.places.contains(&place);
                let key = PublicKey::from_bytes(public_key);
                let is_other = key != self.public_key;
                let is_configured = match ways.configured.iter_mut().find(asked) {
                    Some(bootstrap) => {
                        if is_other && bootstrap.known.as_ref() != Some(&key) {
                            info!(bootstrap = %bootstrap.config, at = %from, %key, "bootstrap node found");
                        }
                        bootstrap.known = Some(key);
                        true
                    }
                    None if ways.lan.as_ref().is_some_and(|lan| lan.expects_answers(now)) => {
                        info!(at = %from, %key, "node found on the LAN");
                        false
                    }
                    None => return Err(Refusal(Counter::RxBadHandshake)),
                };
                self.node.add_contact(public_key, vec![place], is_configured, now);
                Ok(())
            }
            _ => Err(Refusal(Counter::RxBadHandshake)),
        }
    }
}

fn look_up(index: usize, place: config::Endpoint, done: mpsc::Sender<Name>) {
    tokio::spawn(async move {
        match names::look_up(&place).await {
            // The daemon may have ended meanwhile.
            Ok(places) => drop(done.try_send((index, places))),
            Err(error) => warn!(%place, %error, "bootstrap node not found"),
        }
    });
}
