//! The Unix socket as a file: made, replaced when stale, removed at the end.

use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Owner and group may command the daemon.
const SOCKET_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o755;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// The socket in the file system, removed when dropped, unless it is another daemon's by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Binds the socket and listens on it.
pub(super) async fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    make_directory(path)?;
    remove_stale(path).await?;
    let bound = UnixSocket::new_stream().and_then(|socket| {
        // Before it has a name, so that there is no moment in which others may connect. The umask
        // may take bits away; they are given back below.
        let descriptor = File::from(socket.as_fd().try_clone_to_owned()?);
        descriptor.set_permissions(Permissions::from_mode(SOCKET_MODE))?;
        socket.bind(path)?;
        let file =
            SocketFile { path: path.to_owned(), identity: identity(&std::fs::symlink_metadata(path)?) };
        std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
        Ok((socket.listen(BACKLOG)?, file))
    });
    bound.map_err(|error| explain(path, "cannot listen on it", &error))
}

fn make_directory(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(|error| explain(path, "cannot make its directory", &error))
}

/// Makes way if nobody listens at the path any more.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain(path, "cannot look at it", &error)),
    };
    if !found.file_type().is_socket() {
        let what = "something that is not a socket is in its place";
        return Err(explain(path, what, &io::ErrorKind::AlreadyExists.into()));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "control socket {}: another ipopd answers there; stop it, or choose another node.control_socket",
                path.display()
            ),
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::debug!("replacing the socket that a dead daemon left at {}", path.display());
            std::fs::remove_file(path).map_err(|error| explain(path, "cannot remove the stale one", &error))
        }
        Err(error) => Err(explain(path, "cannot tell whether a daemon answers there", &error)),
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn explain(path: &Path, what: &str, error: &io::Error) -> io::Error {
    let message = format!(
        "control socket {}: {what} ({error}); free the path, or choose another node.control_socket",
        path.display()
    );
    io::Error::new(error.kind(), message)
}
