//! The configuration file as TOML gives it: the known sections and keys, each value with its place
//! in the text. What the values mean is not decided here.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use toml::Spanned;

pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: RawNode,
    pub(super) network: Spanned<RawNetwork>,
    #[serde(default)]
    pub(super) underlay: RawUnderlay,
    #[serde(default)]
    pub(super) datapath: RawDatapath,
    #[serde(default)]
    pub(super) dns: RawDns,
    pub(super) dhcp: Option<Spanned<RawDhcp>>,
    #[serde(default)]
    pub(super) routing: RawRouting,
    #[serde(default, rename = "peer")]
    pub(super) peers: Vec<Spanned<RawPeer>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: Text,
    pub(super) key_file: Text,
    pub(super) state_dir: Option<Text>,
    pub(super) control_socket: Option<Text>,
    pub(super) metrics: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    pub(super) name: Option<Text>,
    pub(super) secret: Option<Text>,
    pub(super) group: Option<Text>,
    pub(super) group_ca: Option<Text>,
    pub(super) group_token: Option<Text>,
    pub(super) mode: Option<Spanned<RawMode>>,
    pub(super) device: Option<Text>,
    pub(super) addresses: Option<Spanned<RawAddresses>>,
    pub(super) mtu: Option<Spanned<RawAutoOr>>,
    pub(super) multicast: Option<bool>,
    pub(super) multicast_route: Option<bool>,
}

impl fmt::Debug for RawNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawNetwork").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUnderlay {
    pub(super) listen: Option<Spanned<Vec<Text>>>,
    pub(super) interfaces: Option<Spanned<Vec<Text>>>,
    pub(super) bootstrap: Option<Spanned<Vec<Text>>>,
    pub(super) tcp: Option<Spanned<Vec<Text>>>,
    pub(super) multicast: Option<bool>,
    pub(super) relay: Option<bool>,
    pub(super) relay_mbit_s: Option<u32>,
    pub(super) port_mapping: Option<bool>,
    pub(super) external: Option<Spanned<Vec<Text>>>,
    pub(super) stun: Option<Spanned<Vec<Text>>>,
    pub(super) turn: Option<Spanned<Vec<RawTurn>>>,
    #[serde(default)]
    pub(super) trusted: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTurn {
    pub(super) server: Text,
    pub(super) username: Text,
    pub(super) password: Text,
}

impl fmt::Debug for RawTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawTurn").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDatapath {
    #[serde(default)]
    pub(super) kernel: super::Kernel,
    #[serde(default)]
    pub(super) xdp: super::Xdp,
    #[serde(default)]
    pub(super) io: super::Io,
    #[serde(default)]
    pub(super) security: super::Security,
    #[serde(default)]
    pub(super) seal: super::Seal,
    pub(super) queues: Option<Spanned<RawAutoOr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) resolver: super::Resolver,
    #[serde(default)]
    pub(super) forward: Vec<Text>,
    #[serde(default)]
    pub(super) serve: bool,
    #[serde(default)]
    pub(super) search: bool,
    #[serde(default)]
    pub(super) hosts: BTreeMap<Text, Spanned<Vec<Text>>>,
    #[serde(default)]
    pub(super) services: BTreeMap<Text, Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDhcp {
    pub(super) pool: Option<Text>,
    pub(super) ipv6: Option<Text>,
    pub(super) lease_s: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) reserved: BTreeMap<Text, Text>,
    pub(super) address: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRouting {
    #[serde(default)]
    pub(super) announce: Vec<Text>,
    pub(super) priority: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) accept: Vec<Spanned<RawAccept>>,
    pub(super) exit_node: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccept {
    pub(super) prefix: Text,
    pub(super) from: Option<Spanned<Vec<Text>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    pub(super) name: Text,
    pub(super) public_key: Text,
    pub(super) addresses: Spanned<Vec<Text>>,
    pub(super) endpoint: Option<Text>,
}

/// What the virtual network carries.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawMode {
    L3,
    L2,
}

#[derive(Debug)]
pub(super) enum RawAddresses {
    Dhcp,
    List(Vec<Text>),
}

impl<'de> Deserialize<'de> for RawAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AddressesVisitor;

        impl<'de> Visitor<'de> for AddressesVisitor {
            type Value = RawAddresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list like [\"10.128.0.1/24\"]")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawAddresses, E> {
                match text {
                    "dhcp" => Ok(RawAddresses::Dhcp),
                    _ => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawAddresses, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(RawAddresses::List(texts))
            }
        }

        deserializer.deserialize_any(AddressesVisitor)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RawAutoOr {
    Auto,
    Number(i64),
}

impl<'de> Deserialize<'de> for RawAutoOr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrVisitor;

        impl Visitor<'_> for AutoOrVisitor {
            type Value = RawAutoOr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawAutoOr, E> {
                match text {
                    "auto" => Ok(RawAutoOr::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<RawAutoOr, E> {
                Ok(RawAutoOr::Number(number))
            }
        }

        deserializer.deserialize_any(AutoOrVisitor)
    }
}
