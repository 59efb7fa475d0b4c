//! The interfaces that carry the links: programs attached to them, by TC and by XDP.

use std::collections::BTreeMap;

use ipop_common::relay::Exit;
use tracing::{debug, info, warn};

use crate::api::XdpState;
use crate::config::Xdp;
use crate::kernel::{KernelError, KernelPath};
use crate::netlink::{Error as NetlinkError, Netlink, XdpMode};

/// Which XDP mode to use, decided once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct XdpPlan {
    pub(super) mode: Option<XdpMode>,
    /// A refusal of what the operator demanded is an error; of our own choice, not.
    pub(super) demanded: bool,
    pub(super) reason: Option<String>,
}

impl XdpPlan {
    /// `merges_before_tc`: the kernel merges clear frames before TC sees them (the receive offload
    /// of the VXLAN-GPE device, Linux 6.5), which is faster than XDP wherever it was measured.
    pub(super) fn decide(configured: Xdp, merges_before_tc: bool) -> Self {
        let auto = || {
            if merges_before_tc {
                (None, "TC behind the kernel's VXLAN receive offload is faster")
            } else {
                (Some(XdpMode::Native), "the kernel does not merge clear frames before TC")
            }
        };
        match configured {
            Xdp::Off => Self { mode: None, demanded: true, reason: None },
            Xdp::Native => Self { mode: Some(XdpMode::Native), demanded: true, reason: None },
            Xdp::Generic => Self { mode: Some(XdpMode::Generic), demanded: true, reason: None },
            Xdp::Auto => {
                let (mode, reason) = auto();
                Self { mode, demanded: false, reason: Some(reason.to_owned()) }
            }
        }
    }
}

/// Why an interface cannot carry links in the kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnderlayError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// One interface with our programs.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) xdp: Option<XdpMode>,
    /// How the driver sends what our XDP program in it has changed.
    pub(super) exit: Option<Exit>,
}

#[derive(Debug)]
pub(super) struct Underlays {
    plan: XdpPlan,
    attached: BTreeMap<u32, Attached>,
    /// Why XDP that the operator demands is missing somewhere.
    failure: Option<String>,
}

impl Underlays {
    pub(super) fn new(plan: XdpPlan) -> Self {
        Self { plan, attached: BTreeMap::new(), failure: None }
    }

    /// Why XDP that the operator demands is missing somewhere.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Attaches what the plan says; harmless where it is attached already.
    pub(super) async fn attach(
        &mut self,
        kernel: &mut KernelPath,
        netlink: &Netlink,
        ifindex: u32,
        name: &str,
    ) -> Result<(), UnderlayError> {
        if self.attached.contains_key(&ifindex) {
            return Ok(());
        }
        kernel.attach_underlay(ifindex)?;
        let mut attached = Attached { name: name.to_owned(), xdp: None, exit: None };
        if let Some(mode) = self.plan.mode {
            match attach_xdp(kernel, netlink, ifindex, mode).await {
                Ok(()) => attached.xdp = Some(mode),
                Err(error) if self.plan.demanded => {
                    kernel.detach_underlay(ifindex);
                    self.failure = Some(error.to_string());
                    return Err(error);
                }
                Err(error) => {
                    warn!(interface = name, %error, "no XDP, TC alone");
                    self.plan.reason = Some(error.to_string());
                }
            }
        } else {
            remove_own_xdp(kernel, netlink, ifindex).await;
        }
        attached.exit = exit(netlink, ifindex, attached.xdp).await;
        info!(interface = name, xdp = ?attached.xdp, exit = ?attached.exit, "kernel path attached");
        self.attached.insert(ifindex, attached);
        Ok(())
    }

    /// Asks again what drivers do: with a virtual device that depends on its other end.
    pub(super) async fn look_at_drivers(&mut self, netlink: &Netlink) {
        for (ifindex, attached) in &mut self.attached {
            let exit = exit(netlink, *ifindex, attached.xdp).await;
            if exit != attached.exit {
                info!(interface = attached.name, ?exit, "how the driver sends for XDP has changed");
                attached.exit = exit;
            }
        }
    }

    /// How XDP may send frames that came in at the interface out of it.
    pub(super) fn exit(&self, ifindex: u32) -> Option<Exit> {
        self.attached.get(&ifindex)?.exit
    }

    /// An interface is gone, and what hung on it.
    pub(super) fn forget(&mut self, kernel: Option<&mut KernelPath>, ifindex: u32) {
        if self.attached.remove(&ifindex).is_some()
            && let Some(kernel) = kernel
        {
            kernel.detach_underlay(ifindex);
        }
    }

    /// Takes XDP programs off; TC programs are the kernel path's.
    pub(super) async fn close(&mut self, kernel: Option<&KernelPath>, netlink: &Netlink) {
        let own = kernel.and_then(|kernel| kernel.xdp_program().ok());
        for (ifindex, attached) in std::mem::take(&mut self.attached) {
            if let Some(mode) = attached.xdp
                && let Err(error) = netlink.detach_xdp(ifindex, mode, own).await
            {
                warn!(interface = attached.name, %error, "XDP program left behind");
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Attached)> {
        self.attached.iter().map(|(ifindex, attached)| (*ifindex, attached))
    }

    pub(super) fn contains(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&ifindex)
    }

    /// What is active, and why it is not what was asked for.
    pub(super) fn xdp(&self) -> (XdpState, Option<String>) {
        let active = self.attached.values().find_map(|attached| attached.xdp);
        let state = match active {
            None => XdpState::Off,
            Some(XdpMode::Generic) => XdpState::Generic,
            Some(_) => XdpState::Native,
        };
        (state, self.plan.reason.clone())
    }
}

/// Attaches XDP, in the place of an earlier daemon's program where there is one.
async fn attach_xdp(
    kernel: &KernelPath,
    netlink: &Netlink,
    ifindex: u32,
    mode: XdpMode,
) -> Result<(), UnderlayError> {
    let program = kernel.xdp_program()?;
    let previous = match netlink.xdp(ifindex).await? {
        Some(present) if kernel.is_previous(present.prog_id) => kernel.previous_fd(present.prog_id),
        _ => None,
    };
    let expected = previous.as_ref().map(std::os::fd::AsFd::as_fd);
    netlink.attach_xdp(ifindex, program, mode, expected).await?;
    Ok(())
}

/// How a driver sends what an XDP program in it has changed. All of hardware transmit, it is part of what native XDP
/// is. A veth drops such frames without a word unless its other end takes them, which Linux 6.3 tells. Other virtual
/// devices, and generic XDP, which would send a merged super-packet as it is, are not relied on.
async fn exit(netlink: &Netlink, ifindex: u32, mode: Option<XdpMode>) -> Option<Exit> {
    if mode != Some(XdpMode::Native) {
        return None;
    }
    let exit = match netlink.link(ifindex).await {
        Ok(link) => match link.kind.as_deref() {
            None => Ok(Some(Exit::Transmit)),
            Some("veth") => netlink.sends_for_xdp(ifindex).await.map(|sends| sends.then_some(Exit::Redirect)),
            Some(_) => Ok(None),
        },
        Err(error) => Err(error),
    };
    exit.unwrap_or_else(|error| {
        debug!(%error, "relay frames are left to TC");
        None
    })
}

/// Detaches the program of an earlier run that used XDP where this one does not.
async fn remove_own_xdp(kernel: &KernelPath, netlink: &Netlink, ifindex: u32) {
    if let Ok(Some(present)) = netlink.xdp(ifindex).await
        && kernel.is_previous(present.prog_id)
        && let Err(error) = netlink.detach_xdp(ifindex, present.mode, None).await
    {
        warn!(%error, "the XDP program of an earlier run stays");
    }
}
