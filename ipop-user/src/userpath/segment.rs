//! Cuts a super-packet of the TUN device into the packets that the wire carries, without touching
//! its payload: for each segment a header block with the right lengths, identification, sequence
//! number, flags and checksums. Also completes the checksum of a single packet.
//!
//! Pure. It does not know links, MTUs or outer headers.

use std::ops::Range;

use ipop_common::checksum;
use ipop_common::inner::{Inner, InnerError, protocol};
use ipop_common::{Cursor, Family};

use super::virtio::{Gso, Header, PartialChecksum, Segmentation};

/// Longest IP and transport header together of a segment that we cut: IPv4 with all options and TCP
/// with all options. IPv6 extension headers longer than that are refused.
pub const HEADER_LEN_MAX: usize = 60 + 60;

const UDP_HEADER_LEN: usize = 8;
const TCP_HEADER_LEN: usize = 20;

/// TCP flags as in byte 13 of the header.
mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const CWR: u8 = 0x80;
}

/// Why a super-packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// Shorter than its headers say.
    Truncated,
    /// Headers, segmentation and checksum request contradict one another.
    Malformed,
}

impl From<InnerError> for SegmentError {
    fn from(error: InnerError) -> Self {
        match error {
            InnerError::Truncated => Self::Truncated,
            InnerError::Malformed => Self::Malformed,
        }
    }
}

/// A super-packet, understood: how many segments it has and what their headers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperPacket {
    family: Family,
    transport: Transport,
    /// Where the transport header starts.
    ip_len: usize,
    /// IP and transport header together.
    header_len: usize,
    packet_len: usize,
    segment_size: usize,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip_sum: u32,
    /// Sum of pseudo-header and transport header without length, sequence number, flags, checksum.
    transport_sum: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp { sequence: u32, offset_and_flags: u16 },
    Udp,
}

impl SuperPacket {
    /// Reads the headers of `packet`, an IP packet without anything before or after it.
    ///
    /// # Errors
    /// [`SegmentError`]; a packet that came from this host's own kernel has none.
    pub fn parse(packet: &[u8], inner: &Inner, header: &Header) -> Result<Self, SegmentError> {
        let (Some(gso), Some(partial)) = (header.gso, header.checksum) else {
            return Err(SegmentError::Malformed);
        };
        if usize::from(inner.total_len) != packet.len() || !fits(&gso, &partial, inner) {
            return Err(SegmentError::Malformed);
        }
        let ip_len = usize::from(partial.start);
        let (transport, transport_len) = Transport::parse(packet, ip_len, &gso)?;
        let header_len = ip_len + transport_len;
        if header_len > packet.len() {
            return Err(SegmentError::Truncated);
        }
        if header_len > HEADER_LEN_MAX {
            return Err(SegmentError::Malformed);
        }
        let ip_sum = match inner.family {
            Family::V4 => sum_without(packet, 0..ip_len, &[2, 4, 10]),
            Family::V6 => 0,
        };
        let transport_sum = transport.fixed_sum(packet, ip_len..header_len)
            + pseudo_sum(packet, ip_len, partial).ok_or(SegmentError::Truncated)?;
        Ok(Self {
            family: inner.family,
            transport,
            ip_len,
            header_len,
            packet_len: packet.len(),
            segment_size: usize::from(gso.size),
            ip_sum,
            transport_sum,
        })
    }

    /// How many segments there are, at least one.
    pub fn segments(&self) -> usize {
        (self.packet_len - self.header_len).div_ceil(self.segment_size).max(1)
    }

    /// Length of each segment's header block in bytes, at most [`HEADER_LEN_MAX`].
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Length of segment `index` as a packet, in bytes.
    pub fn segment_len(&self, index: usize) -> usize {
        self.header_len + self.payload(index).len()
    }

    /// Length of the longest segment as a packet, in bytes.
    pub fn segment_len_max(&self) -> usize {
        (self.header_len + self.segment_size).min(self.packet_len)
    }

    /// Where in the packet the payload of segment `index` is.
    pub fn payload(&self, index: usize) -> Range<usize> {
        let start = index.saturating_mul(self.segment_size).saturating_add(self.header_len);
        let start = start.min(self.packet_len);
        start..(start + self.segment_size).min(self.packet_len)
    }

    /// Writes the header block of segment `index` to the start of `out`.
    ///
    /// `packet` is the one that was parsed, unchanged. Writes nothing where `out` is too short.
    pub fn write_header(&self, packet: &[u8], index: usize, out: &mut [u8]) {
        let (Some(out), Some(headers)) = (out.get_mut(..self.header_len), packet.get(..self.header_len))
        else {
            return;
        };
        out.copy_from_slice(headers);
        let payload = self.payload(index);
        let last = payload.end == self.packet_len;
        let total_len = (self.header_len + payload.len()) as u16;
        let transport_len = total_len - self.ip_len as u16;
        let (ip, transport) = out.split_at_mut(self.ip_len);
        match self.family {
            Family::V4 => self.finish_v4(ip, index as u16, total_len),
            Family::V6 => put(ip, 4, total_len - Family::V6.header_len() as u16),
        }
        let payload_sum = packet.get(payload).map_or(0, checksum::sum_long);
        let sum = self.transport_sum + u32::from(transport_len) + u32::from(payload_sum);
        match self.transport {
            Transport::Tcp { sequence, offset_and_flags } => {
                let offset = (index * self.segment_size) as u32;
                let flags = segment_flags(offset_and_flags, index == 0, last);
                finish_tcp(transport, sequence.wrapping_add(offset), flags, sum);
            }
            Transport::Udp => finish_udp(transport, transport_len, sum),
        }
    }

    fn finish_v4(&self, ip: &mut [u8], index: u16, total_len: u16) {
        let identification = ip.u16_at(4).unwrap_or(0).wrapping_add(index);
        put(ip, 2, total_len);
        put(ip, 4, identification);
        put(ip, 10, checksum::finish(self.ip_sum + u32::from(total_len) + u32::from(identification)));
    }
}

impl Transport {
    /// The transport header at `at` and its length.
    fn parse(packet: &[u8], at: usize, gso: &Gso) -> Result<(Self, usize), SegmentError> {
        if gso.segmentation == Segmentation::Udp {
            return Ok((Self::Udp, UDP_HEADER_LEN));
        }
        let (Some(sequence), Some(offset_and_flags)) = (packet.u32_at(at + 4), packet.u16_at(at + 12)) else {
            return Err(SegmentError::Truncated);
        };
        let len = usize::from(offset_and_flags >> 12) * 4;
        if len < TCP_HEADER_LEN {
            return Err(SegmentError::Malformed);
        }
        Ok((Self::Tcp { sequence, offset_and_flags }, len))
    }

    /// Sum of the fields that are the same in each segment.
    fn fixed_sum(self, packet: &[u8], header: Range<usize>) -> u32 {
        match self {
            Self::Tcp { .. } => sum_without(packet, header, &[4, 6, 12, 16]),
            Self::Udp => sum_without(packet, header, &[4, 6]),
        }
    }
}

/// Whether segmentation, checksum request and IP header mean the same packet.
fn fits(gso: &Gso, partial: &PartialChecksum, inner: &Inner) -> bool {
    let (offset, number) = match gso.segmentation {
        Segmentation::TcpV4 | Segmentation::TcpV6 => (16, protocol::TCP),
        Segmentation::Udp => (6, protocol::UDP),
    };
    let family = match gso.segmentation {
        Segmentation::TcpV4 => inner.family == Family::V4,
        Segmentation::TcpV6 => inner.family == Family::V6,
        Segmentation::Udp => true,
    };
    // Behind IPv6 extension headers the transport header is where the checksum request says.
    let place = match inner.family {
        Family::V4 => partial.start == inner.header_len && inner.protocol == number,
        Family::V6 if partial.start == inner.header_len => inner.protocol == number,
        Family::V6 => partial.start > inner.header_len,
    };
    partial.offset == offset && family && place
}

/// The pseudo-header's sum without its length, which the kernel left in the checksum field together
/// with the super-packet's length. Taking it from there, as the kernel's own segmentation does, is
/// right also behind routing headers, whose final destination the IP header does not show.
fn pseudo_sum(packet: &[u8], ip_len: usize, partial: PartialChecksum) -> Option<u32> {
    let seed = packet.u16_at(ip_len + usize::from(partial.offset))?;
    let whole_len = checksum::fold(u32::try_from(packet.len() - ip_len).ok()?);
    Some(u32::from(seed) + u32::from(!whole_len))
}

/// Sum of the words in `range`, without those at the given offsets from its start.
fn sum_without(packet: &[u8], range: Range<usize>, without: &[usize]) -> u32 {
    let header = packet.get(range).unwrap_or_default();
    let skipped = without.iter().filter_map(|&at| header.u16_at(at)).map(|word| u32::from(!word));
    checksum::sum(header) + skipped.sum::<u32>()
}

/// FIN and PSH belong to the last segment, CWR to the first (RFC 3168, 6.1.2).
fn segment_flags(offset_and_flags: u16, first: bool, last: bool) -> u16 {
    let mut cleared = 0;
    if !last {
        cleared |= flag::FIN | flag::PSH;
    }
    if !first {
        cleared |= flag::CWR;
    }
    offset_and_flags & !u16::from(cleared)
}

fn finish_tcp(header: &mut [u8], sequence: u32, offset_and_flags: u16, sum: u32) {
    put(header, 4, (sequence >> 16) as u16);
    put(header, 6, sequence as u16);
    put(header, 12, offset_and_flags);
    let varying = (sequence >> 16) + (sequence & 0xffff) + u32::from(offset_and_flags);
    put(header, 16, checksum::finish(sum + varying));
}

fn finish_udp(header: &mut [u8], len: u16, sum: u32) {
    put(header, 4, len);
    put(header, 6, never_zero(checksum::finish(sum + u32::from(len))));
}

/// Zero in a UDP header means that there is no checksum (RFC 768).
const fn never_zero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

fn put(header: &mut [u8], at: usize, value: u16) {
    if let Some(field) = header.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Completes the checksum that the kernel left to the device, in place.
///
/// # Errors
/// [`SegmentError::Truncated`] where the field is not within the packet; nothing is changed.
pub fn complete_checksum(packet: &mut [u8], partial: PartialChecksum) -> Result<(), SegmentError> {
    let covered = packet.get_mut(usize::from(partial.start)..).ok_or(SegmentError::Truncated)?;
    let at = usize::from(partial.offset);
    if covered.len() < at + 2 {
        return Err(SegmentError::Truncated);
    }
    let check = checksum::finish(u32::from(checksum::sum_long(covered)));
    put(covered, at, never_zero(check));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::packets::{ACK, CWR, ECE, FIN, PSH, Packet, is_sound, payload};
    use super::*;
    use proptest::prelude::*;

    fn header(packet: &Packet, size: u16) -> Header {
        let segmentation = match (packet.udp, packet.v6) {
            (true, _) => Segmentation::Udp,
            (false, true) => Segmentation::TcpV6,
            (false, false) => Segmentation::TcpV4,
        };
        let header_len = packet.header_len() as u16;
        Header {
            gso: Some(Gso { segmentation, ecn: packet.flags & CWR != 0, size, header_len }),
            checksum: Some(PartialChecksum {
                start: packet.ip_len() as u16,
                offset: packet.check_offset() as u16,
            }),
        }
    }

    fn parse(bytes: &[u8], header: &Header) -> Result<SuperPacket, SegmentError> {
        let inner = Inner::parse_any(bytes, 0)?;
        SuperPacket::parse(bytes, &inner, header)
    }

    fn cut(packet: &Packet, size: u16) -> Vec<Vec<u8>> {
        let bytes = packet.with_seed();
        let whole = parse(&bytes, &header(packet, size)).unwrap();
        (0..whole.segments())
            .map(|index| {
                let mut segment = vec![0; whole.header_len()];
                whole.write_header(&bytes, index, &mut segment);
                segment.extend(&bytes[whole.payload(index)]);
                segment
            })
            .collect()
    }

    fn payloads(packet: &Packet, segments: &[Vec<u8>]) -> Vec<u8> {
        segments.iter().flat_map(|segment| &segment[packet.header_len()..]).copied().collect()
    }

    #[test]
    fn flags_of_the_whole_go_to_the_segment_that_they_belong_to() {
        let mut packet = Packet::tcp(payload(3 * 100));
        packet.flags = ACK | PSH | FIN | CWR | ECE;
        let segments = cut(&packet, 100);
        let flags: Vec<u8> = segments.iter().map(|segment| segment[33]).collect();
        assert_eq!(flags, [ACK | CWR | ECE, ACK | ECE, ACK | PSH | FIN | ECE]);
    }

    #[test]
    fn a_last_segment_may_be_shorter() {
        let packet = Packet::tcp(payload(250)).v6();
        let lens: Vec<usize> = cut(&packet, 100).iter().map(Vec::len).collect();
        assert_eq!(lens, [172, 172, 122]);
    }

    #[test]
    fn a_super_packet_without_payload_is_one_segment() {
        let segments = cut(&Packet::tcp(Vec::new()), 100);
        assert_eq!(segments.len(), 1);
        assert!(is_sound(&segments[0]));
    }

    #[test]
    fn every_truncation_is_refused() {
        for packet in [Packet::tcp(payload(90)), Packet::udp(payload(90)).v6()] {
            let bytes = packet.with_seed();
            let inner = Inner::parse_any(&bytes[..], 0).unwrap();
            for len in 0..bytes.len() {
                assert!(SuperPacket::parse(&bytes[..len], &inner, &header(&packet, 30)).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn headers_that_contradict_one_another_are_refused() {
        let packet = Packet::tcp(payload(100));
        let bytes = packet.with_seed();
        let good = header(&packet, 50);
        assert!(parse(&bytes, &good).is_ok());
        let without_checksum = Header { checksum: None, ..good };
        let elsewhere = Header { checksum: Some(PartialChecksum { start: 24, offset: 16 }), ..good };
        let udp = header(&Packet::udp(payload(100)), 50);
        let v6 = header(&Packet::tcp(payload(100)).v6(), 50);
        for bad in [without_checksum, elsewhere, udp, v6] {
            assert_eq!(parse(&bytes, &bad), Err(SegmentError::Malformed), "{bad:?}");
        }
        let mut short_offset = bytes;
        short_offset[32] = 0x40;
        assert_eq!(parse(&short_offset, &good), Err(SegmentError::Malformed));
    }

    #[test]
    fn segments_behind_ipv6_extension_headers_are_cut() {
        let packet = Packet::tcp(payload(300)).v6();
        let plain = packet.with_seed();
        let mut bytes = plain[..40].to_vec();
        bytes[6] = 60;
        bytes.extend([protocol::TCP, 0, 1, 4, 0, 0, 0, 0]);
        bytes.extend(&plain[40..]);
        let payload_len = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
        let mut shifted = header(&packet, 100);
        shifted.checksum = Some(PartialChecksum { start: 48, offset: 16 });
        let whole = parse(&bytes, &shifted).unwrap();
        let mut segment = vec![0; whole.header_len()];
        whole.write_header(&bytes, 1, &mut segment);
        segment.extend(&bytes[whole.payload(1)]);
        // Without the extension header it is the segment of the plain packet.
        let mut bare = [&segment[..40], &segment[48..]].concat();
        bare[6] = protocol::TCP;
        let payload_len = (bare.len() - 40) as u16;
        bare[4..6].copy_from_slice(&payload_len.to_be_bytes());
        assert_eq!(bare, cut(&packet, 100)[1]);
    }

    #[test]
    fn a_single_checksum_is_completed_and_bounds_are_kept() {
        for packet in [Packet::tcp(payload(101)), Packet::udp(payload(0)).v6()] {
            let mut bytes = packet.with_seed();
            let partial = header(&packet, 1).checksum.unwrap();
            complete_checksum(&mut bytes, partial).unwrap();
            assert!(is_sound(&bytes));
            assert_eq!(bytes, packet.bytes());
            for partial in [(u16::MAX, 0), (0, u16::MAX), (bytes.len() as u16 - 1, 0)] {
                let partial = PartialChecksum { start: partial.0, offset: partial.1 };
                assert_eq!(complete_checksum(&mut bytes, partial), Err(SegmentError::Truncated));
            }
            assert!(is_sound(&bytes));
        }
    }

    prop_compose! {
        fn any_packet()(
            udp: bool, v6: bool, id: u16, tos: u8, ttl: u8, dont_fragment: bool, sequence: u32, ack: u32,
            flags in 0u8..=255, window: u16, options in 0usize..=10, bytes in prop::collection::vec(any::<u8>(), 1..6000),
        ) -> Packet {
            Packet {
                v6, udp, id, tos, ttl, dont_fragment, sequence, ack, flags, window,
                options: vec![1; options * 4],
                ..Packet::tcp(bytes)
            }
        }
    }

    proptest! {
        #[test]
        fn segments_are_sound_and_hold_the_payload_in_order(packet in any_packet(), size in 1u16..3000) {
            let segments = cut(&packet, size);
            prop_assert!(segments.iter().all(|segment| is_sound(segment)));
            prop_assert_eq!(&payloads(&packet, &segments), &packet.payload);
            let size = usize::from(size);
            for (index, segment) in segments.iter().enumerate() {
                let payload_len = segment.len() - packet.header_len();
                prop_assert!(payload_len == size || index == segments.len() - 1 && payload_len < size);
                if !packet.v6 {
                    prop_assert_eq!(segment.u16_at(4), Some(packet.id.wrapping_add(index as u16)));
                }
                if !packet.udp {
                    let sequence = packet.sequence.wrapping_add((index * size) as u32);
                    prop_assert_eq!(segment.u32_at(packet.ip_len() + 4), Some(sequence));
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x6f]),
            head in prop::collection::vec(any::<u8>(), 12..=12),
            index in 0usize..70_000,
        ) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Ok(header) = Header::parse(&head)
                && let Ok(whole) = parse(&bytes, &header)
            {
                whole.write_header(&bytes, index, &mut [0; HEADER_LEN_MAX]);
                whole.write_header(&bytes, index, &mut []);
            }
            if let Some(partial) = Header::parse(&head).ok().and_then(|header| header.checksum) {
                let _ = complete_checksum(&mut bytes, partial);
            }
        }
    }
}
