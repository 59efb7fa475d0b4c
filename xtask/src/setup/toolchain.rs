//! The compiler for the eBPF programs. Owns the choice between the ways to have one, and the
//! private toolchain in `.ebpf-toolchain/`:
//!
//! 1. `EBPF_OBJECTS` names ready-made objects: nothing is compiled.
//! 2. A private copy of Debian's `rustc-web`, which comes with a `core` for bpfel-unknown-none,
//!    and a bpf-linker built against the LLVM of the same Debian packages.
//! 3. rustup's nightly with rust-src (`-Z build-std=core`) and a bpf-linker built against
//!    nightly's own LLVM.
//!
//! The build script of ipop-user uses what is found here: `bin/rustc` and `bin/bpf-linker`.

use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{crates, debian};
use crate::{sh, ui, workspace};

const LINKER_VERSION: &str = "0.13.0";

/// A way to have eBPF objects that is ready for use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Objects(PathBuf),
    Private(PathBuf),
    Nightly,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objects(folder) => write!(f, "ready-made objects in {}", folder.display()),
            Self::Private(folder) => write!(f, "private, in {}", folder.display()),
            Self::Nightly => f.write_str("rustup's nightly with rust-src"),
        }
    }
}

/// What is there already, or `None`.
pub(crate) fn found() -> Result<Option<Found>> {
    if let Some(folder) = std::env::var_os(workspace::OBJECTS_VARIABLE) {
        let folder = PathBuf::from(folder);
        if !folder.is_dir() {
            bail!("{}={} is not a folder", workspace::OBJECTS_VARIABLE, folder.display());
        }
        return Ok(Some(Found::Objects(folder)));
    }
    let private = Private::at(workspace::toolchain()?);
    if private.works() {
        return Ok(Some(Found::Private(private.folder)));
    }
    let linker_works = runs(&private.linker()) || runs(Path::new("bpf-linker"));
    Ok((Nightly::probe().is_some() && linker_works).then_some(Found::Nightly))
}

/// Makes one of the three ways work; says nothing when one does already.
pub(crate) fn ensure() -> Result<()> {
    if found()?.is_some() {
        return Ok(());
    }
    let private = Private::at(workspace::toolchain()?);
    private.clear_leftovers()?;
    ui::note("setup: no compiler for the eBPF programs yet");
    match debian::Packages::locate() {
        Ok(packages) => {
            ui::note(&format!(
                "setup: unpacking Debian's {packages} into {} (about 450 MB; nothing of it goes into /usr)",
                private.folder.display()
            ));
            private.install_debian(&packages)?;
        }
        Err(why_not_debian) => {
            let nightly = Nightly::probe().ok_or_else(|| no_way(&why_not_debian))?;
            private.install_linker_for(&nightly)?;
        }
    }
    match found()? {
        Some(found) => {
            ui::note(&format!("setup: eBPF toolchain is ready: {found}"));
            Ok(())
        }
        None => bail!("the eBPF toolchain was set up but does not run: see {}", private.folder.display()),
    }
}

fn no_way(why_not_debian: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "no compiler for the eBPF programs is to be had here: Debian's cannot be used ({why_not_debian:#}).\n  \
         Either: rustup toolchain install nightly --component rust-src\n  \
         Or set {} to a folder of ready-made eBPF objects.",
        workspace::OBJECTS_VARIABLE
    )
}

/// The private toolchain folder: `bin/`, `llvm/`, `usr/`. All links in it are relative, so it
/// may be moved. `bin/` is put there last: without it the rest counts for nothing.
#[derive(Debug)]
struct Private {
    folder: PathBuf,
}

impl Private {
    fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn rustc(&self) -> PathBuf {
        self.folder.join("bin/rustc")
    }

    fn linker(&self) -> PathBuf {
        self.folder.join("bin/bpf-linker")
    }

    /// Where everything is prepared before it is moved to its place. Inside the folder: the same
    /// file system, so that a move is a rename, and the same line of .gitignore.
    fn staging(&self) -> PathBuf {
        self.folder.join("partial")
    }

    /// Whether compiler, `core` and linker are there and run. Running them reads 250 MB of
    /// libraries, so the answer is kept in a stamp that holds as long as the files are the same.
    fn works(&self) -> bool {
        let Some(identity) = self.identity() else { return false };
        let stamp = self.folder.join("verified");
        if fs::read_to_string(&stamp).is_ok_and(|kept| kept == identity) {
            return true;
        }
        let works = runs(&self.rustc()) && runs(&self.linker());
        if works {
            // A folder that cannot be written to is only verified again the next time.
            let _ = fs::write(&stamp, identity);
        }
        works
    }

    /// Size and time of every file that the toolchain cannot do without; `None` if one is missing.
    fn identity(&self) -> Option<String> {
        let core = first_match(&self.folder.join("usr/lib/rustlib/bpfel-unknown-none/lib"), |name| {
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })?;
        let llvm = self.folder.join("llvm/lib/libLLVM.so");
        let files = [self.rustc(), self.folder.join("usr/bin/rustc"), self.linker(), core, llvm];
        files
            .iter()
            .map(|file| {
                let meta = file.metadata().ok()?;
                Some(format!("{} {} {}\n", file.display(), meta.len(), meta.mtime()))
            })
            .collect()
    }

    /// Removes what an interrupted or broken set-up left; touches nothing that works.
    fn clear_leftovers(&self) -> Result<()> {
        for leftover in
            [self.staging(), self.folder.join("bin"), self.folder.join("llvm"), self.folder.join("usr")]
        {
            match fs::remove_dir_all(&leftover) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", leftover.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn install_debian(&self, packages: &debian::Packages) -> Result<()> {
        let staging = self.staging();
        fs::create_dir_all(staging.join("bin"))
            .with_context(|| format!("cannot write to {}", staging.display()))?;
        packages.unpack_into(&staging)?;
        let llvm = debian::llvm_library(&staging)?;
        packages.ensure_libraries_of(&llvm)?;
        let name = file_name(&llvm)?;
        let folder = llvm.parent().and_then(|folder| folder.strip_prefix(&staging).ok());
        let folder = folder.context("libLLVM is not where Debian puts it")?;
        write_rustc_wrapper(&staging.join("bin/rustc"), folder)?;
        link_llvm(&staging, &Path::new("../..").join(folder).join(&name))?;
        install_linker(&staging, &packages.llvm_major, None)?;
        self.publish(&["usr", "llvm", "bin"])
    }

    fn install_linker_for(&self, nightly: &Nightly) -> Result<()> {
        ui::note("setup: rustup's nightly has rust-src; it only lacks a bpf-linker");
        let staging = self.staging();
        link_llvm(&staging, &nightly.llvm)?;
        install_linker(&staging, &nightly.llvm_major, Some("+nightly"))?;
        self.publish(&["llvm", "bin"])
    }

    fn publish(&self, parts: &[&str]) -> Result<()> {
        let staging = self.staging();
        for part in parts {
            fs::rename(staging.join(part), self.folder.join(part))
                .with_context(|| format!("cannot move {part} into {}", self.folder.display()))?;
        }
        fs::remove_dir_all(&staging).with_context(|| format!("cannot remove {}", staging.display()))
    }
}

/// rustup's nightly with the sources of the standard library.
#[derive(Debug)]
struct Nightly {
    llvm: PathBuf,
    llvm_major: String,
}

impl Nightly {
    fn probe() -> Option<Self> {
        let rustc = |arguments: &[&str]| {
            sh::capture(Command::new("rustup").args(["run", "nightly", "rustc"]).args(arguments)).ok()
        };
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
        if !sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
            return None;
        }
        let llvm = first_match(&sysroot.join("lib"), |name| name.starts_with("libLLVM.so."))?;
        Some(Self { llvm, llvm_major: parse_llvm_major(&rustc(&["-vV"])?)? })
    }
}

fn parse_llvm_major(version: &str) -> Option<String> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(llvm.split('.').next()?.to_owned())
}

/// A compiler that finds its own libraries wherever the folder is.
fn write_rustc_wrapper(file: &Path, libraries: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let text = format!(
        "#!/bin/sh\n\
         # Debian's rustc-web, unpacked privately: its libraries are not in the system's folders.\n\
         top=$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")\n\
         LD_LIBRARY_PATH=\"$top/{}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\" exec \"$top/usr/bin/rustc\" \"$@\"\n",
        libraries.display()
    );
    fs::write(file, text)
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// bpf-linker's build asks for `libLLVM.so`; its loader then asks for the library's own name.
fn link_llvm(staging: &Path, library: &Path) -> Result<()> {
    let folder = staging.join("llvm/lib");
    fs::create_dir_all(&folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    for name in [file_name(library)?.as_str(), "libLLVM.so"] {
        symlink(library, folder.join(name))
            .with_context(|| format!("cannot link {name} in {}", folder.display()))?;
    }
    Ok(())
}

fn install_linker(staging: &Path, llvm_major: &str, toolchain: Option<&str>) -> Result<()> {
    let task = ui::Task::start(&format!("building bpf-linker {LINKER_VERSION} for LLVM {llvm_major}"));
    let mut cargo = match toolchain {
        None => workspace::cargo(),
        Some(toolchain) => {
            let mut cargo = Command::new("cargo");
            cargo.arg(toolchain).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
            cargo
        }
    };
    cargo
        .args(["install", "--no-default-features", "--features", &format!("llvm-{llvm_major}")])
        .env("LLVM_PREFIX", staging.join("llvm"))
        // Found relative to the program itself: the folder is renamed after this.
        .env("RUSTFLAGS", "-Clink-arg=-Wl,-rpath,$ORIGIN/../llvm/lib")
        // It links small programs: building it fast matters more than its own speed.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    crates::install(&mut cargo, "bpf-linker", LINKER_VERSION, staging)?;
    task.done();
    Ok(())
}

fn runs(program: &Path) -> bool {
    sh::output(Command::new(program).arg("--version")).is_ok_and(|output| output.status.success())
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| format!("{} has no file name", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// The first entry of `folder`, by name, that `wanted` accepts.
pub(crate) fn first_match(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_rustc() {
        let version = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nLLVM version: 22.1.4\n";
        assert_eq!(parse_llvm_major(version).as_deref(), Some("22"));
        assert_eq!(parse_llvm_major("rustc 1.97.0\n"), None);
    }

    #[test]
    fn a_toolchain_with_a_missing_file_does_not_count() {
        let folder = std::env::temp_dir().join(format!("xtask-test-toolchain-{}", std::process::id()));
        fs::create_dir_all(folder.join("bin")).expect("temporary folder");
        fs::write(folder.join("verified"), "").expect("stamp");
        assert!(!Private::at(folder.clone()).works());
        fs::remove_dir_all(folder).expect("clean up");
    }
}
