//! Every size and time that bounds a table or a packet, once.

/// Links that one node holds directly at a time. Each takes two slots of the links map.
pub const LINKS_MAX: u32 = 4096;
/// Slots in the links map: two per link, so that a changed link is written beside the one in use.
pub const LINK_SLOTS_MAX: u32 = 2 * LINKS_MAX;
/// Addresses (/32 and /128) that lead to links.
pub const HOSTS_MAX: u32 = 16_384;
/// Shorter prefixes that lead to links.
pub const PREFIXES_MAX: u32 = 4096;

/// Entries of the table of rules, of all policies.
pub const RULES_MAX: u32 = 65_536;
/// Entries of one policy: ranges of ports, each split into blocks of powers of two.
pub const POLICY_ENTRIES_MAX: usize = 1024;

/// Pairs of nodes between which one node relays.
pub const RELAYS_MAX: u32 = 1024;

/// How long the kernel path goes on without a daemon, in nanoseconds.
///
/// Long enough to restart or upgrade a daemon by hand, short enough that a host whose daemon is
/// gone for good falls silent and is noticed.
pub const LEASE_NS: u64 = 30_000_000_000;

/// UDP port of the kernel path (IANA: VXLAN-GPE).
pub const KERNEL_PORT: u16 = 4790;

/// The smallest inner MTU that we set up: RFC 791's minimum reassembly size.
pub const MTU_MIN: u16 = 576;
/// The smallest MTU of a link that carries IPv6 (RFC 8200, section 5).
pub const MTU_IPV6_MIN: u16 = 1280;
/// The largest inner packet to a peer that other nodes carry packets to: sealed and behind what the overlay puts
/// before it, it fits the wires that there may be on the way, none of which anybody asks.
pub const OVERLAY_MTU: u16 = MTU_IPV6_MIN;
/// The largest inner packet: what fits into one UDP datagram over IPv4 with our header.
pub const INNER_LEN_MAX: usize = 65_535 - 20 - 8 - 8;
