//! An internet of one bridge, with hosts on it and hosts behind boxes. The first host is the others' way
//! into the overlay.
//!
//! | what | IPv4 | IPv6, numbers in hex |
//! |---|---|---|
//! | host N on the internet | 198.51.100.N | 2001:db8::N |
//! | box B, outside | 198.51.100.(100+B) | 2001:db8::(100+B) |
//! | hosts behind box B | 10.B.0.2 and on | 2001:db8:B::2 and on |
//! | hosts behind a box that does not translate | 203.0.113.(16 B + 2) and on | the same |
//! | box B, outside, where a router is to give ports | 44.0.0.(100+B) | |
//! | the internet's router | 198.51.100.254 | 2001:db8::fe |
//!
//! A box behind another has its outside address from that one's inside network. The router knows the way
//! to what is not translated, and to nothing else.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::PREFIX;
use super::boxes::{Kind, Middlebox, Network, Options};
use super::crowd;
use super::daemon::How;
use super::host::Host;
use super::namespace::NetNs;
use super::packet::USER_PORT;
use super::router::{self, Router, Speaks};
use super::{SOON, wait_for};

/// Addresses of boxes and networks leave room for so many.
const BOXES_MAX: u8 = 15;

/// The families of addresses that a host has outside of the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    fn has_v4(self) -> bool {
        self != Self::V6
    }

    fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// Hosts and boxes, by index in the order in which they were made.
#[derive(Debug)]
pub(crate) struct Internet {
    pub(crate) hosts: Vec<Host>,
    pub(crate) boxes: Vec<Middlebox>,
    /// The box that each host is behind.
    behind: Vec<Option<usize>>,
    /// Members of the network behind each box, the box among them.
    members: Vec<u8>,
    /// Devices that hosts have been given beside their first.
    plugged: u8,
    routers: Vec<Router>,
    backbone: NetNs,
    folder: tempfile::TempDir,
}

/// What a device at the end of a wire gets: addresses, and the next on the way out.
struct Leg {
    v4: Option<(Ipv4Addr, u8, Ipv4Addr)>,
    v6: Option<(Ipv6Addr, Ipv6Addr)>,
}

impl Internet {
    /// An internet with one host on it, of both families.
    pub(crate) fn new() -> Self {
        let backbone = namespace();
        backbone.ip("link add in type bridge");
        backbone.ip("link set in up");
        backbone.ip("addr add 198.51.100.254/24 dev in");
        backbone.ip("addr add 2001:db8::fe/64 dev in nodad");
        backbone.sysctl("net.ipv4.ip_forward", "1");
        backbone.sysctl("net.ipv6.conf.all.forwarding", "1");
        for device in ["all", "in"] {
            backbone.sysctl(&format!("net.ipv4.conf.{device}.send_redirects"), "0");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (hosts, boxes, behind, members) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut new =
            Self { hosts, boxes, behind, members, plugged: 0, routers: Vec::new(), backbone, folder };
        new.public(Families::Both);
        new
    }

    /// A host on the internet itself.
    pub(crate) fn public(&mut self, families: Families) -> usize {
        self.add_host(None, families)
    }

    /// A host behind a plain box of its own.
    pub(crate) fn behind(&mut self, kind: Kind) -> usize {
        self.behind_with(kind, Options::default())
    }

    /// A host behind a box of its own.
    pub(crate) fn behind_with(&mut self, kind: Kind, options: Options) -> usize {
        let number = self.add_box(None, kind, options);
        self.behind_box(number)
    }

    /// A host behind the box of another.
    pub(crate) fn behind_same(&mut self, host: usize) -> usize {
        self.behind_box(self.box_of(host))
    }

    /// A host behind a box that is behind another box.
    pub(crate) fn double(&mut self, inner: Kind, outer: Kind) -> usize {
        let outer = self.add_box(None, outer, Options::default());
        let inner = self.add_box(Some(outer), inner, Options::default());
        self.behind_box(inner)
    }

    /// A host behind a box.
    pub(crate) fn behind_box(&mut self, number: usize) -> usize {
        let families = if self.boxes[number].options.v6 { Families::Both } else { Families::V4 };
        self.add_host(Some(number), families)
    }

    /// The box that a host is behind, next to it.
    pub(crate) fn box_of(&self, host: usize) -> usize {
        self.behind[host].unwrap_or_else(|| panic!("host {} is behind no box", host + 1))
    }

    /// The box that a host is behind, next to it.
    pub(crate) fn gate(&self, host: usize) -> &Middlebox {
        &self.boxes[self.box_of(host)]
    }

    /// A box on the internet, or behind another.
    pub(crate) fn add_box(&mut self, parent: Option<usize>, kind: Kind, options: Options) -> usize {
        let number = u8::try_from(self.boxes.len() + 1).expect("few boxes");
        assert!(number <= BOXES_MAX, "there are addresses for {BOXES_MAX} boxes");
        let is_routed = parent.is_none_or(|parent| self.boxes[parent].kind.translates());
        assert!(is_routed || kind.translates(), "nobody knows the way to what is behind two firewalls");
        assert!(parent.is_none() || !options.v6, "IPv6 goes through one box only");
        let ns = namespace();
        let families = if options.v6 { Families::Both } else { Families::V4 };
        let leg = self.leg(parent, 100 + number, families);
        self.wire(parent, &ns, "out", &format!("box{number}"));
        leg.connect(&ns, "out");
        let (outside, ..) = leg.v4.expect("boxes have IPv4");
        let upstream = parent.map_or(&self.backbone, |parent| &self.boxes[parent].ns);
        let inside = if kind.translates() {
            Network { base: Ipv4Addr::new(10, number, 0, 0), length: 24 }
        } else {
            let network = Network { base: Ipv4Addr::new(203, 0, 113, 16 * number), length: 28 };
            upstream.ip(&format!("route add {network} via {outside}"));
            network
        };
        if let Some((address, _)) = leg.v6 {
            upstream.ip(&format!("route add {}/64 via {address}", member_v6(number, 0)));
        }
        let first_port = 18_000 + 700 * u16::from(number);
        let new = Middlebox::new(ns, kind, options, outside, inside, first_port, self.folder.path());
        if options.v6 {
            new.ns.ip(&format!("addr add {}/64 dev in nodad", member_v6(number, 1)));
        }
        self.boxes.push(new);
        self.members.push(1);
        self.boxes.len() - 1
    }

    fn add_host(&mut self, parent: Option<usize>, families: Families) -> usize {
        let number = u8::try_from(self.hosts.len() + 1).expect("few hosts");
        let mut host = Host::new(number, namespace(), self.folder.path());
        let leg = self.leg(parent, number, families);
        self.wire(parent, &host.ns, host.device, &format!("host{number}"));
        leg.connect(&host.ns, host.device);
        if let Some((address, ..)) = leg.v4 {
            host.outer_v4 = address;
        }
        if let Some((address, _)) = leg.v6 {
            host.outer_v6 = address;
        }
        let way_in = if families.has_v4() { "198.51.100.1" } else { "[2001:db8::1]" };
        let way_in = format!("udp://{way_in}:{USER_PORT}");
        host.config.bootstrap = Some(if number == 1 { Vec::new() } else { vec![way_in] });
        host.config.datapath.insert("security", "sealed".to_owned());
        self.hosts.push(host);
        self.behind.push(parent);
        self.hosts.len() - 1
    }

    /// Addresses on the internet, where they are by `number`, or behind a box, where they go up.
    fn leg(&mut self, parent: Option<usize>, number: u8, families: Families) -> Leg {
        let (v4, v6) = match parent {
            None => {
                let internet = Network { base: Ipv4Addr::new(198, 51, 100, 0), length: 24 };
                let v4 = (internet.member(number), internet.length, internet.member(254));
                (v4, (member_v6(0, number), member_v6(0, 0xfe)))
            }
            Some(parent) => {
                self.members[parent] += 1;
                let (inside, member) = (self.boxes[parent].inside, self.members[parent]);
                let net = u8::try_from(parent + 1).expect("few boxes");
                let v4 = (inside.member(member), inside.length, inside.member(1));
                (v4, (member_v6(net, member), member_v6(net, 1)))
            }
        };
        Leg { v4: families.has_v4().then_some(v4), v6: families.has_v6().then_some(v6) }
    }

    /// A wire from a new namespace to the internet or to what is behind a box.
    fn wire(&self, parent: Option<usize>, ns: &NetNs, device: &str, port: &str) {
        let (above, isolated) = match parent {
            None => (&self.backbone, false),
            Some(parent) => (&self.boxes[parent].ns, self.boxes[parent].options.isolated),
        };
        ns.ip(&format!("link add {device} type veth peer name {port} netns {}", above.name()));
        above.ip(&format!("link set {port} master in up"));
        if isolated {
            above.ip(&format!("link set {port} type bridge_slave isolated on"));
        }
    }

    /// Moves a host, with all that runs on it, to the network behind a box, or to the internet itself: its device is
    /// gone, and another is there.
    pub(crate) fn migrate(&mut self, host: usize, to: Option<usize>) {
        let device = self.hosts[host].device;
        self.hosts[host].ns.ip(&format!("link del {device}"));
        self.plug_in(host, device, to);
    }

    /// Takes the cable out of a host that still has its first device, or puts it in again.
    pub(crate) fn set_cable(&self, host: usize, is_in: bool) {
        let above = self.behind[host].map_or(&self.backbone, |parent| &self.boxes[parent].ns);
        above.ip(&format!("link set host{} {}", host + 1, if is_in { "up" } else { "down" }));
    }

    /// Has the other end of a host's first wire take frames that XDP sends, or take none: a veth takes them by NAPI,
    /// which is on with GRO.
    pub(crate) fn set_napi(&self, host: usize, is_on: bool) {
        let above = self.behind[host].map_or(&self.backbone, |parent| &self.boxes[parent].ns);
        above.succeed(
            "ethtool",
            &["-K", &format!("host{}", host + 1), "gro", if is_on { "on" } else { "off" }],
        );
    }

    /// Gives a host another device, in the network behind a box or on the internet itself. The last one that was
    /// plugged in has the way out.
    pub(crate) fn plug_in(&mut self, host: usize, device: &str, to: Option<usize>) {
        self.plugged += 1;
        let number = 40 + self.plugged;
        let leg = self.leg(to, number, Families::V4);
        let (ns, port) = (&self.hosts[host].ns, format!("more{number}"));
        self.wire(to, ns, device, &port);
        // The bridge lets nothing pass until the kernel has told it that the other end is up: an ARP request that is
        // lost there is repeated after a second.
        ns.ip(&format!("link set {device} up"));
        let above = to.map_or(&self.backbone, |parent| &self.boxes[parent].ns);
        wait_for("the bridge forwards", SOON, || {
            above.ip(&format!("-d link show {port}")).contains("state forwarding").then_some(())
        });
        leg.connect(ns, device);
        self.hosts[host].outer_v4 = leg.v4.expect("it has IPv4").0;
        self.behind[host] = to;
    }

    /// Has a host's box give out ports, with an outside address that is none of those for documents: software
    /// that is not ours looks at that. Nothing leaves the namespaces. Gives that address.
    #[track_caller]
    pub(crate) fn router(&mut self, host: usize, speaks: Speaks) -> Ipv4Addr {
        let number = u8::try_from(self.box_of(host) + 1).expect("few boxes");
        let (gate, address) = (self.gate(host), Ipv4Addr::new(44, 0, 0, 100 + number));
        gate.ns.ip(&format!("addr add {address}/32 dev out"));
        self.backbone.ip(&format!("route add {address} via {}", gate.outside));
        let router = Router::start(gate, address, speaks, self.folder.path());
        self.routers.push(router);
        address
    }

    /// Whether the router at a host's box leads a port to it.
    #[track_caller]
    pub(crate) fn is_mapped(&self, host: usize) -> bool {
        router::maps(self.gate(host), self.hosts[host].outer_v4)
    }

    /// The internet's router, and what hosts would find behind it.
    pub(crate) fn backbone(&self) -> &NetNs {
        &self.backbone
    }

    /// Starts all daemons.
    #[track_caller]
    pub(crate) fn up(mut self) -> Self {
        self.hosts.iter_mut().for_each(|host| host.start(&How::Plain));
        self
    }

    /// Waits until each of these hosts has an answer from each other one.
    #[track_caller]
    pub(crate) fn wait_for_all_pairs(&self, hosts: &[usize], patience: Duration) {
        crowd::wait_for_all_pairs(&self.hosts, hosts, patience);
    }

    /// The path of one host to another while there is traffic.
    #[track_caller]
    pub(crate) fn wait_for_path(&self, from: usize, to: usize, path: &str, patience: Duration) {
        crowd::wait_for_path(&self.hosts, from, to, path, patience);
    }
}

impl Leg {
    /// Gives a device its addresses and its way out.
    fn connect(&self, ns: &NetNs, device: &str) {
        if self.v6.is_none() {
            // Not even a link-local address: behind it would be a way that an internet does not have.
            ns.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1");
        }
        ns.ip(&format!("link set {device} up"));
        if let Some((address, length, gateway)) = self.v4 {
            ns.ip(&format!("addr add {address}/{length} dev {device}"));
            ns.ip(&format!("route replace default via {gateway}"));
        }
        if let Some((address, gateway)) = self.v6 {
            ns.ip(&format!("addr add {address}/64 dev {device} nodad"));
            ns.ip(&format!("route add default via {gateway}"));
        }
    }
}

/// A namespace whose link-local addresses are used at once: while one is on trial, a router does not look
/// for those that it has something for, which takes a second.
fn namespace() -> NetNs {
    let ns = NetNs::create(PREFIX);
    for device in ["all", "default"] {
        ns.sysctl(&format!("net.ipv6.conf.{device}.accept_dad"), "0");
    }
    ns
}

/// A member of the IPv6 network of the internet, which is 0, or behind a box.
fn member_v6(network: u8, member: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, network.into(), 0, 0, 0, 0, member.into())
}

impl Drop for Internet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = String::new();
            self.boxes.iter().for_each(|one| one.describe(&mut text));
            self.hosts.iter().for_each(|host| host.describe(&mut text));
            eprint!("{text}");
        }
    }
}
