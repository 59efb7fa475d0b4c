//! Files that are written whole or not at all: whoever reads one finds what was there before or what is there now, also
//! after a crash, and when several processes write it at once.

use std::fs::{Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use tempfile::NamedTempFile;

/// Gives a file this content, and returns when it is on the disk; nobody but its owner reads it.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = beside(path, content)?;
    new.as_file().sync_all()?;
    persist(new, path)
}

/// The same for what can be missed after a power cut, where nobody is to wait for the disk.
pub fn write_soon(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(beside(path, content)?, path)
}

/// The same, for a file that is there and keeps its owner and mode.
pub fn write_like(path: &Path, content: &[u8], before: &Metadata) -> io::Result<()> {
    let new = beside(path, content)?;
    fchown(new.as_file(), Some(before.uid()), Some(before.gid()))?;
    new.as_file().set_permissions(before.permissions())?;
    new.as_file().sync_all()?;
    persist(new, path)
}

/// A new file with this content, in the same folder.
fn beside(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut prefix = name.to_owned();
    prefix.push(".new-");
    // A name of its own, and a file that was not there: another process may be about the same.
    let mut new = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    new.write_all(content)?;
    Ok(new)
}

fn persist(new: NamedTempFile, path: &Path) -> io::Result<()> {
    new.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, b"one").unwrap();
        write_soon(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o600));
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn a_file_that_was_there_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_like(&path, b"new", &fs::metadata(&path).unwrap()).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o644));
    }

    #[test]
    fn what_cannot_be_renamed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        write(&path, b"text").unwrap_err();
        assert_eq!(names(folder.path()), ["taken"]);
    }

    #[test]
    fn many_writers_at_once_all_succeed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        std::thread::scope(|scope| {
            for writer in 0..8_u8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write(path, &[writer; 100]).unwrap()));
            }
        });
        let content = fs::read(&path).unwrap();
        assert_eq!(content, [content[0]; 100]);
        assert_eq!(names(folder.path()), ["state"]);
    }
}
