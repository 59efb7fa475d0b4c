//! The links map as memory shared with the programs: leases and epochs change with one store.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ipop_common::limits::LINK_SLOTS_MAX;
use ipop_common::maps::Link;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::KernelError;

const LEN: usize = LINK_SLOTS_MAX as usize * size_of::<Link>();

/// The mapping. The kernel's programs read it concurrently.
pub(super) struct LinkTable {
    base: NonNull<Link>,
}

// SAFETY: the mapping is process-wide, and all writes go through `&mut self`.
unsafe impl Send for LinkTable {}

impl LinkTable {
    /// Maps the links array behind `fd`.
    pub(super) fn map(fd: BorrowedFd<'_>) -> Result<Self, KernelError> {
        let failed = |error: String| KernelError::Map { name: ipop_common::maps::name::LINKS, error };
        let len = NonZeroUsize::new(LEN).ok_or_else(|| failed("empty".to_owned()))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping of a map with BPF_F_MMAPABLE, as long as the map's values.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }
            .map_err(|errno| failed(format!("cannot be mapped: {errno}")))?;
        Ok(Self { base: base.cast() })
    }

    fn slot(&self, slot: u32) -> NonNull<Link> {
        assert!(slot < LINK_SLOTS_MAX, "slot {slot} is outside the links map");
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.add(slot as usize) }
    }

    fn epoch(&self, slot: u32) -> &AtomicU32 {
        // SAFETY: the field is aligned and lives as long as the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.slot(slot).as_ptr()).epoch) }
    }

    fn lease(&self, slot: u32) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.slot(slot).as_ptr()).lease_until_ns) }
    }

    /// Writes a slot that no table refers to: everything but the epoch first, so that a program
    /// which still holds an old reference misses.
    pub(super) fn write(&mut self, slot: u32, link: &Link) {
        self.epoch(slot).store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let silent = Link { epoch: 0, ..*link };
        // SAFETY: inside the mapping; programs that read meanwhile see epoch 0 before or after.
        unsafe { self.slot(slot).write_volatile(silent) };
        fence(Ordering::SeqCst);
        self.epoch(slot).store(link.epoch, Ordering::Release);
    }

    /// Makes every reference to a slot miss.
    pub(super) fn clear(&mut self, slot: u32) {
        self.epoch(slot).store(0, Ordering::Release);
    }

    pub(super) fn renew(&mut self, slot: u32, lease_until_ns: u64) {
        self.lease(slot).store(lease_until_ns, Ordering::Release);
    }

    pub(super) fn read(&self, slot: u32) -> Link {
        // SAFETY: inside the mapping; the daemon is the only writer.
        unsafe { self.slot(slot).read_volatile() }
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        for slot in 0..LINK_SLOTS_MAX {
            let link = other.read(slot);
            if link.epoch != 0 {
                self.write(slot, &link);
            }
        }
    }
}

impl Drop for LinkTable {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, not used after this.
        let _ = unsafe { munmap(self.base.cast(), LEN) };
    }
}
