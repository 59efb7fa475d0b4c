//! The IP addresses of one device, brought to a wanted set. Touches no other device.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::request::Failure;
use super::{Error, Netlink, Result};

impl Netlink {
    /// The device's addresses with their prefix lengths, IPv4 first, each family in order.
    pub async fn addresses(&self, ifindex: u32) -> Result<Vec<(IpAddr, u8)>> {
        Ok(self
            .address_messages(ifindex)
            .await?
            .iter()
            .filter_map(own_address)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect())
    }

    /// Gives the device exactly the `wanted` addresses: adds what is missing, IPv6 without
    /// duplicate address detection, then removes what is there besides. What is right already is
    /// left alone, so that a second call changes nothing.
    ///
    /// # Errors
    /// The first of those that the single steps gave; the other steps are done all the same.
    pub async fn sync_addresses(&self, ifindex: u32, wanted: &[(IpAddr, u8)]) -> Result<()> {
        let first = self.sync_once(ifindex, wanted).await;
        // The kernel removes IPv4 addresses of the same network along with the first of them
        // (unless promote_secondaries is set), wanted ones too.
        first.and(self.sync_once(ifindex, wanted).await)
    }

    async fn sync_once(&self, ifindex: u32, wanted: &[(IpAddr, u8)]) -> Result<()> {
        let plan = plan(&self.address_messages(ifindex).await?, wanted);
        let mut outcome = Ok(());
        for (address, prefix_len) in plan.add {
            outcome = outcome.and(self.add_address(ifindex, address, prefix_len).await);
        }
        for message in plan.remove {
            outcome = outcome.and(self.remove_address(ifindex, message).await);
        }
        outcome
    }

    async fn address_messages(&self, ifindex: u32) -> Result<Vec<AddressMessage>> {
        let mut messages = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = AddressMessage::default();
            request.header.family = family;
            request.header.index = ifindex;
            match self.dump(RouteNetlinkMessage::GetAddress(request)).await {
                Ok(answer) => messages.extend(answer.into_iter().filter_map(new_address)),
                Err(failure) if is_family_absent(&failure) => {}
                Err(failure) => {
                    let action = |device: &str| format!("list the addresses of {device}");
                    return Err(self.explain_for(ifindex, failure, action).await);
                }
            }
        }
        messages.retain(|message| message.header.index == ifindex);
        Ok(messages)
    }

    async fn add_address(&self, ifindex: u32, address: IpAddr, prefix_len: u8) -> Result<()> {
        let message = RouteNetlinkMessage::NewAddress(message(ifindex, address, prefix_len));
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => Ok(()),
            // Someone else was faster.
            Err(failure) if failure.errno() == Some(libc::EEXIST) => Ok(()),
            Err(failure) if address.is_ipv6() && is_ipv6_off(&failure) => {
                Err(Error::Ipv6Off { device: self.name_of(ifindex).await, address })
            }
            Err(failure) => {
                let action = |device: &str| format!("give {device} the address {address}/{prefix_len}");
                Err(self.explain_for(ifindex, failure, action).await)
            }
        }
    }

    async fn remove_address(&self, ifindex: u32, message: AddressMessage) -> Result<()> {
        match self.request(RouteNetlinkMessage::DelAddress(message), 0).await {
            Ok(_) => Ok(()),
            // It went with the first of its network.
            Err(failure) if failure.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(failure) => {
                let action = |device: &str| format!("remove an address from {device}");
                Err(self.explain_for(ifindex, failure, action).await)
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Plan {
    add: Vec<(IpAddr, u8)>,
    remove: Vec<AddressMessage>,
}

fn plan(present: &[AddressMessage], wanted: &[(IpAddr, u8)]) -> Plan {
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    let kept: BTreeSet<_> =
        present.iter().filter_map(own_address).filter(|own| wanted.contains(own)).collect();
    let is_surplus =
        |message: &&AddressMessage| own_address(message).is_none_or(|own| !wanted.contains(&own));
    Plan {
        add: wanted.difference(&kept).copied().collect(),
        remove: present.iter().filter(is_surplus).cloned().collect(),
    }
}

/// Address and prefix length; `None` for an address with a peer, which is none that we give.
fn own_address(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's where there is one; IFA_LOCAL is left out for plain IPv6.
    match (local, address) {
        (Some(local), Some(peer)) if local != peer => None,
        (Some(ip), _) | (None, Some(ip)) => Some((ip, message.header.prefix_len)),
        (None, None) => None,
    }
}

fn message(ifindex: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = prefix_len;
    message.header.family = family(address);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn new_address(message: RouteNetlinkMessage) -> Option<AddressMessage> {
    match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    }
}

/// A kernel without IPv6, whose list of addresses is empty.
fn is_family_absent(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

fn is_ipv6_off(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8, prefix_len: u8) -> (IpAddr, u8) {
        (IpAddr::from([10, 0, 0, last]), prefix_len)
    }

    fn present(address: (IpAddr, u8)) -> AddressMessage {
        message(2, address.0, address.1)
    }

    #[test]
    fn what_is_right_already_is_left_alone() {
        let have = [present(v4(1, 24)), present(v4(2, 24))];
        assert_eq!(plan(&have, &[v4(2, 24), v4(1, 24), v4(1, 24)]), Plan { add: vec![], remove: vec![] });
    }

    #[test]
    fn the_same_address_with_another_prefix_length_is_another_address() {
        let have = [present(v4(1, 24))];
        assert_eq!(plan(&have, &[v4(1, 16)]), Plan { add: vec![v4(1, 16)], remove: have.to_vec() });
    }

    #[test]
    fn an_address_with_a_peer_is_not_one_that_we_give() {
        let mut have = present(v4(1, 32));
        have.attributes = vec![AddressAttribute::Local(v4(1, 32).0), AddressAttribute::Address(v4(2, 32).0)];
        assert_eq!(plan(&[have.clone()], &[v4(1, 32)]), Plan { add: vec![v4(1, 32)], remove: vec![have] });
    }

    #[test]
    fn plain_ipv6_addresses_have_no_local_attribute() {
        let address: IpAddr = "fd00::1".parse().unwrap();
        let mut have = present((address, 64));
        have.attributes = vec![AddressAttribute::Address(address)];
        assert_eq!(plan(&[have], &[(address, 64)]), Plan { add: vec![], remove: vec![] });
    }
}
