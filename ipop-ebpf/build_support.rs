//! For build scripts of packages that embed the compiled programs: puts objects into `OUT_DIR`.
//! Each build script includes this file by path, so that there is one way to build the programs.
//!
//! Toolchain, first that exists:
//! 1. `EBPF_OBJECTS=DIR`: ready-made objects, nothing is compiled.
//! 2. `EBPF_TOOLCHAIN=DIR` or .ebpf-toolchain: a rustc with `core` for bpfel-unknown-none.
//! 3. rustup's nightly with rust-src, through `-Zbuild-std=core`.
//!
//! `cargo xtask setup` provides one of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// One build of the programs: its file name in `OUT_DIR`, and the features it is built with.
pub(crate) struct Object {
    pub(crate) name: &'static str,
    pub(crate) features: &'static [&'static str],
}

/// The build that is loaded by default; loaders other than aya take it too.
pub(crate) const PLAIN: Object = Object { name: "ipop", features: &[] };

/// What the outer cargo sets for its own build must not leak into this one.
const FOREIGN: [&str; 7] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];

/// Puts `objects` into `OUT_DIR`, for a package whose folder lies beside ipop-ebpf.
pub(crate) fn provide(objects: &[Object]) {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let out = PathBuf::from(variable("OUT_DIR"));
    watch(&root);
    if let Some(ready) = env::var_os("EBPF_OBJECTS").map(PathBuf::from) {
        for object in objects {
            take(&ready.join(object.name), &out.join(object.name));
        }
        return;
    }
    // OUT_DIR is target/<profile>/build/<package>-<hash>/out: one eBPF target folder for all
    // profiles and packages.
    let target = out.ancestors().nth(4).unwrap_or(&out).join("ebpf");
    for object in objects {
        let target = target.join(object.name);
        compile(&root, &target, object.features);
        take(&target.join("bpfel-unknown-none/release/ipop"), &out.join(object.name));
    }
}

fn watch(root: &Path) {
    for name in ["EBPF_OBJECTS", "EBPF_TOOLCHAIN"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for path in ["src", "Cargo.toml", "Cargo.lock", ".cargo"] {
        println!("cargo::rerun-if-changed={}", root.join("ipop-ebpf").join(path).display());
    }
    for path in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join("ipop-common").join(path).display());
    }
}

fn compile(root: &Path, target: &Path, features: &[&str]) {
    let private = env::var_os("EBPF_TOOLCHAIN").map_or_else(|| root.join(".ebpf-toolchain"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", private.join("bin/rustc").display());
    let mut cargo = toolchain(&private);
    // The eBPF crate's .cargo/config.toml is found from its folder.
    cargo.current_dir(root.join("ipop-ebpf")).args(["--release", "--locked", "--target-dir"]).arg(target);
    if !features.is_empty() {
        cargo.arg("--features").arg(features.join(","));
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("compiling ipop-ebpf failed ({status}): run `cargo xtask setup` once")),
        Err(error) => {
            fail(&format!("cannot start cargo for ipop-ebpf: {error}: run `cargo xtask setup` once"))
        }
    }
}

/// The cargo command, up to and including `build`, of the first toolchain that exists.
fn toolchain(private: &Path) -> Command {
    let rustc = fs::canonicalize(private.join("bin/rustc"));
    let linker = fs::canonicalize(private.join("bin/bpf-linker"));
    let mut cargo = match &rustc {
        Ok(_) => Command::new(variable("CARGO")),
        Err(_) => Command::new("rustup"),
    };
    for name in FOREIGN {
        cargo.env_remove(name);
    }
    match rustc {
        Ok(rustc) => cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build"),
        Err(_) => cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").args([
            "run",
            "nightly",
            "cargo",
            "build",
            "-Zbuild-std=core",
        ]),
    };
    if let Ok(linker) = linker {
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    }
    cargo
}

fn take(from: &Path, to: &Path) {
    if let Err(error) = fs::copy(from, to) {
        fail(&format!("{}: {error}", from.display()));
    }
}

fn variable(name: &str) -> std::ffi::OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1)
}
