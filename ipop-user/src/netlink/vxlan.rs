//! The kernel's VXLAN device as IPOP uses it: `external`, and `gpe` where it is to take IP packets, so that it owns the
//! UDP port and its receive offload, reserves headroom, and outlives the daemon. What is sent through it is the eBPF
//! programs' business.

use std::net::Ipv6Addr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};

use super::link::LinkRef;
use super::request::Failure;
use super::{Error, Netlink, Result};

/// What a VXLAN device takes and delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// IP packets, by VXLAN-GPE.
    Packets,
    /// Ethernet frames, by VXLAN.
    Frames,
}

impl Payload {
    pub const ALL: [Self; 2] = [Self::Packets, Self::Frames];
}

impl Netlink {
    /// Makes the VXLAN device and returns its index: `ip link add NAME mtu MTU type vxlan
    /// external gpe dstport PORT udp6zerocsumrx nolearning dev lo local ::`, for frames without `gpe`. It is down; its port is opened by
    /// [`Self::set_up`].
    ///
    /// # Errors
    /// [`Error::NoVxlan`], [`Error::DeviceExists`], [`Error::PortInUse`] (another VXLAN device of
    /// that port), [`Error::NotPermitted`].
    pub async fn create_vxlan(&self, name: &str, payload: Payload, port: u16, mtu: u32) -> Result<u32> {
        let mut made = match self.link("lo").await {
            Ok(lo) => self.try_create(name, mtu, with_headroom(payload, port, lo.ifindex)).await,
            Err(_) => self.try_create(name, mtu, settings(payload, port)).await,
        };
        // A host without IPv6 refuses the address family that reserves the room.
        if let Err(failure) = &made
            && matches!(failure.errno(), Some(libc::EPERM | libc::EINVAL | libc::EPFNOSUPPORT))
        {
            made = self.try_create(name, mtu, settings(payload, port)).await;
        }
        match made {
            Ok(()) => self.link(name).await.map(|link| link.ifindex),
            Err(failure) => {
                let is_name_taken = self.link(name).await.is_ok();
                Err(explain_create(name, port, is_name_taken, failure))
            }
        }
    }

    async fn try_create(&self, name: &str, mtu: u32, settings: Vec<InfoVxlan>) -> Result<(), Failure> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(settings)),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await.map(|_| ())
    }

    /// The index of the device `name`, if it is just what [`Self::create_vxlan`] makes for that payload and
    /// port; `None` if there is no such device or it is of another kind.
    pub async fn vxlan_matches(&self, name: &str, payload: Payload, port: u16) -> Result<Option<u32>> {
        match self.link_message(LinkRef::Name(name)).await {
            Ok(message) => Ok(is_ours(&message, payload, port).then_some(message.header.index)),
            Err(failure) if failure.errno() == Some(libc::ENODEV) => Ok(None),
            Err(failure) => Err(failure.explain(format!("look up device {name}"), name)),
        }
    }

    /// The error for a device that could not open its port.
    pub(super) async fn port_in_use(&self, ifindex: u32, failure: Failure) -> Error {
        let message = self.link_message(LinkRef::Index(ifindex)).await.ok();
        let port = message.as_ref().and_then(|message| info(message)).and_then(port);
        match port {
            Some(port) => Error::PortInUse { port, device: self.name_of(ifindex).await },
            None => self.explain_for(ifindex, failure, |device| format!("set {device} up")).await,
        }
    }
}

/// Learning is off, because there is nothing to learn from headers that we write ourselves; outer
/// UDP checksums are zero, over IPv6 too, because the inner packet has its own.
fn settings(payload: Payload, port: u16) -> Vec<InfoVxlan> {
    let mut settings = vec![
        InfoVxlan::CollectMetadata(true),
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
        InfoVxlan::UDPZeroCsumRX(true),
    ];
    if payload == Payload::Packets {
        settings.push(InfoVxlan::Gpe);
    }
    settings
}

fn explain_create(name: &str, port: u16, is_name_taken: bool, failure: Failure) -> Error {
    match failure.errno() {
        Some(libc::EOPNOTSUPP) => Error::NoVxlan,
        // The kernel says the same of a name and of a port that are taken.
        Some(libc::EEXIST) if is_name_taken => Error::DeviceExists { name: name.into() },
        Some(libc::EEXIST | libc::EADDRINUSE) => Error::PortInUse { port, device: name.into() },
        _ => failure.explain(format!("create the VXLAN device {name}"), name),
    }
}

/// As [`settings`], with room for an Ethernet header and for IPv6 outside in every socket buffer.
/// The kernel reserves 36 bytes for a plain device of this kind, which it rounds to 48; our headers
/// take 50 over IPv4 and 70 over IPv6, so each small packet would be copied to make room. A device
/// below lends its Ethernet header, an IPv6 local address the rest: 80.
fn with_headroom(payload: Payload, port: u16, lo: u32) -> Vec<InfoVxlan> {
    let mut settings = settings(payload, port);
    settings.extend([InfoVxlan::Link(lo), InfoVxlan::Local6(Ipv6Addr::UNSPECIFIED)]);
    settings
}

fn is_ours(message: &LinkMessage, payload: Payload, port: u16) -> bool {
    info(message).is_some_and(|info| {
        let has_all = settings(payload, port).iter().all(|setting| info.contains(setting));
        has_all && info.contains(&InfoVxlan::Gpe) == (payload == Payload::Packets)
    })
}

fn info(message: &LinkMessage) -> Option<&[InfoVxlan]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(info)) => Some(info.as_slice()),
            _ => None,
        }),
        _ => None,
    })
}

fn port(info: &[InfoVxlan]) -> Option<u16> {
    info.iter().find_map(|info| match info {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;

    /// The kernel's announcement (6.18) of `ip link add vx0 type vxlan external gpe dstport 4790
    /// udp6zerocsumrx`.
    fn announced() -> LinkMessage {
        let bytes = include_bytes!("fixtures/link-vxlan.bin");
        match NetlinkMessage::deserialize(bytes).unwrap().payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => link,
            other => panic!("{other:?}"),
        }
    }

    fn settings_mut(message: &mut LinkMessage) -> &mut Vec<InfoVxlan> {
        let info = message.attributes.iter_mut().find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => info.iter_mut().find_map(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(info)) => Some(info),
                _ => None,
            }),
            _ => None,
        });
        info.unwrap()
    }

    #[test]
    fn a_device_of_our_kind_is_recognised_by_its_port() {
        assert!(is_ours(&announced(), Payload::Packets, 4790));
        assert!(!is_ours(&announced(), Payload::Packets, 4789));
    }

    #[test]
    fn a_device_that_lacks_any_setting_is_not_ours() {
        for setting in settings(Payload::Packets, 4790) {
            let mut message = announced();
            settings_mut(&mut message).retain(|have| *have != setting);
            assert!(!is_ours(&message, Payload::Packets, 4790), "{setting:?}");
        }
    }

    #[test]
    fn a_device_for_frames_is_none_for_packets() {
        let mut message = announced();
        assert!(!is_ours(&message, Payload::Frames, 4790));
        settings_mut(&mut message).retain(|have| *have != InfoVxlan::Gpe);
        assert!(is_ours(&message, Payload::Frames, 4790));
    }

    #[test]
    fn a_kernel_without_vxlan_is_told_from_other_refusals() {
        let explain = |errno, is_name_taken| {
            explain_create("ipop0", 4790, is_name_taken, Failure::Refused { errno, detail: String::new() })
        };
        assert!(matches!(explain(libc::EOPNOTSUPP, false), Error::NoVxlan));
        assert!(matches!(explain(libc::EEXIST, true), Error::DeviceExists { .. }));
        assert!(matches!(explain(libc::EEXIST, false), Error::PortInUse { port: 4790, .. }));
        assert!(matches!(explain(libc::EPERM, false), Error::NotPermitted { .. }));
    }

    #[test]
    fn other_devices_are_not_ours() {
        assert!(Payload::ALL.iter().all(|payload| !is_ours(&LinkMessage::default(), *payload, 4790)));
    }
}
