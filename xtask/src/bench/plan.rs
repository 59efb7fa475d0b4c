//! What is measured: wires, systems, metrics, and for how long. Pure data.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::ValueEnum;

use crate::config::{Datapath, Side};
use crate::netns::Pair;

/// How the two hosts are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Wire {
    /// veth as it comes: super-packets cross it whole
    Offload,
    /// veth made like a network card without segmentation: TSO off, GRO on, at both ends
    Nic,
}

impl Wire {
    pub(crate) const ALL: [Self; 2] = [Self::Offload, Self::Nic];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Offload => "offload",
            Self::Nic => "nic",
        }
    }

    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Offload => "veth as it comes: super-packets cross it whole",
            Self::Nic => "veth with TSO off and GRO on at both ends, as on a network card",
        }
    }

    /// What `ethtool -K DEVICE` is given.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::Offload => &[],
            Self::Nic => &["tso", "off", "gro", "on"],
        }
    }
}

/// One way to carry packets from one host to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum System {
    Bare,
    Vxlan,
    WireguardGo,
    Boringtun,
    Nebula,
    UserEpoll,
    #[value(name = "user-io_uring")]
    UserIoUring,
    KernelTc,
    KernelXdp,
    SealedUser,
    /// What ipopd does by itself: single packets in the kernel, super-packets in the daemon.
    Sealed,
}

impl System {
    pub(crate) const ALL: [Self; 11] = [
        Self::Bare,
        Self::Vxlan,
        Self::WireguardGo,
        Self::Boringtun,
        Self::Nebula,
        Self::UserEpoll,
        Self::UserIoUring,
        Self::KernelTc,
        Self::KernelXdp,
        Self::SealedUser,
        Self::Sealed,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare wire",
            Self::Vxlan => "kernel VXLAN",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Nebula => "nebula",
            Self::UserEpoll => "ipop user epoll",
            Self::UserIoUring => "ipop user io_uring",
            Self::KernelTc => "ipop kernel tc",
            Self::KernelXdp => "ipop kernel xdp",
            Self::SealedUser => "ipop sealed user",
            Self::Sealed => "ipop sealed",
        }
    }

    /// The column `system` of the results.
    pub(crate) fn system(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Vxlan => "vxlan",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Nebula => "nebula",
            Self::UserEpoll
            | Self::UserIoUring
            | Self::KernelTc
            | Self::KernelXdp
            | Self::SealedUser
            | Self::Sealed => "ipop",
        }
    }

    /// What it is called on the command line: different for each.
    pub(crate) fn name(self) -> &'static str {
        if self.datapath().is_some() { self.path() } else { self.system() }
    }

    /// The column `path` of the results.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Bare => "wire",
            Self::Vxlan => "kernel",
            Self::WireguardGo | Self::Boringtun | Self::Nebula => "user",
            Self::UserEpoll => "user-epoll",
            Self::UserIoUring => "user-io_uring",
            Self::KernelTc => "kernel-tc",
            Self::KernelXdp => "kernel-xdp",
            Self::SealedUser => "sealed-user",
            Self::Sealed => "sealed",
        }
    }

    /// All packets are to take the kernel path.
    pub(crate) fn is_kernel_path(self) -> bool {
        matches!(self, Self::KernelTc | Self::KernelXdp)
    }

    /// No packet is to take it.
    pub(crate) fn is_user_path(self) -> bool {
        matches!(self, Self::UserEpoll | Self::UserIoUring | Self::SealedUser)
    }

    /// How ipopd is configured for this row; `None` where there is no ipopd.
    pub(crate) fn datapath(self) -> Option<Datapath> {
        let (clear, sealed) = (Datapath::CLEAR, Datapath::SEALED);
        match self {
            Self::Bare | Self::Vxlan | Self::WireguardGo | Self::Boringtun | Self::Nebula => None,
            Self::UserEpoll => Some(Datapath { kernel: "off", io: "epoll", ..clear }),
            Self::UserIoUring => Some(Datapath { kernel: "off", io: "io_uring", ..clear }),
            Self::KernelTc => Some(Datapath { kernel: "on", xdp: "off", ..clear }),
            Self::KernelXdp => Some(Datapath { kernel: "on", xdp: "native", ..clear }),
            Self::SealedUser => Some(Datapath { kernel: "off", io: "io_uring", ..sealed }),
            Self::Sealed => Some(Datapath { kernel: "on", ..sealed }),
        }
    }

    /// Which virtual network of others this is; `None` for what is the kernel's or ours.
    pub(crate) fn product(self) -> Option<Product> {
        match self {
            Self::WireguardGo => Some(Product::WireguardGo),
            Self::Boringtun => Some(Product::Boringtun),
            Self::Nebula => Some(Product::Nebula),
            Self::Bare
            | Self::Vxlan
            | Self::UserEpoll
            | Self::UserIoUring
            | Self::KernelTc
            | Self::KernelXdp
            | Self::SealedUser
            | Self::Sealed => None,
        }
    }

    /// What `ipopctl peers` must call the path before anything is measured.
    pub(crate) fn peer_path(self) -> &'static str {
        if self.is_user_path() { "direct-user" } else { "direct-kernel" }
    }

    /// The address of the far host that the load is sent to.
    pub(crate) fn target(self) -> Ipv4Addr {
        let text = match self {
            Self::Bare => Pair::FAR_ADDRESS,
            Self::Vxlan | Self::WireguardGo | Self::Boringtun | Self::Nebula => TUNNEL_FAR_ADDRESS,
            Self::UserEpoll
            | Self::UserIoUring
            | Self::KernelTc
            | Self::KernelXdp
            | Self::SealedUser
            | Self::Sealed => Side::Far.virtual_v4(),
        };
        text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

/// Within the tunnels that are not ours.
pub(crate) const TUNNEL_NEAR_ADDRESS: &str = "172.16.0.1";
pub(crate) const TUNNEL_FAR_ADDRESS: &str = "172.16.0.2";

/// A virtual network of others. All of them seal every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    WireguardGo,
    Boringtun,
    Nebula,
}

impl Product {
    /// Of its virtual device: what its users get who set nothing, as with all other systems. For
    /// WireGuard that is what wg-quick sets on a wire of 1500 bytes (it leaves room for IPv6
    /// outside), for nebula its own default.
    pub(crate) fn mtu(self) -> u32 {
        match self {
            Self::WireguardGo | Self::Boringtun => 1420,
            Self::Nebula => 1300,
        }
    }
}

/// A figure that every system gets on every wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    Tcp,
    Udp64,
    Ping,
    TcpRr,
    UdpRr,
    /// Measured in the same windows as `Udp64`.
    Cpu,
}

impl Metric {
    pub(crate) const ALL: [Self; 6] =
        [Self::Tcp, Self::Udp64, Self::Ping, Self::TcpRr, Self::UdpRr, Self::Cpu];
    /// Those that have windows of their own.
    pub(crate) const WINDOWS: [Self; 5] = [Self::Tcp, Self::Udp64, Self::Ping, Self::TcpRr, Self::UdpRr];

    /// The key in the results.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Tcp => "tcp_gbps",
            Self::Udp64 => "udp64_kpps",
            Self::Ping => "ping_us",
            Self::TcpRr => "tcp_rr_us",
            Self::UdpRr => "udp_rr_us",
            Self::Cpu => "cpu_us_per_packet",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP throughput, Gbit/s",
            Self::Udp64 => "UDP 64-byte datagrams received, thousands per second",
            Self::Ping => "ping-flood round trip, us",
            Self::TcpRr => "TCP request-response, us",
            Self::UdpRr => "UDP request-response, us",
            Self::Cpu => "CPU time of the whole machine per datagram, us",
        }
    }

    /// The head of a column, in two lines.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::Tcp => "TCP\nGbit/s",
            Self::Udp64 => "UDP 64 B\nkpps",
            Self::Ping => "ping\nus",
            Self::TcpRr => "TCP rr\nus",
            Self::UdpRr => "UDP rr\nus",
            Self::Cpu => "CPU\nus/pkt",
        }
    }

    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::Udp64 => 0,
            Self::Cpu => 2,
            _ => 1,
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Whether more of it is better: it is a rate and no time.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp64)
    }
}

/// Initiations that lead to no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FloodKind {
    Garbage,
    Mac1,
    Replay,
}

impl FloodKind {
    /// In the words of ipop-callers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Mac1 => "mac1",
            Self::Replay => "replay",
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Garbage => "garbage, 4096 addresses",
            Self::Mac1 => "right mac1, 4096 addresses",
            Self::Replay => "one recorded, repeated",
        }
    }
}

/// Under which conditions a run measures.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    pub(crate) timing: Timing,
    /// Of every TCP stream.
    pub(crate) congestion_control: String,
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) rounds: usize,
    /// Length of a throughput window.
    pub(crate) window: Duration,
    /// TCP traffic before each of its windows, so that slow start is over.
    pub(crate) tcp_warm_up: Duration,
    /// Length of a latency window.
    pub(crate) latency_window: Duration,
    /// Length of a window in which handshakes are made: ipopd's CPU time is known to 10 ms.
    pub(crate) handshake_window: Duration,
}

impl Timing {
    pub(crate) const FULL: Self = Self {
        rounds: 15,
        window: Duration::from_millis(250),
        tcp_warm_up: Duration::from_millis(60),
        latency_window: Duration::from_millis(120),
        handshake_window: Duration::from_millis(1000),
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 5,
        window: Duration::from_millis(150),
        tcp_warm_up: Duration::from_millis(60),
        latency_window: Duration::from_millis(80),
        handshake_window: Duration::from_millis(1000),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_command_line_are_those_of_the_results() {
        for system in System::ALL {
            let value = system.to_possible_value().expect("every system can be named");
            assert_eq!(value.get_name(), system.name());
            assert!(!system.target().is_unspecified());
        }
    }

    #[test]
    fn rows_of_ipop_are_those_that_run_ipopd() {
        for system in System::ALL {
            assert_eq!(system.system() == "ipop", system.datapath().is_some(), "{}", system.name());
            assert!(system.product().is_none() || system.datapath().is_none(), "{}", system.name());
        }
    }

    #[test]
    fn metrics_index_their_own_place() {
        for (place, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric.index(), place);
        }
    }
}
