//! Writes configuration files of ipopd for two nodes on one wire, and one between them. Owns the choice of names and
//! addresses; the language itself is ipopd's.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One of the two nodes, or the one between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Near,
    Far,
    Middle,
}

impl Side {
    /// The other end, as seen from one; the near one, as seen from the middle.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far | Self::Middle => Self::Near,
        }
    }

    pub(crate) fn node_name(self) -> &'static str {
        match self {
            Self::Near => "alpha",
            Self::Far => "beta",
            Self::Middle => "gamma",
        }
    }

    pub(crate) fn virtual_v4(self) -> &'static str {
        match self {
            Self::Near => "10.128.0.1",
            Self::Far => "10.128.0.2",
            Self::Middle => "10.128.0.3",
        }
    }

    pub(crate) fn virtual_v6(self) -> &'static str {
        match self {
            Self::Near => "fd00:128::1",
            Self::Far => "fd00:128::2",
            Self::Middle => "fd00:128::3",
        }
    }
}

/// The virtual device of every node of ours.
pub(crate) const DEVICE: &str = "ipop0";
pub(crate) const PORT: u16 = 15000;

/// What one node's configuration says.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) side: Side,
    /// Where key, state and socket are; different for every node on a machine.
    pub(crate) folder: PathBuf,
    pub(crate) network: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) carried: Carried,
    /// Where the kernel path may be; the routes tell where there is none.
    pub(crate) wire_device: Option<&'a str>,
    pub(crate) wire_prefix: &'a str,
    /// The underlay address of the other node, if it is to be reached there.
    pub(crate) peer_address: Option<&'a str>,
    /// Where there is none, others are found by the overlay.
    pub(crate) peer_key: Option<&'a str>,
    /// Ways into the overlay, if the node is to be part of it.
    pub(crate) bootstrap: Option<&'a [String]>,
    /// A TURN server, as an entry of `underlay.turn`.
    pub(crate) turn: Option<&'a TurnAccount<'a>>,
    /// Networks behind nodes.
    pub(crate) routing: Option<Routing<'a>>,
    pub(crate) datapath: Datapath,
    /// Public keys of peers that call by themselves, from wherever they are.
    pub(crate) callers: &'a [String],
}

/// What a virtual network carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Packets of IP.
    Packets,
    /// Ethernet frames.
    Frames,
}

impl Carried {
    fn mode(self) -> &'static str {
        match self {
            Self::Packets => "l3",
            Self::Frames => "l2",
        }
    }
}

/// What a node says of a network behind one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Routing<'a> {
    Announce(&'a str),
    Accept(&'a str),
}

/// A TURN server, and who a node is there.
#[derive(Debug, Clone)]
pub(crate) struct TurnAccount<'a> {
    /// As RFC 7065 writes it.
    pub(crate) server: String,
    pub(crate) username: &'a str,
    pub(crate) password: &'a str,
}

/// The `[datapath]` section, in ipopd's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datapath {
    pub(crate) kernel: &'static str,
    pub(crate) xdp: &'static str,
    pub(crate) io: &'static str,
    pub(crate) security: &'static str,
}

impl Datapath {
    /// What ipopd does by itself.
    pub(crate) const SEALED: Self = Self { kernel: "auto", xdp: "auto", io: "auto", security: "sealed" };
    /// The same on a wire that both ends trust.
    pub(crate) const CLEAR: Self = Self { security: "clear-if-trusted", ..Self::SEALED };

    /// What the link is once it is up: all wires here are trusted by both ends.
    pub(crate) fn link_security(&self) -> &'static str {
        if self.security == Self::CLEAR.security { "clear" } else { "sealed" }
    }
}

impl Node<'_> {
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.join("node.key")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(crate) fn to_toml(&self) -> String {
        let peer = self.side.other();
        let mut text = String::new();
        section(
            &mut text,
            "[node]",
            &[
                ("name", quoted(self.side.node_name())),
                ("key_file", quoted_path(&self.key_file())),
                ("state_dir", quoted_path(&self.folder.join("state"))),
                ("control_socket", quoted_path(&self.control_socket())),
            ],
        );
        let addresses = [format!("{}/24", self.side.virtual_v4()), format!("{}/64", self.side.virtual_v6())];
        section(
            &mut text,
            "[network]",
            &[
                ("name", quoted(self.network)),
                ("secret", quoted(self.secret)),
                ("mode", quoted(self.carried.mode())),
                ("device", quoted(DEVICE)),
                ("addresses", list(&addresses)),
                ("mtu", quoted("auto")),
            ],
        );
        let mut underlay = vec![
            ("listen", list(&[format!("udp://0.0.0.0:{PORT}")])),
            ("trusted", list(&[self.wire_prefix])),
        ];
        underlay.extend(self.wire_device.map(|device| ("interfaces", list(&[device]))));
        if let Some(bootstrap) = self.bootstrap {
            underlay.extend([("bootstrap", list(bootstrap)), ("multicast", "false".to_owned())]);
        }
        section(&mut text, "[underlay]", &underlay);
        if let Some(turn) = self.turn {
            let entry = [
                ("server", quoted(&turn.server)),
                ("username", quoted(turn.username)),
                ("password", quoted(turn.password)),
            ];
            section(&mut text, "[[underlay.turn]]", &entry);
        }
        section(
            &mut text,
            "[datapath]",
            &[
                ("kernel", quoted(self.datapath.kernel)),
                ("xdp", quoted(self.datapath.xdp)),
                ("io", quoted(self.datapath.io)),
                ("security", quoted(self.datapath.security)),
            ],
        );
        if let Some(routing) = self.routing {
            let entry = match routing {
                Routing::Announce(prefix) => ("announce", list(&[prefix])),
                Routing::Accept(prefix) => ("accept", format!("[{{ prefix = {} }}]", quoted(prefix))),
            };
            section(&mut text, "[routing]", &[entry]);
        }
        // The machine's resolver is not these nodes' business.
        section(&mut text, "[dns]", &[("resolver", quoted("off"))]);
        if let Some(key) = self.peer_key {
            let mut entries = vec![
                ("name", quoted(peer.node_name())),
                ("public_key", quoted(key)),
                ("addresses", list(&[peer.virtual_v4(), peer.virtual_v6()])),
            ];
            let endpoint = self.peer_address.map(|address| quoted(&format!("udp://{address}:{PORT}")));
            entries.extend(endpoint.map(|endpoint| ("endpoint", endpoint)));
            section(&mut text, "[[peer]]", &entries);
        }
        for (number, key) in self.callers.iter().enumerate() {
            let address = format!("10.129.{}.{}", number / 256, number % 256);
            section(
                &mut text,
                "[[peer]]",
                &[
                    ("name", quoted(&format!("caller{number}"))),
                    ("public_key", quoted(key)),
                    ("addresses", list(&[address])),
                ],
            );
        }
        text
    }
}

fn section(text: &mut String, header: &str, entries: &[(&str, String)]) {
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{gap}{header}");
    for (key, value) in entries {
        let _ = writeln!(text, "{key} = {value}");
    }
}

/// A TOML basic string.
fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn list<T: AsRef<str>>(values: &[T]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| quoted(value.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_written_in_the_config_language() {
        let node = Node {
            side: Side::Far,
            folder: PathBuf::from("/tmp/x y"),
            network: "demo",
            secret: "a \"quoted\" secret",
            carried: Carried::Frames,
            wire_device: Some("p2"),
            wire_prefix: "10.200.0.0/24",
            peer_address: Some("10.200.0.1"),
            peer_key: Some("base64="),
            bootstrap: None,
            turn: None,
            routing: Some(Routing::Accept("10.9.0.0/16")),
            datapath: Datapath { kernel: "off", ..Datapath::CLEAR },
            callers: &["another=".to_owned()],
        };
        let text = node.to_toml();
        for line in [
            "name = \"beta\"",
            "mode = \"l2\"",
            "key_file = \"/tmp/x y/node.key\"",
            "secret = \"a \\\"quoted\\\" secret\"",
            "addresses = [\"10.128.0.2/24\", \"fd00:128::2/64\"]",
            "interfaces = [\"p2\"]",
            "kernel = \"off\"",
            "accept = [{ prefix = \"10.9.0.0/16\" }]",
            "xdp = \"auto\"",
            "addresses = [\"10.128.0.1\", \"fd00:128::1\"]",
            "endpoint = \"udp://10.200.0.1:15000\"",
        ] {
            assert!(text.lines().any(|written| written == line), "no line {line} in\n{text}");
        }
        let headers: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
        assert_eq!(
            headers,
            ["[node]", "[network]", "[underlay]", "[datapath]", "[routing]", "[dns]", "[[peer]]", "[[peer]]"]
        );
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quoted("a\\b\n"), "\"a\\\\b\\u000A\"");
        assert_eq!(list::<&str>(&[]), "[]");
    }
}
