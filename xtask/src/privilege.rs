//! Who we are, and how a step that needs root is run.

use std::process::Command;

use crate::sh;

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// How this user can do what needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Root,
    /// sudo works without asking for a password.
    Sudo,
    None,
}

impl Access {
    pub(crate) fn probe() -> Self {
        if is_root() {
            return Self::Root;
        }
        let sudo = sh::output(Command::new("sudo").args(["-n", "true"]));
        if sudo.is_ok_and(|output| output.status.success()) { Self::Sudo } else { Self::None }
    }

    /// `program`, run as root; `None` where that is not possible.
    pub(crate) fn command(self, program: &str) -> Option<Command> {
        match self {
            Self::Root => Some(Command::new(program)),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", program]);
                Some(command)
            }
            Self::None => None,
        }
    }
}
