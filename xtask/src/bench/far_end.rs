//! The far end of the load generator: one thread per socket that receives, counts and echoes.
//! Owns those threads; they sleep while nothing arrives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::core::on_latency_core;
use super::load::{SMALL_BYTES, TCP_WRITE_BYTES};

pub(crate) const TCP_SINK_PORT: u16 = 7001;
pub(crate) const TCP_ECHO_PORT: u16 = 7002;
pub(crate) const UDP_SINK_PORT: u16 = 7003;
pub(crate) const UDP_ECHO_PORT: u16 = 7004;

/// How often an idle receiver looks whether it is still wanted.
const IDLE_CHECK_MS: i64 = 500;
/// The UDP receiver's buffer: some 5000 datagrams of 64 bytes.
const UDP_RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const RECEIVE_BATCH: usize = 32;
const RECEIVE_SLOT_BYTES: usize = 2048;

/// The threads that serve, and what they have received. Dropping it ends them, also when nothing
/// gets through any more.
#[derive(Debug)]
pub(crate) struct FarEnd {
    state: Arc<State>,
    /// The stream that the echo thread reads; to be shut down at this end.
    tcp_echo: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    tcp_bytes: AtomicU64,
    udp_datagrams: AtomicU64,
    stopping: AtomicBool,
}

impl State {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl FarEnd {
    /// Bytes received over TCP so far.
    pub(crate) fn tcp_bytes(&self) -> u64 {
        self.state.tcp_bytes.load(Ordering::Relaxed)
    }

    /// Datagrams received so far.
    pub(crate) fn udp_datagrams(&self) -> u64 {
        self.state.udp_datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        let _ = self.tcp_echo.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The sockets before the first packet.
#[derive(Debug)]
pub(crate) struct Listeners {
    tcp_sink: TcpListener,
    tcp_echo: TcpListener,
    udp_sink: UdpSocket,
    udp_echo: UdpSocket,
}

impl Listeners {
    pub(crate) fn open(address: Ipv4Addr) -> Result<Self> {
        let listen = |port| {
            TcpListener::bind((address, port))
                .with_context(|| format!("cannot listen on {address} port {port}"))
        };
        let bind = |port| {
            let socket = UdpSocket::bind((address, port))
                .with_context(|| format!("cannot bind {address} port {port}"))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(IDLE_CHECK_MS))
                .context("cannot set a timeout")?;
            anyhow::Ok(socket)
        };
        let udp_sink = bind(UDP_SINK_PORT)?;
        setsockopt(&udp_sink, sockopt::RcvBufForce, &UDP_RECEIVE_BUFFER_BYTES)
            .context("cannot enlarge the receive buffer (needs root)")?;
        let tcp_sink = listen(TCP_SINK_PORT)?;
        // Applies to accepting, and to reading what was accepted.
        setsockopt(&tcp_sink, sockopt::ReceiveTimeout, &TimeVal::milliseconds(IDLE_CHECK_MS))
            .context("cannot set a timeout")?;
        Ok(Self { tcp_sink, tcp_echo: listen(TCP_ECHO_PORT)?, udp_sink, udp_echo: bind(UDP_ECHO_PORT)? })
    }

    /// Takes the stream for exchanges, which must be under way, and starts one thread per socket.
    pub(crate) fn serve(self, congestion_control: &str) -> Result<FarEnd> {
        let (tcp_echo, _) = self.tcp_echo.accept().context("cannot accept a stream")?;
        tcp_echo.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        setsockopt(&tcp_echo, sockopt::TcpCongestion, &congestion_control.into())
            .context("cannot set the congestion control")?;
        let handle = tcp_echo.try_clone().context("cannot duplicate a descriptor")?;
        let mut far = FarEnd { state: Arc::default(), tcp_echo: handle, threads: Vec::new() };
        let (tcp_sink, udp_sink, udp_echo) = (self.tcp_sink, self.udp_sink, self.udp_echo);
        far.start("tcp-sink", move |state| sink_streams(&tcp_sink, state))?;
        far.start("udp-sink", move |state| sink_datagrams(udp_sink.as_fd(), state))?;
        far.start("tcp-echo", move |_| on_latency_core(|| echo_stream(tcp_echo)))?;
        far.start("udp-echo", move |state| on_latency_core(|| echo_datagrams(&udp_echo, state)))?;
        Ok(far)
    }
}

impl FarEnd {
    fn start(&mut self, name: &str, work: impl FnOnce(&State) + Send + 'static) -> Result<()> {
        let state = Arc::clone(&self.state);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&state));
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }
}

/// Takes one stream after the other and reads it to its end.
fn sink_streams(listener: &TcpListener, state: &State) {
    let mut buffer = vec![0u8; 2 * TCP_WRITE_BYTES];
    while !state.is_stopping() {
        if let Ok((mut stream, _)) = listener.accept() {
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                state.tcp_bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
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

fn echo_datagrams(socket: &UdpSocket, state: &State) {
    let mut buffer = [0u8; SMALL_BYTES];
    while !state.is_stopping() {
        if let Ok((count, from)) = socket.recv_from(&mut buffer) {
            // An answer that cannot be sent shows at the other end as one that never came.
            let _ = socket.send_to(&buffer[..count], from);
        }
    }
}

/// Counts datagrams, many per system call, as a busy receiver would.
fn sink_datagrams(socket: BorrowedFd<'_>, state: &State) {
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
    while !state.is_stopping() {
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
            state.udp_datagrams.fetch_add(count, Ordering::Relaxed);
        }
    }
}
