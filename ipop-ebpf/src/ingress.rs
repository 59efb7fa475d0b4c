//! TC ingress: on underlay interfaces, take the outer headers off; on the virtual device, check
//! what came in by another way; on the helper device, pass on what the daemon wrote.

use core::mem::{self, MaybeUninit};

use aya_ebpf::bindings::{__sk_buff, BPF_F_TUNINFO_IPV6, bpf_tunnel_key};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use ipop_common::encapsulation::{V4_LEN, V6_LEN};
use ipop_common::ethernet::SAID_LEN_MAX;
use ipop_common::gpe::LinkId;
use ipop_common::ingress::{
    Clear, Delivery, ETHERNET_LEN, FRAME_HEADERS_MAX, FRAME_HEADERS_MAX_L2, FrameMeta, Verdict, admit,
    by_link, hold, received,
};
use ipop_common::inner::Inner;
use ipop_common::rules;
use ipop_common::tables::Tables;
use ipop_common::{Address, Counter, Cursor, Family, switch};

use crate::cursor::LinkHeader;
use crate::handshake;
use crate::maps::{Maps, count, count_rx};
use crate::relay;
use crate::sealed::{open, set, set_handshake};
use crate::skb::{DROP, PASS, Skb, redirect_ingress};
use crate::trace::refuse;
use crate::transit::is_in_transit;
use crate::xdp;

/// On an underlay interface.
#[inline(always)]
pub fn run<const L2: bool>(ctx: &TcContext) -> i32 {
    match receive::<L2>(ctx.skb.skb) {
        OPEN => open::<L2>(ctx.skb.skb),
        HANDSHAKE => handshake::admit(ctx.skb.skb),
        RELAY_V4 => relay::pass_on_v4(ctx.skb.skb),
        RELAY_V6 => relay::pass_on_v6(ctx.skb.skb),
        action => action,
    }
}

/// Not an action of TC: the frame is to be opened.
const OPEN: i32 = 0x09e2;
/// As [`OPEN`]: the frame is a handshake message.
const HANDSHAKE: i32 = 0x4a2d;
/// As [`OPEN`]: the frame is to be passed on.
const RELAY_V4: i32 = 0x4e14;
const RELAY_V6: i32 = 0x4e16;

/// Does all but opening and hashing. A function of its own, so that its stack is free again for the cipher.
#[inline(never)]
fn receive<const L2: bool>(raw: *mut __sk_buff) -> i32 {
    let (ctx, skb) = (&TcContext::new(raw), Skb { raw });
    let Some(maps) = Maps::open() else { return PASS };
    if xdp::marked(skb.metadata(), skb.packet()) {
        return deliver(skb, &maps);
    }
    let headers_max = if L2 { FRAME_HEADERS_MAX_L2 } else { FRAME_HEADERS_MAX };
    let verdict = match decide::<L2>(skb, &maps) {
        // The headers may lie outside the linear part.
        Verdict::Refuse(Counter::RxTruncated) if !skb.packet().holds(headers_max) => {
            skb.pull(headers_max as u32);
            decide::<L2>(skb, &maps)
        }
        verdict => verdict,
    };
    match verdict {
        Verdict::NotOurs => not_ours(),
        Verdict::Refuse(_) if is_in_transit(raw) => not_ours(),
        Verdict::Refuse(counter) => refuse(ctx, counter),
        Verdict::LeaveToStack(_) => left_to_stack(),
        Verdict::Open(opening) => {
            set(&opening);
            OPEN
        }
        Verdict::Handshake(handshake) => {
            set_handshake(&handshake);
            HANDSHAKE
        }
        Verdict::Relay(relaying) => {
            set(&relaying);
            match relaying.outer {
                Family::V4 => RELAY_V4,
                Family::V6 => RELAY_V6,
            }
        }
        Verdict::LeaveToUser => leave_to_user(),
        Verdict::HandOver(outer) => hand_over(ctx, skb, &maps, outer),
        Verdict::Deliver(delivery) if L2 => decapsulate_frame(skb, &maps, &delivery),
        Verdict::Deliver(delivery) => decapsulate(ctx, skb, &maps, &delivery),
    }
}

/// Bytes that tell whether a frame is ours: up to the UDP ports behind an IPv6 header.
const PORTS_END: usize = 14 + 40 + 4;

#[inline(always)]
fn decide<const L2: bool>(skb: Skb, maps: &Maps) -> Verdict {
    if skb.family().is_none() || skb.tagged() || !skb.for_this_host() {
        return Verdict::NotOurs;
    }
    skb.make_readable(PORTS_END as u32);
    let meta = FrameMeta { len: skb.len(), gso: skb.gso_size() != 0 };
    received::<_, _, L2>(skb.packet(), meta, maps, maps.now_ns())
}

/// A clear frame for the daemon's socket, to which it gets as if the peer's daemon had sent it: there is no UDP checksum
/// that would have to change.
#[inline(always)]
fn hand_over(ctx: &TcContext, skb: Skb, maps: &Maps, outer: Family) -> i32 {
    let port = match maps.config() {
        Some(config) if config.sealed_port != 0 => config.sealed_port.to_be_bytes(),
        _ => return refuse(ctx, Counter::RxWrongInnerSource),
    };
    let field = match outer {
        Family::V4 => skb.packet().part_mut::<2>(ETHERNET_LEN + 20 + 2),
        Family::V6 => skb.packet().part_mut::<2>(ETHERNET_LEN + 40 + 2),
    };
    match field {
        Some(field) => {
            *field = port;
            leave_to_user()
        }
        None => refuse(ctx, Counter::RxTruncated),
    }
}

/// Takes the outer headers off a frame: what is behind the outer Ethernet header goes, and the frame's own header takes
/// its place.
#[inline(always)]
fn decapsulate_frame(skb: Skb, maps: &Maps, delivery: &Delivery) -> i32 {
    let (segments, packet) = (skb.segments(), skb.packet());
    let header = match delivery.outer {
        Family::V4 => LinkHeader::read(packet, V4_LEN),
        Family::V6 => LinkHeader::read(packet, V6_LEN),
    };
    let removed = delivery.overhead() + ETHERNET_LEN;
    let shrunk = match header {
        Some(header) if skb.shrink_tunnel(removed, delivery.outer, delivery.inner) => {
            header.write(skb.packet(), 0)
        }
        // The kernel leaves no less than an IP header of the outer version, and before Linux 6.3 changes none; the
        // VXLAN device can do it.
        _ => return left_to_stack(),
    };
    if !shrunk {
        count(Counter::RxNoRoom);
        return DROP;
    }
    count(Counter::RxDecapsulated);
    count_rx(delivery.slot, segments, u32::from(delivery.inner_len));
    deliver(skb, maps)
}

#[inline(always)]
fn left_to_stack() -> i32 {
    count(Counter::RxToStack);
    PASS
}

/// A sealed frame for the daemon's socket.
#[inline(always)]
pub fn leave_to_user() -> i32 {
    count(Counter::RxToUser);
    PASS
}

#[inline(always)]
pub fn not_ours() -> i32 {
    count(Counter::RxNotOurs);
    PASS
}

#[inline(always)]
fn decapsulate(ctx: &TcContext, skb: Skb, maps: &Maps, delivery: &Delivery) -> i32 {
    let segments = skb.segments();
    if !skb.shrink_tunnel(delivery.overhead(), delivery.outer, delivery.inner) {
        // Before Linux 6.3 the families cannot change here; the VXLAN device can do it.
        if delivery.outer != delivery.inner {
            return left_to_stack();
        }
        return refuse(ctx, Counter::RxNoRoom);
    }
    count(Counter::RxDecapsulated);
    count_rx(delivery.slot, segments, u32::from(delivery.inner_len));
    deliver(skb, maps)
}

/// On the helper device: lets what the daemon wrote come in on the virtual device.
pub fn pass_on(ctx: &TcContext) -> i32 {
    match Maps::open() {
        Some(maps) => deliver(Skb::of(ctx), &maps),
        None => PASS,
    }
}

#[inline(always)]
pub fn deliver(skb: Skb, maps: &Maps) -> i32 {
    skb.mark_checked();
    redirect_ingress(maps.device())
}

/// On the virtual device: what our own programs redirected has been checked; what the kernel's
/// VXLAN device decapsulated (super-packets left to it, frames from interfaces without a program)
/// carries tunnel metadata and is checked here.
#[inline(always)]
pub fn guard<const L2: bool>(ctx: &TcContext) -> i32 {
    let skb = Skb::of(ctx);
    if skb.is_checked() {
        // A packet may go on to another node of this machine: there it is to be checked again.
        skb.unmark();
        return PASS;
    }
    let Some((link_id, source)) = tunnel_source(skb) else { return PASS };
    let checked = if L2 { check_frame(skb, link_id, source) } else { check(skb, link_id, source) };
    match checked {
        Ok((slot, len)) => {
            count(Counter::RxFromStack);
            count_rx(slot, skb.segments(), len);
            PASS
        }
        Err(counter) => refuse(ctx, counter),
    }
}

#[inline(always)]
fn check(skb: Skb, link_id: u32, source: Address) -> Result<(u32, u32), Counter> {
    let Some(family) = skb.family() else { return Err(Counter::RxBadInner) };
    let Some(link_id) = LinkId::new(link_id) else { return Err(Counter::RxBadHeader) };
    skb.make_readable((family.header_len() + rules::BEHIND_IP) as u32);
    let Ok(inner) = Inner::parse(skb.packet(), 0, family) else { return Err(Counter::RxBadInner) };
    let Some(maps) = Maps::open() else { return Err(Counter::RxUnknownLink) };
    let now_ns = maps.now_ns();
    let admitted = admit(&maps, &Clear { link_id, inner }, source, now_ns)?;
    hold(skb.packet(), &inner, admitted.link, &maps, now_ns)?;
    Ok((admitted.slot, skb.len()))
}

#[inline(always)]
fn check_frame(skb: Skb, link_id: u32, source: Address) -> Result<(u32, u32), Counter> {
    let Some(link_id) = LinkId::new(link_id) else { return Err(Counter::RxBadHeader) };
    skb.make_readable(SAID_LEN_MAX as u32);
    let Some(maps) = Maps::open() else { return Err(Counter::RxUnknownLink) };
    let now_ns = maps.now_ns();
    let admitted = by_link(&maps, link_id, source, now_ns)?;
    switch::admit(&maps, skb.packet(), admitted.slot, now_ns)?;
    Ok((admitted.slot, skb.len()))
}

const EPROTO: i64 = 71;

/// VNI and outer source of a packet that the VXLAN device decapsulated; `None` for any other.
#[inline(always)]
fn tunnel_source(skb: Skb) -> Option<(u32, Address)> {
    let mut key = MaybeUninit::<bpf_tunnel_key>::uninit();
    let size = mem::size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the helper writes all `size` bytes of the key, also where it fails.
    let result = unsafe { helpers::bpf_skb_get_tunnel_key(skb.raw, key.as_mut_ptr(), size, 0) };
    if result == 0 {
        // SAFETY: written by the helper; over IPv4 this member of the union is the valid one.
        let (id, remote) =
            unsafe { ((*key.as_ptr()).tunnel_id, (*key.as_ptr()).__bindgen_anon_1.remote_ipv4) };
        return Some((id, Address::from_v4(remote.to_be_bytes())));
    }
    if result != -EPROTO {
        return None;
    }
    // SAFETY: as above.
    let result = unsafe {
        helpers::bpf_skb_get_tunnel_key(skb.raw, key.as_mut_ptr(), size, u64::from(BPF_F_TUNINFO_IPV6))
    };
    if result != 0 {
        return None;
    }
    // SAFETY: written by the helper; over IPv6 this member of the union is the valid one.
    let (id, [a, b, c, d]) =
        unsafe { ((*key.as_ptr()).tunnel_id, (*key.as_ptr()).__bindgen_anon_1.remote_ipv6) };
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
    let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
    Some((id, Address::from_bytes([a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3])))
}
