//! How much of the heap a run holds: each run is one thread's, and counts what that has taken and given
//! back, in bytes as asked for. What the allocator itself adds is not in it.
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that this thread has taken and not given back; negative where it gives back what others took.
pub fn live() -> i64 {
    LIVE.with(Cell::get)
}

/// The system's allocator, with a count for each thread.
#[derive(Debug)]
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize, sign: i64) {
    // A thread that ends gives back what it was, and has no count any more.
    let _ = LIVE.try_with(|live| live.set(live.get() + sign * bytes as i64));
}

// SAFETY: all that is asked for is asked of the system's allocator, and nothing is done with it but to
// count it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as promised to this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as promised to this function.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(size, 1);
        // SAFETY: as promised to this function.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_held_is_counted_until_it_is_given_back() {
        let before = super::live();
        let mut held: Vec<u8> = Vec::with_capacity(1 << 20);
        assert_eq!(super::live() - before, 1 << 20);
        held.reserve_exact(1 << 21);
        assert_eq!(super::live() - before, 1 << 21);
        drop(held);
        assert_eq!(super::live(), before);
    }
}
