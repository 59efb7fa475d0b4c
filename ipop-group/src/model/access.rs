//! Access tokens: by each a program may do what its account may, until it expires.

use rusqlite::{Connection, params};

use super::accounts::Account;
use super::optional;
use crate::error::Error;
use crate::names;
use crate::secrets::hash;

/// Access tokens of one account.
const TOKENS_MAX: i64 = 16;
/// An access token is told from other texts by this.
pub const PREFIX: &str = "ipga_";
/// How long one may count, in days.
const DAYS_MAX: u64 = 365;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub id: i64,
    pub label: String,
    pub expires: u64,
}

/// Makes an access token of which `text` is the secret.
///
/// # Errors
/// A label or a time that is none, or too many of the account's.
pub fn create(
    connection: &Connection,
    account: i64,
    text: &str,
    label: &str,
    days: &str,
    now: u64,
) -> Result<(), Error> {
    let label = names::display(label)?;
    let days = days.trim().parse().ok().filter(|days| (1..=DAYS_MAX).contains(days));
    let days: u64 =
        days.ok_or_else(|| Error::Invalid(format!("an access token counts for 1 to {DAYS_MAX} days")))?;
    connection.execute("DELETE FROM access WHERE expires < ?1", [now])?;
    let count: i64 =
        connection
            .query_row("SELECT count(*) FROM access WHERE account = ?1", [account], |row| row.get(0))?;
    if count >= TOKENS_MAX {
        return Err(Error::Full(format!(
            "an account has at most {TOKENS_MAX} access tokens: take some back"
        )));
    }
    connection.execute(
        "INSERT INTO access (account, hash, label, created, expires) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![account, hash(text), label, now, now + days * 86_400],
    )?;
    Ok(())
}

/// Those that count, the newest first.
///
/// # Errors
/// Those of the database.
pub fn list(connection: &Connection, account: i64, now: u64) -> Result<Vec<Access>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT id, label, expires FROM access WHERE account = ?1 AND expires >= ?2 ORDER BY id DESC",
    )?;
    let rows = statement.query_map(params![account, now], |row| {
        Ok(Access { id: row.get(0)?, label: row.get(1)?, expires: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Ends one.
///
/// # Errors
/// If the account has none of that number.
pub fn take_back(connection: &Connection, account: i64, id: i64) -> Result<(), Error> {
    let taken =
        connection.execute("DELETE FROM access WHERE id = ?1 AND account = ?2", params![id, account])?;
    if taken == 0 {
        return Err(Error::NotFound("access token"));
    }
    Ok(())
}

/// Whose access token it is, if it counts.
///
/// # Errors
/// Those of the database.
pub fn find(connection: &Connection, text: &str, now: u64) -> Result<Option<Account>, Error> {
    let row = connection.query_row(
        "SELECT accounts.id, name, display FROM access JOIN accounts ON accounts.id = account
         WHERE hash = ?1 AND expires >= ?2",
        params![hash(text), now],
        |row| Ok(Account { id: row.get(0)?, name: row.get(1)?, display: row.get(2)? }),
    );
    optional(row)
}
