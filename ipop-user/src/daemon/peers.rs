//! The daemon's side of each peer: how the host reaches it, and what the two data paths were told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipop_common::encapsulation::{Form, Underlay, overhead};
use ipop_common::gpe::LinkId;
use ipop_common::limits::{INNER_LEN_MAX, KERNEL_PORT, MTU_IPV6_MIN, MTU_MIN};
use ipop_common::maps::PrefixKey;
use ipop_common::{Address, Family};
use ipop_overlay::{Path, PeerId, UserReason};

use crate::config::{self, Mtu};
use crate::kernel::{LinkIntent, Prefix};
use crate::netlink;
use crate::userpath::{LinkTraffic, Table, UserLink};

/// How packets to a peer's endpoint leave this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) path: netlink::Path,
    /// MAC of the interface; `None` for one that is not Ethernet.
    pub(super) source_mac: Option<[u8; 6]>,
    /// `None` while the kernel is still resolving it.
    pub(super) next_hop_mac: Option<[u8; 6]>,
    pub(super) interface: String,
}

impl Reach {
    /// The largest inner packet that the path takes whole.
    pub(super) fn inner_mtu(&self, configured: Mtu) -> u16 {
        let family = Address::from(self.path.source).family();
        let space = self.path.mtu.saturating_sub(u32::from(overhead(family)));
        let auto = u16::try_from(space.min(INNER_LEN_MAX as u32)).unwrap_or(u16::MAX).max(MTU_MIN);
        match configured {
            Mtu::Auto => auto,
            Mtu::Bytes(bytes) => auto.min(bytes),
        }
    }
}

/// What the daemon keeps of one peer.
#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) id: PeerId,
    pub(super) link_id: LinkId,
    pub(super) config: config::Peer,
    pub(super) reach: Result<Reach, String>,
    /// What the kernel's maps hold of this peer, or why nothing.
    pub(super) kernel: Result<(), String>,
    pub(super) traffic: Arc<LinkTraffic>,
    /// The last path that carried packets, kept while a new conversation starts.
    pub(super) last: Option<(SocketAddr, u16)>,
}

impl PeerState {
    pub(super) fn new(id: PeerId, link_id: LinkId, config: config::Peer) -> Self {
        Self {
            id,
            link_id,
            config,
            reach: Err("not resolved yet".to_owned()),
            kernel: Err("not set up yet".to_owned()),
            traffic: Arc::default(),
            last: None,
        }
    }

    /// The inner prefixes of the peer.
    pub(super) fn prefixes(&self) -> Vec<Prefix> {
        self.config.addresses.iter().map(|p| Prefix::new(p.addr(), p.len())).collect()
    }

    /// What the kernel's maps should hold while the overlay decides on `path`; an error says why
    /// there can be no entry.
    pub(super) fn intent(&self, path: Path) -> Result<LinkIntent, String> {
        let reach = self.reach.as_ref().map_err(Clone::clone)?;
        let (peer, mtu, send) = match path {
            Path::None(_) => return Err("the peer is not reachable".to_owned()),
            Path::Kernel { endpoint, mtu } => (endpoint, mtu, true),
            // On this side off, the switch in the maps says so.
            Path::User { endpoint, mtu, reason } => {
                (SocketAddr::new(endpoint.ip(), KERNEL_PORT), mtu, reason == UserReason::OffHere)
            }
        };
        let Some(source_mac) = reach.source_mac else {
            return Err(format!("{} is not an Ethernet interface", reach.interface));
        };
        let Some(next_hop_mac) = reach.next_hop_mac else {
            return Err(format!("the link-layer address of {} is not known yet", reach.path.next_hop));
        };
        let underlay = Underlay {
            source_mac,
            next_hop_mac,
            local: reach.path.source.into(),
            peer,
            form: Form::Clear(self.link_id),
        };
        Ok(LinkIntent { underlay, ifindex: reach.path.ifindex, mtu, send, prefixes: self.prefixes() })
    }

    /// The peer's link in the user path's table; `None` while it is not known where the peer is.
    pub(super) fn user_link(&self, path: Path, endpoint: Option<SocketAddr>) -> Option<UserLink> {
        let (endpoint, mtu, reachable) = match path {
            Path::User { endpoint, mtu, .. } => (endpoint, mtu, true),
            // The user path still takes what the kernel path misses.
            Path::Kernel { mtu, .. } => (endpoint?, mtu, true),
            Path::None(_) => match self.last {
                Some((endpoint, mtu)) => (endpoint, mtu, true),
                None => (endpoint?, MTU_IPV6_MIN, false),
            },
        };
        let local = match &self.reach {
            Ok(reach) => reach.path.source.into(),
            Err(_) => Address::default(),
        };
        let mut link = UserLink::new(&self.config.name, self.link_id, local, endpoint, mtu);
        link.reachable = reachable;
        link.traffic = Arc::clone(&self.traffic);
        Some(link)
    }
}

/// The table of the user path for all peers. `link` gives each peer's link.
pub(super) fn table(
    own: &[config::Prefix],
    peers: &[PeerState],
    link: impl Fn(&PeerState) -> Option<UserLink>,
) -> Table {
    let mut table = Table::new();
    for (peer, slot) in peers.iter().zip((0u32..).step_by(2)) {
        let Some(link) = link(peer) else { continue };
        // Slots and link ids are unique by construction; a refusal would only leave this peer out.
        let Ok(reference) = table.insert_link(slot, link) else { continue };
        for prefix in peer.prefixes() {
            table.insert_prefix(key(&prefix), reference);
        }
    }
    for prefix in own {
        let host = Prefix::host(Address::from(prefix.addr()));
        table.insert_prefix(key(&host), ipop_common::maps::LinkRef::LOCAL);
    }
    table
}

fn key(prefix: &Prefix) -> PrefixKey {
    PrefixKey { bits: prefix.bits, address: prefix.address.to_bytes() }
}

/// The device's MTU: the largest of the links', and no less than IPv6 needs where it is used.
pub(super) fn device_mtu(configured: Mtu, links: impl Iterator<Item = u16>, has_ipv6: bool) -> Option<u32> {
    let largest = match configured {
        Mtu::Bytes(bytes) => Some(bytes),
        Mtu::Auto => links.max(),
    }?;
    let least = if has_ipv6 { MTU_IPV6_MIN } else { MTU_MIN };
    Some(u32::from(largest.max(least)))
}

/// The MTU of a route to a prefix behind a link: none where the device's own says it already, and
/// for IPv6 never less than every IPv6 link must carry.
pub(super) fn route_mtu(prefix: IpAddr, link: u16, device: u32) -> Option<u32> {
    let least = if Address::from(prefix).family() == Family::V6 { MTU_IPV6_MIN } else { MTU_MIN };
    Some(u32::from(link.max(least))).filter(|mtu| *mtu < device)
}
