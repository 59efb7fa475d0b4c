//! Packets of the virtual network: as long as a ping's, and with a number by which they are known again.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 header, an ICMP header, and 56 bytes.
const LEN: usize = 84;
/// Version and header length, the first byte of a packet and of no control message.
const IPV4: u8 = 0x45;

/// How a packet has left its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Kernel,
    User,
    /// One other node has passed it on.
    Relay,
    /// Other nodes have carried it.
    Overlay,
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub id: u64,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// As its sender has noted; meaningless before it is sent.
    pub way: Way,
}

impl Packet {
    pub(crate) fn to_bytes(self, way: Way) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = IPV4;
        bytes[1] = way as u8;
        for (at, address) in [(12, self.source), (16, self.destination)] {
            if let IpAddr::V4(address) = address {
                bytes[at..at + 4].copy_from_slice(&address.octets());
            }
        }
        bytes[28..36].copy_from_slice(&self.id.to_be_bytes());
        bytes
    }

    /// Reads a text; `None` where it is no packet.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; LEN] = text.try_into().ok().filter(|text: &&[u8; LEN]| text[0] == IPV4)?;
        let address =
            |at: usize| IpAddr::from(Ipv4Addr::new(text[at], text[at + 1], text[at + 2], text[at + 3]));
        let way = match text[1] {
            0 => Way::Kernel,
            1 => Way::User,
            2 => Way::Relay,
            _ => Way::Overlay,
        };
        let id = u64::from_be_bytes(text[28..36].try_into().ok()?);
        Some(Self { id, source: address(12), destination: address(16), way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let [source, destination] = [[10, 128, 0, 1], [10, 128, 0, 2]].map(IpAddr::from);
        for way in [Way::Kernel, Way::User, Way::Relay, Way::Overlay] {
            let packet = Packet { id: 7, source, destination, way };
            assert_eq!(Packet::parse(&packet.to_bytes(way)), Some(packet));
        }
        assert_eq!(Packet::parse(&[4; LEN]), None);
        assert_eq!(Packet::parse(&[]), None);
    }
}
