//! The node that the packet targets belong to: peers in every state that a link can be in, the same
//! for every input, so that an input found once means the same for ever.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipop_common::Address;
use ipop_common::gpe::LinkId;
use ipop_common::maps::{Link, LinkRef, PrefixKey};
use ipop_tests::world::{LEASE_OVER, Peer, Prefix, World};
use ipop_user::userpath::{Table, UserLink};

/// What the decisions are told the time is; see [`LEASE_OVER`].
pub(crate) const NOW_NS: u64 = 1_000_000;
/// No input is longer: what an IP packet can hold, and an Ethernet header.
pub(super) const PACKET_LEN_MAX: usize = 65_535 + 14;

/// Peers by number. Each has the inner addresses 10.64.1.N and fd00:64::N.
pub(crate) const OVER_V4: usize = 0;
pub(crate) const OVER_V6: usize = 1;
/// Its link has changed: the tables still name the old epoch.
pub(crate) const STALE: usize = 2;
/// Its lease has run out.
pub(crate) const EXPIRED: usize = 3;
/// It takes nothing from the kernel path.
pub(crate) const RECEIVE_ONLY: usize = 4;
/// 172.16.0.0/12 and fd00:77::/32 belong to it too.
pub(crate) const ROUTER: usize = 5;

/// Inner addresses of the node itself.
pub(crate) const OWN_V4: &str = "10.64.0.1";
pub(crate) const OWN_V6: &str = "fd00:64::ffff";

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn make_peer(index: usize) -> Peer {
    let n = index as u32 + 1;
    let v6 = index == OVER_V6;
    Peer {
        slot: 2 * n,
        epoch: 100 + n,
        link_id: 0x00ab_cd00 | n,
        mtu: if v6 { 1444 } else { 1464 },
        ifindex: 1,
        local: address(if v6 { "2001:db8::1" } else { "192.0.2.1" }),
        remote: address(&if v6 { format!("2001:db8::1{n}") } else { format!("192.0.2.1{n}") }),
        local_mac: [0; 6],
        remote_mac: [2, 0, 0, 0, 0, 2],
        inner_v4: address(&format!("10.64.1.{n}")),
        inner_v6: address(&format!("fd00:64::{n}")),
    }
}

pub(crate) fn peers() -> &'static [Peer] {
    static PEERS: LazyLock<Vec<Peer>> = LazyLock::new(|| (OVER_V4..=ROUTER).map(make_peer).collect());
    &PEERS
}

/// The node's tables.
pub(crate) fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(make_world);
    &WORLD
}

fn make_world() -> World {
    let mut world = World::new(1, 1);
    let peers = peers();
    peers.iter().for_each(|peer| world.add_peer(peer));
    world.add_local(address(OWN_V4));
    world.add_local(address(OWN_V6));
    world.change(&peers[STALE], |link| link.epoch += 1);
    world.change(&peers[EXPIRED], |link| link.lease_until_ns = LEASE_OVER);
    world.change(&peers[RECEIVE_ONLY], |link| link.flags = Link::RECEIVE_ONLY);
    let to = peers[ROUTER].reference();
    world.prefixes.push(Prefix { address: address("172.16.0.0"), len: 12, to });
    world.prefixes.push(Prefix { address: address("fd00:77::"), len: 32, to });
    // Of the router's networks, this part belongs to another peer.
    let to = peers[OVER_V4].reference();
    world.prefixes.push(Prefix { address: address("172.16.5.0"), len: 24, to });
    world
}

/// The same tables as the user path holds them. It has no stale links: a table is replaced whole.
pub(super) fn user() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(make_table);
    &TABLE
}

fn make_table() -> Table {
    let world = world();
    let mut table = Table::new();
    let current = |peer: &&Peer| world.links[&peer.slot].epoch == peer.epoch;
    for peer in peers().iter().filter(current) {
        let id = LinkId::new(peer.link_id).expect("a link id");
        let link = UserLink {
            link: world.links[&peer.slot],
            ..UserLink::new("peer", id, Address::from(peer.local), (peer.remote, 15_000).into(), peer.mtu)
        };
        let reference = table.insert_link(peer.slot, link).expect("a free slot");
        for address in [peer.inner_v4, peer.inner_v6] {
            table.insert_prefix(prefix_key(address, None), reference);
        }
    }
    for own in [OWN_V4, OWN_V6] {
        table.insert_prefix(prefix_key(address(own), None), LinkRef::LOCAL);
    }
    for prefix in &world.prefixes {
        table.insert_prefix(prefix_key(prefix.address, Some(prefix.len)), prefix.to);
    }
    table
}

/// A prefix of the address's own family; without a length, the one address.
fn prefix_key(address: IpAddr, len: Option<u8>) -> PrefixKey {
    let (before, bits) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
    PrefixKey { bits: before + len.map_or(bits, u32::from), address: Address::from(address).to_bytes() }
}
