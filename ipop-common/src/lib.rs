//! What the kernel programs, the daemon, the simulator and the tests must agree on: wire formats,
//! map layouts, counters, and the decision about each packet.
//!
//! Everything here is `no_std`, free of allocation and of panics on any input, and written so that
//! the eBPF verifier accepts it: offsets are constants, lengths are checked by the [`cursor`].
//! This crate does no I/O and keeps no state; the tables that it consults are a trait
//! ([`tables::Tables`]) that maps, vectors or a test's literals can serve.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod aead;
pub mod blake2s;
pub mod checksum;
pub mod counter;
pub mod cursor;
pub mod egress;
pub mod encapsulation;
pub mod ethernet;
pub mod filter;
pub mod gpe;
pub mod hello;
pub mod icmp;
pub mod ingress;
pub mod inner;
pub mod limits;
pub mod maps;
pub mod multicast;
pub mod relay;
pub mod rules;
pub mod sealed;
pub mod session;
pub mod shared;
pub mod switch;
pub mod tables;
pub mod wireguard;

pub use address::{Address, Family};
pub use counter::Counter;
pub use cursor::Cursor;
