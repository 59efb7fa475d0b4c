//! An IP header somewhere in a buffer.
//!
//! Input: where it starts, the buffer.

use ipop_common::inner::{Inner, InnerError};
use ipop_common::{Address, Cursor, Family};

pub(super) fn run(input: &[u8]) {
    let Some((&offset, buffer)) = input.split_first() else { return };
    let offset = usize::from(offset);
    let version = buffer.u8_at(offset).map(|byte| byte >> 4);
    let [v4, v6] = [Family::V4, Family::V6].map(|family| Inner::parse(buffer, offset, family));
    let of_its_version = match version {
        None => Err(InnerError::Truncated),
        Some(4) => v4,
        Some(6) => v6,
        Some(_) => Err(InnerError::Malformed),
    };
    assert_eq!(Inner::parse_any(buffer, offset), of_its_version);
    assert!(v4.is_err() || version == Some(4));
    assert!(v6.is_err() || version == Some(6));
    let Ok(inner) = of_its_version else { return };
    let packet = &buffer[offset..];
    says_what_stands_there(packet, &inner);
    needs_its_header_and_no_more(packet, &inner);
}

fn says_what_stands_there(packet: &[u8], inner: &Inner) {
    let field = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    assert!(
        inner.total_len >= inner.header_len && usize::from(inner.header_len) >= inner.family.header_len()
    );
    match inner.family {
        Family::V4 => {
            assert_eq!(inner.source.to_bytes()[12..], packet[12..16]);
            assert_eq!(inner.destination.to_bytes()[12..], packet[16..20]);
            assert_eq!((inner.protocol, inner.total_len), (packet[9], field(2)));
            assert_eq!(inner.header_len, u16::from(packet[0] & 0xf) * 4);
            assert_eq!(inner.dont_fragment, packet[6] & 0x40 != 0);
        }
        Family::V6 => {
            assert_eq!(inner.source, named(&packet[8..24]));
            assert_eq!(inner.destination, named(&packet[24..40]));
            assert_eq!((inner.protocol, inner.total_len), (packet[6], field(4) + 40));
            assert!(inner.header_len == 40 && inner.dont_fragment);
        }
    }
    assert!([inner.source, inner.destination].iter().all(|address| address.family() == inner.family));
}

/// The address that 16 octets of an IPv6 header name: nobody's, if they spell an IPv4 address.
fn named(octets: &[u8]) -> Address {
    let octets: [u8; 16] = octets.try_into().expect("sixteen octets");
    let spells_v4 = octets[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    if spells_v4 { Address::from_bytes([0; 16]) } else { Address::from_bytes(octets) }
}

fn needs_its_header_and_no_more(packet: &[u8], inner: &Inner) {
    let fixed = inner.family.header_len();
    assert_eq!(Inner::parse(&packet[..fixed], 0, inner.family), Ok(*inner));
    assert_eq!(Inner::parse(&packet[..fixed - 1], 0, inner.family), Err(InnerError::Truncated));
}
