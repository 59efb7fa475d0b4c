//! What the integration tests share: packets, tables, the programs in the kernel, a reference for
//! what they must do, the fuzz targets, and how a test says that it was skipped.
//!
//! This package does not depend on the daemon: it tests what lies below it. Tests of whole nodes
//! run the daemon as a program.

pub mod hostile;
pub mod namespace;
pub mod packet;
pub mod privilege;
pub mod programs;
pub mod random;
pub mod reference;
pub mod world;
