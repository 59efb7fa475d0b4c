//! One file for each command that does more than fetch and print a word.

pub(super) mod completions;
pub(super) mod config_check;
pub(super) mod counters;
pub(super) mod crawl;
pub(super) mod dhcp;
pub(super) mod dht;
pub(super) mod explain;
pub(super) mod group;
pub(super) mod groups;
pub(super) mod init;
pub(super) mod key;
pub(super) mod links;
pub(super) mod manage;
pub(super) mod peers;
pub(super) mod ping;
pub(super) mod routes;
pub(super) mod stations;
pub(super) mod status;
pub(super) mod top;
pub(super) mod traceroute;
