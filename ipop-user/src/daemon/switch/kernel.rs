//! The stations in the kernel's maps: what the data threads go by, and at the same times.
//!
//! A station whose next frame is to be seen is not in the maps: the kernel path leaves that frame to the user path,
//! which shows it to the control task. So one whose frames all go by the kernel does not age.

use std::collections::BTreeMap;

use ipop_common::Address;
use ipop_common::ethernet::{Mac, station};
use ipop_common::maps::LinkRef;
use ipop_overlay::PeerId;
use tracing::warn;

use super::stations::Place;
use crate::daemon::{Daemon, clock};
use crate::kernel::KernelError;

impl Daemon {
    /// Declares to the kernel's maps what is on this node's side: its addresses and, in a switch, its stations.
    pub(in crate::daemon) fn set_kernel_local(&mut self) -> Result<(), KernelError> {
        let own = self.addresses.iter().map(|own| (Address::from(own.addr()), LinkRef::LOCAL));
        let mut local: BTreeMap<Address, LinkRef> = own.collect();
        if let Some(switch) = self.switch.as_ref().filter(|switch| switch.guard.other().is_none()) {
            let here = switch.stations.settled(clock::now()).filter(|(_, place)| *place == Place::Here);
            local.extend(here.map(|(mac, _)| (station(mac), LinkRef::BRIDGED)));
            local.insert(station(switch.mac), LinkRef::LOCAL);
        }
        match &mut self.kernel.path {
            Some(path) => path.set_local(local),
            None => Ok(()),
        }
    }

    /// Notes which stations each peer has by now, and tells the kernel's maps of those of this node's side. Says whose
    /// have changed: their links are to be brought up to date.
    pub(in crate::daemon) fn place_stations(&mut self) -> Vec<PeerId> {
        if self.switch.is_none() || self.kernel.path.is_none() {
            return Vec::new();
        }
        if let Err(error) = self.set_kernel_local() {
            warn!(%error, "the kernel path does not know all stations of this side");
        }
        let mut stations = self.stations_of_peers();
        let mut changed = Vec::new();
        for peer in self.peers.values_mut() {
            let macs = stations.remove(&peer.id).unwrap_or_default();
            if peer.stations != macs {
                peer.stations = macs;
                changed.push(peer.id);
            }
        }
        changed
    }

    /// Nobody's, where another node has this one's segment.
    fn stations_of_peers(&self) -> BTreeMap<PeerId, Vec<Mac>> {
        let mut stations = BTreeMap::new();
        let Some(switch) = self.switch.as_ref().filter(|switch| switch.guard.other().is_none()) else {
            return stations;
        };
        for peer in self.peers.values() {
            stations.insert(peer.id, vec![peer.mac]);
        }
        for (mac, place) in switch.stations.settled(clock::now()) {
            if let Place::There(key) = place
                && let Some(macs) = self.node.peer_of_key(&key).and_then(|id| stations.get_mut(&id))
            {
                macs.push(mac);
            }
        }
        stations
    }
}
