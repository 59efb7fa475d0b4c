//! The link-layer address of a next hop: what the kernel believes, and how to make it ask.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::address::family;
use super::request::Failure;
use super::{Error, Netlink, Result};

impl Netlink {
    /// The MAC of `next_hop`, if the kernel has one that it would send to now.
    pub async fn neighbour(&self, ifindex: u32, next_hop: IpAddr) -> Result<Option<[u8; 6]>> {
        Ok(self.neighbour_entry(ifindex, next_hop).await?.as_ref().and_then(mac))
    }

    /// Makes the kernel check now whether `next_hop` still has its MAC, or find the MAC if it knows
    /// none, and returns at once; the answer comes as [`Change::Neighbour`](super::Change). A MAC
    /// that is known stays in use meanwhile, and is asked by unicast: if another host has taken
    /// the address over in silence, that takes the kernel 3 s to see (measured; three probes of
    /// 1 s). [`Self::renew_neighbour`] does not wait.
    pub async fn probe_neighbour(&self, ifindex: u32, next_hop: IpAddr) -> Result<()> {
        match self.neighbour_entry(ifindex, next_hop).await?.map(|entry| entry.header.state) {
            Some(state) if is_settled(state) => Ok(()),
            Some(state) if is_valid(state) => {
                self.set_neighbour(ifindex, next_hop, NeighbourState::Probe).await
            }
            _ => self.solicit(ifindex, next_hop).await,
        }
    }

    /// Makes the kernel forget the MAC of `next_hop` and ask everyone on the wire for it, now. The
    /// loss and the answer come as [`Change::Neighbour`](super::Change), the answer within
    /// milliseconds if `next_hop` is there. For a next hop that has fallen silent.
    pub async fn renew_neighbour(&self, ifindex: u32, next_hop: IpAddr) -> Result<()> {
        match self.neighbour_entry(ifindex, next_hop).await?.map(|entry| entry.header.state) {
            Some(state) if is_settled(state) => return Ok(()),
            Some(state) if is_valid(state) => {
                self.set_neighbour(ifindex, next_hop, NeighbourState::Failed).await?;
            }
            _ => {}
        }
        self.solicit(ifindex, next_hop).await
    }

    /// Puts an entry that is there into another state, which for `Probe` keeps its MAC.
    async fn set_neighbour(&self, ifindex: u32, next_hop: IpAddr, state: NeighbourState) -> Result<()> {
        let mut message = about(ifindex, next_hop);
        message.header.state = state;
        let request = RouteNetlinkMessage::NewNeighbour(message);
        match self.request(request, NLM_F_REPLACE).await {
            Ok(_) => Ok(()),
            // It has gone meanwhile.
            Err(failure) if failure.errno() == Some(libc::ENOENT) => self.solicit(ifindex, next_hop).await,
            Err(failure) => Err(self.explain_neighbour(ifindex, next_hop, failure).await),
        }
    }

    /// Asks as if a packet to `next_hop` were waiting. Where a MAC is known this does nothing for
    /// 5 s (`delay_first_probe_time`), hence the other states above. Over IPv6 the kernel asks from
    /// its link-local address; on a device that has none, or none yet, only a real packet to
    /// `next_hop` makes it ask.
    async fn solicit(&self, ifindex: u32, next_hop: IpAddr) -> Result<()> {
        let mut message = about(ifindex, next_hop);
        message.header.flags = NeighbourFlags::Use;
        let request = RouteNetlinkMessage::NewNeighbour(message);
        match self.request(request, NLM_F_CREATE | NLM_F_REPLACE).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.explain_neighbour(ifindex, next_hop, failure).await),
        }
    }

    async fn explain_neighbour(&self, ifindex: u32, next_hop: IpAddr, failure: Failure) -> Error {
        self.explain_for(ifindex, failure, |device| format!("look for {next_hop} on {device}")).await
    }

    async fn neighbour_entry(&self, ifindex: u32, next_hop: IpAddr) -> Result<Option<NeighbourMessage>> {
        let request = RouteNetlinkMessage::GetNeighbour(about(ifindex, next_hop));
        match self.request(request, 0).await {
            Ok(answer) => Ok(answer.into_iter().find_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
                _ => None,
            })),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
            Err(failure) => Err(self.explain_neighbour(ifindex, next_hop, failure).await),
        }
    }
}

/// The entry's MAC, if its state lets the kernel send to it (`NUD_VALID`).
pub(super) fn mac(entry: &NeighbourMessage) -> Option<[u8; 6]> {
    let address = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => Some(address.as_slice()),
        _ => None,
    });
    address.filter(|_| is_valid(entry.header.state)).and_then(|address| address.try_into().ok())
}

/// `NUD_VALID`: the kernel sends to the entry's MAC.
fn is_valid(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
}

/// Nothing to ask: fixed by the operator, or being asked already.
fn is_settled(state: NeighbourState) -> bool {
    matches!(state, NeighbourState::Permanent | NeighbourState::Noarp | NeighbourState::Incomplete)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: NeighbourState, link_layer: &[u8]) -> NeighbourMessage {
        let mut entry = about(2, IpAddr::from([10, 0, 0, 1]));
        entry.header.state = state;
        entry.attributes.push(NeighbourAttribute::LinkLayerAddress(link_layer.into()));
        entry
    }

    #[test]
    fn only_states_that_the_kernel_sends_in_give_a_mac() {
        use NeighbourState::{
            Delay, Failed, Incomplete, Noarp, None as Unknown, Other, Permanent, Probe, Reachable, Stale,
        };
        let mac_len = 6;
        let link_layer = vec![2; mac_len];
        for state in [Reachable, Stale, Delay, Probe, Permanent, Noarp] {
            assert_eq!(mac(&entry(state, &link_layer)), Some([2; 6]), "{state}");
        }
        for state in [Unknown, Incomplete, Failed, Other(0x400)] {
            assert_eq!(mac(&entry(state, &link_layer)), None, "{state}");
        }
    }

    #[test]
    fn link_layer_addresses_of_other_lengths_are_no_macs() {
        assert_eq!(mac(&entry(NeighbourState::Reachable, &[])), None);
        assert_eq!(mac(&entry(NeighbourState::Reachable, &[2; 20])), None);
        assert_eq!(mac(&about(2, IpAddr::from([10, 0, 0, 1]))), None);
    }
}
