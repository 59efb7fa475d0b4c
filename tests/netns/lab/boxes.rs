//! Boxes between hosts and the internet: NATs and firewalls of the kinds that there are, made of real
//! nftables in a namespace. A box's device `out` leads to the internet, its bridge `in` to the hosts behind.
//!
//! Linux's own `masquerade` keeps a host's port if nobody else uses it to the same destination; if it cannot,
//! it takes another by chance, and keeps to that for later destinations. So two hosts behind it with the same
//! port can have the same outside port, and one of them a second one as well. The three cones are made of
//! maps instead, so that they are what their names say for all hosts behind them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::namespace::NetNs;

/// What a box does to UDP over IPv4. TCP and ICMP get a plain `masquerade`, except with [`Kind::OutgoingOnly`].
/// IPv6 is not translated, but only answers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One outside port for each inside port, and everybody may send to it.
    FullCone,
    /// One outside port for each inside port; addresses that were sent to may send, from any port.
    Restricted,
    /// One outside port for each inside port; only who was sent to may send.
    PortRestricted,
    /// What Linux does by itself: the outside port is the inside port; only who was sent to may send. Of
    /// two hosts with the same port, the second has another to destinations of the first.
    Masquerade,
    /// Each new destination is sent to from the next port; only who was sent to may send.
    SymmetricPredictable,
    /// Each new destination is sent to from a port by chance; only who was sent to may send.
    SymmetricRandom,
    /// No translation: a firewall that lets answers in.
    OutgoingOnly,
    /// Like [`Kind::Masquerade`], but no UDP passes.
    UdpBlocked,
}

impl Kind {
    /// Whether an inside port has one outside port, for all hosts and destinations.
    fn is_cone(self) -> bool {
        matches!(self, Self::FullCone | Self::Restricted | Self::PortRestricted)
    }

    pub(crate) fn translates(self) -> bool {
        self != Self::OutgoingOnly
    }
}

/// How a box differs from the plain one of its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Hosts behind it reach one another by their outside addresses; for cones.
    pub(crate) hairpin: bool,
    /// Hosts behind it do not reach one another directly.
    pub(crate) isolated: bool,
    /// It has IPv6 too, and so have hosts behind it.
    pub(crate) v6: bool,
    /// Seconds until a flow without answers is forgotten.
    pub(crate) udp_timeout: u32,
    /// Seconds until a flow with answers is forgotten, and a cone's mapping after what was sent last.
    pub(crate) udp_timeout_stream: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { hairpin: false, isolated: false, v6: false, udp_timeout: 30, udp_timeout_stream: 120 }
    }
}

/// Outside ports that boxes which count hand out: below those that Linux gives to sockets.
const PORTS: u16 = 4096;

/// One box.
#[derive(Debug)]
pub(crate) struct Middlebox {
    pub(crate) ns: NetNs,
    pub(crate) kind: Kind,
    pub(crate) options: Options,
    /// Its outside address.
    pub(crate) outside: Ipv4Addr,
    /// The network behind it.
    pub(super) inside: Network,
}

/// The IPv4 network behind a box.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub(super) base: Ipv4Addr,
    pub(super) length: u8,
}

impl Network {
    /// The address of a member; the box is 1.
    pub(super) fn member(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + u32::from(number))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl Middlebox {
    /// Makes a box of a namespace whose device `out` leads outside. `first_port` is the first that it hands
    /// out if it is of a kind that counts.
    pub(super) fn new(
        ns: NetNs,
        kind: Kind,
        options: Options,
        outside: Ipv4Addr,
        inside: Network,
        first_port: u16,
        folder: &Path,
    ) -> Self {
        assert!(!options.hairpin || kind.is_cone(), "{kind:?}: there is no hairpin without a cone");
        let new = Self { ns, kind, options, outside, inside };
        new.ns.ip("link add in type bridge");
        new.ns.ip("link set in up");
        new.ns.ip(&format!("addr add {}/{} dev in", inside.member(1), inside.length));
        new.ns.sysctl("net.ipv4.ip_forward", "1");
        // What goes back to where it came from is no mistake here.
        for device in ["all", "default", "in", "out"] {
            new.ns.sysctl(&format!("net.ipv4.conf.{device}.send_redirects"), "0");
        }
        // Hosts behind the box that talk directly are no flows of the box.
        new.ns.sysctl("net.bridge.bridge-nf-call-iptables", "0");
        new.ns.sysctl("net.bridge.bridge-nf-call-ip6tables", "0");
        if options.v6 {
            new.ns.sysctl("net.ipv6.conf.all.forwarding", "1");
        }
        let file = folder.join(new.ns.name());
        std::fs::write(&file, new.rules(first_port)).expect("the rules are written");
        new.ns.succeed("nft", &["-f", file.to_str().expect("a path of plain letters")]);
        // These exist once a rule tracks connections.
        new.ns.sysctl("net.netfilter.nf_conntrack_udp_timeout", &options.udp_timeout.to_string());
        let stream = options.udp_timeout_stream.to_string();
        new.ns.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", &stream);
        new
    }

    /// Its inside address, by which hosts behind it go out.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.inside.member(1)
    }

    /// Everything that the box does.
    fn rules(&self, first_port: u16) -> String {
        let blocked = match self.kind {
            Kind::UdpBlocked => "meta l4proto udp counter name refused drop",
            _ => "",
        };
        let (cone, translate) = (self.cone(), self.translate());
        let ports = self.ports(first_port);
        // What is dropped leaves no flow behind. An unexpected datagram must be: were it answered with an
        // ICMP error, its flow would stay, and the host behind could not send to its source from this port.
        format!(
            "table inet box {{
                counter flows {{ }}
                counter refused {{ }}
                {ports}
                {cone}
                chain input {{
                    type filter hook input priority filter; policy accept;
                    meta l4proto udp counter name refused drop
                    meta l4proto tcp drop
                }}
                chain forward {{
                    type filter hook forward priority filter; policy drop;
                    {blocked}
                    ct state established,related accept
                    iifname \"in\" oifname \"out\" accept
                    ct status dnat accept
                    meta l4proto udp counter name refused
                }}
                chain leave {{
                    type nat hook postrouting priority srcnat; policy accept;
                    meta l4proto udp counter name flows
                    {translate}
                }}
            }}"
        )
    }

    /// The ports that are handed out, by numbers from 0. A generated number is no port as it is: its bytes
    /// are in the host's order, so that `snat to :numgen inc ..` goes up by 256.
    fn ports(&self, first: u16) -> String {
        if !self.kind.is_cone() && self.kind != Kind::SymmetricPredictable {
            return String::new();
        }
        let (mut ports, mut numbers) = (String::new(), String::new());
        for number in 0..PORTS {
            let _ = write!(ports, "{number} : {},", first + number);
            let _ = write!(numbers, "{} : {number},", first + number);
        }
        format!(
            "map ports {{ type mark : inet_service; elements = {{ {ports} }}; }}
             map numbers {{ type inet_service : mark; elements = {{ {numbers} }}; }}"
        )
    }

    /// How a flow that leaves gets its source.
    fn translate(&self) -> String {
        let (outside, ours) = (self.outside, "meta l4proto udp meta nfproto ipv4");
        let udp = match self.kind {
            Kind::FullCone | Kind::Restricted | Kind::PortRestricted => format!(
                "iifname \"in\" {ours} meta mark set ip saddr . udp sport map @mapped \
                 snat ip to {outside} : meta mark map @ports"
            ),
            Kind::SymmetricPredictable => format!(
                "oifname \"out\" {ours} meta mark set numgen inc mod {PORTS} \
                 snat ip to {outside} : meta mark map @ports"
            ),
            Kind::SymmetricRandom => format!("oifname \"out\" {ours} masquerade fully-random"),
            Kind::Masquerade | Kind::UdpBlocked => format!("oifname \"out\" {ours} masquerade"),
            Kind::OutgoingOnly => return String::new(),
        };
        format!("{udp}\noifname \"out\" meta l4proto != udp meta nfproto ipv4 masquerade")
    }

    /// A cone's memory. What a host sends tells which port is whose; by that, what comes in finds its host.
    fn cone(&self) -> String {
        let (outside, inside) = (self.outside, self.inside);
        let hairpin = self.options.hairpin;
        // Who may send to a port, if not who is answered anyway: from outside, and from behind the box.
        let (from_out, from_in) = match self.kind {
            Kind::FullCone => (Some(""), ""),
            Kind::Restricted => (Some("meta mark . ip saddr @sent"), "meta mark . ip daddr @sent"),
            Kind::PortRestricted => (None, "meta mark . ct mark @paired"),
            _ => return String::new(),
        };
        let to_port = format!("ip daddr {outside} meta l4proto udp meta mark set udp dport map @numbers");
        let to_owner = "dnat ip to meta mark map @address : meta mark map @port";
        let mut arrive = String::new();
        if let Some(may) = from_out {
            let _ = writeln!(arrive, "iifname \"out\" {to_port} {may} {to_owner}");
        }
        if hairpin {
            let _ = writeln!(arrive, "iifname \"in\" {to_port} {from_in} {to_owner}");
        }
        let timeout = self.options.udp_timeout_stream;
        let dynamic = format!("flags dynamic,timeout; size 65535; timeout {timeout}s;");
        let leaving = format!("iifname \"in\" ip daddr != {inside} meta l4proto udp");
        format!(
            "map mapped {{ type ipv4_addr . inet_service : mark; {dynamic} }}
             map address {{ type mark : ipv4_addr; {dynamic} }}
             map port {{ type mark : inet_service; {dynamic} }}
             set sent {{ type mark . ipv4_addr; {dynamic} }}
             set paired {{ type mark . mark; {dynamic} }}
             chain learn {{
                type filter hook prerouting priority dstnat - 10; policy accept;
                {leaving} ip saddr . udp sport != @mapped meta mark set numgen inc mod {PORTS} \
                    add @mapped {{ ip saddr . udp sport : meta mark }}
                {leaving} meta mark set ip saddr . udp sport map @mapped \
                    update @mapped {{ ip saddr . udp sport : meta mark }} \
                    update @address {{ meta mark : ip saddr }} \
                    update @port {{ meta mark : udp sport }} \
                    update @sent {{ meta mark . ip daddr }}
                {leaving} ip daddr {outside} ct mark set meta mark \
                    meta mark set udp dport map @numbers update @paired {{ ct mark . meta mark }}
             }}
             chain arrive {{
                type nat hook prerouting priority dstnat; policy accept;
                {arrive}
             }}"
        )
    }

    /// Forgets all flows and mappings, as a box does that is switched off and on. Ports that are handed out
    /// by counting go on from where they were; `masquerade` gives the same ones again.
    #[track_caller]
    pub(crate) fn reboot(&self) {
        if self.kind.is_cone() {
            let names = ["map inet box mapped", "map inet box address", "map inet box port"];
            let sets = ["set inet box sent", "set inet box paired"];
            let commands: Vec<String> =
                names.iter().chain(&sets).map(|name| format!("flush {name};")).collect();
            self.ns.succeed("nft", &[&commands.concat()]);
        }
        self.ns.inside(forget_flows).expect("the kernel forgets flows");
    }

    /// From now on no UDP passes.
    #[track_caller]
    pub(crate) fn block_udp(&self) {
        self.ns.succeed("nft", &["insert rule inet box forward meta l4proto udp counter name refused drop"]);
    }

    /// UDP passes again that did not since [`Middlebox::block_udp`].
    #[track_caller]
    pub(crate) fn pass_udp(&self) {
        let rules = self.ns.succeed("nft", &["--handle", "list", "chain", "inet", "box", "forward"]);
        let rule = rules.lines().find(|line| line.contains("l4proto udp") && line.contains("drop"));
        let handle = rule.and_then(|rule| rule.rsplit(' ').next()).expect("UDP is blocked");
        self.ns.succeed("nft", &["delete", "rule", "inet", "box", "forward", "handle", handle]);
    }

    /// UDP flows that have passed since the box was made, each counted once, whichever side began.
    #[track_caller]
    pub(crate) fn flows(&self) -> u64 {
        self.count("flows")
    }

    /// Datagrams that were not let through.
    #[track_caller]
    pub(crate) fn refused(&self) -> u64 {
        self.count("refused")
    }

    /// UDP flows that the box remembers now. A box has flows of its own too, such as IGMP.
    #[track_caller]
    pub(crate) fn remembered(&self) -> u64 {
        self.flow_table().lines().filter(|line| line.contains(" udp ")).count() as u64
    }

    /// What the kernel prints of its flows, in which those that have expired are missing. The sysctl
    /// `nf_conntrack_count` has them until the kernel cleans up, which it does once a minute.
    fn flow_table(&self) -> String {
        let file = "/proc/thread-self/net/nf_conntrack";
        self.ns.inside(|| std::fs::read_to_string(file)).expect("connections are tracked")
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.ns.succeed("nft", &["list", "counter", "inet", "box", name]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no counter in {text}"))
    }

    /// What a person would look at when something is wrong.
    pub(super) fn describe(&self, text: &mut String) {
        let _ = writeln!(text, "==== box {:?} {} in {}", self.kind, self.outside, self.ns.name());
        let _ = write!(text, "-- flows\n{}", self.flow_table());
        for arguments in [&["list", "counters"][..], &["list", "map", "inet", "box", "mapped"]] {
            let output = self.ns.output("nft", arguments);
            let _ = write!(text, "-- nft {arguments:?}\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// What `conntrack -F` asks of the kernel, for the namespace of the calling thread.
fn forget_flows() -> nix::Result<()> {
    /// CTNETLINK's IPCTNL_MSG_CT_DELETE: without naming a flow, all.
    const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 2;
    const LENGTH: usize = 20;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut request = Vec::with_capacity(LENGTH);
    request.extend((LENGTH as u32).to_ne_bytes());
    request.extend(DELETE.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Its number, the kernel's choice of a port, any family, version 0, no resource.
    request.extend([0; 12]);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // An acknowledgement is an error of number 0.
    let error = answer[..length].get(16..LENGTH).and_then(|bytes| bytes.first_chunk());
    match error.map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes)) {
        0 => Ok(()),
        error => Err(nix::errno::Errno::from_raw(-error)),
    }
}
