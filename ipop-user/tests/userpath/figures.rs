//! Figures, not verdicts: throughput, packets per second and system calls per packet of each
//! engine, with iperf3. Run in a release build: `cargo test --release --test userpath figures --
//! --ignored --nocapture`.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipop_common::Counter;
use ipop_user::userpath::Io;

use crate::wire::{INNER, OUTER, Options, Wire, alone, is_root, run_in, wait_for};

/// Seconds of each measurement.
const SECONDS: u32 = 5;

#[test]
#[ignore = "measures for a minute; needs iperf3 and a quiet machine"]
fn figures() {
    if !is_root() {
        return;
    }
    let _turn = alone();
    for nic in [false, true] {
        println!("wire: {}", if nic { "nic (tso off, gro on)" } else { "offload" });
        for io in [Io::IoUring, Io::Epoll] {
            let wire = Wire::new(Options { nic, ..Options::new(io) });
            let _server = Server::start(&wire.b.netns);
            if io == Io::IoUring {
                row(&wire, "bare", OUTER[1][0], "");
            }
            for (name, arguments) in [("tcp", ""), ("tcp reverse", "-R"), ("udp 64", "-u -b 0 -l 64")] {
                row(&wire, &format!("{io} {name}"), INNER[1][0], arguments);
            }
            ping(&wire, &format!("{io} ping"));
        }
    }
}

/// Whether a row is wanted: IPOP_FIGURES may hold a part of its name.
fn is_wanted(name: &str) -> bool {
    std::env::var("IPOP_FIGURES").map_or(true, |part| name.contains(&part))
}

fn row(wire: &Wire, name: &str, address: &str, arguments: &str) {
    if !is_wanted(name) {
        return;
    }
    let before = Sample::take(wire);
    let command = format!("iperf3 -J -C cubic -t {SECONDS} -c {address} {arguments}");
    let command = if arguments.contains("-u") { command.replace("-C cubic ", "") } else { command };
    let output = run_in(&wire.a.netns, &command);
    let after = Sample::take(wire);
    let end = &output[output.find("\"end\"").unwrap_or(0)..];
    let number = |key: &str| -> f64 {
        let at = end.rfind(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {output}"));
        let text = &end[at + key.len() + 3..];
        let text = text.split([',', '}', '\n']).next().unwrap_or("").trim();
        text.parse().unwrap_or(f64::NAN)
    };
    let gbps = number("bits_per_second") / 1e9;
    let packets = (after.packets - before.packets) as f64;
    let per_packet = |value: f64| if packets > 0.0 { value / packets } else { 0.0 };
    println!(
        "{name:>22}: {gbps:6.2} Gbit/s {:7.1} k packets/s {:6.3} syscalls/packet {:6.3} us cpu/packet, \
         {} retransmitted, {} out of order",
        packets / 1000.0 / f64::from(SECONDS),
        per_packet((after.syscalls - before.syscalls) as f64),
        per_packet((after.cpu - before.cpu).as_secs_f64() * 1e6),
        after.retransmitted - before.retransmitted,
        after.out_of_order - before.out_of_order,
    );
}

fn ping(wire: &Wire, name: &str) {
    if !is_wanted(name) {
        return;
    }
    let output = run_in(&wire.a.netns, &format!("ping -q -f -c 20000 {}", INNER[1][0]));
    println!("{name:>22}: {}", output.lines().last().unwrap_or("no answer"));
}

/// What both nodes have done so far.
struct Sample {
    packets: u64,
    syscalls: u64,
    cpu: Duration,
    retransmitted: u64,
    out_of_order: u64,
}

impl Sample {
    fn take(wire: &Wire) -> Self {
        let packets = |node: &crate::wire::Node| {
            node.count(Counter::TxEncapsulated) + node.count(Counter::RxDecapsulated)
        };
        Self {
            packets: wire.nodes().map(packets).iter().sum(),
            syscalls: wire
                .nodes()
                .map(|node| node.path.as_ref().map_or(0, |path| path.syscalls()))
                .iter()
                .sum(),
            cpu: queue_cpu(),
            retransmitted: wire
                .nodes()
                .map(|node| node.kernel_counter("snmp", "Tcp:", "RetransSegs"))
                .iter()
                .sum(),
            out_of_order: wire
                .nodes()
                .map(|node| node.kernel_counter("netstat", "TcpExt:", "TCPOFOQueue"))
                .iter()
                .sum(),
        }
    }
}

/// Processor time of this process's data threads.
fn queue_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let ticks = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.strip_prefix(|_: char| true)?.split(") ").nth(1)?.split(' ').collect();
        stat.contains("(ipop-queue-")
            .then(|| fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0))
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// An iperf3 server.
struct Server(Child);

impl Server {
    fn start(netns: &str) -> Self {
        let child =
            Command::new("ip").args(["netns", "exec", netns, "iperf3", "-s"]).stdout(Stdio::null()).spawn();
        let server = Self(child.expect("iperf3 is installed"));
        wait_for("iperf3 listens", || run_in(netns, "ss -ltn").contains(":5201"));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
