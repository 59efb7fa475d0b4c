//! Addresses as the configuration writes them: where we listen, and where peers are.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::key::PublicKey;

/// Where a peer is reached. Displayed as the file may write it, without the scheme.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Address(SocketAddr),
    /// A DNS name, which the daemon resolves.
    Host {
        name: String,
        port: u16,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(address) => write!(f, "{address}"),
            Endpoint::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// How a bootstrap node or a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By UDP; where that gets no answer, by TCP as well.
    Udp,
    /// By TCP.
    Tcp,
}

impl Transport {
    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A node by which this one joins the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    pub transport: Transport,
    pub endpoint: Endpoint,
    /// Who is there; `None`: whoever says so and is a member of the network.
    pub public_key: Option<PublicKey>,
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.scheme(), self.endpoint)
    }
}

/// `udp://host:port` or `tcp://host:port`, and `#PUBLIC_KEY` behind it or not.
pub(super) fn parse_bootstrap(text: &str) -> Result<Bootstrap, Refusal> {
    let (place, key) = match text.split_once('#') {
        Some((place, key)) => (place, Some(key)),
        None => (text, None),
    };
    let (transport, endpoint) = match place.strip_prefix("tcp://") {
        Some(place) => (Transport::Tcp, parse_host_port(text, place)?),
        None => (Transport::Udp, parse_endpoint(place)?),
    };
    let public_key = key.map(str::parse).transpose().map_err(|_| {
        (
            format!("what follows # in `{text}` is no public key"),
            "write the key that `ipopctl key pub` prints there, or leave out both",
        )
    })?;
    Ok(Bootstrap { transport, endpoint, public_key })
}

/// `turn:host:port?transport=udp` or `=tcp` (RFC 7065); without a port 3478, and without a transport UDP.
pub(super) fn parse_turn(text: &str) -> Result<(Transport, Endpoint), Refusal> {
    let Some(rest) = text.strip_prefix("turn:") else {
        let reason = match text.starts_with("turns:") {
            true => format!("`{text}` is to be reached by TLS, which is not in this version"),
            false => format!("`{text}` is no URI of a TURN server"),
        };
        return Err((reason, WRITE_TURN));
    };
    let (place, transport) = match rest.split_once('?') {
        None | Some((_, "transport=udp")) => (rest.split('?').next().unwrap_or(rest), Transport::Udp),
        Some((place, "transport=tcp")) => (place, Transport::Tcp),
        Some((_, other)) => return Err((format!("`{other}` is no transport to a TURN server"), WRITE_TURN)),
    };
    let has_port =
        place.rsplit_once(':').is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
    let place = if has_port { place.to_owned() } else { format!("{place}:{TURN_PORT}") };
    parse_host_port(text, &place)
        .map(|server| (transport, server))
        .map_err(|(reason, _)| (reason, WRITE_TURN))
}

/// Why a text is not an endpoint, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {advice}")]
pub struct EndpointError {
    reason: String,
    advice: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        parse_endpoint(text).map_err(|(reason, advice)| EndpointError { reason, advice })
    }
}

/// Reason and advice.
type Refusal = (String, &'static str);

const WRITE_ENDPOINT: &str =
    "write host:port, like 192.0.2.7:15000, [2001:db8::7]:15000 or node.example.org:15000";
const WRITE_TURN: &str =
    "write turn:host:port?transport=udp or =tcp, like turn:turn.example.org:3478?transport=tcp";
/// Of a TURN server that is given without one (RFC 8656, 14.1 and RFC 7065).
const TURN_PORT: u16 = 3478;
const WRITE_LISTEN_TCP: &str = "write address:port, like tcp://0.0.0.0:443 or tcp://[::]:443";
const WRITE_EXTERNAL: &str =
    "write address:port as others see it, like 203.0.113.5:15000 or [2001:db8::5]:15000";
const WRITE_LISTEN: &str = "write address:port, like udp://0.0.0.0:15000 or udp://[::]:15000";

/// `udp://host:port`, or the same without the scheme.
pub(super) fn parse_endpoint(text: &str) -> Result<Endpoint, Refusal> {
    parse_host_port(text, strip_scheme(text, "udp")?)
}

fn parse_host_port(text: &str, host_port: &str) -> Result<Endpoint, Refusal> {
    if let Ok(address) = host_port.parse::<SocketAddr>() {
        return check_destination(text, address).map(Endpoint::Address);
    }
    let (host, port) = split_port(text, host_port, WRITE_ENDPOINT)?;
    if host.contains(':') {
        return Err((
            format!("`{text}` has an IPv6 address without brackets"),
            "write it like [2001:db8::7]:15000",
        ));
    }
    if !is_dns_name(host) {
        return Err((format!("`{text}` names no host"), WRITE_ENDPOINT));
    }
    Ok(Endpoint::Host { name: host.to_owned(), port })
}

/// `udp://address:port`, or the same without the scheme. Names are not for listening.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, Refusal> {
    parse_own(text, Transport::Udp, WRITE_LISTEN)
}

/// `tcp://address:port`, or the same without the scheme.
pub(super) fn parse_listen_tcp(text: &str) -> Result<SocketAddr, Refusal> {
    parse_own(text, Transport::Tcp, WRITE_LISTEN_TCP)
}

fn parse_own(text: &str, transport: Transport, advice: &'static str) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr = strip_scheme(text, transport.scheme())?
        .parse()
        .map_err(|_| (format!("`{text}` is not an address and port to listen on"), advice))?;
    if address.port() == 0 {
        return Err((format!("`{text}` has no port"), advice));
    }
    if address.ip().is_multicast() {
        return Err((format!("`{text}` is a multicast address"), advice));
    }
    Ok(address)
}

/// `udp://address:port`, or the same without the scheme: an address by which others reach this node.
pub(super) fn parse_external(text: &str) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr = strip_scheme(text, "udp")?
        .parse()
        .map_err(|_| (format!("`{text}` is not an outside address and port"), WRITE_EXTERNAL))?;
    check_destination(text, address).map_err(|(reason, _)| (reason, WRITE_EXTERNAL))?;
    if address.ip().is_loopback() {
        return Err((format!("`{text}` leads others to themselves"), WRITE_EXTERNAL));
    }
    Ok(address)
}

fn strip_scheme<'a>(text: &'a str, wanted: &str) -> Result<&'a str, Refusal> {
    match text.split_once("://") {
        None => Ok(text),
        Some((scheme, rest)) if scheme == wanted => Ok(rest),
        Some((scheme @ ("udp" | "tcp"), _)) => Err((
            format!("`{scheme}://` is not for this key"),
            "`underlay.listen` and `endpoint` take udp://, `underlay.tcp` takes tcp://, `underlay.bootstrap` both",
        )),
        Some((scheme, _)) => {
            Err((format!("`{scheme}://` is no transport of this network"), "use udp:// or tcp://"))
        }
    }
}

fn split_port<'a>(text: &str, host_port: &'a str, advice: &'static str) -> Result<(&'a str, u16), Refusal> {
    let (host, port) = host_port.rsplit_once(':').ok_or_else(|| (format!("`{text}` has no port"), advice))?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok((host, port)),
        _ => Err((format!("`{text}` has no port between 1 and 65535"), advice)),
    }
}

fn check_destination(text: &str, address: SocketAddr) -> Result<SocketAddr, Refusal> {
    let what = match address.ip() {
        _ if address.port() == 0 => "has port 0",
        ip if ip.is_unspecified() => "is the address of no host",
        ip if ip.is_multicast() => "is a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4 address in IPv6 clothes",
        _ => return Ok(address),
    };
    Err((format!("`{text}` {what}"), WRITE_ENDPOINT))
}

/// RFC 1123, section 2.1; a last label of digits alone would be a mistyped IPv4 address.
fn is_dns_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number =
        host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && !last_is_number && host.split('.').all(label_ok)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str, port: u16) -> Endpoint {
        Endpoint::Host { name: name.to_owned(), port }
    }

    #[test]
    fn endpoints_are_addresses_or_names_with_a_port() {
        for (text, expected) in [
            ("udp://10.200.0.2:15000", Endpoint::Address("10.200.0.2:15000".parse().unwrap())),
            ("10.200.0.2:15000", Endpoint::Address("10.200.0.2:15000".parse().unwrap())),
            ("udp://[2001:db8::7]:4", Endpoint::Address("[2001:db8::7]:4".parse().unwrap())),
            ("[fe80::1%3]:4", Endpoint::Address("[fe80::1%3]:4".parse().unwrap())),
            ("udp://node-1.example.org:15000", host("node-1.example.org", 15_000)),
            ("localhost:1", host("localhost", 1)),
        ] {
            assert_eq!(parse_endpoint(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, reason) in [
            ("tcp://10.0.0.1:1", "`tcp://` is not for this key"),
            ("quic://10.0.0.1:1", "`quic://` is no transport of this network"),
            ("10.0.0.1", "`10.0.0.1` has no port"),
            ("10.0.0.1:0", "`10.0.0.1:0` has port 0"),
            ("10.0.0.1:+5", "`10.0.0.1:+5` has no port between 1 and 65535"),
            ("10.0.0.1:70000", "`10.0.0.1:70000` has no port between 1 and 65535"),
            ("10.0.0.300:5", "`10.0.0.300:5` names no host"),
            ("2001:db8::7:15000", "`2001:db8::7:15000` has an IPv6 address without brackets"),
            (":15000", "`:15000` names no host"),
            ("a b:15000", "`a b:15000` names no host"),
            ("host:15000/", "`host:15000/` has no port between 1 and 65535"),
            ("0.0.0.0:15000", "`0.0.0.0:15000` is the address of no host"),
            ("224.0.0.1:5", "`224.0.0.1:5` is a multicast address"),
            ("255.255.255.255:5", "`255.255.255.255:5` is the broadcast address"),
            ("[::ffff:1.2.3.4]:5", "`[::ffff:1.2.3.4]:5` is an IPv4 address in IPv6 clothes"),
        ] {
            assert_eq!(parse_endpoint(text).unwrap_err().0, reason);
        }
    }

    #[test]
    fn listening_wants_an_address_and_a_port() {
        assert_eq!(parse_listen("udp://[::]:15000").unwrap(), "[::]:15000".parse().unwrap());
        for (text, reason) in [
            ("localhost:15000", "`localhost:15000` is not an address and port to listen on"),
            ("udp://0.0.0.0", "`udp://0.0.0.0` is not an address and port to listen on"),
            ("udp://0.0.0.0:0", "`udp://0.0.0.0:0` has no port"),
            ("udp://239.1.1.1:9", "`udp://239.1.1.1:9` is a multicast address"),
            ("tcp://0.0.0.0:9", "`tcp://` is not for this key"),
        ] {
            assert_eq!(parse_listen(text).unwrap_err().0, reason);
        }
        assert_eq!(parse_listen_tcp("tcp://[::]:443").unwrap(), "[::]:443".parse().unwrap());
        assert_eq!(parse_listen_tcp("udp://[::]:443").unwrap_err().0, "`udp://` is not for this key");
        assert_eq!(parse_listen_tcp("[::]:0").unwrap_err().0, "`[::]:0` has no port");
    }

    #[test]
    fn bootstrap_nodes_are_reached_by_either_transport() {
        let bootstrap = parse_bootstrap("tcp://node.example.org:443").unwrap();
        assert_eq!(
            (bootstrap.transport, &bootstrap.endpoint),
            (Transport::Tcp, &host("node.example.org", 443))
        );
        assert_eq!(bootstrap.to_string(), "tcp://node.example.org:443");
        assert_eq!(parse_bootstrap("192.0.2.7:15000").unwrap().transport, Transport::Udp);
        assert_eq!(parse_bootstrap("tcp://192.0.2.7").unwrap_err().0, "`tcp://192.0.2.7` has no port");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(udp://)?[a-z0-9.:\\[\\]é-]{0,30}") {
            if let Ok(endpoint) = parse_endpoint(&text) {
                prop_assert_eq!(parse_endpoint(&endpoint.to_string()).unwrap(), endpoint);
            }
            let _ = parse_listen(&text);
        }
    }
}
