//! /etc/resolv.conf: our name server in front of those that are there, between two lines by which it is found again.
//! The file as it was is kept in the state folder, and comes back in the end, or at the next start after a crash.
//! What somebody else has written meanwhile stays.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::PORT;
use crate::whole_file;

/// Where resolvers look (resolv.conf(5)).
pub(in crate::dns) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The file as it was, in the state folder.
const KEPT: &str = "resolv.conf";
/// No such file of anybody's comes near.
const LEN_MAX: u64 = 1 << 20;

/// Why the file is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(in crate::dns) enum FileError {
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Os { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no text, and is left as it is", .0.display())]
    NoText(PathBuf),
}

/// What has become of the lines of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dns) enum Undone {
    /// There were none.
    Nothing,
    /// They are gone; the file is as it was, but for what others have changed.
    Removed,
    /// Somebody else has written the file anew, without them: it is left as it is.
    Rewritten,
}

/// The file, and what is ours in it.
#[derive(Clone, Debug)]
pub(in crate::dns) struct ResolvConf {
    path: PathBuf,
    kept: PathBuf,
    /// Whose lines they are: of the daemon with this device.
    device: String,
}

impl ResolvConf {
    pub(in crate::dns) fn new(path: &Path, state_dir: &Path, device: &str) -> Self {
        Self { path: path.to_owned(), kept: state_dir.join(KEPT), device: device.to_owned() }
    }

    pub(in crate::dns) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `server` in front, and `search` behind the domains that are searched. Gives the name servers that were
    /// there.
    pub(in crate::dns) fn install(
        &self,
        server: IpAddr,
        search: Option<&str>,
    ) -> Result<Vec<SocketAddr>, FileError> {
        self.undo()?;
        let old = self.read()?;
        // First, so that a crash at any moment leaves what is needed to undo it.
        self.keep(&old)?;
        let new = self.with_ours(&old, server, search);
        replace(&self.path, &new).map_err(|source| self.failed("write", source))?;
        Ok(nameservers(&old).filter(|previous| previous.ip() != server).collect())
    }

    /// Takes our lines out.
    pub(in crate::dns) fn undo(&self) -> Result<Undone, FileError> {
        let kept = match fs::read_to_string(&self.kept) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(FileError::Os { what: "read", path: self.kept.clone(), source }),
        };
        let current = match self.read() {
            // Where there is no file, or another kind, nothing of ours is in it.
            Err(_) if kept.is_none() => return Ok(Undone::Nothing),
            Err(FileError::Os { source, .. }) if source.kind() == io::ErrorKind::NotFound => String::new(),
            current => current?,
        };
        let rest = self.without_ours(&current);
        let is_as_it_was = |text: &str| kept.as_ref().is_some_and(|kept| kept.trim_end() == text.trim_end());
        let undone = match (&rest, &kept) {
            (Some(rest), _) => {
                let before = kept.as_ref().filter(|_| is_as_it_was(rest)).unwrap_or(rest);
                replace(&self.path, before).map_err(|source| self.failed("restore", source))?;
                Undone::Removed
            }
            (None, None) => return Ok(Undone::Nothing),
            (None, Some(kept)) if is_as_it_was(&current) => {
                // A run that ended while it wrote.
                if *kept != current {
                    replace(&self.path, kept).map_err(|source| self.failed("restore", source))?;
                }
                Undone::Removed
            }
            (None, Some(_)) => Undone::Rewritten,
        };
        match fs::remove_file(&self.kept) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FileError::Os { what: "remove", path: self.kept.clone(), source })
            }
            _ => Ok(undone),
        }
    }

    /// Whether our lines are there.
    pub(in crate::dns) fn is_in_place(&self) -> bool {
        self.read().is_ok_and(|text| self.without_ours(&text).is_some())
    }

    fn read(&self) -> Result<String, FileError> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|file| file.take(LEN_MAX).read_to_end(&mut bytes))
            .map_err(|source| self.failed("read", source))?;
        String::from_utf8(bytes).map_err(|_| FileError::NoText(self.path.clone()))
    }

    fn keep(&self, old: &str) -> Result<(), FileError> {
        let failed = |source| FileError::Os { what: "write", path: self.kept.clone(), source };
        let folder = self.kept.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        whole_file::write(&self.kept, old.as_bytes()).map_err(failed)
    }

    fn begin(&self) -> String {
        format!("# BEGIN ipopd {}", self.device)
    }

    fn end(&self) -> String {
        format!("# END ipopd {}", self.device)
    }

    fn with_ours(&self, old: &str, server: IpAddr, search: Option<&str>) -> String {
        let (begin, end) = (self.begin(), self.end());
        let kept = self.kept.display();
        let mut new = format!(
            "{begin}: these lines go when ipopd ends; the file as it was is {kept}\nnameserver {server}\n{end}\n{old}"
        );
        if let Some(domain) = search {
            if !new.ends_with('\n') {
                new.push('\n');
            }
            // The last list counts.
            let others = searched(old).into_iter().filter(|other| *other != domain);
            let list: Vec<&str> = others.chain([domain]).collect();
            let _ = writeln!(new, "{begin}\nsearch {}\n{end}", list.join(" "));
        }
        new
    }

    /// The text without our lines; `None`: there are none.
    fn without_ours(&self, text: &str) -> Option<String> {
        let (begin, end) = (self.begin(), self.end());
        let is_begin = |line: &str| {
            line.strip_prefix(&begin).is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with(':'))
        };
        let mut rest = String::with_capacity(text.len());
        let mut is_ours = false;
        let mut found = false;
        for line in text.split_inclusive('\n') {
            if is_begin(line) {
                is_ours = true;
            } else if is_ours && line.trim_end() == end {
                (is_ours, found) = (false, true);
            } else if !is_ours {
                rest.push_str(line);
            }
        }
        // A beginning without an end is somebody's work: who knows what of it is ours.
        Some(rest).filter(|_| found && !is_ours)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> FileError {
        FileError::Os { what, path: self.path.clone(), source }
    }
}

/// The name servers of a file, without our lines or with those of another network's daemon.
fn nameservers(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        nameserver(words.next()?)
    })
}

fn nameserver(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse().ok()?, PORT)),
        Some((address, interface)) => {
            let scope = interface.parse().ok().or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
    }
}

/// The domains that are searched.
fn searched(text: &str) -> Vec<&str> {
    let mut lists = text.lines().filter_map(|line| {
        let (word, list) = line.split_once(char::is_whitespace)?;
        ["search", "domain"].contains(&word).then_some(list)
    });
    lists.next_back().unwrap_or_default().split_whitespace().collect()
}

/// Gives a file another content, whole or not at all: by renaming where that is possible. A file that is mounted by
/// itself, or in a folder that cannot be written, is written in place by one call; what it is longer than before
/// ends in empty lines until it is cut off.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // Where a link leads: the link itself stays.
    let path = fs::canonicalize(path)?;
    match whole_file::write_like(&path, text.as_bytes(), &fs::metadata(&path)?) {
        Err(error) if must_stay(&error) => write_in_place(&path, text),
        result => result,
    }
}

fn must_stay(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), ResourceBusy | CrossesDevices | PermissionDenied | ReadOnlyFilesystem)
}

fn write_in_place(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let before = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(LEN_MAX as usize);
    let mut padded = text.as_bytes().to_vec();
    padded.resize(before.max(padded.len()), b'\n');
    file.write_all(&padded)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
