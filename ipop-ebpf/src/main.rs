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
    egress::run(&ctx)
}

/// TC ingress on the virtual device.
#[classifier]
pub fn ipop_guard(ctx: TcContext) -> i32 {
    ingress::guard(&ctx)
}

/// TC ingress on an underlay interface.
#[classifier]
pub fn ipop_ingress(ctx: TcContext) -> i32 {
    ingress::run(&ctx)
}

/// TC ingress on the helper device.
#[classifier]
pub fn ipop_deliver(ctx: TcContext) -> i32 {
    ingress::pass_on(&ctx)
}

/// XDP on an underlay interface.
#[xdp(frags)]
pub fn ipop_xdp(ctx: XdpContext) -> u32 {
    xdp::run(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
