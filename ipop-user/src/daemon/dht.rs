//! What operators ask of the DHT. The records, and what stands of two, are the node's business.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ipop_overlay::dht::{Event, Kind, Record, RequestId};
use tracing::{debug, warn};

use super::{Daemon, clock};
use crate::api::{DHT_TTL_S, DhtAnswer, DhtKind, DhtOrder, DhtRecord, DhtVerb};
use crate::control::Reply;

/// Orders at a time.
const ORDERS_MAX: usize = 32;

/// An order under way.
struct Order {
    /// What the node has been asked for, and what it has not answered yet.
    requests: Vec<RequestId>,
    /// Of one that takes back: the number of the record. It is looked first at what there is.
    takes_back: Option<u16>,
    answer: DhtAnswer,
    reply: Reply<DhtAnswer>,
}

/// All that are.
#[derive(Default)]
pub(super) struct Dht(Vec<Order>);

impl Dht {
    fn take(&mut self, request: RequestId) -> Option<Order> {
        let at = self.0.iter().position(|order| order.requests.contains(&request))?;
        let mut order = self.0.swap_remove(at);
        order.requests.retain(|other| *other != request);
        Some(order)
    }
}

impl Daemon {
    /// Carries out an order about records.
    pub(super) fn order_of_records(&mut self, order: DhtOrder, reply: Reply<DhtAnswer>) {
        match self.ask_for_records(&order) {
            Ok(requests) => {
                let DhtOrder { verb, name, slot, .. } = order;
                let takes_back = (verb == DhtVerb::Remove).then_some(slot);
                let answer = DhtAnswer { verb, name, stored: false, records: Vec::new() };
                self.go_on(Order { requests, takes_back, answer, reply });
            }
            // Who asked may have gone away.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn ask_for_records(&mut self, order: &DhtOrder) -> Result<Vec<RequestId>, String> {
        if self.node.ring().is_none() {
            return Err(
                "this node is in no overlay; add `underlay.bootstrap` to its configuration".to_owned()
            );
        }
        if self.dht.0.len() >= ORDERS_MAX {
            return Err("too many orders at a time; try again in a moment".to_owned());
        }
        let value = match (&order.value, &order.base64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => {
                BASE64_STANDARD.decode(text).map_err(|error| format!("the value is no Base64: {error}"))
            }
            (None, None) => Err("a value is missing".to_owned()),
            (Some(_), Some(_)) => Err("the value is text or Base64, not both".to_owned()),
        };
        let (name, slot, keep, now) = (order.name.as_bytes(), order.slot, order.keep, clock::now());
        let ttl_s = order.ttl_s.unwrap_or(DHT_TTL_S);
        let requests = match order.verb {
            DhtVerb::Put => vec![self.node.dht_put(name, slot, &value?, ttl_s, keep, now)],
            DhtVerb::Create => vec![self.node.dht_create(name, &value?, ttl_s, keep, now)],
            DhtVerb::Get | DhtVerb::Remove => {
                [Kind::Put, Kind::Create].map(|kind| self.node.dht_get(name, kind, now)).into()
            }
        };
        requests.into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    /// Answers an order, or goes on with it, once all that it has asked for is there.
    fn go_on(&mut self, mut order: Order) {
        if !order.requests.is_empty() {
            self.dht.0.push(order);
            return;
        }
        // Who asked may have gone away.
        match order.takes_back.take() {
            Some(slot) => match self.take_back(&order.answer, slot) {
                Ok(requests) => {
                    order.answer.records.clear();
                    self.dht.0.push(Order { requests, ..order });
                }
                Err(error) => drop(order.reply.send(Err(error))),
            },
            None => {
                order.answer.records.sort_by_key(|record| (record.created, record.expires, record.slot));
                drop(order.reply.send(Ok(order.answer)));
            }
        }
    }

    /// Takes back what is this node's of what there is under a name.
    fn take_back(&mut self, found: &DhtAnswer, slot: u16) -> Result<Vec<RequestId>, String> {
        let own = self.public_key.node_address();
        let is_own = |record: &&DhtRecord| {
            record.owner == own && (record.kind == DhtKind::Create || record.slot == slot)
        };
        let name = &found.name;
        let now = clock::now();
        let mut requests = Vec::new();
        for record in found.records.iter().filter(is_own) {
            let (kind, slot) = match record.kind {
                DhtKind::Put => (Kind::Put, slot),
                DhtKind::Create => (Kind::Create, 0),
            };
            let removed = self.node.dht_remove(name.as_bytes(), kind, slot, now);
            requests.push(removed.map_err(|error| error.to_string())?);
        }
        if requests.is_empty() {
            return Err(format!(
                "this node has left nothing under {name:?}; `ipopctl dht get` shows who has"
            ));
        }
        Ok(requests)
    }

    /// What has become of something in the DHT.
    pub(super) fn hear_of_records(&mut self, event: Event) {
        if self.hear_of_routers(&event) {
            return;
        }
        match event {
            Event::Stored { request, .. } => self.order_goes_on(request, |order| {
                order.answer.stored = true;
                Ok(())
            }),
            Event::Got { request, records, .. } => self.order_goes_on(request, |order| {
                order.answer.records.extend(records.iter().map(shown));
                Ok(())
            }),
            Event::Refused { request, standing, .. } => self.order_goes_on(request, |_| {
                let whose =
                    standing.map_or("another node".to_owned(), |record| record.owner_address().to_string());
                Err(format!("there is a record of {whose} under this name; `ipopctl dht get` shows it"))
            }),
            Event::Failed { request, .. } => self.order_goes_on(request, |order| match order.answer.verb {
                // Of the two kinds, the other may have been found.
                DhtVerb::Get | DhtVerb::Remove if !order.answer.records.is_empty() => Ok(()),
                _ => Err("too few of the nodes that keep this name have answered; try again".to_owned()),
            }),
            Event::Lost { key, standing } => {
                let by = standing.map(|record| record.owner_address());
                warn!(?key, ?by, "a record of this node's is another's now, or nobody has it any more");
            }
        }
    }

    fn order_goes_on(&mut self, request: RequestId, go_on: impl FnOnce(&mut Order) -> Result<(), String>) {
        let Some(mut order) = self.dht.take(request) else {
            debug!(?request, "of a request that nobody here waits for");
            return;
        };
        match go_on(&mut order) {
            Ok(()) => self.go_on(order),
            // Who asked may have gone away.
            Err(error) => drop(order.reply.send(Err(error))),
        }
    }
}

fn shown(record: &Record) -> DhtRecord {
    DhtRecord {
        kind: match record.kind {
            Kind::Put => DhtKind::Put,
            Kind::Create => DhtKind::Create,
        },
        owner: record.owner_address().into(),
        slot: record.slot,
        created: record.created,
        expires: record.expires,
        value: String::from_utf8(record.value.clone()).ok(),
        base64: BASE64_STANDARD.encode(&record.value),
    }
}
