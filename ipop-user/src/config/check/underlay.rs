//! `[underlay]`: where we listen, on which interfaces, and which networks are trusted.

use std::net::SocketAddr;

use ipop_common::limits::KERNEL_PORT;
use toml::Spanned;

use super::Checker;
use crate::config::endpoint::{
    parse_bootstrap, parse_endpoint, parse_external, parse_listen, parse_listen_tcp, parse_turn,
};
use crate::config::name::InterfaceName;
use crate::config::raw::{RawTurn, RawUnderlay, Text};
use crate::config::{
    Bootstrap, Config, EXTERNAL_MAX, Endpoint, Prefix, STUN_MAX, Secret, Security, TURN_MAX, Turn, Underlay,
    default_listen,
};

/// Bytes of a username (RFC 8489, 14.3).
const TURN_TEXT_MAX: usize = 508;

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawUnderlay) -> Option<Underlay> {
    let listen = match &raw.listen {
        Some(list) => listen(checker, list),
        None => Some(default_listen()),
    };
    let tcp = match &raw.tcp {
        Some(list) => listen_tcp(checker, list.get_ref()).map(Some),
        None => Some(None),
    };
    let interfaces = match &raw.interfaces {
        Some(list) => interfaces(checker, list).map(Some),
        None => Some(None),
    };
    let bootstrap = match &raw.bootstrap {
        Some(list) => bootstrap(checker, list),
        None => Some(Vec::new()),
    };
    let external = match &raw.external {
        Some(list) => external(checker, list),
        None => Some(Vec::new()),
    };
    let stun = match &raw.stun {
        Some(list) => stun(checker, list),
        None => Some(Vec::new()),
    };
    let turn = match &raw.turn {
        Some(list) => turn(checker, list),
        None => Some(Vec::new()),
    };
    let trusted = trusted(checker, &raw.trusted);
    Some(Underlay {
        listen: listen?,
        tcp: tcp?,
        interfaces: interfaces?,
        bootstrap: bootstrap?,
        has_bootstrap: raw.bootstrap.is_some(),
        multicast: raw.multicast.unwrap_or(true),
        relay: raw.relay.unwrap_or(true),
        relay_mbit_s: raw.relay_mbit_s.unwrap_or(0),
        port_mapping: raw.port_mapping.unwrap_or(true),
        external: external?,
        stun: stun?,
        turn: turn?,
        trusted: trusted?,
    })
}

fn listen(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<SocketAddr>> {
    if list.get_ref().is_empty() {
        return checker.error(
            list.span(),
            "`underlay.listen` is empty",
            "list an address like \"udp://0.0.0.0:15000\", or take the key out for the default",
        );
    }
    let mut addresses = Vec::new();
    let mut complete = true;
    for text in list.get_ref() {
        match listen_address(checker, text, &addresses) {
            Some(address) => addresses.push(address),
            None => complete = false,
        }
    }
    complete.then_some(addresses)
}

fn listen_address(checker: &mut Checker<'_>, text: &Text, before: &[SocketAddr]) -> Option<SocketAddr> {
    let address = match parse_listen(text.get_ref()) {
        Ok(address) => address,
        Err((reason, advice)) => return checker.error(text.span(), reason, advice),
    };
    if address.port() == KERNEL_PORT {
        return checker.error(
            text.span(),
            format!("port {KERNEL_PORT} belongs to the kernel path"),
            "choose another port, like 15000",
        );
    }
    if let Some(other) = before.iter().find(|other| in_the_way(**other, address)) {
        return checker.error(
            text.span(),
            format!("`{address}` cannot be bound beside `{other}`"),
            "take one of them out",
        );
    }
    Some(address)
}

fn listen_tcp(checker: &mut Checker<'_>, list: &[Text]) -> Option<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for text in list {
        match parse_listen_tcp(text.get_ref()) {
            Ok(address) => match addresses.iter().find(|other| in_the_way(**other, address)) {
                Some(other) => checker.error::<()>(
                    text.span(),
                    format!("`{address}` cannot be bound beside `{other}`"),
                    "take one of them out",
                ),
                None => {
                    addresses.push(address);
                    None
                }
            },
            Err((reason, advice)) => checker.error(text.span(), reason, advice),
        };
    }
    (addresses.len() == list.len()).then_some(addresses)
}

/// Whether the kernel would refuse to bind both. IPv6 sockets of ours take no IPv4.
fn in_the_way(one: SocketAddr, other: SocketAddr) -> bool {
    let wildcard = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.is_ipv4() == other.is_ipv4() && one.port() == other.port() && (wildcard || one.ip() == other.ip())
}

fn interfaces(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<InterfaceName>> {
    if list.get_ref().is_empty() {
        return checker.error(
            list.span(),
            "`underlay.interfaces` is empty",
            "list interfaces, or take the key out to use those on the routes to the peers",
        );
    }
    let mut names: Vec<InterfaceName> = Vec::new();
    let mut complete = true;
    for text in list.get_ref() {
        let name = InterfaceName::existing(text.get_ref());
        match name {
            Ok(name) if names.contains(&name) => {
                complete = false;
                checker.error::<()>(
                    text.span(),
                    format!("interface `{name}` is listed twice"),
                    "take one of them out",
                );
            }
            Ok(name) => names.push(name),
            Err(reason) => {
                complete = false;
                checker.error::<()>(
                    text.span(),
                    format!("interface name `{}` {reason}", text.get_ref()),
                    "`ip link` lists the names",
                );
            }
        }
    }
    complete.then_some(names)
}

fn bootstrap(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<Bootstrap>> {
    let mut endpoints = Vec::new();
    for text in list.get_ref() {
        match parse_bootstrap(text.get_ref()) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err((reason, advice)) => {
                checker.error::<()>(text.span(), reason, advice);
            }
        }
    }
    (endpoints.len() == list.get_ref().len()).then_some(endpoints)
}

/// Values of a list that may be so long, each of them once.
fn distinct<T: PartialEq>(
    checker: &mut Checker<'_>,
    list: &Spanned<Vec<Text>>,
    (key, most): (&str, usize),
    parse: impl Fn(&str) -> Result<T, (String, &'static str)>,
) -> Option<Vec<T>> {
    if list.get_ref().len() > most {
        return checker.error(
            list.span(),
            format!("`{key}` lists {}", list.get_ref().len()),
            format!("list at most {most}"),
        );
    }
    let mut values = Vec::new();
    for text in list.get_ref() {
        match parse(text.get_ref()) {
            Ok(value) if values.contains(&value) => {
                let what = format!("`{}` is listed twice", text.get_ref());
                checker.error::<()>(text.span(), what, "take one of them out");
            }
            Ok(value) => values.push(value),
            Err((reason, advice)) => {
                checker.error::<()>(text.span(), reason, advice);
            }
        }
    }
    (values.len() == list.get_ref().len()).then_some(values)
}

fn external(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<SocketAddr>> {
    distinct(checker, list, ("underlay.external", EXTERNAL_MAX), parse_external)
}

fn stun(checker: &mut Checker<'_>, list: &Spanned<Vec<Text>>) -> Option<Vec<Endpoint>> {
    distinct(checker, list, ("underlay.stun", STUN_MAX), parse_endpoint)
}

fn turn(checker: &mut Checker<'_>, list: &Spanned<Vec<RawTurn>>) -> Option<Vec<Turn>> {
    if list.get_ref().len() > TURN_MAX {
        let what = format!("there are {} [[underlay.turn]]", list.get_ref().len());
        return checker.error(list.span(), what, format!("write at most {TURN_MAX}"));
    }
    let mut servers: Vec<Turn> = Vec::new();
    for raw in list.get_ref() {
        let username = turn_text(checker, &raw.username, "username");
        let password = turn_text(checker, &raw.password, "password");
        match (parse_turn(raw.server.get_ref()), username, password) {
            (Err((reason, advice)), ..) => {
                checker.error::<()>(raw.server.span(), reason, advice);
            }
            (Ok((transport, server)), Some(username), Some(password)) => {
                let password = Secret::new(password);
                let server = Turn { transport, server, username, password };
                if servers.iter().any(|other| other.to_string() == server.to_string()) {
                    let what = format!("`{}` is there twice", raw.server.get_ref());
                    checker.error::<()>(raw.server.span(), what, "take one of them out");
                } else {
                    servers.push(server);
                }
            }
            (Ok(_), ..) => {}
        }
    }
    (servers.len() == list.get_ref().len()).then_some(servers)
}

/// A name or a password as STUN carries it (RFC 8489, 14.3): not in the message, since one of them is secret.
fn turn_text(checker: &mut Checker<'_>, text: &Text, key: &str) -> Option<String> {
    let value = text.get_ref();
    let is_good = !value.is_empty() && value.len() <= TURN_TEXT_MAX && !value.chars().any(char::is_control);
    if !is_good {
        let what =
            format!("this `{key}` is empty, longer than {TURN_TEXT_MAX} bytes, or has control characters");
        return checker.error(text.span(), what, "copy it from the server's configuration");
    }
    Some(value.clone())
}

/// What is valid and yet will not work as its writer hoped.
pub(super) fn warn(checker: &mut Checker<'_>, raw: &RawUnderlay, config: &Config) {
    if let Some(list) = &raw.bootstrap
        && !config.has_overlay()
        && config.network.secret.is_none()
    {
        checker.warn(
            list.span(),
            "`underlay.bootstrap` has no effect: without a secret nobody is a member of the network",
            "add `network.secret`, the same on every node",
        );
    }
    let of_overlay = [
        ("external", raw.external.as_ref().map(Spanned::span)),
        ("stun", raw.stun.as_ref().map(Spanned::span)),
        ("turn", raw.turn.as_ref().map(Spanned::span)),
    ];
    for (key, span) in of_overlay.into_iter().filter(|_| !config.has_overlay()) {
        if let Some(span) = span {
            checker.warn(
                span,
                format!(
                    "`underlay.{key}` has no effect: this node is in no overlay, and tells nobody where it is"
                ),
                "add `underlay.bootstrap`, or take it out",
            );
        }
    }
    if config.datapath.security == Security::Sealed
        && let Some(first) = raw.trusted.first()
    {
        checker.warn(
            first.span(),
            "`underlay.trusted` has no effect: all links are sealed",
            "set datapath.security = \"clear-if-trusted\" for clear links between trusted networks",
        );
    }
}

fn trusted(checker: &mut Checker<'_>, texts: &[Text]) -> Option<Vec<Prefix>> {
    let mut prefixes = Vec::with_capacity(texts.len());
    for text in texts {
        let Some(prefix) = checker.network_prefix(text) else { continue };
        if prefix.len() == 0 {
            checker.warn(
                text.span(),
                format!("`{prefix}` trusts every network, and what crosses it can be read and forged"),
                "list only networks that are yours",
            );
        }
        prefixes.push(prefix);
    }
    (prefixes.len() == texts.len()).then_some(prefixes)
}
