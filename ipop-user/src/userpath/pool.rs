//! A fixed set of equal packet buffers in one mapping, with reference counts, so that packets are
//! passed on as pieces of buffers and never copied. Pages that no packet has needed take no memory.

use std::io;
use std::ptr::NonNull;

/// A run of bytes in one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub buffer: u16,
    pub start: u32,
    pub len: u32,
}

impl Piece {
    /// What follows the first `header_len` bytes, of which there are at least so many.
    pub(super) fn behind(self, header_len: u32) -> Self {
        Self { start: self.start + header_len, len: self.len - header_len, ..self }
    }
}

/// Where the bytes of pieces are.
pub trait Memory {
    /// The bytes of a piece; none where it lies outside.
    fn bytes(&self, piece: Piece) -> &[u8];
}

/// The buffers. One without references belongs to whoever fills it (the kernel, while it receives);
/// one with references holds a packet that everybody only reads.
#[derive(Debug)]
pub(super) struct Pool {
    base: NonNull<u8>,
    buffer_len: usize,
    references: Vec<u32>,
    /// Without references, not yet taken again; the last one released is the warmest.
    free: Vec<u16>,
    /// So many of the free ones are kept back.
    reserve: usize,
}

// SAFETY: the mapping belongs to the pool alone and is not tied to a thread.
unsafe impl Send for Pool {}

impl Pool {
    /// Maps `count` buffers of `buffer_len` bytes, rounded up to whole pages, all free.
    pub(super) fn new(count: u16, buffer_len: usize) -> io::Result<Self> {
        let buffer_len = buffer_len.next_multiple_of(4096);
        let base = map(buffer_len * usize::from(count))?;
        Ok(Self {
            base,
            buffer_len,
            references: vec![0; usize::from(count)],
            free: (0..count).rev().collect(),
            reserve: 0,
        })
    }

    pub(super) fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// Fills a buffer that was taken, as the kernel does.
    #[cfg(test)]
    pub(super) fn fill(&mut self, buffer: u16, bytes: &[u8]) {
        self.references[usize::from(buffer)] = 1;
        let piece = Piece { buffer, start: 0, len: bytes.len() as u32 };
        self.bytes_mut(piece).copy_from_slice(bytes);
        self.references[usize::from(buffer)] = 0;
    }

    #[cfg(test)]
    pub(super) fn free_buffers(&self) -> usize {
        self.free.len()
    }

    /// Keeps so many buffers from [`Pool::take`].
    pub(super) fn with_reserve(mut self, reserve: u16) -> Self {
        self.reserve = reserve.into();
        self
    }

    /// Takes a free buffer to be filled.
    pub(super) fn take(&mut self) -> Option<u16> {
        if self.free.len() > self.reserve { self.free.pop() } else { None }
    }

    /// Takes a free buffer, be it one that is kept back, and has it filled: `fill` says with what, or with
    /// nothing. It has one reference.
    pub(super) fn take_filled<T>(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<T>) -> Option<(u16, T)> {
        let buffer = self.free.pop()?;
        self.hold(buffer);
        let whole = Piece { buffer, start: 0, len: u32::try_from(self.buffer_len).unwrap_or(u32::MAX) };
        let filled = fill(self.bytes_mut(whole));
        if filled.is_none() {
            self.release(buffer);
        }
        Some((buffer, filled?))
    }

    /// Gives back a buffer that was taken and not filled.
    pub(super) fn give_back(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// The start of a buffer, for the kernel.
    pub(super) fn pointer(&self, buffer: u16) -> *mut u8 {
        let offset = usize::from(buffer).min(self.references.len()) * self.buffer_len;
        // SAFETY: the offset is at most the length of the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Adds a reference: the buffer is filled and stays as it is until all are released.
    pub(super) fn hold(&mut self, buffer: u16) {
        if let Some(count) = self.references.get_mut(usize::from(buffer)) {
            *count += 1;
        }
    }

    /// Takes a reference away; without any left the buffer is free.
    pub(super) fn release(&mut self, buffer: u16) {
        if let Some(count) = self.references.get_mut(usize::from(buffer)) {
            debug_assert!(*count > 0, "a reference is released once");
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.free.push(buffer);
            }
        }
    }

    /// The bytes of a piece, to be changed: only while the caller's is the one reference.
    pub(super) fn bytes_mut(&mut self, piece: Piece) -> &mut [u8] {
        let sole = self.references.get(usize::from(piece.buffer)) == Some(&1);
        if !sole || !self.contains(piece) {
            return &mut [];
        }
        // SAFETY: within the mapping, which is initialised (zeroed by the kernel). A buffer with a
        // reference is not being filled, with one only it is not being sent, and `self` is
        // borrowed mutably, so nobody else looks at it.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.pointer(piece.buffer).add(piece.start as usize),
                piece.len as usize,
            )
        }
    }

    /// The bytes of a piece, to be changed, in a buffer that others may hold too.
    ///
    /// The caller has not passed this piece, nor one that overlaps it, to anybody: it is a datagram
    /// that nobody has looked at yet, among others in one buffer.
    pub(super) fn own_bytes_mut(&mut self, piece: Piece) -> &mut [u8] {
        let held = self.references.get(usize::from(piece.buffer)).is_some_and(|&count| count > 0);
        if !held || !self.contains(piece) {
            return &mut [];
        }
        // SAFETY: within the mapping, which is initialised. No slice of the pool is alive, since
        // `self` is borrowed mutably; and what the kernel may be reading of this buffer is other
        // pieces, as the caller vouches.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.pointer(piece.buffer).add(piece.start as usize),
                piece.len as usize,
            )
        }
    }

    fn contains(&self, piece: Piece) -> bool {
        piece.start as usize + piece.len as usize <= self.buffer_len
    }
}

impl Memory for Pool {
    fn bytes(&self, piece: Piece) -> &[u8] {
        let held = self.references.get(usize::from(piece.buffer)).is_some_and(|&count| count > 0);
        if !held || !self.contains(piece) {
            return &[];
        }
        // SAFETY: within the mapping, which is initialised (zeroed by the kernel). A buffer with a
        // reference is not being filled; whoever sends it only reads.
        unsafe {
            std::slice::from_raw_parts(
                self.pointer(piece.buffer).add(piece.start as usize),
                piece.len as usize,
            )
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let len = self.references.len() * self.buffer_len;
        // SAFETY: the mapping of `new`, which nobody refers to any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), len) };
    }
}

fn map(len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_held_buffer_can_be_read_and_only_a_sole_holder_writes() {
        let mut pool = Pool::new(2, 100).unwrap();
        let buffer = pool.take().unwrap();
        let piece = Piece { buffer, start: 10, len: 4 };
        assert!(pool.bytes(piece).is_empty());
        pool.hold(buffer);
        pool.bytes_mut(piece).copy_from_slice(b"abcd");
        pool.hold(buffer);
        assert!(pool.bytes_mut(piece).is_empty());
        assert_eq!(pool.bytes(piece), b"abcd");
        pool.release(buffer);
        assert_eq!(pool.free_buffers(), 1);
        pool.release(buffer);
        assert_eq!(pool.free_buffers(), 2);
    }

    #[test]
    fn a_piece_outside_has_no_bytes() {
        let mut pool = Pool::new(1, 4096).unwrap();
        let buffer = pool.take().unwrap();
        pool.hold(buffer);
        for (buffer, start, len) in [(0, 4096, 1), (0, 0, 4097), (1, 0, 1), (u16::MAX, u32::MAX, u32::MAX)] {
            assert!(pool.bytes(Piece { buffer, start, len }).is_empty());
        }
        assert_eq!(pool.take(), None);
    }
}
