//! What is told of refused packets: a counter each, and a line in the log with the `log` feature.

use aya_ebpf::programs::TcContext;
use ipop_common::Counter;

use crate::maps::count;
use crate::skb::DROP;

#[cfg(feature = "log")]
macro_rules! refused {
    ($ctx:expr, $counter:expr) => {
        aya_log_ebpf::debug!($ctx, "{}", $counter.name())
    };
}

#[cfg(not(feature = "log"))]
macro_rules! refused {
    ($ctx:expr, $counter:expr) => {{
        let _ = (&$ctx, &$counter);
    }};
}

pub(crate) use refused;

/// Drops a packet, and says why.
#[inline(always)]
pub fn refuse(ctx: &TcContext, counter: Counter) -> i32 {
    refused!(ctx, counter);
    count(counter);
    DROP
}
