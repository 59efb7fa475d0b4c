//! Frames that this host only forwards. Another node's traffic may pass through on our port: what
//! is wrong with it is not for us to judge.

use core::mem;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup,
};
use aya_ebpf::helpers::generated as helpers;
use ipop_common::ingress::ETHERNET_LEN;
use ipop_common::{Cursor, Family};

use crate::skb::Skb;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Whether the host's routing would send the frame on to another host. Slow: asked about frames
/// that would be refused, never about good ones.
///
/// Not inline: its question, 64 bytes of zeroes, would be prepared for every frame.
#[inline(never)]
pub fn is_in_transit(raw: *mut __sk_buff) -> bool {
    let skb = Skb { raw };
    // SAFETY: integers only, of which all may be zero.
    let mut route: bpf_fib_lookup = unsafe { mem::zeroed() };
    route.ifindex = skb.ifindex();
    if write_addresses(skb, &mut route).is_none() {
        return false;
    }
    let size = mem::size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context is valid for the program's run, the route for `size` bytes.
    let result = unsafe { helpers::bpf_fib_lookup(skb.raw.cast(), &mut route, size, 0) };
    // A local destination, no route, or a host that does not forward are other results.
    [BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_FRAG_NEEDED]
        .iter()
        .any(|forwarded| i64::from(*forwarded) == result)
}

/// Takes the outer addresses over, as they stand in the packet.
#[inline(always)]
fn write_addresses(skb: Skb, route: &mut bpf_fib_lookup) -> Option<()> {
    let packet = skb.packet();
    match skb.family()? {
        Family::V4 => {
            route.family = AF_INET;
            let (source, destination) =
                (packet.bytes::<4>(ETHERNET_LEN + 12)?, packet.bytes::<4>(ETHERNET_LEN + 16)?);
            route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
            route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
        }
        Family::V6 => {
            route.family = AF_INET6;
            let (source, destination) =
                (packet.bytes::<16>(ETHERNET_LEN + 8)?, packet.bytes::<16>(ETHERNET_LEN + 24)?);
            route.__bindgen_anon_3.ipv6_src = words(source);
            route.__bindgen_anon_4.ipv6_dst = words(destination);
        }
    }
    Some(())
}

#[inline(always)]
fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
