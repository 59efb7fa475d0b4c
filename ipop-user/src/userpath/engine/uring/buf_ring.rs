//! A ring of buffers that the kernel takes from by itself when something arrives (IORING_REGISTER_
//! PBUF_RING, Linux 5.19). Which buffers, and whether they may be filled, is the pool's business.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{Submitter, types::BufRingEntry};

use crate::userpath::pool::Pool;

/// The ring of one buffer group.
pub(super) struct BufRing {
    entries: NonNull<BufRingEntry>,
    /// A power of two.
    count: u16,
    group: u16,
    tail: u16,
    /// Buffers that the kernel has and has not used.
    provided: u16,
}

impl BufRing {
    /// Registers a ring for as many buffers as the pool has. It has to be dropped after the
    /// io_uring, which refers to it.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, count: u16) -> io::Result<Self> {
        let len = usize::from(count) * size_of::<BufRingEntry>();
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let entries = match NonNull::new(address.cast::<BufRingEntry>()) {
            Some(entries) if address != libc::MAP_FAILED => entries,
            _ => return Err(io::Error::last_os_error()),
        };
        let ring = Self { entries, count, group, tail: 0, provided: 0 };
        // SAFETY: the mapping holds `count` entries and lives as long as the value, which the
        // caller drops after the io_uring.
        unsafe { submitter.register_buf_ring_with_flags(address as u64, count, group, 0) }?;
        Ok(ring)
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Whether the kernel has a buffer to fill.
    pub(super) fn has_buffers(&self) -> bool {
        self.provided > 0
    }

    /// The kernel has filled one of the buffers.
    pub(super) fn used(&mut self) {
        self.provided = self.provided.saturating_sub(1);
    }

    /// Gives the kernel the pool's free buffers. Giving it fewer at a time, so that they stay in the
    /// cache, made no difference that could be measured.
    pub(super) fn refill(&mut self, pool: &mut Pool) {
        let before = self.tail;
        while self.provided < self.count {
            let Some(buffer) = pool.take() else { break };
            let index = usize::from(self.tail & (self.count - 1));
            // SAFETY: the index is below the number of entries, and the entry is ours: the kernel
            // has used it, or never had it. Writing fields one by one leaves the tail, which lies
            // in the first entry, alone.
            let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
            entry.set_addr(pool.pointer(buffer) as u64);
            entry.set_len(pool.buffer_len() as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
        }
        if self.tail != before {
            self.publish();
        }
    }

    fn publish(&self) {
        // SAFETY: the first entry of a registered ring, whose tail is an aligned u16 that the kernel
        // reads and only this thread writes.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        let len = usize::from(self.count) * size_of::<BufRingEntry>();
        // SAFETY: the mapping of `register`; the io_uring that referred to it is gone.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), len) };
    }
}
