//! How this host's programs come to ask this node: which resolver it has, what it is told, and how that is undone.

mod file;
mod resolved;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

pub(super) use file::RESOLV_CONF;
use file::{FileError, ResolvConf, Undone};
use resolved::{Resolved, ResolvedError};

use crate::config;

/// In the state folder while systemd-resolved knows the virtual device.
const TOLD: &str = "systemd-resolved";

/// Processes that are asked which network they are in.
const ANCESTORS_MAX: usize = 64;

/// Why no resolver leads here.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolverError {
    #[error("dns.resolver = \"off\" in the configuration")]
    Off,
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Resolved(#[from] ResolvedError),
    #[error("{} is that of another network namespace, and is left as it is", .0.display())]
    Foreign(PathBuf),
}

/// What is to be set up.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kind: config::Resolver,
    pub(super) device: String,
    pub(super) ifindex: u32,
    pub(super) state_dir: PathBuf,
    pub(super) resolv_conf: PathBuf,
    /// Where the server answers; the first is the one that is told where there is room for one.
    pub(super) servers: Vec<IpAddr>,
    /// Whose names are asked there; the first is the network's.
    pub(super) domains: Vec<String>,
    pub(super) search: bool,
}

/// A resolver that leads here.
#[derive(Debug)]
pub(super) enum Installed {
    Resolved(Resolved),
    /// Without split DNS all names are asked here: those of elsewhere are for these servers.
    File {
        file: ResolvConf,
        previous: Vec<SocketAddr>,
    },
}

impl Plan {
    fn file(&self) -> ResolvConf {
        ResolvConf::new(&self.resolv_conf, &self.state_dir, &self.device)
    }

    fn told(&self) -> PathBuf {
        self.state_dir.join(TOLD)
    }

    /// Undoes what a run that was killed has left.
    pub(super) async fn clean_up(&self) {
        let file = self.file();
        match file.undo() {
            Ok(Undone::Nothing) => {}
            Ok(Undone::Removed) => {
                info!(path = %file.path().display(), "what an earlier run had written is undone");
            }
            Ok(Undone::Rewritten) => {
                warn!(path = %file.path().display(), "somebody else has written it since the last run: it is left as it is");
            }
            Err(error) => warn!(%error, "what an earlier run had written is not undone"),
        }
        if self.told().exists() {
            let undone = async { Resolved::find(self.ifindex).await?.undo().await };
            if let Err(error) = undone.await {
                warn!(%error, "what systemd-resolved was told in an earlier run is not undone");
            }
            drop(fs::remove_file(self.told()));
        }
    }

    /// Leads this host's programs here.
    pub(super) async fn install(&self) -> Result<Installed, ResolverError> {
        match self.kind {
            config::Resolver::Off => Err(ResolverError::Off),
            config::Resolver::Resolved => Ok(self.by_resolved().await?),
            config::Resolver::File => self.by_file(),
            config::Resolver::Auto => match self.by_resolved().await {
                Ok(installed) => Ok(installed),
                Err(ResolvedError::Absent | ResolvedError::Elsewhere) => self.by_file(),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn search(&self) -> Option<&str> {
        self.domains.first().map(String::as_str).filter(|_| self.search)
    }

    async fn by_resolved(&self) -> Result<Installed, ResolvedError> {
        let resolved = Resolved::find(self.ifindex).await?;
        // For the next run, should this one not come to undo it.
        let mut folder = fs::DirBuilder::new();
        let noted = folder.recursive(true).mode(0o700).create(&self.state_dir);
        if let Err(error) = noted.and_then(|()| fs::write(self.told(), &self.device)) {
            warn!(path = %self.told().display(), %error, "not noted for the next run");
        }
        if let Err(error) = resolved.install(&self.servers, &self.domains, self.search()).await {
            // It may have taken a part.
            self.undo(&Installed::Resolved(resolved)).await;
            return Err(error);
        }
        Ok(Installed::Resolved(resolved))
    }

    fn by_file(&self) -> Result<Installed, ResolverError> {
        if is_of_another_network(&self.resolv_conf) {
            return Err(ResolverError::Foreign(self.resolv_conf.clone()));
        }
        let file = self.file();
        let Some(server) = self.servers.first() else { return Err(ResolverError::Off) };
        let mut previous = file.install(*server, self.search())?;
        previous.retain(|previous| !self.servers.contains(&previous.ip()));
        Ok(Installed::File { file, previous })
    }

    /// Undoes what was set up.
    pub(super) async fn undo(&self, installed: &Installed) {
        match installed {
            Installed::Resolved(resolved) => {
                if let Err(error) = resolved.undo().await {
                    warn!(%error, "systemd-resolved has not been told to forget this node");
                }
                drop(fs::remove_file(self.told()));
            }
            Installed::File { file, .. } => match file.undo() {
                Ok(Undone::Removed | Undone::Nothing) => {}
                Ok(Undone::Rewritten) => {
                    warn!(path = %file.path().display(), "somebody else has written it meanwhile: it is left as it is");
                }
                Err(error) => warn!(%error, "the resolver's configuration is not restored"),
            },
        }
    }
}

impl Installed {
    /// As in `dns.resolver`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Resolved(_) => "systemd-resolved",
            Self::File { .. } => "resolv.conf",
        }
    }

    /// The file that is to have our lines.
    pub(super) fn file(&self) -> Option<&ResolvConf> {
        match self {
            Self::Resolved(_) => None,
            Self::File { file, .. } => Some(file),
        }
    }
}

/// Whether programs in another network namespace read the same file: they could not reach this node's address. Asked of
/// those by whom this daemon was started, up to the first process, whose network is that of the host or the container.
fn is_of_another_network(path: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let Ok(path) = fs::canonicalize(path) else { return false };
    let (ours, our_net) = (inode(&path), inode(Path::new("/proc/self/ns/net")));
    ancestors().any(|process| {
        let process = PathBuf::from(format!("/proc/{process}"));
        let theirs = process.join("root").join(path.strip_prefix("/").unwrap_or(&path));
        // One into which this daemon may not look is another service's, or the host's.
        let is_elsewhere = inode(&process.join("ns/net")).is_some_and(|net| Some(net) != our_net);
        is_elsewhere && ours.is_some() && inode(&theirs) == ours
    })
}

/// The process that has started this one, who has started that, and so on.
fn ancestors() -> impl Iterator<Item = i32> {
    let parent = |process: i32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        line.trim().parse().ok().filter(|parent| *parent > 0)
    };
    let first = nix::unistd::getppid().as_raw();
    std::iter::successors(Some(first).filter(|first| *first > 0), move |process| parent(*process))
        .take(ANCESTORS_MAX)
}

pub(super) use file::ResolvConf as File;
