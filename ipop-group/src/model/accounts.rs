//! Accounts, and the sessions of browsers.

use rusqlite::{Connection, params};

use super::optional;
use crate::error::Error;
use crate::names;
use crate::secrets::hash;

/// Accounts of the server.
const ACCOUNTS_MAX: i64 = 10_000;
/// Sessions of one account; the one that was used longest ago gives way.
const SESSIONS_MAX: i64 = 16;
/// A session ends so long after it was last used, in s.
pub const IDLE_S: u64 = 24 * 3600;
/// And so long after it began.
pub const SESSION_S: u64 = 14 * 24 * 3600;
/// That a session was used is written down this often, in s.
const USED_STEP_S: u64 = 300;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: i64,
    pub name: String,
    pub display: String,
}

/// # Errors
/// A name that is none, or that looks like another's.
pub fn create(
    connection: &Connection,
    name: &str,
    display: &str,
    password: &str,
    now: u64,
) -> Result<i64, Error> {
    let name = names::label("user name", name)?;
    let display = if display.trim().is_empty() { name.to_string() } else { names::display(display)? };
    let count: i64 = connection.query_row("SELECT count(*) FROM accounts", [], |row| row.get(0))?;
    if count >= ACCOUNTS_MAX {
        return Err(Error::Full(format!("the server has {ACCOUNTS_MAX} accounts: no more fit")));
    }
    let mut looks = vec![names::skeleton(name.as_str()), names::skeleton(&display)];
    looks.dedup();
    for look in &looks {
        let taken = connection.query_row("SELECT 1 FROM looks WHERE skeleton = ?1", [look], |_| Ok(()));
        if optional(taken)?.is_some() {
            return Err(Error::Conflict("somebody has this name, or one that looks like it".to_owned()));
        }
    }
    connection.execute(
        "INSERT INTO accounts (name, display, password, created) VALUES (?1, ?2, ?3, ?4)",
        params![name.as_str(), display, password, now],
    )?;
    let id = connection.last_insert_rowid();
    for look in looks {
        connection.execute("INSERT INTO looks (skeleton, account) VALUES (?1, ?2)", params![look, id])?;
    }
    Ok(id)
}

/// The account of a name, and its password's hash.
///
/// # Errors
/// Those of the database.
pub fn find(connection: &Connection, name: &str) -> Result<Option<(Account, String)>, Error> {
    let row = connection.query_row(
        "SELECT id, name, display, password FROM accounts WHERE name = ?1",
        [name],
        |row| Ok((Account { id: row.get(0)?, name: row.get(1)?, display: row.get(2)? }, row.get(3)?)),
    );
    optional(row)
}

/// Sets a password, and ends all sessions and access tokens of the account.
///
/// # Errors
/// If there is no such account.
pub fn set_password(connection: &Connection, name: &str, password: &str) -> Result<(), Error> {
    let (account, _) = find(connection, name)?.ok_or(Error::NotFound("account"))?;
    connection.execute("UPDATE accounts SET password = ?1 WHERE id = ?2", params![password, account.id])?;
    connection.execute("DELETE FROM sessions WHERE account = ?1", [account.id])?;
    connection.execute("DELETE FROM access WHERE account = ?1", [account.id])?;
    Ok(())
}

/// Begins a session that is known by `cookie`.
///
/// # Errors
/// Those of the database.
pub fn begin_session(connection: &Connection, account: i64, cookie: &str, now: u64) -> Result<(), Error> {
    connection.execute(
        "DELETE FROM sessions WHERE used < ?1 OR created < ?2",
        params![now.saturating_sub(IDLE_S), now.saturating_sub(SESSION_S)],
    )?;
    connection.execute(
        "DELETE FROM sessions WHERE hash IN
         (SELECT hash FROM sessions WHERE account = ?1 ORDER BY used DESC LIMIT -1 OFFSET ?2)",
        params![account, SESSIONS_MAX - 1],
    )?;
    connection.execute(
        "INSERT INTO sessions (hash, account, created, used) VALUES (?1, ?2, ?3, ?3)",
        params![hash(cookie), account, now],
    )?;
    Ok(())
}

/// Whose session it is, and whether it is time to write down that it was used.
///
/// # Errors
/// Those of the database.
pub fn session(connection: &Connection, cookie: &str, now: u64) -> Result<Option<(Account, bool)>, Error> {
    let row = connection.query_row(
        "SELECT accounts.id, name, display, used FROM sessions JOIN accounts ON accounts.id = account
         WHERE hash = ?1 AND used >= ?2 AND sessions.created >= ?3",
        params![hash(cookie), now.saturating_sub(IDLE_S), now.saturating_sub(SESSION_S)],
        |row| {
            Ok((Account { id: row.get(0)?, name: row.get(1)?, display: row.get(2)? }, row.get::<_, u64>(3)?))
        },
    );
    Ok(optional(row)?.map(|(account, used)| (account, now.saturating_sub(used) >= USED_STEP_S)))
}

/// # Errors
/// Those of the database.
pub fn touch_session(connection: &Connection, cookie: &str, now: u64) -> Result<(), Error> {
    connection.execute("UPDATE sessions SET used = ?1 WHERE hash = ?2", params![now, hash(cookie)])?;
    Ok(())
}

/// # Errors
/// Those of the database.
pub fn end_session(connection: &Connection, cookie: &str) -> Result<(), Error> {
    connection.execute("DELETE FROM sessions WHERE hash = ?1", [hash(cookie)])?;
    Ok(())
}
