//! The kernel maps, and the forwarding tables that they are.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use ipop_common::counter::COUNTERS;
use ipop_common::filter::Filter;
use ipop_common::gpe::LinkId;
use ipop_common::limits::{HOSTS_MAX, LINK_SLOTS_MAX, LINKS_MAX, PREFIXES_MAX, RELAYS_MAX, RULES_MAX};
use ipop_common::maps::{Config, Link, LinkRef, LinkStats, Relay};
use ipop_common::rules;
use ipop_common::rules::{BUCKETS_AND_SEED, Bucket, KEY_BITS};
use ipop_common::sealed::FLOWS;
use ipop_common::session::{self, PLACES, Session};
use ipop_common::shared::SharedU64;
use ipop_common::tables::Tables;
use ipop_common::{Address, Counter};

use crate::local::{Local, Table};

#[btf_map]
static IPOP_CONFIG: Array<Config, 1> = Array::new();
/// Shared with the daemon by mmap: leases and epochs change with one store.
#[btf_map]
static IPOP_LINKS: Array<Link, { LINK_SLOTS_MAX as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static IPOP_HOSTS: HashMap<Address, LinkRef, { HOSTS_MAX as usize }> = HashMap::new();
#[btf_map]
static IPOP_PREFIXES: LpmTrie<[u8; 16], LinkRef, { PREFIXES_MAX as usize }> = LpmTrie::new();
#[btf_map]
static IPOP_LINK_IDS: HashMap<u32, LinkRef, { LINKS_MAX as usize }> = HashMap::new();
#[btf_map]
static IPOP_COUNTERS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
static IPOP_LINK_STATS: PerCpuArray<LinkStats, { LINKS_MAX as usize }> = PerCpuArray::new();

/// Shared with the daemon by mmap: both seal and open with the same sessions.
#[btf_map]
static IPOP_SESSIONS: Array<Session, { PLACES as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static IPOP_FLOWS: Array<SharedU64, { FLOWS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
/// Shared with the daemon by mmap: it says when it is under load, and where peers are.
#[btf_map]
static IPOP_FILTER: Array<Filter, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static IPOP_RELAYS: HashMap<u32, Relay, { RELAYS_MAX as usize }> = HashMap::new();

#[btf_map]
static IPOP_RULES: LpmTrie<rules::Key, u32, { RULES_MAX as usize }> = LpmTrie::new();
/// Shared with the daemon by mmap: a flow may begin by one path and be answered by the other.
#[btf_map]
static IPOP_BEGUN: Array<Bucket, { BUCKETS_AND_SEED as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The maps of this node, and what this CPU remembers of them.
#[derive(Clone, Copy)]
pub struct Maps {
    config: &'static Config,
    local: Local,
}

impl Maps {
    /// `None` cannot be; the verifier wants to hear it.
    #[inline(always)]
    pub fn open() -> Option<Self> {
        Some(Self { config: IPOP_CONFIG.get(0)?, local: Local::of_this_cpu()? })
    }

    #[inline(always)]
    pub fn now_ns(&self) -> u64 {
        self.local.now_ns()
    }

    /// The virtual device.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.config.device_ifindex
    }

    #[inline(always)]
    pub fn filter(&self) -> Option<&'static Filter> {
        IPOP_FILTER.get(0)
    }

    /// A pair between which this node relays.
    #[inline(always)]
    pub fn relay_mut(&self, label: u32) -> Option<*mut Relay> {
        IPOP_RELAYS.get_ptr_mut(label)
    }

    /// Where packets for the user path go; 0 where they stay on the virtual device.
    #[inline(always)]
    pub fn miss_device(&self) -> u32 {
        self.config.miss_ifindex
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        Some(self.config)
    }

    #[inline(always)]
    fn link(&self, slot: u32) -> Option<&Link> {
        IPOP_LINKS.get(slot)
    }

    #[inline(always)]
    fn by_link_id(&self, id: LinkId) -> Option<LinkRef> {
        self.local.remember(Table::LinkIds, [0, u64::from(id.value())], self.config.generation, || {
            // SAFETY: the value is copied at once; an element that is replaced meanwhile is at worst
            // a reference with an old epoch, which misses.
            unsafe { IPOP_LINK_IDS.get(id.value()).copied() }
        })
    }

    /// Whole addresses first, by hash; then prefixes.
    #[inline(always)]
    fn by_address(&self, address: &Address) -> Option<LinkRef> {
        self.local.remember(Table::Addresses, address.to_words(), self.config.generation, || {
            // SAFETY: as above.
            if let Some(reference) = unsafe { IPOP_HOSTS.get(address) } {
                return Some(*reference);
            }
            IPOP_PREFIXES.get(&Key::new(128, address.to_bytes())).copied()
        })
    }

    #[inline(always)]
    fn session(&self, local: u32) -> Option<&Session> {
        IPOP_SESSIONS.get(session::place(local))
    }

    #[inline(always)]
    fn flow(&self, hash: u32) -> Option<&SharedU64> {
        IPOP_FLOWS.get(hash)
    }

    #[inline(always)]
    fn relay(&self, label: u32) -> Option<&Relay> {
        // SAFETY: elements are written whole by the daemon; what is read while one is replaced sends a frame
        // to where one of the ends was or is.
        unsafe { IPOP_RELAYS.get(label) }
    }

    #[inline(always)]
    fn may_begin(&self, key: &rules::Key) -> bool {
        IPOP_RULES.get(&Key::new(KEY_BITS, *key)).is_some()
    }

    #[inline(always)]
    fn begun(&self, index: u32) -> Option<&Bucket> {
        IPOP_BEGUN.get(index)
    }

    /// The comparison stays inside the arm: an `Option` that is compared as a whole makes the
    /// compiler read a payload that is not there.
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        match self.by_address(address) {
            Some(reference) => reference.is_local(),
            None => false,
        }
    }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = IPOP_COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the element is this CPU's own, and programs on it do not nest.
        unsafe { *value += 1 };
    }
}

/// Adds to a link's traffic on this CPU.
#[inline(always)]
pub fn count_tx(slot: u32, packets: u32, bytes: u32) {
    if let Some(stats) = IPOP_LINK_STATS.get_ptr_mut(LinkStats::index(slot)) {
        // SAFETY: as in `count`.
        unsafe {
            (*stats).tx_packets += u64::from(packets);
            (*stats).tx_bytes += u64::from(bytes);
        }
    }
}

/// As [`count_tx`], for what was received.
#[inline(always)]
pub fn count_rx(slot: u32, packets: u32, bytes: u32) {
    if let Some(stats) = IPOP_LINK_STATS.get_ptr_mut(LinkStats::index(slot)) {
        // SAFETY: as in `count`.
        unsafe {
            (*stats).rx_packets += u64::from(packets);
            (*stats).rx_bytes += u64::from(bytes);
        }
    }
}
