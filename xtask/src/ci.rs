//! `cargo xtask ci`: what a change must pass. Formatting, lints, the rules about who may depend
//! on whom, the commands in the documents, then all tests.

mod dependencies;
mod documents;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::ui::{self, Colour, paint};
use crate::{setup, sh, test, workspace};

/// Workspaces of their own that the main one's commands do not reach.
const OTHER_WORKSPACE: &str = "ipop-ebpf/Cargo.toml";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Everything but the tests
    #[arg(long)]
    fast: bool,
    #[command(flatten)]
    test: test::Args,
}

type Check = fn() -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("formatting", formatting),
    ("who depends on whom", dependencies::check),
    ("commands in the documents", documents::check),
    ("clippy", clippy),
];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // clippy compiles the product, and that needs the eBPF objects.
    setup::ensure(setup::Scope::RUN)?;
    let failed: Vec<&str> =
        CHECKS.iter().filter(|(name, check)| !passes(name, *check)).map(|(name, _)| *name).collect();
    if !failed.is_empty() {
        ui::error(&format!("these checks failed: {}", failed.join(", ")));
        return Ok(ExitCode::FAILURE);
    }
    if args.fast { Ok(ExitCode::SUCCESS) } else { test::run(&args.test) }
}

fn passes(name: &str, check: Check) -> bool {
    let task = ui::Task::start(name);
    match check() {
        Ok(()) => {
            task.done();
            true
        }
        Err(error) => {
            drop(task);
            ui::note(&format!("{} {name}\n{error:#}", paint(Colour::Red, "✗")));
            false
        }
    }
}

fn formatting() -> Result<()> {
    let mut unformatted = BTreeSet::new();
    for manifest in ["Cargo.toml", OTHER_WORKSPACE] {
        if workspace::root().join(manifest).exists() {
            let mut cargo = workspace::cargo();
            cargo.args(["fmt", "--all", "--manifest-path", manifest, "--", "--check", "-l"]);
            let output = sh::output(&mut cargo)?;
            unformatted.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
        }
    }
    if !unformatted.is_empty() {
        let files: Vec<String> = unformatted.into_iter().collect();
        bail!("not as `cargo fmt --all` has them:\n{}", files.join("\n"));
    }
    Ok(())
}

fn clippy() -> Result<()> {
    sh::capture(workspace::cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(())
}

/// What `cargo metadata` says of the workspace of `manifest`.
fn metadata(manifest: &str) -> Result<serde_json::Value> {
    use anyhow::Context;
    let mut cargo: Command = workspace::cargo();
    cargo.args(["metadata", "--format-version", "1", "--manifest-path", manifest]);
    let text = sh::capture(&mut cargo)?;
    serde_json::from_str(&text).with_context(|| format!("cannot read what cargo says of {manifest}"))
}
