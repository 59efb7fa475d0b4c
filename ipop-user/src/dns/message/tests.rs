use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use proptest::prelude::*;

use super::*;

fn query(edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii("Alpha.demo.ipop.").unwrap(), RecordType::A));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn addresses(count: u8) -> Answer {
    let name = Name::from_ascii("Alpha.demo.ipop.").unwrap();
    let record = |last| Record::from_rdata(name.clone(), 30, RData::A(A(Ipv4Addr::new(10, 128, 0, last))));
    Answer {
        code: ResponseCode::NoError,
        answers: (1..=count).map(record).collect(),
        authorities: Vec::new(),
    }
}

fn code(bytes: &[u8]) -> ResponseCode {
    let message = Message::from_vec(bytes).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (0x1234, MessageType::Response));
    message.metadata.response_code
}

fn refusal(bytes: &[u8]) -> Option<ResponseCode> {
    Query::parse(bytes).expect_err("no query").0.map(|answer| code(&answer))
}

#[test]
fn an_answer_repeats_the_question_as_it_was_written() {
    let query = Query::parse(&query(None)).unwrap();
    assert_eq!((query.kind(), query.is_plain(), query.udp_max()), (RecordType::A, true, 512));
    let answer = Message::from_vec(&query.answer(addresses(2), true, 512)).unwrap();
    assert_eq!(answer.queries[0].name().to_ascii(), "Alpha.demo.ipop.");
    let is_set = &answer.metadata;
    assert!(
        is_set.authoritative && is_set.recursion_desired && is_set.recursion_available && !is_set.truncation
    );
    assert_eq!((answer.answers.len(), answer.edns), (2, None));
}

#[test]
fn an_answer_that_is_too_long_for_udp_says_so() {
    let parsed = Query::parse(&query(None)).unwrap();
    let bytes = parsed.answer(addresses(100), false, parsed.udp_max());
    assert!(bytes.len() <= 512);
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let by_tcp = Message::from_vec(&parsed.answer(addresses(100), false, 65_535)).unwrap();
    assert_eq!((by_tcp.answers.len(), by_tcp.metadata.truncation), (100, false));
    for (says, may_be) in [(100, 512), (1000, 1000), (4096, 1232)] {
        let parsed = Query::parse(&query(Some(says))).unwrap();
        assert_eq!(parsed.udp_max(), may_be);
        let answer = Message::from_vec(&parsed.answer(addresses(100), false, parsed.udp_max())).unwrap();
        assert!(answer.metadata.truncation && answer.edns.is_some_and(|edns| edns.max_payload() == 1232));
    }
}

#[test]
fn what_is_no_query_is_refused_by_its_kind() {
    let whole = query(None);
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    // Answers, ours among them, are never answered.
    assert_eq!(refusal(&with(2, 0x80)), None);
    assert_eq!(refusal(&whole[..11]), None);
    assert_eq!(refusal(&whole[..12]), Some(ResponseCode::FormErr));
    assert_eq!(refusal(&whole[..whole.len() - 1]), Some(ResponseCode::FormErr));
    // A name that points to itself.
    assert_eq!(refusal(&[&whole[..12], &[0xc0, 12, 0, 1, 0, 1]].concat()), Some(ResponseCode::FormErr));
    assert_eq!(refusal(&with(2, 0x28)), Some(ResponseCode::NotImp), "UPDATE");
    for (count, value) in [(5, 0), (5, 2), (4, 255), (7, 1), (9, 1), (10, 1), (11, 5)] {
        assert_eq!(refusal(&with(count, value)), Some(ResponseCode::FormErr), "byte {count} is {value}");
    }
    let mut later = query(Some(1232));
    let version = later.len() - 5;
    later[version] = 1;
    // The number that is BADVERS here is BADSIG elsewhere (RFC 6895, 2.3).
    assert_eq!(refusal(&later).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
}

#[test]
fn only_records_of_the_internet_are_given_and_no_zone() {
    let with = |at_from_end: usize, value: u8| {
        let mut bytes = query(None);
        let at = bytes.len() - at_from_end;
        bytes[at] = value;
        Query::parse(&bytes).unwrap().is_plain()
    };
    assert!(with(1, 1));
    assert!(!with(1, 3), "CHAOS");
    assert!(!with(3, 252), "AXFR");
    assert!(!with(3, 251), "IXFR");
}

#[test]
fn an_answer_from_elsewhere_is_to_the_question_that_was_asked() {
    let asked = query(Some(1232));
    let parsed = Query::parse(&asked).unwrap();
    let answer = parsed.answer(addresses(1), true, 1232);
    assert!(is_answer(&answer, &asked, 0x1234));
    assert!(!is_answer(&answer, &asked, 0x1235), "another identifier");
    assert!(!is_answer(&asked, &asked, 0x1234), "a query");
    let mut other = answer.clone();
    other[14] ^= 1;
    assert!(!is_answer(&other, &asked, 0x1234), "another name");
    for len in 0..answer.len().min(33) {
        assert!(!is_answer(&answer[..len], &asked, 0x1234), "cut off at {len}");
    }
}

proptest! {
    /// Bytes of any kind, and queries of which some are changed.
    #[test]
    fn hostile_bytes_are_a_query_or_refused(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        changes in prop::collection::vec((0..60usize, any::<u8>()), 0..6),
        cut in 0..60usize
    ) {
        let mut changed = query(Some(1232));
        for (at, value) in changes {
            if let Some(byte) = changed.get_mut(at) {
                *byte = value;
            }
        }
        let len = changed.len();
        for bytes in [&noise[..], &changed, &changed[..cut.min(len)]] {
            match Query::parse(bytes) {
                Ok(query) => {
                    let whole = query.answer(addresses(100), true, query.udp_max());
                    prop_assert!(whole.len() >= 12 && whole.len() <= query.udp_max());
                    let failure = query.failure(ResponseCode::Refused);
                    // No more than was sent, but for the OPT record.
                    prop_assert!(failure.len() <= bytes.len() + 11);
                    Message::from_vec(&failure).unwrap();
                }
                Err(Malformed(Some(answer))) => prop_assert!(answer.len() <= bytes.len() + 11),
                Err(Malformed(None)) => {}
            }
            let _ = is_answer(bytes, &query(None), 0x1234);
            let _ = is_answer(&query(None), bytes, 0x1234);
        }
    }
}
