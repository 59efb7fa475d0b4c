//! The programs in the kernel, one packet at a time: a named packet in; action, packet, counters
//! and link statistics out.

mod agreement;
mod egress;
mod frames;
mod handshakes;
mod ingress;
mod loaders;
mod malformed;
mod relayed;
mod relays;
mod relays_xdp;
mod rules;
mod scenario;
mod sealed;
mod sealing;
mod unrelated;
mod wire;
