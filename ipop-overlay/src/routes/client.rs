//! Announcements by way of the DHT: this node's own is a record that it keeps up, all others' are asked for from time
//! to time.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::announcement::Announcement;
use super::table::Router;
use crate::dht::{self, Event, Kind, Record, RequestId};
use crate::node::Node;
use crate::time::Instant;

/// Routers of one network: as many as a node of the DHT keeps records of under one name.
pub const ROUTERS_MAX: usize = 128;
/// The record of a router that has gone without a word is there for at most so long.
const TTL_S: u64 = 600;
/// All nodes that take subnets ask the same few that keep the records: this often.
const ASK: Duration = Duration::from_secs(60);
/// While the ring comes together, and until there is an answer with a router in it, the first times are these.
const FIRST: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// What could not be announced is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// The name of all announcements of a network.
pub fn name_of_network(network: &str) -> Vec<u8> {
    [b"routes:", network.as_bytes()].concat()
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// All routers by now.
    Routers(Vec<Router>),
    /// So many records could not be read.
    Malformed(usize),
    /// This node's announcement is there.
    Announced,
    /// Too few nodes have taken it; it is tried again.
    NotAnnounced,
}

/// A client; see the module's documentation.
#[derive(Debug)]
pub struct Client {
    name: Vec<u8>,
    own: [u8; 32],
    announcement: Option<Announcement>,
    /// Whether this node takes others' subnets.
    is_asking: bool,
    storing: Option<RequestId>,
    getting: Option<RequestId>,
    store_at: Option<Instant>,
    get_at: Option<Instant>,
    /// How often there was no router in the answer.
    rounds: usize,
    outputs: VecDeque<Output>,
}

impl Client {
    /// A client for a network of this name, of the node with this key.
    pub fn new(network: &str, own: [u8; 32]) -> Self {
        Self {
            name: name_of_network(network),
            own,
            announcement: None,
            is_asking: false,
            storing: None,
            getting: None,
            store_at: None,
            get_at: None,
            rounds: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Says what this node announces, if it does, and whether it takes what others do.
    pub fn configure(
        &mut self,
        announcement: Option<Announcement>,
        is_asking: bool,
        node: &mut Node,
        now: Instant,
    ) {
        if announcement != self.announcement {
            if announcement.is_none() {
                self.withdraw(node, now);
            }
            self.store_at = announcement.is_some().then_some(now);
            self.announcement = announcement;
        }
        self.is_asking = is_asking;
        self.rounds = 0;
        self.get_at = is_asking.then_some(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.store_at, self.get_at].into_iter().flatten().min()
    }

    /// Asks soon: something has changed.
    pub fn ask_soon(&mut self, now: Instant) {
        if let Some(at) = &mut self.get_at {
            self.rounds = 0;
            *at = (*at).min(now.after(FIRST[0]));
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, node: &mut Node, now: Instant) {
        if self.store_at.take_if(|at| *at <= now).is_some()
            && let Some(announcement) = &self.announcement
        {
            let value = announcement.to_bytes();
            match node.dht_put(&self.name, 0, &value, TTL_S, true, now) {
                Ok(request) => self.storing = Some(request),
                Err(_) => self.store_at = Some(now.after(RETRY)),
            }
        }
        if self.get_at.take_if(|at| *at <= now).is_some() && self.is_asking {
            self.getting = node.dht_get(&self.name, Kind::Put, now).ok();
            let wait = FIRST.get(self.rounds).copied().unwrap_or_else(|| self.spread(ASK));
            self.get_at = Some(now.after(wait));
            self.rounds = self.rounds.saturating_add(1);
        }
    }

    /// Takes in what has become of something in the DHT; says whether it is the client's.
    pub fn handle_event(&mut self, event: &Event, now: Instant) -> bool {
        match event {
            Event::Stored { request, .. } if self.storing == Some(*request) => {
                self.storing = None;
                self.outputs.push_back(Output::Announced);
            }
            Event::Refused { request, .. } | Event::Failed { request, .. }
                if self.storing == Some(*request) =>
            {
                self.storing = None;
                self.store_at = Some(now.after(RETRY));
                self.outputs.push_back(Output::NotAnnounced);
            }
            Event::Got { request, records, .. } if self.getting == Some(*request) => {
                self.getting = None;
                self.read(records);
            }
            Event::Failed { request, .. } if self.getting == Some(*request) => self.getting = None,
            Event::Lost { key, .. } if Some(*key) == dht::Key::of_name(&self.name) => {
                // Nobody has it any more.
                self.store_at = self.announcement.is_some().then_some(now);
            }
            _ => return false,
        }
        true
    }

    /// Takes the announcement back: this node stops.
    pub fn withdraw(&mut self, node: &mut Node, now: Instant) {
        if self.announcement.take().is_some() {
            // What cannot be taken back is over in time.
            let _is_begun = node.dht_remove(&self.name, Kind::Put, 0, now);
        }
        (self.storing, self.store_at) = (None, None);
    }

    /// A sixth longer at most, as the node's key has it: nodes that have started together do not ask together.
    fn spread(&self, wait: Duration) -> Duration {
        wait + wait * u32::from(self.own[0]) / (6 * 256)
    }

    fn read(&mut self, records: &[Record]) {
        let (mut routers, mut malformed) = (Vec::new(), 0);
        let others = records.iter().filter(|record| record.slot == 0 && record.owner != self.own);
        for record in others.take(ROUTERS_MAX) {
            match Announcement::parse(&record.value) {
                Some(Announcement { priority, subnets }) => {
                    routers.push(Router {
                        public_key: record.owner,
                        priority,
                        since: record.created,
                        subnets,
                    });
                }
                None => malformed += 1,
            }
        }
        if malformed > 0 {
            self.outputs.push_back(Output::Malformed(malformed));
        }
        if !routers.is_empty() {
            self.rounds = FIRST.len();
        }
        routers.sort_by_key(|router| router.public_key);
        self.outputs.push_back(Output::Routers(routers));
    }
}
