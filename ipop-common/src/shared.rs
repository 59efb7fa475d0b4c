//! Words that kernel programs and the daemon change at the same time.

use core::cell::UnsafeCell;

/// A 64-bit word in memory shared with whoever maps it.
///
/// `core`'s atomics have no read-modify-write for the BPF targets, which do have the instructions
/// (Linux 5.12): here they are. On the host these are `core`'s, relaxed; in a program the two that
/// return a value are full barriers, as the kernel defines them.
#[repr(transparent)]
pub struct SharedU64(UnsafeCell<u64>);

// SAFETY: every access is a single aligned access to the word, atomic on both sides.
unsafe impl Sync for SharedU64 {}

impl SharedU64 {
    pub const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[cfg(not(target_arch = "bpf"))]
    #[inline(always)]
    fn atomic(&self) -> &core::sync::atomic::AtomicU64 {
        // SAFETY: the word is aligned, lives as long as `self` and is accessed atomically only.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
    }

    #[inline(always)]
    pub fn load(&self) -> u64 {
        #[cfg(target_arch = "bpf")]
        // SAFETY: an aligned word of a map; volatile, since others change it.
        return unsafe { core::ptr::read_volatile(self.0.get()) };
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().load(core::sync::atomic::Ordering::Acquire)
    }

    #[inline(always)]
    pub fn store(&self, value: u64) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(self.0.get(), value);
        }
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().store(value, core::sync::atomic::Ordering::Release);
    }

    /// Adds, and returns what was there before.
    #[inline(always)]
    pub fn fetch_add(&self, value: u64) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            let mut value = value;
            // SAFETY: an aligned word of a map.
            unsafe {
                core::arch::asm!(
                    "{value} = atomic_fetch_add((u64 *)({at} + 0), {value})",
                    at = in(reg) self.0.get(), value = inout(reg) value, options(nostack)
                );
            }
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().fetch_add(value, core::sync::atomic::Ordering::SeqCst)
    }

    /// Replaces `old`; false where something else was found.
    #[inline(always)]
    pub fn replace(&self, old: u64, new: u64) -> bool {
        #[cfg(target_arch = "bpf")]
        {
            let mut found = old;
            // SAFETY: an aligned word of a map.
            unsafe {
                core::arch::asm!(
                    "r0 = cmpxchg_64({at} + 0, r0, {new})",
                    at = in(reg) self.0.get(), new = in(reg) new, inout("r0") found, options(nostack)
                );
            }
            found == old
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            use core::sync::atomic::Ordering::{Relaxed, SeqCst};
            self.atomic().compare_exchange(old, new, SeqCst, Relaxed).is_ok()
        }
    }
}

impl core::fmt::Debug for SharedU64 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.load().fmt(f)
    }
}
