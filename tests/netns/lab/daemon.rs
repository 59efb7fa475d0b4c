//! One running ipopd: started in a namespace, asked over its control socket, ended by its pid.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::namespace::{NetNs, mount_over};
use super::{program, wait_for};

/// For one question to a daemon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a daemon to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How a daemon is started.
#[derive(Clone, Debug)]
pub(crate) enum How {
    Plain,
    /// By `ip netns exec`, which gives each process mounts of its own.
    IpNetnsExec,
    /// Without capabilities, by their numbers in linux/capability.h.
    Without(Vec<u64>),
    /// With a system call, by its number, answered with EPERM.
    Denied(i64),
    /// With a file mounted over another, in mounts of its own; over itself, it cannot be written.
    WithFile {
        file: PathBuf,
        over: PathBuf,
    },
    /// With sessions that last so many times shorter.
    Shortened(u32),
}

/// A daemon; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    pub(crate) fn start(ns: &NetNs, config: &Path, socket: &Path, log: &Path, how: &How) -> Self {
        let mut command = command(ns, config, how);
        let output = OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
        command.stderr(output).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, socket: socket.to_owned() }
    }

    /// The answer to `GET path` on the control socket; `None` while nobody answers.
    pub(crate) fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: ipopd\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let ok = head.starts_with("HTTP/1.1 200");
        ok.then(|| serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error} in {body}")))
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.raw_pid(), signal).expect("the daemon can be signalled");
    }

    /// SIGKILL; the daemon is gone when this returns.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the daemon can be killed");
        self.child.wait().expect("the daemon can be waited for");
    }

    /// SIGTERM; how it ended.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// How the daemon ended by itself.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for("ipopd ends", STOP_TIMEOUT, || self.child.try_wait().expect("it can be waited for"))
    }

    pub(crate) fn raw_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn command(ns: &NetNs, config: &Path, how: &How) -> Command {
    let mut command = if let How::IpNetnsExec = how {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", ns.name()]).arg(program::path("ipopd"));
        command
    } else {
        let mut command = Command::new(program::path("ipopd"));
        ns.enter(&mut command);
        command
    };
    command
        .arg("--config")
        .arg(config)
        .args(["--log", "info,ipop_user=debug"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    if let How::WithFile { file, over } = how {
        mount_over(&mut command, file, over);
    }
    if let How::Shortened(by) = how {
        command.arg("--shorten-sessions").arg(by.to_string());
    }
    let how = how.clone();
    // SAFETY: between fork and exec the closure makes system calls alone; what it owns was made before.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            match &how {
                How::Plain | How::IpNetnsExec | How::WithFile { .. } | How::Shortened(_) => Ok(()),
                How::Without(capabilities) => capabilities.iter().try_for_each(|c| drop_capability(*c)),
                How::Denied(call) => deny(*call),
            }
        });
    }
    command
}

/// What root cannot regain at exec, it does not have.
fn drop_capability(capability: u64) -> std::io::Result<()> {
    // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Answers one system call with EPERM from now on, as container runtimes and
/// `kernel.io_uring_disabled` do.
fn deny(call: i64) -> std::io::Result<()> {
    let statement = |code: u32, jump: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jump, k };
    let mut filter = [
        // The number of the call is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its four statements live until the call returns.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as u64, &raw const program) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
