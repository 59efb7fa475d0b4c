//! A small datagram every few milliseconds, to see for how long nothing gets through and whether
//! anything overtakes.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::{Host, SOON, wait_for};

const INTERVAL: Duration = Duration::from_millis(2);

/// A stream of datagrams under way.
#[derive(Debug)]
pub(crate) struct Beat {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    next: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What the receiver has seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    last: u64,
    last_at: Option<Instant>,
    /// The longest silence between two arrivals.
    gap: Duration,
    arrived: u64,
    overtaken: u64,
}

/// What became of a stream of datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    /// Datagrams that came after a later one.
    pub(crate) overtaken: u64,
}

impl Heard {
    /// All arrived, and in order. But an emulated machine, busy with everything, moves a sender to another CPU
    /// while its last packets wait on the first.
    pub(crate) fn is_whole(&self) -> bool {
        self.arrived == self.sent && (self.overtaken == 0 || is_emulated())
    }
}

/// Whether this is a machine of the tests `vm`.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os("IPOP_TEST_EMULATED").is_some_and(|value| value == "1")
}

impl Beat {
    /// Starts the stream and waits until it arrives.
    #[track_caller]
    pub(crate) fn start(from: &Host, to: &Host, address: IpAddr) -> Self {
        let receiver = to.ns.inside(|| UdpSocket::bind(SocketAddr::new(address, 0))).expect("a UDP socket");
        let place = receiver.local_addr().expect("its address");
        let any: IpAddr = if address.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        let sender = from.ns.inside(|| UdpSocket::bind(SocketAddr::new(any, 0))).expect("a UDP socket");
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, next) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicU64::new(1)));
        let threads = vec![
            std::thread::spawn({
                let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
                move || beat(&sender, place, &stop, &next)
            }),
            std::thread::spawn({
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
                move || hear(&receiver, &stop, &seen)
            }),
        ];
        let beat = Self { stop, seen, next, threads };
        beat.wait_for_next(SOON);
        beat
    }

    /// Waits until a datagram arrives that is sent after this call.
    #[track_caller]
    pub(crate) fn wait_for_next(&self, patience: Duration) {
        let next = self.next.load(Ordering::Relaxed);
        wait_for("a datagram sent from now on arrives", patience, || {
            (self.seen.lock().unwrap_or_else(PoisonError::into_inner).last >= next).then_some(())
        });
    }

    /// Forgets the longest silence so far.
    pub(crate) fn reset_gap(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).gap = Duration::ZERO;
    }

    pub(crate) fn gap(&self) -> Duration {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).gap
    }

    pub(crate) fn finish(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no thread of a stream panics");
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = self.next.load(Ordering::Relaxed) - 1;
        Heard { sent, arrived: seen.arrived, overtaken: seen.overtaken }
    }
}

/// From one CPU: what a thread has sent from another may still wait there, and is overtaken then by what it sends from
/// here, whatever is between them.
fn stay_on_this_cpu() {
    let mut here = CpuSet::new();
    let set = sched_getcpu()
        .and_then(|cpu| here.set(cpu))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &here));
    set.expect("a thread may choose its CPU");
}

/// What the host refuses now (no route, interface down) counts as sent and lost.
fn beat(socket: &UdpSocket, place: SocketAddr, stop: &AtomicBool, next: &AtomicU64) {
    stay_on_this_cpu();
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let _ = socket.send_to(&number.to_be_bytes(), place);
        std::thread::sleep(INTERVAL);
    }
}

fn hear(socket: &UdpSocket, stop: &AtomicBool, seen: &Mutex<Seen>) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut bytes = [0; 8];
    loop {
        let received = socket.recv(&mut bytes);
        if received.is_err() && stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(8) = received else { continue };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, now) = (u64::from_be_bytes(bytes), Instant::now());
        seen.arrived += 1;
        if number < seen.last {
            seen.overtaken += 1;
        }
        seen.last = seen.last.max(number);
        if let Some(last_at) = seen.last_at.replace(now) {
            seen.gap = seen.gap.max(now - last_at);
        }
    }
}
