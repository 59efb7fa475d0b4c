//! Ethernet as the payload of the virtual network: frames, the stations that they name, and how a
//! frame stands in a sealed or a clear packet.
//!
//! Stations are looked up as IP addresses are, so each has an address: its MAC under 100::/64, which
//! no network routes (RFC 6666).

use crate::address::{Address, Family};
use crate::cursor::Cursor;
use crate::gpe::{self, LinkId};
use crate::ingress::ETHERNET_LEN;
use crate::inner::protocol;

/// A MAC address.
pub type Mac = [u8; 6];

/// All stations.
pub const BROADCAST: Mac = [0xff; 6];
/// EtherTypes (IEEE 802 numbers).
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Type of the ICMPv6 message by which a host says that it has an address (RFC 4861, section 4.4).
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const VLAN_TAG_LEN: usize = 4;
/// The longest header of a frame whose payload is looked at: one tag.
pub const HEADER_LEN_MAX: usize = ETHERNET_LEN + VLAN_TAG_LEN;

/// Bytes before a frame in a sealed packet: in the first, the version nibble 14, which no IP packet
/// has, and how many bytes of padding follow the frame; a zero. The IP header behind is then aligned.
pub const SEALED_PREFIX_LEN: usize = 2;
const SEALED_VERSION: u8 = 0xe0;
/// What an MTU for IP packets has to leave free beside what it leaves for packets without a frame.
pub const OVERHEAD: u16 = (SEALED_PREFIX_LEN + ETHERNET_LEN) as u16;

/// First byte of the clear header of a frame: flag I alone, as in RFC 7348, which is what VXLAN-GPE
/// says for Ethernet as well.
pub const CLEAR_FLAGS: u8 = 0x08;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub destination: Mac,
    pub source: Mac,
    /// Of the payload, or of the first tag.
    pub ethertype: u16,
}

impl Header {
    /// Reads the header at the start of a frame; `None` where it is cut off, or comes from a group.
    #[inline(always)]
    pub fn parse<C: Cursor>(frame: C) -> Option<Self> {
        let (destination, source) = (frame.bytes(0)?, frame.bytes(6)?);
        let header = Self { destination, source, ethertype: frame.u16_at(12)? };
        if is_group(&header.source) { None } else { Some(header) }
    }
}

/// EtherType for experiments within one network (IEEE 802, clause 9.2.4): of the frames by which nodes that bridge the
/// same segment find that out.
pub const ETHERTYPE_GUARD: u16 = 0x88b5;
/// Where those go: a group, which bridges pass on.
pub const GUARD_GROUP: Mac = [0x03, 0x49, 0x50, 0x4f, 0x50, 0x00];

/// Whether a frame is one by which a node guards against loops.
pub fn is_guard(header: &Header) -> bool {
    header.ethertype == ETHERTYPE_GUARD && header.destination == GUARD_GROUP
}

/// Whether a MAC address is a group's, the broadcast address included.
#[inline(always)]
pub const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// The address under which a station is looked up.
#[inline(always)]
pub const fn station(mac: Mac) -> Address {
    let [a, b, c, d, e, f] = mac;
    Address::from_bytes([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f])
}

/// The station that an address stands for; `None` for one of IP.
pub const fn mac_of(address: Address) -> Option<Mac> {
    match address.to_bytes() {
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f] => Some([a, b, c, d, e, f]),
        _ => None,
    }
}

/// Where the IP packet in a frame starts, behind a tag if there is one, and its version; `None` where
/// it has none.
pub fn ip_at<C: Cursor>(frame: C) -> Option<(usize, Family)> {
    let (at, ethertype) = match frame.u16_at(12)? {
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => (HEADER_LEN_MAX, frame.u16_at(16)?),
        ethertype => (ETHERNET_LEN, ethertype),
    };
    let families = [Family::V4, Family::V6];
    families.into_iter().find(|family| family.ethertype() == ethertype).map(|family| (at, family))
}

/// How much of a frame [`said_address`] may look at.
pub const SAID_LEN_MAX: usize = HEADER_LEN_MAX + 40 + 24;

/// The address of IP that a frame says its sender has, by ARP (RFC 826) or neighbour discovery.
#[inline(always)]
pub fn said_address<C: Cursor>(frame: C, header: &Header) -> Option<Address> {
    const IPV6: u16 = Family::V6.ethertype();
    match header.ethertype {
        ETHERTYPE_ARP => {
            let sender = frame.bytes::<4>(ETHERNET_LEN + 14)?;
            if u32::from_ne_bytes(sender) == 0 { None } else { Some(Address::from_v4(sender)) }
        }
        IPV6 => advertised::<C, ETHERNET_LEN>(frame),
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN if frame.u16_at(16) == Some(IPV6) => {
            advertised::<C, HEADER_LEN_MAX>(frame)
        }
        _ => None,
    }
}

/// The target of a neighbour advertisement in the IPv6 packet at `AT`.
#[inline(always)]
fn advertised<C: Cursor, const AT: usize>(frame: C) -> Option<Address> {
    if frame.u8_at(AT)? >> 4 != 6
        || frame.u8_at(AT + 6)? != protocol::ICMPV6
        || frame.u8_at(AT + 40)? != NEIGHBOUR_ADVERTISEMENT
    {
        return None;
    }
    Some(Address::from_v6(frame.bytes(AT + 48)?))
}

/// Whether a text that starts with this byte is a frame.
#[inline(always)]
pub const fn is_sealed_frame(first: u8) -> bool {
    first & 0xf0 == SEALED_VERSION
}

/// What precedes a frame that `padding` bytes follow, at most 15.
#[inline(always)]
pub const fn sealed_prefix(padding: usize) -> [u8; SEALED_PREFIX_LEN] {
    [SEALED_VERSION | (padding & 0xf) as u8, 0]
}

/// Length of the frame in an opened text of `text_len` bytes; `None` where it contradicts itself.
#[inline(always)]
pub fn sealed_frame_len<C: Cursor>(text: C, text_len: usize) -> Option<usize> {
    let [first, 0] = text.bytes::<SEALED_PREFIX_LEN>(0)? else { return None };
    if !is_sealed_frame(first) {
        return None;
    }
    let len = text_len.checked_sub(SEALED_PREFIX_LEN + usize::from(first & 0xf))?;
    if len < ETHERNET_LEN { None } else { Some(len) }
}

/// What precedes a frame in a clear packet.
pub const fn clear_header(link_id: LinkId) -> [u8; gpe::HEADER_LEN] {
    let [_, a, b, c] = link_id.value().to_be_bytes();
    [CLEAR_FLAGS, 0, 0, 0, a, b, c, 0]
}

/// The link of a clear packet with a frame; `None` where a reserved bit is set, or it names none.
#[inline(always)]
pub fn clear_link<C: Cursor>(packet: C) -> Option<LinkId> {
    let second = packet.u32_at(4)?;
    if packet.u32_at(0)? != (CLEAR_FLAGS as u32) << 24 || second & 0xff != 0 {
        return None;
    }
    LinkId::new(second >> 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    const FRAME: [u8; 20] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4];

    #[test]
    fn a_header_is_read_and_no_group_sends() {
        let header = Header::parse(&FRAME[..]).unwrap();
        assert_eq!(header.destination, [2, 0, 0, 0, 0, 1]);
        assert_eq!(header.source, [2, 0, 0, 0, 0, 2]);
        assert_eq!(header.ethertype, ETHERTYPE_ARP);
        for len in 0..ETHERNET_LEN {
            assert_eq!(Header::parse(&FRAME[..len]), None);
        }
        let mut from_group = FRAME;
        from_group[6] = 3;
        assert_eq!(Header::parse(&from_group[..]), None);
        assert!(is_group(&BROADCAST) && is_group(&[1, 0, 0x5e, 0, 0, 1]) && !is_group(&header.source));
    }

    #[test]
    fn a_station_has_an_address_that_is_none_of_ip() {
        let mac = [2, 3, 4, 5, 6, 7];
        assert_eq!(station(mac).to_ip(), "100::203:405:607".parse::<std::net::IpAddr>().unwrap());
        assert_eq!(mac_of(station(mac)), Some(mac));
        assert_eq!(station([0, 0, 0, 0, 0, 0]).family(), Family::V6);
        assert_eq!(mac_of(Address::from_v4([10, 0, 0, 1])), None);
    }

    #[test]
    fn the_ip_packet_is_found_behind_a_tag() {
        let frame = |types: &[u8]| [&[2u8; 12][..], types, &[0; 20]].concat();
        assert_eq!(ip_at(&frame(&[8, 0])[..]), Some((14, Family::V4)));
        assert_eq!(ip_at(&frame(&[0x86, 0xdd])[..]), Some((14, Family::V6)));
        assert_eq!(ip_at(&frame(&[0x81, 0, 0, 7, 8, 0])[..]), Some((18, Family::V4)));
        assert_eq!(ip_at(&frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7, 8, 0])[..]), None);
        assert_eq!(ip_at(&FRAME[..]), None);
    }

    #[test]
    fn golden_headers() {
        assert_eq!(clear_header(LinkId::new(0x12_3456).unwrap()), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(sealed_prefix(5), [0xe5, 0]);
    }

    proptest! {
        #[test]
        fn a_sealed_frame_keeps_its_length(len in 14usize..2000, padding in 0usize..16) {
            let text = [&sealed_prefix(padding)[..], &std::vec![0; len + padding]].concat();
            prop_assert!(is_sealed_frame(text[0]));
            prop_assert_eq!(sealed_frame_len(&text[..], text.len()), Some(len));
        }

        #[test]
        fn only_one_form_of_the_clear_header_is_read(bytes: [u8; 8]) {
            if let Some(link_id) = clear_link(&bytes[..]) {
                prop_assert_eq!(clear_header(link_id), bytes);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes: Vec<u8> = bytes;
            let _ = (Header::parse(&bytes[..]), ip_at(&bytes[..]), clear_link(&bytes[..]));
            let _ = sealed_frame_len(&bytes[..], bytes.len());
        }
    }
}
