//! The test bed: for every system two namespaces and a wire of its own, all up at once, since
//! what one system does to a wire (native XDP switches offloads off) must not reach the others.
//! Owns set-up and tear-down; measures nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::load::Load;
use super::peers::Peers;
use super::plan::{Conditions, System, TUNNEL_FAR_ADDRESS, TUNNEL_NEAR_ADDRESS, Wire};
use crate::build::Binaries;
use crate::config::Datapath;
use crate::daemon::Daemons;
use crate::netns::{NetNs, Pair};
use crate::sh;

/// How namespaces and folders of a bench begin.
pub(crate) const PREFIX: &str = "ipop-bench";
const VXLAN_DEVICE: &str = "vx0";
const VXLAN_ID: u32 = 42;
const VXLAN_PORT: u16 = 4789;

/// Set alike in every namespace, whatever the machine's defaults are. A receive window of 2 MiB
/// instead of the kernel's 6 keeps what is under way in the cores' caches: with more, one run of
/// the bare wire reads 19 Gbit/s and the next 34; with this, 31 to 34.
pub(crate) const SYSCTLS: &[(&str, &str)] =
    &[("net/ipv4/tcp_rmem", "4096 131072 2097152"), ("net/ipv4/tcp_wmem", "4096 16384 4194304")];

/// One system, ready to be measured. Parts are dropped in this order: sockets, daemons of ours or
/// of others, wire.
#[derive(Debug)]
pub(crate) struct Testbed {
    pub(crate) load: Load,
    pub(crate) daemons: Option<Daemons>,
    _peers: Option<Peers>,
    pub(crate) pair: Pair,
    /// Resident memory of the larger of the two daemons before the first packet.
    pub(crate) idle_bytes: Option<u64>,
}

impl Testbed {
    /// `binaries` may be `None` where `system` runs no ipopd.
    pub(crate) fn set_up(
        wire: Wire,
        system: System,
        conditions: &Conditions,
        binaries: Option<&Binaries>,
    ) -> Result<Self> {
        let pair = wired_pair(wire, system.name())?;
        if system == System::Vxlan {
            add_vxlan(
                &pair.near,
                Pair::NEAR_DEVICE,
                Pair::NEAR_ADDRESS,
                Pair::FAR_ADDRESS,
                TUNNEL_NEAR_ADDRESS,
            )?;
            add_vxlan(
                &pair.far,
                Pair::FAR_DEVICE,
                Pair::FAR_ADDRESS,
                Pair::NEAR_ADDRESS,
                TUNNEL_FAR_ADDRESS,
            )?;
        }
        let daemons = match system.datapath() {
            Some(datapath) => {
                let binaries = binaries.context("ipopd was not built")?;
                // A network of its own: the link ids of two systems have nothing in common.
                let network = format!("bench-{}-{}", wire.name(), system.name());
                let mut daemons = Daemons::start(binaries, &pair, &network, datapath)?;
                daemons.wait_for_path(system.peer_path(), datapath.link_security())?;
                if let Some(difference) = daemons.near.control.active()?.difference(&datapath) {
                    bail!("ipopd runs, but {difference}");
                }
                Some(daemons)
            }
            None => None,
        };
        let peers = system.product().map(|product| Peers::start(product, &pair)).transpose()?;
        let idle_bytes = daemons.as_ref().map(idle_bytes).transpose()?;
        let load = Load::open(&pair.near, &pair.far, system.target(), &conditions.congestion_control)?;
        Ok(Self { load, daemons, _peers: peers, pair, idle_bytes })
    }
}

/// Which kernel row ipopd chooses on `wire` when it is left to choose; `None` where it chooses
/// the user path.
pub(crate) fn automatic(wire: Wire, binaries: &Binaries) -> Result<Option<System>> {
    let pair = wired_pair(wire, "auto")?;
    let active = Daemons::start(binaries, &pair, "bench-auto", Datapath::SEALED)?.near.wait_until_up()?;
    Ok(match (active.kernel.as_str(), active.xdp.as_str()) {
        ("on", "off") => Some(System::KernelTc),
        ("on", _) => Some(System::KernelXdp),
        _ => None,
    })
}

pub(crate) fn wired_pair(wire: Wire, what: &str) -> Result<Pair> {
    let pair = Pair::create(PREFIX, &format!("{}-{what}", wire.name()))?;
    for (namespace, device) in [(&pair.near, Pair::NEAR_DEVICE), (&pair.far, Pair::FAR_DEVICE)] {
        set_features(namespace, device, wire)?;
        set_sysctls(namespace)?;
    }
    Ok(pair)
}

fn idle_bytes(daemons: &Daemons) -> Result<u64> {
    Ok(daemons.near.resident_bytes()?.max(daemons.far.resident_bytes()?))
}

fn set_features(namespace: &NetNs, device: &str, wire: Wire) -> Result<()> {
    if wire.features().is_empty() {
        return Ok(());
    }
    let program = sh::find("ethtool").context("ethtool is missing")?;
    let mut command = Command::new(program);
    command.args(["-K", device]).args(wire.features());
    namespace.enter(&mut command)?;
    sh::capture(&mut command)?;
    Ok(())
}

pub(super) fn set_sysctls(namespace: &NetNs) -> Result<()> {
    namespace.run(|| {
        for (name, value) in SYSCTLS {
            fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("cannot set {name}"))?;
        }
        Ok(())
    })
}

fn add_vxlan(namespace: &NetNs, device: &str, local: &str, remote: &str, address: &str) -> Result<()> {
    namespace.ip(&format!(
        "link add {VXLAN_DEVICE} type vxlan id {VXLAN_ID} dstport {VXLAN_PORT} local {local} remote {remote} dev {device}"
    ))?;
    namespace.ip(&format!("address add {address}/24 dev {VXLAN_DEVICE}"))?;
    namespace.ip(&format!("link set {VXLAN_DEVICE} up"))?;
    Ok(())
}
