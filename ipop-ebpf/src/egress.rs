//! TC egress on the virtual device: put the outer headers on and send the packet out.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use ipop_common::cursor::Behind;
use ipop_common::egress::{PacketMeta, Verdict, packet};
use ipop_common::encapsulation::{
    self, V4_LEN, V6_LEN, overhead, write_frame_v4, write_frame_v6, write_v4, write_v6,
};
use ipop_common::icmp::{self, QUOTE_LEN};
use ipop_common::ingress::ETHERNET_LEN;
use ipop_common::tables::Tables;
use ipop_common::{Counter, Cursor, Family, checksum, switch};

use crate::cursor::LinkHeader;
use crate::maps::{Maps, count, count_tx};
use crate::sealed::{seal, set};
use crate::skb::{DROP, PASS, Skb, redirect, redirect_ingress};
use crate::trace::{refuse, refused};

/// Bytes that the decision may look at: an IP header and the shortest TCP header. No more: payload
/// that is pulled into the linear part of a super-packet keeps the receiver from merging it.
#[inline(always)]
const fn headers_len(family: Family) -> u32 {
    family.header_len() as u32 + 20
}

/// On a device that takes Ethernet frames if `L2`, else IP packets.
#[inline(always)]
pub fn run<const L2: bool>(ctx: &TcContext) -> i32 {
    let action = if L2 { decide_frame(ctx.skb.skb) } else { decide(ctx.skb.skb) };
    match action {
        SEAL => seal::<L2>(ctx.skb.skb),
        action => action,
    }
}

/// Not an action of TC: the packet is to be sealed.
const SEAL: i32 = 0x5ea1;

/// Does all but sealing. A function of its own, so that its stack is free again for the cipher.
#[inline(never)]
fn decide(raw: *mut __sk_buff) -> i32 {
    let (ctx, skb) = (&TcContext::new(raw), Skb { raw });
    let Some(family) = skb.family() else {
        count(Counter::TxNotIp);
        return PASS;
    };
    let Some(maps) = Maps::open() else { return PASS };
    skb.make_readable(headers_len(family));
    let meta = PacketMeta { len: skb.len(), gso_size: skb.gso_size() };
    match packet(skb.packet(), family, meta, &maps, maps.now_ns()) {
        Verdict::Encapsulate { slot, outer } => encapsulate(skb, &maps, slot, outer, family, meta),
        Verdict::Seal(sealing) => {
            set(&sealing);
            SEAL
        }
        Verdict::Miss(counter) => miss(&maps, counter),
        Verdict::TooBig { mtu } => too_big(ctx, skb, &maps, family, mtu),
        Verdict::Refuse(counter) => refuse(ctx, counter),
    }
}

/// As [`decide`], about a frame.
#[inline(never)]
fn decide_frame(raw: *mut __sk_buff) -> i32 {
    let (ctx, skb) = (&TcContext::new(raw), Skb { raw });
    let Some(maps) = Maps::open() else { return PASS };
    // The frame itself does not have the tag.
    if skb.tagged() {
        return miss(&maps, Counter::TxComplex);
    }
    skb.make_readable(ETHERNET_LEN as u32 + headers_len(Family::V6));
    let meta = PacketMeta { len: skb.len(), gso_size: skb.gso_size() };
    match switch::frame(skb.packet(), meta, &maps, maps.now_ns()) {
        Verdict::Encapsulate { slot, outer } => encapsulate_frame(skb, &maps, slot, outer, meta),
        Verdict::Seal(sealing) => {
            set(&sealing);
            SEAL
        }
        Verdict::Miss(counter) => miss(&maps, counter),
        // No frame is: the switch answers nobody.
        Verdict::TooBig { .. } => miss(&maps, Counter::TxFragmented),
        Verdict::Refuse(counter) => refuse(ctx, counter),
    }
}

/// Hands the packet to the user path: through the helper device, or by letting it pass.
#[inline(always)]
pub fn miss(maps: &Maps, counter: Counter) -> i32 {
    count(counter);
    match maps.miss_device() {
        0 => PASS,
        ifindex => redirect(ifindex),
    }
}

#[inline(always)]
fn encapsulate(skb: Skb, maps: &Maps, slot: u32, outer: Family, inner: Family, meta: PacketMeta) -> i32 {
    let Some(link) = maps.link(slot) else { return miss(maps, Counter::TxStaleEpoch) };
    let hash = match skb.flow_hash() {
        0 => address_hash(skb.packet(), inner),
        hash => hash,
    };
    let source_port = encapsulation::source_port(hash);
    let segments = skb.segments();
    let written = push_header(skb, outer, meta.gso_size != 0)
        && match outer {
            Family::V4 => match skb.packet().head_mut::<V4_LEN>() {
                Some(head) => {
                    write_v4(head, link, inner, meta.len as u16, source_port);
                    true
                }
                None => false,
            },
            Family::V6 => match skb.packet().head_mut::<V6_LEN>() {
                Some(head) => {
                    write_v6(head, link, inner, meta.len as u16, source_port);
                    true
                }
                None => false,
            },
        };
    if !written {
        count(Counter::TxNoRoom);
        return DROP;
    }
    count(Counter::TxEncapsulated);
    count_tx(slot, segments, meta.len);
    redirect(link.ifindex)
}

#[inline(always)]
fn encapsulate_frame(skb: Skb, maps: &Maps, slot: u32, outer: Family, meta: PacketMeta) -> i32 {
    let Some(link) = maps.link(slot) else { return miss(maps, Counter::TxStaleEpoch) };
    let hash = match skb.flow_hash() {
        0 => frame_hash(skb.packet()),
        hash => hash,
    };
    let source_port = encapsulation::source_port(hash);
    let segments = skb.segments();
    let written = match outer {
        Family::V4 => {
            push_frame_header::<V4_LEN>(skb, outer, meta.gso_size != 0)
                && match skb.packet().head_mut::<V4_LEN>() {
                    Some(head) => {
                        write_frame_v4(head, link, meta.len as u16, source_port);
                        true
                    }
                    None => false,
                }
        }
        Family::V6 => {
            push_frame_header::<V6_LEN>(skb, outer, meta.gso_size != 0)
                && match skb.packet().head_mut::<V6_LEN>() {
                    Some(head) => {
                        write_frame_v6(head, link, meta.len as u16, source_port);
                        true
                    }
                    None => false,
                }
        }
    };
    if !written {
        count(Counter::TxNoRoom);
        return DROP;
    }
    count(Counter::TxEncapsulated);
    count_tx(slot, segments, meta.len);
    redirect(link.ifindex)
}

/// As [`push_header`], for a frame, whose own header is to stand behind `N` bytes of outer ones. In a super-packet the
/// room is made behind it, and it has to move.
#[inline(always)]
fn push_frame_header<const N: usize>(skb: Skb, outer: Family, gso: bool) -> bool {
    if !gso {
        return skb.push(N);
    }
    let Some(header) = LinkHeader::read(skb.packet(), 0) else { return false };
    skb.grow_tunnel_of_frames(N, outer) && header.write(skb.packet(), N)
}

/// As [`address_hash`], of a frame. What is not IP has one.
#[inline(always)]
fn frame_hash<C: Cursor>(frame: C) -> u32 {
    match frame.u16_at(12).and_then(switch::family) {
        Some(family) => address_hash(Behind { cursor: frame, at: ETHERNET_LEN }, family),
        None => 0,
    }
}

/// What tells flows apart where the socket has not left a hash of its own: the inner addresses. (The kernel's dissector
/// would find the ports too, and takes 100 ns.)
#[inline(always)]
fn address_hash<C: Cursor>(packet: C, inner: Family) -> u32 {
    let words = match inner {
        Family::V4 => packet.bytes::<8>(12).map(u64::from_ne_bytes),
        Family::V6 => {
            let (source, destination) = (packet.bytes::<16>(8), packet.bytes::<16>(24));
            source.zip(destination).map(|(a, b)| fold_u128(a) ^ fold_u128(b).rotate_left(32))
        }
    };
    // Fibonacci hashing (Knuth, TAOCP 6.4): only the uppermost bits depend on all bits, so those are
    // the 14 that the source port takes.
    (words.unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u32
}

#[inline(always)]
fn fold_u128(octets: [u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_ne_bytes([i, j, k, l, m, n, o, p])
}

/// Room for the outer headers: in one step for a single packet, in two for a super-packet, whose
/// segmentation must know where the tunnel starts.
#[inline(always)]
fn push_header(skb: Skb, outer: Family, gso: bool) -> bool {
    let overhead = usize::from(overhead(outer));
    if gso {
        skb.grow_tunnel(overhead, outer) && skb.push(ETHERNET_LEN)
    } else {
        skb.push(ETHERNET_LEN + overhead)
    }
}

/// Turns the packet into the ICMP error about it and lets that come in on the virtual device.
#[inline(always)]
fn too_big(ctx: &TcContext, skb: Skb, maps: &Maps, family: Family, mtu: u16) -> i32 {
    count(Counter::TxTooBig);
    refused!(ctx, Counter::TxTooBig);
    let written = match family {
        Family::V4 => write_error_v4(skb, mtu),
        Family::V6 => write_error_v6(skb, mtu),
    };
    match written {
        Some(()) => redirect_ingress(maps.device()),
        None => refuse(ctx, Counter::TxNoRoom),
    }
}

#[inline(always)]
fn write_error_v4(skb: Skb, mtu: u16) -> Option<()> {
    let packet = skb.packet();
    let (source, destination) = (packet.bytes::<4>(12)?, packet.bytes::<4>(16)?);
    let quote_sum = quote(skb)?;
    if !skb.grow(icmp::V4_LEN) {
        return None;
    }
    let head = skb.packet().head_mut::<{ icmp::V4_LEN }>()?;
    icmp::write_v4(head, icmp::Error::TooBig { mtu }, source, destination, quote_sum);
    Some(())
}

#[inline(always)]
fn write_error_v6(skb: Skb, mtu: u16) -> Option<()> {
    let packet = skb.packet();
    let (source, destination) = (packet.bytes::<16>(8)?, packet.bytes::<16>(24)?);
    let quote_sum = quote(skb)?;
    if !skb.grow(icmp::V6_LEN) {
        return None;
    }
    let head = skb.packet().head_mut::<{ icmp::V6_LEN }>()?;
    icmp::write_v6(head, icmp::Error::TooBig { mtu }, source, destination, quote_sum);
    Some(())
}

/// Cuts the packet to what the error quotes and sums that up.
#[inline(always)]
fn quote(skb: Skb) -> Option<u32> {
    if !skb.resize(QUOTE_LEN as u32) {
        return None;
    }
    skb.pull(QUOTE_LEN as u32);
    let quoted = skb.packet().head_mut::<QUOTE_LEN>()?;
    // SAFETY: the array is inside the packet; a `from` of size 0 may be null.
    let sum = unsafe {
        helpers::bpf_csum_diff(core::ptr::null_mut(), 0, quoted.as_mut_ptr().cast(), QUOTE_LEN as u32, 0)
    };
    Some(u32::from(u16::from_be(checksum::fold(sum as u32))))
}
