//! The sockets: whose queries are taken, how many, and what is sent back. One task for each socket, one for each
//! query that has to wait for somebody, one for each TCP connection; all of them bounded.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use ipop_common::Counter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::directory::Directory;
use super::forward::{By, Forward};
use super::limits::Limits;
use super::message::{Malformed, Query};
use super::zone::Zone;
use crate::config::Prefix;
use crate::userpath::Counters;

/// Queries that wait for the directory, or for a server elsewhere.
const UNDER_WAY_MAX: usize = 256;
/// For the directory to answer.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(2);
/// RFC 7766, section 6.2: a few at a time, none of which is kept idle for long.
const STREAMS_MAX: usize = 32;
const STREAM_IDLE: Duration = Duration::from_secs(10);
/// For a query to come in whole, and for an answer to be taken.
const STREAM_STEP: Duration = Duration::from_secs(2);
/// A query has one name, and little more; larger ones are cut off by the kernel, and malformed then.
const QUERY_MAX: usize = 4096;
/// After an error of a socket's.
const PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 64;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    ThisHost,
    Member,
}

/// What askers of one kind may have of this node at a time: members take nothing from this host's programs.
#[derive(Debug)]
struct Share {
    under_way: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Share {
    fn new() -> Self {
        Self {
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

/// What all sockets share.
#[derive(Debug)]
pub(super) struct Server<D> {
    pub(super) zone: Zone,
    pub(super) directory: D,
    pub(super) forward: Forward,
    pub(super) counters: Arc<Counters>,
    /// This node's addresses in the virtual network.
    pub(super) networks: Vec<Prefix>,
    /// Members are answered too.
    pub(super) serve: bool,
    limits: Mutex<Limits>,
    for_host: Share,
    for_members: Share,
}

impl<D: Directory> Server<D> {
    pub(super) fn new(
        zone: Zone,
        directory: D,
        forward: Forward,
        counters: Arc<Counters>,
        (networks, serve): (Vec<Prefix>, bool),
    ) -> Self {
        Self {
            zone,
            directory,
            forward,
            counters,
            networks,
            serve,
            limits: Mutex::new(Limits::new(Instant::now())),
            for_host: Share::new(),
            for_members: Share::new(),
        }
    }

    fn share(&self, asker: Asker) -> &Share {
        match asker {
            Asker::ThisHost => &self.for_host,
            Asker::Member => &self.for_members,
        }
    }

    /// Answers what comes by UDP, until the task is ended.
    pub(super) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; QUERY_MAX];
        loop {
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "DNS socket");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(asker) = self.admit(from.ip()) else { continue };
            let bytes = buffer[..len].to_vec();
            let Ok(permit) = Arc::clone(&self.share(asker).under_way).try_acquire_owned() else {
                self.counters.add(Counter::RxDnsFlood, 1);
                continue;
            };
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&bytes, asker, By::Udp).await
                    && let Err(error) = socket.send_to(&answer, from).await
                {
                    debug!(%from, %error, "DNS answer not sent");
                }
                drop(permit);
            });
        }
    }

    /// Answers what comes by TCP, until the task is ended.
    pub(super) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "DNS listener");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // One of a stranger's, or one that is too many, is closed at once.
            let Some(asker) = self.admit(from.ip()) else { continue };
            let Ok(permit) = Arc::clone(&self.share(asker).streams).try_acquire_owned() else {
                self.counters.add(Counter::RxDnsFlood, 1);
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = server.converse(stream, from.ip()).await {
                    debug!(%from, %error, "DNS connection closed");
                }
                drop(permit);
            });
        }
    }

    /// One query after the other, until the other end has no more, or says nothing for too long.
    async fn converse(&self, mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
        loop {
            let len = match timeout(STREAM_IDLE, stream.read_u16()).await {
                Err(_) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(len) => usize::from(len?),
            };
            let Some(asker) = self.admit(from) else { return Ok(()) };
            if len > QUERY_MAX {
                self.counters.add(Counter::RxBadDns, 1);
                return Ok(());
            }
            let mut bytes = vec![0; len];
            timeout(STREAM_STEP, stream.read_exact(&mut bytes)).await??;
            let Some(answer) = self.answer(&bytes, asker, By::Tcp).await else { return Ok(()) };
            let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let whole = [&len.to_be_bytes()[..], &answer].concat();
            timeout(STREAM_STEP, stream.write_all(&whole)).await??;
        }
    }

    /// Whether somebody is answered now, and as who; if not, that has been counted.
    fn admit(&self, from: IpAddr) -> Option<Asker> {
        let from = from.to_canonical();
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own = self.networks.iter().any(|own| own.addr() == from) || from.is_loopback();
        let (asker, is_admitted) = match is_own {
            true => (Asker::ThisHost, limits.admit_host(Instant::now())),
            // Before it is looked at who that is, which takes a system call.
            false if !limits.admit_other(from, Instant::now()) => (Asker::Member, false),
            false if is_local(from) => (Asker::ThisHost, limits.admit_host(Instant::now())),
            false => (Asker::Member, true),
        };
        drop(limits);
        let is_member = || self.serve && self.networks.iter().any(|network| network.contains(from));
        let refused = match (asker, is_admitted) {
            (_, false) => Some(Counter::RxDnsFlood),
            (Asker::Member, true) if !is_member() => Some(Counter::RxDnsStranger),
            _ => None,
        };
        refused.iter().for_each(|counter| self.counters.add(*counter, 1));
        refused.is_none().then_some(asker)
    }

    /// The answer to a message; `None`: it deserves none.
    async fn answer(&self, bytes: &[u8], asker: Asker, by: By) -> Option<Vec<u8>> {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Malformed(answer)) => {
                self.counters.add(Counter::RxBadDns, 1);
                return answer;
            }
        };
        if !query.is_plain() {
            return Some(query.failure(ResponseCode::Refused));
        }
        let can_forward = asker == Asker::ThisHost && self.forward.is_there();
        let found = self.zone.answer(query.name(), query.kind(), &self.directory);
        match timeout(LOOKUP_PATIENCE, found).await {
            Ok(Ok(Some(answer))) => {
                let max = if by == By::Udp { query.udp_max() } else { u16::MAX.into() };
                Some(query.answer(answer, can_forward, max))
            }
            Ok(Ok(None)) if can_forward => {
                let answer = self.forward.ask(bytes, by).await;
                Some(answer.unwrap_or_else(|| query.failure(ResponseCode::ServFail)))
            }
            Ok(Ok(None)) => Some(query.failure(ResponseCode::Refused)),
            Ok(Err(_)) | Err(_) => Some(query.failure(ResponseCode::ServFail)),
        }
    }
}

/// Whether an address is this host's own: the kernel lets nobody else's be bound.
fn is_local(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// Sockets at one address, by UDP and by TCP. An IPv6 address may still be looked for twice on the link: it can be
/// bound before that has ended.
pub(super) fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let open = |kind, protocol| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                socket.set_freebind_v6(true)?;
            }
        }
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let udp = open(Type::DGRAM, Protocol::UDP)?;
    let tcp = open(Type::STREAM, Protocol::TCP)?;
    tcp.listen(BACKLOG)?;
    Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp.into())?))
}

#[cfg(test)]
mod tests;
