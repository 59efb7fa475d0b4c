//! What the kernel's maps of one host hold, as far as it decides where packets go: virtual addresses to
//! links, and links to endpoints and sessions. They are written as `ipopd` writes them, upon what the node
//! says, and read as the programs read them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipop_overlay::Instant;

/// Links are told apart by the peers' public keys.
pub type LinkKey = [u8; 32];

/// A link as the programs see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the peer, or of the relay.
    pub endpoint: SocketAddr,
    /// That of relay frames, where packets go by a relay.
    pub label: Option<u32>,
    /// Local index of the session that is sent on.
    pub session: u32,
    /// Packets may be sent; they are received in any case.
    pub sends: bool,
    /// Nothing is sent from then on, even if nobody says so.
    pub lease_end: Instant,
    pub addresses: Vec<IpAddr>,
}

/// The maps of one host.
#[derive(Debug, Default)]
pub struct Maps {
    links: BTreeMap<LinkKey, Link>,
    hosts: BTreeMap<IpAddr, LinkKey>,
}

impl Maps {
    pub(crate) fn install(&mut self, key: LinkKey, link: Link) {
        let before = self.links.get(&key).map(|link| link.addresses.clone()).unwrap_or_default();
        for address in before.iter().filter(|address| !link.addresses.contains(address)) {
            self.hosts.remove(address);
        }
        link.addresses.iter().for_each(|address| {
            self.hosts.insert(*address, key);
        });
        self.links.insert(key, link);
    }

    pub(crate) fn remove(&mut self, key: &LinkKey) {
        let link = self.links.remove(key);
        for address in link.into_iter().flat_map(|link| link.addresses) {
            self.hosts.remove(&address);
        }
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = (&LinkKey, &Link)> {
        self.links.iter()
    }

    /// All virtual addresses, and to which link each leads.
    pub fn hosts(&self) -> impl Iterator<Item = (IpAddr, &LinkKey)> {
        self.hosts.iter().map(|(address, key)| (*address, key))
    }

    /// The link by which the kernel path would send a packet now.
    pub fn look_up(&self, address: IpAddr, now: Instant) -> Option<(&LinkKey, &Link)> {
        let key = self.hosts.get(&address)?;
        let link = self.links.get(key)?;
        (link.sends && link.lease_end > now).then_some((key, link))
    }

    /// What is wrong with the maps themselves, and where they differ from what they are meant to hold.
    pub(crate) fn differences(&self, intent: &BTreeMap<LinkKey, Link>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (key, link) in &self.links {
            match intent.get(key) {
                None => wrong.push(format!("the kernel has a link that there should not be: {link:?}")),
                Some(meant) if meant != link => {
                    wrong.push(format!("the kernel has the link {link:?}, and it should be {meant:?}"));
                }
                Some(_) => {}
            }
            for address in link.addresses.iter().filter(|address| self.hosts.get(address) != Some(key)) {
                wrong.push(format!("{address} does not lead to the link of its owner"));
            }
        }
        let missing = intent.iter().filter(|(key, _)| !self.links.contains_key(*key));
        wrong.extend(missing.map(|(_, link)| format!("the kernel lacks the link {link:?}")));
        for (address, key) in &self.hosts {
            if !self.links.get(key).is_some_and(|link| link.addresses.contains(address)) {
                wrong.push(format!("{address} leads to a link that is not its owner's, or to none"));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 128, 0, last])
    }

    fn link(addresses: &[u8]) -> Link {
        Link {
            endpoint: SocketAddr::from(([192, 0, 2, 1], 1)),
            label: None,
            session: 1,
            sends: true,
            lease_end: Instant::from_nanos(10),
            addresses: addresses.iter().map(|last| address(*last)).collect(),
        }
    }

    #[test]
    fn packets_go_by_a_link_until_its_lease_ends() {
        let mut maps = Maps::default();
        maps.install([1; 32], link(&[1, 2]));
        let at = Instant::from_nanos;
        assert!(maps.look_up(address(1), at(9)).is_some());
        assert!(maps.look_up(address(1), at(10)).is_none());
        assert!(maps.look_up(address(3), at(9)).is_none());
        maps.install([1; 32], link(&[2, 3]));
        assert!(maps.look_up(address(1), at(9)).is_none() && maps.look_up(address(3), at(9)).is_some());
        maps.remove(&[1; 32]);
        assert_eq!((maps.links().count(), maps.hosts().count()), (0, 0));
    }

    #[test]
    fn whatever_differs_from_what_is_meant_is_told() {
        let mut maps = Maps::default();
        maps.install([1; 32], link(&[1]));
        let meant = |links: &[(u8, Link)]| {
            links.iter().map(|(key, link)| ([*key; 32], link.clone())).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(maps.differences(&meant(&[(1, link(&[1]))])), [""; 0]);
        assert_eq!(maps.differences(&meant(&[])).len(), 1, "a link too many");
        assert_eq!(maps.differences(&meant(&[(1, link(&[2]))])).len(), 1, "another address");
        assert_eq!(maps.differences(&meant(&[(1, link(&[1])), (2, link(&[2]))])).len(), 1, "one is missing");
        maps.install([2; 32], link(&[1]));
        let both = meant(&[(1, link(&[1])), (2, link(&[1]))]);
        assert_eq!(maps.differences(&both), ["10.128.0.1 does not lead to the link of its owner"]);
    }
}
