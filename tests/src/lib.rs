//! What the integration tests share: packets, tables, the programs in the kernel, a reference for
//! what they must do, and how a test says that it was skipped.
//!
//! This library does not depend on the daemon: it tests what lies below it. Tests of whole nodes
//! run the daemon as a program; only the fuzz targets link its parsers.

pub mod hostile;
pub mod namespace;
pub mod packet;
pub mod privilege;
pub mod programs;
pub mod random;
pub mod reference;
pub mod sealed;
pub mod world;
