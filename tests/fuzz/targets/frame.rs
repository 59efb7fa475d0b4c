//! A frame on an underlay interface, as TC ingress and XDP decide about it.
//!
//! Input: flags (bit 0: a super-packet), how many bytes of the frame's end cannot be read directly,
//! the frame.

use ipop_common::encapsulation::{Form, Underlay, V4_LEN, V6_LEN, write_template, write_v4, write_v6};
use ipop_common::gpe::LinkId;
use ipop_common::ingress::{self, Delivery, FrameMeta, Verdict};
use ipop_common::maps::{Link, LinkStats};
use ipop_common::tables::Tables;
use ipop_common::{Address, Counter, Cursor, Family};
use ipop_tests::reference::{Around, Arrival, arrival};

use super::tables::{NOW_NS, PACKET_LEN_MAX, world};

/// The frame of an input, how many bytes of it cannot be read, and what is decided about it.
pub(crate) fn decide(input: &[u8]) -> Option<(&[u8], FrameMeta, usize, Verdict)> {
    let (&[flags, unreadable], frame) = input.split_first_chunk()?;
    if frame.len() > PACKET_LEN_MAX {
        return None;
    }
    let meta = FrameMeta { len: frame.len() as u32, gso: flags & 1 != 0 };
    let verdict = ingress::frame(frame, meta, world(), NOW_NS);
    Some((frame, meta, usize::from(unreadable), verdict))
}

pub(super) fn run(input: &[u8]) {
    let Some((frame, meta, unreadable, verdict)) = decide(input) else { return };
    is_what_the_format_says(frame, meta, verdict);
    if let Verdict::Deliver(delivery) | Verdict::LeaveToStack(delivery) = verdict {
        is_within(frame, &delivery);
        is_admissible(frame, &delivery);
        encodes_back(frame, &delivery);
    }
    a_shorter_view_decides_no_other_way(frame, meta, verdict, unreadable);
}

fn is_what_the_format_says(frame: &[u8], meta: FrameMeta, verdict: Verdict) {
    let around = Around { gso_size: usize::from(meta.gso), now_ns: NOW_NS };
    let expected = arrival(world(), frame, around);
    let agrees = match (verdict, expected) {
        (Verdict::NotOurs, Arrival::NotOurs) | (Verdict::LeaveToStack(_), Arrival::LeftToStack) => true,
        (Verdict::Refuse(counter), Arrival::Refused(expected)) => counter == expected,
        (
            Verdict::Deliver(delivery),
            Arrival::Delivered { slot, outer_is_v4, inner_is_v4, inner_at, inner_len },
        ) => {
            delivery.slot == slot
                && (delivery.outer == Family::V4) == outer_is_v4
                && (delivery.inner == Family::V4) == inner_is_v4
                && delivery.overhead() + 14 == inner_at
                && usize::from(delivery.inner_len) == inner_len
        }
        _ => false,
    };
    assert!(agrees, "decided {verdict:?}, the format says {expected:?}");
}

fn is_within(frame: &[u8], delivery: &Delivery) {
    let end = 14 + delivery.overhead() + usize::from(delivery.inner_len);
    assert!(end <= frame.len(), "{delivery:?} ends at {end} of {}", frame.len());
}

/// Link, outer addresses and inner source are those of one table entry.
fn is_admissible(frame: &[u8], delivery: &Delivery) {
    let link = world().link(delivery.slot).expect("a slot");
    assert!(link.epoch != 0 && link.lease_until_ns > NOW_NS, "{link:?} is not current");
    let (outer_source, outer_destination) = addresses(frame, 14, delivery.outer);
    assert_eq!(link.peer, outer_source);
    assert_eq!(link.local, outer_destination);
    let (inner_source, _) = addresses(frame, 14 + delivery.overhead(), delivery.inner);
    let owner = world().by_address(&inner_source).expect("an owner of the inner source");
    assert_eq!(LinkStats::index(owner.slot), LinkStats::index(delivery.slot));
}

/// Source and destination of the IP header at `at`.
fn addresses(packet: &[u8], at: usize, family: Family) -> (Address, Address) {
    match family {
        Family::V4 => {
            let octets = |at| Address::from_v4(packet.bytes(at).expect("four octets"));
            (octets(at + 12), octets(at + 16))
        }
        Family::V6 => {
            let octets = |at| Address::from_v6(packet.bytes(at).expect("sixteen octets"));
            (octets(at + 8), octets(at + 24))
        }
    }
}

/// What the sender of this frame would have written, by our encoder: the same bytes, but for the
/// fields that a sender or a router may choose.
fn encodes_back(frame: &[u8], delivery: &Delivery) {
    let udp_at = 14 + delivery.outer.header_len();
    let (source, destination) = addresses(frame, 14, delivery.outer);
    let mut link = Link::EMPTY;
    let underlay = Underlay {
        source_mac: frame.bytes(6).expect("a MAC"),
        next_hop_mac: frame.bytes(0).expect("a MAC"),
        local: source,
        peer: (destination.to_ip(), world().config.port).into(),
        form: Form::Clear(
            LinkId::new(frame.u32_at(udp_at + 12).expect("a link id") >> 8).expect("a link id"),
        ),
    };
    write_template(&mut link, &underlay);
    let source_port = frame.u16_at(udp_at).expect("a port");
    // IPv4: type of service, identification, DF, time to live, checksum. IPv6: traffic class and
    // flow label, hop limit.
    let (written, free) = match delivery.outer {
        Family::V4 => {
            let mut header = [0; V4_LEN];
            write_v4(&mut header, &link, delivery.inner, delivery.inner_len, source_port);
            (header.to_vec(), &[15..16, 18..21, 22..23, 24..26][..])
        }
        Family::V6 => {
            let mut header = [0; V6_LEN];
            write_v6(&mut header, &link, delivery.inner, delivery.inner_len, source_port);
            (header.to_vec(), &[15..18, 21..22][..])
        }
    };
    for (at, (written, read)) in written.iter().zip(frame).enumerate() {
        let (written, read) = match (at, delivery.outer) {
            // The version is fixed, the other half of the byte belongs to the traffic class.
            (14, Family::V6) => (written >> 4, read >> 4),
            _ => (*written, *read),
        };
        let is_free = free.iter().any(|range| range.contains(&at));
        assert!(is_free || written == read, "byte {at} is {read:#x} and would be written {written:#x}");
    }
}

/// Where only the start can be read, the decision is the same or that more must be read; never
/// another one. (A program that sees a truncated frame pulls the rest and asks again.)
fn a_shorter_view_decides_no_other_way(frame: &[u8], meta: FrameMeta, whole: Verdict, unreadable: usize) {
    let readable = frame.len().saturating_sub(unreadable);
    let verdict = ingress::frame(&frame[..readable], meta, world(), NOW_NS);
    let asks_for_more = matches!(verdict, Verdict::NotOurs | Verdict::Refuse(Counter::RxTruncated));
    // The checksum field is compared as a whole: a view that ends within it has none.
    let ends_in_checksum = verdict == Verdict::Refuse(Counter::RxOuterChecksum)
        && [14 + 20 + 6, 14 + 40 + 6].iter().any(|at| (*at..at + 2).contains(&readable));
    assert!(
        verdict == whole || asks_for_more || ends_in_checksum,
        "{whole:?}, but {verdict:?} by the first {readable} bytes"
    );
}
