//! Devices whose far end is the test: TUN and TAP, and a raw socket on a device of the host's.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use ipop_tests::packet::hexdump;

use super::lab::{DEADLINE, index_of};

/// `struct virtio_net_hdr`.
const VNET_HEADER_LEN: usize = 10;

/// A TUN or TAP device: writing is sending a packet to the host, reading is what the host sends.
pub(super) struct Tap {
    file: File,
}

impl Tap {
    /// Makes the device, with a virtio-net header before each packet.
    pub(super) fn open(name: &str, kind: libc::c_int) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .expect("the TUN driver");
        // SAFETY: integers and characters, of which all may be zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the driver reads and writes one ifreq.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert!(result == 0, "{name}: {}", io::Error::last_os_error());
        Self { file }
    }

    /// Puts a frame on the wire.
    pub(super) fn send(&mut self, frame: &[u8]) {
        self.send_with([0; VNET_HEADER_LEN], frame);
    }

    /// Puts a frame on the wire of which only the first `linear` bytes are in one piece. The frame
    /// must be longer than a page.
    pub(super) fn send_split(&mut self, frame: &[u8], linear: u16) {
        let mut header = [0; VNET_HEADER_LEN];
        header[2..4].copy_from_slice(&linear.to_ne_bytes());
        self.send_with(header, frame);
    }

    /// Puts a TCP super-packet on the wire, its headers `headers_len` long, for segments of
    /// `gso_size`. Its checksum must be that of its pseudo-header alone.
    pub(super) fn send_with(&mut self, header: [u8; VNET_HEADER_LEN], frame: &[u8]) {
        let written = self.file.write(&[&header[..], frame].concat()).expect("a frame written");
        assert_eq!(written, VNET_HEADER_LEN + frame.len());
    }

    /// The next packet that the host sends and that `wanted` takes; others are passed over.
    #[track_caller]
    pub(super) fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut others = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            match self.try_receive() {
                Some(packet) if wanted(&packet) => return packet,
                Some(packet) => others.push(packet),
                None => wait_readable(self.file.as_raw_fd(), deadline),
            }
        }
        let others: Vec<String> = others.iter().map(|packet| hexdump(packet)).collect();
        panic!("the host has not sent it; what it has sent:\n{}", others.join("\n"));
    }

    /// All packets that are there now and that `wanted` takes.
    pub(super) fn drain(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.try_receive()).filter(|packet| wanted(packet)).collect()
    }

    fn try_receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match self.file.read(&mut buffer) {
            Ok(len) => Some(buffer[VNET_HEADER_LEN..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("reading a device: {error}"),
        }
    }
}

fn wait_readable(fd: RawFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd. A signal ends the call early; the caller looks again.
    unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left).unwrap_or(i32::MAX)) };
}

/// Whether a frame is UDP to the kernel path's port.
pub(super) fn is_clear(frame: &[u8]) -> bool {
    let port_at = match frame.get(12..14) {
        Some([8, 0]) => 36,
        Some([0x86, 0xdd]) => 56,
        _ => return false,
    };
    frame.get(port_at..port_at + 2) == Some(&4790u16.to_be_bytes()[..])
}

/// A raw socket on a device without Ethernet headers: sends any bytes as IP packets, sees what
/// comes in.
pub(super) struct RawSocket {
    fd: OwnedFd,
    device: u32,
}

impl RawSocket {
    pub(super) fn on(device: &str) -> Self {
        let device = index_of(device);
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a system call without pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol))
        };
        assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, device };
        let to = socket.address(protocol);
        // SAFETY: the address is as long as its size says.
        let bound =
            unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as u32) };
        assert!(bound == 0, "binding a packet socket: {}", io::Error::last_os_error());
        let on: libc::c_int = 1;
        // SAFETY: the option is one int.
        let set = unsafe {
            libc::setsockopt(
                socket.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of_val(&on) as u32,
            )
        };
        assert!(set == 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        socket
    }

    fn address(&self, protocol: u16) -> libc::sockaddr_ll {
        // SAFETY: integers, of which all may be zero.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = protocol;
        to.sll_ifindex = self.device as i32;
        to
    }

    /// Lets the host send `packet` through the device.
    pub(super) fn send(&self, packet: &[u8]) {
        self.send_with([0; VNET_HEADER_LEN], packet);
    }

    /// As a TCP super-packet with segments of `gso_size`, its checksum left to be done.
    pub(super) fn send_tcp_super_packet(&self, packet: &[u8], gso_size: u16) {
        self.send_with(tcp_super_packet_header(packet, 0, gso_size), packet);
    }

    fn send_with(&self, header: [u8; VNET_HEADER_LEN], packet: &[u8]) {
        let bytes = [&header[..], packet].concat();
        let ethertype: u16 = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
        let to = self.address(ethertype.to_be());
        // SAFETY: buffer and address are as long as their sizes say.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as u32,
            )
        };
        // The kernel's word for a packet that the program on the device drops.
        let is_dropped = sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
        assert!(sent >= 0 || is_dropped, "sending {} bytes: {}", packet.len(), io::Error::last_os_error());
    }

    /// The next packet that comes in on the device and that `wanted` takes.
    #[track_caller]
    pub(super) fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        let mut buffer = vec![0; 70_000];
        while Instant::now() < deadline {
            // SAFETY: integers, of which all may be zero.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = size_of_val(&from) as u32;
            // SAFETY: buffer and address are as long as their sizes say.
            let len = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            let Ok(len) = usize::try_from(len) else {
                wait_readable(self.fd.as_raw_fd(), deadline);
                continue;
            };
            let packet = &buffer[VNET_HEADER_LEN..len];
            if from.sll_pkttype != libc::PACKET_OUTGOING && wanted(packet) {
                return packet.to_vec();
            }
        }
        panic!("nothing of the kind has come in");
    }
}

/// The virtio-net header of a TCP super-packet whose IP header starts at `ip_at`.
pub(super) fn tcp_super_packet_header(bytes: &[u8], ip_at: u16, gso_size: u16) -> [u8; VNET_HEADER_LEN] {
    const NEEDS_CSUM: u8 = 1;
    let is_v6 = bytes[usize::from(ip_at)] >> 4 == 6;
    let (gso_type, ip_len) = if is_v6 { (4, 40) } else { (1, 20) };
    let tcp_at = ip_at + ip_len;
    let [a, b] = (tcp_at + 20).to_ne_bytes();
    let [c, d] = gso_size.to_ne_bytes();
    let [e, f] = tcp_at.to_ne_bytes();
    let [g, h] = 16u16.to_ne_bytes();
    [NEEDS_CSUM, gso_type, a, b, c, d, e, f, g, h]
}
