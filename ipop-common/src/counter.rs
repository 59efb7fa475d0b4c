//! The named counters: one for every verdict that a packet can get, in the kernel path and in the
//! user path alike. The order is the layout of the per-CPU counter map.

/// What a counter's packets met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Carried as intended.
    Ok,
    /// Left to somebody else: the slow path or the network stack.
    Passed,
    /// Ours, and refused: hostile, stale or malformed.
    Refused,
    /// Ours, valid, and lost for want of a resource.
    Dropped,
}

impl Class {
    pub const fn name(self) -> &'static str {
        match self {
            Class::Ok => "ok",
            Class::Passed => "passed",
            Class::Refused => "refused",
            Class::Dropped => "dropped",
        }
    }
}

macro_rules! counters {
    ($($variant:ident, $name:literal, $class:ident, $help:literal;)*) => {
        /// One counter. `as u32` is its index in the counter map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Counter {
            $(#[doc = $help] $variant,)*
        }

        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The name in tables, JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }

            /// One line that says what happened to the packets counted.
            pub const fn help(self) -> &'static str {
                match self { $(Counter::$variant => $help,)* }
            }

            pub const fn class(self) -> Class {
                match self { $(Counter::$variant => Class::$class,)* }
            }
        }
    };
}

counters! {
    TxEncapsulated, "tx_encapsulated", Ok, "sent to a peer";
    TxHeldByRule, "tx_held_by_rule", Passed, "what the group's rules do not allow to begin, and frames of links that rules are about, left to the user path, which answers";
    TxRefusedRule, "tx_refused_rule", Refused, "what the group's rules do not allow this node to begin with the peer, answered with an ICMP error";
    TxDisabled, "tx_disabled", Passed, "left to the user path: the kernel path is switched off";
    TxNotIp, "tx_not_ip", Passed, "not an IPv4 or IPv6 packet";
    TxTruncated, "tx_truncated", Refused, "shorter than its IP header";
    TxNoRoute, "tx_no_route", Passed, "no link for the destination in the table";
    TxToGroup, "tx_to_group", Passed, "to a group or to all, left to the user path";
    TxMulticast, "tx_multicast", Ok, "to a group or to all, and sent by the tree of the group";
    TxMembership, "tx_membership", Passed, "an IGMP or MLD message of this host, which is read and goes no further";
    TxNeighbourDiscovery, "tx_neighbour_discovery", Passed, "a router or neighbour solicitation of this host: the virtual network has neither";
    TxNoGroup, "tx_no_group", Passed, "to a group of this host only, or multicast is off";
    TxGroupFull, "tx_group_full", Dropped, "to a group, and more than the daemon hands on at a time";
    TxGroupRefused, "tx_group_refused", Dropped, "to a group, and too long or too much, or this node is not part of an overlay";
    TxBadFrame, "tx_bad_frame", Refused, "a frame that is cut off, or comes from a group";
    TxStranger, "tx_stranger", Passed, "from a station that the kernel path does not know on this side, left to the user path";
    TxForeignStation, "tx_foreign_station", Refused, "from a station that another node has, until that one gives it up";
    TxProxied, "tx_proxied", Ok, "an ARP request or a neighbour solicitation that this node has answered itself";
    TxStorm, "tx_storm", Dropped, "a frame to all or to an unknown station, more than may be sent";
    TxSharedSegment, "tx_shared_segment", Dropped, "of a segment that another node bridges as well";
    TxStaleEpoch, "tx_stale_epoch", Passed, "the cached link has changed";
    TxLeaseExpired, "tx_lease_expired", Passed, "the daemon has not renewed the link's lease";
    TxReceiveOnly, "tx_receive_only", Passed, "left to the user path: the peer's kernel path is off";
    TxFragmented, "tx_fragmented", Passed, "larger than the link or an outer packet, left to the user path";
    TxSealed, "tx_sealed", Ok, "sealed in the kernel and sent to a peer";
    TxBulk, "tx_bulk", Passed, "super-packets of a sealed link, frames longer than a link, and what follows in their flows, left to the user path";
    TxComplex, "tx_complex", Passed, "a form that the kernel path does not carry (frames with a VLAN tag) or not seal (options, fragments, extension headers), left to the user path";
    TxNoSession, "tx_no_session", Passed, "no session with the peer in the kernel yet, left to the user path";
    TxStaged, "tx_staged", Passed, "waited in the user path for a session with the peer";
    TxStageFull, "tx_stage_full", Dropped, "waited for a session with the peer, and gave way to newer packets or waited too long";
    TxKeyExpired, "tx_key_expired", Passed, "the session's key may no longer be used, left to the user path";
    TxTooBig, "tx_too_big", Refused, "larger than the link: answered with ICMP fragmentation needed or packet too big";
    TxNoRoom, "tx_no_room", Dropped, "the kernel had no room for the outer header or the ICMP error";
    TxUnreachable, "tx_unreachable", Refused, "no path to the peer: answered with ICMP destination unreachable";
    TxQueueFull, "tx_queue_full", Dropped, "the socket's queue stayed full";
    TxSendError, "tx_send_error", Dropped, "the socket refused the datagram";
    TxCarried, "tx_carried", Ok, "sealed, and left to other nodes to carry to the peer";
    TxCarryFull, "tx_carry_full", Dropped, "for other nodes to carry, and more than the daemon hands on at a time";
    TxNoCarrier, "tx_no_carrier", Dropped, "for other nodes to carry, and none is known";
    TxStreamFull, "tx_stream_full", Dropped, "for a TCP connection that takes no more at present, or cannot be opened";
    TxTurnFull, "tx_turn_full", Dropped, "for a TURN server, and more than its connection takes, or there is none";
    TxTurnRefused, "tx_turn_refused", Dropped, "for a peer to which the TURN server sends nothing";
    TxGsoFallback, "tx_gso_fallback", Passed, "segmentation offload refused, sent one datagram at a time";
    RxDecapsulated, "rx_decapsulated", Ok, "received from a peer and delivered";
    RxXdpDecapsulated, "rx_xdp_decapsulated", Ok, "decapsulated by XDP, delivered by TC";
    RxOpened, "rx_opened", Ok, "sealed, opened in the kernel and delivered";
    RxKeepalive, "rx_keepalive", Ok, "a sealed message without a packet: the peer is there";
    RxToStack, "rx_to_stack", Passed, "valid, left whole to the kernel's VXLAN device (UDP super-packets, forwarding, super-packets to stations behind a bridge)";
    RxFromStack, "rx_from_stack", Ok, "valid, decapsulated by the kernel's VXLAN device";
    RxToUser, "rx_to_user", Passed, "left to the user path: sealed and merged, with a checksum, too long, of another session or another source; or a frame of another station than those of the link";
    RxNotOurs, "rx_not_ours", Passed, "not a frame of ours, left to the network stack";
    RxTruncated, "rx_truncated", Refused, "shorter than its headers say";
    RxBadLength, "rx_bad_length", Refused, "the length fields of its headers contradict one another";
    RxOuterOptions, "rx_outer_options", Refused, "IP options in the outer header";
    RxOuterFragment, "rx_outer_fragment", Refused, "a fragment of an outer packet";
    RxOuterChecksum, "rx_outer_checksum", Refused, "an outer UDP checksum where the kernel path has none";
    RxBadHeader, "rx_bad_header", Refused, "reserved bits, flags or version of the clear header differ";
    RxUnknownProtocol, "rx_unknown_protocol", Refused, "next protocol is neither IPv4 nor IPv6";
    RxUnknownLink, "rx_unknown_link", Refused, "no link has this link id";
    RxStaleEpoch, "rx_stale_epoch", Refused, "the link has changed since it was cached";
    RxLeaseExpired, "rx_lease_expired", Refused, "the daemon has not renewed the link's lease";
    RxWrongOuterSource, "rx_wrong_outer_source", Refused, "not from the address of the link's peer";
    RxWrongOuterDestination, "rx_wrong_outer_destination", Refused, "not to the address that the link uses here";
    RxUnknownIndex, "rx_unknown_index", Refused, "no session has the index of a sealed packet";
    RxKeyExpired, "rx_key_expired", Refused, "sealed with a key that may no longer be used";
    RxBadTag, "rx_bad_tag", Refused, "sealed with another key, or changed since";
    RxReplay, "rx_replay", Refused, "a sealed packet that came before";
    RxTooOld, "rx_too_old", Refused, "a sealed packet from before the replay window";
    RxWindowBusy, "rx_window_busy", Dropped, "other CPUs kept changing the replay window";
    RxBadInner, "rx_bad_inner", Refused, "the inner packet is not the IP packet that the header promises";
    RxWrongInnerSource, "rx_wrong_inner_source", Refused, "the inner source address does not belong to the link's peer";
    RxRefusedRule, "rx_refused_rule", Refused, "what the group's rules do not allow the peer to begin with this node";
    RxRelayed, "rx_relayed", Ok, "relay frames between others, passed on by TC or by the daemon";
    RxXdpRelayed, "rx_xdp_relayed", Ok, "relay frames between others, passed on by XDP within the driver";
    RxBadRelayFrame, "rx_bad_relay_frame", Refused, "a relay frame that cannot be read";
    RxRelayLoop, "rx_relay_loop", Refused, "a relay frame that has travelled too far";
    RxRelayLimit, "rx_relay_limit", Dropped, "relay frames between others, more than they may send";
    RxUnknownLabel, "rx_unknown_label", Refused, "a relay frame with a label that is not its sender's";
    RxRelayFull, "rx_relay_full", Dropped, "relay frames between others, more than the daemon passes on at a time";
    RxCarryFull, "rx_carry_full", Dropped, "carried here by other nodes, by TCP or by a TURN server, and more than the user path takes at a time";
    RxBadStream, "rx_bad_stream", Refused, "a TCP connection on which something else was sent than datagrams";
    RxStreamFlood, "rx_stream_flood", Refused, "a TCP connection, and there are as many as are taken";
    RxStreamUnused, "rx_stream_unused", Refused, "a TCP connection that no member has used in time";
    RxNoRoom, "rx_no_room", Dropped, "the kernel could not remove the outer header";
    RxDeviceError, "rx_device_error", Dropped, "the virtual device refused the packet";
    RxBadChecksum, "rx_bad_checksum", Refused, "the inner transport checksum is wrong";
    RxMulticast, "rx_multicast", Ok, "sent to a group by another node, and delivered";
    RxGroupUnverified, "rx_group_unverified", Dropped, "sent to a group from an address of which this node could not find out in time whose it is";
    RxSharedSegment, "rx_shared_segment", Dropped, "for a segment that another node bridges as well";
    RxSpoofedAddress, "rx_spoofed_address", Refused, "ARP or neighbour discovery that gives an address to another than its owner";
    RxHello, "rx_hello", Ok, "a control message of a peer";
    RxBadHello, "rx_bad_hello", Refused, "a control message that is malformed or not authentic";
    RxRefusedClaim, "rx_refused_claim", Refused, "a peer says it has an address that is not of the network, or another's";
    RxNoCertificate, "rx_no_certificate", Refused, "what a peer sends that has not been admitted to the group yet";
    RxRefusedCertificate, "rx_refused_certificate", Refused, "a peer whose certificate does not count, or that shows none: its reason is in the log and in `ipopctl group status`";
    RxRefusedList, "rx_refused_list", Refused, "a list of revoked certificates, or parameters, that the group's authority has not signed";
    RxShunned, "rx_shunned", Refused, "a handshake of a node whose certificate was refused shortly before";
    RxStaleHello, "rx_stale_hello", Refused, "a control message older than one already seen";
    RxHelloFlood, "rx_hello_flood", Refused, "more control messages than the rate limit admits";
    RxHandshake, "rx_handshake", Ok, "a handshake message of a peer";
    RxBadMac1, "rx_bad_mac1", Refused, "a handshake message whose sender does not know this node's public key";
    RxBadHandshake, "rx_bad_handshake", Refused, "a handshake message that is malformed or not authentic";
    RxUnknownPeer, "rx_unknown_peer", Refused, "an authentic handshake message of a key that is no peer's";
    RxReplayedHandshake, "rx_replayed_handshake", Refused, "an initiation not newer than the last, or a response to none that waits";
    RxHandshakeFlood, "rx_handshake_flood", Refused, "more handshake messages than the rate limits admit or the daemon can look at";
    RxCookieSent, "rx_cookie_sent", Refused, "a handshake message under load, answered with a cookie reply";
    RxBadCookie, "rx_bad_cookie", Refused, "a cookie reply to no message of ours, or not authentic";
    RxBadMapping, "rx_bad_mapping", Refused, "a router's answer about a port that cannot be true";
    RxBadStun, "rx_bad_stun", Refused, "a STUN message that is malformed, or answers no question of this node";
    RxBadDns, "rx_bad_dns", Refused, "a DNS message to this node that is malformed, or no query";
    RxDnsFlood, "rx_dns_flood", Refused, "a DNS query or connection, and there are more than are answered";
    RxDnsStranger, "rx_dns_stranger", Refused, "a DNS query or connection of somebody whom this node does not answer";
    TxDnsUnanswered, "tx_dns_unanswered", Dropped, "a DNS query passed on, and no server has answered it";
    RxBadRoute, "rx_bad_route", Refused, "an announcement of subnets that cannot be read";
    RxRefusedRoute, "rx_refused_route", Refused, "an announced subnet that overlaps what this node has, or another that is older";
    RxUnknownMessage, "rx_unknown_message", Refused, "the first bytes name no format of ours";
}

/// How many counters there are.
pub const COUNTERS: u32 = Counter::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_each_counter_is_its_place() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: std::vec::Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
    }
}
