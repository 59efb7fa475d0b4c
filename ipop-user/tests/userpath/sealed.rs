//! Sealed links in the user path: super-packets sealed segment by segment, and packets that wait for a
//! session.

use std::net::UdpSocket;
use std::sync::Arc;

use ipop_common::Counter;
use ipop_common::limits::OVERLAY_MTU;
use ipop_user::userpath::{Carriage, Io, STAGED_FOR_ONE_MAX, UserEvent};
use nix::sys::socket::{setsockopt, sockopt};

use crate::transfer::{MIB, V4, V6, assert_no_reordering, transfer, transfer_over};
use crate::wire::{DEADLINE, INNER, OUTER, Options, PORT, SLOT, Wire, inside, wait_for};

/// A link by which other nodes carry.
fn carried(io: Io) -> Options {
    Options { sealed: true, carried: true, link_mtu: OVERLAY_MTU, ..Options::new(io) }
}

with_both_engines! {
    fn a_file_arrives_byte_for_byte_and_in_order(io) {
        transfer_over(Options { sealed: true, ..Options::new(io) }, V4, 128 * MIB);
    }

    fn ipv6_in_ipv6(io) {
        transfer_over(Options { sealed: true, outer_v6: true, ..Options::new(io) }, V6, 64 * MIB);
    }

    fn a_wire_without_segmentation_offload(io) {
        transfer_over(Options { sealed: true, nic: true, ..Options::new(io) }, V4, 64 * MIB);
    }

    fn a_wire_of_9000_bytes(io) {
        transfer_over(Options { sealed: true, wire_mtu: 9000, ..Options::new(io) }, V4, 64 * MIB);
    }

    fn several_queues_keep_the_order(io) {
        transfer_over(Options { sealed: true, queues: 3, ..Options::new(io) }, V4, 128 * MIB);
    }

    fn no_text_is_on_the_wire(io) {
        let wire = Wire::new(Options { sealed: true, ..Options::new(io) });
        let listener = inside(&wire.b.netns, || {
            let socket = socket2::Socket::new(
                socket2::Domain::PACKET,
                socket2::Type::RAW,
                Some(i32::from((libc::ETH_P_ALL as u16).to_be()).into()),
            )
            .unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        });
        let text = b"a text that nobody else may read";
        let from = inside(&wire.a.netns, || UdpSocket::bind((INNER[0][0], 0)).unwrap());
        let to = inside(&wire.b.netns, || UdpSocket::bind((INNER[1][0], 7000)).unwrap());
        to.set_read_timeout(Some(DEADLINE)).unwrap();
        from.send_to(text, (INNER[1][0], 7000)).unwrap();
        assert_eq!(to.recv(&mut [0; 100]).unwrap(), text.len());
        let (mut seen, mut buffer) = (0, [std::mem::MaybeUninit::uninit(); 2000]);
        while seen == 0 {
            let (len, from) = listener.recv_from(&mut buffer).unwrap();
            // SAFETY: `len` bytes have been written.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), len) };
            let _ = from;
            let is_outer = bytes.len() > 42 && bytes[23] == 17 && bytes[36..38] == PORT.to_be_bytes();
            if is_outer {
                assert!(!bytes.windows(text.len()).any(|window| window == text));
                assert_eq!(bytes[42..46], [4, 0, 0, 0], "a transport message");
                seen += 1;
            }
        }
    }

    fn packets_wait_for_a_session_and_then_go_in_order(io) {
        let mut wire = Wire::new(Options { sealed: true, ..Options::new(io) });
        let session = wire.a.sessions.lock().unwrap().last().cloned();
        wire.a.change_link(|link| link.carriage = Carriage::Sealed(None));
        let from = inside(&wire.a.netns, || UdpSocket::bind((INNER[0][0], 0)).unwrap());
        let to = inside(&wire.b.netns, || UdpSocket::bind((INNER[1][0], 7000)).unwrap());
        to.set_read_timeout(Some(DEADLINE)).unwrap();
        let sent = STAGED_FOR_ONE_MAX as u8 + 3;
        for number in 0..sent {
            from.send_to(&[number], (INNER[1][0], 7000)).unwrap();
        }
        wait_for("all are staged", || wire.a.count(Counter::TxStaged) == u64::from(sent));
        wait_for("the oldest give way", || wire.a.count(Counter::TxStageFull) == 3);
        let wanted = wire.a.events.try_recv().unwrap();
        assert_eq!(wanted, UserEvent::SessionWanted { slot: SLOT });
        wire.a.change_link(|link| link.carriage = Carriage::Sealed(session.clone()));
        for number in 3..sent {
            let mut bytes = [0; 2];
            assert_eq!(to.recv(&mut bytes).unwrap(), 1);
            assert_eq!(bytes[0], number);
        }
    }

    fn packets_that_wait_in_vain_are_answered(io) {
        let wire = Wire::new(Options { sealed: true, ..Options::new(io) });
        wire.a.change_link(|link| link.carriage = Carriage::Sealed(None));
        let from = inside(&wire.a.netns, || UdpSocket::bind((INNER[0][0], 0)).unwrap());
        from.connect((INNER[1][0], 7000)).unwrap();
        from.set_read_timeout(Some(DEADLINE)).unwrap();
        setsockopt(&from, sockopt::Ipv4RecvErr, &true).unwrap();
        from.send(b"anybody?").unwrap();
        wait_for("it waits", || wire.a.count(Counter::TxStaged) == 1);
        wire.a.change_link(|link| link.reachable = false);
        let error = from.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
    }

    fn sessions_replace_one_another_under_traffic(io) {
        let wire = Wire::new(Options { sealed: true, ..Options::new(io) });
        std::thread::scope(|scope| {
            scope.spawn(|| transfer(&wire.a, &wire.b, INNER[1][0], 64 * MIB));
            for number in 1..10 {
                let session = Arc::clone(wire.a.sessions.lock().unwrap().last().unwrap());
                let place = wire.a.settings.places.of(session.local());
                wait_for("a session is used", || place.sent() > 50);
                wire.renew_session(number);
            }
        });
        assert_no_reordering(&wire);
        for counter in [Counter::RxReplay, Counter::RxBadTag, Counter::RxUnknownIndex] {
            assert_eq!(wire.b.count(counter), 0, "{counter:?}");
        }
    }

    fn what_others_carry_arrives_byte_for_byte_and_in_order(io) {
        for queues in [1, 3] {
            let wire = Wire::new(Options { queues, ..carried(io) });
            wire.carrying(|| transfer(&wire.a, &wire.b, INNER[1][V4], 16 * MIB));
            wire.carrying(|| transfer(&wire.b, &wire.a, INNER[0][V6], 16 * MIB));
            assert_no_reordering(&wire);
            let segments = 16 * MIB / usize::from(OVERLAY_MTU);
            for (from, to) in [(&wire.a, &wire.b), (&wire.b, &wire.a)] {
                assert!(from.count(Counter::TxCarried) as usize > segments, "{:?}", from.counted());
                assert!(to.count(Counter::RxDecapsulated) as usize > segments, "{:?}", to.counted());
                assert_eq!(from.count(Counter::TxEncapsulated), 0, "nothing goes by UDP");
                assert_eq!(from.link().traffic.snapshot().tx_packets, from.count(Counter::TxCarried));
            }
        }
    }

    fn what_nobody_carries_is_dropped_and_counted(io) {
        let wire = Wire::new(carried(io));
        let from = inside(&wire.a.netns, || UdpSocket::bind((INNER[0][0], 0)).unwrap());
        wait_for("there is no more room", || {
            from.send_to(b"a packet", (INNER[1][0], 7000)).unwrap();
            wire.a.count(Counter::TxCarryFull) > 0
        });
        assert_eq!(wire.b.count(Counter::RxDecapsulated), 0);
    }

    fn a_packet_too_long_for_the_overlay_is_answered(io) {
        let wire = Wire::new(Options { tun_mtu: 1500, ..carried(io) });
        let from = inside(&wire.a.netns, || UdpSocket::bind((INNER[0][0], 0)).unwrap());
        from.connect((INNER[1][0], 7000)).unwrap();
        setsockopt(&from, sockopt::Ipv4RecvErr, &true).unwrap();
        wait_for("the stack has been told the MTU", || {
            matches!(from.send(&[7; 1400]), Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE))
        });
        assert_eq!(wire.a.count(Counter::TxCarried), 0);
    }

    fn a_sealed_link_takes_no_clear_packets(io) {
        let wire = Wire::new(Options { sealed: true, ..Options::new(io) });
        let attacker = inside(&wire.a.netns, || UdpSocket::bind((OUTER[0][0], 0)).unwrap());
        let frame = crate::hostile::good(b"clear");
        attacker.send_to(&frame, (OUTER[1][0], PORT)).unwrap();
        wait_for("it is counted", || wire.b.count(Counter::RxUnknownLink) == 1);
    }
}
