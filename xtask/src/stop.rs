//! Ctrl-C and SIGTERM: noted by a handler, asked for by whoever waits, so that every guard's
//! clean-up runs. Owns the two signals of this process.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);
static WAKE: OnceLock<EventFd> = OnceLock::new();

/// Takes SIGINT and SIGTERM over from their default action, which would end the process with
/// its namespaces and daemons still there.
pub(crate) fn watch() -> Result<()> {
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .context("cannot create an event descriptor")?;
    WAKE_FD.store(wake.as_raw_fd(), Ordering::Relaxed);
    // The descriptor stays open until the process ends: the handler writes to it.
    let _ = WAKE.set(wake);
    // No SA_RESTART: a system call that waits returns, so that whoever waits can ask.
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic and calls write(2), both
        // async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot watch for {signal}"))?;
    }
    Ok(())
}

/// Whether the user has asked this process to end.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error once the user has asked this process to end.
pub(crate) fn check() -> Result<()> {
    if requested() {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Waits until `fd` is readable (true), `timeout` has passed (false), or the user has asked to
/// end (error).
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let mut fds = vec![PollFd::new(fd, PollFlags::POLLIN)];
    fds.extend(WAKE.get().map(|wake| PollFd::new(wake_fd(wake), PollFlags::POLLIN)));
    poll_once(&mut fds, timeout)?;
    check()?;
    Ok(fds[0].any().unwrap_or(false))
}

/// Whether `fd` becomes readable within `timeout`, also after the user has asked to end: for
/// clean-up.
pub(crate) fn is_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll_once(&mut fds, timeout).is_ok() && fds[0].any().unwrap_or(false)
}

/// Waits for `timeout`; an error as soon as the user has asked to end.
pub(crate) fn pause(timeout: Duration) -> Result<()> {
    let mut fds: Vec<PollFd<'_>> =
        WAKE.get().map(|wake| PollFd::new(wake_fd(wake), PollFlags::POLLIN)).into_iter().collect();
    poll_once(&mut fds, timeout)?;
    check()
}

fn wake_fd(wake: &EventFd) -> BorrowedFd<'_> {
    use std::os::fd::AsFd;
    wake.as_fd()
}

fn poll_once(fds: &mut [PollFd<'_>], timeout: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("poll failed"),
    }
}

extern "C" fn on_signal(_: nix::libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
    let one = 1u64.to_ne_bytes();
    // SAFETY: a plain write of eight bytes that live on the stack to a descriptor that is never
    // closed. Its result does not matter: a full counter wakes as well.
    unsafe { nix::libc::write(WAKE_FD.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
}

/// A descriptor that becomes readable when process `pid` ends.
pub(crate) fn pidfd(pid: u32) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = nix::errno::Errno::result(fd).with_context(|| format!("cannot watch process {pid}"))?;
    let fd = i32::try_from(fd).context("descriptor out of range")?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
