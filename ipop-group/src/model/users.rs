//! Accounts as members of a group, and what each may do.

use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, Row, params};

use super::groups::Group;
use super::{State, audit, nodes, optional, stored};
use crate::error::Error;
use crate::secrets::MasterKey;

/// Accounts of one group that wait for an answer.
const PENDING_MAX: i64 = 256;
/// Accounts of one group, whatever their state.
const USERS_MAX: i64 = 10_000;

/// What one may do: each what the one before may, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees the group, makes join tokens for nodes of its own.
    Member,
    /// Decides who and what may join.
    Manager,
    /// Changes settings, rules and roles.
    Owner,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Member, Self::Manager, Self::Owner];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Manager => "manager",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| Error::invalid("a role is member, manager or owner"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub account: i64,
    pub name: String,
    pub display: String,
    pub role: Role,
    pub state: State,
    pub since: u64,
}

const COLUMNS: &str = "account, name, display, role, state, since";

fn read(row: &Row<'_>) -> Result<User, Error> {
    let text = |index| row.get::<_, String>(index);
    Ok(User {
        account: row.get(0)?,
        name: text(1)?,
        display: text(2)?,
        role: stored(&text(3)?)?,
        state: stored(&text(4)?)?,
        since: row.get(5)?,
    })
}

/// # Errors
/// Those of the database.
pub fn find(connection: &Connection, group: i64, account: i64) -> Result<Option<User>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM users JOIN accounts ON accounts.id = account WHERE group_id = ?1 AND account = ?2"
    );
    optional(connection.prepare_cached(&sql)?.query_row([group, account], |row| Ok(read(row))))?.transpose()
}

/// # Errors
/// Those of the database.
pub fn by_name(connection: &Connection, group: i64, name: &str) -> Result<Option<User>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM users JOIN accounts ON accounts.id = account WHERE group_id = ?1 AND name = ?2"
    );
    optional(connection.prepare_cached(&sql)?.query_row(params![group, name], |row| Ok(read(row))))?
        .transpose()
}

/// Those who wait first, then by name.
///
/// # Errors
/// Those of the database.
pub fn list(connection: &Connection, group: i64, offset: usize, count: usize) -> Result<Vec<User>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM users JOIN accounts ON accounts.id = account WHERE group_id = ?1
         ORDER BY state <> 'pending', state, name LIMIT ?2 OFFSET ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![group, count, offset], |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

/// Groups of an account, with what it is there.
///
/// # Errors
/// Those of the database.
pub fn groups_of(connection: &Connection, account: i64) -> Result<Vec<(String, Role, State)>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT groups.name, role, state FROM users JOIN groups ON groups.id = group_id WHERE account = ?1
         ORDER BY groups.name LIMIT 500",
    )?;
    let rows = statement.query_map([account], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    let read = |row: rusqlite::Result<(String, String, String)>| {
        let (name, role, state) = row?;
        Ok((name, stored(&role)?, stored(&state)?))
    };
    rows.map(read).collect()
}

/// The role of an account, if it is a member.
///
/// # Errors
/// Those of the database.
pub fn role(connection: &Connection, group: i64, account: i64) -> Result<Option<Role>, Error> {
    let user = find(connection, group, account)?;
    Ok(user.filter(|user| user.state == State::Approved).map(|user| user.role))
}

/// # Errors
/// If the account may not do what takes that role.
pub fn require(connection: &Connection, group: i64, account: i64, least: Role) -> Result<Role, Error> {
    role(connection, group, account)?.filter(|role| *role >= least).ok_or(Error::Forbidden)
}

pub(super) fn put(
    connection: &Connection,
    group: i64,
    account: i64,
    role: Role,
    state: State,
    now: u64,
) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO users (group_id, account, role, state, since) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET role = excluded.role, state = excluded.state, since = excluded.since",
        params![group, account, role.as_str(), state.as_str(), now],
    )?;
    Ok(())
}

/// Asks to become a member.
///
/// # Errors
/// One who was denied or removed, or too many who wait.
pub fn ask(connection: &Connection, group: &Group, account: (i64, &str), now: u64) -> Result<(), Error> {
    if let Some(user) = find(connection, group.id, account.0)? {
        return match user.state {
            State::Pending | State::Approved => Ok(()),
            State::Denied | State::Removed => Err(Error::Forbidden),
        };
    }
    let count = |condition: &str| {
        let sql = format!("SELECT count(*) FROM users WHERE group_id = ?1 AND {condition}");
        connection.query_row(&sql, [group.id], |row| row.get::<_, i64>(0))
    };
    if count("state = 'pending'")? >= PENDING_MAX || count("TRUE")? >= USERS_MAX {
        return Err(Error::Full(
            "too many have asked to join this group: its owner must answer first".to_owned(),
        ));
    }
    put(connection, group.id, account.0, Role::Member, State::Pending, now)?;
    audit::record(connection, group.id, now, account.1, "asked to join", account.1)
}

/// Approves, denies or removes a member. With a member its nodes go.
///
/// # Errors
/// If the actor may not, or the group would have no owner.
pub fn decide(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    actor: (i64, &str),
    account: i64,
    state: State,
    now: u64,
) -> Result<(), Error> {
    let by = require(connection, group.id, actor.0, Role::Manager)?;
    let user = find(connection, group.id, account)?.ok_or(Error::NotFound("user"))?;
    if user.role >= by && by != Role::Owner {
        return Err(Error::Forbidden);
    }
    if state != State::Approved && user.role == Role::Owner {
        keeps_an_owner(connection, group.id, account)?;
    }
    // Who comes back comes back as a member.
    let role =
        if state == State::Approved && user.state == State::Approved { user.role } else { Role::Member };
    put(connection, group.id, account, role, state, now)?;
    if state != State::Approved {
        nodes::remove_all_of(connection, master, group, account, now)?;
        connection.execute(
            "DELETE FROM tokens WHERE group_id = ?1 AND account = ?2 AND used IS NULL",
            params![group.id, account],
        )?;
    }
    audit::record(connection, group.id, now, actor.1, &format!("{state} user"), &user.name)
}

/// Gives a member another role.
///
/// # Errors
/// If the actor is no owner, or the group would have none.
pub fn promote(
    connection: &Connection,
    group: &Group,
    actor: (i64, &str),
    account: i64,
    role: Role,
    now: u64,
) -> Result<(), Error> {
    require(connection, group.id, actor.0, Role::Owner)?;
    let user = find(connection, group.id, account)?.filter(|user| user.state == State::Approved);
    let user = user.ok_or(Error::NotFound("member"))?;
    if user.role == Role::Owner && role != Role::Owner {
        keeps_an_owner(connection, group.id, account)?;
    }
    put(connection, group.id, account, role, State::Approved, user.since)?;
    audit::record(connection, group.id, now, actor.1, &format!("made {role}"), &user.name)
}

fn keeps_an_owner(connection: &Connection, group: i64, without: i64) -> Result<(), Error> {
    let others: i64 = connection.query_row(
        "SELECT count(*) FROM users WHERE group_id = ?1 AND account <> ?2 AND role = 'owner' AND state = 'approved'",
        params![group, without],
        |row| row.get(0),
    )?;
    if others == 0 {
        return Err(Error::Conflict("a group keeps an owner: make somebody else one first".to_owned()));
    }
    Ok(())
}
