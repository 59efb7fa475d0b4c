//! A picture of the ring: nodes on a circle by their addresses, going up clockwise from the top, and the
//! connections between them.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::{PI, TAU};
use std::fmt::Write;

use super::report::{Crawl, Node, has_role};
use crate::key::NodeAddress;

const SIZE: f64 = 1000.0;
const RADIUS: f64 = 350.0;
/// More cannot be told apart; each node's name is shown where the pointer is.
const LABELS_MAX: usize = 80;
/// Degrees between two labels, so that each can be read.
const LABEL_APART: f64 = 2.6;
/// How often labels are moved apart: enough for as many as there may be, all in one place.
const SPREADS: usize = 2000;
/// By how much a line between neighbours bends inwards.
const BEND: f64 = 16.0;

/// What a connection is for, in the order in which they are drawn: the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Leaf,
    Managed,
    Bypass,
    Far,
    Demand,
    Near,
}

impl Purpose {
    const ALL: [Self; 6] = [Self::Near, Self::Demand, Self::Far, Self::Bypass, Self::Managed, Self::Leaf];

    fn role(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Demand => "on-demand",
            Self::Far => "far",
            Self::Bypass => "bypass",
            Self::Managed => "managed",
            Self::Leaf => "leaf",
        }
    }

    fn legend(self) -> &'static str {
        match self {
            Self::Near => "neighbours on the ring",
            Self::Demand => "on demand: there is traffic",
            Self::Far => "shortcuts",
            Self::Bypass => "bypass: closest of the neighbourhood",
            Self::Managed => "configured",
            Self::Leaf => "ways into the network",
        }
    }

    /// Told apart by those who see few colours too (Okabe and Ito).
    fn colour(self) -> &'static str {
        match self {
            Self::Near => "#0072b2",
            Self::Demand => "#d55e00",
            Self::Far => "#009e73",
            Self::Bypass => "#cc79a7",
            Self::Managed => "#555555",
            Self::Leaf => "#999999",
        }
    }
}

/// Draws what a crawl has found.
pub(super) fn draw(crawl: &Crawl) -> String {
    let edges = edges(crawl);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {SIZE} {SIZE}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n\
         <rect width=\"{SIZE}\" height=\"{SIZE}\" fill=\"white\"/>\n\
         <circle cx=\"{c}\" cy=\"{c}\" r=\"{RADIUS}\" fill=\"none\" stroke=\"#dddddd\"/>\n",
        c = SIZE / 2.0
    );
    let next: BTreeMap<_, _> = crawl.nodes.iter().map(|node| (node.address(), node.successor)).collect();
    for (ends, purpose) in sorted(&edges) {
        let is_next = |one, other| next.get(&one) == Some(&Some(other));
        let way = match (purpose, is_next(ends.0, ends.1), is_next(ends.1, ends.0)) {
            (Purpose::Near, true, true) => format!("{}{}", arc(ends.0, ends.1), arc(ends.1, ends.0)),
            (Purpose::Near, true, false) => arc(ends.0, ends.1),
            (Purpose::Near, false, true) => arc(ends.1, ends.0),
            _ => chord(ends, purpose),
        };
        connection(&mut svg, &way, purpose, edges.len());
    }
    nodes(&mut svg, crawl);
    legend(&mut svg, crawl, &edges);
    svg + "</svg>\n"
}

type Edges = BTreeMap<(NodeAddress, NodeAddress), BTreeSet<Purpose>>;

/// Each connection once, whichever of its ends tells of it, with what is drawn of it: that it is one of
/// neighbours, that there is traffic; if neither, what it is for most of all.
fn edges(crawl: &Crawl) -> Edges {
    let mut edges = Edges::new();
    for node in &crawl.nodes {
        for edge in &node.told.connections {
            let (own, other) = (node.address(), edge.address);
            let purposes = edges.entry((own.min(other), own.max(other))).or_default();
            purposes.extend(Purpose::ALL.into_iter().filter(|purpose| has_role(edge, purpose.role())));
        }
    }
    for purposes in edges.values_mut() {
        let most = purposes.last().copied().unwrap_or(Purpose::Leaf);
        purposes.insert(most);
        purposes.retain(|purpose| *purpose >= most.min(Purpose::Demand));
    }
    edges
}

/// The many below, the few that matter above.
fn sorted(edges: &Edges) -> Vec<((NodeAddress, NodeAddress), Purpose)> {
    let each = edges.iter().flat_map(|(ends, purposes)| purposes.iter().map(|purpose| (*ends, *purpose)));
    let mut sorted: Vec<_> = each.collect();
    sorted.sort_by_key(|(_, purpose)| *purpose);
    sorted
}

/// From the top, clockwise.
fn angle(address: NodeAddress) -> f64 {
    let high = address.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    high as f64 / 2f64.powi(64) * TAU
}

fn at(angle: f64, radius: f64) -> (f64, f64) {
    (SIZE / 2.0 + radius * angle.sin(), SIZE / 2.0 - radius * angle.cos())
}

/// From a node up the ring to another, along the circle.
fn arc(from: NodeAddress, to: NodeAddress) -> String {
    let (from, to) = (angle(from), angle(to));
    let ((x1, y1), (x2, y2)) = (at(from, RADIUS), at(to, RADIUS));
    let is_long = u8::from((to - from).rem_euclid(TAU) > PI);
    format!("M{x1:.1} {y1:.1}A{RADIUS} {RADIUS} 0 {is_long} 1 {x2:.1} {y2:.1}")
}

/// Between two nodes, inside the circle.
fn chord(ends: (NodeAddress, NodeAddress), purpose: Purpose) -> String {
    let (from, to) = (angle(ends.0), angle(ends.1));
    let span = (to - from).rem_euclid(TAU);
    // The shorter way round.
    let (from, to, span) = if span <= PI { (from, to, span) } else { (to, from, TAU - span) };
    // Of a curve with one control point, the middle lies half way between that and the chord.
    let (chord, length) = (RADIUS * (span / 2.0).cos(), 2.0 * RADIUS * (span / 2.0).sin());
    let control = match purpose {
        Purpose::Near => chord - 2.0 * BEND.min(length / 4.0),
        _ => chord * 0.3,
    };
    let ((x1, y1), (cx, cy), (x2, y2)) = (at(from, RADIUS), at(from + span / 2.0, control), at(to, RADIUS));
    format!("M{x1:.1} {y1:.1}Q{cx:.1} {cy:.1} {x2:.1} {y2:.1}")
}

fn connection(svg: &mut String, way: &str, purpose: Purpose, count: usize) {
    let (width, opacity) = match purpose {
        Purpose::Near => (1.6, 0.9),
        _ => (1.2, (150.0 / count as f64).clamp(0.15, 0.8)),
    };
    let dashes = if purpose == Purpose::Leaf { " stroke-dasharray=\"4 3\"" } else { "" };
    // Writing into a String does not fail.
    let _ = writeln!(
        svg,
        "<path d=\"{way}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
         stroke-opacity=\"{opacity:.2}\"{dashes}/>",
        purpose.colour()
    );
}

fn nodes(svg: &mut String, crawl: &Crawl) {
    let count = crawl.nodes.len() + crawl.silent.len();
    let radius = (300.0 / count as f64).clamp(2.0, 9.0);
    let mut labels = Vec::new();
    for silent in &crawl.silent {
        let (x, y) = at(angle(silent.address), RADIUS);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"white\" stroke=\"#d00000\" \
             stroke-width=\"2\"><title>{}: {}</title></circle>",
            silent.address,
            escaped(&silent.error)
        );
        labels.push((angle(silent.address), silent.address.short(), "#d00000"));
    }
    for node in &crawl.nodes {
        // Only the node that was asked first has no round trip.
        let colour = if node.told.rtt_us.is_none() { "#e69f00" } else { "#222222" };
        let (x, y) = at(angle(node.address()), RADIUS);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{colour}\"><title>{}</title></circle>",
            escaped(&described(node))
        );
        labels.push((angle(node.address()), node.told.node.label(), "#222222"));
    }
    if count <= LABELS_MAX {
        spread(&mut labels);
        labels.iter().for_each(|(angle, text, colour)| label(svg, *angle, text, radius, colour));
    }
}

/// Moves labels apart that would lie on one another.
fn spread(labels: &mut [(f64, String, &str)]) {
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let apart = LABEL_APART.to_radians();
    for _ in 0..SPREADS {
        for at in 1..labels.len() {
            let lack = apart - (labels[at].0 - labels[at - 1].0);
            if lack > 0.0 {
                labels[at - 1].0 -= lack / 2.0;
                labels[at].0 += lack / 2.0;
            }
        }
    }
}

fn described(node: &Node) -> String {
    let name = node.told.node.name.as_deref().unwrap_or_default();
    let ips = node.told.node.virtual_ips.join(", ");
    let words = [name, &ips].into_iter().filter(|word| !word.is_empty());
    let count = node.told.connections.len();
    let known = words.map(|word| format!(" {word}")).collect::<String>();
    format!("{}{known}: {count} connections", node.address())
}

/// A name outside the circle, read from the side on which it stands.
fn label(svg: &mut String, angle: f64, text: &str, radius: f64, colour: &str) {
    let angle = angle.rem_euclid(TAU);
    let (x, y) = at(angle, RADIUS + radius + 6.0);
    let degrees = angle.to_degrees() - 90.0;
    let (degrees, anchor) = if angle <= PI { (degrees, "start") } else { (degrees - 180.0, "end") };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" dominant-baseline=\"central\" \
         fill=\"{colour}\" transform=\"rotate({degrees:.1} {x:.1} {y:.1})\">{}</text>",
        escaped(text)
    );
}

/// What the colours mean, for those that are there, and whether the nodes agree.
fn legend(svg: &mut String, crawl: &Crawl, edges: &Edges) {
    let verdict = match (crawl.consistent, crawl.cut_short) {
        (true, false) => "consistent",
        (true, true) => "consistent as far as it was asked",
        (false, _) => "not consistent",
    };
    let title = format!("{} nodes, {} connections: {verdict}", crawl.nodes.len(), edges.len());
    let _ = writeln!(svg, "<text x=\"20\" y=\"30\" font-size=\"18\">{title}</text>");
    let shown =
        Purpose::ALL.into_iter().filter(|purpose| edges.values().any(|known| known.contains(purpose)));
    let mut y = 54.0;
    for purpose in shown {
        let count = edges.values().filter(|known| known.contains(&purpose)).count();
        let _ = writeln!(
            svg,
            "<line x1=\"20\" y1=\"{y}\" x2=\"50\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"3\"/>\
             <text x=\"58\" y=\"{y}\" dominant-baseline=\"central\">{} ({count})</text>",
            purpose.colour(),
            purpose.legend()
        );
        y += 20.0;
    }
    let mut dot = |colour: &str, what: &str| {
        let _ = writeln!(
            svg,
            "<circle cx=\"35\" cy=\"{y}\" r=\"6\" {colour}/>\
             <text x=\"58\" y=\"{y}\" dominant-baseline=\"central\">{what}</text>"
        );
        y += 20.0;
    };
    dot("fill=\"#e69f00\"", "the node that asks");
    if !crawl.silent.is_empty() {
        dot("fill=\"white\" stroke=\"#d00000\" stroke-width=\"2\"", "no answer");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{RingEdge, RingNode};
    use crate::control::fake;
    use crate::ctl::command::crawl::report::Silent;

    fn ring(count: u8) -> Vec<RingNode> {
        let mut nodes: Vec<RingNode> = (0..count).map(fake::ring_node).collect();
        nodes.sort_by_key(|node| node.node.address);
        let addresses: Vec<_> = nodes.iter().map(|node| node.node.address).collect();
        let count = nodes.len();
        for (at, node) in nodes.iter_mut().enumerate() {
            let edge = |offset: usize, role: &str| RingEdge {
                address: addresses[(at + offset) % count],
                roles: vec![role.to_owned()],
                their_roles: Vec::new(),
            };
            node.connections = vec![edge(1, "near"), edge(2, "near"), edge(count / 3, "far")];
        }
        nodes
    }

    #[test]
    fn each_node_and_each_connection_is_there_once() {
        for count in [3, 10, 200] {
            let crawl = Crawl::new(ring(count), Vec::new(), false);
            let svg = draw(&crawl);
            assert_eq!(svg.matches("<title>").count(), usize::from(count));
            assert_eq!(svg.matches("<path").count(), sorted(&edges(&crawl)).len());
            let has_labels = usize::from(count) <= LABELS_MAX;
            assert_eq!(svg.contains("rotate("), has_labels);
            for tag in ["svg", "text", "title"] {
                let opened = svg.matches(&format!("<{tag}")).count();
                assert_eq!(opened, svg.matches(&format!("</{tag}>")).count(), "{tag}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn labels_do_not_lie_on_one_another() {
        let mut labels: Vec<_> =
            (0..40).map(|at| (1.0 + f64::from(at % 7) / 1000.0, at.to_string(), "")).collect();
        spread(&mut labels);
        let gaps = labels.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.into_iter().all(|gap| gap > LABEL_APART.to_radians() / 2.0), "{labels:?}");
        let mut alone = vec![(1.0, String::new(), ""), (2.0, String::new(), "")];
        spread(&mut alone);
        assert_eq!((alone[0].0, alone[1].0), (1.0, 2.0));
    }

    #[test]
    fn a_connection_is_drawn_as_the_most_important_of_its_purposes() {
        let mut nodes = ring(20);
        let (own, other) = (nodes[0].node.address, nodes[10].node.address);
        let edge = |address, role: &str| RingEdge {
            address,
            roles: vec!["leaf".to_owned(), role.to_owned()],
            their_roles: Vec::new(),
        };
        nodes[0].connections.push(edge(other, "far"));
        nodes[10].connections.push(edge(own, "on-demand"));
        let crawl = Crawl::new(nodes, Vec::new(), false);
        let drawn = &edges(&crawl)[&(own.min(other), own.max(other))];
        assert_eq!(drawn, &BTreeSet::from([Purpose::Demand]));
        let svg = draw(&crawl);
        assert!(svg.contains("on demand: there is traffic (1)") && !svg.contains("ways into"), "{svg}");
    }

    #[test]
    fn neighbours_go_all_the_way_round() {
        let near = |count| draw(&Crawl::new(ring(count), Vec::new(), false)).matches("A350 350").count();
        assert_eq!((near(2), near(3), near(20)), (2, 3, 20));
        // From the last node below the top to the first above it, the long way where that is up the ring.
        let [high, low] = [[0x10; 20], [0xf0; 20]].map(|bytes| ipop_overlay::NodeAddress(bytes).into());
        assert!(arc(high, low).contains("0 1 1") && arc(low, high).contains("0 0 1"));
    }

    #[test]
    fn names_and_errors_are_text() {
        let mut nodes = ring(3);
        nodes[0].node = fake::node(1, Some("<b>&\"x\""));
        let silent = Silent { address: fake::key(77).node_address(), error: "a < b".to_owned() };
        let svg = draw(&Crawl::new(nodes, vec![silent], false));
        assert!(svg.contains("&lt;b&gt;&amp;&quot;x&quot;") && svg.contains("a &lt; b"), "{svg}");
        assert!(!svg.contains("<b>"));
        assert!(svg.contains("no answer</text>"));
    }
}
