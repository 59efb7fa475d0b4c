//! The links map as memory shared with the programs: leases and epochs change with one store.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ipop_common::limits::LINK_SLOTS_MAX;
use ipop_common::maps::Link;

use super::KernelError;
use crate::mapping::Mapping;

/// The mapping. The kernel's programs read it concurrently; all writes go through `&mut self`.
#[derive(Debug)]
pub(super) struct LinkTable(Mapping<Link>);

impl LinkTable {
    /// Maps the links array behind `fd`.
    pub(super) fn map(fd: BorrowedFd<'_>) -> Result<Self, KernelError> {
        // SAFETY: the map's values are links, plain numbers.
        let mapping = unsafe { Mapping::new(fd, LINK_SLOTS_MAX) };
        mapping.map(Self).map_err(|errno| KernelError::Map {
            name: ipop_common::maps::name::LINKS,
            error: format!("cannot be mapped: {errno}"),
        })
    }

    fn slot(&self, slot: u32) -> NonNull<Link> {
        self.0.at(slot)
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
