//! Every message about a mistake, word for word.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use proptest::prelude::*;

use super::*;

mod dhcp;
mod dns;
mod peers;
mod routing;
mod structure;
mod values;

const KEY_BETA: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const KEY_GAMMA: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// The example of the documentation. The tests of mistakes change one thing in it.
const EXAMPLE: &str = r#"[node]
name = "alpha"
key_file = "alpha.key"
state_dir = "/var/lib/alpha"
control_socket = "/run/alpha.sock"
metrics = "127.0.0.1:9100"

[network]
name = "demo"
secret = "some long random text"
mode = "l3"
device = "ipop1"
addresses = ["10.128.0.1/24", "fd00:128::1/64"]
mtu = 1400

[underlay]
listen = ["udp://0.0.0.0:15000", "udp://[::]:15000"]
interfaces = ["p1"]
trusted = ["10.200.0.0/24"]

[datapath]
kernel = "on"
xdp = "native"
io = "io_uring"
security = "clear-if-trusted"

[[peer]]
name = "beta"
public_key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
addresses = ["10.128.0.2/32", "fd00:128::2"]
endpoint = "udp://10.200.0.2:15000"

[[peer]]
name = "gamma"
public_key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
addresses = ["10.128.0.3", "192.168.7.0/24"]
"#;

const MINIMAL: &str = r#"
[node]
name = "alpha"
key_file = "/etc/ipop/key"
[network]
name = "demo"
addresses = ["10.128.0.1/24"]
"#;

fn parsed(text: &str) -> Loaded {
    parse(text, Path::new("/etc/ipop/t.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> String {
    parse(text, Path::new("t.toml"))
        .map(|_| "no error".to_owned())
        .unwrap_or_else(|errors| errors.to_string())
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = parse(text, Path::new("t.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    loaded.warnings.iter().map(Problem::to_string).collect()
}

/// The example with one piece replaced, which must be there exactly once.
fn changed(from: &str, to: &str) -> String {
    assert_eq!(EXAMPLE.matches(from).count(), 1, "{from}");
    EXAMPLE.replace(from, to)
}

/// Checks the message for one change to the example.
#[track_caller]
fn refuses(from: &str, to: &str, message: &str) {
    assert_eq!(errors(&changed(from, to)), message);
}

#[test]
fn the_example_means_what_it_says() {
    let Loaded { config, warnings } = parsed(EXAMPLE);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.node.name, "alpha");
    assert_eq!(config.node.key_file, Path::new("/etc/ipop/alpha.key"));
    assert_eq!(config.node.state_dir, Path::new("/var/lib/alpha"));
    assert_eq!(config.node.metrics, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.network.secret.as_ref().unwrap().expose(), b"some long random text");
    assert_eq!(config.network.device.as_str(), "ipop1");
    assert_eq!(format!("{:?}", config.network.addresses), "[10.128.0.1/24, fd00:128::1/64]");
    assert_eq!(config.network.mtu, Mtu::Bytes(1400));
    assert_eq!(format!("{:?}", config.underlay.listen), "[0.0.0.0:15000, [::]:15000]");
    assert_eq!(format!("{:?}", config.underlay.interfaces), r#"Some(["p1"])"#);
    assert!(config.underlay.trusts("10.200.0.2".parse().unwrap()));
    assert!(!config.underlay.trusts("10.201.0.2".parse().unwrap()));
    assert_eq!(
        config.datapath,
        Datapath {
            kernel: Kernel::On,
            xdp: Xdp::Native,
            io: Io::IoUring,
            security: Security::ClearIfTrusted,
            seal: Seal::Auto,
            queues: Queues::Auto
        }
    );
    let [beta, gamma] = &config.peers[..] else { panic!("{:?}", config.peers) };
    assert_eq!((beta.name.as_str(), beta.line), ("beta", 27));
    assert_eq!(beta.public_key.to_string(), KEY_BETA);
    assert_eq!(format!("{:?}", beta.addresses), "[10.128.0.2/32, fd00:128::2/128]");
    assert_eq!(beta.endpoint, Some(Endpoint::Address("10.200.0.2:15000".parse().unwrap())));
    assert_eq!(gamma.public_key.to_string(), KEY_GAMMA);
    assert_eq!(gamma.endpoint, None);
}

#[test]
fn what_the_file_leaves_out_has_the_documented_defaults() {
    let config = parsed(MINIMAL).config;
    assert_eq!(config.node.state_dir, Path::new(defaults::STATE_DIR));
    assert_eq!(config.node.control_socket, Path::new(defaults::CONTROL_SOCKET));
    assert_eq!(config.node.metrics, None);
    assert_eq!(config.network.secret, None);
    assert_eq!(config.network.device.as_str(), defaults::DEVICE);
    assert_eq!(config.network.mtu, defaults::MTU);
    assert_eq!(format!("{:?}", config.underlay.listen), "[0.0.0.0:15000, [::]:15000]");
    assert_eq!(config.underlay.interfaces, None);
    assert!(config.underlay.trusted.is_empty() && config.underlay.bootstrap.is_empty());
    assert_eq!(
        config.datapath,
        Datapath {
            kernel: defaults::KERNEL,
            xdp: defaults::XDP,
            io: defaults::IO,
            security: defaults::SECURITY,
            seal: defaults::SEAL,
            queues: defaults::QUEUES
        }
    );
    assert!(config.peers.is_empty());
    assert_eq!(
        config.dns,
        Dns {
            enabled: defaults::DNS,
            resolver: defaults::RESOLVER,
            forward: Vec::new(),
            serve: false,
            search: false,
            hosts: BTreeMap::new(),
            services: BTreeMap::new()
        }
    );
    // The defaults that are texts are values of the language.
    let spelled_out = MINIMAL.to_owned()
        + &format!(
            "mode = \"{}\"\n[datapath]\nsecurity = \"sealed\"\nseal = \"auto\"\nqueues = \"auto\"\n",
            defaults::MODE
        );
    assert_eq!(parsed(&spelled_out).config, config);
}

#[test]
fn secrets_are_not_in_the_debug_form() {
    let text = format!("{:?}", parsed(EXAMPLE));
    assert!(!text.contains("some long random text"), "{text}");
}

#[test]
fn mistakes_in_values_are_reported_all_at_once_in_the_order_of_the_file() {
    let text =
        changed("mtu = 1400", "mtu = 5").replace("\"p1\"", "\"a/b\"").replace("10.200.0.2:", "10.200.0.2;");
    let lines: Vec<String> = errors(&text).lines().map(str::to_owned).collect();
    let places: Vec<&str> = lines.iter().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(places, ["t.toml:14:7", "t.toml:18:15", "t.toml:31:12"]);
}

fn write_with_mode(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).mode(mode).open(path).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

#[test]
fn a_file_whose_secret_others_can_read_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("ipop.toml");
    write_with_mode(&config, EXAMPLE, 0o600);
    assert_eq!(load(&config).unwrap().warnings, []);
    write_with_mode(&config, EXAMPLE, 0o644);
    let warnings: Vec<String> = load(&config).unwrap().warnings.iter().map(Problem::to_string).collect();
    let path = config.display();
    assert_eq!(
        warnings,
        [format!(
            "{path}: holds a secret, and its mode 0644 opens it to others than its owner; run `chmod 600 {path}`"
        )]
    );
    std::fs::remove_file(&config).unwrap();
    write_with_mode(&config, MINIMAL, 0o644);
    assert_eq!(load(&config).unwrap().warnings, []);
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let reason = |path: &Path| load(path).unwrap_err().to_string().replace(&path.display().to_string(), "F");
    let path = directory.path().join("ipop.toml");
    assert_eq!(
        reason(&path),
        "F: cannot read: No such file or directory (os error 2); \
         write one with `ipopctl init`, or name another with --config"
    );
    assert_eq!(reason(directory.path()), "F: cannot read: Is a directory (os error 21); check the path");
    write_with_mode(&path, b"[node]\nname = \"\xff\"\n", 0o600);
    assert_eq!(reason(&path), "F:2: not UTF-8 text; save the file as UTF-8");
    assert_eq!(reason(Path::new("/dev/zero")), "F: too long for a configuration file; check the path");
}

proptest! {
    #[test]
    fn no_damage_to_the_file_panics_and_every_message_is_one_line_with_a_place(
        at in 0..EXAMPLE.len(), cut in 0usize..12, insert in "[\\[\\]a-z0-9\"=.,:/{}\n -]{0,6}"
    ) {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(at..(at + cut).min(EXAMPLE.len()), &insert);
        if let Err(errors) = parse(&text, Path::new("t.toml")) {
            for line in errors.to_string().lines() {
                prop_assert!(line.starts_with("t.toml:") && line.contains("; "), "{}", line);
            }
            prop_assert_eq!(errors.to_string().lines().count(), errors.problems().len());
        }
    }
}
