//! Sealed frames on their way in, some of them hostile: opened by the kernel path as it can, else by the
//! user path, which share the sessions' places. Some of them come in relay frames.
//!
//! Input: events. Each begins with a byte: its low two bits say what happens (see [`Run::event`]),
//! the next two, and bit 5 above them, which session it is about (see [`node::sessions`]).

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipop_common::ingress::{self, FrameMeta, Verdict};
use ipop_common::maps::LinkStats;
use ipop_common::relay;
use ipop_common::sealed::{Memory, Opening, admit, opened};
use ipop_common::session::{REJECT_AFTER_MESSAGES, WINDOW};
use ipop_common::tables::Tables;
use ipop_common::wireguard::{TAG_LEN, TRANSPORT_HEADER_LEN, TYPE_TRANSPORT, TransportHeader};
use ipop_common::{Address, Counter};
use ipop_overlay::Endpoint;
use ipop_tests::packet;
use ipop_tests::sealed::SealedFrame;
use ipop_tests::world::Peer;

use self::node::{LABEL, Places, is_relayed, place_of, sessions, table};
use super::tables::{NOW_NS, OVER_V6, OWN_V4, OWN_V6, peers};
use super::tape::Tape;

/// Events per input, so that one takes milliseconds at most.
const EVENTS_MAX: usize = 200;
/// Frames that are remembered, to come again.
const FRAMES_MAX: usize = 32;
/// The sessions' keys last this long.
const LIFE_NS: u64 = 1_000_000;

/// A sender that leaves out as many counters may count as one that repeats old ones.
const JUMP_MAX: u64 = 1 << 36;

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The packet, by the kernel path or not.
    Delivered {
        by_kernel: bool,
        by_relay: bool,
        packet: Vec<u8>,
    },
    Keepalive,
    /// A control message.
    Message(Vec<u8>),
    Refused(Counter),
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Delivered { by_kernel: true, by_relay: false, .. } => "delivered by the kernel path",
            Self::Delivered { by_kernel: false, by_relay: false, .. } => "delivered by the user path",
            Self::Delivered { by_kernel: true, .. } => "delivered by a relay and the kernel path",
            Self::Delivered { by_kernel: false, .. } => "delivered by a relay and the user path",
            Self::Keepalive => "keepalive",
            Self::Message(_) => "message",
            Self::Refused(counter) => counter.name(),
        }
    }
}

pub(super) fn run(input: &[u8]) {
    reached(input);
}

/// Runs an input; the names of what has become of its frames.
pub(crate) fn reached(input: &[u8]) -> BTreeSet<&'static str> {
    let mut tape = Tape::new(input);
    let mut run = Run::new();
    for _ in 0..EVENTS_MAX {
        if tape.is_over() {
            break;
        }
        run.event(&mut tape);
    }
    run.reached
}

/// What the peer has sealed.
struct Packet {
    text: Vec<u8>,
    /// The message behind its header.
    sealed: Vec<u8>,
}

/// What is known of one session from the outside.
#[derive(Default)]
struct Known {
    /// The counter of the peer's next packet.
    next: u64,
    /// By counter. A peer that seals two texts with one breaks its own cipher, and no rule here.
    sealed: BTreeMap<u64, Vec<Packet>>,
    accepted: BTreeSet<u64>,
    is_over: bool,
}

struct Run {
    now_ns: u64,
    places: Places,
    memory: Box<Memory>,
    known: Vec<Known>,
    /// Frames as they came, and of which session they were.
    frames: Vec<(usize, SealedFrame)>,
    reached: BTreeSet<&'static str>,
}

impl Run {
    fn new() -> Self {
        Self {
            now_ns: NOW_NS,
            places: Places::new(),
            memory: Box::new(Memory::EMPTY),
            known: sessions().iter().map(|_| Known::default()).collect(),
            frames: Vec::new(),
            reached: BTreeSet::new(),
        }
    }

    fn event(&mut self, tape: &mut Tape<'_>) {
        let event = tape.u8();
        let index = usize::from(event >> 2 & 3 | event >> 3 & 4) % sessions().len();
        match event & 3 {
            0 => self.sealed(index, tape),
            1 => self.again(tape),
            2 => {
                let len = usize::from(tape.u8());
                let (session, peer) = &sessions()[index];
                let frame = SealedFrame {
                    message: tape.bytes(len).to_vec(),
                    has_checksum: event & 16 != 0,
                    source_port: place_of(index).port(),
                    ..session.frame(peer, 0, &[])
                };
                self.arrive(&frame);
            }
            _ if event & 16 != 0 => {
                self.places.of(sessions()[index].0.local).expect("a place").vacate();
                self.known[index].is_over = true;
            }
            _ => self.now_ns += u64::from(tape.u16()) * 16,
        }
    }

    /// The peer seals a text and sends it. Choices: bits 0 and 1, how far the counter jumps; bit 2, it has
    /// a UDP checksum; bit 3, it comes from elsewhere; bit 4, it is changed on its way; bit 5, the counter
    /// is that of the packet before; bit 6, it has another label; bit 7, it comes by a relay where the
    /// session's packets do not, and the other way round.
    fn sealed(&mut self, index: usize, tape: &mut Tape<'_>) {
        let choices = tape.u8();
        let (session, peer) = &sessions()[index];
        let known = &mut self.known[index];
        let ahead = match choices & 3 {
            0 => 0,
            1 => 1,
            2 => WINDOW - 1,
            _ => REJECT_AFTER_MESSAGES - 2,
        };
        let jumped = known.next.saturating_add(ahead);
        let counter = if choices & 32 == 0 { jumped } else { known.next.saturating_sub(1) };
        known.next = known.next.max(counter.saturating_add(1));
        let text = text(peer, tape);
        let mut frame = session.frame(peer, counter, &text);
        let sealed = frame.message[TRANSPORT_HEADER_LEN..].to_vec();
        known.sealed.entry(counter).or_default().push(Packet { text, sealed });
        frame.has_checksum = choices & 4 != 0;
        frame.source_port = place_of(index).port();
        if is_relayed(index) != (choices & 128 != 0) {
            let label = if choices & 64 == 0 { LABEL } else { LABEL + 1 };
            frame.message.splice(..0, relay::header(label));
        }
        if choices & 8 != 0 {
            frame.source = elsewhere(frame.source);
        }
        if choices & 16 != 0 {
            change(&mut frame.message, tape);
        }
        self.arrive(&frame);
        if self.frames.len() < FRAMES_MAX {
            self.frames.push((index, frame));
        }
    }

    /// A frame that was sent before comes again, as it was or changed, by the other path or the same.
    fn again(&mut self, tape: &mut Tape<'_>) {
        let (which, choices) = (usize::from(tape.u8()), tape.u8());
        if self.frames.is_empty() {
            return;
        }
        let (index, mut frame) = self.frames[which % self.frames.len()].clone();
        frame.has_checksum ^= choices & 1 != 0;
        if choices & 2 != 0 {
            change(&mut frame.message, tape);
        }
        let message = usize::from(in_relay_frame(&frame.message)) * relay::HEADER_LEN;
        if choices & 4 != 0 && frame.message.len() >= message + TRANSPORT_HEADER_LEN {
            let other = sessions()[(index + 1) % sessions().len()].0.local;
            frame.message[message + 4..message + 8].copy_from_slice(&other.to_le_bytes());
        }
        self.arrive(&frame);
    }

    /// One frame, decided by us and by what is known.
    fn arrive(&mut self, frame: &SealedFrame) {
        let bytes = frame.to_bytes();
        let meta = FrameMeta { len: bytes.len() as u32, gso: false };
        let verdict = ingress::frame(&bytes[..], meta, &self.places, self.now_ns);
        let (way, message) = Way::of(frame);
        if way != Way::Damaged && message.first() != Some(&TYPE_TRANSPORT) {
            // Another target's.
            assert!(!matches!(verdict, Verdict::Open(_)), "{verdict:?} of another message");
            return;
        }
        let (by_kernel, outcome) = match verdict {
            Verdict::Open(opening) => (true, self.by_kernel(&bytes, &opening)),
            Verdict::LeaveToUser | Verdict::NotOurs => (false, self.by_user(frame)),
            // A relay frame that ends in its message's header; TC makes sure that there is no more of it.
            Verdict::Refuse(Counter::RxTruncated) => (false, self.by_user(frame)),
            other => panic!("{other:?} of a frame to the daemon's port"),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Refused);
        assert!(!by_kernel || !frame.has_checksum, "the kernel path has no checksum");
        match way {
            Way::Damaged => assert_eq!(outcome, Outcome::Refused(Counter::RxBadRelayFrame)),
            Way::ByStranger => assert_eq!(outcome, Outcome::Refused(Counter::RxUnknownLabel)),
            Way::Direct | Way::ByRelay { .. } => {
                if by_kernel {
                    is_the_links_way(frame, way, message);
                }
                self.is_right(message, by_kernel, way != Way::Direct, &outcome);
            }
        }
        self.reached.insert(outcome.name());
    }

    /// As `ipop-ebpf/src/sealed.rs` does it.
    fn by_kernel(&mut self, frame: &[u8], opening: &Opening) -> Result<Outcome, Counter> {
        let session = self.places.of(opening.session).expect("a place");
        let key = session.key_to_open(opening.session, opening.counter, self.now_ns)?;
        let text_len = usize::from(opening.text_len);
        let start = 14 + opening.overhead();
        let sealed = &frame[start..start + text_len + TAG_LEN];
        assert!(self.memory.set_text_len(text_len as u64));
        self.memory.room()[..sealed.len()].copy_from_slice(sealed);
        self.memory.open(&key, opening.counter).map_err(|_| Counter::RxBadTag)?;
        let opened = opened(&self.places, &mut self.memory, opening, self.now_ns)?;
        session.accept(opening.counter)?;
        let packet = self.memory.room()[..usize::from(opened.len)].to_vec();
        Ok(Outcome::Delivered { by_kernel: true, by_relay: opening.relayed, packet })
    }

    /// As `ipop-user/src/userpath/inbound.rs` does it.
    fn by_user(&self, frame: &SealedFrame) -> Result<Outcome, Counter> {
        let by_relay = in_relay_frame(&frame.message);
        let mut message = &frame.message[..];
        if by_relay {
            let from = Endpoint::Udp((frame.source, frame.source_port).into());
            let label = relay::label(message, 0).ok_or(Counter::RxBadRelayFrame)?;
            assert_eq!(table().next_hop(label, from), None, "it relays for nobody");
            table().node_at(from).ok_or(Counter::RxUnknownLabel)?;
            message = &message[relay::HEADER_LEN..];
        }
        let header = TransportHeader::parse(message).ok_or(Counter::RxTruncated)?;
        let (slot, session) = table().user_session(header.receiver).ok_or(Counter::RxUnknownIndex)?;
        let place = self.places.of(header.receiver).expect("a place");
        let mut text = message[TRANSPORT_HEADER_LEN..].to_vec();
        session.open(place, header.counter, &mut text, self.now_ns)?;
        text.truncate(text.len() - TAG_LEN);
        match text.first() {
            None => return Ok(Outcome::Keepalive),
            Some(first) if first >> 4 == 0 => return Ok(Outcome::Message(text)),
            Some(_) => {}
        }
        let inner = admit(table(), &text[..], text.len() as u32, slot, NOW_NS)?;
        text.truncate(usize::from(inner.total_len));
        Ok(Outcome::Delivered { by_kernel: false, by_relay, packet: text })
    }

    /// Holds an outcome against what the peer has sealed and what has come of it before.
    fn is_right(&mut self, message: &[u8], by_kernel: bool, by_relay: bool, outcome: &Outcome) {
        let Some(header) = TransportHeader::parse(message) else {
            assert_eq!(*outcome, Outcome::Refused(Counter::RxTruncated));
            return;
        };
        let of = sessions().iter().position(|(session, _)| session.local == header.receiver);
        let Some(index) = of.filter(|index| !self.known[*index].is_over) else {
            assert_eq!(*outcome, Outcome::Refused(Counter::RxUnknownIndex));
            return;
        };
        if self.now_ns >= NOW_NS + LIFE_NS || header.counter >= REJECT_AFTER_MESSAGES {
            assert_eq!(*outcome, Outcome::Refused(Counter::RxKeyExpired));
            return;
        }
        let known = &mut self.known[index];
        let mut with_counter = known.sealed.get(&header.counter).into_iter().flatten();
        let Some(packet) = with_counter.find(|packet| packet.sealed == message[TRANSPORT_HEADER_LEN..])
        else {
            assert_eq!(*outcome, Outcome::Refused(Counter::RxBadTag), "sealed by nobody");
            return;
        };
        let meaning = meaning(&packet.text, &sessions()[index].1, by_kernel, by_relay);
        // The kernel path takes note of a packet only if it delivers it; see `ipop-ebpf`.
        if by_kernel && matches!(meaning, Outcome::Refused(_)) {
            assert_eq!(*outcome, meaning);
            return;
        }
        let newest = known.accepted.last().copied().unwrap_or(0);
        match outcome {
            Outcome::Refused(Counter::RxTooOld) => {
                // The window moves by words of 32, and is as good as its numbers: see `session`.
                let is_too_old = header.counter.saturating_add(WINDOW - 32) <= newest;
                assert!(is_too_old || header.counter - newest >= JUMP_MAX, "within the window");
            }
            Outcome::Refused(Counter::RxReplay) => assert!(known.accepted.contains(&header.counter)),
            outcome => {
                assert_eq!(*outcome, meaning);
                assert!(known.accepted.insert(header.counter), "taken twice");
            }
        }
    }
}

/// By which way a message has come, as the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    ByRelay {
        label: u32,
    },
    /// A relay frame from where no relay of this node's is.
    ByStranger,
    /// What begins like a relay frame and is none.
    Damaged,
}

impl Way {
    fn of(frame: &SealedFrame) -> (Self, &[u8]) {
        let is_known = sessions().iter().enumerate().any(|(index, _)| {
            is_relayed(index) && place_of(index) == (frame.source, frame.source_port).into()
        });
        match frame.message.split_first_chunk() {
            _ if !in_relay_frame(&frame.message) => (Self::Direct, &frame.message),
            Some(([5, 0, 0, 0, a, b, c, d], message)) if is_known => {
                (Self::ByRelay { label: u32::from_be_bytes([*a, *b, *c, *d]) }, message)
            }
            Some(([5, 0, 0, 0, ..], message)) => (Self::ByStranger, message),
            _ => (Self::Damaged, &[]),
        }
    }
}

fn in_relay_frame(message: &[u8]) -> bool {
    message.first() == Some(&relay::TYPE)
}

/// What the kernel path opens has come as the packets of the session's link do, and no other way.
fn is_the_links_way(frame: &SealedFrame, way: Way, message: &[u8]) {
    let receiver = TransportHeader::parse(message).expect("a whole header").receiver;
    let index = sessions().iter().position(|(session, _)| session.local == receiver).expect("a session");
    let expected = if is_relayed(index) { Way::ByRelay { label: LABEL } } else { Way::Direct };
    assert_eq!(way, expected, "another way than the link's");
    assert_eq!(place_of(index), (frame.source, frame.source_port).into(), "from elsewhere");
}

/// What a text of a peer is, as the format says.
fn meaning(text: &[u8], peer: &Peer, by_kernel: bool, by_relay: bool) -> Outcome {
    let refused = Outcome::Refused;
    let is_message = text.first().is_some_and(|first| first >> 4 == 0);
    if text.is_empty() || is_message && !by_kernel {
        return if is_message { Outcome::Message(text.to_vec()) } else { Outcome::Keepalive };
    }
    let (header_len, len, source) = match text[0] >> 4 {
        4 if text.len() >= 20 && text[0] & 0xf >= 5 => {
            let len = u16::from_be_bytes([text[2], text[3]]);
            let source: [u8; 4] = *text[12..].first_chunk().expect("four octets");
            (u16::from(text[0] & 0xf) * 4, len, IpAddr::from(source))
        }
        6 if text.len() >= 40 => {
            let Some(len) = u16::from_be_bytes([text[4], text[5]]).checked_add(40) else {
                return refused(Counter::RxBadInner);
            };
            let source: [u8; 16] = *text[8..].first_chunk().expect("sixteen octets");
            (40, len, IpAddr::from(source))
        }
        _ => return refused(Counter::RxBadInner),
    };
    if len < header_len {
        return refused(Counter::RxBadInner);
    }
    if usize::from(len) > text.len() {
        return refused(Counter::RxBadLength);
    }
    let owner = table().by_address(&Address::from(source));
    if owner.map(|owner| LinkStats::index(owner.slot)) != Some(LinkStats::index(peer.slot)) {
        return refused(Counter::RxWrongInnerSource);
    }
    Outcome::Delivered { by_kernel, by_relay, packet: text[..usize::from(len)].to_vec() }
}

/// A text for a peer to seal. Choices: low three bits, what it is; the others, how long it is.
fn text(peer: &Peer, tape: &mut Tape<'_>) -> Vec<u8> {
    let choices = tape.u8();
    let own = |v6: bool| -> IpAddr { if v6 { OWN_V6 } else { OWN_V4 }.parse().expect("an address") };
    let packet = |from: &Peer, v6: bool| {
        let payload = vec![choices; usize::from(choices >> 3) * 8];
        let packet = packet::udp(from.inner(own(v6)), own(v6), (5000, 6000), &payload);
        ipop_tests::sealed::padded(&packet)
    };
    match choices & 7 {
        0 => packet(peer, false),
        1 => packet(peer, true),
        2 => packet(&peers()[OVER_V6], false),
        3 => Vec::new(),
        4 => [&[1, 0, 0, 0][..], tape.bytes(60)].concat(),
        5 => tape.bytes(usize::from(choices >> 3) * 4).to_vec(),
        // Longer than programs take.
        6 => packet(peer, false).into_iter().chain([0; 1600]).collect(),
        _ => {
            let mut packet = packet(peer, false);
            change(&mut packet, tape);
            packet
        }
    }
}

/// Another address of the same family.
fn elsewhere(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { "198.51.100.1" } else { "2001:db8::ffff" }.parse().expect("an address")
}

/// Cuts the bytes off, or flips one of their bits.
fn change(bytes: &mut Vec<u8>, tape: &mut Tape<'_>) {
    let at = usize::from(tape.u16());
    if at & 0x8000 != 0 {
        bytes.truncate(at & 0x7fff);
    } else if !bytes.is_empty() {
        let bit = at % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}
