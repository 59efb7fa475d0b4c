//! `[routing]`: the subnets that this node forwards to, and those of others that it takes.

use ipop_overlay::NodeAddress;
use ipop_overlay::routes::{SUBNETS_MAX, Subnet};
use toml::Spanned;

use super::Checker;
use crate::config::raw::{RawAccept, RawNetwork, RawPeer, RawRouting, RawUnderlay, Text};
use crate::config::{ACCEPT_FROM_MAX, ACCEPT_MAX, Accept, Prefix, Routing, defaults};

pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: &RawRouting,
    own: &[Prefix],
    peers: &[Spanned<RawPeer>],
) -> Option<Routing> {
    let errors_before = checker.errors.len();
    if let Some(first_over) = raw.announce.get(SUBNETS_MAX) {
        let reason = format!("more than {SUBNETS_MAX} subnets in `routing.announce`");
        checker.error::<()>(first_over.span(), reason, "join them into shorter prefixes, or take some out");
    }
    let mut announce: Vec<Prefix> = Vec::new();
    for text in &raw.announce {
        let Some(prefix) = announced(checker, text, own, peers) else { continue };
        if announce.contains(&prefix) {
            let reason = format!("`{prefix}` is in `routing.announce` twice");
            checker.error::<()>(text.span(), reason, "take one out");
        }
        announce.push(prefix);
    }
    if let Some(first_over) = raw.accept.get(ACCEPT_MAX) {
        let reason = format!("more than {ACCEPT_MAX} entries in `routing.accept`");
        checker.error::<()>(first_over.get_ref().prefix.span(), reason, "join them into shorter prefixes");
    }
    let accept = raw.accept.iter().filter_map(|entry| accepted(checker, entry.get_ref())).collect();
    let exit_node = raw.exit_node.as_ref().and_then(|text| node(checker, "routing.exit_node", text));
    let priority = match &raw.priority {
        Some(number) => priority(checker, number),
        None => Some(defaults::ROUTING_PRIORITY),
    };
    (checker.errors.len() == errors_before).then_some(Routing {
        announce,
        priority: priority?,
        accept,
        exit_node,
    })
}

fn priority(checker: &mut Checker<'_>, number: &Spanned<i64>) -> Option<u8> {
    match u8::try_from(*number.get_ref()) {
        Ok(priority) => Some(priority),
        Err(_) => checker.error(
            number.span(),
            format!("priority {} is not between 0 and {}", number.get_ref(), u8::MAX),
            "of several routers of one subnet, the one with the highest is used",
        ),
    }
}

/// Announcements travel over the overlay.
pub(super) fn needs_overlay(
    checker: &mut Checker<'_>,
    raw: &RawRouting,
    network: &RawNetwork,
    underlay: &RawUnderlay,
    peers: &[Spanned<RawPeer>],
) {
    let has_ways = underlay.bootstrap.is_some() || peers.is_empty();
    let has_overlay = network.group.is_some() || network.secret.is_some() && has_ways;
    let first = raw.announce.first().map(Spanned::span);
    let first = first.or_else(|| raw.accept.first().map(Spanned::span));
    if let Some(span) = first.or_else(|| raw.exit_node.as_ref().map(Spanned::span)).filter(|_| !has_overlay) {
        checker.error::<()>(
            span,
            "`[routing]` needs the overlay, and this node is in none",
            "add `underlay.bootstrap` and `network.secret`, or list subnets in the `addresses` of a [[peer]]",
        );
    }
}

fn announced(
    checker: &mut Checker<'_>,
    text: &Text,
    own: &[Prefix],
    peers: &[Spanned<RawPeer>],
) -> Option<Prefix> {
    let prefix = checker.network_prefix(text)?;
    if prefix.len() == 0 {
        return Some(prefix);
    }
    if Subnet::new(prefix.addr(), prefix.len()).is_none_or(|subnet| !subnet.is_routable()) {
        let reason = format!("`{prefix}` in `routing.announce` has addresses of no hosts elsewhere");
        return checker.error(text.span(), reason, "announce networks that this node forwards to");
    }
    if let Some(own) = own.iter().find(|own| own.network().overlaps(prefix)) {
        let reason =
            format!("`{prefix}` in `routing.announce` overlaps the virtual network {}", own.network());
        return checker.error(text.span(), reason, "announce networks behind this node alone");
    }
    for peer in peers.iter().map(Spanned::get_ref) {
        let theirs = peer.addresses.get_ref().iter().filter_map(|text| text.get_ref().parse::<Prefix>().ok());
        if let Some(other) = theirs.into_iter().find(|other| other.overlaps(prefix)) {
            let name = peer.name.get_ref();
            let reason = format!("`{prefix}` in `routing.announce` overlaps `{other}` of peer `{name}`");
            return checker.error(text.span(), reason, "announce networks behind this node alone");
        }
    }
    Some(prefix)
}

fn accepted(checker: &mut Checker<'_>, raw: &RawAccept) -> Option<Accept> {
    let prefix = checker.network_prefix(&raw.prefix)?;
    if prefix.len() == 0 {
        let reason = format!("`{prefix}` in `routing.accept` is everything");
        return checker.error(raw.prefix.span(), reason, "name an exit node in `routing.exit_node`");
    }
    let Some(from) = &raw.from else { return Some(Accept { prefix, from: Vec::new() }) };
    let count = from.get_ref().len();
    if count == 0 || count > ACCEPT_FROM_MAX {
        let reason = format!("`from` in `routing.accept` has between 1 and {ACCEPT_FROM_MAX} nodes");
        return checker.error(from.span(), reason, "leave it out to take the subnet from any member");
    }
    let from: Vec<NodeAddress> =
        from.get_ref().iter().filter_map(|text| node(checker, "routing.accept", text)).collect();
    (from.len() == count).then_some(Accept { prefix, from })
}

fn node(checker: &mut Checker<'_>, key: &str, text: &Text) -> Option<NodeAddress> {
    match text.get_ref().parse() {
        Ok(address) => Some(address),
        Err(_) => checker.error(
            text.span(),
            format!("`{}` in `{key}` is not the address of a node", text.get_ref()),
            "write the `ipop:` address that `ipopctl status` shows on that node",
        ),
    }
}
