//! One flow that is being merged: which packet continues it, and the headers of the whole.
//!
//! The rules are those of the kernel's GRO (tcp_gro_receive, udp_gro_receive, inet_gro_receive):
//! everything that cutting the super-packet would not restore has to be equal.

use ipop_common::checksum;
use ipop_common::inner::{Inner, protocol};
use ipop_common::{Cursor, Family};

use super::virtio::{self, Gso, PartialChecksum, Segmentation};

/// Longest headers of a segment that is merged: IPv6 and TCP with all options.
const HEADER_LEN_MAX: usize = 40 + 60;

/// TCP flags as in byte 13 of the header.
mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const ECE: u8 = 0x40;
}

/// A TCP or UDP packet without IP options, extension headers or fragmentation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    bytes: &'a [u8],
    family: Family,
    udp: bool,
    header_len: usize,
}

impl<'a> Segment<'a> {
    /// `None` for a packet whose flow cannot be told.
    pub(super) fn parse(bytes: &'a [u8], inner: &Inner) -> Option<Self> {
        let ip_len = inner.family.header_len();
        let fragment = inner.family == Family::V4 && bytes.u16_at(6)? & 0x3fff != 0;
        if usize::from(inner.header_len) != ip_len || fragment {
            return None;
        }
        let (udp, transport_len) = match inner.protocol {
            protocol::TCP => (false, usize::from(bytes.u8_at(ip_len + 12)? >> 4) * 4),
            protocol::UDP => (true, 8),
            _ => return None,
        };
        let header_len = ip_len + transport_len;
        let fits = transport_len >= if udp { 8 } else { 20 } && header_len <= bytes.len();
        fits.then_some(Self { bytes, family: inner.family, udp, header_len })
    }

    pub(super) fn is_udp(&self) -> bool {
        self.udp
    }

    /// IP and transport header together, bytes.
    pub(super) fn header_len(&self) -> u32 {
        self.header_len as u32
    }

    /// Whether a packet after this one can be merged with it.
    pub(super) fn can_be_followed(&self) -> bool {
        self.is_mergeable() && !self.ends_flow()
    }

    fn payload_len(&self) -> u32 {
        (self.bytes.len() - self.header_len) as u32
    }

    fn headers(&self) -> &'a [u8] {
        self.bytes.get(..self.header_len).unwrap_or_default()
    }

    fn transport(&self) -> &'a [u8] {
        self.bytes.get(self.family.header_len()..self.header_len).unwrap_or_default()
    }

    fn flags(&self) -> u8 {
        self.transport().u8_at(13).unwrap_or(0)
    }

    /// Data without flags that mean one segment only; a datagram with a checksum.
    fn is_mergeable(&self) -> bool {
        if self.payload_len() == 0 {
            return false;
        }
        if self.udp {
            return self.transport().u16_at(6) != Some(0);
        }
        let allowed = flag::FIN | flag::PSH | flag::ACK | flag::ECE;
        let reserved = self.transport().u8_at(12).unwrap_or(0) & 0x0f;
        self.flags() & !allowed == 0 && self.flags() & flag::ACK != 0 && reserved == 0
    }

    fn ends_flow(&self) -> bool {
        !self.udp && self.flags() & (flag::FIN | flag::PSH) != 0
    }
}

/// How the IPv4 identification goes on. With DF it means nothing (RFC 6864), and senders also keep
/// it constant; cutting gives consecutive ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identification {
    Unknown,
    Consecutive,
    Constant,
}

/// The segments so far: the first one's headers and what has been added since.
#[derive(Debug)]
pub(super) struct Flow {
    headers: [u8; HEADER_LEN_MAX],
    header_len: usize,
    family: Family,
    udp: bool,
    segment_size: u32,
    payload_len: u32,
    segments: u16,
    last_flags: u8,
    identification: Identification,
}

impl Flow {
    /// A flow of one segment, one that [`Segment::can_be_followed`].
    pub(super) fn start(first: &Segment<'_>) -> Self {
        let mut headers = [0; HEADER_LEN_MAX];
        for (to, from) in headers.iter_mut().zip(first.headers()) {
            *to = *from;
        }
        Self {
            headers,
            header_len: first.header_len,
            family: first.family,
            udp: first.udp,
            segment_size: first.payload_len(),
            payload_len: first.payload_len(),
            segments: 1,
            last_flags: first.flags(),
            identification: Identification::Unknown,
        }
    }

    pub(super) fn header_len(&self) -> u32 {
        self.header_len as u32
    }

    /// Same addresses, protocol and ports.
    pub(super) fn is_flow_of(&self, segment: &Segment<'_>) -> bool {
        let ip_len = self.family.header_len();
        let (addresses, ports) = match self.family {
            Family::V4 => (12..20, 20..24),
            Family::V6 => (8..40, 40..44),
        };
        let (own, other) = (self.headers(), segment.bytes);
        self.family == segment.family
            && self.udp == segment.udp
            && own.get(addresses.clone()) == other.get(addresses)
            && own.get(ports.clone()) == other.get(ports)
            && ip_len < other.len()
    }

    /// Whether `segment`, of this flow, is the next one and may join a packet of at most `len_max`.
    pub(super) fn continues(&self, segment: &Segment<'_>, len_max: u32) -> bool {
        let len = segment.payload_len();
        segment.is_mergeable()
            && segment.header_len == self.header_len
            && len <= self.segment_size
            && self.header_len() + self.payload_len + len <= len_max
            && self.same_ip(segment)
            && (self.udp || self.same_tcp(segment))
    }

    /// Adds a segment that continues the flow; true where none may follow it.
    pub(super) fn append(&mut self, segment: &Segment<'_>) -> bool {
        self.identification = self.next_identification(segment).unwrap_or(self.identification);
        self.payload_len += segment.payload_len();
        self.segments += 1;
        self.last_flags = segment.flags();
        segment.payload_len() < self.segment_size || segment.ends_flow()
    }

    /// Writes the virtio header, the `link` header, and the headers of the whole; returns their length.
    pub(super) fn write_header(&self, link: &[u8], out: &mut [u8]) -> usize {
        let len = virtio::HEADER_LEN + link.len() + self.header_len;
        let Some((head, rest)) = out.get_mut(..len).map(|out| out.split_at_mut(virtio::HEADER_LEN)) else {
            return 0;
        };
        head.copy_from_slice(&self.virtio_header().behind(link.len() as u16).to_bytes());
        let (start, headers) = rest.split_at_mut(link.len());
        start.copy_from_slice(link);
        headers.copy_from_slice(self.headers());
        let (ip, transport) = headers.split_at_mut(self.family.header_len());
        let total_len = self.header_len() + self.payload_len;
        let transport_len = total_len - ip.len() as u32;
        match self.family {
            Family::V4 => finish_v4(ip, total_len as u16),
            Family::V6 => put(ip, 4, transport_len as u16),
        }
        let (addresses, number) = match self.family {
            Family::V4 => (12..20, ip.u8_at(9)),
            Family::V6 => (8..40, ip.u8_at(6)),
        };
        let addresses = ip.get(addresses).unwrap_or_default();
        let seed = checksum::pseudo_header(addresses, number.unwrap_or(0), transport_len);
        put(transport, self.checksum_at(), checksum::fold(seed));
        if self.udp {
            put(transport, 4, transport_len as u16);
        } else if let Some(flags) = transport.get_mut(13) {
            *flags |= self.last_flags & (flag::FIN | flag::PSH);
        }
        len
    }

    fn virtio_header(&self) -> virtio::Header {
        let segmentation = match (self.udp, self.family) {
            (true, _) => Segmentation::Udp,
            (false, Family::V4) => Segmentation::TcpV4,
            (false, Family::V6) => Segmentation::TcpV6,
        };
        virtio::Header {
            gso: Some(Gso {
                segmentation,
                ecn: false,
                size: self.segment_size as u16,
                header_len: self.header_len as u16,
            }),
            checksum: Some(PartialChecksum {
                start: self.family.header_len() as u16,
                offset: self.checksum_at() as u16,
            }),
        }
    }

    fn checksum_at(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    fn headers(&self) -> &[u8] {
        self.headers.get(..self.header_len).unwrap_or_default()
    }

    fn same_ip(&self, segment: &Segment<'_>) -> bool {
        let (own, other) = (self.headers(), segment.bytes);
        match self.family {
            // Type of service; flags and fragment offset, time to live.
            Family::V4 => {
                own.u16_at(0) == other.u16_at(0)
                    && own.bytes::<3>(6) == other.bytes::<3>(6)
                    && self.next_identification(segment).is_some()
            }
            // Traffic class and flow label; hop limit.
            Family::V6 => own.u32_at(0) == other.u32_at(0) && own.u8_at(7) == other.u8_at(7),
        }
    }

    fn next_identification(&self, segment: &Segment<'_>) -> Option<Identification> {
        if self.family == Family::V6 {
            return Some(Identification::Unknown);
        }
        let (first, next) = (self.headers().u16_at(4)?, segment.bytes.u16_at(4)?);
        let dont_fragment = self.headers().u16_at(6)? & 0x4000 != 0;
        let way = match next.wrapping_sub(first) {
            step if step == self.segments => Identification::Consecutive,
            0 if dont_fragment => Identification::Constant,
            _ => return None,
        };
        (self.identification == Identification::Unknown || self.identification == way).then_some(way)
    }

    fn same_tcp(&self, segment: &Segment<'_>) -> bool {
        let own = self.headers().get(self.family.header_len()..).unwrap_or_default();
        let other = segment.transport();
        let sequence = own.u32_at(4).map(|first| first.wrapping_add(self.payload_len));
        let flags = |header: &[u8]| header.u8_at(13).map(|flags| flags & !(flag::FIN | flag::PSH));
        sequence == other.u32_at(4)
            && own.u32_at(8) == other.u32_at(8)
            && own.u8_at(12) == other.u8_at(12)
            && flags(own) == flags(other)
            && own.u16_at(14) == other.u16_at(14)
            && own.get(18..) == other.get(18..)
    }
}

/// Whether lengths and checksums of a [`Segment`] are right.
pub(super) fn is_sound(packet: &[u8]) -> bool {
    let Ok(inner) = Inner::parse_any(packet, 0) else { return false };
    let ip_len = usize::from(inner.header_len);
    let (Some(ip), Some(transport)) = (packet.get(..ip_len), packet.get(ip_len..)) else { return false };
    let addresses = match inner.family {
        Family::V4 if checksum::fold(checksum::sum(ip)) != 0xffff => return false,
        Family::V4 => ip.get(12..20),
        Family::V6 => ip.get(8..40),
    };
    let udp_len = transport.u16_at(4).map(usize::from);
    if inner.protocol == protocol::UDP && udp_len != Some(transport.len()) {
        return false;
    }
    let seed = checksum::pseudo_header(addresses.unwrap_or_default(), inner.protocol, transport.len() as u32);
    checksum::fold(seed + u32::from(checksum::sum_long(transport))) == 0xffff
}

fn finish_v4(ip: &mut [u8], total_len: u16) {
    put(ip, 2, total_len);
    put(ip, 10, 0);
    let check = checksum::finish(checksum::sum(ip));
    put(ip, 10, check);
}

fn put(header: &mut [u8], at: usize, value: u16) {
    if let Some(field) = header.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
