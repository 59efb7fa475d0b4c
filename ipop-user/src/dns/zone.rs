//! What a node answers: its network's domain, and the names of its network's addresses. Decides of each name
//! whether it is in there, asks the directory, and says what there is or why there is nothing (RFC 1035, 2308).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::directory::{Directory, NoAnswer};
use super::{TLD, TTL_S};
use crate::config::Prefix;

/// Of the SOA, for those who would keep a copy of the zone: nobody is given one.
const REFRESH_S: i32 = 3600;
const RETRY_S: i32 = 600;
const EXPIRE_S: i32 = 86_400;
/// More names of this kind are not told a resolver: a network that begins within an octet has up to 128.
const REVERSE_MAX: usize = 32;

/// The domain of a network, and the addresses that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Zone {
    /// `NETWORK.ipop.`
    domain: Name,
    /// This node.
    server: Name,
    networks: Vec<Prefix>,
}

/// A name is none of the DNS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be part of a name in the DNS")]
pub(super) struct NoName(String);

/// Where a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The top of a zone.
    Apex,
    /// Below the domain, in lower case.
    Host(String),
    /// The reverse name of an address; of this network's, or perhaps of a host's elsewhere.
    Address(IpAddr, bool),
    /// Above the reverse names of addresses.
    Between,
    /// Below a domain where no such name can be.
    Nowhere,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

impl Zone {
    /// The zone of `network`, whose addresses are in `networks`, served by `node`.
    pub(super) fn new(network: &str, node: &str, networks: &[Prefix]) -> Result<Self, NoName> {
        let domain = below(network, &tld()).ok_or_else(|| NoName(network.to_owned()))?;
        let server = below(node, &domain).ok_or_else(|| NoName(node.to_owned()))?;
        let networks = networks.iter().map(|prefix| prefix.network()).collect();
        Ok(Self { domain, server, networks })
    }

    /// `NETWORK.ipop`, without the last dot.
    pub(super) fn domain(&self) -> String {
        without_dot(&self.domain)
    }

    /// The domains of reverse names that are all of this network's, without the last dot.
    pub(super) fn reverse_domains(&self) -> Vec<String> {
        let tops = self.networks.iter().flat_map(|network| {
            let step = step(network.addr());
            let len = network.len().div_ceil(step) * step;
            let more = u32::from(len - network.len());
            let bits_after = width(network.addr()) - len;
            (0..1_u128 << more).map(move |index| {
                let offset = index.checked_shl(bits_after.into()).unwrap_or(0);
                without_dot(&reverse_top(plus(network.addr(), offset), len))
            })
        });
        let mut tops: Vec<String> = tops.take(REVERSE_MAX + 1).collect();
        if tops.len() > REVERSE_MAX {
            tops.clear();
        }
        tops
    }

    /// What is at a name, or `None`: it is not for this node to say.
    pub(super) async fn answer<D: Directory>(
        &self,
        name: &Name,
        wanted: RecordType,
        directory: &D,
    ) -> Result<Option<Answer>, NoAnswer> {
        let Some((place, apex)) = self.place(name) else { return Ok(None) };
        let soa = || Record::from_rdata(apex.clone(), TTL_S, RData::SOA(self.soa(directory.serial())));
        let record = |data| Record::from_rdata(name.clone(), TTL_S, data);
        let is_wanted = |kind| wanted == kind || wanted == RecordType::ANY;
        let mut answers = Vec::new();
        let exists = match place {
            Place::Nowhere => false,
            Place::Between => true,
            Place::Apex => {
                answers.extend(is_wanted(RecordType::SOA).then(soa));
                let ns = || record(RData::NS(NS(self.server.clone())));
                answers.extend(is_wanted(RecordType::NS).then(ns));
                true
            }
            Place::Host(service) if is_service(&service) => match directory.services(&service).await? {
                Some(services) => {
                    let offered = services.into_iter().filter(|_| is_wanted(RecordType::SRV));
                    let data = offered.filter_map(|service| {
                        let target = below(&service.host, &self.domain)?;
                        Some(RData::SRV(SRV::new(service.priority, service.weight, service.port, target)))
                    });
                    answers.extend(data.map(record));
                    true
                }
                None => false,
            },
            Place::Host(host) => match directory.addresses(&host).await? {
                Some(addresses) => {
                    let data = addresses.into_iter().filter_map(|address| match address {
                        IpAddr::V4(v4) if is_wanted(RecordType::A) => Some(RData::A(A(v4))),
                        IpAddr::V6(v6) if is_wanted(RecordType::AAAA) => Some(RData::AAAA(AAAA(v6))),
                        _ => None,
                    });
                    answers.extend(data.map(record));
                    true
                }
                None => false,
            },
            Place::Address(address, is_ours) => match directory.name(address).await? {
                Some(host) => {
                    let host = below(&host, &self.domain).filter(|_| is_wanted(RecordType::PTR));
                    answers.extend(host.map(|host| record(RData::PTR(PTR(host)))));
                    true
                }
                None if is_ours => false,
                None => return Ok(None),
            },
        };
        let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        // How long others may keep that there is nothing (RFC 2308, section 3).
        let authorities = if answers.is_empty() { vec![soa()] } else { Vec::new() };
        Ok(Some(Answer { code, answers, authorities }))
    }

    fn soa(&self, serial: u32) -> SOA {
        let contact = below("hostmaster", &self.domain).unwrap_or_else(|| self.domain.clone());
        SOA::new(self.server.clone(), contact, serial, REFRESH_S, RETRY_S, EXPIRE_S, TTL_S)
    }

    /// Where a name is, and the top of the zone that it is in.
    fn place(&self, name: &Name) -> Option<(Place, Name)> {
        if self.domain.zone_of(name) {
            let labels = usize::from(name.num_labels() - self.domain.num_labels());
            let place = match host(name.iter().take(labels)) {
                _ if labels == 0 => Place::Apex,
                Some(host) => Place::Host(host),
                None => Place::Nowhere,
            };
            return Some((place, self.domain.clone()));
        }
        let (address, len) = reverse(name)?;
        let is_whole = len == width(address);
        let tops = self.networks.iter().filter(|network| network.contains(address)).map(|network| {
            let step = step(address);
            network.len().div_ceil(step) * step
        });
        let (place, top) = match tops.filter(|top| len >= *top).min() {
            Some(top) if is_whole => (Place::Address(address, true), top),
            Some(top) if len == top => (Place::Apex, top),
            Some(top) => (Place::Between, top),
            // A host's of this network, with an address of another, is its own zone.
            None if is_whole => (Place::Address(address, false), len),
            None => return None,
        };
        Some((place, reverse_top(address, top)))
    }
}

fn tld() -> Name {
    Name::root().prepend_label(TLD).unwrap_or_default()
}

/// A name of plain letters, with dots between labels, below another.
fn below(name: &str, domain: &Name) -> Option<Name> {
    let mut whole = domain.clone();
    for label in name.rsplit('.') {
        whole = whole.prepend_label(label.as_bytes()).ok()?;
    }
    Some(whole)
}

fn without_dot(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}

/// The labels of a host's name as the directory knows it; `None`: no host is called so.
fn host<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut host = String::new();
    for label in labels {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte)) {
            return None;
        }
        if !host.is_empty() {
            host.push('.');
        }
        host.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    Some(host)
}

/// Whether a name is one of a service: `_SERVICE._PROTOCOL` (RFC 2782).
pub(crate) fn is_service(name: &str) -> bool {
    let mut labels =
        name.split('.').map(|label| label.strip_prefix('_').is_some_and(|rest| !rest.is_empty()));
    labels.next() == Some(true) && labels.next() == Some(true) && labels.next().is_none()
}

/// How many bits a label of a reverse name stands for.
fn step(address: IpAddr) -> u8 {
    if address.is_ipv4() { 8 } else { 4 }
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn plus(address: IpAddr, offset: u128) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(offset as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(offset)).into(),
    }
}

/// The first `len` bits of an address as a reverse name.
fn reverse_top(address: IpAddr, len: u8) -> Name {
    let count = usize::from(len / step(address));
    let (labels, top): (Vec<String>, &str) = match address {
        IpAddr::V4(v4) => (v4.octets().iter().map(u8::to_string).collect(), "in-addr"),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), "ip6")
        }
    };
    let labels = labels.iter().take(count).rev().map(String::as_bytes);
    Name::from_labels(labels.chain([top.as_bytes(), b"arpa"])).unwrap_or_default()
}

/// What a reverse name stands for (RFC 1035, 3.5; RFC 3596, 2.5): an address of which so many bits count.
fn reverse(name: &Name) -> Option<(IpAddr, u8)> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let (labels, top) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    let [kind, arpa] = top else { return None };
    if !arpa.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let digits = labels.iter().rev().map(|label| std::str::from_utf8(label).ok());
    if kind.eq_ignore_ascii_case(b"in-addr") && labels.len() <= 4 {
        let mut octets = [0; 4];
        for (octet, text) in octets.iter_mut().zip(digits) {
            *octet = text?.parse().ok()?;
            // One way to write each: neither `007` nor `+7`.
            if octet.to_string() != text? {
                return None;
            }
        }
        return Some((Ipv4Addr::from(octets).into(), labels.len() as u8 * 8));
    }
    if kind.eq_ignore_ascii_case(b"ip6") && labels.len() <= 32 {
        let mut bits: u128 = 0;
        for text in digits {
            let text = text.filter(|text| text.len() == 1)?;
            bits = bits << 4 | u128::from(u8::from_str_radix(text, 16).ok()?);
        }
        let bits = bits.checked_shl(128 - labels.len() as u32 * 4).unwrap_or(0);
        return Some((Ipv6Addr::from_bits(bits).into(), labels.len() as u8 * 4));
    }
    None
}

#[cfg(test)]
mod tests;
