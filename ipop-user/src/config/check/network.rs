//! `[network]`: the secret, the device, its addresses and its MTU.

use std::ops::Range;

use ipop_common::ethernet;
use ipop_common::limits::{MTU_IPV6_MIN, MTU_MIN};
use toml::Spanned;
use zeroize::Zeroizing;

use super::{Checker, unfit_for_a_host};
use crate::config::name::{DEVICE_LEN_MAX, InterfaceName};
use crate::config::raw::{RawAddresses, RawAutoOr, RawMode, RawNetwork, RawPeer, Text};
use crate::config::{Config, Mode, Mtu, Network, Prefix, SECRET_LEN_MIN, Secret, defaults};

/// The addresses of this node, host bits kept.
pub(super) fn own_addresses(
    checker: &mut Checker<'_>,
    network: &RawNetwork,
    raw: &Spanned<RawAddresses>,
) -> Option<Vec<Prefix>> {
    let is_switch = matches!(network.mode.as_ref().map(Spanned::get_ref), Some(RawMode::L2));
    let texts = match raw.get_ref() {
        RawAddresses::List(texts) => texts,
        RawAddresses::Dhcp => return Some(Vec::new()),
    };
    // A switch needs none.
    if texts.is_empty() && !is_switch {
        return checker.error(
            raw.span(),
            "`network.addresses` is empty",
            "give this node an address, like \"10.128.0.1/24\", or write \"dhcp\"",
        );
    }
    let mut addresses: Vec<Prefix> = Vec::with_capacity(texts.len());
    let mut complete = true;
    for text in texts {
        match own_address(checker, text, &addresses) {
            Some(address) => addresses.push(address),
            None => complete = false,
        }
    }
    complete.then_some(addresses)
}

fn own_address(checker: &mut Checker<'_>, text: &Text, before: &[Prefix]) -> Option<Prefix> {
    let prefix = checker.prefix(text)?;
    let addr = prefix.addr();
    let host_bits = Prefix::host(addr).len() - prefix.len();
    if let Some(what) = unfit_for_a_host(addr) {
        return checker.error(
            text.span(),
            format!("`{prefix}` {what}"),
            "give this node an address of its own",
        );
    }
    // A prefix one bit short holds two hosts and no network address (RFC 3021, RFC 6164).
    if host_bits > 1 && !prefix.has_host_bits() {
        return checker.error(
            text.span(),
            format!("`{prefix}` is a network, and this node needs an address in it"),
            format!("write one like {}", first_host(prefix)),
        );
    }
    if before.iter().any(|other| other.addr() == addr) {
        return checker.error(text.span(), format!("`{addr}` is listed twice"), "take one of them out");
    }
    Some(prefix)
}

fn first_host(network: Prefix) -> String {
    let addr = match network.addr() {
        std::net::IpAddr::V4(v4) => std::net::IpAddr::V4((v4.to_bits() | 1).into()),
        std::net::IpAddr::V6(v6) => std::net::IpAddr::V6((v6.to_bits() | 1).into()),
    };
    format!("{addr}/{}", network.len())
}

/// The rest of the section.
pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: Spanned<RawNetwork>,
    name: &Text,
    own: Option<Vec<Prefix>>,
    peers: &[Spanned<RawPeer>],
) -> Option<Network> {
    let section = raw.span();
    let raw = raw.into_inner();
    let name = checker.name("network.name", name);
    let mode = match raw.mode.as_ref().map(Spanned::get_ref) {
        Some(RawMode::L2) => Mode::L2,
        Some(RawMode::L3) | None => Mode::L3,
    };
    let device = device(checker, raw.device.as_ref());
    let mtu = mtu(checker, raw.mtu, own.as_deref().unwrap_or_default());
    let secret = match raw.secret {
        Some(text) => secret(checker, text).map(Some),
        None if peers.is_empty() => Some(None),
        None => checker.error(
            section,
            "[network] lacks the key `secret`, which peers need",
            format!("add `secret = ...`, the same {SECRET_LEN_MIN} or more characters on every node"),
        ),
    };
    Some(Network {
        mode,
        name: name?,
        secret: secret?,
        device: device?,
        addresses: own?,
        mtu: with_frame(mtu?, mode),
        multicast: raw.multicast.unwrap_or(true),
        multicast_route: raw.multicast_route.unwrap_or(false),
    })
}

/// What links carry, so that packets of the configured length pass.
fn with_frame(mtu: Mtu, mode: Mode) -> Mtu {
    match (mtu, mode) {
        (Mtu::Bytes(bytes), Mode::L2) => Mtu::Bytes(bytes.saturating_add(ethernet::OVERHEAD)),
        (mtu, _) => mtu,
    }
}

/// What a network that carries Ethernet needs and cannot have.
pub(super) fn check_mode(checker: &mut Checker<'_>, mode: Range<usize>, config: &Config) -> Option<()> {
    if config.network.mode == Mode::L3 {
        return Some(());
    }
    let routing = &config.routing;
    if !config.has_overlay() {
        return checker.error(
            mode,
            "mode \"l2\" needs an overlay, which carries what is for all",
            "add `underlay.bootstrap`",
        );
    }
    if !config.network.multicast {
        return checker.error(
            mode,
            "mode \"l2\" and `network.multicast = false` contradict one another",
            "take `network.multicast` out",
        );
    }
    if !routing.announce.is_empty() || !routing.accept.is_empty() || routing.exit_node.is_some() {
        return checker.error(
            mode,
            "[routing] is for mode \"l3\"",
            "bridge the LAN, or let the routers of it speak to one another over the virtual network",
        );
    }
    Some(())
}

fn device(checker: &mut Checker<'_>, raw: Option<&Text>) -> Option<InterfaceName> {
    let (text, span) = match raw {
        Some(text) => (text.get_ref().as_str(), text.span()),
        None => (defaults::DEVICE, 0..0),
    };
    InterfaceName::new(text, DEVICE_LEN_MAX).map_or_else(
        |reason| {
            let reason = format!("device name `{text}` {reason}");
            checker.error(span, reason, format!("use at most {DEVICE_LEN_MAX} bytes, like `ipop0`"))
        },
        Some,
    )
}

fn mtu(checker: &mut Checker<'_>, raw: Option<Spanned<RawAutoOr>>, own: &[Prefix]) -> Option<Mtu> {
    let Some(raw) = raw else { return Some(defaults::MTU) };
    let RawAutoOr::Number(number) = *raw.get_ref() else { return Some(Mtu::Auto) };
    let Some(bytes) = u16::try_from(number).ok().filter(|bytes| *bytes >= MTU_MIN) else {
        return checker.error(
            raw.span(),
            format!("mtu {number} is not between {MTU_MIN} and {}", u16::MAX),
            "use \"auto\", which is exact",
        );
    };
    if bytes < MTU_IPV6_MIN && own.iter().any(|prefix| prefix.addr().is_ipv6()) {
        return checker.error(
            raw.span(),
            format!("mtu {bytes} is too small for the IPv6 addresses of this node"),
            format!("use \"auto\" or at least {MTU_IPV6_MIN}"),
        );
    }
    Some(Mtu::Bytes(bytes))
}

fn secret(checker: &mut Checker<'_>, text: Text) -> Option<Secret> {
    let span = text.span();
    let secret = Zeroizing::new(text.into_inner());
    if secret.chars().count() < SECRET_LEN_MIN {
        return checker.error(
            span,
            format!("`network.secret` has fewer than {SECRET_LEN_MIN} characters"),
            "use a long random one; `ipopctl init` writes one",
        );
    }
    Some(Secret(secret))
}
