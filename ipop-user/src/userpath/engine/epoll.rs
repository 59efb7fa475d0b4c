//! The engine of plain system calls: epoll, read, sendmmsg, recvmmsg, writev. It serves hosts
//! without io_uring, and is what io_uring is measured against.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use ipop_common::Counter;
use libc::{c_int, c_void, epoll_event, iovec, mmsghdr, msghdr};

use super::messages::{Messages, Received, frame_iovecs, gro_segment_len, packet_iovecs, socket_address};
use super::{Engine, Queue, Sizes, errno};
use crate::userpath::RunError;
use crate::userpath::inbound::Bundle;
use crate::userpath::pool::Piece;
use crate::userpath::worker::{Flow, Worker};

/// Receives in one call.
const RECEIVES_MAX: usize = 8;
/// Packets read from the TUN device before they are sent. Few, so that they stay in the cache.
const READS_MAX: usize = 32;
/// Bytes read before they are sent, for the same reason.
const READ_BYTES_MAX: u32 = 256 << 10;

/// What an event is about.
mod token {
    pub(super) const WAKE: u64 = u64::MAX;
    pub(super) const TUN: u64 = u64::MAX - 1;
}

pub(super) struct Epoll {
    queue: Arc<Queue>,
    worker: Worker,
    epoll: OwnedFd,
    messages: Messages,
    receives: Receives,
    iovecs: Vec<iovec>,
    /// The socket that is full: nothing is read from the TUN device until it is not.
    blocked: Option<usize>,
    syscalls: u64,
}

impl Epoll {
    pub(super) fn new(queue: Arc<Queue>) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, which nobody else has.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let engine = Self {
            worker: Worker::new(&queue, Sizes::DEFAULT, 0)?,
            epoll,
            messages: Messages::new(),
            receives: Receives::new(),
            iovecs: Vec::with_capacity(128),
            blocked: None,
            syscalls: 0,
            queue,
        };
        engine.watch(libc::EPOLL_CTL_ADD, engine.queue.wake.fd(), libc::EPOLLIN, token::WAKE)?;
        engine.watch(libc::EPOLL_CTL_ADD, engine.queue.tun.as_raw_fd(), libc::EPOLLIN, token::TUN)?;
        for (index, socket) in (0u64..).zip(&engine.queue.sockets) {
            engine.watch(libc::EPOLL_CTL_ADD, socket.as_raw_fd(), libc::EPOLLIN, index)?;
        }
        Ok(engine)
    }

    fn watch(&self, operation: c_int, fd: RawFd, events: c_int, token: u64) -> io::Result<()> {
        let mut event = epoll_event { events: events.cast_unsigned(), u64: token };
        // SAFETY: the kernel reads one event through the pointer.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits for events and serves each of them once, so that no direction starves the other.
    fn turn(&mut self) -> Result<(), RunError> {
        let mut events = [epoll_event { events: 0, u64: 0 }; 8];
        self.syscalls += 1;
        // SAFETY: the kernel writes at most as many events as the array has.
        let ready = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as c_int, -1)
        };
        if ready < 0 {
            let source = io::Error::last_os_error();
            return match source.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(RunError { step: "epoll_wait", source }),
            };
        }
        for event in events.iter().take(ready.unsigned_abs() as usize) {
            match event.u64 {
                token::WAKE => self.wake()?,
                token::TUN => self.serve_tun()?,
                socket => self.serve_socket(socket as usize, event.events)?,
            }
        }
        Ok(())
    }

    /// What waits for the table to change may go now, and what other nodes have carried here is delivered.
    fn wake(&mut self) -> Result<(), RunError> {
        self.syscalls += 1;
        self.queue.wake.clear();
        self.send()?;
        self.deliver();
        Ok(())
    }

    /// Writes all that has come.
    fn deliver(&mut self) {
        while !self.worker.fill_frames() {
            self.write_frames();
        }
        self.write_frames();
    }

    fn serve_tun(&mut self) -> Result<(), RunError> {
        self.read_tun()?;
        self.send()?;
        // Answers to packets that could not be carried.
        self.write_frames();
        Ok(())
    }

    fn serve_socket(&mut self, socket: usize, events: u32) -> Result<(), RunError> {
        if events & libc::EPOLLOUT.cast_unsigned() != 0 {
            self.send()?;
        }
        if events & !libc::EPOLLOUT.cast_unsigned() != 0 {
            self.receive(socket);
            self.deliver();
        }
        Ok(())
    }

    fn read_tun(&mut self) -> Result<(), RunError> {
        let mut bytes = 0;
        while self.worker.reads_waiting() < READS_MAX && bytes < READ_BYTES_MAX {
            let Some(buffer) = self.worker.tun_pool.take() else { break };
            let pool = &self.worker.tun_pool;
            let (to, len) = (pool.pointer(buffer).cast::<c_void>(), pool.buffer_len());
            self.syscalls += 1;
            // SAFETY: a free buffer of that length, which nobody else refers to.
            let read = unsafe { libc::read(self.queue.tun.as_raw_fd(), to, len) };
            let Ok(len) = u32::try_from(read) else {
                self.worker.tun_pool.give_back(buffer);
                return match errno() {
                    libc::EAGAIN | libc::EINTR => Ok(()),
                    code => Err(RunError { step: "read TUN", source: io::Error::from_raw_os_error(code) }),
                };
            };
            self.worker.read(buffer, len);
            bytes += len;
        }
        Ok(())
    }

    /// Sends what was read, in order. A full socket ends it: the rest waits, and so does the device.
    fn send(&mut self) -> Result<(), RunError> {
        while self.worker.fill_batch() {
            if let Some(socket) = self.send_run() {
                return self.block_on(socket);
            }
        }
        self.unblock()
    }

    /// Sends the first pending sends that share a socket. Returns the socket if it is full.
    fn send_run(&mut self) -> Option<usize> {
        self.messages.describe(&self.worker.batch, &self.worker.tun_pool);
        let sockets = self.messages.sockets();
        let socket = usize::from(*sockets.first()?);
        let run = sockets.iter().take_while(|&&other| usize::from(other) == socket).count();
        let headers = self.messages.headers();
        let Some(fd) = self.queue.sockets.get(socket).map(AsRawFd::as_raw_fd) else {
            self.worker.sent(Err(libc::EBADF));
            return None;
        };
        self.syscalls += 1;
        // SAFETY: `run` headers, whose pointers lead into messages, batch and pool; all stay.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), run as u32, libc::MSG_DONTWAIT) };
        if sent < 0 {
            return match errno() {
                libc::EINTR => None,
                code => (self.worker.sent(Err(code)) == Flow::Blocked).then_some(socket),
            };
        }
        for _ in 0..sent {
            self.worker.sent(Ok(()));
        }
        None
    }

    fn block_on(&mut self, socket: usize) -> Result<(), RunError> {
        if self.blocked.is_none() {
            self.blocked = Some(socket);
            self.watch_blocked(0, libc::EPOLLIN | libc::EPOLLOUT)?;
        }
        Ok(())
    }

    fn unblock(&mut self) -> Result<(), RunError> {
        if self.blocked.is_some() {
            self.watch_blocked(libc::EPOLLIN, libc::EPOLLIN)?;
            self.blocked = None;
        }
        Ok(())
    }

    fn watch_blocked(&mut self, tun_events: c_int, socket_events: c_int) -> Result<(), RunError> {
        let Some(socket) = self.blocked else { return Ok(()) };
        let Some(fd) = self.queue.sockets.get(socket).map(AsRawFd::as_raw_fd) else { return Ok(()) };
        self.syscalls += 2;
        self.watch(libc::EPOLL_CTL_MOD, self.queue.tun.as_raw_fd(), tun_events, token::TUN)
            .and_then(|()| self.watch(libc::EPOLL_CTL_MOD, fd, socket_events, socket as u64))
            .map_err(|source| RunError { step: "epoll_ctl", source })
    }

    fn receive(&mut self, socket: usize) {
        let Some(fd) = self.queue.sockets.get(socket).map(AsRawFd::as_raw_fd) else { return };
        let count = self.receives.prepare(&mut self.worker);
        self.syscalls += 1;
        let headers = self.receives.headers.as_mut_ptr();
        // SAFETY: `count` headers, whose pointers lead to free buffers and into `receives`.
        let received =
            unsafe { libc::recvmmsg(fd, headers, count as u32, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        let received = usize::try_from(received).unwrap_or(0);
        self.receives.deliver(received, count, socket as u8, &mut self.worker);
    }

    fn write_frames(&mut self) {
        while let Some(index) = self.worker.frames.next_ready() {
            let Some(frame) = self.worker.frames.frame(index) else { continue };
            frame_iovecs(frame, &self.worker.udp_pool, &mut self.iovecs);
            let tun = self.queue.tun.as_raw_fd();
            let result = write_vectored(tun, &self.iovecs, &mut self.syscalls);
            let syscalls = &mut self.syscalls;
            self.worker.written(index, result, |worker| write_singly(tun, worker, index, syscalls));
        }
    }
}

impl Engine for Epoll {
    fn run(&mut self) -> Result<(), RunError> {
        while !self.queue.wake.is_stopped() {
            let result = self.turn();
            self.queue.add_syscalls(mem::take(&mut self.syscalls));
            result?;
        }
        self.worker.abandon_batch();
        Ok(())
    }
}

/// One write to the TUN device.
pub(super) fn write_vectored(tun: RawFd, iovecs: &[iovec], syscalls: &mut u64) -> Result<(), i32> {
    *syscalls += 1;
    // SAFETY: the buffers lie in a frame and a pool that the caller keeps as they are.
    match unsafe { libc::writev(tun, iovecs.as_ptr(), iovecs.len() as c_int) } {
        -1 => Err(errno()),
        _ => Ok(()),
    }
}

/// Writes the packets of a super-packet one by one; returns how many the device took.
pub(super) fn write_singly(tun: RawFd, worker: &Worker, index: u16, syscalls: &mut u64) -> usize {
    let Some(frame) = worker.frames.frame(index) else { return 0 };
    let packets = frame.originals().map(|packet| packet_iovecs(packet, &worker.udp_pool));
    packets.filter(|iovecs| write_vectored(tun, iovecs, syscalls).is_ok()).count()
}

/// The arrays of a recvmmsg call, kept from call to call.
struct Receives {
    headers: [mmsghdr; RECEIVES_MAX],
    iovecs: [iovec; RECEIVES_MAX],
    received: [Received; RECEIVES_MAX],
    buffers: [u16; RECEIVES_MAX],
}

impl Receives {
    fn new() -> Self {
        Self {
            // SAFETY: plain data, for which all zeroes is a value.
            headers: unsafe { mem::zeroed() },
            // SAFETY: as above.
            iovecs: unsafe { mem::zeroed() },
            received: [Received::EMPTY; RECEIVES_MAX],
            buffers: [0; RECEIVES_MAX],
        }
    }

    /// Takes a free buffer for each receive; returns how many there are.
    fn prepare(&mut self, worker: &mut Worker) -> usize {
        let pool = &mut worker.udp_pool;
        let mut count = 0;
        for (index, slot) in self.buffers.iter_mut().enumerate() {
            let Some(buffer) = pool.take() else { break };
            *slot = buffer;
            self.iovecs[index] = iovec { iov_base: pool.pointer(buffer).cast(), iov_len: pool.buffer_len() };
            count += 1;
        }
        for index in 0..count {
            self.headers[index] = mmsghdr { msg_hdr: self.header(index), msg_len: 0 };
        }
        count
    }

    fn header(&mut self, index: usize) -> msghdr {
        // SAFETY: plain data, for which all zeroes is a value.
        let mut header: msghdr = unsafe { mem::zeroed() };
        let received = &mut self.received[index];
        header.msg_name = received.name.as_mut_ptr().cast();
        header.msg_namelen = received.name.len() as u32;
        header.msg_iov = &raw mut self.iovecs[index];
        header.msg_iovlen = 1;
        header.msg_control = received.control.as_mut_ptr().cast();
        header.msg_controllen = received.control.len() as _;
        header
    }

    /// Hands over what came, and gives the other buffers back.
    fn deliver(&mut self, received: usize, count: usize, socket: u8, worker: &mut Worker) {
        for index in 0..count {
            let bundle = if index < received { self.bundle(index, socket, worker) } else { None };
            match bundle {
                Some(bundle) => worker.received(bundle),
                None => worker.udp_pool.give_back(self.buffers[index]),
            }
        }
    }

    fn bundle(&self, index: usize, socket: u8, worker: &Worker) -> Option<Bundle> {
        let (header, received) = (&self.headers[index], &self.received[index]);
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            worker.count(Counter::RxTruncated);
            return None;
        }
        let name = received.name.get(..header.msg_hdr.msg_namelen as usize);
        let Some(from) = name.and_then(socket_address) else {
            worker.count(Counter::RxUnknownMessage);
            return None;
        };
        let control = received.control.get(..header.msg_hdr.msg_controllen);
        let segment_len = control.and_then(gro_segment_len).unwrap_or(header.msg_len).max(1);
        let piece = Piece { buffer: self.buffers[index], start: 0, len: header.msg_len };
        Some(Bundle { piece, segment_len, from: from.into(), socket })
    }
}
