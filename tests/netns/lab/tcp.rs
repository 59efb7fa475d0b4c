//! TCP transfers whose every byte is compared on arrival: the content is random and long, so that
//! a byte that is lost, doubled or moved shows.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpCongestion;

use super::{Host, SOON, wait_for};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// The content repeats after this; no power of two, so that no buffer's size divides it.
const POOL_LEN: usize = 16 * MIB as usize + 4093;
const CHUNK: usize = 128 * 1024;
/// Linux's default.
const CONGESTION_CONTROL: &str = "cubic";
/// A transfer that stands still for so long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(40);

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut pool = vec![0; POOL_LEN];
    let mut source = std::fs::File::open("/dev/urandom").expect("/dev/urandom");
    source.read_exact(&mut pool).expect("random bytes");
    pool
});

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Tcp {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64, String>>,
    receiver: JoinHandle<Result<u64, String>>,
    started: Instant,
}

/// A transfer that has ended, each of its bytes in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transferred {
    pub(crate) bytes: u64,
    pub(crate) gbps: f64,
}

impl Tcp {
    /// Starts to send `bytes`, or until told to stop, from one host to an address of another.
    #[track_caller]
    pub(crate) fn start(from: &Host, to: &Host, address: IpAddr, bytes: Option<u64>) -> Self {
        LazyLock::force(&POOL);
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (port_tx, port_rx) = mpsc::channel();
        let (enter_to, enter_from) = (to.ns.enter_thread(), from.ns.enter_thread());
        let receiver = std::thread::spawn({
            let received = Arc::clone(&received);
            move || {
                enter_to();
                receive(SocketAddr::new(address, 0), &port_tx, &received)
                    .map_err(|e| format!("receiver: {e}"))
            }
        });
        let place: SocketAddr = port_rx.recv_timeout(SOON).expect("the receiver listens");
        let sender = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                enter_from();
                send(place, bytes.unwrap_or(u64::MAX), &stop).map_err(|e| format!("sender: {e}"))
            }
        });
        Self { received, stop, sender, receiver, started: Instant::now() }
    }

    /// Sends `bytes` and waits until they have arrived.
    #[track_caller]
    pub(crate) fn transfer(from: &Host, to: &Host, address: IpAddr, bytes: u64) -> Transferred {
        let done = Self::start(from, to, address, Some(bytes)).join();
        assert_eq!(done.bytes, bytes);
        done
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more have arrived.
    #[track_caller]
    pub(crate) fn wait_for_progress(&self, bytes: u64, patience: Duration) {
        let before = self.received();
        wait_for(&format!("{bytes} more bytes of the TCP connection arrive"), patience, || {
            let ended = self.sender.is_finished() || self.receiver.is_finished();
            assert!(!ended, "the TCP connection has ended");
            (self.received() >= before + bytes).then_some(())
        });
    }

    /// Ends the transfer; all that was sent must have arrived, byte for byte.
    #[track_caller]
    pub(crate) fn finish(self) -> Transferred {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Ends the transfer, whatever became of it.
    pub(crate) fn abandon(self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    #[track_caller]
    fn join(self) -> Transferred {
        let received = self.receiver.join().expect("the receiver does not panic");
        let sent = self.sender.join().expect("the sender does not panic");
        let seconds = self.started.elapsed().as_secs_f64();
        match (sent, received) {
            (Ok(sent), Ok(received)) => {
                assert_eq!(sent, received, "bytes sent and received");
                Transferred { bytes: received, gbps: received as f64 * 8.0 / seconds / 1e9 }
            }
            (sent, received) => panic!("a TCP transfer failed: {sent:?}, {received:?}"),
        }
    }
}

fn send(place: SocketAddr, bytes: u64, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&place, SOON)?;
    // Whatever this machine uses: BBR takes a minute to find its rate again after an outage of seconds.
    setsockopt(&stream, TcpCongestion, &CONGESTION_CONTROL.into())?;
    stream.set_write_timeout(Some(STALL_TIMEOUT))?;
    let mut sent = 0;
    while sent < bytes && !stop.load(Ordering::Relaxed) {
        let chunk = content(sent, CHUNK.min(usize::try_from(bytes - sent).unwrap_or(CHUNK)));
        stream.write_all(chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The connection ends when the receiver has read all and closes.
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    stream.read_exact(&mut [0])?;
    Ok(sent)
}

fn receive(place: SocketAddr, port: &mpsc::Sender<SocketAddr>, received: &AtomicU64) -> std::io::Result<u64> {
    let listener = TcpListener::bind(place)?;
    port.send(listener.local_addr()?).map_err(std::io::Error::other)?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    let mut buffer = vec![0; 2 * CHUNK];
    let mut offset = 0;
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            // A stop of this process ends a read that has a timeout.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        compare(offset, &buffer[..len])?;
        offset += len as u64;
        received.store(offset, Ordering::Relaxed);
    }
    stream.write_all(&[1])?;
    Ok(offset)
}

/// At most `len` bytes of the content at `offset`.
fn content(offset: u64, len: usize) -> &'static [u8] {
    let at = usize::try_from(offset % POOL_LEN as u64).expect("less than the pool");
    &POOL[at..(at + len).min(POOL_LEN)]
}

fn compare(mut offset: u64, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let expected = content(offset, bytes.len());
        let (now, rest) = bytes.split_at(expected.len());
        if now != expected {
            return Err(std::io::Error::other(format!("wrong bytes after offset {offset}")));
        }
        offset += now.len() as u64;
        bytes = rest;
    }
    Ok(())
}

/// A line of `/proc/net/netstat` or `/proc/net/snmp` of a host, such as `TcpExt` `TCPOFOQueue`.
#[track_caller]
pub(crate) fn kernel_counter(host: &Host, group: &str, name: &str) -> u64 {
    let text = host.ns.inside(|| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        read("netstat").expect("netstat") + &read("snmp").expect("snmp")
    });
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("{group}:"))).collect();
    let columns: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let at = columns[0].iter().position(|column| *column == name).unwrap_or_else(|| panic!("no {name}"));
    columns[1][at].parse().expect("a number")
}
