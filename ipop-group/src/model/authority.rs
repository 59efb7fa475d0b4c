//! What a group's authority signs: certificates, the list of revoked ones, the group's parameters.

use ipop_overlay::group::document::Document;
use ipop_overlay::group::{
    AuthorityKey, Grant, IssueError, Label, REVOKED_MAX, RevocationList, Serial, Validity,
};
use ipop_overlay::routes::Subnet;
use rusqlite::{Connection, params};

use super::groups::{CLOCKS_APART_S, Group, Lease};
use super::nodes::Node;
use super::{optional, rules};
use crate::api;
use crate::error::Error;
use crate::secrets::{MasterKey, random};

/// Under which the key of a group is sealed.
pub fn key_label(group: &Label) -> String {
    format!("the key of group {group}")
}

/// Under which the secret that members share is sealed.
pub fn secret_label(group: &Label) -> String {
    format!("the secret of group {group}")
}

pub(super) fn internal(error: IssueError) -> Error {
    Error::Internal(format!("a certificate cannot be made: {error}"))
}

fn key(connection: &Connection, master: &MasterKey, group: &Group) -> Result<AuthorityKey, Error> {
    let mut statement = connection.prepare_cached("SELECT sealed_key FROM groups WHERE id = ?1")?;
    let sealed: Vec<u8> = statement.query_row([group.id], |row| row.get(0))?;
    Ok(AuthorityKey::from_seed(&*master.open(&key_label(&group.name), &sealed)?))
}

fn parameters(host: &str, group: &Group, rules: Vec<api::Rule>) -> api::Parameters {
    api::Parameters {
        version: api::VERSION,
        group: group.name.to_string(),
        place: api::place(host, group.name.as_str()),
        prefix: group.prefix.to_string(),
        lease: api::Lease { policy: group.settings.lease.to_string(), seconds: group.settings.lease_s },
        bootstrap: group.settings.bootstrap.clone(),
        security: api::Security { sealed_only: group.settings.sealed_only },
        rules,
    }
}

/// Signs the group's parameters anew, under the next number.
///
/// # Errors
/// Those of the database; parameters that are too long.
pub fn sign_document(
    connection: &Connection,
    master: &MasterKey,
    host: &str,
    group: &Group,
    now: u64,
) -> Result<(), Error> {
    let number: u64 =
        connection.query_row("SELECT document_number + 1 FROM groups WHERE id = ?1", [group.id], |row| {
            row.get(0)
        })?;
    let parameters = parameters(host, group, rules::list(connection, group.id)?);
    let content = serde_json::to_vec(&parameters).map_err(|error| Error::Internal(error.to_string()))?;
    let document = Document { number, issued: now, content };
    let signed = document.sign(&key(connection, master, group)?);
    let signed =
        signed.ok_or_else(|| Error::Full("the group's parameters are too long: fewer rules".to_owned()))?;
    connection.execute(
        "UPDATE groups SET document_number = ?1, document = ?2 WHERE id = ?3",
        params![number, signed, group.id],
    )?;
    Ok(())
}

/// Signs the list of revoked certificates anew, under the next number.
///
/// # Errors
/// Those of the database; a list that is too long.
pub fn sign_list(connection: &Connection, master: &MasterKey, group: &Group, now: u64) -> Result<(), Error> {
    let number: u64 =
        connection
            .query_row("SELECT list_number + 1 FROM groups WHERE id = ?1", [group.id], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(
        "SELECT serial, revoked FROM certificates
         WHERE group_id = ?1 AND revoked IS NOT NULL AND not_after >= ?2 ORDER BY serial",
    )?;
    let rows = statement.query_map(params![group.id, now.saturating_sub(CLOCKS_APART_S)], |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u64>(1)?))
    })?;
    let mut revoked = Vec::new();
    for row in rows {
        let (serial, at) = row?;
        let serial = Serial::from_bytes(&serial);
        revoked.push((serial.ok_or_else(|| Error::Internal("a stored serial is none".to_owned()))?, at));
    }
    if revoked.len() > REVOKED_MAX {
        return Err(Error::Full(format!(
            "the list has {REVOKED_MAX} certificates: wait until some have expired"
        )));
    }
    let list = RevocationList { number, issued: now, revoked };
    let der = list.issue(&key(connection, master, group)?, &group.name).map_err(internal)?;
    connection.execute(
        "UPDATE groups SET list_number = ?1, list = ?2 WHERE id = ?3",
        params![number, der, group.id],
    )?;
    Ok(())
}

/// Revokes all certificates of a node that have not expired.
///
/// # Errors
/// Those of the database.
pub fn revoke(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    node: i64,
    now: u64,
) -> Result<(), Error> {
    let revoked = connection.execute(
        "UPDATE certificates SET revoked = ?1 WHERE node = ?2 AND revoked IS NULL AND not_after >= ?3",
        params![now, node, now.saturating_sub(CLOCKS_APART_S)],
    )?;
    if revoked == 0 { Ok(()) } else { sign_list(connection, master, group, now) }
}

/// A certificate, and when it is to be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub der: Vec<u8>,
    pub renew_at: u64,
}

/// When half of its life is over.
fn renew_at(not_before: u64, not_after: u64) -> u64 {
    not_before.midpoint(not_after)
}

/// The certificate that a node has, if it need not be renewed yet.
///
/// # Errors
/// Those of the database.
pub fn current(connection: &Connection, node: i64, now: u64) -> Result<Option<Issued>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT not_before, not_after, der FROM certificates
         WHERE node = ?1 AND revoked IS NULL ORDER BY not_after DESC LIMIT 1",
    )?;
    let row = statement.query_row([node], |row| {
        Ok(Issued { renew_at: renew_at(row.get(0)?, row.get(1)?), der: row.get(2)? })
    });
    Ok(optional(row)?.filter(|issued| now < issued.renew_at))
}

/// Makes a certificate of what the node is granted now. Those of before stay, until they expire.
///
/// # Errors
/// Those of the database.
pub fn issue(
    connection: &Connection,
    master: &MasterKey,
    group: &Group,
    node: &Node,
    now: u64,
) -> Result<Issued, Error> {
    connection.execute(
        "DELETE FROM certificates WHERE node = ?1 AND not_after < ?2",
        params![node.id, now.saturating_sub(CLOCKS_APART_S)],
    )?;
    let validity = Validity {
        not_before: now.saturating_sub(CLOCKS_APART_S),
        not_after: now.saturating_add(group.settings.certificate_s),
    };
    let serial = Serial::from_random(random()?);
    let der = grant(group, node)?
        .issue(&key(connection, master, group)?, &group.name, serial, validity)
        .map_err(internal)?;
    connection.execute(
        "INSERT INTO certificates (serial, group_id, node, not_before, not_after, der) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![serial.as_bytes(), group.id, node.id, validity.not_before, validity.not_after, der],
    )?;
    Ok(Issued { renew_at: renew_at(validity.not_before, validity.not_after), der })
}

fn grant(group: &Group, node: &Node) -> Result<Grant, Error> {
    let net = match (group.settings.lease, node.virtual_address) {
        (Lease::Dhcp, _) => Some(group.prefix.0),
        (Lease::Assigned, Some(address)) => Subnet::new(address, if address.is_ipv4() { 32 } else { 128 }),
        (Lease::Assigned, None) => None,
    };
    let net = net.ok_or_else(|| Error::Internal("an approved node has no address".to_owned()))?;
    let user = node.user.as_deref().map(super::stored).transpose()?;
    Ok(Grant {
        public_key: node.key,
        node: node.name.clone(),
        user,
        tags: node.tags.clone(),
        nets: vec![net],
    })
}

/// What every member may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub authority: Vec<u8>,
    pub document: Vec<u8>,
    pub document_number: u64,
    pub list: Vec<u8>,
    pub list_number: u64,
    sealed_secret: Vec<u8>,
}

impl Published {
    /// # Errors
    /// If it is sealed with another master key.
    pub fn secret(&self, master: &MasterKey, group: &Group) -> Result<zeroize::Zeroizing<[u8; 32]>, Error> {
        master.open(&secret_label(&group.name), &self.sealed_secret)
    }
}

/// # Errors
/// Those of the database.
pub fn published(connection: &Connection, group: i64) -> Result<Published, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT authority, document, document_number, list, list_number, sealed_secret FROM groups WHERE id = ?1",
    )?;
    Ok(statement.query_row([group], |row| {
        Ok(Published {
            authority: row.get(0)?,
            document: row.get(1)?,
            document_number: row.get(2)?,
            list: row.get(3)?,
            list_number: row.get(4)?,
            sealed_secret: row.get(5)?,
        })
    })?)
}
