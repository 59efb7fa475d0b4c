//! What comes to a node that has asked a STUN server, or itself for its hairpin.
//!
//! Input: a byte (bit 0: the number of the question is put into its place; bit 1: from another port; bit 2: from
//! another address; bit 3: the length is put into its place; bit 4: as an IPv6 host sees it), then the datagram.

use std::net::{IpAddr, SocketAddr};

use ipop_common::Counter;
use ipop_overlay::Instant;
use ipop_user::stun::{Question, Reply, SENDS, Wish, is_stun};

const ID: u128 = 0x0102_0304_0506_0708_090A_0B0C;
const HEADER_LEN: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

pub(super) fn run(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    let has = |bit: u8| how & 1 << bit != 0;
    let ip: IpAddr = if has(4) { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into() } else { [192, 0, 2, 9].into() };
    let server = SocketAddr::new(ip, 3478);
    let mut from = server;
    if has(1) {
        from.set_port(3479);
    }
    if has(2) {
        from.set_ip([192, 0, 2, 8].into());
    }
    let mut message = rest.to_vec();
    if message.len() >= HEADER_LEN {
        if has(0) {
            message[8..HEADER_LEN].copy_from_slice(&ID.to_be_bytes()[4..]);
        }
        if has(3) {
            let len = u16::try_from(message.len() - HEADER_LEN).unwrap_or(u16::MAX);
            message[2..4].copy_from_slice(&len.to_be_bytes());
        }
    }
    let now = Instant::from_nanos(1);
    let mut question = Question::new(server, ID, SENDS, now);
    assert_eq!(question.hear(from, &message), None, "before anything is asked");
    let Wish::Send(to, sent) = question.poll(now) else { panic!("the question is not asked") };
    assert_eq!((to, sent.len()), (server, HEADER_LEN));
    let is_ours = message.get(8..HEADER_LEN) == Some(&ID.to_be_bytes()[4..])
        && message.get(4..8) == Some(&MAGIC_COOKIE[..]);
    match question.hear(from, &message) {
        None => {}
        Some(Ok(Reply::Echo)) => assert!(from.ip() == server.ip() && message == sent),
        Some(Ok(Reply::Seen(seen))) => {
            assert!(is_ours && from == server);
            assert!(seen.port() != 0 && !seen.ip().is_unspecified() && !seen.ip().is_multicast());
            assert!(!seen.ip().is_loopback());
            let hidden = xored(seen);
            let is_there = message.windows(hidden.len()).any(|window| window == hidden);
            assert!(is_there, "{seen} is nowhere in {message:02x?}");
        }
        Some(Ok(Reply::Declined)) => assert!(is_ours && from == server),
        Some(Err(counter)) => assert!(is_ours && from == server && counter == Counter::RxBadStun),
    }
    // What is handed to this module at all is told from WireGuard's messages by its second byte.
    assert!(!is_stun(&message) || message[1] != 0);
}

/// As it is in the message (RFC 8489, 14.2): family, port and address, these combined with the magic cookie and
/// the number.
fn xored(seen: SocketAddr) -> Vec<u8> {
    let key = [&MAGIC_COOKIE[..], &ID.to_be_bytes()[4..]].concat();
    let (family, address) = match seen.ip() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let plain = [&seen.port().to_be_bytes()[..], &address].concat();
    let keys = key[..2].iter().chain(&key);
    let hidden = plain.iter().zip(keys).map(|(byte, key)| byte ^ key);
    std::iter::once(family).chain(hidden).collect()
}
