//! Packets built by hand, byte for byte and by nothing of the product's, and sockets to send them
//! and to see what comes in.

use std::ffi::CString;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Host;
use super::namespace::NetNs;

pub(crate) const KERNEL_PORT: u16 = 4790;
pub(crate) const USER_PORT: u16 = 15000;

/// What a hand-built inner datagram carries: long enough for the headers of either family.
pub(crate) const PAYLOAD: &[u8] = b"hostile, and long enough to be read as an IPv6 header";

/// A clear frame from one host to another, each part of which can be spoiled.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) macs: Vec<u8>,
    pub(crate) vlan: Option<u16>,
    pub(crate) outer_source: Ipv4Addr,
    pub(crate) outer_destination: Ipv4Addr,
    pub(crate) options: Vec<u8>,
    /// Flags and offset of the outer header.
    pub(crate) fragment: u16,
    pub(crate) port: u16,
    pub(crate) udp_checksum: u16,
    /// What the UDP length says beyond the truth.
    pub(crate) udp_length_error: i32,
    pub(crate) clear: [u8; 8],
    pub(crate) inner: Vec<u8>,
}

impl Frame {
    /// As `from` would send it to `to`: right in every part.
    #[track_caller]
    pub(crate) fn good(from: &Host, to: &Host, inner_port: u16) -> Self {
        let link = u32::from_str_radix(to.peer()["link_id"].as_str().expect("a link"), 16).expect("an id");
        let mut clear = [0x0c, 0, 0, 1, 0, 0, 0, 0];
        clear[4..7].copy_from_slice(&link.to_be_bytes()[1..]);
        Self {
            macs: [mac(to), mac(from)].concat(),
            vlan: None,
            outer_source: from.outer_v4,
            outer_destination: to.outer_v4,
            options: Vec::new(),
            fragment: 0x4000,
            port: KERNEL_PORT,
            udp_checksum: 0,
            udp_length_error: 0,
            clear,
            inner: udp_v4(from.inner_v4, to.inner_v4, inner_port, PAYLOAD),
        }
    }

    /// The whole Ethernet frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.macs.clone();
        if let Some(tag) = self.vlan {
            bytes.extend([0x81, 0x00]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend([0x08, 0x00]);
        let payload = self.payload();
        let udp_len = i32::try_from(payload.len()).expect("short") + 8 + self.udp_length_error;
        let mut udp = Vec::new();
        for field in [40_000, self.port, udp_len as u16, self.udp_checksum] {
            udp.extend(field.to_be_bytes());
        }
        udp.extend(payload);
        let addresses = (self.outer_source, self.outer_destination);
        bytes.extend(ipv4(addresses, 17, self.fragment, &self.options, &udp));
        bytes
    }

    /// What the UDP datagram carries.
    pub(crate) fn payload(&self) -> Vec<u8> {
        [&self.clear[..], &self.inner].concat()
    }
}

/// An IPv4 packet.
pub(crate) fn ipv4(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
    bytes.extend(((header_len + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 7]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(options);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet with a UDP datagram without checksum.
pub(crate) fn udp_v4(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = Vec::new();
    for field in [50_000, port, 8 + payload.len() as u16, 0] {
        udp.extend(field.to_be_bytes());
    }
    udp.extend(payload);
    ipv4((source, destination), 17, 0, &[], &udp)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The MAC of a host's end of the wire.
#[track_caller]
pub(crate) fn mac(host: &Host) -> Vec<u8> {
    let text = host.ns.ip(&format!("-o link show dev {}", host.device));
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether").expect("an Ethernet device");
    words[at + 1].split(':').map(|part| u8::from_str_radix(part, 16).expect("a MAC")).collect()
}

/// Everything on one device of a host, as it is.
#[derive(Debug)]
pub(crate) struct Tap(OwnedFd);

impl Tap {
    /// Opens a packet socket on a device inside the host.
    #[track_caller]
    pub(crate) fn open(host: &Host, device: &str) -> Self {
        Self::open_in(&host.ns, device)
    }

    /// The same inside any namespace.
    #[track_caller]
    pub(crate) fn open_in(ns: &NetNs, device: &str) -> Self {
        Self(ns.inside(|| {
            let all = SockProtocol::EthAll;
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all).expect("AF_PACKET");
            let name = CString::new(device).expect("a name");
            // SAFETY: the name is a string that ends with zero and lives until the call returns.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            assert_ne!(index, 0, "there is no device {device}");
            bind(&fd, index);
            let patience = TimeVal::milliseconds(100);
            setsockopt(&fd, sockopt::ReceiveTimeout, &patience).expect("a timeout");
            fd
        }))
    }

    #[track_caller]
    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "the frame is sent whole");
    }

    /// The next packet; `None` where none comes for a while.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }

    /// Waits for a packet that contains `needle`.
    pub(crate) fn sees(&self, needle: &[u8], patience: Duration) -> bool {
        let deadline = std::time::Instant::now() + patience;
        let mut buffer = vec![0; 65_536];
        while std::time::Instant::now() < deadline {
            if let Ok(len) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())
                && buffer[..len].windows(needle.len()).any(|window| window == needle)
            {
                return true;
            }
        }
        false
    }
}

fn bind(fd: &OwnedFd, index: u32) {
    // SAFETY: all zeroes is a valid address of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll of that length and lives until the call returns.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    assert_eq!(result, 0, "bind: {}", std::io::Error::last_os_error());
}
