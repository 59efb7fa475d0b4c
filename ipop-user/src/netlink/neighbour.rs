//! The link-layer address of a next hop: what the kernel believes, and how to make it ask.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::address::family;
use super::{Netlink, Result};

impl Netlink {
    /// The MAC of `next_hop`, if the kernel has one that it would send to now.
    pub async fn neighbour(&self, ifindex: u32, next_hop: IpAddr) -> Result<Option<[u8; 6]>> {
        Ok(self.neighbour_entry(ifindex, next_hop).await?.as_ref().and_then(mac))
    }

    /// Makes the kernel find out now whether `next_hop` is there and under which MAC, and returns
    /// at once; the answer comes as [`Change::Neighbour`](super::Change).
    pub async fn probe_neighbour(&self, ifindex: u32, next_hop: IpAddr) -> Result<()> {
        let mut message = about(ifindex, next_hop);
        let known = self.neighbour_entry(ifindex, next_hop).await?;
        let flags = match known.as_ref().map(|entry| entry.header.state) {
            Some(NeighbourState::Permanent | NeighbourState::Noarp | NeighbourState::Incomplete) => {
                return Ok(());
            }
            Some(
                NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe,
            ) => {
                message.header.state = NeighbourState::Probe;
                NLM_F_REPLACE
            }
            _ => {
                message.header.flags = NeighbourFlags::Use;
                NLM_F_CREATE | NLM_F_REPLACE
            }
        };
        let verb = format!("look for {next_hop} on {{}}");
        self.request_for(ifindex, &verb, RouteNetlinkMessage::NewNeighbour(message), flags).await.map(drop)
    }

    async fn neighbour_entry(&self, ifindex: u32, next_hop: IpAddr) -> Result<Option<NeighbourMessage>> {
        let request = RouteNetlinkMessage::GetNeighbour(about(ifindex, next_hop));
        match self.request(request, 0).await {
            Ok(answer) => Ok(answer.into_iter().find_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
                _ => None,
            })),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
            Err(failure) => {
                let verb = format!("look up the neighbour {next_hop} on {{}}");
                Err(self.explain_for(ifindex, &verb, failure).await)
            }
        }
    }
}

/// The entry's MAC, if its state lets the kernel send to it (`NUD_VALID`).
pub(super) fn mac(entry: &NeighbourMessage) -> Option<[u8; 6]> {
    let valid = matches!(
        entry.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let address = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => Some(address.as_slice()),
        _ => None,
    });
    address.filter(|_| valid).and_then(|address| address.try_into().ok())
}

pub(super) fn address(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

fn about(ifindex: u32, next_hop: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(next_hop);
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(next_hop.into()));
    message
}
