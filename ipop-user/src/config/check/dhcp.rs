//! `[dhcp]`: the addresses of the network, and the one that this node wants.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use ipop_overlay::NodeAddress;
use ipop_overlay::dhcp::{Pool, PoolError, RESERVED_MAX, STATELESS_BITS};
use toml::Spanned;

use super::{Checker, unfit_for_a_host};
use crate::config::raw::{RawAddresses, RawDhcp, Text};
use crate::config::{Config, Dhcp, Prefix, defaults};
use crate::key;

const WRITE_POOL: &str = "write the network, like \"10.128.0.0/16\" or \"fd00:128::/112\"";

pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: Option<&Spanned<RawDhcp>>,
    addresses: &Spanned<RawAddresses>,
) -> Option<Option<Dhcp>> {
    let is_wanted = matches!(addresses.get_ref(), RawAddresses::Dhcp);
    let Some(raw) = raw else { return Some(is_wanted.then(Dhcp::default)) };
    if !is_wanted {
        return checker.error(
            raw.span(),
            "[dhcp] is for nodes without addresses of their own, and `network.addresses` lists some",
            "write `addresses = \"dhcp\"` (and `address = ...` here for a fixed one), or take [dhcp] out",
        );
    }
    let raw = raw.get_ref();
    let address = match &raw.address {
        Some(text) => Some(address(checker, text)?),
        None => None,
    };
    let Some(pool) = &raw.pool else {
        let first = raw.reserved.keys().map(Spanned::span).next();
        let lone = raw.ipv6.as_ref().map(Spanned::span).or(raw.lease_s.as_ref().map(Spanned::span)).or(first);
        return match lone {
            Some(span) => checker.error(
                span,
                "this is said of a pool, and [dhcp] has none",
                "add `pool = ...`, or leave it to the node that describes the network",
            ),
            None => Some(Some(Dhcp { pool: None, address })),
        };
    };
    let pool = self::pool(checker, pool, raw)?;
    if let Some(wanted) = address.filter(|address| !pool.contains(*address)) {
        let span = raw.address.as_ref().map(Spanned::span).unwrap_or_default();
        let reason = format!("`{wanted}` is not an address of the pool");
        return checker.error(span, reason, "write one of the pool, or none");
    }
    Some(Some(Dhcp { pool: Some(pool), address }))
}

/// Leases are in the overlay.
pub(super) fn check_overlay(checker: &mut Checker<'_>, span: Range<usize>, config: &Config) -> Option<()> {
    if config.dhcp.is_none() || config.has_overlay() {
        return Some(());
    }
    checker.error(
        span,
        "addresses = \"dhcp\" needs the overlay, and this node takes no part in it",
        "add `network.secret`, and `underlay.bootstrap` if there are [[peer]]s (`bootstrap = []` on the first node)",
    )
}

fn pool(checker: &mut Checker<'_>, text: &Text, raw: &RawDhcp) -> Option<Pool> {
    let prefix = checker.prefix(text)?;
    if prefix.has_host_bits() {
        let reason = format!("`{prefix}` is an address in a network, and a pool is a network");
        return checker.error(text.span(), reason, format!("write {}", prefix.network()));
    }
    if let Some(what) = unfit_for_a_host(prefix.addr()) {
        return checker.error(text.span(), format!("`{prefix}` {what}"), WRITE_POOL);
    }
    let lease = raw.lease_s.as_ref();
    let lease_s = lease.map_or(i64::from(defaults::LEASE_S), |lease| *lease.get_ref());
    let reserved = reserved(checker, &raw.reserved)?;
    let lease_s = u32::try_from(lease_s).unwrap_or(0);
    let pool = match Pool::new(prefix.addr(), prefix.len(), lease_s, reserved) {
        Ok(pool) => pool,
        Err(PoolError::Prefix | PoolError::Stateless) => {
            return checker.error(text.span(), format!("`{prefix}` has no addresses to lease"), WRITE_POOL);
        }
        Err(PoolError::Lease) => {
            let span = lease.map(Spanned::span).unwrap_or_default();
            return checker.error(span, "a lease lasts from 60 to 86400 seconds", "write `lease_s = 3600`");
        }
        Err(PoolError::Reserved) => {
            let span = raw.reserved.keys().map(Spanned::span).next().unwrap_or_default();
            return checker.error(
                span,
                format!("`dhcp.reserved` has addresses that are not the pool's, or more than {RESERVED_MAX}"),
                "reserve hosts of the pool, each once",
            );
        }
    };
    match &raw.ipv6 {
        Some(text) => stateless(checker, text, pool),
        None => Some(pool),
    }
}

fn stateless(checker: &mut Checker<'_>, text: &Text, pool: Pool) -> Option<Pool> {
    let prefix = checker.prefix(text)?;
    let network = match prefix.addr() {
        IpAddr::V6(network) if !prefix.has_host_bits() && unfit_for_a_host(prefix.addr()).is_none() => {
            pool.with_stateless(network, prefix.len()).ok()
        }
        _ => None,
    };
    network.or_else(|| {
        checker.error(
            text.span(),
            format!("`{prefix}` is not an IPv6 network of {STATELESS_BITS} bits beside the pool"),
            "write one like \"fd00:128::/64\"",
        )
    })
}

fn reserved(checker: &mut Checker<'_>, raw: &BTreeMap<Text, Text>) -> Option<Vec<(IpAddr, NodeAddress)>> {
    let mut reserved = Vec::with_capacity(raw.len());
    for (text, node) in raw {
        let address = address(checker, text)?;
        match node.get_ref().parse::<key::NodeAddress>() {
            Ok(node) => reserved.push((address, node.on_ring())),
            Err(_) => {
                let reason = format!("`{}` is not the address of a node", node.get_ref());
                let advice = "write it as `ipopctl status` shows it on that node, like ipop:...";
                return checker.error(node.span(), reason, advice);
            }
        }
    }
    Some(reserved)
}

fn address(checker: &mut Checker<'_>, text: &Text) -> Option<IpAddr> {
    let prefix: Prefix = checker.prefix(text)?;
    if !prefix.is_host() {
        let reason = format!("`{prefix}` is a network, and an address is wanted");
        return checker.error(text.span(), reason, "write it without a length");
    }
    match unfit_for_a_host(prefix.addr()) {
        Some(what) => checker.error(text.span(), format!("`{}` {what}", prefix.addr()), "write a host's"),
        None => Some(prefix.addr()),
    }
}
