//! Join tokens: each lets one node in, once, without anybody who approves it.

use ipop_overlay::group::{Label, TAGS_MAX};
use rusqlite::{Connection, params};

use super::groups::Group;
use super::users::{self, Role};
use super::{audit, optional};
use crate::error::Error;
use crate::names;
use crate::secrets::hash;

/// Tokens of one group that have been neither used nor taken back.
const OPEN_MAX: i64 = 1000;
/// A token is told from other texts by this.
pub const PREFIX: &str = "ipgt_";
/// Used and expired tokens are shown for so long, in s.
const KEPT_S: u64 = 30 * 86_400;
/// How long a token may count, in hours.
const HOURS_MAX: u64 = 24 * 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: i64,
    pub maker: String,
    pub tags: Vec<Label>,
    pub expires: u64,
    pub used: Option<u64>,
    pub node: Option<String>,
}

/// Reads tags out of a text, sorted.
///
/// # Errors
/// One that is no name, or too many.
pub fn read_tags(text: &str) -> Result<Vec<Label>, Error> {
    let words = text.split([',', ' ']).filter(|word| !word.trim().is_empty());
    let mut tags = words.map(|word| names::label("tag", word)).collect::<Result<Vec<_>, _>>()?;
    tags.sort();
    tags.dedup();
    if tags.len() > TAGS_MAX {
        return Err(Error::Invalid(format!("a node has at most {TAGS_MAX} tags")));
    }
    Ok(tags)
}

pub(super) fn tags_text(tags: &[Label]) -> String {
    tags.iter().map(Label::as_str).collect::<Vec<_>>().join(" ")
}

/// Tags are a manager's to give: when the token is made and when it is used.
fn may_tag(role: Role, tags: &[Label]) -> bool {
    tags.is_empty() || role >= Role::Manager
}

/// Makes a token of which `text` is the secret. A member's node gets tags from a manager only.
///
/// # Errors
/// If the actor may not, or there are too many.
pub fn create(
    connection: &Connection,
    group: &Group,
    actor: (i64, &str),
    text: &str,
    tags: &[Label],
    hours: &str,
    now: u64,
) -> Result<(), Error> {
    let role = users::require(connection, group.id, actor.0, Role::Member)?;
    if !may_tag(role, tags) {
        return Err(Error::Forbidden);
    }
    let hours = hours.trim().parse().ok().filter(|hours| (1..=HOURS_MAX).contains(hours));
    let hours: u64 =
        hours.ok_or_else(|| Error::Invalid(format!("a token counts for 1 to {HOURS_MAX} hours")))?;
    connection.execute(
        "DELETE FROM tokens WHERE group_id = ?1 AND expires < ?2",
        params![group.id, now.saturating_sub(KEPT_S)],
    )?;
    let open: i64 = connection.query_row(
        "SELECT count(*) FROM tokens WHERE group_id = ?1 AND used IS NULL",
        [group.id],
        |row| row.get(0),
    )?;
    if open >= OPEN_MAX {
        return Err(Error::Full(format!("a group has at most {OPEN_MAX} open tokens: take some back")));
    }
    connection.execute(
        "INSERT INTO tokens (group_id, hash, account, tags, created, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![group.id, hash(text), actor.0, tags_text(tags), now, now + hours * 3600],
    )?;
    audit::record(connection, group.id, now, actor.1, "made a join token", &tags_text(tags))
}

/// The newest first: all for a manager, one's own for a member.
///
/// # Errors
/// Those of the database.
pub fn list(connection: &Connection, group: i64, account: i64, role: Role) -> Result<Vec<Token>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT tokens.id, accounts.name, tokens.tags, expires, used, nodes.name FROM tokens
         JOIN accounts ON accounts.id = tokens.account LEFT JOIN nodes ON nodes.id = node
         WHERE tokens.group_id = ?1 AND (?2 OR tokens.account = ?3) ORDER BY tokens.id DESC LIMIT 200",
    )?;
    let rows = statement.query_map(params![group, role >= Role::Manager, account], |row| {
        Ok((row.get::<_, String>(2)?, row.get(0)?, row.get(1)?, row.get(3)?, row.get(4)?, row.get(5)?))
    })?;
    let read = |row: rusqlite::Result<_>| {
        let (tags, id, maker, expires, used, node): (String, _, _, _, _, _) = row?;
        Ok(Token { id, maker, tags: read_tags(&tags)?, expires, used, node })
    };
    rows.map(read).collect()
}

/// Takes back a token that has not been used.
///
/// # Errors
/// If it is another's and the actor is no manager.
pub fn take_back(
    connection: &Connection,
    group: &Group,
    actor: (i64, &str),
    id: i64,
    now: u64,
) -> Result<(), Error> {
    let role = users::require(connection, group.id, actor.0, Role::Member)?;
    let taken = connection.execute(
        "DELETE FROM tokens WHERE id = ?1 AND group_id = ?2 AND used IS NULL AND (?3 OR account = ?4)",
        params![id, group.id, role >= Role::Manager, actor.0],
    )?;
    if taken == 0 {
        return Err(Error::NotFound("open token"));
    }
    audit::record(connection, group.id, now, actor.1, "took back a join token", &id.to_string())
}

/// What a token gives to a node: whose it is then, and its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub id: i64,
    pub account: i64,
    pub maker: String,
    pub tags: Vec<Label>,
}

/// The token, if it counts: of this group, not expired, not used, and its maker is a member still.
///
/// # Errors
/// Why it does not count; all reasons look the same to who guesses.
pub fn find(connection: &Connection, group: &Group, text: &str, now: u64) -> Result<Granted, Error> {
    let row = connection.query_row(
        "SELECT tokens.id, tokens.account, name, tags FROM tokens JOIN accounts ON accounts.id = tokens.account
         WHERE hash = ?1 AND group_id = ?2 AND used IS NULL AND expires >= ?3",
        params![hash(text), group.id, now],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?)),
    );
    let does_not_count =
        || Error::invalid("this join token does not count: used, expired, taken back, or of another group");
    let (id, account, maker, tags): (_, _, _, String) = optional(row)?.ok_or_else(does_not_count)?;
    let role = users::role(connection, group.id, account)?.ok_or_else(does_not_count)?;
    let tags = read_tags(&tags)?;
    if !may_tag(role, &tags) {
        return Err(does_not_count());
    }
    Ok(Granted { id, account, maker, tags })
}

pub(super) fn use_up(connection: &Connection, token: &Granted, node: i64, now: u64) -> Result<(), Error> {
    connection
        .execute("UPDATE tokens SET used = ?1, node = ?2 WHERE id = ?3", params![now, node, token.id])?;
    Ok(())
}
