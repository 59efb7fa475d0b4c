//! Thousands of overlay nodes in one process: virtual time, one seed, and the same run each time.

pub mod invariants;
pub mod measure;
pub mod nat;
pub mod net;
pub mod random;
pub mod scenario;
pub mod session;
pub mod world;
