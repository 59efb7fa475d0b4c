//! The node's part in the DHT: what the host wants of it. What comes of it is [`Output::Dht`](super::Output::Dht).

use alloc::sync::Arc;

use super::Node;
use crate::dht::{Error, Kind, RequestId, SigningKey};
use crate::ring::Ring;
use crate::time::Instant;

impl Node {
    /// What time it is, in milliseconds since 1970. To be said when the node starts, and again when the host's clock
    /// is set: records are of no use to a node that does not know.
    pub fn set_clock(&mut self, unix_ms: u64, now: Instant) {
        self.set_gate_clock(unix_ms, now);
        self.with_ring(|ring| ring.set_clock(unix_ms, now));
    }

    /// The key by which this node signs its records, whenever it is part of the ring.
    pub fn set_signing_key(&mut self, key: SigningKey) {
        let key = Arc::new(key);
        self.signing_key = Some(Arc::clone(&key));
        self.with_ring(|ring| ring.set_signing_key(key));
    }

    /// Leaves a record under a name, one of this node's many; makes it again before it is over, if `keep`.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn dht_put(
        &mut self,
        name: &[u8],
        slot: u16,
        value: &[u8],
        ttl_s: u64,
        keep: bool,
        now: Instant,
    ) -> Result<RequestId, Error> {
        self.on_ring(|ring| ring.put(name, slot, value, ttl_s, keep, now))
    }

    /// Leaves the only record under a name, if nobody else has.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn dht_create(
        &mut self,
        name: &[u8],
        value: &[u8],
        ttl_s: u64,
        keep: bool,
        now: Instant,
    ) -> Result<RequestId, Error> {
        self.on_ring(|ring| ring.create(name, value, ttl_s, keep, now))
    }

    /// Asks for what there is under a name.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn dht_get(&mut self, name: &[u8], kind: Kind, now: Instant) -> Result<RequestId, Error> {
        self.on_ring(|ring| ring.get(name, kind, now))
    }

    /// Takes a record of this node's back.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn dht_remove(
        &mut self,
        name: &[u8],
        kind: Kind,
        slot: u16,
        now: Instant,
    ) -> Result<RequestId, Error> {
        self.on_ring(|ring| ring.remove(name, kind, slot, now))
    }

    fn on_ring(
        &mut self,
        act: impl FnOnce(&mut Ring) -> Result<RequestId, Error>,
    ) -> Result<RequestId, Error> {
        self.with_ring(act).unwrap_or(Err(Error::NotReady))
    }
}
