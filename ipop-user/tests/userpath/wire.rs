//! What the tests of the user path stand on: two network namespaces joined by a veth wire, a TUN
//! device and a running user path in each. Everything goes when the wire is dropped.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipop_common::aead;
use ipop_common::gpe::LinkId;
use ipop_common::maps::{Link, LinkRef, PrefixKey};
use ipop_common::session::Agreed;
use ipop_common::{Address, Counter, Family};
use ipop_overlay::session::Mac1Key;
use ipop_overlay::{Endpoint, NodeAddress};
use ipop_user::places::Places;
use ipop_user::userpath::{
    Carriage, CarriedDatagram, Counters, HandshakeDatagram, Io, Kind, Listeners, QueueFiles, Settings,
    StartError, Table, Tun, UserEvent, UserLink, UserPath, UserSession, bind_queues,
};
use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc;

/// How long anything that must happen may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// The daemons' port.
pub(crate) const PORT: u16 = 15_000;
/// The link id that both ends use.
pub(crate) const LINK_ID: u32 = 0x0a_0b0c;
/// The public key of both nodes, which make no sessions.
pub(crate) const PUBLIC_KEY: [u8; 32] = [9; 32];
/// The slot of the link to the peer.
pub(crate) const SLOT: u32 = 2;

/// Inner addresses of the two nodes.
pub(crate) const INNER: [[&str; 2]; 2] = [["10.128.0.1", "fd00:128::1"], ["10.128.0.2", "fd00:128::2"]];
/// Outer addresses.
pub(crate) const OUTER: [[&str; 2]; 2] = [["10.200.0.1", "fd00:200::1"], ["10.200.0.2", "fd00:200::2"]];

/// True if the test can run. A test that cannot says so, and fails where it should have.
pub(crate) fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let required = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    assert!(!required("CI", "true") && !required("IPOP_REQUIRE_ROOT", "1"), "this test needs root");
    eprintln!("skipped: needs root");
    false
}

/// One test at a time: they measure, and there are few cores.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command, which has to succeed, in a namespace.
pub(crate) fn run_in(netns: &str, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    run_words_in(netns, &words)
}

/// Has one CPU receive everything that comes to a namespace by the wire. Without that a veth device queues each packet
/// on the CPU that sends it: where a shaper's timer sends some of them, packets overtake each other there.
pub(crate) fn receive_on_one_cpu(netns: &str) {
    run_words_in(netns, &["sh", "-c", "echo 1 > /sys/class/net/w0/queues/rx-0/rps_cpus"]);
}

fn run_words_in(netns: &str, words: &[&str]) -> String {
    let command = words.join(" ");
    let output =
        Command::new("ip").args(["netns", "exec", netns]).args(words).output().expect("ip is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}{errors}");
    text
}

fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("ip is installed");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `f` in a namespace, on a thread of its own; threads that it starts stay there.
pub(crate) fn inside<T: Send>(netns: &str, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{netns}")).expect("the namespace exists");
            setns(file, CloneFlags::CLONE_NEWNET).expect("entering a namespace takes root");
            f()
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::yield_now();
    }
}

/// What a test may choose about the wire and the links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) io: Io,
    /// Outer addresses are IPv6.
    pub(crate) outer_v6: bool,
    /// Of the wire.
    pub(crate) wire_mtu: u16,
    /// Inner MTU of the link; 0: what the wire leaves.
    pub(crate) link_mtu: u16,
    /// MTU of the TUN devices; 0: that of the link.
    pub(crate) tun_mtu: u16,
    /// The link is sealed, with a session that both ends have.
    pub(crate) sealed: bool,
    /// As a network card: segmentation offload off, receive merging on.
    pub(crate) nic: bool,
    /// No UDP leads to the peer: the test carries the datagrams, with [`Wire::carrying`].
    pub(crate) carried: bool,
    /// Threads, each with a queue of the TUN device.
    pub(crate) queues: usize,
}

impl Options {
    pub(crate) fn new(io: Io) -> Self {
        Self {
            io,
            outer_v6: false,
            wire_mtu: 1500,
            link_mtu: 0,
            tun_mtu: 0,
            sealed: false,
            nic: false,
            carried: false,
            queues: 1,
        }
    }

    pub(crate) fn link_mtu(&self) -> u16 {
        let sealing = if self.sealed { 24 } else { 0 };
        match (self.link_mtu, self.outer_v6) {
            (0, false) => self.wire_mtu - 36 - sealing,
            (0, true) => self.wire_mtu - 56 - sealing,
            (mtu, _) => mtu,
        }
    }
}

/// One end: a namespace with a TUN device and a user path.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) netns: String,
    pub(crate) tun: Arc<Tun>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) table: Arc<ArcSwap<Table>>,
    pub(crate) events: mpsc::Receiver<UserEvent>,
    pub(crate) handshakes: mpsc::Receiver<HandshakeDatagram>,
    pub(crate) carried: Mutex<mpsc::Receiver<CarriedDatagram>>,
    pub(crate) settings: Settings,
    /// Of a sealed link, the newest last.
    pub(crate) sessions: Mutex<Vec<Arc<UserSession>>>,
    pub(crate) path: Option<UserPath>,
}

impl Node {
    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters.value(counter)
    }

    /// Counters that are not zero, for messages.
    pub(crate) fn counted(&self) -> Vec<(&'static str, u64)> {
        self.counters.iter().filter(|(_, value)| *value > 0).map(|(c, value)| (c.name(), value)).collect()
    }

    /// The link to the other node.
    pub(crate) fn link(&self) -> UserLink {
        self.table.load().user_link(SLOT).expect("there is a link").clone()
    }

    /// Publishes a changed table.
    pub(crate) fn change_link(&self, change: impl Fn(&mut UserLink)) {
        let mut link = self.link();
        change(&mut link);
        let side = usize::from(self.netns.ends_with('b'));
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        self.table.store(Arc::new(table(side, link, &sessions)));
        if let Some(path) = &self.path {
            path.table_changed();
        }
    }

    /// A line of /proc/net/netstat or snmp: the value of a counter of the kernel.
    pub(crate) fn kernel_counter(&self, file: &str, group: &str, name: &str) -> u64 {
        let text = run_in(&self.netns, &format!("cat /proc/net/{file}"));
        let mut lines = text.lines().filter(|line| line.starts_with(group));
        let (names, values) = (lines.next().expect(group), lines.next().expect(group));
        let found = names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {file}"))
    }
}

/// Two nodes and the wire between them.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) a: Node,
    pub(crate) b: Node,
    namespaces: Namespaces,
}

#[derive(Debug)]
struct Namespaces([String; 2]);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for netns in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", netns]).output();
        }
    }
}

impl Wire {
    pub(crate) fn new(options: Options) -> Self {
        let namespaces = lay(options);
        let [a, b] = [0, 1].map(|side| start_node(&namespaces.0[side], side, options).expect("it starts"));
        Self { a, b, namespaces }
    }

    pub(crate) fn nodes(&self) -> [&Node; 2] {
        [&self.a, &self.b]
    }

    /// Carries datagrams between the nodes, as others would, while `act` runs.
    pub(crate) fn carrying(&self, act: impl FnOnce()) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for side in 0..2 {
                let (from, to, is_over) = (self.nodes()[side], self.nodes()[1 - side], &is_over);
                scope.spawn(move || {
                    let mut carried = from.carried.lock().expect("one carrier");
                    let to = to.path.as_ref().expect("it runs").inlet();
                    while !is_over.load(Ordering::Relaxed) {
                        let Ok(datagram) = carried.try_recv() else {
                            thread::yield_now();
                            continue;
                        };
                        assert_eq!(datagram.to, Endpoint::Overlay(address(1 - side)));
                        while !to.take_in(address(side).into(), &datagram.bytes) {
                            assert!(!is_over.load(Ordering::Relaxed), "the inbox stays full");
                            thread::yield_now();
                        }
                    }
                });
            }
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            is_over.store(true, Ordering::Relaxed);
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    /// Both nodes get another session, to send on from now on; the ones before stay.
    pub(crate) fn renew_session(&self, number: u8) {
        let made = [0, 1].map(|side| make_session(side, number, &self.nodes()[side].settings.places));
        for (node, session) in self.nodes().into_iter().zip(&made) {
            let mut sessions = node.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.push(Arc::clone(session));
            drop(sessions);
            node.change_link(|_| ());
        }
        for (node, session) in self.nodes().into_iter().zip(made) {
            node.change_link(|link| link.carriage = Carriage::Sealed(Some(Arc::clone(&session))));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for node in [&mut self.a, &mut self.b] {
            if let Some(path) = node.path.take() {
                path.stop().expect("the data thread was alive");
            }
        }
        debug_assert_eq!(self.namespaces.0.len(), 2);
    }
}

/// Makes the namespaces and the wire.
fn lay(options: Options) -> Namespaces {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let namespaces =
        Namespaces(["a", "b"].map(|side| format!("ipop-up-{}-{number}{side}", std::process::id())));
    let [a, b] = &namespaces.0;
    run(&format!("ip netns add {a}"));
    run(&format!("ip netns add {b}"));
    run(&format!(
        "ip link add w0 mtu {0} netns {a} type veth peer name w0 mtu {0} netns {b}",
        options.wire_mtu
    ));
    for (side, netns) in [a, b].into_iter().enumerate() {
        let [v4, v6] = OUTER[side];
        run(&format!("ip -n {netns} addr add {v4}/24 dev w0"));
        run(&format!("ip -n {netns} addr add {v6}/64 dev w0 nodad"));
        run(&format!("ip -n {netns} link set lo up"));
        run(&format!("ip -n {netns} link set w0 up"));
        if options.nic {
            run_in(netns, "ethtool -K w0 tso off gso off tx-udp-segmentation off gro on");
        }
    }
    namespaces
}

/// Starts a user path in a namespace; the device has its addresses and is up.
pub(crate) fn start_node(netns: &str, side: usize, options: Options) -> Result<Node, StartError> {
    let queues: Vec<QueueFiles> = inside(netns, || {
        let tuns = Tun::open_queues("ipop0", options.queues, Kind::Tun).expect("a TUN device");
        let [v4, v6] = ["0.0.0.0", "::"].map(|ip| {
            let address = SocketAddr::new(ip.parse().expect("an address"), PORT);
            bind_queues(address, options.queues).expect("a free port")
        });
        let files =
            |((tun, v4), v6)| QueueFiles { tun: Arc::new(tun), sockets: vec![Arc::new(v4), Arc::new(v6)] };
        tuns.into_iter().zip(v4).zip(v6).map(files).collect()
    });
    let tun = queues[0].tun.clone();
    let mtu = if options.tun_mtu == 0 { options.link_mtu() } else { options.tun_mtu };
    let [v4, v6] = INNER[side];
    run(&format!("ip -n {netns} addr add {v4}/24 dev ipop0"));
    run(&format!("ip -n {netns} addr add {v6}/64 dev ipop0 nodad"));
    run(&format!("ip -n {netns} link set ipop0 mtu {mtu} up"));
    let counters = Arc::new(Counters::new());
    let places = Arc::new(Places::own().expect("memory"));
    let sessions: Vec<_> = options.sealed.then(|| make_session(side, 0, &places)).into_iter().collect();
    let mut link = link(side, options);
    if let Some(session) = sessions.last() {
        link.link.flags &= !Link::TAKES_CLEAR;
        link.carriage = Carriage::Sealed(Some(Arc::clone(session)));
    }
    let table = Arc::new(ArcSwap::from_pointee(table(side, link, &sessions)));
    let (events_tx, events) = mpsc::channel(16);
    let (handshakes_tx, handshakes) = mpsc::channel(16);
    // As many as a TCP stream has under way.
    let (carried_tx, carried) = mpsc::channel(16_384);
    let (groups, _) = mpsc::channel(16);
    let settings = Settings {
        queues,
        io: options.io,
        table: table.clone(),
        places,
        counters: counters.clone(),
        listeners: Listeners {
            stun: ipop_user::stun::Ear::new().0,
            events: events_tx,
            handshakes: handshakes_tx,
            carried: carried_tx,
            groups,
            mac1: Mac1Key::new(&PUBLIC_KEY),
            cookies: Arc::default(),
        },
    };
    let path = UserPath::start(settings.clone())?;
    Ok(Node {
        netns: netns.to_owned(),
        tun,
        counters,
        table,
        events,
        handshakes,
        carried: Mutex::new(carried),
        settings,
        sessions: Mutex::new(sessions),
        path: Some(path),
    })
}

fn link(side: usize, options: Options) -> UserLink {
    let outer =
        |side: usize| -> IpAddr { OUTER[side][usize::from(options.outer_v6)].parse().expect("an address") };
    let id = LinkId::new(LINK_ID).expect("not zero");
    if options.carried {
        return UserLink::around("peer", id, Endpoint::Overlay(address(1 - side)), None, options.link_mtu());
    }
    let endpoint = SocketAddr::new(outer(1 - side), PORT);
    UserLink::new("peer", id, outer(side).into(), endpoint, options.link_mtu())
}

/// Where a node is on the overlay.
pub(crate) fn address(side: usize) -> NodeAddress {
    NodeAddress([side as u8 + 1; 20])
}

/// A session of a sealed link from one side: each sends with its own key.
fn make_session(side: usize, number: u8, places: &Places) -> Arc<UserSession> {
    let keys = [[2 * number; 32], [2 * number + 1; 32]];
    let local = |side: usize| 0x5e55_0001 + 2 * u32::from(number) + side as u32;
    let agreed = Agreed {
        local: local(side),
        remote: local(1 - side),
        send_key: aead::Key::from_bytes(&keys[side]),
        receive_key: aead::Key::from_bytes(&keys[1 - side]),
        expires_ns: u64::MAX,
        first_counter: 0,
        link: LinkRef::LOCAL,
    };
    places.of(local(side)).install(&agreed, None);
    Arc::new(UserSession::new(local(side), &keys[side], &keys[1 - side]))
}

/// One link, to the other side's inner addresses.
fn table(side: usize, link: UserLink, sessions: &[Arc<UserSession>]) -> Table {
    let mut table = Table::new();
    for session in sessions {
        table.insert_session(SLOT, Arc::clone(session));
    }
    let reference = table.insert_link(SLOT, link).expect("an empty table");
    for (node, reference) in [(side, LinkRef::LOCAL), (1 - side, reference)] {
        for text in INNER[node] {
            table.insert_prefix(host(text), reference);
        }
    }
    table
}

/// The prefix of one address.
pub(crate) fn host(text: &str) -> PrefixKey {
    let address = Address::from(text.parse::<IpAddr>().expect("an address"));
    debug_assert!(matches!(address.family(), Family::V4 | Family::V6));
    PrefixKey { bits: 128, address: address.to_bytes() }
}
