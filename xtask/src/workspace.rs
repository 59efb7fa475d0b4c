//! Where things are: the checkout, the target directory, the binaries, the eBPF toolchain.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Overrides where the private eBPF toolchain is; the build script of ipop-user reads it too.
pub(crate) const TOOLCHAIN_VARIABLE: &str = "EBPF_TOOLCHAIN";
/// Names a folder of ready-made eBPF objects; then no eBPF toolchain is needed.
pub(crate) const OBJECTS_VARIABLE: &str = "EBPF_OBJECTS";

/// The folder of the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    // cargo sets the variable at run time too; the compiled-in value serves a direct call.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The folder in which cargo has put this very program: `target/` or what replaces it.
pub(crate) fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = exe.ancestors().nth(2).context("this program is not in a cargo target folder")?;
    Ok(folder.to_path_buf())
}

pub(crate) fn toolchain() -> Result<PathBuf> {
    match std::env::var_os(TOOLCHAIN_VARIABLE) {
        Some(folder) => std::path::absolute(&folder)
            .with_context(|| format!("{TOOLCHAIN_VARIABLE}={} is no path", folder.display())),
        None => Ok(root().join(".ebpf-toolchain")),
    }
}

/// A cargo that runs in the workspace's folder with the toolchain that the workspace pins.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` has set for this program is not meant for another build.
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}
