//! A group's access rules: who may begin to talk to whom, by which protocols and ports; and what of them is about two
//! nodes, as their certificates say who these are.
//!
//! Without any rule everybody may. With one or more, only what a rule allows may begin, and its answers come back. What
//! cannot be read allows nothing.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use blake2::digest::consts::U8;
use blake2::{Blake2s, Digest};
use ipop_common::inner::protocol;
use ipop_common::limits::POLICY_ENTRIES_MAX;
use ipop_common::maps::Link;
use ipop_common::rules::{Direction, KEY_HEAD_BITS, Key, key};

use super::{Grant, Label};

/// Bits of a port.
const PORT_BITS: u32 = 16;

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    All,
    Tag(Label),
    User(Label),
    Node(Label),
}

/// What a rule allows to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Any,
    Tcp,
    Udp,
    Icmp,
}

/// Ports from the first to the last.
pub type Ports = (u16, u16);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub from: Selector,
    pub to: Selector,
    pub protocol: Protocol,
    /// Destination ports of who begins; none: all.
    pub ports: Vec<Ports>,
}

/// What of a rule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError(pub String);

impl core::fmt::Display for RuleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "this version cannot read {:?} in a rule", self.0)
    }
}

impl core::error::Error for RuleError {}

impl Selector {
    /// Reads `*`, `tag:NAME`, `user:NAME` or `node:NAME`.
    ///
    /// # Errors
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        if text == "*" {
            return Ok(Self::All);
        }
        let wrong = || RuleError(text.to_string());
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        let name = Label::new(name).map_err(|_| wrong())?;
        match kind {
            "tag" => Ok(Self::Tag(name)),
            "user" => Ok(Self::User(name)),
            "node" => Ok(Self::Node(name)),
            _ => Err(wrong()),
        }
    }

    /// Whether a node is meant.
    pub fn means(&self, node: &Grant) -> bool {
        match self {
            Self::All => true,
            Self::Tag(tag) => node.tags.contains(tag),
            Self::User(user) => node.user.as_ref() == Some(user),
            Self::Node(name) => node.node == *name,
        }
    }
}

impl Rule {
    /// Reads a rule as the document has it.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub fn parse(from: &str, to: &str, protocol: &str, ports: &[String]) -> Result<Self, RuleError> {
        let named = match protocol {
            "any" => Protocol::Any,
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            _ => return Err(RuleError(protocol.to_string())),
        };
        if !ports.is_empty() && !matches!(named, Protocol::Tcp | Protocol::Udp) {
            return Err(RuleError(alloc::format!("ports of {protocol}")));
        }
        let ports = ports.iter().map(|text| parse_ports(text)).collect::<Result<_, _>>()?;
        Ok(Self { from: Selector::parse(from)?, to: Selector::parse(to)?, protocol: named, ports })
    }
}

impl core::fmt::Display for Selector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Tag(name) => write!(f, "tag:{name}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Node(name) => write!(f, "node:{name}"),
        }
    }
}

impl core::fmt::Display for Rule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Any => "any",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        };
        write!(f, "{} to {}: {protocol}", self.from, self.to)?;
        let ports: Vec<String> = self.ports.iter().map(|range| text_of(*range)).collect();
        if ports.is_empty() { Ok(()) } else { write!(f, " {}", ports.join(",")) }
    }
}

fn parse_ports(text: &str) -> Result<Ports, RuleError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok((first, last)),
        _ => Err(RuleError(text.to_string())),
    }
}

/// What may begin in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Everything, whatever else is said here.
    pub all: bool,
    /// Sorted, apart from one another.
    pub tcp: Vec<Ports>,
    pub udp: Vec<Ports>,
    pub icmp: bool,
}

/// What the rules say of two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What this node may begin.
    pub out: Side,
    /// What the peer may begin.
    pub come: Side,
    /// Ranges of ports that were left out, since there are more than can be held: what they allow is refused.
    pub cut: usize,
}

/// An entry of the table of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub bits: u32,
    pub key: Key,
}

impl Policy {
    /// Everything may begin.
    pub fn open() -> Self {
        let all = Side { all: true, ..Side::default() };
        Self { out: all.clone(), come: all, cut: 0 }
    }

    /// Nothing may.
    pub fn closed() -> Self {
        Self { out: Side::default(), come: Side::default(), cut: 0 }
    }

    /// What rules say of this node and a peer.
    pub fn of(rules: &[Rule], own: &Grant, peer: &Grant) -> Self {
        if rules.is_empty() {
            return Self::open();
        }
        let mut policy = Self { out: Side::of(rules, own, peer), come: Side::of(rules, peer, own), cut: 0 };
        let mut left = POLICY_ENTRIES_MAX;
        for side in [&mut policy.out, &mut policy.come] {
            for ports in [&mut side.tcp, &mut side.udp] {
                let before = ports.len();
                let mut is_full = false;
                ports.retain(|range| {
                    let needed = blocks(*range).count();
                    is_full |= needed > left;
                    left -= if is_full { 0 } else { needed };
                    !is_full
                });
                policy.cut += before - ports.len();
            }
        }
        policy
    }

    pub fn is_open(&self) -> bool {
        self.out.all && self.come.all
    }

    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Out => &self.out,
            Direction::In => &self.come,
        }
    }

    /// Flags of a link to the peer.
    pub fn flags(&self) -> u8 {
        if self.is_open() {
            return 0;
        }
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let is_closed = *self == Self { cut: self.cut, ..Self::closed() };
        Link::RULED
            | flag(self.out.all, Link::MAY_BEGIN)
            | flag(self.come.all, Link::PEER_MAY_BEGIN)
            | flag(is_closed, Link::CLOSED)
    }

    /// By which the tables know it: equal policies have the same, so that flows go on where nothing has changed for them.
    /// 0 where everything is allowed.
    pub fn id(&self) -> u64 {
        if self.is_open() {
            return 0;
        }
        let mut hash = Blake2s::<U8>::new_with_prefix(b"ipop policy v1");
        hash.update([self.flags()]);
        for Entry { bits, key } in self.entries_of(0) {
            hash.update(bits.to_be_bytes());
            key.iter().for_each(|word| hash.update(word.to_ne_bytes()));
        }
        u64::from_be_bytes(hash.finalize().into()).max(1)
    }

    /// Whether a flow may begin.
    pub fn allows(&self, direction: Direction, protocol: u8, port: u16) -> bool {
        let side = self.side(direction);
        let within = |ports: &[Ports]| ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
        side.all
            || match protocol {
                protocol::TCP => within(&side.tcp),
                protocol::UDP => within(&side.udp),
                protocol::ICMP => side.icmp,
                _ => false,
            }
    }

    /// What the table of rules is to hold of it, at most [`POLICY_ENTRIES_MAX`] for ports and two for ICMP.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries_of(self.id())
    }

    fn entries_of(&self, id: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        for direction in [Direction::Out, Direction::In] {
            let side = self.side(direction);
            if side.all {
                continue;
            }
            for (protocol, ports) in [(protocol::TCP, &side.tcp), (protocol::UDP, &side.udp)] {
                entries.extend(ports.iter().flat_map(|range| blocks(*range)).map(|(port, bits)| Entry {
                    bits: KEY_HEAD_BITS + bits,
                    key: key(id, direction, protocol, port),
                }));
            }
            if side.icmp {
                let key = key(id, direction, protocol::ICMP, 0);
                entries.push(Entry { bits: KEY_HEAD_BITS + PORT_BITS, key });
            }
        }
        entries
    }
}

impl Side {
    fn of(rules: &[Rule], from: &Grant, to: &Grant) -> Self {
        let mut side = Self::default();
        for rule in rules.iter().filter(|rule| rule.from.means(from) && rule.to.means(to)) {
            let whole = [(0, u16::MAX)];
            let ports = if rule.ports.is_empty() { &whole[..] } else { &rule.ports[..] };
            match rule.protocol {
                Protocol::Any => side.all = true,
                Protocol::Tcp => side.tcp.extend(ports),
                Protocol::Udp => side.udp.extend(ports),
                Protocol::Icmp => side.icmp = true,
            }
        }
        if side.all {
            return Self { all: true, ..Self::default() };
        }
        side.tcp = joined(side.tcp);
        side.udp = joined(side.udp);
        side
    }
}

impl core::fmt::Display for Side {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.all {
            return f.write_str("everything");
        }
        let mut parts = Vec::new();
        for (name, ports) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            let texts: Vec<String> = ports.iter().map(|range| text_of(*range)).collect();
            match texts.as_slice() {
                [] => {}
                [all] if all.is_empty() => parts.push(name.to_string()),
                texts => parts.push(alloc::format!("{name} {}", texts.join(","))),
            }
        }
        if self.icmp {
            parts.push("icmp".to_string());
        }
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join(", ")) }
    }
}

/// Nothing for all.
fn text_of((first, last): Ports) -> String {
    match (first, last) {
        (0, u16::MAX) => String::new(),
        (first, last) if first == last => first.to_string(),
        (first, last) => alloc::format!("{first}-{last}"),
    }
}

/// Sorted, and those that touch made one.
fn joined(mut ports: Vec<Ports>) -> Vec<Ports> {
    ports.sort_unstable();
    let mut joined: Vec<Ports> = Vec::new();
    for (first, last) in ports {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// A range as blocks that begin at a multiple of their length: the first port, and the bits of it that count.
fn blocks((first, last): Ports) -> impl Iterator<Item = (u16, u32)> {
    let mut next = u32::from(first);
    let end = u32::from(last) + 1;
    core::iter::from_fn(move || {
        let room = end.checked_sub(next).filter(|room| *room > 0)?;
        // A block is no longer than what is left, and begins where it may.
        let size_bits = room.ilog2().min(next.trailing_zeros()).min(PORT_BITS);
        let block = (next as u16, PORT_BITS - size_bits);
        next += 1 << size_bits;
        Some(block)
    })
}

#[cfg(test)]
mod tests;
