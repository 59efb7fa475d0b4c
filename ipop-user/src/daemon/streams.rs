//! TCP, for hosts that UDP does not reach: the same datagrams as by UDP, each behind its length. Who is at the other
//! end is for the sessions to find out. What comes is handed to the data threads, as if a socket of theirs had
//! received it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipop_common::Counter;
use ipop_overlay::stream::{Reader, push};
use ipop_overlay::{Endpoint, Instant, PeerId};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::{Daemon, clock};
use crate::netlink::{connect_underlay, mark_underlay};
use crate::userpath::{Counters, Inlet};

/// Connections at a time, those that have just ended among them.
const STREAMS_MAX: usize = 128;
/// Of them, those that others have opened and no member of the network has used yet, for all and for one address.
const STRANGERS_MAX: usize = 32;
const STRANGERS_OF_ONE_MAX: usize = 8;
/// Of them, those that this node is opening.
const OPENING_MAX: usize = 16;
/// How long opening one may take.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// One that is no peer's for so long is closed.
const UNUSED: Duration = Duration::from_secs(10);
/// One that could not be opened is not tried again for so long.
const REOPEN: Duration = Duration::from_secs(1);
/// What has been sent and is not acknowledged for so long ends a connection (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel asks so often whether the other end is there, while nothing is sent.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// Datagrams that wait for a connection.
const WAITING_MAX: usize = 512;
/// Bytes that are put together for one write.
const WRITE_MAX: usize = 64 << 10;
/// Bytes that are read at a time.
const READ_MAX: usize = 64 << 10;
/// What connections have to say.
const WORDS_MAX: usize = 64;
/// How long this node goes on trying TCP after it has needed it.
const WANTED: Duration = Duration::from_secs(60);

/// All TCP connections.
pub(super) struct Streams {
    inlet: Inlet,
    counters: Arc<Counters>,
    connections: BTreeMap<SocketAddr, Connection>,
    listeners: Vec<Listening>,
    words: (mpsc::Sender<Word>, mpsc::Receiver<Word>),
    /// Numbers connections, so that the end of one is not taken for that of the next to the same place.
    next: u64,
    /// Until when other nodes are tried by TCP too.
    wanted_until: Option<Instant>,
}

/// A socket that others connect to; it is closed when this is dropped.
struct Listening {
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Connection {
    number: u64,
    /// This node has opened it, and may do so again.
    is_own: bool,
    state: State,
    /// Since when no peer has been there; `None` while one is.
    unused_since: Option<Instant>,
}

enum State {
    Opening(Running),
    Open(Running),
    Gone { at: Instant },
}

/// The task that moves a connection's bytes; it ends when this is dropped.
struct Running {
    datagrams: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What connections have to say.
pub(super) enum Word {
    /// Another node has opened one.
    Accepted(TcpStream, SocketAddr),
    /// One is open.
    Opened(SocketAddr, u64),
    /// One is closed.
    Closed(SocketAddr, u64, io::Error),
}

impl Streams {
    pub(super) fn new(inlet: Inlet, counters: Arc<Counters>, listeners: Vec<TcpListener>) -> Self {
        let words = mpsc::channel(WORDS_MAX);
        let listeners = listeners.into_iter().filter_map(|listener| {
            let address = listener.local_addr().ok()?;
            let task = tokio::spawn(accept(listener, words.0.clone()));
            Some(Listening { address, task })
        });
        let listeners = listeners.collect();
        Self { inlet, counters, connections: BTreeMap::new(), listeners, words, next: 0, wanted_until: None }
    }

    pub(super) async fn next_word(&mut self) -> Word {
        match self.words.1.recv().await {
            Some(word) => word,
            None => unreachable!("this end has a sender as well"),
        }
    }

    /// Where others may connect to.
    pub(super) fn listens_at(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listening| listening.address)
    }

    /// UDP does not do: other nodes are tried by TCP too, for a while.
    pub(super) fn want(&mut self, now: Instant) {
        if self.wanted_until.is_none() {
            info!("nobody answers by UDP: TCP is tried too");
        }
        self.wanted_until = Some(now.after(WANTED));
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted_until.is_some()
    }

    /// Sends a datagram on the connection to a place, which is opened if this node may do that.
    pub(super) fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        let now = clock::now();
        if self.is_to_be_opened(to, now) {
            self.open(to, now);
        }
        let has_taken = match self.connections.get(&to).map(|connection| &connection.state) {
            Some(State::Open(running) | State::Opening(running)) => {
                running.datagrams.try_send(datagram.to_vec()).is_ok()
            }
            Some(State::Gone { .. }) | None => false,
        };
        if !has_taken {
            self.counters.add(Counter::TxStreamFull, 1);
        }
    }

    fn is_to_be_opened(&self, to: SocketAddr, now: Instant) -> bool {
        let has_room = || {
            let opening = |connection: &&Connection| matches!(connection.state, State::Opening(_));
            self.connections.values().filter(opening).count() < OPENING_MAX
        };
        match self.connections.get(&to) {
            None => self.connections.len() < STREAMS_MAX && has_room(),
            Some(Connection { is_own: true, state: State::Gone { at }, .. }) => {
                now.since(*at) >= REOPEN && has_room()
            }
            Some(_) => false,
        }
    }

    fn open(&mut self, to: SocketAddr, now: Instant) {
        let number = self.number();
        let (ends, running) = self.start(to, number);
        let opening = async move {
            match tokio::time::timeout(OPEN_PATIENCE, connect_underlay(to)).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        let task = tokio::spawn(ends.live(opening));
        let unused_since = self.connections.get(&to).map_or(Some(now), |before| before.unused_since);
        let state = State::Opening(Running { datagrams: running, task });
        self.connections.insert(to, Connection { number, is_own: true, state, unused_since });
    }

    /// Takes in a connection that another node has opened.
    fn accept(&mut self, stream: TcpStream, from: SocketAddr, now: Instant) -> Result<(), Counter> {
        let is_stranger = |known: &Connection| !known.is_own && known.unused_since.is_some();
        let strangers = || self.connections.iter().filter(|(_, known)| is_stranger(known));
        let of_one = strangers().filter(|(address, _)| address.ip() == from.ip()).count();
        let is_full = self.connections.len() >= STREAMS_MAX || strangers().count() >= STRANGERS_MAX;
        if is_full || of_one >= STRANGERS_OF_ONE_MAX {
            return Err(Counter::RxStreamFlood);
        }
        let number = self.number();
        let (ends, datagrams) = self.start(from, number);
        let task = tokio::spawn(ends.live(std::future::ready(Ok(stream))));
        let state = State::Open(Running { datagrams, task });
        self.connections.insert(from, Connection { number, is_own: false, state, unused_since: Some(now) });
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What a connection's task needs, and the other end of it.
    fn start(&self, to: SocketAddr, number: u64) -> (Ends, mpsc::Sender<Vec<u8>>) {
        let (datagrams, waiting) = mpsc::channel(WAITING_MAX);
        let (inlet, counters) = (self.inlet.clone(), Arc::clone(&self.counters));
        (Ends { to, number, inlet, counters, waiting, words: self.words.0.clone() }, datagrams)
    }

    fn known(&mut self, at: SocketAddr, number: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&at).filter(|known| known.number == number)
    }

    /// A connection that this node has opened is open.
    fn opened(&mut self, at: SocketAddr, number: u64, now: Instant) {
        let Some(connection) = self.known(at, number) else { return };
        match std::mem::replace(&mut connection.state, State::Gone { at: now }) {
            State::Opening(running) | State::Open(running) => connection.state = State::Open(running),
            State::Gone { .. } => {}
        }
    }

    fn closed(&mut self, at: SocketAddr, number: u64, now: Instant) {
        if let Some(connection) = self.known(at, number) {
            connection.state = State::Gone { at: now };
        }
    }

    /// Closes what no peer uses; `used` says where peers are.
    fn tidy(&mut self, used: impl Fn(&SocketAddr) -> bool, now: Instant) {
        let mut is_needed = false;
        let mut unused = 0;
        self.connections.retain(|address, connection| {
            if used(address) {
                is_needed |= connection.is_own;
                connection.unused_since = None;
                return true;
            }
            let since = *connection.unused_since.get_or_insert(now);
            let is_over = now.since(since) >= UNUSED;
            unused += u64::from(is_over && !connection.is_own);
            !is_over
        });
        self.counters.add(Counter::RxStreamUnused, unused);
        if is_needed {
            self.wanted_until = Some(now.after(WANTED));
        }
        self.wanted_until = self.wanted_until.filter(|until| *until > now);
    }
}

/// What the task of a connection works with.
struct Ends {
    to: SocketAddr,
    number: u64,
    inlet: Inlet,
    counters: Arc<Counters>,
    waiting: mpsc::Receiver<Vec<u8>>,
    words: mpsc::Sender<Word>,
}

impl Ends {
    /// From the beginning of a connection to its end.
    async fn live(mut self, opening: impl Future<Output = io::Result<TcpStream>>) {
        let end = match opening.await {
            Ok(stream) => {
                // The daemon may have ended meanwhile.
                let _ = self.words.send(Word::Opened(self.to, self.number)).await;
                self.carry(stream).await
            }
            Err(error) => error,
        };
        let _ = self.words.send(Word::Closed(self.to, self.number, end)).await;
    }

    async fn carry(&mut self, stream: TcpStream) -> io::Error {
        if let Err(error) = tune(&stream) {
            return error;
        }
        let (read, write) = stream.into_split();
        tokio::select! {
            end = receive(read, self.to, &self.inlet, &self.counters) => end,
            end = transmit(write, &mut self.waiting) => end,
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(USER_TIMEOUT / 4))
}

/// Hands on what comes, until nothing comes any more.
async fn receive(
    mut stream: OwnedReadHalf,
    from: SocketAddr,
    inlet: &Inlet,
    counters: &Counters,
) -> io::Error {
    let mut reader = Reader::default();
    loop {
        let space = reader.space();
        space.reserve(READ_MAX);
        match stream.read_buf(space).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
        loop {
            match reader.next_datagram() {
                Ok(Some(datagram)) => {
                    if !inlet.take_in(Endpoint::Tcp(from), datagram) {
                        counters.add(Counter::RxCarryFull, 1);
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    counters.add(Counter::RxBadStream, 1);
                    return io::ErrorKind::InvalidData.into();
                }
            }
        }
        // A fast sender is not the only one that has something.
        tokio::task::yield_now().await;
    }
}

/// Sends what waits, as much at a time as has come meanwhile.
async fn transmit(mut stream: OwnedWriteHalf, waiting: &mut mpsc::Receiver<Vec<u8>>) -> io::Error {
    let mut out = Vec::new();
    while let Some(datagram) = waiting.recv().await {
        out.clear();
        push(&mut out, &datagram);
        while out.len() < WRITE_MAX {
            let Ok(datagram) = waiting.try_recv() else { break };
            push(&mut out, &datagram);
        }
        if let Err(error) = stream.write_all(&out).await {
            return error;
        }
    }
    // Nobody has anything to send any more.
    io::ErrorKind::NotConnected.into()
}

async fn accept(listener: TcpListener, words: mpsc::Sender<Word>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if words.send(Word::Accepted(stream, canonical(from))).await.is_err() {
                    return;
                }
            }
            // It was closed before it was taken, or there are too many files open for now.
            Err(error) => {
                debug!(%error, "TCP connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Listens at these addresses. One that cannot be had is only spoken of, if it `is_default`: UDP is what matters.
pub(super) fn listen(addresses: &[SocketAddr], is_default: bool) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        match listen_at(*address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_default => warn!(%address, %error, "not listening for TCP"),
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("cannot listen for TCP at {address} (underlay.tcp)")));
            }
        }
    }
    Ok(listeners)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(domain, kind, Some(socket2::Protocol::TCP))?;
    // Connections that are taken have the mark too.
    mark_underlay(&socket);
    // A daemon that follows another listens where that one's connections are still ending.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(STRANGERS_MAX as i32)?;
    TcpListener::from_std(socket.into())
}

impl Daemon {
    pub(super) fn hear_stream(&mut self, word: Word) {
        let now = clock::now();
        match word {
            Word::Accepted(stream, from) => match self.streams.accept(stream, from, now) {
                Ok(()) => debug!(%from, "TCP connection accepted"),
                Err(counter) => {
                    debug!(%from, counter = counter.name(), "TCP connection refused");
                    self.counters.add(counter, 1);
                }
            },
            Word::Opened(at, number) => {
                debug!(%at, "TCP connection open");
                self.streams.opened(at, number, now);
            }
            Word::Closed(at, number, error) => {
                debug!(%at, %error, "TCP connection closed");
                self.streams.closed(at, number, now);
            }
        }
    }

    /// Closes connections that no peer uses.
    pub(super) fn tidy_streams(&mut self, now: Instant) {
        let place = |id: &PeerId| match self.node.peer(*id)?.endpoint? {
            Endpoint::Tcp(place) => Some(place),
            Endpoint::Udp(_) | Endpoint::Turn(_) | Endpoint::Relay { .. } | Endpoint::Overlay(_) => None,
        };
        let used: Vec<SocketAddr> = self.peers.keys().filter_map(place).collect();
        self.streams.tidy(|address| used.contains(address), now);
    }
}
