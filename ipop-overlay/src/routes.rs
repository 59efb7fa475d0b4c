//! Networks behind nodes: a router announces in the DHT which subnets it forwards to, and each other node decides by
//! itself which of them it takes, and from whom.
//!
//! | file | what |
//! |---|---|
//! | `announcement` | subnets, and what a router says of them: the bytes of its record |
//! | `table` | which subnet goes to which router: permission, overlaps, failover |
//! | `client` | how announcements come and go, by way of the DHT |
//!
//! Nothing here forwards a packet. That a record is its owner's, the DHT has seen to; that the owner is a member, the
//! session with it shows; what it may announce is for each node's own operator to say ([`Policy`]).

mod announcement;
mod client;
mod table;
#[cfg(test)]
mod tests;

pub use announcement::{Announcement, SUBNETS_MAX, Subnet};
pub use client::{Client, Output, ROUTERS_MAX, name_of_network};
pub use table::{Accept, Entry, Policy, Router, STEADY, State, TAKEN_MAX, Table, Why};
