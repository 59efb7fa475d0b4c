//! Questions about addresses and names, and answers that are kept.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::{SERVICES_MAX, Service, host_addresses, host_name};
use crate::dhcp::lease_name;
use crate::dht::{Event, Kind, Record, RequestId};
use crate::node::Node;
use crate::time::Instant;

/// Answers that are kept. One that is over makes room first, then the one that is over next.
pub const CACHED_MAX: usize = 4096;
/// Questions under way.
const ASKED_MAX: usize = 64;
/// For so long an answer is used without asking again, unless the record is over before; one that is, for a moment all
/// the same, since whoever has asked is to find it.
const FRESH: Duration = Duration::from_secs(1800);
const FRESH_MIN: Duration = Duration::from_secs(1);
const OFFERED: Duration = Duration::from_secs(30);
/// So long is taken for granted that there is no record.
const ABSENT: Duration = Duration::from_secs(3);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Who has this address?
    Owner(IpAddr),
    /// Which addresses has this host?
    Host(String),
    /// Which hosts offer a service, like `_http._tcp`?
    Service(String),
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The node with this key has it. An address comes with the name of its host, a name with its addresses.
    Owner {
        public_key: [u8; 32],
        host: String,
        addresses: Vec<IpAddr>,
        expires: u64,
    },
    /// These offer it, each with the key of the node that says so of itself.
    Offered(Vec<([u8; 32], Service)>),
    Nobody,
}

#[derive(Debug)]
struct Cached {
    answer: Answer,
    until: Instant,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Directory {
    namespace: String,
    cached: BTreeMap<Question, Cached>,
    asked: BTreeMap<RequestId, Question>,
}

impl Directory {
    pub fn new(namespace: String) -> Self {
        Self { namespace, cached: BTreeMap::new(), asked: BTreeMap::new() }
    }

    /// What is known by now.
    pub fn known(&self, question: &Question, now: Instant) -> Option<&Answer> {
        self.cached.get(question).filter(|cached| cached.until > now).map(|cached| &cached.answer)
    }

    /// All owners of addresses that are known by now.
    pub fn owners(&self, now: Instant) -> impl Iterator<Item = (IpAddr, &Answer)> {
        self.cached.iter().filter(move |(_, cached)| cached.until > now).filter_map(|(question, cached)| {
            match question {
                Question::Owner(address) => Some((*address, &cached.answer)),
                Question::Host(_) | Question::Service(_) => None,
            }
        })
    }

    /// Asks, unless that is under way. Says whether an answer will come.
    pub fn ask(&mut self, question: Question, node: &mut Node, now: Instant) -> bool {
        if self.asked.values().any(|other| *other == question) {
            return true;
        }
        if self.asked.len() >= ASKED_MAX {
            return false;
        }
        let (name, kind) = match &question {
            Question::Owner(address) => (lease_name(&self.namespace, *address), Kind::Create),
            Question::Host(host) => (host_name(&self.namespace, host), Kind::Create),
            Question::Service(service) => (Service::name(&self.namespace, service), Kind::Put),
        };
        match node.dht_get(&name, kind, now) {
            Ok(request) => {
                self.asked.insert(request, question);
                true
            }
            Err(_) => false,
        }
    }

    /// What was known of it may not be so any more.
    pub fn forget(&mut self, question: &Question) {
        self.cached.remove(question);
    }

    /// The node with this key does not answer: what was known of it is asked anew.
    pub fn forget_node(&mut self, key: &[u8; 32]) {
        let is_its =
            |answer: &Answer| matches!(answer, Answer::Owner { public_key, .. } if public_key == key);
        self.cached.retain(|_, cached| !is_its(&cached.answer));
    }

    /// Takes in what has become of something in the DHT: the question that is answered now, and what to; no answer,
    /// if too few nodes have given one.
    pub fn handle_event(
        &mut self,
        event: &Event,
        wall: u64,
        now: Instant,
    ) -> Option<(Question, Option<Answer>)> {
        match event {
            Event::Got { request, records, .. } => {
                let question = self.asked.remove(request)?;
                let answer = match &question {
                    Question::Service(_) => offered(records),
                    _ => records.first().and_then(|record| answer(&question, record)),
                };
                let answer = answer.unwrap_or(Answer::Nobody);
                let fresh = match &answer {
                    // Others may begin to offer it.
                    Answer::Offered(_) => OFFERED,
                    Answer::Owner { expires, .. } => {
                        Duration::from_secs(expires.saturating_sub(wall)).clamp(FRESH_MIN, FRESH)
                    }
                    Answer::Nobody => ABSENT,
                };
                self.keep(question.clone(), answer.clone(), now.after(fresh), now);
                Some((question, Some(answer)))
            }
            Event::Failed { request, .. } => self.asked.remove(request).map(|question| (question, None)),
            _ => None,
        }
    }

    fn keep(&mut self, question: Question, answer: Answer, until: Instant, now: Instant) {
        if self.cached.len() >= CACHED_MAX && !self.cached.contains_key(&question) {
            self.cached.retain(|_, cached| cached.until > now);
            if self.cached.len() >= CACHED_MAX {
                let next = self.cached.iter().min_by_key(|(_, cached)| cached.until);
                let next = next.map(|(question, _)| question.clone());
                next.into_iter().for_each(|question| drop(self.cached.remove(&question)));
            }
        }
        self.cached.insert(question, Cached { answer, until });
    }
}

/// What a record answers; nothing, if it is not what it should be.
fn answer(question: &Question, record: &Record) -> Option<Answer> {
    let (public_key, expires) = (record.owner, record.expires);
    let (host, addresses) = match question {
        // A name that nobody can read is none.
        Question::Owner(address) => {
            (core::str::from_utf8(&record.value).unwrap_or_default().to_ascii_lowercase(), [*address].into())
        }
        Question::Host(host) => (host.clone(), host_addresses(&record.value)?),
        Question::Service(_) => return None,
    };
    Some(Answer::Owner { public_key, host, addresses, expires })
}

/// Who offers a service, those first that are asked first.
fn offered(records: &[Record]) -> Option<Answer> {
    let service = |record: &Record| Some((record.owner, Service::parse(&record.value)?));
    let mut services: Vec<_> = records.iter().filter_map(service).collect();
    services.sort_by_key(|(owner, service)| (service.priority, service.weight, *owner));
    services.truncate(SERVICES_MAX);
    (!services.is_empty()).then_some(Answer::Offered(services))
}
