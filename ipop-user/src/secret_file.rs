//! Files that hold secrets: who else may open them, and what to do about it. What is in them is
//! read elsewhere.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Uid;

/// Read or written by the group or by others.
const OPEN_TO_OTHERS: u32 = 0o066;

/// Why a file does not keep a secret, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {advice}")]
pub struct Unfit {
    pub reason: String,
    pub advice: String,
}

/// That nobody but its owner reads or writes the file.
pub fn check_mode(path: &Path, file: &Metadata) -> Result<(), Unfit> {
    let mode = file.mode() & 0o7777;
    if mode & OPEN_TO_OTHERS == 0 {
        return Ok(());
    }
    Err(Unfit {
        reason: format!("holds a secret, and its mode {mode:04o} opens it to others than its owner"),
        advice: format!("run `chmod 600 {}`", path.display()),
    })
}

/// That, besides, it is a file and its owner is this user or root: who else owns it gives it any
/// mode and content at any time.
pub fn check(path: &Path, file: &Metadata, user: Uid) -> Result<(), Unfit> {
    if !file.is_file() {
        return Err(Unfit {
            reason: "not a regular file".to_owned(),
            advice: "name the file that holds the key".to_owned(),
        });
    }
    check_mode(path, file)?;
    check_owner(path, Uid::from_raw(file.uid()), user)
}

fn check_owner(path: &Path, owner: Uid, user: Uid) -> Result<(), Unfit> {
    if owner.is_root() || owner == user {
        return Ok(());
    }
    Err(Unfit {
        reason: format!("belongs to user {owner}, and is to be used by user {user}"),
        advice: format!("run `chown {user} {}`", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_modes_that_are_closed_to_others_pass() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        for mode in 0..=0o777 {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let checked = check(path, &file.as_file().metadata().unwrap(), Uid::current());
            let is_open = [0o040, 0o020, 0o004, 0o002].iter().any(|bit| mode & bit != 0);
            assert_eq!(checked.is_err(), is_open, "{mode:o}");
        }
        fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
        let unfit = check(path, &file.as_file().metadata().unwrap(), Uid::current()).unwrap_err();
        assert_eq!(
            unfit.to_string(),
            format!(
                "holds a secret, and its mode 0640 opens it to others than its owner; run `chmod 600 {}`",
                path.display()
            )
        );
    }

    #[test]
    fn the_owner_is_root_or_the_user() {
        let checked =
            |owner: u32, user: u32| check_owner(Path::new("key"), Uid::from_raw(owner), Uid::from_raw(user));
        assert_eq!((checked(0, 0), checked(0, 1000), checked(1000, 1000)), (Ok(()), Ok(()), Ok(())));
        assert!(checked(1000, 1001).is_err());
        assert_eq!(
            checked(1000, 0).unwrap_err().to_string(),
            "belongs to user 1000, and is to be used by user 0; run `chown 0 key`"
        );
    }
}
