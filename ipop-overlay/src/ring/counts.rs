//! What the ring has done and refused, by name.

use ipop_common::counter::Class;

macro_rules! counts {
    ($(#[doc = $doc:literal] $name:ident = $text:literal,)*) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Count {
            $(#[doc = $doc] $name,)*
        }

        impl Count {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name by which operators see it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What happened.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$name => $doc.trim_ascii(),)*
                }
            }
        }
    };
}

counts! {
    /// Messages of other nodes that were passed on.
    Forwarded = "overlay_forwarded",
    /// Routed messages that arrived here.
    Delivered = "overlay_delivered",
    /// Messages that cannot be read.
    BadMessage = "overlay_bad_message",
    /// Messages of a node with which there is no connection.
    NoConnection = "overlay_no_connection",
    /// Datagrams of this node's that are longer than what the ring carries.
    TooLong = "overlay_too_long",
    /// Messages that had travelled too far.
    TooManyHops = "overlay_too_many_hops",
    /// Messages to a node that is not on the ring.
    NoSuchNode = "overlay_no_such_node",
    /// Messages that claim to come from this node.
    Looped = "overlay_looped",
    /// Messages not sent on because their sender has caused more than it sent.
    NoCredit = "overlay_no_credit",
    /// Requests to connect whose key is not their sender's.
    KeyMismatch = "overlay_key_mismatch",
    /// Answers that nobody waits for.
    Unexpected = "overlay_unexpected_answer",
    /// Answers in the name of another node than the one that was asked.
    FalseAnswer = "overlay_false_answer",
    /// Requests that were not answered.
    NoAnswer = "overlay_no_answer",
    /// Connections refused or closed because a table was full.
    Full = "overlay_full",
    /// Claims of an address that another claims as well.
    AddressTaken = "overlay_address_taken",
    /// Connections made.
    Connected = "overlay_connected",
    /// Connections given up because the other did not answer any more.
    Lost = "overlay_lost",
    /// Connections closed by agreement.
    Closed = "overlay_closed",
    /// Connections that could not be made.
    Unreachable = "overlay_unreachable",
}

impl Count {
    pub const fn class(self) -> Class {
        match self {
            Self::Forwarded | Self::Delivered | Self::Connected | Self::Closed => Class::Ok,
            Self::NoAnswer | Self::Lost | Self::Unreachable => Class::Dropped,
            _ => Class::Refused,
        }
    }
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

    pub(super) fn add(&mut self, count: Count) {
        if let Some(value) = self.0.get_mut(count as usize) {
            *value = value.wrapping_add(1);
        }
    }
}
