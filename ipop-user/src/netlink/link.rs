//! Devices: their state, and the few settings that we make on our own. Creation of the VXLAN
//! device is in `vxlan`, XDP in `xdp`.

use std::io;
use std::path::Path;

use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::request::Failure;
use super::{Error, Netlink, Result};

/// `ARPHRD_ETHER`: the device carries Ethernet frames.
pub(super) const ARPHRD_ETHER: u16 = 1;

/// What the kernel says about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    pub ifindex: u32,
    pub name: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Ethernet devices only.
    pub mac: Option<[u8; 6]>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Able to carry packets now (`IFF_RUNNING`): up, with carrier, and whatever lies below is
    /// ready too.
    pub running: bool,
    /// Carrier on the wire (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// `vxlan`, `veth`, `tun`, ..; `None` for hardware.
    pub kind: Option<String>,
    /// Hardware type, an `ARPHRD_` number: 1 Ethernet, 65534 none.
    pub arphrd: u16,
}

/// A device by its name or its index.
#[derive(Clone, Copy, Debug)]
pub enum LinkRef<'a> {
    Name(&'a str),
    Index(u32),
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for LinkRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for LinkRef<'_> {
    fn from(ifindex: u32) -> Self {
        Self::Index(ifindex)
    }
}

impl std::fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(ifindex) => write!(f, "#{ifindex}"),
        }
    }
}

impl Netlink {
    /// One device's state.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is none of that name or index.
    pub async fn link(&self, link: impl Into<LinkRef<'_>>) -> Result<LinkState> {
        let link = link.into();
        let message = self.link_message(link).await.map_err(|failure| explain_lookup(failure, link))?;
        LinkState::parse(&message).ok_or_else(|| Error::NoDevice { device: link.to_string() })
    }

    /// All devices of this namespace.
    pub async fn links(&self) -> Result<Vec<LinkState>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answer =
            self.dump(request).await.map_err(|failure| failure.explain("list devices".into(), "any"))?;
        Ok(answer.iter().filter_map(new_link).filter_map(LinkState::parse).collect())
    }

    /// Removes a device. One that is gone already is no error.
    pub async fn delete(&self, ifindex: u32) -> Result<()> {
        match self
            .request_for(ifindex, RouteNetlinkMessage::DelLink(at(ifindex)), 0, |device| {
                format!("delete {device}")
            })
            .await
        {
            Ok(_) | Err(Error::NoDevice { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets the device administratively up.
    ///
    /// # Errors
    /// [`Error::PortInUse`] if it is a VXLAN device whose UDP port has another owner: the kernel
    /// opens the port only now.
    pub async fn set_up(&self, ifindex: u32) -> Result<()> {
        let mut message = at(ifindex);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        match self.request(RouteNetlinkMessage::SetLink(message), 0).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.errno() == Some(libc::EADDRINUSE) => {
                Err(self.port_in_use(ifindex, failure).await)
            }
            Err(failure) => {
                Err(self.explain_for(ifindex, failure, |device| format!("set {device} up")).await)
            }
        }
    }

    /// Sets the device administratively down.
    pub async fn set_down(&self, ifindex: u32) -> Result<()> {
        let mut message = at(ifindex);
        message.header.change_mask = LinkFlags::Up;
        let action = |device: &str| format!("set {device} down");
        self.request_for(ifindex, RouteNetlinkMessage::SetLink(message), 0, action).await.map(drop)
    }

    /// Sets the MAC address of an Ethernet device.
    pub async fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        let mut message = at(ifindex);
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        let action = |device: &str| format!("set the MAC address of {device}");
        self.request_for(ifindex, RouteNetlinkMessage::SetLink(message), 0, action).await.map(drop)
    }

    /// Sets the largest IP packet that the device takes, in bytes.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<()> {
        let mut message = at(ifindex);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        let action = |device: &str| format!("set the MTU of {device} to {mtu}");
        self.request_for(ifindex, RouteNetlinkMessage::SetLink(message), 0, action).await.map(drop)
    }

    /// Sets how many segments a packet that the stack gives to the device has at most: with 1, TCP
    /// cuts its packets itself.
    pub async fn set_gso_max_segs(&self, ifindex: u32, segments: u32) -> Result<()> {
        let mut message = at(ifindex);
        message.attributes.push(LinkAttribute::GsoMaxSegs(segments));
        let action = |device: &str| format!("set the most segments of {device} to {segments}");
        self.request_for(ifindex, RouteNetlinkMessage::SetLink(message), 0, action).await.map(drop)
    }

    /// No link-local address of the kernel's own making on the device: nobody else on the virtual
    /// network could use it, and announcing it costs packets. Takes effect at the next "up".
    pub async fn set_addrgenmode_none(&self, ifindex: u32) -> Result<()> {
        let mut message = at(ifindex);
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        match self.request(RouteNetlinkMessage::SetLink(message), 0).await {
            Ok(_) => Ok(()),
            // A host without IPv6 makes no link-local addresses.
            Err(failure) if failure.errno() == Some(libc::EAFNOSUPPORT) => Ok(()),
            Err(failure) => Err(self
                .explain_for(ifindex, failure, |device| format!("set the addrgenmode of {device}"))
                .await),
        }
    }

    /// Keeps the kernel's own chatter off a virtual device of ours: no router solicitations, no
    /// addresses and routes from router advertisements. These settings have no netlink attribute,
    /// so they are written below /proc/sys, in the caller's network namespace; a host without IPv6
    /// has none of them. All are tried before the first error is returned, and a daemon may go on
    /// after one: the files are read-only under a hardened unit, and without a link-local address
    /// ([`Self::set_addrgenmode_none`]) the kernel has nothing to solicit from.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::Sysctl`].
    pub async fn set_quiet(&self, ifindex: u32) -> Result<()> {
        let name = self.link(ifindex).await?.name;
        let folder = Path::new("/proc/sys/net/ipv6/conf").join(name);
        let written =
            ["router_solicitations", "accept_ra", "autoconf"].map(|key| write_zero(&folder.join(key)));
        written.into_iter().collect()
    }

    pub(super) async fn link_message(&self, link: LinkRef<'_>) -> Result<LinkMessage, Failure> {
        let mut message = LinkMessage::default();
        match link {
            LinkRef::Name(name) => message.attributes.push(LinkAttribute::IfName(name.into())),
            LinkRef::Index(ifindex) => message.header.index = ifindex,
        }
        let answer = self.request(RouteNetlinkMessage::GetLink(message), 0).await?;
        let link = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.ok_or(Failure::Refused { errno: libc::ENODEV, detail: String::new() })
    }
}

impl LinkState {
    /// `None` for what is not a whole device, such as a bridge's view of a port.
    pub(super) fn parse(message: &LinkMessage) -> Option<Self> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let flags = message.header.flags;
        let arphrd = u16::from(message.header.link_layer_type);
        let mut state = Self {
            ifindex: message.header.index,
            name: name(message)?,
            mtu: 0,
            mac: None,
            master: None,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Up | LinkFlags::Running),
            carrier: flags.contains(LinkFlags::LowerUp),
            kind: None,
            arphrd,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
                LinkAttribute::Address(mac) if arphrd == ARPHRD_ETHER => {
                    state.mac = mac.as_slice().try_into().ok();
                }
                LinkAttribute::Controller(master) => state.master = Some(*master),
                LinkAttribute::LinkInfo(info) => state.kind = kind(info),
                _ => {}
            }
        }
        Some(state)
    }
}

pub(super) fn name(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// An empty message about one device.
pub(super) fn at(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

fn kind(info: &[LinkInfo]) -> Option<String> {
    info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

fn new_link(message: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

fn explain_lookup(failure: Failure, link: LinkRef<'_>) -> Error {
    match failure.errno() {
        // What the kernel says to a name that is too long for any device.
        Some(libc::ERANGE | libc::EINVAL) => Error::NoDevice { device: link.to_string() },
        _ => failure.explain(format!("look up device {link}"), &link.to_string()),
    }
}

fn write_zero(path: &Path) -> Result<()> {
    let as_wanted = |text: String| text.trim() == "0";
    let written = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(text) if as_wanted(text.clone()) => Ok(()),
        _ => std::fs::write(path, "0"),
    };
    written.map_err(|source| Error::Sysctl { path: path.into(), source })
}
