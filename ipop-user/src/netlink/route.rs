//! Routes into our device, brought to a wanted set. Owns the routes that carry our protocol number
//! on that device, and no others; finds who else claims the same prefixes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::family;
use super::{Error, Netlink, Result};

/// The `RTPROT_` number of our routes: 117 is unassigned in rtnetlink.h, in iproute2's
/// rt_protos and in FRR. `ip route show proto 117` lists them.
pub const ROUTE_PROTOCOL: u8 = 117;

/// The metric of our routes. Not the default, so that replacing one never meets a route of the
/// same prefix that someone else has set: the kernel finds the route to replace by prefix and
/// metric alone.
pub const ROUTE_METRIC: u32 = 117;

const MAIN: u8 = RouteHeader::RT_TABLE_MAIN;

/// The table of the subnets behind other nodes: the host's own routes go before it. `ip route show table 117`.
pub const SUBNETS_TABLE: u8 = 117;

/// A route into our device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Network and prefix length; host bits are ignored.
    pub prefix: (IpAddr, u8),
    /// Largest IP packet in bytes, if less than the device's.
    pub mtu: Option<u32>,
    /// Source address for what this host originates; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
}

/// Somebody else's route to addresses that should go into our device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    pub wanted: (IpAddr, u8),
    pub existing: (IpAddr, u8),
    /// Our device.
    pub device: String,
    /// Where the existing route leads: a device, or `unreachable`, `blackhole`, ..
    pub other: String,
}

impl fmt::Display for RouteConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, existing, device, other } = self;
        write!(
            f,
            "cannot route {}/{} to {device}: {}/{} goes to {other} already: choose other virtual addresses or \
             remove that route",
            wanted.0, wanted.1, existing.0, existing.1
        )
    }
}

impl Netlink {
    /// Makes `wanted` the routes of ours on the device, in the main table: adds, replaces and
    /// removes as needed, and leaves alone what is right already and whatever is not ours.
    ///
    /// # Errors
    /// [`Error::RouteConflict`] if another device has a route to the same prefix or into it. Such a
    /// route is not added; all the others are seen to before the first error is returned.
    pub async fn sync_routes(&self, ifindex: u32, wanted: &[Route]) -> Result<()> {
        let table = self.table(MAIN).await?;
        let prefixes: Vec<_> = wanted.iter().map(|route| route.prefix).collect();
        let conflicts = self.conflicts_in(&table, ifindex, &prefixes).await;
        let mut plan = plan(&table, ifindex, wanted);
        plan.add.retain(|route| conflicts.iter().all(|conflict| conflict.wanted != route.prefix));
        let outcome = self.apply(ifindex, MAIN, plan).await;
        match conflicts.into_iter().next() {
            Some(conflict) => outcome.and(Err(Error::RouteConflict(conflict))),
            None => outcome,
        }
    }

    /// Makes `wanted` the routes of ours on the device in the table of subnets, which nobody else uses and which
    /// [`Self::sync_rules`] has the host look into.
    ///
    /// # Errors
    /// Why the kernel refuses one; all the others are seen to before.
    pub async fn sync_subnets(&self, ifindex: u32, wanted: &[Route]) -> Result<()> {
        let table = self.table(SUBNETS_TABLE).await?;
        self.apply(ifindex, SUBNETS_TABLE, plan(&table, ifindex, wanted)).await
    }

    /// The routes of other devices in the main table that lead to one of the prefixes or into it,
    /// so that packets would not reach our device. A prefix of length 0 conflicts with nothing:
    /// every other route is meant to be preferred to it.
    pub async fn route_conflicts(
        &self,
        ifindex: u32,
        prefixes: &[(IpAddr, u8)],
    ) -> Result<Vec<RouteConflict>> {
        let table = self.table(MAIN).await?;
        Ok(self.conflicts_in(&table, ifindex, prefixes).await)
    }

    async fn conflicts_in(
        &self,
        table: &[Entry],
        ifindex: u32,
        prefixes: &[(IpAddr, u8)],
    ) -> Vec<RouteConflict> {
        let mut conflicts = Vec::new();
        for (wanted, entry) in overlaps(table, ifindex, prefixes) {
            let other = match entry.ifindex {
                Some(other) => self.name_of(other).await,
                None => entry.kind.into(),
            };
            let device = self.name_of(ifindex).await;
            conflicts.push(RouteConflict { wanted, existing: entry.prefix, device, other });
        }
        conflicts
    }

    async fn apply(&self, ifindex: u32, table: u8, plan: Plan) -> Result<()> {
        let mut outcome = Ok(());
        for route in plan.remove {
            outcome = outcome.and(self.remove_route(ifindex, table, &route).await);
        }
        for route in plan.replace {
            outcome = outcome.and(self.put_route(ifindex, table, &route, NLM_F_REPLACE).await);
        }
        for route in plan.add {
            outcome = outcome.and(self.put_route(ifindex, table, &route, NLM_F_EXCL).await);
        }
        outcome
    }

    async fn put_route(&self, ifindex: u32, table: u8, route: &Route, flag: u16) -> Result<()> {
        let (address, len) = route.prefix;
        let message = RouteNetlinkMessage::NewRoute(message(ifindex, table, route));
        let action = |device: &str| format!("route {address}/{len} to {device}");
        self.request_for(ifindex, message, NLM_F_CREATE | flag, action).await.map(drop)
    }

    async fn remove_route(&self, ifindex: u32, table: u8, route: &Route) -> Result<()> {
        let message = RouteNetlinkMessage::DelRoute(message(ifindex, table, route));
        match self.request(message, 0).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.errno() == Some(libc::ESRCH) => Ok(()),
            Err(failure) => {
                let (address, len) = route.prefix;
                let action = |device: &str| format!("remove the route to {address}/{len} from {device}");
                Err(self.explain_for(ifindex, failure, action).await)
            }
        }
    }

    async fn table(&self, number: u8) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = number;
            match self.dump(RouteNetlinkMessage::GetRoute(request)).await {
                Ok(answer) => {
                    let routes = answer.iter().filter_map(new_route);
                    entries.extend(routes.filter_map(|route| Entry::parse(route, number)));
                }
                // No IPv6, or no table yet because it has had no route.
                Err(failure) if matches!(failure.errno(), Some(libc::EOPNOTSUPP | libc::ENOENT)) => {}
                Err(failure) => return Err(failure.explain("list the routes".into(), "any")),
            }
        }
        Ok(entries)
    }
}

/// A route as a table has it.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    prefix: (IpAddr, u8),
    /// The device; the first, if there are several; none for `unreachable` and the like.
    ifindex: Option<u32>,
    protocol: u8,
    metric: u32,
    mtu: Option<u32>,
    source: Option<IpAddr>,
    kind: &'static str,
}

impl Entry {
    fn parse(message: &RouteMessage, of_table: u8) -> Option<Self> {
        let header = &message.header;
        let mut entry = Self {
            prefix: (unspecified(header.address_family)?, header.destination_prefix_length),
            ifindex: None,
            protocol: header.protocol.into(),
            metric: 0,
            mtu: None,
            source: None,
            kind: kind(header.kind)?,
        };
        let mut table = u32::from(header.table);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => entry.prefix.0 = ip(address)?,
                RouteAttribute::Oif(ifindex) => entry.ifindex = Some(*ifindex),
                RouteAttribute::MultiPath(hops) => {
                    entry.ifindex = hops.first().map(|hop| hop.interface_index);
                }
                RouteAttribute::Priority(metric) => entry.metric = *metric,
                RouteAttribute::PrefSource(address) => entry.source = ip(address),
                RouteAttribute::Metrics(metrics) => entry.mtu = mtu(metrics),
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        (table == u32::from(of_table)).then_some(entry)
    }

    fn is_ours(&self, ifindex: u32) -> bool {
        self.ifindex == Some(ifindex) && self.protocol == ROUTE_PROTOCOL && self.metric == ROUTE_METRIC
    }

    fn route(&self) -> Route {
        Route { prefix: self.prefix, mtu: self.mtu, source: self.source }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    remove: Vec<Route>,
    replace: Vec<Route>,
    add: Vec<Route>,
}

fn plan(table: &[Entry], ifindex: u32, wanted: &[Route]) -> Plan {
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|route| (network(route.prefix), Route { prefix: network(route.prefix), ..*route }))
        .collect();
    let present: BTreeMap<_, _> = table
        .iter()
        .filter(|entry| entry.is_ours(ifindex))
        .map(|entry| (entry.prefix, entry.route()))
        .collect();
    let mut plan = Plan::default();
    for (prefix, route) in &wanted {
        match present.get(prefix) {
            Some(present) if present == route => {}
            Some(_) => plan.replace.push(*route),
            None => plan.add.push(*route),
        }
    }
    plan.remove = present
        .into_iter()
        .filter(|(prefix, _)| !wanted.contains_key(prefix))
        .map(|(_, route)| route)
        .collect();
    plan
}

/// Each prefix with the first foreign entry that takes traffic from it.
fn overlaps<'a>(
    table: &'a [Entry],
    ifindex: u32,
    prefixes: &'a [(IpAddr, u8)],
) -> impl Iterator<Item = ((IpAddr, u8), &'a Entry)> {
    prefixes.iter().filter_map(move |&prefix| {
        let foreign = |entry: &&Entry| entry.ifindex != Some(ifindex);
        let inside = |entry: &&Entry| prefix.1 > 0 && contains(prefix, entry.prefix);
        table.iter().filter(foreign).find(inside).map(|entry| (network(prefix), entry))
    })
}

/// Whether `inner` is `outer` or a part of it.
fn contains(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    inner.1 >= outer.1 && network((inner.0, outer.1)) == network(outer)
}

/// The prefix without its host bits.
fn network((address, len): (IpAddr, u8)) -> (IpAddr, u8) {
    let address = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(len.into())).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(len.into())).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    };
    (address, len)
}

fn message(ifindex: u32, table: u8, route: &Route) -> RouteMessage {
    let (address, len) = network(route.prefix);
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(address);
    header.destination_prefix_length = len;
    header.table = table;
    header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    header.kind = RouteType::Unicast;
    // IPv6 knows no scopes of routes and ignores it.
    header.scope = RouteScope::Link;
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(address.into()));
    attributes.push(RouteAttribute::Oif(ifindex));
    attributes.push(RouteAttribute::Priority(ROUTE_METRIC));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

pub(super) fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

pub(super) fn new_route(message: &RouteNetlinkMessage) -> Option<&RouteMessage> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    }
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
        _ => None,
    }
}

/// The kinds of route that decide where a unicast packet goes.
fn kind(kind: RouteType) -> Option<&'static str> {
    match kind {
        RouteType::Unicast => Some("unicast"),
        RouteType::BlackHole => Some("blackhole"),
        RouteType::Unreachable => Some("unreachable"),
        RouteType::Prohibit => Some("prohibit"),
        RouteType::Throw => Some("throw"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 7;
    const OTHER: u32 = 8;

    fn prefix(text: &str) -> (IpAddr, u8) {
        let (address, len) = text.split_once('/').unwrap();
        (address.parse().unwrap(), len.parse().unwrap())
    }

    fn route(text: &str) -> Route {
        Route { prefix: prefix(text), mtu: None, source: None }
    }

    fn entry(text: &str, ifindex: u32) -> Entry {
        Entry::parse(&message(ifindex, MAIN, &route(text)), MAIN).unwrap()
    }

    #[test]
    fn a_route_survives_its_message() {
        for wanted in [
            Route {
                prefix: prefix("10.1.0.0/16"),
                mtu: Some(1400),
                source: Some(IpAddr::from([10, 0, 0, 1])),
            },
            Route { prefix: prefix("fd00::/8"), mtu: None, source: None },
        ] {
            let entry = Entry::parse(&message(OURS, MAIN, &wanted), MAIN).unwrap();
            assert!(entry.is_ours(OURS) && !entry.is_ours(OTHER));
            assert_eq!(entry.route(), wanted);
        }
    }

    #[test]
    fn a_plan_changes_only_what_differs() {
        let table = [entry("10.1.0.0/16", OURS), entry("10.2.0.0/16", OURS), entry("10.3.0.0/16", OURS)];
        let larger = Route { mtu: Some(1300), ..route("10.2.0.0/16") };
        let plan = plan(&table, OURS, &[route("10.1.2.3/16"), larger, route("10.4.0.0/16")]);
        let expected = Plan {
            remove: vec![route("10.3.0.0/16")],
            replace: vec![larger],
            add: vec![route("10.4.0.0/16")],
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn routes_of_others_are_not_planned_for() {
        let mut foreign = entry("10.1.0.0/16", OURS);
        foreign.protocol = RouteProtocol::Kernel.into();
        let table = [foreign, entry("10.2.0.0/16", OTHER)];
        assert_eq!(plan(&table, OURS, &[]), Plan::default());
    }

    #[test]
    fn equal_and_more_specific_routes_elsewhere_conflict() {
        let conflict = |existing: &str, ifindex: u32, wanted: &str| {
            overlaps(&[entry(existing, ifindex)], OURS, &[prefix(wanted)]).next().is_some()
        };
        assert!(conflict("10.1.0.0/16", OTHER, "10.1.0.0/16"));
        assert!(conflict("10.1.2.0/24", OTHER, "10.1.0.1/16"));
        assert!(conflict("fd00:1::/64", OTHER, "fd00::/8"));
        assert!(!conflict("10.0.0.0/8", OTHER, "10.1.0.0/16"), "less specific");
        assert!(!conflict("10.2.0.0/16", OTHER, "10.1.0.0/16"), "elsewhere");
        assert!(!conflict("10.1.0.0/16", OURS, "10.1.0.0/16"), "our own");
        assert!(!conflict("10.1.0.0/16", OTHER, "0.0.0.0/0"), "everything is inside");
        assert!(!conflict("0.0.0.0/0", OTHER, "fd00::/8"), "another family");
    }

    #[test]
    fn networks_lose_their_host_bits_at_every_length() {
        for len in 0..=32_u8 {
            let (IpAddr::V4(v4), _) = network((IpAddr::from([255; 4]), len)) else {
                panic!("another family")
            };
            assert_eq!(v4.to_bits().count_ones(), u32::from(len));
        }
        for len in 0..=128_u8 {
            let (IpAddr::V6(v6), _) = network((IpAddr::from([255_u8; 16]), len)) else {
                panic!("another family")
            };
            assert_eq!(v6.to_bits().count_ones(), u32::from(len));
        }
    }

    #[test]
    fn other_tables_and_local_routes_are_not_in_the_main_table() {
        let mut local = message(OTHER, MAIN, &route("10.1.0.1/32"));
        local.header.kind = RouteType::Local;
        assert_eq!(Entry::parse(&local, MAIN), None);
        let mut table = message(OTHER, MAIN, &route("10.1.0.1/32"));
        table.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(Entry::parse(&table, MAIN), None);
    }
}
