//! Kernel maps as memory: what is written here is seen by the programs at once, and the other way
//! round. And memory of the same shape where there are no programs.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The values of an array map with BPF_F_MMAPABLE, or as many without a map.
#[derive(Debug)]
pub struct Mapping<T> {
    base: NonNull<T>,
    entries: u32,
}

// SAFETY: the mapping is process-wide and lives until the drop; what may be done with its values is
// decided by `T` and by the methods.
unsafe impl<T: Send> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// Maps all `entries` values of the array behind `fd`.
    ///
    /// # Errors
    /// The kernel's refusal: not such a map, or a smaller one.
    ///
    /// # Safety
    /// The map's values are `T`, for which every bit pattern is valid.
    pub unsafe fn new(fd: BorrowedFd<'_>, entries: u32) -> Result<Self, Errno> {
        let len = NonZeroUsize::new(Self::len(entries)).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping, which the kernel refuses to make longer than the map.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { base: base.cast(), entries })
    }

    /// Memory for `entries` values of this process alone, all zeroes, which it takes up as it is written.
    ///
    /// # Errors
    /// The kernel's refusal: no memory.
    ///
    /// # Safety
    /// All zeroes is a valid `T`.
    pub unsafe fn anonymous(entries: u32) -> Result<Self, Errno> {
        let len = NonZeroUsize::new(Self::len(entries)).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping.
        let base = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { base: base.cast(), entries })
    }

    /// Bytes of so many values, each at a multiple of 8 as in the kernel.
    fn len(entries: u32) -> usize {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel's values would lie further apart") };
        entries as usize * size_of::<T>()
    }

    /// Where a value lies.
    ///
    /// # Panics
    /// For an index past the end.
    pub fn at(&self, index: u32) -> NonNull<T> {
        assert!(index < self.entries, "{index} is outside the map of {}", self.entries);
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.add(index as usize) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made by a constructor, not used after this.
        let _ = unsafe { munmap(self.base.cast(), Self::len(self.entries)) };
    }
}
