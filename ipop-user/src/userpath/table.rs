//! The forwarding tables of the user path, in memory. The daemon builds a new [`Table`] for every
//! change and publishes it whole; the data threads only read. Nothing here knows the kernel's maps.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipop_common::Address;
use ipop_common::ethernet::{self, Mac};
use ipop_common::gpe::LinkId;
use ipop_common::maps::{Config, Link, LinkRef, PrefixKey};
use ipop_common::rules::{Bucket, Key, read_key};
use ipop_common::tables::Tables;
use ipop_overlay::group::rules::Policy;
use ipop_overlay::{Endpoint, NodeAddress};

use super::counters::LinkTraffic;
use super::session::UserSession;
use crate::places::Places;

/// One direct link as the user path needs it.
#[derive(Clone, Debug)]
pub struct UserLink {
    /// The peer's name in messages.
    pub name: Arc<str>,
    /// What clear packets from the peer carry, if the link takes any ([`Link::TAKES_CLEAR`]).
    pub id: LinkId,
    /// Epoch, lease, outer addresses, flags and MTU; the header template is not used here.
    pub link: Link,
    /// Where the peer's daemon listens, or where other nodes relay or carry to.
    pub endpoint: Endpoint,
    /// Where the relay is, if there is one.
    pub via: Option<Endpoint>,
    /// False: packets to the peer are answered with ICMP unreachable. What it sends is still taken.
    pub reachable: bool,
    pub carriage: Carriage,
    /// What may begin between this node and the peer; `link` has its flags and its id.
    pub policy: Arc<Policy>,
    /// Survives table swaps: hand the same one to the next table.
    pub traffic: Arc<LinkTraffic>,
}

impl UserLink {
    /// A reachable clear link to `endpoint` from address `local`, which never expires by itself: the
    /// user path dies with the daemon that would renew it.
    ///
    /// `mtu` is the largest inner packet in bytes.
    pub fn new(name: &str, id: LinkId, local: Address, endpoint: SocketAddr, mtu: u16) -> Self {
        let link = Link {
            lease_until_ns: u64::MAX,
            epoch: 1,
            peer: Address::from(endpoint.ip()),
            local,
            mtu,
            flags: Link::TAKES_CLEAR,
            outer_version: if endpoint.is_ipv4() { 4 } else { 6 },
            ..Link::EMPTY
        };
        Self {
            name: name.into(),
            id,
            link,
            endpoint: Endpoint::Udp(endpoint),
            via: None,
            reachable: true,
            carriage: Carriage::Clear(id),
            policy: Arc::new(Policy::open()),
            traffic: Arc::default(),
        }
    }

    /// As [`UserLink::new`], to a peer that is reached by TCP, that other nodes carry to, or one relays to that is
    /// at `via`: sealed, with no session yet. Nothing clear is taken from it.
    pub fn around(name: &str, id: LinkId, to: Endpoint, via: Option<Endpoint>, mtu: u16) -> Self {
        let link = Link { lease_until_ns: u64::MAX, epoch: 1, mtu, outer_version: 4, ..Link::EMPTY };
        Self {
            name: name.into(),
            id,
            link,
            endpoint: to,
            via,
            reachable: true,
            carriage: Carriage::Sealed(None),
            policy: Arc::new(Policy::open()),
            traffic: Arc::default(),
        }
    }

    /// Holds what the peer sends, and is sent, against a policy.
    #[must_use]
    pub fn ruled(mut self, policy: Arc<Policy>) -> Self {
        const FLAGS: u8 = Link::RULED | Link::MAY_BEGIN | Link::PEER_MAY_BEGIN | Link::CLOSED;
        self.link.flags = (self.link.flags & !FLAGS) | policy.flags();
        self.link.policy = policy.id();
        self.policy = policy;
        self
    }
}

/// How packets go to a peer.
#[derive(Clone, Debug)]
pub enum Carriage {
    /// Behind a clear header with this id.
    Clear(LinkId),
    /// Sealed with this session; while there is none, packets wait.
    Sealed(Option<Arc<UserSession>>),
}

/// Links by slot, link id and inner address; sessions by index.
#[derive(Clone, Debug)]
pub struct Table {
    config: Config,
    links: Vec<Option<UserLink>>,
    by_link_id: HashMap<LinkId, LinkRef>,
    hosts: HashMap<Address, LinkRef>,
    /// Longest first.
    prefixes: Vec<(PrefixKey, LinkRef)>,
    sessions: HashMap<u32, (u32, Arc<UserSession>)>,
    policies: HashMap<u64, Arc<Policy>>,
    /// Where flows are noted that await answers.
    begun: Option<Arc<Places>>,
    /// Where the peers' daemons are.
    places: HashSet<IpAddr>,
    /// Which node is at a place: what it relays comes from there.
    nodes: HashMap<Endpoint, NodeAddress>,
    /// Between which places this node relays, by label.
    relayed: HashMap<u32, [Endpoint; 2]>,
    /// Prefixes of addresses whose owner may be found; not those in `absent`, which nobody has.
    searched: Vec<PrefixKey>,
    absent: HashSet<Address>,
    /// `Some` where the virtual network carries Ethernet: whether frames are taken at all.
    switch: Option<bool>,
    /// Broadcast addresses of the virtual network; `None`: groups are not carried.
    broadcasts: Option<HashSet<Address>>,
}

impl Table {
    /// A table without links: every packet out meets no route, every packet in an unknown link.
    pub fn new() -> Self {
        Self {
            config: Config { enabled: 1, ..Config::default() },
            links: Vec::new(),
            by_link_id: HashMap::new(),
            hosts: HashMap::new(),
            prefixes: Vec::new(),
            sessions: HashMap::new(),
            policies: HashMap::new(),
            begun: None,
            places: HashSet::new(),
            nodes: HashMap::new(),
            relayed: HashMap::new(),
            searched: Vec::new(),
            absent: HashSet::new(),
            switch: None,
            broadcasts: None,
        }
    }

    /// Flows that may be answered are noted here. Without, none is.
    pub fn note_flows(&mut self, places: Arc<Places>) {
        self.begun = Some(places);
    }

    /// The network carries Ethernet. `is_open`: frames are taken and delivered.
    pub fn switch_frames(&mut self, is_open: bool) {
        self.switch = Some(is_open);
    }

    pub(super) fn is_switch(&self) -> bool {
        self.switch.is_some()
    }

    /// Frames are neither taken nor delivered: another node bridges the same segment.
    pub(super) fn is_shut(&self) -> bool {
        self.switch == Some(false)
    }

    /// Frames to a station lead to a link, or with [`LinkRef::LOCAL`] to this node's own side.
    pub fn insert_station(&mut self, mac: Mac, reference: LinkRef) {
        self.hosts.insert(ethernet::station(mac), reference);
    }

    /// Frames to a station wait until there is a link with the node that it is behind.
    pub fn insert_sought(&mut self, mac: Mac) {
        let address = ethernet::station(mac);
        if !self.hosts.contains_key(&address) {
            self.searched.push(PrefixKey { bits: 128, address: address.to_bytes() });
        }
    }

    /// Puts a link into `slot`, makes it known by its id, and returns what prefixes lead to.
    ///
    /// # Errors
    /// Gives the link back where the slot or its id is taken.
    pub fn insert_link(&mut self, slot: u32, link: UserLink) -> Result<LinkRef, Box<UserLink>> {
        let index = slot as usize;
        if self.by_link_id.contains_key(&link.id) || self.user_link(slot).is_some() {
            return Err(Box::new(link));
        }
        if self.links.len() <= index {
            self.links.resize(index + 1, None);
        }
        let reference = LinkRef { slot, epoch: link.link.epoch };
        self.by_link_id.insert(link.id, reference);
        if link.link.policy != 0 {
            self.policies.insert(link.link.policy, Arc::clone(&link.policy));
        }
        self.places.extend(link.endpoint.direct().map(|endpoint| endpoint.ip()));
        self.links[index] = Some(link);
        Ok(reference)
    }

    /// Packets to addresses under `prefix` that lead nowhere wait until somebody has been asked who has
    /// them.
    pub fn insert_searched(&mut self, prefix: PrefixKey) {
        self.searched.push(masked(prefix));
    }

    /// Nobody has this address: packets to it are answered.
    pub fn insert_absent(&mut self, address: Address) {
        self.absent.insert(address);
    }

    /// Packets for groups and for all are carried; these are the addresses of the latter beside 255.255.255.255.
    pub fn carry_groups(&mut self, broadcasts: impl IntoIterator<Item = Address>) {
        self.broadcasts = Some(broadcasts.into_iter().collect());
    }

    pub(super) fn carries_groups(&self) -> bool {
        self.broadcasts.is_some()
    }

    /// Whether an address is that of all hosts of a virtual network.
    pub(super) fn is_broadcast(&self, address: &Address) -> bool {
        self.broadcasts.as_ref().is_some_and(|broadcasts| broadcasts.contains(address))
    }

    /// Whether it is worth asking who has an address.
    pub(super) fn may_be_found(&self, address: &Address) -> bool {
        let contains = |prefix: &PrefixKey| {
            masked(PrefixKey { bits: prefix.bits, address: address.to_bytes() }).address == prefix.address
        };
        self.searched.iter().any(contains) && !self.absent.contains(address)
    }

    /// Leads the inner addresses under `prefix` to a link, or to this node with [`LinkRef::LOCAL`].
    /// Bits of the address past the prefix's length are ignored; a prefix given again replaces.
    pub fn insert_prefix(&mut self, prefix: PrefixKey, reference: LinkRef) {
        let prefix = masked(prefix);
        if prefix.bits == 128 {
            self.hosts.insert(Address::from_bytes(prefix.address), reference);
            return;
        }
        self.prefixes.retain(|(known, _)| *known != prefix);
        let at = self.prefixes.partition_point(|(known, _)| known.bits >= prefix.bits);
        self.prefixes.insert(at, (prefix, reference));
    }

    /// Packets of this session are taken as those of the peer in `slot`, whatever its carriage.
    pub fn insert_session(&mut self, slot: u32, session: Arc<UserSession>) {
        self.sessions.insert(session.local(), (slot, session));
    }

    /// The session that this node knows by `local`, and the slot of its peer.
    pub fn user_session(&self, local: u32) -> Option<(u32, &Arc<UserSession>)> {
        self.sessions.get(&local).map(|(slot, session)| (*slot, session))
    }

    /// What a node relays comes from this place.
    pub fn insert_node(&mut self, place: Endpoint, node: NodeAddress) {
        self.nodes.insert(place, node);
    }

    /// What comes with this label from one of two places goes to the other.
    pub fn insert_relayed(&mut self, label: u32, places: [Endpoint; 2]) {
        self.relayed.insert(label, places);
    }

    /// Where a relay frame is to be passed on to; `None` for one that is not between others.
    pub fn next_hop(&self, label: u32, from: Endpoint) -> Option<Endpoint> {
        match self.relayed.get(&label)? {
            [a, b] if *a == from => Some(*b),
            [a, b] if *b == from => Some(*a),
            _ => None,
        }
    }

    /// The node at a place.
    pub fn node_at(&self, place: Endpoint) -> Option<NodeAddress> {
        self.nodes.get(&place).copied()
    }

    /// Whether a peer's daemon is at this address, as far as this node knows.
    pub fn has_peer_at(&self, address: IpAddr) -> bool {
        self.places.contains(&address)
    }

    /// Where the peers' daemons are.
    pub fn peers_at(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.places.iter().copied()
    }

    pub fn user_link(&self, slot: u32) -> Option<&UserLink> {
        self.links.get(slot as usize)?.as_ref()
    }

    /// All links with their slots.
    pub fn links(&self) -> impl Iterator<Item = (u32, &UserLink)> {
        self.links.iter().zip(0u32..).filter_map(|(link, slot)| Some((slot, link.as_ref()?)))
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Tables for Table {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn link(&self, slot: u32) -> Option<&Link> {
        Some(&self.user_link(slot)?.link)
    }

    fn by_link_id(&self, id: LinkId) -> Option<LinkRef> {
        self.by_link_id.get(&id).copied()
    }

    fn may_begin(&self, wanted: &Key) -> bool {
        let (id, direction, protocol, port) = read_key(wanted);
        self.policies.get(&id).is_some_and(|policy| policy.allows(direction, protocol, port))
    }

    fn begun(&self, index: u32) -> Option<&Bucket> {
        self.begun.as_ref()?.begun(index)
    }

    fn by_address(&self, address: &Address) -> Option<LinkRef> {
        if let Some(reference) = self.hosts.get(address) {
            return Some(*reference);
        }
        let bits = u128::from_be_bytes(address.to_bytes());
        let covers = |(prefix, _): &&(PrefixKey, LinkRef)| {
            bits & mask(prefix.bits) == u128::from_be_bytes(prefix.address)
        };
        self.prefixes.iter().find(covers).map(|(_, reference)| *reference)
    }
}

/// The first `bits` of 128.
const fn mask(bits: u32) -> u128 {
    match bits {
        0 => 0,
        bits if bits >= 128 => u128::MAX,
        bits => u128::MAX << (128 - bits),
    }
}

fn masked(prefix: PrefixKey) -> PrefixKey {
    let bits = prefix.bits.min(128);
    let address = u128::from_be_bytes(prefix.address) & mask(bits);
    PrefixKey { bits, address: address.to_be_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn prefix(text: &str, len: u32) -> PrefixKey {
        let address = address(text);
        let offset = if address.family() == ipop_common::Family::V4 { 96 } else { 0 };
        PrefixKey { bits: offset + len, address: address.to_bytes() }
    }

    fn link(id: u32) -> UserLink {
        UserLink::new(
            "peer",
            LinkId::new(id).unwrap(),
            address("10.200.0.1"),
            "10.200.0.2:15000".parse().unwrap(),
            1464,
        )
    }

    #[test]
    fn the_longest_prefix_wins_in_whatever_order_they_came() {
        let mut table = Table::new();
        let refs: Vec<_> = (0..4).map(|slot| table.insert_link(slot, link(slot + 1)).unwrap()).collect();
        table.insert_prefix(prefix("10.1.0.0", 16), refs[1]);
        table.insert_prefix(prefix("10.0.0.0", 8), refs[0]);
        table.insert_prefix(prefix("10.1.2.3", 32), refs[3]);
        table.insert_prefix(prefix("10.1.2.0", 24), refs[2]);
        for (text, slot) in [("10.9.9.9", 0), ("10.1.9.9", 1), ("10.1.2.9", 2), ("10.1.2.3", 3)] {
            assert_eq!(table.by_address(&address(text)), Some(refs[slot]), "{text}");
        }
        assert_eq!(table.by_address(&address("11.0.0.1")), None);
        assert_eq!(table.by_address(&address("fd00::1")), None);
    }

    #[test]
    fn a_default_route_of_one_family_does_not_take_the_other() {
        let mut table = Table::new();
        let reference = table.insert_link(0, link(1)).unwrap();
        table.insert_prefix(prefix("0.0.0.0", 0), reference);
        assert_eq!(table.by_address(&address("192.0.2.1")), Some(reference));
        assert_eq!(table.by_address(&address("2001:db8::1")), None);
    }

    #[test]
    fn a_prefix_given_again_replaces_and_host_bits_do_not_matter() {
        let mut table = Table::new();
        let reference = table.insert_link(0, link(1)).unwrap();
        table.insert_prefix(prefix("fd00::1", 64), LinkRef::LOCAL);
        table.insert_prefix(prefix("fd00::2", 64), reference);
        assert_eq!(table.by_address(&address("fd00::3")), Some(reference));
    }

    #[test]
    fn a_session_is_known_by_its_index() {
        let mut table = Table::new();
        let reference = table.insert_link(0, link(1)).unwrap();
        let session = Arc::new(UserSession::new(77, &[1; 32], &[2; 32]));
        table.insert_session(reference.slot, session);
        assert_eq!(table.user_session(77).map(|(slot, _)| slot), Some(0));
        assert!(table.user_session(78).is_none());
    }

    #[test]
    fn a_taken_slot_or_link_id_is_refused() {
        let mut table = Table::new();
        table.insert_link(2, link(1)).unwrap();
        assert!(table.insert_link(2, link(2)).is_err());
        assert!(table.insert_link(3, link(1)).is_err());
        assert_eq!(table.links().map(|(slot, _)| slot).collect::<Vec<_>>(), [2]);
    }
}
