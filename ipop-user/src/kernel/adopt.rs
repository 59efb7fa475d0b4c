//! Finding the kernel path that an earlier daemon of this node left behind.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use blake2::{Blake2s256, Digest};
use ipop_common::maps::{Config, name, program};

use super::maps::Maps;

/// What an earlier daemon left attached. Its maps are held open; its programs hang on the devices.
pub(super) struct Previous {
    ids: Vec<u32>,
    pub(super) maps: Maps,
    pub(super) config: Config,
}

impl Previous {
    pub(super) fn program_ids(&self) -> &[u32] {
        &self.ids
    }
}

/// Names a node on this machine: its network namespace and its virtual device.
pub fn owner(device: &str) -> std::io::Result<u64> {
    let namespace = std::fs::metadata("/proc/self/ns/net")?;
    let digest = Blake2s256::new()
        .chain_update(namespace.dev().to_le_bytes())
        .chain_update(namespace.ino().to_le_bytes())
        .chain_update(device.as_bytes())
        .finalize();
    Ok(digest.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

/// Looks for programs whose config map names `owner`; the latest where there are several.
pub(super) fn find(owner: u64) -> Option<Previous> {
    let ours: Vec<Loaded> = loaded_programs().filter_map(Result::ok).filter(known).map(Loaded::new).collect();
    let mut configs: Vec<u32> = ours.iter().filter_map(|p| p.maps.get(name::CONFIG).copied()).collect();
    configs.dedup();
    configs.into_iter().rev().find_map(|config| open(owner, &family(&ours, config)))
}

/// A program of ours and its maps by name.
struct Loaded {
    info: ProgramInfo,
    maps: HashMap<String, u32>,
}

impl Loaded {
    fn new(info: ProgramInfo) -> Self {
        let maps = map_ids(&info);
        Self { info, maps }
    }
}

/// The programs of the load that made a config map: those that use it, and those that share another
/// map with one of them (the guard has no use for the configuration).
fn family(all: &[Loaded], config: u32) -> Vec<&Loaded> {
    let with_config = |p: &&Loaded| p.maps.get(name::CONFIG) == Some(&config);
    let maps: HashSet<u32> = all.iter().filter(with_config).flat_map(|p| p.maps.values().copied()).collect();
    all.iter().filter(|p| p.maps.values().any(|id| maps.contains(id))).collect()
}

/// A descriptor of a loaded program.
pub(super) fn program_fd(id: u32) -> Option<OwnedFd> {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)?;
    info.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

fn known(info: &ProgramInfo) -> bool {
    info.name_as_str().is_some_and(|name| program::ALL.contains(&name))
}

fn open(owner: u64, family: &[&Loaded]) -> Option<Previous> {
    let ids = family.iter().flat_map(|p| p.maps.iter().map(|(name, id)| (name.clone(), *id))).collect();
    let maps = Maps::from_ids(&ids).ok()?;
    let config = maps.config();
    if config.owner != owner {
        return None;
    }
    Some(Previous { ids: family.iter().map(|p| p.info.id()).collect(), maps, config })
}

fn map_ids(info: &ProgramInfo) -> HashMap<String, u32> {
    let ids = info.map_ids().ok().flatten().unwrap_or_default();
    ids.into_iter()
        .filter_map(|id| {
            let map = MapInfo::from_id(id).ok()?;
            Some((map.name_as_str()?.to_owned(), id))
        })
        .collect()
}
