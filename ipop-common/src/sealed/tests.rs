use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::checksum;

fn memory(text: &[u8]) -> std::boxed::Box<Memory> {
    let mut memory = std::boxed::Box::new(Memory::EMPTY);
    assert!(memory.set_text_len(text.len() as u64));
    memory.room()[..text.len()].copy_from_slice(text);
    memory
}

fn text(memory: &mut Memory) -> Vec<u8> {
    let len = memory.text_len().unwrap() as usize;
    memory.room()[..len].to_vec()
}

/// A packet with its transport checksum as the stack leaves it to a device, and with it complete.
fn packet(family: Family, transport: Transport, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (number, header_len, field) = match transport {
        Transport::Tcp => (protocol::TCP, 20, 16),
        _ => (protocol::UDP, 8, 6),
    };
    let transport_len = header_len + payload.len();
    let mut packet = match family {
        Family::V4 => {
            let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, number, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
            ip[2..4].copy_from_slice(&((20 + transport_len) as u16).to_be_bytes());
            ip
        }
        Family::V6 => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, number, 64];
            ip[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            ip.extend([0xfd; 16]);
            ip.extend([0xfe; 16]);
            ip
        }
    };
    let ip_len = packet.len();
    let addresses = packet[if family == Family::V4 { 12 } else { 8 }..].to_vec();
    packet.extend((0..header_len).map(|byte| byte as u8 * 7));
    packet[ip_len + field..ip_len + field + 2].fill(0);
    packet.extend(payload);
    let pseudo = checksum::pseudo_header(&addresses, number, transport_len as u32);
    let (mut partial, mut complete) = (packet.clone(), packet);
    partial[ip_len + field..ip_len + field + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    let check = match checksum::finish(pseudo + checksum::sum(&complete[ip_len..])) {
        0 if number == protocol::UDP => 0xffff,
        check => check,
    };
    complete[ip_len + field..ip_len + field + 2].copy_from_slice(&check.to_be_bytes());
    (partial, complete)
}

fn all_shapes() -> impl Iterator<Item = Shape> {
    [Family::V4, Family::V6].into_iter().flat_map(|family| {
        [Transport::Tcp, Transport::Udp].into_iter().map(move |transport| Shape { family, transport })
    })
}

#[test]
fn a_checksum_is_completed_at_every_length_and_the_padding_is_zero() {
    for shape in all_shapes() {
        for len in 0..1400usize {
            let payload: Vec<u8> = (0..len).map(|byte| (byte * 31 + len) as u8).collect();
            let (partial, complete) = packet(shape.family, shape.transport, &payload);
            // What an earlier packet left behind must not be summed up or sent.
            let mut memory = memory(&[0xee; TEXT_MAX]);
            assert!(memory.set_text_len(partial.len() as u64));
            memory.room()[..partial.len()].copy_from_slice(&partial);
            let prepared = prepare(&mut memory, shape, 1440).expect("it fits");
            assert!(prepared.completed, "{shape:?} {len}");
            let padded = text(&mut memory);
            assert_eq!(padded.len() as u64, prepared.padded);
            assert_eq!(padded.len(), partial.len().next_multiple_of(16).min(1440).max(partial.len()));
            assert_eq!(padded[..complete.len()], complete, "{shape:?} {len}");
            assert!(padded[complete.len()..].iter().all(|byte| *byte == 0), "{shape:?} {len}");
        }
    }
}

proptest! {
    /// Also where a finished checksum happens to look unfinished.
    #[test]
    fn a_finished_checksum_stays_as_it_is(
        shape in prop::sample::select(all_shapes().collect::<Vec<_>>()),
        payload in prop::collection::vec(any::<u8>(), 2..100),
    ) {
        let (_, complete) = packet(shape.family, shape.transport, &payload);
        let mut work = memory(&complete);
        prepare(&mut work, shape, 1440).expect("it fits");
        prop_assert_eq!(&text(&mut work)[..complete.len()], &complete[..]);
        // Two bytes of payload make the finished checksum equal to the pseudo-header's sum.
        let (partial, mut forged) = packet(shape.family, shape.transport, &payload);
        let field_at = partial.iter().zip(&forged).position(|(a, b)| a != b).unwrap_or(0) & !1;
        let (wanted, is) = (&partial[field_at..field_at + 2], &forged[field_at..field_at + 2]);
        let (wanted, is) = (u16::from_be_bytes([wanted[0], wanted[1]]), u16::from_be_bytes([is[0], is[1]]));
        let at = shape.family.header_len() + if shape.transport == Transport::Tcp { 20 } else { 8 };
        let word = u16::from_be_bytes([forged[at], forged[at + 1]]);
        // sum + word + is = all ones, so word + is is what must not change.
        let word = checksum::fold(u32::from(word) + u32::from(is) + u32::from(!wanted));
        forged[at..at + 2].copy_from_slice(&word.to_be_bytes());
        forged[field_at..field_at + 2].copy_from_slice(&wanted.to_be_bytes());
        let mut work = memory(&forged);
        prepare(&mut work, shape, 1440).expect("it fits");
        prop_assert_eq!(&text(&mut work)[..forged.len()], &forged[..]);
    }

    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), mtu: u16) {
        for shape in all_shapes() {
            let mut memory = memory(&bytes);
            let _ = prepare(&mut memory, shape, mtu);
        }
        let bytes = &bytes[..];
        if let Ok(inner) = Inner::parse_any(bytes, 0) {
            let _ = (Shape::of(bytes, &inner), flow_hash(bytes, &inner));
        }
    }
}

#[test]
fn options_fragments_and_extension_headers_have_no_shape() {
    let shape = |packet: &[u8]| Shape::of(packet, &Inner::parse_any(packet, 0).unwrap());
    for expected in all_shapes() {
        let (packet, _) = packet(expected.family, expected.transport, b"text");
        assert_eq!(shape(&packet), Some(expected));
    }
    let (v4, _) = packet(Family::V4, Transport::Udp, b"text");
    for (at, value) in [(0, 0x46), (6, 0x20), (7, 1)] {
        let mut changed = v4.clone();
        changed[at] = value;
        assert_eq!(shape(&changed), None, "byte {at}");
    }
    let (mut v6, _) = packet(Family::V6, Transport::Udp, b"text");
    for (header, expected) in [(0, None), (44, None), (60, None), (protocol::ICMPV6, Some(Transport::Other))]
    {
        v6[6] = header;
        assert_eq!(shape(&v6).map(|shape| shape.transport), expected);
    }
}

#[test]
fn a_flow_is_told_by_addresses_protocol_and_ports() {
    let hash = |packet: &[u8]| flow_hash(packet, &Inner::parse_any(packet, 0).unwrap());
    for shape in all_shapes() {
        let (packet, _) = packet(shape.family, shape.transport, b"text");
        let ports = shape.family.header_len();
        let addresses = if shape.family == Family::V4 { 12..20 } else { 8..40 };
        for at in addresses.chain(ports..ports + 4) {
            let mut other = packet.clone();
            other[at] ^= 1;
            assert_ne!(hash(&other), hash(&packet), "{shape:?}, byte {at}");
        }
        let mut same = packet.clone();
        *same.last_mut().unwrap() ^= 1;
        assert_eq!(hash(&same), hash(&packet));
    }
}

#[test]
fn a_flow_comes_back_after_it_was_quiet() {
    let flow = SharedU64::new(0);
    assert!(!is_with_user(&flow, 5));
    flow.store(1000);
    assert!(is_with_user(&flow, 1000) && is_with_user(&flow, 1000 + QUIET_NS - 1));
    assert!(!is_with_user(&flow, 1000 + QUIET_NS));
}

#[test]
fn in_a_frame_the_same_checksum_is_completed_behind_its_header() {
    let payload: Vec<u8> = (0..1200u32).map(|n| (n * 31) as u8).collect();
    for shape in all_shapes() {
        for len in [0, 1, 2, 15, 16, 17, 700, 1200] {
            let (partial, complete) = packet(shape.family, shape.transport, &payload[..len]);
            let room_and_header = [0x5a; 16];
            let mut memory = memory(&[&room_and_header[..], &partial].concat());
            let prepared = prepare_frame(&mut memory, shape, 1440).expect("it fits");
            let padding = prepared.padded as usize - 16 - partial.len();
            assert!(prepared.completed && padding < 16);
            let text = text(&mut memory);
            assert_eq!(text[..2], ethernet::sealed_prefix(padding));
            assert_eq!(text[2..16], room_and_header[2..]);
            assert_eq!(text[16..], [&complete[..], &vec![0; padding]].concat(), "{shape:?} of {len}");
            assert_eq!(ethernet::sealed_frame_len(&text[..], text.len()), Some(14 + complete.len()));
        }
    }
}
