//! What gives out ports at a box: Debian's miniupnpd, which speaks PCP, NAT-PMP and UPnP, and a router that lies,
//! which is a few lines of ours because the real one cannot be made to.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::boxes::Middlebox;
use super::{SOON, wait_for};

const PROGRAM: &str = "miniupnpd";
/// Its table, beside that of the box.
const TABLE: &str = "miniupnpd";
const HTTP_PORT: u16 = 5000;
/// Of PCP and NAT-PMP.
const PCP_PORT: u16 = 5351;

/// What a router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Pcp,
    NatPmp,
    Upnp,
}

impl Speaks {
    /// As `ipopctl status` says.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }

    /// What of that the box lets in. miniupnpd has PCP and NAT-PMP on one port; the first byte tells them apart.
    fn ports(self) -> &'static str {
        match self {
            Self::Pcp => "udp dport 5351 @th,64,8 2 accept",
            Self::NatPmp => "udp dport 5351 @th,64,8 0 accept",
            Self::Upnp => "meta l4proto { tcp, udp } th dport { 1900, 5000 } accept",
        }
    }
}

/// Why there can be no router of Debian's here.
pub(crate) fn reason_to_skip() -> Option<String> {
    let is_there = Command::new(PROGRAM).arg("--version").output().is_ok();
    (!is_there).then(|| format!("{PROGRAM} is not installed: cargo xtask setup"))
}

/// A miniupnpd at a box; ended when dropped.
#[derive(Debug)]
pub(super) struct Router(Child);

impl Router {
    /// At a box that has `outside`, which is to look like one of the internet's: it refuses those that are for
    /// documents, as the rest of the lab has.
    #[track_caller]
    pub(super) fn start(gate: &Middlebox, outside: Ipv4Addr, speaks: Speaks, folder: &Path) -> Self {
        let name = gate.ns.name();
        let config = folder.join(format!("{name}.miniupnpd"));
        let mut text = format!(
            "ext_ifname=out\next_ip={outside}\nlistening_ip=in\nhttp_port={HTTP_PORT}\nenable_natpmp=yes\n\
             upnp_table_name={TABLE}\nupnp_nat_table_name={TABLE}\nsecure_mode=yes\nsystem_uptime=no\n\
             uuid=4950-4f50\nallow 1024-65535 10.0.0.0/8 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        );
        for (chain, name) in
            [("forward", "forward"), ("nat", "prerouting"), ("nat_postrouting", "postrouting")]
        {
            let _ = writeln!(text, "upnp_{chain}_chain={name}");
        }
        fs::write(&config, text).expect("its configuration is written");
        let rules = format!(
            "table inet {TABLE} {{
                chain forward {{ type filter hook forward priority filter - 1; policy accept; }}
                chain prerouting {{ type nat hook prerouting priority dstnat - 5; policy accept; }}
                chain postrouting {{ type nat hook postrouting priority srcnat - 5; policy accept; }}
            }}
            insert rule inet box input iifname \"in\" {}",
            speaks.ports()
        );
        gate.ns.succeed("nft", &[&rules]);
        let log = folder.join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log).expect("its log can be written");
        let pid = folder.join(format!("{name}.pid"));
        let arguments = ["-d", "-f", config.to_str().expect("plain letters"), "-P"];
        let mut command = gate.ns.command(PROGRAM, &arguments);
        command.arg(&pid).stdout(Stdio::null()).stderr(output);
        // SAFETY: the closure runs between fork and exec and makes one system call.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        let new = Self(child);
        wait_for("miniupnpd listens", SOON, || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            log.contains(&format!("Listening for NAT-PMP/PCP traffic on port {PCP_PORT}")).then_some(())
        });
        new
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a router at a box leads one of its ports to a host.
#[track_caller]
pub(super) fn maps(gate: &Middlebox, to: Ipv4Addr) -> bool {
    let rules = gate.ns.succeed("nft", &["list", "chain", "inet", TABLE, "prerouting"]);
    rules.contains(&format!("dnat ip to {to}:"))
}

/// A router that answers each question by PCP with what it is told to say, whatever that is.
#[derive(Debug)]
pub(crate) struct Liar {
    is_over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    /// At a box; `says` gives the outside address and the lease in seconds of each answer, by its number.
    #[track_caller]
    pub(crate) fn start(
        gate: &Middlebox,
        says: impl Fn(usize) -> (SocketAddrV4, u32) + Send + 'static,
    ) -> Self {
        let rule = format!("insert rule inet box input iifname \"in\" udp dport {PCP_PORT} accept");
        gate.ns.succeed("nft", &[&rule]);
        let socket = gate.ns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PCP_PORT))).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let (is_over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&answers));
        let thread = std::thread::spawn(move || {
            let mut request = [0; 1100];
            while !over.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut request) else { continue };
                let Some(answer) = request.get(..len).and_then(|request| {
                    let number = count.load(Ordering::Relaxed);
                    pcp_answer(request, says(number))
                }) else {
                    continue;
                };
                let is_request_to_map = answer[4..8] != [0; 4];
                count.fetch_add(usize::from(is_request_to_map), Ordering::Relaxed);
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { is_over, answers, thread: Some(thread) }
    }

    /// How many times it has lied.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a request to map a port (RFC 6887, 7.2 and 11.1): version, opcode, result, lifetime, time since
/// the start; then as the request, but for the outside port and address.
fn pcp_answer(request: &[u8], (external, lease_s): (SocketAddrV4, u32)) -> Option<Vec<u8>> {
    const MAP: u8 = 1;
    if request.len() < 60 || request[0] != 2 || request[1] != MAP {
        return None;
    }
    let mut answer = request[..60].to_vec();
    answer[1] |= 0x80;
    answer[2..4].fill(0);
    // To give back is to ask for no time.
    let lease_s = if request[4..8] == [0; 4] { 0 } else { lease_s };
    answer[4..8].copy_from_slice(&lease_s.to_be_bytes());
    answer[8..12].copy_from_slice(&1000u32.to_be_bytes());
    answer[12..24].fill(0);
    answer[42..44].copy_from_slice(&external.port().to_be_bytes());
    answer[44..60].copy_from_slice(&external.ip().to_ipv6_mapped().octets());
    Some(answer)
}

/// A place that nothing of ours is to send to, or little.
#[derive(Debug)]
pub(crate) struct Victim {
    socket: UdpSocket,
    heard: usize,
}

impl Victim {
    #[track_caller]
    pub(crate) fn new(host: &super::Host, port: u16) -> Self {
        let address = SocketAddr::from((host.outer_v4, port));
        let socket = host.ns.inside(|| UdpSocket::bind(address)).expect("a socket");
        socket.set_nonblocking(true).expect("the socket takes this");
        Self { socket, heard: 0 }
    }

    /// Datagrams that have come to it.
    pub(crate) fn heard(&mut self) -> usize {
        while self.socket.recv_from(&mut [0; 2048]).is_ok() {
            self.heard += 1;
        }
        self.heard
    }
}
