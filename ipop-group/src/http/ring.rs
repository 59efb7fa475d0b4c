//! The picture of a group's ring: each member at the place that its address has.

use std::fmt::Write;

use ipop_overlay::NodeAddress;

/// Seconds without a report after which a member counts as silent: three reports.
pub const SILENT_S: u64 = 95;
/// Members up to which each has its name beside it.
const NAMES_MAX: usize = 24;
const RADIUS: f64 = 150.0;

/// Whether a member that was last seen then is there.
pub fn is_up(seen: u64, now: u64) -> bool {
    seen != 0 && now.saturating_sub(seen) <= SILENT_S
}

/// An SVG. Who is there is a filled dot, who is silent an empty one. Names are labels, which need no escaping.
pub fn picture(members: &[([u8; 32], String, u64)], now: u64) -> String {
    let up = members.iter().filter(|(_, _, seen)| is_up(*seen, now)).count();
    let mut svg = String::with_capacity(512 + members.len() * 120);
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<svg class=\"ring\" viewBox=\"-240 -200 480 400\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\
         <title>Ring of {} members, {up} of them up</title><circle class=\"orbit\" r=\"{RADIUS}\"/>",
        members.len()
    );
    for (key, name, seen) in members {
        let angle = angle(NodeAddress::of_key(key));
        let (x, y) = (RADIUS * angle.sin(), -RADIUS * angle.cos());
        let (class, state) = if is_up(*seen, now) { ("up", "up") } else { ("silent", "silent") };
        let _ = write!(
            svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{name}, {state}</title></circle>"
        );
        if members.len() <= NAMES_MAX {
            let (x, y) = (1.08 * x, 1.08 * y + 4.0);
            let anchor = if x < -20.0 {
                "end"
            } else if x > 20.0 {
                "start"
            } else {
                "middle"
            };
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{name}</text>");
        }
    }
    let _ = write!(
        svg,
        "<text class=\"count\" y=\"2\" text-anchor=\"middle\">{up}</text>\
         <text class=\"unit\" y=\"26\" text-anchor=\"middle\">of {} up</text></svg>",
        members.len()
    );
    svg
}

/// Where on the ring an address is, clockwise from the top.
fn angle(address: NodeAddress) -> f64 {
    let first: [u8; 4] = std::array::from_fn(|index| address.0[index]);
    f64::from(u32::from_be_bytes(first)) / f64::from(u32::MAX) * std::f64::consts::TAU
}
