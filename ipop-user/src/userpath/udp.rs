//! The UDP sockets of the underlay: bound, with large buffers, receive offload on, and outer packets
//! that the network may fragment. It sends and receives nothing itself.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use libc::c_int;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::netlink::mark_underlay;

/// Kernel buffer in each direction, bytes: at 10 Gbit/s some 3 ms of traffic.
const BUFFER_BYTES: c_int = 4 << 20;

/// linux/udp.h.
const UDP_NO_CHECK6_RX: c_int = 102;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    #[error("UDP port {} on {} is in use: stop the other program, or choose another port", address.port(), address.ip())]
    PortInUse { address: SocketAddr },
    #[error("no address {} on this host: listen on one of its addresses or on 0.0.0.0", address.ip())]
    NoSuchAddress { address: SocketAddr },
    #[error("not permitted to bind UDP port {}: choose a port above 1023, or grant CAP_NET_BIND_SERVICE", address.port())]
    NotPermitted { address: SocketAddr },
    #[error("cannot listen on udp://{address}: {step}: {source}")]
    Os { address: SocketAddr, step: &'static str, source: io::Error },
}

/// Binds a non-blocking socket for the data path.
///
/// An IPv6 socket takes IPv6 only. Neither address nor port is shared with another socket.
///
/// # Errors
/// See [`UdpError`].
pub fn bind(address: SocketAddr) -> Result<UdpSocket, UdpError> {
    bind_as(address, false)
}

/// As [`bind`], one socket for each of so many queues: the kernel gives what comes from one peer to one
/// of them. They share the port among themselves; the first finds out whether another program has it.
///
/// # Errors
/// See [`UdpError`].
pub fn bind_queues(address: SocketAddr, queues: usize) -> Result<Vec<UdpSocket>, UdpError> {
    let os = |step| move |source| UdpError::Os { address, step, source };
    let first = bind(address)?;
    let address = first.local_addr().map_err(os("its address"))?;
    let mut all = vec![first];
    if queues > 1 {
        SockRef::from(&all[0]).set_reuse_port(true).map_err(os("SO_REUSEPORT"))?;
    }
    for _ in 1..queues {
        all.push(bind_as(address, true)?);
    }
    Ok(all)
}

fn bind_as(address: SocketAddr, share: bool) -> Result<UdpSocket, UdpError> {
    let os = |step| move |source| UdpError::Os { address, step, source };
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
            .map_err(os("socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(os("IPV6_V6ONLY"))?;
        // Sealed packets of a peer's kernel path have no checksum (RFC 6935): their tag says more.
        set_option(socket.as_raw_fd(), libc::SOL_UDP, UDP_NO_CHECK6_RX, 1).map_err(os("UDP_NO_CHECK6_RX"))?;
    }
    if share {
        socket.set_reuse_port(true).map_err(os("SO_REUSEPORT"))?;
    }
    mark_underlay(&socket);
    let fd = socket.as_raw_fd();
    enlarge(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF).map_err(os("receive buffer"))?;
    enlarge(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF).map_err(os("send buffer"))?;
    allow_fragments(fd, address).map_err(os("path MTU discovery"))?;
    // Merging on receive is a gain and no need: a kernel without it (before 5.0) delivers singly.
    let _ = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    socket.bind(&SockAddr::from(address)).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => UdpError::PortInUse { address },
        Some(libc::EADDRNOTAVAIL) => UdpError::NoSuchAddress { address },
        Some(libc::EACCES) => UdpError::NotPermitted { address },
        _ => UdpError::Os { address, step: "bind", source },
    })?;
    Ok(socket.into())
}

/// Asks for more than net.core.[rw]mem_max, which CAP_NET_ADMIN may, or for as much as one gets.
fn enlarge(fd: RawFd, force: c_int, plain: c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, force, BUFFER_BYTES)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, plain, BUFFER_BYTES))
}

/// Inner packets that may not be refused (IPv4 without DF, IPv6 up to 1280 bytes) can be larger than
/// the link: their outer packet is then fragmented, here or by a router on the way.
fn allow_fragments(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    }
}

fn set_option(fd: RawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one int through the pointer.
    match unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        let error = bind(taken).unwrap_err();
        assert!(matches!(error, UdpError::PortInUse { .. }));
        assert!(error.to_string().contains(&taken.port().to_string()), "{error}");
    }

    #[test]
    fn queues_share_a_port_that_nobody_else_gets() {
        let sockets = bind_queues("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        assert!(matches!(bind_queues(address, 3).unwrap_err(), UdpError::PortInUse { .. }));
        // What comes from one place goes to one of them; from many, to all.
        let mut heard = [0; 3];
        for _ in 0..200 {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..2 {
                sender.send_to(b"a packet", address).unwrap();
            }
            let received =
                sockets.iter().map(|s| (0..3).take_while(|_| s.recv(&mut [0; 16]).is_ok()).count());
            let received: Vec<usize> = received.collect();
            let at = received.iter().position(|count| *count == 2).expect("both to one queue");
            heard[at] += 1;
        }
        assert!(heard.iter().all(|count| *count > 0), "{heard:?}");
    }

    #[test]
    fn both_families_share_a_port_number() {
        let v4 = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = bind(SocketAddr::new("::".parse().unwrap(), port)).unwrap();
        assert_eq!(v6.local_addr().unwrap().port(), port);
    }

    #[test]
    fn an_address_of_another_host_is_named() {
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, UdpError::NoSuchAddress { .. }), "{error}");
    }
}
