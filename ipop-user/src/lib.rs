//! The IPOP daemon and its control tool.

pub mod config;
pub mod kernel;
pub mod key;
pub mod netlink;
pub mod userpath;
