//! STUN (RFC 8489) as far as this node needs it: the question where a server sees it, and what may be an answer.
//! The encoding is that of a library. Questions go out from the socket of the links, because what is asked is how
//! that one is translated; so answers come among the links' datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipop_common::Counter;
use ipop_overlay::Instant;
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{
    BINDING, Message, MessageClass, MessageHeader, MessageType, MessageWrite, MessageWriteVec, TransactionId,
};
use tokio::sync::mpsc;

/// At bytes 4 to 7 of each message.
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// The first two bytes of a binding request, of its answer, and of an error.
const REQUEST: [u8; 2] = [0x00, 0x01];
const ANSWERS: [[u8; 2]; 2] = [[0x01, 0x01], [0x01, 0x11]];
/// What is longer has attributes that nobody asked for.
const LEN_MAX: usize = 548;
/// Answers that wait for the control task; there are as many questions at most.
const QUEUE: usize = 8;

/// RTO, Rc and Rm of RFC 8489, 6.2.1: a question is sent so often, at first so far apart and then twice as far each
/// time, and after the last one so many times the first wait is waited.
pub const RTO: Duration = Duration::from_millis(500);
pub const SENDS: u8 = 7;
pub const LAST_WAIT: u32 = 16;

/// Whether a datagram looks like one of STUN that may be for this node. No message of WireGuard begins like that:
/// its second byte is 0.
pub fn is_stun(bytes: &[u8]) -> bool {
    let begins = |with: &[u8; 2]| bytes.starts_with(with);
    (begins(&REQUEST) || ANSWERS.iter().any(begins)) && bytes.get(4..8) == Some(&MAGIC_COOKIE[..])
}

/// A datagram of STUN, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub from: SocketAddr,
    pub bytes: Box<[u8]>,
}

/// The data threads' end: what they hand on.
#[derive(Clone, Debug)]
pub struct Ear {
    /// Who has been asked something.
    asked: Arc<ArcSwap<Vec<IpAddr>>>,
    answers: mpsc::Sender<Heard>,
}

impl Ear {
    /// And where what it hands on is taken in.
    pub fn new() -> (Self, mpsc::Receiver<Heard>) {
        let (answers, heard) = mpsc::channel(QUEUE);
        (Self { asked: Arc::default(), answers }, heard)
    }

    /// From whom something is handed on from now on.
    pub fn expect(&self, from: Vec<IpAddr>) {
        if **self.asked.load() != from {
            self.asked.store(Arc::new(from));
        }
    }

    /// Hands on what comes from one who was asked. Whatever else comes costs a look at the list.
    pub fn hear(&self, from: SocketAddr, bytes: &[u8]) -> Result<(), Counter> {
        if bytes.len() > LEN_MAX || !self.asked.load().contains(&from.ip()) {
            return Err(Counter::RxBadStun);
        }
        let heard = Heard { from, bytes: bytes.into() };
        self.answers.try_send(heard).map_err(|_| Counter::RxBadStun)
    }
}

/// The question itself, 20 bytes.
pub fn binding_request(id: TransactionId) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
    Message::builder(kind, id, MessageWriteVec::with_capacity(MessageHeader::LENGTH)).finish()
}

/// One question to one place, repeated until it is answered or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    to: SocketAddr,
    id: TransactionId,
    sent: u8,
    sends: u8,
    next_at: Instant,
}

/// What a question wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Send(SocketAddr, Vec<u8>),
    /// Nothing yet.
    Wait,
    GiveUp,
}

/// What came of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The server sees this node there.
    Seen(SocketAddr),
    /// The question itself has come back to its sender.
    Echo,
    /// The server says that it does not answer.
    Declined,
}

impl Question {
    /// `random` is what nobody can guess; of it, 96 bits are used.
    pub fn new(to: SocketAddr, random: u128, sends: u8, now: Instant) -> Self {
        Self { to, id: random.into(), sent: 0, sends, next_at: now }
    }

    pub fn to(&self) -> SocketAddr {
        self.to
    }

    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    pub fn poll(&mut self, now: Instant) -> Wish {
        if self.next_at > now {
            return Wish::Wait;
        }
        if self.sent >= self.sends {
            return Wish::GiveUp;
        }
        self.sent += 1;
        let factor = if self.sent == self.sends { LAST_WAIT } else { 1 << (self.sent - 1) };
        self.next_at = now.after(RTO * factor);
        Wish::Send(self.to, self.to_bytes())
    }

    fn to_bytes(self) -> Vec<u8> {
        binding_request(self.id)
    }

    /// Whether a datagram is of this question: with its number, from where it went. `None` if not.
    pub fn hear(&self, from: SocketAddr, bytes: &[u8]) -> Option<Result<Reply, Counter>> {
        let header = MessageHeader::from_bytes(bytes).ok()?;
        if header.transaction_id() != self.id || self.sent == 0 {
            return None;
        }
        if header.get_type().has_class(MessageClass::Request) {
            // A box that turns it around may do so from another port.
            let is_same = from.ip() == self.to.ip() && bytes == self.to_bytes();
            return is_same.then_some(Ok(Reply::Echo));
        }
        (from == self.to).then(|| read(bytes).ok_or(Counter::RxBadStun))
    }
}

/// What an answer says. Only one to a question of this node's is read that far.
fn read(bytes: &[u8]) -> Option<Reply> {
    let message = Message::from_bytes(bytes).ok()?;
    if !message.has_class(MessageClass::Success) {
        return Some(Reply::Declined);
    }
    let seen = message.attribute::<XorMappedAddress>().ok()?.addr(message.transaction_id());
    let ip = seen.ip();
    let is_possible = seen.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !ip.is_loopback()
        && ip != IpAddr::from([255; 4])
        && !matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    is_possible.then_some(Reply::Seen(seen))
}

#[cfg(test)]
mod tests {
    use ipop_common::wireguard;
    use proptest::prelude::*;
    use stun_types::message::MessageWriteExt as _;

    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn asked() -> Question {
        let mut question = Question::new(place("192.0.2.9:3478"), 7, SENDS, at(0));
        assert!(matches!(question.poll(at(0)), Wish::Send(..)));
        question
    }

    fn answer(id: u128, seen: &str) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Success, BINDING);
        let mut message = Message::builder(kind, id.into(), MessageWriteVec::new());
        let seen = XorMappedAddress::new(place(seen), id.into());
        message.add_attribute(&seen).expect("an attribute");
        message.finish()
    }

    #[test]
    fn a_question_is_the_documented_20_bytes() {
        let mut question = Question::new(place("192.0.2.9:3478"), u128::MAX, 1, at(0));
        let Wish::Send(to, bytes) = question.poll(at(0)) else { panic!("nothing to send") };
        assert_eq!(to, place("192.0.2.9:3478"));
        assert_eq!(bytes, [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[0xFF; 12]].concat());
        assert!(is_stun(&bytes));
    }

    #[test]
    fn an_unanswered_question_is_repeated_as_the_rfc_says_and_given_up() {
        let mut question = Question::new(place("192.0.2.9:3478"), 7, SENDS, at(0));
        let (mut sent, mut given_up) = (Vec::new(), None);
        for millis in (0..60_000).step_by(500) {
            match question.poll(at(millis)) {
                Wish::Send(..) => sent.push(millis),
                Wish::GiveUp => given_up = given_up.or(Some(millis)),
                Wish::Wait => {}
            }
        }
        assert_eq!(sent, [0, 500, 1500, 3500, 7500, 15_500, 31_500]);
        assert_eq!(given_up, Some(39_500));
    }

    #[test]
    fn only_the_answer_to_the_question_from_who_was_asked_counts() {
        let question = asked();
        let server = place("192.0.2.9:3478");
        let seen = answer(7, "198.51.100.7:15000");
        assert_eq!(question.hear(server, &seen), Some(Ok(Reply::Seen(place("198.51.100.7:15000")))));
        let six = answer(7, "[2001:db8::7]:15000");
        assert_eq!(question.hear(server, &six), Some(Ok(Reply::Seen(place("[2001:db8::7]:15000")))));
        // Another number, port, address, or before anything was asked.
        assert_eq!(question.hear(server, &answer(8, "198.51.100.7:15000")), None);
        assert_eq!(question.hear(place("192.0.2.9:3479"), &seen), None);
        assert_eq!(question.hear(place("192.0.2.8:3478"), &seen), None);
        assert_eq!(Question::new(server, 7, SENDS, at(0)).hear(server, &seen), None);
    }

    #[test]
    fn what_cannot_be_seen_is_no_answer() {
        let (question, server) = (asked(), place("192.0.2.9:3478"));
        for lie in [
            "0.0.0.0:5",
            "127.0.0.1:5",
            "224.0.0.1:5",
            "255.255.255.255:5",
            "198.51.100.7:0",
            "[::]:5",
            "[::1]:5",
            "[ff02::1]:5",
            "[::ffff:198.51.100.7]:5",
        ] {
            assert_eq!(question.hear(server, &answer(7, lie)), Some(Err(Counter::RxBadStun)), "{lie}");
        }
        // Without an address, or cut off.
        let kind = MessageType::from_class_method(MessageClass::Success, BINDING);
        let empty = Message::builder(kind, 7.into(), MessageWriteVec::new()).finish();
        assert_eq!(question.hear(server, &empty), Some(Err(Counter::RxBadStun)));
        let seen = answer(7, "198.51.100.7:15000");
        for len in 20..seen.len() {
            assert_eq!(question.hear(server, &seen[..len]), Some(Err(Counter::RxBadStun)), "{len}");
        }
        let error = MessageType::from_class_method(MessageClass::Error, BINDING);
        let error = Message::builder(error, 7.into(), MessageWriteVec::new()).finish();
        assert_eq!(question.hear(server, &error), Some(Ok(Reply::Declined)));
    }

    #[test]
    fn a_question_that_comes_back_is_an_echo() {
        let mut question = Question::new(place("198.51.100.7:15000"), 9, SENDS, at(0));
        let Wish::Send(to, bytes) = question.poll(at(0)) else { panic!("nothing to send") };
        assert_eq!(question.hear(to, &bytes), Some(Ok(Reply::Echo)));
        assert_eq!(question.hear(place("198.51.100.7:33333"), &bytes), Some(Ok(Reply::Echo)));
        assert_eq!(question.hear(place("198.51.100.8:15000"), &bytes), None);
    }

    #[test]
    fn no_message_of_wireguard_is_taken_for_one_of_stun() {
        for kind in 1..=5u8 {
            let mut message = [0; 148];
            message[0] = kind;
            // A sender may choose this index.
            message[4..8].copy_from_slice(&MAGIC_COOKIE);
            assert!(!is_stun(&message), "{kind}");
        }
        assert_eq!(wireguard::TYPE_INITIATION, ANSWERS[0][0], "told apart by the second byte");
    }

    #[test]
    fn the_ear_hands_on_what_comes_from_who_was_asked_and_no_more_than_it_can() {
        let (ear, mut heard) = Ear::new();
        let (server, seen) = (place("192.0.2.9:3478"), answer(7, "198.51.100.7:15000"));
        assert_eq!(ear.hear(server, &seen), Err(Counter::RxBadStun));
        ear.expect(vec![server.ip()]);
        assert_eq!(ear.hear(place("192.0.2.8:3478"), &seen), Err(Counter::RxBadStun));
        assert_eq!(ear.hear(server, &[&seen[..], &[0; LEN_MAX]].concat()), Err(Counter::RxBadStun));
        let taken = (0..2 * QUEUE).filter(|_| ear.hear(server, &seen).is_ok()).count();
        assert_eq!(taken, QUEUE);
        assert_eq!(heard.try_recv(), Ok(Heard { from: server, bytes: seen.into() }));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), len in any::<u16>()) {
            let question = asked();
            let _ = question.hear(place("192.0.2.9:3478"), &bytes);
            // And with a header that gets further.
            let mut message = answer(7, "198.51.100.7:15000");
            message.truncate(20);
            message.extend(&bytes);
            message[2..4].copy_from_slice(&len.to_be_bytes());
            let _ = question.hear(place("192.0.2.9:3478"), &message);
            let whole = (message.len() - 20) as u16;
            message[2..4].copy_from_slice(&whole.to_be_bytes());
            let _ = question.hear(place("192.0.2.9:3478"), &message);
        }
    }
}
