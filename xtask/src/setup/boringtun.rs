//! Cloudflare's boringtun, which Debian does not have: built from crates.io into the target
//! folder. Owns its version and its place.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::crates;
use crate::{ui, workspace};

pub(crate) const PROGRAM: &str = "boringtun-cli";
pub(super) const WHY: &str = "talks to ours in the tests, measured beside ours; built from crates.io";
const VERSION: &str = "0.7.1";

/// Where it is; `None` where it has not been built. Another one in PATH does not count: what is
/// tested and measured is one known version.
pub(crate) fn program() -> Result<Option<PathBuf>> {
    let program = folder()?.join("bin").join(PROGRAM);
    Ok(program.is_file().then_some(program))
}

/// A folder per version: the next one does not find this one's program.
fn folder() -> Result<PathBuf> {
    Ok(workspace::target()?.join(format!("{PROGRAM}-{VERSION}")))
}

/// Builds it; says nothing when that has been done.
pub(super) fn ensure() -> Result<()> {
    if program()?.is_some() {
        return Ok(());
    }
    let folder = folder()?;
    let task = ui::Task::start(&format!("building {PROGRAM} {VERSION}"));
    let mut cargo = workspace::cargo();
    // Measured as its authors publish it, not as this machine builds ours.
    cargo.arg("install").env_remove("RUSTFLAGS");
    crates::install(&mut cargo, PROGRAM, VERSION, &folder)?;
    let build = folder.join("build");
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    task.done();
    Ok(())
}
