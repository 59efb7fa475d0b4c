//! The suite `prog_run` on Debian's other kernels, booted under qemu without hardware help.
//!
//! Runs where `IPOP_TEST_VM=1` asks for it (`cargo xtask test --vm`) and reports itself as skipped
//! elsewhere. Kernels come from Debian's archive by apt, without being installed.

mod initramfs;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Command;

use ipop_tests::privilege::skip;

use initramfs::Initramfs;
use kernel::Kernel;
use machine::Report;

/// Asks for these tests.
const VM_VARIABLE: &str = "IPOP_TEST_VM";
/// Random packets per program: an emulated processor is some thirty times slower.
const PACKETS: &str = "IPOP_TEST_PACKETS=20000";
/// Tests that the suite has at least; fewer would mean that it was not the suite that ran.
const TESTS_MIN: usize = 70;

#[test]
fn the_programs_pass_on_debian_6_1() {
    passes_on("vm::the_programs_pass_on_debian_6_1", "linux-image-cloud-amd64", "6.1.");
}

#[test]
fn the_programs_pass_on_debian_6_12() {
    passes_on("vm::the_programs_pass_on_debian_6_12", "linux-image-6.12-cloud-amd64", "6.12.");
}

/// Boots the kernel that Debian's package `meta` stands for and runs the suite there.
fn passes_on(test: &str, meta: &str, version: &str) {
    if let Some(reason) = reason_to_skip() {
        return skip(test, &reason);
    }
    let kernel = Kernel::of_package(&target().join("vm"), meta, version);
    let initramfs = initramfs(&kernel);
    let report = machine::run(&kernel, &initramfs);
    check(&kernel, &report);
    for line in report.console.iter().filter(|line| line.contains("SKIPPED ")) {
        say(&format!("on {}: {line}", kernel.release));
    }
    say(&format!("on {}: {}", kernel.release, report.summary));
}

#[expect(clippy::print_stdout, reason = "what a machine has done belongs into the report of a test")]
fn say(line: &str) {
    println!("{line}");
}

fn reason_to_skip() -> Option<String> {
    if std::env::var_os(VM_VARIABLE).is_none_or(|value| value != "1") {
        return Some(format!("{VM_VARIABLE} is not 1"));
    }
    let is_missing = |program: &&str| Command::new(program).arg("--version").output().is_err();
    let missing = [machine::QEMU, "apt-get", "dpkg-deb", "ldd", "ip", "xz"].into_iter().find(is_missing)?;
    Some(format!("{missing} is missing"))
}

fn check(kernel: &Kernel, report: &Report) {
    let tail = || report.console.iter().rev().take(400).rev().cloned().collect::<Vec<_>>().join("\n");
    let release = &kernel.release;
    assert!(!report.panicked, "kernel {release} panicked:\n{}", tail());
    assert!(!report.timed_out, "the machine with kernel {release} did not end in time:\n{}", tail());
    assert_eq!(report.result, "exit code 0", "the suite on kernel {release}:\n{}", tail());
    assert!(report.passed >= TESTS_MIN, "{} tests ran on kernel {release}:\n{}", report.passed, tail());
}

/// Cargo's target folder, in which this very program lies: `target/debug/deps/vm-0123`.
fn target() -> PathBuf {
    let program = std::env::current_exe().expect("this program's path");
    program.ancestors().nth(3).expect("a target folder").to_path_buf()
}

/// The suite, what it needs to run, and the kernel's modules.
fn initramfs(kernel: &Kernel) -> PathBuf {
    let mut files = Initramfs::default();
    files.add_program("init", Path::new(env!("CARGO_BIN_EXE_ipop-vm-init")));
    files.add_program("bin/prog_run", &suite());
    files.add_program("bin/ip", &initramfs::find_program("ip"));
    for folder in ["proc", "sys", "dev", "tmp"] {
        files.add_folder(folder);
    }
    let modules = kernel.modules(&["tun", "vxlan", "sch_ingress", "cls_bpf"]);
    let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    files.add_file("modules/order", order.join("\n").into_bytes(), false);
    for (name, content) in &modules {
        files.add_file(&format!("modules/{name}"), content.clone(), false);
    }
    files.add_file("arguments", b"--test-threads=2\n".to_vec(), false);
    files.add_file("environment", format!("{PACKETS}\nIPOP_REQUIRE_ROOT=1\n").into_bytes(), false);
    let path = kernel.folder.join("initramfs.cpio");
    std::fs::write(&path, files.archive()).expect("the initramfs written");
    path
}

/// The program of the suite, as cargo has built it or builds it now: of the whole workspace, so that
/// features and with them the build are those of `cargo test --workspace`.
fn suite() -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--test", "prog_run", "--no-run", "--message-format=json"]);
    cargo.arg("--target-dir").arg(target());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo");
    assert!(output.status.success(), "building the suite: {}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    built
        .filter(|message| message["target"]["name"] == "prog_run")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("the suite's program in what cargo says")
}
