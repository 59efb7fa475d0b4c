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
        let present = self.address_messages(ifindex).await?;
        let plan = plan(&present, wanted);
        let mut outcome = Ok(());
        for &(address, prefix_len) in &plan.add {
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
                    return Err(self.explain_for(ifindex, "list the addresses of {}", failure).await);
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
                let verb = format!("give {{}} the address {address}/{prefix_len}");
                Err(self.explain_for(ifindex, &verb, failure).await)
            }
        }
    }

    async fn remove_address(&self, ifindex: u32, message: AddressMessage) -> Result<()> {
        match self.request(RouteNetlinkMessage::DelAddress(message), 0).await {
            Ok(_) => Ok(()),
            // An IPv4 secondary address goes with its primary one.
            Err(failure) if failure.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(failure) => Err(self.explain_for(ifindex, "remove an address from {}", failure).await),
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
