//! The rules about who may depend on whom, held against what cargo resolves:
//! common <- ebpf, common <- overlay <- user, overlay <- {sim, group}, group-api <- {group, user}; the core knows no socket, thread or kernel;
//! xtask knows nothing of the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{sh, workspace};

/// Each package of ours, and those of ours that it may depend on.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ipop-common", &[]),
    ("ipop-overlay", &["ipop-common"]),
    ("ipop-ebpf", &["ipop-common"]),
    ("ipop-group-api", &[]),
    ("ipop-group", &["ipop-group-api", "ipop-overlay"]),
    ("ipop-sim", &["ipop-common", "ipop-overlay"]),
    ("ipop-user", &["ipop-common", "ipop-group-api", "ipop-overlay"]),
    ("xtask", &[]),
    ("ipop-benches", &["ipop-common", "ipop-overlay", "ipop-user"]),
    ("ipop-callers", &["ipop-common", "ipop-overlay"]),
    ("ipop-tests", &["ipop-callers", "ipop-common", "ipop-overlay", "ipop-user"]),
];

/// Packages that must build where there is no operating system.
const WITHOUT_SYSTEM: &[&str] = &["ipop-common", "ipop-overlay"];
/// Crates that bring an operating system in, by whatever detour.
const SYSTEM_CRATES: &[&str] =
    &["aya", "io-uring", "libbpf-rs", "mio", "nix", "rtnetlink", "rustix", "socket2", "tokio", "getrandom"];
const BARE_TARGET: &str = "wasm32-unknown-unknown";

pub(super) fn check() -> Result<()> {
    let mut broken = Vec::new();
    for manifest in ["Cargo.toml", super::OTHER_WORKSPACE] {
        if workspace::root().join(manifest).exists() {
            let graph = Graph::read(&super::metadata(manifest)?)?;
            broken.extend(graph.broken_rules());
        }
    }
    for package in WITHOUT_SYSTEM {
        broken.extend(system_crates_of(package)?);
        broken.extend(without_std(package)?);
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(())
}

/// Which packages use which, by name; ours and those from elsewhere.
#[derive(Debug)]
struct Graph {
    ours: BTreeSet<String>,
    /// Of any kind: a test's dependency couples as well.
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        let name_of: BTreeMap<&str, &str> = packages
            .iter()
            .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
            .collect();
        // Ours are those without a registry; a path dependency of another workspace is one too.
        let ours = packages
            .iter()
            .filter(|package| package["source"].is_null())
            .filter_map(|package| package["name"].as_str().map(str::to_owned))
            .collect();
        let mut graph = Self { ours, uses: BTreeMap::new() };
        let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
        for node in nodes {
            let name = |id: &Value| id.as_str().and_then(|id| name_of.get(id)).map(|name| (*name).to_owned());
            let Some(user) = name(&node["id"]) else { continue };
            for dependency in node["deps"].as_array().into_iter().flatten() {
                let Some(used) = name(&dependency["pkg"]) else { continue };
                graph.uses.entry(user.clone()).or_default().insert(used);
            }
        }
        Ok(graph)
    }

    fn broken_rules(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for package in &self.ours {
            let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| name == package) else {
                broken.push(format!(
                    "{package} has no rule: say in xtask/src/ci/dependencies.rs what it may use"
                ));
                continue;
            };
            for used in self.uses.get(package).into_iter().flatten() {
                if self.ours.contains(used) && !allowed.contains(&used.as_str()) {
                    broken.push(format!("{package} must not depend on {used}"));
                }
            }
        }
        broken
    }
}

/// The system's crates that `package` links when it is built by itself. Asked of `cargo tree`:
/// the features that other packages of the workspace switch on do not count.
fn system_crates_of(package: &str) -> Result<Vec<String>> {
    let mut cargo = workspace::cargo();
    cargo.args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let linked = system_crates_in(&sh::capture(&mut cargo)?);
    let told = |name| format!("{package} must build without an operating system, but links {name}");
    Ok(linked.into_iter().map(told).collect())
}

fn system_crates_in(tree: &str) -> BTreeSet<&'static str> {
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    SYSTEM_CRATES.iter().copied().filter(|name| names.contains(name)).collect()
}

/// Builds `package` for a target without an operating system where that target is installed;
/// elsewhere looks whether the package declares that it does without the standard library.
fn without_std(package: &str) -> Result<Option<String>> {
    let library = workspace::root().join(package).join("src/lib.rs");
    let source =
        fs::read_to_string(&library).with_context(|| format!("cannot read {}", library.display()))?;
    if !declares_no_std(&source) {
        return Ok(Some(format!("{package}/src/lib.rs does not say #![no_std]")));
    }
    if bare_target_is_installed() {
        let mut cargo = workspace::cargo();
        cargo.args(["check", "--quiet", "--package", package, "--target", BARE_TARGET]);
        return Ok(sh::capture(&mut cargo).err().map(|error| format!("{error:#}")));
    }
    Ok(None)
}

/// Unconditionally, or everywhere but in tests.
fn declares_no_std(source: &str) -> bool {
    source.lines().any(|line| {
        let line: String = line.split_whitespace().collect();
        line == "#![no_std]" || line == "#![cfg_attr(not(test),no_std)]"
    })
}

fn bare_target_is_installed() -> bool {
    let libraries = sh::capture(Command::new("rustc").current_dir(workspace::root()).args([
        "--print",
        "target-libdir",
        "--target",
        BARE_TARGET,
    ]));
    libraries.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let names: BTreeSet<&str> = edges.iter().flat_map(|(user, used)| [*user, *used]).collect();
        let source = |name: &str| (!MAY_USE.iter().any(|(ours, _)| *ours == name)).then_some("registry");
        let packages: Vec<Value> = names
            .iter()
            .map(|name| json!({ "id": format!("id:{name}"), "name": name, "source": source(name) }))
            .collect();
        let used_by = |user: &str| -> Vec<Value> {
            let used = edges.iter().filter(|(found, _)| *found == user);
            used.map(|(_, used)| json!({ "pkg": format!("id:{used}") })).collect()
        };
        let nodes: Vec<Value> =
            names.iter().map(|name| json!({ "id": format!("id:{name}"), "deps": used_by(name) })).collect();
        Graph::read(&json!({ "packages": packages, "resolve": { "nodes": nodes } })).expect("a graph")
    }

    #[test]
    fn the_layers_hold() {
        let good =
            graph(&[("ipop-overlay", "ipop-common"), ("ipop-user", "ipop-overlay"), ("ipop-user", "tokio")]);
        assert_eq!(good.broken_rules(), Vec::<String>::new());
    }

    #[test]
    fn a_step_up_the_layers_is_found() {
        let broken = graph(&[("ipop-common", "ipop-user")]).broken_rules();
        assert_eq!(broken, ["ipop-common must not depend on ipop-user"]);
        let broken = graph(&[("xtask", "ipop-common")]).broken_rules();
        assert_eq!(broken, ["xtask must not depend on ipop-common"]);
    }

    #[test]
    fn a_package_without_a_rule_is_found() {
        let mut graph = graph(&[("ipop-user", "ipop-common")]);
        graph.ours.insert("ipop-new".to_owned());
        assert!(graph.broken_rules()[0].starts_with("ipop-new has no rule"));
    }

    #[test]
    fn an_operating_system_by_a_detour_is_found() {
        let tree =
            "ipop-overlay v0.1.0 (/x/ipop-overlay)\nclock v1.0.0\nnix v0.31.3\nipop-common v0.1.0 (*)\n";
        assert_eq!(system_crates_in(tree), BTreeSet::from(["nix"]));
        assert!(system_crates_in("ipop-overlay v0.1.0\nnixery v1.0.0\n").is_empty());
    }

    #[test]
    fn no_std_must_be_declared() {
        assert!(declares_no_std("//! Docs.\n#![no_std]\n"));
        assert!(declares_no_std("#![cfg_attr(not(test), no_std)]\n"));
        assert!(!declares_no_std("#![cfg_attr(feature = \"std\", no_std)]\nuse std::fmt;\n"));
    }
}
