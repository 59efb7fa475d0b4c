//! Why a command failed, as an exit status and one line on standard error.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Every way in which a command ends without success.
#[derive(Debug)]
pub(super) enum Failure {
    /// The daemon, or what was asked for, says no: a line with what and what to do.
    Refused(String),
    /// The same, with everything said on the way.
    Silent,
    /// The command line makes no sense.
    Usage(String),
    /// Nobody answers at the socket.
    NoDaemon { socket: PathBuf, source: io::Error },
    /// Standard output does not take what we print.
    Output(io::Error),
}

impl Failure {
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            // Who closes the pipe has read enough.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Refused(_) | Failure::Silent | Failure::Output(_) => 1,
            Failure::Usage(_) => 2,
            Failure::NoDaemon { .. } => 3,
        }
    }

    /// What to print, if anything.
    pub(super) fn message(&self) -> Option<String> {
        match self {
            Failure::Silent => None,
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            _ => Some(format!("ipopctl: {self}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(why) | Failure::Usage(why) => f.write_str(why),
            Failure::Silent => Ok(()),
            Failure::NoDaemon { socket, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "{}: {source}; run as root or as a member of the socket's group", socket.display())
            }
            Failure::NoDaemon { socket, source } => write!(
                f,
                "no ipopd answers at {}: {source}; start it, or name its socket with --socket",
                socket.display()
            ),
            Failure::Output(error) => write!(f, "cannot print: {error}; free the place that output goes to"),
        }
    }
}

impl From<io::Error> for Failure {
    /// The only I/O that is not given a context of its own is printing.
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}
