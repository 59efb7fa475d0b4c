//! Nodes on the same LAN: each listens to a multicast group, and one that is alone asks there.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use ipop_overlay::Instant;
use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tracing::debug;

use crate::netlink::mark_underlay;

/// Of the addresses for use within one site (RFC 2365): `I` and `P`.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 73, 80);
const PORT: u16 = 15002;
/// How often is asked at first; half as often each time.
const ASK: Duration = Duration::from_secs(1);
const ASK_MAX: Duration = Duration::from_secs(30);
/// Answers are taken for so long.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many are answered within [`ANSWERS_SPAN`].
const ANSWERS_MAX: u32 = 64;
const ANSWERS_SPAN: Duration = Duration::from_secs(1);
/// A question is shorter; of what is longer, the end is cut off, and the rest refused.
const DATAGRAM_MAX: usize = 256;

/// The group's members on all LANs of this node.
pub(super) struct Lan {
    socket: UdpSocket,
    /// This node's address on each.
    joined: BTreeSet<Ipv4Addr>,
    wait: Duration,
    ask_at: Instant,
    asked: Option<Instant>,
    answers: (Instant, u32),
}

impl Lan {
    /// Beside other nodes on this host, which listen to the same group.
    pub(super) fn open(now: Instant) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        mark_underlay(&socket);
        // The group's address: nothing else that is sent to the port comes here.
        socket.bind(&SocketAddr::from((GROUP, PORT)).into())?;
        // Only what comes from where it was joined.
        socket.set_multicast_all_v4(false)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, joined: BTreeSet::new(), wait: ASK, ask_at: now, asked: None, answers: (now, 0) })
    }

    /// Listens on these LANs, and on no others.
    pub(super) fn join(&mut self, lans: &[Ipv4Addr]) {
        let socket = SockRef::from(&self.socket);
        let wanted: BTreeSet<Ipv4Addr> = lans.iter().copied().collect();
        for gone in self.joined.difference(&wanted) {
            // With its address a membership may have gone already.
            let _ = socket.leave_multicast_v4(&GROUP, gone);
        }
        let mut joined: BTreeSet<Ipv4Addr> = self.joined.intersection(&wanted).copied().collect();
        for new in wanted.difference(&self.joined) {
            match socket.join_multicast_v4(&GROUP, new) {
                Ok(()) => drop(joined.insert(*new)),
                // A second address on one interface.
                Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
                Err(error) => debug!(lan = %new, %error, "not listening to the nodes of this LAN"),
            }
        }
        if joined.difference(&self.joined).next().is_some() {
            (self.wait, self.ask_at) = (ASK, super::clock::now());
        }
        self.joined = joined;
    }

    pub(super) fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Where to ask now: nowhere, unless this node is alone.
    pub(super) fn due(&mut self, is_alone: bool, now: Instant) -> Vec<Ipv4Addr> {
        if self.ask_at > now {
            return Vec::new();
        }
        self.ask_at = now.after(self.wait);
        if !is_alone {
            self.wait = ASK;
            self.ask_at = now.after(ASK_MAX);
            return Vec::new();
        }
        self.wait = (self.wait * 2).min(ASK_MAX);
        self.asked = Some(now);
        self.joined.iter().copied().collect()
    }

    /// Whether it is a while since somebody was asked.
    pub(super) fn expects_answers(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.since(asked) < PATIENCE)
    }

    /// Whether one more may be answered.
    pub(super) fn may_answer(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.answers;
        if now.since(*since) >= ANSWERS_SPAN {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= ANSWERS_MAX
    }

    /// Sends a question to all on the LAN on which this node has the address `lan`, from the socket to which
    /// answers are to come.
    pub(super) fn ask(socket: &impl AsFd, lan: Ipv4Addr, question: &[u8]) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_multicast_if_v4(&lan)?;
        socket.send_to_with_flags(question, &SocketAddr::from((GROUP, PORT)).into(), libc::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The next datagram to the group.
    pub(super) async fn next(&self) -> (SocketAddr, Vec<u8>) {
        let mut datagram = vec![0; DATAGRAM_MAX];
        loop {
            match self.socket.recv_from(&mut datagram).await {
                Ok((len, from)) => {
                    datagram.truncate(len);
                    return (from, datagram);
                }
                // Of an earlier packet; the socket is as good as before.
                Err(error) => debug!(%error, "nothing heard from the LAN"),
            }
        }
    }
}
