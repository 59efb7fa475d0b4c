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
    inbox: Inbox,
}

/// What was read and not yet given to the consumer.
#[derive(Debug, Default)]
struct Inbox {
    pending: VecDeque<Change>,
    /// The kernel's buffer has overflowed and is being emptied.
    overflowed: bool,
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
        Ok(Self { socket, buffer: vec![0; MESSAGE_LEN_MAX], inbox: Inbox::default() })
    }

    /// Waits for the next change. Cancel-safe: a change that was not returned comes next time.
    /// Changes that follow one another and are equal are given once.
    ///
    /// # Errors
    /// [`Error::Socket`] if the socket is unusable.
    pub async fn next(&mut self) -> Result<Change> {
        loop {
            if let Some(change) = self.inbox.pending.pop_front() {
                return Ok(change);
            }
            let mut ready = self.socket.readable().await.map_err(Error::Socket)?;
            let (buffer, inbox) = (&mut self.buffer, &mut self.inbox);
            match ready.try_io(|socket| read_batch(socket.get_ref(), buffer, inbox)) {
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
fn read_batch(socket: &OwnedFd, buffer: &mut [u8], inbox: &mut Inbox) -> io::Result<()> {
    for count in 0..BATCH_LEN_MAX {
        match receive(socket, buffer) {
            Ok(_) if inbox.overflowed => {}
            Ok(datagram) => changes(datagram).for_each(|change| inbox.push(change)),
            Err(Errno::ENOBUFS) => inbox.overflow(),
            Err(Errno::EAGAIN) if inbox.overflowed => {
                inbox.recover();
                return Ok(());
            }
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

impl Inbox {
    fn push(&mut self, change: Change) {
        if !self.overflowed && self.pending.back() != Some(&change) {
            self.pending.push_back(change);
        }
    }

    /// The kernel reports an overflow once, ahead of what is queued, and drops whatever comes
    /// until the queue has been empty. So the consumer must not hear of it, and read everything
    /// again, before that; and what is queued is of no use to it.
    fn overflow(&mut self) {
        self.overflowed = true;
        self.pending.clear();
    }

    fn recover(&mut self) {
        self.overflowed = false;
        self.push(Change::Lost);
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

#[cfg(test)]
mod tests {
    //! The datagrams in `fixtures/` are the kernel's own (6.18, x86-64), in the order of
    //! `ip link add vx0 type vxlan external gpe dstport 4790 udp6zerocsumrx`, a veth pair p0 and p1,
    //! and what `ip` can do to them.

    use proptest::prelude::*;

    use super::*;

    const LINK_VXLAN: &[u8] = include_bytes!("fixtures/link-vxlan.bin");
    const LINK_VETH: &[u8] = include_bytes!("fixtures/link-veth.bin");
    const LINK_GONE: &[u8] = include_bytes!("fixtures/link-gone.bin");
    const PORT_LEFT_BRIDGE: &[u8] = include_bytes!("fixtures/link-port-left-bridge.bin");
    const ADDRESS_NEW: &[u8] = include_bytes!("fixtures/address-new.bin");
    const ROUTE_NEW: &[u8] = include_bytes!("fixtures/route-new.bin");
    const NEXTHOP_NEW: &[u8] = include_bytes!("fixtures/nexthop-new.bin");
    const NEIGHBOUR_NEW: &[u8] = include_bytes!("fixtures/neighbour-new.bin");
    const NEIGHBOUR_FAILED: &[u8] = include_bytes!("fixtures/neighbour-failed.bin");
    const NEIGHBOUR_GONE: &[u8] = include_bytes!("fixtures/neighbour-gone.bin");
    const ALL: [&[u8]; 10] = [
        LINK_VXLAN,
        LINK_VETH,
        LINK_GONE,
        PORT_LEFT_BRIDGE,
        ADDRESS_NEW,
        ROUTE_NEW,
        NEXTHOP_NEW,
        NEIGHBOUR_NEW,
        NEIGHBOUR_FAILED,
        NEIGHBOUR_GONE,
    ];

    fn read(datagram: &[u8]) -> Vec<Change> {
        changes(datagram).collect()
    }

    fn neighbour(mac: Option<[u8; 6]>) -> Change {
        Change::Neighbour { ifindex: 4, address: IpAddr::from([10, 7, 0, 2]), mac }
    }

    #[test]
    fn a_vxlan_device_has_no_mac() {
        let state = LinkState {
            ifindex: 2,
            name: "vx0".into(),
            mtu: 1464,
            master: None,
            mac: None,
            up: false,
            running: false,
            carrier: false,
            kind: Some("vxlan".into()),
            arphrd: 65534,
        };
        assert_eq!(read(LINK_VXLAN), [Change::Link(state)]);
    }

    #[test]
    fn an_ethernet_device_has_a_mac_and_carrier() {
        let [Change::Link(state)] = &read(LINK_VETH)[..] else { panic!("{:?}", read(LINK_VETH)) };
        assert_eq!((state.name.as_str(), state.mtu, state.arphrd), ("p0", 1400, 1));
        assert!(state.up && state.running && state.carrier && state.mac.is_some());
        assert_eq!(state.kind.as_deref(), Some("veth"));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        assert_eq!(read(PORT_LEFT_BRIDGE), []);
        assert_eq!(read(LINK_GONE), [Change::LinkGone(3)]);
    }

    #[test]
    fn a_neighbour_loses_its_mac_when_it_fails_or_goes() {
        assert_eq!(read(NEIGHBOUR_NEW), [neighbour(Some([2, 0, 0, 0, 0, 2]))]);
        assert_eq!(read(NEIGHBOUR_FAILED), [neighbour(None)]);
        assert_eq!(read(NEIGHBOUR_GONE), [neighbour(None)]);
    }

    #[test]
    fn routes_and_nexthops_are_the_same_change() {
        assert_eq!(read(ROUTE_NEW), [Change::Route]);
        assert_eq!(read(NEXTHOP_NEW), [Change::Route]);
        assert_eq!(read(ADDRESS_NEW), [Change::Address { ifindex: 4 }]);
    }

    #[test]
    fn a_datagram_may_hold_several_messages() {
        let both = [NEIGHBOUR_NEW, ADDRESS_NEW].concat();
        assert_eq!(read(&both), [neighbour(Some([2, 0, 0, 0, 0, 2])), Change::Address { ifindex: 4 }]);
    }

    #[test]
    fn what_cannot_be_read_counts_as_lost() {
        for datagram in ALL {
            assert_eq!(read(&datagram[..datagram.len() - 1]), [Change::Lost]);
        }
        assert_eq!(read(&[0]), [Change::Lost]);
        assert_eq!(read(&[]), []);
    }

    fn inbox(changes: impl IntoIterator<Item = Change>) -> Inbox {
        let mut inbox = Inbox::default();
        changes.into_iter().for_each(|change| inbox.push(change));
        inbox
    }

    #[test]
    fn equal_changes_in_a_row_are_given_once() {
        let inbox = inbox([Change::Route, Change::Route, Change::LinkGone(2), Change::Route]);
        assert_eq!(inbox.pending, [Change::Route, Change::LinkGone(2), Change::Route]);
    }

    #[test]
    fn an_overflow_replaces_all_that_was_queued() {
        let mut inbox = inbox([Change::Route]);
        inbox.overflow();
        inbox.push(Change::LinkGone(2));
        assert_eq!(inbox.pending, []);
        inbox.recover();
        inbox.push(Change::LinkGone(3));
        assert_eq!(inbox.pending, [Change::Lost, Change::LinkGone(3)]);
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(datagram in proptest::collection::vec(any::<u8>(), 0..256)) {
            read(&datagram);
        }

        #[test]
        fn damaged_announcements_do_no_harm(
            which in 0..ALL.len(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            len in any::<prop::sample::Index>(),
        ) {
            let mut datagram = ALL[which].to_vec();
            let at = at.index(datagram.len());
            datagram[at] = byte;
            read(&datagram);
            datagram.truncate(len.index(datagram.len()));
            read(&datagram);
        }
    }
}
