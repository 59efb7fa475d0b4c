//! Addresses without a server: a node finds in the DHT which addresses its network has, and creates a record under
//! one that nobody else has. The record is the lease: it is made again at half of its life, is another's when the DHT
//! says so, and is taken back when the node goes.
//!
//! | name | record |
//! |---|---|
//! | `dhcp:NAMESPACE` | a [`Pool`], created by the first node that is configured with one |
//! | `dhcp:NAMESPACE:ADDRESS` | the lease of an address: the owner's host name |
//!
//! The client does no I/O and draws no random numbers: which addresses it tries, and in which order, follows from the
//! node's key, so that a node that starts again asks for the address that it had.

mod pool;
#[cfg(test)]
pub(crate) mod tests;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::address::NodeAddress;
use crate::dht::{self, Event, Kind, RETRY, RETRY_MAX, RequestId, TTL_MAX_S};
use crate::node::Node;
use crate::time::Instant;

pub use pool::{
    NAMESPACE_MAX, Pool, PoolError, RESERVED_MAX, STATELESS_BITS, lease_name, namespace_name, stateless,
};

/// The longest host name in a lease (RFC 1035, section 2.3.4).
pub const HOST_MAX: usize = 63;
/// Addresses that are tried before the pool counts as exhausted; all of them, where it has fewer.
pub const TRIES_MAX: u64 = 256;
/// Who is configured with a network's addresses sees so often whether it is still described.
const CHECK: Duration = Duration::from_secs(6 * 3600);

/// Why there is no address yet. The client goes on trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody has said which addresses the network has.
    NoNamespace,
    /// What has been said cannot be read.
    BadNamespace,
    /// All addresses that were tried are others'.
    Exhausted,
    /// The address that was asked for is another's.
    Taken { by: Option<NodeAddress> },
    /// The address that was asked for is not one of the network's, or is reserved for another.
    NotInPool,
    /// The DHT does not answer.
    NoAnswer,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoNamespace => {
                f.write_str("no node has described the network's addresses; configure a pool on one")
            }
            Self::BadNamespace => f.write_str("the description of the network's addresses cannot be read"),
            Self::Exhausted => f.write_str("all addresses of the pool are taken; enlarge it or free some"),
            Self::Taken { by: Some(by) } => write!(f, "the address is {by}'s"),
            Self::Taken { by: None } => f.write_str("the address is another node's"),
            Self::NotInPool => f.write_str("the address is not in the pool, or is reserved for another node"),
            Self::NoAnswer => f.write_str("too few nodes have answered; trying again"),
        }
    }
}

impl core::error::Error for Error {}

/// What has become of this node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The node has this address, in a network with a prefix of this length.
    Bound {
        address: IpAddr,
        prefix_len: u8,
    },
    /// It has it no more; another is looked for.
    Lost {
        address: IpAddr,
    },
    Failed(Error),
}

/// What a client is told when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// 1 to [`NAMESPACE_MAX`] bytes.
    pub namespace: String,
    /// The addresses that the network has, if this node is configured with them.
    pub pool: Option<Pool>,
    /// The only address that will do.
    pub wanted: Option<IpAddr>,
    /// The address that is tried first: what the node had before.
    pub preferred: Option<IpAddr>,
    /// This node's host name, which others find with its lease.
    pub host: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The description is to be asked for.
    Describe,
    Describing(RequestId),
    /// An address is to be asked for.
    Select,
    Requesting(RequestId, IpAddr),
    Bound(IpAddr),
    Released,
}

/// A client; see the module's documentation.
#[derive(Debug)]
pub struct Client {
    config: Config,
    public_key: [u8; 32],
    pool: Option<Pool>,
    state: State,
    /// When the state is gone on with; when something comes, if `None`.
    next_at: Option<Instant>,
    /// When it is seen whether the network is still described as this node is configured.
    check_at: Option<Instant>,
    /// The request by which that is seen, and the one by which it is described.
    checking: Option<RequestId>,
    announcing: Option<RequestId>,
    tried: u64,
    failures: u32,
    outputs: VecDeque<Output>,
}

impl Client {
    /// A client that begins at once.
    pub fn new(config: Config, public_key: [u8; 32], now: Instant) -> Self {
        // Who is configured with the addresses begins with them, and sees meanwhile what others have said.
        let pool = config.pool.clone();
        let check_at = pool.is_some().then_some(now);
        let state = if pool.is_some() { State::Select } else { State::Describe };
        Self {
            config,
            public_key,
            pool,
            state,
            next_at: Some(now),
            check_at,
            checking: None,
            announcing: None,
            tried: 0,
            failures: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The address that the node has.
    pub fn address(&self) -> Option<IpAddr> {
        match self.state {
            State::Bound(address) => Some(address),
            _ => None,
        }
    }

    pub fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next_at, self.check_at].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, node: &mut Node, now: Instant) {
        if self.check_at.take_if(|at| *at <= now).is_some() {
            self.checking = node.dht_get(&self.namespace(), Kind::Create, now).ok();
            self.check_at = Some(now.after(if self.checking.is_some() { CHECK } else { RETRY }));
        }
        if self.next_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        match self.state {
            State::Describe => match node.dht_get(&self.namespace(), Kind::Create, now) {
                Ok(request) => self.state = State::Describing(request),
                Err(_) => self.later(now),
            },
            State::Select => self.select(node, now),
            State::Describing(_) | State::Requesting(..) | State::Bound(_) | State::Released => {}
        }
    }

    /// Takes in what has become of something in the DHT; says whether it is the client's.
    pub fn handle_event(&mut self, event: &Event, node: &mut Node, now: Instant) -> bool {
        match (self.state, event) {
            (_, Event::Got { request, records, .. }) if self.checking == Some(*request) => {
                self.checking = None;
                match records.first() {
                    Some(record) => self.described(&record.value, node, now),
                    None => self.announce(node, now),
                }
            }
            (_, Event::Failed { request, .. }) if self.checking == Some(*request) => {
                self.checking = None;
                self.check_at = Some(now.after(RETRY_MAX));
            }
            (_, Event::Stored { request, .. }) if self.announcing == Some(*request) => self.announcing = None,
            (_, Event::Refused { request, .. } | Event::Failed { request, .. })
                if self.announcing == Some(*request) =>
            {
                // Another has described it: see how.
                self.announcing = None;
                self.check_at = Some(now.after(RETRY));
            }
            (State::Describing(id), Event::Got { request, records, .. }) if id == *request => {
                match records.first() {
                    Some(record) => self.described(&record.value, node, now),
                    None => self.fail(Error::NoNamespace, now),
                }
            }
            (State::Requesting(id, address), Event::Stored { request, .. }) if id == *request => {
                (self.failures, self.tried) = (0, 0);
                self.state = State::Bound(address);
                self.config.preferred = Some(address);
                let prefix_len = self.pool.as_ref().map_or(0, Pool::prefix_len);
                self.outputs.push_back(Output::Bound { address, prefix_len });
            }
            (State::Requesting(id, _), Event::Refused { request, standing, .. }) if id == *request => {
                if self.wanted().is_some() {
                    let by = standing.as_ref().map(dht::Record::owner_address);
                    self.fail(Error::Taken { by }, now);
                } else {
                    self.tried += 1;
                    self.select(node, now);
                }
            }
            (State::Describing(id) | State::Requesting(id, _), Event::Failed { request, .. })
                if id == *request =>
            {
                self.fail(Error::NoAnswer, now);
            }
            (State::Bound(address), Event::Lost { key, .. }) if *key == self.key(address) => {
                self.config.preferred = None;
                self.outputs.push_back(Output::Lost { address });
                self.tried = 0;
                self.select(node, now);
            }
            (_, Event::Lost { key, .. }) if Some(*key) == dht::Key::of_name(&self.namespace()) => {
                // Another's description stands, or nobody's.
                self.check_at = Some(now);
            }
            _ => return false,
        }
        true
    }

    /// Gives the address back.
    pub fn release(&mut self, node: &mut Node, now: Instant) {
        if let State::Bound(address) | State::Requesting(_, address) = self.state {
            let name = lease_name(&self.config.namespace, address);
            // What cannot be taken back is over in time.
            let _is_begun = node.dht_remove(&name, Kind::Create, 0, now);
        }
        (self.state, self.next_at, self.check_at) = (State::Released, None, None);
    }

    fn namespace(&self) -> Vec<u8> {
        namespace_name(&self.config.namespace)
    }

    fn key(&self, address: IpAddr) -> dht::Key {
        let name = lease_name(&self.config.namespace, address);
        // Namespaces are short enough: a name that is not would have been refused before.
        dht::Key::of_name(&name).unwrap_or(dht::Key(NodeAddress([0; 20])))
    }

    /// Describes the network, if this node is configured to; whoever is first may.
    fn announce(&mut self, node: &mut Node, now: Instant) {
        if let Some(pool) = &self.config.pool {
            self.announcing = node.dht_create(&self.namespace(), &pool.to_bytes(), TTL_MAX_S, true, now).ok();
        }
    }

    /// The network is described: what does not fit is given back.
    fn described(&mut self, value: &[u8], node: &mut Node, now: Instant) {
        let Some(pool) = Pool::parse(value) else { return self.fail(Error::BadNamespace, now) };
        if self.pool.as_ref() == Some(&pool) && self.state != State::Describe {
            if matches!(self.state, State::Describing(_)) {
                self.select(node, now);
            }
            return;
        }
        let before = self.state;
        self.pool = Some(pool);
        if before == State::Released {
            return;
        }
        if matches!(before, State::Bound(_) | State::Requesting(..)) {
            self.release(node, now);
            self.check_at = self.config.pool.is_some().then(|| now.after(CHECK));
        }
        if let State::Bound(address) = before {
            self.outputs.push_back(Output::Lost { address });
        }
        self.tried = 0;
        self.select(node, now);
    }

    /// The only address that will do.
    fn wanted(&self) -> Option<IpAddr> {
        let own = NodeAddress::of_key(&self.public_key);
        self.config.wanted.or_else(|| self.pool.as_ref()?.reserved_for(own))
    }

    /// Asks for the next address.
    fn select(&mut self, node: &mut Node, now: Instant) {
        self.state = State::Select;
        let Some(pool) = &self.pool else { return self.again(now) };
        let own = NodeAddress::of_key(&self.public_key);
        let address = match self.wanted() {
            Some(wanted)
                if !pool.contains(wanted) || pool.owner(wanted).is_some_and(|owner| owner != own) =>
            {
                return self.fail(Error::NotInPool, now);
            }
            Some(wanted) => wanted,
            None => {
                let is_free = |address: &IpAddr| pool.contains(*address) && pool.owner(*address).is_none();
                let preferred = self.config.preferred.filter(is_free);
                let before = u64::from(preferred.is_some());
                let tries = pool.size().min(TRIES_MAX) + before;
                let free = |tried: u64| match (tried.checked_sub(before), preferred) {
                    (None, preferred) => preferred,
                    (Some(tried), _) => pool
                        .candidate(&self.public_key, tried)
                        .filter(|address| is_free(address) && preferred != Some(*address)),
                };
                let next = (self.tried..tries).find_map(|tried| Some((tried, free(tried)?)));
                let Some((tried, address)) = next else { return self.fail(Error::Exhausted, now) };
                self.tried = tried;
                address
            }
        };
        let name = lease_name(&self.config.namespace, address);
        let host = self.config.host.as_bytes();
        let host = host.get(..HOST_MAX).unwrap_or(host);
        match node.dht_create(&name, host, u64::from(pool.lease_s()), true, now) {
            Ok(request) => self.state = State::Requesting(request, address),
            Err(_) => self.later(now),
        }
    }

    /// From the beginning, in a while.
    fn again(&mut self, now: Instant) {
        self.state = if self.config.pool.is_some() { State::Select } else { State::Describe };
        self.later(now);
    }

    fn fail(&mut self, error: Error, now: Instant) {
        self.outputs.push_back(Output::Failed(error));
        self.tried = 0;
        self.again(now);
    }

    fn later(&mut self, now: Instant) {
        let wait = dht::retry_after(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.next_at = Some(now.after(wait));
    }
}
