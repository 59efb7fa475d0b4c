//! Kernel maps as memory: what is written here is seen by the programs at once, and the other way
//! round. And memory of the same shape where there are no programs.
//!
//! All pages of a kernel's map count as this process's from when they are mapped, used or not. So its
//! addresses are reserved at once, and a part of the map appears there when a value of it is asked for.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// About so many bytes are mapped at once.
const PART: usize = 64 * 1024;

/// The values of an array map with BPF_F_MMAPABLE, or as many without a map.
#[derive(Debug)]
pub struct Mapping<T> {
    base: NonNull<T>,
    entries: u32,
    /// Parts that appear as they are used; none where the kernel does that by itself.
    parts: Option<Parts>,
}

#[derive(Debug)]
struct Parts {
    map: OwnedFd,
    /// Values in each part; whole pages.
    entries: u32,
    is_mapped: Box<[AtomicBool]>,
    /// Held by whoever maps one.
    mapping: Mutex<()>,
}

// SAFETY: the mapping is process-wide and lives until the drop; what may be done with its values is
// decided by `T` and by the methods.
unsafe impl<T: Send> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// All `entries` values of the array behind `fd`.
    ///
    /// # Errors
    /// The kernel's refusal: not such a map, or a smaller one.
    ///
    /// # Safety
    /// The map's values are `T`, for which every bit pattern is valid.
    pub unsafe fn new(fd: BorrowedFd<'_>, entries: u32) -> Result<Self, Errno> {
        let page = page_size();
        // Parts begin and end where a value and a page do.
        let step = page / greatest_common_divisor(page, size_of::<T>());
        let of_part = step * (PART / (step * size_of::<T>())).max(1);
        let of_part = u32::try_from(of_part).map_err(|_| Errno::EINVAL)?.min(entries.max(1));
        let map = fd.try_clone_to_owned().map_err(|_| Errno::last())?;
        let is_mapped = (0..entries.div_ceil(of_part)).map(|_| AtomicBool::new(false)).collect();
        let parts = Parts { map, entries: of_part, is_mapped, mapping: Mutex::new(()) };
        // SAFETY: fresh addresses, of which nothing can be read.
        let base = unsafe {
            mmap_anonymous(None, Self::len(entries)?, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)
        }?;
        let mapping = Self { base: base.cast(), entries, parts: Some(parts) };
        // The kernel refuses now what is no such map: the last part shows it.
        if let Some(last) = entries.checked_sub(1) {
            let last = last / of_part;
            mapping.map_part(last)?;
            mapping.unmap_part(last)?;
        }
        Ok(mapping)
    }

    /// Memory for `entries` values of this process alone, all zeroes, which it takes up as it is written.
    ///
    /// # Errors
    /// The kernel's refusal: no memory.
    ///
    /// # Safety
    /// All zeroes is a valid `T`.
    pub unsafe fn anonymous(entries: u32) -> Result<Self, Errno> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping.
        let base = unsafe { mmap_anonymous(None, Self::len(entries)?, protection, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { base: base.cast(), entries, parts: None })
    }

    /// Bytes of so many values, each at a multiple of 8 as in the kernel.
    fn len(entries: u32) -> Result<NonZeroUsize, Errno> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel's values would lie further apart") };
        NonZeroUsize::new(entries as usize * size_of::<T>()).ok_or(Errno::EINVAL)
    }

    /// Where a value lies.
    ///
    /// # Panics
    /// For an index past the end, and where the kernel has no memory to show a part of a map.
    pub fn at(&self, index: u32) -> NonNull<T> {
        assert!(index < self.entries, "{index} is outside the map of {}", self.entries);
        if let Some(parts) = &self.parts {
            let part = index / parts.entries;
            if !parts.is_mapped[part as usize].load(Ordering::Acquire) {
                self.show(parts, part);
            }
        }
        self.place(index)
    }

    /// What `of` makes of the values for which it makes something. Parts of a map without any are left as
    /// they were.
    pub fn find<R>(&self, mut of: impl FnMut(&T) -> Option<R>) -> Vec<R> {
        let of_part = self.parts.as_ref().map_or(self.entries, |parts| parts.entries);
        let mut found = Vec::new();
        for part in 0..self.entries.div_ceil(of_part.max(1)) {
            let range = part * of_part..((part + 1) * of_part).min(self.entries);
            // SAFETY: mapped for as long as this is called; for the values, see the constructors.
            let look = || range.filter_map(|at| of(unsafe { self.place(at).as_ref() })).collect();
            let seen: Vec<R> = match &self.parts {
                Some(parts) => self.glance(parts, part, look),
                None => look(),
            };
            found.extend(seen);
        }
        found
    }

    /// Looks into a part, which stays if something is found there.
    fn glance<R>(&self, parts: &Parts, part: u32, look: impl FnOnce() -> Vec<R>) -> Vec<R> {
        let _guard = parts.mapping.lock();
        let is_mapped = &parts.is_mapped[part as usize];
        let was_mapped = is_mapped.load(Ordering::Acquire);
        if !was_mapped {
            self.map_part(part).unwrap_or_else(|error| panic!("no memory to show a map: {error}"));
        }
        let seen = look();
        // One that can't be taken away again stays.
        if !was_mapped && (!seen.is_empty() || self.unmap_part(part).is_err()) {
            is_mapped.store(true, Ordering::Release);
        }
        seen
    }

    #[cold]
    fn show(&self, parts: &Parts, part: u32) {
        let _guard = parts.mapping.lock();
        // Another thread may have mapped it, and uses it.
        if !parts.is_mapped[part as usize].load(Ordering::Acquire) {
            self.map_part(part).unwrap_or_else(|error| panic!("no memory to show a map: {error}"));
            parts.is_mapped[part as usize].store(true, Ordering::Release);
        }
    }

    /// Puts a part of the map at its place, where none is yet.
    fn map_part(&self, part: u32) -> Result<(), Errno> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let (at, offset, len) = self.part(parts, part)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: over reserved addresses of this mapping, which nobody uses before they are said to be
        // mapped; the kernel refuses to make it longer than the map.
        unsafe { mmap(Some(at), len, protection, flags, parts.map.as_fd(), offset) }.map(drop)
    }

    /// Leaves of a part nothing but its addresses.
    fn unmap_part(&self, part: u32) -> Result<(), Errno> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let (at, _, len) = self.part(parts, part)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        // SAFETY: as above.
        unsafe { mmap_anonymous(Some(at), len, ProtFlags::PROT_NONE, flags) }.map(drop)
    }

    /// Its address, where it begins in the map, and its length, both in bytes.
    fn part(
        &self,
        parts: &Parts,
        part: u32,
    ) -> Result<(NonZeroUsize, nix::libc::off_t, NonZeroUsize), Errno> {
        let first = part * parts.entries;
        let len = Self::len(parts.entries.min(self.entries - first))?;
        let offset = first as usize * size_of::<T>();
        let offset = nix::libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
        Ok((self.place(first).addr(), offset, len))
    }

    fn place(&self, index: u32) -> NonNull<T> {
        // SAFETY: inside the mapping, as whoever calls it has seen to.
        unsafe { self.base.add(index as usize) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made by a constructor, with all parts, not used after this.
        let _ = unsafe { munmap(self.base.cast(), self.entries as usize * size_of::<T>()) };
    }
}

fn page_size() -> usize {
    // Every Linux says it.
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// As odd in size as a session is.
    #[repr(C)]
    struct Value([AtomicU64; 17]);

    const ENTRIES: u32 = 5000;

    fn file(entries: u32) -> std::fs::File {
        let file = nix::sys::memfd::memfd_create(c"map", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let file = std::fs::File::from(file);
        file.set_len(u64::from(entries) * size_of::<Value>() as u64).unwrap();
        file
    }

    fn mapped(mapping: &Mapping<Value>) -> usize {
        let parts = mapping.parts.as_ref().unwrap();
        parts.is_mapped.iter().filter(|part| part.load(Ordering::Relaxed)).count()
    }

    #[test]
    fn parts_appear_as_they_are_used_and_hold_what_the_map_holds() {
        let file = file(ENTRIES);
        // SAFETY: of these values every bit pattern is valid.
        let (one, other) = unsafe {
            (
                Mapping::<Value>::new(file.as_fd(), ENTRIES).unwrap(),
                Mapping::<Value>::new(file.as_fd(), ENTRIES),
            )
        };
        let other = other.unwrap();
        assert_eq!(mapped(&one), 0);
        for (count, index) in [0, ENTRIES / 2, ENTRIES - 1].into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { one.at(index).as_ref() }.0[16].store(u64::from(index) + 1, Ordering::Relaxed);
            assert_eq!(mapped(&one), count + 1);
        }
        let found = other.find(|value| Some(value.0[16].load(Ordering::Relaxed)).filter(|word| *word != 0));
        assert_eq!(found, [1, u64::from(ENTRIES / 2) + 1, u64::from(ENTRIES)]);
        assert_eq!(mapped(&other), 3);
    }

    #[test]
    fn looking_for_what_is_not_there_leaves_nothing_mapped() {
        let file = file(ENTRIES);
        // SAFETY: as above.
        let mapping = unsafe { Mapping::<Value>::new(file.as_fd(), ENTRIES).unwrap() };
        let mut seen = 0;
        assert!(
            mapping
                .find(|_| {
                    seen += 1;
                    None::<()>
                })
                .is_empty()
        );
        assert_eq!(seen, ENTRIES);
        assert_eq!(mapped(&mapping), 0);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_at_once() {
        let null = std::fs::File::open("/proc/self/status").unwrap();
        // SAFETY: as above.
        let refused = unsafe { Mapping::<Value>::new(null.as_fd(), ENTRIES) };
        assert!(refused.is_err());
    }
}
