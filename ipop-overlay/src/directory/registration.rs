//! A record that a node wants to have under a name, and keeps up.

use alloc::vec::Vec;
use core::time::Duration;

use crate::address::NodeAddress;
use crate::dht::{self, Event, Key, Kind, RequestId};
use crate::node::Node;
use crate::time::Instant;

/// One that is another's is tried again after so long: the other may have gone.
const TAKEN: Duration = Duration::from_secs(300);

/// A node has one record under a name.
const SLOT: u16 = 0;

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is asked for, or will be.
    Wanted,
    Held,
    /// Another has it; who, where that is known.
    Taken(Option<NodeAddress>),
    Withdrawn,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Registration {
    kind: Kind,
    name: Vec<u8>,
    value: Vec<u8>,
    ttl_s: u64,
    state: State,
    request: Option<RequestId>,
    next_at: Option<Instant>,
    failures: u32,
}

impl Registration {
    /// One that is asked for at once: of a kind of which nobody else can have it, or of the one that each node has its own of.
    ///
    /// # Errors
    /// If there can be no such record.
    pub fn new(
        kind: Kind,
        name: Vec<u8>,
        value: Vec<u8>,
        ttl_s: u64,
        now: Instant,
    ) -> Result<Self, dht::Error> {
        Key::of_name(&name).ok_or(dht::Error::NameTooLong)?;
        if value.len() > dht::VALUE_MAX {
            return Err(dht::Error::ValueTooLong);
        }
        let (state, next_at) = (State::Wanted, Some(now));
        Ok(Self { kind, name, value, ttl_s, state, request: None, next_at, failures: 0 })
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Says something else from now on.
    pub fn set_value(&mut self, value: Vec<u8>, now: Instant) {
        if value != self.value && value.len() <= dht::VALUE_MAX && self.state != State::Withdrawn {
            self.value = value;
            (self.request, self.next_at) = (None, Some(now));
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_at
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, node: &mut Node, now: Instant) {
        if self.next_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let (name, value, ttl_s) = (&self.name, &self.value, self.ttl_s);
        let begun = match self.kind {
            Kind::Create => node.dht_create(name, value, ttl_s, true, now),
            Kind::Put => node.dht_put(name, SLOT, value, ttl_s, true, now),
        };
        self.request = begun.ok();
        if self.request.is_none() {
            self.later(now);
        }
    }

    /// Takes in what has become of something in the DHT; says whether it is this one's.
    pub fn handle_event(&mut self, event: &Event, now: Instant) -> bool {
        match event {
            Event::Stored { request, .. } if self.request == Some(*request) => {
                (self.state, self.request, self.failures) = (State::Held, None, 0);
            }
            Event::Refused { request, standing, .. } if self.request == Some(*request) => {
                self.taken(standing.as_ref(), now);
            }
            Event::Failed { request, .. } if self.request == Some(*request) => {
                self.request = None;
                self.later(now);
            }
            Event::Lost { key, standing } if Key::of_name(&self.name) == Some(*key) => {
                match (self.state, standing) {
                    (State::Withdrawn, _) => {}
                    (_, Some(_)) => self.taken(standing.as_ref(), now),
                    // Nobody has it any more: it is made again.
                    (_, None) => (self.state, self.next_at) = (State::Wanted, Some(now)),
                }
            }
            _ => return false,
        }
        true
    }

    /// Takes the record back.
    pub fn withdraw(&mut self, node: &mut Node, now: Instant) {
        if self.state == State::Held || self.request.is_some() {
            // What cannot be taken back is over in time.
            let _is_begun = node.dht_remove(&self.name, self.kind, SLOT, now);
        }
        (self.state, self.request, self.next_at) = (State::Withdrawn, None, None);
    }

    fn taken(&mut self, standing: Option<&dht::Record>, now: Instant) {
        self.state = State::Taken(standing.map(dht::Record::owner_address));
        (self.request, self.next_at) = (None, Some(now.after(TAKEN)));
    }

    fn later(&mut self, now: Instant) {
        let wait = dht::retry_after(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.next_at = Some(now.after(wait));
    }
}
