//! The kernel path: TC and XDP programs around the decisions of `ipop-common`.
//!
//! This crate reads packets through a bounds-checked cursor, asks `ipop_common::{ingress, egress}`
//! what to do, and does it with the kernel's helpers. It holds no rule of its own about what is
//! valid: the same functions run in the daemon and in the tests.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod cursor;
mod egress;
mod handshake;
mod ingress;
mod local;
mod maps;
mod relay;
mod sealed;
mod skb;
mod trace;
mod transit;
mod xdp;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// TC egress on the virtual device.
#[classifier]
pub fn ipop_egress(ctx: TcContext) -> i32 {
    egress::run::<false>(&ctx)
}

/// The same where the network carries Ethernet frames: each such program is compiled for its own mode.
#[classifier]
pub fn ipop_l2_egress(ctx: TcContext) -> i32 {
    egress::run::<true>(&ctx)
}

/// TC ingress on the virtual device.
#[classifier]
pub fn ipop_guard(ctx: TcContext) -> i32 {
    ingress::guard::<false>(&ctx)
}

#[classifier]
pub fn ipop_l2_guard(ctx: TcContext) -> i32 {
    ingress::guard::<true>(&ctx)
}

/// TC ingress on an underlay interface.
#[classifier]
pub fn ipop_ingress(ctx: TcContext) -> i32 {
    ingress::run::<false>(&ctx)
}

#[classifier]
pub fn ipop_l2_ingress(ctx: TcContext) -> i32 {
    ingress::run::<true>(&ctx)
}

/// TC ingress on the helper device.
#[classifier]
pub fn ipop_deliver(ctx: TcContext) -> i32 {
    ingress::pass_on(&ctx)
}

/// XDP on an underlay interface.
#[xdp(frags)]
pub fn ipop_xdp(ctx: XdpContext) -> u32 {
    xdp::run::<false>(&ctx)
}

#[xdp(frags)]
pub fn ipop_l2_xdp(ctx: XdpContext) -> u32 {
    xdp::run::<true>(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
