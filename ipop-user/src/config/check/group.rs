//! `network.group`: then the network's name, secret and addresses are the group's, and not the file's.

use toml::Spanned;

use super::Checker;
use crate::config::raw::{RawAddresses, RawConfig, Text};
use crate::config::{Group, Secret};
use crate::group::{GroupPlace, PlaceError};

/// What the rest of the file is read with.
pub(super) struct Settled {
    pub(super) group: Option<Group>,
    pub(super) name: Text,
    pub(super) addresses: Spanned<RawAddresses>,
}

pub(super) fn settle(checker: &mut Checker<'_>, raw: &mut RawConfig) -> Option<Settled> {
    match raw.network.get_mut().group.as_ref() {
        None => without(checker, raw),
        Some(_) => with(checker, raw),
    }
}

fn without(checker: &mut Checker<'_>, raw: &mut RawConfig) -> Option<Settled> {
    let section = raw.network.span();
    let network = raw.network.get_mut();
    for (key, text) in [("group_ca", &network.group_ca), ("group_token", &network.group_token)] {
        if let Some(text) = text {
            let reason = format!("`network.{key}` is for a node of a group, and there is no `network.group`");
            checker.error::<()>(text.span(), reason, "add `group = ...`, or take it out");
        }
    }
    let mut lacks = |key| {
        let reason = format!("[network] lacks the key `{key}`");
        checker.error::<()>(section.clone(), reason, format!("add `{key} = ...`"));
    };
    let (name, addresses) = (network.name.take(), network.addresses.take());
    if name.is_none() {
        lacks("name");
    } else if addresses.is_none() {
        lacks("addresses");
    }
    Some(Settled { group: None, name: name?, addresses: addresses? })
}

fn with(checker: &mut Checker<'_>, raw: &mut RawConfig) -> Option<Settled> {
    let peer = raw.peers.first().map(Spanned::span);
    let dhcp = raw.dhcp.as_ref().map(Spanned::span);
    let network = raw.network.get_mut();
    let group = network.group.take()?;
    let others = [
        ("`network.name`", network.name.as_ref().map(Spanned::span)),
        ("`network.secret`", network.secret.as_ref().map(Spanned::span)),
        ("`network.addresses`", network.addresses.as_ref().map(Spanned::span)),
        ("[dhcp]", dhcp),
        ("[[peer]]", peer),
    ];
    let mut is_alone = true;
    for (what, span) in others {
        if let Some(span) = span {
            is_alone = false;
            let reason = format!("{what} and `network.group` contradict one another: the group says this");
            checker.error::<()>(span, reason, "take one of them out");
        }
    }
    let (ca, token) = (network.group_ca.take(), network.group_token.take());
    // Put back for what asks whether there is a group.
    network.group = Some(group.clone());
    let place: Result<GroupPlace, PlaceError> = group.get_ref().parse();
    let place = match place {
        Ok(place) => place,
        Err(error) => {
            let advice = "copy it from the join page of the group, like https://group.example.org/g/lab";
            return checker.error(group.span(), error.to_string(), advice);
        }
    };
    let ca = match &ca {
        Some(text) => Some(checker.path("network.group_ca", text)?),
        None => None,
    };
    let name = Spanned::new(group.span(), place.name.to_string());
    let token = token.map(|token| Secret::new(token.into_inner()));
    is_alone.then_some(Settled {
        group: Some(Group { place, ca, token, membership: None }),
        name,
        addresses: Spanned::new(group.span(), RawAddresses::Dhcp),
    })
}
