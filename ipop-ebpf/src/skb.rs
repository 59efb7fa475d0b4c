//! What the TC programs share: socket buffer fields, helper calls with their flags, time.

use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS,
    BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use ipop_common::Family;
use ipop_common::ingress::ETHERNET_LEN;

use crate::cursor::Packet;

/// Lets the next program, or the stack, see the packet.
pub const PASS: i32 = TC_ACT_UNSPEC;
pub const DROP: i32 = TC_ACT_SHOT as i32;

/// In `tc_index`, which the stack keeps from one TC hook to the next and nobody on a wire can set.
const CHECKED: u32 = 0x1b0f;

/// One socket buffer.
#[derive(Clone, Copy)]
pub struct Skb {
    pub raw: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        Self { raw: ctx.skb.skb }
    }

    /// The linear part, from the first header that the hook sees.
    #[inline(always)]
    pub fn packet(self) -> Packet {
        // SAFETY: the context is valid for the program's run; these are its documented fields.
        unsafe { Packet { data: (*self.raw).data as usize, end: (*self.raw).data_end as usize } }
    }

    /// Where metadata of XDP starts; equal to the packet's start where there is none.
    #[inline(always)]
    pub fn metadata(self) -> usize {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).data_meta as usize }
    }

    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).len }
    }

    /// Payload bytes per segment of a super-packet; 0 for a single packet.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).gso_size }
    }

    /// Packets on the wire that this buffer stands for.
    #[inline(always)]
    pub fn segments(self) -> u32 {
        // SAFETY: as in `packet`.
        let counted = unsafe { (*self.raw).gso_segs };
        let size = self.gso_size();
        // The kernel has not counted those of a super-packet that a virtual machine sent.
        if counted == 0 && size != 0 {
            return self.len().div_ceil(size);
        }
        counted.max(1)
    }

    /// The IP version by the buffer's protocol field.
    #[inline(always)]
    pub fn family(self) -> Option<Family> {
        // SAFETY: as in `packet`.
        match u16::from_be(unsafe { (*self.raw).protocol } as u16) {
            0x0800 => Some(Family::V4),
            0x86dd => Some(Family::V6),
            _ => None,
        }
    }

    /// Whether the frame carries a VLAN tag that the NIC or the stack took out.
    #[inline(always)]
    pub fn tagged(self) -> bool {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).vlan_present != 0 }
    }

    /// Whether the frame's destination MAC is this interface's own.
    #[inline(always)]
    pub fn for_this_host(self) -> bool {
        // SAFETY: as in `packet`. 0 is PACKET_HOST.
        unsafe { (*self.raw).pkt_type == 0 }
    }

    /// The interface that the frame came in on.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).ifindex }
    }

    /// Makes the first `len` bytes directly readable, as far as the packet has them.
    #[inline(always)]
    pub fn make_readable(self, len: u32) {
        let packet = self.packet();
        let readable = packet.end.wrapping_sub(packet.data) as u32;
        if readable < len && readable < self.len() {
            self.pull(len);
        }
    }

    /// Pulls `len` bytes, or all, into the linear part.
    #[inline(always)]
    pub fn pull(self, len: u32) {
        let len = len.min(self.len());
        // SAFETY: a helper call on a valid context. Failure shows as a packet that ends early.
        let _ = unsafe { helpers::bpf_skb_pull_data(self.raw, len) };
    }

    /// The hash that the sending socket chose for its flow; 0 where there is none (raw and
    /// unconnected sockets, forwarded packets).
    #[inline(always)]
    pub fn flow_hash(self) -> u32 {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).hash }
    }

    /// Whether [`Self::mark_checked`] has been here: the field is 0 in what comes off a wire.
    #[inline(always)]
    pub fn is_checked(self) -> bool {
        // SAFETY: as in `packet`.
        unsafe { (*self.raw).tc_index == CHECKED }
    }

    /// Tells the guard on the virtual device that this packet needs no other look.
    #[inline(always)]
    pub fn mark_checked(self) {
        // SAFETY: as in `packet`; TC programs may write this field.
        unsafe { (*self.raw).tc_index = CHECKED };
    }

    /// Undoes [`Self::mark_checked`].
    #[inline(always)]
    pub fn unmark(self) {
        // SAFETY: as above.
        unsafe { (*self.raw).tc_index = 0 };
    }

    /// Puts `len` bytes of outer headers between the MAC and the IP header of a super-packet, and
    /// marks it so that it is segmented with them.
    #[inline(always)]
    pub fn grow_tunnel(self, len: usize, outer: Family) -> bool {
        self.adjust_room(len as i32, encapsulation(outer))
    }

    /// As [`Self::grow_tunnel`], of a frame whose own header is to stand at the end of what is put in (Linux 5.12).
    #[inline(always)]
    pub fn grow_tunnel_of_frames(self, len: usize, outer: Family) -> bool {
        let l2 =
            u64::from(BPF_F_ADJ_ROOM_ENCAP_L2_ETH) | (ETHERNET_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        self.adjust_room(len as i32, encapsulation(outer) | l2)
    }

    /// Makes room for `len` bytes between the MAC and the IP header.
    #[inline(always)]
    pub fn grow(self, len: usize) -> bool {
        self.adjust_room(len as i32, u64::from(BPF_F_ADJ_ROOM_NO_CSUM_RESET))
    }

    /// Removes `len` bytes of outer headers. FIXED_GSO: a super-packet's segments keep their size.
    #[inline(always)]
    pub fn shrink_tunnel(self, len: usize, outer: Family, inner: Family) -> bool {
        // The flag (Linux 6.3) changes the buffer's protocol; without need for it, older kernels do.
        let l3 = match (outer, inner) {
            (Family::V6, Family::V4) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
            (Family::V4, Family::V6) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
            _ => 0,
        };
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | l3;
        self.adjust_room(-(len as i32), u64::from(flags))
    }

    #[inline(always)]
    fn adjust_room(self, len: i32, flags: u64) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe {
            helpers::bpf_skb_adjust_room(self.raw, len, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) == 0
        }
    }

    /// Puts `len` zero bytes before the packet.
    #[inline(always)]
    pub fn push(self, len: usize) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe { helpers::bpf_skb_change_head(self.raw, len as u32, 0) == 0 }
    }

    /// Removes `len` bytes between the MAC and the next header.
    #[inline(always)]
    pub fn shrink(self, len: usize) -> bool {
        self.adjust_room(-(len as i32), 0)
    }

    /// Cuts the packet to `len` bytes, or appends zeroes.
    #[inline(always)]
    pub fn resize(self, len: u32) -> bool {
        // SAFETY: a helper call on a valid context.
        unsafe { helpers::bpf_skb_change_tail(self.raw, len, 0) == 0 }
    }

    /// Overwrites `len` bytes of the packet at `offset`; a checksum that the device computed over
    /// the whole packet is kept right.
    ///
    /// # Safety
    /// `from` is valid for `len` bytes.
    #[inline(always)]
    pub unsafe fn store(self, offset: u32, from: *const u8, len: u32) -> bool {
        // SAFETY: the caller's promise; a helper call on a valid context.
        unsafe {
            helpers::bpf_skb_store_bytes(self.raw, offset, from.cast(), len, u64::from(BPF_F_RECOMPUTE_CSUM))
                == 0
        }
    }
}

/// How the room for outer headers is to be understood.
#[inline(always)]
const fn encapsulation(outer: Family) -> u64 {
    let l3 = match outer {
        Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    };
    (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | l3) as u64
}

/// Sends the packet out of an interface.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: a helper call without pointers.
    unsafe { helpers::bpf_redirect(ifindex, 0) as i32 }
}

/// Lets the packet come in on an interface.
#[inline(always)]
pub fn redirect_ingress(ifindex: u32) -> i32 {
    // SAFETY: a helper call without pointers.
    unsafe { helpers::bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}
