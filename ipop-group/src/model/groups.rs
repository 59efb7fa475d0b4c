//! Groups and their settings.

use std::fmt;
use std::str::FromStr;

use ipop_overlay::group::{AuthorityKey, Label, Serial, Validity};
use ipop_overlay::routes::Subnet;
use rusqlite::{Connection, Row, params};

use super::users::{self, Role};
use super::{State, audit, authority, optional, stored};
use crate::error::Error;
use crate::names;
use crate::secrets::{MasterKey, random};

/// Groups that one account may own.
const OWNED_MAX: i64 = 32;
/// Addresses at which nodes of the group are found.
const BOOTSTRAP_MAX: usize = 16;
const BOOTSTRAP_LEN_MAX: usize = 128;
/// An authority's certificate counts for so long, in s: twenty years.
const AUTHORITY_S: u64 = 20 * 365 * 86_400;
/// Clocks may be so far apart, in s: certificates begin so much earlier.
pub const CLOCKS_APART_S: u64 = 300;

/// How members get virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Members lease them from one another; a certificate allows the whole prefix.
    Dhcp,
    /// The server gives each its own; a certificate allows that alone.
    Assigned,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dhcp => "dhcp",
            Self::Assigned => "assigned",
        })
    }
}

impl FromStr for Lease {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "dhcp" => Ok(Self::Dhcp),
            "assigned" => Ok(Self::Assigned),
            _ => Err(Error::invalid("addresses are given by `dhcp` or `assigned`")),
        }
    }
}

/// What an owner can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub lease: Lease,
    pub lease_s: u64,
    pub certificate_s: u64,
    pub bootstrap: Vec<String>,
    pub sealed_only: bool,
}

/// A group that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    pub name: String,
    pub prefix: Prefix,
    pub settings: Settings,
}

/// A group without what its members get to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: i64,
    pub name: Label,
    pub prefix: Prefix,
    pub settings: Settings,
}

/// Of the group's virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(pub Subnet);

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong =
            || Error::invalid("a prefix is an address and a length, as 10.128.0.0/16 or fd00:128::/64");
        let (address, len) = text.trim().split_once('/').ok_or_else(wrong)?;
        let (address, len) = (address.parse().map_err(|_| wrong())?, len.parse().map_err(|_| wrong())?);
        let subnet = Subnet::new(address, len).ok_or_else(wrong)?;
        if subnet.address() != address {
            return Err(Error::Invalid(format!("{text} has bits behind its length: {subnet} is meant?")));
        }
        let lens = if address.is_ipv4() { 8..=30 } else { 32..=126 };
        if !lens.contains(&len) || !subnet.is_routable() {
            return Err(Error::Invalid(format!(
                "hosts cannot have addresses of {subnet}: take one as 10.128.0.0/16"
            )));
        }
        Ok(Self(subnet))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Settings {
    /// Reads what a form says.
    ///
    /// # Errors
    /// What of it cannot be.
    pub fn read(
        lease: &str,
        lease_s: &str,
        certificate_hours: &str,
        bootstrap: &str,
        sealed_only: bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            lease: lease.parse()?,
            lease_s: number("the time of a lease, in s", lease_s, 60, 86_400)?,
            certificate_s: 3600
                * number("the life of a certificate, in hours", certificate_hours, 1, 24 * 30)?,
            bootstrap: bootstrap_addresses(bootstrap)?,
            sealed_only,
        })
    }
}

fn number(what: &str, text: &str, min: u64, max: u64) -> Result<u64, Error> {
    let number = text.trim().parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| Error::Invalid(format!("{what}: a number from {min} to {max}")))
}

/// One in a line.
fn bootstrap_addresses(text: &str) -> Result<Vec<String>, Error> {
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.len() > BOOTSTRAP_MAX {
        return Err(Error::Invalid(format!("at most {BOOTSTRAP_MAX} bootstrap addresses")));
    }
    match lines.iter().find(|line| !is_endpoint(line)) {
        Some(line) => Err(Error::Invalid(format!("{line:?} is no address as udp://host.example.org:15000"))),
        None => Ok(lines),
    }
}

fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("udp://").or_else(|| text.strip_prefix("tcp://"));
    let Some((host, port)) = rest.and_then(|rest| rest.rsplit_once(':')) else { return false };
    let is_literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match is_literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.split('.').all(|part| Label::new(&part.to_ascii_lowercase()).is_ok())
        }
    };
    text.len() <= BOOTSTRAP_LEN_MAX && is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Makes a group with its authority; `owner` owns it.
///
/// # Errors
/// A name that is none or that looks like another's, or too many groups.
pub fn create(
    connection: &Connection,
    master: &MasterKey,
    host: &str,
    owner: (i64, &str),
    new: &New,
    now: u64,
) -> Result<Group, Error> {
    let New { prefix, settings, .. } = new;
    let name = names::label("group name", &new.name)?;
    may_own_another(connection, owner.0)?;
    let skeleton = names::skeleton(name.as_str());
    let taken = connection.query_row("SELECT 1 FROM groups WHERE skeleton = ?1", [&skeleton], |_| Ok(()));
    if optional(taken)?.is_some() {
        return Err(Error::Conflict(
            "there is a group of this name, or of one that looks like it".to_owned(),
        ));
    }
    let seed = zeroize::Zeroizing::new(random::<32>()?);
    let key = AuthorityKey::from_seed(&seed);
    let validity = Validity { not_before: now.saturating_sub(CLOCKS_APART_S), not_after: now + AUTHORITY_S };
    let certificate =
        key.certify(&name, Serial::from_random(random()?), validity).map_err(authority::internal)?;
    connection.execute(
        "INSERT INTO groups (name, skeleton, prefix, lease, lease_s, certificate_s, bootstrap, sealed_only, authority,
         sealed_key, sealed_secret, document_number, document, list_number, list, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, x'', 0, x'', ?12)",
        params![
            name.as_str(),
            skeleton,
            prefix.to_string(),
            settings.lease.to_string(),
            settings.lease_s,
            settings.certificate_s,
            settings.bootstrap.join("\n"),
            settings.sealed_only,
            certificate,
            master.seal(&authority::key_label(&name), seed.as_slice())?,
            master.seal(&authority::secret_label(&name), &random::<32>()?)?,
            now
        ],
    )?;
    let group = find(connection, name.as_str())?.ok_or(Error::NotFound("group"))?;
    users::put(connection, group.id, owner.0, Role::Owner, State::Approved, now)?;
    authority::sign_document(connection, master, host, &group, now)?;
    authority::sign_list(connection, master, &group, now)?;
    audit::record(connection, group.id, now, owner.1, "made the group", name.as_str())?;
    Ok(group)
}

fn may_own_another(connection: &Connection, account: i64) -> Result<(), Error> {
    let owned: i64 = connection.query_row(
        "SELECT count(*) FROM users WHERE account = ?1 AND role = 'owner' AND state = 'approved'",
        [account],
        |row| row.get(0),
    )?;
    if owned >= OWNED_MAX {
        return Err(Error::Full(format!("an account owns at most {OWNED_MAX} groups")));
    }
    Ok(())
}

/// # Errors
/// Those of the database.
pub fn change(
    connection: &Connection,
    master: &MasterKey,
    host: &str,
    group: &Group,
    settings: Settings,
    actor: &str,
    now: u64,
) -> Result<(), Error> {
    if settings.lease != group.settings.lease {
        return Err(Error::Conflict(
            "how addresses are given cannot be changed: members have theirs".to_owned(),
        ));
    }
    connection.execute(
        "UPDATE groups SET lease_s = ?1, certificate_s = ?2, bootstrap = ?3, sealed_only = ?4 WHERE id = ?5",
        params![
            settings.lease_s,
            settings.certificate_s,
            settings.bootstrap.join("\n"),
            settings.sealed_only,
            group.id
        ],
    )?;
    let group = Group { settings, ..group.clone() };
    authority::sign_document(connection, master, host, &group, now)?;
    audit::record(connection, group.id, now, actor, "changed the settings", group.name.as_str())
}

const COLUMNS: &str = "id, name, prefix, lease, lease_s, certificate_s, bootstrap, sealed_only";

/// # Errors
/// Those of the database.
pub fn find(connection: &Connection, name: &str) -> Result<Option<Group>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM groups WHERE name = ?1");
    optional(connection.prepare_cached(&sql)?.query_row([name], |row| Ok(read(row))))?.transpose()
}

fn read(row: &Row<'_>) -> Result<Group, Error> {
    let text = |index| row.get::<_, String>(index);
    Ok(Group {
        id: row.get(0)?,
        name: stored(&text(1)?)?,
        prefix: stored(&text(2)?)?,
        settings: Settings {
            lease: stored(&text(3)?)?,
            lease_s: row.get(4)?,
            certificate_s: row.get(5)?,
            bootstrap: text(6)?.lines().map(str::to_owned).collect(),
            sealed_only: row.get(7)?,
        },
    })
}
