//! Debian's own Rust compiler with a `core` for eBPF: which packages, in which version, and how
//! they are unpacked without being installed. Decides nothing about when that is wanted.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages;
use super::toolchain::first_match;
use crate::privilege::Access;
use crate::{sh, ui};

/// The package that makes Debian's compiler useful here: a ready-made `core` for eBPF.
const CORE: &str = "libstd-rust-web-dev-bpf";

/// Matching packages of one compiler version, as apt's lists have them now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packages {
    version: String,
    std: String,
    llvm: String,
    pub(crate) llvm_major: String,
}

impl fmt::Display for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc-web {} and {}", self.version, self.llvm)
    }
}

impl Packages {
    pub(crate) fn locate() -> Result<Self> {
        if sh::find("apt-get").is_none() || sh::find("dpkg-deb").is_none() {
            bail!("this is not Debian");
        }
        if !packages::has_candidate(CORE) {
            packages::update(Access::probe())?;
        }
        let version = packages::candidate(CORE).with_context(|| format!("no package {CORE}"))?;
        let std = dependency(&format!("libstd-rust-web-dev={version}"), "libstd-rust-web-")?;
        let llvm = dependency(&format!("{std}={version}"), "libllvm")?;
        let llvm_major = llvm.trim_start_matches("libllvm").to_owned();
        Ok(Self { version, std, llvm, llvm_major })
    }

    /// Downloads the packages and unpacks them below `folder`; leaves out what is not needed.
    pub(crate) fn unpack_into(&self, folder: &Path) -> Result<()> {
        let debs = folder.join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("cannot write to {}", debs.display()))?;
        self.download(&debs)?;
        let task = ui::Task::start("unpacking");
        for entry in fs::read_dir(&debs).with_context(|| format!("cannot read {}", debs.display()))? {
            let deb = entry.with_context(|| format!("cannot read {}", debs.display()))?.path();
            sh::capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder))?;
        }
        for unneeded in ["debs", "usr/share", "usr/lib/rustlib/bpfeb-unknown-none"] {
            let _ = fs::remove_dir_all(folder.join(unneeded));
        }
        let _ = fs::remove_file(folder.join("usr/bin/rustdoc"));
        task.done();
        Ok(())
    }

    /// libLLVM's own libraries come from the system: installs them if the system lacks one.
    pub(crate) fn ensure_libraries_of(&self, llvm: &Path) -> Result<()> {
        let needs = sh::capture(Command::new("ldd").arg(llvm))?;
        if needs.contains("not found") {
            ui::note(
                "setup: the system lacks libraries that libLLVM needs; installing Debian's package of it",
            );
            packages::install(&[&self.llvm])?;
        }
        Ok(())
    }

    fn download(&self, folder: &Path) -> Result<()> {
        let of_this_version = |name: &str| format!("{name}={}", self.version);
        let fetch = || {
            let mut apt = Command::new("apt-get");
            apt.current_dir(folder).args(["download", "-qq"]);
            apt.args(["rustc-web", &self.std, "libstd-rust-web-dev", CORE].map(of_this_version));
            apt.arg(&self.llvm);
            sh::capture(&mut apt)
        };
        let task = ui::Task::start("downloading Debian's Rust compiler (130 MB)");
        if let Err(error) = fetch() {
            // Lists older than the archive name files that are no longer there.
            packages::update(Access::probe()).context(error)?;
            fetch()?;
        }
        task.done();
        Ok(())
    }
}

/// The libLLVM below `folder`, with its full version in the name.
pub(crate) fn llvm_library(folder: &Path) -> Result<PathBuf> {
    let libraries = folder.join("usr/lib");
    let entries = fs::read_dir(&libraries).with_context(|| format!("cannot read {}", libraries.display()))?;
    entries
        .flatten()
        .find_map(|entry| first_match(&entry.path(), |name| name.starts_with("libLLVM.so.")))
        .with_context(|| format!("no libLLVM below {}", libraries.display()))
}

/// The first dependency of `package` (`name=version`) whose name begins with `prefix` and goes on
/// with a digit.
fn dependency(package: &str, prefix: &str) -> Result<String> {
    let shown = sh::capture(Command::new("apt-cache").args(["show", package]))?;
    parse_dependency(&shown, prefix).with_context(|| format!("{package} does not depend on a {prefix}*"))
}

fn parse_dependency(shown: &str, prefix: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split([',', '|'])
        .filter_map(|alternative| alternative.split_whitespace().next())
        .find(|name| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_by_name_and_digit() {
        let shown = "Package: libstd-rust-web-1.96\n\
                     Depends: libc6 (>= 2.34), libgcc-s1 (>= 4.2), libllvm22 (>= 1:22.1~), libllvmspirv\n";
        assert_eq!(parse_dependency(shown, "libllvm").as_deref(), Some("libllvm22"));
        assert_eq!(parse_dependency(shown, "libstd-rust-web-"), None);
        assert_eq!(parse_dependency("Package: x\n", "libc"), None);
    }
}
