//! The virtual device: made or taken over, configured, and removed.
//!
//! With the kernel path it is a VXLAN device, which outlives the daemon, and a helper TUN that
//! takes what the programs miss; without, a TUN. Where the network carries frames, TUNs are TAPs. See docs/decisions/0001-virtual-device.md.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipop_common::ethernet::Mac;
use ipop_common::ingress::ETHERNET_LEN;
use ipop_common::limits::KERNEL_PORT;
use tracing::{info, warn};

use super::predecessor::outlive;
use crate::api::DeviceKind;
use crate::config::Prefix;
use crate::netlink::{Error as NetlinkError, Netlink, Payload, Route};
use crate::userpath::{Kind, Tun, TunError};

/// Appended to the device's name for its helper.
const HELPER_SUFFIX: &str = "-slow";
/// The helper takes whatever the virtual device does: the longest packet, or frame.
const HELPER_MTU: u32 = 65_535;
/// What a device has that nobody has changed (linux/netdevice.h).
const GSO_MAX_SEGS: u32 = 65_535;

/// What the virtual network carries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carries {
    Packets,
    /// Frames, those of the device itself with this MAC address.
    Frames(Mac),
}

impl Carries {
    const fn payload(self) -> Payload {
        match self {
            Self::Packets => Payload::Packets,
            Self::Frames(_) => Payload::Frames,
        }
    }

    const fn helper_mtu(self) -> u32 {
        match self {
            Self::Packets => HELPER_MTU,
            Self::Frames(_) => HELPER_MTU - ETHERNET_LEN as u32,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Packets => Kind::Tun,
            Self::Frames(_) => Kind::Tap,
        }
    }
}

/// The virtual device of this node.
#[derive(Debug)]
pub(super) struct VirtualDevice {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) kind: DeviceKind,
    /// The queues of a VXLAN device's helper, or of the device itself.
    pub(super) tuns: Vec<Arc<Tun>>,
    /// 0 where the device is the TUN itself.
    pub(super) helper_ifindex: u32,
    pub(super) mtu: u32,
    /// The bridge that it is a port of, or 0.
    pub(super) bridge: u32,
    routes: Vec<Route>,
}

impl VirtualDevice {
    /// Takes over or makes the VXLAN device and makes its helper.
    pub(super) async fn vxlan(
        netlink: &Netlink,
        name: &str,
        mtu: u32,
        queues: usize,
        carries: Carries,
    ) -> Result<Self> {
        let payload = carries.payload();
        let others = Payload::ALL.into_iter().filter(|other| *other != payload);
        remove_earlier(netlink, name, others, "in another mode").await?;
        let (ifindex, made) = match netlink.vxlan_matches(name, payload, KERNEL_PORT).await? {
            Some(ifindex) => (ifindex, false),
            None => (netlink.create_vxlan(name, payload, KERNEL_PORT, mtu).await?, true),
        };
        let result = Self::with_helper(netlink, name, ifindex, mtu, queues, carries).await;
        if result.is_err() && made {
            remove(netlink, ifindex).await;
        }
        result
    }

    async fn with_helper(
        netlink: &Netlink,
        name: &str,
        ifindex: u32,
        mtu: u32,
        queues: usize,
        carries: Carries,
    ) -> Result<Self> {
        match carries {
            Carries::Packets => netlink.set_addrgenmode_none(ifindex).await?,
            Carries::Frames(mac) => netlink.set_mac(ifindex, mac).await?,
        }
        // Opens the UDP port: an error here names its owner.
        netlink.set_up(ifindex).await?;
        let helper = format!("{name}{HELPER_SUFFIX}");
        let tuns = open_tun(&helper, queues, carries.kind()).await?;
        let helper_ifindex = netlink.link(helper.as_str()).await?.ifindex;
        netlink.set_addrgenmode_none(helper_ifindex).await?;
        quiet(netlink, helper_ifindex).await;
        netlink.set_mtu(helper_ifindex, carries.helper_mtu()).await?;
        netlink.set_up(helper_ifindex).await?;
        Ok(Self {
            name: name.to_owned(),
            ifindex,
            kind: DeviceKind::Vxlan,
            tuns,
            helper_ifindex,
            mtu,
            bridge: 0,
            routes: Vec::new(),
        })
    }

    /// Makes a TUN, or a TAP.
    pub(super) async fn tun(
        netlink: &Netlink,
        name: &str,
        mtu: u32,
        queues: usize,
        carries: Carries,
    ) -> Result<Self> {
        let device = Self::without_programs(netlink, name, mtu, queues, carries.kind()).await?;
        match carries {
            Carries::Packets => netlink.set_addrgenmode_none(device.ifindex).await?,
            Carries::Frames(mac) => netlink.set_mac(device.ifindex, mac).await?,
        }
        Ok(device)
    }

    /// Makes a device of the daemon's own, removing the VXLAN device that an earlier run may have left under that
    /// name.
    async fn without_programs(
        netlink: &Netlink,
        name: &str,
        mtu: u32,
        queues: usize,
        kind: Kind,
    ) -> Result<Self> {
        remove_earlier(netlink, name, Payload::ALL, "with a kernel path").await?;
        let tuns = open_tun(name, queues, kind).await?;
        let ifindex = netlink.link(name).await?.ifindex;
        Ok(Self {
            name: name.to_owned(),
            ifindex,
            kind: match kind {
                Kind::Tun => DeviceKind::Tun,
                Kind::Tap => DeviceKind::Tap,
            },
            tuns,
            helper_ifindex: 0,
            mtu,
            bridge: 0,
            routes: Vec::new(),
        })
    }

    /// Notes which bridge it is a port of.
    pub(super) async fn follow_bridge(&mut self, netlink: &Netlink) {
        if let Ok(link) = netlink.link(self.name.as_str()).await {
            self.bridge = link.master.unwrap_or(0);
        }
    }

    /// MTU, addresses and the up flag; `cut`, if the stack is to give it no super-packets.
    pub(super) async fn configure(
        &mut self,
        netlink: &Netlink,
        addresses: &[Prefix],
        cut: bool,
    ) -> Result<()> {
        quiet(netlink, self.ifindex).await;
        // Also back to what it was: the device may be an earlier run's.
        netlink.set_gso_max_segs(self.ifindex, if cut { 1 } else { GSO_MAX_SEGS }).await?;
        netlink.set_mtu(self.ifindex, self.mtu).await?;
        netlink.set_up(self.ifindex).await?;
        let wanted: Vec<(IpAddr, u8)> = addresses.iter().map(|p| (p.addr(), p.len())).collect();
        netlink
            .sync_addresses(self.ifindex, &wanted)
            .await
            .with_context(|| format!("cannot set the addresses of {}", self.name))
    }

    /// Brings the MTU and the routes to what the links need now. Says whether anything changed.
    pub(super) async fn update(
        &mut self,
        netlink: &Netlink,
        mtu: u32,
        routes: Vec<Route>,
    ) -> Result<bool, NetlinkError> {
        if mtu == self.mtu && routes == self.routes {
            return Ok(false);
        }
        if mtu != self.mtu {
            netlink.set_mtu(self.ifindex, mtu).await?;
            self.mtu = mtu;
        }
        let outcome = netlink.sync_routes(self.ifindex, &routes).await;
        self.routes = routes;
        outcome.map(|()| true)
    }

    pub(super) fn is_own(&self, ifindex: u32) -> bool {
        ifindex == self.ifindex || (ifindex == self.helper_ifindex && ifindex != 0)
    }

    /// The devices that a path to a peer must not lead into.
    pub(super) fn own(&self) -> [u32; 3] {
        [self.ifindex, self.helper_ifindex, self.bridge]
    }

    /// Removes the device. A TUN goes with its last handle.
    pub(super) async fn close(self, netlink: &Netlink) {
        if self.kind == DeviceKind::Vxlan {
            remove(netlink, self.ifindex).await;
        }
    }
}

async fn open_tun(name: &str, queues: usize, kind: Kind) -> Result<Vec<Arc<Tun>>, TunError> {
    // The device of another kind that an earlier daemon is about to close looks like somebody else's.
    let in_use = |error: &TunError| matches!(error, TunError::Busy { .. } | TunError::NotTun { .. });
    let tuns = outlive(|| Tun::open_queues(name, queues, kind), in_use).await?;
    Ok(tuns.into_iter().map(Arc::new).collect())
}

/// Removes a VXLAN device of an earlier run that is of no use in this one.
async fn remove_earlier(
    netlink: &Netlink,
    name: &str,
    payloads: impl IntoIterator<Item = Payload>,
    what: &str,
) -> Result<()> {
    for payload in payloads {
        if let Some(ifindex) = netlink.vxlan_matches(name, payload, KERNEL_PORT).await? {
            info!(device = name, "removing the device of an earlier run {what}");
            netlink.delete(ifindex).await?;
        }
    }
    Ok(())
}

async fn remove(netlink: &Netlink, ifindex: u32) {
    if let Err(error) = netlink.delete(ifindex).await {
        warn!(%error, "the virtual device is left behind");
    }
}

/// The device works without; under a hardened unit /proc/sys is read-only.
async fn quiet(netlink: &Netlink, ifindex: u32) {
    if let Err(error) = netlink.set_quiet(ifindex).await {
        tracing::debug!(%error, "router solicitations stay on");
    }
}
