//! Where the programs under test are.

use std::path::PathBuf;
use std::process::{Command, Output};

/// `ipopd` or `ipopctl`: in `IPOP_BIN_DIR`, or beside this test's own executable.
pub(crate) fn path(name: &str) -> PathBuf {
    let folder = match std::env::var_os("IPOP_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().expect("this program's path");
            own.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned()
        }
    };
    let path = folder.join(name);
    let hint = "build it (cargo xtask build), or set IPOP_BIN_DIR";
    assert!(path.exists(), "{} is missing: {hint}", path.display());
    path
}

/// Runs `ipopctl`, whatever comes of it.
pub(crate) fn ipopctl(arguments: &[&str]) -> Output {
    let output = Command::new(path("ipopctl")).args(arguments).output();
    output.unwrap_or_else(|error| panic!("ipopctl: {error}"))
}
