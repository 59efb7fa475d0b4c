//! The node whose sessions the frames are of, as both of its paths have it.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use ipop_common::Address;
use ipop_common::gpe::LinkId;
use ipop_common::maps::{Config, Link, LinkRef};
use ipop_common::session::{Agreed, Session as Place, place};
use ipop_common::tables::Tables;
use ipop_overlay::{Endpoint, NodeAddress};
use ipop_tests::sealed::{DAEMON_PORT, Session};
use ipop_tests::world::{LEASE_OVER, Peer, World};
use ipop_user::userpath::{Table, UserSession};

use super::LIFE_NS;
use crate::targets::tables::{EXPIRED, NOW_NS, OVER_V4, OVER_V6, RECEIVE_ONLY, ROUTER, address, peers, user};

/// The label of both relayed links; their relays are in different places.
pub(super) const LABEL: u32 = 0x0102_0304;
/// Where relays are, as their NATs have them.
const RELAY_PORT: u16 = 40_001;
/// Sessions from here on are those of relayed links.
const FIRST_RELAYED: usize = 4;

/// Two sessions with one peer, one with a peer over IPv6, one with a peer whose lease is over: its packets
/// are for the user path, which has no leases. Then one with a peer behind a relay, and one with a peer behind a
/// relay that is reached by IPv6.
pub(super) fn sessions() -> &'static [(Session, Peer)] {
    static SESSIONS: LazyLock<Vec<(Session, Peer)>> = LazyLock::new(|| {
        let [direct, again, over_v6, expired, behind, other] =
            [OVER_V4, OVER_V4, OVER_V6, EXPIRED, ROUTER, RECEIVE_ONLY].map(|index| peers()[index].clone());
        let behind_v6 = Peer { remote: address("2001:db8::77"), local: over_v6.local, ..other };
        let peers = [direct, again, over_v6, expired, behind, behind_v6];
        peers.into_iter().zip(1..).map(|(peer, n)| (Session::new(n, &peer), peer)).collect()
    });
    &SESSIONS
}

/// Whether a session's packets come by a relay.
pub(super) fn is_relayed(index: usize) -> bool {
    index >= FIRST_RELAYED
}

/// Where a session's packets come from: of the peer, or of the relay.
pub(super) fn place_of(index: usize) -> SocketAddr {
    let port = if is_relayed(index) { RELAY_PORT } else { DAEMON_PORT };
    (sessions()[index].1.remote, port).into()
}

/// The kernel path's tables, without the places.
fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let mut world = World::new(1, 1);
        for (index, (session, peer)) in sessions().iter().enumerate() {
            match is_relayed(index) {
                true => world.add_relayed(peer, session, RELAY_PORT, LABEL),
                false => world.add_sealed(peer, session),
            }
        }
        world.change(&peers()[EXPIRED], |link| link.lease_until_ns = LEASE_OVER);
        world
    });
    &WORLD
}

/// The user path's.
pub(super) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        let mut table = user().clone();
        for (session, peer) in sessions() {
            let keys = UserSession::new(session.local, &session.send_key, &session.receive_key);
            table.insert_session(peer.slot, Arc::new(keys));
        }
        for index in FIRST_RELAYED..sessions().len() {
            let relay = NodeAddress::of_key(&[index as u8; 32]);
            table.insert_node(Endpoint::Udp(place_of(index)), relay);
        }
        table
    });
    &TABLE
}

/// The places of the sessions, by what is the place in their indices: one more than there are.
pub(super) struct Places(Vec<Place>);

impl Places {
    pub(super) fn new() -> Self {
        let mut places = vec![Place::vacant()];
        for (session, _) in sessions() {
            let place = Place::vacant();
            place.install(&Agreed { expires_ns: NOW_NS + LIFE_NS, ..session.agreed() }, None);
            places.push(place);
        }
        Self(places)
    }

    pub(super) fn of(&self, local: u32) -> Option<&Place> {
        self.0.get(place(local) as usize)
    }
}

impl Tables for Places {
    fn config(&self) -> Option<&Config> {
        world().config()
    }

    fn link(&self, slot: u32) -> Option<&Link> {
        world().link(slot)
    }

    fn by_link_id(&self, id: LinkId) -> Option<LinkRef> {
        world().by_link_id(id)
    }

    fn by_address(&self, address: &Address) -> Option<LinkRef> {
        world().by_address(address)
    }

    fn session(&self, local: u32) -> Option<&Place> {
        self.of(local)
    }
}
