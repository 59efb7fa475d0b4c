//! Accounts, groups and what belongs to them: what may be done, as functions on the database.
//!
//! | file | what |
//! |---|---|
//! | `accounts` | accounts and their sessions |
//! | `access` | access tokens, by which programs do what an account may |
//! | `groups` | groups and their settings |
//! | `authority` | what a group's authority signs: certificates, the list of revoked ones, the parameters |
//! | `users` | accounts as members of a group, and what each may do |
//! | `nodes` | nodes that ask to join, that are members, that were |
//! | `tokens` | join tokens |
//! | `rules` | who may reach whom |
//! | `audit` | what has been done by whom |

pub mod access;
pub mod accounts;
pub mod audit;
pub mod authority;
pub mod groups;
pub mod nodes;
pub mod rules;
pub mod tokens;
pub mod users;

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Where somebody or something stands that has asked to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Approved,
    Denied,
    Removed,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Approved, Self::Denied, Self::Removed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::invalid("a state is pending, approved, denied or removed"))
    }
}

/// Reads a column that was checked before it was written.
fn stored<T: FromStr>(text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| Error::Internal(format!("the database has the value {text:?} where it cannot be")))
}

/// A row or `None`.
fn optional<T>(row: rusqlite::Result<T>) -> Result<Option<T>, Error> {
    use rusqlite::OptionalExtension;
    Ok(row.optional()?)
}
