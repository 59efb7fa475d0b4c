//! Traffic in the virtual network: hosts that send packets to each other's virtual addresses, and what
//! became of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipop_overlay::Instant;

use crate::packet::Way;
use crate::world::{HostId, World};

/// UNIX time at which the first host has got its virtual address, in seconds.
const SINCE: u64 = 1_700_000_000;

/// The virtual address of a host that has one of its own.
pub fn address(id: HostId) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(0x0a80_0000 | u32::try_from(id + 1).unwrap_or(u32::MAX)))
}

/// Gives a host the virtual address that nobody else has.
pub fn give_address(world: &mut World, id: HostId) {
    world.set_address(id, address(id), SINCE + id as u64);
}

/// Packets from one host to the virtual address of another, and how it went.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub from: HostId,
    pub to: HostId,
    pub begin: Instant,
    /// The very first packet has arrived.
    pub has_first: bool,
    /// After how long any packet had arrived first, one by a relay, and one by the kernel path.
    pub delivered: Option<Duration>,
    pub relay: Option<Duration>,
    pub kernel: Option<Duration>,
}

/// How flows send.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// One flow begins so long after another.
    pub begin_apart: Duration,
    /// Packets of a flow.
    pub packets_apart: Duration,
    /// A flow ends when it is on the kernel path, or after so long.
    pub patience: Duration,
}

/// Lets hosts send to each other; what came of it, in the order of the pairs.
pub fn run(world: &mut World, pairs: &[(HostId, HostId)], pace: Pace) -> Vec<Flow> {
    let start = world.now;
    let mut flows: Vec<Flow> = (0u32..)
        .zip(pairs)
        .map(|(index, (from, to))| Flow {
            from: *from,
            to: *to,
            begin: start.after(pace.begin_apart * index),
            has_first: false,
            delivered: None,
            relay: None,
            kernel: None,
        })
        .collect();
    let mut sent: HashMap<u64, usize> = HashMap::new();
    let mut first: HashMap<u64, usize> = HashMap::new();
    world.delivered.clear();
    let end = start.after(pace.begin_apart * u32::try_from(pairs.len()).unwrap_or(u32::MAX) + pace.patience);
    while world.now < end {
        for (index, flow) in flows.iter().enumerate() {
            let age = world.now.since(flow.begin);
            if flow.begin > world.now || age >= pace.patience || flow.kernel.is_some() {
                continue;
            }
            let destination = world.hosts[flow.to].daemon.addresses().first().copied();
            let Some(destination) = destination else { continue };
            let id = world.send_packet(flow.from, destination);
            sent.insert(id, index);
            if age < pace.packets_apart {
                first.insert(id, index);
            }
        }
        world.run_for(pace.packets_apart);
        for delivered in std::mem::take(&mut world.delivered) {
            let Some(flow) = sent.get(&delivered.id).and_then(|index| flows.get_mut(*index)) else {
                continue;
            };
            if delivered.to != flow.to {
                continue;
            }
            let after = delivered.at.since(flow.begin);
            flow.has_first |= first.contains_key(&delivered.id);
            flow.delivered.get_or_insert(after);
            match delivered.way {
                Way::Kernel => drop(flow.kernel.get_or_insert(after)),
                Way::Relay => drop(flow.relay.get_or_insert(after)),
                Way::User | Way::Overlay => {}
            }
        }
    }
    flows
}

/// The share of flows of which this holds.
pub fn share<'a>(flows: impl IntoIterator<Item = &'a Flow>, holds: impl Fn(&Flow) -> bool) -> f64 {
    crate::measure::mean(flows.into_iter().map(|flow| f64::from(u8::from(holds(flow)))))
}

/// The median of a time, in seconds, and the longest; those that have none are the longest.
pub fn median_and_longest(flows: &[Flow], time: impl Fn(&Flow) -> Option<Duration>) -> (f64, f64) {
    let mut sorted: Vec<f64> =
        flows.iter().map(|flow| time(flow).map_or(f64::INFINITY, |time| time.as_secs_f64())).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::INFINITY);
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}
