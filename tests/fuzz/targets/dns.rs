//! What comes to a node's DNS by UDP, from this host or from a member.
//!
//! Input: the datagram.

use std::net::IpAddr;

use ipop_user::dns::{Answerer, Hosts};

/// RFC 1035, 4.1.1.
const HEADER_LEN: usize = 12;
/// OPT, which an answer has where the query has one.
const OPT_LEN: usize = 11;
/// RFC 1035, 4.2.1; and with EDNS.
const UDP_MIN: usize = 512;
const UDP_MAX: usize = 1232;
const BETA: [u8; 4] = [10, 128, 0, 2];

pub(super) fn run(input: &[u8]) {
    let mut hosts = Hosts::new(1);
    hosts.insert("alpha", [IpAddr::from([10, 128, 0, 1])]);
    hosts.insert("beta", [IpAddr::from(BETA)]);
    hosts.insert("many", (1..=200).map(|last| IpAddr::from([10, 128, 1, last])));
    let network = "10.128.0.1/16".parse().expect("a prefix");
    let answerer = Answerer::new("demo", "alpha", &[network], hosts).expect("a zone");
    let is_answer = input.get(2).is_none_or(|flags| flags & 0x80 != 0);
    let (answer, is_query) = match answerer.answer(input) {
        Ok(answer) => (Some(answer), true),
        Err(answer) => (answer, false),
    };
    let Some(answer) = answer else {
        assert!(
            input.len() < HEADER_LEN || is_answer,
            "a message of others' gets an answer, if only that it is bad"
        );
        return;
    };
    assert!(!is_answer, "two servers would talk for ever");
    assert!(answer.len() >= HEADER_LEN && answer[2] & 0x80 != 0 && answer[..2] == input[..2]);
    let (code, count) = (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]]));
    let is_truncated = answer[2] & 2 != 0;
    if !is_query || code != 0 && code != 3 || is_truncated {
        assert!(count == 0 && answer.len() <= input.len() + OPT_LEN, "no more than was sent");
    }
    let has_opt = u16::from_be_bytes([input[10], input[11]]) > 0;
    assert!(answer.len() <= if has_opt { UDP_MAX } else { UDP_MIN });
    // What is said of a name is known of it.
    let asked = input[HEADER_LEN..].to_ascii_lowercase();
    if count > 0 && asked.starts_with(b"\x04beta\x04demo\x04ipop\x00\x00\x01") {
        assert!(count == 1 && answer.windows(4).any(|window| window == BETA));
    }
    if asked.starts_with(b"\x05gamma\x04demo\x04ipop\x00") {
        assert_eq!(count, 0, "nobody has this name");
    }
}
