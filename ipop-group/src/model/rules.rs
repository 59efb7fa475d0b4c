//! Who may reach whom: distributed with the group's parameters, kept by the nodes.
//!
//! Without a rule every member reaches every other. With rules, what none of them allows is refused.

use ipop_overlay::group::Label;
use rusqlite::{Connection, params};

use super::groups::Group;
use super::users::{self, Role};
use super::{audit, authority};
use crate::api::Rule;
use crate::error::Error;
use crate::secrets::MasterKey;

/// Rules of one group.
const RULES_MAX: i64 = 256;
/// Ports or ranges of one rule.
const PORTS_MAX: usize = 16;
const PROTOCOLS: [&str; 4] = ["any", "tcp", "udp", "icmp"];

/// Reads what a form says.
///
/// # Errors
/// What of it cannot be.
pub fn read(from: &str, to: &str, protocol: &str, ports: &str) -> Result<Rule, Error> {
    let protocol = protocol.trim();
    if !PROTOCOLS.contains(&protocol) {
        return Err(Error::invalid("a protocol is any, tcp, udp or icmp"));
    }
    let ports: Vec<String> =
        ports.split([',', ' ']).map(str::trim).filter(|port| !port.is_empty()).map(str::to_owned).collect();
    if !ports.is_empty() && !matches!(protocol, "tcp" | "udp") {
        return Err(Error::invalid("only tcp and udp have ports"));
    }
    if ports.len() > PORTS_MAX || !ports.iter().all(|range| is_range(range)) {
        return Err(Error::Invalid(format!(
            "ports are at most {PORTS_MAX} of 1 to 65535, or ranges as 8000-8080"
        )));
    }
    Ok(Rule { from: selector(from)?, to: selector(to)?, protocol: protocol.to_owned(), ports })
}

/// `*`, `tag:NAME`, `user:NAME` or `node:NAME`.
fn selector(text: &str) -> Result<String, Error> {
    let text = text.trim();
    let is_named = text
        .split_once(':')
        .is_some_and(|(kind, name)| matches!(kind, "tag" | "user" | "node") && Label::new(name).is_ok());
    if text == "*" || is_named {
        return Ok(text.to_owned());
    }
    Err(Error::invalid("whom a rule is about is *, tag:NAME, user:NAME or node:NAME"))
}

fn is_range(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => first > 0 && first <= last,
        _ => false,
    }
}

/// In the order in which they were made.
///
/// # Errors
/// Those of the database.
pub fn list(connection: &Connection, group: i64) -> Result<Vec<Rule>, Error> {
    Ok(numbered(connection, group)?.into_iter().map(|(_, rule)| rule).collect())
}

/// With the number by which each is taken away.
///
/// # Errors
/// Those of the database.
pub fn numbered(connection: &Connection, group: i64) -> Result<Vec<(i64, Rule)>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT id, source, target, protocol, ports FROM rules WHERE group_id = ?1 ORDER BY id",
    )?;
    let rows = statement.query_map([group], |row| {
        let ports: String = row.get(4)?;
        let ports = ports.split_whitespace().map(str::to_owned).collect();
        Ok((row.get(0)?, Rule { from: row.get(1)?, to: row.get(2)?, protocol: row.get(3)?, ports }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// If the actor is no owner, or the group has all the rules that it may have.
pub fn add(
    connection: &Connection,
    master: &MasterKey,
    host: &str,
    group: &Group,
    actor: (i64, &str),
    rule: &Rule,
    now: u64,
) -> Result<(), Error> {
    users::require(connection, group.id, actor.0, Role::Owner)?;
    let count: i64 =
        connection
            .query_row("SELECT count(*) FROM rules WHERE group_id = ?1", [group.id], |row| row.get(0))?;
    if count >= RULES_MAX {
        return Err(Error::Full(format!("a group has at most {RULES_MAX} rules")));
    }
    connection.execute(
        "INSERT INTO rules (group_id, source, target, protocol, ports) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![group.id, rule.from, rule.to, rule.protocol, rule.ports.join(" ")],
    )?;
    authority::sign_document(connection, master, host, group, now)?;
    audit::record(connection, group.id, now, actor.1, "added rule", &rule.to_string())
}

/// # Errors
/// If the actor is no owner, or there is no such rule.
pub fn remove(
    connection: &Connection,
    master: &MasterKey,
    host: &str,
    group: &Group,
    actor: (i64, &str),
    id: i64,
    now: u64,
) -> Result<(), Error> {
    users::require(connection, group.id, actor.0, Role::Owner)?;
    let found = numbered(connection, group.id)?.into_iter().find(|(number, _)| *number == id);
    let (_, rule) = found.ok_or(Error::NotFound("rule"))?;
    connection.execute("DELETE FROM rules WHERE group_id = ?1 AND id = ?2", params![group.id, id])?;
    authority::sign_document(connection, master, host, group, now)?;
    audit::record(connection, group.id, now, actor.1, "removed rule", &rule.to_string())
}
