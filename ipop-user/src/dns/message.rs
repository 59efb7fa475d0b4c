//! DNS messages: what of a datagram is a query that can be answered, and answers as bytes. The codec is a library's;
//! here is decided what it is given. Hostile bytes cost no more than one question of theirs.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use super::zone::Answer;

/// RFC 1035, 4.1.1.
const HEADER_LEN: usize = 12;
/// Records behind the question that are read: OPT, and little else has business there.
const ADDITIONALS_MAX: u16 = 4;
/// The largest answer by UDP: no fragments on any link (DNS flag day 2020; RFC 9715).
pub(super) const UDP_MAX: u16 = 1232;
/// RFC 1035, 4.2.1: without EDNS.
const UDP_MIN: u16 = 512;

/// A query with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    metadata: Metadata,
    question: Question,
    /// How large an answer by UDP may be, if it says.
    edns: Option<u16>,
}

/// What is no query that can be answered, and the answer to that, if one is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) Option<Vec<u8>>);

impl Query {
    /// Reads a message. Another's answer is answered by nothing: two servers would talk for ever.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Err(Malformed(None)) };
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if header[2] & 0x80 != 0 {
            return Err(Malformed(None));
        }
        let op_code = OpCode::from_u8(header[2] >> 3 & 15);
        let refused = |code| Malformed(bare(field(0), op_code, code));
        if op_code != OpCode::Query {
            return Err(refused(ResponseCode::NotImp));
        }
        // The codec would make room for as many as the header says.
        let counts = [4, 6, 8, 10].map(field);
        if counts[..3] != [1, 0, 0] || counts[3] > ADDITIONALS_MAX {
            return Err(refused(ResponseCode::FormErr));
        }
        // There is nothing before the question that a pointer in it could lead to.
        if question_len(&bytes[HEADER_LEN..]).is_none() {
            return Err(refused(ResponseCode::FormErr));
        }
        let mut message = Message::from_vec(bytes).map_err(|_| refused(ResponseCode::FormErr))?;
        let question = message.queries.pop().ok_or_else(|| refused(ResponseCode::FormErr))?;
        let edns = message.edns.as_ref();
        let query = Self { metadata: message.metadata, question, edns: edns.map(Edns::max_payload) };
        match edns.map(Edns::version) {
            None | Some(0) => Ok(query),
            // RFC 6891, 6.1.3.
            Some(_) => Err(Malformed(Some(query.failure(ResponseCode::BADVERS)))),
        }
    }

    pub(super) fn name(&self) -> &Name {
        &self.question.name
    }

    pub(super) fn kind(&self) -> RecordType {
        self.question.query_type
    }

    /// Whether it is of the internet's class, and asks for records: no copy of a zone is given.
    pub(super) fn is_plain(&self) -> bool {
        let is_transfer = matches!(self.kind(), RecordType::AXFR | RecordType::IXFR);
        self.question.query_class == DNSClass::IN && !is_transfer
    }

    /// How large an answer by UDP may be.
    pub(super) fn udp_max(&self) -> usize {
        self.edns.unwrap_or(UDP_MIN).clamp(UDP_MIN, UDP_MAX).into()
    }

    /// The answer as bytes, at most `max`: one that is longer says that it is to be asked for by TCP.
    pub(super) fn answer(&self, answer: Answer, can_forward: bool, max: usize) -> Vec<u8> {
        let mut message = self.reply(answer.code);
        message.metadata.authoritative = true;
        message.metadata.recursion_available = can_forward;
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= max => bytes,
            Ok(_) => message.truncate().to_vec().unwrap_or_default(),
            Err(_) => self.failure(ResponseCode::ServFail),
        }
    }

    /// An answer that says only why there is none.
    pub(super) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(code).to_vec().unwrap_or_default()
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.add_query(self.question.clone());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            message.set_edns(edns);
        }
        message
    }
}

/// Whether bytes are the answer of a server that was asked `query` under the identifier `id`.
pub(super) fn is_answer(bytes: &[u8], query: &[u8], id: u16) -> bool {
    let [Some(head), Some(asked)] = [bytes, query].map(|bytes| bytes.split_at_checked(HEADER_LEN)) else {
        return false;
    };
    let is_reply = head.0[..2] == id.to_be_bytes() && head.0[2] & 0x80 != 0 && head.0[4..6] == [0, 1];
    let question = question_len(asked.1);
    is_reply
        && question.is_some_and(|len| {
            head.1.get(..len).is_some_and(|echo| echo.eq_ignore_ascii_case(&asked.1[..len]))
        })
}

/// How long the first question is: a name without pointers, type and class.
fn question_len(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*body.get(at)?) {
            0 => break,
            len @ 1..64 => at += 1 + len,
            _ => return None,
        }
    }
    Some(at + 5).filter(|len| *len <= body.len())
}

fn bare(id: u16, op_code: OpCode, code: ResponseCode) -> Option<Vec<u8>> {
    let message = Message::error_msg(id, op_code, code);
    debug_assert_eq!(message.metadata.message_type, MessageType::Response);
    message.to_vec().ok()
}

#[cfg(test)]
mod tests;
