//! `ipopctl` as a program: exit statuses, what goes to which stream, and how it meets a daemon
//! that answers, refuses, is silent, strange, dying or not there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ipop_user::config::Config;
use ipop_user::{api, control, key};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

#[path = "../src/control/fake.rs"]
mod fake;

/// A directory with the socket of a daemon that answers from a table.
struct Daemon {
    directory: tempfile::TempDir,
    _handle: control::ServerHandle,
    _runtime: Runtime,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = directory.path().join("ipopd.sock");
        let handle = runtime.block_on(async {
            let (requests, queue) = mpsc::channel(8);
            fake::spawn(queue);
            control::serve(&socket, None, requests).await.unwrap()
        });
        Self { directory, _handle: handle, _runtime: runtime }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("ipopd.sock")
    }

    fn ctl(&self, arguments: &[&str]) -> Outcome {
        run(ipopctl().arg("--socket").arg(self.socket()).args(arguments))
    }
}

fn ipopctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipopctl"));
    command.env_remove("IPOP_SOCKET").env_remove("COLUMNS");
    command
}

/// What a run left behind.
#[derive(Debug)]
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or_else(|| panic!("killed by a signal: {output:?}")),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn run(command: &mut Command) -> Outcome {
    command.output().unwrap().into()
}

impl Outcome {
    #[track_caller]
    fn succeeds(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }

    /// Nothing on standard output, and one line on standard error.
    #[track_caller]
    fn fails(self, status: i32, message: &str) {
        assert_eq!(
            (self.status, self.stdout.as_str(), self.stderr.as_str()),
            (status, "", format!("{message}\n").as_str())
        );
    }

    /// The same, with a line that contains this.
    #[track_caller]
    fn fails_with(self, status: i32, part: &str) {
        assert_eq!(
            (self.status, self.stdout.as_str(), self.stderr.lines().count()),
            (status, "", 1),
            "{self:?}"
        );
        assert!(self.stderr.contains(part), "{self:?}");
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.succeeds()).unwrap()
    }
}

/// Every command that needs a daemon.
const QUESTIONS: [&[&str]; 13] = [
    &["status"],
    &["peers"],
    &["links"],
    &["groups"],
    &["stations"],
    &["routes"],
    &["explain", "beta"],
    &["ping", "beta", "-c", "2", "-i", "0.01"],
    &["counters"],
    &["counters", "--all"],
    &["top", "-n", "1"],
    &["datapath", "kernel", "off"],
    &["reload"],
];

#[test]
fn without_a_daemon_every_question_ends_with_status_3() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let message = format!(
        "ipopctl: no ipopd answers at {}: No such file or directory (os error 2); \
         start it, or name its socket with --socket",
        socket.display()
    );
    for question in QUESTIONS {
        run(ipopctl().arg("--socket").arg(&socket).args(question)).fails(3, &message);
        run(ipopctl().env("IPOP_SOCKET", &socket).args(question).arg("--json")).fails(3, &message);
    }
}

#[test]
fn a_dead_daemons_socket_counts_as_no_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("stale.sock");
    drop(UnixListener::bind(&socket).unwrap());
    run(ipopctl().arg("--socket").arg(&socket).arg("status")).fails(
        3,
        &format!(
            "ipopctl: no ipopd answers at {}: Connection refused (os error 111); \
             start it, or name its socket with --socket",
            socket.display()
        ),
    );
}

/// What `ipopctl status` says of a server that reads the request and answers with these bytes.
fn status_from(answer: &'static [u8]) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("strange.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(answer).unwrap();
    });
    let outcome = run(ipopctl().arg("--socket").arg(&socket).arg("status"));
    server.join().unwrap();
    outcome
}

#[test]
fn a_daemon_that_dies_or_talks_nonsense_is_no_crash() {
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"\0\xff\r\n\r\n"] {
        let outcome = status_from(answer);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (3, ""), "{outcome:?}");
        assert!(outcome.stderr.starts_with("ipopctl: no ipopd answers at "), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    status_from(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7").fails(
        1,
        "ipopctl: cannot understand what ipopd answers (HTTP status 200, invalid type: integer `7`, \
         expected struct Status at line 1 column 1); use ipopctl and ipopd of one version",
    );
}

#[test]
fn wrong_usage_ends_with_status_2() {
    for (arguments, message) in [
        (&[][..], "ipopctl: a command is missing; see `ipopctl --help`"),
        (
            &["ping", "beta", "-c", "0"],
            "ipopctl: invalid value '0' for '--count <COUNT>': 0 is not in 1..=4294967295; see `ipopctl --help`",
        ),
        (&["status", "--colour"], "ipopctl: unexpected argument '--colour' found; see `ipopctl --help`"),
        (
            &["key", "gen"],
            "ipopctl: the following required arguments were not provided: <FILE>; see `ipopctl --help`",
        ),
    ] {
        run(ipopctl().args(arguments)).fails(2, message);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    assert!(run(ipopctl().arg("--help")).succeeds().contains("Exit status: 0 done, 1 refused or failed"));
    let version = run(ipopctl().arg("--version")).succeeds();
    assert_eq!(version, format!("ipopctl {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_the_daemon_refuses_ends_with_status_1() {
    let daemon = Daemon::start();
    let no_such_peer = "ipopctl: no such peer; `ipopctl peers` lists them";
    daemon.ctl(&["explain", "nobody"]).fails(1, no_such_peer);
    daemon.ctl(&["ping", "nobody"]).fails(1, no_such_peer);
    daemon
        .ctl(&["datapath", "kernel", "on"])
        .fails(1, "ipopctl: the kernel path is not available: no CAP_BPF");
}

#[test]
fn peers_as_json_are_an_array_with_the_promised_fields() {
    let daemon = Daemon::start();
    let json = daemon.ctl(&["peers", "--json"]).json();
    assert_eq!(json, serde_json::to_value(fake::peers()).unwrap());
    for field in [
        "name",
        "address",
        "virtual_ips",
        "endpoint",
        "path",
        "security",
        "rtt_us",
        "tx_packets",
        "rx_packets",
        "tx_bytes",
        "rx_bytes",
        "kernel_tx_packets",
        "kernel_rx_packets",
        "user_tx_packets",
        "user_rx_packets",
        "last_handshake_s",
    ] {
        assert!(json[0].get(field).is_some(), "{field}");
    }
}

#[test]
fn state_as_json_is_what_the_daemon_says() {
    let daemon = Daemon::start();
    for (command, expected) in [
        ("status", serde_json::to_value(fake::status()).unwrap()),
        ("links", serde_json::to_value(fake::links()).unwrap()),
        ("groups", serde_json::to_value(fake::groups()).unwrap()),
        ("stations", serde_json::to_value(fake::stations()).unwrap()),
        ("routes", serde_json::to_value(fake::routes()).unwrap()),
        ("counters", serde_json::to_value(fake::counters()).unwrap()),
    ] {
        assert_eq!(daemon.ctl(&["--json", command]).json(), expected, "{command}");
    }
}

#[test]
fn a_peer_is_named_in_four_ways() {
    let daemon = Daemon::start();
    let key = fake::key(2);
    for name in ["beta", "10.128.0.2", &key.to_string(), &key.node_address().to_string()] {
        let json = daemon.ctl(&["explain", name, "--json"]).json();
        assert_eq!(json, serde_json::to_value(fake::explanation()).unwrap(), "{name}");
    }
}

#[test]
fn everything_fits_80_columns() {
    let daemon = Daemon::start();
    for question in QUESTIONS {
        let text = daemon.ctl(question).succeeds();
        assert!(!text.is_empty());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{question:?}: {line}");
        }
    }
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let daemon = Daemon::start();
    let text = run(ipopctl().env("IPOP_SOCKET", daemon.socket()).arg("reload")).succeeds();
    assert_eq!(text, "nothing has changed\n");
}

#[test]
fn pings_are_shown_and_summed_up() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.ctl(&["ping", "beta", "-c", "2", "-i", "0.01"]).succeeds(),
        "beta: seq 1: 101 us\nbeta: seq 2: 101 us\n\
         2 sent, 2 answered, 0 % lost; least 101 us, mean 101 us, most 101 us\n"
    );
    let json = daemon.ctl(&["ping", "beta", "-c", "3", "-i", "0.01", "--json"]).json();
    assert_eq!(
        (&json["count"], &json["lost"], &json["results"][2]["seq"]),
        (&3.into(), &0.into(), &3.into())
    );
    let silent = daemon.ctl(&["ping", "gamma", "-c", "1"]);
    assert_eq!(silent.status, 1);
    assert_eq!(silent.stdout, "gamma: seq 1: no answer\n1 sent, 0 answered, 100 % lost\n");
    assert_eq!(silent.stderr, "ipopctl: no answer from gamma; `ipopctl explain gamma` says why\n");
}

#[test]
fn an_interrupted_ping_is_summed_up() {
    let daemon = Daemon::start();
    let mut child = ipopctl()
        .arg("--socket")
        .arg(daemon.socket())
        .args(["ping", "beta", "-c", "1000000", "-i", "0.01"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "beta: seq 1: 101 us");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(last.contains(" 0 % lost; least 101 us"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn top_prints_samples_where_there_is_no_terminal() {
    let daemon = Daemon::start();
    let text = daemon.ctl(&["top"]).succeeds();
    assert!(text.starts_with("alpha, up 1 h 2 min, 1 of 2 peers direct, rates per second\nPEER "), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let samples = daemon.ctl(&["top", "-n", "2", "--json"]).succeeds();
    let samples: Vec<Value> = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 2);
    assert_eq!(samples[1]["peers"][0]["kernel_tx_packets_per_s"], 0.0);
    assert!(samples[1]["interval_s"].as_f64().unwrap() >= 1.0);
}

fn set_mode(file: &Path, mode: u32) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What is said of a file of secrets with this mode.
fn open_to_others(file: &Path, mode: &str) -> String {
    let file = file.display();
    format!(
        "{file}: holds a secret, and its mode {mode} opens it to others than its owner; run `chmod 600 {file}`"
    )
}

#[test]
fn keys_are_made_once_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.key");
    let generate = || run(ipopctl().args(["key", "gen"]).arg(&file));
    let public_key = generate().succeeds();
    assert_eq!(public_key.trim_end().len(), 44);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(ipopctl().args(["key", "pub"]).arg(&file)).succeeds(), public_key);
    let json = run(ipopctl().args(["--json", "key", "pub"]).arg(&file)).json();
    assert_eq!(json["public_key"], public_key.trim_end());
    assert!(json["address"].as_str().unwrap().starts_with("ipop:"));
    let path = file.display();
    generate().fails(
        1,
        &format!(
            "ipopctl: {path}: exists already and is not overwritten; choose another name or move it away"
        ),
    );
    let private_key = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &private_key[1..]).unwrap();
    run(ipopctl().args(["key", "pub"]).arg(&file))
        .fails(1, &format!("ipopctl: {path}: not a private key; write one with `ipopctl key gen {path}`"));
    set_mode(&file, 0o604);
    run(ipopctl().args(["key", "pub"]).arg(&file))
        .fails(1, &format!("ipopctl: {}", open_to_others(&file, "0604")));
}

/// The golden vector of docs/wire-format.md.
#[test]
fn the_pre_shared_key_of_a_network_is_printed_when_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("ipop");
    init(&target, &["--name", "alpha"]).succeeds();
    let config = target.join("ipop.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let psk = |text: &str| {
        std::fs::write(&config, text).unwrap();
        run(ipopctl().args(["key", "psk"]).arg(&config))
    };
    let secret = text.lines().find(|line| line.starts_with("secret = ")).unwrap();
    let known = text.replace(secret, "secret = \"correct horse battery staple\"");
    assert_eq!(psk(&known).succeeds(), "YhDYh00qf6u55vIgVHK6FL8q6DIOkbcmLfskjgerVXc=\n");
    let json = run(ipopctl().args(["--json", "key", "psk"]).arg(&config)).json();
    assert_eq!(json["preshared_key"], "YhDYh00qf6u55vIgVHK6FL8q6DIOkbcmLfskjgerVXc=");
    psk(&text.replace(secret, "")).fails_with(1, "it has no `network.secret`");
    let line = 1 + text.lines().position(|line| line == secret).unwrap();
    psk(&text.replace(secret, "secret = \"short\"")).fails_with(1, &format!("{}:{line}:", config.display()));
}

/// `ipopctl init` into a directory that is not there yet.
fn init(directory: &Path, arguments: &[&str]) -> Outcome {
    run(ipopctl().arg("init").arg("--dir").arg(directory).args(arguments))
}

fn check(file: &Path, arguments: &[&str]) -> Outcome {
    run(ipopctl().args(["config", "check"]).arg(file).args(arguments))
}

/// `ipopctl init` with a token on standard input.
fn join(directory: &Path, input: &str, arguments: &[&str]) -> Outcome {
    let mut command = ipopctl();
    command.arg("init").arg("--dir").arg(directory).args(["--join", "-"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// The line of what `ipopctl init` prints that begins like this, to the end of its paragraph.
fn paragraph<'a>(printed: &'a str, begins: &str) -> &'a str {
    let found = printed.split("\n\n").find(|paragraph| paragraph.starts_with(begins));
    found.unwrap_or_else(|| panic!("no {begins} in {printed}"))
}

fn append(file: &Path, text: &str) {
    std::fs::write(file, std::fs::read_to_string(file).unwrap() + "\n" + text).unwrap();
}

#[test]
fn two_nodes_are_set_up_from_what_init_prints() {
    let directory = tempfile::tempdir().unwrap();
    let (alpha, beta) = (directory.path().join("etc/alpha"), directory.path().join("etc/beta"));
    let alpha_is = ["--name", "alpha", "--network", "lab", "--endpoint", "192.0.2.1:15000"];
    let addresses = ["--address", "10.128.0.1/24", "--address", "fd00:128::1/64"];
    let printed = init(&alpha, &[&alpha_is[..], &addresses].concat()).succeeds();
    let token = paragraph(&printed, "ipop1:");

    let printed = join(&beta, &format!("{token}\n"), &["--name", "beta"]).succeeds();
    append(&alpha.join("ipop.toml"), paragraph(&printed, "[[peer]]"));
    for (directory, name) in [(&alpha, "alpha"), (&beta, "beta")] {
        let config = directory.join("ipop.toml");
        let valid = format!("{}: valid, node {name} of network lab with 1 peer\n", config.display());
        assert_eq!(check(&config, &[]).succeeds(), valid);
        for file in ["ipop.toml", "private.key"] {
            let mode = std::fs::metadata(directory.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
    let [alpha, beta] = [&alpha, &beta].map(|directory| load(&directory.join("ipop.toml")));
    assert_eq!(alpha.network.secret, beta.network.secret);
    let own = |config: &Config| config.network.addresses.iter().map(|own| own.addr()).collect::<Vec<_>>();
    for (config, other) in [(&alpha, &beta), (&beta, &alpha)] {
        let [peer] = &config.peers[..] else { panic!("{:?}", config.peers) };
        assert_eq!(peer.name, other.node.name);
        assert_eq!(peer.addresses.iter().map(|prefix| prefix.addr()).collect::<Vec<_>>(), own(other));
        let key = key::PrivateKey::read(&other.node.key_file).unwrap().public_key();
        assert_eq!(peer.public_key, key);
        // One network, as the inviter has it.
        let networks =
            |config: &Config| config.network.addresses.iter().map(|own| own.network()).collect::<Vec<_>>();
        assert_eq!(networks(config), networks(other));
    }
}

#[test]
fn a_third_node_joins_by_the_same_token_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let json = init(&directory.path().join("alpha"), &["--name", "alpha", "--json"]).json();
    let token = json["token"].as_str().unwrap();
    let beta_is = ["--name", "beta", "--endpoint", "192.0.2.2:15000", "--json"];
    let beta = join(&directory.path().join("beta"), token, &beta_is).json();
    let gamma = directory.path().join("gamma");
    let argument = init(&gamma, &["--join", token, "--name", "gamma", "--json"]).json();
    assert_eq!((&beta["token"], &argument["token"]), (&Value::Null, &Value::Null));
    append(&gamma.join("ipop.toml"), beta["peer_block"].as_str().unwrap());
    assert!(check(&gamma.join("ipop.toml"), &[]).succeeds().contains("with 2 peers"));

    // The block that another node printed for us is no peer of ours.
    let own_block = argument["peer_block"].as_str().unwrap().replace("\"gamma\"", "\"me\"");
    let own_address = argument["virtual_ips"][0].as_str().unwrap();
    append(&gamma.join("ipop.toml"), &own_block.replace(own_address, "10.128.200.9"));
    let refused = check(&gamma.join("ipop.toml"), &[]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("peer `me` has this node's own public key"), "{refused:?}");
}

#[test]
fn a_node_joins_by_way_of_another_and_nobody_has_to_be_told() {
    let directory = tempfile::tempdir().unwrap();
    let alpha_is = ["--name", "alpha", "--endpoint", "alpha.example.org:15000"];
    let printed = init(&directory.path().join("alpha"), &alpha_is).succeeds();
    assert!(printed.contains("`ipopctl init --join - --bootstrap`"), "{printed}");
    let token = paragraph(&printed, "ipop1:");
    let beta = directory.path().join("beta");
    let printed = join(&beta, token, &["--name", "beta", "--bootstrap"]).succeeds();
    assert!(!printed.contains("[[peer]]") && printed.contains("udp://alpha.example.org:15000"), "{printed}");
    let config = load(&beta.join("ipop.toml"));
    assert!(config.peers.is_empty() && config.has_overlay());
    let gamma = directory.path().join("gamma");
    let more = ["--name", "gamma", "--bootstrap", "udp://192.0.2.2:15000", "--bootstrap", "--json"];
    let json = join(&gamma, token, &more).json();
    assert_eq!(json["bootstrap"], json!(["udp://192.0.2.2:15000", "udp://alpha.example.org:15000"]));
    let delta = directory.path().join("delta");
    join(&delta, token, &["--name", "delta", "--bootstrap", "nowhere"]).fails_with(2, "nowhere");
    init(&delta, &["--name", "delta", "--bootstrap"]).fails_with(2, "--bootstrap without a value");
    assert!(!delta.exists());
}

fn load(config: &Path) -> Config {
    ipop_user::config::load(config).unwrap().config
}

#[test]
fn a_token_that_cannot_be_used_is_refused_and_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let json = init(&directory.path().join("alpha"), &["--name", "alpha", "--json"]).json();
    let token = json["token"].as_str().unwrap();
    let target = directory.path().join("beta");
    let damaged = "--join: the token is damaged: its checksum is wrong; \
                   copy it again, from its first character to its last";
    let not_a_token = "--join: not a token; \
                       paste the whole line that `ipopctl init` prints on a node of the network, `ipop1:` included";
    for (input, message) in [
        (&token[..token.len() - 1], damaged),
        (&token.replacen("ipop1:", "ipop1:A", 1), damaged),
        (&token[1..], not_a_token),
        ("", not_a_token),
        (
            &token.replacen('1', "7", 1),
            "--join: a token of version 7, and this ipopctl reads version 1; use one version of IPOP on both nodes",
        ),
    ] {
        join(&target, input, &[]).fails(2, &format!("ipopctl: {message}"));
    }
    init(&target, &[token]).fails(2, "ipopctl: unexpected argument TOKEN found; see `ipopctl --help`");
    join(&target, token, &["--name", "alpha"])
        .fails(2, "ipopctl: the node that invites is called `alpha` as well; give this one a --name");
    join(&target, token, &["--name", "beta", "--address", json["virtual_ips"][0].as_str().unwrap()])
        .fails_with(2, "overlaps this node's own address");
    assert!(!target.exists());
}

#[test]
fn init_overwrites_nothing_and_leaves_nothing_half_done() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("ipop");
    let (config, key) = (target.join("ipop.toml"), target.join("private.key"));
    init(&target, &[]).succeeds();
    let before = std::fs::read_to_string(&config).unwrap();
    let spare = "choose another --dir, or use --force, which replaces the configuration and keeps the key";
    let exists = |path: &Path| format!("ipopctl: {}: exists already; {spare}", path.display());
    init(&target, &[]).fails(1, &exists(&config));
    let alpha =
        init(&directory.path().join("alpha"), &["--name", "alpha", "--network", "lab", "--json"]).json();
    join(&target, alpha["token"].as_str().unwrap(), &[]).fails(
        1,
        &format!(
            "ipopctl: {}: exists already, and is of network `ipop`, while the token is of `lab`; {spare}",
            config.display()
        ),
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    std::fs::remove_file(&config).unwrap();
    init(&target, &[]).fails(1, &exists(&key));
    assert!(!config.exists());

    let other = directory.path().join("other");
    init(&other, &["--name", "a b"]).fails(
        2,
        "ipopctl: `a b` cannot be a `node.name`; use 1 to 63 letters, digits, `.`, `_` and `-`, and not an IP address",
    );
    assert!(!other.exists());
}

#[test]
fn force_replaces_the_configuration_and_keeps_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("ipop");
    let alpha = init(&directory.path().join("alpha"), &["--name", "alpha", "--json"]).json();
    let token = alpha["token"].as_str().unwrap();
    let before = init(&target, &["--name", "beta", "--json"]).json();
    set_mode(&target.join("ipop.toml"), 0o644);
    let after = join(&target, token, &["--name", "beta", "--force", "--json"]).json();
    assert_eq!(after["public_key"], before["public_key"]);
    assert!(check(&target.join("ipop.toml"), &[]).succeeds().contains("with 1 peer"));
    let mut files: Vec<_> =
        std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["ipop.toml", "private.key"]);

    // The token of the node itself.
    join(&directory.path().join("alpha"), token, &["--name", "other", "--force"])
        .fails_with(2, "peer `alpha` has this node's own public key");
    // A key that must not be used is not replaced either.
    set_mode(&target.join("private.key"), 0o644);
    init(&target, &["--force"])
        .fails(1, &format!("ipopctl: {}", open_to_others(&target.join("private.key"), "0644")));
}

#[test]
fn config_check_says_line_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("ipop");
    init(&target, &["--name", "alpha"]).succeeds();
    let config = target.join("ipop.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("\n#mtu = \"auto\" ", "\nmut = 1500 ")).unwrap();
    let line = 1 + good.lines().position(|line| line.starts_with("#mtu")).unwrap();
    let path = config.display();
    check(&config, &[])
        .fails(1, &format!("{path}:{line}:1: unknown key `mut` in [network]; did you mean `mtu`?"));
    let outcome = check(&config, &["--json"]);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (1, ""));
    let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&json["valid"], &json["errors"][0]["line"]), (&false.into(), &line.into()));

    std::fs::write(&config, good).unwrap();
    let key = target.join("private.key");
    set_mode(&key, 0o640);
    check(&config, &[]).fails(1, &open_to_others(&key, "0640"));

    set_mode(&config, 0o644);
    std::fs::remove_file(&key).unwrap();
    let outcome = check(&config, &[]);
    assert_eq!(
        (outcome.status, outcome.stdout),
        (0, format!("{path}: valid, node alpha of network ipop with 0 peers\n"))
    );
    assert_eq!(
        outcome.stderr,
        format!(
            "warning: {}\nwarning: {path}: there is no key file {key}; write one with `ipopctl key gen {key}`\n",
            open_to_others(&config, "0644"),
            key = key.display()
        )
    );
}

#[test]
fn completions_are_written_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(ipopctl().args(["completions", shell])).succeeds();
        assert!(script.contains("ipopctl") && script.contains("datapath"), "{shell}");
    }
}

#[test]
fn a_reader_who_has_read_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    run(ipopctl().args(["completions", "bash"]).stdout(writer)).succeeds();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    run(ipopctl().arg("--help").stdout(writer)).succeeds();
}

#[test]
fn a_full_disk_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    run(ipopctl().args(["completions", "bash"]).stdout(full)).fails(
        1,
        "ipopctl: cannot print: No space left on device (os error 28); free the place that output goes to",
    );
}
