//! UDP: every datagram of a segmenting sender arrives as it was sent, whether or not the receiver
//! merges; the order of a flow holds under load and behind a full socket.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ipop_common::Counter;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::transfer::{MIB, assert_no_reordering, transfer};
use crate::wire::{DEADLINE, INNER, Options, Wire, inside, receive_on_one_cpu, run_in, wait_for};

/// A stream of numbered datagrams from node a to node b.
#[derive(Clone, Copy)]
struct Stream {
    count: usize,
    len: usize,
    /// Datagrams that the sender hands over in one call, to be cut by the kernel (UDP_SEGMENT).
    per_send: usize,
    /// Datagrams on their way at a time: what no queue on it drops.
    in_flight: usize,
    /// The receiver takes merged ones (UDP_GRO).
    merges: bool,
    v6: bool,
}

/// The bytes of a datagram: they tell which one it is and are all different.
fn datagram(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = (number as u32).to_be_bytes().to_vec();
    bytes.extend((4..len).map(|at| (at ^ number.wrapping_mul(7)) as u8));
    bytes
}

impl Stream {
    /// Sends and receives all of it; returns the largest number of datagrams received in one call.
    fn run(self, wire: &Wire) -> usize {
        let ip = |side: usize| SocketAddr::new(INNER[side][usize::from(self.v6)].parse().unwrap(), 0);
        let receiver = inside(&wire.b.netns, || UdpSocket::bind(ip(1)).unwrap());
        let sender = inside(&wire.a.netns, || UdpSocket::bind(ip(0)).unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        // Nothing is lost for want of room there.
        setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).unwrap();
        setsockopt(&receiver, sockopt::UdpGroSegment, &self.merges).unwrap();
        let received = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| self.send(&sender, &received));
            self.receive(&receiver, &received, wire)
        })
    }

    fn send(self, socket: &UdpSocket, received: &AtomicUsize) {
        for first in (0..self.count).step_by(self.per_send) {
            wait_for("datagrams arrive", || received.load(Ordering::Acquire) + self.in_flight > first);
            let bytes: Vec<u8> =
                (first..first + self.per_send).flat_map(|number| datagram(number, self.len)).collect();
            let segment = self.len as u16;
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            let control = if self.per_send > 1 { &control[..] } else { &[] };
            let buffers = [std::io::IoSlice::new(&bytes)];
            sendmsg::<()>(socket.as_raw_fd(), &buffers, control, MsgFlags::empty(), None).unwrap();
        }
    }

    fn receive(self, socket: &UdpSocket, received: &AtomicUsize, wire: &Wire) -> usize {
        let (mut next, mut largest) = (0, 0);
        let mut buffer = vec![0; 65_536];
        while next < self.count {
            let (len, segment) = receive(socket, &mut buffer).unwrap_or_else(|error| {
                panic!(
                    "{next} of {} came: {error}; {:?} {:?}",
                    self.count,
                    wire.a.counted(),
                    wire.b.counted()
                )
            });
            let datagrams = buffer[..len].chunks(segment.unwrap_or(len));
            largest = largest.max(datagrams.len());
            for bytes in datagrams {
                assert!(bytes == datagram(next, self.len), "{next} expected, came {:?}", &bytes[..4]);
                next += 1;
            }
            received.store(next, Ordering::Release);
        }
        largest
    }
}

/// Receives once; the length, and that of each datagram if they are merged.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> nix::Result<(usize, Option<usize>)> {
    let mut control = nix::cmsg_space!(i32);
    let mut buffers = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::empty())?;
    let segment = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(len) => usize::try_from(len).ok(),
        _ => None,
    });
    Ok((message.bytes, segment))
}

/// A QUIC-like sender: 20,000 datagrams, 40 in a call.
const SEGMENTED: Stream =
    Stream { count: 20_000, len: 1200, per_send: 40, in_flight: 40, merges: false, v6: false };

with_both_engines! {
    fn segmented_datagrams_reach_a_socket_that_does_not_merge(io) {
        let wire = Wire::new(Options::new(io));
        assert_eq!(SEGMENTED.run(&wire), 1);
    }

    fn segmented_datagrams_reach_a_socket_that_merges(io) {
        let wire = Wire::new(Options::new(io));
        let largest = Stream { merges: true, ..SEGMENTED }.run(&wire);
        let offload = wire.b.tun.offloads().udp_segmentation;
        assert!(largest > 1 || !offload, "they came one by one");
    }

    fn segmented_datagrams_over_ipv6(io) {
        let wire = Wire::new(Options { outer_v6: true, ..Options::new(io) });
        for merges in [false, true] {
            Stream { v6: true, merges, ..SEGMENTED }.run(&wire);
        }
    }

    fn segmented_datagrams_over_a_wire_without_offload(io) {
        let wire = Wire::new(Options { nic: true, ..Options::new(io) });
        for merges in [false, true] {
            Stream { merges, ..SEGMENTED }.run(&wire);
        }
    }

    fn single_datagrams_of_every_size_arrive_in_order(io) {
        let wire = Wire::new(Options::new(io));
        for len in [4, 5, 64, 700, 1436] {
            for merges in [false, true] {
                Stream { count: 3000, len, per_send: 1, in_flight: 100, merges, v6: false }.run(&wire);
            }
        }
    }

    fn a_flood_of_small_datagrams_is_never_reordered_and_ends_nothing(io) {
        let wire = Wire::new(Options::new(io));
        let receiver = inside(&wire.b.netns, || UdpSocket::bind((INNER[1][0], 0)).unwrap());
        let sender = inside(&wire.a.netns, || UdpSocket::bind((INNER[0][0], 0)).unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        const LAST: u32 = u32::MAX;
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..300_000u32 {
                    // Queues may be full and drop: this is a flood.
                    let _ = sender.send(&number.to_be_bytes());
                }
            });
            let mut last = None;
            let mut came = 0;
            while last != Some(LAST) {
                let mut bytes = [0; 4];
                receiver.recv(&mut bytes).unwrap();
                let number = u32::from_be_bytes(bytes);
                assert!(last < Some(number), "{number} after {last:?}");
                last = Some(number);
                came += 1;
                // The flood is over when its last datagrams can be told from a loss: ask for an end.
                if number > 290_000 {
                    let _ = sender.send(&LAST.to_be_bytes());
                }
            }
            assert!(came > 1000, "{came}");
        });
    }

    fn a_full_socket_delays_and_does_not_reorder(io) {
        let wire = Wire::new(Options::new(io));
        for socket in &wire.a.settings.queues[0].sockets {
            setsockopt(socket, sockopt::SndBuf, &(32 << 10)).unwrap();
        }
        // What is queued in the shaper counts against the socket: four of its buffers in flight.
        run_in(&wire.a.netns, "tc qdisc add dev w0 root tbf rate 200mbit burst 64kb limit 16mb");
        receive_on_one_cpu(&wire.b.netns);
        let stream = Stream { count: 6000, len: 1400, per_send: 1, in_flight: 300, merges: false, v6: false };
        stream.run(&wire);
        Stream { per_send: 30, ..stream }.run(&wire);
        transfer(&wire.a, &wire.b, INNER[1][0], 8 * MIB);
        assert_no_reordering(&wire);
        assert_eq!(wire.a.count(Counter::TxQueueFull) + wire.a.count(Counter::TxSendError), 0);
    }

    /// The route's MTU has become smaller than the link's: the kernel refuses to cut segments that
    /// no longer fit, and they go out singly, fragmented on the way.
    fn where_the_kernel_refuses_to_cut_datagrams_are_sent_singly(io) {
        let wire = Wire::new(Options::new(io));
        run_in(&wire.a.netns, "ip route add 10.200.0.2/32 dev w0 mtu lock 1200");
        let stream = Stream { count: 2000, ..SEGMENTED };
        stream.run(&wire);
        assert!(wire.a.count(Counter::TxGsoFallback) > 0, "{:?}", wire.a.counted());
        assert_eq!(wire.a.count(Counter::TxSendError), 0, "{:?}", wire.a.counted());
        transfer(&wire.a, &wire.b, INNER[1][0], MIB);
    }
}
