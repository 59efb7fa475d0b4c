//! Whether and how io_uring works on this host: creates the ring with what the kernel has, checks
//! the operations, and says in words why not.

use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Submissions at a time: every send of a batch, every frame, and the few standing requests.
const SUBMISSIONS_MAX: u32 = 512;
/// Completions that may wait: those, and whatever the standing requests deliver meanwhile.
const COMPLETIONS_MAX: u32 = 2048;

/// What differs between kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// IORING_OP_READ_MULTISHOT, Linux 6.7: one request reads the TUN device again and again.
    pub(super) read_multishot: bool,
}

/// Creates a ring for use by this thread only, with all that is needed.
///
/// # Errors
/// One clause: why it cannot be.
pub(super) fn create() -> Result<(IoUring, Features), String> {
    let ring = build().map_err(|error| refusal(&error))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| format!("no list of operations: {error}"))?;
    let needed = [
        (opcode::RecvMsgMulti::CODE, "recvmsg"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Writev::CODE, "writev"),
        (opcode::Read::CODE, "read"),
    ];
    for (code, name) in needed {
        if !probe.is_supported(code) {
            return Err(format!("this kernel's io_uring has no {name}"));
        }
    }
    Ok((ring, Features { read_multishot: probe.is_supported(opcode::ReadMulti::CODE) }))
}

/// Completions are worked off only when this thread asks for them (Linux 6.1), or else in its own
/// system calls (5.19).
fn build() -> io::Result<IoUring> {
    let mut best = IoUring::builder();
    best.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let mut plain = IoUring::builder();
    plain.setup_coop_taskrun().setup_submit_all();
    for builder in [&mut best, &mut plain] {
        match builder.dontfork().setup_cqsize(COMPLETIONS_MAX).build(SUBMISSIONS_MAX) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

fn refusal(error: &io::Error) -> String {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (error.raw_os_error(), disabled.trim()) {
        (_, "2") => "kernel.io_uring_disabled is 2: no process may use it".to_owned(),
        (Some(libc::EPERM | libc::EACCES), "1") => {
            "kernel.io_uring_disabled is 1: it takes CAP_SYS_ADMIN or membership in \
             kernel.io_uring_group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            format!("a security policy forbids it (seccomp or LSM): {error}")
        }
        (Some(libc::ENOSYS), _) => "this kernel has none, or seccomp hides it".to_owned(),
        (Some(libc::EINVAL), _) => "this kernel's is too old: Linux 6.0 or later is needed".to_owned(),
        (Some(libc::ENOMEM), _) => format!("not enough locked memory (ulimit -l): {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_in_the_way() {
        let missing = refusal(&io::Error::from_raw_os_error(libc::ENOSYS));
        assert!(missing.contains("seccomp"), "{missing}");
        let forbidden = refusal(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(forbidden.contains("kernel.io_uring_disabled") || forbidden.contains("security policy"));
    }
}
