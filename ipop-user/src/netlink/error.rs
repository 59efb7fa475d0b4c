//! What can go wrong, in words for an operator: what happened, to which device, what to do.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::route::RouteConflict;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {action}: needs CAP_NET_ADMIN: run as root or with the unit in packaging/")]
    NotPermitted { action: String },

    #[error(
        "this kernel has no VXLAN devices: load the module vxlan, or let traffic go through a TUN device"
    )]
    NoVxlan,

    #[error("a device {name} is there already: remove it (ip link del {name}) or choose another name")]
    DeviceExists { name: String },

    #[error("there is no network device {device}: check its name with `ip link`")]
    NoDevice { device: String },

    #[error(
        "UDP port {port}, which {device} needs, has another owner: find it with \
         `ss -ulnp sport = :{port}` and `ip -d link show type vxlan`, and stop it"
    )]
    PortInUse { port: u16, device: String },

    #[error(
        "cannot give {device} the address {address}: IPv6 is off there: write 0 to \
         /proc/sys/net/ipv6/conf/{device}/disable_ipv6 or leave out the IPv6 addresses"
    )]
    Ipv6Off { device: String, address: IpAddr },

    #[error("{0}")]
    RouteConflict(RouteConflict),

    #[error("no route to {peer} ({reason}): check `ip route get {peer}`")]
    NoRoute { peer: IpAddr, reason: String },

    #[error("{peer} is an address of this host: a peer's endpoint must be on another host")]
    PeerIsLocal { peer: IpAddr },

    #[error("{peer} is a broadcast, multicast or anycast address: a peer's endpoint must be unicast")]
    PeerNotUnicast { peer: IpAddr },

    #[error(
        "the route to {peer} leads into {device}, our own virtual device: give the peer's endpoint \
         a route over a physical interface"
    )]
    PathLoop { peer: IpAddr, device: String },

    #[error(
        "another XDP program is attached to {device}: detach it (ip link set {device} xdp off) or set \
         `xdp = \"off\"`"
    )]
    XdpBusy { device: String },

    #[error("{device} cannot run XDP in {mode} mode ({reason}): set `xdp` to \"auto\" or \"off\"")]
    XdpUnsupported { device: String, mode: &'static str, reason: String },

    #[error("cannot write {}: {source}", path.display())]
    Sysctl { path: PathBuf, source: io::Error },

    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),

    #[error("cannot {action}: {source}{}", in_brackets(detail))]
    Kernel {
        action: String,
        source: io::Error,
        /// The kernel's own words, empty if it gave none.
        detail: String,
    },

    #[error("cannot {action}: the kernel did not answer in {deadline_s} s")]
    NoAnswer { action: String, deadline_s: u64 },

    #[error("cannot {action}: the netlink socket is closed; restart the daemon")]
    Closed { action: String },
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}
