//! A datagram that may be a WireGuard message: the codec, mac1, and what a node says of it that has
//! asked nobody.
//!
//! Input: the datagram.

use std::time::Duration;

use ipop_common::Counter;
use ipop_common::blake2s::Hash;
use ipop_common::filter::{Filter, Kind, MESSAGE_MAX};
use ipop_common::wireguard::{
    COOKIE_REPLY_LEN, CookieReply, INITIATION_LEN, Initiation, PADDING, RESPONSE_LEN, Response, TAG_LEN,
    TRANSPORT_HEADER_LEN, TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE, TYPE_TRANSPORT, TransportHeader,
    padded_len,
};
use ipop_overlay::session::{Mac1Key, Now, Output, Sessions, Timers};
use ipop_overlay::{Endpoint, Instant, Refusal};
use ipop_tests::random::Random;
use x25519_dalek::{PublicKey, StaticSecret};

const PRIVATE: [u8; 32] = [7; 32];

/// The node's public key.
pub(crate) fn public() -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(PRIVATE)).to_bytes()
}

pub(super) fn run(input: &[u8]) {
    initiation(input);
    response(input);
    cookie_reply(input);
    transport(input);
    padding(input);
    let mac1_end = match input.len() {
        INITIATION_LEN if input[0] == TYPE_INITIATION => Initiation::MAC2_OFFSET,
        RESPONSE_LEN if input[0] == TYPE_RESPONSE => Response::MAC2_OFFSET,
        _ => 0,
    };
    only_the_right_mac1_is_admitted(input, mac1_end);
    is_refused_by_its_name(input);
}

/// docs/wire-format.md: type, three zeroes, and one length.
fn has_the_form(datagram: &[u8], kind: u8, len: usize) -> bool {
    datagram.len() == len && datagram[..4] == [kind, 0, 0, 0]
}

fn little_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}

fn initiation(input: &[u8]) {
    let message = Initiation::parse(input);
    assert_eq!(message.is_some(), has_the_form(input, TYPE_INITIATION, INITIATION_LEN));
    let Some(message) = message else { return };
    assert_eq!(message.to_bytes(), input);
    assert_eq!(message.sender, little_u32(input, 4));
    assert_eq!(message.ephemeral, input[8..40]);
    assert_eq!(message.sealed_static, input[40..88]);
    assert_eq!(message.sealed_timestamp, input[88..116]);
    assert_eq!((&message.mac1[..], &message.mac2[..]), (&input[116..132], &input[132..]));
}

fn response(input: &[u8]) {
    let message = Response::parse(input);
    assert_eq!(message.is_some(), has_the_form(input, TYPE_RESPONSE, RESPONSE_LEN));
    let Some(message) = message else { return };
    assert_eq!(message.to_bytes(), input);
    assert_eq!((message.sender, message.receiver), (little_u32(input, 4), little_u32(input, 8)));
    assert_eq!(message.ephemeral, input[12..44]);
    assert_eq!(message.sealed_nothing, input[44..60]);
    assert_eq!((&message.mac1[..], &message.mac2[..]), (&input[60..76], &input[76..]));
}

fn cookie_reply(input: &[u8]) {
    let message = CookieReply::parse(input);
    assert_eq!(message.is_some(), has_the_form(input, TYPE_COOKIE_REPLY, COOKIE_REPLY_LEN));
    let Some(message) = message else { return };
    assert_eq!(message.to_bytes(), input);
    assert_eq!(message.receiver, little_u32(input, 4));
    assert_eq!(message.nonce, input[8..32]);
    assert_eq!(message.sealed_cookie, input[32..]);
}

/// The header, which a program reads where it stands in a frame.
fn transport(input: &[u8]) {
    for at in 0..=input.len() {
        let rest = &input[at..];
        let is_one = rest.len() >= TRANSPORT_HEADER_LEN && rest[..4] == [TYPE_TRANSPORT, 0, 0, 0];
        let header = TransportHeader::parse_at(input, at);
        assert_eq!(header.is_some(), is_one);
        let has_room_for_a_tag = rest.len() >= TRANSPORT_HEADER_LEN + TAG_LEN;
        assert_eq!(TransportHeader::parse(rest), header.filter(|_| has_room_for_a_tag));
        let Some(header) = header else { continue };
        assert_eq!(header.to_bytes(), rest[..TRANSPORT_HEADER_LEN]);
        assert_eq!(header.receiver, little_u32(rest, 4));
        assert_eq!(header.counter, u64::from_le_bytes(*rest[8..].first_chunk().expect("eight bytes")));
    }
}

/// How a packet as long as the input is padded, under each MTU up to one that allows for more.
fn padding(input: &[u8]) {
    let len = input.len();
    for mtu in 0..=len + 2 * PADDING {
        let padded = padded_len(len, mtu);
        assert!((len..len + PADDING).contains(&padded));
        assert!(padded <= len.max(mtu), "{len} becomes {padded}, beyond {mtu}");
        assert!(padded.is_multiple_of(PADDING) || padded == len.max(mtu), "{len} becomes {padded} of {mtu}");
    }
}

/// mac1 covers all before it, and nothing else has any part in it. `end`: where mac1 ends, 0 where
/// the message has none.
fn only_the_right_mac1_is_admitted(input: &[u8], end: usize) {
    let (key, other) = (Mac1Key::new(&public()), Mac1Key::new(&PRIVATE));
    let mut message = input.to_vec();
    let mac1 = key.fill_in(&mut message);
    assert_eq!(mac1.is_some(), end != 0);
    let Some(mac1) = mac1 else {
        assert!(message == input && !key.admits(input), "a datagram without a mac1");
        return;
    };
    assert_eq!(mac1, message[end - mac1.len()..end]);
    assert!(key.admits(&message) && !other.admits(&message));
    assert_eq!(key.admits(input), input == message);
    the_kernels_part_says_the_same(input, &key);
    the_kernels_part_says_the_same(&message, &key);
    for at in 0..message.len() {
        let bit = 1 << (at % 8);
        message[at] ^= bit;
        assert_eq!(key.admits(&message), at >= end, "byte {at}");
        message[at] ^= bit;
    }
}

/// Of an initiation or a response.
fn the_kernels_part_says_the_same(message: &[u8], key: &Mac1Key) {
    let kind = if message.len() == RESPONSE_LEN { Kind::Response } else { Kind::Initiation };
    let filter = Filter::open();
    filter.set_key(key.key(), 1);
    let mut room = [0xff; MESSAGE_MAX];
    room[..message.len()].copy_from_slice(message);
    // SAFETY: as much room as is asked for.
    let verdict = unsafe { filter.admit(kind, room.as_mut_ptr(), [0, 0], 0, &mut Hash::default()) };
    assert_eq!(verdict, if key.admits(message) { Ok(()) } else { Err(Counter::RxBadMac1) });
}

/// Nobody who does not know the node's private key is answered, but with a cookie under load.
fn is_refused_by_its_name(input: &[u8]) {
    let mut datagram = input.to_vec();
    let has_mac1 = Mac1Key::new(&public()).fill_in(&mut datagram).is_some();
    for (datagram, admitted) in [(input, input == datagram), (&datagram, true)] {
        assert_eq!(refusal(datagram, false), (expected(datagram, has_mac1 && admitted), None));
        let (counter, reply) = refusal(datagram, true);
        let Some(reply) = reply else {
            assert_eq!(counter, expected(datagram, has_mac1 && admitted));
            continue;
        };
        let initiation = Initiation::parse(datagram).expect("only initiations are answered");
        assert!(admitted && counter == Counter::RxCookieSent);
        let reply = CookieReply::parse(&reply).expect("a cookie reply");
        assert_eq!(reply.receiver, initiation.sender);
    }
}

fn expected(datagram: &[u8], has_right_mac1: bool) -> Counter {
    match datagram.first() {
        Some(&TYPE_INITIATION) if !has_the_form(datagram, TYPE_INITIATION, INITIATION_LEN) => {
            Counter::RxBadHandshake
        }
        Some(&TYPE_RESPONSE) if !has_the_form(datagram, TYPE_RESPONSE, RESPONSE_LEN) => {
            Counter::RxBadHandshake
        }
        Some(&(TYPE_INITIATION | TYPE_RESPONSE)) if !has_right_mac1 => Counter::RxBadMac1,
        Some(&TYPE_RESPONSE) => Counter::RxReplayedHandshake,
        Some(&TYPE_COOKIE_REPLY) => Counter::RxBadCookie,
        _ => Counter::RxBadHandshake,
    }
}

/// What a new node says of a datagram: why it is refused, and the answer to it.
fn refusal(datagram: &[u8], under_load: bool) -> (Counter, Option<Vec<u8>>) {
    let mut random = Random::new(7);
    let random = Box::new(move |bytes: &mut [u8]| random.fill(bytes));
    let mut sessions = Sessions::new(StaticSecret::from(PRIVATE), Timers::WIREGUARD, random);
    sessions.set_under_load(under_load);
    let now = Now { at: Instant::from_nanos(5), unix: Duration::from_secs(1_700_000_000) };
    let source = Endpoint::Udp(([192, 0, 2, 1], 15_000).into());
    let Err(Refusal(counter)) = sessions.handle_handshake(now, source, datagram) else {
        panic!("a message of nobody is taken");
    };
    let mut reply = None;
    while let Some(output) = sessions.poll_output() {
        match output {
            Output::Transmit { to, datagram } if to == source && reply.is_none() => reply = Some(datagram),
            // Under load the data threads learn what its cookies are made with.
            Output::Cookies(_) if under_load => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(sessions.poll_timeout().is_none());
    assert!(reply.as_ref().is_none_or(|reply| reply.len() < datagram.len()), "an answer amplifies");
    (counter, reply)
}
