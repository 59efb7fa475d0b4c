//! Names: of nodes and networks, which appear in tables and on command lines, and of interfaces,
//! which the kernel has its own rules for.

use std::fmt;
use std::net::IpAddr;

/// Longest name of a node, peer or network in bytes: a DNS label.
const NAME_LEN_MAX: usize = 63;
/// IFNAMSIZ less its zero byte.
const INTERFACE_LEN_MAX: usize = 15;
/// Longest `network.device` in bytes: helper devices add a suffix of up to 5.
pub(super) const DEVICE_LEN_MAX: usize = INTERFACE_LEN_MAX - 5;

/// A name that the kernel accepts for an interface.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reason for refusal, as the end of a sentence that begins with the name.
    pub(super) fn new(text: &str, len_max: usize) -> Result<Self, String> {
        // dev_valid_name() in net/core/dev.c; `%` would make the kernel number the device.
        let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.len() > len_max {
            return Err(format!("is longer than {len_max} bytes"));
        }
        if text == "." || text == ".." || text.contains(bad) {
            return Err("has a `/`, `:`, `%` or space in it, or is dots alone".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// The name of an interface that exists already.
    pub(super) fn existing(text: &str) -> Result<Self, String> {
        Self::new(text, INTERFACE_LEN_MAX)
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for InterfaceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Whether a node, peer or network may have this name. A name that reads as an IP address would be
/// mistaken for one by `ipopctl explain`.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text.parse::<IpAddr>().is_err()
}

/// Whether a name, which is one as [`is_name`] says, can be part of a name of the DNS: none of its labels is empty.
pub(crate) fn is_domain(text: &str) -> bool {
    text.split('.').all(|label| !label.is_empty())
}
