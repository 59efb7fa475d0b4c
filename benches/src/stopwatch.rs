//! How long a program runs for one packet, in the kernel.
//!
//! What is measured: the time from a program's first to its last instruction, helpers included, as
//! the kernel's own statistics have it (`kernel.bpf_stats_enabled`, run_time_ns and run_cnt of
//! bpf_prog_info), less what they have for an empty program that is run in turn with it: that is
//! what reading the clock twice costs.
//!
//! Each run is a BPF_PROG_TEST_RUN of its own. With `repeat` the kernel would run a program on what
//! the run before has left of the packet (bpf_test_run in net/bpf/test_run.c), and what encapsulates
//! would meet its own headers. Between two runs lies a system call that makes a new packet, so caches
//! are as they are between packets, rather than as in a loop over one.
//!
//! What is not measured: what the kernel does with the packet before and after (the hook, a redirect
//! carried out, the driver), and super-packets, whose headers a test run cannot change. A test run's
//! packet has 64 bytes of headroom: outer headers over IPv4 fit in, those over IPv6 make the kernel
//! enlarge the buffer, as on a device that reserves no headroom (a TUN; `ipop0` reserves enough).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::libbpf_sys as sys;

use crate::node::Packets;

/// Kinds of program that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tc,
    Xdp,
}

/// Total time and number of a program's runs.
#[derive(Clone, Copy, Debug)]
struct Statistics {
    time_ns: u64,
    runs: u64,
}

/// Measures programs. While there is one, the kernel measures all programs of the machine.
#[derive(Debug)]
pub struct Stopwatch {
    _statistics: OwnedFd,
    empty_tc: OwnedFd,
    empty_xdp: OwnedFd,
}

impl Stopwatch {
    /// # Errors
    /// The kernel's refusal: without root, or without BPF.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a system call without pointers of ours.
        let statistics = unsafe { sys::bpf_enable_stats(sys::BPF_STATS_RUN_TIME) };
        Ok(Self { _statistics: owned(statistics)?, empty_tc: empty(Kind::Tc)?, empty_xdp: empty(Kind::Xdp)? })
    }

    /// Runs a program `runs` times, each time on the next packet; the time of all runs together.
    ///
    /// # Errors
    /// The kernel's refusal to run the program on such a packet.
    pub fn measure(
        &self,
        program: BorrowedFd<'_>,
        kind: Kind,
        runs: u64,
        packets: &mut Packets,
    ) -> io::Result<Duration> {
        let empty = match kind {
            Kind::Tc => &self.empty_tc,
            Kind::Xdp => &self.empty_xdp,
        };
        let before = (statistics(&program)?, statistics(empty)?);
        for _ in 0..runs {
            let packet = packets.another();
            run(&program, &packet)?;
            run(empty, &packet)?;
        }
        let after = (statistics(&program)?, statistics(empty)?);
        if after.0.runs - before.0.runs != runs {
            return Err(io::Error::other("somebody else runs the program"));
        }
        let time_ns = after.0.time_ns - before.0.time_ns;
        let empty_ns = after.1.time_ns - before.1.time_ns;
        // A program as short as an empty one is told apart by chance; criterion cannot do with 0.
        Ok(Duration::from_nanos(time_ns.saturating_sub(empty_ns).max(1)))
    }
}

/// Lets a program see a packet once.
fn run(program: &impl AsRawFd, packet: &[u8]) -> io::Result<()> {
    let mut options = sys::bpf_test_run_opts {
        sz: size_of::<sys::bpf_test_run_opts>() as _,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: the packet is as long as the options say and is only read; nothing is to be written.
    done(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })
}

fn statistics(program: &impl AsRawFd) -> io::Result<Statistics> {
    let mut info = sys::bpf_prog_info::default();
    let mut len = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes; all pointers within are null, with length 0.
    done(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut len) })?;
    Ok(Statistics { time_ns: info.run_time_ns, runs: info.run_cnt })
}

/// `r0 = 0; exit`
fn empty(kind: Kind) -> io::Result<OwnedFd> {
    // BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_EXIT.
    let instructions = [0xb7, 0x95].map(|code| sys::bpf_insn { code, ..Default::default() });
    let (name, license) = (CString::new("ipop_empty")?, CString::new("MIT")?);
    let kind = match kind {
        Kind::Tc => sys::BPF_PROG_TYPE_SCHED_CLS,
        Kind::Xdp => sys::BPF_PROG_TYPE_XDP,
    };
    // SAFETY: strings and instructions outlive the call; without options it has defaults.
    let fd = unsafe {
        sys::bpf_prog_load(
            kind,
            name.as_ptr(),
            license.as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            std::ptr::null_mut(),
        )
    };
    owned(fd)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    done(fd)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// libbpf returns a negative error number.
fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
