//! What a test run cannot show: the programs on real devices, what they deliver climbing the
//! host's stack, what they send read from the wire.

/// Ends the calling test, reported as skipped, where the kernel has no VXLAN devices.
macro_rules! needs_vxlan {
    () => {
        if !crate::wire::lab::has_vxlan() {
            ipop_tests::privilege::skip(
                ipop_tests::privilege::name_of(&here),
                "this kernel has no VXLAN device",
            );
            return;
        }
    };
}

mod arrive;
mod depart;
mod devices;
mod errors;
mod lab;
mod sealed;
