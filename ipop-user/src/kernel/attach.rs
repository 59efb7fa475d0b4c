//! Attaching TC programs so that they stay when the daemon dies.
//!
//! With tcx (Linux 6.6) by BPF_PROG_ATTACH without a link object; aya and libbpf only make links,
//! which go with their descriptor. On older kernels by clsact filters.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use aya::programs::tc::{SchedClassifier, TcAttachType};
use nix::net::if_::if_indextoname;

use super::object::Programs;
use super::{KernelError, raw};

/// Which end of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Ingress,
    Egress,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Tcx,
    Clsact,
}

impl Method {
    pub const fn name(self) -> &'static str {
        match self {
            Method::Tcx => "tcx",
            Method::Clsact => "clsact",
        }
    }
}

/// What this kernel has.
pub(super) fn method() -> Method {
    static METHOD: OnceLock<Method> = OnceLock::new();
    *METHOD.get_or_init(|| match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Method::Tcx,
        Err(_) => Method::Clsact,
    })
}

/// The attachments of one kernel path.
pub(super) struct Attachments {
    method: Method,
    /// Programs of an earlier daemon, to be replaced where they are found.
    previous: Vec<u32>,
    /// Priority of this node's clsact filters.
    priority: u16,
    attached: BTreeMap<(u32, Hook), &'static str>,
}

impl Attachments {
    pub(super) fn new(method: Method, owner: u64) -> Self {
        let priority = 0x4000 | (owner & 0x3fff) as u16;
        Self { method, previous: Vec::new(), priority, attached: BTreeMap::new() }
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn replace(&mut self, programs: &[u32]) {
        self.previous = programs.to_vec();
    }

    pub(super) fn is_previous(&self, program: u32) -> bool {
        self.previous.contains(&program)
    }

    /// Attaches a program, replacing one of an earlier daemon in the same place without a gap.
    pub(super) fn attach(
        &mut self,
        programs: &mut Programs,
        name: &'static str,
        ifindex: u32,
        hook: Hook,
    ) -> Result<(), KernelError> {
        if self.attached.contains_key(&(ifindex, hook)) {
            return Ok(());
        }
        match self.method {
            Method::Tcx => self
                .attach_tcx(programs.fd(name)?, ifindex, hook)
                .map_err(|error| KernelError::Attach { program: name, ifindex, error: error.to_string() })?,
            Method::Clsact => clsact::attach(programs, name, self.priority, ifindex, hook)?,
        }
        self.attached.insert((ifindex, hook), name);
        Ok(())
    }

    fn attach_tcx(&self, program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<()> {
        let device = if_indextoname(ifindex)?.to_string_lossy().into_owned();
        let (_, present) = SchedClassifier::query_tcx(&device, hook.aya()).map_err(io::Error::other)?;
        let own = program_id(program)?;
        if present.iter().any(|info| info.id() == own) {
            return Ok(());
        }
        let old = present.iter().find(|info| self.previous.contains(&info.id()));
        let old = old.map(|info| info.fd().map_err(io::Error::other)).transpose()?;
        tcx::attach(program, ifindex, hook, old.as_ref().map(AsFd::as_fd))
    }

    pub(super) fn detach(&mut self, programs: &Programs, ifindex: u32) {
        for hook in [Hook::Ingress, Hook::Egress] {
            if let Some(name) = self.attached.remove(&(ifindex, hook)) {
                self.detach_one(programs, name, ifindex, hook);
            }
        }
    }

    pub(super) fn detach_all(&mut self, programs: &Programs) {
        for ((ifindex, hook), name) in std::mem::take(&mut self.attached) {
            self.detach_one(programs, name, ifindex, hook);
        }
    }

    fn detach_one(&self, programs: &Programs, name: &'static str, ifindex: u32, hook: Hook) {
        let result = match self.method {
            Method::Tcx => programs
                .fd(name)
                .map_err(io::Error::other)
                .and_then(|program| tcx::detach(program, ifindex, hook)),
            Method::Clsact => clsact::detach(self.priority, ifindex, hook),
        };
        if let Err(error) = result {
            // The device may be gone, and the program with it.
            tracing::debug!(name, ifindex, %error, "not detached");
        }
    }
}

fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", raw(&program));
    let info = std::fs::read_to_string(path)?;
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the descriptor is not a program"))
}

impl Hook {
    fn aya(self) -> TcAttachType {
        match self {
            Hook::Ingress => TcAttachType::Ingress,
            Hook::Egress => TcAttachType::Egress,
        }
    }
}

/// BPF_PROG_ATTACH and BPF_PROG_DETACH, which no library offers for tcx.
mod tcx {
    use super::{BorrowedFd, Hook, io, raw};

    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_PROG_DETACH: libc::c_long = 9;
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_TCX_EGRESS: u32 = 47;
    const BPF_F_REPLACE: u32 = 1 << 2;

    /// The part of `union bpf_attr` that the two commands read (include/uapi/linux/bpf.h).
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        target_ifindex: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
        relative_fd: u32,
        expected_revision: u64,
    }

    pub(super) fn attach(
        program: BorrowedFd<'_>,
        ifindex: u32,
        hook: Hook,
        old: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut attributes = attributes(program, ifindex, hook);
        if let Some(old) = old {
            attributes.attach_flags = BPF_F_REPLACE;
            attributes.replace_bpf_fd = raw(&old);
        }
        bpf(BPF_PROG_ATTACH, &mut attributes)
    }

    pub(super) fn detach(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<()> {
        bpf(BPF_PROG_DETACH, &mut attributes(program, ifindex, hook))
    }

    fn attributes(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> Attributes {
        Attributes {
            target_ifindex: ifindex,
            attach_bpf_fd: raw(&program),
            attach_type: match hook {
                Hook::Ingress => BPF_TCX_INGRESS,
                Hook::Egress => BPF_TCX_EGRESS,
            },
            ..Attributes::default()
        }
    }

    fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
        let size = size_of::<Attributes>();
        // SAFETY: the attributes are valid for `size` bytes during the call; both commands only read.
        match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// clsact filters, for kernels before tcx. They stay without their owner by nature.
mod clsact {
    use super::{Hook, KernelError, Programs, SchedClassifier, if_indextoname, io};
    use aya::programs::ProgramError;
    use aya::programs::links::Link;
    use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};

    /// Our filter within a priority; the priority tells nodes on one interface apart.
    const HANDLE: TcHandle = TcHandle::new(0, 1);

    pub(super) fn attach(
        programs: &mut Programs,
        name: &'static str,
        priority: u16,
        ifindex: u32,
        hook: Hook,
    ) -> Result<(), KernelError> {
        let program = programs.classifier(name)?;
        try_attach(program, priority, ifindex, hook).map_err(|error| KernelError::Attach {
            program: name,
            ifindex,
            error: error.to_string(),
        })
    }

    /// Replaces the filter of an earlier daemon in place, or adds one.
    fn try_attach(
        program: &mut SchedClassifier,
        priority: u16,
        ifindex: u32,
        hook: Hook,
    ) -> Result<(), ProgramError> {
        let device = device(ifindex)?;
        // An existing qdisc is reported as an error, and is what we want.
        let _ = qdisc_add_clsact(&device);
        let present = SchedClassifierLink::attached(&device, hook.aya(), priority, HANDLE, None)?;
        let link = match program.attach_to_link(present) {
            Ok(link) => link,
            Err(_) => {
                let options = NlOptions { priority, handle: HANDLE, classid: None };
                program.attach_with_options(&device, hook.aya(), TcAttachOptions::Netlink(options))?
            }
        };
        // Dropped, it would detach.
        std::mem::forget(program.take_link(link)?);
        Ok(())
    }

    pub(super) fn detach(priority: u16, ifindex: u32, hook: Hook) -> io::Result<()> {
        let link = SchedClassifierLink::attached(&device(ifindex)?, hook.aya(), priority, HANDLE, None)?;
        link.detach().map_err(io::Error::other)
    }

    fn device(ifindex: u32) -> io::Result<String> {
        Ok(if_indextoname(ifindex)?.to_string_lossy().into_owned())
    }
}
