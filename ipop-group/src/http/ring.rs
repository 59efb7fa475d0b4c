//! The picture of a group's ring: each member at the place that its address has.

use std::fmt::Write;

use ipop_overlay::NodeAddress;

/// Seconds without a report after which a member counts as silent: three reports.
pub const SILENT_S: u64 = 95;
/// Members up to which each has its name beside it.
const NAMES_MAX: usize = 24;
/// Signs of a name that there is room for.
const NAME_LEN_MAX: usize = 13;
/// A line of text, in the picture's units.
const LINE: f64 = 13.0;
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
    let mut names: Vec<Name> = Vec::new();
    for (key, name, seen) in members {
        let angle = angle(NodeAddress::of_key(key));
        let (x, y) = (RADIUS * angle.sin(), -RADIUS * angle.cos());
        let (class, state) = if is_up(*seen, now) { ("up", "up") } else { ("silent", "silent") };
        let _ = write!(
            svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{name}, {state}</title></circle>"
        );
        let beside = Name::beside(x, y);
        // Where two are close together, one has its name in the list alone.
        if members.len() <= NAMES_MAX && !names.iter().any(|other| other.meets(&beside)) {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
                beside.x,
                beside.y,
                beside.anchor,
                shortened(name)
            );
            names.push(beside);
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

/// Where a name stands.
struct Name {
    x: f64,
    y: f64,
    anchor: &'static str,
}

impl Name {
    /// Outside of a point on the ring.
    fn beside(x: f64, y: f64) -> Self {
        let (x, y) = (1.08 * x, 1.08 * y + 4.0);
        let anchor = match x {
            ..-20.0 => "end",
            20.0.. => "start",
            _ => "middle",
        };
        Self { x, y, anchor }
    }

    /// Whether the two would be written over one another: those of one side, on one line.
    fn meets(&self, other: &Self) -> bool {
        self.anchor == other.anchor && (self.y - other.y).abs() < LINE
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_LEN_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_LEN_MAX - 1).chain(['…']).collect()
}

/// Where on the ring an address is, clockwise from the top.
fn angle(address: NodeAddress) -> f64 {
    let first: [u8; 4] = std::array::from_fn(|index| address.0[index]);
    f64::from(u32::from_be_bytes(first)) / f64::from(u32::MAX) * std::f64::consts::TAU
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_a_place_and_names_do_not_meet() {
        let long = "a-machine-with-a-rather-long-name";
        let members: Vec<([u8; 32], String, u64)> = (0..24)
            .map(|seed| ([seed; 32], if seed == 0 { long.to_owned() } else { format!("n{seed}") }, 100))
            .collect();
        let svg = picture(&members, 150);
        assert_eq!(svg.matches("<circle class=\"up\"").count(), 24);
        assert!(svg.contains("Ring of 24 members, 24 of them up"));
        assert!(svg.contains(&format!("<title>{long}, up</title>")));
        assert!(!svg.contains(&format!(">{long}</text>")));
        let lines: Vec<(&str, f64)> = svg
            .split("<text x=\"")
            .skip(1)
            .filter_map(|text| {
                let y = text.split("y=\"").nth(1)?.split('"').next()?.parse().ok()?;
                Some((text.split("text-anchor=\"").nth(1)?.split('"').next()?, y))
            })
            .collect();
        assert!(lines.len() > 8, "{lines:?}");
        for (index, (anchor, y)) in lines.iter().enumerate() {
            let meets = |(other, line): &(&str, f64)| other == anchor && (line - y).abs() < LINE - 0.1;
            assert!(!lines[..index].iter().any(meets), "{anchor} {y}");
        }
        assert!(picture(&[], 0).contains("Ring of 0 members"));
    }
}
