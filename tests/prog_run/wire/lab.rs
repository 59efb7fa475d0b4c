//! A node on a wire whose other end is the test: the programs attached to real devices in a network
//! namespace of the test's own. `wire0` is a TAP, so every frame on the wire is written and read
//! here; `ipop0` is the kernel's VXLAN device, `miss0` the helper device of the daemon's.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::tc::{self, TcAttachType};
use aya::programs::xdp::XdpMode;
use ipop_common::Counter;
use ipop_tests::namespace;
use ipop_tests::packet::Mac;
use ipop_tests::programs::{Counters, Program, Programs};
use ipop_tests::world::{Peer, Prefix, World};

use super::devices::Tap;
use crate::scenario::{PEER_MAC, address, own_v4, own_v6, peer_v4, peer_v6};

pub(super) const WIRE_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// For what must happen. It happens within a system call; the rest is a slow machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
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
    /// XDP in the driver. After XDP in the stack, newer kernels show TC a frame without its Ethernet
    /// header (6.18: the copy that makes headroom loses `mac_len`), so that is no way in.
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
        let (v4, v6) = (on_this_wire(&peer_v4(1)), on_this_wire(&peer_v6(2)));
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
        self.counted_all(&[counter]);
    }

    /// As [`Self::counted`] for several counters, in the order of [`Counter::ALL`].
    #[track_caller]
    pub(super) fn counted_all(&mut self, counters: &[Counter]) {
        let expected: Vec<(Counter, u64)> = counters.iter().map(|counter| (*counter, 1)).collect();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let moved = without_noise(&self.programs.counters().since(&self.before));
            if moved == expected {
                break;
            }
            let is_underway = moved.iter().all(|moved| expected.contains(moved));
            let is_late = Instant::now() > deadline;
            assert!(is_underway && !is_late, "counted {moved:?} instead of {expected:?}");
            std::thread::yield_now();
        }
        self.before = self.programs.counters();
    }

    /// A socket of the node's own, at an inner address.
    ///
    /// An earlier one on the same port may outlive its drop for a moment: a child that another test
    /// has just forked holds a copy until it comes to its exec.
    pub(super) fn socket(&self, own: IpAddr, port: u16) -> UdpSocket {
        let deadline = Instant::now() + DEADLINE;
        let socket = loop {
            match UdpSocket::bind((own, port)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                bound => break bound.expect("a socket in the namespace"),
            }
        };
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket
    }
}

/// Without what the host's own IPv6 multicasts on the virtual device count.
fn without_noise(moved: &Counters) -> Vec<(Counter, u64)> {
    moved.moved().into_iter().filter(|(counter, _)| *counter != Counter::TxToGroup).collect()
}

/// The standard peers live on the loopback device of test runs.
fn on_this_wire(peer: &Peer) -> Peer {
    Peer { local_mac: WIRE_MAC, remote_mac: PEER_MAC, ifindex: index_of("wire0"), ..peer.clone() }
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
