//! Thousands of overlay nodes in one process: virtual time, one seed, and the same run each time.

pub mod daemon;
pub mod invariants;
pub mod maps;
pub mod measure;
pub mod memory;
pub mod nat;
pub mod net;
pub mod packet;
pub mod random;
pub mod scenario;
mod session;
pub mod traffic;
pub mod world;
