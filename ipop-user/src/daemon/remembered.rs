//! What a node knows from earlier runs: since when it has its addresses, and where others were. It lies in
//! a file in `node.state_dir`, which may be removed at any time.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::key::PublicKey;
use crate::whole_file;

const FILE: &str = "overlay.toml";
const HEAD: &str =
    "# What ipopd knows of the overlay from earlier runs. It writes this file; it may be removed.\n";
/// Nodes that are remembered.
pub(super) const NODES_MAX: usize = 32;
/// Places of one.
const PLACES_MAX: usize = 4;
/// No file of ours is longer.
const LEN_MAX: u64 = 64 * 1024;

/// What is in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// The name of the network that it is about.
    pub(super) network: String,
    /// Addresses of this node in it, and since when it has them, UNIX time in seconds.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) since: u64,
    /// Those that it has leased, with their prefixes. It goes on with them until it hears that they are another's.
    #[serde(default)]
    pub(super) leased: Vec<String>,
    /// Nodes to which it was connected.
    #[serde(default)]
    pub(super) nodes: Vec<KnownNode>,
}

/// Where a node was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownNode {
    #[serde(with = "as_text")]
    pub(super) public_key: PublicKey,
    pub(super) places: Vec<SocketAddr>,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::key::PublicKey;

    pub(super) fn serialize<S: Serializer>(key: &PublicKey, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(key)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(text: D) -> Result<PublicKey, D::Error> {
        String::deserialize(text)?.parse().map_err(D::Error::custom)
    }
}

impl Remembered {
    /// Reads what is remembered of a network; nothing of another one. What can't be read is said and
    /// forgotten.
    pub(super) fn read(folder: &Path, network: &str) -> Self {
        let nothing = Self { network: network.to_owned(), ..Self::default() };
        let path = file(folder);
        let text = match read_short(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    warn!(file = %path.display(), %error, "what was known from earlier runs is not read");
                }
                return nothing;
            }
        };
        match toml::from_str::<Self>(&text) {
            Ok(mut remembered) if remembered.network == network => {
                remembered.nodes.truncate(NODES_MAX);
                remembered.nodes.iter_mut().for_each(|node| node.places.truncate(PLACES_MAX));
                remembered
            }
            Ok(_) => nothing,
            Err(error) => {
                let error = error.message();
                warn!(file = %path.display(), error, "what was known from earlier runs is not read");
                nothing
            }
        }
    }

    /// Since when this node has these addresses; now, where it did not have all of them and no others.
    pub(super) fn since(&mut self, mut addresses: Vec<IpAddr>, now: u64) -> u64 {
        addresses.sort_unstable();
        // A clock that was ahead must not make them young for years.
        if self.addresses != addresses || self.since > now {
            (self.addresses, self.since) = (addresses, now);
        }
        self.since
    }

    /// Writes the file anew, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let text = toml::to_string(self).map_err(io::Error::other)?;
        whole_file::write_soon(&file(folder), [HEAD, &text].concat().as_bytes())
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

fn read_short(path: &Path) -> io::Result<String> {
    let len = std::fs::metadata(path)?.len();
    if len > LEN_MAX {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("{len} bytes, and it has no more than {LEN_MAX}"),
        ));
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered() -> Remembered {
        let node = |number: u8| KnownNode {
            public_key: PublicKey::from_bytes([number; 32]),
            places: vec![SocketAddr::from(([192, 0, 2, number], 15000))],
        };
        Remembered {
            network: "lab".to_owned(),
            addresses: vec!["10.128.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            since: 1_700_000_000,
            leased: vec!["10.128.0.1/16".to_owned()],
            nodes: (1..=3).map(node).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_in_the_same_network() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("deep/er");
        remembered().write(&folder).unwrap();
        assert_eq!(Remembered::read(&folder, "lab"), remembered());
        let nothing = Remembered { network: "other".to_owned(), ..Remembered::default() };
        assert_eq!(Remembered::read(&folder, "other"), nothing);
    }

    #[test]
    fn a_file_that_is_spoilt_or_too_long_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = Remembered { network: "lab".to_owned(), ..Remembered::default() };
        assert_eq!(Remembered::read(folder.path(), "lab"), nothing);
        for text in
            ["network = ".to_owned(), "\0".to_owned(), format!("network = \"lab\"\n{}", "#".repeat(70_000))]
        {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            assert_eq!(Remembered::read(folder.path(), "lab"), nothing);
        }
    }

    #[test]
    fn no_more_is_taken_from_a_file_than_would_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut long = remembered();
        long.nodes = long.nodes.iter().cycle().take(2 * NODES_MAX).cloned().collect();
        long.nodes[0].places = vec![long.nodes[0].places[0]; 3 * PLACES_MAX];
        long.write(folder.path()).unwrap();
        let read = Remembered::read(folder.path(), "lab");
        assert_eq!((read.nodes.len(), read.nodes[0].places.len()), (NODES_MAX, PLACES_MAX));
    }

    #[test]
    fn addresses_are_this_node_s_since_it_got_them_and_no_others() {
        let mut known = remembered();
        let mut addresses = known.addresses.clone();
        addresses.reverse();
        assert_eq!(known.since(addresses.clone(), 1_800_000_000), 1_700_000_000);
        addresses.pop();
        assert_eq!(known.since(addresses.clone(), 1_800_000_000), 1_800_000_000);
        assert_eq!(known.since(addresses.clone(), 1_900_000_000), 1_800_000_000);
        assert_eq!(known.since(addresses, 1_600_000_000), 1_600_000_000, "the clock was ahead");
    }
}
