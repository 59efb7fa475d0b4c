//! The object seen by another loader than the daemon's: libbpf opens, types and loads it too, the
//! programs do the same, and its queries show that nothing stays in the kernel after a load.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use aya::programs::tc::TcAttachType;
use aya::programs::xdp::XdpMode;
use ipop_common::counter::COUNTERS;
use ipop_common::filter::Filter;
use ipop_common::limits::{HOSTS_MAX, LINK_SLOTS_MAX, LINKS_MAX, PREFIXES_MAX, RELAYS_MAX, RULES_MAX};
use ipop_common::maps::{Config, Link, LinkRef, LinkStats, PrefixKey, Relay, name, program};
use ipop_common::rules::{BUCKETS_AND_SEED, Bucket, Key};
use ipop_common::sealed::{FLOWS, Memory};
use ipop_common::session::{PLACES, Session};
use ipop_common::{Address, Counter};
use ipop_tests::programs::{Action, Input, OBJECT, Program, Programs};
use ipop_tests::{namespace, needs_root};
use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{Map, MapCore, MapFlags, MapType, Object, ObjectBuilder, ProgramInput};

use crate::scenario::{from_peer, loaded, world};

/// The kernel frees what nobody holds some time after.
const DEADLINE: Duration = Duration::from_secs(30);

fn loaded_by_libbpf() -> Object {
    let open = ObjectBuilder::default().open_memory(OBJECT).expect("libbpf opens the object");
    open.load().expect("libbpf loads the object")
}

fn map<'a>(object: &'a Object, name: &str) -> libbpf_rs::Map<'a> {
    object.maps().find(|map| map.name() == name).unwrap_or_else(|| panic!("no map {name}"))
}

/// What a CPU is about to do: a counter, six numbers of 32 bits and an address; and a hash.
const JOB_LEN: usize = 8 + 6 * 4 + 16 + 32;
/// What a CPU remembers: the clock, and 256 entries of 32 bytes each of addresses and of link ids.
const LOCAL_LEN: usize = 16 + 2 * 256 * 32;

#[test]
fn libbpf_sees_the_maps_as_they_are_declared() {
    needs_root!();
    let object = loaded_by_libbpf();
    let expected = [
        (name::CONFIG, MapType::Array, 4, size_of::<Config>(), 1),
        (name::LINKS, MapType::Array, 4, size_of::<Link>(), LINK_SLOTS_MAX),
        (name::HOSTS, MapType::Hash, size_of::<Address>(), size_of::<LinkRef>(), HOSTS_MAX),
        (name::PREFIXES, MapType::LpmTrie, size_of::<PrefixKey>(), size_of::<LinkRef>(), PREFIXES_MAX),
        (name::LINK_IDS, MapType::Hash, 4, size_of::<LinkRef>(), LINKS_MAX),
        (name::COUNTERS, MapType::PercpuArray, 4, 8, COUNTERS),
        (name::LINK_STATS, MapType::PercpuArray, 4, size_of::<LinkStats>(), LINKS_MAX),
        (name::SESSIONS, MapType::Array, 4, size_of::<Session>(), PLACES),
        (name::FLOWS, MapType::Array, 4, 8, FLOWS),
        (name::FILTER, MapType::Array, 4, size_of::<Filter>(), 1),
        (name::RELAYS, MapType::Hash, 4, size_of::<Relay>(), RELAYS_MAX),
        (name::RULES, MapType::LpmTrie, 4 + size_of::<Key>(), 4, RULES_MAX),
        (name::BEGUN, MapType::Array, 4, size_of::<Bucket>(), BUCKETS_AND_SEED),
        (name::LOCAL, MapType::PercpuArray, 4, LOCAL_LEN, 1),
        (name::MEMORY, MapType::PercpuArray, 4, JOB_LEN + size_of::<Memory>(), 1),
    ];
    assert_eq!(expected.map(|(name, ..)| name), name::ALL);
    for (name, kind, key_len, value_len, entries) in expected {
        let map = map(&object, name);
        let shape = (map.map_type(), map.key_size() as usize, map.value_size() as usize, map.max_entries());
        assert_eq!(shape, (kind, key_len, value_len, entries), "{name}");
    }
    let names: BTreeSet<String> =
        object.maps().map(|map| map.name().to_string_lossy().into_owned()).collect();
    assert_eq!(names, name::ALL.iter().map(|name| (*name).to_owned()).collect(), "and no other map");
}

#[test]
fn the_kernel_knows_the_types_in_the_maps() {
    needs_root!();
    let object = loaded_by_libbpf();
    let btf = object.btf().expect("readable types").expect("types in the object");
    let types = [
        (name::CONFIG, "Config"),
        (name::LINKS, "Link"),
        (name::HOSTS, "LinkRef"),
        (name::PREFIXES, "LinkRef"),
        (name::LINK_IDS, "LinkRef"),
        (name::COUNTERS, "u64"),
        (name::LINK_STATS, "LinkStats"),
        (name::SESSIONS, "Session"),
        (name::FLOWS, "SharedU64"),
        (name::FILTER, "Filter"),
        (name::RELAYS, "Relay"),
        (name::LOCAL, "Memory"),
        (name::MEMORY, "Work"),
    ];
    for (name, expected) in types {
        let info = map(&object, name).info().expect("information about a map").info;
        assert!(info.btf_id != 0 && info.btf_key_type_id != 0, "{name} has no types");
        let value = btf.type_by_id::<libbpf_rs::btf::BtfType<'_>>(info.btf_value_type_id.into());
        let value = value.and_then(|value| value.name()).map(|name| name.to_string_lossy().into_owned());
        assert_eq!(value.as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn libbpf_loads_the_programs_and_they_do_the_same() {
    needs_root!();
    namespace::enter_new();
    let (world, peers) = world();
    let mut object = loaded_by_libbpf();
    let names: BTreeSet<String> =
        object.progs().map(|program| program.name().to_string_lossy().into_owned()).collect();
    assert_eq!(names, program::ALL.iter().map(|name| (*name).to_owned()).collect());

    let frame = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    assert_eq!(ingress(&mut object, &frame), (Action::Pass, frame.clone()), "with empty tables");
    fill(&map(&object, name::CONFIG), &[(0u32.to_ne_bytes().to_vec(), bytes_of(&world.config))]);
    let links = world.links.iter().map(|(slot, link)| (slot.to_ne_bytes().to_vec(), bytes_of(link)));
    fill(&map(&object, name::LINKS), &links.collect::<Vec<_>>());
    let ids = world.link_ids.iter().map(|(id, to)| (id.to_ne_bytes().to_vec(), bytes_of(to)));
    fill(&map(&object, name::LINK_IDS), &ids.collect::<Vec<_>>());
    let hosts = world.hosts.iter().map(|(host, to)| (host.to_bytes().to_vec(), bytes_of(to)));
    fill(&map(&object, name::HOSTS), &hosts.collect::<Vec<_>>());

    let (action, packet) = ingress(&mut object, &frame);
    let (mut ours, ..) = loaded();
    let output = ours.run(Program::Ingress, Input::frame(&frame));
    assert_eq!((action, &packet[..]), (output.action, output.packet));
    assert_eq!(action, Action::Redirect);
    let counted = per_cpu_sum(&map(&object, name::COUNTERS), Counter::RxDecapsulated as u32);
    assert_eq!(counted, 1, "rx_decapsulated");
    assert_eq!(per_cpu_sum(&map(&object, name::COUNTERS), Counter::RxNotOurs as u32), 1, "rx_not_ours");
}

/// One test run of TC ingress.
fn ingress(object: &mut Object, frame: &[u8]) -> (Action, Vec<u8>) {
    let mut out = vec![0; 2000];
    let program = object.progs_mut().find(|program| program.name() == program::INGRESS).expect("the program");
    let input = ProgramInput { data_in: Some(frame), data_out: Some(&mut out), ..ProgramInput::default() };
    let output = program.test_run(input).expect("a test run");
    let action = match output.return_value {
        u32::MAX => Action::Pass,
        7 => Action::Redirect,
        other => Action::Other(other),
    };
    (action, output.data.expect("a packet").to_vec())
}

/// Writes all entries in one system call and reads them back in another.
fn fill(map: &Map<'_>, entries: &[(Vec<u8>, Vec<u8>)]) {
    let keys: Vec<u8> = entries.iter().flat_map(|(key, _)| key.clone()).collect();
    let values: Vec<u8> = entries.iter().flat_map(|(_, value)| value.clone()).collect();
    let count = u32::try_from(entries.len()).expect("few entries");
    map.update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY).expect("a batch written");
    let read = map.lookup_batch(map.max_entries(), MapFlags::ANY, MapFlags::ANY).expect("a batch read");
    let read: BTreeMap<Vec<u8>, Vec<u8>> = read.collect();
    for (key, value) in entries {
        assert_eq!(read.get(key), Some(value), "{:?} {key:02x?}", map.name());
    }
}

fn per_cpu_sum(map: &Map<'_>, key: u32) -> u64 {
    let values = map.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY).expect("a lookup").expect("an entry");
    values.iter().map(|value| u64::from_ne_bytes(*value.first_chunk().expect("eight bytes"))).sum()
}

/// The bytes of a map's key or value.
fn bytes_of<T: aya::Pod>(value: &T) -> Vec<u8> {
    // SAFETY: plain data without padding (`Pod`), as long as its size says.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// Reading all counters in one system call gives what reading them one by one gives.
#[test]
fn counters_read_in_one_batch_are_the_counters() {
    needs_root!();
    let (mut programs, _, peers) = loaded();
    let frame = peers.v4.frame(from_peer(&peers.v4, false)).to_bytes();
    for cut in 0..20 {
        programs.run(Program::Ingress, Input::frame(&frame[..frame.len() - cut]));
    }
    let batch = programs.counters();
    for counter in Counter::ALL {
        assert_eq!(programs.counter(*counter), batch.of(*counter), "{}", counter.name());
    }
    assert_eq!((batch.of(Counter::RxDecapsulated), batch.of(Counter::RxTruncated)), (1, 19));
}

/// Everything of one load that the kernel has a number for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ids {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Ids {
    /// What is in the kernel now.
    fn all() -> Self {
        Self {
            programs: ProgInfoIter::default().map(|program| program.id).collect(),
            maps: MapInfoIter::default().map(|map| map.id).collect(),
            links: LinkInfoIter::default().map(|link| link.id).collect(),
        }
    }

    /// The programs with these numbers, their maps, and what attaches them.
    fn of(programs: &BTreeSet<u32>) -> Self {
        let with_maps = ProgInfoQueryOptions::default().include_map_ids(true);
        let of_ours =
            ProgInfoIter::with_query_opts(with_maps).filter(|program| programs.contains(&program.id));
        let links = LinkInfoIter::default().filter(|link| programs.contains(&link.prog_id));
        Self {
            programs: programs.clone(),
            maps: of_ours.flat_map(|program| program.map_ids).collect(),
            links: links.map(|link| link.id).collect(),
        }
    }

    fn common(&self, other: &Self) -> Self {
        let both = |a: &BTreeSet<u32>, b: &BTreeSet<u32>| a.intersection(b).copied().collect();
        Self {
            programs: both(&self.programs, &other.programs),
            maps: both(&self.maps, &other.maps),
            links: both(&self.links, &other.links),
        }
    }
}

/// Waits until the kernel has none of `ids` left.
#[track_caller]
fn all_gone(ids: &Ids) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = ids.common(&Ids::all());
        if left == Ids::default() {
            return;
        }
        assert!(Instant::now() < deadline, "still in the kernel: {left:?}");
        std::thread::yield_now();
    }
}

/// The kernel's number of the program behind a descriptor.
fn number(program: BorrowedFd<'_>) -> u32 {
    let file = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let info = std::fs::read_to_string(file).expect("information about a descriptor");
    let number = info.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("a program");
    number.trim().parse().expect("a number")
}

#[test]
fn nothing_is_left_of_a_load_by_aya() {
    needs_root!();
    namespace::enter_new();
    let mut programs = Programs::load();
    programs.classifier(Program::Ingress).attach("lo", TcAttachType::Ingress).unwrap_or_else(|_| {
        aya::programs::tc::qdisc_add_clsact("lo").expect("clsact");
        programs.classifier(Program::Ingress).attach("lo", TcAttachType::Ingress).expect("attached")
    });
    programs.xdp().attach("lo", XdpMode::Skb).expect("attached");
    let ids = Ids::of(&Program::ALL.iter().map(|program| programs.id(*program)).collect());
    assert_eq!((ids.programs.len(), ids.maps.len()), (program::ALL.len(), name::ALL.len()));
    assert!(!ids.links.is_empty(), "attached by links");
    drop(programs);
    all_gone(&ids);
}

#[test]
fn nothing_is_left_of_a_load_by_libbpf() {
    needs_root!();
    namespace::enter_new();
    let object = loaded_by_libbpf();
    let xdp = object.progs_mut().find(|program| program.name() == program::XDP).expect("the program");
    // The loopback device has number 1 in every namespace.
    let link = xdp.attach_xdp(1).expect("attached");
    let ids = object.progs().map(|program| number(program.as_fd()));
    let ids = Ids::of(&ids.collect());
    assert_eq!(
        (ids.programs.len(), ids.maps.len(), ids.links.len()),
        (program::ALL.len(), name::ALL.len(), 1)
    );
    // The link holds its program, whoever else lets it go.
    drop(object);
    let held = Ids { programs: ids.programs.clone(), ..Ids::default() };
    let deadline = Instant::now() + DEADLINE;
    while held.common(&Ids::all()).programs.len() > 1 {
        assert!(Instant::now() < deadline, "still in the kernel: {:?}", held.common(&Ids::all()));
        std::thread::yield_now();
    }
    assert_eq!(ids.common(&Ids::all()).links, ids.links);
    drop(link);
    all_gone(&ids);
}
