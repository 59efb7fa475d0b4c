//! The first process of a test's virtual machine: mounts what a kernel has to show, loads the
//! modules, runs the suite, says how it ended, switches off.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// What the machine's owner reads in the console.
const RESULT: &str = "VM-RESULT:";

#[expect(clippy::print_stdout, reason = "the console is how a machine reports")]
fn main() -> ExitCode {
    if std::process::id() != 1 {
        println!("this program is the first process of a virtual machine and nothing else");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(status) => println!("{RESULT} {status}"),
        Err(error) => println!("{RESULT} {error:#}"),
    }
    // The machine is off before this returns.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

/// Runs the suite and describes how it ended.
fn run() -> Result<String, String> {
    for (kind, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"), ("tmpfs", "/run")]
    {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("mounting {at}: {error}"))?;
    }
    for module in lines("/modules/order")? {
        load(&Path::new("/modules").join(&module)).map_err(|error| format!("{module}: {error}"))?;
    }
    let mut suite = Command::new("/bin/suite");
    suite.env("PATH", "/bin").args(lines("/arguments")?);
    for variable in lines("/environment")? {
        if let Some((name, value)) = variable.split_once('=') {
            suite.env(name, value);
        }
    }
    let status = suite.status().map_err(|error| format!("the suite: {error}"))?;
    Ok(status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}")))
}

fn lines(path: &str) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn load(module: &Path) -> io::Result<()> {
    let file = fs::File::open(module)?;
    // SAFETY: the descriptor is open, the parameters are an empty string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) }
}
