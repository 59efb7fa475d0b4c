//! The node's part in the ring: which peers are connections of it, what it says of itself to them, and
//! what the ring wants done.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use ipop_common::cursor::Cursor;
use ipop_common::ethernet::{Mac, mac_of, station};
use ipop_common::{Address, Counter};

use super::{Node, Output, PeerId, Refusal};
use crate::address::NodeAddress;
use crate::endpoint::Endpoint;
use crate::ring::{self, Ring, Roles};
use crate::session::Random;
use crate::time::Instant;

/// First byte of the message in which a node says which addresses it has:
///
/// ```text
///  0  type 6 · 1 flags: 1 answer wanted · 2 how many addresses · 3 zero · 4 number of the statement u32
///  8  since UNIX time in seconds u64 · 16 number of the receiver's that was heard last u32 · 20 zeros, 4 bytes
/// 24  addresses, IPv4 ones mapped into IPv6, stations under 100::/64
/// ```
const ADDRESSES: u8 = 6;
/// Stands for the number of a statement where none was heard.
pub(crate) const NO_STATEMENT: u32 = 0;
/// Addresses in one message, those of stations included.
const ADDRESSES_MAX: usize = 64;
/// Of those, stations behind a node that is a switch.
pub const STATIONS_MAX: usize = 48;
/// Where they begin.
const ADDRESSES_AT: usize = 24;
/// While there is traffic to a peer that was found, the ring is asked so often who has its addresses.
const CHECK: Duration = Duration::from_secs(120);
/// Of each peer, so many of them.
const CHECKED_MAX: usize = 4;

/// The number of the first statement, another in each run.
pub(super) fn first_statement(boot: u64) -> u32 {
    next_statement((boot >> 32) as u32 ^ boot as u32)
}

/// The number of the statement that comes after another.
fn next_statement(number: u32) -> u32 {
    match number.wrapping_add(1) {
        NO_STATEMENT => 1,
        next => next,
    }
}

impl Node {
    /// Makes the node part of the ring.
    pub fn join(&mut self, random: Random, now: Instant) {
        let mut ring = Ring::new(self.public_key, random, now);
        self.signing_key.iter().for_each(|key| ring.set_signing_key(Arc::clone(key)));
        self.ring = Some(ring);
    }

    /// The ring, where the node is part of one.
    pub fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// A node is known by which this one may join; never forgotten if the operator has configured it.
    pub fn add_contact(
        &mut self,
        public_key: [u8; 32],
        places: Vec<SocketAddr>,
        is_configured: bool,
        now: Instant,
    ) {
        self.with_ring(|ring| ring.add_contact(public_key, places, is_configured, now));
    }

    /// Whether this node relays for others.
    pub fn set_relaying(&mut self, is_open: bool) {
        self.with_ring(|ring| ring.set_relaying(is_open));
    }

    /// Keeps a connection with a node, or does so no more; what is kept is to be said again now and then.
    pub fn keep_linked(&mut self, address: NodeAddress, is_wanted: bool, now: Instant) {
        self.with_ring(|ring| match is_wanted {
            true => ring.stay_connected(address, now),
            false => ring.manage(address, false, now),
        });
    }

    /// Where others may reach this node.
    pub fn set_places(&mut self, places: Vec<SocketAddr>) {
        self.with_ring(|ring| ring.set_endpoints(places));
    }

    /// Outside addresses that lead to this node, as its operator or a router says.
    pub fn set_lent(&mut self, places: Vec<SocketAddr>) {
        self.with_ring(|ring| ring.set_lent(places));
    }

    /// This node's addresses at TURN servers.
    pub fn set_turned(&mut self, turned: Vec<SocketAddr>) {
        self.with_ring(|ring| ring.set_turned(turned));
    }

    /// What servers that are no members see: where each is, and where it sees this node.
    pub fn set_servers(&mut self, seen: &[(SocketAddr, SocketAddr)]) {
        self.with_ring(|ring| ring.set_servers(seen));
    }

    /// Which addresses of the virtual network this node has, and since when, UNIX time in seconds.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>, since: u64, now: Instant) {
        self.addresses = (addresses.clone(), since);
        self.with_ring(|ring| ring.claim(addresses, since, now));
        self.announce_addresses();
    }

    /// Which stations are behind this node, in a network that carries Ethernet; those past [`STATIONS_MAX`] are not
    /// said.
    pub fn set_stations(&mut self, stations: Vec<Mac>) {
        if self.stations != stations {
            self.stations = stations;
            self.announce_addresses();
        }
    }

    fn announce_addresses(&mut self) {
        self.statement = next_statement(self.statement);
        for id in self.ids() {
            self.peer_mut(id).into_iter().for_each(|peer| peer.knows_addresses = false);
            self.say_addresses(id, true);
        }
    }

    /// Looks for the node that has an address; [`Output::Found`] says what came of it.
    pub fn look_up(&mut self, address: IpAddr, now: Instant) {
        self.with_ring(|ring| ring.look_up(address, now));
    }

    /// Sends a WireGuard message to a node over the ring. Says whether there is a ring.
    pub fn carry(&mut self, to: NodeAddress, datagram: &[u8], now: Instant) -> bool {
        self.with_ring(|ring| ring.carry(to, datagram, now)).is_some()
    }

    /// Asks a node for an echo over the ring; [`Output::Echoed`] has the same `token`.
    pub fn echo(&mut self, to: NodeAddress, token: u64, now: Instant) {
        self.with_ring(|ring| ring.echo(to, token, now));
    }

    /// The same, behind all that others carry to the node.
    pub fn echo_behind(&mut self, to: NodeAddress, token: u64, now: Instant) {
        self.with_ring(|ring| ring.echo_behind(to, token, now));
    }

    /// Asks who is on the way to a node, so many hops from here; [`Output::Traced`] has the same `token`.
    pub fn trace(&mut self, to: NodeAddress, token: u64, hops: u16, now: Instant) {
        self.with_ring(|ring| ring.trace(to, token, hops, now));
    }

    /// Asks a node for a part of its connections; [`Output::Surveyed`] has the same `token`.
    pub fn survey(&mut self, of: NodeAddress, token: u64, page: u8, now: Instant) {
        self.with_ring(|ring| ring.survey(of, token, page, now));
    }

    /// Tells all nodes a text; says whether it is short enough, and there is a ring.
    pub fn broadcast(&mut self, text: &[u8], now: Instant) -> bool {
        self.with_ring(|ring| ring.broadcast(text, now)).unwrap_or(false)
    }

    /// Makes this node a member of a group; says whether there is a ring, and room for one more.
    pub fn join_group(&mut self, group: ring::Group, now: Instant) -> bool {
        self.with_ring(|ring| ring.join_group(group, now)).unwrap_or(false)
    }

    /// Ends that.
    pub fn leave_group(&mut self, group: &ring::Group) {
        self.with_ring(|ring| ring.leave_group(group));
    }

    /// Sends a frame to the members of a group; says whether it was sent.
    pub fn multicast(&mut self, group: ring::Group, frame: &[u8], now: Instant) -> bool {
        self.with_ring(|ring| ring.multicast(group, frame, now)).unwrap_or(false)
    }

    /// What the data paths have seen of a peer since the last time: whether anything has gone to it, and whether
    /// anything has come by the way that this goes.
    pub fn see(&mut self, id: PeerId, has_gone: bool, has_come: bool, now: Instant) {
        if self.ring.is_some()
            && let Some(peer) = self.peer_mut(id)
        {
            peer.see(has_gone, has_come, now);
        }
    }

    /// Asks a peer from which nothing comes, and then by way of others.
    pub(super) fn doubt(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peer_mut(id) else { return };
        let Some(doubt) = peer.doubt.as_mut().filter(|doubt| doubt.next_at <= now) else { return };
        let Some(is_around) = doubt.step(now) else {
            peer.doubt = None;
            return;
        };
        let is_carried = peer.endpoint().is_none_or(|endpoint| endpoint.overlay().is_some());
        if is_carried {
            peer.doubt = None;
            return;
        }
        self.say_hello(id, true, now);
        if !is_around {
            return;
        }
        let (token, address) = (self.next_jitter().as_nanos() as u64 | 1 << 63, self.address_of(id));
        if let (Some(peer), Some(address)) = (self.peer_mut(id), address)
            && let Some(doubt) = &mut peer.doubt
        {
            let token = *doubt.token.get_or_insert(token);
            let is_unheard = doubt.becomes_unheard(now);
            let is_by_udp = peer.endpoint().is_some_and(|endpoint| endpoint.udp().is_some());
            self.echo_behind(address, token, now);
            if is_unheard && is_by_udp {
                self.outputs.push_back(Output::Unheard { peer: id });
            }
        }
    }

    /// Whether an echo tells of a peer in doubt.
    fn silent(&self, from: NodeAddress, token: u64) -> Option<PeerId> {
        let id = self.peer_of_address(from)?;
        (self.peer_at(id)?.doubt?.token == Some(token)).then_some(id)
    }

    /// A peer is there, and nothing comes from it by its own way: another relay, or others, are to take what goes
    /// to it, while a new way is looked for.
    pub fn detour(&mut self, id: PeerId, now: Instant) {
        let Some(address) = self.address_of(id) else { return };
        let Some(peer) = self.peer_mut(id) else { return };
        if peer.doubt.take().is_none() {
            // Something has come in time.
            return;
        }
        self.with_ring(|ring| ring.detour(address, now));
    }

    /// Packets have gone to a peer or come from it.
    pub fn traffic(&mut self, id: PeerId, now: Instant) {
        let Some(address) = self.address_of(id) else { return };
        self.with_ring(|ring| ring.demand(address, now));
        if let Some(peer) = self.peer_mut(id)
            && core::mem::take(&mut peer.is_idle)
        {
            peer.next_hello = now;
        }
        self.check_addresses(id, now);
    }

    /// Somebody may have claimed an address of the peer's before it did, and the ring knows.
    /// [`Output::Found`] says who, which may be the peer.
    fn check_addresses(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peer_mut(id) else { return };
        if !peer.is_found || peer.checked.is_some_and(|at| now.since(at) < CHECK) {
            return;
        }
        peer.checked = Some(now);
        for address in peer.addresses.clone() {
            self.look_up(address, now);
        }
    }

    /// The peer with this address on the ring.
    pub fn peer_of_address(&self, address: NodeAddress) -> Option<PeerId> {
        self.by_address.get(&address).copied()
    }

    fn address_of(&self, id: PeerId) -> Option<NodeAddress> {
        self.peer_at(id).map(|peer| NodeAddress::of_key(&peer.public_key))
    }

    pub(super) fn with_ring<T>(&mut self, act: impl FnOnce(&mut Ring) -> T) -> Option<T> {
        let result = act(self.ring.as_mut()?);
        self.drain_ring();
        Some(result)
    }

    pub(super) fn handle_ring_message(
        &mut self,
        id: PeerId,
        message: &[u8],
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(address) = self.address_of(id) else { return Err(Refusal(Counter::RxBadHello)) };
        if message.first() == Some(&ADDRESSES) {
            return self.hear_addresses(id, message);
        }
        // What comes in a session shows that there is one, even if nobody has said so yet.
        self.connect_member(id, now);
        self.peer_mut(id).into_iter().for_each(|peer| peer.is_alive(now));
        self.with_ring(|ring| ring.handle_message(address, message, now));
        Ok(())
    }

    /// A hello has come.
    pub(super) fn member_spoke(&mut self, id: PeerId, now: Instant) {
        self.connect_member(id, now);
        if let (Some(address), Some(ring)) = (self.address_of(id), self.ring.as_mut()) {
            ring.heard(address, now);
        }
    }

    /// The session with a peer is another one, or there is none.
    pub(super) fn member_session(&mut self, id: PeerId, had_session: bool, now: Instant) {
        if !self.peer_at(id).is_some_and(super::Peer::has_session) {
            self.disconnect_member(id, now);
            return;
        }
        self.connect_member(id, now);
        if !had_session {
            self.peer_mut(id).into_iter().for_each(|peer| peer.knows_addresses = false);
        }
        // A session that follows another is with a peer that knows, or with another run, which asks.
        self.repeat_addresses(id);
    }

    /// A peer is somewhere else.
    pub(super) fn member_moved(&mut self, id: PeerId, now: Instant) {
        match self.peer_at(id).and_then(super::Peer::endpoint) {
            Some(Endpoint::Udp(place)) => {
                self.connect_member(id, now);
                if let Some(address) = self.address_of(id) {
                    self.with_ring(|ring| ring.moved(address, place, now));
                }
            }
            Some(Endpoint::Tcp(_) | Endpoint::Turn(_)) => {
                self.connect_member(id, now);
                if let Some(address) = self.address_of(id) {
                    self.with_ring(|ring| ring.roundabout(address, now));
                }
            }
            Some(Endpoint::Relay { by, .. }) => {
                self.connect_member(id, now);
                if let Some(address) = self.address_of(id) {
                    self.with_ring(|ring| ring.relayed(address, by, now));
                }
            }
            Some(Endpoint::Overlay(_)) | None => self.disconnect_member(id, now),
        }
    }

    /// Tells the ring what this host's wire to a member takes.
    pub(super) fn tell_mtu(&mut self, id: PeerId) {
        let Some(peer) = self.peer_at(id) else { return };
        let mtu = peer
            .underlay
            .map(|underlay| underlay.mtu)
            .filter(|_| peer.endpoint().is_some_and(|at| at.udp().is_some()));
        if let (Some(address), Some(ring)) = (self.address_of(id), &mut self.ring) {
            ring.set_mtu(address, mtu);
        }
    }

    /// What the relay's wires take by which a peer is reached, where it has said so.
    pub(super) fn relay_mtu(&self, id: PeerId) -> Option<u16> {
        let by = self.peer_at(id)?.endpoint()?.relay()?;
        self.ring.as_ref()?.relay_mtu(self.address_of(id)?, by)
    }

    /// A peer with a session that no others carry is a connection of the ring; one that is configured and
    /// may be no node of ours, once it has spoken.
    pub(super) fn connect_member(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peer_at(id) else { return };
        let Some(place) = peer.endpoint().filter(|place| place.overlay().is_none()) else { return };
        let key = peer.public_key;
        let is_ready = peer.has_session() && (peer.is_found || peer.has_spoken()) && self.is_admitted(id);
        let is_found = peer.is_found;
        let address = NodeAddress::of_key(&key);
        if !is_ready || self.ring.as_ref().is_none_or(|ring| ring.is_connected(address)) {
            return;
        }
        self.with_ring(|ring| {
            ring.connected(key, place, now);
            if !is_found {
                ring.manage(address, true, now);
            }
        });
        self.tell_mtu(id);
    }

    pub(super) fn disconnect_member(&mut self, id: PeerId, now: Instant) {
        let Some(address) = self.address_of(id) else { return };
        if self.ring.as_ref().is_some_and(|ring| ring.is_connected(address)) {
            self.with_ring(|ring| ring.disconnected(address, now));
        }
    }

    /// A peer is removed.
    pub(super) fn forget_member(&mut self, public_key: &[u8; 32]) {
        let address = NodeAddress::of_key(public_key);
        if let Some(ring) = &mut self.ring {
            ring.forget(address);
        }
    }

    /// Whether the ring alone keeps a peer.
    pub fn is_idle(&self, id: PeerId) -> bool {
        let (Some(ring), Some(address)) = (&self.ring, self.address_of(id)) else { return false };
        let roles = ring.roles(address);
        let is_settled = self.peer_at(id).is_some_and(|peer| peer.knows_addresses);
        is_settled && !roles.is_empty() && !roles.contains(Roles::DEMAND) && !roles.contains(Roles::MANAGED)
    }

    pub(super) fn ring_timeout(&mut self, now: Instant) {
        if self.ring.as_ref().and_then(Ring::poll_timeout).is_some_and(|at| at <= now) {
            self.with_ring(|ring| ring.handle_timeout(now));
        }
    }

    pub(super) fn leave_ring(&mut self) {
        self.with_ring(Ring::leave);
    }

    fn drain_ring(&mut self) {
        while let Some(output) = self.ring.as_mut().and_then(Ring::poll_output) {
            let output = match output {
                ring::Output::Send { to, message } => match self.peer_of_address(to) {
                    Some(peer) => {
                        self.outputs.push_back(Output::Say { peer, message });
                        continue;
                    }
                    None => continue,
                },
                ring::Output::Link { public_key, places } => Output::Link { public_key, places },
                ring::Output::Move { address, to } => match self.peer_of_address(address) {
                    Some(peer) => Output::Move { peer, to },
                    None => continue,
                },
                ring::Output::Relay { label, ends: [a, b] } => {
                    match (self.peer_of_address(a), self.peer_of_address(b)) {
                        (Some(a), Some(b)) => Output::Relay { label, ends: [a, b] },
                        _ => continue,
                    }
                }
                ring::Output::Unrelay { label } => Output::Unrelay { label },
                ring::Output::Unlink { address } => match self.unlinked(address) {
                    Some(peer) => Output::Unlink { peer },
                    None => continue,
                },
                ring::Output::Carried { from, datagram } => Output::Carried { from, datagram },
                ring::Output::Echoed { token, from, rtt, hops } => match self.silent(from, token) {
                    Some(peer) => Output::Silent { peer },
                    None => Output::Echoed { token, from, rtt, hops },
                },
                ring::Output::Traced { token, from, rtt, hops, end } => {
                    Output::Traced { token, from, rtt, hops, end }
                }
                ring::Output::Surveyed { token, from, rtt, page } => {
                    Output::Surveyed { token, from, rtt, page }
                }
                ring::Output::Found { address, public_key } => Output::Found { address, public_key },
                ring::Output::Broadcast { from, text } => Output::Broadcast { from, text },
                ring::Output::Multicast { origin, group, frame } => {
                    Output::Multicast { origin, group, frame }
                }
                ring::Output::Taken { address, by } => Output::Taken { address, by },
                ring::Output::Dht(event) => Output::Dht(event),
            };
            self.outputs.push_back(output);
        }
    }

    /// The peer that is not needed any more; none where it is configured, or others carry its packets.
    fn unlinked(&self, address: NodeAddress) -> Option<PeerId> {
        let id = self.peer_of_address(address)?;
        let peer = self.peer_at(id)?;
        let is_carried = matches!(peer.endpoint(), Some(Endpoint::Overlay(_)));
        (peer.is_found && !is_carried).then_some(id)
    }

    /// Tells a peer again that has not said that it heard.
    pub(super) fn repeat_addresses(&mut self, id: PeerId) {
        if self.peer_at(id).is_some_and(|peer| !peer.knows_addresses) {
            self.say_addresses(id, true);
        }
    }

    /// Tells a peer which addresses this node has, and whether it knows the peer's.
    fn say_addresses(&mut self, id: PeerId, wants_answer: bool) {
        let Some(peer) = self.peer_at(id) else { return };
        let may_hear = peer.has_session() && (peer.is_found || peer.has_spoken()) && self.is_admitted(id);
        if self.ring.is_none() || !may_hear {
            return;
        }
        let (addresses, since) = &self.addresses;
        let stations = self.stations.iter().take(STATIONS_MAX).map(|mac| station(*mac));
        let addresses = addresses.iter().take(ADDRESSES_MAX - STATIONS_MAX).map(|ip| Address::from(*ip));
        let addresses: Vec<Address> = addresses.chain(stations).collect();
        let mut message = Vec::with_capacity(ADDRESSES_AT + addresses.len() * 16);
        message.extend([ADDRESSES, u8::from(wants_answer), addresses.len() as u8, 0]);
        message.extend(self.statement.to_be_bytes());
        message.extend(since.to_be_bytes());
        message.extend(peer.heard_statement.to_be_bytes());
        message.extend([0; 4]);
        addresses.iter().for_each(|address| message.extend(address.to_bytes()));
        self.outputs.push_back(Output::Say { peer: id, message });
    }

    fn hear_addresses(&mut self, id: PeerId, message: &[u8]) -> Result<(), Refusal> {
        let refused = Refusal(Counter::RxBadHello);
        let head = message.bytes::<4>(0).ok_or(refused)?;
        let [_, flags @ 0..=1, count, 0] = head else { return Err(refused) };
        let statement = message.u32_at(4).filter(|number| *number != NO_STATEMENT).ok_or(refused)?;
        let since = message.u64_at(8).ok_or(refused)?;
        let heard = message.u32_at(16).ok_or(refused)?;
        if message.u32_at(20) != Some(0) {
            return Err(refused);
        }
        if usize::from(count) > ADDRESSES_MAX {
            return Err(refused);
        }
        let at = |index: usize| message.bytes::<16>(ADDRESSES_AT + index * 16);
        let addresses: Option<Vec<[u8; 16]>> = (0..usize::from(count)).map(at).collect();
        let addresses = addresses.ok_or(refused)?;
        let addresses: Vec<Address> = addresses.into_iter().map(Address::from_bytes).collect();
        let stations: Vec<Mac> = addresses.iter().copied().filter_map(mac_of).take(STATIONS_MAX).collect();
        let addresses = addresses.into_iter().filter(|address| mac_of(*address).is_none());
        let addresses: Vec<IpAddr> =
            addresses.map(Address::to_ip).take(ADDRESSES_MAX - STATIONS_MAX).collect();
        // What it has heard may be an older statement, whose answer has crossed a newer one.
        let knows_ours = heard == self.statement;
        let said = addresses.len();
        let addresses: Vec<IpAddr> =
            addresses.into_iter().filter(|address| self.may_have(id, *address)).collect();
        let is_granted = addresses.len() == said;
        if let Some(peer) = self.peer_mut(id) {
            peer.addresses = addresses.iter().take(CHECKED_MAX).copied().collect();
        }
        self.outputs.push_back(Output::Addresses { peer: id, addresses, stations, since, knows_ours });
        let Some(peer) = self.peer_mut(id) else { return Ok(()) };
        peer.heard_statement = statement;
        let is_another_run = core::mem::replace(&mut peer.knows_addresses, knows_ours) && !knows_ours;
        // Where there is nothing to say it in yet, it is said with the first word.
        if flags == 1 {
            self.say_addresses(id, is_another_run);
        }
        // Those beyond its certificate.
        is_granted.then_some(()).ok_or(Refusal(Counter::RxRefusedClaim))
    }
}
