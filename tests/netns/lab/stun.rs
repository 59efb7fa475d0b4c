//! STUN and TURN servers: Debian's coturn, and what a test says in the place of one.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::{Host, SOON, wait_for};

const PROGRAM: &str = "turnserver";
pub(crate) const PORT: u16 = 3478;
const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Why there can be no server of Debian's here.
pub(crate) fn reason_to_skip() -> Option<String> {
    let is_there = Command::new(PROGRAM).arg("--version").output().is_ok();
    (!is_there).then(|| format!("{PROGRAM} (coturn) is not installed: cargo xtask setup"))
}

/// A coturn on a host; ended when dropped.
#[derive(Debug)]
pub(crate) struct Coturn(Child);

impl Coturn {
    /// Waits until it answers.
    #[track_caller]
    pub(crate) fn start(host: &Host) -> Self {
        Self::with(host, &["--stun-only", "--no-tcp"])
    }

    /// One that gives addresses to those who know these words, by UDP and TCP.
    #[track_caller]
    pub(crate) fn relaying(host: &Host, user: &str, password: &str) -> Self {
        let user = format!("{user}:{password}");
        let address = host.outer_v4.to_string();
        let account = ["--lt-cred-mech", "--realm", "lab", "--user", &user];
        Self::with(host, &[&account[..], &["--relay-ip", &address, "--no-tcp-relay"]].concat())
    }

    #[track_caller]
    fn with(host: &Host, more: &[&str]) -> Self {
        let address = host.outer_v4.to_string();
        let pid = host.folder.join("coturn.pid");
        let arguments = ["-n", "--no-cli", "--no-tls", "--no-dtls", "-m", "1"];
        let mut command = host.ns.command(PROGRAM, &arguments);
        command.args(more).args([
            "--log-file",
            "stdout",
            "--verbose",
            "--listening-ip",
            &address,
            "--listening-port",
            &PORT.to_string(),
        ]);
        command
            .arg("--pidfile")
            .arg(pid)
            .stdout(std::fs::File::create(host.folder.join("coturn.log")).expect("a log"))
            .stderr(Stdio::null());
        // SAFETY: the closure runs between fork and exec and makes one system call.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let new = Self(command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}")));
        let place = SocketAddrV4::new(host.outer_v4, PORT);
        let asking = host.ns.inside(|| UdpSocket::bind((host.outer_v4, 0))).expect("a socket");
        asking.set_nonblocking(true).expect("the socket takes this");
        wait_for("coturn answers", SOON, || {
            let request = [&[0, 1, 0, 0][..], &MAGIC_COOKIE.to_be_bytes(), &[7; 12]].concat();
            let _ = asking.send_to(&request, place);
            asking.recv_from(&mut [0; 512]).ok()
        });
        new
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What somebody answers in the place of a server.
pub(crate) fn answer(id: [u8; 12], seen: SocketAddrV4) -> Vec<u8> {
    let port = seen.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let address = seen.ip().to_bits() ^ MAGIC_COOKIE;
    let attribute = [&[0, 0x20, 0, 8, 0, 1][..], &port.to_be_bytes(), &address.to_be_bytes()].concat();
    [&[1, 1, 0, 12][..], &MAGIC_COOKIE.to_be_bytes(), &id, &attribute].concat()
}

/// A socket in the place of a server, or of somebody who forges its answers.
#[derive(Debug)]
pub(crate) struct Impostor(UdpSocket);

impl Impostor {
    #[track_caller]
    pub(crate) fn new(host: &Host, port: u16) -> Self {
        let socket = host.ns.inside(|| UdpSocket::bind((host.outer_v4, port))).expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        Self(socket)
    }

    /// The number of the next question, and who asks.
    #[track_caller]
    pub(crate) fn asked(&self) -> ([u8; 12], SocketAddr) {
        let mut request = [0; 512];
        let (len, from) = self.0.recv_from(&mut request).expect("a question comes");
        assert_eq!((len, &request[..4]), (20, &[0, 1, 0, 0][..]), "{:?}", &request[..len]);
        (request[8..20].try_into().expect("12 bytes"), from)
    }

    #[track_caller]
    pub(crate) fn say(&self, to: SocketAddr, message: &[u8]) {
        self.0.send_to(message, to).expect("the datagram is sent");
    }
}

/// An address that somebody has on no host of a test.
pub(crate) const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 250), 9);
