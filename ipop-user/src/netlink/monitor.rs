//! What changes on the host, as the kernel announces it. Reads a socket of its own, and holds no
//! more than one batch: a consumer that lags makes the kernel's buffer overflow, and is told so.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily as SocketFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::link::LinkState;
use super::{Error, Result, neighbour};

/// Bytes of announcements that the kernel keeps for us; one takes about 1 to 2 KiB of them.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;
/// No announcement is longer (netlink(7): messages of more than a page are for dumps).
const MESSAGE_LEN_MAX: usize = 64 << 10;
/// Announcements read in one go, before the consumer sees them.
const BATCH_LEN_MAX: usize = 64;

/// What we listen to. Rules and nexthop objects decide routes as well.
const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// One change of the host's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device is new or has changed.
    Link(LinkState),
    /// The device of that index is gone.
    LinkGone(u32),
    /// The addresses of a device have changed.
    Address { ifindex: u32 },
    /// Some route, routing rule or nexthop object has changed: paths must be resolved again. IPv4
    /// routes that go away with their device or address are **not** announced, so that `Link`,
    /// `LinkGone` and `Address` call for the same.
    Route,
    /// What the kernel believes of a neighbour: `mac` is `None` once it can send nothing there.
    Neighbour { ifindex: u32, address: IpAddr, mac: Option<[u8; 6]> },
    /// Announcements were lost. All that was read before may be stale: read it again.
    Lost,
}

/// The kernel's announcements, from [`Monitor::open`] on.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    pending: VecDeque<Change>,
}

impl Monitor {
    /// Listens from now on, in the caller's network namespace. Open it before the first reading
    /// of what it announces, and nothing falls between.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self> {
        let socket = socket().map_err(|errno| Error::Socket(errno.into()))?;
        // SAFETY: an `OwnedFd` is open and stays the same descriptor for as long as it lives, and
        // the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = registered.map_err(|error| Error::Socket(error.into()))?;
        Ok(Self { socket, buffer: vec![0; MESSAGE_LEN_MAX], pending: VecDeque::new() })
    }

    /// Waits for the next change. Cancel-safe: a change that was not returned comes next time.
    /// Changes that follow one another and are equal are given once.
    ///
    /// # Errors
    /// [`Error::Socket`] if the socket is unusable.
    pub async fn next(&mut self) -> Result<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            let mut ready = self.socket.readable().await.map_err(Error::Socket)?;
            let (buffer, pending) = (&mut self.buffer, &mut self.pending);
            match ready.try_io(|socket| read_batch(socket.get_ref(), buffer, pending)) {
                Ok(read) => read.map_err(Error::Socket)?,
                Err(_would_block) => {}
            }
        }
    }
}

fn socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(SocketFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    // Past the system's limit where we may, up to it otherwise.
    if socket::setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN).is_err() {
        socket::setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_LEN)?;
    }
    let groups = GROUPS.iter().fold(0_u32, |mask, group| mask | 1 << (*group as u32 - 1));
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Reads until the socket is empty or the batch is full. An error of EWOULDBLOCK means that
/// nothing at all was there.
fn read_batch(socket: &OwnedFd, buffer: &mut [u8], pending: &mut VecDeque<Change>) -> io::Result<()> {
    for count in 0..BATCH_LEN_MAX {
        match receive(socket, buffer) {
            Ok(datagram) => changes(datagram).for_each(|change| push(pending, change)),
            Err(Errno::ENOBUFS) => push(pending, Change::Lost),
            Err(Errno::EAGAIN) if count > 0 => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// One datagram of the kernel's; empty if it is somebody else's.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> nix::Result<&'a [u8]> {
    let (len, sender) = socket::recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer)?;
    let from_kernel = sender.is_some_and(|sender| sender.pid() == 0);
    Ok(buffer.get(..len).filter(|_| from_kernel).unwrap_or_default())
}

fn push(pending: &mut VecDeque<Change>, change: Change) {
    if pending.back() != Some(&change) {
        pending.push_back(change);
    }
}

/// The changes that a datagram announces. What cannot be read counts as lost.
fn changes(datagram: &[u8]) -> impl Iterator<Item = Change> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = NetlinkBuffer::new_checked(rest).map_or(rest.len(), |message| message.length() as usize);
        let (message, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        rest = after.get(len.next_multiple_of(4) - len..).unwrap_or_default();
        Some(change(message))
    })
    .flatten()
}

fn change(message: &[u8]) -> Option<Change> {
    let kind = NetlinkBuffer::new_checked(message).map(|message| message.message_type());
    if let Ok(RTM_NEWNEXTHOP | RTM_DELNEXTHOP) = kind {
        return Some(Change::Route);
    }
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
        Ok(message) => match message.payload {
            NetlinkPayload::InnerMessage(inner) => announced(&inner),
            NetlinkPayload::Overrun(_) => Some(Change::Lost),
            _ => None,
        },
        Err(error) => {
            tracing::warn!("cannot read a netlink announcement, reading everything again: {error}");
            Some(Change::Lost)
        }
    }
}

fn announced(message: &RouteNetlinkMessage) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) => LinkState::parse(link).map(Change::Link),
        // A port that leaves a bridge is announced as a deletion of family AF_BRIDGE.
        RouteNetlinkMessage::DelLink(link) if is_device(link) => Some(Change::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(Change::Address { ifindex: address.header.index })
        }
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Some(Change::Route),
        RouteNetlinkMessage::NewNeighbour(entry) => Some(Change::Neighbour {
            ifindex: entry.header.ifindex,
            address: neighbour::address(entry)?,
            mac: neighbour::mac(entry),
        }),
        RouteNetlinkMessage::DelNeighbour(entry) => Some(Change::Neighbour {
            ifindex: entry.header.ifindex,
            address: neighbour::address(entry)?,
            mac: None,
        }),
        _ => None,
    }
}

fn is_device(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}
