//! What the server asks for names and addresses, and what the daemon knows of them by itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
pub use ipop_overlay::directory::Service as Offer;

use crate::config::is_domain;

/// A directory that cannot say at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory does not answer")]
pub struct NoAnswer;

/// Who has which name. An answer may have to be fetched from elsewhere: the server bounds how many are under way,
/// and how long it waits.
pub trait Directory: Send + Sync + 'static {
    /// The addresses of a host, whose name is below the domain and in lower case. `None`: there is no such name;
    /// none at all: there are names below it.
    fn addresses(&self, host: &str) -> impl Future<Output = Result<Option<Vec<IpAddr>>, NoAnswer>> + Send;

    /// The name of the host with an address, below the domain.
    fn name(&self, address: IpAddr) -> impl Future<Output = Result<Option<String>, NoAnswer>> + Send;

    /// Who offers a service, whose name below the domain is like `_http._tcp`, in lower case. `None`: nobody.
    fn services(&self, service: &str) -> impl Future<Output = Result<Option<Vec<Offer>>, NoAnswer>> + Send;

    /// Grows whenever something has changed (RFC 1035, 3.3.13).
    fn serial(&self) -> u32;
}

/// The hosts that are known without asking anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    names: HashMap<String, Vec<IpAddr>>,
    addresses: HashMap<IpAddr, String>,
    serial: u32,
}

impl Hosts {
    pub fn new(serial: u32) -> Self {
        Self { serial, ..Self::default() }
    }

    /// Gives a host its name. The first that has a name, or an address, keeps it.
    pub fn insert(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        if self.insert_alias(name, &addresses) {
            for address in addresses {
                self.addresses.entry(address).or_insert_with(|| name.to_ascii_lowercase());
            }
        }
    }

    /// Gives a host a name that it is found by, and that its addresses do not lead back to. Says whether the name was
    /// free.
    pub fn insert_alias(&mut self, name: &str, addresses: &[IpAddr]) -> bool {
        if !is_domain(name) {
            return false;
        }
        let name = name.to_ascii_lowercase();
        let held = self.names.entry(name.clone()).or_default();
        if !held.is_empty() {
            return false;
        }
        *held = addresses.to_vec();
        // A name between this one and the domain is there too (RFC 8020).
        let mut rest = name.as_str();
        while let Some((_, above)) = rest.split_once('.') {
            self.names.entry(above.to_owned()).or_default();
            rest = above;
        }
        true
    }

    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether both hold the same, whenever they were made.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.names == other.names && self.addresses == other.addresses
    }
}

/// What the daemon has published last.
#[derive(Clone, Debug, Default)]
pub struct Published(pub Arc<ArcSwap<Hosts>>);

impl Directory for Published {
    async fn addresses(&self, host: &str) -> Result<Option<Vec<IpAddr>>, NoAnswer> {
        Ok(self.0.load().names.get(host).cloned())
    }

    async fn name(&self, address: IpAddr) -> Result<Option<String>, NoAnswer> {
        Ok(self.0.load().addresses.get(&address).cloned())
    }

    async fn services(&self, _: &str) -> Result<Option<Vec<Offer>>, NoAnswer> {
        // Those of all nodes are in the overlay, this one's too.
        Ok(None)
    }

    fn serial(&self) -> u32 {
        self.0.load().serial
    }
}
