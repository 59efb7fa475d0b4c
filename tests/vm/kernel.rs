//! A kernel of Debian's, out of its package and not installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` will say.
    pub(crate) release: String,
    /// Where it is unpacked.
    pub(crate) folder: PathBuf,
}

impl Kernel {
    /// The kernel that the package `meta` depends on, whose version must start with `version`.
    /// Downloaded and unpacked below `cache` unless it is there.
    pub(crate) fn of_package(cache: &Path, meta: &str, version: &str) -> Self {
        let package = depends_on(meta).unwrap_or_else(|| {
            // No lists of packages, or old ones.
            run(Command::new("apt-get").args(["update", "-qq"]));
            depends_on(meta).unwrap_or_else(|| panic!("apt knows no package {meta}"))
        });
        let release = package.trim_start_matches("linux-image-").to_owned();
        assert!(release.starts_with(version), "{meta} is kernel {release}, not {version}");
        let folder = cache.join(&release);
        if !folder.join("complete").exists() {
            unpack(&package, &folder);
            fs::write(folder.join("complete"), b"").expect("a mark in the cache");
        }
        Self { release, folder }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// These modules and all that they need, with their content, in the order of loading.
    pub(crate) fn modules(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut files = BTreeMap::new();
        list_modules(&self.folder.join("lib/modules"), &mut files);
        let mut order = Order { files, done: BTreeSet::new(), modules: Vec::new() };
        names.iter().for_each(|name| order.add(name));
        order.modules
    }
}

/// The kernel's package that a package without content stands for.
fn depends_on(meta: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", meta]).output().expect("apt-cache");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut packages = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

fn unpack(package: &str, folder: &Path) {
    // What an interrupted run has left.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("a cache for kernels");
    let mut download = Command::new("apt-get");
    run(download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", package]).current_dir(folder));
    let archive = fs::read_dir(folder)
        .expect("the cache")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .unwrap_or_else(|| panic!("apt-get has not downloaded {package}"));
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder));
    fs::remove_file(archive).expect("the archive removed");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Module files by the name of the module.
fn list_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).expect("the kernel's modules").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            list_modules(&path, files);
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
}

struct Order {
    files: BTreeMap<String, PathBuf>,
    done: BTreeSet<String>,
    modules: Vec<(String, Vec<u8>)>,
}

impl Order {
    fn add(&mut self, name: &str) {
        if !self.done.insert(name.to_owned()) {
            return;
        }
        let path = self.files.get(name).unwrap_or_else(|| panic!("the kernel has no module {name}"));
        let content = read(path);
        for needed in needs(&content) {
            self.add(&needed);
        }
        self.modules.push((name.to_owned(), content));
    }
}

fn read(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output().expect("xz");
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        return output.stdout;
    }
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The modules that one needs: `depends=a,b` among the strings of its section .modinfo.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}
