//! `cargo xtask build`: the binaries of the product, `ipopd` with the eBPF objects inside.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::setup::Scope;
use crate::{setup, sh, ui, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build without optimisation (target/debug)
    #[arg(long)]
    debug: bool,
}

/// The binaries that a build leaves.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) ipopd: PathBuf,
    pub(crate) ipopctl: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    let built = build(profile)?;
    let group = build_group(profile)?;
    for file in [&built.ipopd, &built.ipopctl, &group] {
        let size = file.metadata().with_context(|| format!("{} was not built", file.display()))?.len();
        ui::say(&format!("{:>6.1} MiB  {}", size as f64 / f64::from(1 << 20), file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

/// Sets the machine up and builds; cargo's own progress is shown.
pub(crate) fn build(profile: Profile) -> Result<Binaries> {
    setup::ensure(Scope::RUN)?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "ipop-user", "--bins"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    sh::inherit(&mut cargo)?;
    binaries(profile)
}

/// Builds the server of groups; returns where it is.
pub(crate) fn build_group(profile: Profile) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "ipop-group"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    sh::inherit(&mut cargo)?;
    Ok(folder(profile)?.join("ipop-group"))
}

/// Builds the program that handshakes are measured with; returns where it is.
pub(crate) fn build_callers() -> Result<PathBuf> {
    sh::inherit(workspace::cargo().args(["build", "--package", "ipop-callers", "--release"]))?;
    Ok(folder(Profile::Release)?.join("ipop-callers"))
}

/// Builds the simulator of the overlay; returns where it is.
pub(crate) fn build_sim() -> Result<PathBuf> {
    sh::inherit(workspace::cargo().args(["build", "--package", "ipop-sim", "--release"]))?;
    Ok(folder(Profile::Release)?.join("ipop-sim"))
}

fn folder(profile: Profile) -> Result<PathBuf> {
    Ok(workspace::target()?.join(match profile {
        Profile::Debug => "debug",
        Profile::Release => "release",
    }))
}

/// Where the binaries of `profile` are.
pub(crate) fn binaries(profile: Profile) -> Result<Binaries> {
    let folder = folder(profile)?;
    Ok(Binaries { ipopd: folder.join("ipopd"), ipopctl: folder.join("ipopctl") })
}
