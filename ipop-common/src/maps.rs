//! Names, keys and values of the kernel maps, written once for both sides of the system call.
//!
//! All values are plain data, `repr(C)`, without padding. Numbers are in host order (the maps do
//! not leave the machine) unless a field says otherwise.

use crate::address::{Address, Family};

/// Changes whenever a layout below changes; a daemon adopts only maps of its own layout.
pub const LAYOUT: u32 = 11;

/// Map names as the kernel knows them (at most 15 bytes).
pub mod name {
    pub const CONFIG: &str = "IPOP_CONFIG";
    pub const LINKS: &str = "IPOP_LINKS";
    pub const HOSTS: &str = "IPOP_HOSTS";
    pub const PREFIXES: &str = "IPOP_PREFIXES";
    pub const LINK_IDS: &str = "IPOP_LINK_IDS";
    pub const COUNTERS: &str = "IPOP_COUNTERS";
    pub const LINK_STATS: &str = "IPOP_LINK_STATS";
    pub const SESSIONS: &str = "IPOP_SESSIONS";
    /// When packets of a flow were last left to the user path.
    pub const FLOWS: &str = "IPOP_FLOWS";
    /// Which handshake messages reach the daemon.
    pub const FILTER: &str = "IPOP_FILTER";
    /// Between whom this node relays, by label.
    pub const RELAYS: &str = "IPOP_RELAYS";
    /// What may begin on links that a group's rules are about.
    pub const RULES: &str = "IPOP_RULES";
    /// Flows that have begun on these, to which answers may come.
    pub const BEGUN: &str = "IPOP_BEGUN";
    /// The programs' own: what each CPU remembers.
    pub const LOCAL: &str = "IPOP_LOCAL";
    /// The programs' own: where each CPU seals and opens.
    pub const MEMORY: &str = "IPOP_MEMORY";

    pub const ALL: [&str; 15] = [
        CONFIG, LINKS, HOSTS, PREFIXES, LINK_IDS, COUNTERS, LINK_STATS, SESSIONS, FLOWS, FILTER, RELAYS,
        RULES, BEGUN, LOCAL, MEMORY,
    ];
}

/// Program names as the kernel knows them (at most 15 bytes).
pub mod program {
    /// TC egress on the virtual device: encapsulates.
    pub const EGRESS: &str = "ipop_egress";
    /// TC ingress on the virtual device: checks what the kernel's VXLAN device decapsulated.
    pub const GUARD: &str = "ipop_guard";
    /// TC ingress on the underlay interface: checks and decapsulates.
    pub const INGRESS: &str = "ipop_ingress";
    /// XDP on the underlay interface: checks and decapsulates before GRO.
    pub const XDP: &str = "ipop_xdp";
    /// TC ingress on the helper device: hands what the daemon wrote to the virtual device.
    pub const DELIVER: &str = "ipop_deliver";

    /// The same where the network carries Ethernet frames.
    pub const L2_EGRESS: &str = "ipop_l2_egress";
    pub const L2_GUARD: &str = "ipop_l2_guard";
    pub const L2_INGRESS: &str = "ipop_l2_ingress";
    pub const L2_XDP: &str = "ipop_l2_xdp";

    pub const ALL: [&str; 9] =
        [EGRESS, GUARD, INGRESS, XDP, DELIVER, L2_EGRESS, L2_GUARD, L2_INGRESS, L2_XDP];

    /// Those of a node, by what they are for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Set {
        pub egress: &'static str,
        pub guard: &'static str,
        pub ingress: &'static str,
        pub xdp: &'static str,
        pub deliver: &'static str,
    }

    impl Set {
        /// Of a node of a network that carries IP packets.
        pub const L3: Self =
            Self { egress: EGRESS, guard: GUARD, ingress: INGRESS, xdp: XDP, deliver: DELIVER };
        /// Of one of a network that carries frames.
        pub const L2: Self =
            Self { egress: L2_EGRESS, guard: L2_GUARD, ingress: L2_INGRESS, xdp: L2_XDP, deliver: DELIVER };

        pub const fn all(&self) -> [&'static str; 5] {
            [self.egress, self.guard, self.ingress, self.xdp, self.deliver]
        }
    }
}

/// The one entry of the config map (array, key 0).
///
/// Its size and the places of `layout` and `owner` are the same in every layout: by them a daemon
/// finds what an earlier one left.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// [`LAYOUT`] of whoever loaded the programs.
    pub layout: u32,
    /// Not zero: egress encapsulates. Zero: every packet misses.
    pub enabled: u32,
    /// The virtual device.
    pub device_ifindex: u32,
    /// Where egress sends what it misses; 0: leave it to the device (a TUN).
    pub miss_ifindex: u32,
    /// Which node's maps these are; see the daemon's adoption.
    pub owner: u64,
    /// Which build of the programs uses them.
    pub object: u64,
    /// UDP port of the kernel path, host order.
    pub port: u16,
    /// UDP port of the daemon, on which sealed packets arrive, host order; 0: they are left alone.
    pub sealed_port: u16,
    /// Counts the changes of the tables and is never 0: what a CPU remembers of another generation
    /// is looked up again.
    pub generation: u32,
}

/// Where a table points to: a slot of the links map, valid while the epochs agree.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkRef {
    pub slot: u32,
    pub epoch: u32,
}

impl LinkRef {
    /// Marks an address of this node itself: a slot past the end of the links map.
    pub const LOCAL: Self = Self { slot: u32::MAX, epoch: 0 };
    /// As [`Self::LOCAL`], of a station behind this node's bridge, which is not the virtual device itself.
    pub const BRIDGED: Self = Self { slot: u32::MAX, epoch: 1 };

    /// Whether it marks an address of this node's side.
    #[inline(always)]
    pub const fn is_local(self) -> bool {
        self.slot == Self::LOCAL.slot
    }
}

/// Longest header that precedes an inner packet: Ethernet, IPv6, UDP, VXLAN-GPE.
pub const HEADER_MAX: usize = 14 + 40 + 8 + 8;

/// One link, everything that both directions need (array, key: slot). Where a relay passes its packets on,
/// what is said of the peer's place is said of the relay's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// CLOCK_MONOTONIC in nanoseconds; past it the entry misses.
    pub lease_until_ns: u64,
    /// Never 0 in an entry in use. A table entry with another epoch misses.
    pub epoch: u32,
    /// Underlay interface that leads to the peer.
    pub ifindex: u32,
    /// Outer address of the peer, or of the relay.
    pub peer: Address,
    /// Outer address of this node on this link.
    pub local: Address,
    /// Ethernet, IP, UDP and VXLAN-GPE (or relay frame's) headers as sent, with length fields, IPv4
    /// checksum, source port and next protocol still zero. [`crate::encapsulation`] writes and completes
    /// it.
    pub header: [u8; 72],
    /// Unfolded sum of the IPv4 header in `header`; unused for IPv6.
    pub header_sum: u32,
    /// Largest inner packet in bytes; of a frame behind its prefix.
    pub mtu: u16,
    /// 4 or 6: the outer IP version.
    pub outer_version: u8,
    /// [`Self::RECEIVE_ONLY`] and what follows it.
    pub flags: u8,
    /// Local index of the session that packets to the peer are sealed with; 0: there is none.
    pub session: u32,
    /// That of relay frames in both directions, where a relay passes the packets on.
    pub label: u32,
    /// By which the table of rules knows what may begin, if the link is [`Self::RULED`]: see [`crate::rules`].
    pub policy: u64,
}

impl Link {
    pub const EMPTY: Self = Self {
        lease_until_ns: 0,
        epoch: 0,
        ifindex: 0,
        peer: Address::from_bytes([0; 16]),
        local: Address::from_bytes([0; 16]),
        header: [0; 72],
        header_sum: 0,
        mtu: 0,
        outer_version: 0,
        flags: 0,
        session: 0,
        label: 0,
        policy: 0,
    };

    /// The peer has no kernel path: what comes from it is taken, what goes to it misses.
    pub const RECEIVE_ONLY: u8 = 1;
    /// What goes to the peer is sealed, to its daemon's port.
    pub const SEALED: u8 = 2;
    /// What comes from the peer may be clear.
    pub const TAKES_CLEAR: u8 = 4;
    /// Packets in both directions are sealed and in relay frames.
    pub const RELAYED: u8 = 8;
    /// The group's rules are about it: each packet is held against its policy.
    pub const RULED: u8 = 16;
    /// As the policy says, this node may begin everything.
    pub const MAY_BEGIN: u8 = 32;
    /// The same of the peer.
    pub const PEER_MAY_BEGIN: u8 = 64;
    /// Nothing may begin, from neither end.
    pub const CLOSED: u8 = 128;

    #[inline(always)]
    pub const fn is_relayed(&self) -> bool {
        self.flags & Self::RELAYED != 0
    }

    /// The UDP port that packets go to, big-endian, where the UDP header of a frame begins at `UDP`.
    #[inline(always)]
    pub fn peer_port<const UDP: usize>(&self) -> Option<[u8; 2]> {
        Some([*self.header.get(UDP + 2)?, *self.header.get(UDP + 3)?])
    }

    #[inline(always)]
    pub const fn outer(&self) -> Family {
        if self.outer_version == 6 { Family::V6 } else { Family::V4 }
    }
}

impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Link")
            .field("epoch", &self.epoch)
            .field("lease_until_ns", &self.lease_until_ns)
            .field("ifindex", &self.ifindex)
            .field("local", &self.local)
            .field("peer", &self.peer)
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

/// Key of the prefix table (LPM trie).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// Bits of `address` that count, of 128: an IPv4 prefix /n has 96 + n.
    pub bits: u32,
    pub address: [u8; 16],
}

/// Traffic of one link, per CPU (per-CPU array, key: slot / 2).
///
/// Packets are counted as on the wire: a super-packet counts its segments. Bytes are inner bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkStats {
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub rx_bytes: u64,
}

impl LinkStats {
    /// The index of a slot's statistics: both slots of a link share one entry.
    #[inline(always)]
    pub const fn index(slot: u32) -> u32 {
        slot >> 1
    }
}

/// One of two nodes between which this one relays.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayEnd {
    /// Its outer address.
    pub peer: Address,
    /// Outer address of this node on the way to it.
    pub local: Address,
    pub ifindex: u32,
    /// Destination and source of frames to it.
    pub macs: [u8; 12],
    /// Its UDP port, host order.
    pub port: u16,
    /// This node's, host order.
    pub own_port: u16,
    /// What a checksum grows by, in big-endian words, when a frame from here gets the addresses of one to the
    /// other end; and its ports.
    pub addresses: u16,
    pub ports: u16,
    /// Sum of the pseudo-header of frames from here, without the length.
    pub pseudo_header: u16,
    /// How XDP sends what came in at this interface out of it: [`Self::TRANSMIT`], [`Self::REDIRECT`], or not at
    /// all. See [`crate::relay::Exit`].
    pub exit: u16,
    pub reserved: u32,
}

impl RelayEnd {
    pub const TRANSMIT: u16 = 1;
    pub const REDIRECT: u16 = 2;
}

/// What has been passed on between two nodes in the present window.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RelayWindow {
    /// Which window since the clock began.
    pub number: u64,
    pub bytes: u64,
}

/// Two nodes between which this one relays (hash, key: label). See [`crate::relay`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// CLOCK_MONOTONIC in nanoseconds; past it the entry is not used.
    pub lease_until_ns: u64,
    /// Bytes that may be passed on in a window; 0: any number.
    pub limit: u64,
    pub window: RelayWindow,
    pub ends: [RelayEnd; 2],
}

const _: () = {
    assert!(size_of::<RelayEnd>() == 64);
    assert!(size_of::<Relay>() == 160);
    assert!(size_of::<Config>() == 40);
    assert!(core::mem::offset_of!(Config, owner) == 16);
    assert!(size_of::<LinkRef>() == 8);
    assert!(size_of::<Link>() == 144);
    assert!(core::mem::offset_of!(Link, header) == 48);
    assert!(core::mem::offset_of!(Link, header_sum) == 120);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<LinkStats>() == 32);
};

#[cfg(feature = "aya")]
mod pod {
    // SAFETY: repr(C) without padding (the sizes are asserted above) and every bit pattern is valid.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::LinkRef {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Link {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::LinkStats {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Relay {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::address::Address {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_keeps_fifteen_bytes_of_a_name() {
        for name in name::ALL.iter().chain(program::ALL.iter()) {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
