//! The configuration file of `ipopd`: read once, checked once, and from then on only valid values.
//!
//! Owns the language (sections, keys, defaults) and every message about a mistake in it. It opens
//! no sockets, resolves no names and looks at no interfaces: what the machine says about a valid
//! configuration is the daemon's to find out.

mod check;
mod endpoint;
mod explain;
mod name;
mod overlap;
mod prefix;
mod problem;
mod raw;

use ipop_common::ethernet;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use ipop_overlay::dhcp::Pool;
use ipop_overlay::{NodeAddress, ring};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::group::{GroupPlace, Membership, MembershipError};
use crate::key::PublicKey;
use crate::secret_file;

pub use endpoint::{Bootstrap, Endpoint, EndpointError, Transport};
pub use name::InterfaceName;
pub(crate) use name::{is_domain, is_name};
pub use prefix::{Prefix, PrefixError};
pub use problem::{ConfigErrors, Problem};

/// Where `ipopd` and `ipopctl` look if nobody says otherwise.
pub const CONFIG_FILE: &str = "/etc/ipop/ipop.toml";

/// What a key has when the file is silent about it. The keys without an entry here are required
/// (`node.name`, `node.key_file`, and `network.name` and `network.addresses` without `network.group`), or optional with no value
/// (`node.metrics`, `underlay.interfaces`, `peer.endpoint`, `dhcp.pool`, `dhcp.ipv6`, `dhcp.address`) or empty (`underlay.trusted`,
/// `underlay.bootstrap`, `underlay.external`, `underlay.stun`, `underlay.turn`). `network.secret` is required as soon as there is a peer.
pub mod defaults {
    use super::{Io, Kernel, Mtu, Queues, Resolver, Seal, Security, Xdp};

    pub const STATE_DIR: &str = "/var/lib/ipop";
    pub const CONTROL_SOCKET: &str = "/run/ipop/ipopd.sock";
    /// `network.mode`.
    pub const MODE: &str = "l3";
    pub const DEVICE: &str = "ipop0";
    pub const MTU: Mtu = Mtu::Auto;
    /// Port of both wildcard addresses that `underlay.listen` defaults to.
    pub const PORT: u16 = 15_000;
    pub const KERNEL: Kernel = Kernel::Auto;
    pub const XDP: Xdp = Xdp::Auto;
    pub const IO: Io = Io::Auto;
    pub const SECURITY: Security = Security::Sealed;
    pub const SEAL: Seal = Seal::Auto;
    pub const QUEUES: Queues = Queues::Auto;
    /// `routing.priority`.
    pub const ROUTING_PRIORITY: u8 = 100;
    /// `dns.enabled`.
    pub const DNS: bool = true;
    pub const RESOLVER: Resolver = Resolver::Auto;
    /// `dhcp.lease_s`; as the original.
    pub const LEASE_S: u32 = 3600;
}

/// `underlay.external`: with the one of a router, as many as a node tells others of.
pub const EXTERNAL_MAX: usize = ring::LENT_MAX - 1;
/// `underlay.stun`.
pub const STUN_MAX: usize = ring::SERVERS_MAX;
/// `[[underlay.turn]]`.
pub const TURN_MAX: usize = 4;
/// `dns.forward`: more are not asked within the time that a resolver waits.
pub const FORWARD_MAX: usize = 4;
/// Names in `dns.hosts`, and addresses of each.
pub const DNS_HOSTS_MAX: usize = 4096;
pub const DNS_ADDRESSES_MAX: usize = 16;
/// `dns.services`.
pub const DNS_SERVICES_MAX: usize = 16;
/// Entries of `routing.accept`, and nodes that each of them names.
pub const ACCEPT_MAX: usize = 64;
pub const ACCEPT_FROM_MAX: usize = 32;
/// `datapath.queues`.
pub const QUEUES_MAX: u8 = 16;

/// A node shares one secret with its whole network, so it must not be guessable.
pub const SECRET_LEN_MIN: usize = 16;
/// No configuration of ours comes near; a device file or a mistaken path does.
const FILE_LEN_MAX: u64 = 16 << 20;

/// A whole valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node: Node,
    /// The group that the network is of: then most of what follows is its, once this node is a member.
    pub group: Option<Group>,
    pub network: Network,
    pub underlay: Underlay,
    pub datapath: Datapath,
    pub dns: Dns,
    /// How this node gets its addresses, where `network.addresses` is "dhcp".
    pub dhcp: Option<Dhcp>,
    pub routing: Routing,
    /// The static peers, in the order of the file. Names, keys and prefixes are disjoint.
    pub peers: Vec<Peer>,
}

/// `[node]`. Paths that the file gives relative are relative to the file's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub key_file: PathBuf,
    pub state_dir: PathBuf,
    pub control_socket: PathBuf,
    /// TCP address that serves `/metrics`, beside the control socket which always does.
    pub metrics: Option<SocketAddr>,
}

/// `network.group` and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub place: GroupPlace,
    /// Certificates by which its server is known; `None`: those of this host.
    pub ca: Option<PathBuf>,
    /// By which this node joins without being approved.
    pub token: Option<Secret>,
    /// What this node has as a member, if it is one.
    pub membership: Option<Box<Membership>>,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    /// Present if there are peers.
    pub secret: Option<Secret>,
    pub mode: Mode,
    /// At most [`name::DEVICE_LEN_MAX`] bytes, so that helper devices can add a suffix.
    pub device: InterfaceName,
    /// This node's own addresses, host bits kept: `10.128.0.1/24`. None, where there is [`Config::dhcp`].
    pub addresses: Vec<Prefix>,
    /// In a network that carries Ethernet, with what a frame takes of it ([`Network::frame_overhead`]).
    pub mtu: Mtu,
    /// Packets to groups and broadcasts are carried.
    pub multicast: bool,
    /// What programs send to groups without choosing a device goes to the virtual network.
    pub multicast_route: bool,
}

impl Network {
    /// What frames take of what a link carries whole: the device's MTU is less by that.
    pub fn frame_overhead(&self) -> u16 {
        match self.mode {
            Mode::L3 => 0,
            Mode::L2 => ethernet::OVERHEAD,
        }
    }
}

/// What the virtual network carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// IP packets.
    #[default]
    L3,
    /// Ethernet frames.
    L2,
}

/// `[dhcp]`: a lease in the overlay's DHT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// The addresses of the network, which this node tells the others if nobody has before.
    pub pool: Option<Pool>,
    /// The only address that will do.
    pub address: Option<IpAddr>,
}

impl Dhcp {
    /// The network that the pool is of, where this node is configured with it.
    pub fn network(&self) -> Option<Prefix> {
        let pool = self.pool.as_ref()?;
        Prefix::new(pool.network(), pool.prefix_len())
    }
}

/// `[underlay]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// UDP addresses to bind, at least one, none of them in another's way.
    pub listen: Vec<SocketAddr>,
    /// TCP addresses to listen at; `None`: as for UDP, where that can be had.
    pub tcp: Option<Vec<SocketAddr>>,
    /// `None`: those that the routes to the peers use.
    pub interfaces: Option<Vec<InterfaceName>>,
    pub bootstrap: Vec<Bootstrap>,
    /// `bootstrap` is there, if only as an empty list: this node takes part in the overlay.
    pub has_bootstrap: bool,
    /// Nodes on the same LAN are looked for, and answered.
    pub multicast: bool,
    /// This node passes on what others, which cannot reach each other, send to each other.
    pub relay: bool,
    /// What each two of them may send, in Mbit/s; 0: as much as they like.
    pub relay_mbit_s: u32,
    /// The router is asked for a port that leads here, where this node is behind one.
    pub port_mapping: bool,
    /// Outside addresses that lead to this node, at most [`EXTERNAL_MAX`].
    pub external: Vec<SocketAddr>,
    /// STUN servers that are asked where they see this node, at most [`STUN_MAX`].
    pub stun: Vec<Endpoint>,
    /// TURN servers, at most [`TURN_MAX`]: the first that gives this node an address is used.
    pub turn: Vec<Turn>,
    /// Networks over which links may be clear.
    pub trusted: Vec<Prefix>,
}

impl Underlay {
    /// Whether a clear link may use this address.
    pub fn trusts(&self, addr: IpAddr) -> bool {
        self.trusted.iter().any(|prefix| prefix.contains(addr))
    }
}

/// `[[underlay.turn]]`: a server that passes on what others send to an address of its own (RFC 8656).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// How the server itself is reached.
    pub transport: Transport,
    pub server: Endpoint,
    pub username: String,
    pub password: Secret,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turn:{}?transport={}", self.server, self.transport.scheme())
    }
}

/// `[datapath]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datapath {
    pub kernel: Kernel,
    pub xdp: Xdp,
    pub io: Io,
    pub security: Security,
    pub seal: Seal,
    pub queues: Queues,
}

/// `[dns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    pub enabled: bool,
    pub resolver: Resolver,
    /// Who is asked for names of elsewhere, by this host's own programs, at most [`FORWARD_MAX`].
    pub forward: Vec<SocketAddr>,
    /// The members of the virtual network are answered too.
    pub serve: bool,
    /// The network's domain is added to this host's search list.
    pub search: bool,
    /// Names of hosts that are no peers, in lower case, with their addresses.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Services of this node, like `_http._tcp`, in lower case, with their ports; at most [`DNS_SERVICES_MAX`].
    pub services: BTreeMap<String, u16>,
}

/// `[routing]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// What this node forwards to, at most [`SUBNETS_MAX`](ipop_overlay::routes::SUBNETS_MAX) prefixes.
    pub announce: Vec<Prefix>,
    /// Of several routers of one subnet, the one with the highest is used.
    pub priority: u8,
    /// What is taken of what others announce, at most [`ACCEPT_MAX`].
    pub accept: Vec<Accept>,
    /// By whom this host reaches everything else.
    pub exit_node: Option<NodeAddress>,
}

impl Routing {
    /// Whether this node takes what any other announces.
    pub fn takes(&self) -> bool {
        !self.accept.is_empty() || self.exit_node.is_some()
    }
}

/// One entry of `routing.accept`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// It, and all parts of it.
    pub prefix: Prefix,
    /// At most [`ACCEPT_FROM_MAX`]; any member, if empty.
    pub from: Vec<NodeAddress>,
}

/// `dns.resolver`: how this host's programs are led to this node's DNS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolver {
    /// By systemd-resolved where it runs, else by /etc/resolv.conf.
    #[default]
    Auto,
    #[serde(rename = "systemd-resolved")]
    Resolved,
    #[serde(rename = "resolv.conf")]
    File,
    Off,
}

/// `[[peer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    pub public_key: PublicKey,
    /// What is reached through this peer, at least one prefix, no host bits.
    pub addresses: Vec<Prefix>,
    /// `None`: the peer comes to us.
    pub endpoint: Option<Endpoint>,
    /// Line of its `[[peer]]` in the file, for messages.
    pub line: usize,
}

/// `datapath.kernel`: whether packets of direct links stay in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// Where the kernel lets us; otherwise the user path, and we say why.
    #[default]
    Auto,
    /// Or do not start.
    On,
    Off,
}

/// `datapath.xdp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    #[default]
    Auto,
    Native,
    Generic,
    Off,
}

/// `datapath.io`: how the user path reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Io {
    #[default]
    Auto,
    IoUring,
    Epoll,
}

/// `datapath.security`: which links may be clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// None.
    #[default]
    Sealed,
    /// Those between networks that both ends trust (`underlay.trusted`).
    ClearIfTrusted,
}

/// `datapath.seal`: where the packets of sealed links are sealed and opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seal {
    /// Single packets in the kernel, super-packets in the daemon.
    #[default]
    Auto,
    /// All in the kernel; super-packets are cut before.
    Kernel,
    /// All in the daemon.
    User,
}

/// `datapath.queues`: how many threads carry the daemon's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// One for two CPUs: the stack and the applications need the others.
    Auto,
    Number(NonZeroU8),
}

/// `network.mtu`: the largest inner packet in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// What the interface below carries, less the outer headers.
    Auto,
    Bytes(u16),
}

/// `network.secret`, or the password of a server. It is wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The bytes of the secret, for key derivation.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The same as text, for who wants it as its owner wrote it.
    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(secret)")
    }
}

/// A valid configuration and what is questionable about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Each one is a line to log; none keeps the daemon from working.
    pub warnings: Vec<Problem>,
}

/// Reads and checks a configuration file. If others may read the secret in it, that is a warning, as of
/// `wg-quick`: the secret alone, without a peer's key, opens no session.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let text = read(path)?;
    let mut loaded = parse(&text, path)?;
    let Config { network, underlay, group, .. } = &loaded.config;
    let has_token = group.as_ref().is_some_and(|group| group.token.is_some());
    if network.secret.is_some() || !underlay.turn.is_empty() || has_token {
        loaded.warnings.extend(permission_warning(path));
    }
    Ok(loaded)
}

/// Checks the text of a configuration file. `path` is for messages and for relative paths.
///
/// A mistake in the structure (syntax, an unknown key, a wrong type) is reported alone, because
/// what follows it cannot be trusted; mistakes in the values are reported all at once.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigErrors> {
    let raw = explain::structure(text, path)?;
    check::config(raw, problem::Source { text, path })
}

impl Config {
    /// Whether this node takes part in the overlay: it has ways in, or no peers of its own and is one.
    pub fn has_overlay(&self) -> bool {
        let is_network = self.network.secret.is_some();
        self.group.is_some() || is_network && (self.underlay.has_bootstrap || self.peers.is_empty())
    }

    /// Whether this node may begin: it is a member of its group, or its network has none.
    pub fn is_member(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.membership.is_some())
    }

    /// Takes over what the group says to its members.
    ///
    /// # Errors
    /// What of it this version cannot keep.
    pub fn enter_group(&mut self, membership: Box<Membership>) -> Result<(), MembershipError> {
        membership.enter(self)?;
        if let Some(group) = &mut self.group {
            group.membership = Some(membership);
        }
        Ok(())
    }

    /// What only the holder of the private key can check: that no peer has our own public key.
    pub fn check_own_key(&self, path: &Path, own: &PublicKey) -> Result<(), ConfigErrors> {
        match self.peers.iter().find(|peer| peer.public_key == *own) {
            None => Ok(()),
            Some(peer) => Err(ConfigErrors::from(Problem {
                line: Some(peer.line),
                ..Problem::new(
                    path,
                    format!("peer `{}` has this node's own public key", peer.name),
                    "take this [[peer]] out, or give it the other node's key",
                )
            })),
        }
    }
}

/// One way into the overlay, as `underlay.bootstrap` has them.
pub(crate) fn parse_way_in(text: &str) -> Result<Bootstrap, String> {
    endpoint::parse_bootstrap(text).map_err(|(reason, _)| reason)
}

/// The two wildcard addresses on the default port.
fn default_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, defaults::PORT)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, defaults::PORT)),
    ]
}

fn read(path: &Path) -> Result<Zeroizing<String>, ConfigErrors> {
    let failed = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "write one with `ipopctl init`, or name another with --config",
            io::ErrorKind::PermissionDenied => "run as root, or as the user who owns it",
            _ => "check the path",
        };
        ConfigErrors::from(Problem::new(path, format!("cannot read: {error}"), advice))
    };
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 == FILE_LEN_MAX {
        return Err(Problem::new(path, "too long for a configuration file", "check the path").into());
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            let problem = Problem::new(path, "not UTF-8 text", "save the file as UTF-8");
            Err(Problem { line: Some(line), ..problem }.into())
        }
    }
}

/// A file that is not there any more is not open to anybody.
fn permission_warning(path: &Path) -> Option<Problem> {
    let unfit = secret_file::check_mode(path, &std::fs::metadata(path).ok()?).err()?;
    Some(Problem::new(path, unfit.reason, unfit.advice))
}

#[cfg(test)]
mod tests;
