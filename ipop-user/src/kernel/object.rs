//! The compiled programs, embedded in the daemon, and their loading through aya.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use blake2::{Blake2s256, Digest};
use ipop_common::maps::program;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;
use super::maps::Maps;

static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipop"));
static LOGGING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipop-log"));

/// The object to load.
pub(super) fn bytes(log: bool) -> &'static [u8] {
    if log { LOGGING } else { PLAIN }
}

/// Tells one build of the programs from another.
pub(super) fn identity(object: &[u8]) -> u64 {
    let digest = Blake2s256::digest(object);
    digest.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The programs of one node.
pub(super) struct Programs {
    fds: HashMap<&'static str, OwnedFd>,
    ebpf: Ebpf,
}

impl Programs {
    pub(super) fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        self.fds.get(name).map(AsFd::as_fd).ok_or_else(|| missing(name))
    }

    pub(super) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(KernelError::from_program)
    }
}

/// Loads a node's programs and takes the maps out.
pub(super) fn load(object: &[u8], set: &program::Set) -> Result<(Programs, Maps), KernelError> {
    let mut ebpf = EbpfLoader::new().load(object).map_err(|error| refused(&error))?;
    let mut fds = HashMap::new();
    for name in set.all() {
        fds.insert(name, load_one(&mut ebpf, name, name == set.xdp)?);
    }
    start_log(&mut ebpf);
    let maps = Maps::from_object(&mut ebpf)?;
    Ok((Programs { fds, ebpf }, maps))
}

fn missing(name: &str) -> KernelError {
    KernelError::Load(format!("program {name} is missing"))
}

fn load_one(ebpf: &mut Ebpf, name: &'static str, is_xdp: bool) -> Result<OwnedFd, KernelError> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    let fd = if is_xdp {
        let program: &mut Xdp = program.try_into().map_err(KernelError::from_program)?;
        undisturbed(|| program.load()).map_err(KernelError::from_program)?;
        program.fd().map_err(KernelError::from_program)?.as_fd().try_clone_to_owned()
    } else {
        let program: &mut SchedClassifier = program.try_into().map_err(KernelError::from_program)?;
        undisturbed(|| program.load()).map_err(KernelError::from_program)?;
        program.fd().map_err(KernelError::from_program)?.as_fd().try_clone_to_owned()
    };
    fd.map_err(KernelError::Refused)
}

/// Loads again what a signal has interrupted: the verifier gives up with EAGAIN, and aya, which then asks
/// for its words, may end with ENOSPC for a log that is too long. libbpf does the same, as often.
fn undisturbed(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const ATTEMPTS: u32 = 5;
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if matches!(io_error.raw_os_error(), Some(libc::EAGAIN | libc::ENOSPC)) =>
            {
                tracing::debug!(%io_error, "a program's load was interrupted");
            }
            outcome => return outcome,
        }
    }
    load()
}

/// Forwards what the logging build writes; the plain one has no log map, and that is no error.
fn start_log(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::trace!(%error, "no log map in this build of the programs");
            return;
        }
    };
    // SAFETY: the logger owns its descriptor and hands out the same one for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let Ok(mut logger) = registered else { return };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

/// The loader's errors carry the system call's.
fn refused(error: &aya::EbpfError) -> KernelError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return KernelError::Refused(std::io::Error::from_raw_os_error(libc::EPERM));
        }
        source = cause.source();
    }
    KernelError::Load(error.to_string())
}
