//! What the ring has done and refused, by name.

use ipop_common::counter::Class;

macro_rules! counts {
    ($($variant:ident, $name:literal, $class:ident, $help:literal;)*) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Count {
            $(#[doc = $help] $variant,)*
        }

        impl Count {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name by which operators see it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

counts! {
    Forwarded, "overlay_forwarded", Ok, "messages of other nodes that were passed on";
    Delivered, "overlay_delivered", Ok, "routed messages that arrived here";
    BadMessage, "overlay_bad_message", Refused, "messages that cannot be read";
    NoConnection, "overlay_no_connection", Refused, "messages of a node with which there is no connection";
    TooLong, "overlay_too_long", Refused, "datagrams of this node's that are longer than what the ring carries";
    TooManyHops, "overlay_too_many_hops", Refused, "messages that had travelled too far";
    NoSuchNode, "overlay_no_such_node", Refused, "messages to a node that is not on the ring";
    Looped, "overlay_looped", Refused, "messages that claim to come from this node";
    Repeated, "overlay_repeated", Refused, "texts for all nodes that had come already";
    NoCredit, "overlay_no_credit", Dropped, "messages not sent on because their sender has caused more than it sent";
    KeyMismatch, "overlay_key_mismatch", Refused, "requests to connect whose key is not their sender's";
    Unexpected, "overlay_unexpected_answer", Refused, "answers that nobody waits for";
    FalseAnswer, "overlay_false_answer", Refused, "answers in the name of another node than the one that was asked";
    NoAnswer, "overlay_no_answer", Dropped, "requests that were not answered";
    Full, "overlay_full", Dropped, "connections refused or closed because a table was full";
    AddressTaken, "overlay_address_taken", Refused, "claims of an address that another claims as well";
    Connected, "overlay_connected", Ok, "connections made";
    Lost, "overlay_lost", Dropped, "connections given up because the other did not answer any more";
    Closed, "overlay_closed", Ok, "connections closed by agreement";
    Relayed, "overlay_relayed", Ok, "pairs of nodes between which this one began to relay";
    RelayRefused, "overlay_relay_refused", Refused, "pairs of nodes between which this one was asked to relay and does not";
    Detour, "overlay_detour", Ok, "connections that were broken although the other was there, and given up for a way round";
    MappingExpired, "overlay_mapping_expired", Ok, "times that a NAT was seen to forget this node in a silence: from then on it is shorter";
    DhtKept, "dht_kept", Ok, "records that this node has taken to keep";
    DhtCopied, "dht_copied", Ok, "copies of records that were sent to neighbours";
    DhtStands, "dht_stands", Refused, "records not kept because another's, or a newer one, stands";
    DhtConflict, "dht_conflict", Refused, "records given up because one that was created earlier has come";
    DhtContested, "dht_contested", Refused, "words of others that a record of this node's is another's now";
    DhtNotSigned, "dht_not_signed", Refused, "records that their owner has not signed";
    DhtWrongTime, "dht_wrong_time", Refused, "records that are over, of the future, or live for too long";
    DhtStale, "dht_stale", Refused, "records that say they were created before what their owner had left";
    DhtFull, "dht_full", Refused, "records for which there is no room, in all, of their owner or under their key";
    DhtTooMany, "dht_too_many", Refused, "questions and records beyond what one sender or neighbour may send";
    DhtNoNeighbour, "dht_no_neighbour", Refused, "copies of records by nodes that are no neighbours on the ring";
    DhtFalseAnswer, "dht_false_answer", Refused, "answers about records that do not fit, or that nobody has signed";
    DhtNoClock, "dht_no_clock", Dropped, "messages about records while this node does not know what time it is";
    GroupSent, "multicast_sent", Ok, "datagrams of this node's for a group";
    GroupDelivered, "multicast_delivered", Ok, "datagrams for a group that this node is a member of";
    GroupCopied, "multicast_copied", Ok, "copies of datagrams for groups that went to a connection";
    GroupFull, "multicast_full", Refused, "groups not joined for another, or for this host, because a table was full";
    GroupJoinFlood, "multicast_join_flood", Refused, "words about groups beyond what one neighbour may say";
    GroupWrongWay, "multicast_wrong_way", Refused, "joins and datagrams that were to go away from the root of their tree";
    GroupStray, "multicast_stray", Refused, "datagrams by a node that is not this one's parent in the tree of their group";
    GroupFlood, "multicast_flood", Refused, "datagrams beyond what one origin, connection or node may send";
    GroupRepeated, "multicast_repeated", Refused, "datagrams for groups that had come already, or are too old";
    GroupNotSigned, "multicast_not_signed", Refused, "datagrams for groups that their origin has not signed";
    Unreachable, "overlay_unreachable", Dropped, "connections that could not be made";
}

/// How often each was counted.
#[derive(Clone, Debug)]
pub struct Counts([u64; Count::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Count::ALL.len()])
    }
}

impl Counts {
    pub fn get(&self, count: Count) -> u64 {
        self.0.get(count as usize).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Count, u64)> {
        Count::ALL.iter().map(|count| (*count, self.get(*count)))
    }

    pub(super) fn add(&mut self, count: Count) {
        if let Some(value) = self.0.get_mut(count as usize) {
            *value = value.wrapping_add(1);
        }
    }
}
