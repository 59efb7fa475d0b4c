//! The texts by which people and control requests name things: prefixes, endpoints, keys, overlay
//! addresses, peers.
//!
//! Input: the text.

use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::str::FromStr;

use ipop_user::api::Selector;
use ipop_user::config::{Endpoint, Prefix};
use ipop_user::key::{NodeAddress, PublicKey};

pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(prefix) = reads_what_it_shows::<Prefix>(text) {
        is_a_prefix(prefix);
    }
    if let Some(Endpoint::Address(address)) = reads_what_it_shows::<Endpoint>(text) {
        let ip = address.ip();
        assert!(address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !spells_v4(ip));
    }
    let key = reads_what_it_shows::<PublicKey>(text);
    if let Some(key) = key {
        assert_eq!(key.to_string(), text, "one key, one text");
        reads_what_it_shows::<NodeAddress>(&key.node_address().to_string()).expect("an address");
    }
    let address = reads_what_it_shows::<NodeAddress>(text);
    let ip = text.parse::<IpAddr>().ok();
    let selected = match Selector::parse(text) {
        Selector::VirtualIp(selected) => ip == Some(selected),
        Selector::Address(selected) => ip.is_none() && address == Some(selected),
        Selector::PublicKey(selected) => ip.is_none() && address.is_none() && key == Some(selected),
        Selector::Prefix(selected) => {
            ip.is_none()
                && address.is_none()
                && selected.len() > "ipop:".len()
                && selected == text.to_ascii_lowercase()
                && selected.starts_with("ipop:")
        }
        Selector::Name(name) => ip.is_none() && address.is_none() && key.is_none() && name == text,
    };
    assert!(selected, "{text:?} selects something else");
}

/// A value's text is read as that value.
fn reads_what_it_shows<T: FromStr + Display + Debug + PartialEq>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value));
    Some(value)
}

fn is_a_prefix(prefix: Prefix) {
    assert!(!spells_v4(prefix.addr()));
    assert!(prefix.contains(prefix.addr()) && prefix.overlaps(prefix));
    assert!(prefix.network().covers(prefix) && !prefix.network().has_host_bits());
    assert_eq!(prefix.is_host(), prefix == Prefix::host(prefix.addr()));
}

/// An IPv4 address that is written as an IPv6 address would be another one in every table.
fn spells_v4(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}
