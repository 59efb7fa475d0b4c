//! A virtual network that carries Ethernet: this node is a port of its switch.
//!
//! Which station is where is learned from frames: from those of this node's side, from those to all, which their
//! origin has signed, and from what nodes tell their peers. `stations` decides, `proxy` answers for stations whose
//! place is known, `guard` keeps two nodes from bridging the same segment.

mod guard;
mod kernel;
mod proxy;
mod stations;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipop_common::ethernet::{self, Header, Mac, is_group, said_address};
use ipop_common::maps::LinkRef;
use ipop_common::multicast::Target;
use ipop_common::rules::{self, Direction};
use ipop_common::{Address, Counter};
use ipop_overlay::directory::{Answer, Question as Asked};
use ipop_overlay::{Instant, NodeAddress, Path, PeerId};
use tracing::{debug, info, warn};

use super::groups::group;
use super::peers::user_slot;
use super::{Daemon, clock};
use crate::api;
use crate::key::PublicKey;
use crate::userpath::Table;
use guard::Guard;
use proxy::Question;
use stations::{Changed, Place, Stations};

/// Frames to all and to unknown stations that this node sends a second, and at a time.
const STORM_RATE: u64 = 500;
const STORM_BURST: u64 = 1000;
/// Addresses of stations on this node's side that are remembered, to ask whether they are still there.
const ADDRESSES_MAX: usize = 256;

/// What the daemon knows as a switch.
#[derive(Debug)]
pub(super) struct Switch {
    /// This node's own.
    mac: Mac,
    stations: Stations,
    addresses: BTreeMap<Mac, Ipv4Addr>,
    guard: Guard,
    storm: Storm,
    /// The data threads do not know yet what has changed.
    is_unpublished: bool,
}

impl Switch {
    pub(super) fn new(public_key: &PublicKey, now: Instant) -> Self {
        Self {
            mac: mac_of(public_key.as_bytes()),
            stations: Stations::default(),
            addresses: BTreeMap::new(),
            guard: Guard::default(),
            storm: Storm { tokens: STORM_BURST, at: now },
            is_unpublished: false,
        }
    }

    pub(super) fn warning(&self) -> Option<String> {
        let other = self.guard.other()?;
        Some(format!(
            "{other} bridges the same segment: this node takes no frames, or there would be a loop; unplug one of the two"
        ))
    }
}

/// How many frames may go to all.
#[derive(Debug)]
struct Storm {
    tokens: u64,
    at: Instant,
}

impl Storm {
    fn admits(&mut self, now: Instant) -> bool {
        let earned = now.since(self.at).as_millis() as u64 * STORM_RATE / 1000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(STORM_BURST);
            self.at = now;
        }
        let is_one_left = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        is_one_left
    }
}

/// The MAC address of a node's virtual device: locally administered, and the start of its overlay address.
pub(super) fn mac_of(public_key: &[u8; 32]) -> Mac {
    let NodeAddress([a, b, c, d, e, ..]) = NodeAddress::of_key(public_key);
    [0x02, a, b, c, d, e]
}

impl Daemon {
    /// What the data threads are to know of stations.
    pub(super) fn fill_in_switch(&self, table: &mut Table) {
        let Some(switch) = &self.switch else { return };
        table.switch_frames(switch.guard.other().is_none());
        table.insert_station(switch.mac, LinkRef::LOCAL);
        let link_to = |table: &Table, id: PeerId| {
            let (slot, link) = (user_slot(id), table.user_link(user_slot(id))?);
            Some(LinkRef { slot, epoch: link.link.epoch })
        };
        for peer in self.peers.values() {
            if let Some(reference) = link_to(table, peer.id) {
                table.insert_station(peer.mac, reference);
            }
        }
        for (mac, place) in switch.stations.settled(clock::now()) {
            match place {
                Place::Here => table.insert_station(mac, LinkRef::LOCAL),
                Place::There(key) => {
                    let id = self.node.peer_of_key(&key);
                    match id.and_then(|id| link_to(table, id)) {
                        Some(reference) => table.insert_station(mac, reference),
                        None => table.insert_sought(mac),
                    }
                }
            }
        }
    }

    /// A frame has come from a station on this node's side.
    pub(super) fn station_here(&mut self, mac: Mac) {
        let own_key = *self.public_key.as_bytes();
        let is_others = self.has_device_of_another(mac, &own_key);
        let Some(switch) = self.switch.as_mut().filter(|switch| switch.guard.other().is_none()) else {
            return;
        };
        if is_others {
            // The MAC address of a node's device goes nowhere else.
            return;
        }
        let (changed, outcome) = switch.stations.seen(mac, Place::Here, clock::now());
        if changed.own {
            debug!(mac = %Shown(mac), ?outcome, "a station on this side");
        }
        self.follow_stations(changed);
    }

    /// A frame has come from a station by the link to a peer.
    pub(super) fn station_there(&mut self, id: PeerId, mac: Mac) {
        let Some(key) = self.peers.get(&id).map(|peer| *peer.config.public_key.as_bytes()) else { return };
        let _ = self.learn(key, mac);
    }

    /// A peer says which stations are behind it.
    pub(super) fn stations_listed(&mut self, id: PeerId, macs: &[Mac]) {
        let Some(key) = self.peers.get(&id).map(|peer| *peer.config.public_key.as_bytes()) else { return };
        let (macs, refused): (Vec<Mac>, Vec<Mac>) =
            macs.iter().partition(|mac| !is_group(mac) && !self.has_device_of_another(**mac, &key));
        let Some(switch) = &mut self.switch else { return };
        let (changed, others) = switch.stations.listed(key, &macs, clock::now());
        self.counters.add(Counter::RxRefusedClaim, (refused.len() + others) as u64);
        self.ask_whether_there();
        self.follow_stations(changed);
    }

    /// A node is a peer no more.
    pub(super) fn forget_stations(&mut self, key: &PublicKey) {
        if let Some(switch) = &mut self.switch {
            // The table is published with the rest of what changes with it.
            let _ = switch.stations.forget(*key.as_bytes());
        }
    }

    /// Where a station is whose frames wait; nothing for an address of IP.
    pub(super) fn node_of_station(&self, address: Address) -> Option<[u8; 32]> {
        let mac = ethernet::mac_of(address)?;
        match self.switch.as_ref()?.stations.place(&mac)? {
            Place::There(key) => Some(key),
            Place::Here => None,
        }
    }

    /// Sends a frame of this node's side that is for all, or for a station that nobody knows.
    pub(super) fn send_frame(&mut self, frame: &[u8]) {
        let counter = match self.try_send_frame(frame) {
            Ok(counter) | Err(counter) => counter,
        };
        self.counters.add(counter, 1);
    }

    fn try_send_frame(&mut self, frame: &[u8]) -> Result<Counter, Counter> {
        let header = Header::parse(frame).ok_or(Counter::TxBadFrame)?;
        if ethernet::is_guard(&header) {
            self.heard_in_segment(frame);
            return Ok(Counter::TxMembership);
        }
        let now = clock::now();
        if let Some(answer) = self.answer_for(frame, &header, now) {
            self.deliver_frame(&answer)?;
            return Ok(Counter::TxProxied);
        }
        let Some(switch) = &mut self.switch else { return Err(Counter::TxNoGroup) };
        if switch.guard.other().is_some() {
            return Err(Counter::TxSharedSegment);
        }
        if let Some(IpAddr::V4(address)) = said_address(frame, &header).map(Address::to_ip)
            && (switch.addresses.len() < ADDRESSES_MAX || switch.addresses.contains_key(&header.source))
        {
            switch.addresses.insert(header.source, address);
        }
        if !switch.storm.admits(now) {
            return Err(Counter::TxStorm);
        }
        match self.node.multicast(group(Target::Ethernet), frame, now) {
            true => Ok(Counter::TxMulticast),
            false => Err(Counter::TxGroupRefused),
        }
    }

    /// The answer to a question for a hardware address that this node knows: of a node of the network.
    fn answer_for(&self, frame: &[u8], header: &Header, now: Instant) -> Option<Vec<u8>> {
        let question = Question::of(frame, header)?;
        let key = match self.holder(question.target) {
            Some(id) => {
                let is_there =
                    |id| self.node.peer(id).is_some_and(|view| !matches!(view.path, Path::None(_)));
                *self.peers.get(&id).filter(|peer| is_there(peer.id))?.config.public_key.as_bytes()
            }
            None => match self.dhcp.known(&Asked::Owner(question.target), now)? {
                Answer::Owner { public_key, .. } => *public_key,
                Answer::Nobody | Answer::Offered(_) => return None,
            },
        };
        if key == *self.public_key.as_bytes() {
            return None;
        }
        question.answer(mac_of(&key))
    }

    /// A node has sent a frame to all.
    pub(super) fn frame_heard(&mut self, origin: &[u8; 32], frame: &[u8]) -> Result<(), Counter> {
        let header = Header::parse(frame).ok_or(Counter::RxBadInner)?;
        if self.switch.as_ref().is_none_or(|switch| switch.guard.other().is_some()) {
            return Err(Counter::RxSharedSegment);
        }
        self.learn(*origin, header.source)?;
        if let Some(address) = said_address(frame, &header).map(Address::to_ip)
            && self.is_address_of_another(address, origin)
        {
            return Err(Counter::RxSpoofedAddress);
        }
        let now_ns = clock::now().as_nanos();
        self.hold_from_group(origin, |table, link| {
            rules::permit_frame(frame, &header, link, Direction::In, table, now_ns)
                .map_err(|_| Counter::RxRefusedRule)
        })?;
        self.deliver_frame(frame)?;
        self.counters.add(Counter::RxMulticast, 1);
        Ok(())
    }

    /// Takes in that a station is behind the node with this key.
    fn learn(&mut self, key: [u8; 32], mac: Mac) -> Result<(), Counter> {
        if mac == mac_of(&key) {
            return Ok(());
        }
        if self.has_device_of_another(mac, &key) {
            return Err(Counter::RxWrongInnerSource);
        }
        let Some(switch) = &mut self.switch else { return Err(Counter::RxWrongInnerSource) };
        let (changed, outcome) = switch.stations.seen(mac, Place::There(key), clock::now());
        self.ask_whether_there();
        self.follow_stations(changed);
        outcome.map_err(|_| Counter::RxWrongInnerSource)
    }

    /// Whether a MAC address is that of the virtual device of another node than the one with this key.
    fn has_device_of_another(&self, mac: Mac, key: &[u8; 32]) -> bool {
        let is_own = self.switch.as_ref().is_some_and(|switch| switch.mac == mac);
        let is_peers =
            self.peers.values().any(|peer| peer.mac == mac && peer.config.public_key.as_bytes() != key);
        is_own && key != self.public_key.as_bytes() || is_peers
    }

    /// Whether an address of IP is this node's, or of another peer than the one with this key.
    fn is_address_of_another(&self, address: IpAddr, key: &[u8; 32]) -> bool {
        let is_own = self.addresses.iter().any(|own| own.addr() == address);
        let holder = self.holder(address).and_then(|id| self.peers.get(&id));
        is_own || holder.is_some_and(|peer| peer.config.public_key.as_bytes() != key)
    }

    fn follow_stations(&mut self, changed: Changed) {
        if let Some(switch) = self.switch.as_ref().filter(|_| changed.own) {
            let own = switch.stations.own().into_iter().filter(|mac| *mac != switch.mac).collect();
            self.node.set_stations(own);
        }
        if let Some(switch) = self.switch.as_mut().filter(|_| changed.table) {
            switch.is_unpublished = true;
        }
    }

    /// Lets the data threads know what has changed, once peers have been told: what comes from a station that they
    /// do not know is refused there.
    pub(super) fn publish_stations(&mut self) {
        let is_unpublished = |switch: &mut Switch| std::mem::take(&mut switch.is_unpublished);
        if self.switch.as_mut().is_some_and(is_unpublished) {
            // The user path first: what the kernel path stops carrying comes to it.
            self.publish_table();
            for id in self.place_stations() {
                self.apply_kernel(id);
            }
        }
    }

    /// Asks stations of this side that another node claims, so that they show themselves.
    fn ask_whether_there(&self) {
        let Some(switch) = &self.switch else { return };
        for mac in switch.stations.contested() {
            if let Some(address) = switch.addresses.get(&mac) {
                // A station that cannot be asked is waited for all the same.
                let _ = self.deliver_frame(&proxy::probe(switch.mac, mac, *address));
            }
        }
    }

    /// Another node may be heard on this node's side.
    fn heard_in_segment(&mut self, frame: &[u8]) {
        let Some(other) = guard::sender(frame, &self.config.network.name) else { return };
        let own = NodeAddress::of_key(self.public_key.as_bytes());
        let Some(switch) = &mut self.switch else { return };
        if switch.guard.heard(other, own, clock::now()) {
            warn!(%other, "it bridges the same segment: this node takes no frames, or there would be a loop");
            let changed = switch.stations.forget_own();
            self.follow_stations(Changed { table: true, ..changed });
        }
    }

    pub(super) fn switch_timeout(&mut self, now: Instant) {
        let Some(switch) = &mut self.switch else { return };
        let mut changed = switch.stations.handle_timeout(now);
        if switch.guard.handle_timeout(now) {
            info!("the segment is this node's alone: frames are taken again");
            changed.table = true;
        }
        let (mac, is_bridged) = (switch.mac, self.device.bridge != 0);
        if is_bridged && switch.guard.is_due(now) {
            let frame =
                guard::frame(mac, NodeAddress::of_key(self.public_key.as_bytes()), &self.config.network.name);
            if let Err(counter) = self.deliver_frame(&frame) {
                self.counters.add(counter, 1);
            }
        }
        self.follow_stations(changed);
    }

    /// What an operator sees of this.
    pub(super) fn station_status(&self) -> api::Stations {
        let Some(switch) = &self.switch else {
            let reason = Some("network.mode is \"l3\"".to_owned());
            return api::Stations { reason, shut_by: None, stations: Vec::new() };
        };
        let station = |mac: Mac, key: &[u8; 32], seen: Option<Duration>, contested| api::Station {
            mac: Shown(mac).to_string(),
            node: self.node_ref(NodeAddress::of_key(key)),
            here: key == self.public_key.as_bytes(),
            device: seen.is_none(),
            seen_s: seen.map(|seen| seen.as_secs()),
            contested,
        };
        let own_key = self.public_key.as_bytes();
        let keys = self.peers.values().map(|peer| peer.config.public_key.as_bytes()).chain([own_key]);
        let devices = keys.map(|key| station(mac_of(key), key, None, false));
        let learned = switch.stations.all(clock::now()).map(|(mac, place, seen, is_contested)| {
            let key = match &place {
                Place::Here => own_key,
                Place::There(key) => key,
            };
            station(mac, key, Some(seen), is_contested)
        });
        let mut stations: Vec<api::Station> = devices.chain(learned).collect();
        stations.sort_by(|a, b| a.mac.cmp(&b.mac));
        let shut_by = switch.guard.other().map(|other| self.node_ref(other));
        api::Stations { reason: None, shut_by, stations }
    }

    fn deliver_frame(&self, frame: &[u8]) -> Result<(), Counter> {
        let tun = self.device.tuns.first().ok_or(Counter::RxDeviceError)?;
        tun.inject(frame).map_err(|_| Counter::RxDeviceError)
    }
}

/// A MAC address as it is written.
pub(super) struct Shown(pub(super) Mac);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_to_a_rate() {
        let start = Instant::from_nanos(1_000_000_000);
        let mut storm = Storm { tokens: STORM_BURST, at: start };
        let admitted = |storm: &mut Storm, now| (0..10_000).filter(|_| storm.admits(now)).count() as u64;
        assert_eq!(admitted(&mut storm, start), STORM_BURST);
        let later = start.after(std::time::Duration::from_secs(1));
        assert_eq!(admitted(&mut storm, later), STORM_RATE);
    }

    #[test]
    fn a_node_has_a_mac_address_of_its_own_making() {
        let [first, ..] = mac_of(&[7; 32]);
        assert_eq!(first & 3, 2, "local, and no group");
        assert_ne!(mac_of(&[7; 32]), mac_of(&[8; 32]));
        assert_eq!(Shown([2, 0, 0xab, 0, 0, 1]).to_string(), "02:00:ab:00:00:01");
    }
}
