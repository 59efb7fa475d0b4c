//! What an operator sees of this node's part in the overlay.

use ipop_overlay::NodeAddress;
use ipop_overlay::ring::{EdgeView, Outlook, Ring, Roles};

use super::overlay::Overlay;
use super::peers::PeerState;
use super::pings::micros;
use super::probes::nodes_estimate;
use super::{Daemon, clock};
use crate::api::{self, OverlayState, Step};

impl Daemon {
    pub(super) fn overlay_status(&self) -> Option<api::Overlay> {
        let (overlay, ring) = (self.overlay.as_ref()?, self.node.ring()?);
        let bootstrap: Vec<api::Bootstrap> = overlay.ways_in().collect();
        let connections = connections(ring);
        let [right, left] = ring.nearest().map(|side| self.neighbours(ring, &side));
        let state = match (connections.total, right.is_empty()) {
            (0, _) => OverlayState::Alone,
            (_, true) => OverlayState::Joining,
            (_, false) => OverlayState::Joined,
        };
        let nodes_estimate = nodes_estimate(ring.log2_size());
        let reason = match state {
            OverlayState::Alone => self.why_alone(&bootstrap),
            OverlayState::Joining => "connected, and looking for its neighbours on the ring".to_owned(),
            OverlayState::Joined => format!("part of a ring of about {nodes_estimate} nodes"),
        };
        let (coordinates, nat) = (ring.coordinates().into(), nat(ring, self.stun.hairpin()));
        Some(api::Overlay {
            state,
            reason,
            nodes_estimate,
            left,
            right,
            connections,
            coordinates,
            nat,
            external: self.config.underlay.external.clone(),
            port_mapping: self.port_mapping.status(),
            stun: self.stun.status(),
            turn: self.turn.status(),
            relayed_pairs: u32::try_from(overlay.relayed.len()).unwrap_or(u32::MAX),
            bootstrap,
        })
    }

    fn why_alone(&self, bootstrap: &[api::Bootstrap]) -> String {
        let own = self.public_key.node_address();
        let mut others = bootstrap.iter().filter(|way_in| way_in.address != Some(own)).peekable();
        if others.peek().is_none() {
            let lan = if self.config.underlay.multicast {
                "nobody on the LAN has answered"
            } else {
                "none is looked for on the LAN"
            };
            return format!(
                "no other node has come, {lan}, and no bootstrap node is configured by which to find one"
            );
        }
        let (answered, silent): (Vec<_>, Vec<_>) = others.partition(|way_in| way_in.answered);
        let list = |of: Vec<&api::Bootstrap>| {
            of.iter().map(|way_in| way_in.endpoint.as_str()).collect::<Vec<_>>().join(", ")
        };
        if answered.is_empty() {
            let list = list(silent);
            return format!(
                "no bootstrap node has answered yet: {list}: is ipopd running there, with this secret?"
            );
        }
        format!("{} has answered, and there is no session with it yet", list(answered))
    }

    fn neighbours(&self, ring: &Ring, side: &[NodeAddress]) -> Vec<api::Neighbour> {
        let rtt = |address| ring.edges().find(|edge| edge.address == address)?.rtt;
        let neighbour = |address: &NodeAddress| api::Neighbour {
            node: self.node_ref(*address),
            rtt_us: rtt(*address).map(micros),
        };
        side.iter().map(neighbour).collect()
    }

    /// Why the overlay keeps the connection to a node, at this end and at the other.
    pub(super) fn roles_of(&self, address: NodeAddress) -> [Vec<String>; 2] {
        let edge = self.node.ring().and_then(|ring| ring.edges().find(|edge| edge.address == address));
        let names = |roles: Roles| roles.names().map(str::to_owned).collect();
        edge.map(|EdgeView { mine, theirs, .. }| [names(mine), names(theirs)]).unwrap_or_default()
    }

    /// One sentence about packets that others carry.
    pub(super) fn why_carried(&self, to: NodeAddress) -> String {
        let Some(ring) = self.node.ring() else {
            return "there is no overlay to carry the packets".to_owned();
        };
        let via = self.first_carrier(ring, to);
        format!(
            "other nodes carry the packets, first {via}: {}",
            self.outlook(ring, to).unwrap_or_else(|why| why)
        )
    }

    fn first_carrier(&self, ring: &Ring, to: NodeAddress) -> String {
        ring.next_hop(to).map_or_else(|| "nobody".to_owned(), |first| self.node_ref(first).label())
    }

    /// What stands between this node and a direct link to another.
    fn outlook(&self, ring: &Ring, to: NodeAddress) -> Result<String, String> {
        let now = clock::now();
        match ring.outlook(to, now) {
            Outlook::Connected => Ok("there is a direct session".to_owned()),
            Outlook::Linking => Err("a direct link is being made".to_owned()),
            Outlook::Asked => Err("it has been asked over the overlay where it is".to_owned()),
            Outlook::Avoided(until) => {
                let seconds = until.since(now).as_secs() + 1;
                Err(format!("no way by UDP was found; with traffic it is tried again in {seconds} s"))
            }
            Outlook::Quiet => Err("too little traffic for a direct link yet".to_owned()),
        }
    }

    /// Why packets to a peer go by a relay.
    pub(super) fn why_not_direct(&self, peer: &PeerState) -> String {
        let Some(ring) = self.node.ring() else { return "there is no overlay".to_owned() };
        match ring.upgrade_at(peer.node_address()) {
            Some(at) => {
                let seconds = at.since(clock::now()).as_secs() + 1;
                format!("no way by UDP was found; it is tried again in {seconds} s")
            }
            None => "a direct link is being made".to_owned(),
        }
    }

    /// The questions about packets that a relay passes on.
    pub(super) fn relay_steps(&self, peer: &PeerState, by: NodeAddress) -> Vec<Step> {
        let relay = self.node_ref(by).label();
        let place = self.place_of(by);
        let connected = place.map(|place| format!("{relay}, at {place}"));
        let step = |check: &str, outcome: Result<String, String>| Step {
            check: check.to_owned(),
            ok: outcome.is_ok(),
            detail: outcome.unwrap_or_else(|reason| reason),
        };
        vec![
            step("relay", connected.ok_or_else(|| format!("{relay} is not connected"))),
            step("direct link", Err(self.why_not_direct(peer))),
        ]
    }

    /// The questions about packets that others carry.
    pub(super) fn overlay_steps(&self, to: NodeAddress) -> Vec<Step> {
        let Some(ring) = self.node.ring() else { return Vec::new() };
        let step = |check: &str, outcome: Result<String, String>| Step {
            check: check.to_owned(),
            ok: outcome.is_ok(),
            detail: outcome.unwrap_or_else(|reason| reason),
        };
        let carried = match ring.next_hop(to) {
            Some(_) => {
                Ok(format!("first by {}; `ipopctl traceroute {to}` shows all", self.first_carrier(ring, to)))
            }
            None => Err("this node is connected to no other".to_owned()),
        };
        vec![step("carried by others", carried), step("direct link", self.outlook(ring, to))]
    }
}

impl Overlay {
    /// The ways into the network that are configured, and whether they have answered.
    fn ways_in(&self) -> impl Iterator<Item = api::Bootstrap> {
        self.ways.configured().map(|(config, known)| api::Bootstrap {
            endpoint: config.to_string(),
            answered: known.is_some(),
            address: known.map(crate::key::PublicKey::node_address),
        })
    }
}

/// What others see of this node, and whether its outside address by IPv4 leads back.
fn nat(ring: &Ring, hairpin: Option<bool>) -> Vec<api::Nat> {
    let all: Vec<_> = ring.observations().into_iter().chain(ring.servers()).collect();
    let of_family = |(is_v4, family): (bool, &str)| {
        let seen = all.iter().filter(|observation| observation.seen.is_ipv4() == is_v4);
        let observations: Vec<api::Seen> = seen
            .map(|of| api::Seen { observer: of.observer.to_string(), seen: of.seen.to_string() })
            .collect();
        let mapping = ring.mapping(is_v4).name().to_owned();
        let hairpin = hairpin.filter(|_| is_v4);
        (!observations.is_empty()).then(|| api::Nat {
            family: family.to_owned(),
            mapping,
            hairpin,
            observations,
        })
    };
    [(true, "ipv4"), (false, "ipv6")].into_iter().filter_map(of_family).collect()
}

fn connections(ring: &Ring) -> api::Connections {
    let mut connections = api::Connections::default();
    for EdgeView { mine, theirs, .. } in ring.edges() {
        let add = |count: &mut u32, role| *count += u32::from(mine.contains(role) || theirs.contains(role));
        connections.total += 1;
        add(&mut connections.near, Roles::NEAR);
        add(&mut connections.far, Roles::FAR);
        add(&mut connections.bypass, Roles::BYPASS);
        add(&mut connections.leaf, Roles::LEAF);
        add(&mut connections.on_demand, Roles::DEMAND);
        add(&mut connections.managed, Roles::MANAGED);
    }
    connections
}
