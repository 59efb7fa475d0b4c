//! Packets for many, which go to the control task.

use ipop_common::multicast::Target;

use super::*;

const GROUP: [u8; 4] = [239, 1, 2, 3];

/// A node whose table carries groups, with the broadcast address of a network.
fn node() -> Node {
    let mut node = Node::new(|_| ());
    node.table.carry_groups([Address::from_v4([10, 0, 0, 255])]);
    node
}

/// A packet with another destination; its checksums are as they were.
fn to(destination: [u8; 4], mut packet: Vec<u8>) -> Vec<u8> {
    packet[16..20].copy_from_slice(&destination);
    packet
}

/// What was handed on, and whether nothing was kept or sent.
fn handed_on(node: &mut Node) -> Vec<(Target, Vec<u8>)> {
    assert!(node.outbound.is_idle(), "nothing is to be sent");
    assert_eq!(node.pool.free_buffers(), 4);
    std::iter::from_fn(|| node.ears.groups.try_recv().ok()).map(|packet| (packet.to, packet.bytes)).collect()
}

#[test]
fn packets_for_many_are_handed_on_as_they_are() {
    for (destination, target) in [
        (GROUP, Target::Group(Address::from_v4(GROUP))),
        ([224, 0, 0, 1], Target::All),
        ([255; 4], Target::All),
        ([10, 0, 0, 255], Target::All),
    ] {
        let mut node = node();
        let packet = to(destination, Packet::udp(payload(100)).bytes());
        node.take(Header::PLAIN, &packet);
        assert_eq!(handed_on(&mut node), [(target, packet)], "{destination:?}");
        assert_eq!(node.counted(), []);
    }
}

#[test]
fn a_super_packet_for_a_group_is_handed_on_in_segments() {
    let mut node = node();
    let packet = Packet::udp(payload(250));
    let gso = Gso { segmentation: Segmentation::Udp, ecn: false, size: 100, header_len: 28 };
    let header = Header { gso: Some(gso), checksum: Some(PartialChecksum { start: 20, offset: 6 }) };
    node.take(header.to_bytes(), &to(GROUP, packet.with_seed()));
    let handed_on = handed_on(&mut node);
    assert_eq!(handed_on.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [128, 128, 78]);
    let whole: Vec<u8> = handed_on.iter().flat_map(|(_, bytes)| bytes[28..].to_vec()).collect();
    assert_eq!(whole, payload(250));
}

#[test]
fn what_stays_on_the_host_is_counted_and_reports_are_told_of() {
    let mut node = node();
    let mut report = to([224, 0, 0, 22], Packet::udp(payload(10)).bytes());
    report[9] = 2;
    node.take(Header::PLAIN, &report);
    assert_eq!(node.counted(), [Counter::TxMembership]);
    assert_eq!(node.ears.events.try_recv(), Ok(UserEvent::MembershipSaid));
    assert_eq!(handed_on(&mut node), []);
    // Where groups are not carried.
    let mut node = Node::new(|_| ());
    node.take(Header::PLAIN, &to(GROUP, Packet::udp(payload(10)).bytes()));
    assert_eq!((node.counted(), handed_on(&mut node)), (vec![Counter::TxNoGroup], vec![]));
}

#[test]
fn more_than_the_control_task_takes_is_dropped_and_counted() {
    let mut node = node();
    // There is room for four.
    for _ in 0..6 {
        node.take(Header::PLAIN, &to(GROUP, Packet::udp(payload(10)).bytes()));
    }
    assert_eq!(handed_on(&mut node).len(), 4);
    assert_eq!(node.counters.value(Counter::TxGroupFull), 2);
}
