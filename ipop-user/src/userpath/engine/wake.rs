//! Tells a data thread to stop, or to look at its table, out of whatever it waits in: an eventfd and a
//! flag.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by a data thread and whoever stops it.
#[derive(Debug)]
pub(in crate::userpath) struct Wake {
    fd: OwnedFd,
    stop: AtomicBool,
}

impl Wake {
    pub(in crate::userpath) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, which nobody else has.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, stop: AtomicBool::new(false) })
    }

    /// Makes the thread stop. May be called more than once.
    pub(in crate::userpath) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    /// Has the thread go round once.
    pub(in crate::userpath) fn ring(&self) {
        let one = 1u64;
        // SAFETY: the kernel reads eight bytes through the pointer. It can only fail when the
        // counter is full, and then the thread is being woken already.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub(in crate::userpath) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The thread has woken: it sleeps again until the next call.
    pub(super) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: the kernel writes eight bytes through the pointer. It fails where nobody has called.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
