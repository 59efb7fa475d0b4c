//! The command line of `ipopctl`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use zeroize::Zeroizing;

use crate::config::{CONFIG_FILE, defaults};

/// Ask and command the IPOP daemon of this machine.
#[derive(Debug, Parser)]
#[command(
    name = "ipopctl",
    version,
    after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon."
)]
pub(super) struct Args {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", env = "IPOP_SOCKET", default_value = defaults::CONTROL_SOCKET)]
    pub(super) socket: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a configuration and a key for this machine, for a new network or to join one
    Init(Init),
    /// Be a member of a group, whose server says who is one
    #[command(subcommand)]
    Group(Group),
    /// Show this node and its datapath
    Status,
    /// Show the peers and the paths to them
    Peers,
    /// Show the direct links, and what they are for in the overlay
    Links,
    /// Show which peer each virtual prefix leads to
    Routes,
    /// Show the groups to which this node passes on multicast and broadcast packets, and the trees of these
    Groups,
    /// Show which station is behind which node, in a network that carries Ethernet
    Stations,
    /// Say which path a packet to a peer takes, and why
    Explain {
        /// Name, virtual IP, address on the ring or its beginning, or public key
        peer: String,
    },
    /// Measure the round trip to a node
    Ping(Ping),
    /// Show by way of which nodes the overlay carries a message to a node
    Traceroute(Traceroute),
    /// Walk the overlay's ring: who is there, who is connected to whom, and whether all agree
    Crawl(Crawl),
    /// Leave records with the nodes of the overlay, and find those of others
    #[command(subcommand)]
    Dht(Dht),
    /// Show which addresses of the virtual network are leased, and to whom
    #[command(subcommand)]
    Dhcp(Dhcp),
    /// Show what happened to packets, by path and verdict
    Counters {
        /// Those that are zero as well
        #[arg(long)]
        all: bool,
    },
    /// Watch the rates of each peer and path
    Top {
        /// Stop after this many samples [default: never on a terminal, else 1]
        #[arg(short = 'n', long = "samples", value_parser = clap::value_parser!(u32).range(1..))]
        samples: Option<u32>,
    },
    /// Switch the kernel path
    #[command(subcommand)]
    Datapath(Datapath),
    /// Check a configuration file
    #[command(subcommand)]
    Config(Config),
    /// Let the daemon read its configuration again
    Reload,
    /// Make and read keys
    #[command(subcommand)]
    Key(Key),
    /// Print a completion script
    Completions {
        /// Whose script
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// Where the files go
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/ipop")]
    pub(super) dir: PathBuf,
    /// This node's name [default: the host's name]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Join the network of this token, which `ipopctl init` prints on one of its nodes; `-` reads it
    /// from standard input, and so keeps it, and the secret in it, out of the shell's history and of `ps`
    #[arg(long, value_name = "TOKEN")]
    pub(super) join: Option<TokenText>,
    /// The new network's name
    #[arg(long, default_value = "ipop", conflicts_with = "join")]
    pub(super) network: String,
    /// A virtual address of this node, like 10.128.0.1/24 [default: one that follows from the key, in the
    /// network that is joined, or in 10.128.0.0/16]
    #[arg(long = "address", value_name = "PREFIX")]
    pub(super) addresses: Vec<String>,
    /// Lease this node's address, and those of the nodes that join it, from a pool like 10.128.0.0/16
    #[arg(long, value_name = "NETWORK", conflicts_with_all = ["join", "addresses"])]
    pub(super) pool: Option<String>,
    /// Where other nodes reach this one, like 192.0.2.7:15000 [default: the host's name]
    #[arg(long)]
    pub(super) endpoint: Option<String>,
    /// A node by way of which this one finds all others, like udp://192.0.2.7:15000, instead of a [[peer]] for
    /// each; without a value, the node that has made the token
    #[arg(long, value_name = "ENDPOINT", num_args = 0..=1, default_missing_value = "")]
    pub(super) bootstrap: Vec<String>,
    /// Replace the configuration that is there; a key that is there stays this node's
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// Write a configuration and a key by which this machine asks to join a group
    Join(GroupJoin),
    /// Show this node's membership, and which nodes were refused for their certificate
    Status,
    /// End this node's membership, at the group's server and here
    Leave {
        /// The configuration
        #[arg(default_value = CONFIG_FILE)]
        file: PathBuf,
    },
    /// Make a group, which this account then owns
    Create(GroupCreate),
    /// Show the machines and people of a group, and those that ask to join
    Members {
        #[command(flatten)]
        at: GroupAt,
    },
    /// Make a token by which one machine joins without being approved
    Token {
        /// The machine's tags, which rules can name
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// How long the token counts
        #[arg(long, default_value_t = 24)]
        hours: u64,
        #[command(flatten)]
        at: GroupAt,
    },
    /// Let in a machine or a person that has asked to join
    Approve(GroupWho),
    /// Turn away a machine or a person that has asked to join
    Deny(GroupWho),
    /// End the membership of a machine, or of a person and all their machines: every member refuses them within seconds
    Revoke(GroupWho),
}

/// At which group something is done, and by what right.
#[derive(Debug, clap::Args)]
pub(super) struct GroupAt {
    /// Where the group is [default: `network.group` of the configuration]
    #[arg(long = "group", value_name = "URL")]
    pub(super) url: Option<String>,
    #[command(flatten)]
    pub(super) access: GroupAccess,
    /// The configuration that names the group
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE)]
    pub(super) config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct GroupAccess {
    /// A file with an access token, which the page of your account makes; `-` reads it from standard input
    /// [default: ipop/access in the folder of your configurations, ~/.config]
    #[arg(long, value_name = "FILE")]
    pub(super) access: Option<PathBuf>,
    /// Certificates by which the group's server is known [default: `network.group_ca`, or those of this host]
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct GroupWho {
    /// A machine's address, which it shows itself (`ipopctl group status`), or its name; or user:NAME
    pub(super) who: String,
    #[command(flatten)]
    pub(super) at: GroupAt,
}

#[derive(Debug, clap::Args)]
pub(super) struct GroupCreate {
    /// Where the group is to be, like https://group.example.org/g/lab
    pub(super) url: String,
    /// Virtual addresses of its members
    #[arg(long, default_value = "10.128.0.0/16")]
    pub(super) prefix: String,
    /// How members get theirs: dhcp (they lease them from one another) or assigned (the server gives each its own)
    #[arg(long, default_value = "dhcp")]
    pub(super) lease: String,
    /// How long an address is leased, in seconds
    #[arg(long, default_value_t = 3600)]
    pub(super) lease_s: u64,
    /// How long a certificate counts; nodes renew theirs by themselves
    #[arg(long, default_value_t = 24)]
    pub(super) certificate_hours: u64,
    /// A node by way of which others find the network, like udp://192.0.2.7:15000; may be repeated
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) bootstrap: Vec<String>,
    /// Links may be clear where both ends trust the wire; else all are sealed
    #[arg(long)]
    pub(super) allow_clear: bool,
    #[command(flatten)]
    pub(super) access: GroupAccess,
}

#[derive(Debug, clap::Args)]
pub(super) struct GroupJoin {
    /// Where the group is, like https://group.example.org/g/lab: its join page shows it
    pub(super) url: String,
    /// Be approved at once by this join token; `-` reads it from standard input, and so keeps it out of the shell's
    /// history and of `ps`
    #[arg(long, value_name = "TOKEN")]
    pub(super) token: Option<TokenText>,
    /// This node's name in the group [default: the host's name]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Certificates by which the group's server is known [default: those of this host]
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Where the files go
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/ipop")]
    pub(super) dir: PathBuf,
    /// Replace the configuration that is there; a key that is there stays this node's
    #[arg(long)]
    pub(super) force: bool,
}

/// A token as it was typed, or `-`. It is wiped when dropped, and never printed.
#[derive(Clone)]
pub(super) struct TokenText(pub(super) Zeroizing<String>);

impl From<String> for TokenText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(secret)")
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Ping {
    /// Name, virtual IP, address on the ring or its beginning, or public key
    pub(super) node: String,
    /// Over the overlay, even where there is a direct link
    #[arg(long)]
    pub(super) overlay: bool,
    /// How many probes
    #[arg(short = 'c', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) count: u32,
    /// Seconds between the probes
    #[arg(short = 'i', long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(super) interval: Duration,
}

#[derive(Debug, clap::Args)]
pub(super) struct Traceroute {
    /// Name, virtual IP, address on the ring or its beginning, or public key
    pub(super) node: String,
    /// The most hops
    #[arg(short = 'm', long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=255))]
    pub(super) max_hops: u16,
}

#[derive(Debug, clap::Args)]
pub(super) struct Crawl {
    /// Draw the ring into this file
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Ask so many nodes at most
    #[arg(long, value_name = "COUNT", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) nodes: u32,
    /// Ask so many nodes a second at most
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rate: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum Dhcp {
    /// This node's, and those of others that it has asked about lately
    Leases,
}

#[derive(Debug, Subcommand)]
pub(super) enum Dht {
    /// Show what there is under a name
    Get {
        /// 1 to 128 bytes
        name: String,
    },
    /// Leave one of this node's records under a name, beside those of others
    Put {
        #[command(flatten)]
        leave: DhtLeave,
        /// Which of this node's records under the name: another number, another record
        #[arg(long, default_value_t = 0)]
        slot: u16,
    },
    /// Leave the only record under a name, if nobody else has
    Create {
        #[command(flatten)]
        leave: DhtLeave,
    },
    /// Take back what this node has left under a name
    Remove {
        /// 1 to 128 bytes
        name: String,
        /// Which of this node's records
        #[arg(long, default_value_t = 0)]
        slot: u16,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct DhtLeave {
    /// 1 to 128 bytes
    pub(super) name: String,
    /// Up to 1024 bytes
    pub(super) value: String,
    /// The value is Base64
    #[arg(long)]
    pub(super) base64: bool,
    /// Seconds for which it is there
    #[arg(long, value_name = "SECONDS", default_value_t = crate::api::DHT_TTL_S, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) ttl: u64,
    /// Have the daemon leave it again before it is over, for as long as it runs
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Datapath {
    /// Let the packets of direct links stay in the kernel, or not
    Kernel {
        #[arg(value_enum)]
        state: Switch,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Say what is wrong with a configuration file, by line and reason
    Check {
        #[arg(default_value = CONFIG_FILE)]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Write a new private key and print the public one
    Gen { file: PathBuf },
    /// Print the public key of a private key
    Pub { file: PathBuf },
    /// Print the pre-shared key that a WireGuard peer other than IPOP needs: a secret, that follows
    /// from `network.secret`
    Psk {
        /// The configuration
        #[arg(default_value = CONFIG_FILE)]
        file: PathBuf,
    },
}

/// Longest pause between two probes, in seconds.
const INTERVAL_S_MAX: f64 = 3600.0;

fn interval(text: &str) -> Result<Duration, String> {
    let wanted = || format!("want seconds from 0.01 to {INTERVAL_S_MAX}");
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=INTERVAL_S_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn intervals_are_finite() {
        assert_eq!(interval("0.5").unwrap(), Duration::from_millis(500));
        for text in ["0", "-1", "inf", "nan", "1e9", "soon", ""] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
