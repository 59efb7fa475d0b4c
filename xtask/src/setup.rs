//! `cargo xtask setup`: brings a machine to where IPOP can be built and run. Idempotent: looks
//! first, installs only what is missing, and says what and why.

pub(crate) mod boringtun;
mod crates;
mod debian;
mod packages;
mod toolchain;

use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{ui, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit 1 if anything is
    #[arg(long)]
    check: bool,
    /// Also what booting other kernels needs (`cargo xtask test --vm`)
    #[arg(long)]
    vm: bool,
    /// Also the virtual networks of others that `cargo xtask bench` measures beside ours
    #[arg(long)]
    bench: bool,
}

/// How much of the machine a command needs beside what building and running takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    /// All tests can run here, also those against the WireGuards of others.
    pub(crate) test: bool,
    /// Other kernels can be booted.
    pub(crate) vm: bool,
    /// The virtual networks of others can be measured.
    pub(crate) bench: bool,
}

impl Scope {
    pub(crate) const RUN: Self = Self { test: false, vm: false, bench: false };
    pub(crate) const TEST: Self = Self { test: true, ..Self::RUN };
    pub(crate) const BENCH: Self = Self { bench: true, ..Self::TEST };

    /// What installs it: what the tests need comes always.
    pub(crate) fn command(self) -> String {
        let options = [(self.vm, " --vm"), (self.bench, " --bench")];
        let wanted = options.iter().filter(|(wanted, _)| *wanted).map(|(_, option)| *option);
        std::iter::once("cargo xtask setup").chain(wanted).collect()
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let scope = Scope { vm: args.vm, bench: args.bench, ..Scope::TEST };
    if args.check {
        return check(scope);
    }
    ensure(scope)?;
    ui::say("setup: this machine has all that is needed");
    Ok(ExitCode::SUCCESS)
}

/// Installs what `scope` needs and is missing; says nothing when nothing is.
pub(crate) fn ensure(scope: Scope) -> Result<()> {
    // Two set-ups at once would unpack into the same folder.
    let _lock = lock()?;
    packages::ensure(scope)?;
    toolchain::ensure()?;
    if scope.test {
        boringtun::ensure()?;
    }
    Ok(())
}

/// The same without a compiler for the eBPF programs.
pub(crate) fn ensure_packages(scope: Scope) -> Result<()> {
    let _lock = lock()?;
    packages::ensure(scope)
}

fn check(scope: Scope) -> Result<ExitCode> {
    let missing = packages::missing(scope);
    for package in &missing {
        ui::say(&format!("missing: {:<16} {}", package.name, package.why));
    }
    let toolchain = toolchain::found()?;
    match &toolchain {
        Some(found) => ui::say(&format!("eBPF toolchain: {found}")),
        None => ui::say("missing: a compiler for the eBPF programs"),
    }
    let boringtun = !scope.test || boringtun::program()?.is_some();
    if !boringtun {
        ui::say(&format!("missing: {:<16} {}", boringtun::PROGRAM, boringtun::WHY));
    }
    if missing.is_empty() && toolchain.is_some() && boringtun {
        ui::say("setup: this machine has all that is needed");
        return Ok(ExitCode::SUCCESS);
    }
    ui::say(&format!("to install it: {}", scope.command()));
    Ok(ExitCode::FAILURE)
}

fn lock() -> Result<Flock<File>> {
    let path = workspace::target()?.join("xtask-setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            ui::note("waiting for another set-up to finish ...");
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| anyhow::anyhow!("cannot lock {}: {errno}", path.display()))
        }
        Err((_, errno)) => bail!("cannot lock {}: {errno}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_installs_what_was_found_missing() {
        assert_eq!([Scope::RUN, Scope::TEST].map(Scope::command), ["cargo xtask setup"; 2]);
        assert_eq!(Scope::BENCH.command(), "cargo xtask setup --bench");
        assert_eq!(Scope { vm: true, ..Scope::BENCH }.command(), "cargo xtask setup --vm --bench");
    }
}
