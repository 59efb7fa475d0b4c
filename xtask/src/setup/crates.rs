//! Programs from crates.io: `cargo install` of one exact version into a folder of ours. Decides
//! nothing about which.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::sh;

/// Completes `cargo`, which is to begin with `install`, and runs it: `name` in exactly `version`,
/// with the dependencies that it was published with, ends up in `folder/bin`; what building it
/// takes stays in `folder/build`.
pub(super) fn install(cargo: &mut Command, name: &str, version: &str, folder: &Path) -> Result<()> {
    cargo
        .args([name, "--version", &format!("={version}"), "--locked", "--force"])
        .arg("--root")
        .arg(folder)
        .arg("--target-dir")
        .arg(folder.join("build"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    sh::ends_with_us(cargo);
    sh::capture(cargo)?;
    Ok(())
}
