//! Tells the sender of a packet why it could not be carried: whether an error is due (RFC 1122,
//! 3.2.2; RFC 4443, 2.4), how many a second, and the whole packet to be written to the TUN device.

use ipop_common::icmp::{self, QUOTE_LEN};
use ipop_common::inner::{Inner, protocol};
use ipop_common::{Address, Cursor, Family, checksum};

/// Longest error: IPv6 and ICMPv6 headers and the quote.
pub(super) const ERROR_LEN_MAX: usize = icmp::V6_LEN + QUOTE_LEN;

/// Errors in one second; the kernel allows 1000 for the whole host (icmp_msgs_per_sec).
const ERRORS_PER_SECOND: u32 = 200;
const SECOND_NS: u64 = 1_000_000_000;

/// Writes errors, a limited number per second.
#[derive(Debug, Default)]
pub(super) struct IcmpErrors {
    second: u64,
    sent: u32,
}

impl IcmpErrors {
    /// Writes the error about `packet`; its length, or `None` where none is due or the second's
    /// number is spent.
    pub(super) fn write(
        &mut self,
        error: icmp::Error,
        packet: &[u8],
        inner: &Inner,
        now_ns: u64,
        out: &mut [u8; ERROR_LEN_MAX],
    ) -> Option<usize> {
        if !is_due(packet, inner) || !self.admit(now_ns) {
            return None;
        }
        let quote = quote(packet);
        let quote_sum = checksum::sum(&quote);
        let (head, rest) = match inner.family {
            Family::V4 => out.split_first_chunk_mut::<{ icmp::V4_LEN }>().map(|(head, rest)| {
                let addresses = (packet.bytes(12).unwrap_or_default(), packet.bytes(16).unwrap_or_default());
                icmp::write_v4(head, error, addresses.0, addresses.1, quote_sum);
                (icmp::V4_LEN, rest)
            }),
            Family::V6 => out.split_first_chunk_mut::<{ icmp::V6_LEN }>().map(|(head, rest)| {
                let addresses = (inner.source.to_bytes(), inner.destination.to_bytes());
                icmp::write_v6(head, error, addresses.0, addresses.1, quote_sum);
                (icmp::V6_LEN, rest)
            }),
        }?;
        rest.get_mut(..QUOTE_LEN)?.copy_from_slice(&quote);
        Some(head + QUOTE_LEN)
    }

    fn admit(&mut self, now_ns: u64) -> bool {
        let second = now_ns / SECOND_NS;
        if second != self.second {
            *self = Self { second, sent: 0 };
        }
        self.sent = self.sent.saturating_add(1);
        self.sent <= ERRORS_PER_SECOND
    }
}

/// The start of the packet, padded with zeroes where it is shorter (RFC 4884, 5.1).
fn quote(packet: &[u8]) -> [u8; QUOTE_LEN] {
    let mut quote = [0; QUOTE_LEN];
    for (to, from) in quote.iter_mut().zip(packet) {
        *to = *from;
    }
    quote
}

/// No error about an error, about a fragment that is not the first, or to or about many hosts.
fn is_due(packet: &[u8], inner: &Inner) -> bool {
    let kind = packet.u8_at(usize::from(inner.header_len)).unwrap_or(0);
    let is_error = match inner.protocol {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        protocol::ICMPV6 => kind < 128,
        _ => false,
    };
    let later_fragment =
        inner.family == Family::V4 && packet.u16_at(6).is_some_and(|field| field & 0x1fff != 0);
    !is_error && !later_fragment && is_one_host(inner.source) && is_one_host(inner.destination)
}

fn is_one_host(address: Address) -> bool {
    let ip = address.to_ip();
    let broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast());
    !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::super::packets::{Packet, payload};
    use super::*;

    fn error(packet: &[u8], errors: &mut IcmpErrors, now_ns: u64) -> Option<Vec<u8>> {
        let inner = Inner::parse_any(packet, 0).unwrap();
        let mut out = [0; ERROR_LEN_MAX];
        let len = errors.write(icmp::Error::Unreachable, packet, &inner, now_ns, &mut out)?;
        Some(out[..len].to_vec())
    }

    #[test]
    fn an_error_goes_back_to_the_sender_and_quotes_the_packet() {
        let packet = Packet::udp(payload(300)).bytes();
        let reply = error(&packet, &mut IcmpErrors::default(), 0).unwrap();
        assert_eq!((&reply[12..16], &reply[16..20]), (&packet[16..20], &packet[12..16]));
        assert_eq!(reply[20..22], [3, 1]);
        assert_eq!(reply[28..], packet[..QUOTE_LEN]);
        assert_eq!(checksum::fold(checksum::sum(&reply[20..])), 0xffff);
    }

    #[test]
    fn a_short_packet_is_quoted_with_padding() {
        let packet = Packet::tcp(Vec::new()).v6().bytes();
        let reply = error(&packet, &mut IcmpErrors::default(), 0).unwrap();
        assert_eq!(reply.len(), ERROR_LEN_MAX);
        assert_eq!(reply[48..48 + packet.len()], packet);
        assert!(reply[48 + packet.len()..].iter().all(|&byte| byte == 0));
        let pseudo = checksum::pseudo_header(&reply[8..40], protocol::ICMPV6, (reply.len() - 40) as u32);
        assert_eq!(checksum::fold(pseudo + checksum::sum(&reply[40..])), 0xffff);
    }

    #[test]
    fn nothing_is_said_about_errors_fragments_and_multicast() {
        let mut errors = IcmpErrors::default();
        let about_error = error(&Packet::udp(payload(60)).bytes(), &mut errors, 0).unwrap();
        assert_eq!(error(&about_error, &mut errors, 0), None);
        let about_error = error(&Packet::udp(payload(60)).v6().bytes(), &mut errors, 0).unwrap();
        assert_eq!(error(&about_error, &mut errors, 0), None);
        let mut fragment = Packet::udp(payload(60)).bytes();
        fragment[7] = 3;
        assert_eq!(error(&fragment, &mut errors, 0), None);
        for address in [[224, 0, 0, 1], [255; 4], [0; 4], [127, 0, 0, 1]] {
            for at in [12, 16] {
                let mut packet = Packet::udp(payload(60)).bytes();
                packet[at..at + 4].copy_from_slice(&address);
                assert_eq!(error(&packet, &mut errors, 0), None, "{address:?}");
            }
        }
    }

    #[test]
    fn errors_are_limited_per_second() {
        let mut errors = IcmpErrors::default();
        let packet = Packet::udp(payload(60)).bytes();
        let mut sent = |now_ns| (0..1000).filter_map(|_| error(&packet, &mut errors, now_ns)).count();
        assert_eq!(sent(SECOND_NS), ERRORS_PER_SECOND as usize);
        assert_eq!(sent(2 * SECOND_NS - 1), 0);
        assert_eq!(sent(2 * SECOND_NS), ERRORS_PER_SECOND as usize);
    }
}
