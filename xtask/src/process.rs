//! Child processes that outlive one call: started quietly, watched, and ended by pid whatever
//! happens. Owns their log files; knows nothing of what they do.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{sh, stop};

/// How long a process may take until it does what it was started for.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a process may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const LOG_TAIL_LINES: usize = 8;

/// A child that is ended when dropped. Its output goes to a file.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    shown: String,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let shown = sh::shown(&command);
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A Ctrl-C at the terminal is for us alone: we end our children in order.
        command.process_group(0);
        sh::ends_with_us(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { child, shown, log: log.to_path_buf() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error that quotes the log if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot watch `{}`", self.shown))? {
            None => Ok(()),
            Some(status) => {
                bail!("`{}` ended too early ({status}){}", self.shown, self.log_tail())
            }
        }
    }

    /// Waits for the process to end by itself; an error when it takes longer than `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let ended = stop::pidfd(self.pid())?;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) =
                self.child.try_wait().with_context(|| format!("cannot watch `{}`", self.shown))?
            {
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("`{}` did not end within {} s{}", self.shown, timeout.as_secs(), self.log_tail());
            }
            stop::wait_readable(ended.as_fd(), left)?;
        }
    }

    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the log, each on a line of its own, to be put behind an error.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        lines[from..].iter().map(|line| format!("\n    {line}")).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if !wait_gone(pid, STOP_TIMEOUT) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Repeats `attempt` until it succeeds, one of `processes` has ended, or they have had time enough:
/// an error that quotes their logs.
pub(crate) fn wait_until<T>(
    processes: &mut [Running],
    what: &str,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        for process in processes.iter_mut() {
            process.check()?;
        }
        match attempt() {
            Ok(reached) => return Ok(reached),
            Err(error) if Instant::now() > deadline => {
                let logs: String = processes.iter().map(Running::log_tail).collect();
                bail!("waited {} s for {what}: {error:#}{logs}", READY_TIMEOUT.as_secs());
            }
            Err(_) => stop::pause(POLL_INTERVAL)?,
        }
    }
}

/// Waits, also after the user has asked to end, until process `pid` has ended; false when it has
/// not within `timeout`.
pub(crate) fn wait_gone(pid: i32, timeout: Duration) -> bool {
    let Some(pidfd) = u32::try_from(pid).ok().and_then(|pid| stop::pidfd(pid).ok()) else { return true };
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if stop::is_readable(pidfd.as_fd(), left) {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-test-{}-{name}.log", std::process::id()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let log = log("drop");
        let running = Running::start(shell("sleep 1000"), &log).expect("sh starts");
        let pid = i32::try_from(running.pid()).expect("pid");
        drop(running);
        assert!(kill(Pid::from_raw(pid), None).is_err(), "the process is still there");
        fs::remove_file(log).expect("log");
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let log = log("early");
        let mut running = Running::start(shell("echo no such device >&2; exit 4"), &log).expect("sh starts");
        let status = running.wait(Duration::from_secs(10)).expect("it ends by itself");
        assert_eq!(status.code(), Some(4));
        let error = running.check().expect_err("it has ended").to_string();
        assert!(error.contains("no such device"), "{error}");
        fs::remove_file(log).expect("log");
    }

    #[test]
    fn what_is_waited_for_may_take_several_attempts() {
        let log = log("attempts");
        let mut running = [Running::start(shell("sleep 1000"), &log).expect("sh starts")];
        let mut attempts = 0;
        let third = wait_until(&mut running, "the third attempt", || {
            attempts += 1;
            if attempts < 3 { bail!("not yet") } else { Ok(attempts) }
        });
        assert_eq!(third.expect("the third succeeds"), 3);
        drop(running);
        fs::remove_file(log).expect("log");
    }

    #[test]
    fn nothing_is_waited_for_once_a_process_has_ended() {
        let log = log("ended");
        let mut running = [Running::start(shell("exit 4"), &log).expect("sh starts")];
        running[0].wait(Duration::from_secs(10)).expect("it ends by itself");
        let error = wait_until(&mut running, "nothing", || Ok(())).expect_err("it has ended").to_string();
        assert!(error.contains("ended too early"), "{error}");
        fs::remove_file(log).expect("log");
    }

    #[test]
    fn waiting_has_an_end() {
        let log = log("wait");
        let mut running = Running::start(shell("sleep 1000"), &log).expect("sh starts");
        assert!(running.wait(Duration::from_millis(50)).is_err());
        drop(running);
        fs::remove_file(log).expect("log");
    }
}
