//! Subnets as an operator sees them.

use std::collections::BTreeSet;
use std::fs;

use ipop_overlay::routes::{Entry, State, Subnet};

use super::super::Daemon;
use super::super::peers::PeerState;
use super::WARNINGS_MAX;
use crate::api::{self, Step};
use crate::config::Config;

impl Daemon {
    /// What is announced, by whom, and what has become of it.
    pub(in crate::daemon) fn subnet_routes(&self) -> Vec<api::Route> {
        self.routing.table.entries().iter().map(|entry| self.subnet_route(entry)).collect()
    }

    fn subnet_route(&self, entry: &Entry) -> api::Route {
        let peer = self.router_of(entry);
        let view = peer.and_then(|peer| Some((peer, self.node.peer(peer.id)?)));
        let path = view.map_or(api::Path::None, |(peer, view)| self.effective(peer, &view).0);
        let is_linked = entry.stands() && path != api::Path::None;
        let (state, reason) = match entry.state {
            State::Active => (api::SubnetState::Active, self.why_aside(entry.subnet)),
            State::Standby => (api::SubnetState::Standby, None),
            State::Refused(why) => (api::SubnetState::Refused, Some(why.to_string())),
        };
        api::Route {
            prefix: entry.subnet.to_string(),
            peer: self.router_name(entry),
            link_id: peer.filter(|_| is_linked).map(|peer| api::link_id(peer.link_id.value())),
            path: if entry.stands() { path } else { api::Path::None },
            subnet: Some(api::Subnet {
                router: entry.router().into(),
                priority: entry.priority,
                state,
                reason,
            }),
        }
    }

    fn router_of(&self, entry: &Entry) -> Option<&PeerState> {
        self.peers.get(&self.node.peer_of_key(&entry.public_key)?)
    }

    fn router_name(&self, entry: &Entry) -> String {
        let name = self.router_of(entry).map(|peer| peer.config.name.clone());
        name.unwrap_or_else(|| super::name_of(&entry.public_key))
    }

    /// Why packets do not go by the router although they would.
    fn why_aside(&self, subnet: Subnet) -> Option<String> {
        if let Some(interface) = self.routing.bypassed.get(&subnet) {
            return Some(format!("this host has a route of its own, by {interface}"));
        }
        if self.route_to(subnet).is_none() {
            return Some("this node has no virtual address of this family".to_owned());
        }
        let is_waiting = subnet.is_default() && !self.routing.exits.contains(&subnet);
        is_waiting.then(|| "the exit node has not been reached yet".to_owned())
    }

    /// How an operator's address comes to the router that is explained.
    pub(in crate::daemon) fn explain_selected(
        &self,
        selector: &api::Selector,
    ) -> Result<api::Explanation, String> {
        let found = self.find(selector);
        let entry = match (selector, &found) {
            (api::Selector::VirtualIp(ip), Err(_)) => self.routing.table.router_of(*ip),
            _ => None,
        };
        let peer = match entry.and_then(|entry| self.router_of(entry)) {
            Some(router) => router,
            None => found?,
        };
        let explanation = self.explain(peer);
        let mut explanation = explanation.ok_or_else(|| format!("peer {} has no state", peer.config.name))?;
        if let Some(entry) = entry {
            explanation.steps.insert(0, self.subnet_step(entry));
        }
        Ok(explanation)
    }

    fn subnet_step(&self, entry: &Entry) -> Step {
        let others = self.routing.table.entries().iter();
        let others = others.filter(|other| other.subnet == entry.subnet && other.state == State::Standby);
        let standby: Vec<String> = others.map(|other| self.router_name(other)).collect();
        let standby = match &standby[..] {
            [] => "no other router stands by".to_owned(),
            names => format!("{} stands by", names.join(", ")),
        };
        let aside = self.why_aside(entry.subnet);
        let is_used = aside.is_none();
        let aside = aside.map(|why| format!("; {why}")).unwrap_or_default();
        let router = self.router_name(entry);
        let detail = format!("{} goes by {router}; {standby}{aside}", entry.subnet);
        Step { check: "subnet".to_owned(), ok: is_used, detail }
    }

    /// What an operator should know of: subnets that are refused, and settings of the host that are in the way.
    pub(in crate::daemon) fn routing_warnings(&self) -> Vec<String> {
        let mut warnings = forwarding_warnings(&self.config);
        warnings.extend(self.routing.failure.clone());
        let refused = self.routing.table.entries().iter().filter_map(|entry| match entry.state {
            State::Refused(why) if why.is_strange() => Some((entry, why)),
            _ => None,
        });
        let count = refused.clone().count();
        warnings.extend(refused.take(WARNINGS_MAX).map(|(entry, why)| {
            format!("{} of {} is refused: {why}", entry.subnet, self.router_name(entry))
        }));
        if count > WARNINGS_MAX {
            warnings.push(format!("{} more subnets are refused; see `ipopctl routes`", count - WARNINGS_MAX));
        }
        warnings.extend(self.filter_warning());
        warnings
    }

    /// With strict reverse path filtering, the kernel would refuse what comes from nodes that are reached past a
    /// routed subnet.
    fn filter_warning(&self) -> Option<String> {
        let is_behind = |peer: &&PeerState| {
            let place = self.node.peer(peer.id).and_then(|view| view.endpoint?.udp());
            place.is_some_and(|place| self.routing.table.router_of(place.ip()).is_some())
        };
        let reaches = self.peers.values().filter(is_behind).filter_map(|peer| peer.reach.as_ref().ok());
        let names: BTreeSet<&str> = reaches.map(|reach| reach.interface.as_str()).collect();
        // The kernel takes the larger of the two; 1 is strict.
        let all = setting("net/ipv4/conf/all/rp_filter").unwrap_or(0);
        let is_strict =
            |name: &&&str| all.max(setting(&format!("net/ipv4/conf/{name}/rp_filter")).unwrap_or(0)) == 1;
        let name = names.iter().find(is_strict)?;
        Some(format!(
            "reverse path filtering is strict on {name}: nodes whose outer address is in a routed subnet, or behind \
             the exit node, cannot reach the daemon: set net.ipv4.conf.{name}.rp_filter to 2"
        ))
    }
}

/// A router has to forward.
pub(super) fn forwarding_warnings(config: &Config) -> Vec<String> {
    let families = [
        (true, "net/ipv4/ip_forward", "net.ipv4.ip_forward", "IPv4"),
        (false, "net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding", "IPv6"),
    ];
    let is_missing = |(is_v4, file, ..): &(bool, &str, &str, &str)| {
        let mut announced = config.routing.announce.iter();
        announced.any(|prefix| prefix.addr().is_ipv4() == *is_v4) && setting(file) == Some(0)
    };
    families
        .into_iter()
        .filter(is_missing)
        .map(|(_, _, name, family)| {
            format!("this node announces subnets and does not forward {family}: set {name} to 1")
        })
        .collect()
}

fn setting(file: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/{file}")).ok()?.trim().parse().ok()
}
