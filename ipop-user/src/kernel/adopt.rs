//! Finding the kernel path that an earlier daemon of this node left behind.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use blake2::{Blake2s256, Digest};
use ipop_common::maps::{Config, program};

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
    let mut families: Vec<Vec<ProgramInfo>> = Vec::new();
    let ours = loaded_programs().filter_map(Result::ok).filter(|info| known(info));
    for info in ours {
        let maps = map_ids(&info);
        match families.iter_mut().find(|f| f.first().is_some_and(|first| shares(&map_ids(first), &maps))) {
            Some(family) => family.push(info),
            None => families.push(vec![info]),
        }
    }
    families.into_iter().rev().find_map(|family| open(owner, &family))
}

/// A descriptor of a loaded program.
pub(super) fn program_fd(id: u32) -> Option<OwnedFd> {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)?;
    info.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// All programs of one load use the same config map.
fn shares(a: &HashMap<String, u32>, b: &HashMap<String, u32>) -> bool {
    let name = ipop_common::maps::name::CONFIG;
    a.contains_key(name) && a.get(name) == b.get(name)
}

fn known(info: &ProgramInfo) -> bool {
    info.name_as_str().is_some_and(|name| program::ALL.contains(&name))
}

fn open(owner: u64, family: &[ProgramInfo]) -> Option<Previous> {
    let ids: HashMap<String, u32> = family.iter().flat_map(map_ids).collect();
    let maps = Maps::from_ids(&ids).ok()?;
    let config = maps.config().ok()?;
    if config.owner != owner {
        return None;
    }
    Some(Previous { ids: family.iter().map(ProgramInfo::id).collect(), maps, config })
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
