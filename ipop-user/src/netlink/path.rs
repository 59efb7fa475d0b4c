//! How packets to a peer leave this host, by the kernel's own route lookup. Does not cache: what
//! can make an answer stale comes as a `Change`.

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType, RouteVia};

use super::address::family;
use super::request::Failure;
use super::route::{ip, mtu, new_route};
use super::{Error, Netlink, Result};

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The device that packets leave by.
    pub ifindex: u32,
    /// The source address that the kernel would choose.
    pub source: IpAddr,
    /// `None` if the peer is on the link. May be IPv6 for an IPv4 peer (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// Largest IP packet in bytes: the device's MTU, the route's, or what path MTU discovery
    /// has learned, whichever is least.
    pub mtu: u32,
    /// Whose link-layer address the packets carry: the gateway, else the peer.
    pub next_hop: IpAddr,
}

impl Netlink {
    /// The way to `peer`, as `ip route get`. `mark` is the firewall mark that policy routing is to
    /// see. `own_devices` are our virtual devices: a path into one of them would loop.
    ///
    /// # Errors
    /// [`Error::NoRoute`], [`Error::PeerIsLocal`], [`Error::PeerNotUnicast`], [`Error::PathLoop`].
    pub async fn resolve(&self, peer: IpAddr, mark: Option<u32>, own_devices: &[u32]) -> Result<Path> {
        let answer = self.request(RouteNetlinkMessage::GetRoute(lookup(peer, mark)), 0).await;
        let answer = answer.map_err(|failure| no_route(peer, failure))?;
        let route = answer.iter().find_map(new_route);
        let hop = Hop::parse(peer, route.ok_or_else(|| unanswered(peer))?)?;
        let link = self.link(hop.ifindex).await?;
        if own_devices.contains(&hop.ifindex) {
            return Err(Error::PathLoop { peer, device: link.name });
        }
        let mtu = hop.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        let Hop { ifindex, source, gateway, .. } = hop;
        Ok(Path { ifindex, source, gateway, mtu, next_hop: gateway.unwrap_or(peer) })
    }
}

/// What the route lookup itself tells.
#[derive(Debug, PartialEq)]
struct Hop {
    ifindex: u32,
    source: IpAddr,
    gateway: Option<IpAddr>,
    mtu: Option<u32>,
}

impl Hop {
    fn parse(peer: IpAddr, route: &RouteMessage) -> Result<Self> {
        match route.header.kind {
            RouteType::Unicast => {}
            RouteType::Local => return Err(Error::PeerIsLocal { peer }),
            RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
                return Err(Error::PeerNotUnicast { peer });
            }
            other => return Err(Error::NoRoute { peer, reason: format!("{other:?}").to_lowercase() }),
        }
        let (mut ifindex, mut source, mut gateway, mut route_mtu) = (None, None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
                RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
                RouteAttribute::Metrics(metrics) => route_mtu = mtu(metrics),
                _ => {}
            }
        }
        match (ifindex, source) {
            (Some(ifindex), Some(source)) => Ok(Self { ifindex, source, gateway, mtu: route_mtu }),
            (Some(_), None) => {
                Err(Error::NoRoute { peer, reason: "no source address of that family".into() })
            }
            (None, _) => Err(unanswered(peer)),
        }
    }
}

fn lookup(peer: IpAddr, mark: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(peer);
    message.header.destination_prefix_length = if peer.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(peer.into()));
    message.attributes.extend(mark.map(RouteAttribute::Mark));
    message
}

fn no_route(peer: IpAddr, failure: Failure) -> Error {
    match failure {
        Failure::Refused { .. } => Error::NoRoute { peer, reason: failure.reason() },
        _ => failure.explain(format!("look up the route to {peer}"), "any"),
    }
}

fn unanswered(peer: IpAddr) -> Error {
    Error::NoRoute { peer, reason: "the kernel named no device".into() }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 8, 0, 1));

    /// The kernel's answer (6.18) to a lookup of [`PEER`], after
    /// `ip route add 10.8.0.0/16 via 10.7.0.9 dev q0 mtu 1300`.
    fn answer() -> RouteMessage {
        let bytes = include_bytes!("fixtures/route-lookup.bin");
        match NetlinkMessage::deserialize(bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => route,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lookup_gives_device_source_gateway_and_mtu() {
        let hop = Hop::parse(PEER, &answer()).unwrap();
        assert_eq!(
            (hop.source, hop.gateway),
            (IpAddr::from([10, 7, 0, 1]), Some(IpAddr::from([10, 7, 0, 9])))
        );
        assert_eq!(hop.mtu, Some(1300));
        assert!(hop.ifindex > 1);
    }

    #[test]
    fn an_ipv4_peer_may_have_an_ipv6_gateway() {
        let mut route = answer();
        route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Gateway(_)));
        let gateway = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        route.attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
        assert_eq!(Hop::parse(PEER, &route).unwrap().gateway, Some(IpAddr::V6(gateway)));
    }

    #[test]
    fn only_unicast_routes_to_other_hosts_are_paths() {
        let refused = |kind: RouteType| {
            let mut route = answer();
            route.header.kind = kind;
            Hop::parse(PEER, &route).unwrap_err()
        };
        assert!(matches!(refused(RouteType::Local), Error::PeerIsLocal { peer: PEER }));
        assert!(matches!(refused(RouteType::Broadcast), Error::PeerNotUnicast { peer: PEER }));
        assert!(matches!(refused(RouteType::Multicast), Error::PeerNotUnicast { peer: PEER }));
        assert_eq!(
            refused(RouteType::BlackHole).to_string(),
            "no route to 10.8.0.1 (blackhole): check `ip route get 10.8.0.1`"
        );
    }

    #[test]
    fn a_route_without_device_or_source_is_no_path() {
        let mut route = answer();
        route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::PrefSource(_)));
        assert!(matches!(Hop::parse(PEER, &route), Err(Error::NoRoute { .. })));
        route.attributes.clear();
        assert!(matches!(Hop::parse(PEER, &route), Err(Error::NoRoute { .. })));
    }
}
