//! Running other programs. Owns what is told when one of them fails; decides nothing about what
//! to run.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::stop;

/// As many lines of a failed program's output as fit a screen beside the error itself.
const TAIL_LINES: usize = 20;

/// Runs `command` with its output captured. An exit code other than 0 is an error that quotes
/// the last lines of the output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    text_of(command, &output)
}

/// As `capture`, for a program that reads `input`.
pub(crate) fn capture_from(command: &mut Command, input: File) -> Result<String> {
    let output =
        command.stdin(input).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    text_of(command, &output)
}

fn text_of(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("`{}` failed ({}){}", shown(command), output.status, tail(output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` with its output captured, whatever its exit code.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(command)))
}

/// As `capture`, for a program that may hang: ends it after `timeout`, or when the user has asked
/// to end. What it prints must fit a pipe (64 KiB).
pub(crate) fn capture_within(command: &mut Command, timeout: Duration) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let ended = stop::pidfd(child.id()).and_then(|pidfd| stop::wait_readable(pidfd.as_fd(), timeout));
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let output = child.wait_with_output().with_context(|| format!("cannot watch `{}`", shown(command)))?;
    if !ended? {
        bail!("`{}` did not end within {} s{}", shown(command), timeout.as_secs(), tail(&output));
    }
    text_of(command, &output)
}

/// Runs `command` with our own output; an exit code other than 0 is an error.
pub(crate) fn inherit(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs `command` with our own output, whatever its exit code.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Has `command` ended by SIGTERM when this process dies, however it dies.
pub(crate) fn ends_with_us(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).map_err(Into::into)
        });
    }
}

/// The command as one would type it (without quoting: for messages only).
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}

/// Where the program `name` is: in PATH, or in the system folders that an ordinary user's PATH
/// leaves out.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn tail(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|line| format!("\n    {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_command_code_and_last_lines() {
        let error = capture(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]))
            .expect_err("exit 3 is a failure")
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("out") && error.contains("err"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = capture_within(Command::new("sleep").arg("1000"), Duration::from_millis(50))
            .expect_err("it does not end by itself")
            .to_string();
        assert!(error.contains("did not end"), "{error}");
        let text =
            capture_within(Command::new("echo").arg("quick"), Duration::from_secs(10)).expect("it ends");
        assert_eq!(text, "quick\n");
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
