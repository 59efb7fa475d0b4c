//! The files that `ipopctl init` writes: both or neither, and over no other unless it is told to.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config;
use crate::ctl::command::key::refused;
use crate::ctl::failure::Failure;
use crate::key::PrivateKey;
use crate::token::Token;
use crate::whole_file;

const CONFIG_NAME: &str = "ipop.toml";
pub(in crate::ctl::command) const KEY_NAME: &str = "private.key";
/// What to do about a file that is there.
const SPARE: &str =
    "choose another --dir, or use --force, which replaces the configuration and keeps the key";

/// Where the files are to be.
pub(in crate::ctl::command) struct Files {
    dir: PathBuf,
    pub(in crate::ctl::command) config: PathBuf,
    pub(in crate::ctl::command) key: PathBuf,
}

impl Files {
    pub(in crate::ctl::command) fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), config: dir.join(CONFIG_NAME), key: dir.join(KEY_NAME) }
    }

    /// Says which of the files is there, and if it is of another network than the token.
    pub(in crate::ctl::command) fn must_not_exist(&self, token: Option<&Token>) -> Result<(), Failure> {
        let is_there = |path: &&&PathBuf| path.symlink_metadata().is_ok();
        let Some(path) = [&self.config, &self.key].iter().find(is_there).copied() else { return Ok(()) };
        let other = token.and_then(|token| self.other_network(token)).unwrap_or_default();
        Err(Failure::Refused(format!("{}: exists already{other}; {SPARE}", path.display())))
    }

    fn other_network(&self, token: &Token) -> Option<String> {
        let network = config::load(&self.config).ok()?.config.network;
        if network.name != token.network {
            return Some(format!(
                ", and is of network `{}`, while the token is of `{}`",
                network.name, token.network
            ));
        }
        let is_same = network.secret.is_some_and(|secret| secret.expose() == token.secret.as_bytes());
        (!is_same).then(|| ", with another `network.secret` than the token's".to_owned())
    }

    /// Writes the configuration, and the key if it is a new one.
    pub(in crate::ctl::command) fn write(
        &self,
        text: &str,
        new_key: Option<&PrivateKey>,
        replace: bool,
    ) -> Result<(), Failure> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
        made.map_err(|error| failed("make the directory", &self.dir, &error))?;
        if let Some(key) = new_key {
            key.write_new(&self.key).map_err(refused)?;
        }
        let written = if replace {
            whole_file::write(&self.config, text.as_bytes())
        } else {
            write_new(&self.config, text)
        };
        written.map_err(|error| {
            // A key without its configuration would be in the way of the next try.
            let _ = new_key.map(|_| std::fs::remove_file(&self.key));
            failed("write", &self.config, &error)
        })
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root, or choose another --dir",
        _ => "choose another --dir",
    };
    Failure::Refused(format!("cannot {what} {}: {error}; {advice}", path.display()))
}
