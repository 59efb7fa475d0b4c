//! `ipopctl status`.

use std::net::SocketAddr;

use crate::api::{
    Attach, Bootstrap, Datapath, DeviceKind, Dns, IoBackend, KernelState, MembershipState, Nat, Neighbour,
    Overlay, PortMapping, Seen, Status, StunServer, TurnServer, XdpState,
};
use crate::ctl::format::{duration, fields, microseconds, or_nothing};
use crate::dns;

pub(in crate::ctl) fn render(status: &Status, width: u16) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("node", format!("{}, up {}, version {}", status.name, duration(status.uptime_s), status.version));
    row("address", status.address.to_string());
    row("public key", status.public_key.clone());
    row("network", status.network.clone());
    let membership = status.membership.as_ref();
    membership.into_iter().flat_map(super::group::rows).for_each(|(name, value)| row(&name, value));
    if membership.is_some_and(|of| of.state != MembershipState::Member) {
        // It has no network yet.
        return fields(rows, width);
    }
    let ips = status.virtual_ips.join(", ");
    row(
        "device",
        format!("{} ({}), mtu {}, {ips}", status.device, device_kind(&status.datapath), status.mtu),
    );
    let listens = |scheme: &'static str, at: &[std::net::SocketAddr]| {
        at.iter().map(move |address| format!("{scheme}://{address}")).collect::<Vec<_>>()
    };
    let listens = [listens("udp", &status.listen), listens("tcp", &status.listen_tcp)].concat();
    row("listens on", listens.join(", "));
    row("kernel path", with_reason(&kernel(&status.datapath), status.datapath.kernel_reason.as_deref()));
    row("xdp", with_reason(xdp(&status.datapath), status.datapath.xdp_reason.as_deref()));
    row("user path", with_reason(&io(&status.datapath), status.datapath.io_reason.as_deref()));
    for interface in &status.interfaces {
        row("interface", format!("{}: {}", interface.name, interface.attached.join(", ")));
    }
    row("peers", format!("{} of {} direct", status.peers_direct, status.peers_total));
    if let Some(overlay) = &status.overlay {
        overlay_rows(overlay).into_iter().for_each(|(name, value)| row(name, value));
    }
    row("dns", dns_row(&status.dns));
    for warning in &status.warnings {
        row("warning", warning.clone());
    }
    fields(rows, width)
}

fn overlay_rows(overlay: &Overlay) -> Vec<(&'static str, String)> {
    let mut rows = vec![("overlay", format!("{}: {}", overlay.state.name(), overlay.reason))];
    let side = |nodes: &[Neighbour]| {
        let one =
            |node: &Neighbour| format!("{} ({})", node.node.label(), or_nothing(node.rtt_us, microseconds));
        nodes.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if !(overlay.left.is_empty() && overlay.right.is_empty()) {
        rows.push(("left", side(&overlay.left)));
        rows.push(("right", side(&overlay.right)));
    }
    let of = &overlay.connections;
    let roles = [
        (of.near, "near"),
        (of.far, "far"),
        (of.bypass, "bypass"),
        (of.on_demand, "on demand"),
        (of.leaf, "leaf"),
        (of.managed, "configured"),
    ];
    let roles = roles.iter().filter(|(count, _)| *count > 0).map(|(count, role)| format!("{count} {role}"));
    let roles = roles.collect::<Vec<_>>().join(", ");
    rows.push((
        "connections",
        if of.total == 0 { "none".to_owned() } else { format!("{}: {roles}", of.total) },
    ));
    let at = overlay.coordinates;
    rows.push(("coordinates", format!("x {} us, y {} us, height {} us", at.x_us, at.y_us, at.height_us)));
    rows.extend(overlay.nat.iter().map(|of| ("nat", nat(of))));
    rows.extend(overlay.external.iter().map(|place| ("external", format!("{place}, as configured"))));
    rows.extend(overlay.stun.iter().map(|of| ("stun", stun(of))));
    rows.extend(overlay.turn.iter().map(|of| ("turn", turn(of))));
    rows.push(("mapped port", port_mapping(&overlay.port_mapping)));
    if overlay.relayed_pairs > 0 {
        let others = if overlay.relayed_pairs == 1 {
            "two others".to_owned()
        } else {
            format!("{} pairs of others", overlay.relayed_pairs)
        };
        rows.push(("relays", format!("between {others}")));
    }
    rows.extend(overlay.bootstrap.iter().map(|way_in| ("bootstrap", bootstrap(way_in))));
    rows
}

/// `ipv4 endpoint-independent, hairpin: seen at 192.0.2.1:15000 by 3`
fn nat(of: &Nat) -> String {
    let mut places: Vec<(&str, usize)> = Vec::new();
    for Seen { seen, .. } in &of.observations {
        match places.iter_mut().find(|(place, _)| place == seen) {
            Some((_, count)) => *count += 1,
            None => places.push((seen, 1)),
        }
    }
    let places: Vec<String> = places.iter().map(|(place, count)| format!("{place} by {count}")).collect();
    let hairpin = match of.hairpin {
        Some(true) => ", hairpin",
        Some(false) => ", no hairpin",
        None => "",
    };
    format!("{} {}{hairpin}: seen at {}", of.family, of.mapping, places.join(", "))
}

/// `demo.ipop at 10.128.0.1; by resolv.conf, others by 192.0.2.53`
fn dns_row(of: &Dns) -> String {
    let list = |of: &[SocketAddr]| of.iter().map(server).collect::<Vec<_>>().join(", ");
    let Some(domain) = of.domain.as_ref().filter(|_| !of.listen.is_empty()) else {
        return with_reason("off", of.reason.as_deref());
    };
    let mut text = format!("{domain} at {}", list(&of.listen));
    if of.serve {
        text.push_str(", for members too");
    }
    match (&of.resolver, &of.resolver_reason) {
        (Some(resolver), _) => text.push_str(&format!("; by {resolver}")),
        (None, Some(reason)) => text.push_str(&format!("; no resolver leads there: {reason}")),
        (None, None) => text.push_str("; the resolver is being told"),
    }
    if !of.forward.is_empty() {
        text.push_str(&format!("; other names by {}", list(&of.forward)));
    }
    if let Some(reason) = &of.reason {
        text.push_str(&format!("; {reason}"));
    }
    text
}

/// An address, and its port where that is another than the DNS's.
fn server(at: &SocketAddr) -> String {
    if at.port() == dns::PORT { at.ip().to_string() } else { at.to_string() }
}

fn stun(of: &StunServer) -> String {
    match of.seen {
        Some(seen) => format!("{} sees {seen}", of.server),
        None => format!("{}: {}", of.server, of.reason.as_deref().unwrap_or("no answer")),
    }
}

fn turn(of: &TurnServer) -> String {
    match of.relayed {
        Some(relayed) => format!("{relayed} by {}", of.server),
        None => format!("none by {}: {}", of.server, of.reason.as_deref().unwrap_or("no answer")),
    }
}

/// `198.51.100.7:15000 by PCP of 192.168.1.1, for 19 min more`
fn port_mapping(of: &PortMapping) -> String {
    match (of.external, &of.protocol, of.gateway, of.lease_s) {
        (Some(external), Some(protocol), Some(gateway), Some(lease_s)) => {
            format!("{external} by {protocol} of {gateway}, for {} more", duration(lease_s))
        }
        _ => with_reason("none", of.reason.as_deref()),
    }
}

fn bootstrap(way_in: &Bootstrap) -> String {
    let answer = match (way_in.answered, way_in.address) {
        (false, _) => "has not answered".to_owned(),
        (true, None) => "has answered".to_owned(),
        (true, Some(address)) => format!("has answered, as {}", address.short()),
    };
    format!("{}: {answer}", way_in.endpoint)
}

fn with_reason(state: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}"))
}

fn kernel(datapath: &Datapath) -> String {
    let state = match datapath.kernel {
        KernelState::On => "on",
        KernelState::Off => "off",
        KernelState::Unavailable => "unavailable",
    };
    let attach = match datapath.attach {
        Some(Attach::Tcx) => ", by tcx",
        Some(Attach::Clsact) => ", by clsact",
        None => "",
    };
    format!("{state}{attach}")
}

fn xdp(datapath: &Datapath) -> &'static str {
    match datapath.xdp {
        XdpState::Off => "off",
        XdpState::Native => "native",
        XdpState::Generic => "generic",
    }
}

fn io(datapath: &Datapath) -> String {
    let io = match datapath.io {
        IoBackend::IoUring => "io_uring",
        IoBackend::Epoll => "epoll",
    };
    match datapath.queues {
        1 => io.to_owned(),
        queues => format!("{io}, {queues} queues"),
    }
}

fn device_kind(datapath: &Datapath) -> &'static str {
    match datapath.device_kind {
        DeviceKind::Vxlan => "vxlan",
        DeviceKind::Tun => "tun",
        DeviceKind::Tap => "tap",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn the_state_of_a_node() {
        let expected = "\
node         alpha, up 1 h 2 min, version 0.1.0
address      ADDRESS
public key   AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
network      demo
device       ipop0 (vxlan), mtu 1464, 10.128.0.1/24, fd00:128::1/64
listens on   udp://0.0.0.0:15000, udp://[::]:15000, tcp://0.0.0.0:443
kernel path  on, by tcx
xdp          off: veth copies packets for native XDP
user path    io_uring, 2 queues
interface    p1: tcx ingress
peers        1 of 2 direct
overlay      joined: part of a ring of about 3 nodes
left         gamma (-)
right        beta (180 us), gamma (-)
connections  2: 2 near, 1 on demand
coordinates  x 100 us, y -5 us, height 20 us
nat          ipv4 endpoint-independent, hairpin: seen at 198.51.100.7:15000 by 2
external     203.0.113.5:15000, as configured
stun         stun.example.org:3478 sees 198.51.100.7:15000
stun         192.0.2.9:3478: no answer
turn         none by turn:turn.example.org:3478?transport=udp: it does not
             accept the username and the password
turn         192.0.2.9:49160 by turn:192.0.2.9:443?transport=tcp
mapped port  198.51.100.7:15000 by PCP of 192.168.1.1, for 19 min 20 s more
relays       between 3 pairs of others
bootstrap    udp://alpha.example.org:15000: has not answered
bootstrap    udp://10.200.0.2:15000: has answered, as SHORT
dns          demo.ipop at 10.128.0.1, fd00:128::1; by resolv.conf; other names
             by 192.0.2.53
warning      the clock went backwards
";
        let expected = expected.replace("ADDRESS", &fake::key(1).node_address().to_string());
        let expected = expected.replace("SHORT", &fake::key(2).node_address().short());
        assert_eq!(render(&fake::status(), 80), expected);
    }
}
