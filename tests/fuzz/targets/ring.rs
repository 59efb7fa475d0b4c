//! A node of the ring among members that say whatever they like in their sessions, while time passes and
//! connections come and go.
//!
//! Input: events. Each begins with a byte: its low three bits say what happens (see [`Run::event`]), the
//! other five which of the members it is about.
//!
//! Demanded of the node: its tables stay within their limits; what it says and asks for after an event has
//! an end; what it sends because of what others sent is no more than that and the credit that each
//! connection has; what it sends by itself has a bound; and it is done with what is due when it has been
//! told the time.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipop_common::wireguard::TYPE_TRANSPORT;
use ipop_overlay::dht::{self, Key, Kind, SigningKey};
use ipop_overlay::ring::{BROADCAST_MAX, Count, FRAME_MAX, Group, Output, Ring};
use ipop_overlay::{Endpoint, Instant, NodeAddress};

use super::tape::Tape;

/// The last of the nodes whose keys are known; the first 32 may be connected.
const MEMBERS: u8 = 191;
/// Events per input, so that one takes milliseconds at most.
const EVENTS_MAX: usize = 400;
/// What one event may make the node say and ask for: more than all requests and connections under way.
const OUTPUTS_MAX: usize = 400;
/// What a member may have sent beyond what it sends itself, once for each connection, in bytes.
const CREDIT: usize = 16 * 1024;
/// What the node sends by itself: after one event, and in a second. Requests are the larger part, each of
/// up to 350 bytes.
const OWN_PER_EVENT: usize = 4096;
const OWN_PER_SECOND: usize = 64 * 1024;
/// A node that was told the time may find something else to do at the same time, but not for ever.
const ROUNDS_MAX: usize = 4;
/// The longest message: a datagram for a group.
const MESSAGE_MAX: usize = DATAGRAM_LEN + FRAME_MAX;
/// Length of a datagram's header.
const DATAGRAM_LEN: usize = 128;

/// A question for connections, and how many an answer has.
const SURVEY_LEN: usize = 732;
const SURVEY_PAGE: usize = 32;

pub(super) fn run(input: &[u8]) {
    reached(input);
}

/// Runs an input; what the node has counted on the way.
pub(crate) fn reached(input: &[u8]) -> BTreeSet<&'static str> {
    let mut tape = Tape::new(input);
    let mut run = Run::new();
    for _ in 0..EVENTS_MAX {
        if tape.is_over() {
            break;
        }
        run.event(&mut tape);
    }
    let counts = run.ring.counts();
    Count::ALL.iter().filter(|count| counts.get(**count) > 0).map(|count| count.name()).collect()
}

fn key(member: u8) -> [u8; 32] {
    if member == OWN { signer(OWN).public_key() } else { [member; 32] }
}

/// What signs records: of the node itself, and of owners that may be anybody.
fn signer(number: u8) -> SigningKey {
    SigningKey::new(&[number; 32].into())
}

/// UNIX time in seconds when a run starts.
const WALL: u64 = 1_800_000_000;
/// Names of records.
const NAMES: u8 = 4;

fn name(number: u8) -> [u8; 2] {
    [b'n', number % NAMES]
}

/// An address of the virtual network.
fn virtual_address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 128, 0, last).into()
}

fn address(member: u8) -> NodeAddress {
    NodeAddress::of_key(&key(member))
}

/// The node under test.
const OWN: u8 = 0xff;

/// What is owed to a member, in bytes.
#[derive(Clone, Copy, Default)]
struct Account {
    /// What it has sent, and a credit for each of its connections.
    granted: usize,
    /// What the node has sent because of that.
    answered: usize,
}

struct Run {
    ring: Ring,
    now: Instant,
    started: Instant,
    events: usize,
    accounts: [Account; 32],
    /// Bytes that the node has sent by itself.
    own: usize,
    /// The last request that the node has sent: its mode and its token.
    request: Option<[u8; 8]>,
    /// The last question about records or copy of one: what it is, of which place, and its token.
    asked: Option<([u8; 2], Vec<u8>)>,
    /// Labels by which it relays.
    relayed: BTreeSet<u32>,
    /// The last message that it has heard.
    heard: Vec<u8>,
}

impl Run {
    fn new() -> Self {
        let now = Instant::from_nanos(5_000_000_000);
        let mut state = 1u64;
        let random = move |bytes: &mut [u8]| {
            for byte in bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
        };
        let mut ring = Ring::new(key(OWN), Box::new(random), now);
        ring.set_endpoints(vec![place(1), place(2)]);
        ring.set_signing_key(Arc::new(signer(OWN)));
        let mut run = Self {
            ring,
            now,
            started: now,
            events: 0,
            accounts: [Account::default(); 32],
            own: 0,
            request: None,
            asked: None,
            relayed: BTreeSet::new(),
            heard: Vec::new(),
        };
        // Two that are on the ring.
        for member in [1, 2] {
            run.connect(member);
            run.hear(member, &[2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        run
    }

    fn event(&mut self, tape: &mut Tape<'_>) {
        self.events += 1;
        let event = tape.u8();
        let member = event >> 3;
        match event & 7 {
            0 => self.pass(Duration::from_millis(u64::from(tape.u16()) * u64::from(1 + (event >> 3)))),
            1 => {
                let len = usize::from(tape.u8());
                self.hear(member, tape.bytes(len));
            }
            2 => {
                let [flags, roles] = tape.array();
                let beat = [&[2, flags & 3, roles & 63, 0][..], &tape.array::<12>()].concat();
                self.hear(member, &beat);
            }
            3 => self.neighbours(member, tape),
            4 => self.routed(member, tape),
            5 => self.answer(member, tape),
            6 => match tape.u8() {
                0 => self.connect(member),
                1 => self.ring.disconnected(address(member), self.now),
                230 => {
                    let [word, number, count] = tape.array();
                    for more in 0..=count {
                        self.events += 1;
                        let group = group(number.wrapping_add(more));
                        let head = [11, 1, word % 5, group.kind, 0, 0, 0, 0];
                        self.hear(member, &[&head[..], &group.address].concat());
                    }
                }
                231 => {
                    let [flags, hops, number, origin, nth, count, form] = tape.array();
                    for more in 0..=count {
                        self.events += 1;
                        let (of_group, of_number) = if form & 2 == 0 { (0, more) } else { (more, 0) };
                        let group = group(number.wrapping_add(of_group));
                        let nth = u64::from(nth) + u64::from(of_number);
                        self.hear(member, &datagram([flags & 3, hops], group, (origin, nth), form & 1 == 0));
                    }
                }
                232 => {
                    let [number, count] = tape.array();
                    (0..=count).for_each(|more| {
                        self.ring.join_group(group(number.wrapping_add(more)), self.now);
                    });
                }
                233 => self.ring.leave_group(&group(tape.u8())),
                234 => {
                    let [number, count] = tape.array();
                    for more in 0..=count {
                        self.events += 1;
                        self.ring.multicast(group(number.wrapping_add(more)), b"frame", self.now);
                        self.drain(None);
                    }
                }
                240 => self.hear(member, &[7, 0, 0, 0]),
                241 => {
                    let seen = [&[8, 0, 0, 0, 4][..], &tape.array::<6>()].concat();
                    self.hear(member, &seen);
                }
                242 => {
                    let ask = [&[9, 0, 0, 0][..], &self.somebody(tape).0, &[0; 8]].concat();
                    self.hear(member, &ask);
                }
                243 => {
                    let status = tape.u8() % 5;
                    let head = [&[10, status, 0, 0][..], &tape.array::<4>(), &self.somebody(tape).0].concat();
                    self.hear(member, &[&head[..], &tape.array::<4>()].concat());
                }
                244 => {
                    let by = address(tape.u8());
                    self.ring.relayed(address(member), by, self.now);
                }
                245 => self.ring.moved(address(member), place(tape.u8()), self.now),
                246 => self.ring.detour(address(member), self.now),
                247 => self.ring.set_relaying(tape.u8() & 1 == 0),
                reason => self.hear(member, &[5, reason % 5, 0, 0]),
            },
            _ => self.own_act(member, tape),
        }
        self.drain(None);
        self.check();
    }

    fn connect(&mut self, member: u8) {
        if !self.ring.is_connected(address(member)) {
            self.accounts[usize::from(member)].granted += CREDIT;
        }
        self.ring.connected(key(member), Endpoint::Udp(place(member)), self.now);
    }

    fn hear(&mut self, from: u8, message: &[u8]) {
        self.drain(None);
        self.accounts[usize::from(from)].granted += message.len();
        self.heard = message.to_vec();
        self.ring.handle_message(address(from), message, self.now);
        self.drain(Some(from));
    }

    /// A list of neighbours: members, and nodes that are nearer to this one than any.
    fn neighbours(&mut self, member: u8, tape: &mut Tape<'_>) {
        let [flags, count] = tape.array();
        let mut list = vec![3, flags & 1, count & 15, 0];
        list.extend(tape.bytes(16));
        list.resize(20, 0);
        for _ in 0..count & 15 {
            list.extend(self.somebody(tape).0);
        }
        self.hear(member, &list);
    }

    fn somebody(&self, tape: &mut Tape<'_>) -> NodeAddress {
        match tape.u8() {
            member @ ..=MEMBERS => address(member),
            OWN => self.ring.address(),
            other => {
                // The less, the nearer.
                let mut near = self.ring.address();
                let [high, low] = tape.array();
                near.0[17] ^= other & high & 0x3f;
                near.0[18] ^= low;
                near
            }
        }
    }

    /// Any routed message, of any member's or of a node that is nobody.
    fn routed(&mut self, member: u8, tape: &mut Tape<'_>) {
        let [form, hops, more] = tape.array();
        let more = if more < 128 { u16::from(more) } else { u16::from(more) << 8 };
        let (hops, most) = (u16::from(hops), u16::from(hops).saturating_add(more));
        let ends = [self.somebody(tape), self.somebody(tape), self.somebody(tape)];
        let payload = match tape.u8() % 7 {
            0 => tape.bytes(40).to_vec(),
            1 => [&[tape.u8() % 6, 0, 0, hops as u8][..], &tape.array::<8>()].concat(),
            3 => {
                let [kind, last, source, since] = tape.array();
                let mut claim = vec![kind % 7, 0, 0, 0, 0, 0, 0, 0];
                claim.extend(Ipv4Addr::new(10, 128, 0, last).to_ipv6_mapped().octets());
                claim.extend(key(source));
                claim.extend(u64::from(since).to_be_bytes());
                claim
            }
            4 => {
                let mut ask = [&[0, tape.u8(), 0, 0][..], &tape.array::<8>()].concat();
                ask.resize(SURVEY_LEN, 0);
                ask
            }
            5 => {
                let [page, total, count] = tape.array();
                let mut survey =
                    [&[1, page, 0, total][..], &tape.array::<8>(), &[1; 14], &[count % 40, 0]].concat();
                for number in 0..count % 40 {
                    survey.extend(address(number).0);
                    survey.extend([number % 70, 1]);
                }
                survey
            }
            6 => self.about_records(tape),
            _ => {
                let source = tape.u8();
                let token = tape.array();
                connect(tape.u8() & 1, tape.u8() & 63, token, source, tape)
            }
        };
        self.hear(member, &message(form, hops, most, &ends, &payload));
    }

    /// A message about records: any, or one that fits the last question.
    fn about_records(&self, tape: &mut Tape<'_>) -> Vec<u8> {
        let [what, replica, argument, count] = tape.array();
        let mut out = vec![what % 9, replica % 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, replica];
        if let (Some(([_, asked], token)), true) = (&self.asked, argument & 128 != 0) {
            out[1] = *asked;
            out[4..12].copy_from_slice(token);
        }
        match what % 9 {
            1 | 7 | 8 => out.extend(self.record(tape)),
            4 if count & 1 == 0 => out.extend(self.record(tape)),
            2 => {
                out[3] = argument & 3;
                let key = Key::of_name(&name(count)).map(|key| key.0.0);
                out.extend(key.into_iter().flatten());
                out.push(count >> 7);
                out.resize(out.len() + usize::from(argument & 0x7f) * 8, 0);
            }
            5 => out[3] = argument & 7,
            6 => {
                let count = count % 5;
                out[3] = argument & 3;
                out.extend([0, count.saturating_add(argument & 1), count, 0]);
                (0..count).for_each(|_| out.extend(self.record(tape)));
            }
            _ => {}
        }
        out
    }

    /// A record that its owner has signed, as a rule.
    fn record(&self, tape: &mut Tape<'_>) -> Vec<u8> {
        let [owner, number, form, slot, created, life, sequence, len] = tape.array();
        let signer = signer(if owner == OWN { OWN } else { owner & 7 });
        let is_create = form & 1;
        let mut head = vec![1, is_create | (form & 2) << 6, 0, if is_create == 1 { 0 } else { slot }];
        head.extend(Key::of_name(&name(number)).map(|key| key.0.0).into_iter().flatten());
        head.extend(signer.public_key());
        let created = WALL + u64::from(created) * 4 - 500;
        head.extend(created.to_be_bytes());
        head.extend((created + u64::from(life) * 8).to_be_bytes());
        head.extend(((WALL + u64::from(sequence)) * 1000).to_be_bytes());
        let len = if form & 2 != 0 { 0 } else { len };
        head.extend([0, len, 0, 0]);
        let value = vec![number; usize::from(len)];
        let mut signature = signer.sign(&[b"ipop record v1", &head[..], &value].concat());
        signature[0] ^= u8::from(form >> 5 == 7);
        [&head[..], &signature, &value].concat()
    }

    /// An answer to the last request, in the name of one of the members.
    fn answer(&mut self, member: u8, tape: &mut Tape<'_>) {
        let Some(token) = self.request else { return };
        let source = tape.u8();
        let payload = connect(1, tape.u8() & 63, token, source, tape);
        let ends = [address(source), self.ring.address(), address(0)];
        self.hear(member, &message(1 << 3, 0, 100, &ends, &payload));
    }

    /// What the host wants of the node.
    fn own_act(&mut self, member: u8, tape: &mut Tape<'_>) {
        let (to, now) = (address(member), self.now);
        match tape.u8() % 17 {
            16 => self.ring.set_clock(WALL * 1000, self.started),
            12 => drop(self.ring.get(&name(tape.u8()), kind(tape.u8()), now)),
            13 => drop(self.ring.remove(&name(tape.u8()), kind(tape.u8()), 0, now)),
            what @ (14 | 15) => {
                let [number, slot, len, ttl] = tape.array();
                let (value, ttl) = (vec![slot; usize::from(len & 63)], u64::from(ttl));
                let (name, keep) = (name(number), number & 128 != 0);
                match what {
                    14 => drop(self.ring.create(&name, &value, ttl, keep, now)),
                    _ => drop(self.ring.put(&name, u16::from(slot), &value, ttl, keep, now)),
                }
            }
            0 => self.ring.echo(to, tape.u64(), now),
            9 => self.ring.trace(to, tape.u64(), tape.u16(), now),
            10 => self.ring.survey(to, tape.u64(), tape.u8(), now),
            11 => assert!(self.ring.broadcast(tape.bytes(40), now), "it is short enough"),
            1 => {
                let len = usize::from(tape.u16());
                self.ring.carry(to, &vec![9; len], now);
            }
            2 => self.ring.carry(to, &[&[TYPE_TRANSPORT], tape.bytes(8)].concat(), now),
            3 => (0..=tape.u8()).for_each(|_| self.ring.demand(to, now)),
            4 => self.ring.add_contact(key(member), vec![place(member)], tape.u8() & 1 == 0, now),
            5 => self.ring.set_endpoints((0..tape.u8()).map(place).collect()),
            6 => self.ring.leave(),
            7 => self.ring.look_up(virtual_address(tape.u8()), now),
            _ => self.ring.claim(vec![virtual_address(tape.u8()), virtual_address(tape.u8())], 5, now),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.ring.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let mut rounds = 0;
            while self.ring.poll_timeout().is_some_and(|due| due <= self.now) {
                rounds += 1;
                assert!(rounds <= ROUNDS_MAX, "it is due again and again");
                self.ring.handle_timeout(self.now);
                self.drain(None);
            }
        }
        self.now = end;
    }

    /// Takes what the node says, because of a member or by itself.
    fn drain(&mut self, because_of: Option<u8>) {
        let mut outputs = 0;
        let mut copied = BTreeSet::new();
        while let Some(output) = self.ring.poll_output() {
            outputs += 1;
            assert!(outputs <= OUTPUTS_MAX, "it goes on and on");
            match output {
                Output::Send { to, message } => {
                    assert_ne!(to, self.ring.address());
                    if message[0] == DATAGRAM && because_of.is_some() {
                        assert!(copied.insert(to), "a connection carries a datagram twice");
                        assert_ne!(Some(to), because_of.map(address), "it goes back");
                        assert_eq!(message[3], self.heard[3] + 1, "hops");
                        assert_eq!(message[4..], self.heard[4..], "it was changed");
                        assert!(message[2] >= self.heard[2], "it went down, and goes up");
                    }
                    self.sent(to, &message, because_of);
                }
                Output::Link { public_key, places } => {
                    assert_ne!(public_key, key(OWN), "it wants a connection to itself");
                    assert!(places.len() <= ipop_overlay::ring::ENDPOINTS_MAX);
                }
                Output::Move { address, .. } => assert_ne!(address, self.ring.address()),
                Output::Relay { label, ends: [a, b] } => {
                    assert!(self.relayed.insert(label), "a label that is in use");
                    assert!(a != b && self.ring.is_connected(a) && self.ring.is_connected(b));
                }
                Output::Unrelay { label } => assert!(self.relayed.remove(&label), "a label of nobody"),
                Output::Unlink { address } => assert_ne!(address, self.ring.address()),
                Output::Carried { from, .. } | Output::Echoed { from, .. } | Output::Traced { from, .. } => {
                    assert_ne!(from, self.ring.address());
                }
                Output::Surveyed { from, page, .. } => {
                    assert_ne!(from, self.ring.address());
                    assert!(page.connections.len() <= SURVEY_PAGE);
                }
                Output::Broadcast { from, text } => {
                    assert_ne!(from, self.ring.address());
                    assert!(text.len() <= BROADCAST_MAX);
                }
                // Who claims an address may say anything.
                Output::Found { .. } => {}
                Output::Multicast { origin, frame, .. } => {
                    assert_ne!(origin, key(OWN));
                    assert!(frame.len() <= FRAME_MAX);
                }
                Output::Taken { by, .. } => assert_ne!(by, key(OWN), "this node's own claim"),
                Output::Dht(event) => told(&event),
            }
        }
    }

    fn sent(&mut self, to: NodeAddress, message: &[u8], because_of: Option<u8>) {
        assert!(message.len() <= MESSAGE_MAX, "{} bytes", message.len());
        let is_answer = match *message {
            [2, flags, ..] => flags & 2 != 0,
            [3 | 5 | 7 | 9, ..] => false,
            // What goes to those that have joined is on nobody's account: there are rates for it.
            [DATAGRAM, ..] => return,
            [11, _, 0, ..] => false,
            // To who has sent what is not for this node to hear.
            [11, _, 1, ..] => because_of.map(address) == Some(to) && self.heard.first() == Some(&DATAGRAM),
            [11, ..] => true,
            // Told upon a question, or when the other has moved.
            [8, ..] if because_of.is_none() => false,
            [8 | 10, ..] => true,
            [4, form, hops_high, hops_low, most_high, most_low, ..] => {
                let hops = u16::from_be_bytes([hops_high, hops_low]);
                assert!(hops < u16::from_be_bytes([most_high, most_low]), "it has gone too far");
                let payload = if form & 0x80 == 0 { 48 } else { 68 };
                let is_own = message[8..28] == self.ring.address().0;
                let (kind, first) = (form >> 3 & 7, message.get(payload).copied().unwrap_or(0));
                let answers = match kind {
                    4 => first >= 3,
                    2 => matches!(first, 1 | 3 | 4),
                    6 => false,
                    7 => matches!(first, 3..=6),
                    _ => first == 1,
                };
                if is_own && kind == 7 && matches!(first, 1 | 2 | 7) {
                    self.asked = Some(([first, message[payload + 1]], message[payload + 4..][..8].to_vec()));
                }
                if is_own && kind == 1 && !answers {
                    self.request = message[payload + 4..].first_chunk().copied();
                }
                !is_own || kind != 3 && answers
            }
            _ => panic!("it sends what is no message: {message:02x?}"),
        };
        if is_answer {
            let member = because_of.expect("an answer to nobody");
            self.accounts[usize::from(member)].answered += message.len();
        } else {
            self.own += message.len();
        }
    }

    fn check(&self) {
        for size in self.ring.sizes() {
            assert!(size.len <= size.most, "{}: {} of {}", size.table, size.len, size.most);
        }
        for Account { granted, answered } in self.accounts {
            assert!(answered <= granted, "{answered} bytes for {granted}");
        }
        let seconds = self.now.since(self.started).as_secs() as usize + 1;
        let most = self.events * OWN_PER_EVENT + seconds * OWN_PER_SECOND;
        assert!(self.own <= most, "{} bytes by itself in {seconds} s, {} events", self.own, self.events);
        let [up, down] = self.ring.nearest();
        assert!(up.iter().chain(&down).all(|address| self.ring.is_connected(*address)));
    }
}

fn kind(number: u8) -> Kind {
    if number & 1 == 0 { Kind::Put } else { Kind::Create }
}

/// What is told of records is signed, of the name that was asked for, and not too much.
fn told(event: &dht::Event) {
    let is_right = |key: Key, record: &dht::Record| {
        record.key == key && record.value.len() <= dht::VALUE_MAX && !record.removed
    };
    match event {
        dht::Event::Got { key, records, votes, answers, .. } => {
            assert!(*votes <= dht::REPLICAS && *answers <= dht::REPLICAS);
            assert!(records.iter().all(|record| is_right(*key, record)));
            let creates = records.iter().filter(|record| record.kind == Kind::Create).count();
            assert!(creates <= 1, "two have created the same");
        }
        dht::Event::Refused { key, standing: Some(standing), .. }
        | dht::Event::Lost { key, standing: Some(standing) } => assert_eq!(standing.key, *key),
        dht::Event::Stored { .. }
        | dht::Event::Failed { .. }
        | dht::Event::Refused { standing: None, .. }
        | dht::Event::Lost { standing: None, .. } => {}
    }
}

/// Type of a datagram for a group.
const DATAGRAM: u8 = 12;

fn group(number: u8) -> Group {
    Group { kind: 1, address: [number; 16] }
}

/// A datagram with this number of an origin, and its signature, unless it has none.
fn datagram([flags, hops]: [u8; 2], group: Group, (origin, number): (u8, u64), is_signed: bool) -> Vec<u8> {
    let (signer, number) = (signer(origin), number.to_be_bytes());
    let frame = b"frame";
    let mut message = vec![DATAGRAM, 1, flags, hops, 0, frame.len() as u8, 0, group.kind];
    message.extend(group.address);
    message.extend(signer.public_key());
    message.extend(number);
    let signed = [b"ipop multicast v1", &[group.kind][..], &group.address, &number, frame].concat();
    message.extend(if is_signed { signer.sign(&signed) } else { [7; 64] });
    message.extend(frame);
    message
}

fn place(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 15_000).into()
}

fn message(form: u8, hops: u16, most: u16, ends: &[NodeAddress; 3], payload: &[u8]) -> Vec<u8> {
    let mut message = vec![4, form];
    [hops, most, payload.len() as u16].iter().for_each(|number| message.extend(number.to_be_bytes()));
    let ends = if form & 0x80 == 0 { &ends[..2] } else { &ends[..] };
    ends.iter().for_each(|end| message.extend(end.0));
    message.extend(payload);
    message
}

/// A request or an answer with the key of a member.
fn connect(flags: u8, role: u8, token: [u8; 8], member: u8, tape: &mut Tape<'_>) -> Vec<u8> {
    let mut payload = vec![flags, role, flags >> 6, 0];
    payload.extend(token);
    payload.extend(key(member));
    let via = tape.u8();
    payload.push(u8::from(via & 1 != 0));
    payload.extend(if via & 1 != 0 { address(via).0 } else { [0; 20] });
    let [endpoints, neighbours] = tape.array::<2>().map(|count| count & 15);
    let relays = via >> 1 & 7;
    payload.extend([endpoints, neighbours, relays]);
    for number in 0..endpoints {
        payload.extend([4, 192, 0, 2, number, 0x3a, 0x98]);
    }
    for number in 0..neighbours {
        payload.extend(address(number).0);
        payload.extend(tape.array::<12>());
    }
    (0..relays).for_each(|number| payload.extend(address(number).0));
    payload
}
