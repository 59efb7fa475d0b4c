//! The forwarding tables of one node as plain data: what a test fills the kernel maps with, what
//! the host-compiled decisions look into, and what the reference reads.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipop_common::Address;
use ipop_common::encapsulation::{Form, Underlay, write_template};
use ipop_common::gpe::LinkId;
use ipop_common::limits::KERNEL_PORT;
use ipop_common::maps::{Config, LAYOUT, Link, LinkRef, Relay};
use ipop_common::relay::Way;
use ipop_common::rules::{KEY_BITS, Key};
use ipop_common::session::Agreed;
use ipop_common::tables::Tables;
use ipop_overlay::group::rules::{Entry, Policy};

use crate::packet::{ClearFrame, Mac};
use crate::sealed::{self, DAEMON_PORT};

/// A lease that outlasts every test.
pub const LEASE_FOREVER: u64 = u64::MAX;
/// A lease that ended before any test began.
pub const LEASE_OVER: u64 = 1;

/// A prefix and where it leads.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    pub address: IpAddr,
    /// In the address's own family: 24 for a /24.
    pub len: u8,
    pub to: LinkRef,
}

/// All tables of one node.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub config: Config,
    pub links: BTreeMap<u32, Link>,
    /// Whole addresses.
    pub hosts: BTreeMap<Address, LinkRef>,
    /// Shorter prefixes.
    pub prefixes: Vec<Prefix>,
    pub link_ids: BTreeMap<u32, LinkRef>,
    /// By the index that this node gave them.
    pub sessions: BTreeMap<u32, Agreed>,
    /// By label.
    pub relays: BTreeMap<u32, Relay>,
    pub rules: Vec<Entry>,
}

/// One peer of the node under test, and the link to it.
#[derive(Clone, Debug)]
pub struct Peer {
    pub slot: u32,
    pub epoch: u32,
    pub link_id: u32,
    pub mtu: u16,
    /// Underlay interface that leads to it.
    pub ifindex: u32,
    /// Outer address of the node under test.
    pub local: IpAddr,
    /// Outer address of the peer.
    pub remote: IpAddr,
    pub local_mac: Mac,
    pub remote_mac: Mac,
    /// An inner address of each family that belongs to it.
    pub inner_v4: IpAddr,
    pub inner_v6: IpAddr,
}

impl Peer {
    /// The link as a daemon would write it.
    pub fn link(&self) -> Link {
        let link_id = LinkId::new(self.link_id).expect("a link id");
        self.link_in(KERNEL_PORT, Form::Clear(link_id))
    }

    /// As [`Self::link`], sealed.
    pub fn sealed_link(&self) -> Link {
        self.link_in(DAEMON_PORT, Form::Sealed { source_port: DAEMON_PORT })
    }

    /// As [`Self::sealed_link`], by a relay that is at `remote` and this port.
    pub fn relayed_link(&self, port: u16, label: u32) -> Link {
        self.link_in(port, Form::Relayed { source_port: DAEMON_PORT, label })
    }

    /// The way to this peer where it is one of two between which the node relays, by its daemon's port.
    pub fn way(&self, port: u16) -> Way {
        Way {
            ifindex: self.ifindex,
            source_mac: self.local_mac,
            next_hop_mac: self.remote_mac,
            local: Address::from(self.local),
            own_port: DAEMON_PORT,
            peer: (self.remote, port).into(),
            exit: None,
        }
    }

    fn link_in(&self, port: u16, form: Form) -> Link {
        let mut link = Link {
            epoch: self.epoch,
            ifindex: self.ifindex,
            mtu: self.mtu,
            lease_until_ns: LEASE_FOREVER,
            ..Link::EMPTY
        };
        let underlay = Underlay {
            source_mac: self.local_mac,
            next_hop_mac: self.remote_mac,
            local: Address::from(self.local),
            peer: SocketAddr::new(self.remote, port),
            form,
        };
        write_template(&mut link, &underlay);
        link
    }

    pub fn reference(&self) -> LinkRef {
        LinkRef { slot: self.slot, epoch: self.epoch }
    }

    /// A frame from this peer that carries `inner`.
    pub fn frame(&self, inner: Vec<u8>) -> ClearFrame {
        ClearFrame {
            destination_mac: self.local_mac,
            source_mac: self.remote_mac,
            source: self.remote,
            destination: self.local,
            source_port: 0xc123,
            port: KERNEL_PORT,
            link_id: self.link_id,
            inner,
        }
    }

    /// The peer's inner address of the same family as `other`.
    pub fn inner(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.inner_v4 } else { self.inner_v6 }
    }
}

impl World {
    /// A node with the kernel path on and no links.
    pub fn new(device_ifindex: u32, miss_ifindex: u32) -> Self {
        let config = Config {
            layout: LAYOUT,
            enabled: 1,
            device_ifindex,
            miss_ifindex,
            port: KERNEL_PORT,
            sealed_port: DAEMON_PORT,
            ..Config::default()
        };
        Self { config, ..Self::default() }
    }

    /// Adds the link to `peer` and its two inner addresses.
    pub fn add_peer(&mut self, peer: &Peer) {
        self.links.insert(peer.slot, peer.link());
        self.link_ids.insert(peer.link_id, peer.reference());
        for address in [peer.inner_v4, peer.inner_v6] {
            self.hosts.insert(Address::from(address), peer.reference());
        }
    }

    /// Adds a link to `peer` that is sealed with `session`, and its two inner addresses.
    pub fn add_sealed(&mut self, peer: &Peer, session: &sealed::Session) {
        self.add_peer(peer);
        self.link_ids.remove(&peer.link_id);
        self.links.insert(peer.slot, Link { session: session.local, ..peer.sealed_link() });
        self.sessions.insert(session.local, session.agreed());
    }

    /// As [`Self::add_sealed`], by a relay that is at the peer's `remote` and this port.
    pub fn add_relayed(&mut self, peer: &Peer, session: &sealed::Session, port: u16, label: u32) {
        self.add_sealed(peer, session);
        self.links.insert(peer.slot, Link { session: session.local, ..peer.relayed_link(port, label) });
    }

    /// Adds an inner address of the node itself.
    pub fn add_local(&mut self, address: IpAddr) {
        self.hosts.insert(Address::from(address), LinkRef::LOCAL);
    }

    /// Holds what goes to and comes from a peer against a policy.
    pub fn rule(&mut self, peer: &Peer, policy: &Policy) {
        self.rules.extend(policy.entries());
        self.change(peer, |link| {
            link.flags |= policy.flags();
            link.policy = policy.id();
        });
    }

    /// Changes a link in place.
    ///
    /// # Panics
    /// Where there is none.
    pub fn change(&mut self, peer: &Peer, change: impl FnOnce(&mut Link)) {
        change(self.links.get_mut(&peer.slot).expect("the peer has a link"));
    }
}

impl Tables for World {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn link(&self, slot: u32) -> Option<&Link> {
        // The kernel's array has every slot; those not in use are zero.
        if slot >= ipop_common::limits::LINK_SLOTS_MAX {
            return None;
        }
        Some(self.links.get(&slot).unwrap_or(&Link::EMPTY))
    }

    fn relay(&self, label: u32) -> Option<&Relay> {
        self.relays.get(&label)
    }

    fn may_begin(&self, wanted: &Key) -> bool {
        let value =
            |key: &Key| key.iter().fold(0u128, |value, word| value << 32 | u128::from(u32::from_be(*word)));
        let is_same = |entry: &Entry| (value(&entry.key) ^ value(wanted)) >> (KEY_BITS - entry.bits) == 0;
        self.rules.iter().any(is_same)
    }

    fn by_link_id(&self, id: LinkId) -> Option<LinkRef> {
        self.link_ids.get(&id.value()).copied()
    }

    fn by_address(&self, address: &Address) -> Option<LinkRef> {
        if let Some(reference) = self.hosts.get(address) {
            return Some(*reference);
        }
        let matching = self.prefixes.iter().filter(|prefix| prefix.contains(address.to_ip()));
        matching.max_by_key(|prefix| prefix.len).map(|prefix| prefix.to)
    }
}

impl Prefix {
    /// Whether the prefix holds an address; never one of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other, bits) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let difference: u128 = own ^ other;
        self.len == 0 || difference >> (bits - u32::from(self.len)) == 0
    }
}
