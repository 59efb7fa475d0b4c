//! Names within a group: of the group itself, its nodes, users and tags.

use alloc::string::String;
use core::fmt;

/// Length of a label in bytes: that of a DNS label (RFC 1035, section 2.3.4), as nodes and groups are found by name.
pub const LABEL_LEN_MAX: usize = 63;

/// 1 to 63 of `a-z`, `0-9` and `-`, with neither end a `-`: one spelling, and no sign that means something to DNS, a URI,
/// a shell, HTML or SQL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Why a text is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelError {
    Length,
    Sign,
    Hyphen,
}

impl Label {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() || text.len() > LABEL_LEN_MAX {
            return Err(LabelError::Length);
        }
        if !text.bytes().all(|sign| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == b'-') {
            return Err(LabelError::Sign);
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(LabelError::Hyphen);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::str::FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        Self::new(text)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a name has 1 to 63 signs",
            Self::Sign => "a name has only the signs a-z, 0-9 and -",
            Self::Hyphen => "a name neither begins nor ends with -",
        })
    }
}

impl core::error::Error for LabelError {}
