//! What each CPU remembers for its programs: the clock, and where addresses and link ids led last.
//!
//! A helper call costs 10-40 ns, most of it in the returns that kernels slow down against
//! speculation, and a hash lookup is three calls. What is here takes loads and comparisons instead.
//! It is never the truth: everything is looked up again when the tables have changed.

use core::arch::asm;
use core::ptr;

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_map;
use ipop_common::maps::LinkRef;

#[btf_map]
static IPOP_LOCAL: PerCpuArray<Memory, 1> = PerCpuArray::new();

const SLOTS_BITS: u32 = 8;
const SLOTS: usize = 1 << SLOTS_BITS;

/// One CPU's memory: as one element, so that finding it is one lookup.
#[repr(C)]
struct Memory {
    clock: Clock,
    addresses: [Entry; SLOTS],
    link_ids: [Entry; SLOTS],
}

#[repr(C)]
struct Clock {
    jiffies: u64,
    now_ns: u64,
}

#[repr(C)]
struct Entry {
    key: [u64; 2],
    reference: LinkRef,
    /// Of the tables that `reference` was found in; 0, which none have, in an entry never used.
    generation: u32,
    reserved: u32,
}

/// What is remembered separately, since the keys say different things.
#[derive(Clone, Copy)]
pub enum Table {
    Addresses,
    LinkIds,
}

/// This CPU's memory. Programs on one CPU do not nest, so nobody else touches it meanwhile.
#[derive(Clone, Copy)]
pub struct Local {
    memory: *mut Memory,
}

impl Local {
    #[inline(always)]
    pub fn of_this_cpu() -> Option<Self> {
        IPOP_LOCAL.get_ptr_mut(0).map(|memory| Self { memory })
    }

    /// CLOCK_MONOTONIC as of the last tick, in nanoseconds: what leases are compared with.
    ///
    /// The clock moves once per tick, as `jiffies` does, which the verifier turns into one load; so
    /// the clock itself is read once per tick.
    #[inline(always)]
    pub fn now_ns(self) -> u64 {
        // SAFETY: an element of the map, this CPU's own; the helpers take no pointers.
        unsafe {
            let clock = &mut (*self.memory).clock;
            let jiffies = helpers::bpf_jiffies64();
            if clock.jiffies != jiffies {
                clock.now_ns = helpers::bpf_ktime_get_coarse_ns();
                clock.jiffies = jiffies;
            }
            clock.now_ns
        }
    }

    /// Where `key` leads: remembered from this `generation` of the tables, else from `lookup`.
    #[inline(always)]
    pub fn remember(
        self,
        table: Table,
        key: [u64; 2],
        generation: u32,
        lookup: impl FnOnce() -> Option<LinkRef>,
    ) -> Option<LinkRef> {
        let [a, b] = key;
        // Fibonacci hashing (Knuth, TAOCP 6.4): the uppermost bits depend on all others.
        let slot = ((a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS_BITS)) as usize;
        // SAFETY: `slot` has SLOTS_BITS bits, so the entry is inside the map's element.
        let entry = unsafe {
            let entries = match table {
                Table::Addresses => &raw mut (*self.memory).addresses,
                Table::LinkIds => &raw mut (*self.memory).link_ids,
            };
            &mut *entries.cast::<Entry>().add(slot)
        };
        let [known_a, known_b] = entry.key;
        if known_a == a && known_b == b && entry.generation == generation {
            return Some(entry.reference);
        }
        let [first, _] = &mut entry.key;
        barrier(first);
        let reference = lookup()?;
        entry.key = key;
        entry.reference = reference;
        entry.generation = generation;
        Some(reference)
    }
}

/// What is read after this is not older than what was read before: the entry must not keep what the
/// tables said before the generation that it is marked with. (`core` has no fences for BPF; by the
/// kernel's memory model an atomic operation that fetches is a full barrier.)
#[inline(always)]
fn barrier(word: &mut u64) {
    // SAFETY: adds nothing to a word that is ours to write.
    unsafe {
        asm!("{value} = atomic_fetch_or((u64 *)({word} + 0), {value})",
            word = in(reg) ptr::from_mut(word), value = inout(reg) 0u64 => _);
    }
}
