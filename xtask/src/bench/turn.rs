//! A relay of others: coturn, and as much of a TURN client (RFC 8656) as it takes to send datagrams by it to
//! a host that knows nothing of TURN. Owns both; measures nothing.
//!
//! The stream keeps so many datagrams under way and goes on as the far end acknowledges them, as TCP does, so
//! that it asks for what coturn can give and not for more. Neither TCP nor a cipher is in its way.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use super::core::on_latency_core;
use super::load::{Exchanges, Measured, SMALL_BYTES, exchange_for};
use crate::config::TurnAccount;
use crate::daemon::TempFolder;
use crate::netns::NetNs;
use crate::process::{self, Running};
use crate::{setup, sh};

const PROGRAM: &str = "turnserver";
const PORT: u16 = 3478;
const COOKIE: [u8; 4] = 0x2112_a442u32.to_be_bytes();
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
/// In the type of an answer that grants what was asked for.
const SUCCESS: u16 = 0x0100;
const CHANNEL_NUMBER: u16 = 0x000c;
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REQUESTED_TRANSPORT: u16 = 0x0019;
/// In seconds: what coturn grants at most.
const LIFETIME_S: u32 = 3600;
const STREAM_CHANNEL: u16 = 0x4000;
const ECHO_CHANNEL: u16 = 0x4001;
const CHANNEL_HEADER: usize = 4;

/// Of the far host.
const STREAM_PORT: u16 = 7011;
const ECHO_PORT: u16 = 7012;
/// As much as fits a wire of 1500 bytes behind a channel's header.
const DATAGRAM_BYTES: usize = 1468;
/// Datagrams under way, and how many of them one acknowledgement is for.
const WINDOW: u64 = 256;
const ACKNOWLEDGED: u64 = 32;
const BUFFER_BYTES: usize = 4 << 20;
/// After this long what is under way is lost.
const PATIENCE: Duration = Duration::from_millis(20);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// Who a node is at a server at this address.
pub(crate) fn account(address: &str) -> TurnAccount<'static> {
    let server = format!("turn:{address}:{PORT}");
    TurnAccount { server, username: "bench", password: "of three hosts in a row" }
}

/// What coturn says that it is; an error that tells how to install it where it is not there.
pub(crate) fn version() -> Result<String> {
    let program = sh::find(PROGRAM).with_context(|| {
        format!("coturn is not installed; `{}` installs it", setup::Scope::BENCH.command())
    })?;
    let text = sh::capture(Command::new(program).arg("--version"))?;
    Ok(text.lines().last().context("it does not tell its version")?.trim().to_owned())
}

/// coturn on one host; ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Running,
    _folder: TempFolder,
}

impl Server {
    /// Takes clients at `inside` and relays from `outside`, both addresses of the host; of whoever asks, or of one who
    /// knows these words.
    pub(crate) fn start(
        host: &NetNs,
        [inside, outside]: [&str; 2],
        account: Option<&TurnAccount<'_>>,
    ) -> Result<Self> {
        let folder = TempFolder::create(host.name())?;
        let path = |name: &str| folder.0.join(name).display().to_string();
        let mut command = Command::new(sh::find(PROGRAM).context("coturn is missing")?);
        match account {
            Some(TurnAccount { username, password, .. }) => {
                let user = format!("{username}:{password}");
                command.args(["--lt-cred-mech", "--realm", "bench", "--user", &user]);
            }
            None => {
                command.arg("--no-auth");
            }
        }
        command.args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--simple-log"]);
        command.args(["-L", inside, "-E", outside, "-p", &PORT.to_string()]);
        command.args(["--pidfile", &path("pid"), "--userdb", &path("db"), "--log-file", &path("log")]);
        host.enter(&mut command)?;
        let process = Running::start(command, &folder.0.join("output"))?;
        Ok(Self { process, _folder: folder })
    }
}

/// A client on the near host and what answers it on the far one.
#[derive(Debug)]
pub(crate) struct Turn {
    socket: UdpSocket,
    far: Ipv4Addr,
    far_end: FarEnd,
    transaction: u64,
}

impl Turn {
    /// By the server at `inside`, which must have been started.
    pub(crate) fn open(
        server: &mut Server,
        near: &NetNs,
        far: &NetNs,
        inside: Ipv4Addr,
        far_address: Ipv4Addr,
    ) -> Result<Self> {
        let far_end = FarEnd::start(far, far_address)?;
        let socket = near.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no UDP socket"))?;
        socket.connect((inside, PORT)).context("cannot connect a UDP socket")?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("cannot enlarge a buffer")?;
        let turn = std::cell::RefCell::new(Self { socket, far: far_address, far_end, transaction: 0 });
        process::wait_until(std::slice::from_mut(&mut server.process), "coturn's relayed address", || {
            turn.borrow_mut().allocate()
        })?;
        Ok(turn.into_inner())
    }

    fn allocate(&mut self) -> Result<()> {
        let transport = attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let lifetime = attribute(LIFETIME, &LIFETIME_S.to_be_bytes());
        self.ask(ALLOCATE, &[transport, lifetime].concat())
    }

    /// Names the far host's two ports by channels, for ten minutes.
    fn bind_channels(&mut self) -> Result<()> {
        for (channel, port) in [(STREAM_CHANNEL, STREAM_PORT), (ECHO_CHANNEL, ECHO_PORT)] {
            let [high, low] = channel.to_be_bytes();
            let number = attribute(CHANNEL_NUMBER, &[high, low, 0, 0]);
            let peer = attribute(XOR_PEER_ADDRESS, &xor_address(SocketAddrV4::new(self.far, port)));
            self.ask(CHANNEL_BIND, &[number, peer].concat())?;
        }
        Ok(())
    }

    /// Asks the server for something, which it must grant.
    fn ask(&mut self, what: u16, attributes: &[u8]) -> Result<()> {
        self.transaction += 1;
        let request = message(what, self.transaction, attributes);
        self.socket.send(&request).context("cannot ask coturn")?;
        let mut answer = [0; 2048];
        loop {
            let len = self.socket.recv(&mut answer).context("coturn does not answer")?;
            // Data of a window before may still come.
            if len < 20 || answer[4..20] != request[4..20] {
                continue;
            }
            let kind = u16::from_be_bytes([answer[0], answer[1]]);
            if kind != what | SUCCESS {
                bail!("coturn refuses 0x{what:04x}: 0x{kind:04x}");
            }
            return Ok(());
        }
    }

    /// Payload that arrives at the far host during `window`, after `warm_up` of the same, in bytes.
    pub(crate) fn stream(&mut self, warm_up: Duration, window: Duration) -> Result<Measured> {
        self.bind_channels()?;
        self.socket.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
        let outcome = self.stream_for(warm_up, window);
        self.socket.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")?;
        outcome
    }

    fn stream_for(&self, warm_up: Duration, window: Duration) -> Result<Measured> {
        let mut datagram = framed(STREAM_CHANNEL, &[0; DATAGRAM_BYTES]);
        let first = self.far_end.state.received.load(Ordering::Relaxed);
        let (mut sent, mut done) = (first, first);
        let mut counted = None;
        let begun = Instant::now();
        loop {
            while sent < done + WINDOW {
                sent += 1;
                datagram[CHANNEL_HEADER..][..8].copy_from_slice(&sent.to_be_bytes());
                self.socket.send(&datagram).context("cannot send by coturn")?;
            }
            let mut answer = [0; 64];
            match self.socket.recv(&mut answer) {
                Ok(len) => {
                    if let Some(number) = answer[..len].get(CHANNEL_HEADER..).and_then(<[u8]>::first_chunk) {
                        done = done.max(u64::from_be_bytes(*number)).min(sent);
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => done = sent,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("no acknowledgement by coturn"),
            }
            let arrived = self.far_end.state.bytes.load(Ordering::Relaxed);
            match counted {
                None if begun.elapsed() >= warm_up => counted = Some((arrived, Instant::now())),
                Some((before, started)) if started.elapsed() >= window => {
                    let seconds = started.elapsed().as_secs_f64();
                    return Ok(Measured { count: arrived - before, seconds });
                }
                _ => {}
            }
        }
    }

    /// Round trips of one datagram at a time.
    pub(crate) fn exchange(&mut self, window: Duration) -> Result<Exchanges> {
        self.bind_channels()?;
        exchange_for(window, |sequence| {
            let mut request = [0; SMALL_BYTES];
            request[..8].copy_from_slice(&sequence.to_be_bytes());
            let request = framed(ECHO_CHANNEL, &request);
            self.socket.send(&request).context("cannot send by coturn")?;
            let mut answer = [0; 2048];
            loop {
                match self.socket.recv(&mut answer) {
                    Ok(len) if answer[..len] == request[..] => return Ok(true),
                    // An acknowledgement, or the answer to one that had been given up.
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context("no answer by coturn"),
                }
            }
        })
    }
}

/// The sockets of the far host, a thread for each.
#[derive(Debug)]
struct FarEnd {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: AtomicU64,
    /// The number of the last datagram of a stream.
    received: AtomicU64,
    stopping: AtomicBool,
}

impl FarEnd {
    fn start(far: &NetNs, address: Ipv4Addr) -> Result<Self> {
        let open = |port| {
            let socket = far.run(|| UdpSocket::bind((address, port)).context("no UDP socket"))?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot set a timeout")?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("cannot enlarge a buffer")?;
            anyhow::Ok(socket)
        };
        let (stream, echo) = (open(STREAM_PORT)?, open(ECHO_PORT)?);
        let mut new = Self { state: Arc::default(), threads: Vec::new() };
        new.spawn(move |state| sink(&stream, state))?;
        new.spawn(move |state| on_latency_core(|| answer(&echo, state)))?;
        Ok(new)
    }

    fn spawn(&mut self, work: impl FnOnce(&State) + Send + 'static) -> Result<()> {
        let state = Arc::clone(&self.state);
        let thread = std::thread::Builder::new().name("turn".to_owned()).spawn(move || work(&state));
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn sink(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 2048];
    let mut owed = 0;
    while !state.stopping.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some(number) = buffer[..len].first_chunk() else { continue };
        state.bytes.fetch_add(len as u64, Ordering::Relaxed);
        state.received.store(u64::from_be_bytes(*number), Ordering::Relaxed);
        owed += 1;
        if owed == ACKNOWLEDGED {
            owed = 0;
            // One that cannot be sent is one that is lost.
            let _ = socket.send_to(number, from);
        }
    }
}

fn answer(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 2048];
    while !state.stopping.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// A payload in a channel (RFC 8656, section 12.4).
fn framed(channel: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    [&channel.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
}

/// A STUN message (RFC 8489, section 5).
fn message(kind: u16, transaction: u64, attributes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(attributes.len()).unwrap_or(u16::MAX);
    let (kind, len, number) = (kind.to_be_bytes(), len.to_be_bytes(), transaction.to_be_bytes());
    [&kind[..], &len, &COOKIE, &[0; 4], &number, attributes].concat()
}

/// An attribute of a length that is a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    [&kind.to_be_bytes()[..], &len.to_be_bytes(), value].concat()
}

/// An address as STUN hides it from NATs.
fn xor_address(place: SocketAddrV4) -> [u8; 8] {
    let [cookie_a, cookie_b, cookie_c, cookie_d] = COOKIE;
    let [port_high, port_low] = place.port().to_be_bytes();
    let [a, b, c, d] = place.ip().octets();
    [0, 1, port_high ^ cookie_a, port_low ^ cookie_b, a ^ cookie_a, b ^ cookie_b, c ^ cookie_c, d ^ cookie_d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769, section 2.2: 192.0.2.1 port 32853.
    #[test]
    fn addresses_are_those_of_the_test_vectors() {
        let place = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 32853);
        assert_eq!(xor_address(place), [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
    }

    #[test]
    fn messages_say_how_long_they_are() {
        let asked = message(ALLOCATE, 7, &attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
        assert_eq!(asked.len(), 28);
        assert_eq!(asked[..8], [0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(asked[19..], [7, 0, 0x19, 0, 4, 17, 0, 0, 0]);
        assert_eq!(framed(STREAM_CHANNEL, &[9, 9]), [0x40, 0, 0, 2, 9, 9]);
    }
}
