//! What the TUN device delivers: a virtio header and a packet that may be a super-packet, cut into
//! what the wire carries.
//!
//! Input: flags (bit 0: the checksum field is made the pseudo-header's sum, as a kernel leaves it;
//! bit 1: the virtio header's offsets are made to fit the packet), the virtio header (12 bytes), the
//! packet.

use ipop_common::inner::Inner;
use ipop_tests::packet::{self, TCP, UDP};
use ipop_user::userpath::segment::{SuperPacket, complete_checksum};
use ipop_user::userpath::virtio::{Gso, HEADER_LEN, Header, PartialChecksum, Segmentation};

use super::merge;

pub(super) fn run(input: &[u8]) {
    let Some((&flags, rest)) = input.split_first() else { return };
    let Some((bytes, packet)) = rest.split_first_chunk::<HEADER_LEN>() else {
        assert!(Header::parse(rest).is_err());
        return;
    };
    let Ok(mut header) = Header::parse(bytes) else { return };
    assert_eq!(Header::parse(&header.to_bytes()), Ok(header), "what parses is written so that it parses");
    let Ok(inner) = Inner::parse_any(packet, 0) else { return };
    let Some(packet) = packet.get(..usize::from(inner.total_len)) else { return };
    if flags & 2 != 0 {
        fit(&mut header, &inner);
    }
    let mut packet = packet.to_vec();
    let is_seeded =
        flags & 1 != 0 && header.checksum.is_some_and(|partial| seed(&mut packet, &inner, partial));
    if let Some(partial) = header.checksum {
        completes(&packet, partial);
    }
    if let Ok(whole) = SuperPacket::parse(&packet, &inner, &header) {
        let gso = header.gso.expect("only a super-packet is read as one");
        let segments = merge::segments(&packet, &whole);
        add_up(&packet, &whole, &gso, &segments);
        segments.iter().for_each(|segment| has_the_right_lengths(segment, &inner));
        if gso.segmentation != Segmentation::Udp {
            are_one_stream(
                &packet,
                usize::from(header.checksum.map_or(0, |partial| partial.start)),
                &segments,
            );
        }
        if is_seeded {
            are_sound(&segments, &inner);
        }
    }
}

/// Makes the offsets those of a packet without extension headers.
fn fit(header: &mut Header, inner: &Inner) {
    let (segmentation, offset) = match (inner.protocol, inner.family.header_len()) {
        (UDP, _) => (Segmentation::Udp, 6),
        (_, 20) => (Segmentation::TcpV4, 16),
        _ => (Segmentation::TcpV6, 16),
    };
    header.checksum = Some(PartialChecksum { start: inner.header_len, offset });
    header.gso = header.gso.map(|gso| Gso { segmentation, ..gso });
}

/// Puts the pseudo-header's sum where the checksum belongs, as the stack does for a device that
/// completes it. False where the packet has no such field.
fn seed(packet: &mut [u8], inner: &Inner, partial: PartialChecksum) -> bool {
    let offset = match inner.protocol {
        TCP => 16,
        UDP => 6,
        _ => return false,
    };
    let at = usize::from(inner.header_len) + offset;
    if partial != (PartialChecksum { start: inner.header_len, offset: offset as u16 })
        || at + 2 > packet.len()
    {
        return false;
    }
    let mut pseudo = inner.source.to_bytes().to_vec();
    pseudo.extend(inner.destination.to_bytes());
    if packet[0] >> 4 == 4 {
        pseudo = packet[12..20].to_vec();
    }
    let len = packet.len() as u32 - u32::from(inner.header_len);
    pseudo.extend(len.to_be_bytes());
    pseudo.extend([0, 0, 0, inner.protocol]);
    packet[at..at + 2].copy_from_slice(&(!packet::checksum(&pseudo)).to_be_bytes());
    true
}

/// A completed checksum makes the covered bytes add up to nothing and changes nothing else.
fn completes(packet: &[u8], partial: PartialChecksum) {
    let mut completed = packet.to_vec();
    let (start, at) = (usize::from(partial.start), usize::from(partial.start) + usize::from(partial.offset));
    if complete_checksum(&mut completed, partial).is_err() {
        assert_eq!(completed, packet);
        assert!(at + 2 > packet.len());
        return;
    }
    for (index, (after, before)) in completed.iter().zip(packet).enumerate() {
        assert!(after == before || (at..at + 2).contains(&index), "byte {index} has changed");
    }
    assert_ne!(completed[at..at + 2], [0, 0], "no checksum at all, as UDP has it");
    // The field held the sum of what is not covered; a field at an odd place is not a word of it.
    if partial.offset.is_multiple_of(2) {
        let seed = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let sum =
            packet::checksum(&[&completed[start..], &pad(&completed[start..]), &seed.to_be_bytes()].concat());
        assert!(sum == 0 || sum == 0xffff, "the sum is {sum:#x}");
    }
}

/// What makes a row of bytes a row of words.
fn pad(bytes: &[u8]) -> Vec<u8> {
    vec![0; bytes.len() % 2]
}

/// The segments are the super-packet's payload, in order, in pieces of one size.
fn add_up(packet: &[u8], whole: &SuperPacket, gso: &Gso, segments: &[Vec<u8>]) {
    let header_len = whole.header_len();
    let payload: Vec<u8> = segments.iter().flat_map(|segment| &segment[header_len..]).copied().collect();
    assert_eq!(payload, packet[header_len..]);
    let (last, others) = segments.split_last().expect("at least one segment");
    assert!(others.iter().all(|segment| segment.len() == header_len + usize::from(gso.size)));
    assert!(last.len() <= header_len + usize::from(gso.size));
    assert_eq!(segments.iter().map(Vec::len).max(), Some(whole.segment_len_max()));
}

fn has_the_right_lengths(segment: &[u8], whole: &Inner) {
    let inner = Inner::parse_any(segment, 0).expect("a segment has an IP header");
    assert_eq!(usize::from(inner.total_len), segment.len());
    assert_eq!((inner.source, inner.destination), (whole.source, whole.destination));
    assert_eq!((inner.protocol, inner.header_len), (whole.protocol, whole.header_len));
    if segment[0] >> 4 == 4 {
        assert_eq!(packet::checksum(&segment[..usize::from(inner.header_len)]), 0, "an IP checksum");
    }
    if inner.protocol == UDP && segment[0] >> 4 == 4 {
        let udp_len = u16::from_be_bytes([
            segment[inner.header_len as usize + 4],
            segment[inner.header_len as usize + 5],
        ]);
        assert_eq!(udp_len, inner.total_len - inner.header_len);
    }
}

/// Sequence numbers go on by the payload; FIN and PSH are the last segment's, CWR the first one's
/// (RFC 3168, 6.1.2), all other flags everybody's.
fn are_one_stream(whole: &[u8], tcp_at: usize, segments: &[Vec<u8>]) {
    const FIN_PSH: u8 = 0x01 | 0x08;
    const CWR: u8 = 0x80;
    let sequence =
        |packet: &[u8]| u32::from_be_bytes(*packet[tcp_at + 4..].first_chunk().expect("four bytes"));
    let header_len = tcp_at + usize::from(whole[tcp_at + 12] >> 4) * 4;
    let (mut expected, flags) = (sequence(whole), whole[tcp_at + 13]);
    for (index, segment) in segments.iter().enumerate() {
        assert_eq!(sequence(segment), expected);
        expected = expected.wrapping_add((segment.len() - header_len) as u32);
        let taken = if index == 0 { 0 } else { CWR } | if index + 1 == segments.len() { 0 } else { FIN_PSH };
        assert_eq!(segment[tcp_at + 13], flags & !taken, "flags of segment {index}");
    }
}

/// All checksums are right, so that whoever receives the segments may merge them again.
fn are_sound(segments: &[Vec<u8>], inner: &Inner) {
    assert!(segments.iter().all(|segment| merge::is_sound(segment)));
    if usize::from(inner.header_len) == inner.family.header_len() {
        merge::comes_out_as_it_went_in(segments.to_vec());
    }
}
