//! The IPOP daemon and its control tool.

pub mod kernel;
pub mod userpath;
