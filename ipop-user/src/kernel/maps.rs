//! Typed access to the kernel maps of one node.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use ipop_common::gpe::LinkId;
use ipop_common::maps::{Config, LinkRef, LinkStats, Relay, name};
use ipop_common::rules;
use ipop_common::{Address, Counter, Family};
use ipop_overlay::group::rules::Entry;

use super::KernelError;
use crate::places::Places;

/// An inner prefix: the first `bits` of 128 bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub address: Address,
    pub bits: u32,
}

impl Prefix {
    /// From an address and a length in its own family (24 for a /24).
    pub fn new(address: IpAddr, len: u8) -> Self {
        let address = Address::from(address);
        let offset = if address.family() == Family::V4 { 96 } else { 0 };
        Self { address, bits: offset + u32::from(len) }
    }

    pub fn host(address: Address) -> Self {
        Self { address, bits: 128 }
    }

    fn key(&self) -> Key<[u8; 16]> {
        Key::new(self.bits, self.address.to_bytes())
    }
}

/// All maps but the links, which are shared memory ([`super::links`]).
pub(super) struct Maps {
    config: Array<MapData, Config>,
    /// What `config` holds.
    current: Config,
    links: MapData,
    sessions: MapData,
    filter: MapData,
    begun: MapData,
    rules: LpmTrie<MapData, rules::Key, u32>,
    hosts: HashMap<MapData, Address, LinkRef>,
    prefixes: LpmTrie<MapData, [u8; 16], LinkRef>,
    link_ids: HashMap<MapData, u32, LinkRef>,
    relays: HashMap<MapData, u32, Relay>,
    counters: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, LinkStats>,
}

fn error(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |error| KernelError::Map { name, error: error.to_string() }
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn from_object(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Self::build(|name| {
            ebpf.take_map(name)
                .ok_or_else(|| KernelError::Map { name, error: "not in the object".to_owned() })
        })
    }

    /// Opens maps that already exist in the kernel, by name.
    pub(super) fn from_ids(ids: &std::collections::HashMap<String, u32>) -> Result<Self, KernelError> {
        Self::build(|name| {
            let missing = || KernelError::Map { name, error: "not among the program's maps".to_owned() };
            let data = MapData::from_id(*ids.get(name).ok_or_else(missing)?).map_err(error(name))?;
            Map::from_map_data(data).map_err(error(name))
        })
    }

    fn build(mut take: impl FnMut(&'static str) -> Result<Map, KernelError>) -> Result<Self, KernelError> {
        let mut array = |name| match take(name)? {
            Map::Array(array) => Ok(array),
            _ => Err(KernelError::Map { name, error: "not an array".to_owned() }),
        };
        let (links, sessions, filter) = (array(name::LINKS)?, array(name::SESSIONS)?, array(name::FILTER)?);
        let begun = array(name::BEGUN)?;
        let config: Array<_, Config> = Array::try_from(take(name::CONFIG)?).map_err(error(name::CONFIG))?;
        Ok(Self {
            current: config.get(&0, 0).map_err(error(name::CONFIG))?,
            config,
            links,
            sessions,
            filter,
            begun,
            rules: LpmTrie::try_from(take(name::RULES)?).map_err(error(name::RULES))?,
            hosts: HashMap::try_from(take(name::HOSTS)?).map_err(error(name::HOSTS))?,
            prefixes: LpmTrie::try_from(take(name::PREFIXES)?).map_err(error(name::PREFIXES))?,
            link_ids: HashMap::try_from(take(name::LINK_IDS)?).map_err(error(name::LINK_IDS))?,
            relays: HashMap::try_from(take(name::RELAYS)?).map_err(error(name::RELAYS))?,
            counters: PerCpuArray::try_from(take(name::COUNTERS)?).map_err(error(name::COUNTERS))?,
            stats: PerCpuArray::try_from(take(name::LINK_STATS)?).map_err(error(name::LINK_STATS))?,
        })
    }

    pub(super) fn links_fd(&self) -> BorrowedFd<'_> {
        self.links.fd().as_fd()
    }

    /// The maps of sessions, of the filter and of flows as memory.
    pub(super) fn places(&self) -> Result<Places, KernelError> {
        let [sessions, filter, begun] =
            [&self.sessions, &self.filter, &self.begun].map(|map| map.fd().as_fd());
        let places = Places::shared(sessions, filter, begun);
        places.map_err(|errno| KernelError::Map {
            name: name::SESSIONS,
            error: format!("cannot be mapped: {errno}"),
        })
    }

    pub(super) fn config(&self) -> Config {
        self.current
    }

    /// Writes all but the generation, which is counted here.
    pub(super) fn set_config(&mut self, config: Config) -> Result<(), KernelError> {
        self.current = Config { generation: self.current.generation, ..config };
        self.start_generation()
    }

    /// Tells the programs that what they remember of the tables may be wrong.
    fn start_generation(&mut self) -> Result<(), KernelError> {
        self.current.generation = self.current.generation.checked_add(1).unwrap_or(1);
        self.config.set(0, self.current, 0).map_err(error(name::CONFIG))
    }

    /// Points a prefix to a link. Whole addresses live in the hash, shorter prefixes in the trie.
    pub(super) fn set_prefix(&mut self, prefix: &Prefix, reference: LinkRef) -> Result<(), KernelError> {
        if prefix.bits == 128 {
            self.hosts.insert(prefix.address, reference, 0).map_err(error(name::HOSTS))?;
        } else {
            self.prefixes.insert(&prefix.key(), reference, 0).map_err(error(name::PREFIXES))?;
        }
        self.start_generation()
    }

    /// Removes what points to `reference`: another link may have the prefix by now.
    pub(super) fn remove_prefix(&mut self, prefix: &Prefix, reference: LinkRef) -> Result<(), KernelError> {
        let found = match prefix.bits {
            128 => self.hosts.get(&prefix.address, 0),
            _ => self.prefixes.get(&prefix.key(), 0),
        };
        if found.is_ok_and(|found| found != reference) {
            return Ok(());
        }
        if prefix.bits == 128 {
            absent_is_fine(self.hosts.remove(&prefix.address)).map_err(error(name::HOSTS))?;
        } else {
            absent_is_fine(self.prefixes.remove(&prefix.key())).map_err(error(name::PREFIXES))?;
        }
        self.start_generation()
    }

    pub(super) fn set_link_id(&mut self, id: LinkId, reference: LinkRef) -> Result<(), KernelError> {
        self.link_ids.insert(id.value(), reference, 0).map_err(error(name::LINK_IDS))?;
        self.start_generation()
    }

    pub(super) fn remove_link_id(&mut self, id: LinkId) -> Result<(), KernelError> {
        absent_is_fine(self.link_ids.remove(&id.value())).map_err(error(name::LINK_IDS))?;
        self.start_generation()
    }

    pub(super) fn set_relay(&mut self, label: u32, relay: &Relay) -> Result<(), KernelError> {
        self.relays.insert(label, relay, 0).map_err(error(name::RELAYS))
    }

    pub(super) fn remove_relay(&mut self, label: u32) -> Result<(), KernelError> {
        absent_is_fine(self.relays.remove(&label)).map_err(error(name::RELAYS))
    }

    pub(super) fn set_rule(&mut self, entry: &Entry) -> Result<(), KernelError> {
        self.rules.insert(&Key::new(entry.bits, entry.key), 1, 0).map_err(error(name::RULES))
    }

    pub(super) fn remove_rule(&mut self, entry: &Entry) -> Result<(), KernelError> {
        absent_is_fine(self.rules.remove(&Key::new(entry.bits, entry.key))).map_err(error(name::RULES))
    }

    /// All that may begin, of all policies.
    pub(super) fn rules(&self) -> Result<Vec<Entry>, KernelError> {
        let entry = |found: Result<(Key<rules::Key>, u32), MapError>| {
            let (key, _) = found.map_err(error(name::RULES))?;
            Ok(Entry { bits: key.prefix_len(), key: key.data() })
        };
        self.rules.iter().map(entry).collect()
    }

    /// All prefixes and what they point to.
    pub(super) fn prefixes(&self) -> Result<Vec<(Prefix, LinkRef)>, KernelError> {
        let mut all = Vec::new();
        for entry in self.hosts.iter() {
            let (address, reference) = entry.map_err(error(name::HOSTS))?;
            all.push((Prefix::host(address), reference));
        }
        for entry in self.prefixes.iter() {
            let (key, reference) = entry.map_err(error(name::PREFIXES))?;
            all.push((
                Prefix { address: Address::from_bytes(key.data()), bits: key.prefix_len() },
                reference,
            ));
        }
        Ok(all)
    }

    pub(super) fn link_ids(&self) -> Result<Vec<(LinkId, LinkRef)>, KernelError> {
        let mut all = Vec::new();
        for entry in self.link_ids.iter() {
            let (value, reference) = entry.map_err(error(name::LINK_IDS))?;
            if let Some(id) = LinkId::new(value) {
                all.push((id, reference));
            }
        }
        Ok(all)
    }

    pub(super) fn counter(&self, counter: Counter) -> Result<u64, KernelError> {
        let values = self.counters.get(&(counter as u32), 0).map_err(error(name::COUNTERS))?;
        Ok(values.iter().sum())
    }

    pub(super) fn stats(&self, index: u32) -> Result<LinkStats, KernelError> {
        let values = self.stats.get(&index, 0).map_err(error(name::LINK_STATS))?;
        Ok(values.iter().fold(LinkStats::default(), |sum, one| LinkStats {
            tx_packets: sum.tx_packets + one.tx_packets,
            tx_bytes: sum.tx_bytes + one.tx_bytes,
            rx_packets: sum.rx_packets + one.rx_packets,
            rx_bytes: sum.rx_bytes + one.rx_bytes,
        }))
    }

    pub(super) fn set_stats(&mut self, index: u32, total: LinkStats) -> Result<(), KernelError> {
        let cpus = self.stats.get(&index, 0).map_err(error(name::LINK_STATS))?.len();
        let Some(values) = on_one_cpu(cpus, total) else { return Ok(()) };
        self.stats.set(index, values, 0).map_err(error(name::LINK_STATS))
    }

    fn set_counter(&mut self, counter: Counter, total: u64) -> Result<(), KernelError> {
        let cpus = self.counters.get(&(counter as u32), 0).map_err(error(name::COUNTERS))?.len();
        let Some(values) = on_one_cpu(cpus, total) else { return Ok(()) };
        self.counters.set(counter as u32, values, 0).map_err(error(name::COUNTERS))
    }

    /// Copies what another daemon's maps of the same layout say about links, and its counters.
    pub(super) fn copy_from(&mut self, other: &Self) -> Result<(), KernelError> {
        self.set_config(other.config())?;
        other.rules()?.iter().try_for_each(|entry| self.set_rule(entry))?;
        for (prefix, reference) in other.prefixes()? {
            self.set_prefix(&prefix, reference)?;
        }
        for (id, reference) in other.link_ids()? {
            self.set_link_id(id, reference)?;
            let index = LinkStats::index(reference.slot);
            self.set_stats(index, other.stats(index)?)?;
        }
        Counter::ALL.iter().try_for_each(|counter| self.set_counter(*counter, other.counter(*counter)?))
    }
}

/// A per-CPU value whose sum over the CPUs is `total`.
fn on_one_cpu<T: aya::Pod + Default>(cpus: usize, total: T) -> Option<PerCpuValues<T>> {
    let mut values = vec![T::default(); cpus];
    *values.first_mut()? = total;
    PerCpuValues::try_from(values).ok()
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
