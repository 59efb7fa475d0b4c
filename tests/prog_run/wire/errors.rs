//! ICMP errors about packets that a link cannot carry.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipop_common::Counter;
use ipop_tests::needs_root;
use ipop_tests::packet::{self, ICMP, ICMPV6, checksum, transport_checksum};

use super::depart::with_partial_checksum;
use super::devices::{RawSocket, is_clear};
use super::lab::{Lab, OnWire};
use crate::scenario::{own_v4, own_v6, same_bytes};

/// How much of a packet an error quotes.
const QUOTED: usize = 128;

fn own(v6: bool) -> IpAddr {
    if v6 { own_v6() } else { own_v4() }
}

/// The error about `packet`, from the address that it was for, byte by byte.
fn error_about(packet: &[u8], from: IpAddr, to: IpAddr, mtu: u16) -> Vec<u8> {
    let quote = &packet[..QUOTED];
    let [high, low] = mtu.to_be_bytes();
    if from.is_ipv6() {
        let mut message = [&[2, 0, 0, 0, 0, 0, high, low][..], quote].concat();
        let check = transport_checksum(to, from, ICMPV6, &message).to_be_bytes();
        message[2..4].copy_from_slice(&check);
        return packet::ip(to, from, ICMPV6, &message);
    }
    let mut message = [&[3, 4, 0, 0, 0, 0, high, low][..], quote].concat();
    let check = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&check);
    let mut error = packet::ip(to, from, ICMP, &message);
    // Class selector 6, as the kernel's own errors.
    error[1] = 0xc0;
    error[10..12].fill(0);
    let check = checksum(&error[..20]).to_be_bytes();
    error[10..12].copy_from_slice(&check);
    error
}

fn is_error(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[9] == ICMP,
        _ => packet[6] == ICMPV6 && packet[40] == 2,
    }
}

#[test]
fn a_packet_too_big_is_answered_with_the_right_error() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let device = RawSocket::on("ipop0");
    for v6 in [false, true] {
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let (from, to) = (own(v6), peer.inner(own(v6)));
            let headers = if v6 { 48 } else { 28 };
            for len in [1, 100, 1001, 5000] {
                let payload: Vec<u8> = (0..usize::from(peer.mtu) - headers + len).map(|i| i as u8).collect();
                let packet = packet::udp(from, to, (1, 2), &payload);
                device.send(&packet);
                let error = device.receive(is_error);
                same_bytes(&error, &error_about(&packet, from, to, peer.mtu), "the error");
                lab.counted(Counter::TxTooBig);
            }
        }
    }
    assert!(lab.wire.drain(is_clear).is_empty(), "nothing of them goes out");
}

#[test]
fn a_super_packet_of_too_big_segments_is_answered_with_the_right_error() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let device = RawSocket::on("ipop0");
    for v6 in [false, true] {
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let (from, to) = (own(v6), peer.inner(own(v6)));
            let headers = if v6 { 60 } else { 40 };
            let packet = with_partial_checksum(from, to, &vec![0x5a; 9000]);
            device.send_tcp_super_packet(&packet, peer.mtu - headers + 1);
            let error = device.receive(is_error);
            same_bytes(&error, &error_about(&packet, from, to, peer.mtu), "the error");
            lab.counted(Counter::TxTooBig);
        }
    }
    assert!(lab.wire.drain(is_clear).is_empty(), "nothing of them goes out");
}

/// What the error is for: the host's stack takes it and remembers the path's MTU.
#[test]
fn a_socket_learns_the_mtu_of_its_link() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    for v6 in [false, true] {
        for peer in [lab.v4.clone(), lab.v6.clone()] {
            let socket = lab.socket(own(v6), 0);
            socket.connect((peer.inner(own(v6)), 9)).expect("connected");
            always_unfragmented(&socket, v6);
            // The first one is sent; the error about it arrives within the call.
            socket.send(&vec![0; 3000]).expect("sent");
            lab.counted(Counter::TxTooBig);
            let pending = socket.take_error().expect("the option").expect("the ICMP error");
            assert_eq!(pending.raw_os_error(), Some(libc::EMSGSIZE));
            let too_big =
                socket.send(&vec![0; 3000]).expect_err("larger than the path's MTU, as is known now");
            assert_eq!(too_big.raw_os_error(), Some(libc::EMSGSIZE));
            let headers = if v6 { 48 } else { 28 };
            let fits = vec![0; usize::from(peer.mtu) - headers];
            socket.send(&fits).expect("as large as the link");
            lab.counted(Counter::TxEncapsulated);
        }
    }
}

fn always_unfragmented(socket: &impl AsRawFd, v6: bool) {
    let (level, option, value) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    };
    // SAFETY: the option is one int.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as u32,
        )
    };
    assert_eq!(set, 0, "path MTU discovery");
}

/// Larger than the link, and fragmenting is allowed: the user path does that.
#[test]
fn what_may_be_fragmented_goes_to_the_daemon_whole() {
    needs_root!();
    needs_vxlan!();
    let mut lab = Lab::new(OnWire::Tc);
    let device = RawSocket::on("ipop0");
    let mut packet = packet::udp(own_v4(), lab.v4.inner_v4, (1, 2), &[0x5a; 3000]);
    packet[6] = 0;
    let check = {
        packet[10..12].fill(0);
        checksum(&packet[..20]).to_be_bytes()
    };
    packet[10..12].copy_from_slice(&check);
    device.send(&packet);
    same_bytes(&lab.helper.receive(|seen| seen == packet), &packet, "what the daemon reads");
    lab.counted(Counter::TxFragmented);
}
