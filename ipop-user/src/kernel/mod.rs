//! The kernel path as the daemon sees it: programs loaded or adopted, attached, and their maps
//! filled from the links that the daemon decides on.
//!
//! Persistence: programs are attached to the devices themselves (tcx without a link object, or
//! clsact filters), not held by file descriptors or pins, so the kernel path outlives the daemon in
//! any mount namespace; a later daemon finds programs and maps by the owner that the config map
//! names ([`adopt`]). See docs/decisions/0002-persistence.md.

mod adopt;
mod attach;
mod links;
mod maps;
mod object;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::programs::ProgramError;
use ipop_common::counter::COUNTERS;
use ipop_common::encapsulation::{Underlay, write_template};
use ipop_common::gpe::LinkId;
use ipop_common::limits::{KERNEL_PORT, LINKS_MAX};
use ipop_common::maps::{Config, LAYOUT, Link, LinkRef, LinkStats, Relay, program};
use ipop_common::rules::read_key;
use ipop_common::session::Agreed;
use ipop_common::{Address, Counter};
use ipop_overlay::group::rules::{Entry, Policy};
use tracing::{debug, info};

use crate::places::Places;
pub use adopt::owner;
pub use attach::{Hook, Method};
use links::LinkTable;
use maps::Maps;
pub use maps::Prefix;
use object::Programs;

/// Why the kernel path cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("BPF is refused ({0}): run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Refused(io::Error),
    #[error("the kernel's verifier or loader refused the programs: {0}")]
    Load(String),
    #[error("cannot attach {program} to interface {ifindex}: {error}")]
    Attach { program: &'static str, ifindex: u32, error: String },
    #[error("map {name}: {error}")]
    Map { name: &'static str, error: String },
    #[error("all {LINKS_MAX} links are in use")]
    Full,
    #[error("prefix {0} belongs to two links")]
    PrefixTaken(String),
}

impl KernelError {
    fn from_program(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
                Self::Refused(io_error)
            }
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                Self::Load(format!("{io_error}: {last}"))
            }
            other => Self::Load(other.to_string()),
        }
    }
}

/// What the maps must know about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkIntent {
    pub underlay: Underlay,
    /// Underlay interface that leads to the peer, or to the relay.
    pub ifindex: u32,
    /// Largest inner packet in bytes.
    pub mtu: u16,
    /// False: the peer's kernel path is off; frames from it are taken, packets to it miss.
    pub send: bool,
    /// Clear frames of the peer are taken.
    pub takes_clear: bool,
    pub sessions: LinkSessions,
    /// What may begin between this node and the peer.
    pub policy: Arc<Policy>,
    /// Inner addresses that belong to the peer.
    pub prefixes: Vec<Prefix>,
}

/// The sessions of a link, by their local indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSessions {
    /// The one that packets to the peer are sealed with.
    pub current: Option<u32>,
    /// Those whose packets the kernel path opens, the current one among them.
    pub all: Vec<u32>,
}

/// A session that an earlier daemon left, at its place already.
#[derive(Debug)]
pub struct AdoptedSession {
    /// The link that it belongs to.
    pub link: LinkId,
    /// Packets to the peer are sealed with it.
    pub is_current: bool,
    pub agreed: Agreed,
}

/// Counters that an earlier daemon and its programs may still draw while they are replaced are never
/// drawn here: that many would take the programs hours.
const COUNTERS_SKIPPED: u64 = 1 << 32;

struct Installed {
    slot: u32,
    epoch: u32,
    /// `None` for an entry taken over from an earlier daemon and not yet confirmed.
    intent: Option<LinkIntent>,
    prefixes: Vec<Prefix>,
}

impl Installed {
    fn reference(&self) -> LinkRef {
        LinkRef { slot: self.slot, epoch: self.epoch }
    }
}

/// Everything the daemon holds of the kernel path.
pub struct KernelPath {
    programs: Programs,
    set: program::Set,
    maps: Maps,
    links: LinkTable,
    places: Arc<Places>,
    /// Those of an earlier daemon, until its programs are gone.
    previous_places: Option<Places>,
    attachments: attach::Attachments,
    installed: BTreeMap<LinkId, Installed>,
    /// What the table of rules holds, by policy.
    rules: BTreeMap<u64, Vec<Entry>>,
    local: BTreeMap<Address, LinkRef>,
    config: Config,
    epoch: u32,
    adopted: bool,
}

impl std::fmt::Debug for KernelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelPath")
            .field("config", &self.config)
            .field("links", &self.installed.len())
            .finish()
    }
}

/// How a kernel path is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Those for what the virtual network carries.
    pub programs: program::Set,
    /// The virtual device.
    pub device_ifindex: u32,
    /// The helper device for misses; 0 where the virtual device is a TUN itself.
    pub miss_ifindex: u32,
    /// From [`owner`].
    pub owner: u64,
    /// The daemon's UDP port, on which sealed packets arrive.
    pub sealed_port: u16,
    /// Log every refusal (a second build of the programs).
    pub log: bool,
}

impl KernelPath {
    /// Loads the programs, and takes over the tables of an earlier daemon with the same owner.
    ///
    /// The programs are always this daemon's own: where an earlier one's are attached, `attach`
    /// replaces them in one step, after the tables have been copied, so that no packet finds a gap.
    pub fn open(settings: Settings) -> Result<Self, KernelError> {
        let bytes = object::bytes(settings.log);
        let previous = adopt::find(settings.owner);
        let mut attachments = attach::Attachments::new(attach::method(), settings.owner);
        let (programs, mut maps) = object::load(bytes, &settings.programs)?;
        let mut links = LinkTable::map(maps.links_fd())?;
        let places = maps.places()?;
        let mut previous_places = None;
        let mut adopted = false;
        if let Some(previous) = &previous {
            attachments.replace(previous.program_ids());
            if previous.config.layout == LAYOUT {
                info!("taking over the links of an earlier run");
                adopted = true;
                maps.copy_from(&previous.maps)?;
                links.copy_from(&LinkTable::map(previous.maps.links_fd())?);
                let old = previous.maps.places()?;
                copy_sessions(&old, &places);
                places.copy_begun(&old);
                previous_places = Some(old);
            }
        }
        let config = Config {
            layout: LAYOUT,
            enabled: 1,
            device_ifindex: settings.device_ifindex,
            miss_ifindex: settings.miss_ifindex,
            owner: settings.owner,
            object: object::identity(bytes),
            port: KERNEL_PORT,
            sealed_port: settings.sealed_port,
            ..Config::default()
        };
        let mut path = Self {
            programs,
            set: settings.programs,
            maps,
            links,
            places: Arc::new(places),
            previous_places,
            attachments,
            installed: BTreeMap::new(),
            rules: BTreeMap::new(),
            local: BTreeMap::new(),
            config,
            epoch: 0,
            adopted,
        };
        path.maps.set_config(path.config)?;
        path.take_over_entries()?;
        Ok(path)
    }

    /// Whether links of an earlier run were taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Where the programs find the sessions' keys.
    pub fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// The sessions that were taken over with their links, of each link the current one first. Those of
    /// no link are erased.
    pub fn adopted_sessions(&self) -> Vec<AdoptedSession> {
        let mut adopted = Vec::new();
        for local in self.places.sessions() {
            let place = self.places.of(local);
            let slot = place.link().slot;
            let of_slot = |installed: &Installed| LinkStats::index(installed.slot) == LinkStats::index(slot);
            let link = self.installed.iter().find(|(_, installed)| of_slot(installed));
            match (link, place.read(0)) {
                (Some((link, installed)), Some(agreed)) => {
                    let is_current = self.links.read(installed.slot).session == local;
                    adopted.push(AdoptedSession { link: *link, is_current, agreed });
                }
                _ => place.vacate(),
            }
        }
        adopted.sort_by_key(|session| !session.is_current);
        adopted
    }

    /// All programs are this daemon's now: what the earlier one's have accepted since the tables were
    /// copied is noted, and its keys are erased.
    pub fn settle(&mut self) {
        let Some(old) = self.previous_places.take() else { return };
        for local in old.sessions() {
            if self.places.of(local).is(local) {
                self.places.of(local).absorb(old.of(local));
            }
            old.of(local).vacate();
        }
    }

    /// How TC programs are attached on this kernel.
    pub fn method(&self) -> Method {
        self.attachments.method()
    }

    /// Attaches what belongs on the virtual device and on the helper device.
    pub fn attach_devices(&mut self) -> Result<(), KernelError> {
        let device = self.config.device_ifindex;
        if self.config.miss_ifindex != 0 {
            self.attach(self.set.deliver, self.config.miss_ifindex, Hook::Ingress)?;
        }
        self.attach(self.set.guard, device, Hook::Ingress)?;
        self.attach(self.set.egress, device, Hook::Egress)
    }

    /// Attaches TC ingress to an underlay interface; repeated calls are harmless.
    pub fn attach_underlay(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.attach(self.set.ingress, ifindex, Hook::Ingress)
    }

    /// Forgets an underlay interface, detaching where it still exists.
    pub fn detach_underlay(&mut self, ifindex: u32) {
        self.attachments.detach(&self.programs, ifindex);
    }

    fn attach(&mut self, name: &'static str, ifindex: u32, hook: Hook) -> Result<(), KernelError> {
        self.attachments.attach(&mut self.programs, name, ifindex, hook)
    }

    /// The XDP program, to be attached by netlink.
    pub fn xdp_program(&self) -> Result<BorrowedFd<'_>, KernelError> {
        self.programs.fd(self.set.xdp)
    }

    /// Whether a program is one of the earlier daemon's that this one replaces.
    pub fn is_previous(&self, program: u32) -> bool {
        self.attachments.is_previous(program)
    }

    /// A descriptor of such a program.
    pub fn previous_fd(&self, program: u32) -> Option<OwnedFd> {
        adopt::program_fd(program)
    }

    /// Switches encapsulation on or off; off, every packet misses.
    pub fn set_enabled(&mut self, enabled: bool) -> Result<(), KernelError> {
        self.config.enabled = u32::from(enabled);
        self.maps.set_config(self.config)
    }

    pub fn enabled(&self) -> bool {
        self.config.enabled != 0
    }

    /// Declares the inner addresses of this node's side: each as [`LinkRef::LOCAL`] or [`LinkRef::BRIDGED`].
    pub fn set_local(&mut self, wanted: BTreeMap<Address, LinkRef>) -> Result<(), KernelError> {
        for (gone, mark) in self.local.iter().filter(|(address, _)| !wanted.contains_key(*address)) {
            self.maps.remove_prefix(&Prefix::host(*gone), *mark)?;
        }
        for (address, mark) in wanted.iter().filter(|(address, mark)| self.local.get(*address) != Some(*mark))
        {
            self.maps.set_prefix(&Prefix::host(*address), *mark)?;
        }
        self.local = wanted;
        Ok(())
    }

    /// Makes the maps carry a link, until `lease_until_ns` (CLOCK_MONOTONIC).
    ///
    /// A changed link is written to the slot that is not in use, then the tables are switched over,
    /// then the old slot is emptied: no packet sees half of an entry.
    pub fn install(
        &mut self,
        id: LinkId,
        intent: &LinkIntent,
        lease_until_ns: u64,
    ) -> Result<(), KernelError> {
        if let Some(installed) = self.installed.get(&id)
            && installed.intent.as_ref() == Some(intent)
        {
            self.links.renew(installed.slot, lease_until_ns);
            return Ok(());
        }
        let slot = self.free_slot(id)?;
        // Before a link refers to them.
        self.add_rules(&intent.policy)?;
        let epoch = self.next_epoch();
        let mut link = Link {
            epoch,
            ifindex: intent.ifindex,
            mtu: intent.mtu,
            flags: intent.policy.flags() | if intent.send { 0 } else { Link::RECEIVE_ONLY },
            lease_until_ns,
            session: intent.sessions.current.unwrap_or(0),
            policy: intent.policy.id(),
            ..Link::EMPTY
        };
        write_template(&mut link, &intent.underlay);
        match intent.takes_clear {
            true => link.flags |= Link::TAKES_CLEAR,
            false => link.flags &= !Link::TAKES_CLEAR,
        }
        self.links.write(slot, &link);
        let reference = LinkRef { slot, epoch };
        for prefix in &intent.prefixes {
            self.maps.set_prefix(prefix, reference)?;
        }
        self.maps.set_link_id(id, reference)?;
        for local in &intent.sessions.all {
            let place = self.places.of(*local);
            if place.is(*local) {
                place.set_link(reference);
            }
        }
        let entry =
            Installed { slot, epoch, intent: Some(intent.clone()), prefixes: intent.prefixes.clone() };
        debug!(link = id.value(), slot, epoch, ?link, "link installed");
        if let Some(old) = self.installed.insert(id, entry) {
            self.links.clear(old.slot);
            for prefix in old.prefixes.iter().filter(|p| !intent.prefixes.contains(p)) {
                self.maps.remove_prefix(prefix, old.reference())?;
            }
            self.forget_rules(old.slot)?;
        }
        Ok(())
    }

    /// Makes every cached entry of a link miss, with one store.
    pub fn invalidate(&mut self, id: LinkId) {
        if let Some(installed) = self.installed.get_mut(&id) {
            self.links.clear(installed.slot);
            installed.intent = None;
        }
    }

    /// Takes a link out of the maps.
    pub fn remove(&mut self, id: LinkId) -> Result<(), KernelError> {
        let Some(installed) = self.installed.remove(&id) else { return Ok(()) };
        self.links.clear(installed.slot);
        self.maps.remove_link_id(id)?;
        for prefix in &installed.prefixes {
            self.maps.remove_prefix(prefix, installed.reference())?;
        }
        self.forget_rules(installed.slot)
    }

    fn add_rules(&mut self, policy: &Policy) -> Result<(), KernelError> {
        if policy.is_open() || self.rules.contains_key(&policy.id()) {
            return Ok(());
        }
        let entries = policy.entries();
        self.rules.insert(policy.id(), entries.clone());
        let outcome = entries.iter().try_for_each(|entry| self.maps.set_rule(entry));
        if outcome.is_err() {
            self.remove_rules(policy.id())?;
        }
        outcome
    }

    /// Empties the table of rules of the policy that was the one of the link in a slot, if no other has it.
    fn forget_rules(&mut self, slot: u32) -> Result<(), KernelError> {
        let policy = self.links.read(slot).policy;
        let is_used = |installed: &Installed| self.links.read(installed.slot).policy == policy;
        if policy == 0 || self.installed.values().any(is_used) {
            return Ok(());
        }
        self.remove_rules(policy)
    }

    fn remove_rules(&mut self, policy: u64) -> Result<(), KernelError> {
        let entries = self.rules.remove(&policy).unwrap_or_default();
        entries.iter().try_for_each(|entry| self.maps.remove_rule(entry))
    }

    /// Removes all links that are not in `keep`.
    pub fn retain(&mut self, keep: &HashSet<LinkId>) -> Result<(), KernelError> {
        let gone: Vec<_> = self.installed.keys().filter(|id| !keep.contains(id)).copied().collect();
        gone.into_iter().try_for_each(|id| self.remove(id))
    }

    /// Passes on what two nodes send to each other with this label.
    pub fn set_relay(&mut self, label: u32, relay: &Relay) -> Result<(), KernelError> {
        self.maps.set_relay(label, relay)
    }

    /// Does so no more.
    pub fn remove_relay(&mut self, label: u32) -> Result<(), KernelError> {
        self.maps.remove_relay(label)
    }

    /// Whether all that is known of a link is what an earlier daemon has installed.
    pub fn is_inherited(&self, id: LinkId) -> bool {
        self.installed.get(&id).is_some_and(|installed| installed.intent.is_none())
    }

    /// The entry of a link as the programs see it now.
    pub fn entry(&self, id: LinkId) -> Option<Link> {
        let installed = self.installed.get(&id)?;
        Some(self.links.read(installed.slot)).filter(|link| link.epoch == installed.epoch)
    }

    /// All counters, summed over CPUs, in the order of [`Counter::ALL`].
    pub fn counters(&self) -> Result<[u64; COUNTERS as usize], KernelError> {
        let mut values = [0; COUNTERS as usize];
        for (value, counter) in values.iter_mut().zip(Counter::ALL) {
            *value = self.maps.counter(*counter)?;
        }
        Ok(values)
    }

    /// Traffic of a link through the kernel path, summed over CPUs; zero for an unknown one.
    pub fn stats(&self, id: LinkId) -> Result<LinkStats, KernelError> {
        match self.installed.get(&id) {
            Some(installed) => self.maps.stats(LinkStats::index(installed.slot)),
            None => Ok(LinkStats::default()),
        }
    }

    /// Detaches everything that this daemon attached by TC. Devices are the caller's.
    pub fn close(mut self) {
        self.attachments.detach_all(&self.programs);
    }

    /// A slot that no table refers to: the other one of the link's pair, or one of a free pair,
    /// whose statistics start at zero.
    fn free_slot(&mut self, id: LinkId) -> Result<u32, KernelError> {
        if let Some(installed) = self.installed.get(&id) {
            return Ok(installed.slot ^ 1);
        }
        let used: HashSet<u32> = self.installed.values().map(|i| LinkStats::index(i.slot)).collect();
        let index = (0..LINKS_MAX).find(|index| !used.contains(index)).ok_or(KernelError::Full)?;
        self.maps.set_stats(index, LinkStats::default())?;
        Ok(index * 2)
    }

    fn next_epoch(&mut self) -> u32 {
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        self.epoch
    }

    /// Learns from the maps what an earlier daemon installed; its leases run on.
    fn take_over_entries(&mut self) -> Result<(), KernelError> {
        let mut by_slot: HashMap<u32, Vec<(Prefix, LinkRef)>> = HashMap::new();
        for (prefix, reference) in self.maps.prefixes()? {
            if reference.is_local() {
                self.local.insert(prefix.address, reference);
            } else {
                by_slot.entry(reference.slot).or_default().push((prefix, reference));
            }
        }
        for (id, reference) in self.maps.link_ids()? {
            self.epoch = self.epoch.max(reference.epoch);
            let prefixes = by_slot.remove(&reference.slot).unwrap_or_default();
            let prefixes = prefixes.into_iter().map(|(prefix, _)| prefix).collect();
            let entry = Installed { slot: reference.slot, epoch: reference.epoch, intent: None, prefixes };
            self.installed.insert(id, entry);
        }
        for entry in self.maps.rules()? {
            let (policy, ..) = read_key(&entry.key);
            self.rules.entry(policy).or_default().push(entry);
        }
        let used: HashSet<u64> = self.installed.values().map(|of| self.links.read(of.slot).policy).collect();
        let unused: Vec<u64> = self.rules.keys().filter(|policy| !used.contains(policy)).copied().collect();
        unused.into_iter().try_for_each(|policy| self.remove_rules(policy))?;
        for (prefix, reference) in by_slot.into_values().flatten() {
            self.maps.remove_prefix(&prefix, reference)?;
        }
        Ok(())
    }
}

/// Copies the sessions of an earlier daemon, whose programs go on using them for a moment.
fn copy_sessions(old: &Places, new: &Places) {
    for local in old.sessions() {
        let from = old.of(local);
        if let Some(agreed) = from.read(COUNTERS_SKIPPED) {
            new.of(local).install(&agreed, Some(from));
        }
    }
}

fn raw(fd: &impl AsRawFd) -> u32 {
    // A valid descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}
