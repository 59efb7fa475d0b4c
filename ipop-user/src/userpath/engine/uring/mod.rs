//! The engine of io_uring: standing requests deliver packets into buffers that the kernel picks,
//! sends and writes go down in the same call that waits for the next packets.
//!
//! What keeps flows in order: the sends of a batch are one linked chain, of which the kernel starts
//! none before the one before has gone out, and after a failure starts no more; the next chain is
//! submitted when this one has ended. Writes to the TUN device are submitted in order and not
//! linked: none of them ever waits, so the kernel carries each out within the call, while links
//! would move all but the first into task work. A buffer goes back to the kernel when the last
//! request that refers to it has completed.

mod buf_ring;
mod request;
mod setup;

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::types::{CancelBuilder, Fixed, RecvMsgOut};
use io_uring::{IoUring, cqueue, opcode, squeue};
use ipop_common::Counter;
use libc::{iovec, msghdr};

use self::buf_ring::BufRing;
use self::request::{Completion, Request};
use self::setup::Features;
use super::epoll::write_singly;
use super::messages::{CONTROL_LEN, Messages, NAME_LEN, frame_iovecs, gro_segment_len, socket_address};
use super::{Engine, Queue, SOCKETS_MAX, Sizes};
use crate::userpath::RunError;
use crate::userpath::batch::SENDS_MAX;
use crate::userpath::inbound::Bundle;
use crate::userpath::pool::{Memory, Piece};
use crate::userpath::worker::{Flow, Worker};

/// Places in the table of registered files: the TUN device, what wakes us, the sockets.
const TUN: Fixed = Fixed(0);
const WAKE: Fixed = Fixed(1);
const FIRST_SOCKET: u32 = 2;

/// Buffer groups.
const TUN_GROUP: u16 = 0;
const UDP_GROUP: u16 = 1;

/// What multishot recvmsg puts before the payload: lengths, name, control messages.
const RECEIVE_HEAD_LEN: usize = 16 + NAME_LEN + CONTROL_LEN;

/// Receives or reads in a row that may fail before the descriptor counts as broken.
const FAILURES_MAX: u32 = 1000;

/// Which requests the kernel holds.
#[derive(Debug, Default)]
struct Standing {
    tun: bool,
    sockets: [bool; SOCKETS_MAX],
    /// Waiting for a socket to take sends again.
    writable: bool,
    wake: bool,
    writes: usize,
}

/// The sends that the kernel holds.
#[derive(Debug, Default)]
struct Chain {
    in_flight: usize,
    results: Vec<i32>,
    /// The socket that is full.
    blocked: Option<u8>,
}

pub(super) struct Uring {
    /// First, so that it is gone when what it refers to goes.
    ring: IoUring,
    tun_ring: BufRing,
    udp_ring: BufRing,
    features: Features,
    receive_header: Box<msghdr>,
    messages: Messages,
    /// By frame: the buffers of its write.
    iovecs: Vec<Vec<iovec>>,
    standing: Standing,
    chain: Chain,
    completions: Vec<Completion>,
    failures: u32,
    worker: Worker,
    queue: Arc<Queue>,
    syscalls: u64,
}

impl Uring {
    /// Sets everything up and sees that the kernel takes the standing requests.
    ///
    /// # Errors
    /// One clause: why io_uring cannot be used here.
    pub(super) fn new(queue: Arc<Queue>) -> Result<Self, String> {
        let (ring, features) = setup::create()?;
        Self::with_features(queue, ring, features)
    }

    fn with_features(queue: Arc<Queue>, ring: IoUring, features: Features) -> Result<Self, String> {
        let sizes = Sizes::DEFAULT;
        let worker = Worker::new(&queue, sizes, RECEIVE_HEAD_LEN).map_err(|error| error.to_string())?;
        let mut files: Vec<RawFd> = vec![queue.tun.as_raw_fd(), queue.wake.fd()];
        files.extend(queue.sockets.iter().map(|socket| socket.as_raw_fd()));
        let submitter = ring.submitter();
        submitter.register_files(&files).map_err(|error| format!("files: {error}"))?;
        let tun_ring = BufRing::register(&submitter, TUN_GROUP, sizes.tun_buffers);
        let udp_ring = BufRing::register(&submitter, UDP_GROUP, sizes.udp_buffers);
        let (tun_ring, udp_ring) =
            tun_ring.and_then(|tun| Ok((tun, udp_ring?))).map_err(|error| format!("buffers: {error}"))?;
        let mut engine = Self {
            ring,
            tun_ring,
            udp_ring,
            features,
            receive_header: Box::new(receive_header()),
            messages: Messages::new(),
            iovecs: (0..sizes.frames).map(|_| Vec::new()).collect(),
            standing: Standing::default(),
            chain: Chain::default(),
            completions: Vec::with_capacity(1024),
            failures: 0,
            worker,
            queue,
            syscalls: 0,
        };
        engine.try_standing_requests()?;
        Ok(engine)
    }

    /// A kernel that cannot serve one of the standing requests says so at once.
    fn try_standing_requests(&mut self) -> Result<(), String> {
        self.refill();
        self.arm();
        self.enter(0).map_err(|error| error.to_string())?;
        self.collect();
        let refused = |completion: &Completion| completion.result == -libc::EINVAL;
        if let Some(refused) = self.completions.iter().copied().find(refused) {
            self.shut_down();
            return Err(format!("this kernel refuses {:?}: Linux 6.0 or later is needed", refused.request));
        }
        self.work_off().map_err(|error| error.to_string())
    }

    /// Hands down everything there is to do, waits for at least one completion, works them off.
    fn turn(&mut self) -> Result<(), RunError> {
        self.push_sends();
        self.push_frames();
        self.refill();
        self.arm();
        self.enter(1).map_err(|source| RunError { step: "io_uring_enter", source })?;
        self.collect();
        self.work_off()
    }

    fn refill(&mut self) {
        self.tun_ring.refill(&mut self.worker.tun_pool);
        self.udp_ring.refill(&mut self.worker.udp_pool);
    }

    /// Submits the standing requests that the kernel does not hold. One that waits for buffers is
    /// left out: it would only fail again.
    fn arm(&mut self) {
        if !self.standing.wake {
            self.standing.wake = true;
            self.push(opcode::PollAdd::new(WAKE, libc::POLLIN as u32).build(), Request::Wake);
        }
        if !self.standing.tun && self.tun_ring.has_buffers() {
            self.standing.tun = true;
            let read = self.tun_read();
            self.push(read, Request::TunRead);
        }
        for socket in 0..self.queue.sockets.len().min(SOCKETS_MAX) {
            if !self.standing.sockets[socket] && self.udp_ring.has_buffers() {
                self.standing.sockets[socket] = true;
                let fd = Fixed(FIRST_SOCKET + socket as u32);
                let header: *const msghdr = &raw const *self.receive_header;
                let receive = opcode::RecvMsgMulti::new(fd, header, self.udp_ring.group()).build();
                self.push(receive, Request::Receive(socket as u8));
            }
        }
    }

    fn tun_read(&self) -> squeue::Entry {
        if self.features.read_multishot {
            // The builder forgets that the file is a registered one.
            return opcode::ReadMulti::new(TUN, 0, self.tun_ring.group())
                .build()
                .flags(squeue::Flags::FIXED_FILE);
        }
        let len = self.worker.tun_pool.buffer_len() as u32;
        opcode::Read::new(TUN, std::ptr::null_mut(), len)
            .buf_group(self.tun_ring.group())
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
    }

    /// Submits the pending sends as one chain, once the one before has ended.
    fn push_sends(&mut self) {
        if self.chain.in_flight > 0 || self.standing.writable {
            return;
        }
        if let Some(socket) = self.chain.blocked.take() {
            self.standing.writable = true;
            let fd = Fixed(FIRST_SOCKET + u32::from(socket));
            return self.push(opcode::PollAdd::new(fd, libc::POLLOUT as u32).build(), Request::Writable);
        }
        if !self.worker.fill_batch() {
            return;
        }
        self.messages.describe(&self.worker.batch, &self.worker.tun_pool);
        // No longer than one submission: a chain ends with the call that submits it.
        let count = self.worker.batch.pending().len().min(SENDS_MAX);
        self.chain.in_flight = count;
        self.chain.results.clear();
        self.chain.results.resize(count, 0);
        for index in 0..count {
            let socket = self.messages.sockets().get(index).copied().unwrap_or(0);
            let Some(message) = self.messages.headers().get_mut(index) else { break };
            let header: *const msghdr = &raw const message.msg_hdr;
            let fd = Fixed(FIRST_SOCKET + u32::from(socket));
            let send = opcode::SendMsg::new(fd, header).flags(libc::MSG_DONTWAIT as u32).build();
            let last = index + 1 == count;
            let send = if last { send } else { send.flags(squeue::Flags::IO_LINK) };
            self.push(send, Request::Send(index as u16));
        }
    }

    fn push_frames(&mut self) {
        self.worker.fill_frames();
        while let Some(index) = self.worker.frames.next_ready() {
            let iovecs = self.iovecs.get_mut(usize::from(index));
            let (Some(frame), Some(iovecs)) = (self.worker.frames.frame(index), iovecs) else { continue };
            frame_iovecs(frame, &self.worker.udp_pool, iovecs);
            let write = opcode::Writev::new(TUN, iovecs.as_ptr(), iovecs.len() as u32).build();
            self.standing.writes += 1;
            self.push(write, Request::Write(index));
        }
    }

    fn push(&mut self, entry: squeue::Entry, request: Request) {
        let entry = entry.user_data(request.user_data());
        // SAFETY: what the entry points to (message headers, iovecs, buffers, the receive header)
        // belongs to this engine and stays as it is until the completion has been worked off.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The queue has room for a whole turn, so this is not reached; and if it were, making
            // room costs one call.
            let _ = self.enter(0);
        }
    }

    fn enter(&mut self, completions: usize) -> io::Result<()> {
        self.syscalls += 1;
        match self.ring.submit_and_wait(completions) {
            Ok(_) => Ok(()),
            // A signal, or completions that have to be taken off first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the completions off the ring, in the order in which they happened.
    fn collect(&mut self) {
        let completions = self.ring.completion().filter_map(|entry| {
            let request = Request::from_user_data(entry.user_data())?;
            Some(Completion { request, result: entry.result(), flags: entry.flags() })
        });
        self.completions.extend(completions);
    }

    fn work_off(&mut self) -> Result<(), RunError> {
        let mut completions = mem::take(&mut self.completions);
        let mut result = Ok(());
        for completion in completions.drain(..) {
            result = result.and(self.complete(completion));
        }
        self.completions = completions;
        result
    }

    fn complete(&mut self, completion: Completion) -> Result<(), RunError> {
        let Completion { request, result, flags } = completion;
        match request {
            Request::TunRead => {
                self.standing.tun = cqueue::more(flags);
                self.tun_read_done(result, flags)
            }
            Request::Receive(socket) => {
                if let Some(standing) = self.standing.sockets.get_mut(usize::from(socket)) {
                    *standing = cqueue::more(flags);
                }
                self.receive_done(socket, result, flags)
            }
            Request::Send(index) => {
                self.send_done(index, result);
                Ok(())
            }
            Request::Write(index) => {
                self.write_done(index, result);
                Ok(())
            }
            Request::Writable => {
                self.standing.writable = false;
                Ok(())
            }
            Request::Wake => {
                self.standing.wake = false;
                self.syscalls += 1;
                self.queue.wake.clear();
                Ok(())
            }
        }
    }

    fn tun_read_done(&mut self, result: i32, flags: u32) -> Result<(), RunError> {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.tun_ring.used();
        }
        match (buffer, u32::try_from(result)) {
            (Some(buffer), Ok(len)) if len > 0 => {
                self.failures = 0;
                self.worker.read(buffer, len);
                Ok(())
            }
            (buffer, _) => {
                if let Some(buffer) = buffer {
                    self.worker.tun_pool.give_back(buffer);
                }
                self.tolerate("read TUN", result)
            }
        }
    }

    fn receive_done(&mut self, socket: u8, result: i32, flags: u32) -> Result<(), RunError> {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.udp_ring.used();
        }
        let Some(buffer) = buffer else { return self.tolerate("receive", result) };
        self.worker.udp_pool.hold(buffer);
        let bundle = u32::try_from(result).ok().and_then(|len| self.bundle(buffer, len, socket));
        if let Some(bundle) = bundle {
            self.failures = 0;
            self.worker.received(bundle);
        }
        self.worker.udp_pool.release(buffer);
        if result < 0 { self.tolerate("receive", result) } else { Ok(()) }
    }

    /// What lies in a buffer that a receive has filled.
    fn bundle(&self, buffer: u16, len: u32, socket: u8) -> Option<Bundle> {
        let bytes = self.worker.udp_pool.bytes(Piece { buffer, start: 0, len });
        let Ok(out) = RecvMsgOut::parse(bytes, &self.receive_header) else {
            self.worker.count(Counter::RxTruncated);
            return None;
        };
        if out.is_payload_truncated() {
            self.worker.count(Counter::RxTruncated);
            return None;
        }
        let Some(from) = socket_address(out.name_data()) else {
            self.worker.count(Counter::RxUnknownMessage);
            return None;
        };
        let len = out.payload_data().len() as u32;
        let segment_len = gro_segment_len(out.control_data()).unwrap_or(len).max(1);
        let piece = Piece { buffer, start: RECEIVE_HEAD_LEN as u32, len };
        Some(Bundle { piece, segment_len, from: from.into(), socket })
    }

    fn send_done(&mut self, index: u16, result: i32) {
        if let Some(slot) = self.chain.results.get_mut(usize::from(index)) {
            *slot = result;
        }
        self.chain.in_flight = self.chain.in_flight.saturating_sub(1);
        if self.chain.in_flight == 0 {
            self.end_chain();
        }
    }

    /// Reports what became of a chain. Behind the first failure nothing was sent: it stays pending.
    fn end_chain(&mut self) {
        for index in 0..self.chain.results.len() {
            let result = self.chain.results.get(index).copied().unwrap_or(0);
            if result >= 0 {
                self.worker.sent(Ok(()));
                continue;
            }
            let socket = self.messages.sockets().get(index).copied();
            if result != -libc::ECANCELED && self.worker.sent(Err(-result)) == Flow::Blocked {
                self.chain.blocked = socket;
            }
            return;
        }
    }

    fn write_done(&mut self, index: u16, result: i32) {
        self.standing.writes = self.standing.writes.saturating_sub(1);
        let result = if result < 0 { Err(-result) } else { Ok(()) };
        let (tun, syscalls) = (self.queue.tun.as_raw_fd(), &mut self.syscalls);
        self.worker.written(index, result, |worker| write_singly(tun, worker, index, syscalls));
    }

    /// Standing requests end now and then, for want of buffers above all, and are submitted again.
    /// One that does nothing but fail has no descriptor behind it any more.
    fn tolerate(&mut self, step: &'static str, result: i32) -> Result<(), RunError> {
        if matches!(-result, 0 | libc::ENOBUFS | libc::EAGAIN | libc::EINTR | libc::ECANCELED) {
            return Ok(());
        }
        self.failures += 1;
        let gone = matches!(-result, libc::EBADFD | libc::EBADF | libc::ENODEV);
        if gone || self.failures > FAILURES_MAX {
            return Err(RunError { step, source: io::Error::from_raw_os_error(-result) });
        }
        Ok(())
    }

    /// Cancels all requests and waits until the kernel holds none: the memory goes after this.
    fn shut_down(&mut self) {
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        while self.holds_requests() {
            if self.enter(1).is_err() {
                break;
            }
            self.collect();
            let _ = self.work_off();
        }
        self.worker.abandon_batch();
    }

    fn holds_requests(&self) -> bool {
        let Standing { tun, sockets, writable, wake, writes } = &self.standing;
        *tun || sockets.contains(&true) || *writable || *wake || *writes > 0 || self.chain.in_flight > 0
    }
}

impl Engine for Uring {
    fn run(&mut self) -> Result<(), RunError> {
        let mut result = Ok(());
        while result.is_ok() && !self.queue.wake.is_stopped() {
            result = self.turn();
            self.queue.add_syscalls(mem::take(&mut self.syscalls));
        }
        self.shut_down();
        result
    }
}

/// What multishot recvmsg is to leave room for.
fn receive_header() -> msghdr {
    // SAFETY: plain data, for which all zeroes is a value.
    let mut header: msghdr = unsafe { mem::zeroed() };
    header.msg_namelen = NAME_LEN as u32;
    header.msg_controllen = CONTROL_LEN as _;
    header
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::sched::{CloneFlags, unshare};

    use super::super::Wake;
    use super::*;
    use crate::places::Places;
    use crate::userpath::packets::Ears;
    use crate::userpath::{Counters, Table, Tun, bind};

    /// A queue in a network namespace of this thread's own; `None` without the right to make one,
    /// which fails where tests have to have it.
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn queue() -> Option<Arc<Queue>> {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
            assert!(!is("CI", "true") && !is("IPOP_REQUIRE_ROOT", "1"), "this test needs root");
            eprintln!("skipped: needs root");
            return None;
        }
        let run = |arguments: &str| {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        let tun = Tun::open("ipop0").unwrap();
        run("link set lo up");
        run("addr add 10.128.0.1/24 dev ipop0");
        run("link set ipop0 up");
        Some(Arc::new(Queue {
            tun: Arc::new(tun),
            sockets: vec![Arc::new(bind("127.0.0.1:0".parse().unwrap()).unwrap())],
            table: Arc::new(arc_swap::ArcSwap::from_pointee(Table::new())),
            places: Arc::new(Places::own().expect("memory")),
            counters: Arc::new(Counters::new()),
            listeners: Ears::new(1).listeners,
            wake: Arc::new(Wake::new().unwrap()),
            inbox: Arc::default(),
            syscalls: Arc::new(AtomicU64::new(0)),
        }))
    }

    /// Kernels before 6.7 have no multishot read.
    #[test]
    fn without_multishot_reads_every_packet_is_read_too() {
        const PACKETS: u64 = 500;
        thread::spawn(|| {
            let Some(queue) = queue() else { return };
            let engine_queue = queue.clone();
            let engine = thread::spawn(move || {
                let (ring, _) = setup::create().unwrap();
                let features = Features { read_multishot: false };
                Uring::with_features(engine_queue, ring, features).unwrap().run()
            });
            let socket = UdpSocket::bind("10.128.0.1:0").unwrap();
            let refused = || queue.counters.value(Counter::TxNoRoute);
            let end = Instant::now() + Duration::from_secs(20);
            let before = refused();
            for packet in 1..=PACKETS {
                socket.send_to(b"anybody", "10.128.0.2:9").unwrap();
                // One packet in ten is waited for: reads end both with and without more to come.
                while packet % 10 == 0 && refused() < before + packet {
                    assert!(Instant::now() < end, "{} of {packet}", refused() - before);
                    thread::yield_now();
                }
            }
            queue.wake.stop();
            engine.join().unwrap().unwrap();
        })
        .join()
        .unwrap();
    }
}
