//! Wires of other sizes: TCP gets through, a packet that is too big and must not be fragmented is
//! answered, and no size of packet vanishes.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{setsockopt, sockopt};

use crate::lab::tcp::{MIB, Tcp};
use crate::lab::{Lab, Outer, Wire, run};

/// Outer headers: IP, UDP, VXLAN-GPE.
const OVERHEAD_V4: u32 = 20 + 8 + 8;
const OVERHEAD_V6: u32 = 40 + 8 + 8;
/// RFC 8200, 5: what every IPv6 link must carry.
const IPV6_MIN: u32 = 1280;
const ICMP_HEADERS_V4: u32 = 28;
const ICMP_HEADERS_V6: u32 = 48;

#[track_caller]
fn a_wire_works(wire_mtu: u32, outer: Outer, kernel: &str) {
    let path = if kernel == "off" { "direct-user" } else { "direct-kernel" };
    let lab = Lab::new(Wire::Offload, wire_mtu, outer).datapath("kernel", kernel).up(path);
    let overhead = if outer == Outer::V4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let link_mtu = wire_mtu - overhead;
    assert_eq!(lab.near.peer()["mtu"], link_mtu, "the link's MTU is exact");
    for v6 in [false, true] {
        Tcp::transfer(&lab.near, &lab.far, lab.far.inner(v6), 64 * MIB);
    }
    every_size_of_ping_arrives(&lab, wire_mtu);
    what_is_too_big_is_refused(&lab, lab.far.inner(false), link_mtu, ICMP_HEADERS_V4);
    what_is_too_big_is_refused(&lab, lab.far.inner(true), link_mtu.max(IPV6_MIN), ICMP_HEADERS_V6);
}

/// Sizes of payload around the edges, which the sender or the daemon may fragment.
#[track_caller]
fn every_size_of_ping_arrives(lab: &Lab, wire_mtu: u32) {
    for around in [56, wire_mtu - 120, wire_mtu - 64, wire_mtu - 36, wire_mtu, wire_mtu + 200] {
        for size in around - 4..=around + 4 {
            let size = size.to_string();
            for v6 in [false, true] {
                let pings = &["-c", "1", "-s", size.as_str(), "-M", "dont"];
                lab.near.ping(lab.far.inner(v6), pings);
            }
        }
    }
}

/// With don't-fragment: the largest packet arrives, one byte more gives an error that names the
/// MTU to ping, and EMSGSIZE to a socket.
#[track_caller]
fn what_is_too_big_is_refused(lab: &Lab, target: IpAddr, mtu: u32, headers: u32) {
    let fits = (mtu - headers).to_string();
    lab.near.ping(target, &["-M", "do", "-s", &fits]);
    let over = (mtu - headers + 1).to_string();
    let to = target.to_string();
    let output = lab.near.ns.output("ping", &["-n", "-c", "2", "-W", "1", "-M", "do", "-s", &over, &to]);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains(&format!("mtu={mtu}")) || text.contains("mtu: "),
        "{text}"
    );
    let socket = lab.near.ns.inside(|| {
        let any: IpAddr = if target.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        UdpSocket::bind((any, 0)).expect("a UDP socket")
    });
    if target.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6DontFrag, &true).expect("IPV6_DONTFRAG");
    } else {
        forbid_fragments(&socket);
    }
    let size = (mtu - headers) as usize;
    socket.send_to(&vec![0; size], (target, 9)).expect("the largest datagram is sent");
    let error = socket.send_to(&vec![0; size + 1], (target, 9)).expect_err("one byte more is too big");
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
}

/// IP_MTU_DISCOVER, which nix does not have.
fn forbid_fragments(socket: &UdpSocket) {
    let value = libc::IP_PMTUDISC_DO;
    let len = size_of_val(&value) as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: the option's value is an int that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, (&raw const value).cast(), len)
    };
    assert_eq!(result, 0, "IP_MTU_DISCOVER: {}", std::io::Error::last_os_error());
}

#[test]
fn a_wire_of_1280_bytes_works_by_the_kernel_path() {
    run(|| a_wire_works(1280, Outer::V4, "on"));
}

#[test]
fn a_wire_of_1280_bytes_works_by_the_user_path() {
    run(|| a_wire_works(1280, Outer::V4, "off"));
}

#[test]
fn an_ipv6_wire_of_1280_bytes_works() {
    run(|| a_wire_works(1280, Outer::V6, "on"));
}

#[test]
fn a_wire_of_1500_bytes_works() {
    run(|| {
        a_wire_works(1500, Outer::V4, "on");
        a_wire_works(1500, Outer::V4, "off");
    });
}

#[test]
fn a_wire_of_9000_bytes_works_by_the_kernel_path() {
    run(|| a_wire_works(9000, Outer::V4, "on"));
}

#[test]
fn a_wire_of_9000_bytes_works_by_the_user_path() {
    run(|| a_wire_works(9000, Outer::V4, "off"));
}
