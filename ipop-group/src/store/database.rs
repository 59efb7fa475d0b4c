//! The database file: opened, checked, copied and put back.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags};

/// Within the data folder.
pub const FILE_NAME: &str = "group.sqlite";
/// `PRAGMA application_id`: "IPGS".
const APPLICATION: i32 = 0x4950_4753;
/// `PRAGMA user_version`: of the first schema, and of each that came after it what it adds.
const SCHEMAS: [&str; 2] = [include_str!("schema.sql"), include_str!("access.sql")];
/// Each connection's cache, in KiB (negative, as SQLite wants it).
const CACHE_KIB: i32 = -2048;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the database in `folder`, makes it if there is none, and looks whether it is whole.
///
/// # Errors
/// One that cannot be opened, is damaged, or is not ours.
pub fn open(folder: &Path) -> Result<Connection> {
    let file = folder.join(FILE_NAME);
    create_private(&file)?;
    let opened = connect(&file, OpenFlags::SQLITE_OPEN_READ_WRITE);
    opened.and_then(|connection| prepare(&connection).map(|()| connection)).with_context(|| unusable(&file))
}

/// A connection that only reads.
pub(super) fn open_reader(folder: &Path) -> Result<Connection> {
    let connection = connect(&folder.join(FILE_NAME), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// An empty file with mode 0600, if there is none: SQLite gives its journals the mode of the database.
fn create_private(file: &Path) -> Result<()> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(file).map(drop).with_context(|| {
        format!("cannot open {}: does the folder exist, and may this user write to it?", file.display())
    })
}

fn connect(file: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_context(|| format!("cannot open {}", file.display()))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A transaction is on the disk when it has been committed.
    connection.pragma_update(None, "synchronous", "FULL")?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = SCHEMAS.len();
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if (application, version) == (0, 0) {
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        ensure!(tables == 0, "it is not a group server's");
        return add_schemas(connection, 0);
    }
    ensure!(application == APPLICATION, "it is not a group server's");
    ensure!(
        (1..=known).contains(&version),
        "it is of version {version}, and this program knows {known}: update it"
    );
    is_whole(connection)?;
    if version < known {
        add_schemas(connection, version)?;
    }
    Ok(())
}

/// What came after a version, all or nothing: a crash leaves the database as it was.
fn add_schemas(connection: &Connection, version: usize) -> Result<()> {
    let (added, known) = (SCHEMAS[version..].concat(), SCHEMAS.len());
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {added} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {known}; COMMIT;"
    ))?;
    Ok(())
}

fn is_whole(connection: &Connection) -> Result<()> {
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    ensure!(said == "ok", "it is damaged: {}", said.replace('\n', ", "));
    let orphans = connection.prepare("PRAGMA foreign_key_check")?.query([])?.next()?.is_some();
    ensure!(!orphans, "it is damaged: rows refer to rows that are not there");
    Ok(())
}

fn unusable(file: &Path) -> String {
    format!("cannot use {}: put a backup back with `ipop-group restore`", file.display())
}

/// Looks whether the database in `folder` is whole.
///
/// # Errors
/// What is wrong with it.
pub fn check(folder: &Path) -> Result<()> {
    let file = folder.join(FILE_NAME);
    ensure!(file.exists(), "there is no {}", file.display());
    open(folder).map(drop)
}

/// Copies the database while it may be in use. The master key is not part of it.
///
/// # Errors
/// If either cannot be opened, or the target is there already.
pub fn backup(folder: &Path, target: &Path) -> Result<()> {
    ensure!(!target.exists(), "{} is there already: choose another name", target.display());
    let source = connect(&folder.join(FILE_NAME), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    is_whole(&source).with_context(|| unusable(&folder.join(FILE_NAME)))?;
    create_private(target)?;
    let text = target.to_str().with_context(|| format!("{} is not a name in UTF-8", target.display()))?;
    source.execute("VACUUM INTO ?1", [text]).with_context(|| format!("cannot write {}", target.display()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o600))?;
    fs::File::open(target)?.sync_all().with_context(|| format!("cannot write {}", target.display()))
}

/// Puts a backup in the place of the database, which is kept beside it under another name.
///
/// # Errors
/// If the backup is not whole, or a server uses the database.
pub fn restore(folder: &Path, source: &Path) -> Result<()> {
    let backup = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", source.display()))?;
    let application: i32 = backup
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .with_context(|| format!("{} is no backup of a group server", source.display()))?;
    if application != APPLICATION {
        bail!("{} is no backup of a group server", source.display());
    }
    is_whole(&backup).with_context(|| format!("cannot use {}", source.display()))?;
    let (fresh, file) = (folder.join("group.sqlite.restoring"), folder.join(FILE_NAME));
    let copied =
        fs::copy(source, &fresh).and_then(|_| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)));
    copied
        .and_then(|()| fs::File::open(&fresh)?.sync_all())
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    set_aside(folder)?;
    fs::rename(&fresh, &file).with_context(|| format!("cannot write {}", file.display()))?;
    fs::File::open(folder)?.sync_all()?;
    check(folder)
}

/// The database and its journals get names that nobody opens.
fn set_aside(folder: &Path) -> Result<()> {
    let stamp = super::now_s();
    for suffix in ["", "-wal", "-shm"] {
        let old = folder.join(format!("{FILE_NAME}{suffix}"));
        if old.exists() {
            let aside = folder.join(format!("{FILE_NAME}.{stamp}{suffix}"));
            fs::rename(&old, &aside).with_context(|| format!("cannot rename {}", old.display()))?;
        }
    }
    Ok(())
}
