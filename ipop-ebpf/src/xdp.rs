//! XDP on an underlay interface: take the outer headers off before GRO, so that GRO merges the
//! inner packets; TC ingress on the same interface then hands them to the virtual device. Relay
//! frames between others that go out where they came in are sent from here.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::XdpContext;
use ipop_common::ingress::{Delivery, ETHERNET_LEN, FrameMeta, Verdict, received};
use ipop_common::tables::Tables;
use ipop_common::{Counter, Cursor};

use crate::cursor::Packet;
use crate::maps::{Maps, count, count_rx};
use crate::relay;
use crate::trace::refused;

/// In the metadata before a packet: decapsulated and checked by this node's XDP program. Nothing
/// that comes off a wire has metadata.
const MARK: u32 = 0x1b0f_0de1;
const MARK_LEN: i32 = 4;

/// Where the network carries Ethernet frames if `L2`, else IP packets.
#[inline(always)]
pub fn run<const L2: bool>(ctx: &XdpContext) -> u32 {
    // SAFETY: a helper call on a valid context.
    let len = unsafe { helpers::bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    let Some(maps) = Maps::open() else { return XDP_PASS };
    match received::<_, _, L2>(packet(ctx), FrameMeta { len, gso: false }, &maps, maps.now_ns()) {
        Verdict::Deliver(delivery) => decapsulate::<L2>(ctx, &maps, &delivery),
        Verdict::Relay(relaying) => relay::transmit(ctx, &maps, len, &relaying),
        // TC ingress decides about these again, and counts them. It can read all of the headers,
        // and tell whether a frame is for this host at all.
        Verdict::NotOurs
        | Verdict::Open(_)
        | Verdict::LeaveToUser
        | Verdict::HandOver(_)
        | Verdict::Handshake(_)
        | Verdict::LeaveToStack(_)
        | Verdict::Refuse(_) => XDP_PASS,
    }
}

/// Whether metadata that starts at `metadata` marks `packet` as decapsulated by [`run`].
#[inline(always)]
pub fn marked(metadata: usize, packet: Packet) -> bool {
    if metadata + MARK_LEN as usize > packet.data {
        return false;
    }
    // SAFETY: [metadata, metadata + 4) ends at or before the packet, as just compared; the driver
    // aligns metadata to 4 bytes.
    unsafe { *(metadata as *const u32) == MARK }
}

#[inline(always)]
pub fn packet(ctx: &XdpContext) -> Packet {
    Packet { data: ctx.data(), end: ctx.data_end() }
}

/// Drops a frame, and says why.
#[inline(always)]
pub fn refuse(ctx: &XdpContext, counter: Counter) -> u32 {
    refused!(ctx, counter);
    count(counter);
    XDP_DROP
}

/// The frame has lost its headers and cannot go on.
#[inline(always)]
fn no_room(ctx: &XdpContext) -> u32 {
    refuse(ctx, Counter::RxNoRoom)
}

#[inline(always)]
fn decapsulate<const L2: bool>(ctx: &XdpContext, maps: &Maps, delivery: &Delivery) -> u32 {
    let Some(macs) = packet(ctx).bytes::<12>(0) else { return XDP_PASS };
    let Some(link) = maps.link(delivery.slot) else { return XDP_PASS };
    // A frame for another host, on an interface in promiscuous mode: TC sees that by the packet's
    // type, here it is the destination MAC.
    if macs.first_chunk::<6>() != link.header.get(6..12).and_then(|mac| mac.first_chunk::<6>()) {
        return XDP_PASS;
    }
    if !adjust_meta(ctx, -MARK_LEN) {
        // The driver has no metadata.
        return XDP_PASS;
    }
    // The metadata moves with the packet's start.
    let removed = delivery.overhead() + if L2 { ETHERNET_LEN } else { 0 };
    // SAFETY: a helper call on a valid context.
    if unsafe { helpers::bpf_xdp_adjust_head(ctx.ctx, removed as i32) } != 0 {
        return if adjust_meta(ctx, MARK_LEN) { XDP_PASS } else { no_room(ctx) };
    }
    // A frame has its own header.
    if !L2 {
        let Some(head) = packet(ctx).head_mut::<ETHERNET_LEN>() else { return no_room(ctx) };
        let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
        let [type_high, type_low] = delivery.inner.ethertype().to_be_bytes();
        *head = [a, b, c, d, e, f, g, h, i, j, k, l, type_high, type_low];
    }
    // SAFETY: the context's documented fields.
    let metadata = unsafe { (*ctx.ctx).data_meta } as usize;
    if metadata + MARK_LEN as usize > ctx.data() {
        return no_room(ctx);
    }
    // SAFETY: four bytes before the packet, as just compared, aligned by the driver.
    unsafe { *(metadata as *mut u32) = MARK };
    count(Counter::RxXdpDecapsulated);
    count_rx(delivery.slot, 1, u32::from(delivery.inner_len));
    XDP_PASS
}

/// Moves the start of the metadata; false where the driver or the kernel refuses.
#[inline(always)]
fn adjust_meta(ctx: &XdpContext, delta: i32) -> bool {
    // SAFETY: a helper call on a valid context.
    unsafe { helpers::bpf_xdp_adjust_meta(ctx.ctx, delta) == 0 }
}
