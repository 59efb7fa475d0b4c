//! Handshake messages on their way to the daemon: the filter's decision about their bytes.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use ipop_common::Counter;

use crate::ingress::{leave_to_user, not_ours};
use crate::maps::Maps;
use crate::sealed::{Work, work};
use crate::skb::PASS;
use crate::trace::refuse;
use crate::transit::is_in_transit;

/// Lets a message pass or drops it. A function of its own for the same reason as [`crate::sealed::open`].
#[inline(never)]
pub fn admit(raw: *mut __sk_buff) -> i32 {
    let ctx = &TcContext::new(raw);
    let (Some(maps), Some(Work { job, source, hash, memory })) = (&Maps::open(), work()) else { return PASS };
    let Some(filter) = maps.filter() else { return PASS };
    let (kind, offset) = job.handshake();
    let text = memory.text();
    let len = kind.message_len();
    // SAFETY: the text has room for TEXT_MAX bytes, and a handshake message is shorter.
    if unsafe { helpers::bpf_skb_load_bytes(raw.cast(), offset as u32, text.cast(), len as u32) } != 0 {
        return refuse(ctx, Counter::RxTruncated);
    }
    // SAFETY: as above.
    match unsafe { filter.admit(kind, text, *source, maps.now_ns(), hash) } {
        Ok(()) => leave_to_user(),
        Err(_) if is_in_transit(raw) => not_ours(),
        Err(counter) => refuse(ctx, counter),
    }
}
