//! `ipopctl init`: a commented configuration, a key and a network secret for this machine.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use super::key::refused;
use crate::config::{self, Endpoint, defaults};
use crate::ctl::args;
use crate::ctl::failure::Failure;
use crate::ctl::output::Output;
use crate::key::{NodeAddress, PrivateKey, generate_secret};

const CONFIG_NAME: &str = "ipop.toml";
const KEY_NAME: &str = "private.key";
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// What goes into the files.
struct Plan {
    name: String,
    network: String,
    addresses: Vec<String>,
    endpoint: String,
    key: PrivateKey,
    secret: Zeroizing<String>,
}

/// Writes both files or, where one of them exists already or a value is wrong, neither.
pub(in crate::ctl) fn run(init: &args::Init, output: &mut Output<'_>) -> Result<(), Failure> {
    let plan = Plan::new(init)?;
    let (config_path, key_path) = (init.dir.join(CONFIG_NAME), init.dir.join(KEY_NAME));
    let text = plan.config_text();
    let parsed = config::parse(&text, &config_path).map_err(|errors| usage(&errors))?;
    let own_addresses = parsed.config.network.addresses.iter().map(|prefix| prefix.addr().to_string());
    let peer_block = plan.peer_block(&own_addresses.collect::<Vec<_>>());
    write(&plan, &text, &init.dir, &config_path, &key_path)?;
    let public_key = plan.key.public_key();
    if output.json {
        return Ok(output.json(&json!({
            "config": config_path.display().to_string(),
            "key_file": key_path.display().to_string(),
            "public_key": public_key.to_string(),
            "address": public_key.node_address(),
            "peer_block": peer_block,
        }))?);
    }
    Ok(output.text(&format!(
        "wrote {} and {}\n\n\
         Add this to the configuration of every other node, and theirs to this one:\n\n\
         {peer_block}\n\
         All nodes need the same `network.secret`: copy it from one of them. Then start ipopd.\n",
        config_path.display(),
        key_path.display()
    ))?)
}

impl Plan {
    fn new(init: &args::Init) -> Result<Self, Failure> {
        let host = host_name();
        let key = PrivateKey::generate().map_err(refused)?;
        let address = || vec![address_of(&key.public_key().node_address())];
        let endpoint = init.endpoint.clone().unwrap_or_else(|| format!("{host}:{}", defaults::PORT));
        let endpoint: Endpoint = endpoint.parse().map_err(|error| Failure::Usage(format!("{error}")))?;
        Ok(Self {
            name: init.name.clone().unwrap_or_else(|| node_name(&host)),
            network: init.network.clone(),
            addresses: if init.addresses.is_empty() { address() } else { init.addresses.clone() },
            endpoint: format!("udp://{endpoint}"),
            key,
            secret: generate_secret().map_err(refused)?,
        })
    }

    fn config_text(&self) -> Zeroizing<String> {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        Zeroizing::new(format!(
            r#"# IPOP node. `ipopctl config check` says what is wrong with this file, by line and reason.
# A key with a # before it has its default value.

[node]
name = {name}
key_file = "{KEY_NAME}"           # beside this file; mode 0600
#state_dir = "{state_dir}"
#control_socket = "{control_socket}"
#metrics = "127.0.0.1:9100"         # Prometheus metrics over TCP; default: on the socket alone

[network]
name = {network}
secret = {secret}  # the same on all nodes; keep it secret
#device = "{device}"
addresses = {addresses}
#mtu = "auto"                       # or a number of bytes

[underlay]
#listen = ["udp://0.0.0.0:{port}", "udp://[::]:{port}"]
#interfaces = ["eth0"]              # default: those on the routes to the peers
# Networks whose wires are yours; with security = "clear-if-trusted" links within them are clear.
#trusted = []                       # like ["192.168.0.0/16"]

[datapath]
#kernel = "auto"                    # auto, on, off
#xdp = "auto"                       # auto, native, generic, off
#io = "auto"                        # auto, io_uring, epoll
#security = "sealed"                # or "clear-if-trusted": clear between networks that both ends trust
#seal = "auto"                      # auto, kernel, user: where packets are sealed

# One for each other node; `ipopctl init` there prints it.
#[[peer]]
#name = "beta"
#public_key = "its public key"
#addresses = ["10.128.0.2"]
#endpoint = "udp://192.0.2.7:{port}"
"#,
            name = quoted(&self.name),
            network = quoted(&self.network),
            secret = quoted(&self.secret),
            addresses = quoted_list(&self.addresses),
            state_dir = defaults::STATE_DIR,
            control_socket = defaults::CONTROL_SOCKET,
            device = defaults::DEVICE,
            port = defaults::PORT,
        ))
    }

    /// What another node's configuration needs to know of this one.
    fn peer_block(&self, addresses: &[String]) -> String {
        format!(
            "[[peer]]\nname = \"{}\"\npublic_key = \"{}\"\naddresses = {}\nendpoint = \"{}\"\n",
            self.name,
            self.key.public_key(),
            quoted_list(addresses),
            self.endpoint
        )
    }
}

fn quoted_list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| toml::Value::from(text.as_str()).to_string()).collect();
    format!("[{}]", quoted.join(", "))
}

/// A wrong value shows as a mistake in the file that it would have made; its place there means
/// nothing to who gave it on the command line.
fn usage(errors: &config::ConfigErrors) -> Failure {
    let lines = errors.problems().iter().map(|problem| format!("{}; {}", problem.reason, problem.advice));
    Failure::Usage(lines.collect::<Vec<_>>().join("; "))
}

fn write(plan: &Plan, text: &str, dir: &Path, config_path: &Path, key_path: &Path) -> Result<(), Failure> {
    let failed = |what: &str, path: &Path, error: &io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AlreadyExists => "choose another --dir, or move it away",
            io::ErrorKind::PermissionDenied => "run as root, or choose another --dir",
            _ => "choose another --dir",
        };
        Failure::Refused(format!("cannot {what} {}: {error}; {advice}", path.display()))
    };
    if config_path.symlink_metadata().is_ok() {
        return Err(failed("write", config_path, &io::ErrorKind::AlreadyExists.into()));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|error| failed("make the directory", dir, &error))?;
    plan.key.write_new(key_path).map_err(refused)?;
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(config_path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(|error| {
        // A key without its configuration would be in the way of the next try.
        let _ = std::fs::remove_file(key_path);
        failed("write", config_path, &error)
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name == "(none)" { "localhost".to_owned() } else { name.to_owned() }
}

/// The first label of the host's name, in the letters that a node's name may have.
fn node_name(host: &str) -> String {
    let label = host.split('.').next().unwrap_or(host);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    label.chars().map(plain).take(63).collect()
}

/// An address that two nodes seldom share, so that nobody has to hand them out.
fn address_of(node: &NodeAddress) -> String {
    let [high, low, ..] = *node.as_bytes();
    format!("10.128.{high}.{}/16", 1 + low % 254)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str) -> Plan {
        Plan {
            name: name.to_owned(),
            network: "demo".to_owned(),
            addresses: vec!["10.128.0.1/24".to_owned(), "fd00::1/64".to_owned()],
            endpoint: "udp://192.0.2.7:15000".to_owned(),
            key: PrivateKey::from_bytes([9; 32]),
            secret: generate_secret().unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_valid_and_says_what_the_defaults_are() {
        let text = plan("alpha").config_text();
        let written = config::parse(&text, Path::new("/etc/ipop/ipop.toml")).unwrap();
        assert!(written.warnings.is_empty(), "{:?}", written.warnings);
        // With every comment sign taken out, the values are still those of the defaults.
        let uncommented: String = text
            .lines()
            .filter(|line| {
                !line.starts_with("# ") && !line.contains("metrics") && !line.contains("interfaces")
            })
            .take_while(|line| !line.contains("[[peer]]"))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .collect();
        assert!(uncommented.lines().count() > 15);
        assert_eq!(
            config::parse(&uncommented, Path::new("/etc/ipop/ipop.toml")).unwrap().config,
            written.config
        );
    }

    #[test]
    fn the_printed_block_makes_a_peer_of_another_node() {
        let block = plan("alpha").peer_block(&["10.128.0.1".to_owned()]);
        let mut other = plan("beta");
        other.addresses = vec!["10.128.0.2/24".to_owned()];
        let text = other.config_text().to_string() + &block;
        let loaded = config::parse(&text, Path::new("t.toml")).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let peer = &loaded.config.peers[0];
        assert_eq!((peer.name.as_str(), peer.public_key), ("alpha", plan("x").key.public_key()));
    }

    #[test]
    fn any_host_has_a_node_name() {
        for (host, name) in [("alpha.example.org", "alpha"), ("a_b c", "a-b-c"), ("naïve", "na-ve")] {
            assert_eq!(node_name(host), name);
        }
        assert_eq!(node_name(&"x".repeat(200)).len(), 63);
    }

    #[test]
    fn derived_addresses_are_those_of_hosts() {
        for byte in 0..=255 {
            let node = crate::key::PublicKey::from_bytes([byte; 32]).node_address();
            let mut plan = plan("alpha");
            plan.addresses = vec![address_of(&node)];
            config::parse(&plan.config_text(), Path::new("t.toml")).unwrap();
        }
    }
}
