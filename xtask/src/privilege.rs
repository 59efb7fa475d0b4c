//! Who we are, and how a step that needs root is run.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{sh, ui};

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Starts this same command again through sudo, in place of this process. For what needs root
/// from its first step on; building has been done as the user by then.
pub(crate) fn again_as_root() -> Result<ExitCode> {
    if Access::probe() != Access::Sudo {
        bail!("network namespaces need root: run it as root, or allow sudo without a password");
    }
    ui::note("going on as root, through sudo: network namespaces need it");
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let keep =
        "--preserve-env=PATH,HOME,CARGO_MANIFEST_DIR,CARGO_TARGET_DIR,EBPF_TOOLCHAIN,EBPF_OBJECTS,NO_COLOR";
    let error = Command::new("sudo").args(["-n", keep]).arg(exe).args(std::env::args_os().skip(1)).exec();
    Err(error).context("cannot start sudo")
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
