//! The daemon's side of each peer: how the host reaches it, and what the two data paths were told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipop_common::encapsulation::{Form, Underlay, overhead};
use ipop_common::ethernet::{Mac, station};
use ipop_common::gpe::LinkId;
use ipop_common::limits::{INNER_LEN_MAX, KERNEL_PORT, LINKS_MAX, MTU_IPV6_MIN, MTU_MIN, OVERLAY_MTU};
use ipop_common::maps::{Link, PrefixKey};
use ipop_common::{Address, Family, sealed};
use ipop_overlay::group::rules::Policy;
use ipop_overlay::session::AddError;
use ipop_overlay::{
    AddPeerError, Endpoint, Instant, NoPath, NodeAddress, Path, PeerId, PeerView, Security, UserReason,
};

use super::clock;
use super::handover::Handover;
use super::overlay::Overlay;
use super::sealing::Sealing;
use super::switch::mac_of;
use crate::config::{self, Mode, Mtu, Seal};
use crate::kernel::{LinkIntent, LinkSessions, Prefix};
use crate::netlink;
use crate::userpath::{Carriage, LinkTraffic, Table, UserLink};

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
    /// The largest inner packet that the path takes whole in a clear packet.
    pub(super) fn clear_mtu(&self) -> u16 {
        self.mtu_behind(overhead(self.family()))
    }

    /// As [`Reach::clear_mtu`], sealed, and no more than is configured.
    pub(super) fn sealed_mtu(&self, configured: Mtu) -> u16 {
        self.mtu_behind(sealed::overhead(self.family())).min(mtu_max(configured))
    }

    fn family(&self) -> Family {
        Address::from(self.path.source).family()
    }

    fn mtu_behind(&self, overhead: u16) -> u16 {
        let space = self.path.mtu.saturating_sub(u32::from(overhead));
        u16::try_from(space.min(INNER_LEN_MAX as u32)).unwrap_or(u16::MAX).max(MTU_MIN)
    }
}

/// What no inner packet may be larger than, whatever the wire takes.
pub(super) fn mtu_max(configured: Mtu) -> u16 {
    match configured {
        Mtu::Auto => u16::MAX,
        Mtu::Bytes(bytes) => bytes,
    }
}

/// All peers.
pub(super) type Peers = BTreeMap<PeerId, PeerState>;

/// Where this node knows a peer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It has a `[[peer]]` in the configuration.
    Configured,
    /// The overlay has found it, or it has called.
    Found,
}

/// Why a node is not made a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAdded {
    #[error(transparent)]
    Node(#[from] AddPeerError),
    #[error(transparent)]
    Session(#[from] AddError),
    #[error("its certificate, or this node's, was refused shortly before")]
    Shunned,
}

/// What the daemon keeps of one peer.
#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) id: PeerId,
    pub(super) link_id: LinkId,
    pub(super) origin: Origin,
    /// Of its virtual device, where the network carries Ethernet.
    pub(super) mac: Mac,
    /// Of a peer that was found: its name, its key, and the addresses that it may use by now.
    pub(super) config: config::Peer,
    /// The subnets that go to it by now, which it announces.
    pub(super) routed: Vec<config::Prefix>,
    /// The stations that the kernel's maps are to lead to it, where the network carries Ethernet.
    pub(super) stations: Vec<Mac>,
    pub(super) reach: Result<Reach, String>,
    /// What the kernel's maps hold of this peer, or why nothing.
    pub(super) kernel: Result<(), String>,
    /// What may begin between this node and it.
    pub(super) policy: Arc<Policy>,
    pub(super) traffic: Arc<LinkTraffic>,
    /// It knows this node's addresses; until then it would refuse what comes from them.
    pub(super) takes_packets: bool,
    /// When others have carried something to it last.
    pub(super) carried: Option<Instant>,
    /// Its packets wait for those that others carry.
    pub(super) handover: Option<Handover>,
    /// Of one that was found: the addresses that it says it has, whether they are granted or not.
    pub(super) claimed: Vec<IpAddr>,
    /// Since when, as it says, UNIX time in seconds.
    pub(super) claimed_since: u64,
    /// Of one that was found: since when there is no session with it.
    pub(super) without_since: Instant,
}

impl PeerState {
    pub(super) fn new(id: PeerId, link_id: LinkId, origin: Origin, config: config::Peer) -> Self {
        Self {
            id,
            link_id,
            origin,
            mac: mac_of(config.public_key.as_bytes()),
            config,
            routed: Vec::new(),
            stations: Vec::new(),
            reach: Err("not resolved yet".to_owned()),
            kernel: Err("not set up yet".to_owned()),
            policy: Arc::new(Policy::open()),
            traffic: Arc::default(),
            takes_packets: origin == Origin::Configured,
            carried: None,
            handover: None,
            claimed: Vec::new(),
            claimed_since: 0,
            without_since: clock::now(),
        }
    }

    /// Whether the configuration names it: one that was found is called by the beginning of its address.
    pub(super) fn has_name(&self) -> bool {
        self.origin == Origin::Configured
    }

    /// Its address on the overlay.
    pub(super) fn node_address(&self) -> NodeAddress {
        NodeAddress::of_key(self.config.public_key.as_bytes())
    }

    /// Whether packets may go to it now, or have to wait.
    fn may_send(&self) -> bool {
        self.takes_packets && self.handover.is_none()
    }

    /// The inner prefixes of the peer.
    pub(super) fn prefixes(&self) -> Vec<Prefix> {
        let all = self.config.addresses.iter().chain(&self.routed);
        all.map(|p| Prefix::new(p.addr(), p.len())).collect()
    }

    /// The stations that it has, as prefixes; none where the network carries IP.
    fn station_prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.stations.iter().map(|mac| Prefix::host(station(*mac)))
    }

    /// What the kernel's maps should hold while the overlay decides as in `view`; an error says why
    /// there can be no entry. `sessions` are those with the peer, `place` is where its sealed packets go by
    /// UDP (to itself, or to the relay), and the daemon's port from which they do.
    pub(super) fn intent(
        &self,
        view: &PeerView,
        sessions: LinkSessions,
        (mode, seal): (Mode, Seal),
        place: Option<(SocketAddr, u16)>,
    ) -> Result<LinkIntent, String> {
        let reach = self.reach.as_ref().map_err(Clone::clone)?;
        let source_port = place.map_or(0, |(_, port)| port);
        let sealed = Form::Sealed { source_port };
        let clear = |id| match mode {
            Mode::L3 => Form::Clear(id),
            Mode::L2 => Form::ClearFrames(id),
        };
        let (peer, form, mtu, send) = match view.path {
            Path::None(_) => return Err("the peer is not reachable".to_owned()),
            Path::Overlay { .. } => return Err("other nodes carry the packets".to_owned()),
            Path::User { reason: UserReason::Tcp, .. } => return Err("the packets go by TCP".to_owned()),
            Path::User { reason: UserReason::Turn, .. } => {
                return Err("the packets go by a TURN server".to_owned());
            }
            Path::Relay { label, mtu, .. } => {
                let (relay, _) = place.ok_or_else(|| "the relay is not connected by UDP".to_owned())?;
                (relay, Form::Relayed { source_port, label }, mtu, true)
            }
            Path::Kernel { endpoint, mtu, security: Security::Sealed } => (endpoint, sealed, mtu, true),
            Path::Kernel { endpoint, mtu, security: Security::Clear(id) } => (endpoint, clear(id), mtu, true),
            // On this side off, the switch in the maps says so.
            Path::User { endpoint, mtu, security, reason } => {
                let send = reason == UserReason::OffHere;
                match security {
                    Security::Sealed => (endpoint, sealed, mtu, send),
                    Security::Clear(id) => {
                        (SocketAddr::new(endpoint.ip(), KERNEL_PORT), clear(id), mtu, send)
                    }
                }
            }
        };
        let (send, sessions) = match seal {
            Seal::Auto | Seal::Kernel => (send, sessions),
            Seal::User => {
                (send && matches!(form, Form::Clear(_) | Form::ClearFrames(_)), LinkSessions::default())
            }
        };
        let Some(source_mac) = reach.source_mac else {
            return Err(format!("{} is not an Ethernet interface", reach.interface));
        };
        let Some(next_hop_mac) = reach.next_hop_mac else {
            return Err(format!("the link-layer address of {} is not known yet", reach.path.next_hop));
        };
        let underlay = Underlay { source_mac, next_hop_mac, local: reach.path.source.into(), peer, form };
        Ok(LinkIntent {
            underlay,
            ifindex: reach.path.ifindex,
            mtu,
            send: send && self.may_send(),
            takes_clear: view.takes_clear,
            sessions,
            policy: Arc::clone(&self.policy),
            prefixes: self.prefixes().into_iter().chain(self.station_prefixes()).collect(),
        })
    }

    /// The peer's link in the user path's table; `None` while it is not known where the peer is.
    /// `place_of` tells where a relay is.
    pub(super) fn user_link(
        &self,
        view: &PeerView,
        sealing: &Sealing,
        configured: Mtu,
        place_of: impl Fn(NodeAddress) -> Option<Endpoint>,
    ) -> Option<UserLink> {
        // Also where the kernel path carries the packets: the user path takes what that misses.
        let name = &self.config.name;
        let mut link = match view.endpoint? {
            Endpoint::Udp(endpoint) => {
                let local = match &self.reach {
                    Ok(reach) => reach.path.source.into(),
                    Err(_) => Address::default(),
                };
                let waiting = self.reach.as_ref().map_or(MTU_IPV6_MIN, |reach| reach.sealed_mtu(configured));
                let mtu = view.path.mtu().unwrap_or(waiting);
                UserLink::new(name, self.link_id, local, endpoint, mtu)
            }
            to @ (Endpoint::Tcp(_) | Endpoint::Turn(_) | Endpoint::Relay { .. } | Endpoint::Overlay(_)) => {
                let mtu = view.path.mtu().unwrap_or(OVERLAY_MTU.min(mtu_max(configured)));
                UserLink::around(name, self.link_id, to, to.relay().and_then(place_of), mtu)
            }
        };
        if !view.takes_clear {
            link.link.flags &= !Link::TAKES_CLEAR;
        }
        link.carriage = match view.path.security() {
            Some(Security::Clear(id)) if self.handover.is_none() => Carriage::Clear(id),
            // What has no session waits.
            _ => Carriage::Sealed(sealing.current(self.id).filter(|_| self.may_send()).cloned()),
        };
        link.reachable = match view.path {
            Path::None(NoPath::NoAnswer) => sealing.may_come(self.id),
            path => !matches!(path, Path::None(_)),
        };
        link.traffic = Arc::clone(&self.traffic);
        Some(link.ruled(Arc::clone(&self.policy)))
    }
}

/// The slot of a peer in the user path's table; as in the kernel's, each peer has two.
pub(super) const fn user_slot(peer: PeerId) -> u32 {
    // The node numbers no more peers than there are links.
    debug_assert!(peer.0 < LINKS_MAX as usize);
    peer.0 as u32 * 2
}

/// The peer in a slot of the user path's table.
pub(super) const fn of_user_slot(slot: u32) -> PeerId {
    PeerId(slot as usize / 2)
}

/// The table of the user path for all peers. `link` gives each peer's link.
pub(super) fn table(
    own: &[config::Prefix],
    peers: &Peers,
    sealing: &Sealing,
    overlay: Option<&Overlay>,
    link: impl Fn(&PeerState) -> Option<UserLink>,
) -> Table {
    let mut table = Table::new();
    for peer in peers.values() {
        let slot = user_slot(peer.id);
        for session in sealing.all(peer.id) {
            table.insert_session(slot, Arc::clone(session));
        }
        let Some(link) = link(peer) else { continue };
        // Slots and link ids are unique by construction; a refusal would only leave this peer out.
        let Ok(reference) = table.insert_link(slot, link) else { continue };
        for prefix in peer.prefixes() {
            table.insert_prefix(key(&prefix), reference);
        }
    }
    if let Some(overlay) = overlay {
        own.iter().for_each(|prefix| table.insert_searched(key(&Prefix::new(prefix.addr(), prefix.len()))));
        overlay.absent().for_each(|address| table.insert_absent(address));
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
