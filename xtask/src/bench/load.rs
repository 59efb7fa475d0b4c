//! The near end of the load generator: sockets to the far end of one system, and the loops that
//! send. Knows nothing of rounds or statistics over them.
//!
//! Sockets for small packets are opened once. Every TCP window has a stream of its own: how a
//! stream's window and its buffers settle is partly chance, and one that settled badly would be
//! the same in all rounds, where no median finds it.
//!
//! All sockets block, and a system that is not being measured costs nothing: the machine's two
//! cores belong to one sender and one receiver at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::far_end::{FarEnd, TCP_ECHO_PORT, TCP_SINK_PORT, UDP_ECHO_PORT, UDP_SINK_PORT};
use super::icmp::Echo;
use crate::netns::NetNs;

/// Bytes per write of the TCP sender. A multiple of nothing in particular: 64 KiB keeps the
/// effects of different segment sizes on the sender's chunking small. (Its streams wait for full
/// segments, as those of file transfers do: without Nagle's algorithm every second packet would be
/// the rest of a write.)
pub(crate) const TCP_WRITE_BYTES: usize = 64 * 1024;
/// Bytes of a UDP datagram, and of a request and its response.
pub(crate) const SMALL_BYTES: usize = 64;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without progress a TCP stream counts as broken: several retransmissions.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long a datagram, or the answer to it, counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
/// So many losses on end, and a path counts as broken.
const LOST_ON_END_MAX: u32 = 10;
/// What is still under way after a window arrives within this time, or is lost.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(2);
/// A flood has drained when nothing has arrived for so long: a daemon on the way may have had to
/// wait for a core in between.
const DRAIN_QUIET: Duration = Duration::from_millis(20);
/// Datagrams sent between two looks at the clock.
const UDP_BURST: u64 = 64;
/// Round trips that a latency window has room for without allocating.
const EXCHANGES_EXPECTED: usize = 1 << 16;

/// One system's sockets.
#[derive(Debug)]
pub(crate) struct Load {
    target: Ipv4Addr,
    congestion_control: String,
    tcp_exchange: TcpStream,
    udp_bulk: UdpSocket,
    udp_exchange: UdpSocket,
    icmp: Echo,
    far: FarEnd,
}

/// Units and the time that they took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
}

/// What became of requests that were sent one at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exchanges {
    /// The median of all round trips: a moment in which the machine did something else does not
    /// count.
    pub(crate) median_us: f64,
    pub(crate) lost: u64,
}

/// What became of a flood of datagrams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Flood {
    /// Received while it lasted.
    pub(crate) in_window: Measured,
    /// Received at all.
    pub(crate) arrived: u64,
    /// Given to the kernel to be sent, whatever it did with them.
    pub(crate) sent: u64,
}

impl Measured {
    pub(crate) fn per_second(self) -> f64 {
        self.count as f64 / self.seconds
    }
}

impl Load {
    /// Opens every socket between `near` and `target`, an address of `far`; streams use
    /// `congestion_control`, whatever the namespaces' default is.
    pub(crate) fn open(
        near: &NetNs,
        far: &NetNs,
        target: Ipv4Addr,
        congestion_control: &str,
    ) -> Result<Self> {
        let listeners = far.run(|| super::far_end::Listeners::open(target))?;
        let tcp_exchange = near.run(|| connect(target, TCP_ECHO_PORT, congestion_control))?;
        tcp_exchange.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let udp_bulk = near.run(|| connect_udp(target, UDP_SINK_PORT))?;
        let udp_exchange = near.run(|| connect_udp(target, UDP_ECHO_PORT))?;
        let icmp = near.run(|| Echo::open(target, ANSWER_TIMEOUT))?;
        let far = listeners.serve(congestion_control)?;
        let congestion_control = congestion_control.to_owned();
        Ok(Self { target, congestion_control, tcp_exchange, udp_bulk, udp_exchange, icmp, far })
    }

    /// Bytes that arrive at the far end of a new TCP stream during `window`, after `warm_up` of
    /// the same.
    pub(crate) fn tcp_stream(
        &mut self,
        near: &NetNs,
        warm_up: Duration,
        window: Duration,
    ) -> Result<Measured> {
        let mut stream = near.run(|| connect(self.target, TCP_SINK_PORT, &self.congestion_control))?;
        let arrived_before = self.far.tcp_bytes();
        let warm_up_bytes = send_for(&mut stream, warm_up)?;
        let before = self.far.tcp_bytes();
        let started = Instant::now();
        let bytes = send_for(&mut stream, window)?;
        let count = self.far.tcp_bytes() - before;
        let seconds = started.elapsed().as_secs_f64();
        self.drain_tcp(arrived_before + warm_up_bytes + bytes)?;
        Ok(Measured { count, seconds })
    }

    /// Sends datagrams as fast as one thread can, one per system call.
    pub(crate) fn udp_flood(&mut self, window: Duration) -> Result<Flood> {
        let datagram = [0u8; SMALL_BYTES];
        let before = self.far.udp_datagrams();
        let started = Instant::now();
        let mut sent = 0;
        while started.elapsed() < window {
            for _ in 0..UDP_BURST {
                match self.udp_bulk.send(&datagram) {
                    Ok(_) => sent += 1,
                    // Refused for a full queue on the way: lost like one that it has taken.
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => sent += 1,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context("cannot send a datagram"),
                }
            }
        }
        let count = self.far.udp_datagrams() - before;
        let in_window = Measured { count, seconds: started.elapsed().as_secs_f64() };
        let arrived = self.drain_udp() - before;
        Ok(Flood { in_window, arrived, sent })
    }

    /// Round trips of one request at a time over TCP.
    pub(crate) fn tcp_exchange(&mut self, window: Duration) -> Result<Exchanges> {
        let stream = &mut self.tcp_exchange;
        exchange_for(window, |_| {
            let mut buffer = [0u8; SMALL_BYTES];
            stream
                .write_all(&buffer)
                .and_then(|()| stream.read_exact(&mut buffer))
                .context("no answer over TCP")?;
            Ok(true)
        })
    }

    /// Round trips of one datagram at a time over UDP.
    pub(crate) fn udp_exchange(&mut self, window: Duration) -> Result<Exchanges> {
        let socket = &self.udp_exchange;
        exchange_for(window, |sequence| {
            let mut request = [0u8; SMALL_BYTES];
            request[..8].copy_from_slice(&sequence.to_be_bytes());
            socket.send(&request).context("cannot send a datagram")?;
            let mut response = [0u8; SMALL_BYTES];
            loop {
                match socket.recv(&mut response) {
                    Ok(_) if response == request => return Ok(true),
                    // The answer to one that had been given up.
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context("no answer over UDP"),
                }
            }
        })
    }

    /// Round trips of one ICMP echo at a time; the far end's kernel answers.
    pub(crate) fn ping_flood(&mut self, window: Duration) -> Result<Exchanges> {
        let icmp = &mut self.icmp;
        exchange_for(window, |_| icmp.exchange())
    }

    /// Waits until `bytes` have arrived: the next system's window is not to pay for them.
    fn drain_tcp(&self, bytes: u64) -> Result<()> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.far.tcp_bytes() < bytes {
            if Instant::now() > deadline {
                bail!("the TCP stream has not drained within {} s", DRAIN_TIMEOUT.as_secs());
            }
            std::thread::sleep(DRAIN_POLL);
        }
        Ok(())
    }

    /// Waits until no more datagrams arrive; returns how many ever have.
    fn drain_udp(&self) -> u64 {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let (mut seen, mut last_arrival) = (self.far.udp_datagrams(), Instant::now());
        while last_arrival.elapsed() < DRAIN_QUIET && Instant::now() < deadline {
            std::thread::sleep(DRAIN_POLL);
            let now = self.far.udp_datagrams();
            if now != seen {
                (seen, last_arrival) = (now, Instant::now());
            }
        }
        seen
    }
}

/// Writes to `stream` for so long; returns how many bytes.
fn send_for(stream: &mut TcpStream, window: Duration) -> Result<u64> {
    let chunk = vec![0u8; TCP_WRITE_BYTES];
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < window {
        stream.write_all(&chunk).context("the TCP stream stands still")?;
        bytes += TCP_WRITE_BYTES as u64;
    }
    Ok(bytes)
}

/// Repeats `exchange`, which says whether there was an answer, until `window` is over. It is
/// given a number that it never gets twice.
pub(super) fn exchange_for(
    window: Duration,
    mut exchange: impl FnMut(u64) -> Result<bool>,
) -> Result<Exchanges> {
    let mut round_trips_ns: Vec<u64> = Vec::with_capacity(EXCHANGES_EXPECTED);
    let (mut lost, mut lost_on_end) = (0, 0);
    let first = Instant::now();
    let (mut started, mut sequence) = (first, unique());
    while started.duration_since(first) < window {
        sequence = sequence.wrapping_add(1);
        let answered = exchange(sequence)?;
        let ended = Instant::now();
        if answered {
            round_trips_ns.push(ended.duration_since(started).as_nanos() as u64);
            lost_on_end = 0;
        } else {
            lost += 1;
            lost_on_end += 1;
            if lost_on_end == LOST_ON_END_MAX {
                bail!("{lost_on_end} requests on end had no answer");
            }
        }
        started = ended;
    }
    Ok(Exchanges { median_us: median_us(round_trips_ns).context("no request had an answer")?, lost })
}

/// A number that differs from window to window, so that no late answer fits another's request.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static WINDOWS: AtomicU64 = AtomicU64::new(0);
    WINDOWS.fetch_add(1, Ordering::Relaxed) << 32
}

fn median_us(mut round_trips_ns: Vec<u64>) -> Option<f64> {
    let middle = round_trips_ns.len() / 2;
    if round_trips_ns.is_empty() {
        return None;
    }
    let (_, median, _) = round_trips_ns.select_nth_unstable(middle);
    Some(*median as f64 / 1e3)
}

fn connect(target: Ipv4Addr, port: u16, congestion_control: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddrV4::new(target, port).into(), CONNECT_TIMEOUT)
        .with_context(|| format!("cannot connect to {target} port {port}"))?;
    setsockopt(&stream, sockopt::TcpCongestion, &congestion_control.into())
        .with_context(|| format!("this kernel has no congestion control {congestion_control}"))?;
    stream.set_read_timeout(Some(STREAM_TIMEOUT)).context("cannot set a timeout")?;
    stream.set_write_timeout(Some(STREAM_TIMEOUT)).context("cannot set a timeout")?;
    Ok(stream)
}

fn connect_udp(target: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a UDP socket")?;
    socket.connect((target, port)).with_context(|| format!("cannot connect to {target} port {port}"))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_round_trip_ignores_outliers() {
        assert_eq!(median_us(vec![4_000, 5_000, 4_500, 900_000, 4_200]), Some(4.5));
        assert_eq!(median_us(Vec::new()), None);
    }

    #[test]
    fn lost_requests_are_counted_and_a_dead_path_is_an_error() {
        let mut calls = 0;
        let every_other = |_| {
            calls += 1;
            Ok(calls % 2 == 0)
        };
        let exchanges = exchange_for(Duration::from_millis(5), every_other).expect("half were answered");
        assert!(exchanges.lost > 0);
        assert!(exchange_for(Duration::from_secs(60), |_| Ok(false)).is_err());
    }
}
