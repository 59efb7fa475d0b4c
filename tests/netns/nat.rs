//! Hosts behind NATs and firewalls of every kind, made of nftables: who is reached, how, and how soon.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::lab::boxes::{Kind, Options};
use crate::lab::internet::{Families, Internet};
use crate::lab::{Host, SOON, run, within};
use crate::roaming::is_survived;

/// For all pairs of a matrix to be on the path that they stay on: a way that was not found at first is looked
/// for again after 20 s.
const PATIENCE: Duration = Duration::from_secs(100);

/// What a host is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// Nothing, but it has IPv6 alone.
    NothingV6,
    Box(Kind),
    /// A port-restricted box behind another one.
    Two,
    /// The box of the host before it, and they do not see each other on the inside.
    Same,
}

impl Behind {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "public",
            Self::NothingV6 => "IPv6 only",
            Self::Box(Kind::FullCone) => "full cone",
            Self::Box(Kind::Restricted) => "restricted",
            Self::Box(Kind::PortRestricted) => "port-restr.",
            Self::Box(Kind::Masquerade) => "masquerade",
            Self::Box(Kind::SymmetricPredictable) => "symm. pred.",
            Self::Box(Kind::SymmetricRandom) => "symm. rand.",
            Self::Box(Kind::OutgoingOnly) => "outgoing",
            Self::Box(Kind::UdpBlocked) => "no UDP",
            Self::Two => "two boxes",
            Self::Same => "same box",
        }
    }

    /// What others have to know of the port that it sends from, and it of theirs.
    fn ports(self) -> Ports {
        match self {
            Self::Nothing | Self::NothingV6 | Self::Box(Kind::FullCone) => Ports::Open,
            Self::Box(Kind::Restricted) => Ports::OfKnownAddresses,
            Self::Box(Kind::PortRestricted | Kind::Masquerade | Kind::OutgoingOnly)
            | Self::Two
            | Self::Same => Ports::Known,
            Self::Box(Kind::SymmetricPredictable) => Ports::Predictable,
            Self::Box(Kind::SymmetricRandom) => Ports::Unknown,
            Self::Box(Kind::UdpBlocked) => Ports::None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    /// Anybody may send to the one port that it has.
    Open,
    /// Those may that it has sent to, from any port.
    OfKnownAddresses,
    /// Those ports may that it has sent to.
    Known,
    /// Likewise, and each sees the next port.
    Predictable,
    /// Likewise, and each sees another port that nobody can tell.
    Unknown,
    /// There is no UDP.
    None,
}

/// What theory says about a direct path between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theory {
    Direct,
    /// It depends on what else the boxes have to do.
    Perhaps,
    Relay,
}

/// The table of docs/nat.md.
fn theory(a: Behind, b: Behind) -> Theory {
    let v6 = [a, b].map(|host| host == Behind::NothingV6);
    let has_v6 = [a, b].map(|host| matches!(host, Behind::NothingV6 | Behind::Nothing));
    if v6[0] && !has_v6[1] || v6[1] && !has_v6[0] {
        return Theory::Relay;
    }
    match (a.ports(), b.ports()) {
        // By TCP, which nothing but a public host takes in.
        (Ports::None, _) if b == Behind::Nothing => Theory::Direct,
        (_, Ports::None) if a == Behind::Nothing => Theory::Direct,
        (Ports::None, _) | (_, Ports::None) => Theory::Relay,
        (Ports::Open, _) | (_, Ports::Open) => Theory::Direct,
        (Ports::OfKnownAddresses, _) | (_, Ports::OfKnownAddresses) => Theory::Direct,
        (Ports::Known, Ports::Known) => Theory::Direct,
        (Ports::Known | Ports::Predictable, Ports::Known | Ports::Predictable) => Theory::Perhaps,
        (Ports::Unknown, _) | (_, Ports::Unknown) => Theory::Relay,
    }
}

/// How it went with one pair.
#[derive(Clone, Debug)]
struct Pair {
    ends: [usize; 2],
    theory: Theory,
    first: Option<Duration>,
    path: String,
    settled: Option<Duration>,
}

impl Pair {
    fn is_as_it_should(&self) -> bool {
        match self.theory {
            Theory::Direct => self.path.starts_with("direct"),
            Theory::Perhaps | Theory::Relay => {
                self.path.starts_with("direct") || self.path.starts_with("relay")
            }
        }
    }
}

fn internet(hosts: &[Behind]) -> Internet {
    let mut net = Internet::new();
    for (index, behind) in hosts.iter().enumerate() {
        match behind {
            // The first host is there already.
            Behind::Nothing if index == 0 => {}
            Behind::Nothing => {
                net.public(Families::Both);
            }
            Behind::NothingV6 => {
                net.public(Families::V6);
            }
            Behind::Box(kind) => {
                let isolated = hosts.get(index + 1) == Some(&Behind::Same);
                net.behind_with(*kind, Options { hairpin: isolated, isolated, ..Options::default() });
            }
            Behind::Two => {
                net.double(Kind::PortRestricted, Kind::PortRestricted);
            }
            Behind::Same => {
                net.behind_same(index - 1);
            }
        }
    }
    net.up()
}

/// The path of a pair as its first host has it.
fn path(net: &Internet, [from, to]: [usize; 2]) -> String {
    let address = format!("\"{}\"", net.hosts[to].inner_v4);
    let peers = net.hosts[from].ask("/v1/peers");
    let mut peers = peers.as_array().into_iter().flatten();
    let peer = peers.find(|peer| peer["virtual_ips"].to_string().contains(&address));
    peer.and_then(|peer| peer["path"].as_str()).unwrap_or("none").to_owned()
}

fn answers(net: &Internet, [from, to]: [usize; 2], patience: u64) -> bool {
    let (to, patience) = (net.hosts[to].inner_v4.to_string(), patience.to_string());
    net.hosts[from].ns.output("ping", &["-n", "-c", "1", "-W", &patience, &to]).status.success()
}

/// Each host sends to each other one; until all are reached as theory says, or patience is over.
fn matrix(net: &Internet, hosts: &[Behind]) -> Vec<Pair> {
    let all = (0..hosts.len()).flat_map(|a| (a + 1..hosts.len()).map(move |b| [a, b]));
    let mut pairs: Vec<Pair> = all
        .map(|ends| Pair {
            ends,
            theory: theory(hosts[ends[0]], hosts[ends[1]]),
            first: None,
            path: String::new(),
            settled: None,
        })
        .collect();
    for pair in &mut pairs {
        let begin = Instant::now();
        pair.first = answers(net, pair.ends, 10).then(|| begin.elapsed());
        // Without traffic nobody looks for a better path.
        let settled = within(Duration::from_secs(5), || {
            answers(net, pair.ends, 1);
            pair.path = path(net, pair.ends);
            pair.is_as_it_should().then_some(())
        });
        pair.settled = settled.map(|()| begin.elapsed());
    }
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE && pairs.iter().any(|pair| !pair.is_as_it_should()) {
        for pair in pairs.iter_mut().filter(|pair| !pair.is_as_it_should()) {
            if answers(net, pair.ends, 1) {
                pair.first.get_or_insert(begin.elapsed());
            }
            pair.path = path(net, pair.ends);
        }
    }
    pairs
}

/// The matrix as a person reads it, and the times.
fn table(hosts: &[Behind], pairs: &[Pair]) -> String {
    let mut text = format!("{:12}", "");
    hosts.iter().for_each(|host| write!(text, "{:>12}", host.name()).expect("text"));
    for (a, host) in hosts.iter().enumerate() {
        write!(text, "\n{:12}", host.name()).expect("text");
        for b in 0..hosts.len() {
            let pair = pairs.iter().find(|pair| pair.ends == [a.min(b), a.max(b)]);
            let cell = pair.map_or(String::new(), |pair| {
                let path = pair.path.replace("direct-", "");
                if pair.is_as_it_should() { path } else { format!("{path}!") }
            });
            write!(text, "{cell:>12}").expect("text");
        }
    }
    let median = |of: &dyn Fn(&Pair) -> Option<Duration>| {
        let mut times: Vec<Duration> = pairs.iter().map(|pair| of(pair).unwrap_or(Duration::MAX)).collect();
        times.sort();
        times[times.len() / 2]
    };
    let direct = pairs.iter().filter(|pair| pair.path.starts_with("direct")).count();
    let first = median(&|pair| pair.first);
    let settled = median(&|pair| pair.settled);
    write!(
        text,
        "\n\n{} pairs, {direct} direct; median time to the first answer {first:.0?}, to the path of theory {settled:.0?}\n\
         kernel, user: a direct path; !: not what theory says\n",
        pairs.len()
    )
    .expect("text");
    text
}

#[test]
fn every_pair_is_connected_and_direct_where_that_is_possible() {
    run(|| {
        let hosts = [
            Behind::Nothing,
            Behind::Box(Kind::FullCone),
            Behind::Box(Kind::Restricted),
            Behind::Box(Kind::PortRestricted),
            Behind::Same,
            Behind::Box(Kind::Masquerade),
            Behind::Box(Kind::SymmetricPredictable),
            Behind::Box(Kind::SymmetricRandom),
            Behind::Box(Kind::SymmetricRandom),
            Behind::Box(Kind::OutgoingOnly),
            Behind::Two,
            Behind::NothingV6,
            Behind::Box(Kind::UdpBlocked),
        ];
        let net = internet(&hosts);
        let pairs = matrix(&net, &hosts);
        let text = table(&hosts, &pairs);
        if let Some(file) = std::env::var_os("IPOP_NAT_MATRIX") {
            std::fs::write(file, &text).expect("the matrix is written");
        }
        assert!(pairs.iter().all(|pair| pair.first.is_some()), "not all are connected\n{text}");
        assert!(pairs.iter().all(Pair::is_as_it_should), "not as theory says\n{text}");
    });
}

/// Two hosts that have never met are reached within seconds of their start.
#[test]
fn what_is_behind_two_boxes_is_found_at_once() {
    run(|| {
        let mut net = Internet::new();
        let a = net.behind(Kind::PortRestricted);
        let b = net.behind(Kind::Masquerade);
        let net = net.up();
        net.wait_for_path(a, b, "direct-kernel", SOON);
        // A few flows each: what both ends tried, and the way in.
        for host in [a, b] {
            let flows = net.gate(host).flows();
            assert!(flows <= 16, "{flows} flows of one attempt");
        }
    });
}

#[test]
fn who_has_another_family_is_reached_by_who_has_both() {
    run(|| {
        let mut net = Internet::new();
        let (v4, v6) = (net.behind(Kind::FullCone), net.public(Families::V6));
        let net = net.up();
        net.wait_for_path(v4, v6, "relay", SOON);
        net.wait_for_path(v6, v4, "relay", SOON);
    });
}

#[test]
fn a_relay_that_dies_is_replaced_by_another() {
    run(|| {
        let mut net = Internet::new();
        let other = net.public(Families::Both);
        let a = net.behind(Kind::SymmetricRandom);
        let b = net.behind(Kind::SymmetricRandom);
        let mut net = net.up();
        net.wait_for_path(a, b, "relay", SOON);
        let relay = relay_of(&net, a, b);
        assert!([0, other].contains(&relay), "host {relay} relays");
        is_survived(&mut net, [a, b], "a relay dies", |net| {
            // A dead daemon's kernel path would go on.
            let host = &net.hosts[relay];
            host.ns.ip(&format!("link set {} down", host.device));
        });
        assert_ne!(relay_of(&net, a, b), relay);
    });
}

/// The host that relays between two others.
fn relay_of(net: &Internet, from: usize, to: usize) -> usize {
    let address = format!("\"{}\"", net.hosts[to].inner_v4);
    let peers = net.hosts[from].ask("/v1/peers");
    let mut peers = peers.as_array().into_iter().flatten();
    let peer = peers.find(|peer| peer["virtual_ips"].to_string().contains(&address)).expect("a peer");
    let endpoint = peer["endpoint"].as_str().expect("an endpoint");
    let is_it = |host: &Host| {
        host.daemon.is_some() && host.config.name != net.hosts[from].config.name && {
            let address = host.ask("/v1/status")["address"].as_str().expect("an address").to_owned();
            endpoint.contains(&address)
        }
    };
    net.hosts.iter().position(is_it).unwrap_or_else(|| panic!("nobody known is at {endpoint}"))
}
