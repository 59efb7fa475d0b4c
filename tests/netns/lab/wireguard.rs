//! A WireGuard of others on a host, in place of a daemon of ours: started and configured as its documents
//! tell people to, asked by `wg`. Decides nothing about what it is to do.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::namespace::{NetNs, check};
use super::{Host, PREFIX, SOON, program, wait_for};

/// Where boringtun-cli is, for where it is not in PATH; `cargo xtask test` sets it.
const BORINGTUN_VARIABLE: &str = "IPOP_BORINGTUN";
/// Where it listens, as most do.
pub(crate) const PORT: u16 = 51_820;
/// What `wg-quick` takes where the wire has 1500 bytes.
const MTU: u16 = 1420;

/// Whose WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireGuard {
    Go,
    Boringtun,
    Kernel,
}

impl WireGuard {
    /// Why nothing can be tested against it here.
    pub(crate) fn reason_to_skip(self) -> Option<String> {
        if !succeeds(Command::new("wg").arg("--version")) {
            return Some("wg is not installed: cargo xtask setup".to_owned());
        }
        let Some((program, _)) = self.daemon() else {
            let ns = NetNs::create(PREFIX);
            let is_there = succeeds(Command::new("ip").args([
                "-n",
                ns.name(),
                "link",
                "add",
                "wg0",
                "type",
                "wireguard",
            ]));
            return (!is_there).then(|| "this kernel has no WireGuard".to_owned());
        };
        let is_there = succeeds(Command::new(&program).arg("--version"));
        (!is_there).then(|| format!("{} is not installed: cargo xtask setup", program.display()))
    }

    /// Its program and arguments; `None` where it is in the kernel.
    fn daemon(self) -> Option<(OsString, &'static [&'static str])> {
        match self {
            Self::Go => Some(("wireguard-go".into(), &["--foreground"])),
            Self::Boringtun => {
                let program = std::env::var_os(BORINGTUN_VARIABLE);
                // It would become whoever called sudo, and could then not remove its socket.
                let arguments = &["--foreground", "--disable-drop-privileges"];
                Some((program.unwrap_or_else(|| "boringtun-cli".into()), arguments))
            }
            Self::Kernel => None,
        }
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A device of a WireGuard of others, with one peer; gone when dropped.
#[derive(Debug)]
pub(crate) struct Stock<'a> {
    host: &'a Host,
    device: String,
    daemon: Option<Child>,
}

impl<'a> Stock<'a> {
    /// On `host`, with `peer`, whose configuration knows of it; `more` is what `wg set` is to be told of the
    /// peer besides.
    #[track_caller]
    pub(crate) fn start(wireguard: WireGuard, host: &'a Host, peer: &Host, more: &[&str]) -> Self {
        // Control sockets are called after devices, and are in one folder for all namespaces.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let device = format!("wg{}n{number}", std::process::id());
        let daemon = match wireguard.daemon() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&device);
                Some(spawn(command, host))
            }
            None => {
                host.ns.ip(&format!("link add {device} type wireguard"));
                None
            }
        };
        let stock = Self { host, device, daemon };
        wait_for("the WireGuard can be configured", SOON, || {
            let shown = stock.wg("show", &[]).output();
            shown.is_ok_and(|output| output.status.success()).then_some(())
        });
        stock.configure(peer, more);
        stock
    }

    fn configure(&self, peer: &Host, more: &[&str]) {
        let (device, host) = (&self.device, self.host);
        let psk = host.folder.join("psk");
        fs::write(&psk, pre_shared_key(peer)).expect("the key is written");
        let [psk, key] = [psk, host.folder.join("key")];
        self.set(&["listen-port", &PORT.to_string(), "private-key", plain(&key)]);
        let inner = format!("{},{}", peer.inner_v4, peer.inner_v6);
        // At once: boringtun does not change a peer that it has.
        self.set(
            &[&["peer", peer.key.as_str(), "preshared-key", plain(&psk), "allowed-ips", &inner], more]
                .concat(),
        );
        host.ns.ip(&format!("addr add {}/24 dev {device}", host.inner_v4));
        host.ns.ip(&format!("link set {device} mtu {MTU} up"));
        host.ns.ip(&format!("addr add {}/64 dev {device} nodad", host.inner_v6));
    }

    /// `wg COMMAND DEVICE WORDS`; a daemon in a bad way would let it wait for ever.
    fn wg(&self, command: &str, words: &[&str]) -> Command {
        self.host.ns.command("timeout", &[&["10", "wg", command, self.device.as_str()], words].concat())
    }

    /// `wg set DEVICE WORDS`.
    #[track_caller]
    pub(crate) fn set(&self, words: &[&str]) {
        check(&mut self.wg("set", words));
    }

    /// Its peer's column of `wg show DEVICE WHAT`.
    #[track_caller]
    fn show(&self, what: &str) -> String {
        let shown = check(&mut self.wg("show", &[what]));
        let (_, value) = shown.trim_end().split_once('\t').expect("one peer");
        value.to_owned()
    }

    /// Where it finds its peer.
    #[track_caller]
    pub(crate) fn endpoint(&self) -> String {
        self.show("endpoints")
    }

    /// Whether it has ever had a session with its peer. Of boringtun a second later: it tells the session's
    /// age, where the others tell the time.
    #[track_caller]
    pub(crate) fn has_met_its_peer(&self) -> bool {
        self.show("latest-handshakes") != "0"
    }

    /// Bytes that came from its peer, in messages of all kinds.
    #[track_caller]
    pub(crate) fn received(&self) -> u64 {
        let transfer = self.show("transfer");
        transfer.split('\t').next().and_then(|bytes| bytes.parse().ok()).expect("a number")
    }
}

impl Drop for Stock<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown = self.wg("show", &[]).output();
            let shown = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            eprintln!("-- wg show {}\n{}", self.device, shown.unwrap_or_default());
        }
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
            let _ = fs::remove_file(format!("/var/run/wireguard/{}.sock", self.device));
        }
        // A daemon has taken its own along.
        let _ = self.host.ns.output("ip", &["link", "del", &self.device]);
    }
}

fn spawn(mut command: Command, host: &Host) -> Child {
    host.ns.enter(&mut command);
    let log = OpenOptions::new().create(true).append(true).open(host.folder.join("log"));
    let log = log.expect("the log can be written");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// As an operator has it: by `ipopctl`, from the configuration.
fn pre_shared_key(host: &Host) -> String {
    host.write_config();
    let output = program::ipopctl(&["key", "psk", plain(&host.config_file())]);
    assert!(output.status.success(), "ipopctl key psk: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("base64")
}

/// A path as an argument.
pub(crate) fn plain(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}
