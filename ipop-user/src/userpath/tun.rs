//! The TUN device: opens or creates it with the offloads that this kernel has. It does not set
//! addresses, routes, MTU or the up flag (netlink does), and reads no packet and writes few: those that the control task
//! has.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_uint, c_ulong};

use super::virtio;

/// Longest device name (IFNAMSIZ without the zero).
const NAME_LEN_MAX: usize = 15;

/// Sets of offloads to ask for, best first. USO came with Linux 6.2.
const OFFLOADS: [Offloads; 3] = [
    Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true },
    Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: false },
    Offloads { checksum: true, tcp_segmentation: false, udp_segmentation: false },
];

/// What the kernel may leave undone in packets that it gives to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offloads {
    pub checksum: bool,
    pub tcp_segmentation: bool,
    pub udp_segmentation: bool,
}

impl Offloads {
    const fn flags(self) -> c_uint {
        let mut flags = 0;
        if self.checksum {
            flags |= libc::TUN_F_CSUM;
        }
        if self.tcp_segmentation {
            flags |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        }
        if self.udp_segmentation {
            flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
        }
        flags
    }
}

/// What the packets of a device are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error("no /dev/net/tun: load the module with `modprobe tun`, or give the container that device")]
    NoDriver,
    #[error("not permitted to open TUN device {name}: run as root or with CAP_NET_ADMIN")]
    NotPermitted { name: String },
    #[error("TUN device {name} is in use by another process: stop it, or choose another device name")]
    Busy { name: String },
    #[error("interface {name} exists and is no TUN device of this kind: remove it, or choose another name")]
    NotTun { name: String },
    #[error("bad device name {name:?}: 1 to 15 characters, no slash, no space")]
    BadName { name: String },
    #[error("cannot set up TUN device {name}: {step}: {source}")]
    Os { name: String, step: &'static str, source: io::Error },
}

/// An open TUN device. Packets are preceded by a virtio-net header of [`virtio::HEADER_LEN`] bytes.
///
/// The device goes when the last handle to it is closed, unless it is persistent.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offloads: Offloads,
}

impl Tun {
    /// Opens device `name`, or creates it; `%d` in the name stands for the next free number.
    ///
    /// # Errors
    /// See [`TunError`]; nothing is left behind.
    pub fn open(name: &str) -> Result<Self, TunError> {
        Self::attach(name, libc::IFF_TUN)
    }

    /// As [`Tun::open`], with so many queues: the kernel gives the packets of one flow to one of them.
    ///
    /// # Errors
    /// See [`TunError`]; nothing is left behind.
    pub fn open_queues(name: &str, queues: usize, kind: Kind) -> Result<Vec<Self>, TunError> {
        let kind = match kind {
            Kind::Tun => libc::IFF_TUN,
            Kind::Tap => libc::IFF_TAP,
        };
        if queues == 1 {
            return Ok(vec![Self::attach(name, kind)?]);
        }
        // Not the queues of a device that another process has.
        let mut all = vec![Self::attach(name, kind | libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL)?];
        // The kernel may have chosen the name.
        let name = all[0].name.clone();
        for _ in 1..queues {
            all.push(Self::attach(&name, kind | libc::IFF_MULTI_QUEUE)?);
        }
        Ok(all)
    }

    fn attach(name: &str, flags: c_int) -> Result<Self, TunError> {
        check_name(name)?;
        let file = open_driver(name)?;
        let name = attach(&file, name, flags)?;
        let os = |step| {
            let name = name.clone();
            move |source| TunError::Os { name, step, source }
        };
        let mut header_len = virtio::HEADER_LEN as c_int;
        // SAFETY: the kernel reads one int through the pointer.
        unsafe { ioctl(&file, libc::TUNSETVNETHDRSZ, (&raw mut header_len).expose_provenance() as c_ulong) }
            .map_err(os("header size"))?;
        let offloads = offload(&file).map_err(os("offloads"))?;
        Ok(Self { file, name, offloads })
    }

    /// Keeps the device when the last handle is closed, or no longer keeps it.
    ///
    /// # Errors
    /// [`TunError::Os`] where the kernel refuses.
    pub fn persist(&self, keep: bool) -> Result<(), TunError> {
        // SAFETY: the argument is a number.
        unsafe { ioctl(&self.file, libc::TUNSETPERSIST, c_ulong::from(keep)) }
            .map_err(|source| TunError::Os { name: self.name.clone(), step: "persistence", source })
    }

    /// Lets a packet come in on the device that is whole and needs nothing done.
    ///
    /// # Errors
    /// What the kernel says, for one because the device is down.
    pub fn inject(&self, packet: &[u8]) -> io::Result<()> {
        let frame = [&virtio::Header::PLAIN[..], packet].concat();
        (&self.file).write(&frame).map(|_| ())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn offloads(&self) -> Offloads {
        self.offloads
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> c_int {
        self.file.as_raw_fd()
    }
}

fn check_name(name: &str) -> Result<(), TunError> {
    let bad = |c: char| c == '/' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(bad) || name == "." || name == ".." {
        return Err(TunError::BadName { name: name.to_owned() });
    }
    Ok(())
}

fn open_driver(name: &str) -> Result<File, TunError> {
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDriver,
        Some(libc::EACCES | libc::EPERM) => TunError::NotPermitted { name: name.to_owned() },
        _ => TunError::Os { name: name.to_owned(), step: "open /dev/net/tun", source },
    })
}

/// Binds the file to the device and returns the name that the kernel chose.
fn attach(file: &File, name: &str, flags: c_int) -> Result<String, TunError> {
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes one ifreq through the pointer.
    unsafe { ioctl(file, libc::TUNSETIFF, (&raw mut request).expose_provenance() as c_ulong) }.map_err(
        |source| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted { name },
                Some(libc::EBUSY) => TunError::Busy { name },
                Some(libc::EINVAL) => TunError::NotTun { name },
                _ => TunError::Os { name, step: "attach", source },
            }
        },
    )?;
    let bytes =
        request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|&c| c != 0).collect::<Vec<_>>();
    let chosen = CString::new(bytes).map(CString::into_string);
    Ok(chosen.ok().and_then(Result::ok).unwrap_or_else(|| name.to_owned()))
}

/// Asks for the best set of offloads that the kernel has.
fn offload(file: &File) -> io::Result<Offloads> {
    let mut refusal = None;
    for offloads in OFFLOADS {
        // SAFETY: the argument is a number.
        match unsafe { ioctl(file, libc::TUNSETOFFLOAD, c_ulong::from(offloads.flags())) } {
            Ok(()) => return Ok(offloads),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    // SAFETY: as above.
    unsafe { ioctl(file, libc::TUNSETOFFLOAD, 0) }.map_err(|error| refusal.unwrap_or(error))?;
    Ok(Offloads::default())
}

/// # Safety
/// `argument` is what the request takes: a number, or the address of what the kernel reads and writes.
unsafe fn ioctl(file: &File, request: libc::Ioctl, argument: c_ulong) -> io::Result<()> {
    // SAFETY: the caller vouches for the argument; the descriptor is open as long as the file.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", "sixteen-letters-", "a\0b"] {
            assert!(matches!(Tun::open(name), Err(TunError::BadName { .. })), "{name:?}");
        }
    }

    #[test]
    fn offload_flags_are_those_of_if_tun_h() {
        assert_eq!(OFFLOADS.map(Offloads::flags), [0x6f, 0x0f, 0x01]);
    }
}
