//! Logs of refusals, compiled in only with the `log` feature.

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
