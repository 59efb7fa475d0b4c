//! A node on a wire whose other end is the test: the programs attached to real devices in a network
//! namespace of the test's own. `wire0` is a TAP, so every frame on the wire is written and read
//! here; `ipop0` is the kernel's VXLAN device, `miss0` the helper device of the daemon's.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::tc::{self, TcAttachType};
use aya::programs::xdp::XdpMode;
use ipop_common::Counter;
use ipop_tests::namespace;
use ipop_tests::packet::{Mac, hexdump};
use ipop_tests::programs::{Counters, Program, Programs};
use ipop_tests::world::{Peer, Prefix, World};

use crate::scenario::{PEER_MAC, address, own_v4, own_v6, peer_v4, peer_v6};

pub(super) const WIRE_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// For what must happen. It happens within a system call; the rest is a slow machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// `struct virtio_net_hdr`.
const VNET_HEADER_LEN: usize = 10;

/// The node, its devices and its two peers.
pub(super) struct Lab {
    pub(super) programs: Programs,
    pub(super) world: World,
    pub(super) v4: Peer,
    pub(super) v6: Peer,
    pub(super) wire: Tap,
    /// Packets that the programs leave to the daemon, and what it writes.
    pub(super) helper: Tap,
    before: Counters,
}

/// Which programs are attached to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnWire {
    Tc,
    XdpAndTc,
    /// The kernel's VXLAN device takes the frames apart, the guard checks them.
    Nothing,
}

impl Lab {
    pub(super) fn new(on_wire: OnWire) -> Self {
        namespace::enter_new();
        let wire = Tap::open("wire0", libc::IFF_TAP);
        let helper = Tap::open("miss0", libc::IFF_TUN);
        ip("link set lo up");
        ip("link set wire0 address 02:00:00:00:00:01 mtu 9000 up");
        ip("address add 192.0.2.1/24 dev wire0");
        ip("address add 2001:db8::1/64 dev wire0 nodad");
        ip("link set miss0 up");
        ip("link add ipop0 mtu 8900 type vxlan external gpe dstport 4790 udp6zerocsumrx nolearning");
        ip("link set ipop0 up");
        ip("address add 10.64.0.1/32 dev ipop0");
        ip("address add fd00:64::1/128 dev ipop0 nodad");
        ip("route add 8.0.0.0/16 dev ipop0");
        ip("route add fd00:0:86dd::/48 dev ipop0");
        let (v4, v6) = (on_this_wire(peer_v4(1)), on_this_wire(peer_v6(2)));
        let mut world = World::new(index_of("ipop0"), index_of("miss0"));
        world.add_peer(&v4);
        world.add_peer(&v6);
        world.add_local(own_v4());
        world.add_local(own_v6());
        // A subnet behind the first peer.
        let to = v4.reference();
        world.prefixes.push(Prefix { address: address("8.0.128.0"), len: 17, to });
        let mut programs = Programs::load();
        programs.install(&world);
        attach(&mut programs, on_wire);
        let before = programs.counters();
        Self { programs, world, v4, v6, wire, helper, before }
    }

    /// Counters since the last call, or since the beginning.
    pub(super) fn moved(&mut self) -> Counters {
        let now = self.programs.counters();
        let moved = now.since(&self.before);
        self.before = now;
        moved
    }

    /// Waits until `counter` has gone up by one, and checks that no other has.
    #[track_caller]
    pub(super) fn counted(&mut self, counter: Counter) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let moved = without_noise(&self.programs.counters().since(&self.before));
            if moved == [(counter, 1)] {
                break;
            }
            let is_late = Instant::now() > deadline;
            assert!(moved.is_empty() && !is_late, "counted {moved:?} instead of {}", counter.name());
            std::thread::yield_now();
        }
        self.before = self.programs.counters();
    }

    /// A socket of the node's own, at an inner address.
    pub(super) fn socket(&self, own: IpAddr, port: u16) -> UdpSocket {
        let socket = UdpSocket::bind((own, port)).expect("a socket in the namespace");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket
    }
}

/// Without what the host's own IPv6 multicasts on the virtual device count.
fn without_noise(moved: &Counters) -> Vec<(Counter, u64)> {
    moved.moved().into_iter().filter(|(counter, _)| *counter != Counter::TxNoRoute).collect()
}

/// The standard peers live on the loopback device of test runs.
fn on_this_wire(peer: Peer) -> Peer {
    Peer { local_mac: WIRE_MAC, remote_mac: PEER_MAC, ifindex: index_of("wire0"), ..peer }
}

fn attach(programs: &mut Programs, on_wire: OnWire) {
    let ingress = (Program::Ingress, "wire0", TcAttachType::Ingress);
    let everywhere = [
        (Program::Egress, "ipop0", TcAttachType::Egress),
        (Program::Guard, "ipop0", TcAttachType::Ingress),
        (Program::Deliver, "miss0", TcAttachType::Ingress),
    ];
    let on_wire_too = (on_wire != OnWire::Nothing).then_some(ingress);
    for (program, device, hook) in everywhere.into_iter().chain(on_wire_too) {
        if programs.classifier(program).attach(device, hook).is_err() {
            // Before tcx (Linux 6.6). The other hook of the device may have brought it already.
            let _ = tc::qdisc_add_clsact(device);
            programs.classifier(program).attach(device, hook).expect("a TC program on its device");
        }
    }
    if on_wire == OnWire::XdpAndTc {
        programs.xdp().attach("wire0", XdpMode::Driver).expect("XDP on the wire");
    }
}

/// Runs `ip` with these arguments in the namespace of the calling thread.
#[track_caller]
pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the program ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the kernel has VXLAN devices. Moves the thread into a namespace of its own.
pub(super) fn has_vxlan() -> bool {
    namespace::enter_new();
    let made =
        Command::new("ip").args(["link", "add", "probe0", "type", "vxlan", "external", "gpe"]).output();
    made.expect("the program ip").status.success()
}

pub(super) fn index_of(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).expect("the device")
}

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
    fd: std::os::fd::OwnedFd,
    device: u32,
}

impl RawSocket {
    pub(super) fn on(device: &str) -> Self {
        use std::os::fd::FromRawFd;
        let device = index_of(device);
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a system call without pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol))
        };
        assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
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
            if from.sll_pkttype != libc::PACKET_OUTGOING as u8 && wanted(packet) {
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
