//! `cargo xtask setup`: brings a machine to where IPOP can be built and run. Idempotent: looks
//! first, installs only what is missing, and says what and why.

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
}

/// How much of the machine a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Run,
    RunAndVm,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let scope = if args.vm { Scope::RunAndVm } else { Scope::Run };
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
    toolchain::ensure()
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
    if missing.is_empty() && toolchain.is_some() {
        ui::say("setup: this machine has all that is needed");
        return Ok(ExitCode::SUCCESS);
    }
    ui::say("to install it: cargo xtask setup");
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
