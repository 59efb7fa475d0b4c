//! `ipopctl init`: a commented configuration and a key for this machine, as the first node of a new
//! network or as one more of a network whose token it is given.

mod address;
pub(super) mod files;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use serde_json::json;
use zeroize::Zeroizing;

use super::key::refused;
use crate::config::{self, Config, Endpoint, defaults};
use crate::ctl::args;
use crate::ctl::failure::Failure;
use crate::ctl::output::Output;
use crate::key::{PrivateKey, generate_secret};
use crate::token::{Member, TOKEN_LEN_MAX, Token};
use files::{Files, KEY_NAME};

const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// What goes into the files.
struct Plan {
    name: String,
    network: String,
    /// None: they are leased.
    addresses: Vec<String>,
    /// The addresses that the network has, where this node is to say so.
    pool: Option<String>,
    endpoint: Endpoint,
    key: PrivateKey,
    secret: Zeroizing<String>,
    inviter: Option<Member>,
    /// Ways into the overlay; the inviter is no peer of its own then.
    bootstrap: Vec<String>,
}

/// Writes both files or, where one of them exists already or a value is wrong, neither.
pub(in crate::ctl) fn run(init: &args::Init, output: &mut Output<'_>) -> Result<(), Failure> {
    let files = Files::in_dir(&init.dir);
    let token = init.join.as_ref().map(read_token).transpose()?;
    if !init.force {
        files.must_not_exist(token.as_ref())?;
    }
    let key_exists = files.key.symlink_metadata().is_ok();
    let key = if key_exists { PrivateKey::read(&files.key) } else { PrivateKey::generate() };
    let plan = Plan::new(init, token, key.map_err(refused)?)?;
    let text = plan.config_text();
    let config = config::parse(&text, &files.config).map_err(|errors| usage(&errors))?.config;
    config.check_own_key(&files.config, &plan.key.public_key()).map_err(|errors| usage(&errors))?;
    let new_key = (!key_exists).then_some(&plan.key);
    files.write(&text, new_key, init.force)?;
    report(&plan, &config, &files, output)
}

/// Says what was written, and what another node needs to know.
fn report(plan: &Plan, config: &Config, files: &Files, output: &mut Output<'_>) -> Result<(), Failure> {
    let own = plan.member(config);
    let peer_block = peer_block(&own);
    let public_key = plan.key.public_key();
    let (config_path, key_path) = (files.config.display().to_string(), files.key.display().to_string());
    let (name, network, endpoint) = (&plan.name, &plan.network, &plan.endpoint);
    let token = || {
        let secret = plan.secret.clone();
        Token { network: network.clone(), secret, inviter: own.clone() }.encode()
    };
    if output.json {
        let token = plan.inviter.is_none().then(token);
        return Ok(output.json(&json!({
            "config": config_path,
            "key_file": key_path,
            "name": name,
            "network": network,
            "public_key": public_key.to_string(),
            "address": public_key.node_address(),
            "virtual_ips": own.addresses.iter().map(|address| address.addr()).collect::<Vec<_>>(),
            "peer_block": peer_block,
            "bootstrap": plan.bootstrap,
            "token": token.as_ref().map(|token| token.as_str()),
        }))?);
    }
    let text = match &plan.inviter {
        // They have to find each other: leases are in the overlay.
        None if plan.addresses.is_empty() => format!(
            "wrote {config_path} and {key_path}\n\n\
             Another node joins network {network} with `ipopctl init --join -` and this line:\n\n\
             {}\n\n\
             It holds the network's secret, and says that this node is at {endpoint} (--endpoint).\n\
             Then start ipopd on both: they find each other, and `ipopctl dhcp leases` shows their addresses.\n",
            *token()
        ),
        None => format!(
            "wrote {config_path} and {key_path}\n\n\
             Another node joins network {network} with `ipopctl init --join - --bootstrap` and this line:\n\n\
             {}\n\n\
             It holds the network's secret, and says that this node is at {endpoint} (--endpoint).\n\
             Then start ipopd on both: they find each other. Without --bootstrap, nodes list one another: what is\n\
             printed there goes into {config_path} here.\n",
            *token()
        ),
        Some(_) if !plan.bootstrap.is_empty() => format!(
            "wrote {config_path} and {key_path}\n\n\
             Start ipopd: it finds network {network} by way of {}, and nobody has to be told.\n\
             `ipopctl status` says whether it is part of the ring.\n",
            plan.bootstrap.join(", ")
        ),
        Some(inviter) => format!(
            "wrote {config_path} and {key_path}\n\n\
             Add this to the configuration of {}, and run `ipopctl reload` there:\n\n\
             {peer_block}\n\
             Other nodes of network {network} need it as well, and this one theirs. Then start ipopd.\n\
             With --bootstrap none of this is needed: the nodes find each other.\n",
            inviter.name
        ),
    };
    Ok(output.text(&Zeroizing::new(text))?)
}

fn read_token(text: &args::TokenText) -> Result<Token, Failure> {
    let of_input;
    let text = if text.0.as_str() == "-" {
        of_input = line_of_input().map_err(|error| {
            Failure::Refused(format!("cannot read the token: {error}; check what is piped in"))
        })?;
        &of_input
    } else {
        &text.0
    };
    Token::decode(text).map_err(|error| Failure::Usage(format!("--join: {error}")))
}

/// The first line of standard input, which stays in no buffer.
pub(super) fn line_of_input() -> io::Result<Zeroizing<String>> {
    if io::stdin().is_terminal() {
        write!(io::stderr(), "token: ")?;
    }
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut bytes = Zeroizing::new([0; TOKEN_LEN_MAX]);
    let mut len = 0;
    while len < bytes.len() && !bytes[..len].contains(&b'\n') {
        match input.read(&mut bytes[len..])? {
            0 => break,
            more => len += more,
        }
    }
    let line = bytes[..len].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Zeroizing::new(String::from_utf8_lossy(line).into_owned()))
}

impl Plan {
    fn new(init: &args::Init, token: Option<Token>, key: PrivateKey) -> Result<Self, Failure> {
        let host = host_name();
        let endpoint = init.endpoint.clone().unwrap_or_else(|| format!("{host}:{}", defaults::PORT));
        let endpoint = endpoint.parse().map_err(|error| Failure::Usage(format!("{error}")))?;
        let name = init.name.clone().unwrap_or_else(|| node_name(&host));
        let (network, secret, inviter) = match token {
            Some(Token { network, secret, inviter }) => (network, secret, Some(inviter)),
            None => (init.network.clone(), generate_secret().map_err(refused)?, None),
        };
        if inviter.as_ref().is_some_and(|inviter| inviter.name == name) {
            return Err(Failure::Usage(format!(
                "the node that invites is called `{name}` as well; give this one a --name"
            )));
        }
        let is_leased = match &inviter {
            Some(inviter) => inviter.addresses.is_empty(),
            None => init.pool.is_some(),
        };
        let by_inviter = [String::new()];
        let given = match &init.bootstrap[..] {
            // Leases are in the overlay.
            [] if is_leased && inviter.is_some() => &by_inviter[..],
            given => given,
        };
        let bootstrap = ways_in(given, inviter.as_ref())?;
        let addresses = match &init.addresses[..] {
            [] if is_leased => Vec::new(),
            [] => address::derive(inviter.as_ref(), &key.public_key().node_address())?,
            given => given.to_vec(),
        };
        let pool = init.pool.clone();
        Ok(Self { name, network, addresses, pool, endpoint, key, secret, inviter, bootstrap })
    }

    /// This node, as others have to know it.
    fn member(&self, config: &Config) -> Member {
        Member {
            name: self.name.clone(),
            public_key: self.key.public_key(),
            addresses: config.network.addresses.clone(),
            endpoint: Some(self.endpoint.clone()),
        }
    }

    fn config_text(&self) -> Zeroizing<String> {
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
{dhcp}
[underlay]
#listen = ["udp://0.0.0.0:{port}", "udp://[::]:{port}"]
#interfaces = ["eth0"]              # default: those on the routes to the peers
{bootstrap}
# Networks whose wires are yours; with security = "clear-if-trusted" links within them are clear.
#trusted = []                       # like ["192.168.0.0/16"]

[datapath]
#kernel = "auto"                    # auto, on, off
#xdp = "auto"                       # auto, native, generic, off
#io = "auto"                        # auto, io_uring, epoll
#security = "sealed"                # or "clear-if-trusted": clear between networks that both ends trust
#queues = "auto"                    # or a number of threads for the daemon's packets
#seal = "auto"                      # auto, kernel, user: where packets are sealed

# Names HOST.NETWORK.ipop of this network's hosts, answered at this node's own address.
[dns]
#enabled = true
#resolver = "auto"                  # auto, systemd-resolved, resolv.conf, off: how this host's programs come to ask there
#forward = []                       # servers for other names, like ["192.0.2.53"]; for this host's programs alone
#search = false                     # short names too
#serve = false                      # members of the network are answered too
#hosts = {{}}                         # hosts that are no nodes, like {{ printer = ["10.128.0.9"] }}
#services = {{}}                      # of this node, like {{ "_http._tcp" = 80 }}

# One for each other node; `ipopctl init --join` there prints it.
#[[peer]]
#name = "beta"
#public_key = "its public key"
#addresses = ["10.128.0.2"]
#endpoint = "udp://192.0.2.7:{port}"
{inviter}"#,
            name = quoted(&self.name),
            network = quoted(&self.network),
            secret = quoted(&self.secret),
            addresses = match &self.addresses[..] {
                [] => "\"dhcp\"                 # leased in the overlay; `ipopctl dhcp leases` shows which"
                    .to_owned(),
                addresses => quoted_list(addresses),
            },
            dhcp = self.dhcp_section(),
            state_dir = defaults::STATE_DIR,
            control_socket = defaults::CONTROL_SOCKET,
            device = defaults::DEVICE,
            port = defaults::PORT,
            bootstrap = self.bootstrap_line(),
            inviter = self
                .inviter
                .as_ref()
                .filter(|_| self.bootstrap.is_empty())
                .map(|inviter| format!("\n{}", peer_block(inviter)))
                .unwrap_or_default(),
        ))
    }

    /// What is said of leases, by a node that has one.
    fn dhcp_section(&self) -> String {
        if !self.addresses.is_empty() {
            return String::new();
        }
        let pool = match &self.pool {
            None => String::new(),
            Some(pool) => format!(
                "pool = {}             # the network's addresses; one node that says so is enough\n\
                 #lease_s = {}                     # how long an address is kept for a node that is gone\n\
                 #ipv6 = \"fd00:128::/64\"             # each node has an address in it that follows from its key\n\
                 #reserved = {{}}                      # like {{ \"10.128.0.5\" = \"ipop:...\" }}\n",
                quoted(pool),
                defaults::LEASE_S
            ),
        };
        format!("\n[dhcp]\n{pool}#address = \"10.128.0.7\"             # the only address that will do\n")
    }

    fn bootstrap_line(&self) -> String {
        if self.bootstrap.is_empty() {
            // Written out, it would have a meaning: a node with peers that takes others nevertheless.
            return "# Nodes by way of which this one finds all others: bootstrap = [\"udp://192.0.2.7:15000\"]".to_owned();
        }
        format!(
            "bootstrap = {}  # any node that is up; more than one is better",
            quoted_list(&self.bootstrap)
        )
    }
}

/// The ways into the overlay; one without a value is the node that invites.
fn ways_in(given: &[String], inviter: Option<&Member>) -> Result<Vec<String>, Failure> {
    let endpoint = || inviter.and_then(|inviter| inviter.endpoint.as_ref());
    let way_in = |text: &String| {
        match (text.is_empty(), endpoint()) {
        (false, _) => Ok(text.clone()),
        (true, Some(endpoint)) => Ok(format!("udp://{endpoint}")),
        (true, None) => Err(Failure::Usage(
            "--bootstrap without a value is the node whose token --join has; name one, like udp://192.0.2.7:15000"
                .to_owned(),
        )),
    }
    };
    given.iter().map(way_in).collect()
}

/// A member of the network in the configuration of another.
fn peer_block(member: &Member) -> String {
    let addresses: Vec<String> = member.addresses.iter().map(|address| address.addr().to_string()).collect();
    let mut block = format!(
        "[[peer]]\nname = {}\npublic_key = \"{}\"\naddresses = {}\n",
        quoted(&member.name),
        member.public_key,
        quoted_list(&addresses)
    );
    if let Some(endpoint) = &member.endpoint {
        block += &format!("endpoint = \"udp://{endpoint}\"\n");
    }
    block
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn quoted_list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A wrong value shows as a mistake in the file that it would have made; its place there means
/// nothing to who gave it on the command line.
pub(super) fn usage(errors: &config::ConfigErrors) -> Failure {
    let lines = errors.problems().iter().map(|problem| format!("{}; {}", problem.reason, problem.advice));
    Failure::Usage(lines.collect::<Vec<_>>().join("; "))
}

pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name == "(none)" { "localhost".to_owned() } else { name.to_owned() }
}

/// The first label of the host's name, in the letters that a node's name may have.
pub(super) fn node_name(host: &str) -> String {
    let label = host.split('.').next().unwrap_or(host);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    label.chars().map(plain).take(63).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(name: &str) -> Plan {
        Plan {
            name: name.to_owned(),
            network: "demo".to_owned(),
            addresses: vec!["10.128.0.1/24".to_owned(), "fd00::1/64".to_owned()],
            pool: None,
            endpoint: "192.0.2.7:15000".parse().unwrap(),
            key: PrivateKey::from_bytes([9; 32]),
            secret: generate_secret().unwrap(),
            inviter: None,
            bootstrap: Vec::new(),
        }
    }

    fn parsed(text: &str) -> config::Loaded {
        let loaded = config::parse(text, Path::new("/etc/ipop/ipop.toml")).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        loaded
    }

    #[test]
    fn what_is_written_is_valid_and_says_what_the_defaults_are() {
        let text = plan("alpha").config_text();
        let written = parsed(&text);
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
        assert_eq!(parsed(&uncommented).config, written.config);
    }

    #[test]
    fn the_inviter_is_a_peer_of_the_one_who_joins() {
        let alpha = plan("alpha");
        let inviter = alpha.member(&parsed(&alpha.config_text()).config);
        let addresses = vec!["10.128.0.2/24".to_owned(), "fd00::2/64".to_owned()];
        for endpoint in [Some("alpha.example.org:15000".parse().unwrap()), None] {
            let inviter = Some(Member { endpoint: endpoint.clone(), ..inviter.clone() });
            let beta = Plan { addresses: addresses.clone(), inviter, ..plan("beta") };
            let config = parsed(&beta.config_text()).config;
            let [peer] = &config.peers[..] else { panic!("{:?}", config.peers) };
            assert_eq!((peer.name.as_str(), peer.public_key), ("alpha", alpha.key.public_key()));
            assert_eq!(format!("{:?}", peer.addresses), "[10.128.0.1/32, fd00::1/128]");
            assert_eq!(peer.endpoint, endpoint);
        }
    }

    #[test]
    fn a_node_with_a_way_in_has_no_peers_of_its_own() {
        let alpha = plan("alpha");
        let inviter = alpha.member(&parsed(&alpha.config_text()).config);
        let given = [String::new(), "udp://[fd00::9]:1500".to_owned()];
        let bootstrap = ways_in(&given, Some(&inviter)).unwrap();
        assert_eq!(bootstrap, ["udp://192.0.2.7:15000", "udp://[fd00::9]:1500"]);
        let addresses = vec!["10.128.0.2/24".to_owned()];
        let config =
            parsed(&Plan { addresses, inviter: Some(inviter), bootstrap, ..plan("beta") }.config_text())
                .config;
        assert!(config.peers.is_empty() && config.has_overlay());
        let ways: Vec<_> = config.underlay.bootstrap.iter().map(ToString::to_string).collect();
        assert_eq!(ways, ["udp://192.0.2.7:15000", "udp://[fd00::9]:1500"]);
        assert!(ways_in(&given, None).unwrap_err().to_string().contains("name one"));
    }

    #[test]
    fn who_joins_a_network_that_leases_addresses_leases_one() {
        let leasing = Plan { addresses: Vec::new(), pool: Some("10.9.0.0/16".to_owned()), ..plan("alpha") };
        let config = parsed(&leasing.config_text()).config;
        let pool = config.dhcp.as_ref().and_then(|dhcp| dhcp.pool.clone()).unwrap();
        assert_eq!((pool.network().to_string().as_str(), pool.prefix_len()), ("10.9.0.0", 16));
        assert_eq!(pool.lease_s(), defaults::LEASE_S);
        let token = Token {
            network: "demo".to_owned(),
            secret: leasing.secret.clone(),
            inviter: leasing.member(&config),
        };
        let init = args::Init {
            dir: "/etc/ipop".into(),
            name: Some("beta".to_owned()),
            join: None,
            network: "ipop".to_owned(),
            addresses: Vec::new(),
            pool: None,
            endpoint: None,
            bootstrap: Vec::new(),
            force: false,
        };
        let token = Token::decode(&token.encode()).unwrap();
        let joined = Plan::new(&init, Some(token), PrivateKey::from_bytes([8; 32])).unwrap();
        let config = parsed(&joined.config_text()).config;
        assert_eq!(config.dhcp, Some(config::Dhcp::default()));
        assert_eq!(config.underlay.bootstrap.len(), 1);
    }

    #[test]
    fn any_host_has_a_node_name() {
        for (host, name) in [("alpha.example.org", "alpha"), ("a_b c", "a-b-c"), ("naïve", "na-ve")] {
            assert_eq!(node_name(host), name);
        }
        assert_eq!(node_name(&"x".repeat(200)).len(), 63);
    }
}
