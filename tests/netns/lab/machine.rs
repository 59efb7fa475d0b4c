//! What makes a host a machine of its own to its programs: a name, and a copy of /etc/resolv.conf. The files of the
//! machine that the tests run on are never written.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::namespace::mount_over;
use super::{Host, How};

/// What a host's daemon and its programs see where this copy is mounted.
const RESOLVER: &str = "/etc/resolv.conf";

impl Host {
    /// Its name in the virtual network.
    pub(crate) fn virtual_name(&self) -> String {
        format!("{}.test.ipop", self.config.name)
    }

    /// Its copy of /etc/resolv.conf.
    pub(crate) fn resolver_file(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// Gives the host a copy of its own, which its programs go by.
    pub(crate) fn write_resolver(&self, text: &str) {
        fs::write(self.resolver_file(), text).expect("a file of its own");
    }

    /// How a daemon is started that is to write that copy, where its configuration says so.
    pub(crate) fn with_resolver(&self) -> How {
        How::WithFile { file: self.resolver_file(), over: RESOLVER.into() }
    }

    /// A program of this host's, which finds others by the host's copy.
    pub(crate) fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.ns.command(program, arguments);
        mount_over(&mut command, &self.resolver_file(), Path::new(RESOLVER));
        let name = self.config.name.clone();
        // SAFETY: between fork and exec the closure makes system calls alone; what it owns was made before,
        // and the name is as long as is said.
        unsafe {
            command.pre_exec(move || {
                unshare(CloneFlags::CLONE_NEWUTS)?;
                match libc::sethostname(name.as_ptr().cast(), name.len()) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        command
    }
}
