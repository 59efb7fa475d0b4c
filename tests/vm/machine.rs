//! A virtual machine: started, listened to on its serial console, ended in time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::kernel::Kernel;

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// An emulated processor on a busy machine takes a few minutes for what takes seconds.
const TIME_MAX: Duration = Duration::from_secs(1500);
/// How long the machine may take to switch off once it has said how the suite ended.
const TIME_TO_END: Duration = Duration::from_secs(20);

/// What a machine has said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) console: Vec<String>,
    /// What the first process said last.
    pub(crate) result: String,
    /// The closing line of the suite.
    pub(crate) summary: String,
    /// Tests that passed, and those that were skipped.
    pub(crate) passed: usize,
    pub(crate) panicked: bool,
    pub(crate) timed_out: bool,
}

/// A machine that is ended with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots `kernel` and listens until it is off, says its result, or takes too long.
pub(crate) fn run(kernel: &Kernel, initramfs: &Path) -> Report {
    let mut machine = Running(start(kernel, initramfs));
    let output = machine.0.stdout.take().expect("a console");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|len| len != 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    listen(&lines)
}

fn start(kernel: &Kernel, initramfs: &Path) -> Child {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    // A panic ends the machine instead of waiting for somebody to read it.
    qemu.args(["-append", "console=ttyS0 panic=-1 oops=panic quiet"]);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    qemu.spawn().expect("qemu")
}

fn listen(lines: &Receiver<String>) -> Report {
    let mut report = Report::default();
    let mut deadline = Instant::now() + TIME_MAX;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if report.read(line) {
                    deadline = Instant::now() + TIME_TO_END;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return report,
            Err(RecvTimeoutError::Timeout) => {
                report.timed_out = report.result.is_empty();
                return report;
            }
        }
    }
}

impl Report {
    /// What tests said that could not run there.
    pub(crate) fn skipped(&self) -> impl Iterator<Item = &String> {
        self.console.iter().filter(|line| line.contains("SKIPPED "))
    }

    /// Takes one line of the console into account. True: it is the result.
    fn read(&mut self, line: String) -> bool {
        let result = line.split_once("VM-RESULT: ").map(|(_, result)| result.to_owned());
        let is_result = result.is_some();
        if let Some(result) = result {
            self.result = result;
        }
        if line.contains("Kernel panic") || line.contains("BUG: ") || line.contains("WARNING: CPU") {
            self.panicked = true;
        }
        if line.starts_with("test result: ") {
            self.summary.clone_from(&line);
        }
        // Two tests may write at once: what counts is the end of the line.
        if line.ends_with("... ok") || line.ends_with("ok") && line.starts_with("test ") {
            self.passed += 1;
        }
        self.console.push(line);
        is_result
    }
}

#[test]
fn a_console_is_understood() {
    let mut report = Report::default();
    for line in
        ["[ 0.1] booting", "test a::b ... ok", "test a::c ... FAILED", "test result: FAILED. 1 passed"]
    {
        assert!(!report.read(line.to_owned()));
    }
    assert!(report.read("VM-RESULT: exit code 101".to_owned()));
    assert_eq!((report.passed, report.result.as_str()), (1, "exit code 101"));
    assert!(report.summary.contains("1 passed") && !report.panicked);
    report.read("[ 3.0] Kernel panic - not syncing".to_owned());
    assert!(report.panicked);
}
