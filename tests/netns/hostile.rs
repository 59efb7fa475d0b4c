//! Packets of somebody on the wire who means harm: none is delivered, each is counted where it
//! belongs, and the daemon goes on.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::lab::packet::{Frame, KERNEL_PORT, PAYLOAD, Tap, USER_PORT, ipv4, udp_v4};
use crate::lab::{Lab, SOON, run, within};

/// How every hand-built payload begins.
const MARK: &[u8] = b"hostile,";
/// How long a packet that must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(150);

/// Somebody who listens on the far host for what must not arrive, and sends from the near one.
struct Bench {
    lab: Lab,
    listener: UdpSocket,
    /// Everything on the far host's virtual device.
    inside: Tap,
    port: u16,
    tap: Tap,
    good: Frame,
}

impl Bench {
    #[track_caller]
    fn new(lab: Lab, outer_port: u16) -> Self {
        let any = Ipv4Addr::UNSPECIFIED;
        let listener = lab.far.ns.inside(|| UdpSocket::bind((any, 0))).expect("a UDP socket");
        listener.set_read_timeout(Some(SILENCE)).expect("a timeout");
        let port = listener.local_addr().expect("its address").port();
        let tap = Tap::open(&lab.near, lab.near.device);
        let good = Frame { port: outer_port, ..Frame::good(&lab.near, &lab.far, port) };
        let inside = Tap::open(&lab.far, "ipop0");
        let bench = Self { lab, listener, inside, port, tap, good };
        bench.the_good_frame_arrives();
        bench
    }

    /// Without this, that nothing arrives would say nothing.
    #[track_caller]
    fn the_good_frame_arrives(&self) {
        self.tap.send(&self.good.bytes());
        let arrived = within(SOON, || self.listener.recv(&mut [0; 2000]).ok());
        assert!(arrived.is_some(), "the frame that is right in every part arrives");
        assert!(self.inside.sees(MARK, SOON), "and is seen on the virtual device");
    }

    /// Sends a frame that differs from the good one; nothing is delivered and `counter` grows.
    #[track_caller]
    fn is_refused(&self, what: &str, counter: &str, spoil: impl FnOnce(&mut Frame)) {
        let mut frame = self.good.clone();
        spoil(&mut frame);
        let before = self.lab.far.counter(counter);
        self.tap.send(&frame.bytes());
        self.lab.far.wait_for_counter(counter, before, 1);
        self.nothing_arrives(what);
    }

    #[track_caller]
    fn nothing_arrives(&self, what: &str) {
        let mut bytes = [0; 2000];
        let arrived = self.listener.recv(&mut bytes);
        assert!(arrived.is_err(), "{what}: {:?} is delivered", &bytes[..arrived.unwrap_or(0)]);
        assert!(!self.inside.sees(MARK, SILENCE), "{what}: seen on the virtual device");
    }
}

#[track_caller]
fn spoiled_frames_are_refused(lab: Lab) {
    let bench = Bench::new(lab, KERNEL_PORT);
    let stranger = Ipv4Addr::new(10, 200, 0, 66);
    let target = bench.lab.far.inner_v4;
    bench.is_refused("a wrong link id", "rx_unknown_link", |f| f.clear[5] ^= 0x10);
    bench.is_refused("link id 0", "rx_bad_header", |f| f.clear[4..7].fill(0));
    bench.is_refused("a reserved bit", "rx_bad_header", |f| f.clear[0] |= 1);
    bench.is_refused("a reserved byte", "rx_bad_header", |f| f.clear[7] = 1);
    bench.is_refused("next protocol Ethernet", "rx_unknown_protocol", |f| f.clear[3] = 3);
    bench.is_refused("an unknown next protocol", "rx_unknown_protocol", |f| f.clear[3] = 99);
    bench.is_refused("the other family", "rx_bad_inner", |f| f.clear[3] = 2);
    bench.is_refused("a wrong outer source", "rx_wrong_outer_source", |f| f.outer_source = stranger);
    bench.is_refused("a wrong inner source", "rx_wrong_inner_source", |f| {
        f.inner = udp_v4(stranger, target, bench.port, PAYLOAD);
    });
    bench.is_refused("our own inner source", "rx_wrong_inner_source", |f| {
        f.inner = udp_v4(target, target, bench.port, PAYLOAD);
    });
    bench.is_refused("IP options", "rx_outer_options", |f| f.options = vec![1, 1, 1, 0]);
    bench.is_refused("a first fragment", "rx_outer_fragment", |f| f.fragment = 0x2000);
    bench.is_refused("an outer checksum", "rx_outer_checksum", |f| f.udp_checksum = 0x1234);
    bench.is_refused("a UDP length too long", "rx_bad_length", |f| f.udp_length_error = 8);
    bench.is_refused("a UDP length too short", "rx_bad_length", |f| f.udp_length_error = -4);
    bench.is_refused("bytes behind the inner packet", "rx_bad_length", |f| f.inner.push(0));
    bench.is_refused("an inner packet cut short", "rx_bad_length", |f| f.inner.truncate(24));
    bench.is_refused("a nested frame from elsewhere", "rx_wrong_inner_source", |f| {
        f.inner = ipv4((stranger, target), 17, 0, &[], &f.payload());
    });
    for len in 0..8 {
        let what = format!("{len} bytes");
        let mut frame = bench.good.bytes();
        // Ethernet, IP, UDP; then `len` bytes, and lengths that say so.
        let short = |frame: &mut Vec<u8>| {
            frame.truncate(14 + 20 + 8 + len);
            frame[16..18].copy_from_slice(&(28 + len as u16).to_be_bytes());
            frame[38..40].copy_from_slice(&(8 + len as u16).to_be_bytes());
            let header =
                ipv4((bench.good.outer_source, bench.good.outer_destination), 17, 0x4000, &[], &frame[34..]);
            frame[14..34].copy_from_slice(&header[..20]);
        };
        short(&mut frame);
        let before = bench.lab.far.counter("rx_truncated");
        bench.tap.send(&frame);
        bench.lab.far.wait_for_counter("rx_truncated", before, 1);
        bench.nothing_arrives(&what);
    }
    // Not for our programs, and nothing that the stack would deliver.
    let mut tagged = bench.good.clone();
    tagged.vlan = Some(7);
    bench.tap.send(&tagged.bytes());
    bench.nothing_arrives("a VLAN tag");
    let mut later = bench.good.clone();
    later.fragment = 0x0001;
    bench.tap.send(&later.bytes());
    bench.nothing_arrives("a later fragment");
    let whole = bench.good.bytes();
    for len in 14..whole.len() {
        bench.tap.send(&whole[..len]);
    }
    bench.nothing_arrives("a frame cut at every length");
    bench.the_good_frame_arrives();
    bench.lab.near.ping(target.into(), &[]);
}

#[test]
fn the_kernel_path_refuses_spoiled_frames() {
    run(|| spoiled_frames_are_refused(Lab::plain().up("direct-kernel")));
}

#[test]
fn xdp_refuses_spoiled_frames() {
    run(|| spoiled_frames_are_refused(Lab::plain().datapath("xdp", "native").up("direct-kernel")));
}

#[test]
fn the_user_path_refuses_spoiled_datagrams() {
    run(|| {
        let lab = Lab::plain().datapath("kernel", "off").up("direct-user");
        let bench = Bench::new(lab, USER_PORT);
        let stranger = Ipv4Addr::new(10, 200, 0, 66);
        let target = bench.lab.far.inner_v4;
        bench.is_refused("a wrong link id", "rx_unknown_link", |f| f.clear[5] ^= 0x10);
        bench.is_refused("a reserved byte", "rx_bad_header", |f| f.clear[7] = 1);
        bench.is_refused("an unknown next protocol", "rx_unknown_protocol", |f| f.clear[3] = 99);
        bench.is_refused("the other family", "rx_bad_inner", |f| f.clear[3] = 2);
        bench.is_refused("a wrong outer source", "rx_wrong_outer_source", |f| f.outer_source = stranger);
        bench.is_refused("a wrong inner source", "rx_wrong_inner_source", |f| {
            f.inner = udp_v4(stranger, target, bench.port, PAYLOAD);
        });
        bench.is_refused("bytes behind the inner packet", "rx_bad_length", |f| f.inner.push(0));
        bench.is_refused("an unknown message", "rx_unknown_message", |f| f.clear[0] = 0x55);
        bench.is_refused("a packet that no session has sealed", "rx_unknown_index", |f| {
            f.clear = [4, 0, 0, 0, 1, 2, 3, 4];
            f.inner = vec![0; 64];
        });
        bench.is_refused("an initiation by somebody who does not know us", "rx_bad_mac1", |f| {
            f.clear = [1, 0, 0, 0, 1, 2, 3, 4];
            f.inner = vec![7; 140];
        });
        bench.the_good_frame_arrives();
    });
}

#[test]
fn a_hundred_thousand_random_datagrams_change_nothing() {
    run(|| {
        for io in ["io_uring", "epoll"] {
            let lab = Lab::plain().datapath("io", io).up("direct-kernel");
            flood(&lab);
            let mut lab = lab;
            assert!(lab.far.take().terminate().success(), "the daemon lives and ends well");
        }
    });
}

#[track_caller]
fn flood(lab: &Lab) {
    let delivered = lab.far.packets();
    let mut random = Random(0x1234_5678_9abc_def1);
    let starts: [&[u8]; 5] = [&[], &[0x0c, 0, 0, 1], &[0x0c, 0, 0, 2], &[6, 0, 0, 0], &[4, 0, 0, 0]];
    let received = || lab.far.ask("/v1/counters")["user"].to_string();
    let before = received();
    let socket = lab.near.ns.inside(|| UdpSocket::bind("0.0.0.0:0")).expect("a UDP socket");
    for number in 0..100_000usize {
        let mut datagram = starts[number % starts.len()].to_vec();
        let len = (random.next() % 200) as usize;
        datagram.extend((0..len).map(|_| random.next() as u8));
        // What the host drops for want of room is no matter.
        let _ = socket.send_to(&datagram, (lab.far.outer_v4, USER_PORT));
    }
    assert_ne!(received(), before, "the flood reached the user path");
    assert_eq!(lab.far.packets(), delivered, "nothing is taken for a peer's");
    lab.near.ping(lab.far.inner(false), &[]);
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
