//! `[dns]`: who is asked for other names, and hosts that are no peers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::{Checker, WRITE_NAME, unfit_for_a_host};
use crate::config::raw::{RawDns, RawPeer, Text};
use crate::config::{
    Config, DNS_ADDRESSES_MAX, DNS_HOSTS_MAX, DNS_SERVICES_MAX, Dns, FORWARD_MAX, defaults, is_domain,
    is_name,
};
use crate::dns::is_service;

/// Of a server in `dns.forward` that is written without one.
const PORT: u16 = 53;

pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: &RawDns,
    own_name: &Text,
    peers: &[Spanned<RawPeer>],
) -> Option<Dns> {
    let errors_before = checker.errors.len();
    if let Some(first_over) = raw.forward.get(FORWARD_MAX) {
        let reason = format!("more than {FORWARD_MAX} servers in `dns.forward`");
        checker.error::<()>(first_over.span(), reason, "take some out");
    }
    let forward = raw.forward.iter().filter_map(|text| server(checker, text)).collect();
    let names = std::iter::once(own_name).chain(peers.iter().map(|peer| &peer.get_ref().name));
    let taken: BTreeMap<String, usize> =
        names.map(|name| (name.get_ref().to_ascii_lowercase(), checker.source.line(&name.span()))).collect();
    let hosts = hosts(checker, &raw.hosts, &taken);
    let services = services(checker, &raw.services);
    (checker.errors.len() == errors_before).then_some(Dns {
        enabled: raw.enabled.unwrap_or(defaults::DNS),
        resolver: raw.resolver,
        forward,
        serve: raw.serve,
        search: raw.search,
        hosts,
        services,
    })
}

fn server(checker: &mut Checker<'_>, text: &Text) -> Option<SocketAddr> {
    let written = text.get_ref();
    let address = written.parse().ok().or_else(|| Some(SocketAddr::new(written.parse().ok()?, PORT)));
    match address {
        Some(address) if address.port() != 0 && unfit_for_a_server(address.ip()).is_none() => Some(address),
        Some(address) if address.port() != 0 => {
            let what = unfit_for_a_server(address.ip()).unwrap_or_default();
            let reason = format!("`{}` {what}", address.ip());
            checker.error(text.span(), reason, "list DNS servers that this host reaches")
        }
        _ => checker.error(
            text.span(),
            format!("`{written}` is not the address of a DNS server"),
            "write one like 192.0.2.53, or 192.0.2.53:5353",
        ),
    }
}

/// A server may well be on this host.
fn unfit_for_a_server(ip: IpAddr) -> Option<&'static str> {
    unfit_for_a_host(ip).filter(|_| !ip.is_loopback())
}

fn hosts(
    checker: &mut Checker<'_>,
    raw: &BTreeMap<Text, Spanned<Vec<Text>>>,
    taken: &BTreeMap<String, usize>,
) -> BTreeMap<String, Vec<IpAddr>> {
    let mut hosts = BTreeMap::new();
    for (name, addresses) in raw {
        if hosts.len() == DNS_HOSTS_MAX {
            let reason = format!("more than {DNS_HOSTS_MAX} names in `dns.hosts`");
            checker.error::<()>(name.span(), reason, "take some out");
            break;
        }
        let written = name.get_ref();
        let key = written.to_ascii_lowercase();
        if !is_name(written) || !is_domain(written) {
            let reason = format!("`{written}` cannot be a name in `dns.hosts`");
            checker.error::<()>(name.span(), reason, WRITE_NAME);
        } else if let Some(line) = taken.get(&key) {
            let reason = format!("`{written}` is the name of the node in line {line}");
            checker.error::<()>(
                name.span(),
                reason,
                "it has that node's addresses: take it out, or rename it",
            );
        } else {
            match hosts.entry(key) {
                Entry::Occupied(_) => {
                    let reason = format!("`{written}` is there twice: the DNS knows no upper case");
                    checker.error::<()>(name.span(), reason, "put its addresses into one list");
                }
                Entry::Vacant(place) => {
                    if let Some(addresses) = host_addresses(checker, addresses) {
                        place.insert(addresses);
                    }
                }
            }
        }
    }
    hosts
}

fn host_addresses(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<IpAddr>> {
    let count = list.get_ref().len();
    if count == 0 || count > DNS_ADDRESSES_MAX {
        let reason = format!("a name in `dns.hosts` has between 1 and {DNS_ADDRESSES_MAX} addresses");
        return checker.error(list.span(), reason, "list them, like [\"10.128.0.9\"]");
    }
    let addresses: Vec<IpAddr> =
        list.get_ref().iter().filter_map(|text| host_address(checker, text)).collect();
    (addresses.len() == count).then_some(addresses)
}

fn host_address(checker: &mut Checker<'_>, text: &Text) -> Option<IpAddr> {
    match text.get_ref().parse::<IpAddr>() {
        Ok(ip) => match unfit_for_a_host(ip) {
            None => Some(ip),
            Some(what) => checker.error(text.span(), format!("`{ip}` {what}"), "list addresses of that host"),
        },
        Err(_) => checker.error(
            text.span(),
            format!("`{}` is not an address", text.get_ref()),
            "write it like 10.128.0.9 or fd00:128::9",
        ),
    }
}

fn services(checker: &mut Checker<'_>, raw: &BTreeMap<Text, Spanned<i64>>) -> BTreeMap<String, u16> {
    let mut services = BTreeMap::new();
    for (name, port) in raw {
        let written = name.get_ref();
        let valid = u16::try_from(*port.get_ref()).ok().filter(|port| *port != 0);
        if services.len() == DNS_SERVICES_MAX {
            let reason = format!("more than {DNS_SERVICES_MAX} services in `dns.services`");
            checker.error::<()>(name.span(), reason, "take some out");
            break;
        } else if !is_name(written) || !is_service(written) {
            let reason = format!("`{written}` cannot be a service in `dns.services`");
            checker.error::<()>(name.span(), reason, "write it like \"_http._tcp\"");
        } else if let Some(port) = valid {
            if services.insert(written.to_ascii_lowercase(), port).is_some() {
                let reason = format!("`{written}` is there twice: the DNS knows no upper case");
                checker.error::<()>(name.span(), reason, "take one of them out");
            }
        } else {
            let reason = format!("{} is not a port", port.get_ref());
            checker.error::<()>(port.span(), reason, "write the port of the service, 1 to 65535");
        }
    }
    services
}

/// Names that are fine for everything but the DNS.
pub(super) fn warn(checker: &mut Checker<'_>, raw: &[Spanned<RawPeer>], config: &Config) {
    if !config.dns.enabled {
        return;
    }
    let mut seen = BTreeMap::from([(config.node.name.to_ascii_lowercase(), &config.node.name)]);
    for (peer, raw) in config.peers.iter().zip(raw) {
        let span = raw.get_ref().name.span();
        if !is_domain(&peer.name) {
            let reason = format!("peer name `{}` cannot be a name in the DNS", peer.name);
            checker.warn(span, reason, "write no `.` at its ends and no two together");
        } else if let Some(other) = seen.insert(peer.name.to_ascii_lowercase(), &peer.name) {
            let reason = format!("peer name `{}` is the same in the DNS as `{other}`", peer.name);
            checker.warn(
                span,
                reason,
                "give it another: the DNS knows no upper case, and the first has the name",
            );
        }
    }
}
