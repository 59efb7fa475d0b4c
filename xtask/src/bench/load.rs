//! The load generator: sockets between the two ends of one system, opened once, and the threads
//! at the far end that receive and echo. Owns sockets and wire-level loops; knows nothing of
//! windows, rounds or statistics.
//!
//! All sockets block, and a system that is not being measured costs nothing: the machine's two
//! cores belong to one sender and one receiver at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::icmp::Echo;
use crate::netns::NetNs;

/// Bytes per write of the TCP sender. A multiple of nothing in particular: 64 KiB keeps the
/// effects of different segment sizes on the sender's chunking small.
pub(crate) const TCP_WRITE_BYTES: usize = 64 * 1024;
/// Bytes of a UDP datagram, and of a request and its response.
pub(crate) const SMALL_BYTES: usize = 64;
/// The same for every system, whatever the machine's default is.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";

const TCP_SINK_PORT: u16 = 7001;
const TCP_ECHO_PORT: u16 = 7002;
const UDP_SINK_PORT: u16 = 7003;
const UDP_ECHO_PORT: u16 = 7004;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without an answer a path counts as broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle UDP receiver looks whether it is still wanted.
const IDLE_CHECK: Duration = Duration::from_millis(500);
/// What is still under way after a window arrives within this time, or is lost.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(2);
/// The UDP receiver's buffer: some 5000 datagrams of 64 bytes.
const UDP_RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Datagrams sent between two looks at the clock.
const UDP_BURST: u64 = 64;
/// Exchanges between two looks at the clock.
const EXCHANGE_BURST: u64 = 8;
const RECEIVE_BATCH: usize = 32;
const RECEIVE_SLOT_BYTES: usize = 2048;

/// What the far end has received so far.
#[derive(Debug, Default)]
struct Received {
    tcp_bytes: AtomicU64,
    udp_datagrams: AtomicU64,
}

/// One system's sockets and far-end threads.
#[derive(Debug)]
pub(crate) struct Load {
    tcp_bulk: TcpStream,
    tcp_exchange: TcpStream,
    udp_bulk: UdpSocket,
    udp_exchange: UdpSocket,
    icmp: Echo,
    received: Arc<Received>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    tcp_bytes_sent: u64,
}

/// Units and the time that they took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
}

/// What became of a flood of datagrams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Flood {
    /// Received while it lasted.
    pub(crate) in_window: Measured,
    /// Received at all.
    pub(crate) arrived: u64,
    pub(crate) sent: u64,
}

impl Measured {
    pub(crate) fn per_second(self) -> f64 {
        self.count as f64 / self.seconds
    }

    pub(crate) fn us_each(self) -> f64 {
        self.seconds * 1e6 / self.count as f64
    }
}

impl Load {
    /// Opens every socket between `near` and `target`, an address of `far`.
    pub(crate) fn open(near: &NetNs, far: &NetNs, target: Ipv4Addr) -> Result<Self> {
        let received = Arc::new(Received::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let listeners = far.run(|| Listeners::open(target))?;
        let tcp_bulk = near.run(|| connect(target, TCP_SINK_PORT))?;
        let tcp_exchange = near.run(|| connect(target, TCP_ECHO_PORT))?;
        let udp_bulk = near.run(|| connect_udp(target, UDP_SINK_PORT))?;
        let udp_exchange = near.run(|| connect_udp(target, UDP_ECHO_PORT))?;
        let icmp = near.run(|| Echo::open(target, ANSWER_TIMEOUT))?;
        let threads = listeners.serve(&received, &stopping)?;
        Ok(Self {
            tcp_bulk,
            tcp_exchange,
            udp_bulk,
            udp_exchange,
            icmp,
            received,
            stopping,
            threads,
            tcp_bytes_sent: 0,
        })
    }

    /// Bytes that arrive at the far end's TCP socket during `window`, after `warm_up` of the same.
    pub(crate) fn tcp_stream(&mut self, warm_up: Duration, window: Duration) -> Result<Measured> {
        self.tcp_send_for(warm_up)?;
        let before = self.received.tcp_bytes.load(Ordering::Relaxed);
        let started = Instant::now();
        self.tcp_send_for(window)?;
        let count = self.received.tcp_bytes.load(Ordering::Relaxed) - before;
        let seconds = started.elapsed().as_secs_f64();
        self.drain_tcp()?;
        Ok(Measured { count, seconds })
    }

    /// Sends datagrams as fast as one thread can, one per system call.
    pub(crate) fn udp_flood(&mut self, window: Duration) -> Result<Flood> {
        let datagram = [0u8; SMALL_BYTES];
        let before = self.received.udp_datagrams.load(Ordering::Relaxed);
        let started = Instant::now();
        let mut sent = 0;
        while started.elapsed() < window {
            for _ in 0..UDP_BURST {
                match self.udp_bulk.send(&datagram) {
                    Ok(_) => sent += 1,
                    // A full queue on the way is loss, which is what a flood measures.
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context("cannot send a datagram"),
                }
            }
        }
        let count = self.received.udp_datagrams.load(Ordering::Relaxed) - before;
        let in_window = Measured { count, seconds: started.elapsed().as_secs_f64() };
        let arrived = self.drain_udp() - before;
        Ok(Flood { in_window, arrived, sent })
    }

    /// Round trips of one byte string at a time over TCP.
    pub(crate) fn tcp_exchange(&mut self, window: Duration) -> Result<Measured> {
        let stream = &mut self.tcp_exchange;
        exchange_for(window, || {
            let mut buffer = [0u8; SMALL_BYTES];
            stream
                .write_all(&buffer)
                .and_then(|()| stream.read_exact(&mut buffer))
                .context("no answer over TCP")
        })
    }

    /// Round trips of one datagram at a time over UDP. A lost one is an error.
    pub(crate) fn udp_exchange(&mut self, window: Duration) -> Result<Measured> {
        let socket = &self.udp_exchange;
        exchange_for(window, || {
            let mut buffer = [0u8; SMALL_BYTES];
            socket.send(&buffer).context("cannot send a datagram")?;
            socket.recv(&mut buffer).context("no answer over UDP")?;
            Ok(())
        })
    }

    /// Round trips of one ICMP echo at a time; the far end's kernel answers.
    pub(crate) fn ping_flood(&mut self, window: Duration) -> Result<Measured> {
        let icmp = &mut self.icmp;
        exchange_for(window, || icmp.exchange())
    }

    fn tcp_send_for(&mut self, window: Duration) -> Result<()> {
        let chunk = vec![0u8; TCP_WRITE_BYTES];
        let started = Instant::now();
        while started.elapsed() < window {
            self.tcp_bulk.write_all(&chunk).context("the TCP stream stands still")?;
            self.tcp_bytes_sent += TCP_WRITE_BYTES as u64;
        }
        Ok(())
    }

    /// Waits until everything sent has arrived: the next system's window is not to pay for it.
    fn drain_tcp(&self) -> Result<()> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.received.tcp_bytes.load(Ordering::Relaxed) < self.tcp_bytes_sent {
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
        let mut seen = self.received.udp_datagrams.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(DRAIN_POLL);
            let now = self.received.udp_datagrams.load(Ordering::Relaxed);
            if now == seen || Instant::now() > deadline {
                return now;
            }
            seen = now;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // A stream that ends wakes the thread that reads it; UDP threads look by themselves.
        let _ = self.tcp_bulk.shutdown(std::net::Shutdown::Both);
        let _ = self.tcp_exchange.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn exchange_for(window: Duration, mut exchange: impl FnMut() -> Result<()>) -> Result<Measured> {
    let started = Instant::now();
    let mut count = 0;
    loop {
        for _ in 0..EXCHANGE_BURST {
            exchange()?;
        }
        count += EXCHANGE_BURST;
        let seconds = started.elapsed().as_secs_f64();
        if seconds >= window.as_secs_f64() {
            return Ok(Measured { count, seconds });
        }
    }
}

fn connect(target: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddrV4::new(target, port).into(), CONNECT_TIMEOUT)
        .with_context(|| format!("cannot connect to {target} port {port}"))?;
    set_up_stream(&stream)?;
    Ok(stream)
}

fn set_up_stream(stream: &TcpStream) -> Result<()> {
    setsockopt(stream, sockopt::TcpCongestion, &CONGESTION_CONTROL.into())
        .with_context(|| format!("this kernel has no congestion control {CONGESTION_CONTROL}"))?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")
}

fn connect_udp(target: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a UDP socket")?;
    socket.connect((target, port)).with_context(|| format!("cannot connect to {target} port {port}"))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")?;
    Ok(socket)
}

/// The far end's sockets before the first packet.
#[derive(Debug)]
struct Listeners {
    tcp_sink: TcpListener,
    tcp_echo: TcpListener,
    udp_sink: UdpSocket,
    udp_echo: UdpSocket,
}

impl Listeners {
    fn open(address: Ipv4Addr) -> Result<Self> {
        let listen = |port| {
            TcpListener::bind((address, port))
                .with_context(|| format!("cannot listen on {address} port {port}"))
        };
        let bind = |port| {
            let socket = UdpSocket::bind((address, port))
                .with_context(|| format!("cannot bind {address} port {port}"))?;
            socket.set_read_timeout(Some(IDLE_CHECK)).context("cannot set a timeout")?;
            anyhow::Ok(socket)
        };
        let udp_sink = bind(UDP_SINK_PORT)?;
        setsockopt(&udp_sink, sockopt::RcvBufForce, &UDP_RECEIVE_BUFFER_BYTES)
            .context("cannot enlarge the receive buffer (needs root)")?;
        Ok(Self {
            tcp_sink: listen(TCP_SINK_PORT)?,
            tcp_echo: listen(TCP_ECHO_PORT)?,
            udp_sink,
            udp_echo: bind(UDP_ECHO_PORT)?,
        })
    }

    /// Takes the two streams and starts one thread per socket.
    fn serve(self, received: &Arc<Received>, stopping: &Arc<AtomicBool>) -> Result<Vec<JoinHandle<()>>> {
        let (tcp_sink, _) = self.tcp_sink.accept().context("cannot accept a stream")?;
        let (tcp_echo, _) = self.tcp_echo.accept().context("cannot accept a stream")?;
        tcp_echo.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        setsockopt(&tcp_echo, sockopt::TcpCongestion, &CONGESTION_CONTROL.into())
            .context("cannot set the congestion control")?;
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a thread")
        };
        let (counters, udp_counters) = (Arc::clone(received), Arc::clone(received));
        let (stop_sink, stop_echo) = (Arc::clone(stopping), Arc::clone(stopping));
        let (udp_sink, udp_echo) = (self.udp_sink, self.udp_echo);
        Ok(vec![
            start("tcp-sink", Box::new(move || sink_stream(tcp_sink, &counters.tcp_bytes)))?,
            start("tcp-echo", Box::new(move || echo_stream(tcp_echo)))?,
            start(
                "udp-sink",
                Box::new(move || sink_datagrams(udp_sink.as_fd(), &udp_counters.udp_datagrams, &stop_sink)),
            )?,
            start("udp-echo", Box::new(move || echo_datagrams(&udp_echo, &stop_echo)))?,
        ])
    }
}

fn sink_stream(mut stream: TcpStream, bytes: &AtomicU64) {
    let mut buffer = vec![0u8; 2 * TCP_WRITE_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}

fn echo_stream(mut stream: TcpStream) {
    let mut buffer = [0u8; SMALL_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, stopping: &AtomicBool) {
    let mut buffer = [0u8; SMALL_BYTES];
    while !stopping.load(Ordering::Relaxed) {
        if let Ok((count, from)) = socket.recv_from(&mut buffer) {
            // An answer that cannot be sent shows at the other end as one that never came.
            let _ = socket.send_to(&buffer[..count], from);
        }
    }
}

/// Counts datagrams, many per system call, as a busy receiver would.
fn sink_datagrams(socket: BorrowedFd<'_>, datagrams: &AtomicU64, stopping: &AtomicBool) {
    let mut space = vec![0u8; RECEIVE_BATCH * RECEIVE_SLOT_BYTES];
    let mut slots: Vec<libc::iovec> = space
        .chunks_exact_mut(RECEIVE_SLOT_BYTES)
        .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = slots
        .iter_mut()
        .map(|slot| {
            // SAFETY: mmsghdr is plain old data; all-zero is a valid value of it.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = slot;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let batch = libc::c_uint::try_from(headers.len()).unwrap_or(1);
    while !stopping.load(Ordering::Relaxed) {
        // SAFETY: `headers` holds `batch` headers, each with one iovec into `space`; all three
        // live longer than the call, and nothing else uses them.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                batch,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        if let Ok(count @ 1..) = u64::try_from(count) {
            datagrams.fetch_add(count, Ordering::Relaxed);
        }
    }
}
