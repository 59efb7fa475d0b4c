//! What has been done by whom. It is written in the transaction of the deed.

use rusqlite::{Connection, params};

use crate::error::Error;

/// Entries of one group; the oldest give way.
const ENTRIES_MAX: i64 = 10_000;
/// How many more may be there until they do.
const SLACK: i64 = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: u64,
    pub actor: String,
    pub action: String,
    pub subject: String,
}

/// Writes an entry down.
///
/// # Errors
/// Those of the database.
pub fn record(
    connection: &Connection,
    group: i64,
    now: u64,
    actor: &str,
    action: &str,
    subject: &str,
) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO audit (group_id, at, actor, action, subject) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![group, now, actor, action, subject],
    )?;
    if connection.last_insert_rowid() % SLACK == 0 {
        connection.execute(
            "DELETE FROM audit WHERE group_id = ?1 AND id <=
             (SELECT id FROM audit WHERE group_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            params![group, ENTRIES_MAX],
        )?;
    }
    Ok(())
}

/// The newest first.
///
/// # Errors
/// Those of the database.
pub fn list(connection: &Connection, group: i64, offset: usize, count: usize) -> Result<Vec<Entry>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT at, actor, action, subject FROM audit WHERE group_id = ?1 ORDER BY id DESC LIMIT ?2 OFFSET ?3",
    )?;
    let rows = statement.query_map(params![group, count, offset], |row| {
        Ok(Entry { at: row.get(0)?, actor: row.get(1)?, action: row.get(2)?, subject: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
