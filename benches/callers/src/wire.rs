//! One UDP socket that sends from many addresses, many datagrams per system call.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};

/// Longest datagram that is looked at; longer ones are no handshake messages.
const SLOT_BYTES: usize = 256;
/// Datagrams in one call.
const RECEIVES: usize = 64;

/// A control message that names an address of this host: the one that a datagram comes from, or went to.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

impl Control {
    fn from(source: Ipv4Addr) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: std::mem::offset_of!(Self, info) + size_of::<libc::in_pktinfo>(),
            cmsg_level: libc::IPPROTO_IP,
            cmsg_type: libc::IP_PKTINFO,
        };
        Self { header, info: libc::in_pktinfo { ipi_spec_dst: raw(source), ..no_info() } }
    }

    const EMPTY: Self =
        Self { header: libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 }, info: no_info() };

    /// The address that a received datagram was sent to.
    fn destination(&self) -> Option<Ipv4Addr> {
        let is_info = self.header.cmsg_level == libc::IPPROTO_IP && self.header.cmsg_type == libc::IP_PKTINFO;
        is_info.then(|| Ipv4Addr::from_bits(u32::from_be(self.info.ipi_addr.s_addr)))
    }
}

const fn no_info() -> libc::in_pktinfo {
    let none = libc::in_addr { s_addr: 0 };
    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: none, ipi_addr: none }
}

const fn raw(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: address.to_bits().to_be() }
}

/// The socket.
#[derive(Debug)]
pub struct Wire {
    socket: UdpSocket,
}

impl Wire {
    /// # Errors
    /// If this host gives no socket.
    pub fn open() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a UDP socket")?;
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one int through the pointer.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error()).context("cannot set IP_PKTINFO");
        }
        Ok(Self { socket })
    }

    /// Waits until there is something to receive, but no longer than this.
    pub fn wait(&self, patience: Duration) {
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel reads and writes one pollfd. A signal only makes the wait shorter.
        unsafe { libc::poll(&raw mut poll, 1, millis) };
    }

    /// Hands over what has come, each datagram with the address that it was sent to.
    ///
    /// # Errors
    /// What the socket says.
    pub fn receive(&self, mut take: impl FnMut(Ipv4Addr, &[u8])) -> Result<()> {
        let mut space = [[0u8; SLOT_BYTES]; RECEIVES];
        let mut controls = [Control::EMPTY; RECEIVES];
        loop {
            let mut iovecs = space
                .each_mut()
                .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
            let mut headers: Vec<libc::mmsghdr> = (0..RECEIVES)
                .map(|at| header(&raw mut iovecs[at], &raw mut controls[at], std::ptr::null_mut()))
                .collect();
            // SAFETY: the headers point into arrays that outlive the call, one element each.
            let count = unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    RECEIVES as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            let Ok(count) = usize::try_from(count) else {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                    // What a closed port answered to something sent before.
                    io::ErrorKind::ConnectionRefused => Ok(()),
                    _ => Err(error).context("cannot receive"),
                };
            };
            for at in 0..count {
                let len = (headers[at].msg_len as usize).min(SLOT_BYTES);
                if let Some(destination) = controls[at].destination() {
                    take(destination, &space[at][..len]);
                }
            }
            if count < RECEIVES {
                return Ok(());
            }
        }
    }
}

/// Datagrams to one place, ready to be sent again and again.
pub(crate) struct Batch {
    headers: Vec<libc::mmsghdr>,
    // What the headers point to; none of it moves or changes.
    _iovecs: Vec<libc::iovec>,
    _controls: Vec<Control>,
    _name: Box<libc::sockaddr_in>,
    _datagrams: Vec<Vec<u8>>,
}

// SAFETY: all pointers are into memory that the batch itself owns.
unsafe impl Send for Batch {}

impl Batch {
    /// Each datagram with the address that it comes from.
    pub(crate) fn new(to: SocketAddrV4, datagrams: Vec<(Ipv4Addr, Vec<u8>)>) -> Self {
        let mut name = Box::new(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: to.port().to_be(),
            sin_addr: raw(*to.ip()),
            sin_zero: [0; 8],
        });
        let mut controls: Vec<Control> = datagrams.iter().map(|(source, _)| Control::from(*source)).collect();
        let mut datagrams: Vec<Vec<u8>> = datagrams.into_iter().map(|(_, datagram)| datagram).collect();
        let iovec = |datagram: &mut Vec<u8>| libc::iovec {
            iov_base: datagram.as_mut_ptr().cast(),
            iov_len: datagram.len(),
        };
        let mut iovecs: Vec<libc::iovec> = datagrams.iter_mut().map(iovec).collect();
        let parts = iovecs.iter_mut().zip(&mut controls);
        let headers = parts.map(|(iovec, control)| header(iovec, control, &raw mut *name)).collect();
        Self { headers, _iovecs: iovecs, _controls: controls, _name: name, _datagrams: datagrams }
    }

    pub(crate) fn len(&self) -> usize {
        self.headers.len()
    }

    /// Sends up to `count` datagrams from `start` on; how many the kernel took.
    pub(crate) fn send(&mut self, wire: &Wire, start: usize, count: usize) -> Result<usize> {
        let end = (start + count).min(self.headers.len());
        let Some(part) = self.headers.get_mut(start..end).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        // SAFETY: `part` is as long as is said, and what it points to is the batch's.
        let sent = unsafe {
            libc::sendmmsg(
                wire.socket.as_raw_fd(),
                part.as_mut_ptr(),
                part.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).or_else(|_| {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // Lost on the way out, or told of one lost before: the sender goes on.
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ECONNREFUSED | libc::EINTR) => Ok(1),
                _ => Err(error).context("cannot send"),
            }
        })
    }
}

fn header(iovec: *mut libc::iovec, control: *mut Control, name: *mut libc::sockaddr_in) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain old data; all-zero is a valid value of it.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_iov = iovec;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = control.cast();
    header.msg_hdr.msg_controllen = size_of::<Control>();
    if !name.is_null() {
        header.msg_hdr.msg_name = name.cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    }
    header
}
