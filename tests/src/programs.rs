//! The compiled programs in the kernel: loaded by aya, their maps filled from a [`World`], run on
//! single packets by BPF_PROG_TEST_RUN.
//!
//! What a test run is faithful in, and what not (net/bpf/test_run.c): the packet is an Ethernet
//! frame on the loopback device (whose address is zero) unless another is named; it is linear; it
//! may claim to be a super-packet, but has no GSO type, so the kernel refuses to change its
//! headers; nothing that a program redirects arrives anywhere. What needs more is tested on a wire
//! (`wire` in prog_run).

use std::fmt;
use std::os::fd::AsFd;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, IterableMap, Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use ipop_common::maps::{Config, Link, LinkRef, LinkStats, Relay, name, program};
use ipop_common::rules::{self, Seed};
use ipop_common::{Address, Counter};

use ipop_user::places::Places;

use crate::packet::hexdump;
use crate::world::{Prefix, World};

/// The object as ipopd embeds it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipop"));

/// Room for what comes out of a program: the longest input and our headers.
const OUTPUT_MAX: usize = 70_000;

/// One program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Egress,
    Guard,
    Ingress,
    Xdp,
    Deliver,
    L2Egress,
    L2Guard,
    L2Ingress,
    L2Xdp,
}

impl Program {
    pub const ALL: [Self; 9] = [
        Self::Egress,
        Self::Guard,
        Self::Ingress,
        Self::Xdp,
        Self::Deliver,
        Self::L2Egress,
        Self::L2Guard,
        Self::L2Ingress,
        Self::L2Xdp,
    ];

    const fn is_xdp(self) -> bool {
        matches!(self, Self::Xdp | Self::L2Xdp)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => program::EGRESS,
            Self::Guard => program::GUARD,
            Self::Ingress => program::INGRESS,
            Self::Xdp => program::XDP,
            Self::Deliver => program::DELIVER,
            Self::L2Egress => program::L2_EGRESS,
            Self::L2Guard => program::L2_GUARD,
            Self::L2Ingress => program::L2_INGRESS,
            Self::L2Xdp => program::L2_XDP,
        }
    }
}

/// Whether TC can take headers of one IP version off a packet of the other (Linux 6.3). Before, such
/// frames are left to the kernel's VXLAN device.
pub fn can_change_families() -> bool {
    KernelVersion::current().is_ok_and(|running| running >= KernelVersion::new(6, 3, 0))
}

/// What a program says should become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// TC_ACT_UNSPEC or XDP_PASS.
    Pass,
    Drop,
    Redirect,
    /// XDP_TX.
    Transmit,
    /// Anything else, which no program of ours may return.
    Other(u32),
}

/// What goes into a program.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub frame: &'a [u8],
    /// Not 0: the frame is a super-packet with segments of this size. TC only.
    pub gso_size: u32,
    pub gso_segs: u32,
    /// Bytes in the linear part, `None` for all. XDP only, Linux 6.18 and newer.
    pub linear: Option<usize>,
    /// The frame begins with so many bytes of metadata. XDP only.
    pub metadata: usize,
}

impl<'a> Input<'a> {
    pub const fn frame(frame: &'a [u8]) -> Self {
        Self { frame, gso_size: 0, gso_segs: 0, linear: None, metadata: 0 }
    }

    pub const fn gso(frame: &'a [u8], gso_size: u32, gso_segs: u32) -> Self {
        Self { gso_size, gso_segs, ..Self::frame(frame) }
    }
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output<'a> {
    pub action: Action,
    pub packet: &'a [u8],
    /// XDP metadata before the packet.
    pub metadata: &'a [u8],
    /// The kernel's own measurement of one run, the mean of those asked for.
    pub duration_ns: u64,
}

/// All counters, summed over CPUs, in the order of [`Counter::ALL`].
#[derive(Clone, PartialEq, Eq)]
pub struct Counters(pub Vec<u64>);

impl Counters {
    pub fn zero() -> Self {
        Self(vec![0; Counter::ALL.len()])
    }

    pub fn add(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().zip(&earlier.0).map(|(now, then)| now - then).collect())
    }

    /// The counters that are not zero.
    pub fn moved(&self) -> Vec<(Counter, u64)> {
        Counter::ALL.iter().map(|c| (*c, self.of(*c))).filter(|(_, value)| *value != 0).collect()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.moved().iter().map(|(counter, value)| (counter.name(), value))).finish()
    }
}

/// The programs of one load, and their maps.
pub struct Programs {
    ebpf: Ebpf,
    config: Array<MapData, Config>,
    links: Array<MapData, Link>,
    hosts: HashMap<MapData, Address, LinkRef>,
    prefixes: LpmTrie<MapData, [u8; 16], LinkRef>,
    link_ids: HashMap<MapData, u32, LinkRef>,
    relays: HashMap<MapData, u32, Relay>,
    rules: LpmTrie<MapData, rules::Key, u32>,
    counters: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, LinkStats>,
    places: Places,
    cpus: usize,
    installed: World,
    /// Of the tables: every `install` starts a new one.
    generation: u32,
    output: Vec<u8>,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").field("installed", &self.installed).finish_non_exhaustive()
    }
}

macro_rules! take {
    ($ebpf:expr, $name:expr) => {
        $ebpf
            .take_map($name)
            .and_then(|map| map.try_into().ok())
            .unwrap_or_else(|| panic!("the object has no map {} of that type", $name))
    };
}

/// As often as libbpf tries.
const LOAD_ATTEMPTS: u32 = 5;

impl Programs {
    /// Opens the object and makes its maps. A program is loaded when it is first used: the kernel takes
    /// up to a second to verify one, and an emulated one half a minute.
    ///
    /// # Panics
    /// Where the kernel refuses a map.
    pub fn load() -> Self {
        let mut ebpf = EbpfLoader::new().load(OBJECT).unwrap_or_else(|e| panic!("the object: {e:?}"));
        // Maps stay open: programs that are loaded later refer to them.
        let [sessions, filter, begun] =
            [name::SESSIONS, name::FILTER, name::BEGUN].map(|name| match ebpf.map(name) {
                Some(Map::Array(map)) => map.fd().as_fd(),
                other => panic!("{name} is no array: {other:?}"),
            });
        let places = Places::shared(sessions, filter, begun).expect("the maps as memory");
        places.begin_flows(Seed(1, 2));
        Self {
            cpus: aya::util::nr_cpus().expect("the number of CPUs"),
            config: take!(ebpf, name::CONFIG),
            links: take!(ebpf, name::LINKS),
            hosts: take!(ebpf, name::HOSTS),
            prefixes: take!(ebpf, name::PREFIXES),
            link_ids: take!(ebpf, name::LINK_IDS),
            relays: take!(ebpf, name::RELAYS),
            rules: take!(ebpf, name::RULES),
            counters: take!(ebpf, name::COUNTERS),
            stats: take!(ebpf, name::LINK_STATS),
            places,
            installed: World::default(),
            generation: 0,
            output: vec![0; OUTPUT_MAX],
            ebpf,
        }
    }

    /// Makes the maps say what `world` says, and nothing else. Counters go on.
    pub fn install(&mut self, world: &World) {
        let old = std::mem::replace(&mut self.installed, world.clone());
        for slot in old.links.keys().filter(|slot| !world.links.contains_key(slot)) {
            self.links.set(*slot, Link::EMPTY, 0).expect("an empty slot");
        }
        for address in old.hosts.keys().filter(|address| !world.hosts.contains_key(address)) {
            self.hosts.remove(address).expect("an address that was there");
        }
        for prefix in &old.prefixes {
            // Two prefixes may have had one key.
            let _ = self.prefixes.remove(&key(prefix));
        }
        for id in old.link_ids.keys().filter(|id| !world.link_ids.contains_key(id)) {
            self.link_ids.remove(id).expect("a link id that was there");
        }
        for (slot, link) in &world.links {
            self.links.set(*slot, link, 0).expect("a link");
        }
        for (address, reference) in &world.hosts {
            self.hosts.insert(address, reference, 0).expect("an address");
        }
        for prefix in &world.prefixes {
            self.prefixes.insert(&key(prefix), prefix.to, 0).expect("a prefix");
        }
        for (id, reference) in &world.link_ids {
            self.link_ids.insert(id, reference, 0).expect("a link id");
        }
        for local in old.sessions.keys().filter(|local| !world.sessions.contains_key(local)) {
            self.places.of(*local).vacate();
        }
        for (local, agreed) in
            world.sessions.iter().filter(|(local, new)| old.sessions.get(local) != Some(new))
        {
            self.places.of(*local).install(agreed, None);
        }
        for label in old.relays.keys().filter(|label| !world.relays.contains_key(label)) {
            self.relays.remove(label).expect("a label that was there");
        }
        for (label, relay) in &world.relays {
            self.relays.insert(label, relay, 0).expect("a pair");
        }
        for entry in &old.rules {
            // Two links may have had one policy.
            let _ = self.rules.remove(&Key::new(entry.bits, entry.key));
        }
        for entry in &world.rules {
            self.rules.insert(&Key::new(entry.bits, entry.key), 1, 0).expect("a rule");
        }
        self.generation += 1;
        let config = Config { generation: self.generation, ..world.config };
        self.config.set(0, config, 0).expect("the configuration");
    }

    /// Runs a program once.
    ///
    /// # Panics
    /// Where the kernel cannot run the program on such a packet.
    pub fn run(&mut self, program: Program, input: Input<'_>) -> Output<'_> {
        self.repeat(program, input, 1).unwrap_or_else(|error| {
            let len = input.frame.len();
            panic!("{} cannot be run on {len} bytes: {error}\n{}", program.name(), hexdump(input.frame))
        })
    }

    /// Runs a program `repeat` times on one packet, which is not set back between the runs.
    ///
    /// # Errors
    /// The kernel's refusal to run the program on such a packet.
    pub fn repeat(
        &mut self,
        program: Program,
        input: Input<'_>,
        repeat: u32,
    ) -> Result<Output<'_>, ProgramError> {
        let context = match program {
            Program::Xdp | Program::L2Xdp => Context::xdp(&input),
            _ => Context::tc(&input),
        };
        let mut context_out = [0; size_of::<Context>()];
        let options = TestRunOptions {
            data_in: Some(input.frame),
            data_out: Some(&mut self.output),
            ctx_in: context.bytes(),
            ctx_out: program.is_xdp().then_some(&mut context_out[..]),
            repeat,
            ..TestRunOptions::new()
        };
        let result = match find(&mut self.ebpf, program) {
            aya::programs::Program::Xdp(xdp) => xdp.test_run(options),
            aya::programs::Program::SchedClassifier(tc) => tc.test_run(options),
            _ => panic!("{} is for neither TC nor XDP", program.name()),
        };
        let result = result?;
        let out = &self.output[..result.data_size_out as usize];
        // `data` of the context: how far behind the metadata the packet starts.
        let metadata_len = match program {
            Program::Xdp | Program::L2Xdp => {
                u32::from_ne_bytes(*context_out.first_chunk().expect("four bytes")) as usize
            }
            _ => 0,
        };
        let (metadata, packet) = out.split_at(metadata_len);
        let duration_ns = u64::try_from(result.duration.as_nanos()).unwrap_or(u64::MAX);
        Ok(Output { action: action(program, result.return_value), packet, metadata, duration_ns })
    }

    pub fn counters(&self) -> Counters {
        let values = batch::lookup_all(self.counters.map().fd().as_fd(), Counter::ALL.len(), self.cpus);
        Counters(values.chunks(self.cpus).map(|per_cpu| per_cpu.iter().sum()).collect())
    }

    /// One counter, summed over CPUs.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(&(counter as u32), 0).expect("a counter").iter().sum()
    }

    /// Traffic of the link in `slot`, summed over CPUs.
    pub fn link_stats(&self, slot: u32) -> LinkStats {
        let values = self.stats.get(&LinkStats::index(slot), 0).expect("an entry");
        values.iter().fold(LinkStats::default(), |sum, one| LinkStats {
            tx_packets: sum.tx_packets + one.tx_packets,
            tx_bytes: sum.tx_bytes + one.tx_bytes,
            rx_packets: sum.rx_packets + one.rx_packets,
            rx_bytes: sum.rx_bytes + one.rx_bytes,
        })
    }

    /// Where the sessions lie.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The kernel's number for a program.
    pub fn id(&mut self, program: Program) -> u32 {
        let info = find(&mut self.ebpf, program).info().expect("information about a program");
        info.id()
    }

    /// A TC program, to be attached.
    pub fn classifier(&mut self, program: Program) -> &mut SchedClassifier {
        find(&mut self.ebpf, program).try_into().expect("a TC program")
    }

    /// The XDP program, to be attached.
    pub fn xdp(&mut self) -> &mut Xdp {
        find(&mut self.ebpf, Program::Xdp).try_into().expect("an XDP program")
    }
}

/// A program, loaded.
///
/// # Panics
/// Where the kernel refuses it; the verifier's log is in the message.
fn find(ebpf: &mut Ebpf, program: Program) -> &mut aya::programs::Program {
    let found =
        ebpf.program_mut(program.name()).unwrap_or_else(|| panic!("the object has no {}", program.name()));
    if found.fd().is_err() {
        let mut load = || match found {
            aya::programs::Program::Xdp(xdp) => xdp.load(),
            aya::programs::Program::SchedClassifier(tc) => tc.load(),
            _ => panic!("{} is for neither TC nor XDP", program.name()),
        };
        // A busy machine's signals interrupt the verifier.
        if let Err(error) = (1..LOAD_ATTEMPTS).find_map(|_| load().ok()).map_or_else(load, Ok) {
            panic!("the kernel refuses {}: {error}", program.name());
        }
    }
    found
}

/// The part of `struct __sk_buff` or `struct xdp_md` that a test run reads, as bytes.
struct Context {
    bytes: [u8; 192],
    len: usize,
}

/// Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h), which can only grow at its end.
const SKB_GSO_SEGS: usize = 164;
const SKB_GSO_SIZE: usize = 176;
const SKB_LEN: usize = 192;
/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
const XDP_LEN: usize = 24;

impl Context {
    fn tc(input: &Input<'_>) -> Self {
        let mut context = Self { bytes: [0; 192], len: 0 };
        if input.gso_size != 0 {
            context.put(SKB_GSO_SEGS, input.gso_segs);
            context.put(SKB_GSO_SIZE, input.gso_size);
            context.len = SKB_LEN;
        }
        context
    }

    fn xdp(input: &Input<'_>) -> Self {
        let mut context = Self { bytes: [0; 192], len: XDP_LEN };
        let linear = input.linear.unwrap_or(input.frame.len());
        context.put(0, u32::try_from(input.metadata).expect("short metadata"));
        context.put(4, u32::try_from(linear).expect("a frame's length"));
        context
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn bytes(&self) -> Option<&[u8]> {
        (self.len != 0).then_some(&self.bytes[..self.len])
    }
}

fn key(prefix: &Prefix) -> Key<[u8; 16]> {
    let offset = if prefix.address.is_ipv4() { 96 } else { 0 };
    Key::new(offset + u32::from(prefix.len), Address::from(prefix.address).to_bytes())
}

fn action(program: Program, value: u32) -> Action {
    const TC_ACT_UNSPEC: u32 = u32::MAX;
    match (program, value) {
        (Program::Xdp | Program::L2Xdp, 1) => Action::Drop,
        (Program::Xdp | Program::L2Xdp, 2) => Action::Pass,
        (Program::Xdp | Program::L2Xdp, 3) => Action::Transmit,
        (Program::Xdp | Program::L2Xdp, 4) => Action::Redirect,
        (Program::Xdp | Program::L2Xdp, other) => Action::Other(other),
        (_, TC_ACT_UNSPEC) => Action::Pass,
        (_, 2) => Action::Drop,
        (_, 7) => Action::Redirect,
        (_, other) => Action::Other(other),
    }
}

/// Reading a whole map of 64-bit per-CPU values in one system call, which aya does not offer: one
/// call per counter would take most of the time of a million runs.
mod batch {
    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};

    const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

    /// `batch` in `union bpf_attr` (include/uapi/linux/bpf.h).
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }

    /// The values of keys 0 to `entries` of an array map, for each key one for each CPU.
    pub(super) fn lookup_all(map: BorrowedFd<'_>, entries: usize, cpus: usize) -> Vec<u64> {
        let mut next = 0u32;
        let mut keys = vec![0u32; entries];
        let mut values = vec![0u64; entries * cpus];
        let mut attributes = Attributes {
            in_batch: 0,
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(entries).expect("a small map"),
            map_fd: map.as_raw_fd().unsigned_abs(),
            elem_flags: 0,
            flags: 0,
        };
        let size = size_of::<Attributes>();
        // SAFETY: the buffers are as long as `count` entries and outlive the call.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, std::ptr::from_mut(&mut attributes), size)
        };
        assert!(result == 0, "reading the counters: {}", io::Error::last_os_error());
        values
    }
}
