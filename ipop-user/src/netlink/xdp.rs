//! XDP attachment by RTM_SETLINK, which stays when the daemon dies (a BPF link would go with its
//! last descriptor). Never takes a device from somebody else's program. Loads no programs.

use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};

use super::link::{LinkRef, at};
use super::request::Failure;
use super::{Error, Netlink, Result};

/// `XDP_FLAGS_UPDATE_IF_NOEXIST`: only where no program is attached.
const UPDATE_IF_NOEXIST: u32 = 1;
/// `XDP_FLAGS_REPLACE`: only where the expected program is attached.
const REPLACE: u32 = 1 << 4;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// In the stack, on any device.
    Generic,
    /// On the network card.
    Offloaded,
}

impl XdpMode {
    /// Its name in the configuration and in `ip link`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }

    /// `XDP_FLAGS_DRV_MODE`, `.._SKB_MODE`, `.._HW_MODE`.
    fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
            Self::Offloaded => 1 << 3,
        }
    }
}

/// A program that is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    pub mode: XdpMode,
    pub prog_id: u32,
}

impl Netlink {
    /// Attaches `program`. With `expected`, puts it in the place of that program; without, only
    /// where there is none.
    ///
    /// # Errors
    /// [`Error::XdpBusy`] if another program than the expected one is there, in whichever mode;
    /// [`Error::XdpUnsupported`] if the device or its driver cannot.
    pub async fn attach_xdp(
        &self,
        ifindex: u32,
        program: BorrowedFd<'_>,
        mode: XdpMode,
        expected: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        self.set_xdp(ifindex, program.as_raw_fd(), mode, expected).await
    }

    /// Detaches the program of that mode. With `expected`, only if it is that program. None being
    /// attached is no error.
    ///
    /// # Errors
    /// [`Error::XdpBusy`] if another program than the expected one is there.
    pub async fn detach_xdp(
        &self,
        ifindex: u32,
        mode: XdpMode,
        expected: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        match self.xdp(ifindex).await? {
            Some(attachment) if attachment.mode == mode => self.set_xdp(ifindex, -1, mode, expected).await,
            _ => Ok(()),
        }
    }

    /// The attached program, whoever's it is.
    pub async fn xdp(&self, ifindex: u32) -> Result<Option<XdpAttachment>> {
        match self.link_message(LinkRef::Index(ifindex)).await {
            Ok(message) => Ok(attachment(&message)),
            Err(failure) => {
                Err(self.explain_for(ifindex, failure, |device| format!("look up device {device}")).await)
            }
        }
    }

    async fn set_xdp(
        &self,
        ifindex: u32,
        fd: i32,
        mode: XdpMode,
        expected: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let mut message = at(ifindex);
        message.attributes.push(LinkAttribute::Xdp(settings(fd, mode, expected.map(|fd| fd.as_raw_fd()))));
        match self.request(RouteNetlinkMessage::SetLink(message), 0).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.explain_xdp(ifindex, mode, failure).await),
        }
    }

    async fn explain_xdp(&self, ifindex: u32, mode: XdpMode, failure: Failure) -> Error {
        let device = self.name_of(ifindex).await;
        match failure.errno() {
            // Taken; another than expected, or another mode.
            Some(libc::EBUSY | libc::EEXIST) => Error::XdpBusy { device },
            Some(libc::EPERM | libc::ENODEV) | None => {
                failure.explain(format!("set the XDP program of {device}"), &device)
            }
            Some(_) => Error::XdpUnsupported { device, mode: mode.name(), reason: failure.reason() },
        }
    }
}

/// `fd` -1 detaches.
fn settings(fd: i32, mode: XdpMode, expected: Option<i32>) -> Vec<LinkXdp> {
    match expected {
        Some(expected) => {
            let expected = LinkXdp::ExpectedFd(expected.cast_unsigned());
            vec![LinkXdp::Fd(fd), LinkXdp::Flags(mode.flag() | REPLACE), expected]
        }
        None if fd < 0 => vec![LinkXdp::Fd(fd), LinkXdp::Flags(mode.flag())],
        None => vec![LinkXdp::Fd(fd), LinkXdp::Flags(mode.flag() | UPDATE_IF_NOEXIST)],
    }
}

fn attachment(message: &LinkMessage) -> Option<XdpAttachment> {
    let xdp = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    })?;
    let attached = xdp.iter().find_map(|nla| match nla {
        LinkXdp::Attached(attached) => Some(*attached),
        _ => None,
    })?;
    let prog_id = |mode: XdpMode| {
        let id = xdp.iter().find_map(|nla| match (mode, nla) {
            (XdpMode::Native, LinkXdp::DrvProgId(id))
            | (XdpMode::Generic, LinkXdp::SkbProgId(id))
            | (XdpMode::Offloaded, LinkXdp::HwProgId(id)) => Some(*id),
            _ => None,
        });
        id.map(|prog_id| XdpAttachment { mode, prog_id })
    };
    match attached {
        XdpAttached::Driver => prog_id(XdpMode::Native),
        XdpAttached::SocketBuffer => prog_id(XdpMode::Generic),
        XdpAttached::Hardware => prog_id(XdpMode::Offloaded),
        // Offloaded besides another mode: ours is the other.
        XdpAttached::Multiple => prog_id(XdpMode::Native).or_else(|| prog_id(XdpMode::Generic)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(xdp: Vec<LinkXdp>) -> Option<XdpAttachment> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Xdp(xdp));
        attachment(&message)
    }

    #[test]
    fn an_attachment_is_reported_with_its_mode() {
        let native = vec![LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(5), LinkXdp::DrvProgId(5)];
        assert_eq!(reported(native), Some(XdpAttachment { mode: XdpMode::Native, prog_id: 5 }));
        let generic =
            vec![LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(6), LinkXdp::SkbProgId(6)];
        assert_eq!(reported(generic), Some(XdpAttachment { mode: XdpMode::Generic, prog_id: 6 }));
        let both =
            vec![LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::SkbProgId(6), LinkXdp::HwProgId(7)];
        assert_eq!(reported(both), Some(XdpAttachment { mode: XdpMode::Generic, prog_id: 6 }));
        assert_eq!(reported(vec![LinkXdp::Attached(XdpAttached::None)]), None);
        assert_eq!(attachment(&LinkMessage::default()), None);
    }

    #[test]
    fn nobody_is_replaced_unasked() {
        let flags = |settings: Vec<LinkXdp>| match settings[1] {
            LinkXdp::Flags(flags) => flags,
            ref other => panic!("{other:?}"),
        };
        assert_eq!(flags(settings(9, XdpMode::Native, None)), 4 | UPDATE_IF_NOEXIST);
        assert_eq!(flags(settings(9, XdpMode::Generic, Some(8))), 2 | REPLACE);
        assert_eq!(flags(settings(-1, XdpMode::Generic, None)), 2);
        assert_eq!(flags(settings(-1, XdpMode::Native, Some(8))), 4 | REPLACE);
    }
}
