//! The meaning of the file: turns the known keys into valid values, and says of every value that
//! is not valid what is wrong with it.

mod dhcp;
mod dns;
mod group;
mod network;
mod peers;
mod routing;
mod underlay;

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use group::Settled;

use super::name::is_name;
use super::prefix::{Prefix, PrefixError};
use super::problem::{ConfigErrors, Problem, Source};
use super::raw::{RawAutoOr, RawConfig, RawDatapath, RawNode, Text};
use super::{Config, Datapath, Dhcp, Loaded, Node, QUEUES_MAX, Queues, defaults};

/// Longest path of a Unix socket: sun_path less its zero byte.
const SOCKET_PATH_LEN_MAX: usize = 107;
const WRITE_NAME: &str = "use 1 to 63 letters, digits, `.`, `_` and `-`, and not an IP address";

/// Checks everything and reports all that is wrong at once.
pub(super) fn config(raw: RawConfig, source: Source<'_>) -> Result<Loaded, ConfigErrors> {
    let mut checker = Checker { source, errors: Vec::new(), warnings: Vec::new() };
    let config = checker.config(raw);
    checker.warnings.sort_by_key(|warning| (warning.line, warning.column));
    match (ConfigErrors::new(checker.errors), config) {
        (None, Some(config)) => Ok(Loaded { config, warnings: checker.warnings }),
        (Some(errors), _) => Err(errors),
        (None, None) => unreachable!("every value that is refused leaves an error"),
    }
}

/// Gathers what is wrong on the way. A check that returns `None` has added an error.
struct Checker<'a> {
    source: Source<'a>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Checker<'_> {
    /// Adds an error. Returns `None`, for the caller to return.
    fn error<T>(
        &mut self,
        span: Range<usize>,
        reason: impl Into<String>,
        advice: impl Into<String>,
    ) -> Option<T> {
        self.errors.push(self.source.problem(&span, reason, advice));
        None
    }

    fn warn(&mut self, span: Range<usize>, reason: impl Into<String>, advice: impl Into<String>) {
        self.warnings.push(self.source.problem(&span, reason, advice));
    }

    fn config(&mut self, mut raw: RawConfig) -> Option<Config> {
        let node = self.node(&raw.node);
        let Settled { group, name, addresses } = group::settle(self, &mut raw)?;
        let own = network::own_addresses(self, raw.network.get_ref(), &addresses);
        let dhcp = dhcp::check(self, raw.dhcp.as_ref(), &addresses);
        let addresses = addresses.span();
        let mode = raw.network.get_ref().mode.as_ref().map_or(0..0, Spanned::span);
        let peers = peers::check(self, &raw.peers, &raw.node.name, own.as_deref().unwrap_or_default());
        let pool = dhcp.as_ref().and_then(Option::as_ref).and_then(Dhcp::network);
        let virtual_networks: Vec<Prefix> = own.iter().flatten().copied().chain(pool).collect();
        let routing = routing::check(self, &raw.routing, &virtual_networks, &raw.peers);
        routing::needs_overlay(self, &raw.routing, raw.network.get_ref(), &raw.underlay, &raw.peers);
        let network = network::check(self, raw.network, &name, own, &raw.peers);
        let underlay = underlay::check(self, &raw.underlay);
        let datapath = self.datapath(&raw.datapath);
        let dns = dns::check(self, &raw.dns, &raw.node.name, &raw.peers);
        let config = Config {
            node: node?,
            group,
            network: network?,
            underlay: underlay?,
            datapath: datapath?,
            dns: dns?,
            dhcp: dhcp?,
            routing: routing?,
            peers: peers?,
        };
        dhcp::check_overlay(self, addresses, &config)?;
        network::check_mode(self, mode, &config)?;
        peers::warn(self, &raw.peers, &config);
        dns::warn(self, &raw.peers, &config);
        underlay::warn(self, &raw.underlay, &config);
        Some(config)
    }

    fn node(&mut self, raw: &RawNode) -> Option<Node> {
        let name = self.name("node.name", &raw.name);
        let key_file = self.path("node.key_file", &raw.key_file);
        let state_dir = match &raw.state_dir {
            Some(text) => self.path("node.state_dir", text),
            None => Some(PathBuf::from(defaults::STATE_DIR)),
        };
        let control_socket = match &raw.control_socket {
            Some(text) => self.socket_path(text),
            None => Some(PathBuf::from(defaults::CONTROL_SOCKET)),
        };
        let metrics = match &raw.metrics {
            Some(text) => self.metrics(text).map(Some),
            None => Some(None),
        };
        Some(Node {
            name: name?,
            key_file: key_file?,
            state_dir: state_dir?,
            control_socket: control_socket?,
            metrics: metrics?,
        })
    }

    fn metrics(&mut self, text: &Text) -> Option<std::net::SocketAddr> {
        match text.get_ref().parse::<std::net::SocketAddr>() {
            Ok(address) if address.port() != 0 => Some(address),
            _ => self.error(
                text.span(),
                format!("`{}` is not an address and port for metrics", text.get_ref()),
                "write one like 127.0.0.1:9100 or [::1]:9100",
            ),
        }
    }

    fn datapath(&mut self, raw: &RawDatapath) -> Option<Datapath> {
        let RawDatapath { kernel, xdp, io, security, seal, ref queues } = *raw;
        Some(Datapath { kernel, xdp, io, security, seal, queues: self.queues(queues.as_ref())? })
    }

    fn queues(&mut self, raw: Option<&Spanned<RawAutoOr>>) -> Option<Queues> {
        let Some(raw) = raw else { return Some(defaults::QUEUES) };
        let RawAutoOr::Number(number) = *raw.get_ref() else { return Some(Queues::Auto) };
        let valid = u8::try_from(number).ok().filter(|number| *number <= QUEUES_MAX).and_then(NonZeroU8::new);
        match valid {
            Some(number) => Some(Queues::Number(number)),
            None => self.error(
                raw.span(),
                format!("{number} queues are not between 1 and {QUEUES_MAX}"),
                "use \"auto\", or at most one for each CPU",
            ),
        }
    }

    fn name(&mut self, key: &str, text: &Text) -> Option<String> {
        if is_name(text.get_ref()) {
            return Some(text.get_ref().clone());
        }
        self.error(text.span(), format!("`{}` cannot be a `{key}`", text.get_ref()), WRITE_NAME)
    }

    /// A path as written, or under the directory of the configuration file.
    fn path(&mut self, key: &str, text: &Text) -> Option<PathBuf> {
        if text.get_ref().is_empty() || text.get_ref().contains('\0') {
            return self.error(text.span(), format!("`{key}` is not a path"), "write the path of a file");
        }
        let directory = self.source.path.parent().unwrap_or(Path::new(""));
        Some(directory.join(text.get_ref()))
    }

    fn socket_path(&mut self, text: &Text) -> Option<PathBuf> {
        let path = self.path("node.control_socket", text)?;
        if path.as_os_str().len() > SOCKET_PATH_LEN_MAX {
            let reason = format!("the path of a socket has at most {SOCKET_PATH_LEN_MAX} bytes");
            return self.error(text.span(), reason, "choose a shorter one, like /run/ipop/ipopd.sock");
        }
        Some(path)
    }

    fn prefix(&mut self, text: &Text) -> Option<Prefix> {
        text.get_ref().parse().map_or_else(
            |error: PrefixError| {
                let advice = match error {
                    PrefixError::Unparsable(_) => "write it like 10.128.0.2, 10.128.0.0/24 or fd00:128::/64",
                    PrefixError::TooLong { .. } => "write a length that the address has bits for",
                    PrefixError::Mapped(_) => "write it as IPv4",
                };
                self.error(text.span(), error.to_string(), advice)
            },
            Some,
        )
    }

    /// A prefix that names a network or one address, and not an address *in* a network.
    fn network_prefix(&mut self, text: &Text) -> Option<Prefix> {
        let prefix = self.prefix(text)?;
        if prefix.has_host_bits() {
            return self.error(
                text.span(),
                format!("`{prefix}` has bits set beyond its length"),
                format!(
                    "write {} for the network, or {} for the one address",
                    prefix.network(),
                    prefix.addr()
                ),
            );
        }
        Some(prefix)
    }
}

/// What makes an address unfit for one host, as the end of a sentence that begins with it.
fn unfit_for_a_host(addr: IpAddr) -> Option<&'static str> {
    match addr {
        ip if ip.is_unspecified() => Some("is the address of no host"),
        ip if ip.is_loopback() => Some("is a loopback address"),
        ip if ip.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address"),
        _ => None,
    }
}
