//! `[[peer]]`: each one by itself, and what no two of them may share.

use std::collections::HashMap;
use std::ops::Range;

use ipop_common::limits::{HOSTS_MAX, LINKS_MAX, PREFIXES_MAX};
use toml::Spanned;

use super::{Checker, unfit_for_a_host};
use crate::config::endpoint::{Endpoint, parse_endpoint};
use crate::config::overlap::{Claim, overlaps};
use crate::config::raw::{RawPeer, Text};
use crate::config::{Config, Peer, Prefix};
use crate::key::{KEY_LEN, PublicKey};

type RawPeers = [Spanned<RawPeer>];

pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: &RawPeers,
    own_name: &Text,
    own_addresses: &[Prefix],
) -> Option<Vec<Peer>> {
    let errors_before = checker.errors.len();
    too_many(checker, raw);
    let peers: Vec<Peer> = raw.iter().filter_map(|peer| one(checker, peer)).collect();
    unique_names(checker, raw, own_name);
    unique_keys(checker, raw);
    disjoint_prefixes(checker, raw, own_addresses);
    (checker.errors.len() == errors_before).then_some(peers)
}

fn one(checker: &mut Checker<'_>, raw: &Spanned<RawPeer>) -> Option<Peer> {
    let line = checker.source.line(&raw.span());
    let raw = raw.get_ref();
    let name = checker.name("peer.name", &raw.name);
    let public_key = public_key(checker, &raw.public_key);
    let addresses = addresses(checker, &raw.addresses);
    let endpoint = match &raw.endpoint {
        Some(text) => endpoint(checker, text).map(Some),
        None => Some(None),
    };
    Some(Peer { name: name?, public_key: public_key?, addresses: addresses?, endpoint: endpoint?, line })
}

fn public_key(checker: &mut Checker<'_>, text: &Text) -> Option<PublicKey> {
    // What is in the wrong place may be a private key: it is not repeated.
    match text.get_ref().parse::<PublicKey>() {
        Ok(key) if *key.as_bytes() != [0; KEY_LEN] => Some(key),
        _ => checker.error(
            text.span(),
            "`peer.public_key` is not the base64 of a public key",
            "paste what `ipopctl key pub FILE` prints on that node",
        ),
    }
}

fn addresses(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<Prefix>> {
    if list.get_ref().is_empty() {
        return checker.error(
            list.span(),
            "`peer.addresses` is empty",
            "list the virtual addresses of that node, like \"10.128.0.2\"",
        );
    }
    let prefixes: Vec<Prefix> = list.get_ref().iter().filter_map(|text| peer_prefix(checker, text)).collect();
    (prefixes.len() == list.get_ref().len()).then_some(prefixes)
}

fn peer_prefix(checker: &mut Checker<'_>, text: &Text) -> Option<Prefix> {
    let prefix = checker.network_prefix(text)?;
    match unfit_for_a_host(prefix.addr()) {
        Some(what) if prefix.is_host() => {
            let reason = format!("`{}` {what}", prefix.addr());
            checker.error(text.span(), reason, "list virtual addresses of that node")
        }
        _ => Some(prefix),
    }
}

fn endpoint(checker: &mut Checker<'_>, text: &Text) -> Option<Endpoint> {
    parse_endpoint(text.get_ref())
        .map_or_else(|(reason, advice)| checker.error(text.span(), reason, advice), Some)
}

fn too_many(checker: &mut Checker<'_>, raw: &RawPeers) {
    if let Some(first_over) = raw.get(LINKS_MAX as usize) {
        let reason = format!("more than {LINKS_MAX} peers, the most that this version links to");
        checker.error::<()>(first_over.span(), reason, "take some out");
    }
    let mut hosts_left = HOSTS_MAX;
    let mut prefixes_left = PREFIXES_MAX;
    for text in raw.iter().flat_map(|peer| peer.get_ref().addresses.get_ref()) {
        let Ok(prefix) = text.get_ref().parse::<Prefix>() else { continue };
        let (left, what, max) = match prefix.is_host() {
            true => (&mut hosts_left, "single addresses", HOSTS_MAX),
            false => (&mut prefixes_left, "prefixes", PREFIXES_MAX),
        };
        if *left == 0 {
            let reason = format!("more than {max} {what} of peers, the most that this version holds");
            checker.error::<()>(text.span(), reason, "join addresses into prefixes, or take some out");
            return;
        }
        *left -= 1;
    }
}

fn unique_names(checker: &mut Checker<'_>, raw: &RawPeers, own_name: &Text) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for name in raw.iter().map(|peer| &peer.get_ref().name) {
        if name.get_ref() == own_name.get_ref() {
            let reason = format!("peer name `{}` is this node's own", name.get_ref());
            checker.error::<()>(name.span(), reason, "a node is no peer of itself: rename it or take it out");
        } else if let Some(line) = seen.insert(name.get_ref(), checker.source.line(&name.span())) {
            let reason = format!("peer name `{}` is taken by line {line}", name.get_ref());
            checker.error::<()>(name.span(), reason, "give each peer a name of its own");
        }
    }
}

fn unique_keys(checker: &mut Checker<'_>, raw: &RawPeers) {
    let mut seen: HashMap<PublicKey, &Text> = HashMap::new();
    for peer in raw.iter().map(Spanned::get_ref) {
        let Ok(key) = peer.public_key.get_ref().parse::<PublicKey>() else { continue };
        if let Some(other) = seen.insert(key, &peer.name) {
            checker.error::<()>(
                peer.public_key.span(),
                format!("peer `{}` has the same key as `{}`", peer.name.get_ref(), other.get_ref()),
                "give each peer the key that `ipopctl key pub FILE` prints on that node",
            );
        }
    }
}

/// Where a claim was written: the peer's name, if it is a peer's, and the place.
struct Origin<'a> {
    peer: Option<&'a str>,
    span: Range<usize>,
}

/// No two peers may claim an address, nor a peer one of ours. That the network which our own
/// address connects to holds the peers is as it should be.
fn disjoint_prefixes(checker: &mut Checker<'_>, raw: &RawPeers, own: &[Prefix]) {
    let mut claims: Vec<Claim<Origin<'_>>> = Vec::new();
    for (owner, peer) in raw.iter().map(Spanned::get_ref).enumerate() {
        for text in peer.addresses.get_ref() {
            let Ok(prefix) = text.get_ref().parse::<Prefix>() else { continue };
            if prefix.has_host_bits() {
                continue;
            }
            let origin = Origin { peer: Some(peer.name.get_ref()), span: text.span() };
            claims.push(Claim { prefix, owner, origin });
        }
    }
    let us = raw.len();
    claims.extend(own.iter().map(|address| Claim {
        prefix: Prefix::host(address.addr()),
        owner: us,
        origin: Origin { peer: None, span: 0..0 },
    }));
    for (inner, outer) in overlaps(&mut claims) {
        report_overlap(checker, inner, outer);
    }
}

fn report_overlap(checker: &mut Checker<'_>, inner: &Claim<Origin<'_>>, outer: &Claim<Origin<'_>>) {
    let (at, other) = if inner.origin.peer.is_none() || outer.origin.span.start > inner.origin.span.start {
        (outer, inner)
    } else {
        (inner, outer)
    };
    let whose = match other.origin.peer {
        Some(name) => format!("`{}` of peer `{name}`", other.prefix),
        None => format!("this node's own address {}", other.prefix.addr()),
    };
    let reason = format!("`{}` of peer `{}` overlaps {whose}", at.prefix, at.origin.peer.unwrap_or_default());
    checker.error::<()>(at.origin.span.clone(), reason, "give each address to one node");
}

/// What is valid and yet will not work as its writer hoped.
pub(super) fn warn(checker: &mut Checker<'_>, raw: &RawPeers, config: &Config) {
    let mut seen: HashMap<&Endpoint, &str> = HashMap::new();
    for (peer, raw) in config.peers.iter().zip(raw) {
        let (Some(endpoint), Some(text)) = (&peer.endpoint, &raw.get_ref().endpoint) else { continue };
        if let Some(other) = seen.insert(endpoint, &peer.name) {
            let reason = format!("peer `{}` has the same endpoint as `{other}`", peer.name);
            checker.warn(text.span(), reason, "two nodes cannot share an address and port: correct one");
        }
        if let Endpoint::Address(address) = endpoint {
            warn_of_address(checker, text.span(), peer, address.ip(), config);
        }
    }
}

fn warn_of_address(
    checker: &mut Checker<'_>,
    span: Range<usize>,
    peer: &Peer,
    ip: std::net::IpAddr,
    config: &Config,
) {
    let mut virtual_networks = config.network.addresses.iter().chain(&peer.addresses);
    if let Some(network) = virtual_networks.find(|prefix| prefix.contains(ip)) {
        checker.warn(
            span,
            format!(
                "peer `{}` has its endpoint {ip} inside the virtual network {}",
                peer.name,
                network.network()
            ),
            "use an address that is reached without the virtual network",
        );
    }
}
