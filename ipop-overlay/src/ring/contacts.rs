//! Ways into the network: nodes that are configured, and nodes to which the connection was lost. By
//! them a node joins, and by them the parts of a network that was split find each other again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::limits::{CONTACT_APART, CONTACT_LIFE, CONTACT_RETRY, CONTACT_RETRY_MAX, CONTACTS_MAX, LEAF_LIFE};
use super::wire::{Places, Roles};
use super::{Ring, limits};
use crate::address::NodeAddress;
use crate::time::Instant;

#[derive(Clone, Debug)]
struct Contact {
    public_key: [u8; 32],
    endpoints: Vec<SocketAddr>,
    is_configured: bool,
    /// Since when it has not been connected.
    since: Instant,
    wait: Duration,
    /// When it is tried next; `None` while it is connected or being tried.
    next_at: Option<Instant>,
}

/// All that are known.
#[derive(Default)]
pub(super) struct Contacts {
    all: BTreeMap<NodeAddress, Contact>,
    /// When the next may be tried although there is a way in already.
    next_at: Instant,
}

impl Contacts {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn connected(&mut self, address: NodeAddress) {
        if let Some(contact) = self.all.get_mut(&address) {
            contact.next_at = None;
            contact.wait = CONTACT_RETRY;
            if !contact.is_configured {
                self.all.remove(&address);
            }
        }
    }

    pub(super) fn failed(&mut self, address: NodeAddress, now: Instant) {
        let Some(contact) = self.all.get_mut(&address) else { return };
        if !contact.is_configured && now.since(contact.since) > CONTACT_LIFE {
            self.all.remove(&address);
            return;
        }
        contact.wait = (contact.wait * 2).min(CONTACT_RETRY_MAX);
        contact.next_at = Some(now.after(contact.wait));
    }

    /// Puts one in, at the cost of the one that has been gone for the longest.
    fn insert(&mut self, contact: Contact) {
        let address = NodeAddress::of_key(&contact.public_key);
        if self.all.len() >= CONTACTS_MAX && !self.all.contains_key(&address) {
            let others = self.all.iter().filter(|(_, contact)| !contact.is_configured);
            let Some(oldest) = others.min_by_key(|(_, contact)| contact.since).map(|(address, _)| *address)
            else {
                return;
            };
            self.all.remove(&oldest);
        }
        self.all.insert(address, contact);
    }
}

impl Ring {
    /// A node is known by which others join, at these places. `is_configured`: by the operator, and
    /// never forgotten.
    pub fn add_contact(
        &mut self,
        public_key: [u8; 32],
        endpoints: Vec<SocketAddr>,
        is_configured: bool,
        now: Instant,
    ) {
        let address = NodeAddress::of_key(&public_key);
        if address == self.table.own || self.table.contains(address) && !is_configured {
            return;
        }
        let next_at = (!self.table.contains(address)).then_some(now);
        let contact =
            Contact { public_key, endpoints, is_configured, since: now, wait: CONTACT_RETRY, next_at };
        self.contacts.insert(contact);
    }

    /// A connection was lost: it may come back, and with it a part of the network.
    pub(super) fn remember(
        &mut self,
        address: NodeAddress,
        public_key: [u8; 32],
        endpoint: Option<SocketAddr>,
        now: Instant,
    ) {
        let wait = CONTACT_RETRY + self.jitter(CONTACT_RETRY * 4);
        if let Some(contact) = self.contacts.all.get_mut(&address) {
            contact.since = now;
            contact.next_at = Some(now.after(wait));
            return;
        }
        let Some(endpoint) = endpoint else { return };
        self.contacts.insert(Contact {
            public_key,
            endpoints: [endpoint].to_vec(),
            is_configured: false,
            since: now,
            wait,
            next_at: Some(now.after(wait)),
        });
    }

    /// A connection was closed by agreement: a configured contact is looked up again much later, the
    /// less often the larger the network is.
    pub(super) fn put_off(&mut self, address: NodeAddress, now: Instant) {
        let size = 1u32.checked_shl(u32::from(self.log2_size() >> 8)).unwrap_or(u32::MAX);
        let wait = LEAF_LIFE.saturating_mul(1 + size / 64).min(LEAF_LIFE * 36);
        let wait = wait + self.jitter(wait);
        if let Some(contact) = self.contacts.all.get_mut(&address) {
            contact.next_at = Some(now.after(wait));
        }
    }

    pub(super) fn contacts_due(&self) -> Option<Instant> {
        let first = self.contacts.all.values().filter_map(|contact| contact.next_at).min()?;
        if self.is_isolated() { Some(first) } else { Some(first.max(self.contacts.next_at)) }
    }

    /// Without a connection a node tries all that it knows; with one, now and then one of them.
    pub(super) fn contacts_timeout(&mut self, now: Instant) {
        while self.contacts_due().is_some_and(|at| at <= now) {
            let due = self
                .contacts
                .all
                .iter_mut()
                .filter_map(|(address, contact)| Some((contact.next_at?, *address, contact)));
            let Some((_, address, contact)) = due.min_by_key(|(at, address, _)| (*at, *address)) else {
                return;
            };
            contact.next_at = None;
            let (public_key, endpoints) = (contact.public_key, contact.endpoints.clone());
            self.contacts.next_at = now.after(CONTACT_APART);
            if self.table.contains(address) {
                continue;
            }
            self.avoided.remove(&address);
            self.link(public_key, Places { own: endpoints, turned: Vec::new() }, Roles::LEAF, now, now);
            if !self.is_linking(address) {
                self.contacts.failed(address, now);
            }
        }
    }

    /// Who has lost everybody does not wait for what was put off.
    pub(super) fn hurry_if_isolated(&mut self, now: Instant) {
        if !self.is_isolated() {
            return;
        }
        let soon = now.after(CONTACT_RETRY + self.jitter(CONTACT_RETRY * 4));
        let latest = now.after(CONTACT_RETRY_MAX);
        for contact in self.contacts.all.values_mut() {
            if contact.next_at.is_some_and(|at| at > latest) {
                contact.next_at = Some(soon);
            }
        }
    }

    /// There is no connection to anybody.
    fn is_isolated(&self) -> bool {
        self.table.len() == 0
    }

    pub(super) fn is_linking(&self, address: NodeAddress) -> bool {
        self.links.contains_key(&address)
    }

    /// By way of a new acquaintance, asks for the nodes next to this one: that is how a node gets its
    /// place, and how two rings become one.
    pub(super) fn join(&mut self, by: NodeAddress, now: Instant) {
        let own = self.table.own;
        self.request(super::Mode::Flanks, own, Some(by), Roles::NEAR, super::connect::Purpose::Connect, now);
    }

    /// Ways into the network are kept for a while, and not too many by others.
    pub(super) fn trim_leaves(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for (address, edge) in self.table.iter_mut() {
            if edge.mine.contains(Roles::LEAF) && edge.leaf_until <= now {
                ended.push(address);
            }
        }
        for address in ended {
            self.drop_role(address, Roles::LEAF, now);
            self.ask(address, now);
        }
        let leaves = self
            .table
            .iter()
            .filter(|(_, edge)| edge.mine.is_empty() && !edge.theirs.is_empty() && !edge.is_structured());
        let mut leaves: Vec<(Instant, NodeAddress)> =
            leaves.map(|(address, edge)| (edge.since, address)).collect();
        let over = leaves.len().saturating_sub(limits::LEAVES_MAX);
        leaves.sort_unstable();
        for (_, address) in leaves.into_iter().take(over) {
            self.counts.add(super::Count::Full);
            self.close(address, super::CloseReason::Full, now);
        }
    }
}
