//! Who has which address of the virtual network. A node leaves what it claims with the nodes on both
//! sides of a place on the ring that follows from the address; who looks for the address asks there.
//!
//! What is found this way is only where to look: whether a node has an address it says itself, in the
//! session with it. Of two that claim the same one, the older claim stays, and the younger is told.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use blake2::{Blake2s256, Digest};
use ipop_common::Address;

use super::counts::Count;
use super::wire::{Claim, ClaimKind, Header, Kind, Mode};
use super::{Output, Ring};
use crate::address::NodeAddress;
use crate::time::Instant;

/// Claims that one node keeps for others.
const KEPT_MAX: usize = 4096;
/// Those of one node among them.
const KEPT_OF_ONE_MAX: usize = 16;
/// Addresses that one node claims.
pub(crate) const OWN_MAX: usize = 16;
/// A claim that is not made again for so long is over.
const LIFE: Duration = Duration::from_secs(900);
/// Claims are made again so often: in a small network sooner.
const RENEWAL: Duration = Duration::from_secs(300);
const RENEWAL_SMALL: Duration = Duration::from_secs(60);
/// The first times follow each other faster: the ring may not be whole yet.
const RENEWAL_FIRST: Duration = Duration::from_secs(2);
/// Lookups under way, and how often each is repeated.
const LOOKUPS_MAX: usize = 64;
const LOOKUP_TRIES: u8 = 4;
const LOOKUP_APART: Duration = Duration::from_millis(500);

/// What the claims of this node and those that it keeps are made of.
#[derive(Default)]
pub(super) struct Claims {
    own: Vec<IpAddr>,
    /// Since when, UNIX time in seconds.
    since: u64,
    renew_at: Option<Instant>,
    rounds: u8,
    kept: BTreeMap<IpAddr, Kept>,
    lookups: BTreeMap<IpAddr, Lookup>,
}

struct Kept {
    public_key: [u8; 32],
    since: u64,
    until: Instant,
}

struct Lookup {
    tries: u8,
    next_at: Instant,
}

/// Where on the ring claims of an address are kept.
fn place(address: IpAddr) -> NodeAddress {
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, b"ipop address v1");
    Digest::update(&mut hash, Address::from(address).to_bytes());
    NodeAddress::of_key(&hash.finalize().into())
}

impl Ring {
    /// This node has these addresses, since this UNIX time in seconds.
    pub fn claim(&mut self, mut addresses: Vec<IpAddr>, since: u64, now: Instant) {
        addresses.truncate(OWN_MAX);
        self.claims.own = addresses;
        self.claims.since = since;
        self.claims.rounds = 0;
        self.claims.renew_at = Some(now);
    }

    /// Looks for the node that has an address: [`Output::Found`] says what came of it.
    pub fn look_up(&mut self, address: IpAddr, now: Instant) {
        if self.claims.lookups.contains_key(&address) {
            return;
        }
        if self.claims.lookups.len() >= LOOKUPS_MAX {
            self.counts.add(Count::Full);
            return;
        }
        self.claims.lookups.insert(address, Lookup { tries: 0, next_at: now });
        self.claims_timeout(now);
    }

    pub(super) fn claims_due(&self) -> Option<Instant> {
        let lookups = self.claims.lookups.values().map(|lookup| lookup.next_at);
        lookups.chain(self.claims.renew_at).min()
    }

    pub(super) fn claims_timeout(&mut self, now: Instant) {
        if self.claims.renew_at.is_some_and(|at| at <= now) {
            self.renew_claims(now);
        }
        let due: Vec<IpAddr> = self
            .claims
            .lookups
            .iter()
            .filter(|(_, lookup)| lookup.next_at <= now)
            .map(|(address, _)| *address)
            .collect();
        for address in due {
            let Some(lookup) = self.claims.lookups.get_mut(&address) else { continue };
            lookup.tries += 1;
            lookup.next_at = now.after(LOOKUP_APART * u32::from(lookup.tries));
            if lookup.tries > LOOKUP_TRIES {
                self.claims.lookups.remove(&address);
                self.outputs.push_back(Output::Found { address, public_key: None });
                continue;
            }
            // First the one next to the place; if it knows nothing, those on both sides.
            let mode = if lookup.tries == 1 { Mode::Nearest } else { Mode::Flanks };
            if let Some(kept) = self.claims.kept.get(&address).filter(|kept| kept.until > now) {
                let public_key = Some(kept.public_key);
                self.claims.lookups.remove(&address);
                self.outputs.push_back(Output::Found { address, public_key });
                continue;
            }
            self.send_claim(ClaimKind::Ask, mode, address, now);
        }
    }

    fn renew_claims(&mut self, now: Instant) {
        let is_on_ring = self.table.structured().next().is_some();
        let wait = match self.claims.rounds {
            _ if !is_on_ring => RENEWAL_FIRST / 4,
            0..4 => RENEWAL_FIRST * (1 << self.claims.rounds),
            _ if self.log2_size() < 8 << 8 => RENEWAL_SMALL,
            _ => RENEWAL,
        };
        let wait = wait + self.jitter(wait / 4);
        self.claims.renew_at = (!self.claims.own.is_empty()).then(|| now.after(wait));
        self.claims.kept.retain(|_, kept| kept.until > now);
        if !is_on_ring {
            return;
        }
        self.claims.rounds = self.claims.rounds.saturating_add(1);
        for address in self.claims.own.clone() {
            self.send_claim(ClaimKind::Make, Mode::Flanks, address, now);
        }
    }

    fn send_claim(&mut self, kind: ClaimKind, mode: Mode, address: IpAddr, now: Instant) {
        let claim = Claim {
            kind,
            address: Address::from(address).to_bytes(),
            public_key: self.public_key,
            since: self.claims.since,
        };
        let header = self.header(mode, Kind::Claim, place(address));
        self.originate(header, None, &claim.to_bytes(), None, now);
    }

    pub(super) fn claim_message(&mut self, from: NodeAddress, header: &Header, payload: &[u8], now: Instant) {
        let Some(claim) = Claim::parse(payload) else {
            self.counts.add(Count::BadMessage);
            return;
        };
        let address = Address::from_bytes(claim.address).to_ip();
        match claim.kind {
            ClaimKind::Make => self.keep(from, header.source, &claim, now),
            ClaimKind::Ask => {
                let kept = self.claims.kept.get(&address).filter(|kept| kept.until > now);
                let own = self.claims.own.contains(&address).then_some((self.public_key, self.claims.since));
                let known = own.or_else(|| kept.map(|kept| (kept.public_key, kept.since)));
                let kind = if known.is_some() { ClaimKind::Known } else { ClaimKind::Unknown };
                let (public_key, since) = known.unwrap_or(([0; 32], 0));
                let answer = Claim { kind, address: claim.address, public_key, since };
                self.answer_claim(from, header.source, &answer, now);
            }
            ClaimKind::Known => {
                if self.claims.lookups.remove(&address).is_some() {
                    self.outputs.push_back(Output::Found { address, public_key: Some(claim.public_key) });
                }
            }
            ClaimKind::Unknown => {
                if let Some(lookup) = self.claims.lookups.get_mut(&address)
                    && lookup.tries == 1
                {
                    lookup.next_at = now;
                }
            }
            ClaimKind::Taken => {
                if self.claims.own.contains(&address) && claim.public_key != self.public_key {
                    self.counts.add(Count::AddressTaken);
                    self.outputs.push_back(Output::Taken { address, by: claim.public_key });
                }
            }
        }
    }

    fn answer_claim(&mut self, from: NodeAddress, to: NodeAddress, answer: &Claim, now: Instant) {
        let header = self.header(Mode::Exact, Kind::Claim, to);
        self.originate(header, None, &answer.to_bytes(), Some(from), now);
    }

    /// Keeps what another claims, unless an older claim of somebody else stands.
    fn keep(&mut self, from: NodeAddress, source: NodeAddress, claim: &Claim, now: Instant) {
        if NodeAddress::of_key(&claim.public_key) != source {
            self.counts.add(Count::KeyMismatch);
            return;
        }
        let address = Address::from_bytes(claim.address).to_ip();
        if let Some(kept) = self.claims.kept.get(&address)
            && kept.public_key != claim.public_key
            && kept.until > now
        {
            // Both are told: the younger that the address is taken, the older who wanted it.
            let (older, younger) = if (kept.since, kept.public_key) <= (claim.since, claim.public_key) {
                ((kept.public_key, kept.since), (claim.public_key, claim.since))
            } else {
                ((claim.public_key, claim.since), (kept.public_key, kept.since))
            };
            self.counts.add(Count::AddressTaken);
            for (to, about) in [(younger, older), (older, younger)] {
                let told = Claim {
                    kind: ClaimKind::Taken,
                    address: claim.address,
                    public_key: about.0,
                    since: about.1,
                };
                self.answer_claim(from, NodeAddress::of_key(&to.0), &told, now);
            }
            if older.0 != claim.public_key {
                return;
            }
        }
        if self.claims.kept.len() >= KEPT_MAX {
            self.claims.kept.retain(|_, kept| kept.until > now);
        }
        let of_one = self.claims.kept.values().filter(|kept| kept.public_key == claim.public_key).count();
        let is_new = !self.claims.kept.contains_key(&address);
        if is_new && (self.claims.kept.len() >= KEPT_MAX || of_one >= KEPT_OF_ONE_MAX) {
            self.counts.add(Count::Full);
            return;
        }
        let kept = Kept { public_key: claim.public_key, since: claim.since, until: now.after(LIFE) };
        self.claims.kept.insert(address, kept);
    }
}
