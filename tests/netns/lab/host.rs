//! One host: its namespace, its end of the wire, its configuration and its daemon.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::daemon::{Daemon, How};
use super::namespace::{NetNs, check};
use super::packet::USER_PORT;
use super::{Packets, SOON, program, wait_for};

/// A daemon has its programs verified when it starts, which takes a second of a CPU, and shares that with all that start
/// beside it.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The family of the wire's addresses that a link uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    V4,
    V6,
}

/// Handshake messages that a test's few sessions may bring beyond those that are needed.
const NEEDLESS_MAX: u64 = 8;

/// A `[[peer]]` of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) endpoint: Option<String>,
}

/// What is written into a configuration file.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    /// Of the network.
    pub(crate) secret: String,
    pub(crate) device: String,
    /// `None`: they are leased.
    pub(crate) addresses: Option<Vec<String>>,
    pub(crate) listen: Vec<String>,
    /// TCP addresses to listen at, if not those of `listen`.
    pub(crate) tcp: Option<Vec<String>>,
    pub(crate) interfaces: Option<Vec<String>>,
    /// Ways into the overlay.
    pub(crate) bootstrap: Option<Vec<String>>,
    /// Whether others on the LAN are looked for.
    pub(crate) multicast: bool,
    pub(crate) trusted: Vec<String>,
    /// Further keys of `[underlay]`, as they are to be written.
    pub(crate) underlay: BTreeMap<&'static str, String>,
    pub(crate) datapath: BTreeMap<&'static str, String>,
    pub(crate) peers: Vec<Peer>,
    /// Keys of `[dns]`, as they are to be written. The machine's resolver is left alone unless a test has a copy.
    pub(crate) dns: BTreeMap<&'static str, String>,
    /// Lines for the end of the file.
    pub(crate) more: String,
    /// Further lines of `[network]`.
    pub(crate) network: BTreeMap<&'static str, String>,
    /// The network is that of `network.group`.
    pub(crate) is_of_group: bool,
}

/// A host and what it knows.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) ns: NetNs,
    /// Its end of the wire.
    pub(crate) device: &'static str,
    pub(crate) outer_v4: Ipv4Addr,
    pub(crate) outer_v6: Ipv6Addr,
    pub(crate) inner_v4: Ipv4Addr,
    pub(crate) inner_v6: Ipv6Addr,
    pub(crate) key: String,
    pub(crate) folder: PathBuf,
    pub(crate) config: Config,
    pub(crate) daemon: Option<Daemon>,
}

impl Host {
    pub(crate) fn new(number: u8, ns: NetNs, folder: &Path) -> Self {
        let folder = folder.join(format!("n{number}"));
        fs::create_dir(&folder).expect("a folder of its own");
        let key = generate_key(&folder.join("key"));
        let config = Config {
            name: format!("n{number}"),
            secret: "the secret of one test".to_owned(),
            device: "ipop0".to_owned(),
            addresses: Some(vec![format!("10.128.0.{number}/24"), format!("fd00:128::{number}/64")]),
            listen: vec!["udp://0.0.0.0:15000".to_owned(), "udp://[::]:15000".to_owned()],
            tcp: None,
            interfaces: None,
            bootstrap: None,
            multicast: false,
            trusted: vec!["10.200.0.0/16".to_owned(), "fd20::/16".to_owned()],
            underlay: BTreeMap::new(),
            // What clear links do is tested for itself; `Lab::sealed` takes this back.
            datapath: BTreeMap::from([("security", "clear-if-trusted".to_owned())]),
            peers: Vec::new(),
            dns: BTreeMap::from([("resolver", "\"off\"".to_owned())]),
            more: String::new(),
            network: BTreeMap::new(),
            is_of_group: false,
        };
        Self {
            ns,
            device: if number % 2 == 1 { "p1" } else { "p2" },
            outer_v4: Ipv4Addr::new(10, 200, 0, number),
            outer_v6: Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, number.into()),
            inner_v4: Ipv4Addr::new(10, 128, 0, number),
            inner_v6: Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, number.into()),
            key,
            folder,
            config,
            daemon: None,
        }
    }

    /// Gives the host's end of the wire its addresses.
    pub(crate) fn connect(&self) {
        self.ns.ip(&format!("addr add {}/24 dev {}", self.outer_v4, self.device));
        self.ns.ip(&format!("link set {} up", self.device));
        self.ns.ip(&format!("addr add {}/64 dev {} nodad", self.outer_v6, self.device));
    }

    /// Gives the host's end of the wire another IPv4 address in place of the one that it has.
    #[track_caller]
    pub(crate) fn move_to(&self, address: &str) {
        // An interface's second address is not to go with its first.
        self.ns.sysctl("net.ipv4.conf.all.promote_secondaries", "1");
        let old = self.ns.ip(&format!("-o -4 addr show dev {}", self.device));
        let old = old.split_whitespace().nth(3).expect("an address");
        self.ns.ip(&format!("addr add {address}/24 dev {}", self.device));
        self.ns.ip(&format!("addr del {old} dev {}", self.device));
    }

    /// Makes `other` a peer in the configuration.
    pub(crate) fn knows(&mut self, other: &Host, outer: Outer) {
        self.config.peers.push(Peer {
            name: other.config.name.clone(),
            key: other.key.clone(),
            addresses: vec![other.inner_v4.to_string(), other.inner_v6.to_string()],
            endpoint: Some(other.endpoint(outer, USER_PORT)),
        });
    }

    /// Where others reach a port of this host.
    pub(crate) fn endpoint(&self, outer: Outer, port: u16) -> String {
        match outer {
            Outer::V4 => format!("{}:{port}", self.outer_v4),
            Outer::V6 => format!("[{}]:{port}", self.outer_v6),
        }
    }

    pub(crate) fn inner(&self, v6: bool) -> IpAddr {
        if v6 { self.inner_v6.into() } else { self.inner_v4.into() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn write_config(&self) {
        self.write(&self.config);
    }

    fn write(&self, config: &Config) {
        let file = self.config_file();
        fs::write(&file, config.text(&self.folder)).expect("the configuration is written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode is set");
    }

    /// Writes the configuration and starts a daemon, which need not come up.
    pub(crate) fn launch(&self, how: &How) -> Daemon {
        self.write_config();
        Daemon::start(&self.ns, &self.config_file(), &self.socket(), &self.folder.join("log"), how)
    }

    /// Starts a daemon and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&mut self, how: &How) {
        let daemon = self.launch(how);
        self.await_answer(daemon, START_TIMEOUT);
    }

    /// Waits until a daemon that was launched answers; it is this host's from now on.
    #[track_caller]
    pub(crate) fn await_answer(&mut self, mut daemon: Daemon, patience: Duration) {
        wait_for("ipopd answers on its control socket", patience, || {
            assert!(daemon.is_alive(), "ipopd has ended: {}", self.log());
            daemon.ask("/v1/status")
        });
        self.daemon = Some(daemon);
    }

    /// Takes the daemon out, to be ended.
    #[track_caller]
    pub(crate) fn take(&mut self) -> Daemon {
        self.daemon.take().expect("a daemon runs")
    }

    #[track_caller]
    pub(crate) fn ask(&self, path: &str) -> Value {
        self.try_ask(path).unwrap_or_else(|| panic!("{} does not answer {path}", self.config.name))
    }

    /// The same of a daemon that may not answer just now.
    #[track_caller]
    pub(crate) fn try_ask(&self, path: &str) -> Option<Value> {
        self.daemon.as_ref().expect("a daemon runs").ask(path)
    }

    /// The first peer, as the daemon sees it.
    #[track_caller]
    pub(crate) fn peer(&self) -> Value {
        self.ask("/v1/peers")[0].clone()
    }

    #[track_caller]
    pub(crate) fn path(&self) -> String {
        self.peer()["path"].as_str().expect("a path").to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_for_path(&self, path: &str) {
        wait_for(&format!("{} has path {path}", self.config.name), SOON, || {
            (self.path() == path).then_some(())
        });
    }

    /// A counter of both data paths together.
    #[track_caller]
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.ask("/v1/counters");
        let value = |path: &str| counters[path][name]["value"].as_u64().unwrap_or(0);
        assert!(
            counters["kernel"].get(name).or(counters["user"].get(name)).is_some(),
            "there is no counter {name}"
        );
        value("kernel") + value("user")
    }

    /// Waits until a counter has grown by `by` beyond `before`.
    #[track_caller]
    pub(crate) fn wait_for_counter(&self, name: &str, before: u64, by: u64) {
        wait_for(&format!("{}: {name} grows by {by}", self.config.name), SOON, || {
            (self.counter(name) >= before + by).then_some(())
        });
    }

    /// Packets that came and were dropped or refused, by path and name. But not handshake messages that
    /// were not needed: where both ends begin at once, the answer to one comes when the other has done;
    /// and a busy host finds an initiation and its repetition waiting together. More than a few are a fault.
    #[track_caller]
    pub(crate) fn lost(&self) -> Vec<(String, u64)> {
        let counters = self.ask("/v1/counters");
        let mut lost = Vec::new();
        for path in ["kernel", "user"] {
            for (name, counter) in counters[path].as_object().into_iter().flatten() {
                let value = counter["value"].as_u64().unwrap_or(0);
                let class = counter["class"].as_str().unwrap_or_default();
                let may_be_needless =
                    ["rx_replayed_handshake", "rx_handshake_flood"].contains(&name.as_str());
                let is_needless = may_be_needless && value <= NEEDLESS_MAX;
                let is_bad = (class == "dropped" || class == "refused") && name.starts_with("rx_");
                if value > 0 && is_bad && !is_needless {
                    lost.push((format!("{} {path} {name}", self.config.name), value));
                }
            }
        }
        lost
    }

    #[track_caller]
    pub(crate) fn packets(&self) -> Packets {
        let peers = self.ask("/v1/peers");
        let sum = |names: [&str; 2]| -> u64 {
            let peers = peers.as_array().into_iter().flatten();
            peers.flat_map(|peer| names.map(|name| peer[name].as_u64().unwrap_or(0))).sum()
        };
        Packets {
            kernel: sum(["kernel_tx_packets", "kernel_rx_packets"]),
            user: sum(["user_tx_packets", "user_rx_packets"]),
        }
    }

    /// `ipopctl ARGUMENTS` against this host's daemon; it must succeed.
    #[track_caller]
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.ctl_output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ipopctl {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has the daemon take up other lines at the end of its configuration.
    #[track_caller]
    pub(crate) fn config_reload(&self, more: &str) {
        let config = Config { more: more.to_owned(), ..self.config.clone() };
        self.write(&config);
        self.ctl(&["reload"]);
    }

    pub(crate) fn ctl_output(&self, arguments: &[&str]) -> std::process::Output {
        let socket = self.socket();
        let socket = socket.to_str().expect("a path of plain letters");
        program::ipopctl(&[&["--socket", socket], arguments].concat())
    }

    /// Echo requests, none of which may be lost; `more` is for ping.
    #[track_caller]
    pub(crate) fn ping(&self, to: IpAddr, more: &[&str]) {
        let to = to.to_string();
        // After the last request ping waits for one interval, or for the first answer as -W says.
        let arguments = [&["-n", "-c", "3", "-i", "0.2", "-W", "2"], more, &[to.as_str()]].concat();
        let text = self.ns.succeed("ping", &arguments);
        assert!(text.contains(" 0% packet loss"), "{text}");
    }

    /// What a person would look at when something is wrong.
    pub(crate) fn describe(&self, text: &mut String) {
        let _ = writeln!(text, "==== host {} in {}", self.config.name, self.ns.name());
        for path in ["/v1/peers", "/v1/links", "/v1/counters"] {
            let answer = self.daemon.as_ref().and_then(|daemon| daemon.ask(path));
            let _ = writeln!(text, "-- {path}: {}", answer.map_or("no answer".to_owned(), |a| compact(&a)));
        }
        for words in ["-s addr", "route", "-6 route", "neigh"] {
            let output = Command::new("ip").args(["-n", self.ns.name()]).args(words.split(' ')).output();
            let shown = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            let _ = writeln!(text, "-- ip {words}\n{shown}");
        }
        for arguments in [["filter", "show", "dev"], ["qdisc", "show", "dev"]] {
            let output = self.ns.output("tc", &[&arguments[..], &[self.device]].concat());
            let _ = writeln!(text, "-- tc {arguments:?}\n{}", String::from_utf8_lossy(&output.stdout));
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let _ = writeln!(text, "-- log, its last lines");
        for line in &lines[lines.len().saturating_sub(60)..] {
            let _ = writeln!(text, "{line}");
        }
    }
}

/// Counters that are zero, and help texts, tell nothing.
fn compact(answer: &Value) -> String {
    let groups = ["kernel", "user"].map(|group| (group, answer[group].as_object()));
    if groups.iter().all(|(_, group)| group.is_none()) {
        return answer.to_string();
    }
    let mut text = String::new();
    for (group, counters) in groups {
        for (name, counter) in counters.into_iter().flatten().filter(|(_, c)| c["value"] != 0) {
            let _ = write!(text, "{group}.{name}={} ", counter["value"]);
        }
    }
    text
}

/// Writes a private key and gives the public one.
pub(crate) fn generate_key(path: &Path) -> String {
    let public = check(Command::new(program::path("ipopctl")).args(["key", "gen"]).arg(path));
    public.trim().to_owned()
}

impl Config {
    /// What a group says of its network, and who has none says itself.
    fn own_network(&self) -> String {
        let addresses = self.addresses.as_ref();
        let addresses = addresses.map_or("\"dhcp\"".to_owned(), |addresses| format!("{addresses:?}"));
        let own = format!("name = \"test\"\nsecret = {:?}\naddresses = {addresses}\n", self.secret);
        if self.is_of_group { String::new() } else { own }
    }

    pub(crate) fn text(&self, folder: &Path) -> String {
        let folder = folder.display();
        let mut text = format!(
            "[node]\nname = \"{}\"\nkey_file = \"{folder}/key\"\nstate_dir = \"{folder}/state\"\n\
             control_socket = \"{folder}/control.sock\"\n\
             [network]\n{}device = \"{}\"\n\
             [underlay]\nlisten = {:?}\ntrusted = {:?}\n",
            self.name,
            self.own_network(),
            self.device,
            self.listen,
            self.trusted
        );
        if let Some(tcp) = &self.tcp {
            let _ = writeln!(text, "tcp = {tcp:?}");
        }
        if let Some(interfaces) = &self.interfaces {
            let _ = writeln!(text, "interfaces = {interfaces:?}");
        }
        if let Some(bootstrap) = &self.bootstrap {
            let _ = writeln!(text, "bootstrap = {bootstrap:?}\nmulticast = {}", self.multicast);
        }
        for (key, value) in &self.underlay {
            let _ = writeln!(text, "{key} = {value}");
        }
        text.push_str("[datapath]\n");
        for (key, value) in &self.datapath {
            let _ = match value.parse::<u8>() {
                Ok(number) => writeln!(text, "{key} = {number}"),
                Err(_) => writeln!(text, "{key} = {value:?}"),
            };
        }
        text.push_str("[dns]\n");
        for (key, value) in &self.dns {
            let _ = writeln!(text, "{key} = {value}");
        }
        for peer in &self.peers {
            let _ = write!(
                text,
                "[[peer]]\nname = {:?}\npublic_key = {:?}\naddresses = {:?}\n",
                peer.name, peer.key, peer.addresses
            );
            if let Some(endpoint) = &peer.endpoint {
                let _ = writeln!(text, "endpoint = {endpoint:?}");
            }
        }
        for (key, value) in &self.network {
            text = text.replacen("[network]\n", &format!("[network]\n{key} = {value}\n"), 1);
        }
        text.push_str(&self.more);
        text
    }
}
