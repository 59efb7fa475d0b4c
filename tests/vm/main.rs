//! Debian's other kernels, booted under qemu without hardware help: the suite `prog_run`, and of `netns` whole
//! nodes that have the kernel's WireGuard as a peer.
//!
//! Runs where `IPOP_TEST_VM=1` asks for it (`cargo xtask test --vm`) and reports itself as skipped
//! elsewhere; whole nodes only with `IPOP_TEST_FULL=1` too. Kernels come from Debian's archive by apt, without being installed.

mod initramfs;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ipop_tests::privilege::{skip, unless_full};

use initramfs::Initramfs;
use kernel::Kernel;
use machine::Report;

/// Asks for these tests.
const VM_VARIABLE: &str = "IPOP_TEST_VM";

/// A suite of this package's tests, and what it needs to run in a machine.
#[derive(Debug)]
struct Suite {
    name: &'static str,
    /// For the test runner.
    arguments: &'static [&'static str],
    environment: &'static [&'static str],
    /// Beside the suite itself.
    programs: &'static [&'static str],
    /// Of the product.
    binaries: &'static [&'static str],
    modules: &'static [&'static str],
    /// Tests that it has at least; fewer would mean that it was not the suite that ran.
    tests_min: usize,
}

const PROGRAMS: Suite = Suite {
    name: "prog_run",
    arguments: &["--test-threads=2"],
    // Random packets per program: an emulated processor is some thirty times slower.
    environment: &["IPOP_REQUIRE_ROOT=1", "IPOP_TEST_PACKETS=20000"],
    programs: &["ip"],
    binaries: &[],
    modules: &["tun", "vxlan", "sch_ingress", "cls_bpf"],
    tests_min: 70,
};

/// Nodes with the kernel's WireGuard as a peer, which by that show that the programs are loaded, attached
/// and used on this kernel.
const WIREGUARD: Suite = Suite {
    name: "netns",
    arguments: &["--test-threads=1", "interop::in_the_kernel", "--skip=a_gibibyte"],
    environment: &["IPOP_REQUIRE_ROOT=1", "IPOP_TEST_FULL=1", "IPOP_TEST_EMULATED=1", "IPOP_BIN_DIR=/bin"],
    programs: &["ip", "ping", "tc", "timeout", "wg"],
    binaries: &["ipopd", "ipopctl"],
    modules: &["tun", "vxlan", "sch_ingress", "cls_bpf", "veth", "wireguard"],
    tests_min: 11,
};

#[test]
fn the_programs_pass_on_debian_6_1() {
    passes_on("vm::the_programs_pass_on_debian_6_1", &PROGRAMS, DEBIAN_6_1);
}

#[test]
fn the_programs_pass_on_debian_6_12() {
    passes_on("vm::the_programs_pass_on_debian_6_12", &PROGRAMS, DEBIAN_6_12);
}

#[test]
fn the_kernels_wireguard_is_a_peer_on_debian_6_1() {
    passes_on("vm::the_kernels_wireguard_is_a_peer_on_debian_6_1", &WIREGUARD, DEBIAN_6_1);
}

#[test]
fn the_kernels_wireguard_is_a_peer_on_debian_6_12() {
    passes_on("vm::the_kernels_wireguard_is_a_peer_on_debian_6_12", &WIREGUARD, DEBIAN_6_12);
}

/// A package that depends on a kernel, and the version that this must be of.
const DEBIAN_6_1: (&str, &str) = ("linux-image-cloud-amd64", "6.1.");
const DEBIAN_6_12: (&str, &str) = ("linux-image-6.12-cloud-amd64", "6.12.");

/// Boots a kernel and runs the suite there.
fn passes_on(test: &str, suite: &Suite, (package, version): (&str, &str)) {
    if let Some(reason) = reason_to_skip(suite) {
        return skip(test, &reason);
    }
    let kernel = kernel(package, version);
    let initramfs = initramfs(&kernel, suite);
    let report = machine::run(&kernel, &initramfs);
    check(&kernel, suite, &report);
    for line in report.skipped() {
        say(&format!("on {}: {line}", kernel.release));
    }
    say(&format!("on {}: {} {}", kernel.release, suite.name, report.summary));
}

/// Unpacked by one of the tests that want it.
fn kernel(package: &str, version: &str) -> Kernel {
    static UNPACKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = UNPACKING.lock().unwrap_or_else(PoisonError::into_inner);
    Kernel::of_package(&target().join("vm"), package, version)
}

#[expect(clippy::print_stdout, reason = "what a machine has done belongs into the report of a test")]
fn say(line: &str) {
    println!("{line}");
}

fn reason_to_skip(suite: &Suite) -> Option<String> {
    if std::env::var_os(VM_VARIABLE).is_none_or(|value| value != "1") {
        return Some(format!("{VM_VARIABLE} is not 1"));
    }
    // Whole nodes in an emulated machine miss their deadlines where the host is busy.
    if !suite.binaries.is_empty()
        && let Some(reason) = unless_full()
    {
        return Some(reason);
    }
    let needed = [machine::QEMU, "apt-get", "dpkg-deb", "ldd", "xz"].into_iter();
    let missing =
        needed.chain(suite.programs.iter().copied()).find(|name| initramfs::find_program(name).is_none())?;
    Some(format!("{missing} is missing"))
}

fn check(kernel: &Kernel, suite: &Suite, report: &Report) {
    let tail = || report.console.iter().rev().take(400).rev().cloned().collect::<Vec<_>>().join("\n");
    let release = &kernel.release;
    assert!(!report.panicked, "kernel {release} panicked:\n{}", tail());
    assert!(!report.timed_out, "the machine with kernel {release} did not end in time:\n{}", tail());
    assert_eq!(report.result, "exit code 0", "the suite on kernel {release}:\n{}", tail());
    let ran = report.passed.saturating_sub(report.skipped().count());
    assert!(ran >= suite.tests_min, "{ran} tests ran on kernel {release}:\n{}", tail());
}

/// Cargo's target folder, in which this very program lies: `target/debug/deps/vm-0123`.
fn target() -> PathBuf {
    let program = std::env::current_exe().expect("this program's path");
    program.ancestors().nth(3).expect("a target folder").to_path_buf()
}

/// The suite, what it needs to run, and the kernel's modules.
fn initramfs(kernel: &Kernel, suite: &Suite) -> PathBuf {
    let mut files = Initramfs::default();
    files.add_program("init", Path::new(env!("CARGO_BIN_EXE_ipop-vm-init")));
    files.add_program("bin/suite", &program_of(suite));
    for name in suite.programs {
        files.add_program(&format!("bin/{name}"), &initramfs::find_program(name).expect("it was there"));
    }
    for name in suite.binaries {
        files.add_program(&format!("bin/{name}"), &binaries().join(name));
    }
    for folder in ["proc", "sys", "dev", "tmp", "run"] {
        files.add_folder(folder);
    }
    let modules = kernel.modules(suite.modules);
    let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    files.add_file("modules/order", order.join("\n").into_bytes(), false);
    for (name, content) in &modules {
        files.add_file(&format!("modules/{name}"), content.clone(), false);
    }
    files.add_file("arguments", suite.arguments.join("\n").into_bytes(), false);
    files.add_file("environment", suite.environment.join("\n").into_bytes(), false);
    let path = kernel.folder.join(format!("initramfs-{}.cpio", suite.name));
    std::fs::write(&path, files.archive()).expect("the initramfs written");
    path
}

/// The folder with `ipopd` and `ipopctl`, as the tests in namespaces find it.
fn binaries() -> PathBuf {
    let beside = || target().join(if cfg!(debug_assertions) { "debug" } else { "release" });
    std::env::var_os("IPOP_BIN_DIR").map_or_else(beside, PathBuf::from)
}

/// The program of the suite, as cargo has built it or builds it now: of the whole workspace, so that
/// features and with them the build are those of `cargo test --workspace`.
fn program_of(suite: &Suite) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--test", suite.name, "--no-run", "--message-format=json"]);
    cargo.arg("--target-dir").arg(target());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo");
    assert!(output.status.success(), "building the suite: {}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    built
        .filter(|message| message["target"]["name"] == suite.name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("the suite's program in what cargo says")
}
