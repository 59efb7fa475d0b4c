//! Nodes of a group: those that ask, those that are members, those that were.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipop_overlay::NodeAddress;
use ipop_overlay::group::Label;
use rusqlite::{Connection, Row, params};

use super::groups::{Group, Lease};
use super::tokens::{self, read_tags, tags_text};
use super::users::{self, Role};
use super::{State, audit, authority, optional, stored};
use crate::error::Error;
use crate::names;
use crate::secrets::MasterKey;

/// Nodes of one group that wait for an answer.
pub const PENDING_MAX: i64 = 256;
/// Nodes of one group, whatever their state.
const NODES_MAX: i64 = 20_000;
/// Denied nodes that are remembered.
const DENIED_MAX: i64 = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: i64,
    pub key: [u8; 32],
    pub name: Label,
    /// Whose it is.
    pub user: Option<String>,
    pub state: State,
    pub tags: Vec<Label>,
    pub virtual_address: Option<IpAddr>,
    pub since: u64,
    /// When it last reported; 0 if it never has.
    pub seen: u64,
    /// Its last report, as JSON.
    pub report: String,
}

impl Node {
    pub fn address(&self) -> NodeAddress {
        NodeAddress::of_key(&self.key)
    }
}

const COLUMNS: &str =
    "nodes.id, key, nodes.name, accounts.name, state, tags, virtual_address, since, seen, report";
const TABLES: &str = "nodes LEFT JOIN accounts ON accounts.id = nodes.account";

fn read(row: &Row<'_>) -> Result<Node, Error> {
    let text = |index| row.get::<_, String>(index);
    let virtual_address: Option<String> = row.get(6)?;
    Ok(Node {
        id: row.get(0)?,
        key: row.get(1)?,
        name: stored(&text(2)?)?,
        user: row.get(3)?,
        state: stored(&text(4)?)?,
        tags: read_tags(&text(5)?)?,
        virtual_address: virtual_address.as_deref().map(stored).transpose()?,
        since: row.get(7)?,
        seen: row.get(8)?,
        report: row.get(9)?,
    })
}

/// # Errors
/// Those of the database.
pub fn by_key(connection: &Connection, group: i64, key: &[u8; 32]) -> Result<Option<Node>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE group_id = ?1 AND key = ?2");
    optional(connection.prepare_cached(&sql)?.query_row(params![group, key], |row| Ok(read(row))))?
        .transpose()
}

/// # Errors
/// If there is none.
pub fn by_id(connection: &Connection, group: i64, id: i64) -> Result<Node, Error> {
    let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE group_id = ?1 AND nodes.id = ?2");
    let row = connection.prepare_cached(&sql)?.query_row(params![group, id], |row| Ok(read(row)));
    optional(row)?.ok_or(Error::NotFound("node"))?
}

/// Those that have or ask for a name, or the one that has an address on the ring.
///
/// # Errors
/// Those of the database.
pub fn called(connection: &Connection, group: i64, who: &str) -> Result<Vec<Node>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {TABLES} WHERE group_id = ?1 AND (nodes.name = ?2 OR address = ?2)
         ORDER BY nodes.id LIMIT 100"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![group, who], |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

/// Which nodes a page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub state: State,
    /// A part of the name.
    pub text: String,
}

/// By name.
///
/// # Errors
/// Those of the database.
pub fn list(
    connection: &Connection,
    group: i64,
    filter: &Filter,
    offset: usize,
    count: usize,
) -> Result<Vec<Node>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {TABLES} WHERE group_id = ?1 AND state = ?2 AND instr(nodes.name, ?3) > 0
         ORDER BY nodes.name, nodes.id LIMIT ?4 OFFSET ?5"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let bound = params![group, filter.state.as_str(), filter.text, count, offset];
    let rows = statement.query_map(bound, |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

/// # Errors
/// Those of the database.
pub fn count(connection: &Connection, group: i64, filter: &Filter) -> Result<usize, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT count(*) FROM nodes WHERE group_id = ?1 AND state = ?2 AND instr(name, ?3) > 0",
    )?;
    Ok(statement.query_row(params![group, filter.state.as_str(), filter.text], |row| row.get(0))?)
}

/// Key, name and when it was last seen, of each member.
///
/// # Errors
/// Those of the database.
pub fn ring(connection: &Connection, group: i64) -> Result<Vec<([u8; 32], String, u64)>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT key, name, seen FROM nodes WHERE group_id = ?1 AND state = 'approved' ORDER BY name",
    )?;
    let rows = statement.query_map([group], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A node asks to join; with a token it is a member at once. Asked twice, it has the same answer.
///
/// # Errors
/// A name that is taken, a token that does not count, too many nodes that wait.
pub fn join(
    connection: &Connection,
    group: &Group,
    key: &[u8; 32],
    name: &str,
    token: Option<&str>,
    now: u64,
) -> Result<Node, Error> {
    let known = by_key(connection, group.id, key)?;
    // A token does not bring back a node that a manager has turned away.
    if let Some(node) = known.as_ref().filter(|node| node.state != State::Pending || token.is_none()) {
        return Ok(node.clone());
    }
    let name = names::label("node name", name)?;
    let granted = token.map(|token| tokens::find(connection, group, token, now)).transpose()?;
    let node = match known {
        Some(node) => node,
        None => insert(connection, group, key, &name, now)?,
    };
    let Some(granted) = granted else { return Ok(node) };
    connection.execute(
        "UPDATE nodes SET account = ?1, tags = ?2 WHERE id = ?3",
        params![granted.account, tags_text(&granted.tags), node.id],
    )?;
    tokens::use_up(connection, &granted, node.id, now)?;
    approve(connection, group, &node, now)?;
    let actor = format!("token of {}", granted.maker);
    audit::record(connection, group.id, now, &actor, "approved node", node.name.as_str())?;
    by_id(connection, group.id, node.id)
}

fn insert(
    connection: &Connection,
    group: &Group,
    key: &[u8; 32],
    name: &Label,
    now: u64,
) -> Result<Node, Error> {
    let skeleton = names::skeleton(name.as_str());
    name_is_free(connection, group.id, &skeleton)?;
    let counted = |condition: &str| {
        let sql = format!("SELECT count(*) FROM nodes WHERE group_id = ?1 AND {condition}");
        connection.query_row(&sql, [group.id], |row| row.get::<_, i64>(0))
    };
    if counted("state = 'pending'")? >= PENDING_MAX || counted("TRUE")? >= NODES_MAX {
        return Err(Error::Full(
            "too many nodes have asked to join this group: its owner must answer first".to_owned(),
        ));
    }
    connection.execute(
        "INSERT INTO nodes (group_id, key, address, name, skeleton, state, tags, since)
         VALUES (?1, ?2, ?3, ?4, ?5, 'pending', '', ?6)",
        params![group.id, key, NodeAddress::of_key(key).to_string(), name.as_str(), skeleton, now],
    )?;
    let id = connection.last_insert_rowid();
    audit::record(
        connection,
        group.id,
        now,
        name.as_str(),
        "asked to join",
        &NodeAddress::of_key(key).to_string(),
    )?;
    by_id(connection, group.id, id)
}

fn name_is_free(connection: &Connection, group: i64, skeleton: &str) -> Result<(), Error> {
    let mut statement = connection
        .prepare_cached("SELECT 1 FROM nodes WHERE group_id = ?1 AND skeleton = ?2 AND state = 'approved'")?;
    if statement.exists(params![group, skeleton])? {
        return Err(Error::Conflict(
            "a member has this name, or one that looks like it: choose another".to_owned(),
        ));
    }
    Ok(())
}

fn approve(connection: &Connection, group: &Group, node: &Node, now: u64) -> Result<(), Error> {
    name_is_free(connection, group.id, &names::skeleton(node.name.as_str()))?;
    let address = match group.settings.lease {
        Lease::Dhcp => None,
        Lease::Assigned => Some(free_address(connection, group)?.to_string()),
    };
    connection.execute(
        "UPDATE nodes SET state = 'approved', since = ?1, virtual_address = ?2 WHERE id = ?3",
        params![now, address, node.id],
    )?;
    // One that comes back after its user has gone is nobody's.
    connection.execute(
        "UPDATE nodes SET account = NULL WHERE id = ?1 AND account NOT IN
         (SELECT account FROM users WHERE group_id = ?2 AND state = 'approved')",
        params![node.id, group.id],
    )?;
    Ok(())
}

/// The lowest address of a host that no member has.
fn free_address(connection: &Connection, group: &Group) -> Result<IpAddr, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT virtual_address FROM nodes WHERE group_id = ?1 AND state = 'approved' AND virtual_address NOT NULL",
    )?;
    let rows = statement.query_map([group.id], |row| row.get::<_, String>(0))?;
    let mut taken = BTreeSet::new();
    for row in rows {
        taken.insert(number(stored(&row?)?));
    }
    let prefix = group.prefix.0;
    let bits = if prefix.address().is_ipv4() { 32 } else { 128 };
    let first = number(prefix.address()) + 1;
    // The last of a prefix is broadcast's.
    let last = number(prefix.address()) + ((1u128 << (bits - prefix.len()).min(127)) - 2);
    let free = (first..=last).find(|address| !taken.contains(address));
    let free = free.ok_or_else(|| Error::Full(format!("all addresses of {prefix} are given")))?;
    Ok(match prefix.address() {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(free).unwrap_or_default().into()),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(free)),
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Approves, denies or removes a node. Its certificates end with it.
///
/// # Errors
/// If the actor may not, or another member has the name.
pub fn decide(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    actor: (i64, &str),
    id: i64,
    state: State,
    now: u64,
) -> Result<(), Error> {
    let node = by_id(connection, group.id, id)?;
    let role = users::require(connection, group.id, actor.0, Role::Member)?;
    // Whose node it is may take it away.
    let is_own = node.user.as_deref() == Some(actor.1) && state == State::Removed;
    if role < Role::Manager && !is_own {
        return Err(Error::Forbidden);
    }
    match (node.state, state) {
        (from, to) if from == to => return Ok(()),
        (_, State::Pending) | (State::Approved, State::Denied) | (State::Pending, State::Removed) => {
            return Err(Error::Conflict(format!(
                "{} is {}: it cannot become {state}",
                node.name, node.state
            )));
        }
        (_, State::Approved) => approve(connection, group, &node, now)?,
        (_, State::Denied | State::Removed) => leave(connection, master, group, &node, state, now)?,
    }
    audit::record(connection, group.id, now, actor.1, &format!("{state} node"), node.name.as_str())
}

fn leave(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    node: &Node,
    state: State,
    now: u64,
) -> Result<(), Error> {
    connection.execute(
        "UPDATE nodes SET state = ?1, since = ?2, virtual_address = NULL WHERE id = ?3",
        params![state.as_str(), now, node.id],
    )?;
    connection.execute(
        "DELETE FROM nodes WHERE id IN (SELECT id FROM nodes WHERE group_id = ?1 AND state = 'denied'
         ORDER BY since DESC LIMIT -1 OFFSET ?2)",
        params![group.id, DENIED_MAX],
    )?;
    authority::revoke(connection, master, group, node.id, now)
}

/// A node ends its membership, or what it has asked for; asked twice, it has the same answer.
///
/// # Errors
/// Those of the database.
pub fn depart(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    id: i64,
    now: u64,
) -> Result<Node, Error> {
    let node = by_id(connection, group.id, id)?;
    if matches!(node.state, State::Pending | State::Approved) {
        leave(connection, master, group, &node, State::Removed, now)?;
        audit::record(connection, group.id, now, node.name.as_str(), "left", &node.address().to_string())?;
    }
    by_id(connection, group.id, id)
}

/// Removes the nodes of a user who is no member any more.
pub(super) fn remove_all_of(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    account: i64,
    now: u64,
) -> Result<(), Error> {
    let mut statement = connection
        .prepare_cached("SELECT id FROM nodes WHERE group_id = ?1 AND account = ?2 AND state = 'approved'")?;
    let rows = statement.query_map(params![group.id, account], |row| row.get(0))?;
    for id in rows.collect::<Result<Vec<i64>, _>>()? {
        leave(connection, master, group, &by_id(connection, group.id, id)?, State::Removed, now)?;
    }
    Ok(())
}

/// Gives a node other tags. Where it loses one, its certificates are revoked: it renews them at its next report.
///
/// # Errors
/// If the actor is no manager.
pub fn set_tags(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    actor: (i64, &str),
    id: i64,
    tags: &[Label],
    now: u64,
) -> Result<(), Error> {
    users::require(connection, group.id, actor.0, Role::Manager)?;
    let node = by_id(connection, group.id, id)?;
    if node.tags == tags {
        return Ok(());
    }
    connection.execute("UPDATE nodes SET tags = ?1 WHERE id = ?2", params![tags_text(tags), id])?;
    // Where less is granted, those of before are revoked; where more is, a newer one stands beside them.
    if !node.tags.iter().all(|tag| tags.contains(tag)) {
        authority::revoke(connection, master, group, id, now)?;
    } else if node.state == State::Approved {
        authority::issue(connection, master, group, &by_id(connection, group.id, id)?, now)?;
    }
    audit::record(
        connection,
        group.id,
        now,
        actor.1,
        &format!("tagged [{}]", tags_text(tags)),
        node.name.as_str(),
    )
}

/// Writes down what members have said of themselves.
///
/// # Errors
/// Those of the database.
pub fn record_reports(connection: &Connection, reports: &[(i64, u64, String)]) -> Result<(), Error> {
    let mut statement = connection.prepare_cached("UPDATE nodes SET seen = ?1, report = ?2 WHERE id = ?3")?;
    for (node, seen, report) in reports {
        statement.execute(params![seen, report, node])?;
    }
    Ok(())
}
