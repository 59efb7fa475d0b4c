//! TCP transfers: every byte where it belongs, no segment out of order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipop_common::Counter;
use ipop_user::userpath::{Io, UserPath};

use crate::wire::{DEADLINE, INNER, Node, Options, Wire, inside, wait_for};

pub(crate) const MIB: usize = 1 << 20;
const BLOCK_LEN: usize = 64 << 10;

/// Indices of the inner address families.
pub(crate) const V4: usize = 0;
pub(crate) const V6: usize = 1;

/// The bytes of a transfer: each eight tell where they belong.
fn pattern(offset: usize, out: &mut [u8]) {
    for (index, word) in out.chunks_exact_mut(8).enumerate() {
        let at = (offset / 8 + index) as u64;
        word.copy_from_slice(&at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

fn send_all(stream: &mut TcpStream, len: usize) {
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut block = vec![0; BLOCK_LEN];
    for offset in (0..len).step_by(BLOCK_LEN) {
        pattern(offset, &mut block);
        stream.write_all(&block).unwrap();
    }
}

fn receive_all(stream: &mut TcpStream, len: usize) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut got, mut expected) = (vec![0; BLOCK_LEN], vec![0; BLOCK_LEN]);
    for offset in (0..len).step_by(BLOCK_LEN) {
        stream.read_exact(&mut got).unwrap();
        pattern(offset, &mut expected);
        assert!(got == expected, "bytes differ after {offset}");
    }
    assert_eq!(stream.read(&mut got).unwrap(), 0, "more came than was sent");
}

/// Sends `len` bytes by TCP from one node to the other and compares every byte.
pub(crate) fn transfer(from: &Node, to: &Node, ip: &str, len: usize) {
    let listener = inside(&to.netns, || TcpListener::bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = inside(&from.netns, || TcpStream::connect_timeout(&address, DEADLINE).unwrap());
            send_all(&mut stream, len);
        });
        let (mut stream, _) = listener.accept().unwrap();
        receive_all(&mut stream, len);
    });
}

pub(crate) fn assert_no_reordering(wire: &Wire) {
    for node in wire.nodes() {
        let queued = node.kernel_counter("netstat", "TcpExt:", "TCPOFOQueue");
        assert_eq!(queued, 0, "segments came out of order; {:?}", node.counted());
    }
}

fn assert_nothing_dropped(wire: &Wire) {
    use ipop_common::counter::Class;
    for node in wire.nodes() {
        let dropped = node.counters.iter().filter(|(counter, _)| counter.class() == Class::Dropped);
        assert_eq!(dropped.map(|(_, packets)| packets).sum::<u64>(), 0, "{:?}", node.counted());
    }
}

/// From a to b, over a wire with the options.
pub(crate) fn transfer_over(options: Options, family: usize, len: usize) {
    let wire = Wire::new(options);
    transfer(&wire.a, &wire.b, INNER[1][family], len);
    assert_no_reordering(&wire);
    assert_nothing_dropped(&wire);
    let segments = len / usize::from(options.link_mtu());
    assert!(wire.b.count(Counter::RxDecapsulated) as usize > segments, "{:?}", wire.b.counted());
}

with_both_engines! {
    fn a_file_of_256_mib_arrives_byte_for_byte_and_in_order(io) {
        transfer_over(Options::new(io), V4, 256 * MIB);
    }

    fn ipv6_in_ipv4(io) {
        transfer_over(Options::new(io), V6, 64 * MIB);
    }

    fn ipv4_in_ipv6(io) {
        transfer_over(Options { outer_v6: true, ..Options::new(io) }, V4, 64 * MIB);
    }

    fn ipv6_in_ipv6(io) {
        transfer_over(Options { outer_v6: true, ..Options::new(io) }, V6, 64 * MIB);
    }

    fn a_wire_without_segmentation_offload(io) {
        transfer_over(Options { nic: true, ..Options::new(io) }, V4, 64 * MIB);
    }

    fn a_wire_of_1280_bytes(io) {
        transfer_over(Options { wire_mtu: 1280, ..Options::new(io) }, V4, 64 * MIB);
    }

    fn a_wire_of_9000_bytes(io) {
        transfer_over(Options { wire_mtu: 9000, ..Options::new(io) }, V4, 64 * MIB);
    }

    fn tiny_segments_of_which_a_super_packet_has_more_than_a_batch_holds(io) {
        let wire = Wire::new(Options { tun_mtu: 128, ..Options::new(io) });
        transfer(&wire.a, &wire.b, INNER[1][V4], 2 * MIB);
        assert_no_reordering(&wire);
    }

    fn both_directions_at_once(io) {
        let wire = Wire::new(Options::new(io));
        thread::scope(|scope| {
            scope.spawn(|| transfer(&wire.a, &wire.b, INNER[1][V4], 64 * MIB));
            transfer(&wire.b, &wire.a, INNER[0][V6], 64 * MIB);
        });
        assert_no_reordering(&wire);
        assert_nothing_dropped(&wire);
    }

    fn many_connections_at_once(io) {
        let wire = Wire::new(Options::new(io));
        thread::scope(|scope| {
            for connection in 0..12 {
                let wire = &wire;
                scope.spawn(move || transfer(&wire.a, &wire.b, INNER[1][connection % 2], 8 * MIB));
            }
        });
        assert_no_reordering(&wire);
    }

    fn tables_are_swapped_under_traffic_and_links_go_on_counting(io) {
        let wire = Wire::new(Options::new(io));
        let done = AtomicBool::new(false);
        let traffic = wire.b.link().traffic;
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    wire.nodes().into_iter().for_each(|node| node.change_link(|_| ()));
                    thread::yield_now();
                }
            });
            transfer(&wire.a, &wire.b, INNER[1][V4], 32 * MIB);
            done.store(true, Ordering::Relaxed);
        });
        // The connection's last segments may still be on their way, counted once and not yet twice.
        wait_for("the packets of the link are those that arrived", || {
            traffic.snapshot().rx_packets == wire.b.count(Counter::RxDecapsulated)
        });
        wait_for("the packets of the link are those that were sent", || {
            wire.a.link().traffic.snapshot().tx_packets == wire.a.count(Counter::TxEncapsulated)
        });
        assert!(traffic.snapshot().rx_bytes as usize > 32 * MIB);
    }

    fn a_connection_outlives_a_change_of_engines(io) {
        let mut wire = Wire::new(Options::new(io));
        let address = SocketAddr::new(INNER[1][V4].parse().unwrap(), 0);
        let listener = inside(&wire.b.netns, || TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        let mut out = inside(&wire.a.netns, || TcpStream::connect_timeout(&address, DEADLINE).unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || send_all(&mut out, 64 * MIB));
            let received = scope.spawn(move || receive_all(&mut stream, 64 * MIB));
            for other in [Io::Epoll, Io::IoUring, Io::Epoll, io] {
                for node in [&mut wire.a, &mut wire.b] {
                    node.path.take().unwrap().stop().unwrap();
                    let settings = ipop_user::userpath::Settings { io: other, ..node.settings.clone() };
                    node.path = Some(UserPath::start(settings).unwrap());
                }
            }
            received.join().unwrap();
        });
    }
}
