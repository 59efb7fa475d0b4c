//! What other nodes see of this one, and what follows from it: whether a NAT is on the way, of which kind,
//! and where others may look for this node.
//!
//! Whoever has a connection to this node says from where its packets come. A single other may lie, which at
//! worst has a few handshake messages sent to where it says. What an operator configures, what a router has
//! given, and what servers say that are no members comes behind what members see, and takes nothing from it.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::wire::ENDPOINTS_MAX;

/// Ports that are tried where it can be told which a NAT will give out next.
pub(super) const PREDICTED: u16 = 8;
/// Of them, those before the one that is expected: not all that this node sends goes by way of the NAT.
const BEFORE: u16 = 2;
/// Ports that others behind the same NAT may have taken between two of this node's.
const SLACK: i64 = 16;
/// The longest step from one port to the next that is believed.
const STEP_MAX: u16 = 4;
/// Addresses of this node's own that come before all that others see.
const OWN_FIRST: usize = 2;
/// Outside addresses that are told: behind two NATs there are two, seen by those between them and by all others.
const OUTSIDE_MAX: usize = 3;
/// Places that are neither this node's own nor seen: those that are configured, and what a router has given.
pub const LENT_MAX: usize = 6;
/// Servers that are no members whose word is kept.
pub const SERVERS_MAX: usize = 4;
/// Where so many members have said how a node is seen, servers are not asked about the NAT.
const MEMBERS_ENOUGH: usize = 2;

/// What one other node sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Where it is.
    pub observer: SocketAddr,
    /// Where this node's packets come from.
    pub seen: SocketAddr,
    /// To how many places more this node has sent since it sent there first.
    pub flows_since: u32,
}

/// How this node's address is translated on the way to others (RFC 4787, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nobody has said anything yet.
    Unknown,
    /// Not at all: it is seen at an address of its own.
    None,
    /// It is, and one node alone has said how.
    Translated,
    /// To the same address and port for all.
    EndpointIndependent,
    /// To another port for each address, to the same one for all ports of it.
    AddressDependent(Ports),
    /// To another port for each address and port.
    AddressAndPortDependent(Ports),
}

/// Which ports a NAT gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The next is likely this one, and the others follow in such steps.
    Predictable { next: u16, step: u16 },
    /// None that can be told.
    Random,
}

impl Mapping {
    /// Whether others see different ports.
    pub const fn is_dependent(self) -> bool {
        matches!(self, Self::AddressDependent(_) | Self::AddressAndPortDependent(_))
    }

    /// The name by which operators see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::Translated => "translated",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent(Ports::Predictable { .. }) => "address-dependent, predictable",
            Self::AddressDependent(Ports::Random) => "address-dependent, random",
            Self::AddressAndPortDependent(Ports::Predictable { .. }) => {
                "address- and port-dependent, predictable"
            }
            Self::AddressAndPortDependent(Ports::Random) => "address- and port-dependent, random",
        }
    }
}

/// How packets of one family are translated. `own` are the addresses of this node itself.
pub(super) fn mapping(own: &[SocketAddr], observations: &[Observation]) -> Mapping {
    let Some(group) = outside(own, observations).into_iter().max_by_key(Vec::len) else {
        return if observations.is_empty() { Mapping::Unknown } else { Mapping::None };
    };
    let Some(first) = group.first() else { return Mapping::Unknown };
    if group.len() == 1 {
        return Mapping::Translated;
    }
    if group.iter().all(|other| other.seen == first.seen) {
        // Those at one address see the same, whatever the NAT does for others.
        let is_one_address = group.iter().all(|other| other.observer.ip() == first.observer.ip());
        return if is_one_address { Mapping::Translated } else { Mapping::EndpointIndependent };
    }
    let pairs =
        || group.iter().enumerate().flat_map(|(at, a)| group.iter().skip(at + 1).map(move |b| (a, b)));
    let mut same_address = pairs().filter(|(a, b)| a.observer.ip() == b.observer.ip()).peekable();
    let is_by_address = same_address.peek().is_some() && same_address.all(|(a, b)| a.seen == b.seen);
    let ports = ports(&group);
    if is_by_address { Mapping::AddressDependent(ports) } else { Mapping::AddressAndPortDependent(ports) }
}

/// Those that see this node at an address that is not its own, by that address.
fn outside(own: &[SocketAddr], observations: &[Observation]) -> Vec<Vec<Observation>> {
    let mut groups: Vec<Vec<Observation>> = Vec::new();
    for observation in observations.iter().filter(|observation| !own.contains(&observation.seen)) {
        let same = groups.iter_mut().find(|group| group.iter().any(|o| o.seen.ip() == observation.seen.ip()));
        match same {
            Some(group) => group.push(*observation),
            None => groups.push([*observation].to_vec()),
        }
    }
    groups
}

/// Whether the NAT gives its ports out in order: then they go up with the places that this node has sent to.
fn ports(group: &[Observation]) -> Ports {
    let mut in_order: Vec<&Observation> = group.iter().collect();
    in_order.sort_by_key(|observation| core::cmp::Reverse(observation.flows_since));
    let (Some(oldest), Some(newest)) = (in_order.first(), in_order.last()) else { return Ports::Random };
    let follows = |pair: &[&Observation]| match pair {
        [a, b] => {
            let step = i64::from(b.seen.port()) - i64::from(a.seen.port());
            let flows = i64::from(a.flows_since.wrapping_sub(b.flows_since));
            (-SLACK..=2 * flows + SLACK).contains(&step)
        }
        _ => true,
    };
    if !in_order.windows(2).all(follows) {
        return Ports::Random;
    }
    let mut seen: Vec<u16> = group.iter().map(|observation| observation.seen.port()).collect();
    seen.sort_unstable();
    let steps = seen.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| *step > 0);
    let step = steps.min().map_or(1, |step| step.min(STEP_MAX));
    // Not every place that is sent to takes a port: as many as did before.
    let flows = u64::from(oldest.flows_since.wrapping_sub(newest.flows_since));
    let taken = u64::from(newest.seen.port().saturating_sub(oldest.seen.port()));
    let since = u64::from(newest.flows_since);
    let taken_since = (since * taken).checked_div(flows).unwrap_or(since * u64::from(step));
    let reached = u64::from(newest.seen.port()) + taken_since;
    let next = u16::try_from(reached + u64::from(step)).unwrap_or(seen.first().copied().unwrap_or(1));
    Ports::Predictable { next, step }
}

/// All that is known of where a node may be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known<'a> {
    /// Addresses of its interfaces.
    pub(super) own: &'a [SocketAddr],
    /// Outside addresses that lead to it, as its operator or a router says.
    pub(super) lent: &'a [SocketAddr],
    /// What members see, the newest last.
    pub(super) members: &'a [Observation],
    /// What servers see that are no members, likewise.
    pub(super) servers: &'a [Observation],
}

impl Known<'_> {
    /// What is said of one family by those whose word counts: by the members, and by servers while too few
    /// members have said something.
    pub(super) fn heard(&self, is_v4: bool) -> Vec<Observation> {
        let mut heard = of_family(self.members, is_v4);
        if heard.len() < MEMBERS_ENOUGH {
            heard.extend(of_family(self.servers, is_v4));
            heard.sort_by_key(|observation| core::cmp::Reverse(observation.flows_since));
        }
        heard
    }
}

fn of_family(observations: &[Observation], is_v4: bool) -> Vec<Observation> {
    observations.iter().filter(|observation| observation.seen.is_ipv4() == is_v4).copied().collect()
}

/// Where others may look for this node: at addresses of its own, where members see it, and where it is likely to
/// be seen by who has not heard of it yet; then at what it was lent, and where servers see it.
pub(super) fn places(known: Known<'_>) -> Vec<SocketAddr> {
    let own = known.own;
    let mut places: Vec<SocketAddr> = own.get(..OWN_FIRST).unwrap_or(own).to_vec();
    for is_v4 in [true, false] {
        places.extend(mapped(own, &of_family(known.members, is_v4)));
    }
    places.extend(known.lent.iter().take(LENT_MAX));
    if !known.servers.is_empty() {
        for is_v4 in [true, false] {
            places.extend(mapped(own, &known.heard(is_v4)));
            places.extend(mapped(own, &of_family(known.servers, is_v4)));
        }
    }
    places.extend(own.iter().skip(OWN_FIRST));
    let mut unique: Vec<SocketAddr> = Vec::with_capacity(ENDPOINTS_MAX);
    for place in places {
        if !unique.contains(&place) && unique.len() < ENDPOINTS_MAX {
            unique.push(place);
        }
    }
    unique
}

/// Those outside a NAT, where there is one.
fn mapped(own: &[SocketAddr], observations: &[Observation]) -> Vec<SocketAddr> {
    let ip = |group: &Vec<Observation>| group.last().map(|observation| observation.seen.ip());
    let mut groups = outside(own, observations);
    // The one that most others see counts most.
    groups.sort_by_key(|group| core::cmp::Reverse(group.len()));
    let most: Option<IpAddr> = groups.first().and_then(ip);
    let mut places = Vec::new();
    match mapping(own, observations) {
        Mapping::AddressDependent(Ports::Predictable { next, step })
        | Mapping::AddressAndPortDependent(Ports::Predictable { next, step }) => {
            let first = next.wrapping_sub(step.wrapping_mul(BEFORE));
            let port = |index: u16| first.wrapping_add(step.wrapping_mul(index));
            let next = (0..PREDICTED).map(port).filter(|port| *port != 0);
            places.extend(
                most.into_iter().flat_map(|ip| next.clone().map(move |port| SocketAddr::new(ip, port))),
            );
            groups.truncate(1);
        }
        _ => {}
    }
    if places.is_empty() {
        let newest = groups.iter().filter_map(|group| group.last()).map(|observation| observation.seen);
        places.extend(newest.take(OUTSIDE_MAX));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    fn seen(list: &[(&str, &str)]) -> Vec<Observation> {
        let observation = |(observer, seen): &(&str, &str)| Observation {
            observer: place(observer),
            seen: place(seen),
            flows_since: 0,
        };
        list.iter().map(observation).collect()
    }

    fn own() -> Vec<SocketAddr> {
        ["10.0.0.5:15000", "[2001:db8::5]:15000"].map(place).to_vec()
    }

    fn places_of(own: &[SocketAddr], members: &[Observation]) -> Vec<SocketAddr> {
        places(Known { own, members, ..Known::default() })
    }

    fn infer(list: &[(&str, &str)]) -> Mapping {
        mapping(&own(), &seen(list))
    }

    #[test]
    fn what_others_see_tells_the_kind_of_nat() {
        assert_eq!(infer(&[]), Mapping::Unknown);
        assert_eq!(infer(&[("192.0.2.1:1", "10.0.0.5:15000")]), Mapping::None);
        assert_eq!(infer(&[("192.0.2.1:1", "198.51.100.1:15000")]), Mapping::Translated);
        let same = [("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.2:1", "198.51.100.1:7")];
        assert_eq!(infer(&same), Mapping::EndpointIndependent);
        let one_address = [("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.1:2", "198.51.100.1:7")];
        assert_eq!(infer(&one_address), Mapping::Translated);
        let by_address = [
            ("192.0.2.1:1", "198.51.100.1:700"),
            ("192.0.2.1:2", "198.51.100.1:700"),
            ("192.0.2.2:1", "198.51.100.1:9"),
        ];
        assert_eq!(infer(&by_address), Mapping::AddressDependent(Ports::Random));
        let by_port = [
            ("192.0.2.1:1", "198.51.100.1:700"),
            ("192.0.2.1:2", "198.51.100.1:55"),
            ("192.0.2.2:1", "198.51.100.1:9"),
        ];
        assert_eq!(infer(&by_port), Mapping::AddressAndPortDependent(Ports::Random));
        let in_order = [("192.0.2.1:1", "198.51.100.1:20"), ("192.0.2.2:1", "198.51.100.1:22")];
        assert_eq!(
            infer(&in_order),
            Mapping::AddressAndPortDependent(Ports::Predictable { next: 24, step: 2 })
        );
    }

    #[test]
    fn who_is_on_the_same_lan_says_nothing_of_the_nat() {
        let mixed = [
            ("10.0.0.6:15000", "10.0.0.5:15000"),
            ("192.0.2.1:1", "198.51.100.1:7"),
            ("192.0.2.2:1", "198.51.100.1:7"),
        ];
        assert_eq!(infer(&mixed), Mapping::EndpointIndependent);
    }

    #[test]
    fn one_liar_does_not_make_a_nat_another() {
        let lied = [
            ("192.0.2.1:1", "198.51.100.1:7"),
            ("192.0.2.2:1", "198.51.100.1:7"),
            ("192.0.2.3:1", "203.0.113.9:53"),
        ];
        assert_eq!(infer(&lied), Mapping::EndpointIndependent);
        let told = places_of(&own(), &seen(&lied));
        assert_eq!(told[2], place("198.51.100.1:7"), "{told:?}");
    }

    #[test]
    fn places_are_those_that_others_may_find_it_at() {
        assert_eq!(places_of(&own(), &[]), own());
        let same = seen(&[("192.0.2.1:1", "198.51.100.1:7"), ("192.0.2.2:1", "198.51.100.1:7")]);
        assert_eq!(places_of(&own(), &same), [own(), [place("198.51.100.1:7")].to_vec()].concat());
        let in_order = seen(&[("192.0.2.1:1", "198.51.100.1:20"), ("192.0.2.2:1", "198.51.100.1:21")]);
        let told = places_of(&own(), &in_order);
        let next = (22 - BEFORE..22 - BEFORE + PREDICTED)
            .map(|port| SocketAddr::new(place("198.51.100.1:1").ip(), port));
        assert_eq!(told, own().into_iter().chain(next).collect::<Vec<_>>());
        let random = seen(&[("192.0.2.1:1", "198.51.100.1:700"), ("192.0.2.2:1", "198.51.100.1:50")]);
        assert_eq!(places_of(&own(), &random), [own(), [place("198.51.100.1:50")].to_vec()].concat());
    }

    #[test]
    fn never_more_places_than_a_message_holds() {
        let own: Vec<SocketAddr> =
            (0..20).map(|number| SocketAddr::new([10, 0, 0, number].into(), 1)).collect();
        let lies: Vec<Observation> = (0..200u8)
            .map(|number| Observation {
                observer: SocketAddr::new([192, 0, 2, number].into(), 1),
                seen: SocketAddr::new([203, 0, number, 1].into(), 7),
                flows_since: 0,
            })
            .collect();
        let told = places_of(&own, &lies);
        assert_eq!(told.len(), ENDPOINTS_MAX);
        assert!(told.iter().filter(|place| !own.contains(place)).count() <= OUTSIDE_MAX);
    }

    #[test]
    fn what_was_lent_comes_behind_what_members_see() {
        let members = seen(&[("192.0.2.1:1", "198.51.100.1:20"), ("192.0.2.2:1", "198.51.100.1:21")]);
        let lent: Vec<SocketAddr> =
            (1..=20).map(|port| SocketAddr::new([203, 0, 113, 1].into(), port)).collect();
        let own: Vec<SocketAddr> =
            (0..20).map(|number| SocketAddr::new([10, 0, 0, number].into(), 1)).collect();
        let without = places_of(&own, &members);
        let with = places(Known { own: &own, lent: &lent, members: &members, ..Known::default() });
        let seen_at = OWN_FIRST + usize::from(PREDICTED);
        assert_eq!(with[..seen_at], without[..seen_at]);
        assert_eq!(with[seen_at..], lent[..ENDPOINTS_MAX - seen_at]);
        let unseen = places(Known { own: &own[..1], lent: &lent, ..Known::default() });
        assert_eq!(unseen, [&own[..1], &lent[..LENT_MAX]].concat());
    }

    #[test]
    fn servers_displace_nothing_that_members_see() {
        let own = own();
        for members in [
            seen(&[("192.0.2.1:1", "198.51.100.1:700")]),
            seen(&[("192.0.2.1:1", "198.51.100.1:700"), ("192.0.2.2:1", "198.51.100.1:50")]),
            seen(&[("192.0.2.1:1", "198.51.100.1:20"), ("192.0.2.2:1", "198.51.100.1:21")]),
        ] {
            let lies: Vec<Observation> = (0..4u8)
                .map(|number| Observation {
                    observer: SocketAddr::new([203, 0, 113, number].into(), 3478),
                    seen: SocketAddr::new([198, 51, 100, number % 2].into(), 40_000 + u16::from(number)),
                    flows_since: 0,
                })
                .collect();
            let known = Known { own: &own, members: &members, servers: &lies, ..Known::default() };
            let honest = places_of(&own, &members);
            assert_eq!(places(known)[..honest.len()], honest);
            assert_eq!(places(known).len().min(ENDPOINTS_MAX), places(known).len());
            if members.len() >= MEMBERS_ENOUGH {
                assert_eq!(mapping(&own, &known.heard(true)), mapping(&own, &members));
            }
        }
    }

    #[test]
    fn a_server_tells_what_one_member_cannot() {
        let own = own();
        let members = seen(&[("192.0.2.1:1", "198.51.100.1:7")]);
        let known = |servers| Known { own: &own, members: &members, servers, ..Known::default() };
        assert_eq!(mapping(&own, &known(&[]).heard(true)), Mapping::Translated);
        let same = seen(&[("203.0.113.9:3478", "198.51.100.1:7")]);
        assert_eq!(mapping(&own, &known(&same).heard(true)), Mapping::EndpointIndependent);
        let other = seen(&[("203.0.113.9:3478", "198.51.100.1:9000")]);
        assert!(mapping(&own, &known(&other).heard(true)).is_dependent());
        assert_eq!(places(known(&other)).last(), Some(&other[0].seen));
    }
}
