//! UDP as QUIC uses it: super-packets from the sender, to receivers with and without UDP_GRO.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::{Host, SOON, within};

/// Payload of one datagram.
pub(crate) const SEGMENT: usize = 1200;
/// Datagrams of one super-packet.
const SEGMENTS: usize = 40;
/// Sent and not yet received, at most: more could overflow the receiver's queue.
const OUTSTANDING_MAX: u64 = 800;
const RECEIVE_BUFFER: usize = 64 << 20;
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends `count` datagrams in super-packets and gives how many arrived, each byte-exact and once.
#[track_caller]
pub(crate) fn super_packets(from: &Host, to: &Host, address: IpAddr, count: u64, gro: bool) -> u64 {
    let receiver = to.ns.inside(|| UdpSocket::bind(SocketAddr::new(address, 0))).expect("a UDP socket");
    setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("SO_RCVBUFFORCE");
    if gro {
        setsockopt(&receiver, sockopt::UdpGroSegment, &true).expect("UDP_GRO");
    }
    let place = receiver.local_addr().expect("its address");
    let any: IpAddr = if address.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    let sender = from.ns.inside(|| UdpSocket::bind(SocketAddr::new(any, 0))).expect("a UDP socket");
    let size = libc::c_int::try_from(SEGMENT).expect("small");
    setsockopt(&sender, sockopt::UdpGsoSegment, &size).expect("UDP_SEGMENT");
    let arrived = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| receive(&receiver, count, &arrived));
        send(&sender, place, count, &arrived);
        thread.join().expect("what arrives is what was sent")
    })
}

fn send(socket: &UdpSocket, place: SocketAddr, count: u64, arrived: &AtomicU64) {
    let mut number = 0;
    while number < count {
        let end = (number + SEGMENTS as u64).min(count);
        let batch: Vec<u8> = (number..end).flat_map(datagram).collect();
        socket.send_to(&batch, place).expect("the super-packet is sent");
        number = end;
        // What is lost must not stop the sender: the receiver will miss it.
        within(Duration::from_millis(200), || {
            (number < arrived.load(Ordering::Relaxed) + OUTSTANDING_MAX).then_some(())
        });
    }
}

fn receive(socket: &UdpSocket, count: u64, arrived: &AtomicU64) -> u64 {
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut seen = vec![false; usize::try_from(count).expect("a count")];
    let mut buffer = vec![0; 65_536];
    let mut last = Instant::now();
    let patience = |arrived: u64| if arrived == 0 { SOON } else { STALL_TIMEOUT };
    while arrived.load(Ordering::Relaxed) < count
        && last.elapsed() < patience(arrived.load(Ordering::Relaxed))
    {
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        last = Instant::now();
        for bytes in buffer[..len].chunks(SEGMENT) {
            let number = u64::from_be_bytes(*bytes.first_chunk().expect("a number"));
            assert!(bytes == datagram(number), "datagram {number} differs ({} bytes)", bytes.len());
            let place = usize::try_from(number).expect("a number of ours");
            assert!(!std::mem::replace(&mut seen[place], true), "datagram {number} came twice");
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    arrived.load(Ordering::Relaxed)
}

/// The payload of datagram `number`: its number, then bytes that follow from it.
fn datagram(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let filler = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    bytes.extend(filler.iter().cycle().take(SEGMENT - bytes.len()));
    bytes
}
