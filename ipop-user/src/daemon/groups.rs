//! Multicast and broadcast in the virtual network: which groups this host is a member of, what it sends to groups,
//! and what others have sent.
//!
//! How datagrams reach the members is the overlay's. Of what comes here is known who has sent it first; that the
//! packet's source address is that node's own is checked here, as for packets from peers.

mod memberships;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipop_common::Counter;
use ipop_common::ingress;
use ipop_common::inner::Inner;
use ipop_common::maps::Link;
use ipop_common::multicast::{Target, is_for, target};
use ipop_overlay::Instant;
use ipop_overlay::ring::{Group, Ring};
use tracing::debug;

use super::peers::user_slot;
use super::{Daemon, clock};
use crate::api;
use crate::netlink::Route;
use crate::userpath::{GroupPacket, Table};

/// The kernel's lists are looked at so often, and so long after the host has said that it is a member of others.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_SOON: Duration = Duration::from_millis(20);
/// For so long it is known who has an address from which something was sent to a group, and that nobody has.
const OWNER_LIFE: Duration = Duration::from_secs(300);
const NOBODY_LIFE: Duration = Duration::from_secs(3);
const OWNERS_MAX: usize = 1024;
/// Packets wait for so long until that is known: so many of each address, of so many addresses.
const PATIENCE: Duration = Duration::from_secs(10);
const WAITING_OF_ONE_MAX: usize = 8;
const WAITING_MAX: usize = 64;

/// What the daemon knows of groups beside the core.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Which the host is a member of.
    wanted: BTreeSet<Target>,
    /// Those of them for which there was no room.
    refused: BTreeSet<Target>,
    look_at: Option<Instant>,
    owners: BTreeMap<IpAddr, Owner>,
    waiting: BTreeMap<IpAddr, Waiting>,
}

/// Who has an address, as the ring says: nobody of whom this node knows, or the node with this key.
#[derive(Clone, Copy, Debug)]
struct Owner {
    public_key: Option<[u8; 32]>,
    until: Instant,
}

/// Packets from an address of which is not known yet who has it.
#[derive(Debug)]
struct Waiting {
    /// Each with the key of who has sent it.
    packets: Vec<([u8; 32], Vec<u8>)>,
    until: Instant,
    /// Packets to the address wait as well: who has it is to be connected to.
    is_wanted: bool,
}

impl Groups {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Packets to an address wait until its owner is known.
    pub(super) fn packets_wait_for(&mut self, address: IpAddr) {
        if let Some(waiting) = self.waiting.get_mut(&address) {
            waiting.is_wanted = true;
        }
    }
}

impl Daemon {
    fn carries_groups(&self) -> bool {
        self.config.network.multicast && self.overlay.is_some()
    }

    /// Becomes a member of what the host is a member of already, and of the group of all.
    pub(super) fn begin_groups(&mut self) {
        if self.carries_groups() {
            self.groups.look_at = Some(clock::now());
        }
    }

    /// The host has said of which groups it is a member.
    pub(super) fn follow_memberships_soon(&mut self) {
        let soon = clock::now().after(LOOK_SOON);
        self.groups.look_at = self.groups.look_at.map(|at| at.min(soon));
    }

    /// Brings this node's memberships to what the kernel says of the host's.
    pub(super) fn follow_memberships(&mut self, now: Instant) {
        if self.groups.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.groups.look_at = Some(now.after(LOOK));
        self.give_up_waiting(now);
        let wanted: BTreeSet<Target> = match self.switch {
            // To a switch all groups are one.
            Some(_) => BTreeSet::from([Target::Ethernet]),
            None => {
                let of_host = memberships::of_device(self.device.ifindex);
                of_host.into_iter().filter_map(|group| target(&group.into())).chain([Target::All]).collect()
            }
        };
        let left: Vec<Target> = self.groups.wanted.difference(&wanted).copied().collect();
        for target in &left {
            debug!(?target, "left");
            self.node.leave_group(&group(*target));
        }
        if !left.is_empty() {
            self.groups.refused.clear();
        }
        for target in &wanted {
            let is_known = self.groups.wanted.contains(target);
            if !self.groups.refused.contains(target) && !self.node.join_group(group(*target), now) {
                self.groups.refused.insert(*target);
            }
            if !is_known {
                debug!(?target, is_refused = self.groups.refused.contains(target), "joined");
            }
        }
        self.groups.wanted = wanted;
    }

    /// Which addresses the data threads are to take for broadcasts.
    pub(super) fn fill_in_groups(&self, table: &mut Table) {
        if self.carries_groups() {
            table.carry_groups(self.broadcasts().map(|address| IpAddr::from(address).into()));
        }
    }

    /// The last address of each of the virtual network's prefixes that has one for all (RFC 919).
    fn broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter_map(|prefix| match prefix.addr() {
            IpAddr::V4(own) if prefix.len() < 31 => {
                Some(Ipv4Addr::from_bits(own.to_bits() | u32::MAX >> prefix.len()))
            }
            _ => None,
        })
    }

    /// Routes by which programs that choose no device send to groups in the virtual network.
    pub(super) fn group_routes(&self) -> Vec<Route> {
        if !self.carries_groups() || !self.config.network.multicast_route {
            return Vec::new();
        }
        let own = |is_ipv4: bool| {
            let mut addresses = self.addresses.iter().map(|prefix| prefix.addr());
            addresses.find(|address| address.is_ipv4() == is_ipv4)
        };
        let all: [(IpAddr, u8); 2] =
            [(Ipv4Addr::new(224, 0, 0, 0).into(), 4), (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8)];
        let route = |prefix: (IpAddr, u8)| {
            let source = own(prefix.0.is_ipv4())?;
            Some(Route { prefix, mtu: None, source: Some(source) })
        };
        all.into_iter().filter_map(route).collect()
    }

    /// Sends what this host sends to a group.
    pub(super) fn send_to_group(&mut self, packet: &GroupPacket) {
        if packet.to == Target::Ethernet {
            return self.send_frame(&packet.bytes);
        }
        let is_sent = self.node.multicast(group(packet.to), &packet.bytes, clock::now());
        self.counters.add(if is_sent { Counter::TxMulticast } else { Counter::TxGroupRefused }, 1);
    }

    /// A node has sent a frame to a group that this host is a member of.
    pub(super) fn heard_in_group(&mut self, origin: &[u8; 32], group: Group, frame: &[u8]) {
        let result = match (&self.switch, Target::of_group(group.kind, group.address)) {
            (Some(_), Some(Target::Ethernet)) => self.frame_heard(origin, frame),
            _ => self.take_from_group(origin, group, frame),
        };
        if let Err(counter) = result {
            self.counters.add(counter, 1);
        }
    }

    fn take_from_group(&mut self, origin: &[u8; 32], group: Group, frame: &[u8]) -> Result<(), Counter> {
        let source = self.source_in_group(group, frame).ok_or(Counter::RxBadInner)?;
        let now = clock::now();
        match self.is_owner(origin, source, now) {
            Some(true) => self.deliver_from_group(origin, frame),
            Some(false) => Err(Counter::RxWrongInnerSource),
            None => self.wait_for_owner(origin, source, frame, now),
        }
    }

    /// Source of a frame that is a whole IP packet to this group.
    fn source_in_group(&self, group: Group, frame: &[u8]) -> Option<IpAddr> {
        let wanted = Target::of_group(group.kind, group.address)?;
        let inner = Inner::parse_any(frame, 0).ok()?;
        let is_whole = usize::from(inner.total_len) == frame.len();
        let destination = inner.destination.to_ip();
        let is_broadcast = self.broadcasts().any(|address| destination == IpAddr::V4(address));
        (is_whole && is_for(frame, &inner, wanted, is_broadcast)).then(|| inner.source.to_ip())
    }

    /// Whether the node with this key has an address; `None`: that has to be found out.
    fn is_owner(&self, origin: &[u8; 32], address: IpAddr, now: Instant) -> Option<bool> {
        let own = &self.addresses;
        if own.iter().any(|prefix| prefix.addr() == address) {
            return Some(false);
        }
        let peer = self.node.peer_of_key(origin).and_then(|id| self.peers.get(&id));
        let has_it =
            peer.is_some_and(|peer| peer.config.addresses.iter().any(|theirs| theirs.contains(address)));
        if has_it {
            return Some(true);
        }
        if self.holder(address).is_some() || !own.iter().any(|prefix| prefix.contains(address)) {
            return Some(false);
        }
        let known = self.groups.owners.get(&address).filter(|owner| owner.until > now)?;
        Some(known.public_key == Some(*origin))
    }

    fn deliver_from_group(&self, origin: &[u8; 32], frame: &[u8]) -> Result<(), Counter> {
        let now_ns = clock::now().as_nanos();
        self.hold_from_group(origin, |table, link| {
            let inner = Inner::parse_any(frame, 0).map_err(|_| Counter::RxBadInner)?;
            ingress::hold(frame, &inner, link, table, now_ns)
        })?;
        let tun = self.device.tuns.first().ok_or(Counter::RxDeviceError)?;
        tun.inject(frame).map_err(|_| Counter::RxDeviceError)?;
        self.counters.add(Counter::RxMulticast, 1);
        Ok(())
    }

    /// Holds what a node has sent to a group against the group's rules. Of one that this node has no link with it does
    /// not know the certificate: where there are rules, such a one may begin nothing.
    pub(super) fn hold_from_group(
        &self,
        origin: &[u8; 32],
        hold: impl FnOnce(&Table, &Link) -> Result<(), Counter>,
    ) -> Result<(), Counter> {
        if !self.has_rules() {
            return Ok(());
        }
        let id = self.node.peer_of_key(origin).ok_or(Counter::RxRefusedRule)?;
        let table = self.table.load();
        let link = table.user_link(user_slot(id)).ok_or(Counter::RxRefusedRule)?;
        hold(&table, &link.link)
    }

    /// Keeps a packet until the ring says who has its source address.
    fn wait_for_owner(
        &mut self,
        origin: &[u8; 32],
        source: IpAddr,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), Counter> {
        let is_new = !self.groups.waiting.contains_key(&source);
        if is_new && self.groups.waiting.len() >= WAITING_MAX {
            return Err(Counter::RxGroupUnverified);
        }
        let new = Waiting { packets: Vec::new(), until: now.after(PATIENCE), is_wanted: false };
        let waiting = self.groups.waiting.entry(source).or_insert(new);
        if waiting.packets.len() >= WAITING_OF_ONE_MAX {
            return Err(Counter::RxGroupUnverified);
        }
        waiting.packets.push((*origin, frame.to_vec()));
        if is_new {
            self.look_for_owner(source);
        }
        Ok(())
    }

    /// The ring has said who has an address. Says whether that is for packets to it: what was sent to groups from
    /// there is no reason to connect to its owner.
    pub(super) fn is_for_packets(&mut self, address: IpAddr, public_key: Option<[u8; 32]>) -> bool {
        let Some(Waiting { packets, is_wanted, .. }) = self.groups.waiting.remove(&address) else {
            return true;
        };
        let now = clock::now();
        if self.groups.owners.len() >= OWNERS_MAX {
            let first = self.groups.owners.iter().min_by_key(|(_, owner)| owner.until).map(|(at, _)| *at);
            first.map(|first| self.groups.owners.remove(&first));
        }
        let life = if public_key.is_some() { OWNER_LIFE } else { NOBODY_LIFE };
        self.groups.owners.insert(address, Owner { public_key, until: now.after(life) });
        for (origin, frame) in packets {
            let result = match public_key {
                None => Err(Counter::RxGroupUnverified),
                Some(key) if key == origin => self.deliver_from_group(&origin, &frame),
                Some(_) => Err(Counter::RxWrongInnerSource),
            };
            if let Err(counter) = result {
                self.counters.add(counter, 1);
            }
        }
        is_wanted || self.holder(address).is_some()
    }

    /// What an operator sees of this.
    pub(super) fn group_status(&self) -> api::Groups {
        let reason = match (&self.overlay, self.config.network.multicast) {
            (None, _) => Some("this node is not part of an overlay (underlay.bootstrap)".to_owned()),
            (Some(_), false) => Some("network.multicast is false".to_owned()),
            (Some(_), true) => None,
        };
        let views = self.node.ring().into_iter().flat_map(Ring::groups);
        let groups = views.map(|view| api::Group {
            group: name_of(view.group),
            member: view.is_own,
            root: view.parent.is_none() && !view.is_asking,
            parent: view.parent.map(|parent| self.node_ref(parent)),
            children: view.children.iter().map(|child| self.node_ref(*child)).collect(),
        });
        let edges = self.node.ring().into_iter().flat_map(Ring::edges);
        let used = edges.filter(|edge| edge.multicast != [0; 2]);
        let links = used.map(|edge| {
            let [sent, received] = edge.multicast;
            api::GroupLink { node: self.node_ref(edge.address), sent, received }
        });
        api::Groups { reason, groups: groups.collect(), links: links.collect() }
    }

    /// Drops what has waited for too long, and forgets who had which address long ago.
    fn give_up_waiting(&mut self, now: Instant) {
        self.groups.owners.retain(|_, owner| owner.until > now);
        let counters = &self.counters;
        self.groups.waiting.retain(|_, waiting| {
            let is_over = waiting.until <= now;
            if is_over {
                counters.add(Counter::RxGroupUnverified, waiting.packets.len() as u64);
            }
            !is_over
        });
    }
}

/// What an operator calls a group.
fn name_of(group: Group) -> String {
    match Target::of_group(group.kind, group.address) {
        Some(Target::Group(address)) => address.to_ip().to_string(),
        Some(Target::All) => "all".to_owned(),
        Some(Target::Ethernet) => "ethernet".to_owned(),
        // Of a later version's nodes, on whose way this one is.
        None => {
            let digits: String = group.address.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}:{digits}", group.kind)
        }
    }
}

/// The group by which the overlay knows a target.
pub(super) fn group(target: Target) -> Group {
    let (kind, address) = target.group();
    Group { kind, address }
}
