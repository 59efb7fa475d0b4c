//! The IPOP daemon and its control tool.

pub mod api;
pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod dns;
pub mod group;
pub mod kernel;
pub mod key;
pub mod mapping;
pub mod netlink;
pub mod places;
pub mod secret_file;
pub mod stun;
pub mod token;
pub mod turn;
pub mod userpath;
pub mod whole_file;
