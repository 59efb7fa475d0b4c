//! Relay frames between others: the headers of one end become those of the other, and the frame goes out
//! again, a super-packet as a whole. XDP does so with what it may; TC with all else.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::{TcContext, XdpContext};
use ipop_common::ingress::{ETHERNET_LEN, Relaying};
use ipop_common::maps::{Relay, RelayEnd};
use ipop_common::relay::{Exit, V4_LEN, V6_LEN, exit, rewrite_v4, rewrite_v6, update_checksum};
use ipop_common::{Counter, Family};

use crate::ingress::leave_to_user;
use crate::maps::{Maps, count};
use crate::sealed::{Work, work};
use crate::skb::{PASS, Skb, redirect};
use crate::trace::refuse;
use crate::xdp;

/// Of the checksum in a UDP header.
const CHECKSUM: usize = 6;

/// A function of its own for the same reason as [`crate::sealed::open`].
#[inline(never)]
pub fn pass_on_v4(raw: *mut __sk_buff) -> i32 {
    pass_on::<{ ETHERNET_LEN + 20 }>(raw, |skb, from, to| match skb.packet().head_mut::<V4_LEN>() {
        Some(head) => rewrite_v4(head, from, to),
        None => false,
    })
}

/// As [`pass_on_v4`], over IPv6.
#[inline(never)]
pub fn pass_on_v6(raw: *mut __sk_buff) -> i32 {
    pass_on::<{ ETHERNET_LEN + 40 }>(raw, |skb, _, to| match skb.packet().head_mut::<V6_LEN>() {
        Some(head) => rewrite_v6(head, to),
        None => false,
    })
}

#[inline(always)]
fn pass_on<const UDP: usize>(
    raw: *mut __sk_buff,
    rewrite: impl FnOnce(Skb, &RelayEnd, &RelayEnd) -> bool,
) -> i32 {
    let (ctx, skb) = (&TcContext::new(raw), Skb { raw });
    let (Some(maps), Some(Work { job, .. })) = (&Maps::open(), work()) else { return PASS };
    let (label, is_from_first) = job.relaying();
    // It has been there a moment ago.
    let Some(relay) = maps.relay_mut(label) else { return leave_to_user() };
    // SAFETY: an element of the map; what several CPUs count at a time is only ever a limit.
    let relay: &mut Relay = unsafe { &mut *relay };
    if !relay.admits(skb.len(), maps.now_ns()) {
        return refuse(ctx, Counter::RxRelayLimit);
    }
    let (from, to) = relay.from_and_to(is_from_first);
    // The one's complement sum does not depend on byte order (RFC 1071, 2B): it is the kernel's as it lies in
    // the packet. A checksum of zero stays one.
    let changes = [(from.addresses, BPF_F_PSEUDO_HDR), (from.ports, 0)];
    for (change, flags) in changes {
        let flags = u64::from(flags | BPF_F_MARK_MANGLED_0);
        let change = u64::from(change.to_be());
        // SAFETY: a helper call on a valid context.
        if unsafe { helpers::bpf_l4_csum_replace(raw, (UDP + CHECKSUM) as u32, 0, change, flags) } != 0 {
            return refuse(ctx, Counter::RxTruncated);
        }
    }
    if !rewrite(skb, from, to) {
        return refuse(ctx, Counter::RxRelayLoop);
    }
    count(Counter::RxRelayed);
    redirect(to.ifindex)
}

/// Sends a frame of `len` bytes out of the interface that it came by, without a socket buffer.
#[inline(always)]
pub fn transmit(ctx: &XdpContext, maps: &Maps, len: u32, relaying: &Relaying) -> u32 {
    match relaying.outer {
        Family::V4 => transmit_in::<V4_LEN>(ctx, maps, len, relaying, rewrite_v4),
        Family::V6 => transmit_in::<V6_LEN>(ctx, maps, len, relaying, |head, _, to| rewrite_v6(head, to)),
    }
}

#[inline(always)]
fn transmit_in<const N: usize>(
    ctx: &XdpContext,
    maps: &Maps,
    len: u32,
    relaying: &Relaying,
    rewrite: impl FnOnce(&mut [u8; N], &RelayEnd, &RelayEnd) -> bool,
) -> u32 {
    let Some(head) = xdp::packet(ctx).head_mut::<N>() else { return XDP_PASS };
    let Some(relay) = maps.relay_mut(relaying.label) else { return XDP_PASS };
    // SAFETY: as in [`pass_on`].
    let relay: &mut Relay = unsafe { &mut *relay };
    let is_from_first = relaying.from == 0;
    let (from, to) = relay.from_and_to(is_from_first);
    // SAFETY: the context's documented field.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let Some(exit) = exit(head, ifindex, from, to) else { return XDP_PASS };
    if !relay.admits(len, maps.now_ns()) {
        return xdp::refuse(ctx, Counter::RxRelayLimit);
    }
    let (from, to) = relay.from_and_to(is_from_first);
    if !rewrite(head, from, to) {
        return xdp::refuse(ctx, Counter::RxRelayLoop);
    }
    update_checksum(head, from);
    count(Counter::RxXdpRelayed);
    match exit {
        Exit::Transmit => XDP_TX,
        // SAFETY: a helper call without pointers.
        Exit::Redirect => unsafe { helpers::bpf_redirect(ifindex, 0) as u32 },
    }
}
